//! Identities of age: secrets that open evidence. In files as `age-keygen` writes them.

use std::path::Path;

use picket_protocol::age::{AgeError, FileKey, Header, Recipient, parse_identity};
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};
use zeroize::Zeroizing;

use crate::soc::error::SocError;
use crate::soc::read_file;

/// Identities in one file.
const IDENTITIES_MAX: usize = 64;

/// The secrets of one file.
pub(super) struct Identity(Vec<Zeroizing<[u8; 32]>>);

impl Identity {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or holds none.
    pub fn read(path: &Path) -> Result<Self, SocError> {
        let bytes = Zeroizing::new(read_file(path)?);
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let secrets = lines.take(IDENTITIES_MAX).map(parse_identity).collect::<Result<Vec<_>, _>>();
        match secrets {
            Ok(secrets) if !secrets.is_empty() => Ok(Self(secrets)),
            Ok(_) => Err(SocError::Usage(format!("{}: there is no identity in it", path.display()))),
            Err(error) => Err(SocError::Usage(format!("{}: {error}", path.display()))),
        }
    }

    /// Opens the key of a file with whichever fits.
    ///
    /// # Errors
    /// When none does, or the header was changed.
    pub fn open(&self, header: &Header) -> Result<FileKey, AgeError> {
        let mut last = AgeError::NotForUs;
        for secret in &self.0 {
            let agree = |share: &[u8; 32]| {
                let shared = Zeroizing::new(x25519(**secret, *share));
                shared.iter().any(|byte| *byte != 0).then_some(shared)
            };
            match header.open(&recipient_of(secret), &agree) {
                Ok(key) => return Ok(key),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The public half of a secret.
pub(super) fn recipient_of(secret: &[u8; 32]) -> Recipient {
    Recipient(x25519(*secret, X25519_BASEPOINT_BYTES))
}
