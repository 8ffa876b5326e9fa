//! Runs a plan.
//!
//! One single-threaded loop ([`run`](mod@run)) owns all state and takes one message at a time: a report of a worker, the end
//! of an attempt, a commit that is durable, a signal, a tick. What it decides is in the [`scheduler`], a pure state
//! machine. Everything slow happens elsewhere: an attempt in a thread that starts a child process
//! ([`attempt`], [`worker`], [`command`]), commits in the [`committer`] thread. Where nothing has changed since everything
//! was done, none of this happens: see [`standing`].
//!
//! Invariants:
//! - Every chosen node ends in exactly one final state ([`state`]).
//! - An attempt works in a folder of its own; what it made becomes visible by a rename, and counts once its record is
//!   committed. A kill at any moment leaves nothing that counts by half.
//! - A key is computed by at most one process at a time (a lock per key, which dies with its holder).
//! - What a stage says is in its log, under the log's name, from the first byte on ([`log_files`]).
//! - No child outlives the run: each has a process group, and the [`reaper`] kills what is left when the run is killed.

mod attempt;
mod child;
mod command;
mod committer;
mod executor;
mod forecast;
mod gpu_check;
mod kernels;
mod keys;
mod local;
mod locate;
mod log_files;
pub(crate) mod lookup;
mod memory;
mod options;
mod provenance;
mod reaper;
mod reason;
mod record;
pub(crate) mod recorder;
mod reproduce;
mod run;
mod scheduler;
mod shared;
pub(crate) mod slots;
pub mod slurm;
mod standing;
mod state;
mod threads;
mod worker;

pub use forecast::{Forecast, forecast, forecast_from};
pub use gpu_check::missing_gpus;
pub use keys::{KeyError, KeyMaker, NodeOutputs};
pub use lookup::Lookup;
pub use options::{ExecutorChoice, RunOptions, Signals};
pub use reaper::reap;
pub use reason::{Reason, Reasons};
pub(crate) use reproduce::REPRODUCES;
pub use reproduce::{CannotReproduce, ReproduceOptions, Reproduced, reproduce};
pub use run::{RunError, RunReport, run, run_standing};
pub use slurm::{SlurmOptions, job};
pub use standing::{Basis, Standing};
pub use state::{Change, IllegalChange, NodeState};
pub use worker::work;
