//! The baseline: what every watched object was when it was last looked at. It lives in the agent's database and is
//! asked row by row; in memory are only the rows that are on their way there.
//!
//! The ledger commits rows together with the findings they belong to, some milliseconds after the sensor has handed
//! them over. Until then the rows in flight answer look-ups. Each entry also writes its number (`generation`), so
//! that a look at the database tells which have arrived.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use picket_protocol::time::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row as SqlRow, Transaction, params};

use super::extended::Extended;
use super::object::{Content, Guards, Kind, Metadata, ObjectState};
use super::traits::Traits;
use super::watched::components_below;
use crate::ledger::StateWrite;

/// Page cache of the sensor's read connection.
const CACHE_KIB: i64 = 512;
/// Directories whose ids are kept at hand.
const DIRECTORIES_CACHED_MAX: usize = 512;

const RACY: i64 = 1;
const PENDING: i64 = 2;
const LISTED: i64 = 4;
const ABSENT: i64 = 8;
/// `flags` from here on, 12 bits: [`Traits::code`].
const TRAITS_SHIFT: u32 = 8;

const COLUMNS: &str =
    "id, kind, mode, uid, gid, size, mtime, ctime, birth, inode, links, flags, content, extended";

/// The `parent` of a tree's own row.
pub const NO_PARENT: i64 = 0;

/// Where a row stands: the directory's id, and the name in it. Of a tree: [`NO_PARENT`] and its whole path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Id of the directory.
    pub parent: i64,
    /// Name in the directory.
    pub name: Vec<u8>,
}

/// One object in the baseline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Directories have one: what their entries refer to.
    pub id: Option<i64>,
    /// As it was.
    pub state: ObjectState,
    /// Of a directory: all its entries are known, so that another one is news.
    pub listed: bool,
    /// Of a tree: it was not there, so that its coming is news. The state means nothing.
    pub absent: bool,
}

/// A change of the baseline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// The object is so.
    Put(Key, Row),
    /// The object is gone. What a directory held is not: see [`Write::RemoveBeneath`].
    Remove(Key),
    /// All that the directory with this id held, to any depth, is gone.
    RemoveBeneath(i64),
}

impl Write {
    /// Of which row; none when it is about many.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Put(key, _) | Self::Remove(key) => Some(key),
            Self::RemoveBeneath(_) => None,
        }
    }
}

/// Where a path stands in the baseline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The path, or the topmost directory above it that the baseline does not know as a directory.
    pub path: PathBuf,
    /// Where its row stands or would stand.
    pub key: Key,
    /// Its row.
    pub row: Option<Row>,
    /// The entries of the directory above are all known; of a tree: it was looked at before.
    pub parent_listed: bool,
}

/// The baseline as the sensor's worker sees it. One writer: ids and generations come from here.
pub struct Baseline {
    connection: Connection,
    in_flight: BTreeMap<Key, (i64, Option<Row>)>,
    generation: i64,
    next_id: i64,
    directories: HashMap<PathBuf, (i64, bool)>,
    staged: Vec<Write>,
    held: bool,
}

impl Baseline {
    /// Opens the database, whose tables must exist.
    pub fn open(database: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(database, flags)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        // Else a query whose range is a parameter is parsed and planned anew each time that it is asked.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        let generation = meta(&connection, "generation")?.unwrap_or(0);
        let next_id = meta(&connection, "next_id")?.unwrap_or(NO_PARENT + 1);
        Ok(Self {
            connection,
            in_flight: BTreeMap::new(),
            generation,
            next_id,
            directories: HashMap::new(),
            staged: Vec::new(),
            held: false,
        })
    }

    /// The sensor watched without a gap until then; none before the first baseline was complete.
    pub fn seen_until(&self) -> rusqlite::Result<Option<Timestamp>> {
        Ok(meta(&self.connection, "seen_until")?.map(Timestamp::from_nanos))
    }

    /// What programs are in the habit of, as the detector wrote it down.
    pub fn habits(&self) -> rusqlite::Result<Vec<(String, String)>> {
        let mut statement = self.connection.prepare("SELECT key, state FROM file_habit")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }

    /// The logs that are followed, as the book of logs wrote them down.
    pub fn logs(&self) -> rusqlite::Result<Vec<(Vec<u8>, String)>> {
        let mut statement = self.connection.prepare("SELECT path, state FROM file_log")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }

    /// How logs grow, as the book of logs wrote it down.
    pub fn log_habits(&self) -> rusqlite::Result<Vec<(Vec<u8>, String)>> {
        let mut statement = self.connection.prepare("SELECT path, state FROM file_log_habit")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }

    /// Rows that are on their way to the database.
    pub fn rows_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Look-ups from now on see the database as it is at the first of them, and lock it once instead of each for itself.
    /// While it is held, the write-ahead log only grows: it is to be released before anybody waits.
    pub fn hold(&mut self) -> rusqlite::Result<()> {
        if !self.held {
            self.connection.prepare_cached("BEGIN")?.execute([])?;
            self.held = true;
        }
        Ok(())
    }

    /// Ends what [`Baseline::hold`] began, if anything.
    pub fn release(&mut self) -> rusqlite::Result<()> {
        if std::mem::take(&mut self.held) {
            self.connection.prepare_cached("COMMIT")?.execute([])?;
        }
        Ok(())
    }

    /// Gives back what a long walk took for pages of the database.
    pub fn rest(&mut self) -> rusqlite::Result<()> {
        self.release()?;
        self.connection.execute_batch("PRAGMA shrink_memory")
    }

    /// Forgets the rows that have arrived.
    pub fn refresh(&mut self) -> rusqlite::Result<()> {
        self.release()?;
        if !self.in_flight.is_empty() {
            let arrived = meta(&self.connection, "generation")?.unwrap_or(0);
            self.in_flight.retain(|_, (generation, _)| *generation > arrived);
        }
        Ok(())
    }

    /// An id for a new directory.
    pub fn new_id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// The row at `key`.
    pub fn get(&self, key: &Key) -> rusqlite::Result<Option<Row>> {
        if let Some((_, row)) = self.in_flight.get(key) {
            return Ok(row.clone());
        }
        let mut statement = self
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM file_object WHERE parent = ?1 AND name = ?2"))?;
        statement.query_row(params![key.parent, key.name], |row| read_row(row, 0)).optional()
    }

    /// At most `max` entries of a directory in the order of their names, from behind `after` on.
    pub fn entries(
        &self,
        parent: i64,
        after: &[u8],
        max: usize,
        directories_only: bool,
    ) -> rusqlite::Result<Vec<(Vec<u8>, Row)>> {
        let wanted = |row: &Row| !directories_only || row.id.is_some();
        let mut merged: BTreeMap<Vec<u8>, Row> = BTreeMap::new();
        let mut from = after.to_vec();
        // A page of the database may be hidden wholly by rows in flight: then the next is asked for.
        let complete = loop {
            let page = self.stored_entries(parent, &from, max, directories_only)?;
            let last_page = page.len() < max;
            if let Some((name, _)) = page.last() {
                from.clone_from(name);
            }
            merged.extend(page.into_iter().filter(|(name, _)| !self.is_in_flight(parent, name)));
            if last_page || !merged.is_empty() {
                break last_page;
            }
        };
        for (key, (_, row)) in self.flying(parent, after) {
            // What stands behind the last stored row of a full page belongs to a later page.
            if !complete && key.name > from {
                break;
            }
            if let Some(row) = row.as_ref().filter(|row| wanted(row)) {
                merged.insert(key.name.clone(), row.clone());
            }
        }
        Ok(merged.into_iter().take(max).collect())
    }

    /// How many entries the directory has; none when rows in flight make it dear to say.
    pub fn entry_count(&self, parent: i64) -> rusqlite::Result<Option<u64>> {
        if self.flying(parent, &[]).next().is_some() {
            return Ok(None);
        }
        let mut statement =
            self.connection.prepare_cached("SELECT COUNT(*) FROM file_object WHERE parent = ?1")?;
        statement.query_row([parent], |row| row.get::<_, i64>(0)).map(|count| u64::try_from(count).ok())
    }

    /// How many rows there are beneath a directory, counted until then; and whether that are all.
    pub fn count_beneath(&self, id: i64, until: Instant) -> rusqlite::Result<(u64, bool)> {
        let mut count =
            self.connection.prepare_cached("SELECT COUNT(*) FROM file_object WHERE parent = ?1")?;
        let mut beneath = self
            .connection
            .prepare_cached("SELECT id FROM file_object WHERE parent = ?1 AND id IS NOT NULL")?;
        let (mut open, mut counted) = (vec![id], 0u64);
        while let Some(parent) = open.pop() {
            if Instant::now() >= until {
                return Ok((counted, false));
            }
            let held: i64 = count.query_row([parent], |row| row.get(0))?;
            counted = counted.saturating_add(u64::try_from(held).unwrap_or(0));
            for id in beneath.query_map([parent], |row| row.get(0))? {
                open.push(id?);
            }
        }
        Ok((counted, true))
    }

    /// Calls `visit` with everything beneath a directory, its path relative to it, until it says stop.
    pub fn visit_beneath(&self, id: i64, mut visit: impl FnMut(&Path, &Row)) -> rusqlite::Result<()> {
        let mut open: Vec<(i64, PathBuf)> = vec![(id, PathBuf::new())];
        while let Some((parent, path)) = open.pop() {
            let mut after = Vec::new();
            loop {
                let page = self.entries(parent, &after, 256, false)?;
                let Some((last, _)) = page.last() else { break };
                after.clone_from(last);
                for (name, row) in page {
                    let path = path.join(std::ffi::OsStr::from_bytes(&name));
                    visit(&path, &row);
                    open.extend(row.id.map(|id| (id, path)));
                }
            }
        }
        Ok(())
    }

    /// Finds where `path`, which lies in `tree`, stands.
    pub fn locate(&mut self, tree: &Path, path: &Path) -> rusqlite::Result<Located> {
        if let Some(parent) = path.parent().filter(|parent| parent.starts_with(tree))
            && let Some(&(id, listed)) = self.directories.get(parent)
        {
            let name = path.file_name().unwrap_or_default().as_bytes().to_vec();
            let key = Key { parent: id, name };
            let row = self.get(&key)?;
            return Ok(Located { path: path.to_path_buf(), key, row, parent_listed: listed });
        }
        let key = Key { parent: NO_PARENT, name: tree.as_os_str().as_bytes().to_vec() };
        let row = self.get(&key)?;
        let parent_listed = row.is_some();
        let row = row.filter(|row| !row.absent);
        let mut found = Located { path: tree.to_path_buf(), key, row, parent_listed };
        for name in components_below(tree, path) {
            let Some(Row { id: Some(id), listed, .. }) = found.row else { return Ok(found) };
            self.remember(found.path.clone(), id, listed);
            found.key = Key { parent: id, name: name.to_vec() };
            found.path.push(std::ffi::OsStr::from_bytes(name));
            found.parent_listed = listed;
            found.row = self.get(&found.key)?;
        }
        Ok(found)
    }

    /// Takes changes into account at once, and gathers them for the next write.
    pub fn stage(&mut self, writes: Vec<Write>) {
        let generation = self.generation + 1;
        for write in &writes {
            match write {
                Write::Put(key, row) => self.take(key, Some(row.clone()), generation),
                Write::Remove(key) => self.take(key, None, generation),
                Write::RemoveBeneath(_) => self.directories.clear(),
            }
        }
        self.staged.extend(writes);
    }

    /// Changes that were gathered and not handed out.
    pub fn staged(&self) -> usize {
        self.staged.len()
    }

    /// The write that makes all durable that was gathered; none when there is nothing. `seen_until` advances the time
    /// until which the sensor has watched without a gap.
    pub fn write(&mut self, seen_until: Option<Timestamp>) -> Option<StateWrite> {
        if self.staged.is_empty() && seen_until.is_none() {
            return None;
        }
        self.generation += 1;
        let (generation, next_id) = (self.generation, self.next_id);
        let writes = std::mem::take(&mut self.staged);
        Some(Box::new(move |transaction| {
            writes.iter().try_for_each(|write| apply(transaction, write))?;
            put_meta(transaction, "generation", generation)?;
            put_meta(transaction, "next_id", next_id)?;
            seen_until.map_or(Ok(()), |time| put_meta(transaction, "seen_until", time.nanos()))
        }))
    }

    fn take(&mut self, key: &Key, row: Option<Row>, generation: i64) {
        match row.as_ref().map(|row| (row.id, row.listed)) {
            None => self.directories.clear(),
            Some((None, _)) => {}
            // A number belongs to one directory for ever. One that took the place of another comes with a
            // `RemoveBeneath`, one that moved with a `Remove`.
            Some((Some(id), listed)) => {
                let known = self.directories.values_mut().filter(|(known, _)| *known == id);
                known.for_each(|(_, was_listed)| *was_listed = listed);
            }
        }
        self.in_flight.insert(key.clone(), (generation, row));
    }

    fn remember(&mut self, path: PathBuf, id: i64, listed: bool) {
        if self.directories.len() >= DIRECTORIES_CACHED_MAX {
            self.directories.clear();
        }
        self.directories.insert(path, (id, listed));
    }

    fn is_in_flight(&self, parent: i64, name: &[u8]) -> bool {
        !self.in_flight.is_empty() && self.in_flight.contains_key(&Key { parent, name: name.to_vec() })
    }

    fn flying(&self, parent: i64, after: &[u8]) -> impl Iterator<Item = (&Key, &(i64, Option<Row>))> {
        let from = Key { parent, name: after.to_vec() };
        let bound = if after.is_empty() { Bound::Included(from) } else { Bound::Excluded(from) };
        self.in_flight.range((bound, Bound::Unbounded)).take_while(move |(key, _)| key.parent == parent)
    }

    fn stored_entries(
        &self,
        parent: i64,
        after: &[u8],
        max: usize,
        directories_only: bool,
    ) -> rusqlite::Result<Vec<(Vec<u8>, Row)>> {
        let condition = if directories_only { "AND id IS NOT NULL" } else { "" };
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT name, {COLUMNS} FROM file_object WHERE parent = ?1 AND name > ?2 {condition} ORDER BY name LIMIT ?3"
        ))?;
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let rows =
            statement.query_map(params![parent, after, max], |row| Ok((row.get(0)?, read_row(row, 1)?)))?;
        rows.collect()
    }
}

fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare_cached("SELECT value FROM file_meta WHERE key = ?1")?;
    statement.query_row([key], |row| row.get(0)).optional()
}

fn put_meta(transaction: &Transaction<'_>, key: &str, value: i64) -> rusqlite::Result<()> {
    let mut statement =
        transaction.prepare_cached("INSERT OR REPLACE INTO file_meta (key, value) VALUES (?1, ?2)")?;
    statement.execute(params![key, value]).map(|_| ())
}

fn apply(transaction: &Transaction<'_>, write: &Write) -> rusqlite::Result<()> {
    match write {
        Write::Put(key, row) => put(transaction, key, row),
        Write::Remove(key) => transaction
            .prepare_cached("DELETE FROM file_object WHERE parent = ?1 AND name = ?2")?
            .execute(params![key.parent, key.name])
            .map(|_| ()),
        Write::RemoveBeneath(id) => transaction
            .prepare_cached(
                "WITH RECURSIVE directory (id) AS (
                   VALUES (?1)
                   UNION SELECT file_object.id FROM file_object JOIN directory ON file_object.parent = directory.id
                   WHERE file_object.id IS NOT NULL)
                 DELETE FROM file_object WHERE parent IN (SELECT id FROM directory)",
            )?
            .execute([*id])
            .map(|_| ()),
    }
}

fn put(transaction: &Transaction<'_>, key: &Key, row: &Row) -> rusqlite::Result<()> {
    let mut flags = 0;
    let meta = row.state.meta;
    let sample = row.state.sample.map_or_else(Vec::new, |sample| sample.to_vec());
    let sampled;
    let content = match &row.state.content {
        Content::None => ValueRef::Null,
        Content::Digest(digest) if sample.is_empty() => ValueRef::Blob(digest),
        Content::Digest(digest) => {
            sampled = [digest.as_slice(), &sample].concat();
            ValueRef::Blob(&sampled)
        }
        Content::Target(target) => ValueRef::Blob(target),
        Content::Unreadable(errno) => ValueRef::Integer((*errno).into()),
        Content::Pending => {
            flags |= PENDING;
            if sample.is_empty() { ValueRef::Null } else { ValueRef::Blob(&sample) }
        }
    };
    flags |= if row.state.racy { RACY } else { 0 };
    flags |= if row.listed { LISTED } else { 0 };
    flags |= if row.absent { ABSENT } else { 0 };
    flags |= meta.guards.in_row();
    flags |= i64::from(row.state.traits.code()) << TRAITS_SHIFT;
    let mut statement = transaction.prepare_cached(
        "INSERT OR REPLACE INTO file_object (parent, name, id, kind, mode, uid, gid, size, mtime, ctime, birth, inode,
         links, flags, content, extended)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
    )?;
    let values = params![
        key.parent,
        key.name,
        row.id,
        meta.kind.code(),
        meta.mode,
        meta.uid,
        meta.gid,
        meta.size.cast_signed(),
        meta.mtime,
        meta.ctime,
        meta.birth,
        meta.inode.cast_signed(),
        meta.links,
        flags,
        ToSqlOutput::Borrowed(content),
        (!row.state.extended.is_empty()).then(|| row.state.extended.as_bytes()),
    ];
    statement.execute(values).map(|_| ())
}

fn read_row(row: &SqlRow<'_>, first: usize) -> rusqlite::Result<Row> {
    let column = |offset: usize| first + offset;
    let flags: i64 = row.get(column(11))?;
    let kind = Kind::from_code(row.get(column(1))?);
    let meta = Metadata {
        kind,
        mode: row.get(column(2))?,
        uid: row.get(column(3))?,
        gid: row.get(column(4))?,
        size: row.get::<_, i64>(column(5))?.cast_unsigned(),
        mtime: row.get(column(6))?,
        ctime: row.get(column(7))?,
        birth: row.get(column(8))?,
        inode: row.get::<_, i64>(column(9))?.cast_unsigned(),
        links: row.get(column(10))?,
        guards: Guards::from_bits(low_byte(flags >> Guards::ROW_SHIFT) & 0xf),
    };
    let mut sample = None;
    let content = match row.get_ref(column(12))? {
        ValueRef::Blob(target) if kind == Kind::Symlink => Content::Target(target.to_vec()),
        ValueRef::Blob(bytes) => {
            let (digest, sampled) = bytes.split_at(bytes.len() - bytes.len() % 32);
            sample = sampled.try_into().ok();
            digest.try_into().map_or(Content::Pending, Content::Digest)
        }
        ValueRef::Integer(errno) => Content::Unreadable(i32::try_from(errno).unwrap_or(0)),
        _ if flags & PENDING != 0 => Content::Pending,
        _ => Content::None,
    };
    let extended = match row.get_ref(column(13))? {
        ValueRef::Blob(bytes) => Extended::from_bytes(bytes),
        _ => Extended::default(),
    };
    let traits = Traits::from_code(u16::try_from((flags >> TRAITS_SHIFT) & 0xfff).unwrap_or(0));
    let state = ObjectState { meta, content, racy: flags & RACY != 0, extended, traits, sample };
    Ok(Row { id: row.get(column(0))?, state, listed: flags & LISTED != 0, absent: flags & ABSENT != 0 })
}

fn low_byte(value: i64) -> u8 {
    value.to_le_bytes()[0]
}

#[cfg(test)]
mod tests;
