//! A task as data: what a job is told to do, and what it says of how that ended.

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::ObjectRef;
use serde::{Deserialize, Serialize};

use crate::{
    event::Failure,
    exec::{
        attempt::{Attempt, Ended, Ending},
        child::Usage,
    },
    graph::NodeId,
    stage::{Job, MetricPoint, parse_metrics},
};

/// All that a job needs to run a task: an [`Attempt`] as data.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TaskOrder {
    pub(super) node: String,
    pub(super) kind: String,
    pub(super) version: u32,
    pub(super) key: String,
    pub(super) params: serde_json::Value,
    pub(super) knobs: serde_json::Value,
    pub(super) job: Job,
    pub(super) inputs: Vec<ObjectRef>,
    pub(super) output_ports: Vec<String>,
    pub(super) log: Utf8PathBuf,
    pub(super) timeout: Option<f64>,
}

impl TaskOrder {
    pub(super) fn of(attempt: &Attempt) -> Self {
        Self {
            node: attempt.decl.name.name.clone(),
            kind: attempt.entry.kind.to_owned(),
            version: attempt.entry.version,
            key: attempt.key.to_string(),
            params: attempt.params.clone(),
            knobs: attempt.knobs.clone(),
            job: attempt.job.clone(),
            inputs: attempt.inputs.iter().map(|(_, object)| *object).collect(),
            output_ports: attempt.output_ports.clone(),
            log: attempt.log.clone(),
            timeout: attempt.decl.timeout,
        }
    }
}

/// How one start of a task ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct EndRecord {
    pub(super) ending: TaskEnd,
    /// The lines of the metrics file: text, because it keeps what JSON cannot, NaN and infinities.
    pub(super) metrics: String,
    pub(super) cpu_seconds: f64,
    pub(super) peak_memory_bytes: u64,
    pub(super) seconds: f64,
    pub(super) started_at: i64,
    pub(super) job: String,
    /// The machine that it ran on.
    pub(super) machine: serde_json::Map<String, serde_json::Value>,
    /// The child was ended from outside, by SIGKILL or SIGTERM, which is how limits are enforced: Slurm knows more.
    pub(super) killed: bool,
}

/// The part of an [`Ending`] that is data.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum TaskEnd {
    Finished {
        outputs: Vec<(String, ObjectRef)>,
    },
    Failed {
        failure: Failure,
    },
    /// At its own time-out.
    TimedOut {
        step: Option<u64>,
    },
    /// Slurm ended the job: it says why.
    Interrupted {
        step: u64,
    },
    /// The input of this place in the order is damaged.
    Damaged {
        input: usize,
        what: String,
    },
}

impl TaskEnd {
    /// Whether it stands, whatever becomes of the job.
    pub(super) fn counts(&self) -> bool {
        !matches!(self, Self::Interrupted { .. })
    }
}

impl EndRecord {
    /// What the loop of the run is told. `inputs` are those of the attempt.
    pub(super) fn into_ended(self, inputs: &[(NodeId, ObjectRef)], log: &Utf8Path) -> Ended {
        let mut timed_out = false;
        let ending = match self.ending {
            TaskEnd::Finished { outputs } => Ending::Finished(outputs),
            TaskEnd::Failed { failure } => Ending::Failed(failure),
            TaskEnd::TimedOut { step } => {
                timed_out = true;
                step.map_or_else(Ending::default, |step| Ending::Stopped { step })
            }
            TaskEnd::Interrupted { step } => Ending::Stopped { step },
            TaskEnd::Damaged { input, what } => match inputs.get(input) {
                Some((producer, object)) => Ending::Damaged { producer: *producer, object: *object, what },
                None => Ending::Failed(Failure { message: what, ..Failure::default() }),
            },
        };
        let mut provenance = self.machine;
        for (name, value) in [("executor", "slurm"), ("job", self.job.as_str()), ("log", log.as_str())] {
            provenance.insert(name.to_owned(), value.into());
        }
        Ended {
            ending,
            metrics: parse_metrics(&self.metrics),
            usage: Usage {
                cpu_seconds: self.cpu_seconds,
                peak_memory_bytes: self.peak_memory_bytes,
                killed: self.killed,
            },
            seconds: self.seconds,
            timed_out,
            started_at: Some(self.started_at),
            provenance,
        }
    }

    pub(super) fn metrics_text(points: &[MetricPoint]) -> String {
        points.iter().map(MetricPoint::to_line).collect()
    }
}
