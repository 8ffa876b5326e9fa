//! Whether everything that the records speak of is what they say.

use std::collections::BTreeSet;

use super::contents::Leftover;
use super::contents::size_of;
use crate::digest::Digest;
use crate::error::Result;
use crate::object::{Damage, ObjectKind, ObjectRef};
use crate::record::RecordId;
use crate::remote::OpenRemote;
use crate::store::Store;

/// How far [`Store::verify_all`] is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Objects looked at.
    pub objects: u64,
    /// Objects in all.
    pub of_objects: u64,
    /// Bytes looked at.
    pub bytes: u64,
    /// Bytes in all.
    pub of_bytes: u64,
}

/// A damaged object, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// What is wrong.
    pub damage: Damage,
    /// The records that name it, with their nodes, newest first.
    pub records: Vec<(RecordId, String)>,
}

/// What [`Store::verify_all`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// Objects that are what they should be.
    pub sound: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Objects that are there and are not what they should be.
    pub damaged: Vec<Damaged>,
    /// Objects that records name and that are not there: removed by `gc`, never fetched, or lost.
    pub absent: Vec<ObjectRef>,
    /// Objects that no record names.
    pub unreferenced: Vec<Leftover>,
    /// What killed processes have left.
    pub leftovers: Vec<Leftover>,
}

impl Verification {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty()
    }
}

impl Store {
    /// Hashes every object that a record names, and lists what no record names. Changes nothing.
    ///
    /// # Errors
    /// Those of the database and of reading folders; damage to objects is not an error but the result.
    pub fn verify_all(&self, mut progress: impl FnMut(VerifyProgress)) -> Result<Verification> {
        let referenced = self.referenced()?;
        let mut at = VerifyProgress {
            of_objects: referenced.len() as u64,
            of_bytes: referenced.iter().fold(0, |sum, object| sum.saturating_add(object.bytes)),
            ..VerifyProgress::default()
        };
        let mut result = Verification::default();
        progress(at);
        for object in &referenced {
            // One after the other: each is read by all threads as it is, and a disk likes its reads in order.
            if self.object_path(object).as_std_path().symlink_metadata().is_err() {
                result.absent.push(*object);
            } else {
                match self.verify_object(object) {
                    Ok(()) => {
                        result.sound += 1;
                        result.bytes += object.bytes;
                    }
                    Err(damage) => {
                        let records = self.records_of(&object.digest)?;
                        result.damaged.push(Damaged { damage, records });
                    }
                }
            }
            at.objects += 1;
            at.bytes = at.bytes.saturating_add(object.bytes);
            progress(at);
        }
        let known: BTreeSet<(ObjectKind, Digest)> =
            referenced.iter().map(|object| (object.kind, object.digest)).collect();
        let (found, temporary) = self.found_objects()?;
        for found in found {
            if !known.contains(&(found.kind, found.digest)) {
                result.unreferenced.push(Leftover { bytes: size_of(&found.path), path: found.path });
            }
        }
        result.leftovers = self.dead_attempts()?;
        result.leftovers.extend(temporary.into_iter().map(|path| Leftover { bytes: size_of(&path), path }));
        Ok(result)
    }

    /// Puts what a remote has in the place of what is damaged or absent here; says how many objects that were. What is
    /// damaged is set aside only once the remote has shown that it has it.
    ///
    /// # Errors
    /// Those of fetching.
    pub fn repair(&self, from: &OpenRemote, found: &Verification) -> Result<u64> {
        let damaged = found.damaged.iter().map(|damaged| damaged.damage.object);
        let mut repaired = 0;
        for object in damaged.chain(found.absent.iter().copied()) {
            repaired += u64::from(self.fetch_in_place(from, &object)?);
        }
        self.sync_pending()?;
        Ok(repaired)
    }

    /// The object of a digest, if a record names it.
    ///
    /// # Errors
    /// Those of the database.
    pub fn object_of(&self, digest: &Digest) -> Result<Option<ObjectRef>> {
        self.database.with(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT digest, type, bytes, files FROM artifacts WHERE digest = ? LIMIT 1")?;
            let mut rows = statement.query([digest.to_string()])?;
            rows.next()?.map(|row| crate::database::object(row, 0)).transpose()
        })
    }

    /// The records that name an object, with their nodes, newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub fn records_of(&self, digest: &Digest) -> Result<Vec<(RecordId, String)>> {
        self.database.with(|connection| {
            connection
                .prepare_cached(
                    "SELECT DISTINCT record, node FROM artifacts JOIN executions USING (execution) WHERE digest = ? \
                     ORDER BY execution DESC",
                )?
                .query_map([digest.to_string()], |row| Ok((RecordId(crate::database::digest(row, 0)?), row.get(1)?)))?
                .collect()
        })
    }
}
