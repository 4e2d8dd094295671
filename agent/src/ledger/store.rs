//! The ledger's single writer as a plain object: no thread, no clock, no randomness. The writer thread and
//! the tests drive the same code.
//!
//! Each call is one transaction. When it fails, the object and the database are as before, and the same
//! call may be made again.

use std::time::Duration;

use picket_protocol::crypto::{PublicKey, SigningKey};
use picket_protocol::finding::Severity;
use picket_protocol::identity::AgentId;
use picket_protocol::note::VerifierKey;
use picket_protocol::record::{Draft, KeyRotation, Kind, Lifecycle};
use picket_protocol::time::Timestamp;
use picket_protocol::tree::{Frontier, leaf_hash};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use super::error::{AcknowledgeError, LedgerError, is_storage};
use super::heads::Head;
use super::keys::{HAND_OVERS_WAITING_MAX, KeyFiles, KeyTurn, Seed};
use super::rows::{StoredCheckpoint, StoredKey, StoredNodes, Totals, int, number};
use super::schema::{Location, open_writer};
use super::sealer::{Acknowledged, Acknowledgement, Entry, SealError, Sealed};
use super::session::{Mark, Session};
use crate::config::LedgerConfig;

/// The wall clock is said to have jumped when it moves this much more or less than the boot clock.
pub const CLOCK_JUMP_MIN: Duration = Duration::from_secs(5);

/// Both clocks, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// Time since boot, suspend included.
    pub boot: Duration,
}

impl Now {
    /// Reads the clocks.
    pub fn read() -> Self {
        Self { wall: crate::clock::now(), boot: crate::clock::since_boot() }
    }
}

/// What became of one entry of a group.
#[derive(Debug)]
pub enum Outcome {
    /// It is durable.
    Sealed(Sealed),
    /// A state change of its own failed; nothing of it was sealed.
    Rejected(SealError),
    /// An acknowledgement was judged.
    Acknowledged(Result<Acknowledged, AcknowledgeError>),
}

/// What a commit did.
#[derive(Debug, Default)]
pub struct Committed {
    /// For each entry in order.
    pub outcomes: Vec<Outcome>,
    /// Unacknowledged records whose bytes were given up.
    pub evicted: u64,
}

/// The ledger's writing side.
pub struct Store {
    connection: Connection,
    origin: String,
    config: LedgerConfig,
    keys: Box<dyn KeyFiles>,
    signer: Signer,
    frontier: Frontier,
    totals: Totals,
    last_time: Timestamp,
    last_clocks: Option<Now>,
}

/// The key in force, and the one that is to follow.
struct Signer {
    n: u64,
    key: SigningKey,
    created: Timestamp,
    /// On the boot clock, when this process first saw the key.
    seen: Option<Duration>,
    /// The next key once its file is durable: a rotation that failed may yet come to light after a crash,
    /// so the same key must be used when it is tried again.
    next: Option<SigningKey>,
}

impl Store {
    /// Opens the ledger of `agent`, or starts it with key 0. Checks that the newest checkpoint is signed by
    /// the key in force and that its root is the one of the tree as stored.
    pub fn open(
        location: &Location,
        keys: Box<dyn KeyFiles>,
        config: LedgerConfig,
        agent: AgentId,
        schemas: &[&str],
        now: Now,
    ) -> Result<Self, LedgerError> {
        let connection = open_writer(location, schemas)?;
        let origin = agent.origin();
        claim(&connection, &origin)?;
        let (stored, signer) = load_signer(&connection, keys.as_ref(), now)?;
        let checkpoint = StoredCheckpoint::last(&connection)?;
        let size = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size);
        let frontier = Frontier::load(size, &StoredNodes(&connection))?;
        if let Some(checkpoint) = &checkpoint {
            check_tail(&connection, &origin, checkpoint, &frontier)?;
        }
        let totals = Totals::load(&connection)?;
        let last_time = checkpoint.map_or(stored.created, |checkpoint| checkpoint.time);
        let mut store =
            Self { connection, origin, config, keys, signer, frontier, totals, last_time, last_clocks: None };
        store.erase_retired_keys()?;
        Ok(store)
    }

    /// How far the ledger is.
    pub fn head(&self) -> Head {
        Head { size: self.frontier.size(), acknowledged: self.totals.acknowledged }
    }

    /// When the newest record was sealed.
    pub fn last_sealed(&self) -> Option<Timestamp> {
        (self.frontier.size() > 0).then_some(self.last_time)
    }

    /// Number of the key in force.
    pub fn key_number(&self) -> u64 {
        self.signer.n
    }

    /// Bytes kept of acknowledged records, and of those that wait.
    pub fn kept_bytes(&self) -> (u64, u64) {
        (self.totals.acknowledged_bytes, self.totals.waiting())
    }

    /// Seals all entries of `group` in one transaction. An entry whose state change fails is left out alone.
    pub fn commit(&mut self, group: &mut [Entry], now: Now) -> Result<Committed, LedgerError> {
        let jump = self.clock_jump(group, now)?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let time = now.wall.max(self.last_time);
        let mut session = Session::new(&transaction, &self.origin, &self.frontier, &self.totals, time);
        if let Some(jump) = jump {
            session.append(&jump)?;
        }
        let mut committed = Committed::default();
        for entry in group {
            committed.outcomes.push(seal_entry(&mut session, entry)?);
        }
        session.retain(&self.config, now.wall)?;
        committed.evicted = session.evict(self.config.disk_bytes_max)?;
        let sealed = session.size() > self.frontier.size();
        let (frontier, totals) = session.finish(self.signer.n, &self.signer.key)?;
        transaction.commit()?;
        (self.frontier, self.totals) = (frontier, totals);
        if sealed {
            (self.last_time, self.last_clocks) = (time, Some(now));
        }
        Ok(committed)
    }

    /// Judges a cosigned checkpoint in a transaction of its own; see [`super::Ledger::acknowledge`].
    pub fn acknowledge(
        &mut self,
        note: &str,
        witness: &VerifierKey,
        now: Now,
    ) -> Result<Result<Acknowledged, AcknowledgeError>, LedgerError> {
        let (done, _unheard) = std::sync::mpsc::sync_channel(1);
        let acknowledgement = Acknowledgement { note: note.to_owned(), witness: witness.clone(), done };
        let mut group = [Entry { acknowledgement: Some(acknowledgement), ..Entry::default() }];
        match self.commit(&mut group, now)?.outcomes.pop() {
            Some(Outcome::Acknowledged(judged)) => Ok(judged),
            _ => Err(LedgerError::Damaged("an acknowledgement was not judged".to_owned())),
        }
    }

    /// Whether the key in force has served its time, and may be handed over. `is_enrolled` is asked once as many hand-overs wait as a
    /// renewal can prove: a host that no collector knows of has nothing to renew.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn key_turn(&self, now: Now, is_enrolled: impl FnOnce() -> bool) -> Result<KeyTurn, LedgerError> {
        let by_wall = now.wall.since(self.signer.created);
        let by_boot = self.signer.seen.map_or(Duration::ZERO, |seen| now.boot.saturating_sub(seen));
        if by_wall.max(by_boot) < self.config.key_lifetime {
            return Ok(KeyTurn::Serves);
        }
        let acknowledged = self.totals.acknowledged;
        let is_full = StoredKey::count_from(&self.connection, acknowledged)? >= HAND_OVERS_WAITING_MAX;
        Ok(if is_full && (acknowledged > 0 || is_enrolled()) { KeyTurn::Kept } else { KeyTurn::Due })
    }

    /// Hands the ledger over to the key that grows from `seed`: writes its file, seals the `key` record
    /// under a last checkpoint of the old key, and erases the old file. When an earlier attempt failed, the
    /// key of that attempt is used again and `seed` is not.
    pub fn rotate(&mut self, seed: &Seed, now: Now) -> Result<Sealed, LedgerError> {
        let n = self.signer.n + 1;
        let public = self.prepare_next(n, seed)?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let time = now.wall.max(self.last_time);
        let mut session = Session::new(&transaction, &self.origin, &self.frontier, &self.totals, time);
        let first = session.size();
        let rotation = KeyRotation::new(&self.origin, first, &self.signer.key, public);
        session.append(&Draft::new(Kind::Key, Severity::Info, &rotation)?)?;
        let stored =
            StoredKey { n, public, created: time, hand_over: Some((first, rotation.signature.clone())) };
        stored.insert(&transaction)?;
        let (frontier, totals) = session.finish(self.signer.n, &self.signer.key)?;
        transaction.commit()?;
        (self.frontier, self.totals, self.last_time) = (frontier, totals, time);
        if let Some(key) = self.signer.next.take() {
            self.signer = Signer { n, key, created: time, seen: Some(now.boot), next: None };
        }
        Ok(Sealed { first, count: 1 })
    }

    /// Erases the private keys that are not in force. Called at each start and after each rotation; again
    /// when it failed.
    pub fn erase_retired_keys(&mut self) -> Result<(), LedgerError> {
        let pending = self.signer.next.is_some().then_some(self.signer.n + 1);
        let failed = |n: u64, source| LedgerError::Io { path: self.keys.path(n), source };
        for n in self.keys.list().map_err(|source| failed(self.signer.n, source))? {
            if n != self.signer.n && Some(n) != pending {
                self.keys.erase(n).map_err(|source| failed(n, source))?;
            }
        }
        Ok(())
    }

    /// Gives back to the file system some of what forgetting has freed, when it is a lot.
    pub fn shrink(&mut self) -> Result<(), LedgerError> {
        super::retention::shrink(&self.connection)
    }

    fn prepare_next(&mut self, n: u64, seed: &Seed) -> Result<PublicKey, LedgerError> {
        if let Some(next) = &self.signer.next {
            return Ok(next.public());
        }
        let failed = |source| LedgerError::Io { path: self.keys.path(n), source };
        self.keys.write(n, seed).map_err(failed)?;
        let key = SigningKey::from_seed(**seed);
        let public = key.public();
        self.signer.next = Some(key);
        Ok(public)
    }

    /// A record about a wall clock that was set, to go before what `group` brings.
    fn clock_jump(&self, group: &[Entry], now: Now) -> Result<Option<Draft>, LedgerError> {
        if group.iter().all(|entry| entry.drafts.is_empty()) {
            return Ok(None);
        }
        let step = match self.last_clocks {
            Some(last) => {
                let wall = i128::from(now.wall.nanos()) - i128::from(last.wall.nanos());
                wall - nanos(now.boot) + nanos(last.boot)
            }
            // After a start only a clock that went back can be told from time that passed.
            None if self.frontier.size() > 0 => {
                (i128::from(now.wall.nanos()) - i128::from(self.last_time.nanos())).min(0)
            }
            None => 0,
        };
        if step.abs() <= nanos(CLOCK_JUMP_MIN) {
            return Ok(None);
        }
        let seconds = i64::try_from(step / 1_000_000_000).unwrap_or(i64::MAX);
        let way = if seconds < 0 { "back" } else { "forward" };
        let lifecycle = Lifecycle {
            event: "clock-jump".to_owned(),
            title: format!("The host's clock was set {way} by {} s", seconds.unsigned_abs()),
            detail: serde_json::json!({ "seconds": seconds, "clock": now.wall }),
        };
        Ok(Some(Draft::new(Kind::Lifecycle, Severity::Medium, &lifecycle)?))
    }
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

fn seal_entry(session: &mut Session<'_>, entry: &mut Entry) -> Result<Outcome, LedgerError> {
    if let Some(acknowledgement) = &entry.acknowledgement {
        let judged = session.acknowledge(&acknowledgement.note, &acknowledgement.witness)?;
        return Ok(Outcome::Acknowledged(judged));
    }
    let first = session.size();
    if entry.writes.is_empty() {
        append_all(session, &entry.drafts)?;
        return Ok(Outcome::Sealed(Sealed { first, count: session.size() - first }));
    }
    let mark = session.mark();
    session.transaction.execute_batch("SAVEPOINT entry")?;
    append_all(session, &entry.drafts)?;
    for write in &mut entry.writes {
        let Err(error) = write(session.transaction) else { continue };
        if is_storage(&error) || session.transaction.is_autocommit() {
            return Err(error.into());
        }
        return undo_entry(session, mark, &error);
    }
    session.transaction.execute_batch("RELEASE entry")?;
    Ok(Outcome::Sealed(Sealed { first, count: session.size() - first }))
}

fn append_all(session: &mut Session<'_>, drafts: &[Draft]) -> Result<(), LedgerError> {
    drafts.iter().try_for_each(|draft| session.append(draft))
}

fn undo_entry(
    session: &mut Session<'_>,
    mark: Mark,
    error: &rusqlite::Error,
) -> Result<Outcome, LedgerError> {
    session.transaction.execute_batch("ROLLBACK TO entry; RELEASE entry")?;
    session.reset(mark);
    Ok(Outcome::Rejected(SealError::Rejected(error.to_string())))
}

/// Says whose ledger this is, once; refuses another's.
fn claim(connection: &Connection, origin: &str) -> Result<(), LedgerError> {
    let sql = "INSERT INTO ledger_state (id, origin) VALUES (0, ?1) ON CONFLICT DO NOTHING";
    connection.execute(sql, [origin])?;
    let found: String = connection.query_row("SELECT origin FROM ledger_state", [], |row| row.get(0))?;
    if found == origin {
        return Ok(());
    }
    Err(LedgerError::OtherAgent { found, expected: origin.to_owned() })
}

fn load_signer(
    connection: &Connection,
    keys: &dyn KeyFiles,
    now: Now,
) -> Result<(StoredKey, Signer), LedgerError> {
    let stored = StoredKey::last(connection)?;
    let n = stored.as_ref().map_or(0, |stored| stored.n);
    let path = keys.path(n);
    let seed = keys.read(n).map_err(|source| LedgerError::Io { path: path.clone(), source })?;
    let key = SigningKey::from_seed(*seed.ok_or(LedgerError::NoKey { path: path.clone() })?);
    let stored = match stored {
        Some(stored) if stored.public != key.public() => return Err(LedgerError::WrongKey { path }),
        Some(stored) => stored,
        None => {
            let first = StoredKey { n, public: key.public(), created: now.wall, hand_over: None };
            first.insert(connection)?;
            first
        }
    };
    let signer = Signer { n, key, created: stored.created, seen: Some(now.boot), next: None };
    Ok((stored, signer))
}

/// The newest checkpoint must be ours, over this very tree, with nothing behind it, and the records under it intact.
fn check_tail(
    connection: &Connection,
    origin: &str,
    checkpoint: &StoredCheckpoint,
    frontier: &Frontier,
) -> Result<(), LedgerError> {
    let damaged = |what: &str| LedgerError::Damaged(format!("{what} at size {}", checkpoint.size));
    if frontier.root() != checkpoint.root {
        return Err(damaged("the newest checkpoint has another root than the tree"));
    }
    let key = StoredKey::signing(connection, checkpoint.size)?.filter(|key| key.n == checkpoint.key);
    let key = key.ok_or_else(|| damaged("the newest checkpoint is signed by a key out of its time"))?;
    let text = checkpoint.checkpoint(origin).to_text();
    if !key.public.verifies(text.as_bytes(), &checkpoint.signature) {
        return Err(damaged("the newest checkpoint is not signed by the key in force"));
    }
    let sql = "SELECT max(seq) FROM (SELECT max(seq) AS seq FROM ledger_record UNION ALL SELECT max(seq) FROM ledger_forgotten)";
    let last: Option<i64> = connection.query_row(sql, [], |row| row.get(0))?;
    if last != Some(int(checkpoint.size) - 1) {
        return Err(damaged("there are records behind the newest checkpoint"));
    }
    let sql = "SELECT size FROM ledger_checkpoint WHERE size < ?1 ORDER BY size DESC LIMIT 1";
    let before = connection.query_row(sql, [int(checkpoint.size)], |row| number(row, 0)).optional()?;
    let mut statement = connection.prepare("SELECT leaf, bytes FROM ledger_record WHERE seq >= ?1")?;
    let mut rows = statement.query(params![int(before.unwrap_or(0))])?;
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
        if row.get::<_, [u8; 32]>(0)? != leaf_hash(bytes) {
            return Err(damaged("a record was changed under the newest checkpoint"));
        }
    }
    Ok(())
}
