//! What happens in a run, as data: the only way anything is reported.
//!
//! The executor tells events; the terminal, the JSON lines, the record on disk and later `sepia log` are their listeners.
//! The recorded stream holds all but progress, so that a replay prints what the live run printed.

use serde::{Deserialize, Serialize};

use crate::stage::Progress;

/// Version of the recorded stream.
pub const EVENT_FORMAT: u32 = 1;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum RunEvent {
    /// The first event of every run.
    RunStarted {
        /// [`EVENT_FORMAT`].
        format: u32,
        /// Run id.
        run: String,
        /// Manifest as it was named.
        manifest: String,
        /// Nodes chosen.
        nodes: u64,
    },
    /// These nodes are in the store already.
    Cached {
        /// How many.
        count: u64,
        /// Their names; only the first few of many.
        nodes: Vec<String>,
    },
    /// Its outputs are being fetched from a remote. Not recorded.
    Fetching {
        /// Node.
        node: String,
        /// Bytes that are here.
        bytes: u64,
        /// Bytes in all.
        of_bytes: u64,
    },
    /// Another run is computing this very key.
    Waiting {
        /// Node.
        node: String,
        /// Who is at it.
        owner: String,
    },
    /// An attempt begins.
    Started {
        /// Node.
        node: String,
        /// Stage kind.
        kind: String,
        /// Key.
        key: String,
        /// 1 for the first attempt.
        attempt: u32,
        /// Where it writes what it has to say.
        #[serde(default)]
        log: String,
    },
    /// It goes on from a checkpoint.
    Resumed {
        /// Node.
        node: String,
        /// Steps done before.
        step: u64,
    },
    /// It saved a checkpoint.
    Checkpoint {
        /// Node.
        node: String,
        /// Steps done.
        step: u64,
    },
    /// How far it is. Not recorded.
    Progress {
        /// Node.
        node: String,
        /// How far.
        progress: Progress,
    },
    /// A line of its log.
    Note {
        /// Node.
        node: String,
        /// The line.
        text: String,
    },
    /// Something that people should know at once, though the attempt goes on: a cluster that does not answer.
    Warning {
        /// Node.
        node: String,
        /// What it is.
        text: String,
    },
    /// Its outputs are in the store and its record is durable.
    Finished {
        /// Node.
        node: String,
        /// Wall time of the attempt.
        seconds: f64,
        /// The stage's own figures, by name.
        figures: Vec<(String, f64)>,
        /// The outputs are the bytes that an earlier execution of this node gave: what depends on them stays cached.
        same_outputs: bool,
    },
    /// An attempt failed.
    Failed {
        /// Node.
        node: String,
        /// Which attempt.
        attempt: u32,
        /// Why.
        failure: Failure,
        /// Whether another attempt follows.
        again: bool,
    },
    /// It stopped as asked; a checkpoint may be there.
    Stopped {
        /// Node.
        node: String,
        /// Steps done.
        step: u64,
    },
    /// It cannot run, because of another node.
    Skipped {
        /// Node.
        node: String,
        /// The node that failed or was cancelled.
        because: String,
    },
    /// The run ended before its turn came.
    Cancelled {
        /// Node.
        node: String,
    },
    /// The run ends, and it goes on without it.
    Left {
        /// Node.
        node: String,
        /// What the executor calls it.
        job: String,
    },
    /// A stored output was found damaged before it was used; what made it runs again.
    Damaged {
        /// The node that made it.
        node: String,
        /// Which file, and how.
        what: String,
    },
    /// A signal came.
    Stopping {
        /// Whether running stages may still save a checkpoint.
        gently: bool,
    },
    /// The last event of every run that was not killed.
    RunFinished {
        /// How it ended.
        outcome: RunOutcome,
        /// Counts.
        summary: Summary,
        /// Wall time.
        seconds: f64,
    },
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunOutcome {
    /// Every chosen node is done or cached.
    Done,
    /// At least one node failed.
    Failed,
    /// A signal ended it.
    Interrupted,
}

impl RunOutcome {
    /// As it is stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RunOutcome::Done => "done",
            RunOutcome::Failed => "failed",
            RunOutcome::Interrupted => "interrupted",
        }
    }
}

/// How many nodes ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Ran to the end.
    pub ran: u64,
    /// Were in the store.
    pub cached: u64,
    /// Failed.
    pub failed: u64,
    /// Could not run, because of others.
    pub skipped: u64,
    /// Were not finished when the run ended.
    pub cancelled: u64,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Failure {
    /// In one sentence.
    pub message: String,
    /// What to change.
    pub help: Option<String>,
    /// The parameter it concerns, dotted.
    pub param: Option<String>,
    /// The last lines that it wrote.
    pub log_tail: Vec<String>,
    /// Where all that it wrote is.
    pub log: String,
}

/// An event with its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stamped {
    /// Milliseconds since the run began.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: RunEvent,
}

/// A listener.
pub trait Listener {
    /// Hears one event.
    fn hear(&mut self, event: &Stamped);
}
