//! A host with a ledger, a collector that cosigns, and times as arguments.

use std::time::Duration;

use picket_agent::config::LedgerConfig;
use picket_agent::layout::Layout;
use picket_agent::ledger::{
    Entry, KeyDirectory, Ledger, Location, Now, Outcome, Reader, Sealed, Seed, StateWrite, Store,
    create_first_key,
};
use picket_protocol::checkpoint::SignedCheckpoint;
use picket_protocol::crypto::{PublicKey, SigningKey};
use picket_protocol::finding::Severity;
use picket_protocol::identity::AgentId;
use picket_protocol::note::{KeyKind, VerifierKey};
use picket_protocol::record::{Draft, Kind, Lifecycle};
use picket_protocol::time::Timestamp;

pub const WAIT: Duration = Duration::from_secs(60);
pub const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS seen (number INTEGER PRIMARY KEY) STRICT;";

pub fn config() -> LedgerConfig {
    LedgerConfig {
        retention_bytes: 512 << 20,
        retention_age: Duration::from_secs(30 * 86_400),
        disk_bytes_max: 2 << 30,
        key_lifetime: Duration::from_secs(86_400),
    }
}

pub fn agent() -> AgentId {
    AgentId::parse("0192f0c0-1111-7222-8333-444455556666").expect("a valid id")
}

pub struct Host {
    _directory: Option<tempfile::TempDir>,
    pub layout: Layout,
    pub key: PublicKey,
}

impl Host {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut host = Self::at(directory.path());
        host._directory = Some(directory);
        host
    }

    pub fn at(path: &std::path::Path) -> Self {
        let layout = Layout::new(&path.join("state"), &path.join("run"));
        let key = create_first_key(&layout).expect("a first key");
        Self { _directory: None, layout, key }
    }

    pub fn open(&self) -> Ledger {
        Ledger::open(&self.layout, &config(), agent(), &[SCHEMA]).expect("the ledger opens")
    }

    pub fn store(&self, config: LedgerConfig) -> Store {
        let keys = KeyDirectory::open(self.layout.ledger_keys()).expect("the key directory");
        let location = Location::file(self.layout.database());
        Store::open(&location, Box::new(keys), config, agent(), &[SCHEMA], at(0)).expect("the store opens")
    }

    pub fn reader(&self) -> Reader {
        Reader::open(&self.layout.database()).expect("a reader")
    }

    /// The database as an intruder with root would reach it.
    pub fn intruder(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.layout.database()).expect("a connection")
    }

    /// The collector's signature on a checkpoint that the first key signed.
    pub fn cosign(&self, note: &str) -> String {
        cosign_with(note, self.key)
    }
}

pub fn cosign_with(note: &str, key: PublicKey) -> String {
    let verifier = VerifierKey::new(&agent().origin(), KeyKind::Ed25519, key).expect("a key name");
    let mut signed = SignedCheckpoint::open(note.as_bytes(), &verifier).expect("a checkpoint of ours");
    signed
        .cosign("collector.test", &witness_key(), Timestamp::from_seconds(1_800_000_000))
        .expect("cosigned");
    signed.to_text()
}

pub fn witness_key() -> SigningKey {
    SigningKey::from_seed([9; 32])
}

pub fn witness() -> VerifierKey {
    VerifierKey::new("collector.test", KeyKind::Cosignature, witness_key().public()).expect("a key name")
}

/// Both clocks, `seconds` after the test began.
pub fn at(seconds: u64) -> Now {
    let time = Duration::from_secs(seconds);
    Now { wall: Timestamp::from_seconds(1_800_000_000).plus(time), boot: Duration::from_secs(100) + time }
}

pub fn draft_of(severity: Severity, number: u64, length: usize) -> Draft {
    let title = format!("number {number}{}", "x".repeat(length));
    let body = Lifecycle { event: "test".to_owned(), title, detail: serde_json::Value::Null };
    Draft::new(Kind::Lifecycle, severity, &body).expect("a draft")
}

pub fn draft(number: u64) -> Draft {
    draft_of(Severity::Info, number, 0)
}

pub fn insert(number: u64) -> StateWrite {
    let number = i64::try_from(number).expect("small");
    Box::new(move |transaction| {
        transaction.execute("INSERT INTO seen (number) VALUES (?1)", [number]).map(|_| ())
    })
}

pub fn commit(store: &mut Store, drafts: Vec<Draft>, now: Now) -> Sealed {
    let committed = store.commit(&mut [Entry::new(drafts, Vec::new())], now).expect("committed");
    match committed.outcomes.as_slice() {
        [Outcome::Sealed(sealed)] => *sealed,
        other => panic!("{other:?}"),
    }
}

pub fn seed(byte: u8) -> Seed {
    Seed::new([byte; 32])
}
