//! One user at several places at once: sessions that are open from public networks far apart (another /16, for IPv6
//! another /32), of which the newest is one where this user was not seen on another day. A laptop that moves between two
//! networks leaves sessions behind, but both are usual for it; monitoring comes from one place.
//!
//! A session ends by its logout, or by itself after 12 h: a lost connection may never be told.

use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::finding::{Severity, Text};
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::alarm::{Alarms, Opening, Turn};
use super::apart;
use super::facts::{is_private, is_shell, network};
use super::habit::View;
use super::kept::{Changes, Entry, Kept};
use super::print::{Prints, Secret};
use super::rule::{AlarmKey, Rule, Subject};
use super::words::word;
use crate::sense::logins::LoginEvent;

const USERS_MAX: usize = 512;
/// Open sessions kept of one user.
const SESSIONS_MAX: usize = 16;
const SESSION_AGE_MAX: Duration = Duration::from_secs(12 * 3_600);

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Session {
    address: IpAddr,
    port: Option<u16>,
    pid: Option<u32>,
    session: Option<u32>,
    since: Timestamp,
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Open(Vec<Session>);

impl Entry for Open {}

/// Open sessions of all users.
#[derive(Debug)]
pub struct Concurrent {
    users: Kept<Text, Open>,
}

impl Concurrent {
    pub fn new() -> Self {
        Self { users: Kept::new("open", USERS_MAX) }
    }

    /// Observes a success.
    pub fn succeeded(&mut self, event: &LoginEvent, view: &View, alarms: &mut Alarms, turn: &mut Turn<'_>) {
        let (Some(user), Some(address)) = (&event.user, event.address) else { return };
        if !is_shell(&event.service) || is_private(address) || address.is_loopback() {
            return;
        }
        let Some(Open(sessions)) = self.users.entry(turn.prints.user, || user.clone()) else { return };
        sessions.retain(|session| apart(event.time, session.since) < SESSION_AGE_MAX);
        if sessions.len() >= SESSIONS_MAX {
            sessions.remove(0);
        }
        let (port, pid, session) = (event.port, event.pid, event.session);
        sessions.push(Session { address, port, pid, session, since: event.time });
        let mut networks: Vec<IpAddr> =
            sessions.iter().map(|session| network(session.address, 16, 32)).collect();
        networks.sort_unstable();
        networks.dedup();
        let enough = u64::from(turn.thresholds.concurrent);
        let many = u64::try_from(networks.len()).unwrap_or(0);
        if many < enough || view.familiar {
            return;
        }
        let severity = match (view.learning, many > enough) {
            (true, _) => Severity::Info,
            (false, false) => Severity::Medium,
            (false, true) => Severity::High,
        };
        let words = format!("{} is logged in from {many} networks far apart at once", word(user));
        let numbers = json!({ "networks": networks, "threshold": enough, "learning": view.learning });
        let opening = Opening {
            addresses: sessions.iter().map(|session| session.address).collect(),
            ..Opening::once(severity, event, words, numbers)
        };
        alarms.open(AlarmKey::new(Rule::Concurrent, Subject::User(user.clone())), event, opening, turn);
    }

    /// Observes a logout.
    pub fn ended(&mut self, event: &LoginEvent, prints: &Prints) {
        let Some(Open(sessions)) = self.users.get_mut(prints.user) else { return };
        let is = |session: &Session| {
            let same = |mine: Option<u32>, theirs: Option<u32>| mine.is_some() && mine == theirs;
            let peer =
                event.address == Some(session.address) && event.port.is_some() && event.port == session.port;
            peer || same(session.session, event.session) || same(session.pid, event.pid)
        };
        if let Some(at) = sessions.iter().position(is) {
            sessions.remove(at);
        }
        if sessions.is_empty() {
            self.users.remove(prints.user);
        }
    }

    pub fn has_changes(&self) -> bool {
        self.users.has_changes()
    }

    pub fn take_changes(&mut self, out: &mut Changes, budget: &mut usize) {
        self.users.take_changes(out, budget);
    }

    pub fn restore(&mut self, row: &str, state: &str, secret: &Secret) -> Option<bool> {
        self.users.restore(row, state, secret)
    }
}
