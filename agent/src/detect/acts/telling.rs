//! The one finding of an act.

use picket_protocol::finding::{Finding, Severity};
use serde_json::{Value, json};

use super::key::{Key, is_account_file};
use super::{ALSO_BYTES_MAX, Part, run};
use crate::detect::packages::transaction::note;

/// Entities of the finding; more are in the parts' own.
const ENTITIES_MAX: usize = 32;

/// Which rule says most of an act, of rules that are equally severe.
const TELLING: &[&str] = &[
    "account.uid0",
    "account.created",
    "account.removed",
    "account.locked",
    "account.changed",
    "defence.service",
    "persistence.systemd",
    "persistence.init",
];

/// Puts the parts together; none only when there is none.
pub fn one(parts: Vec<Part>) -> Option<Finding> {
    use std::os::unix::ffi::OsStringExt as _;
    let key = parts.first()?.key.clone();
    let told = parts.into_iter().filter_map(|part| {
        let path = std::path::PathBuf::from(std::ffi::OsString::from_vec(part.path.clone()));
        Some((path, part.finding()?))
    });
    let mut told: Vec<_> = told.collect();
    if let Key::Run(run) = &key
        && told.len() > 1
    {
        return run::telling::one(run, told);
    }
    // What tools leave of the former state says nothing beside the change itself.
    let rank = |rule: &str| TELLING.iter().position(|known| *known == rule).unwrap_or(TELLING.len());
    let weight = |finding: &Finding| (std::cmp::Reverse(finding.severity), rank(&finding.rule));
    let explained = told.iter().find_map(|(_, finding)| finding.explained_by.clone());
    told.sort_by_key(|(_, finding)| weight(finding));
    if key == Key::Accounts && told.len() > 1 {
        told.sort_by_key(|(path, finding)| {
            (is_copy(path) && finding.severity < Severity::High, weight(finding))
        });
    }
    let mut rest = told.into_iter();
    let (lead_path, mut lead) = rest.next()?;
    let rest: Vec<_> = rest.collect();
    if key == Key::Accounts && rest.iter().all(|(path, _)| is_copy(path)) && is_copy(&lead_path) {
        lead.severity = lead.severity.min(Severity::Info);
    }
    if rest.is_empty() {
        return Some(lead);
    }
    gather(&mut lead, rest.iter().map(|(_, finding)| finding), ALSO_BYTES_MAX);
    if let (Key::Certificate(name), Some(explanation)) = (&key, explained) {
        renewed(&mut lead, name, explanation, rest.len() + 1);
    }
    Some(lead)
}

/// `/etc/passwd-` and its kin.
fn is_copy(path: &std::path::Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    is_account_file(path) && path.as_os_str().as_bytes().ends_with(b"-")
}

/// Puts what the others say into the evidence of the one that leads: all of it as long as that is at most `bytes_max`.
pub(super) fn gather<'a>(lead: &mut Finding, rest: impl Iterator<Item = &'a Finding>, bytes_max: usize) {
    let (mut also, mut bytes) = (Vec::new(), 0);
    for finding in rest {
        merge(lead, finding);
        // The title names the path as well, shortened.
        let path = json!(finding.entities.first());
        bytes += finding.evidence.to_string().len() + path.to_string().len();
        let whole = bytes <= bytes_max;
        let (path, evidence) =
            if whole { (path, finding.evidence.clone()) } else { (Value::Null, Value::Null) };
        also.push(json!({
            "rule": finding.rule,
            "severity": finding.severity,
            "title": finding.title,
            "path": path,
            "explained_by": finding.explained_by,
            "evidence": evidence,
        }));
    }
    if !also.is_empty() {
        note(lead, "also", Value::Array(also));
    }
}

/// Takes in when the other happened, and what it is about.
pub(super) fn merge(lead: &mut Finding, finding: &Finding) {
    lead.observed.first = lead.observed.first.min(finding.observed.first);
    lead.observed.last = lead.observed.last.max(finding.observed.last);
    lead.observed.count = lead.observed.count.saturating_add(finding.observed.count);
    for entity in &finding.entities {
        if lead.entities.len() < ENTITIES_MAX && !lead.entities.contains(entity) {
            lead.entities.push(entity.clone());
        }
    }
    for technique in &finding.attack {
        if !lead.attack.contains(technique) {
            lead.attack.push(technique.clone());
        }
    }
}

/// The links of a renewed certificate moved on: its new files, which they point to, are the same renewal.
fn renewed(lead: &mut Finding, name: &str, explanation: String, files: usize) {
    if lead.severity <= Severity::Low {
        lead.severity = Severity::Info;
        "file.modified".clone_into(&mut lead.rule);
        lead.title =
            format!("Certificate {} was renewed, {files} files", picket_protocol::finding::printable(name));
        lead.explained_by = Some(explanation);
    }
}
