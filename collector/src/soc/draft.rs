//! `soc command new`: writes an unsigned command. Host names are resolved now, so that what is signed names
//! agents and nothing that could mean another host later.

use std::time::Duration;

use picket_protocol::command::{Action, Command, HOSTS_MAX, PAYLOAD_TYPE};
use picket_protocol::dsse::Envelope;
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::time::Timestamp;

use super::args::{CommandFrame, NewAction};
use super::client::Client;
use super::error::SocError;
use super::hosts::resolve;
use super::period::{parse_future, parse_past, parse_period};
use super::{Session, replace_file};

/// How long before it was written a command is valid by default: hosts whose clocks are late obey it too.
const CLOCK_SLACK: Duration = Duration::from_secs(300);

/// `soc command new …`.
pub(super) async fn write(session: &mut Session, new: NewAction) -> Result<u8, SocError> {
    let usage = |result: Result<Duration, String>| result.map_err(SocError::Usage);
    let (action, lease, frame) = match new {
        NewAction::Advise { message, lease, frame } => {
            (Action::Advise { message }, usage(parse_period(&lease))?, frame)
        }
        NewAction::Scan { paths, frame } => (Action::Scan { paths }, Duration::ZERO, frame),
        NewAction::Drill { findings, frame } => (Action::Drill { findings }, Duration::ZERO, frame),
    };
    let (tenant, hosts) = audience(session, &frame).await?;
    let command = assemble(action, lease, tenant, hosts, &frame, session.now)?;
    let payload = serde_json::to_vec(&command).map_err(|error| SocError::Failing(error.to_string()))?;
    let envelope = Envelope::new(PAYLOAD_TYPE, &payload);
    write_envelope(&frame.output, &envelope)?;
    if session.json {
        session.screen.json(&command)?;
        return Ok(0);
    }
    super::sign::print_command(&mut session.screen, &command, session.now)?;
    let file = frame.output.display();
    session.screen.line(&format!(
        "\nWrote {file}, unsigned. Next: soc sign {file} --key FILE; soc send {file} --wait"
    ))?;
    Ok(0)
}

/// Reads the command in an envelope without trusting it.
pub(super) fn peek(envelope: &Envelope) -> Result<Command, SocError> {
    if envelope.payload_type() != PAYLOAD_TYPE {
        return Err(SocError::Usage("the envelope holds no command".to_owned()));
    }
    let bad = |error: &dyn std::fmt::Display| {
        SocError::Bad(picket_protocol::finding::printable(&error.to_string()).into_owned())
    };
    Command::parse(&envelope.payload().map_err(|e| bad(&e))?).map_err(|e| bad(&e))
}

/// Writes an envelope as JSON for people to look at: members on lines of their own.
pub(super) fn write_envelope(path: &std::path::Path, envelope: &Envelope) -> Result<(), SocError> {
    let mut bytes =
        serde_json::to_vec_pretty(envelope).map_err(|error| SocError::Failing(error.to_string()))?;
    bytes.push(b'\n');
    replace_file(path, &bytes)
}

/// Whole agent ids with `--tenant` need no collector, so that the machine that signs may be off the network.
async fn audience(session: &Session, frame: &CommandFrame) -> Result<(Tenant, Vec<AgentId>), SocError> {
    if frame.host.len() > HOSTS_MAX {
        return Err(SocError::Usage(format!("a command names at most {HOSTS_MAX} hosts")));
    }
    let tenant = frame.tenant.as_deref().map(|name| {
        Tenant::parse(name)
            .ok_or_else(|| SocError::Usage("--tenant: 1 to 64 characters of a-z, 0-9 and -".to_owned()))
    });
    let tenant = tenant.transpose()?;
    let ids: Option<Vec<AgentId>> = frame.host.iter().map(|name| AgentId::parse(name)).collect();
    let (tenant, mut hosts) = match (tenant, ids) {
        (Some(tenant), Some(hosts)) => (tenant, hosts),
        (tenant, _) => {
            let (_, client) = session.connect()?;
            look_up(&client, tenant, &frame.host).await?
        }
    };
    hosts.sort_unstable();
    hosts.dedup();
    Ok((tenant, hosts))
}

async fn look_up(
    client: &Client,
    tenant: Option<Tenant>,
    names: &[String],
) -> Result<(Tenant, Vec<AgentId>), SocError> {
    let (mut tenant, mut hosts) = (tenant, Vec::new());
    for name in names {
        let host = resolve(client, name).await?;
        let whose = tenant.get_or_insert_with(|| host.tenant.clone());
        if *whose != host.tenant {
            return Err(SocError::Usage(format!(
                "host {} belongs to tenant {}, not to {whose}: a command is for one tenant",
                host.agent, host.tenant
            )));
        }
        hosts.push(host.agent);
    }
    let tenant = tenant.ok_or_else(|| SocError::Usage("name a host".to_owned()))?;
    Ok((tenant, hosts))
}

fn assemble(
    action: Action,
    lease: Duration,
    tenant: Tenant,
    hosts: Vec<AgentId>,
    frame: &CommandFrame,
    now: Timestamp,
) -> Result<Command, SocError> {
    let expires = parse_future(&frame.expires, now).map_err(SocError::Usage)?;
    let not_before = match &frame.not_before {
        Some(text) => parse_past(text, now).map_err(SocError::Usage)?,
        None => parse_past(&format!("{}s", CLOCK_SLACK.as_secs()), now).map_err(SocError::Usage)?,
    };
    if expires <= now {
        return Err(SocError::Usage("--expires lies in the past".to_owned()));
    }
    let command = Command {
        id: uuid::Uuid::now_v7(),
        issued: now,
        not_before,
        expires,
        tenant,
        hosts,
        action,
        lease: lease.as_secs(),
        reason: frame.reason.clone(),
        ticket: frame.ticket.clone(),
    };
    command.check().map_err(|error| SocError::Usage(error.to_string()))?;
    Ok(command)
}
