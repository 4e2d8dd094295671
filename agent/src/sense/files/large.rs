//! Files beyond `hash_bytes_max` are hashed by a thread of their own, of the lowest priority, one at a time. Until then, and
//! beyond [`WHOLE_BYTES_MAX`] for ever, their [`sample`] stands for them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ring::digest;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::dirty::Mark;
use super::examine::{BUFFER_BYTES, open_file};
use super::extended::Extended;
use super::object::{Content, ObjectState};
use super::place;
use super::sample;
use crate::sense::{SensorError, SensorHandle};
use crate::sys::Wake;
use crate::sys::{self, DiskPriority, Stop};

/// Files that may wait; more are left for the next full examination.
const WAITING_MAX: usize = 256;
/// Bytes a second, at most.
const BYTES_A_SECOND: u64 = 64 * 1024 * 1024;
/// Larger files are not read as a whole: that would take the one thread for more than an hour, and the disk with it. What
/// is written to one where no sample looks, its size staying as it is, is not told.
const WHOLE_BYTES_MAX: u64 = 256 * 1024 * 1024 * 1024;
/// Bytes between two pauses.
const STRETCH: u64 = 8 * 1024 * 1024;

/// A file to hash, and the mark that asked for it.
pub type Job = (PathBuf, Mark);

/// The worker's hold on the thread. Dropping it ends the thread after the block it is at.
pub struct Large {
    jobs: SyncSender<Job>,
    done: Receiver<(Job, Option<ObjectState>)>,
    waiting: HashMap<PathBuf, Waiting>,
}

/// What is known of a file that waits or is being hashed.
#[derive(Default)]
struct Waiting {
    /// By whom what hashing it shows was accepted beforehand, if it was.
    accepted_by: Option<String>,
    /// It was marked again since: what is being read may be older than that.
    again: Option<Mark>,
}

/// A file that was read.
pub struct Done {
    /// Which, and why.
    pub job: Job,
    /// None when it changed meanwhile or could not be read.
    pub state: Option<ObjectState>,
    /// What it shows was accepted beforehand.
    pub accepted_by: Option<String>,
}

impl Large {
    /// Starts the thread.
    pub fn start(wake: &Arc<Wake>, stop: &Stop, handle: &mut SensorHandle) -> Result<Self, SensorError> {
        let (jobs, inbox) = sync_channel::<Job>(WAITING_MAX);
        let (results, done) = sync_channel(WAITING_MAX);
        let (wake, stop) = (Arc::clone(wake), stop.clone());
        handle.spawn("files-large", move || {
            yield_to_all();
            while let Ok(job) = inbox.recv() {
                let state = look(&job.0, &stop);
                if stop.is_set() || results.send((job, state)).is_err() {
                    return;
                }
                wake.ring();
            }
        })?;
        Ok(Self { jobs, done, waiting: HashMap::new() })
    }

    /// Queues a file; one that waits already is read once more after that. Tells whether it waits now.
    pub fn queue(&mut self, path: PathBuf, mark: Mark) -> bool {
        if let Some(waiting) = self.waiting.get_mut(&path) {
            waiting.again = Some(mark);
            return true;
        }
        let queued = self.waiting.len() < WAITING_MAX && self.jobs.try_send((path.clone(), mark)).is_ok();
        if queued {
            self.waiting.insert(path, Waiting::default());
        }
        queued
    }

    /// Files that wait or are being hashed.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What hashing the files shows that wait at or beneath `paths` is accepted by `by`; gives how many those are.
    pub fn accept(&mut self, paths: &[PathBuf], by: &str) -> u64 {
        let beneath = |path: &Path| paths.iter().any(|above| path.starts_with(above));
        let waiting = self.waiting.iter_mut().filter(|(path, _)| beneath(path));
        waiting.map(|(_, file)| file.accepted_by = Some(by.to_owned())).fold(0, |count, ()| count + 1)
    }

    /// A file that is done.
    pub fn next_done(&mut self) -> Option<Done> {
        let (job, state) = self.done.try_recv().ok()?;
        let Waiting { mut accepted_by, again } = self.waiting.remove(&job.0).unwrap_or_default();
        if let Some(mark) = again
            && self.queue(job.0.clone(), mark)
            && state.is_none()
            && let Some(waiting) = self.waiting.get_mut(&job.0)
        {
            waiting.accepted_by = accepted_by.take();
        }
        Some(Done { job, state, accepted_by })
    }
}

fn yield_to_all() {
    if let Err(error) = sys::set_disk_priority(DiskPriority::Idle) {
        tracing::debug!(%error, "no idle disk priority");
    }
    // 0 means the calling thread.
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::debug!(%error, "no lower processor priority");
    }
}

/// Reads a file as a whole; beyond [`WHOLE_BYTES_MAX`] its sample is all. None when it changed meanwhile, cannot be read,
/// or the agent stops.
fn look(path: &Path, stop: &Stop) -> Option<ObjectState> {
    let file = open_file(path).ok()?;
    let before = place::metadata(&file).ok()?;
    let started = crate::clock::coarse();
    let (sample, traits) = sample::of(&file, before.size).ok()?;
    let content =
        if before.size > WHOLE_BYTES_MAX { Content::Pending } else { hash(&file, before.size, stop)? };
    let extended = Extended::read(&file, false);
    let after = place::metadata(&file).ok()?;
    let racy = after.ctime >= started.nanos();
    let state = ObjectState { meta: after, content, racy, extended, traits, sample: Some(sample) };
    after.same_as(&before).then_some(state)
}

/// SHA-256 of a file of `size` bytes. Holes are not read: they are known to hold nothing.
fn hash(file: &OwnedFd, size: u64, stop: &Stop) -> Option<Content> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let zeros = vec![0; BUFFER_BYTES];
    let mut context = digest::Context::new(&digest::SHA256);
    let (mut at, mut since) = (0u64, (0u64, Instant::now()));
    // Where the data begins that lies at or behind `at`; the end of the file when there is none.
    let mut data = 0;
    loop {
        if at >= data {
            data = next_data(file, at, size);
        }
        let hole = data.saturating_sub(at);
        let count = if hole > 0 {
            let count = usize::try_from(hole).unwrap_or(usize::MAX).min(BUFFER_BYTES);
            context.update(zeros.get(..count)?);
            count
        } else {
            let count = match rustix::io::pread(file, &mut buffer[..], at) {
                Ok(0) => break,
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(_) => return None,
            };
            context.update(buffer.get(..count)?);
            count
        };
        at += u64::try_from(count).ok()?;
        if at - since.0 >= STRETCH {
            // Whoever grows it faster than it is read is not waited for.
            if at > size || pause(at - since.0, since.1, stop) {
                return None;
            }
            since = (at, Instant::now());
        }
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Some(Content::Digest(digest))
}

/// Where data begins at or behind `at`; `at` where the file system does not tell.
fn next_data(file: &OwnedFd, at: u64, size: u64) -> u64 {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => data.max(at),
        // Nothing but a hole up to the end.
        Err(Errno::NXIO) => size.max(at),
        Err(_) => at,
    }
}

/// Waits until `bytes` since `from` are no more than the rate permits; tells whether to stop.
fn pause(bytes: u64, from: Instant, stop: &Stop) -> bool {
    let due = Duration::from_millis(bytes.saturating_mul(1_000) / BYTES_A_SECOND);
    stop.wait(due.saturating_sub(from.elapsed()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn holes_count_as_what_they_read_as() {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        let size = 3 * STRETCH / 8 + 17;
        file.as_file().set_len(size).unwrap();
        for at in [0, 70_000, size / 2, size - 3] {
            file.as_file().write_all_at(b"abc", at).unwrap();
        }
        let stop = Stop::new().unwrap();
        let whole = std::fs::read(file.path()).unwrap();
        let wanted = Content::Digest(digest::digest(&digest::SHA256, &whole).as_ref().try_into().unwrap());
        let state = look(file.path(), &stop).unwrap();
        assert_eq!((&state.content, state.meta.size), (&wanted, size));
        assert_eq!(state.sample, Some(sample::of(file.as_file(), size).unwrap().0));
        // Without a word of the file system on holes.
        file.as_file().write_all_at(&whole, 0).unwrap();
        assert_eq!(look(file.path(), &stop).unwrap().content, wanted);
        file.as_file().set_len(size + 1).unwrap();
        assert_ne!(look(file.path(), &stop).unwrap().content, wanted);
    }

    #[test]
    fn a_file_that_is_marked_again_while_it_waits_is_read_once_more() {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        file.as_file().set_len(3 * STRETCH).unwrap();
        let (wake, stop, mut handle) =
            (Arc::new(Wake::new().unwrap()), Stop::new().unwrap(), SensorHandle::default());
        let mut large = Large::start(&wake, &stop, &mut handle).unwrap();
        let mark = || Mark::rescan(crate::clock::now(), Instant::now(), None);
        assert!(large.queue(file.path().to_owned(), mark()) && large.queue(file.path().to_owned(), mark()));
        assert_eq!(large.accept(&[file.path().to_owned()], "me"), 1);
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut reads = Vec::new();
        while large.waiting() > 0 {
            assert!(Instant::now() < deadline, "{} reads", reads.len());
            reads.extend(large.next_done().map(|done| done.accepted_by));
        }
        assert_eq!(reads, [Some("me".to_owned()), None]);
        stop.set();
        drop(large);
        handle.join();
    }

    #[test]
    fn nobody_waits_for_the_hash_of_what_is_larger_than_any_disk() {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        file.as_file().set_len(WHOLE_BYTES_MAX + 1).unwrap();
        let state = look(file.path(), &Stop::new().unwrap()).unwrap();
        assert!(state.content == Content::Pending && state.sample.is_some());
    }

    #[test]
    fn the_end_of_the_agent_ends_the_reading() {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        file.as_file().set_len(WHOLE_BYTES_MAX).unwrap();
        let stop = Stop::new().unwrap();
        stop.set();
        assert_eq!(look(file.path(), &stop), None);
    }
}
