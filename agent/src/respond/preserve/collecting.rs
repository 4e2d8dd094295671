//! The thread that collects one bundle, which yields to all else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::Duration;

use picket_protocol::evidence::{FORMAT, Head, Sealed};
use uuid::Uuid;

use super::bundle::Stopped;
use super::collect::{COLLECT_WITHIN, Collection};
use super::state::Preserving;
use super::{Context, Job};
use crate::respond::processes::Named;

/// Pause before a full queue is tried again.
const SEND_AGAIN: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Collecting {
    /// For whom: see [`Preserving::id`].
    pub id: Uuid,
    cancel: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Collecting {
    /// Begins; the result comes as a job.
    ///
    /// # Errors
    /// A sentence for the receipt.
    pub fn begin(context: &Context, jobs: &SyncSender<Job>, act: Preserving) -> Result<Self, String> {
        let (id, started) = (act.id, process(context, &act)?);
        let cancel = Arc::new(AtomicBool::new(false));
        let (context, jobs, cancelled) = (context.clone(), jobs.clone(), Arc::clone(&cancel));
        let body = move || {
            let result = collect(&context, &act, started, &cancelled).map_err(|error| error.to_string());
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
        Ok(Self { id, cancel, thread })
    }

    /// Has it end soon.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// Waits for its end.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the thread that collects evidence panicked");
        }
    }
}

/// When the process that is named began, in ticks; an error when it is another one, or the agent.
fn process(context: &Context, act: &Preserving) -> Result<Option<u64>, String> {
    let Some(process) = &act.process else { return Ok(None) };
    let named = Named { pid: process.pid, started: process.started, sha256: &process.sha256 };
    let found = named.identify(context.booted)?;
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
