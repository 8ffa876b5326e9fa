//! What can be wrong with an object that should be there.

use std::fmt;

use camino::Utf8PathBuf;

use super::ObjectRef;

/// An object that is not what its name says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} {kind}; `sepia cache verify` lists all such objects, running its stage again makes a good one")]
pub struct Damage {
    /// The object.
    pub object: ObjectRef,
    /// The file or folder that is wrong.
    pub path: Utf8PathBuf,
    /// How.
    pub kind: DamageKind,
}

/// How an object is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DamageKind {
    /// It, or one of its files, is not there.
    Missing,
    /// The size is wrong.
    Truncated {
        /// What it should be, in bytes.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// The size is right and the bytes are not.
    Changed,
    /// A file that does not belong to it.
    Extra,
    /// Not the kind of thing it should be, such as a folder instead of a file.
    WrongKind,
    /// The system cannot read it.
    Unreadable(String),
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing from the store"),
            Self::Truncated { expected, found } => write!(f, "has {found} bytes instead of {expected}"),
            Self::Changed => f.write_str("has changed: its bytes do not match its digest"),
            Self::Extra => f.write_str("does not belong to the stored folder that it is in"),
            Self::WrongKind => f.write_str("is not a plain file or folder as it should be"),
            Self::Unreadable(why) => write!(f, "cannot be read ({why})"),
        }
    }
}
