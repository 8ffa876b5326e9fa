//! A connection that breaks where a test wants it to.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// A way of which the bytes run out.
pub(super) struct Cut<S> {
    stream: S,
    left: Arc<AtomicI64>,
}

impl<S> Cut<S> {
    /// `left`: how many bytes may still pass, perhaps over several ways together.
    pub(super) fn new(stream: S, left: Arc<AtomicI64>) -> Self {
        Self { stream, left }
    }

    /// Of so many bytes, how many may still pass.
    fn allowed(&self, wanted: usize) -> io::Result<usize> {
        let left = usize::try_from(self.left.load(Ordering::SeqCst)).unwrap_or(0);
        if left == 0 && wanted > 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(wanted.min(left))
    }

    /// Only what has really passed counts: how much comes at a time is the system's affair.
    fn passed(&self, bytes: usize) -> usize {
        self.left.fetch_sub(bytes as i64, Ordering::SeqCst);
        bytes
    }
}

impl<S: Read> Read for Cut<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.allowed(buffer.len())?;
        self.stream.read(&mut buffer[..n]).map(|n| self.passed(n))
    }
}

impl<S: Write> Write for Cut<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.allowed(bytes.len())?;
        self.stream.write(&bytes[..n]).map(|n| self.passed(n))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
