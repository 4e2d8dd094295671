//! BPF programs that may refuse what a process asks of the kernel (`BPF_PROG_TYPE_LSM`, Linux 5.7). Each stands as long as its link is
//! open: when this process ends, however it does, the kernel takes it away.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::bpf_programs::{bpf, bytes_of, descriptor, halves};

/// `bpf(2)` commands.
const PROG_LOAD: libc::c_long = 5;
/// Takes a program of this kind to its place as well, and is older than `BPF_LINK_CREATE`.
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
/// `BPF_PROG_TYPE_LSM` and `BPF_LSM_MAC`.
const LSM: u32 = 29;
const MAC: u32 = 27;
/// The verifier's words on one program.
const LOG_BYTES: usize = 256 * 1024;

/// Why a program does not stand.
#[derive(Debug, thiserror::Error)]
pub enum LsmError {
    /// The kernel does not load it.
    #[error("the kernel refuses to load it: {source}{said}")]
    Load {
        /// What the system call gave.
        source: io::Error,
        /// The verifier's last line behind a dash, or nothing.
        said: String,
    },
    /// The kernel does not attach it.
    #[error("the kernel refuses to attach it: {0}")]
    Attach(io::Error),
}

/// A program in its place.
#[derive(Debug)]
pub struct LsmProgram {
    /// Holds the program as well.
    _link: OwnedFd,
}

impl LsmProgram {
    /// Loads instructions and attaches them to the hook whose function (`bpf_lsm_…`) has that number in the kernel's BTF.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN` or where the kernel's policy forbids it, `EINVAL` and `EACCES` when its verifier refuses it,
    /// `ENOTSUPP` (524) on processors for which it cannot attach.
    pub fn attach(hook: u32, instructions: &[u64]) -> Result<Self, LsmError> {
        let program = load(hook, instructions, &mut []).map_err(|source| {
            let mut log = vec![0; LOG_BYTES];
            // Refused as before; it is the words that are wanted.
            let _again = load(hook, instructions, &mut log).is_ok();
            LsmError::Load { source, said: last_line(&log) }
        })?;
        let mut attributes = [0, 0, program.as_raw_fd().cast_unsigned(), 0];
        let link = bpf(RAW_TRACEPOINT_OPEN, bytes_of(&mut attributes)).and_then(descriptor);
        Ok(Self { _link: link.map_err(LsmError::Attach)? })
    }
}

fn load(hook: u32, instructions: &[u64], log: &mut [u8]) -> io::Result<OwnedFd> {
    let licence = *b"Dual MIT/GPL\0";
    // `union bpf_attr` up to and with `attach_btf_id`.
    let mut attributes = [0u32; 28];
    let count = u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    attributes[..2].copy_from_slice(&[LSM, count]);
    attributes[2..4].copy_from_slice(&halves(instructions.as_ptr() as u64));
    attributes[4..6].copy_from_slice(&halves(licence.as_ptr() as u64));
    if !log.is_empty() {
        let length = u32::try_from(log.len()).unwrap_or_default();
        attributes[6..8].copy_from_slice(&[1, length]);
        attributes[8..10].copy_from_slice(&halves(log.as_mut_ptr() as u64));
    }
    for (word, four) in attributes[12..16].iter_mut().zip(b"picket_guard\0\0\0\0".chunks_exact(4)) {
        *word = four.try_into().map_or(0, u32::from_ne_bytes);
    }
    attributes[17] = MAC;
    attributes[27] = hook;
    descriptor(bpf(PROG_LOAD, bytes_of(&mut attributes))?)
}

/// What the verifier said last but for its figures.
fn last_line(log: &[u8]) -> String {
    let text = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let figures = |line: &&str| line.trim().is_empty() || line.starts_with("processed ");
    let line = text.lines().rev().find(|line| !figures(line)).unwrap_or_default();
    if line.is_empty() { String::new() } else { format!(" ({})", line.chars().take(200).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_last_word_is_told() {
        let log = b"0: R1=ctx()\nR2 !read_ok\nprocessed 2 insns (limit 1000000)\n\0\0\0";
        assert_eq!(last_line(log), " (R2 !read_ok)");
        assert_eq!(last_line(&[0; 8]), "");
    }
}
