//! `soc isolate`: writes the command that cuts hosts off, and shows how far it reaches before anybody signs it.

use std::path::PathBuf;

use picket_protocol::command::{Action, Command};
use picket_protocol::trust::{Role, TrustRoot};

use super::args::IsolateArguments;
use super::client::Client;
use super::error::SocError;
use super::screen::{Cell, Paint, Screen, short_time};
use super::sign::SHOWN_MAX;
use super::{Session, draft, hosts, notice, reach, trust};
use crate::api::types::Host;

/// Ends of ids in file names: as many characters as lists show of them.
const ID_END: usize = 12;

/// `soc isolate HOST…`.
pub(super) async fn isolate(session: &mut Session, arguments: IsolateArguments) -> Result<u8, SocError> {
    let lease = draft::lease(&arguments.lease)?;
    let command =
        draft::compose(session, Action::Isolate {}, lease, &arguments.hosts, &arguments.text).await?;
    let given =
        arguments.trust.as_deref().map(|path| trust::peek(&trust::read_envelope(path)?)).transpose()?;
    let radius = Radius::of(session, &command, given).await;
    let file = arguments.output.unwrap_or_else(|| default_file(&command));
    draft::write_command(&file, &command)?;
    if session.json {
        session.screen.json(&radius.to_json(&command, &file))?;
        return Ok(0);
    }
    super::sign::print_command(&mut session.screen, &command, session.now)?;
    radius.print(session, &command)?;
    let (shown, times) = (file.display(), radius.fewest(&command));
    let by = times.map_or_else(String::new, |times| format!(" (by {times} of the operators)"));
    session.screen.line(&format!(
        "\nWrote {shown}, unsigned. Next: soc sign {shown} --key FILE{by}; soc send {shown} --wait"
    ))?;
    Ok(0)
}

fn default_file(command: &Command) -> PathBuf {
    let id = command.id.to_string();
    PathBuf::from(format!("isolate-{}.json", id.get(id.len().saturating_sub(ID_END)..).unwrap_or(&id)))
}

/// What is known of how far a command reaches. A collector that is away leaves gaps, and hinders nothing: the
/// machine that signs may be off the network.
struct Radius {
    /// All hosts of the tenant that were not revoked.
    fleet: Option<Vec<Host>>,
    /// The trust root, and where it is from.
    trust: Option<(TrustRoot, &'static str)>,
}

impl Radius {
    async fn of(session: &Session, command: &Command, given: Option<TrustRoot>) -> Self {
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

    /// Signatures that it takes at least, whichever role gives them.
    fn fewest(&self, command: &Command) -> Option<u32> {
        self.roles(command).into_iter().filter_map(|(_, _, needed)| needed.ok()).min()
    }

    /// The roles that may order it, with how many signatures of each it takes.
    fn roles(&self, command: &Command) -> Vec<(&str, &Role, Result<u32, String>)> {
        let Some((root, _)) = self.trust.as_ref().filter(|(root, _)| root.tenant == command.tenant) else {
            return Vec::new();
        };
        let able = root.roles.iter().filter(|(_, role)| role.actions.contains(command.action.name()));
        able.map(|(name, role)| (name.as_str(), role, reach::needed(role, command))).collect()
    }

    fn names(&self, command: &Command) -> Vec<&Host> {
        let named: std::collections::BTreeSet<_> = command.hosts.iter().collect();
        self.fleet.iter().flatten().filter(|host| named.contains(&host.agent)).collect()
    }

    fn to_json(&self, command: &Command, file: &std::path::Path) -> serde_json::Value {
        let operators = |role: &Role| -> Vec<String> {
            let keys = self.trust.as_ref().map(|(root, _)| &root.keys);
            let name = |id| keys.and_then(|keys| keys.get(id)).map(|key| key.name.clone());
            role.keys.iter().filter_map(name).collect()
        };
        let roles: Vec<_> = self
            .roles(command)
            .into_iter()
            .map(|(name, role, needed)| {
                serde_json::json!({ "role": name, "operators": operators(role),
                    "signatures": needed.as_ref().ok(), "impossible": needed.as_ref().err() })
            })
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
        })
    }

    fn print(&self, session: &mut Session, command: &Command) -> Result<(), SocError> {
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
        let roles = self.roles(command);
        for (name, role, needed) in &roles {
            let names: Vec<&str> =
                role.keys.iter().filter_map(|id| root.keys.get(id)).map(|key| key.name.as_str()).collect();
            let cell = match needed {
                Ok(needed) => {
                    Cell::new(format!("role {name}: {needed} of {}; none so far", names.join(", ")))
                }
                Err(why) => Cell::new(format!("role {name}: {why}")).paint(Paint::Red),
            };
            screen.field_cell("signatures", &cell)?;
        }
        if roles.is_empty() {
            screen.field_cell("signatures", &Cell::new(reach::no_role(command)).paint(Paint::Red))?;
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
        for host in named.iter().take(SHOWN_MAX) {
            screen.field("", format!("{} ({}), {}", host.hostname, host.agent, host.state))?;
        }
        if named.len() > SHOWN_MAX {
            screen.field("", format!("… and {} more", named.len() - SHOWN_MAX))?;
        }
        let unknown = command.hosts.len().saturating_sub(count);
        if unknown > 0 {
            let text = format!("{unknown} more that are no hosts of the tenant, or were revoked");
            screen.field_cell("", &Cell::new(text).paint(Paint::Red))?;
        }
        Ok(())
    }
}

async fn in_force(client: &Client, command: &Command) -> Result<TrustRoot, SocError> {
    trust::peek(&trust::in_force(client, command.tenant.as_str()).await?)
}
