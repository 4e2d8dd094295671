//! Each packet is of exactly one class: the first that applies, in the order below. The kernel's counting program decides in the same
//! order (`agent/bpf/network.bpf.c`), and a test holds both against each other.

use crate::detect::packets::{Network, Packet, Transport, protocol, tcp};

/// UDP ports whose services answer a small question with a large answer, and are misused to flood a third party
/// (CISA's alert TA14-017A, and the services found since). A packet FROM such a port counts as amplification traffic; whether it is an
/// answer that was asked for, the detector decides. Sorted by port.
pub const AMPLIFIERS: [(u16, &str); 30] = [
    (17, "QOTD"),
    (19, "chargen"),
    (53, "DNS"),
    (69, "TFTP"),
    (111, "portmap"),
    (123, "NTP"),
    (137, "NetBIOS"),
    (161, "SNMP"),
    (177, "XDMCP"),
    (389, "CLDAP"),
    (427, "SLP"),
    (520, "RIP"),
    (1194, "OpenVPN"),
    (1434, "SQL Server browser"),
    (1604, "Citrix ICA"),
    (1900, "SSDP"),
    (3283, "Apple Remote Desktop"),
    (3478, "STUN"),
    (3702, "WS-Discovery"),
    (5093, "Sentinel"),
    (5351, "NAT-PMP"),
    (5353, "mDNS"),
    (5683, "CoAP"),
    (10001, "Ubiquiti discovery"),
    (11211, "memcached"),
    (17185, "VxWorks debug"),
    (27015, "Steam"),
    (27960, "Quake"),
    (33848, "Jenkins discovery"),
    (37810, "DVR discovery"),
];

/// The service that a port stands for among [`AMPLIFIERS`].
pub fn amplifier(port: u16) -> Option<&'static str> {
    let at = AMPLIFIERS.binary_search_by_key(&port, |(port, _)| *port).ok()?;
    AMPLIFIERS.get(at).map(|(_, name)| *name)
}

/// What a packet is for the counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Class {
    /// Something about it is impossible ([`crate::detect::packets::Fault`]).
    Malformed = 0,
    /// A part of an IP packet.
    Fragment = 1,
    /// TCP: a connection is asked for (SYN without ACK, RST, FIN).
    Syn = 2,
    /// TCP: it is granted.
    SynAck = 3,
    /// TCP: it is broken off, or refused (RST without SYN).
    Rst = 4,
    /// TCP with flags that no connection has: none, FIN without ACK, SYN with FIN or RST.
    Stealth = 5,
    /// Any other TCP: data, acknowledgements, orderly ends.
    Ack = 6,
    /// UDP from the port of an amplifier ([`AMPLIFIERS`]).
    Amplification = 7,
    /// Any other UDP.
    Udp = 8,
    /// ICMP, and ICMPv6 without neighbour discovery.
    Icmp = 9,
    /// ARP.
    Arp = 10,
    /// Neighbour discovery: ICMPv6 types 133 to 137.
    Neighbour = 11,
    /// Any other IP protocol, and what could not be seen of one.
    OtherIp = 12,
    /// No IP.
    Other = 13,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = 14;
    /// All of them, by number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Malformed,
        Self::Fragment,
        Self::Syn,
        Self::SynAck,
        Self::Rst,
        Self::Stealth,
        Self::Ack,
        Self::Amplification,
        Self::Udp,
        Self::Icmp,
        Self::Arp,
        Self::Neighbour,
        Self::OtherIp,
        Self::Other,
    ];

    /// Its place in arrays, and its number in the kernel's maps.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The class with this number.
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }

    /// The word in evidence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::Syn => "syn",
            Self::SynAck => "syn-ack",
            Self::Rst => "rst",
            Self::Stealth => "stealth",
            Self::Ack => "ack",
            Self::Amplification => "amplification",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Arp => "arp",
            Self::Neighbour => "neighbour",
            Self::OtherIp => "other-ip",
            Self::Other => "other",
        }
    }

    /// Of a packet.
    pub fn of(packet: &Packet<'_>) -> Self {
        if packet.fault.is_some() {
            return Self::Malformed;
        }
        let ip = match &packet.network {
            Network::Arp => return Self::Arp,
            Network::Ip(ip) => ip,
            Network::Other(_) | Network::Unseen => return Self::Other,
        };
        if ip.fragment.is_some() {
            return Self::Fragment;
        }
        match ip.transport {
            Transport::Tcp { flags, .. } => Self::of_flags(flags),
            Transport::Udp { source, .. } if amplifier(source).is_some() => Self::Amplification,
            Transport::Udp { .. } => Self::Udp,
            Transport::Icmp { kind: 133..=137, .. } if ip.protocol == protocol::ICMPV6 => Self::Neighbour,
            Transport::Icmp { .. } => Self::Icmp,
            Transport::Other | Transport::Unseen => Self::OtherIp,
        }
    }

    /// Of TCP's flags. PSH and URG are looked at only where nothing else is set.
    pub fn of_flags(flags: u8) -> Self {
        let has = |flag: u8| flags & flag != 0;
        match (has(tcp::SYN), has(tcp::ACK), has(tcp::RST), has(tcp::FIN)) {
            (true, _, true, _) | (true, _, _, true) => Self::Stealth,
            (true, false, false, false) => Self::Syn,
            (true, true, false, false) => Self::SynAck,
            (false, _, true, _) => Self::Rst,
            (false, true, false, _) => Self::Ack,
            // Without SYN, ACK and RST: null, FIN, XMAS.
            (false, false, false, _) => Self::Stealth,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_and_ports_are_sorted() {
        for (index, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!((class.index(), Class::from_index(index)), (index, Some(class)));
        }
        assert!(AMPLIFIERS.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!((amplifier(53), amplifier(54)), (Some("DNS"), None));
    }

    #[test]
    fn every_combination_of_flags_has_its_class() {
        let rows = [
            (tcp::SYN, Class::Syn),
            (tcp::SYN | tcp::PSH, Class::Syn),
            (tcp::SYN | tcp::ACK, Class::SynAck),
            (tcp::SYN | tcp::FIN, Class::Stealth),
            (tcp::SYN | tcp::RST, Class::Stealth),
            (tcp::SYN | tcp::ACK | tcp::FIN, Class::Stealth),
            (tcp::ALL, Class::Stealth),
            (tcp::RST, Class::Rst),
            (tcp::RST | tcp::ACK, Class::Rst),
            (tcp::ACK, Class::Ack),
            (tcp::ACK | tcp::FIN | tcp::PSH, Class::Ack),
            (0, Class::Stealth),
            (tcp::FIN, Class::Stealth),
            (tcp::FIN | tcp::PSH | tcp::URG, Class::Stealth),
            (tcp::PSH, Class::Stealth),
        ];
        for (flags, class) in rows {
            assert_eq!(Class::of_flags(flags), class, "{flags:#04x}");
        }
    }
}
