//! What commands that look at results have in common: which executions, in which order; errors with their place.

use std::{cmp::Ordering, collections::BTreeSet};

use super::exit::{Exit, Failure};
use crate::{
    diagnostic::Sources,
    report::query::{Cell, Column, Field, Frame, FrameError, QueryError, parse},
};

/// A question that has no answer, shown in the text of the option that asks it.
fn failure(option: &str, text: &str, error: impl Into<FrameError>) -> Failure {
    match error.into() {
        FrameError::Store(error) => error.into(),
        FrameError::Query(error) => at(option, text, error),
    }
}

fn at(option: &str, text: &str, error: QueryError) -> Failure {
    let mut sources = Sources::default();
    let source = sources.add(option, text);
    Failure { exit: Exit::Usage, found: vec![error.diagnostic(source)], sources }
}

/// The executions that fit a condition and are of a stage or kind, oldest first; good ones, unless the condition asks for
/// outcomes, and no reproductions, unless it asks for runs. Also the columns that the condition asks about.
pub(super) fn chosen(
    frame: &mut Frame<'_>,
    condition: Option<&str>,
    stage: Option<&str>,
) -> Result<(Vec<usize>, BTreeSet<Column>), Failure> {
    let mut asked = BTreeSet::new();
    let mut rows: Vec<usize> = match condition {
        None => (0..frame.rows.len()).collect(),
        Some(text) => {
            let condition = parse(text).map_err(|error| at("--where", text, error))?;
            let condition = frame.resolve(condition).map_err(|error| failure("--where", text, error))?;
            condition.each_name(&mut |column: &Column| {
                asked.insert(column.clone());
            });
            frame.filter(&condition)
        }
    };
    if !asked.contains(&Column::Field(Field::Outcome)) {
        rows.retain(|row| frame.rows[*row].outcome == sepia_cache::Outcome::Done);
    }
    // What was made again only to be compared would count twice.
    if !asked.contains(&Column::Field(Field::Run)) {
        rows.retain(|row| !sepia_cache::is_reproduction(&frame.rows[*row].run));
    }
    if let Some(stage) = stage {
        let fits = |row: &usize| {
            let row = &frame.rows[*row];
            *row.node == *stage
                || *row.kind == *stage
                || row.node.strip_prefix(stage).is_some_and(|rest| rest.starts_with('['))
        };
        if !frame.rows.is_empty() && !(0..frame.rows.len()).any(|row| fits(&row)) {
            let names = frame.rows.iter().flat_map(|row| [&*row.kind, row.node.split('[').next().unwrap_or_default()]);
            let failure =
                Failure::usage("results::unknown-stage", format!("no execution is of a stage or kind `{stage}`"));
            return Err(match crate::diagnostic::nearest(stage, names) {
                Some(near) => failure.help(format!("did you mean `{near}`?")),
                None => failure.help("`sepia results` lists what there is"),
            });
        }
        rows.retain(fits);
    }
    Ok((rows, asked))
}

/// Columns for a list of names.
pub(super) fn columns(frame: &mut Frame<'_>, option: &str, list: &str) -> Result<Vec<Column>, Failure> {
    frame.columns(list).map_err(|error| failure(option, list, error))
}

/// The metric that a name means.
pub(super) fn metric(frame: &mut Frame<'_>, name: &str) -> Result<String, Failure> {
    let known = frame.names.metrics.iter().any(|one| one == name);
    if known {
        return Ok(name.to_owned());
    }
    let failure = Failure::usage("results::unknown-metric", format!("no execution has measured `{name}`"));
    Err(match crate::diagnostic::nearest(name, frame.names.metrics.iter().map(String::as_str)) {
        Some(near) => failure.help(format!("did you mean `{near}`?")),
        None => {
            let some: Vec<&str> = frame.names.metrics.iter().take(12).map(String::as_str).collect();
            failure.help(format!("there is `{}`", some.join("`, `")))
        }
    })
}

/// Columns to sort by, and whether the highest comes first (`-name`).
pub(super) fn order(frame: &mut Frame<'_>, list: Option<&str>) -> Result<Vec<(Column, bool)>, Failure> {
    let Some(list) = list else { return Ok(Vec::new()) };
    let down: Vec<bool> = list.split(',').map(|name| name.trim_start().starts_with('-')).collect();
    // The signs become spaces, so that places stay right.
    let names: Vec<String> = list
        .split(',')
        .map(|name| if name.trim_start().starts_with('-') { name.replacen('-', " ", 1) } else { name.to_owned() })
        .collect();
    let names = names.join(",");
    let columns = frame.columns(&names).map_err(|error| failure("--sort", list, error))?;
    Ok(columns.into_iter().zip(down).collect())
}

/// Sorts rows; those that are alike stay in their order.
pub(super) fn sort(frame: &Frame<'_>, rows: &mut [usize], order: &[(Column, bool)]) {
    sort_by(rows, order, |row, column| frame.cell(*row, column).clone());
}

/// Sorts anything that has cells. What is missing comes last in both directions.
pub(super) fn sort_by<T>(all: &mut [T], order: &[(Column, bool)], cell: impl Fn(&T, &Column) -> Cell) {
    all.sort_by(|a, b| {
        order.iter().fold(Ordering::Equal, |so_far, (column, down)| {
            so_far.then_with(|| {
                let (a, b) = (cell(a, column), cell(b, column));
                let found = a.order(&b);
                if *down && a != Cell::Missing && b != Cell::Missing { found.reverse() } else { found }
            })
        })
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_last_in_both_directions() {
        let column = Column::Field(Field::Seed);
        let cells = [Cell::Missing, Cell::Integer(2), Cell::Integer(1)];
        for (down, expected) in [(false, [2, 1, 0]), (true, [1, 2, 0])] {
            let mut rows = [0, 1, 2];
            sort_by(&mut rows, &[(column.clone(), down)], |row, _| cells[*row].clone());
            assert_eq!(rows, expected);
        }
    }
}
