//! Pull.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::What;
use super::bundle::mark_taken;
use super::work::{Counter, Progress, each};
use crate::error::Result;
use crate::merge::{Merged, Staging};
use crate::object::ObjectRef;
use crate::remote::OpenRemote;
use crate::store::Store;

/// What a pull brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Records, runs and signatures.
    pub merged: Merged,
    /// Objects that were fetched.
    pub objects: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Objects that records name and that the remote does not have.
    pub absent: u64,
}

impl Store {
    /// Fetches all records of a remote, and the outputs of `what` that are not here.
    ///
    /// # Errors
    /// [`StoreError::Remote`](crate::StoreError::Remote) and [`StoreError::Refused`](crate::StoreError::Refused); what was
    /// fetched until then stays and need not be fetched again.
    pub fn pull(&self, from: &OpenRemote, what: &What, progress: &(dyn Fn(Progress) + Sync)) -> Result<Pulled> {
        let merged = self.pull_records(from)?;
        let of_runs = self.keys_of_runs(&what.runs)?;
        let mut wanted: BTreeSet<ObjectRef> = BTreeSet::new();
        for row in self.executions()? {
            if let Some(record) = self.record(&row.record)?
                && what.means(&record, &of_runs)
            {
                wanted.extend(what.outputs_of(&record));
            }
        }
        let wanted: Vec<ObjectRef> = wanted.into_iter().filter(|object| !self.present(object)).collect();
        let (objects, bytes, absent) = self.fetch_all(from, &wanted, progress)?;
        Ok(Pulled { merged, objects, bytes, absent })
    }

    /// Fetches all records of a remote that are not here, and no outputs.
    ///
    /// # Errors
    /// As [`Store::pull`].
    pub fn pull_records(&self, from: &OpenRemote) -> Result<Merged> {
        let source = format!("the remote {}", from.remote.address());
        let mut staging = Staging::begin(self, &source, from.config.trust)?;
        let taken = self.take_bundles(from, &mut staging)?;
        let merged = staging.publish()?;
        mark_taken(&taken)?;
        Ok(merged)
    }

    /// Fetches objects that are not here, and says how many, their bytes, and how many the remote does not have.
    ///
    /// # Errors
    /// As [`Store::pull`].
    pub fn fetch_all(
        &self,
        from: &OpenRemote,
        objects: &[ObjectRef],
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(u64, u64, u64)> {
        self.writable("fetch outputs into", self.root())?;
        let total = objects.iter().fold(0u64, |sum, object| sum.saturating_add(object.bytes));
        let counter = Counter::new(objects.len() as u64, total, progress);
        let (fetched, bytes, absent) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let done = each(objects, |object| {
            if self.fetch(from, object, &|bytes| counter.bytes(bytes))? {
                fetched.fetch_add(1, Ordering::Relaxed);
                bytes.fetch_add(object.bytes, Ordering::Relaxed);
            } else {
                absent.fetch_add(1, Ordering::Relaxed);
            }
            counter.object();
            Ok(())
        });
        // What has come stays, so it is made durable even if something else failed.
        self.sync_pending()?;
        done?;
        Ok((fetched.into_inner(), bytes.into_inner(), absent.into_inner()))
    }
}
