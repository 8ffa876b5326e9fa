//! Training, checkpoints and evaluation of classifiers, on the images that ship.

use camino::Utf8Path;
use sepia_engine::stage::StageError;

use super::*;
use crate::{
    linalg::factor::{Kept, spectral_factors},
    method::{maestro::MaestroParams, vision::AnyVisionMethod},
    model::vision::{Form, load_vision, save_vision},
    stage::{Activations, EvaluateClassifier, RankAnalysis},
    testing::test_device,
    testing::{Bench, Recorder, result},
};

type Train = TrainClassifier<AnyVisionMethod>;

fn params(more: serde_json::Value) -> ClassifierParams<AnyVisionMethod> {
    let mut all = serde_json::json!({
        "model": { "name": "lenet" }, "epochs": 2, "batch_size": 50, "lr": 0.05, "weight_decay": 1e-4,
        "augment": { "crop_padding": 2, "flip": true }, "rank_every": 1, "label_smoothing": 0.1,
    });
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

fn weights(folder: &Utf8Path) -> Vec<u8> {
    fs_err::read(folder.join("model.safetensors")).unwrap()
}

#[test]
fn lenet_learns_the_images_that_ship() {
    let bench = Bench::new();
    let data = bench.fashion_images(200);
    let job = bench.job("train", &[("data", &data)], &["model", "trained"]);
    let params = params(serde_json::json!({ "epochs": 4, "augment": {}, "label_smoothing": 0.0 }));
    let points = Bench::run::<Train>(&params, job, &mut Recorder::default()).unwrap();
    assert!(result(&points, "val_accuracy") > 0.65, "{}", result(&points, "val_accuracy"));
    assert_eq!(result(&points, "parameters"), 61_706.0);
    let traced = points.iter().filter(|point| point.name == "stable_rank/conv2").count();
    assert_eq!(traced, 5);
}

#[test]
fn an_interrupted_run_ends_in_the_same_bytes() {
    let bench = Bench::new();
    let data = bench.fashion_images(30);
    for (name, more) in [
        ("lenet", serde_json::json!({})),
        (
            "resnet",
            serde_json::json!({ "model": { "name": "resnet-20", "width": 4 }, "optimizer": { "name": "adamw" }, "lr": 0.003 }),
        ),
    ] {
        let params = params(more);
        let whole = bench.job(&format!("{name} whole"), &[("data", &data)], &["model", "trained"]);
        let expected = whole.outputs["model"].clone();
        Bench::run::<Train>(&params, whole, &mut Recorder::default()).unwrap();
        // Asked to stop from the beginning on, each attempt does one step and saves.
        let job = bench.job(&format!("{name} parts"), &[("data", &data)], &["model", "trained"]);
        let found = job.outputs["model"].clone();
        for attempt in 0..4 {
            let mut sink = Recorder::default();
            sink.stop.ask();
            let error = Bench::run::<Train>(&params, job.clone(), &mut sink).unwrap_err();
            assert!(matches!(error, StageError::Stopped { step } if step == attempt + 1), "{error}");
        }
        let mut sink = Recorder::default();
        Bench::run::<Train>(&params, job, &mut sink).unwrap();
        assert_eq!(sink.resumed, Some(4));
        assert!(weights(&found) == weights(&expected), "{name}");
    }
}

#[test]
fn a_factored_model_is_evaluated_against_the_dense_one() {
    let bench = Bench::new();
    let data = bench.fashion_images(30);
    let job = bench.job("train", &[("data", &data)], &["model", "trained"]);
    let dense = job.outputs["model"].clone();
    Bench::run::<Train>(&params(serde_json::json!({})), job, &mut Recorder::default()).unwrap();
    let device = test_device();
    let mut model = load_vision(&dense, &device).unwrap();
    let layer = model.layer_mut("fc1").unwrap();
    let (left, right) = spectral_factors(&layer.matrix(Form::Channel), 10, Kept::Values).unwrap();
    layer.factorize(Form::Channel, left, right, None).unwrap();
    let small = bench.path("small");
    save_vision(&model, &small).unwrap();
    let params = serde_json::from_value(serde_json::json!({ "timed_passes": 1, "timed_batch_size": 2 })).unwrap();
    let job = bench.job("evaluate", &[("model", &small), ("data", &data), ("dense", &dense)], &["evaluation"]);
    let file = job.outputs["evaluation"].clone();
    let points = Bench::run::<EvaluateClassifier>(&params, job, &mut Recorder::default()).unwrap();
    let parameters = 61_706.0 - 48_000.0 + 5_200.0;
    assert_eq!(result(&points, "parameters"), parameters);
    assert_eq!(result(&points, "parameters_ratio"), 61_706.0 / parameters);
    assert!(result(&points, "bytes_ratio") > 3.0 && result(&points, "speedup") > 0.0);
    let text = fs_err::read_to_string(file).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["factored_layers"], &report["dense"]["factored_layers"]), (&1.into(), &0.into()));
    assert!(!text.contains("latency"));
}

#[test]
fn bad_parameters_are_named() {
    let problems = |more| {
        let inputs =
            [("data".to_owned(), vec![[("height", 30.0), ("width", 30.0)].map(|(n, v)| (n.to_owned(), v)).into()])];
        let inputs = inputs.into();
        let mut check = Check::new(&inputs, Utf8Path::new("."));
        params(more).check(&mut check);
        let problems = check.finish().1;
        problems.into_iter().map(|problem| format!("{}: {}", problem.param, problem.message)).collect::<Vec<_>>()
    };
    assert_eq!(problems(serde_json::json!({})), Vec::<String>::new());
    assert_eq!(
        problems(serde_json::json!({ "model": { "name": "lenet", "width": 4 }, "epochs": 0, "lr": 0.0 })),
        [
            "epochs: `epochs` must be at least 1",
            "lr: `lr` is 0, but must be above 0",
            "model.width: this model has no `width`"
        ]
    );
    assert_eq!(
        problems(serde_json::json!({ "model": { "name": "vit" }, "optimizer": { "name": "sgd", "momentum": 1.0 } })),
        [
            "optimizer.momentum: `momentum` is 1, but must be at least 0 and below 1",
            "model.patch_size: images of 30x30 pixels cannot be cut into patches of 4",
        ]
    );
}

#[test]
fn a_teacher_is_connected_where_a_method_learns_from_one_and_only_there() {
    let problems = |more, ports: &[&str]| {
        let inputs = ports.iter().map(|port| ((*port).to_owned(), vec![Default::default()])).collect();
        let mut check = Check::new(&inputs, Utf8Path::new("."));
        params(more).check(&mut check);
        let problems = check.finish().1;
        problems.into_iter().map(|problem| format!("{}: {}", problem.param, problem.message)).collect::<Vec<_>>()
    };
    let pela = |model| serde_json::json!({ "model": model, "method": { "name": "pela" } });
    let lenet = serde_json::json!({ "name": "lenet" });
    assert_eq!(problems(pela(serde_json::Value::Null), &["data", "teacher"]), Vec::<String>::new());
    assert_eq!(problems(pela(serde_json::Value::Null), &["data", "teacher", "init"]), Vec::<String>::new());
    assert_eq!(
        problems(pela(serde_json::Value::Null), &["data"]),
        ["method: this method learns from a trained classifier, but the input `teacher` is not connected"]
    );
    assert_eq!(
        problems(pela(lenet.clone()), &["data", "teacher"]),
        ["model: the model's sizes come from the input `teacher`"]
    );
    let expected = [
        "method: the input `teacher` is connected, but this method does not learn from it",
        "model: the model's sizes come from the input `teacher`",
    ];
    assert_eq!(problems(serde_json::json!({ "model": lenet }), &["data", "teacher"]), expected);
    // A stage of one method that has no teacher has no input for one.
    let ports = |ports: &[Port]| ports.iter().map(|port| port.name).collect::<Vec<_>>();
    assert_eq!(ports(Train::INPUTS), ["data", "init", "teacher"]);
    assert_eq!(ports(TrainClassifier::<MaestroParams>::INPUTS), ["data", "init"]);
}

#[test]
fn what_the_data_uses_of_a_classifier_is_measured() {
    let bench = Bench::new();
    let data = bench.fashion_images(20);
    for model in [serde_json::json!({ "name": "mlp", "hidden": [20] }), serde_json::json!({ "name": "lenet" })] {
        let name = model["name"].as_str().unwrap().to_owned();
        let job = bench.job(&format!("train {name}"), &[("data", &data)], &["model", "trained"]);
        let trained = job.outputs["model"].clone();
        let params = params(serde_json::json!({ "model": model, "epochs": 1 }));
        Bench::run::<Train>(&params, job, &mut Recorder::default()).unwrap();
        // All layers of an MLP by themselves, of another network those that are named.
        let local: Option<[&str; 2]> = (name == "lenet").then_some(["conv2", "fc[23]"]);
        let activations = serde_json::json!({
            "images": 100, "local_images": if name == "mlp" { 5 } else { 2 }, "local_layers": local, "input_energy": 1.0,
        });
        let params = serde_json::from_value(serde_json::json!({ "activations": activations })).unwrap();
        let job = bench.job(&format!("ranks {name}"), &[("model", &trained), ("data", &data)], &["ranks"]);
        let folder = job.outputs["ranks"].clone();
        let points = Bench::run::<RankAnalysis>(&params, job, &mut Recorder::default()).unwrap();
        assert!((0.0..=1.0).contains(&result(&points, "mean_utilization")));
        let text = fs_err::read_to_string(folder.join("activations.json")).unwrap();
        let found: Activations = serde_json::from_str(&text).unwrap();
        assert_eq!(found.images, 100);
        for layer in &found.layers {
            let full = layer.matrix[0].min(layer.matrix[1]);
            assert!(layer.utilized.utilized_rank >= 1 && layer.utilized.utilized_rank <= full, "{layer:?}");
            assert_eq!(layer.local_rank.is_some(), name == "mlp" || ["conv2", "fc2", "fc3"].contains(&&*layer.layer));
            // Units of a convolution are many, pixels 784.
            let most = if layer.layer.starts_with("conv") { 784 } else { layer.matrix[0] } as f64;
            assert!(layer.local_rank.is_none_or(|rank| rank >= 1.0 && rank <= most), "{layer:?}");
        }
        // 100 images cannot span 784 pixels.
        if name == "mlp" {
            assert_eq!((found.layers[0].layer.as_str(), found.layers[0].utilized.input_rank), ("fc1", 100));
        }
        // Searched for, the energy is as low as the accuracy allows: whatever it be, or not lower at all.
        let energies = |drop: f64| -> Vec<f64> {
            let activations = serde_json::json!({ "images": 100, "local_images": 1, "accuracy_drop": drop });
            let params = serde_json::from_value(serde_json::json!({ "activations": activations })).unwrap();
            let job = bench.job(&format!("{name} {drop}"), &[("model", &trained), ("data", &data)], &["ranks"]);
            let folder = job.outputs["ranks"].clone();
            Bench::run::<RankAnalysis>(&params, job, &mut Recorder::default()).unwrap();
            let text = fs_err::read_to_string(folder.join("activations.json")).unwrap();
            let found: Activations = serde_json::from_str(&text).unwrap();
            found.layers.iter().map(|layer| layer.energy.unwrap()).collect()
        };
        assert!(energies(0.99).iter().all(|energy| *energy == 1.0 / 256.0));
        assert!(energies(0.0).iter().any(|energy| *energy > 1.0 / 256.0));
        let spectra = fs_err::read_to_string(folder.join("spectra.tsv")).unwrap();
        assert!(spectra.starts_with("weight\tindex\tsingular_value\trelative\tcumulative_energy\n"));
    }
}
