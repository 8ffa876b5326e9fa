//! What a run writes down: itself, and a record of every attempt.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{
    Digest, Metrics, Outcome, PlanNode, RECORD_SCHEMA, Record, RecordId, RecordInput, RecordOutput, RunCounts, RunEnd,
    RunNode, RunRow, Store, StoreError,
};
use serde_json::{Map, Value, json};

use super::{
    attempt::{Ended, Ending},
    options::RunOptions,
    provenance,
    state::NodeState,
};
use crate::{
    event::{RunOutcome, Summary},
    graph::NodeId,
    key::{KeyInputs, StageKey},
    plan::Plan,
    stage::MetricPoint,
};

/// Unix milliseconds.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The figures of a whole stage, in the order in which it gave them; the last value of each.
pub(super) fn node_figures(metrics: &[MetricPoint]) -> Vec<(String, f64)> {
    let mut figures: Vec<(String, f64)> = Vec::new();
    for point in metrics.iter().filter(|point| point.step.is_none()) {
        match figures.iter_mut().find(|(name, _)| *name == point.name) {
            Some(figure) => figure.1 = point.value,
            None => figures.push((point.name.clone(), point.value)),
        }
    }
    figures
}

/// The notebook of one run.
pub(super) struct RunRecord {
    pub(super) run: String,
    started_at: i64,
    manifest: String,
    manifest_digest: String,
    command: (Vec<String>, String),
    provenance: OnceLock<Map<String, Value>>,
    gathering: Option<std::thread::JoinHandle<Map<String, Value>>>,
    records: BTreeMap<NodeId, RecordId>,
    seconds: BTreeMap<NodeId, f64>,
    begun: bool,
}

impl RunRecord {
    pub(super) fn new(options: &RunOptions) -> Self {
        let started_at = now_ms();
        // Two runs of one millisecond on two hosts must differ, too.
        let unique =
            format!("{started_at} {} {} {:?}", std::process::id(), options.manifest, std::time::Instant::now());
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let run = Digest::derive("sepia run id v1", format!("{unique} {host}").as_bytes()).short();
        Self {
            run,
            started_at,
            manifest: options.manifest.clone(),
            manifest_digest: options.manifest_digest.clone(),
            command: options.command.clone(),
            provenance: OnceLock::new(),
            gathering: None,
            records: BTreeMap::new(),
            seconds: BTreeMap::new(),
            begun: false,
        }
    }

    /// Where the logs of this run's attempts are.
    pub(super) fn logs(&self, store: &Store) -> Result<Utf8PathBuf, StoreError> {
        Ok(store.run_dir(&self.run)?.join("logs"))
    }

    /// Writes down that the run has begun: before its first attempt, so that what it commits belongs to something.
    pub(super) fn begin(&mut self, store: &Store) -> Result<(), StoreError> {
        self.begun = true;
        store.start_run(&self.row())
    }

    fn row(&self) -> RunRow {
        RunRow {
            run: self.run.clone(),
            plan: None,
            manifest: self.manifest.clone(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            started_at: self.started_at,
            finished_at: None,
            outcome: None,
            counts: RunCounts::default(),
            details: json!({
                "manifest_digest": self.manifest_digest,
                "arguments": self.command.0,
                "folder": self.command.1,
            }),
        }
    }

    /// Starts to find out where this runs: asking git takes longer than a trivial stage.
    pub(super) fn gather_provenance(&mut self, store: &Store, program: &Path, folder: &Utf8Path) {
        let (program, folder, files) = (program.to_owned(), folder.to_owned(), store.file_digests());
        self.gathering = Some(std::thread::spawn(move || provenance::gather(&program, &folder, &files)));
    }

    fn provenance(&mut self) -> &Map<String, Value> {
        if let Some(thread) = self.gathering.take() {
            let _ = self.provenance.set(thread.join().unwrap_or_default());
        }
        self.provenance.get_or_init(Map::new)
    }

    /// The record of one attempt.
    pub(super) fn of_attempt(&mut self, plan: &Plan, id: NodeId, keys: &Keys<'_>, ended: &Ended, end: &End) -> Record {
        let node = plan.node(id);
        let (key, key_inputs) = keys.own;
        let mut metrics = Metrics::default();
        for point in &ended.metrics {
            metrics.push(&point.name, point.step, point.value);
        }
        let outputs = match &ended.ending {
            Ending::Finished(outputs) if end.outcome == Outcome::Done => outputs.as_slice(),
            _ => &[],
        };
        let mut position: BTreeMap<&str, u32> = BTreeMap::new();
        let inputs = node.wires.iter().filter_map(|wire| {
            let at = position.entry(&wire.port).or_default();
            let digest = key_inputs.inputs.get(&wire.port)?.get(usize::try_from(*at).ok()?)?;
            let input = RecordInput {
                port: wire.port.clone(),
                position: *at,
                digest: *digest,
                from_key: keys.needed.get(&wire.from).map(|key| key.0),
            };
            *at += 1;
            Some(input)
        });
        let inputs = inputs.collect();
        let mut provenance = self.provenance().clone();
        provenance.insert("device".to_owned(), json!(node.device.class()));
        // What ran elsewhere brings its own.
        if ended.provenance.is_empty()
            && let Some(gpu) = provenance::gpu(node.device)
        {
            provenance.insert("gpu".to_owned(), gpu);
        }
        provenance.insert("dtype".to_owned(), json!(node.dtype.name()));
        provenance.insert("threads".to_owned(), json!(node.threads()));
        provenance.insert("log".to_owned(), json!(end.log));
        provenance.extend(ended.provenance.clone());
        self.seconds.insert(id, ended.seconds);
        Record {
            schema: RECORD_SCHEMA,
            key: key.0,
            key_inputs: serde_json::to_value(key_inputs).unwrap_or_default(),
            kind: node.entry.kind.to_owned(),
            stage_version: node.entry.version,
            node: node.name.clone(),
            run: self.run.clone(),
            outcome: end.outcome,
            error: end.error.clone(),
            started_at: ended.started_at.unwrap_or(end.started_at),
            wall_seconds: ended.seconds,
            cpu_seconds: ended.usage.cpu_seconds,
            peak_memory_bytes: ended.usage.peak_memory_bytes,
            seed: node.seed,
            params: node.params.tree().as_object().cloned().unwrap_or_default(),
            inputs,
            outputs: outputs
                .iter()
                .map(|(port, object)| RecordOutput { port: port.clone(), object: *object })
                .collect(),
            metrics,
            provenance: Value::Object(provenance),
        }
    }

    /// A record is durable.
    pub(super) fn committed(&mut self, id: NodeId, record: RecordId) {
        self.records.insert(id, record);
    }

    /// Writes down how the run ended: one row if everything was cached, whatever the number of nodes.
    pub(super) fn end(
        &self,
        store: &Store,
        plan: &Plan,
        nodes: &[(NodeState, Option<StageKey>)],
        outcome: RunOutcome,
        summary: Summary,
    ) -> Result<Digest, StoreError> {
        let chosen = || plan.nodes.iter().zip(nodes).filter(|(_, (state, _))| *state != NodeState::Outside);
        let listing: Vec<PlanNode> =
            chosen().map(|(node, (_, key))| PlanNode { node: node.name.clone(), key: key.map(|key| key.0) }).collect();
        let told =
            plan.ids().zip(nodes).filter(|(_, (state, _))| !matches!(state, NodeState::Outside | NodeState::Cached));
        let rows: Vec<RunNode> = told
            .map(|(id, (state, key))| RunNode {
                run: self.run.clone(),
                node: plan.node(id).name.clone(),
                key: key.map(|key| key.0),
                record: self.records.get(&id).copied(),
                outcome: outcome_name(*state).to_owned(),
                because: match state {
                    NodeState::Skipped(because) => Some(format!("{} failed", plan.node(*because).name)),
                    _ => None,
                },
                wall_seconds: self.seconds.get(&id).copied(),
            })
            .collect();
        let plan = store.save_plan(&listing)?;
        let end = RunEnd {
            plan: Some(plan),
            finished_at: now_ms(),
            outcome: outcome.name().to_owned(),
            counts: RunCounts {
                nodes: listing.len() as u64,
                cached: summary.cached,
                done: summary.ran,
                failed: summary.failed,
                skipped: summary.skipped + summary.cancelled,
            },
        };
        if self.begun {
            store.finish_run(&self.run, &end)?;
        } else {
            self.all_at_once(store, end)?;
        }
        if !rows.is_empty() {
            store.add_run_nodes(&rows)?;
        }
        Ok(plan)
    }

    /// Writes down a run of a plan that the store has, of which nothing was left to do.
    pub(super) fn end_standing(&self, store: &Store, plan: Digest, nodes: u64) -> Result<(), StoreError> {
        let end = RunEnd {
            plan: Some(plan),
            finished_at: now_ms(),
            outcome: RunOutcome::Done.name().to_owned(),
            counts: RunCounts { nodes, cached: nodes, ..RunCounts::default() },
        };
        self.all_at_once(store, end)
    }

    fn all_at_once(&self, store: &Store, end: RunEnd) -> Result<(), StoreError> {
        let RunEnd { plan, finished_at, outcome, counts } = end;
        let end = RunRow { plan, finished_at: Some(finished_at), outcome: Some(outcome), counts, ..self.row() };
        store.start_run(&end)
    }
}

/// The keys that a record names.
pub(super) struct Keys<'k> {
    pub(super) own: (&'k StageKey, &'k KeyInputs),
    pub(super) needed: BTreeMap<NodeId, StageKey>,
}

/// How an attempt ended, beside what it left.
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) error: Option<String>,
    pub(super) started_at: i64,
    pub(super) log: String,
}

fn outcome_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Done => "done",
        NodeState::Failed => "failed",
        NodeState::Skipped(_) => "skipped",
        NodeState::Cancelled => "cancelled",
        NodeState::Cached => "cached",
        NodeState::Outside | NodeState::Waiting | NodeState::Ready | NodeState::Blocked | NodeState::Running => {
            "unfinished"
        }
    }
}
