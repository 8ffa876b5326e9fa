//! Push.

use std::collections::{BTreeMap, BTreeSet};

use super::bundle::{Marks, Writing, record_mark, run_mark, signature_mark, tag_mark};
use super::work::{Counter, Progress, again, each};
use super::{What, ZST, listing_name, object_name};
use crate::digest::Digest;
use crate::error::Result;
use crate::object::{ObjectKind, ObjectRef};
use crate::record::RecordId;
use crate::remote::OpenRemote;
use crate::store::Store;
use crate::tags::TagLine;

/// From so many objects under one two-digit prefix on, they are listed and not asked for one by one.
const FEW: usize = 4;

/// What a push brought to the remote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Records that the remote lacked.
    pub records: u64,
    /// Runs that it lacked.
    pub runs: u64,
    /// Things said about tags that it lacked.
    pub tags: u64,
    /// Objects that it lacked.
    pub objects: u64,
    /// Their size in bytes, before compression.
    pub bytes: u64,
    /// Objects that it had already.
    pub known_objects: u64,
    /// Outputs that records name and that are not here, so that they could not be pushed.
    pub absent: u64,
}

impl Store {
    /// Brings to a remote what it lacks of `what`.
    ///
    /// # Errors
    /// [`StoreError::Remote`](crate::StoreError::Remote); what was pushed until then stays and need not be pushed again.
    pub fn push(&self, to: &OpenRemote, what: &What, progress: &(dyn Fn(Progress) + Sync)) -> Result<Pushed> {
        let marks = self.remote_marks(to)?;
        let of_runs = self.keys_of_runs(&what.runs)?;
        let mut wanted: BTreeSet<ObjectRef> = BTreeSet::new();
        let mut records: Vec<RecordId> = Vec::new();
        let mut runs: BTreeSet<String> = what.runs.clone();
        for row in self.executions()?.into_iter().rev() {
            let Some(record) = self.record(&row.record)? else { continue };
            if what.means(&record, &of_runs) {
                wanted.extend(what.outputs_of(&record));
                records.push(row.record);
                runs.insert(record.run);
            }
        }
        let mut pushed = Pushed::default();
        let named = wanted.len();
        let here: Vec<ObjectRef> = wanted.into_iter().filter(|object| self.present(object)).collect();
        pushed.absent = (named - here.len()) as u64;
        let missing = missing_on(to, &here)?;
        pushed.known_objects = (here.len() - missing.len()) as u64;
        let bytes = missing.iter().fold(0u64, |sum, object| sum.saturating_add(object.bytes));
        let counter = Counter::new(missing.len() as u64, bytes, progress);
        each(&missing, |object| {
            self.send(to, object, &|bytes| counter.bytes(bytes))?;
            counter.object();
            Ok(())
        })?;
        if !missing.is_empty() {
            to.at(|| "make sure of what it was given".to_owned(), to.remote.settle())?;
        }
        pushed.objects = missing.len() as u64;
        pushed.bytes = bytes;
        if what.is_all() {
            runs.extend(self.list_runs()?.into_iter().map(|row| row.run));
        }
        let tags = self.tags_about((!what.is_all()).then_some(&runs))?;
        self.push_bundles(to, &marks, &records, &runs, &tags, &mut pushed)?;
        Ok(pushed)
    }

    fn push_bundles(
        &self,
        to: &OpenRemote,
        marks: &Marks,
        records: &[RecordId],
        runs: &BTreeSet<String>,
        tags: &[TagLine],
        pushed: &mut Pushed,
    ) -> Result<()> {
        let mut bundle = Writing::default();
        for id in records {
            if !marks.contains(&record_mark(id))
                && let Some(record) = self.record(id)?
            {
                bundle.record(id, &record.canonical()?);
                pushed.records += 1;
            }
            for signature in self.signatures(id)? {
                if !marks.contains(&signature_mark(id, &signature)) {
                    bundle.signature(id, &signature);
                }
            }
            if bundle.is_full() {
                std::mem::take(&mut bundle).put(to)?;
            }
        }
        for run in runs {
            let Some(row) = self.run_row(run)? else { continue };
            if marks.contains(&run_mark(&row)) || self.run_is_alive(run) {
                continue;
            }
            if let Some(plan) = &row.plan {
                bundle.plan(&self.plan(plan)?);
            }
            bundle.run(&row, &self.run_nodes(run)?);
            pushed.runs += 1;
        }
        for line in tags.iter().filter(|line| !marks.contains(&tag_mark(line))) {
            bundle.tag(line);
            pushed.tags += 1;
        }
        bundle.put(to)
    }

    /// The keys of all nodes of these runs, cached ones too.
    pub(super) fn keys_of_runs(&self, runs: &BTreeSet<String>) -> Result<BTreeSet<Digest>> {
        let mut keys = BTreeSet::new();
        for run in runs {
            if let Some(plan) = self.run_row(run)?.and_then(|row| row.plan) {
                keys.extend(self.plan(&plan)?.into_iter().filter_map(|node| node.key));
            }
        }
        Ok(keys)
    }
}

/// The objects that a remote does not have whole.
fn missing_on(to: &OpenRemote, objects: &[ObjectRef]) -> Result<Vec<ObjectRef>> {
    let mut by_folder: BTreeMap<String, Vec<ObjectRef>> = BTreeMap::new();
    for object in objects {
        let name = object_name(object);
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        by_folder.entry(folder).or_default().push(*object);
    }
    let missing = std::sync::Mutex::new(Vec::new());
    let folders: Vec<_> = by_folder.into_iter().collect();
    each(&folders, |(folder, objects)| {
        let listed: Option<BTreeMap<String, u64>> = if objects.len() > FEW {
            let listed = to.at(|| format!("list {folder}"), again(|| to.remote.list(folder)))?;
            Some(listed.into_iter().map(|listed| (listed.name, listed.bytes)).collect())
        } else {
            None
        };
        let size = |name: &str| match &listed {
            Some(listed) => Ok(listed.get(name).copied()),
            None => to.at(|| format!("look for {name}"), again(|| to.remote.size(name))),
        };
        for object in objects {
            let name = object_name(object);
            // The size of what is compressed says nothing; one that is empty is certainly not whole.
            let whole = size(&name)?.is_some_and(|bytes| bytes == object.bytes)
                || size(&format!("{name}{ZST}"))?.is_some_and(|bytes| bytes > 0);
            let listed = object.kind == ObjectKind::File || size(&listing_name(&object.digest))?.is_some();
            if !(whole && listed) {
                missing.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(*object);
            }
        }
        Ok(())
    })?;
    let mut missing = missing.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    missing.sort_unstable();
    Ok(missing)
}
