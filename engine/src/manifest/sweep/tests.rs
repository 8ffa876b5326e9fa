mod limits;
mod matrix;
mod wiring;

use std::fmt::Write as _;

use crate::diagnostic::{Sources, render};
use crate::manifest::{Load, Manifest, StageDecl};
use crate::value::{Table, ValueKind};

fn load(text: &str) -> String {
    let mut sources = Sources::default();
    match Manifest::load(&mut sources, "m.toml", text, &Load::default()) {
        Ok((manifest, warnings)) => {
            manifest.stages.iter().map(show).collect::<String>() + &render(&warnings, &sources, false)
        }
        Err(errors) => render(&errors, &sources, false),
    }
}

fn names(text: &str) -> String {
    let mut sources = Sources::default();
    match Manifest::load(&mut sources, "m.toml", text, &Load::default()) {
        Ok((manifest, _)) => manifest.stages.iter().map(|stage| stage.name.name.clone() + "\n").collect(),
        Err(errors) => render(&errors, &sources, false),
    }
}

/// A node on one line: name, inputs, seed, parameters.
fn show(node: &StageDecl) -> String {
    let mut text = node.name.name.clone();
    for input in &node.inputs {
        let from: Vec<&str> = input.from.iter().map(|word| word.text.as_str()).collect();
        let _ = write!(text, " {}<-{}", input.port.name, from.join("+"));
    }
    if let Some(seed) = node.seed {
        let _ = write!(text, " seed {seed}");
    }
    text + &rest(&node.rest) + "\n"
}

fn rest(table: &Table) -> String {
    let entry = |value: &ValueKind| match value {
        ValueKind::Table(inner) => format!("{{{} }}", rest(inner)),
        ValueKind::Integer(number) => number.to_string(),
        ValueKind::Float(number) => format!("{number:?}"),
        ValueKind::String(text) => text.clone(),
        other => other.describe(),
    };
    table.entries.iter().map(|(key, value)| format!(" {}={}", key.name, entry(&value.kind))).collect()
}
