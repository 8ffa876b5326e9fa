//! What the two sides say to each other.
//!
//! The server begins with one line of text, [`Greeting`], so that a client sees who it speaks to whatever a shell has
//! printed before. After that there are frames only. The client's first question is [`Ask::Hello`]; then it may ask
//! several things at once. Each question has a number, and every answer the number of its question; they may come in any
//! order. A server that takes long says [`Answer::Busy`] now and then, so silence means that it hangs.

use std::io;

use serde::{Deserialize, Serialize};

use super::line::printable;
use crate::digest::Digest;

/// The protocol of this code.
pub(super) const PROTOCOL: u32 = 1;
/// The oldest that it still speaks.
pub(super) const OLDEST: u32 = 1;
/// How the greeting begins.
pub(super) const GREETING: &str = "sepia-serve ";

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Greeting {
    /// The protocols that the server speaks.
    pub(super) oldest: u32,
    pub(super) newest: u32,
    /// The version of its Sepia, for messages.
    pub(super) version: String,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(super) enum Ask {
    /// Which protocol will be spoken, and about which folder. -> `Done`
    Hello { protocol: u32, folder: String },
    /// -> `Listed`, several times if need be.
    List { folder: String },
    /// -> `Size`
    Size { name: String },
    /// No more than `bytes` from a position on. -> `Bytes`; fewer mean that there are no more.
    Read { name: String, from: u64, bytes: u32 },
    /// Stores the body if there is nothing of the name. -> `Created`
    Create { name: String },
    /// Stores the body. -> `Done`
    Put { name: String },
    /// Begins an upload, or goes on with one. -> `Upload`
    Begin { name: String },
    /// Adds the body to an upload. -> `Done`
    Add { upload: u32 },
    /// Puts an upload in its place. -> `Done`
    Publish { upload: u32 },
    /// Leaves an upload; what came of it is kept for the next one or thrown away. -> `Done`
    Leave { upload: u32, keep: bool },
    /// -> `Done`
    Remove { name: String },
    /// -> `Done`, once everything is durable.
    Settle,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(super) enum Answer {
    Done,
    /// Names with sizes; `more` follow.
    Listed {
        names: Vec<(String, u64)>,
        more: bool,
    },
    Size {
        bytes: Option<u64>,
    },
    /// The body holds them.
    Bytes,
    Created {
        created: bool,
    },
    /// The number of an upload, how many of its bytes are there, and their blake3.
    Upload {
        upload: u32,
        there: u64,
        digest: Digest,
    },
    /// It is being worked on. The number is that of no question.
    Busy,
    /// It did not succeed.
    Failed {
        kind: Kind,
        why: String,
    },
}

/// Kinds of errors that the other side treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    NotFound,
    Full,
    Invalid,
    Denied,
    #[serde(other)]
    Other,
}

impl Answer {
    /// The answer that tells an error.
    pub(super) fn failed(error: &io::Error) -> Self {
        use io::ErrorKind as E;
        let kind = match error.kind() {
            E::NotFound => Kind::NotFound,
            E::StorageFull | E::QuotaExceeded | E::FileTooLarge => Kind::Full,
            E::InvalidData => Kind::Invalid,
            E::PermissionDenied | E::ReadOnlyFilesystem => Kind::Denied,
            _ => Kind::Other,
        };
        Self::Failed { kind, why: error.to_string().chars().take(2000).collect() }
    }

    /// The error that an answer tells.
    pub(super) fn error(kind: Kind, why: &str) -> io::Error {
        let why = printable(why);
        let kind = match kind {
            Kind::NotFound => io::ErrorKind::NotFound,
            Kind::Full => return io::Error::new(io::ErrorKind::StorageFull, format!("the disk there is full: {why}")),
            Kind::Invalid => io::ErrorKind::InvalidData,
            Kind::Denied => io::ErrorKind::PermissionDenied,
            Kind::Other => io::ErrorKind::Other,
        };
        io::Error::new(kind, why)
    }
}
