//! Sessions for all sensors: the login sensor tells what it hears, and every finding that has a process behind it is told
//! whose session that was.
//!
//! What is decided is in [`crate::detect::sessions`]; here are the lock, the rows and the looks at `/proc`. The handle is
//! cheap to clone; the default knows nobody and links nothing.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use picket_protocol::finding::{Finding, Text};
use picket_protocol::time::Timestamp;
use rusqlite::{Connection, OpenFlags};
use uuid::Uuid;

pub(crate) mod look;

use super::SensorError;
use super::logins::names::Names;
use super::logins::{LoginEvent, LoginKind, Source};
use super::processes::{Processes, executable_of, login_of};
use crate::clock;
use crate::detect::sessions::{self, Session};
use crate::ledger::StateWrite;

/// The table of sessions.
pub const SCHEMA: &str =
    "CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;";

/// How often it is looked whether sessions are still there.
const LOOK: Duration = Duration::from_secs(5);
/// A program that logs somebody in has not done so for longer.
const YOUNG: Duration = Duration::from_secs(3_600);

/// Processes that were found to be what a log says, and for how long that holds.
const VERIFIED_MAX: usize = 256;
const VERIFIED: Duration = Duration::from_secs(60);

/// Shared hold on the sessions.
#[derive(Clone, Debug, Default)]
pub struct Sessions(Option<Arc<Mutex<Keeper>>>);

#[derive(Debug)]
struct Keeper {
    sessions: sessions::Sessions,
    names: Names,
    processes: Processes,
    looked: Timestamp,
    /// Processes that logs named and that the kernel knows as what they claim to be.
    verified: VecDeque<(u32, Timestamp)>,
}

impl Sessions {
    /// Reads the rows of the last run and compares them with what runs now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn open(database: &Path, processes: &Processes, now: Timestamp) -> Result<Self, SensorError> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let mut sessions = sessions::Sessions::new(boot.trim());
        sessions.restore(rows(database)?, now);
        let mut names = Names::of_host();
        for mut found in look::look() {
            found.user = found.login_uid.and_then(|uid| names.name(uid, now));
            sessions.found(&found, now, &mut Uuid::now_v7);
        }
        let mut keeper = Keeper {
            sessions,
            names,
            processes: processes.clone(),
            looked: Timestamp::default(),
            verified: VecDeque::new(),
        };
        keeper.look(now);
        Ok(Self(Some(Arc::new(Mutex::new(keeper)))))
    }

    /// An event of a log names only a process: whose session that is is asked of the kernel, and added to the event.
    pub fn complete(&self, event: &mut LoginEvent, now: Timestamp) {
        let of_log = matches!(event.source, Source::Log | Source::Journal) && event.session.is_none();
        let wanted = matches!(
            event.event,
            LoginKind::Success | LoginKind::PrivilegeSuccess | LoginKind::PrivilegeFailure
        );
        if of_log && wanted {
            self.with(|keeper| keeper.ask_kernel(event, now));
        }
    }

    /// Takes up what the login sensor heard, or knows better now.
    pub fn observe(&self, event: &LoginEvent, now: Timestamp) {
        self.with(|keeper| keeper.observe(event, now));
    }

    /// The kernel gave the process `pid` the session `number`.
    pub fn began(&self, pid: u32, login_uid: u32, number: u32, now: Timestamp) {
        self.with(|keeper| keeper.began(pid, login_uid, number, now));
    }

    /// Looks whether sessions are still there, when that is due.
    pub fn tick(&self, now: Timestamp) {
        self.with(|keeper| {
            if now < keeper.looked || now.since(keeper.looked) >= LOOK {
                keeper.look(now);
            }
        });
    }

    /// How long until [`Sessions::tick`] has something to do; none while nobody is logged in.
    pub fn due_in(&self, now: Timestamp) -> Option<Duration> {
        self.with(|keeper| {
            let living = keeper.sessions.living() > 0;
            living.then(|| {
                if now < keeper.looked { LOOK } else { LOOK.saturating_sub(now.since(keeper.looked)) }
            })
        })
        .flatten()
    }

    /// Whether there is something for [`Sessions::writes`].
    pub fn has_changes(&self) -> bool {
        self.with(|keeper| keeper.sessions.has_changes()).unwrap_or_default()
    }

    /// What changed, to be written with the findings.
    pub fn writes(&self) -> Option<StateWrite> {
        let changes =
            self.with(|keeper| keeper.sessions.take_changes()).filter(|changes| !changes.is_empty())?;
        let rows: Vec<(String, Option<String>)> = changes
            .into_iter()
            .map(|(id, session)| {
                (id.to_string(), session.and_then(|session| serde_json::to_string(&session).ok()))
            })
            .collect();
        Some(Box::new(move |transaction| {
            let mut put = transaction.prepare_cached(
                "INSERT INTO sessions (id, state) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET state = excluded.state",
            )?;
            let mut remove = transaction.prepare_cached("DELETE FROM sessions WHERE id = ?1")?;
            for (id, state) in &rows {
                match state {
                    Some(state) => put.execute((id, state))?,
                    None => remove.execute([id])?,
                };
            }
            Ok(())
        }))
    }

    /// Names the session in a finding whose evidence has a process.
    pub fn link(&self, finding: &mut Finding) {
        self.with(|keeper| {
            let now = clock::now();
            let actor = finding.evidence.get("actor").or_else(|| finding.evidence.get("process"));
            let number =
                actor.and_then(|actor| actor.get("audit_session")).and_then(serde_json::Value::as_u64);
            keeper.learn_number(number.and_then(|number| u32::try_from(number).ok()), now);
            let Keeper { sessions, names, .. } = keeper;
            let names = std::cell::RefCell::new(names);
            sessions::link(finding, sessions, |uid| names.borrow_mut().name(uid, now));
        });
    }

    /// The name with which the user `uid` logged in to the session `number`.
    pub fn user_of(&self, number: u32, uid: u32) -> Option<Text> {
        self.with(|keeper| {
            let session = keeper.sessions.numbered(number)?;
            session.user.clone().filter(|_| session.login_uid == Some(uid))
        })
        .flatten()
    }

    /// All, the newest last.
    pub fn list(&self) -> Vec<Session> {
        self.with(|keeper| keeper.sessions.all()).unwrap_or_default()
    }

    /// How many last.
    pub fn living(&self) -> usize {
        self.with(|keeper| keeper.sessions.living()).unwrap_or_default()
    }

    fn with<T>(&self, act: impl FnOnce(&mut Keeper) -> T) -> Option<T> {
        let keeper = self.0.as_ref()?;
        Some(act(&mut keeper.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// The service that the process `pid` belongs to, by the program that it runs now.
pub fn service_of(pid: u32) -> Option<String> {
    look::service(&executable_of(pid)?)
}

impl Keeper {
    fn observe(&mut self, event: &LoginEvent, now: Timestamp) {
        let verified = event.source == Source::Audit
            || event.pid.is_some_and(|pid| self.verified.iter().any(|(known, _)| *known == pid));
        self.learn_number(event.session, now);
        self.sessions.observe(event, verified, &mut Uuid::now_v7);
        if event.event == LoginKind::Success && event.session.is_none() {
            // The kernel's number comes a moment later: it is looked for soon.
            self.looked =
                self.looked.min(Timestamp::from_nanos(now.nanos().saturating_sub(nanos(LOOK - SOON))));
        }
    }

    /// Who logs in has no number yet when the log tells of it. What is done in a session that is not known by its number
    /// may be of one that has got it since: whoever becomes root at once must not be missed.
    fn learn_number(&mut self, number: Option<u32>, now: Timestamp) {
        let unknown = number.is_some_and(|number| self.sessions.numbered(number).is_none());
        if unknown && self.sessions.leaders().iter().any(|(_, _, number)| number.is_none()) {
            self.look(now);
        }
    }

    /// The session of the process that an event names, where that process is what it would have to be.
    fn ask_kernel(&mut self, event: &mut LoginEvent, now: Timestamp) {
        let Some(pid) = event.pid else { return };
        self.processes.catch_up();
        let Some(process) = self.processes.get(pid, clock::since_boot()) else { return };
        let program = look::service(&process.program.facts().executable);
        let second = Duration::from_secs(1);
        let young = process.started <= event.time.plus(second) && event.time.since(process.started) <= YOUNG;
        if program.as_deref() == Some(&*event.service) && young {
            event.session = process.users.session;
            event.login_uid = process.users.login;
            self.verified.retain(|(known, since)| *known != pid && now.since(*since) <= VERIFIED);
            self.verified.push_back((pid, now));
            if self.verified.len() > VERIFIED_MAX {
                self.verified.pop_front();
            }
        }
    }

    fn began(&mut self, pid: u32, login_uid: u32, number: u32, now: Timestamp) {
        let mut found = login_of(pid)
            .filter(|login| login.session == number)
            .map(|login| look::of_login(&login))
            .unwrap_or_default();
        found.audit_session = Some(number);
        found.login_uid = Some(login_uid);
        found.leader = Some(pid);
        found.user = self.names.name(login_uid, now);
        // It began to run before somebody logged in by it.
        found.since = Some(now);
        self.sessions.found(&found, now, &mut Uuid::now_v7);
    }

    fn look(&mut self, now: Timestamp) {
        self.looked = now;
        for (id, pid, number) in self.sessions.leaders() {
            if !look::is_there(pid, number) {
                self.sessions.lost(id, now);
                continue;
            }
            if number.is_none()
                && let Some(login) = login_of(pid)
            {
                let mut found = look::of_login(&login);
                found.user = self.names.name(login.login_uid, now);
                self.sessions.numbered_now(id, &found);
            }
        }
    }
}

/// After a login of which the number is not known.
const SOON: Duration = Duration::from_millis(300);

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn rows(database: &Path) -> Result<Vec<Session>, SensorError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let mut statement = connection.prepare("SELECT state FROM sessions")?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut sessions = Vec::new();
    for row in rows {
        match serde_json::from_str(&row?) {
            Ok(session) => sessions.push(session),
            Err(error) => tracing::warn!(%error, "the row of a session cannot be read and is left out"),
        }
    }
    Ok(sessions)
}
