//! `sepia compare`: what differs between two results or two runs, and nothing that is equal.

use std::collections::{BTreeMap, BTreeSet};

use sepia_cache::{Record, Store};
use serde_json::{Map, Value, json};

use super::{
    args::{self, Format, Global},
    exit::{Exit, Failure},
    output, project,
};
use crate::{
    key::flatten,
    report::{figures::number, run_view::RunView, tabulate::number_json},
};

/// What differs, by section and name: the value on either side, if it is there.
type Differences = BTreeMap<&'static str, BTreeMap<String, (Option<Value>, Option<Value>)>>;

pub(super) fn compare(global: &Global, args: &args::Compare) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let (a, b) = (find(&store, &args.a)?, find(&store, &args.b)?);
    let found = match (&a, &b) {
        (Side::One(a), Side::One(b)) => vec![(String::new(), differences(Some(a), Some(b)))],
        (Side::Run(a), Side::Run(b)) => {
            let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            names.into_iter().map(|name| (name.clone(), differences(a.get(name), b.get(name)))).collect()
        }
        _ => {
            return Err(Failure::usage("compare::unlike", "a whole run cannot be compared with one stage")
                .help("name two runs, or two stages, keys or records; `RUN/STAGE` is a stage of a run"));
        }
    };
    let found: Vec<_> = found.into_iter().filter(|(_, differences)| !differences.is_empty()).collect();
    if args.format == Format::Json {
        let all: Map<String, Value> =
            found.iter().map(|(name, differences)| (name.clone(), as_json(differences))).collect();
        output::json(&match (&a, all) {
            (Side::One(_), mut all) => all.remove("").unwrap_or_else(|| json!({})),
            (Side::Run(_), all) => json!({ "nodes": all }),
        });
        return Ok(Exit::Fine);
    }
    if found.is_empty() {
        output::note("nothing differs");
    } else {
        output::data(&format!("a  {}\nb  {}\n\n", args.a, args.b));
    }
    for (name, differences) in &found {
        if !name.is_empty() {
            output::data(&format!("{name}\n"));
        }
        let rows = differences.iter().flat_map(|(section, of_section)| {
            of_section.iter().map(|(name, (a, b))| {
                vec![
                    (*section).to_owned(),
                    name.clone(),
                    shown(a.as_ref()),
                    shown(b.as_ref()),
                    change(a.as_ref(), b.as_ref()),
                ]
            })
        });
        output::data(&output::table(&["what", "name", "a", "b", "change"], rows.collect()));
    }
    Ok(Exit::Fine)
}

/// What a person named.
pub(super) enum Side {
    One(Box<Record>),
    /// The results of a run by node.
    Run(BTreeMap<String, Record>),
}

/// A run, `RUN/STAGE`, a stage (its newest result), a key or a record.
pub(super) fn find(store: &Store, text: &str) -> Result<Side, Failure> {
    if let Ok(run) = store.find_run(text) {
        return Ok(Side::Run(results_of(store, run)?));
    }
    if let Some((run, stage)) = text.split_once('/')
        && let Ok(run) = store.find_run(run)
    {
        let mut results = results_of(store, run)?;
        let Some(record) = results.remove(stage) else {
            let failure = Failure::usage("compare::unknown-stage", format!("that run has no result of `{stage}`"));
            let near = crate::diagnostic::nearest(stage, results.keys().map(String::as_str));
            return Err(match near {
                Some(near) => failure.help(format!("did you mean `{near}`?")),
                None => failure,
            });
        };
        return Ok(Side::One(Box::new(record)));
    }
    let id = match store.latest_by_node(text)? {
        Some(id) => Some(id),
        None => match store.find_key(text) {
            Ok(key) => store.records_by_key(&key)?.first().copied(),
            Err(_) => store.find_record(text).ok(),
        },
    };
    if let Some(record) = id.map(|id| store.record(&id)).transpose()?.flatten() {
        return Ok(Side::One(Box::new(record)));
    }
    let nodes: BTreeSet<String> = store.executions()?.into_iter().map(|row| row.node).collect();
    let failure = Failure::usage("compare::unknown", format!("there is no run, stage, key or record `{text}`"));
    Err(match crate::diagnostic::nearest(text, nodes.iter().map(String::as_str)) {
        Some(near) => failure.help(format!("did you mean `{near}`?")),
        None => failure.help("`sepia runs` and `sepia results` list what there is"),
    })
}

fn results_of(store: &Store, run: sepia_cache::RunRow) -> Result<BTreeMap<String, Record>, Failure> {
    let nodes = RunView::load(store, run)?.nodes;
    Ok(nodes.into_iter().filter_map(|node| Some((node.node, node.record?))).collect())
}

/// What may differ, section by section. What a machine measures (times) is not compared: it always differs.
fn sections(record: &Record) -> Vec<(&'static str, BTreeMap<String, Value>)> {
    let flat = |value: &Value| {
        let mut flat = BTreeMap::new();
        flatten("", value, &mut flat);
        flat
    };
    let stage = [
        ("kind", json!(record.kind)),
        ("version", json!(record.stage_version)),
        ("seed", json!(record.seed)),
        ("outcome", json!(record.outcome)),
        ("key", json!(record.key)),
    ];
    let inputs = record.inputs.iter().map(|input| {
        let name = if input.position > 0 { format!("{}[{}]", input.port, input.position) } else { input.port.clone() };
        (name, json!(input.digest))
    });
    let outputs = record.outputs.iter().map(|output| (output.port.clone(), json!(output.object.digest)));
    // Of a curve, its last value; of both kinds, the figure of the whole.
    let metrics = record.metrics.iter().filter_map(|(name, series)| {
        let whole = series.points().find(|(step, _)| step.is_none()).or_else(|| series.points().last())?;
        Some((name.to_owned(), number_json(whole.1)))
    });
    let mut provenance = flat(&record.provenance);
    provenance.remove("log");
    vec![
        ("stage", stage.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ("parameter", flat(&Value::Object(record.params.clone()))),
        ("input", inputs.collect()),
        ("output", outputs.collect()),
        ("metric", metrics.collect()),
        ("provenance", provenance),
    ]
}

fn differences(a: Option<&Record>, b: Option<&Record>) -> Differences {
    let side = |record: Option<&Record>| record.map(sections).unwrap_or_default();
    let (Some(_), Some(_)) = (a, b) else {
        // Only one run has it: that is the difference.
        let there = |record: Option<&Record>| record.map(|record| json!(record.key));
        return BTreeMap::from([("stage", BTreeMap::from([("key".to_owned(), (there(a), there(b)))]))]);
    };
    let mut found = Differences::new();
    for ((section, a), (_, b)) in side(a).into_iter().zip(side(b)) {
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for name in names {
            if a.get(name) != b.get(name) {
                found.entry(section).or_default().insert(name.clone(), (a.get(name).cloned(), b.get(name).cloned()));
            }
        }
    }
    found
}

fn as_json(differences: &Differences) -> Value {
    let section = |of_section: &BTreeMap<String, (Option<Value>, Option<Value>)>| {
        let all = of_section.iter().map(|(name, (a, b))| (name.clone(), json!({ "a": a, "b": b })));
        Value::Object(all.collect())
    };
    Value::Object(differences.iter().map(|(name, of_section)| ((*name).to_owned(), section(of_section))).collect())
}

/// For people: digests by their beginning.
fn shown(value: Option<&Value>) -> String {
    match value {
        None => "-".to_owned(),
        Some(Value::String(text)) if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            text[..12].to_owned()
        }
        Some(Value::String(text)) => {
            text.chars().take(48).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
        }
        Some(Value::Number(figure)) => figure.as_f64().map(number).unwrap_or_default(),
        Some(other) => other.to_string().chars().take(48).collect(),
    }
}

/// By how much a figure changed.
fn change(a: Option<&Value>, b: Option<&Value>) -> String {
    let (Some(a), Some(b)) = (a.and_then(Value::as_f64), b.and_then(Value::as_f64)) else { return String::new() };
    if a == 0.0 { String::new() } else { format!("{:+.2}%", (b - a) / a.abs() * 100.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_relative_and_digests_short() {
        assert_eq!(change(Some(&json!(4.0)), Some(&json!(3.0))), "-25.00%");
        assert_eq!(change(Some(&json!(-2.0)), Some(&json!(-1.0))), "+50.00%");
        assert_eq!(change(Some(&json!("x")), Some(&json!(1.0))), "");
        assert_eq!(shown(Some(&json!("ab".repeat(32)))), "abababababab");
        assert_eq!(shown(Some(&json!("\u{1b}[31m"))), "\u{fffd}[31m");
        assert_eq!(shown(None), "-");
    }
}
