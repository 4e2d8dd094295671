//! One act, one finding: what one tool does to several files within a moment is told once.
//!
//! `useradd` writes twelve files, `systemctl enable` makes up to six links, a certificate is renewed with eight objects.
//! What belongs to one act ([`key`]) gathers until the act has been quiet for [`QUIET`], at the latest after
//! [`GATHER_MAX`], and becomes one finding under the weightiest of its rules; the others stand in its evidence
//! (`also`), each with its own rule, severity, title and evidence. Nothing is judged away: the finding is as severe as
//! its severest part. What is `critical` never waits: it takes along what has gathered, and what comes after names it
//! (`part_of`).
//!
//! What an editor keeps beside the file that it edits ([`edit`]) is told when it outlives the edit: it waits until it is
//! gone or stands in the file's place, at most [`EDIT_MAX`].
//!
//! The copy of what it was that `sed -i.bak` or an editor leaves beside the file is part of the edit, which shows that text
//! already: it waits for the edit no longer than [`QUIET`], and is not told beside it.
//!
//! What waits is in the table `act_held`, written with the baseline row of the change; after a start it is told
//! at once.
//!
//! What one run of a tool does to many files ([`run`]) is one act too, and may be quiet for longer, since nothing weighty
//! waits for it: [`RUN_QUIET`] and [`RUN_GATHER_MAX`] as long as all of it is at most `low`, [`RUN_PARTS_MAX`] objects a
//! finding.
//!
//! **Limits.** [`PARTS_MAX`] parts an act and [`HELD_BYTES_MAX`] in all wait; a full act is told and another begun, and a
//! finding beyond is told by itself at once. [`ALSO_BYTES_MAX`] of the parts' evidence is kept; a part beyond keeps its
//! rule, severity, title and path.

pub mod edit;
pub mod key;
pub mod run;
pub mod tables;
mod telling;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::finding::{Finding, Severity};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use self::edit::Former;
use self::key::{Key, Line};
use super::files::Outcome;
use super::packages::transaction::note;
use crate::ledger::StateWrite;
use crate::sense::files::change::FileChange;

/// An act is over when nothing of it came for so long: a tool that writes its files one by one, each confirmed by
/// the disk, is slower than that only on a disk that is very busy.
pub const QUIET: Duration = Duration::from_millis(700);
/// It is told after so long whatever comes.
pub const GATHER_MAX: Duration = Duration::from_secs(3);
/// The same for what an editor keeps beside a file.
pub const EDIT_MAX: Duration = Duration::from_secs(3_600);
/// Parts of an act.
pub const PARTS_MAX: usize = 256;
/// What waits in memory.
pub const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The same as [`QUIET`] for a run: a deployment over the network, or task by task, pauses for longer than a program that
/// makes an account.
pub const RUN_QUIET: Duration = Duration::from_secs(3);
/// The same as [`GATHER_MAX`] for a run of which nothing is more than `low`.
pub const RUN_GATHER_MAX: Duration = Duration::from_secs(15);
/// Parts of a run.
pub const RUN_PARTS_MAX: usize = 1_000;
/// Evidence of the parts beside the weightiest, in one finding: a quarter of what a record may have.
pub const ALSO_BYTES_MAX: usize = 64 * 1024;
/// Acts that were told and may have more to come.
const TOLD_MAX: usize = 32;
/// Files that were modified lately, as they were.
const FORMER_MAX: usize = 64;
/// For so long.
const TOLD_FOR: Duration = Duration::from_secs(10);

/// A finding that waits. As a row it is its JSON.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Part {
    /// The act.
    pub key: Key,
    /// Since when.
    pub since: Timestamp,
    /// The path, with all its bytes.
    pub path: Vec<u8>,
    /// The finding's identifier.
    pub id: Uuid,
    /// The finding.
    pub finding: String,
}

impl Part {
    fn new(key: Key, path: &Path, finding: &Finding, now: Timestamp) -> Self {
        use std::os::unix::ffi::OsStrExt as _;
        let finding_text = serde_json::to_string(finding).unwrap_or_default();
        Self {
            key,
            since: now,
            path: path.as_os_str().as_bytes().to_vec(),
            id: finding.id,
            finding: finding_text,
        }
    }

    fn finding(&self) -> Option<Finding> {
        serde_json::from_str(&self.finding).ok()
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.path.len() + self.finding.len()
    }
}

#[derive(Debug)]
struct Act {
    key: Key,
    line: Line,
    parts: Vec<Part>,
    last: Timestamp,
    worst: Severity,
    /// The rule of its first part, which need not be said of those that are listed.
    rule: String,
    /// What the objects of a run take in its evidence.
    listed_bytes: usize,
}

impl Act {
    fn new(key: Key, line: Line, now: Timestamp) -> Self {
        Self {
            key,
            line,
            parts: Vec::new(),
            last: now,
            worst: Severity::Info,
            rule: String::new(),
            listed_bytes: 0,
        }
    }

    /// Of a run only the first parts, and those that matter more than all before, keep all their evidence.
    fn shorten(&self, finding: &mut Finding) {
        let is_run = matches!(self.key, Key::Run(_));
        if is_run && self.parts.len() >= run::telling::WHOLE_MAX && finding.severity <= self.worst {
            run::telling::shorten(finding, &self.rule);
        }
    }

    /// Whether there is no room in its list for one more.
    fn has_no_room(&self, finding: &Finding) -> bool {
        self.listed_bytes + run::telling::listed_bytes(finding) > run::telling::OBJECTS_BYTES_MAX
    }

    fn is_full(&self) -> bool {
        self.parts.len() >= if matches!(self.key, Key::Run(_)) { RUN_PARTS_MAX } else { PARTS_MAX }
    }

    fn first(&self) -> Timestamp {
        self.parts.first().map_or(self.last, |part| part.since)
    }

    /// How long until it is told; a clock that was set back tells it at once.
    fn due_in(&self, now: Timestamp) -> Duration {
        if self.first() > now || self.last > now {
            return Duration::ZERO;
        }
        let (quiet, most) = match &self.key {
            Key::Run(_) if self.worst <= Severity::Low => (RUN_QUIET, RUN_GATHER_MAX),
            _ => (QUIET, GATHER_MAX),
        };
        quiet.saturating_sub(now.since(self.last)).min(most.saturating_sub(now.since(self.first())))
    }
}

/// An act that was told before it was over.
#[derive(Debug)]
struct Told {
    key: Key,
    line: Line,
    id: Uuid,
    at: Timestamp,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Stage {
    acts: Vec<Act>,
    edits: BTreeMap<PathBuf, Part>,
    told: VecDeque<Told>,
    former: VecDeque<(PathBuf, Former, Timestamp)>,
    bytes: usize,
}

impl Stage {
    /// Takes up what the last run had gathered: nothing more of it will come.
    pub fn restore(parts: Vec<Part>) -> Self {
        use std::os::unix::ffi::OsStringExt as _;
        let mut stage = Self::default();
        for part in parts {
            stage.bytes += part.bytes();
            if matches!(part.key, Key::Edit | Key::Copy(_)) {
                let path = PathBuf::from(std::ffi::OsString::from_vec(part.path.clone()));
                stage.edits.insert(path, part);
                continue;
            }
            match stage.acts.iter_mut().find(|act| act.key == part.key) {
                Some(act) => act.parts.push(part),
                None => {
                    let act = Act::new(part.key.clone(), Line::default(), part.since);
                    stage.acts.push(Act { parts: vec![part], ..act });
                }
            }
        }
        stage
    }

    /// Parts of acts, and copies, that wait. What lies beside a file that is being edited is not counted: it may lie there for long.
    pub fn waiting(&self) -> usize {
        let copies = self.edits.values().filter(|part| part.key != Key::Edit).count();
        self.acts.iter().map(|act| act.parts.len()).sum::<usize>() + copies
    }

    /// Passes the finding of a change on, or keeps it for its act. `packaged`: a package transaction may account
    /// for the change, and is asked first about all that packages bring.
    pub fn observe(
        &mut self,
        change: &FileChange,
        finding: Option<Finding>,
        packaged: bool,
        now: Timestamp,
    ) -> (Option<Finding>, Outcome) {
        let mut outcome = Outcome::default();
        // What was prepared stands in its place now: that is one act, and the change of its place tells it.
        if let Some(from) = &change.moved_from
            && edit::target(from).is_some()
        {
            self.drop_edit(from, &mut outcome);
        }
        if edit::target(&change.path).is_some() && !packaged {
            let finding = self.observe_edit(change, finding, now, &mut outcome);
            return (finding, outcome);
        }
        let Some(finding) = finding else { return (None, outcome) };
        if !packaged {
            self.remember_former(change, now, &mut outcome);
            if change.after.is_none() && self.ends_copy(change, now, &mut outcome) {
                return (None, outcome);
            }
            if let Some(original) = edit::original(&change.path)
                && finding.severity <= Severity::Low
            {
                let finding = self.observe_copy(&original, change, finding, now, &mut outcome);
                return (finding, outcome);
            }
        }
        let key = Key::of(change, &finding).filter(|key| !packaged || *key == Key::Accounts);
        let Some(key) = key else { return (Some(finding), outcome) };
        let line = Line::of(change);
        let finding = self.gather(key, line, &change.path, finding, now, &mut outcome);
        (finding, outcome)
    }

    fn gather(
        &mut self,
        key: Key,
        line: Line,
        path: &Path,
        mut finding: Finding,
        now: Timestamp,
        outcome: &mut Outcome,
    ) -> Option<Finding> {
        if let Some(told) = self.told(&key, &line, now) {
            note(&mut finding, "part_of", told.id.to_string().into());
        }
        let at = self.acts.iter().position(|act| act.key == key && key::one_act(&key, &act.line, &line));
        if finding.severity == Severity::Critical {
            let id = finding.id;
            let part = Part::new(key.clone(), path, &finding, now);
            let mut parts = at.map(|at| self.take(at, &mut outcome.writes)).unwrap_or_default();
            parts.push(part);
            self.remember(Told { key, line, id, at: now });
            return telling::one(parts);
        }
        let mut kept = finding.clone();
        let mut at = at;
        if let Some((place, act)) = at.and_then(|at| Some((at, self.acts.get(at)?))) {
            act.shorten(&mut kept);
            if act.has_no_room(&kept) {
                self.tell(place, now, outcome);
                (at, kept) = (None, finding.clone());
                if let Some(told) = self.told(&key, &line, now) {
                    note(&mut kept, "part_of", told.id.to_string().into());
                }
            }
        }
        let part = Part::new(key.clone(), path, &kept, now);
        if self.bytes + part.bytes() > HELD_BYTES_MAX {
            return Some(finding);
        }
        self.bytes += part.bytes();
        outcome.writes.push(tables::put(&part));
        let at = at.unwrap_or_else(|| {
            self.acts.push(Act::new(key, Line::default(), now));
            self.acts.len() - 1
        });
        let act = self.acts.get_mut(at)?;
        act.line.add(line);
        act.last = now;
        act.worst = act.worst.max(kept.severity);
        act.listed_bytes += run::telling::listed_bytes(&kept);
        if act.parts.is_empty() {
            act.rule.clone_from(&kept.rule);
        }
        act.parts.push(part);
        if act.is_full() {
            self.tell(at, now, outcome);
        }
        None
    }

    /// What lies beside a file that is being edited.
    fn observe_edit(
        &mut self,
        change: &FileChange,
        finding: Option<Finding>,
        now: Timestamp,
        outcome: &mut Outcome,
    ) -> Option<Finding> {
        let since = self.edits.get(&change.path).map(|part| part.since);
        if change.after.is_none() {
            // It came with the edit and went with it.
            return if self.drop_edit(&change.path, outcome) { None } else { finding };
        }
        let finding = finding?;
        // What was there before, was told when it came.
        let is_new = change.before.is_none() || since.is_some();
        if !is_new || !edit::is_inert(change, &finding) {
            self.drop_edit(&change.path, outcome);
            return Some(finding);
        }
        self.drop_edit(&change.path, outcome);
        let part = Part { since: since.unwrap_or(now), ..Part::new(Key::Edit, &change.path, &finding, now) };
        if self.bytes + part.bytes() > HELD_BYTES_MAX {
            return Some(finding);
        }
        self.bytes += part.bytes();
        outcome.writes.push(tables::put(&part));
        self.edits.insert(change.path.clone(), part);
        None
    }

    /// Keeps in mind what a file was that is edited, and takes the copy of it that waits as told.
    fn remember_former(&mut self, change: &FileChange, now: Timestamp, outcome: &mut Outcome) {
        let (Some(before), Some(_)) = (&change.before, &change.after) else { return };
        let Some(former) = Former::of(before) else { return };
        let copies = self.edits.iter().filter(|(path, part)| {
            part.key == Key::Copy(former) && edit::original(path).as_ref() == Some(&change.path)
        });
        for path in copies.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            self.drop_edit(&path, outcome);
        }
        if self.former.len() >= FORMER_MAX {
            self.former.pop_front();
        }
        self.former.push_back((change.path.clone(), former, now));
    }

    /// Whether what is gone was a copy that came with an edit.
    fn ends_copy(&mut self, change: &FileChange, now: Timestamp, outcome: &mut Outcome) -> bool {
        let waited = self.edits.get(&change.path).is_some_and(|part| matches!(part.key, Key::Copy(_)));
        if waited {
            return self.drop_edit(&change.path, outcome);
        }
        let copy = change.before.as_ref().and_then(Former::of);
        let (Some(original), Some(copy)) = (edit::original(&change.path), copy) else { return false };
        self.was(&original, copy, now)
    }

    /// Whether the file was so before an edit of these moments.
    fn was(&mut self, original: &Path, copy: Former, now: Timestamp) -> bool {
        self.former.retain(|(_, _, at)| *at <= now && now.since(*at) <= TOLD_FOR);
        self.former.iter().any(|(path, former, _)| path == original && *former == copy)
    }

    /// The copy of what a file was, or so it seems by its name.
    fn observe_copy(
        &mut self,
        original: &Path,
        change: &FileChange,
        finding: Finding,
        now: Timestamp,
        outcome: &mut Outcome,
    ) -> Option<Finding> {
        self.drop_edit(&change.path, outcome);
        let Some(copy) = change.after.as_ref().and_then(Former::of) else { return Some(finding) };
        if self.was(original, copy, now) {
            return None;
        }
        let part = Part::new(Key::Copy(copy), &change.path, &finding, now);
        if self.bytes + part.bytes() > HELD_BYTES_MAX {
            return Some(finding);
        }
        self.bytes += part.bytes();
        outcome.writes.push(tables::put(&part));
        self.edits.insert(change.path.clone(), part);
        None
    }

    fn drop_edit(&mut self, path: &Path, outcome: &mut Outcome) -> bool {
        let Some(part) = self.edits.remove(path) else { return false };
        self.bytes = self.bytes.saturating_sub(part.bytes());
        outcome.writes.push(tables::remove(vec![part.id]));
        true
    }

    /// How long until something is to be told.
    pub fn due_in(&self, now: Timestamp) -> Option<Duration> {
        let acts = self.acts.iter().map(|act| act.due_in(now));
        acts.chain(self.edits.values().map(|part| edit_due_in(part, now))).min()
    }

    /// Tells what is over.
    pub fn tick(&mut self, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        while let Some(at) = self.acts.iter().position(|act| act.due_in(now).is_zero()) {
            self.tell(at, now, &mut outcome);
        }
        let overdue: Vec<PathBuf> = self
            .edits
            .iter()
            .filter(|(_, part)| edit_due_in(part, now).is_zero())
            .map(|(path, _)| path.clone())
            .collect();
        for path in overdue {
            let finding = self.edits.get(&path).and_then(Part::finding);
            self.drop_edit(&path, &mut outcome);
            outcome.findings.extend(finding);
        }
        outcome
    }

    fn tell(&mut self, at: usize, now: Timestamp, outcome: &mut Outcome) {
        let Some(act) = self.acts.get(at) else { return };
        let (key, line) = (act.key.clone(), act.line.clone());
        let parts = self.take(at, &mut outcome.writes);
        let finding = telling::one(parts);
        if let Some(finding) = &finding {
            self.remember(Told { key, line, id: finding.id, at: now });
        }
        outcome.findings.extend(finding);
    }

    fn take(&mut self, at: usize, writes: &mut Vec<StateWrite>) -> Vec<Part> {
        if at >= self.acts.len() {
            return Vec::new();
        }
        let parts = self.acts.swap_remove(at).parts;
        self.bytes = self.bytes.saturating_sub(parts.iter().map(Part::bytes).sum());
        writes.push(tables::remove(parts.iter().map(|part| part.id).collect()));
        parts
    }

    fn told(&mut self, key: &Key, line: &Line, now: Timestamp) -> Option<&Told> {
        self.told.retain(|told| told.at <= now && now.since(told.at) <= TOLD_FOR);
        // Only by who is known: another act of the same kind may follow at once.
        self.told.iter().find(|told| told.key == *key && told.line.is_of(line))
    }

    fn remember(&mut self, told: Told) {
        if self.told.len() >= TOLD_MAX {
            self.told.pop_front();
        }
        self.told.push_back(told);
    }
}

fn edit_due_in(part: &Part, now: Timestamp) -> Duration {
    let most = if part.key == Key::Edit { EDIT_MAX } else { QUIET };
    if part.since > now { Duration::ZERO } else { most.saturating_sub(now.since(part.since)) }
}

#[cfg(test)]
mod tests;
