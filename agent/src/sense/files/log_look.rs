//! Looking at a log: whether it is the one that is remembered, grew, or came to something, and what that is.

use std::path::{Path, PathBuf};
use std::time::Instant;

use picket_protocol::finding::Observed;
use picket_protocol::time::Timestamp;

use super::change::{SeenBy, Window};
use super::dirty::{Mark, Scope};
use super::examine::open_file;
use super::examiner::{Examiner, PassError};
use super::log_rotation::{Successor, successor};
use super::log_state::{Grown, HISTORY_BYTES_MAX, LogState, Part};
use super::logs::{GRACE, LogChange, Loss, Nature, family_of};
use super::object::{Kind, Metadata};
use super::pass::{Candidate, Pass};
use super::place;
use crate::clock;

/// Parts of a lost log that a change names.
const PARTS_NAMED_MAX: usize = 16;

impl Pass {
    /// Looks at what may be a log; tells whether it is one, so that nobody else looks at it.
    pub(super) fn look_at_log(
        &mut self,
        examiner: &mut Examiner,
        candidate: &Candidate,
        all: bool,
    ) -> Result<bool, PassError> {
        let path = candidate.path.as_path();
        if !examiner.logs.covers(path) {
            return Ok(false);
        }
        let Ok(meta) = place::metadata_of(path) else {
            self.fail(examiner);
            return Ok(examiner.logs.knows(path));
        };
        let prior = examiner.logs.known.get(path).cloned();
        match (prior, meta) {
            (None, Some(meta)) if meta.kind == Kind::File => {
                self.begin(examiner, path, &meta)?;
                self.first_growth(examiner, candidate).map(|()| true)
            }
            (None, Some(meta)) => self.new_special(examiner, candidate, &meta),
            (None, None) => Ok(false),
            (Some(prior), None) => self.vanished(examiner, candidate, prior).map(|()| true),
            (Some(prior), Some(meta)) if meta.kind != Kind::File => {
                let loss = Loss::LedAway(meta.kind, target(path, &meta));
                let moved = self.find(examiner, path, &prior);
                examiner.logs.forget(path);
                self.tell_loss(examiner, candidate, &prior, loss, None, moved).map(|()| true)
            }
            (Some(prior), Some(meta)) if prior.is(&meta) => {
                examiner.logs.missing.remove(path);
                self.same_log(examiner, candidate, prior, &meta, all).map(|()| true)
            }
            (Some(prior), Some(meta)) => self.other_log(examiner, candidate, prior, &meta).map(|()| true),
        }
    }

    fn begin(&mut self, examiner: &mut Examiner, path: &Path, meta: &Metadata) -> Result<(), PassError> {
        let Some(state) = self.read_first(examiner, path, meta) else { return Ok(()) };
        examiner.logs.put(path, state);
        Ok(())
    }

    /// A log that comes with something in it while the sensor watches has grown.
    fn first_growth(&mut self, examiner: &mut Examiner, candidate: &Candidate) -> Result<(), PassError> {
        let state = examiner.logs.known.get(&candidate.path).filter(|state| state.size > 0).cloned();
        match state {
            Some(state) if examiner.logs.armed && candidate.mark.seen_by == SeenBy::Event => {
                examiner.log_grew(candidate, &state)
            }
            _ => Ok(()),
        }
    }

    fn read_first(&mut self, examiner: &mut Examiner, path: &Path, meta: &Metadata) -> Option<LogState> {
        let file = open_file(path).ok()?;
        let mut state = match LogState::first(&file, meta, &mut examiner.buffer) {
            Ok(state) => state,
            Err(_) => {
                self.fail(examiner);
                return None;
            }
        };
        if Nature::of(path) == Nature::History && meta.size <= HISTORY_BYTES_MAX {
            state.take_lines(&read_all(&file, meta.size));
        }
        Some(state)
    }

    /// Something in a log's place that keeps nothing. What was so when the agent came is none of its business.
    fn new_special(
        &mut self,
        examiner: &mut Examiner,
        candidate: &Candidate,
        meta: &Metadata,
    ) -> Result<bool, PassError> {
        let target = target(&candidate.path, meta);
        let nowhere = target.as_deref().is_some_and(|target| target.starts_with(b"/dev/"));
        if !nowhere {
            return Ok(false);
        }
        let known_place = examiner.logs.places.contains(&candidate.path);
        let told = examiner.logs.armed && (known_place || candidate.mark.seen_by == SeenBy::Event);
        if told && !examiner.logs.missing.contains_key(&candidate.path) {
            examiner.logs.missing.insert(candidate.path.clone(), Instant::now());
            let loss = Loss::LedAway(meta.kind, target);
            self.tell_loss(examiner, candidate, &LogState::default(), loss, None, None)?;
        }
        Ok(true)
    }

    /// The same object, no other one in its place.
    fn same_log(
        &mut self,
        examiner: &mut Examiner,
        candidate: &Candidate,
        mut state: LogState,
        meta: &Metadata,
        all: bool,
    ) -> Result<(), PassError> {
        let path = candidate.path.as_path();
        let nature = Nature::of(path);
        if state.same_as(meta) && !all {
            return Ok(());
        }
        examiner.pace.note(path, Instant::now());
        if nature == Nature::History && meta.size <= HISTORY_BYTES_MAX && !state.lines.is_empty() {
            return self.history(examiner, candidate, state, meta);
        }
        if meta.size < state.size {
            let moved = self.find(examiner, path, &state);
            if moved.is_some() {
                examiner.logs.note_rotation(path);
            }
            self.begin(examiner, path, meta)?;
            return self.tell_loss(examiner, candidate, &state, Loss::Cut, Some(meta.size), moved);
        }
        if nature != Nature::Appended {
            (state.size, state.mtime, state.ctime) = (meta.size, meta.mtime, meta.ctime);
            (state.parts, state.tail) = Default::default();
            examiner.logs.put(path, state);
            return Ok(());
        }
        let Ok(file) = open_file(path) else { return Ok(()) };
        let before = state.clone();
        match state.grow(&file, meta, all, &mut examiner.buffer) {
            Ok(grown @ (Grown::Same | Grown::Appended)) => {
                if grown == Grown::Appended {
                    examiner.log_grew(candidate, &state)?;
                }
                if state != before {
                    examiner.logs.put(path, state);
                }
                Ok(())
            }
            Ok(Grown::Edited(parts)) => {
                examiner.logs.put(path, state);
                let before = LogState { parts: parts.into(), tail: None, ..before };
                self.tell_loss(examiner, candidate, &before, Loss::Edited, Some(meta.size), None)
            }
            Err(_) => {
                self.fail(examiner);
                Ok(())
            }
        }
    }

    /// A shell writes its history anew: what counts is whether the lines are still there.
    fn history(
        &mut self,
        examiner: &mut Examiner,
        candidate: &Candidate,
        before: LogState,
        meta: &Metadata,
    ) -> Result<(), PassError> {
        let path = candidate.path.as_path();
        examiner.logs.missing.remove(path);
        let Ok(file) = open_file(path) else { return Ok(()) };
        let Ok(mut state) = LogState::first(&file, meta, &mut examiner.buffer) else { return Ok(()) };
        state.lines.clone_from(&before.lines);
        let kept = state.take_lines(&read_all(&file, meta.size));
        examiner.logs.put(path, state);
        let mut change = examiner.log_change(candidate, &before, Loss::Cut, Some(meta.size), None);
        change.lines_kept = Some(kept);
        examiner.emit_log(&change)
    }

    /// Another file is in the log's place.
    fn other_log(
        &mut self,
        examiner: &mut Examiner,
        candidate: &Candidate,
        prior: LogState,
        meta: &Metadata,
    ) -> Result<(), PassError> {
        let path = candidate.path.as_path();
        if Nature::of(path) == Nature::History && meta.size <= HISTORY_BYTES_MAX {
            return self.history(examiner, candidate, prior, meta);
        }
        match self.find(examiner, path, &prior) {
            Some(Successor::Moved(to)) => {
                examiner.logs.follow(path, &to);
                self.begin(examiner, path, meta)?;
                self.first_growth(examiner, candidate)
            }
            None if family_of(path) != path && self.waits(examiner, candidate) => Ok(()),
            found => {
                examiner.logs.forget(path);
                if found.is_some() {
                    examiner.logs.note_rotation(path);
                }
                self.begin(examiner, path, meta)?;
                self.tell_loss(examiner, candidate, &prior, Loss::Replaced, Some(meta.size), found)
            }
        }
    }

    /// The log is not there: it was moved, or a rotation is under way, or it is lost.
    fn vanished(
        &mut self,
        examiner: &mut Examiner,
        candidate: &Candidate,
        prior: LogState,
    ) -> Result<(), PassError> {
        let path = candidate.path.as_path();
        let found = self.find(examiner, path, &prior);
        if let Some(Successor::Moved(to)) = &found {
            examiner.logs.follow(path, to);
            return Ok(());
        }
        if found.is_some() {
            examiner.logs.note_rotation(path);
        } else if self.waits(examiner, candidate) {
            return Ok(());
        }
        examiner.logs.forget(path);
        self.tell_loss(examiner, candidate, &prior, Loss::Deleted, None, found)
    }

    /// A rotation may be under way: a lost log is looked at once more when that must be over.
    fn waits(&self, examiner: &mut Examiner, candidate: &Candidate) -> bool {
        let now = Instant::now();
        let since = *examiner.logs.missing.entry(candidate.path.clone()).or_insert(now);
        if now.saturating_duration_since(since) >= GRACE {
            return false;
        }
        let mark = Mark { scope: Scope::Object, ..candidate.mark.clone() };
        examiner.shared.dirty.with(|set| set.put_back(candidate.path.clone(), mark, since + GRACE));
        true
    }

    fn find(&self, examiner: &mut Examiner, path: &Path, prior: &LogState) -> Option<Successor> {
        let mut buffer = std::mem::take(&mut examiner.buffer);
        let found = successor(path, prior, &mut buffer);
        examiner.buffer = buffer;
        found
    }

    fn tell_loss(
        &mut self,
        examiner: &mut Examiner,
        candidate: &Candidate,
        prior: &LogState,
        loss: Loss,
        size_after: Option<u64>,
        successor: Option<Successor>,
    ) -> Result<(), PassError> {
        self.progress.changed += 1;
        if successor.is_none() && matches!(loss, Loss::Deleted | Loss::LedAway(..)) {
            // That it grows no more is no news.
            examiner.logs.silences.forget(&family_of(&candidate.path));
        }
        let change = examiner.log_change(candidate, prior, loss, size_after, successor);
        examiner.emit_log(&change)
    }

    /// Logs that are followed and were not met by a walk: deleted ones for the most part.
    pub(super) fn look_at_known_logs(
        &mut self,
        examiner: &mut Examiner,
        candidate: &Candidate,
    ) -> Result<(), PassError> {
        let known: Vec<PathBuf> = examiner.logs.known.keys().cloned().collect();
        for path in known {
            self.check(examiner)?;
            if !examiner.logs.covers(&path) {
                examiner.logs.forget(&path);
                continue;
            }
            self.look_at_log(examiner, &Candidate { path, ..candidate.clone() }, true)?;
        }
        Ok(())
    }
}

impl Examiner {
    pub(super) fn log_change(
        &self,
        candidate: &Candidate,
        prior: &LogState,
        loss: Loss,
        size_after: Option<u64>,
        successor: Option<Successor>,
    ) -> LogChange {
        let mark = &candidate.mark;
        let now = clock::now();
        let told = mark.seen_by == SeenBy::Event;
        let kept = if loss == Loss::Cut { size_after.unwrap_or(0) } else { 0 };
        let mut lost: Vec<Part> = prior.known().filter(|part| part.to > kept).copied().collect();
        lost.drain(..lost.len().saturating_sub(PARTS_NAMED_MAX));
        let known = prior.inode != 0;
        LogChange {
            path: candidate.path.clone(),
            nature: Nature::of(&candidate.path),
            loss,
            size_before: known.then_some(prior.size),
            size_after,
            written: known.then(|| Timestamp::from_nanos(prior.mtime)),
            lost,
            lines_kept: None,
            successor,
            rotating: self.logs.is_rotating(&candidate.path, prior),
            actor: mark.actors.actor(),
            seen_by: mark.seen_by,
            window: mark
                .known_until
                .filter(|from| !told && *from <= now)
                .map(|from| Window { from, to: now }),
            observed: if told {
                Observed { first: mark.first, last: mark.last, count: mark.count.max(1) }
            } else {
                Observed::once(now)
            },
        }
    }
}

/// Where a link leads; the name of a device stands for itself.
fn target(path: &Path, meta: &Metadata) -> Option<Vec<u8>> {
    match meta.kind {
        Kind::Symlink => {
            std::fs::read_link(path).ok().map(|target| target.into_os_string().into_encoded_bytes())
        }
        Kind::CharacterDevice => Some(b"/dev/ (a device)".to_vec()),
        _ => None,
    }
}

fn read_all(file: &std::os::fd::OwnedFd, size: u64) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(size.min(HISTORY_BYTES_MAX)).unwrap_or(0)];
    let mut filled = 0;
    while let Some(rest) = content.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(file, rest, u64::try_from(filled).unwrap_or(0)) {
            Ok(count) if count > 0 => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            _ => break,
        }
    }
    content.truncate(filled);
    content
}
