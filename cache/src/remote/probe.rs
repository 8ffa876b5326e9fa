//! Finding out what a remote really does, whatever it claims.

use std::io::{self, Read as _};

use camino::Utf8Path;
use serde::{Deserialize, Serialize};

use super::{Links, Remote, Way};
use crate::digest::Digest;

/// What a remote was seen to do when it was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Creating a thing that is there already is refused. Nothing depends on it.
    pub create_exclusive: bool,
    /// What was written is listed at once.
    pub lists_after_write: bool,
    /// Writing a name again takes the old one's place.
    pub replaces: bool,
    /// Reading can begin in the middle, so an interrupted pull goes on where it was.
    pub ranged_reads: bool,
    /// The largest thing that was tried, in bytes, which came back as it was.
    pub large_bytes: u64,
    /// How a file of the store becomes one of the remote and back without being copied; `None` if there is no way.
    #[serde(default)]
    pub links: Option<Links>,
    /// How a folder on a host is reached; `None` for other remotes.
    #[serde(default)]
    pub way: Option<Way>,
}

/// More than one part of a multipart upload.
const LARGE: usize = 12 << 20;

/// Tries it out, under a name that nobody else uses, and cleans up. `ours` is a folder of the store.
///
/// # Errors
/// When it cannot hold bytes: what was written does not come back.
pub(super) fn probe(remote: &dyn Remote, unique: &Digest, ours: &Utf8Path) -> io::Result<Probe> {
    let folder = format!("probe/{}", unique.short());
    let (small, large) = (format!("{folder}/small"), format!("{folder}/large"));
    let found = try_out(remote, &folder, &small, &large);
    for name in [&small, &large] {
        remote.remove(name)?;
    }
    Ok(Probe { links: remote.links(ours), way: remote.way(), ..found? })
}

fn try_out(remote: &dyn Remote, folder: &str, small: &str, large: &str) -> io::Result<Probe> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{what} did not come back as it was"));
    let get = |name: &str, from: u64| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        remote.read(name, from, &mut bytes)?;
        Ok(bytes)
    };
    remote.create(small, b"first")?;
    if get(small, 0)? != b"first" {
        return Err(wrong("what was written"));
    }
    let refused_second = !remote.create(small, b"other")?;
    let create_exclusive = refused_second && get(small, 0)? == b"first";
    let lists_after_write = remote.list(folder)?.iter().any(|listed| listed.name == small && listed.bytes == 5);
    remote.put(small, &mut &b"second"[..])?;
    let replaces = get(small, 0)? == b"second";
    let ranged_reads = get(small, 2).is_ok_and(|tail| tail == b"cond");
    // Not compressible, and the same everywhere.
    let mut bytes = vec![0; LARGE];
    blake3::Hasher::new().finalize_xof().read_exact(&mut bytes)?;
    remote.put(large, &mut bytes.as_slice())?;
    if get(large, 0)? != bytes || remote.size(large)? != Some(LARGE as u64) {
        return Err(wrong("a large file"));
    }
    Ok(Probe {
        create_exclusive,
        lists_after_write,
        replaces,
        ranged_reads,
        large_bytes: LARGE as u64,
        links: None,
        way: None,
    })
}
