//! Successes that wait to be judged: audit tells of a login first, but not how it was done, and a login by key is not
//! judged like one by password. The line that says how comes within moments; without it the login is judged all the
//! same, by what is known.
//!
//! The ids of findings that may come of it are drawn when it is first seen, so that what the clock alone sets off needs none.

use std::time::Duration;

use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::kept::{Changes, Entry, Kept};
use super::print::Secret;
use crate::sense::logins::{LoginEvent, LoginKind, Source};

/// How long is waited: sshd writes its line before the session opens; a busy syslog takes some more.
const WAIT: Duration = Duration::from_secs(2);
/// Logins that wait at once; beyond, the oldest is judged as it is.
const WAITING_MAX: usize = 64;
/// What one login can lead to.
const IDS: usize = 8;

/// A success that waits.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Pending {
    pub event: LoginEvent,
    pub ids: Vec<Uuid>,
    until: Timestamp,
}

impl Entry for Pending {}

/// All that wait.
#[derive(Debug)]
pub struct Waiting {
    logins: Kept<u64, Pending>,
}

fn key(told: &LoginEvent, secret: &Secret) -> u64 {
    let prints = secret.prints(told);
    let moment = u64::from_ne_bytes(told.time.nanos().to_ne_bytes());
    let when = secret.both(told.pid.map_or(u64::MAX, u64::from), moment);
    secret.both(secret.both(prints.service, prints.user), secret.both(prints.address, when))
}

impl Waiting {
    pub fn new() -> Self {
        Self { logins: Kept::new("pending", WAITING_MAX) }
    }

    /// Keeps `event` when how it was done is not known yet; gives whether it does, and what must be judged for want of
    /// room.
    pub fn keep(
        &mut self,
        event: &LoginEvent,
        now: Timestamp,
        secret: &Secret,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> (bool, Option<Pending>) {
        let partial = event.source == Source::Audit || event.source.keeps_records();
        let unclear = event.event == LoginKind::Success && event.method.is_none() && event.address.is_some();
        if !partial || !unclear {
            return (false, None);
        }
        let ids = (0..IDS).map(|_| new_id()).collect();
        let pending = Pending { event: event.clone(), ids, until: now.plus(WAIT) };
        let key = key(event, secret);
        (true, self.logins.insert(key, key, pending).map(|(_, old)| old))
    }

    /// The login that was observed as `told` is known as `event` now.
    pub fn enrich(&mut self, told: &LoginEvent, event: &LoginEvent, now: Timestamp, secret: &Secret) -> bool {
        let Some(pending) = self.logins.get_mut(key(told, secret)) else { return false };
        pending.event = event.clone();
        if event.method.is_some() {
            pending.until = now;
        }
        true
    }

    /// Those that waited long enough.
    pub fn take_due(&mut self, now: Timestamp) -> Vec<Pending> {
        let is_due = |login: &Pending| login.until <= now;
        let places = self.logins.places();
        let due = places.into_iter().filter(|at| self.logins.at(*at).is_some_and(|(_, login)| is_due(login)));
        let due: Vec<_> = due.collect();
        due.into_iter().filter_map(|at| self.logins.remove_at(at)).collect()
    }

    /// When the next has waited long enough.
    pub fn due(&self) -> Option<Timestamp> {
        self.logins.values().map(|login| login.until).min()
    }

    pub fn set_back(&mut self, now: Timestamp) {
        self.logins.values_mut().for_each(|login| login.until = login.until.min(now.plus(WAIT)));
    }

    pub fn has_changes(&self) -> bool {
        self.logins.has_changes()
    }

    pub fn take_changes(&mut self, out: &mut Changes, budget: &mut usize) {
        self.logins.take_changes(out, budget);
    }

    pub fn restore(&mut self, row: &str, state: &str, secret: &Secret) -> Option<bool> {
        self.logins.restore(row, state, secret)
    }
}
