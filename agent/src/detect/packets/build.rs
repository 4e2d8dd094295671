//! Builds frames, for tests: of this module, and of the program (`agent/tests/replay`), which takes this very file. It knows nothing of
//! the decoder, so that one is held against the other.
#![allow(dead_code, missing_docs, reason = "each user of this file needs some of it")]
#![allow(clippy::cast_possible_truncation, reason = "tests build what fits")]

use std::net::IpAddr;

/// What is in an IP packet.
#[derive(Clone, Debug)]
pub enum Body {
    Tcp { source: u16, destination: u16, flags: u8, payload: usize },
    Udp { source: u16, destination: u16, payload: usize },
    Icmp { kind: u8, code: u8, payload: Vec<u8> },
    Raw { protocol: u8, payload: Vec<u8> },
}

/// An Ethernet frame with an IP packet.
#[derive(Clone, Debug)]
pub struct Frame {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub vlans: Vec<u16>,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ttl: u8,
    /// Offset in bytes, a multiple of 8, and whether more follow.
    pub fragment: Option<(u16, bool)>,
    /// IPv4: words of options; IPv6: extension headers (destination options of 8 bytes).
    pub options: usize,
    pub body: Body,
}

impl Frame {
    pub fn new(source: IpAddr, destination: IpAddr, body: Body) -> Self {
        Self {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            vlans: Vec::new(),
            source,
            destination,
            ttl: 64,
            fragment: None,
            options: 0,
            body,
        }
    }

    pub fn tcp(source: (IpAddr, u16), destination: (IpAddr, u16), flags: u8, payload: usize) -> Self {
        let body = Body::Tcp { source: source.1, destination: destination.1, flags, payload };
        Self::new(source.0, destination.0, body)
    }

    pub fn udp(source: (IpAddr, u16), destination: (IpAddr, u16), payload: usize) -> Self {
        let body = Body::Udp { source: source.1, destination: destination.1, payload };
        Self::new(source.0, destination.0, body)
    }

    pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, payload: usize) -> Self {
        Self::new(source, destination, Body::Icmp { kind, code: 0, payload: vec![0; payload] })
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// The whole frame.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.destination_mac);
        out.extend_from_slice(&self.source_mac);
        for (index, vlan) in self.vlans.iter().enumerate() {
            let outer = index == 0 && self.vlans.len() > 1;
            out.extend_from_slice(&if outer { 0x88a8u16 } else { 0x8100 }.to_be_bytes());
            out.extend_from_slice(&vlan.to_be_bytes());
        }
        let ethertype: u16 = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        out.extend_from_slice(&ethertype.to_be_bytes());
        out.extend_from_slice(&self.ip());
        out
    }

    /// From the IP header on.
    pub fn ip(&self) -> Vec<u8> {
        let (protocol, body) = self.transport();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = 20 + self.options * 4;
                let (offset, more) = self.fragment.unwrap_or_default();
                let parts = offset >> 3 | if more { 0x2000 } else { 0 };
                let mut out = vec![0x40 | (header / 4) as u8, 0];
                out.extend_from_slice(&((header + body.len()) as u16).to_be_bytes());
                out.extend_from_slice(&[0x12, 0x34]);
                out.extend_from_slice(&parts.to_be_bytes());
                out.extend_from_slice(&[self.ttl, protocol, 0, 0]);
                out.extend_from_slice(&source.octets());
                out.extend_from_slice(&destination.octets());
                out.extend(std::iter::repeat_n(1, self.options * 4));
                out.extend_from_slice(&body);
                out
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                // Headers from the last to the first.
                let (mut next, mut rest) = (protocol, body);
                if let Some((offset, more)) = self.fragment {
                    let mut header = vec![next, 0];
                    header.extend_from_slice(&(offset | u16::from(more)).to_be_bytes());
                    header.extend_from_slice(&[0, 0, 0, 1]);
                    header.extend_from_slice(&rest);
                    (next, rest) = (44, header);
                }
                for _ in 0..self.options {
                    let mut header = vec![next, 0, 1, 4, 0, 0, 0, 0];
                    header.extend_from_slice(&rest);
                    (next, rest) = (60, header);
                }
                let mut out = vec![0x60, 0, 0, 0];
                out.extend_from_slice(&(rest.len() as u16).to_be_bytes());
                out.extend_from_slice(&[next, self.ttl]);
                out.extend_from_slice(&source.octets());
                out.extend_from_slice(&destination.octets());
                out.extend_from_slice(&rest);
                out
            }
            _ => panic!("addresses of two families"),
        }
    }

    fn transport(&self) -> (u8, Vec<u8>) {
        match &self.body {
            Body::Tcp { source, destination, flags, payload } => {
                let mut out = [source.to_be_bytes(), destination.to_be_bytes()].concat();
                out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2, 0x50, *flags, 0x20, 0, 0, 0, 0, 0]);
                out.extend(std::iter::repeat_n(b'x', *payload));
                (6, out)
            }
            Body::Udp { source, destination, payload } => {
                let mut out = [source.to_be_bytes(), destination.to_be_bytes()].concat();
                out.extend_from_slice(&((8 + payload) as u16).to_be_bytes());
                out.extend_from_slice(&[0, 0]);
                out.extend(std::iter::repeat_n(b'x', *payload));
                (17, out)
            }
            Body::Icmp { kind, code, payload } => {
                let mut out = vec![*kind, *code, 0, 0, 0, 1, 0, 1];
                out.extend_from_slice(payload);
                (if self.source.is_ipv4() { 1 } else { 58 }, out)
            }
            Body::Raw { protocol, payload } => (*protocol, payload.clone()),
        }
    }
}

/// A classic pcap file (nanoseconds) with an Ethernet link, of `(nanoseconds since the epoch, frame)`.
pub fn pcap(frames: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0xa1b2_3c4du32, 0x0004_0002, 0, 0, 65_535, 1] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for (time, frame) in frames {
        let length = frame.len() as u32;
        for word in [(time / 1_000_000_000) as u32, (time % 1_000_000_000) as u32, length, length] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&frame);
    }
    out
}
