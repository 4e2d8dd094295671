//! New listening ports: the sockets that listen and who holds them in, findings out (`net.listener`).
//!
//! **Promise.** What listens at the first look is learned without a word. From then on each program that begins to listen on a port, or
//! can be reached from farther than before, is told once: as `info`, or as `high` when it hands whoever connects to a shell, runs
//! what no file holds, belongs to no package, is deleted, or lies where any user may write. What is known stays known over
//! restarts of the service, of the agent and of the host. That a listener goes is no finding.
//!
//! **How.** [`Detector::look`] is given all sockets that may listen and gives those whose holder it wants to know;
//! [`Detector::take`] is given these and concludes. UDP has no listening: a socket that is connected to nobody
//! serves when it lasts. Ports that the kernel hands out are one per program, so that passive FTP, callbacks and senders of queries
//! are told once at most; a known program's further port must last for some seconds, and beyond [`PORTS_EACH`] of them
//! it is told as one that opens ever others. Bind shells that were not there at the first look are told each time anew.
//!
//! **Limits.** [`SOCKETS_MAX`] sockets, [`known::KNOWN_MAX`] listeners, [`budget`] findings; what is beyond is counted. A
//! listener that comes and goes between two looks is not seen.

pub mod budget;
mod finding;
mod holder;
pub mod known;
pub mod program;
mod shown;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::{Finding, Severity};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use budget::Budget;
pub use holder::{Holder, Judged, OnDisk, Origin, Process, Run};
use known::{Key, Known, Ports, Reach, Table, Told};
pub use shown::Shown;

/// A row of the durable state: key and value, none when it is to be removed.
pub type Row = (String, Option<String>);

/// Sockets that are followed.
pub const SOCKETS_MAX: usize = 16_384;
/// A UDP socket on a port of its own choice serves when it has lasted so long: queries are answered or given up by then.
const UDP_LASTS: Duration = Duration::from_secs(3);
/// The same on a port that the kernel hands out, or of a program that is known to use others.
const UDP_LASTS_LONG: Duration = Duration::from_secs(60);
/// A further unprivileged port of a known program must last so long: connections for data of passive FTP are made at once.
const KNOWN_LASTS: Duration = Duration::from_secs(10);
/// So many single ports of a program are told one by one.
pub const PORTS_EACH: usize = 8;
/// A finding that grows is told again no sooner.
const RAISE: Duration = Duration::from_secs(60);
/// A bind shell that comes again within this time belongs to the finding of before.
const SAME: Duration = Duration::from_secs(3_600);
/// How often the holder is looked for before nobody is known to be it.
const TRIES: u32 = 3;

/// By which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// In evidence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp].into_iter().find(|protocol| protocol.as_str() == word)
    }
}

/// A socket that listens, or may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// What the kernel calls it as long as it lives.
    pub cookie: u64,
    /// By which protocol.
    pub protocol: Protocol,
    /// Where it is bound.
    pub address: IpAddr,
    /// On which port.
    pub port: u16,
    /// The file that it is to its process; 0 for none.
    pub inode: u32,
}

/// What comes of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// To be sealed.
    pub findings: Vec<Finding>,
    /// To be written with them.
    pub rows: Vec<Row>,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sockets that listen now.
    pub listening: u64,
    /// Listeners that are known.
    pub known: u64,
    /// Sockets that have closed.
    pub closed: u64,
    /// Findings.
    pub findings: u64,
    /// What was not told by itself: more ports of a program, shells that came again, what went beyond the budget.
    pub folded: u64,
    /// Sockets that were gone, or whose process was, before it was known who held them.
    pub unknown: u64,
    /// Sockets beyond [`SOCKETS_MAX`].
    pub beyond: u64,
    /// Known listeners that were forgotten for want of room.
    pub evicted: u64,
}

#[derive(Clone, Debug)]
struct Open {
    bound: Bound,
    since: Timestamp,
    look: u64,
    tries: u32,
    holder: Option<(Arc<Holder>, Judged)>,
    settled: Option<Key>,
}

/// See the module.
#[derive(Debug)]
pub struct Detector {
    ephemeral: RangeInclusive<u16>,
    open: HashMap<u64, Open>,
    table: Table,
    looks: u64,
    budget: Budget,
    tally: Tally,
}

impl Default for Detector {
    fn default() -> Self {
        Self {
            ephemeral: 32_768..=60_999,
            open: HashMap::new(),
            table: Table::default(),
            looks: 0,
            budget: Budget::default(),
            tally: Tally::default(),
        }
    }
}

impl Detector {
    /// Goes on with the rows of the last run; gives how many are none of ours.
    pub fn restore(&mut self, rows: Vec<(String, String)>) -> usize {
        self.table.restore(rows)
    }

    /// Ports that the kernel hands out.
    pub fn set_ephemeral(&mut self, ports: RangeInclusive<u16>) {
        self.ephemeral = ports;
    }

    /// Takes up what there is now, of `only` one protocol when the other was not looked at. Gives those whose holder is wanted.
    pub fn look(&mut self, bound: &[Bound], only: Option<Protocol>, now: Timestamp) -> Vec<Bound> {
        self.looks += 1;
        let mut beyond = 0;
        for one in bound {
            let room = self.open.len() < SOCKETS_MAX;
            match self.open.get_mut(&one.cookie) {
                Some(open) if open.bound == *one => open.look = self.looks,
                None if !room => beyond += 1,
                _ => {
                    let new = Open {
                        bound: *one,
                        since: now,
                        look: self.looks,
                        tries: 0,
                        holder: None,
                        settled: None,
                    };
                    self.open.insert(one.cookie, new);
                }
            }
        }
        self.tally.beyond = self.tally.beyond.max(beyond);
        self.close(only);
        self.wanted(now)
    }

    fn close(&mut self, only: Option<Protocol>) {
        let (look, mut closed, mut unknown) = (self.looks, 0, 0);
        self.open.retain(|_, open| {
            let stays = open.look == look || only.is_some_and(|only| open.bound.protocol != only);
            closed += u64::from(!stays);
            unknown += u64::from(!stays && open.tries > 0 && open.holder.is_none());
            stays
        });
        self.tally.closed += closed;
        self.tally.unknown += unknown;
    }

    fn wanted(&self, now: Timestamp) -> Vec<Bound> {
        let at_first = !self.table.is_learned();
        let due = |open: &&Open| {
            let lasts = match open.bound.protocol {
                Protocol::Tcp => Duration::ZERO,
                Protocol::Udp if self.ephemeral.contains(&open.bound.port) => UDP_LASTS_LONG,
                Protocol::Udp => UDP_LASTS,
            };
            open.holder.is_none() && (at_first || now.since(open.since) >= lasts)
        };
        self.open.values().filter(due).map(|open| open.bound).collect()
    }

    /// Takes up who holds what was wanted; none when nobody was found. Then concludes from all that is known.
    pub fn take(
        &mut self,
        holders: Vec<(u64, Option<Holder>)>,
        now: Timestamp,
        ids: &mut dyn FnMut() -> Uuid,
    ) -> Outcome {
        for (cookie, holder) in holders {
            let Some(open) = self.open.get_mut(&cookie) else { continue };
            open.tries += 1;
            let nobody = (open.tries >= TRIES).then_some(Holder::Kernel);
            open.holder = holder.or(nobody).map(|holder| {
                let judged = holder.judge();
                (Arc::new(holder), judged)
            });
        }
        let mut findings = self.conclude(now, ids);
        self.end_first_look(now);
        findings.extend(self.budget.rest(now, ids));
        self.tally.findings += u64::try_from(findings.len()).unwrap_or(0);
        Outcome { findings, rows: self.table.take_rows() }
    }

    /// The first look is over when it is known who holds what it has shown; who cannot be found keeps it from nothing.
    fn end_first_look(&mut self, now: Timestamp) {
        let all = self.open.values().all(|open| open.holder.is_some());
        if !self.table.is_learned() && (all || self.looks > u64::from(TRIES)) {
            self.table.set_learned(now);
        }
    }

    fn conclude(&mut self, now: Timestamp, ids: &mut dyn FnMut() -> Uuid) -> Vec<Finding> {
        let mut due: Vec<(Bound, u64)> = Vec::new();
        for open in self.open.values() {
            match &open.settled {
                Some(key) => self.table.refresh(key, now),
                None if open.holder.is_some() => due.push((open.bound, open.bound.cookie)),
                None => {}
            }
        }
        // The farthest reach first: it is the one that is told.
        due.sort_by_key(|(bound, cookie)| {
            (bound.protocol, bound.port, std::cmp::Reverse(Reach::of(bound.address)), *cookie)
        });
        due.into_iter().filter_map(|(_, cookie)| self.settle(cookie, now, ids)).collect()
    }

    /// Decides about one socket, if it is time to.
    fn settle(&mut self, cookie: u64, now: Timestamp, ids: &mut dyn FnMut() -> Uuid) -> Option<Finding> {
        let open = self.open.get(&cookie)?.clone();
        let (_, judged) = open.holder.as_ref()?;
        let mut key = self.key(&open.bound, judged);
        let reach = Reach::of(open.bound.address);
        if !self.table.is_learned() {
            self.note(&key, reach, judged, true, None, now);
            return self.done(cookie, key);
        }
        let severity = self.severity(&open.bound, judged);
        if self.is_known(&key, reach, severity, judged) {
            self.table.refresh(&key, now);
            return self.done(cookie, key);
        }
        if now.since(open.since) < self.must_last(&open.bound, judged) {
            return None;
        }
        let each = matches!(key.ports, Ports::One(port) if port >= 1_024);
        if each
            && self.table.get(&key).is_none()
            && self.table.ports_of(key.protocol, &key.program) >= PORTS_EACH
        {
            key.ports = Ports::Many;
        }
        let finding = self.tell(&open, &key, severity, now, ids);
        self.done(cookie, key);
        finding
    }

    fn done(&mut self, cookie: u64, key: Key) -> Option<Finding> {
        if let Some(open) = self.open.get_mut(&cookie) {
            open.settled = Some(key);
        }
        None
    }

    fn key(&self, bound: &Bound, judged: &Judged) -> Key {
        // What must not hide behind another port of the same program has each port told.
        let is_bad = judged.manner.is_some() || judged.exposed;
        let ports = match bound.port {
            port if self.ephemeral.contains(&port) && !is_bad => Ports::Ephemeral,
            port => Ports::One(port),
        };
        Key { protocol: bound.protocol, ports, program: judged.identity.clone() }
    }

    /// Who holds a UDP port that the kernel handed out may be asking as well as serving.
    fn severity(&self, bound: &Bound, judged: &Judged) -> Severity {
        let asks = bound.protocol == Protocol::Udp && self.ephemeral.contains(&bound.port);
        let is_bad = judged.manner.is_some() || judged.exposed;
        if asks && !is_bad { Severity::Info } else { judged.severity }
    }

    fn is_known(&self, key: &Key, reach: Reach, severity: Severity, judged: &Judged) -> bool {
        let Some(known) = self.table.get(key) else { return false };
        let again = judged.manner.is_some() && !known.learned;
        known.reach >= reach && known.severity >= severity && !again
    }

    fn must_last(&self, bound: &Bound, judged: &Judged) -> Duration {
        let is_plain = judged.severity == Severity::Info && bound.port >= 1_024;
        match bound.protocol {
            _ if !is_plain || !self.table.knows_program(bound.protocol, &judged.identity) => Duration::ZERO,
            Protocol::Tcp => KNOWN_LASTS,
            Protocol::Udp => UDP_LASTS_LONG,
        }
    }

    fn note(
        &mut self,
        key: &Key,
        reach: Reach,
        judged: &Judged,
        learned: bool,
        told: Option<Told>,
        now: Timestamp,
    ) {
        let before = self.table.get(key);
        let known = Known {
            learned: before.map_or(learned, |known| known.learned || learned),
            reach: before.map_or(reach, |known| known.reach.max(reach)),
            severity: before.map_or(judged.severity, |known| known.severity.max(judged.severity)),
            first: before.map_or(now, |known| known.first),
            seen: now,
            told: told.or_else(|| before?.told),
        };
        self.table.put(key.clone(), known);
    }

    /// Tells it, or counts it with what was told before.
    fn tell(
        &mut self,
        open: &Open,
        key: &Key,
        severity: Severity,
        now: Timestamp,
        ids: &mut dyn FnMut() -> Uuid,
    ) -> Option<Finding> {
        let (holder, judged) = open.holder.as_ref()?;
        let reach = Reach::of(open.bound.address);
        let before = self.table.get(key).cloned();
        let grows = key.ports == Ports::Many || judged.manner.is_some();
        let wider = before.as_ref().is_some_and(|known| known.reach < reach || known.severity < severity);
        let told = before.as_ref().and_then(|known| known.told);
        let lately = |told: &Told| key.ports == Ports::Many || now.since(told.last) < SAME;
        let told = told.filter(|told| grows && !wider && lately(told));
        let mut told = match told {
            Some(told) => Told { count: told.count.saturating_add(1), ..told },
            None => Told { id: ids(), first: open.since, last: now, count: 1, raised: 0 },
        };
        let is_due = told.raised == 0
            || (now.since(told.last) >= RAISE
                && (key.ports != Ports::Many || told.count >= told.raised.saturating_mul(2)));
        let is_new = told.raised == 0;
        if is_due {
            (told.last, told.raised) = (now, told.count);
        }
        self.note(key, reach, judged, false, Some(told), now);
        if !is_due {
            self.tally.folded += 1;
            return None;
        }
        let facts = finding::Facts {
            bound: &open.bound,
            key,
            holder,
            judged,
            severity,
            told,
            addresses: self.addresses(open, judged),
            others: self.table.others_on(key.protocol, open.bound.port, &key.program),
            widened_from: before.filter(|known| known.reach < reach).map(|known| known.reach),
            at_start: self.looks == 1,
        };
        let finding = facts.finding();
        if is_new && !self.budget.spend(&finding, now) {
            self.tally.folded += 1;
            return None;
        }
        Some(finding)
    }

    /// All addresses on which the same program listens on that port.
    fn addresses(&self, open: &Open, judged: &Judged) -> Vec<IpAddr> {
        let same = self.open.values().filter(|other| {
            (other.bound.protocol, other.bound.port) == (open.bound.protocol, open.bound.port)
                && other.holder.as_ref().is_none_or(|(_, theirs)| theirs.identity == judged.identity)
        });
        let mut addresses: Vec<IpAddr> = same.map(|other| other.bound.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(finding::ADDRESSES_MAX);
        addresses
    }

    /// All that listens now and is known to serve, by protocol, port and address.
    pub fn listening(&self) -> Vec<Shown> {
        let known = self.open.values().filter_map(|open| {
            let (holder, judged) = open.holder.as_ref()?;
            Some(Shown::new(&open.bound, open.since, holder, judged))
        });
        let mut shown: Vec<Shown> = known.collect();
        shown.sort_by_key(|one| (one.protocol, one.port, one.address, one.cookie));
        shown
    }

    /// Counts since the start.
    pub fn tally(&self) -> Tally {
        let listening = self.open.values().filter(|open| open.settled.is_some()).count();
        Tally {
            listening: u64::try_from(listening).unwrap_or(u64::MAX),
            known: u64::try_from(self.table.count()).unwrap_or(u64::MAX),
            evicted: self.table.evicted,
            ..self.tally
        }
    }
}
