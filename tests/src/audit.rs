//! The kernel's audit, which is one for the whole machine: a test that needs it takes it for itself, and leaves it as it
//! was.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, flock};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// Whoever holds it may switch audit on or off.
const LOCK: &str = "/run/lock/picket-audit";
const AUDIT_GET: u16 = 1_000;
const AUDIT_SET: u16 = 1_001;
const STATUS_BYTES: usize = 40;

/// Audit, switched on until this is dropped.
pub struct Audit {
    before: u32,
    _lock: File,
}

impl Audit {
    /// Takes audit as it is, so that no other test changes it meanwhile.
    ///
    /// # Errors
    /// When the lock cannot be had.
    pub fn keep_as_it_is() -> io::Result<File> {
        let lock = File::create(LOCK)?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok(lock)
    }

    /// Switches audit on; waits for other tests that have it. An error says why it cannot be used on this machine.
    ///
    /// # Errors
    /// Where the kernel has none, or forbids it.
    pub fn switch_on() -> io::Result<Self> {
        let lock = Self::keep_as_it_is()?;
        let status = ask(AUDIT_GET, 1, &[])?;
        let enabled = status.get(20..24).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        let before = enabled.ok_or_else(|| io::Error::other("a short answer"))?;
        let audit = Self { before, _lock: lock };
        if before == 0 {
            set(1)?;
        }
        Ok(audit)
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if self.before == 0 {
            set(0).expect("audit is left as it was");
        }
    }
}

fn set(enabled: u32) -> io::Result<()> {
    let mut body = [1u32.to_ne_bytes(), enabled.to_ne_bytes()].concat();
    body.resize(STATUS_BYTES, 0);
    // A request that is to be acknowledged.
    let answer = ask(AUDIT_SET, 5, &body)?;
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("a short answer")),
    }
}

fn ask(kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let flags_of_socket = SocketFlags::CLOEXEC;
    let socket: OwnedFd =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, flags_of_socket, Some(netlink::AUDIT))?;
    let length = u32::try_from(16 + body.len()).expect("short");
    let mut request = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes()].concat();
    request.extend(1u32.to_ne_bytes());
    request.extend(0u32.to_ne_bytes());
    request.extend(body);
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = vec![0; 9_000];
    let (length, _) = recv(&socket, &mut *answer, RecvFlags::empty())?;
    answer.truncate(length);
    Ok(answer)
}
