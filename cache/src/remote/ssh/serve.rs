//! The server: a folder remote, asked over a connection. `sepia serve --stdio` is this over standard input and output.
//!
//! It answers one question after the other: what is slow is the connection, and several questions are on their way at
//! once. Bytes that are pushed are hashed while they come ([`Promise`]). Nothing stays open when the connection ends.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::frame::{self, Frame, PIECE};
use super::protocol::{Answer, Ask, GREETING, Greeting, OLDEST, PROTOCOL};
use crate::digest::Digest;
use crate::remote::folder::FolderRemote;
use crate::remote::partial::Partial;
use crate::remote::promise::Promise;
use crate::remote::{Remote as _, check_remote_name};

/// How often a server that takes long says that it lives.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// No client has so many uploads at once.
const UPLOADS: usize = 64;
/// About how many bytes of names are in one frame.
const NAMES: usize = 256 << 10;

/// Answers what comes from `input`, until it ends.
///
/// # Errors
/// Those of reading and writing, and frames that are none. What goes wrong with a remote is told to the client.
pub fn serve(mut input: impl Read, output: impl Write + Send) -> io::Result<()> {
    let greeting = Greeting { oldest: OLDEST, newest: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned() };
    let output = Mutex::new(output);
    let busy = AtomicBool::new(false);
    let (over, over_now) = (Mutex::new(false), Condvar::new());
    {
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        // On a line of its own, whatever a shell has left open.
        writeln!(output, "\n{GREETING}{}", serde_json::to_string(&greeting)?)?;
        output.flush()?;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut ended = over.lock().unwrap_or_else(PoisonError::into_inner);
            while !*ended {
                if busy.load(Ordering::Relaxed) && tell(&output, 0, &Answer::Busy, &[]).is_err() {
                    return;
                }
                ended = over_now.wait_timeout(ended, HEARTBEAT).unwrap_or_else(PoisonError::into_inner).0;
            }
        });
        let mut server = Server { folder: None, uploads: BTreeMap::new(), next: 0 };
        let ended = loop {
            let frame = match frame::read(&mut input) {
                Ok(Some(frame)) => frame,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            busy.store(true, Ordering::Relaxed);
            let mut told = Ok(());
            let mut answer = |answer: &Answer, body: &[u8]| {
                told = tell(&output, frame.id, answer, body);
                told.is_ok()
            };
            if let Err(error) = server.answer(&frame, &mut answer) {
                answer(&Answer::failed(&error), &[]);
            }
            busy.store(false, Ordering::Relaxed);
            if let Err(error) = told {
                break Err(error);
            }
        };
        server.leave_all();
        *over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        over_now.notify_all();
        ended
    })
}

fn tell(output: &Mutex<impl Write>, id: u32, answer: &Answer, body: &[u8]) -> io::Result<()> {
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    frame::write(&mut *output, id, answer, body)?;
    output.flush()
}

struct Upload {
    name: String,
    partial: Partial,
    promise: Promise,
}

struct Server {
    folder: Option<FolderRemote>,
    uploads: BTreeMap<u32, Upload>,
    next: u32,
}

impl Server {
    /// Answers one question. `answer` says whether anybody is listening still.
    fn answer(&mut self, frame: &Frame, answer: &mut dyn FnMut(&Answer, &[u8]) -> bool) -> io::Result<()> {
        let ask: Ask = frame.head()?;
        if let Ask::Hello { protocol, folder } = &ask {
            self.hello(*protocol, folder)?;
            answer(&Answer::Done, &[]);
            return Ok(());
        }
        let Some(folder) = &self.folder else { return Err(invalid("the first question has to be `hello`")) };
        let done = match ask {
            Ask::Hello { .. } => Answer::Done,
            Ask::List { folder: name } => return list(folder, &name, answer),
            Ask::Size { name } => Answer::Size { bytes: folder.size(&name)? },
            Ask::Read { name, from, bytes } => {
                let mut file = folder.open(&name)?;
                file.seek(SeekFrom::Start(from))?;
                let mut body = Vec::new();
                file.take(u64::from(bytes).min(PIECE as u64)).read_to_end(&mut body)?;
                answer(&Answer::Bytes, &body);
                return Ok(());
            }
            Ask::Create { name } => {
                keep(folder, &name, &frame.body)?;
                Answer::Created { created: folder.create(&name, &frame.body)? }
            }
            Ask::Put { name } => {
                keep(folder, &name, &frame.body)?;
                folder.put(&name, &mut frame.body.as_slice())?;
                Answer::Done
            }
            Ask::Begin { name } => self.begin(&name)?,
            Ask::Add { upload } => {
                let Some(mut found) = self.uploads.remove(&upload) else { return Err(no_upload(upload)) };
                let added = found.promise.write_all(&frame.body).and_then(|()| found.partial.write_all(&frame.body));
                match added {
                    Ok(()) => drop(self.uploads.insert(upload, found)),
                    Err(error) => {
                        found.partial.leave(&error);
                        return Err(error);
                    }
                }
                Answer::Done
            }
            Ask::Publish { upload } => {
                let Upload { name, partial, promise } =
                    self.uploads.remove(&upload).ok_or_else(|| no_upload(upload))?;
                if let Err(error) = promise.keep() {
                    partial.leave(&error);
                    return Err(error);
                }
                partial.publish()?;
                folder.placed(&name)?;
                Answer::Done
            }
            Ask::Leave { upload, keep } => {
                if let Some(Upload { partial, .. }) = self.uploads.remove(&upload) {
                    if keep { partial.leave(&left()) } else { partial.discard() }
                }
                Answer::Done
            }
            Ask::Remove { name } => {
                folder.remove(&name)?;
                Answer::Done
            }
            Ask::Settle => {
                folder.settle()?;
                Answer::Done
            }
        };
        answer(&done, &[]);
        Ok(())
    }

    fn hello(&mut self, protocol: u32, folder: &str) -> io::Result<()> {
        if !(OLDEST..=PROTOCOL).contains(&protocol) {
            return Err(invalid(&format!("protocol {protocol} is not spoken here, but {OLDEST} to {PROTOCOL}")));
        }
        if folder.is_empty() || folder.contains('\0') {
            return Err(invalid("the folder has no name"));
        }
        self.folder = Some(FolderRemote::new(folder));
        Ok(())
    }

    fn begin(&mut self, name: &str) -> io::Result<Answer> {
        let Some(folder) = &self.folder else { return Err(invalid("the first question has to be `hello`")) };
        if self.uploads.len() >= UPLOADS {
            return Err(invalid("too many uploads at once"));
        }
        let promise = || Promise::of(name, |name| small(folder, name));
        let mut new = Upload { name: name.to_owned(), promise: promise()?, partial: folder.upload(name)? };
        let mut hasher = blake3::Hasher::new();
        let seen = new.partial.read_there(&mut |bytes| {
            hasher.update(bytes);
            new.promise.write_all(bytes)
        });
        match seen {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                // It cannot become what it should: from the beginning.
                new.partial.cut(0)?;
                new.promise = promise()?;
                hasher = blake3::Hasher::new();
            }
            Err(error) => return Err(error),
        }
        self.next = self.next.wrapping_add(1);
        let there = new.partial.there();
        self.uploads.insert(self.next, new);
        Ok(Answer::Upload { upload: self.next, there, digest: Digest::from_bytes(*hasher.finalize().as_bytes()) })
    }

    fn leave_all(&mut self) {
        for (_, upload) in std::mem::take(&mut self.uploads) {
            upload.partial.leave(&left());
        }
    }
}

/// Why an upload is left that nothing is wrong with.
fn left() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.to_owned())
}

fn no_upload(upload: u32) -> io::Error {
    invalid(&format!("there is no upload {upload}"))
}

/// Refuses bytes that are not what a name promises.
fn keep(folder: &FolderRemote, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut promise = Promise::of(name, |name| small(folder, name))?;
    promise.write_all(bytes)?;
    promise.keep()
}

/// A thing that fits into memory.
fn small(folder: &FolderRemote, name: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    folder.read(name, 0, &mut bytes)?;
    Ok(bytes)
}

fn list(folder: &FolderRemote, name: &str, answer: &mut dyn FnMut(&Answer, &[u8]) -> bool) -> io::Result<()> {
    check_remote_name(name)?;
    let (mut names, mut bytes) = (Vec::new(), 0);
    for listed in folder.list(name)? {
        bytes += listed.name.len() + 32;
        names.push((listed.name, listed.bytes));
        if bytes > NAMES {
            bytes = 0;
            if !answer(&Answer::Listed { names: std::mem::take(&mut names), more: true }, &[]) {
                return Ok(());
            }
        }
    }
    answer(&Answer::Listed { names, more: false }, &[]);
    Ok(())
}
