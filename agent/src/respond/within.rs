//! Whether an address or a network lies within one of many: a look-up for each length that occurs, however many there are.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use picket_protocol::action::Network;

/// Networks to look up in.
#[derive(Clone, Debug)]
pub struct Within {
    networks: HashSet<Network>,
    /// Whether it is IPv4, and the length.
    lengths: BTreeSet<(bool, u8)>,
}

impl Within {
    /// Whether an address lies in one of them.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.has(Network::host(address))
    }

    /// Whether a network is one of them, or lies in one.
    pub fn has(&self, network: Network) -> bool {
        let family = network.address().is_ipv4();
        let wider = self.lengths.range((family, 0)..=(family, network.length()));
        wider
            .filter_map(|(_, length)| Network::new(network.address(), *length))
            .any(|wider| self.networks.contains(&wider))
    }

    /// All of them, in no order.
    pub fn into_networks(self) -> impl Iterator<Item = Network> {
        self.networks.into_iter()
    }
}

impl FromIterator<Network> for Within {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        let networks: HashSet<Network> = networks.into_iter().collect();
        let lengths =
            networks.iter().map(|network| (network.address().is_ipv4(), network.length())).collect();
        Self { networks, lengths }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_says_what_looking_at_each_says(
            all in proptest::collection::vec((any::<u8>(), 0..=32_u8), 0..20),
            asked in any::<u8>(),
        ) {
            let place = |byte: u8| IpAddr::from([10, byte & 3, byte >> 4, byte]);
            let all: Vec<Network> =
                all.iter().filter_map(|(byte, length)| Network::new(place(*byte), *length)).collect();
            let within: Within = all.iter().copied().collect();
            let address = place(asked);
            prop_assert_eq!(within.has_address(address), all.iter().any(|network| network.contains(address)));
        }
    }
}
