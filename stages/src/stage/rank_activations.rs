//! The part of a rank analysis that looks at data: utilized ranks of all layers of a classifier, and local ranks.

use std::{cell::RefCell, collections::BTreeMap, fmt::Write as _};

use burn::tensor::{Device, Tensor};
use camino::Utf8Path;
use faer::Mat;
use schemars::JsonSchema;
use sepia_engine::stage::{Progress, StageContext, StageError};
use serde::{Deserialize, Serialize};

use crate::{
    data::{ImageBatch, ImageFolder},
    factor,
    linalg::{
        host::{to_device, to_host},
        svd::LinalgError,
    },
    metric::{
        jacobian::{jacobian, numerical_rank},
        local::{LinearLayer, LocalTolerance, local_rank},
        utilized::{InputGram, UtilizedRank},
    },
    model::vision::{Architecture, Form, Layer, Pass, VisionModel, load_vision},
    train::vision::{Scores, classify, fits_data},
};

/// Gram matrices that are held at a time hold at most so many values (256 MiB).
const MAX_VALUES: usize = 1 << 25;
/// Images in a forward pass.
const BATCH_SIZE: usize = 64;

/// How activations are measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ActivationParams {
    /// Training images that are looked at, from the first on.
    pub images: usize,
    /// Share of the energy of a layer's inputs that counts as used, above 0 and at most 1; 1 leaves the layer's outputs
    /// on these images as they are.
    pub input_energy: f64,
    /// The same of its outputs.
    pub output_energy: f64,
    /// Searches for each layer the lowest energy, of inputs and outputs alike, at which the accuracy on validation images (as
    /// many as `images`) is lower by at most this, with the other layers as they are; in place of the two energies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_drop: Option<f64>,
    /// Images at which local ranks are measured.
    pub local_images: usize,
    /// Layers whose local rank is measured, by name or pattern. When left out: all layers of an MLP, whose Jacobians are
    /// products of its weights, and none of another network, where each unit of a layer takes a backward pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_layers: Option<Vec<String>>,
    /// Singular values of a Jacobian count above this part of the largest.
    pub local_tolerance: f64,
}

impl Default for ActivationParams {
    fn default() -> Self {
        Self {
            images: 512,
            input_energy: 0.99,
            output_energy: 0.99,
            accuracy_drop: None,
            local_images: 32,
            local_layers: None,
            local_tolerance: 1e-3,
        }
    }
}

/// `activations.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Activations {
    /// Images that were looked at.
    pub images: usize,
    /// By the order of the layers.
    pub layers: Vec<LayerActivations>,
}

/// One layer of `activations.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerActivations {
    /// Its path.
    pub layer: String,
    /// Rows and columns of its weight.
    pub matrix: [usize; 2],
    /// The energy that a search found.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub energy: Option<f64>,
    /// What the data uses of it.
    #[serde(flatten)]
    pub utilized: UtilizedRank,
    /// Mean rank of the Jacobian of its pre-activations with respect to the image, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub local_rank: Option<f64>,
}

/// Measures a classifier on images, and writes `activations.json` and `activations.tsv` into the folder.
///
/// # Errors
/// When the model is no classifier, does not fit the data, or holds NaN or infinity.
pub(super) fn measure(
    model: &Utf8Path,
    data: &Utf8Path,
    folder: &Utf8Path,
    params: &ActivationParams,
    ctx: &mut StageContext<'_>,
) -> Result<(), StageError> {
    let device = Device::flex();
    let model = load_vision(model, &device)?;
    let data = ImageFolder::open(data)?;
    fits_data(model.config(), &data.meta)?;
    let train = data.train()?;
    let images: Vec<usize> = (0..params.images.min(train.len())).collect();
    let batches: Vec<ImageBatch> =
        images.chunks(BATCH_SIZE).map(|indices| ImageBatch::new(&train, &data.meta, indices, None, &device)).collect();
    let search = match params.accuracy_drop {
        Some(drop) => Some(Search::new(&model, &data, drop, params.images)?),
        None => None,
    };
    let mut found = Vec::new();
    for group in groups(&model) {
        found.extend(utilized(&model, &group, &batches, (params, search.as_ref()))?);
        let (done, total) = (found.len() as u64, model.layers().len() as u64);
        ctx.progress(&Progress { done, total, unit: "layer".to_owned(), figures: Vec::new() });
        ctx.stop_if_asked()?;
    }
    let local = local_ranks(&model, &batches, params, ctx)?;
    for layer in &mut found {
        layer.local_rank = local.get(&layer.layer).copied();
    }
    let count = found.len().max(1) as f64;
    let utilization = found.iter().map(|layer| layer.utilized.utilization).sum::<f64>() / count;
    ctx.result("mean_utilization", utilization)?;
    let activations = Activations { images: images.len(), layers: found };
    fs_err::write(folder.join("activations.tsv"), tsv(&activations.layers))?;
    let json = serde_json::to_string_pretty(&activations).map_err(std::io::Error::other)?;
    fs_err::write(folder.join("activations.json"), json + "\n")?;
    Ok(())
}

/// Layers whose Gram matrices are made in one pass over the images.
fn groups(model: &VisionModel) -> Vec<Vec<&Layer>> {
    let mut groups: Vec<Vec<&Layer>> = Vec::new();
    let mut values = usize::MAX;
    for layer in model.layers() {
        let size = layer.geometry.matrix(Form::Channel)[1].pow(2);
        if values.saturating_add(size) > MAX_VALUES {
            groups.push(Vec::new());
            values = 0;
        }
        values += size;
        if let Some(group) = groups.last_mut() {
            group.push(layer);
        }
    }
    groups
}

fn utilized(
    model: &VisionModel,
    layers: &[&Layer],
    batches: &[ImageBatch],
    (params, search): (&ActivationParams, Option<&Search<'_>>),
) -> Result<Vec<LayerActivations>, StageError> {
    let inputs = |layer: &&Layer| (layer.path.clone(), InputGram::new(layer.geometry.matrix(Form::Channel)[1]));
    let grams: RefCell<BTreeMap<String, InputGram>> = RefCell::new(layers.iter().map(inputs).collect());
    let failed: RefCell<Option<LinalgError>> = RefCell::new(None);
    for batch in batches {
        let mut watch = |path: &str, seen: &crate::model::vision::Seen<'_>| {
            if let Some(gram) = grams.borrow_mut().get_mut(path)
                && let Err(error) = gram.see(seen)
            {
                failed.borrow_mut().get_or_insert(error);
            }
        };
        drop(model.forward(batch.images.clone(), &mut Pass::eval().watched(&mut watch)));
    }
    if let Some(error) = failed.into_inner() {
        return Err(StageError::new(format!("activations cannot be measured: {error}")));
    }
    let grams = grams.into_inner();
    let mut found = Vec::with_capacity(layers.len());
    for layer in layers {
        let Some(gram) = grams.get(&layer.path) else { continue };
        let wrong =
            |error: LinalgError| StageError::new(format!("the layer `{}` cannot be measured: {error}", layer.path));
        let weight = to_host(&layer.matrix(Form::Channel)).map_err(wrong)?;
        let energy = match search {
            Some(search) => {
                Some(search.energy(&layer.path, |energy| gram.project(&weight, energy, energy).map_err(wrong))?)
            }
            None => None,
        };
        let (input, output) = (energy.unwrap_or(params.input_energy), energy.unwrap_or(params.output_energy));
        let utilized = gram.utilized(&weight, input, output).map_err(wrong)?;
        let matrix = layer.geometry.matrix(Form::Channel);
        found.push(LayerActivations { layer: layer.path.clone(), matrix, energy, utilized, local_rank: None });
    }
    Ok(found)
}

/// Halvings of a search: energies to 1/256.
const HALVINGS: usize = 8;

/// Looks for the lowest energy at which a model is still accurate.
struct Search<'a> {
    model: &'a VisionModel,
    validation: Vec<ImageBatch>,
    least: f64,
}

impl<'a> Search<'a> {
    fn new(model: &'a VisionModel, data: &ImageFolder, drop: f64, images: usize) -> Result<Self, StageError> {
        let split = data.validation()?;
        // Evenly over the split: files are often sorted by class.
        let count = images.min(split.len());
        let order: Vec<usize> = (0..count).map(|index| index * split.len() / count.max(1)).collect();
        let batch = |indices: &[usize]| ImageBatch::new(&split, &data.meta, indices, None, &Device::flex());
        let validation = order.chunks(BATCH_SIZE).map(batch).collect();
        let mut search = Self { model, validation, least: 0.0 };
        search.least = search.accuracy(model) - drop;
        Ok(search)
    }

    fn accuracy(&self, model: &VisionModel) -> f64 {
        let mut found = Scores::default();
        self.validation.iter().for_each(|batch| found.add(classify(model, batch)));
        found.accuracy()
    }

    /// For one layer. `project` gives what is left of its weight at an energy.
    fn energy(&self, path: &str, project: impl Fn(f64) -> Result<Mat<f64>, StageError>) -> Result<f64, StageError> {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..HALVINGS {
            let energy = f64::midpoint(low, high);
            let mut model = self.model.clone();
            let layer = model.layer_mut(path)?;
            let dense = layer.dense();
            let matrix = to_device(&project(energy)?, &dense.device(), dense.dtype());
            layer.set_matrix(Form::Channel, matrix);
            if self.accuracy(&model) >= self.least - 1e-12 { high = energy } else { low = energy }
        }
        Ok(high)
    }
}

/// Local ranks of the layers that were asked for, by path.
fn local_ranks(
    model: &VisionModel,
    batches: &[ImageBatch],
    params: &ActivationParams,
    ctx: &mut StageContext<'_>,
) -> Result<BTreeMap<String, f64>, StageError> {
    let is_mlp = model.config().model.name == Architecture::Mlp;
    if params.local_layers.is_none() && !is_mlp {
        return Ok(BTreeMap::new());
    }
    let layers = model.layers();
    let names: Vec<&str> = layers.iter().map(|layer| layer.path.as_str()).collect();
    let chosen = factor::chosen_names(&names, params.local_layers.as_deref(), "activations.local_layers")?;
    let mut found = BTreeMap::new();
    if is_mlp {
        let ranks = local_ranks_of_mlp(model, batches, params)?;
        found.extend(chosen.into_iter().map(|index| (names[index].to_owned(), ranks[index])));
        return Ok(found);
    }
    let tolerance = LocalTolerance::Relative(params.local_tolerance);
    let each = |batch: &ImageBatch| {
        let images = batch.images.clone();
        (0..images.dims()[0]).map(move |index| images.clone().narrow(0, index, 1)).collect::<Vec<_>>()
    };
    let images: Vec<Tensor<4>> = batches.iter().flat_map(each).take(params.local_images).collect();
    let total = (chosen.len() * images.len()) as u64;
    for index in chosen {
        let mut sum = 0;
        for (image, before) in images.iter().zip(0..) {
            sum += numerical_rank(&jacobian(model, names[index], image)?, tolerance)?;
            let done = (found.len() * images.len()) as u64 + before + 1;
            ctx.progress(&Progress { done, total, unit: "Jacobian".to_owned(), figures: Vec::new() });
            ctx.stop_if_asked()?;
        }
        found.insert(names[index].to_owned(), sum as f64 / images.len().max(1) as f64);
    }
    Ok(found)
}

/// Of all layers, in their order.
fn local_ranks_of_mlp(
    model: &VisionModel,
    batches: &[ImageBatch],
    params: &ActivationParams,
) -> Result<Vec<f64>, StageError> {
    let wrong = |error: LinalgError| StageError::new(format!("local ranks cannot be measured: {error}"));
    let mut layers = Vec::new();
    for layer in model.layers() {
        let weight = to_host(&layer.dense()).map_err(wrong)?;
        let bias = layer.bias.as_ref().map(|bias| bias.to_data().convert::<f64>());
        let bias = bias.and_then(|data| data.as_slice::<f64>().map(<[f64]>::to_vec).ok()).unwrap_or_default();
        layers.push(LinearLayer { weight, bias });
    }
    let mut inputs = Vec::new();
    for batch in batches {
        let rows = to_host(&batch.images.clone().flatten(1, 3)).map_err(wrong)?;
        inputs.extend((0..rows.nrows()).map(|row| rows.row(row).iter().copied().collect::<Vec<f64>>()));
    }
    inputs.truncate(params.local_images);
    local_rank(&layers, &inputs, LocalTolerance::Relative(params.local_tolerance)).map_err(wrong)
}

fn tsv(layers: &[LayerActivations]) -> String {
    let mut text = "layer\tmatrix\tinput_rank\toutput_rank\tutilized_rank\tutilization\tlocal_rank\n".to_owned();
    for layer in layers {
        let [m, n] = layer.matrix;
        let UtilizedRank { input_rank, output_rank, utilized_rank, utilization, .. } = &layer.utilized;
        let local = layer.local_rank.map_or_else(String::new, |rank| rank.to_string());
        let path = &layer.layer;
        let _ = writeln!(text, "{path}\t{m}x{n}\t{input_rank}\t{output_rank}\t{utilized_rank}\t{utilization}\t{local}");
    }
    text
}
