//! The age file format, version 1 (<https://age-encryption.org/v1>), with X25519 recipients: what evidence is encrypted with.
//! What is written here, the program `age` opens; what `age` writes for an X25519 recipient, is opened here.
//!
//! ```text
//! age-encryption.org/v1
//! -> X25519 <ephemeral share>            one stanza a recipient: the file key, wrapped
//! <wrapped file key, 32 bytes in base64>
//! --- <MAC of all before, keyed by the file key>
//! <16 bytes nonce> <chunks of 65,536 bytes, each with a tag of 16 bytes; the last one may be shorter>
//! ```
//!
//! Randomness is an argument. Sealing needs no long-lived secret, so that an agent can seal what it cannot open; opening needs
//! X25519 with such a secret, which `ring` does not offer: it is an argument as well ([`Agree`]).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::hmac;
use ring::rand::SecureRandom;
use zeroize::Zeroizing;

mod bech32;

/// Plain bytes of a chunk.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of the tag behind each chunk.
pub const TAG_BYTES: usize = 16;
/// Bytes of the nonce before the first chunk.
pub const NONCE_BYTES: usize = 16;
/// Longest header that is read: some hundred recipients.
pub const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Most recipients that a file is sealed to.
pub const RECIPIENTS_MAX: usize = 16;
/// Most chunks of one file: 4 PiB, and no counter comes near its end.
const CHUNKS_MAX: u64 = 1 << 36;

const VERSION_LINE: &[u8] = b"age-encryption.org/v1\n";
const X25519_INFO: &[u8] = b"age-encryption.org/v1/X25519";
const FILE_KEY_BYTES: usize = 16;
const WRAPPED_BYTES: usize = FILE_KEY_BYTES + TAG_BYTES;
const RECIPIENT_PREFIX: &str = "age";
const IDENTITY_PREFIX: &str = "age-secret-key-";

/// Standard base64 without padding, in its one form.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// X25519 (RFC 7748) of a secret that the caller holds with the public key that is given; `None` when the result is all zero.
pub type Agree<'a> = &'a dyn Fn(&[u8; 32]) -> Option<Zeroizing<[u8; 32]>>;

/// Why something is not age's, or does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgeError {
    /// The text is no recipient or identity.
    #[error("not {0}")]
    Text(&'static str),
    /// The bytes are no header of version 1.
    #[error("not a file of age: {0}")]
    Header(&'static str),
    /// None of the stanzas is for this identity.
    #[error("it is not encrypted to this identity")]
    NotForUs,
    /// The header was changed, or the identity is another one.
    #[error("the header was changed: its MAC does not fit")]
    Mac,
    /// A chunk was changed, cut, or is not where it was.
    #[error("chunk {0} was changed")]
    Chunk(u64),
    /// There are no recipients, or too many of them.
    #[error("age files are sealed to 1 to {RECIPIENTS_MAX} recipients")]
    Recipients,
    /// The random source failed, or a recipient is a point of small order.
    #[error("no key can be agreed on")]
    Agreement,
}

/// A public key that files are sealed to: `age1…`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recipient(pub [u8; 32]);

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bech32::encode(RECIPIENT_PREFIX, &self.0))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

impl FromStr for Recipient {
    type Err = AgeError;

    fn from_str(text: &str) -> Result<Self, AgeError> {
        let wrong = || AgeError::Text("an age recipient like age1…");
        // One form only: it stands in what is signed.
        let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let key = bech32::decode(RECIPIENT_PREFIX, text).filter(|_| lower).ok_or_else(wrong)?;
        key.try_into().map(Self).map_err(|_| wrong())
    }
}

impl serde::Serialize for Recipient {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Recipient {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads the secret of `AGE-SECRET-KEY-1…`.
///
/// # Errors
/// When it is none.
pub fn parse_identity(text: &str) -> Result<Zeroizing<[u8; 32]>, AgeError> {
    let wrong = || AgeError::Text("an age identity like AGE-SECRET-KEY-1…");
    let secret = Zeroizing::new(bech32::decode(IDENTITY_PREFIX, text).ok_or_else(wrong)?);
    let secret: [u8; 32] = secret.as_slice().try_into().map_err(|_| wrong())?;
    Ok(Zeroizing::new(secret))
}

/// The text of a secret.
pub fn identity_text(secret: &[u8; 32]) -> Zeroizing<String> {
    Zeroizing::new(bech32::encode(IDENTITY_PREFIX, secret).to_ascii_uppercase())
}

struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive(secret: &[u8], salt: &[u8], info: &[u8]) -> Result<Zeroizing<[u8; 32]>, AgeError> {
    let mut out = Zeroizing::new([0; 32]);
    let key = Salt::new(HKDF_SHA256, salt).extract(secret);
    let filled = key.expand(&[info], Bytes(32)).and_then(|okm| okm.fill(&mut *out));
    filled.map(|()| out).map_err(|_| AgeError::Agreement)
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, AgeError> {
    UnboundKey::new(&CHACHA20_POLY1305, key).map(LessSafeKey::new).map_err(|_| AgeError::Agreement)
}

fn header_key(file_key: &[u8]) -> Result<hmac::Key, AgeError> {
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &*derive(file_key, &[], b"header")?))
}

/// The key of one stanza.
fn wrapping_key(shared: &[u8], share: &[u8; 32], recipient: &[u8; 32]) -> Result<LessSafeKey, AgeError> {
    cipher(&*derive(shared, &[&share[..], recipient].concat(), X25519_INFO)?)
}

/// Seals a stream: gives what is to be written, piece by piece.
pub struct Sealer {
    key: LessSafeKey,
    counter: u64,
    plain: Zeroizing<Vec<u8>>,
}

impl Sealer {
    /// Begins a file for `recipients`; the bytes are its header and nonce.
    ///
    /// # Errors
    /// When there are none or too many, or no key can be agreed on.
    pub fn begin(recipients: &[Recipient], random: &dyn SecureRandom) -> Result<(Vec<u8>, Self), AgeError> {
        if !(1..=RECIPIENTS_MAX).contains(&recipients.len()) {
            return Err(AgeError::Recipients);
        }
        let mut file_key = Zeroizing::new([0; FILE_KEY_BYTES]);
        let mut nonce = [0; NONCE_BYTES];
        random
            .fill(&mut *file_key)
            .and_then(|()| random.fill(&mut nonce))
            .map_err(|_| AgeError::Agreement)?;
        let mut header = VERSION_LINE.to_vec();
        for recipient in recipients {
            header.extend_from_slice(stanza(recipient, &*file_key, random)?.as_bytes());
        }
        header.extend_from_slice(b"---");
        let mac = hmac::sign(&header_key(&*file_key)?, &header);
        header.extend_from_slice(format!(" {}\n", BASE64.encode(mac.as_ref())).as_bytes());
        header.extend_from_slice(&nonce);
        let key = cipher(&*derive(&*file_key, &nonce, b"payload")?)?;
        let plain = Zeroizing::new(Vec::with_capacity(CHUNK_BYTES + TAG_BYTES));
        Ok((header, Self { key, counter: 0, plain }))
    }

    /// Takes plain bytes; appends to `sealed` what is complete.
    ///
    /// # Errors
    /// Only when the file is longer than any.
    pub fn push(&mut self, mut bytes: &[u8], sealed: &mut Vec<u8>) -> Result<(), AgeError> {
        while !bytes.is_empty() {
            // A full chunk waits: it may be the last one, which is marked.
            if self.plain.len() == CHUNK_BYTES {
                self.seal(false, sealed)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.plain.len()));
            self.plain.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// As [`Sealer::push`].
    pub fn finish(mut self, sealed: &mut Vec<u8>) -> Result<(), AgeError> {
        self.seal(true, sealed)
    }

    fn seal(&mut self, last: bool, sealed: &mut Vec<u8>) -> Result<(), AgeError> {
        let nonce = chunk_nonce(self.counter, last)?;
        let failed = AgeError::Chunk(self.counter);
        self.key.seal_in_place_append_tag(nonce, Aad::empty(), &mut *self.plain).map_err(|_| failed)?;
        sealed.extend_from_slice(&self.plain);
        self.plain.clear();
        self.counter += 1;
        Ok(())
    }
}

fn stanza(recipient: &Recipient, file_key: &[u8], random: &dyn SecureRandom) -> Result<String, AgeError> {
    let lost = |_| AgeError::Agreement;
    let ephemeral = EphemeralPrivateKey::generate(&X25519, random).map_err(lost)?;
    let share = ephemeral.compute_public_key().map_err(lost)?;
    let share: [u8; 32] = share.as_ref().try_into().map_err(|_| AgeError::Agreement)?;
    let theirs = UnparsedPublicKey::new(&X25519, recipient.0);
    let key = agree_ephemeral(ephemeral, &theirs, |shared| wrapping_key(shared, &share, &recipient.0));
    let key = key.map_err(lost)??;
    let mut wrapped = file_key.to_vec();
    key.seal_in_place_append_tag(zero_nonce(), Aad::empty(), &mut wrapped).map_err(lost)?;
    Ok(format!("-> X25519 {}\n{}\n", BASE64.encode(share), BASE64.encode(wrapped)))
}

/// Each wrapping key is used once.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn chunk_nonce(counter: u64, last: bool) -> Result<Nonce, AgeError> {
    if counter >= CHUNKS_MAX {
        return Err(AgeError::Chunk(counter));
    }
    // Eleven bytes of counter, of which the first three are always 0, and the flag.
    let [a, b, c, d, e, f, g, h] = counter.to_be_bytes();
    Ok(Nonce::assume_unique_for_key([0, 0, 0, a, b, c, d, e, f, g, h, u8::from(last)]))
}

/// An ephemeral share, and the file key wrapped by what is agreed on with it.
type Stanza = ([u8; 32], [u8; WRAPPED_BYTES]);

/// A header that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Shares and wrapped file keys of the X25519 stanzas.
    stanzas: Vec<Stanza>,
    /// What the MAC is over.
    signed: Vec<u8>,
    mac: Vec<u8>,
}

impl Header {
    /// Reads the header at the beginning of a file; gives it and its length. `None` when more bytes are needed. Stanzas of other
    /// kinds are passed over.
    ///
    /// # Errors
    /// When it is none, or longer than [`HEADER_BYTES_MAX`].
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, AgeError> {
        let bytes = bytes.get(..HEADER_BYTES_MAX).unwrap_or(bytes);
        if !bytes.starts_with(bytes_of_same_length(bytes)) {
            return Err(AgeError::Header("it begins with something else"));
        }
        let Some(end) = last_line(bytes) else {
            let whole = bytes.len() == HEADER_BYTES_MAX;
            return if whole { Err(AgeError::Header("its header does not end")) } else { Ok(None) };
        };
        let text = bytes.get(..end).and_then(|header| std::str::from_utf8(header).ok());
        let text = text.ok_or(AgeError::Header("its header is not text"))?;
        let body = text.strip_prefix("age-encryption.org/v1\n").ok_or(AgeError::Header("another version"))?;
        let mut lines = body.split('\n').peekable();
        let mut stanzas = Vec::new();
        while let Some(line) = lines.next() {
            if let Some(mac) = line.strip_prefix("--- ") {
                let mac = decode(mac).filter(|mac| mac.len() == 32);
                let mac = mac.ok_or(AgeError::Header("its MAC is malformed"))?;
                let signed = text.len().saturating_sub(line.len() + 1).saturating_add(3);
                let signed = text.as_bytes().get(..signed).unwrap_or_default().to_vec();
                return Ok(Some((Self { stanzas, signed, mac }, end)));
            }
            let words = line.strip_prefix("-> ").ok_or(AgeError::Header("a line is no stanza"))?;
            let body = stanza_body(&mut lines)?;
            stanzas.extend(x25519_stanza(words, &body)?);
        }
        Err(AgeError::Header("its header does not end"))
    }

    /// Opens the file key; `recipient` is the public half of what `agree` holds.
    ///
    /// # Errors
    /// When no stanza is for it, or the header was changed.
    pub fn open(&self, recipient: &Recipient, agree: Agree<'_>) -> Result<FileKey, AgeError> {
        for (share, wrapped) in &self.stanzas {
            let Some(shared) = agree(share) else { continue };
            let key = wrapping_key(&*shared, share, &recipient.0)?;
            let mut wrapped = Zeroizing::new(*wrapped);
            let Ok(opened) = key.open_in_place(zero_nonce(), Aad::empty(), &mut *wrapped) else { continue };
            let file_key: [u8; FILE_KEY_BYTES] = (&*opened).try_into().map_err(|_| AgeError::NotForUs)?;
            let file_key = FileKey(Zeroizing::new(file_key));
            hmac::verify(&header_key(&*file_key.0)?, &self.signed, &self.mac).map_err(|_| AgeError::Mac)?;
            return Ok(file_key);
        }
        Err(AgeError::NotForUs)
    }
}

/// As much of the first line as there are bytes.
fn bytes_of_same_length(bytes: &[u8]) -> &[u8] {
    VERSION_LINE.get(..bytes.len()).unwrap_or(VERSION_LINE)
}

/// Where the line that begins with `---` ends, behind its newline.
fn last_line(bytes: &[u8]) -> Option<usize> {
    let begin = bytes.windows(5).position(|window| window == b"\n--- ")? + 1;
    let rest = bytes.get(begin..)?;
    Some(begin + rest.iter().position(|byte| *byte == b'\n')? + 1)
}

/// The lines of a stanza's body: full ones of 64 columns, and a shorter one at the end.
fn stanza_body<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Result<Vec<u8>, AgeError> {
    let mut body = Vec::new();
    for line in lines {
        let bytes = decode(line).filter(|_| line.len() <= 64);
        body.extend(bytes.ok_or(AgeError::Header("a stanza's body is malformed"))?);
        if line.len() < 64 {
            return Ok(body);
        }
    }
    Err(AgeError::Header("a stanza does not end"))
}

fn x25519_stanza(words: &str, body: &[u8]) -> Result<Option<Stanza>, AgeError> {
    let mut words = words.split(' ');
    if words.next() != Some("X25519") {
        return Ok(None);
    }
    let malformed = || AgeError::Header("an X25519 stanza is malformed");
    let share = words.next().filter(|_| words.next().is_none()).and_then(decode).ok_or_else(malformed)?;
    let share = share.try_into().map_err(|_| malformed())?;
    Ok(Some((share, body.try_into().map_err(|_| malformed())?)))
}

fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

/// What a file is encrypted with.
pub struct FileKey(Zeroizing<[u8; FILE_KEY_BYTES]>);

impl FileKey {
    /// Opens the payload whose nonce this is.
    ///
    /// # Errors
    /// None in practice: `ring`'s.
    pub fn payload(&self, nonce: &[u8; NONCE_BYTES]) -> Result<Opener, AgeError> {
        Opener::of_key(&*derive(&*self.0, nonce, b"payload")?)
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileKey")
    }
}

/// Opens chunks in their order.
pub struct Opener {
    key: LessSafeKey,
    counter: u64,
    ended: bool,
}

impl Opener {
    /// Opens with a payload's key itself: for checks.
    ///
    /// # Errors
    /// None in practice: `ring`'s.
    pub fn of_key(key: &[u8; 32]) -> Result<Self, AgeError> {
        Ok(Self { key: cipher(key)?, counter: 0, ended: false })
    }

    /// Opens the next chunk, as it came, with its tag; `last` says whether nothing follows. Gives the plain bytes.
    ///
    /// # Errors
    /// When it is not exactly what was sealed there.
    pub fn chunk<'a>(&mut self, sealed: &'a mut [u8], last: bool) -> Result<&'a [u8], AgeError> {
        let failed = AgeError::Chunk(self.counter);
        let full = sealed.len() == CHUNK_BYTES + TAG_BYTES;
        // Only the last may be shorter, and empty it is only when it is the first.
        let empty = sealed.len() <= TAG_BYTES;
        if self.ended
            || (!last && !full)
            || sealed.len() > CHUNK_BYTES + TAG_BYTES
            || (empty && self.counter > 0)
        {
            return Err(failed);
        }
        let nonce = chunk_nonce(self.counter, last)?;
        let plain = self.key.open_in_place(nonce, Aad::empty(), sealed).map_err(|_| failed)?;
        self.counter += 1;
        self.ended = last;
        Ok(plain)
    }
}
