//! One store: a folder, its database and what this process has not synced yet.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};

use crate::database::{Database, build_database, rebuild_from_files};
use crate::digest::Digest;
use crate::error::{IoContext as _, Result, StoreError};
use crate::layout::{Layout, check_name};
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
        fs_err::create_dir_all(&path).at("make", &path)?;
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

    pub(crate) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
