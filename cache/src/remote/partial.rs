//! Uploads into a folder: written beside their place, moved there when they are whole.
//!
//! What has a name made of its content is written to `.<name>.partial`, so that the next upload goes on where this one
//! was torn off. A lock on that file keeps two from writing it at once; the second one writes a file of its own, which
//! nobody goes on with. A name that begins with `.` counts as nothing.
//!
//! What is written in any order is `.<name>.holes` until then: its length does not say how much of it is there.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::OFlags;

use crate::layout::unique_sibling;

/// A file that will have a place.
#[derive(Debug)]
pub(super) struct Partial {
    target: Utf8PathBuf,
    path: Utf8PathBuf,
    file: File,
    there: u64,
    continued: bool,
    /// Its name is made of its content.
    is_content: bool,
}

impl Partial {
    /// Begins an upload, or goes on with one if its name is made of its content.
    pub(super) fn open(target: &Utf8Path, is_content: bool) -> io::Result<Self> {
        Self::open_as(target, is_content, "partial")
    }

    /// Begins an upload of which the name is made of its content and that is written in any order, or goes on with one.
    pub(super) fn open_any_order(target: &Utf8Path) -> io::Result<Self> {
        Self::open_as(target, true, "holes")
    }

    fn open_as(target: &Utf8Path, is_content: bool, ending: &str) -> io::Result<Self> {
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder)?;
        }
        if is_content && let Some(found) = Self::take_up(target, ending)? {
            return Ok(found);
        }
        let path = unique_sibling(target);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok(Self { target: target.to_owned(), path, file, there: 0, continued: false, is_content })
    }

    /// The upload of this name that was begun, or a new one that can be gone on with; `None` if another is at it.
    fn take_up(target: &Utf8Path, ending: &str) -> io::Result<Option<Self>> {
        let path = target.with_file_name(format!(".{}.{ending}", target.file_name().unwrap_or("x")));
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).custom_flags(flags.bits().cast_signed());
        let Ok(file) = options.open(&path) else { return Ok(None) };
        let Ok(metadata) = file.metadata() else { return Ok(None) };
        // Where files cannot be locked, no upload is gone on with.
        if !metadata.is_file() || file.try_lock().is_err() {
            return Ok(None);
        }
        // Another may have moved it to its place before we had the lock.
        let still = std::fs::symlink_metadata(&path).is_ok_and(|now| now.ino() == metadata.ino());
        if !still {
            return Ok(None);
        }
        let there = file.metadata()?.len();
        Ok(Some(Self { target: target.to_owned(), path, file, there, continued: true, is_content: true }))
    }

    /// The file itself.
    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// How many bytes are there from an earlier upload.
    pub(super) fn there(&self) -> u64 {
        self.there
    }

    /// Shows the bytes that are there to `see`, in pieces.
    pub(super) fn read_there(&mut self, see: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut piece = vec![0; 1 << 20];
        let mut left = self.there;
        while left > 0 {
            let most = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
            self.file.read_exact(&mut piece[..most])?;
            see(&piece[..most])?;
            left -= most as u64;
        }
        Ok(())
    }

    /// Forgets what is there from a byte on.
    pub(super) fn cut(&mut self, at: u64) -> io::Result<()> {
        self.file.set_len(at)?;
        self.file.seek(SeekFrom::Start(at))?;
        self.there = at;
        Ok(())
    }

    /// Takes all that `from` gives. What is there already is compared, and written anew from the first difference on.
    pub(super) fn take(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut piece = vec![0; super::folder::PIECE];
        let mut old = Vec::new();
        let mut at = 0;
        self.file.seek(SeekFrom::Start(0))?;
        loop {
            let n = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if at < self.there {
                old.resize(n, 0);
                let same = at + n as u64 <= self.there && {
                    self.file.read_exact(&mut old)?;
                    old == piece[..n]
                };
                if !same {
                    self.cut(at)?;
                    self.file.write_all(&piece[..n])?;
                }
            } else {
                self.file.write_all(&piece[..n])?;
            }
            at += n as u64;
        }
        if at < self.there {
            self.cut(at)?;
        }
        Ok(())
    }

    /// Moves what was written to its place. What has a name made of its content is read-only from then on, where there is
    /// such a thing.
    pub(super) fn publish(self) -> io::Result<()> {
        if self.is_content {
            let mode = self.file.metadata()?.mode() & 0o777 & !0o222;
            let _ = self.file.set_permissions(Permissions::from_mode(mode));
        }
        std::fs::rename(&self.path, &self.target).inspect_err(|_| drop(std::fs::remove_file(&self.path)))
    }

    /// Moves what was written to its place if there is nothing; says whether it did.
    pub(super) fn publish_new(self) -> io::Result<bool> {
        // A hard link never takes the place of anything, on network file systems too.
        let linked = std::fs::hard_link(&self.path, &self.target);
        let _ = std::fs::remove_file(&self.path);
        match linked {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Leaves it, after an error: what can be gone on with stays, unless it is wrong or there is no room for it.
    pub(super) fn leave(self, why: &io::Error) {
        use io::ErrorKind::{FileTooLarge, InvalidData, QuotaExceeded, StorageFull};
        let useless = matches!(why.kind(), FileTooLarge | InvalidData | QuotaExceeded | StorageFull);
        if useless || !self.continued {
            self.discard();
        }
    }

    /// Removes it.
    pub(super) fn discard(self) {
        // A leftover has a name that counts as nothing.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Fixture;

    #[test]
    fn an_upload_goes_on_and_two_do_not_meet() {
        let f = Fixture::new();
        let target = f.root.join("r/x");
        let torn = io::Error::other("torn");
        let mut first = Partial::open(&target, true).unwrap();
        first.write_all(b"hello").unwrap();
        // While one is at it, the other has a file of its own.
        let mut second = Partial::open(&target, true).unwrap();
        assert_eq!(second.there(), 0);
        second.write_all(b"hello world").unwrap();
        second.leave(&torn);
        first.leave(&torn);
        let mut again = Partial::open(&target, true).unwrap();
        assert_eq!(again.there(), 5);
        let mut seen = Vec::new();
        again
            .read_there(&mut |bytes| {
                seen.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, b"hello");
        again.take(&mut &b"help me"[..]).unwrap();
        again.publish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"help me");
        assert_eq!(std::fs::read_dir(f.root.join("r")).unwrap().count(), 1);
        // What is longer than it should be is cut.
        let mut long = Partial::open(&target, true).unwrap();
        long.write_all(b"abcdef").unwrap();
        long.leave(&torn);
        let mut shorter = Partial::open(&target, true).unwrap();
        shorter.take(&mut &b"abc"[..]).unwrap();
        shorter.publish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"abc");
    }

    #[test]
    fn what_is_wrong_or_finds_no_room_is_not_kept() {
        let f = Fixture::new();
        let target = f.root.join("r/x");
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::InvalidData] {
            let mut partial = Partial::open(&target, true).unwrap();
            partial.write_all(b"hello").unwrap();
            partial.leave(&io::Error::new(kind, "no"));
            assert_eq!(std::fs::read_dir(f.root.join("r")).unwrap().count(), 0);
        }
    }
}
