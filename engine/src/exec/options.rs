//! What a run is told, beside its plan.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use super::Basis;
use crate::plan::Selection;

/// Where attempts run.
#[derive(Debug, Clone, Default)]
pub enum ExecutorChoice {
    /// On this machine.
    #[default]
    Local,
    /// On a cluster with Slurm, with these settings where a stage has none of its own.
    Slurm(super::slurm::SlurmOptions),
}

/// Options of a run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Which nodes.
    pub selection: Selection,
    /// Where attempts run.
    pub executor: ExecutorChoice,
    /// When the run is told to stop, leave what can go on without it.
    pub detach: bool,
    /// The command line after the program's name, and the folder it was given in: for who takes the run up again.
    pub command: (Vec<String>, String),
    /// Threads that all running stages may use together.
    pub jobs: usize,
    /// Go on with what does not depend on a failed node. Otherwise nothing new starts after a failure.
    pub keep_going: bool,
    /// Names or globs of nodes to run even if they are in the store.
    pub force: Vec<String>,
    /// The manifest as the user named it, for the record.
    pub manifest: String,
    /// Digest of the manifest's text, for the record.
    pub manifest_digest: String,
    /// The manifest's text, for those who look at the run.
    pub manifest_text: String,
    /// The binary that children run.
    pub program: std::path::PathBuf,
    /// Bytes of memory that all running stages may use together, as they declare it.
    pub memory: u64,
    /// Devices (GPUs) that all running stages may use together; those of this machine, or one, for `None`.
    pub devices: Option<usize>,
    /// What the plan was made from, if the next run may be told by it that nothing has changed.
    pub basis: Option<Basis>,
    /// Counts of signals.
    pub signals: Signals,
}

/// How many times the user asked to stop.
#[derive(Debug, Clone, Default)]
pub struct Signals(Arc<AtomicU32>);

impl Signals {
    /// One more.
    pub fn raise(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// How many so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}
