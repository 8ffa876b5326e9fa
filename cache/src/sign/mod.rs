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

/// Whom this project trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Everything that is in the store, signed or not.
    pub everything: bool,
    /// Records that one of these keys has signed.
    pub keys: BTreeSet<PublicKey>,
}
