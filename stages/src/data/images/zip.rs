//! Reading zip archives, as far as NumPy writes them: entries stored or deflated, below 4 GiB, without encryption.

use std::io::Read as _;

const END: &[u8] = b"PK\x05\x06";
const ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";

/// An archive's directory.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    entries: Vec<Entry>,
}

struct Entry {
    name: String,
    method: usize,
    crc: u32,
    packed: usize,
    unpacked: usize,
    start: usize,
}

impl<'a> Archive<'a> {
    /// Reads the directory at the archive's end. Sizes come from it and not from the entries, which may not know them.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let broken = || "it is not a whole zip archive".to_owned();
        let end = bytes.windows(END.len()).rposition(|window| window == END).ok_or_else(broken)?;
        let count = number(bytes, end + 10, 2).ok_or_else(broken)?;
        let mut at = number(bytes, end + 16, 4).ok_or_else(broken)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let header = bytes.get(at..at + 46).filter(|header| header.starts_with(ENTRY)).ok_or_else(broken)?;
            let field = |from, length| number(header, from, length).ok_or_else(broken);
            let (name, extra, comment) = (field(28, 2)?, field(30, 2)?, field(32, 2)?);
            let text = bytes.get(at + 46..at + 46 + name).ok_or_else(broken)?;
            let entry = Entry {
                name: String::from_utf8_lossy(text).into_owned(),
                method: field(10, 2)?,
                crc: u32::try_from(field(16, 4)?).map_err(|_| broken())?,
                packed: field(20, 4)?,
                unpacked: field(24, 4)?,
                start: field(42, 4)?,
            };
            if [entry.packed, entry.unpacked, entry.start].contains(&(u32::MAX as usize)) {
                return Err(format!("its entry `{}` is larger than 4 GiB", entry.name));
            }
            entries.push(entry);
            at += 46 + name + extra + comment;
        }
        Ok(Self { bytes, entries })
    }

    /// The entries' names, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.entries.iter().map(|entry| entry.name.clone()).collect();
        names.sort();
        names
    }

    /// The content of an entry, compared with its checksum.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        let entry = self.entries.iter().find(|entry| entry.name == name).ok_or("there is no such entry")?;
        let data = self.packed(entry).ok_or("the archive ends within it")?;
        let content = match entry.method {
            0 => data.to_vec(),
            8 => {
                let mut content = Vec::with_capacity(entry.unpacked);
                flate2::read::DeflateDecoder::new(data).read_to_end(&mut content).map_err(|error| error.to_string())?;
                content
            }
            method => return Err(format!("it is packed by method {method}; 0 and 8 can be read")),
        };
        let mut crc = flate2::Crc::new();
        crc.update(&content);
        if content.len() != entry.unpacked || crc.sum() != entry.crc {
            return Err("its content does not have its checksum".to_owned());
        }
        Ok(content)
    }

    fn packed(&self, entry: &Entry) -> Option<&'a [u8]> {
        let header = self.bytes.get(entry.start..entry.start + 30)?;
        if !header.starts_with(LOCAL) {
            return None;
        }
        let start = entry.start + 30 + number(header, 26, 2)? + number(header, 28, 2)?;
        self.bytes.get(start..start + entry.packed)
    }
}

/// A little-endian number.
fn number(bytes: &[u8], from: usize, length: usize) -> Option<usize> {
    let bytes = bytes.get(from..from + length)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
}
