//! Why a host is not enrolled, or its certificate not renewed, and what that means for the join string.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::finding::printable;
use picket_protocol::identity::AgentId;

use crate::core::directories::DirectoryError;
use crate::enrolment::EnrolmentError;
use crate::ledger::LedgerError;
use crate::sys::AccountError;
use crate::uplink::ipc::IpcError;

/// Why this host is not enrolled now. Unless said otherwise it may be tried again with the same join string.
#[derive(Debug, thiserror::Error)]
pub enum JoiningError {
    /// It is, already.
    #[error(
        "this host is already enrolled, as {agent} of {tenant} at {address}; --renew gets a new certificate by this join string, id and ledger go on; --force gives the identity up: the ledger is moved aside, and what the collector lacks of it never comes"
    )]
    AlreadyEnrolled {
        /// The id.
        agent: AgentId,
        /// The tenant.
        tenant: String,
        /// The collector.
        address: String,
    },
    /// The enrolment that is there cannot be read.
    #[error(transparent)]
    Present(#[from] EnrolmentError),
    /// `uplink.user`.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// A file or directory.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory that others could change. Nothing was changed.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The ledger's key or database.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The TLS key.
    #[error("the TLS key: {0}")]
    Key(String),
    /// An agent or another enrolment holds the lock.
    #[error(
        "{0} is locked: stop the agent first (systemctl stop picket-agent), or wait for the other `agent enroll`"
    )]
    Busy(PathBuf),
    /// The uplink process could not be used.
    #[error("the uplink process: {0}")]
    Process(#[from] IpcError),
    /// The collector was not reached, or said something that is not an answer.
    #[error("{0}")]
    Network(String),
    /// The server at the address has another CA than the join string names. It saw no token.
    #[error("{0}")]
    Foreign(String),
    /// The collector cannot at the moment.
    #[error("the collector cannot enrol this host now: {detail}")]
    Later {
        /// What it said.
        detail: String,
        /// When it wants to be asked again.
        retry_after: Duration,
    },
    /// The collector refused: a new join string is needed in most cases.
    #[error("the collector refused: {0}; ask the vendor for a new join string (`collector token`)")]
    Refused(String),
    /// Its certificate is not renewed by this join string. Nothing was changed.
    #[error("the certificate is not renewed: {0}")]
    NotRenewed(String),
    /// `enrolment.json` is lost, and the collector does not take the host up again as who it is by keys and ledger. Nothing was changed.
    #[error(
        "the ledger of an enrolled host is here, its enrolment.json is not, and it could not be made anew: {0}; to begin anew, with the \
         ledger moved aside: agent enroll --force"
    )]
    NotRecovered(String),
    /// The certificate is not valid here and now.
    #[error("the certificate is of no use (is this host's clock right?): {0}")]
    Untimely(String),
    /// The collector's answer does not fit the join string or our keys. Nothing of it was kept.
    #[error("the collector's answer is not what the join string promised: {0}")]
    Unexpected(String),
    /// Moving the state aside would take their undo with it.
    #[error(
        "the agent does things to this host that a new identity could not end: {0}; end them first: sudo agent release --all, or, \
         where the agent does not run, sudo agent release --offline"
    )]
    InForce(String),
    /// The running agent's attempt is not wanted any more.
    #[error("the attempt was given up")]
    Unwanted,
}

/// What an error means for the join string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// The collector may take it another time; it may have said when.
    Later(Option<Duration>),
    /// It never will.
    Never,
    /// It was not asked: something on this host is in the way.
    Here,
}

impl JoiningError {
    /// What it means for the join string.
    pub fn prospect(&self) -> Prospect {
        match self {
            Self::Network(_) | Self::Untimely(_) => Prospect::Later(None),
            Self::Later { retry_after, .. } => Prospect::Later(Some(*retry_after)),
            Self::Foreign(_) | Self::Refused(_) | Self::Unexpected(_) | Self::NotRecovered(_) => {
                Prospect::Never
            }
            _ => Prospect::Here,
        }
    }
}

pub(in crate::uplink) fn file_error(path: &Path) -> impl FnOnce(io::Error) -> JoiningError {
    let path = path.to_owned();
    move |source| JoiningError::File { path, source }
}

pub(in crate::uplink) fn unexpected(why: impl std::fmt::Display) -> JoiningError {
    JoiningError::Unexpected(printable(&why.to_string()).into_owned())
}
