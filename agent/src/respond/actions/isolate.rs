//! `isolate`: the host speaks with the collector and with what its owner's continuity list names, and with nobody else.
//!
//! Two tables in one transaction: one for IPv4 and IPv6 (to, from and through this host), one for what goes from port to port
//! of its bridges. The rules look at single packets, so that an established connection ends at once; what still holds sockets
//! that way is told so ([`super::sever`]).

use std::net::{IpAddr, SocketAddr};

use picket_protocol::action::{Network, Service, Transport};
use serde_json::{Value, json};
use uuid::Uuid;

use super::beside::NotCovered;
use super::{Applied, Deed, Levers, Plan, Surroundings, sever, storage, tracked};
use crate::respond::continuity::Continuity;
use crate::respond::firewall::expression::{
    End, Expression, HOPS_LEFT, ICMP, ICMPV6, IPV4, IPV6, Load, Rule, TCP, UDP, Verdict, begins_nothing,
    family, loopback, network, ports, protocol, rule,
};
use crate::respond::firewall::table::{Chain, Family, Hook, PREFIX, Table};
use crate::respond::firewall::{Ladder, PutBy};

/// Messages of ICMPv6 that keep addresses and neighbours alive (RFC 4861, and the reports of RFC 2710 and 3810 without which
/// switches do not pass them on). What comes from a router or neighbour was passed on by nobody: it has [`HOPS`] left. What asks
/// for reports has one, and so cannot have come further.
const NEIGHBOURS_IN: [u8; 3] = [134, 135, 136];
const QUERY: u8 = 130;
const ND_OUT: [u8; 6] = [131, 132, 133, 135, 136, 143];
/// RFC 4861: what has fewer was passed on, and is ignored. RFC 2710: what asks for reports is passed on by nobody.
const HOPS: u8 = 255;
const HOPS_QUERY: u8 = 1;
/// Messages of each of these kinds a second that go out. What they say, and to whom, is anybody's who may write such: it is no line.
const ND_A_SECOND: u64 = 32;
const ND_BURST: u32 = 64;
/// What a router says of packets that are too long for the way.
const TOO_BIG_V6: u8 = 2;
const UNREACHABLE_V4: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
/// Messages of DHCP a second: a lease is renewed with two.
const DHCP_A_SECOND: u64 = 4;
const DHCP_BURST: u32 = 8;

/// An isolation, prepared.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Isolation {
    /// Where the collector (or the proxy on the way to it) answers.
    pub collector: Vec<SocketAddr>,
    /// The user whose sockets may reach it; any, when the uplink has none of its own.
    pub uplink_uid: Option<u32>,
    /// What goes on.
    pub continuity: Vec<Continuity>,
    /// Services that a restore has opened: what comes in to them, and their answers.
    #[serde(default)]
    pub opened: Vec<Service>,
    /// File systems that are out of reach meanwhile, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// What passes the host's own hooks by, and goes on.
    #[serde(default, skip_serializing_if = "NotCovered::is_none")]
    pub not_covered: NotCovered,
}

impl Isolation {
    /// Prepares it.
    ///
    /// # Errors
    /// Why it would strand the host.
    pub fn prepare(surroundings: &Surroundings) -> Result<Self, String> {
        if surroundings.collector.is_empty() {
            return Err("the collector's address is not known, and an isolated host must reach it".to_owned());
        }
        let continuity = surroundings.continuity()?;
        let lost = storage::lost(&continuity, &surroundings.core)?;
        Ok(Self {
            collector: surroundings.collector.clone(),
            uplink_uid: surroundings.uplink_uid,
            continuity,
            opened: Vec::new(),
            lost,
            not_covered: NotCovered::find(),
        })
    }

    /// What it puts into the kernel.
    pub fn tables(&self, id: Uuid) -> [Table; 2] {
        let name = format!("{PREFIX}isolate-{}", super::short(id));
        let chains = vec![
            Chain { hook: Hook::Input, rules: self.input() },
            Chain { hook: Hook::Forward, rules: self.through() },
            Chain { hook: Hook::Output, rules: self.output() },
        ];
        let bridge = vec![Chain { hook: Hook::Forward, rules: vec![rule([], Verdict::Drop)] }];
        [
            Table { family: Family::Inet, name: name.clone(), sets: Vec::new(), chains },
            Table { family: Family::Bridge, name, sets: Vec::new(), chains: bridge },
        ]
    }

    fn continuity(&self, hook: Hook) -> Vec<Rule> {
        self.continuity.iter().flat_map(|entry| entry.rules(hook, &Verdict::Accept)).collect()
    }

    fn input(&self) -> Vec<Rule> {
        let accept = |parts: Vec<Rule>| rule(parts, Verdict::Accept);
        let mut rules = vec![accept(vec![loopback(Load::InterfaceIn)])];
        rules.extend(self.continuity(Hook::Input));
        rules.extend(self.opened.iter().map(|service| accept(vec![port_of(*service, End::Destination)])));
        for collector in &self.collector {
            rules.push(accept(vec![service(*collector, End::Source), begins_nothing()]));
        }
        rules.extend(NEIGHBOURS_IN.map(|kind| accept(vec![icmp(IPV6, ICMPV6, kind), hops(HOPS)])));
        rules.push(accept(vec![icmp(IPV6, ICMPV6, QUERY), hops(HOPS_QUERY)]));
        rules.push(accept(vec![icmp(IPV6, ICMPV6, TOO_BIG_V6)]));
        let code = vec![Expression::Load(Load::Transport(1, 1)), Expression::Is(vec![FRAGMENTATION_NEEDED])];
        rules.push(accept(vec![icmp(IPV4, ICMP, UNREACHABLE_V4), code]));
        rules.extend(
            [(IPV4, 67, 68), (IPV6, 547, 546)].map(|(family, from, to)| accept(vec![dhcp(family, from, to)])),
        );
        rules.push(rule([], Verdict::Drop));
        rules
    }

    fn output(&self) -> Vec<Rule> {
        let accept = |parts: Vec<Rule>| rule(parts, Verdict::Accept);
        let mut rules = vec![accept(vec![loopback(Load::InterfaceOut)])];
        rules.extend(self.continuity(Hook::Output));
        for service in &self.opened {
            let answers = match service.protocol {
                Transport::Tcp => begins_nothing(),
                Transport::Udp => Vec::new(),
            };
            rules.push(accept(vec![port_of(*service, End::Source), answers]));
        }
        let user = self.uplink_uid.map_or(Vec::new(), |uid| {
            vec![Expression::Load(Load::User), Expression::Is(uid.to_ne_bytes().to_vec())]
        });
        for collector in &self.collector {
            rules.push(accept(vec![service(*collector, End::Destination), user.clone()]));
        }
        let pace = vec![Expression::AtMost(ND_A_SECOND, ND_BURST)];
        rules.extend(ND_OUT.map(|kind| accept(vec![icmp(IPV6, ICMPV6, kind), pace.clone()])));
        rules.extend(
            [(IPV4, 68, 67), (IPV6, 546, 547)].map(|(family, from, to)| accept(vec![dhcp(family, from, to)])),
        );
        // Programs are told at once, rather than left to wait.
        rules.push(vec![Expression::Reject]);
        rules
    }

    fn through(&self) -> Vec<Rule> {
        let mut rules = self.continuity(Hook::Forward);
        rules.push(rule([], Verdict::Drop));
        rules
    }

    /// Whether a connection goes on.
    fn spares(&self, seen: &sever::Seen) -> bool {
        let is_opened =
            |service: &Service| Some(service.protocol) == seen.protocol && service.port == seen.local.1;
        self.collector.contains(&SocketAddr::from(seen.remote))
            || self.opened.iter().any(is_opened)
            || self.continuity.iter().any(|entry| sever::is_of(entry, seen))
    }
}

impl Deed for Isolation {
    fn plan(&self) -> Plan {
        let collector: Vec<String> = self.collector.iter().map(ToString::to_string).collect();
        let mut lines = vec![
            "All traffic to, from and through this host is cut, established connections as well; the kernel \
             itself ends that with the lease."
                .to_owned(),
            format!("Goes on: loopback, the agent's connection to {}", collector.join(", ")),
            "Goes on: what keeps the addresses alive (ARP, neighbour discovery, renewal by DHCP)".to_owned(),
        ];
        lines.extend(
            self.continuity.iter().map(|entry| format!("Goes on by the owner's policy: {}", entry.name)),
        );
        lines.extend(self.opened.iter().map(|service| format!("Open again by a restore: {service}")));
        lines.extend(self.lost.iter().cloned());
        lines.extend(self.not_covered.lines());
        lines.push("Names are not resolved unless the policy lists a name server.".to_owned());
        let names: Vec<&str> = self.continuity.iter().map(|entry| entry.name.as_str()).collect();
        let data = json!({
            "collector": self.collector, "continuity": names, "lost": self.lost, "not_covered": self.not_covered,
        });
        Plan { lines, data }
    }

    fn try_out(&self, applied: &Applied, firewall: &mut Ladder) -> Result<Option<PutBy>, String> {
        firewall.try_out(&self.tables(applied.id), applied.left).map(Some)
    }

    fn apply(&self, applied: &Applied, levers: &mut Levers) -> Result<Value, String> {
        levers.put(&self.tables(applied.id), applied.left)?;
        let severed = sever::tcp(|seen| self.spares(seen));
        let own = super::own_addresses();
        let is_here = |address: IpAddr| address.is_loopback() || own.contains(&address);
        let forgotten = tracked::forget(|protocol, from, to| {
            (is_here(from.0) && is_here(to.0))
                || self.spares(&sever::Seen { protocol, local: from, remote: to, began_here: Some(true) })
                || self.spares(&sever::Seen { protocol, local: to, remote: from, began_here: Some(false) })
        });
        Ok(json!({ "connections_cut": severed, "flows_forgotten": forgotten }))
    }

    fn arm(&self, applied: &Applied, levers: &mut Levers) -> Result<(), String> {
        levers.arm(&self.tables(applied.id), applied.left)
    }

    /// A datagram to the collector's own address, to a port that is not the collector's: there is a way to it, and it
    /// must be refused.
    fn probe(&self) -> Result<Value, String> {
        let mut refused = Vec::new();
        for collector in &self.collector {
            if collector.ip().is_loopback() {
                continue;
            }
            super::probe::is_refused(collector.ip())?;
            refused.push(collector.ip());
        }
        Ok(json!({ "refused": refused }))
    }

    fn undo(&self, id: Uuid, levers: &mut Levers) -> Result<(), String> {
        levers.remove(&self.tables(id))
    }

    fn may_cut_off(&self) -> bool {
        true
    }
}

fn service(peer: SocketAddr, end: End) -> Rule {
    let ports = ports(peer.port(), peer.port(), end);
    [network(Network::host(peer.ip()), end), protocol(TCP), ports].concat()
}

fn port_of(service: Service, end: End) -> Rule {
    let number = match service.protocol {
        Transport::Tcp => TCP,
        Transport::Udp => UDP,
    };
    [protocol(number), ports(service.port, service.port, end)].concat()
}

fn icmp(version: u8, number: u8, kind: u8) -> Rule {
    let kind = vec![Expression::Load(Load::Transport(0, 1)), Expression::Is(vec![kind])];
    [family(version), protocol(number), kind].concat()
}

/// Hops that are left of a packet of IPv6.
fn hops(left: u8) -> Rule {
    vec![Expression::Load(HOPS_LEFT), Expression::Is(vec![left])]
}

fn dhcp(version: u8, from: u16, to: u16) -> Rule {
    let ends = [ports(from, from, End::Source), ports(to, to, End::Destination)].concat();
    let limit = vec![Expression::AtMost(DHCP_A_SECOND, DHCP_BURST)];
    [family(version), protocol(UDP), ends, limit].concat()
}
