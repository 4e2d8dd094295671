//! C2SP signed-note (<https://c2sp.org/signed-note>): a text, a blank line, and signature lines
//! `— <key name> <base64(key id ‖ signature)>`.
//!
//! Stricter than the specification in three points, none of which a Picket note runs into: no control
//! characters at all (it forbids those below U+0020), at most [`NOTE_BYTES_MAX`] bytes, and at most
//! [`SIGNATURES_MAX`] signatures (the least that it asks for). Where a key has several lines, the first decides,
//! as in the Go implementation that the specification describes.

use std::fmt::Write as _;

use crate::crypto::{PublicKey, SIGNATURE_BYTES, SigningKey, from_base64, sha256, to_base64};

/// Longest note that is parsed, in bytes. A checkpoint with two signatures has some 400.
pub const NOTE_BYTES_MAX: usize = 16 * 1024;
/// Most signature lines that a note may carry; the specification asks for a limit of at least 16.
pub const SIGNATURES_MAX: usize = 16;

const SIGNATURE_PREFIX: &str = "\u{2014} ";
const KEY_ID_BYTES: usize = 4;
/// Longest key name; the specification of cosignatures has the same bound for newer algorithms.
const NAME_BYTES_MAX: usize = 255;
const VKEY_BYTES_MAX: usize = NAME_BYTES_MAX + 1 + 2 * KEY_ID_BYTES + 1 + 44;

/// Signature algorithms, by their C2SP identifier byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum KeyKind {
    /// Ed25519 over the note text.
    Ed25519 = 0x01,
    /// Timestamped Ed25519 witness cosignature (C2SP tlog-cosignature).
    Cosignature = 0x04,
}

/// The public key of a signer with the name that it signs under. Text form ("vkey"):
/// `<name>+<key id in hex>+<base64(kind byte ‖ key)>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    kind: KeyKind,
    key: PublicKey,
}

/// Why bytes are not a note, or not one that the key signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Longer than [`NOTE_BYTES_MAX`].
    #[error("the note has {0} bytes, more than {NOTE_BYTES_MAX}")]
    TooLong(usize),
    /// Not text, or with control characters other than newline.
    #[error("the note is not plain UTF-8 text")]
    NotText,
    /// No blank line with signatures behind it.
    #[error("the note has no signature block")]
    NoSignatures,
    /// A signature line is not of the form described above, or there are more than [`SIGNATURES_MAX`].
    #[error("signature line {0} is malformed or one too many")]
    BadSignatureLine(usize),
    /// A key name is empty or holds white space or a plus sign; or a vkey is malformed.
    #[error("not a valid note key: {0}")]
    BadKey(String),
    /// No line by this key.
    #[error("not signed by {0}")]
    NotSigned(String),
    /// A line by this key that does not verify.
    #[error("the signature by {0} is not valid")]
    BadSignature(String),
}

impl VerifierKey {
    /// Names a key. Fails when `name` could not stand in a signature line.
    pub fn new(name: &str, kind: KeyKind, key: PublicKey) -> Result<Self, NoteError> {
        if !is_key_name(name) || name.len() > NAME_BYTES_MAX {
            return Err(NoteError::BadKey(name.escape_debug().take(300).collect()));
        }
        Ok(Self { name: name.to_owned(), kind, key })
    }

    /// Parses the vkey text form.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let bad = || NoteError::BadKey(text.escape_debug().take(300).collect());
        if text.len() > VKEY_BYTES_MAX {
            return Err(bad());
        }
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(data)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad());
        };
        let data = from_base64(data).ok_or_else(bad)?;
        let (kind, key) = data.split_first().ok_or_else(bad)?;
        let kind = match kind {
            0x01 => KeyKind::Ed25519,
            0x04 => KeyKind::Cosignature,
            _ => return Err(bad()),
        };
        let key = PublicKey(key.try_into().map_err(|_| bad())?);
        let parsed = Self::new(name, kind, key)?;
        if key.is_weak() || crate::crypto::hex(&parsed.key_id()) != id {
            return Err(bad());
        }
        Ok(parsed)
    }

    /// The name that signature lines carry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The algorithm.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The bare key.
    pub fn public(&self) -> PublicKey {
        self.key
    }

    /// The first four bytes of SHA-256(name ‖ 0x0A ‖ kind ‖ key).
    pub fn key_id(&self) -> [u8; KEY_ID_BYTES] {
        let [a, b, c, d, ..] = sha256(&[self.name.as_bytes(), b"\n", &[self.kind as u8], &self.key.0]);
        [a, b, c, d]
    }
}

impl std::fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut data = vec![self.kind as u8];
        data.extend_from_slice(&self.key.0);
        write!(f, "{}+{}+{}", self.name, crate::crypto::hex(&self.key_id()), to_base64(&data))
    }
}

/// One signature line, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Name of the key that is said to have signed.
    pub name: String,
    /// Its id.
    pub key_id: [u8; KEY_ID_BYTES],
    /// The algorithm's bytes.
    pub bytes: Vec<u8>,
}

/// A note: its text and who is said to have signed it. Holding one proves nothing yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

impl Note {
    /// A note without signatures. `text` must end in a newline and hold no other control characters.
    pub fn new(text: String) -> Result<Self, NoteError> {
        check_text(&text)?;
        Ok(Self { text, signatures: Vec::new() })
    }

    /// Parses a note with at least one signature line.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLong(bytes.len()));
        }
        let all = std::str::from_utf8(bytes).map_err(|_| NoteError::NotText)?;
        let split = all.rfind("\n\n").ok_or(NoteError::NoSignatures)?;
        let (text, block) = all.split_at(split + 1);
        check_text(text)?;
        let block =
            block.strip_prefix('\n').and_then(|b| b.strip_suffix('\n')).ok_or(NoteError::NoSignatures)?;
        let lines = block.split('\n').enumerate();
        let signatures = lines.map(|(at, line)| parse_signature(at, line)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// The signed text, with its final newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Adds a signature line for `key` with the algorithm's bytes. A line by the same key is replaced.
    pub fn add_signature(&mut self, key: &VerifierKey, bytes: Vec<u8>) {
        let key_id = key.key_id();
        self.signatures.retain(|s| s.name != key.name || s.key_id != key_id);
        self.signatures.push(Signature { name: key.name.clone(), key_id, bytes });
    }

    /// Signs the text as `name` with Ed25519.
    pub fn sign(&mut self, name: &str, key: &SigningKey) -> Result<(), NoteError> {
        let verifier = VerifierKey::new(name, KeyKind::Ed25519, key.public())?;
        self.add_signature(&verifier, key.sign(self.text.as_bytes()).to_vec());
        Ok(())
    }

    /// Verifies the Ed25519 signature by `key`.
    pub fn verify(&self, key: &VerifierKey) -> Result<(), NoteError> {
        let signature = self.signature_by(key)?;
        let right = key.kind == KeyKind::Ed25519
            && signature.len() == SIGNATURE_BYTES
            && key.key.verifies(self.text.as_bytes(), signature);
        right.then_some(()).ok_or_else(|| NoteError::BadSignature(key.name.clone()))
    }

    /// The bytes of the line by `key`, unverified.
    pub fn signature_by(&self, key: &VerifierKey) -> Result<&[u8], NoteError> {
        let key_id = key.key_id();
        let by_key = |s: &&Signature| s.name == key.name && s.key_id == key_id;
        let found = self.signatures.iter().find(by_key);
        found.map(|s| s.bytes.as_slice()).ok_or_else(|| NoteError::NotSigned(key.name.clone()))
    }
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)?;
        f.write_char('\n')?;
        for signature in &self.signatures {
            let mut data = signature.key_id.to_vec();
            data.extend_from_slice(&signature.bytes);
            writeln!(f, "{SIGNATURE_PREFIX}{} {}", signature.name, to_base64(&data))?;
        }
        Ok(())
    }
}

fn check_text(text: &str) -> Result<(), NoteError> {
    if text.len() > NOTE_BYTES_MAX {
        return Err(NoteError::TooLong(text.len()));
    }
    let plain = text.chars().all(|c| c == '\n' || !c.is_control());
    (plain && text.ends_with('\n')).then_some(()).ok_or(NoteError::NotText)
}

/// Non-empty, without white space of any script and without plus signs.
fn is_key_name(name: &str) -> bool {
    let reserved = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    !name.is_empty() && !name.contains(reserved)
}

fn parse_signature(at: usize, line: &str) -> Result<Signature, NoteError> {
    let bad = || NoteError::BadSignatureLine(at + 1);
    if at >= SIGNATURES_MAX {
        return Err(bad());
    }
    let (name, data) = line.strip_prefix(SIGNATURE_PREFIX).and_then(|l| l.split_once(' ')).ok_or_else(bad)?;
    let data = from_base64(data).ok_or_else(bad)?;
    let (key_id, bytes) = data.split_first_chunk::<KEY_ID_BYTES>().ok_or_else(bad)?;
    if !is_key_name(name) || bytes.is_empty() {
        return Err(bad());
    }
    Ok(Signature { name: name.to_owned(), key_id: *key_id, bytes: bytes.to_vec() })
}
