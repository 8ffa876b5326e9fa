//! Files at URLs: fetched once into the store, and believed for their digest alone.
//!
//! A file is kept as `downloads/<algorithm>-<digest>/<name>`; until it is whole and its digest is right it is called
//! `<name>.part`. A broken transfer leaves the part: the next attempt, in this run or another, asks the server for the
//! rest, and starts over where the server does not do that. No request lasts for ever: one that takes too long is ended
//! and taken up again where it was, and only time in which nothing came counts as a failure. A lock keeps two runs from fetching one file at once. A file
//! that was kept is hashed again when its size or time changed, as every external file is.

use std::io::{Read, Seek as _, SeekFrom, Write as _};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::Store;
use sha2::Digest as _;

use crate::stage::Remote;

/// How often a transfer that breaks is taken up again before the run gives up.
const ATTEMPTS: u32 = 4;

/// How long one request may take, in seconds, before it is taken up again. Longer each time for a server that starts over.
const WINDOW: u64 = 60;

/// Where a store keeps what it fetched.
#[must_use]
pub fn folder(store: &Store) -> Utf8PathBuf {
    store.root().join("downloads")
}

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server's answer was no file.
    #[error("{url} cannot be fetched: the server answered {status}")]
    Status {
        /// The URL.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// No server, or the connection broke again and again.
    #[error("{url} cannot be fetched: {why} ({got} bytes are kept)")]
    Broken {
        /// The URL.
        url: String,
        /// What happened.
        why: String,
        /// Bytes that the next attempt need not fetch again.
        got: u64,
    },
    /// What came is not what the manifest says.
    #[error("what is at {url} is not what the manifest says: its {algorithm} is {found}, not {expected}")]
    Digest {
        /// The URL.
        url: String,
        /// `blake3` or `sha256`.
        algorithm: &'static str,
        /// The digest of what came.
        found: String,
        /// The digest in the manifest.
        expected: String,
    },
    /// The disk.
    #[error("the store cannot take {url}: {source}")]
    Disk {
        /// The URL.
        url: String,
        /// What happened.
        source: std::io::Error,
    },
}

impl FetchError {
    /// What to do.
    #[must_use]
    pub fn help(&self) -> String {
        match self {
            Self::Status { .. } => "check the address in a browser".to_owned(),
            Self::Broken { .. } => "check the network and run again: it goes on where it stopped".to_owned(),
            Self::Digest { algorithm, found, .. } => format!(
                "the file was replaced, or the digest is that of another: if this is the right file, write {algorithm} = \"{found}\""
            ),
            Self::Disk { .. } => "make room or check the folder's permissions, then run again".to_owned(),
        }
    }
}

/// Bytes so far, and in all where the server says so.
pub type Progress<'a> = &'a mut dyn FnMut(u64, Option<u64>);

/// Makes sure that a file is in the store, and says where. Nothing is asked of the network if it is.
///
/// # Errors
/// See [`FetchError`].
pub fn fetch(remote: &Remote, downloads: &Utf8Path, progress: Progress<'_>) -> Result<Utf8PathBuf, FetchError> {
    fetch_within(remote, downloads, WINDOW, progress)
}

/// [`fetch`] with requests of at most so many seconds.
fn fetch_within(
    remote: &Remote,
    downloads: &Utf8Path,
    mut window: u64,
    progress: Progress<'_>,
) -> Result<Utf8PathBuf, FetchError> {
    let disk = |source| FetchError::Disk { url: remote.url.clone(), source };
    let target = remote.place(downloads);
    let folder = target.parent().unwrap_or(downloads);
    fs_err::create_dir_all(folder).map_err(disk)?;
    let lock = fs_err::File::create(folder.join(".lock")).map_err(disk)?;
    lock.file().lock().map_err(disk)?;
    if target.is_file() {
        if digest_of(&target, remote).map_err(disk)? == expected(remote) {
            return Ok(target);
        }
        // Someone changed it. It can be had again.
        fs_err::remove_file(&target).map_err(disk)?;
    }
    let part = folder.join(format!("{}.part", remote.file_name()));
    let (mut failures, mut fresh) = (0, false);
    let length = || fs_err::metadata(&part).map_or(0, |part| part.len());
    loop {
        let before = length();
        match transfer(remote, &part, window, progress) {
            Ok(resumed) => {
                let found = digest_of(&part, remote).map_err(disk)?;
                if found == expected(remote) {
                    keep(&part, &target).map_err(disk)?;
                    return Ok(target);
                }
                fs_err::remove_file(&part).map_err(disk)?;
                // The beginning may have been that of another file: once more, from the start.
                if resumed && !fresh {
                    fresh = true;
                    continue;
                }
                let (url, expected) = (remote.url.clone(), expected(remote).to_owned());
                return Err(FetchError::Digest { url, algorithm: algorithm(remote), found, expected });
            }
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Broken { why, slow }) => {
                let got = length();
                if slow && got > before {
                    continue;
                }
                if slow && got > 0 {
                    // A server that starts over needs time enough for all of it.
                    window = window.saturating_mul(2);
                }
                failures += 1;
                if failures >= ATTEMPTS {
                    return Err(FetchError::Broken { url: remote.url.clone(), why, got });
                }
            }
        }
    }
}

/// Durable before it has its name, and not to be written again.
fn keep(part: &Utf8Path, target: &Utf8Path) -> std::io::Result<()> {
    let file = fs_err::File::open(part)?;
    file.sync_all()?;
    let mut permissions = file.metadata()?.permissions();
    permissions.set_readonly(true);
    fs_err::set_permissions(part, permissions)?;
    fs_err::rename(part, target)
}

enum Trouble {
    /// Trying again may help. `slow`: the request took too long.
    Broken { why: String, slow: bool },
    /// It does not.
    Final(FetchError),
}

/// Fetches what is missing of the part. Says whether there was a beginning already.
fn transfer(remote: &Remote, part: &Utf8Path, window: u64, progress: Progress<'_>) -> Result<bool, Trouble> {
    let disk = |source| Trouble::Final(FetchError::Disk { url: remote.url.clone(), source });
    let broken = |error: std::io::Error| Trouble::Broken {
        slow: matches!(error.kind(), std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock),
        why: error.to_string(),
    };
    let mut file = fs_err::OpenOptions::new().create(true).append(true).open(part).map_err(disk)?;
    let begun = file.metadata().map_err(disk)?.len();
    let agent = concat!("sepia/", env!("CARGO_PKG_VERSION"));
    let mut request = minreq::get(&remote.url).with_header("User-Agent", agent).with_timeout(window);
    if begun > 0 {
        request = request.with_header("Range", format!("bytes={begun}-"));
    }
    let mut response = request.send_lazy().map_err(|error| match error {
        minreq::Error::IoError(error) => broken(error),
        other => Trouble::Broken { why: other.to_string(), slow: false },
    })?;
    let length = response.headers.get("content-length").and_then(|length| length.parse::<u64>().ok());
    let range = response.headers.get("content-range");
    let continues = range.is_some_and(|range| range.starts_with(&format!("bytes {begun}-")));
    let status = u16::try_from(response.status_code).unwrap_or_default();
    let mut done = match status {
        206 if begun > 0 && continues => begun,
        // Nothing is missing: the digest will say whether it is right.
        416 if begun > 0 => return Ok(true),
        200 => {
            file.set_len(0).map_err(disk)?;
            file.seek(SeekFrom::Start(0)).map_err(disk)?;
            0
        }
        status if status >= 500 || status == 429 => {
            return Err(Trouble::Broken { why: format!("the server answered {status}"), slow: false });
        }
        status => return Err(Trouble::Final(FetchError::Status { url: remote.url.clone(), status })),
    };
    let resumed = done > 0;
    let total = length.map(|length| done + length);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = match response.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broken(error)),
        };
        file.write_all(&buffer[..count]).map_err(disk)?;
        done += count as u64;
        progress(done, total);
    }
    match total {
        Some(total) if done < total => {
            let why = format!("the connection ended at {done} of {total} bytes");
            Err(Trouble::Broken { why, slow: false })
        }
        _ => Ok(resumed),
    }
}

fn algorithm(remote: &Remote) -> &'static str {
    if remote.blake3.is_some() { "blake3" } else { "sha256" }
}

fn expected(remote: &Remote) -> &str {
    remote.blake3.as_deref().or(remote.sha256.as_deref()).unwrap_or_default()
}

/// The digest of a file, by the algorithm that the manifest uses.
fn digest_of(path: &Utf8Path, remote: &Remote) -> std::io::Result<String> {
    if remote.blake3.is_some() {
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(path)?;
        return Ok(hasher.finalize().to_hex().to_string());
    }
    let mut file = fs_err::File::open(path)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
