//! What a run and its jobs tell each other: files on the file system they share, and nothing else.
//!
//! ```text
//! .sepia/jobs/<key>.key         which task computes a key: `<batch> <number>`
//! .sepia/jobs/<batch>/
//!   batch.json                  the tasks of each job of the array, and how many run at once
//!   script.sh                   what Slurm starts
//!   <n>.order                   one task: all that an attempt needs
//!   job                         Slurm's number, once it is known
//!   job-*.out                   what the jobs themselves wrote
//!   status/<n>.claim            the one job that may run the task
//!   status/<n>-<r>.start        its r-th start (Slurm may start a job again) has begun
//!   status/<n>-<r>.reports      what the worker said, a line each
//!   status/<n>-<r>.end          that start has ended
//!   status/<n>.done             the first end that counts
//!   work/<n>-<r>/               the attempt's own folder
//! ```
//!
//! Invariants:
//! - A batch is whole on the disk before Slurm hears of it; its name is that of its jobs, so it can be found again.
//! - `claim` and `done` are made by a hard link: exactly one wins, on every file system. A run that gives a task up claims it
//!   itself, so a job that is still in some queue will never run it.
//! - `end` and `done` are whole files: written beside, synced, then given their name. Everything that they name is synced
//!   before.
//! - A network file system may show a folder as it was a minute ago: that a file is missing is believed only after Slurm
//!   said that the job is over *and* some time has passed ([`grace`]).

use std::{
    collections::BTreeMap,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::Store;
use serde::{Deserialize, Serialize};

use super::order::{EndRecord, TaskOrder};
use crate::exec::worker::Report;

pub(super) const JOB: &str = "job";

/// Where all of it is.
pub(super) fn jobs_dir(store: &Store) -> Utf8PathBuf {
    store.root().join("jobs")
}

/// Writes a file so that it is there whole or not at all.
pub(super) fn write_whole(path: &Utf8Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = beside(path);
    let mut file = fs_err::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs_err::rename(&beside, path)
}

/// Makes a file unless there is one: whether it was made. Of several who try, one succeeds.
fn write_first(path: &Utf8Path, bytes: &[u8]) -> std::io::Result<bool> {
    let beside = beside(path);
    let mut file = fs_err::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let linked = fs_err::hard_link(&beside, path);
    fs_err::remove_file(&beside)?;
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// A name of this process's own beside a path.
fn beside(path: &Utf8Path) -> Utf8PathBuf {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let thread = format!("{:?}", std::thread::current().id()).replace(|c: char| !c.is_ascii_digit(), "");
    path.with_file_name(format!(".{}.{host}.{}.{thread}", path.file_name().unwrap_or_default(), std::process::id()))
}

/// How the tasks of a batch are shared out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Shape {
    pub(super) store: Utf8PathBuf,
    /// The numbers of the tasks of each job.
    pub(super) groups: Vec<Vec<usize>>,
    pub(super) at_once: usize,
}
/// One batch on the disk.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub(super) path: Utf8PathBuf,
}

/// What the folder `status/` shows of the tasks.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// The last start of each task.
    pub(super) started: BTreeMap<usize, u32>,
    /// The last end of each task.
    pub(super) ended: BTreeMap<usize, u32>,
    /// The tasks with an end that counts.
    pub(super) done: Vec<usize>,
}

impl Folder {
    pub(super) fn of(jobs: &Utf8Path, batch: &str) -> Self {
        Self { path: jobs.join(batch) }
    }

    fn status(&self, name: &str) -> Utf8PathBuf {
        self.path.join("status").join(name)
    }

    /// Writes everything that the jobs need.
    pub(super) fn write(&self, shape: &Shape, orders: &[TaskOrder], script: &str) -> std::io::Result<()> {
        fs_err::create_dir_all(self.path.join("status"))?;
        fs_err::create_dir_all(self.path.join("work"))?;
        for (n, order) in orders.iter().enumerate() {
            fs_err::write(self.path.join(format!("{n}.order")), serde_json::to_vec(order)?)?;
        }
        fs_err::write(self.script(), script)?;
        write_whole(&self.path.join("batch.json"), &serde_json::to_vec(shape)?)
    }

    pub(super) fn script(&self) -> Utf8PathBuf {
        self.path.join("script.sh")
    }

    pub(super) fn shape(&self) -> std::io::Result<Shape> {
        Ok(serde_json::from_slice(&fs_err::read(self.path.join("batch.json"))?)?)
    }

    pub(super) fn order(&self, n: usize) -> std::io::Result<TaskOrder> {
        Ok(serde_json::from_slice(&fs_err::read(self.path.join(format!("{n}.order")))?)?)
    }

    pub(super) fn job(&self) -> Option<String> {
        fs_err::read_to_string(self.path.join(JOB)).ok()
    }

    /// Claims a task for `who`. The answer: who has it.
    pub(super) fn claim(&self, n: usize, who: &str) -> std::io::Result<String> {
        let path = self.status(&format!("{n}.claim"));
        if write_first(&path, who.as_bytes())? { Ok(who.to_owned()) } else { fs_err::read_to_string(path) }
    }

    /// Who has a task.
    pub(super) fn claimant(&self, n: usize) -> Option<String> {
        fs_err::read_to_string(self.status(&format!("{n}.claim"))).ok()
    }

    pub(super) fn begin(&self, n: usize, restart: u32, host: &str) -> std::io::Result<()> {
        write_whole(&self.status(&format!("{n}-{restart}.start")), host.as_bytes())
    }

    /// The host of a start.
    pub(super) fn host(&self, n: usize, restart: u32) -> Option<String> {
        fs_err::read_to_string(self.status(&format!("{n}-{restart}.start"))).ok()
    }

    /// Publishes an end; of those that count, the first wins.
    pub(super) fn end(&self, n: usize, restart: u32, record: &EndRecord) -> std::io::Result<()> {
        let bytes = serde_json::to_vec(record)?;
        if record.ending.counts() {
            write_first(&self.status(&format!("{n}.done")), &bytes)?;
        }
        write_whole(&self.status(&format!("{n}-{restart}.end")), &bytes)
    }

    /// The end that counts. Opening the file asks the server, where a listing may be old.
    pub(super) fn done(&self, n: usize) -> Option<EndRecord> {
        serde_json::from_slice(&fs_err::read(self.status(&format!("{n}.done"))).ok()?).ok()
    }

    pub(super) fn end_of(&self, n: usize, restart: u32) -> Option<EndRecord> {
        serde_json::from_slice(&fs_err::read(self.status(&format!("{n}-{restart}.end"))).ok()?).ok()
    }

    pub(super) fn is_done(&self, n: usize) -> bool {
        self.status(&format!("{n}.done")).exists()
    }

    pub(super) fn work(&self, n: usize, restart: u32) -> Utf8PathBuf {
        self.path.join("work").join(format!("{n}-{restart}"))
    }

    pub(super) fn reports(&self, n: usize, restart: u32) -> std::io::Result<fs_err::File> {
        fs_err::OpenOptions::new().create(true).append(true).open(self.status(&format!("{n}-{restart}.reports")))
    }

    /// What was reported since `from`, which is moved on; a torn last line waits for the next call.
    pub(super) fn new_reports(&self, n: usize, restart: u32, from: &mut u64) -> Vec<Report> {
        let Ok(mut file) = fs_err::File::open(self.status(&format!("{n}-{restart}.reports"))) else {
            return Vec::new();
        };
        let mut bytes = Vec::new();
        if file.seek(SeekFrom::Start(*from)).is_err() || file.read_to_end(&mut bytes).is_err() {
            return Vec::new();
        }
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        *from += whole as u64;
        bytes[..whole].split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    /// One look at the folder, whatever the number of tasks.
    pub(super) fn look(&self) -> Status {
        let mut status = Status::default();
        let Ok(entries) = self.path.join("status").read_dir_utf8() else { return status };
        for entry in entries.filter_map(Result::ok) {
            let Some((stem, what)) = entry.file_name().rsplit_once('.') else { continue };
            let (n, restart) = stem.split_once('-').unwrap_or((stem, "0"));
            let (Ok(n), Ok(restart)) = (n.parse::<usize>(), restart.parse::<u32>()) else { continue };
            let later = |map: &mut BTreeMap<usize, u32>| {
                let last = map.entry(n).or_insert(restart);
                *last = restart.max(*last);
            };
            match what {
                "start" => later(&mut status.started),
                "end" => later(&mut status.ended),
                "done" => status.done.push(n),
                _ => {}
            }
        }
        status
    }

    /// The last lines that a job itself wrote, and what Slurm wrote for it.
    pub(super) fn output(&self, group: usize) -> Vec<String> {
        let suffix = format!("_{group}.out");
        let Ok(entries) = self.path.read_dir_utf8() else { return Vec::new() };
        let is_own = |name: &str| name.ends_with(&suffix) || (name.ends_with(".out") && !name.contains('_'));
        let outputs = entries.filter_map(Result::ok).filter(|entry| is_own(entry.file_name()));
        let mut lines: Vec<String> = outputs
            .filter_map(|entry| fs_err::read(entry.path()).ok())
            .flat_map(|bytes| String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        lines.drain(..lines.len().saturating_sub(12));
        lines
    }

    pub(super) fn remove(&self) {
        // A copy of a job that still writes here ends with an error, and nobody minds.
        let _ = fs_err::remove_dir_all(&self.path);
    }
}
/// How long a missing file is not believed to be missing. Network file systems keep old listings for up to a minute.
pub(super) fn grace(folder: &Utf8Path) -> Duration {
    const NETWORK: [u64; 6] = [0x6969, 0x0BD0_0BD0, 0x4750_4653, 0x1983_0326, 0xFF53_4D42, 0xFE53_4D42];
    let kind = rustix::fs::statfs(folder.as_std_path()).map(|stat| stat.f_type);
    #[expect(clippy::cast_sign_loss, reason = "a magic number is a pattern of 32 bits")]
    let network = kind.is_ok_and(|kind| NETWORK.contains(&(kind as u64 & 0xFFFF_FFFF)));
    Duration::from_secs(if network { 60 } else { 2 })
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Failure, exec::slurm::order::TaskEnd};

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::of(Utf8Path::from_path(dir.path()).unwrap(), "b");
        let shape = Shape { store: "s".into(), groups: vec![vec![0, 1]], at_once: 1 };
        folder.write(&shape, &[], "").unwrap();
        (dir, folder)
    }

    fn end(ending: TaskEnd) -> EndRecord {
        EndRecord {
            ending,
            metrics: "loss\t1\tNaN\n".into(),
            cpu_seconds: 0.0,
            peak_memory_bytes: 0,
            seconds: 1.0,
            started_at: 5,
            job: "12".into(),
            machine: serde_json::Map::new(),
            killed: false,
        }
    }

    #[test]
    fn of_many_who_claim_a_task_one_gets_it() {
        let (_dir, folder) = folder();
        let winners: Vec<String> = std::thread::scope(|scope| {
            let claims: Vec<_> = (0..8)
                .map(|who| {
                    scope.spawn({
                        let folder = &folder;
                        move || folder.claim(0, &who.to_string()).unwrap()
                    })
                })
                .collect();
            claims.into_iter().map(|claim| claim.join().unwrap()).collect()
        });
        assert!(winners.iter().all(|winner| *winner == winners[0]), "{winners:?}");
        assert_eq!(folder.claim(0, "late").unwrap(), winners[0]);
        assert_eq!(folder.claim(1, "late").unwrap(), "late");
    }

    #[test]
    fn the_first_end_that_counts_wins_and_an_interrupted_start_is_none() {
        let (_dir, folder) = folder();
        folder.begin(0, 0, "n1").unwrap();
        folder.end(0, 0, &end(TaskEnd::Interrupted { step: 4 })).unwrap();
        let status = folder.look();
        assert_eq!((status.started.get(&0), status.ended.get(&0), status.done.len()), (Some(&0), Some(&0), 0));
        folder.begin(0, 1, "n2").unwrap();
        folder.end(0, 1, &end(TaskEnd::Finished { outputs: vec![] })).unwrap();
        // The copy on the lost node was not dead after all.
        folder.end(0, 0, &end(TaskEnd::Failed { failure: Failure::default() })).unwrap();
        assert_eq!(folder.look().done, [0]);
        let done = folder.done(0).unwrap();
        assert!(matches!(done.ending, TaskEnd::Finished { .. }));
        assert!(done.into_ended(&[], "log".into()).metrics[0].value.is_nan());
        assert_eq!(folder.host(0, 1).as_deref(), Some("n2"));
    }

    #[test]
    fn reports_are_read_once_and_whole() {
        let (_dir, folder) = folder();
        let mut file = folder.reports(0, 0).unwrap();
        let line = serde_json::to_string(&Report::Checkpoint { step: 1 }).unwrap();
        write!(file, "{line}\n{}", &line[..5]).unwrap();
        let mut from = 0;
        assert_eq!(folder.new_reports(0, 0, &mut from), [Report::Checkpoint { step: 1 }]);
        assert!(folder.new_reports(0, 0, &mut from).is_empty());
        writeln!(file, "{}", &line[5..]).unwrap();
        assert_eq!(folder.new_reports(0, 0, &mut from).len(), 1);
    }

    #[test]
    fn a_local_disk_is_believed_soon() {
        assert!(grace("/tmp".into()) <= Duration::from_secs(2));
    }
}
