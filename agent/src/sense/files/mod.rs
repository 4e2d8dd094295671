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

mod aliases;
mod baseline;
mod canary;
pub mod change;
mod conclude;
pub mod dirty;
mod examine;
mod examiner;
pub mod extended;
mod fanotify;
mod foreign;
mod freeze;
pub mod images;
mod inotify;
mod inspect;
mod intake;
mod large;
mod log_look;
pub mod log_rotation;
mod log_silence;
pub mod log_state;
pub mod logs;
mod marker;
pub mod mounts;
pub mod note;
pub mod object;
mod own;
mod pace;
mod packages;
mod pass;
pub(crate) mod place;
mod pressure;
mod probe;
pub mod records;
mod report;
mod resolve;
mod rung;
pub mod sample;
mod scanner;
mod shared;
mod single;
pub mod spending;
pub mod text;
mod told;
pub mod traits;
mod tuning;
mod walk;
pub mod watched;
mod who;
mod worker;

use std::sync::Arc;
use std::time::Instant;

pub use inspect::{Difference, Inspector};
pub use probe::{FANOTIFY, FANOTIFY_INODE, INOTIFY, SCAN, probe};
pub use scanner::{Acceptor, SCAN_PATHS_MAX, ScanError, ScanProgress, ScanSummary, Scanner};
pub use tuning::Tuning;

use crate::sys::Wake;
use baseline::Baseline;
use dirty::{Dirty, DirtySet};
use examiner::Examiner;
use large::Large;
use mounts::MountTable;
use rung::Rung;
use shared::{Shared, View};
use watched::Watched;
use worker::Worker;

use crate::config::FilesConfig;
use crate::sense::{SensorContext, SensorError, SensorHandle};

/// The sensor's tables in the agent's database.
///
/// `file_object`: one row an object, clustered by directory, so that a directory's move is one row and a listing is
/// one range. `parent` is the `id` of the directory's row, 0 for a tree, whose `name` is its whole path. `flags`: 1
/// = racy (see `object::ObjectState`), 2 = hash pending, 4 = listed: a directory whose entries are all known, so
/// that another one is news, 8 = a tree that is not there; 4 bits from 16 on: `object::Guards`; 12 bits from
/// 256 on: what the content looks like ([`traits::Traits::code`]). `extended`: see [`extended`]. `content`: 32 bytes of
/// SHA-256, a link's target, or an errno; of a large file 16 bytes of its [`sample`] follow, or stand alone.
/// `file_log`: one row a log, in JSON, see [`log_state::LogState`].
/// `file_log_habit`: how each family of logs grows, see `detect::logs::silence`.
/// `file_habit`: what programs delete or rename by the dozen, see `detect::mass_change::habit`.
/// `file_meta`: `generation` (the last entry applied), `seen_until` (nanoseconds: the sensor watched until then),
/// `image_bytes` (the sum of the sealed images), `image_bytes_others` (of those that only others than root hold or held).
/// `file_image`: see [`images`]. `superseded`: 1 = the file that held it holds something else now; from 2 on, the same of what
/// no file of root's holds or held.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS file_object (
  parent INTEGER NOT NULL, name BLOB NOT NULL, id INTEGER,
  kind INTEGER NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
  size INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, birth INTEGER NOT NULL,
  inode INTEGER NOT NULL, links INTEGER NOT NULL, flags INTEGER NOT NULL, content, extended BLOB,
  PRIMARY KEY (parent, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS file_log (path BLOB PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS file_log_habit (path BLOB PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS file_habit (key TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS file_meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS file_image (
  id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, superseded INTEGER NOT NULL DEFAULT 0, sealed BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS file_image_order ON file_image (superseded, id);
";

/// Starts the sensor on the best rung that works, or the one that the configuration names.
///
/// # Errors
/// When the baseline cannot be read, no thread can be started, or no rung that is allowed works here.
pub fn start(config: FilesConfig, context: SensorContext) -> Result<(SensorHandle, Scanner), SensorError> {
    start_tuned(config, context, Tuning::default())
}

/// The same with other times and bounds: for tests and measurements.
///
/// # Errors
/// As [`start`].
pub fn start_tuned(
    config: FilesConfig,
    context: SensorContext,
    tuning: Tuning,
) -> Result<(SensorHandle, Scanner), SensorError> {
    let ladder = probe(&config);
    let chosen = probe::choose(&ladder, config.rung.as_deref());
    context.status.update(|report| {
        report.ladder.clone_from(&ladder.rungs);
        report.rung = chosen.map_or_else(String::new, |rung| rung.rung.clone());
    });
    let chosen = chosen.ok_or(SensorError::NoRung)?.clone();
    let refused = ladder.rungs.iter().take_while(|rung| **rung != chosen).filter(|rung| !rung.usable);
    let lacks = match &config.rung {
        // What the customer chose lacks nothing; a mark a directory costs more and sees as much.
        Some(_) => Vec::new(),
        None if chosen.rung == FANOTIFY_INODE
            && ladder.rungs.iter().all(|rung| rung.usable || probe::only_costs(rung)) =>
        {
            Vec::new()
        }
        None => refused.map(|rung| format!("{} is refused: {}", rung.rung, rung.reason)).collect(),
    };
    let watched = Watched::new(Vec::new(), &config.exclude).map_err(|error| SensorError::System {
        doing: "read the globs of files.exclude",
        source: std::io::Error::other(error),
    })?;
    let system = |doing| move |source| SensorError::System { doing, source };
    let wake = Arc::new(Wake::new().map_err(system("create an eventfd"))?);
    let set = DirtySet::new(Arc::from([]), tuning.dirty_paths_max);
    let dirty = Dirty::new(set, Arc::clone(&wake));
    let shared =
        Arc::new(Shared::new(View { watched, mounts: Vec::new() }, dirty, context.processes.clone()));
    let baseline = Baseline::open(&context.database)?;
    let mut handle = SensorHandle::default();
    let large = Large::start(&wake, &context.stop, &mut handle)?;
    let rung = Rung::start(&chosen.rung, &shared, &context.stop, &tuning, &mut handle)?;
    let own = Arc::clone(&shared);
    // Events of this process are nobody's news to it, so that it has to be told of what it did to the host.
    context.acts.on_file(move |path| {
        let mark = dirty::Mark::event(crate::clock::now(), Instant::now());
        own.dirty.mark_all([(path.to_owned(), mark)]);
    });
    let (scanner, requests) = Scanner::channel(Arc::clone(&wake), Arc::clone(&shared));
    let hash_bytes_max = config.hash_bytes_max;
    let worker = Worker {
        examiner: Examiner::new(baseline, shared, rung, large, tuning, hash_bytes_max, &context)?,
        config,
        requests,
        wake,
        mounts: MountTable::open().ok(),
        mounts_changed: false,
        lacks,
        complete: None,
        next_scan: Instant::now(),
        next_stamp: Instant::now(),
        next_quiet: Instant::now(),
        overflows_told: (0, None),
        lacks_told: Vec::new(),
    };
    handle.spawn("files", move || worker.run())?;
    Ok((handle, scanner))
}
