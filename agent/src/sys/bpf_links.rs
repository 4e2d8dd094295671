//! XDP programs that stand on an interface as long as a descriptor lives (`BPF_LINK_CREATE`, Linux 5.9): when this process ends,
//! however it does, the kernel takes them away.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use super::bpf_programs::{bpf, bytes_of};

/// `bpf(2)` commands, and `BPF_XDP` of `enum bpf_attach_type`.
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const XDP: u32 = 37;
/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE`.
const GENERIC: u32 = 1 << 1;
const NATIVE: u32 = 1 << 2;

/// Puts an XDP program on the interface of that number: in its driver, or behind it.
///
/// # Errors
/// `EBUSY` where another one stands, `EOPNOTSUPP` and others where the driver takes none, `EINVAL` before 5.9.
pub fn attach_xdp(program: impl AsFd, interface: u32, native: bool) -> io::Result<OwnedFd> {
    let program = program.as_fd().as_raw_fd().cast_unsigned();
    let mut attributes = [program, interface, XDP, if native { NATIVE } else { GENERIC }];
    let link = bpf(LINK_CREATE, bytes_of(&mut attributes))?;
    let link = i32::try_from(link).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// Has another program stand where that of `link` does, with no packet between them.
///
/// # Errors
/// `ENOLINK` when the interface is gone.
pub fn replace_xdp(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let link = link.as_fd().as_raw_fd().cast_unsigned();
    let program = program.as_fd().as_raw_fd().cast_unsigned();
    bpf(LINK_UPDATE, bytes_of(&mut [link, program, 0, 0])).map(drop)
}
