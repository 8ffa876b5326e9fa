//! The schema, as a list of steps to which steps are added and never changed.
//!
//! `PRAGMA user_version` counts the steps that a database has had.

use rusqlite::{Connection, TransactionBehavior};

/// Every step, oldest first. Append only: databases of all ages are out there.
pub(super) const STEPS: &[&str] = &[include_str!("0001_first.sql"), include_str!("0002_sharing.sql")];

/// `PRAGMA application_id`: "Sepi", so that `file` and a careful reader know whose database it is.
pub(crate) const APPLICATION_ID: i64 = 0x5365_7069;

/// The version of a database, or `None` if it is somebody else's.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let version = pragma("user_version")?;
    let application = pragma("application_id")?;
    if application == APPLICATION_ID {
        return Ok(Some(version));
    }
    // An empty file is a new database; one with tables but without our mark is not ours.
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok((tables == 0 && version == 0 && application == 0).then_some(0))
}

/// The version that this code writes.
pub(crate) const fn newest() -> i64 {
    STEPS.len() as i64
}

/// The tables of a version, with the SQL that made them.
pub(crate) fn schema_tables(version: i64) -> rusqlite::Result<Vec<(String, String)>> {
    let mut connection = Connection::open_in_memory()?;
    migrate_to(&mut connection, version)?;
    let mut statement = connection.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Brings a database up to date, all steps or none.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    migrate_to(connection, newest())
}

/// Brings a database up to a version, all steps or none.
pub(crate) fn migrate_to(connection: &mut Connection, newest: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Read again inside the transaction: another process may have been faster.
    let version = transaction.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))?;
    let done = usize::try_from(version).unwrap_or(0);
    for step in STEPS.iter().take(usize::try_from(newest).unwrap_or(0)).skip(done) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", newest.max(version))?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()
}
