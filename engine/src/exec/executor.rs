//! Where attempts run: the one trait behind which machines differ.
//!
//! The loop of a run hands an [`Attempt`] over with [`submit`](Executor::submit) and then hears of it through the function
//! that the executor was made with: reports while it runs, and in the end one [`Message::Ended`](super::attempt::Message)
//! with everything that is to be recorded. [`local`](super::local) runs attempts as children of this process,
//! [`slurm`](super::slurm) as jobs of a cluster; nothing else of the engine knows which. To add one, implement this trait
//! and give it a variant of [`ExecutorChoice`](super::options::ExecutorChoice).
//!
//! There is none for HyperQueue: its program `hq` is in no package registry (PyPI has a Python module only, crates.io
//! nothing), so it could not be tested; inside one allocation, `pack` and `at_once` of Slurm's options do what it is for.

use camino::Utf8PathBuf;

use super::{attempt::Attempt, slots::Amount};
use crate::graph::NodeId;

/// How an attempt is to end before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cancel {
    /// Save a checkpoint and stop.
    Gently,
    /// At once.
    AtOnce,
}

/// Runs attempts. No function may wait for one.
pub(super) trait Executor {
    /// What it can run at the same time.
    fn capacity(&self) -> Amount;

    /// Takes an attempt on, and says where its log will be. What goes wrong later is told as the attempt's end.
    fn submit(&mut self, attempt: Attempt) -> std::io::Result<Utf8PathBuf>;

    /// What time brings. Called in every turn of the loop, after everything that can start was submitted.
    fn poll(&mut self) -> std::io::Result<()>;

    /// Asks for an attempt to end; that it has ended is told as always.
    fn cancel(&mut self, node: NodeId, how: Cancel);

    /// Nothing new shall begin: attempts that were taken on and have not begun are withdrawn
    /// ([`Ending::Withdrawn`](super::attempt::Ending::Withdrawn)).
    fn withdraw_waiting(&mut self) {}

    /// Lets an attempt go on without this process, where that is possible. The answer: what to call it.
    fn leave(&mut self, node: NodeId) -> Option<String> {
        let _ = node;
        None
    }

    /// The loop has heard the attempt's end, and it will not be told again.
    fn ended(&mut self, node: NodeId) {
        let _ = node;
    }

    /// The attempt's record is on the disk: what was kept of the attempt in case this process dies can go.
    fn recorded(&mut self, node: NodeId) {
        let _ = node;
    }

    /// Whether it ends attempts at their time-out itself. Otherwise the loop does.
    fn keeps_time(&self) -> bool {
        false
    }

    /// The last call: every attempt has ended, was left, or is of no use any more because the run itself failed.
    fn finish(&mut self);
}
