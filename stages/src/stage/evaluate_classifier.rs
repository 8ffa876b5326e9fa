//! `evaluate-classifier`: what a classifier gets right, and what it costs, against another.

use std::time::Instant;

use camino::Utf8Path;
use schemars::JsonSchema;
use sepia_engine::stage::{Check, NoKnobs, Port, Progress, Stage, StageContext, StageError};
use serde::{Deserialize, Serialize};

use super::{EVALUATION, IMAGES, MODEL};
use crate::{
    data::{ImageBatch, ImageFolder, ImageMeta, ImageSplit},
    device,
    model::vision::{Pass, VisionModel, load_vision},
    train::{
        Throughput,
        vision::{Scores, classify, fits_data},
    },
};

/// Evaluates a classifier on the whole validation split, as it is stored: factored layers as two.
///
/// Accuracy, loss, parameters, multiplications and size on disk go into the output. Latency is measured and goes into
/// the record alone, as no two measurements agree. With the input `dense`, the same is said of that model, and the two
/// are timed in turns, so that what else the machine does falls on both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluateClassifierParams {
    /// Images in one forward pass.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// Timed forward passes of one batch; the median is reported. 0 for none.
    #[serde(default = "default_timed")]
    pub timed_passes: usize,
    /// Images in a timed forward pass.
    #[serde(default = "default_batch_size")]
    pub timed_batch_size: usize,
}

fn default_batch_size() -> usize {
    128
}

fn default_timed() -> usize {
    11
}

/// What the output says of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Figures {
    /// Share of validation images that are classified right.
    accuracy: f64,
    /// Mean cross entropy in nats.
    val_loss: f64,
    /// Trained values.
    parameters: usize,
    /// Multiplications for one image.
    macs: u64,
    /// Bytes of `model.safetensors`.
    bytes_on_disk: u64,
    /// Layers that are factored.
    factored_layers: usize,
}

/// What the output holds.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    #[serde(flatten)]
    model: Figures,
    /// Validation images.
    images: u64,
    /// Of the input `dense`.
    #[serde(skip_serializing_if = "Option::is_none")]
    dense: Option<Figures>,
}

/// The stage kind.
#[derive(Debug)]
pub struct EvaluateClassifier;

impl Stage for EvaluateClassifier {
    const KIND: &'static str = "evaluate-classifier";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[
        Port::new("model", MODEL, "what to evaluate"),
        Port::new("data", IMAGES, "whose validation split it is evaluated on"),
        Port::new("dense", MODEL, "what to compare it with").optional(),
    ];
    const OUTPUTS: &'static [Port] = &[Port::new("evaluation", EVALUATION, "the figures as a JSON file")];
    const SEEDED: bool = false;
    const ON_DEVICE: bool = true;

    type Params = EvaluateClassifierParams;
    type Knobs = NoKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        for (name, count) in [("batch_size", params.batch_size), ("timed_batch_size", params.timed_batch_size)] {
            if count == 0 {
                check.problem(name, format!("`{name}` must be at least 1"), "");
            }
        }
    }

    fn run(params: &Self::Params, _: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        device::with_threads(ctx.threads(), || report(params, ctx))
    }
}

fn report(params: &EvaluateClassifierParams, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
    let device = device::open(ctx)?;
    let data = ImageFolder::open(&ctx.input("data")?)?;
    let validation = data.validation()?;
    let (batch_size, meta) = (params.batch_size, &data.meta);
    let evaluate = |folder: &Utf8Path, ctx: &mut StageContext<'_>| -> Result<_, StageError> {
        let model = load_vision(folder, &device)?;
        fits_data(model.config(), meta)?;
        let mut found = Scores::default();
        let order: Vec<usize> = (0..validation.len()).collect();
        let mut speed = Throughput::default();
        for indices in order.chunks(batch_size) {
            found.add(classify(&model, &ImageBatch::new(&validation, meta, indices, None, &device)));
            let (done, total) = (found.images, validation.len() as u64);
            ctx.progress(&Progress { done, total, unit: "image".to_owned(), figures: Vec::new() });
            ctx.stop_if_asked()?;
        }
        speed.add(found.images);
        if !found.loss().is_finite() {
            return Err(StageError::new("the model's loss is not finite: its weights hold NaN or infinity"));
        }
        let figures = Figures {
            accuracy: found.accuracy(),
            val_loss: found.loss(),
            parameters: model.parameters(),
            macs: model.macs(),
            bytes_on_disk: fs_err::metadata(folder.join("model.safetensors"))?.len(),
            factored_layers: model.layers().iter().filter(|layer| layer.is_factored()).count(),
        };
        Ok((model, figures, speed.read()))
    };
    let (model, figures, rate) = evaluate(&ctx.input("model")?, ctx)?;
    let dense = match ctx.input_opt("dense") {
        Some(folder) => Some(evaluate(&folder, ctx)?),
        None => None,
    };
    let mut models = vec![&model];
    models.extend(dense.as_ref().map(|(model, ..)| model));
    let latencies = latencies(&models, params, (&validation, meta), &device);
    record(&figures, dense.as_ref().map(|(_, figures, _)| figures), &latencies, rate, ctx)?;
    let dense = dense.map(|(_, figures, _)| figures);
    let report = Report { model: figures, images: validation.len() as u64, dense };
    let text = serde_json::to_string_pretty(&report).map_err(std::io::Error::other)?;
    fs_err::write(ctx.output("evaluation")?, text + "\n")?;
    Ok(())
}

/// The median time of each model's forward pass of one batch, in seconds. The models take turns.
fn latencies(
    models: &[&VisionModel],
    params: &EvaluateClassifierParams,
    (split, meta): (&ImageSplit, &ImageMeta),
    device: &burn::tensor::Device,
) -> Vec<f64> {
    let indices: Vec<usize> = (0..params.timed_batch_size.min(split.len())).collect();
    let batch = ImageBatch::new(split, meta, &indices, None, device);
    let mut times = vec![Vec::new(); models.len()];
    // The first pass is not counted: it fills caches and lets kernels be chosen.
    for pass in 0..=params.timed_passes {
        for (model, times) in models.iter().zip(&mut times) {
            let start = Instant::now();
            // Reading the result waits for the device.
            drop(model.forward(batch.images.clone(), &mut Pass::eval()).into_data());
            if pass > 0 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied()
    };
    times.into_iter().filter_map(median).collect()
}

fn record(
    model: &Figures,
    dense: Option<&Figures>,
    latencies: &[f64],
    rate: f64,
    ctx: &mut StageContext<'_>,
) -> Result<(), StageError> {
    ctx.result("accuracy", model.accuracy)?;
    ctx.result("val_loss", model.val_loss)?;
    ctx.result("parameters", model.parameters as f64)?;
    ctx.result("macs", model.macs as f64)?;
    ctx.result("bytes_on_disk", model.bytes_on_disk as f64)?;
    ctx.result("images_per_second", rate)?;
    if let Some(latency) = latencies.first() {
        ctx.result("latency_seconds", *latency)?;
    }
    if let Some(dense) = dense {
        ctx.result("dense_accuracy", dense.accuracy)?;
        ctx.result("accuracy_change", model.accuracy - dense.accuracy)?;
        ctx.result("parameters_ratio", dense.parameters as f64 / model.parameters.max(1) as f64)?;
        ctx.result("macs_ratio", dense.macs as f64 / model.macs.max(1) as f64)?;
        ctx.result("bytes_ratio", dense.bytes_on_disk as f64 / model.bytes_on_disk.max(1) as f64)?;
        if let [own, dense] = latencies {
            ctx.result("dense_latency_seconds", *dense)?;
            ctx.result("speedup", dense / own)?;
        }
    }
    Ok(())
}
