//! The tasks of this run: taken over from an earlier run, put back into the queue, ended.

use std::{collections::BTreeSet, time::Instant};

use camino::Utf8PathBuf;
use sepia_cache::ObjectRef;

use super::{
    Slurm,
    batch::{Batch, Stand},
    client::SHORTEST,
    files::Folder,
    order::TaskEnd,
    pointer,
};
use crate::{
    event::Failure,
    exec::attempt::{Attempt, Ended, Ending, Message},
    graph::NodeId,
    log_tail::log_tail,
};

/// A node that runs, or waits to.
pub(super) struct Task {
    pub(super) attempt: Attempt,
    /// Where it is, once it has been given a place in a batch.
    pub(super) place: Option<(String, usize)>,
    /// A run before this one submitted it.
    pub(super) adopted: bool,
    pub(super) cancelled: bool,
    /// How often the cluster lost it.
    pub(super) losses: u32,
    /// Nodes that failed under it.
    pub(super) exclude: BTreeSet<String>,
    /// How far the reports of which start were passed on.
    pub(super) heard: (u32, u64),
    /// Since when its job is over without a result, and which answer of Slurm's told so.
    pub(super) over_since: Option<(Instant, Option<Instant>)>,
    pub(super) queued_at: Instant,
}

impl Slurm {
    /// The task of an earlier run for this very key, if it is of use.
    pub(super) fn adopt(&mut self, attempt: &Attempt) -> Option<(String, usize, Utf8PathBuf)> {
        let (batch, n) = pointer::pointer(&self.jobs, &attempt.key.0)?;
        if self.spent.contains(&(batch.clone(), n)) {
            return None;
        }
        let folder = Folder::of(&self.jobs, &batch);
        let (shape, order) = (folder.shape().ok()?, folder.order(n).ok()?);
        if let Some(done) = folder.done(n)
            && let TaskEnd::Finished { outputs } = &done.ending
            && !outputs.iter().all(|(_, object)| self.store.present(object))
        {
            return None;
        }
        if !self.batches.contains_key(&batch) {
            let mut found = Batch::new(folder, shape);
            // Without a number it may be in the queue all the same: its name tells.
            found.stand = found.folder.job().map_or(Stand::Unclear, Stand::Submitted);
            self.batches.insert(batch.clone(), found);
            self.patience = SHORTEST;
        }
        Some((batch, n, order.log))
    }

    pub(super) fn end(&mut self, node: NodeId, ended: Ended) {
        let Some(task) = self.tasks.remove(&node) else { return };
        if let Some((batch, n)) = task.place {
            self.spent.insert((batch.clone(), n));
            let unrecorded = match ended.ending {
                Ending::Withdrawn | Ending::Damaged { .. } => true,
                // Its failure is that it was cancelled: the next run wants it to run, not to fail.
                Ending::Failed(_) => task.cancelled,
                Ending::Finished(_) | Ending::Stopped { .. } => false,
            };
            if unrecorded {
                // There will be no record of it.
                self.forget(&task.attempt, &batch, n);
            } else {
                self.heard_of.push((node, batch, n));
            }
        }
        (self.tell)(Message::Ended(node, Box::new(ended)));
    }

    pub(super) fn fail(&mut self, node: NodeId, mut failure: Failure, timed_out: bool) {
        let Some(task) = self.tasks.get(&node) else { return };
        let log = self.log_of(task);
        failure.log_tail = log_tail(&log, 12);
        if failure.log_tail.is_empty()
            && let Some((batch, n)) = task.place.as_ref().and_then(|(batch, n)| Some((self.batches.get(batch)?, *n)))
        {
            failure.log_tail = batch.folder.output(batch.group(n));
        }
        failure.log = log.into_string();
        let mut ended = Ended { ending: Ending::Failed(failure), timed_out, ..Ended::default() };
        ended.provenance.insert("executor".to_owned(), "slurm".into());
        self.end(node, ended);
    }

    pub(super) fn log_of(&self, task: &Task) -> Utf8PathBuf {
        let place = task.place.as_ref().filter(|_| task.adopted);
        let order = place.and_then(|(batch, n)| self.batches.get(batch)?.folder.order(*n).ok());
        order.map_or_else(|| task.attempt.log.clone(), |order| order.log)
    }

    /// Nobody will ask for this task any more.
    pub(super) fn forget(&mut self, attempt: &Attempt, batch: &str, n: usize) {
        pointer::drop_pointer(&self.jobs, &attempt.key.0, batch, n);
        self.clear(batch);
    }

    /// Removes a batch that nobody needs.
    pub(super) fn clear(&mut self, name: &str) {
        let Some(batch) = self.batches.get(name) else { return };
        let waited_for = self.tasks.values().any(|task| task.place.as_ref().is_some_and(|place| place.0 == name))
            || self.heard_of.iter().any(|(_, batch, _)| batch == name);
        let all_spent = batch.shape.groups.iter().flatten().all(|n| self.spent.contains(&(name.to_owned(), *n)));
        if !waited_for && all_spent && !matches!(batch.stand, Stand::Handed) {
            batch.folder.remove();
            self.batches.remove(name);
        }
    }

    /// Puts a task back into the queue, away from its batch.
    pub(super) fn submit_again(&mut self, node: NodeId) {
        if let Some(task) = self.tasks.get_mut(&node) {
            if let Some(place) = task.place.take() {
                self.spent.insert(place);
            }
            task.adopted = false;
            task.over_since = None;
            task.heard = (0, 0);
            task.queued_at = Instant::now();
        }
        self.patience = SHORTEST;
    }

    /// Ends a task that did not begin, or whose end nobody waits for.
    pub(super) fn withdraw(&mut self, node: NodeId) {
        self.end(node, Ended { ending: Ending::Withdrawn, ..Ended::default() });
    }

    pub(super) fn inputs_of(&self, node: NodeId) -> Vec<(NodeId, ObjectRef)> {
        self.tasks.get(&node).map(|task| task.attempt.inputs.clone()).unwrap_or_default()
    }
}
