//! What exhausts a service without many packets: slow connections, a full accept queue, a full conntrack table. Fed by socket
//! statistics ([`Connections`]) and the kernel's counters, both read about once a second.

use std::collections::BTreeMap;
use std::net::IpAddr;

use picket_protocol::finding::{Entity, Finding, Observed, Severity};
use picket_protocol::time::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::kind::Kind;
use crate::detect::network::summary::TALKERS_MAX;
use crate::detect::network::thresholds::Thresholds;
use crate::detect::network::words::grouped;
use crate::detect::network::{Connections, KernelDelta, ListenerLoad};

/// Open findings of this kind: one for each service that is attacked.
const OPEN_MAX: usize = 32;
/// Readings in a row before it is told: a burst of one second is none.
const READINGS: u32 = 2;
/// Of a conntrack table so much, in percent, is full: the kernel begins to drop at 100.
const CONNTRACK_PERCENT: u64 = 95;

/// What is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    SlowConnections,
    AcceptQueue,
    Conntrack,
}

#[derive(Clone, Debug)]
struct Held {
    /// Readings in a row over the limit.
    over: u32,
    id: Option<Uuid>,
    first: Timestamp,
    last: Timestamp,
    now: u64,
    peak: u64,
    peak_at: Timestamp,
    detail: Value,
    sources: Vec<(IpAddr, u32)>,
    raised_at: Timestamp,
    raised: u64,
}

type Key = (What, Option<(IpAddr, u16)>);

/// Open findings, and what may become one.
#[derive(Debug, Default)]
pub struct Services(BTreeMap<Key, Held>);

/// One reading of one thing.
struct Reading {
    key: Key,
    value: u64,
    over: bool,
    detail: Value,
    sources: Vec<(IpAddr, u32)>,
}

impl Services {
    /// Whether nothing is open.
    pub fn is_idle(&self) -> bool {
        self.0.is_empty()
    }

    /// Socket statistics.
    pub fn connections(
        &mut self,
        connections: &Connections,
        thresholds: &Thresholds,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Vec<Finding> {
        let mut out = Vec::new();
        for load in &connections.listeners {
            // Half of what the service does: a few hung clients of a busy service are no attack.
            let over =
                load.slow >= thresholds.slow && u64::from(load.slow) * 2 >= u64::from(load.established);
            let reading = Reading {
                key: (What::SlowConnections, Some((load.address, load.port))),
                value: load.slow.into(),
                over,
                detail: slow_detail(load),
                sources: load.sources.iter().take(TALKERS_MAX).copied().collect(),
            };
            self.read(reading, connections.time, thresholds, new_id, &mut out);
        }
        self.quiet(connections.time, thresholds, |what| what == What::SlowConnections, &mut out);
        out
    }

    /// The kernel's counters.
    pub fn kernel(
        &mut self,
        kernel: &KernelDelta,
        now: Timestamp,
        thresholds: &Thresholds,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Vec<Finding> {
        let mut out = Vec::new();
        let millis = u64::try_from(kernel.interval.as_millis()).unwrap_or(u64::MAX).max(1);
        let overflows = kernel.listen_overflows.saturating_mul(1_000) / millis;
        let queue = Reading {
            key: (What::AcceptQueue, None),
            value: overflows,
            over: overflows >= thresholds.overflows.into(),
            detail: json!({ "listen_drops": kernel.listen_drops }),
            sources: Vec::new(),
        };
        self.read(queue, now, thresholds, new_id, &mut out);
        let full = kernel.conntrack_count.saturating_mul(100).checked_div(kernel.conntrack_max).unwrap_or(0);
        let table = Reading {
            key: (What::Conntrack, None),
            value: full,
            over: full >= CONNTRACK_PERCENT || kernel.conntrack_dropped > 0 && full > 0,
            detail: json!({ "connections": kernel.conntrack_count, "connections_max": kernel.conntrack_max, "dropped": kernel.conntrack_dropped }),
            sources: Vec::new(),
        };
        self.read(table, now, thresholds, new_id, &mut out);
        self.quiet(now, thresholds, |what| what != What::SlowConnections, &mut out);
        out
    }

    fn read(
        &mut self,
        reading: Reading,
        now: Timestamp,
        thresholds: &Thresholds,
        new_id: &mut dyn FnMut() -> Uuid,
        out: &mut Vec<Finding>,
    ) {
        let Reading { key, value, over, detail, sources } = reading;
        if !over {
            if let Some(held) = self.0.get_mut(&key) {
                (held.now, held.over) = (value, 0);
            }
            self.0.retain(|other, held| *other != key || held.id.is_some());
            return;
        }
        if !self.0.contains_key(&key) && self.0.len() >= OPEN_MAX {
            return;
        }
        let held = self.0.entry(key).or_insert_with(|| Held {
            over: 0,
            id: None,
            first: now,
            last: now,
            now: value,
            peak: 0,
            peak_at: now,
            detail: Value::Null,
            sources: Vec::new(),
            raised_at: now,
            raised: 0,
        });
        held.over += 1;
        (held.now, held.last) = (value, now);
        if value > held.peak || held.detail.is_null() {
            (held.peak, held.peak_at, held.detail) = (value, now, detail);
            held.sources = sources;
        }
        let late = now.since(held.raised_at) >= thresholds.raise_interval;
        let first = held.id.is_none() && held.over >= READINGS;
        if first {
            held.id = Some(new_id());
        }
        if first || (held.id.is_some() && (late || held.peak >= held.raised.saturating_mul(2))) {
            (held.raised, held.raised_at) = (held.peak.max(1), now);
            out.extend(held.finding(&key, false));
        }
    }

    fn quiet(
        &mut self,
        now: Timestamp,
        thresholds: &Thresholds,
        of: impl Fn(What) -> bool,
        out: &mut Vec<Finding>,
    ) {
        self.0.retain(|key, held| {
            let ended = of(key.0) && now.since(held.last) >= thresholds.quiet;
            if ended {
                held.now = 0;
                out.extend(held.finding(key, true));
            }
            !ended
        });
    }
}

fn slow_detail(load: &ListenerLoad) -> Value {
    json!({
        "established": load.established,
        "unanswered": load.unanswered,
        "trickling": load.trickling,
        "stalled": load.stalled,
        "accept_queue": load.queue,
        "accept_queue_max": load.queue_max,
        "sources_distinct": load.distinct_sources,
    })
}

impl Held {
    fn finding(&self, key: &Key, ended: bool) -> Option<Finding> {
        let (what, place) = key;
        let kind = if *what == What::SlowConnections { Kind::Slow } else { Kind::Connection };
        let address = place.map(|(address, port)| Entity::Address { address, port: Some(port) });
        let sources =
            self.sources.iter().map(|(address, _)| Entity::Address { address: *address, port: None });
        let named: Vec<Value> = self
            .sources
            .iter()
            .map(|(address, count)| json!({ "address": address, "connections": count }))
            .collect();
        Some(Finding {
            id: self.id?,
            rule: kind.rule().to_owned(),
            severity: Severity::High,
            observed: Observed { first: self.first, last: self.last, count: self.peak.max(1) },
            title: self.title(*what, place.map(|(_, port)| port), ended),
            entities: address.into_iter().chain(sources).collect(),
            evidence: json!({
                "flood": kind,
                "exhausts": what,
                "direction": "in",
                "state": if ended { "ended" } else { "open" },
                "start": self.first,
                "peak_at": self.peak_at,
                "end": ended.then_some(self.last),
                "now": self.now,
                "peak": self.peak,
                "at_peak": self.detail,
                "sources": named,
            }),
            attack: vec![kind.attack().to_owned()],
            explained_by: None,
            drill: false,
        })
    }

    fn title(&self, what: What, port: Option<u16>, ended: bool) -> String {
        let peak = grouped(self.peak);
        let about = match (what, port) {
            (What::SlowConnections, port) => {
                let by = match self.sources.as_slice() {
                    [(address, _)] => format!(" from {address}"),
                    _ => String::new(),
                };
                let service = port.map(|port| format!(" on port {port}")).unwrap_or_default();
                format!(
                    "Slow-connection attack{service}{by}: {peak} connections are held open by next to no bytes"
                )
            }
            (What::AcceptQueue, _) => {
                format!(
                    "A service does not accept as fast as clients connect: {peak} complete handshakes a second are dropped"
                )
            }
            (What::Conntrack, _) => format!(
                "The table of tracked connections is {peak} % full: new connections are dropped when it is"
            ),
        };
        if ended { format!("{about}; this has ended") } else { about }
    }
}
