//! Whether what goes over an interface is a flood: not by its rate, but by what of it nothing explains.
//!
//! Honest traffic is answered, however fast it is: a handshake is completed, data are acknowledged, a question gets an answer, an echo
//! comes back. So each class is held against what goes the other way (over all interfaces of the host, since an answer may take another
//! way), beyond what went while all was calm, and against the kernel's own counters where they were read over the same time.
//! - **SYN**: a handshake that is completed brings at least two more segments. What is refused by a reset costs the host little, and counts a tenth. A scan,
//!   which spreads over ports, is no flood until it is ten times as fast.
//! - **SYN-ACK, RST**: two for each connection that was asked for explain themselves; resets also where they answer data.
//! - **ACK**: segments are acknowledged at least once in 200, as Linux merges some 45 and acknowledges every second of these; data, however many
//!   segments they are in, at least once in a window, by whoever they are sent to. A flood is answered by resets or not at all. What leaves in
//!   full segments is answered by all that its targets send back, new or not; and what leaves in packets that no network takes whole is this
//!   host's own connections, whoever answers.
//! - **UDP**: one answer explains ten datagrams. A single stream of large datagrams to one port (iperf3, video) is no flood unless the kernel has
//!   nobody to give them to: that its program loses some of them shows a fast sender. What is no stream may be what a program does take
//!   (collectors of logs and metrics), up to ten times the limit, but not what it loses half of.
//! - **Amplification**: each question of ours explains two answers.
//! - **ICMP**: each answer explains an echo; one sender of whole pings may go up to a limit of his own.
//! - **Fragments**: those that make whole packets are traffic.
//! - **Connections**: handshakes that are completed, but bring less than a request's bytes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Place;
use super::kind::Kind;
use super::lane::{Lane, Rates, WINDOW_MILLIS, percent};
use crate::detect::network::thresholds::Thresholds;
use crate::detect::network::{Class, Count, Direction, KernelDelta};

/// Ten times the limit: where something explains most of it, but not that much.
const FAR: u64 = 10;
/// Bytes of a datagram from which a stream is one of data. An iperf3 datagram has 1,448; a flood's are small, to cost more.
const STREAM_BYTES: u64 = 400;
/// Bytes of an ICMP packet of `ping`, with its Ethernet header, are 98; a flood's often have no payload.
const PING_BYTES: u64 = 90;
/// Segments that one acknowledgement explains.
const SEGMENTS_ACKNOWLEDGED: u64 = 200;
/// Bytes that may be on their way without an acknowledgement: Linux's default for the largest window (`tcp_rmem`).
const WINDOW_BYTES: u64 = 6 * 1_024 * 1_024;
/// Bytes from which a packet that leaves is one that the kernel's own TCP made for the card to cut (segmentation offload): the largest
/// frames on a wire have some 9,000.
const OFFLOADED_BYTES: u64 = 16 * 1_024;
/// Bytes of a segment without data: headers of Ethernet, IPv4 and TCP with timestamps. What is shorter is padded.
const BARE_BYTES: u64 = 66;
/// Bytes that the shortest request has.
const REQUEST_BYTES: u64 = 16;

/// What the kernel said of an interval, beside what was counted in it.
#[derive(Clone, Debug)]
pub struct Witness {
    pub kernel: KernelDelta,
    /// Rates in the same interval, all interfaces together, by direction.
    pub rates: [Rates; Direction::COUNT],
}

/// What there is to judge by.
pub struct View<'a> {
    pub direction: Direction,
    /// This interface, this direction.
    pub lane: &'a Lane,
    /// All interfaces, the other direction, beyond calm.
    pub back: Rates,
    /// All interfaces, both directions.
    pub lanes: &'a BTreeMap<Place, Lane>,
    /// The kernel's word, not older than two readings; none in a capture.
    pub witness: Option<&'a Witness>,
    pub thresholds: &'a Thresholds,
    /// One packet in so many was counted, and the rates are estimates.
    pub sampled: u32,
}

/// A flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Packets a second that nothing explains.
    pub unexplained: u64,
    /// From how many it is a flood.
    pub limit: u64,
    /// How many in a hundred were answered.
    pub answered_percent: u64,
}

impl View<'_> {
    /// Whether there is a flood of this kind.
    pub fn judge(&self, kind: Kind, limit: u64) -> Option<Verdict> {
        if self.rate(kind).packets < limit {
            return None;
        }
        let over = self.lane.rates.beyond(&self.lane.calm);
        let (unexplained, limit) = match kind {
            Kind::Syn => self.syn(&over, limit),
            Kind::SynAck => {
                (over.packets(Class::SynAck).saturating_sub(2 * self.back.packets(Class::Syn)), limit)
            }
            Kind::Rst => (self.rst(&over), limit),
            Kind::Ack => (self.ack(&over), limit),
            Kind::Udp => self.udp(&over, limit),
            Kind::Amplification => (self.amplification(&over, limit), limit),
            Kind::Icmp => self.icmp(&over, limit),
            Kind::Fragment => self.fragment(&over, limit),
            Kind::Malformed => (self.malformed(&over, limit), limit),
            Kind::Connection => (self.connection(&over), limit),
            Kind::Slow => return None,
        };
        let answered_percent = 100 - percent(unexplained, self.rate(kind).packets);
        (unexplained >= limit).then_some(Verdict { unexplained, limit, answered_percent })
    }

    /// What goes of a kind.
    pub fn rate(&self, kind: Kind) -> Count {
        let mut rate = self.lane.rates.of(kind.class());
        if kind == Kind::Malformed {
            rate.add(self.lane.rates.of(Class::Stealth));
        }
        rate
    }

    /// How many packets that many answers explain. An estimate from a sample may be off by chance on both sides, each by the root of what was
    /// counted: four such errors are left to chance.
    fn explained(&self, answers: u64) -> u64 {
        let counted_one_in = if self.sampled > 1 { u64::from(self.sampled) } else { 0 };
        let variance = answers.saturating_mul(2 * counted_one_in).saturating_mul(1_000) / WINDOW_MILLIS;
        answers.saturating_add(answers / 20).saturating_add(4 * variance.isqrt())
    }

    fn malformed(&self, over: &Rates, limit: u64) -> u64 {
        let odd = over.packets(Class::Stealth);
        // A stealth scan goes over ports.
        let odd = if self.spreads_over_targets(Class::Stealth) && odd < limit.saturating_mul(FAR) {
            0
        } else {
            odd
        };
        over.packets(Class::Malformed).saturating_add(odd)
    }

    /// The kernel's word on this class, if it was read while about as much of it came as now.
    fn word(&self, class: Class) -> Option<(&KernelDelta, u64)> {
        let witness = self.witness.filter(|_| self.direction == Direction::In)?;
        let then = witness.rates.get(self.direction.index())?.packets(class);
        (then >= self.lane.rates.packets(class) / 2).then_some((&witness.kernel, then))
    }

    fn per_second(kernel: &KernelDelta, count: u64) -> u64 {
        let millis = u64::try_from(kernel.interval.as_millis()).unwrap_or(u64::MAX).max(1);
        count.saturating_mul(1_000) / millis
    }

    /// Handshakes that were completed.
    fn completed(&self, over: &Rates) -> u64 {
        let told =
            self.word(Class::Syn).map_or(0, |(kernel, _)| Self::per_second(kernel, kernel.passive_opens));
        let segments = over.packets(Class::Ack) / 2;
        told.max(segments).min(over.packets(Class::Syn))
    }

    fn syn(&self, over: &Rates, limit: u64) -> (u64, u64) {
        let syn = over.packets(Class::Syn);
        let open = syn - self.completed(over);
        let refused = self.back.packets(Class::Rst).min(open);
        let unexplained = open - refused + refused / 10;
        // Some handshakes always fail; half of them do only when somebody means it.
        let unexplained = if open * 2 < syn { 0 } else { unexplained };
        (unexplained, if self.spreads_over_targets(Class::Syn) { limit.saturating_mul(FAR) } else { limit })
    }

    /// No target has a tenth of it: a scan.
    fn spreads_over_targets(&self, class: Class) -> bool {
        let named: u64 = self.lane.targets(class).map(|(_, share)| share).sum();
        let first = self.lane.targets(class).next();
        first.is_some_and(|(_, share)| share < 10) && named < 50
    }

    fn rst(&self, over: &Rates) -> u64 {
        let connections = self.back.packets(Class::Syn).saturating_add(over.packets(Class::Syn));
        let data = self.back.packets(Class::Ack).saturating_add(self.back.packets(Class::SynAck));
        let odd = self.back.packets(Class::Stealth);
        over.packets(Class::Rst)
            .saturating_sub(connections.saturating_mul(2).saturating_add(data).saturating_add(odd))
    }

    fn ack(&self, over: &Rates) -> u64 {
        let ack = over.packets(Class::Ack);
        let resets = self.back.packets(Class::Rst);
        let answers = self.acknowledgements(over.of(Class::Ack));
        let answered = answers.saturating_mul(SEGMENTS_ACKNOWLEDGED) >= ack;
        if !answered && !self.is_acknowledged_data(over, answers) {
            return ack;
        }
        // As many resets as half of the segments: no connection is behind them.
        if resets.saturating_mul(2) >= ack { ack.min(resets.saturating_mul(2)) } else { 0 }
    }

    /// What answers such data: beyond what went while all was calm. Data of this host's own connections are answered by all that comes back from where
    /// they go, calm or not: a peer that is sent more may acknowledge less often than before, and one that has nothing to answer sends resets.
    fn acknowledgements(&self, data: Count) -> u64 {
        let segment = data.bytes / data.packets.max(1);
        let new = self.back.packets(Class::Ack);
        if self.direction != Direction::Out || segment < STREAM_BYTES {
            return new;
        }
        let all = self.comes_back(Class::Ack);
        if segment >= OFFLOADED_BYTES { all } else { new.max(all.min(self.comes_from_targets(Class::Ack))) }
    }

    /// What goes the other way of a class from whoever at least half of it is sent to; else nothing.
    fn comes_from_targets(&self, class: Class) -> u64 {
        let mut sent_to_them = 0_u64;
        // Several ports of one host have its answers once.
        let mut answers = BTreeMap::new();
        for (target, share) in self.lane.targets(class) {
            let answered =
                *answers.entry(target.address).or_insert_with_key(|who| self.comes_from(class, *who));
            sent_to_them = sent_to_them.saturating_add(if answered > 0 { share } else { 0 });
        }
        if sent_to_them >= 50 { answers.into_values().fold(0, u64::saturating_add) } else { 0 }
    }

    fn comes_from(&self, class: Class, sender: IpAddr) -> u64 {
        let back = self.lanes.iter().filter(|((_, way), _)| *way == self.direction.reversed());
        let of_lane = |lane: &Lane| {
            let shares = lane.sources(class).filter(|(talker, _)| talker.address == sender);
            let share = shares.map(|(_, share)| share).sum::<u64>();
            lane.rates.packets(class).saturating_mul(share) / 100
        };
        back.map(|(_, lane)| of_lane(lane)).fold(0, u64::saturating_add)
    }

    /// All that goes the other way of a class, calm or not.
    fn comes_back(&self, class: Class) -> u64 {
        let back = self.lanes.iter().filter(|((_, way), _)| *way == self.direction.reversed());
        back.map(|(_, lane)| lane.rates.packets(class)).fold(0, u64::saturating_add)
    }

    /// Full segments, of which no more than a window waits for its acknowledgement, and whoever sends half of them gets these.
    fn is_acknowledged_data(&self, over: &Rates, answers: u64) -> bool {
        let data = over.of(Class::Ack);
        let full = data.bytes / data.packets.max(1) >= STREAM_BYTES;
        let few = data.bytes <= answers.saturating_mul(WINDOW_BYTES);
        let acknowledged = |sender| {
            let mut back = self.lanes.iter().filter(|((_, way), _)| *way == self.direction.reversed());
            back.any(|(_, lane)| lane.targets(Class::Ack).any(|(target, _)| target.address == sender))
        };
        let senders = self.lane.sources(Class::Ack).filter(|(talker, _)| acknowledged(talker.address));
        full && few && senders.map(|(_, share)| share).sum::<u64>() >= 50
    }

    /// One sender, one target, large datagrams.
    fn is_stream(&self, class: Class) -> bool {
        let rate = self.lane.rates.of(class);
        let large = rate.bytes / rate.packets.max(1) >= STREAM_BYTES;
        let source = self.lane.sources(class).next().is_some_and(|(_, share)| share >= 80);
        let target = self.lane.targets(class).next().is_some_and(|(_, share)| share >= 80);
        large && source && target
    }

    fn udp(&self, over: &Rates, limit: u64) -> (u64, u64) {
        let answers = self.back.packets(Class::Udp).saturating_add(self.back.packets(Class::Amplification));
        let unexplained = over.packets(Class::Udp).saturating_sub(answers.saturating_mul(10));
        let word = self.word(Class::Udp).map(|(kernel, counted)| {
            let part = |count: u64| percent(Self::per_second(kernel, count), counted);
            let lost = kernel.udp_no_port.saturating_add(kernel.udp_buffer_errors);
            (part(kernel.udp_no_port) >= 50, part(lost) >= 50, part(kernel.udp_delivered) >= 80)
        });
        let far = limit.saturating_mul(FAR);
        let limit = match word {
            Some((true, ..)) => limit,
            _ if self.is_stream(Class::Udp) => u64::MAX,
            Some((_, false, true)) => far,
            // One sender: let the kernel say whether somebody takes it, unless it is far too much.
            None if self.witness.is_some() && self.lane.spreads_few(Class::Udp) => limit.saturating_mul(5),
            _ => limit,
        };
        (unexplained, limit)
    }

    fn amplification(&self, over: &Rates, limit: u64) -> u64 {
        // Whoever speaks to a whole group asks from the service's own port (mDNS, SSDP): no answer goes there.
        let group = |address: IpAddr| match address {
            IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_multicast(),
        };
        if self.lane.targets(Class::Amplification).next().is_some_and(|(target, _)| group(target.address)) {
            return 0;
        }
        let answers = over.of(Class::Amplification);
        let udp = self.back.of(Class::Udp);
        let asked = udp.packets.saturating_add(self.back.packets(Class::Amplification));
        let unasked = answers.packets.saturating_sub(asked.saturating_mul(2));
        // This host as the amplifier: to somebody's few bytes it answers with many, all to one.
        let out = self.direction == Direction::Out && answers.bytes >= udp.bytes.max(1).saturating_mul(10);
        if out && self.to_one_host(Class::Amplification) && answers.packets >= limit {
            answers.packets
        } else {
            unasked
        }
    }

    fn to_one_host(&self, class: Class) -> bool {
        self.lane.targets(class).next().is_some_and(|(_, share)| share >= 50)
    }

    fn icmp(&self, over: &Rates, limit: u64) -> (u64, u64) {
        let icmp = over.packets(Class::Icmp);
        let answers = self.back.packets(Class::Icmp);
        let open = icmp.saturating_sub(self.explained(answers));
        if open >= limit || self.direction != Direction::In {
            return (open, limit);
        }
        let rate = self.lane.rates.of(Class::Icmp);
        let whole = rate.bytes / rate.packets.max(1) >= PING_BYTES;
        let answered = u64::from(self.thresholds.icmp_answered);
        let limit = if whole && self.lane.spreads_few(Class::Icmp) { answered } else { answered / 10 };
        (icmp, limit)
    }

    fn fragment(&self, over: &Rates, limit: u64) -> (u64, u64) {
        let answers = self.back.packets(Class::Fragment);
        let open = over.packets(Class::Fragment).saturating_sub(self.explained(answers));
        let limit = match self.word(Class::Fragment) {
            // The largest packet has 45 parts.
            Some((kernel, counted)) => {
                let whole = Self::per_second(kernel, kernel.reassembled).saturating_mul(50) >= counted;
                let failed = kernel.reassembly_fails > kernel.reassembled;
                if whole && !failed { limit.saturating_mul(FAR) } else { limit }
            }
            None if self.is_stream(Class::Fragment) => u64::MAX,
            None => limit,
        };
        (open, limit)
    }

    fn connection(&self, over: &Rates) -> u64 {
        let granted = self.back.packets(Class::SynAck);
        let ack = over.of(Class::Ack);
        let completed = granted.min(over.packets(Class::Syn)).min(ack.packets);
        let data = ack.bytes.saturating_sub(ack.packets.saturating_mul(BARE_BYTES));
        // Half of the handshakes must be completed, or it is a SYN flood.
        let enough = completed.saturating_mul(2) >= over.packets(Class::Syn);
        if enough && data < completed.saturating_mul(REQUEST_BYTES) { completed } else { 0 }
    }
}

impl Lane {
    /// A single sender has nearly all of it.
    pub fn spreads_few(&self, class: Class) -> bool {
        self.sources(class).next().is_some_and(|(_, share)| share >= 80)
    }
}
