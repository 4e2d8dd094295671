//! Ends connections that are cut off: both sides hear of it now, rather than when they lose patience or when the lease has
//! ended (`SOCK_DESTROY`, `sock_diag(7)`).

use std::collections::HashSet;
use std::net::IpAddr;

use picket_protocol::action::Transport;

use crate::respond::continuity::{Continuity, Direction};
use crate::sense::network::sockets::{self, FAMILIES, LISTEN, Socket};

/// All states of TCP but `LISTEN`.
const CONNECTED: u32 = sockets::ANY & !LISTEN;
const TCP: u8 = 6;

/// A connection, or another flow, of this host.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// None of one that has no ports.
    pub protocol: Option<Transport>,
    /// This host's end.
    pub local: (IpAddr, u16),
    /// The other.
    pub remote: (IpAddr, u16),
    /// Whether this host began it; none where that is not known.
    pub began_here: Option<bool>,
}

/// Ends all TCP connections of this host but those that are spared; gives how many. What the kernel cannot end
/// is left to the firewall.
pub fn tcp(spares: impl Fn(&Seen) -> bool) -> usize {
    let Ok(mut socket) = sockets::open() else { return 0 };
    let mut served = Some(HashSet::new());
    for family in FAMILIES {
        let listening = sockets::of_family(&mut socket, family, TCP, LISTEN, false).ok();
        served = served.zip(listening).map(|(mut served, listening)| {
            served.extend(listening.iter().map(|one| one.local.1));
            served
        });
    }
    let own = super::own_addresses();
    let mut ended = 0;
    for family in FAMILIES {
        let found = sockets::of_family(&mut socket, family, TCP, CONNECTED, false).unwrap_or_default();
        let is_here =
            |address: IpAddr| address.is_loopback() || address.is_unspecified() || own.contains(&address);
        let seen = |one: &Socket| Seen {
            protocol: Some(Transport::Tcp),
            local: one.local,
            remote: one.remote,
            began_here: served.as_ref().map(|served| !served.contains(&one.local.1)),
        };
        let meant = |one: &&Socket| !is_here(one.remote.0) && !spares(&seen(one));
        ended += found
            .iter()
            .filter(meant)
            .filter(|one| sockets::destroy(&mut socket, family, TCP, one).is_ok())
            .count();
    }
    ended
}

/// Whether it is what an entry of the continuity list names. Of TCP by who began it as well: whoever came from a port that the host may
/// go to is not who is meant.
pub fn is_of(entry: &Continuity, seen: &Seen) -> bool {
    let Seen { protocol, local, remote, began_here } = *seen;
    let (port, is_begun_so) = match entry.direction {
        Direction::In => (local.1, began_here != Some(true)),
        Direction::Out => (remote.1, began_here != Some(false)),
    };
    let is_served = protocol.is_some() || entry.ports.is_empty();
    is_served
        && (is_begun_so || protocol != Some(Transport::Tcp))
        && entry.protocol.is_none_or(|given| Some(given) == protocol)
        && entry.networks.iter().any(|network| network.contains(remote.0))
        && (entry.ports.is_empty()
            || entry.ports.iter().any(|ports| (ports.first..=ports.last).contains(&port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_spares_what_was_begun_as_it_says() {
        let (here, there) = ("10.0.0.9".parse().unwrap(), "10.0.0.5".parse().unwrap());
        let entry = |direction, ports: &[&str]| Continuity {
            name: "x".to_owned(),
            direction,
            protocol: None,
            networks: vec!["10.0.0.0/24".parse().unwrap()],
            ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        };
        let seen = |protocol, local, remote, began_here| Seen {
            protocol: Some(protocol),
            local: (here, local),
            remote: (there, remote),
            began_here: Some(began_here),
        };
        let (tcp, udp) = (Transport::Tcp, Transport::Udp);
        let (out, any_in) = (entry(Direction::Out, &["443"]), entry(Direction::In, &[]));
        assert!(is_of(&out, &seen(tcp, 50_000, 443, true)));
        assert!(!is_of(&out, &seen(tcp, 22, 443, false)), "he came from the port that the host may go to");
        assert!(is_of(&out, &seen(udp, 22, 443, false)), "of UDP nobody knows");
        assert!(is_of(&any_in, &seen(tcp, 22, 50_000, false)));
        for entry in [&out, &any_in] {
            assert!(is_of(entry, &Seen { began_here: None, ..seen(tcp, 22, 443, true) }), "of a list unread");
        }
        assert!(!is_of(&any_in, &seen(tcp, 50_000, 2_049, true)));
        assert!(is_of(&any_in, &Seen { protocol: None, ..seen(tcp, 0, 0, true) }));
        assert!(!is_of(&out, &Seen { protocol: None, ..seen(tcp, 0, 0, true) }));
    }
}
