//! What each training method costs: tokens per second of whole updates of one model on the CPU, and bytes of state.
//!
//! `cargo bench -p sepia-stages --bench methods -- [THREADS] [STEPS]`. Rank d_model / 4; GaLore and Fira renew their bases
//! every 200 updates, and the first renewal lies within the run: `STEPS` of 200 or more therefore show what the papers'
//! interval costs.

use std::{collections::BTreeMap, time::Instant};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_engine::stage::{Job, MetricPoint, Progress, Sink, Stage, StageContext, StageError, StopFlag, parse_metrics};
use sepia_stages::{
    data::TokenWriter,
    method::{AnyMethod, METHODS},
    stage::Train,
    train::{TrainKnobs, TrainParams},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Silent;

impl Sink for Silent {
    fn progress(&mut self, _: &Progress) {}
    fn note(&mut self, _: &str) {}
    fn resumed(&mut self, _: u64) {}
    fn checkpoint(&mut self, _: u64) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let (threads, steps) = (numbers.first().copied().unwrap_or(2), numbers.get(1).copied().unwrap_or(25));
    let temp = tempfile::tempdir()?;
    let folder = Utf8PathBuf::try_from(temp.path().to_owned())?;
    let tokens: Vec<u32> = (0..200_000u32).map(|i| i.wrapping_mul(2_654_435_761) >> 22).collect();
    let data = folder.join("data");
    TokenWriter {
        folder: &data,
        vocab_size: 1024,
        train: (&tokens, tokens.len()),
        validation: (&tokens[..1000], 1000),
        tokenizer: "{}",
    }
    .write()?;
    println!("{:<10} {:>10} {:>12} {:>14}", "method", "tokens/s", "ms a step", "state bytes");
    for entry in METHODS {
        let mut method = serde_json::json!({ "name": entry.name });
        if entry.name != "full" {
            method["rank"] = 64.into();
        }
        let params: TrainParams<AnyMethod> = serde_json::from_value(serde_json::json!({
            "model": { "d_model": 256, "d_ff": 688, "n_layer": 4, "n_head": 4 }, "method": method,
            "max_steps": steps, "batch_size": 16, "seq_len": 128, "lr": 1e-3,
        }))?;
        let start = Instant::now();
        let points = run(&params, &folder, &data, threads)?;
        let seconds = start.elapsed().as_secs_f64();
        let mut rates: Vec<f64> =
            points.iter().filter(|p| p.name == "tokens_per_second" && p.step.is_some()).map(|p| p.value).collect();
        // A mean over time, so that the updates that renew bases count; the first ones fill caches and allocate.
        rates.drain(..1.min(rates.len() - 1));
        let mean = rates.len() as f64 / rates.iter().map(|rate| rate.recip()).sum::<f64>();
        let bytes = points.iter().find(|p| p.name == "optimizer_state_bytes").map_or(0.0, |p| p.value);
        let ms = params.tokens_per_step() as f64 / mean * 1e3;
        println!("{:<10} {mean:>10.0} {ms:>12.1} {bytes:>14.0}   ({seconds:.1} s in all)", entry.name);
    }
    Ok(())
}

fn run(
    params: &TrainParams<AnyMethod>,
    folder: &Utf8Path,
    data: &Utf8Path,
    threads: u64,
) -> Result<Vec<MetricPoint>, StageError> {
    let job = Job {
        threads: threads as usize,
        inputs: BTreeMap::from([("data".to_owned(), vec![data.to_owned()])]),
        outputs: BTreeMap::from([("model".to_owned(), folder.join("model"))]),
        metrics: folder.join("metrics.tsv"),
        ..Job::default()
    };
    let metrics = job.metrics.clone();
    let mut sink = Silent;
    let mut ctx = StageContext::new(job, &mut sink, StopFlag::default())?;
    Train::<AnyMethod>::run(params, &TrainKnobs::default(), &mut ctx)?;
    ctx.finish()?;
    Ok(parse_metrics(&fs_err::read_to_string(metrics)?))
}
