//! The ledger as the link sees it.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::crypto::Hash;
use picket_protocol::message::Batch;
use picket_protocol::note::VerifierKey;

use crate::ledger::{BatchLimits, Heads, Ledger, LedgerError, Reader};

use super::link::{LedgerSource, SourceError};

/// How long the ledger may take to make an acknowledgement durable.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(30);

/// A reading connection of the link's own, and the ledger's writer for acknowledgements.
pub struct LedgerLink {
    reader: Reader,
    ledger: Arc<Ledger>,
    heads: Heads,
    witness: VerifierKey,
}

impl LedgerLink {
    /// For [`super::start`]. The link becomes the one that polls [`Heads`].
    pub fn new(ledger: Arc<Ledger>, witness: VerifierKey) -> Result<Self, LedgerError> {
        Ok(Self { reader: ledger.reader()?, heads: ledger.heads(), ledger, witness })
    }
}

fn failed(error: impl std::fmt::Display) -> SourceError {
    SourceError(error.to_string())
}

impl LedgerSource for LedgerLink {
    fn size(&mut self) -> Result<u64, SourceError> {
        Ok(self.heads.head().size)
    }

    fn acknowledged(&mut self) -> Result<u64, SourceError> {
        Ok(self.heads.head().acknowledged)
    }

    fn latest_checkpoint(&mut self) -> Result<String, SourceError> {
        self.reader.latest_checkpoint().map_err(failed)
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
        self.ledger.acknowledge(note, &self.witness, ACKNOWLEDGE_TIMEOUT).map(drop).map_err(failed)
    }

    fn wake(&self) -> BorrowedFd<'_> {
        self.heads.as_fd()
    }

    fn clear_wake(&mut self) {
        self.heads.clear();
    }
}
