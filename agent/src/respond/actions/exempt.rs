//! What no block, limit or closed port ever touches: loopback, this host's own addresses, its gateways, its name servers, the
//! collector, and what its owner's continuity list names. Packets of these leave the action's chain before its first rule.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use picket_protocol::action::Network;

use super::Surroundings;
use crate::layout::read_file;
use crate::respond::continuity::Continuity;
use crate::respond::firewall::expression::{
    End, Load, Rule, TCP, Verdict, loopback, network, ports, protocol, rule,
};
use crate::respond::firewall::table::Hook;
use crate::sense::network::neighbours::kernel;

/// Name servers that are read.
const RESOLVERS_MAX: usize = 8;
const RESOLV_CONF: &str = "/etc/resolv.conf";
const RESOLV_CONF_BYTES_MAX: u64 = 64 * 1024;

/// Who is exempt, prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Exempt {
    /// Addresses, and why each is.
    pub addresses: BTreeMap<IpAddr, String>,
    /// Where the collector answers.
    pub collector: Vec<SocketAddr>,
    /// What goes on.
    pub continuity: Vec<Continuity>,
}

impl Exempt {
    /// Finds who is exempt now.
    ///
    /// # Errors
    /// When the owner's policy or the kernel's routes cannot be read.
    pub fn find(surroundings: &Surroundings) -> Result<Self, String> {
        let (_, own) = kernel::own().map_err(|error| format!("the host's routes cannot be read: {error}"))?;
        let mut addresses = BTreeMap::new();
        for resolver in resolvers() {
            addresses.insert(resolver, "a name server of this host".to_owned());
        }
        for (_, gateway) in &own.gateways {
            addresses.insert(*gateway, "a gateway of this host".to_owned());
        }
        for interface in own.interfaces.values() {
            addresses.extend(interface.addresses.iter().map(|own| (*own, "this host's own".to_owned())));
        }
        for collector in &surroundings.collector {
            addresses.insert(collector.ip(), "the collector's".to_owned());
        }
        Ok(Self {
            addresses,
            collector: surroundings.collector.clone(),
            continuity: surroundings.continuity()?,
        })
    }

    /// The rules that come first in a chain. `addresses` tells whether gateways, name servers and own addresses are spared too: a
    /// closed port is closed to the gateway as well, but never to the agent's own connection.
    pub fn rules(&self, hook: Hook, addresses: bool) -> Vec<Rule> {
        let (interface, end) = match hook {
            Hook::Output => (Some(Load::InterfaceOut), End::Destination),
            Hook::Input | Hook::Prerouting => (Some(Load::InterfaceIn), End::Source),
            Hook::Forward => (None, End::Destination),
        };
        let mut rules: Vec<Rule> =
            interface.into_iter().map(|interface| rule([loopback(interface)], Verdict::Return)).collect();
        for entry in &self.continuity {
            rules.extend(entry.rules(hook, &Verdict::Return));
        }
        for collector in &self.collector {
            let port = ports(collector.port(), collector.port(), end);
            let parts = [network(Network::host(collector.ip()), end), protocol(TCP), port];
            rules.push(rule(parts, Verdict::Return));
        }
        if addresses {
            let spared = self.addresses.keys();
            rules
                .extend(spared.map(|address| rule([network(Network::host(*address), end)], Verdict::Return)));
        }
        rules
    }
}

/// Name servers that `/etc/resolv.conf` names.
fn resolvers() -> Vec<IpAddr> {
    let text = read_file(std::path::Path::new(RESOLV_CONF), RESOLV_CONF_BYTES_MAX).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let named = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let address = |rest: &str| rest.split_whitespace().next()?.split('%').next()?.parse().ok();
    named.filter_map(address).take(RESOLVERS_MAX).collect()
}
