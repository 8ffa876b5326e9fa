//! `sepia runs`.

use serde_json::json;

use super::{
    args::{self, Format, Global},
    exit::{Exit, Failure},
    output, project,
};
use crate::report::figures::duration;

pub(super) fn runs(global: &Global, args: &args::Runs) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let mut runs = store.list_runs()?;
    runs.truncate(args.limit);
    let state = |row: &sepia_cache::RunRow| match &row.outcome {
        Some(outcome) => outcome.clone(),
        None if store.run_is_alive(&row.run) => "running".to_owned(),
        None => "died".to_owned(),
    };
    if args.format == Format::Json {
        let rows = runs.iter().map(|row| {
            json!({
                "run": row.run, "manifest": row.manifest, "started_at": row.started_at, "finished_at": row.finished_at,
                "outcome": state(row), "counts": row.counts, "command": row.command,
            })
        });
        output::json(&serde_json::Value::Array(rows.collect()));
        return Ok(Exit::Fine);
    }
    let rows = runs.iter().map(|row| {
        let took = row.finished_at.map_or_else(String::new, |end| seconds_between(row.started_at, end));
        vec![
            row.run[..row.run.len().min(8)].to_owned(),
            local_time(row.started_at),
            took,
            state(row),
            row.counts.done.to_string(),
            row.counts.cached.to_string(),
            row.counts.failed.to_string(),
            row.manifest.clone(),
        ]
    });
    output::data(&output::table(
        &["run", "started", "took", "outcome", "ran", "cached", "failed", "manifest"],
        rows.collect(),
    ));
    Ok(Exit::Fine)
}

pub(super) fn seconds_between(start: i64, end: i64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    duration((end - start).max(0) as f64 / 1000.0)
}

/// `2026-11-23 10:55:05`, in the user's time zone.
pub(super) fn local_time(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms)
        .map(|time| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string())
        .unwrap_or_default()
}
