//! What one frame says about who has an address.

use std::sync::Arc;

use picket_protocol::time::Timestamp;

use super::Own;
use super::table::Place;
use crate::detect::packets::neighbour::{ArpOperation, Body, Mac, NeighbourFrame};

/// In which way it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// By the way, in a question.
    Question,
    /// As an answer, to this host alone.
    AnswerToUs,
    /// As an answer to somebody else.
    Answer,
    /// To all, without being asked.
    Announcement,
    /// By the kernel's table.
    Cache,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub place: Place,
    /// Where the address is said to be.
    pub mac: Mac,
    /// Who says it, by the Ethernet header.
    pub source: Mac,
    pub kind: Kind,
    pub from_here: bool,
    pub time: Timestamp,
    pub weight: u32,
}

/// A claim that waits for its explanation.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub claim: Claim,
    pub due: Timestamp,
}

impl Claim {
    /// None where nothing is said, or nothing that any host believes.
    pub fn of(frame: &NeighbourFrame, own: &Own) -> Option<Self> {
        let decoded = &frame.decoded;
        let (address, mac) = decoded.claim()?;
        let believable = mac.is_unicast() && !address.is_multicast() && !address.is_loopback();
        if !believable {
            return None;
        }
        let to_one = decoded.destination.is_unicast();
        let to_us = to_one && !frame.from_here && own.is_mac(decoded.destination);
        let kind = match &decoded.body {
            Body::Arp(arp) if arp.is_announcement() && !to_one => Kind::Announcement,
            Body::Arp(arp) if arp.operation == ArpOperation::Request => Kind::Question,
            Body::Arp(_) | Body::Advertisement(_) | Body::Redirect(_) if to_us => Kind::AnswerToUs,
            Body::Arp(_) | Body::Advertisement(_) | Body::Redirect(_) if to_one => Kind::Answer,
            Body::Arp(_) | Body::Advertisement(_) => Kind::Announcement,
            _ => Kind::Question,
        };
        Some(Self {
            place: (Arc::clone(&frame.interface), decoded.vlan, address),
            mac,
            source: decoded.source,
            kind,
            from_here: frame.from_here,
            time: frame.time,
            weight: frame.weight,
        })
    }

    /// Whether the message names another sender than the Ethernet header, which no honest host does but those that
    /// share an address by design.
    pub fn is_mismatched(&self) -> bool {
        let by_design = |mac: Mac| mac.is_shared_by_routers() || mac.is_of_balanced_cluster();
        self.kind != Kind::Cache && self.mac != self.source && !by_design(self.mac) && !by_design(self.source)
    }
}
