//! What is known to listen: learned at the first look, told since, and kept over restarts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::finding::Severity;
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::{Protocol, Row};

/// Listeners that are known: more than any host has; of what is beyond, those that were seen longest ago are forgotten.
pub const KNOWN_MAX: usize = 4_096;
/// It is written so seldom that something still listens.
const SEEN: Duration = Duration::from_secs(86_400);
/// The row that says when the first look was taken.
const LEARNED: &str = "learned";
/// Rows of listeners begin with this.
const LISTENER: &str = "listener ";

/// From where a listening socket can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// This host only.
    Loopback,
    /// Those who reach some of its addresses.
    Address,
    /// All of its addresses.
    All,
}

impl Reach {
    /// Of a socket that is bound to `address`.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            address if address.is_unspecified() => Self::All,
            address if address.is_loopback() => Self::Loopback,
            _ => Self::Address,
        }
    }
}

/// Which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// This one.
    One(u16),
    /// Any that the kernel hands out.
    Ephemeral,
    /// Ever others.
    Many,
}

/// A program that listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// By which protocol.
    pub protocol: Protocol,
    /// On which port.
    pub ports: Ports,
    /// What tells the program from others.
    pub program: String,
}

impl Key {
    fn text(&self) -> String {
        let ports = match self.ports {
            Ports::One(port) => port.to_string(),
            Ports::Ephemeral => "ephemeral".to_owned(),
            Ports::Many => "many".to_owned(),
        };
        format!("{LISTENER}{} {ports} {}", self.protocol.as_str(), self.program)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(LISTENER)?.splitn(3, ' ');
        let protocol = Protocol::parse(parts.next()?)?;
        let ports = match parts.next()? {
            "ephemeral" => Ports::Ephemeral,
            "many" => Ports::Many,
            port => Ports::One(port.parse().ok()?),
        };
        Some(Self { protocol, ports, program: parts.next()?.to_owned() })
    }
}

/// What is known of one.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Known {
    /// It was there at the first look.
    pub learned: bool,
    /// How far it could be reached at most.
    pub reach: Reach,
    /// How grave it was at most.
    pub severity: Severity,
    /// When it was first seen.
    pub first: Timestamp,
    /// When it was last seen, to the day.
    pub seen: Timestamp,
    /// The finding about it, for what is told again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
}

/// A finding that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Told {
    /// Its id.
    pub id: Uuid,
    /// When it began.
    pub first: Timestamp,
    /// When it was told last.
    pub last: Timestamp,
    /// How many it stands for.
    pub count: u64,
    /// How many it stood for when it was told last.
    pub raised: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Table {
    rows: BTreeMap<Key, Known>,
    /// When the first look was taken.
    learned: Option<Timestamp>,
    changed: BTreeSet<Key>,
    /// Keys whose rows are to be removed.
    forgotten: BTreeSet<Key>,
    learned_is_new: bool,
    /// Rows that were forgotten for want of room.
    pub evicted: u64,
}

impl Table {
    /// Goes on with the rows of the last run; gives how many are none of ours.
    pub fn restore(&mut self, rows: Vec<(String, String)>) -> usize {
        let mut damaged = 0;
        for (key, state) in rows {
            if key == LEARNED {
                self.learned = serde_json::from_str(&state).ok();
                damaged += usize::from(self.learned.is_none());
                continue;
            }
            match (Key::parse(&key), serde_json::from_str(&state)) {
                (Some(key), Ok(known)) if self.rows.len() < KNOWN_MAX => {
                    self.rows.insert(key, known);
                }
                _ => damaged += 1,
            }
        }
        damaged
    }

    /// Whether the first look was taken.
    pub fn is_learned(&self) -> bool {
        self.learned.is_some()
    }

    /// It is now.
    pub fn set_learned(&mut self, now: Timestamp) {
        self.learned = Some(now);
        self.learned_is_new = true;
    }

    /// How many are known.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// What is known of one.
    pub fn get(&self, key: &Key) -> Option<&Known> {
        self.rows.get(key)
    }

    /// On how many single ports from 1024 on a program is known to listen.
    pub fn ports_of(&self, protocol: Protocol, program: &str) -> usize {
        let of = |key: &&Key| {
            key.protocol == protocol
                && key.program == program
                && matches!(key.ports, Ports::One(port) if port >= 1_024)
        };
        self.rows.keys().filter(of).count()
    }

    /// Whether a program is known to listen by that protocol, learned or told as no worse than `severity`.
    pub fn knows_program(&self, protocol: Protocol, program: &str) -> bool {
        self.rows.keys().any(|key| key.protocol == protocol && key.program == program)
    }

    /// Programs that are known on a port, others than `program`.
    pub fn others_on(&self, protocol: Protocol, port: u16, program: &str) -> Vec<&str> {
        let keys = self.rows.keys().filter(|key| key.protocol == protocol && key.ports == Ports::One(port));
        keys.map(|key| key.program.as_str()).filter(|known| *known != program).collect()
    }

    /// Notes what is known of one now.
    pub fn put(&mut self, key: Key, known: Known) {
        if self.rows.len() >= KNOWN_MAX && !self.rows.contains_key(&key) {
            self.evict();
        }
        self.forgotten.remove(&key);
        self.changed.insert(key.clone());
        self.rows.insert(key, known);
    }

    /// It still listens.
    pub fn refresh(&mut self, key: &Key, now: Timestamp) {
        if let Some(known) = self.rows.get_mut(key)
            && now.since(known.seen) >= SEEN
        {
            known.seen = now;
            self.changed.insert(key.clone());
        }
    }

    /// Forgets what was seen longest ago; of what was seen at the same time, what came last.
    fn evict(&mut self) {
        let oldest =
            self.rows.iter().min_by_key(|(_, known)| (known.learned, known.seen, Reverse(known.first)));
        let Some(key) = oldest.map(|(key, _)| key.clone()) else { return };
        self.rows.remove(&key);
        self.changed.remove(&key);
        self.forgotten.insert(key);
        self.evicted += 1;
    }

    /// What is to be written.
    pub fn take_rows(&mut self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        if std::mem::take(&mut self.learned_is_new) {
            rows.push((LEARNED.to_owned(), serde_json::to_string(&self.learned).ok()));
        }
        rows.extend(std::mem::take(&mut self.forgotten).into_iter().map(|key| (key.text(), None)));
        for key in std::mem::take(&mut self.changed) {
            // What cannot be written is not known to the next run, and is told again.
            let state = self.rows.get(&key).and_then(|known| serde_json::to_string(known).ok());
            rows.push((key.text(), state));
        }
        rows
    }
}
