//! Parameters that name files outside the store.
//!
//! A parameter of type [`InputFile`] or [`InputFiles`] is written as a path (or a list of paths and folders) relative to
//! the manifest, as a pattern, or as a URL with a digest. Its *content* goes into the key, its path does not. The engine finds such parameters by their type: they
//! serialise as a marked map, which the engine resolves before the key is made and before the stage sees them.

use camino::{Utf8Path, Utf8PathBuf};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
    ser::SerializeMap,
};

use super::written::{self, Written, is_pattern};

/// The mark that [`InputFiles`] leaves in serialised parameters.
pub(crate) const MARK: &str = "$input";

/// A file found for a parameter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResolvedFile {
    /// Where it is.
    pub path: Utf8PathBuf,
    /// Its name inside the folder that the parameter names (with `/`); empty for a file that is named itself, whose
    /// name therefore does not matter.
    pub name: String,
    /// The file or folder as the author wrote it.
    pub written: String,
}

/// Files and folders outside the store: `"data/text.txt"`, `["a.txt", "more/"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFiles {
    written: Vec<Written>,
    resolved: Vec<ResolvedFile>,
}

/// Exactly one file outside the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile(InputFiles);

impl InputFiles {
    /// As the author wrote them.
    #[must_use]
    pub fn written(&self) -> &[Written] {
        &self.written
    }

    /// The files, in the order of the parameter; within a folder, sorted by name. Filled in when the stage runs.
    #[must_use]
    pub fn files(&self) -> &[ResolvedFile] {
        &self.resolved
    }

    /// Files that are already resolved, for a stage's own tests.
    #[must_use]
    pub fn of(paths: Vec<Utf8PathBuf>) -> Self {
        let written = paths.iter().map(|path| Written::Path(path.to_string())).collect();
        let file = |path: Utf8PathBuf| ResolvedFile { written: path.to_string(), path, name: String::new() };
        Self { written, resolved: paths.into_iter().map(file).collect() }
    }

    /// Finds the files, relative to `folder`. Folders are read recursively; names that start with a dot are left out.
    ///
    /// # Errors
    /// The first path that does not exist or cannot be read. Files at URLs are not there before a run fetches them.
    pub fn resolve(&self, folder: &Utf8Path) -> std::io::Result<Vec<ResolvedFile>> {
        resolve(&self.written, Places { folder, downloads: None })
    }
}

/// Where files are looked for.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// What relative paths start from: the manifest's folder.
    pub folder: &'a Utf8Path,
    /// Where fetched files are kept; `None` where they are out of reach.
    pub downloads: Option<&'a Utf8Path>,
}

/// See [`InputFiles::resolve`]. A pattern that matches nothing is an error, and so is a URL that was not fetched.
pub(crate) fn resolve(written: &[Written], places: Places<'_>) -> std::io::Result<Vec<ResolvedFile>> {
    let missing = |message: String| Err(std::io::Error::new(std::io::ErrorKind::NotFound, message));
    let mut found = Vec::new();
    for one in written {
        match one {
            Written::Url(remote) => {
                let path = places.downloads.map(|downloads| remote.place(downloads)).filter(|path| path.is_file());
                let Some(path) = path else { return missing(format!("{} has not been fetched", remote.url)) };
                found.push(ResolvedFile { path, name: String::new(), written: remote.file_name().to_owned() });
            }
            Written::Path(written) => {
                let path = places.folder.join(written);
                // A name with brackets in it is first of all a name.
                let here = match fs_err::metadata(&path) {
                    Err(_) if is_pattern(written) => None,
                    here => Some(here?),
                };
                match here {
                    Some(here) if here.is_dir() => found.append(&mut written::folder(&path, written)?),
                    Some(_) => found.push(ResolvedFile { path, name: String::new(), written: written.clone() }),
                    None => {
                        let mut matched = written::matches(written, places.folder)?;
                        if matched.is_empty() {
                            return missing(format!("`{written}` matches no file"));
                        }
                        found.append(&mut matched);
                    }
                }
            }
        }
    }
    Ok(found)
}

impl InputFile {
    /// The file. Filled in when the stage runs; before, the path as written.
    #[must_use]
    pub fn path(&self) -> Utf8PathBuf {
        match (self.0.resolved.first(), self.0.written.first()) {
            (Some(file), _) => file.path.clone(),
            (None, Some(written)) => Utf8PathBuf::from(written.as_str()),
            (None, None) => Utf8PathBuf::new(),
        }
    }

    /// A file that is already resolved, for a stage's own tests.
    #[must_use]
    pub fn of(path: Utf8PathBuf) -> Self {
        Self(InputFiles::of(vec![path]))
    }
}

impl Serialize for InputFiles {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        if self.resolved.is_empty() {
            map.serialize_entry(MARK, &self.written)?;
        } else {
            map.serialize_entry(MARK, &self.resolved)?;
        }
        map.end()
    }
}

impl Serialize for InputFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Reads a path, a list of paths, or the marked map in which the engine hands resolved files to a stage.
struct InputFilesVisitor;

impl<'de> Visitor<'de> for InputFilesVisitor {
    type Value = InputFiles;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a path, or a list of paths, as text")
    }

    fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<InputFiles, E> {
        let written = Written::path(path).map_err(E::custom)?;
        Ok(InputFiles { written: vec![written], resolved: Vec::new() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<InputFiles, A::Error> {
        let mut written = Vec::new();
        while let Some(path) = list.next_element()? {
            written.push(path);
        }
        Ok(InputFiles { written, resolved: Vec::new() })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InputFiles, A::Error> {
        let key: Option<String> = map.next_key()?;
        if key.as_deref() != Some(MARK) {
            let remote = written::remote(map, key)?;
            return Ok(InputFiles { written: vec![Written::Url(remote)], resolved: Vec::new() });
        }
        let files = match map.next_value()? {
            MarkedPaths::Written(written) => InputFiles { written, resolved: Vec::new() },
            MarkedPaths::Resolved(resolved) => {
                let mut written: Vec<Written> =
                    resolved.iter().map(|file| Written::Path(file.written.clone())).collect();
                written.dedup();
                InputFiles { written, resolved }
            }
        };
        match map.next_key::<String>()? {
            Some(_) => Err(serde::de::Error::invalid_type(serde::de::Unexpected::Map, &self)),
            None => Ok(files),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MarkedPaths {
    Resolved(Vec<ResolvedFile>),
    Written(Vec<Written>),
}

impl<'de> Deserialize<'de> for InputFiles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputFilesVisitor)
    }
}

impl<'de> Deserialize<'de> for InputFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let files = InputFiles::deserialize(deserializer)?;
        if files.written.len() != 1 {
            return Err(serde::de::Error::custom(format!("expected one file, found {}", files.written.len())));
        }
        if let [Written::Path(path)] = files.written.as_slice()
            && is_pattern(path)
            && files.resolved.is_empty()
        {
            let message = format!("expected one file, found the pattern `{path}`");
            return Err(serde::de::Error::custom(message + "\nwrite the name of one file"));
        }
        Ok(Self(files))
    }
}

impl JsonSchema for InputFiles {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "InputFiles".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let remote = remote_schema();
        schemars::json_schema!({
            "description": "Files, folders and patterns (`texts/*.txt`, `**`), relative to the manifest, or URLs with the digest of what is there; their content is part of the key.",
            "anyOf": [{ "type": "string" }, remote, { "type": "array", "items": { "anyOf": [{ "type": "string" }, remote] }, "minItems": 1 }]
        })
    }
}

impl JsonSchema for InputFile {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "InputFile".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let remote = remote_schema();
        schemars::json_schema!({
            "description": "A file, relative to the manifest, or a URL with the digest of what is there; its content is part of the key.",
            "anyOf": [{ "type": "string" }, remote]
        })
    }
}

fn remote_schema() -> serde_json::Value {
    let digest = serde_json::json!({ "type": "string", "pattern": "^[0-9a-fA-F]{64}$" });
    serde_json::json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["url"],
        "properties": { "url": { "type": "string", "pattern": "^https?://" }, "blake3": digest, "sha256": digest },
    })
}
