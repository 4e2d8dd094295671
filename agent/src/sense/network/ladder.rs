//! The ladder: where packets are counted, best first.
//!
//! `tap` comes first and not `xdp`. Both count every packet once, in the kernel, at a like cost; but to put a program into a
//! driver makes many drivers stop and begin anew, and switches off what they merge, which is not for an agent to do to a
//! host by itself, and it sees only what comes in. It pays where packets are dropped before the stack sees them. So
//! it is there for those who ask for it (`network.rung`).

use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use ring::rand::{SecureRandom as _, SystemRandom};

use super::counts::{Budgets, Counts};
use super::datalink::Datalink;
use super::program::Programs;
use crate::sense::{RungProbe, SensorProbe};
use crate::sys::{Captured, Instruction, PacketRing, PacketSocket, attach_filter};

/// What the tap hands on in a second, all processors together; answers come beside it, at most as many. ARP, ND and DHCP are for the
/// sensor of neighbours, which has a socket of its own. A scan is told by its twentieth port, so what a flood leaves of
/// these is enough for one beside it; what goes out has its own share, so that who floods this host does not hide what it does
/// itself.
const BUDGETS: Budgets =
    Budgets { packets: [0, 256, 256, 1_024, 512, 256, 256], sample: 64, wake: WAKE, snap: TAP_SNAP };
/// And one processor of many at least, where each has few.
const BUDGET_LEAST: u32 = 32;
/// So many packets on one processor within a second wake user space. A flood that matters is there within a tenth of that
/// second; what is below waits for the clock.
const WAKE: u32 = 1_000;
/// Bytes of a slot of the tap's ring, and what they leave for the packet.
const TAP_SLOT: usize = 256;
const TAP_SNAP: u32 = 160;
/// Bytes of the tap's ring: some thousand packets, which are read within milliseconds.
const TAP_BYTES: usize = 512 * 1024;
/// Bytes of the ring when every packet goes through it: what comes in 50 ms at 500,000 packets/s.
const RING_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of a packet in it: all headers of ordinary traffic ([`crate::detect::packets::SNAP_BYTES`]).
const RING_SNAP: u32 = 160;

/// One mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// A socket filter on one socket that sees all interfaces.
    Tap,
    /// In the driver, with the tap for what goes out.
    Xdp,
    /// As `xdp`, after the driver, on any interface.
    XdpGeneric,
    /// In the queueing discipline, with the tap for what goes out.
    Tc,
    /// Every packet through a ring, counted in user space.
    Ring,
    /// Every packet by a system call, by `pnet`, counted in user space.
    Pnet,
    /// The kernel's own counters and nothing else.
    Counters,
}

impl Rung {
    /// All of them, best first.
    pub const ALL: [Self; 7] =
        [Self::Tap, Self::Xdp, Self::XdpGeneric, Self::Tc, Self::Ring, Self::Pnet, Self::Counters];

    /// Its name in configuration and status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tc => "tc",
            Self::Ring => "ring",
            Self::Pnet => "pnet",
            Self::Counters => "counters",
        }
    }

    /// Whether packets are counted in user space.
    pub fn counts_here(self) -> bool {
        matches!(self, Self::Ring | Self::Pnet)
    }

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rung| rung.name() == name)
    }

    fn gives(self) -> &'static str {
        match self {
            Self::Tap => "the kernel counts every packet of every interface; a flood costs the agent nothing",
            Self::Xdp => {
                "works, and is only taken when network.rung says so: it restarts queues of many drivers, \
                 and does not see what goes out"
            }
            Self::XdpGeneric => {
                "works, and is only taken when network.rung says so: it costs what the tap costs, \
                 and takes packets apart that the kernel had merged"
            }
            Self::Tc => "works, and is only taken when network.rung says so: it changes queueing disciplines",
            Self::Ring => {
                "every packet is counted by the agent itself; what would cost more than 10 % of a core is sampled"
            }
            Self::Pnet => {
                "as ring, with two system calls for each packet: more is sampled, and more can be lost, which is counted"
            }
            Self::Counters => "floods are seen by the kernel's own counters, without who sends them",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How packets come to user space.
#[derive(Debug)]
pub enum Packets {
    /// Through memory that the kernel fills, of all interfaces.
    Ring(PacketRing),
    /// By system calls, of each interface by itself.
    Datalink(Datalink),
}

impl Packets {
    /// Hands packets that are there to `take`, at most `most`; how many there were.
    pub fn read(&mut self, most: usize, take: impl FnMut(Captured<'_>)) -> usize {
        match self {
            Self::Ring(ring) => ring.read(most, take),
            Self::Datalink(datalink) => datalink.read(most, take),
        }
    }

    /// Packets that found no room, since the last call.
    pub fn lost(&mut self) -> u32 {
        match self {
            Self::Ring(ring) => ring.statistics().map_or(0, |(_, lost)| lost),
            Self::Datalink(datalink) => datalink.lost(),
        }
    }

    /// What to wait for.
    pub fn sockets(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Ring(ring) => vec![ring.as_fd()],
            Self::Datalink(datalink) => datalink.sockets().collect(),
        }
    }

    /// Has one packet in `rate` come, by chance.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn sample(&mut self, rate: u32) -> Result<(), String> {
        let filter = one_in(rate);
        let set = match self {
            Self::Ring(ring) => attach_filter(ring, &filter),
            Self::Datalink(datalink) => datalink.set_filter(&filter),
        };
        set.map_err(|error| format!("setsockopt(SO_ATTACH_FILTER): {error}"))
    }
}

/// What a rung needs, open.
#[derive(Debug)]
pub struct Opened {
    /// Which.
    pub rung: Rung,
    /// What the kernel counts.
    pub counts: Option<Counts>,
    /// What comes to user space.
    pub packets: Option<Packets>,
    /// What must live as long as it is attached.
    pub programs: Option<Programs>,
    /// The tap: held so that whoever looks through the programs of this host sees whose it is.
    pub tap: Option<OwnedFd>,
}

impl Opened {
    /// Opens a rung; says in words what is refused.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn open(rung: Rung) -> Result<Self, String> {
        let nothing = Self { rung, counts: None, packets: None, programs: None, tap: None };
        match rung {
            Rung::Counters => return Ok(nothing),
            Rung::Ring => {
                let socket = open_socket()?;
                attach_filter(&socket, &one_in(1))
                    .map_err(|error| format!("setsockopt(SO_ATTACH_FILTER): {error}"))?;
                return Ok(Self { packets: Some(start(socket, RING_BYTES)?), ..nothing });
            }
            Rung::Pnet => {
                let packets = Some(Packets::Datalink(Datalink::open(&one_in(1))?));
                return Ok(Self { packets, ..nothing });
            }
            Rung::Tap | Rung::Xdp | Rung::XdpGeneric | Rung::Tc => {}
        }
        let socket = open_socket()?;
        let (mut programs, arrays) = Programs::open()?;
        match rung {
            Rung::Xdp | Rung::XdpGeneric => programs.load_xdp()?,
            Rung::Tc => programs.load_tc()?,
            Rung::Tap | Rung::Ring | Rung::Pnet | Rung::Counters => {}
        }
        let tap = Some(programs.tap(&socket)?);
        let seed = seed()?;
        let counts = Some(Counts::new(arrays, &BUDGETS.shared(processors(), BUDGET_LEAST), seed));
        let packets = Some(start(socket, TAP_BYTES)?);
        // The tap belongs to its socket now; what it was loaded from is let go.
        let programs = (rung != Rung::Tap).then_some(programs);
        Ok(Self { rung, counts, packets, programs, tap })
    }
}

/// A number that nobody knows.
///
/// # Errors
/// When the kernel has no random bytes.
pub fn seed() -> Result<u64, String> {
    let mut seed = [0u8; 8];
    SystemRandom::new().fill(&mut seed).map_err(|_| "getrandom: no random bytes".to_owned())?;
    Ok(u64::from_ne_bytes(seed))
}

/// Processors that packets can come in on.
fn processors() -> usize {
    aya::util::online_cpus().map_or(1, |online| online.len())
}

fn open_socket() -> Result<PacketSocket, String> {
    PacketSocket::open().map_err(|error| format!("socket(AF_PACKET): {error}"))
}

fn start(socket: PacketSocket, bytes: usize) -> Result<Packets, String> {
    let ring = PacketRing::start(socket, TAP_SLOT, bytes);
    ring.map(Packets::Ring).map_err(|error| format!("setsockopt(PACKET_RX_RING): {error}"))
}

/// A filter that one packet in `rate` passes, by chance.
fn one_in(rate: u32) -> Vec<Instruction> {
    // Load the kernel's random number, take it modulo the rate, and keep the packet when nothing is left.
    const LOAD_RANDOM: Instruction = (0x20, 0, 0, 0xffff_f038);
    let keep: Instruction = (0x06, 0, 0, RING_SNAP);
    if rate <= 1 {
        return vec![keep];
    }
    vec![LOAD_RANDOM, (0x94, 0, 0, rate), (0x15, 0, 1, 0), keep, (0x06, 0, 0, 0)]
}

/// Tries every rung.
pub fn probe() -> SensorProbe {
    let rungs = Rung::ALL.into_iter().map(|rung| {
        let (usable, reason) = match Opened::open(rung) {
            Ok(_) => (true, rung.gives().to_owned()),
            Err(reason) => (false, reason),
        };
        RungProbe { rung: rung.name().to_owned(), usable, reason }
    });
    SensorProbe { sensor: "network".to_owned(), rungs: rungs.collect() }
}

/// Opens the best rung, or the one that is `forced`; with the ladder up to it. One that is forced and refused makes room
/// for those below it.
pub fn open(forced: Option<Rung>) -> (Vec<RungProbe>, Opened) {
    let usual = |rung: &Rung| !matches!(rung, Rung::Xdp | Rung::XdpGeneric | Rung::Tc);
    let wanted =
        forced.into_iter().chain(Rung::ALL.into_iter().filter(usual).skip_while(|rung| match forced {
            // Below the forced one, never above it: who forces the ring does not want the tap.
            Some(Rung::Ring) => !matches!(rung, Rung::Pnet | Rung::Counters),
            Some(Rung::Pnet | Rung::Counters) => *rung != Rung::Counters,
            _ => false,
        }));
    let mut ladder = Vec::new();
    for rung in wanted {
        match Opened::open(rung) {
            Ok(opened) => {
                ladder.push(RungProbe {
                    rung: rung.name().to_owned(),
                    usable: true,
                    reason: rung.gives().to_owned(),
                });
                return (ladder, opened);
            }
            Err(reason) => ladder.push(RungProbe { rung: rung.name().to_owned(), usable: false, reason }),
        }
    }
    // The last rung cannot be refused.
    (ladder, Opened { rung: Rung::Counters, counts: None, packets: None, programs: None, tap: None })
}
