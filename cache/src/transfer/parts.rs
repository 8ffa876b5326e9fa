//! Objects as one stream of bytes: a file, or the files of a tree one after the other.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use camino::{Utf8Path, Utf8PathBuf};

use super::work::Count;
use crate::digest::Digest;
use crate::error::StoreError;

/// A file of an object: where it is, its size, its digest.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) path: Utf8PathBuf,
    pub(super) bytes: u64,
    pub(super) digest: Digest,
}

impl Part {
    /// Reads a file that should be this part, and fails where it is not.
    pub(super) fn check(&self, path: &Utf8Path, count: Count<'_>) -> io::Result<()> {
        let found = Digest::of_file_counted(path, count).map_err(|error| match error {
            StoreError::Io { source, .. } => source,
            other => io::Error::other(other.to_string()),
        })?;
        if found == self.digest { Ok(()) } else { Err(damaged(&self.path)) }
    }
}

pub(super) fn damaged(path: &Utf8Path) -> io::Error {
    bad(path, "is damaged: its bytes do not match its digest")
}

fn bad(path: &Utf8Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path} {what}"))
}

/// Reads parts, and fails where one is not what its digest says: the reader never comes to a good end.
pub(super) struct Reader<'p> {
    parts: std::slice::Iter<'p, Part>,
    open: Option<(&'p Part, File, u64, blake3::Hasher)>,
    count: Count<'p>,
}

impl<'p> Reader<'p> {
    pub(super) fn new(parts: &'p [Part], count: Count<'p>) -> Self {
        Self { parts: parts.iter(), open: None, count }
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some((part, file, left, hasher)) = &mut self.open {
                let n = file.read(buffer)?;
                *left = left.checked_sub(n as u64).ok_or_else(|| bad(&part.path, "is longer than it should be"))?;
                hash(hasher, &buffer[..n]);
                if n > 0 {
                    (self.count)(n as u64);
                    return Ok(n);
                }
                if *left > 0 || Digest::from_bytes(*hasher.finalize().as_bytes()) != part.digest {
                    return Err(damaged(&part.path));
                }
                self.open = None;
            }
            let Some(part) = self.parts.next() else { return Ok(0) };
            self.open = Some((part, File::open(&part.path)?, part.bytes, blake3::Hasher::new()));
        }
    }
}

fn hash(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    if bytes.len() >= 512 << 10 {
        hasher.update_rayon(bytes);
    } else {
        hasher.update(bytes);
    }
}

/// Writes a stream to parts that may be begun already, and fails where one is not what its digest says, or where more
/// comes than there should be.
pub(super) struct Writer<'p> {
    parts: &'p [Part],
    at: usize,
    open: Option<(File, u64, blake3::Hasher)>,
    count: Count<'p>,
}

impl<'p> Writer<'p> {
    /// A writer over parts of which some bytes may be there, and how many that are. What is there is hashed.
    pub(super) fn resume(parts: &'p [Part], count: Count<'p>) -> io::Result<(Self, u64)> {
        let mut there = 0;
        for (at, part) in parts.iter().enumerate() {
            let Ok(mut file) = OpenOptions::new().read(true).append(true).open(&part.path) else {
                return Ok((Self { parts, at, open: None, count }, there));
            };
            let mut hasher = blake3::Hasher::new();
            let mut piece = vec![0; 1 << 20];
            let mut found = 0;
            loop {
                let n = file.read(&mut piece)?;
                if n == 0 {
                    break;
                }
                hash(&mut hasher, &piece[..n]);
                found += n as u64;
            }
            let is_good = found == part.bytes && Digest::from_bytes(*hasher.finalize().as_bytes()) == part.digest;
            if found > part.bytes || (found == part.bytes && !is_good) {
                // Not what is wanted: from the beginning.
                file.set_len(0)?;
                let open = Some((file, part.bytes, blake3::Hasher::new()));
                return Ok((Self { parts, at, open, count }, there));
            }
            count(found);
            there += found;
            if !is_good {
                let open = Some((file, part.bytes - found, hasher));
                return Ok((Self { parts, at, open, count }, there));
            }
        }
        Ok((Self { parts, at: parts.len(), open: None, count }, there))
    }

    /// Goes on to the next part while there is nothing left to write of the present one.
    fn advance(&mut self) -> io::Result<()> {
        while let Some(part) = self.parts.get(self.at) {
            if self.open.is_none() {
                if let Some(folder) = part.path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                let file = OpenOptions::new().write(true).create(true).truncate(true).open(&part.path)?;
                self.open = Some((file, part.bytes, blake3::Hasher::new()));
            }
            let Some((_, left, hasher)) = &self.open else { return Ok(()) };
            if *left > 0 {
                return Ok(());
            }
            if Digest::from_bytes(*hasher.finalize().as_bytes()) != part.digest {
                let _ = std::fs::remove_file(&part.path);
                return Err(bad(&part.path, "is not what it should be: its bytes do not match its digest"));
            }
            self.open = None;
            self.at += 1;
        }
        Ok(())
    }

    /// Whether everything has come.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.advance()?;
        if self.at == self.parts.len() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "fewer bytes came than there should be"))
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.advance()?;
        let Some((file, left, hasher)) = &mut self.open else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more bytes came than there should be"));
        };
        let n = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
        file.write_all(&bytes[..n])?;
        hash(hasher, &bytes[..n]);
        *left -= n as u64;
        (self.count)(n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
