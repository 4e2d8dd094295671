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

impl Interface {
    /// Whether virtual machines or containers of this host live behind it: there addresses change hands all day.
    pub fn is_virtual_segment(&self) -> bool {
        matches!(self.kind.as_str(), "bridge" | "macvlan" | "ipvlan" | "tun" | "veth")
    }
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

    /// Whether our default route goes by it.
    pub fn is_gateway(&self, interface: &Arc<str>, address: IpAddr) -> bool {
        !self.gateways.is_empty() && self.gateways.contains(&(Arc::clone(interface), address))
    }
}
