//! `factorize`: a trained model with factors in place of its weights. Changing the rank rule does not train anew.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use sepia_engine::stage::{Check, NoKnobs, Port, Progress, Stage, StageContext, StageError};
use serde::{Deserialize, Serialize};

use super::{IMAGES, MODEL, RANKS, TOKENS, factorize_llama, rank_analysis};
use crate::{
    data::{ImageBatch, ImageFolder},
    device,
    factor::{self, Lorap, Measure, RankRule},
    model::{
        is_llama,
        vision::{Form, Pass, Seen, VisionModel, Weight, load_vision, save_vision},
    },
    train::vision::fits_data,
};

/// Replaces layers of a trained model by two smaller ones, from the singular value decomposition of their weights: of a
/// classifier of images, or the matrices of attention and MLP of a LLaMA, which `evaluate` then runs as factors.
///
/// Exactly one of `ranks`, `measure`, `lorap` and the input `like` says the ranks of the layers that `layers` chooses; `table` says
/// those of the layers it names, and goes before them. Layers whose factors would not be smaller stay dense.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FactorizeParams {
    /// The rank of each layer: `{ energy = 0.9 }`, `{ accumulative = 0.8 }`, `{ value = 0.05 }`, `{ ratio = 0.25 }`,
    /// `{ compression = 2 }` or `{ rank = 16 }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<RankRule>,
    /// A measure of the rank analysis at the input `ranks`, rounded up, at most min(m, n).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measure: Option<Measure>,
    /// LoRAP's ranks for the attention of a LLaMA, `{ keep = 0.5 }`: less for queries and keys, more for values and outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lorap: Option<Lorap>,
    /// Ranks by the layer's name, or by a pattern with `*` and `?`: `{ "layer3.*" = 16, "fc1" = 8 }`. A name goes before a
    /// pattern.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub table: BTreeMap<String, usize>,
    /// Which layers get `ranks` or `measure`: names or patterns. When left out, all but the first and the last layer, 1x1
    /// shortcuts and the output projections of attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<String>>,
    /// Of convolutions: `channel` (full kernels to r channels, then 1x1), `spatial` (k x 1, then 1 x k) or `decoupled` (r
    /// paths of 1x1 and depthwise). They have different ranks.
    pub form: Form,
    /// Factorises a layer even where its factors have as many parameters or more.
    pub keep_larger: bool,
    /// A new BatchNorm between the factors of each convolution (Cuttlefish's extra BN); it needs training.
    pub extra_norm: bool,
    /// With the input `data`: training images whose activations weigh each layer's inputs.
    pub calibration_images: usize,
    /// With the input `tokens`: sequences, as long as the model was made for, whose activations weigh each layer's inputs;
    /// 128 when left out.
    #[serde(skip_serializing_if = "is_usual_calibration")]
    pub calibration_sequences: usize,
}

/// Sequences of a calibration when nothing is said: left out of keys, which are then those from before it could be said.
const CALIBRATION_SEQUENCES: usize = 128;

fn is_usual_calibration(sequences: &usize) -> bool {
    *sequences == CALIBRATION_SEQUENCES
}

impl Default for FactorizeParams {
    fn default() -> Self {
        Self {
            ranks: None,
            measure: None,
            lorap: None,
            table: BTreeMap::new(),
            layers: None,
            form: Form::Channel,
            keep_larger: false,
            extra_norm: false,
            calibration_images: 512,
            calibration_sequences: CALIBRATION_SEQUENCES,
        }
    }
}

/// The stage kind.
#[derive(Debug)]
pub struct Factorize;

impl Stage for Factorize {
    const KIND: &'static str = "factorize";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[
        Port::new("model", MODEL, "a trained classifier of images, or a LLaMA"),
        Port::new("ranks", RANKS, "its rank analysis, for `measure`").optional(),
        Port::new("data", IMAGES, "images whose activations decide which directions count (LoRAP's weighted SVD)")
            .optional(),
        Port::new("tokens", TOKENS, "the same for a LLaMA: the tokens that it was trained on").optional(),
        Port::new("like", MODEL, "a factorised model of the same architecture, whose forms and ranks are taken")
            .optional(),
    ];
    const OUTPUTS: &'static [Port] = &[Port::new("model", MODEL, "the factorised model, stored as its factors")];
    const SEEDED: bool = false;
    const ON_DEVICE: bool = false;

    type Params = FactorizeParams;
    type Knobs = NoKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        let (ranks, like) = (check.is_connected("ranks"), check.is_connected("like"));
        let ways = [params.ranks.is_some(), params.measure.is_some(), params.lorap.is_some(), like];
        let count = ways.iter().filter(|given| **given).count();
        if count == 0 && params.table.is_empty() {
            let help = "write ranks = { energy = 0.9 }, a `table`, or a `measure` with the input `ranks`";
            check.problem("ranks", "nothing says which ranks the layers get", help);
        }
        if count > 1 {
            let message = "`ranks`, `measure`, `lorap` and the input `like` each say the ranks of the same layers";
            let given = [("ranks", ways[0]), ("measure", ways[1]), ("lorap", ways[2])];
            let field = given.iter().find(|(_, given)| *given).map_or("ranks", |(field, _)| *field);
            check.problem(field, message, "keep one of them");
        }
        if params.measure.is_some() && !ranks {
            let help = "connect one: inputs = { model = .., ranks = .. } with a stage of kind rank-analysis";
            check.problem("measure", "`measure` needs a rank analysis", help);
        }
        if let Some((message, help)) = params.ranks.and_then(RankRule::problem) {
            check.problem("ranks", message, help);
        }
        if let Some((field, message, help)) = params.lorap.and_then(Lorap::problem) {
            check.problem(format!("lorap.{field}"), message, help);
        }
        if params.measure.is_some() && params.form != Form::Channel {
            let message = "a rank analysis measures the channel matrix of convolutions, which other forms do not have";
            check.problem("form", message, "take form = \"channel\", or give `ranks` a rule");
        }
        if params.extra_norm && params.form == Form::Decoupled {
            check.problem("extra_norm", "decoupled convolutions take no BatchNorm between their halves", "");
        }
        if check.is_connected("data") {
            if params.form != Form::Channel || params.extra_norm {
                let message = "factors weighted by activations have the channel form, without a BatchNorm between them";
                check.problem(
                    if params.extra_norm { "extra_norm" } else { "form" },
                    message,
                    "leave the input `data` out",
                );
            }
            if params.calibration_images == 0 {
                check.problem("calibration_images", "`calibration_images` must be at least 1", "");
            }
        }
        if check.is_connected("tokens") {
            if params.calibration_sequences == 0 {
                check.problem("calibration_sequences", "`calibration_sequences` must be at least 1", "");
            }
            if let (Some(known), Some(data)) = (check.fact("model", "vocab_size"), check.fact("tokens", "vocab_size"))
                && data > known
            {
                let message = format!("the tokens have {data} ids, but the model knows {known}");
                check.problem("calibration_sequences", message, "connect the tokens that the model was trained on");
            }
        }
        for (name, rank) in &params.table {
            if *rank == 0 {
                check.problem("table", format!("rank 0 leaves nothing of `{name}`"), "give a rank of at least 1");
            }
        }
        if params.layers.as_ref().is_some_and(Vec::is_empty) {
            check.problem("layers", "no layers are asked for", "leave the field out for all layers of the body");
        }
        for (name, value) in check.facts("model") {
            check.state("model", &name, value);
        }
    }

    fn run(params: &Self::Params, _: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        let folder = ctx.input("model")?;
        device::with_threads(ctx.threads(), || match is_llama(&folder) {
            true => factorize_llama::factorize(params, &folder, ctx),
            false => factorize(params, ctx),
        })
    }
}

fn factorize(params: &FactorizeParams, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
    if params.lorap.is_some() {
        let message = "`lorap` shares out the ranks of a LLaMA's attention, and this model classifies images";
        return Err(StageError::new(message).param("lorap").help("give `ranks` a rule"));
    }
    if ctx.input_opt("tokens").is_some() {
        let message = "the input `tokens` is for LLaMA models, and this one classifies images";
        return Err(StageError::new(message).help("connect images: `data`"));
    }
    let device = device::open(ctx)?;
    let mut model = load_vision(&ctx.input("model")?, &device)?;
    for layer in model.layers_mut() {
        if let Weight::Factored(factors) = &layer.weight {
            if factors.norm.is_some() {
                let message = format!("`{}` is factored already, with a BatchNorm between its factors", layer.path);
                return Err(StageError::new(message).help("connect the model as it was before"));
            }
            layer.multiply_out();
        }
    }
    let wanted = wanted(params, &model, ctx)?;
    let (smaller, larger) = factor::only_smaller(&model, wanted)?;
    let ranks = if params.keep_larger { [smaller, larger].concat() } else { stay_dense(&larger, ctx, smaller) };
    let squares = match ctx.input_opt("data") {
        Some(folder) => input_squares(&model, &ImageFolder::open(&folder)?, params.calibration_images, &device)?,
        None => BTreeMap::new(),
    };
    let total = ranks.len() as u64;
    for (done, (path, form, rank)) in ranks.iter().enumerate() {
        ctx.stop_if_asked()?;
        let layer = model.layer_mut(path)?;
        match squares.get(path) {
            Some(squares) => factor::factorize_layer_weighted(layer, *rank, squares)?,
            None => factor::factorize_layer(layer, *form, *rank, params.extra_norm)?,
        }
        ctx.progress(&Progress { done: done as u64 + 1, total, unit: "layer".to_owned(), figures: Vec::new() });
    }
    save_vision(&model, &ctx.output("model")?)?;
    ctx.result("parameters", model.parameters() as f64)?;
    ctx.result("macs", model.macs() as f64)?;
    report_ranks(&model, ctx)
}

/// Images in one forward pass of the calibration.
const BATCH: usize = 128;

/// Of every layer the sums of squares of its inputs or input channels, over training images.
fn input_squares(
    model: &VisionModel,
    data: &ImageFolder,
    images: usize,
    device: &burn::tensor::Device,
) -> Result<BTreeMap<String, Vec<f64>>, StageError> {
    let train = data.train()?;
    fits_data(model.config(), &data.meta)?;
    let mut found: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut watch = |path: &str, seen: &Seen<'_>| {
        let squares = match seen {
            Seen::Rows(x) => (*x).clone().square().sum_dim(0).into_data(),
            Seen::Maps(x, _) => (*x).clone().square().sum_dim(0).sum_dim(2).sum_dim(3).into_data(),
        };
        let squares = squares.convert::<f64>().try_into_vec::<f64>().unwrap_or_default();
        let sums = found.entry(path.to_owned()).or_insert_with(|| vec![0.0; squares.len()]);
        sums.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square);
    };
    // Evenly over the split: files are often sorted by class.
    let count = images.min(train.len());
    let order: Vec<usize> = (0..count).map(|index| index * train.len() / count.max(1)).collect();
    for indices in order.chunks(BATCH) {
        let batch = ImageBatch::new(&train, &data.meta, indices, None, device);
        drop(model.forward(batch.images, &mut Pass::eval().watched(&mut watch)));
    }
    Ok(found)
}

fn stay_dense(larger: &factor::Ranks, ctx: &mut StageContext<'_>, smaller: factor::Ranks) -> factor::Ranks {
    for (path, _, rank) in larger {
        ctx.note(&format!("`{path}` stays dense: factors of rank {rank} would not be smaller"));
    }
    smaller
}

/// Records the size of a model, and the rank of every factored layer.
pub(super) fn report_ranks(model: &VisionModel, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
    let layers = model.layers();
    let factored: Vec<_> = layers.iter().filter_map(|layer| Some((layer.path.as_str(), layer.factored()?.1))).collect();
    ctx.result("factored_layers", factored.len() as f64)?;
    ctx.result("parameters_kept", model.parameters() as f64 / model.dense_parameters().max(1) as f64)?;
    ctx.result("macs_kept", model.macs() as f64 / model.dense_macs().max(1) as f64)?;
    for (path, rank) in factored {
        ctx.result(&format!("rank/{path}"), rank as f64)?;
    }
    Ok(())
}

fn wanted(params: &FactorizeParams, model: &VisionModel, ctx: &StageContext<'_>) -> Result<factor::Ranks, StageError> {
    let mut ranks: factor::Ranks = Vec::new();
    if let Some(folder) = ctx.input_opt("like") {
        let other = load_vision(&folder, &device::open(ctx)?)?;
        if other.config() != model.config() {
            return Err(StageError::new("the model of the input `like` has another architecture or other sizes"));
        }
        let layers = other.layers();
        let found =
            layers.iter().filter_map(|layer| layer.factored().map(|(form, rank)| (layer.path.clone(), form, rank)));
        ranks.extend(found);
    }
    if params.ranks.is_some() || params.measure.is_some() {
        let paths = factor::chosen(model, params.layers.as_deref(), "layers")?;
        // What the table names has its rank from there.
        let table = factor::by_table(model, &params.table, params.form)?;
        let paths: Vec<String> =
            paths.into_iter().filter(|path| !table.iter().any(|(named, ..)| named == path)).collect();
        if let Some(rule) = params.ranks {
            ranks.extend(factor::by_rule(model, &paths, params.form, rule)?);
        }
        if let Some(measure) = params.measure {
            ranks.extend(measured(&paths, measure, model, ctx)?);
        }
    }
    let table = factor::by_table(model, &params.table, params.form)?;
    ranks.retain(|(path, ..)| !table.iter().any(|(named, ..)| named == path));
    ranks.extend(table);
    Ok(ranks)
}

fn measured(
    paths: &[String],
    measure: Measure,
    model: &VisionModel,
    ctx: &StageContext<'_>,
) -> Result<factor::Ranks, StageError> {
    let analysis = rank_analysis::read_ranks(&ctx.input("ranks")?)?;
    let rank = |path: &String| {
        let matrix = model.layer(path)?.geometry.matrix(Form::Channel);
        Ok((path.clone(), Form::Channel, analysis.rank_of(path, measure, matrix)?))
    };
    paths.iter().map(rank).collect()
}

#[cfg(test)]
#[path = "factorize_tests.rs"]
mod tests;
