//! Packets of SFTP, version 3 (draft-ietf-secsh-filexfer-02): what OpenSSH and nearly every other server speak.
//!
//! ```text
//! 4 bytes  length of all that follows, big-endian
//! 1 byte   what it is
//! 4 bytes  the number of the question (not in the first packet of each side)
//! ...      numbers, and texts with their length before them
//! ```

use std::io::{self, Read, Write};

/// No packet is longer, whatever its length says; servers send up to 256 KiB.
const LONGEST: usize = 1 << 20;

pub(super) const INIT: u8 = 1;
pub(super) const VERSION: u8 = 2;
pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const WRITE: u8 = 6;
pub(super) const LSTAT: u8 = 7;
pub(super) const FSTAT: u8 = 8;
pub(super) const FSETSTAT: u8 = 10;
pub(super) const OPENDIR: u8 = 11;
pub(super) const READDIR: u8 = 12;
pub(super) const REMOVE: u8 = 13;
pub(super) const MKDIR: u8 = 14;
pub(super) const RENAME: u8 = 18;
pub(super) const STATUS: u8 = 101;
pub(super) const HANDLE: u8 = 102;
pub(super) const DATA: u8 = 103;
pub(super) const NAME: u8 = 104;
pub(super) const ATTRS: u8 = 105;
pub(super) const EXTENDED: u8 = 200;

/// A packet that is being written.
pub(super) struct Packet(Vec<u8>);

impl Packet {
    /// A question.
    pub(super) fn new(what: u8) -> Self {
        // The length and, where there is one, the number are filled in when it is sent.
        Self(vec![0, 0, 0, 0, what, 0, 0, 0, 0])
    }

    pub(super) fn number(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn long(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// Writes it, as the question with this number.
    pub(super) fn write(mut self, to: &mut dyn Write, id: u32) -> io::Result<()> {
        let length = u32::try_from(self.0.len() - 4).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0[5..9].copy_from_slice(&id.to_be_bytes());
        to.write_all(&self.0)
    }
}

/// Writes the first packet, which has the version where others have a number.
pub(super) fn write_init(to: &mut dyn Write) -> io::Result<()> {
    Packet::new(INIT).write(to, 3)
}

/// A packet that came.
#[derive(Debug, Clone)]
pub(super) struct Came {
    pub(super) what: u8,
    /// The number of the question, or the version.
    pub(super) id: u32,
    rest: Vec<u8>,
    at: usize,
}

/// Reads the next packet; `None` where the other side ended in good order.
pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Came>> {
    let mut start = [0; 9];
    let mut there = 0;
    while there < start.len() {
        match from.read(&mut start[there..]) {
            Ok(0) if there == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => there += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let [l0, l1, l2, l3, what, i0, i1, i2, i3] = start;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if !(5..=LONGEST).contains(&length) {
        let text: String = String::from_utf8_lossy(&start).chars().filter(|c| !c.is_control()).collect();
        return Err(bad(&format!(
            "what came is not sftp (it begins with `{text}`); does a start-up file of the shell there print something?"
        )));
    }
    let mut rest = vec![0; length - 5];
    from.read_exact(&mut rest)?;
    Ok(Some(Came { what, id: u32::from_be_bytes([i0, i1, i2, i3]), rest, at: 0 }))
}

/// What a server says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Attributes {
    pub(super) bytes: Option<u64>,
    /// Its kind and permissions, as in `stat`.
    pub(super) mode: Option<u32>,
}

impl Attributes {
    const KIND: u32 = 0o170_000;

    /// A plain file. A server that does not say so is believed to have one.
    pub(super) fn is_file(&self) -> bool {
        self.mode.is_none_or(|mode| mode & Self::KIND == 0o100_000)
    }

    pub(super) fn is_folder(&self) -> bool {
        self.mode.is_some_and(|mode| mode & Self::KIND == 0o040_000)
    }
}

impl Came {
    pub(super) fn number(&mut self) -> io::Result<u32> {
        let mut number = [0; 4];
        number.copy_from_slice(self.take(4)?);
        Ok(u32::from_be_bytes(number))
    }

    pub(super) fn long(&mut self) -> io::Result<u64> {
        let mut number = [0; 8];
        number.copy_from_slice(self.take(8)?);
        Ok(u64::from_be_bytes(number))
    }

    pub(super) fn bytes(&mut self) -> io::Result<&[u8]> {
        let length = self.number()? as usize;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> io::Result<String> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    pub(super) fn is_over(&self) -> bool {
        self.at == self.rest.len()
    }

    pub(super) fn attributes(&mut self) -> io::Result<Attributes> {
        let flags = self.number()?;
        let mut attributes = Attributes::default();
        if flags & 1 != 0 {
            attributes.bytes = Some(self.long()?);
        }
        if flags & 2 != 0 {
            self.take(8)?;
        }
        if flags & 4 != 0 {
            attributes.mode = Some(self.number()?);
        }
        if flags & 8 != 0 {
            self.take(8)?;
        }
        if flags & 0x8000_0000 != 0 {
            for _ in 0..self.number()? {
                self.bytes()?;
                self.bytes()?;
            }
        }
        Ok(attributes)
    }

    fn take(&mut self, n: usize) -> io::Result<&[u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.rest.len());
        let taken = end.map(|end| &self.rest[self.at..end]).ok_or_else(|| bad("a packet ends before it should"))?;
        self.at += n;
        Ok(taken)
    }
}

pub(super) fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_name_looks_like() {
        let mut wire = Vec::new();
        let packet = Packet::new(NAME).number(1).bytes(b"a").bytes(b"-rw ... a");
        packet.number(0xd).long(7).number(0o100_644).number(1).number(2).write(&mut wire, 9).unwrap();
        let mut came = read(&mut wire.as_slice()).unwrap().unwrap();
        assert_eq!((came.what, came.id, came.number().unwrap()), (NAME, 9, 1));
        assert_eq!((came.text().unwrap().as_str(), came.text().unwrap().as_str()), ("a", "-rw ... a"));
        let attributes = came.attributes().unwrap();
        assert_eq!(attributes, Attributes { bytes: Some(7), mode: Some(0o100_644) });
        assert!(attributes.is_file() && !attributes.is_folder() && came.is_over() && came.number().is_err());
        let mut init = Vec::new();
        write_init(&mut init).unwrap();
        assert_eq!(init, [0, 0, 0, 5, 1, 0, 0, 0, 3]);
    }

    #[test]
    fn what_a_shell_prints_is_no_packet() {
        let error = read(&mut &b"Welcome to host!\n"[..]).unwrap_err().to_string();
        assert!(error.contains("it begins with `Welcome t`") && error.contains("start-up file"), "{error}");
    }

    proptest! {
        /// Whatever comes, nothing panics and little is allocated.
        #[test]
        fn rubbish_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(Some(mut came)) = read(&mut bytes.as_slice()) {
                let _ = came.clone().attributes();
                let _ = came.clone().text();
                let _ = came.long();
            }
        }
    }
}
