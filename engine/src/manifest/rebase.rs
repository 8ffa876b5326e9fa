//! Paths in a base: relative to the folder of the base that names them.
//!
//! Each value knows the text that it stands in. Once everything is merged, the paths that come from a text in another
//! folder are written as seen from the folder of the manifest that is run: so a base can be used from anywhere, and
//! what `plan --resolved` prints means the same. Which parameters are paths is asked of the caller, who knows the kinds.
//!
//! Where the name of a file counts too, since it is copied under that name, it is what follows a `/./`: `x.py` of a base in
//! `../shared` becomes `../shared/./x.py`, as rsync has it (`--relative`).

use std::{collections::BTreeMap, ops::RangeInclusive};

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};

use super::load::{PathParam, PathParams};
use crate::{
    diagnostic::Sources,
    value::{Table, Value, ValueKind},
};

/// Rewrites the paths of all stages whose text is one of `bases`.
pub(super) fn apply(
    table: &mut Table,
    sources: &Sources,
    manifest: &str,
    bases: RangeInclusive<u16>,
    paths: PathParams<'_>,
) {
    let from = folder(manifest);
    let prefixes: BTreeMap<u16, Utf8PathBuf> = bases
        .filter_map(|source| {
            let prefix = relative(from, folder(sources.get(source)?.0))?;
            (!prefix.as_str().is_empty()).then_some((source, prefix))
        })
        .collect();
    let stages = table.entries.iter_mut().find(|(key, _)| key.name == "stages");
    let Some((_, Value { kind: ValueKind::Table(stages), .. })) = stages.filter(|_| !prefixes.is_empty()) else {
        return;
    };
    let mut known: BTreeMap<String, Vec<PathParam>> = BTreeMap::new();
    for (_, stage) in &mut stages.entries {
        let ValueKind::Table(stage) = &mut stage.kind else { continue };
        let Some(kind) = stage.get("kind").and_then(Value::as_str).map(ToOwned::to_owned) else { continue };
        for path in known.entry(kind.clone()).or_insert_with(|| paths(&kind)) {
            let prefixes = Prefixes { of: &prefixes, named: path.named };
            let path = &path.keys;
            in_table(stage, path, &prefixes);
            // An axis over it is a list of what it may be.
            if let Some((_, Value { kind: ValueKind::Table(matrix), .. })) =
                stage.entries.iter_mut().find(|(key, _)| key.name == "matrix")
            {
                in_table(matrix, path, &prefixes);
                in_table(matrix, &[path.join(".")], &prefixes);
            }
        }
    }
}

/// How the folders of texts are reached, for one parameter.
struct Prefixes<'a> {
    of: &'a BTreeMap<u16, Utf8PathBuf>,
    named: bool,
}

fn in_table(table: &mut Table, path: &[String], prefixes: &Prefixes<'_>) {
    let Some((name, rest)) = path.split_first() else { return };
    for (key, value) in &mut table.entries {
        if name == "*" || key.name == *name {
            match &mut value.kind {
                ValueKind::Table(inner) if !rest.is_empty() => in_table(inner, rest, prefixes),
                _ if rest.is_empty() => in_value(value, prefixes),
                _ => {}
            }
        }
    }
}

fn in_value(value: &mut Value, prefixes: &Prefixes<'_>) {
    match &mut value.kind {
        ValueKind::String(path) => {
            if let Some(prefix) = prefixes.of.get(&value.span.source) {
                let folder = path.ends_with('/');
                let stays = Utf8Path::new(&*path)
                    .components()
                    .all(|part| matches!(part, Utf8Component::Normal(_) | Utf8Component::CurDir));
                let mut joined = if prefixes.named && stays {
                    format!("{}/./{}", normal(prefix), normal(Utf8Path::new(&*path)))
                } else {
                    normal(&prefix.join(&*path)).into_string()
                };
                if folder && !joined.ends_with('/') {
                    joined.push('/');
                }
                *path = joined;
            }
        }
        ValueKind::Array(items) => items.iter_mut().for_each(|item| in_value(item, prefixes)),
        _ => {}
    }
}

fn folder(name: &str) -> &Utf8Path {
    Utf8Path::new(name).parent().unwrap_or(Utf8Path::new(""))
}

/// `to` as seen from `from`; `None` where that cannot be said without looking at the disk.
fn relative(from: &Utf8Path, to: &Utf8Path) -> Option<Utf8PathBuf> {
    let (from, to) = (normal(from), normal(to));
    if from.is_absolute() != to.is_absolute() {
        return to.is_absolute().then_some(to);
    }
    let (from, to): (Vec<_>, Vec<_>) = (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = &from[common..];
    if up.contains(&Utf8Component::ParentDir) {
        return None;
    }
    let mut path: Utf8PathBuf = up.iter().map(|_| "..").collect();
    path.extend(&to[common..]);
    Some(path)
}

/// The path without `.` and, where that is certain, without `..`.
pub(super) fn normal(path: &Utf8Path) -> Utf8PathBuf {
    let mut normal = Utf8PathBuf::new();
    for component in path.components() {
        match component {
            Utf8Component::CurDir => {}
            Utf8Component::ParentDir if matches!(normal.components().next_back(), Some(Utf8Component::Normal(_))) => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Load, Manifest};

    #[test]
    fn a_folder_as_seen_from_another() {
        let of = |from: &str, to: &str| relative(Utf8Path::new(from), Utf8Path::new(to)).map(Utf8PathBuf::into_string);
        assert_eq!(of("a", "a").as_deref(), Some(""));
        assert_eq!(of("a/b", "a/c/d").as_deref(), Some("../c/d"));
        assert_eq!(of("", "shared").as_deref(), Some("shared"));
        assert_eq!(of("a", "").as_deref(), Some(".."));
        assert_eq!(of("../a", "../b").as_deref(), Some("../b"));
        assert_eq!(of("/x/a", "/x/./b").as_deref(), Some("../b"));
        assert_eq!(of("a", "/b").as_deref(), Some("/b"));
        assert_eq!(of("..", "b"), None);
    }

    #[test]
    fn only_paths_of_the_base_are_rewritten() {
        let files = |path: &str| {
            match path {
            "shared/base.toml" => Ok("[stages.corpus]\nkind = \"text\"\nfiles = [\"a.txt\", \"more/\", \"/abs\"]\n\
                                      note = \"a.txt\"\nscripts = [\"s.py\", \"./lib/\", \"../s.py\", \"/s.py\"]\ntokenizer = { path = \"t.json\" }\ndata = { x = \"x.txt\" }\n\
                                      matrix = { \"data.y\" = [\"y.txt\", \"../z.txt\"] }\n"
                .to_owned()),
            other => Err(format!("no {other}")),
        }
        };
        let paths = |kind: &str| {
            assert_eq!(kind, "text");
            [&["files"][..], &["tokenizer", "path"], &["data", "*"], &["data", "y"], &["scripts"]]
                .map(|path| PathParam {
                    keys: path.iter().map(|one| (*one).to_owned()).collect(),
                    named: path == ["scripts"],
                })
                .to_vec()
        };
        let load = Load {
            loader: Some(&files),
            paths: Some(&paths),
            set: &["stages.corpus.extra.path=\"e\"".to_owned()],
            ..Load::default()
        };
        let text = "extends = \"../shared/base.toml\"\n[stages.corpus]\ndata.own = \"own.txt\"\n";
        let resolved = Manifest::resolved(&mut Sources::default(), "study/m.toml", text, &load).unwrap();
        for part in [
            "files = [\"../shared/a.txt\", \"../shared/more/\", \"/abs\"]",
            "note = \"a.txt\"",
            "scripts = [\"../shared/./s.py\", \"../shared/./lib/\", \"../s.py\", \"/s.py\"]",
            "tokenizer = { path = \"../shared/t.json\" }",
            "x = \"../shared/x.txt\"",
            "own = \"own.txt\"",
            "[\"../shared/y.txt\", \"../z.txt\"]",
            "path = \"e\"",
        ] {
            assert!(resolved.contains(part), "{part}\n{resolved}");
        }
    }
}
