//! A parcel as one file.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use camino::Utf8Path;
use tar::{Builder, EntryType, Header};

use super::index::{NAME, Parcel};
use crate::error::{IoContext as _, Result, StoreError};
use crate::layout::unique_sibling;

/// The ending of a parcel that is packed.
const ZST: &str = ".zst";
const LEVEL: i32 = 3;

impl Parcel {
    /// Writes the parcel that is in a folder as one file: a tar, packed with zstd if its name ends with `.zst`. The same
    /// parcel gives the same bytes. It appears as a whole.
    ///
    /// # Errors
    /// A path that is too long for a tar, and those of reading and writing.
    pub fn pack(&self, folder: &Utf8Path, to: &Utf8Path) -> Result<()> {
        let part = unique_sibling(to);
        let written = self.write(folder, &part, to.as_str().ends_with(ZST));
        let placed = written.and_then(|()| std::fs::rename(&part, to).at("write", to));
        if placed.is_err() {
            // What is left is of no use.
            let _ = std::fs::remove_file(&part);
        }
        placed
    }

    fn write(&self, folder: &Utf8Path, part: &Utf8Path, packed: bool) -> Result<()> {
        let file = File::create_new(part).at("write", part)?;
        let plain = BufWriter::with_capacity(1 << 20, file);
        let plain = if packed {
            let encoder = zstd::stream::write::Encoder::new(plain, LEVEL).at("write", part)?;
            self.append_all(encoder, folder, part)?.finish().at("write", part)?
        } else {
            self.append_all(plain, folder, part)?
        };
        let file = plain.into_inner().map_err(|error| StoreError::io("write", part, error.into_error()))?;
        file.sync_all().at("write", part)
    }

    fn append_all<W: Write>(&self, to: W, folder: &Utf8Path, part: &Utf8Path) -> Result<W> {
        let mut tar = Builder::new(to);
        let list = self.text();
        // First, so that a reader knows what is to come.
        append(&mut tar, NAME, list.len() as u64, list.as_slice()).at("write", part)?;
        for file in &self.files {
            let path = folder.join(&file.path);
            let bytes = File::open(&path).at("read", &path)?;
            append(&mut tar, &file.path, file.bytes, bytes).at("write", &path)?;
        }
        tar.into_inner().at("write", part)
    }
}

/// Nothing of this machine goes along: no owner, no time.
fn append<W: Write>(tar: &mut Builder<W>, name: &str, bytes: u64, from: impl io::Read) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_path(name)?;
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    let mut counted = Counted { from, left: bytes };
    tar.append(&header, &mut counted)?;
    if counted.left > 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} has become shorter")));
    }
    Ok(())
}

/// Gives as many bytes as the header says, or fails.
struct Counted<R> {
    from: R,
    left: u64,
}

impl<R: io::Read> io::Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        let longer = || io::Error::new(io::ErrorKind::InvalidData, "it has become longer");
        self.left = self.left.checked_sub(n as u64).ok_or_else(longer)?;
        Ok(n)
    }
}
