//! The cryptographic primitives, in one place, so that a change of provider is one file: SHA-256 and
//! Ed25519 (RFC 8032), both from `ring`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{self, KeyPair as _};
use zeroize::Zeroizing;

/// Length of a SHA-256 digest and of an Ed25519 public key or seed, in bytes.
pub const KEY_BYTES: usize = 32;
/// Length of an Ed25519 signature in bytes.
pub const SIGNATURE_BYTES: usize = 64;

/// A SHA-256 digest.
pub type Hash = [u8; KEY_BYTES];

/// SHA-256 over the concatenation of `parts`.
pub fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; KEY_BYTES];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// Lower-case hexadecimal of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}").is_ok();
        out
    })
}

/// Standard base64 with padding, as every format here uses.
pub fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Decodes standard base64; `None` when `text` is not exactly that.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Decodes standard base64 of exactly `N` bytes.
pub fn from_base64_exact<const N: usize>(text: &str) -> Option<[u8; N]> {
    from_base64(text)?.try_into().ok()
}

/// An Ed25519 public key. Text form (serde, `Display`): base64 of the 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; KEY_BYTES]);

impl PublicKey {
    /// Whether `signature` is this key's signature of `message`. Anything malformed is simply false.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        signature::UnparsedPublicKey::new(&signature::ED25519, &self.0).verify(message, signature).is_ok()
    }

    /// Parses the text form.
    pub fn parse(text: &str) -> Option<Self> {
        from_base64_exact(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_base64(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom("not the base64 of a 32-byte Ed25519 public key"))
    }
}

/// An Ed25519 private key. Its seed is wiped when dropped and never printed.
pub struct SigningKey {
    pair: signature::Ed25519KeyPair,
    seed: Zeroizing<[u8; KEY_BYTES]>,
}

impl SigningKey {
    /// The key that grows from `seed`: 32 bytes from a cryptographic random source.
    ///
    /// # Panics
    /// Never: every 32-byte string is a valid Ed25519 seed (RFC 8032, 5.1.5).
    pub fn from_seed(seed: [u8; KEY_BYTES]) -> Self {
        let pair =
            signature::Ed25519KeyPair::from_seed_unchecked(&seed).expect("32 bytes are always a valid seed");
        Self { pair, seed: Zeroizing::new(seed) }
    }

    /// The seed, to be written to a file that only its owner may read.
    pub fn seed(&self) -> &[u8; KEY_BYTES] {
        &self.seed
    }

    /// The public half.
    ///
    /// # Panics
    /// Never: `ring` gives 32 bytes for Ed25519.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut out = [0; SIGNATURE_BYTES];
        out.copy_from_slice(self.pair.sign(message).as_ref());
        out
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}
