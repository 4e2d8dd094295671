//! Two readings of the kernel's sums, made into what goes on between them.

use std::collections::HashMap;
use std::net::IpAddr;

use picket_protocol::time::Timestamp;

use crate::sense::network::line::{Figures, Listener, RoundTrips, Way};
use crate::sense::network::talkers::Heavy;

/// From so many segments on, a share that was sent again means something.
const SEGMENTS_MIN: u64 = 100;
/// A larger share, in percent, is trouble: half of it is what users feel on a page with many objects.
const SENT_AGAIN_MAX: f64 = 5.0;

/// What goes one way over an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct WayRates {
    /// Bits a second.
    pub bits_per_second: u64,
    /// Packets a second.
    pub packets_per_second: u64,
    /// Damaged packets, or those that could not be sent, since the reading before.
    pub new_errors: u64,
    /// Packets for which there was no room, since the reading before.
    pub new_drops: u64,
    /// Since the interface came to be.
    pub total: Way,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct InterfaceRates {
    /// Its name.
    pub name: String,
    /// `veth`, `bridge` …; empty for hardware.
    pub kind: String,
    /// It is connected.
    pub up: bool,
    /// What comes.
    pub received: WayRates,
    /// What goes.
    pub sent: WayRates,
}

/// TCP as a whole.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct TcpRates {
    /// Connections that are established.
    pub established: u64,
    /// Segments a second that are sent.
    pub segments_per_second: u64,
    /// Segments that were sent again since the reading before.
    pub sent_again: u64,
    /// Of those sent since the reading before, in percent; none when none was sent.
    pub sent_again_percent: Option<f64>,
    /// The same since boot.
    pub sent_again_percent_since_boot: Option<f64>,
    /// How long answers take over connections with other hosts.
    pub round_trips: Option<RoundTrips>,
    /// Connections for which an accept queue had no room, since the reading before.
    pub new_overflows: u64,
}

/// A host that this one has connections with.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct TalkerRates {
    /// Its address.
    pub address: IpAddr,
    /// How many connections.
    pub connections: u32,
    /// Bits a second that come.
    pub received_bits_per_second: u64,
    /// Bits a second that go.
    pub sent_bits_per_second: u64,
    /// Bytes that came over the connections that stand now.
    pub received_bytes: u64,
    /// Bytes that went.
    pub sent_bytes: u64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Rates {
    /// When the second reading was taken.
    pub time: Timestamp,
    /// How long after the first.
    pub seconds: f64,
    /// What is not as it should be, in words; empty when all is well.
    pub trouble: Vec<String>,
    /// Interfaces, by number.
    pub interfaces: Vec<InterfaceRates>,
    /// TCP as a whole.
    pub tcp: TcpRates,
    /// Sockets that listen.
    pub listeners: Vec<Listener>,
    /// Who is talked with most, now and over the connections that stand.
    pub talkers: Vec<TalkerRates>,
    /// Who has sent most in the last second, all protocols; none where the network sensor does not count that.
    pub heavy: Option<Vec<Heavy>>,
    /// What cannot be told, and why.
    pub missing: Vec<String>,
}

impl Rates {
    /// What went on between two readings. What was not there at the first has no rate yet.
    pub fn between(first: &Figures, second: &Figures) -> Self {
        let seconds = second.time.since(first.time).as_secs_f64();
        let before: HashMap<_, _> =
            first.interfaces.iter().map(|one| ((one.index, &*one.name), (one.received, one.sent))).collect();
        let interfaces = second.interfaces.iter().map(|now| {
            let (received, sent) =
                before.get(&(now.index, &*now.name)).copied().unwrap_or((now.received, now.sent));
            InterfaceRates {
                name: now.name.clone(),
                kind: now.kind.clone(),
                up: now.up,
                received: way(received, now.received, seconds),
                sent: way(sent, now.sent, seconds),
            }
        });
        let mut rates = Self {
            time: second.time,
            seconds,
            trouble: Vec::new(),
            interfaces: interfaces.collect(),
            tcp: tcp(first, second, seconds),
            listeners: second.listeners.clone(),
            talkers: talkers(first, second, seconds),
            heavy: second.heavy.clone(),
            missing: second.missing.clone(),
        };
        rates.trouble = rates.troubles();
        rates
    }

    fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        for interface in &self.interfaces {
            let both = [("received", interface.received), ("sent", interface.sent)];
            for (word, way) in both.into_iter().filter(|(_, way)| way.new_errors + way.new_drops > 0) {
                troubles.push(format!(
                    "{}: {} packets {word} with errors, {} dropped",
                    interface.name, way.new_errors, way.new_drops
                ));
            }
        }
        let sent = per_second_back(self.tcp.segments_per_second, self.seconds);
        if let Some(percent) =
            self.tcp.sent_again_percent.filter(|percent| *percent > SENT_AGAIN_MAX && sent >= SEGMENTS_MIN)
        {
            troubles.push(format!("{percent:.1} % of TCP's segments are sent again"));
        }
        for listener in self.listeners.iter().filter(|listener| is_full(listener)) {
            troubles.push(format!(
                "port {}: {} connections wait to be accepted, and no more may",
                listener.port, listener.queue
            ));
        }
        if self.tcp.new_overflows > 0 {
            troubles.push(format!("{} connections found no room in an accept queue", self.tcp.new_overflows));
        }
        troubles
    }
}

/// Whether a listening socket takes no more connections.
pub fn is_full(listener: &Listener) -> bool {
    listener.queue_max.is_some_and(|most| listener.queue > most)
}

fn way(first: Way, second: Way, seconds: f64) -> WayRates {
    WayRates {
        bits_per_second: per_second(grown(first.bytes, second.bytes).saturating_mul(8), seconds),
        packets_per_second: per_second(grown(first.packets, second.packets), seconds),
        new_errors: grown(first.errors, second.errors),
        new_drops: grown(first.drops, second.drops),
        total: second,
    }
}

fn tcp(first: &Figures, second: &Figures, seconds: f64) -> TcpRates {
    let sent = grown(first.tcp.sent, second.tcp.sent);
    let sent_again = grown(first.tcp.sent_again, second.tcp.sent_again);
    TcpRates {
        established: second.tcp.established,
        segments_per_second: per_second(sent, seconds),
        sent_again,
        sent_again_percent: percent(sent_again, sent),
        sent_again_percent_since_boot: percent(second.tcp.sent_again, second.tcp.sent),
        round_trips: second.tcp.round_trips,
        new_overflows: grown(first.tcp.overflows, second.tcp.overflows),
    }
}

/// Those that say most now come first, then those that have said most.
fn talkers(first: &Figures, second: &Figures, seconds: f64) -> Vec<TalkerRates> {
    let before: HashMap<IpAddr, (u64, u64)> =
        first.talkers.iter().map(|one| (one.address, (one.received, one.sent))).collect();
    let rates = second.talkers.iter().map(|now| {
        let (received, sent) = before.get(&now.address).copied().unwrap_or((now.received, now.sent));
        TalkerRates {
            address: now.address,
            connections: now.connections,
            received_bits_per_second: per_second(grown(received, now.received).saturating_mul(8), seconds),
            sent_bits_per_second: per_second(grown(sent, now.sent).saturating_mul(8), seconds),
            received_bytes: now.received,
            sent_bytes: now.sent,
        }
    });
    let mut rates: Vec<TalkerRates> = rates.collect();
    rates.sort_by_key(|one| {
        let now = one.received_bits_per_second.saturating_add(one.sent_bits_per_second);
        std::cmp::Reverse((now, one.received_bytes.saturating_add(one.sent_bytes)))
    });
    rates
}

/// Sums that became smaller began anew, and nothing is known of the time between.
fn grown(first: u64, second: u64) -> u64 {
    second.saturating_sub(first)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "rates are for people; a float that does not fit becomes the largest number"
)]
fn per_second(grown: u64, seconds: f64) -> u64 {
    if seconds > 0.0 { (grown as f64 / seconds).round() as u64 } else { 0 }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "as in per_second"
)]
fn per_second_back(rate: u64, seconds: f64) -> u64 {
    (rate as f64 * seconds).round() as u64
}

#[expect(clippy::cast_precision_loss, reason = "as in per_second")]
fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 * 10_000.0 / whole as f64).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::detect::listener::Protocol;
    use crate::sense::network::line::{Interface, Talker, Tcp};

    fn figures(at: u64, bytes: u64, sent: u64, again: u64) -> Figures {
        let way = Way { bytes, packets: bytes / 1_000, errors: 0, drops: 0 };
        Figures {
            time: Timestamp::from_seconds(1_800_000_000).plus(Duration::from_secs(at)),
            interfaces: vec![Interface {
                index: 2,
                name: "eth0".to_owned(),
                kind: String::new(),
                up: true,
                received: way,
                sent: Way::default(),
            }],
            tcp: Tcp { sent, sent_again: again, ..Tcp::default() },
            talkers: vec![Talker {
                address: [192, 0, 2, 1].into(),
                connections: 1,
                received: bytes,
                sent: 0,
            }],
            ..Figures::default()
        }
    }

    #[test]
    fn rates_are_what_grew_by_the_time_that_passed() {
        let rates = Rates::between(&figures(0, 1_000_000, 100, 0), &figures(2, 3_000_000, 1_100, 20));
        let received = rates.interfaces[0].received;
        assert_eq!((received.bits_per_second, received.packets_per_second), (8_000_000, 1_000));
        assert_eq!((rates.tcp.segments_per_second, rates.tcp.sent_again_percent), (500, Some(2.0)));
        assert_eq!(rates.talkers[0].received_bits_per_second, 8_000_000);
        assert_eq!(rates.trouble, Vec::<String>::new());
    }

    #[test]
    fn what_is_not_as_it_should_be_is_said() {
        let mut bad = figures(1, 1_000_000, 1_100, 90);
        bad.interfaces[0].received.drops = 3;
        bad.tcp.overflows = 2;
        let full = Listener {
            protocol: Protocol::Tcp,
            address: [0, 0, 0, 0].into(),
            port: 80,
            queue: 129,
            queue_max: Some(128),
            holder: None,
        };
        bad.listeners = vec![full.clone(), Listener { queue: 128, port: 81, ..full }];
        let expected = [
            "eth0: 0 packets received with errors, 3 dropped",
            "9.0 % of TCP's segments are sent again",
            "port 80: 129 connections wait to be accepted, and no more may",
            "2 connections found no room in an accept queue",
        ];
        assert_eq!(Rates::between(&figures(0, 1_000_000, 100, 0), &bad).trouble, expected);
    }

    #[test]
    fn what_began_anew_or_came_in_between_has_no_rate() {
        let rates = Rates::between(&figures(0, 5_000_000, 100, 10), &figures(1, 1_000, 5, 0));
        assert_eq!(rates.interfaces[0].received.bits_per_second, 0);
        assert_eq!((rates.tcp.sent_again, rates.tcp.sent_again_percent), (0, None));
        let mut other = figures(1, 9_000_000, 0, 0);
        other.interfaces[0].index = 3;
        assert_eq!(Rates::between(&figures(0, 0, 0, 0), &other).interfaces[0].received.bits_per_second, 0);
        let same = figures(0, 5, 5, 5);
        assert_eq!(Rates::between(&same, &same).tcp.segments_per_second, 0, "no time has passed");
    }
}
