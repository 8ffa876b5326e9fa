//! What `sepia cache gc` may remove of the jobs' folders, and what it must keep for jobs that nobody waits for just now.
//!
//! A run removes its batches itself. What is left is of runs that were killed, or that left their jobs (`--detach`):
//! - A batch whose tasks are all over goes, unless it holds a result that no record has yet: the next run that wants that key
//!   takes it over. Nobody wants it after [`KEPT`].
//! - A batch with tasks that are not over goes only if Slurm answers and knows no living job of its name, and if nothing has
//!   changed in it for [`QUIET`]: its jobs have gone without a word.
//! - Inputs and checkpoints of the tasks of every batch that stays are kept, and so are outputs that no record names yet.

use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{Digest, GcPolicy, Leftover, Store};

use super::{
    batch::own_uid,
    cancel::GIVEN_UP,
    client,
    files::{Folder, Shape, jobs_dir},
    order::TaskEnd,
    pointer,
    state::{JobLine, Life, life},
};

/// How long a result waits for a run that wants it.
const KEPT: Duration = Duration::from_secs(30 * 86_400);
/// How long a batch of which Slurm knows nothing must have been quiet: its job may just be on its way into the queue.
const QUIET: Duration = Duration::from_secs(3600);

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// Folders of batches that can go, with their sizes.
    pub(crate) over: Vec<Leftover>,
    /// How many batches stay.
    pub(crate) kept: usize,
}

impl Sweep {
    /// Removes what can go.
    pub(crate) fn remove(&self, store: &Store) -> std::io::Result<()> {
        self.over.iter().try_for_each(|batch| fs_err::remove_dir_all(&batch.path))?;
        if self.over.is_empty() { Ok(()) } else { pointer::drop_dangling(&jobs_dir(store)) }
    }
}

/// Looks through all batches, and adds to `policy` what those that stay need. Slurm is asked once, and only if there are
/// batches that it must be asked about.
pub(crate) fn sweep(store: &Store, policy: &mut GcPolicy) -> std::io::Result<Sweep> {
    sweep_with(store, policy, |names| client::query(names).ok())
}

fn sweep_with(
    store: &Store,
    policy: &mut GcPolicy,
    ask: impl Fn(&[String]) -> Option<Vec<JobLine>>,
) -> std::io::Result<Sweep> {
    let jobs = jobs_dir(store);
    let mut found = Sweep::default();
    let batches = batches(&jobs)?;
    let open: Vec<String> =
        batches.iter().filter(|batch| !batch.is_over()).map(|batch| batch.name().to_owned()).collect();
    let answer = if open.is_empty() { None } else { ask(&open) };
    for batch in batches {
        let forgotten = answer.as_ref().is_some_and(|lines| {
            let lives = |line: &JobLine| line.name == batch.name() && life(line, own_uid()) == Life::Alive;
            !lines.iter().any(lives) && batch.age() > QUIET
        });
        let wanted = batch.has_unrecorded(&jobs) && batch.age() <= KEPT;
        if (batch.is_over() || forgotten) && !wanted {
            let bytes = size_of(&batch.folder.path);
            found.over.push(Leftover { path: batch.folder.path, bytes });
        } else {
            found.kept += 1;
            batch.needs(policy);
        }
    }
    Ok(found)
}

struct Found {
    folder: Folder,
    /// None of a batch that was not written to its end, and so never submitted.
    shape: Option<Shape>,
}

fn batches(jobs: &Utf8Path) -> std::io::Result<Vec<Found>> {
    let entries = match jobs.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.into_path();
        if path.is_dir() {
            let folder = Folder { path };
            found.push(Found { shape: folder.shape().ok(), folder });
        }
    }
    found.sort_unstable_by(|a, b| a.folder.path.cmp(&b.folder.path));
    Ok(found)
}

impl Found {
    fn name(&self) -> &str {
        self.folder.path.file_name().unwrap_or_default()
    }

    fn tasks(&self) -> impl Iterator<Item = usize> {
        self.shape.iter().flat_map(|shape| shape.groups.iter().flatten().copied())
    }

    /// Whether no task of it will run or runs.
    fn is_over(&self) -> bool {
        let given_up = |n| self.folder.claimant(n).is_some_and(|who| who.starts_with(GIVEN_UP));
        self.shape.is_some() && self.tasks().all(|n| self.folder.is_done(n) || given_up(n))
    }

    /// Whether it holds a result that no record has yet: a run that records one drops its pointer.
    fn has_unrecorded(&self, jobs: &Utf8Path) -> bool {
        self.tasks().any(|n| {
            let finished = self.folder.done(n).is_some_and(|done| matches!(done.ending, TaskEnd::Finished { .. }));
            let key = || self.folder.order(n).ok()?.key.parse::<Digest>().ok();
            finished
                && key().and_then(|key| pointer::pointer(jobs, &key)).is_some_and(|(b, m)| b == self.name() && m == n)
        })
    }

    /// How long nothing has changed in it.
    fn age(&self) -> Duration {
        let changed = |path: &Utf8Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
        let last = changed(&self.folder.path.join("status")).max(changed(&self.folder.path));
        last.and_then(|last| SystemTime::now().duration_since(last).ok()).unwrap_or_default()
    }

    fn needs(&self, policy: &mut GcPolicy) {
        for n in self.tasks() {
            let Ok(order) = self.folder.order(n) else { continue };
            policy.keep_objects.extend(order.inputs);
            policy.keep_checkpoints.extend(order.key.parse::<Digest>());
            if let Some(TaskEnd::Finished { outputs }) = self.folder.done(n).map(|done| done.ending) {
                policy.keep_objects.extend(outputs.into_iter().map(|(_, object)| object));
            }
        }
    }
}

fn size_of(folder: &Utf8Path) -> u64 {
    let mut bytes = 0;
    let mut open: Vec<Utf8PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in folder.read_dir_utf8().into_iter().flatten().flatten() {
            match entry.path().symlink_metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.into_path()),
                Ok(metadata) => bytes += metadata.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::slurm::{order::EndRecord, test_support::*};

    fn batch(store: &Store, name: &str) -> (Folder, Digest) {
        let folder = Folder::of(&jobs_dir(store), name);
        let shape = Shape { store: store.root().to_owned(), groups: vec![vec![0]], at_once: 1 };
        let key = Digest::of_bytes(name.as_bytes());
        folder.write(&shape, &[order(&key)], "").unwrap();
        pointer::set_pointer(&jobs_dir(store), &key, name, 0).unwrap();
        (folder, key)
    }

    fn make_old(folder: &Folder, age: Duration) {
        for path in [folder.path.clone(), folder.path.join("status")] {
            let file = std::fs::File::open(path).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
    }

    fn names(found: &Sweep) -> Vec<&str> {
        found.over.iter().filter_map(|batch| batch.path.file_name()).collect()
    }

    const OLD: Duration = Duration::from_secs(2 * 3600);

    #[test]
    fn a_batch_that_is_over_goes_and_one_with_an_unrecorded_result_stays_for_a_while() {
        let (_dir, store) = store();
        let (recorded, key) = batch(&store, "sepia-a");
        recorded.end(0, 0, &finished()).unwrap();
        pointer::drop_pointer(&jobs_dir(&store), &key, "sepia-a", 0);
        let (unrecorded, key) = batch(&store, "sepia-b");
        unrecorded.end(0, 0, &finished()).unwrap();
        let (given_up, _) = batch(&store, "sepia-c");
        given_up.claim(0, &format!("{GIVEN_UP} by process 1")).unwrap();
        let (failed, _) = batch(&store, "sepia-d");
        failed.end(0, 0, &EndRecord { ending: failed_end(), ..finished() }).unwrap();
        let mut policy = GcPolicy::default();
        let nobody_asks = |_: &[String]| -> Option<Vec<JobLine>> { unreachable!("all of them are over") };
        let found = sweep_with(&store, &mut policy, nobody_asks).unwrap();
        assert_eq!((names(&found), found.kept), (vec!["sepia-a", "sepia-c", "sepia-d"], 1));
        assert_eq!((policy.keep_checkpoints, policy.keep_objects.len()), (vec![key], 1));
        found.remove(&store).unwrap();
        assert!(pointer::pointer(&jobs_dir(&store), &key).is_some());
        assert!(pointer::pointer(&jobs_dir(&store), &Digest::of_bytes(b"sepia-d")).is_none());
        assert!(unrecorded.path.is_dir() && !recorded.path.is_dir() && !given_up.path.is_dir());
        make_old(&unrecorded, KEPT + OLD);
        assert_eq!(names(&sweep_with(&store, &mut GcPolicy::default(), nobody_asks).unwrap()), ["sepia-b"]);
    }

    #[test]
    fn a_batch_with_a_living_job_is_never_touched_and_one_that_slurm_forgot_goes() {
        let (_dir, store) = store();
        for name in ["sepia-alive", "sepia-gone", "sepia-young"] {
            let (folder, _) = batch(&store, name);
            folder.claim(0, "12").unwrap();
            if name != "sepia-young" {
                make_old(&folder, OLD);
            }
        }
        let running = || JobLine {
            name: "sepia-alive".into(),
            job: "12".into(),
            index: 0,
            state: "RUNNING".into(),
            reason: "None".into(),
        };
        let found = sweep_with(&store, &mut GcPolicy::default(), |names| {
            assert_eq!(names, ["sepia-alive", "sepia-gone", "sepia-young"]);
            Some(vec![running()])
        });
        assert_eq!(names(&found.unwrap()), ["sepia-gone"]);
        let silent = sweep_with(&store, &mut GcPolicy::default(), |_| None).unwrap();
        assert_eq!((silent.over.len(), silent.kept), (0, 3), "a cluster that does not answer may have them all");
    }
}
