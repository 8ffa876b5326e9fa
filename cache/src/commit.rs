//! Making results count: objects synced, records appended and synced, rows inserted, in that order.

use std::collections::BTreeMap;

use crate::database::RunNode;
use crate::database::{JournalMark, insert_run_nodes};
use crate::error::Result;
use crate::layout::check_name;
use crate::record::{Record, RecordId, journal};
use crate::store::Store;

impl Store {
    /// Commits finished attempts, best several at a time: syncs the objects inserted so far, appends the records to their runs' journals (one sync
    /// a run) and inserts them into the database in one transaction. Committing a record twice changes nothing.
    ///
    /// An inserted object can be used before its record is committed, so what depends on it need not wait for the disk.
    ///
    /// # Errors
    /// [`StoreError::BadRecord`](crate::StoreError::BadRecord) before anything is written; those of the disk and the
    /// database.
    pub fn commit(&self, records: &[Record]) -> Result<Vec<RecordId>> {
        self.commit_with_nodes(records, &[])
    }

    /// [`Store::commit`], and what became of the nodes of the runs, in the same transaction.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn commit_with_nodes(&self, records: &[Record], nodes: &[RunNode]) -> Result<Vec<RecordId>> {
        self.writable("write", &self.layout.folder("records"))?;
        let mut normal = Vec::with_capacity(records.len());
        let mut lines: BTreeMap<&str, String> = BTreeMap::new();
        for record in records {
            check_name("run id", &record.run)?;
            let normalised = record.normalised()?;
            let canonical = normalised.canonical_of_normalised()?;
            let id = RecordId::of(&canonical);
            lines.entry(&record.run).or_default().push_str(&journal::line(&id, &canonical));
            normal.push((id, normalised));
        }
        self.sync_pending()?;
        let _alone = self.journals();
        let mut marks = Vec::with_capacity(lines.len());
        for (run, lines) in lines {
            let (from, to) = journal::append(self, run, &lines)?;
            marks.push(JournalMark { run: run.to_owned(), from, to });
        }
        if !nodes.is_empty() {
            self.write_nodes_file(nodes)?;
        }
        self.database.insert(&normal, &marks, |transaction| insert_run_nodes(transaction, nodes))?;
        Ok(normal.into_iter().map(|(id, _)| id).collect())
    }
}
