//! The login sensor: who came in, from where, and who became root.
//!
//! All sources that work here are read together, and what several tell of one act is told once
//! ([`crate::detect::logins::merge`]):
//!
//! - `audit`, the kernel's audit: what PAM and the account tools tell it, with the process and the login session as the
//!   kernel knows them; the first to tell of a failed login.
//! - `journal`, journald, where the kernel vouches for the sender: a line that an ordinary user wrote with
//!   `logger -t sshd` is not sshd's.
//! - `log`, text logs, where such a line cannot be told apart; its events say `source: log`. Beside the journal the
//!   default logs only confirm what other sources say; logs that the customer added count by themselves.
//! - `records`, `btmp` and `wtmp` ([`records`]), and the databases to which distributions move from them, wtmpdb and
//!   lastlog2 ([`database`]).
//!
//! A line is read exactly once: the position behind it is committed in the ledger entry that seals what it
//! led to. Alarms, whatever is privileged, and the first failures after calm are sealed at once; what grows, a stream of
//! single failures, and what was only counted is sealed together within a second (`gather`). Nothing is queued: while
//! the ledger is slow, lines wait in the log or the journal. Audit keeps nothing for those who come late: what it told
//! does not wait, and what was told while the agent was off is in the other sources.
//!
//! One thread waits for audit, inotify, the journal, the stop signal and what is due by the clock. Limits: lines of
//! 8 KiB (64 KiB in journalctl's JSON), one chunk of 64 KiB in memory, [`output::DRAFTS_MAX`] findings an entry,
//! four entries on their way.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::Severity;
use picket_protocol::record::Lifecycle;
use picket_protocol::time::Timestamp;

pub mod audit;
pub mod database;
mod discover;
mod event;
pub(crate) mod facts;
mod gather;
pub mod journal;
pub mod line;
pub mod names;
pub mod output;
pub mod parse;
pub mod position;
pub mod records;
mod report;
pub mod tail;
pub mod watch;
mod worker;

pub use event::{LoginEvent, LoginKind, Origin, Place, Reporter, Sender, Source};

use super::{RungProbe, SensorContext, SensorError, SensorHandle, SensorProbe, SensorState};
use crate::clock;
use crate::config::LoginsConfig;
use audit::{Audit, AuditRefusal};
use database::{Database, DatabasePosition, Form};
use discover::Discovery;
use journal::{Journal, JournalRefusal};
use output::Output;
use parse::Parsers;
use parse::parsers::LOGS_MAX;
use position::{JOURNAL, JournalPosition, LogPosition, SILENCE, Store};
use tail::{Tail, Unit};
use worker::{Inputs, Refused, Worker};

/// Where the sensor stands in each source, and what the detector has to raise yet.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS logins_position (source BLOB PRIMARY KEY, position TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS logins_state (key TEXT PRIMARY KEY, state TEXT NOT NULL);
";

/// The logs that have the journal's lines on hosts with rsyslog.
const DEFAULT_LOGS: [&str; 2] = ["/var/log/auth.log", "/var/log/secure"];
/// The row that says which rung was the source of the default logs' lines.
const RUNG: &[u8] = b"rung";

/// Which sources are refused here, and why.
struct Refusals {
    audit: Option<AuditRefusal>,
    journal: Option<JournalRefusal>,
}

impl Refusals {
    fn of(config: &LoginsConfig) -> Self {
        let journal =
            if config.journal { journal::usable().err() } else { Some(JournalRefusal::SwitchedOff) };
        Self { audit: audit::usable(config.audit).err(), journal }
    }

    /// Names of the sources that are read.
    fn rung(&self, config: &LoginsConfig) -> String {
        let logs = !config.logs.is_empty();
        let sources = [
            ("audit", self.audit.is_none()),
            ("journal", self.journal.is_none()),
            ("log", logs),
            ("records", !config.records.is_empty()),
        ];
        let names: Vec<&str> = sources.into_iter().filter(|(_, read)| *read).map(|(name, _)| name).collect();
        names.join("+")
    }

    fn ladder(&self, config: &LoginsConfig) -> Vec<RungProbe> {
        let audit = match &self.audit {
            None => "messages of the kernel's audit, sessions known by the kernel".to_owned(),
            Some(refusal) => refusal.to_string(),
        };
        let journal = match &self.journal {
            None => "journald, senders checked by the kernel".to_owned(),
            Some(refusal) => refusal.to_string(),
        };
        let states: Vec<String> = config.logs.iter().map(|path| describe_log(path)).collect();
        let usable = config.logs.iter().any(|path| std::fs::File::open(path).is_ok());
        vec![
            RungProbe { rung: "audit".to_owned(), usable: self.audit.is_none(), reason: audit },
            RungProbe { rung: "journal".to_owned(), usable: self.journal.is_none(), reason: journal },
            RungProbe { rung: "log".to_owned(), usable, reason: states.join("; ") },
            records_probe(config),
        ]
    }
}

/// Tries the rungs of the ladder.
pub fn probe(config: &LoginsConfig) -> SensorProbe {
    SensorProbe { sensor: "logins".to_owned(), rungs: Refusals::of(config).ladder(config) }
}

fn records_probe(config: &LoginsConfig) -> RungProbe {
    let rung = "records".to_owned();
    if config.records.is_empty() {
        return RungProbe { rung, usable: false, reason: "switched off by logins.records".to_owned() };
    }
    let usable = config.records.iter().any(|path| std::fs::File::open(path).is_ok());
    let states: Vec<String> = config.records.iter().map(|path| describe_log(path)).collect();
    RungProbe { rung, usable, reason: states.join("; ") }
}

fn describe_log(path: &Path) -> String {
    match std::fs::File::open(path) {
        Ok(_) => format!("{}, by inotify", path.display()),
        Err(error) => format!("{}: open: {error}", path.display()),
    }
}

/// Whether it is the old file of last logins, which is read at the start only ([`facts`]).
fn is_lastlog(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "lastlog")
}

/// Whether the journal has the lines of the log at `path`.
fn is_repeated(path: &Path) -> bool {
    DEFAULT_LOGS.iter().any(|log| path == Path::new(log))
}

/// Starts the sensor's thread.
pub fn start(config: &LoginsConfig, context: SensorContext) -> Result<SensorHandle, SensorError> {
    let now = clock::now();
    let refusals = Refusals::of(config);
    let rung = refusals.rung(config);
    context.status.update(|report| {
        report.ladder = refusals.ladder(config);
        report.rung.clone_from(&rung);
    });
    let store = Store::open(&context.database)?;
    let parsers = load_parsers(config);
    let mut output = Output::new(context.clone(), config, Arc::clone(&parsers), store.detector()?, now);
    if let Some(state) = store.position::<String>(SILENCE)? {
        output.restore_silence(&state);
    }
    let before: Option<String> = store.position(RUNG)?;
    let is_new = |source: &str| before.as_ref().is_some_and(|before| before.split('+').all(|s| s != source));
    if let Some(before) = before.as_ref().filter(|before| **before != rung) {
        output.tell(&changed_sources(before, &rung), Severity::Low);
    }
    output.commit(RUNG, &rung)?;
    let audit = match Audit::open(config.audit, config.audit_enable, now) {
        Ok(audit) => Some(audit),
        Err(refusal) => {
            tracing::info!(%refusal, "audit is not read");
            None
        }
    };
    let journal = match &refusals.journal {
        None => Some(open_journal(&store, &mut output, &parsers, is_new("journal"))?),
        Some(_) => None,
    };
    let scratch = context.database.parent().unwrap_or(Path::new("/")).to_owned();
    let mut opener = Opener { store: &store, output: &mut output, scratch: &scratch, now };
    let mut tails = opener.logs(config, &parsers, is_new("log"))?;
    let (records, databases) = opener.records(config, is_new("records"))?;
    tails.extend(records);
    if tails.is_empty() && databases.is_empty() && journal.is_none() && audit.is_none() {
        return Err(SensorError::NoRung);
    }
    let refused = Refused {
        audit: refusals.audit.map(|refusal| refusal.to_string()).unwrap_or_default(),
        journal: refusals.journal.map(|refusal| refusal.to_string()).unwrap_or_default(),
    };
    let worker = Worker::new(
        context.clone(),
        output,
        Inputs {
            audit,
            journal,
            tails,
            databases,
            discovery: Discovery::new(parsers, now),
            configured: config.logs.len(),
            refused,
        },
    )?;
    context.status.update(|report| report.state = SensorState::Running);
    let mut handle = SensorHandle::default();
    handle.spawn("logins", move || worker.run())?;
    Ok(handle)
}

/// The shipped parsers and the customer's own; what is wrong with the latter is told, and `agent check-config` tells it too.
fn load_parsers(config: &LoginsConfig) -> Arc<Parsers> {
    let (mut parsers, problems) = Parsers::load(&config.parsers_dir);
    for problem in &problems {
        tracing::warn!(%problem, "a rule file is left out: see `agent check-config`");
    }
    for problem in parsers.also(&config.service_logs) {
        tracing::warn!(%problem, "a log is not read: see `agent check-config`");
    }
    Arc::new(parsers)
}

/// What a source told while it was not read is nowhere: said, not hidden.
fn changed_sources(before: &str, now: &str) -> Lifecycle {
    Lifecycle {
        event: "sensor".to_owned(),
        title: format!("The login sensor reads {now} now instead of {before}"),
        detail: serde_json::json!({
            "sensor": "logins", "before": before, "now": now,
            "note": "what a new source told before this record is not read",
        }),
    }
}

/// Takes the journal up where it was left; the first time at its end.
fn open_journal(
    store: &Store,
    output: &mut Output,
    parsers: &Parsers,
    changed: bool,
) -> Result<Journal, SensorError> {
    let known: Option<JournalPosition> = store.position(JOURNAL)?;
    let known = known.filter(|_| !changed);
    let cursor = match known {
        Some(known) => known.cursor,
        None => journal::last_cursor().unwrap_or_default(),
    };
    output.commit(JOURNAL, &JournalPosition { cursor: cursor.clone() })?;
    let identifiers = parsers.identifiers().into_iter().map(str::to_owned).collect();
    Ok(Journal::new(cursor, identifiers))
}

/// Files are stamped by the kernel's clock of its last tick, which is up to 10 ms behind (`CLOCK_REALTIME_COARSE`, clock_gettime(2)): what came
/// just after a look seems to have been there before it.
const FILE_CLOCK: Duration = Duration::from_millis(20);

/// When the sensor looked at any of the logs last, in an earlier run.
fn last_look(paths: &[&PathBuf], store: &Store) -> Result<Option<Timestamp>, SensorError> {
    let mut last = None;
    for path in paths {
        let position: Option<LogPosition> = store.position(path.as_os_str().as_bytes())?;
        last = last.max(position.map(|position| position.seen));
    }
    Ok(last)
}

fn is_younger(path: &Path, time: Timestamp) -> bool {
    let born = std::fs::metadata(path).and_then(|metadata| metadata.created());
    born.is_ok_and(|born| Timestamp::from(born).plus(FILE_CLOCK) > time)
}

/// Takes files up where they were left.
struct Opener<'a> {
    store: &'a Store,
    output: &'a mut Output,
    scratch: &'a Path,
    now: Timestamp,
}

impl Opener<'_> {
    /// The logs of the configuration, and behind them those that services write themselves.
    fn logs(
        &mut self,
        config: &LoginsConfig,
        parsers: &Parsers,
        changed: bool,
    ) -> Result<Vec<Tail>, SensorError> {
        let own_logs = parsers.logs().into_iter().map(|(path, _service)| path);
        let own_logs: Vec<PathBuf> =
            own_logs.filter(|log| !config.logs.contains(log)).take(LOGS_MAX).collect();
        let paths: Vec<&PathBuf> = config.logs.iter().chain(&own_logs).collect();
        let looked = last_look(&paths, self.store)?;
        let mut tails = Vec::new();
        for path in paths {
            let known = self.known(path)?.filter(|_| !(changed && is_repeated(path)));
            // A service's log that came while nobody looked is read from its first byte.
            let fresh = !config.logs.contains(path) && looked.is_some_and(|looked| is_younger(path, looked));
            let begin = || fresh.then(|| LogPosition { seen: self.now, files: Vec::new() });
            let known = known.or_else(begin);
            tails.push(self.tail(path, Unit::Line, known.as_ref())?);
        }
        Ok(tails)
    }

    /// Files of the utmp family, and databases.
    fn records(
        &mut self,
        config: &LoginsConfig,
        changed: bool,
    ) -> Result<(Vec<Tail>, Vec<Database>), SensorError> {
        let (mut tails, mut databases) = (Vec::new(), Vec::new());
        for path in config.records.iter().filter(|path| !is_lastlog(path)) {
            if let Some(form) = Form::of(path) {
                let known: Option<Option<DatabasePosition>> =
                    self.store.position(path.as_os_str().as_bytes())?;
                let known = known.flatten().filter(|_| !changed);
                databases.push(Database::new(path, form, self.scratch, known, self.now));
                continue;
            }
            let known = self.known(path)?.filter(|_| !changed);
            let unit = Unit::Record { bytes: records::RECORD_BYTES };
            tails.push(self.tail(path, unit, known.as_ref())?);
        }
        Ok((tails, databases))
    }

    fn known(&self, path: &Path) -> Result<Option<LogPosition>, SensorError> {
        self.store.position(path.as_os_str().as_bytes())
    }

    fn tail(&mut self, path: &Path, unit: Unit, known: Option<&LogPosition>) -> Result<Tail, SensorError> {
        let tail = Tail::open(path, unit, self.scratch, known, self.now);
        let tail = tail.map_err(|source| SensorError::System { doing: "open a log", source })?;
        self.output.commit(path.as_os_str().as_bytes(), &tail.position())?;
        Ok(tail)
    }
}
