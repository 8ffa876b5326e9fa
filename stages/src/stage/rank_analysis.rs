//! `rank-analysis`: singular values and every rank measure of a model's weights.
//!
//! Invariant: the same weights give the same bytes, whatever the number of threads. Each decomposition runs in f64 in one
//! thread on the host, several weights at a time, and the results are written in the order of the weights' names.

use std::{collections::BTreeMap, sync::mpsc};

use burn::tensor::{bf16, f16};
use camino::Utf8Path;
use faer::Mat;
use glob::Pattern;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use schemars::JsonSchema;
use sepia_engine::stage::{Check, Estimate, NoKnobs, Port, Progress, Stage, StageContext, StageError};
use serde::{Deserialize, Serialize};

use super::{
    IMAGES, MODEL, RANKS,
    rank_activations::{self, ActivationParams},
    rank_table,
};
use crate::{
    device,
    factor::Measure,
    linalg::svd::{LinalgError, singular_values},
    metric::rank::{RankMeasures, Spectrum, scaled_stable_rank},
    model::LlamaConfig,
};

/// Singular values and rank measures of a model's weights.
pub struct RankAnalysis;

/// Measures the rank of a model's weights: algebraic, stable, energy, effective and more, from exact singular values.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RankAnalysisParams {
    /// Which weights, by name: patterns with `*` and `?`. Weights with fewer than two dimensions are left out;
    /// convolutions count as matrices `[out, in * kernel]`.
    pub weights: Vec<String>,
    /// Shares of the total at which energy rank and accumulative rank are reported, above 0 and at most 1.
    pub energy: Vec<f64>,
    /// Below what a singular value counts as zero; by default `max(m, n) * eps` of the largest, with the eps of the type
    /// the weight is stored in.
    pub tolerance: Option<Tolerance>,
    /// What is measured on the images of the input `data`.
    pub activations: ActivationParams,
}

/// Below what a singular value counts as zero.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tolerance {
    /// This number.
    Absolute(f64),
    /// This times the largest singular value.
    Relative(f64),
}

impl Default for RankAnalysisParams {
    fn default() -> Self {
        Self {
            weights: vec!["*".to_owned()],
            energy: vec![0.5, 0.9, 0.95, 0.99],
            tolerance: None,
            activations: ActivationParams::default(),
        }
    }
}

/// What `ranks.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranks {
    /// Version of this form.
    pub format: u32,
    /// In the order of their names.
    pub weights: Vec<WeightRanks>,
}

impl Ranks {
    /// A measure of the layer at a path as the rank of its matrix: rounded up, at most the smaller side.
    ///
    /// # Errors
    /// When the analysis lacks the layer or the measure.
    pub(super) fn rank_of(
        &self,
        path: &str,
        measure: Measure,
        [rows, columns]: [usize; 2],
    ) -> Result<usize, StageError> {
        let name = format!("{path}.weight");
        let found = self.weights.iter().find(|weight| weight.name == name).ok_or_else(|| {
            StageError::new(format!("the rank analysis has no weight `{name}`"))
                .help("connect an analysis of this very model, with weights = [\"*\"]")
                .param("measure")
        })?;
        let value = measure.of(&found.measures, found.scaled_stable_rank).ok_or_else(|| {
            StageError::new("the rank analysis has no scaled stable rank")
                .help("give it the model before training as its input `initial`")
                .param("measure")
        })?;
        Ok(((value - 1e-9).ceil() as usize).min(rows.min(columns)))
    }
}

/// One weight of `ranks.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightRanks {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape as stored.
    pub shape: Vec<usize>,
    /// Rows and columns of the matrix that was measured.
    pub matrix: [usize; 2],
    /// The type it is stored in.
    pub dtype: String,
    /// Singular values at or below this counted as zero.
    pub tolerance: f64,
    /// `q / stable_rank` at initialisation times the stable rank, at most q; only with the input `initial`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scaled_stable_rank: Option<f64>,
    /// The measures.
    #[serde(flatten)]
    pub measures: RankMeasures,
    /// All of them, descending.
    pub singular_values: Vec<f64>,
}

const FORMAT: u32 = 1;
/// A singular value as text in JSON, indented, and the measures of one weight in all three files: at most.
const VALUE_BYTES: u64 = 32;
const ROW_BYTES: u64 = 4096;

impl Stage for RankAnalysis {
    const KIND: &'static str = "rank-analysis";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] = &[
        Port::new("model", MODEL, "folder with model.safetensors and config.json"),
        Port::new("initial", MODEL, "the same model before training, for the scaled stable rank").optional(),
        Port::new("data", IMAGES, "images, for what a classifier uses of its weights (utilized and local rank)")
            .optional(),
    ];
    const OUTPUTS: &'static [Port] =
        &[Port::new("ranks", RANKS, "ranks.json, ranks.tsv, ranks.md, spectra.tsv, and with `data` activations.json")];
    const SEEDED: bool = false;
    const ON_DEVICE: bool = false;

    type Params = RankAnalysisParams;
    type Knobs = NoKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        if params.weights.is_empty() {
            check.problem("weights", "no weights are asked for", "leave the field out to measure all");
        }
        for pattern in &params.weights {
            if let Err(error) = Pattern::new(pattern) {
                check.problem(
                    "weights",
                    format!("`{pattern}` is not a pattern: {error}"),
                    "write * and ? for the wild cards",
                );
            }
        }
        for share in &params.energy {
            if !(*share > 0.0 && *share <= 1.0) {
                check.problem(
                    "energy",
                    format!("{share} is not a share of the total"),
                    "give shares above 0 and at most 1",
                );
            }
        }
        if let Some(Tolerance::Absolute(tol) | Tolerance::Relative(tol)) = params.tolerance
            && !(tol >= 0.0 && tol.is_finite())
        {
            check.problem("tolerance", format!("{tol} is not a tolerance"), "give a number of at least 0");
        }
        let activations = &params.activations;
        for (name, share) in [("input_energy", activations.input_energy), ("output_energy", activations.output_energy)]
        {
            if !(share > 0.0 && share <= 1.0) {
                let message = format!("{share} is not a share of the energy");
                check.problem(format!("activations.{name}"), message, "give a share above 0 and at most 1");
            }
        }
        if let Some(drop) = activations.accuracy_drop
            && !(0.0..1.0).contains(&drop)
        {
            let message = format!("{drop} is not a share of the images");
            check.problem("activations.accuracy_drop", message, "give a number of at least 0 and below 1");
        }
        if activations.images == 0 {
            check.problem("activations.images", "`images` must be at least 1", "");
        }
    }

    fn estimate(_: &Self::Params, check: &Check<'_>, dtype: sepia_engine::stage::Dtype) -> Estimate {
        let Some(config) = LlamaConfig::of_facts(&check.facts("model")) else { return Estimate::default() };
        let parameters = config.parameters() as u64;
        let models = if check.is_connected("initial") { 2 } else { 1 };
        let matrices: Vec<[u64; 2]> = config
            .weight_shapes()
            .iter()
            .filter_map(|(_, shape)| match shape.as_slice() {
                [m, n] => Some([*m as u64, *n as u64]),
                _ => None,
            })
            .collect();
        let largest = matrices.iter().map(|[m, n]| m * n).max().unwrap_or(0);
        let values: u64 = matrices.iter().map(|[m, n]| m.min(n)).sum();
        Estimate {
            parameters: Some(parameters),
            weight_bytes: Some(models * parameters * dtype.bytes()),
            // A matrix in f64 and the decomposition's copy of it.
            activation_bytes: Some(2 * 8 * largest),
            output_bytes: Some(values * VALUE_BYTES + matrices.len() as u64 * ROW_BYTES),
            ..Estimate::default()
        }
    }

    fn run(params: &Self::Params, _: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        let bytes = read(&ctx.input("model")?)?;
        let model = parse(&bytes)?;
        let names = select(&model, &params.weights)?;
        let at_init = match ctx.input_opt("initial") {
            Some(folder) => {
                let bytes = read(&folder)?;
                stable_ranks(&parse(&bytes)?, &names)?
            }
            None => BTreeMap::new(),
        };
        let weights = measure_all(&model, &names, &at_init, params, ctx)?;
        summarise(&weights, ctx)?;
        let ranks = Ranks { format: FORMAT, weights };
        let folder = ctx.output("ranks")?;
        fs_err::create_dir_all(&folder)?;
        let mut json = serde_json::to_string_pretty(&ranks).map_err(|error| StageError::new(error.to_string()))?;
        json.push('\n');
        fs_err::write(folder.join("ranks.json"), json)?;
        fs_err::write(folder.join("ranks.tsv"), rank_table::tsv(&ranks.weights))?;
        fs_err::write(folder.join("ranks.md"), rank_table::markdown(&ranks.weights))?;
        fs_err::write(folder.join("spectra.tsv"), rank_table::spectra(&ranks.weights))?;
        if let Some(data) = ctx.input_opt("data") {
            let model = ctx.input("model")?;
            device::with_threads(ctx.threads(), || {
                rank_activations::measure(&model, &data, &folder, &params.activations, ctx)
            })?;
        }
        Ok(())
    }
}

/// Reads what the stage wrote.
///
/// # Errors
/// When the file is missing or damaged.
pub(super) fn read_ranks(folder: &Utf8Path) -> Result<Ranks, StageError> {
    let path = folder.join("ranks.json");
    serde_json::from_str(&fs_err::read_to_string(&path)?).map_err(|error| StageError::unreadable(&path, error))
}

fn read(folder: &Utf8Path) -> Result<Vec<u8>, StageError> {
    let path = folder.join("model.safetensors");
    if !path.exists() {
        return Err(StageError::new(format!("{folder} has no model.safetensors"))
            .help("connect the output of a training stage, or a folder in Hugging Face's layout"));
    }
    Ok(fs_err::read(path)?)
}

fn parse(bytes: &[u8]) -> Result<SafeTensors<'_>, StageError> {
    SafeTensors::deserialize(bytes)
        .map_err(|error| StageError::new(format!("model.safetensors cannot be read: {error}")))
}

/// The weights with two dimensions or more that a pattern matches, sorted. Every pattern must match something.
fn select(model: &SafeTensors<'_>, patterns: &[String]) -> Result<Vec<String>, StageError> {
    let mut all: Vec<&str> = model.names().into_iter().collect();
    all.sort_unstable();
    let is_matrix = |name: &&str| model.tensor(name).is_ok_and(|view| view.shape().len() >= 2);
    let matrices: Vec<&str> = all.iter().copied().filter(is_matrix).collect();
    let mut chosen = vec![false; matrices.len()];
    for text in patterns {
        let pattern = Pattern::new(text)
            .map_err(|error| StageError::new(format!("`{text}` is not a pattern: {error}")).param("weights"))?;
        let mut found = false;
        for (name, chosen) in matrices.iter().zip(&mut chosen) {
            if pattern.matches(name) {
                *chosen = true;
                found = true;
            }
        }
        if !found {
            return Err(nothing_matches(text, &pattern, &all, &matrices));
        }
    }
    Ok(matrices.iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(name, _)| (*name).to_owned()).collect())
}

fn nothing_matches(text: &str, pattern: &Pattern, all: &[&str], matrices: &[&str]) -> StageError {
    if let Some(name) = all.iter().find(|name| pattern.matches(name)) {
        return StageError::new(format!("`{name}` has fewer than two dimensions: it has no rank to measure"))
            .param("weights");
    }
    let mut nearest: Vec<(f64, &str)> =
        matrices.iter().map(|name| (strsim::normalized_damerau_levenshtein(text, name), *name)).collect();
    nearest.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let names: Vec<String> = nearest.iter().take(3).map(|(_, name)| format!("`{name}`")).collect();
    let error = StageError::new(format!("no weight with two dimensions is named `{text}`")).param("weights");
    if names.is_empty() {
        error.help("the model has none at all")
    } else {
        error.help(format!("the nearest of its {} are {}", matrices.len(), names.join(", ")))
    }
}

/// Measures the weights on as many threads as the stage has; the results keep the order of `names`.
fn measure_all(
    model: &SafeTensors<'_>,
    names: &[String],
    at_init: &BTreeMap<String, f64>,
    params: &RankAnalysisParams,
    ctx: &mut StageContext<'_>,
) -> Result<Vec<WeightRanks>, StageError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(ctx.threads())
        .build()
        .map_err(|error| StageError::new(format!("threads cannot be started: {error}")))?;
    let mut results: Vec<Option<WeightRanks>> = vec![None; names.len()];
    pool.in_place_scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for (index, name) in names.iter().enumerate() {
            let sender = sender.clone();
            // The receiver is gone once the stage was asked to stop: what is left is then not begun.
            scope.spawn(move |_| drop(sender.send((index, measure(model, name, at_init.get(name), params)))));
        }
        drop(sender);
        let total = names.len() as u64;
        for (done, (index, result)) in receiver.iter().enumerate() {
            results[index] = Some(result?);
            ctx.progress(&Progress { done: done as u64 + 1, total, unit: "weight".to_owned(), figures: Vec::new() });
            ctx.stop_if_asked()?;
        }
        Ok::<(), StageError>(())
    })?;
    Ok(results.into_iter().flatten().collect())
}

fn measure(
    model: &SafeTensors<'_>,
    name: &str,
    at_init: Option<&f64>,
    params: &RankAnalysisParams,
) -> Result<WeightRanks, StageError> {
    let view = view(model, name)?;
    let [m, n] = matrix_shape(view.shape());
    let s = spectrum_of(name, &view)?;
    let tolerance = match params.tolerance {
        Some(Tolerance::Absolute(tol)) => tol,
        Some(Tolerance::Relative(share)) => share * s[0],
        None => Spectrum::default_tol(m, n, stored_eps(view.dtype()), &s),
    };
    let measures = Spectrum::new(&s, tolerance).measures(&params.energy);
    Ok(WeightRanks {
        name: name.to_owned(),
        shape: view.shape().to_vec(),
        matrix: [m, n],
        dtype: format!("{:?}", view.dtype()).to_lowercase(),
        tolerance,
        scaled_stable_rank: at_init.map(|start| scaled_stable_rank(measures.stable_rank, *start, m.min(n))),
        measures,
        singular_values: s,
    })
}

fn stable_ranks(model: &SafeTensors<'_>, names: &[String]) -> Result<BTreeMap<String, f64>, StageError> {
    let one = |name: &String| {
        let s = spectrum_of(name, &view(model, name)?)?;
        Ok((name.clone(), Spectrum::new(&s, 0.0).stable_rank()))
    };
    names.iter().map(one).collect()
}

fn view<'a>(model: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>, StageError> {
    model.tensor(name).map_err(|error| StageError::new(format!("the weight `{name}` cannot be read: {error}")))
}

/// Rows and columns of a weight as a matrix: `[out, in * kernel]` for a convolution.
fn matrix_shape(shape: &[usize]) -> [usize; 2] {
    [shape.first().copied().unwrap_or(1), shape.iter().skip(1).product()]
}

fn spectrum_of(name: &str, view: &TensorView<'_>) -> Result<Vec<f64>, StageError> {
    let [m, n] = matrix_shape(view.shape());
    let entries = as_f64(view).ok_or_else(|| {
        StageError::new(format!("the weight `{name}` is stored as {:?}, which has no singular values", view.dtype()))
            .help("name the weights to measure in `weights`")
    })?;
    let matrix = Mat::from_fn(m, n, |i, j| entries[i * n + j]);
    singular_values(matrix.as_ref()).map_err(|error| {
        let failure = StageError::new(format!("the weight `{name}` cannot be measured: {error}"));
        match error {
            LinalgError::NotFinite { .. } => failure.help("the training that made this model has diverged"),
            _ => failure,
        }
    })
}

/// The relative distance between neighbouring numbers of the type.
fn stored_eps(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F64 => f64::EPSILON,
        Dtype::F16 => f64::from(f16::EPSILON),
        Dtype::BF16 => f64::from(bf16::EPSILON),
        _ => f64::from(f32::EPSILON),
    }
}

fn as_f64(view: &TensorView<'_>) -> Option<Vec<f64>> {
    fn each<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes.as_chunks::<N>().0.iter().map(|bytes| read(*bytes)).collect()
    }
    let data = view.data();
    Some(match view.dtype() {
        Dtype::F64 => each(data, f64::from_le_bytes),
        Dtype::F32 => each(data, |bytes| f64::from(f32::from_le_bytes(bytes))),
        Dtype::F16 => each(data, |bytes| f64::from(f16::from_le_bytes(bytes))),
        Dtype::BF16 => each(data, |bytes| f64::from(bf16::from_le_bytes(bytes))),
        _ => return None,
    })
}

/// Figures of the whole model: plain means over the weights.
fn summarise(weights: &[WeightRanks], ctx: &mut StageContext<'_>) -> Result<(), StageError> {
    let mean = |measure: fn(&WeightRanks) -> f64| weights.iter().map(measure).sum::<f64>() / weights.len() as f64;
    ctx.result("weights", weights.len() as f64)?;
    ctx.result("mean_rank", mean(|w| w.measures.rank as f64))?;
    ctx.result("mean_stable_rank", mean(|w| w.measures.stable_rank))?;
    ctx.result("mean_effective_rank", mean(|w| w.measures.effective_rank))?;
    ctx.result("mean_proportional_effective_rank", mean(|w| w.measures.proportional_effective_rank))?;
    ctx.result("mean_participation_ratio", mean(|w| w.measures.participation_ratio))?;
    if weights.iter().all(|w| w.scaled_stable_rank.is_some()) {
        ctx.result("mean_scaled_stable_rank", mean(|w| w.scaled_stable_rank.unwrap_or(0.0)))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "rank_analysis_tests.rs"]
mod tests;
