//! Why a node would run, or ran: the fields in which its key differs from the closest earlier one.

use std::collections::{BTreeMap, btree_map::Entry};

use sepia_cache::{Attempted, ExecutionRow, Outcome, RecordsOf, Store, StoreError};
use serde::Serialize;

use crate::key::{FieldChange, KeyInputs, StageKey, diff};

/// The reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Reason {
    /// No stage of this name or kind has run here before.
    Never,
    /// This very key has run, but outputs of it are no longer in the store.
    OutputsGone,
    /// This very key has run elsewhere, and nobody who is trusted vouches for it.
    NotTrusted,
    /// This very key was tried, and did not finish.
    NotFinished {
        /// How it ended.
        outcome: String,
    },
    /// It differs from an earlier execution in these fields.
    Changed {
        /// Node and run of that execution.
        compared_with: String,
        /// The fields.
        changes: Vec<FieldChange>,
    },
}

/// How far back to look among the executions of one node.
const OF_NODE: usize = 200;

/// How far back to look among those of other nodes of its kind, where it has none. A sweep has thousands of nodes that all
/// look there.
const OF_KIND: usize = 24;

/// After so many nodes, what has been tried at all is read once: of a new sweep, thousands of nodes have no history.
const ONE_BY_ONE: u32 = 32;

type Earlier = Vec<(ExecutionRow, KeyInputs)>;

/// Finds the reasons of nodes, and remembers what many of them are compared with.
pub struct Reasons<'a> {
    store: &'a Store,
    before: Option<i64>,
    kinds: BTreeMap<String, Earlier>,
    asked: u32,
    /// What has been tried, once that was read.
    attempted: Option<Attempted>,
}

impl<'a> Reasons<'a> {
    /// Of nodes that would run with this store; or that ran, with what began before them (in Unix milliseconds).
    #[must_use]
    pub fn new(store: &'a Store, before: Option<i64>) -> Self {
        Self { store, before, kinds: BTreeMap::new(), asked: 0, attempted: None }
    }

    /// Compares a key, and what it was made of, with the closest earlier one: of the same node if there is one, the fewest fields changed, the newest.
    ///
    /// # Errors
    /// Those of the database.
    pub fn of(&mut self, node: &str, key: &StageKey, inputs: &KeyInputs) -> Result<Reason, StoreError> {
        self.asked = self.asked.saturating_add(1);
        if self.asked == ONE_BY_ONE {
            self.attempted = self.store.attempted()?;
        }
        let tried = |has: &dyn Fn(&Attempted) -> bool| self.attempted.as_ref().is_none_or(has);
        let same = if tried(&|all| all.keys.contains(&key.0)) {
            self.store.recent_key_inputs(RecordsOf::Key(&key.0), self.before, OF_NODE)?
        } else {
            Vec::new()
        };
        let mut good = same.iter().map(|(row, _)| row).filter(|row| row.outcome == Outcome::Done).peekable();
        if good.peek().is_some() {
            for row in good {
                if self.store.is_trusted(&row.record)? {
                    return Ok(Reason::OutputsGone);
                }
            }
            return Ok(Reason::NotTrusted);
        }
        if let Some((row, _)) = same.first() {
            return Ok(Reason::NotFinished { outcome: row.outcome.as_str().to_owned() });
        }
        if tried(&|all| all.nodes.contains(node)) {
            let own = earlier(self.store, RecordsOf::Node(node), self.before, OF_NODE)?;
            if let Some(reason) = closest(&own, inputs) {
                return Ok(reason);
            }
        }
        let others = match self.kinds.entry(inputs.kind.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                place.insert(earlier(self.store, RecordsOf::Kind(&inputs.kind), self.before, OF_KIND)?)
            }
        };
        Ok(closest(others, inputs).unwrap_or(Reason::Never))
    }
}

fn earlier(store: &Store, of: RecordsOf<'_>, before: Option<i64>, limit: usize) -> Result<Earlier, StoreError> {
    let found = store.recent_key_inputs(of, before, limit)?;
    Ok(found.into_iter().filter_map(|(row, value)| Some((row, serde_json::from_value(value).ok()?))).collect())
}

/// The fewest fields changed, the newest of those.
fn closest(earlier: &[(ExecutionRow, KeyInputs)], inputs: &KeyInputs) -> Option<Reason> {
    let differences = earlier.iter().map(|(row, other)| (row, diff(other, inputs)));
    let (row, changes) = differences.min_by_key(|(_, changes)| changes.len())?;
    Some(Reason::Changed { compared_with: format!("{} of run {}", row.node, row.run), changes })
}

impl Reason {
    /// In one line.
    #[must_use]
    pub fn summary(&self) -> String {
        match self {
            Reason::Never => "never ran here".to_owned(),
            Reason::OutputsGone => "its outputs are no longer in the store".to_owned(),
            Reason::NotTrusted => {
                "its results came from elsewhere, and nobody in `trusted_keys` has signed them".to_owned()
            }
            Reason::NotFinished { outcome } => format!("its last attempt did not finish ({outcome})"),
            Reason::Changed { changes, .. } => {
                let shown: Vec<String> = changes.iter().take(3).map(one_line).collect();
                let more = changes.len().saturating_sub(3);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!("changed: {}{more}", shown.join(", "))
            }
        }
    }
}

fn one_line(change: &FieldChange) -> String {
    let field = change.field.strip_prefix("params.").unwrap_or(&change.field);
    if change.field.starts_with("inputs.") || change.field.contains("$content") {
        let field = field.split(".$content").next().unwrap_or(field);
        return format!("content of {field}");
    }
    match (&change.before, &change.after) {
        (Some(before), Some(after)) => format!("{field} {before} -> {after}"),
        (Some(before), None) => format!("{field} {before} -> none"),
        (None, Some(after)) => format!("{field} none -> {after}"),
        (None, None) => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;
    use sepia_cache::{OpenMode, Record};
    use serde_json::json;

    use super::*;
    use crate::{key::KEY_SCHEMA, test_records};

    fn inputs(kind: &str, x: u32) -> KeyInputs {
        KeyInputs {
            schema: KEY_SCHEMA,
            kind: kind.into(),
            version: 1,
            params: json!({ "x": x }).into(),
            seed: None,
            inputs: BTreeMap::new(),
            device: None,
            dtype: None,
        }
    }

    fn tried(node: &str, inputs: &KeyInputs, outcome: Outcome) -> Record {
        let key_inputs = serde_json::to_value(inputs).unwrap();
        Record { key: inputs.key().0, key_inputs, outcome, ..test_records::done(&inputs.kind, node) }
    }

    /// Whether thousands are asked about at once, or one: the same reasons.
    #[test]
    fn reasons_do_not_depend_on_how_many_are_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap().join(".sepia");
        let store = Store::open(&root, OpenMode::Create).unwrap();
        let records = [
            tried("edited", &inputs("known", 1), Outcome::Done),
            tried("failed", &inputs("known", 2), Outcome::Failed),
            tried("gone", &inputs("known", 3), Outcome::Done),
        ];
        store.commit(&records).unwrap();
        let cases = [
            ("edited", inputs("known", 10), "changed: x 1 -> 10"),
            ("failed", inputs("known", 2), "its last attempt did not finish (failed)"),
            ("gone", inputs("known", 3), "its outputs are no longer in the store"),
            ("renamed", inputs("known", 3), "its outputs are no longer in the store"),
            ("new", inputs("known", 11), "changed: x 3 -> 11"),
            ("first of its kind", inputs("unknown", 1), "never ran here"),
        ];
        let mut many = Reasons::new(&store, None);
        for round in 0..=ONE_BY_ONE {
            for (node, inputs, expected) in &cases {
                assert_eq!(many.of(node, &inputs.key(), inputs).unwrap().summary(), *expected, "{node}, round {round}");
            }
        }
        assert!(many.attempted.is_some());
    }
}
