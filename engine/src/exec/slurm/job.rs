//! The job's side: what Slurm starts on a node.
//!
//! It runs the tasks of its place in the array, each exactly as a local run does: the same [`Attempt`], the same worker in
//! a child process. Outputs go into the store, the result into a file; the database is the submitting host's alone.
//! SIGTERM, by which Slurm announces the end (time limit, preemption, `scancel`, requeue), makes the tasks save a checkpoint
//! and stop.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::Store;
use serde_json::{Map, Value};

use super::{
    files::Folder,
    order::{EndRecord, TaskEnd, TaskOrder},
};
use crate::{
    event::Failure,
    exec::{
        attempt::{Attempt, Control, Ended, Ending, Message},
        log_files::LogFiles,
        provenance,
        record::now_ms,
        slots::VISIBLE,
    },
    graph::NodeId,
    key::StageKey,
    manifest::StageDecl,
    stage::Registry,
};

/// How the last words of a job begin that cannot read its orders or write its results.
pub(super) const CANNOT_WORK: &str = "sepia: the job cannot work";
/// How often the watch looks at its clocks.
const TICK: Duration = Duration::from_millis(50);
/// How often it looks whether another copy has published a result.
const LOOK: Duration = Duration::from_secs(1);
/// How long a task may take to save its checkpoint after its time-out.
const GRACE: Duration = Duration::from_secs(30);
/// How long after a child's death by a signal the job's own signal may still come.
const SIGNAL_DELAY: Duration = Duration::from_millis(500);

/// One task that runs.
#[derive(Clone)]
struct Running {
    control: Control,
    deadline: Option<Instant>,
    asked: bool,
    timed_out: bool,
    /// Another copy of the task was faster.
    overtaken: bool,
}

struct Shared {
    registry: Registry,
    store: Store,
    folder: Folder,
    program: std::path::PathBuf,
    me: String,
    host: String,
    restart: u32,
    stopping: AtomicBool,
    running: Mutex<BTreeMap<usize, Running>>,
    queue: Mutex<VecDeque<usize>>,
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, BTreeMap<usize, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the tasks of this job. The exit code: 0 when all of them ended well.
#[must_use]
pub fn job(registry: Registry, folder: &Utf8Path) -> i32 {
    match run(registry, folder) {
        Ok(well) => i32::from(!well),
        Err(error) => {
            // Standard error is the job's output file, of which the submitting run shows the end.
            let _ = writeln!(std::io::stderr(), "{CANNOT_WORK}: {error}");
            1
        }
    }
}

fn run(registry: Registry, folder: &Utf8Path) -> std::io::Result<bool> {
    let folder = Folder { path: folder.to_owned() };
    if !folder.path.is_dir() {
        // All that was asked for is there, and cleared away: this is a late copy.
        return Ok(true);
    }
    let shape = folder.shape()?;
    let variable = |name: &str| std::env::var(name).ok();
    let group = variable("SLURM_ARRAY_TASK_ID").and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let job = variable("SLURM_ARRAY_JOB_ID").or_else(|| variable("SLURM_JOB_ID")).unwrap_or_default();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let shared = Arc::new(Shared {
        registry,
        store: Store::open_files(&shape.store).map_err(std::io::Error::other)?,
        program: std::env::current_exe()?,
        me: if shape.groups.len() > 1 { format!("{job}_{group}") } else { job },
        host: variable("SLURMD_NODENAME").unwrap_or(host),
        restart: variable("SLURM_RESTART_COUNT").and_then(|text| text.parse().ok()).unwrap_or(0),
        stopping: AtomicBool::new(false),
        running: Mutex::default(),
        queue: Mutex::new(shape.groups.get(group).into_iter().flatten().copied().collect()),
        folder,
    });
    let on_signal = Arc::clone(&shared);
    ctrlc::set_handler(move || on_signal.stopping.store(true, Ordering::SeqCst)).map_err(std::io::Error::other)?;
    let watched = Arc::clone(&shared);
    // It ends with the process.
    std::thread::spawn(move || watch(&watched));
    let well = std::thread::scope(|scope| {
        let at_once = shape.at_once.max(1);
        let devices = variable(VISIBLE).unwrap_or_default();
        let shared = &shared;
        let begin = |slot| {
            let visible = share_of(&devices, slot, at_once);
            scope.spawn(move || work(shared, &visible))
        };
        let workers: Vec<_> = (0..at_once).map(begin).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or(Ok(false))).collect::<std::io::Result<Vec<bool>>>()
    })?;
    Ok(well.into_iter().all(|well| well))
}

/// The devices of one of several tasks that share an allocation, of those that Slurm has granted to all of them.
fn share_of(devices: &str, slot: usize, at_once: usize) -> String {
    let all: Vec<&str> = devices.split(',').filter(|device| !device.is_empty()).collect();
    let each = all.len() / at_once;
    // Fewer than tasks: then they were not asked for, and everybody sees what there is.
    if each == 0 { devices.to_owned() } else { all[slot * each..(slot + 1) * each].join(",") }
}

/// Runs tasks until none is left.
fn work(shared: &Shared, visible: &str) -> std::io::Result<bool> {
    let mut well = true;
    while !shared.stopping.load(Ordering::SeqCst) {
        let Some(n) = shared.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else { break };
        well &= task(shared, n, visible)?;
    }
    Ok(well)
}

fn task(shared: &Shared, n: usize, visible: &str) -> std::io::Result<bool> {
    let folder = &shared.folder;
    if folder.is_done(n) || folder.claim(n, &shared.me)? != shared.me {
        return Ok(true);
    }
    folder.begin(n, shared.restart, &shared.host)?;
    let order = folder.order(n)?;
    let started_at = now_ms();
    let begun = Instant::now();
    let running = Running {
        control: Control::default(),
        deadline: order.timeout.map(|seconds| begun + Duration::from_secs_f64(seconds)),
        asked: false,
        timed_out: false,
        overtaken: false,
    };
    let control = running.control.clone();
    shared.running().insert(n, running);
    let ended = match attempt(shared, n, &order, visible) {
        Ok(attempt) => {
            let mut ended = Ended::default();
            let reports = Mutex::new(None);
            let heard = Mutex::new(&mut ended);
            attempt.run(&shared.store, &LogFiles::default(), &control, &|message| match message {
                Message::Ended(_, how) => **heard.lock().unwrap_or_else(PoisonError::into_inner) = *how,
                Message::Report(_, report) => {
                    let mut file = reports.lock().unwrap_or_else(PoisonError::into_inner);
                    if file.is_none() {
                        *file = folder.reports(n, shared.restart).ok();
                    }
                    // Reports are for those who watch: a result does not fail for them.
                    if let (Some(file), Ok(mut line)) = (file.as_mut(), serde_json::to_string(&report)) {
                        line.push('\n');
                        let _ = file.write_all(line.as_bytes());
                    }
                }
                Message::Group(..) => {}
            });
            ended
        }
        Err(failure) => Ended { ending: Ending::Failed(failure), ..Ended::default() },
    };
    let well = matches!(ended.ending, Ending::Finished(_));
    if !well && !shared.stopping.load(Ordering::SeqCst) && ended.usage.killed {
        std::thread::sleep(SIGNAL_DELAY);
    }
    let Some(was) = shared.running().remove(&n) else { return Ok(well) };
    if was.overtaken {
        return Ok(true);
    }
    let step = if let Ending::Stopped { step } = ended.ending { Some(step) } else { None };
    let stopping = shared.stopping.load(Ordering::SeqCst);
    let ending = match ended.ending {
        Ending::Finished(outputs) => {
            // Before anybody can read that they are there.
            shared.store.sync_pending().map_err(std::io::Error::other)?;
            TaskEnd::Finished { outputs }
        }
        Ending::Damaged { producer, what, .. } => TaskEnd::Damaged { input: producer.index(), what },
        Ending::Stopped { .. } | Ending::Failed(_) | Ending::Withdrawn if was.timed_out => TaskEnd::TimedOut { step },
        Ending::Stopped { .. } | Ending::Failed(_) | Ending::Withdrawn if stopping => {
            TaskEnd::Interrupted { step: step.unwrap_or(0) }
        }
        Ending::Failed(failure) => TaskEnd::Failed { failure },
        Ending::Stopped { .. } | Ending::Withdrawn => TaskEnd::Interrupted { step: step.unwrap_or(0) },
    };
    let record = EndRecord {
        ending,
        metrics: EndRecord::metrics_text(&ended.metrics),
        cpu_seconds: ended.usage.cpu_seconds,
        peak_memory_bytes: ended.usage.peak_memory_bytes,
        seconds: begun.elapsed().as_secs_f64(),
        started_at,
        job: shared.me.clone(),
        machine: machine_of(shared, &order),
        killed: ended.usage.killed,
    };
    folder.end(n, shared.restart, &record)?;
    Ok(well)
}

/// The machine, by the name that Slurm has for it, and the GPU that the task used.
fn machine_of(shared: &Shared, order: &TaskOrder) -> Map<String, Value> {
    let mut machine = provenance::machine();
    machine.insert("host".to_owned(), shared.host.clone().into());
    machine.insert("gpu".to_owned(), provenance::gpu(order.job.device).unwrap_or(Value::Null));
    machine
}

/// The order as an attempt in a folder of this start's own.
fn attempt(shared: &Shared, n: usize, order: &TaskOrder, visible: &str) -> Result<Attempt, Failure> {
    let failure = |message: String, help: &str| Failure { message, help: Some(help.to_owned()), ..Failure::default() };
    let entry = shared.registry.get(&order.kind).filter(|entry| entry.version == order.version).ok_or_else(|| {
        let message = format!("the job's binary has no stage kind `{}` of version {}", order.kind, order.version);
        failure(message, "the binary was replaced while the job waited: run again")
    })?;
    let key =
        order.key.parse().map(StageKey).map_err(|_| failure("the job's order is damaged".to_owned(), "run again"))?;
    let folder: Utf8PathBuf = shared.folder.work(n, shared.restart);
    let mut job = order.job.clone();
    job.metrics = folder.join("metrics.tsv");
    for (port, path) in &mut job.outputs {
        *path = folder.join("out").join(port);
    }
    // The place in the order stands for the node, which only the run knows.
    let inputs = (0u32..).map(NodeId).zip(order.inputs.iter().copied()).collect();
    if let Some(parent) = order.log.parent() {
        fs_err::create_dir_all(parent).map_err(|error| failure(error.to_string(), "run again"))?;
    }
    Ok(Attempt {
        node: NodeId(0),
        key,
        decl: Arc::new(StageDecl::default()),
        entry,
        params: order.params.clone(),
        knobs: order.knobs.clone(),
        job,
        inputs,
        output_ports: order.output_ports.clone(),
        folder,
        log: order.log.clone(),
        visible: visible.to_owned(),
        program: shared.program.clone(),
    })
}

/// Passes on what comes from outside: Slurm's signal, time-outs, a copy of a task that was faster.
fn watch(shared: &Shared) {
    let mut looked = Instant::now();
    loop {
        std::thread::sleep(TICK);
        let now = Instant::now();
        let look = now.duration_since(looked) >= LOOK;
        if look {
            looked = now;
        }
        let stopping = shared.stopping.load(Ordering::SeqCst);
        for (n, running) in &mut *shared.running() {
            if stopping && !std::mem::replace(&mut running.asked, true) {
                running.control.ask_to_stop();
            }
            match running.deadline {
                Some(deadline) if now >= deadline && !running.timed_out => {
                    running.timed_out = true;
                    running.deadline = Some(now + GRACE);
                    running.control.ask_to_stop();
                }
                Some(deadline) if now >= deadline => running.control.kill(),
                _ => {}
            }
            if look && !running.overtaken && shared.folder.is_done(*n) {
                running.overtaken = true;
                running.control.kill();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::share_of;

    #[test]
    fn devices_are_shared_out_evenly() {
        assert_eq!((share_of("4,5,6,7", 0, 2), share_of("4,5,6,7", 1, 2)), ("4,5".to_owned(), "6,7".to_owned()));
        assert_eq!(share_of("3", 0, 1), "3");
        assert_eq!(share_of("", 1, 2), "");
        assert_eq!(share_of("0", 1, 2), "0");
    }
}
