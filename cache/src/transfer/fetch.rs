//! One object from a remote. See the head of [`super`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write};

use camino::{Utf8Path, Utf8PathBuf};

use super::copy;
use super::parts::{Part, Writer};
use super::work::{Count, again};
use super::{ZST, listing_name, object_name};
use crate::error::{IoContext as _, Result, StoreError};
use crate::merge::refused;
use crate::object::{FileStat, HashedOutput, Listing, ObjectKind, ObjectRef, remove};
use crate::remote::{OpenRemote, WINDOW_LOG};
use crate::store::Store;

/// No listing is longer: that of a million files has 150 MB.
const LONGEST_LISTING: u64 = 512 << 20;

/// How an object lies on a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    compressed: bool,
    bytes: u64,
}

impl Store {
    /// Fetches an object that is not here. `Ok(false)`: the remote does not have it.
    pub(super) fn fetch(&self, from: &OpenRemote, object: &ObjectRef, count: Count<'_>) -> Result<bool> {
        let Some(found) = look(from, object)? else { return Ok(false) };
        let folder = self.cache_dir().join("incoming").join(object.digest.to_string());
        std::fs::create_dir_all(&folder).at("make", &folder)?;
        // Who fetches the same at once takes turns; the second finds it done.
        let lock_path = folder.with_extension("lock");
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).open(&lock_path).at("lock", &lock_path)?;
        lock.lock().map_err(|source| StoreError::NoLocks { path: lock_path.clone(), source })?;
        if !self.present(object) {
            std::fs::create_dir_all(&folder).at("make", &folder)?;
            self.fetch_into(&folder, from, object, found, count)?;
        }
        remove(&folder)?;
        remove(&lock_path)?;
        Ok(true)
    }

    /// Fetches an object whether or not something is in its place; what was there and is damaged is set aside.
    pub(crate) fn fetch_in_place(&self, from: &OpenRemote, object: &ObjectRef) -> Result<bool> {
        if look(from, object)?.is_none() {
            return Ok(false);
        }
        if self.object_path(object).as_std_path().symlink_metadata().is_ok() {
            self.set_aside(object)?;
        }
        self.fetch(from, object, &|_| ())
    }

    fn fetch_into(
        &self,
        folder: &Utf8Path,
        from: &OpenRemote,
        object: &ObjectRef,
        found: Found,
        count: Count<'_>,
    ) -> Result<()> {
        let data = folder.join("data");
        let (listing, parts) = match object.kind {
            ObjectKind::File => (None, vec![Part { path: data.clone(), bytes: object.bytes, digest: object.digest }]),
            ObjectKind::Tree => {
                let listing = fetch_listing(from, object)?;
                let files = listing.files.iter();
                let parts =
                    files.map(|file| Part { path: data.join(&file.path), bytes: file.bytes, digest: file.digest });
                let parts = parts.collect();
                (Some(listing), parts)
            }
        };
        if object.kind == ObjectKind::File
            && !found.compressed
            && let Some(how) = from.links()
        {
            let linked = folder.join("linked");
            remove(&linked)?;
            if let Some(mode) = from.remote.link_out(&object_name(object), &linked, how) {
                let checked = parts.iter().try_for_each(|part| part.check(&linked, count));
                self.good(folder, from, object, checked)?;
                let stats = vec![FileStat { shared: false, mode }];
                self.insert(&linked, &HashedOutput { object: *object, listing: None, stats })?;
                return Ok(());
            }
        }
        self.check_room(object)?;
        if let Some(listing) = &listing {
            std::fs::create_dir_all(&data).at("make", &data)?;
            for empty in &listing.empty_folders {
                let path = data.join(empty);
                std::fs::create_dir_all(&path).at("make", &path)?;
            }
        }
        let fetched = if found.compressed {
            unpack(folder, from, object, found, &parts, count)
        } else {
            fetch_plain(from, object, &parts, count)
        };
        self.good(folder, from, object, fetched)?;
        // Every byte was hashed on its way.
        let stats = parts.iter().map(|_| FileStat { shared: false, mode: 0o644 }).collect();
        self.insert(&data, &HashedOutput { object: *object, listing, stats })?;
        Ok(())
    }

    /// The end of a transfer into a folder. Where what came is wrong, nothing of it is good for anything.
    fn good(&self, folder: &Utf8Path, from: &OpenRemote, object: &ObjectRef, came: io::Result<()>) -> Result<()> {
        let Err(error) = came else { return Ok(()) };
        if error.kind() == io::ErrorKind::InvalidData {
            remove(folder)?;
            let name = format!("{} on the remote {}", object_name(object), from.remote.address());
            return Err(refused(&name, error.to_string()));
        }
        from.at(|| format!("give {}", object_name(object)), Err(error))
    }

    fn check_room(&self, object: &ObjectRef) -> Result<()> {
        let root = self.root();
        let disk = rustix::fs::statvfs(root.as_std_path()).at("read", root)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if object.bytes < free {
            return Ok(());
        }
        Err(StoreError::OutOfSpace { action: "fetch an output into", path: self.object_path(object) })
    }
}

/// How an object lies on the remote, if it does.
fn look(from: &OpenRemote, object: &ObjectRef) -> Result<Option<Found>> {
    let name = object_name(object);
    let packed = format!("{name}{ZST}");
    // First as this remote would have it.
    let mut order = [(packed, true), (name, false)];
    if !from.remote.compresses() {
        order.reverse();
    }
    for (name, compressed) in order {
        let size = from.at(|| format!("look for {name}"), again(|| from.remote.size(&name)))?;
        if let Some(bytes) = size {
            if !compressed && bytes != object.bytes {
                let name = format!("{name} on the remote {}", from.remote.address());
                return Err(refused(&name, format!("it has {bytes} bytes instead of {}", object.bytes)));
            }
            return Ok(Some(Found { compressed, bytes }));
        }
    }
    Ok(None)
}

fn fetch_listing(from: &OpenRemote, object: &ObjectRef) -> Result<Listing> {
    let name = listing_name(&object.digest);
    let wrong = |why: String| refused(&format!("{name} on the remote {}", from.remote.address()), why);
    let size = from.at(|| format!("look for {name}"), again(|| from.remote.size(&name)))?;
    match size {
        None => return Err(wrong("it is missing, but the files it lists are there".to_owned())),
        Some(bytes) if bytes > LONGEST_LISTING => return Err(wrong(format!("a listing of {bytes} bytes"))),
        Some(_) => {}
    }
    let read = again(|| {
        let mut bytes = Limited { bytes: Vec::new(), limit: LONGEST_LISTING };
        from.remote.read(&name, 0, &mut bytes)?;
        Ok(bytes.bytes)
    });
    let bytes = from.at(|| format!("give {name}"), read)?;
    let listing = Listing::parse(&bytes, &object.digest).ok_or_else(|| {
        wrong("it is not the listing that its name says, or a path in it leads out of the folder".to_owned())
    })?;
    if listing.bytes() != object.bytes || listing.files.len() as u64 != object.files {
        return Err(wrong("its sizes are not those of the record".to_owned()));
    }
    Ok(listing)
}

/// Fetches what is not compressed: straight into place, on from where it is.
fn fetch_plain(from: &OpenRemote, object: &ObjectRef, parts: &[Part], count: Count<'_>) -> io::Result<()> {
    again(|| {
        if let Some(file) = from.remote.open_file(&object_name(object))? {
            return copy::from_one(&file, parts, count);
        }
        let (mut writer, there) = Writer::resume(parts, count)?;
        if there < object.bytes {
            let start = if from.config.probe.ranged_reads { there } else { 0 };
            from.remote.read(&object_name(object), start, &mut Skip { left: there - start, to: &mut writer })?;
        }
        writer.finish()
    })
}

/// Fetches what is compressed, on from where it is, and unpacks it.
fn unpack(
    folder: &Utf8Path,
    from: &OpenRemote,
    object: &ObjectRef,
    found: Found,
    parts: &[Part],
    count: Count<'_>,
) -> io::Result<()> {
    let wire: Utf8PathBuf = folder.join("wire");
    again(|| {
        let mut file = OpenOptions::new().append(true).create(true).open(&wire)?;
        let mut there = file.metadata()?.len();
        if there > found.bytes {
            file.set_len(0)?;
            there = 0;
        }
        if there < found.bytes {
            let start = if from.config.probe.ranged_reads { there } else { 0 };
            let mut limited = LimitedFile { file: &mut file, left: found.bytes - there };
            let name = format!("{}{ZST}", object_name(object));
            from.remote.read(&name, start, &mut Skip { left: there - start, to: &mut limited })?;
            if limited.left > 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "fewer bytes came than there should be"));
            }
        }
        Ok(())
    })?;
    let (mut writer, there) = Writer::resume(parts, count)?;
    let mut decoder = zstd::stream::read::Decoder::new(File::open(&wire)?).map_err(not_packed)?;
    decoder.window_log_max(WINDOW_LOG).map_err(not_packed)?;
    let mut skip = there;
    let mut piece = vec![0; 1 << 20];
    loop {
        let n = decoder.read(&mut piece).map_err(not_packed)?;
        if n == 0 {
            return writer.finish().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
        }
        let skipped = usize::try_from(skip).map_or(n, |skip| skip.min(n));
        skip -= skipped as u64;
        // More than there should be is an error of the writer's: nothing unpacks to more than its record says.
        writer.write_all(&piece[skipped..n])?;
    }
}

fn not_packed(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it cannot be unpacked: {error}"))
}

/// Leaves out the first bytes.
struct Skip<'w> {
    left: u64,
    to: &'w mut dyn Write,
}

impl Write for Skip<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left > 0 {
            let n = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.left -= n as u64;
            return Ok(n);
        }
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A file that takes no more than it should.
struct LimitedFile<'f> {
    file: &'f mut File,
    left: u64,
}

impl Write for LimitedFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len() as u64;
        let more = || io::Error::new(io::ErrorKind::InvalidData, "more bytes came than there should be");
        self.left = self.left.checked_sub(n).ok_or_else(more)?;
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Bytes in memory, no more than some.
pub(super) struct Limited {
    pub(super) bytes: Vec<u8>,
    pub(super) limit: u64,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() as u64 + bytes.len() as u64 > self.limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more bytes came than there should be"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
