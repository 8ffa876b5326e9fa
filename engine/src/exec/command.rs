//! Attempts of the `command` kind: a program of the author's in a folder of its own.

use std::{
    collections::BTreeMap,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
};

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};

use super::locate::locate;
use crate::stage::{
    CommandParams, Job,
    command::{place_of, substitute},
};

/// Variables that nearly every program needs; all others are declared.
const PASSED: &[&str] = &["PATH", "HOME", "USER", "LANG", "TMPDIR", "TZ"];

/// A program ready to start, and where its outputs will be.
pub(super) struct Prepared {
    pub(super) command: Command,
    pub(super) outputs: BTreeMap<String, Utf8PathBuf>,
    work: Utf8PathBuf,
    copied: Vec<Utf8PathBuf>,
}

/// Why it cannot start.
pub(super) struct CannotPrepare {
    pub(super) message: String,
    pub(super) param: Option<String>,
}

impl From<std::io::Error> for CannotPrepare {
    fn from(error: std::io::Error) -> Self {
        Self { message: error.to_string(), param: None }
    }
}

/// Fills the working folder `work`, which is there and empty, and makes the command line. `params` has its files
/// resolved.
pub(super) fn prepare(
    params: &serde_json::Value,
    job: &Job,
    work: &Utf8Path,
    log: &fs_err::File,
) -> Result<Prepared, CannotPrepare> {
    let params: CommandParams = serde_json::from_value(params.clone())
        .map_err(|error| CannotPrepare { message: format!("the parameters do not fit: {error}"), param: None })?;
    let copied = copy_files(&params, work)?;
    for parent in params.outputs.values().filter_map(|path| Utf8Path::new(path).parent()) {
        if !parent.as_str().is_empty() {
            fs_err::create_dir_all(work.join(parent))?;
        }
    }
    let place = |text: &str, param: &str| {
        substitute(text, |name| placeholder(name, &params, job)).map_err(|name| CannotPrepare {
            message: format!("`${{{name}}}` stands for nothing here"),
            param: Some(param.to_owned()),
        })
    };
    let argv = params.argv.iter().map(|text| place(text, "argv")).collect::<Result<Vec<_>, _>>()?;
    let Some((program, arguments)) = argv.split_first() else {
        return Err(CannotPrepare { message: "the command is empty".to_owned(), param: Some("argv".to_owned()) });
    };
    let mut command = Command::new(locate(program, work));
    command.arg0(program).args(arguments).current_dir(work).env_clear();
    for name in PASSED.iter().copied().chain(params.env_allow.iter().map(String::as_str)) {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // Python would write its caches beside the copied files, where only declared outputs may appear.
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("SEPIA_SEED", job.seed.to_string());
    for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"] {
        command.env(name, job.threads.to_string());
    }
    for (name, text) in &params.env {
        command.env(name, place(text, &format!("env.{name}"))?);
    }
    let log = log.file();
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    let outputs = params.outputs.iter().map(|(name, path)| (name.clone(), work.join(path))).collect();
    Ok(Prepared { command, outputs, work: work.to_owned(), copied })
}

fn copy_files(params: &CommandParams, work: &Utf8Path) -> Result<Vec<Utf8PathBuf>, CannotPrepare> {
    let mut copied = Vec::new();
    for file in params.files.files() {
        let place = work.join(place_of(&file.written));
        let target = if file.name.is_empty() { place } else { place.join(&file.name) };
        // The check of the parameters has seen to the first; that nothing is written elsewhere is worth a second look.
        let leaves = |path: &Utf8Path| path.components().any(|part| part == Utf8Component::ParentDir);
        let wrong = if !target.starts_with(work) || leaves(&target) {
            Some("has no place in the working folder")
        } else {
            target.symlink_metadata().is_ok().then_some("would arrive under a name that another file has")
        };
        if let Some(why) = wrong {
            let message = format!("`{}` {why}", file.path);
            return Err(CannotPrepare { message, param: Some("files".to_owned()) });
        }
        if let Some(parent) = target.parent() {
            fs_err::create_dir_all(parent)?;
        }
        fs_err::copy(&file.path, &target)?;
        copied.push(target);
    }
    Ok(copied)
}

fn placeholder(name: &str, params: &CommandParams, job: &Job) -> Option<String> {
    match name.split_once('.') {
        None if name == "seed" => Some(job.seed.to_string()),
        None if name == "threads" => Some(job.threads.to_string()),
        None => None,
        Some(("inputs", port)) => {
            let paths = job.inputs.get(port)?;
            Some(paths.iter().map(|path| path.as_str()).collect::<Vec<_>>().join(" "))
        }
        Some(("outputs", output)) => params.outputs.get(output).cloned(),
        Some(("data", data)) => params.data.get(data)?.files().first().map(|file| root_of(file).into_string()),
        Some(("params", param)) => Some(match params.params.get(param)? {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        }),
        Some(_) => None,
    }
}

/// The path that was named: the file itself, or the folder that it was found in.
fn root_of(file: &crate::stage::ResolvedFile) -> Utf8PathBuf {
    let depth = Utf8Path::new(&file.name).components().count();
    let mut path = file.path.as_path();
    for _ in 0..depth {
        path = path.parent().unwrap_or(path);
    }
    path.to_owned()
}

impl Prepared {
    /// What to say when the program cannot be started, and what to do about it.
    pub(super) fn cannot_start(&self, error: &std::io::Error) -> (String, String) {
        let program = Path::new(self.command.get_program());
        // As its author knows it: one of the copied files by its name in the working folder.
        let name = program.strip_prefix(&self.work).unwrap_or(program).display();
        let help = |text: &str| text.to_owned();
        let found = self.work.as_std_path().join(program);
        let begins = |magic: &[u8]| fs_err::read(&found).is_ok_and(|bytes| bytes.starts_with(magic));
        match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            // A shell would run it by itself; which program is to run it is then not said anywhere.
            Some(rustix::io::Errno::NOEXEC) if !begins(b"\x7fELF") => (
                format!("`{name}` cannot be started: it is a script without a first line that names its interpreter"),
                format!(
                    "begin it with `#!/bin/sh` or `#!/usr/bin/env python3`, or name what runs it: argv = [\"sh\", \"{name}\", ...]"
                ),
            ),
            Some(rustix::io::Errno::NOEXEC) => (
                format!("`{name}` cannot be started: it is a program for another kind of machine"),
                help("install or build it for this one"),
            ),
            Some(rustix::io::Errno::NOENT) if begins(b"#!") => (
                format!("`{name}` cannot be started: the interpreter that its first line names is not here"),
                help("install it, or correct the line"),
            ),
            Some(rustix::io::Errno::ACCESS) if found.is_file() => (
                format!("`{name}` cannot be started: it is not executable"),
                format!("`chmod +x` it, or name what runs it: argv = [\"sh\", \"{name}\", ...]"),
            ),
            _ => (
                format!("`{name}` cannot be started: {error}"),
                help("is it installed, in PATH and executable? scripts of yours belong under `files`"),
            ),
        }
    }

    /// What lies in the working folder and is neither declared nor was put there, relative to it; sorted.
    pub(super) fn undeclared(&self) -> std::io::Result<Vec<String>> {
        let mut found = Vec::new();
        let mut open = vec![self.work.clone()];
        while let Some(folder) = open.pop() {
            for entry in folder.read_dir_utf8()? {
                let path = entry?.into_path();
                if self.outputs.values().any(|output| *output == path) || self.copied.contains(&path) {
                    continue;
                }
                if path.symlink_metadata()?.is_dir() {
                    open.push(path);
                } else {
                    found.push(path.strip_prefix(&self.work).unwrap_or(&path).to_string());
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}
