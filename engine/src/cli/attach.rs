//! `sepia attach`: gives a run's command again. Its jobs are found by their keys, so nothing is submitted twice; what had
//! been left waiting for them goes on from there.

use super::{
    args::{self, Global},
    exit::{Exit, Failure},
    output, past, project, run,
};
use crate::stage::Registry;

pub(super) fn attach(registry: Registry, args: &args::Attach, global: &Global) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let row = store.find_run(&args.run)?;
    if store.run_is_alive(&row.run) {
        let failure = Failure::usage("attach::alive", format!("run {} is still going on in another process", row.run));
        return Err(failure.help(format!("`sepia log STAGE -f --run {}` shows what a stage of it writes", row.run)));
    }
    let again = past::command(&row)?;
    // Paths in the command are relative to where it was given.
    std::env::set_current_dir(&again.folder).map_err(|error| {
        let message = format!("the folder {} of run {} cannot be entered: {error}", again.folder, row.run);
        Failure::usage("attach::folder", message)
    })?;
    output::note(&format!("{:>12} run {}: sepia {}", "Attaching", row.run, again.words.join(" ")));
    drop(store);
    run::run(registry, &again.global, &again.run)
}
