//! Whether the machine has what the nodes of a plan will need.

use std::collections::BTreeMap;

use super::{Node, Plan, place_of};
use crate::{
    diagnostic::Diagnostic,
    graph::NodeId,
    report::figures::{bytes, count},
    stage::{Device, Estimate},
};

/// What there is to give.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Bytes of memory.
    pub memory: u64,
    /// Free bytes of the disk that the store is on, where that is known.
    pub free_disk: Option<u64>,
}

/// Warnings about the nodes of a list that this machine has not enough memory or disk for. One for all cells of a sweep.
#[must_use]
pub fn over_limits(plan: &Plan, nodes: impl Iterator<Item = NodeId>, machine: Machine) -> Vec<Diagnostic> {
    let nodes: Vec<NodeId> = nodes.collect();
    let mut found = Vec::new();
    let on_host = nodes.iter().copied().filter(|id| plan.node(*id).device == Device::Cpu);
    let too_large = |id: &NodeId| plan.node(*id).estimate.memory_bytes().is_some_and(|needed| needed > machine.memory);
    for (worst, cells) in by_origin(plan, on_host.clone().filter(too_large)) {
        found.push(too_little_memory(plan.node(worst), &plan.node(worst).estimate, cells, machine));
    }
    let understated = |id: &NodeId| {
        let stated = plan.node(*id).decl.resources.memory;
        stated.zip(plan.node(*id).estimate.certain_bytes()).is_some_and(|(stated, certain)| stated < certain)
    };
    for (worst, _) in by_origin(plan, on_host.filter(understated)) {
        let (node, estimate) = (plan.node(worst), &plan.node(worst).estimate);
        let (stated, certain) = (node.decl.resources.memory.unwrap_or(0), estimate.certain_bytes().unwrap_or(0));
        let message = format!(
            "`{}` says that it needs {} of memory, but weights, gradients and optimiser state alone are {}",
            node.name,
            bytes(stated),
            bytes(certain)
        );
        let needed = estimate.memory_bytes().unwrap_or(certain).div_ceil(1 << 20);
        let warning = Diagnostic::warning("plan::memory-understated", message).label(node.decl.name.span, "");
        found.push(warning.help(format!("write resources = {{ memory = \"{needed} MiB\" }}, or leave it out")));
    }
    found.extend(too_little_disk(plan, &nodes, machine));
    found
}

/// Of each stage the node that needs most, with how many of its cells there are in the list.
fn by_origin(plan: &Plan, nodes: impl Iterator<Item = NodeId>) -> Vec<(NodeId, u64)> {
    let mut worst: Vec<(NodeId, u64)> = Vec::new();
    let mut at: BTreeMap<&str, usize> = BTreeMap::new();
    for id in nodes {
        let place = *at.entry(&plan.node(id).decl.origin).or_insert_with(|| {
            worst.push((id, 0));
            worst.len() - 1
        });
        worst[place].1 += 1;
        if plan.node(id).estimate.memory_bytes() > plan.node(worst[place].0).estimate.memory_bytes() {
            worst[place].0 = id;
        }
    }
    worst
}

fn too_little_memory(node: &Node, estimate: &Estimate, cells: u64, machine: Machine) -> Diagnostic {
    let more =
        if cells > 1 { format!("; so does {} of this stage", count(cells - 1, "more node")) } else { String::new() };
    let message = format!(
        "`{}` needs about {} of memory, and this machine has {}{more}",
        node.name,
        bytes(estimate.memory_bytes().unwrap_or(0)),
        bytes(machine.memory)
    );
    let parts = estimate.parts();
    let known: Vec<String> =
        parts.iter().filter_map(|(name, part)| Some(format!("{name} {}", bytes((*part)?)))).collect();
    let warning = Diagnostic::warning("plan::memory", message).label(node.decl.name.span, known.join(", "));
    let largest = parts.into_iter().max_by_key(|(_, part)| part.unwrap_or(0)).map_or("", |(name, _)| name);
    warning.help(match largest {
        "activations" => "lower `batch_size` (and raise `grad_accum` as much), or `seq_len`",
        "optimiser state" => "choose a method that keeps less, such as galore with `optimizer = \"adam8bit\"`",
        "data" => "name fewer or smaller files",
        _ => "choose a smaller model, or run this manifest on a machine with more memory",
    })
}

fn too_little_disk(plan: &Plan, nodes: &[NodeId], machine: Machine) -> Option<Diagnostic> {
    let free = machine.free_disk?;
    let sizes = nodes.iter().filter_map(|id| Some((plan.node(*id).estimate.output_bytes?, *id)));
    let needed = sizes.clone().fold(0u64, |sum, (size, _)| sum.saturating_add(size));
    let (_, largest) = sizes.max_by_key(|(size, id)| (*size, std::cmp::Reverse(*id))).filter(|_| needed > free)?;
    let node = plan.node(largest);
    let message =
        format!("the outputs take up to {}, and the disk of the store has {} left", bytes(needed), bytes(free));
    let size = bytes(node.estimate.output_bytes.unwrap_or(0));
    let warning = Diagnostic::warning("plan::disk", message);
    let warning = warning.label(place_of(&node.decl, ""), format!("`{}` makes {size}, more than any other", node.name));
    Some(warning.help("free some with `sepia cache gc`, put the store elsewhere with `--store DIR`, or run a part"))
}

#[cfg(test)]
mod tests;
