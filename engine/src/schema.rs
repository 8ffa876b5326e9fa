//! The JSON Schema of manifests, from the same Rust types that read them.
//!
//! Editors with TOML support complete and check manifests that begin with `#:schema sepia.schema.json`. The schema of a
//! stage is that of its kind's parameters and knobs, beside the keys that every stage has. Wherever a value is expected,
//! `"${params.x}"` may stand instead.

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{
    manifest::{ExecutorDecl, FORMAT, StageExecutor},
    stage::{Port, Registry, StageEntry},
};

/// The schema of manifests over the stage kinds of a registry.
#[must_use]
pub fn manifest_schema(registry: Registry) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let stages: Vec<Value> = registry.iter().map(|entry| stage_schema(entry, &mut generator)).collect();
    let defaults: Map<String, Value> = registry
        .iter()
        .map(|entry| {
            (
                entry.kind.to_owned(),
                json!({ "type": "object", "description": format!("Defaults of every `{}` stage.", entry.kind) }),
            )
        })
        .collect();
    let executor = schema_of::<ExecutorDecl>("Where the stages run; no part of any key.");
    let definitions: Map<String, Value> = generator.take_definitions(true).into_iter().collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sepia manifest",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "sepia": { "description": "Version of the manifest format.", "const": FORMAT },
            "name": { "description": "Name of the experiment; the file's stem when left out.", "type": "string" },
            "extends": { "description": "A manifest that this one is laid over.", "type": "string" },
            "seed": { "description": "Seed of every stage that gives none.", "type": "integer", "minimum": 0, "default": 0 },
            "device": device(),
            "dtype": dtype(),
            "executor": executor,
            "params": { "description": "Named values, used as `\"${params.NAME}\"`.", "type": "object" },
            "defaults": { "description": "Values for all stages of a kind.", "type": "object", "additionalProperties": false, "properties": defaults },
            "profile": { "description": "Overrides, chosen with `--profile NAME`.", "type": "object", "additionalProperties": { "type": "object" } },
            "stages": { "description": "The stages, by name.", "type": "object", "additionalProperties": { "oneOf": stages } },
        },
        "$defs": definitions,
    })
}

/// The schema of a type, with all that it needs inside.
fn schema_of<T: schemars::JsonSchema>(about: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    schema["description"] = json!(about);
    schema
}

fn device() -> Value {
    json!({ "description": "Where to compute.", "type": "string", "pattern": "^(auto|cpu|cuda(:[0-9]+)?)$", "default": "cpu" })
}

fn dtype() -> Value {
    json!({ "description": "What to compute in.", "enum": ["f32", "bf16", "f16"], "default": "f32" })
}

fn stage_schema(entry: &StageEntry, generator: &mut SchemaGenerator) -> Value {
    let params = (entry.params_subschema)(generator).to_value();
    let knobs = (entry.knobs_subschema)(generator).to_value();
    let mut properties = common(entry);
    for schema in [&params, &knobs] {
        let own = schema["properties"].as_object().into_iter().flatten();
        properties.extend(own.map(|(name, field)| (name.clone(), or_interpolated(field))));
    }
    // What is required may also come from defaults or from the matrix: the plan checks it, the schema does not.
    json!({
        "title": entry.kind,
        "description": params["description"],
        "type": "object",
        "additionalProperties": false,
        "required": ["kind"],
        "properties": properties,
    })
}

/// The keys of every stage. Their meaning is that of [`StageDecl`](crate::manifest::StageDecl).
fn common(entry: &StageEntry) -> Map<String, Value> {
    let reference =
        json!({ "type": "string", "description": "`STAGE`, `STAGE.OUTPUT`, or cells of a sweep: `STAGE[*]`." });
    let references = json!({ "anyOf": [reference, { "type": "array", "items": reference }] });
    let port = |port: &Port| {
        let mut schema = references.clone();
        schema["description"] = json!(format!("{} ({})", port.about, port.ty.0));
        (port.name.to_owned(), schema)
    };
    let inputs: Map<String, Value> = entry.inputs.iter().map(port).collect();
    let other = if entry.open { references.clone() } else { json!(false) };
    let values = json!({
        "kind": { "const": entry.kind },
        "description": { "type": "string", "description": "What it is for." },
        "inputs": { "type": "object", "description": "What is connected, by port.", "properties": inputs, "additionalProperties": other },
        "seed": { "type": "integer", "minimum": 0, "description": "Its own seed." },
        "device": device(),
        "dtype": dtype(),
        "resources": {
            "type": "object",
            "description": "What it needs of the machine.",
            "additionalProperties": false,
            "properties": {
                "threads": { "type": "integer", "minimum": 1, "default": entry.threads },
                "memory": { "type": ["string", "integer"], "description": "Bytes, or with a unit: `\"4 GiB\"`." },
                "device": { "type": "integer", "minimum": 0 },
            },
        },
        "retries": { "type": "integer", "minimum": 0, "default": 0, "description": "How often a failed attempt is repeated." },
        "timeout": { "type": ["string", "number"], "description": "When an attempt is stopped: seconds, or `\"2h\"`." },
        "checkpoint_every": { "type": ["string", "number"], "description": "Time between checkpoints: seconds, or `\"5m\"`." },
        "priority": { "type": "integer", "default": 0, "description": "Among stages that could start, the higher goes first." },
        "executor": schema_of::<StageExecutor>("Its own settings for a cluster; no part of its key."),
        "matrix": { "type": "object", "description": "Sweeps: a list of values for each parameter." },
        "include": { "type": "array", "items": { "type": "object" }, "description": "Cells beside those of the matrix." },
        "exclude": { "type": "array", "items": { "type": "object" }, "description": "Cells of the matrix to leave out." },
    });
    match values {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// A field's own schema, or text with an interpolation in it.
fn or_interpolated(field: &Value) -> Value {
    if field["type"] == "string" {
        return field.clone();
    }
    let mut outer = Map::new();
    for name in ["description", "default"] {
        if let Some(value) = field.get(name) {
            outer.insert(name.to_owned(), value.clone());
        }
    }
    outer.insert("anyOf".to_owned(), json!([field, { "type": "string", "pattern": "\\$\\{params\\." }]));
    Value::Object(outer)
}
