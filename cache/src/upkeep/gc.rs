//! Giving up what is no longer wanted.
//!
//! Records are kept for ever: they are small, and the history of an experiment is worth more than its bytes. What goes is
//! objects, leftovers of killed processes, and checkpoints of stages that have finished. A key whose objects are gone is
//! simply not found in the cache, and is computed again when it is wanted.
//!
//! No run may be going on, for it may be about to use any object it has looked up: runs share a lock that this takes for
//! itself, so a run that starts meanwhile waits for its turn with a clear message. A dry run needs no lock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};

use super::contents::{Leftover, entries, size_of};
use crate::database::RunRow;
use crate::digest::Digest;
use crate::error::{IoContext as _, Result};
use crate::layout::unique_sibling;
use crate::lock::exclude_runs;
use crate::object::{ObjectKind, remove};
use crate::store::Store;

/// Temporary files younger than this may belong to a command that is not a run.
const YOUNG: Duration = Duration::from_secs(3600);

/// What to keep: what any of the rules names. Without rules, everything that a record names is kept, and only what
/// nobody names goes. With `remove_runs` or `max_bytes`, what no rule names is not removed for that alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcPolicy {
    /// Keep what the newest so many runs used or made.
    pub keep_last_runs: Option<usize>,
    /// Keep what runs and attempts that began at this time (Unix milliseconds) or later used or made.
    pub keep_since: Option<i64>,
    /// Keep what these runs used or made (ids, tags, prefixes or `latest`).
    pub keep_runs: Vec<String>,
    /// Remove what only these runs used or made, and nothing else. The rules above still hold.
    pub remove_runs: Vec<String>,
    /// Remove what was used least recently until all outputs together are no larger than this, in bytes. The rules above
    /// say what is kept in any case.
    pub max_bytes: Option<u64>,
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

/// What a policy comes to.
struct Choice {
    /// What may stay.
    kept: BTreeSet<(ObjectKind, Digest)>,
    /// The keys whose checkpoints may stay; `None`: all.
    keys: Option<BTreeSet<Digest>>,
    /// What stays even if it is too much.
    must: Option<BTreeSet<(ObjectKind, Digest)>>,
}

impl Choice {
    fn keeps(&self, object: &(ObjectKind, Digest)) -> bool {
        self.kept.contains(object) || self.must_keep(object)
    }

    fn must_keep(&self, object: &(ObjectKind, Digest)) -> bool {
        self.must.as_ref().is_some_and(|must| must.contains(object))
    }

    fn keeps_key(&self, key: &Digest) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.contains(key))
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
        let choice = self.choose(policy)?;
        let mut report = GcReport::default();
        let (found, temporary) = self.found_objects()?;
        let mut kept: Vec<((ObjectKind, Digest), Leftover)> = Vec::new();
        for found in found {
            let leftover = Leftover { bytes: size_of(&found.path), path: found.path };
            if choice.keeps(&(found.kind, found.digest)) {
                kept.push(((found.kind, found.digest), leftover));
            } else {
                report.objects.push(leftover);
            }
        }
        report.kept_bytes = kept.iter().map(|(_, leftover)| leftover.bytes).sum();
        if let Some(max) = policy.max_bytes {
            let used = self.last_used()?;
            kept.sort_by_key(|(object, _)| (used.get(object).copied(), *object));
            kept.retain(|(object, leftover)| {
                let stays = report.kept_bytes <= max || choice.must_keep(object);
                if !stays {
                    report.kept_bytes -= leftover.bytes;
                    report.objects.push(leftover.clone());
                }
                stays
            });
        }
        report.kept = kept.len() as u64;
        report.leftovers = self.dead_attempts()?;
        let temporary = temporary.into_iter().chain(self.stray_files()?);
        report
            .leftovers
            .extend(temporary.filter(|path| is_old(path)).map(|path| Leftover { bytes: size_of(&path), path }));
        for entry in entries(&self.layout.folder("checkpoints"))? {
            let Ok(key) = entry.file_name().parse::<Digest>() else { continue };
            let wanted = choice.keeps_key(&key) && !self.has_good_record(&key)?;
            if !wanted {
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

    fn choose(&self, policy: &GcPolicy) -> Result<Choice> {
        let protected = if policy.has_rules() { Some(self.kept_keys(policy)?) } else { None };
        let must = protected.as_ref().map(|keys| self.objects_of(keys)).transpose()?;
        if !policy.remove_runs.is_empty() {
            let keys = self.keys_without(&policy.remove_runs, protected.as_ref())?;
            return Ok(Choice { kept: self.objects_of(&keys)?, keys: Some(keys), must });
        }
        if let (Some(must), None) = (&must, policy.max_bytes) {
            return Ok(Choice { kept: must.clone(), keys: protected, must: None });
        }
        let all = self.referenced()?.into_iter().map(|object| (object.kind, object.digest)).collect();
        Ok(Choice { kept: all, keys: None, must })
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
            keys.extend(self.keys_of(row)?);
        }
        if let Some(since) = policy.keep_since {
            keys.extend(self.keys_where("started_at >= ?1", since)?);
        }
        Ok(keys)
    }

    /// The keys that a run used or made.
    fn keys_of(&self, row: &RunRow) -> Result<BTreeSet<Digest>> {
        let mut keys = BTreeSet::new();
        if let Some(plan) = &row.plan {
            keys.extend(self.plan(plan)?.into_iter().filter_map(|node| node.key));
        }
        keys.extend(self.run_nodes(&row.run)?.into_iter().filter_map(|node| node.key));
        keys.extend(self.keys_where("run = ?1", &row.run)?);
        Ok(keys)
    }

    /// All keys but those that only these runs are about.
    fn keys_without(&self, runs: &[String], protected: Option<&BTreeSet<Digest>>) -> Result<BTreeSet<Digest>> {
        let runs: BTreeSet<String> = runs.iter().map(|run| Ok(self.find_run(run)?.run)).collect::<Result<_>>()?;
        let (mut theirs, mut others) = (BTreeSet::new(), protected.cloned().unwrap_or_default());
        for row in self.list_runs()? {
            let keys = self.keys_of(&row)?;
            if runs.contains(&row.run) { theirs.extend(keys) } else { others.extend(keys) }
        }
        // Records may be of runs that are known by nothing else.
        let all: Vec<(Digest, String)> = self.database.with(|connection| {
            connection
                .prepare_cached("SELECT DISTINCT key, run FROM executions")?
                .query_map([], |row| Ok((crate::database::digest(row, 0)?, row.get(1)?)))?
                .collect()
        })?;
        for (key, run) in all {
            if !runs.contains(&run) || !theirs.contains(&key) {
                others.insert(key);
            }
        }
        Ok(others)
    }

    /// When the objects that records name were last used or made, in Unix milliseconds.
    fn last_used(&self) -> Result<BTreeMap<(ObjectKind, Digest), i64>> {
        let mut of_key: BTreeMap<Digest, i64> = BTreeMap::new();
        let mut used = |key: Digest, at: i64| {
            let last = of_key.entry(key).or_insert(at);
            *last = at.max(*last);
        };
        for row in self.list_runs()? {
            self.keys_of(&row)?.into_iter().for_each(|key| used(key, row.started_at));
        }
        let made: Vec<(Digest, i64)> = self.database.with(|connection| {
            connection
                .prepare_cached("SELECT key, max(started_at) FROM executions GROUP BY key")?
                .query_map([], |row| Ok((crate::database::digest(row, 0)?, row.get(1)?)))?
                .collect()
        })?;
        made.into_iter().for_each(|(key, at)| used(key, at));
        let mut found = BTreeMap::new();
        for (key, at) in of_key {
            for object in self.objects_of(&BTreeSet::from([key]))? {
                let last = found.entry(object).or_insert(at);
                *last = at.max(*last);
            }
        }
        Ok(found)
    }

    fn keys_where(&self, condition: &str, value: impl rusqlite::ToSql) -> Result<Vec<Digest>> {
        let sql = format!("SELECT DISTINCT key FROM executions WHERE {condition}");
        self.database.with(|connection| {
            connection.prepare_cached(&sql)?.query_map([value], |row| crate::database::digest(row, 0))?.collect()
        })
    }

    /// The objects that records of these keys name.
    fn objects_of(&self, keys: &BTreeSet<Digest>) -> Result<BTreeSet<(ObjectKind, Digest)>> {
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
