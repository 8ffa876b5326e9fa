//! `sepia plan`, and `sepia run --dry-run`.

use std::sync::Arc;

use sepia_cache::Store;
use serde_json::json;

use super::{
    args::{self, Chosen, Format, Global},
    exit::{Exit, Failure},
    limits, output, project, run,
};
use crate::{
    diagnostic::{Diagnostic, Sources},
    exec::{
        ExecutorChoice, Forecast, KeyError, Lookup, Reason, Reasons, SlurmOptions, Standing, forecast_from, lookup,
        slurm::{Line, lines},
    },
    graph::NodeId,
    plan::{Plan, select},
    report::figures::{bytes, count},
    stage::{Estimate, Registry},
    wide,
};

pub(super) fn plan(registry: Registry, global: &Global, args: &args::Plan) -> Result<Exit, Failure> {
    if args.resolved {
        output::data(&project::resolved(registry, &args.chosen.source.manifest, &args.chosen.source.changes)?);
        return Ok(Exit::Fine);
    }
    dry_run(registry, global, &args.chosen, args.place.executor, args.format)
}

/// Says what a run would do. Makes no store where there is none.
pub(super) fn dry_run(
    registry: Registry,
    global: &Global,
    chosen: &Chosen,
    executor: Option<args::ExecutorArg>,
    format: Format,
) -> Result<Exit, Failure> {
    let path = project::store_path(global, Some(&chosen.source.manifest))?;
    // Reading the store and reading the manifest take about as long: side by side.
    let (project, lookup) = std::thread::scope(|scope| {
        let mut looking = Some(scope.spawn(|| if path.is_dir() { look_up(global, chosen) } else { look_up_nothing() }));
        let mut lookup = None;
        if format == Format::Text
            && let Some(standing) = project::standing(global, chosen)?
        {
            lookup = looking.take().map(join).transpose()?;
            if lookup.as_ref().is_some_and(|found| standing.holds(&found.lookup).unwrap_or(false)) {
                output::data(&all_cached(&standing));
                return Ok(None);
            }
        }
        let project = project::load(registry, &chosen.source.manifest, &chosen.source.changes)?;
        Ok::<_, Failure>(Some((project, looking.take().map(join).transpose()?.or(lookup))))
    })?
    .unzip();
    let (Some(project), Some(Some(found))) = (project, lookup) else { return Ok(Exit::Fine) };
    let wrong = |found| Failure { exit: Exit::Usage, found, sources: Sources::default() };
    let selected = select(&project.plan, &run::selection(chosen)).map_err(wrong)?;
    let forced = lookup::forced(&project.plan, &chosen.force, &selected).map_err(wrong)?;
    let looked = look(&found.lookup, &project.plan, &selected, &forced)?;
    let (now, later) = match super::executor::choose(&project.plan, executor)? {
        ExecutorChoice::Local => {
            limits::warn(&path, &project, &looked.forecasts);
            (Vec::new(), Vec::new())
        }
        ExecutorChoice::Slurm(options) => sbatch_lines(&project.plan, &looked, &options),
    };
    match format {
        Format::Text => {
            output::data(&text(&project.plan, &looked));
            output::data(&submissions("now", &now));
            output::data(&submissions("when their inputs are there", &later));
        }
        Format::Json => {
            let mut all = as_json(&project.plan, &looked);
            let lines = now.iter().chain(&later);
            let lines = lines.map(|line| json!({ "nodes": line.nodes, "sbatch": line.command }));
            if !now.is_empty() || !later.is_empty() {
                all["submissions"] = lines.collect();
            }
            output::json(&all);
        }
    }
    // The program ends next, and taking thousands of nodes to pieces would be an eighth of its time.
    std::mem::forget((project, looked));
    Ok(Exit::Fine)
}

/// The `sbatch` lines for the stages that can start, and for those that wait for others.
fn sbatch_lines(plan: &Plan, looked: &Looked, options: &SlurmOptions) -> (Vec<Line>, Vec<Line>) {
    let of = |wanted: fn(&Forecast) -> bool| -> Vec<_> {
        plan.graph.order().iter().copied().filter(|id| wanted(&looked.forecasts[id.index()])).collect()
    };
    let now = of(|forecast| matches!(forecast, Forecast::Run(_, _)));
    let later = of(|forecast| matches!(forecast, Forecast::Unknown(_)));
    (lines(plan, &now, options), lines(plan, &later, options))
}

fn submissions(when: &str, lines: &[Line]) -> String {
    let mut out = String::new();
    for line in lines {
        let name = line.nodes.first().map_or("", String::as_str);
        let more = line.nodes.len().saturating_sub(1);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        out.push_str(&format!("\n{name}{more}, {when}:\n  {}\n", line.command));
    }
    out
}

struct Looked {
    forecasts: Vec<Forecast>,
    reasons: Vec<Option<Reason>>,
}

/// What a store says.
struct Found {
    lookup: Lookup,
    /// The folder of a store that was only made to ask it.
    _folder: Option<tempfile::TempDir>,
}

fn look_up(global: &Global, chosen: &Chosen) -> Result<Found, Failure> {
    let store = project::existing_store(global, Some(&chosen.source.manifest))?;
    Ok(Found { lookup: Lookup::open(&store)?, _folder: None })
}

/// Nothing has ever run here: a store in a folder that goes away says the same.
fn look_up_nothing() -> Result<Found, Failure> {
    let folder = tempfile::tempdir()?;
    let root = camino::Utf8PathBuf::try_from(folder.path().join("store")).map_err(std::io::Error::other)?;
    let store = Arc::new(Store::open(&root, sepia_cache::OpenMode::Create)?);
    Ok(Found { lookup: Lookup::open(&store)?, _folder: Some(folder) })
}

fn join(looking: std::thread::ScopedJoinHandle<'_, Result<Found, Failure>>) -> Result<Found, Failure> {
    let panicked = || Failure::of(Exit::Store, Diagnostic::error("plan", "the store could not be read"));
    looking.join().unwrap_or_else(|_| Err(panicked()))
}

fn look(lookup: &Lookup, plan: &Plan, selected: &[bool], forced: &[bool]) -> Result<Looked, Failure> {
    let forecasts = forecast_from(plan, lookup, selected, forced).map_err(|error| match error {
        KeyError::Store(error) => Failure::from(error),
        other => Failure::of(Exit::Usage, Diagnostic::error("plan::unreadable-file", other.to_string())),
    })?;
    let mut why = Reasons::new(lookup.store(), None);
    let reasons = plan.ids().map(|id| match &forecasts[id.index()] {
        Forecast::Run(_, _) if forced[id.index()] => Ok(None),
        Forecast::Run(key, inputs) => why.of(&plan.node(id).name, key, inputs).map(Some),
        _ => Ok(None),
    });
    let reasons = reasons.collect::<Result<_, _>>()?;
    Ok(Looked { forecasts, reasons })
}

fn text(plan: &Plan, looked: &Looked) -> String {
    // The cells of a sweep mostly stand side by side and need the same: that is written out once.
    let alike = |a: &NodeId, b: &NodeId| plan.node(*a).estimate == plan.node(*b).estimate;
    let groups: Vec<&[NodeId]> = plan.graph.order().chunk_by(alike).collect();
    let needs =
        wide::map(&groups, |group| group.first().map_or_else(String::new, |id| needs(&plan.node(*id).estimate)));
    let nodes: Vec<(NodeId, &str)> =
        groups.iter().zip(&needs).flat_map(|(group, needs)| group.iter().map(|id| (*id, needs.as_str()))).collect();
    let lines = wide::map(&nodes, |(id, needs)| {
        let node = plan.node(*id);
        let (word, detail) = match &looked.forecasts[id.index()] {
            Forecast::Outside => return String::new(),
            Forecast::Cached(_) => ("cached", String::new()),
            Forecast::Run(_, _) => {
                let why = looked.reasons[id.index()].as_ref().map_or_else(|| "forced".to_owned(), Reason::summary);
                ("run", why + needs)
            }
            Forecast::Unknown(open) => {
                let names: Vec<&str> = open.iter().take(3).map(|id| plan.node(*id).name.as_str()).collect();
                let more = if open.len() > 3 { format!(" and {} more", open.len() - 3) } else { String::new() };
                ("unknown", format!("depends on what {}{more} makes{needs}", names.join(", ")))
            }
        };
        let mut out = String::new();
        line(&mut out, word, (&node.name, node.entry.kind), &detail);
        out
    });
    let number = |of: fn(&Forecast) -> bool| looked.forecasts.iter().filter(|forecast| of(forecast)).count() as u64;
    let cached = number(|forecast| matches!(forecast, Forecast::Cached(_)));
    let run = number(|forecast| matches!(forecast, Forecast::Run(..)));
    let unknown = number(|forecast| matches!(forecast, Forecast::Unknown(_)));
    let mut out = lines.concat();
    totals(&mut out, cached, run, unknown);
    out
}

/// What a node needs: `  [1,053,824 parameters, optimiser state 8.0 MiB, memory about 96.0 MiB]`.
fn needs(estimate: &Estimate) -> String {
    let size = |name: &str, part: Option<u64>| part.map(|size| format!("{name} {}", bytes(size)));
    let parts = [
        estimate.parameters.map(|parameters| count(parameters, "parameter")),
        size("optimiser state", estimate.optimizer_state_bytes),
        size("memory about", estimate.memory_bytes()),
        size("output up to", estimate.output_bytes),
    ];
    let known: Vec<String> = parts.into_iter().flatten().collect();
    if known.is_empty() { String::new() } else { format!("  [{}]", known.join(", ")) }
}

/// What [`text`] says where the last run left nothing to do and nothing has changed since.
fn all_cached(standing: &Standing) -> String {
    let mut out = String::new();
    for node in standing.nodes() {
        line(&mut out, "cached", node, "");
    }
    totals(&mut out, standing.nodes().len() as u64, 0, 0);
    out
}

fn line(out: &mut String, word: &str, (name, kind): (&str, &str), detail: &str) {
    use std::fmt::Write as _;
    let gap = if detail.is_empty() { "" } else { "  " };
    let _ = writeln!(out, "{word:>8}  {name} ({kind}){gap}{detail}");
}

fn totals(out: &mut String, cached: u64, run: u64, unknown: u64) {
    let all = count(cached + run + unknown, "stage");
    out.push_str(&format!("{all}: {cached} cached, {run} to run, {unknown} not known yet\n"));
}

fn as_json(plan: &Plan, looked: &Looked) -> serde_json::Value {
    let nodes = plan.graph.order().iter().filter_map(|id| {
        let node = plan.node(*id);
        let needs: Vec<&str> = plan.graph.dependencies(*id).into_iter().map(|id| plan.node(id).name.as_str()).collect();
        let known = &node.estimate;
        let mut estimate = json!(known);
        estimate["memory_bytes"] = json!(known.memory_bytes());
        let base = |state: &str, key: Option<String>| json!({ "node": node.name, "kind": node.entry.kind, "state": state, "key": key, "needs": needs, "estimate": estimate });
        Some(match &looked.forecasts[id.index()] {
            Forecast::Outside => return None,
            Forecast::Cached(key) => base("cached", Some(key.to_string())),
            Forecast::Run(key, _) => {
                let mut value = base("run", Some(key.to_string()));
                value["why"] = json!(looked.reasons[id.index()]);
                value
            }
            Forecast::Unknown(_) => base("unknown", None),
        })
    });
    json!({ "format": 1, "nodes": nodes.collect::<Vec<_>>() })
}
