//! `soc command new`: writes an unsigned command. Host names are resolved now, so that what is signed names
//! agents and nothing that could mean another host later.

use std::path::Path;
use std::time::Duration;

use picket_protocol::command::{
    Action, Command, HOSTS_MAX, Network, PAYLOAD_TYPE, Process, Profile, RestoreFrom,
};
use picket_protocol::dsse::{ENVELOPE_BYTES_MAX, Envelope, SIGNATURES_MAX};
use picket_protocol::finding::printable;
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::sshsig::SSHSIG_BYTES_MAX;
use picket_protocol::time::Timestamp;

use super::args::{CommandFrame, CommandText, NamedProcess, NewAction, Order};
use super::client::Client;
use super::error::SocError;
use super::hosts::resolve;
use super::period::{parse_future, parse_past, parse_period};
use super::{Session, networks, read_file, replace_file};

/// How long before it was written a command is valid by default: hosts whose clocks are late obey it too.
const CLOCK_SLACK: Duration = Duration::from_secs(300);

/// What an envelope keeps free for signatures: as many as it may carry, each with its key's id, in base64.
const SIGNATURES_BYTES: usize = SIGNATURES_MAX * (SSHSIG_BYTES_MAX.div_ceil(3) * 4 + 64);

/// `soc command new …`.
pub(super) async fn write(session: &mut Session, new: NewAction) -> Result<u8, SocError> {
    let (action, lease, frame) = ordered(new)?;
    let action = dry(action, frame.dry_run)?;
    let command = compose(session, action, lease, &frame.host, &frame.text).await?;
    write_command(&frame.output, &command)?;
    if session.json {
        session.screen.json(&command)?;
        return Ok(0);
    }
    super::sign::print_command(&mut session.screen, &command, session.now, super::sign::NETWORKS_SHOWN_MAX)?;
    let file = frame.output.display();
    session.screen.line(&format!(
        "\nWrote {file}, unsigned. Next: soc sign {file} --key FILE; soc send {file} --wait"
    ))?;
    Ok(0)
}

/// What the command line orders, for how long, and its frame.
fn ordered(new: NewAction) -> Result<(Action, Duration, CommandFrame), SocError> {
    let with_lease = |action: Action, order: Order| Ok((action, lease(&order.lease)?, order.frame));
    match new {
        NewAction::Advise { message, lease, frame } => {
            Ok((Action::Advise { message }, parse_period(&lease).map_err(SocError::Usage)?, frame))
        }
        NewAction::Scan { paths, frame } => Ok((Action::Scan { paths }, Duration::ZERO, frame)),
        NewAction::Drill { findings, frame } => Ok((Action::Drill { findings }, Duration::ZERO, frame)),
        NewAction::Isolate { order } => with_lease(Action::Isolate {}, order),
        NewAction::IsolateUnit { unit, order } => with_lease(Action::IsolateUnit { unit }, order),
        NewAction::ClosePort { protocol, port, order } => {
            with_lease(Action::ClosePort { protocol, port }, order)
        }
        NewAction::Block { network, networks_file, order } => {
            with_lease(Action::Block { networks: listed(&network, networks_file.as_deref())? }, order)
        }
        NewAction::RateLimit { protocol, port, per_second, order } => {
            with_lease(Action::RateLimit { protocol, port, per_second }, order)
        }
        NewAction::PinNeighbour { interface, address, mac, order } => {
            with_lease(Action::PinNeighbour { interface, address, mac }, order)
        }
        NewAction::FreezeAccount { user, order } => with_lease(Action::FreezeAccount { user }, order),
        NewAction::EndSessions { user, frame } => Ok((Action::EndSessions { user }, Duration::ZERO, frame)),
        NewAction::FreezeProcess { process, order } => {
            let NamedProcess { pid, started, sha256 } = process;
            with_lease(Action::FreezeProcess { pid, started: begin(&started)?, sha256 }, order)
        }
        NewAction::KillProcess { process, frame } => {
            let NamedProcess { pid, started, sha256 } = process;
            let action = Action::KillProcess { pid, started: begin(&started)?, sha256 };
            Ok((action, Duration::ZERO, frame))
        }
        NewAction::QuarantineFile { path, sha256, order } => {
            with_lease(Action::QuarantineFile { path, sha256 }, order)
        }
        NewAction::Preserve { profile, path, pid, started, sha256, order } => {
            let process = match (pid, started, sha256) {
                (Some(pid), Some(started), Some(sha256)) => {
                    Some(Process { pid, started: begin(&started)?, sha256 })
                }
                _ => None,
            };
            let all = profile.iter().any(|word| word == "all");
            let wanted = |known: &Profile| all || profile.iter().any(|word| word == known.name());
            let profiles = Profile::ALL.into_iter().filter(wanted).collect();
            with_lease(Action::Preserve { profiles, paths: path, process }, order)
        }
        NewAction::RestoreFile { command, finding, frame } => {
            let from = match (command, finding) {
                (Some(command), None) => RestoreFrom::Command(command),
                (None, Some(finding)) => RestoreFrom::Finding(finding),
                _ => return Err(SocError::Usage("give one of --command and --finding".to_owned())),
            };
            Ok((Action::RestoreFile(from), Duration::ZERO, frame))
        }
        NewAction::Assess { frame } => Ok((Action::Assess {}, Duration::ZERO, frame)),
        NewAction::WatchClosely { order } => with_lease(Action::WatchClosely {}, order),
        NewAction::Restore { command, open, pause, accept, watch, frame } => {
            let pause = parse_period(&pause).map_err(|error| SocError::Usage(format!("--pause: {error}")))?;
            let action = Action::Restore { command, services: open, pause: pause.as_secs(), accept };
            Ok((action, lease(&watch)?, frame))
        }
    }
}

/// The action itself, or only its plan.
pub(super) fn dry(action: Action, dry_run: bool) -> Result<Action, SocError> {
    match (dry_run, action) {
        (false, action) => Ok(action),
        (true, Action::Advise { .. }) => Err(SocError::Usage(
            "advise shows its message and changes nothing else; there is nothing to plan".to_owned(),
        )),
        (true, action) if !action.has_plan() => {
            Err(SocError::Usage(format!("{} changes nothing; there is nothing to plan", action.name())))
        }
        (true, action) => Ok(Action::Plan { action: Box::new(action) }),
    }
}

/// When a process began, as its finding says.
fn begin(text: &str) -> Result<Timestamp, SocError> {
    let wrong =
        || SocError::Usage("--started: a time as findings tell it, like 2026-01-02T03:04:05.678Z".to_owned());
    Timestamp::parse(text).ok_or_else(wrong)
}

/// A lease of what changes a host: without one it would end at once, and no agent takes it.
pub(super) fn lease(text: &str) -> Result<Duration, SocError> {
    match parse_period(text) {
        Ok(Duration::ZERO) => Err(SocError::Usage("--lease: longer than 0s".to_owned())),
        lease => lease.map_err(|error| SocError::Usage(format!("--lease: {error}"))),
    }
}

fn listed(entries: &[String], file: Option<&Path>) -> Result<Vec<Network>, SocError> {
    let text = match file {
        None => None,
        Some(path) => {
            let name = path.display().to_string();
            let text = String::from_utf8(read_file(path)?)
                .map_err(|_| SocError::Usage(format!("{}: not UTF-8 text", printable(&name))))?;
            Some((name, text))
        }
    };
    let file = text.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    networks::collect(entries, file).map_err(SocError::Usage)
}

/// The command, its hosts looked up and its bounds checked.
pub(super) async fn compose(
    session: &Session,
    action: Action,
    lease: Duration,
    hosts: &[String],
    text: &CommandText,
) -> Result<Command, SocError> {
    let (tenant, hosts) = audience(session, hosts, text).await?;
    assemble(action, lease, tenant, hosts, text, session.now)
}

/// Writes a command as an unsigned envelope, which still has room for all signatures that it may get.
pub(super) fn write_command(path: &Path, command: &Command) -> Result<(), SocError> {
    let failing = |error: serde_json::Error| SocError::Failing(error.to_string());
    let envelope = Envelope::new(PAYLOAD_TYPE, &serde_json::to_vec(command).map_err(failing)?);
    let bytes = serde_json::to_vec(&envelope).map_err(failing)?.len();
    if bytes > ENVELOPE_BYTES_MAX - SIGNATURES_BYTES {
        return Err(SocError::Usage(format!(
            "the command has {bytes} bytes, more than agents take: name fewer hosts or networks in one command"
        )));
    }
    write_envelope(path, &envelope)
}

/// Reads the command in an envelope without trusting it.
pub(super) fn peek(envelope: &Envelope) -> Result<Command, SocError> {
    if envelope.payload_type() != PAYLOAD_TYPE {
        return Err(SocError::Usage("the envelope holds no command".to_owned()));
    }
    let bad = |error: &dyn std::fmt::Display| SocError::Bad(printable(&error.to_string()).into_owned());
    Command::parse(&envelope.payload().map_err(|e| bad(&e))?).map_err(|e| bad(&e))
}

/// Writes an envelope as JSON for people to look at: members on lines of their own.
pub(super) fn write_envelope(path: &Path, envelope: &Envelope) -> Result<(), SocError> {
    let mut bytes =
        serde_json::to_vec_pretty(envelope).map_err(|error| SocError::Failing(error.to_string()))?;
    bytes.push(b'\n');
    replace_file(path, &bytes)
}

/// Whole agent ids with `--tenant` need no collector, so that the machine that signs may be off the network.
async fn audience(
    session: &Session,
    names: &[String],
    text: &CommandText,
) -> Result<(Tenant, Vec<AgentId>), SocError> {
    if names.len() > HOSTS_MAX {
        return Err(SocError::Usage(format!("a command names at most {HOSTS_MAX} hosts")));
    }
    let tenant = text.tenant.as_deref().map(|name| {
        Tenant::parse(name)
            .ok_or_else(|| SocError::Usage("--tenant: 1 to 64 characters of a-z, 0-9 and -".to_owned()))
    });
    let tenant = tenant.transpose()?;
    let ids: Option<Vec<AgentId>> = names.iter().map(|name| AgentId::parse(name)).collect();
    let (tenant, mut hosts) = match (tenant, ids) {
        (Some(tenant), Some(hosts)) => (tenant, hosts),
        (tenant, _) => {
            let (_, client) = session.connect()?;
            look_up(&client, tenant, names).await?
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
    text: &CommandText,
    now: Timestamp,
) -> Result<Command, SocError> {
    let expires = parse_future(&text.expires, now).map_err(SocError::Usage)?;
    let not_before = match &text.not_before {
        Some(begin) => parse_past(begin, now).map_err(SocError::Usage)?,
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
        reason: text.reason.clone(),
        ticket: text.ticket.clone(),
    };
    command.check().map_err(|error| SocError::Usage(error.to_string()))?;
    Ok(command)
}
