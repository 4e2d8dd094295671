//! Signatures that `ssh-keygen -Y sign` makes (OpenSSH's PROTOCOL.sshsig), in their binary form.
//!
//! ```text
//! 6 bytes "SSHSIG"                               what is signed:
//! uint32  1                                      6 bytes "SSHSIG"
//! string  public key (see crate::ssh)            string  namespace
//! string  namespace                              string  "" (reserved)
//! string  "" (reserved)                          string  "sha512" or "sha256"
//! string  "sha512" or "sha256"                   string  that hash of the message
//! string  signature:
//!           string  type of the key
//!           string  64 bytes of Ed25519
//!           of a key on a token also: byte flags, uint32 counter
//! ```
//!
//! A token signs SHA-256 of the application, flags, counter, and SHA-256 of "what is signed" (PROTOCOL.u2f). Bit 0 of
//! the flags says that somebody touched it, and must be set. The counter is not looked at: it tells of clones only
//! to who keeps the last one of each token, and a replayed command is refused by its id.
//!
//! The namespace keeps signatures apart that one key makes for different purposes: what it signed for `git`, or as a
//! file, is never a command, and a command never a trust root.

use crate::crypto::{SIGNATURE_BYTES, sha256, sha512};
use crate::ssh::{BLOB_BYTES_MAX, Cursor, SK_ED25519, SshError, SshKey, excerpt, put_string};

const MAGIC: [u8; 6] = *b"SSHSIG";
const VERSION: u32 = 1;
const WHAT: &str = "SSH signature";
/// Bit of the flags: somebody touched the token.
const USER_PRESENT: u8 = 1;

/// Longest namespace in bytes.
pub const NAMESPACE_BYTES_MAX: usize = 64;
/// Longest signature that is parsed, in bytes.
pub const SSHSIG_BYTES_MAX: usize = 512;

// The longest one fits: magic, version, five lengths, key, namespace, hash, and a signature by a token.
const _: () = assert!(
    MAGIC.len()
        + 4
        + 5 * 4
        + BLOB_BYTES_MAX
        + NAMESPACE_BYTES_MAX
        + "sha512".len()
        + (4 + SK_ED25519.len() + 4 + SIGNATURE_BYTES + 1 + 4)
        <= SSHSIG_BYTES_MAX
);

/// How the message was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageHash {
    /// What `ssh-keygen` takes unless it is told otherwise.
    Sha512,
    /// The other one that the format knows.
    Sha256,
}

impl MessageHash {
    /// Its name in the format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha512 => "sha512",
            Self::Sha256 => "sha256",
        }
    }

    fn of(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha512 => sha512(message).to_vec(),
            Self::Sha256 => sha256(&[message]).to_vec(),
        }
    }
}

/// What a token adds to what it signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Bit 0: somebody touched it. Bit 2: it knew who, by a PIN or a finger.
    pub flags: u8,
    /// How often it has signed, as it says.
    pub counter: u32,
}

/// A well-formed signature. Holding one proves nothing: see [`SshSignature::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshSignature {
    /// The key that it says it is by.
    pub key: SshKey,
    /// What it was made for.
    pub namespace: String,
    /// How the message was hashed.
    pub hash: MessageHash,
    /// The signature by Ed25519.
    pub signature: [u8; SIGNATURE_BYTES],
    /// There exactly when the key is on a token.
    pub presence: Option<Presence>,
}

impl SshSignature {
    /// Reads the binary form.
    ///
    /// # Errors
    /// Whatever is not exactly that, longer than [`SSHSIG_BYTES_MAX`], or by a key of another type.
    pub fn decode(bytes: &[u8]) -> Result<Self, SshError> {
        if bytes.len() > SSHSIG_BYTES_MAX {
            return Err(SshError::Malformed(WHAT));
        }
        let mut input = Cursor::new(bytes, WHAT);
        if input.array()? != MAGIC {
            return Err(SshError::Malformed(WHAT));
        }
        let version = input.u32()?;
        if version != VERSION {
            return Err(SshError::Version(version));
        }
        let key = SshKey::decode(input.string()?)?;
        let namespace = decode_namespace(input.string()?)?;
        if !input.string()?.is_empty() {
            return Err(SshError::Malformed(WHAT));
        }
        let hash = decode_hash(input.string()?)?;
        let (signature, presence) = decode_signature(&key, input.string()?)?;
        input.finish()?;
        Ok(Self { key, namespace, hash, signature, presence })
    }

    /// The binary form.
    pub fn encode(&self) -> Vec<u8> {
        let mut inner = Vec::with_capacity(128);
        put_string(&mut inner, self.key.key_type().as_bytes());
        put_string(&mut inner, &self.signature);
        if let Some(presence) = self.presence {
            inner.push(presence.flags);
            inner.extend_from_slice(&presence.counter.to_be_bytes());
        }
        let mut out = Vec::with_capacity(SSHSIG_BYTES_MAX);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        put_string(&mut out, &self.key.encode());
        put_string(&mut out, self.namespace.as_bytes());
        put_string(&mut out, b"");
        put_string(&mut out, self.hash.as_str().as_bytes());
        put_string(&mut out, &inner);
        out
    }

    /// Checks that `key` signed `message` for `namespace`.
    ///
    /// # Errors
    /// Says which of it is not so.
    pub fn verify(&self, key: &SshKey, namespace: &str, message: &[u8]) -> Result<(), SshError> {
        // An encoded key is read only in its one form, so that equal keys are equal bytes.
        if self.key != *key {
            return Err(SshError::OtherKey(Box::new(self.key.clone())));
        }
        if self.namespace != namespace {
            return Err(SshError::Namespace(self.namespace.clone()));
        }
        let signed = to_sign(namespace, self.hash, message);
        let signed = match (key.application(), self.presence) {
            (None, None) => signed,
            (Some(_), Some(presence)) if presence.flags & USER_PRESENT == 0 => {
                return Err(SshError::NotPresent);
            }
            (Some(application), Some(presence)) => token_signs(application, presence, &signed),
            _ => return Err(SshError::Malformed(WHAT)),
        };
        if key.point().verifies(&signed, &self.signature) { Ok(()) } else { Err(SshError::Invalid) }
    }
}

/// What a key in a file signs, and of which a token signs the hash.
pub fn to_sign(namespace: &str, hash: MessageHash, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&MAGIC);
    put_string(&mut out, namespace.as_bytes());
    put_string(&mut out, b"");
    put_string(&mut out, hash.as_str().as_bytes());
    put_string(&mut out, &hash.of(message));
    out
}

/// What a token signs in place of `signed`.
pub fn token_signs(application: &str, presence: Presence, signed: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(69);
    out.extend_from_slice(&sha256(&[application.as_bytes()]));
    out.push(presence.flags);
    out.extend_from_slice(&presence.counter.to_be_bytes());
    out.extend_from_slice(&sha256(&[signed]));
    out
}

fn decode_namespace(bytes: &[u8]) -> Result<String, SshError> {
    let fits = (1..=NAMESPACE_BYTES_MAX).contains(&bytes.len());
    let text = std::str::from_utf8(bytes).ok().filter(|_| fits);
    text.map(str::to_owned).ok_or_else(|| SshError::Namespace(excerpt(bytes)))
}

fn decode_hash(bytes: &[u8]) -> Result<MessageHash, SshError> {
    let known = [MessageHash::Sha512, MessageHash::Sha256];
    let found = known.into_iter().find(|hash| hash.as_str().as_bytes() == bytes);
    found.ok_or_else(|| SshError::Hash(excerpt(bytes)))
}

/// The innermost string: its type must be the key's.
fn decode_signature(
    key: &SshKey,
    bytes: &[u8],
) -> Result<([u8; SIGNATURE_BYTES], Option<Presence>), SshError> {
    let malformed = SshError::Malformed(WHAT);
    let mut input = Cursor::new(bytes, WHAT);
    if input.string()? != key.key_type().as_bytes() {
        return Err(malformed);
    }
    let signature = input.string()?.try_into().map_err(|_| malformed)?;
    let presence = match key.application() {
        None => None,
        Some(_) => {
            let [flags] = input.array()?;
            Some(Presence { flags, counter: input.u32()? })
        }
    };
    input.finish()?;
    Ok((signature, presence))
}
