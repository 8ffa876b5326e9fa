//! Whole columns of the results database: what tables, statistics and plots are made of.
//!
//! A table of results needs a few columns of many executions. They are read one by one, each in one scan or one range of
//! an index, and put side by side by the number of the execution; nothing reads the measurements step by step, so the
//! length of curves costs nothing. Numbers of executions are of this database file only.

use std::sync::Arc;

#[cfg(test)]
use rusqlite::Connection;
use rusqlite::Row;
use rusqlite::types::ValueRef;
use serde_json::Value;

use super::runs::digest;
use crate::digest::Digest;
use crate::error::Result;
use crate::record::{Outcome, RecordId, RecordOutput, Series};
use crate::store::Store;

/// An execution, as tables show it.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultRow {
    /// Its number in this database.
    pub execution: i64,
    /// Its record.
    pub record: RecordId,
    /// Its key.
    pub key: Digest,
    /// The run it belongs to.
    pub run: Arc<str>,
    /// The node it was for.
    pub node: Arc<str>,
    /// Its stage kind.
    pub kind: Arc<str>,
    /// How it ended.
    pub outcome: Outcome,
    /// Unix milliseconds.
    pub started_at: i64,
    /// How long it took, in seconds.
    pub wall_seconds: f64,
    /// Processor time, in seconds.
    pub cpu_seconds: f64,
    /// The most memory it had, in bytes.
    pub peak_memory_bytes: u64,
    /// The seed it was given.
    pub seed: u64,
}

/// A parameter's value as the database keeps it: `true`, `false` and lists are text (JSON).
#[derive(Debug, Clone, PartialEq)]
pub enum ParamValue {
    /// A whole number.
    Integer(i64),
    /// Another number.
    Real(f64),
    /// Anything else.
    Text(Arc<str>),
}

/// What became of one metric in one execution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MetricEnd {
    /// The execution.
    pub execution: i64,
    /// Its name's place in the list of names.
    pub name: usize,
    /// How many values there are.
    pub points: u64,
    /// The figure of the whole execution, else the value of the last step. NaN is kept.
    pub last: f64,
    /// The lowest value; `None` if all are NaN.
    pub lowest: Option<f64>,
    /// The highest value; `None` if all are NaN.
    pub highest: Option<f64>,
    /// Whether `last` is a figure of the whole execution.
    pub figure: bool,
}

impl Store {
    /// All executions, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub fn result_rows(&self) -> Result<Vec<ResultRow>> {
        self.query(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT execution, record, key, run, node, kind, outcome, started_at, wall_seconds, cpu_seconds, \
                 peak_memory_bytes, seed FROM executions ORDER BY execution",
            )?;
            let mut rows = statement.query([])?;
            let mut found: Vec<ResultRow> = Vec::new();
            while let Some(row) = rows.next()? {
                let next = read_row(row, found.last())?;
                found.push(next);
            }
            Ok(found)
        })
    }

    /// The names of all parameters, sorted.
    ///
    /// # Errors
    /// Those of the database.
    pub fn param_names(&self) -> Result<Vec<String>> {
        self.query(|connection| {
            connection
                .prepare_cached(
                    "SELECT text FROM names n WHERE EXISTS (SELECT 1 FROM param_values p WHERE p.name = n.name) \
                     ORDER BY text",
                )?
                .query_map([], |row| row.get(0))?
                .collect()
        })
    }

    /// The values of one parameter by execution, in the order of executions. Parameters that are null are left out.
    ///
    /// # Errors
    /// Those of the database.
    pub fn param_column(&self, name: &str) -> Result<Vec<(i64, ParamValue)>> {
        self.query(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT execution, value FROM param_values WHERE name = (SELECT name FROM names WHERE text = ?) \
                 AND value IS NOT NULL",
            )?;
            let mut rows = statement.query([name])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.extend(param_value(row.get_ref(1)?).map(|value| (row.get(0), value)));
            }
            let found: rusqlite::Result<Vec<_>> =
                found.into_iter().map(|(execution, value)| Ok((execution?, value))).collect();
            let mut found = found?;
            found.sort_by_key(|(execution, _)| *execution);
            Ok(found)
        })
    }

    /// Tells `hear` every parameter (execution, name, value) of the executions that `wanted` lists in rising order.
    /// Nothing is copied: for looking at many at once. Null is told as such.
    ///
    /// # Errors
    /// Those of the database.
    pub fn each_param(&self, wanted: &[i64], mut hear: impl FnMut(i64, &str, Option<ParamRef<'_>>)) -> Result<()> {
        // The number of a name is its place here.
        let names = self.names()?;
        self.query(|connection| {
            // A range of the primary key for each stretch of executions that follow one another closely.
            let mut statement = connection.prepare_cached(
                "SELECT execution, name, value FROM param_values WHERE execution BETWEEN ? AND ? ORDER BY execution, name",
            )?;
            for stretch in wanted.chunk_by(|a, b| b - a < 64) {
                let (Some(first), Some(last)) = (stretch.first(), stretch.last()) else { continue };
                let mut rows = statement.query([first, last])?;
                let mut at = 0;
                while let Some(row) = rows.next()? {
                    let execution: i64 = row.get(0)?;
                    while stretch.get(at).is_some_and(|wanted| *wanted < execution) {
                        at += 1;
                    }
                    if stretch.get(at) == Some(&execution) {
                        let name = usize::try_from(row.get::<_, i64>(1)?).ok().and_then(|name| names.get(name));
                        hear(execution, name.map_or("", String::as_str), param_ref(row.get_ref(2)?));
                    }
                }
            }
            Ok(())
        })
    }

    /// Every metric's end in every execution, and the names that they number.
    ///
    /// # Errors
    /// Those of the database.
    pub fn metric_ends(&self) -> Result<(Vec<String>, Vec<MetricEnd>)> {
        let names = self.names()?;
        self.query(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT execution, name, points, last, lowest, highest, figure FROM metric_ends")?;
            let mut rows = statement.query([])?;
            let mut ends = Vec::new();
            while let Some(row) = rows.next()? {
                ends.push(MetricEnd {
                    execution: row.get(0)?,
                    name: row.get(1)?,
                    points: row.get(2)?,
                    last: row.get::<_, Option<f64>>(3)?.unwrap_or(f64::NAN),
                    lowest: row.get(4)?,
                    highest: row.get(5)?,
                    figure: row.get(6)?,
                });
            }
            Ok((names, ends))
        })
    }

    /// Which execution was computed from the outputs of which: the key of the producer beside the number of the consumer.
    ///
    /// # Errors
    /// Those of the database.
    pub fn input_keys(&self) -> Result<Vec<(i64, Digest)>> {
        self.query(|connection| {
            connection
                .prepare_cached("SELECT execution, from_key FROM inputs WHERE from_key IS NOT NULL")?
                .query_map([], |row| Ok((row.get(0)?, digest(row, 1)?)))?
                .collect()
        })
    }

    /// One metric of one execution, step by step.
    ///
    /// # Errors
    /// Those of the database.
    pub fn metric_series(&self, execution: i64, name: &str) -> Result<Series> {
        self.query(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT step, value FROM metric_points WHERE execution = ? \
                 AND name = (SELECT name FROM names WHERE text = ?) ORDER BY step",
            )?;
            let mut rows = statement.query(rusqlite::params![execution, name])?;
            let mut series = Series::default();
            while let Some(row) = rows.next()? {
                let step = u64::try_from(row.get::<_, i64>(0)?).ok();
                series.push(step, row.get::<_, Option<f64>>(1)?.unwrap_or(f64::NAN));
            }
            Ok(series)
        })
    }

    /// All parameters of an execution as they were, nested.
    ///
    /// # Errors
    /// Those of the database.
    pub fn params_json(&self, execution: i64) -> Result<Value> {
        self.query(|connection| {
            connection
                .prepare_cached("SELECT params FROM execution_details WHERE execution = ?")?
                .query_row([execution], |row| Ok(serde_json::from_str(row.get_ref(0)?.as_str()?).unwrap_or_default()))
        })
    }

    /// The outputs of an execution, sorted by port.
    ///
    /// # Errors
    /// Those of the database.
    pub fn outputs(&self, execution: i64) -> Result<Vec<RecordOutput>> {
        self.query(|connection| {
            connection
                .prepare_cached(
                    "SELECT port, digest, type, bytes, files FROM artifacts WHERE execution = ? ORDER BY port",
                )?
                .query_map([execution], |row| {
                    Ok(RecordOutput { port: row.get(0)?, object: super::read::object(row, 1)? })
                })?
                .collect()
        })
    }

    /// All names of parameters and metrics at the places of their numbers.
    fn names(&self) -> Result<Vec<String>> {
        self.query(|connection| {
            let mut names: Vec<String> = Vec::new();
            let mut statement = connection.prepare_cached("SELECT name, text FROM names ORDER BY name")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let number: usize = row.get(0)?;
                // SQLite numbers from 1 without gaps, as names are never deleted; a file from elsewhere may differ.
                if number < names.len() + 1_000_000 {
                    names.resize(number, String::new());
                    names.push(row.get(1)?);
                }
            }
            Ok(names)
        })
    }
}

/// A parameter's value, borrowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ParamRef<'a> {
    /// A whole number.
    Integer(i64),
    /// Another number.
    Real(f64),
    /// Anything else.
    Text(&'a str),
}

impl ParamRef<'_> {
    /// A copy.
    #[must_use]
    pub fn to_owned(self) -> ParamValue {
        match self {
            Self::Integer(value) => ParamValue::Integer(value),
            Self::Real(value) => ParamValue::Real(value),
            Self::Text(text) => ParamValue::Text(text.into()),
        }
    }
}

fn param_ref(value: ValueRef<'_>) -> Option<ParamRef<'_>> {
    match value {
        ValueRef::Integer(value) => Some(ParamRef::Integer(value)),
        ValueRef::Real(value) => Some(ParamRef::Real(value)),
        ValueRef::Text(text) => std::str::from_utf8(text).ok().map(ParamRef::Text),
        ValueRef::Null | ValueRef::Blob(_) => None,
    }
}

fn param_value(value: ValueRef<'_>) -> Option<ParamValue> {
    param_ref(value).map(ParamRef::to_owned)
}

/// Texts that are those of the row before are shared with it.
fn read_row(row: &Row<'_>, before: Option<&ResultRow>) -> rusqlite::Result<ResultRow> {
    let shared = |column: usize, known: Option<&Arc<str>>| -> rusqlite::Result<Arc<str>> {
        let text = row.get_ref(column)?.as_str()?;
        Ok(known.filter(|known| &***known == text).map_or_else(|| text.into(), Arc::clone))
    };
    Ok(ResultRow {
        execution: row.get(0)?,
        record: RecordId(digest(row, 1)?),
        key: digest(row, 2)?,
        run: shared(3, before.map(|row| &row.run))?,
        node: shared(4, before.map(|row| &row.node))?,
        kind: shared(5, before.map(|row| &row.kind))?,
        outcome: super::read::outcome(row, 6)?,
        started_at: row.get(7)?,
        wall_seconds: row.get(8)?,
        cpu_seconds: row.get(9)?,
        peak_memory_bytes: row.get(10)?,
        seed: super::read::seed(row, 11)?,
    })
}

/// How SQLite would answer, one line a step: for tests that mind that an index is used.
#[cfg(test)]
fn explain(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?.query_map([], |row| row.get(3))?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Fixture, key, record};

    #[test]
    fn columns_stand_side_by_side() {
        let f = Fixture::new();
        let ids = f.store.commit(&[record("a", &[]), record("b", &[]), record("c", &[])]).unwrap();
        let rows = f.store.result_rows().unwrap();
        assert_eq!(rows.iter().map(|row| row.record).collect::<Vec<_>>(), ids);
        assert_eq!((&*rows[1].node, rows[1].seed, rows[1].outcome), ("node-b", u64::MAX, Outcome::Done));
        assert!(Arc::ptr_eq(&rows[0].run, &rows[2].run));
        let names = f.store.param_names().unwrap();
        assert_eq!(names, ["betas", "lr", "model.rank", "model.tied", "name", "none"]);
        let numbers: Vec<i64> = rows.iter().map(|row| row.execution).collect();
        let rank = f.store.param_column("model.rank").unwrap();
        assert_eq!(rank, numbers.iter().map(|number| (*number, ParamValue::Integer(8))).collect::<Vec<_>>());
        assert!(f.store.param_column("none").unwrap().is_empty());
        assert!(f.store.param_column("' OR 1=1 --").unwrap().is_empty());
        let mut heard = Vec::new();
        let wanted = [numbers[0], numbers[2]];
        f.store
            .each_param(&wanted, |execution, name, value| {
                heard.push(format!("{execution} {name} {value:?}"));
            })
            .unwrap();
        assert_eq!(heard.len(), 12);
        assert!(heard.contains(&format!("{} model.tied Some(Text(\"false\"))", numbers[2])), "{heard:?}");
        assert!(heard.contains(&format!("{} none None", numbers[0])), "{heard:?}");
        assert_eq!(f.store.params_json(numbers[0]).unwrap()["model"]["rank"], 8);
        assert_eq!(f.store.input_keys().unwrap(), numbers.iter().map(|n| (*n, key("k"))).collect::<Vec<_>>());
    }

    #[test]
    fn a_figure_of_the_whole_execution_counts_before_the_last_step() {
        let f = Fixture::new();
        let mut both = record("a", &[]);
        both.metrics.push("loss", None, 4.0);
        both.metrics.push("parameters", None, f64::NAN);
        f.store.commit(&[both]).unwrap();
        let (names, ends) = f.store.metric_ends().unwrap();
        let of = |name: &str| *ends.iter().find(|end| names[end.name] == name).unwrap();
        let loss = of("loss");
        assert_eq!((loss.last, loss.lowest, loss.highest, loss.points), (4.0, Some(f64::NEG_INFINITY), Some(5.5), 4));
        assert!(loss.figure && of("parameters").figure && of("parameters").last.is_nan());
        let series = f.store.metric_series(1, "loss").unwrap();
        assert_eq!(series.steps(), [None, Some(0), Some(10), Some(20)]);
        assert!(f.store.metric_series(1, "no such").unwrap().values().is_empty());
    }

    #[test]
    fn a_column_of_one_parameter_reads_only_its_range_of_the_index() {
        let f = Fixture::new();
        let plan = f.store.query(|c| explain(c, "SELECT execution, value FROM param_values WHERE name = 1")).unwrap();
        assert!(plan[0].contains("USING COVERING INDEX param_values_by_name"), "{plan:?}");
        let plan =
            f.store.query(|c| explain(c, "SELECT step, value FROM metric_points WHERE execution = 1 AND name = 2"));
        assert!(plan.as_ref().unwrap()[0].contains("SEARCH metric_points USING PRIMARY KEY"), "{plan:?}");
    }
}
