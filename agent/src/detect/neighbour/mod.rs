//! Who has which address on the segments of this host, and who only says so: ARP, IPv6 neighbour discovery, router
//! advertisements and DHCP.
//!
//! In go frames, the kernel's neighbour table as it changes (the proof that a lie was believed), and what this host
//! knows of itself ([`Own`]: addresses, and the default routers of its routing table). Out come findings
//! (`neighbour.*`, `net.mac-flood`) and rows. Each finding opens, grows and closes under one id.
//!
//! Promises: no sequence of frames panics; memory is bounded ([`table::NEIGHBOURS_MAX`] and the constants beside each
//! table), and what is left out is counted; a frame costs a few look-ups, however many there are. What has a harmless
//! cause is told apart by what that cause looks like: fail-over of routers by their announcements (VRRP, CARP, HSRP) and
//! shared addresses, cards of a bond by their neighbouring numbers, addresses given anew by DHCP, containers behind a
//! bridge of this host that no default route goes over, hosts that were silent for long. A gateway with a new network card is told once, at `low`: nobody
//! can tell that from the first breath of an attack. What is not done: redundancy protocols are believed, so
//! who takes part in one without right is not unmasked here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::Finding;
use picket_protocol::time::Timestamp;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::detect::packets::neighbour::{ArpOperation, Body, Mac, NeighbourFrame};
use crate::respond::own_acts::Pinned;

mod alarm;
mod binding;
mod claim;
mod conflict;
mod explain;
mod own;
mod rates;
mod recent;
mod servers;
mod shown;
mod sign;
pub mod table;
mod thresholds;

#[cfg(test)]
mod tests;

use alarm::{Alarms, Sighting};
use claim::{Claim, Held};
use conflict::Conflicts;
use explain::Explanations;
pub use own::{Interface, Own};
use rates::Rates;
use recent::Recent;
use servers::Servers;
pub use shown::Shown;
pub use sign::{Contest, Sign};
pub use table::{Former, Neighbour};
use table::{Place, Table};
pub use thresholds::Thresholds;

/// A row of the durable state: kind, key, and the state, or none when it is to be removed.
pub type Row = (&'static str, String, Option<String>);

/// How long after a question its answer may come.
const ANSWER: Duration = Duration::from_secs(5);
/// Questions of this host that are remembered.
const ASKED_MAX: usize = 1_024;
/// How often rows are written when nothing is told.
const ROWS_EVERY: Duration = Duration::from_secs(60);
/// Who was a default router is still judged as one for so long.
const LEFT: Duration = Duration::from_secs(60);
const LEFT_MAX: usize = 64;
/// How often the table is looked through for who is gone.
const SWEEP: Duration = Duration::from_secs(60);
/// How often contested addresses are looked at at the most.
const LOOK: Duration = Duration::from_secs(1);

/// What comes out.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Findings to seal.
    pub findings: Vec<Finding>,
    /// Rows to write in the same transaction.
    pub rows: Vec<Row>,
}

/// Counts for the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Findings that began.
    pub findings: u64,
    /// Addresses that are known.
    pub neighbours: u64,
    /// Addresses that made place for others.
    pub evicted: u64,
    /// Addresses that were not let in, since too many came at once.
    pub refused: u64,
    /// Changes that had a harmless cause.
    pub explained: u64,
    /// Findings that were told together with others.
    pub folded: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Detector {
    thresholds: Thresholds,
    started: Timestamp,
    own: Own,
    table: Table,
    alarms: Alarms,
    /// What this host asked for.
    asked: Recent<(Arc<str>, IpAddr), ()>,
    conflicts: Conflicts,
    explanations: Explanations,
    servers: Servers,
    rates: Rates,
    held: Vec<Held>,
    contested: std::collections::BTreeSet<Place>,
    explained: u64,
    /// Neighbours that the agent pinned.
    pins: Vec<Pinned>,
    rows_written: Timestamp,
    looked: Timestamp,
    swept: Timestamp,
    /// Default routers that are none any more, and since when.
    left: Vec<((Arc<str>, IpAddr), Timestamp)>,
}

impl Detector {
    /// Knows nobody.
    pub fn new(thresholds: Thresholds, now: Timestamp) -> Self {
        Self {
            thresholds,
            started: now,
            own: Own::default(),
            table: Table::default(),
            alarms: Alarms::default(),
            asked: Recent::new(ASKED_MAX, ANSWER),
            conflicts: Conflicts::default(),
            explanations: Explanations::default(),
            servers: Servers::new(now),
            rates: Rates::default(),
            held: Vec::new(),
            contested: std::collections::BTreeSet::new(),
            explained: 0,
            pins: Vec::new(),
            rows_written: now,
            looked: now,
            swept: now,
            left: Vec::new(),
        }
    }

    /// Goes on with the rows of the last run: kind, key, state. Gives how many cannot be used.
    pub fn restore(&mut self, rows: Vec<(String, String, String)>) -> usize {
        let mut damaged = 0;
        for (kind, key, state) in rows {
            let usable = match kind.as_str() {
                table::KIND => self.table.restore(&key, &state),
                alarm::KIND => self.alarms.restore(&state),
                servers::KIND => self.servers.restore(&key, &state),
                _ => false,
            };
            damaged += usize::from(!usable);
        }
        let contested = self.table.iter().filter(|(_, entry)| entry.contest.is_some());
        self.contested = contested.map(|(place, _)| place.clone()).collect();
        damaged
    }

    /// This host's interfaces, addresses and default routers, whenever they change.
    pub fn set_own(&mut self, own: Own, now: Timestamp) {
        let new: Vec<_> = own.gateways.difference(&self.own.gateways).cloned().collect();
        // A forged message may take the route away before it is judged itself.
        let lost: Vec<_> = self.own.gateways.difference(&own.gateways).cloned().collect();
        self.left.retain(|(gateway, _)| !own.gateways.contains(gateway));
        for gateway in lost.into_iter().take(LEFT_MAX) {
            if !self.left.iter().any(|(left, _)| *left == gateway) {
                self.left.push((gateway, now));
            }
        }
        self.own = own;
        self.keep_left(now);
        for (interface, gateway) in new {
            self.took_route(&interface, gateway, now);
        }
    }

    /// Those that were our default routers until a moment ago count as such.
    fn keep_left(&mut self, now: Timestamp) {
        for (gateway, since) in &self.left {
            if now.since(*since) < LEFT {
                self.own.gateways.insert(gateway.clone());
            } else {
                self.own.gateways.remove(gateway);
            }
        }
        self.left.retain(|(_, since)| now.since(*since) < LEFT);
    }

    /// Takes a frame up.
    pub fn observe(&mut self, frame: &NeighbourFrame) {
        let decoded = &frame.decoded;
        let asks_unknown = self.unknown_target(frame);
        self.count(frame, asks_unknown);
        match &decoded.body {
            Body::Redundancy(said) => {
                let bound = self.bound(frame, said.source);
                self.explanations.announced(
                    &frame.interface,
                    decoded.source,
                    bound,
                    &said.addresses,
                    frame.time,
                );
                return;
            }
            Body::Dhcp(said) => return self.dhcp(frame, said),
            Body::Dhcp6(said) => return self.dhcp6(frame, said),
            Body::RouterAdvertisement(said) if !frame.from_here => self.router(frame, said),
            Body::Redirect(said) if !frame.from_here => self.redirect(frame, said),
            _ => {}
        }
        self.question(frame);
        if Self::is_answer(frame).is_some_and(|(address, mac)| self.denial(frame, address, mac)) {
            return;
        }
        if let Some(claim) = Claim::of(frame, &self.own) {
            self.claim(&claim);
        }
    }

    /// Takes up a frame of which only the sender's address matters: it was for somebody else, and is one of `one_in` such.
    pub fn observe_passing(&mut self, interface: &Arc<str>, source: Mac, now: Timestamp, one_in: u32) {
        if let Some(sighting) = self.rates.passing(interface, source, now, one_in, &self.thresholds) {
            self.alarms.see(sighting, now, u64::from(one_in), &self.thresholds);
        }
    }

    /// What the agent itself pinned, by command.
    pub fn set_pins(&mut self, pins: Vec<Pinned>) {
        self.pins = pins;
    }

    /// The kernel sends what is for `address` to `mac` from now on.
    pub fn observe_cache(&mut self, interface: &Arc<str>, address: IpAddr, mac: Mac, now: Timestamp) {
        if !mac.is_unicast() || address.is_multicast() || self.own.has(interface, address) {
            return;
        }
        self.cached(&(Arc::clone(interface), 0, address), mac, now);
    }

    /// What time brings: answers that were waited for, findings that close, rows that are due.
    pub fn tick(&mut self, now: Timestamp) {
        self.release_held(now);
        if now.since(self.looked) >= LOOK || now < self.looked {
            self.looked = now;
            self.end_contests(now);
        }
        if now.since(self.swept) >= SWEEP || now < self.swept {
            self.swept = now;
            self.table.forget(now);
            self.keep_left(now);
        }
    }

    /// How long until [`Detector::tick`] and [`Detector::take`] have something to do; none while nothing is open.
    pub fn due_in(&self, now: Timestamp) -> Option<Duration> {
        if self.alarms.is_pressing() {
            return Some(Duration::ZERO);
        }
        let held = self.held.iter().map(|held| held.due.since(now)).min();
        let open = self.alarms.due_in(now, &self.thresholds);
        let last = |place| Some(self.table.get(place)?.contest.as_ref()?.last);
        let settles = self.contested.iter().filter_map(last).min();
        let settles = settles.map(|last| self.thresholds.quiet.saturating_sub(now.since(last)).max(LOOK));
        let rows = self.table.is_dirty().then(|| ROWS_EVERY.saturating_sub(now.since(self.rows_written)));
        [held, open, settles, rows].into_iter().flatten().min()
    }

    /// Findings and rows that are due. `all` rows, at the end.
    pub fn take(&mut self, now: Timestamp, all: bool, new_id: &mut dyn FnMut() -> Uuid) -> Outcome {
        let (findings, mut rows) = self.alarms.take(now, &self.thresholds, new_id);
        rows.extend(self.servers.take_rows());
        let due = all || !findings.is_empty() || now.since(self.rows_written) >= ROWS_EVERY;
        if due && self.table.is_dirty() {
            rows.extend(self.table.take_rows(now));
            self.rows_written = now;
        }
        Outcome { findings, rows }
    }

    /// Counts for the status.
    pub fn tally(&self) -> Tally {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Tally {
            findings: self.alarms.raised,
            neighbours: count(self.table.count()),
            evicted: self.table.evicted,
            refused: self.table.refused,
            explained: self.explained,
            folded: self.alarms.folded,
        }
    }

    /// Everybody who is known, for people.
    pub fn neighbours(&self) -> Vec<Shown> {
        let of = |(place, entry): (&Place, &Neighbour)| {
            let (interface, vlan, address) = place;
            let gateway = self.own.is_gateway(interface, *address);
            Shown::new(
                interface,
                *vlan,
                *address,
                entry,
                gateway,
                self.servers.roles(interface, *address, entry.mac),
            )
        };
        self.table.iter().map(of).collect()
    }

    /// The link-layer address where `address` is known to be.
    fn bound(&self, frame: &NeighbourFrame, address: IpAddr) -> Option<Mac> {
        let place = (Arc::clone(&frame.interface), frame.decoded.vlan, address);
        self.table.get(&place).map(|entry| entry.mac)
    }

    /// Remembers what this host asks for, and who tests whether it may use an address.
    fn question(&mut self, frame: &NeighbourFrame) {
        let (target, is_test) = match &frame.decoded.body {
            Body::Arp(arp) if arp.operation == ArpOperation::Request && !arp.is_announcement() => {
                (IpAddr::V4(arp.target_address), arp.is_probe())
            }
            Body::Solicitation(said) => (IpAddr::V6(said.target), said.source.is_unspecified()),
            _ => return,
        };
        let key = (Arc::clone(&frame.interface), target);
        if frame.from_here {
            // What finds no room makes the table blind, and then every answer counts as asked for.
            let _noted = self.asked.touch(key.clone(), frame.time, || ());
        }
        if is_test {
            self.test(frame, target);
        }
    }

    /// Whether this host asked for the address a moment ago, or may have.
    fn has_asked(&self, interface: &Arc<str>, address: IpAddr, now: Timestamp) -> bool {
        now.since(self.started) < ANSWER
            || self.asked.is_blind(now)
            || self.asked.get(&(Arc::clone(interface), address), now).is_some()
    }

    fn see(&mut self, sighting: Sighting, now: Timestamp, weight: u32) {
        self.alarms.see(sighting, now, u64::from(weight), &self.thresholds);
    }
}

/// Puts evidence together.
fn evidence<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    let known = pairs.into_iter().filter(|(_, value)| !value.is_null());
    known.map(|(name, value)| (name.to_owned(), value)).collect()
}
