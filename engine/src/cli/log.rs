//! `sepia log`.

use std::{
    io::{Read as _, Seek as _, SeekFrom},
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{Digest, Store};

use super::{
    args::{self, Global},
    exit::{Exit, Failure},
    output, project,
};
use crate::{
    event::RunEvent,
    exec::{recorder::read_events, slurm::is_under_way},
};

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(200);

pub(super) fn log(global: &Global, args: &args::Log) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let run = args.run.as_deref().map(|run| store.find_run(run)).transpose()?.map(|run| run.run);
    // What runs now has no record yet.
    let started = match &run {
        Some(run) => last_start(&store, run, &args.stage),
        None => newest_start(&store, &args.stage)?,
    };
    if let Some(started) = started.filter(|started| args.follow || !started.ended) {
        return follow(&store, &started, &args.stage, args.follow);
    }
    let ran = store
        .executions()?
        .into_iter()
        .find(|row| row.node == args.stage && run.as_ref().is_none_or(|run| *run == row.run));
    let Some(row) = ran else {
        let nodes: std::collections::BTreeSet<String> = store.executions()?.into_iter().map(|row| row.node).collect();
        let failure = Failure::usage(
            "log::never-ran",
            format!("`{}` has not run{}", args.stage, if run.is_some() { " in that run" } else { " here" }),
        );
        return Err(match crate::diagnostic::nearest(&args.stage, nodes.iter().map(String::as_str)) {
            Some(near) if near != args.stage => failure.help(format!("did you mean `{near}`?")),
            _ => failure.help("`sepia show` lists what ran in the latest run"),
        });
    };
    let record = store.record(&row.record)?;
    let path = record.as_ref().and_then(|record| record.provenance["log"].as_str()).unwrap_or_default();
    if print(Utf8Path::new(path), &mut 0)? == 0 {
        output::note(&format!("{} wrote nothing in run {}", args.stage, row.run));
    }
    Ok(Exit::Fine)
}

/// The last attempt at a stage in a run.
struct Started {
    run: String,
    key: Option<Digest>,
    log: Utf8PathBuf,
    ended: bool,
}

fn last_start(store: &Store, run: &str, stage: &str) -> Option<Started> {
    let mut last: Option<Started> = None;
    for stamped in read_events(&store.run_dir(run).ok()?).ok()? {
        match stamped.event {
            RunEvent::Started { node, key, log, .. } if node == stage => {
                last = Some(Started { run: run.to_owned(), key: key.parse().ok(), log: log.into(), ended: false });
            }
            RunEvent::Finished { node, .. }
            | RunEvent::Failed { node, .. }
            | RunEvent::Stopped { node, .. }
            | RunEvent::Cancelled { node }
                if node == stage =>
            {
                if let Some(last) = &mut last {
                    last.ended = true;
                }
            }
            _ => {}
        }
    }
    last
}

/// The newest run in which a stage has started.
fn newest_start(store: &Store, stage: &str) -> Result<Option<Started>, Failure> {
    const RUNS: usize = 20;
    let runs = store.list_runs()?;
    Ok(runs.iter().take(RUNS).find_map(|row| last_start(store, &row.run, stage)))
}

/// Prints the log as it grows, until the attempt has ended; or only what is there.
fn follow(store: &Store, started: &Started, stage: &str, wait: bool) -> Result<Exit, Failure> {
    let mut at = 0;
    loop {
        // First whether it has ended, then what it wrote: nothing is missed.
        let ended = !wait || !goes_on(store, started, stage);
        print(&started.log, &mut at)?;
        if ended {
            return Ok(Exit::Fine);
        }
        std::thread::sleep(LOOK);
    }
}

/// Whether more may come: its run is alive and has not told its end, or its job goes on without the run.
fn goes_on(store: &Store, started: &Started, stage: &str) -> bool {
    let told = last_start(store, &started.run, stage).is_some_and(|now| now.ended);
    !told && (store.run_is_alive(&started.run) || started.key.is_some_and(|key| is_under_way(store, &key)))
}

/// Prints what a file has beyond `at`; how much that was.
fn print(path: &Utf8Path, at: &mut u64) -> Result<u64, Failure> {
    let mut bytes = Vec::new();
    match fs_err::File::open(path) {
        Ok(mut file) => {
            file.seek(SeekFrom::Start(*at))?;
            file.read_to_end(&mut bytes)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error.into()),
    }
    *at += bytes.len() as u64;
    if !bytes.is_empty() {
        output::data(&String::from_utf8_lossy(&bytes));
    }
    Ok(bytes.len() as u64)
}
