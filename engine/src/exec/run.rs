//! The loop of a run.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use camino::Utf8PathBuf;
use sepia_cache::{KeyLock, Outcome, RunLock, Store, StoreError};

use super::{
    attempt::{Attempt, Control, Ended, Ending, Message},
    committer::{Committed, Committer},
    keys::{KeyError, KeyMaker, NodeOutputs},
    lookup::Lookup,
    options::RunOptions,
    reaper::Reaper,
    record::{End, Keys, RunRecord, node_figures},
    recorder::Recorder,
    scheduler::{Demand, Scheduler},
    slots::{Amount, Slots, machine_memory},
    state::{IllegalChange, NodeState},
    worker::Report,
};
use crate::{
    diagnostic::Diagnostic,
    event::{EVENT_FORMAT, Failure, Listener, RunEvent, RunOutcome, Stamped, Summary},
    graph::NodeId,
    key::{KeyInputs, StageKey},
    plan::{Plan, select, with_files},
    stage::Job,
};

/// How long a stage may take to save its checkpoint after its time-out.
const GRACE: Duration = Duration::from_secs(30);
/// How often keys that another run holds are looked at.
const POLL: Duration = Duration::from_millis(50);
/// How many names an event lists of many cached nodes.
const LISTED: usize = 20;

/// Why a run could not go on. A failed stage is no such reason.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Targets that do not exist.
    #[error("the selection does not fit the plan")]
    Selection(Vec<Diagnostic>),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A thread or a file of the run itself.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A defect of the executor.
    #[error(transparent)]
    Illegal(#[from] IllegalChange),
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// Run id.
    pub run: String,
    /// How it ended.
    pub outcome: RunOutcome,
    /// Counts.
    pub summary: Summary,
    /// What failed, with the node's number in the plan.
    pub failures: Vec<(NodeId, Failure)>,
}

enum Wake {
    Attempt(Message),
    Committed(Committed),
}

/// Runs the chosen part of a plan.
///
/// # Errors
/// [`RunError`]; stages that fail are in the report instead.
pub fn run(
    plan: &Plan,
    lookup: Lookup,
    options: &RunOptions,
    listeners: &mut [&mut dyn Listener],
) -> Result<RunReport, RunError> {
    let store = &Arc::clone(lookup.store());
    let chosen = select(plan, &options.selection).map_err(RunError::Selection)?;
    let forced = super::lookup::forced(plan, &options.force, &chosen).map_err(RunError::Selection)?;
    let frozen = super::lookup::frozen(plan, &options.selection, &chosen);
    let everyone: Vec<bool> = chosen.iter().zip(&frozen).map(|(chosen, frozen)| *chosen || *frozen).collect();
    let record = RunRecord::new(plan, options);
    let run_lock = store.lock_run(&record.run)?;
    let recorder = Recorder::create(&store.run_dir(&record.run)?)?;
    let (tell, wakes) = channel();
    let total = Amount { threads: options.jobs.max(1), memory: machine_memory(), devices: 1 };
    let demands = plan.nodes.iter().map(|node| Demand {
        amount: Amount {
            threads: node.threads(),
            memory: node.decl.resources.memory.unwrap_or(0),
            devices: node.decl.resources.device.unwrap_or(0),
        },
        priority: node.decl.priority,
    });
    let mut run = Run {
        plan,
        store: Arc::clone(store),
        options,
        scheduler: Scheduler::new(&plan.graph, &everyone, demands.collect(), Slots::new(total)),
        keys: KeyMaker::new(plan, store.file_digests()),
        lookup,
        record,
        recorder,
        listeners,
        begun: Instant::now(),
        tell,
        nodes: (0..plan.nodes.len()).map(|_| NodeRun::default()).collect(),
        outputs: vec![None; plan.nodes.len()],
        running: BTreeMap::new(),
        blocked: BTreeSet::new(),
        cached: Vec::new(),
        uncommitted: BTreeSet::new(),
        untold_starts: BTreeMap::new(),
        committer: None,
        reaper: None,
        forced,
        frozen,
        signals_seen: 0,
        report_failures: Vec::new(),
        summary: Summary::default(),
        _lock: run_lock,
    };
    run.go(&wakes)
}

/// What the loop knows of a node, beside its state.
#[derive(Default)]
struct NodeRun {
    key: Option<(StageKey, KeyInputs)>,
    attempts: u32,
    lock: Option<KeyLock>,
    told_waiting: bool,
    reopened: bool,
    same_outputs: bool,
    finished: Option<(f64, Vec<(String, f64)>)>,
}

struct RunningAttempt {
    control: Control,
    started_at: i64,
    deadline: Option<Instant>,
    timed_out: bool,
    killed: bool,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl RunningAttempt {
    /// The thread has said its last word, or its child was killed: it ends at once.
    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Run<'a, 'l> {
    plan: &'a Plan,
    store: Arc<Store>,
    options: &'a RunOptions,
    scheduler: Scheduler<'a>,
    keys: KeyMaker<'a>,
    lookup: Lookup,
    record: RunRecord,
    recorder: Recorder,
    listeners: &'a mut [&'l mut dyn Listener],
    begun: Instant,
    tell: Sender<Wake>,
    nodes: Vec<NodeRun>,
    outputs: Vec<Option<NodeOutputs>>,
    running: BTreeMap<NodeId, RunningAttempt>,
    blocked: BTreeSet<NodeId>,
    /// Cached nodes that no event has told yet.
    cached: Vec<NodeId>,
    uncommitted: BTreeSet<NodeId>,
    /// Starts that are told once what they build on is durable, so that the story has an order.
    untold_starts: BTreeMap<NodeId, RunEvent>,
    committer: Option<Committer>,
    reaper: Option<Reaper>,
    forced: Vec<bool>,
    frozen: Vec<bool>,
    signals_seen: u32,
    report_failures: Vec<(NodeId, Failure)>,
    summary: Summary,
    _lock: RunLock,
}

impl Run<'_, '_> {
    fn go(&mut self, wakes: &Receiver<Wake>) -> Result<RunReport, RunError> {
        let nodes = self.plan.ids().filter(|id| self.scheduler.state(*id) != NodeState::Outside).count() as u64;
        self.emit(RunEvent::RunStarted {
            format: EVENT_FORMAT,
            run: self.record.run.clone(),
            manifest: self.options.manifest.clone(),
            nodes,
        });
        let result = self.until_all_final(wakes);
        if result.is_err() {
            // The store or the run's own files failed: nothing more can be kept, and no child may go on.
            self.running.values().for_each(|attempt| attempt.control.kill());
        }
        for attempt in self.running.values_mut() {
            attempt.join();
        }
        if let Some(committer) = self.committer.take() {
            committer.finish();
        }
        if let Some(reaper) = self.reaper.take() {
            reaper.dismiss();
        }
        result?;
        self.finish()
    }

    fn until_all_final(&mut self, wakes: &Receiver<Wake>) -> Result<(), RunError> {
        loop {
            self.resolve_keys()?;
            self.start_attempts()?;
            self.tell_cached();
            if self.scheduler.all_final() && self.uncommitted.is_empty() && self.running.is_empty() {
                return Ok(());
            }
            self.recorder.flush();
            match wakes.recv_timeout(POLL) {
                Ok(wake) => {
                    self.take(wake)?;
                    // Whatever else came meanwhile, before anything new is started.
                    while let Ok(wake) = wakes.try_recv() {
                        self.take(wake)?;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            self.tick()?;
        }
    }

    fn take(&mut self, wake: Wake) -> Result<(), RunError> {
        match wake {
            Wake::Attempt(Message::Report(id, report)) => self.take_report(id, report),
            Wake::Attempt(Message::Group(group, alive)) => match &mut self.reaper {
                Some(reaper) if alive => reaper.guard(group),
                Some(reaper) => reaper.release(group),
                None => {}
            },
            Wake::Attempt(Message::Ended(id, ended)) => self.take_end(id, *ended)?,
            Wake::Committed(committed) => self.take_commit(committed)?,
        }
        Ok(())
    }

    fn take_report(&mut self, id: NodeId, report: Report) {
        let node = self.plan.node(id).name.clone();
        let event = match report {
            Report::Progress(progress) => RunEvent::Progress { node, progress },
            Report::Note { text } => RunEvent::Note { node, text },
            Report::Resumed { step } => RunEvent::Resumed { node, step },
            Report::Checkpoint { step } => RunEvent::Checkpoint { node, step },
            Report::Done | Report::Stopped { .. } | Report::Failed { .. } => return,
        };
        self.emit(event);
    }

    /// Finds the keys of all nodes whose inputs are there, and takes from the store what it has.
    fn resolve_keys(&mut self) -> Result<(), RunError> {
        while let Some(id) = self.scheduler.next_to_resolve() {
            let inputs = match self.keys.inputs_of(id, &self.outputs) {
                Ok(inputs) => inputs,
                Err(KeyError::File(error)) => {
                    let failure =
                        Failure { message: format!("an input file cannot be read: {error}"), ..Failure::default() };
                    self.fail(id, failure)?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let key = inputs.key();
            let hit = if self.must_run_anyway(id) { None } else { self.lookup.find(&key)? };
            self.nodes[id.index()].key = Some((key, inputs));
            match hit {
                Some(outputs) => {
                    self.take_from_store(id, outputs);
                    self.scheduler.found(id)?;
                }
                None if self.frozen[id.index()] => self.fail(id, not_in_store())?,
                None => self.scheduler.must_run(id)?,
            }
        }
        Ok(())
    }

    fn must_run_anyway(&self, id: NodeId) -> bool {
        self.forced[id.index()] && self.nodes[id.index()].attempts == 0
    }

    fn take_from_store(&mut self, id: NodeId, outputs: NodeOutputs) {
        self.outputs[id.index()] = Some(outputs);
        self.blocked.remove(&id);
        self.summary.cached += 1;
        self.cached.push(id);
    }

    fn start_attempts(&mut self) -> Result<(), RunError> {
        while let Some(id) = self.scheduler.next_to_start() {
            let Some((key, _)) = self.nodes[id.index()].key.clone() else { continue };
            let name = &self.plan.node(id).name;
            if self.nodes[id.index()].lock.is_none() {
                let owner = format!("process {}, run {}, stage {name}", std::process::id(), self.record.run);
                let Some(lock) = self.store.try_lock_key(&key.0, &owner)? else {
                    self.wait_for_other(id, key)?;
                    continue;
                };
                // Between the look-up and the lock another run may have finished it.
                if !self.must_run_anyway(id)
                    && let Some(outputs) = self.lookup.find_now(&key)?
                {
                    self.take_from_store(id, outputs);
                    self.scheduler.found_late(id)?;
                    continue;
                }
                self.nodes[id.index()].lock = Some(lock);
            }
            self.start(id, key)?;
            self.resolve_keys()?;
        }
        Ok(())
    }

    fn wait_for_other(&mut self, id: NodeId, key: StageKey) -> Result<(), RunError> {
        self.scheduler.held(id)?;
        self.blocked.insert(id);
        let owner = self.store.lock_owner(&key.0).unwrap_or_else(|| "another run".to_owned());
        let ours = owner.contains(&self.record.run);
        if !std::mem::replace(&mut self.nodes[id.index()].told_waiting, true) && !ours {
            let node = self.plan.node(id).name.clone();
            self.emit(RunEvent::Waiting { node, owner });
        }
        Ok(())
    }

    fn start(&mut self, id: NodeId, key: StageKey) -> Result<(), RunError> {
        let node = self.plan.node(id);
        self.nodes[id.index()].attempts += 1;
        let attempt = self.nodes[id.index()].attempts;
        self.prepare_machinery(node.entry.open)?;
        let params = match with_files(&node.params, &self.plan.folder) {
            Ok(params) => params,
            Err(error) => {
                let failure =
                    Failure { message: format!("an input file cannot be read: {error}"), ..Failure::default() };
                return self.fail(id, failure);
            }
        };
        let folder = self.store.attempts_dir().join(&self.record.run).join(format!("{}-{attempt}", id.0));
        let mut job = Job {
            seed: node.seed,
            device: node.device,
            dtype: node.dtype,
            threads: node.threads(),
            metrics: folder.join("metrics.tsv"),
            checkpoints: Some(self.store.checkpoints_dir(&key.0)),
            checkpoint_seconds: node.decl.checkpoint_seconds(),
            ..Job::default()
        };
        let mut inputs = Vec::new();
        for wire in &node.wires {
            let Some(object) = self.outputs[wire.from.index()].as_ref().and_then(|ports| ports.get(&wire.output))
            else {
                continue;
            };
            job.inputs.entry(wire.port.clone()).or_default().push(self.store.object_path(object));
            inputs.push((wire.from, *object));
        }
        for output in &node.outputs {
            job.outputs.insert(output.name.clone(), folder.join("out").join(&output.name));
        }
        let work = Attempt {
            node: id,
            entry: node.entry,
            params,
            knobs: node.knobs.clone(),
            job,
            inputs,
            output_ports: node.outputs.iter().map(|output| output.name.clone()).collect(),
            folder,
            log: self.log_path(id)?,
            program: self.options.program.clone(),
        };
        let control = Control::default();
        let thread = {
            let (store, control, tell) = (Arc::clone(&self.store), control.clone(), self.tell.clone());
            std::thread::Builder::new().name("attempt".to_owned()).spawn(move || {
                work.run(&store, &control, &|message| drop(tell.send(Wake::Attempt(message))));
            })?
        };
        self.scheduler.started(id)?;
        let started = Instant::now();
        let running = RunningAttempt {
            control,
            started_at: super::record::now_ms(),
            deadline: node.decl.timeout.map(|seconds| started + Duration::from_secs_f64(seconds)),
            timed_out: false,
            killed: false,
            thread: Some(thread),
        };
        self.running.insert(id, running);
        self.tell_cached();
        let (node, kind) = (node.name.clone(), node.entry.kind.to_owned());
        let started = RunEvent::Started { node, kind, key: key.to_string(), attempt };
        if self.plan.node(id).needs().any(|needed| self.uncommitted.contains(&needed)) {
            self.untold_starts.insert(id, started);
        } else {
            self.emit(started);
        }
        Ok(())
    }

    /// What is only needed once something runs.
    fn prepare_machinery(&mut self, program_of_the_author: bool) -> Result<(), RunError> {
        if self.committer.is_none() {
            self.record.begin(&self.store)?;
            let tell = self.tell.clone();
            let tell = move |committed| drop(tell.send(Wake::Committed(committed)));
            self.committer = Some(Committer::start(Arc::clone(&self.store), tell)?);
            fs_err::create_dir_all(self.record.logs(&self.store)?)?;
            self.record.gather_provenance(&self.options.program, &self.plan.folder);
        }
        if program_of_the_author && self.reaper.is_none() {
            self.reaper = Some(Reaper::start(&self.options.program)?);
        }
        Ok(())
    }

    fn take_end(&mut self, id: NodeId, ended: Ended) -> Result<(), RunError> {
        if let Some(started) = self.untold_starts.remove(&id) {
            self.emit(started);
        }
        let Some(mut running) = self.running.remove(&id) else { return Ok(()) };
        running.join();
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
            Ending::Failed(_) if self.signals_seen > 0 && !running.timed_out => {
                self.cancel(id)?;
                self.emit(RunEvent::Cancelled { node: name });
            }
            Ending::Failed(failure) => {
                let mut failure = failure.clone();
                if running.timed_out {
                    failure.message = "it did not finish within its time-out".to_owned();
                    failure.help = Some("raise `timeout`".to_owned());
                    failure.param = Some("timeout".to_owned());
                }
                self.attempt_failed(id, &ended, &running, failure)?;
            }
        }
        Ok(())
    }

    fn cancel(&mut self, id: NodeId) -> Result<(), RunError> {
        self.nodes[id.index()].lock = None;
        self.summary.cancelled += 1;
        Ok(self.scheduler.cancelled(id)?)
    }

    /// If a file outside the store changed while a stage read it, nobody knows which bytes the result is of.
    fn changed_input(&mut self, id: NodeId) -> Result<Option<Failure>, RunError> {
        if !self.keys.reads_files(id) {
            return Ok(None);
        }
        let before = self.nodes[id.index()].key.as_ref().map(|(key, _)| *key);
        let now = self.keys.inputs_of(id, &self.outputs).ok().map(|inputs| inputs.key());
        Ok((now != before).then(|| Failure {
            message: "an input file changed while the stage ran, so its result is not kept".to_owned(),
            help: Some("run again when the file is complete".to_owned()),
            ..Failure::default()
        }))
    }

    fn attempt_failed(
        &mut self,
        id: NodeId,
        ended: &Ended,
        running: &RunningAttempt,
        failure: Failure,
    ) -> Result<(), RunError> {
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
    fn fail(&mut self, id: NodeId, failure: Failure) -> Result<(), RunError> {
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
            self.cancel_rest()?;
        }
        Ok(())
    }

    fn cancel_rest(&mut self) -> Result<(), RunError> {
        self.scheduler.stop_accepting();
        self.blocked.clear();
        for id in self.scheduler.cancel_rest()? {
            self.summary.cancelled += 1;
            let node = self.plan.node(id).name.clone();
            self.emit(RunEvent::Cancelled { node });
        }
        Ok(())
    }

    fn commit(
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
        if let Some(committer) = &self.committer {
            self.uncommitted.insert(id);
            committer.commit(id, record);
        }
        Ok(())
    }

    /// Where the current attempt of a node writes what it has to say.
    fn log_path(&self, id: NodeId) -> Result<Utf8PathBuf, StoreError> {
        let attempt = self.nodes[id.index()].attempts;
        Ok(self.record.logs(&self.store)?.join(format!("{}-{attempt}.log", id.0)))
    }

    fn take_commit(&mut self, committed: Committed) -> Result<(), RunError> {
        let ids = committed.result?;
        for (id, record) in committed.nodes.into_iter().zip(ids) {
            self.record.committed(id, record);
            self.uncommitted.remove(&id);
            let node = &mut self.nodes[id.index()];
            let Some((seconds, figures)) = node.finished.take() else { continue };
            node.lock = None;
            let same_outputs = node.same_outputs;
            if let Some((key, _)) = &node.key {
                let _ = fs_err::remove_dir_all(self.store.checkpoints_dir(&key.0));
            }
            let node = self.plan.node(id).name.clone();
            self.emit(RunEvent::Finished { node, seconds, figures, same_outputs });
        }
        let ready = |id: &NodeId| !self.plan.node(*id).needs().any(|needed| self.uncommitted.contains(&needed));
        let tellable: Vec<NodeId> = self.untold_starts.keys().copied().filter(ready).collect();
        for id in tellable {
            if let Some(started) = self.untold_starts.remove(&id) {
                self.emit(started);
            }
        }
        Ok(())
    }

    /// What time brings: signals, time-outs, keys that another run has given back.
    fn tick(&mut self) -> Result<(), RunError> {
        let signals = self.options.signals.count();
        if signals > self.signals_seen {
            let gently = self.signals_seen == 0 && signals == 1;
            self.signals_seen = signals;
            self.emit(RunEvent::Stopping { gently });
            self.cancel_rest()?;
            for attempt in self.running.values_mut() {
                if gently { attempt.control.ask_to_stop() } else { attempt.control.kill() }
            }
        }
        let now = Instant::now();
        for attempt in self.running.values_mut() {
            match attempt.deadline {
                Some(deadline) if now >= deadline && !attempt.timed_out => {
                    attempt.timed_out = true;
                    attempt.deadline = Some(now + GRACE);
                    attempt.control.ask_to_stop();
                }
                Some(deadline) if now >= deadline && !attempt.killed => {
                    attempt.killed = true;
                    attempt.control.kill();
                }
                _ => {}
            }
        }
        let blocked: Vec<NodeId> = self.blocked.iter().copied().collect();
        for id in blocked {
            let Some((key, _)) = self.nodes[id.index()].key.clone() else { continue };
            // Only a look: the lock itself is taken when there is room to run.
            if self.store.try_lock_key(&key.0, "looking")?.is_some() {
                self.blocked.remove(&id);
                match self.lookup.find_now(&key)? {
                    Some(outputs) => {
                        self.take_from_store(id, outputs);
                        self.scheduler.found(id)?;
                    }
                    None => self.scheduler.must_run(id)?,
                }
            }
        }
        Ok(())
    }

    fn tell_cached(&mut self) {
        if self.cached.is_empty() {
            return;
        }
        let cached = std::mem::take(&mut self.cached);
        let nodes = cached.iter().take(LISTED).map(|id| self.plan.node(*id).name.clone()).collect();
        self.emit(RunEvent::Cached { count: cached.len() as u64, nodes });
    }

    fn finish(&mut self) -> Result<RunReport, RunError> {
        let outcome = if self.signals_seen > 0 {
            RunOutcome::Interrupted
        } else if self.summary.failed > 0 {
            RunOutcome::Failed
        } else {
            RunOutcome::Done
        };
        let key = |id: NodeId| self.nodes[id.index()].key.as_ref().map(|(key, _)| *key);
        let nodes: Vec<_> = self.plan.ids().map(|id| (self.scheduler.state(id), key(id))).collect();
        self.record.end(&self.store, self.plan, &nodes, outcome, self.summary)?;
        self.keys.save()?;
        let seconds = self.begun.elapsed().as_secs_f64();
        self.emit(RunEvent::RunFinished { outcome, summary: self.summary, seconds });
        self.recorder.flush();
        Ok(RunReport {
            run: self.record.run.clone(),
            outcome,
            summary: self.summary,
            failures: std::mem::take(&mut self.report_failures),
        })
    }

    fn emit(&mut self, event: RunEvent) {
        let at_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let stamped = Stamped { at_ms, event };
        self.recorder.hear(&stamped);
        for listener in self.listeners.iter_mut() {
            listener.hear(&stamped);
        }
    }
}

fn not_in_store() -> Failure {
    Failure {
        message: "its result is not in the store, and `--only` keeps it from running".to_owned(),
        help: Some("run without `--only`".to_owned()),
        ..Failure::default()
    }
}
