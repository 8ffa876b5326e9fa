//! What the programs that test and measure the store share.

use sepia_cache::{Digest, Metrics, Outcome, RECORD_SCHEMA, Record};
use serde_json::json;

/// A good record that says no more than it must; what a test is about is laid over it.
pub(crate) fn bare_record(key: Digest, run: impl Into<String>, node: impl Into<String>) -> Record {
    Record {
        schema: RECORD_SCHEMA,
        key,
        key_inputs: json!({}),
        kind: "test".into(),
        stage_version: 1,
        node: node.into(),
        run: run.into(),
        outcome: Outcome::Done,
        error: None,
        started_at: 1,
        wall_seconds: 0.0,
        cpu_seconds: 0.0,
        peak_memory_bytes: 0,
        seed: 0,
        params: serde_json::Map::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        metrics: Metrics::default(),
        provenance: json!(null),
    }
}
