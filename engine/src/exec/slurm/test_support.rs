//! What the tests of this folder share: a store, tasks, and a cluster whose answers are written down.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use camino::Utf8PathBuf;
use sepia_cache::{Digest, ObjectKind, ObjectRef, OpenMode, Store};

use super::{
    Slurm, SlurmOptions,
    batch::Stand,
    client::Response,
    limits::Limits,
    order::{EndRecord, TaskEnd, TaskOrder},
    state::parse,
};
use crate::{
    event::Failure,
    exec::{
        attempt::{Attempt, Ending, Message},
        executor::Executor as _,
        worker::Report,
    },
    graph::NodeId,
    key::StageKey,
    manifest::StageDecl,
    stage::{Command, Job, StageEntry},
};

static COMMAND: StageEntry = Command::entry();

pub(super) fn store() -> (tempfile::TempDir, Arc<Store>) {
    let dir = tempfile::tempdir().unwrap();
    let root = Utf8PathBuf::from_path_buf(dir.path().join(".sepia")).unwrap();
    (dir, Arc::new(Store::open(&root, OpenMode::Create).unwrap()))
}

pub(super) fn order(key: &Digest) -> TaskOrder {
    TaskOrder {
        node: "a".into(),
        kind: "command".into(),
        version: 1,
        key: key.to_string(),
        params: serde_json::Value::Null,
        knobs: serde_json::Value::Null,
        job: Job::default(),
        inputs: Vec::new(),
        output_ports: Vec::new(),
        log: "log".into(),
        timeout: None,
    }
}

pub(super) fn finished() -> EndRecord {
    let object = ObjectRef { digest: Digest::of_bytes(b"out"), kind: ObjectKind::File, bytes: 3, files: 1 };
    EndRecord {
        ending: TaskEnd::Finished { outputs: vec![("out".into(), object)] },
        metrics: String::new(),
        cpu_seconds: 0.0,
        peak_memory_bytes: 0,
        seconds: 1.0,
        started_at: 0,
        job: "12".into(),
        machine: serde_json::Map::new(),
        killed: false,
    }
}

pub(super) fn failed_end() -> TaskEnd {
    TaskEnd::Failed { failure: Failure { message: "exited with code 7".into(), ..Failure::default() } }
}

/// An executor with one task, `NodeId(0)`, and what it told.
pub(super) struct Harness {
    pub(super) slurm: Slurm,
    told: Arc<Mutex<Vec<Message>>>,
    _dir: tempfile::TempDir,
}

impl Harness {
    /// Its task is in Slurm's hands as job 12. No command of Slurm's is ever started: a client that nobody hears is.
    pub(super) fn submitted() -> Self {
        let (dir, store) = store();
        let told: Arc<Mutex<Vec<Message>>> = Arc::default();
        let tells = Arc::clone(&told);
        let tell = Arc::new(move |message| tells.lock().unwrap().push(message));
        let mut slurm = Slurm::new(store, "/no/such/program".into(), SlurmOptions::default(), tell);
        slurm.silent = true;
        slurm.hear(Response::Limits(Limits::default())).unwrap();
        let mut harness = Self { slurm, told, _dir: dir };
        let attempt = harness.attempt();
        harness.slurm.submit(attempt).unwrap();
        harness.hand_in();
        harness.slurm.hear(Response::Submitted { batch: harness.batch(), result: Ok("12".into()) }).unwrap();
        harness
    }

    fn attempt(&self) -> Attempt {
        Attempt {
            node: NodeId(0),
            key: StageKey(Digest::of_bytes(b"key")),
            decl: Arc::new(StageDecl::default()),
            entry: &COMMAND,
            params: serde_json::Value::Null,
            knobs: serde_json::Value::Null,
            job: Job { threads: 1, ..Job::default() },
            inputs: Vec::new(),
            output_ports: Vec::new(),
            folder: "attempt".into(),
            log: self.slurm.store.root().join("logs/0.log"),
            visible: String::new(),
            program: "/no/such/program".into(),
        }
    }

    /// Lets everything that waits be gathered, and hands it in.
    pub(super) fn hand_in(&mut self) {
        for task in self.slurm.tasks.values_mut() {
            task.queued_at = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        }
        self.slurm.hand_in().unwrap();
    }

    /// The batch that the task is in now.
    pub(super) fn batch(&self) -> String {
        self.slurm.tasks[&NodeId(0)].place.clone().unwrap().0
    }

    /// `squeue` answers with these lines; `NAME` stands for the name of the batch.
    pub(super) fn squeue(&mut self, text: &str) {
        let name = self.batch();
        let lines = parse(&text.replace("NAME", &name));
        self.slurm.hear(Response::Queried { names: vec![name], result: Ok(lines) }).unwrap();
    }

    pub(super) fn sacct(&mut self, text: Option<&str>) {
        let name = self.batch();
        let found = text.map(|text| super::state::parse_accounts(&text.replace("NAME", &name)));
        self.slurm.hear(Response::Accounted { names: vec![name], found }).unwrap();
    }

    /// Looks at the files and decides.
    pub(super) fn decide(&mut self) {
        self.slurm.decide().unwrap();
    }

    /// As if the time that a network file system may take had passed.
    pub(super) fn let_grace_pass(&mut self) {
        let past = Instant::now().checked_sub(Duration::from_secs(100)).unwrap();
        for task in self.slurm.tasks.values_mut() {
            task.over_since = task.over_since.map(|(_, told_by)| (past, told_by));
        }
    }

    /// What it told of the end: `done`, `withdrawn`, or the failure's message.
    pub(super) fn end(&self) -> Option<String> {
        self.told.lock().unwrap().iter().find_map(|message| match message {
            Message::Ended(_, ended) => Some(match &ended.ending {
                Ending::Finished(_) => "done".to_owned(),
                Ending::Failed(failure) => failure.message.clone(),
                Ending::Stopped { step } => format!("stopped at {step}"),
                Ending::Withdrawn => "withdrawn".to_owned(),
                Ending::Damaged { what, .. } => what.clone(),
            }),
            _ => None,
        })
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let told = self.told.lock().unwrap();
        let warning = |message: &Message| match message {
            Message::Report(_, Report::Warning { text }) => Some(text.clone()),
            _ => None,
        };
        told.iter().filter_map(warning).collect()
    }

    /// The task waits to be submitted, away from any batch.
    pub(super) fn waits_to_be_submitted(&self) -> bool {
        self.slurm.tasks.get(&NodeId(0)).is_some_and(|task| task.place.is_none())
    }

    pub(super) fn stand(&self) -> Stand {
        self.slurm.batches[&self.batch()].stand.clone()
    }
}
