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
//! - What the cluster lost is submitted again outside the author's `retries`, a few times.
//! - Dependencies are Sepia's affair: a job is submitted when its inputs are in the store, never with `--dependency` (Slurm
//!   takes a dependency on a job that it has forgotten for fulfilled).

mod batch;
mod client;
mod files;
mod job;
mod options;
mod state;
mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use camino::Utf8PathBuf;
use sepia_cache::{ObjectRef, Store};

use self::{
    batch::{Batch, Stand},
    client::{Client, Request, Response, SHORTEST},
    files::{Folder, TaskEnd},
    state::{JobLine, Refusal},
};
use super::{
    attempt::{Attempt, Ended, Ending, Message},
    executor::{Cancel, Executor},
    local::Tell,
    slots::Amount,
    worker::Report,
};
use crate::{event::Failure, graph::NodeId};

pub use batch::{Line, lines};
pub(crate) use files::is_under_way;
pub use job::job;
pub use options::SlurmOptions;

/// How often the jobs' files are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long stages are gathered that become ready one after the other, so that one array holds them.
const GATHER: Duration = Duration::from_millis(100);
/// The longest time between two questions.
const LONGEST: Duration = Duration::from_secs(30);
/// After a refusal that may pass.
const REFUSED: Duration = Duration::from_secs(10);

/// A node that runs, or waits to.
struct Task {
    attempt: Attempt,
    /// Where it is, once it has been given a place in a batch.
    place: Option<(String, usize)>,
    /// A run before this one submitted it.
    adopted: bool,
    cancelled: bool,
    /// How often the cluster lost it.
    losses: u32,
    /// Nodes that failed under it.
    exclude: BTreeSet<String>,
    /// How far the reports of which start were passed on.
    heard: (u32, u64),
    /// Since when its job is over without a result.
    over_since: Option<Instant>,
    queued_at: Instant,
}

/// The cluster.
pub(super) struct Slurm {
    store: Arc<Store>,
    jobs: Utf8PathBuf,
    program: PathBuf,
    options: SlurmOptions,
    tell: Tell,
    client: Option<Client>,
    tasks: BTreeMap<NodeId, Task>,
    batches: BTreeMap<String, Batch>,
    /// Results that the loop has heard of and that are not recorded yet.
    heard_of: Vec<(NodeId, String, usize)>,
    /// Tasks whose result is taken or given up.
    spent: BTreeSet<(String, usize)>,
    array_limit: usize,
    looked: Instant,
    asking: bool,
    asked: Option<Instant>,
    patience: Duration,
    /// Accounts do not answer here: they are not asked again.
    no_accounts: bool,
    refused: Option<Instant>,
    told_silence: bool,
}

/// How the claim of a run begins that will not have a task run.
const GIVEN_UP: &str = "given up";
/// Slurm's default `MaxArraySize` is 1001, and the largest index is one less.
const ARRAY: usize = 1000;

impl Slurm {
    pub(super) fn new(store: Arc<Store>, program: PathBuf, options: SlurmOptions, tell: Tell) -> Self {
        Self {
            jobs: files::jobs_dir(&store),
            store,
            program,
            options,
            tell,
            client: None,
            tasks: BTreeMap::new(),
            batches: BTreeMap::new(),
            heard_of: Vec::new(),
            spent: BTreeSet::new(),
            array_limit: ARRAY,
            looked: Instant::now(),
            asking: false,
            asked: None,
            patience: SHORTEST,
            no_accounts: false,
            refused: None,
            told_silence: false,
        }
    }

    fn send(&mut self, request: Request) -> std::io::Result<()> {
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

    /// The task of an earlier run for this very key, if it is of use.
    fn adopt(&mut self, attempt: &Attempt) -> Option<(String, usize, Utf8PathBuf)> {
        let (batch, n) = files::pointer(&self.jobs, &attempt.key.0)?;
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

    fn end(&mut self, node: NodeId, ended: Ended) {
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

    fn fail(&mut self, node: NodeId, mut failure: Failure, timed_out: bool) {
        let Some(task) = self.tasks.get(&node) else { return };
        let log = self.log_of(task);
        failure.log_tail = super::attempt::tail(&log, 12);
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

    fn log_of(&self, task: &Task) -> Utf8PathBuf {
        let place = task.place.as_ref().filter(|_| task.adopted);
        let order = place.and_then(|(batch, n)| self.batches.get(batch)?.folder.order(*n).ok());
        order.map_or_else(|| task.attempt.log.clone(), |order| order.log)
    }

    /// Nobody will ask for this task any more.
    fn forget(&mut self, attempt: &Attempt, batch: &str, n: usize) {
        files::drop_pointer(&self.jobs, &attempt.key.0, batch, n);
        self.clear(batch);
    }

    /// Removes a batch that nobody needs.
    fn clear(&mut self, name: &str) {
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
    fn submit_again(&mut self, node: NodeId) {
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

    fn hear(&mut self, response: Response) -> std::io::Result<()> {
        match response {
            Response::Submitted { batch, result } => self.submitted(&batch, result),
            Response::Queried { names, result } => {
                self.asking = false;
                match result {
                    Ok(lines) => self.answered(&names, lines)?,
                    Err(error) => self.silence(&error),
                }
            }
            Response::Accounted { names, found } => {
                self.asking = false;
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

    fn submitted(&mut self, name: &str, result: Result<String, Refusal>) {
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
                for node in nodes {
                    self.note(node, format!("submitted as job {job}"));
                }
            }
            Err(Refusal::Unclear(text)) => {
                batch.stand = Stand::Unclear;
                self.patience = SHORTEST;
                for node in nodes {
                    self.note(node, format!("Slurm did not answer ({text}): looking for the job by its name"));
                }
            }
            Err(Refusal::Later(text)) => {
                batch.stand = Stand::Dead;
                self.refused = Some(Instant::now());
                for node in nodes {
                    self.note(node, format!("Slurm takes no more jobs for now: {text}"));
                    self.submit_again(node);
                }
            }
            Err(Refusal::ArrayTooLarge) if batch.shape.groups.len() > 1 => {
                batch.stand = Stand::Dead;
                self.array_limit = batch.shape.groups.len() / 2;
                nodes.into_iter().for_each(|node| self.submit_again(node));
            }
            Err(Refusal::ArrayTooLarge) => {
                batch.stand = Stand::Dead;
                let failure = Failure { message: "Slurm refused the job".to_owned(), ..Failure::default() };
                nodes.into_iter().for_each(|node| self.fail(node, failure.clone(), false));
            }
            Err(Refusal::Never(failure)) => {
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

    fn silence(&mut self, error: &str) {
        self.patience = (self.patience * 2).min(LONGEST);
        if !std::mem::replace(&mut self.told_silence, true)
            && let Some(node) = self.tasks.keys().next().copied()
        {
            let error = error.lines().last().unwrap_or_default();
            self.note(
                node,
                format!("Slurm does not answer ({error}): jobs that run go on, and are watched by their files"),
            );
        }
    }

    fn answered(&mut self, names: &[String], lines: Vec<JobLine>) -> std::io::Result<()> {
        self.told_silence = false;
        let before = self.patience;
        self.take_lines(names, &lines, false);
        if self.patience == before {
            self.patience = (self.patience * 3 / 2).min(LONGEST);
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

    fn take_lines(&mut self, names: &[String], lines: &[JobLine], from_accounts: bool) {
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
    fn ask(&mut self) -> std::io::Result<()> {
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
        self.asked = Some(Instant::now());
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

    fn job_names(&self, names: &[String]) -> Vec<String> {
        names.iter().filter_map(|name| self.batches.get(name)).map(|batch| batch.job_name.clone()).collect()
    }

    fn cancel_jobs(&mut self) -> std::io::Result<()> {
        let jobs = self.unwanted_jobs();
        if jobs.is_empty() {
            return Ok(());
        }
        self.patience = SHORTEST;
        self.send(Request::Cancel { jobs, at_once: false })
    }

    /// The jobs to cancel whose tasks are all cancelled or ended.
    fn unwanted_jobs(&mut self) -> Vec<String> {
        let mut jobs = Vec::new();
        let wanted: BTreeSet<(&str, usize)> = self
            .tasks
            .values()
            .filter(|task| !task.cancelled)
            .filter_map(|task| task.place.as_ref().map(|(batch, n)| (batch.as_str(), *n)))
            .collect();
        for (name, batch) in &mut self.batches {
            let Stand::Submitted(job) = &batch.stand else { continue };
            if !std::mem::take(&mut batch.to_cancel) {
                continue;
            }
            let groups = &batch.shape.groups;
            let unwanted = |group: &Vec<usize>| group.iter().all(|n| !wanted.contains(&(name.as_str(), *n)));
            let unwanted: Vec<usize> = (0..groups.len()).filter(|group| unwanted(&groups[*group])).collect();
            if unwanted.len() == groups.len() {
                jobs.push(job.clone());
            } else {
                jobs.extend(unwanted.iter().map(|group| format!("{job}_{group}")));
            }
        }
        jobs
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
            files::drop_pointer(&self.jobs, &key, &batch, n);
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

impl Slurm {
    /// Ends a task that did not begin, or whose end nobody waits for.
    fn withdraw(&mut self, node: NodeId) {
        self.end(node, Ended { ending: Ending::Withdrawn, ..Ended::default() });
    }

    /// Who may claim a task in this process's name.
    fn claimant() -> String {
        format!("{GIVEN_UP} by process {}", std::process::id())
    }

    fn inputs_of(&self, node: NodeId) -> Vec<(NodeId, ObjectRef)> {
        self.tasks.get(&node).map(|task| task.attempt.inputs.clone()).unwrap_or_default()
    }
}
