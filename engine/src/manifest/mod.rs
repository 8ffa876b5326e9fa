//! From text to [`Manifest`]: typed, spanned, and ignorant of what stages do.
//!
//! ```toml
//! sepia = 1                         # manifest format
//! extends = "base.toml"             # or a list; this manifest is laid over them
//! name = "quickstart"               # the file's stem if left out
//! seed = 0
//! device = "auto"                   # auto, cpu, cuda, cuda:N
//! dtype = "f32"                     # f32, bf16, f16
//!
//! [executor.slurm]                  # run on a cluster; a stage has its own as `executor.slurm`
//! partition = "gpu"
//!
//! [params]                          # used as "${params.steps}"
//! steps = 300
//!
//! [defaults.pretrain]               # below every stage of the kind
//! weight_decay = 0.1
//!
//! [profile.smoke]                   # over everything, when chosen
//! params.steps = 5
//!
//! [stages.train]
//! kind = "pretrain"
//! inputs = { data = "corpus" }      # port = "stage", "stage.port", "stage[label]", or a list of these
//! resources = { threads = 2, memory = "4 GiB", device = 1 }
//! retries = 1
//! timeout = "2h"
//! priority = 10
//! checkpoint_every = "5m"
//! max_steps = "${params.steps}"     # all other keys are parameters and knobs of the kind
//! matrix = { lr = [0.001, 0.003], seed = { count = 5 } }
//! ```
//!
//! The passes, each in a file of its own and in this order: `extends`, `profile`, `overrides` (`--set`, `--matrix`),
//! `params`, `defaults`, then `read` and `stage` take the tables apart, and `sweep` makes cells of stages. What sweeps
//! and references mean is said in `sweep`.
//!
//! This phase knows the reserved keys of a manifest and of a stage table. What is left in a stage table are parameters
//! and knobs, which only the registry can judge: that is the next phase, [`plan`](crate::plan).

mod defaults;
mod extends;
mod field;
mod format;
mod load;
mod merge;
mod misfit;
mod overrides;
mod params;
mod profile;
mod read;
mod rebase;
mod resolved;
mod stage;
mod sweep;
mod units;

#[cfg(test)]
mod tests;

pub(crate) use field::MAX_SUGGESTIONS;
pub use format::format;
pub use load::{Load, Loader, PathParam, PathParams};
pub(crate) use misfit::{Owner, misfit, unknown_field};
pub use stage::RESERVED;
pub use sweep::MAX_NODES;
pub(crate) use units::parse_bytes;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    exec::SlurmOptions,
    value::{Key, Span, Table},
};

/// The manifest format that this version reads and writes.
pub const FORMAT: i64 = 1;

/// A parsed manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The experiment's name; the file's stem where it gives none.
    pub name: String,
    /// Seed of every stage that gives none.
    pub seed: u64,
    /// Device of every stage that gives none: `auto`, `cpu`, `cuda`, `cuda:N`.
    pub device: Option<Word>,
    /// Dtype of every stage that gives none.
    pub dtype: Option<Word>,
    /// Where attempts run, and how.
    pub executor: ExecutorDecl,
    /// The stages in the order of the text, sweeps expanded.
    pub stages: Vec<StageDecl>,
}

/// `quickstart` of `manifests/quickstart.toml`.
fn stem(name: &str) -> &str {
    let file = name.rsplit(['/', '\\']).next().unwrap_or(name);
    match file.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => file,
    }
}

/// A word with its place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Word {
    /// The word.
    pub text: String,
    /// Its place.
    pub span: Span,
}

impl Word {
    /// For a reference of [`InputDecl::from`]: the node, and the output port where one is named. The labels of a cell
    /// may have dots in them: `train[lr=0.003].model` is the port `model` of `train[lr=0.003]`.
    #[must_use]
    pub fn reference(&self) -> (&str, Option<&str>) {
        let labels = self.text.rfind(']').map_or(0, |end| end + 1);
        match self.text[labels..].find('.') {
            Some(dot) => (&self.text[..labels + dot], Some(&self.text[labels + dot + 1..])),
            None => (&self.text, None),
        }
    }
}

/// One `[stages.NAME]` table, or one cell of it where it is swept.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StageDecl {
    /// Its name; that of a cell has its labels: `train[galore,lr=0.003]`.
    pub name: Key,
    /// Its kind.
    pub kind: Word,
    /// What its author says about it.
    pub description: Option<String>,
    /// Inputs by port, in the order of the text.
    pub inputs: Vec<InputDecl>,
    /// Its own seed.
    pub seed: Option<u64>,
    /// Its own device.
    pub device: Option<Word>,
    /// Its own dtype.
    pub dtype: Option<Word>,
    /// What it needs of the machine.
    pub resources: Resources,
    /// How often a failed attempt is repeated.
    pub retries: u32,
    /// Seconds after which an attempt is stopped.
    pub timeout: Option<f64>,
    /// Seconds between two checkpoints.
    pub checkpoint_every: Option<f64>,
    /// Among nodes that could start, the higher goes first.
    pub priority: i64,
    /// Its own settings for a cluster.
    pub slurm: SlurmOptions,
    /// All other keys: parameters and knobs of the kind.
    pub rest: Table,
    /// The whole table's place.
    pub span: Span,
    /// The stage that this is a cell of; its own name where it is not swept.
    pub origin: Arc<str>,
    /// For a cell of a sweep: each axis with this cell's label on it, inherited axes first.
    pub cell: Vec<(Arc<str>, Arc<str>)>,
}

impl StageDecl {
    /// Whole seconds between two checkpoints: one minute where it says nothing.
    #[must_use]
    pub fn checkpoint_seconds(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a duration is positive and short")]
        self.checkpoint_every.map_or(60, |seconds| seconds.ceil().max(1.0) as u64)
    }
}

/// `[executor]`: where attempts run. None of it is part of a key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExecutorDecl {
    /// Which executor runs the stages; without it `slurm`, if there are settings for it, else `local`.
    pub default: Option<ExecutorName>,
    /// Settings for a cluster with Slurm.
    pub slurm: Option<SlurmOptions>,
}

/// `executor` of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StageExecutor {
    /// Settings for a cluster with Slurm that go before those of the manifest.
    pub slurm: SlurmOptions,
}

/// An executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExecutorName {
    /// This machine.
    Local,
    /// A cluster with Slurm.
    Slurm,
}

/// The wires into one input port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputDecl {
    /// The port.
    pub port: Key,
    /// The nodes it comes from, in order, `node` or `node.port`: see [`Word::reference`].
    pub from: Vec<Word>,
}

/// What a stage needs of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resources {
    /// Threads; the kind's own default where it gives none.
    pub threads: Option<usize>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Devices.
    pub device: Option<usize>,
}
