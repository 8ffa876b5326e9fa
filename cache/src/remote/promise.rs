//! What the name of a thing on a remote promises of its bytes, checked while they come.
//!
//! A server does not believe those who push, as those who pull do not believe the server: what is damaged on its way, or
//! was made up, is refused before it is visible.

use std::io::{self, Write};

use super::check_remote_name;
use crate::digest::Digest;
use crate::object::Listing;

/// No listing is longer: that of a million files has 150 MB.
const LONGEST_LISTING: usize = 512 << 20;
/// What is compressed may ask its reader for so much memory (128 MiB).
pub(crate) const WINDOW_LOG: u32 = 27;

/// Sees the bytes of one name and says at the end whether they are what the name promises.
pub(super) enum Promise {
    Plain(Sum),
    Packed(Box<zstd::stream::write::Decoder<'static, Sum>>),
}

impl Promise {
    /// The promise of a name. `read` gives small things that are there already: listings.
    pub(super) fn of(name: &str, read: impl Fn(&str) -> io::Result<Vec<u8>>) -> io::Result<Self> {
        check_remote_name(name)?;
        let (inner, packed) = match name.strip_suffix(".zst") {
            Some(inner) => (inner, true),
            None => (name, false),
        };
        let parts: Vec<&str> = inner.split('/').collect();
        let sum = match parts.as_slice() {
            ["objects", fan, rest] => digest(fan, rest).map(|digest| Sum::files(vec![(None, digest)])),
            ["trees", fan, rest] => match (rest.strip_suffix(".json"), rest.strip_suffix(".pack")) {
                (Some(rest), _) => {
                    digest(fan, rest).filter(|_| !packed).map(|digest| Sum::Listing { bytes: Vec::new(), digest })
                }
                (_, Some(rest)) => match digest(fan, rest) {
                    Some(digest) => Some(Sum::files(files(fan, rest, &digest, read)?)),
                    None => None,
                },
                _ => None,
            },
            ["records", bundle] => bundle
                .strip_suffix(".jsonl")
                .and_then(|name| name.split_once('-'))
                .and_then(|(digest, bytes)| Some(Sum::files(vec![(Some(bytes.parse().ok()?), digest.parse().ok()?)]))),
            ["sepia-remote.json"] | ["probe", ..] if !packed => Some(Sum::Anything),
            _ => None,
        };
        let sum = sum.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` is not a name that a remote has a place for"))
        })?;
        if !packed {
            return Ok(Self::Plain(sum));
        }
        let mut decoder = zstd::stream::write::Decoder::new(sum)?;
        decoder.window_log_max(WINDOW_LOG)?;
        Ok(Self::Packed(Box::new(decoder)))
    }

    /// Whether all that came is what was promised.
    pub(super) fn keep(self) -> io::Result<()> {
        match self {
            Self::Plain(sum) => sum.keep(),
            Self::Packed(mut decoder) => {
                decoder.flush().map_err(wrong)?;
                decoder.into_inner().keep()
            }
        }
    }
}

impl Write for Promise {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(sum) => sum.write(bytes),
            Self::Packed(decoder) => decoder.write(bytes).map_err(wrong),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wrong(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("what came is not what its name says: {why}"))
}

/// The digest of which the first two digits are a folder.
fn digest(fan: &str, rest: &str) -> Option<Digest> {
    if fan.len() == 2 { format!("{fan}{rest}").parse().ok() } else { None }
}

/// Sizes and digests of the files of a tree, of which the listing must be there.
fn files(
    fan: &str,
    rest: &str,
    digest: &Digest,
    read: impl Fn(&str) -> io::Result<Vec<u8>>,
) -> io::Result<Vec<(Option<u64>, Digest)>> {
    let bytes = read(&format!("trees/{fan}/{rest}.json")).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => wrong("the listing of a folder comes before its files, and is not there"),
        _ => error,
    })?;
    let listing = Listing::parse(&bytes, digest).ok_or_else(|| wrong("the listing that is there is damaged"))?;
    Ok(listing.files.iter().map(|file| (Some(file.bytes), file.digest)).collect())
}

/// What bytes have to add up to.
pub(super) enum Sum {
    /// Files one after the other.
    Files {
        files: Vec<(Option<u64>, Digest)>,
        at: usize,
        came: u64,
        hasher: Box<blake3::Hasher>,
    },
    Listing {
        bytes: Vec<u8>,
        digest: Digest,
    },
    Anything,
}

impl Sum {
    fn files(files: Vec<(Option<u64>, Digest)>) -> Self {
        Self::Files { files, at: 0, came: 0, hasher: Box::default() }
    }

    fn keep(mut self) -> io::Result<()> {
        match &mut self {
            Self::Anything => Ok(()),
            Self::Listing { bytes, digest } => match Listing::parse(bytes, digest) {
                Some(_) => Ok(()),
                None => Err(wrong("it is no such listing")),
            },
            Self::Files { files, at, came, hasher } => {
                end_empty(files, at, came, hasher)?;
                match files.get(*at) {
                    None => Ok(()),
                    // A file of unknown size ends with the bytes.
                    Some((None, digest)) if Digest::from_bytes(*hasher.finalize().as_bytes()) == *digest => Ok(()),
                    Some((None, _)) => Err(wrong("its digest is another")),
                    Some((Some(_), _)) => Err(wrong("it is shorter")),
                }
            }
        }
    }
}

/// Goes on to the next file while there is nothing left to come of the present one.
fn end_empty(
    files: &[(Option<u64>, Digest)],
    at: &mut usize,
    came: &mut u64,
    hasher: &mut blake3::Hasher,
) -> io::Result<()> {
    while let Some((Some(bytes), digest)) = files.get(*at)
        && came == bytes
    {
        if Digest::from_bytes(*hasher.finalize().as_bytes()) != *digest {
            return Err(wrong("its digest is another"));
        }
        *hasher = blake3::Hasher::new();
        *came = 0;
        *at += 1;
    }
    Ok(())
}

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Anything => Ok(bytes.len()),
            Self::Listing { bytes: all, .. } if all.len() + bytes.len() > LONGEST_LISTING => Err(wrong("it is longer")),
            Self::Listing { bytes: all, .. } => all.write(bytes),
            Self::Files { files, at, came, hasher } => {
                if bytes.is_empty() {
                    return Ok(0);
                }
                end_empty(files, at, came, hasher)?;
                let Some((size, _)) = files.get(*at) else { return Err(wrong("it is longer")) };
                let most = size.map_or(u64::MAX, |size| size - *came);
                let n = usize::try_from(most).map_or(bytes.len(), |most| most.min(bytes.len()));
                hasher.update(&bytes[..n]);
                *came += n as u64;
                Ok(n)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ListedFile;

    fn check(name: &str, bytes: &[u8], there: &[(String, Vec<u8>)]) -> Result<(), String> {
        let read = |name: &str| {
            let found = there.iter().find(|(there, _)| there == name).map(|(_, bytes)| bytes.clone());
            found.ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        let mut promise = Promise::of(name, read).map_err(|error| error.to_string())?;
        // In pieces that fit nothing.
        bytes
            .chunks(7)
            .try_for_each(|piece| promise.write_all(piece))
            .and_then(|()| promise.keep())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_kind_of_thing_keeps_its_promise_or_is_refused() {
        let body = b"some bytes of an object".repeat(50);
        let digest = Digest::of_bytes(&body);
        let zst = zstd::bulk::compress(&body, 3).unwrap();
        let place = crate::layout::Layout::in_objects(&digest);
        let file = |path: &str, bytes: &[u8]| ListedFile {
            path: path.into(),
            bytes: bytes.len() as u64,
            digest: Digest::of_bytes(bytes),
        };
        let listing = Listing {
            files: vec![file("a", b""), file("b", &body), file("c", b"x"), file("d", b"")],
            empty_folders: Vec::new(),
        };
        let tree = crate::layout::Layout::in_objects(&listing.digest());
        let pack = [body.as_slice(), b"x"].concat();
        let listing_name = format!("trees/{tree}.json");
        let there = [(listing_name.clone(), listing.canonical())];
        let cases = [
            (format!("objects/{place}"), body.clone()),
            (format!("objects/{place}.zst"), zst.clone()),
            (listing_name, listing.canonical()),
            (format!("trees/{tree}.pack"), pack.clone()),
            (format!("trees/{tree}.pack.zst"), zstd::bulk::compress(&pack, 3).unwrap()),
            (format!("records/{digest}-{}.jsonl.zst", body.len()), zst.clone()),
        ];
        for (name, good) in &cases {
            assert_eq!(check(name, good, &there), Ok(()), "{name}");
            for (what, bad) in [
                ("shorter", good[..good.len() - 1].to_vec()),
                ("longer", [good, &b"more"[..]].concat()),
                ("other", good.iter().enumerate().map(|(i, byte)| byte ^ u8::from(i == good.len() / 2)).collect()),
                ("nothing", Vec::new()),
            ] {
                let refused = check(name, &bad, &there).unwrap_err();
                assert!(refused.contains("not what its name says"), "{name}, {what}: {refused}");
            }
        }
        assert_eq!(check("probe/ab/small", b"x", &[]), Ok(()));
        assert!(check(&format!("trees/{tree}.pack"), &pack, &[]).unwrap_err().contains("comes before its files"));
        for name in ["../x", "objects/abc/d", "objects/ab", "secrets/x", "trees/ab/x.json.zst", "records/x.jsonl.zst"] {
            let refused = check(name, b"x", &[]).unwrap_err();
            assert!(refused.contains("no name on a remote") || refused.contains("has a place for"), "{refused}");
        }
    }
}
