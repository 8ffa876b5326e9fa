//! TRP, Cuttlefish and Maestro as stages, on the images that ship.

use camino::{Utf8Path, Utf8PathBuf};
use sepia_engine::stage::{MetricPoint, Stage, StageError};
use serde_json::json;

use super::{CuttlefishProfile, CuttlefishStage, ReduceRanks, TrainClassifier};
use crate::{
    method::{maestro::MaestroParams, trp::TrpParams, vision::AnyVisionMethod},
    model::vision::{VisionModel, load_vision},
    testing::{Bench, Recorder, result},
};

fn params<S: Stage>(more: serde_json::Value) -> S::Params {
    let mut all = json!({ "model": { "name": "lenet" }, "epochs": 4, "batch_size": 50, "lr": 0.05 });
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

fn model(folder: &Utf8Path) -> VisionModel {
    load_vision(folder, &burn::tensor::Device::flex()).unwrap()
}

fn weights(folder: &Utf8Path) -> Vec<u8> {
    fs_err::read(folder.join("model.safetensors")).unwrap()
}

/// Trains in one go, and again stopped after each of the first steps and at many later ones: both must end in the same
/// bytes. Returns the figures and the model's folder.
fn train<S: Stage>(
    bench: &Bench,
    name: &str,
    more: serde_json::Value,
    outputs: &[&str],
) -> (Vec<MetricPoint>, Utf8PathBuf)
where
    S::Params: Clone,
{
    let data = bench.path("data").join("data");
    let params = params::<S>(more);
    let whole = bench.job(&format!("{name} whole"), &[("data", &data)], outputs);
    let expected = whole.outputs["model"].clone();
    let points = Bench::run::<S>(&params, whole, &mut Recorder::default()).unwrap();
    let job = bench.job(&format!("{name} parts"), &[("data", &data)], outputs);
    let found = job.outputs["model"].clone();
    let mut attempts = 0;
    loop {
        let mut sink = Recorder::default();
        // Every attempt does one step and saves; the last one comes to its end.
        sink.stop.ask();
        match Bench::run::<S>(&params, job.clone(), &mut sink) {
            Err(StageError::Stopped { .. }) => attempts += 1,
            Err(error) => panic!("{error}"),
            Ok(_) => break,
        }
        assert!(attempts < 100, "no end");
    }
    assert!(attempts >= 8, "{attempts}");
    assert!(weights(&found) == weights(&expected), "{name} does not end in the same bytes after {attempts} stops");
    (points, expected)
}

#[test]
fn trp_decomposes_and_resumes_to_the_same_bytes() {
    let bench = Bench::new();
    bench.fashion_images(15);
    for at in ["truncation", "step"] {
        let method = json!({ "layers": ["conv2", "fc1"], "period": 2, "energy": 0.8, "nuclear_at": at, "at_end": { "energy": 0.8 } });
        let (points, folder) =
            train::<TrainClassifier<TrpParams>>(&bench, at, json!({ "method": method }), &["model", "trained"]);
        let small = model(&folder);
        assert!(small.layer("fc1").unwrap().is_factored());
        assert!(result(&points, "parameters") < result(&points, "dense_parameters"));
        assert_eq!(result(&points, "nuclear_per_step"), if at == "step" { 3e-4 } else { 1.5e-4 });
        let trained = model(&bench.path(&format!("{at} whole")).join("trained"));
        assert!(trained.layers().iter().all(|layer| !layer.is_factored()));
    }
}

#[test]
fn cuttlefish_switches_and_resumes_to_the_same_bytes_on_both_sides_of_the_switch() {
    let bench = Bench::new();
    bench.fashion_images(15);
    let method = json!({ "min_epoch": 0, "threshold": 1e9, "integer_ranks": true, "scaled": false });
    let (points, folder) = train::<CuttlefishStage>(&bench, "settled", json!({ "method": method }), &["model"]);
    // A slope needs two values: the first epoch's, and the second's.
    assert_eq!(result(&points, "switch_epoch"), 2.0);
    let small = model(&folder);
    assert!(small.layers().iter().any(|layer| layer.is_factored()));
    assert!(small.parameters() < small.dense_parameters());
    // The traces end with the switch.
    let traced = points.iter().filter(|point| point.name == "tracked_rank/fc1").count();
    assert_eq!(traced, 1);

    let method = json!({ "switch_epoch": 2, "scaled": false, "extra_norm": true });
    let (points, folder) = train::<CuttlefishStage>(&bench, "normed", json!({ "method": method }), &["model"]);
    assert_eq!(result(&points, "switch_epoch"), 2.0);
    assert!(model(&folder).layer("conv2").unwrap().is_factored());
    let traced = points.iter().filter(|point| point.name == "tracked_rank/fc1").count();
    assert_eq!(traced, 1);
}

#[test]
fn ranks_that_do_not_settle_in_time_leave_the_model_dense_and_a_note() {
    let bench = Bench::new();
    let data = bench.fashion_images(10);
    let method = json!({ "min_epoch": 0, "threshold": 1e-12, "relaxations": [] });
    let job = bench.job("never", &[("data", &data)], &["model"]);
    let mut sink = Recorder::default();
    let points = Bench::run::<CuttlefishStage>(&params::<CuttlefishStage>(json!({ "method": method })), job, &mut sink);
    let points = points.unwrap();
    assert_eq!((result(&points, "switch_epoch"), result(&points, "factored_layers")), (-1.0, 0.0));
    assert!(sink.notes.iter().any(|note| note.contains("the model stays dense: 3 layers")), "{:?}", sink.notes);
}

#[test]
fn maestro_shrinks_really_and_resumes_to_the_same_bytes() {
    let bench = Bench::new();
    let data = bench.fashion_images(15);
    let method = json!({ "lambda": 0.02, "threshold": 1.0 });
    let (points, folder) =
        train::<TrainClassifier<MaestroParams>>(&bench, "maestro", json!({ "method": method }), &["model", "trained"]);
    let footprint: Vec<f64> =
        points.iter().filter(|point| point.name == "footprint").map(|point| point.value).collect();
    assert!(footprint.windows(2).all(|pair| pair[1] <= pair[0]) && footprint.len() == 4, "{footprint:?}");
    assert!(footprint[3] < footprint[0], "factors get narrower while training: {footprint:?}");
    let (small, factors) = (model(&folder), model(&bench.path("maestro whole").join("trained")));
    assert!(small.parameters() <= factors.parameters());
    assert!(["conv2", "fc1", "fc2"].iter().all(|path| factors.layer(path).unwrap().is_factored()));

    let reduce = |budget: f64| {
        let source = bench.path("maestro whole").join("trained");
        let job = bench.job(&format!("budget {budget}"), &[("model", &source), ("data", &data)], &["model"]);
        let params = serde_json::from_value(json!({ "budget": budget, "images": 60, "step": 0.5, "batch_size": 50 }));
        Bench::run::<ReduceRanks>(&params.unwrap(), job, &mut Recorder::default())
    };
    for budget in [0.3, 0.1] {
        assert!(result(&reduce(budget).unwrap(), "parameters_kept") <= budget);
    }
    let error = reduce(1e-6).unwrap_err().to_string();
    assert!(error.starts_with("with rank 1 everywhere the model still has "), "{error}");
}

#[test]
fn factors_from_the_beginning_learn_and_resume_to_the_same_bytes() {
    let bench = Bench::new();
    bench.fashion_images(15);
    for name in ["low-rank", "condlr"] {
        let method = json!({ "name": name, "ranks": { "ratio": 0.25 } });
        let outputs = &["model", "trained"];
        let (points, folder) =
            train::<TrainClassifier<AnyVisionMethod>>(&bench, name, json!({ "method": method, "epochs": 5 }), outputs);
        assert_eq!(result(&points, "factored_layers"), 3.0);
        assert_eq!(model(&folder).layer("fc1").unwrap().factored().unwrap().1, 30);
        assert!(result(&points, "val_accuracy") > 0.2, "{name}: {}", result(&points, "val_accuracy"));
    }
}

#[test]
fn a_profile_times_each_stack_once_and_decides_what_is_factorised() {
    let bench = Bench::new();
    let data = bench.fashion_images(10);
    let job = bench.job("profile", &[("data", &data)], &["profile"]);
    let file = job.outputs["profile"].clone();
    let profile =
        serde_json::from_value(json!({ "model": { "name": "lenet" }, "batch_size": 20, "passes": 1 })).unwrap();
    let points = Bench::run::<CuttlefishProfile>(&profile, job, &mut Recorder::default()).unwrap();
    assert!(points.iter().filter(|point| point.name.starts_with("speedup/")).all(|point| point.value > 0.0));
    let mut found: serde_json::Value = serde_json::from_str(&fs_err::read_to_string(&file).unwrap()).unwrap();
    let stacks: Vec<&str> = found["stacks"].as_array().unwrap().iter().map(|s| s["stack"].as_str().unwrap()).collect();
    assert_eq!(stacks, ["conv", "fc"]);
    // Timings of which the linear layers alone pay.
    for (stack, dense) in [(0, 1.0), (1, 3.0)] {
        (found["stacks"][stack]["dense"], found["stacks"][stack]["factored"]) = (json!(dense), json!(1.0));
    }
    fs_err::write(&file, found.to_string()).unwrap();
    let job = bench.job("train", &[("data", &data), ("profile", &file)], &["model"]);
    let folder = job.outputs["model"].clone();
    let method = json!({ "switch_epoch": 1, "scaled": false });
    let params = params::<CuttlefishStage>(json!({ "method": method, "epochs": 3 }));
    Bench::run::<CuttlefishStage>(&params, job, &mut Recorder::default()).unwrap();
    let small = model(&folder);
    assert!(!small.layer("conv2").unwrap().is_factored() && small.layer("fc1").unwrap().is_factored());
}
