//! How much memory this process and its children may use, and whether the kernel killed something for lack of it.
//!
//! Both are asked of the control group that the process is in: a container, a job of a cluster or a `systemd-run` has a
//! limit of its own, below what the machine has. The kernel counts the processes that it killed there; version 2 of
//! control groups (`memory.max`, `memory.events`) and version 1 (`memory.limit_in_bytes`, `memory.oom_control`) say the
//! same under different names. Where there is no such group, `/proc/vmstat` counts for the whole machine.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::OnceLock,
};

use super::child::{Usage, describe_end};
use crate::report::figures;

/// The control group of a process, as far as it concerns memory.
#[derive(Debug)]
pub(super) struct MemoryGroup {
    /// Its folder, and those above it, whose limits hold for it too.
    folders: Vec<PathBuf>,
    /// The file with the count of the kills, open: it is read with every attempt.
    counter: Option<File>,
}

impl MemoryGroup {
    /// That of this process, which is found once.
    pub(super) fn of_this_process() -> &'static Self {
        static GROUP: OnceLock<MemoryGroup> = OnceLock::new();
        GROUP.get_or_init(|| Self::find(Path::new("/")))
    }

    fn find(root: &Path) -> Self {
        let listed = fs_err::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        // `4:memory:/path` of version 1, `0::/path` of version 2; a machine can have both, with memory in one of them.
        let group = |wanted: fn(&str) -> bool| {
            listed.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                wanted(controllers).then(|| path.trim_start_matches('/'))
            })
        };
        let first = group(|controllers| controllers.split(',').any(|one| one == "memory"));
        let place = match (first, group(str::is_empty)) {
            (Some(path), _) => Some((root.join("sys/fs/cgroup/memory"), path)),
            (None, Some(path)) => Some((root.join("sys/fs/cgroup"), path)),
            (None, None) => None,
        };
        let folders: Vec<PathBuf> = place.map_or_else(Vec::new, |(top, path)| {
            // Inside a container the path may be that of the host, and the group's folder is the top one.
            let own = top.join(path);
            let own = if own.is_dir() { own } else { top.clone() };
            own.ancestors().take_while(|folder| folder.starts_with(&top)).map(Path::to_owned).collect()
        });
        let of_group = folders
            .first()
            .into_iter()
            .flat_map(|folder| ["memory.events", "memory.oom_control"].map(|name| folder.join(name)));
        let counter = of_group.chain([root.join("proc/vmstat")]).find_map(|path| {
            let file = File::open(path).ok()?;
            count(&file).map(|_| file)
        });
        Self { folders, counter }
    }

    /// The lowest limit, in bytes, that holds for the group.
    pub(super) fn limit(&self) -> Option<u64> {
        let limit = |folder: &PathBuf| {
            let text = ["memory.max", "memory.limit_in_bytes"].iter().find_map(|name| read(&folder.join(name)))?;
            // `max` is none.
            text.trim().parse::<u64>().ok()
        };
        self.folders.iter().filter_map(limit).min()
    }

    /// How many processes of the group, or of the machine, the kernel has killed for lack of memory.
    pub(super) fn kills(&self) -> u64 {
        self.counter.as_ref().and_then(count).unwrap_or(0)
    }
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The number of the line `oom_kill N`.
fn count(file: &File) -> Option<u64> {
    let (mut text, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match file.read_at(&mut piece, text.len() as u64).ok()? {
            0 => break,
            read => text.extend_from_slice(&piece[..read]),
        }
    }
    String::from_utf8(text).ok()?.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// What to say of a process that ended badly, if the kernel killed something for lack of memory meanwhile: what happened,
/// and what to do.
pub(super) fn out_of_memory(status: ExitStatus, usage: &Usage, limit: Option<u64>) -> (String, String) {
    use std::os::unix::process::ExitStatusExt as _;
    let peak = figures::bytes(usage.peak_memory_bytes);
    let limit = limit.map(|limit| format!(", and all together may use {}", figures::bytes(limit))).unwrap_or_default();
    let what = match (status.signal(), describe_end(status)) {
        (Some(9), _) | (_, None) => "the kernel killed it: out of memory".to_owned(),
        (_, Some(end)) => format!("{end}, after the kernel had killed a process of it: out of memory"),
    };
    let mebibytes = usage.peak_memory_bytes.div_ceil(1 << 20).max(1);
    let help = format!(
        "let it hold less at once (`batch_size`, `seq_len`, the model), or run it where there is more memory; if others ran \
         beside it, resources = {{ memory = \"{mebibytes} MiB\" }} in each of them, or `-j 1`, keeps them from it"
    );
    (format!("{what} (it held {peak}{limit})"), help)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    /// A root folder with some files of `proc` and `sys`.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn version_two_counts_in_its_events_and_the_lowest_limit_above_holds() {
        let root = root(&[
            ("proc/self/cgroup", "0::/user/run\n"),
            ("proc/vmstat", "oom_kill 9\n"),
            ("sys/fs/cgroup/user/memory.max", "4096\n"),
            ("sys/fs/cgroup/user/run/memory.max", "max\n"),
            ("sys/fs/cgroup/user/run/memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ]);
        let group = MemoryGroup::find(root.path());
        assert_eq!((group.limit(), group.kills()), (Some(4096), 2));
    }

    #[test]
    fn version_one_says_it_in_its_own_files() {
        let root = root(&[
            ("proc/self/cgroup", "5:cpu:/x\n4:cpuset,memory:/docker/1\n0::/\n"),
            ("sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "8192\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/docker/1/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
        ]);
        let group = MemoryGroup::find(root.path());
        assert_eq!((group.limit(), group.kills()), (Some(8192), 1));
    }

    #[test]
    fn a_container_sees_its_group_at_the_top_and_a_machine_without_groups_counts_as_a_whole() {
        let inside = root(&[
            ("proc/self/cgroup", "0::/host/path/of/it\n"),
            ("sys/fs/cgroup/memory.max", "100\n"),
            ("sys/fs/cgroup/memory.events", "oom_kill 5\n"),
        ]);
        let group = MemoryGroup::find(inside.path());
        assert_eq!((group.limit(), group.kills()), (Some(100), 5));
        let bare = root(&[("proc/vmstat", "pgfault 3\noom_kill 7\n")]);
        let group = MemoryGroup::find(bare.path());
        assert_eq!((group.limit(), group.kills()), (None, 7));
        let nothing = root(&[]);
        assert_eq!(MemoryGroup::find(nothing.path()).kills(), 0);
    }

    #[test]
    fn what_is_said_names_the_memory_and_what_to_change() {
        let usage = Usage { peak_memory_bytes: 3 << 20, ..Usage::default() };
        let (what, help) = out_of_memory(ExitStatus::from_raw(9), &usage, Some(4 << 20));
        assert_eq!(what, "the kernel killed it: out of memory (it held 3.0 MiB, and all together may use 4.0 MiB)");
        assert!(help.contains("`batch_size`") && help.contains("memory = \"3 MiB\""), "{help}");
        let (what, _) = out_of_memory(ExitStatus::from_raw(137 << 8), &usage, None);
        assert_eq!(
            what,
            "it exited with code 137, after the kernel had killed a process of it: out of memory (it held 3.0 MiB)"
        );
    }
}
