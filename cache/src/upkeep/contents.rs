//! What lies in a store's folders, whether or not a record knows of it.

use std::collections::BTreeSet;
use std::io;

use camino::{Utf8DirEntry, Utf8Path, Utf8PathBuf};

use crate::digest::Digest;
use crate::error::{IoContext as _, Result, StoreError};
use crate::object::{ObjectKind, ObjectRef};
use crate::store::Store;

/// Something that a process left when it was killed, and that nothing uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// A file, or a folder with what is in it.
    pub path: Utf8PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

/// An object found in its folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    pub(super) kind: ObjectKind,
    pub(super) digest: Digest,
    pub(super) path: Utf8PathBuf,
}

impl Store {
    /// The objects that records name, sorted.
    pub(crate) fn referenced(&self) -> Result<BTreeSet<ObjectRef>> {
        self.database.with(|connection| {
            connection
                .prepare_cached("SELECT DISTINCT digest, type, bytes, files FROM artifacts")?
                .query_map([], |row| crate::database::object(row, 0))?
                .collect()
        })
    }

    /// The objects that are there, sorted; and temporary files of insertions that did not end.
    pub(super) fn found_objects(&self) -> Result<(Vec<Found>, Vec<Utf8PathBuf>)> {
        let mut found = Vec::new();
        let mut temporary = Vec::new();
        for (name, kind) in [("objects", ObjectKind::File), ("trees", ObjectKind::Tree)] {
            for fan in entries(&self.layout.folder(name))? {
                for entry in entries(fan.path())? {
                    let path = entry.path();
                    if entry.file_name().starts_with('.') {
                        temporary.push(path.to_owned());
                        continue;
                    }
                    let hex = format!("{}{}", fan.file_name(), entry.file_name().trim_end_matches(".json"));
                    let Ok(digest) = hex.parse::<Digest>() else { continue };
                    let is_listing = kind == ObjectKind::Tree && entry.file_name().ends_with(".json");
                    // A listing without its folder is half an object; one with it is no object of its own.
                    if is_listing && !path.with_extension("").is_dir() {
                        temporary.push(path.to_owned());
                    } else if !is_listing {
                        found.push(Found { kind, digest, path: path.to_owned() });
                    }
                }
            }
        }
        found.sort_unstable();
        temporary.sort_unstable();
        Ok((found, temporary))
    }

    /// What attempts of dead runs have left.
    pub(super) fn dead_attempts(&self) -> Result<Vec<Leftover>> {
        let mut left = Vec::new();
        for entry in entries(&self.attempts_dir())? {
            if !self.run_is_alive(entry.file_name()) {
                left.push(Leftover { path: entry.path().to_owned(), bytes: size_of(entry.path()) });
            }
        }
        left.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(left)
    }
}

/// The entries of a folder; none, if there is no such folder.
pub(super) fn entries(folder: &Utf8Path) -> Result<Vec<Utf8DirEntry>> {
    match folder.read_dir_utf8() {
        Ok(entries) => entries.collect::<io::Result<_>>().at("read", folder),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.kind() == io::ErrorKind::NotADirectory => Ok(Vec::new()),
        Err(e) => Err(StoreError::io("read", folder, e)),
    }
}

/// The size of a file, or of all files in a folder. What cannot be read, or goes away meanwhile, counts as nothing.
pub(super) fn size_of(path: &Utf8Path) -> u64 {
    let mut bytes = 0;
    let mut open = vec![path.to_owned().into_std_path_buf()];
    while let Some(path) = open.pop() {
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                open.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
            }
            Ok(metadata) => bytes += metadata.len(),
            Err(_) => {}
        }
    }
    bytes
}
