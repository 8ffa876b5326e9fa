//! Signatures in the store.

use std::collections::HashMap;
use std::io::Read as _;

use rusqlite::{Connection, params};

use super::{Origin, PublicKey, Signature, SigningKey, Trust};
use crate::database::Database;
use crate::error::{IoContext as _, Result};
use crate::layout::{Layout, append_lines};
use crate::record::RecordId;
use crate::store::Store;

impl Store {
    /// Says whom to trust. What came from elsewhere and is not trusted is not found by key; see [`Trust`].
    pub fn set_trust(&self, trust: Trust) {
        self.database.set_trust(trust);
    }

    /// Signs what runs on this store made and this key has not signed yet; says how many records that were.
    ///
    /// # Errors
    /// Those of the database and of writing.
    pub fn sign_own(&self, key: &SigningKey) -> Result<usize> {
        let unsigned: Vec<RecordId> = self.database.with(|connection| {
            connection
                .prepare_cached(
                    "SELECT record FROM executions e WHERE NOT EXISTS (SELECT 1 FROM imports i WHERE i.record = e.record) \
                     AND NOT EXISTS (SELECT 1 FROM signatures s WHERE s.record = e.record AND s.signer = ?)",
                )?
                .query_map([key.public().to_string()], |row| Ok(RecordId(crate::database::digest(row, 0)?)))?
                .collect()
        })?;
        let signed: Vec<_> = unsigned.iter().map(|record| (*record, key.sign(record))).collect();
        self.add_signatures(&signed)?;
        Ok(signed.len())
    }

    /// The signatures of a record, sorted by signer. Those that are not good are not kept in the first place.
    ///
    /// # Errors
    /// Those of the database.
    pub fn signatures(&self, record: &RecordId) -> Result<Vec<Signature>> {
        self.database.with(|connection| read_signatures(connection, record))
    }

    /// Where the records come from that no run on this store made.
    ///
    /// # Errors
    /// Those of the database.
    pub fn origins(&self) -> Result<HashMap<RecordId, Origin>> {
        let trust = self.database.trust();
        let mut signers: HashMap<String, Vec<PublicKey>> = HashMap::new();
        self.database.with(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT record, signer FROM signatures WHERE record IN (SELECT record FROM imports WHERE trusted = 0)",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                if let Ok(signer) = row.get_ref(1)?.as_str()?.parse() {
                    signers.entry(row.get(0)?).or_default().push(signer);
                }
            }
            let mut statement = connection.prepare_cached("SELECT record, trusted FROM imports")?;
            let origin = |record: &str, trusted: bool| match signers.get(record) {
                _ if trusted => Origin::Trusted,
                Some(signers) if signers.iter().any(|signer| trust.keys.contains(signer)) => Origin::Signed,
                Some(_) => Origin::UnknownSigner,
                None => Origin::Unsigned,
            };
            let read = |row: &rusqlite::Row<'_>| {
                let trusted = row.get::<_, bool>(1)? || trust.everything;
                let found = origin(row.get_ref(0)?.as_str()?, trusted);
                Ok((RecordId(crate::database::digest(row, 0)?), found))
            };
            statement.query_map([], read)?.collect()
        })
    }

    /// Keeps signatures, which must be good.
    pub(crate) fn add_signatures(&self, signatures: &[(RecordId, Signature)]) -> Result<()> {
        if signatures.is_empty() {
            return Ok(());
        }
        let path = self.layout.signatures();
        self.writable("write", &path)?;
        let mut lines = String::new();
        for (record, signature) in signatures {
            lines.push_str(&format!("{record} {} {}\n", signature.signer, signature.hex()));
        }
        append_lines(&path, lines)?;
        self.database.with(|connection| {
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            insert_signatures(&transaction, signatures)?;
            transaction.commit()
        })
    }
}

/// Reads the file of signatures into a database; lines that are torn or not good are left out.
pub(crate) fn rebuild_signatures(layout: &Layout, database: &Database) -> Result<()> {
    let path = layout.signatures();
    let mut text = Vec::new();
    match std::fs::File::open(&path).and_then(|mut file| file.read_to_end(&mut text)) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).at("read", &path),
    }
    let lines = String::from_utf8_lossy(&text);
    let good: Vec<(RecordId, Signature)> = lines.lines().filter_map(parse_line).collect();
    database.with(|connection| {
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        insert_signatures(&transaction, &good)?;
        transaction.commit()
    })
}

fn parse_line(line: &str) -> Option<(RecordId, Signature)> {
    let mut parts = line.split(' ');
    let record: RecordId = parts.next()?.parse().ok()?;
    let signature = Signature::parse(parts.next()?, parts.next()?).ok()?;
    (parts.next().is_none() && signature.is_good(&record)).then_some((record, signature))
}

pub(crate) fn read_signatures(connection: &Connection, record: &RecordId) -> rusqlite::Result<Vec<Signature>> {
    let mut statement =
        connection.prepare_cached("SELECT signer, signature FROM signatures WHERE record = ? ORDER BY signer")?;
    let mut rows = statement.query([record.to_string()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        // What is no signature vouches for nothing.
        found.extend(Signature::parse(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?).ok());
    }
    Ok(found)
}

fn insert_signatures(connection: &Connection, signatures: &[(RecordId, Signature)]) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("INSERT OR IGNORE INTO signatures VALUES (?,?,?)")?;
    for (record, signature) in signatures {
        statement.execute(params![record.to_string(), signature.signer.to_string(), signature.hex()])?;
    }
    Ok(())
}
