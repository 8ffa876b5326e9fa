//! The nodes of one stage: its table, once for each cell.

use std::sync::Arc;

use super::cells::{ABSENT, Own};
use super::fan::{Cells, Fan, Joined, Shown};
use super::wire::Done;
use crate::manifest::{InputDecl, StageDecl, Word};
use crate::value::{Key, Span};
use crate::wide;

/// An input port with the places its wires come from.
pub(super) struct Port {
    pub(super) port: Key,
    pub(super) from: Vec<Source>,
}

/// One reference of an input port.
pub(super) enum Source {
    /// The same for all cells.
    Same(Word),
    /// What the fan of this number gives to a cell.
    Fan { fan: usize, port: Option<String>, span: Span },
}

/// One node for each combination of inputs and cell of the stage's own. `stage` has no inputs of its own any more.
pub(super) fn nodes(
    stage: &StageDecl,
    own: &Own,
    joined: &Joined,
    axes: Vec<Shown>,
    ports: &[Port],
    fans: &[(&Fan, &Done)],
) -> Done {
    // A table is set before what lies inside it.
    let mut order: Vec<usize> = (0..own.axes.len()).collect();
    order.sort_by_key(|axis| own.axes.get(*axis).map(|axis| axis.path.len()));
    let origin: Arc<str> = stage.name.name.as_str().into();
    let count = joined.count * own.cells.len();
    let combinations: Vec<usize> = (0..joined.count).collect();
    let inputs = wide::map(&combinations, |combination| -> Vec<InputDecl> {
        let picks = joined.picks.get(combination * fans.len()..(combination + 1) * fans.len()).unwrap_or_default();
        ports.iter().map(|port| input(port, picks, fans)).collect()
    });
    let mut at = Vec::with_capacity(count * axes.len());
    let mut pairs = Vec::with_capacity(count);
    for (combination, inputs) in inputs.iter().enumerate() {
        let width = joined.axes.len();
        let inherited = joined.at.get(combination * width..(combination + 1) * width).unwrap_or_default();
        for cell in &own.cells {
            let first = at.len();
            at.extend_from_slice(inherited);
            at.extend_from_slice(&cell.at);
            pairs.push((inputs, cell, first..at.len()));
        }
    }
    let nodes = wide::map(&pairs, |(inputs, cell, at_of_node)| {
        let mut node = stage.clone();
        node.origin = Arc::clone(&origin);
        node.inputs.clone_from(inputs);
        for &axis in &order {
            let value = cell.at.get(axis).copied().unwrap_or(ABSENT);
            if let Some(point) = own.axes.get(axis).and_then(|axis| axis.points.get(value as usize)) {
                point.setting.apply(&mut node);
            }
        }
        for setting in cell.added.iter().filter_map(|number| own.added.get(*number as usize)).flatten() {
            setting.apply(&mut node);
        }
        name(&mut node, &axes, at.get(at_of_node.clone()).unwrap_or_default());
        node
    });
    Done { cells: Cells { axes, at, count }, nodes }
}

/// Gives a node its labels, in its name and as its cell.
fn name(node: &mut StageDecl, axes: &[Shown], at: &[u32]) {
    let labels = axes.iter().zip(at).filter_map(|(axis, at)| Some((axis, axis.labels.get(*at as usize)?)));
    node.cell = labels.map(|(axis, label)| (Arc::clone(&axis.name), Arc::clone(label))).collect();
    if node.cell.is_empty() {
        return;
    }
    let length = node.cell.iter().map(|(_, label)| label.len() + 1).sum::<usize>() + 1;
    node.name.name.reserve_exact(length);
    for (index, (_, label)) in node.cell.iter().enumerate() {
        node.name.name.push(if index == 0 { '[' } else { ',' });
        node.name.name.push_str(label);
    }
    node.name.name.push(']');
}

fn input(port: &Port, picks: &[usize], fans: &[(&Fan, &Done)]) -> InputDecl {
    let mut from = Vec::with_capacity(port.from.len());
    for source in &port.from {
        match source {
            Source::Same(word) => from.push(word.clone()),
            Source::Fan { fan, port, span } => {
                let Some((taken, done)) = fans.get(*fan) else { continue };
                let group = picks.get(*fan).and_then(|group| taken.groups.get(*group));
                for node in group.into_iter().flatten().filter_map(|cell| done.nodes.get(*cell)) {
                    from.push(Word { text: reference(&node.name.name, port.as_deref()), span: *span });
                }
            }
        }
    }
    InputDecl { port: port.port.clone(), from }
}

fn reference(node: &str, port: Option<&str>) -> String {
    match port {
        None => node.to_owned(),
        Some(port) => [node, port].join("."),
    }
}
