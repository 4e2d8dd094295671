//! From lines to the ledger: reads a message, asks the detector, and hands findings to the ledger together with
//! the position behind the lines that they came from.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use picket_protocol::finding::Finding;
use picket_protocol::record::{Draft, Kind, Lifecycle};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::audit::meaning::Heard;
use super::event::{LoginEvent, LoginKind, Origin, Place, Source};
use super::facts::AccountFiles;
use super::gather::Gathered;
use super::journal::Entry;
use super::line::{Line, LiveClock};
use super::names::Names;
use super::parse::{Parsers, Scratch};
use super::position::{SILENCE, forget_position, write_detector, write_position};
use super::records::Reading;
use super::tail::Found;
use crate::config::LoginsConfig;
use crate::detect::logins::merge::{Merge, Step};
use crate::detect::logins::{Detector, Facts, Secret, Thresholds};
use crate::detect::silence::Silence;
use crate::ledger::{SealError, Sealed, StateWrite};
use crate::sense::SensorContext;

/// Findings that go into one ledger entry.
pub const DRAFTS_MAX: usize = 512;
/// Entries that are not durable yet. With [`DRAFTS_MAX`] this bounds what waits in memory while the disk is full: the
/// lines themselves wait in the log.
const OPEN_MAX: usize = 4;
/// A position that led to nothing is written this seldom: to read such lines again costs nothing else.
const IDLE_POSITION_AGE: Duration = Duration::from_secs(60);
/// How often a wait for the ledger looks at the stop signal.
const STOP_LOOK: Duration = Duration::from_millis(200);

/// What came of lines, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Entries of the journal.
    pub entries: u64,
    /// Entries whose sender was not what it claimed to be.
    pub untrusted: u64,
    /// Entries of the ledger that it refused.
    pub refused: u64,
    /// Messages of audit that say something about logins.
    pub audit: u64,
}

/// The way out.
pub struct Output {
    context: SensorContext,
    thresholds: Thresholds,
    detector: Detector,
    merge: Merge,
    silence: Silence,
    silence_written: Timestamp,
    names: Names,
    accounts: AccountFiles,
    fleet: BTreeSet<IpAddr>,
    records: Reading,
    /// How old the last event of each log was when it was read.
    lags: HashMap<PathBuf, Duration>,
    clock: LiveClock,
    parsers: Arc<Parsers>,
    /// Logs that a service writes itself, and its name.
    own_logs: HashMap<PathBuf, String>,
    /// The path of the log that is read.
    path: Arc<Path>,
    /// The service that writes that log itself, by its place among the parsers.
    reader: Option<usize>,
    scratch: Scratch,
    gathered: Gathered,
    open: VecDeque<Receiver<Result<Sealed, SealError>>>,
    /// How far sources were read since the last commit, by source: written with the next, whatever that is for.
    held: BTreeMap<Vec<u8>, StateWrite>,
    /// When the positions that led to nothing were written last.
    idle_since: Timestamp,
    /// Since then some lines led to nothing.
    idle: bool,
    last_event: Option<Timestamp>,
    /// Counts.
    pub tally: Tally,
}

impl Output {
    /// Goes on with the detector's rows of the last run.
    pub fn new(
        context: SensorContext,
        config: &LoginsConfig,
        parsers: Arc<Parsers>,
        rows: Vec<(String, String)>,
        now: Timestamp,
    ) -> Self {
        let scratch = context.database.parent().unwrap_or(Path::new("/"));
        let accounts = AccountFiles::of_host(&config.records, scratch);
        // Names are chosen by whoever tries to log in; what is made of them must not be foreseen.
        let secret = Secret::new(Uuid::now_v7().as_u64_pair().1);
        let mut detector = Detector::with_secret(config.thresholds, secret);
        let (acts, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(row, _)| Merge::is_row(row));
        let mut damaged = detector.restore(rows);
        let mut merge = Merge::new(detector.secret());
        damaged +=
            acts.iter().map(|(row, state)| u64::from(merge.restore(row, state) != Some(true))).sum::<u64>();
        if damaged > 0 {
            tracing::warn!(damaged, "login detector: rows of an earlier version were dropped");
        }
        Self {
            context,
            thresholds: config.thresholds,
            detector,
            merge,
            silence: Silence::default(),
            silence_written: now,
            names: Names::of_host(),
            accounts,
            fleet: config.fleet.iter().copied().collect(),
            records: Reading::default(),
            lags: HashMap::new(),
            clock: LiveClock::new(super::line::local_zone()),
            own_logs: parsers.logs().into_iter().map(|(path, service)| (path, service.to_owned())).collect(),
            parsers,
            path: Path::new("").into(),
            reader: None,
            scratch: Scratch::default(),
            gathered: Gathered::default(),
            open: VecDeque::new(),
            held: BTreeMap::new(),
            idle_since: now,
            idle: false,
            last_event: None,
            tally: Tally::default(),
        }
    }

    /// Whether the journal tells nothing of what others tell.
    pub fn journal_is_silent(&self) -> bool {
        self.silence.is_silent(Source::Journal)
    }

    /// Takes back what was learnt of the sources.
    pub fn restore_silence(&mut self, state: &str) {
        self.silence.restore(state);
    }

    /// The detector, for its counts and for what is due.
    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// When something was last observed.
    pub fn last_event(&self) -> Option<Timestamp> {
        self.last_event
    }

    /// Where reports of one act meet.
    pub fn merge(&mut self) -> &mut Merge {
        &mut self.merge
    }

    /// Observes a line of the text log at `path`, whose lines the journal has as well where `repeated`; false when it is
    /// time to commit.
    pub fn line(&mut self, path: &Path, found: Found<'_>, repeated: bool, now: Timestamp) -> bool {
        self.idle = true;
        let place = Place::Log { path: self.shared(path), inode: found.inode, offset: found.offset };
        let event = match self.reader.and_then(|index| self.parsers.at(index)) {
            Some(service) => {
                let Some(parsed) = service.line(found.bytes, &mut self.scratch) else { return true };
                let time = parsed.time.and_then(|time| time.resolve(now, self.clock.zone())).unwrap_or(now);
                let origin = Origin { time, pid: None, source: Source::Log, place, sender: None };
                LoginEvent::new(&parsed, found.bytes, origin)
            }
            None => {
                let Some(line) = Line::parse(found.bytes) else { return true };
                let parsed = self.parsers.message(line.program, line.message, &mut self.scratch);
                let Some(parsed) = parsed else { return true };
                let time = self.clock.time(line.stamp, now).unwrap_or(now);
                let origin = Origin { time, pid: line.pid, source: Source::Log, place, sender: None };
                LoginEvent::new(&parsed, line.message, origin)
            }
        };
        self.lagged(path, event.time, now);
        self.observe(event, repeated, now);
        !self.is_full()
    }

    /// Observes a record of the utmp family in the file at `path`; false when it is time to commit.
    pub fn record(&mut self, path: &Path, found: Found<'_>, now: Timestamp) -> bool {
        self.idle = true;
        let Self { records, names, .. } = self;
        let Some(event) = records.event(path, found, |name| names.has(name, now)) else { return true };
        self.lagged(path, event.time, now);
        self.observe(event, false, now);
        !self.is_full()
    }

    /// Observes a row of a login database; false when it is time to commit.
    pub fn row(&mut self, path: &Path, event: LoginEvent, now: Timestamp) -> bool {
        self.idle = true;
        self.lagged(path, event.time, now);
        self.observe(event, false, now);
        !self.is_full()
    }

    /// From now on the log at `path` is one that `service` writes itself.
    pub fn own_log(&mut self, path: &Path, service: String) {
        self.own_logs.insert(path.to_owned(), service);
        self.path = Path::new("").into();
    }

    /// The log at `path` is read no more.
    pub fn forget_log(&mut self, path: &Path) -> Result<(), SealError> {
        self.own_logs.remove(path);
        self.path = Path::new("").into();
        self.lags.remove(path);
        self.commit_writes(vec![forget_position(path.as_os_str().as_encoded_bytes())])
    }

    /// The path as it is kept with every event: one for all.
    fn shared(&mut self, path: &Path) -> Arc<Path> {
        if self.path.as_os_str() != path.as_os_str() {
            self.path = path.into();
            let own = self.own_logs.get(path);
            self.reader = own.and_then(|name| self.parsers.heads().position(|service| service.name == *name));
        }
        Arc::clone(&self.path)
    }

    /// How old the last event of the log at `path` was when it was read.
    pub fn lag(&self, path: &Path) -> Option<Duration> {
        self.lags.get(path).copied()
    }

    fn lagged(&mut self, path: &Path, time: Timestamp, now: Timestamp) {
        let lag = now.since(time);
        match self.lags.get_mut(path) {
            Some(known) => *known = lag,
            None => drop(self.lags.insert(path.to_owned(), lag)),
        }
    }

    /// Observes an entry of the journal.
    pub fn entry(&mut self, entry: &Entry, now: Timestamp) {
        self.idle = true;
        self.tally.entries += 1;
        let (Some(identifier), Some(message)) = (entry.identifier(), entry.message()) else { return };
        let Some(parsed) = self.parsers.message(&identifier, &message, &mut self.scratch) else { return };
        if !entry.is_genuine(&identifier, self.parsers.sender(&identifier)) {
            self.tally.untrusted += 1;
            return;
        }
        let sender = entry.sender();
        let origin = Origin {
            time: entry.time().unwrap_or(now),
            pid: sender.pid,
            source: Source::Journal,
            place: Place::Journal { cursor: entry.cursor.as_str().into() },
            sender: Some(sender),
        };
        let event = LoginEvent::new(&parsed, &message, origin);
        self.observe(event, false, now);
    }

    /// Observes what audit told.
    pub fn heard(&mut self, heard: Heard, now: Timestamp) {
        let mut event = match heard {
            Heard::Event(event) => event,
            Heard::Began { pid, login_uid, session } => {
                return self.context.sessions.began(pid, login_uid, session, now);
            }
            Heard::Configured => return,
        };
        self.tally.audit += 1;
        self.name_users(&mut event, now);
        let before = self.detector.tally.raised;
        self.observe(*event, false, now);
        // Whoever reads audit late reads nothing.
        if self.detector.tally.raised > before {
            self.gathered.hurry();
        }
    }

    /// Audit knows who asks for a privilege, and some accounts that change, by number only.
    fn name_users(&mut self, event: &mut LoginEvent, now: Timestamp) {
        let numbered = match event.event {
            LoginKind::PrivilegeSuccess | LoginKind::PrivilegeFailure => true,
            kind => kind.is_account_change(),
        };
        let number = event.user.as_ref().filter(|_| numbered).and_then(|user| user.text.strip_prefix('#'));
        let Some(uid) = number.and_then(|number| number.parse().ok()) else { return };
        // Who is in a directory, not in /etc/passwd, is known by the name with which he logged in.
        let known = self.names.name(uid, now);
        if let Some(name) = known.or_else(|| self.context.sessions.user_of(event.session?, uid)) {
            event.user = Some(name);
        }
    }

    fn observe(&mut self, mut event: LoginEvent, repeated: bool, now: Timestamp) {
        self.last_event = Some(now);
        self.context.sessions.complete(&mut event, now);
        if self.merge.is_alone() {
            return self.take_new(&event, now);
        }
        // The end of a session is told by several processes of it: the one that is known is not always the first to tell.
        if event.event == LoginKind::Logout && !(repeated && self.merge.confirms()) {
            self.context.sessions.observe(&event, now);
        }
        let steps = self.merge.report(event, repeated, now);
        self.take_steps(steps, now);
    }

    fn take_steps(&mut self, steps: Vec<Step>, now: Timestamp) {
        for step in steps {
            match step {
                Step::New(event) => self.take_new(&event, now),
                Step::More { told, event } => {
                    self.context.sessions.observe(&event, now);
                    let findings = self.detector.enrich(&told, &event, now, &mut Uuid::now_v7);
                    self.add(findings);
                }
            }
        }
    }

    fn take_new(&mut self, event: &LoginEvent, now: Timestamp) {
        self.context.sessions.observe(event, now);
        let findings = self.detector.observe(event, now, &mut Uuid::now_v7);
        self.add(findings);
    }

    /// Tells the detector what is new of accounts and keys; to be called before lines are read.
    pub fn look(&mut self, now: Timestamp) {
        let thresholds = self.thresholds;
        self.detector.set_thresholds(if self.context.watch.is_on() {
            thresholds.watched()
        } else {
            thresholds
        });
        if let Some(accounts) = self.accounts.look(now) {
            self.detector.set_facts(Facts {
                accounts,
                fleet: self.fleet.clone(),
                accounts_watched: self.context.keys.accounts_watched(),
            });
        }
        for key in self.context.keys.take() {
            self.detector.key_added(key);
        }
    }

    fn add(&mut self, findings: Vec<Finding>) {
        if self.detector.take_prompt() {
            self.gathered.hurry();
        }
        for mut finding in findings {
            self.context.sessions.link(&mut finding);
            self.context.watch.raise(&mut finding);
            self.gathered.finding(finding);
        }
    }

    /// Seals a record about the sensor itself.
    pub fn tell(&mut self, lifecycle: &Lifecycle, severity: picket_protocol::finding::Severity) {
        match Draft::new(Kind::Lifecycle, severity, lifecycle) {
            Ok(draft) => self.gathered.record(draft),
            Err(error) => tracing::error!(%error, "a lifecycle record cannot be sealed"),
        }
    }

    /// Whether it is time to commit.
    pub fn is_full(&self) -> bool {
        self.gathered.len() >= DRAFTS_MAX
    }

    /// Raises what is due by the clock and commits it.
    pub fn tick(&mut self, now: Timestamp) -> Result<(), SealError> {
        self.context.sessions.tick(now);
        let steps = self.merge.tick(now);
        self.take_steps(steps, now);
        for act in self.merge.take_closed() {
            let findings = self.silence.closed(&act, now, &mut Uuid::now_v7);
            if !findings.is_empty() {
                self.gathered.hurry();
            }
            self.add(findings);
        }
        let findings = self.detector.tick(now, DRAFTS_MAX);
        self.add(findings);
        // With findings at once, else seldom: what is lost of it is learnt again.
        let due = now < self.silence_written || now.since(self.silence_written) >= IDLE_POSITION_AGE;
        if due && self.hold_silence() {
            self.silence_written = now;
        }
        self.commit_news(now)
    }

    /// Writes what is known of the sources with the next commit, if that changed.
    fn hold_silence(&mut self) -> bool {
        let write = self.silence.state().and_then(|state| write_position(SILENCE, &state));
        write.map(|write| self.held.insert(SILENCE.to_vec(), write)).is_some()
    }

    /// How long until [`Output::tick`] has something to do.
    pub fn due_in(&self, now: Timestamp) -> Option<Duration> {
        let due = [
            self.merge.due_in(now),
            self.detector.due_in(now),
            self.context.sessions.due_in(now),
            self.gathered.due_in(now),
        ];
        due.into_iter().flatten().min()
    }

    /// Hands what gathered to the ledger when it is due, with all that led to it.
    pub fn commit_news(&mut self, now: Timestamp) -> Result<(), SealError> {
        if !self.has_news() {
            return Ok(());
        }
        self.gathered.begin(now);
        if !self.gathered.is_due(now) {
            return Ok(());
        }
        self.commit_writes(Vec::new())
    }

    /// A source was read up to `position`; as [`Output::commit_news`].
    pub fn read_on(
        &mut self,
        source: &[u8],
        position: &impl serde::Serialize,
        now: Timestamp,
    ) -> Result<(), SealError> {
        self.hold(source, position);
        self.commit_news(now)
    }

    /// A source was read up to `position`, which is written with the next commit.
    pub fn hold(&mut self, source: &[u8], position: &impl serde::Serialize) {
        if let Some(write) = write_position(source, position) {
            self.held.insert(source.to_owned(), write);
        }
    }

    /// Hands to the ledger what there is.
    pub fn commit_held(&mut self) -> Result<(), SealError> {
        self.commit_writes(Vec::new())
    }

    /// Hands what gathered to the ledger, with the position in the one source that it came from.
    pub fn commit(&mut self, source: &[u8], position: &impl serde::Serialize) -> Result<(), SealError> {
        self.commit_writes(write_position(source, position).into_iter().collect())
    }

    /// Whether there is something to be written.
    pub fn has_news(&self) -> bool {
        !self.gathered.is_empty()
            || !self.held.is_empty()
            || self.detector.has_changes()
            || self.merge.has_changes()
            || self.context.sessions.has_changes()
    }

    /// Whether it is time to write positions that led to nothing; asked once for all sources.
    pub fn idle_positions_due(&mut self, now: Timestamp) -> bool {
        let due = self.idle && (now < self.idle_since || now.since(self.idle_since) >= IDLE_POSITION_AGE);
        if due {
            self.idle = false;
            self.idle_since = now;
        }
        due
    }

    /// How long until positions that led to nothing should be written; none when there are none.
    pub fn idle_positions_in(&self, now: Timestamp) -> Option<Duration> {
        self.idle.then(|| IDLE_POSITION_AGE.saturating_sub(now.since(self.idle_since)))
    }

    fn commit_writes(&mut self, mut writes: Vec<StateWrite>) -> Result<(), SealError> {
        let drafts = self.gathered.take();
        if !drafts.is_empty() {
            self.hold_silence();
        }
        // What the detector knows of a source and how far it was read belong together, for every source.
        let held = std::mem::take(&mut self.held);
        writes.splice(0..0, held.into_values());
        let mut changes = self.detector.take_changes();
        self.merge.take_changes(&mut changes);
        writes.extend(write_detector(changes));
        writes.extend(self.context.sessions.writes());
        if drafts.is_empty() && writes.is_empty() {
            return Ok(());
        }
        let answer = self.context.sealer.seal_answered(drafts, writes)?;
        self.open.push_back(answer);
        self.settle(OPEN_MAX)
    }

    /// Waits until at most `max` entries are not durable.
    pub fn settle(&mut self, max: usize) -> Result<(), SealError> {
        while let Some(oldest) = self.open.front() {
            let answer = if self.open.len() > max {
                match oldest.recv_timeout(STOP_LOOK) {
                    Err(RecvTimeoutError::Timeout) if self.context.stop.is_set() => {
                        return Err(SealError::Stopped);
                    }
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return Err(SealError::Stopped),
                    Ok(answer) => answer,
                }
            } else {
                // What is answered by now need not be asked later.
                match oldest.try_recv() {
                    Ok(answer) => answer,
                    Err(_not_yet) => return Ok(()),
                }
            };
            self.open.pop_front();
            if let Err(error) = answer {
                self.tally.refused += 1;
                tracing::error!(%error, "the ledger refused login findings");
            }
        }
        Ok(())
    }
}
