//! Who asks for too many, who speaks too much, and how many cards a segment seems to have.
//!
//! Counts are of one second, scans of a minute and an hour, cards of ten seconds. Distinct things are counted in bit sets (linear
//! counting: Whang, Vander-Zanden, Taylor 1990), which do not grow.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use picket_protocol::finding::Severity;
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::alarm::Sighting;
use super::{Detector, Thresholds, evidence};
use crate::detect::packets::neighbour::{ArpOperation, Body, Mac, NeighbourFrame};

/// Hosts that are counted one by one on all interfaces; the others count for their interface only.
const HOSTS_MAX: usize = 512;
/// Interfaces that are counted.
const INTERFACES_MAX: usize = 256;
const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
/// Seconds over which cards are counted.
const CARDS_SPAN: i64 = 10;
/// So many frames for other hosts must be of cards of their own, and of all at least three quarters: 300 hosts that speak evenly
/// bring two thirds.
const SAMPLES_MIN: u32 = 256;
/// A host that was silent for so many seconds makes place.
const STALE: i64 = 60;

/// A set of hashes that only knows how many there are.
#[derive(Clone, Debug)]
struct Distinct<const WORDS: usize> {
    words: Box<[u64; WORDS]>,
    set: u32,
}

impl<const WORDS: usize> Default for Distinct<WORDS> {
    fn default() -> Self {
        Self { words: Box::new([0; WORDS]), set: 0 }
    }
}

impl<const WORDS: usize> Distinct<WORDS> {
    /// Whether it is new, as far as the set can tell.
    fn add(&mut self, value: impl Hash) -> bool {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        let hash = usize::try_from(hasher.finish() & u64::from(u32::MAX)).unwrap_or_default();
        let bit = hash % (WORDS * 64);
        let Some(word) = self.words.get_mut(bit / 64) else { return false };
        let new = *word & (1 << (bit % 64)) == 0;
        *word |= 1 << (bit % 64);
        self.set += u32::from(new);
        new
    }

    /// An estimate of how many were added: `-m ln(empty / m)`.
    fn count(&self) -> u32 {
        let all = u32::try_from(WORDS * 64).unwrap_or(u32::MAX);
        let empty = f64::from(all.saturating_sub(self.set).max(1));
        let estimate = -f64::from(all) * (empty / f64::from(all)).ln();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most m ln m, and not negative"
        )]
        let estimate = estimate.round() as u32;
        estimate
    }

    fn clear(&mut self) {
        self.words.fill(0);
        self.set = 0;
    }
}

/// One host's questions and messages.
#[derive(Debug, Default)]
struct Host {
    second: i64,
    messages: u32,
    minute: i64,
    targets: Distinct<8>,
    hour: i64,
    slow_targets: Distinct<32>,
    /// The lowest and highest target of the minute, for people.
    span: Option<(IpAddr, IpAddr)>,
}

/// One interface's.
#[derive(Debug, Default)]
struct Line {
    second: i64,
    messages: u32,
    /// Of each kind, see [`KINDS`].
    kinds: [u32; KINDS.len()],
    cards_since: i64,
    cards: Distinct<128>,
    /// Of frames for other hosts: how many were looked at, and of how many cards.
    samples: u32,
    passing: Distinct<32>,
}

const KINDS: [&str; 6] =
    ["ARP requests", "ARP replies", "announcements", "neighbour discovery", "router advertisements", "DHCP"];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rates {
    hosts: BTreeMap<(Arc<str>, Mac), Host>,
    lines: BTreeMap<Arc<str>, Line>,
    swept: i64,
}

impl Rates {
    fn host(&mut self, interface: &Arc<str>, mac: Mac, second: i64) -> Option<&mut Host> {
        let key = (Arc::clone(interface), mac);
        if self.hosts.len() >= HOSTS_MAX && !self.hosts.contains_key(&key) {
            if self.swept == second {
                return None;
            }
            self.swept = second;
            self.hosts.retain(|_, host| second - host.second < STALE);
            if self.hosts.len() >= HOSTS_MAX {
                return None;
            }
        }
        Some(self.hosts.entry(key).or_default())
    }

    fn line(&mut self, interface: &Arc<str>) -> Option<&mut Line> {
        if self.lines.len() >= INTERFACES_MAX && !self.lines.contains_key(interface) {
            return None;
        }
        Some(self.lines.entry(Arc::clone(interface)).or_default())
    }

    /// A card spoke that is none of the known neighbours'.
    fn card(
        &mut self,
        interface: &Arc<str>,
        source: Mac,
        now: Timestamp,
        thresholds: &Thresholds,
    ) -> Option<Sighting> {
        let line = self.line(interface)?;
        line.turn(now);
        if !line.cards.add(source.0) {
            return None;
        }
        let count = line.cards.count();
        (count >= thresholds.mac_flood).then(|| mac_flood(interface, count, source))
    }

    /// One in `one_in` frames for other hosts. What a switch sends to all in good order are many frames of some cards; a
    /// flood of cards is one of each.
    pub fn passing(
        &mut self,
        interface: &Arc<str>,
        source: Mac,
        now: Timestamp,
        one_in: u32,
        thresholds: &Thresholds,
    ) -> Option<Sighting> {
        let line = self.line(interface)?;
        line.turn(now);
        line.samples = line.samples.saturating_add(1);
        if !line.passing.add(source.0) {
            return None;
        }
        let distinct = line.passing.count();
        let count = distinct.saturating_mul(one_in);
        let is_flood = distinct >= SAMPLES_MIN && distinct >= line.samples / 4 * 3;
        (is_flood && count >= thresholds.mac_flood).then(|| mac_flood(interface, count, source))
    }
}

impl Line {
    /// Begins a new span when the last is over.
    fn turn(&mut self, now: Timestamp) {
        let second = now.seconds();
        if second - self.cards_since >= CARDS_SPAN || second < self.cards_since {
            (self.cards_since, self.samples) = (second, 0);
            self.cards.clear();
            self.passing.clear();
        }
    }
}

fn mac_flood(interface: &Arc<str>, count: u32, source: Mac) -> Sighting {
    Sighting {
        rule: "net.mac-flood".to_owned(),
        interface: interface.to_string(),
        subject: "cards".to_owned(),
        severity: Severity::High,
        title: format!(
            "Frames of about {count} cards that were never seen before came to {interface} within {CARDS_SPAN} s: a switch forgets so who is where, and sends everything to all"
        ),
        addresses: Vec::new(),
        evidence: evidence([
            ("cards", json!(count)),
            ("seconds", json!(CARDS_SPAN)),
            ("example", json!(source)),
        ]),
        explained: None,
    }
}

impl Detector {
    /// Whether the frame asks for an address that nobody is known to have.
    pub(super) fn unknown_target(&self, frame: &NeighbourFrame) -> Option<IpAddr> {
        let target = match &frame.decoded.body {
            Body::Arp(arp)
                if arp.operation == ArpOperation::Request && !arp.is_announcement() && !arp.is_probe() =>
            {
                IpAddr::V4(arp.target_address)
            }
            Body::Solicitation(said) if !said.source.is_unspecified() => IpAddr::V6(said.target),
            _ => return None,
        };
        let place = (Arc::clone(&frame.interface), frame.decoded.vlan, target);
        let known = self.table.get(&place).is_some() || self.own.has(&frame.interface, target);
        (!known).then_some(target)
    }

    /// Counts a frame, and tells of what is too much.
    pub(super) fn count(&mut self, frame: &NeighbourFrame, unknown: Option<IpAddr>) {
        let (interface, source, second) = (&frame.interface, frame.decoded.source, frame.time.seconds());
        let (weight, thresholds) = (frame.weight, self.thresholds);
        let mut sightings: Vec<Sighting> = Vec::new();
        let mut full = None;
        if let Some(line) = self.rates.line(interface) {
            if line.second != second {
                (line.second, line.messages, line.kinds) = (second, 0, [0; KINDS.len()]);
            }
            let before = line.messages;
            line.messages = line.messages.saturating_add(weight);
            if let Some(count) = line.kinds.get_mut(kind(&frame.decoded.body)) {
                *count = count.saturating_add(weight);
            }
            // At the threshold and at each doubling: a flood is told once a second at most some times.
            if is_step(before, line.messages, thresholds.flood) {
                full = Some((line.messages, line.kinds));
            }
        }
        if let Some((messages, kinds)) = full {
            sightings.push(flood(interface, messages, kinds));
        }
        let exempt = self.is_router_here(frame);
        if let Some(host) = self.rates.host(interface, source, second) {
            sightings.extend(host.speaks(frame, second, weight, &thresholds));
            if let Some(target) = unknown.filter(|_| !exempt) {
                sightings.extend(host.asks(frame, target, &thresholds));
            }
        }
        for sighting in sightings {
            self.see(sighting, frame.time, weight);
        }
        if !frame.from_here && !self.rates_know(frame) {
            let sighting = self.rates.card(interface, source, frame.time, &thresholds);
            sighting.into_iter().for_each(|sighting| self.see(sighting, frame.time, weight));
        }
    }

    /// A router asks for whomever strangers ask it for.
    fn is_router_here(&self, frame: &NeighbourFrame) -> bool {
        let Some((address, _)) = frame.decoded.claim() else { return false };
        self.own.is_gateway(&frame.interface, address)
    }

    /// Whether the sender is a known neighbour: then its card is none that was never seen.
    fn rates_know(&self, frame: &NeighbourFrame) -> bool {
        let Some((address, mac)) = frame.decoded.claim() else { return false };
        let place = (Arc::clone(&frame.interface), frame.decoded.vlan, address);
        mac == frame.decoded.source && self.table.get(&place).is_some_and(|entry| entry.mac == mac)
    }
}

impl Host {
    fn speaks(
        &mut self,
        frame: &NeighbourFrame,
        second: i64,
        weight: u32,
        thresholds: &Thresholds,
    ) -> Option<Sighting> {
        if self.second != second {
            (self.second, self.messages) = (second, 0);
        }
        let before = self.messages;
        self.messages = self.messages.saturating_add(weight);
        if !is_step(before, self.messages, thresholds.flood_host) {
            return None;
        }
        let (source, interface) = (frame.decoded.source, &frame.interface);
        let what = KINDS.get(kind(&frame.decoded.body)).copied().unwrap_or("messages");
        let who = if frame.from_here { "This host".to_owned() } else { source.to_string() };
        Some(Sighting {
            rule: "neighbour.flood".to_owned(),
            interface: interface.to_string(),
            subject: source.to_string(),
            severity: Severity::Medium,
            title: format!("{who} floods {interface} with {what}: {} within a second", self.messages),
            addresses: frame.decoded.claim().map(|(address, _)| address).into_iter().collect(),
            evidence: evidence([
                ("ethernet_source", json!(source)),
                ("direction", json!(direction(frame))),
                ("kind", json!(what)),
                ("per_second", json!(self.messages)),
            ]),
            explained: None,
        })
    }

    fn asks(&mut self, frame: &NeighbourFrame, target: IpAddr, thresholds: &Thresholds) -> Option<Sighting> {
        let second = frame.time.seconds();
        if second - self.minute >= MINUTE || second < self.minute {
            (self.minute, self.span) = (second, None);
            self.targets.clear();
        }
        if second - self.hour >= HOUR || second < self.hour {
            self.hour = second;
            self.slow_targets.clear();
        }
        let (low, high) = self.span.unwrap_or((target, target));
        self.span = Some((low.min(target), high.max(target)));
        let (new, new_slow) = (self.targets.add(target), self.slow_targets.add(target));
        let (fast, slow) = (self.targets.count(), self.slow_targets.count());
        let (severity, count, span) = match () {
            () if new && fast >= thresholds.scan => (Severity::Medium, fast, "a minute"),
            () if new_slow && slow >= thresholds.slow_scan => (Severity::Low, slow, "an hour"),
            () => return None,
        };
        let (source, interface) = (frame.decoded.source, &frame.interface);
        let who = match (frame.from_here, frame.decoded.claim()) {
            (true, _) => "This host".to_owned(),
            (false, Some((address, _))) => format!("{address} ({source})"),
            (false, None) => source.to_string(),
        };
        let (low, high) = self.span.unwrap_or((target, target));
        Some(Sighting {
            rule: "neighbour.scan".to_owned(),
            interface: interface.to_string(),
            subject: source.to_string(),
            severity,
            title: format!(
                "{who} on {interface} looks for hosts: it asked for about {count} addresses that nobody is known to have within {span}"
            ),
            addresses: frame.decoded.claim().map(|(address, _)| address).into_iter().collect(),
            evidence: evidence([
                ("ethernet_source", json!(source)),
                ("direction", json!(direction(frame))),
                ("targets", json!(count)),
                ("first_target", json!(low)),
                ("last_target", json!(high)),
            ]),
            explained: None,
        })
    }
}

fn flood(interface: &Arc<str>, messages: u32, kinds: [u32; KINDS.len()]) -> Sighting {
    let most = KINDS.iter().zip(kinds).max_by_key(|(_, count)| *count).map_or("messages", |(name, _)| name);
    let counts: BTreeMap<&str, u32> =
        KINDS.iter().copied().zip(kinds).filter(|(_, count)| *count > 0).collect();
    Sighting {
        rule: "neighbour.flood".to_owned(),
        interface: interface.to_string(),
        subject: "segment".to_owned(),
        severity: Severity::High,
        title: format!("{interface} is flooded with {most} of many hosts: {messages} within a second"),
        addresses: Vec::new(),
        evidence: evidence([
            ("per_second", json!(messages)),
            ("kinds", json!(counts)),
            ("kind", json!(most)),
        ]),
        explained: None,
    }
}

fn direction(frame: &NeighbourFrame) -> &'static str {
    if frame.from_here { "out" } else { "in" }
}

/// Whether a count went past the threshold, or past a power of two of it.
fn is_step(before: u32, after: u32, threshold: u32) -> bool {
    let steps = |count: u32| (count / threshold.max(1)).checked_ilog2().map_or(0, |log| log + 1);
    steps(after) > steps(before)
}

fn kind(body: &Body) -> usize {
    match body {
        Body::Arp(arp) if arp.is_announcement() => 2,
        Body::Arp(arp) if arp.operation == ArpOperation::Request => 0,
        Body::Arp(_) => 1,
        Body::RouterAdvertisement(_) => 4,
        Body::Dhcp(_) | Body::Dhcp6(_) => 5,
        _ => 3,
    }
}
