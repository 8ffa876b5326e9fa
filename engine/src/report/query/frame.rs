//! Executions with the columns that were asked for, side by side.
//!
//! A parameter that an execution does not have is taken from the stages that it builds on, nearest first: an evaluation
//! can be filtered and grouped by the method of the training that made its model. Metrics are an execution's own.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use sepia_cache::{MetricEnd, Origin, ParamValue, ResultRow, Store, StoreError};

use super::{
    Column, Field, QueryError,
    columns::{End, Names},
    condition::{Condition, Name},
};

/// What stands in one row and one column.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Missing,
    /// Wide enough for every seed.
    Integer(i128),
    Number(f64),
    Text(Arc<str>),
    /// The name of a run, key or record: its beginning is enough.
    Prefix(Arc<str>),
}

impl Cell {
    /// Its number, if it is one.
    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "for statistics and plots")]
            Self::Integer(value) => Some(*value as f64),
            Self::Number(value) => Some(*value),
            Self::Missing | Self::Text(_) | Self::Prefix(_) => None,
        }
    }

    /// As it is written in full.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Missing => Cow::Borrowed(""),
            Self::Integer(value) => Cow::Owned(value.to_string()),
            Self::Number(value) => Cow::Owned(value.to_string()),
            Self::Text(text) | Self::Prefix(text) => Cow::Borrowed(text),
        }
    }

    /// Numbers before texts, what is missing last.
    pub(crate) fn order(&self, other: &Self) -> std::cmp::Ordering {
        let class = |cell: &Self| match cell {
            Self::Number(value) if value.is_nan() => 2,
            Self::Integer(_) | Self::Number(_) => 0,
            Self::Text(_) | Self::Prefix(_) => 1,
            Self::Missing => 3,
        };
        class(self).cmp(&class(other)).then_with(|| match (self.number(), other.number()) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => self.text().cmp(&other.text()),
        })
    }
}

impl From<ParamValue> for Cell {
    fn from(value: ParamValue) -> Self {
        match value {
            ParamValue::Integer(value) => Self::Integer(value.into()),
            ParamValue::Real(value) => Self::Number(value),
            ParamValue::Text(text) => Self::Text(text),
        }
    }
}

/// All executions of a store, and the columns that have been read.
pub(crate) struct Frame<'s> {
    store: &'s Store,
    /// Oldest first.
    pub(crate) rows: Vec<ResultRow>,
    /// The place of an execution in [`Frame::rows`].
    places: HashMap<i64, usize>,
    pub(crate) names: Names,
    metric_names: Vec<String>,
    ends: Vec<MetricEnd>,
    columns: BTreeMap<Column, Vec<Cell>>,
    /// The places of the executions that each was made from; read when needed.
    parents: Option<Vec<Vec<usize>>>,
}

/// Why a question has no answer.
#[derive(Debug)]
pub(crate) enum FrameError {
    Store(StoreError),
    Query(QueryError),
}

impl From<StoreError> for FrameError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<QueryError> for FrameError {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl<'s> Frame<'s> {
    /// Reads what every question needs.
    pub(crate) fn load(store: &'s Store) -> Result<Self, StoreError> {
        let rows = store.result_rows()?;
        let places = rows.iter().enumerate().map(|(place, row)| (row.execution, place)).collect();
        let (metric_names, ends) = store.metric_ends()?;
        let mut seen = vec![false; metric_names.len()];
        ends.iter().filter_map(|end| seen.get_mut(end.name).map(|seen| *seen = true)).for_each(drop);
        let mut metrics: Vec<String> =
            metric_names.iter().zip(&seen).filter(|(_, seen)| **seen).map(|(name, _)| name.clone()).collect();
        metrics.sort_unstable();
        let names = Names { params: store.param_names()?, metrics };
        Ok(Self { store, rows, places, names, metric_names, ends, columns: BTreeMap::new(), parents: None })
    }

    /// The column that a name means, read.
    pub(crate) fn column(&mut self, name: &str, place: &std::ops::Range<usize>) -> Result<Column, FrameError> {
        let column = self.names.resolve(name, place)?;
        self.read(&column)?;
        Ok(column)
    }

    /// Columns for a list of names with commas between them; an empty name is an error.
    pub(crate) fn columns(&mut self, list: &str) -> Result<Vec<Column>, FrameError> {
        let mut start = 0;
        let mut columns = Vec::new();
        for part in list.split(',') {
            let name = part.trim();
            let at = start + (part.len() - part.trim_start().len());
            columns.push(self.column(name, &(at..at + name.len()))?);
            start += part.len() + 1;
        }
        Ok(columns)
    }

    /// A condition with its names resolved and its columns read.
    pub(crate) fn resolve(&mut self, condition: Condition<Name>) -> Result<Condition<Column>, FrameError> {
        condition.map(&mut |name: Name| self.column(&name.text, &name.place))
    }

    /// A value; [`Cell::Missing`] in a column that was not read.
    pub(crate) fn cell(&self, row: usize, column: &Column) -> &Cell {
        self.columns.get(column).and_then(|cells| cells.get(row)).unwrap_or(&Cell::Missing)
    }

    /// The rows that fit.
    pub(crate) fn filter(&self, condition: &Condition<Column>) -> Vec<usize> {
        (0..self.rows.len()).filter(|row| condition.holds(&|column| self.cell(*row, column))).collect()
    }

    /// The metrics that are figures of whole executions in some of these rows, in the order of their names.
    pub(crate) fn figures(&self, rows: &[usize]) -> Vec<Column> {
        let mut chosen = vec![false; self.rows.len()];
        rows.iter().for_each(|row| chosen[*row] = true);
        let of_rows = |end: &&MetricEnd| self.places.get(&end.execution).is_some_and(|place| chosen[*place]);
        let mut names: Vec<&str> = Vec::new();
        let mut known = vec![false; self.metric_names.len()];
        for end in self.ends.iter().filter(|end| end.figure).filter(of_rows) {
            if let (Some(known), Some(name)) = (known.get_mut(end.name), self.metric_names.get(end.name))
                && !std::mem::replace(known, true)
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        names.into_iter().map(|name| Column::Metric(name.to_owned(), End::Last)).collect()
    }

    /// The ends of all metrics of one execution, by name.
    pub(crate) fn ends_of(&self, row: usize) -> BTreeMap<&str, &MetricEnd> {
        let execution = self.rows[row].execution;
        // The table is in the order of executions.
        let first = self.ends.partition_point(|end| end.execution < execution);
        self.ends[first..]
            .iter()
            .take_while(|end| end.execution == execution)
            .filter_map(|end| Some((self.metric_names.get(end.name)?.as_str(), end)))
            .collect()
    }

    /// Reads a column, if it has not been.
    pub(crate) fn read(&mut self, column: &Column) -> Result<(), StoreError> {
        if self.columns.contains_key(column) {
            return Ok(());
        }
        let cells = match column {
            Column::Field(Field::Trust) => {
                let origins = self.store.origins()?;
                let of = |row: &ResultRow| origins.get(&row.record).copied().unwrap_or(Origin::Own);
                self.rows.iter().map(|row| Cell::Text(of(row).name().into())).collect()
            }
            Column::Field(field) => self.rows.iter().map(|row| field_cell(row, *field)).collect(),
            Column::Metric(name, end) => self.metric_cells(name, *end),
            Column::Param(name) => {
                let mut cells = vec![Cell::Missing; self.rows.len()];
                for (execution, value) in self.store.param_column(name)? {
                    if let Some(place) = self.places.get(&execution) {
                        cells[*place] = value.into();
                    }
                }
                self.inherit(&mut cells)?;
                cells
            }
        };
        self.columns.insert(column.clone(), cells);
        Ok(())
    }

    fn metric_cells(&self, name: &str, which: End) -> Vec<Cell> {
        let mut cells = vec![Cell::Missing; self.rows.len()];
        let Some(number) = self.metric_names.iter().position(|one| one == name) else { return cells };
        for end in self.ends.iter().filter(|end| end.name == number) {
            let value = match which {
                End::Last => Some(end.last),
                End::Lowest => end.lowest,
                End::Highest => end.highest,
            };
            if let (Some(place), Some(value)) = (self.places.get(&end.execution), value) {
                cells[*place] = Cell::Number(value);
            }
        }
        cells
    }

    /// Fills what is missing from what an execution was made from.
    fn inherit(&mut self, cells: &mut [Cell]) -> Result<(), StoreError> {
        if cells.iter().all(|cell| *cell != Cell::Missing) || cells.iter().all(|cell| *cell == Cell::Missing) {
            return Ok(());
        }
        let parents = self.parents()?;
        // Producers come before consumers in one database, so that one pass is enough; a merged one may take more.
        for _ in 0..64 {
            let mut changed = false;
            for place in 0..cells.len() {
                if cells[place] == Cell::Missing
                    && let Some(found) = parents[place].iter().find(|parent| cells[**parent] != Cell::Missing)
                {
                    cells[place] = cells[*found].clone();
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        Ok(())
    }

    /// For each row, the rows whose outputs it read.
    pub(crate) fn parents(&mut self) -> Result<&[Vec<usize>], StoreError> {
        if self.parents.is_none() {
            // The newest good execution of a key.
            let of_key: HashMap<_, usize> = self
                .rows
                .iter()
                .enumerate()
                .filter(|(_, row)| row.outcome == sepia_cache::Outcome::Done)
                .map(|(place, row)| (row.key, place))
                .collect();
            let mut parents = vec![Vec::new(); self.rows.len()];
            for (execution, key) in self.store.input_keys()? {
                if let (Some(place), Some(parent)) = (self.places.get(&execution), of_key.get(&key))
                    && !parents[*place].contains(parent)
                {
                    parents[*place].push(*parent);
                }
            }
            self.parents = Some(parents);
        }
        Ok(self.parents.as_deref().unwrap_or_default())
    }

    /// The store it was read from.
    pub(crate) fn store(&self) -> &'s Store {
        self.store
    }
}

fn field_cell(row: &ResultRow, field: Field) -> Cell {
    match field {
        Field::Node => Cell::Text(Arc::clone(&row.node)),
        Field::Stage => Cell::Text(row.node.split('[').next().unwrap_or_default().into()),
        Field::Kind => Cell::Text(Arc::clone(&row.kind)),
        Field::Run => Cell::Prefix(Arc::clone(&row.run)),
        Field::Seed => Cell::Integer(row.seed.into()),
        Field::Outcome => Cell::Text(row.outcome.as_str().into()),
        Field::Key => Cell::Prefix(row.key.to_string().into()),
        Field::Record => Cell::Prefix(row.record.to_string().into()),
        Field::Started => Cell::Text(
            jiff::Timestamp::from_millisecond(row.started_at).map(|at| at.to_string()).unwrap_or_default().into(),
        ),
        Field::Seconds => Cell::Number(row.wall_seconds),
        Field::CpuSeconds => Cell::Number(row.cpu_seconds),
        // Read by itself: the row does not say.
        Field::Trust => Cell::Missing,
        Field::PeakMemory => Cell::Integer(row.peak_memory_bytes.into()),
    }
}
