//! Moving a finished file or folder to its place, never over something that is there.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::walk::walk;
use crate::error::{IoContext as _, Result, StoreError};
use crate::layout::unique_sibling;

/// How a move ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    /// It is in its place.
    Moved,
    /// Something is there already; nothing was changed.
    Occupied,
}

/// Moves `from` to `to`, making the folder that `to` is in if it is missing.
///
/// From another file system (the store's folder may be a link to one) it is copied beside its place, moved and then
/// removed: `to` appears whole there too. Like a file that was moved, it is synced with all others later.
pub(super) fn place(from: &Utf8Path, to: &Utf8Path) -> Result<Placed> {
    match rename_new(from, to) {
        Err(Errno::NOENT) => {
            let folder = to.parent().unwrap_or(to);
            std::fs::create_dir_all(folder).at("make", folder)?;
            finish(rename_new(from, to), from, to)
        }
        other => finish(other, from, to),
    }
}

fn finish(renamed: Result<Placed, Errno>, from: &Utf8Path, to: &Utf8Path) -> Result<Placed> {
    match renamed {
        Ok(placed) => Ok(placed),
        Err(Errno::XDEV) => copy_over(from, to),
        Err(e) => Err(StoreError::io("move into the store", to, e.into())),
    }
}

fn rename_new(from: &Utf8Path, to: &Utf8Path) -> Result<Placed, Errno> {
    match renameat_with(CWD, from.as_std_path(), CWD, to.as_std_path(), RenameFlags::NOREPLACE) {
        Ok(()) => Ok(Placed::Moved),
        Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(Placed::Occupied),
        // File systems without the flag (NFS, some FUSE): look first. Should another process place the same object
        // between the two calls, a file is replaced by one with the same bytes, and a folder is refused.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            if to.as_std_path().symlink_metadata().is_ok() {
                return Ok(Placed::Occupied);
            }
            match rustix::fs::rename(from.as_std_path(), to.as_std_path()) {
                Ok(()) => Ok(Placed::Moved),
                Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(Placed::Occupied),
                Err(e) => Err(e),
            }
        }
        Err(e) => Err(e),
    }
}

fn copy_over(from: &Utf8Path, to: &Utf8Path) -> Result<Placed> {
    if to.as_std_path().symlink_metadata().is_ok() {
        return Ok(Placed::Occupied);
    }
    let incoming = unique_sibling(to);
    let copied = copy(from, &incoming).and_then(|()| match rename_new(&incoming, to) {
        Ok(placed) => Ok(placed),
        Err(e) => Err(StoreError::io("move into the store", to, e.into())),
    });
    if !matches!(copied, Ok(Placed::Moved)) {
        // Best effort: a leftover copy counts as nothing, and `gc` removes it.
        let _ = remove(&incoming);
    }
    if matches!(copied, Ok(Placed::Moved)) {
        remove(from)?;
    }
    copied
}

/// Copies a file or a folder, modes included.
pub(crate) fn copy(from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    let metadata = std::fs::symlink_metadata(from).at("read", from)?;
    if metadata.is_file() {
        return copy_file(from, to);
    }
    let walked = walk(from)?;
    std::fs::create_dir(to).at("make", to)?;
    for folder in &walked.folders {
        let path = to.join(folder);
        std::fs::create_dir(&path).at("make", &path)?;
    }
    for file in &walked.files {
        copy_file(&from.join(file), &to.join(file))?;
    }
    Ok(())
}

fn copy_file(from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    // In the kernel where it can (copy_file_range).
    std::fs::copy(from, to).at("copy into the store", to)?;
    Ok(())
}

/// Removes a file or a folder with everything in it; that there is none is fine.
pub(crate) fn remove(path: &Utf8Path) -> Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// A path under `folder` that is not used yet: `name`, `name.1`, `name.2` ...
pub(crate) fn unused(folder: &Utf8Path, name: &str) -> Utf8PathBuf {
    let mut path = folder.join(name);
    let mut count = 0u32;
    while path.as_std_path().symlink_metadata().is_ok() {
        count += 1;
        path = folder.join(format!("{name}.{count}"));
    }
    path
}
