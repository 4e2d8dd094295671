//! What one party tried of late: an address its accounts, an account its addresses, a user the rights of others.

use std::collections::VecDeque;
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::kept::Entry;
use crate::sense::logins::{LoginEvent, Place};

/// Different counterparts kept of one party, the newest; more than any threshold over them.
pub const OTHERS_MAX: usize = 32;
/// Times kept of one party, whatever the thresholds say.
pub const TIMES_MAX: usize = 100;
/// Places kept of one party until it is alarmed about.
const PLACES_MAX: usize = 8;

/// What one party tried.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Tries<O> {
    /// The newest, at the back, with a fingerprint of whom they were about.
    times: VecDeque<(Timestamp, u64)>,
    others: Vec<Other<O>>,
    places: VecDeque<Place>,
    /// The port of the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub touched: Timestamp,
}

/// A counterpart.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Other<O> {
    pub who: O,
    pub last: Timestamp,
    pub tries: u32,
    /// It has no account.
    pub invalid: bool,
}

impl<O> Default for Tries<O> {
    fn default() -> Self {
        Self {
            times: VecDeque::new(),
            others: Vec::new(),
            places: VecDeque::new(),
            port: None,
            touched: Timestamp::default(),
        }
    }
}

impl<O: serde::Serialize + serde::de::DeserializeOwned> Entry for Tries<O> {
    fn is_worth_a_row(&self) -> bool {
        !self.times.is_empty() || self.port.is_some()
    }
}

impl<O: Clone + PartialEq> Tries<O> {
    /// Adds `attempts` about `other`, whose fingerprint is `print`; at most `kept` times stay.
    pub fn add(
        &mut self,
        event: &LoginEvent,
        attempts: u64,
        other: Option<(&O, u64)>,
        kept: u32,
        now: Timestamp,
    ) {
        let kept = usize::try_from(kept).unwrap_or(TIMES_MAX).clamp(1, TIMES_MAX);
        let print = other.map_or(0, |(_, print)| print);
        for _ in 0..attempts.min(u64::try_from(kept).unwrap_or(1)) {
            if self.times.len() >= kept {
                self.times.pop_front();
            }
            self.times.push_back((event.time, print));
        }
        if event.port.is_some() {
            self.port = event.port;
        }
        self.touched = now;
        if self.places.back() != Some(&event.place) {
            if self.places.len() >= PLACES_MAX {
                self.places.pop_front();
            }
            self.places.push_back(event.place.clone());
        }
        let Some((who, _)) = other else { return };
        let invalid = event.event == crate::sense::logins::LoginKind::InvalidUser;
        let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
        if let Some(known) = self.others.iter_mut().find(|known| known.who == *who) {
            known.last = known.last.max(event.time);
            known.tries = known.tries.saturating_add(attempts);
            known.invalid &= invalid;
            return;
        }
        if self.others.len() >= OTHERS_MAX {
            let oldest = self.others.iter().enumerate().min_by_key(|(_, other)| other.last);
            if let Some(at) = oldest.map(|(at, _)| at) {
                self.others.swap_remove(at);
            }
        }
        self.others.push(Other { who: who.clone(), last: event.time, tries: attempts, invalid });
    }

    /// How many tries of late lie within `window` before `time`, and the first of them.
    pub fn within(&self, time: Timestamp, window: Duration) -> (u64, Timestamp) {
        let recent = self.times.iter().filter(|(at, _)| time.since(*at) <= window);
        let (mut count, mut first) = (0, time);
        for (at, _) in recent {
            count += 1;
            first = first.min(*at);
        }
        (count, first)
    }

    /// The counterparts tried within `window` before `time`.
    pub fn others(&self, time: Timestamp, window: Duration) -> impl Iterator<Item = &Other<O>> {
        self.others.iter().filter(move |other| time.since(other.last) <= window)
    }

    /// Whether there are at least `count` counterparts at all: asked first, since it costs nothing.
    pub fn may_have(&self, count: u32) -> bool {
        self.others.len() >= usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// Where the newest stand.
    pub fn places(&self) -> Vec<Place> {
        self.places.iter().cloned().collect()
    }

    /// What was tried about `who` was a person who got in after all.
    pub fn forgive(&mut self, who: &O, print: u64) {
        self.others.retain(|other| other.who != *who);
        self.times.retain(|(_, about)| *about != print);
    }

    /// Forgets all.
    pub fn forgive_all(&mut self) {
        self.others.clear();
        self.times.clear();
    }
}
