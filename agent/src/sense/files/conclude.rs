//! From differences to changes: what vanished and what appeared is paired, compared with the baseline as it is at that
//! moment, taken into it, and told.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use picket_protocol::finding::Observed;
use picket_protocol::time::Timestamp;

use super::baseline::{Key, Located, NO_PARENT, Row, Write};
use super::change::{ActorUnknown, Beneath, FileChange, SeenBy, Window};
use super::dirty::Mark;
use super::examine::examine;
use super::examiner::{Examiner, PassError};
use super::note::{NOTE_BYTES_MAX, Note};
use super::object::{Content, Kind, ObjectState};
use super::pass::{Candidate, Gone, Pass};
use super::place;
use super::traits::Format;
use crate::clock;

/// New directories that wait to be listed; beyond, they are marked in the dirty set instead.
const NEW_DIRECTORIES_MAX: usize = 4_096;
/// Objects of a vanished directory that are handed to the detector by name.
const BENEATH_MAX: usize = 200;

impl Pass {
    /// Pairs what vanished with what appeared, and concludes both.
    pub(super) fn settle(&mut self, examiner: &mut Examiner) -> Result<(), PassError> {
        let fresh = std::mem::take(&mut self.fresh);
        let mut gone: Vec<Option<Gone>> = Vec::new();
        for item in std::mem::take(&mut self.gone) {
            if still_gone(examiner, &item)? {
                gone.push(Some(item));
            }
        }
        let mut by_inode: HashMap<u64, Vec<usize>> = HashMap::new();
        for (at, item) in gone.iter().enumerate() {
            let inode = item.as_ref().map_or(0, |item| item.row.state.meta.inode);
            by_inode.entry(inode).or_default().push(at);
        }
        for candidate in fresh {
            let Ok(meta) = place::metadata_of(&candidate.path) else {
                self.fail(examiner);
                continue;
            };
            let Some(meta) = meta else {
                self.look(examiner, candidate)?;
                continue;
            };
            let is_it = |item: &Option<Gone>| {
                item.as_ref().is_some_and(|item| item.row.state.meta.same_object(&meta))
            };
            let ends = by_inode.get(&meta.inode).map(Vec::as_slice).unwrap_or_default();
            let pair = ends.iter().copied().find(|&at| gone.get(at).is_some_and(is_it));
            let pair = pair.and_then(|at| gone.get_mut(at)?.take());
            self.conclude(examiner, candidate, pair)?;
        }
        self.conclude_gone(examiner, gone.into_iter().flatten().collect())
    }

    /// Takes one difference into the baseline, and tells of it.
    pub(super) fn conclude(
        &mut self,
        examiner: &mut Examiner,
        candidate: Candidate,
        pair: Option<Gone>,
    ) -> Result<(), PassError> {
        let view = examiner.view();
        let Some(tree) = view.watched.tree_of(&candidate.path) else { return Ok(()) };
        let located = examiner.baseline.locate(tree, &candidate.path)?;
        if located.path != candidate.path {
            return self.look(examiner, candidate);
        }
        let state = match candidate.known.clone() {
            Some(state) => Ok(Some(state)),
            None => examine(&candidate.path, examiner.limit(&candidate.path), &mut examiner.buffer),
        };
        let state = match state {
            Ok(Some(state)) => state,
            Ok(None) => return Ok(()),
            Err(_) => {
                // It changes faster than it can be looked at.
                let due = Instant::now() + examiner.tuning.creation * 5;
                examiner.shared.dirty.with(|set| set.put_back(candidate.path, candidate.mark, due));
                self.fail(examiner);
                return Ok(());
            }
        };
        examiner.shared.spending.on_read(&view.watched, &candidate.path, &state);
        examiner.shared.aliases.note(&candidate.path, &state.meta);
        if pair.is_none() && located.row.as_ref().is_some_and(|row| row.state == state) {
            if candidate.mark.closed {
                // Read for nothing, which happens ever more seldom.
                examiner.pace.note(&candidate.path, Instant::now());
            }
            examiner.tally.refreshed += 1;
            return Ok(());
        }
        if self.defers(examiner, &candidate, &located, &state, pair.is_some()) {
            return Ok(());
        }
        let silent = !located.parent_listed && pair.is_none();
        let note = if candidate.known.is_none() { short_text(&state, &examiner.buffer) } else { None };
        let conclusion = Conclusion { candidate, located, state, pair, note };
        self.record(examiner, conclusion, silent)
    }

    /// A large file of the same size and sample cannot be judged before it is hashed: its row stays as it is until then.
    fn defers(
        &self,
        examiner: &mut Examiner,
        candidate: &Candidate,
        located: &Located,
        state: &ObjectState,
        paired: bool,
    ) -> bool {
        // What the background hasher gives is all that will be known.
        if state.content != Content::Pending || candidate.known.is_some() {
            return false;
        }
        let queued = examiner.queue_large(candidate.path.clone(), candidate.mark.clone());
        let unchanged = located.row.as_ref().is_some_and(|row| {
            let (old, new) = (&row.state.meta, &state.meta);
            (old.kind, old.size, old.mode, old.uid, old.gid)
                == (new.kind, new.size, new.mode, new.uid, new.gid)
        });
        let same = located.row.as_ref().is_some_and(|row| row.state.meta.same_as(&state.meta));
        let sampled = located.row.as_ref().and_then(|row| row.state.sample).zip(state.sample);
        let differs = sampled.is_some_and(|(old, new)| old != new);
        (same || (queued && unchanged)) && !paired && !differs
    }

    fn record(&mut self, examiner: &mut Examiner, done: Conclusion, silent: bool) -> Result<(), PassError> {
        let Conclusion { candidate, located, state, pair, note } = done;
        let view = examiner.view();
        let (old, key) = (located.row, located.key);
        let moved_here = pair.is_some() && old.is_none();
        let is_directory = state.meta.kind == Kind::Directory;
        let kept_id = pair.as_ref().and_then(|gone| gone.row.id).or(old.as_ref().and_then(|row| row.id));
        let id =
            if is_directory { Some(kept_id.unwrap_or_else(|| examiner.baseline.new_id())) } else { None };
        let mut writes = Vec::new();
        if let Some(held) = old.as_ref().and_then(|row| row.id).filter(|&held| id != Some(held)) {
            writes.push(Write::RemoveBeneath(held));
        }
        writes.extend(pair.as_ref().map(|gone| removal(&gone.key)));
        let same_object = old.as_ref().is_some_and(|row| row.state.meta.same_object(&state.meta));
        if is_directory && !same_object {
            self.visit_later(examiner, candidate.path.clone(), &candidate.mark);
        }
        let hint = candidate.mark.moved_from.clone();
        let moved_from = match &pair {
            Some(gone) => Some(gone.candidate.path.clone()),
            // From a place that is watched as well, without having been seen there: a file that was written under
            // another name. It tells something only where it took the place of another.
            None => hint.filter(|from| !same_object && (old.is_some() || !view.watched.covers(from))),
        };
        let replaced = old.map(|row| row.state);
        let before = if moved_here { pair.map(|gone| gone.row.state) } else { replaced };
        writes.push(Write::Put(
            key,
            Row { id, state: state.clone(), listed: !silent && is_directory, absent: false },
        ));
        let mut change = change(&candidate, before, Some(state));
        self.name(examiner, &candidate, &mut change);
        let held_before = change.before.as_ref().filter(|_| !moved_here).cloned();
        change.text = examiner.take_text(&candidate.path, change.after.as_ref(), held_before.as_ref());
        change.moved_from = moved_from;
        change.note = note.filter(|_| !silent);
        if moved_here && let Some(id) = id {
            (change.beneath_count, _) = beneath(examiner, id, 0)?;
        }
        if examiner.emit(&change, writes, silent)? {
            self.progress.changed += 1;
            examiner.pace.note(&candidate.path, Instant::now());
        }
        Ok(())
    }

    /// Says who did it, or why that is not known.
    fn name(&self, examiner: &Examiner, candidate: &Candidate, change: &mut FileChange) {
        let mut actors = candidate.mark.actors.clone();
        if actors.is_hearsay() {
            let told = self.told.get(&candidate.path).cloned();
            let told = told
                .or_else(|| {
                    let changed = change.after.as_ref().map(|state| Timestamp::from_nanos(state.meta.ctime));
                    let now = clock::now();
                    examiner.shared.dirty.with(|set| set.actors(&candidate.path, changed, now).cloned())
                })
                .filter(|told| !told.is_hearsay());
            actors = told.unwrap_or(actors);
        }
        change.actor = actors.actor();
        change.other_actors = actors.others();
        change.actor_unknown = actors.unknown();
        if change.actor.is_none() && change.actor_unknown.is_none() {
            let told = candidate.mark.seen_by == SeenBy::Event && !examiner.rung.tells_who();
            change.actor_unknown =
                Some(if told { ActorUnknown::RungDoesNotTell } else { ActorUnknown::FoundByLooking });
        }
    }

    fn visit_later(&mut self, examiner: &Examiner, path: PathBuf, mark: &Mark) {
        let mark = Mark { moved_from: None, moved_to: None, ..mark.clone() };
        if self.new_directories.len() < NEW_DIRECTORIES_MAX {
            self.new_directories.push((path, mark));
        } else {
            examiner.shared.dirty.mark_all([(path, mark.whole_tree())]);
        }
    }

    /// Tells of what vanished: what went with its directory is told with the directory.
    fn conclude_gone(&mut self, examiner: &mut Examiner, gone: Vec<Gone>) -> Result<(), PassError> {
        let directories: HashMap<i64, Observed> =
            gone.iter().filter_map(|item| Some((item.row.id?, observed(&item.candidate.mark)))).collect();
        for item in gone {
            if directories.contains_key(&item.key.parent) {
                continue;
            }
            let view = examiner.view();
            // A directory above may have been found to have moved, and the object with it.
            let Some(tree) = view.watched.tree_of(&item.candidate.path) else { continue };
            if examiner.baseline.locate(tree, &item.candidate.path)?.key != item.key {
                continue;
            }
            let mut change = change(&item.candidate, Some(item.row.state), None);
            self.name(examiner, &item.candidate, &mut change);
            change.text = examiner.take_text(&item.candidate.path, None, change.before.as_ref());
            change.moved_to = item.candidate.mark.moved_to.filter(|to| !view.watched.covers(to));
            let mut writes = vec![removal(&item.key)];
            if let Some(id) = item.row.id {
                (change.beneath_count, change.beneath) = beneath(examiner, id, BENEATH_MAX)?;
                writes.push(Write::RemoveBeneath(id));
            }
            if examiner.emit(&change, writes, false)? {
                self.progress.changed += 1;
            }
        }
        Ok(())
    }
}

struct Conclusion {
    candidate: Candidate,
    located: Located,
    state: ObjectState,
    pair: Option<Gone>,
    note: Option<Note>,
}

/// What a short text says that was just read into `buffer`, as one block.
fn short_text(state: &ObjectState, buffer: &[u8]) -> Option<Note> {
    let short = matches!(state.content, Content::Digest(_)) && matches!(state.traits.format, Format::Text);
    let length = usize::try_from(state.meta.size).ok().filter(|length| short && *length <= NOTE_BYTES_MAX)?;
    Note::of(buffer.get(..length)?)
}

/// A tree that is gone leaves a row that says so, that its coming back is news.
fn removal(key: &Key) -> Write {
    if key.parent == NO_PARENT { Write::Put(key.clone(), absent_row()) } else { Write::Remove(key.clone()) }
}

/// Stands for a tree that is not there.
pub(super) fn absent_row() -> Row {
    Row { id: None, state: ObjectState::default(), listed: false, absent: true }
}

/// Whether the baseline still has the row, and the disk still has not the object.
fn still_gone(examiner: &Examiner, item: &Gone) -> Result<bool, PassError> {
    let row = examiner.baseline.get(&item.key)?;
    let same =
        row.is_some_and(|row| row.id == item.row.id && row.state.meta.inode == item.row.state.meta.inode);
    Ok(same && matches!(place::metadata_of(&item.candidate.path), Ok(None)))
}

/// How many objects a directory of the baseline holds, to any depth, and the first `named` of them.
fn beneath(examiner: &Examiner, id: i64, named: usize) -> Result<(u64, Vec<Beneath>), PassError> {
    let (mut count, mut first) = (0, Vec::new());
    examiner.baseline.visit_beneath(id, |path, row| {
        count += 1;
        if first.len() < named {
            first.push(Beneath { path: path.to_path_buf(), state: row.state.clone() });
        }
    })?;
    Ok((count, first))
}

fn observed(mark: &Mark) -> Observed {
    Observed { first: mark.first, last: mark.last, count: mark.count.max(1) }
}

fn change(candidate: &Candidate, before: Option<ObjectState>, after: Option<ObjectState>) -> FileChange {
    let mark = &candidate.mark;
    let told = mark.seen_by == SeenBy::Event;
    let now = clock::now();
    // A clock that was set back since leaves no window that means anything.
    let window = mark.known_until.filter(|from| !told && *from <= now).map(|from| Window { from, to: now });
    FileChange {
        path: candidate.path.clone(),
        before,
        after,
        moved_from: None,
        moved_to: None,
        seen_by: mark.seen_by,
        window,
        observed: if told { observed(mark) } else { Observed::once(now) },
        beneath_count: 0,
        beneath: Vec::new(),
        actor: None,
        other_actors: Vec::new(),
        actor_unknown: None,
        text: None,
        note: None,
    }
}
