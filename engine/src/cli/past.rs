//! The command of a past run, to be given again.

use camino::Utf8PathBuf;
use clap::Parser as _;
use sepia_cache::RunRow;

use super::{
    args::{Args, Command, Global, Run},
    exit::Failure,
};

/// What a run was told.
pub(super) struct Past {
    /// After the program's name.
    pub(super) words: Vec<String>,
    pub(super) global: Global,
    pub(super) run: Run,
    /// Where it was given: paths in it are relative to this folder.
    pub(super) folder: Utf8PathBuf,
}

/// The command of a run, if it was kept.
pub(super) fn command(row: &RunRow) -> Result<Past, Failure> {
    let words = row.details["arguments"].as_array().into_iter().flatten();
    let words: Vec<String> = words.filter_map(serde_json::Value::as_str).map(ToOwned::to_owned).collect();
    let folder = Utf8PathBuf::from(row.details["folder"].as_str().unwrap_or("."));
    match Args::try_parse_from(std::iter::once("sepia").chain(words.iter().map(String::as_str))) {
        Ok(Args { global, command: Command::Run(run) }) => Ok(Past { words, global, run, folder }),
        _ => Err(Failure::usage("run::command", format!("the command of run {} was not kept", row.run))
            .help(format!("it was `{}`", row.command))),
    }
}
