//! Kills what a killed run leaves behind.
//!
//! A worker notices that its parent is gone by its standard input. A program of the author's does not. So a run that
//! starts such programs also starts one reaper: a child of the same binary that is told every process group, and when the
//! pipe to the run closes without a farewell it kills those that are left.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};

/// The run's end of the pipe.
#[derive(Debug)]
pub(super) struct Reaper {
    child: Child,
    pipe: ChildStdin,
    /// What it has not been told yet.
    unsent: String,
}

impl Reaper {
    /// Starts the reaper process.
    pub(super) fn start(program: &std::path::Path) -> std::io::Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(program);
        command.arg("__reap").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn()?;
        let pipe = child.stdin.take().ok_or_else(|| std::io::Error::other("the reaper has no standard input"))?;
        Ok(Self { child, pipe, unsent: String::new() })
    }

    /// A group to kill if this run dies. Told by the next [`tell`](Self::tell).
    pub(super) fn guard(&mut self, group: u32) {
        self.note('+', group);
    }

    /// A group that has ended. Told by the next [`tell`](Self::tell).
    pub(super) fn release(&mut self, group: u32) {
        self.note('-', group);
    }

    fn note(&mut self, sign: char, group: u32) {
        use std::fmt::Write as _;
        let _ = writeln!(self.unsent, "{sign}{group}");
    }

    /// Passes on what there is to tell, in one write: each wakes the reaper. The loop calls this before it waits for
    /// anything, so that nothing stays untold.
    pub(super) fn tell(&mut self) {
        if !self.unsent.is_empty() {
            let _ = self.pipe.write_all(self.unsent.as_bytes());
            self.unsent.clear();
        }
    }

    /// Ends the reaper; every group must have been released.
    pub(super) fn dismiss(mut self) {
        self.tell();
        drop(self.pipe);
        let _ = self.child.wait();
    }
}

/// The reaper process: returns when the run is gone and nothing of it is left.
pub fn reap() {
    let mut groups = BTreeSet::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match (line.strip_prefix('+'), line.strip_prefix('-')) {
            (Some(group), _) => drop(groups.insert(group.to_owned())),
            (_, Some(group)) => drop(groups.remove(group)),
            _ => {}
        }
    }
    for group in groups.iter().filter_map(|group| group.parse().ok()).filter_map(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}
