//! Choosing a part of a plan: targets by name or glob, with what they need or feed.

use petgraph::Direction;

use super::Plan;
use crate::{
    diagnostic::{Diagnostic, nearest},
    graph::NodeId,
    wildcard,
};

/// Which nodes a run is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Names or globs; empty means all.
    pub targets: Vec<String>,
    /// Also everything that depends on the targets.
    pub downstream: bool,
    /// The targets alone: what they need must be in the store already.
    pub only: bool,
}

/// The chosen nodes, as a flag per node. Without `only`, what the targets need is always included.
///
/// # Errors
/// A target that matches no node.
pub fn select(plan: &Plan, selection: &Selection) -> Result<Vec<bool>, Vec<Diagnostic>> {
    if selection.targets.is_empty() {
        return Ok(vec![true; plan.nodes.len()]);
    }
    let mut errors = Vec::new();
    let mut chosen = Vec::new();
    for target in &selection.targets {
        let matched = matching(plan, target);
        if matched.is_empty() {
            errors.push(unknown_target(plan, target));
        }
        chosen.extend(matched);
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    if selection.downstream {
        let below = plan.graph.reachable(chosen, Direction::Outgoing);
        chosen = plan.ids().filter(|id| below[id.index()]).collect();
    }
    if selection.only {
        let mut flags = vec![false; plan.nodes.len()];
        chosen.iter().for_each(|id| flags[id.index()] = true);
        return Ok(flags);
    }
    Ok(plan.graph.reachable(chosen, Direction::Incoming))
}

/// The nodes that a name or glob means. A name stands for itself first (sweep cells hold brackets), then for all cells of
/// the stage of that name, then it is a glob: `*` stands
/// for any text, `?` for one character, everything else, brackets included, for itself.
pub(crate) fn matching(plan: &Plan, target: &str) -> Vec<NodeId> {
    if let Some(id) = plan.find(target) {
        return vec![id];
    }
    let cells: Vec<NodeId> = plan
        .ids()
        .filter(|id| plan.node(*id).name.strip_prefix(target).is_some_and(|rest| rest.starts_with('[')))
        .collect();
    if !cells.is_empty() {
        return cells;
    }
    plan.ids().filter(|id| wildcard::fits(target, &plan.node(*id).name, ('*', '?'))).collect()
}

fn unknown_target(plan: &Plan, target: &str) -> Diagnostic {
    let error = Diagnostic::error("plan::unknown-target", format!("no stage matches `{target}`"));
    match nearest(target, plan.nodes.iter().map(|node| node.name.as_str())) {
        Some(name) => error.help(format!("did you mean `{name}`?")),
        None => {
            let names: Vec<&str> = plan.nodes.iter().take(12).map(|node| node.name.as_str()).collect();
            error.help(format!("stages: {}{}", names.join(", "), if plan.nodes.len() > 12 { ", ..." } else { "" }))
        }
    }
}
