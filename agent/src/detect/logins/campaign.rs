//! A spray without a centre: many addresses try many accounts, each a few times, so that none of them is
//! conspicuous by itself. Told by how many different addresses and accounts failed at one service.
//!
//! The window moves in halves: tries count for at least half of it and at most all of it.

use picket_protocol::finding::{Severity, Text};
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::alarm::{Alarms, Opening, Turn};
use super::distinct::{Distinct, fingerprint};
use super::guess::count;
use super::kept::{Changes, Entry, Kept};
use super::rule::{AlarmKey, Rule, Subject};
use crate::sense::logins::{LoginEvent, Place};

/// Services that are watched at once.
const SERVICES_MAX: usize = 32;
/// Tries on one account, on average, up to which it is a spray: more is brute force on many accounts, and told
/// by their addresses.
const TRIES_PER_ACCOUNT_MAX: u64 = 5;
const PLACES_MAX: usize = 8;
const SAMPLES_MAX: usize = 8;

/// One half of the window.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Half {
    begin: Timestamp,
    tries: u64,
    accounts: Distinct,
    addresses: Distinct,
}

/// What failed at one service.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Window {
    before: Half,
    now: Half,
    places: Vec<Place>,
    users: Vec<Text>,
}

impl Entry for Window {}

/// All services.
#[derive(Debug)]
pub struct Campaigns {
    services: Kept<String, Window>,
}

impl Campaigns {
    pub fn new() -> Self {
        Self { services: Kept::new("campaign", SERVICES_MAX, usize::MAX) }
    }

    /// Observes a refused login from an address.
    pub fn failed(&mut self, event: &LoginEvent, attempts: u64, alarms: &mut Alarms, turn: &mut Turn<'_>) {
        let (Some(user), Some(address)) = (&event.user, event.address) else { return };
        let thresholds = turn.thresholds;
        let service = event.service.as_ref().to_owned();
        if self.services.touch(&service).is_none() {
            self.services.insert(service.clone(), Window::default());
        }
        let Some(window) = self.services.get_mut(&service) else { return };
        window.turn(event.time, thresholds.spray_window / 2);
        window.add(event, attempts, fingerprint(user), fingerprint(&address));
        let key = AlarmKey::new(Rule::Spray, Subject::Service(service));
        let window = &*window;
        count(alarms, key, event, attempts, turn, || {
            let (tries, accounts, addresses) = window.sums(u64::from(thresholds.campaign))?;
            let few = tries <= accounts.saturating_mul(TRIES_PER_ACCOUNT_MAX);
            let enough = u64::from(thresholds.campaign);
            (accounts >= enough && addresses >= enough && few).then(|| Opening {
                severity: Severity::Medium,
                first: if window.before.tries > 0 { window.before.begin } else { window.now.begin },
                count: tries,
                users: window.users.clone(),
                addresses: Vec::new(),
                places: window.places.clone(),
                numbers: json!({
                    "window_seconds": thresholds.spray_window.as_secs(), "threshold": thresholds.campaign,
                    "accounts": accounts, "sources": addresses,
                }),
                words: String::new(),
            })
        });
    }

    pub fn has_changes(&self) -> bool {
        self.services.has_changes()
    }

    pub fn take_changes(&mut self, out: &mut Changes) {
        self.services.take_changes(out);
    }

    pub fn restore(&mut self, row: &str, state: &str) -> Option<bool> {
        self.services.restore(row, state)
    }
}

impl Window {
    /// Begins a new half when this one is over.
    fn turn(&mut self, time: Timestamp, half: std::time::Duration) {
        let age = time.since(self.now.begin);
        if age < half && self.now.tries > 0 {
            return;
        }
        let fresh = Half { begin: time, ..Half::default() };
        let old = std::mem::replace(&mut self.now, fresh);
        self.before = if age < half * 2 { old } else { Half::default() };
        self.places.clear();
        self.users.clear();
    }

    fn add(&mut self, event: &LoginEvent, attempts: u64, user: u64, address: u64) {
        self.now.tries += attempts;
        self.now.accounts.add(user);
        self.now.addresses.add(address);
        if self.places.len() < PLACES_MAX {
            self.places.push(event.place.clone());
        }
        if let Some(user) =
            event.user.as_ref().filter(|user| self.users.len() < SAMPLES_MAX && !self.users.contains(user))
        {
            self.users.push(user.clone());
        }
    }

    /// Tries, accounts and addresses of the whole window; none while they cannot be `enough`.
    fn sums(&self, enough: u64) -> Option<(u64, u64, u64)> {
        let tries = self.now.tries + self.before.tries;
        if tries < enough {
            return None;
        }
        let mut accounts = self.now.accounts.clone();
        accounts.merge(&self.before.accounts);
        if accounts.count() < enough {
            return None;
        }
        let mut addresses = self.now.addresses.clone();
        addresses.merge(&self.before.addresses);
        Some((tries, accounts.count(), addresses.count()))
    }
}
