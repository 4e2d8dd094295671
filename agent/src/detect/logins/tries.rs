//! What one party tried of late: an address its accounts, an account its addresses, a user the rights of others.

use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::apart;
use super::few::Few;
use super::kept::Entry;
use crate::sense::logins::{LoginEvent, LoginKind, Place};

/// Different counterparts kept of one party, the newest; more than any threshold over them.
pub const OTHERS_MAX: usize = 32;
/// Times kept of one party, whatever the thresholds say.
pub const TIMES_MAX: usize = 100;
/// Places kept of one party until it is alarmed about.
const PLACES_MAX: usize = 8;

/// What one party tried.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Tries<O> {
    /// The newest, at the end, with a fingerprint of whom they were about.
    times: Few<(Timestamp, u64)>,
    others: Few<Other<O>>,
    places: Few<Place>,
    /// The port of the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub touched: Timestamp,
}

/// A counterpart.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Other<O> {
    pub who: O,
    pub print: u64,
    pub last: Timestamp,
    pub tries: u32,
    /// It has no account.
    pub invalid: bool,
}

impl<O> Default for Tries<O> {
    fn default() -> Self {
        Self {
            times: Few::default(),
            others: Few::default(),
            places: Few::default(),
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

impl<O: Clone> Tries<O> {
    /// Adds `attempts` about `other`, whose fingerprint is beside it; at most `kept` times stay.
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
            self.times.push_newest((event.time, print), kept);
        }
        if event.port.is_some() {
            self.port = event.port;
        }
        self.touched = now;
        if self.places.last() != Some(&event.place) {
            self.places.push_newest(event.place.clone(), PLACES_MAX);
        }
        if let Some((who, print)) = other {
            self.about(who, print, event, u32::try_from(attempts).unwrap_or(u32::MAX));
        }
    }

    fn about(&mut self, who: &O, print: u64, event: &LoginEvent, attempts: u32) {
        let invalid = event.event == LoginKind::InvalidUser;
        if let Some(known) = self.others.iter_mut().find(|known| known.print == print) {
            // Not the latest: a clock may have run ahead.
            known.last = event.time;
            known.tries = known.tries.saturating_add(attempts);
            known.invalid &= invalid;
            return;
        }
        let other = Other { who: who.clone(), print, last: event.time, tries: attempts, invalid };
        if self.others.len() < OTHERS_MAX {
            self.others.push(other);
        } else if let Some(oldest) = self.others.iter_mut().min_by_key(|other| other.last) {
            *oldest = other;
        }
    }

    /// The counterpart with this fingerprint has no account, as is known now; whether that is news.
    pub fn is_invalid(&mut self, print: u64) -> bool {
        let other = self.others.iter_mut().find(|other| other.print == print && !other.invalid);
        other.is_some_and(|other| {
            other.invalid = true;
            true
        })
    }

    /// How many tries of late lie within `window` before `time`, and the first of them.
    pub fn within(&self, time: Timestamp, window: Duration) -> (u64, Timestamp) {
        let recent = self.times.iter().filter(|(at, _)| apart(time, *at) <= window);
        let (mut count, mut first) = (0, time);
        for (at, _) in recent {
            count += 1;
            first = first.min(*at);
        }
        (count, first)
    }

    /// The counterparts tried within `window` before `time`.
    pub fn others(&self, time: Timestamp, window: Duration) -> impl Iterator<Item = &Other<O>> {
        self.others.iter().filter(move |other| apart(time, other.last) <= window)
    }

    /// Whether there are at least `count` counterparts at all: asked first, since it costs nothing.
    pub fn may_have(&self, count: u32) -> bool {
        self.others.len() >= usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// Where the newest stand.
    pub fn places(&self) -> Vec<Place> {
        self.places.iter().cloned().collect()
    }

    /// What was tried about the counterpart with this fingerprint was a person who got in after all.
    pub fn forgive(&mut self, print: u64) {
        self.others.retain(|other| other.print != print);
        self.times.retain(|(_, about)| *about != print);
    }

    /// Forgets all.
    pub fn forgive_all(&mut self) {
        self.others.clear();
        self.times.clear();
    }
}
