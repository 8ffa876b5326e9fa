//! Hashing a large file on all threads, and copying it on the way.
//!
//! blake3 is a tree: each thread reads a subtree's stretch of the file into a buffer of its own, small enough to stay in
//! the processor's cache, and hashes it there; the values are merged as the tree says. Reading one stretch after the other
//! and only hashing in parallel waits for the copy out of the page cache, which takes as long as the hash itself. Mapping
//! the file would be as fast, but a mapped file that someone shortens kills the process.
//!
//! What is copied is written from the same buffer, so its bytes go through memory once. Then the stretches of one window
//! are done before those of the next are begun: a copy that is torn off lacks nothing before its last window.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

/// What one thread reads and hashes at a time: a power of two, and so a whole subtree but at the end of the file.
const STRETCH: u64 = 512 << 10;
/// How much of a copy is written in any order: a power of two, enough stretches for many threads.
pub(super) const WINDOW: u64 = 8 << 20;

/// Told how many more bytes have been read.
type Count<'c> = &'c (dyn Fn(u64) + Sync);
/// Fills a buffer with the bytes from a position on.
pub(super) type Fill<'f> = &'f (dyn Fn(&mut [u8], u64) -> io::Result<()> + Sync);
/// Told of every place between two windows, in order, when all before it has been filled.
pub(super) type Begun<'b> = &'b (dyn Fn(u64) + Sync);

/// Files from this size on are hashed here.
pub(super) const LARGE: u64 = 8 << 20;

/// The digest of the first `length` bytes of a file, which must be at least [`LARGE`]; an error of the kind
/// `UnexpectedEof` where it is shorter. `count` is told of each stretch, from several threads.
pub(super) fn hash(file: &File, length: u64, count: Count<'_>) -> io::Result<blake3::Hash> {
    let fill = |buffer: &mut [u8], from| {
        file.read_exact_at(buffer, from)?;
        count(buffer.len() as u64);
        Ok(())
    };
    root(&Walk { fill: &fill, begun: None }, length)
}

/// The digest of `length` bytes, at least [`LARGE`], of which `fill` gives every stretch, one window after the other.
pub(super) fn hash_in_order(length: u64, fill: Fill<'_>, begun: Begun<'_>) -> io::Result<blake3::Hash> {
    root(&Walk { fill, begun: Some(begun) }, length)
}

struct Walk<'w> {
    fill: Fill<'w>,
    /// If there is one, windows are walked in order.
    begun: Option<Begun<'w>>,
}

fn root(walk: &Walk<'_>, length: u64) -> io::Result<blake3::Hash> {
    let (left, right) = halves(walk, 0, length)?;
    Ok(merge_subtrees_root(&left, &right, Mode::Hash))
}

/// The values of both children of the subtree over `length` bytes from `from`.
fn halves(walk: &Walk<'_>, from: u64, length: u64) -> io::Result<(ChainingValue, ChainingValue)> {
    let left = left_subtree_len(length);
    let (middle, right) = (from + left, length - left);
    if let Some(begun) = walk.begun.filter(|_| length > WINDOW) {
        let left = subtree(walk, from, left)?;
        // On another thread, if one is free.
        return Ok((left, rayon::join(|| begun(middle), || subtree(walk, middle, right)).1?));
    }
    let (left, right) = rayon::join(|| subtree(walk, from, left), || subtree(walk, middle, right));
    Ok((left?, right?))
}

/// The value of the subtree over `length` bytes from `from`.
fn subtree(walk: &Walk<'_>, from: u64, length: u64) -> io::Result<ChainingValue> {
    if length > STRETCH {
        let (left, right) = halves(walk, from, length)?;
        return Ok(merge_subtrees_non_root(&left, &right, Mode::Hash));
    }
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        // At most `STRETCH`.
        buffer.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        (walk.fill)(buffer, from)?;
        Ok(Hasher::new().set_input_offset(from).update(buffer).finalize_non_root())
    })
}
