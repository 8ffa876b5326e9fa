//! Taking an output into the store. The steps and what a crash leaves between them: see the head of [`super`].

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use camino::Utf8Path;
use rayon::prelude::*;

use super::hash::{FileStat, HashedOutput};
use super::place::{Placed, copy, place, remove};
use super::walk::{Walked, plain_metadata, walk};
use super::{ObjectKind, ObjectRef};
use crate::crash_point;
use crate::error::{IoContext as _, Result, StoreError};
use crate::layout::{unique_sibling, write_atomically};
use crate::remote::object_mode;
use crate::store::Store;

impl Store {
    /// Moves an output into the store under the content it was hashed to, and makes it read-only.
    ///
    /// The object can be used at once; it is on the disk for certain after [`Store::sync_pending`]. If the store has
    /// the object already, that one is hashed: it stays if it is good and is replaced if it is not.
    ///
    /// # Errors
    /// [`StoreError::OutputChanged`] if the output is plainly not what was hashed; those of moving.
    pub fn insert(&self, path: &Utf8Path, output: &HashedOutput) -> Result<ObjectRef> {
        self.writable("move into", path)?;
        let object = output.object;
        match (&output.listing, object.kind) {
            (Some(listing), ObjectKind::Tree) => {
                let walked = walk(path)?;
                let same = walked.files.iter().eq(listing.files.iter().map(|file| &file.path))
                    && walked.empty_folders == listing.empty_folders;
                if !same {
                    return Err(StoreError::OutputChanged { path: path.to_owned() });
                }
                let files = walked.files.par_iter().zip(&output.stats);
                files.try_for_each(|(file, stat)| make_ours(&path.join(file), *stat))?;
                self.insert_tree(path, &object, &listing.canonical(), &walked)?;
            }
            _ => {
                let metadata = plain_metadata(path)?;
                if !metadata.is_file() || metadata.len() != object.bytes {
                    return Err(StoreError::OutputChanged { path: path.to_owned() });
                }
                output.stats.iter().try_for_each(|stat| make_ours(path, *stat))?;
                self.insert_file(path, &object)?;
            }
        }
        Ok(object)
    }

    fn insert_file(&self, path: &Utf8Path, object: &ObjectRef) -> Result<()> {
        let target = self.object_path(object);
        crash_point::reached("place file")?;
        if place(path, &target)? == Placed::Occupied {
            if self.verify_object(object).is_ok() {
                remove(path)?;
            } else {
                self.set_aside(object)?;
                crash_point::reached("replace damaged file")?;
                if place(path, &target)? == Placed::Occupied {
                    // Another process healed it meanwhile.
                    remove(path)?;
                }
            }
        }
        crash_point::reached("file placed")?;
        self.pending().file(&target);
        Ok(())
    }

    fn insert_tree(&self, path: &Utf8Path, object: &ObjectRef, listing: &[u8], walked: &Walked) -> Result<()> {
        let target = self.object_path(object);
        let listing_path = self.layout.listing(&object.digest);
        let fan = listing_path.parent().unwrap_or(&listing_path);
        crash_point::reached("place listing")?;
        if std::fs::read(&listing_path).ok().as_deref() != Some(listing) {
            std::fs::create_dir_all(fan).at("make", fan)?;
            write_atomically(&listing_path, listing)?;
        }
        crash_point::reached("place tree")?;
        if place(path, &target)? == Placed::Occupied {
            if self.verify_object(object).is_ok() {
                remove(path)?;
            } else {
                self.set_aside(object)?;
                crash_point::reached("replace damaged tree")?;
                write_atomically(&listing_path, listing)?;
                if place(path, &target)? == Placed::Occupied {
                    remove(path)?;
                }
            }
        }
        crash_point::reached("tree placed")?;
        let mut pending = self.pending();
        pending.file(&listing_path);
        pending.tree(&target, walked);
        Ok(())
    }
}

/// Makes a file read-only, after giving it a body of its own if it has a second name. Whether it can be executed stays.
fn make_ours(path: &Utf8Path, stat: FileStat) -> Result<()> {
    if stat.shared {
        let own = unique_sibling(path);
        copy(path, &own)?;
        std::fs::rename(&own, path).at("copy", path)?;
    }
    let mode = object_mode(stat.mode);
    if mode == stat.mode & 0o777 && !stat.shared {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode)).at("make read-only", path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use camino::Utf8PathBuf;

    use super::*;
    use crate::digest::Digest;
    use crate::object::hash_output;
    use crate::test_support::Fixture;

    fn is_read_only(path: &Utf8Path) -> bool {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o222 == 0
    }

    #[test]
    fn a_file_moves_in_under_its_blake3() {
        let f = Fixture::new();
        let path = f.file("out", b"weights");
        let inode = std::fs::metadata(&path).unwrap().ino();
        let object = f.insert(&path);
        assert_eq!(
            object,
            ObjectRef { digest: Digest::of_bytes(b"weights"), kind: ObjectKind::File, bytes: 7, files: 1 }
        );
        let stored = f.store.object_path(&object);
        assert_eq!(stored.strip_prefix(f.store.root()).unwrap().as_str().len(), "objects/ab/".len() + 62);
        assert_eq!(std::fs::metadata(&stored).unwrap().ino(), inode, "moved, not copied");
        assert!(!path.exists() && is_read_only(&stored));
        assert_eq!(f.store.verify_object(&object), Ok(()));
        f.store.sync_pending().unwrap();
    }

    #[test]
    fn a_folder_moves_in_whole() {
        let f = Fixture::new();
        let files: &[(&str, &[u8])] = &[("b/c", b"1"), ("a", b"22"), ("empty/inside/", b""), ("b.d", b"")];
        let object = f.insert(&f.tree("out", files));
        assert_eq!((object.kind, object.bytes, object.files), (ObjectKind::Tree, 3, 3));
        let stored = f.store.object_path(&object);
        assert_eq!(std::fs::read(stored.join("b/c")).unwrap(), b"1");
        assert!(is_read_only(&stored.join("a")) && stored.join("empty/inside").is_dir());
        let listing = f.store.listing(&object).unwrap();
        assert_eq!(listing.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["a", "b.d", "b/c"]);
        assert_eq!(listing.empty_folders, ["empty/inside"]);
        assert!(f.store.present(&object) && f.store.verify_object(&object).is_ok());
        // The same files written in another order are the same object.
        let reversed: Vec<_> = files.iter().rev().copied().collect();
        let again = f.tree("again", &reversed);
        assert_eq!(f.insert(&again), object);
        assert!(!again.exists());
        f.store.sync_pending().unwrap();
    }

    #[test]
    fn trees_differ_by_names_contents_and_empty_folders() {
        let f = Fixture::new();
        let digest = |name: &str, files: &[(&str, &[u8])]| hash_output(&f.tree(name, files)).unwrap().object.digest;
        let all = [
            digest("t1", &[]),
            digest("t2", &[("a", b"")]),
            digest("t3", &[("b", b"")]),
            digest("t4", &[("a", b"x")]),
            digest("t5", &[("a/", b"")]),
            digest("t6", &[("a/b", b"")]),
            digest("t7", &[("a", b""), ("b", b"")]),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(!all[..i].contains(one), "{i}");
        }
    }

    #[test]
    fn many_files_are_synced_at_once() {
        let f = Fixture::new();
        let names: Vec<String> = (0..200).map(|i| format!("{}/{i}", i % 7)).collect();
        let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
        let object = f.insert(&f.tree("out", &files));
        f.store.sync_pending().unwrap();
        assert_eq!(object.files, 200);
        assert_eq!(f.store.verify_object(&object), Ok(()));
        std::fs::remove_file(f.store.layout.listing(&object.digest)).unwrap();
        assert!(!f.store.present(&object));
    }

    #[test]
    fn a_damaged_object_is_replaced_when_it_comes_again() {
        let f = Fixture::new();
        let file = f.object(b"good");
        let tree = f.insert(&f.tree("tree", &[("a", b"good"), ("b", b"good")]));
        for (object, path) in [(file, f.store.object_path(&file)), (tree, f.store.object_path(&tree).join("b"))] {
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, b"evil").unwrap();
            assert!(f.store.present(&object), "the size is right");
            assert!(f.store.verify_object(&object).is_err());
        }
        assert_eq!(f.object(b"good"), file);
        assert_eq!(f.insert(&f.tree("tree", &[("a", b"good"), ("b", b"good")])), tree);
        for object in [file, tree] {
            assert_eq!(f.store.verify_object(&object), Ok(()));
        }
        let aside = std::fs::read_dir(f.store.root().join("damaged")).unwrap().count();
        assert_eq!(aside, 3, "a file, a tree and its listing");
    }

    #[test]
    fn a_program_stays_one() {
        let f = Fixture::new();
        let program = f.file("program", b"#!/bin/sh");
        std::fs::set_permissions(&program, Permissions::from_mode(0o750)).unwrap();
        let stored = f.store.object_path(&f.insert(&program));
        assert_eq!(std::fs::metadata(stored).unwrap().permissions().mode() & 0o777, 0o554);
    }

    #[test]
    fn a_file_with_a_second_name_is_copied() {
        let f = Fixture::new();
        let mine = f.file("mine", b"one");
        let out = f.root.join("out");
        std::fs::hard_link(&mine, &out).unwrap();
        let tree = f.tree("tree", &[("a", b"x")]);
        std::fs::hard_link(&mine, tree.join("b")).unwrap();
        let file = f.insert(&out);
        let tree = f.insert(&tree);
        std::fs::write(&mine, b"two").unwrap();
        assert_eq!(f.store.verify_object(&file), Ok(()));
        assert_eq!(f.store.verify_object(&tree), Ok(()));
    }

    #[test]
    fn what_an_object_cannot_hold_is_refused() {
        use std::os::unix::ffi::OsStrExt as _;
        let f = Fixture::new();
        let tree = f.tree("tree", &[("a", b"x")]);
        let refused = |path: &Utf8Path| match hash_output(path).unwrap_err() {
            StoreError::UnsupportedOutput { what, .. } => what,
            other => panic!("{other}"),
        };
        std::os::unix::fs::symlink("a", tree.join("link")).unwrap();
        assert_eq!(refused(&tree), "a symbolic link");
        assert_eq!(refused(&tree.join("link")), "a symbolic link");
        std::fs::remove_file(tree.join("link")).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
        assert_eq!(refused(&tree), "a socket");
        drop(socket);
        std::fs::remove_file(tree.join("socket")).unwrap();
        let name = std::ffi::OsStr::from_bytes(b"\xff");
        std::fs::write(tree.as_std_path().join(name), b"").unwrap();
        assert_eq!(refused(&tree), "a name that is not UTF-8");
        assert!(matches!(hash_output(&f.root.join("none")), Err(StoreError::OutputMissing { .. })));
    }

    #[test]
    fn an_output_that_changes_meanwhile_is_refused_and_stays() {
        let f = Fixture::new();
        let file = f.file("file", b"one");
        let hashed = hash_output(&file).unwrap();
        std::fs::write(&file, b"longer").unwrap();
        assert!(matches!(f.store.insert(&file, &hashed), Err(StoreError::OutputChanged { .. })));
        let tree = f.tree("tree", &[("a", b"x")]);
        let hashed = hash_output(&tree).unwrap();
        std::fs::write(tree.join("b"), b"").unwrap();
        assert!(matches!(f.store.insert(&tree, &hashed), Err(StoreError::OutputChanged { .. })));
        assert!(file.exists() && tree.exists());
    }

    #[test]
    fn from_another_file_system_it_is_copied() {
        let f = Fixture::new();
        let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else { return };
        let elsewhere = Utf8PathBuf::from_path_buf(elsewhere.path().to_owned()).unwrap();
        if std::fs::metadata(&elsewhere).unwrap().dev() == std::fs::metadata(&f.root).unwrap().dev() {
            return;
        }
        for round in 0..2 {
            let file = elsewhere.join("file");
            std::fs::write(&file, b"far").unwrap();
            let tree = elsewhere.join("tree");
            std::fs::create_dir_all(tree.join("b/empty")).unwrap();
            std::fs::write(tree.join("b/c"), b"away").unwrap();
            for path in [&file, &tree] {
                let object = f.insert(path);
                assert_eq!(f.store.verify_object(&object), Ok(()), "round {round}");
                assert!(!path.exists());
            }
        }
        f.store.sync_pending().unwrap();
    }

    #[test]
    fn threads_that_insert_the_same_end_well() {
        let f = Fixture::new();
        let store = &f.store;
        for round in 0..20 {
            let paths: Vec<_> = (0..4)
                .map(|i| {
                    let body = format!("{round}");
                    (f.file(&format!("f{i}"), body.as_bytes()), f.tree(&format!("t{i}"), &[("a", body.as_bytes())]))
                })
                .collect();
            std::thread::scope(|scope| {
                for (file, tree) in &paths {
                    scope.spawn(move || {
                        for path in [file, tree] {
                            let object = store.insert(path, &hash_output(path).unwrap()).unwrap();
                            assert_eq!(store.verify_object(&object), Ok(()));
                        }
                        store.sync_pending().unwrap();
                    });
                }
            });
        }
        assert_eq!(std::fs::read_dir(f.store.root().join("damaged")).unwrap().count(), 0);
    }
}
