//! The parts of the page, from top to bottom.

use std::{collections::BTreeMap, fmt::Write as _};

use sepia_cache::Record;

use super::{curves, dag};
use crate::report::{
    figures::{bytes, count, duration, number},
    html::escape,
    plot::{Palette, svg},
    run_view::{NodeView, RunView, State},
};

/// Rows beyond this are left to `sepia show`.
const ROWS: usize = 200;
/// Nodes with all their details.
const DETAILS: usize = 60;

/// `2026-11-23 10:55:05 +00:00`.
pub(super) fn time(unix_ms: i64) -> String {
    let zone = jiff::tz::TimeZone::system();
    let time = jiff::Timestamp::from_millisecond(unix_ms).map(|time| time.to_zoned(zone));
    time.map(|time| time.strftime("%Y-%m-%d %H:%M:%S %:z").to_string()).unwrap_or_default()
}

pub(super) fn all(view: &RunView, now: i64) -> String {
    let mut out = head(view, now);
    running(&mut out, view);
    graph(&mut out, view);
    charts(&mut out, view);
    failures(&mut out, view);
    table(&mut out, view);
    provenance(&mut out, view);
    details(&mut out, view);
    if let Some(manifest) = &view.manifest {
        let _ = write!(out, "<h2>Manifest</h2>\n<pre>{}</pre>\n", escape(manifest));
    }
    out
}

fn state(word: &str) -> String {
    format!(r#"<span class="state {}">{}</span>"#, escape(&word.replace(' ', "-")), escape(word))
}

fn head(view: &RunView, now: i64) -> String {
    let row = &view.row;
    let end = row.finished_at.unwrap_or(now);
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let took = (end - row.started_at).max(0) as f64 / 1000.0;
    let counts = [State::Running, State::Done, State::Cached, State::Failed, State::Skipped, State::Waiting]
        .into_iter()
        .filter(|state| view.count(*state) > 0)
        .map(|state| format!("{} {}", view.count(state), state.name()));
    format!(
        "<h1>{} {}</h1>\n<p>Run <code>{}</code>, started {}, {} {}.</p>\n<p>{}: {}.</p>\n<p class=\"muted\"><code>{}</code></p>\n",
        escape(&row.manifest),
        state(view.outcome()),
        escape(&row.run),
        escape(&time(row.started_at)),
        if view.alive { "going on for" } else { "took" },
        duration(took),
        count(view.nodes.len() as u64, "stage"),
        counts.collect::<Vec<_>>().join(", "),
        escape(&row.command),
    )
}

/// What is going on: a bar for each running stage and the end of its log.
fn running(out: &mut String, view: &RunView) {
    let running: Vec<&NodeView> = view.nodes.iter().filter(|node| node.state == State::Running).collect();
    if running.is_empty() {
        return;
    }
    out.push_str("<h2>Now</h2>\n");
    for node in running {
        let _ = write!(out, "<div class=\"card\"><p><b>{}</b> ", escape(&node.node));
        if let Some(progress) = &node.progress {
            let figures: Vec<String> =
                progress.figures.iter().map(|(name, value)| format!("{} {}", escape(name), number(*value))).collect();
            let _ = write!(
                out,
                "{} {} of {} <span class=\"muted\">{}</span></p><progress max=\"{}\" value=\"{}\"></progress>",
                escape(&progress.unit),
                progress.done,
                progress.total,
                figures.join(", "),
                progress.total,
                progress.done
            );
        } else {
            out.push_str("</p>");
        }
        log(out, node);
        out.push_str("</div>\n");
    }
}

fn log(out: &mut String, node: &NodeView) {
    if !node.log.is_empty() {
        let _ = write!(out, "<pre>{}</pre>", escape(&node.log.join("\n")));
    }
}

fn graph(out: &mut String, view: &RunView) {
    if let Some(scene) = dag::scene(view) {
        let _ = write!(out, "<h2>Graph</h2>\n<div class=\"card graph\">{}</div>\n", svg(&scene, Palette::Page));
    }
}

fn charts(out: &mut String, view: &RunView) {
    let (charts, all) = curves::charts(view);
    if charts.is_empty() {
        return;
    }
    out.push_str("<h2>Curves</h2>\n");
    for chart in &charts {
        // A wide picture made small would be too small to read: two, of which one is shown.
        for (class, width, height) in [("wide", 860.0, 340.0), ("narrow", 340.0, 280.0)] {
            let picture = svg(&chart.scene(width, height), Palette::Page);
            let _ = writeln!(out, "<div class=\"card {class}\">{picture}</div>");
        }
    }
    if all > charts.len() {
        let _ = writeln!(
            out,
            "<p class=\"muted\">{} more: <code>sepia plot</code></p>",
            count((all - charts.len()) as u64, "metric")
        );
    }
}

fn failures(out: &mut String, view: &RunView) {
    for node in view.nodes.iter().filter(|node| node.state == State::Failed).take(ROWS) {
        let message = node.record.as_ref().and_then(|record| record.error.as_deref()).or(node.because.as_deref());
        let _ = write!(
            out,
            "<h2>{} failed</h2>\n<div class=\"card\"><p>{}</p>",
            escape(&node.node),
            escape(message.unwrap_or("It did not say why."))
        );
        log(out, node);
        out.push_str("</div>\n");
    }
}

/// The figures of a whole execution.
fn figures(record: &Record) -> BTreeMap<&str, f64> {
    let whole = record.metrics.iter().filter_map(|(name, series)| {
        let (_, value) = series.points().find(|(step, _)| step.is_none())?;
        Some((name, value))
    });
    whole.collect()
}

/// One table a kind, so that figures stand in columns.
fn table(out: &mut String, view: &RunView) {
    let mut kinds: Vec<&str> = Vec::new();
    view.nodes.iter().for_each(|node| {
        if !kinds.contains(&node.kind.as_str()) {
            kinds.push(&node.kind);
        }
    });
    out.push_str("<h2>Stages</h2>\n");
    for kind in kinds {
        let nodes: Vec<&NodeView> = view.nodes.iter().filter(|node| node.kind == kind).collect();
        let all: Vec<BTreeMap<&str, f64>> =
            nodes.iter().map(|node| node.record.as_ref().map(figures).unwrap_or_default()).collect();
        let mut names: Vec<&str> = all.iter().flat_map(|figures| figures.keys().copied()).collect();
        names.sort_unstable();
        names.dedup();
        let _ = write!(
            out,
            "<div class=\"card\"><table><tr><th>{}</th><th>state</th><th class=\"number\">time</th>",
            escape(if kind.is_empty() { "stage" } else { kind })
        );
        for name in &names {
            let _ = write!(out, "<th class=\"number\">{}</th>", escape(name));
        }
        out.push_str("</tr>\n");
        for (node, figures) in nodes.iter().zip(&all).take(ROWS) {
            let seconds = node.record.as_ref().map(|record| duration(record.wall_seconds)).unwrap_or_default();
            let because = node.because.as_ref().map(|text| format!(" <span class=\"muted\">{}</span>", escape(text)));
            let _ = write!(
                out,
                "<tr><td>{}</td><td>{}{}</td><td class=\"number\">{seconds}</td>",
                escape(&node.node),
                state(node.state.name()),
                because.unwrap_or_default()
            );
            for name in &names {
                let _ = write!(
                    out,
                    "<td class=\"number\">{}</td>",
                    figures.get(name).map(|value| number(*value)).unwrap_or_default()
                );
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</table></div>\n");
        if nodes.len() > ROWS {
            let _ = writeln!(
                out,
                "<p class=\"muted\">{} more: <code>sepia show {}</code></p>",
                nodes.len() - ROWS,
                escape(&view.row.run)
            );
        }
    }
}

/// Where the results come from; what is the same for all, once.
fn provenance(out: &mut String, view: &RunView) {
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in view.nodes.iter().filter_map(|node| node.record.as_ref()) {
        let mut flat = BTreeMap::new();
        crate::key::flatten("", &record.provenance, &mut flat);
        for (name, value) in flat.into_iter().filter(|(name, value)| name != "log" && !value.is_null()) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let values = seen.entry(name).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
    }
    if seen.is_empty() {
        return;
    }
    out.push_str("<h2>Provenance</h2>\n<div class=\"card\"><dl>");
    for (name, values) in seen {
        let more = values.len().saturating_sub(6);
        let mut text = values.into_iter().take(6).collect::<Vec<_>>().join(", ");
        if more > 0 {
            let _ = write!(text, " and {more} more");
        }
        let _ = write!(out, "<dt>{}</dt><dd>{}</dd>", escape(&name), escape(&text));
    }
    out.push_str("</dl></div>\n");
}

/// What each node was made of and what it left.
fn details(out: &mut String, view: &RunView) {
    let with_record = view.nodes.iter().filter_map(|node| Some((node, node.record.as_ref()?)));
    let mut any = false;
    for (node, record) in with_record.take(DETAILS) {
        if !std::mem::replace(&mut any, true) {
            out.push_str("<h2>Details</h2>\n");
        }
        let _ = write!(out, "<details class=\"card\"><summary>{}</summary><dl>", escape(&node.node));
        let mut row = |name: &str, value: &str| {
            let _ = write!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
        };
        row("key", &record.key.to_string());
        row("made in run", &record.run);
        row("seed", &record.seed.to_string());
        row("processor time", &duration(record.cpu_seconds));
        row("most memory", &bytes(record.peak_memory_bytes));
        let mut params = BTreeMap::new();
        crate::key::flatten("", &serde_json::Value::Object(record.params.clone()), &mut params);
        params.iter().for_each(|(name, value)| row(name, &value.to_string()));
        record.inputs.iter().for_each(|input| row(&format!("input {}", input.port), &input.digest.to_string()));
        for output in &record.outputs {
            let object = &output.object;
            row(&format!("output {}", output.port), &format!("{} ({})", object.digest, bytes(object.bytes)));
        }
        out.push_str("</dl></details>\n");
    }
}
