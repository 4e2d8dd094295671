//! Ends connections that are cut off: both sides hear of it now, rather than when they lose patience or when the lease has
//! ended (`SOCK_DESTROY`, `sock_diag(7)`).

use std::net::IpAddr;

use picket_protocol::action::Transport;

use crate::respond::continuity::{Continuity, Direction};
use crate::sense::network::sockets::{self, FAMILIES, LISTEN, Socket};

/// All states of TCP but `LISTEN`.
const CONNECTED: u32 = sockets::ANY & !LISTEN;
const TCP: u8 = 6;

/// Ends all TCP connections of this host but those that are spared, by their ends; gives how many. What the kernel cannot end
/// is left to the firewall.
pub fn tcp(spares: impl Fn((IpAddr, u16), (IpAddr, u16)) -> bool) -> usize {
    let Ok(mut socket) = sockets::open() else { return 0 };
    let own = super::own_addresses();
    let mut ended = 0;
    for family in FAMILIES {
        let found = sockets::of_family(&mut socket, family, TCP, CONNECTED, false).unwrap_or_default();
        let is_here =
            |address: IpAddr| address.is_loopback() || address.is_unspecified() || own.contains(&address);
        let meant = |one: &&Socket| !is_here(one.remote.0) && !spares(one.local, one.remote);
        ended += found
            .iter()
            .filter(meant)
            .filter(|one| sockets::destroy(&mut socket, family, TCP, one).is_ok())
            .count();
    }
    ended
}

/// Whether a connection is what an entry of the continuity list names; `protocol` is none of one that has no ports.
pub fn is_of(
    entry: &Continuity,
    protocol: Option<Transport>,
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
) -> bool {
    let port = match entry.direction {
        Direction::In => local.1,
        Direction::Out => remote.1,
    };
    let is_served = protocol.is_some() || entry.ports.is_empty();
    is_served
        && entry.protocol.is_none_or(|given| Some(given) == protocol)
        && entry.networks.iter().any(|network| network.contains(remote.0))
        && (entry.ports.is_empty()
            || entry.ports.iter().any(|ports| (ports.first..=ports.last).contains(&port)))
}
