//! Logs being wiped: [`LogChange`] in, findings out. Pure.
//!
//! Rules: `log.truncated`, `log.edited`, `log.deleted`, `log.disabled` (something that keeps nothing took its place, or a
//! log that used to grow has fallen silent: [`silence`]; that it is written again is `info`).
//! Each is `high` and says what is known of the lost part: how long the log was, when it was last written to, digests
//! of its parts. No finding is made of a rotation that proves itself: the log is elsewhere, copied or compressed beside
//! it. What `logrotate`, `journald` or a package manager, each at its own place, does without such a proof is told at
//! `low`, with its name. Losses of one kind in one directory within a minute are one finding that grows.

pub mod evidence;
pub mod silence;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::finding::{Entity, Finding, Observed, Severity, Text, printable};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use crate::sense::files::log_rotation::{Successor, family};
use crate::sense::files::logs::{LogChange, Loss, Nature};
use crate::sense::processes::Actor;
use evidence::LogEvidence;

/// Losses within this are one act.
const ACT: Duration = Duration::from_secs(60);
/// A finding that grew is raised again at the latest after this.
const GROW: Duration = Duration::from_secs(5);
/// Acts that are remembered.
const ACTS_MAX: usize = 32;
/// Logs that a finding names.
const LOGS_NAMED_MAX: usize = 50;
/// Characters of a path in a title.
const TITLE_PATH_CHARS_MAX: usize = 120;
/// Hundredths of a history's last lines that are enough: a shell drops the oldest when it writes it anew.
const LINES_ENOUGH: u64 = 50;

/// What programs do to logs as their trade.
const ROTATORS: &[&str] = &["/usr/sbin/logrotate", "/usr/bin/logrotate"];
const JOURNALD: &[&str] =
    &["/usr/lib/systemd/systemd-journald", "/lib/systemd/systemd-journald", "/usr/bin/journalctl"];
/// What package managers and their scripts write anew each time: the newest run is all that these ever tell.
const LAST_RUN_ONLY: &[&str] = &["/var/log/apt/eipp.log.xz", "/var/log/fontconfig.log"];

/// Programs whose trade is to write the system's logs, and the names of what they write.
const LOGGERS: &[&str] = &["rsyslogd", "syslogd", "syslog-ng", "auditd", "metalog", "klogd", "journald"];
const SYSTEM_LOGS: &[&str] = &[
    "syslog",
    "messages",
    "auth.log",
    "secure",
    "kern.log",
    "daemon.log",
    "cron",
    "cron.log",
    "audit.log",
    "wtmp",
    "btmp",
    "sudo.log",
];

/// Why a loss is no alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Excuse {
    /// It proves itself, or is no loss.
    None,
    /// It is what this program does.
    Program(&'static str),
    /// There is none.
    Alarm,
}

/// One act: losses of one kind in one directory.
#[derive(Debug)]
struct Act {
    rule: &'static str,
    directory: PathBuf,
    explained: bool,
    silent: Option<bool>,
    id: Uuid,
    observed: Observed,
    logs: Vec<Text>,
    newest: Box<LogChange>,
    raised: u64,
    raised_at: Timestamp,
    touched: Timestamp,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Logs {
    acts: Vec<Act>,
}

impl Logs {
    /// Observes what a log came to.
    pub fn observe(
        &mut self,
        change: &LogChange,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Option<Finding> {
        let excuse = excuse(change);
        if excuse == Excuse::None {
            return None;
        }
        let explained = excuse != Excuse::Alarm;
        let directory = change.path.parent().unwrap_or(&change.path).to_path_buf();
        let rule = rule(&change.loss);
        self.acts.retain(|act| {
            act.touched <= now && now.since(act.touched) <= ACT || act.raised < act.observed.count
        });
        let silent = over(&change.loss);
        let like = |act: &Act| {
            (act.rule, &act.directory, act.explained, act.silent) == (rule, &directory, explained, silent)
        };
        if let Some(act) = self.acts.iter_mut().find(|act| like(act)) {
            act.add(change, now);
            let due = act.observed.count >= act.raised.saturating_mul(2) || now.since(act.raised_at) >= GROW;
            return due.then(|| act.raise(now));
        }
        if self.acts.len() >= ACTS_MAX {
            self.acts.remove(0);
        }
        let mut act = Act {
            rule,
            directory,
            explained,
            silent,
            id: new_id(),
            observed: Observed { count: 0, ..change.observed },
            logs: Vec::new(),
            newest: Box::new(change.clone()),
            raised: 0,
            raised_at: now,
            touched: now,
        };
        act.add(change, now);
        let finding = act.raise(now);
        self.acts.push(act);
        Some(finding)
    }

    /// Raises again what grew.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Finding> {
        let due = |act: &&mut Act| act.raised < act.observed.count && wait(act, now).is_zero();
        self.acts.iter_mut().filter(due).map(|act| act.raise(now)).collect()
    }

    /// How long until [`Logs::tick`] has something to give.
    pub fn due_in(&self, now: Timestamp) -> Option<Duration> {
        self.acts.iter().filter(|act| act.raised < act.observed.count).map(|act| wait(act, now)).min()
    }
}

fn wait(act: &Act, now: Timestamp) -> Duration {
    if act.raised_at > now { Duration::ZERO } else { GROW.saturating_sub(now.since(act.raised_at)) }
}

impl Act {
    fn add(&mut self, change: &LogChange, now: Timestamp) {
        self.observed.count += 1;
        self.observed.first = self.observed.first.min(change.observed.first);
        self.observed.last = self.observed.last.max(change.observed.last);
        self.touched = now;
        if self.logs.len() < LOGS_NAMED_MAX {
            self.logs.push(text(&change.path));
        }
        *self.newest = change.clone();
    }

    fn raise(&mut self, now: Timestamp) -> Finding {
        (self.raised, self.raised_at) = (self.observed.count, now);
        let change = self.newest.as_ref();
        let program = match excuse(change) {
            Excuse::Program(name) => Some(name.to_owned()),
            _ => None,
        };
        let more = match self.observed.count {
            1 => String::new(),
            count => format!(" ({count} logs in {})", short(&self.directory)),
        };
        let actor = change.actor.as_deref();
        Finding {
            id: self.id,
            rule: self.rule.to_owned(),
            severity: severity(change, program.is_some()),
            observed: self.observed,
            title: format!("{}{}{more}", title(change), by(actor)),
            entities: entities(&self.logs, actor),
            evidence: serde_json::to_value(LogEvidence::new(change, &self.logs)).unwrap_or_default(),
            attack: attack(change).iter().map(|&id| id.to_owned()).collect(),
            explained_by: program,
            drill: false,
        }
    }
}

fn rule(loss: &Loss) -> &'static str {
    match loss {
        Loss::Cut => "log.truncated",
        Loss::Edited => "log.edited",
        Loss::Deleted | Loss::Replaced => "log.deleted",
        Loss::LedAway(..) | Loss::Silent(_) => "log.disabled",
    }
}

/// Of a silence: whether it is over.
fn over(loss: &Loss) -> Option<bool> {
    match loss {
        Loss::Silent(silence) => Some(silence.over),
        _ => None,
    }
}

/// That an application has ended is seen elsewhere; its log is one among many.
fn severity(change: &LogChange, explained: bool) -> Severity {
    match &change.loss {
        _ if explained => Severity::Low,
        Loss::Silent(silence) if silence.over => Severity::Info,
        Loss::Silent(silence) if !is_of_the_system(&change.path, silence) => Severity::Medium,
        _ => Severity::High,
    }
}

/// Whether a logging daemon writes it, or it bears the name of such a log.
fn is_of_the_system(path: &Path, silence: &silence::Silence) -> bool {
    let name = family(path);
    let writer = silence.writer.as_ref().and_then(|writer| writer.program.text.rsplit('/').next());
    writer.is_some_and(|writer| LOGGERS.contains(&writer))
        || SYSTEM_LOGS.iter().any(|known| known.as_bytes() == name.as_slice())
}

/// Whether what happened is how logs end in the ordinary way.
fn excuse(change: &LogChange) -> Excuse {
    let does = |programs: &[&str]| change.actor.as_deref().is_some_and(|actor| is_of(actor, programs));
    if matches!(change.loss, Loss::Silent(_)) {
        return Excuse::Alarm;
    }
    if matches!(change.loss, Loss::LedAway(..)) {
        return if change.successor.is_some() && does(ROTATORS) { Excuse::None } else { Excuse::Alarm };
    }
    // Nothing was lost that was there.
    if change.size_before == Some(0) && change.loss != Loss::Edited {
        return Excuse::None;
    }
    if change.successor.as_ref().is_some_and(|successor| proves(change, successor)) {
        return Excuse::None;
    }
    match (change.nature, &change.loss) {
        (Nature::History, Loss::Cut | Loss::Replaced) if change.lines_kept >= Some(LINES_ENOUGH) => {
            return Excuse::None;
        }
        (Nature::Journal | Nature::Table, Loss::Cut) if change.size_after > Some(0) => return Excuse::None,
        (Nature::Journal, Loss::Deleted | Loss::Cut) if does(JOURNALD) => return Excuse::None,
        (Nature::Table, Loss::Replaced | Loss::Edited) => return Excuse::None,
        // The oldest goes when the others move on.
        (_, Loss::Deleted | Loss::Replaced)
            if is_rotated(&change.path) && (change.rotating || does(ROTATORS)) =>
        {
            return Excuse::None;
        }
        _ => {}
    }
    if change.loss == Loss::Edited {
        return Excuse::Alarm;
    }
    if does(ROTATORS) {
        return Excuse::Program("logrotate");
    }
    let packages = change.actor.as_deref().is_some_and(crate::detect::mass_change::harm::is_package_manager);
    if packages && LAST_RUN_ONLY.iter().any(|path| change.path == Path::new(path)) {
        return Excuse::None;
    }
    if packages && change.loss == Loss::Deleted {
        Excuse::Program("the package manager")
    } else {
        Excuse::Alarm
    }
}

/// A copy or a compressed file explains that a log was cut or is gone, a move that another is in its place.
fn proves(change: &LogChange, successor: &Successor) -> bool {
    match successor {
        Successor::Moved(_) => true,
        Successor::Copied(_) | Successor::Compressed(_) => change.loss != Loss::Edited,
    }
}

/// Whether the name is one that a rotation gives.
fn is_rotated(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes() != family(path).as_slice())
}

fn is_of(actor: &Actor, programs: &[&str]) -> bool {
    let is = |program: &Option<Text>| {
        program.as_ref().is_some_and(|program| programs.contains(&program.text.as_str()))
    };
    !actor.executable_deleted
        && (is(&actor.executable) || actor.parents.iter().any(|parent| is(&parent.executable)))
}

fn title(change: &LogChange) -> String {
    let path = short(&change.path);
    let before = change.size_before.unwrap_or(0);
    match (&change.loss, change.size_after) {
        (Loss::Cut, Some(0)) => format!("{path} was emptied: {before} bytes are lost"),
        (Loss::Cut, Some(after)) if change.nature == Nature::History => {
            format!("{path} lost most of its last lines: it had {before} bytes and has {after}")
        }
        (Loss::Cut, after) => format!("{path} was cut from {before} to {} bytes", after.unwrap_or(0)),
        (Loss::Edited, _) => match change.lost.first() {
            Some(part) => format!("{path} was edited between bytes {} and {}", part.from, part.to),
            None => format!("{path} was edited"),
        },
        (Loss::Replaced, after) => {
            format!("{path} ({before} bytes) was replaced by another file of {} bytes", after.unwrap_or(0))
        }
        (Loss::Deleted, _) => format!("{path} was deleted: {before} bytes are lost"),
        (Loss::LedAway(kind, Some(target)), _) => {
            format!("{path} is a {} now, to {}", kind.noun(), printable(&String::from_utf8_lossy(target)))
        }
        (Loss::LedAway(kind, None), _) => format!("{path} is a {} now and keeps nothing", kind.noun()),
        (Loss::Silent(silence), _) => silent_title(&path, silence),
    }
}

fn silent_title(path: &str, silence: &silence::Silence) -> String {
    let minutes = silence.seconds / 60;
    let for_so_long = match (minutes, silence.seconds) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, _) => format!("{minutes} min"),
    };
    if silence.over {
        return format!("{path} is written again, after {for_so_long} of silence");
    }
    if silence.writer_ended
        && let Some(writer) = &silence.writer
        && let Some(last) = writer.processes.last()
    {
        let program = short(Path::new(writer.program.text.rsplit('/').next().unwrap_or_default()));
        return format!(
            "{path} is not written any more: {program} (process {}), which wrote it, has ended",
            last.pid
        );
    }
    let others = silence.speaking.len();
    format!(
        "{path} has been silent for {for_so_long}, longer than ever known, while {others} other logs grew"
    )
}

fn by(actor: Option<&Actor>) -> String {
    let program = actor.and_then(|actor| Some((actor.executable.as_ref()?, actor.pid)));
    program.map_or_else(String::new, |(program, pid)| {
        format!(
            " by {} (process {pid})",
            short(Path::new(program.text.rsplit('/').next().unwrap_or_default()))
        )
    })
}

fn entities(logs: &[Text], actor: Option<&Actor>) -> Vec<Entity> {
    let process = actor.map(|actor| Entity::Process { pid: actor.pid, executable: actor.executable.clone() });
    let files = logs.iter().take(5).map(|path| Entity::File { path: path.clone() });
    files.chain(process).collect()
}

fn attack(change: &LogChange) -> &'static [&'static str] {
    match (change.nature, &change.loss) {
        (Nature::History, Loss::LedAway(..)) => &["T1562.003"],
        (Nature::History, _) => &["T1070.003"],
        (_, Loss::Silent(silence)) if silence.over => &[],
        (_, Loss::Silent(_)) => &["T1562.001", "T1562.006"],
        (_, Loss::LedAway(..)) => &["T1562.012", "T1070.002"],
        (_, Loss::Edited) => &["T1070.002", "T1565.001"],
        _ => &["T1070.002"],
    }
}

fn text(path: &Path) -> Text {
    Text::from_bytes(path.as_os_str().as_bytes())
}

fn short(path: &Path) -> String {
    let lossy = path.to_string_lossy();
    let text = printable(&lossy);
    match text.char_indices().nth(TITLE_PATH_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.into_owned(),
    }
}

#[cfg(test)]
mod tests;
