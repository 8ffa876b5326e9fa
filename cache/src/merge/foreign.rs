//! Reading a database that somebody gave us. It is never written to.
//!
//! An older schema is brought up to date on a copy. Before any statement of ours runs on it, its tables must be the very
//! tables that its version had: no views in their place, no triggers.

use camino::{Utf8Path, Utf8PathBuf};
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use super::check::LONGEST_VALUE;
use super::staging::refused;
use crate::database::{APPLICATION_ID, migrate_to, newest_schema, schema_tables};
use crate::error::{Result, StoreError};
use crate::layout::unique_sibling;
use crate::record::{Record, RecordId};
use crate::store::Store;

/// A database from elsewhere, open for reading.
pub(crate) struct Foreign {
    pub(crate) connection: Connection,
    pub(crate) name: String,
    /// Removed at the end.
    copy: Option<Utf8PathBuf>,
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(copy) = &self.copy {
            for ending in ["", "-wal", "-shm", "-journal"] {
                // In the store's folder for what can be lost.
                let _ = std::fs::remove_file(format!("{copy}{ending}"));
            }
        }
    }
}

impl Foreign {
    /// Opens a database; `store` is where a copy may lie.
    pub(crate) fn open(store: &Store, path: &Utf8Path) -> Result<Self> {
        let name = path.to_string();
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Err(refused(&name, "it is not a file")),
            Err(source) => return Err(StoreError::io("read", path, source)),
        }
        let connection = open_untouched(path).map_err(|e| cannot_read(&name, &e))?;
        let version = check_version(&connection, path)?;
        if let Err(why) = check_tables(&connection, version) {
            return Err(refused(&name, why));
        }
        let mut foreign = Self { connection, name, copy: None };
        if version < newest_schema() {
            foreign.migrate_copy(store)?;
        }
        Ok(foreign)
    }

    fn migrate_copy(&mut self, store: &Store) -> Result<()> {
        let copy = unique_sibling(&store.cache_dir().join("merge.db"));
        self.copy = Some(copy.clone());
        let context = |e: rusqlite::Error| cannot_read(&self.name, &e);
        self.connection.execute("VACUUM INTO ?", [copy.as_str()]).map_err(context)?;
        let mut connection = Connection::open(&copy).map_err(context)?;
        migrate_to(&mut connection, newest_schema()).map_err(context)?;
        guard(&connection).map_err(context)?;
        self.connection = connection;
        Ok(())
    }

    /// The ids of all records, in the order of its rows.
    pub(crate) fn ids(&self) -> Result<Vec<RecordId>> {
        let read = || -> rusqlite::Result<_> {
            let mut statement = self.connection.prepare("SELECT record FROM executions ORDER BY execution")?;
            statement.query_map([], |row| Ok(RecordId(crate::database::digest(row, 0)?)))?.collect()
        };
        read().map_err(|e| self.wrong(&e))
    }

    /// A record, which may be of a newer kind than we know (`None`).
    pub(crate) fn record(&self, id: &RecordId) -> Result<Option<Record>> {
        let record = crate::database::read_record(&self.connection, id).map_err(|e| self.wrong(&e))?;
        let record = record.ok_or_else(|| refused(&self.name, format!("record {} is gone", id.0.short())))?;
        Ok((record.schema <= crate::record::RECORD_SCHEMA).then_some(record))
    }

    pub(crate) fn wrong(&self, error: &rusqlite::Error) -> StoreError {
        cannot_read(&self.name, error)
    }
}

/// Opens a database for reading. If nobody is writing to it, not even the files beside it are made that sharing a
/// write-ahead log would take.
fn open_untouched(path: &Utf8Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let beside = |ending: &str| std::fs::metadata(format!("{path}{ending}")).is_ok_and(|metadata| metadata.len() > 0);
    let connection = if beside("-wal") || beside("-journal") {
        Connection::open_with_flags(path, flags)?
    } else {
        let absolute = camino::absolute_utf8(path).unwrap_or_else(|_| path.to_owned());
        let uri = format!("file:{}?immutable=1", crate::database::escape(absolute.as_str()));
        Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?
    };
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    guard(&connection)?;
    Ok(connection)
}

/// Keeps what is in a database from doing more than being read.
fn guard(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST_VALUE)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn check_version(connection: &Connection, path: &Utf8Path) -> Result<i64> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let read = pragma("application_id").and_then(|application| Ok((application, pragma("user_version")?)));
    let (application, version) = read.map_err(|e| cannot_read(path.as_str(), &e))?;
    if application != APPLICATION_ID || version < 1 {
        return Err(refused(path.as_str(), "it is an SQLite database, but not one of Sepia's"));
    }
    if version > newest_schema() {
        return Err(StoreError::NewerDatabase { path: path.to_owned(), found: version, known: newest_schema() });
    }
    Ok(version)
}

/// Whether all tables are those of the version. More tables, views or indexes do no harm; triggers might.
fn check_tables(connection: &Connection, version: i64) -> Result<(), String> {
    let ours = schema_tables(version).map_err(|e| e.to_string())?;
    let read = || -> rusqlite::Result<Vec<(String, String, Option<String>)>> {
        let mut statement = connection.prepare("SELECT type, name, sql FROM sqlite_schema")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
    };
    let theirs = read().map_err(|e| e.to_string())?;
    if let Some((_, name, _)) = theirs.iter().find(|(kind, _, _)| kind == "trigger") {
        return Err(format!("it has a trigger (`{}`), which no database of Sepia's has", name.escape_debug()));
    }
    for (name, sql) in ours {
        match theirs.iter().find(|(kind, found, _)| kind == "table" && *found == name) {
            None => return Err(format!("it lacks the table `{name}`")),
            Some((_, _, found)) if found.as_deref() != Some(&sql) => {
                return Err(format!("its table `{name}` is not the one that Sepia makes"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn cannot_read(name: &str, error: &rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseCorrupt, NotADatabase, TooBig};
    let why = match error.sqlite_error_code() {
        Some(NotADatabase) => "it is not an SQLite database".to_owned(),
        Some(DatabaseCorrupt) => format!("it is damaged ({error})"),
        Some(TooBig) => format!("it has a value of more than {} MiB", LONGEST_VALUE >> 20),
        Some(DatabaseBusy) => "another process keeps it locked; try again when that has finished".to_owned(),
        _ => error.to_string(),
    };
    refused(name, why)
}
