//! The running agent of a host that is not enrolled, and a join string that waits ([`crate::uplink::pending`]): it is tried, with
//! the pauses of [`crate::uplink::backoff`], until the host is enrolled, the collector refuses it for good, or somebody takes it
//! away or gives another one.
//!
//! A thread of its own, which there is only while something waits. The network part runs in an uplink process and its sandbox, as
//! `agent enroll` has it. Of failures in a row the first is logged, and each that says something else.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use picket_protocol::finding::printable;
use picket_protocol::time::Timestamp;

use super::Identity;
use crate::clock;
use crate::config::UplinkConfig;
use crate::layout::Layout;
use crate::sys::Stop;
use crate::uplink::backoff::{Backoff, random};
use crate::uplink::joining::{self, JoiningError, Prospect, Request};
use crate::uplink::pending::{self, JoinReport, Pending, Stamp};

/// How often it is looked meanwhile whether what waits is still the same.
const LOOK: Duration = Duration::from_secs(1);

/// What the thread has come to.
#[derive(Clone, Debug)]
struct Told {
    last_try: Timestamp,
    reason: String,
    next_try: Option<Timestamp>,
}

/// How a join string that waits fares; shared with those who show it.
#[derive(Clone, Debug, Default)]
pub struct JoinStatus(Arc<Mutex<Option<Told>>>);

impl JoinStatus {
    /// As the files say, and the thread.
    pub fn report(&self, layout: &Layout) -> Option<JoinReport> {
        let report = pending::look(layout)?;
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(match told.filter(|_| report.waits) {
            Some(Told { last_try, reason, next_try }) => {
                JoinReport { last_try: Some(last_try), reason, next_try, ..report }
            }
            None => report,
        })
    }

    fn tell(&self, told: Option<Told>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }
}

/// The thread, while there is one.
pub struct Joining {
    layout: Layout,
    uplink: UplinkConfig,
    status: JoinStatus,
    stop: Stop,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Joining {
    /// Nothing is tried yet. An attempt ends when `stop` is set.
    pub fn new(layout: &Layout, uplink: &UplinkConfig, identity: &Identity, stop: &Stop) -> Self {
        let (layout, uplink) = (layout.clone(), uplink.clone());
        Self { layout, uplink, status: identity.join_status(), stop: stop.clone(), thread: None }
    }

    /// For a host that is not enrolled: sees to it that what waits is tried.
    pub fn look(&mut self) {
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        self.join();
        if pending::stamp(&self.layout).is_none() {
            return;
        }
        let attempts = Attempts {
            layout: self.layout.clone(),
            uplink: self.uplink.clone(),
            status: self.status.clone(),
            stop: self.stop.clone(),
            backoff: Backoff::new(self.uplink.backoff_max, 0),
            complaint: String::new(),
        };
        match std::thread::Builder::new().name("joining".to_owned()).spawn(move || attempts.run()) {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => tracing::error!(%error, "the join string that waits is not tried"),
        }
    }

    /// Waits for the thread, which ends when the stop signal is set.
    pub fn join(&mut self) {
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that enrols panicked");
        }
    }
}

/// What the thread holds.
struct Attempts {
    layout: Layout,
    uplink: UplinkConfig,
    status: JoinStatus,
    stop: Stop,
    backoff: Backoff,
    /// Logged last.
    complaint: String,
}

impl Attempts {
    fn run(mut self) {
        while let Some(stamp) = pending::stamp(&self.layout).filter(|_| !self.stop.is_set()) {
            let Some(pause) = self.attempt(stamp) else { break };
            let end = clock::since_boot() + pause;
            while pending::stamp(&self.layout) == Some(stamp) {
                let left = end.saturating_sub(clock::since_boot());
                if left.is_zero() || self.stop.wait(left.min(LOOK)) {
                    break;
                }
            }
            if pending::stamp(&self.layout) != Some(stamp) {
                self.backoff.reset();
            }
        }
        self.status.tell(None);
    }

    /// Tries once; gives how long to wait for the next attempt, none when there is to be none.
    fn attempt(&mut self, stamp: Stamp) -> Option<Duration> {
        let pending = match Pending::load(&self.layout) {
            Ok(pending) => pending?,
            Err(error) => {
                self.give_up("", &error.to_string());
                return None;
            }
        };
        let wanted = || !self.stop.is_set() && pending::stamp(&self.layout) == Some(stamp);
        let enrolled = joining::enrol(&Request {
            layout: &self.layout,
            uplink: &self.uplink,
            join: &pending.join,
            hostname: joining::hostname(pending.note.hostname.as_deref()),
            force: false,
            program: Path::new("/proc/self/exe"),
            wanted: Some(&wanted),
        });
        let error = enrolled.err()?;
        match (&error, error.prospect()) {
            (JoiningError::AlreadyEnrolled { .. }, _) => None,
            // Whoever gave another one, or the agent that stops, goes first.
            (JoiningError::Unwanted, _) => Some(Duration::ZERO),
            (JoiningError::Busy(_), _) => Some(LOOK),
            (_, Prospect::Never) => {
                self.give_up(&pending.join.address, &error.to_string());
                None
            }
            (_, Prospect::Later(Some(asked))) => {
                let pause = self.backoff.asked(asked, random());
                Some(self.complain(&error, pause))
            }
            (_, Prospect::Later(None) | Prospect::Here) => {
                let pause = self.backoff.failed(random());
                Some(self.complain(&error, pause))
            }
        }
    }

    fn complain(&mut self, error: &JoiningError, pause: Duration) -> Duration {
        let (now, reason) = (clock::now(), printable(&error.to_string()).into_owned());
        if self.complaint != reason {
            tracing::warn!(reason, "the host is not enrolled yet: the join string waits");
            self.complaint.clone_from(&reason);
        }
        self.status.tell(Some(Told { last_try: now, reason, next_try: Some(now.plus(pause)) }));
        pause
    }

    /// It will never be taken.
    fn give_up(&self, address: &str, reason: &str) {
        let reason = printable(reason);
        tracing::error!(
            %reason,
            "the host is not enrolled, and the join string is given up; agent enroll takes another one"
        );
        if let Err(error) = pending::refuse(&self.layout, address, &reason, clock::now()) {
            tracing::error!(%error, "the join string that was given up cannot be removed");
        }
    }
}
