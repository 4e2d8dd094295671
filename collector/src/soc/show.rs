//! `soc show` and `soc export`: one finding, its proof fetched and checked here. What is shown of a finding
//! that its agent sealed is read from the proven record, not from what the collector says beside it.

use std::collections::BTreeSet;
use std::path::Path;

use picket_protocol::bundle::Bundle;
use picket_protocol::finding::Finding;
use picket_protocol::identity::AgentId;
use picket_protocol::note::VerifierKey;
use picket_protocol::record::Record;
use uuid::Uuid;

use super::client::Client;
use super::config::SocConfig;
use super::error::SocError;
use super::known::{Known, Origin};
use super::proof::{Keys, Verdict};
use super::screen::{Cell, Paint, Screen, short_time};
use super::sources::{self, Source};
use super::{Session, notice, replace_file};
use crate::api::types::{FindingDetail, Host, Whoami};

/// Shortest end of an id that is looked up.
const ID_END_MIN: usize = 6;
/// How many of the newest findings it is looked up in.
const ID_END_ROWS: u32 = 5_000;
/// Deepest and longest evidence that is printed; JSON has all of it.
const TREE_DEPTH_MAX: usize = 8;
const TREE_LINES_MAX: usize = 400;

/// `soc show ID`.
pub(super) async fn show(session: &mut Session, id: &str) -> Result<u8, SocError> {
    let (config, client) = session.connect()?;
    let id = whole_id(&client, id).await?;
    let detail: FindingDetail = client.get(&format!("/findings/{id}")).await?;
    let verdict = match detail.proof.state.as_str() {
        "unsealed" => None,
        _ => Some(check(session, &config, &client, id, &detail).await?),
    };
    let code = verdict.as_ref().map_or(0, Verdict::exit_code);
    let sources = sources::of(&client, &detail).await?;
    if session.json {
        let proof = verdict.as_ref().map(Verdict::to_json);
        let shown = serde_json::json!({ "finding": detail, "proof": proof, "sources": sources });
        session.screen.json(&shown)?;
        return Ok(code);
    }
    print(&mut session.screen, &detail, verdict.as_ref())?;
    for Source { address, agent, hostname } in &sources {
        session
            .screen
            .field("came from", format!("{address}, which {hostname} ({agent}) says is its own"))?;
    }
    Ok(code)
}

/// `soc export ID`.
pub(super) async fn export(session: &mut Session, id: &str, output: Option<&Path>) -> Result<u8, SocError> {
    let (_, client) = session.connect()?;
    let id = whole_id(&client, id).await?;
    let bytes = client.get_bytes(&format!("/findings/{id}/bundle")).await?;
    Bundle::parse(&bytes).map_err(|error| SocError::Failing(format!("the collector gave {error}")))?;
    match output {
        None => session.screen.raw(&bytes)?,
        Some(path) => {
            replace_file(path, &bytes)?;
            notice(&format!("wrote {}; `soc verify` checks it with the public keys alone", path.display()));
        }
    }
    Ok(0)
}

/// A whole id, or the end of one as lists show it, looked up among the newest findings.
async fn whole_id(client: &Client, id: &str) -> Result<Uuid, SocError> {
    if let Ok(id) = Uuid::try_parse(id) {
        return Ok(id);
    }
    let end = id.to_ascii_lowercase();
    if end.len() < ID_END_MIN || !end.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
        return Err(SocError::Usage(format!(
            "{:?} is neither a finding's id nor the last {ID_END_MIN} or more characters of one",
            picket_protocol::finding::printable(id)
        )));
    }
    let (rows, _) = super::findings::newest(client, &super::findings::unfiltered(), ID_END_ROWS).await?;
    // One that grew stands there once for each time that it was sealed.
    let found: BTreeSet<Uuid> =
        rows.iter().map(|row| row.id).filter(|id| id.to_string().ends_with(&end)).collect();
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => {
            Err(SocError::Usage(format!("several recent findings end with {end}; give the whole id")))
        }
        (None, _) => Err(SocError::Bad(format!(
            "none of the newest {} findings ends with {end}; give the whole id",
            rows.len()
        ))),
    }
}

async fn check(
    session: &Session,
    config: &SocConfig,
    client: &Client,
    id: Uuid,
    detail: &FindingDetail,
) -> Result<Verdict, SocError> {
    let bytes = client.get_bytes(&format!("/findings/{id}/bundle")).await?;
    let bundle =
        Bundle::parse(&bytes).map_err(|error| SocError::Failing(format!("the collector gave {error}")))?;
    let mut verdict = check_bundle(session, config, client, bundle, detail.summary.agent).await?;
    if let Ok(proven) = &verdict.outcome
        && let Err(why) = is_about(&proven.record, id, detail, &verdict.claimed)
    {
        verdict.outcome = Err(why);
    }
    Ok(verdict)
}

/// Checks a proof with the keys that are pinned of that host and of the collector; those that are seen first are pinned.
pub(super) async fn check_bundle(
    session: &Session,
    config: &SocConfig,
    client: &Client,
    bundle: Bundle,
    agent: AgentId,
) -> Result<Verdict, SocError> {
    let keys = keys_of(session, config, client, agent).await?;
    Ok(Verdict::of(bundle, keys))
}

/// The keys that records of a host are checked with: pinned ones, or those that the collector shows, pinned from here on.
pub(super) async fn keys_of(
    session: &Session,
    config: &SocConfig,
    client: &Client,
    agent: AgentId,
) -> Result<Keys, SocError> {
    let host: Host = client.get(&format!("/hosts/{agent}")).await?;
    let whoami: Whoami = client.get("/whoami").await?;
    let shown = VerifierKey::parse(&whoami.witness)
        .map_err(|error| SocError::Failing(format!("the collector's witness key: {error}")))?;
    let mut known = Known::load(&config.path)?;
    let agent = (host.enrolled_key, known.see_host(host.agent, host.enrolled_key, session.now)?);
    let witness = match &config.witness {
        Some(configured) => (configured.clone(), Origin::Configured),
        None => (shown.clone(), known.see_witness(&shown, session.now)?),
    };
    if let Err(error) = known.save() {
        notice(&format!("the keys seen are not pinned: {error}"));
    }
    Ok(Keys { agent, witness })
}

/// A true proof of something else is no proof of this finding.
fn is_about(record: &[u8], id: Uuid, detail: &FindingDetail, bundle: &Bundle) -> Result<(), String> {
    if bundle.agent != detail.summary.agent {
        return Err("the proof is of another host's record".to_owned());
    }
    match finding_in(record) {
        Some(finding) if finding.id == id => Ok(()),
        _ => Err("the proven record is not this finding".to_owned()),
    }
}

fn finding_in(record: &[u8]) -> Option<Finding> {
    Record::parse(record).ok()?.body().ok()
}

fn print(screen: &mut Screen, detail: &FindingDetail, verdict: Option<&Verdict>) -> Result<(), SocError> {
    let summary = &detail.summary;
    screen.field("host", format!("{} ({}, {})", summary.hostname, summary.agent, summary.tenant))?;
    let proven = verdict.and_then(|verdict| verdict.outcome.as_ref().ok());
    match proven.and_then(|proven| finding_in(&proven.record)) {
        Some(finding) => print_finding(screen, &finding)?,
        None => print_unproven(screen, detail)?,
    }
    screen.field("sealed", short_time(summary.time))?;
    screen.field("received", short_time(summary.received))?;
    match verdict {
        Some(verdict) => verdict.print(screen),
        None => {
            screen.field_cell("proof", &Cell::new("none").paint(Paint::Yellow))?;
            screen.field("", "the collector made this finding itself, about the host: no ledger holds it")?;
            Ok(())
        }
    }
}

fn print_unproven(screen: &mut Screen, detail: &FindingDetail) -> Result<(), SocError> {
    let summary = &detail.summary;
    screen.field("finding", summary.id.to_string())?;
    screen.field("rule", &summary.rule)?;
    screen.field_cell("severity", &Cell::severity(summary.severity))?;
    screen.field("title", &detail.title)?;
    tree(screen, "about", &serde_json::Value::Array(detail.entities.clone()))?;
    tree(screen, "evidence", &detail.evidence)
}

/// A finding for a person.
pub(super) fn print_finding(screen: &mut Screen, finding: &Finding) -> Result<(), SocError> {
    screen.field("finding", finding.id.to_string())?;
    screen.field("rule", &finding.rule)?;
    screen.field_cell("severity", &Cell::severity(finding.severity))?;
    screen.field("title", &finding.title)?;
    if finding.drill {
        screen.field_cell("drill", &Cell::new("raised by an exercise").paint(Paint::Yellow))?;
    }
    let observed = &finding.observed;
    let times = if observed.first == observed.last {
        short_time(observed.first)
    } else {
        format!("{} to {}", short_time(observed.first), short_time(observed.last))
    };
    let count = if observed.count > 1 { format!(", {} times", observed.count) } else { String::new() };
    screen.field("observed", format!("{times}{count}"))?;
    if !finding.attack.is_empty() {
        screen.field("att&ck", finding.attack.join(", "))?;
    }
    if let Some(cause) = &finding.explained_by {
        screen.field("explained", cause)?;
    }
    let entities = serde_json::to_value(&finding.entities).unwrap_or_default();
    tree(screen, "about", &entities)?;
    tree(screen, "evidence", &finding.evidence)
}

/// A JSON value as indented lines, within bounds.
pub(super) fn tree(screen: &mut Screen, label: &str, value: &serde_json::Value) -> Result<(), SocError> {
    let mut lines = Vec::new();
    branch(value, 0, "", &mut lines);
    let cut = lines.len() > TREE_LINES_MAX;
    for (at, line) in lines.iter().take(TREE_LINES_MAX).enumerate() {
        screen.field(if at == 0 { label } else { "" }, line)?;
    }
    if cut {
        screen.field("", "… (--json shows all of it)")?;
    }
    Ok(())
}

fn branch(value: &serde_json::Value, depth: usize, prefix: &str, lines: &mut Vec<String>) {
    use serde_json::Value;
    if lines.len() > TREE_LINES_MAX {
        return;
    }
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(_) | Value::Array(_) if depth >= TREE_DEPTH_MAX => {
            lines.push(format!("{indent}{prefix}…"))
        }
        Value::Object(members) if !members.is_empty() => {
            if let Some(text) = flat(value) {
                return lines.push(format!("{indent}{prefix}{text}"));
            }
            if !prefix.is_empty() {
                lines.push(format!("{indent}{}", prefix.trim_end()));
            }
            let depth = depth + usize::from(!prefix.is_empty());
            members.iter().for_each(|(name, value)| branch(value, depth, &format!("{name}: "), lines));
        }
        Value::Array(items) if !items.is_empty() => {
            if !prefix.is_empty() {
                lines.push(format!("{indent}{}", prefix.trim_end()));
            }
            let depth = depth + usize::from(!prefix.is_empty());
            items.iter().for_each(|item| branch(item, depth, "- ", lines));
        }
        Value::String(text) => lines.push(format!("{indent}{prefix}{text}")),
        other => lines.push(format!("{indent}{prefix}{other}")),
    }
}

/// Objects of few plain members stand on one line: `type file, path /etc/passwd`. A `text` with or without
/// `bytes` is the form of strings from outside and stands for itself.
fn flat(value: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Null | Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(_) => None,
        Value::Object(members) => {
            let text = members.get("text").and_then(Value::as_str);
            match (text, members.get("bytes"), members.len()) {
                (Some(text), None, 1) => return Some(text.to_owned()),
                (Some(text), Some(_), 2) => return Some(format!("{text} (not UTF-8)")),
                _ => {}
            }
            let parts = members.iter().map(|(name, value)| Some(format!("{name} {}", flat(value)?)));
            let joined = parts.collect::<Option<Vec<_>>>()?.join(", ");
            (members.len() <= 4 && joined.len() <= 100).then_some(joined)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(value: &serde_json::Value) -> Vec<String> {
        let mut lines = Vec::new();
        branch(value, 0, "", &mut lines);
        lines
    }

    #[test]
    fn evidence_reads_like_a_note() {
        let value = serde_json::json!({
            "after": { "mode": "0644", "sha256": "ab".repeat(32), "size": 3 },
            "paths": [{ "path": { "text": "/etc/passwd" }, "type": "file" }],
        });
        let hash = "ab".repeat(32);
        assert_eq!(
            lines(&value),
            [
                &format!("after: mode 0644, sha256 {hash}, size 3"),
                "paths:",
                "  - path /etc/passwd, type file"
            ]
        );
    }

    #[test]
    fn deep_and_long_evidence_is_cut() {
        let deep = (0..1_000).fold(serde_json::json!(1), |inner, _| serde_json::json!([inner]));
        assert!(lines(&deep).len() <= TREE_DEPTH_MAX + 2);
        let long = serde_json::json!(vec![1; 100_000]);
        assert!(lines(&long).len() <= TREE_LINES_MAX + 1);
        drop(deep);
    }
}
