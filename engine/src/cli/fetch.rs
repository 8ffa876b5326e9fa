//! Before a run: fetching the files at URLs that its stages will read.

use std::{collections::BTreeSet, io::Write as _, sync::Arc};

use sepia_cache::Store;

use super::{
    exit::{Exit, Failure},
    output,
    project::Project,
};
use crate::{
    diagnostic::{Diagnostic, Sources},
    exec::{Forecast, KeyError, RunOptions, forecast, lookup},
    fetch,
    plan::{external_files, place_of, remotes, select},
    report::figures::bytes,
    stage::Written,
};

/// Fetches what stages that are not in the store will read. A plan without URLs costs a look at its parameters.
pub(super) fn ahead(project: &Project, store: &Arc<Store>, options: &RunOptions) -> Result<(), Failure> {
    let plan = &project.plan;
    if !plan.nodes.iter().any(|node| remotes(node.params.tree()).next().is_some()) {
        return Ok(());
    }
    let wrong = |found| Failure { exit: Exit::Usage, found, sources: Sources::default() };
    let chosen = select(plan, &options.selection).map_err(wrong)?;
    let forced = lookup::forced(plan, &options.force, &chosen).map_err(wrong)?;
    let forecasts = forecast(plan, store, &chosen, &forced).map_err(|error| match error {
        KeyError::Store(error) => Failure::from(error),
        other => Failure::of(Exit::Usage, Diagnostic::error("plan::unreadable-file", other.to_string())),
    })?;
    let downloads = fetch::folder(store);
    let mut done = BTreeSet::new();
    for (node, forecast) in plan.nodes.iter().zip(forecasts) {
        if !matches!(forecast, Forecast::Run(..) | Forecast::Unknown(_)) {
            continue;
        }
        for remote in remotes(node.params.tree()) {
            if !done.insert(remote.clone()) {
                continue;
            }
            if !remote.place(&downloads).is_file() {
                output::note(&format!("{:>12} {}", "Fetching", remote.url));
            }
            let mut bar = Bar::default();
            fetch::fetch(&remote, &downloads, &mut |got, total| bar.show(got, total)).map_err(|error| {
                let place = external_files(node.params.tree())
                    .into_iter()
                    .find(|file| file.written.iter().any(|one| matches!(one, Written::Url(url) if *url == remote)))
                    .map_or(node.decl.name.span, |file| place_of(&node.decl, &file.param));
                let found = Diagnostic::error("fetch", error.to_string()).label(place, "").help(error.help());
                Failure { exit: Exit::StageFailed, found: vec![found], sources: project.sources.clone() }
            })?;
        }
    }
    Ok(())
}

/// How far a transfer is, on terminals.
#[derive(Default)]
struct Bar {
    shown: u64,
}

impl Bar {
    fn show(&mut self, got: u64, total: Option<u64>) {
        const STEP: u64 = 4 << 20;
        let whole = total == Some(got);
        if !output::interactive() || (got < self.shown + STEP && !whole) {
            return;
        }
        self.shown = got;
        let of = total.map(|total| format!(" of {}", bytes(total))).unwrap_or_default();
        let end = if whole { "\n" } else { "" };
        let _ = write!(std::io::stderr(), "\r{:>12} {}{of}   {end}", "", bytes(got));
    }
}
