//! The list of what is in a parcel.

use std::fs::File;
use std::io::Read as _;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::error::{IoContext as _, Result, StoreError};
use crate::layout::{check_name, write_atomically};
use crate::merge::refused;
use crate::object::{ListedFile, is_inside, walk};

/// The name of the list.
pub(super) const NAME: &str = "sepia-export.json";
/// The version that this code writes, and the newest it reads.
const FORMAT: u32 = 1;
/// No list is longer.
const LONGEST: u64 = 64 << 20;

/// What is in a parcel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parcel {
    format: u32,
    /// The run that it is about.
    pub run: String,
    /// What its maker says about it.
    pub about: Value,
    /// Every other file, sorted by path.
    pub files: Vec<ListedFile>,
}

impl Parcel {
    /// Lists what is in a folder, and writes the list there.
    ///
    /// # Errors
    /// What cannot be carried elsewhere (links, names that are not plain), and those of reading and writing.
    pub fn seal(folder: &Utf8Path, run: &str, about: Value) -> Result<Self> {
        check_name("run id", run)?;
        let mut files = Vec::new();
        for path in walk(folder)?.files {
            if path == NAME {
                continue;
            }
            check_path(&path).map_err(|why| refused(folder.as_str(), why))?;
            let whole = folder.join(&path);
            let bytes = std::fs::metadata(&whole).at("read", &whole)?.len();
            files.push(ListedFile { digest: Digest::of_file(&whole)?, path, bytes });
        }
        let parcel = Self { format: FORMAT, run: run.to_owned(), about, files };
        write_atomically(&folder.join(NAME), &parcel.text())?;
        Ok(parcel)
    }

    /// The list as it is written.
    pub(super) fn text(&self) -> Vec<u8> {
        // Texts, numbers and JSON always serialise.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// Reads a list and checks that it can be one. `source` is for messages.
    pub(super) fn read(source: &str, mut from: impl std::io::Read) -> Result<Self> {
        let wrong = |why: String| refused(source, why);
        let mut text = Vec::new();
        from.by_ref().take(LONGEST + 1).read_to_end(&mut text).map_err(|error| wrong(error.to_string()))?;
        if text.len() as u64 > LONGEST {
            return Err(wrong(format!("its {NAME} is longer than 64 MiB")));
        }
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        match serde_json::from_slice(&text) {
            Ok(Format { format }) if format > FORMAT => {
                return Err(wrong(format!(
                    "it has format {format}, this Sepia knows up to {FORMAT}; use a newer Sepia"
                )));
            }
            Ok(_) => {}
            Err(error) => return Err(wrong(format!("its {NAME} cannot be read: {error}"))),
        }
        let parcel: Self =
            serde_json::from_slice(&text).map_err(|error| wrong(format!("its {NAME} cannot be read: {error}")))?;
        check_name("run id", &parcel.run).map_err(|error| wrong(error.to_string()))?;
        parcel.files.iter().try_for_each(|file| check_path(&file.path)).map_err(wrong)?;
        if !parcel.files.is_sorted_by(|a, b| a.path < b.path) {
            return Err(wrong(format!("its {NAME} is not sorted, or names a file twice")));
        }
        Ok(parcel)
    }

    /// Reads the list of a folder and checks every file against it. Nothing is changed.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for whatever is not as the list says.
    pub fn check(folder: &Utf8Path) -> Result<Self> {
        let wrong = |why: String| refused(folder.as_str(), why);
        let list = folder.join(NAME);
        match std::fs::symlink_metadata(&list) {
            Ok(metadata) if metadata.is_file() => {}
            _ => return Err(wrong(format!("it is not what `sepia export` makes: there is no file {NAME} in it"))),
        }
        let parcel = Self::read(folder.as_str(), File::open(&list).at("read", &list)?)?;
        let there = walk(folder).map_err(|error| match error {
            StoreError::UnsupportedOutput { path, what } => wrong(format!("{path} is {what}")),
            other => other,
        })?;
        let mut expected = parcel.files.iter().map(|file| file.path.as_str()).peekable();
        for path in there.files.iter().filter(|path| *path != NAME) {
            match expected.next_if(|next| *next <= path.as_str()) {
                Some(next) if next == path => {}
                Some(missing) => return Err(wrong(format!("{missing} is missing"))),
                None => return Err(wrong(format!("its {NAME} does not name {path}"))),
            }
        }
        if let Some(missing) = expected.next() {
            return Err(wrong(format!("{missing} is missing")));
        }
        for file in &parcel.files {
            let path = folder.join(&file.path);
            let bytes = std::fs::symlink_metadata(&path).at("read", &path)?.len();
            if bytes != file.bytes {
                return Err(wrong(format!("{} has {bytes} bytes and should have {}", file.path, file.bytes)));
            }
            if Digest::of_file(&path)? != file.digest {
                return Err(wrong(format!("{} is damaged: its bytes do not match its digest", file.path)));
            }
        }
        Ok(parcel)
    }

    /// Size of all files, in bytes; saturates, since a list may come from elsewhere.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }

    /// The files below a folder of the parcel, with their paths from there.
    pub fn below<'p>(&'p self, folder: &str) -> impl Iterator<Item = (Utf8PathBuf, &'p ListedFile)> {
        let folder = format!("{folder}/");
        self.files.iter().filter_map(move |file| Some((file.path.strip_prefix(folder.as_str())?.into(), file)))
    }
}

/// Refuses paths that lead out, are not written in the one way, or could do something to a terminal.
fn check_path(path: &str) -> Result<(), String> {
    let shown = || path.escape_debug().take(80).collect::<String>();
    if !is_inside(path) || path.len() > 4096 {
        return Err(format!("`{}` is no path inside a folder", shown()));
    }
    if path.chars().any(char::is_control) {
        return Err(format!("a path with control characters: `{}`", shown()));
    }
    Ok(())
}
