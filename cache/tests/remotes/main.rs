//! Remotes between processes: many who push at once, kills at any moment, real servers that fail in every way.
//!
//! The test program starts itself again as a worker; the worker's part is in the environment variable `ROLE`.

#![expect(clippy::unwrap_used, reason = "what helps a test may fail as a test does")]

mod folder;
mod lab;
#[cfg(feature = "s3")]
mod proxy;
mod sshd;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "s3")]
mod weed;
