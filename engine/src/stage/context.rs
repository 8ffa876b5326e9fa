//! What a running stage is given, and how it reports.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use super::{MetricPoint, StageError, derive_seed, metrics::parse_metrics};

/// Where a stage computes. The class (`cpu`, `cuda`) is part of the key, the number is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The host's processors.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by its number among those the process can see.
    Cuda(usize),
}

impl Device {
    /// The part that belongs in a key.
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
        }
    }
}

/// The floating-point type a stage computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, with the exponent range of f32.
    Bf16,
    /// 16 bits, IEEE half precision.
    F16,
}

impl Dtype {
    /// As written in a manifest.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
        }
    }

    /// Bytes of one number.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }
}

/// Everything one attempt of a stage needs, as plain data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Job {
    /// Seed of the node.
    pub seed: u64,
    /// Where to compute.
    pub device: Device,
    /// What to compute in.
    pub dtype: Dtype,
    /// Threads it may use.
    pub threads: usize,
    /// Files or folders connected to the input ports, read-only.
    pub inputs: BTreeMap<String, Vec<Utf8PathBuf>>,
    /// Where each output belongs: a file or folder that the stage creates.
    pub outputs: BTreeMap<String, Utf8PathBuf>,
    /// Where the figures are written.
    pub metrics: Utf8PathBuf,
    /// Where checkpoints survive between attempts; `None` turns them off.
    pub checkpoints: Option<Utf8PathBuf>,
    /// Seconds between checkpoints.
    pub checkpoint_seconds: u64,
    /// Where compiled and tuned kernels of a GPU are kept from process to process; a stage gets a copy of its own there. `None`
    /// keeps none.
    #[serde(default)]
    pub kernels: Option<Utf8PathBuf>,
}

/// How far a stage is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub done: u64,
    /// Steps in all.
    pub total: u64,
    /// What a step is: `step`, `batch`, `file`.
    pub unit: String,
    /// Figures to show beside the bar, in this order: `("loss", 2.31)`.
    pub figures: Vec<(String, f64)>,
}

/// Where a stage's reports go.
pub trait Sink: Send {
    /// How far it is; may be dropped when it comes too often.
    fn progress(&mut self, progress: &Progress);
    /// A line for the log.
    fn note(&mut self, text: &str);
    /// It goes on from a checkpoint.
    fn resumed(&mut self, step: u64);
    /// It has saved a checkpoint.
    fn checkpoint(&mut self, step: u64);
}

/// Set from outside when the stage shall save a checkpoint and stop.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Asks the stage to stop.
    pub fn ask(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was asked.
    #[must_use]
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What a running stage is given. See the [module docs](super) for what it deliberately lacks.
pub struct StageContext<'a> {
    job: Job,
    sink: &'a mut dyn Sink,
    stop: StopFlag,
    metrics: std::io::BufWriter<fs_err::File>,
    last_progress: Option<Instant>,
    last_flush: Option<Instant>,
    last_checkpoint: Instant,
    /// Held while this process may write checkpoints.
    checkpoints_lock: Option<fs_err::File>,
}

const METRICS_IN_CHECKPOINT: &str = "metrics.tsv";
const COMPLETE: &str = "complete";

impl<'a> StageContext<'a> {
    /// A context for one attempt.
    ///
    /// # Errors
    /// When the metrics file cannot be created.
    pub fn new(job: Job, sink: &'a mut dyn Sink, stop: StopFlag) -> Result<Self, StageError> {
        let metrics = std::io::BufWriter::new(fs_err::File::create(&job.metrics)?);
        Ok(Self {
            job,
            sink,
            stop,
            metrics,
            last_progress: None,
            last_flush: None,
            last_checkpoint: Instant::now(),
            checkpoints_lock: None,
        })
    }

    /// The node's seed. For anything random take [`rng_seed`](Self::rng_seed).
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.job.seed
    }

    /// The seed for one purpose at one step (0 for what happens once).
    #[must_use]
    pub fn rng_seed(&self, purpose: &str, step: u64) -> u64 {
        derive_seed(self.job.seed, purpose, step)
    }

    /// Where to compute.
    #[must_use]
    pub fn device(&self) -> Device {
        self.job.device
    }

    /// What to compute in.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.job.dtype
    }

    /// Where compiled and tuned kernels of a GPU are kept. Nothing that is there may change a result.
    #[must_use]
    pub fn kernels(&self) -> Option<&Utf8Path> {
        self.job.kernels.as_deref()
    }

    /// Threads it may use.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.job.threads.max(1)
    }

    /// The file or folder connected to a required input port.
    ///
    /// # Errors
    /// When nothing is connected.
    pub fn input(&self, port: &str) -> Result<Utf8PathBuf, StageError> {
        self.input_opt(port).ok_or_else(|| StageError::NotConnected { what: "input", name: port.to_owned() })
    }

    /// The file or folder connected to an optional input port.
    #[must_use]
    pub fn input_opt(&self, port: &str) -> Option<Utf8PathBuf> {
        self.job.inputs.get(port)?.first().cloned()
    }

    /// All files or folders connected to an input port that takes a list.
    #[must_use]
    pub fn input_list(&self, port: &str) -> &[Utf8PathBuf] {
        self.job.inputs.get(port).map_or(&[], Vec::as_slice)
    }

    /// Where the stage must create an output: a file, or a folder with files.
    ///
    /// # Errors
    /// When the stage has no such output.
    pub fn output(&self, port: &str) -> Result<Utf8PathBuf, StageError> {
        let path = self.job.outputs.get(port).cloned();
        path.ok_or_else(|| StageError::NotConnected { what: "output", name: port.to_owned() })
    }

    /// Records a figure of one step, such as the loss.
    ///
    /// # Errors
    /// When the metrics file cannot be written.
    pub fn metric(&mut self, name: &str, step: u64, value: f64) -> Result<(), StageError> {
        self.point(&MetricPoint { name: name.to_owned(), step: Some(step), value })
    }

    /// Records a figure of the whole stage, such as the validation perplexity.
    ///
    /// # Errors
    /// When the metrics file cannot be written.
    pub fn result(&mut self, name: &str, value: f64) -> Result<(), StageError> {
        self.point(&MetricPoint { name: name.to_owned(), step: None, value })
    }

    fn point(&mut self, point: &MetricPoint) -> Result<(), StageError> {
        self.metrics.write_all(point.to_line().as_bytes())?;
        Ok(())
    }

    /// Says how far the stage is. Call it as often as you like: it passes on ten a second.
    pub fn progress(&mut self, progress: &Progress) {
        let due = self.last_progress.is_none_or(|last| last.elapsed() >= Duration::from_millis(100));
        if due || progress.done == progress.total {
            // Once a second is often enough for those who watch the figures; a disk that is full shows when they are kept.
            if self.last_flush.is_none_or(|last| last.elapsed() >= Duration::from_secs(1)) {
                self.last_flush = Some(Instant::now());
                let _ = self.metrics.flush();
            }
            self.last_progress = Some(Instant::now());
            self.sink.progress(progress);
        }
    }

    /// Writes a line to the stage's log.
    pub fn note(&mut self, text: &str) {
        self.sink.note(text);
    }

    /// Whether the stage was asked to stop. Stages with checkpoints need not ask: [`checkpoint`](Self::checkpoint) does.
    #[must_use]
    pub fn should_stop(&self) -> bool {
        self.stop.asked()
    }

    /// Ends the stage if it was asked to stop. For long stages without checkpoints, between two pieces of work.
    ///
    /// # Errors
    /// [`StageError::Stopped`] when it was asked.
    pub fn stop_if_asked(&self) -> Result<(), StageError> {
        if self.should_stop() { Err(StageError::Stopped { step: 0 }) } else { Ok(()) }
    }

    /// The newest complete checkpoint of this very key: its step, and the folder with what the stage saved. The figures
    /// recorded before it are recorded again.
    ///
    /// # Errors
    /// When the checkpoint folder cannot be read.
    pub fn resume(&mut self) -> Result<Option<(u64, Utf8PathBuf)>, StageError> {
        let Some(folder) = self.job.checkpoints.clone() else { return Ok(None) };
        self.lock_checkpoints(&folder)?;
        let Some((step, path)) = newest_checkpoint(&folder)? else { return Ok(None) };
        let earlier = fs_err::read_to_string(path.join(METRICS_IN_CHECKPOINT))?;
        for point in parse_metrics(&earlier) {
            self.point(&point)?;
        }
        self.sink.resumed(step);
        Ok(Some((step, path)))
    }

    /// The child of a run that was killed may still be writing its last checkpoint: it notices within moments that its
    /// run is gone, and ends. Until then the next attempt waits here.
    fn lock_checkpoints(&mut self, folder: &Utf8Path) -> Result<(), StageError> {
        if self.checkpoints_lock.is_none() {
            fs_err::create_dir_all(folder)?;
            let file = fs_err::File::create(folder.join("lock"))?;
            file.file().lock()?;
            self.checkpoints_lock = Some(file);
        }
        Ok(())
    }

    /// To be called after each step: saves a checkpoint when one is due, and ends the stage if it was asked to stop.
    ///
    /// `save` gets an empty folder and must write there everything that the steps after `step` depend on.
    ///
    /// # Errors
    /// [`StageError::Stopped`] when the stage was asked to stop (the checkpoint is then saved), or what `save` returns.
    pub fn checkpoint(
        &mut self,
        step: u64,
        save: impl FnOnce(&Utf8Path) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        let asked = self.stop.asked();
        let due = self.last_checkpoint.elapsed() >= Duration::from_secs(self.job.checkpoint_seconds.max(1));
        if !asked && !due {
            return Ok(());
        }
        if let Some(folder) = self.job.checkpoints.clone() {
            self.save_checkpoint(&folder, step, save)?;
        }
        if asked { Err(StageError::Stopped { step }) } else { Ok(()) }
    }

    /// A checkpoint becomes visible by one rename, and the ones before it go only after that: a kill at any moment
    /// leaves the old one or the new one.
    fn save_checkpoint(
        &mut self,
        folder: &Utf8Path,
        step: u64,
        save: impl FnOnce(&Utf8Path) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        self.lock_checkpoints(folder)?;
        self.metrics.flush()?;
        let unfinished = folder.join("unfinished");
        if unfinished.exists() {
            fs_err::remove_dir_all(&unfinished)?;
        }
        fs_err::create_dir_all(&unfinished)?;
        save(&unfinished)?;
        fs_err::copy(&self.job.metrics, unfinished.join(METRICS_IN_CHECKPOINT))?;
        fs_err::write(unfinished.join(COMPLETE), b"")?;
        for entry in fs_err::read_dir(&unfinished)? {
            let path = entry?.path();
            if path.is_file() {
                fs_err::File::open(path)?.sync_data()?;
            }
        }
        let target = folder.join(format!("step-{step}"));
        if !target.exists() {
            fs_err::rename(&unfinished, &target)?;
        }
        for (other, path) in checkpoints(folder)? {
            if other != step {
                fs_err::remove_dir_all(path)?;
            }
        }
        self.last_checkpoint = Instant::now();
        self.sink.checkpoint(step);
        Ok(())
    }

    /// Writes out what is buffered. The engine calls it when the stage returns.
    ///
    /// # Errors
    /// When the metrics file cannot be written.
    pub fn finish(mut self) -> Result<(), StageError> {
        self.metrics.flush()?;
        Ok(())
    }

    /// The job this context was made from.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Writes the figures recorded so far to the file, where `tail -f` and the engine can see them.
    ///
    /// # Errors
    /// When the metrics file cannot be written.
    pub fn flush_metrics(&mut self) -> Result<(), StageError> {
        self.metrics.flush()?;
        Ok(())
    }
}

fn checkpoints(folder: &Utf8Path) -> Result<Vec<(u64, Utf8PathBuf)>, StageError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in folder.read_dir_utf8()? {
        let entry = entry?;
        let step = entry.file_name().strip_prefix("step-").and_then(|step| step.parse().ok());
        if let Some(step) = step
            && entry.path().join(COMPLETE).exists()
        {
            found.push((step, entry.path().to_owned()));
        }
    }
    Ok(found)
}

fn newest_checkpoint(folder: &Utf8Path) -> Result<Option<(u64, Utf8PathBuf)>, StageError> {
    Ok(checkpoints(folder)?.into_iter().max_by_key(|(step, _)| *step))
}
