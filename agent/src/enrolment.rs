//! `enrolment.json`: who this agent is and whom it reports to. Written by `agent enroll`; what makes an
//! enrolment count is that this file is there. Where it alone is lost, `agent enroll` makes it anew from keys and ledger.

use std::path::{Path, PathBuf};

use picket_protocol::crypto::PublicKey;
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::note::{KeyKind, VerifierKey};
use picket_protocol::time::Timestamp;

/// The file's content.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Enrolment {
    /// The agent's id: name of its ledger and of its certificate.
    pub agent: AgentId,
    /// Whose host it is.
    pub tenant: Tenant,
    /// `host:port` of the collector.
    pub address: String,
    /// The collector's witness key, as a vkey.
    pub witness: String,
    /// The ledger key that the collector was given.
    pub enrolled_key: PublicKey,
    /// The host's name at that time.
    pub hostname: String,
    /// When.
    pub enrolled: Timestamp,
}

/// Why there is no usable enrolment.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The file is not there.
    #[error("this host is not enrolled ({path} is missing); run: agent enroll 'picket1.…'")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what `agent enroll` wrote.
    #[error(
        "{path} is damaged ({why}); a new join string makes it anew, id and ledger go on: agent enroll 'picket1.…'"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Enrolment {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Self, EnrolmentError> {
        let bytes = match crate::layout::read_file(path, crate::layout::SMALL_FILE_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(EnrolmentError::Missing { path: path.to_owned() });
            }
            Err(source) => return Err(EnrolmentError::Read { path: path.to_owned(), source }),
        };
        let damaged = |why: String| EnrolmentError::Damaged { path: path.to_owned(), why };
        let enrolment: Self = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if !picket_protocol::join::is_address(&enrolment.address) {
            return Err(damaged("the address is not host:port".to_owned()));
        }
        enrolment.witness_key().map_err(|e| damaged(e.to_string()))?;
        Ok(enrolment)
    }

    /// Whether `other` is of the same host with the same collector, wherever that is found.
    pub fn is_same_host(&self, other: &Self) -> bool {
        (self.agent, &self.tenant, &self.witness) == (other.agent, &other.tenant, &other.witness)
            && self.enrolled_key == other.enrolled_key
    }

    /// The witness key, parsed.
    pub fn witness_key(&self) -> Result<VerifierKey, picket_protocol::note::NoteError> {
        let key = VerifierKey::parse(&self.witness)?;
        if key.kind() != KeyKind::Cosignature {
            return Err(picket_protocol::note::NoteError::BadKey("it is not a cosignature key".to_owned()));
        }
        Ok(key)
    }
}
