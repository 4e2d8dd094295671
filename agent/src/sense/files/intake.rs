//! Taking a first baseline: what directories hold is gathered, over many directories because most hold little, and
//! then looked at together by two threads. No findings.
//!
//! **Promise.** A directory is marked as listed only after all its entries are in the baseline; whatever else looks at
//! the baseline between two directories finds nothing half taken, because [`Pass::take_in`] comes first.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::baseline::{Key, Row, Write};
use super::dirty::Mark;
use super::examine::{BUFFER_BYTES, examine_entry};
use super::examiner::{Examiner, PassError};
use super::object::{Content, Kind, Metadata, ObjectState};
use super::pass::{Pass, found_in};
use crate::detect::files::quiet::Quiet;
use crate::sys::{self, DiskPriority};

/// Objects that are taken together.
const OBJECTS_MAX: usize = 512;
/// Bytes of files that are taken together: other changes wait no longer than reading these takes.
const BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Directories that are open at once because entries of theirs wait.
const DIRECTORIES_MAX: usize = 128;
/// For fewer objects the second thread is not woken.
const ALONE_OBJECTS_MAX: usize = 8;

/// An object that is to be taken.
pub struct Waiting {
    /// Where it is.
    pub directory: Arc<OwnedFd>,
    /// Its path.
    pub path: PathBuf,
    /// Where its row will stand.
    pub key: Key,
    /// Its row, if it has one.
    pub row: Option<Row>,
    /// As it was listed.
    pub seen: Metadata,
}

/// What waits.
#[derive(Default)]
pub struct Intake {
    objects: Vec<Waiting>,
    bytes: u64,
    /// Directories that they hold open.
    open: usize,
    /// Rows of directories whose entries are all among the objects, or taken already.
    listed: Vec<(Key, Row)>,
    crew: Option<Crew>,
}

impl Pass {
    /// Adds an object; takes what has gathered when that is enough.
    pub(super) fn gather(
        &mut self,
        examiner: &mut Examiner,
        object: Waiting,
        mark: &Mark,
    ) -> Result<(), PassError> {
        if object.seen.kind == Kind::File {
            self.intake.bytes += object.seen.size.min(examiner.limit(&object.path));
        }
        let last = self.intake.objects.last();
        let same = last.is_some_and(|last| Arc::ptr_eq(&last.directory, &object.directory));
        self.intake.open += usize::from(!same);
        self.intake.objects.push(object);
        if self.intake.is_full() { self.take_in(examiner, mark) } else { Ok(()) }
    }

    /// The listing of a directory is over and complete: from when all is taken, another entry in it is news.
    pub(super) fn gather_listed(
        &mut self,
        examiner: &mut Examiner,
        key: Key,
        row: Row,
        mark: &Mark,
    ) -> Result<(), PassError> {
        self.intake.listed.push((key, row));
        if self.intake.is_full() { self.take_in(examiner, mark) } else { Ok(()) }
    }

    /// Takes all that has gathered into the baseline.
    pub(super) fn take_in(&mut self, examiner: &mut Examiner, mark: &Mark) -> Result<(), PassError> {
        let objects = std::mem::take(&mut self.intake.objects);
        let listed = std::mem::take(&mut self.intake.listed);
        (self.intake.bytes, self.intake.open) = (0, 0);
        if objects.is_empty() && listed.is_empty() {
            return Ok(());
        }
        let looked_at = self.intake.examine_all(objects, examiner);
        let view = examiner.view();
        let mut writes = Vec::with_capacity(looked_at.len() + listed.len());
        for (Waiting { path, key, row, .. }, state) in looked_at {
            let state = match state {
                Ok(Some(state)) => state,
                // Gone again: nothing to take.
                Ok(None) => continue,
                Err(_) => {
                    self.fail(examiner);
                    continue;
                }
            };
            examiner.shared.spending.on_read(&view.watched, &path, &state);
            writes.extend(take_object(examiner, path, key, row, state, mark));
        }
        writes.extend(listed.into_iter().map(|(key, row)| Write::Put(key, Row { listed: true, ..row })));
        // In the order in which the database keeps them, it touches each page of it once.
        writes.sort_by(|left, right| left.key().cmp(&right.key()));
        examiner.put(writes)?;
        self.check(examiner)
    }

    /// Takes one directory at once: what is beneath it can be visited from then on.
    pub(super) fn take_directory(
        &mut self,
        examiner: &mut Examiner,
        object: Waiting,
        mark: &Mark,
    ) -> Result<(), PassError> {
        let Waiting { directory, path, key, row, seen } = object;
        let limit = examiner.limit(&path);
        match examine_entry(directory.as_fd(), &key.name, &seen, limit, &mut examiner.buffer) {
            Ok(Some(state)) => {
                let writes = take_object(examiner, path, key, row, state, mark);
                examiner.put(writes.collect())
            }
            Ok(None) => Ok(()),
            Err(_) => {
                self.fail(examiner);
                Ok(())
            }
        }
    }
}

fn take_object(
    examiner: &mut Examiner,
    path: PathBuf,
    key: Key,
    row: Option<Row>,
    state: ObjectState,
    mark: &Mark,
) -> impl Iterator<Item = Write> + use<> {
    // What the buffer holds may be another's: it is read again where it is kept.
    examiner.take_text(&path, Some(&state), row.as_ref().map(|row| &row.state));
    let held = row.as_ref().and_then(|row| row.id);
    let is_directory = state.meta.kind == Kind::Directory;
    let id = is_directory.then(|| held.unwrap_or_else(|| examiner.baseline.new_id()));
    if state.content == Content::Pending {
        examiner.queue_large(path, found_in(mark));
    }
    let listed = row.as_ref().is_some_and(|row| row.listed && is_directory);
    let beneath = held.filter(|_| !is_directory).map(Write::RemoveBeneath);
    beneath.into_iter().chain([Write::Put(key, Row { id, state, listed, absent: false })])
}

type LookedAt = (Waiting, io::Result<Option<ObjectState>>);

impl Intake {
    fn is_full(&self) -> bool {
        let directories = self.open.max(self.listed.len());
        self.objects.len() >= OBJECTS_MAX || self.bytes >= BYTES_MAX || directories >= DIRECTORIES_MAX
    }

    /// Looks at many objects with two threads, when there are enough of them.
    fn examine_all(&mut self, objects: Vec<Waiting>, examiner: &mut Examiner) -> Vec<LookedAt> {
        let (limit, quiet) = (examiner.hash_bytes_max, Arc::clone(&examiner.detector.quiet));
        let worth = objects.len() > ALONE_OBJECTS_MAX;
        let batch = Arc::new(Batch { objects, next: AtomicUsize::new(0), limit, quiet });
        let helped = worth && self.crew.get_or_insert_with(Crew::start).help(&batch);
        let mine = batch.work(&mut examiner.buffer);
        let theirs = if helped { self.crew.as_ref().and_then(Crew::result) } else { None };
        let mut states: Vec<_> = batch.objects.iter().map(|_| None).collect();
        for (at, state) in mine.into_iter().chain(theirs.unwrap_or_default()) {
            if let Some(slot) = states.get_mut(at) {
                *slot = Some(state);
            }
        }
        // The helper gives its hold up before it answers.
        let objects = Arc::try_unwrap(batch).map(|batch| batch.objects).unwrap_or_default();
        let unknown = || Err(io::Error::from_raw_os_error(libc::EAGAIN));
        objects
            .into_iter()
            .zip(states)
            .map(|(object, state)| (object, state.unwrap_or_else(unknown)))
            .collect()
    }
}

/// Objects of which each thread takes the next.
struct Batch {
    objects: Vec<Waiting>,
    next: AtomicUsize,
    limit: u64,
    quiet: Arc<Quiet>,
}

type Looks = Vec<(usize, io::Result<Option<ObjectState>>)>;

impl Batch {
    fn work(&self, buffer: &mut Vec<u8>) -> Looks {
        let mut done = Vec::with_capacity(self.objects.len());
        while let at = self.next.fetch_add(1, Ordering::Relaxed)
            && let Some(object) = self.objects.get(at)
        {
            let name = &object.key.name;
            let limit = self.quiet.hash_bytes_max(&object.path, self.limit);
            let state = examine_entry(object.directory.as_fd(), name, &object.seen, limit, buffer);
            done.push((at, state));
        }
        done
    }
}

/// The second thread; it ends with the pass.
struct Crew {
    batches: Option<SyncSender<Arc<Batch>>>,
    results: Receiver<Looks>,
    thread: Option<JoinHandle<()>>,
}

impl Crew {
    fn start() -> Self {
        let (batches, inbox) = sync_channel::<Arc<Batch>>(1);
        let (outbox, results) = sync_channel(1);
        let work = move || {
            // Without it the disk is shared evenly.
            let _idle = sys::set_disk_priority(DiskPriority::Idle).is_ok();
            let mut buffer = Vec::with_capacity(BUFFER_BYTES);
            while let Ok(batch) = inbox.recv() {
                let looks = batch.work(&mut buffer);
                drop(batch);
                if outbox.send(looks).is_err() {
                    return;
                }
            }
        };
        // Without the thread the work is done alone.
        let thread = std::thread::Builder::new().name("files-help".to_owned()).spawn(work).ok();
        Self { batches: Some(batches), results, thread }
    }

    /// Whether the helper takes part.
    fn help(&self, batch: &Arc<Batch>) -> bool {
        self.batches.as_ref().is_some_and(|batches| batches.send(Arc::clone(batch)).is_ok())
    }

    fn result(&self) -> Option<Looks> {
        self.results.recv().ok()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the second thread of a baseline panicked");
        }
    }
}
