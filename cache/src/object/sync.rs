//! What must reach the disk before a record may name it, gathered so that many small outputs share one sync.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use camino::{Utf8Path, Utf8PathBuf};
use rayon::prelude::*;

use super::walk::Walked;
use crate::crash_point;
use crate::error::{Result, StoreError};
use crate::store::Store;

/// From this many files and folders on, one `syncfs` is cheaper than a sync for each (0.15 ms on an idle disk, several ms on
/// a busy one). `syncfs` also waits for what others have written to the file system, hence not for few.
const MANY: usize = 24;

/// Files and folders that were placed and not synced yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    paths: HashSet<Utf8PathBuf>,
    /// There are more than are worth listing.
    many: bool,
}

impl Pending {
    /// A file that was placed. With it go the folder it is in, and that folder's own name: another process may have made it
    /// a moment ago and not synced it yet.
    pub(crate) fn file(&mut self, path: &Utf8Path) {
        self.add(path.ancestors().take(3).map(Utf8Path::to_owned));
    }

    /// The inside of a tree that was placed.
    pub(super) fn tree(&mut self, path: &Utf8Path, walked: &Walked) {
        if walked.files.len() >= MANY {
            self.many = true;
            return;
        }
        self.add(walked.files.iter().chain(&walked.folders).map(|name| path.join(name)));
        self.add(std::iter::once(path.to_owned()));
    }

    fn add(&mut self, paths: impl Iterator<Item = Utf8PathBuf>) {
        if !self.many {
            self.paths.extend(paths);
            self.many = self.paths.len() >= MANY;
        }
    }

    /// A file that was placed and is gone.
    pub(crate) fn forget(&mut self, path: &Utf8Path) {
        self.paths.remove(path);
    }

    fn is_empty(&self) -> bool {
        self.paths.is_empty() && !self.many
    }

    /// Syncs all of it: each by itself where they are few, else the whole file systems that the folders `roots` are on.
    /// After an error, everything stays to be synced, and the path that it concerns is returned.
    pub(crate) fn flush(&mut self, roots: &[&Utf8Path]) -> Result<(), (Utf8PathBuf, io::Error)> {
        if self.many {
            let mut devices = BTreeSet::new();
            for root in roots {
                let at = |error: io::Error| ((*root).to_owned(), error);
                let folder = File::open(root).map_err(at)?;
                if devices.insert(folder.metadata().map_err(at)?.dev()) {
                    rustix::fs::syncfs(&folder).map_err(|error| at(error.into()))?;
                }
            }
        } else {
            // In any order, and at once: a file system can write several down together.
            self.paths.par_iter().try_for_each(|path| {
                File::open(path).and_then(|file| file.sync_all()).map_err(|error| (path.clone(), error))
            })?;
        }
        *self = Self::default();
        Ok(())
    }
}

impl Store {
    /// Syncs every object that was inserted since the last call: each by itself where they are few, else the whole file
    /// system at once. [`Store::commit`] calls this; calling it with nothing to do is free.
    ///
    /// # Errors
    /// Those of the disk. What was to be synced then stays pending.
    pub fn sync_pending(&self) -> Result<()> {
        let mut pending = self.pending();
        if pending.is_empty() {
            return Ok(());
        }
        crash_point::reached("sync objects")?;
        let roots = ["objects", "trees"].map(|name| self.layout.folder(name));
        let flushed = pending.flush(&[&roots[0], &roots[1]]);
        flushed.map_err(|(path, error)| StoreError::io("sync", &path, error))?;
        crash_point::reached("objects synced")
    }
}
