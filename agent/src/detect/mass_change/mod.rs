//! Many files coming to harm at once: ransomware, wipers, defacement, the same new note in many folders.
//!
//! **Promise.** `file.mass-change`, `critical`, at the latest when 20 files came to harm (10 when they were encrypted
//! or defaced, 5 when a demand lies beside them); `file.note-dropped` when one new text lies in many folders. One
//! act gives one finding: it keeps its id and is raised again as it grows (twice as many, or [`Thresholds::grow`]
//! later). It names the process, or the process from which all came that did it (a script whose every victim is
//! encrypted by a new `openssl` is one act); where nobody is known, what happens in one place is taken together.
//!
//! **What is harm** says [`harm`]. Deleting and renaming is what ordinary programs do as well: it is an alarm only
//! when it is fast ([`Thresholds::burst`]), when nothing much is written in its place, when what is lost is no
//! by-product of a build and older than the process that deletes it; not for package managers, git (what it deletes
//! it keeps), nor for rsync when it also writes; and it is told `medium` when the same program did as much in the
//! same place on two days before ([`habit`]). It is held for [`Thresholds::hold`], for what is written in its place to be seen;
//! so is the alarm about files that were emptied, since programs empty a file to write it anew.
//!
//! **Limits.** [`Thresholds::groups_max`] processes and places are remembered, those touched longest ago go first;
//! each remembers 4,096 numbers of paths of a sort, and names 20 victims. What was counted and not yet an alarm is
//! forgotten when the agent ends; the changes themselves are findings of their own.

pub mod canary;
pub mod finding;
mod group;
pub mod habit;
pub mod harm;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::finding::{Finding, Text};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use crate::sense::files::change::FileChange;
use crate::sense::processes::{Actor, Ancestor};
use finding::Origin;
use group::{Alarm, Group};
pub use habit::Habits;
use harm::Deed;

/// Processes above the one that acted that may be the origin.
const ANCESTORS_MAX: usize = 3;
/// Directories that make a place: `/srv/data`.
const PLACE_DEPTH: usize = 3;

/// When is enough. Each with the reason for its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Files that came to harm: 20. Fewer happen by hand; more is a day's work lost.
    pub victims: u64,
    /// Folders in which a text lies that demands: 5. Nobody needs one twice by mistake.
    pub demands: u64,
    /// Deletions and renames count so long: 60 s.
    pub burst: Duration,
    /// How long an alarm about deletions and renames waits for what is written in their place: 3 s.
    pub hold: Duration,
    /// An alarm that grew is raised again at the latest after this: 10 s.
    pub grow: Duration,
    /// An act is over when nothing came for so long: 10 min.
    pub quiet: Duration,
    /// Processes and places that are remembered: 512, of about 1 KiB, some of 150.
    pub groups_max: usize,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            victims: 20,
            demands: 5,
            burst: Duration::from_secs(60),
            hold: Duration::from_secs(3),
            grow: Duration::from_secs(10),
            quiet: Duration::from_secs(600),
            groups_max: 512,
        }
    }
}

/// Who, or where, when nobody is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Process { pid: u32, started: Option<i64> },
    Place(PathBuf),
}

impl Key {
    fn of(process: &Ancestor) -> Self {
        Self::Process { pid: process.pid, started: process.started.map(Timestamp::nanos) }
    }
}

/// What came of a change.
#[derive(Debug, Default)]
pub struct Seen {
    /// Findings to raise.
    pub findings: Vec<Finding>,
    /// The finding that the change is part of.
    pub part_of: Option<Uuid>,
}

/// The detector. Pure: the same changes at the same times give the same findings.
#[derive(Debug, Default)]
pub struct MassChange {
    thresholds: Thresholds,
    groups: HashMap<Key, Member>,
    habits: Habits,
    /// The alarm raised last, where, and when: what nobody is known for may belong to it.
    latest: Option<(Key, PathBuf, Timestamp)>,
    due: Option<Timestamp>,
}

/// A group with its place among others.
#[derive(Debug)]
struct Member {
    origin: Origin,
    group: Group,
    /// An alarm that a process beneath raised.
    beneath: Option<Uuid>,
    /// Deletions and renames are an alarm at this time, if nothing is written in their place.
    suspected: Option<Timestamp>,
    /// The program mirrors: what it deletes while it writes is no loss.
    mirrors: bool,
}

impl MassChange {
    /// A detector that has seen nothing but what programs are in the habit of.
    pub fn new(thresholds: Thresholds, habits: Habits) -> Self {
        Self { thresholds, habits, ..Self::default() }
    }

    /// Observes a change.
    pub fn observe(&mut self, change: &FileChange, now: Timestamp, new_id: &mut dyn FnMut() -> Uuid) -> Seen {
        let deed = self.deed(change);
        if deed == Deed::Nothing && change.note.is_none() {
            return Seen::default();
        }
        let chain = self.chain(change, now);
        let mut harmed = false;
        for (key, origin) in &chain {
            harmed |= self.member(key, origin, change, now).group.take(change, &deed, now);
        }
        if !harmed {
            return Seen::default();
        }
        let keys: Vec<Key> = chain.into_iter().map(|(key, _)| key).collect();
        let findings = self.judge(&keys, change, now, new_id);
        let standing = keys.iter().find_map(|key| self.groups.get(key)?.group.alarm);
        Seen { findings, part_of: standing.map(|alarm| alarm.id) }
    }

    /// Raises what was held, and what grew.
    pub fn tick(&mut self, now: Timestamp, new_id: &mut dyn FnMut() -> Uuid) -> Vec<Finding> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        let mut keys: Vec<Key> = self.groups.keys().cloned().collect();
        // Of a chain of processes the nearest to the deed comes first: it has the fewest victims, then the higher number.
        keys.sort_by_key(|key| {
            let victims = self.groups.get(key).map_or(0, |member| member.group.victims_count());
            (victims, std::cmp::Reverse(key.clone()))
        });
        let mut findings = Vec::new();
        for key in keys {
            findings.extend(self.confirm(&key, now, new_id));
            findings.extend(self.grow(&key, now));
        }
        findings
    }

    /// How long until [`MassChange::tick`] has something to do.
    pub fn due_in(&self, now: Timestamp) -> Option<Duration> {
        self.due.map(|due| if due > now { due.since(now) } else { Duration::ZERO })
    }

    /// What programs are in the habit of, to be written down when it changed.
    pub fn take_habits(&mut self) -> Option<Vec<(String, String)>> {
        self.habits.take_changes()
    }

    /// What a change is, and that it is none where the one who did it may do it.
    fn deed(&self, change: &FileChange) -> Deed {
        let deed = harm::judge(change);
        let Deed::Harm(harm, _) = deed else { return deed };
        let born = change.before.as_ref().map_or(0, |before| before.meta.birth);
        let Some(actor) = &change.actor else { return deed };
        let own = actor.started.is_some_and(|started| born > started.nanos());
        let excused = harm.is_ordinary() && (harm::is_package_manager(actor) || is_program(actor, GIT));
        if own || excused { Deed::Nothing } else { deed }
    }

    /// The one who acted and those above, nearest first.
    fn chain(&self, change: &FileChange, now: Timestamp) -> Vec<(Key, Origin)> {
        let Some(actor) = &change.actor else {
            let place = place_of(&change.path);
            if let Some((key, at, when)) = &self.latest
                && *at == place
                && now.since(*when) <= self.thresholds.burst
                && let Some(member) = self.groups.get(key)
            {
                return vec![(key.clone(), member.origin.clone())];
            }
            return vec![(Key::Place(place.clone()), Origin::Place(place))];
        };
        lineage(actor).map(|process| (Key::of(&process), Origin::Process(process))).collect()
    }

    fn member(&mut self, key: &Key, origin: &Origin, change: &FileChange, now: Timestamp) -> &mut Member {
        let quiet = self.thresholds.quiet;
        let over = |member: &Member| member.group.touched > now || now.since(member.group.touched) > quiet;
        if self.groups.get(key).is_some_and(over) {
            self.groups.remove(key);
        }
        if !self.groups.contains_key(key) && self.groups.len() >= self.thresholds.groups_max {
            self.groups.retain(|_, member| !over(member));
        }
        if !self.groups.contains_key(key) && self.groups.len() >= self.thresholds.groups_max {
            let rank = |member: &Member| (member.group.alarm.is_some(), member.group.touched);
            let oldest = self.groups.iter().min_by_key(|(key, member)| (rank(member), (*key).clone()));
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.and_then(|key| self.groups.remove(&key));
        }
        let mirrors = change.actor.as_deref().is_some_and(|actor| is_program(actor, RSYNC));
        let member = self.groups.entry(key.clone()).or_insert_with(|| Member {
            origin: origin.clone(),
            group: Group::default(),
            beneath: None,
            suspected: None,
            mirrors: false,
        });
        member.mirrors |= mirrors;
        member
    }

    /// Whether one of the chain did enough, the nearest first.
    fn judge(
        &mut self,
        keys: &[Key],
        change: &FileChange,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Vec<Finding> {
        let thresholds = self.thresholds;
        let standing =
            keys.iter().find(|key| self.groups.get(*key).is_some_and(|member| member.group.alarm.is_some()));
        if let Some(key) = standing.cloned() {
            return self.grow(&key, now).into_iter().collect();
        }
        let alarming = keys
            .iter()
            .position(|key| self.groups.get(key).is_some_and(|member| member.group.is_alarming(&thresholds)));
        if let Some(at) = alarming {
            return self
                .raise(keys.get(at..).unwrap_or_default(), Some(&change.path), now, new_id)
                .into_iter()
                .collect();
        }
        let noted = keys
            .iter()
            .find(|key| self.groups.get(*key).is_some_and(|member| member.group.is_noted(&thresholds)));
        if let Some(key) = noted.cloned() {
            return self.raise_note(&key, now, new_id).into_iter().collect();
        }
        let suspicious = keys.iter().find(|key| {
            self.groups.get(*key).is_some_and(|member| {
                member.group.is_emptying(&thresholds) || member.group.is_suspicious(&thresholds, now)
            })
        });
        if let Some(member) = suspicious.and_then(|key| self.groups.get_mut(key)) {
            let at = *member.suspected.get_or_insert(now.plus(thresholds.hold));
            self.due_at(at);
        }
        Vec::new()
    }

    /// The suspicion was held long enough: it is true, or was answered by what was written.
    fn confirm(&mut self, key: &Key, now: Timestamp, new_id: &mut dyn FnMut() -> Uuid) -> Option<Finding> {
        let thresholds = self.thresholds;
        let member = self.groups.get_mut(key)?;
        let at = member.suspected?;
        if at > now && now.plus(thresholds.hold) >= at {
            self.due_at(at);
            return None;
        }
        member.suspected = None;
        let mirrored = member.mirrors && member.group.written > 0;
        let suspicious = member.group.is_suspicious(&thresholds, now) && !mirrored;
        let stands = member.group.alarm.is_none() && (suspicious || member.group.is_emptying(&thresholds));
        if !stands {
            return None;
        }
        let keys =
            member.group.actor.as_deref().map_or_else(|| vec![key.clone()], |actor| chain_from(actor, key));
        let place = self.groups.get(key)?.group.victims.first().map(|victim| victim.path.clone());
        self.raise(&keys, place.as_deref(), now, new_id)
    }

    /// Raises the alarm of the first of `keys`; of one above when that has heard an alarm from beneath before.
    fn raise(
        &mut self,
        keys: &[Key],
        path: Option<&Path>,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Option<Finding> {
        let heard = keys.iter().find_map(|key| {
            let member = self.groups.get(key)?;
            let id = member.group.alarm.map(|alarm| alarm.id).or(member.beneath)?;
            Some((key.clone(), id))
        });
        let (key, id) = match heard {
            Some((key, id)) => (key, id),
            None => (keys.first()?.clone(), new_id()),
        };
        for above in keys.iter().skip(1) {
            if let Some(member) = self.groups.get_mut(above) {
                member.beneath = Some(id);
                member.suspected = None;
            }
        }
        if let Some(path) = path {
            self.latest = Some((key.clone(), place_of(path), now));
        }
        let member = self.groups.get_mut(&key)?;
        member.suspected = None;
        let raised = member.group.victims_count();
        member.group.alarm = Some(Alarm { id, raised, raised_at: now });
        let habitual = self.habits.note(&member.group, now);
        Some(finding::mass_change(id, &member.origin, &member.group, habitual))
    }

    fn raise_note(&mut self, key: &Key, now: Timestamp, new_id: &mut dyn FnMut() -> Uuid) -> Option<Finding> {
        let due = now.plus(self.thresholds.grow);
        let member = self.groups.get_mut(key)?;
        let drops = member.group.widest_drop()?;
        let raised = u64::try_from(drops.folders.len()).unwrap_or(u64::MAX);
        let alarm = match member.group.note_alarm {
            Some(alarm) if raised < alarm.raised.saturating_mul(2) => {
                if raised > alarm.raised {
                    self.due_at(due);
                }
                return None;
            }
            Some(alarm) => alarm,
            None => Alarm { id: new_id(), raised, raised_at: now },
        };
        member.group.note_alarm = Some(Alarm { raised, raised_at: now, ..alarm });
        finding::note_dropped(alarm.id, &member.origin, &member.group)
    }

    /// Raises an alarm again that has grown enough, or long enough ago.
    fn grow(&mut self, key: &Key, now: Timestamp) -> Option<Finding> {
        let interval = self.thresholds.grow;
        let member = self.groups.get_mut(key)?;
        let late = |alarm: &Alarm| alarm.raised_at > now || now.since(alarm.raised_at) >= interval;
        let Some(alarm) = member.group.alarm else {
            let alarm = member.group.note_alarm?;
            let folders = u64::try_from(member.group.widest_drop()?.folders.len()).unwrap_or(u64::MAX);
            if folders <= alarm.raised || !late(&alarm) {
                return None;
            }
            member.group.note_alarm = Some(Alarm { raised: folders, raised_at: now, ..alarm });
            return finding::note_dropped(alarm.id, &member.origin, &member.group);
        };
        let count = member.group.victims_count();
        if count <= alarm.raised {
            return None;
        }
        if count < alarm.raised.saturating_mul(2) && !late(&alarm) {
            let due = alarm.raised_at.plus(interval);
            self.due_at(due);
            return None;
        }
        member.group.alarm = Some(Alarm { raised: count, raised_at: now, ..alarm });
        let habitual = self.habits.is_habitual(&member.group, now);
        Some(finding::mass_change(alarm.id, &member.origin, &member.group, habitual))
    }

    fn due_at(&mut self, time: Timestamp) {
        self.due = Some(self.due.map_or(time, |due| due.min(time)));
    }
}

const GIT: &[&str] =
    &["/usr/bin/git", "/usr/lib/git-core/git", "/usr/libexec/git-core/git", "/usr/local/bin/git"];
const RSYNC: &[&str] = &["/usr/bin/rsync", "/usr/local/bin/rsync"];

fn is_program(actor: &Actor, programs: &[&str]) -> bool {
    let is = |program: &Text| programs.contains(&program.text.as_str());
    !actor.executable_deleted && actor.executable.as_ref().is_some_and(is)
}

/// A process and those above it that may be the origin of what it does, nearest first.
fn lineage(actor: &Actor) -> impl Iterator<Item = Ancestor> {
    let itself = Ancestor {
        pid: actor.pid,
        started: actor.started,
        executable: actor.executable.clone(),
        script: None,
    };
    let above = actor.parents.iter().take(ANCESTORS_MAX).take_while(|parent| !is_session(parent)).cloned();
    std::iter::once(itself).chain(above)
}

/// The part of the actor's lineage from `key` on.
fn chain_from(actor: &Actor, key: &Key) -> Vec<Key> {
    let chain: Vec<Key> =
        lineage(actor).map(|process| Key::of(&process)).skip_while(|above| above != key).collect();
    if chain.is_empty() { vec![key.clone()] } else { chain }
}

/// What starts unrelated things: what is beneath it is not one act.
fn is_session(process: &Ancestor) -> bool {
    const PROGRAMS: &[&str] = &[
        "systemd",
        "init",
        "sshd",
        "sshd-session",
        "cron",
        "crond",
        "atd",
        "login",
        "containerd-shim-runc-v2",
        "dockerd",
        "containerd",
        "supervisord",
        "runit",
        "tini",
        "dumb-init",
        "tmux",
        "screen",
        "gdm-session-worker",
    ];
    let name =
        process.executable.as_ref().and_then(|program| program.text.rsplit('/').next().map(str::to_owned));
    process.pid <= 1 || name.is_some_and(|name| PROGRAMS.contains(&name.as_str()))
}

/// The first directories of a path.
fn place_of(path: &Path) -> PathBuf {
    let above = path.parent().unwrap_or(path);
    above.components().take(PLACE_DEPTH).collect()
}

#[cfg(test)]
mod tests;
