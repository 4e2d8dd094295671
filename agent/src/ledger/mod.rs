//! The ledger: seal, keep, hand out, forget. SQLite, one writer.
//!
//! The writer thread takes [`Entry`]s from a bounded queue and commits what has gathered in one transaction
//! (at most 1,024 records): records, tree, signed checkpoint, and the state that the sender gave with them.
//! A sensor's position therefore never runs ahead of, or falls behind, the findings it led to.
//!
//! - [`Sealer`] is what senders hold, [`Heads`] tells at once that the ledger has grown, [`LedgerHealth`] how it fares.
//! - [`Reader`] has a connection of its own and sees only what is durable.
//! - What is sealed stays: bytes are forgotten by the rules in [`crate::config::LedgerConfig`], leaf hashes,
//!   checkpoints and `key` records never.
//! - A full or failing disk delays and never loses: entries wait, senders wait behind them.

mod error;
mod heads;
mod health;
mod keys;
mod lock;
mod marker;
mod owner;
mod proof;
mod reader;
mod retention;
mod rows;
mod schema;
mod sealer;
mod session;
mod store;
mod verdict;
mod verify;
mod writer;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use picket_protocol::identity::AgentId;
use picket_protocol::note::VerifierKey;

pub use error::{AcknowledgeError, LedgerError};
pub use heads::{Head, Heads};
pub use health::{LedgerHealth, LedgerReport};
pub use keys::{
    HAND_OVERS_WAITING_MAX, KeyDirectory, KeyFiles, KeyTurn, Seed, create_first_key, key_name, key_number,
};
pub use lock::Lock;
pub use marker::Marker;
pub use owner::agent_of;
pub(crate) use owner::of_origin;
pub use proof::{KNOWN_HAND_OVERS, prove_key};
pub use reader::{BatchLimits, KeptRecord, Reader, RecordFilter};
pub use schema::{Location, STATE_VERSION, read_connection};
pub use sealer::{Acknowledged, Entry, QUEUE_ENTRIES_MAX, SealError, Sealed, Sealer, StateWrite};
pub use store::{CLOCK_JUMP_MIN, Committed, Now, Outcome, Store};
pub use verdict::{Anchors, PROBLEMS_MAX, Problem, VerifyReport};

use crate::config::LedgerConfig;
use crate::layout::Layout;
use crate::sys::Stop;

/// The open ledger: holds the lock and the writer thread. Shared by reference between threads.
pub struct Ledger {
    sealer: Sealer,
    heads: Heads,
    health: LedgerHealth,
    database: PathBuf,
    stop: Stop,
    writer: Mutex<Option<JoinHandle<()>>>,
    _lock: Lock,
}

impl Ledger {
    /// Opens the ledger of `agent` below `layout`, or starts it, and creates the tables in `schemas`
    /// (`CREATE TABLE IF NOT EXISTS …`) beside its own. Fails when another process has it open.
    pub fn open(
        layout: &Layout,
        config: &LedgerConfig,
        agent: AgentId,
        schemas: &[&str],
    ) -> Result<Self, LedgerError> {
        let keys = KeyDirectory::open(layout.ledger_keys())?;
        let lock = Lock::take(&layout.lock())?;
        let database = layout.database();
        let location = Location::file(database.clone());
        let store = Store::open(&location, Box::new(keys), config.clone(), agent, schemas, Now::read())?;
        let failed = |source| LedgerError::Io { path: layout.core(), source };
        let heads = Heads::new(store.head()).map_err(failed)?;
        let stop = Stop::new().map_err(failed)?;
        let health = LedgerHealth::default();
        health.update(|report| report.key = store.key_number());
        let (sealer, queue) = Sealer::with_health(health.clone());
        let writer = writer::Writer {
            store,
            queue,
            heads: heads.clone(),
            health: health.clone(),
            stop: stop.clone(),
            enrolment: layout.enrolment(),
            shrunk: crate::clock::since_boot(),
        };
        let thread = std::thread::Builder::new().name("ledger".to_owned()).spawn(move || writer.run());
        let writer = Mutex::new(Some(thread.map_err(failed)?));
        Ok(Self { sealer, heads, health, database, stop, writer, _lock: lock })
    }

    /// Where records are handed in.
    pub fn sealer(&self) -> Sealer {
        self.sealer.clone()
    }

    /// How far the ledger is, and how to wait for more.
    pub fn heads(&self) -> Heads {
        self.heads.clone()
    }

    /// How it fares.
    pub fn health(&self) -> LedgerHealth {
        self.health.clone()
    }

    /// A reading side with a connection of its own.
    pub fn reader(&self) -> Result<Reader, LedgerError> {
        Reader::open(&self.database)
    }

    /// Takes the collector's cosigned checkpoint: verifies that it is ours, over this very tree, and that
    /// `witness` cosigned it, and stores it durably when it is the newest.
    ///
    /// # Errors
    /// [`AcknowledgeError::Fork`] and [`AcknowledgeError::Ahead`] are for the caller to report as critical.
    pub fn acknowledge(
        &self,
        note: &str,
        witness: &VerifierKey,
        timeout: Duration,
    ) -> Result<Acknowledged, AcknowledgeError> {
        self.sealer.acknowledge(note, witness, timeout)
    }

    /// Seals what is queued, then ends the writer. Senders that come later are told that it has stopped.
    pub fn stop(&self) {
        self.stop.set();
        self.sealer.wake();
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the ledger's writer ended by a panic");
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.stop();
    }
}
