//! What a manifest says about training a classifier.

use schemars::JsonSchema;
use sepia_engine::stage::Check;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{method::VisionMethod, optimizer::OptimizerParams, schedule::VisionSchedule};
use crate::{data::Augmentation, model::vision::VisionParams};

/// What a run gives a method besides its own parameters.
#[derive(Debug, Clone, Copy)]
pub struct VisionSetup {
    /// Seed of whatever the method draws.
    pub seed: u64,
    /// The run's largest learning rate.
    pub lr: f64,
    /// Its weight decay.
    pub weight_decay: f64,
}

/// A method's part of the manifest: `method = { ... }`.
pub trait VisionMethodParams:
    Serialize + DeserializeOwned + JsonSchema + Default + Clone + Send + Sync + 'static
{
    /// The stage kind for this method, or for all of them.
    const STAGE: &'static str;
    /// The papers that the method comes from, for the reference.
    const SOURCE: &'static str = "";
    /// Whether one of them learns from a teacher: the stage kind then has an input for it.
    const TAUGHT: bool = false;

    /// Reports what cannot work; `at` is the dotted path of these parameters.
    fn check(&self, at: &str, check: &mut Check<'_>);

    /// Reports what does not go with a run of this many epochs, of which so many warm up.
    fn check_epochs(&self, at: &str, epochs: u64, warmup_epochs: u64, check: &mut Check<'_>) {
        let _ = (at, epochs, warmup_epochs, check);
    }

    /// Whether it learns from the model of the input `teacher`.
    fn needs_teacher(&self) -> bool {
        false
    }

    /// The method, before its first step.
    fn build(&self, setup: &VisionSetup) -> Box<dyn VisionMethod>;
}

/// Training of an image classifier, by one method or by any (`M`).
///
/// Each epoch visits the training images once in a random order; images that do not fill the last batch are left out of
/// that epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(bound = "M: VisionMethodParams")]
pub struct ClassifierParams<M> {
    /// The model by name, with its sizes: `{ name = "resnet-20" }`. Left out when the input `init` is connected.
    #[serde(default)]
    pub model: Option<VisionParams>,
    /// What happens besides gradient steps.
    #[serde(default)]
    pub method: M,
    /// Passes over the training images.
    pub epochs: u64,
    /// Images in one step.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// Largest learning rate.
    #[serde(default = "default_lr")]
    pub lr: f64,
    /// `{ name = "sgd", momentum = 0.9 }` or `{ name = "adamw" }`.
    #[serde(default)]
    pub optimizer: OptimizerParams,
    /// Weight decay: L2 for SGD, decoupled for AdamW.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// Whether biases and the gains and biases of norms are decayed, too.
    #[serde(default)]
    pub decay_vectors: bool,
    /// The learning rate after the warm-up.
    #[serde(default)]
    pub schedule: VisionSchedule,
    /// Epochs over which the learning rate rises.
    #[serde(default)]
    pub warmup_epochs: u64,
    /// The learning rate at the end of a cosine or line, as a part of the largest.
    #[serde(default)]
    pub min_lr_ratio: f64,
    /// Share of the target that is spread over all classes.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Gradients longer than this (Euclidean norm over all parameters) are shortened to it; 0 turns it off.
    #[serde(default)]
    pub grad_clip: f64,
    /// Random crops and flips of training images.
    #[serde(default)]
    pub augment: Augmentation,
    /// Epochs between two measurements of every layer's stable rank; 0 for none.
    #[serde(default)]
    pub rank_every: u64,
    /// Epochs between two evaluations on the validation split; 0 for one at the end alone.
    #[serde(default = "default_eval_every")]
    pub eval_every: u64,
}

fn default_batch_size() -> usize {
    128
}

fn default_lr() -> f64 {
    0.1
}

fn default_weight_decay() -> f64 {
    1e-4
}

fn default_eval_every() -> u64 {
    1
}

/// What does not change the result of training.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierKnobs {
    /// Steps between two records of loss, learning rate and speed.
    pub log_every: u64,
}

impl Default for ClassifierKnobs {
    fn default() -> Self {
        Self { log_every: 10 }
    }
}

impl<M: VisionMethodParams> ClassifierParams<M> {
    /// Reports what cannot work, and states what is known of the model on the port `model`.
    pub fn check(&self, check: &mut Check<'_>) {
        for (name, count) in [("epochs", self.epochs), ("batch_size", self.batch_size as u64)] {
            if count == 0 {
                check.problem(name, format!("`{name}` must be at least 1"), "");
            }
        }
        let unit = |value: f64| (0.0..1.0).contains(&value);
        let ranges = [
            ("lr", self.lr, self.lr.is_finite() && self.lr > 0.0, "above 0"),
            ("weight_decay", self.weight_decay, unit(self.weight_decay), "at least 0 and below 1"),
            ("min_lr_ratio", self.min_lr_ratio, unit(self.min_lr_ratio), "at least 0 and below 1"),
            ("label_smoothing", self.label_smoothing, unit(self.label_smoothing), "at least 0 and below 1"),
            ("grad_clip", self.grad_clip, self.grad_clip.is_finite() && self.grad_clip >= 0.0, "at least 0"),
        ];
        for (name, value, fits, allowed) in ranges {
            if !fits {
                check.problem(name, format!("`{name}` is {value}, but must be {allowed}"), "");
            }
        }
        if self.warmup_epochs >= self.epochs && self.epochs > 0 {
            let message = format!("warmup_epochs {} must be below epochs {}", self.warmup_epochs, self.epochs);
            check.problem("warmup_epochs", message, "");
        }
        if let VisionSchedule::Milestones { at, factor } = &self.schedule {
            if let Some(part) = at.iter().find(|part| !(0.0..=1.0).contains(*part)) {
                check.problem("schedule.at", format!("{part} is not a part of the epochs, between 0 and 1"), "");
            }
            if !(factor.is_finite() && *factor > 0.0) {
                check.problem("schedule.factor", format!("`factor` is {factor}, but must be above 0"), "");
            }
        }
        match self.optimizer {
            OptimizerParams::Sgd { momentum, .. } if !unit(momentum) => {
                let message = format!("`momentum` is {momentum}, but must be at least 0 and below 1");
                check.problem("optimizer.momentum", message, "");
            }
            OptimizerParams::Adamw { betas, eps } => {
                if !betas.iter().all(|beta| unit(*beta)) {
                    check.problem("optimizer.betas", "both must be at least 0 and below 1", "");
                }
                if !(eps.is_finite() && eps > 0.0) {
                    check.problem("optimizer.eps", format!("`eps` is {eps}, but must be above 0"), "");
                }
            }
            OptimizerParams::Sgd { .. } => {}
        }
        if let Some(images) = check.fact("data", "train_images")
            && images < self.batch_size as f64
        {
            let message = format!("a batch of {} images is more than the training split's {images}", self.batch_size);
            check.problem("batch_size", message, "lower it");
        }
        match (self.method.needs_teacher(), check.is_connected("teacher")) {
            (true, false) => {
                let message = "this method learns from a trained classifier, but the input `teacher` is not connected";
                check.problem("method", message, "connect one: inputs = { data = \"DATA\", teacher = \"TRAINED\" }");
            }
            (false, true) => {
                let message = "the input `teacher` is connected, but this method does not learn from it";
                check.problem("method", message, "method = { name = \"pela\" } does");
            }
            _ => {}
        }
        let from = ["init", "teacher"].into_iter().find(|port| check.is_connected(port));
        match (&self.model, from) {
            (Some(_), Some(port)) => {
                let message = format!("the model's sizes come from the input `{port}`");
                check.problem("model", message, "leave `model` out");
            }
            (Some(model), None) => model.check("model", check),
            (None, None) if !self.method.needs_teacher() => {
                check.problem("model", "no model is named", "name one: model = { name = \"resnet-20\" }");
            }
            (None, _) => {}
        }
        self.method.check("method", check);
        self.method.check_epochs("method", self.epochs, self.warmup_epochs, check);
    }
}
