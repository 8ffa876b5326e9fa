//! Opening the database.

use std::fs::File;
use std::io;
use std::sync::PoisonError;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use rusqlite::{Connection, OpenFlags};

use super::{Database, database_error, migrate};
use crate::crash_point;
use crate::error::{IoContext as _, Result, StoreError};

/// How long one waits for another process's transaction.
pub(super) const BUSY: Duration = Duration::from_secs(10);

impl Database {
    /// Opens the database of a store, which must be there, and updates its schema. Also says whether it was empty.
    pub(crate) fn open(path: &Utf8Path) -> Result<(Self, bool)> {
        let path = path.to_owned();
        if path.is_dir() {
            return Err(StoreError::DatabaseDamaged { path, reason: "it is a folder".to_owned() });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let context = |e| database_error(&path, e);
        let mut connection = Connection::open_with_flags(&path, flags).map_err(context)?;
        connection.busy_timeout(BUSY).map_err(context)?;
        // Nothing is written before it is clear that the file is ours and of an age that we know.
        let version = check(&connection, &path)?;
        if version == 0 {
            set_journal_mode(&connection, &path)?;
        }
        if version < migrate::newest() {
            migrate::migrate(&mut connection).map_err(context)?;
        }
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).map_err(context)?;
        let synchronous = if mode.eq_ignore_ascii_case("wal") { "NORMAL" } else { "FULL" };
        connection.pragma_update(None, "synchronous", synchronous).map_err(context)?;
        Ok((Self::new(path, connection)?, version == 0))
    }

    /// Begins a database at a path where there is none. It is written without any care for crashes until
    /// [`Database::complete`]: nobody may use it before.
    pub(crate) fn begin(path: &Utf8Path) -> Result<Self> {
        let path = path.to_owned();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let begun = Connection::open_with_flags(&path, flags).and_then(|mut connection| {
            connection.pragma_update_and_check(None, "journal_mode", "MEMORY", |_| Ok(()))?;
            connection.pragma_update(None, "synchronous", "OFF")?;
            migrate::migrate(&mut connection)?;
            Ok(connection)
        });
        Self::new(path.clone(), begun.map_err(|e| database_error(&path, e))?)
    }

    /// Closes a database that was begun, syncs it and moves it to its place.
    pub(crate) fn complete(self, place: &Utf8Path) -> Result<()> {
        let Self { path, connection, .. } = self;
        let connection = connection.into_inner().unwrap_or_else(PoisonError::into_inner);
        set_journal_mode(&connection, &path)?;
        connection.close().map_err(|(_, e)| database_error(&path, e))?;
        File::open(&path).and_then(|file| file.sync_all()).at("sync", &path)?;
        crash_point::reached("place new database")?;
        std::fs::rename(&path, place).at("move into place", place)
    }

    /// A database in memory, for a store that has none and cannot be written to.
    pub(crate) fn in_memory(path: &Utf8Path) -> Result<Self> {
        let path = path.to_owned();
        let mut connection = Connection::open_in_memory().map_err(|e| database_error(&path, e))?;
        migrate::migrate(&mut connection).map_err(|e| database_error(&path, e))?;
        Self::new(path, connection)
    }

    /// Opens a database that must not be changed.
    pub(crate) fn open_read_only(path: &Utf8Path) -> Result<Self> {
        let path = path.to_owned();
        if path.is_dir() {
            return Err(StoreError::DatabaseDamaged { path, reason: "it is a folder".to_owned() });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&path, flags).and_then(|connection| {
            connection.busy_timeout(BUSY)?;
            migrate::version(&connection)?;
            Ok(connection)
        });
        let connection = match opened {
            Ok(connection) => connection,
            // A WAL database needs a file beside it to share memory through. Where that cannot be made (a read-only
            // medium) and no WAL is left, nobody can be writing, and the file can be read as it stands.
            Err(e) if !has_wal(&path) && !is_damage(&e) => {
                let uri = format!("file:{}?immutable=1", escape(path.as_str()));
                Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)
                    .map_err(|e| database_error(&path, e))?
            }
            Err(e) => return Err(database_error(&path, e)),
        };
        let version = check(&connection, &path)?;
        if version < migrate::newest() {
            return Err(StoreError::ReadOnly { action: "bring up to date", path });
        }
        Self::new(path, connection)
    }
}

/// Chooses between the write-ahead log and the rollback journal; the database file remembers it.
fn set_journal_mode(connection: &Connection, path: &Utf8PathBuf) -> Result<()> {
    let mode = if on_network(path)? { "DELETE" } else { "WAL" };
    connection.pragma_update_and_check(None, "journal_mode", mode, |_| Ok(())).map_err(|e| database_error(path, e))
}

/// The version of a database of ours that this code can use.
fn check(connection: &Connection, path: &Utf8Path) -> Result<i64> {
    let path = path.to_owned();
    match migrate::version(connection).map_err(|e| database_error(&path, e))? {
        None => Err(StoreError::DatabaseDamaged { path, reason: "it is not one of Sepia's".to_owned() }),
        Some(found) if found > migrate::newest() => {
            Err(StoreError::NewerDatabase { path, found, known: migrate::newest() })
        }
        Some(version) => Ok(version),
    }
}

fn has_wal(path: &Utf8Path) -> bool {
    match std::fs::metadata(format!("{path}-wal")) {
        Ok(metadata) => metadata.len() > 0,
        Err(e) => e.kind() != io::ErrorKind::NotFound,
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(NotADatabase | DatabaseCorrupt))
}

/// Percent-encodes what has a meaning in a URI.
pub(crate) fn escape(path: &str) -> String {
    path.replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}

/// Whether the file lies on a file system that several hosts may have mounted (see `statfs(2)` for the numbers).
fn on_network(path: &Utf8Path) -> Result<bool> {
    const NETWORK: &[u32] = &[
        0x6969,      // NFS
        0x517b,      // SMB
        0xff53_4d42, // CIFS
        0xfe53_4d42, // SMB2
        0x0bd0_0bd0, // Lustre
        0x4750_4653, // GPFS
        0x00c3_6400, // Ceph
        0x5346_414f, // AFS
        0x1983_0326, // BeeGFS
        0x0102_1997, // 9p
        0x6573_5546, // FUSE: sshfs and others
    ];
    let kind = rustix::fs::statfs(path.as_std_path()).at("read", path)?.f_type;
    // The field is signed or not, 32 or 64 bits, by platform; the numbers have 32 bits.
    Ok(NETWORK.contains(&(kind as u32)))
}
