//! A parcel: everything that a run was made of, as one folder or one file (tar, or tar packed with zstd).
//!
//! ```text
//! sepia-export.json     what is in it: path, size and blake3 of every other file; the run; what its maker says about it
//! store/                a remote in a folder (see [`crate::remote`]): records, signatures, and outputs if they came along
//! ...                   what the engine adds: the manifest, its bases, external inputs
//! ```
//!
//! # What is not believed
//!
//! A parcel may come from anybody. [`Parcel::check`] and [`Parcel::unpack`] accept plain files under plain relative paths
//! only, each named once by the list, none missing, each of the size and the digest that the list says; links, devices and
//! paths that lead out are refused. Sizes are known before the first byte is written, so a parcel that would not fit on
//! the disk is refused, and what unpacks to more than it said ends at the first byte too many. Records and outputs go
//! through the same door as those of any remote ([`crate::transfer`]): hashed again, and trusted only if their source or
//! their signer is.

mod index;
mod pack;
#[cfg(test)]
mod tests;
mod unpack;

pub use index::Parcel;

use camino::Utf8Path;

use crate::error::Result;
use crate::remote::folder_remote;
use crate::store::Store;
use crate::transfer::{Progress, Pulled, Pushed, What};

/// The folder of records and outputs in a parcel.
const STORE: &str = "store";

impl Store {
    /// Puts what is meant into the parcel that is being made in a folder.
    ///
    /// # Errors
    /// As [`Store::push`].
    pub fn put_into_parcel(
        &self,
        folder: &Utf8Path,
        what: &What,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Pushed> {
        self.push(&folder_remote(&folder.join(STORE), true, false)?, what, progress)
    }

    /// Takes the records and outputs of a parcel that was checked. `trust`: they count as results without a signature.
    ///
    /// # Errors
    /// As [`Store::pull`].
    pub fn take_from_parcel(
        &self,
        folder: &Utf8Path,
        parcel: &Parcel,
        trust: bool,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Pulled> {
        let what = What { runs: [parcel.run.clone()].into(), ..What::default() };
        self.pull(&folder_remote(&folder.join(STORE), false, trust)?, &what, progress)
    }
}
