//! `[defaults.KIND]`: what every stage of a kind has unless it says otherwise.

use std::collections::{BTreeMap, BTreeSet};

use super::{field, merge};
use crate::diagnostic::Diagnostic;
use crate::value::{Key, Table, Value, ValueKind};

/// Takes the defaults out of the table and lays every stage over those of its kind.
pub(super) fn apply(table: &mut Table, known: &[&str], found: &mut Vec<Diagnostic>) {
    let Some(at) = table.entries.iter().position(|(key, _)| key.name == "defaults") else { return };
    let (key, value) = table.entries.remove(at);
    let Some(defaults) = field::table(&key, &value, found) else { return };
    let usable: Vec<&(Key, Value)> =
        defaults.entries.iter().filter(|(kind, value)| check(kind, value, found)).collect();

    let stages = table.entries.iter_mut().find(|(key, _)| key.name == "stages");
    let by_kind: BTreeMap<&str, usize> =
        usable.iter().enumerate().map(|(at, (kind, _))| (kind.name.as_str(), at)).collect();
    let mut kinds: BTreeSet<String> = BTreeSet::new();
    let mut used = vec![false; usable.len()];
    if let Some((_, Value { kind: ValueKind::Table(stages), .. })) = stages {
        for (_, stage) in &mut stages.entries {
            let ValueKind::Table(stage) = &mut stage.kind else { continue };
            let Some(kind) = stage.get("kind").and_then(Value::as_str) else { continue };
            if let Some(at) = by_kind.get(kind).copied()
                && let Some((_, Value { kind: ValueKind::Table(defaults), .. })) = usable.get(at)
            {
                used[at] = true;
                let over = std::mem::replace(stage, defaults.clone());
                merge::merge(stage, over);
            } else {
                kinds.insert(kind.to_owned());
            }
        }
    }
    for ((kind, _), _) in usable.iter().zip(used).filter(|(_, used)| !used) {
        if !known.is_empty() && !known.contains(&kind.name.as_str()) {
            let message = format!("there is no stage kind `{}`, so that it has no defaults", kind.name);
            let error = Diagnostic::error("manifest::unknown-kind", message).label(kind.span, "");
            found.push(field::unknown(error, &kind.name, known, "there are"));
            continue;
        }
        let message = format!("no stage is of the kind `{}`: these defaults change nothing", kind.name);
        let warning = Diagnostic::warning("manifest::unused-defaults", message).label(kind.span, "");
        let warning = field::unknown_of_many(
            warning,
            &kind.name,
            kinds.iter().map(String::as_str),
            "kinds without defaults",
            found,
        );
        found.push(warning);
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
