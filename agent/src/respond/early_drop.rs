//! Drops what is blocked before the kernel spends anything on it: an XDP program on the interfaces that the owner names
//! (`response.xdp`), in the driver where the driver has it, else right behind it.
//!
//! **Promise.** It drops nothing that the tables of a block ([`super::actions::block`]) would not drop: packets to the hardware address
//! of the interface, without VLAN tags, whose source is blocked and spared by nobody. Those tables stay: they are the truth, they drop
//! whatever gets here, and where XDP is refused they do it alone. So nothing of this can fail an action.
//!
//! **It ends by itself.** The program hangs on descriptors of the agent (`sys::attach_xdp`), so that the kernel takes it away when
//! the agent ends, in whatever way; and each source names a lease whose end the program compares with the kernel's clock, so that it
//! also ends when the agent hangs. At the agent's next start what is in force is put in place anew.
//!
//! **Limits.** [`INTERFACES_MAX`] interfaces, [`SOURCES_MAX`] sources of all blocks together. A block that would exceed them is dropped by
//! its tables alone. An interface has room for one XDP program: where another stands (of somebody else, or the agent's own for
//! counting, `network.rung = "xdp"`) it is left out. Interfaces that come later are not looked for.
//!
//! Where blocks overlap, whatever is in doubt goes on to the tables: an address that one of them spares, and a network within another
//! one whose lease ends later.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use picket_protocol::action::Network;
use serde_json::{Value, json};
use uuid::Uuid;

use super::within::Within;
use crate::clock::since_boot;
use crate::sense::explain::explain;
use crate::sys;

/// Interfaces that may be named: the program has so much room for their addresses.
pub const INTERFACES_MAX: usize = 16;
/// Sources of all blocks, spared ones included: some 100 bytes each in the kernel.
pub const SOURCES_MAX: usize = 262_144;
/// Leases that the program has room for, from 1 on: as many as actions can be in force.
const LEASES: u32 = 64;
/// Instead of a lease: goes on to the tables in any case.
const SPARED: u32 = 0;

/// Compiled from `bpf/block.bpf.c` by the build script.
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/block.bpf.o"));
const PROGRAM: &str = "block_early";

/// Who is dropped, and who never.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Dropped.
    pub blocked: Vec<Network>,
    /// Not dropped, although within those: more is known of them than an address.
    pub spared: Vec<Network>,
}

impl Sources {
    /// Those of `blocked` that may be dropped, and what of `spared` lies within them.
    pub fn new(blocked: &[Network], spared: impl IntoIterator<Item = Network>) -> Self {
        let spared: Within = spared.into_iter().collect();
        let dropped: Within = blocked.iter().copied().filter(|network| !spared.has(*network)).collect();
        let mut within: Vec<Network> = spared.into_networks().filter(|spared| dropped.has(*spared)).collect();
        let mut blocked: Vec<Network> = dropped.into_networks().collect();
        blocked.sort_unstable();
        within.sort_unstable();
        Self { blocked, spared: within }
    }
}

/// A block in force.
#[derive(Debug)]
struct Share {
    sources: Sources,
    /// Nanoseconds since boot.
    end: u64,
    /// Its place in the program's array; none while it is not in the program.
    lease: Option<u32>,
}

/// An interface with the program on it.
#[derive(Debug)]
struct Attached {
    link: OwnedFd,
    native: bool,
}

/// The program in the kernel.
struct Loaded {
    object: Ebpf,
    ends: Array<MapData, u64>,
    /// Numbers of the interfaces whose addresses it knows.
    own: BTreeMap<String, u32>,
}

/// See the module.
#[derive(Default)]
pub struct EarlyDrop {
    interfaces: Vec<String>,
    shares: BTreeMap<Uuid, Share>,
    loaded: Option<Loaded>,
    attached: BTreeMap<String, Attached>,
}

impl EarlyDrop {
    /// On these interfaces; on none by default.
    pub fn new(interfaces: Vec<String>) -> Self {
        Self { interfaces, ..Self::default() }
    }

    /// Drops what a block names, for `left`; gives what is told of it in the receipt, which is nothing where nobody wants it.
    pub fn put(&mut self, id: Uuid, sources: impl FnOnce() -> Sources, left: Duration) -> Value {
        if self.interfaces.is_empty() {
            return Value::Null;
        }
        let put = match self.shares.get(&id) {
            Some(share) if share.lease.is_some() => {
                self.arm(id, left);
                Ok(())
            }
            _ => self.add(id, sources(), left),
        };
        let told: Vec<Value> = match put {
            Ok(()) => self.interfaces.clone().iter().map(|interface| self.attach(interface)).collect(),
            Err(why) => {
                tracing::warn!(why, %id, "a block is not dropped early; its tables drop it");
                self.interfaces.iter().map(|interface| left_out(interface, &why)).collect()
            }
        };
        sys::give_back_heap();
        Value::Array(told)
    }

    /// From now on for `left`.
    pub fn arm(&mut self, id: Uuid, left: Duration) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        share.end = end(left);
        if let (Some(lease), Some(loaded)) = (share.lease, &mut self.loaded) {
            loaded.set_end(lease, share.end);
        }
    }

    /// Drops no more of what a block names; with the last block the program goes.
    pub fn remove(&mut self, id: Uuid) {
        // What stays in the program names a lease that is over, until the next block has a new one made.
        self.arm(id, Duration::ZERO);
        self.shares.remove(&id);
        if self.shares.is_empty() {
            self.attached.clear();
            self.loaded = None;
            sys::give_back_heap();
        }
    }

    /// Puts a program with this block and those before it in the place of the one that is there.
    fn add(&mut self, id: Uuid, sources: Sources, left: Duration) -> Result<(), String> {
        let share = Share { sources, end: end(left), lease: None };
        self.shares.insert(id, share);
        let loaded = self.load().inspect_err(|_| drop(self.shares.remove(&id)))?;
        // One whose interface is gone, or that does not take the new one, is let go, and tried anew.
        let program = loaded.program()?;
        self.attached.retain(|_, attached| sys::replace_xdp(&attached.link, program).is_ok());
        self.shares.values_mut().zip(1..=LEASES).for_each(|(share, lease)| share.lease = Some(lease));
        self.loaded = Some(loaded);
        Ok(())
    }

    /// Has the kernel check a program that knows of all blocks, whose leases have numbers in their order.
    fn load(&self) -> Result<Loaded, String> {
        let count: usize =
            self.shares.values().map(|share| share.sources.blocked.len() + share.sources.spared.len()).sum();
        if count > SOURCES_MAX {
            return Err(format!("more than {SOURCES_MAX} sources of all blocks together"));
        }
        let mut leases: BTreeMap<Network, (u32, u64)> = BTreeMap::new();
        for (share, lease) in self.shares.values().zip(1..=LEASES) {
            for network in &share.sources.blocked {
                let (named, end) = leases.entry(*network).or_insert((lease, share.end));
                if *end < share.end {
                    (*named, *end) = (lease, share.end);
                }
            }
        }
        // Whom one of them spares, all of them leave to their tables.
        for spared in self.shares.values().flat_map(|share| &share.sources.spared) {
            leases.insert(*spared, (SPARED, 0));
        }
        let mut loaded = Loaded::new(&leases, &self.interfaces)?;
        self.shares.values().zip(1..=LEASES).for_each(|(share, lease)| loaded.set_end(lease, share.end));
        Ok(loaded)
    }

    /// Puts the program on an interface, if it is not there; tells what came of it.
    fn attach(&mut self, interface: &str) -> Value {
        let attached = match self.attached.get(interface) {
            Some(attached) => Ok(attached.native),
            None => self.attach_anew(interface),
        };
        match attached {
            Ok(native) => {
                json!({ "interface": interface, "xdp": if native { "native" } else { "generic" } })
            }
            Err(why) => left_out(interface, &why),
        }
    }

    fn attach_anew(&mut self, interface: &str) -> Result<bool, String> {
        let loaded = self.loaded.as_ref().ok_or("no program is loaded")?;
        let index = *loaded.own.get(interface).ok_or("there was no such interface when the block began")?;
        let program = loaded.program()?;
        let refused = |error: &io::Error| match error.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => "another XDP program stands there".to_owned(),
            _ => format!("the kernel refuses: {error}"),
        };
        let native = sys::attach_xdp(program, index, true);
        let (link, native) = match native {
            Ok(link) => (link, true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
                return Err(refused(&error));
            }
            Err(_) => (sys::attach_xdp(program, index, false).map_err(|error| refused(&error))?, false),
        };
        self.attached.insert(interface.to_owned(), Attached { link, native });
        Ok(native)
    }
}

fn left_out(interface: &str, why: &str) -> Value {
    json!({ "interface": interface, "xdp": Value::Null, "why": why })
}

/// Nanoseconds since boot.
fn end(left: Duration) -> u64 {
    let end = if left.is_zero() { Duration::ZERO } else { since_boot().saturating_add(left) };
    u64::try_from(end.as_nanos()).unwrap_or(u64::MAX)
}

impl Loaded {
    fn new(leases: &BTreeMap<Network, (u32, u64)>, interfaces: &[String]) -> Result<Self, String> {
        let count = |ipv4: bool, host: bool| {
            let meant = |network: &&Network| network.address().is_ipv4() == ipv4 && is_host(network) == host;
            u32::try_from(leases.keys().filter(meant).count()).unwrap_or(u32::MAX).max(1)
        };
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        let sizes = [("HOSTS4", true, true), ("HOSTS6", false, true), ("NETWORKS4", true, false)];
        for (name, ipv4, host) in sizes.into_iter().chain([("NETWORKS6", false, false)]) {
            loader.map_max_entries(name, count(ipv4, host));
        }
        let mut object = loader.load(OBJECT).map_err(|error| format!("bpf: {}", explain(&error)))?;
        // Before the maps are taken out: it holds them then. It stands nowhere yet.
        let program = object.program_mut(PROGRAM).ok_or_else(|| format!("bpf: no program {PROGRAM}"))?;
        let program: &mut Xdp = program.try_into().map_err(|error| format!("bpf: {}", explain(&error)))?;
        program.load().map_err(|error| format!("bpf({PROGRAM}): {}", explain(&error)))?;
        fill(&mut object, leases)?;
        let own = tell_own(&mut object, interfaces)?;
        let ends = take(&mut object, "ENDS")?;
        Ok(Self { object, ends, own })
    }

    fn program(&self) -> Result<BorrowedFd<'_>, String> {
        let program = self.object.program(PROGRAM).ok_or_else(|| format!("bpf: no program {PROGRAM}"))?;
        program.fd().map(|program| program.as_fd()).map_err(|error| format!("bpf: {}", explain(&error)))
    }

    fn set_end(&mut self, lease: u32, end: u64) {
        if let Err(error) = self.ends.set(lease, end, 0) {
            // The program compares with what stands there, which is earlier or later, and the tables drop in any case.
            tracing::error!(
                error = explain(&error),
                lease,
                "the end of an early drop was not told to the kernel"
            );
        }
    }
}

/// Tells the program of sources and the leases that they name.
fn fill(object: &mut Ebpf, leases: &BTreeMap<Network, (u32, u64)>) -> Result<(), String> {
    let mut hosts4: HashMap<MapData, [u8; 4], u32> = take(object, "HOSTS4")?;
    let mut hosts6: HashMap<MapData, [u8; 16], u32> = take(object, "HOSTS6")?;
    let mut networks4: LpmTrie<MapData, [u8; 4], u32> = take(object, "NETWORKS4")?;
    let mut networks6: LpmTrie<MapData, [u8; 16], u32> = take(object, "NETWORKS6")?;
    for (network, (lease, _)) in leases {
        let length = u32::from(network.length());
        let put = match (network.address(), is_host(network)) {
            (IpAddr::V4(v4), true) => hosts4.insert(v4.octets(), lease, 0),
            (IpAddr::V6(v6), true) => hosts6.insert(v6.octets(), lease, 0),
            (IpAddr::V4(v4), false) => networks4.insert(&Key::new(length, v4.octets()), lease, 0),
            (IpAddr::V6(v6), false) => networks6.insert(&Key::new(length, v6.octets()), lease, 0),
        };
        put.map_err(|error| format!("bpf: {network}: {}", explain(&error)))?;
    }
    Ok(())
}

/// Tells the program the hardware addresses of interfaces; gives the numbers of those that have one.
fn tell_own(object: &mut Ebpf, interfaces: &[String]) -> Result<BTreeMap<String, u32>, String> {
    let mut own: HashMap<MapData, u32, [u8; 8]> = take(object, "OWN")?;
    let mut numbers = BTreeMap::new();
    for interface in pnet::datalink::interfaces() {
        if let (Some(mac), true) = (interface.mac, interfaces.contains(&interface.name)) {
            let [a, b, c, d, e, f] = mac.octets();
            let put = own.insert(interface.index, [a, b, c, d, e, f, 0, 0], 0);
            put.map_err(|error| format!("bpf: {}: {}", interface.name, explain(&error)))?;
            numbers.insert(interface.name, interface.index);
        }
    }
    Ok(numbers)
}

fn is_host(network: &Network) -> bool {
    *network == Network::host(network.address())
}

fn take<T>(object: &mut Ebpf, name: &str) -> Result<T, String>
where
    T: TryFrom<Map>,
    T::Error: Error,
{
    let map = object.take_map(name).ok_or_else(|| format!("bpf: no map {name}"))?;
    T::try_from(map).map_err(|error| format!("bpf: {name}: {}", explain(&error)))
}

impl std::fmt::Debug for EarlyDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EarlyDrop").field("attached", &self.attached).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
