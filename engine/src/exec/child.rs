//! A child process under control: its own process group, ended for certain, its resources measured.

use std::{
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use wait4::Wait4 as _;

/// What a child used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) peak_memory_bytes: u64,
    /// It was ended by SIGKILL or SIGTERM: from outside.
    pub(super) killed: bool,
}

/// A handle to signal a child's process group from another thread. Once the child is reaped its number may belong to
/// somebody else, so the handle is emptied first, under a lock.
#[derive(Debug, Clone, Default)]
pub(super) struct Leash(Arc<Mutex<LeashState>>);

#[derive(Debug, Default)]
struct LeashState {
    group: Option<Pid>,
    /// A signal that came before the child was there.
    pending: Option<Signal>,
}

impl Leash {
    /// Sends a signal to the whole group: at once, or as soon as there is one.
    pub(super) fn signal(&self, signal: Signal) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.group {
            Some(group) => drop(kill_process_group(group, signal)),
            None => state.pending = Some(signal),
        }
    }

    fn attach(&self, group: Option<Pid>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.group = group;
        if let (Some(group), Some(signal)) = (group, state.pending) {
            let _ = kill_process_group(group, signal);
        }
    }

    fn detach(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).group = None;
    }
}

/// Starts a child as the leader of a process group of its own.
pub(super) fn spawn(command: &mut Command, leash: &Leash) -> std::io::Result<Child> {
    use std::os::unix::process::CommandExt as _;
    let child = command.process_group(0).spawn()?;
    leash.attach(i32::try_from(child.id()).ok().and_then(Pid::from_raw));
    Ok(child)
}

/// Waits for the child, then ends whatever else is left of its group. `ended` is called while its number is still its own.
pub(super) fn wait(child: Child, leash: &Leash, ended: impl FnOnce()) -> std::io::Result<(ExitStatus, Usage)> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // Wait without reaping: the number stays ours until the group is dealt with.
        let ended = || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        while matches!(ended(), Err(rustix::io::Errno::INTR)) {}
        leash.detach();
        let _ = kill_process_group(pid, Signal::KILL);
    }
    ended();
    use std::os::unix::process::ExitStatusExt as _;
    let used = child.wait4()?;
    let seconds = |time: Duration| time.as_secs_f64();
    let usage = Usage {
        cpu_seconds: seconds(used.rusage.utime) + seconds(used.rusage.stime),
        peak_memory_bytes: used.rusage.maxrss,
        killed: matches!(used.status.signal(), Some(9 | 15)),
    };
    Ok((used.status, usage))
}

/// How a process ended, in words; `None` when it ended well.
pub(super) fn describe_end(status: ExitStatus) -> Option<String> {
    use std::os::unix::process::ExitStatusExt as _;
    if status.success() {
        return None;
    }
    Some(match (status.code(), status.signal()) {
        (Some(code), _) => format!("it exited with code {code}"),
        (None, Some(9)) => "it was killed (SIGKILL): by the kernel, if memory ran out, or by somebody".to_owned(),
        (None, Some(signal)) => format!("it was killed by signal {signal}{}", signal_name(signal)),
        (None, None) => "it ended in an unknown way".to_owned(),
    })
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        2 => " (SIGINT)",
        4 => " (SIGILL: an instruction that this processor lacks)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        24 => " (SIGXCPU)",
        25 => " (SIGXFSZ: a file grew beyond its limit)",
        _ => "",
    }
}
