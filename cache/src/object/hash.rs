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
    /// Files that have a second name somewhere, which must be copied (relative paths; empty for the output itself).
    pub(crate) shared: Vec<String>,
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
    let (digest, bytes, shared) = hash_one(path)?;
    let object = ObjectRef { digest, kind: ObjectKind::File, bytes, files: 1 };
    Ok(HashedOutput { object, listing: None, shared: if shared { vec![String::new()] } else { Vec::new() } })
}

fn hash_tree(path: &Utf8Path) -> Result<HashedOutput> {
    let walked = walk(path)?;
    let hashed = walked
        .files
        .into_par_iter()
        .map(|name| {
            let (digest, bytes, shared) = hash_one(&path.join(&name))?;
            Ok((ListedFile { path: name, bytes, digest }, shared))
        })
        .collect::<Result<Vec<_>>>()?;
    let shared = hashed.iter().filter(|(_, shared)| *shared).map(|(file, _)| file.path.clone()).collect();
    let files = hashed.into_iter().map(|(file, _)| file).collect();
    let listing = Listing { files, empty_folders: walked.empty_folders };
    let object = ObjectRef {
        digest: listing.digest(),
        kind: ObjectKind::Tree,
        bytes: listing.bytes(),
        files: listing.files.len() as u64,
    };
    Ok(HashedOutput { object, listing: Some(listing), shared })
}

/// Digest and size of a file, and whether it has a second name.
fn hash_one(path: &Utf8Path) -> Result<(Digest, u64, bool)> {
    let file = File::open(path).at("read", path)?;
    let shared = file.metadata().at("read", path)?.nlink() > 1;
    let (digest, bytes) = Digest::of_open_file(file, path)?;
    Ok((digest, bytes, shared))
}
