//! `sepia merge` and `sepia divergences`.

use std::collections::BTreeMap;

use sepia_cache::{Divergence, Merged, ObjectRef, Record, is_reproduction};
use serde_json::{Value, json};

use super::{
    args::{self, Format, Global},
    exit::{Exit, Failure},
    output, project,
};
use crate::{
    exec::REPRODUCES,
    report::figures::{bytes, count},
};

pub(super) fn merge(global: &Global, args: &args::Merge) -> Result<Exit, Failure> {
    let store = project::make_store(global)?;
    for other in &args.others {
        let bar = output::Bar::new(global, &format!("reading {other}"));
        let merged = store.merge(other, args.trust, |done, all| bar.set(done, all))?;
        bar.end();
        output::data(&format!("{other}: {}\n", text(&merged)));
    }
    let divergences = store.divergences()?.len();
    if divergences > 0 {
        output::note(&format!(
            "{} left different outputs: `sepia divergences` lists them",
            count(divergences as u64, "key")
        ));
    }
    Ok(Exit::Fine)
}

/// What came, in one line.
pub(super) fn text(merged: &Merged) -> String {
    let mut parts = vec![count(merged.records, "new record"), count(merged.runs, "run")];
    if merged.known > 0 {
        parts.push(format!("{} known already", merged.known));
    }
    if merged.signatures > 0 {
        parts.push(count(merged.signatures, "signature"));
    }
    if merged.tags > 0 {
        parts.push(count(merged.tags, "tag"));
    }
    if merged.objects > 0 {
        parts.push(format!("{}, {}", count(merged.objects, "output"), bytes(merged.object_bytes)));
    }
    if merged.newer > 0 {
        let left_out = count(merged.newer, "line");
        parts.push(format!("{left_out} of a newer Sepia left out (update this one, then do the same again)"));
    }
    parts.join(", ")
}

pub(super) fn divergences(global: &Global, args: &args::Divergences) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let found = store.divergences()?;
    if args.format == Format::Json {
        output::json(&Value::Array(found.iter().map(as_json).collect()));
        return Ok(Exit::Fine);
    }
    if found.is_empty() {
        output::note("no key has different outputs");
        return Ok(Exit::Fine);
    }
    let text: Vec<String> = found.iter().map(describe).collect();
    output::data(&text.join("\n"));
    Ok(Exit::Fine)
}

fn as_json(divergence: &Divergence) -> Value {
    let variants = divergence.variants.iter().map(|variant| {
        json!({
            "outputs": variant.outputs.iter().map(|(port, object)| (port.clone(), json!(object))).collect::<serde_json::Map<_, _>>(),
            "records": variant.records.iter().map(|(id, record)| json!({
                "record": id, "run": record.run, "node": record.node, "started_at": record.started_at,
                "provenance": record.provenance,
            })).collect::<Vec<_>>(),
        })
    });
    json!({
        "key": divergence.key,
        "kind": divergence.kind,
        "variants": variants.collect::<Vec<_>>(),
        "differs": provenance_that_differs(divergence).into_iter().map(|(name, values)| (name, json!(values))).collect::<serde_json::Map<_, _>>(),
    })
}

fn describe(divergence: &Divergence) -> String {
    let node = divergence.variants.first().and_then(|variant| variant.records.first());
    let node = node.map_or("", |(_, record)| record.node.as_str());
    let mut text = format!("{node} ({}), key {}\n", divergence.kind, divergence.key.short());
    let letters = ('A'..='Z').map(|letter| letter.to_string()).chain((27u64..).map(|number| format!("#{number}")));
    for (letter, variant) in letters.zip(&divergence.variants) {
        let outputs: Vec<String> = variant.outputs.iter().map(|(port, object)| one_output(port, object)).collect();
        let runs: Vec<String> = variant.records.iter().map(|(_, record)| where_from(record)).collect();
        text.push_str(&format!("  {letter}  {}  ({})\n", outputs.join("  "), runs.join(", ")));
    }
    let differing = provenance_that_differs(divergence);
    if differing.is_empty() {
        text.push_str("  nothing that was recorded about where they ran differs\n");
    }
    for (name, values) in differing {
        let values: Vec<String> = values.iter().map(shown).collect();
        text.push_str(&format!("  {name}: {}\n", values.join(" / ")));
    }
    text
}

/// The run of a record, or that it was made by `sepia reproduce`, and of which run's result.
fn where_from(record: &Record) -> String {
    let short = |run: &str| run.chars().take(8).collect::<String>();
    match record.provenance.get(REPRODUCES).and_then(Value::as_str) {
        Some(run) if is_reproduction(&record.run) => format!("`sepia reproduce` of run {}", short(run)),
        _ => format!("run {}", short(&record.run)),
    }
}

fn one_output(port: &str, object: &ObjectRef) -> String {
    format!("{port} {} {}", object.digest.short(), bytes(object.bytes))
}

fn shown(value: &Option<Value>) -> String {
    match value {
        None => "not recorded".to_owned(),
        Some(Value::String(text)) if text.len() == 64 => text.chars().take(12).collect(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}

/// What was recorded of the first execution of each variant and is not the same for all, by dotted name.
fn provenance_that_differs(divergence: &Divergence) -> BTreeMap<String, Vec<Option<Value>>> {
    let flat: Vec<BTreeMap<String, Value>> = divergence
        .variants
        .iter()
        .filter_map(|variant| variant.records.first())
        .map(|(_, record)| flat_provenance(record))
        .collect();
    let names: std::collections::BTreeSet<&String> = flat.iter().flat_map(BTreeMap::keys).collect();
    let of = |name: &String| flat.iter().map(|one| one.get(name).cloned()).collect::<Vec<_>>();
    names
        .into_iter()
        .map(|name| (name.clone(), of(name)))
        .filter(|(_, values)| values.iter().any(|value| *value != values[0]))
        .collect()
}

/// Where it ran, by dotted names. The path of the log is of one machine only, and whose result was reproduced is no place.
pub(super) fn flat_provenance(record: &Record) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    crate::key::flatten("", &record.provenance, &mut flat);
    flat.remove("log");
    flat.remove(REPRODUCES);
    flat
}
