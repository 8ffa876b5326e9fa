//! In what two outputs differ: for people who ask why a result did not come out as before.
//!
//! What a file is, is seen from its bytes: safetensors by tensor, JSON by place, text by line, all else by byte.

mod json;
mod tensors;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{Digest, ListedFile, ObjectKind, ObjectRef, Store};

/// Files up to this size are read into memory to be compared by what they say; larger ones byte by byte.
const READ: u64 = 4 << 30;
/// JSON is compared as such up to this size: read, it takes several times as much.
const JSON: u64 = 64 << 20;

/// How one file of two outputs differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileDifference {
    /// Its path in the output; empty for an output that is a file.
    pub(crate) path: String,
    /// In words.
    pub(crate) what: String,
}

/// The files in which two stored outputs differ, sorted by path; empty for equal ones. At most `most` are looked into.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn of_outputs(
    store: &Store,
    before: &ObjectRef,
    after: &ObjectRef,
    most: usize,
) -> std::io::Result<Vec<FileDifference>> {
    if (before.kind, before.digest) == (after.kind, after.digest) {
        return Ok(Vec::new());
    }
    if before.kind != after.kind {
        let name = |object: &ObjectRef| if object.kind == ObjectKind::File { "a file" } else { "a folder" };
        let what = format!("it was {} and is {} now", name(before), name(after));
        return Ok(vec![FileDifference { path: String::new(), what }]);
    }
    let files = |object: &ObjectRef| -> std::io::Result<BTreeMap<String, (Utf8PathBuf, Digest)>> {
        let place = store.object_path(object);
        Ok(match object.kind {
            ObjectKind::File => BTreeMap::from([(String::new(), (place, object.digest))]),
            ObjectKind::Tree => {
                let listing = store.listing(object).map_err(|damage| std::io::Error::other(damage.to_string()))?;
                let file = |file: ListedFile| (file.path.clone(), (place.join(&file.path), file.digest));
                listing.files.into_iter().map(file).collect()
            }
        })
    };
    let (before, after) = (files(before)?, files(after)?);
    let mut found = Vec::new();
    for path in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let what = match (before.get(path), after.get(path)) {
            (Some(a), Some(b)) if a.1 == b.1 => continue,
            (Some(a), Some(b)) if found.len() < most => of_files(&a.0, &b.0)?,
            (Some(_), Some(_)) => "differs".to_owned(),
            (Some(_), None) => "was there and is missing now".to_owned(),
            (None, _) => "was not there before".to_owned(),
        };
        found.push(FileDifference { path: path.clone(), what });
    }
    if found.is_empty() {
        found.push(FileDifference { path: String::new(), what: "empty folders differ".to_owned() });
    }
    Ok(found)
}

/// How two files that are not equal differ.
fn of_files(before: &Utf8Path, after: &Utf8Path) -> std::io::Result<String> {
    let size = |path: &Utf8Path| Ok::<u64, std::io::Error>(fs_err::metadata(path)?.len());
    let largest = size(before)?.max(size(after)?);
    if largest > READ {
        return text::first_byte(before, after);
    }
    let (before, after) = (fs_err::read(before)?, fs_err::read(after)?);
    if let Some(what) = tensors::difference(&before, &after) {
        return Ok(what);
    }
    if largest <= JSON
        && let Some(what) = json::difference(&before, &after)
    {
        return Ok(what);
    }
    Ok(text::difference(&before, &after))
}

#[cfg(test)]
mod tests {
    use sepia_cache::{OpenMode, hash_output};

    use super::*;

    #[test]
    fn folders_are_compared_file_by_file() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        let store = Store::open(&root.join(".sepia"), OpenMode::Create).unwrap();
        let tree = |files: &[(&str, &str)]| {
            let place = root.join("tree");
            std::fs::create_dir_all(place.join("empty")).unwrap();
            files.iter().for_each(|(name, text)| std::fs::write(place.join(name), text).unwrap());
            store.insert(&place, &hash_output(&place).unwrap()).unwrap()
        };
        let before = tree(&[("a.json", "{\"loss\": [1, 2.5]}"), ("b.txt", "one\ntwo\n"), ("gone", ""), ("same", "x")]);
        let after = tree(&[("a.json", "{\"loss\": [1, 2.25]}"), ("b.txt", "one\nthree\n"), ("new", ""), ("same", "x")]);
        let found = of_outputs(&store, &before, &after, 9).unwrap();
        let found: Vec<String> = found.into_iter().map(|one| format!("{}: {}", one.path, one.what)).collect();
        assert_eq!(
            found,
            [
                "a.json: /loss/1: 2.5 before, 2.25 now",
                "b.txt: line 2: `two` before, `three` now",
                "gone: was there and is missing now",
                "new: was not there before",
            ]
        );
        assert!(of_outputs(&store, &before, &before, 9).unwrap().is_empty());
        let file = root.join("f");
        std::fs::write(&file, "x").unwrap();
        let file = store.insert(&file, &hash_output(&file).unwrap()).unwrap();
        assert_eq!(of_outputs(&store, &before, &file, 9).unwrap()[0].what, "it was a folder and is a file now");
        assert_eq!(of_outputs(&store, &before, &after, 1).unwrap()[1].what, "differs");
    }
}
