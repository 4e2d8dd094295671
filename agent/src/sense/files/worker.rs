//! The worker: waits until something is marked, asked for or due, and looks.

use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use picket_protocol::time::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::baseline::{Key, NO_PARENT};
use super::canary;
use super::change::SeenBy;
use super::dirty::{Mark, Scope};
use super::examiner::{Examiner, PassError};
use super::large::Done;
use super::mounts::{self, MountTable};
use super::pass::{Candidate, Pass, Turn, command_mark};
use super::scanner::{Acceptor, ScanError, ScanNews, ScanRequest, ScanSummary, Scanned};
use super::shared::View;
use super::spending::{Shares, Spent, thread_cpu_micros};
use super::walk::{directory, forget};
use super::watched::Watched;
use crate::clock;
use crate::config::FilesConfig;
use crate::detect::files::acceptance::Acceptance;
use crate::detect::files::quiet::Quiet;
use crate::detect::mass_change::canary::Canaries;
use crate::sense::SensorState;
use crate::sys::Wake;

/// `scan_interval` unless configured: the scan rung then looks more often.
const SCAN_INTERVAL_DEFAULT: Duration = Duration::from_secs(6 * 3_600);
/// Marks taken at once.
const MARKS_MAX: usize = 512;
/// After the baseline could not be read.
const RETRY: Duration = Duration::from_secs(5);
/// How long the record of an acceptance may take.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);
/// The sensor rests so many times as long as its last rescan took.
const RESCAN_REST: u32 = 4;

/// See the module.
pub struct Worker {
    pub(super) examiner: Examiner,
    pub(super) config: FilesConfig,
    pub(super) requests: Receiver<ScanRequest>,
    pub(super) wake: Arc<Wake>,
    pub(super) mounts: Option<MountTable>,
    /// The mount table has changed since it was read.
    pub(super) mounts_changed: bool,
    /// Why the sensor sees less than it should, apart from what the rung says.
    pub(super) lacks: Vec<String>,
    /// Everything was compared with the baseline as of then.
    pub(super) complete: Option<Timestamp>,
    pub(super) next_scan: Instant,
    pub(super) next_stamp: Instant,
    /// When steady logs that are quiet are looked after next.
    pub(super) next_quiet: Instant,
    pub(super) overflows_told: (u64, Option<Instant>),
    pub(super) lacks_told: Vec<String>,
}

impl Worker {
    /// Works until the agent stops.
    pub fn run(mut self) {
        self.complete = self.examiner.baseline.seen_until().ok().flatten();
        self.examiner.detector.canaries = Canaries::new(canary::plant(&self.config.canaries));
        let mut result = self.examine_everything();
        loop {
            match result {
                Ok(()) => {}
                Err(PassError::Stopped) => break,
                Err(error) => self.recover(&error),
            }
            self.report();
            self.wait();
            if self.examiner.stop.is_set() {
                break;
            }
            result = self.turn();
        }
        // What was marked and not looked at is found at the next start; the time until which all was seen is older.
        if self.examiner.rung.is_real_time() && self.complete.is_some() && self.nothing_pending() {
            let _stopped = self.examiner.stamp(clock::now()).is_err();
        }
        let _stopped = self.examiner.save_logs().is_err();
    }

    /// One round: everything that is due.
    fn turn(&mut self) -> Result<(), PassError> {
        self.follow_mounts()?;
        self.take_hashed()?;
        while let Ok(request) = self.requests.try_recv() {
            self.serve_scan(request)?;
        }
        self.tell_overflows()?;
        self.tell_lacks()?;
        self.examiner.tick()?;
        let now = Instant::now();
        let marks = self.examiner.take_marks(now, MARKS_MAX);
        if !marks.is_empty() {
            self.look_at(marks)?;
        }
        if now >= self.next_scan {
            self.examine_everything()?;
        }
        if now >= self.next_stamp {
            self.stamp()?;
        }
        if now >= self.next_quiet {
            self.next_quiet = now + self.examiner.tuning.silence.check;
            self.examiner.look_after_logs()?;
        }
        Ok(())
    }

    fn look_at(&mut self, marks: Vec<(PathBuf, Mark)>) -> Result<(), PassError> {
        let rescans = marks.iter().filter(|(_, mark)| mark.seen_by == SeenBy::Rescan).count();
        let long = marks.iter().any(|(_, mark)| mark.scope == Scope::Tree);
        let started = Instant::now();
        let (shares, micros) = (Shares::of(&marks), thread_cpu_micros());
        Pass { long, ..Pass::default() }.run(&mut self.examiner, marks)?;
        let micros = thread_cpu_micros().saturating_sub(micros);
        shares.charge(&self.examiner.shared.spending, &self.examiner.view().watched, micros);
        if rescans > 0 {
            self.examiner.tally.rescans += u64::try_from(rescans).unwrap_or(u64::MAX);
            self.examiner.rescan_rest = Some(Instant::now() + started.elapsed() * RESCAN_REST);
        }
        Ok(())
    }

    /// Compares all trees with the baseline; takes those that are new into it.
    fn examine_everything(&mut self) -> Result<(), PassError> {
        let (started, now) = (clock::now(), Instant::now());
        self.refresh_view()?;
        self.forget_other_trees()?;
        self.examiner.rung.begin_round();
        self.examiner.shared.aliases.clear();
        let mark = Mark::rescan(started, now, self.complete);
        let trees = self.examiner.view().watched.trees().to_vec();
        let reread = self.complete.map(|_| Turn::at(started, self.scan_interval()));
        let mut pass = Pass { long: true, reread, ..Pass::default() };
        let mut known = Vec::new();
        for tree in &trees {
            // A tree that is new is walked when it is concluded.
            if directory(&mut self.examiner, tree)?.is_some() {
                known.push(tree);
            }
            pass.look(&mut self.examiner, Candidate::new(tree.clone(), mark.clone()))?;
        }
        pass.finish(&mut self.examiner)?;
        for tree in known {
            let micros = thread_cpu_micros();
            pass.walk(&mut self.examiner, tree, &mark)?;
            self.charge_round(tree, micros);
        }
        pass.finish(&mut self.examiner)?;
        pass.look_at_known_logs(&mut self.examiner, &Candidate::new(PathBuf::new(), mark.clone()))?;
        self.examiner.logs.armed = true;
        self.examiner.rung.end_round();
        self.examiner.buffer = Vec::new();
        self.examiner.baseline.rest()?;
        self.examiner.tally.objects = pass.progress.examined;
        self.examiner.tally.rescans += u64::from(self.complete.is_some());
        self.complete = Some(started);
        self.examiner.stamp(started)?;
        self.next_scan = Instant::now() + self.scan_interval();
        self.next_stamp = Instant::now() + self.examiner.tuning.stamp;
        self.tell_lacks()
    }

    /// A tree was gone through, since the thread's clock of processor time stood at `from`.
    fn charge_round(&self, tree: &Path, from: u64) {
        let cpu_micros = thread_cpu_micros().saturating_sub(from);
        let spent = Spent { rescans: 1, cpu_micros, ..Spent::default() };
        self.examiner.shared.spending.on_tree(&self.examiner.view().watched, tree, spent);
    }

    fn scan_interval(&self) -> Duration {
        let configured = self.config.scan_interval;
        let often = self.examiner.tuning.scan_rest;
        let blind = self.examiner.rung.blind().is_some();
        if (!self.examiner.rung.is_real_time() || blind) && configured == SCAN_INTERVAL_DEFAULT {
            often
        } else {
            configured
        }
    }

    /// Finds out anew where the trees are and what is mounted in them.
    fn refresh_view(&mut self) -> Result<(), PassError> {
        let logs: Vec<PathBuf> = self.config.logs.iter().map(|log| real_path(log)).collect();
        let real = |trees: &[PathBuf]| trees.iter().flat_map(|tree| real_trees(tree)).collect::<Vec<_>>();
        let (told, quiet) = (real(&self.config.trees), real(&self.config.quiet_trees));
        let trees = told.iter().chain(&quiet).chain(&logs).cloned().collect();
        self.examiner.detector.quiet = Arc::new(Quiet::new(quiet, told));
        self.examiner.logs.set_places(logs);
        // The globs were read once at start.
        let Ok(mut watched) = Watched::new(trees, &self.config.exclude) else { return Ok(()) };
        let table = self.mounts.as_mut().and_then(|table| table.read().ok()).unwrap_or_default();
        let relevant = mounts::relevant(&table, &watched);
        watched.set_barred(relevant.barred);
        self.examiner.shared.set_view(View { watched, mounts: relevant.entered });
        let view = self.examiner.view();
        self.examiner.rung.watch_mounts(&view.mounts);
        Ok(())
    }

    /// Something was mounted or unmounted: what lies at and beneath is another now.
    fn follow_mounts(&mut self) -> Result<(), PassError> {
        if !std::mem::take(&mut self.mounts_changed) {
            return Ok(());
        }
        let before = self.examiner.view();
        self.refresh_view()?;
        let after = self.examiner.view();
        let points = |view: &View| view.mounts.iter().map(|mount| mount.point.clone()).collect::<Vec<_>>();
        let (old, new) = (points(&before), points(&after));
        let differing =
            old.iter().filter(|at| !new.contains(at)).chain(new.iter().filter(|at| !old.contains(at)));
        let mark = Mark::rescan(clock::now(), Instant::now(), self.complete);
        let marks: Vec<(PathBuf, Mark)> = differing
            .filter(|point| after.watched.tree_of(point).is_some())
            .map(|point| (point.clone(), mark.clone()))
            .collect();
        self.examiner.shared.dirty.mark_all(marks);
        Ok(())
    }

    /// Trees that are in the baseline and no longer configured are dropped from it without a word.
    fn forget_other_trees(&mut self) -> Result<(), PassError> {
        let view = self.examiner.view();
        let mut after = Vec::new();
        loop {
            let page = self.examiner.baseline.entries(NO_PARENT, &after, 64, false)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after.clone_from(last);
            for (name, row) in page {
                let tree = PathBuf::from(std::ffi::OsString::from_vec(name.clone()));
                if !view.watched.trees().contains(&tree) {
                    self.examiner.put(forget(Key { parent: NO_PARENT, name }, &row))?;
                }
            }
        }
    }

    /// Large files whose hash is known now.
    fn take_hashed(&mut self) -> Result<(), PassError> {
        let mut pass = Pass::default();
        while let Some(Done { job: (path, mark), state, accepted_by }) = self.examiner.large.next_done() {
            // Changed while it was read, or gone: whatever changed it has marked it, or the next scan finds it.
            let Some(state) = state else { continue };
            let candidate = Candidate { known: Some(state), ..Candidate::new(path, mark) };
            self.examiner.detector.acceptance = accepted_by.map(Acceptance::new);
            let looked =
                pass.look(&mut self.examiner, candidate).and_then(|()| pass.settle(&mut self.examiner));
            self.examiner.detector.acceptance = None;
            looked?;
        }
        pass.finish(&mut self.examiner)?;
        self.examiner.flush()
    }

    fn serve_scan(&mut self, request: ScanRequest) -> Result<(), PassError> {
        let ScanRequest { paths, deadline, news, acceptor } = request;
        let view = self.examiner.view();
        let real: Vec<PathBuf> = paths.iter().map(|path| real_path(path)).collect();
        let unwatched = paths.iter().zip(&real).find(|(_, real)| !view.watched.covers(real));
        let result = match (unwatched, acceptor) {
            (Some((path, _)), _) => Err(ScanError::NotWatched(path.clone())),
            (None, None) => self
                .scan(real, deadline, &news)?
                .map(|summary| Scanned { summary, acceptance: Acceptance::default() }),
            (None, Some(acceptor)) => self.accept(real, deadline, &news, acceptor)?,
        };
        // Whoever asked may have given up.
        let _told = news.send(ScanNews::Done(result)).is_ok();
        Ok(())
    }

    fn scan(
        &mut self,
        paths: Vec<PathBuf>,
        deadline: Instant,
        news: &SyncSender<ScanNews>,
    ) -> Result<Result<ScanSummary, ScanError>, PassError> {
        let started = Instant::now();
        let mark = command_mark(clock::now(), self.complete);
        let marks: Vec<(PathBuf, Mark)> = paths.into_iter().map(|path| (path, mark.clone())).collect();
        self.examiner.shared.spending.on_marks(&self.examiner.view().watched, &marks);
        let (deadline, news) = (Some(deadline), Some(news.clone()));
        let mut pass = Pass { long: true, deadline, news, ..Pass::default() };
        match pass.run(&mut self.examiner, marks) {
            Ok(()) => Ok(Ok(ScanSummary {
                examined: pass.progress.examined,
                changed: pass.progress.changed,
                errors: pass.errors,
                duration: started.elapsed(),
            })),
            Err(PassError::Deadline) => {
                self.examiner.flush()?;
                Ok(Err(ScanError::Deadline(pass.progress)))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes what differs into the baseline as accepted, and records who did so: also when there was no time for all.
    fn accept(
        &mut self,
        paths: Vec<PathBuf>,
        deadline: Instant,
        news: &SyncSender<ScanNews>,
        acceptor: Acceptor,
    ) -> Result<Result<Scanned, ScanError>, PassError> {
        self.examiner.detector.acceptance = Some(Acceptance::new(acceptor.by.clone()));
        let scanned = self.scan(paths.clone(), deadline, news);
        let mut acceptance = self.examiner.detector.acceptance.take().unwrap_or_default();
        let scanned = scanned?;
        acceptance.later = self.examiner.large.accept(&paths, &acceptor.by);
        if acceptance.accepted > 0 || acceptance.later > 0 {
            let recorded = (acceptor.record)(&acceptance, scanned.is_ok()).map_err(|error| error.to_string());
            let sealed = recorded.and_then(|draft| {
                let sealer = &self.examiner.sealer;
                sealer
                    .seal_durably(vec![draft], Vec::new(), RECORD_TIMEOUT)
                    .map_err(|error| error.to_string())
            });
            if let Err(why) = sealed {
                return Ok(Err(ScanError::NotRecorded(why)));
            }
        }
        Ok(scanned.map(|summary| Scanned { summary, acceptance }))
    }

    fn stamp(&mut self) -> Result<(), PassError> {
        self.next_stamp = Instant::now() + self.examiner.tuning.stamp;
        if self.examiner.rung.is_real_time() && self.nothing_pending() {
            return self.examiner.stamp(clock::now());
        }
        Ok(())
    }

    fn nothing_pending(&self) -> bool {
        self.examiner.shared.dirty.with(|set| set.is_empty())
    }

    /// The baseline could not be read: nothing is known of what was taken from the set.
    fn recover(&mut self, error: &PassError) {
        tracing::error!(%error, "file changes cannot be compared");
        self.examiner.status.update(|report| {
            report.state = SensorState::Failed;
            report.reason = error.to_string();
        });
        let due = Instant::now() + RETRY;
        let mark = Mark::rescan(clock::now(), due, self.complete);
        let trees = self.examiner.view().watched.trees().to_vec();
        self.examiner.shared.dirty.mark_all(trees.into_iter().map(|tree| (tree, mark.clone())));
        self.next_scan = due.max(self.next_scan.min(due + RETRY));
        self.examiner.stop.wait(RETRY);
    }

    /// Sleeps until something is marked, asked for, due, mounted, or over.
    fn wait(&mut self) {
        // After an error something may be held still.
        let _released = self.examiner.baseline.release().is_ok();
        let now = Instant::now();
        let due = self.examiner.shared.dirty.with(|set| set.next_due());
        let held = self.examiner.detector.due_in(clock::now()).map(|wait| now + wait);
        let asked = self.examiner.packages_due_in().map(|wait| now + wait);
        let until = due
            .into_iter()
            .chain(held)
            .chain(asked)
            .chain([self.next_scan, self.next_stamp])
            .chain((self.examiner.logs.silences.steady() > 0).then_some(self.next_quiet))
            .min()
            .unwrap_or(now);
        let timeout = until.saturating_duration_since(now);
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut fds =
            vec![PollFd::new(&self.examiner.stop, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
        if let Some(mounts) = &self.mounts {
            fds.push(PollFd::new(mounts, PollFlags::PRI));
        }
        let notices = self.examiner.packages.notices();
        fds.extend(notices.map(|notices| PollFd::from_borrowed_fd(notices, PollFlags::IN)));
        self.examiner.status.rests();
        // An interruption is a wake-up like any other.
        let _ready = poll(&mut fds, Some(&timeout)).is_ok();
        self.examiner.status.works();
        // Asking is answering: the kernel says once that the table changed.
        let changed =
            fds.get(2).is_some_and(|mounts| mounts.revents().intersects(PollFlags::PRI | PollFlags::ERR));
        self.mounts_changed |= changed;
        self.wake.clear();
    }
}

/// `path` without symbolic links in the directories above; its last component stays as it is.
pub fn real_path(path: &Path) -> PathBuf {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return path.to_path_buf() };
    match above.canonicalize() {
        Ok(above) => above.join(name),
        Err(_) => real_path(above).join(name),
    }
}

/// A configured tree as it is on disk; of a link both the link and what it points to.
pub fn real_trees(tree: &Path) -> Vec<PathBuf> {
    let link = real_path(tree);
    match tree.canonicalize() {
        Ok(real) if real != link => vec![link, real],
        _ => vec![link],
    }
}
