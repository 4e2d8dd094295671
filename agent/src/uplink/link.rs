//! The core's end of the link, as the rest of the core sees it: what it is given, and how it is started. The work
//! is in `uplink::driver`, the decisions are in [`super::session`].

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;

use picket_protocol::crypto::Hash;
use picket_protocol::message::Batch;
use picket_protocol::note::NoteError;

use crate::config::UplinkConfig;
use crate::enrolment::Enrolment;
use crate::layout::Layout;
use crate::ledger::Sealer;
use crate::sys::{Account, AccountError, Stop};

use super::beside::CertificateFile;
use super::driver::Driver;
use super::evidence::Upload;
use super::session::Session;
use super::status::LinkStatus;

/// What the link is given.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Where the uplink's files are.
    pub layout: Layout,
    /// `[uplink]` of the configuration.
    pub uplink: UplinkConfig,
    /// Who we are and whom we report to.
    pub enrolment: Enrolment,
    /// Facts about the host, for `hello`.
    pub facts: serde_json::Value,
    /// The program to start as `<program> uplink`: `/proc/self/exe`.
    pub program: PathBuf,
}

/// Why the ledger did not answer. The link keeps what it knows and asks again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ledger cannot be read: {0}")]
pub struct SourceError(pub String);

/// What the link needs of the ledger.
pub trait LedgerSource: Send {
    /// How many records are sealed and durable.
    fn size(&mut self) -> Result<u64, SourceError>;
    /// How many the collector is known to hold.
    fn acknowledged(&mut self) -> Result<u64, SourceError>;
    /// The newest signed checkpoint; empty when the ledger is.
    fn latest_checkpoint(&mut self) -> Result<String, SourceError>;
    /// The newest checkpoint with the collector's cosignature; empty when there is none.
    fn cosigned(&mut self) -> Result<String, SourceError>;
    /// Our root over the first `size` records; `None` when we have fewer.
    fn root(&mut self, size: u64) -> Result<Option<Hash>, SourceError>;
    /// The next batch from place `from`, within the protocol's bounds; `None` when nothing is there yet.
    fn batch(&mut self, from: u64) -> Result<Option<Batch>, SourceError>;
    /// Makes durable that the collector cosigned this checkpoint.
    fn acknowledge(&mut self, note: &str) -> Result<(), SourceError>;
    /// A descriptor that is readable when the ledger may have grown since [`LedgerSource::clear_wake`].
    fn wake(&self) -> BorrowedFd<'_>;
    /// Makes it unreadable until the next growth. Called before the size is read.
    fn clear_wake(&mut self);
}

/// Where commands and trust roots go. Called on the link's thread: it must not wait for long. Both say whether it was taken; what was
/// not the link has sent again, by a connection of its own.
pub trait CommandSink: Send + Sync {
    /// A DSSE envelope that claims to be a command, unverified, at most `ENVELOPE_BYTES_MAX` long.
    fn command(&self, envelope: Vec<u8>) -> bool;
    /// A DSSE envelope that claims to be a trust root, unverified, at most `ENVELOPE_BYTES_MAX` long.
    fn trust(&self, envelope: Vec<u8>) -> bool;
}

/// Why the link cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `uplink.user`.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The witness key in the enrolment.
    #[error("the enrolment's witness key: {0}")]
    Witness(#[from] NoteError),
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// The running link.
#[derive(Debug)]
pub struct LinkHandle {
    thread: std::thread::JoinHandle<()>,
}

impl LinkHandle {
    /// Waits until the link has ended, which it does when the stop signal is set.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the link's thread panicked");
        }
    }
}

/// Starts the link.
pub fn start(
    config: LinkConfig,
    ledger: Box<dyn LedgerSource>,
    sealer: Sealer,
    sink: Arc<dyn CommandSink>,
    upload: Upload,
    stop: Stop,
    status: LinkStatus,
) -> Result<LinkHandle, StartError> {
    let account = uplink_account(&config.uplink.user)?;
    let witness = config.enrolment.witness_key()?;
    status.update(|report| report.address = config.enrolment.address.clone());
    let session = Session::new(config.enrolment.agent.origin(), witness);
    let certificate = CertificateFile::new(config.layout.tls_certificate());
    let driver = Driver {
        config,
        account,
        ledger,
        sealer,
        sink,
        upload,
        stop,
        status,
        session,
        failures: 0,
        told_forked: false,
        certificate,
        renewed_beside: false,
        last_words: None,
    };
    let thread = std::thread::Builder::new().name("link".to_owned()).spawn(move || driver.run())?;
    Ok(LinkHandle { thread })
}

/// As whom the uplink runs: the configured user, or, for an agent that is not root itself (tests, trials), us.
pub fn uplink_account(user: &str) -> Result<Option<Account>, AccountError> {
    if rustix::process::geteuid().is_root() { Account::find(user).map(Some) } else { Ok(None) }
}
