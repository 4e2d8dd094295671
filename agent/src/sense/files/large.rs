//! Files beyond `hash_bytes_max` are hashed by a thread of their own, of the lowest priority, one at a time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ring::digest;

use super::dirty::{Mark, Wake};
use super::examine::{BUFFER_BYTES, open_file};
use super::extended::Extended;
use super::object::{Content, ObjectState};
use super::place;
use super::traits::Traits;
use crate::sense::{SensorError, SensorHandle};
use crate::sys::{self, DiskPriority, Stop};

/// Files that may wait; more are left for the next full examination.
const WAITING_MAX: usize = 256;
/// Bytes a second, at most.
const BYTES_A_SECOND: u64 = 64 * 1024 * 1024;
/// Bytes between two pauses.
const STRETCH: u64 = 8 * 1024 * 1024;

/// A file to hash, and the mark that asked for it.
pub type Job = (PathBuf, Mark);

/// The worker's hold on the thread. Dropping it ends the thread after the block it is at.
pub struct Large {
    jobs: SyncSender<Job>,
    done: Receiver<(Job, Option<ObjectState>)>,
    /// By whom what hashing them shows was accepted beforehand, if it was.
    waiting: HashMap<PathBuf, Option<String>>,
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
                let state = hash(&job.0, &stop);
                if stop.is_set() || results.send((job, state)).is_err() {
                    return;
                }
                wake.ring();
            }
        })?;
        Ok(Self { jobs, done, waiting: HashMap::new() })
    }

    /// Queues a file unless it waits already; tells whether it waits now.
    pub fn queue(&mut self, path: PathBuf, mark: Mark) -> bool {
        if self.waiting.contains_key(&path) {
            return true;
        }
        let queued = self.waiting.len() < WAITING_MAX && self.jobs.try_send((path.clone(), mark)).is_ok();
        if queued {
            self.waiting.insert(path, None);
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
        waiting.map(|(_, accepted)| *accepted = Some(by.to_owned())).fold(0, |count, ()| count + 1)
    }

    /// A file that is done.
    pub fn next_done(&mut self) -> Option<Done> {
        let (job, state) = self.done.try_recv().ok()?;
        let accepted_by = self.waiting.remove(&job.0).flatten();
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

fn hash(path: &Path, stop: &Stop) -> Option<ObjectState> {
    let file = open_file(path).ok()?;
    let before = place::metadata(&file).ok()?;
    let started = crate::clock::coarse();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut context = digest::Context::new(&digest::SHA256);
    let mut traits = Traits::default();
    let (mut total, mut since) = (0u64, (0u64, Instant::now()));
    loop {
        let count = match rustix::io::read(&file, &mut buffer[..]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return None,
        };
        let block = buffer.get(..count)?;
        if total == 0 {
            traits = Traits::of(block);
        }
        context.update(block);
        total += u64::try_from(count).ok()?;
        if total - since.0 >= STRETCH {
            // Whoever grows it faster than it is read is not waited for.
            if total > before.size || pause(total - since.0, since.1, stop) {
                return None;
            }
            since = (total, Instant::now());
        }
    }
    let extended = Extended::read(&file, false);
    let after = place::metadata(&file).ok()?;
    if !after.same_as(&before) {
        return None;
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    let racy = after.ctime >= started.nanos();
    Some(ObjectState { meta: after, content: Content::Digest(digest), racy, extended, traits })
}

/// Waits until `bytes` since `from` are no more than the rate permits; tells whether to stop.
fn pause(bytes: u64, from: Instant, stop: &Stop) -> bool {
    let due = Duration::from_millis(bytes.saturating_mul(1_000) / BYTES_A_SECOND);
    stop.wait(due.saturating_sub(from.elapsed()))
}
