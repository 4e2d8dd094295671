//! The cryptographic primitives, in one place, so that a change of provider is one file: SHA-256, SHA-512 and
//! Ed25519 (RFC 8032), all from `ring`.

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

/// SHA-512 of `message`: only SSH signatures are made of one.
pub fn sha512(message: &[u8]) -> [u8; 64] {
    let mut out = [0; 64];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA512, message).as_ref());
    out
}

/// Lower-case hexadecimal of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

/// The bytes of lower-case hexadecimal digits; none when it is anything else.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
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
    /// Whether `signature` is this key's signature of `message`. Anything malformed is simply false, as is any
    /// signature by a key for which there is one that fits many messages.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        !self.is_weak()
            && signature::UnparsedPublicKey::new(&signature::ED25519, &self.0)
                .verify(message, signature)
                .is_ok()
    }

    /// Whether the key is a point of small order: RFC 8032 lets such a key verify a signature of messages that
    /// nobody signed, so whoever registers one can disown, or hand out, what it signs.
    pub fn is_weak(&self) -> bool {
        let mut point = self.0;
        if let Some(last) = point.last_mut() {
            *last &= 0x7f; // the sign of x
        }
        WEAK_POINTS.contains(&point)
    }

    /// Parses the text form. Weak keys are refused.
    pub fn parse(text: &str) -> Option<Self> {
        from_base64_exact(text).map(Self).filter(|key| !key.is_weak())
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

/// The y coordinates of all points of order 1, 2, 4 and 8 on the curve, also where written above the prime.
const WEAK_POINTS: [[u8; KEY_BYTES]; 7] = {
    const fn edge(low: u8) -> [u8; KEY_BYTES] {
        let mut point = [0xff; KEY_BYTES];
        point[0] = low;
        point[KEY_BYTES - 1] = 0x7f;
        point
    }
    let zero = [0; KEY_BYTES];
    let mut one = zero;
    one[0] = 1;
    [
        zero,
        one,
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
            0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
            0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
        edge(0xec),
        edge(0xed),
        edge(0xee),
    ]
};

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
