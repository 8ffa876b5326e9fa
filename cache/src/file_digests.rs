//! Digests of files outside the store, remembered so that an unchanged file costs a `stat`.
//!
//! A digest is believed as long as size, modification time, change time (both in nanoseconds), inode and device are what
//! they were when the file was hashed. A file that changes twice within one tick of the file system's clock keeps its
//! times, so a digest is remembered only if the file had been left alone for two seconds when it was hashed ("racily
//! clean" files, as git calls them, are hashed again). The change time cannot be set by programs: `touch -r` and
//! `cp -p` do not deceive.
//!
//! The file `cache/file-digests` is one line a file after a first line with the digest of the rest. It is replaced as a
//! whole; two processes that save at once may each lose what the other has learned, which costs a hash and nothing else.
//! A damaged file counts as an empty one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use camino::{Utf8Path, Utf8PathBuf};

use crate::digest::Digest;
use crate::error::{IoContext as _, Result};
use crate::layout::write_atomically;
use crate::store::Store;

const HEAD: &str = "sepia-file-digests 1 ";

/// How long a file must have been left alone before its digest is remembered, in nanoseconds.
const QUIET: i64 = 2_000_000_000;

/// How many files are remembered; beyond, those that this process did not ask for are forgotten.
const MANY: usize = 200_000;

/// The remembered digests. Share one between threads; call [`FileDigests::save`] at the end.
#[derive(Debug)]
pub struct FileDigests {
    path: Utf8PathBuf,
    known: Mutex<Known>,
    may_save: bool,
}

#[derive(Debug, Default)]
struct Known {
    // By text: comparing paths part by part takes several times as long.
    entries: BTreeMap<String, Entry>,
    changed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    stamp: Stamp,
    digest: Digest,
    used: bool,
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: i64,
    changed: i64,
    inode: u64,
    device: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            size: metadata.len(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }

    /// Whether the file had been left alone at `now`. A change time in the future (another host's clock) is no sign of it.
    fn is_quiet(&self, now: i64) -> bool {
        self.changed + QUIET <= now && (self.modified + QUIET <= now || self.modified > now + QUIET)
    }
}

impl Store {
    /// The digests of input files that this store remembers.
    #[must_use]
    pub fn file_digests(&self) -> FileDigests {
        let path = self.cache_dir().join("file-digests");
        let may_save = self.writable("write", &path).is_ok();
        let known = Known { entries: read(&path), changed: false };
        FileDigests { path, known: Mutex::new(known), may_save }
    }
}

impl FileDigests {
    /// The plain blake3 of a file's bytes; a symbolic link is followed.
    ///
    /// # Errors
    /// Those of reading, naming the file.
    pub fn digest(&self, path: &Utf8Path) -> Result<Digest> {
        self.digest_at(path, nanoseconds_now)
    }

    fn digest_at(&self, path: &Utf8Path, now: impl Fn() -> i64) -> Result<Digest> {
        let path = if path.is_absolute() {
            Cow::Borrowed(path)
        } else {
            Cow::Owned(camino::absolute_utf8(path).at("find", path)?)
        };
        let path: &Utf8Path = &path;
        let stamp = Stamp::of(&std::fs::metadata(path).at("read", path)?);
        if let Some(entry) = self.known().entries.get_mut(path.as_str())
            && entry.stamp == stamp
        {
            entry.used = true;
            return Ok(entry.digest);
        }
        // Hashed without the lock: other threads go on. Only if the file is the same before and after was it at rest.
        let before = now();
        let file = File::open(path).at("read", path)?;
        let stamp = Stamp::of(&file.metadata().at("read", path)?);
        let (digest, _) = Digest::of_open_file(&file, stamp.size, path)?;
        let still = Stamp::of(&file.metadata().at("read", path)?) == stamp;
        let mut known = self.known();
        // A line break in a name would break the line; such files are rare enough to be hashed each time.
        if still && stamp.is_quiet(before) && !path.as_str().contains('\n') {
            known.entries.insert(path.as_str().to_owned(), Entry { stamp, digest, used: true });
            known.changed = true;
        } else if known.entries.remove(path.as_str()).is_some() {
            known.changed = true;
        }
        Ok(digest)
    }

    /// Writes down what was learned, if anything was.
    ///
    /// # Errors
    /// Those of writing. A store that was opened for reading learns nothing, which is no error.
    pub fn save(&self) -> Result<()> {
        let mut known = self.known();
        if !known.changed || !self.may_save {
            return Ok(());
        }
        // What other processes have learned meanwhile stays, unless we know better.
        for (path, entry) in read(&self.path) {
            known.entries.entry(path).or_insert(entry);
        }
        if known.entries.len() > MANY {
            known.entries.retain(|_, entry| entry.used);
        }
        write_atomically(&self.path, write(&known.entries).as_bytes())?;
        known.changed = false;
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanoseconds_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(0)
}

fn write(entries: &BTreeMap<String, Entry>) -> String {
    let mut lines = String::with_capacity(entries.len() * 192);
    for (path, Entry { stamp, digest, .. }) in entries {
        let Stamp { size, modified, changed, inode, device } = stamp;
        // Writing into a String does not fail.
        let _ = writeln!(lines, "{digest} {size} {modified} {changed} {inode} {device} {path}");
    }
    format!("{HEAD}{}\n{lines}", Digest::of_bytes(lines.as_bytes()))
}

/// The entries of the file; none, if it is missing or damaged.
fn read(path: &Utf8Path) -> BTreeMap<String, Entry> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.split_once('\n').filter(|(head, lines)| {
        head.strip_prefix(HEAD).is_some_and(|digest| digest.parse().ok() == Some(Digest::of_bytes(lines.as_bytes())))
    });
    whole.map(|(_, lines)| lines.lines().filter_map(parse).collect()).unwrap_or_default()
}

fn parse(line: &str) -> Option<(String, Entry)> {
    let mut words = line.splitn(7, ' ');
    let digest = words.next()?.parse().ok()?;
    let size = words.next()?.parse().ok()?;
    let modified = words.next()?.parse().ok()?;
    let changed = words.next()?.parse().ok()?;
    let inode = words.next()?.parse().ok()?;
    let device = words.next()?.parse().ok()?;
    let path = words.next()?.to_owned();
    Some((path, Entry { stamp: Stamp { size, modified, changed, inode, device }, digest, used: false }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenMode;

    struct Fixture {
        _folder: tempfile::TempDir,
        store: Store,
        file: Utf8PathBuf,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        let store = Store::open(&root.join(".sepia"), OpenMode::Create).unwrap();
        let file = root.join("in put.txt");
        std::fs::write(&file, b"one").unwrap();
        Fixture { _folder: folder, store, file }
    }

    /// A clock that says so many seconds after the file's last change.
    fn seconds_after(file: &Utf8Path, seconds: i64) -> impl Fn() -> i64 {
        let stamp = Stamp::of(&std::fs::metadata(file).unwrap());
        move || stamp.changed + seconds * 1_000_000_000
    }

    fn remembered(digests: &FileDigests) -> usize {
        digests.known().entries.len()
    }

    #[test]
    fn a_quiet_file_is_remembered_and_a_fresh_one_is_not() {
        let f = fixture();
        let digests = f.store.file_digests();
        assert_eq!(digests.digest_at(&f.file, seconds_after(&f.file, 1)).unwrap(), Digest::of_bytes(b"one"));
        assert_eq!(remembered(&digests), 0);
        digests.digest_at(&f.file, seconds_after(&f.file, 3)).unwrap();
        assert_eq!(remembered(&digests), 1);
        digests.save().unwrap();
        assert_eq!(remembered(&f.store.file_digests()), 1);
    }

    #[test]
    fn a_remembered_digest_is_used_and_a_change_is_noticed() {
        let f = fixture();
        let digests = f.store.file_digests();
        digests.digest_at(&f.file, seconds_after(&f.file, 3)).unwrap();
        // A digest that no hashing can give proves that it came from memory.
        let marked = Digest::of_bytes(b"marked");
        digests.known().entries.values_mut().for_each(|entry| entry.digest = marked);
        assert_eq!(digests.digest(&f.file).unwrap(), marked);
        // Same size, and the modification time put back: the change time gives it away.
        let before = std::fs::metadata(&f.file).unwrap().modified().unwrap();
        std::fs::write(&f.file, b"two").unwrap();
        File::options().append(true).open(&f.file).unwrap().set_modified(before).unwrap();
        assert_eq!(digests.digest(&f.file).unwrap(), Digest::of_bytes(b"two"));
    }

    #[test]
    fn a_change_time_in_the_future_is_not_trusted() {
        let f = fixture();
        let digests = f.store.file_digests();
        digests.digest_at(&f.file, seconds_after(&f.file, -5)).unwrap();
        assert_eq!(remembered(&digests), 0);
    }

    #[test]
    fn damage_to_the_file_is_forgetting() {
        let f = fixture();
        let digests = f.store.file_digests();
        digests.digest_at(&f.file, seconds_after(&f.file, 3)).unwrap();
        digests.save().unwrap();
        let path = f.store.cache_dir().join("file-digests");
        let good = std::fs::read(&path).unwrap();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(remembered(&f.store.file_digests()), 0, "byte {i}");
            std::fs::write(&path, &good[..i]).unwrap();
            assert_eq!(remembered(&f.store.file_digests()), 0, "cut at {i}");
        }
        std::fs::write(&path, &good).unwrap();
        assert_eq!(remembered(&f.store.file_digests()), 1);
    }

    #[test]
    fn what_others_saved_meanwhile_stays() {
        let f = fixture();
        let other = f.file.with_file_name("other");
        std::fs::write(&other, b"x").unwrap();
        let (a, b) = (f.store.file_digests(), f.store.file_digests());
        a.digest_at(&f.file, seconds_after(&f.file, 3)).unwrap();
        b.digest_at(&other, seconds_after(&other, 3)).unwrap();
        a.save().unwrap();
        b.save().unwrap();
        assert_eq!(remembered(&f.store.file_digests()), 2);
    }

    #[test]
    fn a_missing_file_is_named() {
        let f = fixture();
        let error = f.store.file_digests().digest(Utf8Path::new("/no/such/file")).unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}
