//! Packets through `pnet`'s data link channels: two system calls for each packet. For kernels that have packet sockets and
//! refuse them a ring: gVisor's, small ones built without it, and where so much memory in one piece is not to be had.
//!
//! A channel belongs to one interface; all of them are read by the sensor's one thread. `pnet` tells neither which way a
//! packet went nor when it came: the first is told by its addresses, and the second is when it is read. The sockets are
//! our own, so that the kernel can be asked what it lost, and made to sample.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd as _, OwnedFd};
use std::time::Duration;

use pnet::datalink::{Channel as Opened, Config, DataLinkReceiver, NetworkInterface, channel, interfaces};
use rustix::net::sockopt;

use super::interfaces::{ETHERNET, Interface};
use crate::clock;
use crate::sys::{Captured, Instruction, PacketSocket, attach_filter};

/// Interfaces that are read; further ones are not.
const CHANNELS_MAX: usize = 64;
/// Bytes of the longest packet: what the kernel merged, with its headers.
const PACKET_BYTES_MAX: usize = 65_536 + 64;
/// Bytes that wait in the kernel for each interface, of which it takes twice as many: some thousand small packets.
const WAITING_BYTES: usize = 2 * 1024 * 1024;
/// `PACKET_HOST`, `PACKET_OTHERHOST`, `PACKET_OUTGOING`.
const HOST: u8 = 0;
const OTHER_HOST: u8 = 3;
const OUTGOING: u8 = 4;

/// See the module.
pub struct Datalink {
    channels: Vec<Channel>,
    filter: Vec<Instruction>,
    /// Lost by channels that are gone.
    lost: u32,
}

struct Channel {
    index: u32,
    hardware: u16,
    mac: Option<[u8; 6]>,
    addresses: Vec<IpAddr>,
    receiver: Box<dyn DataLinkReceiver>,
    /// The receiver's socket once more.
    socket: PacketSocket,
}

impl Datalink {
    /// Tries it on any interface; reads none before [`Datalink::follow`]. `filter` says what passes.
    ///
    /// # Errors
    /// What is refused, in words.
    pub fn open(filter: &[Instruction]) -> Result<Self, String> {
        if let Some(interface) = interfaces().first() {
            Channel::open(interface, 0, filter)?;
        }
        Ok(Self { channels: Vec::new(), filter: filter.to_vec(), lost: 0 })
    }

    /// Takes up interfaces that are new or changed, and lets go those that are gone; gives those that are refused, and why.
    pub fn follow<'a>(
        &mut self,
        gone: &[u32],
        set: impl Iterator<Item = (u32, &'a Interface)>,
    ) -> Vec<(u32, String)> {
        let mut refused = Vec::new();
        self.close(|index| gone.contains(&index));
        let known = interfaces();
        for channel in &mut self.channels {
            if let Some(named) = known.iter().find(|one| one.index == channel.index) {
                channel.take_addresses(named);
            }
        }
        for (index, interface) in set {
            self.close(|other| other == index);
            let Some(named) = known.iter().find(|one| one.index == index) else { continue };
            if !interface.is_counted() {
                continue;
            }
            if self.channels.len() >= CHANNELS_MAX {
                refused.push((index, format!("{}: more than {CHANNELS_MAX} interfaces", interface.name)));
                continue;
            }
            match Channel::open(named, interface.hardware, &self.filter) {
                Ok(channel) => self.channels.push(channel),
                Err(error) => refused.push((index, format!("{}: {error}", interface.name))),
            }
        }
        refused
    }

    fn close(&mut self, which: impl Fn(u32) -> bool) {
        for channel in self.channels.iter().filter(|channel| which(channel.index)) {
            self.lost = self.lost.saturating_add(channel.lost());
        }
        self.channels.retain(|channel| !which(channel.index));
    }

    /// Hands packets that are there to `take`, at most `most`, of each interface as many; how many there were.
    pub fn read(&mut self, most: usize, mut take: impl FnMut(Captured<'_>)) -> usize {
        let each = most / self.channels.len().max(1);
        self.channels.iter_mut().map(|channel| channel.read(each, &mut take)).sum()
    }

    /// Packets that found no room, since the last call.
    pub fn lost(&mut self) -> u32 {
        let lost = std::mem::take(&mut self.lost);
        self.channels.iter().map(Channel::lost).fold(lost, u32::saturating_add)
    }

    /// Lets only what passes `filter` through, from now on.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn set_filter(&mut self, filter: &[Instruction]) -> io::Result<()> {
        filter.clone_into(&mut self.filter);
        self.channels.iter().try_for_each(|channel| attach_filter(&channel.socket, filter))
    }

    /// What to wait for.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.channels.iter().map(|channel| channel.socket.as_fd())
    }
}

impl std::fmt::Debug for Datalink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datalink").field("channels", &self.channels.len()).finish_non_exhaustive()
    }
}

impl Channel {
    fn open(interface: &NetworkInterface, hardware: u16, filter: &[Instruction]) -> Result<Self, String> {
        let told = |doing: &'static str| move |error: io::Error| format!("{doing}: {error}");
        let socket = PacketSocket::open().map_err(told("socket(AF_PACKET)"))?;
        attach_filter(&socket, filter).map_err(told("setsockopt(SO_ATTACH_FILTER)"))?;
        // Beyond the system's bound where that is allowed.
        if sockopt::set_socket_recv_buffer_size_force(&socket, WAITING_BYTES).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, WAITING_BYTES)
                .map_err(|error| told("setsockopt(SO_RCVBUF)")(error.into()))?;
        }
        let handed: OwnedFd = socket.try_clone().map_err(told("dup"))?.into();
        let config = Config {
            write_buffer_size: 0,
            read_buffer_size: PACKET_BYTES_MAX,
            read_timeout: Some(Duration::ZERO),
            promiscuous: false,
            // It is pnet's from here on, which closes it also when it fails.
            socket_fd: Some(handed.into_raw_fd()),
            ..Config::default()
        };
        let opened = channel(interface, config).map_err(told("pnet"))?;
        let Opened::Ethernet(_, receiver) = opened else {
            return Err("pnet: no Ethernet channel".to_owned());
        };
        let (index, mac, addresses) = (interface.index, None, Vec::new());
        let mut opened = Self { index, hardware, mac, addresses, receiver, socket };
        opened.take_addresses(interface);
        Ok(opened)
    }

    fn take_addresses(&mut self, interface: &NetworkInterface) {
        self.mac = interface.mac.map(|mac| mac.octets());
        self.addresses = interface.ips.iter().map(|network| network.ip()).collect();
    }

    fn read(&mut self, most: usize, take: &mut impl FnMut(Captured<'_>)) -> usize {
        let Self { index, hardware, mac, addresses, receiver, socket } = self;
        for read in 0..most {
            match receiver.next() {
                Ok(bytes) => {
                    let bare = !ETHERNET.contains(hardware);
                    let kind = if bare { kind_of_bare(bytes, addresses) } else { kind(bytes, *mac) };
                    take(Captured {
                        interface: *index,
                        hardware: *hardware,
                        kind,
                        protocol: if bytes.first().is_some_and(|first| first >> 4 == 6) {
                            0x86dd
                        } else {
                            0x0800
                        },
                        tag: None,
                        nanos: clock::now().nanos(),
                        length: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
                        bytes,
                    });
                }
                Err(error) => {
                    // That an interface went down is told until somebody has heard it.
                    if error.kind() != io::ErrorKind::TimedOut {
                        let _heard = sockopt::socket_error(&*socket).is_ok();
                    }
                    return read;
                }
            }
        }
        most
    }

    fn lost(&self) -> u32 {
        self.socket.statistics().map_or(0, |(_, lost)| lost)
    }
}

/// Which way a frame goes, by its hardware addresses.
fn kind(frame: &[u8], own: Option<[u8; 6]>) -> u8 {
    let (to, from) = (frame.get(..6), frame.get(6..12));
    let is_own = |address: Option<&[u8]>| own.is_some_and(|own| address == Some(own.as_slice()));
    let to_all = to.and_then(<[u8]>::first).is_some_and(|first| first & 1 == 1);
    match (is_own(from), to_all || is_own(to)) {
        (true, _) => OUTGOING,
        (false, true) => HOST,
        (false, false) => OTHER_HOST,
    }
}

/// Which way a packet without a hardware address goes, by its source.
fn kind_of_bare(packet: &[u8], own: &[IpAddr]) -> u8 {
    let four = || packet.get(12..16).and_then(|from| <[u8; 4]>::try_from(from).ok()).map(IpAddr::from);
    let six = || packet.get(8..24).and_then(|from| <[u8; 16]>::try_from(from).ok()).map(IpAddr::from);
    let from = match packet.first().map(|first| first >> 4) {
        Some(4) => four(),
        Some(6) => six(),
        _ => None,
    };
    if from.is_some_and(|from| own.contains(&from)) { OUTGOING } else { HOST }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_tell_which_way_a_packet_goes() {
        let (own, other, all) = ([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1], [0xff; 6]);
        let of = |to: [u8; 6], from: [u8; 6]| kind(&[to, from].concat(), Some(own));
        assert_eq!(
            [of(own, other), of(all, other), of(other, own), of(all, own)],
            [HOST, HOST, OUTGOING, OUTGOING]
        );
        assert_eq!(of(other, [2, 0, 0, 0, 0, 3]), OTHER_HOST);
        assert_eq!((kind(&[1, 2, 3], Some(own)), kind(&[], None)), (OTHER_HOST, OTHER_HOST));
        let mut four = vec![0x45; 20];
        four[12..16].copy_from_slice(&[10, 0, 0, 1]);
        let mut six = vec![0x60; 40];
        six[8..24].copy_from_slice(&[0; 16]);
        let own: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "::".parse().unwrap()];
        assert_eq!(
            [&four[..], &six, &[], &[0x45], &[0x60; 30]].map(|packet| kind_of_bare(packet, &own)),
            [OUTGOING, OUTGOING, HOST, HOST, HOST]
        );
        assert_eq!(kind_of_bare(&four, &[]), HOST);
    }
}
