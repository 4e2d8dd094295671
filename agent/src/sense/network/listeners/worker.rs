//! The sensor's thread: looks, finds who is behind what is new, seals what comes of it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::holders::Finder;
use super::store;
use crate::clock;
use crate::detect::listener::{Bound, Detector, Holder, Outcome, Protocol};
use crate::ledger::SealError;
use crate::netlink::Netlink;
use crate::sense::draft::draft;
use crate::sense::network::sockets::{self, CLOSED, FAMILIES, LISTEN};
use crate::sense::{SensorContext, SensorState};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// UDP is looked at each so many looks: its sockets are judged by whether they last.
const UDP_EACH: u64 = 3;
/// After a look so many times what it cost is waited, and after a search for holders so many times that.
const REST: u32 = 100;
const SEARCH_REST: u32 = 50;
/// But no longer: who holds a socket is news. What costs most is asked once for each program.
const SEARCH_REST_MAX: Duration = Duration::from_secs(5);
/// How often the status is brought up to date, and the ports that the kernel hands out are read.
const REPORT_EACH: u64 = 5;
/// Numbers of the protocols.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The sensor at work.
pub(super) struct Worker {
    context: SensorContext,
    detector: Arc<Mutex<Detector>>,
    finder: Finder,
    looks: u64,
    /// When holders may be searched for again, since boot.
    search: Duration,
    searches: u64,
    last: Option<Timestamp>,
    trouble: Option<String>,
}

impl Worker {
    pub fn new(context: SensorContext, detector: Arc<Mutex<Detector>>) -> Self {
        let finder = Finder::new(context.processes.clone());
        Self {
            context,
            detector,
            finder,
            looks: 0,
            search: Duration::ZERO,
            searches: 0,
            last: None,
            trouble: None,
        }
    }

    /// Runs until the stop signal is set or the ledger has stopped.
    pub fn run(mut self) {
        while !self.context.stop.is_set() {
            let begun = clock::own_processor_time();
            let bound = self.ask();
            let cost = clock::own_processor_time().saturating_sub(begun);
            if let Some((bound, only)) = bound
                && let Err(error) = self.look(&bound, only)
            {
                tracing::debug!(%error, "the sensor of listeners ends");
                return;
            }
            self.context.status.rests();
            self.context.stop.wait(LOOK.max(cost * REST));
            self.context.status.works();
        }
    }

    /// What listens now; of one protocol alone most of the time.
    fn ask(&mut self) -> Option<(Vec<Bound>, Option<Protocol>)> {
        if self.looks.is_multiple_of(REPORT_EACH) {
            if let Some(ports) = ephemeral_ports() {
                self.detector().set_ephemeral(ports);
            }
            self.report();
        }
        let with_udp = self.looks.is_multiple_of(UDP_EACH);
        self.looks += 1;
        let only = (!with_udp).then_some(Protocol::Tcp);
        // Of an answer that does not come nothing is concluded.
        let bound = bound(with_udp).map_err(|error| self.trouble = Some(error.to_string())).ok()?;
        self.trouble = None;
        Some((bound, only))
    }

    fn look(&mut self, bound: &[Bound], only: Option<Protocol>) -> Result<(), SealError> {
        let wanted = self.detector().look(bound, only, clock::now());
        let holders = self.holders(&wanted);
        let outcome = self.detector().take(holders, clock::now(), &mut Uuid::now_v7);
        self.seal(outcome)
    }

    fn detector(&self) -> std::sync::MutexGuard<'_, Detector> {
        self.detector.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Searches for who holds these, if it is time to; else they are asked for again at the next look.
    fn holders(&mut self, wanted: &[Bound]) -> Vec<(u64, Option<Holder>)> {
        let now = clock::since_boot();
        if wanted.is_empty() || now < self.search {
            return Vec::new();
        }
        self.searches += 1;
        self.last = Some(clock::now());
        let begun = clock::own_processor_time();
        // The kernel's own have no file.
        let inodes: HashSet<u32> =
            wanted.iter().map(|bound| bound.inode).filter(|inode| *inode != 0).collect();
        let found: HashMap<u32, Holder> =
            if inodes.is_empty() { HashMap::new() } else { self.finder.find(&inodes) };
        self.search =
            now + (clock::own_processor_time().saturating_sub(begun) * SEARCH_REST).min(SEARCH_REST_MAX);
        let holder = |bound: &Bound| match bound.inode {
            0 => Some(Holder::Kernel),
            inode => found.get(&inode).cloned(),
        };
        wanted.iter().map(|bound| (bound.cookie, holder(bound))).collect()
    }

    fn seal(&mut self, outcome: Outcome) -> Result<(), SealError> {
        let Outcome { mut findings, rows } = outcome;
        if findings.is_empty() && rows.is_empty() {
            return Ok(());
        }
        findings.iter_mut().for_each(|finding| self.context.sessions.link(finding));
        let drafts = findings.iter().filter_map(draft).collect();
        self.context.sealer.seal(drafts, vec![store::write(rows)])?;
        self.report();
        Ok(())
    }

    fn report(&self) {
        let tally = self.detector().tally();
        let counters = [
            ("listening", tally.listening),
            ("known", tally.known),
            ("closed", tally.closed),
            ("findings", tally.findings),
            ("folded", tally.folded),
            ("unknown", tally.unknown),
            ("beyond", tally.beyond),
            ("evicted", tally.evicted),
            ("searches", self.searches),
            ("looks", self.looks),
        ];
        self.context.status.update(|report| {
            report.state = if self.trouble.is_some() { SensorState::Degraded } else { SensorState::Running };
            report.reason = self.trouble.clone().unwrap_or_default();
            report.last_event = self.last;
            report.counters.extend(counters.map(|(name, count)| (name.to_owned(), count)));
        });
    }
}

/// How many sockets may listen, asked once.
pub(super) fn ask_once() -> io::Result<usize> {
    bound(true).map(|bound| bound.len())
}

/// All TCP sockets that listen, and UDP sockets that are connected to nobody.
fn bound(with_udp: bool) -> io::Result<Vec<Bound>> {
    let mut socket = sockets::open()?;
    let mut found = of(&mut socket, Protocol::Tcp)?;
    if with_udp {
        match of(&mut socket, Protocol::Udp) {
            Ok(udp) => found.extend(udp),
            // A kernel without the module for it; TCP is what matters.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn of(socket: &mut Netlink, protocol: Protocol) -> io::Result<Vec<Bound>> {
    let (number, states) = match protocol {
        Protocol::Tcp => (TCP, LISTEN),
        Protocol::Udp => (UDP, CLOSED),
    };
    let mut found = Vec::new();
    for family in FAMILIES {
        let sockets = sockets::of_family(socket, family, number, states, false)?;
        found.extend(sockets.into_iter().filter(|socket| socket.local.1 != 0).map(|socket| Bound {
            cookie: socket.cookie,
            protocol,
            address: socket.local.0,
            port: socket.local.1,
            inode: socket.inode,
        }));
    }
    Ok(found)
}

/// The first and the last, with a tabulator between.
fn ephemeral_ports() -> Option<RangeInclusive<u16>> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut numbers = text.split_ascii_whitespace().filter_map(|number| number.parse().ok());
    Some(numbers.next()?..=numbers.next()?)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn what_listens_is_found_and_what_is_connected_is_not() {
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect("127.0.0.1:9").unwrap();
        let found = bound(true).unwrap();
        let has = |protocol, port| found.iter().any(|bound| (bound.protocol, bound.port) == (protocol, port));
        assert!(has(Protocol::Tcp, tcp.local_addr().unwrap().port()));
        assert!(has(Protocol::Udp, udp.local_addr().unwrap().port()));
        assert!(!has(Protocol::Udp, connected.local_addr().unwrap().port()));
    }

    #[test]
    fn the_kernel_says_which_ports_it_hands_out() {
        let ports = ephemeral_ports().unwrap();
        assert!(*ports.start() >= 1_024 && ports.start() < ports.end());
    }
}
