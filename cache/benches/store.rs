//! What the store costs: `cargo bench -p sepia-cache [-- WORD]`. In a temporary folder (`TMPDIR`).
//!
//! Printed are the median of the wall time, its range, and the median of the processor time of the measuring thread, which
//! is what a busy machine leaves comparable. Work that is shared between threads shows less processor time than it takes.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot do its work has nothing to say")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Write as _;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{
    Digest, GcPolicy, Metrics, OpenMode, PlanNode, Record, RecordOutput, RemoteOptions, RunCounts, RunRow, Store,
    hash_output,
};
use serde_json::json;
use support::bare_record;

const NODES: usize = 5_000;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let root = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
    let only = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    type Part = (&'static str, fn(&Utf8Path));
    let parts: [Part; 9] = [
        ("opening", opening),
        ("look_up", look_up),
        ("large_file", large_file),
        ("many_files", many_files),
        ("tiny_outputs", tiny_outputs),
        ("input_files", input_files),
        ("metrics", metrics),
        ("merge", merge),
        ("folder_remote", folder_remote),
    ];
    for (name, part) in parts {
        if only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            part(&root);
        }
    }
}

/// Wall time and processor time of this thread.
type Cost = (Duration, Duration);

fn report(what: &str, costs: Vec<Cost>) {
    let sorted = |of: fn(&Cost) -> Duration| {
        let mut times: Vec<f64> = costs.iter().map(|cost| of(cost).as_secs_f64() * 1e3).collect();
        times.sort_unstable_by(f64::total_cmp);
        times
    };
    let (wall, cpu) = (sorted(|cost| cost.0), sorted(|cost| cost.1));
    let middle = costs.len() / 2;
    println!(
        "{what:<58} {:>9.3} ms  ({:.3} to {:.3}, n={})  cpu {:.3}",
        wall[middle],
        wall[0],
        wall[wall.len() - 1],
        costs.len(),
        cpu[middle],
    );
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap()
}

fn time<T>(work: impl FnOnce() -> T) -> (Cost, T) {
    let (start, before) = (Instant::now(), cpu());
    let result = work();
    ((start.elapsed(), cpu() - before), result)
}

fn rounds(what: &str, n: usize, mut work: impl FnMut()) {
    report(what, (0..n).map(|_| time(&mut work).0).collect());
}

fn open(root: &Utf8Path) -> Store {
    Store::open(root, OpenMode::Create).unwrap()
}

fn key(i: usize) -> Digest {
    Digest::of_bytes(&i.to_le_bytes())
}

fn record(store: &Store, root: &Utf8Path, i: usize) -> Record {
    let path = root.join(format!("output-{i}"));
    std::fs::write(&path, format!("output {i}")).unwrap();
    let object = store.insert(&path, &hash_output(&path).unwrap()).unwrap();
    Record {
        key_inputs: json!({"kind": "command", "version": 1, "seed": 0, "params": {"argv": ["sh", "-c", ":"]},
            "inputs": {"data": [key(i + 1)]}, "device": "cpu", "dtype": "f32"}),
        kind: "command".into(),
        node: format!("node-{i}"),
        params: json!({"argv": ["sh", "-c", ":"]}).as_object().unwrap().clone(),
        outputs: vec![RecordOutput { port: "out".into(), object }],
        provenance: json!({"host": "host", "sepia": "0.1.0", "git": {"commit": "0123456789", "dirty": false}}),
        ..training(i)
    }
}

fn opening(root: &Utf8Path) {
    let mut n = 0;
    rounds("make a store", 9, || {
        n += 1;
        open(&root.join(format!("new-{n}")));
    });
    rounds("open and close an empty store", 21, || drop(open(&root.join("new-1"))));
}

fn look_up(root: &Utf8Path) {
    let path = root.join("many");
    let store = open(&path);
    let (made, records) = time(|| (0..NODES).map(|i| record(&store, root, i)).collect::<Vec<_>>());
    report("write, hash and insert 5,000 outputs", vec![made]);
    report("commit 5,000 records in one batch (with the sync)", vec![time(|| store.commit(&records).unwrap()).0]);
    drop(store);
    rounds("open and close with 5,000 records", 21, || drop(open(&path)));
    let store = open(&path);
    rounds("index of 5,000 records", 21, || drop(store.index().unwrap()));
    let index = store.index().unwrap();
    rounds("look up 5,000 keys", 21, || {
        for i in 0..NODES {
            assert_eq!(index.candidates(&key(i)).unwrap().len(), 1);
        }
    });
    rounds("look up 5,000 unknown keys", 21, || {
        for i in 0..NODES {
            assert!(index.candidates(&key(i + NODES)).unwrap().is_empty());
        }
    });
    let objects: Vec<_> = (0..NODES).map(|i| index.candidates(&key(i)).unwrap()[0].outputs[0].1).collect();
    rounds("see that 5,000 objects are there", 21, || assert!(objects.iter().all(|object| store.present(object))));
    rounds("the same, on all threads", 21, || assert!(store.present_all(&objects).into_iter().all(|there| there)));
    let nodes: Vec<_> = (0..NODES).map(|i| PlanNode { node: format!("node-{i}"), key: Some(key(i)) }).collect();
    let mut n = 0;
    rounds("write down a run of 5,000 cached nodes", 21, || {
        n += 1;
        let plan = store.save_plan(&nodes).unwrap();
        let row = RunRow {
            run: format!("noop-{n}"),
            plan: Some(plan),
            manifest: "sepia.toml".into(),
            command: "sepia run".into(),
            started_at: n,
            finished_at: Some(n),
            outcome: Some("done".into()),
            counts: RunCounts { nodes: 5000, cached: 5000, ..RunCounts::default() },
            details: json!({}),
        };
        store.start_run(&row).unwrap();
    });
    rounds("lock and release a run", 21, || drop(store.lock_run("r").unwrap()));
    rounds("lock and release a key", 21, || drop(store.try_lock_key(&key(0), "x").unwrap()));
    rounds("everything of a run with nothing to do", 21, || {
        let store = open(&path);
        let lock = store.lock_run("noop").unwrap();
        let index = store.index().unwrap();
        let objects: Vec<_> = (0..NODES).map(|i| index.candidates(&key(i)).unwrap()[0].outputs[0].1).collect();
        assert!(store.present_all(&objects).into_iter().all(|there| there));
        let plan = store.save_plan(&nodes).unwrap();
        let row = RunRow { run: "noop".into(), plan: Some(plan), ..store.find_run("latest").unwrap() };
        store.start_run(&row).unwrap();
        drop(lock);
    });
    rounds("verify 5,000 small objects", 5, || assert!(store.verify_all(|_| ()).unwrap().is_sound()));
    rounds("gc that keeps all (dry run)", 5, || drop(store.gc(&GcPolicy::default(), true).unwrap()));
    drop(store);
    rounds("rebuild the database from 5,000 records", 3, || {
        assert_eq!(Store::rebuild_database(&path).unwrap().records, NODES);
    });
}

fn large_file(root: &Utf8Path) {
    let store = open(&root.join("large"));
    let path = root.join("1gib");
    let block = vec![7u8; 1 << 20];
    let (mut hashes, mut commits) = (Vec::new(), Vec::new());
    for round in 0..3u8 {
        let mut file = std::fs::File::create(&path).unwrap();
        std::io::Write::write_all(&mut file, &[round]).unwrap();
        for _ in 0..1024 {
            std::io::Write::write_all(&mut file, &block).unwrap();
        }
        // What a stage wrote some time ago is on the disk by then.
        file.sync_all().unwrap();
        drop(file);
        let (hash, output) = time(|| hash_output(&path).unwrap());
        hashes.push(hash);
        let insert = time(|| {
            store.insert(&path, &output).unwrap();
            store.sync_pending().unwrap();
        });
        commits.push((hash.0 + insert.0.0, hash.1 + insert.0.1));
    }
    report("hash 1 GiB", hashes);
    report("hash, insert and sync 1 GiB (already on the disk)", commits);
}

fn many_files(root: &Utf8Path) {
    let store = open(&root.join("files"));
    let (mut hashes, mut inserts, mut syncs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..3 {
        let path = root.join("tree");
        std::fs::create_dir(&path).unwrap();
        for i in 0..10_000 {
            std::fs::write(path.join(i.to_string()), format!("{round} {i}").repeat(100)).unwrap();
        }
        let (hash, output) = time(|| hash_output(&path).unwrap());
        let (insert, _) = time(|| store.insert(&path, &output).unwrap());
        hashes.push(hash);
        inserts.push(insert);
        syncs.push(time(|| store.sync_pending().unwrap()).0);
    }
    report("hash a tree of 10,000 files of 1 KiB", hashes);
    report("insert it", inserts);
    report("sync it (the writing itself)", syncs);
}

fn tiny_outputs(root: &Utf8Path) {
    let store = open(&root.join("tiny"));
    for batch in [1, 10, 100] {
        let times = (0..300 / batch)
            .map(|round| {
                let records: Vec<_> =
                    (0..batch).map(|i| record(&store, root, 100_000 * batch + round * batch + i)).collect();
                time(|| store.commit(&records).unwrap()).0
            })
            .collect();
        report(&format!("sync and commit {batch} tiny results"), times);
    }
}

fn input_files(root: &Utf8Path) {
    let store = open(&root.join("inputs"));
    let paths: Vec<_> = (0..NODES).map(|i| root.join(format!("input-{i}"))).collect();
    for path in &paths {
        std::fs::write(path, path.as_str()).unwrap();
    }
    std::thread::sleep(Duration::from_millis(2100));
    let digests = store.file_digests();
    let all = |digests: &sepia_cache::FileDigests| {
        for path in &paths {
            digests.digest(path).unwrap();
        }
    };
    report("hash 5,000 input files for the first time", vec![time(|| all(&digests)).0]);
    report("remember them", vec![time(|| digests.save().unwrap()).0]);
    rounds("5,000 unchanged input files, with reading the memory", 21, || all(&store.file_digests()));
}

fn metrics(root: &Utf8Path) {
    let path = root.join("metrics");
    let store = open(&path);
    let records: Vec<_> = (0..100)
        .map(|i| {
            let mut record = record(&store, root, 1_000_000 + i);
            for step in 0..1_000u64 {
                for name in ["loss", "lr", "grad_norm", "tokens", "a", "b", "c", "d", "e", "f"] {
                    record.metrics.push(name, Some(step), (step as f64).sqrt() + i as f64);
                }
            }
            record
        })
        .collect();
    report("commit 100 records with 1,000,000 metric rows", vec![time(|| store.commit(&records).unwrap()).0]);
    let id = records[0].id().unwrap();
    rounds("read one record with its 10,000 points", 5, || drop(store.record(&id).unwrap()));
    drop(store);
    let bytes = std::fs::metadata(path.join("results.db")).unwrap().len();
    println!("{:<64} {:>10.1} MB", "database with 1,000,000 metric rows", bytes as f64 / 1e6);
}

/// Two databases of 10,000 executions and 1,000,000 metric rows each, united.
fn merge(root: &Utf8Path) {
    let fill = |name: &str, first: usize| {
        let store = open(&root.join(name));
        let mut records: Vec<Record> = Vec::new();
        for i in first..first + 10_000 {
            let mut metrics = Metrics::default();
            (0..50).for_each(|step| {
                let value = f64::from(u32::try_from(i).unwrap()) / f64::from(u32::try_from(step + 1).unwrap());
                metrics.push("train_loss", Some(step), value);
                metrics.push("lr", Some(step), value / 3.0);
            });
            records.push(Record { metrics, outputs: Vec::new(), ..training(i) });
        }
        records.chunks(512).for_each(|some| drop(store.commit(some).unwrap()));
        store
    };
    let (ours, theirs) = (fill("merge-ours", 0), fill("merge-theirs", 100_000));
    let path = theirs.root().join("results.db");
    let (cost, merged) = time(|| ours.merge(&path, false, |_, _| ()).unwrap());
    assert_eq!(merged.records, 10_000);
    report("merge 10,000 executions with 1,000,000 metric rows", vec![cost]);
    rounds("merge the same once more", 5, || {
        ours.merge(&path, false, |_, _| ()).unwrap();
    });
}

/// A training without outputs.
fn training(i: usize) -> Record {
    Record {
        key_inputs: json!({"kind": "train", "version": 1, "seed": 0, "params": {"lr": 0.001}}),
        kind: "train".into(),
        started_at: 1_700_000_000_000 + i64::try_from(i).unwrap(),
        wall_seconds: 0.001,
        cpu_seconds: 0.001,
        peak_memory_bytes: 1 << 20,
        params: json!({"lr": 0.001, "model": {"d_model": 128, "n_layer": 4}}).as_object().unwrap().clone(),
        provenance: json!({"host": "host", "sepia": "0.1.0"}),
        ..bare_record(key(i), format!("run-{}", i / 1000), format!("train[lr={i}]"))
    }
}

/// 1 GiB to a folder remote and back, beside `cp`: sharing files, copying them, and on another file system if `SEPIA_BENCH_FAR`
/// names a folder there.
fn folder_remote(root: &Utf8Path) {
    let ours = open(&root.join("push"));
    let mut random = blake3::Hasher::new().finalize_xof();
    let mut bytes = vec![0; 256 << 20];
    for i in 0..4 {
        random.fill(&mut bytes);
        let path = root.join("big");
        std::fs::write(&path, &bytes).unwrap();
        let object = ours.insert(&path, &hash_output(&path).unwrap()).unwrap();
        let output = RecordOutput { port: "out".into(), object };
        ours.commit(&[Record { outputs: vec![output], ..training(i) }]).unwrap();
    }
    drop(bytes);
    let far = std::env::var("SEPIA_BENCH_FAR").ok().map(Utf8PathBuf::from);
    let places =
        [("same disk, shared", Some(root.to_owned()), false), ("same disk, copied", Some(root.to_owned()), true)];
    for (what, place, copy) in places.into_iter().chain([("other disk", far, false)]) {
        if let Some(place) = place {
            there_and_back(&ours, root, &place, what, copy);
        }
    }
}

fn there_and_back(ours: &Store, root: &Utf8Path, place: &Utf8Path, what: &str, copy: bool) {
    const ROUNDS: usize = 5;
    let (objects, lab, back) = (ours.root().join("objects"), place.join("lab"), root.join("pull"));
    let all = sepia_cache::What::default();
    let options = RemoteOptions { trust: true, copy };
    println!("{what}, 1 GiB in four files, medians of {ROUNDS}, hashed and durable:");
    let mut costs = [const { Vec::new() }; 8];
    for round in 0..ROUNDS {
        ours.add_remote("lab", lab.as_str(), options).unwrap();
        let theirs = open(&back);
        theirs.add_remote("lab", lab.as_str(), options).unwrap();
        // All that is compared in turns, nobody always first, and each after the same: memory that was in use a moment ago is
        // several times faster to write to than other.
        for i in 0..4 {
            let which = (round + i) % 4;
            written(place);
            costs[which].push(match which {
                0 => copied(&format!("cp -r {objects} {place}/copy"), place),
                1 => copied(&format!("cp -r {objects} {place}/copy && sync -f {place}"), place),
                2 => written(place),
                _ => took(|| {
                    let pushed = ours.push(&ours.open_remote(None).unwrap(), &all, &|_| ()).unwrap();
                    assert_eq!(pushed.bytes, 1 << 30);
                }),
            });
        }
        let objects = lab.join("objects");
        for i in 0..4 {
            let which = (round + i) % 4;
            written(root);
            costs[4 + which].push(match which {
                0 => copied(&format!("cp -r {objects} {root}/copy"), root),
                1 => copied(&format!("cp -r {objects} {root}/copy && sync -f {root}"), root),
                2 => written(root),
                _ => took(|| {
                    let pulled = theirs.pull(&theirs.open_remote(None).unwrap(), &all, &|_| ()).unwrap();
                    assert_eq!(pulled.bytes, 1 << 30);
                }),
            });
        }
        drop(theirs);
        std::fs::remove_dir_all(&lab).unwrap();
        std::fs::remove_dir_all(&back).unwrap();
        rustix::fs::sync();
    }
    let median = |costs: &Vec<Cost>, of: fn(&Cost) -> Duration| {
        let mut times: Vec<f64> = costs.iter().map(|cost| of(cost).as_secs_f64()).collect();
        times.sort_unstable_by(f64::total_cmp);
        times[times.len() / 2]
    };
    for (way, costs) in ["push", "pull"].iter().zip(costs.chunks(4)) {
        let [plain, synced, disk, own] = [0, 1, 2, 3].map(|which| median(&costs[which], |cost| cost.0));
        println!(
            "  {way} {own:.2} s (processor {:.2} s); cp {plain:.2} s, {:.0} % of it; cp and sync {synced:.2} s, {:.0} % of it; \
             writing as much {disk:.2} s, {:.0} % of it",
            median(&costs[3], |cost| cost.1),
            100. * plain / own,
            100. * synced / own,
            100. * disk / own,
        );
    }
}

/// Wall time, and processor time of the whole process.
fn took(work: impl FnOnce()) -> Cost {
    let cpu = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::try_from(time).unwrap()
    };
    let (start, before) = (Instant::now(), cpu());
    work();
    let cost = (start.elapsed(), cpu() - before);
    rustix::fs::sync();
    cost
}

/// A shell's line that makes `copy` in a folder.
fn copied(line: &str, to: &Utf8Path) -> Cost {
    let cost = took(|| assert!(std::process::Command::new("sh").args(["-c", line]).status().unwrap().success()));
    std::fs::remove_dir_all(to.join("copy")).unwrap();
    rustix::fs::sync();
    cost
}

/// What a disk takes for 1 GiB in four files at least, if it is to be on it in the end: nothing is read or hashed.
fn written(to: &Utf8Path) -> Cost {
    let names = [0, 1, 2, 3].map(|i| to.join(format!("written{i}")));
    let body = vec![7; 1 << 20];
    let cost = took(|| {
        std::thread::scope(|scope| {
            for name in &names {
                let body = &body;
                scope.spawn(move || {
                    let file = std::fs::File::create(name).unwrap();
                    for at in 0..256 {
                        (&file).write_all(body).unwrap();
                        // It begins to go to the disk at once.
                        let piece = std::num::NonZeroU64::new(1 << 20);
                        rustix::fs::fadvise(&file, at << 20, piece, rustix::fs::Advice::DontNeed).unwrap();
                    }
                    file.sync_all().unwrap();
                });
            }
        });
    });
    names.iter().for_each(|name| std::fs::remove_file(name).unwrap());
    rustix::fs::sync();
    cost
}
