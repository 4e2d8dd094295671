//! Public keys of OpenSSH, as far as operators may use them: `ssh-ed25519`, and `sk-ssh-ed25519@openssh.com` that a
//! FIDO2 token holds (OpenSSH's PROTOCOL.u2f). Both sign with Ed25519; RSA and ECDSA are not accepted.
//!
//! ```text
//! string  "ssh-ed25519"                     string  "sk-ssh-ed25519@openssh.com"
//! string  public key (32 bytes)             string  public key (32 bytes)
//!                                           string  application, normally "ssh:"
//! ```
//!
//! A `string` is a 4-byte big-endian length and so many bytes (RFC 4251, 5). The text form, in trust roots and in
//! `.pub` files, is the first of these strings, a space, and the base64 of all of them.

use std::fmt;

use crate::crypto::{KEY_BYTES, PublicKey, from_base64, to_base64};

/// Type of a key that a file or ssh-agent holds.
pub const ED25519: &str = "ssh-ed25519";
/// Type of a key that a FIDO2 token holds.
pub const SK_ED25519: &str = "sk-ssh-ed25519@openssh.com";
/// What every application of an OpenSSH key on a token begins with. It keeps the credentials of web sites out: the
/// bytes that those sign are made alike.
pub const APPLICATION_PREFIX: &str = "ssh:";
/// Longest application in bytes: OpenSSH writes `ssh:` unless it is told otherwise.
pub const APPLICATION_BYTES_MAX: usize = 64;
/// Longest encoded key in bytes: three lengths, the longer type, the point and the application.
pub const BLOB_BYTES_MAX: usize = 3 * 4 + SK_ED25519.len() + KEY_BYTES + APPLICATION_BYTES_MAX;

/// An OpenSSH public key of one of the two types.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SshKey {
    point: PublicKey,
    /// Of a key on a token.
    application: Option<String>,
}

/// Why a key or a signature in OpenSSH's encoding is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SshError {
    /// Not the encoding: too short, too long, or not what must stand there.
    #[error("the {0} is malformed")]
    Malformed(&'static str),
    /// Another type of key.
    #[error(
        "a key of type {0:?} is not accepted, only {ED25519} and {SK_ED25519}: `ssh-keygen -t ed25519` or `-t ed25519-sk` makes one"
    )]
    KeyType(String),
    /// A key for which there is a signature that fits many messages.
    #[error("the key is a point of small order")]
    Weak,
    /// The application of a key on a token is not for SSH.
    #[error(
        "the key's application must begin with {APPLICATION_PREFIX:?}, without spaces, in at most {APPLICATION_BYTES_MAX} bytes"
    )]
    Application,
    /// A signature in another version of the format.
    #[error("the signature has version {0}, not 1")]
    Version(u32),
    /// Signed with another key.
    #[error("the signature is by another key: {0}")]
    OtherKey(Box<SshKey>),
    /// Signed for another purpose.
    #[error("the signature is for {0:?}, not for this")]
    Namespace(String),
    /// The hash is neither `sha512` nor `sha256`.
    #[error("the signature is over a hash {0:?}, neither sha512 nor sha256")]
    Hash(String),
    /// Nobody touched the token.
    #[error("nobody touched the token when it signed")]
    NotPresent,
    /// The signature does not fit the message.
    #[error("the signature is not of this message")]
    Invalid,
}

impl SshKey {
    /// A key that a file or ssh-agent holds. `None` when it is weak.
    pub fn of_file(point: PublicKey) -> Option<Self> {
        (!point.is_weak()).then_some(Self { point, application: None })
    }

    /// A key that a FIDO2 token holds.
    ///
    /// # Errors
    /// When it is weak, or `application` is not one of SSH.
    pub fn of_token(point: PublicKey, application: &str) -> Result<Self, SshError> {
        let plain =
            application.len() <= APPLICATION_BYTES_MAX && application.bytes().all(|b| b.is_ascii_graphic());
        if !plain || !application.starts_with(APPLICATION_PREFIX) {
            return Err(SshError::Application);
        }
        let key = Self::of_file(point).ok_or(SshError::Weak)?;
        Ok(Self { application: Some(application.to_owned()), ..key })
    }

    /// The Ed25519 key in it.
    pub fn point(&self) -> &PublicKey {
        &self.point
    }

    /// The application of a key on a token.
    pub fn application(&self) -> Option<&str> {
        self.application.as_deref()
    }

    /// OpenSSH's name of its type.
    pub fn key_type(&self) -> &'static str {
        if self.application.is_some() { SK_ED25519 } else { ED25519 }
    }

    /// Reads the encoded form.
    ///
    /// # Errors
    /// Whatever is not exactly one key of the two types.
    pub fn decode(blob: &[u8]) -> Result<Self, SshError> {
        const WHAT: &str = "SSH key";
        let mut input = Cursor::new(blob, WHAT);
        let key_type = input.string()?;
        let token = match key_type {
            _ if key_type == ED25519.as_bytes() => false,
            _ if key_type == SK_ED25519.as_bytes() => true,
            other => return Err(SshError::KeyType(excerpt(other))),
        };
        let point = PublicKey(input.string()?.try_into().map_err(|_| SshError::Malformed(WHAT))?);
        let application = if token { Some(input.string()?) } else { None };
        input.finish()?;
        match application {
            None => Self::of_file(point).ok_or(SshError::Weak),
            Some(text) => {
                Self::of_token(point, std::str::from_utf8(text).map_err(|_| SshError::Application)?)
            }
        }
    }

    /// The encoded form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOB_BYTES_MAX);
        put_string(&mut out, self.key_type().as_bytes());
        put_string(&mut out, &self.point.0);
        if let Some(application) = &self.application {
            put_string(&mut out, application.as_bytes());
        }
        out
    }

    /// Reads the text form, and nothing around it.
    ///
    /// # Errors
    /// Whatever is not exactly that.
    pub fn parse(text: &str) -> Result<Self, SshError> {
        let (key_type, data) = text.split_once(' ').ok_or(SshError::Malformed("SSH key"))?;
        if key_type != ED25519 && key_type != SK_ED25519 {
            return Err(SshError::KeyType(excerpt(key_type.as_bytes())));
        }
        let fits = data.len() <= BLOB_BYTES_MAX.div_ceil(3) * 4;
        let blob = fits.then(|| from_base64(data)).flatten().ok_or(SshError::Malformed("SSH key"))?;
        let key = Self::decode(&blob)?;
        if key.key_type() == key_type { Ok(key) } else { Err(SshError::Malformed("SSH key")) }
    }

    /// Reads a line of a `.pub` file: the text form and a comment, which may be empty.
    ///
    /// # Errors
    /// As [`SshKey::parse`].
    pub fn parse_line(line: &str) -> Result<(Self, &str), SshError> {
        let line = line.trim();
        let (key_type, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim_start();
        let (data, comment) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
        Ok((Self::parse(&format!("{key_type} {data}"))?, comment.trim()))
    }
}

impl fmt::Display for SshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key_type(), to_base64(&self.encode()))
    }
}

/// The begin of what was found in place of something known, for an error.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(64).collect()
}

/// Appends a `string` of RFC 4251.
pub(crate) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    // What is written here has some hundred bytes: keys, signatures, digests and names.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Reads OpenSSH's encoding from the front; borrows, and so allocates nothing.
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    /// Over `bytes`, which `what` names in errors.
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], SshError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(SshError::Malformed(self.what))?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next 4 bytes, big-endian.
    pub(crate) fn u32(&mut self) -> Result<u32, SshError> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next `string`.
    pub(crate) fn string(&mut self) -> Result<&'a [u8], SshError> {
        let length = usize::try_from(self.u32()?).map_err(|_| SshError::Malformed(self.what))?;
        let (head, rest) = self.rest.split_at_checked(length).ok_or(SshError::Malformed(self.what))?;
        self.rest = rest;
        Ok(head)
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<(), SshError> {
        if self.rest.is_empty() { Ok(()) } else { Err(SshError::Malformed(self.what)) }
    }
}
