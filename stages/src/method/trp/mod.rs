//! TRP: training that keeps the weights near low rank, so that a decomposition at the end costs little.
//!
//! Source: Xu et al., "TRP: Trained Rank Pruning for Efficient Deep Neural Networks" (IJCAI 2020), and its public code.
//! Every `period` steps each chosen layer is truncated in place, before the forward pass; it stays dense and of full size,
//! and the optimizer's buffers are left alone. The sub-gradient of the nuclear norm at the truncated weight is added to
//! its gradient.
//!
//! What the code gets wrong is not repeated here: evaluation is on truncated weights, stride and padding of factors come
//! from the layer, layers with stride are decomposed too, a decomposition that fails is an error, and a rank of 0 becomes 1.

mod hooks;

pub use hooks::TrpMethod;

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use schemars::JsonSchema;
use sepia_engine::stage::{Check, StageError};
use serde::{Deserialize, Serialize};

use crate::{
    factor::{self, Keep},
    model::vision::{Form, Layer, Role, VisionModel},
    train::State,
};

/// When the sub-gradient of the nuclear norm is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NuclearAt {
    /// At steps that truncate, as in the public code: the weight per step is `nuclear / period`.
    #[default]
    Truncation,
    /// At every step, with the sub-gradient of the last truncation.
    Step,
}

/// Trained rank pruning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrpParams {
    /// Share of the energy (squared singular values) that a truncation keeps, above 0 and at most 1.
    pub energy: f64,
    /// Steps from one truncation to the next, counted anew each epoch. 20 in the paper, 1 in the public code.
    pub period: u64,
    /// Weight of the nuclear norm where its sub-gradient is added; 0 turns it off.
    pub nuclear: f64,
    /// When it is added. The weight per step, `nuclear / period` or `nuclear`, is recorded as `nuclear_per_step`.
    pub nuclear_at: NuclearAt,
    /// How convolutions are split: `channel`, `spatial` or `decoupled`.
    pub form: Form,
    /// Which layers: names, or patterns with `*` and `?`. When left out, all convolutions but the first and those of 1x1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<String>>,
    /// What the decomposition at the end keeps: `{ value = 0.05 }`, `{ energy = 0.85 }`, ... When left out, singular values
    /// of at least 0.05, and of the decoupled form 85 % of the energy, as in the public code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_end: Option<Keep>,
}

impl Default for TrpParams {
    fn default() -> Self {
        Self {
            energy: 0.9,
            period: 20,
            nuclear: 3e-4,
            nuclear_at: NuclearAt::default(),
            form: Form::Channel,
            layers: None,
            at_end: None,
        }
    }
}

impl TrpParams {
    /// Reports what cannot work. `prefix` is the parameter's own name.
    pub fn check(&self, prefix: &str, check: &mut Check<'_>) {
        let at = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        if !(self.energy > 0.0 && self.energy <= 1.0) {
            check.problem(
                at("energy"),
                format!("{} is not a share", self.energy),
                "give a number above 0 and at most 1",
            );
        }
        if self.period == 0 {
            check.problem(at("period"), "`period` must be at least 1", "");
        }
        if !(self.nuclear >= 0.0 && self.nuclear.is_finite()) {
            check.problem(at("nuclear"), format!("`nuclear` is {}, but must be at least 0", self.nuclear), "");
        }
        let bad = match self.at_end {
            Some(Keep::Energy(share) | Keep::LinearEnergy(share)) => !(share > 0.0 && share <= 1.0),
            Some(Keep::Value(value)) => !(value > 0.0 && value.is_finite()),
            Some(Keep::Rank(rank)) => rank == 0,
            None => false,
        };
        if bad {
            check.problem(
                at("at_end"),
                "this keeps nothing, or is not a share",
                "write { value = 0.05 } or { energy = 0.9 }",
            );
        }
    }

    /// What the decomposition at the end keeps.
    #[must_use]
    pub fn at_end(&self) -> Keep {
        let usual = if self.form == Form::Decoupled { Keep::Energy(0.85) } else { Keep::Value(0.05) };
        self.at_end.unwrap_or(usual)
    }

    /// Weight of the nuclear norm in the mean step.
    #[must_use]
    pub fn nuclear_per_step(&self) -> f64 {
        match self.nuclear_at {
            NuclearAt::Truncation => self.nuclear / self.period.max(1) as f64,
            NuclearAt::Step => self.nuclear,
        }
    }
}

/// The method at work.
#[derive(Debug)]
pub struct Trp {
    params: TrpParams,
    layers: Vec<(String, Form)>,
    /// Of the last truncation, by the layer's path: `[out, in * kh * kw]`.
    subgradients: BTreeMap<String, Tensor<2>>,
    /// Ranks of the last truncation.
    ranks: BTreeMap<String, usize>,
    truncated_now: bool,
}

fn is_usual(layer: &Layer) -> bool {
    let large = layer.geometry.kernel().is_some_and(|kernel| kernel != [1, 1]);
    large && layer.role != Role::Stem && !factor::is_grouped(layer)
}

impl Trp {
    /// For a model whose layers are dense.
    ///
    /// # Errors
    /// When a layer that is asked for is not there or has no such form.
    pub fn new(params: &TrpParams, model: &VisionModel) -> Result<Self, StageError> {
        let paths: Vec<String> = match &params.layers {
            Some(patterns) => factor::chosen(model, Some(patterns), "layers")?,
            None => model.layers().iter().filter(|layer| is_usual(layer)).map(|layer| layer.path.clone()).collect(),
        };
        let mut layers = Vec::new();
        for path in paths {
            let layer = model.layer(&path)?;
            let form = factor::form_of(layer, params.form);
            layer.check(form, 1).map_err(factor::LayerError::from)?;
            if layer.is_factored() {
                return Err(StageError::new(format!("`{path}` is factored already")));
            }
            layers.push((path, form));
        }
        if layers.is_empty() {
            return Err(StageError::new("no layer of this model is a convolution that TRP truncates")
                .help("name the layers, for example layers = [\"fc*\"]")
                .param("layers"));
        }
        let (subgradients, ranks) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { params: params.clone(), layers, subgradients, ranks, truncated_now: false })
    }

    /// Before the forward pass of a step, counted from 0 in its epoch: truncates when it is due.
    ///
    /// # Errors
    /// When a weight cannot be decomposed.
    pub fn before_step(&mut self, step_in_epoch: u64, model: &mut VisionModel) -> Result<(), StageError> {
        self.truncated_now = step_in_epoch.is_multiple_of(self.params.period.max(1));
        if self.truncated_now {
            for (path, form) in &self.layers {
                let keep = Keep::Energy(self.params.energy);
                let (subgradient, rank) = factor::truncate_layer(model.layer_mut(path)?, *form, keep)?;
                self.ranks.insert(path.clone(), rank);
                if self.params.nuclear > 0.0 {
                    self.subgradients.insert(path.clone(), subgradient);
                }
            }
        }
        Ok(())
    }

    /// What is added to the gradient of a layer's weight in this step.
    #[must_use]
    pub fn penalty(&self, path: &str) -> Option<Tensor<2>> {
        let due = self.truncated_now || self.params.nuclear_at == NuclearAt::Step;
        let found = self.subgradients.get(path).filter(|_| due)?;
        Some(found.clone().mul_scalar(self.params.nuclear))
    }

    /// The layers it truncates.
    #[must_use]
    pub fn layers(&self) -> &[(String, Form)] {
        &self.layers
    }

    /// Mean rank of the last truncation.
    #[must_use]
    pub fn mean_rank(&self) -> f64 {
        self.ranks.values().sum::<usize>() as f64 / self.ranks.len().max(1) as f64
    }

    /// The model to evaluate: truncated as training truncates it.
    ///
    /// # Errors
    /// When a weight cannot be decomposed.
    pub fn evaluated(&self, mut model: VisionModel) -> Result<VisionModel, StageError> {
        for (path, form) in &self.layers {
            factor::truncate_layer(model.layer_mut(path)?, *form, Keep::Energy(self.params.energy))?;
        }
        Ok(model)
    }

    /// The model to store: every layer whose factors are smaller is decomposed, whatever its stride; the others stay
    /// dense, truncated to the same rank.
    ///
    /// # Errors
    /// When a weight cannot be decomposed.
    pub fn finished(&self, mut model: VisionModel) -> Result<VisionModel, StageError> {
        for (path, form) in &self.layers {
            let layer = model.layer_mut(path)?;
            let (_, rank) = factor::truncate_layer(layer, *form, self.params.at_end())?;
            if factor::pays(layer, *form, rank) {
                factor::factorize_layer(layer, *form, rank, false)?;
            }
        }
        Ok(model)
    }

    /// Saves what later steps depend on: the layers, and the cached sub-gradients.
    pub fn save(&self, state: &mut State) {
        for (path, form) in &self.layers {
            let rank = self.ranks.get(path).copied().unwrap_or(0);
            // Forms by their number in `FORMS`.
            let form = FORMS.iter().position(|known| known == form).unwrap_or(0);
            state.put_data(&format!("trp/layer/{path}"), TensorData::new(vec![form as f32, rank as f32], [2]));
        }
        for (path, tensor) in &self.subgradients {
            state.put_tensor(&format!("trp/subgradient/{path}"), tensor.clone());
        }
    }

    /// The run that [`save`](Self::save) saved.
    ///
    /// # Errors
    /// When a part is missing.
    pub fn load(params: &TrpParams, state: &mut State) -> Result<Self, StageError> {
        let (mut layers, mut ranks, mut subgradients) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for path in state.names("trp/layer/") {
            let name = format!("trp/layer/{path}");
            let read = state.take_data(&name)?.try_into_vec::<f32>();
            let read = read.map_err(|error| StageError::new(format!("the checkpoint's `{name}`: {error:?}")))?;
            let [form, rank] = read[..] else {
                return Err(StageError::new(format!("the checkpoint's `{name}` is damaged")));
            };
            layers.push((path.clone(), FORMS.get(form as usize).copied().unwrap_or(Form::Channel)));
            ranks.insert(path, rank as usize);
        }
        for path in state.names("trp/subgradient/") {
            subgradients.insert(path.clone(), state.take_tensor(&format!("trp/subgradient/{path}"))?);
        }
        Ok(Self { params: params.clone(), layers, subgradients, ranks, truncated_now: false })
    }
}

/// In checkpoints, forms are numbers.
const FORMS: [Form; 3] = [Form::Channel, Form::Spatial, Form::Decoupled];

#[cfg(test)]
mod tests {

    use super::*;
    use crate::{
        linalg::{host::to_host, svd::singular_values},
        model::vision::{Architecture, VisionParams},
        testing::{classifier, convolved, test_device},
    };

    fn resnet() -> VisionModel {
        classifier(VisionParams { width: Some(4), ..VisionParams::of(Architecture::Resnet20) }, 8)
    }

    fn spectrum(model: &VisionModel, path: &str) -> Vec<f64> {
        singular_values(to_host(&model.layer(path).unwrap().dense()).unwrap().as_ref()).unwrap()
    }

    #[test]
    fn all_convolutions_but_the_first_and_those_with_stride_too() {
        let trp = Trp::new(&TrpParams::default(), &resnet()).unwrap();
        let paths: Vec<&str> = trp.layers().iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths.len(), 18);
        assert!(!paths.contains(&"conv1") && !paths.contains(&"fc"));
        assert!(paths.contains(&"layer2.0.conv1"));
    }

    #[test]
    fn a_truncation_is_in_place_and_due_once_a_period() {
        let mut model = resnet();
        let before = spectrum(&model, "layer3.1.conv1");
        let mut trp = Trp::new(&TrpParams { energy: 0.5, period: 3, ..TrpParams::default() }, &model).unwrap();
        trp.before_step(1, &mut model).unwrap();
        assert_eq!(spectrum(&model, "layer3.1.conv1"), before);
        assert!(trp.penalty("layer3.1.conv1").is_none());
        trp.before_step(3, &mut model).unwrap();
        let (after, k) = (spectrum(&model, "layer3.1.conv1"), Keep::Energy(0.5).count(&before));
        assert!(k < before.len());
        for (index, (after, before)) in after.iter().zip(&before).enumerate() {
            let expected = if index < k { *before } else { 0.0 };
            assert!((after - expected).abs() < 1e-5 * before, "{index}: {after}, {expected}");
        }
        assert!(!model.layer("layer3.1.conv1").unwrap().is_factored());
        // The push is along all k directions that are left, with the weight asked for.
        let push = trp.penalty("layer3.1.conv1").unwrap();
        let values = singular_values(to_host(&push).unwrap().as_ref()).unwrap();
        assert!(values.iter().take(k).all(|s| (s - 3e-4).abs() < 1e-8) && values[k] < 1e-8, "{values:?}");
        trp.before_step(4, &mut model).unwrap();
        assert!(trp.penalty("layer3.1.conv1").is_none(), "added at truncations alone");
    }

    #[test]
    fn the_weight_of_the_nuclear_norm_per_step_is_stated() {
        let every = TrpParams { nuclear_at: NuclearAt::Step, ..TrpParams::default() };
        assert_eq!(every.nuclear_per_step(), 3e-4);
        assert!((TrpParams::default().nuclear_per_step() - 1.5e-5).abs() < 1e-12);
        let mut model = resnet();
        let mut trp = Trp::new(&every, &model).unwrap();
        trp.before_step(0, &mut model).unwrap();
        trp.before_step(1, &mut model).unwrap();
        assert!(trp.penalty("layer1.0.conv1").is_some());
    }

    #[test]
    fn the_end_computes_what_its_truncated_weights_do_in_every_form() {
        use crate::{model::vision::Pass, random::Rng};
        let values = Rng::new(2).normal(2 * 64, 1.0);
        let images = Tensor::<4>::from_data(burn::tensor::TensorData::new(values, [2, 1, 8, 8]), &test_device());
        for form in [Form::Channel, Form::Spatial, Form::Decoupled] {
            let params = TrpParams { form, energy: 0.6, at_end: Some(Keep::Energy(0.6)), ..TrpParams::default() };
            let model = resnet();
            let trp = Trp::new(&params, &model).unwrap();
            let truncated = trp.evaluated(model.clone()).unwrap();
            let small = trp.finished(model.clone()).unwrap();
            assert!(small.layer("layer2.0.conv1").unwrap().is_factored(), "stride 2, {form:?}");
            assert!(small.parameters() < model.parameters());
            let logits = |model: &VisionModel| to_host(&model.forward(images.clone(), &mut Pass::eval())).unwrap();
            let apart = (logits(&truncated) - logits(&small)).norm_max();
            assert!(apart < convolved(1e-4), "{form:?}: {apart}");
        }
    }

    #[test]
    fn a_threshold_above_every_singular_value_leaves_rank_one() {
        let model = resnet();
        let params = TrpParams { at_end: Some(Keep::Value(1e3)), ..TrpParams::default() };
        let small = Trp::new(&params, &model).unwrap().finished(model).unwrap();
        assert_eq!(small.layer("layer1.0.conv1").unwrap().factored(), Some((Form::Channel, 1)));
    }

    #[test]
    fn a_model_without_such_layers_is_an_error_that_says_what_to_write() {
        let model = classifier(VisionParams::of(Architecture::Mlp), 4);
        let StageError::Failed { help, .. } = Trp::new(&TrpParams::default(), &model).unwrap_err() else { panic!() };
        assert_eq!(help.unwrap(), "name the layers, for example layers = [\"fc*\"]");
        let named = TrpParams { layers: Some(vec!["fc2".to_owned()]), ..TrpParams::default() };
        assert_eq!(Trp::new(&named, &model).unwrap().layers().len(), 1);
    }
}
