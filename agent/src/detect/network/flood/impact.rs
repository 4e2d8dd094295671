//! What a flood does to the services of the host, by the kernel's own counters.

use crate::detect::network::KernelDelta;
use crate::detect::network::words::grouped;

/// Sums over the flood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Impact {
    /// Whether the kernel was asked: not in a capture.
    known: bool,
    listen_drops: u64,
    listen_overflows: u64,
    syn_cookies_sent: u64,
    request_queue_drops: u64,
    segments_sent: u64,
    segments_retransmitted: u64,
    softnet_dropped: u64,
    interface_dropped: u64,
    udp_buffer_errors: u64,
    reassembly_fails: u64,
    conntrack_dropped: u64,
    conntrack_percent: u64,
}

impl Impact {
    /// Adds a reading.
    pub fn add(&mut self, kernel: &KernelDelta) {
        self.known = true;
        let sums = [
            (&mut self.listen_drops, kernel.listen_drops),
            (&mut self.listen_overflows, kernel.listen_overflows),
            (&mut self.syn_cookies_sent, kernel.syncookies_sent),
            (&mut self.request_queue_drops, kernel.request_queue_drops),
            (&mut self.segments_sent, kernel.tcp_sent),
            (&mut self.segments_retransmitted, kernel.tcp_retransmitted),
            (&mut self.softnet_dropped, kernel.softnet_dropped),
            (&mut self.interface_dropped, kernel.interface_dropped),
            (&mut self.udp_buffer_errors, kernel.udp_buffer_errors),
            (&mut self.reassembly_fails, kernel.reassembly_fails),
            (&mut self.conntrack_dropped, kernel.conntrack_dropped),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
        let full = kernel.conntrack_count.saturating_mul(100).checked_div(kernel.conntrack_max).unwrap_or(0);
        self.conntrack_percent = self.conntrack_percent.max(full);
    }

    /// Whether honest clients are turned away, or what they sent is lost.
    pub fn hurts(&self) -> bool {
        self.words().is_some()
    }

    /// The gravest of it in words.
    pub fn words(&self) -> Option<String> {
        let rows = [
            (self.conntrack_dropped, "dropped for want of room in conntrack"),
            (self.listen_overflows, "handshakes dropped, since the accept queue is full"),
            (self.request_queue_drops.max(self.listen_drops), "connection attempts dropped"),
            (self.softnet_dropped, "packets dropped before any program saw them"),
            (self.interface_dropped, "packets dropped by the network card"),
            (self.udp_buffer_errors, "datagrams lost by their program"),
        ];
        let grave = rows.into_iter().find(|(count, _)| *count > 0);
        grave.map(|(count, words)| format!("{} {words}", grouped(count))).or_else(|| {
            let lost = self.segments_retransmitted >= 100
                && self.segments_retransmitted.saturating_mul(10) >= self.segments_sent;
            lost.then(|| format!("{} segments sent again", grouped(self.segments_retransmitted)))
        })
    }
}
