//! Which BPF programs the kernel holds: numbers and descriptions, read only.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// `bpf(2)` commands.
const PROG_GET_NEXT_ID: libc::c_long = 11;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// Bytes of `struct bpf_prog_info` up to and with the name (Linux 4.15).
const INFO_BYTES: usize = 80;

/// What the kernel says of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// `enum bpf_prog_type`.
    pub kind: u32,
    /// Digest over its instructions.
    pub tag: [u8; 8],
    /// Who loaded it.
    pub uid: u32,
    /// Its name, up to the first NUL.
    pub name: Vec<u8>,
}

/// The number of the next program after `after`; none when there is none.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`, `ENOSYS` on a kernel without BPF.
pub fn next_program(after: u32) -> io::Result<Option<u32>> {
    let mut attributes = [after, 0, 0, 0];
    match bpf(PROG_GET_NEXT_ID, bytes_of(&mut attributes)) {
        Ok(_) => {
            let [_, next, ..] = attributes;
            Ok(Some(next))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Describes the program with that number; none when it is gone.
///
/// # Errors
/// As [`next_program`].
pub fn program_info(id: u32) -> io::Result<Option<ProgramInfo>> {
    let Some(fd) = by_number(PROG_GET_FD_BY_ID, id)? else { return Ok(None) };
    let mut info = [0u8; INFO_BYTES];
    describe(&fd, &mut info)?;
    let word = |at: usize| -> u32 {
        let bytes = info.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    };
    let tag = info.get(8..16).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    let name = info.get(64..).unwrap_or_default();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    Ok(Some(ProgramInfo { kind: word(0), tag, uid: word(48), name }))
}

/// Opens the program or map of that number; none when it is gone.
pub(super) fn by_number(command: libc::c_long, id: u32) -> io::Result<Option<OwnedFd>> {
    let mut attributes = [id, 0, 0, 0];
    match bpf(command, bytes_of(&mut attributes)) {
        Ok(fd) => descriptor(fd).map(Some),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the kernel gave as a new descriptor.
pub(super) fn descriptor(fd: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the callers pass what a command that makes a descriptor has just given, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the kernel says of a program or map: as much of it as `info` has room for.
pub(super) fn describe(fd: &OwnedFd, info: &mut [u8]) -> io::Result<()> {
    let [low, high] = halves(info.as_mut_ptr() as u64);
    let length = u32::try_from(info.len()).unwrap_or_default();
    let mut attributes = [fd.as_raw_fd().cast_unsigned(), length, low, high];
    bpf(OBJ_GET_INFO_BY_FD, bytes_of(&mut attributes)).map(drop)
}

/// Attributes as the kernel takes them; all of ours are 32-bit words, the address in two of them.
pub(super) fn bytes_of<const N: usize>(words: &mut [u32; N]) -> (*mut u32, usize) {
    (words.as_mut_ptr(), size_of_val(words))
}

/// The two words of an address, in memory order.
pub(super) fn halves(address: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = address.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

pub(super) fn bpf(command: libc::c_long, (attributes, size): (*mut u32, usize)) -> io::Result<i64> {
    // SAFETY: `attributes` points to `size` bytes that are ours for the call (all callers pass an array of
    // their own), and addresses inside them lead to buffers of the length given beside them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Loads a program of that name that returns 0 and nothing else, for tests.
#[cfg(test)]
pub fn load_nothing(name: &[u8]) -> io::Result<OwnedFd> {
    // A socket filter: `r0 = 0; exit`.
    let instructions: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
    let license = *b"GPL\0";
    let mut attributes = [0u32; 18];
    attributes[0] = 1;
    attributes[1] = 2;
    [attributes[2], attributes[3]] = halves(instructions.as_ptr() as u64);
    [attributes[4], attributes[5]] = halves(license.as_ptr() as u64);
    for (place, byte) in name.iter().take(15).enumerate() {
        attributes[12 + place / 4] |= u32::from(*byte) << (8 * (place % 4));
    }
    let fd = bpf(5, bytes_of(&mut attributes))?;
    // SAFETY: as above: a new descriptor, ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) })
}
