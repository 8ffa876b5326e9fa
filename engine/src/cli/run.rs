//! `sepia run`.

use std::sync::Arc;

use camino::Utf8Path;
use sepia_cache::{Digest, OpenRemote, Progress, Store, StoreError, What};

use super::{
    args::{self, Format, Global},
    exit::{Exit, Failure},
    fetch, limits, output, plan, project,
    transfer::Teller,
    trust,
};
use crate::{
    device::Gpus,
    diagnostic::Diagnostic,
    event::{Listener, RunOutcome},
    exec::{self, ExecutorChoice, Lookup, RunError, RunOptions, RunReport, Signals, Standing},
    plan::{Plan, Selection, place_of, select},
    report::{
        JsonLines, Terminal, TerminalOptions,
        figures::{bytes, count},
    },
    stage::Registry,
};

pub(super) fn run(registry: Registry, global: &Global, args: &args::Run) -> Result<Exit, Failure> {
    if args.dry_run {
        return plan::dry_run(registry, global, &args.chosen, args.place.executor, args.format);
    }
    let manifest = &args.chosen.source.manifest;
    // Reading the store and reading the manifest take about as long: side by side. A store is only made for a manifest
    // that is valid.
    let mut looking = match &args.remote {
        None => Some(project::look_ahead(global, manifest, args.trust_all)?),
        Some(_) => None,
    };
    let mut found = None;
    if looking.is_some()
        && let Some(standing) = project::standing(global, &args.chosen)?
    {
        found = looking.take().map(join).transpose()?.flatten();
        if let Some(lookup) = &found
            && standing.holds(lookup).unwrap_or(false)
        {
            return nothing_to_do(global, args, &standing, lookup);
        }
    }
    let project = project::load(registry, manifest, &args.chosen.source.changes)?;
    let executor = super::executor::choose(&project.plan, args.place.executor)?;
    // From here on there is something to end in good order.
    let signals = Signals::default();
    let raised = signals.clone();
    ctrlc::set_handler(move || raised.raise())
        .map_err(|error| Failure::from(std::io::Error::other(format!("signals cannot be caught: {error}"))))?;
    let found = looking.take().map(join).transpose()?.flatten().or(found);
    let (lookup, remote) = match found {
        Some(lookup) => (lookup, None),
        None => look_afar(global, args, &signals)?,
    };
    let store = Arc::clone(lookup.store());
    // With a remote, results that need a GPU may come from there. A cluster's login node rarely has what its other nodes
    // have: there Slurm refuses what cannot be had.
    if remote.is_none() && matches!(executor, ExecutorChoice::Local) {
        check_gpus(registry, &project, &lookup, &args.chosen)?;
    }
    if matches!(executor, ExecutorChoice::Local) {
        let wanted = (&selection(&args.chosen), &args.chosen.force[..]);
        let forecast = |chosen: &[bool], forced: &[bool]| exec::forecast_from(&project.plan, &lookup, chosen, forced);
        limits::warn_of_run(store.root(), &project, wanted, forecast);
    }
    let manifest_text = project.sources.get(0).map(|(_, text)| text.to_owned()).unwrap_or_default();
    let basis = project::basis(global, &args.chosen, &project);
    let options = RunOptions { basis, signals, executor, manifest_text, ..options(args, project.manifest_digest)? };
    fetch::ahead(&project, &store, &options)?;
    let report = told(global, args, |listeners| exec::run(&project.plan, lookup, &options, listeners))?;
    let exit = conclude(&project, manifest, &report);
    if let Some(remote) = &remote
        && exit != Exit::Interrupted
    {
        offer(global, args.format, &store, remote, &report.run);
    }
    // The process ends here: taking thousands of small values apart one by one would only take time.
    std::mem::forget(project);
    Ok(exit)
}

/// Opens or makes the store, and the remote that the run shall take results from.
fn look_afar(global: &Global, args: &args::Run, signals: &Signals) -> Result<(Lookup, Option<OpenRemote>), Failure> {
    let store = project::open_store(global, &args.chosen.source.manifest, args.trust_all)?;
    let remote = match &args.remote {
        Some(name) => shared_records(&store, name)?,
        None => None,
    };
    let lookup = Lookup::open(&store)?;
    let lookup = match &remote {
        Some(remote) => lookup.with_remote(remote.clone(), signals.clone()),
        None => lookup,
    };
    Ok((lookup, remote))
}

type Looked = Result<Option<Lookup>, StoreError>;

/// A thread that panicked has found nothing.
fn join(looking: std::thread::JoinHandle<Looked>) -> Looked {
    looking.join().unwrap_or(Ok(None))
}

/// Everything is as the last run left it.
fn nothing_to_do(global: &Global, args: &args::Run, standing: &Standing, lookup: &Lookup) -> Result<Exit, Failure> {
    let options = options(args, standing.manifest_digest().unwrap_or(Digest::of_bytes(b"")))?;
    told(global, args, |listeners| exec::run_standing(standing, lookup, &options, listeners))?;
    Ok(Exit::Fine)
}

fn options(args: &args::Run, manifest_digest: Digest) -> Result<RunOptions, Failure> {
    Ok(RunOptions {
        executor: ExecutorChoice::Local,
        detach: args.detach,
        command: (std::env::args().skip(1).collect(), std::env::current_dir()?.to_string_lossy().into_owned()),
        selection: selection(&args.chosen),
        jobs: args.jobs.map_or_else(exec::slots::machine_threads, usize::from),
        keep_going: args.keep_going,
        force: args.chosen.force.clone(),
        manifest: args.chosen.source.manifest.to_string(),
        manifest_digest: manifest_digest.to_string(),
        manifest_text: String::new(),
        program: std::env::current_exe()?,
        memory: args.memory.unwrap_or_else(exec::slots::usable_memory),
        devices: args.devices.map(usize::from),
        basis: None,
        signals: Signals::default(),
    })
}

/// Runs with somebody listening: the terminal, or a program that reads JSON.
fn told(
    global: &Global,
    args: &args::Run,
    run: impl FnOnce(&mut [&mut dyn Listener]) -> Result<RunReport, RunError>,
) -> Result<RunReport, Failure> {
    let mut terminal = Terminal::new(
        output::Stderr::new(),
        TerminalOptions {
            bars: output::interactive() && !global.quiet,
            verbose: global.verbose > 0,
            quiet: global.quiet,
        },
    );
    let mut lines = JsonLines(std::io::stdout());
    let listener: &mut dyn Listener = if args.format == Format::Json { &mut lines } else { &mut terminal };
    run(&mut [listener]).map_err(failure)
}

/// Fetches what the remote knows of results. A remote that cannot be reached is no reason not to run.
fn shared_records(store: &Store, name: &str) -> Result<Option<OpenRemote>, Failure> {
    match store.open_remote(Some(name)) {
        Err(error @ StoreError::NoRemote { .. }) => Err(Failure::usage("remote::unknown", error.to_string())),
        opened => match opened.and_then(|remote| store.pull_records(&remote).map(|_| remote)) {
            Ok(remote) => Ok(Some(remote)),
            Err(error) => {
                warn("nothing is taken from it, and nothing offered", &error);
                Ok(None)
            }
        },
    }
}

/// Brings what a run used and made to the remote.
fn offer(global: &Global, format: Format, store: &Store, remote: &OpenRemote, run: &str) {
    let what = What { runs: [run.to_owned()].into(), ..What::default() };
    let teller = Teller::new(global, format, "pushing", "to", remote);
    let offered = trust::sign(store)
        .map_err(|failure| failure.found.into_iter().map(|found| found.message).collect::<Vec<_>>().join("; "))
        .and_then(|()| {
            let progress = |progress: Progress| teller.progress(progress);
            store.push(remote, &what, &progress).map_err(|error| error.to_string())
        });
    teller.end();
    match offered {
        Ok(pushed) if pushed.records > 0 && !global.quiet => output::note(&format!(
            "{:>12} {} to {}, {}",
            "Pushed",
            count(pushed.records, "result"),
            remote.config.name,
            bytes(pushed.bytes)
        )),
        Ok(_) => {}
        Err(error) => warn(&format!("the results are here; `sepia push {}` tries again", remote.config.name), &error),
    }
}

fn warn(what: &str, error: &dyn std::fmt::Display) {
    let warning = Diagnostic::warning("remote::failed", error.to_string()).help(what);
    output::diagnostics(&[warning], &crate::diagnostic::Sources::default());
}

/// Fails before anything runs where a stage would need a GPU that is not there.
fn check_gpus(
    registry: Registry,
    project: &project::Project,
    lookup: &Lookup,
    wanted: &args::Chosen,
) -> Result<(), Failure> {
    let plan = &project.plan;
    let wrong = |found| Failure { exit: Exit::Usage, found, sources: project.sources.clone() };
    let chosen = select(plan, &selection(wanted)).map_err(wrong)?;
    let forced = exec::lookup::forced(plan, &wanted.force, &chosen).map_err(wrong)?;
    let gpus = || Gpus::of_this_machine(registry.cuda());
    let missing = exec::missing_gpus(plan, lookup.store(), (&chosen, &forced), gpus).map_err(RunError::from);
    let missing = missing.map_err(failure)?;
    let Some((first, why)) = missing.first() else { return Ok(()) };
    let node = plan.node(*first);
    let span = node.decl.device.as_ref().map_or(node.decl.name.span, |word| word.span);
    let others = match missing.len() {
        1 => String::new(),
        more => format!(" (and {} more)", more - 1),
    };
    let error = Diagnostic::error("run::no-gpu", format!("`{}`{others} would have to run on a GPU: {why}", node.name))
        .label(span, "needs a GPU")
        .help(why.help())
        .help("what is in the store needs none: `sepia plan` says what would run");
    Err(wrong(vec![error]))
}

pub(super) fn selection(chosen: &args::Chosen) -> Selection {
    Selection { targets: chosen.targets.clone(), downstream: chosen.downstream, only: chosen.only }
}

/// Shows the manifest's lines that failures concern, and what to type next.
fn conclude(project: &project::Project, manifest: &Utf8Path, report: &RunReport) -> Exit {
    let located: Vec<Diagnostic> = report
        .failures
        .iter()
        .filter_map(|(id, failure)| {
            let param = failure.param.as_ref()?;
            let node = project.plan.node(*id);
            let error = Diagnostic::error("stage::failed", format!("`{}`: {}", node.name, failure.message))
                .label(place_of(&node.decl, param), format!("`{param}`"));
            Some(failure.help.iter().fold(error, |error, help| error.help(help.clone())))
        })
        .collect();
    output::diagnostics(&located, &project.sources);
    match report.outcome {
        RunOutcome::Done => Exit::Fine,
        RunOutcome::Failed => {
            hint(&project.plan, manifest, report);
            Exit::StageFailed
        }
        RunOutcome::Interrupted => Exit::Interrupted,
    }
}

fn hint(plan: &Plan, manifest: &Utf8Path, report: &RunReport) {
    let Some((id, _)) = report.failures.first() else { return };
    let name = &plan.node(*id).name;
    let more = if report.summary.cancelled > 0 {
        format!("; `sepia run {manifest} --keep-going` goes on with the rest")
    } else {
        String::new()
    };
    output::note(&format!("{:>12} `sepia log {name}` prints all that {name} wrote{more}", ""));
}

fn failure(error: RunError) -> Failure {
    match error {
        RunError::Selection(found) => {
            Failure { exit: Exit::Usage, found, sources: crate::diagnostic::Sources::default() }
        }
        RunError::Store(error) => error.into(),
        other => Failure::of(Exit::Store, Diagnostic::error("run", other.to_string())),
    }
}
