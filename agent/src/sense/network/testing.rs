//! Frames for tests.

pub const MALFORMED: usize = 0;
pub const FRAGMENT: usize = 1;
pub const SYN: usize = 2;
pub const SYN_ACK: usize = 3;
pub const RST: usize = 4;
pub const STEALTH: usize = 5;
pub const ACK: usize = 6;
pub const AMPLIFICATION: usize = 7;
pub const UDP: usize = 8;
pub const ICMP: usize = 9;
pub const ARP: usize = 10;
pub const NEIGHBOUR: usize = 11;
pub const OTHER_IP: usize = 12;
pub const OTHER: usize = 13;

/// An Ethernet frame to the address 0, which is the loopback interface's.
#[derive(Clone, Debug)]
pub struct Frame(Vec<u8>);

impl Frame {
    pub fn ethernet(kind: u16, payload: &[u8]) -> Self {
        let mut bytes = vec![0; 6];
        bytes.extend_from_slice(&[2, 0, 0, 0, 0, 1]);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(payload);
        Self(bytes)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// With other bytes from `at` on.
    pub fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// The first `bytes` alone.
    pub fn cut(mut self, bytes: usize) -> Self {
        self.0.truncate(bytes);
        self
    }

    /// With VLAN tags, the outermost first.
    pub fn tagged(mut self, kinds: &[u16]) -> Self {
        let tags: Vec<u8> = kinds.iter().flat_map(|kind| [kind.to_be_bytes(), [0, 7]].concat()).collect();
        self.0.splice(12..12, tags);
        self
    }
}

pub fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}

pub fn udp(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.extend_from_slice(&[0, 12, 0, 0, 1, 2, 3, 4]);
    bytes
}

pub fn ipv4(protocol: u8, payload: &[u8]) -> Frame {
    let total = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, protocol, 0, 0];
    bytes.extend_from_slice(&[198, 18, 0, 1, 198, 18, 0, 2]);
    bytes.extend_from_slice(payload);
    Frame::ethernet(0x0800, &bytes)
}

pub fn ipv6(next: u8, payload: &[u8]) -> Frame {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    let end = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    bytes.extend([end(1), end(2)].concat());
    bytes.extend_from_slice(payload);
    Frame::ethernet(0x86dd, &bytes)
}
