//! Netlink: sockets that the kernel alone may speak on, messages and attributes. Nothing is indexed, and what does
//! not fit is left out.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname, recvfrom,
    sendto, socket_with,
};

use crate::sys::{Instruction, attach_filter};

pub mod batch;

/// Bytes of one read: the kernel fills at most 32 KiB in a dump.
const BUFFER_BYTES: usize = 32 * 1024;
/// How long an answer may take.
const PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// Messages of one answer: a rule set of a large cluster has some 100,000.
const MESSAGES_MAX: usize = 400_000;
/// How often a dump is begun again because the state changed under it.
const DUMPS_MAX: usize = 5;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_MULTI: u16 = 2;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const HEADER_BYTES: usize = 16;

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its type.
    pub kind: u16,
    flags: u16,
    sequence: u32,
    /// The socket that it goes to, or in an event the one that asked for what happened.
    pub port: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// Goes through the messages of one datagram.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(native_u32(rest, 0)?).ok()?;
        let message = Message {
            kind: native_u16(rest, 4)?,
            flags: native_u16(rest, 6)?,
            sequence: native_u32(rest, 8)?,
            port: native_u32(rest, 12)?,
            body: rest.get(HEADER_BYTES..length)?,
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Goes through attributes: type (without its flags) and value.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(native_u16(rest, 0)?);
        let kind = native_u16(rest, 2)? & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of one attribute.
pub fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A name: up to the first NUL, made printable by replacement.
pub fn name(value: &[u8]) -> String {
    let bytes = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

/// A 32-bit number in network order.
pub fn number(value: &[u8]) -> Option<u32> {
    value.get(..4)?.try_into().ok().map(u32::from_be_bytes)
}

/// A 32-bit number in this machine's order, at an offset.
pub fn native_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

fn native_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_ne_bytes)
}

/// A netlink socket.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket and joins `groups`, a mask.
    ///
    /// # Errors
    /// `EPERM` when a capability is missing, `EPROTONOSUPPORT` when the kernel lacks the family.
    pub fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<Self> {
        Self::open_filtered(protocol, groups, &[])
    }

    /// The same, with a filter that stands before the first message comes.
    ///
    /// # Errors
    /// As [`Netlink::open`].
    pub fn open_filtered(
        protocol: Option<Protocol>,
        groups: u32,
        filter: &[Instruction],
    ) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        if !filter.is_empty() {
            attach_filter(&socket, filter)?;
        }
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { socket, buffer: Vec::new(), sequence: 0 })
    }

    /// Its number, by which the kernel names who asked for something.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn port(&self) -> io::Result<u32> {
        let address = SocketAddrNetlink::try_from(getsockname(&self.socket)?)?;
        Ok(address.pid())
    }

    /// The next datagram that the kernel sent; none when none waits. An overflow is an error: something was missed.
    ///
    /// # Errors
    /// `ENOBUFS` after an overflow.
    pub fn receive(&mut self) -> io::Result<Option<&[u8]>> {
        // Given back by `rest`: nothing is held while nothing happens.
        self.buffer.resize(BUFFER_BYTES, 0);
        loop {
            let (_, length, from) = match recvfrom(&self.socket, &mut *self.buffer, RecvFlags::empty()) {
                Ok((read, length, from)) => (read, length, from),
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
            // Processes may send to our port as well: only the kernel has port 0.
            if from.is_some_and(|from| from.pid() == 0) {
                let length = length.min(self.buffer.len());
                return Ok(self.buffer.get(..length));
            }
        }
    }

    /// Gives the buffer back.
    pub fn rest(&mut self) {
        self.buffer = Vec::new();
    }

    /// Asks for everything of a kind and hands each answer to `take`, after `begin` at every begin: a dump under
    /// which the state changed is begun again.
    ///
    /// # Errors
    /// The kernel's answer; `TimedOut` when it gives none.
    pub fn dump<T: Default>(
        &mut self,
        kind: u16,
        body: &[u8],
        mut take: impl FnMut(&mut T, Message<'_>),
    ) -> io::Result<T> {
        for _ in 0..DUMPS_MAX {
            let mut found = T::default();
            if self.exchange(kind, NLM_F_REQUEST | NLM_F_DUMP, body, |message| take(&mut found, message))? {
                return Ok(found);
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the state changed again and again while it was read"))
    }

    /// Asks one question; `take` gets every answer up to the end mark, or one when there is none.
    ///
    /// # Errors
    /// As [`Netlink::dump`].
    pub fn ask(&mut self, kind: u16, body: &[u8], take: impl FnMut(Message<'_>)) -> io::Result<()> {
        self.exchange(kind, NLM_F_REQUEST, body, take).map(|_| ())
    }

    /// Has something done, and waits for the kernel's word that it is.
    ///
    /// # Errors
    /// As [`Netlink::dump`].
    pub fn command(&mut self, kind: u16, body: &[u8]) -> io::Result<()> {
        self.exchange(kind, NLM_F_REQUEST | NLM_F_ACK, body, |_| {}).map(|_| ())
    }

    /// Has something made, or replaced when it is there, and waits for the kernel's word that it is.
    ///
    /// # Errors
    /// As [`Netlink::dump`].
    pub fn create(&mut self, kind: u16, body: &[u8]) -> io::Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.exchange(kind, flags, body, |_| {}).map(|_| ())
    }

    /// Whether the answer is consistent.
    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut take: impl FnMut(Message<'_>),
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER_BYTES + body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut request = Vec::with_capacity(HEADER_BYTES + body.len());
        request.extend_from_slice(&length.to_ne_bytes());
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&flags.to_ne_bytes());
        request.extend_from_slice(&self.sequence.to_ne_bytes());
        request.extend_from_slice(&0u32.to_ne_bytes());
        request.extend_from_slice(body);
        sendto(&self.socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let single = flags & NLM_F_DUMP != NLM_F_DUMP && kind != LIST_RULES;
        let answer = self.answers(single, &mut take);
        self.rest();
        answer
    }

    fn answers(&mut self, single: bool, take: &mut impl FnMut(Message<'_>)) -> io::Result<bool> {
        let (sequence, mut consistent, mut seen) = (self.sequence, true, 0usize);
        loop {
            self.wait()?;
            let Some(datagram) = self.receive()? else { continue };
            for message in messages(datagram).filter(|message| message.sequence == sequence) {
                consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                seen += 1;
                match message.kind {
                    NLMSG_DONE => return Ok(consistent),
                    NLMSG_ERROR => {
                        let code = native_u32(message.body, 0).unwrap_or_default().cast_signed();
                        let error = io::Error::from_raw_os_error(code.saturating_neg());
                        return if code == 0 { Ok(consistent) } else { Err(error) };
                    }
                    _ if seen > MESSAGES_MAX => {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer has no end"));
                    }
                    _ => take(message),
                }
                if single && message.flags & NLM_F_MULTI == 0 {
                    return Ok(consistent);
                }
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut polled, Some(&PATIENCE)) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer")),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// `AUDIT_LIST_RULES`: its answers carry no mark that more will follow, only an end mark.
pub const LIST_RULES: u16 = 1_013;

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_and_lying_messages_end_the_walk() {
        let whole = [20u8, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'b', b'o', b'd', b'y'];
        assert_eq!(messages(&whole).map(|message| message.body).collect::<Vec<_>>(), [b"body"]);
        for cut in 0..whole.len() {
            assert_eq!(messages(&whole[..cut]).count(), 0, "{cut}");
        }
        // A length that is shorter than the header, or zero, must not loop.
        for length in [0, 3, 15] {
            let mut lying = whole;
            lying[0] = length;
            assert_eq!(messages(&lying).count(), 0, "{length}");
        }
        assert_eq!(attributes(&[8, 0, 1, 0, 1, 2, 3, 4, 0, 0, 0, 0]).count(), 1);
        assert_eq!(attributes(&[2, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 1, 2, 3, 4]).count(), 0);
    }
}
