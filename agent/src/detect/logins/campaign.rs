//! A spray without a centre: many addresses try many accounts, each a few times, so that none of them is
//! conspicuous by itself. Told by how many different addresses and accounts failed at one service.
//!
//! The window moves in halves: tries count for at least half of it and at most all of it.

use picket_protocol::finding::{Severity, Text};
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::alarm::{Alarms, Opening, Turn};
use super::apart;
use super::distinct::Distinct;
use super::guess::About;
use super::kept::{Changes, Entry, Kept};
use super::print::{Prints, Secret};
use super::rule::{Rule, Subject};
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
        Self { services: Kept::new("campaign", SERVICES_MAX) }
    }

    /// Observes a refused login from an address.
    pub fn failed(&mut self, event: &LoginEvent, attempts: u64, alarms: &mut Alarms, turn: &mut Turn<'_>) {
        if event.user.is_none() || event.address.is_none() {
            return;
        }
        let (thresholds, prints) = (turn.thresholds, turn.prints);
        let service = || event.service.as_ref().to_owned();
        let Some(window) = self.services.entry(prints.service, service) else { return };
        let turned = window.turn(event.time, thresholds.spray_window / 2);
        let grew = window.add(event, attempts, &prints);
        let key = About {
            print: Subject::service_print(&turn.secret, prints.service),
            subject: || Subject::Service(service()),
        };
        let window = &*window;
        key.count(Rule::Spray, alarms, event, attempts, turn, || {
            // Whoever was seen before makes it no more of a spray.
            if !(turned || grew) {
                return None;
            }
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

    pub fn take_changes(&mut self, out: &mut Changes, budget: &mut usize) {
        self.services.take_changes(out, budget);
    }

    pub fn restore(&mut self, row: &str, state: &str, secret: &Secret) -> Option<bool> {
        self.services.restore(row, state, secret)
    }
}

impl Window {
    /// Begins a new half when this one is over; whether it was.
    fn turn(&mut self, time: Timestamp, half: std::time::Duration) -> bool {
        let age = apart(time, self.now.begin);
        if age < half && self.now.tries > 0 {
            return false;
        }
        let fresh = Half { begin: time, ..Half::default() };
        let old = std::mem::replace(&mut self.now, fresh);
        self.before = if age < half * 2 { old } else { Half::default() };
        self.places.clear();
        self.users.clear();
        true
    }

    /// Whether there may be more accounts or addresses than before.
    fn add(&mut self, event: &LoginEvent, attempts: u64, prints: &Prints) -> bool {
        self.now.tries += attempts;
        let account = self.now.accounts.add(prints.user);
        let address = self.now.addresses.add(prints.address);
        if self.places.len() < PLACES_MAX {
            self.places.push(event.place.clone());
        }
        if let Some(user) =
            event.user.as_ref().filter(|user| self.users.len() < SAMPLES_MAX && !self.users.contains(user))
        {
            self.users.push(user.clone());
        }
        account || address
    }

    /// Tries, accounts and addresses of the whole window; none while they cannot be `enough`.
    fn sums(&self, enough: u64) -> Option<(u64, u64, u64)> {
        let tries = self.now.tries + self.before.tries;
        if tries < enough {
            return None;
        }
        let at_most = |now: &Distinct, before: &Distinct| now.count_max().saturating_add(before.count_max());
        if at_most(&self.now.accounts, &self.before.accounts) < enough
            || at_most(&self.now.addresses, &self.before.addresses) < enough
        {
            return None;
        }
        let all = |now: &Distinct, before: &Distinct| {
            let mut all = now.clone();
            all.merge(before);
            all.count()
        };
        let accounts = all(&self.now.accounts, &self.before.accounts);
        Some((tries, accounts, all(&self.now.addresses, &self.before.addresses)))
    }
}
