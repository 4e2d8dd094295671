//! This host's own addresses claimed by others, and addresses that hosts are kept from using; with what must be remembered
//! of those who do such things.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::Severity;
use serde_json::json;

use super::alarm::Sighting;
use super::claim::{Claim, Held};
use super::recent::Recent;
use super::{Detector, evidence};
use crate::detect::packets::neighbour::{ArpOperation, Body, Mac, NeighbourFrame};

/// Hosts of which is remembered what they took, or answered unasked.
const HOSTS_MAX: usize = 256;
/// Addresses of one host that are remembered.
const TAKEN_MAX: usize = 64;
/// For how long.
const TAKEN: Duration = Duration::from_secs(600);
const UNASKED: Duration = Duration::from_secs(60);
/// Tests that are remembered, and how long after one its answer may come.
const TESTS_MAX: usize = 1_024;
const TEST: Duration = Duration::from_secs(3);
/// This host gives an address up a moment before or after another takes it over.
const HOLD: Duration = Duration::from_secs(2);
/// So many claims of an own address are no accident of a moment.
const STUBBORN: u32 = 3;

type Host = (Arc<str>, Mac);

/// See the module.
#[derive(Debug)]
pub(super) struct Conflicts {
    /// What each host took, and from whom.
    taken: Recent<Host, BTreeSet<(IpAddr, Mac)>>,
    unasked: Recent<Host, u32>,
    /// Who tests which address.
    tests: Recent<(Arc<str>, IpAddr), Mac>,
    /// Addresses denied on each interface.
    denied: Recent<Arc<str>, BTreeSet<IpAddr>>,
    /// Claims of each own address.
    own: Recent<(Arc<str>, IpAddr), u32>,
}

impl Default for Conflicts {
    fn default() -> Self {
        Self {
            taken: Recent::new(HOSTS_MAX, TAKEN),
            unasked: Recent::new(HOSTS_MAX, UNASKED),
            tests: Recent::new(TESTS_MAX, TEST),
            denied: Recent::new(HOSTS_MAX, TAKEN),
            own: Recent::new(HOSTS_MAX, TAKEN),
        }
    }
}

impl Conflicts {
    /// From how many others than `owner` the claimant took addresses, `owner`'s included: a router that got a new card takes
    /// all addresses of one.
    pub fn taken_by(&self, claim: &Claim, owner: Mac) -> u32 {
        let host = (Arc::clone(&claim.place.0), claim.mac);
        let Some((_, taken)) = self.taken.get(&host, claim.time) else { return 1 };
        let mut owners: BTreeSet<Mac> = taken.iter().map(|(_, owner)| *owner).collect();
        owners.insert(owner);
        u32::try_from(owners.len()).unwrap_or(u32::MAX)
    }

    /// Notes that the claimant took an address from `owner`. Gives all that it took.
    pub fn took(&mut self, claim: &Claim, owner: Mac) -> Vec<IpAddr> {
        let host = (Arc::clone(&claim.place.0), claim.mac);
        let Some(taken) = self.taken.touch(host, claim.time, BTreeSet::new) else { return Vec::new() };
        if taken.len() < TAKEN_MAX {
            taken.insert((claim.place.2, owner));
        }
        taken.iter().map(|(address, _)| *address).collect()
    }

    /// How many answers the sender gave unasked.
    pub fn unasked(&mut self, claim: &Claim) -> u32 {
        let host = (Arc::clone(&claim.place.0), claim.source);
        let Some(count) = self.unasked.touch(host, claim.time, || 0) else { return 0 };
        *count = count.saturating_add(1);
        *count
    }
}

impl Detector {
    /// Another host says that it has an address of ours.
    pub(super) fn conflict(&mut self, claim: &Claim) {
        let (interface, _, address) = &claim.place;
        // Two cards of one host on one segment answer for each other.
        if self.own.is_mac(claim.mac) && !claim.is_mismatched() {
            return;
        }
        let moves = self.explanations.is_member(interface, claim.mac, claim.time)
            || self.explanations.may_move(interface, *address, claim.mac, claim.time);
        if moves {
            let held = Held { claim: claim.clone(), due: claim.time.plus(HOLD) };
            if !self.held.iter().any(|other| other.claim.place == claim.place) && self.held.len() < HOSTS_MAX
            {
                self.held.push(held);
            }
            return;
        }
        self.conflict_stands(claim);
    }

    pub(super) fn conflict_stands(&mut self, claim: &Claim) {
        let (interface, _, address) = &claim.place;
        let key = (Arc::clone(interface), *address);
        let count = self.conflicts.own.touch(key, claim.time, || 0).map_or(1, |count| {
            *count = count.saturating_add(1);
            *count
        });
        let severity = if count >= STUBBORN { Severity::High } else { Severity::Medium };
        let other = claim.source != claim.mac;
        let sighting = Sighting {
            rule: "neighbour.address-conflict".to_owned(),
            interface: interface.to_string(),
            subject: address.to_string(),
            severity,
            title: format!(
                "This host's address {address} on {interface} is claimed by {} as well",
                claim.mac
            ),
            addresses: vec![*address],
            evidence: evidence([
                ("address", json!(address)),
                ("own", json!(true)),
                ("owner", json!(self.own.interfaces.get(interface).and_then(|own| own.mac))),
                ("claimed_by", json!(claim.mac)),
                ("ethernet_source", if other { json!(claim.source) } else { serde_json::Value::Null }),
                ("claims", json!(count)),
            ]),
            explained: None,
        };
        self.see(sighting, claim.time, claim.weight);
    }

    /// Somebody tests whether he may use an address (RFC 4862, 5227).
    pub(super) fn test(&mut self, frame: &NeighbourFrame, address: IpAddr) {
        let (interface, source) = (&frame.interface, frame.decoded.source);
        // Without room a denial is not seen, and the flood that took the room is told.
        let _noted = self.conflicts.tests.touch((Arc::clone(interface), address), frame.time, || source);
        if frame.from_here || !self.own.has(interface, address) || self.own.is_mac(source) {
            return;
        }
        let sighting = Sighting {
            rule: "neighbour.address-conflict".to_owned(),
            interface: interface.to_string(),
            subject: address.to_string(),
            severity: Severity::Low,
            title: format!("{source} on {interface} would like to use this host's address {address}"),
            addresses: vec![address],
            evidence: evidence([
                ("address", json!(address)),
                ("own", json!(true)),
                ("claimed_by", json!(source)),
            ]),
            explained: None,
        };
        self.see(sighting, frame.time, frame.weight);
    }

    /// An answer to a test, and whether it is one: one may be a true conflict, several are somebody who keeps others off the network.
    pub(super) fn denial(&mut self, frame: &NeighbourFrame, address: IpAddr, mac: Mac) -> bool {
        let interface = &frame.interface;
        let test = self.conflicts.tests.get(&(Arc::clone(interface), address), frame.time);
        let Some(tester) = test.map(|(_, tester)| *tester) else { return false };
        if tester == mac || tester == frame.decoded.source || frame.from_here {
            return false;
        }
        let ours = self.own.is_mac(tester);
        let Some(denied) = self.conflicts.denied.touch(Arc::clone(interface), frame.time, BTreeSet::new)
        else {
            return false;
        };
        if denied.len() < TAKEN_MAX {
            denied.insert(address);
        }
        let (count, addresses) = (denied.len(), denied.iter().copied().collect::<Vec<_>>());
        let whom = if ours { "this host" } else { "a host" };
        let (subject, severity, title) = match (count, ours) {
            (..2, _) => (
                address.to_string(),
                if ours { Severity::Medium } else { Severity::Low },
                format!("{mac} on {interface} says that it has {address}, which {whom} was about to use"),
            ),
            _ => (
                "denial".to_owned(),
                Severity::High,
                format!(
                    "{mac} on {interface} keeps hosts from getting addresses: it claims each that they test"
                ),
            ),
        };
        let sighting = Sighting {
            rule: "neighbour.address-conflict".to_owned(),
            interface: interface.to_string(),
            subject,
            severity,
            title,
            addresses,
            evidence: evidence([
                ("address", json!(address)),
                ("own", json!(ours)),
                ("tested_by", json!(tester)),
                ("claimed_by", json!(mac)),
                ("ethernet_source", json!(frame.decoded.source)),
                ("denied", json!(count)),
            ]),
            explained: None,
        };
        self.see(sighting, frame.time, frame.weight);
        true
    }

    /// Whether a frame answers a test: to all, or to the tester by ARP.
    pub(super) fn is_answer(frame: &NeighbourFrame) -> Option<(IpAddr, Mac)> {
        match &frame.decoded.body {
            Body::Advertisement(said) => {
                Some((IpAddr::V6(said.target), said.link.unwrap_or(frame.decoded.source)))
            }
            Body::Arp(arp) if arp.operation == ArpOperation::Reply => {
                Some((IpAddr::V4(arp.sender_address), arp.sender))
            }
            _ => None,
        }
    }
}
