//! Tries what must not be possible any more.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// `discard` (RFC 863).
const PORT: u16 = 9;

/// Sends one datagram to `address`, which the firewall must refuse.
///
/// # Errors
/// When it went out, or something else stood in its way.
pub fn is_refused(address: IpAddr) -> Result<(), String> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let sent = UdpSocket::bind(SocketAddr::new(any, 0)).and_then(|socket| {
        socket.set_nonblocking(true)?;
        socket.send_to(&[0], SocketAddr::new(address, PORT))
    });
    match sent {
        Ok(_) => Err(format!("a datagram to {address} went out, which is to be cut off")),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        // Without a way there, nothing can go out that way.
        Err(error) if is_unreachable(&error) => Ok(()),
        Err(error) => Err(format!("whether {address} is cut off could not be tried: {error}")),
    }
}

fn is_unreachable(error: &io::Error) -> bool {
    let numbers = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EADDRNOTAVAIL, libc::ENETDOWN];
    error.raw_os_error().is_some_and(|number| numbers.contains(&number))
}
