//! The sensor's thread: waits, reads what the kernel counted, asks the detectors, seals.
//!
//! While little comes it looks once a second, and the kernel wakes it when much comes at once; while much comes, ten times a
//! second. What the tap hands on is read when it is there, and when that is often, gathered for a moment.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::Finding;
use picket_protocol::time::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connections::{self, Watch};
use super::counts::{Budget, Counts, Handed};
use super::detectors::Detectors;
use super::interfaces::{Interface, Interfaces};
use super::ladder::{self, Opened, Packets, Rung};
use super::learned;
use super::sampling::Sampling;
use super::summaries::Summaries;
use super::witness::Witness;
use crate::clock;
use crate::detect::network::probe::Seen;
use crate::detect::network::{Counter, Direction, Probe, Summary};
use crate::detect::packets::{Link, decode};
use crate::ledger::SealError;
use crate::sense::{SensorContext, SensorState};
use crate::sys::Captured;

/// How often sums are read while much comes.
const BUSY: Duration = Duration::from_millis(100);
/// How often while little does, and how long an epoch of the kernel's tables lasts.
const SECOND: Duration = Duration::from_secs(1);
/// From so many packets a second on much comes.
const MUCH: u64 = 1_000;
/// How often the kernel's own counters are read while little comes.
const WITNESS_IDLE: Duration = Duration::from_secs(10);
/// How often what was learned is kept, beside at the end: a crash loses no more of what takes weeks to learn, and it is up to 3 MiB on a
/// host with many interfaces.
const KEEP: Duration = Duration::from_secs(3_600);
/// How often the status is brought up to date.
const REPORT: Duration = Duration::from_secs(2);
/// When packets were read of what the kernel counts, the next are let gather for so long: a busy server's connections wake nobody more
/// often than 20 times a second.
const GATHER: Duration = Duration::from_millis(50);
/// Where every packet comes here, when so many were read at once, and for so long.
const MANY: usize = 16;
const GATHER_ALL: Duration = Duration::from_millis(20);
/// Packets of one read of the ring: what a budget lets through in a second, several times.
const READ_MAX: usize = 65_536;
/// `PACKET_OTHERHOST` and `PACKET_OUTGOING`.
const OTHER_HOST: u8 = 3;
const OUTGOING: u8 = 4;
/// The processor's time that the ring may take, in parts of a hundred of one core: above the first it is sampled more
/// coarsely, below the second more finely.
const SHARE_MAX: u128 = 8;
const SHARE_LEAST: u128 = 2;
/// The coarsest sampling.
const SAMPLE_MAX: u32 = 1_024;

/// The sensor at work.
pub(super) struct Worker {
    context: SensorContext,
    opened: Opened,
    interfaces: Interfaces,
    detectors: Detectors,
    witness: Witness,
    summaries: Summaries,
    /// Counts in user space, on the rung where the kernel does not; and how much it ever did.
    counter: Option<Counter>,
    counted_here: u64,
    /// What the numbers of interfaces are to it.
    numbers: HashMap<u32, u8>,
    connections: Watch,
    /// How many packets one that comes through the ring stands for.
    sampling: Sampling,
    /// What the thread had cost when the second began.
    spent: Duration,
    /// Packets counted, lost and handed on, ever.
    counted: u64,
    dropped: u64,
    probes: u64,
    /// What the tap had handed on when the second began, and for how many attempts each stands that it does, by [`Budget`].
    handed: Handed,
    weights: [u32; Budget::COUNT],
    busy: bool,
    read: Duration,
    second: Duration,
    witnessed: Duration,
    reported: Duration,
    kept: Duration,
    /// Interfaces that refused the rung's program, and why.
    not_attached: Vec<(u32, String)>,
}

impl Worker {
    pub fn new(context: SensorContext, opened: Opened, interfaces: Interfaces, detectors: Detectors) -> Self {
        let now = clock::since_boot();
        let counter = opened.rung.counts_here().then(|| Counter::new(seed()));
        Self {
            context,
            opened,
            interfaces,
            detectors,
            witness: Witness::new(Path::new("/proc")),
            summaries: Summaries::default(),
            counter,
            counted_here: 0,
            numbers: HashMap::new(),
            connections: Watch::default(),
            sampling: Sampling::ALL,
            spent: clock::own_processor_time(),
            counted: 0,
            dropped: 0,
            probes: 0,
            handed: Handed::default(),
            weights: [1; Budget::COUNT],
            busy: false,
            read: now,
            second: now,
            witnessed: Duration::ZERO,
            reported: Duration::ZERO,
            kept: now,
            not_attached: Vec::new(),
        }
    }

    /// Runs until the stop signal is set or the ledger has stopped.
    pub fn run(mut self) {
        self.follow_interfaces();
        if let Some(counts) = &mut self.opened.counts {
            counts.advance();
            self.summaries.begin(counts, &self.interfaces, clock::now());
        }
        let _first = self.witness.read(clock::since_boot());
        self.report(clock::since_boot());
        if let Err(error) = self.serve() {
            tracing::debug!(%error, "the network sensor ends");
        }
        // Refused only when the ledger has stopped.
        let _stopped = self.keep(clock::since_boot());
    }

    fn serve(&mut self) -> Result<(), SealError> {
        let (gather_from, gather_for) =
            if self.opened.rung.counts_here() { (MANY, GATHER_ALL) } else { (1, GATHER) };
        let mut gather = false;
        loop {
            let now = clock::since_boot();
            let due = self.read + if self.busy { BUSY } else { SECOND };
            let wait = due.saturating_sub(now);
            if gather || self.opened.rung == Rung::Ring && self.busy {
                let pause = if gather { wait.min(gather_for) } else { wait.min(BUSY / 2) };
                self.context.status.works();
                if self.context.stop.wait(pause) {
                    return Ok(());
                }
            } else if self.wait(wait) {
                return Ok(());
            }
            let read = self.take_packets()?;
            gather = read >= gather_from;
            if self.interfaces.hear() {
                self.follow_interfaces();
            }
            let now = clock::since_boot();
            if now >= due || (read > 0 && now.saturating_sub(self.read) >= BUSY && self.comes_much(now)) {
                self.look(now)?;
            }
        }
    }

    /// Waits for packets, interfaces, or the time; whether the agent stops.
    fn wait(&self, wait: Duration) -> bool {
        let tells = PollFlags::IN;
        let mut polled = vec![PollFd::new(&self.context.stop, tells), PollFd::new(&self.interfaces, tells)];
        let packets = self.opened.packets.iter().flat_map(Packets::sockets);
        polled.extend(packets.map(|socket| PollFd::from_borrowed_fd(socket, tells)));
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        self.context.status.rests();
        let ready = poll(&mut polled, Some(&timeout)).is_ok_and(|ready| ready > 0);
        self.context.status.works();
        ready && polled.first().is_some_and(|stop| stop.revents().contains(tells))
    }

    /// Reads what came through the ring.
    fn take_packets(&mut self) -> Result<usize, SealError> {
        let Some(mut packets) = self.opened.packets.take() else { return Ok(0) };
        let (mut findings, mut here) = (Vec::new(), None::<Here>);
        let read = packets.read(READ_MAX, |captured| {
            let index = captured.interface;
            let here = match &mut here {
                Some(here) if here.index == index => here,
                other => other.insert(Here::new(index, &self.interfaces)),
            };
            if !here.is_counted {
                return;
            }
            let packet = decode(link_of(&captured), captured.bytes, captured.length);
            let direction = direction_of(captured.kind);
            let time = Timestamp::from_nanos(captured.nanos);
            let (mut weight, mut alone) = (1, false);
            if let Some(counter) = &mut self.counter {
                let known = || *self.numbers.entry(index).or_insert_with(|| counter.interface(&here.name));
                let number = *here.number.get_or_insert_with(known);
                weight = self.sampling.weight(time);
                alone = weight > 1;
                counter.sample(weight);
                counter.count(number, direction, &packet, time);
                self.counted_here += u64::from(weight);
            }
            let seen = Seen { time, interface: &here.name, direction, weight, alone };
            if let Some(mut probe) = Probe::of(&packet, seen) {
                self.probes += 1;
                if self.counter.is_none() {
                    let weight = Budget::of(&probe).and_then(|budget| self.weights.get(budget.index()));
                    probe.weight = weight.copied().unwrap_or(1);
                }
                findings.extend(self.detectors.probe(probe));
            }
        });
        self.opened.packets = Some(packets);
        self.seal(findings)?;
        Ok(read)
    }

    /// Whether so much came since the last reading that sums are to be read more often.
    fn comes_much(&self, now: Duration) -> bool {
        let elapsed = u64::try_from(now.saturating_sub(self.read).as_millis()).unwrap_or(u64::MAX).max(1);
        self.counted_now().saturating_sub(self.counted).saturating_mul(1_000) / elapsed >= MUCH
    }

    fn counted_now(&self) -> u64 {
        self.opened.counts.as_ref().map_or(self.counted_here, Counts::counted)
    }

    /// Reads the sums and hands them to the detectors.
    fn look(&mut self, now: Duration) -> Result<(), SealError> {
        self.busy = self.comes_much(now);
        self.read = now;
        let second_ends = now.saturating_sub(self.second) >= SECOND.saturating_sub(BUSY / 2);
        let wall = clock::now();
        let mut summary = match (&mut self.opened.counts, &mut self.counter) {
            (Some(counts), _) => {
                let summary = self.summaries.read(counts, &self.interfaces, wall, second_ends);
                if second_ends {
                    counts.advance();
                    self.summaries.epoch_begins(counts, &self.interfaces);
                }
                summary
            }
            (None, Some(counter)) => counter.summary(wall),
            (None, None) => self.summaries.nothing(wall),
        };
        self.counted = self.counted_now();
        if second_ends {
            self.end_second(now, &mut summary);
        }
        let mut findings = self.detectors.summary(&summary);
        if second_ends {
            findings.extend(self.look_at_connections(now, wall));
        }
        self.seal(findings)?;
        if now.saturating_sub(self.kept) >= KEEP {
            self.keep(now)?;
        }
        if now.saturating_sub(self.reported) >= REPORT {
            self.report(now);
        }
        Ok(())
    }

    /// Slow connections hold up a service only when they are many.
    fn look_at_connections(&mut self, now: Duration, wall: Timestamp) -> Vec<Finding> {
        if self.witness.established() < connections::MANY {
            self.connections.rest();
            return Vec::new();
        }
        let seen = self.connections.look(now, wall, clock::own_processor_time);
        seen.map(|seen| self.detectors.connections(&seen)).unwrap_or_default()
    }

    fn end_second(&mut self, now: Duration, summary: &mut Summary) {
        if self.busy || now.saturating_sub(self.witnessed) >= WITNESS_IDLE {
            summary.kernel = self.witness.read(now);
            self.witnessed = now;
        }
        if let Some(counts) = &self.opened.counts {
            let handed = counts.handed();
            let before = std::mem::replace(&mut self.handed, handed);
            for (weight, (now, before)) in
                self.weights.iter_mut().zip(handed.packets.iter().zip(&before.packets))
            {
                let (seen, passed) = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
                *weight = u32::try_from((seen / passed.max(1)).max(1)).unwrap_or(u32::MAX);
            }
        }
        let lost = self.opened.packets.as_mut().map_or(0, Packets::lost);
        self.dropped += u64::from(lost);
        if lost > 0 {
            self.detectors.distrust();
        }
        if self.opened.rung.counts_here() {
            self.pace(now);
        }
        self.second = now;
    }

    /// Keeps the ring's share of the processor in its bounds.
    fn pace(&mut self, now: Duration) {
        let spent = clock::own_processor_time();
        let cost = spent.saturating_sub(self.spent).as_micros();
        let elapsed = now.saturating_sub(self.second).as_micros().max(1);
        self.spent = spent;
        let share = cost * 100 / elapsed;
        let rate = self.sampling.rate();
        self.sampling.settle();
        let wanted = match share {
            share if share > SHARE_MAX => rate.saturating_mul(4).min(SAMPLE_MAX),
            share if share < SHARE_LEAST => (rate / 2).max(1),
            _ => rate,
        };
        if wanted == rate {
            return;
        }
        if let Some(packets) = &mut self.opened.packets {
            match packets.sample(wanted) {
                Ok(()) => self.sampling.change(wanted, clock::now()),
                Err(error) => tracing::warn!(error, "packets cannot be sampled"),
            }
        }
    }

    /// Keeps what was learned for the next run.
    fn keep(&mut self, now: Duration) -> Result<(), SealError> {
        self.kept = now;
        self.context.sealer.seal(Vec::new(), vec![learned::write(self.detectors.learned())])
    }

    fn seal(&mut self, findings: Vec<Finding>) -> Result<(), SealError> {
        self.detectors.seal(findings, &self.context)
    }

    /// Takes up interfaces that came, went or changed.
    fn follow_interfaces(&mut self) {
        let changes = match self.interfaces.refresh() {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!(%error, "interfaces cannot be read");
                return;
            }
        };
        self.numbers.clear();
        self.not_attached.retain(|(index, _)| !changes.gone.contains(index) && !changes.set.contains(index));
        if let Some(Packets::Datalink(datalink)) = &mut self.opened.packets {
            let set = changes.set.iter().filter_map(|index| Some((*index, self.interfaces.get(*index)?)));
            self.not_attached.extend(datalink.follow(&changes.gone, set));
        }
        let Some(counts) = &mut self.opened.counts else { return };
        for index in &changes.gone {
            counts.forget_interface(*index);
        }
        self.summaries.follow(counts, &self.interfaces);
        for index in &changes.set {
            let Some(interface) = self.interfaces.get(*index) else { continue };
            let below = attach(&mut self.opened, &interface.name, interface.is_counted());
            let flags = match below {
                Some(Ok(())) => interface.flags() | super::layout::INTERFACE_COUNTED_BELOW,
                Some(Err(error)) => {
                    // The tap counts there.
                    tracing::warn!(
                        error,
                        interface = &*interface.name,
                        "the rung is refused on an interface"
                    );
                    self.not_attached.push((*index, format!("{}: {error}", interface.name)));
                    interface.flags()
                }
                None => interface.flags(),
            };
            if let Some(counts) = &self.opened.counts {
                counts.set_interface(*index, interface.slot, flags);
            }
        }
        self.not_attached.truncate(16);
    }

    fn report(&mut self, now: Duration) {
        self.reported = now;
        let (rung, sample) = (self.opened.rung, self.sampling.rate());
        let handed = self.opened.counts.as_ref().map(Counts::handed).unwrap_or_default();
        let counters = [
            ("packets", self.counted),
            ("dropped", self.dropped),
            ("probes", self.probes),
            ("sampled", u64::from(sample)),
            ("wakes", handed.wakes),
            ("findings", self.detectors.findings),
            ("answers", handed.answers),
            ("baselines", u64::try_from(self.detectors.baselines()).unwrap_or(u64::MAX)),
        ];
        let mut reasons = Vec::new();
        if sample > 1 {
            reasons.push(format!("one packet in {sample} is looked at, to stay below 10 % of a core"));
        }
        reasons.extend(self.not_attached.iter().map(|(_, reason)| reason.clone()));
        let (last, scans) = (self.detectors.last, self.detectors.scans());
        self.context.status.update(|report| {
            let refused = report.ladder.iter().filter(|tried| !tried.usable);
            let refused = refused.map(|tried| format!("{} is refused: {}", tried.rung, tried.reason));
            report.reason = refused.chain(reasons).collect::<Vec<_>>().join("; ");
            report.state =
                if report.reason.is_empty() { SensorState::Running } else { SensorState::Degraded };
            report.rung = rung.name().to_owned();
            report.last_event = last;
            let counters = counters.into_iter().chain(scans);
            report.counters.extend(counters.map(|(name, count)| (name.to_owned(), count)));
        });
    }
}

/// Puts the rung's program on an interface; none when the rung has none, or nothing is counted there.
fn attach(opened: &mut Opened, name: &str, counted: bool) -> Option<Result<(), String>> {
    let programs = opened.programs.as_mut().filter(|_| counted)?;
    match opened.rung {
        Rung::Xdp => Some(programs.attach_xdp(name, false)),
        Rung::XdpGeneric => Some(programs.attach_xdp(name, true)),
        Rung::Tc => Some(programs.attach_tc(name)),
        Rung::Tap | Rung::Ring | Rung::Pnet | Rung::Counters => None,
    }
}

/// The interface of the last packet, looked up once: the next one is mostly of the same.
struct Here {
    index: u32,
    is_counted: bool,
    name: Arc<str>,
    /// What it is to the counter.
    number: Option<u8>,
}

impl Here {
    fn new(index: u32, interfaces: &Interfaces) -> Self {
        let is_counted = interfaces.get(index).is_none_or(Interface::is_counted);
        Self { index, is_counted, name: interfaces.name(index), number: None }
    }
}

fn direction_of(kind: u8) -> Direction {
    match kind {
        OUTGOING => Direction::Out,
        OTHER_HOST => Direction::Passing,
        _ => Direction::In,
    }
}

fn link_of(captured: &Captured<'_>) -> Link {
    if super::interfaces::ETHERNET.contains(&captured.hardware) {
        Link::Ethernet
    } else {
        Link::Payload { ethertype: captured.protocol }
    }
}

/// Who sends does not know who shares a slot with whom.
fn seed() -> u64 {
    ladder::seed().unwrap_or_default()
}
