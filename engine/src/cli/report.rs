//! `sepia report`.

use super::{
    args::{self, Global},
    exit::{Exit, Failure},
    output, project,
};
use crate::report::{page, run_view::RunView};

pub(super) fn report(global: &Global, args: &args::Report) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let view = RunView::load(&store, store.find_run(&args.run)?)?;
    let path = args
        .output
        .clone()
        .unwrap_or_else(|| format!("run-{}.html", &view.row.run[..view.row.run.len().min(8)]).into());
    fs_err::write(&path, page::alone(&view, jiff::Timestamp::now().as_millisecond()))?;
    output::note(&format!("{:>12} {path}", "Wrote"));
    Ok(Exit::Fine)
}
