//! Harmless causes: who takes part in a fail-over, and who asked for an address by DHCP.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::recent::Recent;
use crate::detect::packets::neighbour::Mac;

/// Routers that stand in for each other, on all interfaces.
const MEMBERS_MAX: usize = 256;
/// Who did not announce itself for so long takes no part: an hour of silence is a backup that never had to.
const MEMBER: Duration = Duration::from_secs(24 * 3_600);
/// Clients that are remembered, and for how long an address that they got explains a change.
const CLIENTS_MAX: usize = 1_024;
const CLIENT: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Debug)]
pub(super) struct Explanations {
    members: Recent<(Arc<str>, Mac), ()>,
    addresses: Recent<(Arc<str>, IpAddr), ()>,
    clients: Recent<(Arc<str>, Mac), ()>,
    leases: Recent<(Arc<str>, IpAddr), Mac>,
}

impl Default for Explanations {
    fn default() -> Self {
        Self {
            members: Recent::new(MEMBERS_MAX, MEMBER),
            addresses: Recent::new(MEMBERS_MAX, MEMBER),
            clients: Recent::new(CLIENTS_MAX, CLIENT),
            leases: Recent::new(CLIENTS_MAX, MEMBER),
        }
    }
}

impl Explanations {
    /// A redundancy protocol spoke: who sent it, where its IP address is known to be, and the addresses of the group.
    pub fn announced(
        &mut self,
        interface: &Arc<str>,
        source: Mac,
        bound: Option<Mac>,
        addresses: &[IpAddr],
        now: Timestamp,
    ) {
        // What finds no room explains nothing.
        for mac in [Some(source), bound].into_iter().flatten() {
            let _noted = self.members.touch((Arc::clone(interface), mac), now, || ());
        }
        for address in addresses {
            let _noted = self.addresses.touch((Arc::clone(interface), *address), now, || ());
        }
    }

    /// A host asked for an address by DHCP.
    pub fn asked_for_lease(&mut self, interface: &Arc<str>, client: Mac, now: Timestamp) {
        let _noted = self.clients.touch((Arc::clone(interface), client), now, || ());
    }

    /// A server gave an address.
    pub fn leased(&mut self, interface: &Arc<str>, client: Mac, address: IpAddr, now: Timestamp) {
        if let Some(of) = self.leases.touch((Arc::clone(interface), address), now, || client) {
            *of = client;
        }
    }

    /// Whether `mac` takes part in a fail-over.
    pub fn is_member(&self, interface: &Arc<str>, mac: Mac, now: Timestamp) -> bool {
        mac.is_shared_by_routers() || self.members.get(&(Arc::clone(interface), mac), now).is_some()
    }

    /// Whether `address` may move from `old` by a fail-over.
    pub fn may_move(&self, interface: &Arc<str>, address: IpAddr, old: Mac, now: Timestamp) -> bool {
        self.is_member(interface, old, now)
            || self.addresses.get(&(Arc::clone(interface), address), now).is_some()
    }

    /// Whether `mac` got `address` by DHCP, or asked for one a moment ago.
    pub fn is_leased(&self, interface: &Arc<str>, mac: Mac, address: IpAddr, now: Timestamp) -> bool {
        let lease = self.leases.get(&(Arc::clone(interface), address), now);
        lease.is_some_and(|(_, client)| *client == mac)
            || self.clients.get(&(Arc::clone(interface), mac), now).is_some()
    }
}
