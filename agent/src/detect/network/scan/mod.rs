//! Scans and sweeps, in and out: who tries many ports of a host, or many hosts, in vain.
//!
//! [`ScanDetector::observe`] takes [`Probe`]s: attempts and the answers to them. An attempt is in vain when it is refused, or not answered for 3 s. What is
//! wanted is no scan, however much it is: a client of many ports (passive FTP), a health check, a crawler. So:
//! - `net.scan.port`: [`Thresholds::scan_ports`] ports of one host in vain within [`Thresholds::scan_window`], or twice as many over hours (slow);
//! - `net.scan.host`: as many hosts on one port, or by echo;
//! - `net.scan.stealth`: ports tried with flags that no connection has: no program does that by mistake.
//!
//! A try that is repeated from the same port within 8 s is looked at once: so a stream of datagrams is one try, and a retry of TCP none.
//!
//! Memory is fixed: [`SOURCES_MAX`] sources are remembered, with 96 tries each. A source comes in by its second different
//! try, so a flood of spoofed addresses, each of which tries one port, puts none out (a table of [`CANDIDATES`] slots holds the first tries).
//! Probes that were sampled count as themselves for what is in vain, so that no number is made up, and by their weight for how many packets
//! there were. At most [`OPENED_A_MINUTE`] scans are opened a minute; what is beyond is counted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::{Entity, Finding};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

mod finding;
mod source;
#[cfg(test)]
mod tests;

use finding::{Rule, Scan};
use source::{Fate, Source, Try, Way};

use super::counter::{address_bits, fold};
use super::thresholds::Thresholds;
use super::{Direction, Probe, ProbeKind};

/// Sources that are remembered.
pub const SOURCES_MAX: usize = 512;
/// First tries of sources that are not remembered yet.
pub const CANDIDATES: usize = 4_096;
/// Scans that are opened within a minute.
pub const OPENED_A_MINUTE: u32 = 32;
/// Attempts that are known when they are repeated, and datagrams whose answers are known as answers.
const FLOWS: usize = 4_096;
/// An attempt that goes on is looked at again after this: as the kernel's program does (`agent/bpf/network.bpf.c`).
const AGAIN: Duration = Duration::from_secs(8);
/// Ports that `traceroute` counts up from.
const TRACEROUTE: std::ops::RangeInclusive<u16> = 33_434..=33_625;
/// Ports that a program is given for its own questions.
const EPHEMERAL: u16 = 32_768;
/// How often what waits is looked at.
const TICK: Duration = Duration::from_secs(1);

/// And a source that does something, at most.
const LOOK: Duration = Duration::from_millis(100);

type Who = (Direction, IpAddr);

#[derive(Clone, Copy, Debug)]
struct Candidate {
    who: Who,
    first: Try,
    weight: u32,
}

/// An attempt, by what stands for it, and when it was looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    print: u64,
    at: Timestamp,
}

#[derive(Debug)]
struct Known {
    source: Source,
    interface: Arc<str>,
    open: Option<Scan>,
    judged: Timestamp,
}

/// See the module.
#[derive(Debug)]
pub struct ScanDetector {
    thresholds: Thresholds,
    seed: u64,
    candidates: Vec<Option<Candidate>>,
    flows: Vec<Flow>,
    sources: BTreeMap<Who, Known>,
    ticked: Timestamp,
    minute: (i64, u32),
    /// Scans that were not told for want of room.
    pub folded: u64,
}

impl ScanDetector {
    /// When is enough from now on.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// `seed` decides who shares a slot with whom: where strangers choose addresses it should be drawn at random.
    pub fn new(thresholds: Thresholds, seed: u64) -> Self {
        Self {
            thresholds,
            seed,
            candidates: vec![None; CANDIDATES],
            flows: vec![Flow::default(); FLOWS],
            sources: BTreeMap::new(),
            ticked: Timestamp::default(),
            minute: (0, 0),
            folded: 0,
        }
    }

    /// Takes in an attempt or an answer.
    pub fn observe(&mut self, probe: &Probe, new_id: &mut dyn FnMut() -> Uuid) -> Vec<Finding> {
        let now = probe.time;
        let mut out = Vec::new();
        let who = (probe.direction, probe.source);
        match Way::of(probe.kind) {
            Some(way) if self.is_repeated(probe, way) => {}
            Some(Way::Udp) if self.is_answer(probe) => {
                let asked = (probe.direction.reversed(), probe.destination);
                self.answer(asked, probe.source, probe.source_port, Fate::Accepted);
            }
            Some(way) => {
                if self.attempt(who, way, probe) {
                    self.judge_soon(who, now, new_id, &mut out);
                }
            }
            None => {
                let accepted = probe.kind == ProbeKind::Accepted;
                let fate = if accepted { Fate::Accepted } else { Fate::Refused };
                if self.answer(who, probe.destination, probe.port, fate) && !accepted {
                    self.judge_soon(who, now, new_id, &mut out);
                }
            }
        }
        out
    }

    /// What time alone brings: tries that were not answered, scans that have ended. To be called each second, with the time.
    pub fn tick(&mut self, now: Timestamp, new_id: &mut dyn FnMut() -> Uuid) -> Vec<Finding> {
        let mut out = Vec::new();
        if now >= self.ticked && now.since(self.ticked) < TICK {
            return out;
        }
        self.ticked = now;
        let concerns = |known: &Known| {
            known.source.waiting || known.open.as_ref().is_some_and(|scan| scan.has_news(&known.source))
        };
        let waiting: Vec<Who> =
            self.sources.iter().filter(|(_, known)| concerns(known)).map(|(who, _)| *who).collect();
        for who in waiting {
            self.judge(who, now, new_id, &mut out);
            if let Some(known) = self.sources.get_mut(&who) {
                known.source.waiting = known.source.waits(now);
            }
        }
        let thresholds = &self.thresholds;
        let forget = thresholds.slow_scan_window;
        self.sources.retain(|who, known| {
            let idle = now.since(known.source.last);
            match &mut known.open {
                Some(scan) if idle >= scan.quiet(thresholds) => {
                    out.push(scan.end(*who, &known.source, &known.interface));
                    // What was told is not judged again: the next scan is another one.
                    false
                }
                _ => idle < forget && known.source.last.since(now) < forget,
            }
        });
        out
    }

    /// Scans from this host that are open and whose process is not known, with when they did something last.
    pub fn unnamed(&self) -> impl Iterator<Item = (Uuid, Timestamp)> + '_ {
        let ours = self.sources.iter().filter(|((direction, _), _)| *direction == Direction::Out);
        ours.filter_map(|(_, known)| Some((known.open.as_ref()?, known.source.last)))
            .filter(|(scan, _)| scan.process.is_none())
            .map(|(scan, last)| (scan.id, last))
    }

    /// Hosts that a scan tried last.
    pub fn targets(&self, id: Uuid) -> Vec<IpAddr> {
        let is = |known: &&Known| known.open.as_ref().is_some_and(|scan| scan.id == id);
        let tries = self.sources.values().find(is).map(|known| known.source.tries.as_slice());
        let mut hosts: Vec<IpAddr> =
            tries.unwrap_or_default().iter().rev().map(|one| one.destination).collect();
        hosts.dedup();
        hosts
    }

    /// Packets were lost: what waits for its answer may have had it.
    pub fn distrust(&mut self) {
        self.sources.values_mut().for_each(|known| known.source.distrust());
        self.candidates.iter_mut().flatten().for_each(|candidate| candidate.first.alone = true);
    }

    /// Says which process is behind a scan; it is told when the scan is told next.
    pub fn name_process(&mut self, id: Uuid, process: Entity) {
        let open =
            self.sources.values_mut().filter_map(|known| known.open.as_mut()).find(|scan| scan.id == id);
        if let Some(scan) = open {
            scan.process = Some(process);
        }
    }

    /// How many sources are remembered.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// How many scans go on.
    pub fn open(&self) -> usize {
        self.sources.values().filter(|known| known.open.is_some()).count()
    }

    fn print(&self, address: IpAddr, port: u64) -> u64 {
        print(self.seed, address, port)
    }

    /// What stands for a try from one port to another, there or back.
    fn flow(&self, probe: &Probe, way: Way, back: bool) -> (usize, u64) {
        let (from, to) = ((probe.source, probe.source_port), (probe.destination, probe.port));
        let (from, to, direction) =
            if back { (to, from, probe.direction.reversed()) } else { (from, to, probe.direction) };
        let kind = u64::from(way.number()) << 24 | u64::from(direction as u8) << 16;
        let from = self.print(from.0, kind | u64::from(from.1));
        let print = fold(from, self.print(to.0, to.1.into()).rotate_left(17)) | 1;
        (usize::try_from(print >> 32).unwrap_or(0) % FLOWS, print)
    }

    /// Whether the same was just looked at; it is remembered otherwise.
    fn is_repeated(&mut self, probe: &Probe, way: Way) -> bool {
        let (at, print) = self.flow(probe, way, false);
        let Some(place) = self.flows.get_mut(at) else { return false };
        if place.print == print && place.at <= probe.time && probe.time.since(place.at) < AGAIN {
            return true;
        }
        *place = Flow { print, at: probe.time };
        false
    }

    /// Whether a datagram goes back where one came from, or looks like it: from a service to a port that a program was given.
    fn is_answer(&self, probe: &Probe) -> bool {
        let (at, print) = self.flow(probe, Way::Udp, true);
        self.flows.get(at).is_some_and(|place| place.print == print)
            || (probe.source_port < 1_024 && probe.port >= EPHEMERAL)
            || TRACEROUTE.contains(&probe.port)
    }

    /// Whether it is a new try of a source that is remembered.
    fn attempt(&mut self, who: Who, way: Way, probe: &Probe) -> bool {
        let new = Try {
            destination: probe.destination,
            port: probe.port,
            way,
            at: probe.time,
            fate: Fate::Waiting,
            alone: probe.alone,
        };
        let seed = self.seed;
        let nobody = IpAddr::from([0; 4]);
        let prints = |one: &Try| (print(seed, one.destination, 0), print(seed, nobody, one.port.into()));
        let new_prints = prints(&new);
        if let Some(known) = self.sources.get_mut(&who) {
            return known.source.attempt(new, probe.weight, new_prints);
        }
        let at = usize::try_from(self.print(who.1, who.0 as u64)).unwrap_or(usize::MAX) % CANDIDATES;
        let old = self.candidates.get(at).copied().flatten().filter(|old| old.who == who);
        let same = |old: &Candidate| old.first.destination == new.destination && old.first.port == new.port;
        let Some(old) = old.filter(|old| !same(old)) else {
            if old.is_none()
                && let Some(place) = self.candidates.get_mut(at)
            {
                *place = Some(Candidate { who, first: new, weight: probe.weight });
            }
            return false;
        };
        let old_prints = prints(&old.first);
        // It is remembered with the source from here on, and forgotten with it.
        if let Some(place) = self.candidates.get_mut(at) {
            *place = None;
        }
        self.make_room();
        let mut source = Source::new(old.first.at);
        source.attempt(old.first, old.weight, old_prints);
        source.attempt(new, probe.weight, new_prints);
        self.sources.insert(
            who,
            Known {
                source,
                interface: Arc::clone(&probe.interface),
                open: None,
                judged: Timestamp::default(),
            },
        );
        true
    }

    /// Forgets the source that was silent for longest; those whose scan is open come last.
    fn make_room(&mut self) {
        if self.sources.len() < SOURCES_MAX {
            return;
        }
        let oldest = self.sources.iter().min_by_key(|(_, known)| (known.open.is_some(), known.source.last));
        if let Some(who) = oldest.map(|(who, _)| *who) {
            self.sources.remove(&who);
        }
    }

    /// Whether the try is known.
    fn answer(&mut self, who: Who, destination: IpAddr, port: u16, fate: Fate) -> bool {
        if let Some(known) = self.sources.get_mut(&who) {
            known.source.answer(destination, port, fate);
            return true;
        }
        let at = usize::try_from(self.print(who.1, who.0 as u64)).unwrap_or(usize::MAX) % CANDIDATES;
        let place = self.candidates.get_mut(at).and_then(Option::as_mut).filter(|old| old.who == who);
        if let Some(old) = place
            && old.first.destination == destination
            && old.first.port == port
        {
            old.first.fate = fate;
        }
        false
    }

    /// As below, unless it was just done: a fast scan is looked at ten times a second, one that is told once; the rest falls to
    /// [`ScanDetector::tick`].
    fn judge_soon(
        &mut self,
        who: Who,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
        out: &mut Vec<Finding>,
    ) {
        let Some(known) = self.sources.get(&who) else { return };
        let wait = if known.open.is_some() { TICK } else { LOOK };
        if now.since(known.judged) >= wait || known.judged > now {
            self.judge(who, now, new_id, out);
        }
    }

    fn judge(&mut self, who: Who, now: Timestamp, new_id: &mut dyn FnMut() -> Uuid, out: &mut Vec<Finding>) {
        let Some(known) = self.sources.get_mut(&who) else { return };
        let thresholds = &self.thresholds;
        known.judged = now;
        let source = &known.source;
        let Some((rule, tally)) = Rule::of(source, now, thresholds) else { return };
        match &mut known.open {
            // What it turns out to be later is told as well: ports first, then with odd flags.
            Some(scan) if scan.rule() == rule.rule() || rule.rank() <= scan.rank() => {
                out.extend(scan.grow(tally, who, source, &known.interface, now, thresholds.raise_interval));
            }
            open => {
                let minute = now.seconds().div_euclid(60);
                if self.minute.0 != minute {
                    self.minute = (minute, 0);
                }
                if self.minute.1 >= OPENED_A_MINUTE {
                    self.folded += 1;
                    return;
                }
                self.minute.1 += 1;
                let mut scan = Scan::new(new_id(), rule, tally, now);
                out.push(scan.raise(who, source, &known.interface, now));
                *open = Some(scan);
            }
        }
    }
}

/// 64 bits that stand for an address and a number.
///
/// Numbers that follow each other make an arithmetic progression of the product, whose highest bits take few values by an unlucky
/// seed; folded once more they are spread.
fn print(seed: u64, address: IpAddr, number: u64) -> u64 {
    let (high, low) = address_bits(address);
    let product = fold(fold(low ^ seed, 0x9e37_79b9_7f4a_7c15) ^ high, number ^ 0xbf58_476d_1ce4_e5b9);
    fold(product, 0x94d0_49bb_1331_11eb)
}
