//! Units of systemd, their drop-ins, and the links that enable them.

use std::path::Path;

use picket_protocol::finding::Severity;

use super::super::redact;
use super::super::short;
use super::{Case, STATEMENTS_MAX, Statement, counts, quote, suspicious};
use crate::sense::files::object::Content;

const RULE: &str = "persistence.systemd";
const TECHNIQUE: &str = "T1543.002";
const TIMER: &str = "T1053.006";

/// What a unit runs, and what it is set off by.
const RUNS: &[&str] = &[
    "ExecStart",
    "ExecStartPre",
    "ExecStartPost",
    "ExecStop",
    "ExecStopPost",
    "ExecReload",
    "ExecCondition",
    "ExecStopPre",
];
const SET_OFF: &[&str] = &[
    "OnCalendar",
    "OnBootSec",
    "OnStartupSec",
    "OnUnitActiveSec",
    "OnActiveSec",
    "PathExists",
    "PathChanged",
    "PathModified",
    "ListenStream",
    "ListenDatagram",
];
/// What loads something into the service, or gives it more power.
const POWERS: &[&str] =
    &["Environment", "EnvironmentFile", "User", "Group", "AmbientCapabilities", "RootDirectory"];

/// Services without which an intruder is not seen, or whose stop is noticed late.
pub const GUARDS: &[&str] = &[
    "auditd",
    "rsyslog",
    "syslog-ng",
    "systemd-journald",
    "journald",
    "cron",
    "crond",
    "fail2ban",
    "nftables",
    "iptables",
    "firewalld",
    "ufw",
    "apparmor",
    "picket-agent",
    "picket",
    "falcon-sensor",
    "clamav-daemon",
    "osqueryd",
    "wazuh-agent",
    "sysmon",
    "unattended-upgrades",
    "chrony",
    "systemd-timesyncd",
    "ossec",
];

/// Reads a unit or a drop-in.
pub fn read(case: &Case<'_>, out: &mut Vec<Statement>) {
    let unit = unit_of(case.path);
    let before = entries(&case.before.raw);
    let after = entries(&case.after.raw);
    let fresh = before.is_empty();
    for (key, value) in after.iter().filter(|entry| !before.contains(entry)) {
        if out.len() >= STATEMENTS_MAX {
            return;
        }
        out.extend(came(case, &unit, key, value, fresh));
    }
    for (key, value) in before.iter().filter(|entry| !after.contains(entry)) {
        let replaced = after.iter().any(|(other, _)| other == key);
        if RUNS.contains(key) && !replaced && !value.is_empty() && out.len() < STATEMENTS_MAX {
            let words = format!("{unit} no longer runs {}", quote(&redact::line(value)));
            out.push(Statement::new(RULE, Severity::Low, TECHNIQUE, words));
        }
    }
}

fn came(case: &Case<'_>, unit: &str, key: &str, value: &str, fresh: bool) -> Option<Statement> {
    let shown = quote(&redact::line(value));
    let kind = unit.rsplit('.').next().unwrap_or("unit");
    if RUNS.contains(&key) && !value.is_empty() {
        let why = suspicious::reason(value).map(|why| format!(", which {why}")).unwrap_or_default();
        let severity = if why.is_empty() { Severity::Medium } else { Severity::High };
        let words = match (fresh, is_drop_in(case.path)) {
            (true, false) => format!("A {kind} of systemd was added: {unit} runs {shown}{why}"),
            _ => format!("{unit} runs {shown} now{why}"),
        };
        return Some(Statement::new(RULE, severity, TECHNIQUE, words));
    }
    if SET_OFF.contains(&key) && !value.is_empty() {
        let words = match fresh {
            true => format!("A {kind} of systemd was added: {unit}, {key}={shown}"),
            false => format!("{unit} is set off by {key}={shown} now"),
        };
        let technique = if kind == "timer" { TIMER } else { TECHNIQUE };
        return Some(Statement::new(RULE, Severity::Medium, technique, words));
    }
    if POWERS.contains(&key) && !fresh {
        // A value of `Environment` is `NAME=secret` more often than not.
        let shown = quote(&redact::line(&format!("{key}={value}")));
        let loads = value.contains("LD_PRELOAD") || value.contains("LD_LIBRARY_PATH");
        let severity = match key {
            _ if loads => Severity::High,
            "Environment" | "EnvironmentFile" => Severity::Low,
            _ => Severity::Medium,
        };
        return Some(Statement::new(RULE, severity, TECHNIQUE, format!("{unit} has {shown} now")));
    }
    None
}

/// What a symbolic link among the units means.
pub fn link(case: &Case<'_>, target: Option<&[u8]>) -> Option<Statement> {
    let name = case.path.file_name()?.to_string_lossy();
    let above = case.path.parent()?.file_name()?.to_string_lossy().into_owned();
    let unit = quote(&name);
    let bare = name.split(['.', '@']).next().unwrap_or_default();
    let guards = GUARDS.contains(&bare);
    let when = above.strip_suffix(".wants").or_else(|| above.strip_suffix(".requires"));
    let (rule, severity, technique, words) = match (target, when) {
        (Some(b"/dev/null"), _) => {
            let severity = if guards { Severity::High } else { Severity::Medium };
            (
                "defence.service",
                severity,
                "T1562.001",
                format!("{unit} can no longer be started: it was masked"),
            )
        }
        (Some(target), Some(when)) => {
            let target = quote(&String::from_utf8_lossy(target));
            let words = format!("{unit} is started with {} from now on ({target})", quote(when));
            (RULE, Severity::Medium, TECHNIQUE, words)
        }
        (Some(target), None) => {
            let target = quote(&String::from_utf8_lossy(target));
            (RULE, Severity::Medium, TECHNIQUE, format!("{unit} stands for {target} now"))
        }
        (None, Some(when)) => {
            let severity = if guards { Severity::High } else { Severity::Low };
            let words = format!("{unit} is no longer started with {}", quote(when));
            ("defence.service", severity, "T1562.001", words)
        }
        (None, None) => {
            let masked = matches!(&case.change.before, Some(state) if state.content == Content::Target(b"/dev/null".to_vec()));
            let words = if masked {
                format!("{unit} may be started again: it is masked no more")
            } else {
                format!("{unit} stands for no other unit any more")
            };
            (RULE, Severity::Low, TECHNIQUE, words)
        }
    };
    Some(Statement::new(rule, severity, technique, words))
}

/// The unit that a file is, or that a drop-in belongs to.
fn unit_of(path: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| quote(&name.to_string_lossy()));
    let above = path.parent().and_then(name).unwrap_or_default();
    match above.strip_suffix(".d") {
        Some(unit) if is_drop_in(path) => unit.to_owned(),
        _ => name(path).unwrap_or_else(|| short(path)),
    }
}

fn is_drop_in(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "conf")
        && path.parent().is_some_and(|above| above.extension().is_some_and(|extension| extension == "d"))
}

/// `Key=value`, with lines that a backslash continues.
fn entries<'a>(lines: &[&'a str]) -> Vec<(&'a str, String)> {
    let mut found: Vec<(&str, String)> = Vec::new();
    let mut goes_on = false;
    for line in lines.iter().map(|line| line.trim()).filter(|line| counts(line)) {
        let (body, more) = line.strip_suffix('\\').map_or((line, false), |body| (body.trim_end(), true));
        if goes_on {
            if let Some((_, value)) = found.last_mut() {
                value.push(' ');
                value.push_str(body);
            }
        } else if let Some((key, value)) = body.split_once('=') {
            found.push((key.trim(), value.trim().to_owned()));
        }
        goes_on = more;
    }
    found
}
