//! The client's side of one connection: questions from several threads, answers to whom they belong to.
//!
//! One thread reads all answers; another watches: where something was asked and for as long as the time-out allows
//! neither side has moved a byte, the connection is hung up and all who wait get an error. A connection that has ended
//! stays so; the remote makes a new one.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::frame::{self, Frame};
use super::protocol::{Answer, Ask, GREETING, Greeting, OLDEST, PROTOCOL};

/// How much a shell may print before the server's greeting.
const NOISE: u64 = 64 << 10;
/// What is written at once, so that each piece that goes out is seen to.
const WRITE: usize = 32 << 10;
/// A greeting is waited for at least this long.
const LOGIN: Duration = Duration::from_secs(30);

/// What carries a connection.
pub(super) struct Transport {
    pub(super) from: Box<dyn Read + Send>,
    pub(super) to: Box<dyn Write + Send>,
    /// Ends it, from any thread; reads and writes then fail. `true`: at once, without waiting for it to end by itself.
    pub(super) hang_up: HangUp,
    /// Says why it ended, if it knows: called once it has.
    pub(super) why: Why,
}

pub(super) type HangUp = Box<dyn Fn(bool) + Send + Sync>;
pub(super) type Why = Box<dyn Fn(&str) -> Option<io::Error> + Send + Sync>;

/// See the [module docs](self).
pub(super) struct Connection {
    shared: Arc<Shared>,
    to: Mutex<Box<dyn Write + Send>>,
    next: AtomicU32,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    timeout: Duration,
    hang_up: HangUp,
    why: Why,
}

struct State {
    greeted: Option<Greeting>,
    waiting: BTreeMap<u32, Sender<(Answer, Vec<u8>)>>,
    /// When a byte moved last.
    moved: Instant,
    /// Why it is over.
    ended: Option<(io::ErrorKind, String)>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self) {
        self.state().moved = Instant::now();
    }

    /// Ends it for all who wait; the first reason counts.
    fn end(&self, kind: io::ErrorKind, why: &str) {
        let mut state = self.state();
        if state.ended.is_none() {
            state.ended = Some((kind, why.to_owned()));
        }
        state.waiting.clear();
        drop(state);
        self.changed.notify_all();
        (self.hang_up)(matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::NotConnected));
    }

    /// The error of a connection that has ended.
    fn ended(&self) -> io::Error {
        let (kind, why) =
            self.state().ended.clone().unwrap_or((io::ErrorKind::BrokenPipe, "the connection ended".to_owned()));
        // That it was hung up for its silence is all there is to say.
        if kind == io::ErrorKind::TimedOut {
            return io::Error::new(kind, why);
        }
        (self.why)(&why).unwrap_or_else(|| io::Error::new(kind, why))
    }
}

/// A question that was asked.
pub(super) struct Asked<'c> {
    answers: Receiver<(Answer, Vec<u8>)>,
    shared: &'c Shared,
}

impl Asked<'_> {
    /// Waits for the next answer.
    pub(super) fn answer(&self) -> io::Result<(Answer, Vec<u8>)> {
        match self.answers.recv() {
            Ok((Answer::Failed { kind, why }, _)) => Err(Answer::error(kind, &why)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.shared.ended()),
        }
    }

    /// Waits for `Done`.
    pub(super) fn done(&self) -> io::Result<()> {
        match self.answer()? {
            (Answer::Done, _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }
}

/// The error for an answer that fits no question of ours.
pub(super) fn unexpected(answer: &Answer) -> io::Error {
    let text: String = format!("{answer:?}").chars().take(80).collect();
    io::Error::new(io::ErrorKind::InvalidData, format!("an answer came that fits no question: {text}"))
}

impl Connection {
    /// Waits for the server's greeting, and says which folder this is about.
    pub(super) fn open(transport: Transport, folder: &str, timeout: Duration) -> io::Result<Self> {
        let Transport { from, to, hang_up, why } = transport;
        let state = State { greeted: None, waiting: BTreeMap::new(), moved: Instant::now(), ended: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), timeout, hang_up, why });
        let connection = Self { shared: Arc::clone(&shared), to: Mutex::new(to), next: AtomicU32::new(1) };
        let reads = Arc::clone(&shared);
        std::thread::Builder::new().name("ssh answers".to_owned()).spawn(move || take_answers(&reads, from))?;
        let watches = Arc::clone(&shared);
        std::thread::Builder::new().name("ssh watch".to_owned()).spawn(move || watch(&watches))?;
        let greeting = connection.greeting()?;
        let refused = |who: &str| {
            io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "the Sepia there ({}) speaks protocols {} to {}, this one ({}) {OLDEST} to {PROTOCOL}: update the one {who}",
                    printable(&greeting.version),
                    greeting.oldest,
                    greeting.newest,
                    env!("CARGO_PKG_VERSION")
                ),
            )
        };
        let protocol = PROTOCOL.min(greeting.newest);
        if greeting.oldest > PROTOCOL {
            return Err(refused("here"));
        }
        if protocol < OLDEST {
            return Err(refused("there"));
        }
        connection.ask(&Ask::Hello { protocol, folder: folder.to_owned() }, &[])?.done()?;
        Ok(connection)
    }

    fn greeting(&self) -> io::Result<Greeting> {
        let mut state = self.shared.state();
        loop {
            if let Some(greeting) = &state.greeted {
                return Ok(greeting.clone());
            }
            if state.ended.is_some() {
                drop(state);
                return Err(self.shared.ended());
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether it is of no use any more.
    pub(super) fn has_ended(&self) -> bool {
        self.shared.state().ended.is_some()
    }

    /// Asks; the answer is waited for with what is returned.
    pub(super) fn ask(&self, ask: &Ask, body: &[u8]) -> io::Result<Asked<'_>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, answers) = channel();
        {
            let mut state = self.shared.state();
            if state.ended.is_some() {
                drop(state);
                return Err(self.shared.ended());
            }
            if state.waiting.is_empty() {
                state.moved = Instant::now();
            }
            state.waiting.insert(id, tell);
        }
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        let mut watched = Watched { to: &mut **to, shared: &self.shared };
        if let Err(error) = frame::write(&mut watched, id, ask, body).and_then(|()| watched.flush()) {
            drop(to);
            self.shared.end(io::ErrorKind::BrokenPipe, &error.to_string());
            return Err(self.shared.ended());
        }
        Ok(Asked { answers, shared: &self.shared })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.end(io::ErrorKind::NotConnected, "it was closed");
    }
}

/// Writes in pieces, each of which counts as a sign of life.
struct Watched<'c> {
    to: &'c mut dyn Write,
    shared: &'c Shared,
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(&bytes[..bytes.len().min(WRITE)])?;
        self.shared.moved();
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Counts what comes as a sign of life.
struct Seen<'c> {
    from: Box<dyn Read + Send>,
    shared: &'c Shared,
}

impl Read for Seen<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.shared.moved();
        Ok(n)
    }
}

fn take_answers(shared: &Shared, from: Box<dyn Read + Send>) {
    let mut from = BufReader::with_capacity(128 << 10, Seen { from, shared });
    let ended = match take_greeting(&mut from) {
        Ok(greeting) => {
            shared.state().greeted = Some(greeting);
            shared.changed.notify_all();
            loop {
                let answered = frame::read(&mut from).and_then(|frame| match frame {
                    Some(frame) => take_answer(shared, frame).map(|()| true),
                    None => Ok(false),
                });
                match answered {
                    Ok(true) => {}
                    Ok(false) => break (io::ErrorKind::UnexpectedEof, "the other side ended".to_owned()),
                    Err(error) => break (error.kind(), error.to_string()),
                }
            }
        }
        Err(error) => (error.kind(), error.to_string()),
    };
    shared.end(ended.0, &ended.1);
}

fn take_answer(shared: &Shared, frame: Frame) -> io::Result<()> {
    let answer: Answer = frame.head()?;
    let more = matches!(answer, Answer::Listed { more: true, .. });
    let mut state = shared.state();
    if more {
        if let Some(tell) = state.waiting.get(&frame.id) {
            let _ = tell.send((answer, frame.body));
        }
    } else if let Some(tell) = state.waiting.remove(&frame.id) {
        // Who asked may have given up.
        let _ = tell.send((answer, frame.body));
    }
    Ok(())
}

/// Reads lines until the one that is the greeting.
fn take_greeting(from: &mut impl BufRead) -> io::Result<Greeting> {
    let mut noise = String::new();
    let mut from = from.take(NOISE);
    loop {
        let mut line = Vec::new();
        if from.read_until(b'\n', &mut line)? == 0 {
            let said = printable(noise.trim());
            let why = if said.is_empty() {
                "no Sepia answered".to_owned()
            } else {
                format!("no Sepia answered, but: {said}")
            };
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, why));
        }
        let line = String::from_utf8_lossy(&line);
        if let Some(text) = line.strip_prefix(GREETING) {
            return serde_json::from_str(text).map_err(|error| {
                io::Error::new(io::ErrorKind::Unsupported, format!("the Sepia there is not understood: {error}"))
            });
        }
        if noise.len() < 300 {
            noise.push_str(&line);
        }
    }
}

/// What another machine says, without what could steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect()
}

fn watch(shared: &Shared) {
    let mut state = shared.state();
    while state.ended.is_none() {
        let silent = state.moved.elapsed();
        let waits = !state.waiting.is_empty() || state.greeted.is_none();
        // Logging in takes its time.
        let timeout = if state.greeted.is_none() { shared.timeout.max(LOGIN) } else { shared.timeout };
        if waits && silent >= timeout {
            drop(state);
            let why = format!(
                "nothing came for {} s: it hangs, or the connection is gone (`?timeout=SECONDS` after the address waits longer)",
                timeout.as_secs_f64()
            );
            shared.end(io::ErrorKind::TimedOut, &why);
            return;
        }
        let left = if waits { timeout - silent } else { timeout };
        let wait = left.min(Duration::from_secs(1)).max(Duration::from_millis(10));
        state = shared.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
    }
}
