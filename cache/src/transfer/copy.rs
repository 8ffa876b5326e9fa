//! Objects between files of this machine, or of a file system that looks like it: many stretches at once.
//!
//! Every byte is hashed while it is on its way ([`Digest::of_filled`]) and goes to the disk soon after, while the next ones
//! are read: at the end little is left to wait for. What an interrupted copy left is hashed and not fetched again, but for
//! its end, which may have been written out of order ([`UNSURE`]); should it turn out to be something else, it is written
//! anew.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;

use rayon::prelude::*;

use super::parts::{Part, damaged};
use super::work::Count;
use crate::digest::Digest;

/// So many bytes at the end of what was begun may have holes: a window, or small files of one group.
const UNSURE: u64 = Digest::WINDOW + Digest::LARGE;

/// Writes parts to one file, one after the other in it. Some of it may be there.
pub(super) fn into_one(parts: &[Part], to: &File, count: Count<'_>) -> io::Result<()> {
    let total = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.bytes));
    let there = cut(to, total)?;
    let believed = there.saturating_sub(UNSURE);
    let placed = placed(parts);
    let mut rest = placed.as_slice();
    while let Some((begin, _)) = rest.first() {
        let group = rest.split_at(group(rest)).0;
        group.par_iter().try_for_each(|(at, part)| {
            let way = Way { from: File::open(&part.path)?, start: 0, to, at: *at };
            way.copy(part, believed.saturating_sub(*at), count)
        })?;
        rest = &rest[group.len()..];
        // Of a large part, the windows before its last one are on their way.
        let end = rest.first().map_or(total, |(at, _)| *at);
        let last = end.saturating_sub(Digest::WINDOW).max(*begin);
        write_out(to, last, end - last);
    }
    Ok(())
}

/// How many parts are written in any order: a large one alone, or small ones that are a window together.
fn group(parts: &[(u64, &Part)]) -> usize {
    let mut bytes = 0;
    let small = parts.iter().take_while(|(_, part)| {
        let more = part.bytes < Digest::LARGE && bytes < Digest::WINDOW;
        bytes += part.bytes;
        more
    });
    small.count().max(1)
}

/// Writes each part of one file to its own. Some of them may be there.
pub(super) fn from_one(from: &File, parts: &[Part], count: Count<'_>) -> io::Result<()> {
    placed(parts).par_iter().try_for_each(|(start, part)| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let to = match options.open(&part.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                part.path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                options.open(&part.path)?
            }
            other => other?,
        };
        let there = cut(&to, part.bytes)?;
        let believed = there.saturating_sub(UNSURE);
        // A small file that is there is whole, or is written anew.
        let believed = if there == part.bytes && there < Digest::LARGE { there } else { believed };
        Way { from: from.try_clone()?, start: *start, to: &to, at: 0 }.copy(part, believed, count)
    })
}

/// Each part, with where it begins if they lie one after the other.
fn placed(parts: &[Part]) -> Vec<(u64, &Part)> {
    let begin = |at: &mut u64, part: &Part| {
        let begin = *at;
        *at = at.saturating_add(part.bytes);
        Some(begin)
    };
    parts.iter().scan(0, begin).zip(parts).collect()
}

/// Cuts off what is too much, and says how much is there.
fn cut(file: &File, most: u64) -> io::Result<u64> {
    let there = file.metadata()?.len();
    if there > most {
        file.set_len(most)?;
    }
    Ok(there.min(most))
}

/// From where to where one part goes.
struct Way<'t> {
    from: File,
    start: u64,
    to: &'t File,
    at: u64,
}

impl Way<'_> {
    fn copy(&self, part: &Part, believed: u64, count: Count<'_>) -> io::Result<()> {
        let believed = if believed < part.bytes { believed / Digest::WINDOW * Digest::WINDOW } else { part.bytes };
        if self.digest(part, believed, count)? == part.digest {
            return Ok(());
        }
        if believed > 0 && self.digest(part, 0, &|_| ())? == part.digest {
            return Ok(());
        }
        Err(damaged(&part.path))
    }

    /// Writes all but the first `believed` bytes, which are there, and says what it has come to.
    fn digest(&self, part: &Part, believed: u64, count: Count<'_>) -> io::Result<Digest> {
        let fill = |buffer: &mut [u8], position: u64| {
            if position < believed {
                self.to.read_exact_at(buffer, self.at + position)?;
            } else {
                self.from.read_exact_at(buffer, self.start + position).map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => damaged(&part.path),
                    _ => error,
                })?;
                self.to.write_all_at(buffer, self.at + position)?;
            }
            count(buffer.len() as u64);
            Ok(())
        };
        let begun = |position: u64| {
            if position > believed {
                write_out(self.to, self.at + position - Digest::WINDOW, Digest::WINDOW);
            }
        };
        Digest::of_filled(part.bytes, &fill, &begun)
    }
}

/// Lets the kernel begin to write some bytes to the disk, and does not wait for it. Only for what was written a moment ago: as
/// a side effect, pages that are on the disk already leave the cache.
fn write_out(file: &File, from: u64, bytes: u64) {
    if let Some(bytes) = std::num::NonZeroU64::new(bytes).filter(|bytes| bytes.get() >= Digest::LARGE) {
        // A hint: where it is not taken, all is written when it is synced.
        let _ = rustix::fs::fadvise(file, from, Some(bytes), rustix::fs::Advice::DontNeed);
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8PathBuf;

    use super::*;
    use crate::test_support::Fixture;

    fn bytes(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&length.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn part(path: Utf8PathBuf, body: &[u8]) -> Part {
        Part { path, bytes: body.len() as u64, digest: Digest::of_bytes(body) }
    }

    fn open(path: &camino::Utf8Path) -> File {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
    }

    const WINDOW: usize = 8 << 20;

    #[test]
    fn parts_of_every_size_go_into_one_file_and_out_of_it() {
        let f = Fixture::new();
        let sizes = [0, 1, 300_000, 7 << 20, 7 << 20, 5 << 20, (8 << 20) + 5, WINDOW, 2 * WINDOW + 3, 0, 70_000];
        let bodies: Vec<Vec<u8>> = sizes.iter().map(|size| bytes(*size)).collect();
        let parts = |folder: &str| -> Vec<Part> {
            let paths = (0..).map(|i| f.root.join(format!("{folder}/{}/{i}", i % 3)));
            paths.zip(&bodies).map(|(path, body)| part(path, body)).collect()
        };
        let ours = parts("ours");
        for (part, body) in ours.iter().zip(&bodies) {
            std::fs::create_dir_all(part.path.parent().unwrap()).unwrap();
            std::fs::write(&part.path, body).unwrap();
        }
        let pack = f.root.join("pack");
        let counted = std::sync::atomic::AtomicU64::new(0);
        let count = |n| {
            counted.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
        };
        into_one(&ours, &open(&pack), &count).unwrap();
        let whole = bodies.concat();
        assert!(std::fs::read(&pack).unwrap() == whole);
        assert_eq!(counted.into_inner(), whole.len() as u64);
        // Over what was torn off, is longer, or is something else.
        for left in [0, 1, WINDOW, 3 * WINDOW + 1, whole.len() - 1, whole.len()] {
            let mut torn = whole[..left].to_vec();
            let sure = left.saturating_sub(2 * WINDOW);
            torn[sure..].fill(0);
            std::fs::write(&pack, &torn).unwrap();
            into_one(&ours, &open(&pack), &|_| ()).unwrap();
            assert!(std::fs::read(&pack).unwrap() == whole, "{left} bytes were there");
        }
        for other in [vec![0; whole.len()], vec![7; whole.len() + 100]] {
            std::fs::write(&pack, other).unwrap();
            into_one(&ours, &open(&pack), &|_| ()).unwrap();
            assert!(std::fs::read(&pack).unwrap() == whole);
        }
        let theirs = parts("theirs");
        for round in 0..3 {
            from_one(&open(&pack), &theirs, &|_| ()).unwrap();
            for (part, body) in theirs.iter().zip(&bodies) {
                assert!(std::fs::read(&part.path).unwrap() == *body, "round {round}, {}", part.path);
                // What the next round finds is another beginning, or none.
                let left = if round == 0 { vec![1; body.len() / 2] } else { body[..body.len() / 3].to_vec() };
                std::fs::write(&part.path, left).unwrap();
            }
        }
    }

    #[test]
    fn what_is_there_is_not_read_again() {
        let f = Fixture::new();
        let body = bytes(4 * WINDOW);
        let part = part(f.root.join("there"), &body);
        std::fs::write(&part.path, &body[..3 * WINDOW + 9]).unwrap();
        // The window before last and what follows may have holes; the first is taken from what is there.
        let mut source = body.clone();
        source[..WINDOW].fill(0);
        std::fs::write(f.root.join("source"), &source).unwrap();
        from_one(&open(&f.root.join("source")), std::slice::from_ref(&part), &|_| ()).unwrap();
        assert!(std::fs::read(&part.path).unwrap() == body);
    }

    #[test]
    fn damage_on_the_way_is_noticed() {
        let f = Fixture::new();
        for size in [100, 2 * WINDOW + 1] {
            let body = bytes(size);
            let part = part(f.root.join("part"), &body);
            for bad in [body[..size - 1].to_vec(), [&body[1..], &[0][..]].concat()] {
                std::fs::write(&part.path, &bad).unwrap();
                let parts = std::slice::from_ref(&part);
                let error = into_one(parts, &open(&f.root.join("to")), &|_| ()).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
                std::fs::rename(&part.path, f.root.join("from")).unwrap();
                let error = from_one(&open(&f.root.join("from")), parts, &|_| ()).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            }
        }
    }
}
