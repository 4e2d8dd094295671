//! ARP for IPv4 on Ethernet (RFC 826).

use std::net::Ipv4Addr;

use super::Mac;
use super::bytes::{mac, u16_at, v4};

/// What is asked or answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    /// Who has the target's address?
    Request,
    /// The sender has the sender's address.
    Reply,
}

/// An ARP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: ArpOperation,
    /// The sender, by the message.
    pub sender: Mac,
    /// The address that it says it has; `0.0.0.0` in a probe (RFC 5227).
    pub sender_address: Ipv4Addr,
    /// The target; zero in a request.
    pub target: Mac,
    /// The address asked for, or the asker's in a reply.
    pub target_address: Ipv4Addr,
}

impl Arp {
    /// Whether it announces an address instead of asking for one: "gratuitous".
    pub fn is_announcement(&self) -> bool {
        self.sender_address == self.target_address
    }

    /// Whether it only asks whether somebody has an address that the sender would like to use.
    pub fn is_probe(&self) -> bool {
        self.operation == ArpOperation::Request && self.sender_address.is_unspecified()
    }

    /// Reads what follows the Ethernet header.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        // Hardware Ethernet, protocol IPv4, lengths 6 and 4.
        if bytes.get(..6)? != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let operation = match u16_at(bytes, 6)? {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            _ => return None,
        };
        Some(Self {
            operation,
            sender: mac(bytes, 8)?,
            sender_address: v4(bytes, 14)?,
            target: mac(bytes, 18)?,
            target_address: v4(bytes, 24)?,
        })
    }
}
