//! `sepia reproduce`.

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{Outcome, Record, Store, is_reproduction};
use serde_json::json;

use super::{
    args::{self, Format, Global},
    compare::{Side, find},
    exit::{Exit, Failure},
    output, past, project,
};
use crate::{
    diagnostic::Diagnostic,
    difference::{FileDifference, of_outputs},
    exec::{CannotReproduce, ReproduceOptions, Reproduced, Signals, reproduce as run_again},
    report::figures::duration,
    stage::{Progress, Registry},
};

/// Files of one output that are looked into.
const MOST: usize = 5;

pub(super) fn reproduce(registry: Registry, global: &Global, args: &args::Reproduce) -> Result<Exit, Failure> {
    // Absolute, because children run elsewhere.
    let root = project::existing_store(global, None)?.root().to_owned();
    let global = Global { store: Some(camino::absolute_utf8(root)?), ..*global };
    let store = project::existing_store(&global, None)?;
    let record = match find(&store, &args.what)? {
        Side::One(record) => *record,
        Side::Run(nodes) => {
            let stages: Vec<&str> = nodes.keys().take(6).map(String::as_str).collect();
            return Err(Failure::usage("reproduce::run", format!("`{}` is a run, not one result", args.what))
                .help(format!("name one of its stages, `{}/STAGE`: {}", args.what, stages.join(", "))));
        }
    };
    let record = good(&store, record)?;
    let signals = Signals::default();
    let raised = signals.clone();
    ctrlc::set_handler(move || raised.raise())
        .map_err(|error| Failure::from(std::io::Error::other(format!("signals cannot be caught: {error}"))))?;
    let options = ReproduceOptions {
        folder: manifest_folder(&store, &record, args.manifest.as_deref())?,
        program: std::env::current_exe()?,
        signals,
    };
    output::note(&format!("{:>12} {} ({}) once more", "Running", record.node, record.kind));
    let bar = output::Bar::new(&global, &record.node);
    let mut show = |at: &Progress| bar.set(at.done, at.total);
    let reproduced = run_again(registry, &store, &record, &options, &mut show);
    bar.end();
    match reproduced.map_err(cannot)? {
        Reproduced::Done { outputs, seconds, kept } => {
            let mut found = Vec::new();
            for (before, (port, after)) in record.outputs.iter().zip(&outputs) {
                if before.object.digest != after.digest {
                    let there = store.present(&before.object);
                    let differences = if there { Some(of_outputs(&store, &before.object, after, MOST)?) } else { None };
                    found.push((port.as_str(), differences));
                }
            }
            tell(&record, &found, seconds, args.format);
            Ok(if kept.is_none() { Exit::Fine } else { Exit::StageFailed })
        }
        Reproduced::Failed(failure) => {
            let mut error =
                Diagnostic::error("reproduce::failed", format!("`{}` failed: {}", record.node, failure.message));
            error.help.extend(failure.help);
            if !failure.log_tail.is_empty() {
                error.help.push(format!("its log, {}, ends with\n{}", failure.log, failure.log_tail.join("\n")));
            }
            Err(Failure::of(Exit::StageFailed, error))
        }
        Reproduced::Interrupted => Ok(Exit::Interrupted),
    }
}

/// The record, or of its key the result that runs use, if it is of an attempt that failed or a reproduction itself.
fn good(store: &Store, record: Record) -> Result<Record, Failure> {
    if record.outcome == Outcome::Done && !is_reproduction(&record.run) {
        return Ok(record);
    }
    let hits = store.index()?.candidates(&record.key)?;
    let good = hits.first().map(|hit| store.record(&hit.record)).transpose()?.flatten();
    good.ok_or_else(|| {
        let failure =
            Failure::usage("reproduce::no-result", format!("`{}` has no result to compare with", record.node));
        failure.help("its attempts failed, or nobody you trust has signed it; `sepia show` says which")
    })
}

/// Where the files are that the stage's parameters name.
fn manifest_folder(
    store: &Arc<Store>,
    record: &Record,
    manifest: Option<&Utf8Path>,
) -> Result<Option<Utf8PathBuf>, Failure> {
    let of = |manifest: Utf8PathBuf| manifest.parent().map(Utf8Path::to_owned);
    if let Some(manifest) = manifest {
        return Ok(of(camino::absolute_utf8(manifest)?));
    }
    let Ok(row) = store.find_run(&record.run) else { return Ok(None) };
    Ok(past::command(&row).ok().and_then(|past| of(past.folder.join(&past.run.chosen.source.manifest))))
}

fn cannot(error: CannotReproduce) -> Failure {
    let help = match &error {
        CannotReproduce::Unclear { .. } => "the record may have been made by another version, or tampered with",
        CannotReproduce::Kind(_) => "`sepia stages` lists those that there are",
        CannotReproduce::Version { .. } => {
            "use the Sepia that made it: `sepia show RUN STAGE --format json` says which"
        }
        CannotReproduce::Device(_) => {
            "run this where there is one, with a binary that was built with `--features cuda`"
        }
        CannotReproduce::Input { .. } => "`sepia pull` fetches it, or run the manifest once more",
        CannotReproduce::Files { .. } => "put them back as they were, or say where they are with `--manifest FILE`",
        CannotReproduce::Store(_) | CannotReproduce::Io(_) => "",
    };
    let exit = if help.is_empty() { Exit::Store } else { Exit::Usage };
    let failure = Failure::of(exit, Diagnostic::error("reproduce::cannot", error.to_string()));
    if help.is_empty() { failure } else { failure.help(help) }
}

/// Outputs that differ, with the files in which they do, as far as the recorded one is still here.
type Found<'f> = Vec<(&'f str, Option<Vec<FileDifference>>)>;

fn tell(record: &Record, found: &Found<'_>, seconds: f64, format: Format) {
    if format == Format::Json {
        let outputs = found.iter().map(|(port, files)| {
            let files = files.as_ref().map(|files| {
                files.iter().map(|file| json!({ "path": file.path, "difference": file.what })).collect::<Vec<_>>()
            });
            json!({ "port": port, "files": files })
        });
        output::json(&json!({
            "node": record.node, "key": record.key, "same": found.is_empty(), "seconds": seconds,
            "differing": outputs.collect::<Vec<_>>(),
        }));
        return;
    }
    let name = format!("{} (key {})", record.node, record.key.short());
    if found.is_empty() {
        output::data(&format!("{name}: the same bytes once more, in {}\n", duration(seconds)));
        return;
    }
    let mut text = format!("{name}: another result, in {}\n", duration(seconds));
    for (port, files) in found {
        let Some(files) = files else {
            text.push_str(&format!("  {port}: another digest; what was stored is no longer here to be compared\n"));
            continue;
        };
        for file in files.iter().take(MOST) {
            let path = if file.path.is_empty() { String::new() } else { format!("/{}", file.path) };
            text.push_str(&format!("  {port}{path}: {}\n", file.what));
        }
        if files.len() > MOST {
            text.push_str(&format!("  {port}: {} more files differ\n", files.len() - MOST));
        }
    }
    text.push_str("both are kept: `sepia divergences` says what differs in where they ran\n");
    output::data(&text);
}
