//! The worker's tools: baseline, rung, hasher, and the way to the ledger.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use picket_protocol::finding::Finding;
use picket_protocol::record::Draft;
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::baseline::{Baseline, Write};
use super::change::{FileChange, SeenBy, TextChange};
use super::dirty::{Mark, Scope};
use super::freeze;
use super::images::{Images, Owner};
use super::large::Large;
use super::logs::{LogBook, LogChange};
use super::object::{Content, ObjectState};
use super::own;
use super::pace::Pace;
use super::pass::Pass;
use super::pressure::Pressure;
use super::rung::Rung;
use super::scanner::ScanNews;
use super::shared::{Shared, View};
use super::spending::Spent;
use super::text;
use super::tuning::Tuning;
use crate::clock;
use crate::detect::files::subject::{self, TextUse};
use crate::detect::files::{Detector, Outcome};
use crate::detect::mass_change::Habits;
use crate::ledger::{Sealer, StateWrite};
use crate::respond::own_acts::OwnActs;
use crate::sense::draft::draft;
use crate::sense::packages::Packages;
use crate::sense::sessions::Sessions;
use crate::sense::watch::Watch;
use crate::sense::{SensorContext, SensorState, SensorStatus};
use crate::sys::Stop;

/// Findings in one entry.
const ENTRY_FINDINGS_MAX: usize = 64;
/// Rows on their way to the database; beyond, the worker waits for the ledger. About 1.5 MiB.
const ROWS_IN_FLIGHT_MAX: usize = 4_096;
/// Rows of the baseline in one entry.
const ENTRY_ROWS_MAX: usize = 1_024;
/// Rows wait no longer for others.
const GATHER: Duration = Duration::from_millis(500);
/// Between two looks at whether rows have arrived, while there is nothing else to do.
const ARRIVAL: Duration = Duration::from_millis(4);

/// What the worker counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Objects in the baseline as of the last full examination.
    pub objects: u64,
    /// Objects looked at.
    pub examined: u64,
    /// Findings handed on.
    pub findings: u64,
    /// Changes that said nothing, taken into the baseline.
    pub refreshed: u64,
    /// Of those, how many the kernel told of: what was changed was as before when it was looked at.
    pub reverted: u64,
    /// Looks put off because the path changes all the time.
    pub paced: u64,
    /// Trees examined again.
    pub rescans: u64,
    /// Objects or directories that could not be looked at.
    pub errors: u64,
    /// Objects that came and went between two looks.
    pub transient: u64,
}

/// Why a pass ends early.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The agent stops, or the ledger has.
    #[error("the sensor stops")]
    Stopped,
    /// The time given to a command's scan is over.
    #[error("the time is over")]
    Deadline,
    /// The baseline cannot be read.
    #[error("the baseline cannot be read: {0}")]
    Baseline(#[from] rusqlite::Error),
}

/// See the module.
pub struct Examiner {
    /// What every object was.
    pub baseline: Baseline,
    /// What the text of files that matter was.
    pub images: Images,
    /// What is watched, and what is to be looked at.
    pub shared: Arc<Shared>,
    /// The rung in use.
    pub rung: Rung,
    /// Hashes large files.
    pub large: Large,
    /// Spaces out looks at what changes all the time.
    pub pace: Pace,
    /// What was counted.
    pub tally: Tally,
    /// Times and bounds.
    pub tuning: Tuning,
    /// `hash_bytes_max` of the configuration.
    pub hash_bytes_max: u64,
    /// Read buffer; empty while nothing is read.
    pub buffer: Vec<u8>,
    /// Set when the agent stops.
    pub stop: Stop,
    /// The ledger.
    keys: crate::sense::keys::AddedKeys,
    acts: OwnActs,
    pub sealer: Sealer,
    sessions: Sessions,
    watch: Watch,
    /// What `agent status` shows.
    pub status: SensorStatus,
    /// When the last finding was handed on.
    pub last_finding: Option<Timestamp>,
    /// Trees are not examined again before, so that a storm of lost events is not answered by a storm of rescans.
    pub rescan_rest: Option<Instant>,
    /// What changes mean.
    pub detector: Detector,
    /// What package managers recorded.
    pub packages: Packages,
    /// The logs that are followed.
    pub logs: LogBook,
    /// What the host suffers.
    pub pressure: Pressure,
    /// When this run began, on the clock that stands still while the host sleeps.
    pub begun: Instant,
    drafts: Vec<Draft>,
    writes: Vec<StateWrite>,
    flushed: Instant,
}

impl Examiner {
    /// Tools for a worker.
    pub fn new(
        baseline: Baseline,
        shared: Arc<Shared>,
        rung: Rung,
        large: Large,
        tuning: Tuning,
        hash_bytes_max: u64,
        context: &SensorContext,
    ) -> rusqlite::Result<Self> {
        // Without them a habit is told as an alarm once more: no reason to watch nothing.
        let habits = Habits::restore(baseline.habits().unwrap_or_default());
        // Without it what happened to logs while the agent was down is not known: the same.
        let (known, grown) = (baseline.logs().unwrap_or_default(), baseline.log_habits().unwrap_or_default());
        let logs = LogBook::restore(known, grown, tuning.silence);
        let packages = Packages::open(&tuning.packages_root, &context.database)?;
        let mut detector = Detector::new(tuning.mass_change, habits);
        detector.agent = tuning.agent.clone();
        detector.packages = packages.stage(clock::now())?;
        detector.acts = packages.acts()?;
        Ok(Self {
            images: Images::open(&context.database)?,
            baseline,
            shared,
            rung,
            large,
            pace: Pace::default(),
            tally: Tally::default(),
            tuning,
            hash_bytes_max,
            buffer: Vec::new(),
            stop: context.stop.clone(),
            sealer: context.sealer.clone(),
            sessions: context.sessions.clone(),
            watch: context.watch.clone(),
            keys: context.keys.clone(),
            acts: context.acts.clone(),
            status: context.status.clone(),
            last_finding: None,
            rescan_rest: None,
            detector,
            packages,
            logs,
            drafts: Vec::new(),
            writes: Vec::new(),
            flushed: Instant::now(),
            pressure: Pressure::default(),
            begun: Instant::now(),
        })
    }

    /// What is watched.
    pub fn view(&self) -> Arc<View> {
        self.shared.view()
    }

    /// Takes marks that are due, but for those that are put off: paths that change all the time, and rescans too
    /// soon after the last.
    pub fn take_marks(&mut self, now: Instant, max: usize) -> Vec<(PathBuf, Mark)> {
        let marks = self.shared.dirty.with(|set| set.take_due(now, max));
        let mut ready = Vec::with_capacity(marks.len());
        for (path, mark) in marks {
            let due = match (mark.scope, mark.seen_by) {
                (Scope::Tree, SeenBy::Rescan) => self.rescan_rest,
                (Scope::Object, SeenBy::Event) => self.pace.due(&path),
                _ => None,
            };
            match due.filter(|due| *due > now) {
                Some(due) => {
                    self.tally.paced += 1;
                    self.shared.dirty.with(|set| set.put_back(path, mark, due));
                }
                None => ready.push((path, mark)),
            }
        }
        self.shared.spending.on_marks(&self.view().watched, &ready);
        ready
    }

    /// The directory above a tree, the nearest that exists, tells when the tree itself comes or goes.
    pub fn watch_above(&mut self, tree: &Path) {
        let is_directory = |above: &&Path| above.is_dir();
        let above = tree.ancestors().skip(1).find(is_directory).unwrap_or(Path::new("/"));
        self.rung.watch_directory(above);
    }

    /// Tells who waits how far a long pass is.
    pub fn show_progress(&self, pass: &Pass) {
        let examined = pass.progress.examined;
        self.status.update(|report| {
            if report.state == SensorState::Starting {
                report.reason = format!("{examined} objects compared with the baseline so far");
            }
            report.counters.insert("examined".to_owned(), self.tally.examined);
        });
        if let Some(news) = &pass.news {
            // Whoever asked may read slowly: the next news will be newer.
            let _told = news.try_send(ScanNews::Progress(pass.progress)).is_ok();
        }
    }

    /// Takes a change into the baseline, and hands its finding on with it; without one when `silent`, or when the
    /// change says nothing. Tells whether there was one.
    pub fn emit(&mut self, change: &FileChange, writes: Vec<Write>, silent: bool) -> Result<bool, PassError> {
        self.baseline.stage(writes);
        let told = !silent && {
            self.look_around(change)?;
            self.detector.own = own::explanation(&self.acts, change);
            let outcome = self.detector.observe(change, clock::now(), &mut Uuid::now_v7);
            let told = !outcome.findings.is_empty() || !outcome.writes.is_empty();
            self.tally.refreshed += u64::from(!told);
            let stayed = change.before.is_some() && change.after.is_some();
            self.tally.reverted += u64::from(!told && stayed && change.seen_by == SeenBy::Event);
            self.take(outcome, change.observed.last, &change.path);
            told
        };
        self.flush_when_full()?;
        Ok(told)
    }

    /// How much of the file at `path` is read at once.
    pub fn limit(&self, path: &Path) -> u64 {
        self.detector.quiet.hash_bytes_max(path, self.hash_bytes_max)
    }

    /// Has the large file at `path` hashed, unless its sample is all that will be known.
    pub fn queue_large(&mut self, path: PathBuf, mark: Mark) -> bool {
        !self.detector.quiet.covers(&path) && self.large.queue(path, mark)
    }

    /// Hands on what a log came to, with the book of logs as it is now.
    pub fn emit_log(&mut self, change: &LogChange) -> Result<(), PassError> {
        let outcome = self.detector.observe_log(change, clock::now(), &mut Uuid::now_v7);
        let told = !outcome.findings.is_empty();
        self.take(outcome, change.observed.last, &change.path);
        if told {
            self.writes.extend(self.logs.save());
            self.flush()?;
        }
        Ok(())
    }

    /// Writes down what is remembered of logs, as far as it changed.
    pub fn save_logs(&mut self) -> Result<(), PassError> {
        self.writes.extend(self.logs.save());
        self.flush()
    }

    pub(super) fn take(&mut self, outcome: Outcome, observed: Timestamp, path: &Path) {
        if !outcome.findings.is_empty() {
            let findings = u64::try_from(outcome.findings.len()).unwrap_or(u64::MAX);
            let spent = Spent { findings, ..Spent::default() };
            self.shared.spending.on_object(&self.view().watched, path, spent);
        }
        for mut finding in outcome.findings {
            freeze::answer(&self.tuning.freezer, &self.shared.processes, &mut finding);
            self.tally.findings += 1;
            self.last_finding = Some(observed);
            self.keys.note(&finding);
            self.sessions.link(&mut finding);
            self.watch.raise(&mut finding);
            self.drafts.extend(draft(&finding));
        }
        self.writes.extend(outcome.writes);
    }

    /// Hands on what the detector held back until now.
    pub fn tick(&mut self) -> Result<(), PassError> {
        self.ask_packages()?;
        let now = clock::now();
        if self.detector.due_in(now).is_none_or(|wait| !wait.is_zero()) {
            return Ok(());
        }
        let outcome = self.detector.tick(now, &mut Uuid::now_v7);
        self.take(outcome, now, Path::new(""));
        self.flush()
    }

    /// Looks at the text of the object at `path` that was just found in `state`, and keeps it if it is one to be kept:
    /// in the entry that is handed on next. `buffer` may hold what was read of it; `before` is what the path held.
    pub fn take_text(
        &mut self,
        path: &Path,
        state: Option<&ObjectState>,
        before: Option<&ObjectState>,
    ) -> Option<TextChange> {
        let text_use = subject::text_use(path);
        if text_use == TextUse::None {
            return None;
        }
        let held = |state: Option<&ObjectState>| match state.map(|state| (&state.content, state.meta.uid)) {
            Some((Content::Digest(digest), uid)) => Some((*digest, Owner::of(uid))),
            _ => None,
        };
        let (was, is) = (held(before), held(state));
        let after = state.and_then(|state| text::of(path, state, &self.buffer));
        let keeps = text_use == TextUse::Keep;
        let known = was.filter(|_| keeps).and_then(|(was, _)| self.images.get(&was));
        match (is, &after) {
            (Some(is), Some(after)) if keeps => self.writes.extend(self.images.keep(is, after, was)),
            _ if known.is_some() => {
                self.writes.extend(was.filter(|was| is.is_none_or(|is| is.0 != was.0)).map(Images::let_go))
            }
            _ => {}
        }
        let told = known.is_some() || after.is_some();
        told.then_some(TextChange { before: known, after })
    }

    /// Takes rows into the baseline without a word.
    pub fn put(&mut self, writes: Vec<Write>) -> Result<(), PassError> {
        if writes.is_empty() {
            return Ok(());
        }
        self.baseline.stage(writes);
        self.flush_when_full()
    }

    /// Writes down that the sensor has watched without a gap until `time`.
    pub fn stamp(&mut self, time: Timestamp) -> Result<(), PassError> {
        self.writes.extend(self.logs.save());
        self.flush()?;
        self.writes.extend(self.baseline.write(Some(time)));
        self.flush()
    }

    /// Hands on a finding about the sensor itself.
    pub fn tell(&mut self, mut finding: Finding) -> Result<(), PassError> {
        self.keys.note(&finding);
        self.sessions.link(&mut finding);
        self.drafts.extend(draft(&finding));
        self.flush()
    }

    /// An entry costs the disk a write that it must confirm: rows gather, up to a number and an age.
    fn flush_when_full(&mut self) -> Result<(), PassError> {
        let full = self.drafts.len() >= ENTRY_FINDINGS_MAX || self.baseline.staged() >= ENTRY_ROWS_MAX;
        if full || self.flushed.elapsed() >= GATHER { self.flush() } else { Ok(()) }
    }

    /// Hands what has gathered to the ledger; waits when too much is on its way.
    pub fn flush(&mut self) -> Result<(), PassError> {
        self.flushed = Instant::now();
        self.writes.extend(self.baseline.write(None));
        if !self.drafts.is_empty() || !self.writes.is_empty() {
            let (drafts, writes) = (std::mem::take(&mut self.drafts), std::mem::take(&mut self.writes));
            self.sealer.seal(drafts, writes).map_err(|_| PassError::Stopped)?;
        }
        self.baseline.refresh()?;
        if self.baseline.rows_in_flight() == 0 {
            self.images.rest();
        }
        while self.baseline.rows_in_flight() > ROWS_IN_FLIGHT_MAX {
            if self.stop.wait(ARRIVAL) {
                return Err(PassError::Stopped);
            }
            self.baseline.refresh()?;
        }
        Ok(())
    }
}
