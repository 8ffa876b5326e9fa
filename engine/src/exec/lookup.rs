//! What the store has: results by key, and which nodes a run may take only from there.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use petgraph::Direction;
use sepia_cache::{Hit, Index, ObjectRef, OpenRemote, Store, StoreError};

use super::{keys::NodeOutputs, options::Signals, shared::Shared};
use crate::{
    diagnostic::Diagnostic,
    key::StageKey,
    plan::{Plan, Selection, select},
};

/// How many stored outputs are looked at ahead of time. A small store is looked over as a whole, on all threads, while
/// the manifest is being read; of a large one only what a plan asks for.
const AHEAD: usize = 16_384;

/// Results by key.
pub struct Lookup {
    store: Arc<Store>,
    index: Index,
    /// Where else outputs may be.
    shared: Option<Shared>,
    /// Outputs that were there when the look-up was opened.
    seen: HashSet<ObjectRef>,
}

impl Lookup {
    /// Reads the index of a store.
    ///
    /// # Errors
    /// Those of the database.
    pub fn open(store: &Arc<Store>) -> Result<Self, StoreError> {
        let index = store.index()?;
        let known = index.loaded_outputs(AHEAD);
        let present = store.present_all(&known);
        let seen = known.into_iter().zip(present).filter_map(|(object, present)| present.then_some(object)).collect();
        Ok(Self { store: Arc::clone(store), index, shared: None, seen })
    }

    /// Outputs of known results may also be fetched from a remote when a run wants them.
    #[must_use]
    pub fn with_remote(mut self, remote: OpenRemote, signals: Signals) -> Self {
        self.shared = Some(Shared { remote, signals });
        self
    }

    /// The remote, for who fetches from it.
    pub(super) fn take_shared(&mut self) -> Option<Shared> {
        self.shared.take()
    }

    /// The store it looks into.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// An output turned out to be damaged and was set aside.
    pub(super) fn forget(&mut self, object: &ObjectRef) {
        self.seen.remove(object);
    }

    /// The outputs of the newest good record for a key whose outputs are all still in the store. What was committed since
    /// the run began, by whomever, is found too.
    pub(crate) fn find(&self, key: &StageKey) -> Result<Option<NodeOutputs>, StoreError> {
        let hits = self.index.candidates(&key.0)?;
        let is_whole =
            |hit: &&Hit| hit.outputs.iter().all(|(_, object)| self.seen.contains(object) || self.store.present(object));
        Ok(hits.iter().find(is_whole).map(outputs_of))
    }

    /// The outputs of all good records for a key, wherever their bytes are; the newest first.
    pub(super) fn known(&self, key: &StageKey) -> Result<Vec<NodeOutputs>, StoreError> {
        Ok(self.index.candidates(&key.0)?.iter().map(outputs_of).collect())
    }

    /// As [`find`](Self::find), sure to see what another run committed before it gave its lock back.
    pub(crate) fn find_now(&self, key: &StageKey) -> Result<Option<NodeOutputs>, StoreError> {
        self.index.refresh()?;
        self.find(key)
    }

    /// Whether the last good execution of a node of this name had these very outputs.
    pub(crate) fn same_as_before(&self, node: &str, outputs: &NodeOutputs) -> Result<bool, StoreError> {
        let before: BTreeMap<String, String> = self.store.query(|database| {
            let sql = "SELECT port, digest FROM artifacts WHERE execution = \
                       (SELECT max(execution) FROM executions WHERE node = ?1 AND outcome = 'done')";
            let mut statement = database.prepare_cached(sql)?;
            statement.query_map([node], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })?;
        let now = outputs.iter().map(|(port, object)| (port.clone(), object.digest.to_string()));
        Ok(!before.is_empty() && before == now.collect())
    }
}

fn outputs_of(hit: &Hit) -> NodeOutputs {
    hit.outputs.iter().map(|(port, object)| (port.to_string(), *object)).collect()
}

/// The nodes that run even if they are in the store.
pub(crate) fn forced(plan: &Plan, force: &[String], chosen: &[bool]) -> Result<Vec<bool>, Vec<Diagnostic>> {
    let mut flags = vec![false; plan.nodes.len()];
    if force.is_empty() {
        return Ok(flags);
    }
    let selection = Selection { targets: force.to_vec(), downstream: false, only: true };
    for (flag, (forced, chosen)) in flags.iter_mut().zip(select(plan, &selection)?.iter().zip(chosen)) {
        *flag = *forced && *chosen;
    }
    Ok(flags)
}

/// With `--only`, what the targets need: it counts, but may not run.
pub(super) fn frozen(plan: &Plan, selection: &Selection, chosen: &[bool]) -> Vec<bool> {
    if !selection.only {
        return vec![false; plan.nodes.len()];
    }
    let targets = plan.ids().filter(|id| chosen[id.index()]);
    let needed = plan.graph.reachable(targets, Direction::Incoming);
    needed.iter().zip(chosen).map(|(needed, chosen)| *needed && !*chosen).collect()
}
