//! What the tests of several modules share.

use camino::{Utf8Path, Utf8PathBuf};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    Digest, Metrics, ObjectKind, ObjectRef, OpenMode, Outcome, RECORD_SCHEMA, Record, RecordInput, RecordOutput, Store,
    hash_output,
};

/// A folder with a store in it, removed at the end.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) root: Utf8PathBuf,
    _folder: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        let store = Store::open(&root.join(".sepia"), OpenMode::Create).unwrap();
        Self { store, root, _folder: folder }
    }

    /// The same store once more, as another process would open it.
    pub(crate) fn again(&self) -> Store {
        Store::open(self.store.root(), OpenMode::Existing).unwrap()
    }

    /// Closes the store, lets `work` do what it likes with the folder, and opens it again.
    pub(crate) fn reopen(&mut self, work: impl FnOnce(&Utf8Path)) {
        let root = self.store.root().to_owned();
        // Dropping the store closes the database; the stand-in keeps the field filled meanwhile.
        let elsewhere = tempfile::tempdir().unwrap();
        let stand_in = Utf8Path::from_path(elsewhere.path()).unwrap().join("s");
        self.store = Store::open(&stand_in, OpenMode::Create).unwrap();
        work(&root);
        self.store = Store::open(&root, OpenMode::Existing).unwrap();
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> Utf8PathBuf {
        let path = self.root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// A folder with these files; a name that ends with `/` is an empty folder.
    pub(crate) fn tree(&self, name: &str, files: &[(&str, &[u8])]) -> Utf8PathBuf {
        let top = self.root.join(name);
        std::fs::create_dir_all(&top).unwrap();
        for (name, bytes) in files {
            if let Some(folder) = name.strip_suffix('/') {
                std::fs::create_dir_all(top.join(folder)).unwrap();
            } else {
                let path = top.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
        }
        top
    }

    /// Inserts what is at a path.
    pub(crate) fn insert(&self, path: &Utf8Path) -> ObjectRef {
        self.store.insert(path, &hash_output(path).unwrap()).unwrap()
    }

    /// Inserts a file with these bytes.
    pub(crate) fn object(&self, bytes: &[u8]) -> ObjectRef {
        self.insert(&self.file("output", bytes))
    }
}

pub(crate) fn key(text: &str) -> Digest {
    Digest::derive("sepia test key", text.as_bytes())
}

/// A good record for the key of `text`.
pub(crate) fn record(text: &str, outputs: &[(&str, ObjectRef)]) -> Record {
    let mut metrics = Metrics::default();
    metrics.push("loss", Some(0), 5.5);
    metrics.push("loss", Some(10), f64::NAN);
    metrics.push("loss", Some(20), f64::NEG_INFINITY);
    metrics.push("parameters", None, 1e6);
    Record {
        schema: RECORD_SCHEMA,
        key: key(text),
        key_inputs: json!({"kind": "pretrain", "seed": 1, "params": {"lr": 0.001}}),
        kind: "pretrain".into(),
        stage_version: 1,
        node: format!("node-{text}"),
        run: "run-1".into(),
        outcome: Outcome::Done,
        error: None,
        started_at: 1_700_000_000_000,
        wall_seconds: 1.5,
        cpu_seconds: 2.25,
        peak_memory_bytes: 1 << 30,
        seed: u64::MAX,
        params:
            json!({"model": {"rank": 8, "tied": false}, "lr": 0.001, "betas": [0.9, 0.95], "name": "x", "none": null})
                .as_object()
                .unwrap()
                .clone(),
        inputs: vec![
            RecordInput { port: "data".into(), position: 1, digest: key("b"), from_key: None },
            RecordInput { port: "data".into(), position: 0, digest: key("a"), from_key: Some(key("k")) },
        ],
        outputs: outputs.iter().map(|(port, object)| RecordOutput { port: (*port).into(), object: *object }).collect(),
        metrics,
        provenance: json!({"host": "h", "git": {"commit": "c", "dirty": true}}),
    }
}

pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,4}", inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_object() -> impl Strategy<Value = ObjectRef> {
    (any::<[u8; 32]>(), any::<bool>(), 0..=i64::MAX as u64, 0..=i64::MAX as u64).prop_map(
        |(digest, tree, bytes, files)| ObjectRef {
            digest: Digest::from_bytes(digest),
            kind: if tree { ObjectKind::Tree } else { ObjectKind::File },
            bytes,
            files,
        },
    )
}

prop_compose! {
    /// Records of all kinds, with everything in them that can be kept.
    pub(crate) fn any_record()(
        (keys, run, node, error) in (any::<[u8; 32]>(), "[a-z0-9]{1,3}", ".{0,8}", prop::option::of(".{0,8}")),
        (version, outcome, started_at) in (any::<u32>(), 0..4usize, any::<i64>()),
        (wall, cpu, memory, seed) in (0.0..1e9f64, -0.0..1e9f64, 0..=i64::MAX as u64, any::<u64>()),
        (key_inputs, params, provenance) in (any_json(), any_json(), any_json()),
        inputs in prop::collection::btree_map(("[a-c]", any::<u32>()), (any::<[u8; 32]>(), any::<bool>()), 0..4),
        outputs in prop::collection::btree_map(".{0,3}", any_object(), 0..4),
        points in prop::collection::vec((".{0,2}", prop::option::of(0..=i64::MAX as u64), any::<f64>()), 0..20),
    ) -> Record {
        let outcomes = [Outcome::Done, Outcome::Failed, Outcome::Stopped, Outcome::TimedOut];
        let mut metrics = Metrics::default();
        for (name, step, value) in points {
            metrics.push(&name, step, value);
        }
        Record {
            schema: RECORD_SCHEMA,
            key: Digest::from_bytes(keys),
            key_inputs,
            kind: "k".into(),
            stage_version: version,
            node,
            run,
            outcome: outcomes[outcome],
            error,
            started_at,
            wall_seconds: wall,
            cpu_seconds: cpu,
            peak_memory_bytes: memory,
            seed,
            params: match params { Value::Object(map) => map, _ => serde_json::Map::new() },
            inputs: inputs
                .into_iter()
                .map(|((port, position), (digest, made))| RecordInput {
                    port,
                    position,
                    digest: Digest::from_bytes(digest),
                    from_key: made.then(|| key("made")),
                })
                .collect(),
            outputs: outputs.into_iter().map(|(port, object)| RecordOutput { port, object }).collect(),
            metrics,
            provenance,
        }
    }
}

/// Waits until something is there, for as long as a loaded machine may take.
pub(crate) fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begun = std::time::Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(300), "it never came");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
