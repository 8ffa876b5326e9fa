//! `sepia results`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sepia_cache::{Origin, ParamRef, Store};
use serde_json::{Map, Value, json};

use super::{
    args::{self, Global, TableFormat},
    exit::{Exit, Failure},
    output, project, question,
};
use crate::report::{
    query::{Cell, Column, Direction, Field, Frame, Statistics, differing_params, direction, groups},
    tabulate::{Entry, TableColumn, Tabulation, csv, number_json},
};

pub(super) fn results(global: &Global, args: &args::Results) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let run = args.run.as_deref().map(|run| store.find_run(run)).transpose()?;
    let mut frame = Frame::load(&store)?;
    let (mut rows, asked) = question::chosen(&mut frame, args.condition.as_deref(), args.stage.as_deref())?;
    if let Some(run) = &run {
        rows.retain(|row| *frame.rows[*row].run == *run.run);
    }
    let sort = question::order(&mut frame, args.sort.as_deref())?;
    question::sort(&frame, &mut rows, &sort);
    let columns = match &args.columns {
        Some(list) => Some(question::columns(&mut frame, "--columns", list)?),
        None => None,
    };
    if let Some(by) = &args.group {
        let by = question::columns(&mut frame, "--group", by)?;
        warn_of_strangers(&mut frame, &rows)?;
        return grouped(&mut frame, &rows, &by, columns, &sort, args);
    }
    rows.truncate(args.limit.unwrap_or(usize::MAX));
    warn_of_strangers(&mut frame, &rows)?;
    match (columns, args.format) {
        (None, TableFormat::Json) => {
            let rows: Result<Vec<Value>, Failure> = rows.iter().map(|row| as_json(&store, &frame, *row)).collect();
            output::json(&Value::Array(rows?));
        }
        (Some(columns), _) => print(&[table(&frame, &rows, String::new(), &columns)], args.format)?,
        (None, _) => {
            let asked = asked.into_iter().chain(sort.into_iter().map(|(column, _)| column)).collect();
            print(&by_kind(&mut frame, &rows, &asked)?, args.format)?;
        }
    }
    Ok(Exit::Fine)
}

fn own() -> Cell {
    Cell::Text(Origin::Own.name().into())
}

/// Results that runs would not use are shown with a word of warning.
fn warn_of_strangers(frame: &mut Frame<'_>, rows: &[usize]) -> Result<(), Failure> {
    let column = Column::Field(Field::Trust);
    frame.read(&column)?;
    let strange = [Origin::UnknownSigner, Origin::Unsigned].map(|origin| Cell::Text(origin.name().into()));
    let found = rows.iter().filter(|row| strange.contains(frame.cell(**row, &column))).count();
    if found > 0 {
        output::note(&format!(
            "note: {} from elsewhere, and nobody in `trusted_keys` has signed them: runs do not use them; leave them out \
             with --where \"trust in (own, trusted, signed)\"",
            if found == 1 { "1 of these results is".to_owned() } else { format!("{found} of these results are") }
        ));
    }
    Ok(())
}

/// Prints tables; nothing to print is said to people only.
fn print(tables: &[Tabulation], format: TableFormat) -> Result<(), Failure> {
    if format == TableFormat::Json {
        let rows = tables.iter().flat_map(|table| {
            table.json().into_iter().map(|row| match row {
                Value::Object(mut object) if !table.title.is_empty() => {
                    object.insert("kind".to_owned(), json!(table.title));
                    Value::Object(object)
                }
                row => row,
            })
        });
        output::json(&Value::Array(rows.collect()));
        return Ok(());
    }
    if tables.iter().all(|table| table.rows.is_empty()) {
        output::note("no results fit");
        return Ok(());
    }
    let text = match format {
        TableFormat::Csv => csv(tables).map_err(std::io::Error::other)?,
        TableFormat::Markdown => tables.iter().map(Tabulation::markdown).collect::<Vec<_>>().join("\n"),
        TableFormat::Table | TableFormat::Json => {
            let text = |table: &Tabulation| {
                let header: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
                let title = if table.title.is_empty() { String::new() } else { format!("{}\n", table.title) };
                title + &output::table(&header, table.lines())
            };
            tables.iter().map(text).collect::<Vec<_>>().join("\n")
        }
    };
    output::data(&text);
    Ok(())
}

fn as_json(store: &Store, frame: &Frame<'_>, place: usize) -> Result<Value, Failure> {
    let row = &frame.rows[place];
    let ends = frame.ends_of(place);
    let figures = ends.iter().filter(|(_, end)| end.figure);
    let results: Map<String, Value> = figures.map(|(name, end)| ((*name).to_owned(), number_json(end.last))).collect();
    Ok(json!({
        "node": &*row.node, "kind": &*row.kind, "run": &*row.run, "key": row.key, "seed": row.seed, "outcome": row.outcome,
        "started_at": row.started_at, "wall_seconds": row.wall_seconds, "params": store.params_json(row.execution)?,
        "trust": frame.cell(place, &Column::Field(Field::Trust)).text(), "results": results, "outputs": store.outputs(row.execution)?,
    }))
}

/// One table a stage kind: which parameters vary, what was asked about, all figures.
fn by_kind(frame: &mut Frame<'_>, rows: &[usize], asked: &BTreeSet<Column>) -> Result<Vec<Tabulation>, Failure> {
    let mut kinds: Vec<(String, Vec<usize>)> = Vec::new();
    for row in rows {
        let kind = &frame.rows[*row].kind;
        match kinds.iter_mut().find(|(known, _)| **known == **kind) {
            Some((_, of_kind)) => of_kind.push(*row),
            None => kinds.push((kind.to_string(), vec![*row])),
        }
    }
    let varying = varying_params(frame, rows)?;
    let mut tables = Vec::new();
    for (kind, of_kind) in kinds {
        let mut columns = vec![Column::Field(Field::Node), Column::Field(Field::Run)];
        let trust = Column::Field(Field::Trust);
        if of_kind.iter().any(|row| *frame.cell(*row, &trust) != own()) {
            columns.push(trust);
        }
        let seed = frame.rows[of_kind[0]].seed;
        if of_kind.iter().any(|row| frame.rows[*row].seed != seed) {
            columns.push(Column::Field(Field::Seed));
        }
        columns.extend(varying.get(&kind).into_iter().flatten().map(|name| Column::Param(name.clone())));
        columns.extend(frame.figures(&of_kind));
        columns.push(Column::Field(Field::Seconds));
        for column in asked {
            let before_time = columns.len() - 1;
            if !columns.contains(column) && of_kind.iter().any(|row| *frame.cell(*row, column) != Cell::Missing) {
                columns.insert(before_time, column.clone());
            }
        }
        for column in &columns {
            frame.read(column)?;
        }
        tables.push(table(frame, &of_kind, kind, &columns));
    }
    Ok(tables)
}

fn table(frame: &Frame<'_>, rows: &[usize], title: String, columns: &[Column]) -> Tabulation {
    let entry = |row: usize, column: &Column| match (column, frame.cell(row, column)) {
        (Column::Field(Field::Seconds | Field::CpuSeconds), Cell::Number(seconds)) => Entry::Seconds(*seconds),
        (_, cell) => Entry::Cell(cell.clone()),
    };
    Tabulation {
        title,
        columns: columns.iter().map(|column| header(column, false)).collect(),
        rows: rows.iter().map(|row| columns.iter().map(|column| entry(*row, column)).collect()).collect(),
    }
}

fn header(column: &Column, means: bool) -> TableColumn {
    TableColumn { name: column.name(), direction: good(column), means }
}

fn good(column: &Column) -> Option<Direction> {
    match column {
        Column::Metric(name, _) => direction(name),
        Column::Field(_) | Column::Param(_) => None,
    }
}

/// For each kind, the names of its own parameters that are not the same everywhere.
fn varying_params(frame: &Frame<'_>, rows: &[usize]) -> Result<BTreeMap<String, Vec<String>>, Failure> {
    let kinds: HashMap<i64, &str> =
        rows.iter().map(|row| (frame.rows[*row].execution, &*frame.rows[*row].kind)).collect();
    let mut executions: Vec<i64> = kinds.keys().copied().collect();
    executions.sort_unstable();
    let mut of_kind: BTreeMap<&str, usize> = BTreeMap::new();
    kinds.values().for_each(|kind| *of_kind.entry(kind).or_default() += 1);
    // Of each parameter: how often it is there, its first value, whether there was another.
    let mut seen: BTreeMap<&str, BTreeMap<String, (usize, String, bool)>> = BTreeMap::new();
    frame.store().each_param(&executions, |execution, name, value| {
        let Some(kind) = kinds.get(&execution) else { return };
        let same = |known: &str| match value {
            None => known.is_empty(),
            Some(ParamRef::Integer(value)) => known.parse() == Ok(value),
            Some(ParamRef::Real(value)) => known.parse() == Ok(value),
            Some(ParamRef::Text(text)) => known == text,
        };
        let names = seen.entry(kind).or_default();
        match names.get_mut(name) {
            Some((count, first, varies)) => {
                *count += 1;
                *varies |= !same(first);
            }
            None => {
                let first = value.map(|value| Cell::from(value.to_owned()).text().into_owned()).unwrap_or_default();
                names.insert(name.to_owned(), (1, first, false));
            }
        }
    })?;
    let mut varying = BTreeMap::new();
    for (kind, names) in seen {
        let all = of_kind.get(kind).copied().unwrap_or_default();
        let names = names.into_iter().filter(|(_, (count, _, varies))| *varies || *count < all);
        varying.insert(kind.to_owned(), names.map(|(name, _)| name).collect());
    }
    Ok(varying)
}

fn grouped(
    frame: &mut Frame<'_>,
    rows: &[usize],
    by: &[Column],
    columns: Option<Vec<Column>>,
    sort: &[(Column, bool)],
    args: &args::Results,
) -> Result<Exit, Failure> {
    let found = groups(frame, rows, by);
    let mut tables: Vec<Tabulation> = Vec::new();
    let mut kinds: Vec<&str> = found.iter().map(|group| group.kind.as_str()).collect();
    kinds.dedup();
    for kind in kinds {
        let of_kind: Vec<_> = found.iter().filter(|group| group.kind == kind).collect();
        let members: Vec<usize> = of_kind.iter().flat_map(|group| group.rows.iter().copied()).collect();
        let metrics = match &columns {
            Some(columns) => columns.clone(),
            None => frame.figures(&members),
        };
        for metric in &metrics {
            frame.read(metric)?;
        }
        let mean = |group: &[usize], column: &Column| {
            Statistics::of(group.iter().filter_map(|row| frame.cell(*row, column).number()))
        };
        let mut of_kind: Vec<_> = of_kind.into_iter().collect();
        question::sort_by(&mut of_kind, sort, |group, column| match by.iter().position(|one| one == column) {
            Some(place) => group.values[place].clone(),
            None => mean(&group.rows, column).map_or(Cell::Missing, |statistics| Cell::Number(statistics.mean)),
        });
        let mut header: Vec<TableColumn> = by.iter().map(|column| self::header(column, false)).collect();
        header.push(TableColumn::plain("n"));
        header.extend(metrics.iter().map(|column| self::header(column, true)));
        let rows = of_kind.iter().take(args.limit.unwrap_or(usize::MAX)).map(|group| {
            let mut entries: Vec<Entry> = group.values.iter().cloned().map(Entry::Cell).collect();
            entries.push(Entry::Cell(Cell::Integer(group.rows.len() as i128)));
            entries.extend(metrics.iter().map(|metric| Entry::Mean(mean(&group.rows, metric))));
            entries
        });
        let rows = rows.collect();
        tables.push(Tabulation { title: kind.to_owned(), columns: header, rows });
    }
    print(&tables, args.format)?;
    let mut differing = differing_params(frame, &found)?;
    differing.retain(|name| !by.contains(&Column::Param(name.clone())) && name != "seed");
    if !differing.is_empty() {
        let more = differing.len().saturating_sub(6);
        let names: Vec<&str> = differing.iter().take(6).map(String::as_str).collect();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        output::note(&format!(
            "note: the executions of a group differ in {}{more}, not only in seeds; add to --group what should not be averaged",
            names.join(", ")
        ));
    }
    Ok(Exit::Fine)
}
