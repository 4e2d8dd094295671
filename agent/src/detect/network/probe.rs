//! A packet that may be part of a scan: an attempt to reach a port or a host, or the answer to one.

use std::net::IpAddr;
use std::sync::Arc;

use picket_protocol::time::Timestamp;

use super::Direction;
use super::class::Class;
use crate::detect::packets::{Packet, Transport, protocol, tcp};

/// An attempt, or an answer that says what became of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// When it was seen.
    pub time: Timestamp,
    /// On which interface.
    pub interface: Arc<str>,
    /// Which way the ATTEMPT goes: `In` when somebody tries us, also for our own answers to him.
    pub direction: Direction,
    /// Who tries. Of an answer, who is answered.
    pub source: IpAddr,
    /// Who is tried. Of an answer, who was tried.
    pub destination: IpAddr,
    /// The port that is tried; 0 where there is none.
    pub port: u16,
    /// What it is.
    pub kind: ProbeKind,
    /// For how many such packets it stands: 1, or the sampling rate under which it was let through.
    pub weight: u32,
}

/// What a probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// TCP SYN.
    Syn,
    /// TCP with flags that no connection has.
    Stealth(Stealth),
    /// A UDP datagram that is no answer of a known service.
    Udp,
    /// An ICMP echo request.
    Echo,
    /// What was tried answers that it does not want it.
    Refused(Answer),
    /// What was tried answers that it does (SYN and ACK, or an echo reply).
    Accepted,
}

/// How flags that no connection has are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stealth {
    /// No flag at all.
    Null,
    /// FIN alone.
    Fin,
    /// FIN, PSH and URG.
    Xmas,
    /// SYN with FIN or RST.
    SynFin,
    /// FIN with ACK where no connection is cannot be told from an orderly end, so this is the rest.
    Other,
}

/// How an attempt was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// A TCP reset: the port is closed.
    Reset,
    /// ICMP: port unreachable.
    PortUnreachable,
    /// ICMP: host, network or protocol unreachable, or forbidden by a filter.
    Unreachable,
}

impl Stealth {
    /// By the flags of a packet of [`Class::Stealth`].
    pub fn of_flags(flags: u8) -> Self {
        match flags & tcp::ALL {
            0 => Self::Null,
            tcp::FIN => Self::Fin,
            flags if flags == tcp::FIN | tcp::PSH | tcp::URG => Self::Xmas,
            flags if flags & tcp::SYN != 0 => Self::SynFin,
            _ => Self::Other,
        }
    }

    /// The word in evidence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Fin => "fin",
            Self::Xmas => "xmas",
            Self::SynFin => "syn-fin",
            Self::Other => "other",
        }
    }
}

/// Where and when a packet was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub time: Timestamp,
    /// On which interface.
    pub interface: Arc<str>,
    /// Which way the packet went.
    pub direction: Direction,
    /// For how many it stands.
    pub weight: u32,
}

impl Probe {
    /// Of a packet; none when it is no attempt and no answer to one.
    pub fn of(packet: &Packet<'_>, seen: Seen) -> Option<Self> {
        let ip = packet.ip()?;
        let attempt = |kind, port| (kind, ip.source, ip.destination, port, false);
        let answer = |kind, port| (kind, ip.destination, ip.source, port, true);
        let v4 = ip.protocol == protocol::ICMP;
        let (kind, source, destination, port, is_answer) = match (ip.transport, Class::of(packet)) {
            (Transport::Tcp { destination, .. }, Class::Syn) => attempt(ProbeKind::Syn, destination),
            (Transport::Tcp { destination, flags, .. }, Class::Stealth) => {
                attempt(ProbeKind::Stealth(Stealth::of_flags(flags)), destination)
            }
            (Transport::Tcp { source, .. }, Class::SynAck) => answer(ProbeKind::Accepted, source),
            (Transport::Tcp { source, .. }, Class::Rst) => answer(ProbeKind::Refused(Answer::Reset), source),
            (Transport::Udp { destination, .. }, Class::Udp) => attempt(ProbeKind::Udp, destination),
            (Transport::Icmp { kind: 8, .. }, Class::Icmp) if v4 => attempt(ProbeKind::Echo, 0),
            (Transport::Icmp { kind: 128, .. }, Class::Icmp) if !v4 => attempt(ProbeKind::Echo, 0),
            (Transport::Icmp { kind: 0, .. }, Class::Icmp) if v4 => answer(ProbeKind::Accepted, 0),
            (Transport::Icmp { kind: 129, .. }, Class::Icmp) if !v4 => answer(ProbeKind::Accepted, 0),
            (Transport::Icmp { kind, code, quoted: Some(quoted) }, Class::Icmp)
                if kind == if v4 { 3 } else { 1 } =>
            {
                let port = code == if v4 { 3 } else { 4 };
                let how = if port { Answer::PortUnreachable } else { Answer::Unreachable };
                let kind = ProbeKind::Refused(how);
                (kind, quoted.source, quoted.destination, quoted.destination_port, true)
            }
            _ => return None,
        };
        let Seen { time, interface, direction, weight } = seen;
        let direction = if is_answer { direction.reversed() } else { direction };
        Some(Self { time, interface, direction, source, destination, port, kind, weight: weight.max(1) })
    }
}
