//! What this host knows of itself: its interfaces, addresses and default routers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::detect::packets::neighbour::Mac;

/// An interface of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its link-layer address.
    pub mac: Option<Mac>,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// What it is made of: `bridge`, `veth`, `bond` …; empty for hardware.
    pub kind: String,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// By name.
    pub interfaces: BTreeMap<Arc<str>, Interface>,
    /// Next hops of default routes, with their interfaces.
    pub gateways: BTreeSet<(Arc<str>, IpAddr)>,
}

impl Own {
    /// Whether it is the link-layer address of one of our interfaces.
    pub fn is_mac(&self, mac: Mac) -> bool {
        self.interfaces.values().any(|interface| interface.mac == Some(mac))
    }

    /// Whether we have this address on that interface.
    pub fn has(&self, interface: &str, address: IpAddr) -> bool {
        self.interfaces.get(interface).is_some_and(|own| own.addresses.contains(&address))
    }

    /// Whether virtual machines or containers of this host live behind it: there addresses change hands all day. Not where a default
    /// route goes over it: that is the way out of a container, or of a host whose machines share its bridge.
    pub fn is_virtual_segment(&self, interface: &str) -> bool {
        let kind = self.interfaces.get(interface).map_or("", |own| own.kind.as_str());
        matches!(kind, "bridge" | "macvlan" | "ipvlan" | "tun" | "veth")
            && self.gateways.iter().all(|(other, _)| **other != *interface)
    }

    /// Whether our default route goes by it.
    pub fn is_gateway(&self, interface: &Arc<str>, address: IpAddr) -> bool {
        !self.gateways.is_empty() && self.gateways.contains(&(Arc::clone(interface), address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_default_route_goes_over_is_no_segment_of_this_host() {
        let kinds = [("br0", "bridge"), ("docker0", "bridge"), ("eth0", "veth"), ("eth1", "")];
        let interface = |kind: &str| Interface { kind: kind.to_owned(), ..Interface::default() };
        let own = Own {
            interfaces: kinds.map(|(name, kind)| (Arc::from(name), interface(kind))).into(),
            gateways: ["br0", "eth0"].map(|name| (Arc::from(name), IpAddr::from([192, 0, 2, 1]))).into(),
        };
        let names = ["br0", "docker0", "eth0", "eth1", "gone"];
        assert_eq!(names.map(|name| own.is_virtual_segment(name)), [false, true, false, false, false]);
    }
}
