//! Walking a tree: every directory is listed and compared with what the baseline has of it. Memory grows with the
//! depth of the tree, not with its breadth: which directory is next is asked of the baseline.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, RawDir};

use super::baseline::{Key, Row, Write};
use super::dirty::Mark;
use super::examiner::{Examiner, PassError};
use super::intake::Waiting;
use super::object::Kind;
use super::pass::{Candidate, Pass, found_in};
use super::place;

/// Bytes of directory entries read at once.
const LISTING_BYTES: usize = 16 * 1024;
/// Names of directories that are asked of the baseline at once.
const AHEAD_MAX: usize = 32;
/// Marks that came meanwhile are served so often.
const SERVE: Duration = Duration::from_millis(20);
/// Marks served at once.
const SERVED_MAX: usize = 256;
/// Entries between two looks at the clock.
const CHECK_ENTRIES: u64 = 512;

/// One directory on the way down.
struct Frame {
    id: i64,
    /// The next directories in it.
    ahead: VecDeque<(Vec<u8>, i64)>,
    /// The last of those that were asked for; there may be others behind it.
    cursor: Option<Vec<u8>>,
}

impl Frame {
    fn new(id: i64) -> Self {
        Self { id, ahead: VecDeque::new(), cursor: Some(Vec::new()) }
    }

    fn next(&mut self, examiner: &Examiner) -> Result<Option<(Vec<u8>, i64)>, PassError> {
        if self.ahead.is_empty()
            && let Some(cursor) = self.cursor.take()
        {
            let page = examiner.baseline.entries(self.id, &cursor, AHEAD_MAX, true)?;
            self.cursor = page.last().filter(|_| page.len() == AHEAD_MAX).map(|(name, _)| name.clone());
            self.ahead.extend(page.into_iter().filter_map(|(name, row)| Some((name, row.id?))));
        }
        Ok(self.ahead.pop_front())
    }
}

/// A listing that is under way.
struct Listing<'a> {
    path: &'a Path,
    fd: Arc<OwnedFd>,
    id: i64,
    mark: Mark,
    /// Its entries are all known, so that another one is news.
    listed: bool,
    /// It had entries in the baseline when the listing began.
    had_entries: bool,
    matched: u64,
    complete: bool,
    /// There are directories in it.
    parent: bool,
}

impl Pass {
    /// Visits a directory that is in the baseline, and all beneath. Anything else is passed over.
    pub fn walk(&mut self, examiner: &mut Examiner, root: &Path, mark: &Mark) -> Result<(), PassError> {
        let mut path = root.to_path_buf();
        let mut frames = Vec::new();
        let Some((id, _)) = directory(examiner, root)? else { return Ok(()) };
        if self.visit(examiner, &path, id, mark)? {
            frames.push(Frame::new(id));
        }
        while let Some(frame) = frames.last_mut() {
            let Some((name, id)) = frame.next(examiner)? else {
                frames.pop();
                if !frames.is_empty() {
                    path.pop();
                }
                continue;
            };
            path.push(OsStr::from_bytes(&name));
            if self.visit(examiner, &path, id, mark)? {
                frames.push(Frame::new(id));
            } else {
                path.pop();
            }
            self.serve(examiner, mark)?;
        }
        self.take_in(examiner, mark)
    }

    /// Looks at other marks between two directories of a long walk.
    fn serve(&mut self, examiner: &mut Examiner, mark: &Mark) -> Result<(), PassError> {
        self.check(examiner)?;
        examiner.status.works();
        let now = Instant::now();
        if !self.long || self.served.is_some_and(|served| now.saturating_duration_since(served) < SERVE) {
            return Ok(());
        }
        self.served = Some(now);
        examiner.baseline.release()?;
        examiner.show_progress(self);
        // Whoever asked waits for the answer; the rest of the time the host comes first.
        if self.news.is_none() {
            let rest = examiner.pressure.rest(now);
            examiner.stop.wait(rest);
        }
        let marks = examiner.take_marks(now, SERVED_MAX);
        if marks.is_empty() {
            return Ok(());
        }
        self.take_in(examiner, mark)?;
        Pass::default().run(examiner, marks)
    }

    /// Looks at what a directory holds; tells whether there may be directories beneath it to be visited.
    fn visit(
        &mut self,
        examiner: &mut Examiner,
        path: &Path,
        id: i64,
        mark: &Mark,
    ) -> Result<bool, PassError> {
        examiner.rung.watch_directory(path);
        let fd = match place::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK) {
            Ok(fd) => Arc::new(fd),
            // Its own entry tells that it is gone.
            Err(error) if place::is_absent(&error) => return Ok(false),
            Err(_) => {
                self.fail(examiner);
                // What is beneath may be open to a look all the same.
                return Ok(true);
            }
        };
        examiner.baseline.hold()?;
        // It may have been moved since the walk saw its row.
        let Some((key, row)) = located(examiner, path)?.filter(|(_, row)| row.id == Some(id)) else {
            return Ok(false);
        };
        let listed = row.listed;
        let had_entries = examiner.baseline.entry_count(id)? != Some(0);
        let mark = found_in(mark);
        let mut listing =
            Listing { path, fd, id, mark, listed, had_entries, matched: 0, complete: true, parent: false };
        self.list(examiner, &mut listing)?;
        let Listing { complete, parent, mark, .. } = &listing;
        if *complete {
            self.find_missing(examiner, &listing)?;
            if !listed {
                self.gather_listed(examiner, key, row, mark)?;
            }
        }
        Ok(*parent || !complete)
    }

    fn list(&mut self, examiner: &mut Examiner, listing: &mut Listing<'_>) -> Result<(), PassError> {
        let view = examiner.view();
        let mut buffer = vec![MaybeUninit::uninit(); LISTING_BYTES];
        let fd = Arc::clone(&listing.fd);
        let mut entries = RawDir::new(&fd, &mut buffer);
        let mut child = listing.path.to_path_buf();
        let mut seen: u64 = 0;
        while let Some(entry) = entries.next() {
            let Ok(entry) = entry else {
                listing.complete = false;
                self.fail(examiner);
                break;
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            seen += 1;
            if seen.is_multiple_of(CHECK_ENTRIES) {
                self.check(examiner)?;
            }
            child.push(OsStr::from_bytes(name));
            if !view.watched.leaves_out(&child) {
                self.list_entry(examiner, listing, &child, name)?;
            }
            child.pop();
        }
        Ok(())
    }

    fn list_entry(
        &mut self,
        examiner: &mut Examiner,
        listing: &mut Listing<'_>,
        path: &Path,
        name: &[u8],
    ) -> Result<(), PassError> {
        let meta = match place::metadata_at(&listing.fd, name) {
            Ok(Some(meta)) => meta,
            Ok(None) => return Ok(()),
            Err(_) => {
                // It is there; nothing more is known of it.
                listing.complete = false;
                self.fail(examiner);
                return Ok(());
            }
        };
        listing.parent |= meta.kind == Kind::Directory;
        self.progress.examined += 1;
        examiner.tally.examined += 1;
        if examiner.logs.covers(path) && meta.kind != Kind::Directory {
            let candidate = Candidate::new(path.to_path_buf(), listing.mark.clone());
            if self.look_at_log(examiner, &candidate, true)? {
                return Ok(());
            }
        }
        examiner.shared.aliases.note(path, &meta);
        let key = Key { parent: listing.id, name: name.to_vec() };
        let row = if listing.had_entries { examiner.baseline.get(&key)? } else { None };
        listing.matched += u64::from(row.is_some());
        if listing.listed {
            let reread = self.reread.is_some_and(|turn| turn.is_of(meta.inode));
            let candidate = Candidate { reread, ..Candidate::new(path.to_path_buf(), listing.mark.clone()) };
            return match &row {
                Some(row) => self.compare_present(examiner, candidate, row, &meta),
                None if self.wait_for_writer(examiner, &candidate, &meta) => Ok(()),
                None => {
                    self.fresh.push(candidate);
                    self.relieve(examiner)
                }
            };
        }
        if row.as_ref().is_some_and(|row| row.state.meta.same_as(&meta) && !row.state.racy) {
            return Ok(());
        }
        let directory = Arc::clone(&listing.fd);
        let object = Waiting { directory, path: path.to_path_buf(), key, row, seen: meta };
        // Its entries need its number.
        if meta.kind == Kind::Directory {
            self.take_directory(examiner, object, &listing.mark)
        } else {
            self.gather(examiner, object, &listing.mark)
        }
    }

    /// Finds what the baseline has of the directory and the disk has not.
    fn find_missing(&mut self, examiner: &mut Examiner, listing: &Listing<'_>) -> Result<(), PassError> {
        if !listing.had_entries || examiner.baseline.entry_count(listing.id)? == Some(listing.matched) {
            return Ok(());
        }
        let view = examiner.view();
        let mut after = Vec::new();
        loop {
            let page = examiner.baseline.entries(listing.id, &after, 256, false)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after.clone_from(last);
            for (name, row) in page {
                let path = listing.path.join(OsStr::from_bytes(&name));
                let key = Key { parent: listing.id, name };
                if view.watched.leaves_out(&path) {
                    // Watched once, and excluded since.
                    examiner.put(forget(key, &row))?;
                    continue;
                }
                if matches!(place::metadata_at(&listing.fd, &key.name), Ok(None)) {
                    if listing.listed {
                        let candidate = Candidate::new(path, listing.mark.clone());
                        self.miss(examiner, candidate, key, row)?;
                    } else {
                        examiner.put(forget(key, &row))?;
                    }
                }
            }
            self.check(examiner)?;
        }
    }
}

/// Drops a row, and what it held, without a word.
pub fn forget(key: Key, row: &Row) -> Vec<Write> {
    row.id.map(Write::RemoveBeneath).into_iter().chain([Write::Remove(key)]).collect()
}

/// The id of the directory at `path`, if the baseline has it there, and whether all its entries are known.
pub fn directory(examiner: &mut Examiner, path: &Path) -> Result<Option<(i64, bool)>, PassError> {
    Ok(located(examiner, path)?.and_then(|(_, row)| Some((row.id?, row.listed))))
}

/// The row of what is at `path`, if the baseline has it there.
fn located(examiner: &mut Examiner, path: &Path) -> Result<Option<(Key, Row)>, PassError> {
    let view = examiner.view();
    let Some(tree) = view.watched.tree_of(path) else { return Ok(None) };
    let located = examiner.baseline.locate(tree, path)?;
    Ok(located.row.filter(|_| located.path == path).map(|row| (located.key, row)))
}
