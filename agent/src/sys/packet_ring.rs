//! Packets from all interfaces through memory that the kernel fills (`AF_PACKET` with `PACKET_RX_RING`): nothing is copied
//! by a system call, and what finds no room is counted.
//!
//! The ring is of version 2, a slot for each packet, and not of version 3, which hands over blocks of many: a single ARP
//! frame is here at once instead of after the time-out of its block, and while nothing comes no timer runs. Who
//! expects many packets waits a moment before reading, and then reads as many at once (`packet(7)`,
//! Documentation/networking/packet_mmap.rst).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a block, which the kernel takes as one piece: many pages, which are hard to find when memory is scattered,
/// would be refused.
const BLOCK_BYTES: usize = 64 * 1024;
/// `TPACKET_V2`.
const VERSION: libc::c_int = 1;
/// `TP_STATUS_USER` and `TP_STATUS_VLAN_VALID`.
const OURS: u32 = 1;
const TAGGED: u32 = 1 << 4;
/// Where things lie in a slot: `struct tpacket2_hdr`, and `struct sockaddr_ll` behind it.
const LENGTH: usize = 4;
const CAPTURED: usize = 8;
const BEGIN: usize = 12;
const SECONDS: usize = 16;
const NANOS: usize = 20;
const TAG: usize = 24;
const PROTOCOL: usize = 34;
const INTERFACE: usize = 36;
const HARDWARE: usize = 40;
const KIND: usize = 42;
const HEADER_BYTES: usize = 52;

/// A packet in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured<'a> {
    /// Number of the interface.
    pub interface: u32,
    /// Type of the interface's hardware (`ARPHRD_*`).
    pub hardware: u16,
    /// What it was to this host: `PACKET_HOST`, `PACKET_OUTGOING` …
    pub kind: u8,
    /// EtherType.
    pub protocol: u16,
    /// The VLAN tag that the card or the kernel took off.
    pub tag: Option<u16>,
    /// When, in nanoseconds since 1970.
    pub nanos: i64,
    /// Bytes on the wire.
    pub length: u32,
    /// The first of them.
    pub bytes: &'a [u8],
}

/// A packet socket that receives nothing yet: a filter can be put on it first.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Needs `CAP_NET_RAW`.
    ///
    /// # Errors
    /// `EPERM` without it, `EAFNOSUPPORT` on a kernel without packet sockets.
    pub fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: the call takes three numbers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The same socket once more.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Packets and packets that found no room, since the last call.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn statistics(&self) -> io::Result<(u32, u32)> {
        let mut numbers = [0u32; 2];
        let mut size = length_of(&numbers)?;
        // SAFETY: the kernel writes at most `size` bytes, which is the size of what is pointed to.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                numbers.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let [seen, dropped] = numbers;
        Ok((seen, dropped))
    }

    fn set<T>(&self, option: libc::c_int, value: &T) -> io::Result<()> {
        let size = length_of(value)?;
        // SAFETY: the kernel reads `size` bytes, which is the size of what is pointed to; `T` is an integer, or a structure
        // of the C library without padding (this function is private).
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                std::ptr::from_ref(value).cast(),
                size,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Begins to receive, from all interfaces that there are and will be.
    fn bind(&self) -> io::Result<()> {
        // SAFETY: an address of this type may be all zeroes.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let family = u16::try_from(libc::AF_PACKET).map_err(|_| io::ErrorKind::InvalidInput)?;
        let all = u16::try_from(libc::ETH_P_ALL).map_err(|_| io::ErrorKind::InvalidInput)?;
        (address.sll_family, address.sll_protocol) = (family, all.to_be());
        let size = length_of(&address)?;
        // SAFETY: the address is of the size that is told.
        let result = unsafe { libc::bind(self.0.as_raw_fd(), std::ptr::from_ref(&address).cast(), size) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<PacketSocket> for OwnedFd {
    fn from(socket: PacketSocket) -> Self {
        socket.0
    }
}

/// A packet socket with its ring.
#[derive(Debug)]
pub struct PacketRing {
    socket: PacketSocket,
    begin: NonNull<u8>,
    slot_bytes: usize,
    slots: usize,
    next: usize,
}

impl PacketRing {
    /// Gives `socket` a ring of `bytes` in slots of `slot_bytes`, a power of two up to 64 KiB, and begins to receive. Some 80 bytes
    /// of each slot are for the kernel's description of the packet.
    ///
    /// # Errors
    /// `ENOMEM` when the kernel has not so much, `EINVAL` for sizes that do not fit.
    pub fn start(socket: PacketSocket, slot_bytes: usize, bytes: usize) -> io::Result<Self> {
        if !slot_bytes.is_power_of_two() || !(128..=BLOCK_BYTES).contains(&slot_bytes) || bytes < BLOCK_BYTES
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let blocks = bytes / BLOCK_BYTES;
        let (bytes, slots) = (blocks * BLOCK_BYTES, blocks * BLOCK_BYTES / slot_bytes);
        let number = |value: usize| u32::try_from(value).map_err(|_| io::ErrorKind::InvalidInput);
        socket.set(libc::PACKET_VERSION, &VERSION)?;
        let request = libc::tpacket_req {
            tp_block_size: number(BLOCK_BYTES)?,
            tp_block_nr: number(blocks)?,
            tp_frame_size: number(slot_bytes)?,
            tp_frame_nr: number(slots)?,
        };
        socket.set(libc::PACKET_RX_RING, &request)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let fd = socket.0.as_raw_fd();
        // SAFETY: a new shared mapping at a place that the kernel chooses touches no memory of ours.
        let begin = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd, 0) };
        if begin == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let begin = NonNull::new(begin.cast()).ok_or(io::ErrorKind::InvalidData)?;
        let ring = Self { socket, begin, slot_bytes, slots, next: 0 };
        ring.socket.bind()?;
        Ok(ring)
    }

    /// Hands packets that are there to `take`, at most `most`; how many there were.
    pub fn read(&mut self, most: usize, mut take: impl FnMut(Captured<'_>)) -> usize {
        for read in 0..most {
            // SAFETY: `next` is below the number of slots, so the slot lies inside the mapping.
            let slot = unsafe { self.begin.byte_add(self.next * self.slot_bytes) };
            // SAFETY: a slot begins with its status, at a multiple of its size, a power of two from 128 on; the
            // kernel writes it at the same time, which is what atomic integers are for.
            let status = unsafe { slot.cast::<AtomicU32>().as_ref() };
            let state = status.load(Ordering::Acquire);
            if state & OURS == 0 {
                return read;
            }
            // SAFETY: the slot is ours until its status says otherwise, which is after the last use of this slice, and
            // lies inside the mapping, which lives as long as `self`.
            let bytes = unsafe { std::slice::from_raw_parts(slot.as_ptr(), self.slot_bytes) };
            if let Some(captured) = parse(bytes, state) {
                take(captured);
            }
            status.store(0, Ordering::Release);
            self.next = (self.next + 1) % self.slots;
        }
        most
    }

    /// See [`PacketSocket::statistics`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn statistics(&self) -> io::Result<(u32, u32)> {
        self.socket.statistics()
    }
}

impl AsFd for PacketRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for PacketRing {
    fn drop(&mut self) {
        // SAFETY: exactly what `start` mapped, once; no reference into it outlives `self`.
        unsafe { libc::munmap(self.begin.as_ptr().cast(), self.slots * self.slot_bytes) };
    }
}

// SAFETY: the mapping belongs to no thread, and only `&mut self` reads it.
unsafe impl Send for PacketRing {}

/// What lies in a slot; none when it cannot be.
fn parse(slot: &[u8], state: u32) -> Option<Captured<'_>> {
    let begin = usize::from(half(slot, BEGIN)?);
    let captured = usize::try_from(word(slot, CAPTURED)?).ok()?;
    if begin < HEADER_BYTES {
        return None;
    }
    Some(Captured {
        interface: word(slot, INTERFACE)?,
        hardware: half(slot, HARDWARE)?,
        kind: *slot.get(KIND)?,
        protocol: u16::from_be(half(slot, PROTOCOL)?),
        tag: if state & TAGGED == 0 { None } else { Some(half(slot, TAG)?) },
        nanos: i64::from(word(slot, SECONDS)?) * 1_000_000_000 + i64::from(word(slot, NANOS)?),
        length: word(slot, LENGTH)?,
        bytes: slot.get(begin..begin.checked_add(captured)?)?,
    })
}

fn word(slot: &[u8], at: usize) -> Option<u32> {
    slot.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(slot: &[u8], at: usize) -> Option<u16> {
    slot.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn length_of<T>(value: &T) -> io::Result<libc::socklen_t> {
    libc::socklen_t::try_from(size_of_val(value)).map_err(|_| io::ErrorKind::InvalidInput.into())
}
