//! `extends = "base.toml"`, or a list of files: the manifest is laid over the last of them, that over the one before,
//! and so on. A base may extend others. Paths are relative to the file that names them, those of data too: see `rebase`.

use camino::{Utf8Path, Utf8PathBuf};

use super::{field, load::Loader, merge, read, rebase::normal};
use crate::diagnostic::{Diagnostic, Sources};
use crate::value::{Key, Span, Table, Value, ValueKind, parse_toml};

/// Files that one manifest may pull in altogether.
const MAX_FILES: usize = 100;

/// Parses a manifest and everything that it extends; the whole is one table without `extends`.
pub(super) fn load(
    sources: &mut Sources,
    name: &str,
    text: &str,
    loader: Option<Loader<'_>>,
    found: &mut Vec<Diagnostic>,
) -> Option<(Table, Span)> {
    let mut files = Files { sources, loader, found, trail: Vec::new(), count: 0 };
    files.file(name, text)
}

struct Files<'a> {
    sources: &'a mut Sources,
    loader: Option<Loader<'a>>,
    found: &'a mut Vec<Diagnostic>,
    /// The files that are being read, each extended by the one before.
    trail: Vec<Utf8PathBuf>,
    count: usize,
}

impl Files<'_> {
    fn file(&mut self, name: &str, text: &str) -> Option<(Table, Span)> {
        let source = self.sources.add(name, text);
        let whole = Span { source, start: 0, end: u32::try_from(text.len()).unwrap_or(u32::MAX) };
        let mut table = match parse_toml(source, text) {
            Ok(table) => table,
            Err(errors) => {
                self.found.extend(errors);
                return None;
            }
        };
        // The rest of a newer format would only give errors that mislead.
        if !read::format(&table, self.found) {
            return None;
        }
        let Some(at) = table.entries.iter().position(|(key, _)| key.name == "extends") else {
            return Some((table, whole));
        };
        let (key, value) = table.entries.remove(at);
        self.trail.push(normal(Utf8Path::new(name)));
        let mut merged = Table::default();
        for base in bases(&key, &value, self.found) {
            merge::merge(&mut merged, self.base(&key, base, name)?);
        }
        self.trail.pop();
        merge::merge(&mut merged, table);
        Some((merged, whole))
    }

    /// The table of one file that is extended; `None` where it cannot be had, which is reported.
    fn base(&mut self, key: &Key, base: &Value, from: &str) -> Option<Table> {
        let written = base.as_str().unwrap_or_default();
        let folder = Utf8Path::new(from).parent().unwrap_or(Utf8Path::new(""));
        let path = normal(&folder.join(written));
        let error = |code, message: String| Diagnostic::error(code, message).label(base.span, "");
        if let Some(first) = self.trail.iter().position(|one| *one == path) {
            let circle: Vec<&str> = self.trail.iter().skip(first).chain([&path]).map(|one| one.as_str()).collect();
            let message = format!("the manifest extends itself: {}", circle.join(" -> "));
            self.found.push(error("manifest::extends-loop", message).help("remove one of these `extends`"));
            return None;
        }
        self.count += 1;
        if self.count > MAX_FILES {
            let message = format!("the manifest extends more than {MAX_FILES} files");
            self.found.push(error("manifest::extends", message).help("put what they have in common into one file"));
            return None;
        }
        let Some(loader) = self.loader else {
            let message = format!("`{}` cannot be used here: this text has no folder", key.name);
            self.found.push(error("manifest::extends", message).help("save the manifest as a file"));
            return None;
        };
        match loader(path.as_str()) {
            Ok(text) => self.file(path.as_str(), &text).map(|(table, _)| table),
            Err(why) => {
                let message = format!("`{path}` cannot be read: {why}");
                let help = "the path is relative to the manifest that names it";
                self.found.push(error("manifest::extends", message).help(help));
                None
            }
        }
    }
}

/// The texts of `extends`.
fn bases<'a>(key: &Key, value: &'a Value, found: &mut Vec<Diagnostic>) -> Vec<&'a Value> {
    let all: Vec<&Value> = match &value.kind {
        ValueKind::Array(items) => items.iter().collect(),
        _ => vec![value],
    };
    all.into_iter().filter(|one| field::word(key, one, found).is_some()).collect()
}
