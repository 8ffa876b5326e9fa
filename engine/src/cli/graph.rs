//! `sepia graph`.

use std::fmt::Write as _;

use super::{
    args::{self, Global, GraphFormat},
    exit::{Exit, Failure},
    output, project,
};
use crate::{
    exec::{Forecast, forecast},
    graph::NodeId,
    plan::Plan,
    stage::Registry,
};

pub(super) fn graph(registry: Registry, global: &Global, args: &args::Graph) -> Result<Exit, Failure> {
    let project = project::load(registry, &args.source.manifest, &args.source.changes)?;
    let plan = &project.plan;
    let states = states(global, &args.source.manifest, plan);
    output::data(&match args.format {
        GraphFormat::Tree => tree(plan, &states),
        GraphFormat::Dot => dot(plan, &states),
        GraphFormat::Mermaid => mermaid(plan, &states),
    });
    Ok(Exit::Fine)
}

/// What a run would find, as one word a node; "run" everywhere where there is no store.
fn states(global: &Global, manifest: &camino::Utf8Path, plan: &Plan) -> Vec<&'static str> {
    let all = vec![true; plan.nodes.len()];
    let none = vec![false; plan.nodes.len()];
    let looked =
        project::existing_store(global, Some(manifest)).ok().and_then(|store| forecast(plan, &store, &all, &none).ok());
    let Some(forecasts) = looked else { return vec!["run"; plan.nodes.len()] };
    let word = |forecast: &Forecast| match forecast {
        Forecast::Cached(_) => "cached",
        Forecast::Run(..) | Forecast::Outside => "run",
        Forecast::Unknown(_) => "unknown",
    };
    forecasts.iter().map(word).collect()
}

/// Each node below the one that it waits for longest, so that every node stands there once; its other inputs are named.
fn tree(plan: &Plan, states: &[&str]) -> String {
    let mut parent: Vec<Option<NodeId>> = vec![None; plan.nodes.len()];
    let mut level = vec![0usize; plan.nodes.len()];
    for id in plan.graph.order() {
        let deepest = plan
            .graph
            .dependencies(*id)
            .into_iter()
            .max_by_key(|needed| (level[needed.index()], std::cmp::Reverse(*needed)));
        if let Some(deepest) = deepest {
            level[id.index()] = level[deepest.index()] + 1;
            parent[id.index()] = Some(deepest);
        }
    }
    let mut children: Vec<Vec<NodeId>> = vec![Vec::new(); plan.nodes.len()];
    let mut roots = Vec::new();
    for id in plan.ids() {
        match parent[id.index()] {
            Some(parent) => children[parent.index()].push(id),
            None => roots.push(id),
        }
    }
    let mut out = String::new();
    // A stack instead of recursion: chains may be thousands deep. Indentation stops growing at 40 levels.
    let mut stack: Vec<(NodeId, Vec<bool>)> = roots.into_iter().rev().map(|root| (root, Vec::new())).collect();
    while let Some((id, bars)) = stack.pop() {
        let node = plan.node(id);
        for (at, more) in bars.iter().enumerate().skip(bars.len().saturating_sub(40)) {
            let last = at + 1 == bars.len();
            out.push_str(match (last, more) {
                (true, true) => "├─ ",
                (true, false) => "└─ ",
                (false, true) => "│  ",
                (false, false) => "   ",
            });
        }
        let others: Vec<&str> = plan
            .graph
            .dependencies(id)
            .into_iter()
            .filter(|needed| Some(*needed) != parent[id.index()])
            .map(|needed| plan.node(needed).name.as_str())
            .collect();
        let also = if others.is_empty() { String::new() } else { format!(" + {}", others.join(", ")) };
        let _ = writeln!(out, "{} ({}) [{}]{also}", node.name, node.entry.kind, states[id.index()]);
        let below = &children[id.index()];
        for (at, child) in below.iter().enumerate().rev() {
            let mut bars = bars.clone();
            bars.push(at + 1 < below.len());
            stack.push((*child, bars));
        }
    }
    out
}

fn dot(plan: &Plan, states: &[&str]) -> String {
    let mut out = String::from(
        "digraph sepia {\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\"];\n",
    );
    for id in plan.ids() {
        let node = plan.node(id);
        let colour = match states[id.index()] {
            "cached" => "#d5ecd4",
            "unknown" => "#eeeeee",
            _ => "#fdebc8",
        };
        let _ = writeln!(
            out,
            "  n{} [label={}, fillcolor=\"{colour}\"];",
            id.0,
            quoted(&format!("{}\\n{}", node.name, node.entry.kind))
        );
    }
    for id in plan.ids() {
        for wire in &plan.node(id).wires {
            let _ = writeln!(out, "  n{} -> n{} [label={}];", wire.from.0, id.0, quoted(&wire.port));
        }
    }
    out.push_str("}\n");
    out
}

fn mermaid(plan: &Plan, states: &[&str]) -> String {
    let mut out = String::from("flowchart LR\n");
    for id in plan.ids() {
        let node = plan.node(id);
        let _ = writeln!(
            out,
            "  n{}[{}]:::{}",
            id.0,
            quoted(&format!("{}<br/>{}", node.name, node.entry.kind)),
            states[id.index()]
        );
    }
    for id in plan.ids() {
        for wire in &plan.node(id).wires {
            let _ = writeln!(out, "  n{} -->|{}| n{}", wire.from.0, wire.port, id.0);
        }
    }
    out.push_str("  classDef cached fill:#d5ecd4\n  classDef run fill:#fdebc8\n  classDef unknown fill:#eeeeee\n");
    out
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "'"))
}
