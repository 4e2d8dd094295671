//! What one address tried, and the brute-force finding that it earns.

use std::collections::VecDeque;
use std::net::IpAddr;

use picket_protocol::finding::{Finding, Observed, Text};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::Thresholds;
use super::finding::brute_force;
use super::fold::is_step;
use crate::sense::logins::LoginEvent;

/// Names kept with a brute-force finding.
const USERS_MAX: usize = 8;
/// Attempt times kept for one address, whatever the threshold says.
const ATTEMPTS_MAX: usize = 100;

/// What one address tried.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub recent: VecDeque<Timestamp>,
    pub last_port: Option<u16>,
    pub touched: Timestamp,
    pub users: Vec<Text>,
    pub users_left_out: u64,
    pub alarm: Option<Alarm>,
    /// Whether the database has a row for its alarm.
    pub stored: bool,
}

/// A brute-force finding that is open.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Alarm {
    pub id: Uuid,
    pub first: Timestamp,
    pub last: Timestamp,
    pub count: u64,
    pub raised: u64,
    pub raised_at: Timestamp,
    pub touched: Timestamp,
    pub users: Vec<Text>,
    pub users_left_out: u64,
    pub newest: LoginEvent,
}

impl Source {
    /// Adds attempts.
    pub fn add(&mut self, event: &LoginEvent, attempts: u64, now: Timestamp, thresholds: &Thresholds) {
        let room = usize::try_from(thresholds.attempts).unwrap_or(ATTEMPTS_MAX).clamp(1, ATTEMPTS_MAX);
        for _ in 0..attempts.min(u64::try_from(room).unwrap_or(0)) {
            self.recent.push_back(event.time);
        }
        while self.recent.len() > room {
            self.recent.pop_front();
        }
        if event.port.is_some() {
            self.last_port = event.port;
        }
        self.touched = now;
        if let Some(user) = event.user.as_ref().filter(|user| !self.users.contains(user)) {
            if self.users.len() < USERS_MAX {
                self.users.push(user.clone());
            } else {
                self.users_left_out += 1;
            }
        }
        if let Some(alarm) = &mut self.alarm {
            alarm.count += attempts;
            alarm.last = alarm.last.max(event.time);
            alarm.touched = now;
            alarm.users.clone_from(&self.users);
            alarm.users_left_out = self.users_left_out;
            alarm.newest = event.clone();
        }
    }

    /// Whether there were enough of them within the window that ends at `time`.
    pub fn is_over(&self, time: Timestamp, thresholds: &Thresholds) -> bool {
        let needed = usize::try_from(thresholds.attempts).unwrap_or(ATTEMPTS_MAX).clamp(1, ATTEMPTS_MAX);
        let within = |first: &Timestamp| time.since(*first) <= thresholds.window;
        self.recent.len() >= needed && self.recent.front().is_some_and(within)
    }

    /// The alarm that `event` sets off.
    pub fn new_alarm(&self, event: &LoginEvent, attempts: u64, id: Uuid, now: Timestamp) -> Alarm {
        Alarm {
            id,
            first: self.recent.front().copied().unwrap_or(event.time),
            last: event.time,
            count: u64::try_from(self.recent.len()).unwrap_or(0).max(attempts),
            raised: 0,
            raised_at: now,
            touched: now,
            users: self.users.clone(),
            users_left_out: self.users_left_out,
            newest: event.clone(),
        }
    }

    /// The alarm's finding, when its count has come to a step or is due by the clock.
    pub fn raise_at_step(
        &mut self,
        address: IpAddr,
        thresholds: &Thresholds,
        now: Timestamp,
    ) -> Option<Finding> {
        let alarm = self.alarm.as_ref()?;
        let late = alarm.count > alarm.raised && now.since(alarm.raised_at) >= thresholds.raise_interval;
        if !late && !is_step(alarm.raised, alarm.count) {
            return None;
        }
        self.raise_if_grown(address, thresholds, now)
    }

    /// The alarm's finding, when it grew since it was told last.
    pub fn raise_if_grown(
        &mut self,
        address: IpAddr,
        thresholds: &Thresholds,
        now: Timestamp,
    ) -> Option<Finding> {
        let alarm = self.alarm.as_mut().filter(|alarm| alarm.count > alarm.raised)?;
        alarm.raised = alarm.count;
        alarm.raised_at = now;
        let observed = Observed { first: alarm.first, last: alarm.last, count: alarm.count };
        let window = thresholds.window.as_secs();
        let (users, left_out) = (&alarm.users, alarm.users_left_out);
        Some(brute_force(alarm.id, address, observed, window, users, left_out, &alarm.newest))
    }
}

/// The key of its row in the database.
pub fn source_row(address: IpAddr) -> String {
    format!("source {address}")
}
