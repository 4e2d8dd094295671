//! A flood that goes on: opens, grows, closes, always as one finding.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::{Entity, Finding, Observed, Severity, Text};
use picket_protocol::time::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::impact::Impact;
use super::judge::{Verdict, View};
use super::kind::Kind;
use crate::detect::network::class::amplifier;
use crate::detect::network::words::{bits, grouped};
use crate::detect::network::{Class, Count, Direction, TtlSpread};

/// Sources and targets that a finding names.
const NAMED_MAX: usize = 10;
/// Interfaces that it names.
const INTERFACES_MAX: usize = 8;
/// Fewer senders are believed to be who they say.
const FEW_SOURCES: u64 = 64;
/// So many senders, none of whom stands out, are made up: no honest crowd comes within a second.
const MANY_SOURCES: u64 = 1_000;

/// Whether the senders are who they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Senders {
    /// Addresses are made up.
    Spoofed,
    /// They are who they say.
    Real,
    /// It cannot be told.
    Unclear,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Open {
    pub id: Uuid,
    pub kind: Kind,
    pub direction: Direction,
    first: Timestamp,
    /// When it was last over its limit.
    pub last: Timestamp,
    now: Count,
    peak: Count,
    peak_at: Timestamp,
    sum: Count,
    pub interfaces: Vec<Arc<str>>,
    sources: Vec<(IpAddr, u64)>,
    targets: Vec<(IpAddr, u16, u64)>,
    distinct: u64,
    ttls: TtlSpread,
    pub verdict: Verdict,
    usual: Option<u64>,
    pub impact: Impact,
    /// The process behind it, where the sensor has found it.
    pub process: Option<Entity>,
    raised_at: Timestamp,
    raised_peak: u64,
    named: bool,
    ended: bool,
    sampled: u32,
}

impl Open {
    pub fn new(id: Uuid, kind: Kind, verdict: Verdict, view: &View<'_>, begun: Timestamp) -> Self {
        let none = Count::default();
        Self {
            id,
            kind,
            direction: view.direction,
            first: begun,
            last: begun,
            now: none,
            peak: none,
            peak_at: begun,
            sum: none,
            interfaces: Vec::new(),
            sources: Vec::new(),
            targets: Vec::new(),
            distinct: 0,
            ttls: TtlSpread::default(),
            verdict,
            usual: None,
            impact: Impact::default(),
            process: None,
            raised_at: begun,
            raised_peak: 0,
            named: false,
            ended: false,
            sampled: 1,
        }
    }

    /// It goes on over this interface; what came in `time` counts if it is the one it was first seen on.
    pub fn grow(&mut self, interface: &Arc<str>, view: &View<'_>, came: Count, now: Timestamp) {
        let rate = view.rate(self.kind);
        if !self.interfaces.contains(interface) && self.interfaces.len() < INTERFACES_MAX {
            self.interfaces.push(Arc::clone(interface));
        }
        self.last = now;
        let first = self.interfaces.first() == Some(interface);
        if first {
            self.now = rate;
            self.sum.add(came);
        }
        if rate.packets > self.peak.packets {
            (self.peak, self.peak_at) = (rate, now);
        }
        let class = self.shown_class(view);
        let spread = view.lane.spreads.get(class.index()).copied().unwrap_or_default();
        self.distinct = self.distinct.max(spread.sources);
        self.ttls.merge(&spread.ttls);
        // Who is behind it is told as it was about the peak.
        if self.sources.is_empty() || rate.packets.saturating_mul(10) >= self.peak.packets.saturating_mul(9) {
            let sources = view.lane.sources(class).filter(|(_, share)| *share > 0).take(NAMED_MAX);
            let sources: Vec<_> = sources.map(|(talker, share)| (talker.address, share)).collect();
            let targets = view.lane.targets(class).filter(|(_, share)| *share > 0).take(NAMED_MAX);
            let targets: Vec<_> =
                targets.map(|(target, share)| (target.address, target.port, share)).collect();
            if !sources.is_empty() || self.sources.is_empty() {
                self.sources = sources;
            }
            if !targets.is_empty() {
                self.targets = targets;
            }
        }
    }

    fn shown_class(&self, view: &View<'_>) -> Class {
        let class = self.kind.class();
        let stealth = self.kind == Kind::Malformed
            && view.lane.rates.packets(Class::Stealth) > view.lane.rates.packets(Class::Malformed);
        if stealth { Class::Stealth } else { class }
    }

    pub fn set_context(&mut self, usual: Option<u64>, sampled: u32) {
        self.usual = usual.or(self.usual);
        self.sampled = self.sampled.max(sampled);
    }

    /// Whether it is to be told again.
    pub fn is_due(&self, now: Timestamp, interval: Duration) -> bool {
        let waited = now.since(self.raised_at);
        let doubled = self.peak.packets >= self.raised_peak.saturating_mul(2);
        let named = self.process.is_some() && !self.named;
        waited >= interval || named || (doubled && waited >= interval.min(Duration::from_secs(5)))
    }

    /// The finding as of now.
    pub fn raise(&mut self, now: Timestamp) -> Finding {
        self.raised_at = now;
        self.raised_peak = self.peak.packets.max(1);
        self.named = self.process.is_some();
        self.finding()
    }

    /// The last word.
    pub fn end(&mut self, now: Timestamp) -> Finding {
        self.ended = true;
        self.now = Count::default();
        self.raise(now)
    }

    fn senders(&self) -> Senders {
        let first = self.sources.first().map_or(0, |(_, share)| *share);
        let handshakes = self.kind == Kind::Connection;
        if handshakes {
            return Senders::Real;
        }
        match self.distinct {
            many if many >= MANY_SOURCES && first < 5 && self.kind != Kind::Amplification => Senders::Spoofed,
            // Reflectors are who they are; who they believe to answer is the victim.
            _ if self.kind == Kind::Amplification => Senders::Real,
            few if few <= FEW_SOURCES && first >= 5 && self.verdict.answered_percent >= 50 => Senders::Real,
            _ => Senders::Unclear,
        }
    }

    fn severity(&self) -> Severity {
        let far = self.peak.packets >= self.verdict.limit.saturating_mul(10);
        let grave = self.direction == Direction::Out || self.impact.hurts() || far;
        if grave { Severity::High } else { Severity::Medium }
    }

    fn title(&self) -> String {
        let what = self.kind.words();
        let target = match self.targets.first() {
            Some((address, port, _))
                if self.kind != Kind::Amplification && *port != 0 && self.has_ports() =>
            {
                format!("{address} port {port}")
            }
            Some((address, _, _)) => address.to_string(),
            None => "this host".to_owned(),
        };
        let by = match (self.senders(), self.sources.first()) {
            (Senders::Spoofed, _) => format!(" from about {} spoofed addresses", grouped(self.distinct)),
            (_, Some((address, share))) if *share >= 50 => format!(" from {address}"),
            (_, Some(_)) => format!(" from about {} addresses", grouped(self.distinct)),
            (_, None) => String::new(),
        };
        let services = self.services();
        let by = if services.is_empty() { by } else { format!("{by} ({})", services.join(", ")) };
        let about = match self.direction {
            Direction::Out => format!("This host sends a {what} to {target}"),
            Direction::In => format!("{} on {target}{by}", capital(what)),
            Direction::Passing => format!("{} to {target}{by} passes by", capital(what)),
        };
        let peak = format!("{} packets/s, {}", grouped(self.peak.packets), bits(self.peak.bytes));
        if self.ended {
            let lasted = self.last.since(self.first).as_secs().max(1);
            return format!("{about} has ended after {lasted} s: peak {peak}");
        }
        let hurt = self.impact.words().map(|words| format!("; {words}")).unwrap_or_default();
        format!("{about}: {peak}{hurt}")
    }

    fn has_ports(&self) -> bool {
        !matches!(self.kind, Kind::Icmp | Kind::Fragment)
    }

    /// Amplifiers by name.
    fn services(&self) -> Vec<&'static str> {
        if self.kind != Kind::Amplification {
            return Vec::new();
        }
        let mut names: Vec<_> = self.targets.iter().filter_map(|(_, port, _)| amplifier(*port)).collect();
        names.dedup();
        names.truncate(3);
        names
    }

    fn finding(&self) -> Finding {
        let mut entities = Vec::new();
        let mut add = |entity: Entity| {
            if !entities.contains(&entity) {
                entities.push(entity);
            }
        };
        for (address, port, _) in &self.targets {
            let port =
                Some(*port).filter(|port| *port != 0 && self.has_ports() && self.kind != Kind::Amplification);
            add(Entity::Address { address: *address, port });
        }
        if self.senders() != Senders::Spoofed {
            self.sources
                .iter()
                .for_each(|(address, _)| add(Entity::Address { address: *address, port: None }));
        }
        for name in &self.interfaces {
            add(Entity::Interface { name: Text { text: name.to_string(), bytes: None } });
        }
        self.process.iter().cloned().for_each(&mut add);
        Finding {
            id: self.id,
            rule: self.kind.rule().to_owned(),
            severity: self.severity(),
            observed: Observed { first: self.first, last: self.last, count: self.sum.packets.max(1) },
            title: self.title(),
            entities,
            evidence: self.evidence(),
            attack: vec![self.kind.attack().to_owned()],
            explained_by: None,
            drill: false,
        }
    }

    fn evidence(&self) -> Value {
        let rate = |count: Count| json!({ "packets_per_second": count.packets, "bits_per_second": count.bytes.saturating_mul(8) });
        let sources: Vec<Value> = self
            .sources
            .iter()
            .map(|(address, share)| json!({ "address": address, "share_percent": share }))
            .collect();
        let amplification = self.kind == Kind::Amplification;
        let target = |(address, port, share): &(IpAddr, u16, u64)| match amplifier(*port)
            .filter(|_| amplification)
        {
            Some(service) => {
                json!({ "address": address, "source_port": port, "service": service, "share_percent": share })
            }
            None if self.has_ports() => json!({ "address": address, "port": port, "share_percent": share }),
            None => json!({ "address": address, "share_percent": share }),
        };
        let targets: Vec<Value> = self.targets.iter().map(target).collect();
        let ttls = self
            .ttls
            .range()
            .map(|(least, most)| json!({ "least": least, "most": most, "different": self.ttls.count() }));
        json!({
            "flood": self.kind,
            "direction": self.direction,
            "state": if self.ended { "ended" } else { "open" },
            "start": self.first,
            "peak_at": self.peak_at,
            "end": self.ended.then_some(self.last),
            "now": rate(self.now),
            "peak": rate(self.peak),
            "packets": self.sum.packets,
            "bytes": self.sum.bytes,
            "interfaces": self.interfaces.iter().map(|name| &**name).collect::<Vec<_>>(),
            "targets": targets,
            "sources": sources,
            "sources_distinct": self.distinct,
            "senders": self.senders(),
            "ttls": ttls,
            "answered_percent": self.verdict.answered_percent,
            "limit_packets_per_second": self.verdict.limit,
            "usual_packets_per_second": self.usual,
            "impact": self.impact,
            "process": self.process,
            "sampled_one_in": (self.sampled > 1).then_some(self.sampled),
        })
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}
