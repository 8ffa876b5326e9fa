//! One file for all the keys that a store locks.
//!
//! A store holds one file, its anchor, with `flock`, and a key that it locks becomes a further name (a hard link) of that
//! file. Whoever else wants the key finds the name taken, opens it, and learns from the `flock` whether its owner lives. A
//! file for each key did the same, but making, filling and removing a file costs several times as much as a name does, and
//! ext4 without a journal takes the longer to make a file the more were removed in the last minute: every stage of a large
//! run would pay for those before it.
//!
//! A name is removed only by who holds the `flock` of the file that it stands for: by its owner, or, once that is dead, by
//! one who has taken the `flock` and then seen that the name still stands for that file. So no living owner's name is lost.
//!
//! File systems without hard links keep a file for each key ([`Tried::NoLinks`]); both ways understand each other.

use std::fs::{DirEntry, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirEntryExt as _, FileExt as _, MetadataExt as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::io::Errno;

use super::{is_at, open_if_there};
use crate::error::{IoContext as _, Result, StoreError};
use crate::layout::unique_sibling;

/// How the names of anchors begin.
const PREFIX: &str = ".holder.";

/// The anchor of a store, made with its first lock.
#[derive(Debug, Default)]
pub(crate) struct Anchors(Mutex<Option<Arc<Anchor>>>);

/// A file that this process holds.
#[derive(Debug)]
struct Anchor {
    path: Utf8PathBuf,
    file: File,
    owner: Mutex<String>,
}

/// A name of an anchor, given up when it is dropped.
#[derive(Debug)]
pub(super) struct Named {
    path: Utf8PathBuf,
    _anchor: Arc<Anchor>,
}

/// What came of trying to take a name.
pub(super) enum Tried {
    Held(Named),
    /// Somebody alive has it.
    Taken,
    /// There are no hard links here.
    NoLinks,
}

impl Anchors {
    /// Takes the name `path`, in the folder of locks.
    pub(super) fn try_name(&self, path: &Utf8Path, owner: &str) -> Result<Tried> {
        loop {
            let anchor = self.anchor(path)?;
            anchor.say(owner)?;
            match rustix::fs::link(anchor.path.as_std_path(), path.as_std_path()) {
                Ok(()) => return Ok(Tried::Held(Named { path: path.to_owned(), _anchor: anchor })),
                Err(Errno::EXIST) => {
                    if !remove_if_dead(path)? {
                        return Ok(Tried::Taken);
                    }
                }
                // Somebody has cleaned the folder.
                Err(Errno::NOENT) if !anchor.path.exists() => *self.anchor_of_store() = None,
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => return Ok(Tried::NoLinks),
                Err(error) => return Err(StoreError::io("lock", path, error.into())),
            }
        }
    }

    fn anchor(&self, beside: &Utf8Path) -> Result<Arc<Anchor>> {
        let mut anchor = self.anchor_of_store();
        if let Some(anchor) = &*anchor {
            return Ok(Arc::clone(anchor));
        }
        let folder = beside.parent().unwrap_or(beside);
        remove_dead(folder)?;
        Ok(Arc::clone(anchor.insert(Arc::new(Anchor::make(folder)?))))
    }

    fn anchor_of_store(&self) -> MutexGuard<'_, Option<Arc<Anchor>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Anchor {
    fn make(folder: &Utf8Path) -> Result<Self> {
        loop {
            let path = unique_sibling(&folder.join("holder"));
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).at("lock", &path)?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path)? => return Ok(Self { path, file, owner: Mutex::default() }),
                // Who removes the anchors of the dead took it for one.
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => return Err(StoreError::NoLocks { path, source }),
            }
        }
    }

    /// Writes down who holds it, if that has changed.
    fn say(&self, owner: &str) -> Result<()> {
        let mut said = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != owner {
            let written = self.file.set_len(0).and_then(|()| self.file.write_all_at(owner.as_bytes(), 0));
            written.at("write", &self.path)?;
            owner.clone_into(&mut said);
        }
        Ok(())
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        // Before the `flock` goes with the file. A name that stays is removed as that of somebody dead.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // If the name cannot be removed, it is free once this process ends.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether the name is free now: there is none, or there was one of somebody dead.
fn remove_if_dead(path: &Utf8Path) -> Result<bool> {
    let Some(file) = open_if_there(path)? else { return Ok(true) };
    match file.try_lock() {
        // Nobody else may remove it while this `flock` is held.
        Ok(()) if is_at(&file, path)? => std::fs::remove_file(path).at("lock", path).map(|()| true),
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => Err(StoreError::NoLocks { path: path.to_owned(), source }),
    }
}

/// Removes the anchors of killed processes, with all their names.
fn remove_dead(folder: &Utf8Path) -> Result<()> {
    let entries: Vec<DirEntry> =
        std::fs::read_dir(folder).and_then(Iterator::collect::<io::Result<_>>).at("read", folder)?;
    let path_of = |entry: &DirEntry| folder.join(entry.file_name().to_string_lossy().as_ref());
    for anchor in entries.iter().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let path = path_of(anchor);
        // Somebody else's that cannot be opened is left alone.
        let Ok(Some(file)) = open_if_there(&path) else { continue };
        if file.try_lock().is_err() || !is_at(&file, &path)? {
            continue;
        }
        let inode = file.metadata().at("lock", &path)?.ino();
        for name in entries.iter().filter(|entry| entry.ino() == inode).map(path_of).filter(|name| *name != path) {
            if is_at(&file, &name)? {
                let _ = std::fs::remove_file(name);
            }
        }
        // Last: as long as it is there, this can be done again.
        let _ = std::fs::remove_file(&path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use crate::test_support::{Fixture, key};

    fn names(f: &Fixture) -> Vec<String> {
        let folder = f.store.root().join("locks");
        let mut names: Vec<_> =
            folder.read_dir_utf8().unwrap().map(|entry| entry.unwrap().file_name().to_owned()).collect();
        // What stores leave there for good.
        names.retain(|name| name != "store" && name != "database");
        names.sort();
        names
    }

    #[test]
    fn locks_are_names_of_one_file_and_go_with_it() {
        let mut f = Fixture::new();
        let first = f.store.try_lock_key(&key("a"), "me").unwrap().unwrap();
        let second = f.store.try_lock_key(&key("b"), "me").unwrap().unwrap();
        let inode = |k| std::fs::metadata(f.store.root().join("locks").join(key(k).to_string())).unwrap().ino();
        assert_eq!(inode("a"), inode("b"));
        assert_eq!(names(&f).len(), 3);
        drop((first, second));
        f.reopen(|_| ());
        assert_eq!(names(&f), Vec::<String>::new());
    }

    #[test]
    fn what_a_killed_process_leaves_is_free_and_goes() {
        let f = Fixture::new();
        let locks = f.store.root().join("locks");
        let left = locks.join(".holder.1-2-3");
        std::fs::write(&left, "a run that was killed").unwrap();
        for name in ["a", "b"] {
            std::fs::hard_link(&left, locks.join(key(name).to_string())).unwrap();
        }
        // One whose anchor is gone already, and one that was a file of its own.
        std::fs::write(locks.join(key("c").to_string()), "another").unwrap();
        let _held = f.store.try_lock_key(&key("a"), "me").unwrap().unwrap();
        assert!(!left.exists() && !locks.join(key("b").to_string()).exists());
        let _held = ["b", "c"].map(|name| f.store.try_lock_key(&key(name), "me").unwrap().unwrap());
        assert_eq!(f.again().lock_owner(&key("c")).as_deref(), Some("me"));
    }

    #[test]
    fn a_living_owner_keeps_its_names() {
        let f = Fixture::new();
        let _held = f.store.try_lock_key(&key("a"), "me").unwrap().unwrap();
        let other = f.again();
        let _mine = other.try_lock_key(&key("b"), "you").unwrap().unwrap();
        assert!(other.try_lock_key(&key("a"), "you").unwrap().is_none());
        assert!(f.store.try_lock_key(&key("a"), "me").unwrap().is_none(), "nor twice by the same");
        assert_eq!(other.lock_owner(&key("a")).as_deref(), Some("me"));
    }

    #[test]
    fn a_file_for_a_key_is_respected() {
        // As file systems without hard links have it.
        let f = Fixture::new();
        let path = f.store.root().join("locks").join(key("a").to_string());
        let held = super::super::try_hold(&path, "by a file").unwrap().unwrap();
        assert!(f.store.try_lock_key(&key("a"), "me").unwrap().is_none());
        assert_eq!(f.store.lock_owner(&key("a")).as_deref(), Some("by a file"));
        drop(held);
        let named = f.store.try_lock_key(&key("a"), "me").unwrap().unwrap();
        assert!(super::super::try_hold(&path, "by a file").unwrap().is_none());
        drop(named);
        assert!(super::super::try_hold(&path, "by a file").unwrap().is_some());
    }

    #[test]
    fn a_folder_that_somebody_cleaned_gets_a_new_anchor() {
        let f = Fixture::new();
        drop(f.store.try_lock_key(&key("a"), "me").unwrap().unwrap());
        for name in names(&f) {
            std::fs::remove_file(f.store.root().join("locks").join(name)).unwrap();
        }
        let _held = f.store.try_lock_key(&key("a"), "me").unwrap().unwrap();
        assert!(f.again().try_lock_key(&key("a"), "you").unwrap().is_none());
    }
}
