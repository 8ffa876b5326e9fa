//! Frames: what goes over the connection, each with its length before it.
//!
//! ```text
//! 4 bytes  length of all that follows, big-endian, no more than LONGEST
//! 4 bytes  the number of the request that this is, or answers
//! 4 bytes  length of the head
//! head     JSON: a question or an answer, see [`super::protocol`]
//! body     bytes of a file; often none
//! ```

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The body of a frame is not longer than this, so that several transfers share a connection evenly.
pub(super) const PIECE: usize = 256 << 10;
/// A frame is not longer, whatever its length says: nobody can make the other side allocate more.
const LONGEST: usize = 1 << 20;

/// A frame that came, its head not read yet.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) id: u32,
    head: Vec<u8>,
    pub(super) body: Vec<u8>,
}

impl Frame {
    /// The head.
    pub(super) fn head<T: DeserializeOwned>(&self) -> io::Result<T> {
        serde_json::from_slice(&self.head).map_err(|error| bad(format!("a frame cannot be read: {error}")))
    }
}

fn bad(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Writes a frame. Not flushed.
pub(super) fn write(to: &mut dyn Write, id: u32, head: &impl Serialize, body: &[u8]) -> io::Result<()> {
    let head = serde_json::to_vec(head).map_err(|error| bad(error.to_string()))?;
    let all = 8 + head.len() + body.len();
    if all > LONGEST {
        return Err(bad(format!("a frame of {all} bytes cannot be sent")));
    }
    let mut start = Vec::with_capacity(12 + head.len());
    for number in [all, id as usize, head.len()] {
        start.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes());
    }
    start.extend_from_slice(&head);
    to.write_all(&start)?;
    to.write_all(body)
}

/// Reads the next frame; `None` where the other side ended in good order.
pub(super) fn read(from: &mut dyn Read) -> io::Result<Option<Frame>> {
    let mut start = [0; 12];
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
    let [all, id, head] = [0, 4, 8].map(|at| {
        let mut number = [0; 4];
        number.copy_from_slice(&start[at..at + 4]);
        u32::from_be_bytes(number)
    });
    let (all, head_bytes) = (all as usize, head as usize);
    if !(8..=LONGEST).contains(&all) || head_bytes > all - 8 {
        return Err(bad(format!("a frame of {all} bytes came, which is none")));
    }
    let mut head = vec![0; head_bytes];
    from.read_exact(&mut head)?;
    let mut body = vec![0; all - 8 - head_bytes];
    from.read_exact(&mut body)?;
    Ok(Some(Frame { id, head, body }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_back(id: u32, head in ".{0,200}", body in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut bytes = Vec::new();
            write(&mut bytes, id, &head, &body).unwrap();
            let from = &mut bytes.as_slice();
            let frame = read(from).unwrap().unwrap();
            prop_assert_eq!(frame.head::<String>().unwrap(), head);
            prop_assert_eq!((frame.id, frame.body), (id, body));
            prop_assert!(read(from).unwrap().is_none());
            // Cut anywhere, it is no frame and no good end either.
            for cut in [1, 11, 12, bytes.len() - 1] {
                prop_assert!(cut >= bytes.len() || read(&mut &bytes[..cut]).is_err());
            }
        }

        /// Whatever comes, nothing panics and little is allocated.
        #[test]
        fn rubbish_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&mut bytes.as_slice());
        }
    }

    #[test]
    fn what_is_too_long_is_neither_sent_nor_taken() {
        assert!(write(&mut Vec::new(), 1, &"", &vec![0; LONGEST]).is_err());
        let long = [u32::MAX.to_be_bytes(), [0; 4], [0; 4]].concat();
        let error = read(&mut long.as_slice()).unwrap_err();
        assert!(error.to_string().contains("a frame of 4294967295 bytes"), "{error}");
    }
}
