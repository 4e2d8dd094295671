//! Health of the line: what the kernel counts of interfaces, TCP and sockets, read when somebody asks (`agent net`).
//!
//! Nothing is kept and nothing runs while nobody asks. Figures are sums since boot, or since an interface or a connection came to be: who
//! asks twice has rates. However often it is asked, reading takes at most a twentieth of a core; in between, the last answer is given.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use picket_protocol::time::Timestamp;

use super::listeners::Listeners;
use super::sockets::{self, ESTABLISHED, LISTEN, Socket};
use super::talkers::{Heavy, Talkers};
use crate::clock;
use crate::detect::listener::{Protocol, Shown};
use crate::netlink::{Message, Netlink, attribute, name, native_u32};
use crate::thread_self::thread_self;

/// An answer is given again for so long, and for so many times what it cost.
const FRESH: Duration = Duration::from_millis(200);
const REST: u32 = 20;
/// Interfaces, listening sockets and peers that are told; of peers those with most bytes.
const INTERFACES_MAX: usize = 1_024;
const LISTENERS_MAX: usize = 2_048;
const TALKERS_MAX: usize = 256;
/// `RTM_GETLINK`, and the size of `struct ifinfomsg`.
const GETLINK: u16 = 18;
const HEADER_BYTES: usize = 16;
/// `IFF_LOWER_UP`: there is a cable, and somebody at its other end.
const LOWER_UP: u32 = 0x1_0000;
const TCP: u8 = 6;
/// Bytes of `/proc/net/snmp` and `netstat` that are read.
const TEXT_BYTES_MAX: u64 = 256 * 1024;

/// What goes one way over an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Way {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were damaged, or could not be sent.
    pub errors: u64,
    /// Packets for which there was no room.
    pub drops: u64,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `bridge` …; empty for hardware.
    pub kind: String,
    /// It is connected.
    pub up: bool,
    /// What came.
    pub received: Way,
    /// What went.
    pub sent: Way,
}

/// How long answers take over established connections with other hosts, as the kernel has smoothed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RoundTrips {
    /// Of how many connections.
    pub connections: u64,
    /// The shortest, in microseconds.
    pub min_micros: u32,
    /// Half are shorter.
    pub median_micros: u32,
    /// 99 of 100 are shorter.
    pub p99_micros: u32,
}

/// TCP as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tcp {
    /// Connections that are established.
    pub established: u64,
    /// Segments that came.
    pub received: u64,
    /// Segments that were sent, those that were sent again among them.
    pub sent: u64,
    /// Segments that were sent again.
    pub sent_again: u64,
    /// Connections for which an accept queue had no room.
    pub overflows: u64,
    /// How long answers take; none while there is no connection with another host.
    pub round_trips: Option<RoundTrips>,
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Listener {
    /// By which protocol.
    pub protocol: Protocol,
    /// Where it is bound.
    pub address: IpAddr,
    /// On which port.
    pub port: u16,
    /// Connections that wait to be accepted; of UDP bytes that wait to be read.
    pub queue: u32,
    /// How many may wait; none of UDP.
    pub queue_max: Option<u32>,
    /// Who holds it, where the sensor of listeners has found that.
    pub holder: Option<Shown>,
}

/// A host that this one has connections with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Talker {
    /// Its address.
    pub address: IpAddr,
    /// How many connections.
    pub connections: u32,
    /// Bytes that came over them.
    pub received: u64,
    /// Bytes that were sent and taken.
    pub sent: u64,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Figures {
    /// When they were read.
    pub time: Timestamp,
    /// Interfaces, by number.
    pub interfaces: Vec<Interface>,
    /// TCP as a whole.
    pub tcp: Tcp,
    /// Sockets that listen, by protocol, port and address.
    pub listeners: Vec<Listener>,
    /// Who has sent and been sent most over the connections that stand now.
    pub talkers: Vec<Talker>,
    /// Who has sent most in the last second, forwarded packets and all protocols among them; none where the network sensor does not
    /// count that.
    pub heavy: Option<Vec<Heavy>>,
    /// What cannot be told, and why.
    pub missing: Vec<String>,
}

/// Reads when it is asked; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Line {
    listeners: Listeners,
    talkers: Option<Talkers>,
    last: Arc<Mutex<Option<Last>>>,
}

#[derive(Clone, Debug)]
struct Last {
    read: Instant,
    rest: Duration,
    figures: Figures,
}

impl Line {
    /// With `listeners` to say who holds sockets, and `talkers` to say who sends most.
    pub fn new(listeners: Listeners, talkers: Option<Talkers>) -> Self {
        Self { listeners, talkers, last: Arc::default() }
    }

    /// The figures as they are now, or were a moment ago.
    pub fn figures(&self) -> Figures {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|last| last.read.elapsed() < last.rest) {
            return last.figures.clone();
        }
        let begun = clock::own_processor_time();
        let mut figures = read(&self.listeners);
        figures.heavy = self.talkers.as_ref().and_then(|talkers| talkers.last(figures.time));
        let rest = (clock::own_processor_time().saturating_sub(begun) * REST).max(FRESH);
        *last = Some(Last { read: Instant::now(), rest, figures: figures.clone() });
        figures
    }
}

fn read(listeners: &Listeners) -> Figures {
    let mut missing = Vec::new();
    let mut or_missing = |what: &str, error: io::Error| missing.push(format!("{what}: {error}"));
    let interfaces = interfaces().unwrap_or_else(|error| {
        or_missing("interfaces", error);
        Vec::new()
    });
    let mut of_tcp = |states, with_info| {
        sockets::all(TCP, states, with_info).unwrap_or_else(|error| {
            or_missing("TCP sockets", error);
            Vec::new()
        })
    };
    let (connections, listening) = (of_tcp(ESTABLISHED, true), of_tcp(LISTEN, false));
    let mut tcp = sums(&text(&thread_self("net/snmp")), &text(&thread_self("net/netstat")));
    tcp.round_trips = round_trips(&connections);
    let holders = listeners.list();
    if holders.is_none() {
        missing.push("who holds listening sockets: the sensor of listeners does not run".to_owned());
    }
    Figures {
        time: clock::now(),
        interfaces,
        tcp,
        listeners: with_holders(&listening, holders.unwrap_or_default()),
        talkers: talkers(&connections),
        heavy: None,
        missing,
    }
}

/// All interfaces of this network namespace.
fn interfaces() -> io::Result<Vec<Interface>> {
    let mut socket = Netlink::open(None, 0)?;
    let mut found = socket.dump(GETLINK, &[0; HEADER_BYTES], |found: &mut Vec<Interface>, message| {
        if found.len() < INTERFACES_MAX {
            found.extend(interface(message));
        }
    })?;
    found.sort_by_key(|interface| interface.index);
    Ok(found)
}

/// `struct ifinfomsg`, then attributes; the figures are `struct rtnl_link_stats64`.
pub(crate) fn interface(message: Message<'_>) -> Option<Interface> {
    let body = message.body.get(HEADER_BYTES..)?;
    let figures = attribute(body, 23)?;
    let figure = |place: usize| -> Option<u64> {
        Some(u64::from_ne_bytes(figures.get(place * 8..place * 8 + 8)?.try_into().ok()?))
    };
    let way = |first: usize| -> Option<Way> {
        let (packets, bytes) = (figure(first)?, figure(first + 2)?);
        Some(Way { packets, bytes, errors: figure(first + 4)?, drops: figure(first + 6)? })
    };
    let kind = attribute(body, 18).and_then(|information| attribute(information, 1)).map(name);
    Some(Interface {
        index: native_u32(message.body, 4)?,
        name: name(attribute(body, 3)?),
        kind: kind.unwrap_or_default(),
        up: native_u32(message.body, 8)? & LOWER_UP != 0,
        received: way(0)?,
        sent: way(1)?,
    })
}

fn text(path: &std::path::Path) -> String {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(TEXT_BYTES_MAX).read_to_end(&mut bytes));
    if read.is_ok() { String::from_utf8_lossy(&bytes).into_owned() } else { String::new() }
}

fn sums(snmp: &str, netstat: &str) -> Tcp {
    Tcp {
        established: sum(snmp, "Tcp:", "CurrEstab"),
        received: sum(snmp, "Tcp:", "InSegs"),
        // The kernel counts those that were sent again by themselves.
        sent: sum(snmp, "Tcp:", "OutSegs").saturating_add(sum(snmp, "Tcp:", "RetransSegs")),
        sent_again: sum(snmp, "Tcp:", "RetransSegs"),
        overflows: sum(netstat, "TcpExt:", "ListenOverflows"),
        round_trips: None,
    }
}

/// A figure of a table that has a line of names and a line of numbers; 0 where it is missing.
fn sum(text: &str, table: &str, wanted: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.split(' ').next() == Some(table));
    let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else { return 0 };
    let found = names.split(' ').zip(numbers.split(' ')).find(|(name, _)| *name == wanted);
    found.and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

/// Over connections with other hosts: those within this one say nothing of a line.
fn round_trips(connections: &[Socket]) -> Option<RoundTrips> {
    let far = connections.iter().filter(|socket| socket.round_trip_micros > 0 && is_far(socket));
    let mut all: Vec<u32> = far.map(|socket| socket.round_trip_micros).collect();
    all.sort_unstable();
    let at = |part: usize| all.get((all.len().saturating_sub(1)) * part / 100).copied();
    Some(RoundTrips {
        connections: u64::try_from(all.len()).unwrap_or(u64::MAX),
        min_micros: *all.first()?,
        median_micros: at(50)?,
        p99_micros: at(99)?,
    })
}

fn is_far(socket: &Socket) -> bool {
    !socket.remote.0.is_loopback() && socket.remote.0 != socket.local.0
}

fn talkers(connections: &[Socket]) -> Vec<Talker> {
    let mut by_address: HashMap<IpAddr, Talker> = HashMap::new();
    for socket in connections.iter().filter(|socket| is_far(socket)) {
        let address = socket.remote.0;
        let talker =
            by_address.entry(address).or_insert(Talker { address, connections: 0, received: 0, sent: 0 });
        talker.connections = talker.connections.saturating_add(1);
        talker.received = talker.received.saturating_add(socket.received);
        talker.sent = talker.sent.saturating_add(socket.taken);
    }
    let mut talkers: Vec<Talker> = by_address.into_values().collect();
    talkers.sort_by_key(|talker| (Reverse(talker.received.saturating_add(talker.sent)), talker.address));
    talkers.truncate(TALKERS_MAX);
    talkers
}

/// TCP sockets as the kernel tells them now, and UDP sockets as the sensor knows them.
fn with_holders(listening: &[Socket], holders: Vec<Shown>) -> Vec<Listener> {
    let mut holders: HashMap<u64, Shown> = holders.into_iter().map(|shown| (shown.cookie, shown)).collect();
    let tcp = listening.iter().map(|socket| Listener {
        protocol: Protocol::Tcp,
        address: socket.local.0,
        port: socket.local.1,
        queue: socket.receive_queue,
        queue_max: Some(socket.send_queue),
        holder: holders.remove(&socket.cookie),
    });
    let mut listeners: Vec<Listener> = tcp.take(LISTENERS_MAX).collect();
    let udp = holders.into_values().filter(|shown| shown.protocol == Protocol::Udp);
    listeners.extend(udp.take(LISTENERS_MAX).map(|shown| Listener {
        protocol: Protocol::Udp,
        address: shown.address,
        port: shown.port,
        queue: 0,
        queue_max: None,
        holder: Some(shown),
    }));
    listeners.sort_by_key(|listener| (listener.protocol, listener.port, listener.address));
    listeners
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_tells_what_goes_over_loopback() {
        let line = Line::default();
        let loopback = |figures: &Figures| {
            figures.interfaces.iter().find(|interface| interface.name == "lo").cloned().unwrap()
        };
        let before = line.figures();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(&[7; 10_000]).unwrap();
        let line = Line::default();
        let after = line.figures();
        let grown = loopback(&after).received.bytes - loopback(&before).received.bytes;
        assert!(grown >= 10_000 && loopback(&after).up, "{grown}");
        assert!(after.tcp.sent > before.tcp.sent && after.tcp.established >= 2, "{:?}", after.tcp);
        let port = listener.local_addr().unwrap().port();
        let told = after.listeners.iter().find(|told| told.port == port).unwrap();
        assert_eq!((told.queue, told.holder.clone()), (1, None), "it waits to be accepted");
        assert!(told.queue_max >= Some(128) && after.missing.len() == 1, "{after:?}");
        assert_eq!(line.figures(), after, "asked again at once, the same is told");
    }

    fn socket(remote: &str, received: u64, round_trip_micros: u32) -> Socket {
        Socket {
            local: ("192.0.2.1".parse().unwrap(), 22),
            remote: (remote.parse().unwrap(), 40_000),
            cookie: 1,
            uid: 0,
            inode: 1,
            receive_queue: 0,
            send_queue: 0,
            received,
            taken: 5,
            sent: 0,
            sent_again: 0,
            round_trip_micros,
        }
    }

    #[test]
    fn who_talks_most_is_first_and_what_is_within_this_host_says_nothing_of_the_line() {
        let connections = [
            socket("198.51.100.1", 10, 900),
            socket("198.51.100.2", 500, 100),
            socket("127.0.0.1", 9_999, 1),
            socket("198.51.100.1", 20, 0),
            socket("192.0.2.1", 9_999, 1),
        ];
        let told = talkers(&connections);
        let of =
            |talker: &Talker| (talker.address.to_string(), talker.connections, talker.received, talker.sent);
        let expected = [("198.51.100.2".to_owned(), 1, 500, 5), ("198.51.100.1".to_owned(), 2, 30, 10)];
        assert_eq!(told.iter().map(of).collect::<Vec<_>>(), expected);
        let trips = round_trips(&connections).unwrap();
        assert_eq!(
            (trips.connections, trips.min_micros, trips.median_micros, trips.p99_micros),
            (2, 100, 100, 100)
        );
        let many: Vec<Socket> = (1..=1_000).map(|micros| socket("198.51.100.1", 0, micros)).collect();
        let trips = round_trips(&many).unwrap();
        assert_eq!((trips.min_micros, trips.median_micros, trips.p99_micros), (1, 500, 990));
        assert_eq!(round_trips(&connections[2..3]), None);
    }

    #[test]
    fn sums_are_found_by_their_names() {
        let snmp = "Ip: InSegs\nIp: 9\nTcp: CurrEstab InSegs OutSegs RetransSegs\nTcp: 4 100 90 10\n";
        let expected =
            Tcp { established: 4, received: 100, sent: 100, sent_again: 10, overflows: 7, round_trips: None };
        assert_eq!(sums(snmp, "TcpExt: X ListenOverflows\nTcpExt: 1 7\n"), expected);
        assert_eq!(sums("Tcp: CurrEstab\n", ""), Tcp::default());
    }
}
