//! How login findings are worded and rated.

use std::borrow::Cow;
use std::net::IpAddr;

use picket_protocol::finding::{Entity, Finding, Observed, Severity, Text};
use serde_json::json;
use uuid::Uuid;

use super::alarm::Listed;
use super::fold::Strangers;
use super::words::word;
use crate::sense::logins::{LoginEvent, LoginKind};

/// Attempts by who reported them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reports {
    /// By the service's own lines.
    pub service: u64,
    /// By its lines beside those.
    pub notice: u64,
    /// By PAM.
    pub pam: u64,
    /// By the kernel's audit.
    #[serde(default)]
    pub audit: u64,
    /// By records of the utmp family.
    #[serde(default)]
    pub record: u64,
}

impl Reports {
    /// One attempt is often reported by several, each counting by itself: the largest is the truth, or at
    /// worst a little below it.
    pub fn count(self) -> u64 {
        self.service.max(self.notice).max(self.pam).max(self.audit).max(self.record)
    }
}

/// A finding about like events, of which `event` is the newest.
pub fn of_event(id: Uuid, event: &LoginEvent, observed: Observed, reports: Reports) -> Finding {
    let times = if observed.count > 1 { format!(", {} times", observed.count) } else { String::new() };
    let user = event.user.iter().map(|name| Entity::User { name: name.clone(), uid: None });
    let target = event.target.iter().map(|name| Entity::User { name: name.clone(), uid: None });
    let address = event.address.map(|address| Entity::Address { address, port: event.port });
    Finding {
        id,
        rule: event.event.as_str().to_owned(),
        severity: severity(event),
        observed,
        title: format!("{}{times}", title(event)),
        entities: user.chain(target).chain(address).collect(),
        evidence: json!({ "event": event, "reports": reports }),
        attack: attack(event.event).iter().map(|id| (*id).to_owned()).collect(),
        explained_by: None,
        drill: false,
    }
}

/// A finding about strangers, who are too many to be told one by one; `event` is one of the newest.
pub fn of_strangers(
    id: Uuid,
    event: &LoginEvent,
    observed: Observed,
    reports: Reports,
    strangers: &Strangers,
) -> Finding {
    let about = |count: u64, exact: bool, one: &str, many: &str| match (count, exact) {
        (0, _) => None,
        (1, _) => Some(format!("one {one}")),
        (_, true) => Some(format!("{count} {many}")),
        (_, false) => Some(format!("about {count} {many}")),
    };
    let Strangers { users, addresses } = strangers;
    let names = about(users.count(), users.is_exact(), "name", "names");
    let from = about(addresses.count(), addresses.is_exact(), "address", "addresses");
    let whose: Vec<String> = names
        .map(|names| format!(" of {names}"))
        .into_iter()
        .chain(from.map(|from| format!(" from {from}")))
        .collect();
    let what = match event.event {
        LoginKind::Failure => "failed logins",
        LoginKind::InvalidUser => "failed logins of names that may not log in",
        LoginKind::Probe => "connections that never logged in",
        LoginKind::PrivilegeFailure => "refused changes of privilege",
        LoginKind::Logout => "logouts",
        _ => "changes of accounts",
    };
    Finding {
        id,
        rule: event.event.as_str().to_owned(),
        severity: Severity::Info,
        observed,
        title: format!("{} {what}{} by {}, told together", observed.count, whose.concat(), event.service),
        entities: entities(users, addresses),
        evidence: json!({
            "event": event, "reports": reports, "folded": true,
            "users": users.shown, "users_left_out": users.left_out(),
            "addresses": addresses.shown, "addresses_left_out": addresses.left_out(),
        }),
        attack: attack(event.event).iter().map(|id| (*id).to_owned()).collect(),
        explained_by: None,
        drill: false,
    }
}

fn entities(users: &Listed<Text>, addresses: &Listed<IpAddr>) -> Vec<Entity> {
    let users = users.shown.iter().map(|name| Entity::User { name: name.clone(), uid: None });
    let addresses = addresses.shown.iter().map(|address| Entity::Address { address: *address, port: None });
    addresses.chain(users).collect()
}

fn or_somebody(name: Option<&Text>) -> Cow<'static, str> {
    name.map_or(Cow::Borrowed("somebody"), |name| Cow::Owned(word(name)))
}

fn title(event: &LoginEvent) -> String {
    let user = or_somebody(event.user.as_ref());
    let from = event.address.map(|address| format!(" from {address}")).unwrap_or_default();
    let by = event.method.as_ref().map(|method| format!(" by {}", word(method))).unwrap_or_default();
    let service = &event.service;
    let why = event.reason.as_ref().map(|reason| format!(": {}", word(reason))).unwrap_or_default();
    let command = event.command.as_ref().map(|command| format!(": {}", word(command))).unwrap_or_default();
    let target = or_somebody(event.target.as_ref());
    match event.event {
        LoginKind::Success => format!("{user} logged in{from} by {service}{}", by.replacen(" by", ",", 1)),
        LoginKind::Failure => format!("Failed login of {user}{from}{by}"),
        LoginKind::InvalidUser => format!("Failed login of {user}, who may not log in{from}"),
        LoginKind::Probe => format!("Connection to {service}{from} that never logged in{why}"),
        LoginKind::PrivilegeSuccess if event.target.is_none() => {
            format!("{user} used {service}, to an unclear end")
        }
        LoginKind::PrivilegeSuccess => format!("{user} became {target} by {service}{command}"),
        LoginKind::PrivilegeFailure => format!("{service} refused {user} the rights of {target}{why}"),
        LoginKind::Logout => format!("{user} logged out{from}"),
        LoginKind::AccountCreated => format!("{service} created {user}"),
        LoginKind::AccountRemoved => format!("{service} removed {user}"),
        LoginKind::AccountChanged => format!("{service} changed {user}{why}"),
        LoginKind::AccountLocked => format!("{service} locked or unlocked {user}{why}"),
        LoginKind::WebRequest => format!("Request to {service}{from}"),
    }
}

fn severity(event: &LoginEvent) -> Severity {
    let root = event.user.as_ref().is_some_and(|user| user.text == "root");
    let by_key = event.key.is_some();
    match event.event {
        LoginKind::Success if root && !by_key => Severity::Medium,
        LoginKind::Success | LoginKind::Failure if root => Severity::Low,
        LoginKind::PrivilegeFailure => Severity::Low,
        _ => Severity::Info,
    }
}

fn attack(kind: LoginKind) -> &'static [&'static str] {
    match kind {
        LoginKind::Success => &["T1021.004"],
        LoginKind::Failure | LoginKind::InvalidUser => &["T1110"],
        LoginKind::Probe => &["T1046"],
        LoginKind::PrivilegeSuccess | LoginKind::PrivilegeFailure => &["T1548.003"],
        LoginKind::AccountCreated => &["T1136"],
        LoginKind::AccountRemoved | LoginKind::AccountLocked => &["T1531"],
        LoginKind::AccountChanged => &["T1098"],
        LoginKind::WebRequest => &["T1190"],
        LoginKind::Logout => &[],
    }
}
