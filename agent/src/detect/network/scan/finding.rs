//! A scan that goes on, and how it is told.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::{Entity, Finding, Observed, Severity, Text};
use picket_protocol::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::Who;
use super::source::{Fate, Source, Tally, Way};
use crate::detect::network::Direction;
use crate::detect::network::thresholds::Thresholds;
use crate::detect::network::words::grouped;

/// Ports and hosts that a finding names.
const NAMED_MAX: usize = 32;
/// Hosts among its entities.
const HOSTS_MAX: usize = 10;
/// A scan that grows fast is told again after this at the earliest.
const GROWN: Duration = Duration::from_secs(10);

/// A slow scan has ended when it rested for this part of the time over which it is looked for: an hour.
const SLOW_RESTS: u32 = 6;

/// What kind of scan it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Port { slow: bool },
    Host { slow: bool },
    Stealth,
}

impl Rule {
    /// What the source does, gravest first; none while it is no scan.
    pub fn of(source: &Source, now: Timestamp, thresholds: &Thresholds) -> Option<(Self, Tally)> {
        let fast =
            source.tally(now, thresholds.scan_window, thresholds.scan_ports.min(thresholds.scan_hosts));
        if fast.stealth >= thresholds.stealth {
            return Some((Self::Stealth, fast));
        }
        let most = |counted: Option<u32>, enough: u32| counted.is_some_and(|count| count >= enough);
        let ports = |tally: &Tally| tally.ports.map(|(_, count)| count);
        let hosts = |tally: &Tally| tally.hosts.map(|(_, count)| count);
        if most(ports(&fast), thresholds.scan_ports) {
            return Some((Self::Port { slow: false }, fast));
        }
        if most(hosts(&fast), thresholds.scan_hosts) {
            return Some((Self::Host { slow: false }, fast));
        }
        if source.tries.len() < usize::try_from(thresholds.slow_scan).unwrap_or(usize::MAX) {
            return None;
        }
        let slow = source.tally(now, thresholds.slow_scan_window, thresholds.slow_scan);
        if most(ports(&slow), thresholds.slow_scan) {
            return Some((Self::Port { slow: true }, slow));
        }
        most(hosts(&slow), thresholds.slow_scan).then_some((Self::Host { slow: true }, slow))
    }

    pub fn rule(self) -> &'static str {
        match self {
            Self::Port { .. } => "net.scan.port",
            Self::Host { .. } => "net.scan.host",
            Self::Stealth => "net.scan.stealth",
        }
    }

    /// What is told of a source that does several.
    pub fn rank(self) -> u8 {
        match self {
            Self::Host { .. } | Self::Port { .. } => 0,
            Self::Stealth => 1,
        }
    }

    fn is_slow(self) -> bool {
        matches!(self, Self::Port { slow: true } | Self::Host { slow: true })
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Scan {
    pub id: Uuid,
    rule: Rule,
    tally: Tally,
    pub process: Option<Entity>,
    raised_at: Timestamp,
    raised: u64,
    named: bool,
    ended: bool,
}

impl Scan {
    pub fn new(id: Uuid, rule: Rule, tally: Tally, now: Timestamp) -> Self {
        Self { id, rule, tally, process: None, raised_at: now, raised: 0, named: false, ended: false }
    }

    pub fn rule(&self) -> &'static str {
        self.rule.rule()
    }

    pub fn rank(&self) -> u8 {
        self.rule.rank()
    }

    /// It has ended when it rested for so long: a slow one rests between two tries.
    pub fn quiet(&self, thresholds: &Thresholds) -> Duration {
        if self.rule.is_slow() { thresholds.slow_scan_window / SLOW_RESTS } else { thresholds.scan_window }
    }

    /// Whether there is something that was not told.
    pub fn has_news(&self, source: &Source) -> bool {
        source.probes > self.raised || self.process.is_some() != self.named
    }

    /// It goes on; told again when it has doubled, or grew for an interval.
    pub fn grow(
        &mut self,
        tally: Tally,
        who: Who,
        source: &Source,
        interface: &Arc<str>,
        now: Timestamp,
        interval: Duration,
    ) -> Option<Finding> {
        self.tally = tally;
        let waited = now.since(self.raised_at);
        let doubled = source.probes >= self.raised.saturating_mul(2) && waited >= GROWN;
        let late = source.probes > self.raised && waited >= interval;
        let named = self.process.is_some() && !self.named;
        (doubled || late || named).then(|| self.raise(who, source, interface, now))
    }

    pub fn raise(&mut self, who: Who, source: &Source, interface: &Arc<str>, now: Timestamp) -> Finding {
        self.raised_at = now;
        self.raised = source.probes;
        self.named = self.process.is_some();
        self.finding(who, source, interface)
    }

    /// The last word: all that it tried and found.
    pub fn end(&mut self, who: Who, source: &Source, interface: &Arc<str>) -> Finding {
        self.ended = true;
        self.finding(who, source, interface)
    }

    fn severity(&self, (direction, address): Who) -> Severity {
        let inside = match address {
            IpAddr::V4(address) => address.is_private() || address.is_link_local(),
            IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
        };
        match direction {
            Direction::Out => Severity::High,
            // The Internet is scanned all day; a neighbour who does it is news.
            _ if inside || self.rule == Rule::Stealth => Severity::Medium,
            _ => Severity::Low,
        }
    }

    fn title(&self, (direction, address): Who, source: &Source) -> String {
        let who = match direction {
            Direction::Out => "This host".to_owned(),
            _ => address.to_string(),
        };
        let verb = if self.ended { "scanned" } else { "scans" };
        let slowly = if self.rule.is_slow() { ", slowly" } else { "" };
        let ports = source.ports.count();
        match self.rule {
            Rule::Port { .. } => {
                let host = self.tally.ports.map(|(host, _)| host.to_string()).unwrap_or_default();
                format!(
                    "{who} {verb} ports of {host}{slowly}: about {} ports tried, {} of them open",
                    grouped(ports),
                    source.accepted
                )
            }
            Rule::Host { .. } => {
                let by = match self.tally.hosts {
                    Some((0, _)) | None => "by echo requests".to_owned(),
                    Some((port, _)) => format!("on port {port}"),
                };
                let hosts = grouped(source.hosts.count());
                format!(
                    "{who} {verb} for hosts {by}{slowly}: about {hosts} hosts tried, {} answered",
                    source.accepted
                )
            }
            Rule::Stealth => {
                let ways = ways(source).join(", ");
                format!(
                    "{who} {verb} with packets that no connection has ({ways}): about {} ports tried",
                    grouped(ports)
                )
            }
        }
    }

    fn finding(&self, who: Who, source: &Source, interface: &Arc<str>) -> Finding {
        let (direction, address) = who;
        let mut ports: Vec<u16> =
            source.tries.iter().filter(|one| one.way != Way::Echo).map(|one| one.port).collect();
        ports.sort_unstable();
        ports.dedup();
        let mut hosts: Vec<IpAddr> = source.tries.iter().map(|one| one.destination).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let mut open: Vec<(IpAddr, u16)> = source
            .tries
            .iter()
            .filter(|one| one.fate == Fate::Accepted)
            .map(|one| (one.destination, one.port))
            .collect();
        open.sort_unstable();
        open.dedup();
        open.truncate(NAMED_MAX);
        let fate = |wanted: Fate| source.tries.iter().filter(|one| one.fate == wanted).count();
        let addresses = std::iter::once(&address).chain(hosts.iter().take(HOSTS_MAX));
        let mut entities: Vec<Entity> =
            addresses.map(|address| Entity::Address { address: *address, port: None }).collect();
        entities.push(Entity::Interface { name: Text { text: interface.to_string(), bytes: None } });
        entities.extend(self.process.clone());
        let evidence = json!({
            "direction": direction,
            "state": if self.ended { "ended" } else { "open" },
            "source": address,
            "slow": self.rule.is_slow(),
            "techniques": ways(source),
            "start": source.first,
            "last": source.last,
            "probes": source.probes,
            "ports_tried": source.ports.count(),
            "hosts_tried": source.hosts.count(),
            "ports": ports.iter().rev().take(NAMED_MAX).rev().collect::<Vec<_>>(),
            "hosts": hosts.iter().take(NAMED_MAX).collect::<Vec<_>>(),
            "open": open.iter().map(|(address, port)| json!({ "address": address, "port": port })).collect::<Vec<_>>(),
            "refused": fate(Fate::Refused),
            "unanswered": fate(Fate::Waiting),
            "interface": &**interface,
            "process": self.process,
        });
        Finding {
            id: self.id,
            rule: self.rule().to_owned(),
            severity: self.severity(who),
            observed: Observed { first: source.first, last: source.last, count: source.probes.max(1) },
            title: self.title(who, source),
            entities,
            evidence,
            attack: self.attack(direction),
            explained_by: None,
            drill: false,
        }
    }

    /// MITRE ATT&CK: active scanning from outside, discovery of services and of hosts.
    fn attack(&self, direction: Direction) -> Vec<String> {
        let discovery = if matches!(self.rule, Rule::Host { .. }) { "T1018" } else { "T1046" };
        let outside = (direction == Direction::In).then_some("T1595.001");
        std::iter::once(discovery).chain(outside).map(str::to_owned).collect()
    }
}

/// How it tried, each once.
fn ways(source: &Source) -> Vec<&'static str> {
    let mut ways: Vec<Way> = source.tries.iter().map(|one| one.way).collect();
    ways.sort_unstable();
    ways.dedup();
    ways.into_iter().map(Way::as_str).collect()
}
