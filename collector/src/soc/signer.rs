//! What an operator signs with: a key of `soc keygen`, or one of OpenSSH.

use picket_protocol::crypto::SigningKey;
use picket_protocol::dsse::Envelope;
use picket_protocol::finding::printable;
use picket_protocol::signer::{SignerKey, namespace};

use super::args::SignArguments;
use super::error::SocError;
use super::ssh_key::SshSigner;
use super::{Session, key_file};

/// A key that can sign.
pub(super) enum Signer {
    /// Of `soc keygen`.
    File(SigningKey),
    /// Of OpenSSH.
    Ssh(SshSigner),
}

impl Signer {
    /// The key that the command line names, or `operator.key` beside the configuration.
    pub fn open(session: &Session, arguments: &SignArguments) -> Result<Self, SocError> {
        if let Some(path) = &arguments.ssh_key {
            return SshSigner::open(path).map(Self::Ssh);
        }
        let path = match &arguments.key {
            Some(path) => path.clone(),
            None => session.config_path()?.with_file_name("operator.key"),
        };
        key_file::read(&path).map(Self::File)
    }

    /// Its public half.
    pub fn public(&self) -> SignerKey {
        match self {
            Self::File(key) => key.public().into(),
            Self::Ssh(signer) => signer.key().clone().into(),
        }
    }

    /// Adds its signature to `envelope`, in place of one that it made before.
    pub fn sign(&self, envelope: &mut Envelope) -> Result<(), SocError> {
        let failing = |error: picket_protocol::dsse::DsseError| {
            SocError::Failing(printable(&error.to_string()).into_owned())
        };
        match self {
            Self::File(key) => envelope.sign(key).map_err(failing),
            Self::Ssh(signer) => {
                let space = namespace(envelope.payload_type()).ok_or_else(|| {
                    SocError::Bad("an SSH key signs commands and trust roots only".to_owned())
                })?;
                let signature = signer.sign(space, &envelope.to_sign().map_err(failing)?)?;
                envelope.add(self.public().id(), &signature).map_err(failing)
            }
        }
    }
}
