//! The store between processes: kills at any moment, and two that want the same.
//!
//! The test program starts itself again as a worker; the worker's part is in the environment variable `ROLE`.

#![expect(clippy::unwrap_used, reason = "what helps a test may fail as a test does")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{Digest, Metrics, OpenMode, Record, RecordOutput, Store, hash_output};
use support::bare_record;

const ROLE: &str = "SEPIA_CACHE_TEST_ROLE";
const ROOT: &str = "SEPIA_CACHE_TEST_ROOT";

/// Distinct results that workers make over and over.
const RESULTS: u32 = 6;

fn key(i: u32) -> Digest {
    Digest::of_bytes(&i.to_le_bytes())
}

fn root(folder: &tempfile::TempDir) -> Utf8PathBuf {
    Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap()
}

fn open(root: &Utf8Path) -> Store {
    Store::open(&root.join(".sepia"), OpenMode::Create).unwrap()
}

/// Makes result `i` (a file and a tree) in an attempt of `run`, and commits it.
fn produce(store: &Store, run: &str, i: u32) {
    let attempt = store.attempt_dir(run).unwrap().join(format!("{i}"));
    std::fs::create_dir_all(attempt.join("tree/deep")).unwrap();
    std::fs::write(attempt.join("file"), format!("file {i}").repeat(500)).unwrap();
    for part in 0..5 {
        std::fs::write(attempt.join(format!("tree/deep/{part}")), format!("part {part} of {i}")).unwrap();
    }
    let outputs = ["file", "tree"].map(|port| {
        let path = attempt.join(port);
        let object = store.insert(&path, &hash_output(&path).unwrap()).unwrap();
        RecordOutput { port: port.into(), object }
    });
    let mut metrics = Metrics::default();
    (0..50).for_each(|step| metrics.push("loss", Some(step), f64::from(i)));
    let record = Record { outputs: outputs.into(), metrics, ..bare_record(key(i), run, format!("node-{i}")) };
    store.commit(&[record]).unwrap();
}

/// What a started copy of this program does; in the test run itself there is no role, and nothing is done.
#[test]
fn worker() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let store = open(Utf8Path::new(&std::env::var(ROOT).unwrap()));
    let run = format!("run-{}", std::process::id());
    match role.as_str() {
        // Computes for ever, until it is killed.
        "produce" => {
            let _alive = store.lock_run(&run).unwrap();
            println!("ready");
            for i in (0..RESULTS).cycle() {
                produce(&store, &run, i);
            }
        }
        // What an engine does: look up, lock, look up again, compute.
        "once" => {
            let _alive = store.lock_run(&run).unwrap();
            let index = store.index().unwrap();
            let mut computed = 0;
            for i in 0..40 {
                loop {
                    if !index.candidates(&key(i)).unwrap().is_empty() {
                        break;
                    }
                    let Some(_lock) = store.try_lock_key(&key(i), &run).unwrap() else {
                        std::thread::yield_now();
                        index.refresh().unwrap();
                        continue;
                    };
                    if index.candidates(&key(i)).unwrap().is_empty() {
                        produce(&store, &run, i);
                        computed += 1;
                    }
                    break;
                }
            }
            println!("computed {computed}");
        }
        "hold" => {
            let _alive = store.lock_run("held").unwrap();
            let _lock = store.try_lock_key(&key(0), "the worker").unwrap().unwrap();
            println!("ready");
            loop {
                std::thread::park();
            }
        }
        other => panic!("no role {other}"),
    }
}

fn start(role: &str, root: &Utf8Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "worker", "--nocapture"])
        .env(ROLE, role)
        .env(ROOT, root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The first line of the worker that begins with `word`, after the test harness's own.
fn line(child: &mut Child, word: &str) -> String {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.map(Result::unwrap).find_map(|line| line.find(word).map(|at| line[at..].to_owned())).unwrap()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The next of a fixed sequence of numbers below `n`.
fn next(state: &mut u64, n: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    (*state >> 33) % n
}

#[test]
fn killed_at_any_moment_the_store_is_sound_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let root = root(&folder);
    let mut state = 7;
    for round in 0..15 {
        // Two at once, one of them killed while the other may be waiting for it.
        let mut workers = [start("produce", &root), start("produce", &root)];
        workers.iter_mut().for_each(|worker| drop(line(worker, "ready")));
        for worker in workers {
            std::thread::sleep(std::time::Duration::from_micros(next(&mut state, 60_000)));
            kill(worker);
        }
        if round % 5 == 4 {
            std::fs::remove_file(root.join(".sepia/results.db")).unwrap();
            for ending in ["-wal", "-shm"] {
                drop(std::fs::remove_file(root.join(format!(".sepia/results.db{ending}"))));
            }
        }
        let store = open(&root);
        assert!(store.live_runs().unwrap().is_empty());
        let found = store.verify_all(|_| ()).unwrap();
        assert_eq!((found.damaged, found.absent), (Vec::new(), Vec::new()), "round {round}");
    }
    let store = open(&root);
    (0..RESULTS).for_each(|i| produce(&store, "last", i));
    let index = store.index().unwrap();
    for i in 0..RESULTS {
        assert!(!index.candidates(&key(i)).unwrap().is_empty());
    }
    store.gc(&sepia_cache::GcPolicy::default(), false).unwrap();
    let found = store.verify_all(|_| ()).unwrap();
    assert!(found.is_sound() && found.leftovers.iter().all(|left| !left.path.as_str().contains("/attempts/")));
    assert_eq!(found.sound, 2 * u64::from(RESULTS));
}

#[test]
fn no_key_is_computed_twice_by_processes_that_look_and_lock() {
    let folder = tempfile::tempdir().unwrap();
    let root = root(&folder);
    let workers: Vec<Child> = (0..3).map(|_| start("once", &root)).collect();
    let mut computed = 0;
    for worker in workers {
        let output = worker.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        let (_, count) = text.split_once("computed ").unwrap();
        computed += count.lines().next().unwrap().parse::<u32>().unwrap();
    }
    assert_eq!(computed, 40);
    let store = open(&root);
    assert_eq!(store.executions().unwrap().len(), 40);
    assert!(store.verify_all(|_| ()).unwrap().is_sound());
}

#[test]
fn a_killed_owner_holds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = root(&folder);
    let store = open(&root);
    let mut worker = start("hold", &root);
    line(&mut worker, "ready");
    assert!(store.try_lock_key(&key(0), "me").unwrap().is_none());
    assert_eq!(store.lock_owner(&key(0)).as_deref(), Some("the worker"));
    assert_eq!(store.live_runs().unwrap(), ["held"]);
    kill(worker);
    assert!(store.live_runs().unwrap().is_empty());
    let _lock = store.try_lock_key(&key(0), "me").unwrap().unwrap();
    assert_eq!(store.lock_owner(&key(0)).as_deref(), Some("me"));
    store.lock_run("held").unwrap();
}
