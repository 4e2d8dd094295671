//! What no block, limit or closed port ever touches: loopback, this host's own addresses, its gateways, its name servers, the
//! collector, and what its owner's continuity list names. Packets of these leave the action's chain before its first rule.
//!
//! Where `/etc/resolv.conf` names a resolver of this host only, the name servers that it asks are in the files that
//! systemd-resolved and NetworkManager write; with another resolver they are not known, which plans say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use picket_protocol::action::Network;

use super::Surroundings;
use crate::layout::read_file;
use crate::respond::continuity::Continuity;
use crate::respond::firewall::expression::{
    End, Load, Rule, TCP, Verdict, loopback, network, ports, protocol, rule,
};
use crate::respond::firewall::table::Hook;
use crate::sense::network::neighbours::kernel;

/// Name servers that are read of each file.
const RESOLVERS_MAX: usize = 8;
/// Where name servers are named (resolv.conf(5)), from the root on: programs' own, and those that their local resolver asks.
const RESOLV_CONFS: [&str; 4] = [
    "etc/resolv.conf",
    "run/systemd/resolve/resolv.conf",
    "run/NetworkManager/no-stub-resolv.conf",
    "run/NetworkManager/resolv.conf",
];
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
    /// Programs ask a resolver of this host, and whom that asks is not known: so none of them is exempt.
    #[serde(default)]
    pub unknown_resolvers: bool,
}

impl Exempt {
    /// Finds who is exempt now.
    ///
    /// # Errors
    /// When the owner's policy or the kernel's routes cannot be read.
    pub fn find(surroundings: &Surroundings) -> Result<Self, String> {
        let (_, own) = kernel::own().map_err(|error| format!("the host's routes cannot be read: {error}"))?;
        let mut addresses = BTreeMap::new();
        let resolvers = resolvers(Path::new("/"));
        let unknown_resolvers = !resolvers.is_empty() && resolvers.iter().all(IpAddr::is_loopback);
        for resolver in resolvers {
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
            unknown_resolvers,
        })
    }

    /// What a plan is to say of name servers.
    pub fn warning(&self) -> Option<String> {
        self.unknown_resolvers.then(|| {
            "This host's programs ask a resolver on the host itself; whom that asks is not known, and not exempt.".to_owned()
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

/// Name servers that the files below `root` name.
fn resolvers(root: &Path) -> BTreeSet<IpAddr> {
    let address = |rest: &str| rest.split_whitespace().next()?.split('%').next()?.parse().ok();
    let named = |file: &str| -> Vec<IpAddr> {
        let text = read_file(&root.join(file), RESOLV_CONF_BYTES_MAX).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let named = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
        named.filter_map(address).take(RESOLVERS_MAX).collect()
    };
    RESOLV_CONFS.into_iter().flat_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_a_local_resolver_asks_are_found_where_it_says_them() {
        let root = tempfile::tempdir().unwrap();
        let found = || resolvers(root.path()).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(found().is_empty());
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("etc/resolv.conf", "# stub\nnameserver 127.0.0.53\noptions edns0\n");
        assert_eq!(found(), ["127.0.0.53"]);
        write(
            "run/systemd/resolve/resolv.conf",
            "nameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver x\n",
        );
        write("run/NetworkManager/no-stub-resolv.conf", "nameserver 192.0.2.53\nnameserver 192.0.2.54\n");
        assert_eq!(found(), ["127.0.0.53", "192.0.2.53", "192.0.2.54", "fe80::1"]);
    }
}
