//! Parameters that name files outside the store.
//!
//! A parameter of type [`InputFile`] or [`InputFiles`] is written as a path (or a list of paths and folders) relative to
//! the manifest. Its *content* goes into the key, its path does not. The engine finds such parameters by their type: they
//! serialise as a marked map, which the engine resolves before the key is made and before the stage sees them.

use camino::{Utf8Path, Utf8PathBuf};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeMap};

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
}

/// Files and folders outside the store: `"data/text.txt"`, `["a.txt", "more/"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFiles {
    written: Vec<String>,
    resolved: Vec<ResolvedFile>,
}

/// Exactly one file outside the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile(InputFiles);

impl InputFiles {
    /// As the author wrote them.
    #[must_use]
    pub fn written(&self) -> &[String] {
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
        let written = paths.iter().map(ToString::to_string).collect();
        let resolved = paths.into_iter().map(|path| ResolvedFile { path, name: String::new() }).collect();
        Self { written, resolved }
    }

    /// Finds the files, relative to `folder`. Folders are read recursively; names that start with a dot are left out.
    ///
    /// # Errors
    /// The first path that does not exist or cannot be read.
    pub fn resolve(&self, folder: &Utf8Path) -> std::io::Result<Vec<ResolvedFile>> {
        resolve(&self.written, folder)
    }
}

/// See [`InputFiles::resolve`].
pub(crate) fn resolve(written: &[String], folder: &Utf8Path) -> std::io::Result<Vec<ResolvedFile>> {
    let mut found = Vec::new();
    for one in written {
        let path = folder.join(one);
        if fs_err::metadata(&path)?.is_dir() {
            let mut inside = Vec::new();
            walk(&path, "", &mut inside)?;
            inside.sort_by(|a: &ResolvedFile, b| a.name.cmp(&b.name));
            found.append(&mut inside);
        } else {
            found.push(ResolvedFile { path, name: String::new() });
        }
    }
    Ok(found)
}

fn walk(folder: &Utf8Path, prefix: &str, found: &mut Vec<ResolvedFile>) -> std::io::Result<()> {
    for entry in folder.read_dir_utf8()? {
        let entry = entry?;
        if entry.file_name().starts_with('.') {
            continue;
        }
        let name =
            if prefix.is_empty() { entry.file_name().to_owned() } else { format!("{prefix}/{}", entry.file_name()) };
        if fs_err::metadata(entry.path())?.is_dir() {
            walk(entry.path(), &name, found)?;
        } else {
            found.push(ResolvedFile { path: entry.path().to_owned(), name });
        }
    }
    Ok(())
}

impl InputFile {
    /// The file. Filled in when the stage runs; before, the path as written.
    #[must_use]
    pub fn path(&self) -> Utf8PathBuf {
        match (self.0.resolved.first(), self.0.written.first()) {
            (Some(file), _) => file.path.clone(),
            (None, Some(written)) => Utf8PathBuf::from(written),
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

#[derive(Deserialize)]
#[serde(untagged)]
enum Wire {
    One(String),
    List(Vec<String>),
    Marked(Marked),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Marked {
    #[serde(rename = "$input")]
    input: MarkedPaths,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MarkedPaths {
    Resolved(Vec<ResolvedFile>),
    Written(Vec<String>),
}

impl<'de> Deserialize<'de> for InputFiles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)
            .map_err(|_| serde::de::Error::custom("expected a path, or a list of paths, as text"))?;
        Ok(match wire {
            Wire::One(path) => Self { written: vec![path], resolved: Vec::new() },
            Wire::List(written) | Wire::Marked(Marked { input: MarkedPaths::Written(written) }) => {
                Self { written, resolved: Vec::new() }
            }
            Wire::Marked(Marked { input: MarkedPaths::Resolved(resolved) }) => {
                Self { written: resolved.iter().map(|file| file.path.to_string()).collect(), resolved }
            }
        })
    }
}

impl<'de> Deserialize<'de> for InputFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let files = InputFiles::deserialize(deserializer)?;
        if files.written.len() != 1 {
            return Err(serde::de::Error::custom(format!("expected one file, found {}", files.written.len())));
        }
        Ok(Self(files))
    }
}

impl JsonSchema for InputFiles {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "InputFiles".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Files and folders, relative to the manifest; their content is part of the key.",
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }]
        })
    }
}

impl JsonSchema for InputFile {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "InputFile".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A file, relative to the manifest; its content is part of the key.",
            "type": "string"
        })
    }
}
