//! `rate-limit`: each address may send so much a second, and what is more is dropped before anything is spent on it.

use std::time::Duration;

use picket_protocol::action::Limited;
use serde_json::{Value, json};
use uuid::Uuid;

use super::exempt::Exempt;
use super::syn_cookies::{self, OFF, ON};
use super::{Applied, Deed, Levers, Plan, Surroundings};
use crate::respond::firewall::expression::{
    End, Expression, ICMP, ICMPV6, IPV4, IPV6, Load, Rule, TCP, UDP, Verdict, address, family, ports,
    protocol,
};
use crate::respond::firewall::table::{Chain, Family, Hook, PREFIX, Set, Table};
use crate::respond::firewall::{Ladder, PutBy};

/// Addresses whose rate is known at once: some 100 bytes each in the kernel. A flood from more than these is not from
/// addresses that are its own, and the limit lets it through.
const SOURCES_MAX: u32 = 65_536;
/// After that nothing is known of an address.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
/// `SYN`, of `SYN` and `ACK`: the first segment of a connection.
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
/// Echo requests and answers of ICMPv6 (RFC 4443); errors lie below, what neighbours need of each other above.
const ECHOES: (u8, u8) = (128, 129);

/// A limit, prepared.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limit {
    /// What is counted.
    pub protocol: Limited,
    /// To which port; to all when none.
    pub port: Option<u16>,
    /// How often.
    pub per_second: u32,
    /// Who is not limited.
    pub exempt: Exempt,
    /// SYN cookies were off and are to be on while it lasts.
    #[serde(default)]
    pub cookies: bool,
}

impl Limit {
    /// Prepares it.
    ///
    /// # Errors
    /// When who is exempt cannot be told.
    pub fn prepare(
        protocol: Limited,
        port: Option<u16>,
        per_second: u32,
        surroundings: &Surroundings,
    ) -> Result<Self, String> {
        let cookies = protocol == Limited::Tcp && syn_cookies::are(OFF);
        Ok(Self { protocol, port, per_second, exempt: Exempt::find(surroundings)?, cookies })
    }

    /// What it puts into the kernel.
    pub fn tables(&self, id: Uuid) -> [Table; 1] {
        let mut rules = self.exempt.rules(Hook::Prerouting, true);
        rules
            .extend([(IPV4, "sources-v4"), (IPV6, "sources-v6")].map(|(number, set)| self.rule(number, set)));
        let set = |name: &str, key_bytes| Set {
            name: name.to_owned(),
            key_bytes,
            elements: Vec::new(),
            dynamic: Some((SOURCES_MAX, FORGOTTEN_AFTER)),
        };
        let sets = vec![set("sources-v4", 4), set("sources-v6", 16)];
        let name = format!("{PREFIX}limit-{}", super::short(id));
        [Table { family: Family::Inet, name, sets, chains: vec![Chain { hook: Hook::Prerouting, rules }] }]
    }

    fn rule(&self, number: u8, set: &'static str) -> Rule {
        let counted = match (self.protocol, number) {
            (Limited::Tcp, _) => {
                let flags = [Expression::Load(Load::Transport(13, 1)), Expression::Mask(vec![SYN_ACK])];
                [protocol(TCP), flags.to_vec(), vec![Expression::Is(vec![SYN])]].concat()
            }
            (Limited::Udp, _) => protocol(UDP),
            (Limited::Icmp, IPV4) => protocol(ICMP),
            (Limited::Icmp, _) => {
                let others = Expression::Between(vec![ECHOES.0], vec![ECHOES.1]);
                [protocol(ICMPV6), vec![Expression::Load(Load::Transport(0, 1)), others]].concat()
            }
        };
        let port = self.port.map_or(Vec::new(), |port| ports(port, port, End::Destination));
        let more = vec![
            Expression::Load(address(number, End::Source)),
            Expression::MoreThan(set, u64::from(self.per_second), self.per_second),
            Expression::Verdict(Verdict::Drop),
        ];
        [family(number), counted, port, more].concat()
    }
}

impl Deed for Limit {
    fn plan(&self) -> Plan {
        let what = match self.protocol {
            Limited::Tcp => "new TCP connections",
            Limited::Udp => "UDP datagrams",
            Limited::Icmp => "ICMP messages",
        };
        let port = self.port.map_or(String::new(), |port| format!(" to port {port}"));
        let mut lines = vec![
            format!(
                "Of each address at most {} {what} a second{port} are taken; what is more is dropped.",
                self.per_second
            ),
            format!(
                "Of {SOURCES_MAX} addresses at once: a flood from made-up addresses passes. Gateways, name servers and the \
                 collector are not limited."
            ),
        ];
        if self.cookies {
            lines.push(
                "SYN cookies, which are off, are on while it lasts (net.ipv4.tcp_syncookies): they answer a flood from made-up \
                 addresses. If the agent dies, that ends at its next start."
                    .to_owned(),
            );
        }
        lines.extend(self.exempt.warning());
        Plan {
            lines,
            data: json!({
                "protocol": self.protocol, "port": self.port, "per_second": self.per_second, "syn_cookies": self.cookies,
            }),
        }
    }

    fn try_out(&self, applied: &Applied, firewall: &mut Ladder) -> Result<Option<PutBy>, String> {
        firewall.try_out(&self.tables(applied.id), applied.left).map(Some)
    }

    fn apply(&self, applied: &Applied, levers: &mut Levers) -> Result<Value, String> {
        levers.put(&self.tables(applied.id), applied.left)?;
        if !self.cookies {
            return Ok(Value::Null);
        }
        // Where the setting cannot be written the limit holds all the same.
        let told = syn_cookies::change(applied.id, levers, OFF, ON);
        Ok(json!({ "syn_cookies": told.map_or_else(|why| why, |()| "on".to_owned()) }))
    }

    fn arm(&self, applied: &Applied, levers: &mut Levers) -> Result<(), String> {
        levers.arm(&self.tables(applied.id), applied.left)
    }

    /// Floods come from outside: what a host sends itself is not limited, so that it cannot try.
    fn probe(&self) -> Result<Value, String> {
        Ok(json!({ "probe": "the rules are in the kernel" }))
    }

    fn undo(&self, id: Uuid, levers: &mut Levers) -> Result<(), String> {
        let cookies = if self.cookies { syn_cookies::change(id, levers, ON, OFF) } else { Ok(()) };
        levers.remove(&self.tables(id)).and(cookies)
    }

    fn may_cut_off(&self) -> bool {
        true
    }
}
