//! The login sensor: who came in, from where, and who became root.
//!
//! Two rungs. `journal` follows journald, where the kernel vouches for the sender: a line that an ordinary
//! user wrote with `logger -t sshd` is not sshd's. `log` follows text logs, where such a line cannot be told
//! apart; its events say `source: log`. Where both exist rsyslog writes the same lines to both, so with the
//! journal the default logs are not read; logs that the customer added are.
//!
//! A line is read exactly once: the position behind it is committed in the ledger entry that seals what it
//! led to. Nothing is queued: while the ledger is slow, lines wait in the log or the journal.
//!
//! One thread waits for inotify, the journal, the stop signal and what is due by the clock. Limits: lines of
//! 8 KiB (64 KiB in journalctl's JSON), one chunk of 64 KiB in memory, [`output::DRAFTS_MAX`] findings an entry,
//! four entries on their way.

use std::path::{Path, PathBuf};

use picket_protocol::finding::Severity;
use picket_protocol::record::Lifecycle;
use picket_protocol::time::Timestamp;

mod event;
pub mod journal;
pub mod line;
pub mod output;
pub mod parse;
pub mod position;
pub mod tail;
pub mod watch;
mod worker;

pub use event::{LoginEvent, LoginKind, Origin, Place, Reporter, Sender, Source};

use super::{RungProbe, SensorContext, SensorError, SensorHandle, SensorProbe, SensorState};
use crate::clock;
use crate::config::LoginsConfig;
use journal::{Journal, JournalRefusal};
use output::Output;
use position::{JOURNAL, JournalPosition, LogPosition, Store};
use tail::Tail;
use worker::Worker;

/// Where the sensor stands in each source, and what the detector has to raise yet.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS logins_position (source BLOB PRIMARY KEY, position TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS logins_state (key TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
";

/// The logs that have the journal's lines on hosts with rsyslog.
const DEFAULT_LOGS: [&str; 2] = ["/var/log/auth.log", "/var/log/secure"];
/// The row that says which rung was the source of the default logs' lines.
const RUNG: &[u8] = b"rung";

/// Tries the rungs of the ladder.
pub fn probe(config: &LoginsConfig) -> SensorProbe {
    let refusal = journal_refusal(config);
    SensorProbe { sensor: "logins".to_owned(), rungs: ladder(config, refusal.as_ref()) }
}

fn journal_refusal(config: &LoginsConfig) -> Option<JournalRefusal> {
    if config.journal { journal::usable().err() } else { Some(JournalRefusal::SwitchedOff) }
}

fn ladder(config: &LoginsConfig, refusal: Option<&JournalRefusal>) -> Vec<RungProbe> {
    let logs = logs_to_read(config, refusal.is_none());
    let journal = match refusal {
        None => "journald, senders checked by the kernel".to_owned(),
        Some(refusal) => refusal.to_string(),
    };
    let log = if logs.is_empty() {
        "not read, since the journal has the same lines".to_owned()
    } else {
        let states: Vec<String> = logs.iter().map(|path| describe_log(path)).collect();
        states.join("; ")
    };
    let usable = logs.iter().any(|path| std::fs::File::open(path).is_ok());
    vec![
        RungProbe { rung: "journal".to_owned(), usable: refusal.is_none(), reason: journal },
        RungProbe { rung: "log".to_owned(), usable, reason: log },
    ]
}

fn describe_log(path: &Path) -> String {
    match std::fs::File::open(path) {
        Ok(_) => format!("{}, by inotify", path.display()),
        Err(error) => format!("{}: open: {error}", path.display()),
    }
}

/// The text logs to read: all of them, or with the journal only those that do not repeat it.
fn logs_to_read(config: &LoginsConfig, with_journal: bool) -> Vec<PathBuf> {
    let repeats = |path: &PathBuf| with_journal && DEFAULT_LOGS.iter().any(|log| path == Path::new(log));
    config.logs.iter().filter(|path| !repeats(path)).cloned().collect()
}

/// Starts the sensor's thread.
pub fn start(config: &LoginsConfig, context: SensorContext) -> Result<SensorHandle, SensorError> {
    let now = clock::now();
    let refusal = journal_refusal(config);
    let ladder = ladder(config, refusal.as_ref());
    let rung = if refusal.is_none() { "journal" } else { "log" };
    context.status.update(|report| {
        report.ladder = ladder;
        report.rung = rung.to_owned();
    });
    let store = Store::open(&context.database)?;
    let mut output = Output::new(context.clone(), store.detector()?, now);
    let before: Option<String> = store.position(RUNG)?;
    let changed = before.as_ref().is_some_and(|before| before != rung);
    if let Some(before) = before.filter(|before| before != rung) {
        output.tell(&changed_source(&before, rung), Severity::Low);
    }
    output.commit(RUNG, &rung)?;
    let journal = if refusal.is_none() { Some(open_journal(&store, &mut output, changed)?) } else { None };
    let scratch = context.database.parent().unwrap_or(Path::new("/"));
    let mut tails = Vec::new();
    for path in logs_to_read(config, journal.is_some()) {
        let stale = changed && DEFAULT_LOGS.iter().any(|log| path == Path::new(log));
        tails.push(open_tail(&path, scratch, stale, &store, &mut output, now)?);
    }
    if tails.is_empty() && journal.is_none() {
        return Err(SensorError::NoRung);
    }
    let worker = Worker::new(context.clone(), output, journal, tails)?;
    context.status.update(|report| report.state = SensorState::Running);
    let mut handle = SensorHandle::default();
    handle.spawn("logins", move || worker.run())?;
    Ok(handle)
}

/// Lines that came while neither source was read are nowhere: said, not hidden.
fn changed_source(before: &str, now: &str) -> Lifecycle {
    Lifecycle {
        event: "sensor".to_owned(),
        title: format!("The login sensor reads the {now} now instead of the {before}"),
        detail: serde_json::json!({
            "sensor": "logins", "before": before, "now": now,
            "note": "lines of the default logs from before this record are not read again",
        }),
    }
}

/// Takes the journal up where it was left; the first time at its end.
fn open_journal(store: &Store, output: &mut Output, changed: bool) -> Result<Journal, SensorError> {
    let known: Option<JournalPosition> = store.position(JOURNAL)?;
    let known = known.filter(|_| !changed);
    let cursor = match known {
        Some(known) => known.cursor,
        None => journal::last_cursor().unwrap_or_default(),
    };
    output.commit(JOURNAL, &JournalPosition { cursor: cursor.clone() })?;
    Ok(Journal::new(cursor))
}

fn open_tail(
    path: &Path,
    scratch: &Path,
    stale: bool,
    store: &Store,
    output: &mut Output,
    now: Timestamp,
) -> Result<Tail, SensorError> {
    use std::os::unix::ffi::OsStrExt;
    let source = path.as_os_str().as_bytes();
    let known: Option<LogPosition> = store.position(source)?;
    let known = known.filter(|_| !stale);
    let tail = Tail::open(path, scratch, known.as_ref(), now);
    let tail = tail.map_err(|source| SensorError::System { doing: "open a log", source })?;
    output.commit(source, &tail.position())?;
    Ok(tail)
}
