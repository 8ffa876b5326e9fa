//! Kills what a killed run leaves behind.
//!
//! A worker notices that its parent is gone by its standard input. A program of the author's does not. So a run that
//! starts such programs also starts one reaper: a child of the same binary that shares a list of process groups with the
//! run, and when the pipe from the run closes it kills those that still stand there.
//!
//! The list is a file in memory with four bytes for each group that lives at the same time. Writing a number there neither
//! wakes the reaper nor waits for it, and what is written is there, however the run ends.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    os::{
        fd::AsFd as _,
        unix::{fs::FileExt as _, process::CommandExt as _},
    },
    process::{Child, ChildStdin, Command, Stdio},
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    process::{Pid, Signal, kill_process_group},
};

/// The run's side.
#[derive(Debug)]
pub(super) struct Reaper {
    child: Child,
    pipe: ChildStdin,
    list: File,
    /// The place of each living group in the list.
    places: BTreeMap<u32, u64>,
    free: Vec<u64>,
}

/// The bytes of a place.
const SIZE: u64 = size_of::<u32>() as u64;

impl Reaper {
    /// Starts the reaper process.
    pub(super) fn start(program: &std::path::Path) -> std::io::Result<Self> {
        let list = File::from(memfd_create("process groups", MemfdFlags::CLOEXEC)?);
        let mut command = Command::new(program);
        command.arg("__reap").stdin(Stdio::piped()).stdout(list.try_clone()?).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn()?;
        let pipe = child.stdin.take().ok_or_else(|| std::io::Error::other("the reaper has no standard input"))?;
        Ok(Self { child, pipe, list, places: BTreeMap::new(), free: Vec::new() })
    }

    /// A group to kill if this run dies.
    pub(super) fn guard(&mut self, group: u32) {
        let place = self.free.pop().unwrap_or(self.places.len() as u64);
        self.write(place, group);
        self.places.insert(group, place);
    }

    /// A group that has ended. To be called before its leader is reaped: then its number may belong to somebody else.
    pub(super) fn release(&mut self, group: u32) {
        if let Some(place) = self.places.remove(&group) {
            self.write(place, 0);
            self.free.push(place);
        }
    }

    fn write(&self, place: u64, group: u32) {
        // Memory for four bytes: should there be none, the group is not guarded, and the run goes on.
        let _ = self.list.write_all_at(&group.to_ne_bytes(), place * SIZE);
    }

    /// Ends the reaper; every group must have been released.
    pub(super) fn dismiss(mut self) {
        drop(self.pipe);
        let _ = self.child.wait();
    }
}

/// The reaper process: returns when the run is gone and nothing of it is left. The list is its standard output.
pub fn reap() {
    let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
    let Ok(list) = std::io::stdout().as_fd().try_clone_to_owned().map(File::from) else { return };
    kill_all(&list);
}

fn kill_all(list: &File) {
    let mut group = [0; size_of::<u32>()];
    for place in 0.. {
        if list.read_exact_at(&mut group, place * SIZE).is_err() {
            return;
        }
        // 0 stands for a free place.
        if let Some(group) = i32::try_from(u32::from_ne_bytes(group)).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").process_group(0).spawn().unwrap()
    }

    #[test]
    fn groups_that_were_not_released_are_killed_and_no_others() {
        use std::os::unix::process::ExitStatusExt as _;
        // `cat` stands in for the reaper: it ends when its pipe does.
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pipe = child.stdin.take().unwrap();
        let list = File::from(memfd_create("groups", MemfdFlags::CLOEXEC).unwrap());
        let mut reaper = Reaper { child, pipe, list, places: BTreeMap::new(), free: Vec::new() };
        let mut sleepers = [sleeper(), sleeper(), sleeper()];
        reaper.guard(sleepers[0].id());
        reaper.guard(sleepers[1].id());
        reaper.release(sleepers[0].id());
        reaper.guard(sleepers[2].id());
        reaper.release(sleepers[2].id());
        assert_eq!(reaper.free.len() + reaper.places.len(), 2, "places are used again");
        kill_all(&reaper.list);
        reaper.dismiss();
        assert_eq!(sleepers[1].wait().unwrap().signal(), Some(9));
        for spared in [0, 2] {
            assert!(sleepers[spared].try_wait().unwrap().is_none());
            sleepers[spared].kill().unwrap();
            sleepers[spared].wait().unwrap();
        }
    }
}
