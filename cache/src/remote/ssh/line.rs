//! A line to another program: questions from several threads, answers to whom they belong to.
//!
//! One thread reads all answers; another watches: where something was asked and for as long as the time-out allows
//! neither side has moved a byte, the line is hung up and all who wait get an error. A line that has ended stays so.
//!
//! `G` is what the other side says first, `A` an answer.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is written at once, so that each piece that goes out is seen to.
const WRITE: usize = 32 << 10;
/// A greeting is waited for at least this long.
const LOGIN: Duration = Duration::from_secs(30);

/// What carries a line.
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

/// Reads the greeting and then answers, until the other side ends in good order.
pub(super) type Take<G, A> = fn(&Shared<G, A>, &mut BufReader<Seen<'_, G, A>>) -> io::Result<()>;

/// See the [module docs](self).
pub(super) struct Line<G, A> {
    shared: Arc<Shared<G, A>>,
    to: Mutex<Box<dyn Write + Send>>,
    next: AtomicU32,
}

/// What the threads of a line have in common.
pub(super) struct Shared<G, A> {
    state: Mutex<State<G, A>>,
    changed: Condvar,
    timeout: Duration,
    hang_up: HangUp,
    why: Why,
}

struct State<G, A> {
    greeted: Option<G>,
    waiting: BTreeMap<u32, Sender<A>>,
    /// When a byte moved last.
    moved: Instant,
    /// Why it is over.
    ended: Option<(io::ErrorKind, String)>,
}

impl<G, A> Shared<G, A> {
    fn state(&self) -> MutexGuard<'_, State<G, A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self) {
        self.state().moved = Instant::now();
    }

    /// The other side has said who it is.
    pub(super) fn greeted(&self, greeting: G) {
        self.state().greeted = Some(greeting);
        self.changed.notify_all();
    }

    /// An answer has come; `more` will to the same question.
    pub(super) fn answered(&self, id: u32, answer: A, more: bool) {
        let mut state = self.state();
        // Who asked may have given up.
        if more {
            if let Some(tell) = state.waiting.get(&id) {
                let _ = tell.send(answer);
            }
        } else if let Some(tell) = state.waiting.remove(&id) {
            let _ = tell.send(answer);
        }
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

    /// The error of a line that has ended.
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
pub(super) struct Asked<'c, G, A> {
    answers: Receiver<A>,
    shared: &'c Shared<G, A>,
}

impl<G, A> Asked<'_, G, A> {
    /// Waits for the next answer.
    pub(super) fn next(&self) -> io::Result<A> {
        self.answers.recv().map_err(|_| self.shared.ended())
    }
}

impl<G: Clone + Send + 'static, A: Send + 'static> Line<G, A> {
    /// Begins to listen.
    pub(super) fn open(transport: Transport, timeout: Duration, take: Take<G, A>) -> io::Result<Self> {
        let Transport { from, to, hang_up, why } = transport;
        let state = State { greeted: None, waiting: BTreeMap::new(), moved: Instant::now(), ended: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), timeout, hang_up, why });
        let line = Self { shared: Arc::clone(&shared), to: Mutex::new(to), next: AtomicU32::new(1) };
        let reads = Arc::clone(&shared);
        std::thread::Builder::new().name("ssh answers".to_owned()).spawn(move || {
            let mut from = BufReader::with_capacity(128 << 10, Seen { from, shared: &reads });
            let (kind, why) = match take(&reads, &mut from) {
                Ok(()) => (io::ErrorKind::UnexpectedEof, "the other side ended".to_owned()),
                Err(error) => (error.kind(), error.to_string()),
            };
            reads.end(kind, &why);
        })?;
        let watches = Arc::clone(&shared);
        std::thread::Builder::new().name("ssh watch".to_owned()).spawn(move || watch(&watches))?;
        Ok(line)
    }

    /// Says hello, and waits for what the other side says first. Where nobody listens, what came back says more than that
    /// this way is closed, so it is left to who reads to say why it is over.
    pub(super) fn greet(&self, hello: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<G> {
        {
            let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
            let mut watched = Watched { to: &mut **to, shared: &self.shared };
            let _ = hello(&mut watched).and_then(|()| watched.flush());
        }
        self.greeting()
    }

    /// What the other side said first, once it has.
    pub(super) fn greeting(&self) -> io::Result<G> {
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

    /// Asks, with a number of its own; the answer is waited for with what is returned.
    pub(super) fn ask(&self, write: impl FnOnce(&mut dyn Write, u32) -> io::Result<()>) -> io::Result<Asked<'_, G, A>> {
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
        self.say(|to| write(to, id))?;
        Ok(Asked { answers, shared: &self.shared })
    }

    /// Says something to which there is no answer.
    pub(super) fn say(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        let mut watched = Watched { to: &mut **to, shared: &self.shared };
        if let Err(error) = write(&mut watched).and_then(|()| watched.flush()) {
            drop(to);
            self.shared.end(io::ErrorKind::BrokenPipe, &error.to_string());
            return Err(self.shared.ended());
        }
        Ok(())
    }
}

impl<G, A> Drop for Line<G, A> {
    fn drop(&mut self) {
        self.shared.end(io::ErrorKind::NotConnected, "it was closed");
    }
}

/// Writes in pieces, each of which counts as a sign of life.
struct Watched<'c, G, A> {
    to: &'c mut dyn Write,
    shared: &'c Shared<G, A>,
}

impl<G, A> Write for Watched<'_, G, A> {
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
pub(super) struct Seen<'c, G, A> {
    from: Box<dyn Read + Send>,
    shared: &'c Shared<G, A>,
}

impl<G, A> Read for Seen<'_, G, A> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.shared.moved();
        Ok(n)
    }
}

/// What another machine says, without what could steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect()
}

fn watch<G, A>(shared: &Shared<G, A>) {
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
