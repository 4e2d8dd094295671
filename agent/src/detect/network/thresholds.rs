//! When is enough. `[network.thresholds]` of the configuration sets them.

use std::time::Duration;

use crate::sense::watch::half;

/// When is enough, in packets a second that nothing explains. They protect a host from its first minute; once it has learned what is usual
/// they move, within bounds (`flood::baseline`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Half-open handshakes a second (net.flood.syn). 2,000: a queue of half-open connections holds 256 to 4,096, so it is full after
    /// a second or two. Handshakes that are completed do not count, whatever their rate.
    pub syn: u32,
    /// SYN-ACKs, RSTs and segments without a connection a second. 5,000: an aborted download leaves some hundreds.
    pub tcp: u32,
    /// Datagrams a second that nobody answers (net.flood.udp). 10,000: a collector of logs or flows sees a few thousand.
    pub udp: u32,
    /// Answers a second that nobody asked for (net.flood.amplification). 2,000: some 20 Mbit/s, and nothing else does that.
    pub amplification: u32,
    /// ICMP a second that is not answered (net.flood.icmp). 1,000: Linux itself answers no more errors than that.
    pub icmp: u32,
    /// ICMP a second that is answered, by which one sender fills the line. 100,000: `ping -f` waits for its answers and stays below.
    pub icmp_answered: u32,
    /// Parts of packets a second that are never whole (net.flood.fragment). 2,000: the kernel keeps 4 MiB of them.
    pub fragment: u32,
    /// Packets a second with impossible headers or flags (net.flood.malformed). 500: a broken card sends a few.
    pub malformed: u32,
    /// Complete handshakes a second in which nothing is asked (net.flood.connection). 1,000: health checks are a few.
    pub connections: u32,
    /// Handshakes a second for which the accept queue has no room. 50: a service that starts loses a few.
    pub overflows: u32,
    /// Slow connections to one service (net.flood.slow). 100: the smallest web servers serve 150 at once.
    pub slow: u32,
    /// A flood has ended when its rate was below half its limit for so long. 5 s: told within 10 s of the last packet, and a pulse of
    /// a few seconds is one flood.
    pub quiet: Duration,
    /// A flood that lasts is told again after this. 60 s.
    pub raise_interval: Duration,
    /// Ports of one host that one source tries in vain within [`Thresholds::scan_window`] (net.scan.port). 20.
    pub scan_ports: u32,
    /// Hosts that one source tries in vain within the same time (net.scan.host). 20.
    pub scan_hosts: u32,
    /// Within this. 5 min.
    pub scan_window: Duration,
    /// The same over [`Thresholds::slow_scan_window`]. 40: twice as many, as honest mistakes add up over hours.
    pub slow_scan: u32,
    /// 6 h.
    pub slow_scan_window: Duration,
    /// Packets with the flags of stealth scans, to as many ports, from one source (net.scan.stealth). 5: honest programs send none.
    pub stealth: u32,
}

/// Fewest packets a second, connections and ports that are told while a host is watched closely.
const WATCHED_LEAST: u32 = 5;

impl Thresholds {
    /// Half of what is counted: while the host is watched closely. What a fast line may carry (`icmp_answered`) is no matter of that.
    #[must_use]
    pub fn watched(self) -> Self {
        let half = |threshold| half(threshold, WATCHED_LEAST);
        Self {
            syn: half(self.syn),
            tcp: half(self.tcp),
            udp: half(self.udp),
            amplification: half(self.amplification),
            icmp: half(self.icmp),
            fragment: half(self.fragment),
            malformed: half(self.malformed),
            connections: half(self.connections),
            slow: half(self.slow),
            scan_ports: half(self.scan_ports),
            scan_hosts: half(self.scan_hosts),
            slow_scan: half(self.slow_scan),
            ..self
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            syn: 2_000,
            tcp: 5_000,
            udp: 10_000,
            amplification: 2_000,
            icmp: 1_000,
            icmp_answered: 100_000,
            fragment: 2_000,
            malformed: 500,
            connections: 1_000,
            overflows: 50,
            slow: 100,
            quiet: Duration::from_secs(5),
            raise_interval: Duration::from_secs(60),
            scan_ports: 20,
            scan_hosts: 20,
            scan_window: Duration::from_secs(300),
            slow_scan: 40,
            slow_scan_window: Duration::from_secs(6 * 3_600),
            stealth: 5,
        }
    }
}
