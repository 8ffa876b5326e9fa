//! Locks between processes, which a killed owner cannot keep.
//!
//! A lock is a file in `locks/` that its owner holds with `flock` and whose text says who that is. The system drops the
//! `flock` when the owner dies, however it dies, so there are no stale locks to be broken and no ages to be guessed.
//!
//! The file is removed when the lock is released. That is a race unless one looks again: between another process's
//! `open` and its `flock`, the file may have been removed, and a lock on a removed file excludes nobody who comes later.
//! So after locking, the file at the path must be the very file that was locked (same inode); otherwise one starts over.
//! The owner removes the file *before* it lets go, so whoever gets the old file's lock sees that it is gone.
//!
//! A run has a file of its own. The keys that a store locks are further names of one file that it holds: see [`anchor`].

mod anchor;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;

use camino::{Utf8Path, Utf8PathBuf};

use crate::digest::Digest;
use crate::error::{IoContext as _, Result, StoreError};
use crate::layout::{Layout, check_name};
use crate::store::Store;

pub(crate) use anchor::Anchors;

/// The right to compute one key, held until it is dropped (or its process ends).
#[derive(Debug)]
pub struct KeyLock {
    _held: HeldKey,
}

#[derive(Debug)]
enum HeldKey {
    Named(#[expect(dead_code, reason = "held until it is dropped")] anchor::Named),
    File(#[expect(dead_code, reason = "held until it is dropped")] Held),
}

/// The sign that a run is going on, held until it is dropped (or its process ends).
#[derive(Debug)]
pub struct RunLock {
    // Dropped in this order: first the run is over, then the store is free.
    _held: Held,
    _in_use: File,
}

impl Store {
    /// Takes the lock of a key, unless someone else has it (`None`). `owner` is text for people: process and run. A store
    /// says one for all the keys that it holds, that of the last call.
    ///
    /// # Errors
    /// [`StoreError::NoLocks`] where the file system has none.
    pub fn try_lock_key(&self, key: &Digest, owner: &str) -> Result<Option<KeyLock>> {
        let path = self.key_lock(key);
        self.writable("lock", &path)?;
        let held = match self.anchors.try_name(&path, owner)? {
            anchor::Tried::Held(named) => Some(HeldKey::Named(named)),
            anchor::Tried::Taken => None,
            anchor::Tried::NoLinks => try_hold(&path, owner)?.map(HeldKey::File),
        };
        if held.is_some() {
            // Whoever had it before may have committed what this process is about to compute.
            self.database.look_again();
        }
        Ok(held.map(|held| KeyLock { _held: held }))
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
        let in_use = use_lock(&self.layout)?;
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
        live_runs(&self.layout)
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

/// Excludes all runs while the returned file lives.
pub(crate) fn exclude_runs(layout: &Layout) -> Result<File> {
    let file = use_lock(layout)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let mut users: Vec<String> = live_runs(layout)?.into_iter().map(|run| format!("run {run}")).collect();
            if users.is_empty() {
                users.push("another process".to_owned());
            }
            Err(StoreError::InUse { root: layout.root.clone(), users })
        }
        Err(TryLockError::Error(source)) => Err(StoreError::NoLocks { path: layout.folder("locks"), source }),
    }
}

/// The file that runs share and that `gc` wants for itself. It is never removed.
fn use_lock(layout: &Layout) -> Result<File> {
    let path = layout.folder("locks").join("store");
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).at("lock", &path)
}

fn live_runs(layout: &Layout) -> Result<Vec<String>> {
    let folder = layout.folder("locks");
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

/// A lock file that is ours.
#[derive(Debug)]
struct Held {
    path: Utf8PathBuf,
    // Closing the file releases the lock; fields drop after `drop` below has removed the name.
    file: File,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Emptied first: ext4 takes milliseconds to let go of a removed file that has unwritten data and is still open.
        let _ = self.file.set_len(0);
        // If the file cannot be removed, the lock is still released, and the next owner reuses the file.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn try_hold(path: &Utf8Path, owner: &str) -> Result<Option<Held>> {
    loop {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).at("lock", path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => return Err(StoreError::NoLocks { path: path.to_owned(), source }),
        }
        if !is_at(&file, path)? {
            continue;
        }
        let mut held = Held { path: path.to_owned(), file };
        let file = &mut held.file;
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(owner.as_bytes()));
        written.at("write", path)?;
        return Ok(Some(held));
    }
}

/// Opens a lock file of somebody else's; `None` if it is gone.
fn open_if_there(path: &Utf8Path) -> Result<Option<File>> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).at("lock", path),
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::test_support::{Fixture, key};

    #[test]
    fn one_holds_it_and_says_who() {
        let f = Fixture::new();
        let (a, b) = (f.again(), f.again());
        let held = a.try_lock_key(&key("k"), "run 1, node train").unwrap().unwrap();
        assert!(b.try_lock_key(&key("k"), "run 2").unwrap().is_none());
        assert_eq!(b.lock_owner(&key("k")).as_deref(), Some("run 1, node train"));
        assert!(b.try_lock_key(&key("other"), "run 2").unwrap().is_some());
        drop(held);
        assert_eq!(b.lock_owner(&key("k")), None);
        assert!(b.try_lock_key(&key("k"), "run 2").unwrap().is_some());
        let left: Vec<_> = std::fs::read_dir(f.store.root().join("locks")).unwrap().collect();
        assert!(left.iter().all(|entry| !entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("k")));
    }

    #[test]
    fn a_file_without_an_owner_locks_nothing() {
        let f = Fixture::new();
        std::fs::write(f.store.key_lock(&key("k")), "a run that was killed, whose text was longer").unwrap();
        let held = f.store.try_lock_key(&key("k"), "me").unwrap().unwrap();
        assert_eq!(f.store.lock_owner(&key("k")).as_deref(), Some("me"));
        drop(held);
    }

    #[test]
    fn never_two_at_once_and_nothing_is_left() {
        let f = Fixture::new();
        let (inside, times) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let store = f.again();
                    let mut mine = 0;
                    while mine < 50 {
                        let Some(held) = store.try_lock_key(&key("k"), "x").unwrap() else {
                            std::thread::yield_now();
                            continue;
                        };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                        times.fetch_add(1, Ordering::SeqCst);
                        mine += 1;
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(times.into_inner(), 300);
        assert!(!f.store.key_lock(&key("k")).exists());
    }

    #[test]
    fn runs_live_as_long_as_their_lock() {
        let f = Fixture::new();
        assert!(!f.store.run_is_alive("r1"));
        let one = f.store.lock_run("r1").unwrap();
        let two = f.again().lock_run("r2").unwrap();
        assert_eq!(f.store.live_runs().unwrap(), ["r1", "r2"]);
        let error = f.again().lock_run("r1").unwrap_err();
        assert!(matches!(&error, StoreError::InUse { users, .. } if users[0].contains("r1")), "{error}");
        let error = exclude_runs(&f.store.layout).unwrap_err();
        assert!(error.to_string().contains("run r1, run r2"), "{error}");
        drop(one);
        assert!(!f.store.run_is_alive("r1") && f.store.run_is_alive("r2"));
        drop(two);
        let alone = exclude_runs(&f.store.layout).unwrap();
        assert!(matches!(f.store.lock_run("r3"), Err(StoreError::InUse { .. })));
        drop(alone);
        f.store.lock_run("r3").unwrap();
    }

    #[test]
    fn names_cannot_lead_elsewhere() {
        let f = Fixture::new();
        for name in ["../x", "", ".x", "a/b", "a b", "é"] {
            assert!(matches!(f.store.lock_run(name), Err(StoreError::BadName { .. })), "{name:?}");
            assert!(f.store.run_dir(name).is_err() && f.store.attempt_dir(name).is_err());
            assert!(!f.store.run_is_alive(name));
        }
    }
}
