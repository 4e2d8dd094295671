//! Logs: files that only grow, until they are rotated. They have no rows in the baseline; the book of logs says how
//! far each reached and what its parts were ([`log_state`](super::log_state)).
//!
//! **Promise.** A log that grows makes no finding and no write to the database (the book is written down with the
//! sensor's stamp). One that was cut, edited, deleted, replaced or led elsewhere becomes a [`LogChange`], with
//! what is known of the lost part and what became of the log; what that means decides `detect::logs`.
//!
//! **Limits.** [`LOGS_MAX`] logs are followed; more are counted and left alone. A log that vanished is given
//! `GRACE` for a rotation to end. The middle of a log that is edited while it grows is found by the next
//! full examination, as far as its parts are remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use picket_protocol::finding::Observed;
use picket_protocol::time::Timestamp;

use super::change::{SeenBy, Window};
use super::log_rotation::{Successor, family, rotated_in};
use super::log_state::{LogState, Part};
use super::object::Kind;
use crate::detect::logs::silence::{Silence, Silences, Thresholds};
use crate::ledger::StateWrite;
use crate::sense::processes::Actor;

/// Logs that are followed.
pub const LOGS_MAX: usize = 1_024;
/// What vanished is looked for once more after this.
pub(super) const GRACE: Duration = Duration::from_millis(1_500);

/// How a log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nature {
    /// At its end only.
    Appended,
    /// Anywhere, by journald, which also trims its files.
    Journal,
    /// Anywhere: a table by user number.
    Table,
    /// Anew each time, by a shell.
    History,
}

impl Nature {
    /// By the name.
    pub fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let ends = |end: &str| name.ends_with(end.as_bytes());
        if ends(".journal") || ends(".journal~") {
            Self::Journal
        } else if ends("_history") || ends(".lesshst") || ends("history.db") {
            Self::History
        } else if [b"lastlog".as_slice(), b"faillog", b"tallylog", b"utmp"].contains(&name)
            || [".db", ".sqlite", ".sqlite3", ".rrd", ".lock", ".pid"].iter().any(|end| ends(end))
        {
            Self::Table
        } else {
            Self::Appended
        }
    }
}

/// What a log came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is shorter than it was.
    Cut,
    /// Parts of it are not what they were.
    Edited,
    /// Another file is in its place, and it is nowhere.
    Replaced,
    /// It is nowhere.
    Deleted,
    /// In its place is something that keeps nothing: a link, a device, a pipe.
    LedAway(Kind, Option<Vec<u8>>),
    /// It used to grow and does not any more, or does again.
    Silent(Box<Silence>),
}

/// The observation that is handed to the detector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChange {
    /// The log.
    pub path: PathBuf,
    /// How it is written.
    pub nature: Nature,
    /// What it came to.
    pub loss: Loss,
    /// Bytes that it had; nothing is known of a log that was never seen.
    pub size_before: Option<u64>,
    /// Bytes that it has.
    pub size_after: Option<u64>,
    /// When it was last written to, as far as it was seen.
    pub written: Option<Timestamp>,
    /// What is known of the parts that are lost, in order; the newest.
    pub lost: Vec<Part>,
    /// Hundredths of a history's last lines that are still there.
    pub lines_kept: Option<u64>,
    /// What it became.
    pub successor: Option<Successor>,
    /// Logs of its family were rotated a moment ago, and it was the oldest.
    pub rotating: bool,
    /// Who did it.
    pub actor: Option<Arc<Actor>>,
    /// What made the sensor look.
    pub seen_by: SeenBy,
    /// Between these times it happened, unless the kernel told at once.
    pub window: Option<Window>,
    /// When the kernel told.
    pub observed: Observed,
}

/// See the module.
#[derive(Debug, Default)]
pub struct LogBook {
    pub(super) places: Vec<PathBuf>,
    pub(super) known: BTreeMap<PathBuf, LogState>,
    changed: BTreeSet<PathBuf>,
    pub(super) missing: BTreeMap<PathBuf, Instant>,
    /// The newest rotation of a family of logs, by its directory and name.
    rotated: BTreeMap<PathBuf, Instant>,
    /// How they grow.
    pub silences: Silences,
    /// From now on what is new is news.
    pub armed: bool,
    /// Logs that there was no room for.
    pub left_out: u64,
}

impl LogBook {
    /// From rows as [`LogBook::save`] writes them, of logs and of how they grow; what cannot be read begins anew.
    pub fn restore(
        logs: impl IntoIterator<Item = (Vec<u8>, String)>,
        habits: impl IntoIterator<Item = (Vec<u8>, String)>,
        silence: Thresholds,
    ) -> Self {
        let path = |path: &[u8]| PathBuf::from(OsStr::from_bytes(path));
        let read = |(log, state): (Vec<u8>, String)| Some((path(&log), serde_json::from_str(&state).ok()?));
        let known: BTreeMap<PathBuf, LogState> = logs.into_iter().filter_map(read).take(LOGS_MAX).collect();
        let habits = habits.into_iter().map(|(log, state)| (path(&log), state));
        let silences = Silences::restore(silence, habits);
        Self { armed: !known.is_empty(), known, silences, ..Self::default() }
    }

    /// Where logs lie.
    pub fn set_places(&mut self, places: Vec<PathBuf>) {
        self.places = places;
    }

    /// Whether what lies at `path` is a log, if it is a file.
    pub fn covers(&self, path: &Path) -> bool {
        self.places.iter().any(|place| path.starts_with(place))
    }

    /// Whether the log is followed.
    pub fn knows(&self, path: &Path) -> bool {
        self.known.contains_key(path)
    }

    /// Logs that are followed.
    pub fn followed(&self) -> usize {
        self.known.len()
    }

    /// Logs that are not in their place, and are given until the end of their grace to be found as rotated.
    pub fn awaited(&self) -> usize {
        self.missing.keys().filter(|path| self.known.contains_key(*path)).count()
    }

    /// What changed since the last time, to be written down.
    pub fn save(&mut self) -> Option<StateWrite> {
        let rows: Vec<(PathBuf, Option<String>)> = std::mem::take(&mut self.changed)
            .into_iter()
            .map(|path| {
                let state = self.known.get(&path).and_then(|state| serde_json::to_string(state).ok());
                (path, state)
            })
            .collect();
        let habits = self.silences.take_changes();
        if rows.is_empty() && habits.is_empty() {
            return None;
        }
        Some(Box::new(move |transaction| {
            let mut put = transaction
                .prepare_cached("INSERT OR REPLACE INTO file_log (path, state) VALUES (?1, ?2)")?;
            let mut remove = transaction.prepare_cached("DELETE FROM file_log WHERE path = ?1")?;
            write_rows(&mut put, &mut remove, &rows)?;
            let mut put = transaction
                .prepare_cached("INSERT OR REPLACE INTO file_log_habit (path, state) VALUES (?1, ?2)")?;
            let mut remove = transaction.prepare_cached("DELETE FROM file_log_habit WHERE path = ?1")?;
            write_rows(&mut put, &mut remove, &habits)
        }))
    }

    pub(super) fn put(&mut self, path: &Path, state: LogState) {
        if self.known.len() >= LOGS_MAX && !self.known.contains_key(path) {
            self.left_out += 1;
            return;
        }
        self.known.insert(path.to_path_buf(), state);
        self.changed.insert(path.to_path_buf());
    }

    pub(super) fn forget(&mut self, path: &Path) -> Option<LogState> {
        self.missing.remove(path);
        self.changed.insert(path.to_path_buf());
        self.known.remove(path)
    }

    /// It has another name now; what is remembered goes with it.
    pub(super) fn follow(&mut self, from: &Path, to: &Path) {
        if let Some(state) = self.forget(from) {
            self.put(to, state);
        }
        self.note_rotation(from);
    }

    pub(super) fn note_rotation(&mut self, path: &Path) {
        let now = Instant::now();
        self.rotated.retain(|_, when| rotated_in(*when, now));
        self.rotated.insert(family_of(path), now);
    }

    /// Whether logs of the same family were rotated a moment ago, and this was the oldest: the one that goes.
    pub(super) fn is_rotating(&self, path: &Path, prior: &LogState) -> bool {
        let whole = family_of(path);
        let rotating = self.rotated.get(&whole).is_some_and(|when| rotated_in(*when, Instant::now()));
        let older = |(other, state): (&PathBuf, &LogState)| {
            other != path && state.mtime < prior.mtime && family_of(other) == whole
        };
        rotating && !self.known.iter().any(older)
    }
}

/// A path without a state is forgotten.
fn write_rows(
    put: &mut rusqlite::Statement<'_>,
    remove: &mut rusqlite::Statement<'_>,
    rows: &[(PathBuf, Option<String>)],
) -> rusqlite::Result<()> {
    for (path, state) in rows {
        let path = path.as_os_str().as_bytes();
        match state {
            Some(state) => put.execute(rusqlite::params![path, state])?,
            None => remove.execute([path])?,
        };
    }
    Ok(())
}

/// Directory and name of the family.
pub(super) fn family_of(path: &Path) -> PathBuf {
    path.with_file_name(OsStr::from_bytes(&family(path)))
}
