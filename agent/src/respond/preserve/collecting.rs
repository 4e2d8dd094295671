//! The thread that collects one bundle, which yields to all else.
//!
//! What it reads may never answer, and then nothing ends it: it is given up after [`GIVE_UP_AFTER`] so that the next can begin, and left
//! behind when the agent stops. It holds no more than the spool; the process's end ends it, unless the kernel has it wait for a
//! file system that is gone, until that is given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::Duration;

use picket_protocol::action::Process;
use picket_protocol::evidence::{FORMAT, Head, Sealed};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::bundle::Stopped;
use super::collect::{COLLECT_WITHIN, Collection};
use super::state::Preserving;
use super::{Context, Job};
use crate::respond::processes::Named;

/// Pause before a full queue is tried again.
const SEND_AGAIN: Duration = Duration::from_millis(100);

/// How long after the time of collecting is over, or after it was told to end, it may take to end.
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);
/// How long it may take to end when the agent stops.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// Pause before it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// See the module.
pub(super) struct Collecting {
    /// For whom: see [`Preserving::id`].
    pub id: Uuid,
    /// When it is given up, by the clock since boot.
    until: Duration,
    cancel: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Collecting {
    /// Begins; the result comes as a job.
    ///
    /// # Errors
    /// A sentence for the receipt.
    pub fn begin(context: &Context, jobs: &SyncSender<Job>, act: Preserving) -> Result<Self, String> {
        let id = act.id;
        let until = crate::clock::since_boot() + COLLECT_WITHIN + GIVE_UP_AFTER;
        let cancel = Arc::new(AtomicBool::new(false));
        let (context, jobs, cancelled) = (context.clone(), jobs.clone(), Arc::clone(&cancel));
        let body = move || {
            let result = process(act.process.as_ref(), context.booted).and_then(|started| {
                collect(&context, &act, started, &cancelled).map_err(|error| error.to_string())
            });
            let mut job = Job::Collected(id, result);
            // Nobody takes it when the agent stops.
            while let Err(TrySendError::Full(back)) = jobs.try_send(job) {
                if context.stop.wait(SEND_AGAIN) {
                    return;
                }
                job = back;
            }
        };
        let thread = std::thread::Builder::new().name("collect".to_owned()).spawn(body);
        let thread = thread.map_err(|error| format!("no thread can be started: {error}"))?;
        Ok(Self { id, until, cancel, thread })
    }

    /// Has it end soon.
    pub fn cancel(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        self.until = self.until.min(crate::clock::since_boot() + GIVE_UP_AFTER);
    }

    /// Whether it does not come to its end.
    pub fn is_overdue(&self) -> bool {
        crate::clock::since_boot() >= self.until
    }

    /// Waits for its end as long as a stop allows, and leaves it behind then.
    pub fn join(self) {
        let until = crate::clock::since_boot() + STOP_WITHIN;
        while !self.thread.is_finished() {
            if crate::clock::since_boot() >= until {
                tracing::error!(
                    "the thread that collects evidence waits for what does not answer, and is left behind"
                );
                return;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        if self.thread.join().is_err() {
            tracing::error!("the thread that collects evidence panicked");
        }
    }
}

/// When the process that is named began, in ticks; an error when it is another one, or the agent.
pub(super) fn process(process: Option<&Process>, booted: Timestamp) -> Result<Option<u64>, String> {
    let Some(process) = process else { return Ok(None) };
    let named = Named { pid: process.pid, started: process.started, sha256: &process.sha256 };
    let found = named.identify(booted)?;
    let own = std::fs::metadata("/proc/self/exe").ok();
    let theirs = std::fs::metadata(format!("/proc/{}/exe", process.pid)).ok();
    let file = |metadata: std::fs::Metadata| {
        use std::os::unix::fs::MetadataExt as _;
        (metadata.dev(), metadata.ino())
    };
    if own.map(file) == theirs.map(file) {
        return Err("that process is the agent, whose memory holds its keys".to_owned());
    }
    Ok(Some(found.started))
}

fn collect(
    context: &Context,
    act: &Preserving,
    started: Option<u64>,
    cancel: &AtomicBool,
) -> Result<Sealed, Stopped> {
    let until = crate::clock::since_boot().saturating_add(COLLECT_WITHIN);
    let may_go_on = || match () {
        () if cancel.load(Ordering::Relaxed) || context.stop.is_set() => Err(Stopped::Cancelled),
        () if crate::clock::since_boot() >= until => Err(Stopped::Late),
        () => Ok(()),
    };
    let head = Head {
        format: FORMAT.to_owned(),
        command: act.id,
        agent: act.agent,
        began: crate::clock::now(),
        profiles: act.profiles.clone(),
        paths: act.paths.clone(),
        process: act.process.clone(),
    };
    let collection = Collection {
        head,
        recipients: &act.recipients,
        started,
        own: &context.own,
        spool: &context.spool,
        sealed_max: context.bundle_max,
    };
    collection.run(&may_go_on)
}
