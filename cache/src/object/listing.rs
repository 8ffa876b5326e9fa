//! The canonical listing of a tree object.

use camino::{Utf8Component, Utf8Path};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

const DOMAIN: &str = "sepia 2026 tree listing v1";

/// What a folder holds: enough to check it, to fetch it file by file, and to name it.
///
/// Modes, owners and times are not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// The files, sorted by path.
    pub files: Vec<ListedFile>,
    /// Folders with nothing in them, sorted; they matter to some programs.
    pub empty_folders: Vec<String>,
}

/// One file of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedFile {
    /// Relative path with `/`.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// blake3 of its bytes.
    pub digest: Digest,
}

impl Listing {
    /// The bytes of the listing's file: compact JSON with its fields in the order of the type.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        // A struct of strings and numbers always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The digest of a tree with this listing.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Self::digest_of(&self.canonical())
    }

    /// The digest of a tree whose listing has these canonical bytes.
    pub(crate) fn digest_of(canonical: &[u8]) -> Digest {
        Digest::derive(DOMAIN, canonical)
    }

    /// Size of all files, in bytes; saturates, since a listing may come from elsewhere.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }

    /// Reads a listing and checks that it is the one `digest` names, and that no path leads out of the tree.
    pub(crate) fn parse(bytes: &[u8], digest: &Digest) -> Option<Self> {
        if Self::digest_of(bytes) != *digest {
            return None;
        }
        let listing: Self = serde_json::from_slice(bytes).ok()?;
        let sorted =
            listing.files.is_sorted_by(|a, b| a.path < b.path) && listing.empty_folders.is_sorted_by(|a, b| a < b);
        let inside =
            listing.files.iter().map(|file| &file.path).chain(&listing.empty_folders).all(|path| is_inside(path));
        (sorted && inside).then_some(listing)
    }
}

/// Whether a relative path stays inside the folder it is relative to, and is written in the one canonical way.
pub(crate) fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains('\0')
        && Utf8Path::new(path).components().all(|part| matches!(part, Utf8Component::Normal(_)))
        && path.split('/').all(|part| !part.is_empty() && part != ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(paths: &[&str]) -> Listing {
        let file = |path: &&str| ListedFile { path: (*path).to_owned(), bytes: 1, digest: Digest::of_bytes(b"x") };
        Listing { files: paths.iter().map(file).collect(), empty_folders: Vec::new() }
    }

    #[test]
    fn a_listing_reads_back_under_its_own_name_only() {
        let listing = listing(&["a", "b/c"]);
        let bytes = listing.canonical();
        assert_eq!(Listing::parse(&bytes, &listing.digest()), Some(listing));
        assert_eq!(Listing::parse(&bytes, &Digest::of_bytes(&bytes)), None);
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["../x", "/etc/passwd", "a/../../x", "a//b", "./a", "a/", "", "a\0b"] {
            let listing = listing(&[path]);
            assert_eq!(Listing::parse(&listing.canonical(), &listing.digest()), None, "{path:?}");
        }
        let unsorted = listing(&["b", "a"]);
        assert_eq!(Listing::parse(&unsorted.canonical(), &unsorted.digest()), None);
    }
}
