//! `soc keygen` and `soc sign`: nobody signs what he did not see. The plan is printed from the very bytes
//! that are signed, with how far it reaches.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use picket_protocol::action::Network;
use picket_protocol::command::{Action, Command};
use picket_protocol::dsse::{Envelope, KeyId};
use picket_protocol::playbook::{Otherwise, Step};
use picket_protocol::signer::SignerKey;
use picket_protocol::time::Timestamp;
use picket_protocol::trust::TrustRoot;

use super::args::SignArguments;
use super::error::SocError;
use super::period::show_period;
use super::screen::{Cell, Paint, Screen, short_time};
use super::signer::Signer;
use super::{Session, draft, key_file, reach, trust};

/// Networks of one action that are printed one by one unless all are asked for; hosts are, all of them.
pub(super) const NETWORKS_SHOWN_MAX: usize = 1_000;

/// `soc keygen`.
pub(super) fn keygen(
    session: &mut Session,
    name: Option<String>,
    out: Option<PathBuf>,
) -> Result<u8, SocError> {
    let path = match out {
        Some(path) => path,
        None => {
            let path = session.config_path()?.with_file_name("operator.key");
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory).map_err(SocError::file("create", directory))?;
            }
            path
        }
    };
    let name = name.or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| "operator".to_owned());
    let key = key_file::generate()?;
    key_file::write(&path, &name, &key)?;
    let (public, id) = (key.public(), KeyId::of(&key.public()));
    if session.json {
        session
            .screen
            .json(&serde_json::json!({ "file": path, "name": name, "key_id": id, "public": public }))?;
        return Ok(0);
    }
    session.screen.field("key id", id.to_string())?;
    session.screen.field("public", public.to_string())?;
    session.screen.field("private", format!("{} (mode 0600; never leaves this machine)", path.display()))?;
    session.screen.line(
        "\nGive the public half (FILE.pub) to whoever writes the trust root: soc trust new --key FILE.pub",
    )?;
    Ok(0)
}

/// `soc sign FILE` and `soc trust sign FILE`.
pub(super) fn sign(session: &mut Session, arguments: &SignArguments) -> Result<u8, SocError> {
    let mut envelope = trust::read_envelope(&arguments.file)?;
    let signer = Signer::open(session, arguments)?;
    let key = signer.public();
    let pinned =
        arguments.trust.as_deref().map(|path| trust::peek(&trust::read_envelope(path)?)).transpose()?;
    let shown = if arguments.all_networks { usize::MAX } else { NETWORKS_SHOWN_MAX };
    let before = plan(session, &envelope, &key, pinned.as_ref(), shown)?;
    if before {
        session.screen.line("You have signed this already; one key counts once. Nothing is changed.")?;
        return Ok(0);
    }
    confirm(arguments.yes)?;
    signer.sign(&mut envelope)?;
    draft::write_envelope(&arguments.file, &envelope)?;
    let count = envelope.signatures().len();
    let id = key.id();
    if session.json {
        session
            .screen
            .json(&serde_json::json!({ "file": arguments.file, "key_id": id, "signatures": count }))?;
    } else {
        let signatures = if count == 1 { "1 signature".to_owned() } else { format!("{count} signatures") };
        session
            .screen
            .line(&format!("Signed with key {id}: {} has {signatures} now.", arguments.file.display()))?;
    }
    Ok(0)
}

/// Prints what is about to be signed; tells whether `key` has signed it before.
fn plan(
    session: &mut Session,
    envelope: &Envelope,
    key: &SignerKey,
    pinned: Option<&TrustRoot>,
    shown: usize,
) -> Result<bool, SocError> {
    let (screen, now) = (&mut session.screen, session.now);
    let own = std::collections::BTreeMap::from([(key.id(), key.clone())]);
    let signed = envelope.verify(envelope.payload_type(), &own);
    let signed = signed.is_ok_and(|verified| !verified.signers.is_empty());
    if session.json {
        // The plan is for eyes; programs read the payload. What does not parse is refused all the same.
        return match envelope.payload_type() {
            picket_protocol::trust::PAYLOAD_TYPE => trust::peek(envelope).map(|_| signed),
            _ => draft::peek(envelope).map(|_| signed),
        };
    }
    if envelope.payload_type() == picket_protocol::trust::PAYLOAD_TYPE {
        let root = trust::peek(envelope)?;
        trust::print(screen, &root, now)?;
        trust::print_signatures(
            screen,
            envelope,
            picket_protocol::trust::PAYLOAD_TYPE,
            pinned.unwrap_or(&root),
        )?;
        return Ok(signed);
    }
    let command = draft::peek(envelope)?;
    print_command(screen, &command, now, shown)?;
    match pinned {
        Some(root) => print_reach(screen, envelope, &command, root, key)?,
        None => screen.field(
            "signatures",
            format!("{} so far, not checked (--trust FILE checks them)", envelope.signatures().len()),
        )?,
    }
    if command.expires <= now {
        return Err(SocError::Bad("the command has expired: no agent would obey it".to_owned()));
    }
    Ok(signed)
}

/// A command for a person, with how far it reaches; of each block so many networks.
pub(super) fn print_command(
    screen: &mut Screen,
    command: &Command,
    now: Timestamp,
    shown: usize,
) -> Result<(), SocError> {
    screen.field("command", command.id.to_string())?;
    screen.field("action", command.action.describe())?;
    // Of a plan all that is told of what it is of.
    if let Action::Block { networks } = command.action.planned()
        && networks.len() > 1
    {
        list(screen, networks, shown)?;
    }
    if let Action::Playbook { steps, .. } = command.action.planned() {
        print_steps(screen, steps, shown)?;
    }
    let count = command.hosts.len();
    let hosts = if count == 1 { "1 host".to_owned() } else { format!("{count} hosts") };
    let paint = if count > 1 { Paint::Yellow } else { Paint::Plain };
    screen.field_cell("reaches", &Cell::new(format!("{hosts} of tenant {}", command.tenant)).paint(paint))?;
    for host in &command.hosts {
        screen.field("", host.to_string())?;
    }
    screen.field(
        "obeyed",
        format!("from {} to {}", short_time(command.not_before), short_time(command.expires)),
    )?;
    if command.expires <= now {
        screen.field_cell("", &Cell::new("it has expired").paint(Paint::Red))?;
    } else {
        screen.field("", format!("which is in {}", show_period(command.expires.since(now))))?;
    }
    if command.lease > 0 {
        screen.field("lease", show_period(std::time::Duration::from_secs(command.lease)))?;
    }
    if command.action.is_probed() {
        let text = "by each host itself: when the lease ends, and at once if it cannot confirm that it holds and that \
                    the collector is still reached";
        screen.field("undone", text)?;
    }
    screen.field("reason", &command.reason)?;
    screen.field("ticket", &command.ticket)?;
    Ok(())
}

/// The steps of a playbook: nobody signs what he did not see.
fn print_steps(screen: &mut Screen, steps: &[Step], shown: usize) -> Result<(), SocError> {
    let period = |seconds| show_period(std::time::Duration::from_secs(seconds));
    for (number, step) in (1..).zip(steps) {
        screen.field(&format!("step {number}"), format!("{}: {}", step.name, step.action.describe()))?;
        if let Action::Block { networks } = &step.action
            && networks.len() > 1
        {
            list(screen, networks, shown)?;
        }
        let lease = if step.lease > 0 { format!("lease {}; ", period(step.lease)) } else { String::new() };
        let otherwise = match step.otherwise {
            Otherwise::Stop => "if it fails, the playbook stops",
            Otherwise::GoOn => "if it fails, the next step follows",
        };
        let text = format!("{}; {lease}within {}; {otherwise}", step.when, period(step.timeout));
        screen.field("", text)?;
    }
    Ok(())
}

/// All of them, the widest first; of a list that nobody reads as many as anybody may, and how wide the rest is at most.
fn list(screen: &mut Screen, networks: &[Network], shown: usize) -> Result<(), SocError> {
    let mut networks: Vec<&Network> = networks.iter().collect();
    // Of IPv6 a network of 64 bits is one host's.
    let width = |network: &Network| {
        (if network.address().is_ipv4() { 32 } else { 64_u8 }).saturating_sub(network.length())
    };
    networks.sort_by_key(|network| std::cmp::Reverse(width(network)));
    for network in networks.iter().take(shown) {
        screen.field("", network.to_string())?;
    }
    if let Some(next) = networks.get(shown) {
        let more = networks.len() - shown;
        screen.field(
            "",
            format!("… and {more} more, none wider than {next}: soc sign --all-networks prints all"),
        )?;
    }
    Ok(())
}

/// Whether the signatures suffice, role by role, with and without the one that is about to be added.
fn print_reach(
    screen: &mut Screen,
    envelope: &Envelope,
    command: &Command,
    root: &TrustRoot,
    key: &SignerKey,
) -> Result<(), SocError> {
    trust::print_signatures(screen, envelope, picket_protocol::command::PAYLOAD_TYPE, root)?;
    let verified = envelope.verify(picket_protocol::command::PAYLOAD_TYPE, &root.public_keys());
    let mut signers = verified.map_err(|error| SocError::Bad(error.to_string()))?.signers;
    signers.insert(key.id());
    if root.tenant != command.tenant {
        let text = format!("the trust root is for tenant {}", root.tenant);
        return Ok(screen.field_cell("mismatch", &Cell::new(text).paint(Paint::RedBold))?);
    }
    for part in command.action.parts(command.lease) {
        let (mut any, action) = (false, part.action.name());
        let step = part.step.map_or_else(String::new, |step| format!("step {step}: "));
        for (name, role) in root.roles.iter().filter(|(_, role)| role.actions.contains(action)) {
            any = true;
            let count = role.keys.intersection(&signers).count();
            let (enough, text) = reach::judge(role, count, command.hosts.len(), part.lease);
            let paint = if enough { Paint::Green } else { Paint::Yellow };
            screen.field_cell("with yours", &Cell::new(format!("{step}role {name}: {text}")).paint(paint))?;
        }
        if !any {
            let text = format!("{step}{}", reach::no_role(action));
            screen.field_cell("with yours", &Cell::new(text).paint(Paint::Red))?;
        }
    }
    Ok(())
}

fn confirm(yes: bool) -> Result<(), SocError> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(SocError::Usage(
            "nobody can be asked here: give --yes to sign what is shown above".to_owned(),
        ));
    }
    write!(std::io::stderr(), "Sign this? [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(SocError::Bad("not signed".to_owned())),
    }
}
