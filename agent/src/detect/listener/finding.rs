//! How a new listener is told.

use std::net::IpAddr;

use picket_protocol::finding::{Entity, Finding, Observed, Severity, Text};
use serde_json::json;

use super::known::{Key, Ports, Reach, Told};
use super::{Bound, Holder, Judged, Process, Protocol};

/// Addresses that are named.
pub const ADDRESSES_MAX: usize = 32;
/// Other programs on the same port that are named.
const OTHERS_MAX: usize = 4;

/// All that goes into one finding.
pub struct Facts<'a> {
    pub bound: &'a Bound,
    pub key: &'a Key,
    pub holder: &'a Holder,
    pub judged: &'a Judged,
    pub severity: Severity,
    pub told: Told,
    pub addresses: Vec<IpAddr>,
    pub others: Vec<&'a str>,
    pub widened_from: Option<Reach>,
    pub at_start: bool,
}

impl Facts<'_> {
    pub fn finding(&self) -> Finding {
        let judged = self.judged;
        let reasons: &[String] = if self.severity > Severity::Info { &judged.reasons } else { &[] };
        let process = match self.holder {
            Holder::Process(process) => Some(&**process),
            Holder::Kernel => None,
        };
        let evidence = json!({
            "protocol": self.key.protocol.as_str(),
            "port": self.bound.port,
            "addresses": self.addresses,
            "reach": Reach::of(self.bound.address),
            "reach_before": self.widened_from,
            "ports": match self.key.ports { Ports::One(_) => "one", Ports::Ephemeral => "ephemeral", Ports::Many => "many" },
            "program": judged.identity,
            "reasons": reasons,
            "manner": judged.manner.map(super::program::Manner::as_str),
            "before_on_this_port": self.others.iter().take(OTHERS_MAX).collect::<Vec<_>>(),
            "seen_by": if self.at_start { "start" } else { "look" },
            "process": process.map(|process| &process.actor),
            "user": process.and_then(|process| process.user.as_ref()),
            "unit": process.and_then(|process| process.unit.as_ref()),
            "package": process.and_then(Process::package),
            "script": process.and_then(|process| process.script.as_ref()).map(|script| &script.path),
            "processes": process.map(|process| process.holders),
        });
        Finding {
            id: self.told.id,
            rule: "net.listener".to_owned(),
            severity: self.severity,
            observed: Observed {
                first: self.told.first,
                last: self.told.last,
                count: self.told.count.max(1),
            },
            title: self.title(process, reasons),
            entities: self.entities(process),
            evidence,
            attack: judged.manner.map(|_| "T1059".to_owned()).into_iter().collect(),
            explained_by: None,
            drill: false,
        }
    }

    fn title(&self, process: Option<&Process>, reasons: &[String]) -> String {
        let protocol = match self.key.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        let whose = process.and_then(|process| process.user.as_ref());
        let whose = whose.map(|user| format!(" of {}", user.text)).unwrap_or_default();
        let who = format!("{}{whose}", self.judged.name);
        let port = self.bound.port;
        let ports = match self.key.ports {
            Ports::One(_) => format!("{protocol} port {port}"),
            Ports::Ephemeral => format!("{protocol} port {port}, one of those the kernel hands out,"),
            Ports::Many => format!("ever other {protocol} ports, now {port},"),
        };
        let reach = match (Reach::of(self.bound.address), self.addresses.as_slice()) {
            (Reach::All, _) => "for all addresses".to_owned(),
            (Reach::Loopback, _) => "for this host only".to_owned(),
            (Reach::Address, [one]) => format!("for {one}"),
            (Reach::Address, _) => format!("for {} and others", self.bound.address),
        };
        let began = if self.widened_from.is_some() { "listens now" } else { "has begun to listen" };
        let because = match reasons {
            [] => String::new(),
            reasons => format!(": {}", reasons.join("; ")),
        };
        let instead = match self.others.first() {
            Some(other) => format!(", where {other} was known"),
            None => String::new(),
        };
        format!("{who} {began} on {ports} {reach}{instead}{because}")
    }

    fn entities(&self, process: Option<&Process>) -> Vec<Entity> {
        let mut entities = Vec::new();
        if let Some(process) = process {
            let executable = Some(process.executable.path.clone());
            entities.push(Entity::Process { pid: process.actor.pid, executable });
            if let Some(uid) = process.actor.effective_uid.or(process.actor.uid) {
                let name =
                    process.user.clone().unwrap_or_else(|| Text::from_bytes(uid.to_string().as_bytes()));
                entities.push(Entity::User { name, uid: Some(uid) });
            }
            entities.extend(process.runs().map(|(_, run)| Entity::File { path: run.path.clone() }));
            if let Some((name, version)) = process.package().map(|package| match package.split_once(' ') {
                Some((name, version)) => (name.to_owned(), Some(version.to_owned())),
                None => (package.to_owned(), None),
            }) {
                entities.push(Entity::Package { name, version });
            }
        }
        let own = self.addresses.iter().filter(|address| Reach::of(**address) == Reach::Address);
        entities
            .extend(own.map(|address| Entity::Address { address: *address, port: Some(self.bound.port) }));
        entities
    }
}
