//! Records for tests.

use sepia_cache::{Digest, Metrics, Outcome, RECORD_SCHEMA, Record};
use serde_json::json;

/// A good execution without parameters, inputs, outputs or metrics. Its key is made of kind and node.
pub(crate) fn done(kind: &str, node: &str) -> Record {
    Record {
        schema: RECORD_SCHEMA,
        key: Digest::of_bytes(format!("{kind} {node}").as_bytes()),
        key_inputs: json!({}),
        kind: kind.into(),
        stage_version: 1,
        node: node.into(),
        run: "run-1".into(),
        outcome: Outcome::Done,
        error: None,
        started_at: 1_700_000_000_000,
        wall_seconds: 1.0,
        cpu_seconds: 1.0,
        peak_memory_bytes: 1,
        seed: 0,
        params: serde_json::Map::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        metrics: Metrics::default(),
        provenance: json!({}),
    }
}
