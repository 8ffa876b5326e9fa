//! Two names for one file on a file system, in place of a second copy.
//!
//! Objects never change, here and on a remote, so a folder remote on the store's own file system need not hold their bytes
//! twice. Where the file system can, the new file is a file of its own that shares the blocks until one of them is written
//! to (`FICLONE`: btrfs, XFS, bcachefs). Elsewhere it is a hard link: one file with two names. What makes that safe:
//!
//! 1. *Nobody writes.* Only a file that nobody may write to gets a second name. Nothing of Sepia's writes to an object:
//!    repairing and replacing put another file in its place, and removing takes one of the names away.
//! 2. *Nobody else could.* Taken from a remote is only a file of our own: its owner could make it writable again. (Linux
//!    refuses links to files of others by itself, if it is not told otherwise, and then the bytes are copied.)
//! 3. *Modes stay.* A file of which the mode would have to change is copied, since the mode belongs to both names.
//!
//! The price: a link is no second copy on the disk. Where the remote is to be one, `sepia remote add --copy` says so.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use camino::Utf8Path;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::layout::unique_sibling;

/// How a file gets a second name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Links {
    /// A file of its own that shares the blocks of the first.
    Clone,
    /// A hard link.
    HardLink,
}

/// The mode of an object that a file with this mode becomes.
pub(crate) fn object_mode(mode: u32) -> u32 {
    (mode & 0o777 & !0o222) | 0o444
}

/// Gives the file `from` the name `to` as well; `None` if that does not succeed, with nothing left behind. The mode that it
/// has is returned.
pub(super) fn link(from: &Utf8Path, to: &Utf8Path, how: Links) -> Option<u32> {
    let made = match how {
        Links::Clone => clone(from, to),
        Links::HardLink => std::fs::hard_link(from, to),
    };
    if let Err(error) = made {
        tracing::debug!(%from, %to, %error, "is copied, since it cannot be linked");
        return None;
    }
    // What has the name now is looked at, not what had the other: it cannot be exchanged under our hands any more.
    let mode = std::fs::symlink_metadata(to).ok().and_then(|metadata| {
        let mode = metadata.mode() & 0o777;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        (metadata.is_file() && ours && mode == object_mode(mode)).then_some(mode)
    });
    if mode.is_none() {
        // A leftover has a name that counts as nothing.
        let _ = std::fs::remove_file(to);
    }
    mode
}

fn clone(from: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let source = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(from)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let cloned = rustix::fs::ioctl_ficlone(&file, &source).map_err(io::Error::from).and_then(|()| {
        let mode = object_mode(source.metadata()?.mode());
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
    });
    cloned.inspect_err(|_| drop(std::fs::remove_file(to)))
}

/// Which way works from the folder `ours` to the folder `theirs` and back. Both are there.
pub(super) fn try_out(ours: &Utf8Path, theirs: &Utf8Path) -> Option<Links> {
    let (here, there) = (unique_sibling(&ours.join("links")), unique_sibling(&theirs.join("links")));
    let back = unique_sibling(&ours.join("links"));
    let made = OpenOptions::new().write(true).create_new(true).mode(0o444).open(&here).and_then(|mut file| {
        std::io::Write::write_all(&mut file, b"one file, two names\n")?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o444))
    });
    let works = |how: &Links| {
        let found = link(&here, &there, *how).is_some() && link(&there, &back, *how).is_some();
        let same = found && std::fs::read(&back).is_ok_and(|bytes| bytes == b"one file, two names\n");
        for path in [&there, &back] {
            // Where nothing was linked, there is nothing to remove.
            let _ = std::fs::remove_file(path);
        }
        same
    };
    let found = made.ok().and_then(|()| [Links::Clone, Links::HardLink].into_iter().find(works));
    let _ = std::fs::remove_file(&here);
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::test_support::Fixture;

    #[test]
    fn only_what_nobody_writes_to_gets_a_second_name() {
        let f = Fixture::new();
        let (from, to) = (f.file("from", b"x"), f.root.join("to"));
        let set = |mode| std::fs::set_permissions(&from, PermissionsExt::from_mode(mode)).unwrap();
        for mode in [0o644, 0o664, 0o440, 0o400] {
            set(mode);
            assert_eq!(link(&from, &to, Links::HardLink), None, "{mode:o}");
            assert!(!to.exists());
        }
        for mode in [0o444, 0o555] {
            set(mode);
            assert_eq!(link(&from, &to, Links::HardLink), Some(mode));
            assert_eq!(std::fs::metadata(&to).unwrap().ino(), std::fs::metadata(&from).unwrap().ino());
            std::fs::remove_file(&to).unwrap();
        }
        // A name that is taken keeps what it has.
        std::fs::write(&to, b"mine").unwrap();
        std::fs::set_permissions(&to, PermissionsExt::from_mode(0o444)).unwrap();
        for how in [Links::HardLink, Links::Clone] {
            assert_eq!(link(&from, &to, how), None);
            assert_eq!(std::fs::read(&to).unwrap(), b"mine");
        }
        let link_to = f.root.join("symbolic");
        std::os::unix::fs::symlink(&from, &link_to).unwrap();
        for how in [Links::HardLink, Links::Clone] {
            assert_eq!(link(&link_to, &f.root.join("to3"), how), None);
        }
    }

    #[test]
    fn what_works_is_found_out_and_leaves_nothing() {
        let f = Fixture::new();
        let (ours, theirs) = (f.tree("ours", &[]), f.tree("theirs", &[]));
        assert!(try_out(&ours, &theirs).is_some(), "file systems of tests have links");
        for folder in [&ours, &theirs] {
            assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
        }
        assert_eq!(try_out(&ours, &f.root.join("none")), None);
        // Another file system.
        assert_eq!(try_out(&ours, Utf8Path::new("/proc")), None);
    }
}
