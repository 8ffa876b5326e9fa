//! The database anew, from the files it is an index of.

use camino::{Utf8Path, Utf8PathBuf};
use rusqlite::TransactionBehavior;

use super::runs::{RunNode, RunRow, insert_plan, insert_run, insert_run_nodes, parse_plan};
use super::write::JournalMark;
use crate::digest::Digest;
use crate::error::{IoContext as _, Result};
use crate::record::journal;
use crate::store::{OpenMode, Store};

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
    /// `plans/`. No run may be going on.
    ///
    /// # Errors
    /// Those of [`Store::open`], and of moving the old database.
    pub fn rebuild_database(root: &Utf8Path) -> Result<Rebuilt> {
        let layout = crate::layout::Layout::new(root);
        if !layout.check()? {
            return Err(crate::StoreError::NoStore { root: root.to_owned() });
        }
        let path = layout.database();
        let mut set_aside = None;
        if path.as_std_path().symlink_metadata().is_ok() {
            let aside = crate::object::unused(root, "results.db.old");
            for ending in ["-wal", "-shm", "-journal", ""] {
                let from = Utf8PathBuf::from(format!("{path}{ending}"));
                if from.exists() {
                    std::fs::rename(&from, format!("{aside}{ending}")).at("move aside", &from)?;
                }
            }
            set_aside = Some(aside);
        }
        let store = Self::open(root, OpenMode::Existing)?;
        // Opening has rebuilt it; doing so again changes nothing and says what there is.
        Ok(Rebuilt { set_aside, ..store.rebuild_from_files()? })
    }

    pub(crate) fn rebuild_from_files(&self) -> Result<Rebuilt> {
        let mut rebuilt = Rebuilt::default();
        self.read_plans(&mut rebuilt)?;
        let folder = self.layout.folder("runs");
        for entry in sorted(&folder)? {
            self.read_run_files(&entry, &mut rebuilt)?;
        }
        for path in sorted(&self.layout.folder("records"))? {
            let Some(run) = path.file_name().and_then(|name| name.strip_suffix(".jsonl")) else { continue };
            let read = self.read_journal(run, 0)?;
            rebuilt.records += read.records;
            rebuilt.unreadable += read.unreadable;
            rebuilt.newer += read.newer;
        }
        Ok(rebuilt)
    }

    /// Reads what runs have journalled and not inserted before they died, and marks them as dead.
    pub(crate) fn catch_up_with_dead_runs(&self) -> Result<()> {
        let open: Vec<(String, u64)> = self.database.with(|connection| {
            connection
                .prepare_cached(
                    "SELECT run, coalesce(bytes, 0) FROM runs LEFT JOIN journals USING (run) WHERE outcome IS NULL",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })?;
        for (run, bytes) in open {
            if self.run_is_alive(&run) {
                continue;
            }
            let length = std::fs::metadata(self.layout.records(&run)).map_or(0, |metadata| metadata.len());
            if length > bytes {
                let read = self.read_journal(&run, bytes)?;
                tracing::info!(run, records = read.records, "read the records of a run that died");
            }
            self.database.with(|connection| {
                connection
                    .prepare_cached("UPDATE runs SET outcome = 'died' WHERE run = ? AND outcome IS NULL")?
                    .execute([&run])
            })?;
        }
        Ok(())
    }

    fn read_journal(&self, run: &str, from: u64) -> Result<Rebuilt> {
        let journal = journal::read(&self.layout.records(run), from)?;
        let mark = JournalMark { run: run.to_owned(), bytes: journal.end };
        self.database.insert(&journal.records, &[mark], |_| Ok(()))?;
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

    fn read_plans(&self, rebuilt: &mut Rebuilt) -> Result<()> {
        for path in sorted(&self.layout.folder("plans"))? {
            let digest = path.file_name().and_then(|name| name.strip_suffix(".json")).map(str::parse::<Digest>);
            let Some(Ok(plan)) = digest else { continue };
            let listing = fs_err::read_to_string(&path).at("read", &path)?;
            match parse_plan(&listing, &plan) {
                Some(nodes) => {
                    self.database.with(|connection| insert_plan(connection, &plan, nodes.len(), &listing))?
                }
                None => rebuilt.unreadable += 1,
            }
        }
        Ok(())
    }

    fn read_run_files(&self, folder: &Utf8Path, rebuilt: &mut Rebuilt) -> Result<()> {
        let Ok(text) = fs_err::read_to_string(folder.join("run.json")) else { return Ok(()) };
        let Ok(row) = serde_json::from_str::<RunRow>(&text) else {
            rebuilt.unreadable += 1;
            return Ok(());
        };
        // Lines may be torn where the process died; a later line for a node replaces an earlier one.
        let lines = fs_err::read_to_string(folder.join("nodes.jsonl")).unwrap_or_default();
        let nodes: Vec<RunNode> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        rebuilt.unreadable += lines.lines().count() - nodes.len();
        rebuilt.runs += 1;
        self.database.with(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            insert_run(&transaction, &row)?;
            insert_run_nodes(&transaction, &nodes)?;
            transaction.commit()
        })
    }
}

/// What is in a folder, sorted by name; nothing, if there is none.
fn sorted(folder: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let entries = match folder.read_dir_utf8() {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(crate::StoreError::io("read", folder, e)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.into_path()))
        .collect::<std::io::Result<Vec<_>>>()
        .at("read", folder)?;
    paths.sort_unstable();
    Ok(paths)
}
