//! The rung `connector`: the kernel's process connector tells of fork, exec and exit over netlink, by number only. What a
//! process is must be read from `/proc` right after, which is too late for some that live a millisecond; what could not
//! be read is not known.
//!
//! ```text
//! netlink header 16, connector header 20 (id, value, sequence, ack, length u16, flags u16), then
//! what u32, processor u32, time u64, and by kind
//!   fork   parent's thread, parent, child's thread, child       exec   thread, process
//!   users  thread, process, real, effective                     exit   thread, process, …
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `CN_IDX_PROC` and `CN_VAL_PROC`: who speaks for processes; the first is the multicast group as well.
const PROCESSES: u32 = 1;
/// `PROC_CN_MCAST_LISTEN`.
const LISTEN: u32 = 1;
/// Bytes that may wait in the socket: about 16,000 events.
const RECEIVE_BYTES: usize = 4 * 1024 * 1024;
const NETLINK_HEADER: usize = 16;
const CONNECTOR_HEADER: usize = 20;
const EVENT_HEADER: usize = 16;
/// `NLMSG_DONE`, as the connector marks its messages.
const MESSAGE_TYPE: u16 = 3;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A process began.
    Fork {
        /// Who made it.
        parent: u32,
        /// The new one.
        child: u32,
    },
    /// It runs another program.
    Exec {
        /// Which.
        pid: u32,
    },
    /// It runs as somebody else.
    Users {
        /// Which.
        pid: u32,
        /// The real user.
        real: u32,
        /// The effective user.
        effective: u32,
    },
    /// It ended.
    Exit {
        /// Which.
        pid: u32,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Connector {
    socket: OwnedFd,
    buffer: Box<[u8]>,
}

impl Connector {
    /// Subscribes, and checks that an event really comes: in a network namespace of its own the kernel takes the
    /// subscription and stays silent.
    pub fn start() -> Result<Self, String> {
        let refused = |call: &'static str| move |error: Errno| format!("{call}: {}", io::Error::from(error));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::CONNECTOR);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)
            .map_err(refused("socket(NETLINK_CONNECTOR)"))?;
        // More than the ordinary bound only with CAP_NET_ADMIN; less works as well.
        let _smaller = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BYTES).is_err();
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, PROCESSES))
            .map_err(refused("bind(CN_IDX_PROC)"))?;
        rustix::net::sendto(&socket, &subscription(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
            .map_err(refused("send(PROC_CN_MCAST_LISTEN)"))?;
        let mut connector = Self { socket, buffer: vec![0; 4_096].into_boxed_slice() };
        connector.prove()?;
        Ok(connector)
    }

    /// Takes the events that wait. False when some were lost.
    pub fn take(&mut self, mut each: impl FnMut(Event)) -> bool {
        let mut whole = true;
        loop {
            match rustix::net::recvfrom(&self.socket, &mut *self.buffer, RecvFlags::DONTWAIT) {
                Ok((bytes, _, from)) => {
                    let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                    // Port 0 is the kernel.
                    if from.is_some_and(|from| from.pid() == 0) {
                        parse(self.buffer.get(..bytes).unwrap_or_default()).into_iter().for_each(&mut each);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => whole = false,
                Err(_) => return whole,
            }
        }
    }

    /// Makes a process that ends at once, and waits for its event.
    fn prove(&mut self) -> Result<(), String> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let child = std::process::Command::new("/proc/self/exe")
            .arg("--version")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        let mut child = child.map_err(|error| format!("a process to test the connector with: {error}"))?;
        let pid = child.id();
        let mut heard = false;
        for _ in 0..PROOFS_MAX {
            self.take(|event| heard |= matches!(event, Event::Exec { pid: told } if told == pid));
            if heard {
                break;
            }
            let wait = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            // Interrupted or not: the next round looks.
            let _ready = poll(&mut fds, Some(&wait)).is_ok();
        }
        let _ended = child.wait().is_ok();
        if heard { Ok(()) } else { Err("the process connector is silent in this namespace".to_owned()) }
    }
}

/// Rounds in which the test event is waited for: a second in all.
const PROOFS_MAX: usize = 50;

impl AsFd for Connector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Asks for all events.
fn subscription() -> Vec<u8> {
    let length = NETLINK_HEADER + CONNECTOR_HEADER + 4;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or_default().to_ne_bytes());
    bytes.extend(MESSAGE_TYPE.to_ne_bytes());
    bytes.extend(0u16.to_ne_bytes());
    bytes.extend([0; 8]);
    for word in [PROCESSES, PROCESSES, 0, 0] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(4u16.to_ne_bytes());
    bytes.extend(0u16.to_ne_bytes());
    bytes.extend(LISTEN.to_ne_bytes());
    bytes
}

/// The event of one message; none for others, and for those about threads.
pub(crate) fn parse(message: &[u8]) -> Option<Event> {
    let word = |at: usize| -> Option<u32> {
        message.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
    };
    if word(NETLINK_HEADER)? != PROCESSES || word(NETLINK_HEADER + 4)? != PROCESSES {
        return None;
    }
    let event = NETLINK_HEADER + CONNECTOR_HEADER;
    let field = |number: usize| word(event + EVENT_HEADER + number * 4);
    let (thread, process) = (field(0)?, field(1)?);
    match word(event)? {
        0x1 => {
            let (child_thread, child) = (field(2)?, field(3)?);
            (child_thread == child).then_some(Event::Fork { parent: process, child })
        }
        0x2 => Some(Event::Exec { pid: process }),
        0x4 => Some(Event::Users { pid: process, real: field(2)?, effective: field(3)? }),
        0x8000_0000 => (thread == process).then_some(Event::Exit { pid: process }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(what: u32, fields: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; NETLINK_HEADER];
        for word in [PROCESSES, PROCESSES, 0, 0, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(what.to_ne_bytes());
        bytes.extend([0; 12]);
        fields.iter().for_each(|field| bytes.extend(field.to_ne_bytes()));
        bytes
    }

    #[test]
    fn events_about_processes_are_read_and_those_about_threads_are_not() {
        let fork = message(1, &[11, 10, 20, 20]);
        assert_eq!(parse(&fork), Some(Event::Fork { parent: 10, child: 20 }));
        assert_eq!(parse(&message(1, &[11, 10, 21, 20])), None);
        assert_eq!(parse(&message(2, &[21, 20])), Some(Event::Exec { pid: 20 }));
        let users = Event::Users { pid: 20, real: 1000, effective: 0 };
        assert_eq!(parse(&message(4, &[20, 20, 1000, 0])), Some(users));
        assert_eq!(parse(&message(0x8000_0000, &[20, 20, 0, 0])), Some(Event::Exit { pid: 20 }));
        assert_eq!(parse(&message(0x8000_0000, &[21, 20, 0, 0])), None);
        assert_eq!(parse(&message(0x40, &[20, 20])), None);
        for end in 0..fork.len() {
            assert_eq!(parse(&fork[..end]), None, "{end}");
        }
        let mut other = fork;
        other[NETLINK_HEADER] = 9;
        assert_eq!(parse(&other), None);
    }
}
