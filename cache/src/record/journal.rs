//! `records/<run>.jsonl`: the records of one run, one a line, append-only. They are the truth; the database is an index.
//!
//! A line is `{"id":"<64 hex>","record":{...}}`, where the id is that of the record's text as it stands in the line. So
//! every line can be checked by itself: a torn last line (the process died while appending) and a line whose bytes have
//! changed are both recognised, reported and left out. A line that follows a torn one begins on a line of its own.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;

use camino::Utf8Path;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{RECORD_SCHEMA, Record, RecordId};
use crate::crash_point;
use crate::error::{IoContext as _, Result};
use crate::store::Store;

/// What a journal holds from some position on.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) records: Vec<(RecordId, Record)>,
    /// Where the last whole line ends.
    pub(crate) end: u64,
    /// Lines that are not what they should be.
    pub(crate) unreadable: usize,
    /// Records that a newer Sepia wrote.
    pub(crate) newer: usize,
}

/// The line of a record, with its newline.
pub(crate) fn line(id: &RecordId, canonical: &str) -> String {
    format!("{{\"id\":\"{id}\",\"record\":{canonical}}}\n")
}

/// Appends whole lines to a run's journal and syncs it. Returns where they begin and where they end.
pub(crate) fn append(store: &Store, run: &str, lines: &str) -> Result<(u64, u64)> {
    let path = store.layout.records(run);
    let is_new = !path.exists();
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).at("write", &path)?;
    let length = file.metadata().at("write", &path)?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1).at("read", &path)?;
    }
    let mut text = String::with_capacity(lines.len() + 1);
    if last != [b'\n'] {
        text.push('\n');
    }
    text.push_str(lines);
    crash_point::reached("append records")?;
    #[cfg(test)]
    tear(&mut file, &text)?;
    file.write_all(text.as_bytes()).at("write", &path)?;
    crash_point::reached("sync records")?;
    file.sync_data().at("sync", &path)?;
    if is_new {
        let folder = store.layout.folder("records");
        File::open(&folder).and_then(|folder| folder.sync_all()).at("sync", &folder)?;
    }
    crash_point::reached("records synced")?;
    Ok((length, length + text.len() as u64))
}

/// A crash point in the middle of a write: half of the text gets into the file.
#[cfg(test)]
fn tear(file: &mut File, text: &str) -> Result<()> {
    crash_point::reached("tear records").inspect_err(|_| {
        let half = text.len() / 2;
        file.write_all(&text.as_bytes()[..half]).unwrap();
    })
}

/// Reads a journal from a position on, which must be the beginning of a line.
pub(crate) fn read(path: &Utf8Path, from: u64) -> Result<Journal> {
    let mut bytes = Vec::new();
    let mut file = File::open(path).at("read", path)?;
    file.seek(SeekFrom::Start(from)).at("read", path)?;
    file.read_to_end(&mut bytes).at("read", path)?;
    let mut journal = Journal { end: from, ..Journal::default() };
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Some(whole) = line.strip_suffix(b"\n") else { break };
        journal.end += line.len() as u64;
        match parse(whole) {
            _ if whole.is_empty() => {}
            Parsed::Record(id, record) => journal.records.push((id, *record)),
            Parsed::Newer => journal.newer += 1,
            Parsed::Unreadable => journal.unreadable += 1,
        }
    }
    Ok(journal)
}

/// The record of a line without its newline, if it is one that this code can read.
pub(crate) fn parse_record(line: &[u8]) -> Option<(RecordId, Record)> {
    match parse(line) {
        Parsed::Record(id, record) => Some((id, *record)),
        Parsed::Newer | Parsed::Unreadable => None,
    }
}

/// Whether a journal of this name holds records from elsewhere, and whether their source was trusted.
pub(crate) fn import_trusted(name: &str) -> Option<bool> {
    if name.starts_with("trusted-") { Some(true) } else { name.starts_with("import-").then_some(false) }
}

pub(crate) enum Parsed {
    Record(RecordId, Box<Record>),
    Newer,
    Unreadable,
}

/// What a line without its newline is.
pub(crate) fn parse(line: &[u8]) -> Parsed {
    #[derive(Deserialize)]
    struct Line<'a> {
        id: RecordId,
        #[serde(borrow)]
        record: &'a RawValue,
    }
    #[derive(Deserialize)]
    struct OfSchema {
        schema: u32,
    }
    let Ok(Line { id, record }) = serde_json::from_slice::<Line<'_>>(line) else { return Parsed::Unreadable };
    if RecordId::of(record.get()) != id {
        return Parsed::Unreadable;
    }
    match serde_json::from_str::<OfSchema>(record.get()) {
        Ok(OfSchema { schema }) if schema > RECORD_SCHEMA => Parsed::Newer,
        _ => match serde_json::from_str(record.get()) {
            Ok(record) => Parsed::Record(id, Box::new(record)),
            Err(_) => Parsed::Unreadable,
        },
    }
}
