//! The table of known neighbours: bounded, with rows that survive the process.
//!
//! New addresses are let in at a bounded rate, and when the table is full the one that was silent longest makes place, unless it is
//! a gateway's; both are counted. Only what lasted, or matters, is worth a row: a flood of invented hosts writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::Row;
use super::sign::Contest;
use crate::detect::logins::Bucket;
use crate::detect::packets::neighbour::Mac;

/// Addresses that are known at once: four /22 networks full. About 1 MiB.
pub const NEIGHBOURS_MAX: usize = 4_096;
/// Former owners of an address that are remembered.
const FORMER_MAX: usize = 4;
/// New addresses that are let in at once, on all interfaces: 200 hosts that boot bring 600 at most.
const NEW_MAX: u32 = 1_024;
/// And how many more each second.
const NEW_PER_SECOND: u32 = 32;
/// A host that was seen for less is not worth a row.
const LASTING: Duration = Duration::from_secs(60);
/// Rows are not written again only because somebody was seen again, but after this.
const STALE_ROW: Duration = Duration::from_secs(3_600);
/// Who was seen for a moment is forgotten after this, and everybody who was silent for so long.
const PASSING: Duration = Duration::from_secs(900);
const FORGOTTEN: Duration = Duration::from_secs(180 * 24 * 3_600);
/// Who held an address for so long undisputed is its owner.
const ESTABLISHED: Duration = Duration::from_secs(600);

/// Where an address is: interface, VLAN, address.
pub type Place = (Arc<str>, u16, IpAddr);

/// Who had an address before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Former {
    /// Its link-layer address.
    pub mac: Mac,
    /// Until when.
    pub until: Timestamp,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Neighbour {
    /// Its link-layer address.
    pub mac: Mac,
    /// Who had it undisputed.
    pub established: Mac,
    /// When the address was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// Since when it is at [`Neighbour::mac`].
    pub since: Timestamp,
    /// How often it changed hands.
    pub changes: u64,
    /// Who had it before, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<Former>,
    /// Where this host's kernel sends what is for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<Mac>,
    /// The dispute about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contest: Option<Contest>,
    /// What the database knows.
    #[serde(skip)]
    stored: Option<Timestamp>,
}

impl Neighbour {
    fn new(mac: Mac, now: Timestamp) -> Self {
        Self {
            mac,
            established: mac,
            first_seen: now,
            last_seen: now,
            since: now,
            changes: 0,
            former: Vec::new(),
            cached: None,
            contest: None,
            stored: None,
        }
    }

    /// Takes the address from its owner.
    pub fn change(&mut self, mac: Mac, now: Timestamp) {
        if self.contest.is_none() && now.since(self.since) >= ESTABLISHED {
            self.established = self.mac;
        }
        self.former.retain(|former| former.mac != mac && former.mac != self.mac);
        self.former.insert(0, Former { mac: self.mac, until: self.last_seen });
        self.former.truncate(FORMER_MAX);
        (self.mac, self.since, self.last_seen) = (mac, now, now);
        self.changes = self.changes.saturating_add(1);
    }

    /// Until when `mac` had it, if it did.
    pub fn had_until(&self, mac: Mac) -> Option<Timestamp> {
        self.former.iter().find(|former| former.mac == mac).map(|former| former.until)
    }

    fn is_worth_a_row(&self) -> bool {
        self.changes > 0 || self.cached.is_some() || self.last_seen.since(self.first_seen) >= LASTING
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Table {
    entries: BTreeMap<Place, Neighbour>,
    dirty: BTreeSet<Place>,
    gone: BTreeSet<Place>,
    admissions: Bucket,
    /// Addresses that were not let in.
    pub refused: u64,
    /// Addresses that made place.
    pub evicted: u64,
}

impl Table {
    /// How many are known.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Place, &Neighbour)> {
        self.entries.iter()
    }

    /// One of them.
    pub fn get(&self, place: &Place) -> Option<&Neighbour> {
        self.entries.get(place)
    }

    /// One of them, to be changed: its row will be written.
    pub fn change(&mut self, place: &Place) -> Option<&mut Neighbour> {
        let entry = self.entries.get_mut(place)?;
        self.dirty.insert(place.clone());
        Some(entry)
    }

    /// Notes that an address was seen again where it is known to be. False when it is not.
    pub fn seen(&mut self, place: &Place, mac: Mac, now: Timestamp) -> Option<bool> {
        let entry = self.entries.get_mut(place)?;
        if entry.mac != mac {
            return Some(false);
        }
        entry.last_seen = entry.last_seen.max(now);
        let due = entry.stored.is_none_or(|stored| now.since(stored) >= STALE_ROW);
        if due && entry.is_worth_a_row() {
            self.dirty.insert(place.clone());
        }
        Some(true)
    }

    /// Lets a new address in. `important` ones find a place in any case.
    pub fn admit(
        &mut self,
        place: Place,
        mac: Mac,
        now: Timestamp,
        important: bool,
        spare: &impl Fn(&Place) -> bool,
    ) -> bool {
        let left = self.admissions.left(NEW_MAX, now.seconds(), NEW_PER_SECOND);
        if left == 0 && !important {
            self.refused += 1;
            return false;
        }
        self.admissions.spend(u32::from(left > 0));
        if self.entries.len() >= NEIGHBOURS_MAX {
            self.make_place(spare);
        }
        self.gone.remove(&place);
        if important {
            self.dirty.insert(place.clone());
        }
        self.entries.insert(place, Neighbour::new(mac, now));
        true
    }

    fn make_place(&mut self, spare: &impl Fn(&Place) -> bool) {
        let candidates =
            self.entries.iter().filter(|(place, entry)| entry.contest.is_none() && !spare(place));
        let oldest = candidates.min_by_key(|(_, entry)| entry.last_seen).map(|(place, _)| place.clone());
        // All matter: then the oldest of them.
        let oldest = oldest.or_else(|| {
            self.entries.iter().min_by_key(|(_, entry)| entry.last_seen).map(|(place, _)| place.clone())
        });
        let Some(place) = oldest else { return };
        self.dirty.remove(&place);
        if self.entries.remove(&place).is_some_and(|entry| entry.stored.is_some()) {
            self.gone.insert(place);
        }
        self.evicted += 1;
    }

    /// Forgets who was hardly there and is gone, and who was not seen for months.
    pub fn forget(&mut self, now: Timestamp) {
        let gone = &mut self.gone;
        self.entries.retain(|place, entry| {
            let silent = now.since(entry.last_seen);
            let passing = !entry.is_worth_a_row() && silent >= PASSING;
            let keep = entry.contest.is_some() || !(passing || silent >= FORGOTTEN);
            if !keep && entry.stored.is_some() {
                gone.insert(place.clone());
            }
            keep
        });
    }

    /// Whether rows are to be written.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || !self.gone.is_empty()
    }

    /// The rows to write.
    pub fn take_rows(&mut self, now: Timestamp) -> Vec<Row> {
        let gone = std::mem::take(&mut self.gone).into_iter();
        let mut rows: Vec<Row> = gone.map(|place| (KIND, key(&place), None)).collect();
        for place in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.entries.get_mut(&place) else { continue };
            if let Ok(state) = serde_json::to_string(entry) {
                entry.stored = Some(now);
                rows.push((KIND, key(&place), Some(state)));
            }
        }
        rows
    }

    /// Takes a row of the last run up. Whether it can be used.
    pub fn restore(&mut self, key: &str, state: &str) -> bool {
        let (Some(place), Ok(mut entry)) = (place(key), serde_json::from_str::<Neighbour>(state)) else {
            return false;
        };
        entry.former.truncate(FORMER_MAX);
        entry.stored = Some(entry.last_seen);
        if self.entries.len() >= NEIGHBOURS_MAX {
            self.make_place(&|_| false);
        }
        self.entries.insert(place, entry);
        true
    }
}

/// What the rows of the table are called.
pub const KIND: &str = "neighbour";

/// Names of interfaces hold no blanks.
pub fn key(place: &Place) -> String {
    let (interface, vlan, address) = place;
    format!("{interface} {vlan} {address}")
}

fn place(key: &str) -> Option<Place> {
    let mut words = key.split(' ');
    let place = (Arc::from(words.next()?), words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    words.next().is_none().then_some(place)
}
