//! Records into rows.

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use serde_json::{Map, Value};

use super::Database;
use crate::crash_point;
use crate::error::Result;
use crate::record::canonical::canonical_json;
use crate::record::{Metrics, Record, RecordId, Series, journal};

/// The part of a run's journal that a transaction brings into the database.
pub(crate) struct JournalMark {
    pub(crate) run: String,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Database {
    /// Inserts normalised records that are not there yet, in one transaction. `more` adds to it.
    pub(crate) fn insert(
        &self,
        records: &[(RecordId, Record)],
        marks: &[JournalMark],
        more: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<()> {
        crash_point::reached("insert rows")?;
        self.with(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // Of one journal's records, all have come the same way.
            let trusted = marks.iter().find_map(|mark| journal::import_trusted(&mark.run));
            for (id, record) in records {
                let inserted = insert_record(&transaction, id, record)?;
                if let Some(trusted) = trusted {
                    // What was made here stays ours; what was untrusted can become trusted, never the other way round.
                    transaction
                        .prepare_cached(
                            "INSERT INTO imports SELECT ?1, ?2 WHERE ?3 OR EXISTS (SELECT 1 FROM imports WHERE record = ?1) \
                             ON CONFLICT DO UPDATE SET trusted = max(trusted, excluded.trusted)",
                        )?
                        .execute(params![id.to_string(), trusted, inserted])?;
                }
            }
            for mark in marks {
                // A gap before `from` (an earlier transaction failed) stays known as one, to be read later.
                transaction
                    .prepare_cached(
                        "INSERT INTO journals SELECT ?1, ?3 WHERE ?2 = 0 OR EXISTS (SELECT 1 FROM journals WHERE run = ?1) \
                         ON CONFLICT DO UPDATE SET bytes = max(bytes, excluded.bytes) WHERE bytes >= ?2",
                    )?
                    .execute(params![mark.run, mark.from, mark.to])?;
            }
            more(&transaction)?;
            // A crash before the commit is as good as a rollback, which dropping the transaction is.
            #[cfg(test)]
            if crash_point::reached("commit rows").is_err() {
                return Err(rusqlite::Error::QueryReturnedNoRows);
            }
            transaction.commit()
        })?;
        crash_point::reached("rows committed")
    }
}

/// Inserts a record that is not there yet; says whether it was not.
fn insert_record(connection: &Connection, id: &RecordId, record: &Record) -> rusqlite::Result<bool> {
    let seed = i64::try_from(record.seed).map_or_else(|_| Sql::Text(record.seed.to_string()), Sql::Integer);
    let inserted = connection
        .prepare_cached(
            "INSERT OR IGNORE INTO executions (record, key, run, node, kind, stage_version, outcome, started_at, \
             wall_seconds, cpu_seconds, peak_memory_bytes, seed, error) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
        )?
        .execute(params![
            id.to_string(),
            record.key.to_string(),
            record.run,
            record.node,
            record.kind,
            record.stage_version,
            record.outcome.as_str(),
            record.started_at,
            record.wall_seconds,
            record.cpu_seconds,
            record.peak_memory_bytes,
            seed,
            record.error,
        ])?;
    if inserted == 0 {
        return Ok(false);
    }
    let execution = connection.last_insert_rowid();
    connection.prepare_cached("INSERT INTO execution_details VALUES (?,?,?,?,?)")?.execute(params![
        execution,
        record.schema,
        canonical_json(&record.key_inputs),
        canonical_json(&Value::Object(record.params.clone())),
        canonical_json(&record.provenance),
    ])?;
    for output in &record.outputs {
        let object = &output.object;
        connection.prepare_cached("INSERT INTO artifacts VALUES (?,?,?,?,?,?)")?.execute(params![
            execution,
            output.port,
            object.digest.to_string(),
            object.kind.as_str(),
            object.bytes,
            object.files,
        ])?;
    }
    for input in &record.inputs {
        connection.prepare_cached("INSERT INTO inputs VALUES (?,?,?,?,?)")?.execute(params![
            execution,
            input.port,
            input.position,
            input.digest.to_string(),
            input.from_key.map(|key| key.to_string()),
        ])?;
    }
    let mut flat = Vec::new();
    flatten("", &record.params, &mut flat);
    for (name, value) in flat {
        // Two paths can flatten to one name ("a.b" and a: {b}); the JSON in the details has both.
        connection.prepare_cached("INSERT OR IGNORE INTO param_values VALUES (?,?,?)")?.execute(params![
            execution,
            number_of(connection, &name)?,
            value
        ])?;
    }
    insert_metrics(connection, execution, &record.metrics)?;
    Ok(true)
}

fn insert_metrics(connection: &Connection, execution: i64, metrics: &Metrics) -> rusqlite::Result<()> {
    for (name, series) in metrics.iter() {
        let name = number_of(connection, name)?;
        let mut statement = connection.prepare_cached("INSERT INTO metric_points VALUES (?,?,?,?)")?;
        for (step, value) in series.points() {
            let step = step.map_or(-1, |step| i64::try_from(step).unwrap_or(i64::MAX));
            // SQLite stores NaN as NULL by itself.
            statement.execute(params![execution, name, step, value])?;
        }
        let (last, lowest, highest) = ends(series);
        connection.prepare_cached("INSERT INTO metric_ends VALUES (?,?,?,?,?,?,?)")?.execute(params![
            execution,
            name,
            series.values().len(),
            last,
            lowest,
            highest,
            // A record's points are sorted: the figure of the whole execution comes first.
            series.steps().first().is_some_and(Option::is_none)
        ])?;
    }
    Ok(())
}

/// The figure of the whole execution or else the last value; lowest and highest. NaN counts only as the first of these.
fn ends(series: &Series) -> (Option<f64>, Option<f64>, Option<f64>) {
    let numbers = || series.values().iter().copied().filter(|value| !value.is_nan());
    let figure = series.points().next().filter(|(step, _)| step.is_none());
    (
        figure.map_or_else(|| series.values().last().copied(), |(_, value)| Some(value)),
        numbers().reduce(f64::min),
        numbers().reduce(f64::max),
    )
}

/// The number of a name, new or old.
fn number_of(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    let known = connection
        .prepare_cached("SELECT name FROM names WHERE text = ?")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    match known {
        Some(number) => Ok(number),
        None => {
            connection.prepare_cached("INSERT INTO names (text) VALUES (?)")?.execute([name])?;
            Ok(connection.last_insert_rowid())
        }
    }
}

/// Parameters by dotted names, with the values that SQL compares as people expect.
fn flatten(prefix: &str, params: &Map<String, Value>, flat: &mut Vec<(String, Sql)>) {
    for (name, value) in params {
        let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let value = match value {
            Value::Object(inner) => {
                flatten(&name, inner, flat);
                continue;
            }
            Value::Null => Sql::Null,
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => Sql::Integer(integer),
                (None, Some(real)) => Sql::Real(real),
                (None, None) => Sql::Text(number.to_string()),
            },
            Value::String(text) => Sql::Text(text.clone()),
            Value::Bool(_) | Value::Array(_) => Sql::Text(canonical_json(value)),
        };
        flat.push((name, value));
    }
}

#[cfg(test)]
mod tests {
    use crate::test_support::{Fixture, key, record};
    use crate::{Metrics, Record, Store};

    /// The rows of a query as text, as the `sqlite3` shell shows them.
    fn rows(store: &Store, sql: &str) -> Vec<String> {
        store
            .query(|connection| {
                let mut statement = connection.prepare(sql)?;
                let columns = statement.column_count();
                let mut rows = statement.query([])?;
                let mut found = Vec::new();
                while let Some(row) = rows.next()? {
                    let values = (0..columns).map(|i| {
                        Ok(match row.get_ref(i)? {
                            rusqlite::types::ValueRef::Null => "NULL".to_owned(),
                            rusqlite::types::ValueRef::Integer(integer) => integer.to_string(),
                            rusqlite::types::ValueRef::Real(real) => format!("{real:?}"),
                            rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                            rusqlite::types::ValueRef::Blob(_) => "a blob".to_owned(),
                        })
                    });
                    found.push(values.collect::<rusqlite::Result<Vec<_>>>()?.join("|"));
                }
                Ok(found)
            })
            .unwrap()
    }

    #[test]
    fn parameters_can_be_asked_for_by_name_and_compared() {
        let f = Fixture::new();
        f.store.commit(&[record("a", &[])]).unwrap();
        let params = rows(&f.store, "SELECT name, typeof(value), value FROM params ORDER BY name");
        let expected = [
            "betas|text|[0.9,0.95]",
            "lr|real|0.001",
            "model.rank|integer|8",
            "model.tied|text|false",
            "name|text|x",
            "none|null|NULL",
        ];
        assert_eq!(params, expected);
        let sql = "SELECT node FROM executions JOIN params p USING (execution) WHERE p.name = 'lr' AND p.value < 0.01";
        assert_eq!(rows(&f.store, sql), ["node-a"]);
    }

    #[test]
    fn metrics_are_rows_and_summaries() {
        let f = Fixture::new();
        f.store.commit(&[record("a", &[])]).unwrap();
        let points = rows(&f.store, "SELECT name, step, value FROM metrics ORDER BY name, step");
        assert_eq!(points, ["loss|0|5.5", "loss|10|NULL", "loss|20|-inf", "parameters|NULL|1000000.0"]);
        let ends =
            rows(&f.store, "SELECT name, points, last, lowest, highest, figure FROM metric_summaries ORDER BY name");
        assert_eq!(ends, ["loss|3|-inf|-inf|5.5|0", "parameters|1|1000000.0|1000000.0|1000000.0|1"]);
    }

    #[test]
    fn artifacts_inputs_results_and_divergences() {
        let f = Fixture::new();
        let (one, two) = (f.object(b"one"), f.object(b"two"));
        let later =
            Record { started_at: 1_700_000_001_000, metrics: Metrics::default(), ..record("a", &[("out", two)]) };
        f.store.commit(&[record("a", &[("out", one)]), later, record("b", &[("out", one)])]).unwrap();
        let sql = "SELECT node, port, digest, type, bytes, files FROM executions JOIN artifacts USING (execution) \
                   ORDER BY execution";
        let artifact = |node: &str, object: &crate::ObjectRef| format!("{node}|out|{}|file|3|1", object.digest);
        assert_eq!(rows(&f.store, sql), [artifact("node-a", &one), artifact("node-a", &two), artifact("node-b", &one)]);
        let inputs = rows(&f.store, "SELECT port, position, digest, from_key FROM inputs WHERE execution = 1");
        let (a, b, k) = (key("a"), key("b"), key("k"));
        assert_eq!(inputs, [format!("data|0|{a}|{k}"), format!("data|1|{b}|NULL")]);
        assert_eq!(rows(&f.store, "SELECT * FROM divergences"), [format!("{a}|out|2|2")]);
        let started = rows(&f.store, "SELECT started, seed FROM results WHERE execution = 1");
        assert_eq!(started, ["2023-11-14 22:13:20|18446744073709551615"]);
    }

    #[test]
    fn every_table_and_column_is_explained_where_people_look() {
        let f = Fixture::new();
        let schema = rows(&f.store, "SELECT name, sql FROM sqlite_schema WHERE type IN ('table', 'view')");
        for text in &schema {
            let (name, sql) = text.split_once('|').unwrap();
            let mut lines = sql.lines().skip(1);
            assert!(lines.next().unwrap().trim().starts_with("-- "), "{name} is not explained");
        }
        for name in ["runs", "plans", "run_nodes", "executions", "params", "metrics", "artifacts", "inputs"] {
            assert!(schema.iter().any(|text| text.starts_with(&format!("{name}|"))), "{name}");
        }
    }
}
