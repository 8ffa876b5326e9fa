//! Who vouches for a record: ed25519 signatures over record ids, and whom this project trusts.
//!
//! A record id is a digest of the whole record, so a signature over it covers parameters, outputs and figures. What a
//! run on this store made needs no signature. What came from elsewhere counts as a result only if its source was trusted
//! as a whole, or if a key of [`Trust`] has signed it; it is shown in any case.
//!
//! Signatures are kept in `records/signatures.sig`, one a line (`record signer signature`), and as rows.

mod keep;
mod key;

use std::collections::BTreeSet;

pub(crate) use keep::{read_signatures, rebuild_signatures};
pub use key::{PublicKey, Signature, SigningKey};

/// Where a record comes from, and who vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A run on this store made it.
    Own,
    /// From elsewhere; its source is trusted as a whole.
    Trusted,
    /// From elsewhere; a key that is trusted has signed it.
    Signed,
    /// From elsewhere; only keys that are not trusted have signed it.
    UnknownSigner,
    /// From elsewhere; nobody has signed it.
    Unsigned,
}

impl Origin {
    /// In a word or two.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Trusted => "trusted",
            Self::Signed => "signed",
            Self::UnknownSigner => "unknown signer",
            Self::Unsigned => "unsigned",
        }
    }
}

/// Whom this project trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Everything that is in the store, signed or not.
    pub everything: bool,
    /// Records that one of these keys has signed.
    pub keys: BTreeSet<PublicKey>,
}
