//! `[profile.NAME]`: a partial manifest that is laid over the rest when a person asks for it. A profile that shrinks
//! steps and sizes makes a smoke test of an experiment.

use super::{field, merge};
use crate::diagnostic::Diagnostic;
use crate::value::{Table, Value, ValueKind};

/// What a profile cannot change.
const FIXED: [&str; 3] = ["extends", "profile", "sepia"];

/// Takes the profiles out of the table and lays the chosen one over it.
pub(super) fn apply(table: &mut Table, chosen: Option<&str>, found: &mut Vec<Diagnostic>) {
    let mut profiles = Table::default();
    if let Some(at) = table.entries.iter().position(|(key, _)| key.name == "profile") {
        let (key, value) = table.entries.remove(at);
        field::table(&key, &value, found);
        if let Value { kind: ValueKind::Table(inner), .. } = value {
            profiles = inner;
        }
    }
    for (key, value) in &profiles.entries {
        for (inner, _) in field::table(key, value, found).map_or(&[][..], |table| &table.entries) {
            if FIXED.contains(&inner.name.as_str()) {
                let message = format!("a profile cannot change `{}`", inner.name);
                let error = Diagnostic::error("manifest::profile", message).label(inner.span, "");
                found.push(error.help("move it to the top of the manifest"));
            }
        }
    }
    let Some(chosen) = chosen else { return };
    match profiles.entries.iter().position(|(key, _)| key.name == chosen) {
        Some(at) => {
            if let ValueKind::Table(over) = profiles.entries.swap_remove(at).1.kind {
                merge::merge(table, over);
            }
        }
        None => {
            let names: Vec<&str> = profiles.entries.iter().map(|(key, _)| key.name.as_str()).collect();
            let error = Diagnostic::error("manifest::unknown-profile", format!("there is no profile `{chosen}`"));
            found.push(if names.is_empty() {
                error.help(format!("the manifest has no profiles: add [profile.{chosen}]"))
            } else {
                field::unknown(error, chosen, &names, "the manifest has")
            });
        }
    }
}
