//! From text to [`Manifest`]: typed, spanned, and ignorant of what stages do.
//!
//! This phase knows the reserved keys of a manifest and of a stage table. What is left in a stage table are parameters
//! and knobs, which only the registry can judge: that is the next phase, [`plan`](crate::plan).

use crate::value::{Key, Span, Table};

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
    /// The stages in the order of the text.
    pub stages: Vec<StageDecl>,
}

/// A word with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The word.
    pub text: String,
    /// Its place.
    pub span: Span,
}

/// One `[stages.NAME]` table.
#[derive(Debug, Clone, PartialEq)]
pub struct StageDecl {
    /// Its name.
    pub name: Key,
    /// Its kind.
    pub kind: Word,
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
    /// Among nodes that could start, the higher goes first.
    pub priority: i64,
    /// All other keys: parameters and knobs of the kind.
    pub rest: Table,
    /// The whole table's place.
    pub span: Span,
}

/// The wires into one input port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputDecl {
    /// The port.
    pub port: Key,
    /// The references, `stage` or `stage.port`.
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

/// The keys of a stage table that mean the same for every kind.
pub const RESERVED_STAGE_KEYS: &[&str] = &[
    "kind",
    "description",
    "inputs",
    "seed",
    "device",
    "dtype",
    "resources",
    "retries",
    "timeout",
    "priority",
    "checkpoint_every",
    "matrix",
    "include",
    "exclude",
];
