//! How far a command reaches, before anybody signs it: how much of the tenant's fleet that is, and who must sign by the trust
//! root in force.

use picket_protocol::action::Part;
use picket_protocol::command::Command;
use picket_protocol::trust::{Role, TrustRoot};

use super::client::Client;
use super::error::SocError;
use super::screen::{Cell, Paint, Screen, short_time};
use super::{Session, hosts, notice, reach, trust};
use crate::api::types::Host;

/// What is known of how far a command reaches. A collector that is away leaves gaps, and hinders nothing: the
/// machine that signs may be off the network.
pub(super) struct Radius {
    /// All hosts of the tenant that were not revoked.
    fleet: Option<Vec<Host>>,
    /// The trust root, and where it is from.
    trust: Option<(TrustRoot, &'static str)>,
}

impl Radius {
    pub(super) async fn of(session: &Session, command: &Command, given: Option<TrustRoot>) -> Self {
        let mut radius = Self { fleet: None, trust: given.map(|root| (root, "of the file given")) };
        let client = match session.connect() {
            Ok((_, client)) => client,
            Err(error) => {
                notice(&format!("the collector is not asked how far this reaches: {error}"));
                return radius;
            }
        };
        radius.fleet = match hosts::all(&client, Some(command.tenant.to_string())).await {
            Ok(hosts) => Some(hosts.into_iter().filter(|host| host.state != "revoked").collect()),
            Err(error) => {
                notice(&format!("how many hosts the tenant has is not known: {error}"));
                None
            }
        };
        if radius.trust.is_none() && radius.fleet.is_some() {
            radius.trust = match in_force(&client, command).await {
                Ok(root) => Some((root, "in force at the collector")),
                Err(error) => {
                    notice(&format!("how many must sign is not known: {error}"));
                    None
                }
            };
        }
        radius
    }

    /// Signatures that it takes at least, whichever roles give them.
    pub(super) fn fewest(&self, command: &Command) -> Option<u32> {
        let parts = self.parts(command);
        let fewest =
            |asked: &Asked<'_>| asked.roles.iter().filter_map(|(_, _, needed)| needed.clone().ok()).min();
        parts.iter().map(fewest).collect::<Option<Vec<u32>>>()?.into_iter().max()
    }

    /// The parts of it (of a playbook its steps) with the roles that may order each, and how many signatures of each it takes.
    fn parts<'a>(&'a self, command: &'a Command) -> Vec<Asked<'a>> {
        let Some((root, _)) = self.trust.as_ref().filter(|(root, _)| root.tenant == command.tenant) else {
            return Vec::new();
        };
        let hosts = command.hosts.len();
        let asked = |part: Part<'a>| {
            let able = root.roles.iter().filter(|(_, role)| role.actions.contains(part.action.name()));
            let roles =
                able.map(|(name, role)| (name.as_str(), role, reach::needed(role, hosts, part.lease)));
            Asked { roles: roles.collect(), part }
        };
        command.action.parts(command.lease).into_iter().map(asked).collect()
    }

    fn names(&self, command: &Command) -> Vec<&Host> {
        let named: std::collections::BTreeSet<_> = command.hosts.iter().collect();
        self.fleet.iter().flatten().filter(|host| named.contains(&host.agent)).collect()
    }

    pub(super) fn to_json(&self, command: &Command, file: &std::path::Path) -> serde_json::Value {
        let operators = |role: &Role| -> Vec<String> {
            let keys = self.trust.as_ref().map(|(root, _)| &root.keys);
            let name = |id| keys.and_then(|keys| keys.get(id)).map(|key| key.name.clone());
            role.keys.iter().filter_map(name).collect()
        };
        let asked = self.parts(command);
        let roles: Vec<_> = asked
            .iter()
            .flat_map(|asked| {
                asked.roles.iter().map(|(name, role, needed)| (asked.part.step, name, role, needed))
            })
            .map(|(step, name, role, needed)| {
                let mut entry = serde_json::json!({ "role": name, "operators": operators(role),
                    "signatures": needed.as_ref().ok(), "impossible": needed.as_ref().err() });
                if let (Some(step), Some(entry)) = (step, entry.as_object_mut()) {
                    entry.insert("step".to_owned(), step.into());
                }
                entry
            })
            .collect();
        let nobody: Vec<_> = asked
            .iter()
            .filter(|asked| asked.roles.is_empty())
            .map(|asked| asked.part.action.name())
            .collect();
        let named: Vec<_> = self
            .names(command)
            .into_iter()
            .map(|host| serde_json::json!({ "agent": host.agent, "hostname": host.hostname, "state": host.state }))
            .collect();
        serde_json::json!({
            "file": file,
            "command": command,
            "hosts": named,
            "tenant_hosts": self.fleet.as_ref().map(Vec::len),
            "trust_version": self.trust.as_ref().map(|(root, _)| root.version),
            "trust_expires": self.trust.as_ref().map(|(root, _)| root.expires),
            "roles": roles,
            "no_role_may": nobody,
        })
    }

    pub(super) fn print(&self, session: &mut Session, command: &Command) -> Result<(), SocError> {
        let (screen, now) = (&mut session.screen, session.now);
        self.print_share(screen, command)?;
        let Some((root, origin)) = &self.trust else {
            let text = "how many it takes is not known here (--trust FILE tells)";
            return Ok(screen.field_cell("signatures", &Cell::new(text).paint(Paint::Yellow))?);
        };
        screen
            .field("trust root", format!("version {} for tenant {}, {origin}", root.version, root.tenant))?;
        if root.tenant != command.tenant {
            let text = format!("it is not for tenant {}", command.tenant);
            return Ok(screen.field_cell("mismatch", &Cell::new(text).paint(Paint::RedBold))?);
        }
        if root.expires <= now {
            screen.field_cell("EXPIRED", &Cell::new(short_time(root.expires)).paint(Paint::RedBold))?;
        }
        for asked in self.parts(command) {
            asked.print(screen, root)?;
        }
        Ok(())
    }

    /// Which hosts by name, and how much of what the tenant has.
    fn print_share(&self, screen: &mut Screen, command: &Command) -> Result<(), SocError> {
        let Some(fleet) = &self.fleet else {
            let text = "how many hosts the tenant has is not known here";
            return Ok(screen.field_cell("radius", &Cell::new(text).paint(Paint::Yellow))?);
        };
        let named = self.names(command);
        let (count, all) = (named.len(), fleet.len());
        let (text, paint) = if count == all && all > 0 {
            (format!("every host of tenant {}: all {all}", command.tenant), Paint::RedBold)
        } else {
            let paint = if count * 2 >= all { Paint::Red } else { Paint::Plain };
            (format!("{count} of the {all} hosts of tenant {}", command.tenant), paint)
        };
        screen.field_cell("radius", &Cell::new(text).paint(paint))?;
        for host in &named {
            screen.field("", format!("{} ({}), {}", host.hostname, host.agent, host.state))?;
        }
        let unknown = command.hosts.len().saturating_sub(count);
        if unknown > 0 {
            let text = format!("{unknown} more that are no hosts of the tenant, or were revoked");
            screen.field_cell("", &Cell::new(text).paint(Paint::Red))?;
        }
        Ok(())
    }
}

/// Part of a command, with the roles that may order it.
struct Asked<'a> {
    part: Part<'a>,
    roles: Vec<(&'a str, &'a Role, Result<u32, String>)>,
}

impl Asked<'_> {
    fn print(&self, screen: &mut Screen, root: &TrustRoot) -> Result<(), SocError> {
        let step = self.part.step.map_or_else(String::new, |step| format!("step {step}: "));
        for (name, role, needed) in &self.roles {
            let names: Vec<&str> =
                role.keys.iter().filter_map(|id| root.keys.get(id)).map(|key| key.name.as_str()).collect();
            let cell = match needed {
                Ok(needed) => {
                    Cell::new(format!("{step}role {name}: {needed} of {}; none so far", names.join(", ")))
                }
                Err(why) => Cell::new(format!("{step}role {name}: {why}")).paint(Paint::Red),
            };
            screen.field_cell("signatures", &cell)?;
        }
        if self.roles.is_empty() {
            let text = format!("{step}{}", reach::no_role(self.part.action.name()));
            screen.field_cell("signatures", &Cell::new(text).paint(Paint::Red))?;
        }
        Ok(())
    }
}

async fn in_force(client: &Client, command: &Command) -> Result<TrustRoot, SocError> {
    trust::peek(&trust::in_force(client, command.tenant.as_str()).await?)
}
