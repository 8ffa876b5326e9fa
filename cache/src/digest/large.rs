//! Hashing a large file on all threads.
//!
//! blake3 is a tree: each thread reads a subtree's stretch of the file into a buffer of its own, small enough to stay in
//! the processor's cache, and hashes it there; the values are merged as the tree says. Reading one stretch after the other
//! and only hashing in parallel waits for the copy out of the page cache, which takes as long as the hash itself. Mapping
//! the file would be as fast, but a mapped file that someone shortens kills the process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

/// What one thread reads and hashes at a time: a power of two, and so a whole subtree but at the end of the file.
const STRETCH: u64 = 512 << 10;

/// Told how many more bytes have been read.
type Count<'c> = &'c (dyn Fn(u64) + Sync);

/// Files from this size on are hashed here.
pub(super) const LARGE: u64 = 8 << 20;

/// The digest of the first `length` bytes of a file, which must be at least [`LARGE`]; an error of the kind
/// `UnexpectedEof` where it is shorter. `count` is told of each stretch, from several threads.
pub(super) fn hash(file: &File, length: u64, count: Count<'_>) -> io::Result<blake3::Hash> {
    let left = left_subtree_len(length);
    let (left, right) = rayon::join(|| subtree(file, 0, left, count), || subtree(file, left, length - left, count));
    Ok(merge_subtrees_root(&left?, &right?, Mode::Hash))
}

/// The value of the subtree over `length` bytes from `from`.
fn subtree(file: &File, from: u64, length: u64, count: Count<'_>) -> io::Result<ChainingValue> {
    if length > STRETCH {
        let left = left_subtree_len(length);
        let (left, right) =
            rayon::join(|| subtree(file, from, left, count), || subtree(file, from + left, length - left, count));
        return Ok(merge_subtrees_non_root(&left?, &right?, Mode::Hash));
    }
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        // At most `STRETCH`.
        buffer.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        file.read_exact_at(buffer, from)?;
        count(length);
        Ok(Hasher::new().set_input_offset(from).update(buffer).finalize_non_root())
    })
}
