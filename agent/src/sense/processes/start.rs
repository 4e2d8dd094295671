//! The ladder of the process table, and its thread.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use picket_protocol::time::Timestamp;
use rustix::event::epoll;

use super::Processes;
use super::bpf::Bpf;
use super::connector::Connector;
use super::feed::Feed;
use super::keeper::Keeper;
use super::table::Table;
use crate::clock;
use crate::sense::{RungProbe, SensorError, SensorHandle, SensorProbe, SensorState, SensorStatus};
use crate::sys::Stop;

/// The rung on which the kernel tells everything.
pub const BPF: &str = "bpf";
/// The rung on which the kernel tells numbers.
pub const CONNECTOR: &str = "connector";
/// The rung on which only what still runs is known.
pub const PROC: &str = "proc";

/// The namespace of processes in which the host itself lives (`PROC_PID_INIT_INO`).
const HOST_NAMESPACE: &str = "pid:[4026531836]";

/// What tests set, to reach each rung and each bound quickly.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    /// The best rung that may be taken.
    pub best: Option<String>,
    /// Bytes of the ring of the rung `bpf`.
    pub ring_bytes: Option<u32>,
}

/// Tries the ladder, as it is used at start.
pub fn probe() -> SensorProbe {
    ladder(&Tuning::default(), true).0
}

/// Starts on the best rung that works. Needs `CAP_SYS_PTRACE` to see what others run that run already, and
/// `CAP_SYS_ADMIN` for the rung `bpf` (or `CAP_BPF` and `CAP_PERFMON`).
///
/// # Errors
/// When no thread can be started.
pub fn start(
    tuning: &Tuning,
    status: &SensorStatus,
    stop: &Stop,
) -> Result<(SensorHandle, Processes), SensorError> {
    let (ladder, feed) = ladder(tuning, false);
    let chosen = feed.known_by();
    let refused: Vec<String> = ladder
        .rungs
        .iter()
        .take_while(|rung| rung.rung != chosen.name())
        .map(|rung| format!("{} is refused: {}", rung.rung, rung.reason))
        .collect();
    status.update(|report| {
        report.ladder = ladder.rungs;
        report.rung = chosen.name().to_owned();
        report.state = if refused.is_empty() { SensorState::Running } else { SensorState::Degraded };
        report.reason = refused.join("; ");
    });
    let boot = clock::now().nanos().saturating_sub(nanos_since_boot());
    let table = Table::new(Timestamp::from_nanos(boot), chosen);
    let keeper = Arc::new(Mutex::new(Keeper::new(table, feed, status.clone())));
    let mut handle = SensorHandle::default();
    if let Some(wait) = Wait::new(&keeper, stop).map_err(|source| SensorError::System {
        doing: "wait for the kernel's records of processes",
        source,
    })? {
        let (weak, stop) = (Arc::downgrade(&keeper), stop.clone());
        handle.spawn("processes", move || wait.run(&weak, &stop))?;
    }
    Ok((handle, Processes(Some(keeper))))
}

/// Every rung down to the first that works, or all when `whole`, with that one started.
fn ladder(tuning: &Tuning, whole: bool) -> (SensorProbe, Feed) {
    let mut rungs = Vec::new();
    let mut best = None;
    let allowed = |name: &str| tuning.best.as_deref().is_none_or(|best| rank(best) <= rank(name));
    for name in [BPF, CONNECTOR, PROC] {
        if best.is_some() && !whole {
            break;
        }
        let tried = match name {
            _ if !allowed(name) => Err("not to be used".to_owned()),
            BPF => start_bpf(tuning).map(Box::new).map(Feed::Bpf),
            CONNECTOR => Connector::start().map(Feed::Connector),
            _ => Ok(Feed::Proc),
        };
        let (usable, reason) = match &tried {
            Ok(feed) => (true, gives(feed).to_owned()),
            Err(reason) => (false, reason.clone()),
        };
        rungs.push(RungProbe { rung: name.to_owned(), usable, reason });
        best = best.or(tried.ok());
    }
    (SensorProbe { sensor: "processes".to_owned(), rungs }, best.unwrap_or(Feed::Proc))
}

fn rank(name: &str) -> usize {
    [BPF, CONNECTOR, PROC].iter().position(|rung| *rung == name).unwrap_or(0)
}

fn gives(feed: &Feed) -> &'static str {
    match feed {
        Feed::Bpf(_) => "names who changed a file, however short he lived",
        Feed::Connector(_) => "names who changed a file, if he lived some milliseconds",
        Feed::Proc => "names who changed a file, if he still runs when it is looked at",
    }
}

/// The kernel tells numbers of the host's namespace; in another they would name others.
fn start_bpf(tuning: &Tuning) -> Result<Bpf, String> {
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    if namespace.as_os_str() != HOST_NAMESPACE {
        return Err(format!("bpf: the agent is in a process namespace of its own ({})", namespace.display()));
    }
    Bpf::start(tuning.ring_bytes)
}

fn nanos_since_boot() -> i64 {
    i64::try_from(clock::since_boot().as_nanos()).unwrap_or(i64::MAX)
}

/// Waits for the kernel to say that much has gathered.
struct Wait {
    epoll: std::os::fd::OwnedFd,
}

impl Wait {
    /// None when the feed never says anything.
    fn new(keeper: &Mutex<Keeper>, stop: &Stop) -> io::Result<Option<Self>> {
        let keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(signal) = keeper.feed().signal() else { return Ok(None) };
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Told once each time that the kernel wakes somebody, not as long as anything is there.
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&set, signal, epoll::EventData::new_u64(0), edge)?;
        epoll::add(&set, stop, epoll::EventData::new_u64(1), epoll::EventFlags::IN)?;
        Ok(Some(Self { epoll: set }))
    }

    fn run(&self, keeper: &Weak<Mutex<Keeper>>, stop: &Stop) {
        let mut events = Vec::with_capacity(4);
        while !stop.is_set() {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "waiting for records of processes failed");
                    return;
                }
            }
            let Some(keeper) = keeper.upgrade() else { return };
            keeper.lock().unwrap_or_else(PoisonError::into_inner).catch_up();
        }
    }
}
