//! The rung `bpf`: three programs at the kernel's tracepoints for fork, exec and exit, and the ring that they write to.
//!
//! Loading needs the kernel's type information, which takes some 19 MiB while it is parsed and 13 from then on: it is
//! parsed once, by the loader itself, and let go as soon as the programs are in the kernel. What stays are the ring, a
//! counter and the links.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aya::EbpfLoader;
use aya::maps::{Array, Map, MapData, RingBuf};
use aya::programs::RawTracePoint;
use aya::programs::raw_trace_point::RawTracePointLink;

use crate::sense::explain::explain;
use crate::sys;

/// Compiled from `bpf/processes.bpf.c` by the build script.
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/processes.bpf.o"));
/// Programs and the tracepoints where they belong.
const PROGRAMS: [(&str, &str); 3] = [
    // First those that end, so that nothing that began is left without its end.
    ("process_exit", "sched_process_exit"),
    ("process_exec", "sched_process_exec"),
    ("process_fork", "sched_process_fork"),
];
/// Where the kernel keeps its type information.
const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// See the module.
pub struct Bpf {
    ring: RingBuf<MapData>,
    lost: Array<MapData, u64>,
    _links: Vec<RawTracePointLink>,
}

impl Bpf {
    /// Loads and attaches the programs; says in words what the kernel refuses. `ring_bytes`: another size than
    /// that of the object.
    pub fn start(ring_bytes: Option<u32>) -> Result<Self, String> {
        let started = Self::load(ring_bytes);
        sys::give_back_heap();
        started
    }

    fn load(ring_bytes: Option<u32>) -> Result<Self, String> {
        // The loader passes over what it cannot read, and would only say that a type is unknown.
        std::fs::File::open(KERNEL_TYPES).map_err(|error| format!("{KERNEL_TYPES}: {}", explain(&error)))?;
        let mut loader = EbpfLoader::new();
        if let Some(bytes) = ring_bytes {
            loader.map_max_entries("RING", bytes);
        }
        let mut programs = loader.load(OBJECT).map_err(|error| format!("bpf: {}", explain(&error)))?;
        drop(loader);
        let mut links = Vec::new();
        for (name, tracepoint) in PROGRAMS {
            let refused = |error: &dyn Error| format!("bpf({tracepoint}): {}", explain(error));
            let program = programs.program_mut(name).ok_or_else(|| format!("bpf: no program {name}"))?;
            let program: &mut RawTracePoint = program.try_into().map_err(|error| refused(&error))?;
            program.load().map_err(|error| refused(&error))?;
            let link = program.attach(tracepoint).map_err(|error| refused(&error))?;
            links.push(program.take_link(link).map_err(|error| refused(&error))?);
        }
        let mut map = |name: &str| -> Result<Map, String> {
            programs.take_map(name).ok_or_else(|| format!("bpf: no map {name}"))
        };
        let ring = RingBuf::try_from(map("RING")?).map_err(|error| format!("bpf: {}", explain(&error)))?;
        let lost = Array::try_from(map("LOST")?).map_err(|error| format!("bpf: {}", explain(&error)))?;
        Ok(Self { ring, lost, _links: links })
    }

    /// The oldest record that was not taken yet; it is gone from the ring when what is given here is dropped.
    pub fn next(&mut self) -> Option<impl std::ops::Deref<Target = [u8]> + '_> {
        self.ring.next()
    }

    /// How many records ever found no room.
    pub fn lost(&self) -> io::Result<u64> {
        self.lost.get(&0, 0).map_err(io::Error::other)
    }
}

impl AsFd for Bpf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl std::fmt::Debug for Bpf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bpf").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use picket_protocol::crypto::{hex, sha256};

    #[test]
    fn the_committed_object_was_compiled_from_the_committed_sources() {
        let sources = [
            include_bytes!("../../../bpf/kernel.h").as_slice(),
            include_bytes!("../../../bpf/processes.bpf.c"),
        ];
        let noted = include_str!("../../../bpf/processes.bpf.sources").trim();
        assert_eq!(hex(&sha256(&sources)), noted, "run agent/bpf/build and commit what it makes");
        let object = include_bytes!("../../../bpf/processes.bpf.o");
        assert!(object.starts_with(b"\x7fELF\x02\x01"), "not a little-endian ELF object of 64 bits");
        assert!(!object.windows(5).any(|window| window == b".debu"), "it carries debug information");
    }
}
