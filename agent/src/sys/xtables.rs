//! Rule sets of the older iptables, as the kernel gives them: `getsockopt` on a socket of the family.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// `IPT_SO_GET_INFO`, `IPT_SO_GET_ENTRIES`; the same numbers for IPv6.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// Bytes of a table's name.
const NAME_BYTES: usize = 32;
/// Bytes of `struct ipt_getinfo`: name, valid hooks, five entries, five underflows, count, size.
const INFO_BYTES: usize = NAME_BYTES + 4 + 20 + 20 + 4 + 4;
/// Bytes of `struct ipt_get_entries` before the entries: name, size, padding.
const HEADER_BYTES: usize = NAME_BYTES + 8;
/// Largest rule set that is read.
const RULES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How often it is read again because it grew between the two calls.
const ATTEMPTS: usize = 3;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XtablesFamily {
    /// iptables.
    V4,
    /// ip6tables.
    V6,
}

/// A table.
#[derive(Clone, Debug)]
pub struct XtablesRules {
    /// Where the chain of each hook begins; none for hooks that the table does not have.
    pub hooks: [Option<u32>; 5],
    /// Where the policy of each hook's chain is.
    pub underflow: [u32; 5],
    /// The entries, one after the other.
    pub entries: Vec<u8>,
}

/// Reads the table of that name; none when there is none.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`; `EAGAIN` when it changes again and again.
pub fn xtables_rules(family: XtablesFamily, table: &str) -> io::Result<Option<XtablesRules>> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let (domain, level) = match family {
        XtablesFamily::V4 => (AddressFamily::INET, libc::SOL_IP),
        XtablesFamily::V6 => (AddressFamily::INET6, libc::SOL_IPV6),
    };
    let socket = socket_with(domain, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    for _ in 0..ATTEMPTS {
        match read(&socket, level, table) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            other => return other.map(Some),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

fn read(socket: &OwnedFd, level: libc::c_int, table: &str) -> io::Result<XtablesRules> {
    let mut info = vec![0u8; INFO_BYTES];
    name(&mut info, table)?;
    get(socket, level, GET_INFO, &mut info)?;
    let word = |at: usize| -> u32 {
        let bytes = info.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    };
    let valid = word(NAME_BYTES);
    let size = word(NAME_BYTES + 48);
    let length = usize::try_from(size).unwrap_or(usize::MAX);
    if length > RULES_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the rule set is too large to be read"));
    }
    let mut entries = vec![0u8; HEADER_BYTES + length];
    name(&mut entries, table)?;
    if let Some(place) = entries.get_mut(NAME_BYTES..NAME_BYTES + 4) {
        place.copy_from_slice(&size.to_ne_bytes());
    }
    get(socket, level, GET_ENTRIES, &mut entries)?;
    entries.drain(..HEADER_BYTES);
    let at = |hook: usize| word(NAME_BYTES + 4 + 4 * hook);
    let hooks = [0usize, 1, 2, 3, 4].map(|hook| (valid >> hook & 1 == 1).then(|| at(hook)));
    let underflow = [5usize, 6, 7, 8, 9].map(at);
    Ok(XtablesRules { hooks, underflow, entries })
}

fn name(buffer: &mut [u8], table: &str) -> io::Result<()> {
    let place = buffer.get_mut(..table.len()).filter(|place| place.len() < NAME_BYTES);
    place.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(table.as_bytes());
    Ok(())
}

fn get(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel writes at most `length` bytes, which is the buffer's length, and the socket is open.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, buffer.as_mut_ptr().cast(), &raw mut length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
