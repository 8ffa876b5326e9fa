//! `results.db`: what people query and share. An index over `records/`, `runs/` and `plans/` that can be rebuilt.
//!
//! | table or view | a row is | key |
//! |---|---|---|
//! | `runs` | one `sepia run` | `run` |
//! | `plans` | a list of nodes with their keys, shared by runs | `plan` |
//! | `run_nodes` | a node of a run that was not simply taken from the store | `run, node` |
//! | `executions` | one finished attempt | `execution`; `record` everywhere |
//! | `execution_details` | its JSON parts: `key_inputs`, `params`, `provenance` | `execution` |
//! | `artifacts` | one of its outputs | `execution, port` |
//! | `inputs` | one of its inputs | `execution, port, position` |
//! | `params` (view) | one parameter by its dotted name | `execution, name` |
//! | `metrics` (view) | one measurement | `execution, name, step` |
//! | `metric_summaries` (view) | figure or last, lowest and highest value of a metric | `execution, name` |
//! | `imports` | an execution that came from elsewhere | `record` |
//! | `signatures` | who vouches for an execution | `record, signer` |
//! | `results`, `divergences` (views) | good executions; keys with different outputs | |
//!
//! The views `params` and `metrics` stand on `param_values` and `metric_points`, where names are numbers. The comments in
//! `0001_first.sql` and the later steps are the reference; SQLite keeps them, so `.schema` shows them.
//!
//! The whole of a record is in the database (see `read.rs`), so a database file alone can be merged into a store.
//!
//! On a local disk the database is in WAL mode with `synchronous=NORMAL`: a commit costs no sync, and a loss of power may
//! take the last commits, which the journals still have. WAL needs shared memory, hence one host; on network file systems
//! the rollback journal with `synchronous=FULL` is used.

mod index;
mod migrate;
mod open;
mod plans;
mod queries;
mod read;
mod rebuild;
mod results;
mod runs;
mod write;

pub use index::{Hit, Index};
pub(crate) use migrate::{APPLICATION_ID, migrate_to, newest as newest_schema, schema_tables};
pub(crate) use open::escape;
pub use plans::PlanNode;
pub(crate) use plans::parse_plan;
pub use queries::QUERIES;
pub use read::{Attempted, ExecutionRow, RecordsOf};
pub(crate) use read::{object, read_record};
pub use rebuild::Rebuilt;
pub(crate) use rebuild::{build_database, rebuild_from_files};
pub use results::{MetricEnd, ParamRef, ParamValue, ResultRow};
pub use runs::{RunCounts, RunEnd, RunNode, RunRow};
pub(crate) use runs::{digest, insert_run_nodes, read_run, read_run_node};
pub(crate) use write::JournalMark;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use camino::Utf8PathBuf;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};

use crate::error::{Result, StoreError};
use crate::sign::Trust;

/// An open database; threads take turns.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) path: Utf8PathBuf,
    connection: Mutex<Connection>,
    looks: AtomicU64,
    trust: Mutex<Trust>,
}

impl Database {
    fn new(path: Utf8PathBuf, connection: Connection) -> Result<Self> {
        connection.set_prepared_statement_cache_capacity(64);
        // Else SQLite plans a cached statement again for every new value that is bound to it, in case statistics about that
        // value suggest another plan: ten times the cost of a look-up by key.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(|e| database_error(&path, e))?;
        Ok(Self { path, connection: Mutex::new(connection), looks: AtomicU64::new(0), trust: Mutex::default() })
    }

    /// Whom indexes that are made from now on trust.
    pub(crate) fn set_trust(&self, trust: Trust) {
        *self.trust.lock().unwrap_or_else(PoisonError::into_inner) = trust;
    }

    pub(crate) fn trust(&self) -> Trust {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes indexes ask for what other processes have committed before they next say that a key is unknown.
    pub(crate) fn look_again(&self) {
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connection(&self) -> MutexGuard<'_, Connection> {
        // A thread that panicked with the lock left no transaction behind: dropping one rolls it back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the connection, naming the database in what goes wrong.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T> {
        work(&mut self.connection()).map_err(|e| self.error(e))
    }

    pub(crate) fn error(&self, source: rusqlite::Error) -> StoreError {
        database_error(&self.path, source)
    }
}

/// The kind of error that SQLite's answer amounts to.
pub(crate) fn database_error(path: &Utf8PathBuf, source: rusqlite::Error) -> StoreError {
    let path = path.clone();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::DatabaseDamaged { path, reason: source.to_string() }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreError::DatabaseBusy { path, seconds: open::BUSY.as_secs() }
        }
        Some(ErrorCode::DiskFull) => StoreError::OutOfSpace { action: "write", path },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreError::ReadOnly { action: "write", path },
        // A write-ahead log needs two files beside the database; without leave to make them it cannot be opened.
        Some(ErrorCode::CannotOpen) if path.is_file() => StoreError::ReadOnly { action: "open", path },
        _ => StoreError::Database { path, source },
    }
}
