//! Outputs, kept by their content.
//!
//! # What an object is
//!
//! A **file object** is one file, named by the plain blake3 of its bytes (`objects/ab/<62 hex>`): `b3sum` checks it, and
//! the name is the same wherever the bytes came from.
//!
//! A **tree object** is a folder that a stage wrote, moved as a whole to `trees/ab/<62 hex>/`, with its canonical
//! [`Listing`] (relative path, size and blake3 of each file, sorted) beside it as `trees/ab/<62 hex>.json`. Its digest is
//! the digest of the listing, in a domain of its own, so the same files in the same places are the same object whatever
//! the order in which they were written. Trees are neither packed nor taken apart into one object a file: moving a
//! folder is one `rename`, 7 us whatever it holds, where copying 10,000 small files takes seconds; consumers use the
//! folder in place, with no unpacking; and a person finds there what the stage wrote. The price is that two trees that
//! share files keep them twice.
//!
//! # Invariants
//!
//! 1. *Immutable.* Files of objects are read-only and nothing in this crate writes to one. Folders stay writable, so that
//!    `rm -r .sepia` works; a file that was added to a tree is noticed by [`Store::verify_object`].
//! 2. *Whole or absent.* An object appears by a `rename` of a complete file or folder, never by writing in place. A
//!    tree's listing is placed before its folder: a folder without a listing does not occur.
//! 3. *Referenced means durable.* A record that names an object is written only after [`Store::sync_pending`], which
//!    [`Store::commit`] calls itself: files, listings and the folders that name them are on the disk by then.
//! 4. *Owned.* An output that has a second name elsewhere (a hard link) could be changed through it, so it is copied; all
//!    others are moved, and a byte is never copied. An object may have a second name on a remote, which is read-only too
//!    (`remote/links.rs`): so nothing may change bytes, size or mode of an object in place.
//! 5. *Only plain things.* Symbolic links, sockets, devices and names that are not UTF-8 are refused, since they could not
//!    be carried to another machine or would point out of the object.
//!
//! # What a crash leaves, step by step
//!
//! | the process dies | what is there | what the next run does |
//! |---|---|---|
//! | before or while hashing | the output in its attempt's folder | runs the stage again; the attempt's folder is a leftover |
//! | after making it read-only | the same | the same |
//! | between a tree's listing and its folder | a listing without a folder: not present | runs the stage again, places both |
//! | after the rename, before the sync | an object that no record names; after a loss of power its bytes may be wrong | when the same output comes again, the object in place is hashed before it is believed, and replaced if it is wrong |
//! | after the sync, before the record | a good object that no record names | the same; `gc` removes it if it never comes again |
//! | while the record is appended | a torn last line, which readers ignore | runs the stage again |
//! | after the record, before the database | a record that the database does not show | opening the store finds that the run died ([`Store::start_run`] wrote down that it began) and reads the rest of its journal |
//! | after the database | everything | takes it from the cache |
//!
//! Two processes may insert the same object at once: `renameat2(RENAME_NOREPLACE)` lets one of them win; the other finds
//! the object there, checks it and drops its own copy.
//!
//! The tests walk through every one of these points: [`crate::crash_point`] stops the code there as a kill would.

mod check;
mod damage;
mod hash;
mod insert;
mod listing;
mod place;
mod sync;
mod walk;

use serde::{Deserialize, Serialize};

pub use damage::{Damage, DamageKind};
pub(crate) use hash::FileStat;
pub use hash::{HashedOutput, hash_output};
pub(crate) use listing::is_inside;
pub use listing::{ListedFile, Listing};
pub(crate) use place::{copy, remove, unused};
pub(crate) use sync::Pending;
pub(crate) use walk::walk;

use crate::digest::Digest;
#[cfg(doc)]
use crate::store::Store;

/// What an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// One file.
    File,
    /// A folder with what is in it.
    Tree,
}

impl ObjectKind {
    /// As it is written in the database: `file` or `tree`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Tree => "tree",
        }
    }
}

/// The name of an object, with what one wants to know without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// blake3 of the bytes (file) or of the listing (tree).
    pub digest: Digest,
    /// File or folder.
    pub kind: ObjectKind,
    /// Size of all its files, in bytes.
    pub bytes: u64,
    /// How many files it holds; 1 for a file.
    pub files: u64,
}
