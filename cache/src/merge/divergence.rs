//! Keys with different outputs: what should be reproducible and is not.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::error::Result;
use crate::object::ObjectRef;
use crate::record::{Record, RecordId};
use crate::store::Store;

/// A key whose good executions left different outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Divergence {
    /// The key.
    pub key: Digest,
    /// The stage kind.
    pub kind: String,
    /// Sets of outputs, the one that was made first first.
    pub variants: Vec<Variant>,
}

/// Executions with the same outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// The outputs by port, sorted.
    pub outputs: Vec<(String, ObjectRef)>,
    /// The executions, oldest first.
    pub records: Vec<(RecordId, Record)>,
}

impl Store {
    /// All divergences, sorted by key.
    ///
    /// # Errors
    /// Those of the database.
    pub fn divergences(&self) -> Result<Vec<Divergence>> {
        let keys: Vec<Digest> = self.database.with(|connection| {
            connection
                .prepare("SELECT DISTINCT key FROM divergences ORDER BY key")?
                .query_map([], |row| crate::database::digest(row, 0))?
                .collect()
        })?;
        keys.iter().map(|key| self.divergence(key)).collect()
    }

    fn divergence(&self, key: &Digest) -> Result<Divergence> {
        let mut records = Vec::new();
        for id in self.records_by_key(key)? {
            if let Some(record) = self.record(&id)?
                && record.outcome == crate::record::Outcome::Done
            {
                records.push((id, record));
            }
        }
        // By what identifies it everywhere, so that two stores with the same records list the same.
        records.sort_by_key(|a| (a.1.started_at, a.0));
        let kind = records.first().map(|(_, record)| record.kind.clone()).unwrap_or_default();
        let mut places: BTreeMap<Vec<(String, ObjectRef)>, usize> = BTreeMap::new();
        let mut variants: Vec<Variant> = Vec::new();
        for (id, record) in records {
            let outputs: Vec<_> = record.outputs.iter().map(|output| (output.port.clone(), output.object)).collect();
            let place = *places.entry(outputs.clone()).or_insert(variants.len());
            if place == variants.len() {
                variants.push(Variant { outputs, records: Vec::new() });
            }
            if let Some(variant) = variants.get_mut(place) {
                variant.records.push((id, record));
            }
        }
        Ok(Divergence { key: *key, kind, variants })
    }
}
