//! The graph of a plan: which node needs which, in an order that never changes.
//!
//! Invariants of a [`Graph`]: it is acyclic; [`Graph::order`] lists every node after all that it needs, and among nodes
//! that could come next the one written first comes first. Nothing here recurses, so that a chain of any depth works.

use std::{cmp::Reverse, collections::BinaryHeap};

use petgraph::{
    Direction,
    graph::{DiGraph, NodeIndex},
};

/// A node's number in its plan: the position in the manifest's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct NodeId(pub u32);

impl NodeId {
    /// As an index into a slice over the plan's nodes.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// An acyclic graph of nodes.
#[derive(Debug, Clone)]
pub struct Graph {
    edges: DiGraph<(), (), u32>,
    order: Vec<NodeId>,
    depth_below: Vec<u32>,
}

/// Nodes that need each other, each the next, the last the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cycle(pub Vec<NodeId>);

impl Graph {
    /// A graph over `nodes` nodes with edges `(needed, needing)`.
    ///
    /// # Errors
    /// A cycle, when there is one: the shortest through its first node.
    pub fn new(nodes: usize, wires: impl IntoIterator<Item = (NodeId, NodeId)>) -> Result<Self, Cycle> {
        let mut edges = DiGraph::with_capacity(nodes, nodes);
        for _ in 0..nodes {
            edges.add_node(());
        }
        for (from, to) in wires {
            edges.add_edge(NodeIndex::new(from.index()), NodeIndex::new(to.index()), ());
        }
        let order = topological_order(&edges);
        if order.len() < nodes {
            return Err(find_cycle(&edges, &order));
        }
        let mut depth_below = vec![0; nodes];
        for node in order.iter().rev() {
            let below = edges.neighbors(index(*node)).map(|next| depth_below[next.index()] + 1).max();
            depth_below[node.index()] = below.unwrap_or(0);
        }
        Ok(Self { edges, order, depth_below })
    }

    /// Every node after all that it needs.
    #[must_use]
    pub fn order(&self) -> &[NodeId] {
        &self.order
    }

    /// The nodes by the length of the longest way to them: those of one level do not need each other.
    #[must_use]
    pub fn levels(&self) -> Vec<Vec<NodeId>> {
        let mut depth = vec![0; self.order.len()];
        let mut levels: Vec<Vec<NodeId>> = Vec::new();
        for node in &self.order {
            let needed = self.edges.neighbors_directed(index(*node), Direction::Incoming);
            let at = needed.map(|from| depth[from.index()] + 1).max().unwrap_or(0);
            depth[node.index()] = at;
            if levels.len() <= at {
                levels.resize_with(at + 1, Vec::new);
            }
            levels[at].push(*node);
        }
        levels
    }

    /// The nodes that need this one directly, in order, each once.
    #[must_use]
    pub fn dependants(&self, node: NodeId) -> Vec<NodeId> {
        self.neighbors(node, Direction::Outgoing)
    }

    /// Whether no node needs this one.
    #[must_use]
    pub fn is_leaf(&self, node: NodeId) -> bool {
        self.edges.neighbors(index(node)).next().is_none()
    }

    /// The nodes that this one needs directly, in order, each once.
    #[must_use]
    pub fn dependencies(&self, node: NodeId) -> Vec<NodeId> {
        self.neighbors(node, Direction::Incoming)
    }

    /// How many nodes the longest chain below this one has: what runs first keeps the rest busy.
    #[must_use]
    pub fn depth_below(&self, node: NodeId) -> u32 {
        self.depth_below[node.index()]
    }

    /// All nodes that can be reached from `start` (which is included) in a direction.
    #[must_use]
    pub fn reachable(&self, start: impl IntoIterator<Item = NodeId>, direction: Direction) -> Vec<bool> {
        let mut seen = vec![false; self.order.len()];
        let mut open: Vec<NodeId> = start.into_iter().collect();
        while let Some(node) = open.pop() {
            if !std::mem::replace(&mut seen[node.index()], true) {
                open.extend(self.neighbors(node, direction));
            }
        }
        seen
    }

    fn neighbors(&self, node: NodeId, direction: Direction) -> Vec<NodeId> {
        let mut found: Vec<NodeId> = self.edges.neighbors_directed(index(node), direction).map(id).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

fn index(node: NodeId) -> NodeIndex<u32> {
    NodeIndex::new(node.index())
}

fn id(index: NodeIndex<u32>) -> NodeId {
    NodeId(u32::try_from(index.index()).unwrap_or(u32::MAX))
}

/// Kahn's algorithm with the smallest number first. Nodes on or behind a cycle are missing from the answer.
fn topological_order(edges: &DiGraph<(), (), u32>) -> Vec<NodeId> {
    let mut waiting_for: Vec<usize> =
        edges.node_indices().map(|node| edges.neighbors_directed(node, Direction::Incoming).count()).collect();
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..waiting_for.len()).filter(|node| waiting_for[*node] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(waiting_for.len());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(id(NodeIndex::new(node)));
        for next in edges.neighbors(NodeIndex::new(node)) {
            waiting_for[next.index()] -= 1;
            if waiting_for[next.index()] == 0 {
                ready.push(Reverse(next.index()));
            }
        }
    }
    order
}

fn find_cycle(edges: &DiGraph<(), (), u32>, order: &[NodeId]) -> Cycle {
    let mut free = vec![false; edges.node_count()];
    for node in order {
        free[node.index()] = true;
    }
    // Every node that is not free lies on a cycle or behind one; the first component with a cycle in it has a start.
    let components = petgraph::algo::kosaraju_scc(edges);
    let start = components
        .iter()
        .filter(|component| {
            component.len() > 1 || component.iter().any(|node| !free[node.index()] && edges.contains_edge(*node, *node))
        })
        .filter_map(|component| component.iter().min())
        .min();
    let Some(&start) = start else { return Cycle(Vec::new()) };
    // Breadth first from the start back to itself gives the shortest way round.
    let mut came_from = vec![None; edges.node_count()];
    let mut open = std::collections::VecDeque::from([start]);
    while let Some(node) = open.pop_front() {
        let mut next: Vec<_> = edges.neighbors(node).collect();
        next.sort_unstable();
        for next in next {
            if next == start {
                let mut path = vec![id(node)];
                let mut at = node;
                while at != start {
                    let Some(before) = came_from[at.index()] else { break };
                    path.push(id(before));
                    at = before;
                }
                path.reverse();
                return Cycle(path);
            }
            if came_from[next.index()].is_none() {
                came_from[next.index()] = Some(node);
                open.push_back(next);
            }
        }
    }
    Cycle(vec![id(start)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(numbers: &[u32]) -> Vec<NodeId> {
        numbers.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn a_diamond_is_ordered_by_need_and_then_by_the_text() {
        let wires = [(0, 2), (0, 1), (2, 3), (1, 3)].map(|(a, b)| (NodeId(a), NodeId(b)));
        let graph = Graph::new(4, wires).unwrap();
        assert_eq!(graph.order(), ids(&[0, 1, 2, 3]));
        assert_eq!(graph.dependants(NodeId(0)), ids(&[1, 2]));
        assert_eq!(graph.dependencies(NodeId(3)), ids(&[1, 2]));
        assert_eq!(graph.depth_below(NodeId(0)), 2);
    }

    #[test]
    fn a_cycle_is_reported_as_its_path() {
        let wires = [(0, 1), (1, 2), (2, 3), (3, 1)].map(|(a, b)| (NodeId(a), NodeId(b)));
        assert_eq!(Graph::new(4, wires).unwrap_err(), Cycle(ids(&[1, 2, 3])));
        assert_eq!(Graph::new(1, [(NodeId(0), NodeId(0))]).unwrap_err(), Cycle(ids(&[0])));
    }

    #[test]
    fn a_chain_of_a_hundred_thousand_works() {
        let wires = (1..100_000).map(|node| (NodeId(node - 1), NodeId(node)));
        let graph = Graph::new(100_000, wires).unwrap();
        assert_eq!(graph.depth_below(NodeId(0)), 99_999);
        let below = graph.reachable([NodeId(50_000)], Direction::Outgoing);
        assert_eq!(below.iter().filter(|seen| **seen).count(), 50_000);
    }

    proptest! {
        #[test]
        fn every_node_comes_once_and_after_what_it_needs(
            nodes in 1usize..40,
            pairs in prop::collection::vec((0u32..40, 0u32..40), 0..120),
        ) {
            let top = u32::try_from(nodes).unwrap();
            // Edges from lower to higher numbers under a fixed shuffle cannot form a cycle.
            let shuffle = |n: u32| (n * 7 + 3) % 41;
            let wires: Vec<_> = pairs
                .into_iter()
                .filter(|(a, b)| *a < top && *b < top && shuffle(*a) < shuffle(*b))
                .map(|(a, b)| (NodeId(a), NodeId(b)))
                .collect();
            let graph = Graph::new(nodes, wires.clone()).unwrap();
            let mut position = vec![usize::MAX; nodes];
            for (at, node) in graph.order().iter().enumerate() {
                position[node.index()] = at;
            }
            prop_assert!(position.iter().all(|at| *at != usize::MAX));
            for (from, to) in wires {
                prop_assert!(position[from.index()] < position[to.index()]);
            }
        }

        #[test]
        fn what_has_no_order_has_a_cycle_whose_every_step_is_an_edge(
            pairs in prop::collection::vec((0u32..12, 0u32..12), 0..40),
        ) {
            let wires: Vec<_> = pairs.into_iter().map(|(a, b)| (NodeId(a), NodeId(b))).collect();
            if let Err(Cycle(path)) = Graph::new(12, wires.clone()) {
                prop_assert!(!path.is_empty());
                for at in 0..path.len() {
                    let step = (path[at], path[(at + 1) % path.len()]);
                    prop_assert!(wires.contains(&step), "{step:?} is no edge");
                }
            }
        }
    }
}
