//! The loop of a run: one thread that owns all state and takes one message at a time.
//!
//! `start` brings a node from its key to a running attempt, `end` says what becomes of it, `tick` handles what time brings.

mod end;
mod standing;
mod start;
mod tick;

pub use standing::run_standing;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use sepia_cache::{Digest, KeyLock, RunLock, Store, StoreError};

use super::{
    attempt::Message,
    committer::{Committed, Committer},
    executor::Executor,
    keys::{KeyError, KeyMaker, NodeOutputs},
    local::{Local, Tell},
    lookup::{self, Lookup},
    options::{ExecutorChoice, RunOptions},
    record::RunRecord,
    recorder::Recorder,
    scheduler::{Demand, Scheduler},
    shared::{Fetcher, News},
    slots::{self, Amount, Slots},
    slurm::Slurm,
    standing::{LISTED, Standing},
    state::{IllegalChange, NodeState},
    worker::Report,
};
use crate::{
    diagnostic::Diagnostic,
    event::{EVENT_FORMAT, Failure, Listener, RunEvent, RunOutcome, Stamped, Summary},
    graph::NodeId,
    key::{KeyInputs, StageKey},
    plan::{Plan, select},
};

/// How often keys that another run holds are looked at.
const POLL: Duration = Duration::from_millis(50);

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
    Fetch(News),
}

/// Runs the chosen part of a plan.
///
/// # Errors
/// [`RunError`]; stages that fail are in the report instead.
pub fn run(
    plan: &Plan,
    mut lookup: Lookup,
    options: &RunOptions,
    listeners: &mut [&mut dyn Listener],
) -> Result<RunReport, RunError> {
    let store = &Arc::clone(lookup.store());
    let chosen = select(plan, &options.selection).map_err(RunError::Selection)?;
    let forced = lookup::forced(plan, &options.force, &chosen).map_err(RunError::Selection)?;
    let frozen = lookup::frozen(plan, &options.selection, &chosen);
    let everyone: Vec<bool> = chosen.iter().zip(&frozen).map(|(chosen, frozen)| *chosen || *frozen).collect();
    let record = RunRecord::new(options);
    let run_lock = store.lock_run(&record.run)?;
    let recorder = Recorder::create(&store.run_dir(&record.run)?)?;
    let (tell, wakes) = channel();
    let for_attempts = tell.clone();
    let tell_loop: Tell = Arc::new(move |message| drop(for_attempts.send(Wake::Attempt(message))));
    let for_fetches = tell.clone();
    let fetcher = lookup
        .take_shared()
        .map(|shared| Fetcher::start(store, shared, move |news| drop(for_fetches.send(Wake::Fetch(news)))));
    let fetcher = fetcher.transpose()?;
    let executor: Box<dyn Executor> = match &options.executor {
        ExecutorChoice::Local => {
            let devices = match options.devices {
                Some(devices) => devices,
                // The driver is asked only where it matters.
                None if plan.nodes.iter().any(|node| node.devices() > 0) => slots::machine_devices().len().max(1),
                None => 1,
            };
            let (threads, memory) = (options.jobs.max(1), options.memory);
            let capacity = Amount { threads, memory, devices, pinned: None };
            Box::new(Local::new(Arc::clone(store), options.program.clone(), capacity, tell_loop))
        }
        ExecutorChoice::Slurm(choice) => {
            Box::new(Slurm::new(Arc::clone(store), options.program.clone(), choice.clone(), tell_loop))
        }
    };
    let demands = plan.nodes.iter().map(|node| Demand {
        amount: Amount {
            threads: node.threads(),
            memory: node.decl.resources.memory.unwrap_or(0),
            devices: node.devices(),
            pinned: node.pinned_device(),
        },
        priority: node.decl.priority,
    });
    let mut run = Run {
        plan,
        store: Arc::clone(store),
        options,
        scheduler: Scheduler::new(&plan.graph, &everyone, demands.collect(), Slots::new(executor.capacity())),
        keys: KeyMaker::new(plan, store.file_digests()),
        lookup,
        fetcher,
        owner: format!("process {}, run {}", std::process::id(), record.run),
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
        executor,
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
    started_at: i64,
    deadline: Option<Instant>,
    timed_out: bool,
    killed: bool,
}

struct Run<'a, 'l> {
    plan: &'a Plan,
    store: Arc<Store>,
    options: &'a RunOptions,
    scheduler: Scheduler<'a>,
    keys: KeyMaker<'a>,
    lookup: Lookup,
    /// Brings outputs from a remote.
    fetcher: Option<Fetcher>,
    /// What the locks of this run say of it.
    owner: String,
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
    executor: Box<dyn Executor>,
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
        // Where the store or the run's own files failed, nothing more can be kept, and no child may go on.
        self.executor.finish();
        if let Some(committer) = self.committer.take() {
            committer.finish();
        }
        result?;
        self.finish()
    }

    fn until_all_final(&mut self, wakes: &Receiver<Wake>) -> Result<(), RunError> {
        loop {
            self.resolve_keys()?;
            self.start_attempts()?;
            self.tell_cached();
            self.executor.poll()?;
            if self.scheduler.all_final() && self.uncommitted.is_empty() && self.running.is_empty() {
                return Ok(());
            }
            self.recorder.flush();
            let mut patience = POLL;
            if let Some(committer) = &mut self.committer {
                committer.pass_on(self.running.is_empty());
                patience = patience.min(committer.patience());
            }
            match wakes.recv_timeout(patience) {
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
            // Programs of the author's are the executor's affair.
            Wake::Attempt(Message::Group(..)) => {}
            Wake::Attempt(Message::Ended(id, ended)) => self.take_end(id, *ended)?,
            Wake::Committed(committed) => self.take_commit(committed)?,
            Wake::Fetch(News::Fetching(id, progress)) => {
                let node = self.plan.node(id).name.clone();
                self.emit(RunEvent::Fetching { node, bytes: progress.bytes, of_bytes: progress.of_bytes });
            }
            Wake::Fetch(News::Fetched(id, key, outputs)) => self.take_fetched(id, key, outputs)?,
        }
        Ok(())
    }

    fn take_report(&mut self, id: NodeId, report: Report) {
        let node = self.plan.node(id).name.clone();
        let event = match report {
            Report::Progress(progress) => RunEvent::Progress { node, progress },
            Report::Note { text } => RunEvent::Note { node, text },
            Report::Warning { text } => RunEvent::Warning { node, text },
            Report::Resumed { step } => RunEvent::Resumed { node, step },
            Report::Checkpoint { step } => RunEvent::Checkpoint { node, step },
            Report::Done | Report::Stopped { .. } | Report::Failed { .. } => return,
        };
        self.emit(event);
    }

    fn tell_cached(&mut self) {
        if self.cached.is_empty() {
            return;
        }
        let mut cached = std::mem::take(&mut self.cached);
        cached.sort_unstable();
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
        let listing = self.record.end(&self.store, self.plan, &nodes, outcome, self.summary)?;
        self.leave_standing(outcome, listing)?;
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

    /// Once everything is in the store, the next run need not plan again to see that.
    fn leave_standing(&mut self, outcome: RunOutcome, listing: Digest) -> Result<(), RunError> {
        let Some(basis) = self.options.basis.clone().filter(|_| outcome == RunOutcome::Done) else { return Ok(()) };
        let of = |id: NodeId| {
            let key = self.nodes[id.index()].key.as_ref().map(|(key, _)| *key);
            key.zip(self.outputs[id.index()].clone()).filter(|_| self.scheduler.state(id) != NodeState::Outside)
        };
        if let Some(standing) = Standing::of(self.plan, listing, basis, self.keys.files(), of)?
            && let Err(error) = standing.write(&self.store.cache_dir())
        {
            tracing::debug!(%error, "what stands is not kept");
        }
        Ok(())
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
