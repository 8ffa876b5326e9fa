//! The look-up of good records by key: what a run asks once for each node.
//!
//! A small database is read in one scan, after which a look-up costs a hash; a large one is asked key by key. What this
//! process commits is seen at once. What others commit is seen after [`Index::refresh`], and after this process has taken
//! the lock of a key: so the order "look up, lock, look up again" never computes what another process has just committed.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;

use super::Database;
use super::read::object;
use super::runs::digest;
use crate::digest::Digest;
use crate::error::Result;
use crate::object::ObjectRef;
use crate::record::RecordId;
use crate::reproduction::is_reproduction;
use crate::sign::Trust;
use crate::store::Store;

/// Up to this many executions the whole table is read at once.
pub(super) const SMALL: i64 = 50_000;

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
    trust: Trust,
    loaded: Option<Mutex<Loaded>>,
}

/// The table in memory, in few large pieces: thousands of small ones take longer to make than to read.
#[derive(Debug, Default)]
struct Loaded {
    /// The newest row of each key.
    newest: HashMap<Digest, u32>,
    rows: Vec<LoadedRow>,
    outputs: Vec<(Arc<str>, ObjectRef)>,
    nodes: String,
    texts: HashMap<String, Arc<str>>,
    /// The highest execution that was read. Rows are never deleted, and SQLite numbers upwards.
    last: i64,
    /// How often this process had been told to look and had changed rows then.
    seen: (u64, u64),
}

/// One good execution.
#[derive(Debug)]
struct LoadedRow {
    record: RecordId,
    run: Arc<str>,
    /// Where its node's name is in [`Loaded::nodes`].
    node: Range<usize>,
    /// Where its outputs are in [`Loaded::outputs`].
    outputs: Range<usize>,
    /// The row of the same key before it.
    older: Option<u32>,
}

impl Store {
    /// The look-up of good records by key.
    ///
    /// # Errors
    /// Those of the database.
    pub fn index(&self) -> Result<Index> {
        Index::new(Arc::clone(&self.database), SMALL)
    }

    /// Whether a record may be used as a result: it was made here, or its source or its signer is trusted.
    ///
    /// # Errors
    /// Those of the database.
    pub fn is_trusted(&self, record: &RecordId) -> Result<bool> {
        let trust = self.database.trust();
        let record = record.to_string();
        self.database.with(|connection| {
            let mut untrusted = connection.prepare_cached("SELECT 1 FROM imports WHERE record = ? AND trusted = 0")?;
            Ok(trust.everything || !untrusted.exists([&record])? || is_vouched_for(connection, &record, &trust)?)
        })
    }
}

impl Index {
    fn new(database: Arc<Database>, small: i64) -> Result<Self> {
        let looks = database.looks.load(Ordering::Relaxed);
        let trust = database.trust();
        let loaded = database.with(|connection| {
            let rows: i64 =
                connection.query_row("SELECT coalesce(max(execution), 0) FROM executions", [], |row| row.get(0))?;
            if rows > small {
                return Ok(None);
            }
            let mut loaded = Loaded { seen: (looks, connection.total_changes()), ..Loaded::default() };
            loaded.read_new(connection, &trust)?;
            Ok(Some(Mutex::new(loaded)))
        })?;
        Ok(Self { database, trust, loaded })
    }

    /// The good records for a key, newest first; reproductions after all others.
    ///
    /// # Errors
    /// Those of the database.
    pub fn candidates(&self, key: &Digest) -> Result<Vec<Hit>> {
        let mut hits = self.newest_first(key)?;
        hits.sort_by_key(|hit| is_reproduction(&hit.run));
        Ok(hits)
    }

    fn newest_first(&self, key: &Digest) -> Result<Vec<Hit>> {
        let Some(loaded) = &self.loaded else {
            return self.database.with(|connection| point_look_up(connection, key, &self.trust));
        };
        let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.newest.contains_key(key) {
            return Ok(loaded.hits(key));
        }
        let looks = self.database.looks.load(Ordering::Relaxed);
        self.database.with(|connection| loaded.refresh(connection, looks, &self.trust))?;
        Ok(loaded.hits(key))
    }

    /// All outputs that are in memory, if they are at most `limit`: to look at many of them at once.
    #[must_use]
    pub fn loaded_outputs(&self, limit: usize) -> Vec<ObjectRef> {
        let Some(loaded) = &self.loaded else { return Vec::new() };
        let loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.outputs.len() > limit {
            return Vec::new();
        }
        loaded.outputs.iter().map(|(_, object)| *object).collect()
    }

    /// Reads what was committed since, by whomever.
    ///
    /// # Errors
    /// Those of the database.
    pub fn refresh(&self) -> Result<()> {
        let Some(loaded) = &self.loaded else { return Ok(()) };
        self.database.look_again();
        let looks = self.database.looks.load(Ordering::Relaxed);
        let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        self.database.with(|connection| loaded.refresh(connection, looks, &self.trust))
    }
}

impl Loaded {
    fn hits(&self, key: &Digest) -> Vec<Hit> {
        let row = |number: u32| self.rows.get(number as usize);
        let newest = self.newest.get(key).copied().and_then(row);
        std::iter::successors(newest, |newer| newer.older.and_then(row))
            .map(|found| Hit {
                record: found.record,
                run: Arc::clone(&found.run),
                node: self.nodes.get(found.node.clone()).unwrap_or_default().into(),
                outputs: self.outputs.get(found.outputs.clone()).unwrap_or_default().to_vec(),
            })
            .collect()
    }

    /// Reads new rows if this process has changed the database or has been told to look.
    fn refresh(&mut self, connection: &Connection, looks: u64, trust: &Trust) -> rusqlite::Result<()> {
        // Both are taken before the rows: what happens in between is read again rather than missed.
        let now = (looks, connection.total_changes());
        if now != self.seen {
            self.read_new(connection, trust)?;
            self.seen = now;
        }
        Ok(())
    }

    fn read_new(&mut self, connection: &Connection, trust: &Trust) -> rusqlite::Result<()> {
        // Two scans side by side, both in the order of executions: no row is searched for. One read transaction, so that
        // both see the same state.
        let transaction = connection.unchecked_transaction()?;
        {
            let distrusted = distrusted(&transaction, self.last, trust)?;
            let mut executions = transaction.prepare_cached(
                "SELECT execution, key, record, run, node FROM executions WHERE execution > ? AND outcome = 'done' \
                 ORDER BY execution",
            )?;
            let mut artifacts = transaction.prepare_cached(
                "SELECT execution, port, digest, type, bytes, files FROM artifacts WHERE execution > ? \
                 ORDER BY execution, port",
            )?;
            let mut executions = executions.query([self.last])?;
            let mut artifacts = artifacts.query([self.last])?;
            let mut artifact = artifacts.next()?;
            while let Some(row) = executions.next()? {
                let execution: i64 = row.get(0)?;
                if !distrusted.is_empty() && distrusted.contains(&execution) {
                    self.last = execution;
                    continue;
                }
                let key = digest(row, 1)?;
                let record = RecordId(digest(row, 2)?);
                let run = self.text(row.get_ref(3)?.as_str()?);
                let node = self.nodes.len();
                self.nodes.push_str(row.get_ref(4)?.as_str()?);
                let first = self.outputs.len();
                // Artifacts of executions that were not good are passed over.
                while let Some(row) = artifact {
                    let of: i64 = row.get(0)?;
                    if of > execution {
                        break;
                    }
                    if of == execution {
                        let port = self.text(row.get_ref(1)?.as_str()?);
                        self.outputs.push((port, object(row, 2)?));
                    }
                    artifact = artifacts.next()?;
                }
                self.last = execution;
                // An index is made for at most 50,000 rows, and no run adds four thousand million.
                let number = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
                let older = self.newest.insert(key, number);
                let (node, outputs) = (node..self.nodes.len(), first..self.outputs.len());
                self.rows.push(LoadedRow { record, run, node, outputs, older });
            }
        }
        transaction.commit()
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

/// The executions above `last` that came from elsewhere, and for which nobody vouches who is trusted.
fn distrusted(connection: &Connection, last: i64, trust: &Trust) -> rusqlite::Result<HashSet<i64>> {
    if trust.everything {
        return Ok(HashSet::new());
    }
    let mut statement = connection.prepare_cached(
        "SELECT execution, record FROM imports JOIN executions USING (record) WHERE trusted = 0 AND execution > ?",
    )?;
    let mut rows = statement.query([last])?;
    let mut found = HashSet::new();
    while let Some(row) = rows.next()? {
        if !is_vouched_for(connection, row.get_ref(1)?.as_str()?, trust)? {
            found.insert(row.get(0)?);
        }
    }
    Ok(found)
}

fn is_vouched_for(connection: &Connection, record: &str, trust: &Trust) -> rusqlite::Result<bool> {
    let mut signed = connection.prepare_cached("SELECT 1 FROM signatures WHERE record = ? AND signer = ?")?;
    for key in &trust.keys {
        if signed.exists([record, &key.to_string()])? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn point_look_up(connection: &Connection, key: &Digest, trust: &Trust) -> rusqlite::Result<Vec<Hit>> {
    let mut executions = connection.prepare_cached(
        "SELECT execution, record, run, node FROM executions WHERE key = ? AND outcome = 'done' ORDER BY execution DESC",
    )?;
    let mut artifacts = connection
        .prepare_cached("SELECT port, digest, type, bytes, files FROM artifacts WHERE execution = ? ORDER BY port")?;
    let mut untrusted = connection.prepare_cached("SELECT 1 FROM imports WHERE record = ? AND trusted = 0")?;
    let mut rows = executions.query([key.to_string()])?;
    let mut hits = Vec::new();
    while let Some(row) = rows.next()? {
        let record = row.get_ref(1)?.as_str()?;
        if !trust.everything && untrusted.exists([record])? && !is_vouched_for(connection, record, trust)? {
            continue;
        }
        let mut hit = Hit {
            record: RecordId(digest(row, 1)?),
            run: row.get_ref(2)?.as_str()?.into(),
            node: row.get_ref(3)?.as_str()?.into(),
            outputs: Vec::new(),
        };
        let mut outputs = artifacts.query([row.get::<_, i64>(0)?])?;
        while let Some(row) = outputs.next()? {
            hit.outputs.push((row.get_ref(0)?.as_str()?.into(), object(row, 1)?));
        }
        hits.push(hit);
    }
    Ok(hits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::RecordsOf;
    use crate::record::{Outcome, Record};
    use crate::test_support::{Fixture, key, record};

    fn nodes(index: &Index, text: &str) -> Vec<String> {
        index.candidates(&key(text)).unwrap().iter().map(|hit| hit.node.to_string()).collect()
    }

    fn named(text: &str, node: &str, f: &Fixture) -> Record {
        Record { node: node.into(), ..record(text, &[("b", f.object(node.as_bytes())), ("a", f.object(b"same"))]) }
    }

    #[test]
    fn only_good_records_are_found_newest_first_with_their_outputs() {
        let f = Fixture::new();
        let failed = |outcome, node| Record { outcome, error: Some("no".into()), ..named("k", node, &f) };
        let records = [
            named("k", "first", &f),
            failed(Outcome::Failed, "bad"),
            named("other", "other", &f),
            failed(Outcome::Stopped, "stopped"),
            failed(Outcome::TimedOut, "late"),
            named("k", "second", &f),
            Record { outputs: Vec::new(), ..named("k", "third", &f) },
        ];
        let ids = f.store.commit(&records).unwrap();
        let scan = f.store.index().unwrap();
        let points = Index::new(Arc::clone(&f.store.database), 3).unwrap();
        assert!(scan.loaded.is_some() && points.loaded.is_none());
        for index in [&scan, &points] {
            assert_eq!(nodes(index, "k"), ["third", "second", "first"]);
            assert_eq!(nodes(index, "other"), ["other"]);
            assert!(nodes(index, "none").is_empty());
            assert_eq!(index.candidates(&key("k")).unwrap(), scan.candidates(&key("k")).unwrap());
        }
        let hit = &scan.candidates(&key("k")).unwrap()[1];
        assert_eq!((hit.record, &*hit.run), (ids[5], "run-1"));
        let outputs: Vec<_> = hit.outputs.iter().map(|(port, object)| (&**port, *object)).collect();
        assert_eq!(outputs, [("a", records[5].outputs[1].object), ("b", records[5].outputs[0].object)]);
        assert_eq!(f.store.records_by_key(&key("k")).unwrap().len(), 6);
        assert_eq!(f.store.latest_by_node("bad").unwrap(), Some(ids[1]));
        assert_eq!(f.store.find_record(&ids[0].to_string()[..12]).unwrap(), ids[0]);
        assert_eq!(f.store.find_key(&key("k").short()).unwrap(), key("k"));
        assert!(matches!(f.store.find_key(""), Err(crate::StoreError::Ambiguous { .. })));
        assert!(matches!(f.store.find_record("zz"), Err(crate::StoreError::NotFound { .. })));
        let recent = |of| {
            let found = f.store.recent_key_inputs(of, None, 3).unwrap();
            assert!(found.iter().all(|(_, inputs)| *inputs == records[0].key_inputs));
            found.into_iter().map(|(row, _)| row.node).collect::<Vec<_>>()
        };
        assert_eq!(recent(RecordsOf::Node("first")), ["first"]);
        let k = key("k");
        assert_eq!(recent(RecordsOf::Key(&k)).len(), 3);
        assert_eq!(recent(RecordsOf::Kind("pretrain"))[..2], ["third", "second"]);
    }

    #[test]
    fn what_this_process_commits_is_seen_at_once() {
        let f = Fixture::new();
        let index = f.store.index().unwrap();
        assert!(nodes(&index, "a").is_empty());
        f.store.commit(&[named("a", "one", &f)]).unwrap();
        assert_eq!(nodes(&index, "a"), ["one"]);
    }

    #[test]
    fn what_another_commits_is_seen_after_taking_the_lock() {
        let f = Fixture::new();
        let index = f.store.index().unwrap();
        let other = f.again();
        other.commit(&[named("a", "theirs", &f)]).unwrap();
        assert!(nodes(&index, "a").is_empty());
        let _lock = f.store.try_lock_key(&key("a"), "us").unwrap().unwrap();
        assert_eq!(nodes(&index, "a"), ["theirs"]);
        other.commit(&[named("b", "more", &f), named("a", "again", &f)]).unwrap();
        f.store.commit(&[named("c", "ours", &f)]).unwrap();
        assert_eq!(nodes(&index, "a"), ["theirs"], "answered from memory");
        index.refresh().unwrap();
        assert_eq!(nodes(&index, "a"), ["again", "theirs"]);
        assert_eq!(nodes(&index, "b"), ["more"]);
        assert_eq!(nodes(&index, "c"), ["ours"]);
    }
}
