//! The join string that `collector token` prints and `agent enroll` takes:
//! `picket1.` and the base64url (RFC 4648 §5, no padding) of
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | flags: bit 0 set when a trust root digest follows; the others are 0 |
//! | 32 | one-time token |
//! | 32 | SHA-256 of the collector's CA certificate (DER) |
//! | 32 | SHA-256 of the trust root's payload, only with flag bit 0 |
//! | 3 to 255 | `host:port` of the collector, UTF-8 |
//! | 4 | first bytes of SHA-256 over all before: tells a torn copy from a wrong token |

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::crypto::{Hash, sha256};

/// What every join string of this version begins with.
pub const PREFIX: &str = "picket1.";
const CHECKSUM_BYTES: usize = 4;
const ADDRESS_BYTES_MAX: usize = 255;
const CONTENT_BYTES_MAX: usize = 1 + 3 * 32 + ADDRESS_BYTES_MAX + CHECKSUM_BYTES;
// Base64 makes four characters of three bytes.
const TEXT_BYTES_MAX: usize = CONTENT_BYTES_MAX.div_ceil(3) * 4;
const TRUST_ROOT_FLAG: u8 = 1;

/// What a join string says. The token is a secret: it is wiped when dropped and not printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Join {
    /// `host:port`.
    pub address: String,
    /// One-time secret, 256 bits.
    pub token: Zeroizing<[u8; 32]>,
    /// SHA-256 of the CA certificate in DER.
    pub ca: Hash,
    /// SHA-256 of the trust root's payload bytes, when the collector had one.
    pub trust_root: Option<Hash>,
}

/// Why a text is not a join string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Does not begin with [`PREFIX`].
    #[error("a join string begins with \"{PREFIX}\"; ask the vendor for one (`collector token`)")]
    Prefix,
    /// The checksum does not fit: letters are missing or changed.
    #[error("the join string was cut or changed on its way; copy it again, whole")]
    Damaged,
    /// Flags or an address that this version does not understand.
    #[error("the join string is for a newer agent or malformed")]
    Malformed,
}

impl Join {
    /// Parses a join string; white space around it is ignored.
    pub fn parse(text: &str) -> Result<Self, JoinError> {
        let data = text.trim().strip_prefix(PREFIX).ok_or(JoinError::Prefix)?;
        if data.len() > TEXT_BYTES_MAX {
            return Err(JoinError::Damaged);
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(data).map_err(|_| JoinError::Damaged)?);
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(JoinError::Damaged)?;
        if !sha256(&[content]).starts_with(checksum) {
            return Err(JoinError::Damaged);
        }
        let (flags, rest) = content.split_first().ok_or(JoinError::Malformed)?;
        let (token, rest) = rest.split_first_chunk::<32>().ok_or(JoinError::Malformed)?;
        let (ca, rest) = rest.split_first_chunk::<32>().ok_or(JoinError::Malformed)?;
        let (trust_root, rest) = match *flags {
            0 => (None, rest),
            TRUST_ROOT_FLAG => {
                rest.split_first_chunk::<32>().map(|(h, r)| (Some(*h), r)).ok_or(JoinError::Malformed)?
            }
            _ => return Err(JoinError::Malformed),
        };
        let address = std::str::from_utf8(rest).map_err(|_| JoinError::Malformed)?;
        if !is_address(address) {
            return Err(JoinError::Malformed);
        }
        Ok(Self { address: address.to_owned(), token: Zeroizing::new(*token), ca: *ca, trust_root })
    }

    /// The join string. Fails when the address is not `host:port`.
    pub fn to_text(&self) -> Result<String, JoinError> {
        if !is_address(&self.address) {
            return Err(JoinError::Malformed);
        }
        // Large enough from the start: a buffer that grows leaves copies of the token behind.
        let mut content = Zeroizing::new(Vec::with_capacity(CONTENT_BYTES_MAX));
        content.push(if self.trust_root.is_some() { TRUST_ROOT_FLAG } else { 0 });
        content.extend_from_slice(&*self.token);
        content.extend_from_slice(&self.ca);
        content.extend_from_slice(self.trust_root.as_ref().map_or(&[], |hash| hash.as_slice()));
        content.extend_from_slice(self.address.as_bytes());
        let [a, b, c, d, ..] = sha256(&[&content]);
        content.extend_from_slice(&[a, b, c, d]);
        Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*content)))
    }
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Join")
            .field("address", &self.address)
            .field("ca", &crate::crypto::hex(&self.ca))
            .finish()
    }
}

/// `host:port`: a name, IPv4 or bracketed IPv6, and a port from 1 in plain decimal.
pub fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_fits = match bare {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_')
        }
    };
    // `parse` alone would also take `+443` and `0443`.
    let port_fits = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
    address.len() <= ADDRESS_BYTES_MAX && host_fits && port_fits && port.parse::<u16>().is_ok()
}
