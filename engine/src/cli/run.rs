//! `sepia run`.

use camino::Utf8Path;

use super::{
    args::{self, Format, Global},
    exit::{Exit, Failure},
    output, plan, project,
};
use crate::{
    device::Gpus,
    diagnostic::Diagnostic,
    event::{Listener, RunOutcome},
    exec::{self, Lookup, RunError, RunOptions, RunReport, Signals},
    plan::{Plan, Selection, place_of, select},
    report::{JsonLines, Terminal, TerminalOptions},
    stage::Registry,
};

pub(super) fn run(registry: Registry, global: &Global, args: &args::Run) -> Result<Exit, Failure> {
    if args.dry_run {
        return plan::dry_run(registry, global, &args.chosen, args.format);
    }
    let manifest = &args.chosen.source.manifest;
    // Reading the store and reading the manifest take about as long: side by side. A store is only made for a manifest
    // that is valid.
    let looking = project::look_ahead(global, manifest)?;
    let project = project::load(registry, manifest, &args.chosen.source.changes)?;
    let lookup = match looking.join().unwrap_or(Ok(None))? {
        Some(lookup) => lookup,
        None => Lookup::open(&project::open_store(global, manifest)?)?,
    };
    check_gpus(registry, &project, &lookup, &args.chosen)?;
    let signals = Signals::default();
    let raised = signals.clone();
    ctrlc::set_handler(move || raised.raise())
        .map_err(|error| Failure::from(std::io::Error::other(format!("signals cannot be caught: {error}"))))?;
    let options = RunOptions {
        selection: selection(&args.chosen),
        jobs: args.jobs.map_or_else(exec::slots::machine_threads, usize::from),
        keep_going: args.keep_going,
        force: args.chosen.force.clone(),
        manifest: manifest.to_string(),
        manifest_text: project.sources.get(0).map(|(_, text)| text.to_owned()).unwrap_or_default(),
        manifest_digest: project.manifest_digest.to_string(),
        program: std::env::current_exe()?,
        signals,
    };
    let mut terminal = Terminal::new(
        anstream::stderr(),
        TerminalOptions {
            bars: output::interactive() && !global.quiet,
            verbose: global.verbose > 0,
            quiet: global.quiet,
        },
    );
    let mut lines = JsonLines(std::io::stdout());
    let listener: &mut dyn Listener = if args.format == Format::Json { &mut lines } else { &mut terminal };
    let report = exec::run(&project.plan, lookup, &options, &mut [listener]).map_err(failure)?;
    let exit = conclude(&project, manifest, &report);
    // The process ends here: taking thousands of small values apart one by one would only take time.
    std::mem::forget(project);
    Ok(exit)
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
