//! Attacks on web servers, by their logs: one alarm an address for injections, for traversals and for scans.
//!
//! What was refused (answer 4xx) is low: every public server sees it daily. What was answered, or made the server fail, is
//! medium; a file outside of what is served that was answered is high. A scan is a tool that says so, or many
//! different paths asked for in vain, more than were there.
//!
//! Requests lead to no findings of their own.

use std::net::IpAddr;

use picket_protocol::finding::Severity;
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::alarm::{Alarms, Opening, Turn};
use super::apart;
use super::distinct::Distinct;
use super::guess::FORGET_EVERY;
use super::kept::{Changes, Entry, Kept};
use super::print::Secret;
use super::rule::{AlarmKey, Rule, Subject};
use super::{Thresholds, words::word};
use crate::detect::web::{Attack, judge, scanner};
use crate::sense::logins::{LoginEvent, Place};

/// Addresses whose requests in vain are counted.
const CLIENTS_MAX: usize = 1_024;
const PLACES_MAX: usize = 8;

/// What one address asked for in vain.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Client {
    begin: Timestamp,
    touched: Timestamp,
    paths: Distinct,
    missed: u64,
    found: u64,
    places: Vec<Place>,
}

impl Entry for Client {}

/// All addresses.
#[derive(Debug)]
pub struct Requests {
    clients: Kept<IpAddr, Client>,
}

impl Requests {
    pub fn new() -> Self {
        Self { clients: Kept::weak("web", CLIENTS_MAX) }
    }

    /// Observes a request.
    pub fn asked(&mut self, event: &LoginEvent, alarms: &mut Alarms, turn: &mut Turn<'_>) {
        let Some(request) = &event.request else { return };
        let subject = match event.address {
            Some(address) => Subject::Address(address),
            None => Subject::Service(event.service.as_ref().to_owned()),
        };
        if let Some(judgement) = judge(&request.text) {
            let (rule, what) = match judgement.attack {
                Attack::Injection => (Rule::WebInjection, "tries to inject code"),
                Attack::Traversal => (Rule::WebTraversal, "tries to read files that are not served"),
            };
            let answered = event.status.is_some_and(|status| (200..300).contains(&status));
            let failed = event.status.is_some_and(|status| status >= 500);
            let severity = match (judgement.attack, answered, failed) {
                (Attack::Traversal, true, _) => Severity::High,
                (_, true, _) | (_, _, true) => Severity::Medium,
                _ => Severity::Low,
            };
            let answer = match event.status {
                Some(status) if answered => format!(", and was answered {status}"),
                Some(status) => format!("; the answer was {status}"),
                None => String::new(),
            };
            let who = event.address.map_or_else(|| "Somebody".to_owned(), |address| address.to_string());
            let words = format!("{who} {what} ({}): {}{answer}", judgement.traits.join(", "), word(request));
            let numbers = json!({
                "traits": judgement.traits, "score": judgement.score, "encoded_layers": judgement.layers,
                "request": request, "status": event.status,
            });
            let opening = Opening::once(severity, event, words, numbers);
            alarms.open(AlarmKey::new(rule, subject.clone()), event, opening, turn);
        }
        if let Some(address) = event.address {
            self.scanned(address, subject, event, alarms, turn);
        }
    }

    fn scanned(
        &mut self,
        address: IpAddr,
        subject: Subject,
        event: &LoginEvent,
        alarms: &mut Alarms,
        turn: &mut Turn<'_>,
    ) {
        let (secret, from) = (turn.secret, turn.prints.address);
        if alarms.grow(Rule::WebScan.print(&secret, Subject::address_print(&secret, from)), event, 1, turn) {
            return;
        }
        let key = AlarmKey::new(Rule::WebScan, subject);
        let tool = event.reason.as_ref().and_then(|agent| scanner(&agent.text));
        if let Some(tool) = tool {
            let words = format!("{address} looks for holes with {tool}");
            let numbers = json!({ "tool": tool, "user_agent": event.reason });
            alarms.open(key, event, Opening::once(Severity::Low, event, words, numbers), turn);
            return;
        }
        let missed = event.status.is_some_and(|status| matches!(status, 400 | 403 | 404 | 405 | 410 | 501));
        if !missed {
            // What is there is counted beside, and is no reason to remember anybody.
            self.clients.peek_mut(from).into_iter().for_each(|client| client.found += 1);
            return;
        }
        let (window, enough) = (turn.thresholds.window, u64::from(turn.thresholds.web_scan));
        let Some(client) = self.clients.entry(from, || address) else { return };
        if apart(event.time, client.begin) > window {
            *client = Client { begin: event.time, ..Client::default() };
        }
        client.touched = turn.now;
        client.missed += 1;
        let path =
            event.request.as_ref().map_or("", |request| request.text.split(['?', ';']).next().unwrap_or(""));
        client.paths.add(secret.bytes(path.as_bytes()));
        if client.places.len() >= PLACES_MAX {
            client.places.remove(0);
        }
        client.places.push(event.place.clone());
        if client.paths.count() < enough || client.missed < client.found {
            return;
        }
        let words = format!("{address} looks for what is not there: {} paths in vain", client.paths.count());
        let numbers = json!({
            "paths": client.paths.count(), "in_vain": client.missed, "found": client.found, "threshold": enough,
            "window_seconds": window.as_secs(),
        });
        let opening = Opening {
            first: client.begin,
            count: client.missed,
            places: client.places.clone(),
            ..Opening::once(Severity::Low, event, words, numbers)
        };
        alarms.open(key, event, opening, turn);
    }

    /// Forgets who asked for nothing in vain of late; gives when to come back.
    pub fn tick(&mut self, now: Timestamp, thresholds: &Thresholds) -> Option<Timestamp> {
        let due = self.clients.forget(now, |client| client.touched.plus(thresholds.window));
        due.map(|due| due.max(now.plus(FORGET_EVERY)))
    }

    pub fn set_back(&mut self, now: Timestamp) {
        self.clients.values_mut().for_each(|client| client.touched = client.touched.min(now));
    }

    pub fn has_changes(&self) -> bool {
        self.clients.has_changes()
    }

    pub fn take_changes(&mut self, out: &mut Changes, budget: &mut usize) {
        self.clients.take_changes(out, budget);
    }

    pub fn restore(&mut self, row: &str, state: &str, secret: &Secret) -> Option<bool> {
        self.clients.restore(row, state, secret)
    }
}
