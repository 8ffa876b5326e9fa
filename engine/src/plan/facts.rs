//! How facts about outputs flow along the wires.

use std::collections::BTreeMap;

use super::Wire;
use crate::{graph::NodeId, stage::Facts};

/// What a node's check stated of its outputs, by port.
pub(super) type OutputFacts = BTreeMap<String, Facts>;

/// Of an output of which nothing was stated.
static NOTHING: Facts = Facts::new();

/// What is known of a node's inputs, by port, given what is known of each node's outputs.
pub(super) fn of_inputs<'f>(wires: &'f [Wire], of: impl Fn(NodeId) -> &'f OutputFacts) -> Vec<(&'f str, &'f Facts)> {
    wires.iter().map(|wire| (wire.port.as_str(), of(wire.from).get(&wire.output).unwrap_or(&NOTHING))).collect()
}
