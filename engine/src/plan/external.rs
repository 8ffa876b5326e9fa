//! External files: where parameters name them, whether they exist, and what takes their place in a key.

use std::collections::HashSet;

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::Digest;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::params::place_of;
use crate::{
    diagnostic::Diagnostic,
    manifest::StageDecl,
    stage::{Places, Remote, ResolvedFile, Written, input_files, is_pattern},
};

/// A parameter that names external files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalFile {
    /// Dotted path of the parameter.
    pub param: String,
    /// As written.
    pub written: Vec<Written>,
}

/// The external files that canonical parameters name, in the order of the text.
#[must_use]
pub fn external_files(params: &Value) -> Vec<ExternalFile> {
    let mut found = Vec::new();
    walk("", params, &mut found);
    found
}

/// Whether canonical parameters name a file at all. A [`Node`](super::Node) knows it of its own.
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

fn marked(value: &Value) -> Option<Vec<Written>> {
    let map = value.as_object()?;
    let list = map.get(input_files::MARK)?.as_array()?;
    (map.len() == 1).then(|| list.iter().filter_map(|one| Written::deserialize(one).ok()).collect())
}

fn replaced<E>(value: &Value, replace: &mut impl FnMut(&[Written]) -> Result<Value, E>) -> Result<Value, E> {
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

/// What takes the place of one parameter that names files, in a key. What is at a URL is known before it is fetched.
///
/// # Errors
/// As [`with_content`].
pub(crate) fn content_of<E: From<std::io::Error>>(
    written: &[Written],
    folder: &Utf8Path,
    mut digest: impl FnMut(&Utf8Path) -> Result<Digest, E>,
) -> Result<Value, E> {
    let mut contents = Vec::new();
    for one in written {
        if let Written::Url(remote) = one {
            contents.push(json!(remote.content()));
            continue;
        }
        for file in input_files::resolve(std::slice::from_ref(one), Places { folder, downloads: None })? {
            let digest = digest(&file.path)?.to_string();
            contents.push(if file.name.is_empty() { json!(digest) } else { json!([file.name, digest]) });
        }
    }
    Ok(json!({ "$content": contents }))
}

/// The parameters as the stage gets them: each file by its absolute path.
///
/// # Errors
/// For a path that cannot be listed, or a URL that was not fetched.
pub fn with_files(params: &Value, places: Places<'_>) -> std::io::Result<Value> {
    replaced(params, &mut |written| {
        let files: Vec<ResolvedFile> = input_files::resolve(written, places)?;
        Ok(json!({ input_files::MARK: files }))
    })
}

/// The files at URLs that canonical parameters name.
pub fn remotes(params: &Value) -> impl Iterator<Item = Remote> {
    external_files(params).into_iter().flat_map(|file| file.written).filter_map(|written| match written {
        Written::Url(remote) => Some(remote),
        Written::Path(_) => None,
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
        for file in external_files(params) {
            for written in &file.written {
                let Written::Path(written) = written else { continue };
                let path = self.folder.join(written);
                if self.good.contains(&path) {
                    continue;
                }
                match fs_err::metadata(&path) {
                    Ok(_) => {
                        self.good.insert(path);
                    }
                    Err(_) if is_pattern(written) => match self.no_match(written) {
                        None => drop(self.good.insert(path)),
                        Some((why, help)) => found.push(
                            Diagnostic::error("plan::missing-file", format!("`{}`: {why}", decl.origin))
                                .label(place_of(decl, &file.param), format!("looked for {path}"))
                                .help(help),
                        ),
                    },
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

impl FileCheck {
    /// Why a pattern stands for no file, and what to do.
    fn no_match(&self, pattern: &str) -> Option<(String, String)> {
        let places = Places { folder: &self.folder, downloads: None };
        let error = input_files::resolve(&[Written::Path(pattern.to_owned())], places).err()?;
        let plain: Vec<&str> = pattern.split('/').take_while(|part| !is_pattern(part)).collect();
        let folder = self.folder.join(plain.join("/"));
        if error.kind() != std::io::ErrorKind::NotFound {
            return Some((
                format!("`{pattern}` cannot be looked for: {error}"),
                "check the folder's permissions".into(),
            ));
        }
        if !folder.is_dir() {
            return Some((format!("`{pattern}` matches no file"), nearby(&folder)));
        }
        let mut names: Vec<String> = folder
            .read_dir_utf8()
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.file_name().to_owned()))
            .collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort_unstable();
        let more = if names.len() > 8 { ", ..." } else { "" };
        let there = if names.is_empty() { "nothing".to_owned() } else { names[..names.len().min(8)].join(", ") };
        Some((format!("`{pattern}` matches no file"), format!("in {folder} there is: {there}{more}")))
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
        let places = Places { folder, downloads: None };
        let files = with_files(&params, places).unwrap();
        assert_eq!(files["deep"]["list"][0]["$input"][0]["path"], json!(folder.join("one.txt")));
        assert!(with_files(&json!({"$input": ["gone.txt"]}), places).is_err());
        let matched = with_content::<std::io::Error>(&json!({"$input": ["many/*.txt"]}), folder, |path| {
            Ok(Digest::of_bytes(path.file_name().unwrap().as_bytes()))
        });
        // A pattern is its matches: the same key as the folder that holds just these.
        assert_eq!(matched.unwrap()["$content"], json!([["a.txt", a.to_string()], ["b.txt", b.to_string()]]));
        let url = json!({"$input": [{"url": "https://a.org/x", "blake3": a.to_string()}]});
        let keyed = with_content::<std::io::Error>(&url, folder, |_| unreachable!()).unwrap();
        assert_eq!(keyed["$content"], json!([a.to_string()]));
        assert!(with_files(&url, places).unwrap_err().to_string().contains("has not been fetched"));
        assert_eq!(remotes(&json!({"deep": [url]})).count(), 1);
    }
}
