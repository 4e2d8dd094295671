//! sudoers and what it includes; doas: who may become whom.

use picket_protocol::finding::Severity;

use super::super::redact;
use super::{Case, STATEMENTS_MAX, Statement, quote, suspicious};

const RULE: &str = "privilege.sudoers";
const TECHNIQUE: &str = "T1548.003";

/// Reads the rules that came and went.
pub fn read(case: &Case<'_>, out: &mut Vec<Statement>) {
    let (before, after) = (rules(&case.before.raw), rules(&case.after.raw));
    for rule in after.iter().filter(|rule| !before.contains(rule)) {
        out.push(added(rule));
        if out.len() >= STATEMENTS_MAX {
            return;
        }
    }
    for rule in before.iter().filter(|rule| !after.contains(rule)) {
        let words = format!("A rule of sudo was removed: {}", quote(&redact::line(rule)));
        // To take `Defaults` away may loosen as well.
        let severity = if rule.starts_with("Defaults") { Severity::Medium } else { Severity::Low };
        out.push(Statement::new(RULE, severity, TECHNIQUE, words));
        if out.len() >= STATEMENTS_MAX {
            return;
        }
    }
}

/// Rules, each on one line with single spaces; without comments.
fn rules(lines: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = String::new();
    for line in lines {
        let (body, goes_on) = match line.strip_suffix('\\') {
            Some(body) => (body, true),
            None => (*line, false),
        };
        open.push_str(body);
        open.push(' ');
        if goes_on {
            continue;
        }
        let rule = std::mem::take(&mut open);
        found.extend(one(&rule));
    }
    found.extend(one(&open));
    found
}

fn one(rule: &str) -> Option<String> {
    let rule = rule.split_whitespace().collect::<Vec<_>>().join(" ");
    let is_directive = |text: &str| text.starts_with("#include") || starts_with_id(text);
    (!rule.is_empty() && (!rule.starts_with('#') || is_directive(&rule))).then_some(rule)
}

/// `#1000 ALL=…` is a rule for a uid and no comment.
fn starts_with_id(text: &str) -> bool {
    text.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn added(rule: &str) -> Statement {
    let shown = quote(&redact::line(rule));
    let (severity, words) = if let Some(setting) = rule.strip_prefix("Defaults") {
        defaults(setting, &shown)
    } else if rule.starts_with("@include") || rule.starts_with("#include") {
        (Severity::Medium, format!("sudo reads its rules from another place as well: {shown}"))
    } else if rule.starts_with("permit ") {
        (Severity::High, format!("A rule of doas was added: {shown}"))
    } else if rule.contains("_Alias ") {
        (Severity::Medium, format!("A name for rules of sudo was set: {shown}"))
    } else {
        specification(rule, &shown)
    };
    Statement::new(RULE, severity, TECHNIQUE, words)
}

fn defaults(setting: &str, shown: &str) -> (Severity, String) {
    if setting.contains("!authenticate") {
        return (Severity::High, format!("sudo no longer asks for a password: {shown}"));
    }
    if setting.contains("!syslog") || setting.contains("!log") {
        return (Severity::High, format!("sudo no longer writes down what it is used for: {shown}"));
    }
    let loosens = [
        "env_keep",
        "setenv",
        "!env_reset",
        "timestamp_timeout=-1",
        "!tty_tickets",
        "secure_path",
        "pam_service",
    ];
    let severity =
        if loosens.iter().any(|word| setting.contains(word)) { Severity::Medium } else { Severity::Low };
    (severity, format!("A setting of sudo was changed: {shown}"))
}

/// `who hosts=(as) TAGS: commands`.
fn specification(rule: &str, shown: &str) -> (Severity, String) {
    let Some((left, right)) = rule.split_once('=') else {
        return (Severity::Medium, format!("A line was added to the rules of sudo: {shown}"));
    };
    let who = left.split_whitespace().next().unwrap_or_default();
    let who = match who {
        "ALL" => "Everybody".to_owned(),
        group if group.starts_with('%') => {
            format!("Every member of group {}", quote(group.trim_start_matches('%')))
        }
        id if id.starts_with('#') => format!("Whoever has uid {}", quote(id.trim_start_matches('#'))),
        name => quote(name),
    };
    let right = right.trim();
    let (as_whom, rest) = match right.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((as_whom, rest)) => (as_whom.trim(), rest.trim()),
        None => ("root", right),
    };
    let free = rest.contains("NOPASSWD:");
    let command = rest.rsplit(": ").next().unwrap_or(rest).trim();
    let command = command.rsplit(':').next().filter(|_| !command.contains('/')).unwrap_or(command).trim();
    let everything = command == "ALL" || command.split(',').any(|one| one.trim() == "ALL");
    let password = if free { " without a password" } else { "" };
    let whom = match as_whom {
        "ALL" | "ALL:ALL" | "ALL : ALL" | "root" | "" => "root".to_owned(),
        other => quote(other),
    };
    if everything {
        return (Severity::High, format!("{who} may run anything as {whom}{password} by sudo now"));
    }
    let why = suspicious::reason(rest).map(|why| format!(", which {why}")).unwrap_or_default();
    let severity = if free || !why.is_empty() { Severity::High } else { Severity::Medium };
    let command = quote(&redact::line(command));
    (severity, format!("{who} may run as {whom}{password} by sudo now: {command}{why}"))
}
