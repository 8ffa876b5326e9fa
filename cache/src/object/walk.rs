//! What is in a folder, refusing what an object cannot hold.

use std::ffi::OsStr;
use std::fs::FileType;
use std::io;
use std::os::unix::fs::FileTypeExt as _;

use camino::{Utf8Path, Utf8PathBuf};

use crate::error::{IoContext as _, Result, StoreError};

/// The contents of a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Walked {
    /// Relative paths of the files, sorted.
    pub(crate) files: Vec<String>,
    /// Relative paths of folders with nothing in them, sorted.
    pub(crate) empty_folders: Vec<String>,
    /// Relative paths of all folders below the top, parents first.
    pub(crate) folders: Vec<String>,
}

/// Lists a folder with everything below it. Iterative: a deep folder needs no deep stack.
pub(crate) fn walk(top: &Utf8Path) -> Result<Walked> {
    let mut found = Walked::default();
    let mut open = vec![String::new()];
    while let Some(folder) = open.pop() {
        let path = if folder.is_empty() { top.to_owned() } else { top.join(&folder) };
        let mut empty = true;
        for entry in std::fs::read_dir(&path).at("read", &path)? {
            let entry = entry.at("read", &path)?;
            empty = false;
            let name = utf8_name(&path, &entry.file_name())?;
            let kind = entry.file_type().at("read", &path)?;
            let relative = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if kind.is_dir() {
                found.folders.push(relative.clone());
                open.push(relative);
            } else if kind.is_file() {
                found.files.push(relative);
            } else {
                return Err(unsupported(&top.join(relative), kind));
            }
        }
        if empty && !folder.is_empty() {
            found.empty_folders.push(folder);
        }
    }
    found.files.sort_unstable();
    found.empty_folders.sort_unstable();
    Ok(found)
}

/// What `path` is, refusing what cannot be kept. A symbolic link is not followed.
pub(crate) fn plain_metadata(path: &Utf8Path) -> Result<std::fs::Metadata> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() || metadata.is_dir() => Ok(metadata),
        Ok(metadata) => Err(unsupported(path, metadata.file_type())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(StoreError::OutputMissing { path: path.to_owned() }),
        Err(e) => Err(StoreError::io("read", path, e)),
    }
}

fn utf8_name(folder: &Utf8Path, name: &OsStr) -> Result<String> {
    name.to_str().map(str::to_owned).ok_or_else(|| StoreError::UnsupportedOutput {
        path: Utf8PathBuf::from(folder).join(name.to_string_lossy().as_ref()).into_string(),
        what: "a name that is not UTF-8",
    })
}

fn unsupported(path: &Utf8Path, kind: FileType) -> StoreError {
    let what = if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a named pipe"
    } else {
        "a device"
    };
    StoreError::UnsupportedOutput { path: path.to_string(), what }
}
