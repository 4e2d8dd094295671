//! The sensor's thread: waits, reads what there is, commits, and says how it fares.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use picket_protocol::finding::Severity;
use picket_protocol::record::Lifecycle;
use picket_protocol::time::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::audit::Audit;
use super::database::Database;
use super::discover::Discovery;
use super::is_repeated;
use super::journal::Journal;
use super::output::Output;
use super::position::{JOURNAL, JournalPosition, LogPosition};
use super::tail::{CHUNK_BYTES, Found, Tail, Unit};
use super::watch::{Stir, Watch};
use crate::clock;
use crate::ledger::SealError;
use crate::sense::{SensorContext, SensorError};

/// Every log is looked at this often whatever inotify says: it is silent on network file systems.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// After a look that something set off, more is let gather for at most so long: a log that grows line by line would cost a
/// look a line. Short beside the 50 ms within which a finding is to be sealed.
const GATHER: Duration = Duration::from_millis(20);
/// It comes to that by so much a look, so that only what goes on for a while is let gather.
const GATHER_STEP: Duration = Duration::from_micros(200);
/// After so long without anything, the next is looked at at once again.
const CALM: Duration = Duration::from_millis(200);
/// The status is brought up to date no more often.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// A child that was restarted this often in a row makes the sensor degraded.
const RESTARTS_TOLERATED: u64 = 3;

/// Whoever signs off must not find the rest of the sources unread: rounds before the ledger is waited for.
const AUDIT_ROUNDS_MAX: usize = 64;

/// Rounds of a login database before the other sources get their turn.
const DATABASE_ROUNDS_MAX: usize = 16;

/// What is read.
pub struct Inputs {
    /// The kernel's audit.
    pub audit: Option<Audit>,
    /// journald.
    pub journal: Option<Journal>,
    /// Text logs, those of the configuration first.
    pub tails: Vec<Tail>,
    /// Login databases.
    pub databases: Vec<Database>,
    /// Looks for more of them.
    pub discovery: Discovery,
    /// How many of them the configuration names: services' own logs tell of no other service.
    pub configured: usize,
    /// What is not read.
    pub refused: Refused,
}

/// Why sources are not read; empty for those that are.
#[derive(Debug, Default)]
pub struct Refused {
    /// Of audit.
    pub audit: String,
    /// Of the journal.
    pub journal: String,
}

/// The sensor at work.
pub struct Worker {
    pub(super) context: SensorContext,
    pub(super) output: Output,
    pub(super) inputs: Inputs,
    watch: Watch,
    /// What happened since the logs were looked at.
    stir: Stir,
    /// When all of them were looked at; none when not every one of them could be watched or read.
    looked: Option<Timestamp>,
    /// The last wait ended because something happened.
    roused: bool,
    /// When one did last, and how many did that were not [`CALM`] apart.
    roused_at: Timestamp,
    streak: u32,
    buffer: Vec<u8>,
    /// What is wrong with watching or reading, for the status.
    pub(super) trouble: String,
    reported: Timestamp,
    /// Whether the status shows how things were rather than how they are.
    stale: bool,
}

impl Worker {
    /// Sets the watches.
    pub fn new(context: SensorContext, output: Output, inputs: Inputs) -> Result<Self, SensorError> {
        let failed = |source| SensorError::System { doing: "create an inotify instance", source };
        let watch = Watch::new().map_err(failed)?;
        let buffer = vec![0; if inputs.tails.is_empty() { 0 } else { CHUNK_BYTES }];
        Ok(Self {
            context,
            output,
            inputs,
            watch,
            stir: Stir::default(),
            looked: None,
            roused: false,
            roused_at: Timestamp::default(),
            streak: 0,
            buffer,
            trouble: String::new(),
            reported: Timestamp::default(),
            stale: false,
        })
    }

    /// Runs until the stop signal is set or the ledger has stopped.
    pub fn run(mut self) {
        if let Err(error) = self.serve() {
            tracing::debug!(%error, "the login sensor ends");
        }
        // What was read is committed; what cannot be any more is read again by the next run.
        let _stopped = self.write_positions().and_then(|()| self.output.settle(0));
    }

    fn serve(&mut self) -> Result<(), SealError> {
        loop {
            self.trouble.clear();
            self.count_sources();
            self.output.look(clock::now());
            // The services' own lines know most: where they are there already, they come first. Each has its own moment: to the
            // detectors one that is before another's would be a clock that was set back.
            self.read_journal(clock::now())?;
            self.discover(clock::now())?;
            self.read_logs(clock::now())?;
            self.read_audit(clock::now())?;
            self.read_databases(clock::now())?;
            let now = clock::now();
            self.output.tick(now)?;
            if self.output.idle_positions_due(now) {
                self.write_positions()?;
            }
            self.output.settle(usize::MAX)?;
            self.report_if_due(now);
            if self.wait(clock::now()) {
                return Ok(());
            }
        }
    }

    /// Waits for something to do; true when the stop signal is set.
    fn wait(&mut self, now: Timestamp) -> bool {
        let rest = GATHER.min(GATHER_STEP.saturating_mul(self.streak));
        if std::mem::take(&mut self.roused) && !rest.is_zero() && self.context.stop.wait(rest) {
            return true;
        }
        let due = [
            self.output.due_in(now),
            Some(self.inputs.discovery.due_in(now)),
            self.output.idle_positions_in(now),
            self.inputs.journal.as_ref().and_then(|journal| journal.restart_in(now)),
            self.inputs.journal.as_ref().and_then(|journal| journal.replace_in(now)),
            self.inputs.audit.as_ref().map(|audit| audit.ask_in(now)),
            self.inputs.databases.iter().filter_map(|database| database.due_in(now)).min(),
            self.looked.map(|looked| LOOK_INTERVAL.saturating_sub(now.since(looked))),
            self.stale.then_some(REPORT_INTERVAL),
        ];
        let wait = due.into_iter().flatten().fold(LOOK_INTERVAL, Duration::min);
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let child = self.inputs.journal.as_ref().and_then(Journal::descriptor);
        let audit = self.inputs.audit.as_ref().map(AsFd::as_fd);
        let descriptors: [Option<BorrowedFd<'_>>; 4] =
            [Some(self.context.stop.as_fd()), Some(self.watch.as_fd()), child, audit];
        let mut polled: Vec<PollFd<'_>> = descriptors
            .iter()
            .flatten()
            .map(|descriptor| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN))
            .collect();
        self.context.status.rests();
        self.roused = poll(&mut polled, Some(&timeout)).is_ok_and(|ready| ready > 0);
        self.context.status.works();
        let stopped = polled.first().is_some_and(|stop| !stop.revents().is_empty());
        if self.roused {
            let now = clock::now();
            let calm = now < self.roused_at || now.since(self.roused_at) >= CALM;
            self.streak = if calm { 0 } else { self.streak.saturating_add(1) };
            self.roused_at = now;
        }
        self.stir = self.watch.drain();
        if self.stir.names {
            self.inputs.discovery.stir();
        }
        stopped
    }

    fn report_if_due(&mut self, now: Timestamp) {
        let recent = self.reported <= now && now.since(self.reported) < REPORT_INTERVAL;
        self.stale = recent;
        if !recent {
            self.reported = now;
            self.report();
        }
    }

    /// Sources that tell something now; the journal's word counts before the text logs' while it is followed.
    fn count_sources(&mut self) {
        let Inputs { audit, journal, tails, databases, .. } = &self.inputs;
        let audit = audit.as_ref().is_some_and(|audit| audit.state().enabled);
        let followed = journal.as_ref().is_some_and(|journal| journal.restarts <= RESTARTS_TOLERATED);
        let logs = tails.iter().filter(|tail| tail.exists()).count()
            + databases.iter().filter(|database| database.exists()).count();
        // A journal that has fallen silent is not waited for.
        let confirms = followed && !self.output.journal_is_silent();
        // sudo tells audit of one act in two messages: they are to meet even where nobody else tells of it.
        let count = usize::from(audit) * 2 + usize::from(followed) + logs;
        self.output.merge().sources(count, confirms);
    }

    fn read_audit(&mut self, now: Timestamp) -> Result<(), SealError> {
        let Self { inputs: Inputs { audit: Some(audit), .. }, output, context, .. } = self else {
            return Ok(());
        };
        audit.ask_if_due(now);
        for _ in 0..AUDIT_ROUNDS_MAX {
            let mut lost = false;
            let more = audit.read(clock::now(), |heard| output.heard(heard, now), || lost = true);
            if lost {
                output.tell(&overflowed(audit.overflows), Severity::Medium);
            }
            output.commit_news(now)?;
            if !more || context.stop.is_set() {
                break;
            }
        }
        Ok(())
    }

    fn read_journal(&mut self, now: Timestamp) -> Result<(), SealError> {
        let Self { inputs: Inputs { journal: Some(journal), .. }, output, trouble, .. } = self else {
            return Ok(());
        };
        if let Err(error) = journal.start_if_due(now) {
            *trouble = format!("journalctl cannot be started: {error}");
        }
        loop {
            let more = journal.read(now, |entry| output.entry(&entry, now));
            if output.has_news() {
                let position = JournalPosition { cursor: journal.cursor().to_owned() };
                output.read_on(JOURNAL, &position, now)?;
            }
            if !more || self.context.stop.is_set() {
                break;
            }
        }
        if !journal.is_running() && journal.restarts > RESTARTS_TOLERATED {
            *trouble = format!("journalctl ended {} times", journal.restarts);
        }
        Ok(())
    }

    /// Logs of services that appeared are read from their first byte; those that are gone for good are let go.
    fn discover(&mut self, now: Timestamp) -> Result<(), SealError> {
        let Self {
            inputs: Inputs { tails, discovery, configured, .. }, watch, output, trouble, context, ..
        } = self;
        let gone = |(at, tail): (usize, &Tail)| {
            (at >= *configured && tail.unit() == Unit::Line && tail.is_gone(now)).then_some(at)
        };
        let gone: Vec<usize> = tails.iter().enumerate().filter_map(gone).collect();
        for at in gone.into_iter().rev() {
            let mut tail = tails.remove(at);
            tail.let_go(watch, |path, found| {
                output.line(path, found, false, now);
            });
            output.forget_log(tail.path())?;
        }
        let Some(found) = discovery.look(watch, now) else { return Ok(()) };
        if let Err(error) = found.watched {
            *trouble = format!("inotify: {error}; new logs of services are looked for every 30 s");
        }
        let scratch = context.database.parent().unwrap_or(Path::new("/"));
        let of_services = tails.iter().skip(*configured).filter(|tail| tail.unit() == Unit::Line).count();
        let is_read = |path: &Path| tails.iter().any(|tail| tail.path() == path);
        for (path, service) in discovery.choose(found.logs, of_services, is_read) {
            // What is beside it was there before it.
            let begin = LogPosition { seen: now, files: Vec::new() };
            match Tail::open(&path, Unit::Line, scratch, Some(&begin), now) {
                Ok(tail) => {
                    tracing::info!(log = %path.display(), service, "a service's log appeared and is read");
                    output.own_log(&path, service);
                    output.commit(path.as_os_str().as_bytes(), &tail.position())?;
                    tails.push(tail);
                }
                Err(error) => *trouble = format!("{}: {error}", path.display()),
            }
        }
        if self.buffer.is_empty() && !self.inputs.tails.is_empty() {
            self.buffer = vec![0; CHUNK_BYTES];
        }
        Ok(())
    }

    /// Reads the logs to which something happened; all of them when a name appeared, and by the clock.
    fn read_logs(&mut self, now: Timestamp) -> Result<(), SealError> {
        let Self { inputs: Inputs { tails, .. }, watch, output, buffer, trouble, context, .. } = self;
        let recent = self.looked.is_some_and(|looked| looked <= now && now.since(looked) < LOOK_INTERVAL);
        let all = self.stir.names || !recent;
        let mut blind = false;
        for tail in tails {
            if all || tail.is_stirred(&self.stir) {
                // Each is watched first and looked at then, so that nothing comes unseen in between.
                let watched = if all { watch_directories(tail, watch) } else { Ok(()) };
                tail.look(now);
                let watched = watched.and_then(|()| tail.watch(watch));
                if let Err(error) = watched {
                    *trouble = format!("{}: inotify: {error}; looked at every 30 s", tail.path().display());
                    blind = true;
                }
                if let Err(error) = read_log(tail, output, buffer, &context.stop)? {
                    *trouble = format!("{}: {error}", tail.path().display());
                    blind = true;
                }
                let path = tail.path().to_owned();
                let repeated = is_repeated(&path);
                let retired = tail.retire(watch, now, |found| {
                    output.line(&path, found, repeated, now);
                });
                if retired {
                    output.commit(path.as_os_str().as_bytes(), &tail.position())?;
                }
            }
            if let Some(why) = &tail.trouble {
                *trouble = format!("{}: {why}", tail.path().display());
            }
        }
        if all || blind {
            self.looked = Some(now).filter(|_| !blind);
        }
        Ok(())
    }

    /// Last of all: what others said of the same login is known by then.
    fn read_databases(&mut self, now: Timestamp) -> Result<(), SealError> {
        let Self { inputs: Inputs { databases, .. }, watch, output, trouble, context, .. } = self;
        for database in databases {
            let path = database.path().to_owned();
            if let Err(error) = database.look(watch, now) {
                *trouble = format!("{}: inotify: {error}; looked at every 30 s", path.display());
            }
            for _ in 0..DATABASE_ROUNDS_MAX {
                let Some((rows, more)) = database.read(now) else { break };
                for event in rows.iter().filter_map(|row| database.event(row)) {
                    output.row(&path, event, now);
                }
                if output.has_news() || !rows.is_empty() {
                    output.read_on(path.as_os_str().as_bytes(), &database.position(), now)?;
                }
                if !more || context.stop.is_set() {
                    break;
                }
            }
            if let Some(why) = &database.trouble {
                *trouble = format!("{}: {why}", path.display());
            }
        }
        Ok(())
    }

    fn write_positions(&mut self) -> Result<(), SealError> {
        let Self { inputs, output, .. } = self;
        for tail in &inputs.tails {
            output.hold(tail.path().as_os_str().as_bytes(), &tail.position());
        }
        for database in inputs.databases.iter().filter(|database| database.position().is_some()) {
            output.hold(database.path().as_os_str().as_bytes(), &database.position());
        }
        if let Some(journal) = &inputs.journal {
            output.hold(JOURNAL, &JournalPosition { cursor: journal.cursor().to_owned() });
        }
        output.commit_held()
    }
}

/// What audit lost is in the other sources, later; that it was lost is said.
fn overflowed(times: u64) -> Lifecycle {
    Lifecycle {
        event: "sensor".to_owned(),
        title: "Messages of the kernel's audit were lost: they came faster than they could be read"
            .to_owned(),
        detail: serde_json::json!({
            "sensor": "logins", "source": "audit", "overflows": times,
            "note": "what they said of logins is read in the other sources, as far as there are any",
        }),
    }
}

fn watch_directories(tail: &Tail, watch: &Watch) -> std::io::Result<()> {
    watch.directory_of(tail.path())?;
    watch.directory_of(tail.target())
}

/// Reads all files of a log to their ends. The outer error ends the sensor, the inner one is this log's.
fn read_log(
    tail: &mut Tail,
    output: &mut Output,
    buffer: &mut [u8],
    stop: &crate::sys::Stop,
) -> Result<std::io::Result<()>, SealError> {
    let path = tail.path().to_owned();
    let (repeated, unit) = (is_repeated(&path), tail.unit());
    let mut index = 0;
    while index < tail.files() {
        let now = clock::now();
        let each = |found: Found<'_>| match unit {
            Unit::Line => output.line(&path, found, repeated, now),
            Unit::Record { .. } => output.record(&path, found, now),
        };
        let more = match tail.read(index, buffer, now, each) {
            Ok(more) => more,
            Err(error) => return Ok(Err(error)),
        };
        if output.has_news() {
            output.read_on(path.as_os_str().as_bytes(), &tail.position(), now)?;
        }
        if !more {
            index += 1;
        } else if stop.is_set() {
            break;
        }
    }
    Ok(Ok(()))
}
