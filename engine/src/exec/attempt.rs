//! One attempt at one node, in a thread of its own: verify the inputs, start the child, hear it out, take its outputs.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::PathBuf,
    process::{ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::Signal;
use sepia_cache::{ObjectRef, Store, StoreError, hash_output};
use serde_json::{Map, Value};

use super::{
    child::{self, Leash, Usage},
    command::{self, Prepared},
    kernels::{self, Kernels},
    log_files::LogFiles,
    memory::{MemoryGroup, out_of_memory},
    slots::own_devices,
    worker::{Order, PROTOCOL, Report},
};
use crate::{
    device::MathLibrary,
    event::Failure,
    graph::NodeId,
    key::StageKey,
    log_tail::log_tail,
    manifest::StageDecl,
    stage::{Job, MetricPoint, StageEntry, parse_metrics},
};

/// Everything the thread needs.
pub(super) struct Attempt {
    pub(super) node: NodeId,
    pub(super) key: StageKey,
    /// What its author wrote: resources, time-out, settings for a cluster.
    pub(super) decl: Arc<StageDecl>,
    pub(super) entry: &'static StageEntry,
    /// With external files resolved.
    pub(super) params: serde_json::Value,
    pub(super) knobs: serde_json::Value,
    pub(super) job: Job,
    /// The stored outputs it reads, with the node that made each.
    pub(super) inputs: Vec<(NodeId, ObjectRef)>,
    pub(super) output_ports: Vec<String>,
    /// Its folder, which does not exist yet.
    pub(super) folder: Utf8PathBuf,
    pub(super) log: Utf8PathBuf,
    /// The devices that are its own, as `CUDA_VISIBLE_DEVICES` lists them; empty for a stage that asks for none.
    pub(super) visible: String,
    pub(super) program: PathBuf,
}

/// How it ended.
#[derive(Clone)]
pub(super) enum Ending {
    /// All outputs are in the store.
    Finished(Vec<(String, ObjectRef)>),
    Failed(Failure),
    /// It was ended before it began, because that was asked for.
    Withdrawn,
    Stopped {
        step: u64,
    },
    /// A stored input is damaged; it has been set aside.
    Damaged {
        producer: NodeId,
        object: ObjectRef,
        what: String,
    },
}

/// What is known once it has ended.
#[derive(Default)]
pub(super) struct Ended {
    pub(super) ending: Ending,
    pub(super) metrics: Vec<MetricPoint>,
    pub(super) usage: Usage,
    pub(super) seconds: f64,
    /// It was stopped at its time-out by an executor that keeps the time itself.
    pub(super) timed_out: bool,
    /// When it really began, in Unix milliseconds, if that was not when it was submitted.
    pub(super) started_at: Option<i64>,
    /// What the record says of its origin beside what it says for the whole run: another host, a job's number.
    pub(super) provenance: Map<String, Value>,
}

/// What the thread tells the loop.
pub(super) enum Message {
    Report(NodeId, Report),
    /// A program of the author's has started (`true`), or has ended and is about to be reaped: the reaper wants to know its
    /// group.
    Group(u32, bool),
    Ended(NodeId, Box<Ended>),
}

impl Default for Ending {
    fn default() -> Self {
        Self::Failed(Failure::default())
    }
}

/// The executor's hold on an attempt.
#[derive(Clone, Default)]
pub(super) struct Control {
    leash: Leash,
    stdin: Arc<Mutex<Option<ChildStdin>>>,
}

impl Control {
    /// Asks it to save a checkpoint and stop. A program of the author's gets SIGTERM.
    pub(super) fn ask_to_stop(&self) {
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = stdin.as_mut().is_some_and(|pipe| pipe.write_all(b"stop\n").and_then(|()| pipe.flush()).is_ok());
        if !asked {
            self.leash.signal(Signal::TERM);
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&self) {
        self.leash.signal(Signal::KILL);
    }
}

impl Attempt {
    /// Runs it to its end, in the calling thread.
    pub(super) fn run(self, store: &Store, logs: &LogFiles, control: &Control, tell: &dyn Fn(Message)) {
        let begun = Instant::now();
        let node = self.node;
        let mut usage = Usage::default();
        let ending = self.attempt(store, logs, control, tell, &mut usage).unwrap_or_else(|error| {
            Ending::Failed(Failure { message: error.to_string(), log: self.log.to_string(), ..Failure::default() })
        });
        let metrics = match self.entry.open {
            true => Vec::new(),
            false => fs_err::read_to_string(&self.job.metrics).map(|text| parse_metrics(&text)).unwrap_or_default(),
        };
        // What is left in the folder was not declared, or belongs to a failure that the log tells. Mostly it is empty.
        if std::fs::remove_dir(&self.folder).is_err() {
            let _ = fs_err::remove_dir_all(&self.folder);
        }
        let ended = Ended { ending, metrics, usage, seconds: begun.elapsed().as_secs_f64(), ..Ended::default() };
        tell(Message::Ended(node, Box::new(ended)));
    }

    fn attempt(
        &self,
        store: &Store,
        logs: &LogFiles,
        control: &Control,
        tell: &dyn Fn(Message),
        usage: &mut Usage,
    ) -> std::io::Result<Ending> {
        for (producer, object) in &self.inputs {
            if let Err(damage) = store.verify_object(object) {
                store.set_aside(object).map_err(std::io::Error::other)?;
                let what = format!("{} {}", damage.path, damage.kind);
                return Ok(Ending::Damaged { producer: *producer, object: *object, what });
            }
        }
        // A program works in the folder itself; a worker leaves its outputs in `out`, beside its figures.
        fs_err::create_dir_all(if self.entry.open { self.folder.clone() } else { self.folder.join("out") })?;
        let log = logs.open(&self.log)?;
        let ending = if self.entry.open {
            self.run_program(store, control, tell, usage, &log.file)
        } else {
            self.run_workers(store, control, tell, usage, &log.file)
        };
        logs.close(log);
        ending
    }

    /// Runs the worker, and again where its database of kernels has failed, which says nothing of the stage: in the end
    /// without one.
    fn run_workers(
        &self,
        store: &Store,
        control: &Control,
        tell: &dyn Fn(Message),
        usage: &mut Usage,
        log: &fs_err::File,
    ) -> std::io::Result<Ending> {
        let mut left = kernels::TRIES;
        loop {
            left -= 1;
            let begun = log.metadata()?.len();
            let kept = self.job.kernels.as_deref().filter(|_| left > 0);
            let ending = self.run_worker(store, control, tell, usage, log, kept)?;
            if kept.is_none() || !matches!(ending, Ending::Failed(_)) || !kernels::failed(&self.log, begun) {
                return Ok(ending);
            }
            writeln!(log.file(), "sepia: the database of compiled kernels failed: the stage is started again")?;
            fs_err::remove_dir_all(&self.folder)?;
            fs_err::create_dir_all(self.folder.join("out"))?;
        }
    }

    fn run_worker(
        &self,
        store: &Store,
        control: &Control,
        tell: &dyn Fn(Message),
        usage: &mut Usage,
        log: &fs_err::File,
        kept: Option<&Utf8Path>,
    ) -> std::io::Result<Ending> {
        let kernels = kept.map(|kept| Kernels::lend(kept, self.folder.join("kernels"))).transpose()?;
        let order = Order {
            protocol: PROTOCOL,
            kind: self.entry.kind.to_owned(),
            version: self.entry.version,
            params: self.params.clone(),
            knobs: self.knobs.clone(),
            job: Job { kernels: kernels.as_ref().map(|kernels| kernels.folder().to_owned()), ..self.job.clone() },
        };
        let mut line = serde_json::to_string(&order)?;
        line.push('\n');
        let mut command = Command::new(&self.program);
        command.arg("__work").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.file().try_clone()?);
        for name in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS"] {
            command.env(name, self.job.threads.to_string());
        }
        own_devices(&mut command, &self.visible);
        if self.job.kernels.is_some()
            && let Ok(library) = MathLibrary::of_this_machine()
        {
            command.env("CUDA_PATH", library.toolkit(self.folder.as_std_path())?);
        }
        // Training frees and takes the same large tensors again at every step: handing their pages back in between makes
        // the kernel clear them anew each time. The process is short-lived, so keeping them costs nobody anything.
        command.env("MIMALLOC_PURGE_DELAY", "-1");
        let kills = MemoryGroup::of_this_process().kills();
        let mut child = child::spawn(&mut command, &control.leash)?;
        let sent = child.stdin.take().map(|mut stdin| {
            let sent = stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush());
            *control.stdin.lock().unwrap_or_else(PoisonError::into_inner) = Some(stdin);
            sent
        });
        let last =
            child.stdout.take().map(|stdout| self.listen(BufReader::new(stdout), log, tell)).transpose()?.flatten();
        // The pipe stays open until the child has closed its own: its end means that this process died.
        let (status, used) = child::wait(child, &control.leash, || ())?;
        *control.stdin.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *usage = used;
        if matches!(last, Some(Report::Done | Report::Stopped { .. })) {
            kernels.into_iter().for_each(Kernels::give_back);
        }
        match last {
            Some(Report::Done) => {
                let outputs = self.output_ports.iter().map(|port| (port.clone(), self.folder.join("out").join(port)));
                self.take_outputs(store, outputs.collect())
            }
            Some(Report::Stopped { step }) => Ok(Ending::Stopped { step }),
            Some(Report::Failed { message, help, param }) => Ok(Ending::Failed(Failure {
                message,
                help: help.or_else(|| disk_full(&self.log)),
                param,
                ..self.failure("")
            })),
            _ if MemoryGroup::of_this_process().kills() > kills => {
                Ok(Ending::Failed(self.starved("the stage's process did not finish", status, usage)))
            }
            _ => {
                let end = child::describe_end(status).unwrap_or_else(|| "it ended without a result".to_owned());
                let unsent = sent.and_then(Result::err).map(|error| format!(" (its order could not be sent: {error})"));
                Ok(Ending::Failed(
                    self.failure(&format!("the stage's process did not finish: {end}{}", unsent.unwrap_or_default())),
                ))
            }
        }
    }

    /// Passes reports on; what is no report goes to the log. Returns the last report.
    fn listen(
        &self,
        mut lines: impl std::io::BufRead,
        log: &fs_err::File,
        tell: &dyn Fn(Message),
    ) -> std::io::Result<Option<Report>> {
        let mut log = log.file();
        let mut last = None;
        let mut line = Vec::new();
        // A line may be anything, of any length, if a library goes wild: never more than a MiB of it is held.
        while (&mut lines).take(1 << 20).read_until(b'\n', &mut line)? > 0 {
            match serde_json::from_slice::<Report>(&line) {
                Ok(report @ (Report::Done | Report::Stopped { .. } | Report::Failed { .. })) => last = Some(report),
                Ok(report) => {
                    if let Report::Note { text } = &report {
                        writeln!(log, "{text}")?;
                    }
                    tell(Message::Report(self.node, report));
                }
                Err(_) => log.write_all(&line)?,
            }
            line.clear();
        }
        Ok(last)
    }

    fn run_program(
        &self,
        store: &Store,
        control: &Control,
        tell: &dyn Fn(Message),
        usage: &mut Usage,
        log: &fs_err::File,
    ) -> std::io::Result<Ending> {
        let mut prepared = match command::prepare(&self.params, &self.job, &self.folder, log) {
            Ok(prepared) => prepared,
            Err(cannot) => return Ok(Ending::Failed(Failure { param: cannot.param, ..self.failure(&cannot.message) })),
        };
        own_devices(&mut prepared.command, &self.visible);
        let kills = MemoryGroup::of_this_process().kills();
        let child = match child::spawn(&mut prepared.command, &control.leash) {
            Ok(child) => child,
            Err(error) => {
                let (message, help) = prepared.cannot_start(&error);
                return Ok(Ending::Failed(Failure {
                    param: Some("argv".to_owned()),
                    help: Some(help),
                    ..self.failure(&message)
                }));
            }
        };
        let group = child.id();
        tell(Message::Group(group, true));
        let (status, used) = child::wait(child, &control.leash, || tell(Message::Group(group, false)))?;
        *usage = used;
        if !status.success() && MemoryGroup::of_this_process().kills() > kills {
            return Ok(Ending::Failed(self.starved("the program failed", status, usage)));
        }
        if let Some(end) = child::describe_end(status) {
            return Ok(Ending::Failed(self.failure(&format!("the program failed: {end}"))));
        }
        self.check_outputs(&prepared, store)
    }

    fn check_outputs(&self, prepared: &Prepared, store: &Store) -> std::io::Result<Ending> {
        for (name, path) in &prepared.outputs {
            if !path.exists() {
                let written = path.strip_prefix(&self.folder).unwrap_or(path);
                return Ok(Ending::Failed(Failure {
                    param: Some(format!("outputs.{name}")),
                    help: Some(format!("`${{outputs.{name}}}` in `argv` gives the program this path")),
                    ..self
                        .failure(&format!("the program ended well, but did not make its output `{name}` at {written}"))
                }));
            }
        }
        let undeclared = prepared.undeclared()?;
        if let Some(first) = undeclared.first() {
            let more = if undeclared.len() > 1 { format!(" and {} more", undeclared.len() - 1) } else { String::new() };
            return Ok(Ending::Failed(Failure {
                param: Some("outputs".to_owned()),
                help: Some(format!("declare it, `outputs = {{ NAME = \"{first}\" }}`, or let the program remove it")),
                ..self.failure(&format!("the program left {first}{more}, which the stage does not declare"))
            }));
        }
        self.take_outputs(store, prepared.outputs.clone())
    }

    fn take_outputs(&self, store: &Store, paths: BTreeMap<String, Utf8PathBuf>) -> std::io::Result<Ending> {
        let mut taken = Vec::with_capacity(paths.len());
        for (port, path) in paths {
            let stored = hash_output(&path).and_then(|hashed| store.insert(&path, &hashed));
            match stored {
                Ok(object) => taken.push((port, object)),
                Err(StoreError::OutputMissing { .. }) => {
                    return Ok(Ending::Failed(self.failure(&format!("the stage did not make its output `{port}`"))));
                }
                Err(error) => {
                    return Ok(Ending::Failed(self.failure(&format!("output `{port}` cannot be stored: {error}"))));
                }
            }
        }
        Ok(Ending::Finished(taken))
    }

    /// It ended badly, and the kernel has killed something for lack of memory meanwhile.
    fn starved(&self, what: &str, status: ExitStatus, usage: &Usage) -> Failure {
        let (how, help) = out_of_memory(status, usage, MemoryGroup::of_this_process().limit());
        Failure { help: Some(help), ..self.failure(&format!("{what}: {how}")) }
    }

    fn failure(&self, message: &str) -> Failure {
        Failure {
            message: message.to_owned(),
            help: disk_full(&self.log),
            log_tail: log_tail(&self.log, 12),
            log: self.log.to_string(),
            ..Failure::default()
        }
    }
}

/// A disk without room makes programs fail in many ways, often without a word: their logs have no room either.
fn disk_full(log: &Utf8Path) -> Option<String> {
    let disk = rustix::fs::statvfs(log.parent()?.as_std_path()).ok()?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let size = crate::report::figures::bytes(free);
    (free < 1 << 20).then(|| format!("the disk of the store has only {size} left: make room, then run again"))
}
