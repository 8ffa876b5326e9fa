//! One store: a folder, its database and what this process has not synced yet.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};

use crate::database::{Database, build_database, rebuild_from_files};
use crate::digest::Digest;
use crate::error::{IoContext as _, Result, StoreError};
use crate::layout::{Layout, check_name};
use crate::lock::Anchors;
use crate::object::{ObjectKind, Pending};

/// What [`Store::open`] may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Make the store if there is none.
    Create,
    /// There must be one.
    Existing,
    /// There must be one, and nothing in it is changed. Works on media that cannot be written.
    ReadOnly,
}

/// A store. All methods take `&self` and may be called from any thread.
#[derive(Debug)]
pub struct Store {
    pub(crate) layout: Layout,
    pub(crate) database: Arc<Database>,
    read_only: bool,
    pending: Mutex<Pending>,
    /// Held while journals grow, so that each writer knows where its lines begin.
    journals: Mutex<()>,
    pub(crate) anchors: Anchors,
    /// `objects/` and `trees/`, opened when they are first looked into.
    folders: [OnceLock<Option<File>>; 2],
}

impl Store {
    /// Opens the store at `root` (usually a folder named `.sepia`).
    ///
    /// A missing database is rebuilt from the records. Records of runs that died before the database had them are read.
    ///
    /// # Errors
    /// One kind for each way in which a path can fail to be a usable store: see [`StoreError`].
    pub fn open(root: &Utf8Path, mode: OpenMode) -> Result<Self> {
        let layout = Layout::new(root);
        if !layout.check()? {
            if mode != OpenMode::Create {
                return match std::fs::metadata(root) {
                    Ok(metadata) if !metadata.is_dir() => Err(StoreError::NotAFolder { path: root.to_owned() }),
                    _ => Err(StoreError::NoStore { root: root.to_owned() }),
                };
            }
            layout.create()?;
        }
        let path = layout.database();
        let read_only = mode == OpenMode::ReadOnly;
        let there = path.as_std_path().symlink_metadata().is_ok();
        let with = |database| Self {
            layout: layout.clone(),
            database: Arc::new(database),
            read_only,
            pending: Mutex::new(Pending::default()),
            journals: Mutex::new(()),
            anchors: Anchors::default(),
            folders: [OnceLock::new(), OnceLock::new()],
        };
        if read_only {
            if there {
                return Ok(with(Database::open_read_only(&path)?));
            }
            let store = with(Database::in_memory(&path)?);
            rebuild_from_files(&store.layout, &store.database)?;
            return Ok(store);
        }
        if !there {
            build_database(&layout)?;
        }
        let (database, was_empty) = Database::open(&path)?;
        let store = with(database);
        if was_empty {
            // Somebody emptied the file.
            rebuild_from_files(&store.layout, &store.database)?;
        }
        store.catch_up_with_dead_runs()?;
        Ok(store)
    }

    /// Opens the files of a store without its database: for jobs on the nodes of a cluster, where several hosts at once
    /// must not write one SQLite file. Objects can be read, verified and inserted; nothing can be looked up or recorded.
    ///
    /// # Errors
    /// Those of [`Store::open`] for a path that is no store.
    pub fn open_files(root: &Utf8Path) -> Result<Self> {
        let layout = Layout::new(root);
        if !layout.check()? {
            return Err(StoreError::NoStore { root: root.to_owned() });
        }
        let database = Database::in_memory(&layout.database())?;
        Ok(Self {
            layout,
            database: Arc::new(database),
            read_only: false,
            pending: Mutex::new(Pending::default()),
            journals: Mutex::new(()),
            anchors: Anchors::default(),
            folders: [OnceLock::new(), OnceLock::new()],
        })
    }

    /// The store's folder.
    #[must_use]
    pub fn root(&self) -> &Utf8Path {
        &self.layout.root
    }

    /// Where attempts work; see [`Store::attempt_dir`].
    #[must_use]
    pub fn attempts_dir(&self) -> Utf8PathBuf {
        self.layout.folder("attempts")
    }

    /// Makes the folder under which the attempts of one run have theirs. What is left in it when the run is no longer
    /// alive is of no use, and `gc` removes it.
    ///
    /// # Errors
    /// [`StoreError::BadName`], and those of making folders.
    pub fn attempt_dir(&self, run: &str) -> Result<Utf8PathBuf> {
        check_name("run id", run)?;
        let path = self.attempts_dir().join(run);
        self.writable("make", &path)?;
        std::fs::create_dir_all(&path).at("make", &path)?;
        Ok(path)
    }

    /// Where the checkpoints for a key are kept from one attempt to the next. Not made here.
    #[must_use]
    pub fn checkpoints_dir(&self, key: &Digest) -> Utf8PathBuf {
        self.layout.folder("checkpoints").join(key.to_string())
    }

    /// For what can be lost without loss.
    #[must_use]
    pub fn cache_dir(&self) -> Utf8PathBuf {
        self.layout.folder("cache")
    }

    /// Refuses to change a store that was opened for reading.
    pub(crate) fn writable(&self, action: &'static str, path: &Utf8Path) -> Result<()> {
        if self.read_only { Err(StoreError::ReadOnly { action, path: path.to_owned() }) } else { Ok(()) }
    }

    /// The open folder of all objects of a kind; `None` if there is none.
    pub(crate) fn objects_folder(&self, kind: ObjectKind) -> Option<&File> {
        let [files, trees] = &self.folders;
        let folder = match kind {
            ObjectKind::File => files,
            ObjectKind::Tree => trees,
        };
        folder.get_or_init(|| File::open(self.layout.folder(Layout::objects(kind))).ok()).as_ref()
    }

    pub(crate) fn journals(&self) -> MutexGuard<'_, ()> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Fixture, key, record};

    fn error(root: &Utf8Path, mode: OpenMode) -> StoreError {
        match Store::open(root, mode) {
            Ok(_) => panic!("{root} opened"),
            Err(error) => error,
        }
    }

    /// Names and bytes of all that lies directly in a folder.
    fn contents(folder: &Utf8Path) -> Vec<(String, Option<Vec<u8>>)> {
        let mut all: Vec<_> = folder
            .read_dir_utf8()
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().to_owned(), std::fs::read(entry.path()).ok()))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_new_store_has_its_parts_and_stays_out_of_git() {
        let f = Fixture::new();
        let names: Vec<_> = contents(f.store.root()).into_iter().map(|(name, _)| name).collect();
        let names: Vec<_> = names.iter().filter(|name| !name.starts_with("results.db-")).map(String::as_str).collect();
        let expected = [
            ".gitignore",
            "attempts",
            "cache",
            "checkpoints",
            "damaged",
            "format",
            "locks",
            "objects",
            "plans",
            "records",
            "results.db",
            "runs",
            "trees",
        ];
        assert_eq!(names, expected);
        assert_eq!(std::fs::read_to_string(f.store.root().join(".gitignore")).unwrap(), "*\n");
        assert_eq!(std::fs::read_to_string(f.store.root().join("format")).unwrap(), "sepia-store 1\n");
    }

    #[test]
    fn what_is_no_store_is_named_for_what_it_is() {
        let f = Fixture::new();
        let none = f.root.join("none");
        for mode in [OpenMode::Existing, OpenMode::ReadOnly] {
            assert!(matches!(error(&none, mode), StoreError::NoStore { .. }));
            assert!(!none.exists());
        }
        let file = f.file("file", b"");
        for mode in [OpenMode::Create, OpenMode::Existing, OpenMode::ReadOnly] {
            assert!(matches!(error(&file, mode), StoreError::NotAFolder { .. }));
            assert!(matches!(error(&file.join("in"), mode), StoreError::NotAFolder { .. }));
        }
        let other = f.tree("other", &[("thesis.tex", b"x")]);
        assert!(
            matches!(error(&other, OpenMode::Create), StoreError::NotAStore { found, .. } if found == "thesis.tex")
        );
        assert_eq!(contents(&other).len(), 1);
        let message = error(&other, OpenMode::Existing).to_string();
        assert!(message.contains(other.as_str()) && message.contains("--store"), "{message}");
    }

    #[test]
    fn a_newer_or_unknown_format_is_refused_and_left_alone() {
        let mut f = Fixture::new();
        let root = f.store.root().to_owned();
        f.reopen(|_| ());
        for (text, newer) in [("sepia-store 2\nand more\n", true), ("sepia-store x\n", false), ("", false)] {
            std::fs::write(root.join("format"), text).unwrap();
            let before = contents(&root);
            for mode in [OpenMode::Create, OpenMode::Existing, OpenMode::ReadOnly] {
                match error(&root, mode) {
                    StoreError::NewerFormat { found: 2, known: 1, .. } => assert!(newer),
                    StoreError::BadFormat { .. } => assert!(!newer),
                    other => panic!("{other}"),
                }
            }
            assert_eq!(contents(&root), before);
        }
    }

    #[test]
    fn a_store_whose_making_was_interrupted_is_completed() {
        let f = Fixture::new();
        let half = f.tree(
            "half",
            &[("objects/", b""), (".gitignore", b"*\n"), ("..gitignore.1-2-3", b""), (".format.1-2-3", b"")],
        );
        assert!(matches!(error(&half, OpenMode::Existing), StoreError::NoStore { .. }));
        let store = Store::open(&half, OpenMode::Create).unwrap();
        assert!(store.list_runs().unwrap().is_empty());
    }

    #[test]
    fn many_may_make_the_same_store_at_once() {
        let f = Fixture::new();
        for round in 0..10 {
            let root = f.root.join(format!("new-{round}"));
            std::thread::scope(|scope| {
                for _ in 0..6 {
                    scope.spawn(|| {
                        let store = Store::open(&root, OpenMode::Create).unwrap();
                        store.commit(&[record("a", &[])]).unwrap();
                    });
                }
            });
            assert_eq!(Store::open(&root, OpenMode::Existing).unwrap().executions().unwrap().len(), 1);
        }
    }

    #[test]
    fn a_link_to_a_store_is_one() {
        let f = Fixture::new();
        let link = f.root.join("link");
        std::os::unix::fs::symlink(f.store.root(), &link).unwrap();
        let object = f.object(b"x");
        assert!(Store::open(&link, OpenMode::Existing).unwrap().present(&object));
    }

    #[test]
    fn reading_only_changes_nothing() {
        let mut f = Fixture::new();
        f.store.commit(&[record("a", &[("out", f.object(b"a"))])]).unwrap();
        f.reopen(|_| ());
        let root = f.store.root().to_owned();
        let store = Store::open(&root, OpenMode::ReadOnly).unwrap();
        assert_eq!(store.index().unwrap().candidates(&key("a")).unwrap().len(), 1);
        assert!(store.verify_all(|_| ()).unwrap().is_sound());
        let refused: [Result<()>; 6] = [
            store.commit(&[]).map(drop),
            store.insert(&root, &crate::hash_output(&root.join("format")).unwrap()).map(drop),
            store.lock_run("r").map(drop),
            store.save_plan(&[]).map(drop),
            store.attempt_dir("r").map(drop),
            store.gc(&crate::GcPolicy::default(), false).map(drop),
        ];
        for result in refused {
            assert!(matches!(result, Err(StoreError::ReadOnly { .. })), "{result:?}");
        }
        store.file_digests().digest(&root.join("format")).unwrap();
        store.file_digests().save().unwrap();
        assert!(contents(&root.join("cache")).is_empty());
        // Without a database there are still the records.
        f.reopen(|root| {
            std::fs::remove_file(root.join("results.db")).unwrap();
            let store = Store::open(root, OpenMode::ReadOnly).unwrap();
            assert_eq!(store.index().unwrap().candidates(&key("a")).unwrap().len(), 1);
            assert!(!root.join("results.db").exists());
        });
    }

    #[test]
    fn a_store_can_be_used_from_any_thread() {
        fn check<T: Send + Sync>() {}
        check::<Store>();
        check::<crate::Index>();
        check::<crate::FileDigests>();
    }
}
