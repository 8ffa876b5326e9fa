//! Verification, size and garbage collection on one small store.

use camino::Utf8Path;

use super::*;
use crate::database::{PlanNode, RunCounts, RunRow};
use crate::test_support::{Fixture, key, record};
use crate::{DamageKind, ObjectRef, Record, StoreError};

struct Filled {
    f: Fixture,
    old: ObjectRef,
    shared: ObjectRef,
    tree: ObjectRef,
    stray: ObjectRef,
}

fn run(f: &Fixture, run: &str, started_at: i64, keys: &[&str]) {
    let nodes: Vec<_> = keys.iter().map(|k| PlanNode { node: (*k).into(), key: Some(key(k)) }).collect();
    let plan = f.store.save_plan(&nodes).unwrap();
    let row = RunRow {
        run: run.into(),
        plan: Some(plan),
        manifest: "m.toml".into(),
        command: "sepia run".into(),
        started_at,
        finished_at: Some(started_at + 1),
        outcome: Some("done".into()),
        counts: RunCounts::default(),
        details: serde_json::Value::Null,
    };
    f.store.start_run(&row).unwrap();
}

/// Two runs: the first made `old` and `shared`; the second took `shared` from the cache and made `tree`.
fn filled() -> Filled {
    let f = Fixture::new();
    let (old, shared) = (f.object(b"old"), f.object(b"shared"));
    let tree = f.insert(&f.tree("t", &[("a", b"tree"), ("b/c", b"tree")]));
    let stray = f.object(b"stray");
    let of_run =
        |run: &str, at, text, object| Record { run: run.into(), started_at: at, ..record(text, &[("out", object)]) };
    f.store.commit(&[of_run("r1", 10, "old", old), of_run("r1", 11, "shared", shared)]).unwrap();
    f.store.commit(&[of_run("r2", 20, "tree", tree)]).unwrap();
    run(&f, "r1", 10, &["old", "shared"]);
    run(&f, "r2", 20, &["shared", "tree"]);
    Filled { f, old, shared, tree, stray }
}

fn present(f: &Filled) -> [bool; 4] {
    [f.old, f.shared, f.tree, f.stray].map(|object| f.f.store.present(&object))
}

#[test]
fn verification_finds_all_there_is() {
    let Filled { f, old, shared, tree, stray } = filled();
    let mut last = VerifyProgress::default();
    let sound = f.store.verify_all(|at| last = at).unwrap();
    assert!(sound.is_sound() && sound.absent.is_empty() && sound.leftovers.is_empty());
    assert_eq!((sound.sound, sound.bytes), (3, 17));
    assert_eq!(last, VerifyProgress { objects: 3, of_objects: 3, bytes: 17, of_bytes: 17 });
    assert_eq!(sound.unreferenced, [Leftover { path: f.store.object_path(&stray), bytes: 5 }]);

    std::fs::remove_file(f.store.object_path(&old)).unwrap();
    let inside = f.store.object_path(&tree).join("b/c");
    std::fs::remove_file(&inside).unwrap();
    std::fs::write(&inside, b"eert").unwrap();
    let attempt = f.store.attempt_dir("dead").unwrap();
    std::fs::write(attempt.join("half"), b"1234").unwrap();
    let alive = f.store.lock_run("alive").unwrap();
    f.store.attempt_dir("alive").unwrap();
    let half = f.store.object_path(&shared).with_file_name(".half.1");
    std::fs::write(&half, b"h").unwrap();
    let found = f.store.verify_all(|_| ()).unwrap();
    assert_eq!((found.sound, found.absent), (1, vec![old]));
    let [damaged] = found.damaged.as_slice() else { panic!("{:?}", found.damaged) };
    assert_eq!((&damaged.damage.path, &damaged.damage.kind), (&inside, &DamageKind::Changed));
    assert_eq!(damaged.records.iter().map(|(_, node)| node.as_str()).collect::<Vec<_>>(), ["node-tree"]);
    assert_eq!(found.leftovers, [Leftover { path: attempt, bytes: 4 }, Leftover { path: half, bytes: 1 }]);
    drop(alive);
}

#[test]
fn without_rules_only_what_nobody_names_goes() {
    let filled = filled();
    let store = &filled.f.store;
    let attempt = store.attempt_dir("dead").unwrap();
    std::fs::write(attempt.join("half"), b"1234").unwrap();
    let finished = store.checkpoints_dir(&key("tree"));
    let unfinished = store.checkpoints_dir(&key("not yet"));
    for folder in [&finished, &unfinished] {
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join("step-100"), b"12").unwrap();
    }
    store.set_aside(&filled.old).unwrap();
    let dry = store.gc(&GcPolicy::default(), true).unwrap();
    assert_eq!(present(&filled), [false, true, true, true]);
    assert_eq!(dry.freed(), 5 + 4 + 2 + 3);
    assert_eq!((dry.kept, dry.kept_bytes), (2, 14));
    assert_eq!(store.gc(&GcPolicy::default(), false).unwrap(), dry, "it does what it said");
    assert_eq!(present(&filled), [false, true, true, false]);
    assert!(!attempt.exists() && !finished.exists() && unfinished.exists());
    assert_eq!(store.gc(&GcPolicy::default(), false).unwrap().freed(), 0);
    assert!(store.verify_all(|_| ()).unwrap().is_sound());
}

#[test]
fn rules_keep_what_their_runs_used() {
    let rules = [
        (GcPolicy { keep_last_runs: Some(1), ..GcPolicy::default() }, [false, true, true, false]),
        (GcPolicy { keep_last_runs: Some(9), ..GcPolicy::default() }, [true, true, true, false]),
        (GcPolicy { keep_last_runs: Some(0), ..GcPolicy::default() }, [false; 4]),
        (GcPolicy { keep_runs: vec!["r1".into()], ..GcPolicy::default() }, [true, true, false, false]),
        (GcPolicy { keep_runs: vec!["latest".into()], ..GcPolicy::default() }, [false, true, true, false]),
        (GcPolicy { keep_since: Some(11), ..GcPolicy::default() }, [false, true, true, false]),
        (
            GcPolicy { keep_since: Some(21), keep_runs: vec!["r1".into()], ..GcPolicy::default() },
            [true, true, false, false],
        ),
    ];
    for (policy, expected) in rules {
        let filled = filled();
        filled.f.store.gc(&policy, false).unwrap();
        assert_eq!(present(&filled), expected, "{policy:?}");
        let after = filled.f.store.verify_all(|_| ()).unwrap();
        assert!(after.is_sound() && after.unreferenced.is_empty() && after.leftovers.is_empty());
        assert_eq!(filled.f.store.executions().unwrap().len(), 3, "records stay");
    }
    let filled = filled();
    let policy = GcPolicy { keep_runs: vec!["nobody".into()], ..GcPolicy::default() };
    assert!(matches!(filled.f.store.gc(&policy, false), Err(StoreError::NotFound { .. })));
    assert_eq!(present(&filled), [true; 4]);
}

#[test]
fn nothing_goes_while_a_run_is_alive() {
    let filled = filled();
    let other = filled.f.again();
    let alive = other.lock_run("r3").unwrap();
    let error = filled.f.store.gc(&GcPolicy::default(), false).unwrap_err();
    assert!(error.to_string().contains("run r3"), "{error}");
    assert!(filled.f.store.gc(&GcPolicy::default(), true).unwrap().freed() > 0, "a dry run may look");
    assert_eq!(present(&filled), [true; 4]);
    drop(alive);
    filled.f.store.gc(&GcPolicy::default(), false).unwrap();
    assert_eq!(present(&filled), [true, true, true, false]);
}

#[test]
fn sizes_add_up() {
    fn all(folder: &Utf8Path) -> u64 {
        super::contents::size_of(folder)
    }
    let filled = filled();
    let store = &filled.f.store;
    std::fs::create_dir(store.checkpoints_dir(&key("k"))).unwrap();
    std::fs::write(store.checkpoints_dir(&key("k")).join("x"), b"123").unwrap();
    let usage = store.size().unwrap();
    assert_eq!((usage.files.count, usage.files.bytes), (3, 14));
    assert_eq!(usage.trees.count, 1);
    assert!(usage.trees.bytes > 8, "with the listing");
    assert_eq!((usage.checkpoints.count, usage.checkpoints.bytes), (1, 3));
    assert_eq!((usage.records.count, usage.runs.count), (2, 4));
    assert_eq!(usage.total(), all(store.root()));
}

#[test]
fn what_was_used_least_recently_goes_until_the_rest_is_small_enough() {
    let of = |policy: &GcPolicy| {
        let filled = filled();
        let dry = filled.f.store.gc(policy, true).unwrap();
        assert_eq!(present(&filled), [true; 4]);
        let report = filled.f.store.gc(policy, false).unwrap();
        assert_eq!(dry, report);
        (present(&filled), report.kept_bytes)
    };
    let max = |bytes| GcPolicy { max_bytes: Some(bytes), ..GcPolicy::default() };
    // `old` (3 bytes) was last used by the first run, `shared` (6) and `tree` (8) by the second; what
    // nobody names goes in any case.
    assert_eq!(of(&max(1 << 20)).0, [true, true, true, false]);
    let all = of(&max(1 << 20)).1;
    assert_eq!(of(&max(all)).0, [true, true, true, false]);
    assert_eq!(of(&max(all - 1)), ([false, true, true, false], all - 3));
    assert_eq!(of(&max(0)), ([false; 4], 0));
    let keep = GcPolicy { keep_runs: vec!["r1".into()], ..max(0) };
    assert_eq!(of(&keep), ([true, true, false, false], 9));
}

#[test]
fn a_run_is_removed_with_what_only_it_needs() {
    let of = |run: &str, keep: &[&str]| {
        let filled = filled();
        let keep_runs = keep.iter().map(|run| (*run).to_owned()).collect();
        let policy = GcPolicy { remove_runs: vec![run.into()], keep_runs, ..GcPolicy::default() };
        filled.f.store.gc(&policy, false).unwrap();
        present(&filled)
    };
    assert_eq!(of("r1", &[]), [false, true, true, false]);
    assert_eq!(of("r2", &[]), [true, true, false, false]);
    assert_eq!(of("r2", &["r2"]), [true, true, true, false]);
    let filled = filled();
    let policy = GcPolicy { remove_runs: vec!["r9".into()], ..GcPolicy::default() };
    assert!(matches!(filled.f.store.gc(&policy, false), Err(StoreError::NotFound { .. })));
}
