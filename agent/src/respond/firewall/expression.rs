//! The expressions of nftables that the agent's own tables are made of, as the kernel takes them
//! (`linux/netfilter/nf_tables.h`). One register is used: each match loads and compares it before the next.

use picket_protocol::action::{Network, Transport};
use std::net::IpAddr;

use crate::netlink::batch::Attributes;

/// `NFT_REG_1`: 16 bytes.
const REGISTER: u32 = 1;
/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
pub const IPV4: u8 = 2;
/// See [`IPV4`].
pub const IPV6: u8 = 10;
/// `IPPROTO_ICMP`, `TCP`, `UDP` and `ICMPV6`.
pub const ICMP: u8 = 1;
/// See [`ICMP`].
pub const TCP: u8 = 6;
/// See [`ICMP`].
pub const UDP: u8 = 17;
/// See [`ICMP`].
pub const ICMPV6: u8 = 58;
/// `ARPHRD_LOOPBACK`.
const LOOPBACK: u16 = 772;

/// What of a packet or its socket is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// `NFT_META_NFPROTO`: one byte.
    Family,
    /// `NFT_META_L4PROTO`: one byte.
    Protocol,
    /// `NFT_META_IIFTYPE`: kind of the interface it came by, two bytes in this machine's order.
    InterfaceIn,
    /// `NFT_META_OIFTYPE`: of that by which it goes.
    InterfaceOut,
    /// `NFT_META_SKUID`: the user of its socket.
    User,
    /// Bytes of the network header: offset and length.
    Network(u32, u32),
    /// Bytes of the transport header.
    Transport(u32, u32),
    /// `NFT_FIB_RESULT_ADDRTYPE` of the destination: what it is to this host.
    KindOfDestination,
    /// `NFT_SOCKET_CGROUPV2`: number of the group of its socket's process, at that depth.
    Cgroup(u32),
}

/// Hops that are left, in the header of IPv6.
pub const HOPS_LEFT: Load = Load::Network(7, 1);

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It is gone.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// On in another chain of the table.
    Jump(&'static str),
}

/// One expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Loads something.
    Load(Load),
    /// Keeps the bits of a mask of what is loaded.
    Mask(Vec<u8>),
    /// Goes on when it is this.
    Is(Vec<u8>),
    /// Goes on when it is not.
    IsNot(Vec<u8>),
    /// Goes on when it lies between both, in network order.
    Between(Vec<u8>, Vec<u8>),
    /// Goes on when it is in a set of the table.
    In(&'static str),
    /// Goes on when it is in a set whose name is made up.
    InNamed(String),
    /// Goes on for as many a second, and at once.
    AtMost(u64, u32),
    /// Goes on when what is loaded came more often than so many a second; remembered in a set.
    MoreThan(&'static str, u64, u32),
    /// Tells the sender that it is not allowed.
    Reject,
    /// The end.
    Verdict(Verdict),
}

/// A rule: all match, then the verdict.
pub type Rule = Vec<Expression>;

use Expression::{Between, Is, Mask, Verdict as Then};

/// Of one family.
pub fn family(family: u8) -> Rule {
    vec![Expression::Load(Load::Family), Is(vec![family])]
}

/// Of one transport protocol.
pub fn protocol(number: u8) -> Rule {
    vec![Expression::Load(Load::Protocol), Is(vec![number])]
}

/// Of any but one.
pub fn other_than(number: u8) -> Rule {
    vec![Expression::Load(Load::Protocol), Expression::IsNot(vec![number])]
}

/// `RST` and `ACK`: a segment without either begins a connection.
const ANSWERS: u8 = 0x04 | 0x10;

/// Of TCP, which was matched before, and not the first segment of a connection: whoever may answer may not begin one.
pub fn begins_nothing() -> Rule {
    vec![Expression::Load(Load::Transport(13, 1)), Mask(vec![ANSWERS]), Expression::IsNot(vec![0])]
}

/// Number of a transport protocol.
pub fn number_of(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => TCP,
        Transport::Udp => UDP,
    }
}

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes to.
    Destination,
}

impl End {
    /// The other one.
    pub fn other(self) -> Self {
        if self == Self::Source { Self::Destination } else { Self::Source }
    }
}

/// Where the address of an end stands in the header of its family.
pub fn address(family: u8, end: End) -> Load {
    match (family, end) {
        (IPV4, End::Source) => Load::Network(12, 4),
        (IPV4, End::Destination) => Load::Network(16, 4),
        (_, End::Source) => Load::Network(8, 16),
        (_, End::Destination) => Load::Network(24, 16),
    }
}

/// In a network, by one end.
pub fn network(network: Network, end: End) -> Rule {
    let (number, bytes, full) = match network.address() {
        IpAddr::V4(address) => (IPV4, address.octets().to_vec(), 32),
        IpAddr::V6(address) => (IPV6, address.octets().to_vec(), 128),
    };
    let mut rule = family(number);
    if network.length() > 0 {
        rule.push(Expression::Load(address(number, end)));
        if network.length() < full {
            rule.push(Mask(mask(network.length(), bytes.len())));
        }
        rule.push(Is(bytes));
    }
    rule
}

/// A mask of so many bits in so many bytes.
pub fn mask(length: u8, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| {
            let before = u8::try_from(at.saturating_mul(8)).unwrap_or(u8::MAX);
            let bits = length.saturating_sub(before).min(8);
            u8::MAX.checked_shl(8 - u32::from(bits)).unwrap_or(0)
        })
        .collect()
}

/// Ports of an end, after the protocol was matched.
pub fn ports(first: u16, last: u16, end: End) -> Rule {
    let at = if end == End::Source { 0 } else { 2 };
    let (low, high) = (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec());
    let compare = if first == last { Is(low) } else { Between(low, high) };
    vec![Expression::Load(Load::Transport(at, 2)), compare]
}

/// Over the loopback interface.
pub fn loopback(interface: Load) -> Rule {
    vec![Expression::Load(interface), Is(LOOPBACK.to_ne_bytes().to_vec())]
}

/// A rule of several parts.
pub fn rule(parts: impl IntoIterator<Item = Rule>, verdict: Verdict) -> Rule {
    let mut rule: Rule = parts.into_iter().flatten().collect();
    rule.push(Then(verdict));
    rule
}

/// The verdicts' numbers: `NF_DROP`, `NF_ACCEPT`, `NFT_JUMP`, `NFT_RETURN`.
fn code(verdict: &Verdict) -> i32 {
    match verdict {
        Verdict::Drop => 0,
        Verdict::Accept => 1,
        Verdict::Jump(_) => -3,
        Verdict::Return => -5,
    }
}

impl Expression {
    /// Writes it as an element of a rule's list (or of an element of a set).
    pub fn write(&self, list: &mut Attributes, kind: u16) {
        let (name, data) = self.encode();
        list.nested(kind, |one| {
            one.text(1, name);
            one.bytes(2 | 0x8000, &data.into_bytes());
        });
    }

    fn encode(&self) -> (&'static str, Attributes) {
        let mut data = Attributes::default();
        let name = match self {
            Self::Load(load) => return encode_load(*load),
            Self::Mask(mask) => {
                data.number(1, REGISTER);
                data.number(2, REGISTER);
                data.number(3, u32::try_from(mask.len()).unwrap_or(0));
                data.nested(4, |value| value.bytes(1, mask));
                data.nested(5, |value| value.bytes(1, &vec![0; mask.len()]));
                "bitwise"
            }
            Self::Is(value) => encode_compare(&mut data, 0, value),
            Self::IsNot(value) => encode_compare(&mut data, 1, value),
            Self::Between(low, high) => {
                data.number(1, REGISTER);
                data.number(2, 0);
                data.nested(3, |value| value.bytes(1, low));
                data.nested(4, |value| value.bytes(1, high));
                "range"
            }
            Self::In(set) => encode_lookup(&mut data, set),
            Self::InNamed(set) => encode_lookup(&mut data, set),
            Self::AtMost(rate, burst) => {
                encode_limit(&mut data, *rate, *burst, 0);
                "limit"
            }
            Self::MoreThan(set, rate, burst) => {
                data.text(1, set);
                // NFT_DYNSET_OP_UPDATE: the entry lives on while its source goes on sending.
                data.number(3, 1);
                data.number(4, REGISTER);
                let mut limit = Attributes::default();
                encode_limit(&mut limit, *rate, *burst, 1);
                data.nested(7, |expression| {
                    expression.text(1, "limit");
                    expression.bytes(2 | 0x8000, &limit.into_bytes());
                });
                "dynset"
            }
            Self::Reject => {
                // NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_ADMIN_PROHIBITED.
                data.number(1, 2);
                data.bytes(2, &[3]);
                "reject"
            }
            Self::Verdict(verdict) => {
                data.number(1, VERDICT);
                data.nested(2, |value| {
                    value.nested(2, |inner| {
                        inner.bytes(1, &code(verdict).to_be_bytes());
                        if let Verdict::Jump(chain) = verdict {
                            inner.text(2, chain);
                        }
                    });
                });
                "immediate"
            }
        };
        (name, data)
    }
}

fn encode_compare(data: &mut Attributes, operation: u32, value: &[u8]) -> &'static str {
    data.number(1, REGISTER);
    data.number(2, operation);
    data.nested(3, |nested| nested.bytes(1, value));
    "cmp"
}

fn encode_lookup(data: &mut Attributes, set: &str) -> &'static str {
    data.text(1, set);
    data.number(2, REGISTER);
    "lookup"
}

/// `flags` 1 is `NFT_LIMIT_F_INV`: matches what is more.
fn encode_limit(data: &mut Attributes, rate: u64, burst: u32, flags: u32) {
    data.long(1, rate);
    data.long(2, 1);
    data.number(3, burst);
    // NFT_LIMIT_PKTS.
    data.number(4, 0);
    data.number(5, flags);
}

fn encode_load(load: Load) -> (&'static str, Attributes) {
    let mut data = Attributes::default();
    let meta = |key: u32| {
        let mut data = Attributes::default();
        data.number(1, REGISTER);
        data.number(2, key);
        ("meta", data)
    };
    match load {
        Load::Family => return meta(15),
        Load::Protocol => return meta(16),
        Load::InterfaceIn => return meta(8),
        Load::InterfaceOut => return meta(9),
        Load::User => return meta(10),
        Load::Network(offset, length) | Load::Transport(offset, length) => {
            data.number(1, REGISTER);
            data.number(2, if matches!(load, Load::Network(..)) { 1 } else { 2 });
            data.number(3, offset);
            data.number(4, length);
        }
        Load::KindOfDestination => {
            data.number(1, REGISTER);
            data.number(2, 3);
            data.number(3, 2);
            return ("fib", data);
        }
        Load::Cgroup(level) => {
            data.number(1, 3);
            data.number(2, REGISTER);
            data.number(3, level);
            return ("socket", data);
        }
    }
    ("payload", data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_as_many_bits_as_said() {
        assert_eq!(mask(8, 4), [255, 0, 0, 0]);
        assert_eq!(mask(20, 4), [255, 255, 240, 0]);
        assert_eq!(mask(0, 4), [0; 4]);
        assert_eq!(mask(128, 16), [255; 16]);
        assert_eq!(mask(65, 16)[7..10], [255, 128, 0]);
    }
}
