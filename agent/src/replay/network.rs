//! Runs a capture through the decoding, the counting and the detectors of floods, scans and neighbours that the agent runs.
//!
//! Time is the capture's own: a summary is made of each 100 ms of it, and what falls due in between is raised first. Nothing is kept but what the
//! detectors keep, so a capture of any length is read in the same memory. There are no counters of the kernel in a capture: what they alone could
//! say (whether a program takes its datagrams) is judged by what went over the line.
//!
//! Which way a packet went is what the capture says, where it does (`tcpdump -i any`, pcapng's flags), and else whose addresses are local. Where nobody
//! says, the address that most of the first [`GUESS_PACKETS`] packets are from or to is taken for the host's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::Finding;
use picket_protocol::time::Timestamp;
use pnet::ipnetwork::IpNetwork;
use uuid::Uuid;

use super::capture::Captured;
use crate::detect::neighbour;
use crate::detect::network::probe::Seen;
use crate::detect::network::{Class, Counter, Direction, FloodDetector, Probe, ScanDetector, Thresholds};
use crate::detect::packets::neighbour::{NeighbourFrame, of_packet};
use crate::detect::packets::{Link, Packet, decode};

/// As often as the sensor reads the kernel's maps.
const INTERVAL: Duration = Duration::from_millis(100);
/// Packets by which the host's address is guessed.
pub const GUESS_PACKETS: usize = 2_000;
/// And their bytes: what is held back meanwhile.
const GUESS_BYTES: usize = 4 * 1024 * 1024;
/// Packets that are this much older than the one before were seen by a clock that was set back; what is nearer merely came out of order.
const DISORDER_MAX: Duration = Duration::from_secs(60);

/// What became of packets, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets read.
    pub packets: u64,
    /// Of these malformed.
    pub malformed: u64,
    /// Findings told; a flood or scan that is told several times counts as often.
    pub findings: u64,
}

/// A packet that waits until it is known whose it is.
struct Held {
    time: Timestamp,
    interface: String,
    link: Link,
    bytes: Vec<u8>,
    length: u32,
    direction: Option<Direction>,
}

/// Reads packets, one after the other.
pub struct NetworkReplay {
    counter: Counter,
    floods: FloodDetector,
    scans: ScanDetector,
    thresholds: Thresholds,
    /// From the first packet on: it has a clock of its own.
    neighbours: Option<neighbour::Detector>,
    neighbour_thresholds: neighbour::Thresholds,
    own: neighbour::Own,
    gateways: Vec<IpAddr>,
    local: Vec<IpNetwork>,
    /// Packets held back, as long as nobody said what is local.
    held: Option<Vec<Held>>,
    /// When the next summary is due.
    due: Option<Timestamp>,
    newest: Timestamp,
    names: BTreeMap<String, (u8, Arc<str>)>,
    ids: u64,
    /// The host's address, where it was guessed.
    pub guessed: Option<IpAddr>,
    /// Counts.
    pub tally: Tally,
}

impl NetworkReplay {
    /// For a host whose addresses are `local`; empty where it is to be guessed. Its default routes go by `gateways`, on whichever interface.
    pub fn new(
        thresholds: Thresholds,
        neighbour_thresholds: neighbour::Thresholds,
        local: Vec<IpNetwork>,
        gateways: Vec<IpAddr>,
    ) -> Self {
        let held = local.is_empty().then(Vec::new);
        Self {
            // A capture does not know the seed beforehand, and the same capture gives the same findings.
            counter: Counter::new(0x5069_636b_6574),
            floods: FloodDetector::new(thresholds),
            scans: ScanDetector::new(thresholds, 0x5069_636b_6574),
            thresholds,
            neighbours: None,
            neighbour_thresholds,
            own: neighbour::Own::default(),
            gateways,
            local,
            held,
            due: None,
            newest: Timestamp::default(),
            names: BTreeMap::new(),
            ids: 0,
            guessed: None,
            tally: Tally::default(),
        }
    }

    /// Takes in a packet.
    pub fn packet<E>(
        &mut self,
        captured: &Captured<'_>,
        tell: &mut impl FnMut(&Finding) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(held) = &mut self.held {
            held.push(Held {
                time: captured.time,
                interface: captured.interface.to_owned(),
                link: captured.link,
                bytes: captured.bytes.to_vec(),
                length: captured.length,
                direction: captured.direction,
            });
            let bytes: usize = held.iter().map(|one| one.bytes.len()).sum();
            if held.len() < GUESS_PACKETS && bytes < GUESS_BYTES {
                return Ok(());
            }
            return self.release(tell);
        }
        self.observe(captured, tell)
    }

    /// Guesses what is local, and takes in what was held back.
    fn release<E>(&mut self, tell: &mut impl FnMut(&Finding) -> Result<(), E>) -> Result<(), E> {
        let Some(held) = self.held.take() else { return Ok(()) };
        if held.iter().any(|one| one.direction.is_none()) {
            self.guessed = guess(&held);
            self.local.extend(self.guessed.map(IpNetwork::from));
        }
        for one in &held {
            let captured = Captured {
                time: one.time,
                interface: &one.interface,
                link: one.link,
                bytes: &one.bytes,
                length: one.length,
                direction: one.direction,
            };
            self.observe(&captured, tell)?;
        }
        Ok(())
    }

    fn observe<E>(
        &mut self,
        captured: &Captured<'_>,
        tell: &mut impl FnMut(&Finding) -> Result<(), E>,
    ) -> Result<(), E> {
        let set_back = self.newest.since(captured.time) > DISORDER_MAX;
        let now = if set_back { captured.time } else { captured.time.max(self.newest) };
        if set_back {
            self.due = None;
        }
        self.newest = now;
        self.pass(now, tell)?;
        let packet = decode(captured.link, captured.bytes, captured.length);
        let direction = captured.direction.unwrap_or_else(|| self.direction(&packet));
        let (number, interface) = self.interface(captured.interface);
        let class = self.counter.count(number, direction, &packet, now);
        self.neighbour(&packet, &interface, direction, now);
        self.tally.packets += 1;
        self.tally.malformed += u64::from(class == Class::Malformed);
        // Both ways of what passes by are seen, so its answers are too.
        if let Some(probe) =
            Probe::of(&packet, Seen { time: now, interface: &interface, direction, weight: 1, alone: false })
        {
            let ids = &mut self.ids;
            let findings = self.scans.observe(&probe, &mut || next(ids));
            self.told(&findings, tell)?;
        }
        Ok(())
    }

    fn interface(&mut self, name: &str) -> (u8, Arc<str>) {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let known: (u8, Arc<str>) = (self.counter.interface(name), Arc::from(name));
        self.names.insert(name.to_owned(), known.clone());
        // The host has its single addresses, and its way out, on every interface of the capture: nobody says on which.
        let single = |network: &&IpNetwork| network.prefix() == if network.is_ipv4() { 32 } else { 128 };
        let addresses = self.local.iter().filter(single).map(|network| network.ip()).collect();
        let interface = neighbour::Interface { mac: None, addresses, kind: String::new() };
        self.own.interfaces.insert(Arc::clone(&known.1), interface);
        let gateways = self.gateways.iter().map(|gateway| (Arc::clone(&known.1), *gateway));
        self.own.gateways.extend(gateways);
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.set_own(self.own.clone(), self.newest);
        }
        known
    }

    /// What a frame says of neighbours goes to their detector.
    fn neighbour(&mut self, packet: &Packet<'_>, interface: &Arc<str>, direction: Direction, now: Timestamp) {
        let Some(decoded) = of_packet(packet) else { return };
        // The card of the host is that of the first who speaks for one of its addresses: who claims it later is another.
        if let Some(own) = self.own.interfaces.get_mut(interface)
            && own.mac.is_none()
            && let Some((address, claimed)) = decoded.claim()
            && own.addresses.contains(&address)
        {
            own.mac = Some(claimed);
            if let Some(neighbours) = &mut self.neighbours {
                neighbours.set_own(self.own.clone(), now);
            }
        }
        let mac = self.own.interfaces.get(interface).and_then(|own| own.mac);
        let from_here = mac.is_some_and(|mac| mac == decoded.source);
        if self.neighbours.is_none() {
            let mut detector = neighbour::Detector::new(self.neighbour_thresholds, now);
            detector.set_own(self.own.clone(), now);
            self.neighbours = Some(detector);
        }
        let frame = NeighbourFrame {
            time: now,
            interface: Arc::clone(interface),
            from_here: from_here || (mac.is_none() && direction == Direction::Out),
            weight: 1,
            decoded,
        };
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.observe(&frame);
        }
    }

    fn direction(&self, packet: &Packet<'_>) -> Direction {
        let Some(ip) = packet.ip() else {
            // Without an address nothing says more than that it was seen here.
            return Direction::In;
        };
        let ours = |address: IpAddr| self.local.iter().any(|network| network.contains(address));
        let group = match ip.destination {
            IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_multicast(),
        };
        match (ours(ip.source), ours(ip.destination) || group) {
            // Within the local networks: what is asked for goes in.
            (true, true) if !group => Direction::Passing,
            (true, _) => Direction::Out,
            (false, true) => Direction::In,
            (false, false) => Direction::Passing,
        }
    }

    /// Lets time pass up to `now`.
    fn pass<E>(&mut self, now: Timestamp, tell: &mut impl FnMut(&Finding) -> Result<(), E>) -> Result<(), E> {
        let step = i64::try_from(INTERVAL.as_nanos()).unwrap_or(i64::MAX);
        let behind = |now: Timestamp| {
            Timestamp::from_nanos(now.nanos().div_euclid(step).saturating_add(1).saturating_mul(step))
        };
        let begun = self.due.is_none();
        let mut due = *self.due.get_or_insert(behind(now));
        if begun {
            return Ok(());
        }
        while due <= now {
            self.summarise(due, tell)?;
            let last = Timestamp::from_nanos(behind(now).nanos().saturating_sub(step));
            // Silence passes at once, when nothing waits for it.
            due = if self.floods.is_idle() { due.plus(INTERVAL).max(last) } else { due.plus(INTERVAL) };
        }
        self.due = Some(due);
        Ok(())
    }

    fn summarise<E>(
        &mut self,
        to: Timestamp,
        tell: &mut impl FnMut(&Finding) -> Result<(), E>,
    ) -> Result<(), E> {
        let summary = self.counter.summary(to);
        let ids = &mut self.ids;
        let mut findings = self.floods.observe(&summary, &mut || next(ids));
        findings.extend(self.scans.tick(to, &mut || next(ids)));
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.tick(to);
            // Rows would be stored for a restart.
            findings.extend(neighbours.take(to, false, &mut || next(ids)).findings);
        }
        self.told(&findings, tell)
    }

    /// Lets time pass until nothing is open any more.
    pub fn finish<E>(&mut self, tell: &mut impl FnMut(&Finding) -> Result<(), E>) -> Result<(), E> {
        self.release(tell)?;
        let Some(due) = self.due else { return Ok(()) };
        let end = due.plus(self.thresholds.quiet).plus(Duration::from_secs(2));
        self.pass(end, tell)?;
        let (fast, slow) = (self.thresholds.scan_window, self.thresholds.slow_scan_window);
        let fast = end.plus(fast);
        self.summarise(fast, tell)?;
        // A slow scan, and what is open of neighbours.
        self.summarise(fast.plus(slow.max(self.neighbour_thresholds.quiet)), tell)
    }

    fn told<E>(
        &mut self,
        findings: &[Finding],
        tell: &mut impl FnMut(&Finding) -> Result<(), E>,
    ) -> Result<(), E> {
        for finding in findings {
            self.tally.findings += 1;
            tell(finding)?;
        }
        Ok(())
    }
}

fn next(ids: &mut u64) -> Uuid {
    *ids += 1;
    Uuid::from_u64_pair(0, *ids)
}

/// The address that most packets are from or to; of several, the one that is asked, not the one that asks.
fn guess(held: &[Held]) -> Option<IpAddr> {
    let mut counts: BTreeMap<IpAddr, (u32, u32)> = BTreeMap::new();
    for one in held {
        let packet = decode(one.link, &one.bytes, one.length);
        let Some(ip) = packet.ip() else { continue };
        let asked = u32::from(matches!(Class::of(&packet), Class::Syn | Class::Udp | Class::Icmp));
        counts.entry(ip.source).or_default().0 += 1;
        let to = counts.entry(ip.destination).or_default();
        *to = (to.0 + 1, to.1 + asked);
    }
    let most = counts.iter().max_by_key(|(address, count)| (**count, std::cmp::Reverse(**address)));
    most.map(|(address, _)| *address)
}
