//! `sepia log`.

use super::{
    args::{self, Global},
    exit::{Exit, Failure},
    output, project,
};

pub(super) fn log(global: &Global, args: &args::Log) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let run = args.run.as_deref().map(|run| store.find_run(run)).transpose()?;
    let ran = store
        .executions()?
        .into_iter()
        .find(|row| row.node == args.stage && run.as_ref().is_none_or(|run| run.run == row.run));
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
    match fs_err::read(path) {
        Ok(text) => output::data(&String::from_utf8_lossy(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            output::note(&format!("{} wrote nothing in run {}", args.stage, row.run));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Exit::Fine)
}
