//! blake3 digests: of bytes, of files, and of canonical texts in a domain of their own.
//!
//! The digest of a file is the plain blake3 of its bytes, so `b3sum` checks it. Everything else that is hashed (tree
//! listings, records, keys, plans) goes through [`Digest::derive`] with a domain, so that a file whose bytes happen to
//! be the canonical form of a record never has that record's id.

mod large;

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::str::FromStr;

use camino::Utf8Path;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{IoContext as _, Result, StoreError};

/// How much of a file is read before it is hashed. Large enough that two and more threads share the work of one piece.
const PIECE: usize = 4 << 20;

/// The same for files that one thread hashes: what fits into its cache.
const SMALL_PIECE: usize = 256 << 10;

/// A blake3 digest, 32 bytes; written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The plain blake3 of `bytes`.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The plain blake3 of a file's bytes.
    ///
    /// The file is read, not mapped: a mapped file that someone shortens meanwhile would kill the process (SIGBUS), and
    /// reading costs little, as the pieces are hashed on all threads of rayon's pool.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the file cannot be opened or read.
    pub fn of_file(path: &Utf8Path) -> Result<Self> {
        Self::of_file_counted(path, &|_| ())
    }

    /// As [`Digest::of_file`]; `count` is told how many bytes have been hashed, in pieces, from several threads.
    pub(crate) fn of_file_counted(path: &Utf8Path, count: &(dyn Fn(u64) + Sync)) -> Result<Self> {
        let file = File::open(path).at("read", path)?;
        let size = file.metadata().at("read", path)?.len();
        Ok(Self::of_open_file_counted(&file, size, path, count)?.0)
    }

    /// The digest of an open file that has just been opened, and how many bytes that was; `expected` is a good guess.
    pub(crate) fn of_open_file(file: &File, expected: u64, path: &Utf8Path) -> Result<(Self, u64)> {
        Self::of_open_file_counted(file, expected, path, &|_| ())
    }

    /// The digest of `length` bytes of which `fill` gives every stretch, from several threads. `begun` is told of places up to
    /// which all has been given; nothing more than [`Digest::WINDOW`] beyond them is asked for before that.
    pub(crate) fn of_filled(length: u64, fill: large::Fill<'_>, begun: large::Begun<'_>) -> std::io::Result<Self> {
        if length >= large::LARGE {
            return Ok(Self(*large::hash_in_order(length, fill, begun)?.as_bytes()));
        }
        let mut buffer = vec![0; usize::try_from(length).map_or(SMALL_PIECE, |length| length.min(SMALL_PIECE))];
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < length {
            let n = usize::try_from(length - at).map_or(buffer.len(), |left| left.min(buffer.len()));
            fill(&mut buffer[..n], at)?;
            hasher.update(&buffer[..n]);
            at += n as u64;
        }
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// See [`Digest::of_filled`].
    pub(crate) const WINDOW: u64 = large::WINDOW;
    /// From this size on, a file is hashed by several threads.
    pub(crate) const LARGE: u64 = large::LARGE;

    fn of_open_file_counted(
        mut file: &File,
        expected: u64,
        path: &Utf8Path,
        count: &(dyn Fn(u64) + Sync),
    ) -> Result<(Self, u64)> {
        if expected >= large::LARGE {
            match large::hash(file, expected, count) {
                // It may have grown meanwhile.
                Ok(hash) if file.metadata().at("read", path)?.len() == expected => {
                    return Ok((Self(*hash.as_bytes()), expected));
                }
                Err(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => return Err(e).at("read", path),
                // What it is now is read one piece after the other, up to wherever it ends.
                _ => {}
            }
        }
        // One byte more than the file should have, so that the first read also finds its end.
        let room = usize::try_from(expected).map_or(PIECE, |len| len.saturating_add(1).min(PIECE));
        let mut piece = vec![0; room.max(4096)];
        let mut hasher = blake3::Hasher::new();
        let mut total = 0u64;
        loop {
            let mut filled = 0;
            while filled < piece.len() {
                match file.read(&mut piece[filled..]) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e).at("read", path),
                }
            }
            total += filled as u64;
            count(filled as u64);
            if filled >= PIECE / 4 {
                hasher.update_rayon(&piece[..filled]);
            } else {
                hasher.update(&piece[..filled]);
            }
            if filled < piece.len() {
                return Ok((Self(*hasher.finalize().as_bytes()), total));
            }
        }
    }

    /// The digest of `bytes` in a domain of its own (blake3's `derive_key` mode). `domain` should be a constant that
    /// names the application, the purpose and a version: `sepia 2026 record v1`.
    #[must_use]
    pub fn derive(domain: &str, bytes: &[u8]) -> Self {
        Self(blake3::derive_key(domain, bytes))
    }

    /// The hexadecimal digits, without an allocation.
    pub(crate) fn hex(&self) -> impl std::ops::Deref<Target = str> + use<> {
        blake3::Hash::from_bytes(self.0).to_hex()
    }

    /// The first 12 hexadecimal digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        let mut hex = self.to_string();
        hex.truncate(12);
        hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self> {
        decode(text.as_bytes()).map(Self).ok_or_else(|| StoreError::BadDigest { text: text.chars().take(80).collect() })
    }
}

/// 64 hexadecimal digits as bytes. A table instead of `blake3::Hash::from_hex`: reading an index parses thousands.
fn decode(text: &[u8]) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    let mut wrong = 0;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (DIGITS[usize::from(*high)], DIGITS[usize::from(*low)]);
        wrong |= high | low;
        *byte = (high << 4) | (low & 0xf);
    }
    (wrong & 0xf0 == 0).then_some(bytes)
}

/// The value of each hexadecimal digit; 0xff for what is none.
const DIGITS: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut i = 0;
    while i < 10 {
        table[b'0' as usize + i] = i as u8;
        i += 1;
    }
    let mut i = 0;
    while i < 6 {
        table[b'a' as usize + i] = 10 + i as u8;
        table[b'A' as usize + i] = 10 + i as u8;
        i += 1;
    }
    table
};

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8PathBuf;
    use proptest::prelude::*;

    #[test]
    fn the_digest_of_nothing_is_b3sums() {
        let hex = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Digest::of_bytes(b"").to_string(), hex);
        assert_eq!(Digest::of_bytes(b"").short(), "af1349b9f5f9");
        assert_eq!(hex.parse::<Digest>().unwrap(), Digest::of_bytes(b""));
        assert_eq!(serde_json::to_string(&Digest::of_bytes(b"")).unwrap(), format!("\"{hex}\""));
    }

    #[test]
    fn files_of_every_size_hash_as_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("x")).unwrap();
        let large = usize::try_from(large::LARGE).unwrap();
        let bytes: Vec<u8> = (0..251u8).collect::<Vec<_>>().repeat((9 << 20) / 251 + 1);
        for size in
            [0, 1, 4095, 4096, 4097, PIECE / 4, PIECE - 1, PIECE, PIECE + 1, large - 1, large, large + 1025, 9 << 20]
        {
            std::fs::write(&path, &bytes[..size]).unwrap();
            assert_eq!(Digest::of_file(&path).unwrap(), Digest::of_bytes(&bytes[..size]), "{size} bytes");
        }
    }

    #[test]
    fn a_file_that_is_not_as_long_as_was_thought_is_hashed_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("x")).unwrap();
        let bytes = vec![7u8; 9 << 20];
        std::fs::write(&path, &bytes).unwrap();
        for expected in [8 << 20, 10 << 20, 0] {
            let file = File::open(&path).unwrap();
            let (digest, length) = Digest::of_open_file(&file, expected, &path).unwrap();
            assert_eq!((digest, length), (Digest::of_bytes(&bytes), 9 << 20), "{expected}");
        }
    }

    #[test]
    fn domains_separate() {
        assert_ne!(Digest::derive("a", b"x"), Digest::derive("b", b"x"));
        assert_ne!(Digest::derive("a", b"x"), Digest::of_bytes(b"x"));
    }

    proptest! {
        #[test]
        fn text_round_trips(bytes: [u8; 32]) {
            let digest = Digest::from_bytes(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
            let json = serde_json::to_string(&digest).unwrap();
            prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        }

        #[test]
        fn other_text_is_refused(text in "[0-9a-g]{0,70}") {
            let valid = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
            prop_assert_eq!(text.parse::<Digest>().is_ok(), valid);
        }
    }
}
