//! `factorize` for LLaMA models: matrices of attention and MLP as two factors.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use camino::Utf8Path;
use sepia_engine::stage::{Progress, StageContext, StageError};

use super::{factorize::FactorizeParams, llama_calibration::Calibration, rank_analysis};
use crate::{
    data::TokenFolder,
    device,
    factor::{self, LayerError, RankRule},
    linalg::{
        factor::{Kept, spectral_factors},
        host::{to_device, to_host},
        svd::{LinalgError, singular_values},
    },
    model::{self, Linear},
};

/// Factorises the model in `folder`.
///
/// # Errors
/// When a parameter is one of classifiers alone, a layer is not there or has no such rank, or a file cannot be read.
pub(super) fn factorize(
    params: &FactorizeParams,
    folder: &Utf8Path,
    ctx: &mut StageContext<'_>,
) -> Result<(), StageError> {
    for (port, help) in [("data", "connect tokens: `tokens`"), ("like", "leave it out, and say `ranks` or a `table`")] {
        if ctx.input_opt(port).is_some() {
            let message = format!("the input `{port}` is for classifiers of images, and this model is a LLaMA");
            return Err(StageError::new(message).help(help));
        }
    }
    if params.extra_norm || params.form != model::vision::Form::Channel {
        let message = "the matrices of a LLaMA have the channel form alone, without a BatchNorm between their factors";
        return Err(StageError::new(message).param(if params.extra_norm { "extra_norm" } else { "form" }));
    }
    let device = device::open(ctx)?;
    let mut model = model::load(folder, &device)?;
    if !model.factor_ranks().is_empty() {
        return Err(StageError::new("the model is factored already").help("connect the model as it was before"));
    }
    let ranks = wanted(params, &mut model, ctx)?;
    let mut calibration = match ctx.input_opt("tokens") {
        Some(tokens) => {
            let tokens = TokenFolder::open(&tokens)?;
            Some(Calibration::new(&model, &tokens, params.calibration_sequences, &device)?)
        }
        None => None,
    };
    let (dense, total) = (model.stored_parameters(), ranks.len() as u64);
    let mut done = 0;
    for (index, block) in model.model.layers.iter_mut().enumerate() {
        let at = format!("model.layers.{index}");
        let squares = calibration.as_ref().map_or(Ok(BTreeMap::new()), |seen| seen.squares(block, &at))?;
        for (name, linear) in block.linears_mut() {
            let path = format!("{at}.{name}");
            let Some(&rank) = ranks.get(&path) else { continue };
            ctx.stop_if_asked()?;
            let weight = linear.weight.val();
            if params.keep_larger || factor::is_smaller_factored(rank, weight.dims()) {
                let found = factors(&weight, rank, squares.get(name));
                let (u, v) = found.map_err(|source| LayerError::Linalg { path, source })?;
                linear.set_factors(u, v);
            } else {
                ctx.note(&format!("`{path}` stays dense: factors of rank {rank} would not be smaller"));
            }
            done += 1;
            ctx.progress(&Progress { done, total, unit: "layer".to_owned(), figures: Vec::new() });
        }
        if let Some(calibration) = &mut calibration {
            calibration.pass(block);
        }
    }
    let tokenizer = Some(folder.join("tokenizer.json")).filter(|path| path.exists());
    model::save(&model, &ctx.output("model")?, tokenizer.as_deref())?;
    let (kept, factored) = (model.stored_parameters(), model.factor_ranks());
    ctx.result("parameters", kept as f64)?;
    ctx.result("factored_layers", factored.len() as f64)?;
    ctx.result("parameters_kept", kept as f64 / dense.max(1) as f64)?;
    for (path, rank) in factored {
        ctx.result(&format!("rank/{path}"), rank as f64)?;
    }
    Ok(())
}

/// `[m, r]` and `[r, n]`: the best ones of a weight, or the best where its inputs are large.
fn factors(weight: &Tensor<2>, rank: usize, squares: Option<&Vec<f64>>) -> Result<(Tensor<2>, Tensor<2>), LinalgError> {
    let Some(squares) = squares else { return spectral_factors(weight, rank, Kept::Values) };
    let (u, v) = factor::split_weighted(&to_host(weight)?, rank, squares)?;
    Ok((to_device(&u, &weight.device(), weight.dtype()), to_device(&v, &weight.device(), weight.dtype())))
}

/// The rank of each layer that gets one, by path.
fn wanted(
    params: &FactorizeParams,
    model: &mut model::Llama,
    ctx: &StageContext<'_>,
) -> Result<BTreeMap<String, usize>, StageError> {
    let targets = model.targets_mut();
    let names: Vec<&str> = targets.iter().map(|(path, _)| path.as_str()).collect();
    let mut found: BTreeMap<usize, usize> = BTreeMap::new();
    if params.ranks.is_some() || params.measure.is_some() {
        let analysis = match params.measure {
            Some(measure) => Some((measure, rank_analysis::read_ranks(&ctx.input("ranks")?)?)),
            None => None,
        };
        for index in factor::chosen_names(&names, params.layers.as_deref(), "layers")? {
            let (path, linear) = &targets[index];
            let rank = match (params.ranks, &analysis) {
                (Some(rule), _) => by_rule(path, linear, rule)?,
                (None, Some((measure, analysis))) => analysis.rank_of(path, *measure, linear.weight.val().dims())?,
                (None, None) => continue,
            };
            found.insert(index, rank);
        }
    }
    if let Some(lorap) = params.lorap {
        for index in factor::chosen_names(&names, params.layers.as_deref(), "layers")? {
            let (path, linear) = &targets[index];
            found.extend(lorap.rank_of(path, linear.weight.val().dims()[0]).map(|rank| (index, rank)));
        }
    }
    found.extend(factor::by_names(&names, &params.table)?);
    let fits = |(index, rank): (usize, usize)| {
        let (path, linear) = &targets[index];
        factor::fits(rank, linear.weight.val().dims())
            .map_err(|source| LayerError::Rank { path: path.clone(), source })?;
        Ok((path.clone(), rank))
    };
    found.into_iter().map(fits).collect()
}

fn by_rule(path: &str, linear: &Linear, rule: RankRule) -> Result<usize, LayerError> {
    let weight = linear.weight.val();
    let s = if rule.needs_spectrum() {
        let s = to_host(&weight).and_then(|matrix| singular_values(matrix.as_ref()));
        s.map_err(|source| LayerError::Linalg { path: path.to_owned(), source })?
    } else {
        Vec::new()
    };
    rule.rank(weight.dims(), &s).map_err(|source| LayerError::Rank { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use crate::testing::test_device;
    use camino::Utf8PathBuf;
    use serde_json::json;

    use super::super::Factorize;
    use crate::{
        model::{self, Llama, LlamaConfig},
        testing::{Bench, Recorder, result},
    };
    use sepia_engine::stage::{MetricPoint, StageError};

    fn source(bench: &Bench) -> Utf8PathBuf {
        let config = LlamaConfig { d_model: 16, d_ff: 24, n_layer: 2, n_head: 2, vocab_size: 11, seq_len: 8 };
        let seed = |name: &str| sepia_engine::stage::derive_seed(1, name, 0);
        let folder = bench.path("dense");
        model::save(&Llama::new(config, seed, &test_device()), &folder, None).unwrap();
        folder
    }

    fn run(bench: &Bench, name: &str, params: serde_json::Value) -> Result<Vec<MetricPoint>, StageError> {
        let job = bench.job(name, &[("model", &source(bench))], &["model"]);
        Bench::run::<Factorize>(&serde_json::from_value(params).unwrap(), job, &mut Recorder::default())
    }

    #[test]
    fn matrices_get_the_ranks_that_are_asked_for_and_only_smaller_ones_are_factored() {
        let bench = Bench::new();
        let table = json!({ "*.down_proj": 4, "model.layers.1.mlp.down_proj": 3, "*.0.self_attn.q_proj": 16 });
        let points = run(&bench, "a", json!({ "ranks": { "ratio": 0.25 }, "layers": ["*.up_proj"], "table": table }));
        let points = points.unwrap();
        let found = model::load(&bench.path("a").join("model"), &test_device()).unwrap();
        let ranks: Vec<(String, usize)> = found.factor_ranks().into_iter().collect();
        let expected = [("0.mlp.down_proj", 4), ("0.mlp.up_proj", 4), ("1.mlp.down_proj", 3), ("1.mlp.up_proj", 4)];
        assert_eq!(ranks, expected.map(|(path, rank)| (format!("model.layers.{path}"), rank)));
        assert_eq!(result(&points, "parameters"), found.stored_parameters() as f64);
        assert_eq!(result(&points, "rank/model.layers.1.mlp.down_proj"), 3.0);
        assert!(result(&points, "parameters_kept") < 1.0);
    }

    #[test]
    fn lorap_gives_values_and_outputs_more_than_queries_and_keys() {
        let bench = Bench::new();
        run(&bench, "lorap", json!({ "lorap": { "keep": 0.5 } })).unwrap();
        let found = model::load(&bench.path("lorap").join("model"), &test_device()).unwrap().factor_ranks();
        let ranks = ["q", "k", "v", "o"].map(|name| found[&format!("model.layers.1.self_attn.{name}_proj")]);
        assert_eq!((found.len(), ranks), (8, [2, 2, 6, 6]));
    }

    #[test]
    fn what_cannot_be_names_the_layer() {
        let bench = Bench::new();
        let says = |params| run(&bench, "b", params).unwrap_err().to_string();
        let error = says(json!({ "ranks": { "rank": 17 }, "layers": ["*.1.self_attn.k_proj"] }));
        let expected = "rank 17 is above 16, the smaller side of the 16x16 matrix";
        assert_eq!(error, format!("`model.layers.1.self_attn.k_proj`: {expected}"));
        assert_eq!(says(json!({ "table": { "fc1": 3 } })), "no layer is named `fc1`");
        let error = says(json!({ "ranks": { "rank": 3 }, "form": "spatial" }));
        assert!(error.starts_with("the matrices of a LLaMA have the channel form alone"), "{error}");
    }
}
