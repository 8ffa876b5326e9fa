//! The user's own `ssh`, as the carrier of a connection.
//!
//! `ssh` and not a library of ours: configuration, agents, jump hosts, hardware keys and second factors (through a control
//! master) work as the user has set them up. It must not ask anything, since it may run in the middle of a run.
//! `SEPIA_SSH` names another program, with its arguments (`ssh -F my_config`), divided at blanks.

use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::line::{Transport, printable};
use super::place::Place;

/// How long a program that has closed its output may take to end.
const GRACE: Duration = Duration::from_secs(5);
/// How much of what it says is kept.
const SAID: usize = 4 << 10;

/// What is started at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Far {
    /// Sepia.
    Serve,
    /// The sftp server of the host's sshd.
    Sftp,
}

/// There is no Sepia on the host.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoProgram(String);

/// Whether an error says that there is no Sepia on the host.
pub(super) fn is_no_program(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<NoProgram>())
}

/// Starts `ssh` with the server of a place at the other end.
pub(super) fn dial(place: &Place, far: Far) -> io::Result<Transport> {
    let mut command = ssh_to(place, far, std::env::var("SEPIA_SSH").ok().as_deref());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A Ctrl-C is ours to handle: what is being transferred may come to a good end.
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| {
        let program = command.get_program().to_string_lossy();
        io::Error::other(format!("`{program}` cannot be started ({error}); install it, or name it in SEPIA_SSH"))
    })?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(to), Some(from), Some(mut stderr)) = pipes else {
        return Err(io::Error::other("the program has no standard streams"));
    };
    let said = Arc::new(Mutex::new(Vec::new()));
    let says = Arc::clone(&said);
    let reader = std::thread::Builder::new().name("ssh says".to_owned()).spawn(move || {
        let mut piece = [0; 512];
        while let Ok(n) = stderr.read(&mut piece)
            && n > 0
        {
            let mut said = says.lock().unwrap_or_else(PoisonError::into_inner);
            let room = SAID - said.len();
            said.extend_from_slice(&piece[..n.min(room)]);
        }
    })?;
    let ssh = Arc::new(Ssh { child: Mutex::new(child), said, reader: Mutex::new(Some(reader)), place: place.clone() });
    let ends = Arc::clone(&ssh);
    Ok(Transport {
        from: Box::new(from),
        to: Box::new(to),
        hang_up: Box::new(move |at_once| ends.end(at_once)),
        why: Box::new(move |_| ssh.why()),
    })
}

fn ssh_to(place: &Place, far: Far, program: Option<&str>) -> Command {
    let mut words = program.unwrap_or_default().split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("ssh"));
    command.args(words).args(["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"]);
    // So that it notices a connection that is gone.
    command.args(["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"]);
    if let Some(port) = place.port {
        command.args(["-p", &port.to_string()]);
    }
    // A place's host never begins with a `-`.
    match far {
        Far::Serve => command.arg(&place.host).arg(format!("{} serve --stdio", place.program())),
        Far::Sftp => command.args(["-s", &place.host, "sftp"]),
    };
    command
}

struct Ssh {
    child: Mutex<Child>,
    said: Arc<Mutex<Vec<u8>>>,
    reader: Mutex<Option<std::thread::JoinHandle<()>>>,
    place: Place,
}

impl Ssh {
    fn end(&self, at_once: bool) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        while !at_once && begun.elapsed() < GRACE && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        // It may have ended already; then neither does anything.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// How it ended. It has closed its output, so it is about to.
    fn status(&self) -> Option<std::process::ExitStatus> {
        let begun = Instant::now();
        loop {
            let status = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().ok()?;
            if status.is_some() || begun.elapsed() >= GRACE {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Why it ended, from its exit code and what it said.
    fn why(&self) -> Option<io::Error> {
        let status = self.status()?;
        if let Some(reader) = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The pipe is closed by now, unless the program has left others behind that hold it.
            let begun = Instant::now();
            while !reader.is_finished() && begun.elapsed() < GRACE {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        explain(&self.place, status.code(), &String::from_utf8_lossy(&said))
    }
}

/// What an exit code and an error text mean; `None`: nothing that the connection does not know.
fn explain(place: &Place, code: Option<i32>, said: &str) -> Option<io::Error> {
    let said = printable(said.trim());
    let host = &place.host;
    let port = place.port.map(|port| format!(" -P {port}")).unwrap_or_default();
    if said.contains("subsystem request failed") {
        return Some(io::Error::other(format!("the sshd on {host} offers no sftp ({said})")));
    }
    let text = match code {
        Some(126 | 127) => format!(
            "there is no `{}` on {host} ({said}); copy it there (`scp{port} \"$(command -v sepia)\" {host}:` is enough) and say where it is: `?sepia=~/sepia` after the address",
            place.program()
        ),
        Some(2) if said.contains("serve") => format!("the Sepia on {host} is too old for this: {said}; update it"),
        Some(255) if said.contains("Permission denied") => {
            format!(
                "ssh cannot log in to {host} without asking ({said}); `ssh {host} true` has to work, with a key or an agent"
            )
        }
        Some(255) if said.is_empty() => format!("the server on {host} was killed, or the connection was cut"),
        Some(255) => format!("ssh: {said}"),
        _ if !said.is_empty() => format!("the server on {host} ended: {said}"),
        _ => return None,
    };
    if matches!(code, Some(126 | 127)) {
        return Some(io::Error::other(NoProgram(text)));
    }
    // What may pass is tried again, and what it says is kept.
    let passing = code == Some(255) && !said.contains("Permission denied") && !said.contains("resolve");
    Some(io::Error::new(if passing { io::ErrorKind::ConnectionReset } else { io::ErrorKind::Other }, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_s_own_ssh_is_asked_for_no_terminal() {
        let place = Place::parse("me@host:2222/data/lab?sepia=/opt/my sepia").unwrap();
        let words = |program| {
            let command = ssh_to(&place, Far::Serve, program);
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            words.map(|word| word.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        let common = "-T -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=15 -o ServerAliveCountMax=3 -p 2222 \
                      me@host '/opt/my sepia' serve --stdio";
        assert_eq!(words(None), format!("ssh {common}"));
        assert_eq!(words(Some("/usr/bin/ssh -F my_config")), format!("/usr/bin/ssh -F my_config {common}"));
        let sftp = ssh_to(&place, Far::Sftp, None);
        let last: Vec<_> = sftp.get_args().skip(9).collect();
        assert_eq!(last, ["-p", "2222", "-s", "me@host", "sftp"]);
    }

    #[test]
    fn every_end_is_explained() {
        let place = Place::parse("host/data").unwrap();
        let text = |code, said| explain(&place, code, said).map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(
            text(Some(127), "bash: line 1: sepia: command not found\n"),
            "there is no `sepia` on host (bash: line 1: sepia: command not found); copy it there \
             (`scp \"$(command -v sepia)\" host:` is enough) and say where it is: `?sepia=~/sepia` after the address"
        );
        assert!(text(Some(2), "error: unrecognized subcommand 'serve'").contains("too old for this"));
        assert!(text(Some(255), "me@host: Permission denied (publickey).").contains("`ssh host true` has to work"));
        assert_eq!(text(Some(255), "ssh: connect to host h port 22: Connection refused").lines().count(), 1);
        assert_eq!(text(Some(1), ""), "");
        assert_eq!(text(Some(1), "a\u{1b}[31mb"), "the server on host ended: a [31mb");
    }
}
