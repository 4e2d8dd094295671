//! The sensor's thread: waits, reads what there is, commits, and says how it fares.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use picket_protocol::time::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::journal::Journal;
use super::output::Output;
use super::position::{JOURNAL, JournalPosition};
use super::tail::{CHUNK_BYTES, Tail};
use super::watch::Watch;
use crate::clock;
use crate::ledger::SealError;
use crate::sense::{SensorContext, SensorError, SensorState};

/// Every log is looked at this often whatever inotify says: it is silent on network file systems.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// A child that was restarted this often in a row makes the sensor degraded.
const RESTARTS_TOLERATED: u64 = 3;

/// The sensor at work.
pub struct Worker {
    context: SensorContext,
    output: Output,
    journal: Option<Journal>,
    tails: Vec<Tail>,
    watch: Watch,
    buffer: Vec<u8>,
    /// What is wrong with watching or reading, for the status.
    trouble: String,
}

impl Worker {
    /// Sets the watches.
    pub fn new(
        context: SensorContext,
        output: Output,
        journal: Option<Journal>,
        tails: Vec<Tail>,
    ) -> Result<Self, SensorError> {
        let failed = |source| SensorError::System { doing: "create an inotify instance", source };
        let watch = Watch::new().map_err(failed)?;
        let buffer = vec![0; if tails.is_empty() { 0 } else { CHUNK_BYTES }];
        Ok(Self { context, output, journal, tails, watch, buffer, trouble: String::new() })
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
            let now = clock::now();
            self.trouble.clear();
            self.read_journal(now)?;
            self.read_logs(now)?;
            self.output.tick(now)?;
            if self.output.idle_positions_due(now) {
                self.write_positions()?;
            }
            self.output.settle(usize::MAX)?;
            self.report();
            if self.wait(clock::now()) {
                return Ok(());
            }
        }
    }

    /// Waits for something to do; true when the stop signal is set.
    fn wait(&self, now: Timestamp) -> bool {
        let due = [
            self.output.detector().due_in(now),
            self.output.idle_positions_in(now),
            self.journal.as_ref().and_then(|journal| journal.restart_in(now)),
            self.journal.as_ref().and_then(|journal| journal.replace_in(now)),
        ];
        let wait = due.into_iter().flatten().fold(LOOK_INTERVAL, Duration::min);
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let child = self.journal.as_ref().and_then(Journal::descriptor);
        let descriptors: [Option<BorrowedFd<'_>>; 3] =
            [Some(self.context.stop.as_fd()), Some(self.watch.as_fd()), child];
        let mut polled: Vec<PollFd<'_>> = descriptors
            .iter()
            .flatten()
            .map(|descriptor| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN))
            .collect();
        let _interrupted_or_late = poll(&mut polled, Some(&timeout));
        self.watch.drain();
        self.context.stop.is_set()
    }

    fn read_journal(&mut self, now: Timestamp) -> Result<(), SealError> {
        let Self { journal: Some(journal), output, trouble, .. } = self else { return Ok(()) };
        if let Err(error) = journal.start_if_due(now) {
            *trouble = format!("journalctl cannot be started: {error}");
        }
        loop {
            let more = journal.read(now, |entry| output.entry(&entry, now));
            if output.has_news() {
                output.commit(JOURNAL, &JournalPosition { cursor: journal.cursor().to_owned() })?;
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

    fn read_logs(&mut self, now: Timestamp) -> Result<(), SealError> {
        let Self { tails, watch, output, buffer, trouble, context, .. } = self;
        for tail in tails {
            // Each is watched first and looked at then, so that nothing comes unseen in between.
            let watched = watch.directory_of(tail.path());
            let watched = watched.and_then(|()| watch.directory_of(tail.target()));
            tail.look(now);
            if let Some(why) = &tail.trouble {
                *trouble = format!("{}: {why}", tail.path().display());
            }
            let watched = watched.and_then(|()| tail.watch(watch));
            if let Err(error) = watched {
                *trouble = format!("{}: inotify: {error}; looked at every 30 s", tail.path().display());
            }
            if let Err(error) = read_log(tail, output, buffer, &context.stop)? {
                *trouble = format!("{}: {error}", tail.path().display());
            }
            let path = tail.path().to_owned();
            let retired = tail.retire(watch, now, |found| {
                output.line(&path, found, now);
            });
            if retired || output.has_news() {
                output.commit(path.as_os_str().as_bytes(), &tail.position())?;
            }
        }
        Ok(())
    }

    fn write_positions(&mut self) -> Result<(), SealError> {
        for tail in &self.tails {
            self.output.commit(tail.path().as_os_str().as_bytes(), &tail.position())?;
        }
        if let Some(journal) = &self.journal {
            self.output.commit(JOURNAL, &JournalPosition { cursor: journal.cursor().to_owned() })?;
        }
        Ok(())
    }

    fn report(&self) {
        let absent = self.journal.is_none() && !self.tails.iter().any(Tail::exists);
        let (state, reason) = match (self.trouble.as_str(), absent) {
            ("", false) => (SensorState::Running, String::new()),
            ("", true) => {
                let paths: Vec<_> = self.tails.iter().map(|tail| tail.path().display().to_string()).collect();
                (SensorState::Degraded, format!("no log exists yet, waiting for {}", paths.join(" or ")))
            }
            (trouble, _) => (SensorState::Degraded, trouble.to_owned()),
        };
        let counters = self.counters();
        let last_event = self.output.last_event();
        self.context.status.update(|report| {
            report.state = state;
            report.reason = reason;
            report.last_event = last_event;
            for (name, count) in counters {
                report.counters.insert(name.to_owned(), count);
            }
        });
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let sum = |count: fn(&super::tail::Tally) -> u64| -> u64 {
            self.tails.iter().map(|tail| count(&tail.tally)).sum()
        };
        let detector = self.output.detector().tally;
        let journal = self.journal.as_ref();
        vec![
            ("lines", sum(|tally| tally.lines) + self.output.tally.entries),
            ("events", detector.events),
            ("findings", detector.raised),
            ("evicted", detector.evicted),
            ("long-lines", sum(|tally| tally.too_long) + journal.map_or(0, |journal| journal.too_long)),
            ("rotations", sum(|tally| tally.rotations)),
            ("truncations", sum(|tally| tally.truncations)),
            ("files-lost", sum(|tally| tally.lost)),
            ("untrusted", self.output.tally.untrusted),
            ("refused", self.output.tally.refused),
            ("journal-restarts", journal.map_or(0, |journal| journal.restarts)),
        ]
    }
}

/// Reads all files of a log to their ends. The outer error ends the sensor, the inner one is this log's.
fn read_log(
    tail: &mut Tail,
    output: &mut Output,
    buffer: &mut [u8],
    stop: &crate::sys::Stop,
) -> Result<std::io::Result<()>, SealError> {
    let path = tail.path().to_owned();
    let mut index = 0;
    while index < tail.files() {
        let now = clock::now();
        let more = match tail.read(index, buffer, now, |found| output.line(&path, found, now)) {
            Ok(more) => more,
            Err(error) => return Ok(Err(error)),
        };
        if output.has_news() {
            output.commit(path.as_os_str().as_bytes(), &tail.position())?;
        }
        if stop.is_set() {
            break;
        }
        if !more {
            index += 1;
        }
    }
    Ok(Ok(()))
}
