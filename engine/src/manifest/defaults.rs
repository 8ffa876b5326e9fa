//! `[defaults.KIND]`: what every stage of a kind has unless it says otherwise.

use super::{field, merge};
use crate::diagnostic::Diagnostic;
use crate::value::{Key, Table, Value, ValueKind};

/// Takes the defaults out of the table and lays every stage over those of its kind.
pub(super) fn apply(table: &mut Table, found: &mut Vec<Diagnostic>) {
    let Some(at) = table.entries.iter().position(|(key, _)| key.name == "defaults") else { return };
    let (key, value) = table.entries.remove(at);
    let Some(defaults) = field::table(&key, &value, found) else { return };
    let usable: Vec<&(Key, Value)> =
        defaults.entries.iter().filter(|(kind, value)| check(kind, value, found)).collect();

    let stages = table.entries.iter_mut().find(|(key, _)| key.name == "stages");
    let mut kinds: Vec<String> = Vec::new();
    let mut used = vec![false; usable.len()];
    if let Some((_, Value { kind: ValueKind::Table(stages), .. })) = stages {
        for (_, stage) in &mut stages.entries {
            let ValueKind::Table(stage) = &mut stage.kind else { continue };
            let Some(kind) = stage.get("kind").and_then(Value::as_str) else { continue };
            if let Some(at) = usable.iter().position(|(key, _)| key.name == kind)
                && let Some((_, Value { kind: ValueKind::Table(defaults), .. })) = usable.get(at)
            {
                used[at] = true;
                let over = std::mem::replace(stage, defaults.clone());
                merge::merge(stage, over);
            } else if !kinds.iter().any(|one| one == kind) {
                kinds.push(kind.to_owned());
            }
        }
    }
    for ((kind, _), _) in usable.iter().zip(used).filter(|(_, used)| !used) {
        let message = format!("no stage is of the kind `{}`: these defaults change nothing", kind.name);
        let warning = Diagnostic::warning("manifest::unused-defaults", message).label(kind.span, "");
        found.push(field::unknown(warning, &kind.name, &kinds, "kinds without defaults"));
    }
}

fn check(kind: &Key, value: &Value, found: &mut Vec<Diagnostic>) -> bool {
    let Some(table) = field::table(kind, value, found) else { return false };
    if let Some((key, _)) = table.entry("kind") {
        let error = Diagnostic::error("manifest::defaults", "defaults cannot set `kind`: they are chosen by it");
        found.push(error.label(key.span, "").help("remove the line"));
        return false;
    }
    true
}
