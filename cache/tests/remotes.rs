//! A remote between processes: many who push at once, and kills at any moment.
//!
//! The test program starts itself again as a worker; the worker's part is in the environment variable `ROLE`.

#![expect(clippy::unwrap_used, reason = "what helps a test may fail as a test does")]

mod support;

use std::process::{Child, Command, Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{Digest, OpenMode, Record, RecordOutput, Store, What, hash_output};
use support::bare_record;

const ROLE: &str = "SEPIA_REMOTE_TEST_ROLE";
const ROOT: &str = "SEPIA_REMOTE_TEST_ROOT";
const PUSHERS: usize = 20;
const EACH: usize = 3;

/// Result `i` of worker `who`: a file that is all its own, and a tree that many share.
fn produce(store: &Store, who: &str, i: usize) {
    let attempt = store.attempt_dir(who).unwrap().join(i.to_string());
    std::fs::create_dir_all(attempt.join("tree")).unwrap();
    std::fs::write(attempt.join("file"), format!("{who} {i} ").repeat(20_000)).unwrap();
    std::fs::write(attempt.join("tree/a"), format!("shared {}", i % 2)).unwrap();
    let outputs = ["file", "tree"].map(|port| {
        let path = attempt.join(port);
        let object = store.insert(&path, &hash_output(&path).unwrap()).unwrap();
        RecordOutput { port: port.into(), object }
    });
    let key = Digest::of_bytes(format!("{who} {i}").as_bytes());
    let record = Record { outputs: outputs.into(), ..bare_record(key, who, format!("node-{i}")) };
    store.commit(&[record]).unwrap();
}

#[test]
fn worker() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let root = Utf8PathBuf::from(std::env::var(ROOT).unwrap());
    let store = Store::open(&root.join(&role), OpenMode::Create).unwrap();
    store.add_remote("lab", root.join("lab").as_str(), true).unwrap();
    if role.starts_with("pull") {
        store.pull(&store.open_remote(None).unwrap(), &What::default(), &|_| ()).unwrap();
        return;
    }
    // Several pushes each, so that they meet.
    for i in 0..EACH {
        produce(&store, &role, i);
        store.push(&store.open_remote(None).unwrap(), &What::default(), &|_| ()).unwrap();
    }
}

fn start(role: &str, root: &Utf8Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "worker"])
        .env(ROLE, role)
        .env(ROOT, root)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn all_of(root: &Utf8Path, store: &str) -> usize {
    let store = Store::open(&root.join(store), OpenMode::Existing).unwrap();
    let found = store.verify_all(|_| ()).unwrap();
    assert_eq!((found.damaged, found.absent), (Vec::new(), Vec::new()));
    store.executions().unwrap().len()
}

#[test]
fn twenty_who_push_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = Utf8Path::from_path(folder.path()).unwrap();
    let pushers: Vec<Child> = (0..PUSHERS).map(|i| start(&format!("push-{i}"), root)).collect();
    for mut pusher in pushers {
        assert!(pusher.wait().unwrap().success());
    }
    assert!(start("pull", root).wait().unwrap().success());
    assert_eq!(all_of(root, "pull"), PUSHERS * EACH);
}

#[test]
fn killed_at_any_moment_a_push_and_a_pull_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let root = Utf8Path::from_path(folder.path()).unwrap();
    for round in 0..8 {
        let mut pusher = start("push", root);
        std::thread::sleep(std::time::Duration::from_millis(5 << (round % 6)));
        let _ = pusher.kill();
        pusher.wait().unwrap();
    }
    assert!(start("push", root).wait().unwrap().success());
    for round in 0..8 {
        let mut puller = start("pull", root);
        std::thread::sleep(std::time::Duration::from_millis(5 << (round % 6)));
        let _ = puller.kill();
        puller.wait().unwrap();
    }
    assert!(start("pull", root).wait().unwrap().success());
    assert_eq!(all_of(root, "pull"), all_of(root, "push"));
}
