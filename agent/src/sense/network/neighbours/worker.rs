//! The sensor's thread: waits, hands on what came, seals what comes of it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use picket_protocol::time::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use uuid::Uuid;

use super::filter::{PASSING_ONE_IN, program};
use super::kernel::{self, Link};
use super::store;
use crate::clock;
use crate::detect::neighbour::{Detector, Outcome};
use crate::detect::packets::neighbour::{Mac, NeighbourFrame, decode};
use crate::ledger::SealError;
use crate::netlink::Netlink;
use crate::sense::draft::draft;
use crate::sense::{SensorContext, SensorState};
use crate::sys::{FrameSocket, RawFrame};

/// Above that the kernel passes only a random part: what a second of it costs is a hundredth of a core. 200 hosts that boot at the
/// same moment stay below.
pub(super) const FRAMES_PER_SECOND: u64 = 5_000;
/// Batches of frames between two looks at the other sources.
const BATCHES: usize = 32;
/// Interfaces and routes that change again and again are read at most so often.
const OWN_PAUSE: Duration = Duration::from_millis(100);
/// A source that failed is opened again after this.
const REOPEN: Duration = Duration::from_secs(10);

/// The sensor at work.
pub(super) struct Worker {
    context: SensorContext,
    detector: Arc<Mutex<Detector>>,
    frames: Option<FrameSocket>,
    kernel: Option<Netlink>,
    links: BTreeMap<u32, Link>,
    /// When what this host is was last read, and whether it changed since.
    own_read: Option<Instant>,
    own_changed: bool,
    pace: Pace,
    counts: Counts,
    trouble: BTreeMap<&'static str, String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    frames: u64,
    lost: u64,
    entries: u64,
    last: Option<Timestamp>,
}

/// How much comes, and how much of it is let through.
#[derive(Clone, Copy, Debug)]
struct Pace {
    since: Instant,
    seen: u64,
    one_in: u32,
}

impl Worker {
    pub fn new(context: SensorContext, detector: Arc<Mutex<Detector>>) -> Self {
        let mut worker = Self {
            context,
            detector,
            frames: None,
            kernel: None,
            links: BTreeMap::new(),
            own_read: None,
            own_changed: true,
            pace: Pace { since: Instant::now(), seen: 0, one_in: 1 },
            counts: Counts::default(),
            trouble: BTreeMap::new(),
        };
        worker.open();
        worker
    }

    /// Runs until the stop signal is set or the ledger has stopped.
    pub fn run(mut self) {
        if let Err(error) = self.serve() {
            tracing::debug!(%error, "the sensor of neighbours ends");
        }
        let outcome = self.with(|detector, now| detector.take(now, true, &mut Uuid::now_v7));
        // Refused only when the ledger has stopped.
        let _stopped = self.seal(outcome);
    }

    fn open(&mut self) {
        if self.frames.is_none() {
            self.frames = note(&mut self.trouble, "frames", FrameSocket::open(&program(self.pace.one_in)));
        }
        if self.kernel.is_none() {
            self.kernel = note(&mut self.trouble, "netlink", kernel::listen());
            self.own_changed = true;
            self.read_table();
        }
    }

    fn serve(&mut self) -> Result<(), SealError> {
        while !self.context.stop.is_set() {
            self.read_own();
            let outcome = self.with(|detector, now| {
                detector.tick(now);
                detector.take(now, false, &mut Uuid::now_v7)
            });
            self.seal(outcome)?;
            self.report();
            self.wait();
            self.hear_kernel();
            let begin = Instant::now();
            self.read_frames();
            self.keep_pace(begin);
            if !self.trouble.is_empty() {
                self.open();
            }
        }
        Ok(())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Detector, Timestamp) -> T) -> T {
        act(&mut self.detector.lock().unwrap_or_else(PoisonError::into_inner), clock::now())
    }

    fn wait(&mut self) {
        let due = self.with(|detector, now| detector.due_in(now));
        let own = self.own_changed.then_some(OWN_PAUSE);
        let reopen = (!self.trouble.is_empty()).then_some(REOPEN);
        // A sampled flood is looked at until it is over, and then nothing tells.
        let pace = (self.pace.one_in > 1).then_some(Duration::from_secs(1));
        let wait = [due, own, reopen, pace].into_iter().flatten().min();
        if due.is_none() {
            self.frames.iter_mut().for_each(FrameSocket::rest);
        }
        let timeout = wait.map(|wait| Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(wait.subsec_nanos()),
        });
        let mut polled = vec![PollFd::from_borrowed_fd(self.context.stop.as_fd(), PollFlags::IN)];
        polled.extend(self.frames.iter().map(|source| PollFd::new(source, PollFlags::IN)));
        polled.extend(self.kernel.iter().map(|source| PollFd::new(source, PollFlags::IN)));
        self.context.status.rests();
        // Interrupted or not: what is there is looked at.
        let _ready = poll(&mut polled, timeout.as_ref()).is_ok();
        self.context.status.works();
    }

    fn hear_kernel(&mut self) {
        let Some(socket) = &mut self.kernel else { return };
        let heard = kernel::hear(socket);
        self.own_changed |= heard.own || heard.missed;
        if heard.own {
            self.read_own();
        }
        self.take_entries(&heard.entries);
        if heard.missed {
            self.read_table();
        }
    }

    fn take_entries(&mut self, entries: &[kernel::Entry]) {
        self.counts.entries += u64::try_from(entries.len()).unwrap_or(0);
        let (links, pins) = (&self.links, self.context.acts.pins());
        self.with(|detector, now| {
            detector.set_pins(pins);
            for entry in entries {
                if let Some(link) = links.get(&entry.interface) {
                    detector.observe_cache(&link.name, entry.address, entry.mac, now);
                }
            }
        });
    }

    fn read_table(&mut self) {
        self.read_own();
        let entries = note(&mut self.trouble, "neighbour table", kernel::entries());
        self.take_entries(&entries.unwrap_or_default());
    }

    fn read_own(&mut self) {
        let rested = self.own_read.is_none_or(|read| read.elapsed() >= OWN_PAUSE);
        if !self.own_changed || !rested {
            return;
        }
        (self.own_changed, self.own_read) = (false, Some(Instant::now()));
        let Some((links, own)) = note(&mut self.trouble, "interfaces", kernel::own()) else { return };
        self.links = links;
        self.with(|detector, now| detector.set_own(own, now));
    }

    fn read_frames(&mut self) {
        let Some(socket) = &mut self.frames else { return };
        let mut detector = self.detector.lock().unwrap_or_else(PoisonError::into_inner);
        let (links, weight, now) = (&self.links, self.pace.one_in, clock::now());
        let mut seen = 0;
        for _ in 0..BATCHES {
            match socket.read(|raw| {
                seen += 1;
                hand_on(&mut detector, links, raw, weight, now);
            }) {
                Ok(0) => break,
                Ok(_) => {}
                // An interface went away: the socket goes on.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(error) => {
                    self.trouble.insert("frames", error.to_string());
                    break;
                }
            }
        }
        drop(detector);
        self.counts.frames += seen;
        self.pace.seen += seen;
        if seen > 0 {
            self.counts.last = Some(now);
        }
        if self.trouble.contains_key("frames") {
            self.frames = None;
        }
    }

    /// Has the kernel pass a part of what is too much, and all again when it is over.
    fn keep_pace(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.pace.since);
        let hasty = self.pace.seen > FRAMES_PER_SECOND;
        if passed < Duration::from_secs(1) && !hasty {
            return;
        }
        let (_, lost) = self.frames.as_ref().map(FrameSocket::statistics).unwrap_or_default();
        self.counts.lost += lost;
        let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
        let came = (self.pace.seen + lost).saturating_mul(u64::from(self.pace.one_in));
        let rate = came.saturating_mul(1_000) / millis;
        // A quarter of the bound is aimed at: a flood is seldom even.
        let wanted = (rate / (FRAMES_PER_SECOND / 4)).max(1);
        let wanted = if rate > FRAMES_PER_SECOND { u32::try_from(wanted).unwrap_or(u32::MAX) } else { 1 };
        // Back in steps: a flood that pauses for a second is not over.
        let wanted = wanted.max(self.pace.one_in / 4);
        (self.pace.since, self.pace.seen) = (now, 0);
        if wanted != self.pace.one_in
            && let Some(socket) = &self.frames
            && note(&mut self.trouble, "filter", socket.filter(&program(wanted))).is_some()
        {
            self.pace.one_in = wanted;
        }
    }

    fn seal(&self, outcome: Outcome) -> Result<(), SealError> {
        let Outcome { findings, rows } = outcome;
        if findings.is_empty() && rows.is_empty() {
            return Ok(());
        }
        let drafts = findings.iter().filter_map(draft).collect();
        self.context.sealer.seal(drafts, vec![store::write(rows)])
    }

    fn report(&self) {
        let tally = self.with(|detector, _| detector.tally());
        let (counts, one_in) = (self.counts, self.pace.one_in);
        let mut reasons: Vec<String> =
            self.trouble.iter().map(|(what, why)| format!("{what}: {why}")).collect();
        if one_in > 1 {
            reasons.push(format!("a flood: one frame in {one_in} is looked at"));
        }
        let state = if self.trouble.is_empty() { SensorState::Running } else { SensorState::Degraded };
        let rung = match (self.frames.is_some(), self.kernel.is_some()) {
            (true, true) => "frames and netlink",
            (true, false) => "frames",
            _ => "netlink",
        };
        self.context.status.update(|report| {
            report.state = state;
            report.reason = reasons.join("; ");
            rung.clone_into(&mut report.rung);
            report.last_event = counts.last;
            let counters = [
                ("frames", counts.frames),
                ("lost", counts.lost),
                ("kernel_entries", counts.entries),
                ("neighbours", tally.neighbours),
                ("evicted", tally.evicted),
                ("refused", tally.refused),
                ("findings", tally.findings),
                ("explained", tally.explained),
                ("folded", tally.folded),
                ("sampled_one_in", u64::from(one_in)),
            ];
            report.counters.extend(counters.map(|(name, count)| (name.to_owned(), count)));
        });
    }
}

fn hand_on(
    detector: &mut Detector,
    links: &BTreeMap<u32, Link>,
    raw: RawFrame<'_>,
    weight: u32,
    now: Timestamp,
) {
    let Some(link) = links.get(&raw.interface).filter(|link| !link.is_port && raw.vlan == 0) else { return };
    if raw.passing {
        let source = raw.bytes.get(6..12).and_then(|source| source.try_into().ok()).map(Mac);
        if let Some(source) = source {
            detector.observe_passing(&link.name, source, now, PASSING_ONE_IN);
        }
        return;
    }
    if let Some(decoded) = decode(raw.bytes) {
        let interface = Arc::clone(&link.name);
        detector.observe(&NeighbourFrame { time: now, interface, from_here: raw.from_here, weight, decoded });
    }
}

/// Keeps in mind what does not work.
fn note<T>(
    trouble: &mut BTreeMap<&'static str, String>,
    what: &'static str,
    tried: io::Result<T>,
) -> Option<T> {
    match tried {
        Ok(done) => {
            trouble.remove(what);
            Some(done)
        }
        Err(error) => {
            trouble.insert(what, error.to_string());
            None
        }
    }
}
