//! What becomes of a node when its attempt has ended.

use camino::Utf8PathBuf;
use sepia_cache::{Outcome, StoreError};

use super::{Run, RunError, RunningAttempt};
use crate::{
    device::{self, Gpus},
    event::{Failure, RunEvent},
    exec::{
        attempt::{Ended, Ending},
        committer::Committed,
        keys::NodeOutputs,
        record::{End, Keys, node_figures},
        state::NodeState,
    },
    graph::NodeId,
    stage::Device,
};

impl Run<'_, '_> {
    pub(super) fn take_end(&mut self, id: NodeId, ended: Ended) -> Result<(), RunError> {
        // A good end is told once it is durable, and after those that it builds on: its start waits with it.
        if !matches!(ended.ending, Ending::Finished(_)) {
            self.tell_start(id);
        }
        let Some(mut running) = self.running.remove(&id) else { return Ok(()) };
        self.executor.ended(id);
        running.timed_out |= ended.timed_out;
        let name = self.plan.node(id).name.clone();
        match &ended.ending {
            Ending::Finished(outputs) => {
                if let Some(failure) = self.changed_input(id)? {
                    return self.attempt_failed(id, &ended, &running, failure);
                }
                let outputs: NodeOutputs = outputs.iter().cloned().collect();
                self.nodes[id.index()].same_outputs = self.lookup.same_as_before(&name, &outputs)?;
                self.nodes[id.index()].finished = Some((ended.seconds, node_figures(&ended.metrics)));
                self.outputs[id.index()] = Some(outputs);
                self.commit(id, &ended, &running, Outcome::Done, None)?;
                self.summary.ran += 1;
                self.scheduler.finished(id)?;
            }
            Ending::Damaged { producer, object, what } => {
                self.lookup.forget(object);
                let node = self.plan.node(*producer).name.clone();
                if std::mem::replace(&mut self.nodes[producer.index()].reopened, true) {
                    let failure = Failure {
                        message: format!("the output of `{node}` is damaged again right after it was repaired: {what}"),
                        help: Some("the disk or the memory of this machine is not to be trusted".to_owned()),
                        ..Failure::default()
                    };
                    return self.attempt_failed(id, &ended, &running, failure);
                }
                self.emit(RunEvent::Damaged { node, what: what.clone() });
                if self.scheduler.state(*producer) == NodeState::Cached {
                    self.summary.cached -= 1;
                }
                self.nodes[id.index()].lock = None;
                self.nodes[id.index()].attempts -= 1;
                self.scheduler.reopen(*producer, id)?;
            }
            Ending::Stopped { step } if running.timed_out => {
                let failure = Failure {
                    message: format!("it did not finish within its time-out; a checkpoint at step {step} is saved"),
                    help: Some("raise `timeout`; the next run goes on from the checkpoint".to_owned()),
                    param: Some("timeout".to_owned()),
                    ..Failure::default()
                };
                self.attempt_failed(id, &ended, &running, failure)?;
            }
            Ending::Stopped { step } => {
                let step = *step;
                self.commit(id, &ended, &running, Outcome::Stopped, None)?;
                self.cancel(id)?;
                self.emit(RunEvent::Stopped { node: name, step });
            }
            Ending::Withdrawn => {
                self.cancel(id)?;
                self.emit(RunEvent::Cancelled { node: name });
            }
            Ending::Failed(_) if self.signals_seen > 0 && !running.timed_out => {
                self.cancel(id)?;
                self.emit(RunEvent::Cancelled { node: name });
            }
            Ending::Failed(failure) => {
                let mut failure = self.explain_device(id, failure.clone());
                // An executor that keeps the time itself may know better.
                if running.timed_out && (!ended.timed_out || failure.message.is_empty()) {
                    failure.message = "it did not finish within its time-out".to_owned();
                    failure.help = Some("raise `timeout`".to_owned());
                    failure.param = Some("timeout".to_owned());
                }
                self.attempt_failed(id, &ended, &running, failure)?;
            }
        }
        Ok(())
    }

    /// The failure of a GPU in words for people, any other as it is.
    fn explain_device(&self, id: NodeId, failure: Failure) -> Failure {
        let node = self.plan.node(id);
        let Device::Cuda(number) = node.device else { return failure };
        if device::cause(&failure.message).is_none() {
            return failure;
        }
        device::explained(failure, &node.name, &node.estimate, Gpus::of_this_machine(true).get(number).ok())
    }

    pub(super) fn cancel(&mut self, id: NodeId) -> Result<(), RunError> {
        self.nodes[id.index()].lock = None;
        self.summary.cancelled += 1;
        Ok(self.scheduler.cancelled(id)?)
    }

    /// If a file outside the store changed while a stage read it, nobody knows which bytes the result is of.
    pub(super) fn changed_input(&mut self, id: NodeId) -> Result<Option<Failure>, RunError> {
        if !self.plan.node(id).reads_files {
            return Ok(None);
        }
        let before = self.nodes[id.index()].key.as_ref().map(|(key, _)| *key);
        let (message, help) = match self.keys.inputs_of(id, &self.outputs) {
            Ok(now) if Some(now.key()) == before => return Ok(None),
            Ok(_) => (
                "an input file changed while the stage ran, so its result is not kept".to_owned(),
                "run again when the file is complete",
            ),
            Err(error) => (
                format!(
                    "an input file could not be read any more when the stage had run, so its result is not kept: {error}"
                ),
                "put it back and leave it there while stages read it, then run again",
            ),
        };
        Ok(Some(Failure { message, help: Some(help.to_owned()), ..Failure::default() }))
    }

    pub(super) fn attempt_failed(
        &mut self,
        id: NodeId,
        ended: &Ended,
        running: &RunningAttempt,
        failure: Failure,
    ) -> Result<(), RunError> {
        self.tell_start(id);
        let outcome = if running.timed_out { Outcome::TimedOut } else { Outcome::Failed };
        self.commit(id, ended, running, outcome, Some(failure.message.clone()))?;
        let node = self.plan.node(id);
        let attempt = self.nodes[id.index()].attempts;
        if attempt <= node.decl.retries && self.scheduler.accepting() {
            let node = node.name.clone();
            self.scheduler.try_again(id)?;
            self.emit(RunEvent::Failed { node, attempt, failure, again: true });
            return Ok(());
        }
        self.fail(id, failure)
    }

    /// The node is lost, and with it what depends on it; unless the run shall keep going, nothing new starts.
    pub(super) fn fail(&mut self, id: NodeId, failure: Failure) -> Result<(), RunError> {
        let node = self.plan.node(id).name.clone();
        let attempt = self.nodes[id.index()].attempts;
        self.nodes[id.index()].lock = None;
        self.summary.failed += 1;
        self.tell_cached();
        self.emit(RunEvent::Failed { node: node.clone(), attempt, failure: failure.clone(), again: false });
        self.report_failures.push((id, failure));
        for skipped in self.scheduler.failed(id)? {
            self.blocked.remove(&skipped);
            self.summary.skipped += 1;
            let skipped = self.plan.node(skipped).name.clone();
            self.emit(RunEvent::Skipped { node: skipped, because: node.clone() });
        }
        if !self.options.keep_going {
            self.executor.withdraw_waiting();
            self.cancel_rest()?;
        }
        Ok(())
    }

    pub(super) fn cancel_rest(&mut self) -> Result<(), RunError> {
        self.scheduler.stop_accepting();
        self.blocked.clear();
        for id in self.scheduler.cancel_rest()? {
            self.summary.cancelled += 1;
            let node = self.plan.node(id).name.clone();
            self.emit(RunEvent::Cancelled { node });
        }
        Ok(())
    }

    pub(super) fn commit(
        &mut self,
        id: NodeId,
        ended: &Ended,
        running: &RunningAttempt,
        outcome: Outcome,
        error: Option<String>,
    ) -> Result<(), RunError> {
        let end = End { outcome, error, started_at: running.started_at, log: self.log_path(id)?.into_string() };
        let Some((key, inputs)) = &self.nodes[id.index()].key else { return Ok(()) };
        let key_of = |needed: NodeId| Some((needed, self.nodes[needed.index()].key.as_ref()?.0));
        let keys = Keys { own: (key, inputs), needed: self.plan.node(id).needs().filter_map(key_of).collect() };
        let record = self.record.of_attempt(self.plan, id, &keys, ended, &end);
        if let Some(committer) = &mut self.committer {
            self.uncommitted.insert(id);
            committer.commit(id, record);
        }
        Ok(())
    }

    /// Where the current attempt of a node writes what it has to say.
    pub(super) fn log_path(&self, id: NodeId) -> Result<Utf8PathBuf, StoreError> {
        let attempt = self.nodes[id.index()].attempts;
        Ok(self.record.logs(&self.store)?.join(format!("{}-{attempt}.log", id.0)))
    }

    pub(super) fn take_commit(&mut self, committed: Committed) -> Result<(), RunError> {
        if let Some(committer) = &mut self.committer {
            committer.heard();
        }
        let ids = committed.result?;
        for (id, record) in committed.nodes.into_iter().zip(ids) {
            self.record.committed(id, record);
            self.uncommitted.remove(&id);
            self.executor.recorded(id);
            let node = &mut self.nodes[id.index()];
            let Some((seconds, figures)) = node.finished.take() else { continue };
            node.lock = None;
            let same_outputs = node.same_outputs;
            if let Some((key, _)) = &node.key {
                let _ = fs_err::remove_dir_all(self.store.checkpoints_dir(&key.0));
            }
            let node = self.plan.node(id).name.clone();
            self.tell_start(id);
            self.emit(RunEvent::Finished { node, seconds, figures, same_outputs });
        }
        let ready = |id: &NodeId| !self.plan.node(*id).needs().any(|needed| self.uncommitted.contains(&needed));
        let tellable: Vec<NodeId> = self.untold_starts.keys().copied().filter(ready).collect();
        for id in tellable {
            self.tell_start(id);
        }
        Ok(())
    }

    /// Tells that a node has started, if nobody was told yet.
    pub(super) fn tell_start(&mut self, id: NodeId) {
        if let Some(started) = self.untold_starts.remove(&id) {
            self.emit(started);
        }
    }
}
