//! Taking an output into the store. The steps and what a crash leaves between them: see the head of [`super`].

use std::os::unix::fs::PermissionsExt;

use camino::Utf8Path;
use rayon::prelude::*;

use super::hash::HashedOutput;
use super::place::{Placed, copy_synced, place, remove};
use super::walk::{Walked, plain_metadata, walk};
use super::{ObjectKind, ObjectRef};
use crate::crash_point;
use crate::error::{IoContext as _, Result, StoreError};
use crate::layout::{unique_sibling, write_atomically};
use crate::store::Store;

impl Store {
    /// Moves an output into the store under the content it was hashed to, and makes it read-only.
    ///
    /// The object can be used at once; it is on the disk for certain after [`Store::sync_pending`]. If the store has
    /// the object already, that one is hashed: it stays if it is good and is replaced if it is not.
    ///
    /// # Errors
    /// [`StoreError::OutputChanged`] if the output is plainly not what was hashed; those of moving.
    pub fn insert(&self, path: &Utf8Path, output: &HashedOutput) -> Result<ObjectRef> {
        self.writable("move into", path)?;
        let object = output.object;
        match (&output.listing, object.kind) {
            (Some(listing), ObjectKind::Tree) => {
                let walked = walk(path)?;
                let same = walked.files.iter().eq(listing.files.iter().map(|file| &file.path))
                    && walked.empty_folders == listing.empty_folders;
                if !same {
                    return Err(StoreError::OutputChanged { path: path.to_owned() });
                }
                unshare(path, output)?;
                walked.files.par_iter().try_for_each(|file| make_read_only(&path.join(file)))?;
                self.insert_tree(path, &object, &listing.canonical(), &walked)?;
            }
            _ => {
                let metadata = plain_metadata(path)?;
                if !metadata.is_file() || metadata.len() != object.bytes {
                    return Err(StoreError::OutputChanged { path: path.to_owned() });
                }
                unshare(path, output)?;
                make_read_only(path)?;
                self.insert_file(path, &object)?;
            }
        }
        Ok(object)
    }

    fn insert_file(&self, path: &Utf8Path, object: &ObjectRef) -> Result<()> {
        let target = self.object_path(object);
        crash_point::reached("place file")?;
        if place(path, &target)? == Placed::Occupied {
            if self.verify_object(object).is_ok() {
                remove(path)?;
            } else {
                self.set_aside(object)?;
                crash_point::reached("replace damaged file")?;
                if place(path, &target)? == Placed::Occupied {
                    // Another process healed it meanwhile.
                    remove(path)?;
                }
            }
        }
        crash_point::reached("file placed")?;
        self.pending().file(&target);
        Ok(())
    }

    fn insert_tree(&self, path: &Utf8Path, object: &ObjectRef, listing: &[u8], walked: &Walked) -> Result<()> {
        let target = self.object_path(object);
        let listing_path = self.layout.listing(&object.digest);
        let fan = listing_path.parent().unwrap_or(&listing_path);
        crash_point::reached("place listing")?;
        if std::fs::read(&listing_path).ok().as_deref() != Some(listing) {
            fs_err::create_dir_all(fan).at("make", fan)?;
            write_atomically(&listing_path, listing)?;
        }
        crash_point::reached("place tree")?;
        if place(path, &target)? == Placed::Occupied {
            if self.verify_object(object).is_ok() {
                remove(path)?;
            } else {
                self.set_aside(object)?;
                crash_point::reached("replace damaged tree")?;
                write_atomically(&listing_path, listing)?;
                if place(path, &target)? == Placed::Occupied {
                    remove(path)?;
                }
            }
        }
        crash_point::reached("tree placed")?;
        let mut pending = self.pending();
        pending.file(&listing_path);
        pending.tree(&target, walked);
        Ok(())
    }
}

/// Gives every file that has a second name a body of its own.
fn unshare(path: &Utf8Path, output: &HashedOutput) -> Result<()> {
    output.shared.par_iter().try_for_each(|name| {
        let file = if name.is_empty() { path.to_owned() } else { path.join(name) };
        let copy = unique_sibling(&file);
        copy_synced(&file, &copy)?;
        std::fs::rename(&copy, &file).at("copy", &file)
    })
}

fn make_read_only(path: &Utf8Path) -> Result<()> {
    let metadata = std::fs::symlink_metadata(path).at("read", path)?;
    let mode = metadata.permissions().mode();
    if mode & 0o222 == 0 && mode & 0o444 == 0o444 {
        return Ok(());
    }
    let mode = (mode & !0o222) | 0o444;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).at("make read-only", path)
}
