//! Whether an object is there, and whether it is what its name says.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use rayon::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Stat, statat};

use super::damage::{Damage, DamageKind};
use super::listing::Listing;
use super::place::unused;
use super::walk::walk;
use super::{ObjectKind, ObjectRef};
use crate::digest::Digest;
use crate::error::{IoContext as _, Result};
use crate::layout::{Layout, unique_sibling};
use crate::store::Store;

/// Up to this many files, [`Store::present`] looks at each of a tree.
const FEW_FILES: u64 = 64;

impl Store {
    /// Where the object lies, or would lie: a file, or a folder to be used in place.
    #[must_use]
    pub fn object_path(&self, object: &ObjectRef) -> Utf8PathBuf {
        self.layout.object(object)
    }

    /// Whether the object seems to be there: its name and its size (for a tree of up to 64 files, those of each file).
    /// Costs a `stat`; says nothing of the bytes.
    #[must_use]
    pub fn present(&self, object: &ObjectRef) -> bool {
        // Asked from the folder of its kind, which is held open: a path from the root takes twice as long to walk.
        let Some(folder) = self.objects_folder(object.kind) else { return false };
        let found = statat(folder, Layout::in_objects(&object.digest), AtFlags::SYMLINK_NOFOLLOW);
        match (object.kind, found) {
            (ObjectKind::File, Ok(stat)) => is_file(&stat, object.bytes),
            (ObjectKind::Tree, Ok(stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                if object.files > FEW_FILES {
                    return self.layout.listing(&object.digest).is_file();
                }
                let path = self.object_path(object);
                self.listing(object).is_ok_and(|listing| {
                    listing.files.iter().all(|file| {
                        statat(CWD, path.join(&file.path).as_std_path(), AtFlags::SYMLINK_NOFOLLOW)
                            .is_ok_and(|stat| is_file(&stat, file.bytes))
                    })
                })
            }
            _ => false,
        }
    }

    /// [`Store::present`] for many objects, on all threads.
    #[must_use]
    pub fn present_all(&self, objects: &[ObjectRef]) -> Vec<bool> {
        objects.par_iter().with_min_len(64).map(|object| self.present(object)).collect()
    }

    /// The listing of a tree object.
    ///
    /// # Errors
    /// The listing is missing or not the one that the digest names.
    pub fn listing(&self, object: &ObjectRef) -> Result<Listing, Damage> {
        let path = self.layout.listing(&object.digest);
        let damage = |kind| Damage { object: *object, path: path.clone(), kind };
        let bytes = std::fs::read(&path).map_err(|e| damage(unreadable(&e)))?;
        Listing::parse(&bytes, &object.digest).ok_or_else(|| damage(DamageKind::Changed))
    }

    /// Reads and hashes all of the object.
    ///
    /// # Errors
    /// The first thing that is wrong, with the file it is wrong with.
    pub fn verify_object(&self, object: &ObjectRef) -> Result<(), Damage> {
        let path = self.object_path(object);
        match object.kind {
            ObjectKind::File => verify_file(object, &path, object.bytes, &object.digest),
            ObjectKind::Tree => {
                let damage = |path: &Utf8Path, kind| Damage { object: *object, path: path.to_owned(), kind };
                match std::fs::symlink_metadata(&path) {
                    Err(e) => return Err(damage(&path, unreadable(&e))),
                    Ok(metadata) if !metadata.is_dir() => return Err(damage(&path, DamageKind::WrongKind)),
                    Ok(_) => {}
                }
                let listing = self.listing(object)?;
                let walked = walk(&path).map_err(|e| damage(&path, DamageKind::Unreadable(e.to_string())))?;
                let extra = walked
                    .files
                    .iter()
                    .find(|name| listing.files.binary_search_by(|file| file.path.as_str().cmp(name)).is_err());
                if let Some(extra) = extra {
                    return Err(damage(&path.join(extra), DamageKind::Extra));
                }
                // In order, so that the first damage is the same however many threads look.
                let checked: Vec<Result<(), Damage>> = listing
                    .files
                    .par_iter()
                    .map(|file| verify_file(object, &path.join(&file.path), file.bytes, &file.digest))
                    .collect();
                checked.into_iter().collect::<Result<(), Damage>>()?;
                if let Some(missing) = listing.empty_folders.iter().find(|name| !path.join(name).is_dir()) {
                    return Err(damage(&path.join(missing), DamageKind::Missing));
                }
                match walked.empty_folders.iter().find(|name| !listing.empty_folders.contains(name)) {
                    Some(extra) => Err(damage(&path.join(extra), DamageKind::Extra)),
                    None => Ok(()),
                }
            }
        }
    }

    /// Moves what is there of a damaged object to `damaged/`, so that a good one can take its place. Returns where it
    /// went; `None` if there was nothing.
    ///
    /// # Errors
    /// Those of moving.
    pub fn set_aside(&self, object: &ObjectRef) -> Result<Option<Utf8PathBuf>> {
        let path = self.object_path(object);
        self.writable("move aside", &path)?;
        let folder = self.layout.folder("damaged");
        std::fs::create_dir_all(&folder).at("make", &folder)?;
        if object.kind == ObjectKind::Tree {
            let listing = self.layout.listing(&object.digest);
            let aside = unused(&folder, &format!("{}.json", object.digest));
            rename_if_there(&listing, aside)?;
        }
        let aside = unused(&folder, &object.digest.to_string());
        rename_if_there(&path, aside)
    }
}

/// Moves a file or folder and says where to. On another file system it is only put under another name beside its old
/// one: a damaged copy is not worth copying.
fn rename_if_there(from: &Utf8Path, to: Utf8PathBuf) -> Result<Option<Utf8PathBuf>> {
    match std::fs::rename(from, &to) {
        Ok(()) => Ok(Some(to)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
            let beside = unique_sibling(from);
            std::fs::rename(from, &beside).at("move aside", from)?;
            Ok(Some(beside))
        }
        Err(e) => Err(e).at("move aside", from),
    }
}

fn is_file(stat: &Stat, bytes: u64) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && u64::try_from(stat.st_size) == Ok(bytes)
}

fn verify_file(object: &ObjectRef, path: &Utf8Path, bytes: u64, digest: &Digest) -> Result<(), Damage> {
    let damage = |kind| Damage { object: *object, path: path.to_owned(), kind };
    let metadata = std::fs::symlink_metadata(path).map_err(|e| damage(unreadable(&e)))?;
    if !metadata.is_file() {
        return Err(damage(DamageKind::WrongKind));
    }
    if metadata.len() != bytes {
        return Err(damage(DamageKind::Truncated { expected: bytes, found: metadata.len() }));
    }
    match Digest::of_file(path) {
        Ok(found) if found == *digest => Ok(()),
        Ok(_) => Err(damage(DamageKind::Changed)),
        Err(e) => Err(damage(DamageKind::Unreadable(e.to_string()))),
    }
}

fn unreadable(error: &io::Error) -> DamageKind {
    if error.kind() == io::ErrorKind::NotFound {
        DamageKind::Missing
    } else {
        DamageKind::Unreadable(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Fixture;

    /// Makes a file writable and gives it these bytes.
    fn overwrite(path: &Utf8Path, bytes: &[u8]) {
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn every_damage_to_a_file_is_named() {
        let f = Fixture::new();
        let object = f.object(b"weights");
        let path = f.store.object_path(&object);
        let kind = || f.store.verify_object(&object).unwrap_err().kind;
        overwrite(&path, b"weight!");
        assert_eq!(kind(), DamageKind::Changed);
        overwrite(&path, b"weig");
        assert_eq!(kind(), DamageKind::Truncated { expected: 7, found: 4 });
        assert!(!f.store.present(&object));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(kind(), DamageKind::Missing);
        std::fs::create_dir(&path).unwrap();
        assert_eq!(kind(), DamageKind::WrongKind);
        assert!(!f.store.present(&object));
        let message = f.store.verify_object(&object).unwrap_err().to_string();
        assert!(message.contains(path.as_str()) && message.contains("sepia cache verify"), "{message}");
    }

    #[test]
    fn every_damage_to_a_tree_is_named_with_its_file() {
        let f = Fixture::new();
        let files: &[(&str, &[u8])] = &[("a", b"one"), ("b/c", b"two"), ("e/", b"")];
        let make = || f.insert(&f.tree("out", files));
        let object = make();
        let path = f.store.object_path(&object);
        let found = || {
            let damage = f.store.verify_object(&object).unwrap_err();
            let name = damage.path.strip_prefix(&path).unwrap_or(&damage.path).to_string();
            // Good bytes take the place of the damaged ones.
            make();
            assert_eq!(f.store.verify_object(&object), Ok(()));
            (name, damage.kind)
        };
        overwrite(&path.join("b/c"), b"tow");
        assert_eq!(found(), ("b/c".into(), DamageKind::Changed));
        overwrite(&path.join("a"), b"");
        assert!(!f.store.present(&object));
        assert_eq!(found(), ("a".into(), DamageKind::Truncated { expected: 3, found: 0 }));
        std::fs::remove_file(path.join("a")).unwrap();
        assert_eq!(found(), ("a".into(), DamageKind::Missing));
        std::fs::write(path.join("b/d"), b"").unwrap();
        assert_eq!(found(), ("b/d".into(), DamageKind::Extra));
        std::fs::remove_dir(path.join("e")).unwrap();
        assert_eq!(found(), ("e".into(), DamageKind::Missing));
        std::fs::create_dir(path.join("g")).unwrap();
        assert_eq!(found(), ("g".into(), DamageKind::Extra));
        let listing = f.store.layout.listing(&object.digest);
        std::fs::write(&listing, b"{}").unwrap();
        assert!(!f.store.present(&object));
        assert_eq!(found(), (listing.to_string(), DamageKind::Changed));
        std::fs::remove_file(&listing).unwrap();
        assert_eq!(found(), (listing.to_string(), DamageKind::Missing));
        std::fs::remove_dir_all(&path).unwrap();
        assert!(!f.store.present(&object));
        assert_eq!(f.store.verify_object(&object).unwrap_err().kind, DamageKind::Missing);
    }

    #[test]
    fn setting_aside_keeps_the_bytes() {
        let f = Fixture::new();
        let object = f.object(b"x");
        let aside = f.store.set_aside(&object).unwrap().unwrap();
        assert_eq!(std::fs::read(aside).unwrap(), b"x");
        assert!(!f.store.present(&object));
        assert_eq!(f.store.set_aside(&object).unwrap(), None);
        let other = f.object(b"y");
        assert_eq!(f.store.present_all(&[object, other]), [false, true]);
        f.object(b"x");
        let second = f.store.set_aside(&object).unwrap().unwrap();
        assert!(second.as_str().ends_with(".1"), "{second}");
    }
}
