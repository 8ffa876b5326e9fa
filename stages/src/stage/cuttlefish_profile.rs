//! `cuttlefish-profile`: how much faster each stack of layers is with factors, on this machine.
//!
//! No two measurements agree; so that training stays a function of its inputs, the timings are the output of a node of
//! their own: taken once, stored, and shared by every run that reads them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use burn::tensor::{Device, Tensor};
use camino::Utf8PathBuf;
use schemars::JsonSchema;
use sepia_engine::stage::{Check, NoKnobs, Port, Progress, Stage, StageContext, StageError};
use serde::{Deserialize, Serialize};

use super::{IMAGES, PROFILE};
use crate::{
    data::{ImageBatch, ImageFolder},
    device,
    method::cuttlefish::{StackCost, compared_rank, costs, is_candidate},
    model::vision::{Form, Geometry, Pass, Seen, VisionConfig, VisionModel, VisionParams},
    ops,
};

/// Times every layer that Cuttlefish may factorise, forward and backward, dense and as factors of a part of its rank, on a
/// batch of the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProfileParams {
    /// The model by name, with its sizes, as in training.
    pub model: VisionParams,
    /// Images in a batch, as in training.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// The rank of the factors, as a part of min(m, n).
    #[serde(default = "default_ratio")]
    pub rank_ratio: f64,
    /// Timed passes of each layer in either form, after one that is not counted; the fastest is taken.
    #[serde(default = "default_passes")]
    pub passes: usize,
}

fn default_batch_size() -> usize {
    128
}

fn default_ratio() -> f64 {
    0.25
}

fn default_passes() -> usize {
    5
}

/// What the output holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Profile {
    /// Seconds of each stack, in the order of the model.
    pub(super) stacks: Vec<StackCost>,
    /// The rank of the factors, as a part of min(m, n).
    pub(super) rank_ratio: f64,
    /// Images in a batch.
    pub(super) batch_size: usize,
}

/// Reads what the stage wrote.
///
/// # Errors
/// When the file is missing or damaged.
pub(super) fn read_profile(path: &Utf8PathBuf) -> Result<Profile, StageError> {
    serde_json::from_str(&fs_err::read_to_string(path)?).map_err(|error| StageError::unreadable(path, error))
}

/// The stage kind.
#[derive(Debug)]
pub struct CuttlefishProfile;

impl Stage for CuttlefishProfile {
    const KIND: &'static str = "cuttlefish-profile";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::new("data", IMAGES, "whose images' size and number of classes count")];
    const OUTPUTS: &'static [Port] =
        &[Port::new("profile", PROFILE, "seconds of each stack, dense and factored (JSON)")];
    const SEEDED: bool = false;
    const ON_DEVICE: bool = true;

    type Params = ProfileParams;
    type Knobs = NoKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        params.model.check("model", check);
        for (name, count) in [("batch_size", params.batch_size), ("passes", params.passes)] {
            if count == 0 {
                check.problem(name, format!("`{name}` must be at least 1"), "");
            }
        }
        if !(params.rank_ratio > 0.0 && params.rank_ratio <= 1.0) {
            let message = format!("{} is not a part of the rank", params.rank_ratio);
            check.problem("rank_ratio", message, "give a number above 0 and at most 1");
        }
    }

    fn run(params: &Self::Params, _: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        device::with_threads(ctx.threads(), || profile(params, ctx))
    }
}

/// Rows of a linear layer, or batch, height and width of a convolution's input.
type InputSize = [usize; 3];

fn profile(params: &ProfileParams, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
    let device = device::open(ctx)?;
    let data = ImageFolder::open(&ctx.input("data")?)?;
    let (split, meta) = (data.train()?, &data.meta);
    let image_size = [meta.height, meta.width];
    if let Err((field, why)) = params.model.fits(image_size) {
        return Err(StageError::new(why).param(format!("model.{field}")));
    }
    let config =
        VisionConfig { model: params.model.clone(), channels: meta.channels, image_size, classes: meta.classes };
    let model = VisionModel::new(config, |name| ctx.rng_seed(name, 0), &device);
    let indices: Vec<usize> = (0..params.batch_size).map(|index| index % split.len().max(1)).collect();
    let batch = ImageBatch::new(&split, meta, &indices, None, &device);
    let mut sizes: BTreeMap<String, InputSize> = BTreeMap::new();
    let mut watch = |path: &str, seen: &Seen<'_>| {
        let size = match seen {
            Seen::Rows(x) => [x.dims()[0], 1, 1],
            Seen::Maps(x, _) => [x.dims()[0], x.dims()[2], x.dims()[3]],
        };
        sizes.insert(path.to_owned(), size);
    };
    drop(model.forward(batch.images, &mut Pass::eval().watched(&mut watch)));
    let total = model.layers().iter().filter(|layer| is_candidate(layer)).count() as u64;
    let mut done = 0;
    let stacks = costs(&model, |layer| {
        ctx.stop_if_asked()?;
        let size = sizes.get(&layer.path).copied().unwrap_or([1; 3]);
        let [inner, outer] = layer.geometry.factors(Form::Channel, compared_rank(layer, params.rank_ratio));
        let dense = fastest(params.passes, || pass(&[layer.geometry], size, &device));
        let factored = fastest(params.passes, || pass(&[inner, outer], size, &device));
        done += 1;
        ctx.progress(&Progress { done, total, unit: "layer".to_owned(), figures: Vec::new() });
        Ok::<_, StageError>((dense, factored))
    })?;
    for stack in &stacks {
        ctx.result(&format!("speedup/{}", stack.stack), stack.speedup())?;
    }
    let found = Profile { stacks, rank_ratio: params.rank_ratio, batch_size: params.batch_size };
    let text = serde_json::to_string_pretty(&found).map_err(std::io::Error::other)?;
    fs_err::write(ctx.output("profile")?, text + "\n")?;
    Ok(())
}

/// Seconds of the fastest of several passes; the first is not counted.
fn fastest(passes: usize, mut pass: impl FnMut()) -> f64 {
    pass();
    let timed = (0..passes).map(|_| {
        let start = Instant::now();
        pass();
        start.elapsed()
    });
    timed.min().unwrap_or(Duration::ZERO).as_secs_f64()
}

/// One forward and backward pass through layers of these sizes, one after the other.
fn pass(layers: &[Geometry], [batch, height, width]: InputSize, device: &Device) {
    let device = device.clone().autodiff();
    let weights: Vec<Tensor<2>> =
        layers.iter().map(|layer| Tensor::ones(layer.held_shape(), &device).require_grad()).collect();
    let loss = match layers.first() {
        Some(Geometry::Linear { inputs, .. }) => {
            let x = Tensor::<2>::ones([batch, *inputs], &device).require_grad();
            weights.iter().fold(x, |x, weight| ops::linear(x, weight.clone())).sum()
        }
        Some(Geometry::Conv(conv)) => {
            let x = Tensor::<4>::ones([batch, conv.inputs, height, width], &device).require_grad();
            let through = |x, (layer, weight): (&Geometry, &Tensor<2>)| match layer {
                Geometry::Conv(conv) => ops::conv2d(x, weight.clone(), conv),
                Geometry::Linear { .. } => x,
            };
            layers.iter().zip(&weights).fold(x, through).sum()
        }
        None => return,
    };
    let gradients = loss.backward();
    // Reading a gradient waits for the device.
    for weight in &weights {
        drop(weight.grad(&gradients).map(Tensor::into_data));
    }
}
