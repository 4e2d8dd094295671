//! Packets of a capture file, one after the other: pcap and pcapng in every byte order and resolution, also of several interfaces and sections.
//!
//! The blocks are parsed by `pcap-parser`; here is what a block means. Memory is one buffer of 4 MiB, which no block may exceed, and
//! the names of up to 1,024 interfaces. A file that ends in the middle of a packet is read up to there, and that is said.

use std::io::{self, Read};

use pcap_parser::pcapng::{Block, OptionCode};
use pcap_parser::traits::PcapNGPacketBlock as _;
use pcap_parser::{InterfaceDescriptionBlock, Linktype, PcapBlockOwned, PcapError, PcapHeader};
use picket_protocol::time::Timestamp;

use crate::detect::network::Direction;
use crate::detect::packets::{Link, ethertype};

/// The largest block: a packet of 256 KiB, which is what tools write at most, has room many times.
const BLOCK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Interfaces of a section that are told apart; packets of further ones are left out.
const INTERFACES_MAX: usize = 1_024;
/// Characters of an interface's name.
const NAME_CHARS_MAX: usize = 32;
/// The option of a packet that holds its direction (`epb_flags`).
const EPB_FLAGS: OptionCode = OptionCode(2);
const NANOS: i128 = 1_000_000_000;

/// A packet as it stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured<'a> {
    /// When it was seen.
    pub time: Timestamp,
    /// The name of the interface, or its number in the file.
    pub interface: &'a str,
    /// What the bytes begin with.
    pub link: Link,
    /// What was captured.
    pub bytes: &'a [u8],
    /// Bytes on the wire.
    pub length: u32,
    /// Which way it went, where the file says so.
    pub direction: Option<Direction>,
}

/// Why a capture cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file could not be read.
    #[error("{0}")]
    Read(io::Error),
    /// No capture at all.
    #[error("is neither pcap nor pcapng (tcpdump -w, dumpcap and tshark write those)")]
    NoCapture,
    /// It ends within a block. All packets before were told.
    #[error("ends in the middle of a packet, after {packets} packets")]
    CutOff {
        /// Packets before.
        packets: u64,
    },
    /// A block is damaged, or larger than the longest that is read. All packets before were told.
    #[error("is damaged behind {packets} packets")]
    Damaged {
        /// Packets before.
        packets: u64,
    },
}

/// An interface of the file.
#[derive(Clone, Debug)]
struct Interface {
    name: String,
    link: Linktype,
    /// Units of its clock in a second.
    units: u128,
    /// Seconds that are added.
    offset: i64,
}

/// Counts of what was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets told.
    pub packets: u64,
    /// Packets of links that nobody here knows, of interfaces beyond the bound, or without a time.
    pub left_out: u64,
}

/// Reads a capture.
pub struct Capture<R> {
    source: Whole<R>,
    started: bool,
    interfaces: Vec<Interface>,
    /// Counts.
    pub tally: Tally,
}

/// Fills what it is given as far as there is anything: a pipe gives less at once, which the parser takes for the end of a header.
struct Whole<R>(R);

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.0.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl<R: Read + Send> Capture<R> {
    /// Nothing is read yet.
    pub fn new(source: R) -> Self {
        Self { source: Whole(source), started: false, interfaces: Vec::new(), tally: Tally::default() }
    }

    /// Reads all of it, and gives each packet to `each`, until that fails.
    pub fn read<E>(
        &mut self,
        each: &mut impl FnMut(Captured<'_>) -> Result<(), E>,
    ) -> Result<Result<(), CaptureError>, E> {
        if std::mem::replace(&mut self.started, true) {
            return Ok(Ok(()));
        }
        let Self { source, interfaces, tally, .. } = self;
        let mut reader = match pcap_parser::create_reader(BLOCK_BYTES_MAX, source) {
            Ok(reader) => reader,
            Err(PcapError::ReadError) => return Ok(Err(CaptureError::Read(io::ErrorKind::Other.into()))),
            Err(_) => return Ok(Err(CaptureError::NoCapture)),
        };
        loop {
            let offset = match reader.next() {
                Ok((offset, block)) => {
                    match block {
                        PcapBlockOwned::LegacyHeader(header) => *interfaces = vec![legacy(&header)],
                        PcapBlockOwned::Legacy(packet) => {
                            let time = (u128::from(packet.ts_sec), u128::from(packet.ts_usec));
                            let captured = interfaces.first().and_then(|interface| {
                                let ticks = time.0 * interface.units + time.1;
                                interface.captured(ticks, packet.data, packet.origlen)
                            });
                            tell(captured, tally, each)?;
                        }
                        PcapBlockOwned::NG(block) => {
                            if let Some(packet) = section(&block, interfaces) {
                                tell(packet, tally, each)?;
                            }
                        }
                    }
                    offset
                }
                Err(PcapError::Eof) => return Ok(Ok(())),
                Err(PcapError::Incomplete(_)) => {
                    let filled = reader.data().len();
                    if reader.refill().is_err() {
                        return Ok(Err(CaptureError::Read(io::ErrorKind::Other.into())));
                    }
                    // A parser that wants more than there is would ask for ever.
                    if reader.data().len() == filled && !reader.reader_exhausted() {
                        return Ok(Err(CaptureError::Damaged { packets: tally.packets }));
                    }
                    continue;
                }
                Err(PcapError::UnexpectedEof) => {
                    return Ok(Err(CaptureError::CutOff { packets: tally.packets }));
                }
                Err(PcapError::ReadError) => {
                    return Ok(Err(CaptureError::Read(io::ErrorKind::Other.into())));
                }
                Err(_) => return Ok(Err(CaptureError::Damaged { packets: tally.packets })),
            };
            reader.consume(offset);
        }
    }
}

fn tell<E>(
    captured: Option<Captured<'_>>,
    tally: &mut Tally,
    each: &mut impl FnMut(Captured<'_>) -> Result<(), E>,
) -> Result<(), E> {
    match captured {
        Some(captured) => {
            tally.packets += 1;
            each(captured)
        }
        None => {
            tally.left_out += 1;
            Ok(())
        }
    }
}

fn legacy(header: &PcapHeader) -> Interface {
    let units = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
    // The upper bits say whether frames end with a checksum.
    let link = Linktype(header.network.0 & 0xffff);
    Interface { name: "0".to_owned(), link, units, offset: i64::from(header.thiszone) }
}

/// The packet of a block, if it is one; what it says of interfaces is remembered.
fn section<'a>(block: &'a Block<'a>, interfaces: &'a mut Vec<Interface>) -> Option<Option<Captured<'a>>> {
    match block {
        Block::SectionHeader(_) => interfaces.clear(),
        Block::InterfaceDescription(described) if interfaces.len() < INTERFACES_MAX => {
            let interface = Interface::described(described, interfaces.len());
            interfaces.push(interface);
        }
        Block::EnhancedPacket(packet) => {
            let interface = usize::try_from(packet.if_id).ok().and_then(|at| interfaces.get(at));
            let ticks = u128::from(packet.ts_high) << 32 | u128::from(packet.ts_low);
            return Some(interface.and_then(|interface| {
                let flags = packet.options.iter().find(|option| option.code == EPB_FLAGS);
                // Its lowest bits, in the byte order of the section.
                let low = flags.and_then(|option| {
                    if packet.big_endian() { option.value.get(3) } else { option.value.first() }
                });
                let mut captured = interface.captured(ticks, packet.packet_data(), packet.origlen)?;
                captured.direction = captured.direction.or(low.copied().and_then(flagged));
                Some(captured)
            }));
        }
        // It has no time: rates cannot be told.
        Block::SimplePacket(_) => return Some(None),
        _ => {}
    }
    None
}

/// The direction in the flags of a packet.
fn flagged(first: u8) -> Option<Direction> {
    match first & 3 {
        1 => Some(Direction::In),
        2 => Some(Direction::Out),
        _ => None,
    }
}

impl Interface {
    fn described(block: &InterfaceDescriptionBlock<'_>, number: usize) -> Self {
        let resolution = block.if_tsresol;
        let power = u32::from(resolution & 0x7f);
        let units = if resolution & 0x80 == 0 { 10u128.checked_pow(power) } else { 1u128.checked_shl(power) };
        let name = match block.if_name() {
            Some(Ok(name)) if !name.is_empty() => {
                picket_protocol::finding::printable(name).chars().take(NAME_CHARS_MAX).collect()
            }
            _ => number.to_string(),
        };
        Self { name, link: block.linktype, units: units.unwrap_or(0), offset: block.if_tsoffset }
    }

    fn captured<'a>(&'a self, ticks: u128, bytes: &'a [u8], length: u32) -> Option<Captured<'a>> {
        let time = self.time(ticks)?;
        let length = length.max(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        let (link, header, direction) = link(self.link, bytes)?;
        let bytes = bytes.get(header..).unwrap_or_default();
        let length = length.saturating_sub(u32::try_from(header).unwrap_or(0));
        Some(Captured { time, interface: &self.name, link, bytes, length, direction })
    }

    fn time(&self, ticks: u128) -> Option<Timestamp> {
        let units = i128::try_from(self.units).ok().filter(|units| *units > 0)?;
        let ticks = i128::try_from(ticks).ok()?;
        let nanos =
            (ticks / units).checked_mul(NANOS)?.checked_add((ticks % units).checked_mul(NANOS)? / units)?;
        let nanos = nanos.checked_add(i128::from(self.offset).checked_mul(NANOS)?)?;
        i64::try_from(nanos).ok().map(Timestamp::from_nanos)
    }
}

/// What a link type begins with, how many bytes stand before that, and the direction that they say (<https://www.tcpdump.org/linktypes.html>).
fn link(link: Linktype, bytes: &[u8]) -> Option<(Link, usize, Option<Direction>)> {
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    // Packets to us, to all, to a group; to others; from us.
    let direction = |kind: u16| match kind {
        0..=2 => Some(Direction::In),
        3 => Some(Direction::Passing),
        4 => Some(Direction::Out),
        _ => None,
    };
    match link.0 {
        1 => Some((Link::Ethernet, 0, None)),
        // BSD's loopback: the family of addresses, which the version of IP says as well.
        0 | 108 => Some((Link::Ip, 4, None)),
        12 | 14 | 101 | 228 | 229 => Some((Link::Ip, 0, None)),
        // Linux's cooked captures (`tcpdump -i any`).
        113 => {
            Some((Link::Payload { ethertype: word(14).unwrap_or(ethertype::IPV4) }, 16, direction(word(0)?)))
        }
        276 => {
            let kind = u16::from(*bytes.get(10)?);
            Some((Link::Payload { ethertype: word(0)? }, 20, direction(kind)))
        }
        _ => None,
    }
}
