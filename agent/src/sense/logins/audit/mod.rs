//! The kernel's audit as a source: what PAM, sudo and the account tools tell it, and the login sessions that the kernel
//! itself gives out.
//!
//! A multicast group is listened to, which takes nothing from a running auditd and needs none. Only who has
//! `CAP_AUDIT_WRITE` can send such messages; the sender's process, users and session are the kernel's words.
//! The socket lets through the types of [`meaning::TYPES`] only, so that audit rules of others cost nothing here, and
//! holds [`SOCKET_BYTES`] of them. What overflows is counted ([`Audit::overflows`]) and recorded: the other sources tell
//! it, later. While audit is switched off nothing comes; that is asked for at each change of its configuration and every
//! `ASK`, and shown. It is switched on only where `logins.audit_enable` says so.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use picket_protocol::time::Timestamp;
use rustix::net::netlink;

pub mod meaning;
pub mod message;

use crate::netlink::{Netlink, messages, native_u32};
use crate::sys::Instruction;
use meaning::{Heard, meaning};
use message::Message;

/// `AUDIT_NLGRP_READLOG`, as a mask.
const GROUP: u32 = 1;
const AUDIT_GET: u16 = 1_000;
const AUDIT_SET: u16 = 1_001;
/// `AUDIT_STATUS_ENABLED`.
const MASK_ENABLED: u32 = 1;
/// `struct audit_status`, of which older kernels know a beginning.
const STATUS_BYTES: usize = 40;
/// Messages that may wait in the kernel: some 5,000 of 200 bytes with what the kernel adds, a second of a storm.
pub const SOCKET_BYTES: usize = 4 * 1024 * 1024;
/// How often the kernel is asked whether audit is on.
const ASK: Duration = Duration::from_secs(30);
/// Messages taken at once, so that the other sources get their turn.
const BATCH: usize = 1_024;

/// Why audit cannot be a source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditRefusal {
    /// `logins.audit = false`.
    #[error("switched off by logins.audit")]
    SwitchedOff,
    /// The kernel has none, or forbids it.
    #[error("the kernel's audit cannot be read: {0}")]
    Kernel(String),
    /// The kernel sends its messages to the first network namespace only, and refuses nobody elsewhere.
    #[error("the agent runs in a network namespace of its own, where no message of audit arrives")]
    Namespace,
}

/// Whether audit is on, and who reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditState {
    /// Messages are made at all.
    pub enabled: bool,
    /// The process that is audit's daemon.
    pub daemon: Option<u32>,
}

/// Audit, being listened to.
#[derive(Debug)]
pub struct Audit {
    socket: Netlink,
    state: AuditState,
    asked: Timestamp,
    /// Whether to switch it on.
    enable: bool,
    /// Whether we did.
    pub switched_on: bool,
    /// Messages that were read.
    pub messages: u64,
    /// Messages that are no message.
    pub damaged: u64,
    /// Times that messages were lost because we were too slow.
    pub overflows: u64,
    /// The last event's number.
    pub serial: u64,
    /// Between the kernel's stamp and our reading, of the last message.
    pub lag: Duration,
    /// When the last message was read.
    pub last: Option<Timestamp>,
}

/// Asks the kernel for audit's state.
///
/// # Errors
/// `EPERM` without `CAP_AUDIT_CONTROL`, `ECONNREFUSED` outside the first process namespace,
/// `EPROTONOSUPPORT` without audit.
pub fn state() -> io::Result<AuditState> {
    let mut socket = Netlink::open(Some(netlink::AUDIT), 0)?;
    let mut state = AuditState::default();
    socket.ask(AUDIT_GET, &[], |message| {
        state.enabled = native_u32(message.body, 4).is_some_and(|enabled| enabled != 0);
        state.daemon = native_u32(message.body, 12).filter(|pid| *pid != 0);
    })?;
    Ok(state)
}

/// Whether audit can be a source here.
///
/// # Errors
/// Why not.
pub fn usable(wanted: bool) -> Result<AuditState, AuditRefusal> {
    if !wanted {
        return Err(AuditRefusal::SwitchedOff);
    }
    let kernel = |error: io::Error| AuditRefusal::Kernel(error.to_string());
    let state = state().map_err(kernel)?;
    let of = |process: &str| std::fs::read_link(Path::new("/proc").join(process).join("ns/net"));
    match (of("self"), of("1")) {
        (Ok(own), Ok(first)) if own != first => return Err(AuditRefusal::Namespace),
        // Where the first process cannot be looked at, the messages themselves will show.
        _ => {}
    }
    open().map_err(kernel)?;
    Ok(state)
}

fn open() -> io::Result<Netlink> {
    let socket = Netlink::open_filtered(Some(netlink::AUDIT), GROUP, &filter())?;
    // Beyond the system's bound with a capability, else up to it.
    use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
    if set_socket_recv_buffer_size_force(&socket, SOCKET_BYTES).is_err() {
        set_socket_recv_buffer_size(&socket, SOCKET_BYTES)?;
    }
    Ok(socket)
}

/// Loads the type at offset 4 of the header and compares. Filters read big-endian, the type is in this machine's order.
fn filter() -> Vec<Instruction> {
    const LOAD_HALF: u16 = 0x28;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let types = meaning::TYPES;
    let count = u8::try_from(types.len()).unwrap_or_default();
    let mut program = vec![(LOAD_HALF, 0, 0, 4)];
    for (place, kind) in (0u8..).zip(types) {
        program.push((JUMP_IF_EQUAL, count - place, 0, u32::from(u16::from_be_bytes(kind.to_ne_bytes()))));
    }
    program.push((RETURN, 0, 0, 0));
    program.push((RETURN, 0, 0, u32::MAX));
    program
}

impl Audit {
    /// Listens from now on; `enable` switches audit on where it is off.
    ///
    /// # Errors
    /// Why that is not possible here.
    pub fn open(wanted: bool, enable: bool, now: Timestamp) -> Result<Self, AuditRefusal> {
        let state = usable(wanted)?;
        let socket = open().map_err(|error| AuditRefusal::Kernel(error.to_string()))?;
        let mut audit = Self {
            socket,
            state,
            asked: now,
            enable,
            switched_on: false,
            messages: 0,
            damaged: 0,
            overflows: 0,
            serial: 0,
            lag: Duration::ZERO,
            last: None,
        };
        audit.enable_if_wanted();
        Ok(audit)
    }

    /// Audit's state, as last asked.
    pub fn state(&self) -> AuditState {
        self.state
    }

    /// How long until the kernel is asked again.
    pub fn ask_in(&self, now: Timestamp) -> Duration {
        if now < self.asked { Duration::ZERO } else { ASK.saturating_sub(now.since(self.asked)) }
    }

    /// Asks whether audit is on, when that is due.
    pub fn ask_if_due(&mut self, now: Timestamp) {
        if self.ask_in(now).is_zero() {
            self.ask(now);
        }
    }

    fn ask(&mut self, now: Timestamp) {
        self.asked = now;
        match state() {
            Ok(state) => self.state = state,
            Err(error) => tracing::warn!(%error, "audit's state cannot be asked for"),
        }
        self.enable_if_wanted();
    }

    fn enable_if_wanted(&mut self) {
        if !self.enable || self.state.enabled {
            return;
        }
        match switch(true) {
            Ok(()) => {
                tracing::info!("audit was off and is switched on, as logins.audit_enable says");
                self.state.enabled = true;
                self.switched_on = true;
            }
            Err(error) => tracing::warn!(%error, "audit cannot be switched on"),
        }
    }

    /// Reads what waits, up to a bound; true when there may be more. `lost` is called when messages were lost.
    pub fn read(&mut self, now: Timestamp, mut each: impl FnMut(Heard), mut lost: impl FnMut()) -> bool {
        let mut configured = false;
        let mut more = true;
        for _ in 0..BATCH {
            let datagram = match self.socket.receive() {
                Ok(Some(datagram)) => datagram,
                Ok(None) => {
                    more = false;
                    break;
                }
                Err(error) => {
                    self.overflows += 1;
                    lost();
                    if error.raw_os_error() != Some(rustix::io::Errno::NOBUFS.raw_os_error()) {
                        more = false;
                        break;
                    }
                    continue;
                }
            };
            for raw in messages(datagram) {
                let Some(message) = Message::parse(raw.body) else {
                    self.damaged += 1;
                    continue;
                };
                self.messages += 1;
                self.serial = message.serial;
                self.lag = now.since(message.time);
                self.last = Some(now);
                match meaning(raw.kind, &message) {
                    Some(Heard::Configured) => configured = true,
                    Some(heard) => each(heard),
                    None => {}
                }
            }
        }
        self.socket.rest();
        if configured {
            self.ask(now);
        }
        more
    }
}

impl AsFd for Audit {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Switches audit on or off.
///
/// # Errors
/// `EPERM` without `CAP_AUDIT_CONTROL`, and for everybody where audit's configuration is locked.
pub fn switch(on: bool) -> io::Result<()> {
    let mut body = [0u8; STATUS_BYTES];
    let (mask, enabled) = (MASK_ENABLED.to_ne_bytes(), u32::from(on).to_ne_bytes());
    for (to, from) in body.iter_mut().zip(mask.into_iter().chain(enabled)) {
        *to = from;
    }
    Netlink::open(Some(netlink::AUDIT), 0)?.command(AUDIT_SET, &body)
}
