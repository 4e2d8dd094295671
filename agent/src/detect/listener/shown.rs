//! A listening socket as people see it.

use std::net::IpAddr;

use picket_protocol::finding::{Severity, Text};
use picket_protocol::time::Timestamp;

use super::{Bound, Holder, Judged, Protocol};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shown {
    /// By which protocol.
    pub protocol: Protocol,
    /// Where it is bound.
    pub address: IpAddr,
    /// On which port.
    pub port: u16,
    /// What the kernel calls it.
    pub cookie: u64,
    /// When the agent saw it first.
    pub since: Timestamp,
    /// What the program is called.
    pub program: String,
    /// Who holds it; none for the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The program's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<Text>,
    /// The name of its user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Text>,
    /// The service manager's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Name and version of its package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// The container that it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// How grave a new one of its kind would be.
    pub severity: Severity,
    /// Why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

impl Shown {
    pub(super) fn new(bound: &Bound, since: Timestamp, holder: &Holder, judged: &Judged) -> Self {
        let process = match holder {
            Holder::Process(process) => Some(process),
            Holder::Kernel => None,
        };
        Self {
            protocol: bound.protocol,
            address: bound.address,
            port: bound.port,
            cookie: bound.cookie,
            since,
            program: judged.name.clone(),
            pid: process.map(|process| process.actor.pid),
            executable: process.map(|process| process.executable.path.clone()),
            user: process.and_then(|process| process.user.clone()),
            unit: process.and_then(|process| process.unit.clone()),
            package: process.and_then(|process| process.package().map(str::to_owned)),
            container: process.and_then(|process| process.actor.container.clone()),
            severity: judged.severity,
            reasons: judged.reasons.clone(),
        }
    }
}
