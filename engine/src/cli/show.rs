//! `sepia show`.

use sepia_cache::{Record, RunRow, Store};
use serde_json::json;

use super::{
    args::{self, Format, Global},
    exit::{Exit, Failure},
    output, project,
    runs::{local_time, seconds_between},
};
use crate::{
    event::Listener as _,
    exec::recorder::read_events,
    report::{
        Terminal, TerminalOptions,
        figures::{bytes, duration, number},
    },
};

pub(super) fn show(global: &Global, args: &args::Show) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let run = store.find_run(&args.run)?;
    if args.replay {
        return replay(global, &store, &run);
    }
    match &args.stage {
        Some(stage) => show_stage(&store, &run, stage, args.format),
        None => show_run(&store, &run, args.format),
    }
}

fn replay(global: &Global, store: &Store, run: &RunRow) -> Result<Exit, Failure> {
    let options = TerminalOptions { bars: false, verbose: global.verbose > 0, quiet: false };
    let mut terminal = Terminal::new(anstream::stdout(), options);
    for event in read_events(&store.run_dir(&run.run)?)? {
        terminal.hear(&event);
    }
    Ok(Exit::Fine)
}

/// A node of a run: its name, how it ended, and the record that has its results, which may be of an earlier run.
struct NodeRow {
    node: String,
    outcome: String,
    because: Option<String>,
    record: Option<Record>,
}

fn nodes_of(store: &Store, run: &RunRow) -> Result<Vec<NodeRow>, Failure> {
    let mut told = std::collections::BTreeMap::new();
    for node in store.run_nodes(&run.run)? {
        told.insert(node.node.clone(), node);
    }
    let Some(plan) = &run.plan else {
        // It died: what is known is what was committed.
        return told
            .into_values()
            .map(|node| {
                let record = node.record.map(|id| store.record(&id)).transpose()?.flatten();
                Ok(NodeRow { node: node.node, outcome: node.outcome, because: node.because, record })
            })
            .collect();
    };
    let index = store.index()?;
    store
        .plan(plan)?
        .into_iter()
        .map(|planned| {
            let told = told.remove(&planned.node);
            let record = match (&told, planned.key) {
                (Some(told), _) => told.record,
                (None, Some(key)) => index.candidates(&key)?.first().map(|hit| hit.record),
                (None, None) => None,
            };
            let record = record.map(|id| store.record(&id)).transpose()?.flatten();
            let (outcome, because) = told.map_or(("cached".to_owned(), None), |told| (told.outcome, told.because));
            Ok(NodeRow { node: planned.node, outcome, because, record })
        })
        .collect()
}

fn show_run(store: &Store, run: &RunRow, format: Format) -> Result<Exit, Failure> {
    let nodes = nodes_of(store, run)?;
    if format == Format::Json {
        let nodes: Vec<_> = nodes
            .iter()
            .map(
                |row| json!({ "node": row.node, "outcome": row.outcome, "because": row.because, "record": row.record }),
            )
            .collect();
        output::json(&json!({
            "run": run.run, "manifest": run.manifest, "command": run.command, "started_at": run.started_at,
            "finished_at": run.finished_at, "outcome": run.outcome, "counts": run.counts, "nodes": nodes,
        }));
        return Ok(Exit::Fine);
    }
    let mut text =
        format!("run       {}\nmanifest  {}\nstarted   {}\n", run.run, run.manifest, local_time(run.started_at));
    if let Some(end) = run.finished_at {
        text.push_str(&format!("took      {}\n", seconds_between(run.started_at, end)));
    }
    text.push_str(&format!("outcome   {}\n\n", run.outcome.as_deref().unwrap_or("not finished")));
    let rows = nodes.iter().map(|row| {
        let figures = row.record.as_ref().map(figures).unwrap_or_default();
        let seconds = row.record.as_ref().map(|record| duration(record.wall_seconds)).unwrap_or_default();
        let error = row.record.as_ref().and_then(|record| record.error.clone()).or_else(|| row.because.clone());
        vec![row.node.clone(), row.outcome.clone(), seconds, error.unwrap_or(figures)]
    });
    text.push_str(&output::table(&["stage", "outcome", "time", "result"], rows.collect()));
    output::data(&text);
    Ok(Exit::Fine)
}

/// The figures of a whole execution, in one line.
pub(super) fn figures(record: &Record) -> String {
    whole(record).map(|(name, value)| format!("{name} {}", number(value))).collect::<Vec<_>>().join("  ")
}

/// The last value of each figure of a whole execution.
fn whole(record: &Record) -> impl Iterator<Item = (&str, f64)> {
    record.metrics.iter().filter_map(|(name, series)| {
        let (_, value) = series.points().filter(|(step, _)| step.is_none()).last()?;
        Some((name, value))
    })
}

fn show_stage(store: &Store, run: &RunRow, stage: &str, format: Format) -> Result<Exit, Failure> {
    let nodes = nodes_of(store, run)?;
    let Some(row) = nodes.iter().find(|row| row.node == stage) else {
        let near = crate::diagnostic::nearest(stage, nodes.iter().map(|row| row.node.as_str()));
        let failure = Failure::usage("show::unknown-stage", format!("run {} has no stage `{stage}`", run.run));
        return Err(match near {
            Some(near) => failure.help(format!("did you mean `{near}`?")),
            None => failure.help(format!("`sepia show {}` lists its stages", run.run)),
        });
    };
    let Some(record) = &row.record else {
        return Err(Failure::usage(
            "show::no-record",
            format!("`{stage}` was {} in run {}, so there is nothing to show", row.outcome, run.run),
        ));
    };
    if format == Format::Json {
        output::json(&json!({ "outcome": row.outcome, "record": record }));
        return Ok(Exit::Fine);
    }
    output::data(&stage_text(store, row, record));
    Ok(Exit::Fine)
}

fn stage_text(store: &Store, row: &NodeRow, record: &Record) -> String {
    let mut text = format!(
        "stage    {} ({} version {})\noutcome  {}\nkey      {}\nran in   run {} on {}, {} wall, {} cpu, {} peak\nseed     {}\n",
        row.node,
        record.kind,
        record.stage_version,
        row.outcome,
        record.key,
        record.run,
        record.provenance["host"].as_str().unwrap_or("an unknown host"),
        duration(record.wall_seconds),
        duration(record.cpu_seconds),
        bytes(record.peak_memory_bytes),
        record.seed,
    );
    if let Some(error) = &record.error {
        text.push_str(&format!("error    {error}\n"));
    }
    let mut params = std::collections::BTreeMap::new();
    crate::key::flatten("", &serde_json::Value::Object(record.params.clone()), &mut params);
    section(&mut text, "parameters", params.into_iter().map(|(name, value)| (name, value.to_string())));
    section(&mut text, "inputs", record.inputs.iter().map(|input| (input.port.clone(), input.digest.short())));
    section(
        &mut text,
        "outputs",
        record.outputs.iter().map(|output| {
            (
                output.port.clone(),
                format!(
                    "{}  {}  {}",
                    output.object.digest.short(),
                    bytes(output.object.bytes),
                    store.object_path(&output.object)
                ),
            )
        }),
    );
    section(&mut text, "results", whole(record).map(|(name, value)| (name.to_owned(), number(value))));
    section(
        &mut text,
        "series",
        record.metrics.iter().filter_map(|(name, series)| {
            let mut points = series.points().filter(|(step, _)| step.is_some());
            let (_, first) = points.next()?;
            let (count, last) = points.fold((1, first), |(count, _), (_, value)| (count + 1, value));
            Some((name.to_owned(), format!("{} -> {}  ({count} points)", number(first), number(last))))
        }),
    );
    text
}

fn section(text: &mut String, title: &str, rows: impl Iterator<Item = (String, String)>) {
    let rows: Vec<(String, String)> = rows.collect();
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    if !rows.is_empty() {
        text.push_str(&format!("\n{title}\n"));
    }
    for (name, value) in rows {
        text.push_str(&format!("  {name:width$}  {value}\n"));
    }
}
