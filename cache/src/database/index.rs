//! The look-up of good records by key: what a run asks once for each node.
//!
//! A small database is read in one scan, after which a look-up costs a hash; a large one is asked key by key. Either
//! way, rows that this or another process commits are seen: when a key is not found, SQLite is asked whether the database
//! has changed since (a look into shared memory), and new rows are read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Row};

use super::Database;
use super::runs::digest;
use crate::digest::Digest;
use crate::error::Result;
use crate::object::{ObjectKind, ObjectRef};
use crate::record::RecordId;
use crate::store::Store;

/// Up to this many executions the whole table is read at once.
const SMALL: i64 = 50_000;

/// A good record for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The record.
    pub record: RecordId,
    /// The run it was made in.
    pub run: Arc<str>,
    /// The node it was made for.
    pub node: Arc<str>,
    /// Its outputs by port, sorted.
    pub outputs: Vec<(Arc<str>, ObjectRef)>,
}

/// Good records by key. Cheap to make for a small database, cheaper to keep.
#[derive(Debug)]
pub struct Index {
    database: Arc<Database>,
    loaded: Option<Mutex<Loaded>>,
}

/// The table in memory.
#[derive(Debug, Default)]
struct Loaded {
    hits: HashMap<Digest, Vec<Hit>>,
    texts: HashMap<String, Arc<str>>,
    /// The highest execution that was read. Rows are never deleted, and SQLite numbers upwards.
    last: i64,
    /// What SQLite said of the state of the database then.
    seen: (i64, i64),
}

impl Store {
    /// The look-up of good records by key.
    ///
    /// # Errors
    /// Those of the database.
    pub fn index(&self) -> Result<Index> {
        Index::new(Arc::clone(&self.database), SMALL)
    }
}

impl Index {
    fn new(database: Arc<Database>, small: i64) -> Result<Self> {
        let loaded = database.with(|connection| {
            let rows: i64 =
                connection.query_row("SELECT coalesce(max(execution), 0) FROM executions", [], |row| row.get(0))?;
            if rows > small {
                return Ok(None);
            }
            let mut loaded = Loaded { seen: state(connection)?, ..Loaded::default() };
            loaded.read_new(connection)?;
            Ok(Some(Mutex::new(loaded)))
        })?;
        Ok(Self { database, loaded })
    }

    /// The good records for a key, newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub fn candidates(&self, key: &Digest) -> Result<Vec<Hit>> {
        let Some(loaded) = &self.loaded else {
            return self.database.with(|connection| point_look_up(connection, key));
        };
        let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hits) = loaded.hits.get(key) {
            return Ok(hits.iter().rev().cloned().collect());
        }
        self.database.with(|connection| loaded.refresh(connection))?;
        Ok(loaded.hits.get(key).map(|hits| hits.iter().rev().cloned().collect()).unwrap_or_default())
    }

    /// Reads what was committed since, by whomever. A key that was found is otherwise answered from memory.
    ///
    /// # Errors
    /// Those of the database.
    pub fn refresh(&self) -> Result<()> {
        let Some(loaded) = &self.loaded else { return Ok(()) };
        let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        self.database.with(|connection| loaded.refresh(connection))
    }
}

impl Loaded {
    fn refresh(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        // The state is taken before the rows: what is committed in between is read again rather than missed.
        let state = state(connection)?;
        if state != self.seen {
            self.read_new(connection)?;
            self.seen = state;
        }
        Ok(())
    }

    fn read_new(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(
            "SELECT e.execution, e.key, e.record, e.run, e.node, a.port, a.digest, a.kind, a.bytes, a.files \
             FROM executions e LEFT JOIN artifacts a ON a.execution = e.execution \
             WHERE e.execution > ? AND e.outcome = 'done' ORDER BY e.execution, a.port",
        )?;
        let mut rows = statement.query([self.last])?;
        let mut current: Option<(i64, Digest, Hit)> = None;
        while let Some(row) = rows.next()? {
            let execution: i64 = row.get(0)?;
            if current.as_ref().is_none_or(|(open, ..)| *open != execution) {
                self.keep(current.take());
                let hit = Hit {
                    record: RecordId(digest(row, 2)?),
                    run: self.text(row.get_ref(3)?.as_str()?),
                    node: row.get_ref(4)?.as_str()?.into(),
                    outputs: Vec::new(),
                };
                current = Some((execution, digest(row, 1)?, hit));
            }
            if let (Some((.., hit)), Some((port, object))) = (&mut current, output(row, 5)?) {
                hit.outputs.push((self.text(port), object));
            }
        }
        self.keep(current);
        Ok(())
    }

    fn keep(&mut self, read: Option<(i64, Digest, Hit)>) {
        if let Some((execution, key, hit)) = read {
            self.last = self.last.max(execution);
            self.hits.entry(key).or_default().push(hit);
        }
    }

    /// One copy of a text that many rows share.
    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.texts.insert(text.to_owned(), Arc::clone(&new));
        new
    }
}

/// Differs when the database has changed: by another connection (`data_version`) or by this one.
fn state(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    let others = connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
    let ours = i64::try_from(connection.total_changes()).unwrap_or(i64::MAX);
    Ok((others, ours))
}

/// The output in the columns from `first` on; `None` if the execution has none.
fn output<'a>(row: &'a Row<'_>, first: usize) -> rusqlite::Result<Option<(&'a str, ObjectRef)>> {
    let rusqlite::types::ValueRef::Text(_) = row.get_ref(first)? else { return Ok(None) };
    let port = row.get_ref(first)?.as_str()?;
    let kind = match row.get_ref(first + 2)?.as_str()? {
        "tree" => ObjectKind::Tree,
        _ => ObjectKind::File,
    };
    let object =
        ObjectRef { digest: digest(row, first + 1)?, kind, bytes: row.get(first + 3)?, files: row.get(first + 4)? };
    Ok(Some((port, object)))
}

fn point_look_up(connection: &Connection, key: &Digest) -> rusqlite::Result<Vec<Hit>> {
    let mut executions = connection.prepare_cached(
        "SELECT execution, record, run, node FROM executions WHERE key = ? AND outcome = 'done' ORDER BY execution DESC",
    )?;
    let mut artifacts = connection
        .prepare_cached("SELECT port, digest, kind, bytes, files FROM artifacts WHERE execution = ? ORDER BY port")?;
    let mut rows = executions.query([key.to_string()])?;
    let mut hits = Vec::new();
    while let Some(row) = rows.next()? {
        let mut hit = Hit {
            record: RecordId(digest(row, 1)?),
            run: row.get_ref(2)?.as_str()?.into(),
            node: row.get_ref(3)?.as_str()?.into(),
            outputs: Vec::new(),
        };
        let mut outputs = artifacts.query([row.get::<_, i64>(0)?])?;
        while let Some(row) = outputs.next()? {
            if let Some((port, object)) = output(row, 0)? {
                hit.outputs.push((port.into(), object));
            }
        }
        hits.push(hit);
    }
    Ok(hits)
}
