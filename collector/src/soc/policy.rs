//! What a new trust root shall say: from options for one role, or from a TOML policy for several.

use std::collections::{BTreeMap, BTreeSet};

use picket_protocol::age::Recipient;
use picket_protocol::command::Action;
use picket_protocol::crypto::PublicKey;
use picket_protocol::dsse::{Envelope, KeyId};
use picket_protocol::finding::printable;
use picket_protocol::identity::Tenant;
use picket_protocol::signer::SignerKey;
use picket_protocol::ssh::SshKey;
use picket_protocol::time::Timestamp;
use picket_protocol::trust::{AudienceBound, OperatorKey, PAYLOAD_TYPE, Role, RootRole, TrustRoot};

use super::args::TrustNewArguments;
use super::error::SocError;
use super::period::{parse_future, parse_period};

/// What operators may order when nothing is said.
const ACTIONS: [&str; 3] = ["advise", "scan", "drill"];
/// Name of the one role that options make.
const ROLE: &str = "responder";

/// The TOML form; options are turned into it.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    tenant: String,
    #[serde(default = "year")]
    expires: String,
    operators: BTreeMap<String, String>,
    root: RootPolicy,
    roles: BTreeMap<String, RolePolicy>,
    /// To whom evidence is encrypted.
    #[serde(default)]
    evidence: Vec<String>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RootPolicy {
    operators: Vec<String>,
    threshold: u32,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RolePolicy {
    operators: Vec<String>,
    threshold: u32,
    actions: Vec<String>,
    /// Signatures to hosts. TOML keys are strings.
    hosts: BTreeMap<String, u32>,
    lease_max: String,
}

fn year() -> String {
    "365d".to_owned()
}

impl Policy {
    /// Parses the TOML form.
    pub fn parse(text: &str) -> Result<Self, SocError> {
        toml::from_str(text).map_err(|error| SocError::Usage(format!("the policy cannot be read: {error}")))
    }

    /// The same from options: one role for everybody who is named.
    pub fn from_options(arguments: &TrustNewArguments) -> Result<Self, SocError> {
        let mut operators = BTreeMap::new();
        let mut add = |name: &str, key: &str| match operators.insert(name.to_owned(), key.to_owned()) {
            None => Ok(()),
            Some(_) => Err(SocError::Usage(format!("operator {name:?} is named twice"))),
        };
        for path in &arguments.key {
            let (name, key) = super::key_file::read_public(path)?;
            add(&name, &key.to_string())?;
        }
        for text in &arguments.ssh_key {
            let (name, key) = named_ssh_key(text)?;
            add(&name, &key.to_string())?;
        }
        for text in &arguments.operator {
            let parts = text.split_once('=');
            let (name, key) =
                parts.ok_or_else(|| SocError::Usage("--operator takes NAME=PUBLIC".to_owned()))?;
            add(name, key)?;
        }
        if operators.is_empty() {
            return Err(SocError::Usage(
                "name the operators: --key FILE.pub or --ssh-key FILE.pub for each".to_owned(),
            ));
        }
        let names: Vec<String> = operators.keys().cloned().collect();
        let actions = match arguments.action.as_slice() {
            [] => ACTIONS.map(str::to_owned).to_vec(),
            given => given.to_vec(),
        };
        let hosts = match arguments.hosts.as_slice() {
            [] => BTreeMap::from([(arguments.threshold.to_string(), 10)]),
            given => given.iter().map(|text| audience(text)).collect::<Result<_, _>>()?,
        };
        let role = RolePolicy {
            operators: names.clone(),
            threshold: arguments.threshold,
            actions,
            hosts,
            lease_max: arguments.lease_max.clone(),
        };
        Ok(Self {
            tenant: arguments.tenant.clone().unwrap_or_default(),
            expires: arguments.expires.clone(),
            operators,
            root: RootPolicy { operators: names, threshold: arguments.root_threshold },
            roles: BTreeMap::from([(ROLE.to_owned(), role)]),
            evidence: arguments.evidence_recipient.clone(),
        })
    }

    /// The trust root that it describes, checked by the rules that agents apply.
    pub fn trust_root(&self, version: u64, now: Timestamp) -> Result<TrustRoot, SocError> {
        let usage = |text: String| SocError::Usage(text);
        let tenant = Tenant::parse(&self.tenant).ok_or_else(|| {
            usage(format!("{:?} is no tenant: 1 to 64 characters of a-z, 0-9 and -", self.tenant))
        })?;
        let mut ids = BTreeMap::new();
        let (mut keys, mut points) = (BTreeMap::new(), BTreeSet::new());
        for (name, text) in &self.operators {
            let public = operator_key(text).map_err(|why| usage(format!("the key of {name:?}: {why}")))?;
            if !points.insert(*public.point()) {
                return Err(usage(format!("{name:?} has the key of another operator")));
            }
            let id = public.id();
            ids.insert(name.as_str(), id.clone());
            keys.insert(id, OperatorKey { name: name.clone(), public });
        }
        let members = |names: &[String]| -> Result<BTreeSet<KeyId>, SocError> {
            let id_of = |name: &String| {
                ids.get(name.as_str()).cloned().ok_or_else(|| usage(format!("no operator {name:?}")))
            };
            names.iter().map(id_of).collect()
        };
        let root = RootRole { keys: members(&self.root.operators)?, threshold: self.root.threshold };
        let mut roles = BTreeMap::new();
        for (name, role) in &self.roles {
            roles.insert(name.clone(), role.build(members(&role.operators)?)?);
        }
        let expires = parse_future(&self.expires, now).map_err(usage)?;
        let recipient =
            |text: &String| text.parse().map_err(|error| usage(format!("{:?}: {error}", printable(text))));
        let evidence = self.evidence.iter().map(recipient).collect::<Result<BTreeSet<Recipient>, _>>()?;
        let root = TrustRoot { version, tenant, expires, keys, root, roles, evidence };
        let payload = serde_json::to_vec(&root).map_err(|error| SocError::Failing(error.to_string()))?;
        TrustRoot::peek(&Envelope::new(PAYLOAD_TYPE, &payload)).map_err(|error| usage(error.to_string()))
    }
}

impl RolePolicy {
    fn build(&self, keys: BTreeSet<KeyId>) -> Result<Role, SocError> {
        let mut bounds = Vec::new();
        for (signatures, hosts) in &self.hosts {
            let signatures = signatures.parse().map_err(|_| {
                SocError::Usage(format!("hosts: {signatures:?} is not a number of signatures"))
            })?;
            bounds.push(AudienceBound { signatures, hosts: *hosts });
        }
        bounds.sort_by_key(|bound| bound.signatures);
        if let Some(unknown) = self.actions.iter().find(|word| !Action::NAMES.contains(&word.as_str())) {
            return Err(SocError::Usage(format!(
                "{:?} is no action; these are: {}",
                printable(unknown),
                Action::NAMES.join(", ")
            )));
        }
        let lease = parse_period(&self.lease_max).map_err(SocError::Usage)?;
        Ok(Role {
            keys,
            threshold: self.threshold,
            actions: self.actions.iter().cloned().collect(),
            audience: bounds,
            lease_seconds_max: lease.as_secs(),
        })
    }
}

/// The key of an operator: what `soc keygen` printed, or the line of a `.pub` file of OpenSSH.
fn operator_key(text: &str) -> Result<SignerKey, String> {
    let text = text.trim();
    if text.contains(char::is_whitespace) {
        let parsed = SshKey::parse_line(text).map(|(key, _)| key.into());
        return parsed.map_err(|error| printable(&error.to_string()).into_owned());
    }
    let neither = "not the base64 that `soc keygen` printed, nor the line of an SSH key's .pub file";
    PublicKey::parse(text).map(SignerKey::from).ok_or_else(|| neither.to_owned())
}

/// `[NAME=]FILE.pub`: without a name the operator is called what the key's comment says.
fn named_ssh_key(text: &str) -> Result<(String, SshKey), SocError> {
    let named = text.split_once('=').filter(|(name, _)| !name.contains('/'));
    let (name, path) = named.map_or((None, text), |(name, path)| (Some(name), path));
    let (key, comment) = super::ssh_key::read_public(path.as_ref())?;
    let name = name.map_or(comment, str::to_owned);
    if name.is_empty() {
        return Err(SocError::Usage(format!(
            "{path} has no comment: name the operator, --ssh-key NAME={path}"
        )));
    }
    Ok((name, key))
}

fn audience(text: &str) -> Result<(String, u32), SocError> {
    let parts = text.split_once('=').and_then(|(signatures, hosts)| {
        let signatures: u32 = signatures.parse().ok()?;
        Some((signatures.to_string(), hosts.parse().ok()?))
    });
    parts.ok_or_else(|| SocError::Usage("--hosts takes SIGNATURES=HOSTS, as in 2=100".to_owned()))
}

#[cfg(test)]
mod tests {
    use picket_protocol::crypto::SigningKey;

    use super::*;

    fn policy(operators: &str, rest: &str) -> Result<TrustRoot, SocError> {
        let text = format!("tenant = \"acme\"\n[operators]\n{operators}\n{rest}");
        Policy::parse(&text)?.trust_root(1, Timestamp::from_seconds(0))
    }

    const REST: &str = "[root]\noperators = [\"alice\"]\nthreshold = 1\n[roles.advisers]\noperators = [\"alice\"]\n\
                        threshold = 1\nactions = [\"advise\"]\nhosts = { 1 = 10, 2 = 100 }\nlease_max = \"7d\"\n";

    fn key(seed: u8) -> PublicKey {
        SigningKey::from_seed([seed; 32]).public()
    }

    #[test]
    fn a_policy_becomes_a_trust_root() {
        let root = policy(&format!("alice = \"{}\"", key(1)), REST).unwrap();
        let role = &root.roles["advisers"];
        assert_eq!((role.threshold, role.lease_seconds_max, role.audience.len()), (1, 604_800, 2));
        assert_eq!(root.root.keys, BTreeSet::from([KeyId::of(&key(1))]));
    }

    #[test]
    fn operators_may_have_ssh_keys() {
        let (file, token) = (SshKey::of_file(key(2)).unwrap(), SshKey::of_token(key(3), "ssh:").unwrap());
        let operators =
            format!("alice = \"{}\"\ncarol = \"{file} carol@laptop\"\ndave = \"{token}\"", key(1));
        let root = policy(&operators, REST).unwrap();
        let kinds: BTreeMap<_, _> =
            root.keys.values().map(|key| (key.name.as_str(), key.public.kind())).collect();
        let expected =
            [("alice", "ed25519"), ("carol", "ssh-ed25519"), ("dave", "sk-ssh-ed25519@openssh.com")];
        assert_eq!(kinds, BTreeMap::from(expected));
        let file = SshKey::of_file(key(1)).unwrap();
        let one_key = format!("alice = \"{}\"\ncarol = \"{file}\"", key(1));
        assert!(policy(&one_key, REST).unwrap_err().to_string().contains("another operator"));
    }

    #[test]
    fn contradictions_are_refused() {
        let alice = format!("alice = \"{}\"", key(1));
        let cases = [
            (format!("{alice}\nbob = \"{}\"", key(1)), REST.to_owned(), "another operator"),
            ("alice = \"x\"".to_owned(), REST.to_owned(), "keygen"),
            ("alice = \"ssh-rsa AAAA a@b\"".to_owned(), REST.to_owned(), "only ssh-ed25519"),
            ("alice = \"ssh-ed25519 AAAA a@b\"".to_owned(), REST.to_owned(), "malformed"),
            (alice.clone(), REST.replace("\"alice\"", "\"carol\""), "carol"),
            (alice.clone(), REST.replace("threshold = 1", "threshold = 2"), "threshold"),
            (alice.clone(), REST.replace("1 = 10", "one = 10"), "number of signatures"),
            (alice.clone(), REST.replace("\"advise\"", "\"advise\", \"isolat\""), "isolate-unit"),
            (alice, REST.replace("7d", "forever"), "forever"),
        ];
        for (operators, rest, expected) in cases {
            let error = policy(&operators, &rest).unwrap_err();
            assert!(error.exit_code() == 3 && error.to_string().contains(expected), "{error}");
        }
    }
}
