//! Why a node would run, or ran: the fields in which its key differs from the closest earlier one.

use sepia_cache::{ExecutionRow, Store, StoreError};
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

/// How far back to look.
const CANDIDATES: usize = 200;

/// Compares a key with the closest earlier one: of the same node if there is one, the fewest fields changed, the newest.
///
/// # Errors
/// Those of the database.
pub fn reason(store: &Store, node: &str, inputs: &KeyInputs, before_record: Option<i64>) -> Result<Reason, StoreError> {
    let key = inputs.key();
    let earlier = store.recent_key_inputs(node, &inputs.kind, CANDIDATES)?;
    let earlier: Vec<(ExecutionRow, KeyInputs)> = earlier
        .into_iter()
        .filter(|(row, _)| before_record.is_none_or(|before| row.started_at < before))
        .filter_map(|(row, value)| Some((row, serde_json::from_value(value).ok()?)))
        .collect();
    let same: Vec<&ExecutionRow> = earlier.iter().map(|(row, _)| row).filter(|row| StageKey(row.key) == key).collect();
    let mut good = same.iter().filter(|row| row.outcome == sepia_cache::Outcome::Done).peekable();
    if good.peek().is_some() {
        for row in good {
            if store.is_trusted(&row.record)? {
                return Ok(Reason::OutputsGone);
            }
        }
        return Ok(Reason::NotTrusted);
    }
    if let Some(row) = same.first() {
        return Ok(Reason::NotFinished { outcome: row.outcome.as_str().to_owned() });
    }
    let closest = earlier
        .iter()
        .map(|(row, other)| (row.node != node, diff(other, inputs), row))
        .min_by_key(|(other_node, changes, _)| (*other_node, changes.len()));
    Ok(match closest {
        Some((_, changes, row)) => {
            Reason::Changed { compared_with: format!("{} of run {}", row.node, row.run), changes }
        }
        None => Reason::Never,
    })
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
