//! Ends of the agent that nobody was entitled to bring about: it was killed, it crashed, or somebody other than the service manager asked it
//! to stop. Each is a finding, `agent.stopped` (high).
//!
//! Entitled to ask is who started the agent or keeps it: the first process of its PID namespace (systemd, and so `systemctl` and the scripts of
//! packages), its parent (runit, supervisord, a shell in the foreground), its terminal, and whoever runs the container, from outside. The kernel
//! says who it was. An agent that was asked by somebody else tells so while it stops; the next start completes the finding. Of an end
//! without a word the next start tells, and until then the collector's `collector.silent`. A host that went down is neither; but an agent that was dead before
//! its host was shut down in good order ([`super::shutdown`]) was ended by something else. The request is durable before the agent begins to stop, so that
//! one that takes too long and is killed was asked all the same.
//!
//! An agent that is started and ends over and over must not bury what else is found: within an hour [`ALONE_MAX`] ends are findings of their own, those
//! beyond share one that grows, told whenever their number has doubled and once an hour. One after which the host was unprotected for longer than
//! [`LONG`] is always told. The record `started` tells of each.

use std::time::Duration;

use picket_protocol::finding::{Entity, Finding, Observed, Severity, printable};
use picket_protocol::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::{Value, json};
use uuid::Uuid;

use super::lifecycle::LastRun;
use crate::ledger::StateWrite;
use crate::sense::processes::Actor;
use crate::sys::{Caught, Sender};

/// Ends within an hour that are findings of their own.
pub const ALONE_MAX: usize = 5;
/// Who was without protection for longer hears of it, however often that happens.
pub const LONG: Duration = Duration::from_secs(300);
/// Ends of the last hour that are remembered. Agents that are restarted as fast as it goes reach it; then they are not all counted.
const REMEMBERED_MAX: usize = 256;
const HOUR: Duration = Duration::from_secs(3_600);
/// Longest program and title of who asked, in characters.
const WORDS_CHARS_MAX: usize = 120;
/// Under which name all of it is in `core_fact`.
const KEY: &str = "ends";

/// Who asked the agent to stop.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    signal: &'static str,
    sender: Sender,
    parent: u32,
    actor: Option<Actor>,
}

impl Request {
    /// The request that a signal is, by a process as it was then, if that is known; `parent` is the agent's own.
    pub fn new(caught: &Caught, parent: u32, actor: Option<Actor>) -> Self {
        let signal = if caught.signal == libc::SIGINT { "SIGINT" } else { "SIGTERM" };
        Self { signal, sender: caught.sender, parent, actor }
    }

    /// The signal's name.
    pub fn signal(&self) -> &'static str {
        self.signal
    }

    /// Whether who asked may.
    pub fn is_entitled(&self) -> bool {
        match self.sender {
            Sender::Process { pid, .. } => pid == 1 || pid == self.parent,
            Sender::Outside | Sender::Kernel => true,
            Sender::Unproved => false,
        }
    }

    /// Who it was, in words: `pid 4711 (bash, uid 0, login uid 1000)`.
    pub fn who(&self) -> String {
        let Sender::Process { pid, uid } = self.sender else {
            return match self.sender {
                Sender::Outside => "whoever runs this container".to_owned(),
                Sender::Kernel => "its terminal".to_owned(),
                _ => "a process that hides its number (sigqueue)".to_owned(),
            };
        };
        let actor = self.actor.as_ref();
        let program = actor.and_then(|actor| actor.executable.as_ref()).map(|path| name_of(&path.text));
        let program = program.unwrap_or_else(|| "gone already".to_owned());
        let login = actor.and_then(|actor| actor.login_uid);
        let login = login.map(|uid| format!(", login uid {uid}")).unwrap_or_default();
        format!("pid {pid} ({program}, uid {uid}{login})")
    }

    /// The same as data.
    pub fn evidence(&self) -> Value {
        let (pid, uid) = match self.sender {
            Sender::Process { pid, uid } => (Some(pid), Some(uid)),
            _ => (None, None),
        };
        json!({ "signal": self.signal, "by": self.who(), "pid": pid, "uid": uid, "actor": self.actor })
    }

    fn entity(&self) -> Option<Entity> {
        let Sender::Process { pid, .. } = self.sender else { return None };
        let executable = self.actor.as_ref().and_then(|actor| actor.executable.clone());
        Some(Entity::Process { pid, executable })
    }
}

/// The last part of a path, fit to be shown.
fn name_of(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    printable(&name.chars().take(WORDS_CHARS_MAX).collect::<String>()).into_owned()
}

/// Under which id an end is told, and with how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Telling {
    id: Uuid,
    first: Timestamp,
    count: u64,
}

/// The finding that ends beyond the first share.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Growing {
    telling: Telling,
    /// With how many and when it was told last; 0 for never.
    told: u64,
    told_at: Timestamp,
}

/// A request to stop, until the next start.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Asked {
    /// By somebody who may: there is nothing to tell.
    #[serde(default)]
    entitled: bool,
    telling: Option<Telling>,
    at: Timestamp,
    title: String,
    evidence: Value,
    entities: Vec<Entity>,
}

/// What is remembered of such ends, across runs.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Ends {
    /// Those of the last hour, the newest last.
    recent: Vec<Timestamp>,
    growing: Option<Growing>,
    asked: Option<Asked>,
    /// The boot in which the agent runs now.
    #[serde(skip)]
    boot: String,
}

/// What the start knows of the run before.
#[derive(Clone, Debug, PartialEq)]
pub struct Before {
    /// How it ended.
    pub last: LastRun,
    /// When it sealed its last record; none when there is none.
    pub alive: Option<Timestamp>,
    /// When the host was shut down in good order, where the agent had been silent for too long by then.
    pub shut_down: Option<Timestamp>,
    /// How many processes the kernel has killed since its last heartbeat for want of memory; none when that is not known.
    pub oom_kills: Option<u64>,
}

impl Before {
    /// Whether it had sealed nothing for so long by `then` that it was dead: two heartbeats. An agent that ends because its host is shut down
    /// has sealed seconds before, or at least that it was asked.
    pub fn was_silent_until(&self, then: Timestamp, heartbeat: Duration) -> bool {
        self.alive.is_some_and(|alive| then > alive && then.since(alive) > heartbeat.saturating_mul(2))
    }
}

impl Ends {
    /// Reads what is remembered, for an agent that runs in `boot`. What cannot be understood is nothing: a start does not fail for it.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn read(database: &Connection, boot: &str) -> rusqlite::Result<Self> {
        let sql = "SELECT value FROM core_fact WHERE key = ?1";
        let text: Option<String> = database.query_row(sql, [KEY], |row| row.get(0)).optional()?;
        let known: Self = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        Ok(Self { boot: boot.to_owned(), ..known })
    }

    /// Keeps it.
    pub fn write(&self) -> StateWrite {
        let text = serde_json::to_string(self).unwrap_or_default();
        Box::new(move |transaction| {
            let sql = "INSERT OR REPLACE INTO core_fact (key, value) VALUES (?1, ?2)";
            transaction.execute(sql, [KEY, &text]).map(|_| ())
        })
    }

    /// How the run before ended: one that was asked to stop and did not finish was not killed out of nothing.
    pub fn qualify(&self, last: LastRun) -> LastRun {
        match last {
            LastRun::Unclean | LastRun::HostDown if self.asked.is_some() => LastRun::Unfinished,
            last => last,
        }
    }

    /// The agent is asked to stop by `request` at `now`: the finding, where who asked was not entitled. `id` is for it.
    pub fn asked(&mut self, request: &Request, now: Timestamp, id: Uuid) -> Option<Finding> {
        if request.is_entitled() {
            self.asked = Some(Asked {
                entitled: true,
                telling: None,
                at: now,
                title: String::new(),
                evidence: request.evidence(),
                entities: Vec::new(),
            });
            return None;
        }
        let telling = self.note(now, Duration::ZERO, id);
        let title = format!("The agent was asked to stop by {}, not by the service manager", request.who());
        let mut evidence = request.evidence();
        add(
            &mut evidence,
            json!({ "how": "asked", "last_alive": now, "boot_id": self.boot, "ends_last_hour": self.recent.len() }),
        );
        let entities = request.entity().into_iter().collect();
        let asked = Asked { entitled: false, telling, at: now, title, evidence, entities };
        let finding = telling.map(|telling| finding(telling, now, asked.title.clone(), &asked));
        self.asked = Some(asked);
        finding
    }

    /// The agent starts at `now`: the finding about how it ended before, where that was without a request. `id` is for it.
    pub fn started(&mut self, before: &Before, now: Timestamp, id: Uuid) -> Option<Finding> {
        let asked = self.asked.take();
        match (before.last, asked) {
            (LastRun::Clean | LastRun::Unfinished, Some(asked)) if !asked.entitled => {
                self.completed(asked, now, id)
            }
            (LastRun::Unclean, _) => self.killed(before, now, id),
            (LastRun::HostDown, _) => self.dead_before(before, now, id),
            _ => None,
        }
    }

    /// The host was shut down in good order, and the agent had not been there to be stopped.
    fn dead_before(&mut self, before: &Before, now: Timestamp, id: Uuid) -> Option<Finding> {
        let (alive, shut_down) = before.alive.zip(before.shut_down)?;
        let gap = shut_down.since(alive);
        let telling = self.note(now, gap, id)?;
        let title = format!(
            "The agent was dead when this host was shut down; the host had been unprotected for at most {}",
            seconds(gap)
        );
        let evidence = json!({
            "how": "dead-before-shutdown",
            "last_alive": alive,
            "shut_down": shut_down,
            "running_again": now,
            "unprotected_seconds_max": gap.as_secs_f64().ceil(),
            "boot_id": self.boot,
            "ends_last_hour": self.recent.len(),
        });
        let entities = Vec::new();
        let asked =
            Asked { entitled: false, telling: None, at: alive, title: String::new(), evidence, entities };
        Some(finding(telling, now, title, &asked))
    }

    fn killed(&mut self, before: &Before, now: Timestamp, id: Uuid) -> Option<Finding> {
        let gap = before.alive.map(|alive| now.since(alive));
        let telling = self.note(now, gap.unwrap_or_default(), id)?;
        let mut title = "The agent was killed or crashed".to_owned();
        if let Some(gap) = gap {
            title.push_str(&format!("; this host was unprotected for at most {}", seconds(gap)));
        }
        if let Some(count) = before.oom_kills.filter(|count| *count > 0) {
            title.push_str(&format!("; meanwhile the kernel ended {count} process(es) for want of memory"));
        }
        let evidence = json!({
            "how": "killed",
            "last_alive": before.alive,
            "oom_kills": before.oom_kills,
            "boot_id": self.boot,
            "ends_last_hour": self.recent.len(),
        });
        let (at, entities) = (before.alive.unwrap_or(now), Vec::new());
        let asked = Asked { entitled: false, telling: None, at, title, evidence, entities };
        Some(again(telling, now, asked))
    }

    fn completed(&mut self, asked: Asked, now: Timestamp, id: Uuid) -> Option<Finding> {
        let gap = now.since(asked.at);
        let late = || (gap > LONG).then_some(Telling { id, first: asked.at, count: 1 });
        let telling = asked.telling.or_else(late)?;
        let title = format!("{}; it runs again after {}", asked.title, seconds(gap));
        Some(again(telling, now, Asked { title, ..asked }))
    }

    /// Counts an end; whether and as what it is told.
    fn note(&mut self, now: Timestamp, gap: Duration, id: Uuid) -> Option<Telling> {
        // A clock that was ahead is no hour of grace.
        self.recent.retain(|end| *end <= now && now.since(*end) < HOUR);
        self.recent.push(now);
        let surplus = self.recent.len().saturating_sub(REMEMBERED_MAX);
        self.recent.drain(..surplus);
        let alone = Telling { id, first: now, count: 1 };
        if self.recent.len() <= ALONE_MAX {
            self.growing = None;
            return Some(alone);
        }
        if gap > LONG {
            return Some(alone);
        }
        let new = Growing { telling: Telling { count: 0, ..alone }, told: 0, told_at: now };
        let growing = self.growing.get_or_insert(new);
        growing.telling.count = growing.telling.count.saturating_add(1);
        let aged = growing.told_at > now || now.since(growing.told_at) >= HOUR;
        let due = aged || growing.telling.count >= growing.told.saturating_mul(2).max(1);
        due.then(|| {
            (growing.told, growing.told_at) = (growing.telling.count, now);
            growing.telling
        })
    }
}

/// The finding of an agent that runs again at `now`.
fn again(telling: Telling, now: Timestamp, mut asked: Asked) -> Finding {
    let gap = now.since(asked.at).as_secs_f64();
    add(&mut asked.evidence, json!({ "running_again": now, "unprotected_seconds_max": gap.ceil() }));
    let title = std::mem::take(&mut asked.title);
    finding(telling, now, title, &asked)
}

fn finding(telling: Telling, now: Timestamp, title: String, asked: &Asked) -> Finding {
    let title = match telling.count {
        0 | 1 => title,
        count => format!("{title} ({count} times)"),
    };
    Finding {
        id: telling.id,
        rule: "agent.stopped".to_owned(),
        severity: Severity::High,
        observed: Observed { first: telling.first.min(now), last: now, count: telling.count },
        title,
        entities: asked.entities.clone(),
        evidence: asked.evidence.clone(),
        attack: vec!["T1562.001".to_owned(), "T1489".to_owned()],
        explained_by: None,
        drill: false,
    }
}

fn add(evidence: &mut Value, more: Value) {
    if let (Some(evidence), Value::Object(more)) = (evidence.as_object_mut(), more) {
        evidence.extend(more);
    }
}

/// Whole seconds, not fewer than there were.
fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0)))
}

#[cfg(test)]
mod tests;
