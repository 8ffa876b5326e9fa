//! `sepia push` and `sepia pull`.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use sepia_cache::{OpenRemote, Outputs, Progress, Store, What};
use serde_json::json;

use super::{
    args::{self, Format, Global},
    exit::{Exit, Failure},
    merge, output, project, trust,
};
use crate::report::figures::{bytes, count};

pub(super) fn push(global: &Global, args: &args::Push) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    trust::sign(&store)?;
    let (remote, words) = remote_and_rest(&store, &args.words)?;
    let what = what(&store, &words, &[], &[], outputs(&args.transfer))?;
    let teller = Teller::new(global, args.transfer.format, "pushing", "to", &remote);
    let pushed = store.push(&remote, &what, &|progress| teller.progress(progress))?;
    teller.end();
    if args.transfer.format == Format::Json {
        output::line(&json!({
            "event": "pushed", "remote": remote.config.name, "records": pushed.records, "runs": pushed.runs,
            "tags": pushed.tags, "outputs": pushed.objects, "bytes": pushed.bytes, "known_outputs": pushed.known_objects,
            "absent_outputs": pushed.absent,
        }));
        return Ok(Exit::Fine);
    }
    let tags = if pushed.tags > 0 { format!(", {}", count(pushed.tags, "tag change")) } else { String::new() };
    let mut text = format!(
        "pushed to {}: {}{tags}, {}, {}",
        remote.config.name,
        count(pushed.records, "record"),
        count(pushed.objects, "output"),
        bytes(pushed.bytes)
    );
    if pushed.known_objects > 0 {
        text.push_str(&format!(" ({} there already)", count(pushed.known_objects, "output")));
    }
    if pushed.absent > 0 {
        text.push_str(&format!("; {} not here to be pushed", count(pushed.absent, "output")));
    }
    output::data(&format!("{text}\n"));
    Ok(Exit::Fine)
}

pub(super) fn pull(global: &Global, args: &args::Pull) -> Result<Exit, Failure> {
    let store = project::make_store(global)?;
    let remote = store.open_remote(args.remote.as_deref())?;
    // Which run is meant may only be known once its records are here.
    let merged = store.pull_records(&remote)?;
    let what = what(&store, &[], &args.run, &args.node, outputs(&args.transfer))?;
    let teller = Teller::new(global, args.transfer.format, "pulling", "from", &remote);
    let pulled = store.pull(&remote, &what, &|progress| teller.progress(progress))?;
    teller.end();
    if args.transfer.format == Format::Json {
        output::line(&json!({
            "event": "pulled", "remote": remote.config.name, "records": merged.records, "runs": merged.runs,
            "tags": merged.tags, "outputs": pulled.objects, "bytes": pulled.bytes, "absent_outputs": pulled.absent,
        }));
        return Ok(Exit::Fine);
    }
    let mut text = format!(
        "pulled from {}: {}; {}, {}",
        remote.config.name,
        merge::text(&merged),
        count(pulled.objects, "output"),
        bytes(pulled.bytes)
    );
    if pulled.absent > 0 {
        text.push_str(&format!("; {} not there", count(pulled.absent, "output")));
    }
    output::data(&format!("{text}\n"));
    Ok(Exit::Fine)
}

/// How often progress is told as an event.
const EVERY: Duration = Duration::from_millis(200);

/// Tells how far a push or pull is: with a bar on a terminal, with events to a program.
pub(super) struct Teller {
    bar: output::Bar,
    /// What the events are called, and when the last one was told.
    events: Option<(&'static str, Mutex<Option<Instant>>)>,
}

impl Teller {
    pub(super) fn new(
        global: &Global,
        format: Format,
        event: &'static str,
        direction: &str,
        remote: &OpenRemote,
    ) -> Self {
        let bar = output::Bar::new(global, &format!("{event} {direction} {}", remote.config.name));
        Self { bar, events: (format == Format::Json).then(|| (event, Mutex::new(None))) }
    }

    pub(super) fn progress(&self, progress: Progress) {
        self.bar.set_bytes(progress.bytes, progress.of_bytes);
        let Some((event, told)) = &self.events else { return };
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= EVERY) || progress.objects == progress.of_objects {
            *told = Some(Instant::now());
            output::line(&json!({
                "event": event, "bytes": progress.bytes, "of_bytes": progress.of_bytes,
                "outputs": progress.objects, "of_outputs": progress.of_objects,
            }));
        }
    }

    pub(super) fn end(self) {
        self.bar.end();
    }
}

fn outputs(transfer: &args::Transfer) -> Outputs {
    match (transfer.results_only, transfer.models) {
        (true, _) => Outputs::None,
        (_, true) => Outputs::Models,
        _ => Outputs::All,
    }
}

/// The first word may be a remote; without one, it is the only remote there is.
fn remote_and_rest(store: &Store, words: &[String]) -> Result<(OpenRemote, Vec<String>), Failure> {
    let remotes = store.remotes()?;
    match words.split_first() {
        Some((first, rest)) if remotes.len() != 1 || remotes.iter().any(|remote| remote.name == *first) => {
            Ok((store.open_remote(Some(first))?, rest.to_vec()))
        }
        _ => Ok((store.open_remote(None)?, words.to_vec())),
    }
}

/// Each word is a run if there is one of that name, else a node.
fn what(store: &Store, words: &[String], runs: &[String], nodes: &[String], outputs: Outputs) -> Result<What, Failure> {
    let mut what = What { outputs, ..What::default() };
    for run in runs {
        what.runs.insert(store.find_run(run)?.run);
    }
    let known: std::collections::BTreeSet<String> = store.executions()?.into_iter().map(|row| row.node).collect();
    let is_node = |word: &str| known.iter().any(|node| node == word || node.split('[').next() == Some(word));
    for word in words {
        match store.find_run(word) {
            Ok(run) if !is_node(word) => drop(what.runs.insert(run.run)),
            _ if is_node(word) => drop(what.nodes.insert(word.clone())),
            _ => return Err(unknown("push", word, &known)),
        }
    }
    for node in nodes {
        if !is_node(node) {
            return Err(unknown("pull --node", node, &known));
        }
        what.nodes.insert(node.clone());
    }
    Ok(what)
}

fn unknown(command: &str, word: &str, known: &std::collections::BTreeSet<String>) -> Failure {
    let failure = Failure::usage("share::unknown", format!("`{word}` is neither a run nor a stage with results"));
    match crate::diagnostic::nearest(word, known.iter().map(String::as_str)) {
        Some(near) => failure.help(format!("did you mean `sepia {command} {near}`?")),
        None => failure.help("`sepia runs` lists the runs, `sepia results` the stages"),
    }
}
