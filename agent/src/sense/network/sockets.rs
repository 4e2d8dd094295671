//! The sockets of this network namespace, asked of the kernel (`sock_diag(7)`): who is behind what goes out, and how the
//! connections of the listening sockets fare.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::net::netlink;

use crate::netlink::{Netlink, attribute, native_u32};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY`.
const DESTROY: u16 = 21;
/// `struct inet_diag_req_v2` and `struct inet_diag_msg`.
const REQUEST_BYTES: usize = 56;
const ANSWER_BYTES: usize = 72;
/// The extension `INET_DIAG_INFO`, as a bit of the question and as the attribute of the answer.
const ASK_INFO: u8 = 2;
const INFO: u16 = 2;
/// Where `tcpi_rtt`, `tcpi_total_retrans`, `tcpi_bytes_acked`, `tcpi_bytes_received` and `tcpi_data_segs_out` lie in `struct tcp_info`.
const ROUND_TRIP: usize = 68;
const SENT_AGAIN: usize = 100;
const BYTES_TAKEN: usize = 120;
const BYTES_RECEIVED: usize = 128;
const SEGMENTS_SENT: usize = 156;
/// Sockets of one answer that are kept.
pub const SOCKETS_MAX: usize = 65_536;

/// States of TCP, as bits.
pub const ESTABLISHED: u32 = 1 << 1;
/// See [`ESTABLISHED`].
pub const SYN_SENT: u32 = 1 << 2;
/// See [`ESTABLISHED`]; of UDP those that are not connected to anybody.
pub const CLOSED: u32 = 1 << 7;
/// See [`ESTABLISHED`].
pub const LISTEN: u32 = 1 << 10;
/// All of them; of UDP as well.
pub const ANY: u32 = 0xfff;

/// A socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Where it is bound.
    pub local: (IpAddr, u16),
    /// To whom it is connected.
    pub remote: (IpAddr, u16),
    /// What the kernel calls it as long as it lives.
    pub cookie: u64,
    /// The user who made it.
    pub uid: u32,
    /// Number of the file that it is to its process; 0 when no process has it any more.
    pub inode: u32,
    /// Bytes that wait to be read; of a listening socket, connections that wait to be accepted.
    pub receive_queue: u32,
    /// Bytes that wait to be sent; of a listening socket, how many connections may wait.
    pub send_queue: u32,
    /// Bytes that ever came, of a TCP connection when asked for; likewise the others.
    pub received: u64,
    /// Bytes that were sent and that the peer has taken.
    pub taken: u64,
    /// Segments with data that were sent.
    pub sent: u32,
    /// Segments that were sent again.
    pub sent_again: u32,
    /// How long an answer takes, smoothed, in microseconds; 0 while none is known.
    pub round_trip_micros: u32,
}

/// All TCP (6) or UDP (17) sockets of both families in one of `states`; with what came over them when `with_info`.
///
/// # Errors
/// What the kernel says; `ENOENT` when it lacks the module for that protocol.
pub fn all(protocol: u8, states: u32, with_info: bool) -> io::Result<Vec<Socket>> {
    let mut socket = open()?;
    let mut sockets = Vec::new();
    for family in FAMILIES {
        sockets.extend(of_family(&mut socket, family, protocol, states, with_info)?);
    }
    Ok(sockets)
}

/// A socket to ask with.
///
/// # Errors
/// When no descriptor is left.
pub fn open() -> io::Result<Netlink> {
    Netlink::open(Some(netlink::SOCK_DIAG), 0)
}

/// The families that are asked about.
pub const FAMILIES: [i32; 2] = [libc::AF_INET, libc::AF_INET6];

/// As [`all`], of one family.
///
/// # Errors
/// As [`all`].
pub fn of_family(
    socket: &mut Netlink,
    family: i32,
    protocol: u8,
    states: u32,
    with_info: bool,
) -> io::Result<Vec<Socket>> {
    let mut request = [0u8; REQUEST_BYTES];
    let head = [u8::try_from(family).unwrap_or(0), protocol, if with_info { ASK_INFO } else { 0 }, 0];
    for (to, from) in request.iter_mut().zip(head.into_iter().chain(states.to_ne_bytes())) {
        *to = from;
    }
    socket.dump(BY_FAMILY, &request, |found: &mut Vec<Socket>, message| {
        if found.len() < SOCKETS_MAX {
            found.extend(parse(message.body));
        }
    })
}

/// Ends a connection as if its program had: that one hears `ECONNABORTED`, the peer a reset (`SOCK_DESTROY`).
///
/// # Errors
/// What the kernel says: `EOPNOTSUPP` when it cannot, `ENOENT` when the connection is gone.
pub fn destroy(netlink: &mut Netlink, family: i32, protocol: u8, socket: &Socket) -> io::Result<()> {
    let octets = |address: IpAddr| match (address, family) {
        (IpAddr::V4(v4), libc::AF_INET) => [&v4.octets()[..], &[0; 12]].concat(),
        (IpAddr::V4(v4), _) => v4.to_ipv6_mapped().octets().to_vec(),
        (IpAddr::V6(v6), _) => v6.octets().to_vec(),
    };
    let mut request = vec![u8::try_from(family).unwrap_or(0), protocol, 0, 0];
    request.extend_from_slice(&ANY.to_ne_bytes());
    request.extend_from_slice(&socket.local.1.to_be_bytes());
    request.extend_from_slice(&socket.remote.1.to_be_bytes());
    request.extend(octets(socket.local.0));
    request.extend(octets(socket.remote.0));
    request.extend_from_slice(&0u32.to_ne_bytes());
    // The cookie as the kernel gave it: low half first.
    let [low, high] = [socket.cookie & u64::from(u32::MAX), socket.cookie >> 32];
    for half in [low, high] {
        request.extend_from_slice(&u32::try_from(half).unwrap_or(u32::MAX).to_ne_bytes());
    }
    netlink.command(DESTROY, &request)
}

/// `struct inet_diag_msg`, then attributes.
pub(crate) fn parse(body: &[u8]) -> Option<Socket> {
    let head = body.get(..ANSWER_BYTES)?;
    let family = *head.first()?;
    let port =
        |at: usize| -> Option<u16> { Some(u16::from_be_bytes(head.get(at..at + 2)?.try_into().ok()?)) };
    let address = |at: usize| -> Option<IpAddr> {
        if i32::from(family) == libc::AF_INET {
            let bytes: [u8; 4] = head.get(at..at + 4)?.try_into().ok()?;
            return Some(IpAddr::V4(Ipv4Addr::from(bytes)));
        }
        let bytes: [u8; 16] = head.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical())
    };
    let (low, high) = (native_u32(head, 44)?, native_u32(head, 48)?);
    let info = body.get(ANSWER_BYTES..).and_then(|rest| attribute(rest, INFO));
    let short = |at: usize| info.and_then(|info| native_u32(info, at)).unwrap_or(0);
    let long =
        |at: usize| info.and_then(|info| info.get(at..at + 8)?.try_into().ok()).map_or(0, u64::from_ne_bytes);
    Some(Socket {
        local: (address(8)?, port(4)?),
        remote: (address(24)?, port(6)?),
        cookie: u64::from(high) << 32 | u64::from(low),
        receive_queue: native_u32(head, 56)?,
        send_queue: native_u32(head, 60)?,
        uid: native_u32(head, 64)?,
        inode: native_u32(head, 68)?,
        received: long(BYTES_RECEIVED),
        taken: long(BYTES_TAKEN),
        sent: short(SEGMENTS_SENT),
        sent_again: short(SENT_AGAIN),
        round_trip_micros: short(ROUND_TRIP),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn the_kernel_tells_of_listeners_connections_and_what_came() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(here).unwrap();
        let (_accepted, _) = listener.accept().unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        let of = |sockets: Vec<Socket>| {
            sockets.into_iter().find(|socket| socket.local == (here.ip(), here.port())).unwrap()
        };
        let listening = of(all(6, LISTEN, false).unwrap());
        assert_eq!((listening.receive_queue, listening.remote.1), (0, 0));
        assert!(listening.send_queue >= 128 && listening.inode != 0, "{listening:?}");
        assert_eq!(listening.uid, rustix::process::geteuid().as_raw());
        let connection = of(all(6, ESTABLISHED, true).unwrap());
        let there = client.local_addr().unwrap();
        assert_eq!((connection.remote, connection.received), ((there.ip(), there.port()), 16));
        assert!(connection.round_trip_micros > 0 && connection.sent_again == 0, "{connection:?}");
    }

    #[test]
    fn udp_and_the_other_family_are_told_as_well() {
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        let here = socket.local_addr().unwrap();
        let sockets = all(17, ANY, false).unwrap();
        assert!(sockets.iter().any(|found| found.local == (here.ip(), here.port())), "{sockets:?}");
    }
}
