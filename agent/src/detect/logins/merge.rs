//! One act that several sources report is told once.
//!
//! A failed login is in the audit stream after 9 ms, in PAM's line of the log at about the same time, and in sshd's own
//! line after PAM's delay of a second or two; each source counts for itself. Here the reports of one act meet: they
//! say the same of service, user and address (for su and sudo also of the process), within [`GRACE`] of one another by
//! the sources' own clocks. The first report is handed on at once as a new act. What comes later adds what the first
//! did not know (port, method, key, session) and the source's name.
//!
//! Of each source and reporter the first report belongs to the first act, the second to the second, and so on: any
//! order in which reports of N acts arrive gives N acts.
//!
//! - A report without a name (`check pass; user unknown`) waits [`NAMELESS`] for one with a name from the same process.
//! - While the journal runs, which knows its senders, a line of the text log that it repeats is no act by itself: any
//!   local user can write such a line. It waits [`UNCONFIRMED`] for another source to say the same, and is counted in
//!   [`Tally::unconfirmed`] when none does.
//!
//! Pure. Limits: [`IDENTITIES_MAX`] identities (the longest untouched goes first) with [`OPEN_MAX`] open acts each, and
//! [`WAITING_MAX`] reports that wait (beyond, the oldest is let go as if its time were over).

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;

use super::table::Table;
use crate::sense::logins::{LoginEvent, LoginKind, Reporter, Source};

/// Reports of one act are this close to one another. PAM delays sshd's line by up to 3 s, a busy syslog some more.
pub const GRACE: Duration = Duration::from_secs(15);
/// How long a report without a name waits for one with a name: about what PAM delays.
pub const NAMELESS: Duration = Duration::from_secs(4);
/// How long a line of the text log waits for the journal to say the same.
pub const UNCONFIRMED: Duration = Duration::from_secs(10);
/// Identities (service, user, address) of which acts are open: about 500 bytes each.
pub const IDENTITIES_MAX: usize = 4_096;
/// Open acts of one identity; of a faster one the oldest are closed early.
pub const OPEN_MAX: usize = 64;
/// Reports that wait.
pub const WAITING_MAX: usize = 512;

/// What is to be done about a report.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// So many acts that nobody reported before; [`LoginEvent::repeats`] says how many.
    New(Box<LoginEvent>),
    /// More about an act that was handed on as `told`.
    More {
        /// As it was handed on.
        told: Box<LoginEvent>,
        /// All that is known of it now.
        event: Box<LoginEvent>,
    },
}

/// An act that is over: no report of it is expected any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The service.
    pub service: Cow<'static, str>,
    /// What it was.
    pub kind: LoginKind,
    /// Who reported it.
    pub sources: Vec<Source>,
    /// Somebody reported an attempt, not only that a name was given.
    pub attempted: bool,
    /// By a key.
    pub by_key: bool,
    /// Not only a line of a text log that any local user can write.
    pub confirmed: bool,
}

/// What became of reports, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Reports that told of an act which another had told of.
    pub merged: u64,
    /// Lines of the text log that the journal did not confirm.
    pub unconfirmed: u64,
    /// Acts closed early for want of room.
    pub evicted: u64,
}

/// What makes two reports be about one and the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    service: Cow<'static, str>,
    class: Class,
    user: Option<Text>,
    address: Option<IpAddr>,
    pid: Option<u32>,
}

/// Kinds that are one to all sources: whether a user may log in, only some of them know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Class {
    Attempt,
    Success,
    Logout,
    PrivilegeSuccess,
    PrivilegeFailure,
    Account(LoginKind),
}

impl Identity {
    /// None for events that only one source tells of.
    fn of(event: &LoginEvent) -> Option<Self> {
        let class = match event.event {
            LoginKind::Failure | LoginKind::InvalidUser => Class::Attempt,
            LoginKind::Success => Class::Success,
            LoginKind::Logout => Class::Logout,
            LoginKind::PrivilegeSuccess => Class::PrivilegeSuccess,
            LoginKind::PrivilegeFailure => Class::PrivilegeFailure,
            kind if kind.is_account_change() => Class::Account(kind),
            _ => return None,
        };
        let by_process = matches!(class, Class::PrivilegeSuccess | Class::Account(_));
        if event.ambiguous || (by_process && event.pid.is_none()) {
            return None;
        }
        Some(Self {
            service: event.service.clone(),
            class,
            // Some know an account by its number only.
            user: event.user.clone().filter(|_| !by_process),
            // The end of a session is told without the address by some.
            address: event.address.filter(|_| class != Class::Logout),
            pid: event.pid.filter(|_| by_process),
        })
    }
}

#[derive(Debug)]
struct Act {
    /// By the first source's clock.
    time: Timestamp,
    /// When it was first heard of.
    heard: Timestamp,
    reported: Vec<(Source, Reporter)>,
    told: Box<LoginEvent>,
    known: Box<LoginEvent>,
}

#[derive(Debug)]
struct Waiting {
    until: Timestamp,
    identity: Identity,
    nameless: bool,
    event: Box<LoginEvent>,
}

/// See the module.
#[derive(Debug)]
pub struct Merge {
    acts: Table<Identity, VecDeque<Act>>,
    /// The identity of the newest attempt of each process.
    processes: Table<u32, Identity>,
    waiting: VecDeque<Waiting>,
    /// Acts whose time is over, until they are asked for.
    closed: Vec<Closed>,
    newest: Timestamp,
    due: Option<Timestamp>,
    /// Whether the text log only confirms what others say.
    confirms: bool,
    /// Whether there is only one source, so that nothing can meet.
    alone: bool,
    /// Counts.
    pub tally: Tally,
}

impl Default for Merge {
    fn default() -> Self {
        Self {
            acts: Table::new(IDENTITIES_MAX),
            processes: Table::new(IDENTITIES_MAX),
            waiting: VecDeque::new(),
            closed: Vec::new(),
            newest: Timestamp::default(),
            due: None,
            confirms: false,
            alone: true,
            tally: Tally::default(),
        }
    }
}

impl Merge {
    /// Says how many sources there are, and whether the journal, whose lines the text logs repeat, is among them. One
    /// source alone is handed on as it is.
    pub fn sources(&mut self, count: usize, journal: bool) {
        self.alone = count <= 1;
        self.confirms = journal;
    }

    /// Takes one report. `repeated_log` says that it is of a text log whose lines the journal has as well.
    pub fn report(&mut self, event: LoginEvent, repeated_log: bool, now: Timestamp) -> Vec<Step> {
        if self.alone {
            return vec![Step::New(Box::new(event))];
        }
        // Clients ask for the methods by trying none: no attempt at anything.
        let asked = event.method.as_ref().is_some_and(|method| method.text == "none");
        let identity = Identity::of(&event).filter(|_| !asked);
        let identity = identity.map(|identity| self.with_address(identity, &event));
        let unconfirmed = repeated_log && self.confirms;
        let Some(identity) = identity else {
            return if unconfirmed { Vec::new() } else { vec![Step::New(Box::new(event))] };
        };
        let nameless = event.user.is_none() && identity.class == Class::Attempt;
        if nameless && event.pid.is_none() {
            return vec![Step::New(Box::new(event))];
        }
        if nameless {
            return match self.named_by_process(&event) {
                Some(identity) => self.attach(&identity, event, now),
                None => self.wait(identity, true, event, now),
            };
        }
        if unconfirmed && !self.is_open(&identity, &event) {
            return self.wait(identity, false, event, now);
        }
        let mut steps = self.attach(&identity, event, now);
        steps.extend(self.release(&identity, now));
        steps
    }

    /// Lets go of what waited long enough, and closes acts whose time is over.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Step> {
        if now < self.newest {
            // A clock that was set back must not keep anything waiting for as long as it was set back.
            self.waiting.iter_mut().for_each(|waiting| waiting.until = waiting.until.min(now));
            self.acts.values_mut().flatten().for_each(|act| act.heard = act.heard.min(now));
            self.due = self.due.map(|due| due.min(now));
        }
        self.newest = now;
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        let mut steps = Vec::new();
        let (over, still): (Vec<Waiting>, Vec<Waiting>) =
            self.waiting.drain(..).partition(|waiting| waiting.until <= now);
        self.waiting = still.into();
        for waiting in over {
            steps.extend(self.give_up(waiting, now));
        }
        self.close_over(now);
        let next = self.waiting.iter().map(|waiting| waiting.until).min();
        if let Some(next) = next {
            self.due_at(next);
        }
        steps
    }

    /// How long until [`Merge::tick`] has something to do.
    pub fn due_in(&self, now: Timestamp) -> Option<Duration> {
        self.due.map(|due| due.since(now))
    }

    /// Acts that are over since the last call, for whoever watches over the sources.
    pub fn take_closed(&mut self) -> Vec<Closed> {
        std::mem::take(&mut self.closed)
    }

    fn due_at(&mut self, time: Timestamp) {
        self.due = Some(self.due.map_or(time, |due| due.min(time)));
    }

    /// Records may have the peer's name instead of his address: then the login that others told of with an address is meant.
    fn with_address(&self, identity: Identity, event: &LoginEvent) -> Identity {
        let nameless_peer = event.source.keeps_records() && identity.class == Class::Success;
        if !nameless_peer || identity.address.is_some() {
            return identity;
        }
        let same = |other: &Identity| {
            (&other.service, other.class, &other.user) == (&identity.service, identity.class, &identity.user)
        };
        let known = self.acts.keys().into_iter().find(|other| same(other) && self.is_open(other, event));
        known.unwrap_or(identity)
    }

    /// The identity of an open attempt of the same process.
    fn named_by_process(&self, event: &LoginEvent) -> Option<Identity> {
        let identity = self.processes.get(&event.pid?)?;
        let open = self.acts.get(identity)?.iter().any(|act| near(act.time, event.time));
        (open && identity.service == event.service).then(|| identity.clone())
    }

    fn is_open(&self, identity: &Identity, event: &LoginEvent) -> bool {
        let from = (event.source, event.reporter);
        let fits = |act: &Act| near(act.time, event.time) && !act.reported.contains(&from);
        self.acts.get(identity).is_some_and(|acts| acts.iter().any(fits))
    }

    fn wait(&mut self, identity: Identity, nameless: bool, event: LoginEvent, now: Timestamp) -> Vec<Step> {
        let until = now.plus(if nameless { NAMELESS } else { UNCONFIRMED });
        self.due_at(until);
        self.waiting.push_back(Waiting { until, identity, nameless, event: Box::new(event) });
        if self.waiting.len() <= WAITING_MAX {
            return Vec::new();
        }
        self.tally.evicted += 1;
        let oldest = self.waiting.pop_front();
        oldest.map(|waiting| self.give_up(waiting, now)).unwrap_or_default()
    }

    /// Nobody else came.
    fn give_up(&mut self, waiting: Waiting, now: Timestamp) -> Vec<Step> {
        let Waiting { identity, nameless, event, .. } = waiting;
        if nameless {
            let identity = self.named_by_process(&event).unwrap_or(identity);
            return self.attach(&identity, *event, now);
        }
        if !self.confirms {
            // The journal has stopped meanwhile.
            return self.attach(&identity, *event, now);
        }
        self.tally.unconfirmed += 1;
        self.closed.push(Closed {
            service: event.service.clone(),
            kind: event.event,
            sources: vec![event.source],
            attempted: event.reporter != Reporter::Notice,
            by_key: by_key(&event),
            confirmed: false,
        });
        Vec::new()
    }

    /// What waited for this act.
    fn release(&mut self, identity: &Identity, now: Timestamp) -> Vec<Step> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let process =
            self.acts.get(identity).and_then(|acts| Some((acts.back()?.known.pid?, acts.back()?.time)));
        let mut steps = Vec::new();
        let mut rest = VecDeque::with_capacity(self.waiting.len());
        for waiting in std::mem::take(&mut self.waiting) {
            let of_process = waiting.nameless
                && waiting.identity.service == identity.service
                && identity.class == Class::Attempt
                && process.is_some_and(|(pid, time)| {
                    waiting.event.pid == Some(pid) && near(time, waiting.event.time)
                });
            let confirmed =
                !waiting.nameless && waiting.identity == *identity && self.is_open(identity, &waiting.event);
            if of_process || confirmed {
                steps.extend(self.attach(identity, *waiting.event, now));
            } else {
                rest.push_back(waiting);
            }
        }
        self.waiting = rest;
        steps
    }

    /// Adds a report to the acts of its identity.
    fn attach(&mut self, identity: &Identity, event: LoginEvent, now: Timestamp) -> Vec<Step> {
        if self.acts.touch(identity).is_none()
            && let Some((_, old)) = self.acts.insert(identity.clone(), VecDeque::new())
        {
            self.tally.evicted += u64::try_from(old.len()).unwrap_or(0);
        }
        if let Some(pid) = event.pid.filter(|_| identity.class == Class::Attempt) {
            match self.processes.touch(&pid) {
                Some(known) if known == identity => {}
                _ => drop(self.processes.insert(pid, identity.clone())),
            }
        }
        self.due_at(now.plus(GRACE + GRACE));
        let Some(acts) = self.acts.get_mut(identity) else { return Vec::new() };
        let from = (event.source, event.reporter);
        let mut left = event.repeats.max(1);
        let mut more = None;
        for act in acts.iter_mut().filter(|act| near(act.time, event.time) && !act.reported.contains(&from)) {
            if left == 0 {
                break;
            }
            left -= 1;
            self.tally.merged += 1;
            act.reported.push(from);
            if learn(&mut act.known, &event) {
                more = Some(Step::More { told: act.told.clone(), event: act.known.clone() });
            }
        }
        if left == 0 {
            return more.into_iter().collect();
        }
        let mut first = event;
        // Others may be told first of the next act of this kind: what counts is that it is one.
        first.reporter = Reporter::Service;
        first.repeats = left;
        first.sources = vec![from.0];
        for _ in 0..left.min(u32::try_from(OPEN_MAX).unwrap_or(1)) {
            let told = Box::new(first.clone());
            let act = Act { time: first.time, heard: now, reported: vec![from], known: told.clone(), told };
            acts.push_back(act);
        }
        while acts.len() > OPEN_MAX {
            acts.pop_front();
        }
        more.into_iter().chain([Step::New(Box::new(first))]).collect()
    }

    fn close_over(&mut self, now: Timestamp) {
        let mut next: Option<Timestamp> = None;
        for identity in self.acts.keys() {
            let Some(acts) = self.acts.get_mut(&identity) else { continue };
            while acts.front().is_some_and(|act| now.since(act.heard) >= GRACE + GRACE) {
                let Some(act) = acts.pop_front() else { break };
                let mut sources: Vec<Source> = act.reported.iter().map(|(source, _)| *source).collect();
                sources.sort_unstable();
                sources.dedup();
                self.closed.push(Closed {
                    service: act.told.service.clone(),
                    kind: act.told.event,
                    sources,
                    attempted: act.reported.iter().any(|(_, reporter)| *reporter != Reporter::Notice),
                    by_key: by_key(&act.known),
                    confirmed: true,
                });
            }
            match acts.front() {
                Some(act) => {
                    let over = act.heard.plus(GRACE + GRACE);
                    next = Some(next.map_or(over, |next| next.min(over)));
                }
                None => drop(self.acts.remove(&identity)),
            }
        }
        if let Some(next) = next {
            self.due_at(next);
        }
    }
}

fn by_key(event: &LoginEvent) -> bool {
    event.method.as_ref().is_some_and(|method| method.text.starts_with("publickey"))
}

fn near(one: Timestamp, other: Timestamp) -> bool {
    one.since(other) <= GRACE && other.since(one) <= GRACE
}

/// Adds to `known` what another report of the same act says; whether that was anything.
fn learn(known: &mut LoginEvent, other: &LoginEvent) -> bool {
    let before = known.clone();
    let services_own = other.reporter == Reporter::Service;
    let by_number = known.user.as_ref().is_some_and(|user| user.text.contains('#'));
    fill(&mut known.user, &other.user, by_number);
    fill(&mut known.pid, &other.pid, false);
    fill(&mut known.port, &other.port, false);
    fill(&mut known.address, &other.address, false);
    fill(&mut known.method, &other.method, services_own);
    fill(&mut known.key, &other.key, services_own);
    fill(&mut known.tty, &other.tty, services_own);
    fill(&mut known.target, &other.target, services_own);
    fill(&mut known.command, &other.command, services_own);
    fill(&mut known.reason, &other.reason, services_own);
    fill(&mut known.session, &other.session, false);
    fill(&mut known.login_uid, &other.login_uid, false);
    // A journal entry's sender is the service itself, checked.
    fill(&mut known.sender, &other.sender, other.source == Source::Journal);
    if !known.sources.contains(&other.source) {
        known.sources.push(other.source);
    }
    *known != before
}

fn fill<T: Clone>(known: &mut Option<T>, other: &Option<T>, better: bool) {
    if other.is_some() && (better || known.is_none()) {
        known.clone_from(other);
    }
}

#[cfg(test)]
mod tests;
