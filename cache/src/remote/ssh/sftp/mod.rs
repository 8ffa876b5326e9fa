//! A folder on a host that has no Sepia: over the sftp that comes with nearly every sshd, `ssh -s HOST sftp`.
//!
//! The folder is as it is with Sepia there, so the two ways can be mixed. What is different:
//!
//! - Nobody hashes there. What is pushed is hashed here while it is read, what is pulled is hashed here as always; bytes that
//!   are damaged on the way there are found by the next who pulls them.
//! - An upload is written to a hidden name and renamed when it is whole, after `fsync` where the server can. An upload that was
//!   torn off is read back and compared before it is gone on with, since nobody there could say what it is. Its name has the
//!   id of the store that began it, and a lock here keeps two processes of a store apart, so nobody writes to another's.
//! - A server without `posix-rename@openssh.com` cannot put a file in the place of another at once: the old one is removed
//!   first. That happens to nothing that is named by its content.

mod packet;
mod session;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};

use self::packet::{
    CLOSE, EXTENDED, FSETSTAT, FSTAT, LSTAT, MKDIR, NAME, OPEN, OPENDIR, Packet, READ, READDIR, REMOVE, RENAME, WRITE,
};
use self::session::{Asked, Handle, Session};
use super::Dial;
use super::place::Place;
use crate::digest::Digest;
use crate::layout::unique_sibling;
use crate::remote::{Listed, Remote, check_remote_name};

/// What every server takes and gives at once.
const PIECE: usize = 32 << 10;
/// How many pieces of one transfer are on their way at once.
const AHEAD: usize = 64;

/// See the [module docs](self).
pub(super) struct SftpRemote {
    address: String,
    place: Place,
    dial: Dial,
    session: Mutex<Option<Arc<Session>>>,
    /// What is known here of uploads that are not complete.
    state: Utf8PathBuf,
}

impl SftpRemote {
    pub(super) fn new(address: String, place: Place, dial: Dial, state: &Utf8Path) -> Self {
        Self { address, place, dial, session: Mutex::new(None), state: state.to_owned() }
    }

    /// Whether there is an sftp server at all.
    pub(super) fn try_out(&self) -> io::Result<()> {
        self.session().map(drop)
    }

    /// The session; a new one where there is none that works.
    fn session(&self) -> io::Result<Arc<Session>> {
        let mut held = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = held.as_ref().filter(|session| !session.has_ended()) {
            return Ok(Arc::clone(session));
        }
        *held = None;
        let session = Arc::new(Session::open((self.dial)()?, self.place.timeout)?);
        *held = Some(Arc::clone(&session));
        Ok(session)
    }

    fn path(&self, name: &str) -> io::Result<Utf8PathBuf> {
        check_remote_name(name)?;
        Ok(Utf8PathBuf::from(&self.place.folder).join(name))
    }

    /// Opens a file for reading and writing, with the folders that it is in; `flags` are added.
    fn create_file(&self, session: &Session, path: &Utf8Path, flags: u32) -> io::Result<Handle> {
        const READ_WRITE_CREATE: u32 = 1 | 2 | 8;
        let open = || Packet::new(OPEN).bytes(path.as_str().as_bytes()).number(READ_WRITE_CREATE | flags).number(0);
        match session.ask(open())?.handle() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folders: Vec<_> = path.ancestors().skip(1).filter(|folder| !folder.as_str().is_empty()).collect();
                for folder in folders.into_iter().rev() {
                    // It may be there; if it cannot be made, opening the file says why.
                    let make = Packet::new(MKDIR).bytes(folder.as_str().as_bytes()).number(0);
                    let _ = session.ask(make)?.done();
                }
                session.ask(open())?.handle()
            }
            opened => opened,
        }
    }

    /// Puts a complete file in its place.
    fn publish(&self, session: &Session, from: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
        if session.extensions.posix_rename() {
            let rename = Packet::new(EXTENDED).bytes(b"posix-rename@openssh.com");
            return session.ask(rename.bytes(from.as_str().as_bytes()).bytes(to.as_str().as_bytes()))?.done();
        }
        let Err(error) = rename(session, from, to) else { return Ok(()) };
        // In version 3, renaming does not take the place of anything.
        match session.ask(Packet::new(LSTAT).bytes(to.as_str().as_bytes()))?.attributes() {
            Ok(there) if there.is_file() => {
                remove(session, to)?;
                rename(session, from, to)
            }
            _ => Err(error),
        }
    }

    /// Whose uploads these are: made once for a store.
    fn whose(&self) -> io::Result<String> {
        let path = self.state.join("id");
        match std::fs::read_to_string(&path) {
            Ok(id) if id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => return Ok(id),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let id = Digest::from_bytes(random).to_string()[..16].to_owned();
        let own = unique_sibling(&path);
        std::fs::write(&own, &id)?;
        // Where another process was faster, its id counts.
        let made = std::fs::hard_link(&own, &path);
        std::fs::remove_file(&own)?;
        match made {
            Ok(()) => Ok(id),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => std::fs::read_to_string(&path),
            Err(error) => Err(error),
        }
    }

    /// A hidden name for an upload. With the lock, it is one that an earlier upload may have begun.
    fn hidden(&self, name: &str, path: &Utf8Path) -> io::Result<(Utf8PathBuf, Option<Lock>)> {
        let file = path.file_name().unwrap_or("x");
        if (name.starts_with("objects/") || name.starts_with("trees/"))
            && let Some(lock) = Lock::take(&self.state, &format!("{} {name}", self.address))?
        {
            let whose = self.whose()?;
            return Ok((path.with_file_name(format!(".{file}.{whose}.partial")), Some(lock)));
        }
        Ok((unique_sibling(path), None))
    }

    /// Writes all that `from` gives to a hidden name.
    fn write(&self, session: &Session, hidden: &Utf8Path, is_content: bool, from: &mut dyn Read) -> io::Result<()> {
        let handle = self.create_file(session, hidden, 0)?;
        let attributes = session.ask(Packet::new(FSTAT).bytes(&handle.0))?.attributes()?;
        let end = send(session, &handle, attributes.bytes.unwrap_or(0), from)?;
        let mut settings = Packet::new(FSETSTAT).bytes(&handle.0);
        settings = match attributes.mode.filter(|_| is_content) {
            // Nobody has to write to it any more.
            Some(mode) => settings.number(1 | 4).long(end).number(mode & 0o777 & !0o222),
            None => settings.number(1).long(end),
        };
        session.ask(settings)?.done()?;
        if session.extensions.fsync() {
            session.ask(Packet::new(EXTENDED).bytes(b"fsync@openssh.com").bytes(&handle.0))?.done()?;
        }
        close(session, &handle)
    }
}

/// A lock of ours on something there.
struct Lock {
    path: Utf8PathBuf,
    /// Open as long as it is held.
    _file: File,
}

impl Lock {
    /// `None` if another has it, or nothing can be locked here.
    fn take(state: &Utf8Path, what: &str) -> io::Result<Option<Self>> {
        std::fs::create_dir_all(state)?;
        let path = state.join(format!("{}.lock", Digest::of_bytes(what.as_bytes()).short()));
        let file = File::options().write(true).create(true).truncate(false).open(&path)?;
        if file.try_lock().is_err() {
            return Ok(None);
        }
        // Another may have removed it before we had the lock.
        use std::os::unix::fs::MetadataExt as _;
        let same = std::fs::metadata(&path).is_ok_and(|now| file.metadata().is_ok_and(|ours| ours.ino() == now.ino()));
        Ok(same.then_some(Self { path, _file: file }))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn rename(session: &Session, from: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
    session.ask(Packet::new(RENAME).bytes(from.as_str().as_bytes()).bytes(to.as_str().as_bytes()))?.done()
}

fn remove(session: &Session, path: &Utf8Path) -> io::Result<()> {
    match session.ask(Packet::new(REMOVE).bytes(path.as_str().as_bytes()))?.done() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn close(session: &Session, handle: &Handle) -> io::Result<()> {
    session.ask(Packet::new(CLOSE).bytes(&handle.0))?.done()
}

fn ask_read<'s>(session: &'s Session, handle: &Handle, from: u64, bytes: usize) -> io::Result<Asked<'s>> {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    session.ask(Packet::new(READ).bytes(&handle.0).long(from).number(bytes))
}

/// Writes what `from` gives, but for the beginning that is there and the same; returns where it ends.
fn send(session: &Session, handle: &Handle, mut there: u64, from: &mut dyn Read) -> io::Result<u64> {
    let mut on_the_way: VecDeque<Asked<'_>> = VecDeque::new();
    let mut buffer = vec![0; PIECE * AHEAD];
    let mut at = 0;
    loop {
        let n = super::fill(from, &mut buffer)?;
        let mut same = 0;
        if at < there {
            let known = usize::try_from(there - at).map_or(n, |known| known.min(n));
            let mut came = Vec::with_capacity(known);
            read_range(session, handle, at, known, &mut came)?;
            same = came.iter().zip(&buffer[..n]).take_while(|(a, b)| a == b).count();
            if same < n {
                // From the first difference on, it is written anew.
                there = at + same as u64;
            }
        }
        for piece in buffer[same..n].chunks(PIECE) {
            let place = at + same as u64;
            same += piece.len();
            on_the_way.push_back(session.ask(Packet::new(WRITE).bytes(&handle.0).long(place).bytes(piece))?);
            if on_the_way.len() > AHEAD
                && let Some(asked) = on_the_way.pop_front()
            {
                asked.done()?;
            }
        }
        at += n as u64;
        if n < buffer.len() {
            on_the_way.iter().try_for_each(Asked::done)?;
            return Ok(at);
        }
    }
}

/// Reads so many bytes from a place on, or up to the end of the file; returns whether it ends there.
fn read_range(session: &Session, handle: &Handle, from: u64, bytes: usize, to: &mut dyn Write) -> io::Result<bool> {
    let mut next = 0;
    let mut on_the_way: VecDeque<(usize, Asked<'_>)> = VecDeque::new();
    loop {
        while on_the_way.len() < AHEAD && next < bytes {
            let most = PIECE.min(bytes - next);
            on_the_way.push_back((most, ask_read(session, handle, from + next as u64, most)?));
            next += most;
        }
        let Some((most, asked)) = on_the_way.pop_front() else { return Ok(false) };
        let data = asked.data()?;
        if data.is_empty() {
            return Ok(true);
        }
        if data.len() > most {
            return Err(packet::bad("more bytes came than were asked for"));
        }
        to.write_all(&data)?;
        if data.len() < most {
            // A server may give less than it was asked for: what is missing comes first, and the rest anew.
            let done = next - on_the_way.iter().map(|(most, _)| most).sum::<usize>() - (most - data.len());
            on_the_way.clear();
            next = done;
        }
    }
}

impl Remote for SftpRemote {
    fn address(&self) -> &str {
        &self.address
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        let session = self.session()?;
        let mut found = Vec::new();
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            let path = self.path(&folder)?;
            let handle = match session.ask(Packet::new(OPENDIR).bytes(path.as_str().as_bytes()))?.handle() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            while let Some(mut came) = session.ask(Packet::new(READDIR).bytes(&handle.0))?.answer(NAME)? {
                for _ in 0..came.number()? {
                    let name = format!("{folder}/{}", came.text()?);
                    came.bytes()?;
                    let attributes = came.attributes()?;
                    // Hidden files are uploads that are not complete; others of strange names are not ours.
                    if check_remote_name(&name).is_err() {
                        continue;
                    }
                    if attributes.is_folder() {
                        open.push(name);
                    } else if attributes.is_file() {
                        found.push(Listed { name, bytes: attributes.bytes.unwrap_or(0) });
                    }
                }
            }
            close(&session, &handle)?;
        }
        Ok(found)
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        let path = self.path(name)?;
        match self.session()?.ask(Packet::new(LSTAT).bytes(path.as_str().as_bytes()))?.attributes() {
            Ok(attributes) => Ok(attributes.bytes.filter(|_| attributes.is_file())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&self, name: &str, from: u64, to: &mut dyn Write) -> io::Result<()> {
        let session = self.session()?;
        let path = self.path(name)?;
        let handle = session.ask(Packet::new(OPEN).bytes(path.as_str().as_bytes()).number(1).number(0))?.handle()?;
        // Most things are small: what is asked for ahead grows with what has come.
        let (mut at, mut bytes) = (from, PIECE);
        let read = loop {
            match read_range(&session, &handle, at, bytes, to) {
                Ok(false) => {
                    at = at.saturating_add(bytes as u64);
                    bytes = (bytes * 4).min(16 << 20);
                }
                Ok(true) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // If the connection is gone, so is what was open.
        let closed = close(&session, &handle);
        read.and(closed)
    }

    fn put(&self, name: &str, from: &mut dyn Read) -> io::Result<()> {
        let session = self.session()?;
        let path = self.path(name)?;
        let (hidden, lock) = self.hidden(name, &path)?;
        let is_content = name.starts_with("objects/") || name.starts_with("trees/");
        let sent =
            self.write(&session, &hidden, is_content, from).and_then(|()| self.publish(&session, &hidden, &path));
        let Err(error) = sent else { return Ok(()) };
        // What is damaged here is of no use to anybody, nor is what nobody will go on with.
        if lock.is_none() || error.kind() == io::ErrorKind::InvalidData {
            let _ = remove(&session, &hidden);
        }
        Err(error)
    }

    fn create(&self, name: &str, mut bytes: &[u8]) -> io::Result<bool> {
        let session = self.session()?;
        let path = self.path(name)?;
        let hidden = unique_sibling(&path);
        self.write(&session, &hidden, false, &mut bytes)?;
        // In version 3, renaming does not take the place of anything.
        let Err(error) = rename(&session, &hidden, &path) else { return Ok(true) };
        let there = session.ask(Packet::new(LSTAT).bytes(path.as_str().as_bytes()))?.attributes();
        let _ = remove(&session, &hidden);
        if there.is_ok() { Ok(false) } else { Err(error) }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let session = self.session()?;
        remove(&session, &self.path(name)?)
    }
}
