//! How facts about outputs flow along the wires.

use std::collections::BTreeMap;

use super::Wire;
use crate::{graph::NodeId, stage::Facts};

/// What a node's check stated of its outputs, by port.
pub(super) type OutputFacts = BTreeMap<String, Facts>;

/// What is known of a node's inputs, by port, given what is known of each node's outputs.
pub(super) fn of_inputs<'f>(wires: &[Wire], of: impl Fn(NodeId) -> &'f OutputFacts) -> BTreeMap<String, Vec<Facts>> {
    let mut found: BTreeMap<String, Vec<Facts>> = BTreeMap::new();
    for wire in wires {
        let known = of(wire.from).get(&wire.output).cloned().unwrap_or_default();
        found.entry(wire.port.clone()).or_default().push(known);
    }
    found
}
