//! External files: where parameters name them, whether they exist, and what takes their place in a key.

use std::collections::HashSet;

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::Digest;
use serde_json::{Value, json};

use super::params::place_of;
use crate::{
    diagnostic::Diagnostic,
    manifest::StageDecl,
    stage::{ResolvedFile, input_files},
};

/// A parameter that names external files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalFile {
    /// Dotted path of the parameter.
    pub param: String,
    /// As written.
    pub written: Vec<String>,
}

/// The external files that canonical parameters name, in the order of the text.
#[must_use]
pub fn external_files(params: &Value) -> Vec<ExternalFile> {
    let mut found = Vec::new();
    walk("", params, &mut found);
    found
}

/// Whether canonical parameters name a file at all. Asked of every node, so no paths are made.
#[must_use]
pub fn names_files(params: &Value) -> bool {
    match params {
        Value::Object(map) => match map.get(input_files::MARK).filter(|_| map.len() == 1) {
            Some(written) => written.as_array().is_some_and(|written| !written.is_empty()),
            None => map.values().any(names_files),
        },
        Value::Array(items) => items.iter().any(names_files),
        _ => false,
    }
}

fn walk(path: &str, value: &Value, found: &mut Vec<ExternalFile>) {
    if let Some(written) = marked(value) {
        found.push(ExternalFile { param: path.to_owned(), written });
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                if inner.is_object() || inner.is_array() {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, inner, found);
                }
            }
        }
        Value::Array(items) => items.iter().filter(|item| item.is_object()).for_each(|item| walk(path, item, found)),
        _ => {}
    }
}

fn marked(value: &Value) -> Option<Vec<String>> {
    let map = value.as_object()?;
    let list = map.get(input_files::MARK)?.as_array()?;
    (map.len() == 1).then(|| list.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect())
}

fn replaced<E>(value: &Value, replace: &mut impl FnMut(&[String]) -> Result<Value, E>) -> Result<Value, E> {
    if let Some(written) = marked(value) {
        return replace(&written);
    }
    Ok(match value {
        Value::Object(map) => {
            let entries = map.iter().map(|(key, inner)| Ok((key.clone(), replaced(inner, replace)?)));
            Value::Object(entries.collect::<Result<_, E>>()?)
        }
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| replaced(item, replace)).collect::<Result<_, E>>()?)
        }
        leaf => leaf.clone(),
    })
}

/// The parameters as they go into a key: each file by its content, and by its name only within a folder.
///
/// # Errors
/// What `digest` returns, or an input/output error for a path that cannot be listed.
pub fn with_content<E: From<std::io::Error>>(
    params: &Value,
    folder: &Utf8Path,
    mut digest: impl FnMut(&Utf8Path) -> Result<Digest, E>,
) -> Result<Value, E> {
    replaced(params, &mut |written| content_of(written, folder, &mut digest))
}

/// What takes the place of one parameter that names files, in a key.
///
/// # Errors
/// As [`with_content`].
pub(crate) fn content_of<E: From<std::io::Error>>(
    written: &[String],
    folder: &Utf8Path,
    mut digest: impl FnMut(&Utf8Path) -> Result<Digest, E>,
) -> Result<Value, E> {
    let files = input_files::resolve(written, folder)?;
    let contents = files.iter().map(|file| {
        let digest = digest(&file.path)?.to_string();
        Ok(if file.name.is_empty() { json!(digest) } else { json!([file.name, digest]) })
    });
    Ok(json!({ "$content": contents.collect::<Result<Vec<Value>, E>>()? }))
}

/// The parameters as the stage gets them: each file by its absolute path.
///
/// # Errors
/// For a path that cannot be listed.
pub fn with_files(params: &Value, folder: &Utf8Path) -> std::io::Result<Value> {
    replaced(params, &mut |written| {
        let files: Vec<ResolvedFile> = input_files::resolve(written, folder)?;
        Ok(json!({ input_files::MARK: files }))
    })
}

/// Finds files that do not exist when the plan is made; each path is looked at once, however many nodes name it.
pub(super) struct FileCheck {
    folder: Utf8PathBuf,
    good: HashSet<Utf8PathBuf>,
}

impl FileCheck {
    pub(super) fn new(folder: &Utf8Path) -> Self {
        Self { folder: folder.to_owned(), good: HashSet::new() }
    }

    pub(super) fn check(&mut self, decl: &StageDecl, params: &Value, found: &mut Vec<Diagnostic>) {
        if !names_files(params) {
            return;
        }
        for file in external_files(params) {
            for written in &file.written {
                let path = self.folder.join(written);
                if self.good.contains(&path) {
                    continue;
                }
                match fs_err::metadata(&path) {
                    Ok(_) => {
                        self.good.insert(path);
                    }
                    Err(error) => {
                        let why = match error.kind() {
                            std::io::ErrorKind::NotFound => "does not exist".to_owned(),
                            std::io::ErrorKind::PermissionDenied => "may not be read".to_owned(),
                            other => format!("cannot be read: {other}"),
                        };
                        found.push(
                            Diagnostic::error("plan::missing-file", format!("`{}`: `{written}` {why}", decl.origin))
                                .label(place_of(decl, &file.param), format!("looked for {path}"))
                                .help(nearby(&path)),
                        );
                    }
                }
            }
        }
    }
}

/// What to do about a path that is not there: the nearest name in the folder where it should be.
fn nearby(path: &Utf8Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    let Ok(entries) = folder.read_dir_utf8() else {
        return format!("the folder {folder} does not exist; paths are relative to the manifest's folder");
    };
    let mut names: Vec<String> = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_owned())).collect();
    names.sort_unstable();
    match crate::diagnostic::nearest(path.file_name().unwrap_or_default(), names.iter().map(String::as_str)) {
        Some(name) => format!("did you mean `{name}`?"),
        None => "paths are relative to the manifest's folder".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_and_files_take_the_place_of_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        fs_err::create_dir(folder.join("many")).unwrap();
        fs_err::write(folder.join("one.txt"), "1").unwrap();
        fs_err::write(folder.join("many/b.txt"), "b").unwrap();
        fs_err::write(folder.join("many/a.txt"), "a").unwrap();
        let params =
            json!({"files": {"$input": ["one.txt", "many"]}, "deep": {"list": [{"$input": ["one.txt"]}]}, "n": 3});
        assert_eq!(
            external_files(&params).iter().map(|file| file.param.as_str()).collect::<Vec<_>>(),
            ["deep.list", "files"]
        );
        let keyed = with_content::<std::io::Error>(&params, folder, |path| {
            Ok(Digest::of_bytes(path.file_name().unwrap().as_bytes()))
        })
        .unwrap();
        let (one, a, b) = (Digest::of_bytes(b"one.txt"), Digest::of_bytes(b"a.txt"), Digest::of_bytes(b"b.txt"));
        assert_eq!(
            keyed["files"]["$content"],
            json!([one.to_string(), ["a.txt", a.to_string()], ["b.txt", b.to_string()]])
        );
        assert_eq!(keyed["n"], json!(3));
        let files = with_files(&params, folder).unwrap();
        assert_eq!(files["deep"]["list"][0]["$input"][0]["path"], json!(folder.join("one.txt")));
        assert!(with_files(&json!({"$input": ["gone.txt"]}), folder).is_err());
    }
}
