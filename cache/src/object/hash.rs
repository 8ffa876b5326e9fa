//! Hashing an output, before it moves.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;

use camino::Utf8Path;
use rayon::prelude::*;

use super::listing::{ListedFile, Listing};
use super::walk::{plain_metadata, walk};
use super::{ObjectKind, ObjectRef};
use crate::digest::Digest;
use crate::error::{IoContext as _, Result};

/// An output whose content is known: what [`Store::insert`](crate::Store::insert) needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedOutput {
    /// The object it will be.
    pub object: ObjectRef,
    /// The listing, if it is a folder.
    pub listing: Option<Listing>,
    /// What the file system says of each file, in the order of the listing.
    pub(crate) stats: Vec<FileStat>,
}

/// What matters of a file beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStat {
    /// It has a second name somewhere, through which it could be changed: it must be copied.
    pub(crate) shared: bool,
    /// Its permissions.
    pub(crate) mode: u32,
}

/// Hashes a file or a folder, the files of a folder in parallel.
///
/// # Errors
/// [`StoreError::OutputMissing`](crate::StoreError::OutputMissing) and
/// [`StoreError::UnsupportedOutput`](crate::StoreError::UnsupportedOutput), beside those of reading.
pub fn hash_output(path: &Utf8Path) -> Result<HashedOutput> {
    if plain_metadata(path)?.is_dir() { hash_tree(path) } else { hash_file(path) }
}

fn hash_file(path: &Utf8Path) -> Result<HashedOutput> {
    let (digest, bytes, stat) = hash_one(path)?;
    let object = ObjectRef { digest, kind: ObjectKind::File, bytes, files: 1 };
    Ok(HashedOutput { object, listing: None, stats: vec![stat] })
}

fn hash_tree(path: &Utf8Path) -> Result<HashedOutput> {
    let walked = walk(path)?;
    let (files, stats) = walked
        .files
        .into_par_iter()
        .map(|name| {
            let (digest, bytes, stat) = hash_one(&path.join(&name))?;
            Ok((ListedFile { path: name, bytes, digest }, stat))
        })
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .unzip();
    let listing = Listing { files, empty_folders: walked.empty_folders };
    let object = ObjectRef {
        digest: listing.digest(),
        kind: ObjectKind::Tree,
        bytes: listing.bytes(),
        files: listing.files.len() as u64,
    };
    Ok(HashedOutput { object, listing: Some(listing), stats })
}

fn hash_one(path: &Utf8Path) -> Result<(Digest, u64, FileStat)> {
    let file = File::open(path).at("read", path)?;
    let metadata = file.metadata().at("read", path)?;
    let stat = FileStat { shared: metadata.nlink() > 1, mode: metadata.mode() };
    let (digest, bytes) = Digest::of_open_file(&file, metadata.len(), path)?;
    Ok((digest, bytes, stat))
}
