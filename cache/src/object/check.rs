//! Whether an object is there, and whether it is what its name says.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use rayon::prelude::*;

use super::damage::{Damage, DamageKind};
use super::listing::Listing;
use super::place::unused;
use super::walk::walk;
use super::{ObjectKind, ObjectRef};
use crate::digest::Digest;
use crate::error::{IoContext as _, Result};
use crate::layout::unique_sibling;
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
        let path = self.object_path(object);
        match (object.kind, std::fs::symlink_metadata(&path)) {
            (ObjectKind::File, Ok(metadata)) => metadata.is_file() && metadata.len() == object.bytes,
            (ObjectKind::Tree, Ok(metadata)) if metadata.is_dir() => {
                if object.files > FEW_FILES {
                    return self.layout.listing(&object.digest).is_file();
                }
                self.listing(object).is_ok_and(|listing| {
                    listing.files.iter().all(|file| {
                        std::fs::symlink_metadata(path.join(&file.path))
                            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == file.bytes)
                    })
                })
            }
            _ => false,
        }
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
        fs_err::create_dir_all(&folder).at("make", &folder)?;
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
