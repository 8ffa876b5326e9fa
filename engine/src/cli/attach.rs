//! `sepia attach`: gives a run's command again. Its jobs are found by their keys, so nothing is submitted twice; what had
//! been left waiting for them goes on from there.

use clap::Parser as _;

use super::{
    args::{self, Args, Command, Global},
    exit::{Exit, Failure},
    output, project, run,
};
use crate::stage::Registry;

pub(super) fn attach(registry: Registry, args: &args::Attach, global: &Global) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let row = store.find_run(&args.run)?;
    if store.run_is_alive(&row.run) {
        let failure = Failure::usage("attach::alive", format!("run {} is still going on in another process", row.run));
        return Err(failure.help(format!("`sepia log STAGE -f --run {}` shows what a stage of it writes", row.run)));
    }
    let words = row.details["arguments"].as_array().into_iter().flatten();
    let words: Vec<&str> = words.filter_map(serde_json::Value::as_str).collect();
    let folder = row.details["folder"].as_str().unwrap_or(".");
    let again = Args::try_parse_from(std::iter::once("sepia").chain(words.iter().copied()));
    let Ok(Args { global: own, command: Command::Run(again) }) = again else {
        return Err(Failure::usage("attach::command", format!("the command of run {} was not kept", row.run))
            .help(format!("it was `{}`: give it again, jobs that still run are found", row.command)));
    };
    // Paths in the command are relative to where it was given.
    std::env::set_current_dir(folder).map_err(|error| {
        Failure::usage("attach::folder", format!("the folder {folder} of run {} cannot be entered: {error}", row.run))
    })?;
    output::note(&format!("{:>12} run {}: sepia {}", "Attaching", row.run, words.join(" ")));
    drop(store);
    run::run(registry, &own, &again)
}
