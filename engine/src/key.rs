//! Keys: when two executions are the same.
//!
//! A stage's key is a digest of everything that can change its outputs, and of nothing else. If a record with this key
//! exists, its outputs are the outputs.
//!
//! | in the key | why |
//! |---|---|
//! | key schema ([`KEY_SCHEMA`]) | so that this table can change without false hits |
//! | stage kind and its `VERSION` | what is computed; authors raise the version when results change |
//! | parameters, typed, with defaults filled in, keys sorted | writing out a default, or in another order, changes nothing |
//! | content of external files that parameters name | a file that is touched or moved but not changed changes nothing |
//! | the seed, for kinds that use it | a kind without randomness does not run again for a new seed |
//! | per input port, the *content* digests of what is connected | a stage that reruns to the same bytes stops the wave |
//! | device class and dtype, for kinds that compute on the device | a CPU and a GPU round differently |
//!
//! | not in the key | why |
//! |---|---|
//! | names of stages, manifests, files | renaming is not a change |
//! | knobs, number of jobs, threads, memory, retries, time-outs, priority | they change when and how, not what |
//! | clock, host, environment, git state, Sepia's version | recorded with each execution, and compared by `explain` |
//!
//! The inputs of each key are stored beside the record that it produced, so that [`diff`] can name the field that
//! differs. Example: the key of an `evaluate` stage whose model was retrained to the very same bytes is unchanged,
//! because the model enters by its digest.

use std::collections::BTreeMap;

use sepia_cache::{Digest, write_canonical_text};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::stage::Canonical;

/// Version of the table above. Raised when it changes.
pub const KEY_SCHEMA: u32 = 1;

const DOMAIN: &str = "sepia stage key v1";

/// The digest that identifies one distinct execution of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StageKey(pub Digest);

impl std::fmt::Display for StageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Everything a key is made of. See the [module docs](self).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyInputs {
    /// [`KEY_SCHEMA`] of the Sepia that made it.
    pub schema: u32,
    /// Stage kind.
    pub kind: String,
    /// Version of the kind.
    pub version: u32,
    /// Canonical parameters, external files replaced by their content.
    pub params: Canonical,
    /// Seed, for kinds that use one.
    pub seed: Option<u64>,
    /// Content by input port, in the order of the wires.
    pub inputs: BTreeMap<String, Vec<Digest>>,
    /// Device class, for kinds that compute on the device.
    pub device: Option<String>,
    /// Floating-point type, likewise.
    pub dtype: Option<String>,
}

impl KeyInputs {
    /// The key.
    #[must_use]
    pub fn key(&self) -> StageKey {
        StageKey(Digest::derive(DOMAIN, self.canonical().as_bytes()))
    }

    /// The canonical form that is hashed: JSON with sorted keys.
    #[must_use]
    pub fn canonical(&self) -> String {
        use std::fmt::Write as _;
        let mut out = String::with_capacity(512);
        let optional = |out: &mut String, text: &Option<String>| match text {
            Some(text) => write_canonical_text(out, text),
            None => out.push_str("null"),
        };
        out.push_str("{\"device\":");
        optional(&mut out, &self.device);
        out.push_str(",\"dtype\":");
        optional(&mut out, &self.dtype);
        out.push_str(",\"inputs\":{");
        for (at, (port, digests)) in self.inputs.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            write_canonical_text(&mut out, port);
            out.push_str(":[");
            for (at, digest) in digests.iter().enumerate() {
                let _ = write!(out, "{}\"{digest}\"", if at > 0 { "," } else { "" });
            }
            out.push(']');
        }
        out.push_str("},\"kind\":");
        write_canonical_text(&mut out, &self.kind);
        out.push_str(",\"params\":");
        out.push_str(self.params.text());
        let _ = write!(out, ",\"schema\":{},\"seed\":", self.schema);
        let _ = match self.seed {
            Some(seed) => write!(out, "{seed}"),
            None => write!(out, "null"),
        };
        let _ = write!(out, ",\"version\":{}}}", self.version);
        out
    }
}

/// One field in which two keys differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Dotted path: `params.lr`, `inputs.data`, `seed`, `version`.
    pub field: String,
    /// Before; `None` where the field did not exist.
    pub before: Option<Value>,
    /// After; `None` where it no longer exists.
    pub after: Option<Value>,
}

/// The leaves in which two sets of key inputs differ, sorted by field.
#[must_use]
pub fn diff(before: &KeyInputs, after: &KeyInputs) -> Vec<FieldChange> {
    let leaves = |inputs: &KeyInputs| {
        let mut found = BTreeMap::new();
        if let Ok(value) = serde_json::to_value(inputs) {
            flatten("", &value, &mut found);
        }
        found
    };
    let (before, after) = (leaves(before), leaves(after));
    let mut fields: Vec<&String> = before.keys().chain(after.keys()).collect();
    fields.sort_unstable();
    fields.dedup();
    fields
        .into_iter()
        .filter(|field| before.get(*field) != after.get(*field))
        .map(|field| FieldChange {
            field: field.clone(),
            before: before.get(field).cloned(),
            after: after.get(field).cloned(),
        })
        .collect()
}

/// Leaves by dotted path. Lists are leaves: the position in a list is rarely what changed.
pub(crate) fn flatten(path: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, inner) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, inner, found);
            }
        }
        leaf => {
            found.insert(path.to_owned(), leaf.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn base() -> KeyInputs {
        KeyInputs {
            schema: KEY_SCHEMA,
            kind: "pretrain".into(),
            version: 3,
            params: json!({"lr": 0.01, "model": {"d_model": 64}}).into(),
            seed: Some(7),
            inputs: BTreeMap::from([("data".to_owned(), vec![Digest::of_bytes(b"text")])]),
            device: Some("cpu".into()),
            dtype: Some("f32".into()),
        }
    }

    fn changed(change: impl FnOnce(&mut KeyInputs)) -> KeyInputs {
        let mut inputs = base();
        change(&mut inputs);
        inputs
    }

    #[test]
    fn every_field_of_the_table_changes_the_key_and_is_named_by_diff() {
        let cases: Vec<(&str, KeyInputs)> = vec![
            ("schema", changed(|k| k.schema += 1)),
            ("kind", changed(|k| k.kind = "train".into())),
            ("version", changed(|k| k.version += 1)),
            ("params.lr", changed(|k| k.params = json!({"lr": 0.02, "model": {"d_model": 64}}).into())),
            ("params.model.d_model", changed(|k| k.params = json!({"lr": 0.01, "model": {"d_model": 65}}).into())),
            ("seed", changed(|k| k.seed = Some(8))),
            ("seed", changed(|k| k.seed = None)),
            ("inputs.data", changed(|k| k.inputs.get_mut("data").unwrap()[0] = Digest::of_bytes(b"other"))),
            ("device", changed(|k| k.device = Some("cuda".into()))),
            ("dtype", changed(|k| k.dtype = Some("bf16".into()))),
        ];
        for (field, other) in cases {
            assert_ne!(base().key(), other.key(), "{field}");
            let changes = diff(&base(), &other);
            assert_eq!(changes.iter().map(|c| c.field.as_str()).collect::<Vec<_>>(), [field]);
        }
    }

    #[test]
    fn the_order_of_wires_counts() {
        let (a, b) = (Digest::of_bytes(b"a"), Digest::of_bytes(b"b"));
        let one = changed(|k| k.inputs = BTreeMap::from([("models".to_owned(), vec![a, b])]));
        let other = changed(|k| k.inputs = BTreeMap::from([("models".to_owned(), vec![b, a])]));
        assert_ne!(one.key(), other.key());
    }

    /// The key of a fixed input never changes: results of last year must still be found.
    #[test]
    fn the_key_of_a_known_input_is_pinned() {
        insta::assert_snapshot!(
            base().canonical(),
            @r#"{"device":"cpu","dtype":"f32","inputs":{"data":["831c6831fdc9a309a4c66cc3cb2fa3740a100da8b86d6fe86e9ba40deb50aa19"]},"kind":"pretrain","params":{"lr":0.01,"model":{"d_model":64}},"schema":1,"seed":7,"version":3}"#
        );
        insta::assert_snapshot!(base().key().to_string(), @"352121096c9d4298bf54204dd921e38bbbb5011b9651fff01db2234efee060c0");
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_what_serde_reads_back(lr in any::<f64>().prop_filter("finite", |x| x.is_finite()), name in ".*") {
            let inputs = changed(|k| { k.params = json!({"lr": lr, "name": name}).into(); k.kind = name.clone(); });
            let back: KeyInputs = serde_json::from_str(&inputs.canonical()).unwrap();
            prop_assert_eq!(back.key(), inputs.key());
            prop_assert_eq!(back, inputs);
        }
    }
}
