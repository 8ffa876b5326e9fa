//! Tests of the rank analysis, through files as a run has them.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use safetensors::tensor::{Dtype, TensorView, serialize};
use sepia_engine::stage::{Job, Sink, StopFlag};

use super::*;
use crate::vectors::{assert_near, vector};

struct Quiet;

impl Sink for Quiet {
    fn progress(&mut self, _: &Progress) {}
    fn note(&mut self, _: &str) {}
    fn resumed(&mut self, _: u64) {}
    fn checkpoint(&mut self, _: u64) {}
}

/// A model folder with these f32 weights.
fn model(folder: &Utf8Path, weights: &[(&str, Vec<usize>, Vec<f32>)]) -> Utf8PathBuf {
    let bytes: Vec<Vec<u8>> =
        weights.iter().map(|(_, _, data)| data.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = weights.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        ((*name).to_owned(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    fs_err::create_dir_all(folder).unwrap();
    fs_err::write(folder.join("model.safetensors"), serialize(views, None).unwrap()).unwrap();
    folder.to_owned()
}

fn run(
    folder: &Utf8Path,
    inputs: &[(&str, Utf8PathBuf)],
    threads: usize,
    params: &RankAnalysisParams,
) -> Result<(Ranks, Vec<u8>, String), StageError> {
    let ranks = folder.join(format!("ranks-{threads}"));
    let job = Job {
        threads,
        inputs: inputs.iter().map(|(port, path)| ((*port).to_owned(), vec![path.clone()])).collect(),
        outputs: BTreeMap::from([("ranks".to_owned(), ranks.clone())]),
        metrics: folder.join("metrics.tsv"),
        ..Job::default()
    };
    let mut sink = Quiet;
    let mut ctx = StageContext::new(job, &mut sink, StopFlag::default())?;
    RankAnalysis::run(params, &NoKnobs {}, &mut ctx)?;
    ctx.finish()?;
    let bytes = fs_err::read(ranks.join("ranks.json")).unwrap();
    let metrics = fs_err::read_to_string(folder.join("metrics.tsv")).unwrap();
    Ok((serde_json::from_slice(&bytes).unwrap(), bytes, metrics))
}

fn temporary() -> (tempfile::TempDir, Utf8PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
    (folder, path)
}

fn small(folder: &Utf8Path) -> Utf8PathBuf {
    model(
        folder,
        &[
            ("model.layers.0.mlp.up_proj.weight", vec![3, 4], vec![1., 2., 0., -1., 0., 1., 3., 1., 2., -1., 1., 0.]),
            ("model.embed_tokens.weight", vec![3, 3], vec![4., 0., 0., 0., 2., 0., 0., 0., 1.]),
            ("model.norm.weight", vec![3], vec![1.0; 3]),
        ],
    )
}

#[test]
fn all_matrices_are_measured_in_the_order_of_their_names() {
    let (_keep, folder) = temporary();
    let input = small(&folder.join("model"));
    let (ranks, _, metrics) = run(&folder, &[("model", input)], 1, &RankAnalysisParams::default()).unwrap();
    let names: Vec<&str> = ranks.weights.iter().map(|weight| weight.name.as_str()).collect();
    assert_eq!(names, ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"]);
    assert_near(ranks.weights[0].measures.stable_rank, 1.3125, 1e-12);
    assert_near(ranks.weights[1].measures.stable_rank, 1.94025663568, 1e-9);
    assert_eq!(ranks.weights[0].singular_values.len(), 3);
    let mean = metrics.lines().find(|line| line.starts_with("mean_stable_rank\t-\t")).unwrap();
    assert_near(mean.rsplit('\t').next().unwrap().parse().unwrap(), (1.3125 + 1.94025663568) / 2.0, 1e-9);
}

/// A model that was trained in bf16 is stored so.
#[test]
fn weights_in_sixteen_bits_are_measured_as_the_same_in_f32() {
    let (_keep, folder) = temporary();
    // bf16 and f16 hold these exactly.
    let values = [1.0_f32, 2.0, 0.0, -1.5, 0.0, 1.0, 3.0, 0.25, 2.0, -1.0, 1.0, 0.0];
    let bytes = |of: fn(f32) -> Vec<u8>| values.into_iter().flat_map(of).collect::<Vec<u8>>();
    let stored = [
        (Dtype::F32, bytes(|x| x.to_le_bytes().to_vec())),
        (Dtype::BF16, bytes(|x| bf16::from_f32(x).to_le_bytes().to_vec())),
        (Dtype::F16, bytes(|x| f16::from_f32(x).to_le_bytes().to_vec())),
    ];
    let found = stored.map(|(dtype, bytes)| {
        let input = folder.join(format!("{dtype:?}"));
        let view = TensorView::new(dtype, vec![3, 4], &bytes).unwrap();
        fs_err::create_dir_all(&input).unwrap();
        let file = serialize([("model.layers.0.mlp.up_proj.weight".to_owned(), view)], None).unwrap();
        fs_err::write(input.join("model.safetensors"), file).unwrap();
        let (ranks, _, _) = run(&input, &[("model", input.clone())], 1, &RankAnalysisParams::default()).unwrap();
        (ranks.weights[0].singular_values.clone(), ranks.weights[0].measures.stable_rank)
    });
    assert!(found.iter().all(|other| *other == found[0]), "{found:?}");
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let (_keep, folder) = temporary();
    let weights: Vec<(String, Vec<f32>)> = (0..7)
        .map(|w| (format!("w{w}.weight"), (0..40 * 24).map(|i| ((i * (w + 3)) as f32 * 0.37).sin()).collect()))
        .collect();
    let weights: Vec<(&str, Vec<usize>, Vec<f32>)> =
        weights.iter().map(|(name, data)| (name.as_str(), vec![40, 24], data.clone())).collect();
    let input = model(&folder.join("model"), &weights);
    let one = run(&folder, &[("model", input.clone())], 1, &RankAnalysisParams::default()).unwrap().1;
    let three = run(&folder, &[("model", input)], 3, &RankAnalysisParams::default()).unwrap().1;
    assert_eq!(one, three);
}

#[test]
fn a_convolution_is_measured_as_its_channel_matrix() {
    let vector = vector("conv_reshape");
    let kernel: Vec<Vec<Vec<Vec<f64>>>> = vector.input("kernel");
    let flat: Vec<f32> = kernel.iter().flatten().flatten().flatten().map(|x| *x as f32).collect();
    let (_keep, folder) = temporary();
    let input = model(&folder.join("model"), &[("conv.weight", vec![2, 2, 2, 2], flat)]);
    let (ranks, ..) = run(&folder, &[("model", input)], 1, &RankAnalysisParams::default()).unwrap();
    assert_eq!(ranks.weights[0].matrix, [2, 8]);
    let expected: Vec<f64> = vector.expected("channel_singular_values");
    for (found, expected) in ranks.weights[0].singular_values.iter().zip(expected) {
        assert_near(*found, expected, 1e-6);
    }
}

#[test]
fn a_pattern_that_matches_nothing_names_the_nearest_weights() {
    let (_keep, folder) = temporary();
    let input = small(&folder.join("model"));
    let params = |pattern: &str| RankAnalysisParams { weights: vec![pattern.to_owned()], ..Default::default() };
    let inputs = [("model", input)];
    let error = run(&folder, &inputs, 1, &params("model.embed_token.weight")).unwrap_err();
    let StageError::Failed { message, help, param } = error else { panic!("{error}") };
    assert_eq!(param.as_deref(), Some("weights"));
    insta::assert_snapshot!(message, @"no weight with two dimensions is named `model.embed_token.weight`");
    insta::assert_snapshot!(help.unwrap(), @"the nearest of its 2 are `model.embed_tokens.weight`, `model.layers.0.mlp.up_proj.weight`");
    let error = run(&folder, &inputs, 1, &params("model.norm*")).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @"`model.norm.weight` has fewer than two dimensions: it has no rank to measure");
    let (ranks, ..) = run(&folder, &inputs, 1, &params("*.mlp.*")).unwrap();
    assert_eq!(ranks.weights.len(), 1);
}

#[test]
fn a_weight_with_nan_is_named() {
    let (_keep, folder) = temporary();
    let input = model(&folder.join("model"), &[("w.weight", vec![2, 2], vec![1.0, f32::NAN, 0.0, 1.0])]);
    let error = run(&folder, &[("model", input)], 1, &RankAnalysisParams::default()).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @"the weight `w.weight` cannot be measured: the 2x2 matrix has 1 entries that are NaN or infinite");
}

#[test]
fn a_folder_without_a_model_says_what_is_missing() {
    let (_keep, folder) = temporary();
    let error = run(&folder, &[("model", folder.join("nothing"))], 1, &RankAnalysisParams::default()).unwrap_err();
    assert!(error.to_string().ends_with("nothing has no model.safetensors"), "{error}");
}

#[test]
fn the_initial_model_gives_the_scaled_stable_rank() {
    let (_keep, folder) = temporary();
    let input = small(&folder.join("model"));
    let inputs = [("model", input.clone()), ("initial", input)];
    let (ranks, _, metrics) = run(&folder, &inputs, 1, &RankAnalysisParams::default()).unwrap();
    for weight in &ranks.weights {
        assert_near(weight.scaled_stable_rank.unwrap(), 3.0, 1e-12);
    }
    assert!(metrics.contains("mean_scaled_stable_rank\t-\t"));
}

#[test]
fn the_tolerance_decides_what_counts_as_zero() {
    let (_keep, folder) = temporary();
    let input = small(&folder.join("model"));
    let rank = |tolerance| {
        let params = RankAnalysisParams { weights: vec!["*embed*".into()], tolerance, ..RankAnalysisParams::default() };
        run(&folder, &[("model", input.clone())], 1, &params).unwrap().0.weights[0].measures.rank
    };
    assert_eq!(rank(None), 3);
    assert_eq!(rank(Some(Tolerance::Absolute(1.5))), 2);
    assert_eq!(rank(Some(Tolerance::Relative(0.6))), 1);
}

#[test]
fn wrong_parameters_are_found_before_anything_runs() {
    let facts = BTreeMap::new();
    let mut check = Check::new(&facts, Utf8Path::new("."));
    let params = RankAnalysisParams {
        weights: vec!["[".into()],
        energy: vec![0.5, 0.0, 1.5],
        tolerance: Some(Tolerance::Relative(-1.0)),
        ..Default::default()
    };
    RankAnalysis::check(&params, &mut check);
    let problems: Vec<String> = check.finish().1.into_iter().map(|problem| problem.message).collect();
    insta::assert_debug_snapshot!(problems, @r#"
    [
        "`[` is not a pattern: Pattern syntax error near position 0: invalid range pattern",
        "0 is not a share of the total",
        "1.5 is not a share of the total",
        "-1 is not a tolerance",
    ]
    "#);
}

#[test]
fn the_tables_have_a_row_for_every_weight() {
    let (_keep, folder) = temporary();
    let input = small(&folder.join("model"));
    run(&folder, &[("model", input)], 1, &RankAnalysisParams::default()).unwrap();
    let table = fs_err::read_to_string(folder.join("ranks-1/ranks.md")).unwrap();
    insta::assert_snapshot!(table, @r"
    | weight | shape | rank | stable_rank | effective_rank | proportional_effective_rank | energy_entropy_rank | participation_ratio | intrinsic_dimension | condition_number | nuclear_norm | spectral_norm | energy_rank_0.5 | energy_rank_0.9 | energy_rank_0.95 | energy_rank_0.99 |
    |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
    | model.embed_tokens.weight | 3x3 | 3 | 1.31 | 2.60 | 0.87 | 1.95 | 1.62 | 1.75 | 4.00 | 7.00 | 4.00 | 1 | 2 | 2 | 3 |
    | model.layers.0.mlp.up_proj.weight | 3x4 | 3 | 1.94 | 2.95 | 0.98 | 2.79 | 2.61 | 2.37 | 1.52 | 8.16 | 3.44 | 1 | 3 | 3 | 3 |
    ");
    let tsv = fs_err::read_to_string(folder.join("ranks-1/ranks.tsv")).unwrap();
    let columns: Vec<usize> = tsv.lines().map(|line| line.split('\t').count()).collect();
    assert_eq!(columns, [16, 16, 16]);
}
