//! Like events, folded into one finding that grows.

use std::net::IpAddr;

use picket_protocol::finding::{Finding, Observed, Text};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::finding::{Reports, of_event};
use crate::sense::logins::{LoginEvent, LoginKind, Reporter};

/// What events are like one another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct FoldKey {
    pub kind: LoginKind,
    pub service: String,
    pub user: Option<Text>,
    pub address: Option<IpAddr>,
    pub detail: Vec<Option<Text>>,
}

impl FoldKey {
    /// What `event` is like.
    pub fn of(event: &LoginEvent) -> Self {
        let detail = match event.event {
            LoginKind::Success => vec![event.method.clone(), event.key.clone()],
            LoginKind::PrivilegeSuccess => vec![event.target.clone(), event.command.clone()],
            _ => Vec::new(),
        };
        Self {
            kind: event.event,
            service: event.service.clone().into_owned(),
            user: event.user.clone(),
            address: event.address,
            detail,
        }
    }
}

/// Like events so far.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Fold {
    pub id: Uuid,
    pub first: Timestamp,
    pub last: Timestamp,
    pub reports: Reports,
    pub raised: u64,
    pub raised_at: Timestamp,
    pub touched: Timestamp,
    pub newest: LoginEvent,
    /// Since when the newest is known better than it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enriched: Option<Timestamp>,
    /// Whether the database has a row for it.
    #[serde(skip)]
    pub stored: bool,
}

impl Fold {
    /// A fold for events like `event`, without any yet.
    pub fn new(id: Uuid, event: &LoginEvent, now: Timestamp) -> Self {
        Self {
            id,
            first: event.time,
            last: event.time,
            reports: Reports::default(),
            raised: 0,
            raised_at: now,
            touched: now,
            newest: event.clone(),
            enriched: None,
            stored: false,
        }
    }

    /// Adds one. The finding shows the newest, the service's own lines before all others.
    pub fn add(&mut self, event: &LoginEvent, now: Timestamp) {
        let repeats = u64::from(event.repeats.max(1));
        match event.reporter {
            Reporter::Service => self.reports.service += repeats,
            Reporter::Notice => self.reports.notice += repeats,
            Reporter::Pam => self.reports.pam += repeats,
            Reporter::Audit => self.reports.audit += repeats,
            Reporter::Record => self.reports.record += repeats,
        }
        self.first = self.first.min(event.time);
        self.last = self.last.max(event.time);
        self.touched = now;
        if event.reporter == Reporter::Service || self.newest.reporter != Reporter::Service {
            self.newest = event.clone();
        }
    }

    /// Whether there are attempts that were not told.
    pub fn grew(&self) -> bool {
        self.reports.count() > self.raised
    }

    /// The finding as it stands now.
    pub fn raise(&mut self, now: Timestamp) -> Finding {
        self.raised = self.reports.count();
        self.raised_at = now;
        self.enriched = None;
        let observed = Observed { first: self.first, last: self.last, count: self.raised.max(1) };
        of_event(self.id, &self.newest, observed, self.reports)
    }
}

/// The steps at which a growing count is told.
pub fn is_step(before: u64, after: u64) -> bool {
    if after <= 5 {
        return after > before;
    }
    let mut step = 10u64;
    while step <= after {
        if [1, 2, 5].iter().any(|times| (before + 1..=after).contains(&step.saturating_mul(*times))) {
            return true;
        }
        step = step.saturating_mul(10);
    }
    false
}

/// The key of its row in the database.
pub fn fold_row(key: &FoldKey) -> String {
    format!("fold {}", serde_json::to_string(key).unwrap_or_default())
}
