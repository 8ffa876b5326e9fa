//! A whole classifier.

use burn::tensor::{Device, Tensor, TensorData};
use sepia_engine::stage::StageError;

use super::{
    build::{Builder, Draw},
    config::{Architecture, VisionConfig},
    layer::Layer,
    node::{self, Flow, Node, Size},
    norm::{BATCH_NORM_MOMENTUM, BatchNorm},
    parameter::{Kind, Parameter, Value, collect},
    pass::Pass,
    plain, resnet, vgg, vit,
};
use crate::random::Rng;

/// A classifier of images. Cloning shares the values until one of the two changes them.
#[derive(Debug, Clone)]
pub struct VisionModel {
    config: VisionConfig,
    nodes: Vec<Node>,
}

impl VisionModel {
    /// A model with initial weights, every one drawn from the seed of its name alone. Convolutions and linear layers in
    /// front of a ReLU are normal with variance `2 / fan_in`, classifiers `1 / (3 fan_in)`, a transformer's matrices have
    /// the deviation 0.02; biases are 0, gains 1.
    #[must_use]
    pub fn new(config: VisionConfig, seed_of: impl Fn(&str) -> u64, device: &Device) -> Self {
        Self::build(config, &|name, count, std| Rng::new(seed_of(name)).normal(count, std), device)
    }

    /// A model whose weights are to be read from a file.
    pub(super) fn zeros(config: VisionConfig, device: &Device) -> Self {
        Self::build(config, &|_, count, _| vec![0.0; count], device)
    }

    fn build(config: VisionConfig, draw: &Draw<'_>, device: &Device) -> Self {
        let build = Builder { draw, device };
        let nodes = match config.model.name {
            Architecture::Mlp => plain::mlp(&config, &build),
            Architecture::Lenet => plain::lenet(&config, &build),
            Architecture::Resnet18 | Architecture::Resnet20 | Architecture::Resnet32 | Architecture::Resnet50 => {
                resnet::resnet(&config, &build)
            }
            Architecture::Vgg16 | Architecture::Vgg19 => vgg::vgg(&config, &build),
            Architecture::Vit => vit::vit(&config, &build),
        };
        Self { config, nodes }
    }

    /// Its sizes.
    #[must_use]
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Images `[batch, channels, h, w]` to logits `[batch, classes]`.
    #[must_use]
    pub fn forward(&self, images: Tensor<4>, pass: &mut Pass<'_>) -> Tensor<2> {
        node::forward(&self.nodes, Flow::Maps(images), pass).into_rows()
    }

    /// All linear layers and convolutions, in the order in which an image passes them (those beside a block after it).
    #[must_use]
    pub fn layers(&self) -> Vec<&Layer> {
        fn add<'a>(nodes: &'a [Node], found: &mut Vec<&'a Layer>) {
            for node in nodes {
                match node {
                    Node::Layer(layer) => found.push(layer),
                    Node::Residual { body, shortcut } => {
                        add(body, found);
                        add(shortcut, found);
                    }
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        add(&self.nodes, &mut found);
        found
    }

    /// The same, to be changed.
    pub fn layers_mut(&mut self) -> Vec<&mut Layer> {
        fn add<'a>(nodes: &'a mut [Node], found: &mut Vec<&'a mut Layer>) {
            for node in nodes {
                match node {
                    Node::Layer(layer) => found.push(layer),
                    Node::Residual { body, shortcut } => {
                        add(body, found);
                        add(shortcut, found);
                    }
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        add(&mut self.nodes, &mut found);
        found
    }

    /// The layer at a path.
    ///
    /// # Errors
    /// When there is none; the help names the nearest.
    pub fn layer(&self, path: &str) -> Result<&Layer, StageError> {
        let layers = self.layers();
        let found = layers.iter().find(|layer| layer.path == path).copied();
        found.ok_or_else(|| no_layer(path, layers.iter().map(|layer| layer.path.as_str())))
    }

    /// The layer at a path, to be changed.
    ///
    /// # Errors
    /// When there is none; the help names the nearest.
    pub fn layer_mut(&mut self, path: &str) -> Result<&mut Layer, StageError> {
        self.layer(path)?;
        let found = self.layers_mut().into_iter().find(|layer| layer.path == path);
        found.ok_or_else(|| no_layer(path, std::iter::empty()))
    }

    /// All BatchNorms, those between factors included.
    pub fn batch_norms_mut(&mut self) -> Vec<&mut BatchNorm> {
        fn add<'a>(nodes: &'a mut [Node], found: &mut Vec<&'a mut BatchNorm>) {
            for node in nodes {
                match node {
                    Node::BatchNorm(norm) => found.push(norm),
                    Node::Layer(layer) => {
                        if let super::layer::Weight::Factored(factors) = &mut layer.weight {
                            found.extend(factors.norm.as_mut());
                        }
                    }
                    Node::Residual { body, shortcut } => {
                        add(body, found);
                        add(shortcut, found);
                    }
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        add(&mut self.nodes, &mut found);
        found
    }

    /// All values by name.
    pub fn parameters_mut(&mut self) -> Vec<Parameter<'_>> {
        let mut found = Vec::new();
        collect(&mut self.nodes, &mut found);
        found
    }

    /// Every value's name, kind and numbers, with the shape that it has in files.
    #[must_use]
    pub fn named_values(&self) -> Vec<(String, Kind, TensorData)> {
        let mut copy = self.clone();
        copy.parameters_mut().into_iter().map(|each| (each.name.clone(), each.kind, each.data())).collect()
    }

    /// A copy whose trained values are leaves of a new tape.
    #[must_use]
    pub fn tracked(&self) -> Self {
        self.on_tape(|parameter| parameter.is_trained())
    }

    /// A copy for gradients with respect to its images: on a tape, but none of its values a leaf.
    #[must_use]
    pub fn as_constants(&self) -> Self {
        self.on_tape(|_| false)
    }

    fn on_tape(&self, leaf: impl Fn(&Parameter<'_>) -> bool) -> Self {
        let mut copy = self.clone();
        for parameter in copy.parameters_mut() {
            let trained = leaf(&parameter);
            match parameter.value {
                Value::Matrix(tensor) => *tensor = Tensor::from_inner(tensor.clone()).set_require_grad(trained),
                Value::Vector(tensor) => *tensor = Tensor::from_inner(tensor.clone()).set_require_grad(trained),
            }
        }
        copy
    }

    /// Moves every BatchNorm's running statistics towards those that a pass in training mode brought back: by 0.1, as
    /// torch does.
    pub fn learn_statistics(&mut self, pass: &Pass<'_>) {
        self.mix_statistics(pass, BATCH_NORM_MOMENTUM);
    }

    /// Takes in the statistics of a pass with this share, the running ones keep the rest. Shares of `1 / k` for the k-th
    /// of several passes make their plain mean: a recalibration.
    pub fn mix_statistics(&mut self, pass: &Pass<'_>, share: f64) {
        for norm in self.batch_norms_mut() {
            if let Some(found) = pass.statistics.get(&norm.path) {
                norm.learn(found, share);
            }
        }
    }

    /// Number of trained values.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let mut copy = self.clone();
        let trained = copy.parameters_mut().into_iter().filter(Parameter::is_trained);
        trained.map(|parameter| parameter.stored.iter().product::<usize>()).sum()
    }

    /// The same if no layer were factored.
    #[must_use]
    pub fn dense_parameters(&self) -> usize {
        let saved = |layer: &&Layer| {
            let bias = layer.bias.as_ref().map_or(0, |bias| bias.dims()[0]);
            (layer.parameters(), layer.geometry.parameters() + bias)
        };
        let layers = self.layers();
        let pairs = layers.iter().map(saved);
        let (now, dense) = pairs.fold((0, 0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        self.parameters() - now + dense
    }

    /// Multiplications for one image: of layers and of attention's two products, as the papers count them (norms,
    /// activations and additions are left out).
    #[must_use]
    pub fn macs(&self) -> u64 {
        node::macs(&self.nodes, self.image(), false).0
    }

    /// The same if no layer were factored.
    #[must_use]
    pub fn dense_macs(&self) -> u64 {
        node::macs(&self.nodes, self.image(), true).0
    }

    fn image(&self) -> Size {
        Size { channels: self.config.channels, at: self.config.image_size }
    }
}

fn no_layer<'a>(path: &str, known: impl Iterator<Item = &'a str>) -> StageError {
    let mut nearest: Vec<(f64, &str)> =
        known.map(|name| (strsim::normalized_damerau_levenshtein(path, name), name)).collect();
    nearest.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let names: Vec<String> = nearest.iter().take(3).map(|(_, name)| format!("`{name}`")).collect();
    StageError::new(format!("the model has no layer `{path}`")).help(format!(
        "the nearest of its {} are {}",
        nearest.len(),
        names.join(", ")
    ))
}
