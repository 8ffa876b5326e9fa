//! Unpacking a parcel that somebody sent.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};

use camino::Utf8Path;
use tar::{Archive, EntryType};

use super::index::{NAME, Parcel};
use crate::digest::Digest;
use crate::error::{IoContext as _, Result, StoreError};
use crate::merge::refused;
use crate::object::ListedFile;

/// How zstd data begins.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The largest window that is unpacked, as a power of two: 128 MiB.
const WINDOW: u32 = 27;

impl Parcel {
    /// Unpacks a parcel into a folder, which must be there and empty, and checks it on the way: see the module's head.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for whatever is not as its list says, or would not fit on the disk.
    pub fn unpack(file: &Utf8Path, into: &Utf8Path) -> Result<Self> {
        let mut plain = File::open(file).at("read", file)?;
        if !plain.metadata().at("read", file)?.is_file() {
            return Err(refused(file.as_str(), "it is neither a folder nor a file"));
        }
        let mut magic = [0; 4];
        let packed = plain.read_exact(&mut magic).is_ok() && magic == ZSTD_MAGIC;
        io::Seek::rewind(&mut plain).at("read", file)?;
        let plain = BufReader::with_capacity(1 << 20, plain);
        if packed {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(plain).at("read", file)?;
            decoder.window_log_max(WINDOW).at("read", file)?;
            take_all(decoder, file, into)
        } else {
            take_all(plain, file, into)
        }
    }
}

fn take_all(from: impl Read, file: &Utf8Path, into: &Utf8Path) -> Result<Parcel> {
    let wrong = |why: String| refused(file.as_str(), why);
    let broken = |error: io::Error| wrong(format!("it cannot be unpacked: {error}"));
    let mut archive = Archive::new(from);
    // Raw: names that are too long for a header would be read into memory, however long they say they are.
    let mut entries = archive.entries().map_err(broken)?.raw(true);
    let first = entries.next().transpose().map_err(broken)?;
    let list = first.filter(|entry| entry.path_bytes().as_ref() == NAME.as_bytes());
    let list =
        list.ok_or_else(|| wrong(format!("it is not what `sepia export` makes: {NAME} is not its first file")))?;
    let parcel = Parcel::read(file.as_str(), list)?;
    check_room(&parcel, into).map_err(wrong)?;
    let mut missing: BTreeMap<&str, &ListedFile> = parcel.files.iter().map(|file| (file.path.as_str(), file)).collect();
    for entry in entries {
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let shown: String = name.escape_debug().take(80).collect();
        if entry.header().entry_type() != EntryType::Regular {
            return Err(wrong(format!("`{shown}` in it is not a plain file")));
        }
        let Some(listed) = missing.remove(name.as_str()) else {
            return Err(wrong(format!("its {NAME} does not name `{shown}`, or it is there twice")));
        };
        let size = entry.size();
        if size != listed.bytes {
            return Err(wrong(format!("{shown} has {size} bytes and should have {}", listed.bytes)));
        }
        // Every name was checked when the list was read.
        let path = into.join(&listed.path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).at("make", folder)?;
        }
        match copy(&mut entry, &path, listed.bytes) {
            Ok(digest) if digest == listed.digest => {}
            Ok(_) => return Err(wrong(format!("{shown} is damaged: its bytes do not match its digest"))),
            Err(Trouble::Source(error)) => return Err(broken(error)),
            Err(Trouble::Target(error)) => return Err(StoreError::io("write", &path, error)),
        }
    }
    let left = missing.into_keys().next().map(str::to_owned);
    match left {
        Some(path) => Err(wrong(format!("{path} is missing"))),
        None => Ok(parcel),
    }
}

/// Whether the disk has room for what a parcel says that it unpacks to.
fn check_room(parcel: &Parcel, into: &Utf8Path) -> Result<(), String> {
    let disk = rustix::fs::statvfs(into.as_std_path()).map_err(|error| error.to_string())?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let bytes = parcel.bytes();
    if bytes > free {
        return Err(format!("it unpacks to {bytes} bytes, and {into} has room for {free}"));
    }
    Ok(())
}

enum Trouble {
    Source(io::Error),
    Target(io::Error),
}

fn copy(from: &mut impl Read, to: &Utf8Path, bytes: u64) -> Result<Digest, Trouble> {
    let mut file = File::create_new(to).map_err(Trouble::Target)?;
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 1 << 18];
    let mut left = bytes;
    loop {
        let n = match from.read(&mut piece) {
            Ok(0) if left == 0 => return Ok(Digest::from_bytes(*hasher.finalize().as_bytes())),
            Ok(0) => return Err(Trouble::Source(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Trouble::Source(error)),
        };
        let more =
            || Trouble::Source(io::Error::new(io::ErrorKind::InvalidData, "more bytes came than there should be"));
        left = left.checked_sub(n as u64).ok_or_else(more)?;
        hasher.update(&piece[..n]);
        file.write_all(&piece[..n]).map_err(Trouble::Target)?;
    }
}
