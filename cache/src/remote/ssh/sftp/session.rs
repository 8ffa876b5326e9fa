//! A conversation with an sftp server: several questions on their way at once, over a [`Line`].

use std::collections::BTreeSet;
use std::io::{self, BufRead};
use std::time::Duration;

use super::packet::{self, ATTRS, Attributes, Came, DATA, HANDLE, Packet, STATUS, VERSION};
use crate::remote::ssh::line::{self, Line, Shared, Transport, printable};

/// What the server can do beside the standard.
#[derive(Debug, Clone, Default)]
pub(super) struct Extensions(BTreeSet<String>);

impl Extensions {
    pub(super) fn fsync(&self) -> bool {
        self.0.contains("fsync@openssh.com")
    }

    /// Renaming that takes the place of what is there.
    pub(super) fn posix_rename(&self) -> bool {
        self.0.contains("posix-rename@openssh.com")
    }
}

/// See the [module docs](self).
pub(super) struct Session {
    line: Line<Extensions, Came>,
    pub(super) extensions: Extensions,
}

/// A question that was asked.
pub(super) struct Asked<'s>(line::Asked<'s, Extensions, Came>);

/// A file or folder that is open there.
#[derive(Debug, Clone)]
pub(super) struct Handle(pub(super) Vec<u8>);

impl Session {
    /// Waits for the server to say who it is.
    pub(super) fn open(transport: Transport, timeout: Duration) -> io::Result<Self> {
        let line = Line::open(transport, timeout, |shared, from| take_answers(shared, &mut *from))?;
        let extensions = line.greet(packet::write_init)?;
        Ok(Self { line, extensions })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.line.has_ended()
    }

    pub(super) fn ask(&self, packet: Packet) -> io::Result<Asked<'_>> {
        self.line.ask(|to, id| packet.write(to, id)).map(Asked)
    }
}

fn take_answers(shared: &Shared<Extensions, Came>, from: &mut impl BufRead) -> io::Result<()> {
    let mut hello = match packet::read(from) {
        Ok(Some(hello)) => hello,
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => return Err(error),
        _ => return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "no sftp server answered")),
    };
    if hello.what != VERSION || hello.id < 3 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the sftp server there is too old: it does not speak version 3",
        ));
    }
    let mut extensions = BTreeSet::new();
    while !hello.is_over() {
        extensions.insert(hello.text()?);
        hello.bytes()?;
    }
    shared.greeted(Extensions(extensions));
    while let Some(came) = packet::read(from)? {
        shared.answered(came.id, came, false);
    }
    Ok(())
}

impl Asked<'_> {
    /// The answer, which is of this kind; `None` where there are no more bytes or names.
    pub(super) fn answer(&self, what: u8) -> io::Result<Option<Came>> {
        let mut came = self.0.next()?;
        if came.what == what && what != STATUS {
            return Ok(Some(came));
        }
        if came.what != STATUS {
            return Err(packet::bad("an answer came that fits no question"));
        }
        let code = came.number()?;
        let said = came.text().unwrap_or_default();
        match code {
            0 if what == STATUS => Ok(Some(came)),
            1 => Ok(None),
            _ => Err(status(code, &said)),
        }
    }

    fn expect(&self, what: u8) -> io::Result<Came> {
        self.answer(what)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    pub(super) fn done(&self) -> io::Result<()> {
        self.expect(STATUS).map(drop)
    }

    pub(super) fn handle(&self) -> io::Result<Handle> {
        Ok(Handle(self.expect(HANDLE)?.bytes()?.to_vec()))
    }

    pub(super) fn attributes(&self) -> io::Result<Attributes> {
        self.expect(ATTRS)?.attributes()
    }

    /// Bytes of a file; none at its end.
    pub(super) fn data(&self) -> io::Result<Vec<u8>> {
        match self.answer(DATA)? {
            Some(mut came) => Ok(came.bytes()?.to_vec()),
            None => Ok(Vec::new()),
        }
    }
}

fn status(code: u32, said: &str) -> io::Error {
    let said = printable(said);
    match code {
        2 => io::Error::new(io::ErrorKind::NotFound, said),
        3 => io::Error::new(io::ErrorKind::PermissionDenied, said),
        // Version 3 has one number for a full disk and for everything else.
        4 => io::Error::other(format!("the server says `{said}`; is the disk there full, or the quota used up?")),
        6 | 7 => io::Error::new(io::ErrorKind::ConnectionReset, said),
        8 => io::Error::new(io::ErrorKind::Unsupported, format!("the server there cannot do this: {said}")),
        _ => io::Error::other(format!("the server says `{said}` ({code})")),
    }
}
