//! The client's side of a connection to `sepia serve`: a [`Line`] over which frames go.

use std::io::{self, BufRead, Read as _};
use std::time::Duration;

use super::frame;
use super::line::{self, Line, Shared, Transport, printable};
use super::protocol::{Answer, Ask, GREETING, Greeting, OLDEST, PROTOCOL};

/// How much a shell may print before the server's greeting.
const NOISE: u64 = 64 << 10;

/// An answer with its body.
type Body = (Answer, Vec<u8>);

/// See the [module docs](self).
pub(super) struct Connection {
    line: Line<Greeting, Body>,
}

/// A question that was asked.
pub(super) struct Asked<'c>(line::Asked<'c, Greeting, Body>);

impl Asked<'_> {
    /// Waits for the next answer.
    pub(super) fn answer(&self) -> io::Result<Body> {
        match self.0.next()? {
            (Answer::Failed { kind, why }, _) => Err(Answer::error(kind, &why)),
            answer => Ok(answer),
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
        let connection =
            Self { line: Line::open(transport, timeout, |shared, from| take_answers(shared, &mut *from))? };
        let greeting = connection.line.greeting()?;
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

    /// Whether it is of no use any more.
    pub(super) fn has_ended(&self) -> bool {
        self.line.has_ended()
    }

    /// Asks; the answer is waited for with what is returned.
    pub(super) fn ask(&self, ask: &Ask, body: &[u8]) -> io::Result<Asked<'_>> {
        self.line.ask(|to, id| frame::write(to, id, ask, body)).map(Asked)
    }
}

fn take_answers(shared: &Shared<Greeting, Body>, from: &mut impl BufRead) -> io::Result<()> {
    shared.greeted(take_greeting(from)?);
    while let Some(frame) = frame::read(from)? {
        let answer: Answer = frame.head()?;
        let more = matches!(answer, Answer::Listed { more: true, .. });
        shared.answered(frame.id, (answer, frame.body), more);
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
