//! Which process of this network namespace connects most, asked of the kernel while a scan goes on whose process is not known.
//!
//! Sockets tell it of connections that wait for an answer ([`super::senders`]); one that is refused at once leaves none. So for some
//! seconds a program counts at the kernel's tracepoint who connects. Otherwise nothing is attached and nothing costs.

use std::error::Error;
use std::fs;
use std::path::Path;

use aya::EbpfLoader;
use aya::maps::{Array, MapData};
use aya::programs::RawTracePoint;
use aya::programs::raw_trace_point::RawTracePointLink;

use crate::sense::explain::explain;
use crate::sys;

/// Compiled from `bpf/connects.bpf.c` by the build script.
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/connects.bpf.o"));
const PROGRAM: &str = "network_connects";
const TRACEPOINT: &str = "inet_sock_set_state";
/// Connections that are enough to say whose they are.
const ENOUGH: u64 = 5;

/// See the module. It counts as long as it lives.
pub struct Connects {
    counts: Array<MapData, u64>,
    _link: RawTracePointLink,
}

impl Connects {
    /// Begins to count.
    ///
    /// # Errors
    /// What the kernel refuses, in words.
    pub fn start() -> Result<Self, String> {
        let started = Self::load();
        sys::give_back_heap();
        started
    }

    fn load() -> Result<Self, String> {
        let refused = |error: &dyn Error| format!("bpf({TRACEPOINT}): {}", explain(error));
        let mut loader = EbpfLoader::new();
        let mut object = loader.btf(None).load(OBJECT).map_err(|error| refused(&error))?;
        let program = object.program_mut(PROGRAM).ok_or_else(|| format!("bpf: no program {PROGRAM}"))?;
        let program: &mut RawTracePoint = program.try_into().map_err(|error| refused(&error))?;
        program.load().map_err(|error| refused(&error))?;
        let link = program.attach(TRACEPOINT).map_err(|error| refused(&error))?;
        let link = program.take_link(link).map_err(|error| refused(&error))?;
        let map = object.take_map("CONNECTING").ok_or("bpf: no map CONNECTING")?;
        let counts = Array::try_from(map).map_err(|error| refused(&error))?;
        Ok(Self { counts, _link: link })
    }

    /// The process that began more connections than all others together, if that is one of this network namespace.
    pub fn busiest(&self, proc: &Path) -> Option<u32> {
        let own = fs::read_link(proc.join("self/ns/net")).ok()?;
        let slots = (0..self.counts.len()).filter_map(|slot| self.counts.get(&slot, 0).ok());
        // The number in the lower half, the count in the upper.
        let slots = slots.map(|slot| (u32::try_from(slot & u64::from(u32::MAX)).unwrap_or(0), slot >> 32));
        let is_here = |pid: u32| {
            let its = fs::read_link(proc.join(pid.to_string()).join("ns/net"));
            its.is_ok_and(|its| its == own)
        };
        let counts: Vec<(u32, u64)> = slots.filter(|(pid, count)| *count > 0 && is_here(*pid)).collect();
        let all: u64 = counts.iter().map(|(_, count)| count).sum();
        let (pid, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        (count >= ENOUGH && count * 2 > all).then_some(pid)
    }
}

impl std::fmt::Debug for Connects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connects").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use picket_protocol::crypto::{hex, sha256};

    use super::*;

    #[test]
    fn who_is_refused_at_once_is_counted() {
        let connects = Connects::start().expect("the agent's tests run as root");
        // Somebody else may connect meanwhile, but not as much.
        for port in 1..200u16 {
            let _refused = TcpStream::connect(("127.0.0.1", port)).is_err();
        }
        assert_eq!(connects.busiest(Path::new("/proc")), Some(std::process::id()));
    }

    #[test]
    fn the_committed_object_was_compiled_from_the_committed_sources() {
        let sources = [
            include_bytes!("../../../bpf/kernel.h").as_slice(),
            include_bytes!("../../../bpf/connects.bpf.c"),
        ];
        let noted = include_str!("../../../bpf/connects.bpf.sources").trim();
        assert_eq!(hex(&sha256(&sources)), noted, "run agent/bpf/build and commit what it makes");
        let object = include_bytes!("../../../bpf/connects.bpf.o");
        assert!(object.starts_with(b"\x7fELF\x02\x01"), "not a little-endian ELF object of 64 bits");
        assert!(!object.windows(5).any(|window| window == b".debu"), "it carries debug information");
    }
}
