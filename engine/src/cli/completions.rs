//! `sepia completions SHELL`, and the answers that the shell then asks for.
//!
//! The shell calls `sepia` itself with `COMPLETE` set in its environment, so that stages come from the manifest on the
//! command line, and runs from the store. Whatever cannot be read has no candidates: completing never fails.

use std::{ffi::OsString, sync::Arc};

use camino::{Utf8Path, Utf8PathBuf};
use clap::CommandFactory as _;
use clap_complete::{
    ArgValueCandidates, CompletionCandidate,
    env::{CompleteEnv, Shells},
};
use sepia_cache::{OpenMode, Store};

use super::{
    args::{self, Args, Global},
    exit::{Exit, Failure},
    output, project,
};
use crate::{
    diagnostic::Sources,
    manifest::{Load, Manifest},
    stage::Registry,
};

/// The variable that the shell asks through.
const VARIABLE: &str = "COMPLETE";

/// Prints what the shell is to load.
pub(super) fn register(args: &args::Completions) -> Result<Exit, Failure> {
    let shells = Shells::builtins();
    let mut script = Vec::new();
    if let Some(shell) = shells.completer(args.shell.name()) {
        shell.write_registration(VARIABLE, "sepia", "sepia", "sepia", &mut script)?;
    }
    output::data(&String::from_utf8_lossy(&script));
    Ok(Exit::Fine)
}

/// Answers a shell and ends the process, if it is a shell that asks.
pub(super) fn answer(registry: Registry) {
    CompleteEnv::with_factory(|| command(registry)).var(VARIABLE).complete();
}

/// The arguments with candidates for their values. They are told apart by their names, which mean the same everywhere.
fn command(registry: Registry) -> clap::Command {
    let names: Vec<String> = Args::command().get_subcommands().map(|one| one.get_name().to_owned()).collect();
    names.into_iter().fold(Args::command(), |command, name| {
        command.mut_subcommand(name, |subcommand| {
            subcommand.mut_args(|arg| match arg.get_id().as_str() {
                "targets" | "force" | "stage" | "what" => arg.add(ArgValueCandidates::new(stages)),
                "run" | "keep_run" => arg.add(ArgValueCandidates::new(runs)),
                "profile" => arg.add(ArgValueCandidates::new(profiles)),
                "kind" => arg.add(ArgValueCandidates::new(move || candidates(kinds(registry)))),
                _ => arg,
            })
        })
    })
}

fn candidates(names: impl IntoIterator<Item = String>) -> Vec<CompletionCandidate> {
    names.into_iter().map(CompletionCandidate::new).collect()
}

fn kinds(registry: Registry) -> Vec<String> {
    registry.iter().map(|entry| entry.kind.to_owned()).collect()
}

/// The words of the command line that is being completed: those behind `--`.
fn words() -> Vec<String> {
    let words = std::env::args_os().skip_while(|word| word != "--").skip(1);
    words.filter_map(|word| OsString::into_string(word).ok()).collect()
}

/// The manifest that is named on it.
fn manifest(words: &[String]) -> Option<Utf8PathBuf> {
    words.iter().map(Utf8PathBuf::from).find(|word| word.extension() == Some("toml") && word.is_file())
}

/// Nodes of the manifest on the command line; without one, those of the newest run.
fn stages() -> Vec<CompletionCandidate> {
    let words = words();
    match manifest(&words) {
        Some(path) => candidates(stage_names(&path, option(&words, "--profile").as_deref())),
        None => candidates(store(&words).and_then(|store| latest_nodes(&store)).unwrap_or_default()),
    }
}

fn option(words: &[String], name: &str) -> Option<String> {
    let at = words.iter().position(|word| word == name)?;
    words.get(at + 1).cloned()
}

/// Names of the stages, and of their cells where they are swept.
fn stage_names(path: &Utf8Path, profile: Option<&str>) -> Vec<String> {
    let read = |path: &str| fs_err::read_to_string(path).map_err(|error| error.to_string());
    let Ok(text) = read(path.as_str()) else { return Vec::new() };
    let load = Load { profile, loader: Some(&read), ..Load::default() };
    let Ok((manifest, _)) = Manifest::load(&mut Sources::default(), path.as_str(), &text, &load) else {
        return Vec::new();
    };
    let mut names: Vec<String> = Vec::new();
    for stage in &manifest.stages {
        let origin = stage.origin.to_string();
        if !names.contains(&origin) {
            names.push(origin);
        }
    }
    names.extend(manifest.stages.into_iter().filter(|one| !one.cell.is_empty()).map(|stage| stage.name.name));
    names
}

fn profiles() -> Vec<CompletionCandidate> {
    let text = manifest(&words()).and_then(|path| fs_err::read_to_string(path).ok()).unwrap_or_default();
    let table: toml::Table = toml::from_str(&text).unwrap_or_default();
    let profiles = table.get("profile").and_then(toml::Value::as_table);
    candidates(profiles.into_iter().flat_map(|profiles| profiles.keys().cloned()))
}

fn store(words: &[String]) -> Option<Arc<Store>> {
    let global = Global { store: option(words, "--store").map(Utf8PathBuf::from), verbose: 0, quiet: true };
    let path = project::store_path(&global, manifest(words).as_deref()).ok()?;
    if path.is_dir() {
        return Store::open(&path, OpenMode::ReadOnly).ok().map(Arc::new);
    }
    project::existing_store(&global, None).ok()
}

fn latest_nodes(store: &Store) -> Option<Vec<String>> {
    let newest = store.list_runs().ok()?.into_iter().next()?;
    Some(store.run_nodes(&newest.run).ok()?.into_iter().map(|node| node.node).collect())
}

/// `latest`, and the runs of the store with their manifest and outcome.
fn runs() -> Vec<CompletionCandidate> {
    let latest = CompletionCandidate::new("latest").help(Some("the newest run".into()));
    let all = store(&words()).and_then(|store| store.list_runs().ok()).unwrap_or_default();
    let runs = all.into_iter().take(50).map(|run| {
        let about = format!("{} {}", run.manifest, run.outcome.unwrap_or_default());
        CompletionCandidate::new(run.run.get(..8).unwrap_or(&run.run)).help(Some(about.into()))
    });
    std::iter::once(latest).chain(runs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_come_from_a_manifest_swept_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().join("m.toml");
        let text = "[stages.a]\nkind = \"x\"\nmatrix = { lr = [1, 2] }\n[stages.b]\nkind = \"y\"\n\
                    [profile.one.stages.a.matrix]\nlr = [3]\n";
        fs_err::write(&path, text).unwrap();
        assert_eq!(stage_names(&path, None), ["a", "b", "a[lr=1]", "a[lr=2]"]);
        assert_eq!(stage_names(&path, Some("one")), ["a", "b", "a[lr=3]"]);
        assert!(stage_names(&path.with_extension("gone"), None).is_empty());
    }

    #[test]
    fn the_command_line_with_candidates_is_sound() {
        command(Registry::new(&[])).debug_assert();
    }
}
