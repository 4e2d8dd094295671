//! What the core knows of the collector: who this host is to it, and when it last cosigned.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use picket_protocol::checkpoint::verify_cosignature;
use picket_protocol::note::Note;
use picket_protocol::time::Timestamp;

use super::joining::JoinStatus;
use crate::enrolment::Enrolment;
use crate::layout::Layout;
use crate::ledger::{Heads, Reader};
use crate::uplink::pending::JoinReport;

/// Who this host is, once it is enrolled, and what waits for that; shared by those who show it or judge by it.
#[derive(Clone, Default)]
pub struct Identity(Arc<Mutex<Option<Enrolment>>>, JoinStatus);

impl Identity {
    /// The enrolment, when there is one.
    pub fn get(&self) -> Option<Enrolment> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How a join string that waits fares; none when the host is enrolled.
    pub fn join_report(&self, layout: &Layout) -> Option<JoinReport> {
        if self.get().is_some() { None } else { self.1.report(layout) }
    }

    pub(super) fn join_status(&self) -> JoinStatus {
        self.1.clone()
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
