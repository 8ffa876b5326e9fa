//! `sepia plan`, and `sepia run --dry-run`.

use std::sync::Arc;

use sepia_cache::Store;
use serde_json::json;

use super::{
    args::{self, Chosen, Format, Global},
    exit::{Exit, Failure},
    output, project, run,
};
use crate::{
    diagnostic::{Diagnostic, Sources},
    exec::{
        ExecutorChoice, SlurmOptions,
        slurm::{Line, lines},
    },
    exec::{Forecast, KeyError, Reason, forecast, lookup, reason},
    plan::{Plan, select},
    report::figures::count,
    stage::Registry,
};

pub(super) fn plan(registry: Registry, global: &Global, args: &args::Plan) -> Result<Exit, Failure> {
    if args.resolved {
        output::data(&project::resolved(&args.chosen.source.manifest, &args.chosen.source.changes)?);
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
    let project = project::load(registry, &chosen.source.manifest, &chosen.source.changes)?;
    let wrong = |found| Failure { exit: Exit::Usage, found, sources: Sources::default() };
    let selected = select(&project.plan, &run::selection(chosen)).map_err(wrong)?;
    let forced = lookup::forced(&project.plan, &chosen.force, &selected).map_err(wrong)?;
    let looked = look(global, chosen, &project.plan, &selected, &forced)?;
    let (now, later) = match super::executor::choose(&project.plan, executor)? {
        ExecutorChoice::Local => (Vec::new(), Vec::new()),
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

fn look(global: &Global, chosen: &Chosen, plan: &Plan, selected: &[bool], forced: &[bool]) -> Result<Looked, Failure> {
    let path = project::store_path(global, Some(&chosen.source.manifest))?;
    if !path.is_dir() {
        // Nothing has ever run here: a store in a folder that goes away says the same.
        let nothing = tempfile::tempdir()?;
        let root = camino::Utf8PathBuf::try_from(nothing.path().join("store")).map_err(std::io::Error::other)?;
        let store = Arc::new(Store::open(&root, sepia_cache::OpenMode::Create)?);
        return look_in(&store, plan, selected, forced);
    }
    look_in(&project::existing_store(global, Some(&chosen.source.manifest))?, plan, selected, forced)
}

fn look_in(store: &Arc<Store>, plan: &Plan, selected: &[bool], forced: &[bool]) -> Result<Looked, Failure> {
    let forecasts = forecast(plan, store, selected, forced).map_err(|error| match error {
        KeyError::Store(error) => Failure::from(error),
        other => Failure::of(Exit::Usage, Diagnostic::error("plan::unreadable-file", other.to_string())),
    })?;
    let reasons = plan.ids().map(|id| match &forecasts[id.index()] {
        Forecast::Run(_, _) if forced[id.index()] => Ok(None),
        Forecast::Run(_, inputs) => reason(store, &plan.node(id).name, inputs, None).map(Some),
        _ => Ok(None),
    });
    let reasons = reasons.collect::<Result<_, _>>()?;
    Ok(Looked { forecasts, reasons })
}

fn text(plan: &Plan, looked: &Looked) -> String {
    let mut out = String::new();
    let (mut cached, mut run, mut unknown) = (0, 0, 0);
    for id in plan.graph.order() {
        let node = plan.node(*id);
        let (word, detail) = match &looked.forecasts[id.index()] {
            Forecast::Outside => continue,
            Forecast::Cached(_) => {
                cached += 1;
                ("cached", String::new())
            }
            Forecast::Run(_, _) => {
                run += 1;
                let why = looked.reasons[id.index()].as_ref().map_or_else(|| "forced".to_owned(), Reason::summary);
                ("run", why)
            }
            Forecast::Unknown(open) => {
                unknown += 1;
                let names: Vec<&str> = open.iter().take(3).map(|id| plan.node(*id).name.as_str()).collect();
                let more = if open.len() > 3 { format!(" and {} more", open.len() - 3) } else { String::new() };
                ("unknown", format!("depends on what {}{more} makes", names.join(", ")))
            }
        };
        let detail = if detail.is_empty() { detail } else { format!("  {detail}") };
        out.push_str(&format!("{word:>8}  {} ({}){detail}\n", node.name, node.entry.kind));
    }
    out.push_str(&format!(
        "{}: {cached} cached, {run} to run, {unknown} not known yet\n",
        count(cached + run + unknown, "stage")
    ));
    out
}

fn as_json(plan: &Plan, looked: &Looked) -> serde_json::Value {
    let nodes = plan.graph.order().iter().filter_map(|id| {
        let node = plan.node(*id);
        let needs: Vec<&str> = plan.graph.dependencies(*id).into_iter().map(|id| plan.node(id).name.as_str()).collect();
        let base = |state: &str, key: Option<String>| json!({ "node": node.name, "kind": node.entry.kind, "state": state, "key": key, "needs": needs });
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
