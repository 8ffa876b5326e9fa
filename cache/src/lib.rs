//! Sepia's store: outputs by their content, records of how they came about, and the results database.
//!
//! This crate knows bytes and rows, not stages and not manifests. The engine hashes and inserts what a stage left
//! ([`hash_output`], [`Store::insert`]), commits a [`Record`] of it ([`Store::commit`]), and finds it again by its key
//! ([`Store::index`]).
//!
//! ```
//! use camino::Utf8Path;
//! use sepia_cache::{OpenMode, Store, hash_output};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = Utf8Path::from_path(folder.path()).ok_or("not UTF-8")?;
//! let store = Store::open(&folder.join(".sepia"), OpenMode::Create)?;
//! let output = folder.join("model.bin");
//! std::fs::write(&output, b"weights")?;
//!
//! let object = store.insert(&output, &hash_output(&output)?)?;
//! assert!(store.present(&object) && !output.exists());
//! assert_eq!(std::fs::read(store.object_path(&object))?, b"weights");
//! # Ok(())
//! # }
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | `layout` | where things lie |
//! | `object` | outputs: hashing, inserting, checking; the invariants and what a crash leaves |
//! | `record` | finished attempts and the journals that keep them |
//! | `database` | `results.db`: tables, look-up, runs, rebuilding |
//! | `commit` | the order in which a result comes to count |
//! | `lock` | locks between processes |
//! | `file_digests` | digests of files outside the store, remembered by `stat` |
//! | `merge` | records from elsewhere: checked, then united with ours |
//! | `sign` | signatures and trust |
//! | `remote` | places that hold objects and records for several people |
//! | `transfer` | push and pull |
//! | `parcel` | all of a run as one folder or file |
//! | `reproduction` | results that were computed again to be compared |
//! | `tags` | names of runs |
//! | `upkeep` | size, verification, garbage collection |

mod commit;
mod crash_point;
#[cfg(test)]
mod crash_tests;
mod database;
mod digest;
mod error;
mod file_digests;
mod layout;
mod lock;
mod merge;
mod object;
mod parcel;
mod record;
mod remote;
mod reproduction;
mod sign;
mod store;
mod tags;
#[cfg(test)]
mod test_support;
mod transfer;
mod upkeep;

pub use database::{
    Attempted, ExecutionRow, Hit, Index, MetricEnd, ParamRef, ParamValue, PlanNode, QUERIES, Rebuilt, RecordsOf,
    ResultRow, RunCounts, RunEnd, RunNode, RunRow,
};
pub use digest::Digest;
pub use error::{Result, StoreError};
pub use file_digests::FileDigests;
pub use lock::{KeyLock, RunLock};
pub use merge::{Divergence, Merged, Variant};
pub use object::{Damage, DamageKind, HashedOutput, ListedFile, Listing, ObjectKind, ObjectRef, hash_output};
pub use parcel::Parcel;
pub use record::canonical::{canonical_json, write_canonical_text};
pub use record::{Metrics, Outcome, RECORD_SCHEMA, Record, RecordId, RecordInput, RecordOutput, Series};
pub use remote::{Links, OpenRemote, Probe, RemoteConfig, RemoteOptions, Way, serve};
pub use reproduction::is_reproduction;
/// For [`Store::query`].
pub use rusqlite;
pub use sign::{Origin, PublicKey, Signature, SigningKey, Trust};
pub use store::{OpenMode, Store};
pub use transfer::{Outputs, Progress, Pulled, Pushed, What};
pub use upkeep::{Damaged, GcPolicy, GcReport, Leftover, Usage, UsageOf, Verification, VerifyProgress};
