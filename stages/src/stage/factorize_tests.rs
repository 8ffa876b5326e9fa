//! Tests of `factorize`.

use burn::tensor::Tensor;
use serde_json::json;

use super::*;
use crate::{
    linalg::host::to_host,
    model::vision::{Architecture, Pass, VisionParams},
    stage::{RankAnalysis, RankAnalysisParams},
    testing::test_device,
    testing::{Bench, Recorder, classifier, lenet, result},
};

fn model(name: Architecture) -> VisionModel {
    let width = (name == Architecture::Resnet20).then_some(8);
    classifier(VisionParams { width, ..VisionParams::of(name) }, 16)
}

fn params(value: serde_json::Value) -> FactorizeParams {
    serde_json::from_value(value).unwrap()
}

fn images() -> Tensor<4> {
    let values: Vec<f32> = crate::random::Rng::new(1).normal(4 * 256, 1.0);
    Tensor::from_data(burn::tensor::TensorData::new(values, [4, 1, 16, 16]), &test_device())
}

/// Factorises `model` and gives the stored result and the figures.
fn run(
    bench: &Bench,
    name: &str,
    model: &VisionModel,
    params: &FactorizeParams,
) -> Result<(VisionModel, Vec<sepia_engine::stage::MetricPoint>), StageError> {
    let source = bench.path("dense");
    save_vision(model, &source).unwrap();
    let job = bench.job(name, &[("model", &source)], &["model"]);
    let points = Bench::run::<Factorize>(params, job, &mut Recorder::default())?;
    Ok((load_vision(&bench.path(name).join("model"), &test_device())?, points))
}

fn worst(a: Tensor<2>, b: Tensor<2>) -> f64 {
    (to_host(&a).unwrap() - to_host(&b).unwrap()).norm_max()
}

#[test]
fn full_ranks_compute_what_the_dense_model_did_in_every_form() {
    let (bench, dense) = (Bench::new(), model(Architecture::Resnet20));
    let expected = dense.forward(images(), &mut Pass::eval());
    for form in ["channel", "spatial", "decoupled"] {
        let all = params(json!({ "ranks": { "ratio": 1.0 }, "form": form, "keep_larger": true }));
        let (found, points) = run(&bench, form, &dense, &all).unwrap();
        assert_eq!(result(&points, "factored_layers"), 18.0);
        let logits = found.forward(images(), &mut Pass::eval());
        assert!(worst(logits, expected.clone()) < 1e-3, "{form}");
    }
}

#[test]
fn a_ratio_makes_the_model_smaller_and_its_layers_the_best_of_their_rank() {
    let (bench, dense) = (Bench::new(), model(Architecture::Resnet20));
    let (found, points) = run(&bench, "quarter", &dense, &params(json!({ "ranks": { "ratio": 0.25 } }))).unwrap();
    assert!(result(&points, "parameters_kept") < 0.5);
    assert_eq!(result(&points, "parameters"), found.parameters() as f64);
    assert_eq!(result(&points, "rank/layer3.2.conv2"), 8.0);
    let layer = found.layer("layer3.2.conv2").unwrap();
    let cut =
        factor::truncate(&to_host(&dense.layer("layer3.2.conv2").unwrap().dense()).unwrap(), factor::Keep::Rank(8));
    assert!((to_host(&layer.dense()).unwrap() - cut.unwrap().matrix).norm_max() < 1e-5);
}

#[test]
fn layers_whose_factors_would_be_larger_stay_dense() {
    let (bench, dense) = (Bench::new(), model(Architecture::Resnet20));
    let (found, points) = run(&bench, "full", &dense, &params(json!({ "ranks": { "ratio": 1.0 } }))).unwrap();
    assert_eq!((result(&points, "factored_layers"), result(&points, "parameters_kept")), (0.0, 1.0));
    assert!(!found.layer("layer1.0.conv1").unwrap().is_factored());
}

#[test]
fn ranks_come_from_an_analysis_a_table_or_another_model() {
    let (bench, dense) = (Bench::new(), model(Architecture::Lenet));
    let source = bench.path("dense");
    save_vision(&dense, &source).unwrap();
    let job = bench.job("analysis", &[("model", &source)], &["ranks"]);
    Bench::run::<RankAnalysis>(&RankAnalysisParams::default(), job, &mut Recorder::default()).unwrap();
    let ranks = bench.path("analysis").join("ranks");

    let measured = params(json!({ "measure": "stable_rank", "table": { "fc2": 5 } }));
    let job = bench.job("measured", &[("model", &source), ("ranks", &ranks)], &["model"]);
    let points = Bench::run::<Factorize>(&measured, job, &mut Recorder::default()).unwrap();
    let analysis = rank_analysis::read_ranks(&ranks).unwrap();
    let fc1 = analysis.weights.iter().find(|weight| weight.name == "fc1.weight").unwrap();
    assert_eq!(result(&points, "rank/fc1"), fc1.measures.stable_rank.ceil());
    assert_eq!(result(&points, "rank/fc2"), 5.0);

    let small = bench.path("measured").join("model");
    let job = bench.job("like", &[("model", &source), ("like", &small)], &["model"]);
    Bench::run::<Factorize>(&FactorizeParams::default(), job, &mut Recorder::default()).unwrap();
    let read = |name: &str| fs_err::read(bench.path(name).join("model/model.safetensors")).unwrap();
    assert_eq!(read("like"), read("measured"));
}

#[test]
fn what_cannot_be_done_names_the_layer() {
    let (bench, dense) = (Bench::new(), model(Architecture::Lenet));
    let error = |value| run(&bench, "bad", &dense, &params(value)).map(|_| ()).unwrap_err();
    let text = |value| error(value).to_string();
    assert_eq!(
        text(json!({ "table": { "fc2": 99 } })),
        "rank 99 of `fc2` must be between 1 and 84, the smaller side of its 84x120 matrix"
    );
    let error_of_lorap = text(json!({ "lorap": { "keep": 0.5 } }));
    assert!(error_of_lorap.starts_with("`lorap` shares out the ranks of a LLaMA's attention"), "{error_of_lorap}");
    assert_eq!(text(json!({ "ranks": { "ratio": 0.5 }, "layers": ["conv3"] })), "no layer is named `conv3`");
    let StageError::Failed { param, help, .. } = error(json!({ "table": { "fc22": 3 } })) else { panic!() };
    assert_eq!(param.unwrap(), "table");
    assert!(help.unwrap().contains("`fc2`"));
}

#[test]
fn a_manifest_that_cannot_work_is_refused_before_anything_runs() {
    let problems = |value: serde_json::Value, connected: &[&str]| -> Vec<String> {
        let inputs = connected.iter().map(|name| ((*name).to_owned(), vec![[].into()])).collect();
        let mut check = Check::new(&inputs, camino::Utf8Path::new("."));
        Factorize::check(&params(value), &mut check);
        check.finish().1.into_iter().map(|problem| format!("{}: {}", problem.param, problem.message)).collect()
    };
    assert_eq!(problems(json!({}), &["model"]), ["ranks: nothing says which ranks the layers get"]);
    assert_eq!(problems(json!({ "measure": "rank" }), &["model"]), ["measure: `measure` needs a rank analysis"]);
    assert_eq!(problems(json!({ "ranks": { "rank": 0 } }), &["model"]), ["ranks: rank 0 leaves nothing"]);
    assert_eq!(problems(json!({ "table": { "fc1": 0 } }), &["model"]), ["table: rank 0 leaves nothing of `fc1`"]);
    assert_eq!(
        problems(json!({ "ranks": { "ratio": 0.5 } }), &["model", "like"]),
        ["ranks: `ranks`, `measure`, `lorap` and the input `like` each say the ranks of the same layers"]
    );
    assert_eq!(
        problems(json!({ "lorap": { "keep": 1.5 }, "measure": "rank" }), &["model", "ranks"]),
        [
            "measure: `ranks`, `measure`, `lorap` and the input `like` each say the ranks of the same layers",
            "lorap.keep: 1.5 is not a share that can be kept"
        ]
    );
    assert_eq!(problems(json!({ "ranks": { "energy": 0.9 } }), &["model"]), Vec::<String>::new());
}

#[test]
fn activations_decide_which_directions_are_kept() {
    let (bench, dense) = (Bench::new(), lenet());
    let data = bench.fashion_images(20);
    let source = bench.path("dense");
    save_vision(&dense, &source).unwrap();
    let params = params(json!({ "ranks": { "rank": 12 }, "layers": ["fc1"] }));
    let factors = |name: &str, inputs: &[(&str, &camino::Utf8Path)]| {
        Bench::run::<Factorize>(&params, bench.job(name, inputs, &["model"]), &mut Recorder::default()).unwrap();
        load_vision(&bench.path(name).join("model"), &test_device()).unwrap()
    };
    let plain = factors("plain", &[("model", &source)]);
    let weighted = factors("weighted", &[("model", &source), ("data", &data)]);
    let folder = ImageFolder::open(&data).unwrap();
    let squares = input_squares(&dense, &folder, 100, &test_device()).unwrap().remove("fc1").unwrap();
    assert_eq!(squares.len(), 400);
    // The error over the inputs that come, `||(W - W_k) D||_F`, is smaller; that of the matrix itself is larger.
    let matrix = |model: &VisionModel| to_host(&model.layer("fc1").unwrap().dense()).unwrap();
    let whole = matrix(&dense);
    let errors = |model: &VisionModel| {
        let off = &whole - matrix(model);
        let over_inputs = faer::Mat::from_fn(off.nrows(), off.ncols(), |i, j| off[(i, j)] * squares[j].sqrt());
        (off.norm_l2(), over_inputs.norm_l2())
    };
    let ((plain, plain_seen), (weighted, weighted_seen)) = (errors(&plain), errors(&weighted));
    assert!(weighted_seen < plain_seen && weighted > plain, "{plain_seen} {weighted_seen}");
}
