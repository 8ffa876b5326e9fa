//! The database anew, from the files it is an index of.
//!
//! A new database is built beside its place and moved there when it is whole, so one that is there is never half an index,
//! whenever the building was killed. Two processes that find none take turns; the second finds the first one's.

use std::fs::{File, OpenOptions};

use camino::{Utf8Path, Utf8PathBuf};
use rusqlite::TransactionBehavior;

use super::Database;
use super::runs::{RunNode, RunRow, insert_plan, insert_run, insert_run_nodes, parse_plan};
use super::write::JournalMark;
use crate::crash_point;
use crate::digest::Digest;
use crate::error::{IoContext as _, Result, StoreError};
use crate::layout::{Layout, unique_sibling};
use crate::object::unused;
use crate::record::journal;
use crate::store::Store;

/// What a rebuild found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Records read.
    pub records: usize,
    /// Runs read.
    pub runs: usize,
    /// Lines of journals, and files of runs, that were not what they should be, and were left out.
    pub unreadable: usize,
    /// Records that a newer Sepia wrote, left out.
    pub newer: usize,
    /// Where the old database went.
    pub set_aside: Option<Utf8PathBuf>,
}

impl Store {
    /// Moves the database of the store at `root` aside, whatever it is, and makes it anew from `records/`, `runs/` and
    /// `plans/`.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while a run is going on; those of moving and building.
    pub fn rebuild_database(root: &Utf8Path) -> Result<Rebuilt> {
        let layout = Layout::new(root);
        if !layout.check()? {
            return Err(StoreError::NoStore { root: root.to_owned() });
        }
        let _alone = crate::lock::exclude_runs(&layout)?;
        let path = layout.database();
        let mut set_aside = None;
        if path.as_std_path().symlink_metadata().is_ok() {
            let aside = unused(root, "results.db.old");
            for ending in ["-wal", "-shm", "-journal", ""] {
                let from = Utf8PathBuf::from(format!("{path}{ending}"));
                if from.as_std_path().symlink_metadata().is_ok() {
                    std::fs::rename(&from, format!("{aside}{ending}")).at("move aside", &from)?;
                }
            }
            set_aside = Some(aside);
        }
        Ok(Rebuilt { set_aside, ..build_database(&layout)? })
    }

    /// Reads what runs have journalled and not inserted before they died, and marks them as dead.
    pub(crate) fn catch_up_with_dead_runs(&self) -> Result<()> {
        let open: Vec<String> = self.database.with(|connection| {
            connection
                .prepare_cached("SELECT run FROM runs WHERE outcome IS NULL")?
                .query_map([], |row| row.get(0))?
                .collect()
        })?;
        for run in open {
            if self.run_is_alive(&run) {
                continue;
            }
            self.catch_up(&run)?;
            self.database.with(|connection| {
                connection
                    .prepare_cached("UPDATE runs SET outcome = 'died' WHERE run = ? AND outcome IS NULL")?
                    .execute([&run])
            })?;
        }
        Ok(())
    }

    /// Reads what is in a run's journal and not in the database.
    pub(crate) fn catch_up(&self, run: &str) -> Result<()> {
        let length = std::fs::metadata(self.layout.records(run)).map_or(0, |metadata| metadata.len());
        if length == 0 {
            return Ok(());
        }
        let known = self.database.with(|connection| {
            connection
                .prepare_cached("SELECT coalesce(max(bytes), 0) FROM journals WHERE run = ?")?
                .query_row([run], |row| row.get(0))
        })?;
        if length > known {
            let read = read_journal(&self.layout, &self.database, run, known)?;
            tracing::info!(run, records = read.records, "read records that the database did not have");
        }
        Ok(())
    }
}

/// Makes the database of a store that has none.
pub(crate) fn build_database(layout: &Layout) -> Result<Rebuilt> {
    let lock_path = layout.folder("locks").join("database");
    let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock_path);
    let lock = lock.map_err(|e| crate::layout::not_writable("lock", &lock_path, e))?;
    lock.lock().map_err(|source| StoreError::NoLocks { path: lock_path, source })?;
    let path = layout.database();
    if path.as_std_path().symlink_metadata().is_ok() {
        return Ok(Rebuilt::default());
    }
    let beside = unique_sibling(&path);
    let database = Database::create(&beside)?;
    let rebuilt = rebuild_from_files(layout, &database)?;
    crash_point::reached("close new database")?;
    database.close()?;
    File::open(&beside).and_then(|file| file.sync_all()).at("sync", &beside)?;
    crash_point::reached("place new database")?;
    std::fs::rename(&beside, &path).at("move into place", &path)?;
    Ok(rebuilt)
}

/// Reads all of `plans/`, `runs/` and `records/` into a database. What is there already stays.
pub(crate) fn rebuild_from_files(layout: &Layout, database: &Database) -> Result<Rebuilt> {
    let mut rebuilt = Rebuilt::default();
    read_plans(layout, database, &mut rebuilt)?;
    for folder in sorted(&layout.folder("runs"))? {
        read_run_files(database, &folder, &mut rebuilt)?;
    }
    for path in sorted(&layout.folder("records"))? {
        let Some(run) = path.file_name().and_then(|name| name.strip_suffix(".jsonl")) else { continue };
        let read = read_journal(layout, database, run, 0)?;
        rebuilt.records += read.records;
        rebuilt.unreadable += read.unreadable;
        rebuilt.newer += read.newer;
    }
    Ok(rebuilt)
}

fn read_journal(layout: &Layout, database: &Database, run: &str, from: u64) -> Result<Rebuilt> {
    let journal = journal::read(&layout.records(run), from)?;
    let mark = JournalMark { run: run.to_owned(), from, to: journal.end };
    database.insert(&journal.records, &[mark], |_| Ok(()))?;
    if journal.unreadable + journal.newer > 0 {
        let (unreadable, newer) = (journal.unreadable, journal.newer);
        tracing::warn!(run, unreadable, newer, "left out lines of a journal");
    }
    Ok(Rebuilt {
        records: journal.records.len(),
        unreadable: journal.unreadable,
        newer: journal.newer,
        ..Rebuilt::default()
    })
}

fn read_plans(layout: &Layout, database: &Database, rebuilt: &mut Rebuilt) -> Result<()> {
    for path in sorted(&layout.folder("plans"))? {
        let digest = path.file_name().and_then(|name| name.strip_suffix(".json")).map(str::parse::<Digest>);
        let Some(Ok(plan)) = digest else { continue };
        let listing = std::fs::read(&path).at("read", &path)?;
        match std::str::from_utf8(&listing).ok().and_then(|text| Some((text, parse_plan(text, &plan)?))) {
            Some((text, nodes)) => {
                database.with(|connection| insert_plan(connection, &plan, nodes.len(), text))?;
            }
            None => rebuilt.unreadable += 1,
        }
    }
    Ok(())
}

fn read_run_files(database: &Database, folder: &Utf8Path, rebuilt: &mut Rebuilt) -> Result<()> {
    let Ok(text) = std::fs::read(folder.join("run.json")) else { return Ok(()) };
    let Ok(row) = serde_json::from_slice::<RunRow>(&text) else {
        rebuilt.unreadable += 1;
        return Ok(());
    };
    // Lines may be torn where the process died; a later line for a node replaces an earlier one.
    let lines = std::fs::read(folder.join("nodes.jsonl")).unwrap_or_default();
    let lines: Vec<&[u8]> = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let nodes: Vec<RunNode> = lines.iter().filter_map(|line| serde_json::from_slice(line).ok()).collect();
    rebuilt.unreadable += lines.len() - nodes.len();
    rebuilt.runs += 1;
    database.with(|connection| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        insert_run(&transaction, &row)?;
        insert_run_nodes(&transaction, &nodes)?;
        transaction.commit()
    })
}

/// What is in a folder, sorted by name; nothing, if there is none.
fn sorted(folder: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let entries = match folder.read_dir_utf8() {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(StoreError::io("read", folder, e)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.into_path()))
        .collect::<std::io::Result<Vec<_>>>()
        .at("read", folder)?;
    paths.sort_unstable();
    Ok(paths)
}
