//! A run as one looks at it, finished or not: its nodes with states, times, figures and what they wait for.
//!
//! What is certain comes from the store; what is going on comes from the files that the run writes: `plan.json` (nodes,
//! edges, manifest), `events.jsonl` (states), `progress.json`, the metrics file of each attempt and its log.

use std::collections::{BTreeMap, HashMap};

use camino::Utf8PathBuf;
use sepia_cache::{Digest, Record, RunRow, Store, StoreError};

use crate::{
    event::RunEvent,
    exec::recorder::{self, PlanFile, read_events},
    log_tail::log_tail,
    stage::{MetricPoint, Progress, parse_metrics},
};

/// Of a log, on the page.
const LOG_LINES: usize = 20;

/// A run.
pub(crate) struct RunView {
    pub(crate) row: RunRow,
    /// Whether its process goes on.
    pub(crate) alive: bool,
    /// In the order of the plan.
    pub(crate) nodes: Vec<NodeView>,
    /// The manifest as it was; `None` if nothing ran and no earlier run of it is known.
    pub(crate) manifest: Option<String>,
}

/// A node.
#[derive(Default)]
pub(crate) struct NodeView {
    pub(crate) node: String,
    pub(crate) kind: String,
    pub(crate) state: State,
    pub(crate) because: Option<String>,
    /// The record of its results, which may be of an earlier run.
    pub(crate) record: Option<Record>,
    /// The places of the nodes that it waits for.
    pub(crate) needs: Vec<usize>,
    pub(crate) progress: Option<Progress>,
    /// What a running attempt has measured so far.
    pub(crate) metrics: Vec<MetricPoint>,
    /// The last lines of a running or failed attempt's log.
    pub(crate) log: Vec<String>,
    number: Option<usize>,
    attempt: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum State {
    Running,
    Failed,
    Done,
    Cached,
    Skipped,
    #[default]
    Waiting,
}

impl State {
    /// In a word.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Done => "done",
            Self::Cached => "cached",
            Self::Skipped => "not run",
            Self::Waiting => "waiting",
        }
    }

    fn of_outcome(outcome: &str) -> Self {
        match outcome {
            "done" => Self::Done,
            "cached" => Self::Cached,
            "failed" | "timed-out" => Self::Failed,
            _ => Self::Skipped,
        }
    }
}

impl RunView {
    /// Looks at a run.
    pub(crate) fn load(store: &Store, row: RunRow) -> Result<Self, StoreError> {
        let alive = row.outcome.is_none() && store.run_is_alive(&row.run);
        let folder = store.run_dir(&row.run)?;
        let file = recorder::read_plan(&folder);
        let mut places = Places::of(file.iter().flat_map(|file| &file.nodes).map(planned).collect());
        if let Some(plan) = &row.plan {
            let index = store.index()?;
            for planned in store.plan(plan)? {
                let hits = planned.key.map(|key| index.candidates(&key)).transpose()?;
                let hit = hits.and_then(|hits| hits.into_iter().next());
                let node = places.node(&planned.node);
                node.record = hit.map(|hit| store.record(&hit.record)).transpose()?.flatten();
                node.state = State::Cached;
            }
        }
        for told in store.run_nodes(&row.run)? {
            let node = places.node(&told.node);
            node.state = State::of_outcome(&told.outcome);
            node.because = told.because;
            if let Some(id) = told.record {
                node.record = store.record(&id)?;
            }
        }
        let mut nodes = places.nodes;
        if row.plan.is_none() {
            follow(store, &row, alive, &mut nodes)?;
        } else {
            logs_of_failures(&mut nodes);
        }
        edges_from_records(&mut nodes);
        for node in &mut nodes {
            if let (true, Some(record)) = (node.kind.is_empty(), &node.record) {
                node.kind.clone_from(&record.kind);
            }
        }
        let manifest = match file {
            Some(file) => Some(file.manifest),
            None => manifest_of_another_run(store, &row)?,
        };
        Ok(Self { row, alive, nodes, manifest })
    }

    /// How it stands, in a word.
    pub(crate) fn outcome(&self) -> &str {
        match &self.row.outcome {
            Some(outcome) => outcome,
            None if self.alive => "running",
            None => "died",
        }
    }

    /// How many nodes are in a state.
    pub(crate) fn count(&self, state: State) -> usize {
        self.nodes.iter().filter(|node| node.state == state).count()
    }
}

fn planned(node: &recorder::PlannedNode) -> NodeView {
    NodeView {
        node: node.node.clone(),
        kind: node.kind.clone(),
        needs: node.needs.clone(),
        number: Some(node.number),
        ..NodeView::default()
    }
}

/// Nodes with their places by name.
struct Places {
    nodes: Vec<NodeView>,
    by_name: HashMap<String, usize>,
}

impl Places {
    fn of(nodes: Vec<NodeView>) -> Self {
        let by_name = nodes.iter().enumerate().map(|(place, node)| (node.node.clone(), place)).collect();
        Self { nodes, by_name }
    }

    /// The node of this name, new or old.
    fn node(&mut self, name: &str) -> &mut NodeView {
        let place = *self.by_name.entry(name.to_owned()).or_insert_with(|| {
            self.nodes.push(NodeView { node: name.to_owned(), ..NodeView::default() });
            self.nodes.len() - 1
        });
        &mut self.nodes[place]
    }
}

/// The states of a run that has not written down its end, from what it tells.
fn follow(store: &Store, row: &RunRow, alive: bool, nodes: &mut [NodeView]) -> Result<(), StoreError> {
    let folder = store.run_dir(&row.run)?;
    let progress: BTreeMap<String, Progress> = recorder::read_progress(&folder);
    let at: BTreeMap<String, usize> = nodes.iter().enumerate().map(|(at, node)| (node.node.clone(), at)).collect();
    for stamped in read_events(&folder).unwrap_or_default() {
        let mut set = |name: &str, state: State, because: Option<String>| {
            if let Some(node) = at.get(name).and_then(|place| nodes.get_mut(*place)) {
                node.state = state;
                node.because = because;
            }
        };
        match stamped.event {
            RunEvent::Cached { nodes: cached, .. } => cached.iter().for_each(|name| set(name, State::Cached, None)),
            RunEvent::Started { node, attempt, .. } => {
                set(&node, State::Running, None);
                if let Some(node) = at.get(&node).and_then(|place| nodes.get_mut(*place)) {
                    node.attempt = attempt;
                }
            }
            RunEvent::Finished { node, .. } => set(&node, State::Done, None),
            RunEvent::Failed { node, failure, again, .. } => {
                set(&node, if again { State::Waiting } else { State::Failed }, Some(failure.message));
                if let Some(node) = at.get(&node).and_then(|place| nodes.get_mut(*place)) {
                    node.log = failure.log_tail;
                }
            }
            RunEvent::Stopped { node, .. } | RunEvent::Cancelled { node } => set(&node, State::Skipped, None),
            RunEvent::Skipped { node, because } => set(&node, State::Skipped, Some(format!("{because} failed"))),
            RunEvent::Waiting { node, owner } => set(&node, State::Waiting, Some(format!("being computed by {owner}"))),
            _ => {}
        }
    }
    let rows = store.result_rows()?;
    for node in nodes.iter_mut() {
        if node.state == State::Done {
            let row = rows.iter().rev().find(|one| *one.node == *node.node && *one.run == *row.run);
            node.record = row.map(|row| store.record(&row.record)).transpose()?.flatten();
        }
        if node.state == State::Running && !alive {
            node.state = State::Skipped;
            node.because = Some("the run died".to_owned());
        }
        if let (State::Running, Some(number)) = (node.state, node.number) {
            node.progress = progress.get(&node.node).cloned();
            let name = format!("{number}-{}", node.attempt);
            let metrics = store.attempts_dir().join(&row.run).join(&name).join("metrics.tsv");
            node.metrics = fs_err::read_to_string(metrics).map(|text| parse_metrics(&text)).unwrap_or_default();
            node.log = log_tail(&folder.join("logs").join(format!("{name}.log")), LOG_LINES);
        }
    }
    Ok(())
}

fn logs_of_failures(nodes: &mut [NodeView]) {
    for node in nodes.iter_mut().filter(|node| node.state == State::Failed) {
        if let Some(log) = node.record.as_ref().and_then(|record| record.provenance["log"].as_str()) {
            node.log = log_tail(&Utf8PathBuf::from(log), LOG_LINES);
        }
    }
}

/// Edges of nodes that the plan file does not tell: from what their results were made of.
fn edges_from_records(nodes: &mut [NodeView]) {
    let of_key: BTreeMap<Digest, usize> =
        nodes.iter().enumerate().filter_map(|(place, node)| Some((node.record.as_ref()?.key, place))).collect();
    for (place, node) in nodes.iter_mut().enumerate().filter(|(_, node)| node.needs.is_empty()) {
        let Some(record) = &node.record else { continue };
        let mut needs: Vec<usize> =
            record.inputs.iter().filter_map(|input| of_key.get(&input.from_key?).copied()).collect();
        needs.sort_unstable();
        needs.dedup();
        needs.retain(|needed| *needed != place);
        node.needs = needs;
    }
}

/// A run that computed nothing has no plan file: one of the same manifest has.
fn manifest_of_another_run(store: &Store, row: &RunRow) -> Result<Option<String>, StoreError> {
    let digest = &row.details["manifest_digest"];
    for other in store.list_runs()?.into_iter().filter(|other| other.details["manifest_digest"] == *digest) {
        if let Some(PlanFile { manifest, .. }) = recorder::read_plan(&store.run_dir(&other.run)?) {
            return Ok(Some(manifest));
        }
    }
    Ok(None)
}
