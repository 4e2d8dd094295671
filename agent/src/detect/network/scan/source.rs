//! What one source tried, and what became of it.

use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::time::Timestamp;

use crate::detect::network::{ProbeKind, Stealth};

/// Tries of one source that are remembered, the newest: twice what a slow scan needs, 5 KiB.
pub const TRIES_MAX: usize = 96;
/// Of these, so many that were wanted outlast those that were not: what a scan has found is what people want to know of it.
const WANTED_KEPT: usize = 24;
/// A try that was not answered for so long was in vain. 3 s: TCP sends its second SYN after one, its third after three.
const ANSWER: Duration = Duration::from_secs(3);
/// Words of the sets of ports and hosts beyond that: 1,024 bits each.
const WORDS: usize = 16;

/// How somebody tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Syn,
    Stealth(Stealth),
    Udp,
    Echo,
}

impl Way {
    pub fn of(kind: ProbeKind) -> Option<Self> {
        match kind {
            ProbeKind::Syn => Some(Self::Syn),
            ProbeKind::Stealth(how) => Some(Self::Stealth(how)),
            ProbeKind::Udp => Some(Self::Udp),
            ProbeKind::Echo => Some(Self::Echo),
            ProbeKind::Refused(_) | ProbeKind::Accepted => None,
        }
    }

    /// Tells it apart from the others.
    pub fn number(self) -> u8 {
        match self {
            Self::Syn => 0,
            Self::Udp => 1,
            Self::Echo => 2,
            Self::Stealth(how) => 3 + how as u8,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::Stealth(how) => how.as_str(),
            Self::Udp => "udp",
            Self::Echo => "echo",
        }
    }
}

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Waiting,
    Refused,
    Accepted,
}

#[derive(Clone, Copy, Debug)]
pub struct Try {
    pub destination: IpAddr,
    pub port: u16,
    pub way: Way,
    pub at: Timestamp,
    pub fate: Fate,
    /// [`crate::detect::network::Probe::alone`].
    pub alone: bool,
}

impl Try {
    /// Whether nobody wanted it, as far as its answer would have been seen.
    fn in_vain(&self, now: Timestamp) -> bool {
        match self.fate {
            Fate::Accepted => false,
            Fate::Refused => true,
            Fate::Waiting if matches!(self.way, Way::Stealth(_)) => true,
            Fate::Waiting => !self.alone && now.since(self.at) >= ANSWER,
        }
    }
}

/// About how many different numbers were added (linear counting, as in [`crate::detect::network::summary`]).
#[derive(Clone, Copy, Debug, Default)]
pub struct Few([u64; WORDS]);

impl Few {
    pub fn add(&mut self, print: u64) {
        let bit = usize::try_from(print >> 54).unwrap_or(0);
        if let Some(word) = self.0.get_mut(bit / 64) {
            *word |= 1 << (bit % 64);
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some 7,000 at most")]
    pub fn count(&self) -> u64 {
        let unset: u32 = self.0.iter().map(|word| word.count_zeros()).sum();
        (1_024.0 * (1_024.0 / f64::from(unset.max(1))).ln()).round() as u64
    }
}

/// One source.
#[derive(Clone, Debug)]
pub struct Source {
    pub first: Timestamp,
    pub last: Timestamp,
    /// Different tries, oldest first.
    pub tries: Vec<Try>,
    pub ports: Few,
    pub hosts: Few,
    /// Packets, by their weights.
    pub probes: u64,
    pub accepted: u64,
    /// Something may be in vain by now that was not counted yet.
    pub waiting: bool,
}

/// What a source tried in vain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The host with most ports in vain, and how many.
    pub ports: Option<(IpAddr, u32)>,
    /// The port with most hosts in vain, and how many.
    pub hosts: Option<(u16, u32)>,
    /// Tries with odd flags.
    pub stealth: u32,
}

impl Source {
    pub fn new(now: Timestamp) -> Self {
        Self {
            first: now,
            last: now,
            tries: Vec::new(),
            ports: Few::default(),
            hosts: Few::default(),
            probes: 0,
            accepted: 0,
            waiting: true,
        }
    }

    /// Another try; whether it is one that was not made before.
    pub fn attempt(&mut self, new: Try, weight: u32, prints: (u64, u64)) -> bool {
        self.last = self.last.max(new.at);
        self.probes = self.probes.saturating_add(weight.into());
        let same = |known: &&mut Try| {
            known.destination == new.destination && known.port == new.port && known.way == new.way
        };
        if let Some(known) = self.tries.iter_mut().rev().find(same) {
            // What was accepted once is wanted; a retry waits from its first packet.
            known.alone |= new.alone;
            return false;
        }
        self.hosts.add(prints.0);
        self.ports.add(prints.1);
        if self.tries.len() >= TRIES_MAX {
            let is_wanted = |one: &Try| one.fate == Fate::Accepted;
            let few = self.tries.iter().filter(|one| is_wanted(one)).count() <= WANTED_KEPT;
            let oldest = self.tries.iter().position(|one| !few || !is_wanted(one));
            self.tries.remove(oldest.unwrap_or(0));
        }
        self.tries.push(new);
        self.waiting = true;
        true
    }

    /// An answer to a try.
    pub fn answer(&mut self, destination: IpAddr, port: u16, fate: Fate) {
        let of = |known: &&mut Try| known.destination == destination && known.port == port;
        for known in self.tries.iter_mut().filter(of) {
            if known.fate != Fate::Accepted {
                if fate == Fate::Accepted {
                    self.accepted += 1;
                }
                known.fate = fate;
                self.waiting = true;
            }
        }
    }

    /// What was in vain within `window`; below `least` it is not looked at what that was. Where more was wanted than not, it is no scan: a
    /// crawler, a mail server, a monitor.
    pub fn tally(&self, now: Timestamp, window: Duration, least: u32) -> Tally {
        let recent = || self.tries.iter().filter(|one| now.since(one.at) <= window);
        let vain = |one: &&Try| one.in_vain(now);
        let mut tally = Tally::default();
        let stealth = recent().filter(|one| matches!(one.way, Way::Stealth(_)));
        tally.stealth = count(stealth.count());
        if count(recent().filter(vain).count()) < least {
            return tally;
        }
        for one in recent().filter(vain) {
            let here =
                || recent().filter(|other| other.destination == one.destination && other.way != Way::Echo);
            let ports = distinct(here().filter(vain).map(|other| u64::from(other.port)));
            let wanted = count(here().filter(|other| other.fate == Fate::Accepted).count());
            if ports > wanted && tally.ports.is_none_or(|(_, most)| ports > most) {
                tally.ports = Some((one.destination, ports));
            }
            let same = || recent().filter(|other| other.port == one.port && alike(other.way, one.way));
            let hosts = count(same().filter(vain).count());
            let wanted = count(same().filter(|other| other.fate == Fate::Accepted).count());
            if hosts > wanted && tally.hosts.is_none_or(|(_, most)| hosts > most) {
                tally.hosts = Some((one.port, hosts));
            }
        }
        tally
    }

    /// Answers were lost: what waits for one may have had it.
    pub fn distrust(&mut self) {
        self.tries.iter_mut().filter(|one| one.fate == Fate::Waiting).for_each(|one| one.alone = true);
    }

    /// Whether a try may turn out to be in vain later.
    pub fn waits(&self, now: Timestamp) -> bool {
        self.tries.iter().any(|one| one.fate == Fate::Waiting && now.since(one.at) <= ANSWER)
    }
}

fn alike(a: Way, b: Way) -> bool {
    a == b || matches!((a, b), (Way::Stealth(_), Way::Stealth(_)))
}

fn distinct(numbers: impl Iterator<Item = u64>) -> u32 {
    let mut all: Vec<u64> = numbers.collect();
    all.sort_unstable();
    all.dedup();
    count(all.len())
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
