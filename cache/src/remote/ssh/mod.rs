//! A folder on another host, reached over ssh: `ssh HOST sepia serve --stdio`.
//!
//! One connection carries all transfers: questions with numbers, several at once ([`frame`], [`protocol`]), so that a slow
//! way costs its width and not its length. Both sides hash: the server what is pushed, before it is visible
//! ([`super::promise`]); the client what it pulls. Objects travel compressed, and lie there as they travelled.
//!
//! A connection that ends is made anew, and a transfer goes on at the byte where it was: a pull with what lies in
//! `cache/incoming`, a push with what the server has of it, after its digest has shown that it is ours.
//!
//! Where the host has no Sepia, the same folder is reached over its sftp instead ([`sftp`]): nobody hashes there then, and a
//! push that was torn off reads back what is there. `remote add` remembers which of the two it was.

mod connection;
#[cfg(test)]
mod cut;
mod frame;
mod line;
mod place;
mod process;
mod protocol;
mod serve;
mod sftp;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use camino::Utf8Path;
use serde::{Deserialize, Serialize};
pub use serve::serve;

use self::connection::{Asked, Connection, unexpected};
use self::frame::PIECE;
use self::line::Transport;
use self::place::Place;
use self::process::Far;
use self::protocol::{Answer, Ask};
use self::sftp::SftpRemote;
use super::{Listed, Remote};
use crate::digest::Digest;

/// How many pieces of one transfer are on their way at once.
const AHEAD: usize = 8;

type Dial = Box<dyn Fn() -> io::Result<Transport> + Send + Sync>;

/// How a folder on a host is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// By the Sepia there.
    Serve,
    /// By the sftp of its sshd.
    Sftp,
}

/// The remote of `ssh://` and `rest`: with the Sepia there or, if there is none, over sftp. Connects when it is first asked
/// something. `way` is the one that is known to work.
pub(crate) fn remote(rest: &str, state: &Utf8Path, way: Option<Way>) -> Result<Arc<dyn Remote>, String> {
    let place = Place::parse(rest)?;
    let dial = |far| {
        let place = place.clone();
        Box::new(move || process::dial(&place, far)) as Dial
    };
    let sftp = SftpRemote::new(format!("ssh://{rest}"), place.clone(), dial(Far::Sftp), state);
    let serve = SshRemote::with(rest, place.clone(), dial(Far::Serve));
    let either = Either { serve, sftp, way: OnceLock::new() };
    if way == Some(Way::Sftp) {
        // Asking for Sepia first would cost a login.
        let _ = either.way.set(Way::Sftp);
    }
    Ok(Arc::new(either))
}

/// One of the two ways.
struct Either {
    serve: SshRemote,
    sftp: SftpRemote,
    way: OnceLock<Way>,
}

impl Either {
    fn remote(&self) -> io::Result<&dyn Remote> {
        let of = |way: &Way| -> &dyn Remote {
            match way {
                Way::Serve => &self.serve,
                Way::Sftp => &self.sftp,
            }
        };
        if let Some(way) = self.way.get() {
            return Ok(of(way));
        }
        let way = match self.serve.connection() {
            Ok(_) => Way::Serve,
            Err(missing) if process::is_no_program(&missing) => match self.sftp.try_out() {
                Ok(()) => Way::Sftp,
                Err(error) => {
                    return Err(io::Error::new(error.kind(), format!("{missing}; nor is there sftp: {error}")));
                }
            },
            Err(error) => return Err(error),
        };
        // Whoever was first has found the same.
        Ok(of(self.way.get_or_init(|| way)))
    }
}

impl Remote for Either {
    fn address(&self) -> &str {
        self.serve.address()
    }
    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        self.remote()?.list(folder)
    }
    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        self.remote()?.size(name)
    }
    fn read(&self, name: &str, from: u64, to: &mut dyn Write) -> io::Result<()> {
        self.remote()?.read(name, from, to)
    }
    fn put(&self, name: &str, from: &mut dyn Read) -> io::Result<()> {
        self.remote()?.put(name, from)
    }
    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        self.remote()?.create(name, bytes)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.remote()?.remove(name)
    }
    fn settle(&self) -> io::Result<()> {
        self.remote()?.settle()
    }
    fn way(&self) -> Option<Way> {
        self.way.get().copied()
    }
}

/// See the [module docs](self).
struct SshRemote {
    address: String,
    place: Place,
    dial: Dial,
    connection: Mutex<Option<Arc<Connection>>>,
}

impl SshRemote {
    fn with(rest: &str, place: Place, dial: Dial) -> Self {
        Self { address: format!("ssh://{rest}"), place, dial, connection: Mutex::new(None) }
    }

    /// The connection; a new one where there is none that works.
    fn connection(&self) -> io::Result<Arc<Connection>> {
        let mut held = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = held.as_ref().filter(|connection| !connection.has_ended()) {
            return Ok(Arc::clone(connection));
        }
        *held = None;
        let connection = Arc::new(Connection::open((self.dial)()?, &self.place.folder, self.place.timeout)?);
        *held = Some(Arc::clone(&connection));
        Ok(connection)
    }

    fn done(&self, ask: &Ask, body: &[u8]) -> io::Result<()> {
        self.connection()?.ask(ask, body)?.done()
    }

    /// Sends what is too long for one frame.
    fn upload(&self, name: &str, from: &mut dyn Read) -> io::Result<()> {
        let connection = self.connection()?;
        let begun = connection.ask(&Ask::Begin { name: name.to_owned() }, &[])?.answer()?;
        let (Answer::Upload { upload, there, digest }, _) = begun else { return Err(unexpected(&begun.0)) };
        let sent = send(&connection, upload, there, &digest, from);
        let Err(error) = sent else { return connection.ask(&Ask::Publish { upload }, &[])?.done() };
        // What is damaged here, or was begun otherwise there, is of no use to anybody.
        let keep = !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::Interrupted);
        if let Ok(asked) = connection.ask(&Ask::Leave { upload, keep }, &[]) {
            let _ = asked.done();
        }
        Err(error)
    }
}

/// Sends what `from` gives, but for the beginning that is there.
fn send(connection: &Connection, upload: u32, there: u64, digest: &Digest, from: &mut dyn Read) -> io::Result<()> {
    let mut hasher = blake3::Hasher::new();
    let skipped = io::copy(&mut (&mut *from).take(there), &mut hasher)?;
    if skipped < there || Digest::from_bytes(*hasher.finalize().as_bytes()) != *digest {
        // As a connection that was cut off: tried again, from the beginning.
        return Err(io::Error::new(io::ErrorKind::Interrupted, "what was begun there is something else"));
    }
    let mut on_the_way: VecDeque<Asked<'_>> = VecDeque::new();
    let mut piece = vec![0; PIECE];
    loop {
        let n = fill(from, &mut piece)?;
        if n > 0 {
            on_the_way.push_back(connection.ask(&Ask::Add { upload }, &piece[..n])?);
        }
        let most = if n < PIECE { 0 } else { AHEAD };
        while on_the_way.len() > most {
            if let Some(asked) = on_the_way.pop_front() {
                asked.done()?;
            }
        }
        if n < PIECE {
            return Ok(());
        }
    }
}

/// Reads until the buffer is full or there is no more.
fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut there = 0;
    while there < buffer.len() {
        match from.read(&mut buffer[there..]) {
            Ok(0) => break,
            Ok(n) => there += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(there)
}

impl Remote for SshRemote {
    fn address(&self) -> &str {
        &self.address
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        let connection = self.connection()?;
        let asked = connection.ask(&Ask::List { folder: folder.to_owned() }, &[])?;
        let mut found = Vec::new();
        loop {
            match asked.answer()? {
                (Answer::Listed { names, more }, _) => {
                    for (name, bytes) in names {
                        super::check_remote_name(&name)?;
                        found.push(Listed { name, bytes });
                    }
                    if !more {
                        return Ok(found);
                    }
                }
                (other, _) => return Err(unexpected(&other)),
            }
        }
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        match self.connection()?.ask(&Ask::Size { name: name.to_owned() }, &[])?.answer()? {
            (Answer::Size { bytes }, _) => Ok(bytes),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn read(&self, name: &str, from: u64, to: &mut dyn Write) -> io::Result<()> {
        let connection = self.connection()?;
        let bytes = u32::try_from(PIECE).unwrap_or(u32::MAX);
        let mut next = from;
        let mut on_the_way: VecDeque<Asked<'_>> = VecDeque::new();
        // Most things are small: what is asked for ahead grows with what has come.
        let mut ahead = 1;
        loop {
            while on_the_way.len() < ahead {
                let ask = Ask::Read { name: name.to_owned(), from: next, bytes };
                on_the_way.push_back(connection.ask(&ask, &[])?);
                next = next.saturating_add(PIECE as u64);
            }
            let Some(asked) = on_the_way.pop_front() else { return Ok(()) };
            match asked.answer()? {
                (Answer::Bytes, body) if body.len() <= PIECE => {
                    to.write_all(&body)?;
                    if body.len() < PIECE {
                        return Ok(());
                    }
                }
                (other, _) => return Err(unexpected(&other)),
            }
            ahead = (ahead * 2).min(AHEAD);
        }
    }

    fn put(&self, name: &str, from: &mut dyn Read) -> io::Result<()> {
        // What fits into one frame needs no more than one question.
        let mut first = vec![0; PIECE];
        let n = fill(from, &mut first)?;
        if n < PIECE {
            return self.done(&Ask::Put { name: name.to_owned() }, &first[..n]);
        }
        self.upload(name, &mut first.as_slice().chain(from))
    }

    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        match self.connection()?.ask(&Ask::Create { name: name.to_owned() }, bytes)?.answer()? {
            (Answer::Created { created }, _) => Ok(created),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.done(&Ask::Remove { name: name.to_owned() }, &[])
    }

    fn settle(&self) -> io::Result<()> {
        self.done(&Ask::Settle, &[])
    }
}
