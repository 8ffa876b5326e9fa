//! Lists of nodes with their keys, each kept once for all runs that have the same.
//!
//! A run in which nothing changed has the nodes and keys of the one before it, so it costs a digest and a look, not a
//! row for each node. Plans are kept as files too (`plans/<digest>.json`), from which the database can be rebuilt.

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::digest::Digest;
use crate::error::Result;
use crate::layout::write_atomically;
use crate::store::Store;

const DOMAIN: &str = "sepia 2026 plan listing v1";

/// A node of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanNode {
    /// Its name.
    pub node: String,
    /// Its key, if it became known.
    pub key: Option<Digest>,
}

impl Store {
    /// Keeps a listing of nodes, once for all runs that have the same.
    ///
    /// # Errors
    /// Those of writing.
    pub fn save_plan(&self, nodes: &[PlanNode]) -> Result<Digest> {
        self.writable("write", &self.layout.folder("plans"))?;
        let listing = plan_listing(nodes);
        let plan = Digest::derive(DOMAIN, listing.as_bytes());
        let known = self.database.with(|connection| {
            connection.prepare_cached("SELECT 1 FROM plans WHERE plan = ?")?.exists([plan.to_string()])
        })?;
        if !known {
            write_atomically(&self.layout.plan(&plan), listing.as_bytes())?;
            self.database.with(|connection| insert_plan(connection, &plan, nodes.len(), &listing))?;
        }
        Ok(plan)
    }

    /// The nodes of a plan.
    ///
    /// # Errors
    /// [`StoreError::NotFound`](crate::StoreError::NotFound), and those of reading.
    pub fn plan(&self, plan: &Digest) -> Result<Vec<PlanNode>> {
        let text = plan.to_string();
        let listing: Option<String> = self.database.with(|connection| {
            connection
                .prepare_cached("SELECT listing FROM plans WHERE plan = ?")?
                .query_row([&text], |row| row.get(0))
                .optional()
        })?;
        listing.and_then(|listing| parse_plan(&listing, plan)).ok_or_else(|| self.not_found("plan", &text))
    }
}

/// `[["node","key or empty"],...]`, written by hand: a run with nothing to do spends most of its time here otherwise.
fn plan_listing(nodes: &[PlanNode]) -> String {
    let mut listing = String::with_capacity(nodes.len() * 96 + 2);
    listing.push('[');
    for (i, PlanNode { node, key }) in nodes.iter().enumerate() {
        listing.push_str(if i > 0 { ",[" } else { "[" });
        // A string always serialises.
        listing.push_str(&serde_json::to_string(node).unwrap_or_default());
        listing.push_str(",\"");
        if let Some(key) = key {
            listing.push_str(&key.hex());
        }
        listing.push_str("\"]");
    }
    listing.push(']');
    listing
}

/// Reads a listing, if it is the one that `plan` names.
pub(crate) fn parse_plan(listing: &str, plan: &Digest) -> Option<Vec<PlanNode>> {
    if Digest::derive(DOMAIN, listing.as_bytes()) != *plan {
        return None;
    }
    let pairs: Vec<(String, String)> = serde_json::from_str(listing).ok()?;
    Some(pairs.into_iter().map(|(node, key)| PlanNode { node, key: key.parse().ok() }).collect())
}

pub(super) fn insert_plan(connection: &Connection, plan: &Digest, nodes: usize, listing: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT OR IGNORE INTO plans VALUES (?,?,?)")?.execute(params![
        plan.to_string(),
        nodes,
        listing
    ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Fixture, key};

    #[test]
    fn runs_with_the_same_nodes_share_a_plan() {
        let f = Fixture::new();
        let nodes: Vec<_> =
            (0..100).map(|i| PlanNode { node: format!("n{i}"), key: (i % 2 == 0).then(|| key("k")) }).collect();
        let plan = f.store.save_plan(&nodes).unwrap();
        assert_eq!(f.store.save_plan(&nodes).unwrap(), plan);
        assert_eq!(f.store.plan(&plan).unwrap(), nodes);
        assert_ne!(f.store.save_plan(&nodes[1..]).unwrap(), plan);
        let stored: i64 = f.store.query(|c| c.query_row("SELECT count(*) FROM plans", [], |row| row.get(0))).unwrap();
        assert_eq!(stored, 2);
        // What is written by hand is what serde_json would write.
        let pairs: Vec<(String, String)> = serde_json::from_str(&plan_listing(&nodes)).unwrap();
        assert_eq!(serde_json::to_string(&pairs).unwrap(), plan_listing(&nodes));
    }
}
