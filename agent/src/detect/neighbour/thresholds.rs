//! When is enough. Every number can be set (`[neighbours.thresholds]`); the packaged configuration says why it is what it is.

use std::time::Duration;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// So long nothing more is seen before a finding closes, and a contested address is at peace.
    pub quiet: Duration,
    /// A finding that grew is sent again at the latest after this.
    pub raise_interval: Duration,
    /// New findings a minute; what is beyond is told together.
    pub findings: u32,
    /// After the first start, the first router and DHCP server of an interface are taken for good without a word.
    pub learning: Duration,
    /// Addresses that a host takes from others before it is told as one that does so.
    pub taken: u32,
    /// Unasked answers from one host before that alone is told.
    pub unasked: u32,
    /// Addresses asked for that nobody is known to have, by one host within a minute.
    pub scan: u32,
    /// The same within an hour.
    pub slow_scan: u32,
    /// Messages a second from one host.
    pub flood_host: u32,
    /// Messages a second on one interface.
    pub flood: u32,
    /// Link-layer addresses within ten seconds that were never seen before.
    pub mac_flood: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(600),
            raise_interval: Duration::from_secs(60),
            findings: 30,
            learning: Duration::from_secs(3_600),
            taken: 2,
            unasked: 3,
            scan: 64,
            slow_scan: 256,
            flood_host: 500,
            flood: 3_000,
            mac_flood: 1_000,
        }
    }
}
