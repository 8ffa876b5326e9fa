//! Parcels: there and back, and everything that somebody could do to one.

use std::fs::File;
use std::io::Write as _;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::index::NAME;
use super::*;
use crate::database::{PlanNode, RunCounts, RunRow};
use crate::test_support::{Fixture, key, record};
use crate::{Digest, ListedFile, Record, StoreError};

/// A store with one run of one result, and a folder in which its parcel was made.
fn parcel() -> (Fixture, Utf8PathBuf, Parcel, Record) {
    let f = Fixture::new();
    let outputs = [("file", f.object(b"weights")), ("tree", f.insert(&f.tree("t", &[("a/b", b"x")])))];
    let made = record("x", &outputs);
    f.store.commit(std::slice::from_ref(&made)).unwrap();
    let plan = f.store.save_plan(&[PlanNode { node: "node-x".into(), key: Some(key("x")) }]).unwrap();
    let row = RunRow {
        run: "run-1".into(),
        plan: Some(plan),
        manifest: "m.toml".into(),
        command: "sepia run m.toml".into(),
        started_at: 5,
        finished_at: Some(6),
        outcome: Some("done".into()),
        counts: RunCounts::default(),
        details: json!({}),
    };
    f.store.start_run(&row).unwrap();
    let folder = f.tree("parcel", &[("project/m.toml", b"[stages]"), ("project/data/text.txt", b"words")]);
    let what = What { runs: ["run-1".to_owned()].into(), ..What::default() };
    f.store.put_into_parcel(&folder, &what, &|_| ()).unwrap();
    let parcel = Parcel::seal(&folder, "run-1", json!({"manifest": "m.toml"})).unwrap();
    (f, folder, parcel, made)
}

fn unpack(f: &Fixture, file: &Utf8Path) -> Result<Parcel> {
    let into = tempfile::tempdir_in(&f.root).unwrap();
    let into = Utf8Path::from_path(into.path()).unwrap().to_owned();
    Parcel::unpack(file, &into)
}

fn why(result: Result<Parcel>) -> String {
    match result {
        Err(StoreError::Refused { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_goes_in_comes_out_as_a_folder_and_as_a_file() {
    let (f, folder, parcel, made) = parcel();
    assert_eq!(Parcel::check(&folder).unwrap(), parcel);
    for name in ["p.tar", "p.tar.zst"] {
        let file = f.root.join(name);
        parcel.pack(&folder, &file).unwrap();
        let first = std::fs::read(&file).unwrap();
        parcel.pack(&folder, &file).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), first, "the same parcel, the same bytes");
        let into = f.tree(&format!("into-{name}"), &[]);
        assert_eq!(Parcel::unpack(&file, &into).unwrap(), parcel);
        assert_eq!(Parcel::check(&folder).unwrap(), parcel);
        let other = Fixture::new();
        let taken = other.store.take_from_parcel(&into, &parcel, true, &|_| ()).unwrap();
        assert_eq!((taken.merged.records, taken.merged.runs, taken.objects, taken.absent), (1, 1, 2, 0));
        let hits = other.store.index().unwrap().candidates(&key("x")).unwrap();
        assert_eq!(hits.len(), 1);
        assert!(hits[0].outputs.iter().all(|(_, object)| other.store.verify_object(object).is_ok()));
        assert_eq!(other.store.record(&hits[0].record).unwrap().unwrap().id().unwrap(), made.id().unwrap());
        // Untrusted, it is there and is no result.
        let third = Fixture::new();
        third.store.take_from_parcel(&into, &parcel, false, &|_| ()).unwrap();
        assert_eq!(third.store.executions().unwrap().len(), 1);
        assert!(third.store.index().unwrap().candidates(&key("x")).unwrap().is_empty());
    }
    let below: Vec<_> = parcel.below("project").map(|(path, file)| (path.into_string(), file.bytes)).collect();
    assert_eq!(below, [("data/text.txt".to_owned(), 5), ("m.toml".to_owned(), 8)]);
}

#[test]
fn a_folder_that_is_not_as_its_list_says_is_refused() {
    let (f, folder, _, _) = parcel();
    let text = folder.join("project/data/text.txt");
    let spoil = |work: &dyn Fn(), mend: &dyn Fn()| {
        work();
        let found = why(Parcel::check(&folder));
        mend();
        Parcel::check(&folder).unwrap();
        found
    };
    let mend_text = || std::fs::write(&text, b"words").unwrap();
    assert!(spoil(&|| std::fs::write(&text, b"sword").unwrap(), &mend_text).contains("do not match its digest"));
    assert!(spoil(&|| std::fs::write(&text, b"word").unwrap(), &mend_text).contains("has 4 bytes and should have 5"));
    assert!(spoil(&|| std::fs::remove_file(&text).unwrap(), &mend_text).contains("project/data/text.txt is missing"));
    let more = folder.join("project/more");
    let without = || std::fs::remove_file(&more).unwrap();
    assert!(spoil(&|| std::fs::write(&more, b"").unwrap(), &without).contains("does not name project/more"));
    let link = || std::os::unix::fs::symlink("/etc/passwd", &more).unwrap();
    assert!(spoil(&link, &without).contains("is a symbolic link"));
    let linked = || {
        std::fs::remove_file(&text).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &text).unwrap();
    };
    let mend = || {
        std::fs::remove_file(&text).unwrap();
        mend_text();
    };
    assert!(spoil(&linked, &mend).contains("is a symbolic link"));
    assert!(why(Parcel::check(&f.tree("empty", &[]))).contains("there is no file sepia-export.json"));
}

/// A tar with these entries after a list of these files.
fn tar(path: &Utf8Path, files: &[ListedFile], entries: &[(Header, &[u8])]) {
    let mut tar = Builder::new(File::create(path).unwrap());
    let list = json!({"format": 1, "run": "r", "about": null, "files": files}).to_string();
    tar.append(&header(NAME, EntryType::Regular, list.len() as u64), list.as_bytes()).unwrap();
    for (header, bytes) in entries {
        tar.append(header, *bytes).unwrap();
    }
    tar.finish().unwrap();
}

fn header(name: &str, kind: EntryType, bytes: u64) -> Header {
    let mut header = Header::new_ustar();
    // Names that the crate would refuse to write, too.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

fn listed(path: &str, bytes: &[u8]) -> ListedFile {
    ListedFile { path: path.into(), bytes: bytes.len() as u64, digest: Digest::of_bytes(bytes) }
}

#[test]
fn a_hostile_file_is_refused_and_writes_nothing_outside() {
    let f = Fixture::new();
    let path = f.root.join("bad.tar");
    let refused = |files: &[ListedFile], entries: &[(Header, &[u8])]| {
        tar(&path, files, entries);
        why(unpack(&f, &path))
    };
    for name in ["../evil", "/tmp/evil", "a/../../evil", "a//b", "./a", "a\nb", ""] {
        let found = refused(&[listed(name, b"x")], &[(header(name, EntryType::Regular, 1), b"x")]);
        assert!(found.contains("no path inside a folder") || found.contains("control characters"), "{name}: {found}");
        let unlisted = refused(&[], &[(header(name, EntryType::Regular, 1), b"x")]);
        assert!(unlisted.contains("does not name"), "{name}: {unlisted}");
    }
    assert!(!f.root.join("evil").exists());
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Directory,
        EntryType::Fifo,
        EntryType::Char,
        EntryType::GNULongName,
        EntryType::XHeader,
        EntryType::GNUSparse,
    ] {
        let found = refused(&[listed("a", b"")], &[(header("a", kind, 0), b"")]);
        assert!(found.contains("is not a plain file"), "{kind:?}: {found}");
    }
    let file = || header("a", EntryType::Regular, 1);
    assert!(refused(&[listed("a", b"x")], &[(file(), b"y")]).contains("do not match its digest"));
    assert!(refused(&[listed("a", b"xy")], &[(file(), b"x")]).contains("has 1 bytes and should have 2"));
    assert!(refused(&[listed("a", b"x")], &[]).contains("a is missing"));
    assert!(refused(&[listed("a", b"x")], &[(file(), b"x"), (file(), b"x")]).contains("there twice"));
    let twice = [listed("a", b"x"), listed("a", b"x")];
    assert!(refused(&twice, &[(file(), b"x")]).contains("names a file twice"));
    let huge = ListedFile { bytes: u64::MAX / 2, ..listed("a", b"") };
    let found = refused(&[huge.clone(), ListedFile { path: "b".into(), ..huge }], &[]);
    assert!(found.contains("it unpacks to 18446744073709551614 bytes"), "{found}");
}

#[test]
fn what_is_no_parcel_or_ends_early_is_refused() {
    let (f, folder, parcel, _) = parcel();
    for (name, text) in [("text", &b"hello"[..]), ("empty", b""), ("zst", &[0x28, 0xb5, 0x2f, 0xfd, 0, 0])] {
        let path = f.file(name, text);
        assert!(matches!(unpack(&f, &path), Err(StoreError::Refused { .. })), "{name}");
    }
    for name in ["p.tar", "p.tar.zst"] {
        let file = f.root.join(name);
        parcel.pack(&folder, &file).unwrap();
        let whole = std::fs::read(&file).unwrap();
        for cut in [1, 512, whole.len() / 2, whole.len() - 2000.min(whole.len() / 3)] {
            std::fs::write(&file, &whole[..cut]).unwrap();
            assert!(matches!(unpack(&f, &file), Err(StoreError::Refused { .. })), "{name} cut at {cut}");
        }
    }
    let list = folder.join(NAME);
    let text = std::fs::read_to_string(&list).unwrap();
    for (from, to, expected) in [
        ("\"format\": 1", "\"format\": 2", "it has format 2"),
        ("\"run\": \"run-1\"", "\"run\": \"../x\"", "run id"),
        ("\"about\"", "\"about2\"", "cannot be read"),
    ] {
        File::create(&list).unwrap().write_all(text.replace(from, to).as_bytes()).unwrap();
        let found = why(Parcel::check(&folder));
        assert!(found.contains(expected), "{found}");
    }
}
