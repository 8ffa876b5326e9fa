//! Manifests for another machine: absolute paths become relative ones to where the files went along.
//!
//! Rewritten are texts in manifests and on the command line that begin with the path of a carried file, or of a folder above
//! it: also the `/data` of a `"${params.folder}/train.txt"`. Everything else stays byte for byte. That the copy means the same
//! is not decided here: its keys are compared with the run's.

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};

use super::args::Changes;
use crate::value::{Table, Value, ValueKind, parse_toml};

/// The files that go along, and where to.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// All of them, in the normal form of [`normal`].
    pub(super) files: BTreeSet<Utf8PathBuf>,
    /// Those that stages read and the manifest names by absolute paths.
    pub(super) absolute: BTreeSet<Utf8PathBuf>,
    /// The manifests among them, with their texts.
    pub(super) texts: BTreeMap<Utf8PathBuf, String>,
    root: Utf8PathBuf,
}

impl Carried {
    /// Finds the folder that holds all of it, also every folder that is named by itself.
    pub(super) fn find_root(&mut self, changes: &Changes) {
        let mut named = BTreeSet::new();
        let mut see = |literal: &str| {
            if let Some((prefix, _)) = self.prefix(literal) {
                named.insert(if self.files.contains(&prefix) { prefix } else { prefix.join("x") });
            }
        };
        for text in self.texts.values() {
            strings(text).iter().for_each(|(_, _, literal)| see(literal));
        }
        for change in changes.set.iter().chain(&changes.matrix) {
            let value = change.split_once('=').map_or("", |(_, value)| value);
            see(value);
            strings(&format!("x={value}")).iter().for_each(|(_, _, literal)| see(literal));
        }
        named.extend(self.files.iter().cloned());
        self.root = common_folder(&named);
    }

    /// Where a file goes, from the folder of all.
    pub(super) fn place<'f>(&self, file: &'f Utf8Path) -> &'f Utf8Path {
        file.strip_prefix(&self.root).unwrap_or(file)
    }

    /// A manifest as it is in the copy.
    pub(super) fn text(&self, manifest: &Utf8Path, text: &str) -> String {
        let mut text = text.to_owned();
        for (start, end, literal) in strings(&text).into_iter().rev() {
            if let Some(moved) = self.moved(manifest, &literal) {
                text.replace_range(start..end, &toml::Value::String(moved).to_string());
            }
        }
        text
    }

    /// What the command line changes, for the copy.
    pub(super) fn changes(&self, manifest: &Utf8Path, changes: &Changes) -> Changes {
        let mut changes = changes.clone();
        for change in changes.set.iter_mut().chain(&mut changes.matrix) {
            let Some((name, value)) = change.split_once('=') else { continue };
            *change = match self.moved(manifest, value) {
                Some(moved) => format!("{name}={moved}"),
                None => format!("{name}={}", &self.text(manifest, &format!("x={value}"))[2..]),
            };
        }
        changes
    }

    /// What stands for an absolute path in the copy of a manifest; `None` if it leads to nothing that goes along.
    fn moved(&self, manifest: &Utf8Path, literal: &str) -> Option<String> {
        let (prefix, rest) = self.prefix(literal)?;
        let from = manifest.parent()?;
        let up = from.components().count() - common(from, &prefix).components().count();
        let mut path: Utf8PathBuf = std::iter::repeat_n("..", up).collect();
        path.extend(prefix.strip_prefix(common(from, &prefix)).ok()?);
        let path = if path.as_str().is_empty() { "." } else { path.as_str() };
        Some(format!("{path}{rest}"))
    }

    /// The part of an absolute path that is one whatever is filled in, and what follows it.
    fn prefix<'l>(&self, literal: &'l str) -> Option<(Utf8PathBuf, &'l str)> {
        let open = literal.find(['*', '?', '[', '{', '$']).unwrap_or(literal.len());
        let folder =
            if open < literal.len() { literal[..open].rfind('/')? } else { literal.trim_end_matches('/').len() };
        // What follows it is a name by which the file is known to a stage.
        let (fixed, rest) = literal.split_at(literal.find("/./").map_or(folder, |dot| dot.min(folder)));
        let prefix = normal(Utf8Path::new(fixed));
        // A folder that only manifests lie in means something else where it is named: `/tmp`, say.
        let carried = self.texts.contains_key(&prefix) || self.absolute.iter().any(|file| file.starts_with(&prefix));
        (carried && prefix.is_absolute() && prefix.parent().is_some()).then_some((prefix, rest))
    }
}

/// The texts among the values of a manifest: where each is written, and what it says, in the order of the text.
fn strings(text: &str) -> Vec<(usize, usize, String)> {
    fn in_value(value: &Value, found: &mut Vec<(usize, usize, String)>) {
        match &value.kind {
            ValueKind::String(says) => found.push((value.span.start as usize, value.span.end as usize, says.clone())),
            ValueKind::Array(items) => items.iter().for_each(|item| in_value(item, found)),
            ValueKind::Table(table) => in_table(table, found),
            _ => {}
        }
    }
    fn in_table(table: &Table, found: &mut Vec<(usize, usize, String)>) {
        table.entries.iter().for_each(|(_, value)| in_value(value, found));
    }
    let mut found = Vec::new();
    // What cannot be read was read a moment ago, or is a word of the command line and no TOML.
    if let Ok(table) = parse_toml(0, text) {
        in_table(&table, &mut found);
    }
    found.sort();
    found
}

/// Without `.` and `..`.
pub(super) fn normal(path: &Utf8Path) -> Utf8PathBuf {
    let mut parts = Utf8PathBuf::new();
    for part in path.components() {
        match part {
            Utf8Component::ParentDir => drop(parts.pop()),
            Utf8Component::CurDir => {}
            other => parts.push(other),
        }
    }
    parts
}

/// The deepest folder that holds all of these.
fn common_folder(files: &BTreeSet<Utf8PathBuf>) -> Utf8PathBuf {
    let folders = files.iter().map(|file| file.parent().unwrap_or(file).to_owned());
    folders.reduce(|one, other| common(&one, &other)).unwrap_or_default()
}

fn common(one: &Utf8Path, other: &Utf8Path) -> Utf8PathBuf {
    let same = one.components().zip(other.components()).take_while(|(one, other)| one == other);
    same.map(|(part, _)| part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> BTreeSet<Utf8PathBuf> {
        paths.iter().map(|path| normal(Utf8Path::new(path))).collect()
    }

    #[test]
    fn what_files_have_in_common() {
        assert_eq!(common_folder(&files(&["/a/m/m.toml"])), "/a/m");
        assert_eq!(common_folder(&files(&["/a/m/m.toml", "/a/m/data/x", "/a/m/../base.toml"])), "/a");
        assert_eq!(common_folder(&files(&["/a/m.toml", "/ab/x"])), "/");
    }

    #[test]
    fn absolute_paths_become_relative_and_nothing_else_changes() {
        let text = r#"# /data/sets/a.txt stays in a comment
extends = "/home/u/base.toml"
[params]
folder = '/data/sets'   # above a file
other = "/etc/hostname"
"/data/sets" = 1
[stages.x]
data = { a = "/data/sets/a.txt", all = ["/data/sets/*.txt", "/data/${params.name}.txt", "/data/./sets/a.txt"], here = "/home/u/p/x/" }
argv = ["/bin/cat", "/", "/home", "see /data/sets/a.txt", "${params.folder}/a.txt"]
"#;
        let manifest = Utf8PathBuf::from("/home/u/p/m.toml");
        let changes = Changes {
            set: vec!["params.folder=/data/sets/".into(), "a.b=[\"/data/sets/b.txt\", \"/x\"]".into(), "lr=0.1".into()],
            ..Changes::default()
        };
        let mut carried = Carried {
            files: files(&[
                "/home/u/p/m.toml",
                "/home/u/base.toml",
                "/data/sets/a.txt",
                "/data/sets/b.txt",
                "/home/u/p/x/y",
            ]),
            absolute: files(&["/data/sets/a.txt", "/data/sets/b.txt", "/home/u/p/x/y"]),
            texts: [(manifest.clone(), text.to_owned()), ("/home/u/base.toml".into(), String::new())].into(),
            ..Carried::default()
        };
        carried.find_root(&changes);
        assert_eq!(carried.place(Utf8Path::new("/data/sets/a.txt")), "data/sets/a.txt");
        insta::assert_snapshot!(carried.text(&manifest, text), @r#"
        # /data/sets/a.txt stays in a comment
        extends = "../base.toml"
        [params]
        folder = "../../../data/sets"   # above a file
        other = "/etc/hostname"
        "/data/sets" = 1
        [stages.x]
        data = { a = "../../../data/sets/a.txt", all = ["../../../data/sets/*.txt", "../../../data/${params.name}.txt", "../../../data/./sets/a.txt"], here = "x/" }
        argv = ["/bin/cat", "/", "../..", "see /data/sets/a.txt", "${params.folder}/a.txt"]
        "#);
        assert_eq!(
            carried.changes(&manifest, &changes).set,
            ["params.folder=../../../data/sets/", "a.b=[\"../../../data/sets/b.txt\", \"/x\"]", "lr=0.1"]
        );
        // A folder that is named by itself goes along even if it is above everything.
        let mut above = Carried {
            files: files(&["/home/u/p/m.toml", "/home/u/p/x/y"]),
            absolute: files(&["/home/u/p/x/y"]),
            texts: [(manifest.clone(), "home = \"/home/u\"".to_owned())].into(),
            ..Carried::default()
        };
        above.find_root(&Changes::default());
        assert_eq!(above.place(&manifest), "p/m.toml");
        assert_eq!(above.text(&manifest, "home = \"/home/u\""), "home = \"..\"");
    }
}
