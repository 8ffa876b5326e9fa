//! `sepia tag`.

use serde_json::json;

use super::{
    args::{self, Format, Global},
    exit::{Exit, Failure},
    output, project,
    runs::local_time,
};
use crate::diagnostic::nearest;

pub(super) fn tag(global: &Global, args: &args::Tag) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let tags = store.tags()?;
    if let Some(name) = &args.delete {
        if !tags.contains_key(name) {
            let failure = Failure::usage("tag::unknown", format!("no run is called `{name}`"));
            return Err(match nearest(name, tags.keys().map(String::as_str)) {
                Some(near) => failure.help(format!("did you mean `{near}`?")),
                None => failure.help("`sepia tag` lists the names"),
            });
        }
        store.set_tag(name, None)?;
        return Ok(Exit::Fine);
    }
    if let (Some(run), Some(name)) = (&args.run, &args.name) {
        let row = store.find_run(run)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !begins || !name.chars().all(plain) || name.len() > 128 || name == "latest" {
            return Err(Failure::usage("tag::name", format!("`{}` cannot be a tag", name.escape_debug())).help(
                "letters, digits, `-`, `_` and `.`, a letter or digit first; `latest` is always the newest run",
            ));
        }
        store.set_tag(name, Some(&row.run))?;
        let before = tags.get(name).into_iter().flatten().filter(|before| **before != row.run);
        before.for_each(|before| output::note(&format!("`{name}` was run {before} before")));
        return Ok(Exit::Fine);
    }
    let runs = store.list_runs()?;
    let several: Vec<&String> = tags.iter().filter(|(_, runs)| runs.len() > 1).map(|(tag, _)| tag).collect();
    let tags: Vec<(&String, &String)> =
        tags.iter().flat_map(|(tag, runs)| runs.iter().map(move |run| (tag, run))).collect();
    let started = |run: &str| runs.iter().find(|row| row.run == *run).map(|row| row.started_at);
    if args.format == Format::Json {
        let rows = tags.iter().map(|(tag, run)| json!({ "tag": tag, "run": run, "started_at": started(run) }));
        output::json(&serde_json::Value::Array(rows.collect()));
    } else if tags.is_empty() {
        output::note("no run has a name; `sepia tag RUN NAME` gives it one");
    } else {
        let rows = tags.iter().map(|(tag, run)| {
            let short = run[..run.len().min(8)].to_owned();
            vec![(*tag).clone(), short, started(run).map(local_time).unwrap_or_default()]
        });
        output::data(&output::table(&["tag", "run", "started"], rows.collect()));
    }
    for tag in several {
        output::note(&format!("`{tag}` was given to several runs: `sepia tag RUN {tag}` decides"));
    }
    Ok(Exit::Fine)
}
