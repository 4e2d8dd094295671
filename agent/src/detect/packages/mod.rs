//! Package transactions: what a package manager did, and can be proved to have done, becomes one `package.transaction`
//! of severity `info` a package; what differs from its package becomes `package.mismatch`; all else is told as if
//! there had been no transaction.
//!
//! **What explains.** The package database, not the process: a change is explained when its result has the digest
//! that the database recorded for the package in the same transaction ([`Verdict::AsPackaged`]), or follows from what
//! is packaged (a link to a packaged object: [`Verdict::Derived`]). A process that calls itself dpkg explains nothing. Who is *known* not
//! to be a package manager is not explained even by a matching digest: then somebody wrote file and database. What a
//! package's scripts write elsewhere is told in its own right, with the transaction in its evidence; only caches that
//! scripts generate in known places are folded, and only when the kernel showed that a package manager ran the script.
//! Set-id bits are in no database: a file that gains them is folded only when a package manager is known to have set them.
//!
//! **Holding back.** The database records a package after its files are in place, so findings wait. What waits is in
//! the table `package_held`, written with the baseline row of the change, and survives the agent. It waits until the
//! databases are settled (nobody holds a lock, nothing changed for some seconds), and not longer than [`HOLD_MAX`]
//! ([`HOLD_HIGH_MAX`] when it matters much); files with a staging name wait for as long as a lock is held, up to
//! [`STAGING_MAX`]. Outside transactions nothing waits at all, nor ever
//! what is in no package (account files, homes) or what is `critical`.
//!
//! **Limits.** [`HELD_BYTES_MAX`] of what waits is in memory; a change beyond is told at once, unexplained.

pub mod hands;
pub mod held;
pub mod proof;
pub mod tables;
pub mod tools;
pub mod transaction;
pub mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::finding::{Finding, Severity};
use picket_protocol::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

use self::held::{Hand, Held, is_put_aside, kept_beside, staged_for};
use self::proof::{Action, Activity, Answer, Manager, News, PackageId, Verdict, site_of};
use self::transaction::{Account, Fold, below_root, is_generated, mismatch, note, restored};
use super::files::Outcome;
use crate::ledger::StateWrite;
use crate::sense::files::change::FileChange;

/// Longest time that a finding waits while a database is not settled.
pub const HOLD_MAX: Duration = Duration::from_secs(120);
/// The same for findings that are `high` or worse.
pub const HOLD_HIGH_MAX: Duration = Duration::from_secs(60);
/// The same for files that are being prepared under a staging name.
pub const STAGING_MAX: Duration = Duration::from_secs(3_600);
/// What waits in memory; beyond, changes are told at once.
pub const HELD_BYTES_MAX: usize = if cfg!(test) { 1024 * 1024 } else { 24 * 1024 * 1024 };
/// A settled transaction is told when no change came for so long.
const QUIET: Duration = Duration::from_secs(1);
/// It is told after so long whatever comes.
const QUIET_MAX: Duration = Duration::from_secs(15);
/// Between two questions to the databases.
const POLL: Duration = Duration::from_millis(500);
/// So many packages recorded anew in the same version, without a change of their files, are one finding.
const RESTORED_MIN: usize = 300;
/// Packages of a transaction that are named in the evidence of what its scripts did.
const DURING_MAX: usize = 20;

/// Trees that belong to no package: nothing in them waits.
const UNPACKAGED: &[&str] =
    &["/home", "/root", "/tmp", "/var/tmp", "/run", "/dev", "/mnt", "/media", "/var/log", "/var/spool/cron"];

/// The system's own trees, in which packages are unpacked by the hundreds.
const SYSTEM: &[&str] = &["/usr", "/etc", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/boot"];

/// Files that no package keeps as it brought them: their changes are told at once, transaction or not.
const OWN_OF_THE_HOST: &[&str] = &[
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/gshadow",
    "/etc/subuid",
    "/etc/subgid",
    "/etc/ld.so.preload",
    "/etc/hosts",
    "/etc/resolv.conf",
];

/// See the module.
#[derive(Debug)]
pub struct Stage {
    root: PathBuf,
    activity: Option<Activity>,
    held: BTreeMap<PathBuf, Held>,
    bytes: usize,
    folds: BTreeMap<PackageId, Fold>,
    last_held: Option<Timestamp>,
    stirred: Option<Timestamp>,
    settled_since: Option<Timestamp>,
    asked: Option<Timestamp>,
    told: bool,
}

impl Default for Stage {
    fn default() -> Self {
        Self::restore(PathBuf::from("/"), Vec::new(), Vec::new())
    }
}

impl Stage {
    /// Takes up what the last run held back. `root` is where the packages' files are: `/`.
    pub fn restore(root: PathBuf, held: Vec<(PathBuf, Held)>, folds: Vec<Fold>) -> Self {
        let held: BTreeMap<PathBuf, Held> = held.into_iter().collect();
        Self {
            root,
            activity: None,
            bytes: held.values().map(Held::bytes).sum(),
            held,
            folds: folds.into_iter().map(|fold| (fold.package.clone(), fold)).collect(),
            last_held: None,
            stirred: None,
            settled_since: None,
            asked: None,
            told: false,
        }
    }

    /// Tells what the databases are doing: before each observation.
    pub fn set_activity(&mut self, activity: Option<Activity>) {
        self.activity = activity;
    }

    /// A database changed: it is to be asked, whether or not anything waits.
    pub fn stir(&mut self, now: Timestamp) {
        self.stirred.get_or_insert(now);
    }

    /// What waits, to be asked about.
    pub fn held(&self) -> &BTreeMap<PathBuf, Held> {
        &self.held
    }

    /// Changes that wait, packages whose transaction is not told yet, and databases that are to be asked.
    pub fn waiting(&self) -> usize {
        self.held.len() + self.folds.len() + usize::from(self.stirred.is_some())
    }

    /// Passes the finding of a change on, or holds it back.
    pub fn observe(
        &mut self,
        change: &FileChange,
        finding: Option<Finding>,
        now: Timestamp,
    ) -> (Option<Finding>, Vec<StateWrite>) {
        let mut writes = Vec::new();
        // What was prepared stands in its place now: that is one act, and the change of its place tells it.
        let prepared = change.moved_from.as_ref().filter(|from| is_prepared_for(from, &change.path));
        let preparation = prepared.and_then(|from| {
            let held = self.take(from)?;
            writes.push(tables::remove_held(vec![from.clone()]));
            Some(held)
        });
        let Some(finding) = finding else { return (None, writes) };
        if !self.may_hold(change) || finding.severity >= Severity::Critical {
            return (Some(finding), writes);
        }
        let mut held = Held::new(change, &finding, now);
        if let Some(preparation) = preparation.filter(|_| is_same_object(change)) {
            // It came with the transaction, under another name.
            held.before = preparation.before;
        }
        if let Some(mut earlier) = self.take(&change.path) {
            if held.now.is_none()
                && let Some(stood) = earlier.stood.first().cloned()
            {
                writes.push(tables::remove_held(vec![change.path.clone()]));
                writes.extend(self.put_aside_and_gone(stood, earlier, held, now));
                return (None, writes);
            }
            let vanished = earlier.before.is_none() && held.now.is_none();
            if vanished
                && (staged_for(&change.path).is_some()
                    || is_put_aside(&change.path)
                    || earlier.severity.max(held.severity) < Severity::Medium)
            {
                writes.push(tables::remove_held(vec![change.path.clone()]));
                return (None, writes);
            }
            earlier.add(held);
            held = earlier;
        }
        if self.bytes + held.bytes() > HELD_BYTES_MAX {
            writes.push(tables::remove_held(vec![change.path.clone()]));
            return (Some(finding), writes);
        }
        writes.push(tables::put_held(&change.path, &held));
        self.put(change.path.clone(), held);
        self.last_held = Some(now);
        (None, writes)
    }

    /// What stood at `stood` was put aside, and is gone now: it was deleted, unless something else stands there.
    fn put_aside_and_gone(
        &mut self,
        stood: PathBuf,
        mut earlier: Held,
        gone: Held,
        now: Timestamp,
    ) -> Option<StateWrite> {
        self.last_held = Some(now);
        earlier.stood = Vec::new();
        earlier.add(gone);
        if let Some(mut there) = self.take(&stood) {
            there.before = there.before.or(earlier.before);
            earlier = there;
        }
        let write = tables::put_held(&stood, &earlier);
        self.put(stood, earlier);
        Some(write)
    }

    /// Whether a finding about the change would wait for the databases.
    pub fn may_hold(&self, change: &FileChange) -> bool {
        let waits =
            self.activity.is_some_and(|activity| activity.could_explain(change)) && self.may_wait(change);
        waits || self.held.contains_key(&change.path) || self.may_be_pip(change)
    }

    /// Whether the change is what pip's work looks like: by an interpreter, or by whom nobody knows, in a directory
    /// of Python packages; by an interpreter among programs, which pip puts there as well.
    fn may_be_pip(&self, change: &FileChange) -> bool {
        let hand = Hand::in_change(change);
        let is_program = change.path.parent().is_some_and(|above| above.ends_with("bin"));
        self.may_wait(change)
            && match site_of(&change.path) {
                Some(_) => matches!(hand, Hand::Interpreter | Hand::Unknown),
                None => is_program && hand == Hand::Interpreter,
            }
    }

    fn may_wait(&self, change: &FileChange) -> bool {
        let Ok(below) = change.path.strip_prefix(&self.root) else { return false };
        let path = Path::new("/").join(below);
        let own = OWN_OF_THE_HOST.iter().any(|own| path == Path::new(own));
        !own && !UNPACKAGED.iter().any(|above| path.starts_with(above)) && change.moved_to.is_none()
    }

    /// Whether the change is what a package manager's unpacking looks like, for detectors that watch how much changes:
    /// within the system's own trees, during a transaction, and the object is another one (a manager never writes
    /// into a file) by a hand that is a package manager itself, or that nobody knows. It waits, and comes out if
    /// nothing explains it; data of the host's own is never meant.
    pub fn may_be_unpacking(&self, change: &FileChange) -> bool {
        let below = below_root(&self.root, &change.path);
        let by_itself = change.other_actors.is_empty() && Hand::of_process(change.actor.as_deref());
        by_itself
            && SYSTEM.iter().any(|tree| below.starts_with(tree))
            && !is_same_object(change)
            && self.may_wait(change)
            && self.activity.is_some_and(|activity| activity.could_explain(change))
    }

    /// When the databases are to be asked next; none while nothing waits.
    pub fn due_in(&self, now: Timestamp) -> Option<Duration> {
        if self.held.is_empty() && self.folds.is_empty() && self.stirred.is_none() {
            return None;
        }
        // A clock that was set back asks at once.
        let asked = self.asked.filter(|asked| *asked <= now);
        Some(asked.map_or(Duration::ZERO, |asked| POLL.saturating_sub(now.since(asked))))
    }

    /// Whether a transaction was told since this was asked last: then its news are not news any more.
    pub fn take_told(&mut self) -> bool {
        std::mem::take(&mut self.told)
    }

    /// Takes the databases' answer in.
    pub fn answer(&mut self, answer: Answer, now: Timestamp, new_id: &mut dyn FnMut() -> Uuid) -> Outcome {
        self.asked = Some(now);
        let Answer { settled, news, verdicts, writes: known } = answer;
        let mut round =
            Round { settled, news: &news, now, new_id, outcome: Outcome::default(), done: Vec::new() };
        let mut changed = BTreeSet::new();
        let mut awaited = false;
        for (path, verdict) in verdicts {
            awaited |= verdict == Verdict::Changed;
            self.judge(&path, verdict, &mut round, &mut changed);
        }
        self.release_overdue(&mut round);
        let Round { mut outcome, done, new_id, .. } = round;
        if !done.is_empty() {
            outcome.writes.push(tables::remove_held(done));
        }
        outcome
            .writes
            .extend(changed.iter().filter_map(|package| self.folds.get(package)).map(tables::put_fold));
        if !settled {
            self.settled_since = None;
            return outcome;
        }
        let since = *self.settled_since.get_or_insert(now);
        // A clock that was set back keeps nothing waiting for as long as it was set back.
        let passed = |from: Timestamp, least| from > now || now.since(from) >= least;
        let quiet = self.last_held.is_none_or(|last| passed(last, QUIET)) && !awaited;
        if quiet || passed(since, QUIET_MAX) {
            self.tell(&news, known, now, new_id, &mut outcome);
        }
        outcome
    }

    fn judge(
        &mut self,
        path: &Path,
        verdict: Verdict,
        round: &mut Round<'_>,
        changed: &mut BTreeSet<PackageId>,
    ) {
        let Some(held) = self.held.get(path) else { return };
        match verdict {
            Verdict::Changed => {}
            Verdict::AsPackaged(package) if trusted(held, package.manager) => {
                self.fold(path, package, Account::Packaged, round, changed);
            }
            Verdict::Derived(package) if trusted(held, package.manager) => {
                self.fold(path, package, Account::Derived, round, changed);
            }
            Verdict::AsPackaged(package) | Verdict::Derived(package) => {
                let why = match package.manager {
                    _ if held.gained => "it gained rights",
                    Manager::Pip if !is_plain(held) => "the package's own word is no excuse for it",
                    _ => "no package manager wrote it",
                };
                self.release(
                    path,
                    round,
                    &json!({ "package": package.name, "as_packaged": true, "told_because": why }),
                );
            }
            Verdict::Differs { package, expected } if round.settled => {
                self.differ(path, package, &expected, round, changed);
            }
            Verdict::Unpackaged if round.settled => self.unpackaged(path, round, changed),
            Verdict::Differs { .. } | Verdict::Unpackaged => {}
        }
    }

    fn unpackaged(&mut self, path: &Path, round: &mut Round<'_>, changed: &mut BTreeSet<PackageId>) {
        let Some(held) = self.held.get(path) else { return };
        let package = self.folds.keys().next().or(round.news.first().map(|news| &news.package)).cloned();
        if held.hand == Hand::Manager
            && is_generated(&below_root(&self.root, path))
            && let Some(package) = package
        {
            return self.fold(path, package, Account::Generated, round, changed);
        }
        let names: Vec<&str> =
            round.news.iter().take(DURING_MAX).map(|news| news.package.name.as_str()).collect();
        let evidence = json!({ "during": names, "by_manager": held.hand == Hand::Manager });
        self.release(path, round, &evidence);
    }

    fn fold(
        &mut self,
        path: &Path,
        package: PackageId,
        account: Account,
        round: &mut Round<'_>,
        changed: &mut BTreeSet<PackageId>,
    ) {
        let Some(held) = self.take(path) else { return };
        let fold =
            self.folds.entry(package.clone()).or_insert_with(|| Fold::new(package.clone(), held.first));
        fold.add(path, &held, account);
        changed.insert(package);
        round.done.push(path.to_path_buf());
    }

    fn differ(
        &mut self,
        path: &Path,
        package: PackageId,
        expected: &str,
        round: &mut Round<'_>,
        changed: &mut BTreeSet<PackageId>,
    ) {
        let Some(held) = self.take(path) else { return };
        round.done.push(path.to_path_buf());
        let news = round.news.iter().find(|news| news.package == package);
        let version = news.and_then(|news| news.after.clone());
        // The last of its findings tells what is there now.
        let told = held.findings().last();
        round
            .outcome
            .findings
            .extend(told.map(|finding| mismatch(finding, path, &package, version.as_ref(), expected)));
        let fold =
            self.folds.entry(package.clone()).or_insert_with(|| Fold::new(package.clone(), held.first));
        fold.differing += 1;
        changed.insert(package);
    }

    /// Tells what was held back as it would have been told.
    fn release(&mut self, path: &Path, round: &mut Round<'_>, evidence: &serde_json::Value) {
        let Some(held) = self.take(path) else { return };
        round.done.push(path.to_path_buf());
        round.outcome.findings.extend(held.findings().map(|mut finding| {
            note(&mut finding, "packages", evidence.clone());
            finding
        }));
    }

    fn release_overdue(&mut self, round: &mut Round<'_>) {
        let now = round.now;
        let overdue = |path: &Path, held: &Held| {
            let limit = match held.severity {
                _ if staged_for(path).is_some() && !round.settled => STAGING_MAX,
                Severity::High | Severity::Critical => HOLD_HIGH_MAX,
                _ => HOLD_MAX,
            };
            now.since(held.since) >= limit || held.since > now.plus(limit)
        };
        let paths: Vec<PathBuf> = self
            .held
            .iter()
            .filter(|(path, held)| overdue(path, held))
            .map(|(path, _)| path.clone())
            .collect();
        for path in paths {
            self.release(
                &path,
                round,
                &json!({ "waited_seconds": HOLD_MAX.as_secs(), "settled": round.settled }),
            );
        }
    }

    /// The transaction is over: one finding a package.
    fn tell(
        &mut self,
        news: &[News],
        known: Vec<StateWrite>,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
        outcome: &mut Outcome,
    ) {
        let mut folds = std::mem::take(&mut self.folds);
        let untouched =
            |news: &&News| news.action == Action::InstalledAgain && !folds.contains_key(&news.package);
        let is_restored = news.iter().filter(untouched).count() >= RESTORED_MIN;
        if is_restored {
            outcome.findings.push(restored(news, now, new_id()));
        }
        for news in news {
            let fold = folds.remove(&news.package);
            if is_restored && fold.is_none() && news.action == Action::InstalledAgain {
                continue;
            }
            let fold = fold.unwrap_or_else(|| Fold::new(news.package.clone(), self.stirred.unwrap_or(now)));
            outcome.findings.push(fold.finding(Some(news), new_id()));
        }
        outcome
            .findings
            .extend(folds.values().filter(|fold| fold.count() > 0).map(|fold| fold.finding(None, new_id())));
        outcome.writes.push(tables::remove_folds());
        outcome.writes.extend(known);
        (self.stirred, self.settled_since, self.last_held) = (None, None, None);
        self.told = true;
    }

    fn take(&mut self, path: &Path) -> Option<Held> {
        let held = self.held.remove(path)?;
        self.bytes = self.bytes.saturating_sub(held.bytes());
        Some(held)
    }

    fn put(&mut self, path: PathBuf, held: Held) {
        self.bytes += held.bytes();
        self.held.insert(path, held);
    }
}

/// Whether dpkg moves what stands at `from` to `path` once it is complete: into its place, or beside a file that the
/// administrator keeps.
fn is_prepared_for(from: &Path, path: &Path) -> bool {
    staged_for(from).is_some_and(|place| place == path || Some(place) == kept_beside(path))
}

fn is_same_object(change: &FileChange) -> bool {
    let (before, after) = (change.before.as_ref(), change.after.as_ref());
    before.zip(after).is_some_and(|(before, after)| before.meta.same_object(&after.meta))
}

/// One answer being worked through.
struct Round<'a> {
    settled: bool,
    news: &'a [News],
    now: Timestamp,
    new_id: &'a mut dyn FnMut() -> Uuid,
    outcome: Outcome,
    done: Vec<PathBuf>,
}

/// Whether nothing more is to be said of it than that a file is another than before. A package of pip's is vouched for by
/// nobody but itself: what it brings to be run by every interpreter, for instance, is told.
fn is_plain(held: &Held) -> bool {
    const PLAIN: &[&str] = &[
        "file.created",
        "file.modified",
        "file.deleted",
        "file.moved",
        "file.attributes",
        "file.type-changed",
    ];
    held.severity < Severity::High && held.findings().all(|finding| PLAIN.contains(&finding.rule.as_str()))
}

/// Whether the digest may speak for itself.
fn trusted(held: &Held, manager: Manager) -> bool {
    let by_hand = match held.hand {
        Hand::Manager | Hand::Unknown => true,
        Hand::Interpreter => manager != Manager::Dpkg,
        Hand::Other => false,
    };
    if manager == Manager::Pip && !is_plain(held) {
        return false;
    }
    by_hand && (!held.gained || held.hand == Hand::Manager)
}

#[cfg(test)]
pub(crate) mod tests;
