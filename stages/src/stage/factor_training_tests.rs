//! TRP, Cuttlefish and Maestro as stages, on the images that ship.

use camino::{Utf8Path, Utf8PathBuf};
use sepia_engine::stage::{MetricPoint, Stage, StageError};
use serde_json::json;

use super::{CuttlefishProfile, CuttlefishStage, ReduceRanks, TrainClassifier};
use crate::{
    method::{
        maestro::MaestroParams,
        trp::TrpParams,
        vision::{AnyVisionMethod, VISION_METHOD_INFOS},
    },
    model::vision::{VisionConfig, VisionModel, load_vision, save_vision},
    testing::{Bench, Recorder, result, test_device},
    train::vision::VisionMethodParams as _,
};

fn params<S: Stage>(more: serde_json::Value) -> S::Params {
    let mut all = json!({ "model": { "name": "lenet" }, "epochs": 4, "batch_size": 50, "lr": 0.05 });
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

fn model(folder: &Utf8Path) -> VisionModel {
    load_vision(folder, &test_device()).unwrap()
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
    train_from::<S>(bench, name, &[], more, outputs)
}

/// The same with inputs beside the data.
fn train_from<S: Stage>(
    bench: &Bench,
    name: &str,
    inputs: &[(&str, &Utf8Path)],
    more: serde_json::Value,
    outputs: &[&str],
) -> (Vec<MetricPoint>, Utf8PathBuf)
where
    S::Params: Clone,
{
    let data = bench.path("data").join("data");
    let inputs: Vec<(&str, &Utf8Path)> = [("data", data.as_path())].iter().chain(inputs).copied().collect();
    let params = params::<S>(more);
    let whole = bench.job(&format!("{name} whole"), &inputs, outputs);
    let expected = whole.outputs["model"].clone();
    let points = Bench::run::<S>(&params, whole, &mut Recorder::default()).unwrap();
    let job = bench.job(&format!("{name} parts"), &inputs, outputs);
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
    let never = json!({ "min_epoch": 0, "threshold": 1e-12, "relaxations": [] });
    let late = json!({ "min_epoch": 0, "threshold": 1e12, "latest": 0.25 });
    for (name, method, why) in [
        ("never", never, "3 layers had not settled in time"),
        ("late", late, "its layers settled only after 0.25 of all epochs (`latest`)"),
    ] {
        let job = bench.job(name, &[("data", &data)], &["model"]);
        let mut sink = Recorder::default();
        let params = params::<CuttlefishStage>(json!({ "method": method }));
        let points = Bench::run::<CuttlefishStage>(&params, job, &mut sink).unwrap();
        assert_eq!((result(&points, "switch_epoch"), result(&points, "factored_layers")), (-1.0, 0.0));
        let note = format!("the model stays dense: {why}");
        assert!(sink.notes.iter().any(|found| found.contains(&note)), "{:?}", sink.notes);
    }
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

/// What holds for every method, tested for every entry of the registry: a new one is tested before it has a test.
#[test]
fn every_method_learns_and_resumes_to_the_same_bytes() {
    let bench = Bench::new();
    let data = bench.fashion_images(15);
    let job = bench.job("teacher", &[("data", &data)], &["model", "trained"]);
    let teacher = job.outputs["model"].clone();
    let full = params::<TrainClassifier<AnyVisionMethod>>(json!({}));
    Bench::run::<TrainClassifier<AnyVisionMethod>>(&full, job, &mut Recorder::default()).unwrap();
    for info in VISION_METHOD_INFOS {
        let mut method = match info.name {
            // So that all happens that can happen in some steps.
            "trp" => json!({ "layers": ["conv2", "fc1"], "period": 2 }),
            "cuttlefish" => json!({ "switch_epoch": 2, "scaled": false }),
            "maestro" => json!({ "lambda": 0.02, "threshold": 1.0 }),
            _ => json!({}),
        };
        method["name"] = info.name.into();
        let taught = serde_json::from_value::<AnyVisionMethod>(method.clone()).unwrap().needs_teacher();
        let inputs = [("teacher", teacher.as_path())];
        let model = if taught { json!(null) } else { json!({ "name": "lenet" }) };
        let more = json!({ "method": method, "model": model, "epochs": 6 });
        let inputs = &inputs[..usize::from(taught)];
        let outputs = &["model", "trained"];
        let (points, _) = train_from::<TrainClassifier<AnyVisionMethod>>(&bench, info.name, inputs, more, outputs);
        let accuracy = result(&points, "val_accuracy");
        assert!(accuracy > 0.2, "{}: {accuracy}", info.name);
    }
}

#[test]
fn factors_from_the_beginning_have_the_ranks_asked_for() {
    let bench = Bench::new();
    let data = bench.fashion_images(15);
    for name in ["low-rank", "condlr"] {
        let method = json!({ "name": name, "ranks": { "ratio": 0.25 } });
        let job = bench.job(name, &[("data", &data)], &["model", "trained"]);
        let folder = job.outputs["model"].clone();
        let params = params::<TrainClassifier<AnyVisionMethod>>(json!({ "method": method, "epochs": 1 }));
        let points = Bench::run::<TrainClassifier<AnyVisionMethod>>(&params, job, &mut Recorder::default()).unwrap();
        assert_eq!(result(&points, "factored_layers"), 3.0);
        assert_eq!(model(&folder).layer("fc1").unwrap().factored().unwrap().1, 30);
    }
}

#[test]
fn a_student_learns_from_its_teacher_and_resumes_to_the_same_bytes() {
    type Train = TrainClassifier<AnyVisionMethod>;
    let bench = Bench::new();
    let data = bench.fashion_images(15);
    let train = |name: &str, inputs: &[(&str, &Utf8Path)], more: serde_json::Value| {
        let job = bench.job(name, inputs, &["model", "trained"]);
        let folder = job.outputs["model"].clone();
        Bench::run::<Train>(&params::<Train>(more), job, &mut Recorder::default()).map(|points| (points, folder))
    };
    // Long enough for BatchNorm's running statistics, by which the teacher goes.
    let residual = json!({ "model": { "name": "resnet-20", "width": 4 }, "epochs": 20 });
    let (_, dense) = train("dense", &[("data", &data)], residual).unwrap();
    let method = json!({ "name": "pela", "kd_beta": 0.1, "w_inf": 0.1 });
    let more = json!({ "model": null, "method": method, "epochs": 4, "lr": 0.01 });
    let inputs = [("teacher", dense.as_path())];
    let (points, folder) = train_from::<Train>(&bench, "pela", &inputs, more.clone(), &["model", "trained"]);
    // All convolutions but the stem, and the classifier: its 10 rows are not fewer than 10.
    assert_eq!(result(&points, "factored_layers"), 19.0);
    let small = model(&folder);
    assert!(2 * small.parameters() < small.dense_parameters() + 1000, "{}", small.parameters());
    let errors: Vec<f64> =
        points.iter().filter(|point| point.name == "feature_error").map(|point| point.value).collect();
    assert!(errors.len() == 4 && errors[3] < errors[0], "{errors:?}");
    for name in ["logit_error", "weight_error"] {
        assert_eq!(points.iter().filter(|point| point.name == name).count(), 4, "{name}");
    }

    // The student may be what another stage has made of the teacher, and must not be of another network.
    let inputs = [("data", data.as_path()), ("init", folder.as_path()), ("teacher", dense.as_path())];
    let (points, _) = train("again", &inputs, json!({ "model": null, "method": method, "epochs": 1 })).unwrap();
    assert_eq!(result(&points, "factored_layers"), 19.0);
    let (_, other) = train("other", &[("data", &data)], json!({ "epochs": 1 })).unwrap();
    let inputs = [("data", data.as_path()), ("init", other.as_path()), ("teacher", dense.as_path())];
    let error = train("wrong", &inputs, more.clone()).unwrap_err().to_string();
    assert!(
        error.starts_with("the input `teacher` is another network than `init`: {\"name\":\"resnet-20\""),
        "{error}"
    );
    // Nor for other images.
    let config = VisionConfig { classes: 3, ..model(&dense).config().clone() };
    let foreign = bench.path("foreign");
    save_vision(&VisionModel::new(config, |_| 1, &test_device()), &foreign).unwrap();
    let error = train("foreign", &[("data", &data), ("teacher", &foreign)], more).unwrap_err().to_string();
    let expected = "input `teacher`: the model was made for 1x28x28 images of 3 classes, but the data has 1x28x28 images \
                    of 10 classes";
    assert_eq!(error, expected);
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
