//! What an author writes for files outside the store: a path, a pattern, or a URL with the digest of what is there.

use camino::{Utf8Path, Utf8PathBuf};
use glob::{MatchOptions, Pattern};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, Visitor},
};

use super::ResolvedFile;

/// One entry of a parameter that names files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Written {
    /// A path, or a pattern with `*`, `?`, `[..]` or `**`, relative to the manifest.
    Path(String),
    /// A file elsewhere.
    Url(Remote),
}

/// A file at a URL. Its digest, and not the URL, is part of the key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Remote {
    /// `https://...` or `http://...`.
    pub url: String,
    /// blake3 of the content, 64 hexadecimal digits; or
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// its SHA-256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl Written {
    /// As it stands in the manifest, for messages.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Url(remote) => &remote.url,
        }
    }
}

impl Remote {
    /// `sha256-<digest>`: the folder of the store's downloads that it is kept in.
    #[must_use]
    pub fn id(&self) -> String {
        match (&self.blake3, &self.sha256) {
            (Some(digest), _) => format!("blake3-{digest}"),
            (None, digest) => format!("sha256-{}", digest.as_deref().unwrap_or_default()),
        }
    }

    /// The name of the file: the last part of the URL's path.
    #[must_use]
    pub fn file_name(&self) -> &str {
        let path = self.url.split(['?', '#']).next().unwrap_or_default();
        let name = path.splitn(4, '/').nth(3).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if name.is_empty() || name.starts_with('.') || !plain || name.len() > 200 { "data" } else { name }
    }

    /// Where it is kept below the store's folder of downloads.
    #[must_use]
    pub fn place(&self, downloads: &Utf8Path) -> Utf8PathBuf {
        downloads.join(self.id()).join(self.file_name())
    }

    /// What a key holds of it: the blake3 digest that a local file with this content has, or else the SHA-256, marked as
    /// such.
    #[must_use]
    pub fn content(&self) -> String {
        match (&self.blake3, &self.sha256) {
            (Some(digest), _) => digest.clone(),
            (None, digest) => format!("sha256:{}", digest.as_deref().unwrap_or_default()),
        }
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WrittenVisitor;

        impl<'de> Visitor<'de> for WrittenVisitor {
            type Value = Written;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path as text, or { url = \"...\", sha256 = \"...\" }")
            }

            fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<Written, E> {
                Written::path(path).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Written, A::Error> {
                remote(map, None).map(Written::Url)
            }
        }

        deserializer.deserialize_any(WrittenVisitor)
    }
}

/// What a table with a `url` may hold.
const FIELDS: &[&str] = &["url", "blake3", "sha256"];

/// Reads a remote file from a map whose first key may have been taken out already.
pub(super) fn remote<'de, A: MapAccess<'de>>(mut map: A, first: Option<String>) -> Result<Remote, A::Error> {
    let (mut url, mut blake3, mut sha256) = (None, None, None);
    let mut next = first;
    while let Some(key) = match next.take() {
        Some(key) => Some(key),
        None => map.next_key::<String>()?,
    } {
        match key.as_str() {
            "url" => url = Some(map.next_value::<String>()?),
            "blake3" => blake3 = Some(map.next_value::<String>()?),
            "sha256" => sha256 = Some(map.next_value::<String>()?),
            other => return Err(A::Error::unknown_field(other, FIELDS)),
        }
    }
    let url = url.ok_or_else(|| A::Error::missing_field("url"))?;
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    if host.is_empty() || host.starts_with('/') || url.contains(char::is_whitespace) || url.contains(char::is_control) {
        let message = format!("`{url}` is not a URL that can be fetched");
        return Err(A::Error::custom(message + "\nwrite https://HOST/PATH; for a local file write its path as text"));
    }
    let (Some(digest), None) = (blake3.as_ref().or(sha256.as_ref()), blake3.as_ref().and(sha256.as_ref())) else {
        let message = "a URL needs the digest of its content: what is there tomorrow may be something else";
        let help = "add one of blake3 = \"...\" and sha256 = \"...\": `curl -L URL | sha256sum` prints it";
        return Err(A::Error::custom(format!("{message}\n{help}")));
    };
    if digest.len() != 64 || !digest.chars().all(|c| c.is_ascii_hexdigit()) {
        let message = format!("`{digest}` is not a digest: that has 64 hexadecimal digits, this has {}", digest.len());
        return Err(A::Error::custom(message + "\n`sha256sum FILE` prints one"));
    }
    let lower = |digest: Option<String>| digest.map(|digest| digest.to_ascii_lowercase());
    Ok(Remote { url, blake3: lower(blake3), sha256: lower(sha256) })
}

impl Written {
    /// A path or a pattern; a pattern must be one.
    pub(super) fn path(text: &str) -> Result<Self, String> {
        if is_pattern(text)
            && let Err(error) = Pattern::new(text)
        {
            return Err(format!("`{text}` is not a pattern: {}\nwrite `*`, `?`, `[a-z]` or `**`", error.msg));
        }
        Ok(Self::Path(text.to_owned()))
    }
}

/// Whether a path stands for the files that match it.
pub(crate) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// The files below `folder` that match a pattern, sorted by name: what it matches from its first wild card on. Names that
/// start with a dot are left out, as in folders.
pub(super) fn matches(pattern: &str, folder: &Utf8Path) -> std::io::Result<Vec<ResolvedFile>> {
    let parts: Vec<&str> = pattern.split('/').collect();
    let plain = parts.iter().take_while(|part| !is_pattern(part)).count();
    let (prefix, rest) = parts.split_at(plain);
    // A pattern may begin with `/`.
    let root = if prefix == [""] { "/".to_owned() } else { prefix.join("/") };
    let invalid = |error: glob::PatternError| std::io::Error::new(std::io::ErrorKind::InvalidInput, error.msg);
    let wanted = Pattern::new(&rest.join("/")).map_err(invalid)?;
    let depth = if rest.iter().any(|part| part.contains("**")) { usize::MAX } else { rest.len() };
    let mut found = Vec::new();
    below(&folder.join(&root), "", depth, &mut |path, name| {
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::default() };
        if wanted.matches_with(name, options) {
            found.push(ResolvedFile { path, name: name.to_owned(), written: root.clone() });
        }
    })?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Every file down to a depth, with its name relative to the folder.
fn below(
    folder: &Utf8Path,
    prefix: &str,
    depth: usize,
    each: &mut impl FnMut(Utf8PathBuf, &str),
) -> std::io::Result<()> {
    for entry in folder.read_dir_utf8()? {
        let entry = entry?;
        if entry.file_name().starts_with('.') {
            continue;
        }
        let name =
            if prefix.is_empty() { entry.file_name().to_owned() } else { format!("{prefix}/{}", entry.file_name()) };
        if !fs_err::metadata(entry.path())?.is_dir() {
            each(entry.into_path(), &name);
        } else if depth > 1 {
            below(entry.path(), &name, depth - 1, each)?;
        }
    }
    Ok(())
}

/// All files of a folder, sorted by name.
pub(super) fn folder(path: &Utf8Path, written: &str) -> std::io::Result<Vec<ResolvedFile>> {
    let mut found = Vec::new();
    below(path, "", usize::MAX, &mut |path, name| {
        found.push(ResolvedFile { path, name: name.to_owned(), written: written.to_owned() });
    })?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Written, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pattern_matches_files_by_name_in_order() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(temp.path()).unwrap();
        for file in ["d/b.txt", "d/a.txt", "d/c.md", "d/.hidden.txt", "d/deep/er/e.txt", "top.txt"] {
            fs_err::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
            fs_err::write(folder.join(file), "").unwrap();
        }
        let names = |pattern: &str| -> Vec<String> {
            let found = matches(pattern, folder).unwrap();
            assert!(found.iter().all(|file| file.path.is_file()));
            found.into_iter().map(|file| format!("{}|{}", file.written, file.name)).collect()
        };
        assert_eq!(names("d/*.txt"), ["d|a.txt", "d|b.txt"]);
        assert_eq!(names("d/**/*.txt"), ["d|a.txt", "d|b.txt", "d|deep/er/e.txt"]);
        assert_eq!(names("*/[bc].*"), ["|d/b.txt", "|d/c.md"]);
        assert_eq!(names(&folder.join("*.txt").into_string()).len(), 1);
        assert!(names("d/*.csv").is_empty());
        assert!(matches("gone/*.txt", folder).is_err());
    }

    #[test]
    fn a_url_comes_with_one_digest() {
        let digest = "AB".repeat(32);
        let text = format!("{{\"url\": \"https://a.org/x/y.txt?v=1\", \"sha256\": \"{digest}\"}}");
        let Written::Url(remote) = read(&text).unwrap() else { panic!("not a URL") };
        assert_eq!(
            (remote.file_name(), remote.id().as_str()),
            ("y.txt", format!("sha256-{}", "ab".repeat(32)).as_str())
        );
        assert_eq!(remote.content(), format!("sha256:{}", "ab".repeat(32)));
        // What was read can be read again.
        assert_eq!(read(&serde_json::to_string(&remote).unwrap()).unwrap(), Written::Url(remote));
        for (url, name) in [("http://a.org", "data"), ("http://a.org/", "data"), ("https://a.org/a%20b", "data")] {
            let remote = Remote { url: url.into(), blake3: Some(digest.clone()), sha256: None };
            assert_eq!(remote.file_name(), name);
        }
        for bad in [
            "{\"url\": \"https://a.org/x\"}".to_owned(),
            format!("{{\"url\": \"https://a.org/x\", \"sha256\": \"{digest}\", \"blake3\": \"{digest}\"}}"),
            "{\"url\": \"https://a.org/x\", \"sha256\": \"12\"}".to_owned(),
            format!("{{\"url\": \"ftp://a.org/x\", \"sha256\": \"{digest}\"}}"),
            format!("{{\"url\": \"https:///x\", \"sha256\": \"{digest}\"}}"),
            format!("{{\"sha256\": \"{digest}\"}}"),
            "{\"uri\": \"https://a.org/x\"}".to_owned(),
            "\"a[\"".to_owned(),
            "3".to_owned(),
        ] {
            assert!(read(&bad).is_err(), "{bad}");
        }
    }
}
