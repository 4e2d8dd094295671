//! From a process to the session that it belongs to, and what a finding says of it.

use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::finding::{Finding, Text, printable};
use picket_protocol::time::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::{End, Privilege, Session, Sessions};
use crate::sense::processes::Actor;

/// Characters of a name that a sentence shows.
const WORD_CHARS_MAX: usize = 64;
/// Bytes that a title may have with what is added here.
const TITLE_BYTES_MAX: usize = 1_024;

/// Programs that give other rights, where only root can have put them.
const RAISING: [(&str, &str); 8] = [
    ("/usr/bin/sudo", "sudo"),
    ("/bin/sudo", "sudo"),
    ("/usr/bin/sudo-rs", "sudo"),
    ("/usr/bin/su", "su"),
    ("/bin/su", "su"),
    ("/usr/bin/su-rs", "su"),
    ("/usr/bin/pkexec", "pkexec"),
    ("/usr/bin/doas", "doas"),
];

/// What a finding carries of the session that it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SessionEvidence {
    /// Of this session and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// All of it in words: `root by sudo of alice, ssh from 192.0.2.7, key SHA256:…, 14 minutes after login`.
    pub by: String,
    /// The kernel's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_session: Option<u32>,
    /// Who logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
    /// The same by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Text>,
    /// `sshd`, `login` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// How.
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
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When it ended, if it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// How the process came by the rights with which it acted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privilege: Option<Privilege>,
}

/// Names the session in `finding`, whose evidence has the process (`actor`) or the login event (`event`) that it is
/// about; whether it did. What is not known is left out, and nothing is guessed.
pub fn link(finding: &mut Finding, sessions: &Sessions, name: impl Fn(u32) -> Option<Text>) -> bool {
    let Some(evidence) = evidence_of(finding, sessions, name) else { return false };
    let words = format!(" ({}{})", program(finding), evidence.by);
    let spoken = finding.evidence.get("event").is_none();
    if spoken && finding.title.len() + words.len() <= TITLE_BYTES_MAX {
        finding.title.push_str(&words);
    }
    if let (Value::Object(object), Ok(value)) = (&mut finding.evidence, serde_json::to_value(evidence)) {
        object.insert("session".to_owned(), value);
        return true;
    }
    false
}

/// `by /usr/bin/passwd, process 4711, ` where the finding has the program.
fn program(finding: &Finding) -> String {
    let actor = finding.evidence.get("actor").or_else(|| finding.evidence.get("process"));
    let actor = actor.and_then(|actor| serde_json::from_value::<Actor>(actor.clone()).ok());
    let named = actor.and_then(|actor| Some((actor.executable?, actor.pid)));
    named.map(|(path, pid)| format!("by {}, process {pid}, ", word(&path))).unwrap_or_default()
}

fn evidence_of(
    finding: &Finding,
    sessions: &Sessions,
    name: impl Fn(u32) -> Option<Text>,
) -> Option<SessionEvidence> {
    let time = finding.observed.last;
    if finding.evidence.get("session").is_some() {
        return None;
    }
    if let Some(actor) = finding.evidence.get("actor").or_else(|| finding.evidence.get("process")) {
        let actor: Actor = serde_json::from_value(actor.clone()).ok()?;
        return of_actor(&actor, sessions, time, name);
    }
    // What su, sudo and the account tools did, in the words of the kernel's audit.
    let event = finding.evidence.get("event")?;
    let comes = finding.rule.starts_with("login.");
    let number = event.get("session").and_then(Value::as_u64).filter(|_| !comes)?;
    let session = sessions.numbered(u32::try_from(number).ok()?)?;
    Some(describe(session, None, time))
}

fn of_actor(
    actor: &Actor,
    sessions: &Sessions,
    time: Timestamp,
    name: impl Fn(u32) -> Option<Text>,
) -> Option<SessionEvidence> {
    let parents = || std::iter::once(actor.pid).chain(actor.parents.iter().map(|parent| parent.pid));
    let led = || {
        let with_time = std::iter::once((actor.pid, actor.started))
            .chain(actor.parents.iter().map(|parent| (parent.pid, parent.started)));
        with_time.into_iter().find_map(|(pid, started)| {
            let session = sessions.of_leader(pid)?;
            // Another with the same number would have begun later.
            started
                .is_some_and(|started| started <= session.since.plus(Duration::from_secs(1)))
                .then_some(session)
        })
    };
    let session = match actor.audit_session {
        Some(number) => sessions.numbered(number).or_else(|| led().filter(|led| led.audit_session.is_none())),
        None => led(),
    };
    let acted_as = actor.effective_uid.or(actor.uid);
    let Some(session) = session else {
        // A session of which nothing is known but what the process carries.
        let login_uid = actor.login_uid?;
        let user = name(login_uid);
        let who = user.as_ref().map_or_else(|| format!("uid {login_uid}"), word);
        let by = match acted_as.filter(|uid| *uid != login_uid).map(|uid| (uid, name(uid))) {
            Some((uid, became)) => {
                let became = became.as_ref().map_or_else(|| format!("uid {uid}"), word);
                format!("{became}, logged in as {who}")
            }
            None => format!("logged in as {who}"),
        };
        return Some(SessionEvidence {
            by,
            audit_session: actor.audit_session,
            login_uid: Some(login_uid),
            user,
            ..SessionEvidence::default()
        });
    };
    let privilege = session
        .privileges
        .iter()
        .rev()
        .find(|privilege| privilege.allowed && parents().any(|pid| privilege.pid == Some(pid)));
    let login = session.login_uid.or(actor.login_uid);
    let raised = acted_as.filter(|uid| login.is_some_and(|login| login != *uid));
    let became = raised.map(|uid| name(uid).as_ref().map_or_else(|| format!("uid {uid}"), word));
    let mut privilege = privilege.cloned();
    if let Some(privilege) = &mut privilege
        && privilege.target.is_none()
    {
        // What sudo does not say, the process shows.
        privilege.target = acted_as.and_then(&name);
    }
    let privilege = privilege.as_ref();
    let mut evidence = describe(session, privilege, time);
    if privilege.is_none()
        && let Some(became) = became
    {
        // Some logs name no process of sudo, and some come late: the process tree knows as well.
        evidence.by = match raised_by(actor) {
            Some(service) => format!("{became} by {service} of {}", evidence.by),
            None => format!("{became}, {}", evidence.by),
        };
    }
    Some(evidence)
}

/// The nearest program above the process that gives other rights.
fn raised_by(actor: &Actor) -> Option<&'static str> {
    let above = actor.parents.iter().filter_map(|parent| parent.executable.as_ref());
    above
        .flat_map(|path| RAISING.iter().filter(move |known| path.text == known.0))
        .map(|known| known.1)
        .next()
}

fn describe(session: &Session, privilege: Option<&Privilege>, time: Timestamp) -> SessionEvidence {
    SessionEvidence {
        id: Some(session.id),
        by: words(session, privilege, time),
        audit_session: session.audit_session,
        login_uid: session.login_uid,
        user: session.user.clone(),
        service: Some(session.service.clone()).filter(|service| !service.is_empty()),
        method: session.method.clone(),
        key: session.key.clone(),
        address: session.address,
        port: session.port,
        tty: session.tty.clone(),
        since: Some(session.since),
        ended: session.ended,
        privilege: privilege.cloned(),
    }
}

/// `root by sudo of alice, ssh from 192.0.2.7, key SHA256:…, 14 minutes after login`.
fn words(session: &Session, privilege: Option<&Privilege>, time: Timestamp) -> String {
    let user = session.user.as_ref().map_or_else(
        || session.login_uid.map_or_else(|| "somebody".to_owned(), |uid| format!("uid {uid}")),
        word,
    );
    let mut parts = vec![match privilege {
        Some(privilege) => {
            let target = privilege.target.as_ref().map_or_else(|| "another user".to_owned(), word);
            let of = privilege.user.as_ref().map_or_else(|| user.clone(), word);
            // Who became somebody on the way is named, and who logged in.
            let of = if of == user { of } else { format!("{of} (logged in as {user})") };
            format!("{target} by {} of {of}", word_str(&privilege.service))
        }
        None => user,
    }];
    let service = match session.service.as_str() {
        "sshd" => "ssh".to_owned(),
        "" => "a session".to_owned(),
        service => word_str(service),
    };
    let from = session.address.map(|address| format!(" from {address}")).unwrap_or_default();
    parts.push(format!("{service}{from}"));
    match (&session.key, &session.method) {
        // The type of the key is in the evidence.
        (Some(key), _) => {
            parts.push(format!("key {}", word_str(key.text.rsplit(' ').next().unwrap_or_default())))
        }
        (None, Some(method)) => parts.push(word(method)),
        (None, None) => {}
    }
    parts.push(match (session.ended, session.end) {
        (Some(ended), Some(End::Logout)) if ended < time => {
            format!("{} after logout", span(time.since(ended)))
        }
        _ if session.found => "logged in before the agent looked".to_owned(),
        _ => format!("{} after login", span(time.since(session.since))),
    });
    parts.join(", ")
}

/// `14 minutes`.
fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    let (count, unit) = match seconds {
        0..=119 => (seconds, "second"),
        120..=7_199 => (seconds / 60, "minute"),
        7_200..=172_799 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

fn word(text: &Text) -> String {
    word_str(&text.text)
}

fn word_str(text: &str) -> String {
    let shown = printable(text);
    match shown.char_indices().nth(WORD_CHARS_MAX) {
        Some((end, _)) => format!("{}…", shown.get(..end).unwrap_or_default()),
        None => shown.into_owned(),
    }
}
