//! `sepia explain`.

use std::collections::BTreeMap;

use sepia_cache::{Digest, Record, Store};
use serde_json::json;

use super::{
    args::{self, Format, Global},
    exit::{Exit, Failure},
    output, project,
};
use crate::{
    diagnostic::Diagnostic,
    exec::{Forecast, KeyError, Reason, Reasons, forecast},
    graph::NodeId,
    key::{FieldChange, KeyInputs, StageKey},
    plan::Plan,
    stage::Registry,
};

/// What is explained, and the answer.
struct Explained {
    what: String,
    state: &'static str,
    reason: Option<Reason>,
    /// For each input that changed: the stage that made what it is now, and why that ran.
    upstream: Vec<Explained>,
    /// Stages whose results decide it, when they are not known yet.
    undecided: Vec<String>,
}

/// How far upstream an explanation goes.
const DEPTH: usize = 8;
/// How many inputs of one stage it follows.
const SHOWN: usize = 5;

impl Explained {
    fn new(what: String, state: &'static str) -> Self {
        Self { what, state, reason: None, upstream: Vec::new(), undecided: Vec::new() }
    }
}

pub(super) fn explain(registry: Registry, global: &Global, args: &args::Explain) -> Result<Exit, Failure> {
    let explained = match &args.manifest {
        Some(manifest) => before(registry, global, manifest, args)?,
        None => after(global, &args.what)?,
    };
    match args.format {
        Format::Text => output::data(&text(&explained, "")),
        Format::Json => output::json(&as_json(&explained)),
    }
    Ok(Exit::Fine)
}

fn as_json(explained: &Explained) -> serde_json::Value {
    json!({
        "format": 1,
        "what": explained.what,
        "state": explained.state,
        "why": explained.reason,
        "upstream": explained.upstream.iter().map(as_json).collect::<Vec<_>>(),
        "depends_on": explained.undecided,
    })
}

/// Why a stage of a manifest would run now.
fn before(
    registry: Registry,
    global: &Global,
    manifest: &camino::Utf8Path,
    args: &args::Explain,
) -> Result<Explained, Failure> {
    let name = args.what.as_str();
    let project = project::load(registry, manifest, &args.changes)?;
    let plan = &project.plan;
    let Some(id) = plan.find(name) else {
        let failure = Failure::usage("explain::unknown-stage", format!("{manifest} has no stage `{name}`"));
        return Err(match crate::diagnostic::nearest(name, plan.nodes.iter().map(|node| node.name.as_str())) {
            Some(near) => failure.help(format!("did you mean `{near}`?")),
            None => failure.help(format!("`sepia plan {manifest}` lists its stages")),
        });
    };
    let store = project::existing_store(global, Some(manifest))?;
    let chosen = plan.graph.reachable([id], petgraph::Direction::Incoming);
    let forecasts = forecast(plan, &store, &chosen, &vec![false; chosen.len()]).map_err(|error| match error {
        KeyError::Store(error) => Failure::from(error),
        other => Failure::of(Exit::Usage, Diagnostic::error("plan::unreadable-file", other.to_string())),
    })?;
    explain_forecast(&store, plan, &forecasts, id, DEPTH)
}

fn explain_forecast(
    store: &Store,
    plan: &Plan,
    forecasts: &[Forecast],
    id: NodeId,
    depth: usize,
) -> Result<Explained, Failure> {
    let name = &plan.node(id).name;
    Ok(match &forecasts[id.index()] {
        Forecast::Cached(key) => Explained::new(format!("{name} ({key})"), "cached"),
        Forecast::Run(key, inputs) => {
            let why = Reasons::new(store, None).of(name, key, inputs)?;
            let upstream = explain_inputs(store, &why, depth)?;
            Explained { reason: Some(why), upstream, ..Explained::new(format!("{name} ({key})"), "run") }
        }
        Forecast::Unknown(open) => {
            let below = depth.saturating_sub(1);
            let shown = if depth == 0 { 0 } else { open.len().min(SHOWN) };
            let upstream = open[..shown].iter().map(|id| explain_forecast(store, plan, forecasts, *id, below));
            let undecided = open.iter().map(|id| plan.node(*id).name.clone()).collect();
            Explained {
                upstream: upstream.collect::<Result<_, _>>()?,
                undecided,
                ..Explained::new(name.clone(), "unknown")
            }
        }
        Forecast::Outside => Explained::new(name.clone(), "outside"),
    })
}

/// Why a past execution ran: of a key, or the newest of a stage.
fn after(global: &Global, what: &str) -> Result<Explained, Failure> {
    let store = project::existing_store(global, None)?;
    let record = match find(&store, what)? {
        Some(id) => store.record(&id)?,
        None => None,
    };
    let Some(record) = record else {
        return Err(Failure::usage("explain::not-found", format!("no stage and no key `{what}` has run here"))
            .help("`sepia explain STAGE --manifest FILE` says why a stage of a manifest would run"));
    };
    explain_record(&store, &record, DEPTH)
}

fn explain_record(store: &Store, record: &Record, depth: usize) -> Result<Explained, Failure> {
    let what = format!("{} of run {} ({})", record.node, record.run, record.key);
    let inputs: KeyInputs = serde_json::from_value(record.key_inputs.clone()).map_err(|error| {
        Failure::usage("explain::unreadable", format!("the record of {what} cannot be read: {error}"))
    })?;
    let why = Reasons::new(store, Some(record.started_at)).of(&record.node, &StageKey(record.key), &inputs)?;
    let upstream = explain_inputs(store, &why, depth)?;
    Ok(Explained { reason: Some(why), upstream, ..Explained::new(what, "ran") })
}

/// For each input whose content changed, why the stage that made the new content ran.
fn explain_inputs(store: &Store, why: &Reason, depth: usize) -> Result<Vec<Explained>, Failure> {
    let Reason::Changed { changes, .. } = why else { return Ok(Vec::new()) };
    if depth == 0 {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for change in changes.iter().filter(|change| change.field.starts_with("inputs.")) {
        let before = change.before.as_ref().and_then(|value| value.as_array());
        let after = change.after.iter().filter_map(|value| value.as_array()).flatten();
        let new = after.filter(|digest| before.is_none_or(|before| !before.contains(digest)));
        for digest in new.filter_map(|digest| digest.as_str()?.parse::<Digest>().ok()).take(SHOWN) {
            // The oldest: the execution that first made these bytes.
            let Some((id, _)) = store.records_of(&digest)?.pop() else { continue };
            if let Some(record) = store.record(&id)? {
                found.push(explain_record(store, &record, depth - 1)?);
            }
        }
    }
    Ok(found)
}

fn find(store: &Store, what: &str) -> Result<Option<sepia_cache::RecordId>, Failure> {
    if let Some(id) = store.latest_by_node(what)? {
        return Ok(Some(id));
    }
    let looks_like_key = what.len() >= 6 && what.chars().all(|c| c.is_ascii_hexdigit());
    if !looks_like_key {
        return Ok(None);
    }
    let key: Digest = store.find_key(&what.to_lowercase())?;
    Ok(store.records_by_key(&key)?.first().copied())
}

fn text(explained: &Explained, indent: &str) -> String {
    let what = &explained.what;
    let mut out = match explained.state {
        "cached" => format!("{indent}{what} is in the store: it would not run\n"),
        "run" => format!("{indent}{what} would run\n"),
        "ran" => format!("{indent}{what} ran\n"),
        _ => format!(
            "{indent}{what} depends on what {} makes: if that is the same as before, it will not run\n",
            explained.undecided.join(", ")
        ),
    };
    match &explained.reason {
        Some(Reason::Changed { compared_with, changes }) => {
            out.push_str(&format!("{indent}compared with {compared_with}, these differ:\n"));
            for change in changes {
                out.push_str(&format!("{indent}{}", change_line(change)));
            }
        }
        Some(other) => out.push_str(&format!("{indent}because {}\n", other.summary())),
        None => {}
    }
    let deeper = format!("{indent}  ");
    explained.upstream.iter().for_each(|upstream| out.push_str(&text(upstream, &deeper)));
    out
}

fn change_line(change: &FieldChange) -> String {
    let side = |value: &Option<serde_json::Value>| value.as_ref().map_or_else(|| "(not there)".to_owned(), short);
    let note = match change.field.as_str() {
        "version" => "   the code of this stage kind changed",
        field if field.starts_with("inputs.") => "   an upstream output changed, see below",
        field if field.contains("$content") => "   an input file changed",
        _ => "",
    };
    let field = change.field.replace(".$content", "");
    if let (Some(before), Some(after)) = (&change.before, &change.after)
        && let Some(files) = changed_files(before, after)
    {
        return format!("  {field}: {files}\n");
    }
    format!("  {field}: {} -> {}{note}\n", side(&change.before), side(&change.after))
}

/// Which files of a folder or pattern differ: their content is listed as pairs of name and digest. `None` for anything
/// else.
fn changed_files(before: &serde_json::Value, after: &serde_json::Value) -> Option<String> {
    fn named(list: &serde_json::Value) -> Option<BTreeMap<&str, &str>> {
        let list = list.as_array().filter(|list| !list.is_empty())?;
        list.iter().map(|one| Some((one.get(0)?.as_str()?, one.get(1)?.as_str()?))).collect()
    }
    let (before, after) = (named(before)?, named(after)?);
    let list = |what: &str, names: Vec<&str>| {
        let shown = names.iter().take(8).copied().collect::<Vec<_>>().join(", ");
        let more = if names.len() > 8 { format!(" and {} more", names.len() - 8) } else { String::new() };
        (!names.is_empty()).then(|| format!("{what}: {shown}{more}"))
    };
    let new = after.keys().copied().filter(|name| !before.contains_key(name)).collect();
    let gone = before.keys().copied().filter(|name| !after.contains_key(name)).collect();
    let changed = after.iter().filter(|(name, digest)| before.get(*name).is_some_and(|old| old != *digest));
    let changed = changed.map(|(name, _)| *name).collect();
    let parts = [list("new", new), list("gone", gone), list("changed", changed)];
    Some(parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
}

/// Digests are cut to what tells them apart.
fn short(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) if text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit()) => {
            text[..12].to_owned()
        }
        serde_json::Value::Array(items) => format!("[{}]", items.iter().map(short).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}
