//! Who is logged in, how they came, and what they became: one [`Session`] for each login.
//!
//! A session is known by the number that the kernel gave it (audit's `ses`, which every process of it carries), else by
//! the process that logged in and when that began. What is known grows by what the sources tell, in any order: `Accepted
//! publickey …` of the log by the process, the kernel's `LOGIN` by process and number, PAM's messages by the number.
//! Two that turn out to be one are joined.
//!
//! Sessions survive the agent: each is a row, written with the findings ([`Sessions::take_changes`]), and compared with
//! what runs when the agent starts. A session whose login nobody saw is known by what `/proc`, utmp and logind tell.
//!
//! Pure. Limits: [`SESSIONS_MAX`] sessions (those that ended longest ago go first, then the oldest),
//! [`PRIVILEGES_MAX`] changes of privilege each, the first and the newest; what was left out is counted.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use crate::sense::logins::{LoginEvent, LoginKind, Reporter};

mod link;
#[cfg(test)]
mod tests;

pub use link::{SessionEvidence, link};

/// Sessions that are known, live and recent: about 1 KiB each.
pub const SESSIONS_MAX: usize = 2_048;
/// Changes of privilege kept of one session.
pub const PRIVILEGES_MAX: usize = 32;
/// Reports of one login are this close to one another.
const GRACE: Duration = Duration::from_secs(60);

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// By logging out.
    Logout,
    /// Its first process is gone, and nobody told of a log-out.
    Lost,
    /// The host was started anew.
    Reboot,
}

/// `su` or `sudo` within a session.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Privilege {
    /// When.
    pub time: Timestamp,
    /// `su`, `sudo`.
    pub service: String,
    /// Its process: whatever is below it acts with these rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Text>,
    /// Whose rights were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Text>,
    /// What was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Text>,
    /// Whether it was allowed.
    pub allowed: bool,
}

/// One login.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Session {
    /// Of this session and no other, ever.
    pub id: Uuid,
    /// The boot in which it was, by the kernel's id.
    pub boot: String,
    /// The kernel's number (`ses`); unique within a boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_session: Option<u32>,
    /// Who logged in, whoever he became since (`auid`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
    /// The same by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Text>,
    /// `sshd`, `login`, `cron` …; empty while not known.
    #[serde(default)]
    pub service: String,
    /// `publickey`, `password` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Text>,
    /// Type and fingerprint of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Text>,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The peer's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<Text>,
    /// The process that logged in, as the kernel knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<u32>,
    /// The process that a log names: that of another namespace may have the same number here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<u32>,
    /// The container that it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// When it began, as far as is known.
    pub since: Timestamp,
    /// The login itself was not seen: the session was found running.
    #[serde(default)]
    pub found: bool,
    /// When it ended; none while it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// How.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// What its user became.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub privileges: Vec<Privilege>,
    /// Changes of privilege that are not kept.
    #[serde(default)]
    pub privileges_left_out: u64,
}

/// What is found of a session by looking at the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The kernel's number.
    pub audit_session: Option<u32>,
    /// Who logged in.
    pub login_uid: Option<u32>,
    /// The same by name.
    pub user: Option<Text>,
    /// The first process.
    pub leader: Option<u32>,
    /// The service, by the first process's program, or as logind has it.
    pub service: Option<String>,
    /// From where.
    pub address: Option<IpAddr>,
    /// The peer's port.
    pub port: Option<u16>,
    /// The terminal.
    pub tty: Option<Text>,
    /// The container.
    pub container: Option<String>,
    /// When it began.
    pub since: Option<Timestamp>,
}

/// All that are known.
#[derive(Debug)]
pub struct Sessions {
    boot: String,
    sessions: BTreeMap<Uuid, Session>,
    by_number: HashMap<u32, Uuid>,
    by_leader: HashMap<u32, Uuid>,
    /// By what logs name, to find what they tell of the same session.
    by_claim: HashMap<u32, Uuid>,
    changed: BTreeMap<Uuid, ()>,
    /// Sessions forgotten for want of room.
    pub evicted: u64,
}

impl Sessions {
    /// None yet, in the boot `boot`.
    pub fn new(boot: &str) -> Self {
        Self {
            boot: boot.to_owned(),
            sessions: BTreeMap::new(),
            by_number: HashMap::new(),
            by_leader: HashMap::new(),
            by_claim: HashMap::new(),
            changed: BTreeMap::new(),
            evicted: 0,
        }
    }

    /// Takes rows of an earlier process of the agent. Sessions of an earlier boot that had not ended have.
    pub fn restore(&mut self, rows: impl IntoIterator<Item = Session>, now: Timestamp) {
        for mut session in rows {
            if session.boot != self.boot && session.ended.is_none() {
                (session.ended, session.end) = (Some(now), Some(End::Reboot));
                self.changed.insert(session.id, ());
            }
            self.put(session);
        }
        self.make_room();
    }

    /// All, the newest last.
    pub fn all(&self) -> Vec<Session> {
        let mut all: Vec<Session> = self.sessions.values().cloned().collect();
        all.sort_by_key(|session| session.since);
        all
    }

    /// How many last.
    pub fn living(&self) -> usize {
        self.sessions.values().filter(|session| session.ended.is_none()).count()
    }

    /// The session with the kernel's number `audit_session`, of this boot.
    pub fn numbered(&self, audit_session: u32) -> Option<&Session> {
        self.sessions.get(self.by_number.get(&audit_session)?)
    }

    /// The session that the process `pid` began, of this boot.
    pub fn of_leader(&self, pid: u32) -> Option<&Session> {
        self.sessions.get(self.by_leader.get(&pid)?)
    }

    /// Sessions that last, of which the first process is known: process, number.
    pub fn leaders(&self) -> Vec<(Uuid, u32, Option<u32>)> {
        let living = self.sessions.values().filter(|session| session.ended.is_none());
        living.filter_map(|session| Some((session.id, session.leader?, session.audit_session))).collect()
    }

    /// Takes up what a source tells; `verified` says that the kernel knows the process that it names as the service's.
    pub fn observe(&mut self, event: &LoginEvent, verified: bool, new_id: &mut dyn FnMut() -> Uuid) {
        match event.event {
            LoginKind::Success if !event.ambiguous => self.logged_in(event, verified, new_id),
            LoginKind::Logout => self.logged_out(event),
            LoginKind::PrivilegeSuccess | LoginKind::PrivilegeFailure => self.privilege(event),
            _ => {}
        }
    }

    /// The kernel gave the process `leader` a session, or it was found to have one.
    pub fn found(&mut self, found: &Found, now: Timestamp, new_id: &mut dyn FnMut() -> Uuid) {
        let numbered = found.audit_session.and_then(|number| self.by_number.get(&number)).copied();
        let time = found.since.unwrap_or(now);
        let led = found.leader.and_then(|leader| self.led_by(leader, None, time));
        let id = self.one_of(numbered, led).unwrap_or_else(|| self.begin(new_id(), time, true));
        self.change(id, |session| {
            fill(&mut session.audit_session, found.audit_session);
            fill(&mut session.login_uid, found.login_uid);
            fill(&mut session.user, found.user.clone());
            fill(&mut session.leader, found.leader);
            fill(&mut session.address, found.address);
            fill(&mut session.port, found.port);
            fill(&mut session.tty, found.tty.clone());
            fill(&mut session.container, found.container.clone());
            if let Some(service) = found.service.as_ref().filter(|_| session.service.is_empty()) {
                session.service.clone_from(service);
            }
        });
    }

    /// The session `id` is known by the kernel's number now.
    pub fn numbered_now(&mut self, id: Uuid, found: &Found) {
        let numbered = found.audit_session.and_then(|number| self.by_number.get(&number)).copied();
        let Some(id) = self.one_of(numbered, Some(id)) else { return };
        self.change(id, |session| {
            fill(&mut session.audit_session, found.audit_session);
            fill(&mut session.login_uid, found.login_uid);
            fill(&mut session.container, found.container.clone());
        });
    }

    /// The session `id` has no process any more that began it.
    pub fn lost(&mut self, id: Uuid, now: Timestamp) {
        self.end(id, now, End::Lost);
    }

    fn logged_in(&mut self, event: &LoginEvent, verified: bool, new_id: &mut dyn FnMut() -> Uuid) {
        let numbered = event.session.and_then(|number| self.by_number.get(&number)).copied();
        let led = event.pid.and_then(|pid| self.led_by(pid, event.user.as_ref(), event.time));
        let id = match self.one_of(numbered, led) {
            Some(id) => id,
            // Some sources name a user, a peer and a terminal only: no session can be known by that.
            None if event.session.is_none() && event.pid.is_none() => return,
            None => self.begin(new_id(), event.time, false),
        };
        self.change(id, |session| {
            session.found = false;
            session.since = session.since.min(event.time);
            session.service = event.service.clone().into_owned();
            fill(&mut session.audit_session, event.session);
            fill(&mut session.login_uid, event.login_uid);
            fill(&mut session.user, event.user.clone());
            fill(&mut session.method, event.method.clone());
            fill(&mut session.key, event.key.clone());
            fill(&mut session.address, event.address);
            fill(&mut session.port, event.port);
            let terminal = event.tty.clone().filter(|tty| tty.text != "ssh");
            fill(&mut session.tty, terminal);
            fill(&mut session.leader, event.pid.filter(|_| verified));
            fill(&mut session.claimed, event.pid);
        });
    }

    fn logged_out(&mut self, event: &LoginEvent) {
        let numbered = event.session.and_then(|number| self.by_number.get(&number)).copied();
        let led = || {
            let session = self.claimed_by(event.pid?)?;
            let same = session.service == event.service && session.since <= event.time.plus(GRACE);
            same.then_some(session.id)
        };
        if let Some(id) = numbered.or_else(led) {
            self.end(id, event.time, End::Logout);
        }
    }

    fn privilege(&mut self, event: &LoginEvent) {
        let numbered = || event.session.map(|number| self.by_number.get(&number).copied());
        let Some(id) = numbered().unwrap_or_else(|| self.at_terminal(event)) else { return };
        let told = Privilege {
            time: event.time,
            service: event.service.clone().into_owned(),
            pid: event.pid,
            user: event.user.clone(),
            target: event.target.clone(),
            command: event.command.clone(),
            allowed: event.event == LoginKind::PrivilegeSuccess,
        };
        let better = event.reporter == Reporter::Service;
        self.change(id, |session| session.add(told, better));
    }

    /// The session of which a text log tells, that names neither process nor number: the only one that its user had then at
    /// that terminal, or at one that is not known. Where there are two it is nobody's.
    fn at_terminal(&self, event: &LoginEvent) -> Option<Uuid> {
        let terminal = event.tty.as_ref().map(terminal)?;
        let lasted = |session: &&Session| {
            let ended = session.ended.is_some_and(|ended| ended < event.time);
            session.boot == self.boot && !ended && session.since <= event.time.plus(GRACE)
        };
        let of_user = self.sessions.values().filter(lasted).filter(|session| {
            session.user.is_some() && session.user == event.user && !session.is_of_program()
        });
        let (there, unknown): (Vec<_>, Vec<_>) = of_user
            .filter(|session| session.tty.as_ref().is_none_or(|tty| self::terminal(tty) == terminal))
            .partition(|session| session.tty.is_some());
        let mut candidates = if there.is_empty() { unknown } else { there }.into_iter();
        let session = candidates.next()?;
        candidates.next().is_none().then_some(session.id)
    }

    /// An open session that the process `pid` began at about `time`.
    fn led_by(&self, pid: u32, user: Option<&Text>, time: Timestamp) -> Option<Uuid> {
        let session = self.claimed_by(pid)?;
        let near = session.since <= time.plus(GRACE) && time <= session.since.plus(GRACE);
        let same = user.is_none() || session.user.is_none() || session.user.as_ref() == user;
        (near && same).then_some(session.id)
    }

    fn claimed_by(&self, pid: u32) -> Option<&Session> {
        self.sessions.get(self.by_claim.get(&pid)?)
    }

    /// One session, of two that are the same.
    fn one_of(&mut self, numbered: Option<Uuid>, led: Option<Uuid>) -> Option<Uuid> {
        let (one, other) = match (numbered, led) {
            (Some(one), Some(other)) if one != other => (one, other),
            (one, other) => return one.or(other),
        };
        // Two numbers are two sessions, whoever began them: the process of `su -` in a terminal of cron, say.
        if self.sessions.get(&other).is_some_and(|session| session.audit_session.is_some()) {
            return Some(one);
        }
        let Some(other) = self.remove(other) else { return Some(one) };
        self.change(one, |session| {
            session.since = session.since.min(other.since);
            session.found &= other.found;
            if session.service.is_empty() || !other.found {
                session.service.clone_from(&other.service);
            }
            fill(&mut session.login_uid, other.login_uid);
            fill(&mut session.user, other.user);
            fill(&mut session.method, other.method);
            fill(&mut session.key, other.key);
            fill(&mut session.address, other.address);
            fill(&mut session.port, other.port);
            fill(&mut session.tty, other.tty);
            fill(&mut session.leader, other.leader);
            fill(&mut session.claimed, other.claimed);
        });
        Some(one)
    }

    fn begin(&mut self, id: Uuid, time: Timestamp, found: bool) -> Uuid {
        let session = Session {
            id,
            boot: self.boot.clone(),
            audit_session: None,
            login_uid: None,
            user: None,
            service: String::new(),
            method: None,
            key: None,
            address: None,
            port: None,
            tty: None,
            leader: None,
            claimed: None,
            container: None,
            since: time,
            found,
            ended: None,
            end: None,
            privileges: Vec::new(),
            privileges_left_out: 0,
        };
        self.put(session);
        self.make_room();
        id
    }

    fn end(&mut self, id: Uuid, time: Timestamp, end: End) {
        self.change(id, |session| {
            // Who logs out is gone a moment later: the log-out is the truth.
            if session.ended.is_none() || (session.end == Some(End::Lost) && end == End::Logout) {
                (session.ended, session.end) = (Some(time), Some(end));
            }
        });
    }

    fn change(&mut self, id: Uuid, change: impl FnOnce(&mut Session)) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let before = session.clone();
        change(session);
        if *session == before {
            return;
        }
        self.changed.insert(id, ());
        if let Some(number) = session.audit_session {
            self.by_number.insert(number, id);
        }
        if let Some(leader) = session.leader {
            self.by_leader.insert(leader, id);
            self.by_claim.insert(leader, id);
        }
        if let Some(claimed) = session.claimed {
            self.by_claim.insert(claimed, id);
        }
    }

    fn put(&mut self, session: Session) {
        if session.boot == self.boot {
            if let Some(number) = session.audit_session {
                self.by_number.insert(number, session.id);
            }
            if let Some(leader) = session.leader {
                self.by_leader.insert(leader, session.id);
                self.by_claim.insert(leader, session.id);
            }
            if let Some(claimed) = session.claimed {
                self.by_claim.insert(claimed, session.id);
            }
        }
        self.sessions.insert(session.id, session);
    }

    fn remove(&mut self, id: Uuid) -> Option<Session> {
        let session = self.sessions.remove(&id)?;
        self.changed.insert(id, ());
        if let Some(number) = session.audit_session.filter(|number| self.by_number.get(number) == Some(&id)) {
            self.by_number.remove(&number);
        }
        if let Some(leader) = session.leader.filter(|leader| self.by_leader.get(leader) == Some(&id)) {
            self.by_leader.remove(&leader);
        }
        for pid in [session.leader, session.claimed].into_iter().flatten() {
            if self.by_claim.get(&pid) == Some(&id) {
                self.by_claim.remove(&pid);
            }
        }
        Some(session)
    }

    fn make_room(&mut self) {
        while self.sessions.len() > SESSIONS_MAX {
            // Sessions of programs are many and say little.
            let rank = |session: &Session| {
                let order = session.ended.unwrap_or(session.since);
                (session.ended.is_none(), !session.is_of_program(), order)
            };
            let Some(id) = self.sessions.values().min_by_key(|session| rank(session)).map(|s| s.id) else {
                break;
            };
            self.evicted += 1;
            self.remove(id);
        }
    }

    /// Sessions that changed since the last call, to be written; one that is gone has none.
    pub fn take_changes(&mut self) -> Vec<(Uuid, Option<Session>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_keys().map(|id| (id, self.sessions.get(&id).cloned())).collect()
    }

    /// Whether there are any.
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }
}

impl Session {
    /// Nobody logged in: a job or a service manager has it.
    pub fn is_of_program(&self) -> bool {
        matches!(self.service.as_str(), "cron" | "crond" | "atd" | "anacron" | "systemd")
    }

    fn add(&mut self, told: Privilege, better: bool) {
        let near = |one: Timestamp, other: Timestamp| one.since(other) <= GRACE && other.since(one) <= GRACE;
        let known = self.privileges.iter_mut().rev().find(|known| {
            let one = match (known.pid, told.pid) {
                (Some(known), Some(told)) => known == told,
                // A text log names no process: what was run tells one from the next.
                (None, None) => false,
                _ => {
                    known.target == told.target
                        && (known.command.is_none()
                            || told.command.is_none()
                            || known.command == told.command)
                }
            };
            one && known.service == told.service
                && known.allowed == told.allowed
                && near(known.time, told.time)
        });
        if let Some(known) = known {
            for (field, news) in [
                (&mut known.user, told.user),
                (&mut known.target, told.target),
                (&mut known.command, told.command),
            ] {
                if news.is_some() && (better || field.is_none()) {
                    *field = news;
                }
            }
            return;
        }
        if self.privileges.len() >= PRIVILEGES_MAX {
            // The first say how it began; of the rest the newest count.
            self.privileges.remove(PRIVILEGES_MAX / 4);
            self.privileges_left_out += 1;
        }
        self.privileges.push(told);
    }
}

/// `pts/0` of `/dev/pts/0`.
fn terminal(tty: &Text) -> &str {
    tty.text.strip_prefix("/dev/").unwrap_or(&tty.text)
}

fn fill<T>(known: &mut Option<T>, news: Option<T>) {
    if known.is_none() {
        *known = news;
    }
}
