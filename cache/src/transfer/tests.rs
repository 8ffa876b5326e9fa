mod links;

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use camino::Utf8PathBuf;

use super::{Outputs, Progress, Pulled, What};
use crate::error::StoreError;
use crate::object::ObjectRef;
use crate::remote::{Listed, OpenRemote, Remote, RemoteOptions};
use crate::test_support::{Fixture, key, record};
use crate::{Digest, Record, RunCounts, RunRow, SigningKey, Store, Trust};

/// A remote that compresses, or not, and whose connection ends after some bytes.
struct Wire {
    inner: Arc<dyn Remote>,
    compresses: bool,
    left: AtomicI64,
}

impl Remote for Wire {
    fn address(&self) -> &str {
        self.inner.address()
    }
    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        self.inner.list(folder)
    }
    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        self.inner.size(name)
    }
    fn read(&self, name: &str, from: u64, to: &mut dyn Write) -> io::Result<()> {
        let mut all = Vec::new();
        self.inner.read(name, from, &mut all)?;
        let left = usize::try_from(self.left.load(Ordering::Relaxed)).unwrap_or(0);
        let n = all.len().min(left);
        self.left.fetch_sub(n as i64, Ordering::Relaxed);
        to.write_all(&all[..n])?;
        if n < all.len() { Err(io::Error::new(io::ErrorKind::TimedOut, "cut off")) } else { Ok(()) }
    }
    fn put(&self, name: &str, from: &mut dyn Read) -> io::Result<()> {
        self.inner.put(name, from)
    }
    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        self.inner.create(name, bytes)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }
    fn compresses(&self) -> bool {
        self.compresses
    }
}

struct Lab {
    ours: Fixture,
    theirs: Fixture,
    folder: Utf8PathBuf,
}

impl Lab {
    fn new() -> Self {
        let (ours, theirs) = (Fixture::new(), Fixture::new());
        let folder = ours.root.join("lab");
        for f in [&ours, &theirs] {
            f.store.add_remote("lab", folder.as_str(), RemoteOptions::default()).unwrap();
        }
        Self { ours, theirs, folder }
    }

    fn remote(f: &Fixture) -> OpenRemote {
        f.store.open_remote(None).unwrap()
    }

    fn wire(f: &Fixture, compresses: bool, bytes: i64) -> OpenRemote {
        let OpenRemote { remote, config } = Self::remote(f);
        OpenRemote { remote: Arc::new(Wire { inner: remote, compresses, left: AtomicI64::new(bytes) }), config }
    }

    fn pull(&self) -> Pulled {
        self.theirs.store.pull(&Self::remote(&self.theirs), &What::default(), &|_| ()).unwrap()
    }

    fn push(&self) -> super::Pushed {
        self.ours.store.push(&Self::remote(&self.ours), &What::default(), &|_| ()).unwrap()
    }
}

/// A file and a tree, with a record that names both.
fn outputs(f: &Fixture, text: &str) -> (Record, [ObjectRef; 2]) {
    let file = f.object(format!("weights of {text} ").repeat(500).as_bytes());
    let tree = f.insert(&f.tree("t", &[("a", text.as_bytes()), ("deep/b", &[7; 3000]), ("none/", b""), ("z", b"")]));
    (record(text, &[("model", file), ("tree", tree)]), [file, tree])
}

#[test]
fn what_is_pushed_is_pulled_and_only_once() {
    let lab = Lab::new();
    let (record, objects) = outputs(&lab.ours, "a");
    lab.ours.store.commit(&[record]).unwrap();
    lab.ours.store.sign_own(&SigningKey::generate().unwrap()).unwrap();
    let pushed = lab.push();
    assert_eq!((pushed.records, pushed.objects, pushed.known_objects), (1, 2, 0));
    let pushed = lab.push();
    assert_eq!((pushed.records, pushed.objects, pushed.known_objects), (0, 0, 2));
    let pulled = lab.pull();
    assert_eq!((pulled.merged.records, pulled.merged.signatures, pulled.objects, pulled.absent), (1, 1, 2, 0));
    for object in objects {
        assert_eq!(lab.theirs.store.verify_object(&object), Ok(()));
    }
    assert_eq!(lab.pull(), Pulled::default());
    assert_eq!(std::fs::read_dir(lab.theirs.store.cache_dir().join("incoming")).unwrap().count(), 0);
    // Nobody has vouched for it here.
    assert!(lab.theirs.store.index().unwrap().candidates(&key("a")).unwrap().is_empty());
    lab.theirs.store.set_trust(Trust { everything: true, ..Trust::default() });
    assert_eq!(lab.theirs.store.index().unwrap().candidates(&key("a")).unwrap().len(), 1);
    // And back: nothing that came from there is pushed again.
    let back = lab.theirs.store.push(&Lab::remote(&lab.theirs), &What::default(), &|_| ()).unwrap();
    assert_eq!((back.records, back.objects), (0, 0));
}

#[test]
fn tags_go_along_with_their_runs() {
    let lab = Lab::new();
    let of = |run: &str, node: &str| Record { run: run.into(), ..record(node, &[]) };
    lab.ours.store.commit(&[of("run-1", "a"), of("run-2", "b")]).unwrap();
    lab.ours.store.set_tag("one", Some("run-1")).unwrap();
    lab.ours.store.set_tag("two", Some("run-2")).unwrap();
    let remote = Lab::remote(&lab.ours);
    let some = What { runs: ["run-2".to_owned()].into(), ..What::default() };
    assert_eq!(lab.ours.store.push(&remote, &some, &|_| ()).unwrap().tags, 1);
    assert_eq!(lab.pull().merged.tags, 1);
    let names = |f: &Fixture| f.store.tags().unwrap().into_keys().collect::<Vec<_>>();
    assert_eq!(names(&lab.theirs), ["two"]);
    assert_eq!((lab.push().tags, lab.push().tags), (1, 0));
    assert_eq!((lab.pull().merged.tags, lab.pull().merged.tags), (1, 0));
    // And back, when somebody has thought again.
    lab.theirs.store.set_tag("one", None).unwrap();
    lab.theirs.store.push(&Lab::remote(&lab.theirs), &What::default(), &|_| ()).unwrap();
    lab.ours.store.pull(&remote, &What::default(), &|_| ()).unwrap();
    assert_eq!(names(&lab.ours), ["two"]);
}

#[test]
fn a_run_a_node_or_models_alone() {
    let lab = Lab::new();
    let (a, [model, tree]) = outputs(&lab.ours, "a");
    let other = lab.ours.object(b"other");
    let b = Record { run: "run-2".into(), node: "sweep[lr=1]".into(), ..record("b", &[("out", other)]) };
    lab.ours.store.commit(&[a, b]).unwrap();
    let remote = Lab::remote(&lab.ours);
    let what = What { nodes: ["sweep".to_owned()].into(), ..What::default() };
    let pushed = lab.ours.store.push(&remote, &what, &|_| ()).unwrap();
    assert_eq!((pushed.records, pushed.objects), (1, 1));
    lab.push();
    let theirs = &lab.theirs.store;
    let remote = Lab::remote(&lab.theirs);
    let none = What { outputs: Outputs::None, ..What::default() };
    let pulled = theirs.pull(&remote, &none, &|_| ()).unwrap();
    assert_eq!((pulled.merged.records, pulled.objects), (2, 0));
    theirs.pull(&remote, &What { outputs: Outputs::Models, ..What::default() }, &|_| ()).unwrap();
    assert!(theirs.present(&model) && !theirs.present(&tree) && !theirs.present(&other));
    theirs.pull(&remote, &What { runs: ["run-2".to_owned()].into(), ..What::default() }, &|_| ()).unwrap();
    assert!(theirs.present(&other) && !theirs.present(&tree));
}

#[test]
fn a_pull_that_is_cut_off_goes_on_where_it_was() {
    for compresses in [false, true] {
        let lab = Lab::new();
        let (record, objects) = outputs(&lab.ours, "a");
        lab.ours.store.commit(&[record]).unwrap();
        lab.ours.store.push(&Lab::wire(&lab.ours, compresses, i64::MAX), &What::default(), &|_| ()).unwrap();
        let theirs = &lab.theirs.store;
        theirs.pull_records(&Lab::remote(&lab.theirs)).unwrap();
        for object in objects {
            // At every seventh byte of what has to come, and once more from there.
            let mut cuts = 0;
            loop {
                // The listing of a tree is read anew each time.
                let listing = if object.files > 1 { theirs_listing(&lab, &object) } else { 0 };
                let fetched = theirs.fetch(&Lab::wire(&lab.theirs, compresses, listing + 7), &object, &|_| ());
                match fetched {
                    Ok(true) => break,
                    Ok(false) => panic!("it is there"),
                    Err(StoreError::Remote { why, .. }) => assert!(why.contains("cut off"), "{why}"),
                    Err(other) => panic!("{other}"),
                }
                assert!(!theirs.present(&object));
                cuts += 1;
            }
            assert!(cuts > 1, "{cuts}");
            assert_eq!(theirs.verify_object(&object), Ok(()));
        }
    }
}

fn theirs_listing(lab: &Lab, object: &ObjectRef) -> i64 {
    let bytes = std::fs::metadata(lab.folder.join(super::listing_name(&object.digest))).unwrap().len();
    i64::try_from(bytes).unwrap()
}

#[test]
fn what_is_left_of_something_else_does_no_harm() {
    let lab = Lab::new();
    let (record, objects) = outputs(&lab.ours, "a");
    lab.ours.store.commit(&[record]).unwrap();
    lab.push();
    for (object, name) in [(objects[0], "data"), (objects[1], "data/deep/b"), (objects[1], "data/a")] {
        let folder = lab.theirs.store.cache_dir().join("incoming").join(object.digest.to_string());
        for left in [&b"xyz"[..], &[0; 20_000]] {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, left).unwrap();
            // Copied, and not linked.
            let remote = Lab::wire(&lab.theirs, false, i64::MAX);
            let mut got = lab.theirs.store.fetch(&remote, &object, &|_| ());
            if got.is_err() {
                // Its beginning was not ours: thrown away, and fetched anew.
                got = lab.theirs.store.fetch(&remote, &object, &|_| ());
            }
            assert!(got.unwrap());
            assert_eq!(lab.theirs.store.verify_object(&object), Ok(()));
            lab.theirs.store.set_aside(&object).unwrap();
        }
    }
}

/// Puts other bytes in the place of a file that is read-only.
fn overwrite(path: impl AsRef<camino::Utf8Path>, bytes: impl AsRef<[u8]>) {
    std::fs::remove_file(path.as_ref()).unwrap();
    std::fs::write(path.as_ref(), bytes).unwrap();
}

/// Pushes an object under `compresses`, lets `tamper` change files of the remote, and says why pulling is refused.
fn refusal(compresses: bool, tree: bool, tamper: impl FnOnce(&Lab, &ObjectRef)) -> String {
    let lab = Lab::new();
    let (record, objects) = outputs(&lab.ours, "a");
    lab.ours.store.commit(&[record]).unwrap();
    lab.ours.store.push(&Lab::wire(&lab.ours, compresses, i64::MAX), &What::default(), &|_| ()).unwrap();
    let object = objects[usize::from(tree)];
    tamper(&lab, &object);
    let error = lab.theirs.store.pull(&Lab::remote(&lab.theirs), &What::default(), &|_| ()).unwrap_err();
    assert!(!lab.theirs.store.present(&object));
    for folder in ["objects", "trees"] {
        for fan in lab.theirs.store.root().join(folder).read_dir_utf8().unwrap() {
            for entry in fan.unwrap().path().read_dir_utf8().unwrap() {
                let path = entry.unwrap().into_path();
                assert!(!path.as_str().contains(&object.digest.to_string()[2..]), "{path}");
            }
        }
    }
    error.to_string()
}

#[test]
fn a_malicious_remote_changes_nothing() {
    let raw = |lab: &Lab, object: &ObjectRef| lab.folder.join(super::object_name(object));
    let zst = |lab: &Lab, object: &ObjectRef| Utf8PathBuf::from(format!("{}.zst", raw(lab, object)));
    let why = refusal(false, false, |lab, object| {
        overwrite(raw(lab, object), vec![0; usize::try_from(object.bytes).unwrap()]);
    });
    assert!(why.contains("do not match its digest"), "{why}");
    let why = refusal(false, false, |lab, object| overwrite(raw(lab, object), b"short"));
    assert!(why.contains("5 bytes instead of"), "{why}");
    let why = refusal(false, false, |lab, object| {
        std::fs::remove_file(raw(lab, object)).unwrap();
        std::fs::create_dir(raw(lab, object)).unwrap();
        std::fs::write(zst(lab, object), b"not zstd").unwrap();
    });
    assert!(why.contains("cannot be unpacked"), "{why}");
    // A bomb: 64 MiB of nothing in some KiB, instead of what was promised.
    let bomb = || {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        (0..64).for_each(|_| encoder.write_all(&[0; 1 << 20]).unwrap());
        encoder.finish().unwrap()
    };
    for tree in [false, true] {
        let why = refusal(true, tree, |lab, object| overwrite(zst(lab, object), bomb()));
        assert!(why.contains("more bytes came") || why.contains("do not match"), "{why}");
    }
    let why = refusal(true, true, |lab, object| {
        let listing = lab.folder.join(super::listing_name(&object.digest));
        let text = std::fs::read_to_string(&listing).unwrap().replace("deep/b", "../../b");
        overwrite(listing, text);
    });
    assert!(why.contains("is not the listing"), "{why}");
    let why = refusal(false, true, |lab, object| {
        std::fs::remove_file(lab.folder.join(super::listing_name(&object.digest))).unwrap();
    });
    assert!(why.contains("is missing"), "{why}");
}

#[test]
fn a_listing_that_leads_out_of_its_folder_is_refused_even_with_the_right_digest() {
    let lab = Lab::new();
    for path in ["../../../evil", "/tmp/evil", "a/../../evil"] {
        let text = format!(
            r#"{{"files":[{{"path":"{path}","bytes":1,"digest":"{}"}}],"empty_folders":[]}}"#,
            Digest::of_bytes(b"x")
        );
        let digest = crate::Listing::digest_of(text.as_bytes());
        let object = ObjectRef { digest, kind: crate::ObjectKind::Tree, bytes: 1, files: 1 };
        let remote = Lab::remote(&lab.ours);
        remote.remote.put(&super::listing_name(&digest), &mut text.as_bytes()).unwrap();
        remote.remote.put(&super::object_name(&object), &mut &b"x"[..]).unwrap();
        let error = lab.theirs.store.fetch(&Lab::remote(&lab.theirs), &object, &|_| ()).unwrap_err();
        assert!(error.to_string().contains("leads out of the folder"), "{error}");
    }
}

#[test]
fn a_size_that_no_disk_has_is_refused_before_anything_is_written() {
    let lab = Lab::new();
    let huge = ObjectRef { digest: Digest::of_bytes(b"x"), kind: crate::ObjectKind::File, bytes: 1 << 60, files: 1 };
    let remote = Lab::remote(&lab.ours);
    remote.remote.put(&format!("{}.zst", super::object_name(&huge)), &mut &b"x"[..]).unwrap();
    let error = lab.theirs.store.fetch(&Lab::remote(&lab.theirs), &huge, &|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::OutOfSpace { .. }), "{error}");
}

#[test]
fn bundles_are_what_their_names_say() {
    let lab = Lab::new();
    lab.ours.store.commit(&[record("a", &[])]).unwrap();
    lab.push();
    let folder = lab.folder.join("records");
    let bundle = folder.read_dir_utf8().unwrap().next().unwrap().unwrap().into_path();
    let good = std::fs::read(&bundle).unwrap();
    let fails = |why: &str| {
        let error = lab.theirs.store.pull(&Lab::remote(&lab.theirs), &What::default(), &|_| ()).unwrap_err();
        assert!(error.to_string().contains(why) && error.to_string().contains("nothing was changed"), "{error}");
        assert!(lab.theirs.store.executions().unwrap().is_empty());
    };
    std::fs::write(&bundle, b"rubbish").unwrap();
    fails("cannot be unpacked");
    let text = zstd::bulk::decompress(&good, 1 << 20).unwrap();
    let mut other = text.clone();
    other[10] ^= 1;
    std::fs::write(&bundle, zstd::bulk::compress(&other, 3).unwrap()).unwrap();
    fails("not what its name says");
    std::fs::write(&bundle, zstd::bulk::compress(&[0; 1 << 20], 3).unwrap()).unwrap();
    fails("cannot be unpacked");
    std::fs::remove_file(&bundle).unwrap();
    // Well named, with a record that is not what its id says.
    let text = String::from_utf8(text).unwrap().replace("\"wall_seconds\":1.5", "\"wall_seconds\":0.5");
    let put = |text: &str| {
        let name = format!("{}-{}.jsonl.zst", Digest::of_bytes(text.as_bytes()), text.len());
        std::fs::write(folder.join(&name), zstd::bulk::compress(text.as_bytes(), 3).unwrap()).unwrap();
        folder.join(name)
    };
    let evil = put(&text);
    fails("neither a record");
    std::fs::remove_file(evil).unwrap();
    let evil = put(&format!(
        "{{\"run\":{},\"nodes\":[]}}\n",
        r#"{"run":"../x","plan":null,"manifest":"","command":"","started_at":0,"finished_at":1,"outcome":"done","counts":{"nodes":0,"cached":0,"done":0,"failed":0,"skipped":0},"details":{}}"#
    ));
    fails("cannot be a run id");
    std::fs::remove_file(evil).unwrap();
    std::fs::write(folder.join(format!("{}-{}.jsonl.zst", Digest::of_bytes(b""), u64::MAX)), b"").unwrap();
    fails("it says that it has");
}

/// As in a database that is merged: else nobody could merge ours any more.
#[test]
fn gigantic_rows_are_refused() {
    let long = "x".repeat(65 << 20);
    let ended = RunRow {
        run: "run-1".into(),
        plan: None,
        manifest: "m.toml".into(),
        command: long.clone(),
        started_at: 0,
        finished_at: Some(1),
        outcome: Some("done".into()),
        counts: RunCounts::default(),
        details: serde_json::Value::Null,
    };
    let params = serde_json::json!({ "x": long }).as_object().unwrap().clone();
    let record = Record { params, ..record("a", &[]) };
    let with_record = |store: &Store| drop(store.commit(std::slice::from_ref(&record)).unwrap());
    let with_run = |store: &Store| store.start_run(&ended).unwrap();
    let fills: [&dyn Fn(&Store); 2] = [&with_record, &with_run];
    for fill in fills {
        let lab = Lab::new();
        fill(&lab.ours.store);
        lab.push();
        let error = lab.theirs.store.pull(&Lab::remote(&lab.theirs), &What::default(), &|_| ()).unwrap_err();
        assert!(error.to_string().contains("it has a value of more than 64 MiB (nothing was changed)"), "{error}");
        assert!(lab.theirs.store.executions().unwrap().is_empty() && lab.theirs.store.list_runs().unwrap().is_empty());
    }
}

/// What a newer Sepia says is left out and counted, and taken once this one understands it.
#[test]
fn a_bundle_of_a_newer_sepia_is_read_again() {
    let lab = Lab::new();
    lab.ours.store.commit(&[record("a", &[])]).unwrap();
    lab.push();
    let folder = lab.folder.join("records");
    let bundle = folder.read_dir_utf8().unwrap().next().unwrap().unwrap().into_path();
    let text = zstd::bulk::decompress(&std::fs::read(&bundle).unwrap(), 1 << 20).unwrap();
    std::fs::remove_file(&bundle).unwrap();
    let text = String::from_utf8(text).unwrap() + "{\"comment\":\"looks odd\",\"about\":\"a\"}\n";
    let name = format!("{}-{}.jsonl.zst", Digest::of_bytes(text.as_bytes()), text.len());
    std::fs::write(folder.join(name), zstd::bulk::compress(text.as_bytes(), 3).unwrap()).unwrap();
    let pull = || lab.theirs.store.pull(&Lab::remote(&lab.theirs), &What::default(), &|_| ()).unwrap().merged;
    let first = pull();
    assert_eq!((first.records, first.newer), (1, 1));
    let again = pull();
    assert_eq!((again.records, again.known, again.newer), (0, 1, 1));
}

#[test]
fn a_damaged_output_is_not_pushed() {
    let lab = Lab::new();
    let object = lab.ours.object(b"good");
    lab.ours.store.commit(&[record("a", &[("out", object)])]).unwrap();
    let path = lab.ours.store.object_path(&object);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"evil").unwrap();
    let error = lab.ours.store.push(&Lab::remote(&lab.ours), &What::default(), &|_| ()).unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
    assert!(lab.ours.store.open_remote(None).unwrap().remote.list("objects").unwrap().is_empty());
}

#[test]
fn what_is_damaged_or_absent_is_repaired() {
    let lab = Lab::new();
    let (record, objects) = outputs(&lab.ours, "a");
    lab.ours.store.commit(&[record]).unwrap();
    lab.push();
    let path = lab.ours.store.object_path(&objects[1]).join("a");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"!").unwrap();
    std::fs::remove_file(lab.ours.store.object_path(&objects[0])).unwrap();
    let found = lab.ours.store.verify_all(|_| ()).unwrap();
    assert_eq!((found.damaged.len(), found.absent.len()), (1, 1));
    assert_eq!(lab.ours.store.repair(&Lab::remote(&lab.ours), &found).unwrap(), 2);
    let found = lab.ours.store.verify_all(|_| ()).unwrap();
    assert!(found.is_sound() && found.absent.is_empty());
}

#[test]
fn remotes_are_probed_and_remembered() {
    let lab = Lab::new();
    let config = &lab.ours.store.remotes().unwrap()[0];
    let probe = &config.probe;
    assert!(probe.create_exclusive && probe.lists_after_write && probe.replaces && probe.ranged_reads);
    assert_eq!(config.id, lab.theirs.store.remotes().unwrap()[0].id);
    assert!(
        !lab.folder.join("probe").read_dir_utf8().unwrap().any(|entry| entry
            .unwrap()
            .path()
            .read_dir_utf8()
            .unwrap()
            .count()
            > 0)
    );
    let no_such = lab.ours.store.open_remote(Some("lap")).unwrap_err();
    assert_eq!(no_such.to_string(), "there is no remote `lap`: there are lab");
    std::fs::write(lab.folder.join("sepia-remote.json"), r#"{"format":9}"#).unwrap();
    let newer = lab.ours.store.open_remote(None).unwrap_err().to_string();
    assert!(newer.contains("use a newer Sepia"), "{newer}");
    std::fs::remove_file(lab.folder.join("sepia-remote.json")).unwrap();
    let gone = lab.ours.store.open_remote(None).unwrap_err().to_string();
    assert!(gone.contains("is it mounted?"), "{gone}");
    lab.ours.store.remove_remote("lab").unwrap();
    assert!(lab.ours.store.remotes().unwrap().is_empty());
    assert!(lab.ours.store.add_remote("../x", "/tmp", RemoteOptions::default()).is_err());
    assert!(lab.ours.store.add_remote("x", "gopher://host/x", RemoteOptions::default()).is_err());
}

#[test]
fn progress_is_told_in_bytes_and_ends_at_the_end() {
    let lab = Lab::new();
    let (record, objects) = outputs(&lab.ours, "a");
    lab.ours.store.commit(&[record]).unwrap();
    let last = std::sync::Mutex::new(Progress::default());
    lab.ours
        .store
        .push(&Lab::remote(&lab.ours), &What::default(), &|progress| *last.lock().unwrap() = progress)
        .unwrap();
    let last = last.into_inner().unwrap();
    let bytes = objects.iter().map(|object| object.bytes).sum();
    assert_eq!((last.objects, last.of_objects, last.of_bytes), (2, 2, bytes));
}
