use std::collections::BTreeSet;

use camino::Utf8PathBuf;
use proptest::prelude::*;
use rusqlite::Connection;

use crate::merge::Foreign;
use crate::test_support::{Fixture, any_record, key, record};
use crate::{
    Merged, OpenMode, PlanNode, Record, RecordId, RunCounts, RunNode, RunRow, SigningKey, Store, StoreError, Trust,
};

/// A copy of the fixture's database that nobody has open.
fn published(f: &Fixture) -> Utf8PathBuf {
    let path = f.root.join(format!("published-{}.db", f.store.executions().unwrap().len()));
    let _ = std::fs::remove_file(&path);
    f.store.query(|connection| connection.execute("VACUUM INTO ?", [path.as_str()])).unwrap();
    path
}

fn merge(into: &Fixture, from: &Fixture) -> Merged {
    into.store.merge(&published(from), false, |_, _| ()).unwrap()
}

fn row(run: &str) -> RunRow {
    RunRow {
        run: run.into(),
        plan: None,
        manifest: "m.toml".into(),
        command: "sepia run".into(),
        started_at: 1,
        finished_at: Some(2),
        outcome: Some("done".into()),
        counts: RunCounts::default(),
        details: serde_json::json!({}),
    }
}

/// All that a store holds, apart from the numbers of its rows.
fn contents(store: &Store) -> (BTreeSet<(RecordId, String)>, Vec<RunRow>) {
    let records = store.executions().unwrap().into_iter().map(|row| {
        let record = store.record(&row.record).unwrap().unwrap();
        (row.record, record.canonical().unwrap())
    });
    (records.collect(), store.list_runs().unwrap())
}

fn with(records: &[Record]) -> Fixture {
    let f = Fixture::new();
    f.store.commit(records).unwrap();
    for run in records.iter().map(|record| &record.run).collect::<BTreeSet<_>>() {
        f.store.start_run(&row(run)).unwrap();
    }
    f
}

/// Records whose names are names.
fn any_named_record() -> impl Strategy<Value = Record> {
    any_record().prop_filter("names have no control characters", |record| {
        let metrics = record.metrics.iter().map(|(name, _)| name);
        let outputs = record.outputs.iter().map(|output| output.port.as_str());
        metrics.chain(outputs).chain([record.node.as_str()]).all(|name| !name.chars().any(char::is_control))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn merging_is_the_union_of_sets(
        all in prop::collection::vec(any_named_record(), 1..6),
        places in prop::collection::vec(1..8u8, 6),
    ) {
        // Each record is in some of three stores.
        let part = |bit: u8| -> Vec<Record> {
            all.iter().zip(&places).filter(|(_, place)| *place & bit != 0).map(|(record, _)| record.clone()).collect()
        };
        let make = || [1, 2, 4].map(|bit| with(&part(bit)));
        let [a, b, c] = make();
        merge(&a, &b);
        merge(&a, &c);
        let union = contents(&a.store);
        prop_assert_eq!(union.0.len(), all.iter().map(|record| record.id().unwrap()).collect::<BTreeSet<_>>().len());
        // Idempotent.
        prop_assert_eq!(merge(&a, &b).records, 0);
        prop_assert_eq!(&contents(&a.store), &union);
        // Associative and commutative: c with (b with a).
        let [a2, b2, c2] = make();
        merge(&b2, &a2);
        merge(&c2, &b2);
        prop_assert_eq!(&contents(&c2.store), &union);
        // What was merged is in the files, too.
        let root = c2.store.root().to_owned();
        drop(c2.store);
        Store::rebuild_database(&root).unwrap();
        prop_assert_eq!(&contents(&Store::open(&root, OpenMode::Existing).unwrap()), &union);
    }
}

/// The lines about tags that a store holds, and what they come to.
fn tags(f: &Fixture) -> (BTreeSet<String>, std::collections::BTreeMap<String, BTreeSet<String>>) {
    let lines = f.store.tag_lines().unwrap();
    (lines.iter().map(|line| line.id().to_string()).collect(), f.store.tags().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn tags_are_the_union_of_what_was_said(
        // Who says it, of which name, and of which run, if of any; or what somebody takes over meanwhile.
        said in prop::collection::vec((0..3usize, 0..2usize, prop::option::of(0..3u8), prop::option::of(0..3usize)), 1..12),
    ) {
        let take = |into: &Fixture, from: &Fixture| into.store.merge(from.store.root(), false, |_, _| ()).unwrap().tags;
        let make = || {
            let all = [(); 3].map(|()| Fixture::new());
            for (who, name, run, from) in &said {
                if let Some(from) = from.filter(|from| from != who) {
                    take(&all[*who], &all[from]);
                }
                // There may be nothing to take away.
                let _ = all[*who].store.set_tag(["x", "y"][*name], run.map(|run| format!("r{run}")).as_deref());
            }
            all
        };
        let [a, b, c] = make();
        take(&a, &b);
        take(&a, &c);
        let union = tags(&a);
        prop_assert_eq!(take(&a, &b), 0);
        prop_assert_eq!(&tags(&a), &union);
        let [a, b, c] = make();
        take(&b, &a);
        take(&c, &b);
        prop_assert_eq!(&tags(&c), &union);
        // Whoever decides with all before them is understood everywhere.
        c.store.set_tag("x", Some("r9")).unwrap();
        take(&a, &c);
        prop_assert_eq!(&tags(&a).1["x"], &BTreeSet::from(["r9".to_owned()]));
    }
}

#[test]
fn a_tag_that_is_none_changes_nothing() {
    let ours = with(&[record("mine", &[])]);
    for line in [
        r#"{"tag":"latest","run":"r","replaces":[]}"#,
        r#"{"tag":"../x","run":"r","replaces":[]}"#,
        r#"{"tag":"x","run":"../../r","replaces":[]}"#,
    ] {
        let theirs = Fixture::new();
        theirs.store.commit(&[record("a", &[])]).unwrap();
        std::fs::write(theirs.store.root().join("tags.jsonl"), line).unwrap();
        let error = ours.store.merge(theirs.store.root(), false, |_, _| ()).unwrap_err();
        assert!(error.to_string().contains("nothing was changed"), "{error}");
        assert_eq!(ours.store.executions().unwrap().len(), 1);
        assert!(ours.store.tag_lines().unwrap().is_empty());
    }
}

#[test]
fn a_store_brings_its_outputs_and_only_the_good_ones() {
    let (ours, theirs) = (Fixture::new(), Fixture::new());
    let file = theirs.object(b"weights");
    let tree = theirs.insert(&theirs.tree("t", &[("a", b"1"), ("deep/b", b"2")]));
    let bad = theirs.object(b"damaged");
    theirs.store.commit(&[record("a", &[("file", file), ("tree", tree), ("bad", bad)])]).unwrap();
    let path = theirs.store.object_path(&bad);
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
    let merged = ours.store.merge(theirs.store.root(), false, |_, _| ()).unwrap();
    assert_eq!((merged.records, merged.objects), (1, 2));
    assert!(ours.store.verify_object(&file).is_ok() && ours.store.verify_object(&tree).is_ok());
    assert!(!ours.store.present(&bad));
    assert_eq!(std::fs::read_dir(ours.store.cache_dir()).unwrap().count(), 0);
    // Without its database it has its records still.
    let third = Fixture::new();
    let root = theirs.store.root().to_owned();
    drop(theirs.store);
    std::fs::remove_file(root.join("results.db")).unwrap();
    assert_eq!(third.store.merge(&root, false, |_, _| ()).unwrap().records, 1);
    assert!(!root.join("results.db").exists());
}

#[test]
fn what_differs_is_kept_twice_and_listed() {
    let (ours, theirs) = (Fixture::new(), Fixture::new());
    ours.store.commit(&[record("a", &[("out", ours.object(b"one"))]), record("b", &[])]).unwrap();
    let there = Record {
        provenance: serde_json::json!({"host": "other"}),
        started_at: 1,
        ..record("a", &[("out", theirs.object(b"two"))])
    };
    theirs.store.commit(&[there]).unwrap();
    for (one, other) in [(&ours, &theirs), (&theirs, &ours)] {
        merge(one, other);
    }
    let found = ours.store.divergences().unwrap();
    assert_eq!(found, theirs.store.divergences().unwrap());
    assert_eq!((found.len(), found[0].key, found[0].variants.len()), (1, key("a"), 2));
    assert_eq!(found[0].variants[0].records[0].1.provenance["host"], "other", "the older one first");
}

#[test]
fn strangers_are_shown_and_not_used_unless_someone_vouches() {
    let (ours, theirs) = (Fixture::new(), Fixture::new());
    theirs.store.commit(&[record("a", &[])]).unwrap();
    let (alice, mallory) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    assert_eq!(theirs.store.sign_own(&mallory).unwrap(), 1);
    merge(&ours, &theirs);
    assert_eq!(ours.store.executions().unwrap().len(), 1, "shown");
    let hits = |trust: Trust| {
        ours.store.set_trust(trust);
        ours.store.index().unwrap().candidates(&key("a")).unwrap().len()
    };
    let id = ours.store.executions().unwrap()[0].record;
    let by = |key: &SigningKey| Trust { keys: [key.public()].into(), ..Trust::default() };
    assert_eq!(hits(Trust::default()), 0);
    assert_eq!(hits(by(&alice)), 0);
    assert!(!ours.store.is_trusted(&id).unwrap());
    assert_eq!(hits(by(&mallory)), 1);
    assert!(ours.store.is_trusted(&id).unwrap());
    assert_eq!(hits(Trust { everything: true, ..Trust::default() }), 1);
    // Signed later, merged again.
    assert_eq!(theirs.store.sign_own(&alice).unwrap(), 1);
    assert_eq!(merge(&ours, &theirs), Merged { known: 1, signatures: 1, ..Merged::default() });
    assert_eq!(hits(by(&alice)), 1);
    // What came from elsewhere is not ours to sign.
    assert_eq!(ours.store.sign_own(&alice).unwrap(), 0);
    // Trusted as a whole.
    ours.store.merge(&published(&theirs), true, |_, _| ()).unwrap();
    assert_eq!(hits(Trust::default()), 1);
    merge(&ours, &theirs);
    assert_eq!(hits(Trust::default()), 1, "trust is not lost by merging again");
    let root = ours.store.root().to_owned();
    drop(ours.store);
    Store::rebuild_database(&root).unwrap();
    let store = Store::open(&root, OpenMode::Existing).unwrap();
    assert_eq!(store.index().unwrap().candidates(&key("a")).unwrap().len(), 1, "nor by building the database anew");
    assert_eq!(store.signatures(&store.executions().unwrap()[0].record).unwrap().len(), 2);
}

#[test]
fn runs_with_their_nodes_and_plans_come_along() {
    let (ours, theirs) = (Fixture::new(), Fixture::new());
    let plan = theirs.store.save_plan(&[PlanNode { node: "a".into(), key: Some(key("a")) }]).unwrap();
    let begun = RunRow { finished_at: None, outcome: None, ..row("r") };
    theirs.store.start_run(&begun).unwrap();
    assert_eq!(merge(&ours, &theirs).runs, 1);
    assert_eq!(ours.store.find_run("r").unwrap().outcome.as_deref(), Some("died"));
    let ended = RunRow { plan: Some(plan), ..row("r") };
    theirs.store.start_run(&ended).unwrap();
    let node = RunNode {
        run: "r".into(),
        node: "a".into(),
        key: None,
        record: None,
        outcome: "failed".into(),
        because: None,
        wall_seconds: None,
    };
    theirs.store.add_run_nodes(std::slice::from_ref(&node)).unwrap();
    assert_eq!(merge(&ours, &theirs).runs, 1, "its end is news");
    assert_eq!(ours.store.find_run("r").unwrap(), ended);
    assert_eq!(ours.store.run_nodes("r").unwrap(), [node]);
    assert_eq!(ours.store.plan(&plan).unwrap().len(), 1);
    theirs.store.start_run(&RunRow { command: "rm -r /".into(), ..ended.clone() }).unwrap();
    assert_eq!(merge(&ours, &theirs).runs, 0, "what is known is not overwritten");
    assert_eq!(ours.store.find_run("r").unwrap(), ended);
}

/// Merging `path` is refused for a reason that holds `why`, and changes nothing.
fn refused(f: &Fixture, path: &camino::Utf8Path, why: &str) {
    let files = |f: &Fixture| {
        let mut all: Vec<_> = ["records", "cache", "runs", "plans"]
            .iter()
            .flat_map(|name| f.store.root().join(name).read_dir_utf8().unwrap())
            .map(|entry| entry.unwrap().path().to_owned())
            .collect();
        all.sort();
        all
    };
    let before = (contents(&f.store), files(f), std::fs::read(path).ok());
    let error = f.store.merge(path, false, |_, _| ()).unwrap_err();
    assert!(error.to_string().contains(why), "{error}");
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    assert_eq!((contents(&f.store), files(f), std::fs::read(path).ok()), before);
}

/// A published database of one execution that `sql` has changed.
fn tampered(sql: &str) -> (Fixture, Utf8PathBuf) {
    let theirs = Fixture::new();
    theirs.store.commit(&[record("a", &[("out", theirs.object(b"x"))])]).unwrap();
    theirs.store.start_run(&row("r")).unwrap();
    let path = published(&theirs);
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    (theirs, path)
}

#[test]
fn a_malicious_database_changes_nothing() {
    let ours = with(&[record("mine", &[])]);
    let big = format!("UPDATE executions SET error = zeroblob({})", 65 << 20);
    let cases = [
        ("UPDATE executions SET wall_seconds = 0.001", "is not what its id says"),
        ("UPDATE metric_points SET value = 0", "is not what its id says"),
        ("UPDATE artifacts SET digest = substr(digest, 2) || '0'", "is not what its id says"),
        ("UPDATE artifacts SET digest = '../../../etc/passwd'", "is not a digest"),
        ("UPDATE executions SET record = '''; DROP TABLE executions; --'", "is not a digest"),
        ("UPDATE executions SET run = '../../x'", "cannot be a run id"),
        ("UPDATE runs SET run = '../../x'", "cannot be a run id"),
        ("UPDATE executions SET node = char(27) || ']0;owned'", "control characters"),
        ("UPDATE executions SET outcome = 7", "an outcome of no known name"),
        ("UPDATE execution_details SET params = replace(hex(zeroblob(100000)), '00', '[')", "recursion"),
        ("DELETE FROM execution_details", "returned no rows"),
        ("DROP TABLE metric_points", "lacks the table `metric_points`"),
        ("DROP TABLE imports; CREATE VIEW imports AS SELECT 1", "lacks the table `imports`"),
        (
            "ALTER TABLE names RENAME TO old; CREATE VIEW names AS WITH RECURSIVE r(name, text) AS (SELECT 1, 'x' UNION ALL \
             SELECT name + 1, text FROM r) SELECT * FROM r",
            "names",
        ),
        ("ALTER TABLE runs ADD COLUMN more", "`runs` is not the one"),
        ("CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM executions; END", "trigger"),
        (
            "INSERT INTO signatures SELECT record, 'ed25519:' || hex(zeroblob(32)), hex(zeroblob(64)) FROM executions",
            "is not good",
        ),
        ("UPDATE plans SET listing = '[]'; INSERT INTO plans VALUES (hex(zeroblob(32)), 0, '[]')", "plan"),
        ("PRAGMA application_id = 1", "not one of Sepia's"),
        ("PRAGMA user_version = 1000", "schema 1000"),
        (&big, "MiB"),
    ];
    for (sql, why) in cases {
        let (_theirs, path) = tampered(sql);
        refused(&ours, &path, why);
    }
    let text = ours.file("text", b"this is no database, and it is long enough to look like one when it is opened");
    refused(&ours, &text, "not an SQLite database");
    let empty = ours.file("empty", b"");
    refused(&ours, &empty, "not one of Sepia's");
    // A page of rubbish in the middle.
    let (_theirs, path) = tampered("");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096 * 2..4096 * 12].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let error = ours.store.merge(&path, false, |_, _| ()).unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert!(ours.store.merge(&ours.root.join("none.db"), false, |_, _| ()).is_err());
}

#[test]
fn an_older_database_is_brought_up_to_date_on_a_copy() {
    let theirs = Fixture::new();
    theirs.store.commit(&[record("a", &[])]).unwrap();
    let path = published(&theirs);
    // As the first version had it.
    let connection = Connection::open(&path).unwrap();
    let first = crate::database::schema_tables(1).unwrap();
    let tables = crate::database::schema_tables(crate::database::newest_schema()).unwrap();
    connection.execute_batch("DROP VIEW metric_summaries; CREATE VIEW metric_summaries AS SELECT 1").unwrap();
    for (name, _) in tables.iter().filter(|table| !first.contains(table)) {
        let older = first.iter().find(|(older, _)| older == name);
        let older = older.map(|(_, sql)| {
            let columns = "execution, name, points, last, lowest, highest";
            assert_eq!(name, "metric_ends");
            format!("ALTER TABLE {name} RENAME TO newer; {sql}; INSERT INTO {name} SELECT {columns} FROM newer; DROP TABLE newer")
        });
        connection.execute_batch(&older.unwrap_or_else(|| format!("DROP TABLE {name}"))).unwrap();
    }
    connection.pragma_update(None, "user_version", 1).unwrap();
    drop(connection);
    let before = std::fs::read(&path).unwrap();
    let ours = Fixture::new();
    assert_eq!(ours.store.merge(&path, false, |_, _| ()).unwrap().records, 1);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(ours.store.cache_dir()).unwrap().count(), 0);
}

#[test]
fn a_database_with_a_writer_can_be_merged() {
    let (ours, theirs) = (Fixture::new(), Fixture::new());
    theirs.store.commit(&[record("a", &[])]).unwrap();
    // Its write-ahead log has what the file does not have yet.
    let path = theirs.store.root().join("results.db");
    assert!(Foreign::open(&ours.store, &path).unwrap().ids().unwrap().len() == 1);
    assert_eq!(ours.store.merge(&path, false, |_, _| ()).unwrap().records, 1);
}

#[test]
fn a_merge_that_was_killed_is_merged_again() {
    let (ours, theirs) = (Fixture::new(), Fixture::new());
    let records: Vec<_> = (0..600).map(|i| Record { started_at: i, ..record("a", &[]) }).collect();
    theirs.store.commit(&records).unwrap();
    let path = published(&theirs);
    for point in 0..8 {
        crate::crash_point::stop_at(Some(point));
        let stopped = ours.store.merge(&path, false, |_, _| ());
        crate::crash_point::stop_at(None);
        assert!(matches!(stopped, Err(StoreError::StoppedByTest(_) | StoreError::Database { .. })) || point > 2);
        assert!(
            !ours
                .store
                .root()
                .join("records")
                .read_dir_utf8()
                .unwrap()
                .any(|entry| entry.unwrap().file_name().starts_with('.'))
        );
    }
    merge(&ours, &theirs);
    assert_eq!(contents(&ours.store).0, contents(&theirs.store).0);
}
