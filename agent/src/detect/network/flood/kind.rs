//! The kinds of floods, their rules and words.

use crate::detect::network::Class;

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// SYNs whose handshake is never completed.
    Syn,
    /// SYN-ACKs that nobody asked for.
    SynAck,
    /// Segments of no connection.
    Ack,
    /// Resets of no connection.
    Rst,
    /// Datagrams that nobody answers.
    Udp,
    /// Answers of UDP services that nobody asked for.
    Amplification,
    /// ICMP.
    Icmp,
    /// Parts of packets that are never whole.
    Fragment,
    /// Packets with impossible headers or flags.
    Malformed,
    /// Complete handshakes, and nothing in them; or more of them than the host has room for.
    Connection,
    /// Connections that are held open by next to nothing.
    Slow,
}

impl Kind {
    /// Those that are told by the rate of one class, and that class.
    pub const BY_RATE: [(Self, Class); 10] = [
        (Self::Syn, Class::Syn),
        (Self::SynAck, Class::SynAck),
        (Self::Ack, Class::Ack),
        (Self::Rst, Class::Rst),
        (Self::Udp, Class::Udp),
        (Self::Amplification, Class::Amplification),
        (Self::Icmp, Class::Icmp),
        (Self::Fragment, Class::Fragment),
        (Self::Malformed, Class::Malformed),
        (Self::Connection, Class::Syn),
    ];

    /// The rule.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Syn => "net.flood.syn",
            Self::SynAck => "net.flood.syn-ack",
            Self::Ack => "net.flood.ack",
            Self::Rst => "net.flood.rst",
            Self::Udp => "net.flood.udp",
            Self::Amplification => "net.flood.amplification",
            Self::Icmp => "net.flood.icmp",
            Self::Fragment => "net.flood.fragment",
            Self::Malformed => "net.flood.malformed",
            Self::Connection => "net.flood.connection",
            Self::Slow => "net.flood.slow",
        }
    }

    /// The class whose packets it is made of.
    pub fn class(self) -> Class {
        let class = Self::BY_RATE.iter().find(|(kind, _)| *kind == self).map(|(_, class)| *class);
        class.unwrap_or(Class::Ack)
    }

    /// What titles call it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Syn => "SYN flood",
            Self::SynAck => "SYN-ACK flood",
            Self::Ack => "ACK flood",
            Self::Rst => "RST flood",
            Self::Udp => "UDP flood",
            Self::Amplification => "amplification flood",
            Self::Icmp => "ICMP flood",
            Self::Fragment => "fragment flood",
            Self::Malformed => "flood of malformed packets",
            Self::Connection => "connection flood",
            Self::Slow => "slow-connection attack",
        }
    }

    /// MITRE ATT&CK: direct network flood, reflection amplification, OS exhaustion, service exhaustion.
    pub fn attack(self) -> &'static str {
        match self {
            Self::Udp | Self::Icmp | Self::Fragment | Self::Malformed => "T1498.001",
            Self::Amplification => "T1498.002",
            Self::Syn | Self::SynAck | Self::Ack | Self::Rst => "T1499.001",
            Self::Connection | Self::Slow => "T1499.002",
        }
    }
}
