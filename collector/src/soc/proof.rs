//! Checking a proof file on this machine, and `soc verify`: offline, with nothing but the file and the
//! public keys.

use std::path::Path;

use picket_protocol::bundle::{Bundle, Proven};
use picket_protocol::crypto::PublicKey;
use picket_protocol::finding::{Finding, printable};
use picket_protocol::note::VerifierKey;
use picket_protocol::record::{Kind, Record};

use super::args::VerifyArguments;
use super::error::SocError;
use super::known::{Known, Origin};
use super::screen::{Cell, Paint, Screen, short_time};
use super::{Session, read_file};

/// The keys that a proof is checked with, and where they come from.
#[derive(Clone)]
pub(super) struct Keys {
    /// The host's ledger key at enrolment.
    pub agent: (PublicKey, Origin),
    /// The collector's witness key.
    pub witness: (VerifierKey, Origin),
}

/// What came of a check.
pub(super) struct Verdict {
    /// What the file claims to be about.
    pub claimed: Bundle,
    /// What it proves, or why nothing.
    pub outcome: Result<Proven, String>,
    /// What it was checked with.
    pub keys: Keys,
}

impl Verdict {
    /// Checks `bundle` with `keys`.
    pub fn of(bundle: Bundle, keys: Keys) -> Self {
        let outcome = bundle.verify(&keys.agent.0, &keys.witness.0).map_err(|error| error.to_string());
        Self { claimed: bundle, outcome, keys }
    }

    /// 0 when it holds, else 1.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.outcome.is_err())
    }

    /// For a program.
    pub fn to_json(&self) -> serde_json::Value {
        let (proven, why) = match &self.outcome {
            Ok(proven) => (Some(proven), None),
            Err(why) => (None, Some(why)),
        };
        serde_json::json!({
            "verified": proven.is_some(),
            "why": why,
            "agent": self.claimed.agent,
            "tenant": self.claimed.tenant,
            "seq": self.claimed.seq,
            "ledger_size": proven.map(|proven| proven.size),
            "cosigned": proven.map(|proven| proven.cosigned),
            "record": proven.map(|proven| String::from_utf8_lossy(&proven.record)),
            "agent_key": { "key": self.keys.agent.0, "origin": self.keys.agent.1.word() },
            "witness": { "key": self.keys.witness.0.to_string(), "origin": self.keys.witness.1.word() },
        })
    }

    /// For a person.
    pub fn print(&self, screen: &mut Screen) -> Result<(), SocError> {
        match &self.outcome {
            Ok(proven) => {
                screen.field_cell("proof", &Cell::new("verified").paint(Paint::Green))?;
                screen.field(
                    "",
                    format!("record {} of the ledger {}", self.claimed.seq, self.claimed.agent.origin()),
                )?;
                screen.field(
                    "",
                    format!(
                        "among {} records, cosigned by {} at {}",
                        proven.size,
                        self.keys.witness.0.name(),
                        short_time(proven.cosigned)
                    ),
                )?;
            }
            Err(why) => {
                screen.field_cell("proof", &Cell::new("NOT VERIFIED").paint(Paint::RedBold))?;
                screen.field("", why)?;
            }
        }
        screen.field("agent key", format!("{} ({})", self.keys.agent.0, self.keys.agent.1.describe()))?;
        screen
            .field("witness key", format!("{} ({})", self.keys.witness.0, self.keys.witness.1.describe()))?;
        Ok(())
    }
}

/// `soc verify FILE`.
pub(super) fn verify_file(session: &mut Session, arguments: &VerifyArguments) -> Result<u8, SocError> {
    let bytes = read_file(&arguments.file)?;
    let bundle = match Bundle::parse(&bytes) {
        Ok(bundle) => bundle,
        Err(error) => return not_a_proof(session, &error.to_string()),
    };
    let keys = keys_for(session, &bundle, arguments)?;
    let verdict = Verdict::of(bundle, keys);
    if session.json {
        session.screen.json(&verdict.to_json())?;
        return Ok(verdict.exit_code());
    }
    verdict.print(&mut session.screen)?;
    if let Ok(proven) = &verdict.outcome {
        session.screen.line("")?;
        print_record(&mut session.screen, &proven.record)?;
    }
    Ok(verdict.exit_code())
}

fn not_a_proof(session: &mut Session, why: &str) -> Result<u8, SocError> {
    if session.json {
        session.screen.json(&serde_json::json!({ "verified": false, "why": why }))?;
    } else {
        session.screen.field_cell("proof", &Cell::new("NOT VERIFIED").paint(Paint::RedBold))?;
        session.screen.field("", why)?;
    }
    Ok(1)
}

/// Keys that were given come first, then pinned ones. A collector is never asked here, and what the file says
/// of its own keys counts for nothing.
pub(super) fn keys_for(
    session: &Session,
    bundle: &Bundle,
    arguments: &VerifyArguments,
) -> Result<Keys, SocError> {
    let known = match (&arguments.agent_key, &arguments.witness) {
        (Some(_), Some(_)) => None,
        _ => session.config_path().ok().map(|path| Known::load(&path)).transpose()?,
    };
    let missing = |option: &str, what: &str| {
        SocError::Usage(format!(
            "no {what} is pinned on this machine: give it with {option} (it is no secret; the file's own word for it \
             would prove nothing)"
        ))
    };
    let agent = match &arguments.agent_key {
        Some(text) => {
            let key = PublicKey::parse(&text_or_file(text)?);
            (
                key.ok_or_else(|| {
                    SocError::Usage("--agent-key is not the base64 of a ledger key".to_owned())
                })?,
                Origin::Given,
            )
        }
        None => known
            .as_ref()
            .and_then(|known| known.host(bundle.agent))
            .ok_or_else(|| missing("--agent-key", &format!("ledger key of agent {}", bundle.agent)))?,
    };
    let witness = match &arguments.witness {
        Some(text) => {
            let key = VerifierKey::parse(&text_or_file(text)?);
            (key.map_err(|error| SocError::Usage(format!("--witness: {error}")))?, Origin::Given)
        }
        None => known.as_ref().and_then(Known::witness).ok_or_else(|| missing("--witness", "witness key"))?,
    };
    Ok(Keys { agent, witness })
}

/// The text itself, or the first line of the file that it names.
fn text_or_file(text: &str) -> Result<String, SocError> {
    let path = Path::new(text);
    if !path.is_file() {
        return Ok(text.trim().to_owned());
    }
    let bytes = read_file(path)?;
    let contents = String::from_utf8_lossy(&bytes);
    Ok(contents.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned())
}

/// A proven record for a person.
fn print_record(screen: &mut Screen, bytes: &[u8]) -> Result<(), SocError> {
    let record = Record::parse(bytes).map_err(|error| SocError::Bad(error.to_string()))?;
    if record.kind == Kind::Finding
        && let Ok(finding) = record.body::<Finding>()
    {
        return super::show::print_finding(screen, &finding);
    }
    screen.field("record", record.kind.as_str())?;
    screen.field("sealed", short_time(record.time))?;
    let body: serde_json::Value =
        record.body().map_err(|error| SocError::Bad(printable(&error.to_string()).into_owned()))?;
    super::show::tree(screen, "body", &body)
}
