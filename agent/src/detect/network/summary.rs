//! What went over the interfaces in an interval, as the detectors want it: deltas, bounded, the same from whichever rung.
//!
//! # How it is counted
//! [`super::counter`] does it in user space, `agent/bpf/network.bpf.c` in the kernel; the algorithms are the same.
//! - **Totals** are exact: packets and bytes by interface, [`Direction`] and [`Class`]. Bytes are those on the wire from the link header on.
//!   What the kernel or a card has merged counts as the segments that it came in (`gso_segs`).
//! - **Heavy hitters** ([`Talker`]s by interface, direction, class and source address; [`Target`]s by interface, direction, class, destination
//!   address and port) stand in tables of fixed size. The hash of the key chooses one slot. A packet of the slot's key adds one to its
//!   votes, packets and bytes; a packet of another key takes one vote away, and takes the slot when no vote is left, or when the slot
//!   is of an older second. So each packet costs one slot, and who has the most packets of his slot is in it (Boyer and Moore's majority
//!   vote, as in the MV-Sketch of Tang, Huang and Lee 2019). Packets and bytes are those since the key took the slot: never too many,
//!   and nearly all for whoever matters.
//! - **Distinct sources** are estimated for each direction and class by linear counting (Whang, Vander-Zanden and Taylor 1990) in
//!   [`DISTINCT_BITS`] bits: an address sets the bit of its hash; with `z` of `m` bits unset there were about `m · ln(m / z)`. Within 3 % up to 20,000;
//!   what is beyond 50,000 is told as about that.
//! - **TTLs** are a set of 256 bits beside it.
//!
//! Heavy hitters, distinct sources and TTLs are those of the current second: whoever reads in the middle of it sees what has come so far. When that
//! second began is the counter's own affair; so a [`Traffic`] tells beside them how much came in it altogether.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::class::Class;

/// Bits of the bitmap of distinct sources of one direction and class: 1 KiB.
pub const DISTINCT_BITS: usize = 8_192;
/// Talkers of one class, and targets of one class, that a [`Traffic`] names, heaviest first.
pub const TALKERS_MAX: usize = 16;

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Direction {
    /// To this host.
    In = 0,
    /// From this host.
    Out = 1,
    /// Past it: bridged, or seen in promiscuous mode.
    Passing = 2,
}

impl Direction {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// All of them, by number.
    pub const ALL: [Self; Self::COUNT] = [Self::In, Self::Out, Self::Passing];

    /// Its place in arrays, and its number in the kernel's maps.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The word in evidence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Passing => "passing",
        }
    }

    /// The way of an answer.
    #[must_use]
    pub fn reversed(self) -> Self {
        match self {
            Self::In => Self::Out,
            Self::Out => Self::In,
            Self::Passing => Self::Passing,
        }
    }
}

/// Packets and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes on the wire.
    pub bytes: u64,
}

impl Count {
    /// Adds, saturating.
    pub fn add(&mut self, other: Self) {
        self.packets = self.packets.saturating_add(other.packets);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// One interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Its begin.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
    /// What went over each interface each way; only those with any packet, each at most once.
    pub traffic: Vec<Traffic>,
    /// The kernel's own counters: each second, not with every summary. None where there are none: in a capture.
    pub kernel: Option<KernelDelta>,
    /// 1: every packet was counted. n: one in n was, and counts are scaled already.
    pub sampled: u32,
}

/// One interface, one way.
#[derive(Clone, Debug, PartialEq)]
pub struct Traffic {
    /// Name of the interface; `other` for those beyond the table.
    pub interface: Arc<str>,
    /// Which way.
    pub direction: Direction,
    /// In this interval, by [`Class::index`].
    pub classes: [Count; Class::COUNT],
    /// In the current second, all interfaces of this direction together, by [`Class::index`].
    pub spreads: [Spread; Class::COUNT],
    /// Who sends most, in the current second; at most [`TALKERS_MAX`] for each class, heaviest first. May be empty between two
    /// seconds, but not while a class is over its alarm rate.
    pub sources: Vec<Talker>,
    /// What is sent most to, likewise.
    pub targets: Vec<Target>,
    /// All of which these are parts: what went in the current second, by [`Class::index`].
    pub shared: [Count; Class::COUNT],
}

impl Traffic {
    /// Nothing yet.
    pub fn new(interface: Arc<str>, direction: Direction) -> Self {
        let (none, spreads) = ([Count::default(); Class::COUNT], [Spread::default(); Class::COUNT]);
        let (sources, targets) = (Vec::new(), Vec::new());
        Self { interface, direction, classes: none, spreads, sources, targets, shared: none }
    }

    /// The count of a class.
    pub fn class(&self, class: Class) -> Count {
        self.classes.get(class.index()).copied().unwrap_or_default()
    }

    /// How wide a class is spread.
    pub fn spread(&self, class: Class) -> Spread {
        self.spreads.get(class.index()).copied().unwrap_or_default()
    }
}

/// How many different senders there seem to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Distinct source addresses, estimated.
    pub sources: u64,
    /// Their TTLs.
    pub ttls: TtlSpread,
}

/// A set of TTLs, or hop limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TtlSpread(pub [u64; 4]);

impl TtlSpread {
    /// Adds one.
    pub fn add(&mut self, ttl: u8) {
        if let Some(word) = self.0.get_mut(usize::from(ttl >> 6)) {
            *word |= 1 << (ttl & 63);
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine |= theirs);
    }

    /// How many different ones.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX)
            .filter(|ttl| self.0.get(usize::from(ttl >> 6)).is_some_and(|word| word >> (ttl & 63) & 1 == 1))
    }

    /// The least and the greatest.
    pub fn range(&self) -> Option<(u8, u8)> {
        Some((self.iter().next()?, self.iter().last()?))
    }
}

/// Who sends much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Talker {
    /// The source address.
    pub address: IpAddr,
    /// Of which class.
    pub class: Class,
    /// How much in the current second.
    pub count: Count,
}

/// What much is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The destination address.
    pub address: IpAddr,
    /// The destination port; of [`Class::Amplification`] the SOURCE port, which names the service; of ICMP its type; else 0.
    pub port: u16,
    /// Of which class.
    pub class: Class,
    /// How much in the current second.
    pub count: Count,
}

/// The kernel's own counters (`/proc/net/{snmp,snmp6,netstat,softnet_stat}`, conntrack): how much each grew in [`KernelDelta::interval`].
/// It is the second witness of what was counted, and says what a flood does to the services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct KernelDelta {
    /// Since the last reading.
    #[serde(skip)]
    pub interval: Duration,
    /// IP packets received, v4 and v6 (`InReceives`, `Ip6InReceives`).
    pub ip_received: u64,
    /// TCP segments received (`InSegs`).
    pub tcp_received: u64,
    /// TCP segments sent (`OutSegs`).
    pub tcp_sent: u64,
    /// TCP segments sent again (`RetransSegs`).
    pub tcp_retransmitted: u64,
    /// Resets sent (`OutRsts`).
    pub tcp_resets_sent: u64,
    /// Handshakes completed by a peer (`PassiveOpens`).
    pub passive_opens: u64,
    /// Connections asked for by this host (`ActiveOpens`).
    pub active_opens: u64,
    /// Connections that failed before they were established (`AttemptFails`).
    pub attempt_fails: u64,
    /// SYNs and handshakes dropped at a listening socket (`ListenDrops`).
    pub listen_drops: u64,
    /// Handshakes completed for which the accept queue had no room (`ListenOverflows`).
    pub listen_overflows: u64,
    /// SYNs answered by a cookie (`SyncookiesSent`).
    pub syncookies_sent: u64,
    /// Cookies that came back valid (`SyncookiesRecv`).
    pub syncookies_received: u64,
    /// Cookies that came back invalid: as an ACK flood does it (`SyncookiesFailed`).
    pub syncookies_failed: u64,
    /// SYNs dropped because the queue of half-open connections was full (`TCPReqQFullDrop`).
    pub request_queue_drops: u64,
    /// SYNs answered by a cookie because it was full (`TCPReqQFullDoCookies`).
    pub request_queue_cookies: u64,
    /// UDP datagrams delivered (`InDatagrams`, `Udp6InDatagrams`).
    pub udp_delivered: u64,
    /// UDP datagrams to ports that nobody listens on (`NoPorts`).
    pub udp_no_port: u64,
    /// UDP datagrams lost because the program did not read them (`RcvbufErrors`).
    pub udp_buffer_errors: u64,
    /// ICMP messages received (`InMsgs`, `Icmp6InMsgs`).
    pub icmp_received: u64,
    /// Packets put together from fragments (`ReasmOKs`, `Ip6ReasmOKs`).
    pub reassembled: u64,
    /// Fragments that never made a packet (`ReasmFails`, `Ip6ReasmFails`).
    pub reassembly_fails: u64,
    /// Packets that the queue of a processor had no room for (`softnet_stat`, second column).
    pub softnet_dropped: u64,
    /// How often a processor did not get through in its time (`softnet_stat`, third column).
    pub softnet_squeezed: u64,
    /// Packets that a network card had no room for (`rx_dropped`, `rx_missed_errors`, all interfaces).
    pub interface_dropped: u64,
    /// Connections that conntrack knows now; not a delta.
    pub conntrack_count: u64,
    /// How many it may know; 0: no conntrack.
    pub conntrack_max: u64,
    /// Packets that it dropped for want of room (`drop` and `early_drop`).
    pub conntrack_dropped: u64,
}

/// The state of the listening sockets: each second or so, from socket statistics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connections {
    /// When they were read.
    pub time: Timestamp,
    /// One for each listening socket that has any connection.
    pub listeners: Vec<ListenerLoad>,
}

/// A listening socket and the connections that came over it.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerLoad {
    /// Where it listens; unspecified for all addresses.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Connections that are established.
    pub established: u32,
    /// Of these, how many have lasted [`ListenerLoad::SLOW_AFTER`] and are held open by next to no bytes, in one of the three ways below.
    pub slow: u32,
    /// Slow, and this host has never sent a byte on it: a request that never ends.
    pub unanswered: u32,
    /// Slow, and for so long the peer has sent some bytes, up to [`ListenerLoad::SLOW_BYTES_A_SECOND`], but this host none: the same behind TLS.
    pub trickling: u32,
    /// Slow, and for so long the peer has taken nothing of what waits to be sent: a reader that never reads.
    pub stalled: u32,
    /// Connections that wait to be accepted.
    pub queue: u32,
    /// How many may.
    pub queue_max: u32,
    /// From where most slow connections are, heaviest first, at most [`TALKERS_MAX`].
    pub sources: Vec<(IpAddr, u32)>,
    /// Distinct addresses of slow connections.
    pub distinct_sources: u32,
}

impl ListenerLoad {
    /// Slow is what lasts longer. 10 s: programs for slow attacks send a line each 10 to 15 s; an honest request is whole within a second or two.
    pub const SLOW_AFTER: Duration = Duration::from_secs(10);
    /// And sends less: a header line is some 20 to 50 bytes.
    pub const SLOW_BYTES_A_SECOND: u32 = 10;
}
