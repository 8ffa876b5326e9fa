//! Places that hold objects and records for several people: folders, folders on other hosts ([`ssh`]), buckets (the
//! feature `s3`). What they must be able to do is in one trait.
//!
//! A remote is a flat set of names with bytes ([`Remote`]); everything on it is immutable and named by its content:
//!
//! ```text
//! sepia-remote.json                       what this is, and its id
//! objects/ab/<62 hex>[.zst]               a file object
//! trees/ab/<62 hex>.json                  the listing of a tree object ...
//! trees/ab/<62 hex>.pack[.zst]            ... and the bytes of its files, one after the other in the listing's order
//! records/<64 hex>-<bytes>.jsonl.zst      a bundle: records, signatures, runs, plans and tags of one push
//! ```
//!
//! So nothing needs locks, conditional writes or a server: two who push the same object write the same bytes, and each
//! push adds a bundle of its own, named by the digest of its text. What is on a remote is the union of its bundles. A
//! store that silently ignores conditional writes (there are some) does no harm. An upload becomes visible as a whole.
//!
//! Nothing that comes from a remote is believed before it has been hashed; see [`crate::transfer`].

mod address;
mod config;
mod folder;
mod links;
mod marker;
mod name;
mod partial;
mod probe;
mod promise;
#[cfg(feature = "s3")]
mod s3;
mod ssh;

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use camino::Utf8Path;

pub(crate) use config::folder_remote;
pub use config::{RemoteConfig, RemoteOptions};
pub use links::Links;
pub(crate) use links::object_mode;
pub(crate) use name::check_remote_name;
pub use probe::Probe;
pub(crate) use promise::WINDOW_LOG;
pub use ssh::{Way, serve};

use crate::error::{Result, StoreError};

/// A name on a remote, with its size.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// What a remote has to be able to do. Names are relative, with `/`; see [`check_remote_name`].
pub(crate) trait Remote: Send + Sync {
    /// For messages.
    fn address(&self) -> &str;
    /// Everything below a folder, in any order; nothing, if there is no such folder.
    fn list(&self, folder: &str) -> io::Result<Vec<Listed>>;
    /// The size of a name; `None` if there is none.
    fn size(&self, name: &str) -> io::Result<Option<u64>>;
    /// Writes the bytes from a position on to `to`; `NotFound` if there is no such name.
    fn read(&self, name: &str, from: u64, to: &mut dyn Write) -> io::Result<()>;
    /// Stores all that `from` gives. It is there as a whole or, if `from` fails, not at all. Takes the place of what was
    /// there.
    fn put(&self, name: &str, from: &mut dyn Read) -> io::Result<()>;
    /// Stores a small thing if there is nothing of the name; says whether it did. May be untruthful: nothing depends on
    /// it.
    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<bool>;
    /// Removes a name, if it is there.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns when what was put is durable.
    fn settle(&self) -> io::Result<()> {
        Ok(())
    }
    /// Whether bytes travel so slowly that compressing them pays.
    fn compresses(&self) -> bool {
        true
    }
    /// A name as a file that can be read anywhere and by several at once; `None` if the remote has no files.
    fn open_file(&self, name: &str) -> io::Result<Option<File>> {
        let _ = name;
        Ok(None)
    }
    /// [`Remote::put`] of what `fill` writes to a file, in which an earlier try may have left something; `false` if the remote
    /// has no files.
    fn put_file(&self, name: &str, fill: Fill<'_>) -> io::Result<bool> {
        let _ = (name, fill);
        Ok(false)
    }
    /// Which of several ways to it was found to work.
    fn way(&self) -> Option<Way> {
        None
    }
    /// Which way works to give files in the folder `ours` a name here as well, and files here one in it.
    fn links(&self, ours: &Utf8Path) -> Option<Links> {
        let _ = ours;
        None
    }
    /// Gives a file of ours a name here as well, if `check` likes what it is shown under a name that counts as nothing;
    /// `false` if it cannot be linked.
    fn link_in(&self, from: &Utf8Path, name: &str, how: Links, check: Check<'_>) -> io::Result<bool> {
        let _ = (from, name, how, check);
        Ok(false)
    }
    /// Gives what has a name here the name `to` as well, and returns its mode; `None` if it cannot be linked.
    fn link_out(&self, name: &str, to: &Utf8Path, how: Links) -> Option<u32> {
        let _ = (name, to, how);
        None
    }
}

/// Says whether a file is what it should be.
pub(crate) type Check<'c> = &'c dyn Fn(&Utf8Path) -> io::Result<()>;

/// Writes all of a file.
pub(crate) type Fill<'f> = &'f dyn Fn(&File) -> io::Result<()>;

/// A remote that is ready for use.
#[derive(Clone)]
pub struct OpenRemote {
    pub(crate) remote: Arc<dyn Remote>,
    /// How it is configured.
    pub config: RemoteConfig,
}

impl std::fmt::Debug for OpenRemote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpenRemote").field(&self.config).finish()
    }
}

impl OpenRemote {
    /// How files may be shared with it, in place of copying them.
    pub(crate) fn links(&self) -> Option<Links> {
        self.config.probe.links.filter(|_| !self.config.copy)
    }

    /// Adds the remote and what was being done to an error.
    pub(crate) fn at<T>(&self, action: impl FnOnce() -> String, result: io::Result<T>) -> Result<T> {
        result.map_err(|error| remote_error(self.remote.address(), action(), &error))
    }
}

pub(crate) fn remote_error(address: &str, action: String, error: &io::Error) -> StoreError {
    StoreError::Remote { remote: address.to_owned(), action, why: error.to_string() }
}

/// The remote of an address: a path, `file:///path`, `ssh://host/path` or `s3://bucket/prefix`. What a remote has to
/// remember from one time to the next, and can lose without loss, is kept in the folder `state`. `way` is what was found when
/// it was added.
pub(crate) fn connect(url: &str, state: &Utf8Path, way: Option<Way>) -> Result<Arc<dyn Remote>> {
    let unusable = |why: String| StoreError::Remote { remote: url.to_owned(), action: "be used".to_owned(), why };
    match url.split_once("://") {
        None => Ok(Arc::new(folder::FolderRemote::new(url))),
        Some(("file", path)) if path.starts_with('/') => Ok(Arc::new(folder::FolderRemote::new(path))),
        Some(("ssh", rest)) => ssh::remote(rest, state, way).map_err(unusable),
        Some(("s3", rest)) => bucket(rest, state).map_err(unusable),
        Some((scheme, _)) => Err(unusable(format!(
            "`{scheme}://` is not known; known are a path, `file:///path`, `ssh://[user@]host[:port]/path` and \
             `s3://bucket/prefix`"
        ))),
    }
}

#[cfg(feature = "s3")]
fn bucket(rest: &str, state: &Utf8Path) -> Result<Arc<dyn Remote>, String> {
    Ok(Arc::new(s3::S3Remote::new(rest, state)?))
}

#[cfg(not(feature = "s3"))]
fn bucket(_rest: &str, _state: &Utf8Path) -> Result<Arc<dyn Remote>, String> {
    Err("this Sepia was built without S3; `cargo build --release --features s3` builds one with it".to_owned())
}
