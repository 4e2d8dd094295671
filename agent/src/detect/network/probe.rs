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
    /// The port that it is tried from; 0 where there is none.
    pub source_port: u16,
    /// What it is.
    pub kind: ProbeKind,
    /// For how many such packets it stands: 1, or the sampling rate under which it was let through.
    pub weight: u32,
    /// Packets were let through one by one by chance, so that nobody knows whether it was answered.
    pub alone: bool,
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
    /// What was tried answers that it does (SYN and ACK, an echo reply, a datagram from a known service).
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
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// When.
    pub time: Timestamp,
    /// On which interface.
    pub interface: &'a Arc<str>,
    /// Which way the packet went.
    pub direction: Direction,
    /// For how many it stands.
    pub weight: u32,
    /// See [`Probe::alone`].
    pub alone: bool,
}

impl Probe {
    /// Of a packet; none when it is no attempt and no answer to one.
    pub fn of(packet: &Packet<'_>, seen: Seen<'_>) -> Option<Self> {
        let ip = packet.ip()?;
        // Who tries, from which port; who is tried, on which; whether it is the answer.
        let there = (ip.source, ip.destination, false);
        let back = (ip.destination, ip.source, true);
        let v4 = ip.protocol == protocol::ICMP;
        let class = Class::of(packet);
        let (kind, (source, destination, is_answer), (source_port, port)) = match ip.transport {
            Transport::Tcp { source, destination, flags } => match class {
                Class::Syn => (ProbeKind::Syn, there, (source, destination)),
                Class::Stealth => {
                    (ProbeKind::Stealth(Stealth::of_flags(flags)), there, (source, destination))
                }
                Class::SynAck => (ProbeKind::Accepted, back, (destination, source)),
                Class::Rst => (ProbeKind::Refused(Answer::Reset), back, (destination, source)),
                _ => return None,
            },
            Transport::Udp { source, destination } => match class {
                Class::Udp => (ProbeKind::Udp, there, (source, destination)),
                Class::Amplification => (ProbeKind::Accepted, back, (destination, source)),
                _ => return None,
            },
            Transport::Icmp { kind, code, quoted } if class == Class::Icmp => match (kind, v4, quoted) {
                (8, true, _) | (128, false, _) => (ProbeKind::Echo, there, (0, 0)),
                (0, true, _) | (129, false, _) => (ProbeKind::Accepted, back, (0, 0)),
                (3, true, Some(quoted)) | (1, false, Some(quoted)) => {
                    let port = code == if v4 { 3 } else { 4 };
                    let how = if port { Answer::PortUnreachable } else { Answer::Unreachable };
                    let who = (quoted.source, quoted.destination, true);
                    (ProbeKind::Refused(how), who, (quoted.source_port, quoted.destination_port))
                }
                _ => return None,
            },
            _ => return None,
        };
        let Seen { time, interface, direction, weight, alone } = seen;
        let interface = Arc::clone(interface);
        let direction = if is_answer { direction.reversed() } else { direction };
        let weight = weight.max(1);
        let who =
            Self { time, interface, direction, source, destination, port, source_port, kind, weight, alone };
        Some(who)
    }
}
