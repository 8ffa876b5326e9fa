//! `sepia explain`.

use sepia_cache::{Digest, Store};
use serde_json::json;

use super::{
    args::{self, Format, Global},
    exit::{Exit, Failure},
    output, project,
};
use crate::{
    diagnostic::Diagnostic,
    exec::{Forecast, KeyError, Reason, forecast, reason},
    key::{FieldChange, KeyInputs},
    stage::Registry,
};

/// What is explained, and the answer.
struct Explained {
    what: String,
    state: &'static str,
    reason: Option<Reason>,
    /// Stages whose results decide it, when they are not known yet.
    undecided: Vec<String>,
}

pub(super) fn explain(registry: Registry, global: &Global, args: &args::Explain) -> Result<Exit, Failure> {
    let explained = match &args.manifest {
        Some(manifest) => before(registry, global, manifest, args)?,
        None => after(global, &args.what)?,
    };
    match args.format {
        Format::Text => output::data(&text(&explained)),
        Format::Json => output::json(&json!({
            "format": 1, "what": explained.what, "state": explained.state, "why": explained.reason, "depends_on": explained.undecided,
        })),
    }
    Ok(Exit::Fine)
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
    Ok(match &forecasts[id.index()] {
        Forecast::Cached(key) => {
            Explained { what: format!("{name} ({key})"), state: "cached", reason: None, undecided: Vec::new() }
        }
        Forecast::Run(key, inputs) => Explained {
            what: format!("{name} ({key})"),
            state: "run",
            reason: Some(reason(&store, name, inputs, None)?),
            undecided: Vec::new(),
        },
        Forecast::Unknown(open) => Explained {
            what: name.to_owned(),
            state: "unknown",
            reason: None,
            undecided: open.iter().map(|id| plan.node(*id).name.clone()).collect(),
        },
        Forecast::Outside => {
            return Err(Failure::usage("explain::unknown-stage", format!("{manifest} has no stage `{name}`")));
        }
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
    let inputs: KeyInputs = serde_json::from_value(record.key_inputs.clone()).map_err(|error| {
        Failure::usage("explain::unreadable", format!("the record of `{what}` cannot be read: {error}"))
    })?;
    let why = reason(&store, &record.node, &inputs, Some(record.started_at))?;
    Ok(Explained {
        what: format!("{} of run {} ({})", record.node, record.run, record.key),
        state: "ran",
        reason: Some(why),
        undecided: Vec::new(),
    })
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

fn text(explained: &Explained) -> String {
    let mut out = match explained.state {
        "cached" => format!("{} is in the store: it would not run\n", explained.what),
        "run" => format!("{} would run\n", explained.what),
        "ran" => format!("{} ran\n", explained.what),
        _ => format!(
            "{} depends on what {} makes: if that is the same as before, it will not run\n",
            explained.what,
            explained.undecided.join(", ")
        ),
    };
    match &explained.reason {
        Some(Reason::Changed { compared_with, changes }) => {
            out.push_str(&format!("compared with {compared_with}, these differ:\n"));
            for change in changes {
                out.push_str(&change_lines(change));
            }
        }
        Some(other) => out.push_str(&format!("because {}\n", other.summary())),
        None => {}
    }
    out
}

fn change_lines(change: &FieldChange) -> String {
    let side = |value: &Option<serde_json::Value>| value.as_ref().map_or_else(|| "(not there)".to_owned(), short);
    let note = match change.field.as_str() {
        "version" => "   the code of this stage kind changed",
        field if field.starts_with("inputs.") => "   an upstream output changed: explain that stage",
        field if field.contains("$content") => "   an input file changed",
        _ => "",
    };
    let field = change.field.replace(".$content", "");
    format!("  {field}: {} -> {}{note}\n", side(&change.before), side(&change.after))
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
