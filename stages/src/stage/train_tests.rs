//! Every method through the stage `train`, as a manifest starts it.

use camino::Utf8PathBuf;
use sepia_engine::stage::{Job, MetricPoint};

use super::*;
use crate::{
    data::TokenWriter,
    method::{AnyMethod, METHODS, ReloraParams},
    testing::{Bench, Recorder, on_gpu, result},
};

/// Tokens with something to learn: each follows from the one before it, most of the time.
fn tokens(bench: &Bench) -> Utf8PathBuf {
    let data = bench.path("data");
    let mut tokens = vec![1_u32];
    for i in 1..4000_usize {
        let next = (tokens[i - 1] * 3 + u32::from(i.is_multiple_of(7))) % 31;
        tokens.push(next);
    }
    let writer = TokenWriter {
        folder: &data,
        vocab_size: 32,
        train: (&tokens[..3600], 3600),
        validation: (&tokens[3600..], 400),
        tokenizer: "{}",
    };
    writer.write().unwrap();
    data
}

fn method(name: &str) -> serde_json::Value {
    let more = match name {
        "full" => serde_json::json!({}),
        "relora" => serde_json::json!({ "rank": 8, "merge_every": 3 }),
        "galore" => serde_json::json!({ "rank": 8, "update_proj_gap": 3, "optimizer": "adam8bit" }),
        "fira" => serde_json::json!({ "rank": 8, "update_proj_gap": 3 }),
        "flora" => serde_json::json!({ "rank": 8, "kappa": 3 }),
        "sst" => serde_json::json!({ "rank": 8, "every": 3 }),
        "lte" => serde_json::json!({ "rank": 4, "heads": 2, "alpha": 4.0, "merge_every": 3 }),
        "lora" => serde_json::json!({ "rank": 8, "dropout": 0.1 }),
        _ => serde_json::json!({ "rank": 8 }),
    };
    let mut method = more;
    method["name"] = name.into();
    method
}

fn params<M: MethodParams>(method: serde_json::Value, more: serde_json::Value) -> TrainParams<M> {
    let mut all = serde_json::json!({
        "model": { "d_model": 32, "n_layer": 2, "n_head": 2 }, "method": method,
        "max_steps": 8, "batch_size": 4, "seq_len": 16, "lr": 1e-2, "grad_accum": 2,
    });
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

fn job(bench: &Bench, name: &str, data: &Utf8PathBuf, threads: usize) -> Job {
    Job { threads, ..bench.job(name, &[("data", data)], &["model"]) }
}

fn weights(bench: &Bench, name: &str) -> Vec<u8> {
    fs_err::read(bench.path(&format!("{name}/model/model.safetensors"))).unwrap()
}

/// All figures but those that are measured times and sizes.
fn figures(points: &[MetricPoint]) -> Vec<&MetricPoint> {
    let measured = [
        "tokens_per_second",
        "rank_time_share",
        "peak_memory_bytes",
        // Of a GPU.
        "peak_device_memory_bytes",
        "startup_seconds",
    ];
    points.iter().filter(|point| !measured.contains(&point.name.as_str())).collect()
}

#[test]
fn every_method_gives_the_same_bytes_resumed_or_not_and_on_any_number_of_threads() {
    let bench = Bench::new();
    let data = tokens(&bench);
    for entry in METHODS {
        let params: TrainParams<AnyMethod> = params(method(entry.name), serde_json::json!({ "rank_every": 4 }));
        let run = |name: &str, threads, sink: &mut Recorder| {
            Bench::run::<Train<AnyMethod>>(
                &params,
                job(&bench, &format!("{}-{name}", entry.name), &data, threads),
                sink,
            )
        };
        let whole = run("whole", 2, &mut Recorder::default()).unwrap();
        for step in 1..=5 {
            let mut stopping = Recorder::default();
            stopping.stop.ask();
            let error = run("parts", 2, &mut stopping).unwrap_err();
            assert_eq!(error.to_string(), format!("stopped at step {step} as asked"));
        }
        let parts = run("parts", 2, &mut Recorder::default()).unwrap();
        is_as_estimated(&params, &whole, &bench.path(&format!("{}-whole/model", entry.name)));
        run("alone", 1, &mut Recorder::default()).unwrap();
        let whole_bytes = weights(&bench, &format!("{}-whole", entry.name));
        assert!(whole_bytes == weights(&bench, &format!("{}-parts", entry.name)), "{}: resumed", entry.name);
        assert!(whole_bytes == weights(&bench, &format!("{}-alone", entry.name)), "{}: one thread", entry.name);
        assert_eq!(figures(&whole), figures(&parts), "{}", entry.name);
        let ranks = whole.iter().filter(|point| point.name.starts_with("stable_rank/") && point.value >= 1.0);
        assert_eq!(ranks.count(), 3 * 14, "{}: fourteen matrices at steps 0, 4 and 8", entry.name);
    }
}

/// What `sepia plan` says before a run is what the run then measures.
fn is_as_estimated(params: &TrainParams<AnyMethod>, measured: &[MetricPoint], model: &Utf8PathBuf) {
    let facts = [("vocab_size", 32.0), ("train_tokens_max", 3600.0), ("validation_tokens_max", 400.0)];
    let facts = facts.map(|(name, value)| (name.to_owned(), value)).into();
    let inputs = [("data".to_owned(), vec![facts])].into();
    let check = Check::new(&inputs, camino::Utf8Path::new("."));
    let estimate = Train::<AnyMethod>::estimate(params, &check, Dtype::F32);
    assert_eq!(estimate.parameters, Some(result(measured, "parameters") as u64));
    assert_eq!(estimate.optimizer_state_bytes, Some(result(measured, "optimizer_state_bytes") as u64));
    let files = fs_err::read_dir(model).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    let (written, estimated) = (files.sum::<u64>(), estimate.output_bytes.unwrap());
    assert!(written <= estimated && estimated < written + 12_000, "{written} of {estimated}");
}

/// Embedding, head and norms under the optimiser of the subspace, of which small vectors keep moments in f32.
#[test]
fn the_rest_under_another_optimizer_is_as_estimated() {
    let bench = Bench::new();
    let data = tokens(&bench);
    for optimizer in ["adam", "adam8bit", "adafactor", "sgd"] {
        let method = serde_json::json!({ "name": "galore", "rank": 8, "optimizer": optimizer, "rest": "same" });
        let params: TrainParams<AnyMethod> =
            params(method, serde_json::json!({ "state_dtype": "bf16", "max_steps": 2 }));
        let job = job(&bench, optimizer, &data, 2);
        let found = Bench::run::<Train<AnyMethod>>(&params, job, &mut Recorder::default()).unwrap();
        is_as_estimated(&params, &found, &bench.path(&format!("{optimizer}/model")));
    }
}

#[test]
fn pretrain_is_train_with_the_full_method() {
    let bench = Bench::new();
    let data = tokens(&bench);
    let any: TrainParams<AnyMethod> = params(method("full"), serde_json::json!({}));
    Bench::run::<Train<AnyMethod>>(&any, job(&bench, "train", &data, 2), &mut Recorder::default()).unwrap();
    let full: TrainParams = params(serde_json::json!({}), serde_json::json!({}));
    Bench::run::<Pretrain>(&full, job(&bench, "pretrain", &data, 2), &mut Recorder::default()).unwrap();
    assert!(weights(&bench, "train") == weights(&bench, "pretrain"));
}

#[test]
fn relora_starts_warm_from_a_trained_model_and_goes_on_getting_better() {
    let bench = Bench::new();
    let data = tokens(&bench);
    let full: TrainParams = params(serde_json::json!({}), serde_json::json!({ "max_steps": 20 }));
    let first = Bench::run::<Pretrain>(&full, job(&bench, "first", &data, 2), &mut Recorder::default()).unwrap();
    let schedule = serde_json::json!({ "kind": "jagged-cosine", "every": 20, "restart_warmup": 4 });
    let more = serde_json::json!({ "model": {}, "max_steps": 60, "warmup_steps": 4, "schedule": schedule });
    let relora = serde_json::json!({ "rank": 8, "merge_every": 20, "dropout": 0.0, "reset": { "magnitude": 0.9 } });
    let relora: TrainParams<ReloraParams> = params(relora, more);
    let init = bench.path("first/model");
    let warm = bench.job("warm", &[("data", &data), ("init", &init)], &["model"]);
    let mut sink = Recorder::default();
    let second = Bench::run::<Train<ReloraParams>>(&relora, warm, &mut sink).unwrap();
    let (before, after) = (result(&first, "val_loss"), result(&second, "val_loss"));
    assert!(after < before, "{before} to {after}");
    // On a GPU the machine is noted before.
    let merges: Vec<&String> = sink.notes.iter().filter(|note| note.starts_with("update ")).collect();
    let expected = [21, 41].map(|update| format!("update {update}: merged and restarted the branches"));
    assert_eq!(merges, expected.iter().collect::<Vec<_>>());
    let ranks: Vec<(u64, f64)> =
        second.iter().filter(|p| p.name == "merged_rank").map(|p| (p.step.unwrap(), p.value)).collect();
    assert_eq!(ranks, [(21, 8.0), (41, 16.0)]);
}

fn losses(points: &[MetricPoint]) -> Vec<f64> {
    points.iter().filter(|point| point.name == "loss").map(|point| point.value).collect()
}

/// The plain form of every operation, casts and loss scaling, as a GPU runs them.
#[test]
fn half_precision_follows_f32_and_gives_the_same_bytes_resumed_or_not() {
    let bench = Bench::new();
    let data = tokens(&bench);
    for entry in METHODS {
        let params: TrainParams<AnyMethod> = params(method(entry.name), serde_json::json!({}));
        let run = |name: &str, dtype: Dtype, sink: &mut Recorder| {
            let job = job(&bench, &format!("{}-{name}-{}", entry.name, dtype.name()), &data, 2);
            Bench::run::<Train<AnyMethod>>(&params, Job { dtype, ..job }, sink)
        };
        let exact = run("whole", Dtype::F32, &mut Recorder::default()).unwrap();
        for dtype in [Dtype::Bf16, Dtype::F16] {
            let whole = run("whole", dtype, &mut Recorder::default()).unwrap();
            for (found, expected) in losses(&whole).iter().zip(losses(&exact)) {
                assert!(
                    (found - expected).abs() < 0.02 * expected,
                    "{} {}: {found} {expected}",
                    entry.name,
                    dtype.name()
                );
            }
            assert_ne!(losses(&whole), losses(&exact));
            for name in ["optimizer_state_bytes", "parameters", "skipped_updates"] {
                assert_eq!(result(&whole, name), result(&exact, name), "{name}");
            }
            let mut stopping = Recorder::default();
            stopping.stop.ask();
            run("parts", dtype, &mut stopping).unwrap_err();
            let parts = run("parts", dtype, &mut Recorder::default()).unwrap();
            assert_eq!(figures(&whole), figures(&parts), "{}", entry.name);
            let bytes = |name: &str| weights(&bench, &format!("{}-{name}-{}", entry.name, dtype.name()));
            assert!(bytes("whole") == bytes("parts"), "{} {}: resumed", entry.name, dtype.name());
            // Stored in f32 whatever was computed in.
            assert_eq!(bytes("whole").len(), weights(&bench, &format!("{}-whole-f32", entry.name)).len());
            let scales = whole.iter().filter(|point| point.name == "loss_scale").count();
            assert_eq!(scales, if dtype == Dtype::F16 { 8 } else { 0 });
        }
    }
}

/// Weights and state in bf16, computed with in bf16, under every method that can be trained so.
#[test]
fn what_is_held_in_bf16_is_as_large_as_estimated_follows_f32_and_goes_on_from_the_same_bytes() {
    let bench = Bench::new();
    let data = tokens(&bench);
    for (name, held) in [
        ("full", ["bf16", "bf16"]),
        ("full", ["bf16", "f32"]),
        ("galore", ["bf16", "bf16"]),
        ("fira", ["bf16", "bf16"]),
        ("flora", ["bf16", "bf16"]),
        ("lora", ["bf16", "bf16"]),
        ("low-rank", ["bf16", "bf16"]),
        ("relora", ["f32", "bf16"]),
        ("lte", ["f32", "bf16"]),
    ] {
        let of = |[weights, state]: [&str; 2]| -> TrainParams<AnyMethod> {
            // Moments as wide as the weights, as the estimate of galore's 8 bits is tested elsewhere.
            let mut method = method(name);
            if name == "galore" {
                method["optimizer"] = "adam".into();
            }
            let more =
                serde_json::json!({ "weights_dtype": weights, "state_dtype": state, "max_steps": 12, "rank_every": 6 });
            params(method, more)
        };
        let tag = format!("{name}-{}-{}", held[0], held[1]);
        let run = |name: &str, params: &TrainParams<AnyMethod>, sink: &mut Recorder| {
            let job = job(&bench, &format!("{tag}-{name}"), &data, 2);
            Bench::run::<Train<AnyMethod>>(params, Job { dtype: Dtype::Bf16, ..job }, sink)
        };
        let wide = run("wide", &of(["f32", "f32"]), &mut Recorder::default()).unwrap();
        let narrow = of(held);
        let whole = run("whole", &narrow, &mut Recorder::default()).unwrap();
        for (found, expected) in losses(&whole).iter().zip(losses(&wide)) {
            assert!((found - expected).abs() < 0.03 * expected, "{tag}: {found} {expected}");
        }
        is_as_estimated(&narrow, &whole, &bench.path(&format!("{tag}-whole/model")));
        assert!(
            result(&whole, "optimizer_state_bytes") < 0.51 * result(&wide, "optimizer_state_bytes") || held[1] == "f32"
        );
        for _ in 0..2 {
            let mut stopping = Recorder::default();
            stopping.stop.ask();
            run("parts", &narrow, &mut stopping).unwrap_err();
        }
        let parts = run("parts", &narrow, &mut Recorder::default()).unwrap();
        assert_eq!(figures(&whole), figures(&parts), "{tag}");
        let bytes = |name: &str| weights(&bench, &format!("{tag}-{name}"));
        assert!(bytes("whole") == bytes("parts"), "{tag}: resumed");
        let share = bytes("whole").len() as f64 / bytes("wide").len() as f64;
        assert!((share < 0.55) == (held[0] == "bf16"), "{tag}: {share}");
        // A stored model is one to go on from, and to evaluate.
        let init = bench.path(&format!("{tag}-whole/model"));
        let job = Job {
            dtype: Dtype::Bf16,
            ..bench.job(&format!("{tag}-on"), &[("data", &data), ("init", &init)], &["model"])
        };
        let mut on = narrow.clone();
        on.model = Default::default();
        let on = Bench::run::<Train<AnyMethod>>(&on, job, &mut Recorder::default()).unwrap();
        assert!(result(&on, "val_loss") < 1.01 * result(&whole, "val_loss"), "{tag}");
        let job = bench.job(&format!("{tag}-evaluate"), &[("model", &init), ("data", &data)], &["evaluation"]);
        let params = serde_json::from_value(serde_json::json!({ "seq_len": 16 })).unwrap();
        let evaluated = Bench::run::<crate::stage::Evaluate>(&params, job, &mut Recorder::default()).unwrap();
        let (found, expected) = (result(&evaluated, "val_loss"), result(&whole, "val_loss"));
        assert!((found - expected).abs() < 0.01 * expected, "{tag}: {found} {expected}");
    }
}

/// Blocks that are run again, with dropout too, give what blocks that are kept give.
/// The same losses and weights of a model that is computed in another order. On a GPU operations stand together otherwise then,
/// and are fused into kernels that round otherwise.
fn assert_the_same(what: &str, [a, b]: [Vec<f64>; 2], [x, y]: [Vec<u8>; 2]) {
    if on_gpu() {
        assert_eq!(a.len(), b.len(), "{what}");
        let apart = a.iter().zip(&b).map(|(a, b)| (a - b).abs() / a).fold(0.0, f64::max);
        assert!(apart < 1e-3, "{what}: {apart:e}");
    } else {
        assert_eq!(a, b, "{what}");
        assert!(x == y, "{what}");
    }
}

#[test]
fn gradient_checkpointing_gives_the_same_bytes() {
    let bench = Bench::new();
    let data = tokens(&bench);
    for entry in METHODS {
        for (dtype, per_layer) in [(Dtype::F32, false), (Dtype::F32, true), (Dtype::Bf16, false)] {
            // Its gradients are rounded in another order there (issue 8).
            if entry.name == "lte" && dtype == Dtype::Bf16 {
                continue;
            }
            let [kept, again] = [false, true].map(|checkpointing| {
                let mut more = serde_json::json!({ "gradient_checkpointing": checkpointing });
                if per_layer {
                    more["per_layer"] = true.into();
                    (more["grad_clip"], more["grad_accum"]) = (0.0.into(), 1.into());
                }
                let params: TrainParams<AnyMethod> = params(method(entry.name), more);
                let name = format!("{}-{}-{per_layer}-{checkpointing}", entry.name, dtype.name());
                let job = Job { dtype, ..job(&bench, &name, &data, 2) };
                let points = Bench::run::<Train<AnyMethod>>(&params, job, &mut Recorder::default()).unwrap();
                (losses(&points), weights(&bench, &name))
            });
            let what = format!("{} {} per layer: {per_layer}", entry.name, dtype.name());
            assert_the_same(&what, [kept.0, again.0], [kept.1, again.1]);
        }
    }
}

/// What is not written into a manifest leaves no mark in its key: results of older versions are still found.
#[test]
fn gradient_checkpointing_is_in_the_key_only_where_it_is_on() {
    let of = |on: bool| {
        let params: TrainParams<AnyMethod> =
            params(method("full"), serde_json::json!({ "gradient_checkpointing": on }));
        serde_json::to_value(params).unwrap().get("gradient_checkpointing").cloned()
    };
    assert_eq!((of(false), of(true)), (None, Some(true.into())));
}

#[test]
fn per_layer_updates_give_the_same_bytes() {
    let bench = Bench::new();
    let data = tokens(&bench);
    for entry in METHODS {
        let mut losses = Vec::new();
        for per_layer in [false, true] {
            let more = serde_json::json!({ "per_layer": per_layer, "grad_clip": 0.0, "grad_accum": 1 });
            let params: TrainParams<AnyMethod> = params(method(entry.name), more);
            let name = format!("{}-{per_layer}", entry.name);
            let points =
                Bench::run::<Train<AnyMethod>>(&params, job(&bench, &name, &data, 2), &mut Recorder::default())
                    .unwrap();
            losses.push(points.iter().filter(|p| p.name == "loss").map(|p| p.value).collect::<Vec<_>>());
        }
        let weights = [false, true].map(|per_layer| weights(&bench, &format!("{}-{per_layer}", entry.name)));
        let [whole, parts] = [losses.remove(0), losses.remove(0)];
        assert_the_same(entry.name, [whole, parts], weights);
    }
}
