//! The customer's continuity list (`policy.toml`): what must go on working whatever is cut off, such as an administrator's jump
//! host, a replica of a database, a telephone exchange's ports. No command takes it away.

use std::str::FromStr;

use picket_protocol::action::{Network, Transport};

use super::firewall::Hook;
use super::firewall::expression::{
    End, Rule, TCP, Verdict, begins_nothing, network, number_of, other_than, ports, protocol, rule,
};

/// Entries of the list, networks and ranges of ports of one entry.
pub const ENTRIES_MAX: usize = 128;
/// See [`ENTRIES_MAX`].
pub const PARTS_MAX: usize = 64;
/// Longest name of an entry, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// They connect to a port of this host.
    In,
    /// This host connects to a port of theirs.
    Out,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Continuity {
    /// What it is for, as people call it.
    pub name: String,
    /// Who begins.
    pub direction: Direction,
    /// Of which protocol; of any when absent, and with ports of both that have some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Transport>,
    /// Who they are.
    pub networks: Vec<Network>,
    /// On which ports; on all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Ports>,
}

/// A range of ports, written `22` or `10000-20000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

/// Why a text is no range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a port like \"22\", nor a range like \"10000-20000\"")]
pub struct PortsError;

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0).ok_or(PortsError);
        let (first, last) = (port(first)?, port(last)?);
        if first <= last { Ok(Self { first, last }) } else { Err(PortsError) }
    }
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl serde::Serialize for Ports {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Ports {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Continuity {
    /// Checks the bounds.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), &'static str> {
        match () {
            () if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX => {
                Err("its name has not 1 to 128 bytes")
            }
            () if self.networks.is_empty() => {
                Err("it names no networks: \"0.0.0.0/0\" and \"::/0\" are everybody")
            }
            () if self.networks.len() > PARTS_MAX => Err("it names more than 64 networks"),
            () if self.ports.len() > PARTS_MAX => Err("it names more than 64 ranges of ports"),
            () => Ok(()),
        }
    }

    /// The rules by which its packets of one hook have `verdict`. Whoever does not begin may answer: of TCP that is told from a packet alone.
    pub fn rules(&self, hook: Hook, verdict: &Verdict) -> Vec<Rule> {
        // Toward the side that serves, its port is the destination; on the way back the source.
        let there = Way { peer: End::Source, port: End::Destination, answers: false };
        let back = Way { peer: End::Destination, port: End::Source, answers: true };
        let out = Way { peer: End::Destination, port: End::Destination, answers: false };
        let home = Way { peer: End::Source, port: End::Source, answers: true };
        let ways: &[Way] = match (hook, self.direction) {
            (Hook::Input | Hook::Prerouting, Direction::In) => &[there],
            (Hook::Output, Direction::In) => &[back],
            (Hook::Input | Hook::Prerouting, Direction::Out) => &[home],
            (Hook::Output, Direction::Out) => &[out],
            // For a container or a machine of this host: it is the other side that is named.
            (Hook::Forward, Direction::In) => &[there, back],
            (Hook::Forward, Direction::Out) => &[out, home],
        };
        let mut rules = Vec::new();
        for way in ways {
            for peers in &self.networks {
                for service in self.services(*way) {
                    rules.push(rule([network(*peers, way.peer), service], verdict.clone()));
                }
            }
        }
        rules
    }

    /// What matches protocol and ports, a rule each.
    fn services(&self, way: Way) -> Vec<Rule> {
        let both = [Transport::Tcp, Transport::Udp];
        let of = |one: Transport, ports: Rule| {
            let answers = if way.answers && one == Transport::Tcp { begins_nothing() } else { Vec::new() };
            [protocol(number_of(one)), ports, answers].concat()
        };
        match (self.protocol, self.ports.as_slice()) {
            (None, []) if way.answers => vec![of(Transport::Tcp, Vec::new()), other_than(TCP)],
            (None, []) => vec![Vec::new()],
            (Some(one), []) => vec![of(one, Vec::new())],
            (given, ranges) => {
                let protocols = both.into_iter().filter(|one| given.is_none_or(|given| given == *one));
                let ranges = |one: Transport| {
                    ranges.iter().map(move |range| of(one, ports(range.first, range.last, way.port)))
                };
                protocols.flat_map(ranges).collect()
            }
        }
    }
}

/// One way of an entry's packets.
#[derive(Clone, Copy)]
struct Way {
    /// Which end is one of its networks.
    peer: End,
    /// Which end's port is one of its ports.
    port: End,
    /// Whether these packets answer only.
    answers: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ports_have_one_meaning() {
        assert_eq!("22".parse(), Ok(Ports { first: 22, last: 22 }));
        assert_eq!("10000-20000".parse(), Ok(Ports { first: 10_000, last: 20_000 }));
        for text in ["", "0", "20-10", "65536", "-", "1-", "a", "1-2-3"] {
            assert_eq!(text.parse::<Ports>(), Err(PortsError), "{text}");
        }
    }

    #[test]
    fn an_entry_is_a_rule_for_each_network_protocol_and_range() {
        let entry = Continuity {
            name: "telephones".to_owned(),
            direction: Direction::In,
            protocol: None,
            networks: ["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().expect("a network")).to_vec(),
            ports: ["5060", "10000-20000"].map(|text| text.parse().expect("ports")).to_vec(),
        };
        assert_eq!(entry.check(), Ok(()));
        assert_eq!(entry.rules(Hook::Input, &Verdict::Accept).len(), 8);
        assert_eq!(entry.rules(Hook::Forward, &Verdict::Accept).len(), 16);
        let any = Continuity { ports: Vec::new(), ..entry };
        assert_eq!(any.rules(Hook::Input, &Verdict::Return).len(), 2);
        assert_eq!(any.rules(Hook::Output, &Verdict::Return).len(), 4);
    }
}
