//! Records from elsewhere: checked one by one, then united with ours.
//!
//! Merging is set union by content. A record's id is the digest of all that is in it, so two stores that have the same
//! id have the same record, and nothing is ever overwritten: merging is idempotent, commutative and associative. Two
//! records with one key and different outputs are both kept ([`Store::divergences`] lists them).
//!
//! # Nothing is taken by half
//!
//! [`Staging`] checks every record and writes what is new to a hidden file beside the journals. Only when all of it was
//! good, the file becomes a journal (`records/import-<digest>.jsonl`, or `trusted-...` if its source is trusted as a
//! whole) and its rows are inserted, some hundred a transaction, so that runs that are going on get their turns. Whatever
//! is wrong with the source is found before anything is changed. A kill between the two leaves a journal whose records the
//! database does not have yet: merging again inserts them, and so does a rebuild.
//!
//! # What is not believed
//!
//! That ids fit, that names are names, that sizes are small, that a table is a table: a view of the same name could hold
//! anything, for ever. Names of runs become names of files here, so they are checked as such.

mod check;
mod divergence;
mod foreign;
mod source;
mod staging;
#[cfg(test)]
mod tests;

pub(crate) use check::check_length;
pub use divergence::{Divergence, Variant};
pub(crate) use foreign::Foreign;
pub(crate) use staging::{Staging, refused};

/// What a merge brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// Records that were new.
    pub records: u64,
    /// Records that were here already.
    pub known: u64,
    /// Records, and lines of a remote, that a newer Sepia wrote: left out.
    pub newer: u64,
    /// Runs that were new, or whose end was.
    pub runs: u64,
    /// Signatures that came along.
    pub signatures: u64,
    /// Tags of which something new was said (from a store or a remote; a database has none).
    pub tags: u64,
    /// Outputs that were copied (from a store; a database has none).
    pub objects: u64,
    /// Their size in bytes.
    pub object_bytes: u64,
}

#[cfg(doc)]
use crate::store::Store;
