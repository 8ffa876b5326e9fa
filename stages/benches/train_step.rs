//! Training throughput on the CPU, to be compared with `benches/pytorch_llama.py`: tokens per second of whole updates
//! (forward, backward, clipping, AdamW) of one model, as `pretrain` makes them.
//!
//! `cargo bench -p sepia-stages --bench train_step -- [THREADS] [STEPS]`

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use sepia_engine::stage::{Job, Progress, Sink, Stage, StageContext, StageError, StopFlag, parse_metrics};
use sepia_stages::{
    data::TokenWriter,
    stage::Pretrain,
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
    let params: TrainParams = serde_json::from_value(serde_json::json!({
        "model": { "d_model": 256, "d_ff": 688, "n_layer": 4, "n_head": 4 },
        "max_steps": steps, "batch_size": 16, "seq_len": 128, "lr": 1e-3,
    }))?;
    let job = Job {
        threads: threads as usize,
        inputs: BTreeMap::from([("data".to_owned(), vec![data])]),
        outputs: BTreeMap::from([("model".to_owned(), folder.join("model"))]),
        metrics: folder.join("metrics.tsv"),
        ..Job::default()
    };
    let metrics = job.metrics.clone();
    let mut sink = Silent;
    let mut ctx = StageContext::new(job, &mut sink, StopFlag::default())?;
    Pretrain::run(&params, &TrainKnobs::default(), &mut ctx)?;
    ctx.finish()?;
    let points = parse_metrics(&fs_err::read_to_string(metrics)?);
    let of =
        |name: &str| points.iter().filter(|p| p.name == name && p.step.is_some()).map(|p| p.value).collect::<Vec<_>>();
    // The first steps fill caches and allocate.
    let mut rates = of("tokens_per_second").split_off(3.min(steps as usize - 1));
    rates.sort_by(f64::total_cmp);
    let (median, best) = (rates[rates.len() / 2], rates[rates.len() - 1]);
    let last = of("loss").last().copied().ok_or_else(|| StageError::new("no step was made"))?;
    println!("threads {threads}: {median:.0} tokens/s (median), {best:.0} (best), last loss {last:.4}");
    Ok(())
}
