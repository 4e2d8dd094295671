//! Crontabs: what runs when, as whom.

use picket_protocol::finding::Severity;

use super::super::redact;
use super::super::subject::Subject;
use super::{Case, STATEMENTS_MAX, Statement, quote, suspicious};

const RULE: &str = "persistence.cron";
const TECHNIQUE: &str = "T1053.003";

/// A line of a crontab.
enum Line<'a> {
    /// A job: when, as whom (if the table says), what.
    Job(&'a str, Option<&'a str>, &'a str),
    /// `NAME=value`.
    Setting(&'a str),
    /// Nothing that cron takes.
    Other,
}

/// Reads the jobs that came and went.
pub fn crontab(case: &Case<'_>, out: &mut Vec<Statement>) {
    let with_user = case.subject == Subject::SystemCrontab;
    let anacron = case.path.ends_with("anacrontab");
    let owner = case.path.file_name().map(|name| quote(&name.to_string_lossy())).unwrap_or_default();
    let whose = |user: Option<&str>| match user {
        Some(user) => quote(user),
        None if anacron => "root".to_owned(),
        None => owner.clone(),
    };
    for (raw, _) in case.added() {
        if out.len() >= STATEMENTS_MAX {
            return;
        }
        let (severity, words) = match line(raw, with_user, anacron) {
            Line::Job(when, user, command) => {
                let why = suspicious::reason(command).map(|why| format!(", which {why}")).unwrap_or_default();
                let severity = if why.is_empty() { Severity::Medium } else { Severity::High };
                let command = quote(&redact::line(command));
                (severity, format!("A cron job of {} was added: {} {command}{why}", whose(user), quote(when)))
            }
            Line::Setting(setting) => {
                let loads = setting.starts_with("LD_") || setting.starts_with("SHELL");
                let severity = if loads { Severity::High } else { Severity::Low };
                (severity, format!("A setting of cron jobs was changed: {}", quote(&redact::line(setting))))
            }
            Line::Other => continue,
        };
        out.push(Statement::new(RULE, severity, TECHNIQUE, words));
    }
    for (raw, _) in case.removed() {
        if out.len() >= STATEMENTS_MAX {
            return;
        }
        if let Line::Job(when, user, command) = line(raw, with_user, anacron) {
            let command = quote(&redact::line(command));
            let words = format!("A cron job of {} was removed: {} {command}", whose(user), quote(when));
            out.push(Statement::new(RULE, Severity::Low, TECHNIQUE, words));
        }
    }
}

fn line(raw: &str, with_user: bool, anacron: bool) -> Line<'_> {
    if anacron {
        return anacron_line(raw);
    }
    let text = raw.trim();
    if is_setting(text) {
        return Line::Setting(text);
    }
    let fields = if text.starts_with('@') { 1 } else { 5 };
    let Some((when, rest)) = split_fields(text, fields) else { return Line::Other };
    if !with_user {
        return if rest.is_empty() { Line::Other } else { Line::Job(when, None, rest) };
    }
    match split_fields(rest, 1) {
        Some((user, command)) if !command.is_empty() => Line::Job(when, Some(user), command),
        _ => Line::Other,
    }
}

/// `period delay name command`.
fn anacron_line(raw: &str) -> Line<'_> {
    let text = raw.trim();
    if is_setting(text) {
        return Line::Setting(text);
    }
    match split_fields(text, 3) {
        Some((when, command)) if !command.is_empty() => Line::Job(when, None, command),
        _ => Line::Other,
    }
}

/// A name, then `=`, before any field that a time could be.
fn is_setting(text: &str) -> bool {
    let name = text.split('=').next().unwrap_or_default().trim_end();
    name.len() < text.len()
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || "_\"'".contains(c))
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_\"'".contains(c))
}

/// The first `count` words, and what follows them.
fn split_fields(text: &str, count: usize) -> Option<(&str, &str)> {
    let mut end = 0;
    for _ in 0..count {
        let rest = text.get(end..)?;
        let start = end + (rest.len() - rest.trim_start().len());
        let word = text.get(start..)?;
        if word.is_empty() {
            return None;
        }
        end = start + word.find(char::is_whitespace).unwrap_or(word.len());
    }
    Some((text.get(..end)?, text.get(end..)?.trim_start()))
}
