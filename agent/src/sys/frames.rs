//! Frames off the wire: a packet socket of all interfaces with a filter in the kernel, read many at a time.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::{Instruction, attach_filter};

/// Frames of one read.
const BATCH: usize = 64;
/// Bytes of a frame that are kept: a router advertisement and a DHCP message fit whole.
const FRAME_BYTES_MAX: usize = 1_536;
/// Bytes for what the kernel says beside a frame: one `struct tpacket_auxdata`.
const CONTROL_BYTES: usize = 64;
/// What the kernel may queue: a burst of a thousand small frames.
const QUEUE_BYTES: libc::c_int = 1024 * 1024;

/// A frame as the kernel gives it.
#[derive(Clone, Copy, Debug)]
pub struct RawFrame<'a> {
    /// The interface's number.
    pub interface: u32,
    /// Whether this host sent it.
    pub from_here: bool,
    /// Whether it was for another host.
    pub passing: bool,
    /// Its VLAN, where the card took the tag off; 0 for none.
    pub vlan: u16,
    /// From the Ethernet header on, as far as it was kept.
    pub bytes: &'a [u8],
}

/// See the module.
pub struct FrameSocket {
    socket: OwnedFd,
    buffers: Option<Box<Buffers>>,
}

struct Buffers {
    frames: [[u8; FRAME_BYTES_MAX]; BATCH],
    controls: [Control; BATCH],
    addresses: [libc::sockaddr_ll; BATCH],
    vectors: [libc::iovec; BATCH],
    headers: [libc::mmsghdr; BATCH],
}

// SAFETY: the pointers are set anew before each call that follows them, to parts of the same box, which moves with its owner
// and is nobody else's.
unsafe impl Send for Buffers {}

/// Aligned as control messages must be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

impl std::fmt::Debug for FrameSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameSocket").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl FrameSocket {
    /// Opens a socket that gets what `filter` lets through, of all interfaces of this network namespace.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`.
    pub fn open(filter: &[Instruction]) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0: nothing comes before the filter stands.
        // SAFETY: no memory is passed.
        let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened and is nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        attach_filter(&socket, filter)?;
        set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        // Refused without CAP_NET_ADMIN, and then the queue is as long as it is.
        let _forced = set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, QUEUE_BYTES).is_ok();
        // SAFETY: all zeroes is a valid address of this kind.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
        let length = length_of::<libc::sockaddr_ll>();
        // SAFETY: the address is valid for as long as the call takes, and the length is its own.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { socket, buffers: None })
    }

    /// Puts another filter in the place of the one there is.
    ///
    /// # Errors
    /// What the kernel says of it.
    pub fn filter(&self, filter: &[Instruction]) -> io::Result<()> {
        attach_filter(&self.socket, filter)
    }

    /// Hands up to one batch of frames that wait to `take`. Gives how many there were.
    ///
    /// # Errors
    /// `ENETDOWN` when an interface went away, once.
    pub fn read(&mut self, mut take: impl FnMut(RawFrame<'_>)) -> io::Result<usize> {
        let buffers = self.buffers.get_or_insert_with(Buffers::new);
        buffers.prepare();
        let count = u32::try_from(BATCH).unwrap_or(1);
        // SAFETY: each header points to a frame, a control buffer and an address of `buffers`, which outlives the call and
        // moves nowhere meanwhile; lengths are those of what they point to.
        let read = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                buffers.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let Ok(read) = usize::try_from(read) else {
            let error = io::Error::last_os_error();
            let none = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
            return if none { Ok(0) } else { Err(error) };
        };
        for index in 0..read.min(BATCH) {
            if let Some(frame) = buffers.frame(index) {
                take(frame);
            }
        }
        Ok(read)
    }

    /// Gives the buffers back: nothing is held while nothing happens.
    pub fn rest(&mut self) {
        self.buffers = None;
    }

    /// Frames that came and frames that found no room since the last call.
    pub fn statistics(&self) -> (u64, u64) {
        let mut found = MaybeUninit::<libc::tpacket_stats>::zeroed();
        let mut length = length_of::<libc::tpacket_stats>();
        // SAFETY: the kernel writes at most `length` bytes, which is the size of what `found` holds.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                found.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return (0, 0);
        }
        // SAFETY: plain numbers, zero where the kernel wrote none.
        let found = unsafe { found.assume_init() };
        (u64::from(found.tp_packets), u64::from(found.tp_drops))
    }
}

impl AsFd for FrameSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Buffers {
    fn new() -> Box<Self> {
        // SAFETY: all of it is numbers, arrays of them and pointers, for which zero is valid.
        unsafe { Box::<Self>::new_zeroed().assume_init() }
    }

    fn prepare(&mut self) {
        for index in 0..BATCH {
            let (Some(frame), Some(control), Some(address), Some(vector), Some(header)) = (
                self.frames.get_mut(index),
                self.controls.get_mut(index),
                self.addresses.get_mut(index),
                self.vectors.get_mut(index),
                self.headers.get_mut(index),
            ) else {
                return;
            };
            *vector = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: FRAME_BYTES_MAX };
            header.msg_len = 0;
            header.msg_hdr.msg_name = std::ptr::from_mut(address).cast();
            header.msg_hdr.msg_namelen = length_of::<libc::sockaddr_ll>();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_BYTES;
            header.msg_hdr.msg_flags = 0;
        }
    }

    fn frame(&self, index: usize) -> Option<RawFrame<'_>> {
        let (header, address) = (self.headers.get(index)?, self.addresses.get(index)?);
        let length = usize::try_from(header.msg_len).ok()?.min(FRAME_BYTES_MAX);
        Some(RawFrame {
            interface: u32::try_from(address.sll_ifindex).ok()?,
            from_here: address.sll_pkttype == libc::PACKET_OUTGOING,
            passing: address.sll_pkttype == libc::PACKET_OTHERHOST,
            vlan: vlan(self.controls.get(index)?, header.msg_hdr.msg_controllen),
            bytes: self.frames.get(index)?.get(..length)?,
        })
    }
}

/// The tag in `struct tpacket_auxdata`: status at 0, tag at 16, behind the control message's header of 16 bytes.
fn vlan(control: &Control, length: usize) -> u16 {
    const HEADER_BYTES: usize = 16;
    let found = control.0.get(..length.min(CONTROL_BYTES)).unwrap_or_default();
    let at =
        |from: usize| found.get(HEADER_BYTES + from..HEADER_BYTES + from + 4)?.first_chunk::<4>().copied();
    let is_valid = at(0).is_some_and(|status| u32::from_ne_bytes(status) & libc::TP_STATUS_VLAN_VALID != 0);
    let tag = at(16).map(|[low, high, ..]| u16::from_ne_bytes([low, high]));
    tag.filter(|_| is_valid).map_or(0, |tag| tag & 0xfff)
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default()
}

fn set(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option is an integer, which is valid for as long as the call takes.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            length_of::<libc::c_int>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
