//! The loop as it runs on a GPU: figures stay on the device until they are logged.

use camino::Utf8PathBuf;
use sepia_engine::stage::{Dtype, Job, MetricPoint, parse_metrics};

use super::*;
use crate::{
    data::TokenWriter,
    method::{AnyMethod, MethodSetup},
    ops::Products,
    testing::{Bench, Recorder, on_gpu, result},
};

fn tokens(bench: &Bench) -> Utf8PathBuf {
    let data = bench.path("data");
    let tokens: Vec<u32> = (0..2000u32).map(|i| (i * i / 7) % 31).collect();
    let writer = TokenWriter {
        folder: &data,
        vocab_size: 32,
        train: (&tokens[..1800], 1800),
        validation: (&tokens[1800..], 200),
        tokenizer: "{}",
    };
    writer.write().unwrap();
    data
}

fn train(
    bench: &Bench,
    name: &str,
    params: serde_json::Value,
    unread: bool,
    log_every: u64,
) -> Result<Vec<MetricPoint>, StageError> {
    train_in(Dtype::F32, bench, name, params, unread, log_every)
}

fn train_in(
    dtype: Dtype,
    bench: &Bench,
    name: &str,
    params: serde_json::Value,
    unread: bool,
    log_every: u64,
) -> Result<Vec<MetricPoint>, StageError> {
    let data = bench.path("data");
    let job = Job { dtype, ..bench.job(name, &[("data", &data)], &["model"]) };
    let (metrics, mut sink) = (job.metrics.clone(), Recorder::default());
    let stop = sink.stop.clone();
    let mut ctx = StageContext::new(job, &mut sink, stop)?;
    let params: TrainParams<AnyMethod> = serde_json::from_value(params).unwrap();
    let mut method = params.method.build(&MethodSetup {
        hyper: params.adam(),
        state: params.state_dtype,
        products: Products::Exact,
        seed: 3,
    });
    let knobs = TrainKnobs { log_every };
    let done = Run::new(&params, &knobs, method.as_mut(), &mut ctx).and_then(|(mut run, model)| {
        run.leaves_unread = unread;
        run.batches.counted = unread.then_some(32);
        run.begun = unread.then(Instant::now);
        if let Some(scale) = &mut run.loss_scale {
            // As far as it goes: a gradient overflows.
            *scale = LossScale::largest();
        }
        run.train(model)
    });
    ctx.finish()?;
    done?;
    Ok(parse_metrics(&fs_err::read_to_string(metrics)?))
}

fn params(method: &str, more: serde_json::Value) -> serde_json::Value {
    let mut all = serde_json::json!({
        "model": { "d_model": 32, "n_layer": 2, "n_head": 2 }, "max_steps": 12, "batch_size": 4, "seq_len": 16, "lr": 1e-2,
        "method": { "name": method }, "grad_clip": 0.5,
    });
    if method != "full" {
        all["method"]["rank"] = 8.into();
    }
    if method == "galore" || method == "fira" {
        all["method"]["update_proj_gap"] = 5.into();
    }
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

fn figures(points: &[MetricPoint], name: &str) -> Vec<(u64, f64)> {
    points.iter().filter(|p| p.name == name).filter_map(|p| Some((p.step?, p.value))).collect()
}

#[test]
fn figures_left_on_the_device_are_those_that_are_read_at_once() {
    let bench = Bench::new();
    tokens(&bench);
    let variants = [
        ("full", serde_json::json!({ "grad_accum": 2 })),
        ("galore", serde_json::json!({})),
        ("fira", serde_json::json!({ "gradient_checkpointing": true })),
        ("full", serde_json::json!({ "per_layer": true, "grad_clip": 0.0 })),
    ];
    for (index, (method, more)) in variants.into_iter().enumerate() {
        let run = |unread, log_every| {
            train(&bench, &format!("{index}-{unread}-{log_every}"), params(method, more.clone()), unread, log_every)
        };
        let (at_once, left, seldom) = (run(false, 1).unwrap(), run(true, 1).unwrap(), run(true, 5).unwrap());
        for name in ["loss", "grad_norm"] {
            let (expected, found) = (figures(&at_once, name), figures(&left, name));
            assert_eq!(expected.len(), 12);
            for (expected, found) in expected.iter().zip(&found) {
                assert_eq!(expected.0, found.0);
                assert!((expected.1 - found.1).abs() < 2e-3 * expected.1, "{method} {name}: {expected:?} {found:?}");
            }
            // How often somebody looks changes nothing.
            let looked_at: Vec<(u64, f64)> = found.into_iter().filter(|(step, _)| [5, 10, 12].contains(step)).collect();
            assert_eq!(figures(&seldom, name), looked_at, "{method}");
        }
        assert_eq!(result(&left, "val_loss"), result(&seldom, "val_loss"));
        assert!(result(&left, "startup_seconds") > 0.0);
    }
}

/// The loss scale of f16 and the overflows that decide about it stay on the device, too.
#[test]
fn overflows_that_nobody_reads_lower_the_scale_as_those_that_are_read() {
    let bench = Bench::new();
    tokens(&bench);
    for (index, (method, more)) in [
        ("full", serde_json::json!({})),
        ("full", serde_json::json!({ "grad_accum": 2, "grad_clip": 0.0, "gradient_checkpointing": true })),
        // Every fifth update is read, since a new basis is found then.
        ("galore", serde_json::json!({})),
    ]
    .into_iter()
    .enumerate()
    {
        let run = |unread, log_every| {
            let name = format!("scaled-{index}-{unread}-{log_every}");
            train_in(Dtype::F16, &bench, &name, params(method, more.clone()), unread, log_every).unwrap()
        };
        let (at_once, left, seldom) = (run(false, 1), run(true, 1), run(true, 5));
        let overflowed = result(&at_once, "overflowed_updates");
        assert!((1.0..11.0).contains(&overflowed), "{overflowed}");
        for found in [&left, &seldom] {
            assert_eq!(result(found, "overflowed_updates"), overflowed, "{method}");
            assert_eq!(result(found, "skipped_updates"), 0.0, "{method}");
        }
        // A GPU rounds otherwise where figures are left unread, and an overflow may come an update earlier or later.
        if !on_gpu() {
            assert_eq!(figures(&at_once, "loss_scale"), figures(&left, "loss_scale"), "{method}");
        }
        assert_eq!(figures(&at_once, "loss_scale").last(), figures(&left, "loss_scale").last(), "{method}");
        assert_eq!(figures(&left, "loss_scale").last(), figures(&seldom, "loss_scale").last(), "{method}");
        assert_eq!(result(&left, "val_loss"), result(&seldom, "val_loss"), "{method}");
        let apart = (result(&left, "val_loss") / result(&at_once, "val_loss") - 1.0).abs();
        assert!(apart < 0.1, "{method}: {apart}");
    }
}

/// What is held in bf16 goes the same way there.
#[test]
fn weights_in_bf16_are_trained_on_the_device_as_on_the_host() {
    let bench = Bench::new();
    tokens(&bench);
    for (index, more) in
        [serde_json::json!({}), serde_json::json!({ "per_layer": true, "grad_clip": 0.0 })].into_iter().enumerate()
    {
        let mut params = params("galore", more);
        (params["weights_dtype"], params["state_dtype"]) = ("bf16".into(), "bf16".into());
        let [at_once, left] = [false, true].map(|unread| {
            train_in(Dtype::Bf16, &bench, &format!("narrow-{index}-{unread}"), params.clone(), unread, 1).unwrap()
        });
        for name in ["loss", "grad_norm"] {
            for (expected, found) in figures(&at_once, name).iter().zip(&figures(&left, name)) {
                assert!((expected.1 - found.1).abs() < 5e-2 * expected.1, "{name}: {expected:?} {found:?}");
            }
        }
    }
}

#[test]
fn training_that_diverges_is_found_out_at_the_next_look() {
    let bench = Bench::new();
    tokens(&bench);
    let wild = params("full", serde_json::json!({ "lr": 1e30, "warmup_steps": 0, "grad_clip": 0.0 }));
    for unread in [false, true] {
        let error = train(&bench, &format!("wild-{unread}"), wild.clone(), unread, 12).unwrap_err();
        assert!(error.to_string().starts_with("training diverged: "), "{error}");
    }
}
