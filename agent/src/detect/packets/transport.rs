//! TCP, UDP, ICMP and ICMPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cursor::Cursor;
use super::{Fault, Ip, Network, Packet, Quoted, Stop, Transport, protocol, tcp};

/// ICMP errors: unreachable, source quench, redirect, time exceeded, parameter problem. Each quotes the packet that it is about.
const ICMP_ERRORS: [u8; 5] = [3, 4, 5, 11, 12];
/// ICMPv6 errors are below this.
const ICMPV6_ERRORS_END: u8 = 128;

pub(super) fn decode<'a>(packet: &mut Packet<'a>, cursor: &mut Cursor<'a>, mut ip: Ip) -> Result<(), Stop> {
    if ip.fragment.is_some_and(|fragment| fragment.offset != 0) {
        return Ok(());
    }
    // The first of several parts may end anywhere: what does not fit is in the next one, and the whole is told as a fragment.
    let partial = ip.fragment.is_some_and(|fragment| fragment.more);
    let read = read(cursor, &ip);
    match read {
        Ok(transport) => ip.transport = transport,
        Err(Stop::Fault(_)) if partial => {}
        Err(stop) => return Err(stop),
    }
    packet.network = Network::Ip(ip);
    Ok(())
}

fn read(cursor: &mut Cursor<'_>, ip: &Ip) -> Result<Transport, Stop> {
    let v6 = ip.source.is_ipv6();
    match ip.protocol {
        protocol::TCP => tcp(cursor),
        protocol::UDP => udp(cursor, ip.fragment.is_some_and(|fragment| fragment.more)),
        protocol::UDP_LITE => {
            let (source, destination) = ports(cursor, Fault::UdpLength)?;
            cursor.take(4, Fault::UdpLength)?;
            Ok(Transport::Udp { source, destination })
        }
        protocol::ICMP if !v6 => icmp(cursor, |kind| ICMP_ERRORS.contains(&kind)),
        protocol::ICMPV6 if v6 => icmp(cursor, |kind| kind < ICMPV6_ERRORS_END),
        _ => Ok(Transport::Other),
    }
}

fn ports(cursor: &mut Cursor<'_>, fault: Fault) -> Result<(u16, u16), Stop> {
    Ok((cursor.u16(fault)?, cursor.u16(fault)?))
}

fn tcp(cursor: &mut Cursor<'_>) -> Result<Transport, Stop> {
    let wire = cursor.wire();
    if wire < 20 {
        return Err(Stop::Fault(Fault::TcpLength));
    }
    let (source, destination) = ports(cursor, Fault::TcpLength)?;
    cursor.take(8, Fault::TcpLength)?;
    let [offset, flags] = cursor.array(Fault::TcpLength)?;
    let header = usize::from(offset >> 4) * 4;
    if header < 20 || header > wire {
        return Err(Stop::Fault(Fault::TcpLength));
    }
    // The rest says nothing here: a snap length may have cut it.
    cursor.skip(header - 14);
    Ok(Transport::Tcp { source, destination, flags: flags & tcp::ALL })
}

fn udp(cursor: &mut Cursor<'_>, partial: bool) -> Result<Transport, Stop> {
    let wire = cursor.wire();
    let (source, destination) = ports(cursor, Fault::UdpLength)?;
    let length = usize::from(cursor.u16(Fault::UdpLength)?);
    cursor.take(2, Fault::UdpLength)?;
    // 0 stands for the rest of a jumbogram, and of what the kernel has put together.
    if length != 0 {
        let too_long = !partial && length > wire;
        if length < 8 || too_long {
            return Err(Stop::Fault(Fault::UdpLength));
        }
        cursor.limit((length - 8).min(cursor.wire()));
    }
    Ok(Transport::Udp { source, destination })
}

fn icmp(cursor: &mut Cursor<'_>, is_error: impl Fn(u8) -> bool) -> Result<Transport, Stop> {
    if cursor.wire() < 8 {
        return Err(Stop::Fault(Fault::IcmpLength));
    }
    let (kind, code) = match cursor.rest() {
        [kind, code, ..] => (*kind, *code),
        _ => return Err(Stop::NotCaptured),
    };
    let quoted = if is_error(kind) { cursor.rest().get(8..).and_then(quoted) } else { None };
    Ok(Transport::Icmp { kind, code, quoted })
}

/// The begin of the packet that an error is about; errors quote at least 8 bytes behind the IP header.
fn quoted(bytes: &[u8]) -> Option<Quoted> {
    let (source, destination, protocol, behind): (IpAddr, IpAddr, u8, &[u8]) = match bytes.first()? >> 4 {
        4 => {
            let source: [u8; 4] = bytes.get(12..16)?.try_into().ok()?;
            let destination: [u8; 4] = bytes.get(16..20)?.try_into().ok()?;
            let header = usize::from(bytes.first()? & 0x0f) * 4;
            let behind = bytes.get(header.max(20)..).unwrap_or_default();
            (Ipv4Addr::from(source).into(), Ipv4Addr::from(destination).into(), *bytes.get(9)?, behind)
        }
        6 => {
            let source: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let destination: [u8; 16] = bytes.get(24..40)?.try_into().ok()?;
            let behind = bytes.get(40..).unwrap_or_default();
            (Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into(), *bytes.get(6)?, behind)
        }
        _ => return None,
    };
    let has_ports = matches!(protocol, protocol::TCP | protocol::UDP | protocol::UDP_LITE);
    let (source_port, destination_port) = match behind {
        [a, b, c, d, ..] if has_ports => (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])),
        _ => (0, 0),
    };
    Some(Quoted { source, destination, protocol, source_port, destination_port })
}
