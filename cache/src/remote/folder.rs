//! A folder that several people can reach: a network file system, an external disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Mutex, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::OFlags;

use super::partial::Partial;
use super::{Check, Fill, Links, Listed, Remote, check_remote_name, links};
use crate::layout::unique_sibling;
use crate::object::Pending;

/// How much is copied at once.
pub(super) const PIECE: usize = 1 << 20;

/// See the [module docs](self).
#[derive(Debug)]
pub(crate) struct FolderRemote {
    root: Utf8PathBuf,
    /// What was put there and is not durable yet.
    pending: Mutex<Pending>,
}

impl FolderRemote {
    pub(crate) fn new(root: impl Into<Utf8PathBuf>) -> Self {
        Self { root: root.into(), pending: Mutex::default() }
    }

    fn path(&self, name: &str) -> io::Result<Utf8PathBuf> {
        check_remote_name(name)?;
        Ok(self.root.join(name))
    }

    /// Opens a plain file. A symbolic link is not followed, and a pipe does not make us wait.
    pub(super) fn open(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = self.path(name)?;
        let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&path);
        let file = opened.map_err(|error| match rustix::io::Errno::from_io_error(&error) {
            Some(rustix::io::Errno::LOOP) => not_plain(&path),
            _ => error,
        })?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(not_plain(&path)) }
    }

    /// Remembers to make a name durable. The few other than objects are durable when the next objects are.
    pub(super) fn placed(&self, name: &str) -> io::Result<()> {
        let path = self.path(name)?;
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).file(&path);
        Ok(())
    }

    /// The end of an upload.
    fn end(&self, name: &str, partial: Partial, written: io::Result<()>) -> io::Result<()> {
        match written {
            Ok(()) => {
                partial.publish()?;
                self.placed(name)
            }
            Err(error) => {
                partial.leave(&error);
                Err(error)
            }
        }
    }

    /// Begins an upload, or goes on with one.
    pub(super) fn upload(&self, name: &str) -> io::Result<Partial> {
        Partial::open(&self.path(name)?, is_named_by_content(name))
    }
}

/// Whether all who write a name write the same bytes.
fn is_named_by_content(name: &str) -> bool {
    name.starts_with("objects/") || name.starts_with("trees/")
}

fn not_plain(path: &Utf8Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not a plain file"))
}

impl Remote for FolderRemote {
    fn address(&self) -> &str {
        self.root.as_str()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        let mut found = Vec::new();
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            let entries = match std::fs::read_dir(self.path(&folder)?) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            for entry in entries {
                let entry = entry?;
                let Some(name) = entry.file_name().to_str().map(|name| format!("{folder}/{name}")) else { continue };
                // Hidden files are uploads that are not complete; others of strange names are not ours.
                if check_remote_name(&name).is_err() {
                    continue;
                }
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    open.push(name);
                } else if kind.is_file() {
                    match entry.metadata() {
                        Ok(metadata) => found.push(Listed { name, bytes: metadata.len() }),
                        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                        Err(e) => return Err(e),
                    }
                }
            }
        }
        Ok(found)
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        match std::fs::symlink_metadata(self.path(name)?) {
            Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn read(&self, name: &str, from: u64, to: &mut dyn Write) -> io::Result<()> {
        let mut file = self.open(name)?;
        file.seek(SeekFrom::Start(from))?;
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(n) => to.write_all(&piece[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn put(&self, name: &str, from: &mut dyn Read) -> io::Result<()> {
        let mut partial = self.upload(name)?;
        let taken = partial.take(from);
        self.end(name, partial, taken)
    }

    fn open_file(&self, name: &str) -> io::Result<Option<File>> {
        self.open(name).map(Some)
    }

    fn put_file(&self, name: &str, fill: Fill<'_>) -> io::Result<bool> {
        let partial = Partial::open_any_order(&self.path(name)?)?;
        let filled = fill(partial.file());
        self.end(name, partial, filled).map(|()| true)
    }

    fn create(&self, name: &str, mut bytes: &[u8]) -> io::Result<bool> {
        let mut partial = Partial::open(&self.path(name)?, false)?;
        match partial.take(&mut bytes) {
            Ok(()) => partial.publish_new(),
            Err(error) => {
                partial.discard();
                Err(error)
            }
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path(name)?;
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).forget(&path);
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn settle(&self) -> io::Result<()> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.flush(&[&self.root]).map_err(|(path, error)| io::Error::new(error.kind(), format!("{path}: {error}")))
    }

    fn links(&self, ours: &Utf8Path) -> Option<Links> {
        links::try_out(ours, &self.root)
    }

    fn link_in(&self, from: &Utf8Path, name: &str, how: Links, check: Check<'_>) -> io::Result<bool> {
        let target = self.path(name)?;
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let hidden = unique_sibling(&target);
        if links::link(from, &hidden, how).is_none() {
            return Ok(false);
        }
        let placed = check(&hidden).and_then(|()| std::fs::rename(&hidden, &target));
        // Between two names of one file, a move does nothing.
        let _ = std::fs::remove_file(&hidden);
        placed?;
        self.placed(name)?;
        Ok(true)
    }

    fn link_out(&self, name: &str, to: &Utf8Path, how: Links) -> Option<u32> {
        links::link(&self.path(name).ok()?, to, how)
    }

    /// Reading and writing a file is faster than compressing it.
    fn compresses(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Fixture;

    #[test]
    fn names_and_bytes() {
        let f = Fixture::new();
        let remote = FolderRemote::new(f.root.join("remote"));
        assert!(remote.list("objects").unwrap().is_empty());
        assert_eq!(remote.size("objects/ab/cd").unwrap(), None);
        let missing = remote.read("objects/ab/cd", 0, &mut Vec::new()).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        remote.put("objects/ab/cd", &mut &b"hello"[..]).unwrap();
        let mut tail = Vec::new();
        remote.read("objects/ab/cd", 3, &mut tail).unwrap();
        assert_eq!(tail, b"lo");
        assert_eq!(remote.list("objects").unwrap(), [Listed { name: "objects/ab/cd".into(), bytes: 5 }]);
        assert!(remote.create("x", b"1").unwrap() && !remote.create("x", b"2").unwrap());
        remote.put("probe/y", &mut &b"1"[..]).unwrap();
        for name in ["x", "x", "probe/y"] {
            remote.remove(name).unwrap();
        }
        // What is gone need not be made durable.
        remote.settle().unwrap();
    }

    /// Gives some of its bytes, then fails.
    struct Failing<'b>(&'b [u8], io::ErrorKind);

    impl Read for Failing<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::Error::new(self.1, "torn"));
            }
            self.0.read(buffer)
        }
    }

    #[test]
    fn an_upload_that_fails_is_not_seen_and_gone_on_with() {
        let f = Fixture::new();
        let remote = FolderRemote::new(f.root.join("remote"));
        let hidden = f.root.join("remote/objects/ab/.cd.partial");
        assert!(remote.put("objects/ab/cd", &mut Failing(b"hel", io::ErrorKind::Other)).is_err());
        assert!(remote.list("objects").unwrap().is_empty() && remote.size("objects/ab/cd").unwrap().is_none());
        assert_eq!(std::fs::read(&hidden).unwrap(), b"hel");
        remote.put("objects/ab/cd", &mut &b"hello"[..]).unwrap();
        assert_eq!(remote.size("objects/ab/cd").unwrap(), Some(5));
        assert!(!hidden.exists());
        // What is damaged here leaves nothing there, and neither does what may differ from one upload to the next.
        assert!(remote.put("objects/ab/ce", &mut Failing(b"hel", io::ErrorKind::InvalidData)).is_err());
        assert!(remote.put("records/x", &mut Failing(b"hel", io::ErrorKind::Other)).is_err());
        assert_eq!(std::fs::read_dir(f.root.join("remote/objects/ab")).unwrap().count(), 1);
        assert_eq!(std::fs::read_dir(f.root.join("remote/records")).unwrap().count(), 0);
    }

    #[test]
    fn links_and_pipes_are_not_followed() {
        let f = Fixture::new();
        let root = f.tree("remote", &[("objects/", b"")]);
        let remote = FolderRemote::new(root.clone());
        std::os::unix::fs::symlink("/etc/hostname", root.join("objects/link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("objects/pipe").as_std_path(),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        for name in ["objects/link", "objects/pipe"] {
            let error = remote.read(name, 0, &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("not a plain file"), "{error}");
            assert_eq!(remote.size(name).unwrap(), None);
        }
        assert!(remote.list("objects").unwrap().is_empty());
    }
}
