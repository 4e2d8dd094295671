//! BPF programs that see the packets of a control group's sockets (`cgroup_skb`), and the maps that they use: made, attached beside
//! those of others, listed and detached by `bpf(2)`.
//!
//! What is attached stays when whoever attached it is gone: the group holds the program, and the program its maps.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use super::bpf_programs::{
    ProgramInfo, bpf, by_number, bytes_of, describe, descriptor, halves, program_info,
};

/// `bpf(2)` commands.
const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const MAP_GET_FD_BY_ID: libc::c_long = 14;
const PROG_QUERY: libc::c_long = 16;
const MAP_FREEZE: libc::c_long = 22;
/// `BPF_PROG_TYPE_CGROUP_SKB`.
const CGROUP_SKB: u32 = 8;
const MAP_TYPE_HASH: u32 = 1;
const MAP_TYPE_ARRAY: u32 = 2;
/// `BPF_F_ALLOW_MULTI`: others' programs go on, at this group and below.
const BESIDE_OTHERS: u32 = 2;
/// Programs of one kind that a group takes: `BPF_CGROUP_MAX_PROGS`.
const ATTACHED_MAX: usize = 64;
/// Maps of one of our programs; those of others may have more, which are not looked at.
const MAPS_MAX: usize = 8;
/// `BPF_OBJ_NAME_LEN`, with the NUL at its end.
const NAME_BYTES: usize = 16;

/// Which packets of a group's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Those that come in: `BPF_CGROUP_INET_INGRESS`.
    In = 0,
    /// Those that go out: `BPF_CGROUP_INET_EGRESS`.
    Out = 1,
}

/// A map.
#[derive(Debug)]
pub struct BpfMap {
    fd: OwnedFd,
    key_bytes: usize,
    value_bytes: usize,
}

impl BpfMap {
    /// An array of `entries` times `value_bytes`, all zero.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`, `E2BIG` before Linux 4.15, which gives maps no names.
    pub fn array(name: &str, value_bytes: usize, entries: usize) -> io::Result<Self> {
        Self::make(MAP_TYPE_ARRAY, name, 4, value_bytes, entries)
    }

    /// A hash table.
    ///
    /// # Errors
    /// As [`BpfMap::array`].
    pub fn hash(name: &str, key_bytes: usize, value_bytes: usize, entries: usize) -> io::Result<Self> {
        Self::make(MAP_TYPE_HASH, name, key_bytes, value_bytes, entries)
    }

    fn make(kind: u32, name: &str, key_bytes: usize, value_bytes: usize, entries: usize) -> io::Result<Self> {
        let sizes = [key_bytes, value_bytes, entries].map(word);
        let mut attributes = [kind, sizes[0], sizes[1], sizes[2], 0, 0, 0, 0, 0, 0, 0];
        attributes[7..].copy_from_slice(&name_words(name));
        let fd = descriptor(bpf(MAP_CREATE, bytes_of(&mut attributes))?)?;
        Ok(Self { fd, key_bytes, value_bytes })
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// `EINVAL` when one of them has another length than the map's, `EPERM` when it is frozen.
    pub fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if key.len() != self.key_bytes || value.len() != self.value_bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let [[key_low, key_high], [value_low, value_high]] =
            [key, value].map(|bytes| halves(bytes.as_ptr() as u64));
        let mut attributes = [raw(self.fd.as_fd()), 0, key_low, key_high, value_low, value_high, 0, 0];
        bpf(MAP_UPDATE_ELEM, bytes_of(&mut attributes)).map(drop)
    }

    /// From now on only programs write to it.
    ///
    /// # Errors
    /// `EINVAL` before Linux 5.2.
    pub fn freeze(&self) -> io::Result<()> {
        bpf(MAP_FREEZE, bytes_of(&mut [raw(self.fd.as_fd())])).map(drop)
    }

    /// Its number, as instructions name it.
    pub fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// A program, held open.
#[derive(Debug)]
pub struct GroupProgram {
    fd: OwnedFd,
    /// The kernel's number of it.
    pub id: u32,
    /// What the kernel says of it.
    pub info: ProgramInfo,
}

impl GroupProgram {
    /// Loads instructions as a program of that name, at most 15 letters, digits and underscores.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` or `EACCES` when the kernel's verifier refuses it, `E2BIG` when it is too long.
    pub fn load(name: &str, way: Way, instructions: &[u64]) -> io::Result<Self> {
        let licence = *b"Dual MIT/GPL\0";
        let mut attributes = [0u32; 18];
        attributes[..2].copy_from_slice(&[CGROUP_SKB, word(instructions.len())]);
        attributes[2..4].copy_from_slice(&halves(instructions.as_ptr() as u64));
        attributes[4..6].copy_from_slice(&halves(licence.as_ptr() as u64));
        attributes[12..16].copy_from_slice(&name_words(name));
        attributes[17] = way as u32;
        let fd = descriptor(bpf(PROG_LOAD, bytes_of(&mut attributes))?)?;
        let mut info = [0u8; 8];
        describe(&fd, &mut info)?;
        let [.., a, b, c, d] = info;
        let id = u32::from_ne_bytes([a, b, c, d]);
        let info = program_info(id)?.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { fd, id, info })
    }

    /// Opens the one of that number; none when it is gone or of another kind.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`.
    pub fn open(id: u32) -> io::Result<Option<Self>> {
        let Some(info) = program_info(id)?.filter(|info| info.kind == CGROUP_SKB) else { return Ok(None) };
        Ok(by_number(PROG_GET_FD_BY_ID, id)?.map(|fd| Self { fd, id, info }))
    }

    /// Names of the maps that it uses, the first of them.
    ///
    /// # Errors
    /// As [`GroupProgram::open`].
    pub fn maps(&self) -> io::Result<Vec<Vec<u8>>> {
        // `struct bpf_prog_info` up to `map_ids`: their count at 52, the address of the room for them at 56.
        let (mut info, mut ids) = ([0u8; 64], [0u32; MAPS_MAX]);
        info[52..56].copy_from_slice(&word(MAPS_MAX).to_ne_bytes());
        info[56..].copy_from_slice(&(ids.as_mut_ptr() as u64).to_ne_bytes());
        describe(&self.fd, &mut info)?;
        let [a, b, c, d] = [info[52], info[53], info[54], info[55]];
        let count = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(MAPS_MAX);
        let names = ids.iter().take(count).map(|id| map_name(*id));
        names.filter_map(Result::transpose).collect()
    }
}

/// The name of the map of that number; none when it is gone.
fn map_name(id: u32) -> io::Result<Option<Vec<u8>>> {
    let Some(fd) = by_number(MAP_GET_FD_BY_ID, id)? else { return Ok(None) };
    // `struct bpf_map_info` up to and with the name.
    let mut info = [0u8; 24 + NAME_BYTES];
    describe(&fd, &mut info)?;
    let name = info.split_at(24).1.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Some(name.to_vec()))
}

/// Attaches a program to a group, beside those that are there. It stays when its descriptor is closed.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`, or when another program is attached so that it wants no others; `E2BIG` when 64 are.
pub fn attach_group_program(group: BorrowedFd<'_>, program: &GroupProgram, way: Way) -> io::Result<()> {
    let mut attributes = [raw(group), raw(program.fd.as_fd()), way as u32, BESIDE_OTHERS];
    bpf(PROG_ATTACH, bytes_of(&mut attributes)).map(drop)
}

/// Detaches a program; it is no error when it is not attached any more.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`.
pub fn detach_group_program(group: BorrowedFd<'_>, program: &GroupProgram, way: Way) -> io::Result<()> {
    let mut attributes = [raw(group), raw(program.fd.as_fd()), way as u32, 0];
    match bpf(PROG_DETACH, bytes_of(&mut attributes)) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// Numbers of the programs that are attached to a group itself.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`, `EINVAL` before Linux 4.15.
pub fn group_programs(group: BorrowedFd<'_>, way: Way) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; ATTACHED_MAX];
    let [low, high] = halves(ids.as_mut_ptr() as u64);
    let mut attributes = [raw(group), way as u32, 0, 0, low, high, word(ATTACHED_MAX), 0];
    bpf(PROG_QUERY, bytes_of(&mut attributes))?;
    let count = usize::try_from(attributes[6]).unwrap_or(0);
    Ok(ids.into_iter().take(count).collect())
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// What does not fit is refused by the kernel, which takes nothing as large.
fn word(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A name as the kernel takes it: cut to what it takes, and ended by NUL.
fn name_words(name: &str) -> [u32; NAME_BYTES / 4] {
    let mut bytes = [0u8; NAME_BYTES];
    for (place, byte) in bytes.iter_mut().zip(name.bytes().take(NAME_BYTES - 1)) {
        *place = byte;
    }
    let mut words = [0; NAME_BYTES / 4];
    for (word, four) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = four.try_into().map_or(0, u32::from_ne_bytes);
    }
    words
}
