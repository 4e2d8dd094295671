//! Whether a command is obeyed: a pure decision, in exactly the order of [`Check`].
//!
//! Of a playbook each step must pass what its action would have to pass as a command of its own, with the same signatures, for the
//! same hosts and with the step's lease; the whole is refused, and the step named, when one does not.
//!
//! Only [`verify`] makes an [`Authorised`], and only an [`Authorised`] is carried out.

use std::collections::BTreeSet;

use picket_protocol::action::Part;
use picket_protocol::command::{self, Check, Command};
use picket_protocol::dsse::{Envelope, KeyId};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::time::Timestamp;
use picket_protocol::trust::{Role, TrustRoot};
use uuid::Uuid;

/// What this host knows when it judges a command.
pub struct Situation<'a> {
    /// The pinned trust root, when there is one.
    pub trust_root: Option<&'a TrustRoot>,
    /// Who we are and whose, when enrolled.
    pub identity: Option<(AgentId, &'a Tenant)>,
    /// Actions that the customer allows.
    pub allowed: &'a [String],
    /// How many operators must sign an action by the word of the host's owner; the error says why nobody can tell.
    pub signers: &'a dyn Fn(&str) -> Result<u32, String>,
    /// Whether the customer holds all commands back.
    pub held: bool,
    /// See [`effective_time`].
    pub now: Timestamp,
    /// Whether a command with that id was ever obeyed; the error says why nobody can tell.
    pub seen: &'a dyn Fn(Uuid) -> Result<bool, String>,
}

/// A command that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorised {
    command: Command,
    signers: Vec<String>,
    role: String,
}

impl Authorised {
    /// The command.
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// Names of the operators in the role who signed.
    pub fn signers(&self) -> &[String] {
        &self.signers
    }

    /// The role that they acted in.
    pub fn role(&self) -> &str {
        &self.role
    }
}

/// A command that failed a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The first check that it failed.
    pub check: Check,
    /// One sentence for a person. May hold text from outside.
    pub reason: String,
    /// What the envelope claims, where it could be read.
    pub claimed: Option<Command>,
    /// Names of the operators whose signatures are valid, as far as that was found out.
    pub signers: Vec<String>,
}

/// The time by which windows are judged: setting the wall clock back behind what the collector cosigned last
/// revives nothing.
pub fn effective_time(wall: Timestamp, cosigned: Option<Timestamp>) -> Timestamp {
    cosigned.map_or(wall, |cosigned| wall.max(cosigned))
}

/// Judges the bytes of an envelope.
pub fn verify(envelope: &[u8], situation: &Situation<'_>) -> Result<Authorised, Box<Refusal>> {
    let plain = |reason: String| {
        Box::new(Refusal { check: Check::WellFormed, reason, claimed: None, signers: Vec::new() })
    };
    let envelope = Envelope::parse(envelope).map_err(|error| plain(error.to_string()))?;
    let command = read_command(&envelope).map_err(plain)?;
    let mut signers = Vec::new();
    match judge(&envelope, &command, situation, &mut signers) {
        Ok(role) => Ok(Authorised { command, signers, role }),
        Err((check, reason)) => Err(Box::new(Refusal { check, reason, claimed: Some(command), signers })),
    }
}

type Verdict<T> = Result<T, (Check, String)>;

fn judge(
    envelope: &Envelope,
    command: &Command,
    situation: &Situation<'_>,
    names: &mut Vec<String>,
) -> Verdict<String> {
    let (root, agent, tenant) = trust_in_force(situation)?;
    let signers = valid_signers(envelope, root)?;
    *names = names_of(root, &signers);
    let parts = command.action.parts(command.lease);
    let asked = each(&parts, |part| roles_of(root, part, &signers).map(|roles| (*part, roles)))?;
    let asked = each(asked, |(part, roles)| Ok((part, above_threshold(roles, &part)?)))?;
    check_tenant(command, root, tenant)?;
    check_window(command, situation.now)?;
    if !command.hosts.contains(&agent) {
        return refuse(Check::Host, "this host is not among the hosts of the command".to_owned());
    }
    let hosts = command.hosts.len();
    let asked = each(asked, |(part, roles)| Ok((part, within_audience(roles, &part, hosts)?)))?;
    check_unseen(command, situation)?;
    let acting = each(asked, |(part, roles)| Ok((part, within_lease(roles, &part)?)))?;
    if situation.held {
        return refuse(Check::LocalPolicy, "this host holds commands back (agent hold-commands)".to_owned());
    }
    for (part, acting) in &acting {
        check_policy(part, situation, acting.count())?;
    }
    let acted: BTreeSet<KeyId> = acting.iter().flat_map(|(_, acting)| acting.signers.clone()).collect();
    *names = names_of(root, &acted);
    let roles: BTreeSet<&str> = acting.iter().map(|(_, acting)| acting.name).collect();
    Ok(roles.into_iter().collect::<Vec<_>>().join(", "))
}

/// One check of all parts, before the next one of any.
fn each<T, R>(parts: impl IntoIterator<Item = T>, check: impl FnMut(T) -> Verdict<R>) -> Verdict<Vec<R>> {
    parts.into_iter().map(check).collect()
}

/// A role that may order the action, with those of its keys that signed.
struct Acting<'a> {
    name: &'a str,
    role: &'a Role,
    signers: BTreeSet<KeyId>,
}

impl Acting<'_> {
    fn count(&self) -> u32 {
        u32::try_from(self.signers.len()).unwrap_or(u32::MAX)
    }
}

fn refuse<T>(check: Check, reason: String) -> Verdict<T> {
    Err((check, reason))
}

/// The same of a part, whose step is named.
fn refuse_part<T>(part: &Part<'_>, check: Check, reason: String) -> Verdict<T> {
    let reason = part.step.map_or(reason.clone(), |step| format!("step {step}: {reason}"));
    refuse(check, reason)
}

/// Reads the payload and checks all that can be said about it alone.
fn read_command(envelope: &Envelope) -> Result<Command, String> {
    if envelope.payload_type() != command::PAYLOAD_TYPE {
        let found: String = envelope.payload_type().chars().take(100).collect();
        return Err(format!("the payload type is {found:?}, not that of a command"));
    }
    let payload = envelope.payload().map_err(|error| error.to_string())?;
    Command::parse(&payload).map_err(|error| error.to_string())
}

fn trust_in_force<'a>(situation: &Situation<'a>) -> Verdict<(&'a TrustRoot, AgentId, &'a Tenant)> {
    let Some(root) = situation.trust_root else {
        return refuse(Check::TrustRoot, "no trust root is pinned on this host".to_owned());
    };
    let Some((agent, tenant)) = situation.identity else {
        return refuse(Check::TrustRoot, "this host is not enrolled".to_owned());
    };
    if situation.now >= root.expires {
        return refuse(Check::TrustRoot, format!("the trust root expired at {}", root.expires));
    }
    Ok((root, agent, tenant))
}

fn valid_signers(envelope: &Envelope, root: &TrustRoot) -> Verdict<BTreeSet<KeyId>> {
    match envelope.verify(command::PAYLOAD_TYPE, &root.public_keys()) {
        Ok(verified) if !verified.signers.is_empty() => Ok(verified.signers),
        Ok(_) => refuse(Check::Signatures, "no signature by a key of the trust root is valid".to_owned()),
        Err(error) => refuse(Check::Signatures, error.to_string()),
    }
}

fn roles_of<'a>(root: &'a TrustRoot, part: &Part<'_>, signers: &BTreeSet<KeyId>) -> Verdict<Vec<Acting<'a>>> {
    let action = part.action.name();
    let may = root.roles.iter().filter(|(_, role)| role.actions.contains(action));
    let acting = may.map(|(name, role)| {
        let signers = role.keys.intersection(signers).cloned().collect();
        Acting { name, role, signers }
    });
    let acting: Vec<_> = acting.filter(|acting| !acting.signers.is_empty()).collect();
    if acting.is_empty() {
        let reason = format!("none of the signers is in a role that may order {action}");
        return refuse_part(part, Check::Role, reason);
    }
    Ok(acting)
}

fn above_threshold<'a>(roles: Vec<Acting<'a>>, part: &Part<'_>) -> Verdict<Vec<Acting<'a>>> {
    let best = roles.iter().map(|acting| (acting.count(), acting.role.threshold)).max();
    let enough: Vec<_> = roles.into_iter().filter(|a| a.count() >= a.role.threshold).collect();
    if enough.is_empty() {
        let (found, needed) = best.unwrap_or_default();
        let reason = format!("{found} of the role's operators signed; {} takes {needed}", part.action.name());
        return refuse_part(part, Check::Threshold, reason);
    }
    Ok(enough)
}

fn check_tenant(command: &Command, root: &TrustRoot, tenant: &Tenant) -> Verdict<()> {
    if command.tenant != *tenant || root.tenant != *tenant {
        return refuse(Check::Tenant, format!("the command is for tenant {}", command.tenant));
    }
    Ok(())
}

fn check_window(command: &Command, now: Timestamp) -> Verdict<()> {
    if now < command.not_before {
        return refuse(Check::NotBefore, format!("not to be obeyed before {}", command.not_before));
    }
    if now >= command.expires {
        return refuse(Check::Expiry, format!("the command expired at {}", command.expires));
    }
    Ok(())
}

/// The most hosts that a command with so many signers of the role may name.
fn audience_max(acting: &Acting<'_>) -> u32 {
    let reached = acting.role.audience.iter().filter(|bound| bound.signatures <= acting.count());
    reached.map(|bound| bound.hosts).max().unwrap_or(0)
}

fn within_audience<'a>(roles: Vec<Acting<'a>>, part: &Part<'_>, hosts: usize) -> Verdict<Vec<Acting<'a>>> {
    let most = roles.iter().map(audience_max).max().unwrap_or(0);
    let fits = |acting: &Acting<'_>| usize::try_from(audience_max(acting)).is_ok_and(|max| hosts <= max);
    let wide: Vec<_> = roles.into_iter().filter(fits).collect();
    if wide.is_empty() {
        let reason = format!("the command names {hosts} hosts; so many signers may name {most}");
        return refuse_part(part, Check::BlastRadius, reason);
    }
    Ok(wide)
}

fn check_unseen(command: &Command, situation: &Situation<'_>) -> Verdict<()> {
    match (situation.seen)(command.id) {
        Ok(false) => Ok(()),
        Ok(true) => refuse(Check::Replay, "a command with this id was obeyed before".to_owned()),
        Err(why) => refuse(Check::Replay, format!("cannot tell whether it was obeyed before: {why}")),
    }
}

fn within_lease<'a>(roles: Vec<Acting<'a>>, part: &Part<'_>) -> Verdict<Acting<'a>> {
    let (longest, lease) =
        (roles.iter().map(|acting| acting.role.lease_seconds_max).max().unwrap_or(0), part.lease);
    if lease == 0 && part.action.takes_lease() {
        return refuse_part(part, Check::Lease, format!("{} needs a lease", part.action.name()));
    }
    match roles.into_iter().find(|acting| lease <= acting.role.lease_seconds_max) {
        Some(acting) => Ok(acting),
        None => {
            let reason = format!("the lease of {lease} s is longer than the role's {longest} s");
            refuse_part(part, Check::Lease, reason)
        }
    }
}

fn check_policy(part: &Part<'_>, situation: &Situation<'_>, signed: u32) -> Verdict<()> {
    let action = part.action.name();
    if !situation.allowed.iter().any(|allowed| allowed == action) {
        let reason = format!("{action} is not in commands.allow of this host");
        return refuse_part(part, Check::LocalPolicy, reason);
    }
    let needed = (situation.signers)(action).or_else(|why| refuse_part(part, Check::LocalPolicy, why))?;
    if signed < needed {
        let reason = format!("{signed} operators signed; the owner of this host wants {needed} for {action}");
        return refuse_part(part, Check::LocalPolicy, reason);
    }
    Ok(())
}

fn names_of(root: &TrustRoot, signers: &BTreeSet<KeyId>) -> Vec<String> {
    signers.iter().filter_map(|id| root.keys.get(id)).map(|key| key.name.clone()).collect()
}
