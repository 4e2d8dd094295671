//! Evidence as agents hand it over: encrypted to keys that are not here, so that what is kept opens nothing.
//!
//! `evidence/<agent>/<command>.age` and `.json` in the data directory, 0600. Taken is only what a sealed receipt `applied` of the
//! agent tells of, with its size; complete it is when the SHA-256 is the one in that receipt, and no finding says otherwise.
//! An agent is told how much is durable, and nothing else.
//!
//! After a start the last piece's worth of what was being received is asked for again: after a loss of power a file may end in
//! zeros. Pieces are made durable one by one, so that no more than that can be in doubt.
//!
//! What there is no room for waits on its host, and asks again every half minute. Why is told to the agent, in the list of
//! evidence, in the log and by a finding. Room on the disk is looked at before each piece, so that evidence never takes what the database
//! beside it needs.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use picket_protocol::command::{Outcome, Receipt};
use picket_protocol::crypto::hex;
use picket_protocol::evidence::{Chunk, DETAIL, Held, Sealed};
use picket_protocol::identity::AgentId;
use picket_protocol::record::Record;
use picket_protocol::time::Timestamp;
use ring::digest;
use uuid::Uuid;

use crate::store::{OwnFinding, ReceiptQuery, ReceiptRow, Store, StoreError};

mod item;

pub use item::{EvidenceItem, EvidenceState};
use item::{RETRY_SOON, durable, read_item, refuse, wait};

/// Until one asks again that was refused for good.
const RETRY_LATE: u64 = 3_600;
/// Bundles of one host that are remembered, also those that were deleted.
const ITEMS_PER_HOST_MAX: usize = 1_000;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvidenceLimits {
    /// Bytes of one host.
    pub host_bytes_max: u64,
    /// Bytes of all hosts.
    pub bytes_max: u64,
    /// Bytes of the disk that stay free.
    pub free_bytes_min: u64,
}

/// Whose bundle, and by which command.
pub type Key = (AgentId, Uuid);
type Slot = Arc<Mutex<EvidenceItem>>;

/// See the module's description.
pub struct EvidenceStore {
    directory: PathBuf,
    limits: EvidenceLimits,
    items: Mutex<BTreeMap<Key, Slot>>,
}

/// What is to be said to the agent, and to the operators.
pub type Taken = (Held, Option<OwnFinding>);

impl EvidenceStore {
    /// Opens it, making the directory when it is not there. What cannot be read is left where it is, and told.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(directory: &Path, limits: EvidenceLimits) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let store = Self { directory: directory.to_owned(), limits, items: Mutex::default() };
        for host in fs::read_dir(directory)? {
            let host = host?;
            let Some(agent) = host.file_name().to_str().and_then(AgentId::parse) else { continue };
            for file in fs::read_dir(host.path())? {
                let path = file?.path();
                if path.extension().is_none_or(|end| end != "json") {
                    continue;
                }
                match read_item(&path) {
                    Ok(item) if item.agent == agent => {
                        let item = EvidenceItem { held: durable(&path.with_extension("age"), &item), ..item };
                        lock(&store.items).insert((agent, item.command), Arc::new(Mutex::new(item)));
                    }
                    Ok(_) => tracing::error!(path = %path.display(), "evidence lies under another host"),
                    Err(error) => tracing::error!(path = %path.display(), %error, "evidence cannot be read"),
                }
            }
        }
        Ok(store)
    }

    /// All bundles, of one host where one is given; the oldest first.
    pub fn list(&self, agent: Option<AgentId>) -> Vec<EvidenceItem> {
        let slots: Vec<Slot> = {
            let items = lock(&self.items);
            let of_host = |(key, _): &(&Key, &Slot)| agent.is_none_or(|agent| key.0 == agent);
            items.iter().filter(of_host).map(|(_, slot)| Arc::clone(slot)).collect()
        };
        let mut list: Vec<EvidenceItem> = slots.iter().map(|slot| lock(slot).clone()).collect();
        list.sort_by_key(|item| (item.command, item.agent));
        list
    }

    /// One bundle.
    pub fn one(&self, agent: AgentId, command: Uuid) -> Option<EvidenceItem> {
        let slot = lock(&self.items).get(&(agent, command)).cloned()?;
        let item = lock(&slot).clone();
        Some(item)
    }

    /// Opens a complete one for reading.
    ///
    /// # Errors
    /// What the file system says, or that it is not complete.
    pub fn read(&self, agent: AgentId, command: Uuid) -> io::Result<(EvidenceItem, File)> {
        let item = self.one(agent, command).filter(|item| item.state == EvidenceState::Complete);
        let item = item.ok_or(io::ErrorKind::NotFound)?;
        let file = File::open(self.path(agent, command, "age"))?;
        Ok((item, file))
    }

    /// Deletes the bytes of one; that it was there is remembered.
    ///
    /// # Errors
    /// What the file system says, or that there is none.
    pub fn delete(&self, agent: AgentId, command: Uuid) -> io::Result<EvidenceItem> {
        let slot = lock(&self.items).get(&(agent, command)).cloned().ok_or(io::ErrorKind::NotFound)?;
        let mut item = lock(&slot);
        let deleted = EvidenceItem { state: EvidenceState::Deleted, held: 0, ..item.clone() };
        self.describe(&deleted)?;
        match fs::remove_file(self.path(agent, command, "age")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        *item = deleted.clone();
        Ok(deleted)
    }

    /// Takes a piece from an agent. Blocks.
    ///
    /// # Errors
    /// Those of the store of records; what its own disk says is told to the agent as a refusal.
    pub fn take(
        &self,
        agent: AgentId,
        chunk: &Chunk,
        store: &dyn Store,
        now: Timestamp,
    ) -> Result<Taken, StoreError> {
        let known = lock(&self.items).get(&(agent, chunk.evidence)).cloned();
        let slot = match known {
            Some(slot) => slot,
            None => match self.announce(agent, chunk, store, now)? {
                Ok(slot) => slot,
                Err((reason, retry_after)) => return Ok((refuse(chunk, 0, reason, retry_after), None)),
            },
        };
        // Looked at before this one is locked, since it looks at all.
        let waiting = lock(&slot).state == EvidenceState::Waiting;
        let room = if waiting { self.has_room(agent, chunk.total) } else { Ok(()) };
        let mut item = lock(&slot);
        if item.size != chunk.total {
            return Ok((refuse(chunk, 0, "its size is not the sealed one".to_owned(), RETRY_LATE), None));
        }
        if item.state == EvidenceState::Deleted {
            return Ok((refuse(chunk, 0, "an operator deleted it".to_owned(), RETRY_LATE), None));
        }
        // Whoever sends it at once again sends the same again.
        let is_early = |then: Timestamp| now.since(then) < std::time::Duration::from_secs(RETRY_LATE);
        if item.state == EvidenceState::Mismatch && item.mismatched.is_some_and(is_early) {
            return Ok((refuse(chunk, 0, "its SHA-256 is not the sealed one".to_owned(), RETRY_LATE), None));
        }
        if let Err(why) = room {
            return Ok(wait(&mut item, chunk, why, now));
        }
        match self.put(&mut item, chunk, now) {
            Ok(None) => {
                // A question tells nothing about room.
                if !chunk.bytes.is_empty() {
                    item.waits = None;
                }
                let complete = item.state == EvidenceState::Complete;
                Ok((Held { evidence: chunk.evidence, held: item.held, complete, refused: None }, None))
            }
            Ok(Some(found)) => {
                // One finding about a bundle, however often a host sends what it did not seal.
                let is_new = item.mismatched.replace(now).is_none();
                let tell = || OwnFinding::evidence_mismatch(agent, chunk.evidence, &item.sha256, &found, now);
                let reason = "its SHA-256 is not the sealed one".to_owned();
                Ok((refuse(chunk, 0, reason, RETRY_LATE), is_new.then(tell)))
            }
            Err(error) => {
                // Our own sentence, or the system's.
                let own = error.get_ref().map(ToString::to_string);
                let why = own.unwrap_or_else(|| format!("the collector cannot keep it: {error}"));
                Ok(wait(&mut item, chunk, why, now))
            }
        }
    }

    /// A bundle that is not known yet: there must be a receipt. It waits for room.
    fn announce(
        &self,
        agent: AgentId,
        chunk: &Chunk,
        store: &dyn Store,
        now: Timestamp,
    ) -> Result<Result<Slot, (String, u64)>, StoreError> {
        let Some((receipt, sealed)) = sealed(agent, chunk.evidence, store)? else {
            return Ok(Err(("no sealed receipt tells of it yet".to_owned(), RETRY_SOON)));
        };
        if sealed.sealed_bytes != chunk.total {
            return Ok(Err(("its size is not the sealed one".to_owned(), RETRY_LATE)));
        }
        if !is_ordered(&receipt, store, now)? {
            let why = "no command that this collector knows has this host preserve evidence".to_owned();
            return Ok(Err((why, RETRY_LATE)));
        }
        if self.list(Some(agent)).len() >= ITEMS_PER_HOST_MAX {
            let why = format!("{ITEMS_PER_HOST_MAX} bundles of this host are known already");
            return Ok(Err((why, RETRY_LATE)));
        }
        let item = EvidenceItem {
            command: chunk.evidence,
            playbook: receipt.command.filter(|_| receipt.act.is_some()),
            agent,
            seq: receipt.seq,
            size: sealed.sealed_bytes,
            sha256: sealed.sealed_sha256,
            root: sealed.root,
            state: EvidenceState::Waiting,
            began: now,
            completed: None,
            held: 0,
            waits: None,
            told: false,
            mismatched: None,
        };
        let mut items = lock(&self.items);
        let slot = items.entry((agent, chunk.evidence)).or_insert_with(|| Arc::new(Mutex::new(item)));
        Ok(Ok(Arc::clone(slot)))
    }

    /// What is begun counts, whether it has come or not.
    fn has_room(&self, agent: AgentId, more: u64) -> Result<(), String> {
        let all = self.list(None);
        let bytes = |of: &dyn Fn(&&EvidenceItem) -> bool| {
            let begun =
                |item: &&EvidenceItem| !matches!(item.state, EvidenceState::Deleted | EvidenceState::Waiting);
            let kept = all.iter().filter(begun).filter(of);
            kept.map(|item| item.size).fold(more, u64::saturating_add)
        };
        let of_host = |item: &&EvidenceItem| item.agent == agent;
        if bytes(&of_host) > self.limits.host_bytes_max {
            return Err(
                "the evidence of this host would be over its bound (evidence.host_mib_max): delete some"
                    .to_owned(),
            );
        }
        if bytes(&|_| true) > self.limits.bytes_max {
            return Err("all evidence would be over its bound (evidence.mib_max): delete some".to_owned());
        }
        self.disk_has_room(more).map_err(|error| error.to_string())
    }

    /// Bytes that are held, and bytes that are free on the disk, where that can be said.
    pub fn room(&self) -> (u64, Option<u64>) {
        let held = self.list(None).iter().fold(0, |sum: u64, item| sum.saturating_add(item.held));
        (held, self.free().ok())
    }

    fn free(&self) -> io::Result<u64> {
        let figures = rustix::fs::statvfs(&self.directory)?;
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }

    fn disk_has_room(&self, more: u64) -> io::Result<()> {
        let free = self.free()?;
        if free >= self.limits.free_bytes_min.saturating_add(more) {
            return Ok(());
        }
        let keep = self.limits.free_bytes_min >> 20;
        let why = format!(
            "the collector's disk has no room for it: {keep} MiB must stay free (evidence.free_mib_min)"
        );
        Err(io::Error::new(io::ErrorKind::StorageFull, why))
    }

    /// Writes what continues what is there, durably; when it is all, compares. Gives the SHA-256 that does not fit.
    fn put(&self, item: &mut EvidenceItem, chunk: &Chunk, now: Timestamp) -> io::Result<Option<String>> {
        if item.state == EvidenceState::Complete {
            return Ok(None);
        }
        let path = self.path(item.agent, item.command, "age");
        if matches!(item.state, EvidenceState::Waiting | EvidenceState::Mismatch) {
            let begun = EvidenceItem { state: EvidenceState::Receiving, held: 0, ..item.clone() };
            self.describe(&begun)?;
            *item = begun;
        }
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        if !chunk.bytes.is_empty() && chunk.offset == item.held {
            self.disk_has_room(u64::try_from(chunk.bytes.len()).unwrap_or(0))?;
            file.write_all_at(&chunk.bytes, chunk.offset)?;
            file.sync_data()?;
            item.held = item.held.saturating_add(u64::try_from(chunk.bytes.len()).unwrap_or(0));
        }
        if item.held < item.size {
            return Ok(None);
        }
        // Nothing behind it counts, whatever was there before.
        file.set_len(item.size)?;
        let found = hash(&file)?;
        let fits = found == item.sha256;
        if !fits {
            file.set_len(0)?;
        }
        file.sync_all()?;
        let (state, held) =
            if fits { (EvidenceState::Complete, item.held) } else { (EvidenceState::Mismatch, 0) };
        let done = EvidenceItem { state, held, completed: fits.then_some(now), ..item.clone() };
        self.describe(&done)?;
        *item = done;
        Ok((!fits).then_some(found))
    }

    fn path(&self, agent: AgentId, command: Uuid, end: &str) -> PathBuf {
        self.directory.join(agent.to_string()).join(format!("{command}.{end}"))
    }

    /// Replaces the description in one step, durably.
    fn describe(&self, item: &EvidenceItem) -> io::Result<()> {
        let path = self.path(item.agent, item.command, "json");
        let host = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(host)?;
        let draft = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec(item)?)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(host)?.sync_all()?;
        File::open(&self.directory)?.sync_all()
    }
}

/// Which bundles below `directory` are complete, in order; none when there is no such directory. Changes nothing.
///
/// # Errors
/// What the file system says, or that a description cannot be read.
pub fn complete_bundles(directory: &Path) -> io::Result<Vec<Key>> {
    let mut found = Vec::new();
    let hosts = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        hosts => hosts?,
    };
    for host in hosts {
        let host = host?;
        let Some(agent) = host.file_name().to_str().and_then(AgentId::parse) else { continue };
        for file in fs::read_dir(host.path())? {
            let path = file?.path();
            if path.extension().is_some_and(|end| end == "json") {
                let named = |error| io::Error::other(format!("{}: {error}", path.display()));
                let item = read_item(&path).map_err(named)?;
                if item.agent == agent && item.state == EvidenceState::Complete {
                    found.push((agent, item.command));
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What the agent's ledger says of a bundle, and where: by a command's own receipt, or by that of a step.
fn sealed(agent: AgentId, id: Uuid, store: &dyn Store) -> Result<Option<(ReceiptRow, Sealed)>, StoreError> {
    let applied = |query: ReceiptQuery| -> Result<Option<ReceiptRow>, StoreError> {
        let act = query.act;
        let receipts = store.receipts(&ReceiptQuery { agent: Some(agent), ..query })?;
        let is_meant = |row: &ReceiptRow| row.outcome == Outcome::Applied && row.act == act;
        Ok(receipts.items.into_iter().find(is_meant))
    };
    let of_step = applied(ReceiptQuery { act: Some(id), ..ReceiptQuery::default() })?;
    let row = match of_step {
        Some(row) => Some(row),
        None => applied(ReceiptQuery { command: Some(id), ..ReceiptQuery::default() })?,
    };
    let Some(row) = row else { return Ok(None) };
    let record = store.record(agent, row.seq)?;
    let receipt = record.and_then(|bytes| Record::parse(&bytes).ok()?.body::<Receipt>().ok());
    let detail = receipt.and_then(|receipt| receipt.detail.get(DETAIL).cloned());
    let sealed = detail.and_then(|detail| serde_json::from_value::<Sealed>(detail).ok());
    let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let sealed = sealed.filter(|sealed| is_digest(&sealed.sealed_sha256) && is_digest(&sealed.root));
    Ok(sealed.map(|sealed| (row, sealed)))
}

/// Whether operators had this host preserve something: a host that makes receipts up is given no room.
fn is_ordered(receipt: &ReceiptRow, store: &dyn Store, now: Timestamp) -> Result<bool, StoreError> {
    let Some(id) = receipt.command.filter(|_| !receipt.foreign) else { return Ok(false) };
    let command = store.command(id, now)?;
    Ok(command.is_some_and(|command| matches!(command.row.action.as_str(), "preserve" | "playbook")))
}

fn hash(file: &File) -> io::Result<String> {
    let mut context = digest::Context::new(&digest::SHA256);
    let (mut buffer, mut at) = (vec![0; 128 * 1024], 0_u64);
    loop {
        let count = file.read_at(&mut buffer, at)?;
        if count == 0 {
            return Ok(hex(context.finish().as_ref()));
        }
        context.update(buffer.get(..count).unwrap_or_default());
        at = at.saturating_add(u64::try_from(count).unwrap_or(0));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
