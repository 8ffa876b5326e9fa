//! One finished attempt, as it is kept for ever.
//!
//! A record is immutable. Its id is the digest of its canonical JSON in a domain of its own, so the same record has the
//! same id in every store, and merging two sets of records is the union of their ids. Records of failed attempts are kept
//! like those of good ones, but a look-up by key finds only the good ones.

pub(crate) mod canonical;
pub(crate) mod journal;
mod metrics;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use metrics::{Metrics, Series};

use crate::digest::Digest;
use crate::error::{Result, StoreError};
use crate::object::ObjectRef;
use canonical::canonical_json;

/// The version of [`Record`] that this code writes, and the newest it reads.
pub const RECORD_SCHEMA: u32 = 1;

const DOMAIN: &str = "sepia 2026 record v1";

/// The id of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordId(pub Digest);

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RecordId {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self> {
        text.parse().map(Self)
    }
}

impl RecordId {
    /// The id of the record with this canonical JSON.
    #[must_use]
    pub fn of(canonical: &str) -> Self {
        Self(Digest::derive(DOMAIN, canonical.as_bytes()))
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It left all its outputs.
    Done,
    /// It reported an error, or its process died.
    Failed,
    /// It was asked to stop.
    Stopped,
    /// It took longer than it was allowed to.
    TimedOut,
}

impl Outcome {
    /// As it is written: `done`, `failed`, `stopped`, `timed-out`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::TimedOut => "timed-out",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Done, Self::Failed, Self::Stopped, Self::TimedOut].into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// An output of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordOutput {
    /// The stage's name for it.
    pub port: String,
    /// Where its bytes are.
    pub object: ObjectRef,
}

/// An input of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordInput {
    /// The stage's name for it.
    pub port: String,
    /// Its place, if the port takes several; else 0.
    pub position: u32,
    /// Its content.
    pub digest: Digest,
    /// The key of the attempt that made it; `None` for a file from outside.
    pub from_key: Option<Digest>,
}

/// One finished attempt: what was run, with what, what came of it, and what it cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_SCHEMA`] of the Sepia that wrote it.
    pub schema: u32,
    /// The key it was computed under.
    pub key: Digest,
    /// What the key was made of, as the engine wrote it, so that two keys can be compared.
    pub key_inputs: Value,
    /// The kind of the stage.
    pub kind: String,
    /// The version of that kind.
    pub stage_version: u32,
    /// The name of the node in its manifest.
    pub node: String,
    /// The run it belongs to.
    pub run: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What it said, if it did not end well.
    pub error: Option<String>,
    /// Unix milliseconds.
    pub started_at: i64,
    /// How long it took, in seconds.
    pub wall_seconds: f64,
    /// Processor time of its process, in seconds.
    pub cpu_seconds: f64,
    /// The most memory its process had, in bytes.
    pub peak_memory_bytes: u64,
    /// The seed it was given.
    pub seed: u64,
    /// Its parameters, defaults filled in.
    pub params: Map<String, Value>,
    /// What it read.
    pub inputs: Vec<RecordInput>,
    /// What it left.
    pub outputs: Vec<RecordOutput>,
    /// What it measured.
    pub metrics: Metrics,
    /// Host, versions, git state: whatever may explain a difference later.
    pub provenance: Value,
}

impl Record {
    /// The canonical JSON: keys sorted at every depth, inputs and outputs sorted by port, no white space. Equal records
    /// have equal canonical JSON.
    ///
    /// # Errors
    /// [`StoreError::BadRecord`] for what JSON or the database cannot hold: durations that are not finite, integers above
    /// `i64::MAX` where the database counts with them, two outputs on one port.
    pub fn canonical(&self) -> Result<String> {
        self.normalised()?.canonical_of_normalised()
    }

    /// The id: a digest of [`Record::canonical`].
    ///
    /// # Errors
    /// As [`Record::canonical`].
    pub fn id(&self) -> Result<RecordId> {
        Ok(RecordId::of(&self.canonical()?))
    }

    pub(crate) fn canonical_of_normalised(&self) -> Result<String> {
        let value = serde_json::to_value(self).map_err(|e| self.bad(e.to_string()))?;
        Ok(canonical_json(&value))
    }

    /// The record in the one form that equal records share.
    pub(crate) fn normalised(&self) -> Result<Self> {
        let mut record = self.clone();
        record.inputs.sort_unstable_by(|a, b| (&a.port, a.position).cmp(&(&b.port, b.position)));
        record.outputs.sort_unstable_by(|a, b| a.port.cmp(&b.port));
        record.metrics.normalise();
        for seconds in [&mut record.wall_seconds, &mut record.cpu_seconds] {
            if !seconds.is_finite() {
                return Err(self.bad(format!("a duration of {seconds} s is not a number that can be kept")));
            }
            // -0.0 + 0.0 is 0.0: SQLite does not keep the sign of zero.
            *seconds += 0.0;
        }
        if record.inputs.windows(2).any(|two| two[0].port == two[1].port && two[0].position == two[1].position) {
            return Err(self.bad("two inputs have the same port and position"));
        }
        if record.outputs.windows(2).any(|two| two[0].port == two[1].port) {
            return Err(self.bad("two outputs have the same port"));
        }
        let counts = record.outputs.iter().flat_map(|output| [output.object.bytes, output.object.files]);
        if counts.chain([record.peak_memory_bytes, record.metrics.last_step()]).any(|n| i64::try_from(n).is_err()) {
            return Err(self.bad("a size, count or step is above 2^63"));
        }
        Ok(record)
    }

    fn bad(&self, why: impl Into<String>) -> StoreError {
        StoreError::BadRecord { node: self.node.clone(), why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_support::{Fixture, any_record, record};

    #[test]
    fn an_id_never_changes() {
        // Ids are names in other people's stores: should this fail, the canonical form has changed, and RECORD_SCHEMA and
        // DOMAIN have to change with it.
        let record = record("x", &[]);
        assert_eq!(
            record.id().unwrap().to_string(),
            "2217afca69548f74a9f36aef64556de96960b8313fed038bcfb3633a515d1e74"
        );
    }

    #[test]
    fn order_does_not_matter_and_content_does() {
        let one = record("x", &[]);
        let mut other = one.clone();
        other.inputs.reverse();
        assert_eq!(one.id().unwrap(), other.id().unwrap());
        other.seed = 1;
        assert_ne!(one.id().unwrap(), other.id().unwrap());
    }

    #[test]
    fn the_last_value_of_a_step_counts() {
        let mut metrics = Metrics::default();
        metrics.push("loss", Some(2), 1.0);
        metrics.push("loss", Some(1), 2.0);
        metrics.push("loss", Some(2), 3.0);
        metrics.push("loss", None, 4.0);
        metrics.normalise();
        let points: Vec<_> = metrics.get("loss").unwrap().points().collect();
        assert_eq!(points, [(None, 4.0), (Some(1), 2.0), (Some(2), 3.0)]);
    }

    #[test]
    fn what_cannot_be_kept_is_refused_with_the_node() {
        type Spoil = fn(&mut Record);
        let spoils: [Spoil; 6] = [
            |r| r.wall_seconds = f64::NAN,
            |r| r.cpu_seconds = f64::INFINITY,
            |r| r.peak_memory_bytes = u64::MAX,
            |r| r.metrics.push("loss", Some(u64::MAX), 1.0),
            |r| r.outputs.push(r.outputs[0].clone()),
            |r| r.inputs.push(r.inputs[0].clone()),
        ];
        let fixture = Fixture::new();
        let good = record("x", &[("model", fixture.object(b"x"))]);
        for spoil in spoils {
            let mut bad = good.clone();
            spoil(&mut bad);
            let error = fixture.store.commit(&[good.clone(), bad]).unwrap_err();
            assert!(matches!(error, StoreError::BadRecord { ref node, .. } if node == "node-x"), "{error}");
        }
        // Nothing of the good one was written either.
        assert!(fixture.store.executions().unwrap().is_empty());
        assert!(!fixture.store.layout.records("run-1").exists());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn equal_records_have_equal_ids_whatever_the_order(record in any_record(), seed: u64) {
            let mut other = record.clone();
            other.outputs.reverse();
            other.inputs.rotate_left(usize::from(!record.inputs.is_empty()));
            // Maps are built in another order, as they would be with insertion-ordered maps.
            other.params = record.params.iter().rev().map(|(name, value)| (name.clone(), value.clone())).collect();
            prop_assert_eq!(record.id().unwrap(), other.id().unwrap());
            let mut different = record.clone();
            different.seed = seed;
            prop_assert_eq!(record.id().unwrap() == different.id().unwrap(), record.seed == seed);
        }

        #[test]
        fn json_and_the_database_give_the_same_record_back(records in prop::collection::vec(any_record(), 1..4)) {
            let fixture = Fixture::new();
            let ids = fixture.store.commit(&records).unwrap();
            for (id, record) in ids.iter().zip(&records) {
                let read: Record = serde_json::from_str(&record.canonical().unwrap()).unwrap();
                prop_assert_eq!(&read.id().unwrap(), id);
                prop_assert_eq!(&read, &record.normalised().unwrap());
                let stored = fixture.store.record(id).unwrap().unwrap();
                prop_assert_eq!(&stored.id().unwrap(), id);
                prop_assert_eq!(&stored, &read);
            }
        }
    }
}
