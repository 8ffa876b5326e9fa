//! What the benchmarks of training share: the model and its data, one silent run, and what it took.

use std::{collections::BTreeMap, time::Instant};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_engine::stage::{Job, MetricPoint, Progress, Sink, Stage, StageContext, StageError, StopFlag, parse_metrics};
use sepia_stages::{
    data::TokenWriter,
    method::MethodParams,
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

/// What one run recorded and took.
pub(crate) struct Run {
    /// Everything it recorded.
    pub points: Vec<MetricPoint>,
    /// Time on the wall.
    pub seconds: f64,
    /// Time of all its threads in user mode: it says more than the wall on a machine that does other things too.
    pub user_seconds: f64,
}

impl Run {
    /// A figure of the whole run.
    pub(crate) fn figure(&self, name: &str) -> Option<f64> {
        self.points.iter().find(|p| p.name == name && p.step.is_none()).map(|p| p.value)
    }
}

/// Numbers of the command line, in order; `cargo bench` adds flags of its own.
pub(crate) fn numbers() -> Vec<u64> {
    std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect()
}

/// LLaMA with d_model 256, 4 layers, 4 heads, vocabulary 1,024, on batches of 16 x 128 tokens.
pub(crate) fn params<M: MethodParams>(method: serde_json::Value, steps: u64) -> serde_json::Result<TrainParams<M>> {
    serde_json::from_value(serde_json::json!({
        "model": { "d_model": 256, "d_ff": 688, "n_layer": 4, "n_head": 4 }, "method": method,
        "max_steps": steps, "warmup_steps": 0, "batch_size": 16, "seq_len": 128, "lr": 1e-3,
    }))
}

/// Trains on random tokens.
pub(crate) fn train<M: MethodParams>(
    params: &TrainParams<M>,
    folder: &Utf8Path,
    threads: u64,
) -> Result<Run, StageError> {
    let job = Job {
        threads: threads as usize,
        inputs: BTreeMap::from([("data".to_owned(), vec![tokens(folder)?])]),
        outputs: BTreeMap::from([("model".to_owned(), folder.join("model"))]),
        metrics: folder.join("metrics.tsv"),
        ..Job::default()
    };
    let metrics = job.metrics.clone();
    let mut sink = Silent;
    let mut ctx = StageContext::new(job, &mut sink, StopFlag::default())?;
    let (start, user) = (Instant::now(), user_seconds()?);
    Train::<M>::run(params, &TrainKnobs::default(), &mut ctx)?;
    let (seconds, user_seconds) = (start.elapsed().as_secs_f64(), user_seconds()? - user);
    ctx.finish()?;
    Ok(Run { points: parse_metrics(&fs_err::read_to_string(metrics)?), seconds, user_seconds })
}

fn tokens(folder: &Utf8Path) -> Result<Utf8PathBuf, StageError> {
    let data = folder.join("data");
    let tokens: Vec<u32> = (0..200_000u32).map(|i| i.wrapping_mul(2_654_435_761) >> 22).collect();
    TokenWriter {
        folder: &data,
        vocab_size: 1024,
        train: (&tokens, tokens.len()),
        validation: (&tokens[..1000], 1000),
        tokenizer: "{}",
    }
    .write()?;
    Ok(data)
}

/// Of this process, in hundredths of a second, as Linux counts them.
fn user_seconds() -> Result<f64, StageError> {
    let stat = fs_err::read_to_string("/proc/self/stat")?;
    // The program's name comes in brackets and may hold spaces; `utime` is the twelfth field after it.
    let ticks = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(11)?.parse::<f64>().ok());
    ticks.map(|ticks| ticks / 100.0).ok_or_else(|| StageError::new("/proc/self/stat cannot be read"))
}
