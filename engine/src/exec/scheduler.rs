//! Who may start next: a pure state machine over the graph. No clock, no process, no file.
//!
//! A node whose dependencies have outputs is handed out by [`Scheduler::next_to_resolve`]; the caller finds its key and
//! answers with `found`, `must_run` or `held`. Nodes that must run wait for slots, the highest priority first, then the
//! longest chain below, then the manifest's order; [`Scheduler::next_to_start`] hands out the first that fits.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, VecDeque},
};

use super::{
    slots::{Amount, Grant, Slots},
    state::{Change, IllegalChange, NodeState},
};
use crate::graph::{Graph, NodeId};

/// What the scheduler knows of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Demand {
    /// What it needs of the machine.
    pub(super) amount: Amount,
    /// The higher goes first.
    pub(super) priority: i64,
}

type Rank = (Reverse<i64>, Reverse<u32>, NodeId);

/// The state of a run.
#[derive(Debug)]
pub(super) struct Scheduler<'g> {
    graph: &'g Graph,
    demands: Vec<Demand>,
    states: Vec<NodeState>,
    missing: Vec<usize>,
    to_resolve: VecDeque<NodeId>,
    to_start: BTreeSet<Rank>,
    slots: Slots,
    granted: Vec<Option<Grant>>,
    accepting: bool,
    open: usize,
}

impl<'g> Scheduler<'g> {
    /// A scheduler over the chosen nodes. Nodes outside the choice count as having outputs if `available` says so.
    #[must_use]
    pub(super) fn new(graph: &'g Graph, chosen: &[bool], demands: Vec<Demand>, slots: Slots) -> Self {
        let nodes = chosen.len();
        let states: Vec<NodeState> =
            chosen.iter().map(|chosen| if *chosen { NodeState::Waiting } else { NodeState::Outside }).collect();
        let open = states.iter().filter(|state| !state.is_final()).count();
        let mut scheduler = Self {
            graph,
            open,
            demands,
            states,
            missing: vec![0; nodes],
            to_resolve: VecDeque::new(),
            to_start: BTreeSet::new(),
            slots,
            granted: vec![None; nodes],
            accepting: true,
        };
        for id in graph.order() {
            if scheduler.state(*id) == NodeState::Waiting {
                scheduler.count_missing(*id);
            }
        }
        scheduler
    }

    /// Where a node stands.
    #[must_use]
    pub(super) fn state(&self, id: NodeId) -> NodeState {
        self.states[id.index()]
    }

    /// The next node whose key can be found.
    pub(super) fn next_to_resolve(&mut self) -> Option<NodeId> {
        if !self.accepting {
            return None;
        }
        while let Some(id) = self.to_resolve.pop_front() {
            if self.state(id) == NodeState::Waiting && self.missing[id.index()] == 0 {
                return Some(id);
            }
        }
        None
    }

    /// The first of the nodes that must run for which the machine has room; its slots are taken.
    pub(super) fn next_to_start(&mut self) -> Option<NodeId> {
        if !self.accepting {
            return None;
        }
        if self.slots.full() {
            return None;
        }
        let rank = *self.to_start.iter().find(|rank| self.slots.fits(self.demands[rank.2.index()].amount))?;
        self.to_start.remove(&rank);
        self.granted[rank.2.index()] = self.slots.take(self.demands[rank.2.index()].amount);
        Some(rank.2)
    }

    /// The numbers of the devices that a node was granted.
    #[must_use]
    pub(super) fn devices_of(&self, id: NodeId) -> &[usize] {
        self.granted[id.index()].as_ref().map_or(&[], |grant| &grant.devices)
    }

    /// The result is in the store.
    ///
    /// # Errors
    /// When the node's state does not allow it; the same holds for the functions below.
    pub(super) fn found(&mut self, id: NodeId) -> Result<(), IllegalChange> {
        self.change(id, Change::Found)?;
        self.release_dependants(id);
        Ok(())
    }

    /// It has to run.
    pub(super) fn must_run(&mut self, id: NodeId) -> Result<(), IllegalChange> {
        self.change(id, Change::MustRun)?;
        self.to_start.insert(self.rank(id));
        Ok(())
    }

    /// Another run holds its key: it gives its slots back until it is asked for again with `must_run` or `found`.
    pub(super) fn held(&mut self, id: NodeId) -> Result<(), IllegalChange> {
        self.change(id, Change::Held)?;
        self.to_start.remove(&self.rank(id));
        self.give_back(id);
        Ok(())
    }

    /// An attempt starts; its slots were taken by `next_to_start`.
    pub(super) fn started(&mut self, id: NodeId) -> Result<(), IllegalChange> {
        self.change(id, Change::Start)
    }

    /// Found in the store only after its slots were taken.
    pub(super) fn found_late(&mut self, id: NodeId) -> Result<(), IllegalChange> {
        self.give_back(id);
        self.found(id)
    }

    /// The attempt ended well.
    pub(super) fn finished(&mut self, id: NodeId) -> Result<(), IllegalChange> {
        self.change(id, Change::Finish)?;
        self.give_back(id);
        self.release_dependants(id);
        Ok(())
    }

    /// The attempt failed and another one follows.
    pub(super) fn try_again(&mut self, id: NodeId) -> Result<(), IllegalChange> {
        self.change(id, Change::TryAgain)?;
        self.give_back(id);
        self.to_start.insert(self.rank(id));
        Ok(())
    }

    /// It failed for good. Everything below that can no longer run is skipped; the answer names those nodes.
    pub(super) fn failed(&mut self, id: NodeId) -> Result<Vec<NodeId>, IllegalChange> {
        self.change(id, Change::Fail)?;
        self.give_back(id);
        self.to_start.remove(&self.rank(id));
        self.skip_below(id)
    }

    /// The attempt was stopped because the run ends. Everything below is cancelled with the rest.
    pub(super) fn cancelled(&mut self, id: NodeId) -> Result<(), IllegalChange> {
        self.change(id, Change::Cancel)?;
        self.give_back(id);
        Ok(())
    }

    /// Nothing new starts from now on.
    pub(super) fn stop_accepting(&mut self) {
        self.accepting = false;
    }

    /// Whether new nodes may start.
    #[must_use]
    pub(super) fn accepting(&self) -> bool {
        self.accepting
    }

    /// Cancels every node that is not final and not running; the answer names them.
    pub(super) fn cancel_rest(&mut self) -> Result<Vec<NodeId>, IllegalChange> {
        let open: Vec<NodeId> = self
            .graph
            .order()
            .iter()
            .copied()
            .filter(|id| !self.state(*id).is_final() && self.state(*id) != NodeState::Running)
            .collect();
        for id in &open {
            self.change(*id, Change::Cancel)?;
            self.give_back(*id);
        }
        self.to_start.clear();
        Ok(open)
    }

    /// A stored result is damaged: its node has to be looked at anew, and so has `consumer`, which found out.
    pub(super) fn reopen(&mut self, producer: NodeId, consumer: NodeId) -> Result<(), IllegalChange> {
        self.change(producer, Change::Reopen)?;
        self.change(consumer, Change::Reopen)?;
        self.give_back(consumer);
        // Nodes that were about to start with the damaged output wait again too.
        for id in self.graph.dependants(producer) {
            if matches!(self.state(id), NodeState::Ready | NodeState::Blocked) {
                self.to_start.remove(&self.rank(id));
                self.give_back(id);
                self.change(id, Change::Reopen)?;
            }
        }
        self.count_missing(producer);
        for id in self.graph.dependants(producer) {
            if self.state(id) == NodeState::Waiting {
                self.count_missing(id);
            }
        }
        Ok(())
    }

    /// Whether no chosen node can change any more.
    #[must_use]
    pub(super) fn all_final(&self) -> bool {
        self.open == 0
    }

    fn change(&mut self, id: NodeId, change: Change) -> Result<(), IllegalChange> {
        let before = self.state(id);
        let after = before.after(change)?;
        self.states[id.index()] = after;
        match (before.is_final(), after.is_final()) {
            (false, true) => self.open -= 1,
            (true, false) => self.open += 1,
            _ => {}
        }
        Ok(())
    }

    fn rank(&self, id: NodeId) -> Rank {
        (Reverse(self.demands[id.index()].priority), Reverse(self.graph.depth_below(id)), id)
    }

    fn give_back(&mut self, id: NodeId) {
        if let Some(granted) = self.granted[id.index()].take() {
            self.slots.give_back(&granted);
        }
    }

    fn count_missing(&mut self, id: NodeId) {
        let missing = self.graph.dependencies(id).into_iter().filter(|needed| self.lacks_outputs(*needed)).count();
        self.missing[id.index()] = missing;
        if missing == 0 {
            self.to_resolve.push_back(id);
        }
    }

    /// A node outside the choice is the caller's affair: its outputs are looked up when the key is made.
    fn lacks_outputs(&self, id: NodeId) -> bool {
        !self.state(id).has_outputs() && self.state(id) != NodeState::Outside
    }

    fn release_dependants(&mut self, id: NodeId) {
        for next in self.graph.dependants(id) {
            if self.state(next) == NodeState::Waiting {
                self.missing[next.index()] = self.missing[next.index()].saturating_sub(1);
                if self.missing[next.index()] == 0 {
                    self.to_resolve.push_back(next);
                }
            }
        }
    }

    fn skip_below(&mut self, failed: NodeId) -> Result<Vec<NodeId>, IllegalChange> {
        let mut skipped = Vec::new();
        let mut open = vec![failed];
        while let Some(id) = open.pop() {
            for next in self.graph.dependants(id) {
                if matches!(self.state(next), NodeState::Waiting | NodeState::Ready | NodeState::Blocked) {
                    self.to_start.remove(&self.rank(next));
                    self.change(next, Change::Skip(failed))?;
                    skipped.push(next);
                    open.push(next);
                }
            }
        }
        skipped.sort_unstable();
        Ok(skipped)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scheduler(graph: &Graph, nodes: usize, threads: usize) -> Scheduler<'_> {
        let amount = Amount { threads: 1, ..Amount::default() };
        let total = Amount { threads, ..Amount::default() };
        Scheduler::new(graph, &vec![true; nodes], vec![Demand { amount, priority: 0 }; nodes], Slots::new(total))
    }

    #[test]
    fn the_longest_chain_goes_first_and_a_priority_before_it() {
        // 0 and 1 are roots; 1 -> 2 -> 3 is the long chain; 4 is a root of high priority.
        let graph = Graph::new(5, [(1, 2), (2, 3)].map(|(a, b)| (NodeId(a), NodeId(b)))).unwrap();
        let mut scheduler = scheduler(&graph, 5, 1);
        scheduler.demands[4].priority = 1;
        while let Some(id) = scheduler.next_to_resolve() {
            scheduler.must_run(id).unwrap();
        }
        let mut started = Vec::new();
        while let Some(id) = scheduler.next_to_start() {
            scheduler.started(id).unwrap();
            started.push(id.0);
            scheduler.finished(id).unwrap();
            while let Some(id) = scheduler.next_to_resolve() {
                scheduler.must_run(id).unwrap();
            }
        }
        assert_eq!(started, [4, 1, 2, 0, 3]);
        assert!(scheduler.all_final());
    }

    #[test]
    fn a_damaged_result_runs_again_before_what_found_out() {
        let graph = Graph::new(2, [(NodeId(0), NodeId(1))]).unwrap();
        let mut scheduler = scheduler(&graph, 2, 2);
        let producer = scheduler.next_to_resolve().unwrap();
        scheduler.found(producer).unwrap();
        let consumer = scheduler.next_to_resolve().unwrap();
        scheduler.must_run(consumer).unwrap();
        assert_eq!(scheduler.next_to_start(), Some(consumer));
        scheduler.started(consumer).unwrap();
        scheduler.reopen(producer, consumer).unwrap();
        assert_eq!(scheduler.next_to_resolve(), Some(producer));
        assert_eq!(scheduler.next_to_resolve(), None);
        scheduler.must_run(producer).unwrap();
        assert_eq!(scheduler.next_to_start(), Some(producer));
        scheduler.started(producer).unwrap();
        scheduler.finished(producer).unwrap();
        assert_eq!(scheduler.next_to_resolve(), Some(consumer));
    }

    proptest! {
        /// Random graphs, random outcomes, a cancel at a random moment: every node ends in exactly one final state, no
        /// node runs before what it needs has outputs, and no more threads are used than there are.
        #[test]
        fn every_node_ends_in_one_final_state(
            nodes in 1usize..30,
            pairs in prop::collection::vec((0u32..30, 0u32..30), 0..80),
            outcomes in prop::collection::vec(0u8..6, 400),
            cancel_after in 0usize..60,
            keep_going: bool,
            threads in 1usize..4,
        ) {
            let top = u32::try_from(nodes).unwrap();
            let wires = pairs.into_iter().filter(|(a, b)| a < b && *b < top).map(|(a, b)| (NodeId(a), NodeId(b)));
            let graph = Graph::new(nodes, wires).unwrap();
            let mut scheduler = scheduler(&graph, nodes, threads);
            let mut running: Vec<NodeId> = Vec::new();
            let mut dice = outcomes.into_iter().cycle();
            let mut steps = 0;
            while !scheduler.all_final() {
                steps += 1;
                prop_assert!(steps < 5_000, "it does not end");
                if steps == cancel_after {
                    scheduler.stop_accepting();
                    scheduler.cancel_rest().unwrap();
                }
                while let Some(id) = scheduler.next_to_resolve() {
                    for needed in graph.dependencies(id) {
                        prop_assert!(scheduler.state(needed).has_outputs());
                    }
                    if dice.next() == Some(0) { scheduler.found(id).unwrap() } else { scheduler.must_run(id).unwrap() }
                }
                while let Some(id) = scheduler.next_to_start() {
                    scheduler.started(id).unwrap();
                    running.push(id);
                }
                prop_assert!(running.len() <= threads);
                let Some(id) = running.pop() else { continue };
                match dice.next() {
                    Some(1) => {
                        scheduler.failed(id).unwrap();
                        if !keep_going {
                            scheduler.stop_accepting();
                            scheduler.cancel_rest().unwrap();
                        }
                    }
                    Some(2) if scheduler.accepting() => scheduler.try_again(id).unwrap(),
                    Some(3) if !scheduler.accepting() => scheduler.cancelled(id).unwrap(),
                    _ => scheduler.finished(id).unwrap(),
                }
            }
            prop_assert!(running.is_empty());
            prop_assert_eq!(scheduler.slots.take(Amount { threads, ..Amount::default() }).is_some(), true);
        }
    }
}
