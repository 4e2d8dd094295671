//! How the connections of the listening sockets fare: which are held open by next to nothing.
//!
//! Looked at only while this host has many connections, and so seldom that it costs at most a part of a hundred of one
//! core. A connection is judged over windows of [`ListenerLoad::SLOW_AFTER`]: what it did in the last whole one stands
//! until the next is over.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::sockets::{self, ESTABLISHED, LISTEN, Socket};
use crate::detect::network::summary::TALKERS_MAX;
use crate::detect::network::{Connections, ListenerLoad};

/// From so many established connections on they are looked at: fewer hold up no service.
pub const MANY: u64 = 50;
/// How often at most.
const EVERY: Duration = Duration::from_secs(1);
/// After a look, so many times what it cost is waited.
const REST: u32 = 100;
const PROTOCOL_TCP: u8 = 6;

/// What one connection did in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Nothing that is slow, or not known for long enough.
    Usual,
    Unanswered,
    Trickling,
    Stalled,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// When the window began, and what had come, been taken and been sent then.
    since: Timestamp,
    received: u64,
    taken: u64,
    sent: u32,
    manner: Manner,
    look: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Watch {
    known: HashMap<u64, Known>,
    look: u64,
    /// When it may be looked again.
    due: Duration,
}

impl Watch {
    /// Looks, if it is time to.
    pub fn look(
        &mut self,
        now: Duration,
        wall: Timestamp,
        cost: impl Fn() -> Duration,
    ) -> Option<Connections> {
        if now < self.due {
            return None;
        }
        let begun = cost();
        // Not in this kernel: then there is nothing to be seen.
        let listening = sockets::all(PROTOCOL_TCP, LISTEN, false).unwrap_or_default();
        let connections = sockets::all(PROTOCOL_TCP, ESTABLISHED, true).unwrap_or_default();
        let seen = self.take(&listening, &connections, wall);
        self.due = now + (cost().saturating_sub(begun) * REST).max(EVERY);
        Some(seen)
    }

    /// Forgets all of them, as they are few again.
    pub fn rest(&mut self) {
        self.known = HashMap::new();
    }

    fn take(&mut self, listening: &[Socket], connections: &[Socket], now: Timestamp) -> Connections {
        self.look += 1;
        let mut loads: HashMap<(IpAddr, u16), (ListenerLoad, HashMap<IpAddr, u32>)> = HashMap::new();
        for listener in listening {
            loads.insert(listener.local, (load(listener), HashMap::new()));
        }
        for connection in connections {
            let (address, port) = connection.local;
            let any = [IpAddr::from([0u8; 4]), IpAddr::from([0u8; 16])];
            let places = [address].into_iter().chain(any).map(|address| (address, port));
            let Some(place) = places.into_iter().find(|place| loads.contains_key(place)) else { continue };
            let manner = self.judge(connection, now);
            let Some((load, sources)) = loads.get_mut(&place) else { continue };
            load.established += 1;
            let count = match manner {
                Manner::Usual => continue,
                Manner::Unanswered => &mut load.unanswered,
                Manner::Trickling => &mut load.trickling,
                Manner::Stalled => &mut load.stalled,
            };
            *count += 1;
            load.slow += 1;
            *sources.entry(connection.remote.0).or_default() += 1;
        }
        self.known.retain(|_, known| known.look == self.look);
        let mut listeners: Vec<ListenerLoad> = loads.into_values().filter_map(told).collect();
        listeners.sort_by_key(|load| (load.port, load.address));
        Connections { time: now, listeners }
    }

    fn judge(&mut self, connection: &Socket, now: Timestamp) -> Manner {
        let new = Known {
            since: now,
            received: connection.received,
            taken: connection.taken,
            sent: connection.sent,
            manner: Manner::Usual,
            look: self.look,
        };
        // As many as one answer of the kernel holds, of each family.
        if self.known.len() >= 2 * sockets::SOCKETS_MAX && !self.known.contains_key(&connection.cookie) {
            return Manner::Usual;
        }
        let known = self.known.entry(connection.cookie).or_insert(new);
        known.look = self.look;
        let elapsed = now.since(known.since);
        if elapsed >= ListenerLoad::SLOW_AFTER {
            *known = Known { manner: manner(known, connection, elapsed), ..new };
        }
        known.manner
    }
}

fn manner(before: &Known, now: &Socket, elapsed: Duration) -> Manner {
    let came = now.received.saturating_sub(before.received);
    let few = came <= u64::from(ListenerLoad::SLOW_BYTES_A_SECOND).saturating_mul(elapsed.as_secs());
    if now.send_queue > 0 && now.taken == before.taken {
        return Manner::Stalled;
    }
    match (few, now.sent, now.sent == before.sent && came > 0) {
        (true, 0, _) => Manner::Unanswered,
        (true, _, true) => Manner::Trickling,
        _ => Manner::Usual,
    }
}

fn load(listener: &Socket) -> ListenerLoad {
    let (address, port) = listener.local;
    ListenerLoad {
        address,
        port,
        established: 0,
        slow: 0,
        unanswered: 0,
        trickling: 0,
        stalled: 0,
        queue: listener.receive_queue,
        queue_max: listener.send_queue,
        sources: Vec::new(),
        distinct_sources: 0,
    }
}

fn told((mut load, sources): (ListenerLoad, HashMap<IpAddr, u32>)) -> Option<ListenerLoad> {
    load.distinct_sources = u32::try_from(sources.len()).unwrap_or(u32::MAX);
    load.sources = sources.into_iter().collect();
    load.sources.sort_by_key(|(address, count)| (std::cmp::Reverse(*count), *address));
    load.sources.truncate(TALKERS_MAX);
    (load.established > 0 || load.queue > 0).then_some(load)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(cookie: u64, received: u64, taken: u64, sent: u32, waiting: u32) -> Socket {
        Socket {
            local: ("192.0.2.1".parse().unwrap(), 80),
            remote: ("198.51.100.7".parse().unwrap(), 40_000),
            cookie,
            uid: 0,
            inode: 1,
            receive_queue: 0,
            send_queue: waiting,
            received,
            taken,
            sent,
            sent_again: 0,
            round_trip_micros: 0,
        }
    }

    fn listener() -> Socket {
        let local = ("0.0.0.0".parse().unwrap(), 80);
        Socket { local, receive_queue: 3, send_queue: 128, ..socket(0, 0, 0, 0, 0) }
    }

    #[test]
    fn connections_are_told_by_how_they_are_held_open() {
        let at = |seconds: i64| Timestamp::from_nanos((1_700_000_000 + seconds) * 1_000_000_000);
        let mut watch = Watch::default();
        let first = [
            socket(1, 200, 0, 0, 0),
            socket(2, 900, 500, 4, 0),
            socket(3, 90, 100, 9, 5_000),
            socket(4, 90, 100, 9, 0),
        ];
        let seen = watch.take(&[listener()], &first, at(0));
        assert_eq!((seen.listeners[0].established, seen.listeners[0].slow), (4, 0), "none is old yet");
        // One sends a line and was never answered; one sends a line behind TLS; one takes nothing; one merely rests.
        let later = [
            socket(1, 230, 0, 0, 0),
            socket(2, 930, 500, 4, 0),
            socket(3, 90, 100, 9, 5_000),
            socket(4, 90, 100, 9, 0),
        ];
        let seen = watch.take(&[listener()], &later, at(10));
        let load = &seen.listeners[0];
        assert_eq!((load.slow, load.unanswered, load.trickling, load.stalled), (3, 1, 1, 1), "{load:?}");
        assert_eq!((load.queue, load.queue_max, load.distinct_sources), (3, 128, 1));
        assert_eq!(load.sources, [("198.51.100.7".parse().unwrap(), 3)]);
        let seen = watch.take(&[listener()], &later, at(15));
        assert_eq!(seen.listeners[0].slow, 3, "what was seen stands until the next window is over");
        // Then they do something.
        let active = [socket(1, 9_000, 0, 0, 0), socket(2, 960, 900, 8, 0), socket(3, 90, 2_100, 11, 3_000)];
        let seen = watch.take(&[listener()], &active, at(20));
        assert_eq!((seen.listeners[0].established, seen.listeners[0].slow), (3, 0), "{seen:?}");
        assert_eq!(watch.known.len(), 3, "who is gone is forgotten");
    }
}
