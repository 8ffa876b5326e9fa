//! A real sshd on this machine, with a server that is killed, hangs, has no room, or is not there.
//!
//! `tests/services/ssh-up.sh` starts it, with keys and a configuration of its own. Where sshd is not installed, the tests
//! say so and check nothing.

use std::process::{Command, Stdio};
use std::sync::OnceLock;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Lab, ROLE, largest, produce_large, wait_for};

/// Enough that a transfer is seen while it goes on.
const LARGE: usize = 96 << 20;

/// The client's configuration of a running sshd.
fn sshd() -> Option<&'static Utf8Path> {
    static SSHD: OnceLock<Option<Utf8PathBuf>> = OnceLock::new();
    SSHD.get_or_init(|| start("")).as_deref()
}

/// Starts one, with this command as its sftp server.
fn start(sftp: &str) -> Option<Utf8PathBuf> {
    if Command::new("sh")
        .args(["-c", "command -v sshd || test -x /usr/sbin/sshd"])
        .output()
        .is_ok_and(|o| !o.status.success())
    {
        eprintln!("sshd is not installed: the tests over ssh are skipped (apt-get install openssh-server)");
        return None;
    }
    let folder = Utf8PathBuf::from_path_buf(tempfile::tempdir().unwrap().keep()).unwrap();
    let services = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/services");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let up = Command::new(services.join("ssh-up.sh")).arg(&folder).arg(port.to_string()).arg(sftp).output().unwrap();
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    // It goes with this process, however that ends.
    let watch = format!(
        "while kill -0 {} 2>/dev/null; do sleep 1; done; kill $(cat {folder}/sshd.pid); rm -r {folder}",
        std::process::id()
    );
    let mut watching = Command::new("sh");
    watching.args(["-c", &watch]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(watching.spawn().is_ok());
    Some(folder.join("config"))
}

/// A lab behind sshd. What stands for Sepia there is a script that does `first` and then becomes the test program as a
/// server; `options` follow the address.
fn lab(first: &str, options: &str) -> Option<Lab> {
    let config = sshd()?;
    let lab = Lab::new("{}");
    let script = lab.root.join("sepia");
    let program = std::env::current_exe().unwrap();
    let text = format!(
        "#!/bin/sh\necho $$ >> {}/servers\n{first}\nexec env {ROLE}=serve '{}' --exact lab::worker --nocapture\n",
        lab.root,
        program.display()
    );
    std::fs::write(&script, text).unwrap();
    Command::new("chmod").args(["+x", script.as_str()]).status().unwrap();
    let ssh = format!("ssh -F {config}");
    let url = format!("ssh://ci-host{}/lab?sepia={script}{options}", lab.root);
    Some(Lab { url, ..lab }.with("SEPIA_SSH", ssh))
}

/// The process ids of the servers that were started so far.
fn servers(lab: &Lab) -> Vec<Pid> {
    let text = std::fs::read_to_string(lab.root.join("servers")).unwrap_or_default();
    text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}

/// Some may have ended already.
fn signal(servers: &[Pid], signal: Signal) {
    for server in servers {
        let _ = kill_process(*server, signal);
    }
}

/// How much of an upload is there, and of a download here.
fn uploaded(lab: &Lab) -> u64 {
    largest(&lab.root.join("lab"), &|name| name.ends_with(".partial"))
}

fn downloaded(lab: &Lab, store: &str) -> u64 {
    largest(&lab.root.join(store).join("cache/incoming"), &|name| name == "data" || name == "wire")
}

/// Pushes something large; the first server dies in the middle of it, and another takes its place.
fn push_past_a_kill(lab: &Lab) {
    produce_large(&lab.store("ours"), LARGE);
    let push = lab.start("send ours");
    wait_for(|| (uploaded(lab) > 1 << 20).then_some(()));
    let first = servers(lab);
    signal(&first, Signal::KILL);
    assert_eq!(Lab::end(push), Ok(()));
    assert!(servers(lab).len() > first.len(), "it was started again");
}

#[test]
fn twenty_who_push_at_once_lose_nothing() {
    // A machine that does other things may leave one of forty processes waiting for long.
    let Some(lab) = lab("", "&timeout=600") else { return };
    lab.crowd();
}

#[test]
fn a_server_that_is_killed_is_started_again_and_nothing_is_sent_twice() {
    let Some(lab) = lab("", "") else { return };
    push_past_a_kill(&lab);
    let pull = lab.start("fetch theirs");
    wait_for(|| (downloaded(&lab, "theirs") > 1 << 20).then_some(()));
    let before = servers(&lab);
    signal(&before, Signal::KILL);
    assert_eq!(Lab::end(pull), Ok(()));
    assert_eq!(lab.all_of("theirs"), 1);
}

#[test]
fn a_client_that_is_killed_goes_on_where_it_was() {
    let Some(lab) = lab("", "") else { return };
    produce_large(&lab.store("ours"), LARGE);
    let mut push = lab.start("send ours");
    let there = wait_for(|| Some(uploaded(&lab)).filter(|there| *there > 4 << 20));
    push.kill().unwrap();
    push.wait().unwrap();
    // What is there stays when the server has seen that nobody is there any more.
    assert!(uploaded(&lab) >= there || uploaded(&lab) == 0);
    assert_eq!(lab.run("send ours"), Ok(()));
    let mut pull = lab.start("fetch theirs");
    wait_for(|| (downloaded(&lab, "theirs") > 4 << 20).then_some(()));
    pull.kill().unwrap();
    pull.wait().unwrap();
    assert!(downloaded(&lab, "theirs") > 4 << 20);
    assert_eq!(lab.run("fetch theirs"), Ok(()));
    assert_eq!(lab.all_of("theirs"), 1);
}

#[test]
fn a_server_that_hangs_is_left_after_the_time_out() {
    let Some(lab) = lab("", "&timeout=3") else { return };
    produce_large(&lab.store("ours"), LARGE);
    let push = lab.start("send ours");
    wait_for(|| (uploaded(&lab) > 1 << 20).then_some(()));
    let hung = servers(&lab);
    signal(&hung, Signal::STOP);
    let error = Lab::end(push).unwrap_err();
    assert!(error.contains("nothing came for 3 s: it hangs, or the connection is gone"), "{error}");
    // Even while it lies there, holding its lock, the next push succeeds.
    assert_eq!(lab.run("send ours"), Ok(()));
    signal(&hung, Signal::KILL);
    assert_eq!(lab.run("fetch theirs"), Ok(()));
    assert_eq!(lab.all_of("theirs"), 1);
}

#[test]
fn a_full_disk_there_is_said_and_leaves_nothing() {
    // No file longer than 32 MiB can be written there: room for the probe of `remote add`, and not for more.
    let Some(lab) = lab("trap '' XFSZ; ulimit -f 65536", "") else { return };
    produce_large(&lab.store("ours"), LARGE);
    let error = lab.run("send ours").unwrap_err();
    assert!(error.contains("cannot take objects/") && error.contains("the disk there is full"), "{error}");
    assert_eq!(uploaded(&lab), 0);
}

#[test]
fn bytes_that_were_changed_there_are_refused_here() {
    let Some(lab) = lab("", "") else { return };
    let object = produce_large(&lab.store("ours"), 3 << 20);
    assert_eq!(lab.run("send ours"), Ok(()));
    let hex = object.digest.to_string();
    let path = lab.root.join(format!("lab/objects/{}/{}", &hex[..2], &hex[2..]));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[2 << 20] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let error = lab.run("fetch theirs").unwrap_err();
    assert!(error.contains("do not match its digest (nothing was changed)"), "{error}");
    assert!(!lab.store("theirs").present(&object));
}

#[test]
fn hosts_without_sepia_or_without_us_are_told_apart() {
    let Some(lab) = lab("", "") else { return };
    let at = |url: String| Lab::end(lab.start_at(&url, "send ours")).unwrap_err();
    let missing = at(format!("ssh://ci-host{}/lab?sepia=/no/such/sepia", lab.root));
    assert!(missing.contains("there is no `'/no/such/sepia'` on ci-host"), "{missing}");
    assert!(missing.contains("is enough) and say where it is: `?sepia=~/sepia` after the address"), "{missing}");
    let stranger = at(format!("ssh://nobody-of-this-name@ci-host{}/lab", lab.root));
    assert!(stranger.contains("has to work, with a key or an agent"), "{stranger}");
    let nowhere = at("ssh://127.0.0.1:1/data".to_owned());
    assert!(nowhere.contains("Connection refused"), "{nowhere}");
    let rubbish = lab.root.join("rubbish");
    std::fs::write(&rubbish, "#!/bin/sh\necho hello\n").unwrap();
    Command::new("chmod").args(["+x", rubbish.as_str()]).status().unwrap();
    let no_sepia = at(format!("ssh://ci-host{}/lab?sepia={rubbish}", lab.root));
    assert!(no_sepia.contains("no Sepia answered, but: hello"), "{no_sepia}");
}

/// A lab behind an sshd on a host without Sepia.
fn sftp_lab() -> Option<Lab> {
    let lab = Lab::new("{}");
    let program = ["/usr/lib/openssh/sftp-server", "/usr/lib/sftp-server", "/usr/libexec/openssh/sftp-server"];
    let Some(program) = program.into_iter().find(|path| Utf8Path::new(path).exists()) else {
        eprintln!("sftp-server is not installed: its test is skipped (apt-get install openssh-sftp-server)");
        return None;
    };
    let script = lab.root.join("sftp");
    let text = format!("#!/bin/sh\necho $$ >> {}/servers\nexec {program}\n", lab.root);
    std::fs::write(&script, text).unwrap();
    Command::new("chmod").args(["+x", script.as_str()]).status().unwrap();
    let ssh = format!("ssh -F {}", start(script.as_str())?);
    let url = format!("ssh://ci-host{}/lab?sepia=/no/such/sepia&timeout=600", lab.root);
    Some(Lab { url, ..lab }.with("SEPIA_SSH", ssh))
}

#[test]
fn a_host_without_sepia_is_reached_over_its_sftp() {
    let Some(lab) = sftp_lab() else { return };
    push_past_a_kill(&lab);
    let way = lab.store("ours").remotes().unwrap().remove(0).probe.way;
    assert_eq!(way, Some(sepia_cache::Way::Sftp));
    // A client that is killed leaves what it has got, and goes on from there.
    let mut pull = lab.start("fetch theirs");
    wait_for(|| (downloaded(&lab, "theirs") > 4 << 20).then_some(()));
    pull.kill().unwrap();
    pull.wait().unwrap();
    assert!(downloaded(&lab, "theirs") > 4 << 20);
    let pull = lab.start("fetch theirs");
    wait_for(|| (downloaded(&lab, "theirs") > 8 << 20).then_some(()));
    signal(&servers(&lab), Signal::KILL);
    assert_eq!(Lab::end(pull), Ok(()));
    assert_eq!(lab.all_of("theirs"), 1);
    assert_eq!(uploaded(&lab), 0, "nothing hidden is left");
}

#[test]
fn twenty_who_push_at_once_over_sftp_lose_nothing() {
    let Some(lab) = sftp_lab() else { return };
    lab.crowd();
}
