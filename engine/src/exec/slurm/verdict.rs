//! What has become of each task: its own files first, then what Slurm said.

use std::time::Instant;

use super::{
    Slurm,
    batch::{Stand, own_uid},
    cancel::GIVEN_UP,
    files::{self, Status},
    job::CANNOT_WORK,
    order::{EndRecord, TaskEnd},
    state::{self, Life, Over},
};
use crate::{exec::attempt::Message, graph::NodeId};

/// What Slurm says of a task's job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// Nothing yet, or that it lives.
    Alive,
    /// It is over.
    Over(Over),
    /// It does not know the job.
    Unknown,
}

impl Slurm {
    /// Looks at the files of every batch that is waited for, once, and at what Slurm said.
    pub(super) fn decide(&mut self) -> std::io::Result<()> {
        let waited_for: std::collections::BTreeSet<String> =
            self.tasks.values().filter_map(|task| Some(task.place.as_ref()?.0.clone())).collect();
        for name in waited_for {
            let Some(batch) = self.batches.get(&name) else { continue };
            let status = batch.folder.look();
            let of_batch: Vec<(NodeId, usize)> = self
                .tasks
                .iter()
                .filter_map(|(node, task)| task.place.as_ref().filter(|at| at.0 == name).map(|at| (*node, at.1)))
                .collect();
            for (node, n) in of_batch {
                self.decide_one(node, &name, n, &status)?;
            }
        }
        Ok(())
    }

    fn decide_one(&mut self, node: NodeId, name: &str, n: usize, status: &Status) -> std::io::Result<()> {
        self.pass_reports(node, name, n, status);
        let Some(folder) = self.batches.get(name).map(|batch| batch.folder.clone()) else { return Ok(()) };
        let says = self.says(name, n);
        let started = status.started.get(&n).copied();
        if status.done.contains(&n) || matches!(says, Says::Over(_) | Says::Unknown) {
            // Opened by its name, whatever the listing showed.
            if let Some(done) = folder.done(n) {
                return self.done(node, name, n, done, says);
            }
        }
        let interrupted =
            started.filter(|start| status.ended.get(&n) == Some(start)).and_then(|start| folder.end_of(n, start));
        let cancelled = self.tasks.get(&node).is_some_and(|task| task.cancelled);
        if cancelled {
            if let Some(end) = interrupted {
                self.finish_with(node, end);
            } else {
                let never_began = started.is_none() && folder.claim(n, &Self::claimant())? == Self::claimant();
                if never_began || (says != Says::Alive && self.is_certain(node, name)) {
                    self.withdraw(node);
                }
            }
            return Ok(());
        }
        if says == Says::Alive {
            if let Some(task) = self.tasks.get_mut(&node) {
                task.over_since = None;
            }
            let hopeless = self.batches.get(name).and_then(|batch| batch.seen.get(&batch.group(n)));
            if let Some(failure) = hopeless.and_then(|(line, _)| state::hopeless(line))
                && folder.claim(n, &Self::claimant())? == Self::claimant()
            {
                if let Some(task) = self.tasks.get_mut(&node) {
                    task.cancelled = true;
                }
                if let Some(batch) = self.batches.get_mut(name) {
                    batch.to_cancel = true;
                }
                self.cancel_jobs()?;
                self.fail(node, failure, false);
            }
            return Ok(());
        }
        if !self.is_certain(node, name) {
            return Ok(());
        }
        let step = interrupted.and_then(|end| match end.ending {
            TaskEnd::Interrupted { step } => Some(step),
            _ => None,
        });
        self.without_result(node, name, n, says, started, step)
    }

    /// The job is over, and there is no result.
    fn without_result(
        &mut self,
        node: NodeId,
        name: &str,
        n: usize,
        says: Says,
        started: Option<u32>,
        step: Option<u64>,
    ) -> std::io::Result<()> {
        let Some(batch) = self.batches.get(name) else { return Ok(()) };
        let (folder, job) = (batch.folder.clone(), batch.job_of(n));
        let output = folder.output(batch.group(n));
        let job = job.trim_start_matches("job ").to_owned();
        let adopted = self.tasks.get(&node).is_some_and(|task| task.adopted);
        // Whatever is still in some queue will not begin after this.
        let claimed_by = if started.is_none() { folder.claim(n, &Self::claimant())? } else { String::new() };
        let begun = started.is_some() || !claimed_by.starts_with(GIVEN_UP);
        let over = match says {
            Says::Over(Over::ByItself) if !begun => Over::Launch,
            Says::Over(Over::ByItself) if state::memory_ran_out(&output) => Over::Memory,
            Says::Over(over) => over,
            // A waiting element of an array that is cancelled leaves no trace anywhere; a job that ran does for a while.
            Says::Unknown | Says::Alive if !begun => Over::Cancelled,
            Says::Unknown | Says::Alive => Over::Lost,
        };
        // An earlier run may have cancelled its jobs when it was stopped: this one wants them.
        if adopted && matches!(over, Over::Cancelled | Over::Lost | Over::Launch) {
            self.submit_again(node);
            return Ok(());
        }
        // A job says why it cannot work. One that says nothing was killed: Slurm calls it failed, too, if it starts a job
        // again on the very node that is still busy killing the first copy.
        let cannot_work = output.iter().any(|line| line.starts_with(CANNOT_WORK));
        if matches!(over, Over::Lost | Over::Launch) || (over == Over::ByItself && !cannot_work) {
            let limit = self.options.retries();
            let host = started.and_then(|start| folder.host(n, start));
            if let Some(task) = self.tasks.get_mut(&node)
                && task.losses < limit
            {
                task.losses += 1;
                if let Some(host) = &host {
                    task.exclude.insert(host.clone());
                }
                let on = host.map_or_else(String::new, |host| format!(" on {host}"));
                let what = match over {
                    Over::Launch => "could not be started on its node",
                    Over::ByItself => "was killed",
                    _ => "was lost by the cluster",
                };
                self.warn(&[node], &format!("job {job} {what}{on}: submitting it again"));
                // Whatever Slurm may still do with it, the task has another job.
                if let Some(batch) = self.batches.get_mut(name) {
                    batch.to_cancel = true;
                }
                self.submit_again(node);
                return Ok(());
            }
        }
        let mut failure = state::failure(over, &job, step);
        if over == Over::Launch {
            let (seen, program) = (self.store.root(), self.program.display());
            failure.help = Some(format!(
                "all nodes must see the store and this program under the same paths: `srun ls -ld {seen} {program}` shows what \
                 a node sees"
            ));
        }
        self.fail(node, failure, over == Over::TimeLimit);
        Ok(())
    }

    fn says(&self, name: &str, n: usize) -> Says {
        let Some(batch) = self.batches.get(name) else { return Says::Alive };
        match batch.stand {
            Stand::Handed | Stand::Unclear => return Says::Alive,
            Stand::Gone | Stand::Dead => return Says::Unknown,
            Stand::Submitted(_) => {}
        }
        if batch.answered.is_none() {
            return Says::Alive;
        }
        let group = batch.group(n);
        match batch.seen.get(&group) {
            Some((line, _)) => match state::life(line, own_uid()) {
                Life::Over(over) => Says::Over(over),
                // It lived when it was last seen, and the last answer did not name it.
                Life::Alive if !batch.named.contains(&group) => Says::Unknown,
                Life::Alive => Says::Alive,
            },
            None => Says::Unknown,
        }
    }

    /// Whether a job that Slurm calls over has had its time to show a result, and Slurm has said it often enough.
    fn is_certain(&mut self, node: NodeId, name: &str) -> bool {
        let Some(batch) = self.batches.get(name) else { return false };
        let (answered, grace) = (batch.answered, files::grace(&batch.folder.path));
        let gone = matches!(batch.stand, Stand::Gone | Stand::Dead);
        // Where there are accounts, they are asked before a job counts as forgotten.
        let asked_all = !batch.vanished() || batch.accounted || self.no_accounts;
        let Some(task) = self.tasks.get_mut(&node) else { return false };
        let now = Instant::now();
        let (since, told_by) = *task.over_since.get_or_insert((now, answered));
        if gone {
            return true;
        }
        // A job that a failed node or a preemption ended may be queued again: Slurm must say twice that it is over.
        let again = answered != told_by;
        let certain = again && asked_all && since.elapsed() >= grace;
        if !certain {
            self.patience = super::SHORTEST;
        }
        certain
    }

    fn pass_reports(&mut self, node: NodeId, name: &str, n: usize, status: &Status) {
        let Some(start) = status.started.get(&n).copied() else { return };
        let (Some(batch), Some(task)) = (self.batches.get(name), self.tasks.get_mut(&node)) else { return };
        if task.heard.0 != start {
            task.heard = (start, 0);
        }
        for report in batch.folder.new_reports(n, start, &mut task.heard.1) {
            (self.tell)(Message::Report(node, report));
        }
    }

    /// There is a result. Where the child was ended from outside, Slurm knows a moment later why.
    fn done(&mut self, node: NodeId, name: &str, n: usize, done: EndRecord, says: Says) -> std::io::Result<()> {
        let cancelled = self.tasks.get(&node).is_some_and(|task| task.cancelled);
        if done.killed && matches!(done.ending, TaskEnd::Failed { .. }) && !cancelled {
            let alone = self
                .batches
                .get(name)
                .is_some_and(|batch| batch.shape.groups.get(batch.group(n)).is_some_and(|group| group.len() == 1));
            match says {
                Says::Alive if alone && !self.told_silence => {
                    self.patience = super::SHORTEST;
                    return Ok(());
                }
                Says::Over(over) if over != Over::ByItself => {
                    return self.without_result(node, name, n, says, Some(0), None);
                }
                Says::Alive | Says::Over(_) | Says::Unknown => {}
            }
        }
        self.finish_with(node, done);
        Ok(())
    }

    fn finish_with(&mut self, node: NodeId, end: EndRecord) {
        let inputs = self.inputs_of(node);
        let Some(task) = self.tasks.get(&node) else { return };
        let log = self.log_of(task);
        self.end(node, end.into_ended(&inputs, &log));
    }
}
