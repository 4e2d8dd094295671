//! The ledger as the link to the collector sees it, and the link's start.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use picket_protocol::checkpoint::verify_cosignature;
use picket_protocol::crypto::Hash;
use picket_protocol::message::Batch;
use picket_protocol::note::{Note, VerifierKey};
use picket_protocol::time::Timestamp;

use crate::enrolment::Enrolment;
use crate::layout::Layout;
use crate::ledger::{BatchLimits, Heads, Ledger, LedgerError, Reader};
use crate::uplink::{LedgerSource, SourceError};

/// How long an acknowledgement may take to be stored.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(30);

/// The link's view of the ledger: a read connection of its own, and the way to acknowledge.
pub struct Source {
    reader: Reader,
    ledger: Arc<Ledger>,
    heads: Heads,
    witness: VerifierKey,
}

impl Source {
    /// Opens the view.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn open(ledger: &Arc<Ledger>, witness: VerifierKey) -> Result<Self, LedgerError> {
        let (reader, heads) = (ledger.reader()?, ledger.heads());
        Ok(Self { reader, ledger: Arc::clone(ledger), heads, witness })
    }
}

fn failed(error: impl ToString) -> SourceError {
    SourceError(error.to_string())
}

impl LedgerSource for Source {
    fn size(&mut self) -> Result<u64, SourceError> {
        Ok(self.heads.head().size)
    }

    fn acknowledged(&mut self) -> Result<u64, SourceError> {
        Ok(self.heads.head().acknowledged)
    }

    fn latest_checkpoint(&mut self) -> Result<(u64, String), SourceError> {
        let text = self.reader.latest_checkpoint().map_err(failed)?;
        if text.is_empty() {
            return Ok((0, text));
        }
        let note = Note::parse(text.as_bytes()).map_err(failed)?;
        let checkpoint = picket_protocol::checkpoint::Checkpoint::parse(note.text()).map_err(failed)?;
        Ok((checkpoint.size, text))
    }

    fn cosigned(&mut self) -> Result<String, SourceError> {
        self.reader.cosigned().map_err(failed)
    }

    fn root(&mut self, size: u64) -> Result<Option<Hash>, SourceError> {
        match self.reader.root(size) {
            Ok(root) => Ok(Some(root)),
            Err(LedgerError::Beyond { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn batch(&mut self, from: u64) -> Result<Option<Batch>, SourceError> {
        self.reader.batch(from, BatchLimits::default()).map_err(failed)
    }

    fn acknowledge(&mut self, note: &str) -> Result<(), SourceError> {
        self.ledger.acknowledge(note, &self.witness, ACKNOWLEDGE_TIMEOUT).map(|_| ()).map_err(failed)
    }

    fn wake(&self) -> BorrowedFd<'_> {
        self.heads.as_fd()
    }
}

/// Who this host is, once it is enrolled; shared by those who show it or judge by it.
#[derive(Clone, Default)]
pub struct Identity(Arc<Mutex<Option<Enrolment>>>);

impl Identity {
    /// The enrolment, when there is one.
    pub fn get(&self) -> Option<Enrolment> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The host is enrolled now.
    pub fn set(&self, enrolment: Enrolment) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(enrolment);
    }
}

/// When the collector last cosigned, by its own clock: the size that it cosigned, and when. Read from the
/// database anew only when the ledger says that more was acknowledged.
#[derive(Clone)]
pub struct Cosigned {
    database: PathBuf,
    heads: Heads,
    identity: Identity,
    known: Arc<Mutex<Option<(u64, Timestamp)>>>,
}

impl Cosigned {
    /// A view on the ledger's newest cosignature.
    pub fn new(layout: &Layout, heads: Heads, identity: Identity) -> Self {
        Self { database: layout.database(), heads, identity, known: Arc::default() }
    }

    /// The newest cosignature; `None` before the first, or when it cannot be read.
    pub fn latest(&self) -> Option<(u64, Timestamp)> {
        let size = self.heads.head().acknowledged;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none_or(|(then, _)| then != size) && size > 0 {
            let read = self.read(size);
            *known = read.or(*known);
        }
        *known
    }

    fn read(&self, size: u64) -> Option<(u64, Timestamp)> {
        let witness = self.identity.get()?.witness_key().ok()?;
        let text = Reader::open(&self.database).ok()?.cosigned().ok()?;
        let note = Note::parse(text.as_bytes()).ok()?;
        Some((size, verify_cosignature(&note, &witness).ok()?))
    }
}
