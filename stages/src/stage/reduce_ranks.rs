//! `reduce-ranks`: a smaller model out of ordered factors, without training.

use schemars::JsonSchema;
use sepia_engine::stage::{Check, NoKnobs, Port, Progress, Stage, StageContext, StageError, derive_seed};
use serde::{Deserialize, Serialize};

use super::{IMAGES, MODEL, factorize::report_ranks};
use crate::{
    data::ImageFolder,
    device,
    method::maestro::{dense_if_larger, greedy_reduction, narrow},
    model::vision::{VisionModel, load_vision, save_vision},
    train::vision::{VisionData, fits_data},
};

/// Lowers the ranks of a factored model until it is small enough: at each step, of the layer whose loss of rank hurts
/// least on a sample of training images. One training serves several budgets: `matrix = { budget = [0.5, 0.25] }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReduceParams {
    /// Parameters or multiplications of the result, as a part of the dense model's; above 0 and at most 1.
    pub budget: f64,
    /// What the budget counts: `parameters` or `macs`.
    #[serde(default)]
    pub of: Unit,
    /// The part of a layer's rank that one step takes, at least one component.
    #[serde(default = "default_step")]
    pub step: f64,
    /// Training images on which tries are compared.
    #[serde(default = "default_images")]
    pub images: usize,
    /// Images in a batch when statistics of BatchNorm are taken anew at the end.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
}

/// What a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Trained values.
    #[default]
    Parameters,
    /// Multiplications for one image.
    Macs,
}

impl Unit {
    /// The size of a model.
    pub(super) fn of(self, model: &VisionModel) -> f64 {
        match self {
            Self::Parameters => model.parameters() as f64,
            Self::Macs => model.macs() as f64,
        }
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Parameters => "parameters",
            Self::Macs => "macs",
        })
    }
}

fn default_step() -> f64 {
    0.1
}

fn default_images() -> usize {
    2048
}

fn default_batch_size() -> usize {
    128
}

/// The stage kind.
#[derive(Debug)]
pub struct ReduceRanks;

impl Stage for ReduceRanks {
    const KIND: &'static str = "reduce-ranks";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[
        Port::new("model", MODEL, "a classifier with ordered factors: the output `trained` of maestro"),
        Port::new("data", IMAGES, "whose training images decide"),
    ];
    const OUTPUTS: &'static [Port] = &[Port::new("model", MODEL, "the smaller model")];
    const SEEDED: bool = true;
    const ON_DEVICE: bool = true;

    type Params = ReduceParams;
    type Knobs = NoKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        for (name, part) in [("budget", params.budget), ("step", params.step)] {
            if !(part > 0.0 && part <= 1.0) {
                check.problem(name, format!("`{name}` is {part}, but must be above 0 and at most 1"), "");
            }
        }
        for (name, count) in [("images", params.images), ("batch_size", params.batch_size)] {
            if count == 0 {
                check.problem(name, format!("`{name}` must be at least 1"), "");
            }
        }
        for (name, value) in check.facts("model") {
            check.state("model", &name, value);
        }
    }

    fn run(params: &Self::Params, _: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        device::with_threads(ctx.threads(), || reduce(params, ctx))
    }
}

fn reduce(params: &ReduceParams, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
    let device = device::open(ctx)?;
    let folder = ImageFolder::open(&ctx.input("data")?)?;
    let train = folder.train()?;
    let model = load_vision(&ctx.input("model")?, &device)?;
    fits_data(model.config(), &folder.meta)?;
    let layers = model.layers();
    let factored: Vec<(String, usize)> =
        layers.iter().filter_map(|layer| Some((layer.path.clone(), layer.factored()?.1))).collect();
    if factored.is_empty() {
        return Err(StageError::new("the model has no factored layers")
            .help("connect the output `trained` of a maestro stage: model = \"NAME.trained\""));
    }
    let (paths, ranks): (Vec<String>, Vec<usize>) = factored.into_iter().unzip();
    let seed = derive_seed(ctx.seed(), "sample", 0);
    let (meta, batch_size) = (&folder.meta, params.batch_size);
    let data = VisionData { train: &train, meta, batch_size, device: &device, seed, teacher: None };
    let sample = data.sample(params.images);
    let cut = |ranks: &[usize]| -> Result<VisionModel, StageError> {
        let mut small = model.clone();
        for (path, rank) in paths.iter().zip(ranks) {
            let layer = small.layer_mut(path)?;
            narrow(layer, *rank)?;
            dense_if_larger(layer);
        }
        Ok(small)
    };
    let dense = match params.of {
        Unit::Parameters => model.dense_parameters() as f64,
        Unit::Macs => model.dense_macs() as f64,
    };
    // Ranks come from the search itself: they can be had.
    let cost = |ranks: &[usize]| cut(ranks).map_or(f64::INFINITY, |model| params.of.of(&model));
    let mut tries = 0;
    let loss = |ranks: &[usize]| -> Result<f64, StageError> {
        ctx.stop_if_asked()?;
        tries += 1;
        ctx.progress(&Progress { done: tries, total: tries + 1, unit: "try".to_owned(), figures: Vec::new() });
        Ok(data.scores(&cut(ranks)?, &sample).loss())
    };
    let found = greedy_reduction(&ranks, &[params.budget * dense], params.step, cost, loss)?;
    let Some((_, step)) = found.into_iter().next() else {
        let least = cost(&vec![1; paths.len()]) / dense;
        return Err(StageError::new(format!("with rank 1 everywhere the model still has {least:.3} of the dense one"))
            .param("budget")
            .help("raise the budget"));
    };
    let mut small = cut(&step.ranks)?;
    data.recalibrate(&mut small, None);
    save_vision(&small, &ctx.output("model")?)?;
    ctx.result("sample_loss", step.loss)?;
    ctx.result("tries", tries as f64)?;
    report_ranks(&small, ctx)
}
