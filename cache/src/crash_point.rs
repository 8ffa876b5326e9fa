//! Named places at which a test can stop the code, as a kill would.
//!
//! Outside tests a crash point is nothing. In a test, `stop_at` makes the n-th crash point that the thread reaches
//! return an error, which travels up without any cleaning on its way (the code between has none): what is on the disk
//! then is what a killed process would leave.

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "it can fail in tests, where it stops the caller")]
#[inline]
pub(crate) fn reached(_name: &'static str) -> crate::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use in_tests::{reached, stop_at};

#[cfg(test)]
mod in_tests {
    use std::cell::Cell;

    use crate::error::{Result, StoreError};

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// Stops the thread at its n-th crash point from now on (0: the next one); `None` lets it run.
    pub(crate) fn stop_at(n: Option<usize>) {
        LEFT.set(n);
    }

    pub(crate) fn reached(name: &'static str) -> Result<()> {
        match LEFT.get() {
            None => Ok(()),
            Some(0) => Err(StoreError::StoppedByTest(name)),
            Some(n) => {
                LEFT.set(Some(n - 1));
                Ok(())
            }
        }
    }
}
