//! Keys and signatures.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::str::FromStr;

use camino::Utf8Path;
use ed25519_dalek::Signer as _;
use serde::{Deserialize, Serialize};

use crate::error::{IoContext as _, Result, StoreError};
use crate::record::RecordId;

/// What is signed begins with this, so that a signature means nothing elsewhere.
const DOMAIN: &[u8] = b"sepia 2026 record signature v1\0";
const PREFIX: &str = "ed25519:";

/// A key that signs. Its file is readable by its owner only.
pub struct SigningKey(ed25519_dalek::SigningKey);

/// The public half of a [`SigningKey`], written `ed25519:` and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PublicKey([u8; 32]);

/// A signature of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "(PublicKey, String)", try_from = "(PublicKey, String)")]
pub struct Signature {
    /// Whose.
    pub signer: PublicKey,
    bytes: [u8; 64],
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

impl SigningKey {
    /// A new key from the system's randomness.
    ///
    /// # Errors
    /// When the system has none.
    pub fn generate() -> Result<Self> {
        let mut secret = [0; 32];
        let random = getrandom::fill(&mut secret).map_err(|error| std::io::Error::other(error.to_string()));
        random.at("read", Utf8Path::new("/dev/urandom"))?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&secret)))
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// Those of reading; [`StoreError::BadKey`] for a file that holds none.
    pub fn load(path: &Utf8Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).at("read", path)?;
        let secret = text.lines().find_map(|line| line.trim().strip_prefix("ed25519-secret:"));
        let secret = secret.and_then(from_hex::<32>);
        secret
            .map(|secret| Self(ed25519_dalek::SigningKey::from_bytes(&secret)))
            .ok_or_else(|| StoreError::BadKey { text: path.to_string() })
    }

    /// Writes a key file where there is none yet.
    ///
    /// # Errors
    /// Those of writing; a file that is there already is never replaced.
    pub fn save(&self, path: &Utf8Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).at("make", folder)?;
        }
        let text = format!(
            "# A secret key of Sepia. Whoever has it can sign in your name: show it to nobody.\n# public: {}\n\
             ed25519-secret:{}\n",
            self.public(),
            to_hex(&self.0.to_bytes())
        );
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).at("make", path)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).at("write", path)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs a record.
    #[must_use]
    pub fn sign(&self, record: &RecordId) -> Signature {
        Signature { signer: self.public(), bytes: self.0.sign(&message(record)).to_bytes() }
    }
}

impl Signature {
    /// Whether it is good for this record.
    #[must_use]
    pub fn is_good(&self, record: &RecordId) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&self.bytes);
        ed25519_dalek::VerifyingKey::from_bytes(&self.signer.0)
            .is_ok_and(|key| key.verify_strict(&message(record), &signature).is_ok())
    }

    /// The signature as text: 128 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        to_hex(&self.bytes)
    }

    /// A signature from its parts as text.
    ///
    /// # Errors
    /// [`StoreError::BadKey`].
    pub fn parse(signer: &str, hex: &str) -> Result<Self> {
        let bytes = from_hex(hex).ok_or_else(|| StoreError::BadKey { text: hex.chars().take(80).collect() })?;
        Ok(Self { signer: signer.parse()?, bytes })
    }
}

fn message(record: &RecordId) -> Vec<u8> {
    [DOMAIN, record.0.as_bytes()].concat()
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", to_hex(&self.0))
    }
}

impl FromStr for PublicKey {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = text.strip_prefix(PREFIX).and_then(from_hex::<32>);
        bytes.map(Self).ok_or_else(|| StoreError::BadKey { text: text.chars().take(80).collect() })
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for PublicKey {
    type Error = StoreError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Signature> for (PublicKey, String) {
    fn from(signature: Signature) -> Self {
        (signature.signer, signature.hex())
    }
}

impl TryFrom<(PublicKey, String)> for Signature {
    type Error = StoreError;

    fn try_from((signer, hex): (PublicKey, String)) -> Result<Self> {
        Self::parse(&signer.to_string(), &hex)
    }
}

fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use crate::test_support::Fixture;

    #[test]
    fn a_key_is_kept_to_its_owner_and_never_replaced() {
        use std::os::unix::fs::PermissionsExt as _;
        let f = Fixture::new();
        let path = f.root.join("deep/key");
        let key = SigningKey::generate().unwrap();
        key.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(SigningKey::load(&path).unwrap().public(), key.public());
        assert!(SigningKey::generate().unwrap().save(&path).is_err());
        assert_eq!(SigningKey::load(&path).unwrap().public(), key.public());
        let other = f.file("other", b"hello");
        assert!(matches!(SigningKey::load(&other), Err(StoreError::BadKey { .. })));
        assert!(!format!("{key:?}").contains(&to_hex(&key.0.to_bytes())));
    }

    #[test]
    fn a_signature_is_good_for_one_record_of_one_signer() {
        let (alice, bob) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let (one, two) = (RecordId(Digest::of_bytes(b"1")), RecordId(Digest::of_bytes(b"2")));
        let signature = alice.sign(&one);
        assert!(signature.is_good(&one) && !signature.is_good(&two));
        let stolen = Signature { signer: bob.public(), ..signature };
        assert!(!stolen.is_good(&one));
        let text = serde_json::to_string(&signature).unwrap();
        assert_eq!(serde_json::from_str::<Signature>(&text).unwrap(), signature);
        for bad in ["", "ed25519:", "ed25519:zz", &format!("ed25519:{}", "é".repeat(32)), &"0".repeat(64)] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
        }
    }
}
