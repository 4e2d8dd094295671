//! One round of looking: what is marked, or whole trees. Differences are gathered first, so that an object that
//! vanished here and appeared there is seen as moved, and then concluded one by one against the baseline as it is
//! at that moment.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use picket_protocol::time::Timestamp;
use rustix::fs::OFlags;

use super::baseline::{Key, Located, NO_PARENT, Row, Write};
use super::change::SeenBy;
use super::conclude::absent_row;
use super::dirty::{Mark, Scope};
use super::examiner::{Examiner, PassError};
use super::intake::Intake;
use super::object::{Content, Kind, Metadata, ObjectState};
use super::place;
use super::scanner::{ScanNews, ScanProgress};
use super::who::Actors;
use crate::clock;

/// Objects that are held back until both ends of a move can be known. Beyond, those held are concluded as they are.
pub const HELD_MAX: usize = 1_024;

/// An object that may have changed, and why it is looked at.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub(super) path: PathBuf,
    pub(super) mark: Mark,
    /// What the background hasher made of it.
    pub(super) known: Option<ObjectState>,
    /// Its content is to be read even when nothing says that it changed.
    pub(super) reread: bool,
}

impl Candidate {
    /// To be looked at for the reason that `mark` gives.
    pub fn new(path: PathBuf, mark: Mark) -> Self {
        Self { path, mark, known: None, reread: false }
    }
}

/// An object of the baseline that is not there.
pub struct Gone {
    pub(super) candidate: Candidate,
    pub(super) key: Key,
    pub(super) row: Row,
}

/// See the module.
#[derive(Default)]
pub struct Pass {
    pub(super) fresh: Vec<Candidate>,
    pub(super) gone: Vec<Gone>,
    pub(super) new_directories: Vec<(PathBuf, Mark)>,
    /// Looked at and found different so far.
    pub progress: ScanProgress,
    /// Could not be looked at.
    pub errors: u64,
    /// To be over by then.
    pub deadline: Option<Instant>,
    /// Files of this turn are read even when nothing says that they changed.
    pub reread: Option<Turn>,
    /// Other marks may be served between two directories; not within such service.
    pub long: bool,
    /// Told now and then how far it is.
    pub news: Option<SyncSender<ScanNews>>,
    /// Who touched objects that were marked, and that are come upon in their directory instead.
    pub(super) told: HashMap<PathBuf, Actors>,
    /// Marks were served last.
    pub(super) served: Option<Instant>,
    /// What is to be taken into a first baseline.
    pub(super) intake: Intake,
    /// The directory in which an object was looked at last: marks come in the order of their paths.
    pub(super) above: Option<(PathBuf, OwnedFd)>,
}

impl Pass {
    /// Whether the round must end now.
    pub fn check(&self, examiner: &Examiner) -> Result<(), PassError> {
        if examiner.stop.is_set() {
            return Err(PassError::Stopped);
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(PassError::Deadline),
            _ => Ok(()),
        }
    }

    /// Looks at all that is marked.
    pub fn run(&mut self, examiner: &mut Examiner, marks: Vec<(PathBuf, Mark)>) -> Result<(), PassError> {
        examiner.baseline.hold()?;
        for (path, mark) in &marks {
            self.look(examiner, Candidate::new(path.clone(), mark.clone()))?;
        }
        self.finish(examiner)?;
        for (path, mark) in marks {
            if mark.scope == Scope::Tree {
                self.walk(examiner, &path, &mark)?;
                self.finish(examiner)?;
            }
        }
        examiner.buffer = Vec::new();
        examiner.flush()
    }

    /// Concludes what is held back, and visits the new directories, until nothing is left.
    pub fn finish(&mut self, examiner: &mut Examiner) -> Result<(), PassError> {
        self.above = None;
        loop {
            self.settle(examiner)?;
            let Some((path, mark)) = self.new_directories.pop() else { return Ok(()) };
            self.walk(examiner, &path, &mark)?;
        }
    }

    /// Looks at one object, and holds it back if it appeared, vanished or was replaced.
    pub fn look(&mut self, examiner: &mut Examiner, mut candidate: Candidate) -> Result<(), PassError> {
        let view = examiner.view();
        let Some(tree) = view.watched.tree_of(&candidate.path) else { return Ok(()) };
        if !view.watched.covers(&candidate.path) {
            return Ok(());
        }
        if self.look_at_log(examiner, &candidate, false)? {
            return Ok(());
        }
        let located = examiner.baseline.locate(tree, &candidate.path)?;
        self.progress.examined += 1;
        examiner.tally.examined += 1;
        if located.path != candidate.path {
            // A directory above is unknown, or none any more: it is what must be looked at.
            self.told.insert(candidate.path.clone(), candidate.mark.actors.clone());
            (candidate.path, candidate.known) = (located.path.clone(), None);
            (candidate.mark.moved_from, candidate.mark.moved_to) = (None, None);
        }
        if located.key.parent == NO_PARENT {
            examiner.watch_above(&candidate.path);
        }
        let meta = match self.metadata_of(&candidate.path) {
            Ok(meta) => meta,
            Err(_) => {
                self.fail(examiner);
                return Ok(());
            }
        };
        self.compare(examiner, candidate, located, meta)
    }

    /// As [`place::metadata_of`], with the directory above opened once for all that is looked at in it.
    fn metadata_of(&mut self, path: &Path) -> io::Result<Option<Metadata>> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return place::metadata_of(path);
        };
        let kept = self.above.take().filter(|(open, _)| open.as_os_str() == above.as_os_str());
        let open = || Ok((above.to_path_buf(), place::open(above, OFlags::PATH | OFlags::DIRECTORY)?));
        let (above, directory) = match kept.map_or_else(open, Ok) {
            Ok(opened) => opened,
            Err(error) if place::is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = place::metadata_at(&directory, name.as_bytes());
        self.above = Some((above, directory));
        found
    }

    fn compare(
        &mut self,
        examiner: &mut Examiner,
        candidate: Candidate,
        located: Located,
        meta: Option<Metadata>,
    ) -> Result<(), PassError> {
        match (&located.row, meta) {
            (None, None) if located.key.parent == NO_PARENT && !located.parent_listed => {
                examiner.put(vec![Write::Put(located.key, absent_row())])
            }
            (None, None) => {
                examiner.tally.transient += 1;
                Ok(())
            }
            (None, Some(meta)) => {
                if !self.wait_for_close(examiner, &candidate, &meta) {
                    self.fresh.push(candidate);
                }
                self.relieve(examiner)
            }
            (Some(row), None) => {
                self.gone.push(Gone { candidate, key: located.key, row: row.clone() });
                self.relieve(examiner)
            }
            (Some(row), Some(meta)) => self.compare_present(examiner, candidate, row, &meta),
        }
    }

    /// An object that is in the baseline and on disk.
    pub(super) fn compare_present(
        &mut self,
        examiner: &mut Examiner,
        mut candidate: Candidate,
        row: &Row,
        meta: &Metadata,
    ) -> Result<(), PassError> {
        let before = &row.state.meta;
        candidate.known = candidate.known.filter(|known| known.meta.same_as(meta));
        let same =
            before.same_as(meta) && !row.state.racy && !directory_attributes_changed(&candidate, row, meta);
        if same && candidate.known.is_none() && !may_have_changed_unseen(&candidate, row) {
            if row.state.content == Content::Pending {
                examiner.queue_large(candidate.path, candidate.mark);
            }
            return Ok(());
        }
        if before.kind == meta.kind && !before.same_object(meta) {
            self.fresh.push(candidate);
            return self.relieve(examiner);
        }
        self.conclude(examiner, candidate, None)
    }

    /// A new file whose writer has not closed it is given a moment, so that it is not told of empty and then again; and one by whose name its
    /// writer is about to move it to where another is, so that it is not told of twice.
    fn wait_for_close(&self, examiner: &Examiner, candidate: &Candidate, meta: &Metadata) -> bool {
        let unfinished = candidate.mark.open || is_to_be_moved(&candidate.path);
        let waits = unfinished && meta.kind == Kind::File && meta.links == 1;
        waits && self.wait_until(examiner, candidate, candidate.mark.first)
    }

    /// The same for a file that a walk came upon right after the kernel told of its directory: nothing says whether
    /// its writer is done. An event that tells so is not waited for any longer.
    pub(super) fn wait_for_writer(
        &self,
        examiner: &Examiner,
        candidate: &Candidate,
        meta: &Metadata,
    ) -> bool {
        let changed = Timestamp::from_nanos(meta.ctime);
        meta.kind == Kind::File && changed <= clock::now() && self.wait_until(examiner, candidate, changed)
    }

    fn wait_until(&self, examiner: &Examiner, candidate: &Candidate, since: Timestamp) -> bool {
        let age = clock::now().since(since);
        if candidate.mark.seen_by != SeenBy::Event || age >= examiner.tuning.creation {
            return false;
        }
        let due = Instant::now() + (examiner.tuning.creation - age);
        examiner.shared.dirty.with(|set| set.put_back(candidate.path.clone(), candidate.mark.clone(), due));
        true
    }

    /// Keeps what is held back within its bound.
    pub(super) fn relieve(&mut self, examiner: &mut Examiner) -> Result<(), PassError> {
        if self.fresh.len() + self.gone.len() >= HELD_MAX { self.settle(examiner) } else { Ok(()) }
    }

    /// Counts what could not be looked at; the round goes on.
    pub(super) fn fail(&mut self, examiner: &mut Examiner) {
        self.errors += 1;
        examiner.tally.errors += 1;
    }

    /// Notes that an entry of the baseline was not found in its directory.
    pub(super) fn miss(
        &mut self,
        examiner: &mut Examiner,
        candidate: Candidate,
        key: Key,
        row: Row,
    ) -> Result<(), PassError> {
        self.gone.push(Gone { candidate, key, row });
        self.relieve(examiner)
    }
}

/// Whether the name is one of mkstemp(3) as editors in place have it (`sedAbC123`), or copiers (rsync: `.name.AbC123`).
fn is_to_be_moved(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let Some((stem, random)) = name.split_last_chunk::<6>() else { return false };
    let copied = stem.len() > 2 && stem.starts_with(b".") && stem.ends_with(b".");
    (copied || stem == b"sed") && random.iter().all(u8::is_ascii_alphanumeric)
}

/// A writer closed it, and none of its times changed: only its content tells whether it wrote through a map; or it is
/// its turn to be read again. Of a file
/// that is too large to be read at once, the background hasher's next reading tells.
fn may_have_changed_unseen(candidate: &Candidate, row: &Row) -> bool {
    (candidate.mark.closed || candidate.reread) && matches!(row.state.content, Content::Digest(_))
}

/// The status of a directory changes with its entries too: only a look at its extended attributes tells.
fn directory_attributes_changed(candidate: &Candidate, row: &Row, meta: &Metadata) -> bool {
    meta.kind == Kind::Directory
        && meta.ctime != row.state.meta.ctime
        && place::extended_of(&candidate.path).is_ok_and(|extended| extended != row.state.extended)
}

/// Which files are read again though nothing says that they changed: with every full examination another part, so that
/// all are within a week. Whoever changes a file and sets all its times back is found by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    number: u64,
    of: u64,
}

impl Turn {
    /// All files are read again within so long.
    const CYCLE: Duration = Duration::from_secs(7 * 86_400);

    /// The part for an examination at `time`, when there is one every `interval`.
    pub fn at(time: Timestamp, interval: Duration) -> Self {
        let interval = interval.as_secs().max(1);
        let of = (Self::CYCLE.as_secs() / interval).max(1);
        let seconds = u64::try_from(time.nanos() / 1_000_000_000).unwrap_or(0);
        Self { number: (seconds / interval) % of, of }
    }

    /// Whether it is the turn of the file with that inode number.
    pub fn is_of(self, inode: u64) -> bool {
        // Fibonacci hashing: neighbours, which are often of one directory, come in different turns.
        (inode.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % self.of == self.number
    }
}

/// A mark for what a walk finds in a tree that is visited for the reason that `mark` gives.
pub(super) fn found_in(mark: &Mark) -> Mark {
    let time = match mark.seen_by {
        SeenBy::Event => mark.last,
        SeenBy::Rescan | SeenBy::Command => clock::now(),
    };
    Mark {
        scope: Scope::Object,
        open: false,
        closed: false,
        first: time,
        last: time,
        count: 1,
        moved_from: None,
        moved_to: None,
        actors: mark.actors.inherited(),
        ..mark.clone()
    }
}

/// What is looked at for a command.
pub(super) fn command_mark(time: Timestamp, known_until: Option<Timestamp>) -> Mark {
    let mark = Mark::rescan(time, Instant::now(), known_until);
    Mark { seen_by: SeenBy::Command, ..mark }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_editors_and_copiers_move_are_told_from_others() {
        for name in ["sedAbC123", ".report.txt.x9Z0aa", ".a.000000"] {
            assert!(is_to_be_moved(Path::new("/etc").join(name).as_path()), "{name}");
        }
        for name in
            ["", "sed", "sedan12", "sedAbC12_", "used.AbC123", ".AbC123", "..AbC123", "a.AbC123", ".vimrc"]
        {
            assert!(!is_to_be_moved(Path::new("/etc").join(name).as_path()), "{name}");
        }
    }

    #[test]
    fn every_file_has_its_turn_once_a_week() {
        let interval = Duration::from_secs(6 * 3_600);
        let turns = |inode| {
            (0..28u64).filter(move |round| {
                let time = Timestamp::from_seconds(1_000_000 + i64::try_from(round * 21_600).unwrap());
                Turn::at(time, interval).is_of(inode)
            })
        };
        assert!((0..2_000).all(|inode| turns(inode).count() == 1));
        let first = Turn::at(Timestamp::from_seconds(0), interval);
        let due = (0..28_000).filter(|inode| first.is_of(*inode)).count();
        assert!((500..2_000).contains(&due), "{due}");
        // Longer than the cycle: all of them each time.
        let seldom = Turn::at(Timestamp::from_seconds(77), Duration::from_secs(30 * 86_400));
        assert!((0..100).all(|inode| seldom.is_of(inode)));
    }
}
