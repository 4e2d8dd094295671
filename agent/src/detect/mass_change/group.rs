//! What one process, with all that it started, or nobody known in one place, has done lately.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::crypto::Hash;
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::Thresholds;
use super::harm::{Deed, Harm, path_number, stem};
use crate::sense::files::change::{FileChange, SeenBy};
use crate::sense::files::note::Note;
use crate::sense::files::object::{Content, Kind};
use crate::sense::processes::Actor;

/// Victims and folders that are named.
pub const NAMED_MAX: usize = 20;
/// Numbers of paths that are remembered, of each sort: 32 KiB.
const REMEMBERED_MAX: usize = 4_096;
/// Files that are empty and may be written again: 100 KiB.
const EMPTIED_MAX: usize = 1_024;
/// Different texts, contents and endings that are told apart.
const KINDS_MAX: usize = 32;
/// Times of ordinary harms that are remembered.
const RECENT_MAX: usize = 64;
/// Ends of names that are shown.
const ENDING_BYTES_MAX: usize = 32;

/// A victim by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Where it is or was.
    pub path: PathBuf,
    /// Where it is now, where that is elsewhere.
    pub now: Option<PathBuf>,
    /// What it came to.
    pub harm: Harm,
}

/// One text that was dropped in several folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drops {
    /// What it says.
    pub note: Note,
    /// The first of them.
    pub first: PathBuf,
    /// SHA-256 of the first.
    pub digest: Option<Hash>,
    /// Folders, as numbers.
    pub folders: HashSet<u64>,
    /// Some of the folders by name.
    pub named: Vec<PathBuf>,
}

/// What a file held before it was emptied.
#[derive(Clone, Debug)]
struct Former {
    readable: bool,
    content: Content,
}

/// An alarm that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The finding.
    pub id: Uuid,
    /// Victims, or folders, when it was last raised.
    pub raised: u64,
    /// When it was last raised.
    pub raised_at: Timestamp,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Group {
    /// Files by what they came to.
    pub harms: HashMap<Harm, u64>,
    /// The first victims.
    pub victims: Vec<Victim>,
    /// Folders of victims, as numbers.
    pub folders: HashSet<u64>,
    /// Ends that encrypted or renamed files took.
    pub endings: HashMap<OsString, u64>,
    /// Texts that were dropped.
    pub drops: Vec<Drops>,
    /// Sums of entropy before and after, and of how many files.
    pub entropy: (u64, u64, u64),
    /// Files of ordinary content that were written.
    pub written: u64,
    /// The newest who did it.
    pub actor: Option<Arc<Actor>>,
    /// What made the sensor look.
    pub seen_by: Option<SeenBy>,
    /// When the first harm was done.
    pub first: Timestamp,
    /// When the newest was.
    pub last: Timestamp,
    /// When something was last heard, harm or not.
    pub touched: Timestamp,
    /// The alarm about harm.
    pub alarm: Option<Alarm>,
    /// The alarm about a text that is dropped.
    pub note_alarm: Option<Alarm>,
    counted: HashSet<u64>,
    /// Those of the blanked that are empty, as they were before: they may be about to be written anew.
    emptied: HashMap<u64, Former>,
    appeared: HashSet<u64>,
    vanished: HashSet<u64>,
    made: HashSet<u64>,
    contents: HashMap<Hash, Vec<u64>>,
    recent: VecDeque<(Timestamp, u64)>,
}

impl Group {
    /// Takes a change into account. Tells whether it did harm.
    pub fn take(&mut self, change: &FileChange, deed: &Deed, now: Timestamp) -> bool {
        self.touched = now;
        let filled = self.fill(change);
        let harmed = match deed {
            Deed::Filled if filled.as_ref().is_some_and(|former| former.readable) => {
                self.count(change, Harm::Encrypted, 1)
            }
            Deed::Filled => {
                self.written = self.written.saturating_add(1);
                false
            }
            Deed::Harm(harm, files) => self.harm(change, *harm, *files),
            Deed::Appeared => self.appear(change),
            Deed::Written(replaced) => {
                let other = |former: Former| {
                    change.after.as_ref().is_some_and(|after| after.content != former.content)
                };
                self.write(change, *replaced || filled.is_some_and(other))
            }
            Deed::Directory => {
                remember(&mut self.made, path_number(&change.path));
                false
            }
            Deed::Nothing => false,
        };
        let dropped = self.drop_note(change);
        if harmed || dropped {
            if self.first == Timestamp::default() {
                self.first = change.observed.first;
            }
            self.first = self.first.min(change.observed.first);
            self.last = self.last.max(change.observed.last);
            self.seen_by = Some(change.seen_by);
            self.actor = change.actor.clone().or_else(|| self.actor.take());
        }
        harmed || dropped
    }

    fn harm(&mut self, change: &FileChange, harm: Harm, files: u64) -> bool {
        let origin = victim_of(change);
        if harm == Harm::Deleted
            && change.before.as_ref().is_some_and(|before| before.meta.kind == Kind::File)
        {
            let ends = [Some(path_number(origin)), stem(origin)];
            // A file that nobody can read took its place.
            if ends.into_iter().flatten().any(|end| self.appeared.contains(&end)) {
                return self.count(change, Harm::Encrypted, 1);
            }
            ends.into_iter().flatten().for_each(|end| remember(&mut self.vanished, end));
        }
        if harm == Harm::Encrypted {
            let bits = |state: &Option<_>| -> u64 {
                let state: Option<&crate::sense::files::object::ObjectState> = state.as_ref();
                state.and_then(|state| state.traits.entropy).map_or(0, u64::from)
            };
            let (before, after) = (bits(&change.before), bits(&change.after));
            if before > 0 && after > 0 {
                self.entropy = (self.entropy.0 + before, self.entropy.1 + after, self.entropy.2 + 1);
            }
        }
        let is_empty = change.after.as_ref().is_some_and(|after| after.meta.size == 0);
        let counted = self.count(change, harm, files);
        if counted
            && harm == Harm::Blanked
            && is_empty
            && self.emptied.len() < EMPTIED_MAX
            && let Some(before) = &change.before
        {
            let former =
                Former { readable: !before.traits.format.is_scrambled(), content: before.content.clone() };
            self.emptied.insert(path_number(&change.path), former);
        }
        counted
    }

    /// A file that was emptied and is written again came to no harm by that. Gives what it was before.
    fn fill(&mut self, change: &FileChange) -> Option<Former> {
        let number = path_number(&change.path);
        let former = match &change.after {
            Some(after) if after.meta.size > 0 => self.emptied.remove(&number)?,
            _ => return None,
        };
        self.counted.remove(&number);
        self.victims.retain(|victim| victim.path != change.path);
        if let Some(blanked) = self.harms.get_mut(&Harm::Blanked) {
            *blanked = blanked.saturating_sub(1);
        }
        Some(former)
    }

    fn appear(&mut self, change: &FileChange) -> bool {
        let Some(name) = stem(&change.path) else { return false };
        // What vanished before was counted as deleted: it came to something else.
        if self.vanished.remove(&name) {
            if let Some(deleted) = self.harms.get_mut(&Harm::Deleted) {
                *deleted = deleted.saturating_sub(1);
            }
            *self.harms.entry(Harm::Encrypted).or_default() += 1;
            self.note_ending(&change.path);
            return true;
        }
        self.note_ending(&change.path);
        remember(&mut self.appeared, name);
        false
    }

    fn write(&mut self, change: &FileChange, replaced: bool) -> bool {
        let digest = change.after.as_ref().and_then(|after| match after.content {
            Content::Digest(digest) if after.meta.size > 0 => Some(digest),
            _ => None,
        });
        let Some(digest) = digest.filter(|_| replaced) else {
            self.written = self.written.saturating_add(1);
            return false;
        };
        if self.contents.len() >= KINDS_MAX && !self.contents.contains_key(&digest) {
            self.contents.retain(|_, victims| victims.len() > 1);
        }
        let victims = self.contents.entry(digest).or_default();
        let victim = path_number(&change.path);
        if victims.len() < REMEMBERED_MAX && !victims.contains(&victim) {
            victims.push(victim);
        }
        if victims.len() < 3 {
            self.written = self.written.saturating_add(1);
            return false;
        }
        let catch_up = if victims.len() == 3 { 2 } else { 0 };
        self.written = self.written.saturating_sub(catch_up);
        self.count(change, Harm::Defaced, 1 + catch_up)
    }

    /// Counts a victim, once.
    fn count(&mut self, change: &FileChange, harm: Harm, files: u64) -> bool {
        let path = victim_of(change);
        let numbers = [path_number(path), path_number(&change.path)];
        if numbers.iter().any(|number| self.counted.contains(number)) {
            return false;
        }
        numbers.into_iter().for_each(|number| remember(&mut self.counted, number));
        *self.harms.entry(harm).or_default() += files;
        remember(&mut self.folders, path_number(path.parent().unwrap_or(path)));
        if self.victims.len() < NAMED_MAX {
            let now = (path != change.path).then(|| change.path.clone());
            self.victims.push(Victim { path: path.to_path_buf(), now, harm });
        }
        if harm == Harm::Renamed || (harm == Harm::Encrypted && path != change.path) {
            self.note_ending(&change.path);
        }
        if harm.is_ordinary() {
            if self.recent.len() >= RECENT_MAX {
                self.recent.pop_front();
            }
            self.recent.push_back((change.observed.last, files));
        }
        true
    }

    fn note_ending(&mut self, path: &Path) {
        let Some(ending) = path.extension().filter(|ending| ending.len() <= ENDING_BYTES_MAX) else { return };
        if self.endings.len() < KINDS_MAX || self.endings.contains_key(ending) {
            *self.endings.entry(ending.to_owned()).or_default() += 1;
        }
    }

    /// Notes a text that appears alone in a folder that was there before.
    fn drop_note(&mut self, change: &FileChange) -> bool {
        let (Some(note), None, Some(folder)) = (change.note, &change.before, change.path.parent()) else {
            return false;
        };
        if change.path.ancestors().skip(1).any(|above| self.made.contains(&path_number(above))) {
            return false;
        }
        let number = path_number(folder);
        if let Some(drops) = self.drops.iter_mut().find(|drops| drops.note.is_like(&note)) {
            if drops.folders.len() >= REMEMBERED_MAX || !drops.folders.insert(number) {
                return false;
            }
            if drops.named.len() < NAMED_MAX {
                drops.named.push(folder.to_path_buf());
            }
            return true;
        }
        if self.drops.len() >= KINDS_MAX {
            self.drops.retain(|drops| drops.folders.len() > 1 || drops.note.is_demand());
        }
        if self.drops.len() < KINDS_MAX {
            let digest = change.after.as_ref().and_then(|after| match after.content {
                Content::Digest(digest) => Some(digest),
                _ => None,
            });
            let (folders, named) = (HashSet::from([number]), vec![folder.to_path_buf()]);
            self.drops.push(Drops { note, first: change.path.clone(), digest, folders, named });
        }
        true
    }

    /// Files that came to harm.
    pub fn victims_count(&self) -> u64 {
        self.harms.values().sum()
    }

    /// The text that was dropped in most folders; of those the one that demands.
    pub fn widest_drop(&self) -> Option<&Drops> {
        self.drops.iter().max_by_key(|drops| (drops.note.is_demand(), drops.folders.len()))
    }

    /// Whether harm was done that only one who means it does, even if the files that are empty are about to be written.
    pub fn is_alarming(&self, thresholds: &Thresholds) -> bool {
        self.does_harm(thresholds, u64::try_from(self.emptied.len()).unwrap_or(u64::MAX))
    }

    /// The same, if the files that are empty stay so.
    pub fn is_emptying(&self, thresholds: &Thresholds) -> bool {
        self.does_harm(thresholds, 0)
    }

    fn does_harm(&self, thresholds: &Thresholds, emptied: u64) -> bool {
        let harms = self.harms.iter().filter(|(harm, _)| !harm.is_ordinary());
        let weight: u64 = harms.map(|(harm, count)| harm.weight().saturating_mul(*count)).sum();
        let demand = self.widest_drop().is_some_and(|drops| drops.note.is_demand());
        // A demand beside it leaves no doubt.
        let needed = thresholds.victims * if demand { 50 } else { 100 };
        weight.saturating_sub(emptied.saturating_mul(Harm::Blanked.weight())) >= needed
    }

    /// Whether as much was deleted or renamed, within a short time, and nothing much written in its place.
    pub fn is_suspicious(&self, thresholds: &Thresholds, now: Timestamp) -> bool {
        let since = |time: Timestamp| if time > now { Duration::ZERO } else { now.since(time) };
        let recent = self.recent.iter().filter(|(time, _)| since(*time) <= thresholds.burst);
        let files: u64 = recent.map(|(_, files)| *files).sum();
        let ordinary: u64 =
            self.harms.iter().filter(|(harm, _)| harm.is_ordinary()).map(|(_, count)| *count).sum();
        let others = self.victims_count() - ordinary;
        files.min(ordinary) + others >= thresholds.victims
            && self.written.saturating_mul(2) < ordinary.saturating_add(others)
    }

    /// Whether a text was dropped as a demand is, or as only a demand would be.
    pub fn is_noted(&self, thresholds: &Thresholds) -> bool {
        self.widest_drop().is_some_and(|drops| {
            let folders = u64::try_from(drops.folders.len()).unwrap_or(u64::MAX);
            if drops.note.is_demand() {
                folders >= thresholds.demands
            } else {
                // Whatever else was written: a text beside every file of an archive is a licence.
                folders >= thresholds.victims && self.written <= folders.saturating_mul(2)
            }
        })
    }
}

/// Where the file was that came to harm: elsewhere, if it is the file that moved, and not one that was replaced.
fn victim_of(change: &FileChange) -> &Path {
    let moved = match (&change.before, &change.after) {
        (Some(before), Some(after)) => before.meta.same_object(&after.meta),
        _ => false,
    };
    change.moved_from.as_deref().filter(|_| moved).unwrap_or(&change.path)
}

/// Keeps a number, as long as there is room.
fn remember(set: &mut HashSet<u64>, number: u64) {
    if set.len() < REMEMBERED_MAX {
        set.insert(number);
    }
}
