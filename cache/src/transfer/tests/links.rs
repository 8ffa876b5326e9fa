//! Files that the store and a folder remote share.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};

use camino::Utf8Path;

use super::{Lab, overwrite};
use crate::What;
use crate::object::ObjectRef;
use crate::remote::{Links, OpenRemote, RemoteOptions};
use crate::test_support::{Fixture, record};

fn inode(path: &Utf8Path) -> u64 {
    std::fs::symlink_metadata(path).unwrap().ino()
}

fn mode(path: &Utf8Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o777
}

/// A program, which is an output of more bytes than are hashed at once.
fn program(f: &Fixture) -> ObjectRef {
    let path = f.file("program", &b"#!/bin/sh\n".repeat(1 << 20));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    let object = f.insert(&path);
    f.store.commit(&[record("a", &[("out", object)])]).unwrap();
    object
}

/// The lab's remote by hard links, whatever else this file system can do.
fn linked(f: &Fixture) -> OpenRemote {
    let mut remote = Lab::remote(f);
    assert!(remote.config.probe.links.is_some(), "file systems of tests have links");
    remote.config.probe.links = Some(Links::HardLink);
    remote
}

fn pull(lab: &Lab, from: &OpenRemote) -> Result<super::Pulled, crate::StoreError> {
    lab.theirs.store.pull(from, &What::default(), &|_| ())
}

#[test]
fn a_file_is_one_file_here_there_and_at_the_others() {
    let lab = Lab::new();
    let object = program(&lab.ours);
    let told = std::sync::Mutex::new(0);
    lab.ours
        .store
        .push(&linked(&lab.ours), &What::default(), &|progress| *told.lock().unwrap() = progress.bytes)
        .unwrap();
    assert_eq!(told.into_inner().unwrap(), object.bytes);
    let pulled = pull(&lab, &linked(&lab.theirs)).unwrap();
    assert_eq!((pulled.objects, pulled.bytes), (1, object.bytes));
    let paths = [
        lab.ours.store.object_path(&object),
        lab.folder.join(crate::transfer::object_name(&object)),
        lab.theirs.store.object_path(&object),
    ];
    for path in &paths {
        assert_eq!((inode(path), mode(path)), (inode(&paths[0]), 0o555), "{path}");
        let folder = path.parent().unwrap();
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1, "nothing is left in {folder}");
    }
    assert_eq!(std::fs::read_dir(lab.theirs.store.cache_dir().join("incoming")).unwrap().count(), 0);
    // Pushing once more, over what is there, leaves nothing either.
    let remote = linked(&lab.ours);
    lab.ours.store.send(&remote, &object, &|_| ()).unwrap();
    assert_eq!(std::fs::read_dir(paths[1].parent().unwrap()).unwrap().count(), 1);
    // What one of them loses or replaces, the others keep.
    lab.theirs.store.set_aside(&object).unwrap();
    overwrite(&paths[0], b"damaged");
    let found = lab.ours.store.verify_all(|_| ()).unwrap();
    assert_eq!(found.damaged.len(), 1);
    assert_eq!(lab.ours.store.repair(&linked(&lab.ours), &found).unwrap(), 1);
    assert!(lab.ours.store.verify_object(&object).is_ok());
    assert_eq!(inode(&paths[0]), inode(&paths[1]));
}

#[test]
fn what_is_damaged_is_not_linked() {
    let lab = Lab::new();
    let object = program(&lab.ours);
    let (path, there) = (lab.ours.store.object_path(&object), lab.folder.join(crate::transfer::object_name(&object)));
    let bad = vec![0; usize::try_from(object.bytes).unwrap()];
    lab.ours.store.push(&linked(&lab.ours), &What::default(), &|_| ()).unwrap();
    // There: refused, and nothing of it stays here.
    for mode in [0o444, 0o644] {
        overwrite(&there, &bad);
        std::fs::set_permissions(&there, PermissionsExt::from_mode(mode)).unwrap();
        let refused = pull(&lab, &linked(&lab.theirs)).unwrap_err().to_string();
        assert!(refused.contains("do not match") && refused.contains("on the remote"), "{refused}");
        assert!(!lab.theirs.store.present(&object));
        assert!(!lab.theirs.store.cache_dir().join("incoming").join(object.digest.to_string()).exists());
    }
    // Here: it does not get there.
    std::fs::remove_file(&there).unwrap();
    overwrite(&path, &bad);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
    let refused = lab.ours.store.push(&linked(&lab.ours), &What::default(), &|_| ()).unwrap_err();
    assert!(refused.to_string().contains("is damaged"), "{refused}");
    assert_eq!(std::fs::read_dir(there.parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn what_could_be_changed_there_is_copied() {
    let lab = Lab::new();
    let object = program(&lab.ours);
    lab.ours.store.push(&linked(&lab.ours), &What::default(), &|_| ()).unwrap();
    let there = lab.folder.join(crate::transfer::object_name(&object));
    let bytes = std::fs::read(&there).unwrap();
    overwrite(&there, &bytes);
    pull(&lab, &linked(&lab.theirs)).unwrap();
    let path = lab.theirs.store.object_path(&object);
    assert_eq!((inode(&path) == inode(&there), mode(&path), mode(&there)), (false, 0o444, 0o644));
    // A symbolic link is nothing that is copied either.
    lab.theirs.store.set_aside(&object).unwrap();
    std::fs::remove_file(&there).unwrap();
    std::os::unix::fs::symlink(lab.ours.store.object_path(&object), &there).unwrap();
    assert_eq!(pull(&lab, &linked(&lab.theirs)).unwrap().absent, 1);
    assert!(!lab.theirs.store.present(&object));
}

#[test]
fn a_remote_that_is_to_hold_copies_does() {
    let lab = Lab::new();
    let object = program(&lab.ours);
    for f in [&lab.ours, &lab.theirs] {
        let options = RemoteOptions { copy: true, ..RemoteOptions::default() };
        let config = f.store.add_remote("lab", lab.folder.as_str(), options).unwrap();
        assert!(config.copy && config.probe.links.is_some());
    }
    lab.push();
    lab.pull();
    let there = lab.folder.join(crate::transfer::object_name(&object));
    let [ours, theirs] = [&lab.ours, &lab.theirs].map(|f| f.store.object_path(&object));
    assert!(inode(&there) != inode(&ours) && inode(&there) != inode(&theirs) && inode(&ours) != inode(&theirs));
    assert_eq!(mode(&there) & 0o222, 0, "what nobody has to change nobody can change by mistake");
    assert!(lab.theirs.store.verify_object(&object).is_ok());
}
