//! The counting programs in the kernel, and the arrays that they write.
//!
//! Nothing of the kernel's type information is read: the programs see packets only. What the verifier refuses is told in
//! words, and the next rung is taken.

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::Map;
use aya::programs::tc::{self, TcAttachType};
use aya::programs::{SchedClassifier, SocketFilter, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};

use super::layout::{self, Sizes};
use crate::sense::explain::explain;
use crate::sys::{self, MappedArray};

/// Compiled from `bpf/network.bpf.c` by the build script.
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/network.bpf.o"));

/// Names of the programs in the object.
pub const TAP: &str = "network_tap";
/// See [`TAP`].
pub const XDP: &str = "network_xdp";
/// See [`TAP`].
pub const TC: &str = "network_tc";

/// The arrays, mapped.
#[derive(Debug)]
pub struct Arrays {
    pub control: MappedArray,
    pub interfaces: MappedArray,
    pub totals: MappedArray,
    pub sources: MappedArray,
    pub targets: MappedArray,
    pub distinct: MappedArray,
    pub paces: MappedArray,
    pub sizes: Sizes,
}

/// Programs that stay where they are attached as long as this lives.
pub struct Programs(Ebpf);

impl Programs {
    /// Makes the arrays and reads the programs; none is in the kernel yet.
    ///
    /// # Errors
    /// What the kernel refuses, in words.
    pub fn open() -> Result<(Self, Arrays), String> {
        let opened = Self::make();
        sys::give_back_heap();
        opened
    }

    fn make() -> Result<(Self, Arrays), String> {
        let processors = aya::util::nr_cpus().map_err(|(what, error)| format!("{what}: {error}"))?;
        let sizes = Sizes::new(processors);
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        for (name, entries) in entries_of(&sizes) {
            loader.map_max_entries(name, u32::try_from(entries).unwrap_or(u32::MAX));
        }
        let object = loader.load(OBJECT).map_err(|error| format!("bpf: {}", explain(&error)))?;
        let arrays = map(&object, sizes)?;
        Ok((Self(object), arrays))
    }

    /// Has the kernel check the tap and puts it on `socket`, where it stays as long as the socket lives. What is
    /// given back shows that it is ours.
    ///
    /// # Errors
    /// What the kernel refuses, in words.
    pub fn tap(&mut self, socket: impl AsFd) -> Result<OwnedFd, String> {
        let program: &mut SocketFilter = self.program(TAP)?;
        program.load().map_err(|error| refused("tap", &error))?;
        program.attach(socket).map_err(|error| refused("tap", &error))?;
        let fd = program.fd().map_err(|error| refused("tap", &error))?;
        fd.as_fd().try_clone_to_owned().map_err(|error| refused("tap", &error))
    }

    /// Has the kernel check the program for drivers.
    ///
    /// # Errors
    /// As [`Programs::tap`].
    pub fn load_xdp(&mut self) -> Result<(), String> {
        let program: &mut Xdp = self.program(XDP)?;
        program.load().map_err(|error| refused("xdp", &error))
    }

    /// Puts it on an interface; it goes when this is dropped, or the interface.
    ///
    /// # Errors
    /// As [`Programs::tap`].
    pub fn attach_xdp(&mut self, interface: &str, generic: bool) -> Result<(), String> {
        let mode = if generic { XdpMode::Skb } else { XdpMode::Driver };
        let program: &mut Xdp = self.program(XDP)?;
        program.attach(interface, mode).map(drop).map_err(|error| refused(interface, &error))
    }

    /// Has the kernel check the program for queueing disciplines.
    ///
    /// # Errors
    /// As [`Programs::tap`].
    pub fn load_tc(&mut self) -> Result<(), String> {
        let program: &mut SchedClassifier = self.program(TC)?;
        program.load().map_err(|error| refused("tc", &error))
    }

    /// Puts it where packets come in.
    ///
    /// # Errors
    /// As [`Programs::tap`].
    pub fn attach_tc(&mut self, interface: &str) -> Result<(), String> {
        // There already: somebody else's, which is as good.
        let _there = tc::qdisc_add_clsact(interface).is_err();
        let program: &mut SchedClassifier = self.program(TC)?;
        program.attach(interface, TcAttachType::Ingress).map(drop).map_err(|error| refused(interface, &error))
    }

    fn program<'a, T>(&'a mut self, name: &str) -> Result<&'a mut T, String>
    where
        &'a mut T: TryFrom<&'a mut aya::programs::Program>,
        <&'a mut T as TryFrom<&'a mut aya::programs::Program>>::Error: Display,
    {
        let program = self.0.program_mut(name).ok_or_else(|| format!("bpf: no program {name}"))?;
        program.try_into().map_err(|error| format!("bpf: {name}: {error}"))
    }
}

impl std::fmt::Debug for Programs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Programs").finish_non_exhaustive()
    }
}

fn refused(what: &str, error: &dyn Error) -> String {
    format!("bpf({what}): {}", explain(error))
}

/// Arrays that grow with the processors.
fn entries_of(sizes: &Sizes) -> [(&'static str, usize); 4] {
    let processors = sizes.processors;
    [
        ("TOTALS", processors * sizes.interfaces),
        ("SOURCES", processors * sizes.sources),
        ("TARGETS", processors * sizes.targets),
        ("PACES", processors),
    ]
}

fn map(object: &Ebpf, sizes: Sizes) -> Result<Arrays, String> {
    let array = |name: &str, bytes: usize| -> Result<MappedArray, String> {
        let map = object.map(name).ok_or_else(|| format!("bpf: no map {name}"))?;
        let Map::Array(data) = map else { return Err(format!("bpf: the map {name} is no array")) };
        let told = |error: io::Error| format!("mmap of the map {name}: {error}");
        MappedArray::new(data.fd().as_fd(), bytes).map_err(told)
    };
    let processors = sizes.processors;
    Ok(Arrays {
        control: array("CONTROL", layout::control::BYTES)?,
        interfaces: array("INTERFACES", layout::INTERFACES * layout::INTERFACE_BYTES)?,
        totals: array("TOTALS", processors * sizes.interfaces * layout::COUNTS_BYTES)?,
        sources: array("SOURCES", processors * sizes.sources * layout::talker::BYTES)?,
        targets: array("TARGETS", processors * sizes.targets * layout::talker::BYTES)?,
        distinct: array("DISTINCT", layout::DISTINCT_TABLES * layout::DISTINCT_BYTES)?,
        paces: array("PACES", processors * layout::pace::BYTES)?,
        sizes,
    })
}

#[cfg(test)]
impl Programs {
    /// Runs a program that has been loaded on one frame; none when the kernel makes no packet of so few bytes.
    pub fn run(&self, name: &str, frame: &[u8]) -> Option<u32> {
        use aya::programs::{TestRun as _, TestRunOptions};
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        let result = match self.0.program(name).unwrap() {
            aya::programs::Program::Xdp(program) => program.test_run(options),
            aya::programs::Program::SchedClassifier(program) => program.test_run(options),
            other => panic!("{other:?} cannot be run"),
        };
        match result {
            Ok(result) => Some(result.return_value),
            Err(error) if explain(&error).contains("Invalid argument") && frame.len() < 54 => None,
            Err(error) => panic!("{}", explain(&error)),
        }
    }
}
