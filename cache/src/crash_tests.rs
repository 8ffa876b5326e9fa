//! What is left when the code is stopped at each of its crash points, one after the other.

use proptest::prelude::*;

use crate::crash_point::stop_at;
use crate::test_support::{Fixture, key, record};
use crate::{OpenMode, Record, Store, StoreError, hash_output};

/// Two stages' worth of results: a file and a tree, each with its record.
fn work(f: &Fixture, store: &Store) -> crate::Result<()> {
    for name in ["a", "b"] {
        let file = f.file(&format!("attempt/{name}/file"), name.as_bytes());
        let tree = f.tree(&format!("attempt/{name}/tree"), &[("x", name.as_bytes()), ("y/z", b"same")]);
        let file = store.insert(&file, &hash_output(&file)?)?;
        let tree = store.insert(&tree, &hash_output(&tree)?)?;
        store.commit(&[record(name, &[("file", file), ("tree", tree)])])?;
    }
    Ok(())
}

/// Everything the store shows is true.
fn check(store: &Store) {
    let verified = store.verify_all(|_| ()).unwrap();
    assert_eq!((verified.damaged, verified.absent), (Vec::new(), Vec::new()));
    let index = store.index().unwrap();
    for name in ["a", "b"] {
        for hit in index.candidates(&key(name)).unwrap() {
            assert_eq!(hit.outputs.len(), 2, "all of a record or nothing");
            for (_, object) in &hit.outputs {
                assert_eq!(store.verify_object(object), Ok(()));
            }
        }
    }
}

fn found(store: &Store) -> Vec<usize> {
    let index = store.index().unwrap();
    ["a", "b"].iter().map(|name| index.candidates(&key(name)).unwrap().len()).collect()
}

/// Runs `work` with a stop at the n-th crash point; says whether it got through.
fn work_until(f: &Fixture, n: usize) -> bool {
    let store = f.again();
    stop_at(Some(n));
    let result = work(f, &store);
    stop_at(None);
    // The stop in the middle of a transaction comes out as SQLite's error.
    assert!(matches!(result, Ok(()) | Err(StoreError::StoppedByTest(_) | StoreError::Database { .. })), "{result:?}");
    result.is_ok()
}

#[test]
fn stopped_anywhere_the_store_is_sound_and_the_next_run_just_works() {
    let mut points = 0;
    for n in 0.. {
        let mut f = Fixture::new();
        let through = work_until(&f, n);
        f.reopen(|_| ());
        check(&f.store);
        // The next run does it all again, as far as it is not there.
        work(&f, &f.store).unwrap();
        check(&f.store);
        assert_eq!(found(&f.store), [1, 1], "after a stop at {n}");
        // The journals say the same as the database.
        f.reopen(|root| std::fs::remove_file(root.join("results.db")).unwrap());
        check(&f.store);
        assert_eq!(found(&f.store), [1, 1], "rebuilt after a stop at {n}");
        if through {
            break;
        }
        points = n + 1;
    }
    assert!(points >= 25, "only {points} crash points were met");
}

#[test]
fn a_database_that_was_being_built_is_built_again() {
    for n in 0.. {
        let f = Fixture::new();
        work(&f, &f.store).unwrap();
        let root = f.store.root().to_owned();
        std::fs::remove_file(root.join("results.db")).unwrap();
        stop_at(Some(n));
        let opened = Store::open(&root, OpenMode::Existing);
        stop_at(None);
        let through = opened.is_ok();
        drop(opened);
        let store = Store::open(&root, OpenMode::Existing).unwrap();
        check(&store);
        assert_eq!(found(&store), [1, 1], "stopped at {n}");
        if through {
            assert!(n >= 4, "only {n} crash points were met");
            break;
        }
    }
}

#[test]
fn what_a_dead_run_had_journalled_is_found_again() {
    let f = Fixture::new();
    let row = crate::RunRow {
        run: "run-1".into(),
        plan: None,
        manifest: "m.toml".into(),
        command: "sepia run".into(),
        started_at: 1,
        finished_at: None,
        outcome: None,
        counts: crate::RunCounts::default(),
        details: serde_json::Value::Null,
    };
    let store = f.again();
    let lock = store.lock_run("run-1").unwrap();
    store.start_run(&row).unwrap();
    let good: Record = record("a", &[("file", f.object(b"a")), ("tree", f.insert(&f.tree("t", &[("x", b"x")])))]);
    // Stop after the journal is synced and before the rows are in: the crash point that follows `records synced`.
    let mut n = 0;
    loop {
        stop_at(Some(n));
        let result = store.commit(std::slice::from_ref(&good));
        stop_at(None);
        match result {
            Err(StoreError::StoppedByTest("insert rows")) => break,
            Err(_) => n += 1,
            Ok(_) => panic!("there is no such crash point"),
        }
    }
    assert_eq!(found(&f.again()), [0, 0], "a living run is left alone");
    drop(lock);
    drop(store);
    let store = f.again();
    assert_eq!(found(&store), [1, 0]);
    assert_eq!(store.find_run("run-1").unwrap().outcome.as_deref(), Some("died"));
}

#[test]
fn threads_that_commit_to_one_journal_keep_it_in_step() {
    let mut f = Fixture::new();
    let store = &f.store;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for i in 0..10 {
                    store.commit(&[record(&format!("{thread}-{i}"), &[])]).unwrap();
                }
            });
        }
    });
    let known: u64 = store.query(|c| c.query_row("SELECT bytes FROM journals", [], |row| row.get(0))).unwrap();
    assert_eq!(known, std::fs::metadata(store.layout.records("run-1")).unwrap().len());
    assert_eq!(store.executions().unwrap().len(), 40);
    let before = dump(store);
    f.reopen(|root| std::fs::remove_file(root.join("results.db")).unwrap());
    assert_eq!(dump(&f.store), before);
}

/// All records with everything in them, in an order of their own.
fn dump(store: &Store) -> Vec<(String, String)> {
    let mut all: Vec<_> = store
        .executions()
        .unwrap()
        .iter()
        .map(|row| (row.record.to_string(), store.record(&row.record).unwrap().unwrap().canonical().unwrap()))
        .collect();
    all.sort_unstable();
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn killed_again_and_again(stops in prop::collection::vec(0..40usize, 1..6), lose_database: bool) {
        let mut f = Fixture::new();
        for stop in stops {
            work_until(&f, stop);
            f.reopen(|root| {
                if lose_database {
                    std::fs::remove_file(root.join("results.db")).unwrap();
                }
            });
            check(&f.store);
        }
        work(&f, &f.store).unwrap();
        check(&f.store);
        prop_assert_eq!(found(&f.store), [1, 1]);
    }

    #[test]
    fn committing_is_a_union(
        records in prop::collection::vec(crate::test_support::any_record(), 1..5),
        batches in prop::collection::vec(prop::collection::vec(0..5usize, 0..5), 0..4),
    ) {
        let (one, mut other) = (Fixture::new(), Fixture::new());
        one.store.commit(&records).unwrap();
        for batch in batches {
            let batch: Vec<_> = batch.into_iter().filter_map(|i| records.get(i).cloned()).collect();
            other.store.commit(&batch).unwrap();
        }
        let reversed: Vec<_> = records.iter().rev().cloned().collect();
        other.store.commit(&reversed).unwrap();
        prop_assert_eq!(dump(&one.store), dump(&other.store));
        other.reopen(|root| std::fs::remove_file(root.join("results.db")).unwrap());
        prop_assert_eq!(dump(&one.store), dump(&other.store));
    }
}
