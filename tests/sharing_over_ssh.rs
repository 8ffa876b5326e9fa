//! Results of two people who share a folder on a host, through a real sshd on this machine.
//!
//! What becomes of a server that is killed, hangs or has no room is tested in `cache/tests/remotes`.

use std::process::{Command, Stdio};

use crate::support::{Done, Project, data_and_model, repository};

/// What the first stage of the manifest does.
const DATA: &str = "head -c 700000 /dev/urandom > out; mkdir folder; seq 100000 > folder/a";

/// A running sshd, stopped when dropped.
struct Sshd {
    folder: tempfile::TempDir,
}

impl Sshd {
    fn start() -> Option<Self> {
        if !std::path::Path::new("/usr/sbin/sshd").exists() {
            eprintln!("sshd is not installed: the tests over ssh are skipped (apt-get install openssh-server)");
            return None;
        }
        let sshd = Self { folder: tempfile::tempdir().unwrap() };
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let up = Command::new(repository().join("tests/services/ssh-up.sh"))
            .arg(sshd.folder.path())
            .arg(port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(up.unwrap().success());
        Some(sshd)
    }

    /// Runs the program in a project, with this sshd as the way to `ci-host`.
    fn sepia(&self, project: &Project, arguments: &[&str]) -> Done {
        let ssh = format!("ssh -F {}", self.folder.path().join("config").display());
        Done::from(project.command(arguments).env("SEPIA_SSH", ssh).env("SEPIA_KEY", "/none").output().unwrap())
    }

    fn fine(&self, project: &Project, arguments: &[&str]) -> Done {
        let done = self.sepia(project, arguments);
        assert_eq!(done.code, 0, "{arguments:?}\n{}{}", done.out, done.err);
        done
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let stop = format!("kill $(cat '{}/sshd.pid')", self.folder.path().display());
        let _ = Command::new("sh").args(["-c", &stop]).status();
    }
}

#[test]
fn a_folder_on_a_host_is_a_remote_like_any_other() {
    let Some(sshd) = Sshd::start() else { return };
    let (alice, bob) = (Project::new(), Project::new());
    for project in [&alice, &bob] {
        project.write("m.toml", &data_and_model(DATA));
    }
    let lab = sshd.folder.path().join("lab");
    let url = format!("ssh://ci-host{}?sepia={}", lab.display(), env!("CARGO_BIN_EXE_sepia"));
    let added = sshd.fine(&alice, &["remote", "add", "lab", &url]);
    assert!(added.out.contains("yes reads from the middle"), "{}", added.out);
    sshd.fine(&bob, &["remote", "add", "lab", &url, "--trust"]);
    let done = sshd.fine(&alice, &["run", "m.toml", "--remote", "lab"]);
    assert!(done.err.contains("2 ran, 0 cached") && done.err.contains("Pushed 2 results to lab"), "{}", done.err);
    // Bob's run takes everything from there, and says as it goes how many bytes have come.
    let done = sshd.fine(&bob, &["run", "m.toml", "--remote", "lab", "--format", "json"]);
    let events: Vec<serde_json::Value> = done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let whole = events.iter().filter(|event| event["event"] == "fetching" && event["bytes"] == event["of_bytes"]);
    let fetched: std::collections::BTreeSet<_> = whole.filter_map(|event| event["node"].as_str()).collect();
    assert_eq!(fetched.into_iter().collect::<Vec<_>>(), ["data", "train"], "{}", done.out);
    let finished = events.iter().find(|event| event["event"] == "run-finished").unwrap();
    assert_eq!((&finished["summary"]["ran"], &finished["summary"]["cached"]), (&0.into(), &2.into()));
    assert_eq!(bob.outputs(), alice.outputs());
    // Nothing is there twice, and the last word says how much went.
    let pushed = sshd.fine(&alice, &["push", "--format", "json"]);
    let last: serde_json::Value = serde_json::from_str(pushed.out.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["bytes"], &last["known_outputs"]), (&"pushed".into(), &0.into(), &3.into()));
    bob.edit("m.toml", "seq 100000", "seq 100001");
    sshd.fine(&bob, &["run", "m.toml", "--remote", "lab"]);
    let pulled = sshd.fine(&alice, &["pull", "lab", "--format", "json"]);
    let last: serde_json::Value = serde_json::from_str(pulled.out.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["absent_outputs"]), (&"pulled".into(), &0.into()));
    sshd.fine(&alice, &["cache", "verify"]);
    // A run does not fail because the host has no Sepia any more; it says what to do.
    let gone = url.replace("?sepia=", "?sepia=/no");
    assert_eq!(sshd.sepia(&alice, &["remote", "add", "gone", &gone]).code, 3);
    let refused = sshd.sepia(&alice, &["remote", "add", "gone", &gone]).err;
    assert!(refused.contains("and say where it is: `?sepia=~/sepia` after the address"), "{refused}");
}
