//! `soc trust`: making, showing and installing trust roots.

use std::path::Path;

use picket_protocol::dsse::{Envelope, KeyId};
use picket_protocol::finding::printable;
use picket_protocol::signer::SignerKey;
use picket_protocol::time::Timestamp;
use picket_protocol::trust::{OperatorKey, PAYLOAD_TYPE, TrustRoot};

use super::args::TrustNewArguments;
use super::client::{Client, percent_encoded, with_query};
use super::error::SocError;
use super::period::show_period;
use super::policy::Policy;
use super::screen::{Cell, Paint, Screen, short_time};
use super::{Session, read_file};
use crate::api::types::{Trust, TrustList};

/// `soc trust new`.
pub(super) fn new(session: &mut Session, arguments: TrustNewArguments) -> Result<u8, SocError> {
    let policy = match &arguments.policy {
        Some(path) => {
            let text = String::from_utf8(read_file(path)?);
            Policy::parse(&text.map_err(|_| SocError::Usage("the policy is not UTF-8 text".to_owned()))?)?
        }
        None => Policy::from_options(&arguments)?,
    };
    let version = match &arguments.replaces {
        Some(path) => peek(&read_envelope(path)?)?.version.saturating_add(1),
        None => 1,
    };
    let root = policy.trust_root(version, session.now)?;
    let payload = serde_json::to_vec(&root).map_err(|error| SocError::Failing(error.to_string()))?;
    super::draft::write_envelope(&arguments.output, &Envelope::new(PAYLOAD_TYPE, &payload))?;
    if session.json {
        session.screen.json(&root)?;
        return Ok(0);
    }
    print(&mut session.screen, &root, session.now)?;
    let file = arguments.output.display();
    session.screen.line(&format!(
        "\nWrote {file}, unsigned. Next: soc trust sign {file} --key FILE (by {} of the root keys{}); soc trust install {file}",
        root.root.threshold,
        if version > 1 { ", and by as many of the old ones as they ask for" } else { "" }
    ))?;
    Ok(0)
}

/// `soc trust show`.
pub(super) async fn show(
    session: &mut Session,
    file: Option<&Path>,
    tenant: Option<&str>,
    output: Option<&Path>,
) -> Result<u8, SocError> {
    let envelope = match (file, tenant) {
        (Some(file), _) => read_envelope(file)?,
        (None, Some(tenant)) => {
            let (_, client) = session.connect()?;
            in_force(&client, tenant).await?
        }
        (None, None) => return Err(SocError::Usage("name a file or a tenant".to_owned())),
    };
    if let Some(path) = output {
        super::draft::write_envelope(path, &envelope)?;
    }
    let root = peek(&envelope)?;
    if session.json {
        session.screen.json(&root)?;
        return Ok(0);
    }
    print(&mut session.screen, &root, session.now)?;
    print_signatures(&mut session.screen, &envelope, PAYLOAD_TYPE, &root)?;
    Ok(0)
}

/// The trust root that the collector says is in force for a tenant.
pub(super) async fn in_force(client: &Client, tenant: &str) -> Result<Envelope, SocError> {
    let list: TrustList = client.get(&with_query("/trust", &[("tenant", Some(tenant.to_owned()))])).await?;
    let none = || SocError::Bad(format!("no trust root is installed for {}", printable(tenant)));
    Ok(list.items.into_iter().next().ok_or_else(none)?.envelope)
}

/// `soc trust install FILE`.
pub(super) async fn install(session: &mut Session, file: &Path) -> Result<u8, SocError> {
    let envelope = read_envelope(file)?;
    let root = peek(&envelope)?;
    let (_, client) = session.connect()?;
    let bytes = serde_json::to_vec(&envelope).map_err(|error| SocError::Failing(error.to_string()))?;
    let trust: Trust =
        client.post(&format!("/trust?tenant={}", percent_encoded(root.tenant.as_str())), bytes).await?;
    if session.json {
        session.screen.json(&trust)?;
    } else {
        session.screen.line(&format!(
            "Version {} of the trust root of {} is in force; agents that are connected have it now, others when they come.",
            trust.version, trust.tenant
        ))?;
    }
    Ok(0)
}

/// Reads an envelope from a file.
pub(super) fn read_envelope(path: &Path) -> Result<Envelope, SocError> {
    Envelope::parse(&read_file(path)?)
        .map_err(|error| SocError::Usage(format!("{}: {}", path.display(), printable(&error.to_string()))))
}

/// Reads the trust root in an envelope without trusting it.
pub(super) fn peek(envelope: &Envelope) -> Result<TrustRoot, SocError> {
    TrustRoot::peek(envelope).map_err(|error| SocError::Bad(printable(&error.to_string()).into_owned()))
}

/// A trust root for a person.
pub(super) fn print(screen: &mut Screen, root: &TrustRoot, now: Timestamp) -> Result<(), SocError> {
    let name_of = |id: &KeyId| root.keys.get(id).map_or_else(|| id.0.clone(), |key| key.name.clone());
    screen.field("trust root", format!("version {} for tenant {}", root.version, root.tenant))?;
    if root.expires > now {
        let left = show_period(root.expires.since(now));
        screen.field("expires", format!("{} (in {left})", short_time(root.expires)))?;
    } else {
        screen.field_cell("EXPIRED", &Cell::new(short_time(root.expires)).paint(Paint::RedBold))?;
    }
    for (id, key) in &root.keys {
        screen.field("operator", operator(id, key))?;
    }
    for recipient in &root.evidence {
        screen.field("evidence to", recipient.to_string())?;
    }
    let names: Vec<String> = root.root.keys.iter().map(name_of).collect();
    screen.field("replaced by", format!("{} of {}", root.root.threshold, names.join(", ")))?;
    for (role_name, role) in &root.roles {
        let names: Vec<String> = role.keys.iter().map(name_of).collect();
        let actions: Vec<&str> = role.actions.iter().map(String::as_str).collect();
        screen.field(
            "role",
            format!(
                "{role_name}: {} of {} may order {}",
                role.threshold,
                names.join(", "),
                actions.join(", ")
            ),
        )?;
        for bound in &role.audience {
            screen.field("", format!("up to {} hosts with {} signatures", bound.hosts, bound.signatures))?;
        }
        let lease = show_period(std::time::Duration::from_secs(role.lease_seconds_max));
        screen.field("", format!("for at most {lease}"))?;
    }
    Ok(())
}

/// An operator's name, the kind of the key, and the key.
fn operator(id: &KeyId, key: &OperatorKey) -> String {
    match &key.public {
        SignerKey::Ed25519(public) => format!("{} {} {public} (key {id})", key.name, key.public.kind()),
        // The text of these begins with their kind.
        SignerKey::Ssh(public) => match public.application() {
            None => format!("{} {public} (key {id})", key.name),
            Some(application) => {
                format!("{} {public} (on a token, application {application}; key {id})", key.name)
            }
        },
    }
}

/// Who signed an envelope, as far as `root` knows their keys.
pub(super) fn print_signatures(
    screen: &mut Screen,
    envelope: &Envelope,
    payload_type: &str,
    root: &TrustRoot,
) -> Result<(), SocError> {
    let verified = envelope.verify(payload_type, &root.public_keys());
    let verified = verified.map_err(|error| SocError::Bad(printable(&error.to_string()).into_owned()))?;
    for id in &verified.signers {
        let name = root.keys.get(id).map_or("?", |key| key.name.as_str());
        screen.field_cell("signed by", &Cell::new(format!("{name} (key {id})")).paint(Paint::Green))?;
    }
    let others = envelope.signatures().len().saturating_sub(verified.signers.len());
    if others > 0 {
        let text = format!("{others} signatures by keys that are not in this trust root, or not valid");
        screen.field_cell("", &Cell::new(text).paint(Paint::Yellow))?;
    }
    if envelope.signatures().is_empty() {
        screen.field_cell("signed by", &Cell::new("nobody yet").paint(Paint::Yellow))?;
    }
    Ok(())
}
