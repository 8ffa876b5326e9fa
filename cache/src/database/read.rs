//! Rows into records.

use std::collections::HashSet;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde_json::Value;

use super::index::SMALL;
use super::runs::{digest, optional_digest};
use crate::digest::Digest;
use crate::error::{Result, StoreError};
use crate::object::{ObjectKind, ObjectRef};
use crate::record::{Metrics, Outcome, Record, RecordId, RecordInput, RecordOutput};
use crate::store::Store;

/// An execution without its long parts: what lists show.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionRow {
    /// Its record.
    pub record: RecordId,
    /// Its key.
    pub key: Digest,
    /// The run it belongs to.
    pub run: String,
    /// The node it was for.
    pub node: String,
    /// Its stage kind.
    pub kind: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Unix milliseconds.
    pub started_at: i64,
    /// How long it took, in seconds.
    pub wall_seconds: f64,
    /// The seed it was given.
    pub seed: u64,
}

/// Which records to read.
#[derive(Debug, Clone, Copy)]
pub enum RecordsOf<'a> {
    /// Those with this key.
    Key(&'a Digest),
    /// Those of nodes of this name.
    Node(&'a str),
    /// Those of all nodes of this stage kind.
    Kind(&'a str),
}

/// What has been tried in a store: see [`Store::attempted`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempted {
    /// Keys.
    pub keys: HashSet<Digest>,
    /// Names of nodes.
    pub nodes: HashSet<String>,
}

const COLUMNS: &str = "record, key, run, node, kind, outcome, started_at, wall_seconds, seed";

impl Store {
    /// The whole record of this id.
    ///
    /// # Errors
    /// Those of the database.
    pub fn record(&self, id: &RecordId) -> Result<Option<Record>> {
        self.database.with(|connection| read_record(connection, id))
    }

    /// The record whose id begins with `prefix`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and [`StoreError::Ambiguous`].
    pub fn find_record(&self, prefix: &str) -> Result<RecordId> {
        // Hexadecimal digits all come before `g`, so this is a range of the index.
        let ids = self.ids("record >= ?1 AND record < ?1 || 'g' ORDER BY record LIMIT 6", prefix)?;
        match ids.as_slice() {
            [id] => Ok(*id),
            [] => Err(self.not_found("record", prefix)),
            several => Err(StoreError::Ambiguous {
                text: prefix.to_owned(),
                matches: several.iter().map(|id| id.0.short()).collect(),
            }),
        }
    }

    /// The key that begins with `prefix`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and [`StoreError::Ambiguous`].
    pub fn find_key(&self, prefix: &str) -> Result<Digest> {
        let keys: Vec<Digest> = self.database.with(|connection| {
            connection
                .prepare_cached(
                    "SELECT DISTINCT key FROM executions WHERE key >= ?1 AND key < ?1 || 'g' ORDER BY key LIMIT 6",
                )?
                .query_map([prefix], |row| digest(row, 0))?
                .collect()
        })?;
        match keys.as_slice() {
            [key] => Ok(*key),
            [] => Err(self.not_found("key", prefix)),
            several => Err(StoreError::Ambiguous {
                text: prefix.to_owned(),
                matches: several.iter().map(Digest::short).collect(),
            }),
        }
    }

    /// All records for a key, whatever their outcome, newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub fn records_by_key(&self, key: &Digest) -> Result<Vec<RecordId>> {
        self.ids("key = ?1 ORDER BY execution DESC", &key.to_string())
    }

    /// The newest record for a node of this name, whatever its outcome; a reproduction only if there is nothing else.
    ///
    /// # Errors
    /// Those of the database.
    pub fn latest_by_node(&self, node: &str) -> Result<Option<RecordId>> {
        Ok(self.ids("node = ?1 ORDER BY run LIKE 'reproduction-%', execution DESC LIMIT 1", node)?.pop())
    }

    /// Records, newest first, at most `limit`, with what their keys were made of: the candidates for "closest earlier key".
    /// `before`: only those whose execution began earlier, in Unix milliseconds.
    ///
    /// # Errors
    /// Those of the database.
    pub fn recent_key_inputs(
        &self,
        of: RecordsOf<'_>,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<(ExecutionRow, Value)>> {
        let before = before.unwrap_or(i64::MAX);
        let (column, value) = match of {
            RecordsOf::Key(key) => ("key", key.to_string()),
            RecordsOf::Node(node) => ("node", node.to_owned()),
            RecordsOf::Kind(kind) => ("kind", kind.to_owned()),
        };
        self.database.with(|connection| {
            // The newest of a kind are found from the end; there are few kinds, and no index of them.
            let sql = format!(
                "SELECT {COLUMNS}, key_inputs FROM executions JOIN execution_details USING (execution) \
                 WHERE {column} = ?1 AND started_at < ?2 ORDER BY execution DESC LIMIT ?3"
            );
            connection
                .prepare_cached(&sql)?
                .query_map(rusqlite::params![value, before, limit], |row| Ok((read_execution(row)?, json(row, 9)?)))?
                .collect()
        })
    }

    /// Keys and nodes of all executions, whatever their outcome; `None` where there are too many to be read at once.
    ///
    /// # Errors
    /// Those of the database.
    pub fn attempted(&self) -> Result<Option<Attempted>> {
        self.database.with(|connection| {
            let highest: i64 =
                connection.query_row("SELECT coalesce(max(execution), 0) FROM executions", [], |row| row.get(0))?;
            if highest > SMALL {
                return Ok(None);
            }
            let mut all = Attempted::default();
            let mut rows = connection.prepare_cached("SELECT key, node FROM executions")?;
            let mut rows = rows.query([])?;
            while let Some(row) = rows.next()? {
                all.keys.insert(digest(row, 0)?);
                let node = row.get_ref(1)?.as_str()?;
                if !all.nodes.contains(node) {
                    all.nodes.insert(node.to_owned());
                }
            }
            Ok(Some(all))
        })
    }

    /// All executions, newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub fn executions(&self) -> Result<Vec<ExecutionRow>> {
        self.database.with(|connection| {
            let sql = format!("SELECT {COLUMNS} FROM executions ORDER BY execution DESC");
            connection.prepare_cached(&sql)?.query_map([], read_execution)?.collect()
        })
    }

    /// What an execution measured.
    ///
    /// # Errors
    /// Those of the database.
    pub fn metrics(&self, id: &RecordId) -> Result<Metrics> {
        self.database.with(|connection| match execution_of(connection, id)? {
            Some(execution) => read_metrics(connection, execution),
            None => Ok(Metrics::default()),
        })
    }

    /// Asks the database for whatever it can answer. The schema is documented in the head of `database/mod.rs`.
    ///
    /// # Errors
    /// Those of the database and of `work`.
    pub fn query<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.database.with(|connection| work(connection))
    }

    fn ids(&self, condition: &str, value: &str) -> Result<Vec<RecordId>> {
        let sql = format!("SELECT record FROM executions WHERE {condition}");
        self.database.with(|connection| {
            connection.prepare_cached(&sql)?.query_map([value], |row| Ok(RecordId(digest(row, 0)?)))?.collect()
        })
    }
}

fn execution_of(connection: &Connection, id: &RecordId) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT execution FROM executions WHERE record = ?")?
        .query_row([id.to_string()], |row| row.get(0))
        .optional()
}

fn read_execution(row: &Row<'_>) -> rusqlite::Result<ExecutionRow> {
    Ok(ExecutionRow {
        record: RecordId(digest(row, 0)?),
        key: digest(row, 1)?,
        run: row.get(2)?,
        node: row.get(3)?,
        kind: row.get(4)?,
        outcome: outcome(row, 5)?,
        started_at: row.get(6)?,
        wall_seconds: row.get(7)?,
        seed: seed(row, 8)?,
    })
}

/// Puts a record together again, byte for byte: its id comes out the same.
pub(crate) fn read_record(connection: &Connection, id: &RecordId) -> rusqlite::Result<Option<Record>> {
    let Some(execution) = execution_of(connection, id)? else { return Ok(None) };
    let mut record = connection
        .prepare_cached(
            "SELECT schema, key, key_inputs, kind, stage_version, node, run, outcome, error, started_at, wall_seconds, \
             cpu_seconds, peak_memory_bytes, seed, params, provenance \
             FROM executions JOIN execution_details USING (execution) WHERE execution = ?",
        )?
        .query_row([execution], |row| {
            Ok(Record {
                schema: row.get(0)?,
                key: digest(row, 1)?,
                key_inputs: json(row, 2)?,
                kind: row.get(3)?,
                stage_version: row.get(4)?,
                node: row.get(5)?,
                run: row.get(6)?,
                outcome: outcome(row, 7)?,
                error: row.get(8)?,
                started_at: row.get(9)?,
                wall_seconds: row.get(10)?,
                cpu_seconds: row.get(11)?,
                peak_memory_bytes: row.get(12)?,
                seed: seed(row, 13)?,
                params: match json(row, 14)? {
                    Value::Object(map) => map,
                    _ => return Err(not_ours(14, "params are not a JSON object")),
                },
                inputs: Vec::new(),
                outputs: Vec::new(),
                metrics: Metrics::default(),
                provenance: json(row, 15)?,
            })
        })?;
    record.outputs = connection
        .prepare_cached("SELECT port, digest, type, bytes, files FROM artifacts WHERE execution = ? ORDER BY port")?
        .query_map([execution], |row| Ok(RecordOutput { port: row.get(0)?, object: object(row, 1)? }))?
        .collect::<rusqlite::Result<_>>()?;
    record.inputs = connection
        .prepare_cached(
            "SELECT port, position, digest, from_key FROM inputs WHERE execution = ? ORDER BY port, position",
        )?
        .query_map([execution], |row| {
            Ok(RecordInput {
                port: row.get(0)?,
                position: row.get(1)?,
                digest: digest(row, 2)?,
                from_key: optional_digest(row, 3)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    record.metrics = read_metrics(connection, execution)?;
    Ok(Some(record))
}

fn read_metrics(connection: &Connection, execution: i64) -> rusqlite::Result<Metrics> {
    let mut metrics = Metrics::default();
    let mut statement = connection.prepare_cached(
        "SELECT text, step, value FROM metric_points JOIN names USING (name) WHERE execution = ? ORDER BY name, step",
    )?;
    let mut rows = statement.query([execution])?;
    while let Some(row) = rows.next()? {
        let step = u64::try_from(row.get::<_, i64>(1)?).ok();
        let value = match row.get_ref(2)? {
            ValueRef::Null => f64::NAN,
            _ => row.get(2)?,
        };
        metrics.push(row.get_ref(0)?.as_str()?, step, value);
    }
    Ok(metrics)
}

/// The object in four columns: digest, type, bytes, files.
pub(crate) fn object(row: &Row<'_>, first: usize) -> rusqlite::Result<ObjectRef> {
    let kind = match row.get_ref(first + 1)?.as_str()? {
        "tree" => ObjectKind::Tree,
        "file" => ObjectKind::File,
        _ => return Err(not_ours(first + 1, "an artifact is neither a file nor a tree")),
    };
    Ok(ObjectRef { digest: digest(row, first)?, kind, bytes: row.get(first + 2)?, files: row.get(first + 3)? })
}

pub(super) fn outcome(row: &Row<'_>, column: usize) -> rusqlite::Result<Outcome> {
    Outcome::parse(row.get_ref(column)?.as_str()?).ok_or_else(|| not_ours(column, "an outcome of no known name"))
}

pub(super) fn seed(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    match row.get_ref(column)? {
        ValueRef::Integer(seed) => u64::try_from(seed).ok(),
        ValueRef::Text(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
        _ => None,
    }
    .ok_or_else(|| not_ours(column, "a seed is not a number"))
}

fn json(row: &Row<'_>, column: usize) -> rusqlite::Result<Value> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|e| not_ours(column, &e.to_string()))
}

fn not_ours(column: usize, why: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, why.into())
}
