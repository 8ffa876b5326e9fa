//! Giving up what is no longer wanted.
//!
//! Records are kept for ever: they are small, and the history of an experiment is worth more than its bytes. What goes is
//! objects, leftovers of killed processes, and checkpoints of stages that have finished. A key whose objects are gone is
//! simply not found in the cache, and is computed again when it is wanted.
//!
//! No run may be going on, for it may be about to use any object it has looked up: runs share a lock that this takes for
//! itself, so a run that starts meanwhile waits for its turn with a clear message. A dry run needs no lock.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};

use super::contents::{Leftover, entries, size_of};
use crate::database::RunRow;
use crate::digest::Digest;
use crate::error::{IoContext as _, Result};
use crate::layout::unique_sibling;
use crate::lock::exclude_runs;
use crate::object::{ObjectKind, ObjectRef, remove};
use crate::store::Store;

/// Temporary files younger than this may belong to a command that is not a run.
const YOUNG: Duration = Duration::from_secs(3600);

/// What to keep: what any of the rules names. Without rules, everything that a record names is kept, and only what
/// nobody names goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcPolicy {
    /// Keep what the newest so many runs used or made.
    pub keep_last_runs: Option<usize>,
    /// Keep what runs and attempts that began at this time (Unix milliseconds) or later used or made.
    pub keep_since: Option<i64>,
    /// Keep what these runs used or made (ids, prefixes or `latest`).
    pub keep_runs: Vec<String>,
    /// Keep these whatever the rules say: inputs and outputs of work that goes on elsewhere. No rule by itself.
    pub keep_objects: Vec<ObjectRef>,
    /// Keep the checkpoints of these keys whatever the rules say.
    pub keep_checkpoints: Vec<Digest>,
}

/// What was removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Objects.
    pub objects: Vec<Leftover>,
    /// Folders of attempts of dead runs, and temporary files.
    pub leftovers: Vec<Leftover>,
    /// Checkpoints that are no longer needed.
    pub checkpoints: Vec<Leftover>,
    /// Objects that had been set aside as damaged.
    pub damaged: Vec<Leftover>,
    /// How many objects stay.
    pub kept: u64,
    /// Their size in bytes.
    pub kept_bytes: u64,
}

impl GcReport {
    /// How many bytes are freed.
    #[must_use]
    pub fn freed(&self) -> u64 {
        let Self { objects, leftovers, checkpoints, damaged, kept: _, kept_bytes: _ } = self;
        [objects, leftovers, checkpoints, damaged].into_iter().flatten().map(|leftover| leftover.bytes).sum()
    }
}

impl GcPolicy {
    fn has_rules(&self) -> bool {
        self.keep_last_runs.is_some() || self.keep_since.is_some() || !self.keep_runs.is_empty()
    }
}

impl Store {
    /// Removes what `policy` does not keep; with `dry_run` only says what that is.
    ///
    /// # Errors
    /// [`StoreError::InUse`](crate::StoreError::InUse) while a run is going on (not for a dry run);
    /// [`StoreError::NotFound`](crate::StoreError::NotFound) for a run to keep that there is not; those of removing.
    pub fn gc(&self, policy: &GcPolicy, dry_run: bool) -> Result<GcReport> {
        let _alone = if dry_run {
            None
        } else {
            self.writable("clean", self.root())?;
            Some(exclude_runs(&self.layout)?)
        };
        let kept_keys = if policy.has_rules() { Some(self.kept_keys(policy)?) } else { None };
        let mut kept = self.kept_objects(kept_keys.as_ref())?;
        kept.extend(policy.keep_objects.iter().map(|object| (object.kind, object.digest)));
        let mut report = GcReport::default();
        let (found, temporary) = self.found_objects()?;
        for found in found {
            let bytes = size_of(&found.path);
            if kept.contains(&(found.kind, found.digest)) {
                report.kept += 1;
                report.kept_bytes += bytes;
            } else {
                report.objects.push(Leftover { path: found.path, bytes });
            }
        }
        report.leftovers = self.dead_attempts()?;
        let temporary = temporary.into_iter().chain(self.stray_files()?);
        report
            .leftovers
            .extend(temporary.filter(|path| is_old(path)).map(|path| Leftover { bytes: size_of(&path), path }));
        for entry in entries(&self.layout.folder("checkpoints"))? {
            let Ok(key) = entry.file_name().parse::<Digest>() else { continue };
            let wanted = kept_keys.as_ref().is_none_or(|keys| keys.contains(&key)) && !self.has_good_record(&key)?;
            if !wanted && !policy.keep_checkpoints.contains(&key) {
                report.checkpoints.push(Leftover { path: entry.path().to_owned(), bytes: size_of(entry.path()) });
            }
        }
        for entry in entries(&self.layout.folder("damaged"))? {
            report.damaged.push(Leftover { path: entry.path().to_owned(), bytes: size_of(entry.path()) });
        }
        report.checkpoints.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        report.damaged.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        if !dry_run {
            for object in &report.objects {
                remove_object(&object.path)?;
            }
            for leftover in report.leftovers.iter().chain(&report.checkpoints).chain(&report.damaged) {
                remove(&leftover.path)?;
            }
        }
        Ok(report)
    }

    /// The keys that the kept runs are about.
    fn kept_keys(&self, policy: &GcPolicy) -> Result<BTreeSet<Digest>> {
        let mut keys = BTreeSet::new();
        let mut runs: Vec<RunRow> = Vec::new();
        for (i, row) in self.list_runs()?.into_iter().enumerate() {
            let recent = policy.keep_last_runs.is_some_and(|n| i < n);
            let young = policy.keep_since.is_some_and(|since| row.started_at >= since);
            if recent || young {
                runs.push(row);
            }
        }
        for run in &policy.keep_runs {
            runs.push(self.find_run(run)?);
        }
        for row in &runs {
            if let Some(plan) = &row.plan {
                keys.extend(self.plan(plan)?.into_iter().filter_map(|node| node.key));
            }
            keys.extend(self.run_nodes(&row.run)?.into_iter().filter_map(|node| node.key));
            keys.extend(self.keys_where("run = ?1", &row.run)?);
        }
        if let Some(since) = policy.keep_since {
            keys.extend(self.keys_where("started_at >= ?1", since)?);
        }
        Ok(keys)
    }

    fn keys_where(&self, condition: &str, value: impl rusqlite::ToSql) -> Result<Vec<Digest>> {
        let sql = format!("SELECT DISTINCT key FROM executions WHERE {condition}");
        self.database.with(|connection| {
            connection.prepare_cached(&sql)?.query_map([value], |row| crate::database::digest(row, 0))?.collect()
        })
    }

    /// The objects of the kept keys; of all keys, if there are no rules.
    fn kept_objects(&self, keys: Option<&BTreeSet<Digest>>) -> Result<BTreeSet<(ObjectKind, Digest)>> {
        let Some(keys) = keys else {
            return Ok(self.referenced()?.into_iter().map(|object| (object.kind, object.digest)).collect());
        };
        self.database.with(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT digest, type, bytes, files FROM executions JOIN artifacts USING (execution) WHERE key = ?",
            )?;
            let mut kept = BTreeSet::new();
            for key in keys {
                let mut rows = statement.query([key.to_string()])?;
                while let Some(row) = rows.next()? {
                    let object = crate::database::object(row, 0)?;
                    kept.insert((object.kind, object.digest));
                }
            }
            Ok(kept)
        })
    }

    fn has_good_record(&self, key: &Digest) -> Result<bool> {
        self.database.with(|connection| {
            connection
                .prepare_cached("SELECT 1 FROM executions WHERE key = ? AND outcome = 'done'")?
                .exists([key.to_string()])
        })
    }

    /// Temporary files outside the folders of objects.
    fn stray_files(&self) -> Result<Vec<Utf8PathBuf>> {
        let mut stray = Vec::new();
        for folder in [self.root().to_owned(), self.layout.folder("plans"), self.cache_dir()] {
            let hidden = entries(&folder)?.into_iter().filter(|entry| entry.file_name().starts_with('.'));
            stray.extend(hidden.filter(|entry| entry.file_name() != ".gitignore").map(|entry| entry.path().to_owned()));
        }
        stray.sort_unstable();
        Ok(stray)
    }
}

/// Removes an object: a tree is first moved out of its place whole, so that it is never half there.
fn remove_object(path: &Utf8Path) -> Result<()> {
    if !path.is_dir() {
        return remove(path);
    }
    let gone = unique_sibling(path);
    std::fs::rename(path, &gone).at("remove", path)?;
    remove(&path.with_extension("json"))?;
    remove(&gone)
}

fn is_old(path: &Utf8Path) -> bool {
    let modified = std::fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|age| age > YOUNG))
}
