//! Attempts as jobs of a Slurm cluster that shares the store's file system.
//!
//! The truth is what the jobs write ([`files`]): Slurm is only asked whether a job that has not said its last word is still
//! alive. It is asked about all jobs at once, at most every two seconds and less often the longer nothing changes, in a
//! thread of its own ([`client`]). A run that dies leaves jobs and files; the next run that wants a key finds its task by the
//! key and takes it over. What Slurm's answers mean, and what people are told, is in [`state`]; what a job does, in [`job`](mod@job).
//!
//! Invariants:
//! - A task runs in at most one job, whatever is submitted twice: a job must claim it, and so must a run that gives it up.
//! - No stage waits for a job that Slurm has forgotten: a job that is over, or unknown, and has left no result within the
//!   grace of the file system, is decided by what Slurm said of it last.
//! - What the cluster lost, or killed without a word, is submitted again outside the author's `retries`, a few times.
//! - Dependencies are Sepia's affair: a job is submitted when its inputs are in the store, never with `--dependency` (Slurm
//!   takes a dependency on a job that it has forgotten for fulfilled).

mod batch;
mod cancel;
mod client;
mod files;
mod job;
mod limits;
mod options;
mod order;
mod pointer;
mod state;
mod sweep;
mod talk;
mod task;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use camino::Utf8PathBuf;
use sepia_cache::Store;

use self::{
    batch::{Batch, Stand},
    client::{Client, Request, Response, SHORTEST},
    limits::Limits,
    task::Task,
};
use super::{
    attempt::{Attempt, Message},
    executor::{Cancel, Executor},
    local::Tell,
    slots::Amount,
    worker::Report,
};
use crate::graph::NodeId;

pub use batch::{Line, lines};
pub use job::job;
pub use options::SlurmOptions;
pub(crate) use pointer::is_under_way;
pub(crate) use sweep::sweep;

/// How often the jobs' files are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long stages are gathered that become ready one after the other, so that one array holds them.
const GATHER: Duration = Duration::from_millis(100);
/// After a refusal that may pass.
const REFUSED: Duration = Duration::from_secs(10);

/// The cluster.
pub(super) struct Slurm {
    store: Arc<Store>,
    jobs: Utf8PathBuf,
    program: PathBuf,
    options: SlurmOptions,
    tell: Tell,
    client: Option<Client>,
    /// Requests go nowhere: the test answers them.
    #[cfg(test)]
    silent: bool,
    tasks: BTreeMap<NodeId, Task>,
    batches: BTreeMap<String, Batch>,
    /// Results that the loop has heard of and that are not recorded yet.
    heard_of: Vec<(NodeId, String, usize)>,
    /// Tasks whose result is taken or given up.
    spent: BTreeSet<(String, usize)>,
    /// What the cluster said of itself; it is asked before the first submission.
    limits: Option<Limits>,
    asking_limits: bool,
    array_limit: usize,
    looked: Instant,
    asking: bool,
    asked: Option<Instant>,
    patience: Duration,
    /// Accounts do not answer here: they are not asked again.
    no_accounts: bool,
    refused: Option<Instant>,
    /// Slurm has taken a job of this run.
    accepted: bool,
    told_silence: bool,
}

impl Slurm {
    pub(super) fn new(store: Arc<Store>, program: PathBuf, options: SlurmOptions, tell: Tell) -> Self {
        Self {
            jobs: files::jobs_dir(&store),
            store,
            program,
            options,
            tell,
            client: None,
            #[cfg(test)]
            silent: false,
            tasks: BTreeMap::new(),
            batches: BTreeMap::new(),
            heard_of: Vec::new(),
            spent: BTreeSet::new(),
            limits: None,
            asking_limits: false,
            array_limit: 1,
            looked: Instant::now(),
            asking: false,
            asked: None,
            patience: SHORTEST,
            no_accounts: false,
            refused: None,
            accepted: false,
            told_silence: false,
        }
    }

    fn send(&mut self, request: Request) -> std::io::Result<()> {
        #[cfg(test)]
        if self.silent {
            return Ok(());
        }
        if self.client.is_none() {
            self.client = Some(Client::start()?);
        }
        if let Some(client) = &self.client {
            client.send(request);
        }
        Ok(())
    }

    fn note(&self, node: NodeId, text: String) {
        (self.tell)(Message::Report(node, Report::Note { text }));
    }

    /// Tells of several nodes at once what people should know though nothing has failed.
    fn warn(&self, nodes: &[NodeId], text: &str) {
        let Some((first, others)) = nodes.split_first() else { return };
        let more = if others.is_empty() { String::new() } else { format!(" (and {} more)", others.len()) };
        (self.tell)(Message::Report(*first, Report::Warning { text: format!("{text}{more}") }));
    }
}

impl Executor for Slurm {
    /// The cluster's own scheduler is better informed.
    fn capacity(&self) -> Amount {
        // Slurm itself hands out devices, by `--gres`.
        Amount { threads: usize::MAX / 2, memory: u64::MAX / 2, devices: 0, pinned: None }
    }

    fn submit(&mut self, attempt: Attempt) -> std::io::Result<Utf8PathBuf> {
        let found = self.adopt(&attempt);
        let log = found.as_ref().map_or_else(|| attempt.log.clone(), |(_, _, log)| log.clone());
        let node = attempt.node;
        let task = Task {
            adopted: found.is_some(),
            place: found.map(|(batch, n, _)| (batch, n)),
            attempt,
            cancelled: false,
            losses: 0,
            exclude: BTreeSet::new(),
            heard: (0, 0),
            over_since: None,
            queued_at: Instant::now(),
        };
        if task.adopted {
            self.note(node, "found the job that an earlier run submitted".to_owned());
        }
        self.tasks.insert(node, task);
        Ok(log)
    }

    fn poll(&mut self) -> std::io::Result<()> {
        while let Some(response) = self.client.as_ref().and_then(|client| client.responses.try_recv().ok()) {
            self.hear(response)?;
        }
        self.hand_in()?;
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.decide()?;
        }
        self.cancel_jobs()?;
        self.ask()
    }

    fn cancel(&mut self, node: NodeId, how: Cancel) {
        let Some(task) = self.tasks.get_mut(&node) else { return };
        task.cancelled = true;
        let batch = task.place.as_ref().and_then(|(batch, _)| self.batches.get_mut(batch));
        match (batch, how) {
            (None, _) => self.withdraw(node),
            (Some(batch), Cancel::Gently) => batch.to_cancel = true,
            (Some(batch), Cancel::AtOnce) => {
                if let Stand::Submitted(job) = &batch.stand {
                    let request = Request::Cancel { jobs: vec![job.clone()], at_once: true };
                    // Killed is killed: its end is not waited for.
                    let _ = self.send(request);
                }
                self.withdraw(node);
            }
        }
    }

    /// What can still be kept from beginning is: a claim on it is as good as any.
    fn withdraw_waiting(&mut self) {
        let tasks: Vec<(NodeId, Option<(String, usize)>)> =
            self.tasks.iter().map(|(node, task)| (*node, task.place.clone())).collect();
        for (node, place) in tasks {
            let Some((name, n)) = place else {
                self.withdraw(node);
                continue;
            };
            let Some(batch) = self.batches.get_mut(&name) else { continue };
            if batch.folder.claim(n, &Self::claimant()).is_ok_and(|who| who == Self::claimant()) {
                batch.to_cancel = true;
                self.withdraw(node);
            }
        }
    }

    fn leave(&mut self, node: NodeId) -> Option<String> {
        let (batch, n) = self.tasks.get(&node)?.place.clone()?;
        let name = self.batches.get(&batch)?.job_of(n);
        self.tasks.remove(&node);
        Some(name)
    }

    fn recorded(&mut self, node: NodeId) {
        let Some(at) = self.heard_of.iter().position(|(heard, _, _)| *heard == node) else { return };
        let (_, batch, n) = self.heard_of.remove(at);
        let order = self.batches.get(&batch).and_then(|batch| batch.folder.order(n).ok());
        if let Some(key) = order.and_then(|order| order.key.parse().ok()) {
            pointer::drop_pointer(&self.jobs, &key, &batch, n);
        }
        self.clear(&batch);
    }

    fn keeps_time(&self) -> bool {
        true
    }

    fn finish(&mut self) {
        let Some(mut client) = self.client.take() else { return };
        client.finish();
        for response in client.responses.try_iter() {
            if let Response::Submitted { batch, result } = response {
                self.submitted(&batch, result);
            }
        }
        // What was on its way to Slurm when it was cancelled.
        let late = self.unwanted_jobs();
        if !late.is_empty() {
            client::cancel(&late, false);
        }
        let names: Vec<String> = self.batches.keys().cloned().collect();
        names.iter().for_each(|name| self.clear(name));
    }
}
