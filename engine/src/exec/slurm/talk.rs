//! What Slurm is asked, when, and what its answers change.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    Slurm,
    batch::{Batch, Stand},
    client::{Request, Response, SHORTEST},
    files,
    state::{JobLine, Refusal},
};
use crate::{event::Failure, graph::NodeId};

/// The longest time between two questions.
const LONGEST: Duration = Duration::from_secs(30);

impl Slurm {
    pub(super) fn hear(&mut self, response: Response) -> std::io::Result<()> {
        match response {
            Response::Limits(limits) => {
                self.heard();
                self.array_limit = limits.array;
                self.limits = Some(limits);
            }
            Response::Submitted { batch, result } => self.submitted(&batch, result),
            Response::Queried { names, result } => {
                self.heard();
                match result {
                    Ok(lines) => self.answered(&names, lines)?,
                    Err(error) => self.silence(&error),
                }
            }
            Response::Accounted { names, found } => {
                self.heard();
                match found {
                    None => self.no_accounts = true,
                    Some(lines) => self.take_lines(&names, &lines, true),
                }
                for name in names {
                    if let Some(batch) = self.batches.get_mut(&name) {
                        batch.accounted = true;
                    }
                }
            }
        }
        Ok(())
    }

    /// An answer has come. The time to the next question counts from here, so that two are never closer than that, however
    /// long the first one took to start.
    fn heard(&mut self) {
        self.asking = false;
        self.asked = Some(Instant::now());
    }

    /// The longest time between two questions.
    fn longest(&self) -> Duration {
        self.limits.unwrap_or_default().longest_silence(SHORTEST, LONGEST)
    }

    pub(super) fn ask_limits(&mut self) -> std::io::Result<()> {
        if std::mem::replace(&mut self.asking_limits, true) {
            return Ok(());
        }
        self.asking = true;
        self.send(Request::Limits)
    }

    pub(super) fn submitted(&mut self, name: &str, result: Result<String, Refusal>) {
        let Some(batch) = self.batches.get_mut(name) else { return };
        let nodes: Vec<NodeId> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.place.as_ref().is_some_and(|place| place.0 == name))
            .map(|(node, _)| *node)
            .collect();
        match result {
            Ok(job) => {
                batch.stand = Stand::Submitted(job.clone());
                self.patience = SHORTEST;
                self.accepted = true;
                for node in nodes {
                    self.note(node, format!("submitted as job {job}"));
                }
            }
            Err(Refusal::Unclear(text)) => {
                batch.stand = Stand::Unclear;
                self.patience = SHORTEST;
                self.warn(
                    &nodes,
                    &format!("Slurm did not answer ({text}): looking for its job by name before trying again"),
                );
            }
            Err(Refusal::Later(text)) => {
                batch.stand = Stand::Dead;
                self.wait_to_submit(nodes, &format!("Slurm takes no more jobs for now: {text}"));
            }
            Err(Refusal::ArrayTooLarge) if batch.shape.groups.len() > 1 => {
                batch.stand = Stand::Dead;
                self.array_limit = batch.shape.groups.len() / 2;
                nodes.into_iter().for_each(|node| self.submit_again(node));
            }
            Err(Refusal::ArrayTooLarge) => {
                batch.stand = Stand::Dead;
                let failure = Failure {
                    message: "Slurm refused the job: Invalid job array specification".to_owned(),
                    help: Some("leave `--array` out of `extra`: Sepia makes arrays of the cells of a sweep".to_owned()),
                    ..Failure::default()
                };
                nodes.into_iter().for_each(|node| self.fail(node, failure.clone(), false));
            }
            // A cluster that has worked is believed to come back; one that never did is wrongly set up.
            Err(Refusal::Access(failure)) if self.accepted => {
                batch.stand = Stand::Dead;
                self.wait_to_submit(nodes, &failure.message);
            }
            Err(Refusal::Never(failure) | Refusal::Access(failure)) => {
                batch.stand = Stand::Dead;
                for node in nodes {
                    let excluded = self.tasks.get_mut(&node).map(|task| std::mem::take(&mut task.exclude));
                    // Without the nodes that failed under it perhaps none is left: rather one of those than none.
                    if excluded.is_some_and(|excluded| !excluded.is_empty()) {
                        self.submit_again(node);
                    } else {
                        self.fail(node, failure.clone(), false);
                    }
                }
            }
        }
    }

    /// Nothing of this was taken: it is tried again in a while.
    fn wait_to_submit(&mut self, nodes: Vec<NodeId>, why: &str) {
        self.refused = Some(Instant::now());
        self.warn(&nodes, why);
        nodes.into_iter().for_each(|node| self.submit_again(node));
    }

    pub(super) fn silence(&mut self, error: &str) {
        self.patience = (self.patience * 2).min(self.longest());
        if !std::mem::replace(&mut self.told_silence, true) {
            let nodes: Vec<NodeId> = self.tasks.keys().copied().collect();
            let error = error.lines().last().unwrap_or_default();
            self.warn(
                &nodes,
                &format!("Slurm does not answer ({error}): jobs that run go on, and are watched by their files"),
            );
        }
    }

    pub(super) fn answered(&mut self, names: &[String], lines: Vec<JobLine>) -> std::io::Result<()> {
        self.told_silence = false;
        let before = self.patience;
        self.take_lines(names, &lines, false);
        if self.patience == before {
            self.patience = (self.patience * 3 / 2).min(self.longest());
        }
        let mut again = Vec::new();
        for name in names {
            let Some(batch) = self.batches.get_mut(name) else { continue };
            if batch.stand != Stand::Unclear {
                continue;
            }
            let found = lines.iter().find(|line| line.name == batch.job_name);
            match found {
                Some(line) => {
                    let _ = files::write_whole(&batch.folder.path.join(files::JOB), line.job.as_bytes());
                    batch.stand = Stand::Submitted(line.job.clone());
                }
                None if batch.arguments.is_empty() => batch.stand = Stand::Gone,
                None => {
                    batch.stand = Stand::Handed;
                    again.push((name.clone(), batch.folder.path.clone(), batch.arguments.clone()));
                }
            }
        }
        for (batch, folder, arguments) in again {
            self.send(Request::Submit { batch, folder, arguments })?;
        }
        Ok(())
    }

    pub(super) fn take_lines(&mut self, names: &[String], lines: &[JobLine], from_accounts: bool) {
        let mut by_name: BTreeMap<&str, Vec<&JobLine>> = BTreeMap::new();
        for line in lines {
            by_name.entry(&line.name).or_default().push(line);
        }
        let now = Instant::now();
        for name in names {
            let Some(batch) = self.batches.get_mut(name) else { continue };
            let own = by_name.get(batch.job_name.as_str()).map_or(&[][..], Vec::as_slice);
            if batch.take(own, now, from_accounts) {
                self.patience = SHORTEST;
            }
        }
    }

    /// Asks about all jobs at once, if it is time and somebody wants to know.
    pub(super) fn ask(&mut self) -> std::io::Result<()> {
        let waited_for: BTreeSet<&String> =
            self.tasks.values().filter_map(|task| task.place.as_ref().map(|(batch, _)| batch)).collect();
        let askable = |batch: &Batch| matches!(batch.stand, Stand::Submitted(_) | Stand::Unclear);
        let names: Vec<String> =
            waited_for.into_iter().filter(|name| self.batches.get(*name).is_some_and(askable)).cloned().collect();
        // A little apart from others who started at the same moment.
        let apart = Duration::from_millis(u64::from(std::process::id() % 500));
        let due = self.asked.is_none_or(|asked| asked.elapsed() >= self.patience + apart);
        if names.is_empty() || self.asking || !due {
            return Ok(());
        }
        self.asking = true;
        let vanished: Vec<String> = names
            .iter()
            .filter(|name| self.batches.get(*name).is_some_and(|batch| batch.vanished() && !batch.accounted))
            .cloned()
            .collect();
        if !vanished.is_empty() && !self.no_accounts {
            let request = Request::Account { names: self.job_names(&vanished) };
            // The answer carries the names of batches.
            return self.send(request);
        }
        let request = Request::Query { names: self.job_names(&names) };
        self.send(request)
    }

    pub(super) fn job_names(&self, names: &[String]) -> Vec<String> {
        names.iter().filter_map(|name| self.batches.get(name)).map(|batch| batch.job_name.clone()).collect()
    }
}
