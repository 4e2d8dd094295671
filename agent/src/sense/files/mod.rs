//! The file sensor: what changes in the watched trees, and what it was before.
//!
//! **Promise.** Every change of an object in a watched tree that is there when the sensor looks becomes a finding,
//! once, with what was before and after; finding and new baseline become durable together or not at all. Changes
//! that happen while the agent is down, or whose events are lost, are found by comparing with the baseline and say
//! so. The first baseline makes no findings.
//!
//! **How.** A rung of the ladder (`fanotify`, `inotify`, `scan`) marks paths in a bounded set ([`dirty`]); one
//! worker looks at what is marked, compares with the baseline (in SQLite, never in memory as a whole)
//! and hands findings and baseline rows to the ledger in one entry. The worker also walks whole trees: the first
//! time, at start, every `scan_interval`, and after anything was lost.
//!
//! **Limits.** Symbolic links are never followed, pipes, sockets and devices never opened. File systems that the
//! kernel makes up, and remote or user-space ones, are not entered from a tree that begins outside them
//! ([`mounts`]). Paths longer than [`watched::PATH_BYTES_MAX`] are counted and not watched. A file that changes all
//! the time is looked at ever more seldom, down to once in 30 s.

pub mod change;
pub mod dirty;
pub mod mounts;
pub mod object;
mod probe;
mod scanner;
pub mod watched;

pub use probe::{FANOTIFY, INOTIFY, SCAN, probe};
pub use scanner::{SCAN_PATHS_MAX, ScanError, ScanProgress, ScanSummary, Scanner};

use crate::config::FilesConfig;
use crate::sense::{SensorContext, SensorError, SensorHandle};

/// The sensor's tables in the agent's database.
///
/// `file_object`: one row an object, clustered by directory, so that a directory's move is one row and a listing is
/// one range. `parent` is the `id` of the directory's row, 0 for a tree, whose `name` is its whole path. `flags`: 1
/// = racy (see `object::ObjectState`), 2 = hash pending, 4 = listed: a directory whose entries are all known, so
/// that another one is news. `content`: 32 bytes of SHA-256, a link's target, or an errno.
/// `file_meta`: `generation` (the last entry applied), `seen_until` (nanoseconds: the sensor watched until then).
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS file_object (
  parent INTEGER NOT NULL, name BLOB NOT NULL, id INTEGER,
  kind INTEGER NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
  size INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, birth INTEGER NOT NULL,
  inode INTEGER NOT NULL, links INTEGER NOT NULL, flags INTEGER NOT NULL, content,
  PRIMARY KEY (parent, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS file_meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
";

/// Starts the sensor on the best rung that works, or the one that the configuration names.
///
/// # Errors
/// When the baseline cannot be read, no thread can be started, or no rung that is allowed works here.
pub fn start(config: FilesConfig, context: SensorContext) -> Result<(SensorHandle, Scanner), SensorError> {
    let ladder = probe(&config);
    let chosen = probe::choose(&ladder, config.rung.as_deref()).ok_or(SensorError::NoRung)?;
    context.status.update(|report| report.rung.clone_from(&chosen.rung));
    Err(SensorError::NoRung)
}
