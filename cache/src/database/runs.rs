//! Runs and what became of their nodes.
//!
//! What is known of a run is also kept in files (`runs/<run>/run.json`, `runs/<run>/nodes.jsonl`, `plans/`), from which
//! the database can be rebuilt. The files are written first, and not synced: what a loss of power can take is the note
//! that a run took place, never a result.

use std::fs::OpenOptions;
use std::io::Write as _;

use camino::Utf8PathBuf;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::error::{IoContext as _, Result, StoreError};
use crate::layout::{check_name, write_atomically};
use crate::record::RecordId;
use crate::record::canonical::canonical_json;
use crate::store::Store;

/// How many nodes of a run ended in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCounts {
    /// All nodes.
    pub nodes: u64,
    /// Taken from the store.
    pub cached: u64,
    /// Computed.
    pub done: u64,
    /// Failed.
    pub failed: u64,
    /// Not tried.
    pub skipped: u64,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRow {
    /// Its id; also a file name, so letters, digits, `-`, `_` and `.` only. Ids that sort by time read best.
    pub run: String,
    /// Its nodes, as [`Store::save_plan`] named them.
    pub plan: Option<Digest>,
    /// Path of the manifest.
    pub manifest: String,
    /// The command line.
    pub command: String,
    /// Unix milliseconds.
    pub started_at: i64,
    /// Unix milliseconds; `None` while it goes on, and if it died.
    pub finished_at: Option<i64>,
    /// `done`, `failed`, `interrupted` ...; `died` if its process ended without saying; `None` while it goes on.
    pub outcome: Option<String>,
    /// What became of its nodes.
    pub counts: RunCounts,
    /// Host, versions, manifest, options: for people, and for `show`.
    pub details: Value,
}

/// What a run says when it is over.
#[derive(Debug, Clone, PartialEq)]
pub struct RunEnd {
    /// Its nodes with the keys that became known.
    pub plan: Option<Digest>,
    /// Unix milliseconds.
    pub finished_at: i64,
    /// `done`, `failed`, `interrupted` ...
    pub outcome: String,
    /// What became of its nodes.
    pub counts: RunCounts,
}

/// What became of a node that was not simply taken from the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunNode {
    /// The run.
    pub run: String,
    /// The node.
    pub node: String,
    /// Its key, if it became known.
    pub key: Option<Digest>,
    /// The record of its attempt, if there was one.
    pub record: Option<RecordId>,
    /// `done`, `failed`, `skipped`, `cancelled` ...
    pub outcome: String,
    /// Why it ran, or why not.
    pub because: Option<String>,
    /// How long it took.
    pub wall_seconds: Option<f64>,
}

impl Store {
    /// Writes down a run: that it began, or, with its end filled in, that it took place. Takes the place of an earlier row
    /// of the same run. Take its lock first ([`Store::lock_run`]).
    ///
    /// # Errors
    /// [`StoreError::BadName`], and those of writing.
    pub fn start_run(&self, row: &RunRow) -> Result<()> {
        let folder = self.run_dir(&row.run)?;
        self.writable("write", &folder)?;
        std::fs::create_dir_all(&folder).at("make", &folder)?;
        self.write_run_file(row)?;
        self.database.with(|connection| insert_run(connection, row))
    }

    /// Writes down how a run ended.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a run that was not started, and those of writing.
    pub fn finish_run(&self, run: &str, end: &RunEnd) -> Result<()> {
        self.catch_up(run)?;
        let mut row = self.run_row(run)?.ok_or_else(|| self.not_found("run", run))?;
        row.plan = end.plan.or(row.plan);
        row.finished_at = Some(end.finished_at);
        row.outcome = Some(end.outcome.clone());
        row.counts = end.counts;
        self.start_run(&row)
    }

    /// Writes down what became of nodes, apart from any record.
    ///
    /// # Errors
    /// Those of writing.
    pub fn add_run_nodes(&self, nodes: &[RunNode]) -> Result<()> {
        self.write_nodes_file(nodes)?;
        self.database.insert(&[], &[], |transaction| insert_run_nodes(transaction, nodes))
    }

    /// All runs, newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub fn list_runs(&self) -> Result<Vec<RunRow>> {
        self.runs_where("1 ORDER BY started_at DESC, run DESC", [])
    }

    /// The run that `text` names: `latest`, an id, a tag, or a prefix of one id only.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`] and [`StoreError::TagOfSeveral`].
    pub fn find_run(&self, text: &str) -> Result<RunRow> {
        if text == "latest" {
            let mut rows = self.runs_where("1 ORDER BY started_at DESC, run DESC LIMIT 1", [])?;
            return rows.pop().ok_or_else(|| self.not_found("run", text));
        }
        if let Some(row) = self.run_row(text)? {
            return Ok(row);
        }
        let mut tagged = Vec::new();
        for run in self.tags()?.remove(text).into_iter().flatten() {
            tagged.extend(self.run_row(&run)?);
        }
        if tagged.len() > 1 {
            let runs = tagged.into_iter().map(|row| row.run).collect();
            return Err(StoreError::TagOfSeveral { tag: text.to_owned(), runs });
        }
        if let Some(row) = tagged.pop() {
            return Ok(row);
        }
        let mut rows = self.runs_where("substr(run, 1, length(?1)) = ?1 ORDER BY run LIMIT 6", [text])?;
        match rows.len() {
            1 => rows.pop().ok_or_else(|| self.not_found("run", text)),
            0 => Err(self.not_found("run", text)),
            _ => Err(StoreError::Ambiguous {
                text: text.to_owned(),
                matches: rows.into_iter().map(|row| row.run).collect(),
            }),
        }
    }

    /// The nodes of a run that were not simply taken from the store, sorted by name.
    ///
    /// # Errors
    /// Those of the database.
    pub fn run_nodes(&self, run: &str) -> Result<Vec<RunNode>> {
        self.database.with(|connection| {
            connection
                .prepare_cached(
                    "SELECT run, node, key, record, outcome, because, wall_seconds FROM run_nodes WHERE run = ? ORDER BY node",
                )?
                .query_map([run], read_run_node)?
                .collect()
        })
    }

    pub(crate) fn run_row(&self, run: &str) -> Result<Option<RunRow>> {
        Ok(self.runs_where("run = ?1", [run])?.pop())
    }

    fn runs_where(&self, condition: &str, values: impl rusqlite::Params) -> Result<Vec<RunRow>> {
        let sql = format!(
            "SELECT run, plan, manifest, command, started_at, finished_at, outcome, nodes, cached, done, failed, skipped, \
             details FROM runs WHERE {condition}"
        );
        self.database.with(|connection| connection.prepare_cached(&sql)?.query_map(values, read_run)?.collect())
    }

    pub(crate) fn write_run_file(&self, row: &RunRow) -> Result<()> {
        let path = self.run_dir(&row.run)?.join("run.json");
        write_atomically(&path, json(row).as_bytes())
    }

    pub(crate) fn write_nodes_file(&self, nodes: &[RunNode]) -> Result<()> {
        for of_run in nodes.chunk_by(|a, b| a.run == b.run) {
            let Some(first) = of_run.first() else { continue };
            let path = self.run_dir(&first.run)?.join("nodes.jsonl");
            self.writable("write", &path)?;
            let text: String = of_run.iter().map(|node| json(node) + "\n").collect();
            let folder = self.run_dir(&first.run)?;
            std::fs::create_dir_all(&folder).at("make", &folder)?;
            let mut file = OpenOptions::new().append(true).create(true).open(&path).at("write", &path)?;
            file.write_all(text.as_bytes()).at("write", &path)?;
        }
        Ok(())
    }

    pub(crate) fn not_found(&self, what: &'static str, text: &str) -> StoreError {
        let path: Utf8PathBuf = self.database.path.clone();
        StoreError::NotFound { what, text: text.to_owned(), path }
    }

    /// The folder of a run: its logs and what is known of it.
    ///
    /// # Errors
    /// [`StoreError::BadName`].
    pub fn run_dir(&self, run: &str) -> Result<Utf8PathBuf> {
        check_name("run id", run)?;
        Ok(self.layout.run(run))
    }
}

fn json(value: &impl Serialize) -> String {
    // Structs of texts, numbers and JSON always serialise.
    canonical_json(&serde_json::to_value(value).unwrap_or_default())
}

pub(super) fn insert_run(connection: &Connection, row: &RunRow) -> rusqlite::Result<()> {
    let counts = &row.counts;
    connection.prepare_cached("INSERT OR REPLACE INTO runs VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)")?.execute(params![
        row.run,
        row.plan.map(|plan| plan.to_string()),
        row.manifest,
        row.command,
        row.started_at,
        row.finished_at,
        row.outcome,
        counts.nodes,
        counts.cached,
        counts.done,
        counts.failed,
        counts.skipped,
        canonical_json(&row.details),
    ])?;
    Ok(())
}

pub(crate) fn insert_run_nodes(connection: &Connection, nodes: &[RunNode]) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("INSERT OR REPLACE INTO run_nodes VALUES (?,?,?,?,?,?,?)")?;
    for node in nodes {
        statement.execute(params![
            node.run,
            node.node,
            node.key.map(|key| key.to_string()),
            node.record.map(|record| record.to_string()),
            node.outcome,
            node.because,
            node.wall_seconds,
        ])?;
    }
    Ok(())
}

pub(crate) fn read_run(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    let details: String = row.get(12)?;
    Ok(RunRow {
        run: row.get(0)?,
        plan: optional_digest(row, 1)?,
        manifest: row.get(2)?,
        command: row.get(3)?,
        started_at: row.get(4)?,
        finished_at: row.get(5)?,
        outcome: row.get(6)?,
        counts: RunCounts {
            nodes: row.get(7)?,
            cached: row.get(8)?,
            done: row.get(9)?,
            failed: row.get(10)?,
            skipped: row.get(11)?,
        },
        details: serde_json::from_str(&details).unwrap_or_default(),
    })
}

/// A row of `run, node, key, record, outcome, because, wall_seconds`.
pub(crate) fn read_run_node(row: &Row<'_>) -> rusqlite::Result<RunNode> {
    Ok(RunNode {
        run: row.get(0)?,
        node: row.get(1)?,
        key: optional_digest(row, 2)?,
        record: optional_digest(row, 3)?.map(RecordId),
        outcome: row.get(4)?,
        because: row.get(5)?,
        wall_seconds: row.get(6)?,
    })
}

/// A digest from a column; an error, not a panic, if the text is none.
pub(crate) fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    let text = row.get_ref(column)?.as_str()?;
    text.parse()
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e)))
}

/// A digest, or NULL.
pub(super) fn optional_digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Digest>> {
    match row.get_ref(column)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => digest(row, column).map(Some),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::database::PlanNode;
    use crate::test_support::{Fixture, key};

    pub(crate) fn row(run: &str, started_at: i64) -> RunRow {
        RunRow {
            run: run.into(),
            plan: None,
            manifest: "m.toml".into(),
            command: "sepia run m.toml".into(),
            started_at,
            finished_at: None,
            outcome: None,
            counts: RunCounts { nodes: 3, ..RunCounts::default() },
            details: json!({"host": "h"}),
        }
    }

    pub(crate) fn node(run: &str, node: &str, outcome: &str) -> RunNode {
        RunNode {
            run: run.into(),
            node: node.into(),
            key: Some(key(node)),
            record: None,
            outcome: outcome.into(),
            because: Some("it is new".into()),
            wall_seconds: Some(0.5),
        }
    }

    #[test]
    fn a_run_begins_and_ends() {
        let f = Fixture::new();
        let _alive = f.store.lock_run("r1").unwrap();
        f.store.start_run(&row("r1", 5)).unwrap();
        assert_eq!(f.again().find_run("latest").unwrap(), row("r1", 5));
        let plan = f.store.save_plan(&[PlanNode { node: "a \"b\"".into(), key: None }]).unwrap();
        let counts = RunCounts { nodes: 3, cached: 1, done: 1, failed: 1, skipped: 0 };
        let end = RunEnd { plan: Some(plan), finished_at: 9, outcome: "failed".into(), counts };
        f.store.finish_run("r1", &end).unwrap();
        let found = f.store.find_run("r1").unwrap();
        assert_eq!((found.finished_at, found.outcome.as_deref(), found.counts), (Some(9), Some("failed"), counts));
        assert_eq!(f.store.plan(&found.plan.unwrap()).unwrap(), [PlanNode { node: "a \"b\"".into(), key: None }]);
        assert!(matches!(f.store.finish_run("r2", &end), Err(StoreError::NotFound { what: "run", .. })));
    }

    #[test]
    fn a_run_is_found_by_what_people_type() {
        let f = Fixture::new();
        assert!(matches!(f.store.find_run("latest"), Err(StoreError::NotFound { .. })));
        for (run, at) in [("a1", 3), ("a12", 1), ("b%", 2)] {
            let name = run.replace('%', "x");
            f.store.start_run(&row(&name, at)).unwrap();
        }
        let find = |text: &str| f.store.find_run(text).map(|row| row.run);
        assert_eq!(find("latest").unwrap(), "a1");
        assert_eq!(find("a1").unwrap(), "a1", "an id that is also a prefix");
        assert_eq!(find("a12").unwrap(), "a12");
        assert_eq!(find("b").unwrap(), "bx");
        let error = find("a").unwrap_err();
        assert_eq!(error.to_string(), "`a` could be any of a1, a12; write more of it");
        for text in ["c", "b%", "_1", "'; DROP TABLE runs; --"] {
            assert!(matches!(find(text), Err(StoreError::NotFound { .. })), "{text}");
        }
        let order: Vec<_> = f.store.list_runs().unwrap().into_iter().map(|row| row.run).collect();
        assert_eq!(order, ["a1", "bx", "a12"]);
    }

    #[test]
    fn nodes_of_a_run_are_kept_and_the_last_word_counts() {
        let f = Fixture::new();
        f.store.add_run_nodes(&[node("r", "b", "failed"), node("r", "a", "done"), node("s", "a", "done")]).unwrap();
        f.store.add_run_nodes(&[node("r", "b", "done")]).unwrap();
        assert_eq!(f.store.run_nodes("r").unwrap(), [node("r", "a", "done"), node("r", "b", "done")]);
        assert!(f.store.run_nodes("t").unwrap().is_empty());
    }

    #[test]
    fn a_run_whose_process_is_gone_has_died() {
        let f = Fixture::new();
        f.store.start_run(&row("gone", 1)).unwrap();
        let _alive = f.store.lock_run("alive").unwrap();
        f.store.start_run(&row("alive", 2)).unwrap();
        let store = f.again();
        assert_eq!(store.find_run("gone").unwrap().outcome.as_deref(), Some("died"));
        assert_eq!(store.find_run("alive").unwrap().outcome, None);
    }
}
