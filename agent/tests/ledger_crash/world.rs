//! A ledger on a [`Disk`], operations on it, and the plain model that it is compared with.

use std::time::Duration;

use picket_agent::config::LedgerConfig;
use picket_agent::ledger::{
    Anchors, BatchLimits, Entry, Location, Now, Outcome, Reader, SealError, Seed, StateWrite, Store,
};
use picket_protocol::checkpoint::{Checkpoint, SignedCheckpoint};
use picket_protocol::crypto::{Hash, SigningKey};
use picket_protocol::finding::Severity;
use picket_protocol::identity::AgentId;
use picket_protocol::message::Leaf;
use picket_protocol::note::{KeyKind, Note, VerifierKey};
use picket_protocol::record::{Draft, Kind, Lifecycle, Record};
use picket_protocol::time::Timestamp;
use picket_protocol::tree::{Frontier, leaf_hash};

use crate::disk::{Disk, Fault};
use crate::keys::DiskKeys;
use crate::vfs;

pub const DATABASE: &str = "/agent.db";
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS seen (entry INTEGER PRIMARY KEY) STRICT;";

/// What an entry brings: its records by severity and length, and whether its state change goes through.
#[derive(Clone, Debug)]
pub struct EntrySpec {
    pub records: Vec<(u8, u16)>,
    pub state: StateSpec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateSpec {
    None,
    Good,
    Refused,
}

/// One step of a history.
#[derive(Clone, Debug)]
pub enum Operation {
    Commit {
        entries: Vec<EntrySpec>,
        seconds: u16,
    },
    /// The collector cosigns the checkpoint at this part (of 255) of all checkpoints.
    Acknowledge {
        part: u8,
    },
    Rotate,
    Shrink,
    Reopen,
    ClockSet {
        seconds: i32,
    },
    Fault {
        after: u8,
    },
}

pub fn config() -> LedgerConfig {
    LedgerConfig {
        retention_bytes: 4_000,
        retention_age: Duration::from_secs(3_000),
        disk_bytes_max: 9_000,
        key_lifetime: Duration::from_secs(86_400),
    }
}

pub fn agent() -> AgentId {
    AgentId::parse("0192f0c0-1111-7222-8333-444455556666").expect("a valid id")
}

pub fn first_seed() -> Seed {
    Seed::new([1; 32])
}

fn witness_key() -> SigningKey {
    SigningKey::from_seed([9; 32])
}

pub fn witness() -> VerifierKey {
    VerifierKey::new("collector.test", KeyKind::Cosignature, witness_key().public()).expect("a key name")
}

/// The ledger's own record, or one that an entry brought.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    Entry { bytes: Vec<u8>, severity: u8 },
    Own,
}

/// All that is in the database, to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    pub size: u64,
    leaves: Vec<(Hash, Option<Vec<u8>>)>,
    checkpoint: String,
    pub acknowledged: u64,
    cosigned: String,
    seen: Vec<i64>,
    pub keys: usize,
}

impl Dump {
    pub fn read(location: &Location) -> Self {
        let reader = Reader::open_at(location).expect("a reader");
        let size = reader.size().expect("size");
        let leaf = |seq| {
            let leaf = reader.record(seq).expect("read").unwrap_or_else(|| panic!("record {seq} is missing"));
            let hash = leaf.hash();
            (hash, if let Leaf::Record(bytes) = leaf { Some(bytes) } else { None })
        };
        let connection = rusqlite::Connection::open_with_flags_and_vfs(
            DATABASE,
            rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE,
            location.vfs.as_deref().expect("a layer"),
        );
        let connection = connection.expect("a connection");
        let mut statement = connection.prepare("SELECT entry FROM seen ORDER BY entry").expect("prepared");
        let seen = statement.query_map([], |row| row.get(0)).expect("queried");
        Self {
            size,
            leaves: (0..size).map(leaf).collect(),
            checkpoint: reader.latest_checkpoint().expect("a checkpoint"),
            acknowledged: reader.acknowledged().expect("acknowledged"),
            cosigned: reader.cosigned().expect("cosigned"),
            seen: seen.collect::<Result<_, _>>().expect("read"),
            keys: reader.hand_overs().expect("keys").len() + 1,
        }
    }

    fn kept(&self, seq: u64) -> bool {
        self.leaves.get(usize::try_from(seq).expect("small")).is_some_and(|leaf| leaf.1.is_some())
    }

    fn kind(&self, seq: u64) -> Option<Kind> {
        let bytes = self.leaves.get(usize::try_from(seq).expect("small"))?.1.as_ref()?;
        Some(Record::parse_at(bytes, seq).expect("a record").kind)
    }
}

pub struct World {
    disk: &'static Disk,
    pub location: Location,
    store: Option<Store>,
    now: Now,
    last_time: Timestamp,
    expected: Vec<Expected>,
    seen: Vec<i64>,
    next_entry: i64,
    /// What was there after each operation so far.
    pub dumps: Vec<Dump>,
}

impl World {
    /// A new ledger on an empty disk that only holds the first key.
    pub fn start(disk: &'static Disk, layer: &str, seed: u64, imagine: bool) -> Self {
        disk.reset(seed);
        vfs::release_shared(disk);
        let location = Location { path: DATABASE.into(), vfs: Some(layer.to_owned()) };
        picket_agent::ledger::KeyFiles::write(&DiskKeys(disk), 0, &first_seed()).expect("the first key");
        disk.state().make(DATABASE);
        disk.state().sync_names();
        if imagine {
            disk.state().images = Some(Vec::new());
            disk.state().imagine();
        }
        let now = Now { wall: Timestamp::from_seconds(1_800_000_000), boot: Duration::from_secs(100) };
        let mut world = Self {
            disk,
            location,
            store: None,
            now,
            last_time: now.wall,
            expected: Vec::new(),
            seen: Vec::new(),
            next_entry: 0,
            dumps: Vec::new(),
        };
        world.open();
        world.finish_operation();
        world
    }

    /// Opens what a crash left.
    pub fn reopen(disk: &'static Disk, layer: &str) -> Store {
        vfs::release_shared(disk);
        let location = Location { path: DATABASE.into(), vfs: Some(layer.to_owned()) };
        let now = Now { wall: Timestamp::from_seconds(1_900_000_000), boot: Duration::from_secs(10) };
        Store::open(&location, Box::new(DiskKeys(disk)), config(), agent(), &[SCHEMA], now)
            .unwrap_or_else(|error| panic!("what the crash left cannot be opened: {error}"))
    }

    fn open(&mut self) {
        let keys = Box::new(DiskKeys(self.disk));
        let store = Store::open(&self.location, keys, config(), agent(), &[SCHEMA], self.now);
        self.store = Some(store.expect("the ledger opens"));
    }

    fn finish_operation(&mut self) {
        // Reading back is not part of the history.
        let images = self.disk.state().images.take();
        let dump = Dump::read(&self.location);
        self.check(&dump);
        self.dumps.push(dump);
        let mut state = self.disk.state();
        state.images = images;
        state.operation += 1;
        state.imagine();
    }

    pub fn run(&mut self, operation: &Operation) {
        match operation {
            Operation::Commit { entries, seconds } => {
                self.pass(Duration::from_secs(u64::from(*seconds)));
                self.commit(entries);
            }
            Operation::Acknowledge { part } => self.acknowledge(*part),
            Operation::Rotate => self.rotate(),
            Operation::Shrink => self.store.as_mut().expect("open").shrink().expect("shrunk"),
            Operation::Reopen => {
                self.store = None;
                self.open();
            }
            Operation::ClockSet { seconds } => {
                let nanos = i64::from(*seconds) * 1_000_000_000;
                self.now.wall = Timestamp::from_nanos(self.now.wall.nanos() + nanos);
            }
            Operation::Fault { after } => {
                self.disk.state().fault = Some(Fault { after: u32::from(*after) });
                return;
            }
        }
        self.finish_operation();
    }

    fn pass(&mut self, time: Duration) {
        self.now = Now { wall: self.now.wall.plus(time), boot: self.now.boot + time };
    }

    fn commit(&mut self, specs: &[EntrySpec]) {
        let first_entry = self.next_entry;
        let mut group: Vec<Entry> = specs.iter().map(|spec| self.entry(spec)).collect();
        let store = self.store.as_mut().expect("open");
        let committed = loop {
            // A failure strikes once; the very same entries are tried again, as the writer thread does.
            if let Ok(committed) = store.commit(&mut group, self.now) {
                break committed;
            }
        };
        let time = self.now.wall.max(self.last_time);
        for (number, ((spec, entry), outcome)) in
            (first_entry..).zip(specs.iter().zip(&group).zip(committed.outcomes))
        {
            match outcome {
                Outcome::Sealed(sealed) => {
                    assert_ne!(spec.state, StateSpec::Refused, "a refused state change was committed");
                    self.fill_own(sealed.first);
                    assert_eq!(sealed.count, u64::try_from(entry.drafts.len()).expect("small"));
                    for (seq, draft) in (sealed.first..).zip(&entry.drafts) {
                        let severity = draft.severity.rank();
                        self.expected.push(Expected::Entry { bytes: draft.render(seq, time), severity });
                    }
                    if spec.state == StateSpec::Good {
                        self.seen.push(number);
                    }
                }
                Outcome::Rejected(error) => {
                    assert_eq!(spec.state, StateSpec::Refused, "refused without a reason: {error}");
                    assert!(matches!(error, SealError::Rejected(_)));
                }
                Outcome::Acknowledged(_) => panic!("nothing was acknowledged"),
            }
        }
        let size = self.store.as_ref().expect("open").head().size;
        if size > u64::try_from(self.dumps.last().map_or(0, |dump| dump.leaves.len())).expect("small") {
            self.last_time = time;
        }
        self.fill_own(size);
    }

    /// Places that the ledger filled itself.
    fn fill_own(&mut self, size: u64) {
        let size = usize::try_from(size).expect("small");
        assert!(self.expected.len() <= size, "records were sealed over others");
        self.expected.resize(size, Expected::Own);
    }

    fn entry(&mut self, spec: &EntrySpec) -> Entry {
        let number = self.next_entry;
        self.next_entry += 1;
        let drafts = spec.records.iter().map(|(severity, length)| {
            let severity = Severity::ALL[usize::from(*severity) % 5];
            let title = format!("entry {number} {}", "x".repeat(usize::from(*length)));
            let body = Lifecycle { event: "entry".to_owned(), title, detail: serde_json::Value::Null };
            Draft::new(Kind::Lifecycle, severity, &body).expect("a draft")
        });
        let insert: StateWrite = Box::new(move |transaction| {
            transaction.execute("INSERT INTO seen (entry) VALUES (?1)", [number]).map(|_| ())
        });
        let writes = match spec.state {
            StateSpec::None => Vec::new(),
            StateSpec::Good => vec![insert],
            StateSpec::Refused => {
                let again: StateWrite = Box::new(move |transaction| {
                    transaction.execute("INSERT INTO seen (entry) VALUES (?1)", [number]).map(|_| ())
                });
                vec![insert, again]
            }
        };
        Entry::new(drafts.collect(), writes)
    }

    fn acknowledge(&mut self, part: u8) {
        let images = self.disk.state().images.take();
        let reader = Reader::open_at(&self.location).expect("a reader");
        let mut notes = Vec::new();
        let mut from = 0;
        while let Some(batch) =
            reader.batch(from, BatchLimits { records: 1, bytes: 1 }).expect("a batch or the end")
        {
            from += u64::try_from(batch.leaves.len()).expect("small");
            notes.push(batch.checkpoint);
        }
        drop(reader);
        self.disk.state().images = images;
        if notes.is_empty() {
            return;
        }
        let note = &notes[usize::from(part) * notes.len() / 256];
        let cosigned = cosign(note);
        let store = self.store.as_mut().expect("open");
        let taken = loop {
            if let Ok(taken) = store.acknowledge(&cosigned, &witness(), self.now) {
                break taken.expect("a valid acknowledgement");
            }
        };
        let before = self.dumps.last().expect("opened").acknowledged;
        assert_eq!(taken.newer, taken.size > before);
        let size = store.head().size;
        self.fill_own(size);
    }

    fn rotate(&mut self) {
        let store = self.store.as_mut().expect("open");
        let time = self.now.wall.max(self.last_time);
        let n = u8::try_from(store.key_number() + 1).expect("few keys");
        let sealed = loop {
            if let Ok(sealed) = store.rotate(&Seed::new([100 + n; 32]), self.now) {
                break sealed;
            }
        };
        while store.erase_retired_keys().is_err() {}
        self.last_time = time;
        self.fill_own(sealed.first + 1);
    }

    /// Compares what is there with the model.
    fn check(&self, dump: &Dump) {
        assert_eq!(dump.size, u64::try_from(self.expected.len()).expect("small"), "records");
        assert_eq!(dump.seen, self.seen, "state changes");
        let mut frontier = Frontier::default();
        for ((seq, (leaf, bytes)), expected) in (0..).zip(&dump.leaves).zip(&self.expected) {
            frontier.append(*leaf, |_, _, _| {});
            match (expected, bytes) {
                (Expected::Entry { bytes, .. }, None) => assert_eq!(leaf_hash(bytes), *leaf, "leaf {seq}"),
                (Expected::Entry { bytes, .. }, Some(kept)) => assert_eq!(bytes, kept, "record {seq}"),
                (Expected::Own, None) => {}
                (Expected::Own, Some(kept)) => {
                    let record = Record::parse_at(kept, seq).expect("a record");
                    let clock = record.body::<Lifecycle>().is_ok_and(|body| body.event == "clock-jump");
                    assert!(
                        matches!(record.kind, Kind::Gap | Kind::Key) || clock,
                        "record {seq} is nobody's"
                    );
                }
            }
        }
        if dump.size > 0 {
            let note = Note::parse(dump.checkpoint.as_bytes()).expect("a note");
            let checkpoint = Checkpoint::parse(note.text()).expect("a checkpoint");
            assert_eq!((checkpoint.size, checkpoint.root), (dump.size, frontier.root()), "root");
        }
        let bytes = |seq: u64| {
            let kept = dump.leaves[usize::try_from(seq).expect("small")].1.as_ref();
            u64::try_from(kept.map_or(0, Vec::len)).expect("small")
        };
        let (mut kept, mut waiting) = (0, 0);
        for seq in (0..dump.size).filter(|seq| dump.kind(*seq) != Some(Kind::Key)) {
            if seq < dump.acknowledged {
                kept += bytes(seq);
            } else if dump.kind(seq) != Some(Kind::Gap) {
                waiting += bytes(seq);
            }
        }
        let counted = self.store.as_ref().expect("open").kept_bytes();
        assert_eq!(counted, (kept, waiting), "bytes kept of acknowledged and of waiting records");
        if let Some(before) = self.dumps.last() {
            self.check_forgetting(before, dump);
        }
    }

    /// What waits is given up only by the rules: mildest first, and the bound holds.
    fn check_forgetting(&self, before: &Dump, after: &Dump) {
        assert!(after.acknowledged >= before.acknowledged, "the acknowledged size went back");
        let (mut waiting, mut worst_lost, mut mildest_kept) = (0, None, None);
        for (seq, expected) in (after.acknowledged..)
            .zip(self.expected.iter().skip(usize::try_from(after.acknowledged).expect("small")))
        {
            let Expected::Entry { bytes, severity } = expected else {
                // A gap or key record that waits is never given up; a clock-jump may be.
                continue;
            };
            if after.kept(seq) {
                waiting += bytes.len();
                if seq < before.size {
                    mildest_kept = mildest_kept.min(Some(*severity)).or(Some(*severity));
                }
            } else if before.kept(seq) {
                worst_lost = worst_lost.max(Some(*severity));
            }
        }
        let bound = usize::try_from(config().disk_bytes_max).expect("small");
        assert!(waiting <= bound, "{waiting} bytes wait, more than {bound}");
        if let (Some(lost), Some(kept)) = (worst_lost, mildest_kept) {
            assert!(lost <= kept, "severity {lost} was given up while {kept} was kept");
        }
        for seq in 0..before.size {
            let kind = before.kind(seq);
            let spared = kind == Some(Kind::Key) || (kind == Some(Kind::Gap) && seq >= after.acknowledged);
            assert!(!spared || after.kept(seq), "record {seq}, which must stay, was forgotten");
        }
    }
}

/// Adds the witness's signature to a checkpoint by whatever key.
fn cosign(note: &str) -> String {
    let parsed = Note::parse(note.as_bytes()).expect("a note");
    let key = (0..=100)
        .map(|n: u8| SigningKey::from_seed(if n == 0 { [1; 32] } else { [100 + n; 32] }).public())
        .map(|key| VerifierKey::new(&agent().origin(), KeyKind::Ed25519, key).expect("a key name"))
        .find(|key| parsed.verify(key).is_ok());
    let mut signed = SignedCheckpoint::open(note.as_bytes(), &key.expect("one of our keys")).expect("signed");
    signed
        .cosign("collector.test", &witness_key(), Timestamp::from_seconds(1_800_000_000))
        .expect("cosigned");
    signed.to_text()
}

/// Seals more on what a crash left, rotates the key, and checks the whole ledger.
pub fn carry_on(mut store: Store, location: &Location, keys: &DiskKeys) {
    let n = store.key_number();
    let files = picket_agent::ledger::KeyFiles::list(keys).expect("listed");
    assert_eq!(files, [n], "only the key in force is left");
    let later = Now { wall: Timestamp::from_seconds(1_900_000_100), boot: Duration::from_secs(110) };
    let draft = Draft::new(Kind::Heartbeat, Severity::Info, &serde_json::json!({})).expect("a draft");
    let mut group = [Entry::new(vec![draft], Vec::new())];
    store.commit(&mut group, later).expect("sealed after the crash");
    store.rotate(&Seed::new([200; 32]), later).expect("rotated after the crash");
    store.erase_retired_keys().expect("erased after the crash");
    let reader = Reader::open_at(location).expect("a reader");
    let enrolled_key = Some(SigningKey::from_seed(*first_seed()).public());
    let anchors = Anchors { enrolled_key, witness: Some(witness()) };
    let report = reader.verify(&anchors, |_, _| {}).expect("verified");
    assert!(report.is_sound(), "{:?}", report.problems);
}
