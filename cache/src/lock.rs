//! Locks between processes, which a killed owner cannot keep.
//!
//! A lock is a file in `locks/` that its owner holds with `flock` and whose text says who that is. The system drops the
//! `flock` when the owner dies, however it dies, so there are no stale locks to be broken and no ages to be guessed.
//!
//! The file is removed when the lock is released. That is a race unless one looks again: between another process's
//! `open` and its `flock`, the file may have been removed, and a lock on a removed file excludes nobody who comes later.
//! So after locking, the file at the path must be the very file that was locked (same inode); otherwise one starts over.
//! The owner removes the file *before* it lets go, so whoever gets the old file's lock sees that it is gone.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;

use camino::{Utf8Path, Utf8PathBuf};

use crate::digest::Digest;
use crate::error::{IoContext as _, Result, StoreError};
use crate::layout::check_name;
use crate::store::Store;

/// The right to compute one key, held until it is dropped (or its process ends).
#[derive(Debug)]
pub struct KeyLock {
    _held: Held,
}

/// The sign that a run is going on, held until it is dropped (or its process ends).
#[derive(Debug)]
pub struct RunLock {
    // Dropped in this order: first the run is over, then the store is free.
    _held: Held,
    _in_use: File,
}

impl Store {
    /// Takes the lock of a key, unless someone else has it (`None`). `owner` is text for people: process, run, node.
    ///
    /// # Errors
    /// [`StoreError::NoLocks`] where the file system has none.
    pub fn try_lock_key(&self, key: &Digest, owner: &str) -> Result<Option<KeyLock>> {
        let path = self.key_lock(key);
        self.writable("lock", &path)?;
        Ok(try_hold(&path, owner)?.map(|held| KeyLock { _held: held }))
    }

    /// What the present owner of a key's lock said of itself. `None`: the lock is free, or was a moment ago.
    #[must_use]
    pub fn lock_owner(&self, key: &Digest) -> Option<String> {
        owner(&self.key_lock(key))
    }

    /// Marks a run as alive. A run takes this before it does anything else with the store.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if that run id is alive already, or if the store is being cleaned.
    pub fn lock_run(&self, run: &str) -> Result<RunLock> {
        let path = self.run_lock(run)?;
        self.writable("lock", &path)?;
        let in_use = self.use_lock()?;
        match in_use.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(self.in_use("`sepia cache gc`".to_owned())),
            Err(TryLockError::Error(source)) => return Err(StoreError::NoLocks { path, source }),
        }
        match try_hold(&path, &format!("process {}, run {run}", std::process::id()))? {
            Some(held) => Ok(RunLock { _held: held, _in_use: in_use }),
            None => Err(self.in_use(owner(&path).unwrap_or_else(|| format!("run {run}")))),
        }
    }

    /// Whether a process holds the run's lock.
    #[must_use]
    pub fn run_is_alive(&self, run: &str) -> bool {
        self.run_lock(run).is_ok_and(|path| is_held(&path))
    }

    /// The runs that are alive, sorted.
    ///
    /// # Errors
    /// Those of reading `locks/`.
    pub fn live_runs(&self) -> Result<Vec<String>> {
        let folder = self.layout.folder("locks");
        let mut runs = Vec::new();
        for entry in folder.read_dir_utf8().at("read", &folder)? {
            let entry = entry.at("read", &folder)?;
            if let Some(run) = entry.file_name().strip_prefix("run-")
                && is_held(entry.path())
            {
                runs.push(run.to_owned());
            }
        }
        runs.sort_unstable();
        Ok(runs)
    }

    /// Excludes all runs while the returned file lives.
    pub(crate) fn exclude_runs(&self) -> Result<File> {
        let file = self.use_lock()?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                let users = self.live_runs()?.into_iter().map(|run| format!("run {run}")).collect::<Vec<_>>();
                let users = if users.is_empty() { vec!["another process".to_owned()] } else { users };
                Err(StoreError::InUse { root: self.root().to_owned(), users })
            }
            Err(TryLockError::Error(source)) => Err(StoreError::NoLocks { path: self.layout.folder("locks"), source }),
        }
    }

    /// The file that runs share and `gc` wants for itself. It is never removed.
    fn use_lock(&self) -> Result<File> {
        let path = self.layout.folder("locks").join("store");
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).at("lock", &path)
    }

    fn in_use(&self, user: String) -> StoreError {
        StoreError::InUse { root: self.root().to_owned(), users: vec![user] }
    }

    fn key_lock(&self, key: &Digest) -> Utf8PathBuf {
        self.layout.folder("locks").join(key.to_string())
    }

    fn run_lock(&self, run: &str) -> Result<Utf8PathBuf> {
        check_name("run id", run)?;
        Ok(self.layout.folder("locks").join(format!("run-{run}")))
    }
}

/// A lock file that is ours.
#[derive(Debug)]
struct Held {
    path: Utf8PathBuf,
    // Closing the file releases the lock; fields drop after `drop` below has removed the name.
    _file: File,
}

impl Drop for Held {
    fn drop(&mut self) {
        // If the file cannot be removed, the lock is still released, and the next owner reuses the file.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn try_hold(path: &Utf8Path, owner: &str) -> Result<Option<Held>> {
    loop {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).at("lock", path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => return Err(StoreError::NoLocks { path: path.to_owned(), source }),
        }
        if !is_at(&file, path)? {
            continue;
        }
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(owner.as_bytes()));
        written.at("write", path)?;
        return Ok(Some(Held { path: path.to_owned(), _file: file }));
    }
}

/// Whether the open file is the one that the path names now.
fn is_at(file: &File, path: &Utf8Path) -> Result<bool> {
    let ours = file.metadata().at("lock", path)?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok(there.ino() == ours.ino() && there.dev() == ours.dev()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(StoreError::io("lock", path, e)),
    }
}

fn is_held(path: &Utf8Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The text of a lock file. The lock itself is not touched, so as not to be in the way of one who wants it.
fn owner(path: &Utf8Path) -> Option<String> {
    let mut text = String::new();
    // More than a line from a lock file is not from us.
    File::open(path).ok()?.take(1024).read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}
