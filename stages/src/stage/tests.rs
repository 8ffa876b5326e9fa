//! The stages together, on a tiny text.

use camino::Utf8PathBuf;
use sepia_engine::stage::{InputFiles, MetricPoint, StageError};

use super::{evaluate::EvaluateParams, evaluate::EvaluationReport, text_dataset::TextDatasetParams, *};
use crate::{
    data::TokenizerParams,
    testing::{Bench, Recorder, result},
    train::TrainParams,
};

const TEXT: &str = "the cat sat on the mat. the rat sat on the hat. a cat and a rat met at the mat.\n";

fn tokens(bench: &Bench) -> Utf8PathBuf {
    let path = bench.path("text.txt");
    fs_err::write(&path, TEXT.repeat(40)).unwrap();
    let params = TextDatasetParams {
        files: InputFiles::of(vec![path]),
        tokenizer: TokenizerParams::Bpe { vocab_size: 270 },
        validation: 0.1,
        test: 0.0,
    };
    Bench::run::<TextDataset>(&params, bench.job("tokens", &[], &["data"]), &mut Recorder::default()).unwrap();
    bench.path("tokens/data")
}

fn train_params(more: serde_json::Value) -> TrainParams {
    let mut all = serde_json::json!({
        "model": { "d_model": 32, "n_layer": 2, "n_head": 2 },
        "max_steps": 12, "batch_size": 4, "seq_len": 16, "lr": 1e-2, "lr_rest": 2e-2, "weight_decay": 0.01,
    });
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

fn pretrain(
    bench: &Bench,
    name: &str,
    params: &TrainParams,
    sink: &mut Recorder,
    threads: usize,
) -> Result<Vec<MetricPoint>, StageError> {
    let data = bench.path("tokens/data");
    let mut job = bench.job(name, &[("data", &data)], &["model"]);
    job.threads = threads;
    Bench::run::<Pretrain>(params, job, sink)
}

fn weights(bench: &Bench, name: &str) -> Vec<u8> {
    fs_err::read(bench.path(&format!("{name}/model/model.safetensors"))).unwrap()
}

fn losses(points: &[MetricPoint]) -> Vec<(u64, f64)> {
    points.iter().filter(|point| point.name == "loss").map(|point| (point.step.unwrap(), point.value)).collect()
}

#[test]
fn a_text_becomes_a_model_that_knows_more_than_the_unigram_model() {
    let bench = Bench::new();
    let data = tokens(&bench);
    let params = train_params(serde_json::json!({ "max_steps": 60, "eval_every": 30, "eval_batches": 1 }));
    let points = pretrain(&bench, "run", &params, &mut Recorder::default(), 2).unwrap();
    assert_eq!(losses(&points).len(), 60);
    assert_eq!(points.iter().filter(|point| point.name == "val_loss" && point.step.is_some()).count(), 2);
    let (perplexity, unigram) = (result(&points, "val_perplexity"), result(&points, "unigram_perplexity"));
    assert!(perplexity < 0.5 * unigram, "{perplexity} {unigram}");
    // Two f32 moments for every parameter.
    assert_eq!(result(&points, "optimizer_state_bytes"), 8.0 * result(&points, "parameters"));

    let model = bench.path("run/model");
    let job = || bench.job("evaluation", &[("model", &model), ("data", &data)], &["evaluation"]);
    let params: EvaluateParams = serde_json::from_str("{}").unwrap();
    let evaluated = Bench::run::<Evaluate>(&params, job(), &mut Recorder::default()).unwrap();
    let first = fs_err::read_to_string(bench.path("evaluation/evaluation")).unwrap();
    let report: EvaluationReport = serde_json::from_str(&first).unwrap();
    // The same model and tokens in batches of another size: equal but for rounding.
    assert!((report.val_loss - result(&points, "val_loss")).abs() < 1e-6);
    assert_eq!(report.unigram_perplexity, unigram);
    assert_eq!(result(&evaluated, "perplexity"), report.perplexity);
    Bench::run::<Evaluate>(&params, job(), &mut Recorder::default()).unwrap();
    assert_eq!(fs_err::read_to_string(bench.path("evaluation/evaluation")).unwrap(), first);
}

#[test]
fn two_runs_give_the_same_bytes_and_another_seed_others() {
    let bench = Bench::new();
    tokens(&bench);
    let params = train_params(serde_json::json!({ "grad_accum": 2 }));
    pretrain(&bench, "one", &params, &mut Recorder::default(), 2).unwrap();
    pretrain(&bench, "two", &params, &mut Recorder::default(), 2).unwrap();
    assert!(weights(&bench, "one") == weights(&bench, "two"));
    let data = bench.path("tokens/data");
    let mut job = bench.job("other", &[("data", &data)], &["model"]);
    job.seed = 18;
    Bench::run::<Pretrain>(&params, job, &mut Recorder::default()).unwrap();
    assert!(weights(&bench, "one") != weights(&bench, "other"));
}

#[test]
fn a_run_that_was_stopped_and_resumed_ends_in_the_same_bytes() {
    let bench = Bench::new();
    tokens(&bench);
    let params = train_params(serde_json::json!({ "grad_clip": 0.5 }));
    let whole = pretrain(&bench, "whole", &params, &mut Recorder::default(), 2).unwrap();
    // Asked to stop before it begins, a run makes one update more each time.
    for step in 1..=4 {
        let mut stopping = Recorder::default();
        stopping.stop.ask();
        let error = pretrain(&bench, "parts", &params, &mut stopping, 2).unwrap_err();
        assert_eq!(error.to_string(), format!("stopped at step {step} as asked"));
        assert_eq!((stopping.resumed, stopping.checkpoints), ((step > 1).then(|| step - 1), vec![step]));
    }
    let mut going_on = Recorder::default();
    let parts = pretrain(&bench, "parts", &params, &mut going_on, 2).unwrap();
    assert_eq!(going_on.resumed, Some(4));
    assert!(weights(&bench, "whole") == weights(&bench, "parts"));
    assert_eq!(losses(&whole), losses(&parts));
}

#[test]
fn the_number_of_threads_does_not_change_a_byte() {
    let bench = Bench::new();
    tokens(&bench);
    // Large enough for every operation to be spread over the threads.
    let params = train_params(serde_json::json!({
        "model": { "d_model": 128, "n_layer": 1, "n_head": 4 }, "max_steps": 3, "batch_size": 16, "seq_len": 64,
    }));
    for threads in 1..=3 {
        pretrain(&bench, &threads.to_string(), &params, &mut Recorder::default(), threads).unwrap();
    }
    assert!(weights(&bench, "1") == weights(&bench, "2"));
    assert!(weights(&bench, "1") == weights(&bench, "3"));
}

#[test]
fn a_model_can_be_continued_and_keeps_its_sizes() {
    let bench = Bench::new();
    let data = tokens(&bench);
    pretrain(&bench, "first", &train_params(serde_json::json!({})), &mut Recorder::default(), 2).unwrap();
    let first = bench.path("first/model");
    let job = || bench.job("second", &[("data", &data), ("init", &first)], &["model"]);
    let error = Bench::run::<Pretrain>(&train_params(serde_json::json!({})), job(), &mut Recorder::default());
    assert_eq!(error.unwrap_err().to_string(), "the model's sizes come from the input `init`");
    // A learning rate that changes nothing within f32: what comes out is what went in.
    let params = train_params(serde_json::json!({ "model": {}, "max_steps": 1, "warmup_steps": 0, "lr": 1e-30,
        "lr_rest": 1e-30, "weight_decay": 0.0 }));
    Bench::run::<Pretrain>(&params, job(), &mut Recorder::default()).unwrap();
    assert!(weights(&bench, "first") == weights(&bench, "second"));
}

#[test]
fn a_run_that_diverges_ends_with_the_place() {
    let bench = Bench::new();
    tokens(&bench);
    let params = train_params(serde_json::json!({ "lr": 1e30, "lr_rest": 1e30, "grad_clip": 0.0, "warmup_steps": 0 }));
    let error = pretrain(&bench, "wild", &params, &mut Recorder::default(), 2).unwrap_err().to_string();
    assert!(error.starts_with("training diverged: 2 of 3 updates"), "{error}");
    assert!(error.contains(" in model.") || error.contains(" in lm_head"), "{error}");
}

#[test]
fn a_split_smaller_than_a_batch_is_refused() {
    let bench = Bench::new();
    tokens(&bench);
    let params = train_params(serde_json::json!({ "batch_size": 500 }));
    let error = pretrain(&bench, "large", &params, &mut Recorder::default(), 2).unwrap_err().to_string();
    assert!(
        error.starts_with("one batch of 500 windows of 16 + 1 tokens needs 8500 tokens, but the training"),
        "{error}"
    );
}
