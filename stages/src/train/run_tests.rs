//! The loop as it runs on a GPU: figures stay on the device until they are logged.

use camino::Utf8PathBuf;
use sepia_engine::stage::{MetricPoint, parse_metrics};

use super::*;
use crate::{
    data::TokenWriter,
    method::{AnyMethod, MethodSetup},
    testing::{Bench, Recorder, result},
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
    let data = bench.path("data");
    let job = bench.job(name, &[("data", &data)], &["model"]);
    let (metrics, mut sink) = (job.metrics.clone(), Recorder::default());
    let stop = sink.stop.clone();
    let mut ctx = StageContext::new(job, &mut sink, stop)?;
    let params: TrainParams<AnyMethod> = serde_json::from_value(params).unwrap();
    let mut method = params.method.build(&MethodSetup { hyper: params.adam(), seed: 3 });
    let knobs = TrainKnobs { log_every };
    let done = Run::new(&params, &knobs, method.as_mut(), &mut ctx).and_then(|(mut run, model)| {
        run.leaves_unread = unread;
        run.begun = unread.then(Instant::now);
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
