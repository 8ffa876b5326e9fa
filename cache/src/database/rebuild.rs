//! The database anew, from the files it is an index of.
//!
//! A new database is built beside its place and moved there when it is whole, so one that is there is never half an index,
//! whenever the building was killed. Two processes that find none take turns; the second finds the first one's.

use std::fs::OpenOptions;

use camino::{Utf8Path, Utf8PathBuf};
use rusqlite::TransactionBehavior;

use super::Database;
use super::plans::{insert_plan, parse_plan};
use super::runs::{RunNode, RunRow, insert_run, insert_run_nodes};
use super::write::JournalMark;
use crate::crash_point;
use crate::digest::Digest;
use crate::error::{IoContext as _, Result, StoreError};
use crate::layout::{Layout, unique_sibling};
use crate::object::unused;
use crate::record::journal;
use crate::sign::rebuild_signatures;
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
    let database = Database::begin(&beside)?;
    let rebuilt = rebuild_from_files(layout, &database)?;
    crash_point::reached("complete new database")?;
    database.complete(&path)?;
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
    rebuild_signatures(layout, database)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenMode;
    use crate::database::PlanNode;
    use crate::database::runs::tests::{node, row};
    use crate::test_support::{Fixture, key, record};

    /// A store with two runs, a plan and three records, as the tests below expect to find it again.
    fn filled() -> Fixture {
        let f = Fixture::new();
        let plan = f.store.save_plan(&[PlanNode { node: "a".into(), key: Some(key("a")) }]).unwrap();
        let lock = f.store.lock_run("run-1").unwrap();
        f.store.start_run(&row("run-1", 1)).unwrap();
        let records = [record("a", &[("out", f.object(b"a"))]), record("b", &[("out", f.object(b"b"))])];
        f.store.commit_with_nodes(&records, &[node("run-1", "a", "done"), node("run-1", "b", "done")]).unwrap();
        f.store
            .start_run(&crate::RunRow { plan: Some(plan), outcome: Some("done".into()), ..row("run-1", 1) })
            .unwrap();
        drop(lock);
        let other = crate::Record { run: "run-2".into(), ..record("c", &[("out", f.object(b"c"))]) };
        f.store.start_run(&crate::RunRow { outcome: Some("failed".into()), ..row("run-2", 2) }).unwrap();
        f.store.commit(&[other]).unwrap();
        f
    }

    type State = (Vec<crate::RunRow>, Vec<crate::RunNode>, Vec<PlanNode>, Vec<String>);

    fn state(store: &Store) -> State {
        let runs = store.list_runs().unwrap();
        let plan = store.plan(&runs[1].plan.unwrap()).unwrap();
        let mut records: Vec<_> = store.executions().unwrap().iter().map(|row| row.record.to_string()).collect();
        records.sort();
        (runs, store.run_nodes("run-1").unwrap(), plan, records)
    }

    #[test]
    fn a_lost_or_emptied_database_comes_back_by_itself() {
        let mut f = filled();
        let before = state(&f.store);
        assert_eq!(before.3.len(), 3);
        f.reopen(|root| std::fs::remove_file(root.join("results.db")).unwrap());
        assert_eq!(state(&f.store), before);
        f.reopen(|root| std::fs::write(root.join("results.db"), b"").unwrap());
        assert_eq!(state(&f.store), before);
    }

    #[test]
    fn a_damaged_database_is_refused_left_alone_and_rebuilt_when_asked() {
        for garbage in [b"this is no database at all, but long enough to be looked at".repeat(40), vec![0xff; 8192]] {
            let mut f = filled();
            let before = state(&f.store);
            f.reopen(|root| {
                std::fs::write(root.join("results.db"), &garbage).unwrap();
                for mode in [OpenMode::Create, OpenMode::Existing, OpenMode::ReadOnly] {
                    let error = Store::open(root, mode).unwrap_err();
                    assert!(matches!(error, StoreError::DatabaseDamaged { .. }), "{error:?}");
                    assert!(error.to_string().contains("move it away"), "{error}");
                }
                assert_eq!(std::fs::read(root.join("results.db")).unwrap(), garbage);
                let rebuilt = Store::rebuild_database(root).unwrap();
                assert_eq!((rebuilt.records, rebuilt.runs, rebuilt.unreadable, rebuilt.newer), (3, 2, 0, 0));
                assert_eq!(std::fs::read(rebuilt.set_aside.unwrap()).unwrap(), garbage);
            });
            assert_eq!(state(&f.store), before);
        }
    }

    #[test]
    fn a_page_that_went_bad_is_damage_too() {
        let mut f = filled();
        f.reopen(|root| {
            let path = root.join("results.db");
            let good = std::fs::read(&path).unwrap();
            let mut bad = good.clone();
            bad[100..].fill(0x5a);
            std::fs::write(&path, &bad).unwrap();
            let error = Store::open(root, OpenMode::Existing).unwrap_err();
            assert!(matches!(error, StoreError::DatabaseDamaged { .. }), "{error:?}");
            std::fs::write(&path, good).unwrap();
        });
    }

    #[test]
    fn other_databases_are_not_touched() {
        let mut f = filled();
        f.reopen(|root| {
            let path = root.join("results.db");
            let ours = std::fs::read(&path).unwrap();
            let refused = |expected: &str| {
                let before = std::fs::read(&path).unwrap();
                for mode in [OpenMode::Create, OpenMode::Existing, OpenMode::ReadOnly] {
                    let error = Store::open(root, mode).unwrap_err().to_string();
                    assert!(error.contains(expected), "{error}");
                }
                assert_eq!(std::fs::read(&path).unwrap(), before);
            };
            let newer = rusqlite::Connection::open(&path).unwrap();
            newer.pragma_update(None, "user_version", 99).unwrap();
            newer.close().unwrap();
            let known = crate::database::newest_schema();
            let message = "use a newer Sepia (nothing was changed)";
            refused(&format!("the database has schema 99, this Sepia knows up to {known}; {message}"));
            std::fs::remove_file(&path).unwrap();
            let foreign = rusqlite::Connection::open(&path).unwrap();
            foreign.execute_batch("CREATE TABLE mine (x); INSERT INTO mine VALUES (1);").unwrap();
            foreign.close().unwrap();
            refused("it is not one of Sepia's");
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
            for mode in [OpenMode::Create, OpenMode::ReadOnly] {
                assert!(Store::open(root, mode).unwrap_err().to_string().contains("it is a folder"));
            }
            std::fs::remove_dir(&path).unwrap();
            std::fs::write(&path, ours).unwrap();
        });
    }

    #[test]
    fn lines_that_are_torn_changed_or_from_the_future_are_left_out() {
        let mut f = filled();
        let path = f.store.layout.records("run-1");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let future = lines[0].replace("\"schema\":1", "\"schema\":2").replace("node-a", "node-z");
        let (_, canonical) = future.split_once("\"record\":").unwrap();
        let canonical = canonical.strip_suffix('}').unwrap();
        let future = journal::line(&crate::RecordId::of(canonical), canonical);
        let changed = lines[0].replace("node-a", "node-x");
        std::fs::write(&path, format!("{}\n{changed}\n\n{future}{}", lines[1], &lines[0][..50])).unwrap();
        f.reopen(|root| {
            let rebuilt = Store::rebuild_database(root).unwrap();
            assert_eq!((rebuilt.records, rebuilt.unreadable, rebuilt.newer), (2, 1, 1));
        });
        // The torn line is completed by nobody; the next record begins on a line of its own.
        f.store.commit(&[record("d", &[])]).unwrap();
        f.reopen(|root| {
            let rebuilt = Store::rebuild_database(root).unwrap();
            assert_eq!((rebuilt.records, rebuilt.unreadable, rebuilt.newer), (3, 2, 1));
        });
    }

    #[test]
    fn nothing_is_rebuilt_under_a_run() {
        let f = filled();
        let _alive = f.store.lock_run("run-9").unwrap();
        assert!(matches!(Store::rebuild_database(f.store.root()), Err(StoreError::InUse { .. })));
    }

    #[test]
    fn processes_that_find_no_database_make_one_together() {
        let mut f = filled();
        let before = state(&f.store);
        f.reopen(|root| {
            std::fs::remove_file(root.join("results.db")).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        assert_eq!(Store::open(root, OpenMode::Existing).unwrap().executions().unwrap().len(), 3)
                    });
                }
            });
        });
        assert_eq!(state(&f.store), before);
    }
}
