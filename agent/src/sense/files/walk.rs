//! Walking a tree: every directory is listed and compared with what the baseline has of it. Memory grows with the
//! depth of the tree, not with its breadth: which directory is next is asked of the baseline.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, RawDir};

use super::baseline::{Key, Row, Write};
use super::dirty::Mark;
use super::examine::examine;
use super::examiner::{Examiner, PassError};
use super::object::{Content, Kind, Metadata, ObjectState};
use super::pass::{Candidate, Pass, found_in};
use super::place;
use crate::sys::{self, DiskPriority};

/// Bytes of directory entries read at once.
const LISTING_BYTES: usize = 16 * 1024;
/// Objects of a first baseline that are taken together.
const CHUNK_OBJECTS_MAX: usize = 256;
/// Bytes of files that are taken together: other changes wait no longer than reading these takes.
const CHUNK_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Below so many bytes and objects a second thread is not worth its start.
const ALONE_OBJECTS_MAX: usize = 8;
/// Marks that came meanwhile are served so often.
const SERVE: Duration = Duration::from_millis(20);
/// Marks served at once.
const SERVED_MAX: usize = 256;
/// Entries between two looks at the clock.
const CHECK_ENTRIES: u64 = 512;

/// One directory on the way down.
struct Frame {
    id: i64,
    /// The last directory in it that was visited.
    cursor: Vec<u8>,
}

/// A listing that is under way.
struct Listing<'a> {
    path: &'a Path,
    fd: &'a OwnedFd,
    id: i64,
    mark: Mark,
    /// Its entries are all known, so that another one is news.
    listed: bool,
    /// It had entries in the baseline when the listing began.
    had_entries: bool,
    matched: u64,
    complete: bool,
    chunk: Vec<(PathBuf, Key, Option<Row>, Metadata)>,
    chunk_bytes: u64,
}

impl Pass {
    /// Visits a directory that is in the baseline, and all beneath. Anything else is passed over.
    pub fn walk(&mut self, examiner: &mut Examiner, root: &Path, mark: &Mark) -> Result<(), PassError> {
        let Some((id, _)) = directory(examiner, root)? else { return Ok(()) };
        let mut path = root.to_path_buf();
        self.visit(examiner, &path, id, mark)?;
        let mut frames = vec![Frame { id, cursor: Vec::new() }];
        while let Some(frame) = frames.last_mut() {
            let Some((name, row)) = examiner.baseline.entries(frame.id, &frame.cursor, 1, true)?.pop() else {
                frames.pop();
                if !frames.is_empty() {
                    path.pop();
                }
                continue;
            };
            path.push(OsStr::from_bytes(&name));
            frame.cursor = name;
            if let Some(id) = row.id {
                self.visit(examiner, &path, id, mark)?;
                frames.push(Frame { id, cursor: Vec::new() });
            } else {
                path.pop();
            }
            self.serve(examiner)?;
        }
        Ok(())
    }

    /// Looks at other marks between two directories of a long walk.
    fn serve(&mut self, examiner: &mut Examiner) -> Result<(), PassError> {
        self.check(examiner)?;
        let now = Instant::now();
        if !self.long || self.served.is_some_and(|served| now.saturating_duration_since(served) < SERVE) {
            return Ok(());
        }
        self.served = Some(now);
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
        Pass::default().run(examiner, marks)
    }

    fn visit(&mut self, examiner: &mut Examiner, path: &Path, id: i64, mark: &Mark) -> Result<(), PassError> {
        examiner.rung.watch_directory(path);
        let fd = match place::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK) {
            Ok(fd) => fd,
            // Its own entry tells that it is gone.
            Err(error) if place::is_absent(&error) => return Ok(()),
            Err(_) => {
                self.fail(examiner);
                return Ok(());
            }
        };
        // It may have been moved since the walk saw its row.
        let Some((_, listed)) = directory(examiner, path)?.filter(|(found, _)| *found == id) else {
            return Ok(());
        };
        let had_entries = examiner.baseline.entry_count(id)? != Some(0);
        let mut listing = Listing {
            path,
            fd: &fd,
            id,
            mark: found_in(mark),
            listed,
            had_entries,
            matched: 0,
            complete: true,
            chunk: Vec::new(),
            chunk_bytes: 0,
        };
        self.list(examiner, &mut listing)?;
        self.take_chunk(examiner, &mut listing)?;
        if listing.complete {
            self.find_missing(examiner, &listing)?;
            if !listed {
                mark_listed(examiner, path)?;
            }
        }
        Ok(())
    }

    fn list(&mut self, examiner: &mut Examiner, listing: &mut Listing<'_>) -> Result<(), PassError> {
        let view = examiner.view();
        let mut buffer = vec![MaybeUninit::uninit(); LISTING_BYTES];
        let mut entries = RawDir::new(listing.fd, &mut buffer);
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
        let meta = match place::metadata_at(listing.fd, name) {
            Ok(Some(meta)) => meta,
            Ok(None) => return Ok(()),
            Err(_) => {
                // It is there; nothing more is known of it.
                listing.complete = false;
                self.fail(examiner);
                return Ok(());
            }
        };
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
        listing.chunk_bytes +=
            if meta.kind == Kind::File { meta.size.min(examiner.hash_bytes_max) } else { 0 };
        listing.chunk.push((path.to_path_buf(), key, row, meta));
        if listing.chunk.len() >= CHUNK_OBJECTS_MAX || listing.chunk_bytes >= CHUNK_BYTES_MAX {
            self.take_chunk(examiner, listing)?;
        }
        Ok(())
    }

    /// Takes objects into a first baseline: no findings.
    fn take_chunk(&mut self, examiner: &mut Examiner, listing: &mut Listing<'_>) -> Result<(), PassError> {
        let chunk = std::mem::take(&mut listing.chunk);
        listing.chunk_bytes = 0;
        let paths: Vec<&Path> = chunk.iter().map(|(path, ..)| path.as_path()).collect();
        let states = examine_all(&paths, examiner);
        let mut writes = Vec::with_capacity(chunk.len());
        for ((path, key, row, _), state) in chunk.into_iter().zip(states) {
            let state = match state {
                Ok(Some(state)) => state,
                // Gone again: nothing to take.
                Ok(None) => continue,
                Err(_) => {
                    self.fail(examiner);
                    continue;
                }
            };
            // What the buffer holds is another's: it is read again where it is kept.
            examiner.take_text(&path, Some(&state), row.as_ref().map(|row| &row.state));
            let id = (state.meta.kind == Kind::Directory)
                .then(|| row.as_ref().and_then(|row| row.id).unwrap_or_else(|| examiner.baseline.new_id()));
            if state.content == Content::Pending {
                examiner.large.queue(path, listing.mark.clone());
            }
            let listed = row.as_ref().is_some_and(|row| row.listed && id.is_some());
            writes.push(Write::Put(key, Row { id, state, listed, absent: false }));
        }
        examiner.put(writes)?;
        self.check(examiner)
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
                if matches!(place::metadata_at(listing.fd, &key.name), Ok(None)) {
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
    let view = examiner.view();
    let Some(tree) = view.watched.tree_of(path) else { return Ok(None) };
    let located = examiner.baseline.locate(tree, path)?;
    Ok(located.row.filter(|_| located.path == path).and_then(|row| Some((row.id?, row.listed))))
}

/// From now on another entry in the directory is news.
fn mark_listed(examiner: &mut Examiner, path: &Path) -> Result<(), PassError> {
    let view = examiner.view();
    let Some(tree) = view.watched.tree_of(path) else { return Ok(()) };
    let located = examiner.baseline.locate(tree, path)?;
    match located.row {
        Some(row) if located.path == path && row.id.is_some() => {
            examiner.put(vec![Write::Put(located.key, Row { listed: true, ..row })])
        }
        _ => Ok(()),
    }
}

/// Looks at many objects with two threads, when there are enough of them.
fn examine_all(paths: &[&Path], examiner: &mut Examiner) -> Vec<io::Result<Option<ObjectState>>> {
    let limit = examiner.hash_bytes_max;
    if paths.len() <= ALONE_OBJECTS_MAX {
        let buffer = &mut examiner.buffer;
        return paths.iter().map(|path| examine(path, limit, buffer)).collect();
    }
    let next = AtomicUsize::new(0);
    let work = |buffer: &mut Vec<u8>| {
        let mut done = Vec::new();
        while let at = next.fetch_add(1, Ordering::Relaxed)
            && let Some(path) = paths.get(at)
        {
            done.push((at, examine(path, limit, buffer)));
        }
        done
    };
    let mut states: Vec<_> = paths.iter().map(|_| Ok(None)).collect();
    let (mine, theirs) = std::thread::scope(|scope| {
        let helper = scope.spawn(|| {
            // Without it the disk is shared evenly.
            let _idle = sys::set_disk_priority(DiskPriority::Idle).is_ok();
            work(&mut Vec::new())
        });
        (work(&mut examiner.buffer), helper.join().unwrap_or_default())
    });
    for (at, state) in mine.into_iter().chain(theirs) {
        if let Some(slot) = states.get_mut(at) {
            *slot = state;
        }
    }
    states
}
