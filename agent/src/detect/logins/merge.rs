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
//! Acts that are open are rows, written with the findings that they led to: after a crash the rest of their reports still
//! meets them, and nothing is told twice. In a flood some are written late, and the tellers of those may count twice then.
//!
//! Pure. Limits: [`IDENTITIES_MAX`] identities (the longest untouched goes first) with [`OPEN_MAX`] open acts each, and
//! [`WAITING_MAX`] reports that wait (beyond, the oldest is let go as if its time were over).

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::kept::{Changes, Entry, Kept};
use super::print::Secret;
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
/// Rows of open acts that one commit writes, about 2 KiB each: more come in floods only.
const ACT_ROWS: usize = 16;
/// What their keys begin with.
const ROWS: &str = "act";

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
    /// Identities closed early for want of room, and reports that could not wait.
    pub evicted: u64,
}

/// What makes two reports be about one and the same, as a fingerprint: service, kind, user and address, or process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    print: u64,
    /// The same without the address.
    named: u64,
    service: u64,
    class: Class,
}

/// Kinds that are one to all sources: whether a user may log in, only some of them know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    fn of(event: &LoginEvent, secret: &Secret) -> Option<Self> {
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
        let prints = secret.prints(event);
        let who = match event.pid.filter(|_| by_process) {
            // Some know an account by its number only.
            Some(pid) => u64::from(pid),
            // The end of a session is told without the address by some.
            None if class == Class::Logout => prints.user,
            None => secret.both(prints.user, prints.address),
        };
        let what = secret.both(prints.service, class.number());
        let named = secret.both(what, prints.user);
        Some(Self { print: secret.both(what, who), named, service: prints.service, class })
    }
}

impl Class {
    fn number(self) -> u64 {
        match self {
            Self::Attempt => 0,
            Self::Success => 1,
            Self::Logout => 2,
            Self::PrivilegeSuccess => 3,
            Self::PrivilegeFailure => 4,
            Self::Account(kind) => 16 + kind as u64,
        }
    }
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Act {
    /// By the first source's clock.
    time: Timestamp,
    /// When it was first heard of.
    heard: Timestamp,
    reported: Vec<(Source, Reporter)>,
    told: Box<LoginEvent>,
    /// What is known now, where that is more than was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    known: Option<Box<LoginEvent>>,
    /// Another process heard of it: which sources that one read is not known.
    #[serde(default)]
    taken_over: bool,
}

impl Act {
    fn known(&self) -> &LoginEvent {
        self.known.as_ref().unwrap_or(&self.told)
    }

    /// Whether it is known to be of this process.
    fn is_of(&self, pid: Option<u32>) -> bool {
        pid.is_some() && self.known().pid == pid
    }
}

/// The open acts of one identity.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Open {
    print: u64,
    named: u64,
    acts: VecDeque<Act>,
}

impl Entry for Open {
    fn is_worth_a_row(&self) -> bool {
        !self.acts.is_empty()
    }
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
    secret: Secret,
    acts: Kept<u64, Open>,
    /// The identity of the newest attempt of each process.
    processes: Table<Identity>,
    waiting: VecDeque<Waiting>,
    /// Acts whose time is over, until they are asked for.
    closed: Vec<Closed>,
    newest: Timestamp,
    due: Option<Timestamp>,
    /// Whether the text log only confirms what others say.
    confirms: bool,
    /// Whether there is only one source, so that nothing can meet.
    alone: bool,
    /// Rows that could not be read, to be removed.
    damaged: Vec<String>,
    /// Counts.
    pub tally: Tally,
}

impl Merge {
    /// Nothing heard; fingerprints depend on `secret`, which must be that of the rows of an earlier process.
    pub fn new(secret: Secret) -> Self {
        Self {
            secret,
            acts: Kept::weak(ROWS, IDENTITIES_MAX),
            processes: Table::new(IDENTITIES_MAX),
            waiting: VecDeque::new(),
            closed: Vec::new(),
            newest: Timestamp::default(),
            due: None,
            confirms: false,
            alone: true,
            damaged: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Whether nothing can meet: reports need not be brought here at all.
    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// Says how many sources there are, and whether the journal, whose lines the text logs repeat, is among them. One
    /// source alone is handed on as it is.
    pub fn sources(&mut self, count: usize, journal: bool) {
        self.alone = count <= 1;
        self.confirms = journal;
    }

    /// Whether a text log whose lines the journal has as well only confirms what others say.
    pub fn confirms(&self) -> bool {
        self.confirms
    }

    /// Takes one report. `repeated_log` says that it is of a text log whose lines the journal has as well.
    pub fn report(&mut self, event: LoginEvent, repeated_log: bool, now: Timestamp) -> Vec<Step> {
        if self.alone {
            return vec![Step::New(Box::new(event))];
        }
        // Clients ask for the methods by trying none: no attempt at anything.
        let asked = event.method.as_ref().is_some_and(|method| method.text == "none");
        let identity = Identity::of(&event, &self.secret).filter(|_| !asked);
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
                Some(identity) => self.attach(identity, event, now),
                None => self.wait(identity, true, event, now),
            };
        }
        if unconfirmed && !self.is_open(identity, &event) {
            return self.wait(identity, false, event, now);
        }
        let mut steps = self.attach(identity, event, now);
        steps.extend(self.release(identity, now));
        steps
    }

    /// Lets go of what waited long enough, and closes acts whose time is over.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Step> {
        if now < self.newest {
            // A clock that was set back must not keep anything waiting for as long as it was set back.
            self.waiting.iter_mut().for_each(|waiting| waiting.until = waiting.until.min(now));
            self.acts
                .values_mut()
                .flat_map(|open| &mut open.acts)
                .for_each(|act| act.heard = act.heard.min(now));
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
        if !nameless_peer || event.address.is_some() {
            return identity;
        }
        let others = self.acts.values().filter(|open| open.named == identity.named);
        let mut others = others.map(|open| Identity { print: open.print, ..identity });
        others.find(|other| self.is_open(*other, event)).unwrap_or(identity)
    }

    /// The identity of an open attempt of the same process.
    fn named_by_process(&self, event: &LoginEvent) -> Option<Identity> {
        let process = self.processes.find(self.process(event.pid?))?;
        let identity = *self.processes.get(process)?;
        let open = self.acts.get(identity.print)?.acts.iter().any(|act| near(act.time, event.time));
        (open && identity.service == self.secret.prints(event).service).then_some(identity)
    }

    /// The fingerprint of a process.
    fn process(&self, pid: u32) -> u64 {
        self.secret.both(0, u64::from(pid))
    }

    fn is_open(&self, identity: Identity, event: &LoginEvent) -> bool {
        let from = (event.source, event.reporter);
        let fits = |act: &Act| near(act.time, event.time) && !act.reported.contains(&from);
        self.acts.get(identity.print).is_some_and(|open| open.acts.iter().any(fits))
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
            return self.attach(identity, *event, now);
        }
        if !self.confirms {
            // The journal has stopped meanwhile.
            return self.attach(identity, *event, now);
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
    fn release(&mut self, identity: Identity, now: Timestamp) -> Vec<Step> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let process = self
            .acts
            .get(identity.print)
            .and_then(|Open { acts, .. }| Some((acts.back()?.known().pid?, acts.back()?.time)));
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
                !waiting.nameless && waiting.identity == identity && self.is_open(identity, &waiting.event);
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
    fn attach(&mut self, identity: Identity, event: LoginEvent, now: Timestamp) -> Vec<Step> {
        if let Some(pid) = event.pid.filter(|_| identity.class == Class::Attempt) {
            let process = self.process(pid);
            match self.processes.find(process).filter(|at| self.processes.get(*at) == Some(&identity)) {
                Some(at) => self.processes.touch(at),
                None => drop(self.processes.insert(process, identity)),
            }
        }
        self.due_at(now.plus(GRACE + GRACE));
        let print = identity.print;
        let Some(open) = self.acts.entry(print, || print) else { return Vec::new() };
        (open.print, open.named) = (print, identity.named);
        let acts = &mut open.acts;
        let from = (event.source, event.reporter);
        let mut left = event.repeats.max(1);
        let mut more = None;
        // What the same process told comes first: logins of one user at the same time are told apart by it.
        for same in [true, false] {
            let meant = |act: &&mut Act| {
                near(act.time, event.time) && !act.reported.contains(&from) && act.is_of(event.pid) == same
            };
            for act in acts.iter_mut().filter(meant) {
                if left == 0 {
                    break;
                }
                left -= 1;
                self.tally.merged += 1;
                act.reported.push(from);
                let mut known = act.known.take().unwrap_or_else(|| act.told.clone());
                if learn(&mut known, &event) {
                    more = Some(Step::More { told: act.told.clone(), event: known.clone() });
                }
                act.known = Some(known);
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
            acts.push_back(Act {
                time: first.time,
                heard: now,
                reported: vec![from],
                told: Box::new(first.clone()),
                known: None,
                taken_over: false,
            });
        }
        while acts.len() > OPEN_MAX {
            acts.pop_front();
        }
        more.into_iter().chain([Step::New(Box::new(first))]).collect()
    }

    fn close_over(&mut self, now: Timestamp) {
        let mut next: Option<Timestamp> = None;
        for at in self.acts.places() {
            // That an act is over need not be written: its row goes with the next that is.
            let Some(Open { acts, .. }) = self.acts.peek_at(at) else { continue };
            while acts.front().is_some_and(|act| now.since(act.heard) >= GRACE + GRACE) {
                let Some(act) = acts.pop_front() else { break };
                if act.taken_over {
                    continue;
                }
                let mut sources: Vec<Source> = act.reported.iter().map(|(source, _)| *source).collect();
                sources.sort_unstable();
                sources.dedup();
                self.closed.push(Closed {
                    service: act.told.service.clone(),
                    kind: act.told.event,
                    sources,
                    attempted: act.reported.iter().any(|(_, reporter)| *reporter != Reporter::Notice),
                    by_key: by_key(act.known()),
                    confirmed: true,
                });
            }
            match acts.front() {
                Some(act) => {
                    let over = act.heard.plus(GRACE + GRACE);
                    next = Some(next.map_or(over, |next| next.min(over)));
                }
                None => drop(self.acts.remove_at(at)),
            }
        }
        if let Some(next) = next {
            self.due_at(next);
        }
    }

    /// Whether the database should know of what was reported since the last call of [`Merge::take_changes`].
    pub fn has_changes(&self) -> bool {
        self.acts.has_dirty()
    }

    /// Rows to write beside the detector's.
    pub fn take_changes(&mut self, out: &mut Vec<(String, Option<String>)>) {
        let mut changes = Changes::new();
        self.acts.take_changes(&mut changes, &mut { ACT_ROWS });
        out.extend(changes);
        out.extend(std::mem::take(&mut self.damaged).into_iter().map(|row| (row, None)));
    }

    /// Whether a row of the database is one of these.
    pub fn is_row(row: &str) -> bool {
        row.strip_prefix(ROWS).is_some_and(|rest| rest.starts_with(' '))
    }

    /// Takes a row of an earlier process back; none when it is not one of these, false when it cannot be read.
    pub fn restore(&mut self, row: &str, state: &str) -> Option<bool> {
        let read = self.acts.restore(row, state, &self.secret)?;
        if !read {
            self.damaged.push(row.to_owned());
        }
        // What is over is found by the first look.
        self.due = Some(Timestamp::from_nanos(i64::MIN));
        self.acts.values_mut().flat_map(|open| &mut open.acts).for_each(|act| act.taken_over = true);
        Some(read)
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
    // Audit and records do not know whether there is such an account.
    if other.event == LoginKind::InvalidUser && known.event == LoginKind::Failure {
        known.event = LoginKind::InvalidUser;
    }
    fill(&mut known.port, &other.port, false);
    fill(&mut known.address, &other.address, false);
    fill(&mut known.method, &other.method, services_own);
    fill(&mut known.key, &other.key, services_own);
    // What PAM tells audit before there is a terminal.
    let nameless = known.tty.as_ref().is_some_and(|tty| tty.text == "ssh");
    fill(&mut known.tty, &other.tty, services_own || nameless);
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
