//! `sepia results`.

use std::collections::{BTreeMap, BTreeSet};

use sepia_cache::{Outcome, Record};
use serde_json::{Value, json};

use super::{
    args::{self, Format, Global},
    exit::{Exit, Failure},
    output, project,
};
use crate::report::figures::{duration, number};

pub(super) fn results(global: &Global, args: &args::Results) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let run = args.run.as_deref().map(|run| store.find_run(run)).transpose()?;
    let mut records: Vec<Record> = Vec::new();
    for row in store.executions()?.into_iter().rev() {
        let stage_fits = args.stage.as_ref().is_none_or(|stage| {
            row.node == *stage
                || row.kind == *stage
                || row.node.strip_prefix(stage.as_str()).is_some_and(|rest| rest.starts_with('['))
        });
        if row.outcome == Outcome::Done
            && stage_fits
            && run.as_ref().is_none_or(|run| run.run == row.run)
            && let Some(record) = store.record(&row.record)?
        {
            records.push(record);
        }
    }
    if args.format == Format::Json {
        output::json(&Value::Array(records.iter().map(as_json).collect()));
        return Ok(Exit::Fine);
    }
    if records.is_empty() {
        output::note("no results fit");
        return Ok(Exit::Fine);
    }
    output::data(&tables(&records));
    Ok(Exit::Fine)
}

/// The figures of a whole execution.
fn figures(record: &Record) -> BTreeMap<&str, f64> {
    let whole = record.metrics.iter().filter_map(|(name, series)| {
        let (_, value) = series.points().filter(|(step, _)| step.is_none()).last()?;
        Some((name, value))
    });
    whole.collect()
}

fn as_json(record: &Record) -> Value {
    // JSON has no NaN: text says it.
    let figure = |value: f64| if value.is_finite() { json!(value) } else { json!(value.to_string()) };
    json!({
        "node": record.node, "kind": record.kind, "run": record.run, "key": record.key, "seed": record.seed,
        "started_at": record.started_at, "wall_seconds": record.wall_seconds, "params": record.params,
        "results": figures(record).into_iter().map(|(name, value)| (name.to_owned(), figure(value))).collect::<serde_json::Map<_, _>>(),
        "outputs": record.outputs,
    })
}

/// One table a stage kind: which parameters vary, and all figures.
fn tables(records: &[Record]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for record in records {
        if !kinds.contains(&record.kind.as_str()) {
            kinds.push(&record.kind);
        }
    }
    let mut out = String::new();
    for kind in kinds {
        let of_kind: Vec<&Record> = records.iter().filter(|record| record.kind == kind).collect();
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&format!("{kind}\n"));
        out.push_str(&table(&of_kind));
    }
    out
}

fn table(records: &[&Record]) -> String {
    let params: Vec<BTreeMap<String, Value>> = records
        .iter()
        .map(|record| {
            let mut flat = BTreeMap::new();
            crate::key::flatten("", &Value::Object(record.params.clone()), &mut flat);
            flat
        })
        .collect();
    let names: BTreeSet<&String> = params.iter().flat_map(BTreeMap::keys).collect();
    let varying: Vec<&String> =
        names.into_iter().filter(|name| params.iter().any(|one| one.get(*name) != params[0].get(*name))).collect();
    let figures: Vec<BTreeMap<&str, f64>> = records.iter().map(|record| figures(record)).collect();
    let columns: BTreeSet<&str> = figures.iter().flat_map(|one| one.keys().copied()).collect();
    let seeds_vary = records.iter().any(|record| record.seed != records[0].seed);
    let mut header = vec!["stage", "run"];
    header.extend(seeds_vary.then_some("seed"));
    header.extend(varying.iter().map(|name| name.as_str()));
    header.extend(columns.iter().copied());
    header.push("time");
    let rows = records.iter().zip(&params).zip(&figures).map(|((record, params), figures)| {
        let mut row = vec![record.node.clone(), record.run[..record.run.len().min(8)].to_owned()];
        row.extend(seeds_vary.then(|| record.seed.to_string()));
        row.extend(varying.iter().map(|name| params.get(*name).map(plain).unwrap_or_default()));
        row.extend(columns.iter().map(|name| figures.get(name).map(|value| number(*value)).unwrap_or_default()));
        row.push(duration(record.wall_seconds));
        row
    });
    output::table(&header, rows.collect())
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
