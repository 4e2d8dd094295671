//! `soc evidence`: what agents collected by commands `preserve`. The collector holds it encrypted; it is opened here, with an
//! identity that never leaves this machine, and held against the receipt that the host sealed of it.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::age::{Recipient, identity_text};
use picket_protocol::bundle::Bundle;
use picket_protocol::command::{Outcome, Receipt};
use picket_protocol::crypto::hex;
use picket_protocol::evidence::{DETAIL, Sealed};
use picket_protocol::identity::AgentId;
use picket_protocol::record::Record;
use ring::rand::SecureRandom as _;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::args::{EvidenceAction, EvidenceGetArguments, EvidenceVerifyArguments, VerifyArguments};
use super::client::{Client, with_query};
use super::error::SocError;
use super::hosts::{resolve, resolve_optional};
use super::proof::{Verdict, keys_for};
use super::screen::{Cell, Column, Paint, short_time};
use super::{Session, notice, read_file, replace_file};
use crate::api::types::{Evidence, EvidenceList};

mod check;
mod identity;
mod open;

use check::{Checked, check};
use identity::Identity;

/// Between two pieces of a download.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);
/// Differences that are printed.
const SHOWN_MAX: usize = 50;

const COLUMNS: [Column; 9] = [
    Column { head: "BEGAN", width_max: 20 },
    Column { head: "HOST", width_max: 24 },
    Column { head: "STATE", width_max: 10 },
    Column { head: "BYTES", width_max: 14 },
    Column { head: "HELD", width_max: 14 },
    Column { head: "COMMAND", width_max: 36 },
    Column { head: "AGENT", width_max: 36 },
    Column { head: "PLAYBOOK", width_max: 36 },
    Column { head: "WHY IT WAITS", width_max: 160 },
];

/// `soc evidence …`.
pub(super) async fn run(session: &mut Session, action: EvidenceAction) -> Result<u8, SocError> {
    match action {
        EvidenceAction::List { host, all: _, tenant } => list(session, host.as_deref(), tenant).await,
        EvidenceAction::Get(arguments) => get(session, &arguments).await,
        EvidenceAction::Verify(arguments) => verify(session, &arguments),
        EvidenceAction::Delete { id, host } => delete(session, id, host.as_deref()).await,
        EvidenceAction::Keygen { out } => keygen(session, &out),
    }
}

async fn list(session: &mut Session, host: Option<&str>, tenant: Option<String>) -> Result<u8, SocError> {
    let (_, client) = session.connect()?;
    let agent = resolve_optional(&client, host).await?;
    let filters = [("host", agent.map(|agent| agent.to_string())), ("tenant", tenant)];
    let list: EvidenceList = client.get(&with_query("/evidence", &filters)).await?;
    if session.json {
        list.items.iter().try_for_each(|item| session.screen.json_line(item))?;
    } else if list.items.is_empty() {
        session.screen.line("There is no evidence.")?;
    } else {
        let rows: Vec<_> = list.items.iter().map(row).collect();
        session.screen.table(&COLUMNS, &rows)?;
    }
    Ok(0)
}

fn row(item: &Evidence) -> Vec<Cell> {
    let paint = match item.state.as_str() {
        "complete" => Paint::Green,
        "mismatch" => Paint::Red,
        _ => Paint::Yellow,
    };
    vec![
        Cell::time(item.began),
        Cell::new(&item.hostname),
        Cell::new(&item.state).paint(paint),
        Cell::new(item.size.to_string()),
        Cell::new(item.held.to_string()),
        Cell::new(item.command.to_string()),
        Cell::new(item.agent.to_string()),
        Cell::new(item.playbook.map_or("-".to_owned(), |playbook| playbook.to_string())),
        Cell::new(item.waits.as_deref().unwrap_or("-")),
    ]
}

/// The bundle of a command, also of a playbook; of several hosts only with one of them named.
async fn find(client: &Client, id: Uuid, host: Option<&str>) -> Result<Evidence, SocError> {
    let agent = match host {
        Some(host) => Some(resolve(client, host).await?.agent),
        None => None,
    };
    let filter = [("host", agent.map(|agent| agent.to_string()))];
    let list: EvidenceList = client.get(&with_query("/evidence", &filter)).await?;
    let mut found = list.items.into_iter().filter(|item| item.command == id || item.playbook == Some(id));
    match (found.next(), found.next()) {
        (Some(item), None) => Ok(item),
        (Some(_), Some(_)) => Err(SocError::Usage(format!(
            "there are several bundles of {id}: name a host with --host, or one bundle as COMMAND in soc evidence list"
        ))),
        (None, _) => Err(SocError::Bad(format!("the collector has no evidence of {id}"))),
    }
}

/// `soc evidence get`.
async fn get(session: &mut Session, arguments: &EvidenceGetArguments) -> Result<u8, SocError> {
    let identity = arguments.identity.as_deref().map(Identity::read).transpose()?;
    let (config, client) = session.connect()?;
    let item = find(&client, arguments.id, arguments.host.as_deref()).await?;
    let bytes = client.get_bytes(&format!("/evidence/{}/{}/bundle", item.agent, item.command)).await?;
    let bundle =
        Bundle::parse(&bytes).map_err(|error| SocError::Failing(format!("the collector gave {error}")))?;
    let verdict = super::show::check_bundle(session, &config, &client, bundle, item.agent).await?;
    let sealed = receipt_of(&verdict, item.agent, Some(item.command)).map_err(SocError::Bad)?;
    let end = if identity.is_some() { "tar.zst" } else { "tar.zst.age" };
    let output = arguments.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.{end}", item.command)));
    let scratch = Scratch::beside(&output)?;
    download(&client, &item, &sealed, &scratch).await?;
    let checked = match &identity {
        None => None,
        Some(identity) => {
            let opened = Scratch::beside(&output.with_extension("opened"))?;
            let checked = check(&scratch.path, Some(identity), Some(&opened.file), &sealed)?;
            if checked.problems.is_empty() {
                opened.keep(&output)?;
            }
            Some(checked)
        }
    };
    if identity.is_none() {
        scratch.keep(&output)?;
    }
    let holds = checked.as_ref().is_none_or(|checked| checked.problems.is_empty());
    if holds {
        replace_file(&proof_of(&output), &bytes)?;
    }
    show(session, &verdict, &sealed, checked.as_ref(), holds.then_some(output.as_path()))
}

/// Fetches the encrypted file, which must be the sealed one.
async fn download(
    client: &Client,
    item: &Evidence,
    sealed: &Sealed,
    scratch: &Scratch,
) -> Result<(), SocError> {
    let mut answer = client.download(&format!("/evidence/{}/{}", item.agent, item.command)).await?;
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    let mut size = 0_u64;
    while let Some(piece) = answer.piece(PIECE_TIMEOUT).await? {
        size = size.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if size > sealed.sealed_bytes {
            return Err(SocError::Bad("the collector gave more than the host had sealed".to_owned()));
        }
        hash.update(&piece);
        (&scratch.file).write_all(&piece).map_err(SocError::file("write", &scratch.path))?;
    }
    let found = hex(hash.finish().as_ref());
    if size != sealed.sealed_bytes || found != sealed.sealed_sha256 {
        return Err(SocError::Bad(format!(
            "what the collector gave is not what the host had sealed: {size} bytes with the SHA-256 {found}, where the \
             receipt says {} with {}",
            sealed.sealed_bytes, sealed.sealed_sha256
        )));
    }
    scratch.file.sync_all().map_err(SocError::file("write", &scratch.path))
}

/// `soc evidence verify`: asks no collector.
fn verify(session: &mut Session, arguments: &EvidenceVerifyArguments) -> Result<u8, SocError> {
    let identity = arguments.identity.as_deref().map(Identity::read).transpose()?;
    let proof = arguments.proof.clone().unwrap_or_else(|| proof_of(&arguments.file));
    let bundle = Bundle::parse(&read_file(&proof)?)
        .map_err(|error| SocError::Usage(format!("{}: {error}", proof.display())))?;
    let agent = bundle.agent;
    let given = VerifyArguments {
        file: proof,
        agent_key: arguments.agent_key.clone(),
        witness: arguments.witness.clone(),
    };
    let keys = keys_for(session, &bundle, &given)?;
    let verdict = Verdict::of(bundle, keys);
    let sealed = receipt_of(&verdict, agent, None).map_err(SocError::Bad)?;
    let checked = check(&arguments.file, identity.as_ref(), None, &sealed)?;
    show(session, &verdict, &sealed, Some(&checked), None)
}

/// What the proven receipt says of a bundle.
fn receipt_of(verdict: &Verdict, agent: AgentId, command: Option<Uuid>) -> Result<Sealed, String> {
    let proven =
        verdict.outcome.as_ref().map_err(|why| format!("the receipt's proof does not hold: {why}"))?;
    let receipt = Record::parse(&proven.record).ok().and_then(|record| record.body::<Receipt>().ok());
    let receipt = receipt.ok_or("the proven record is no receipt")?;
    let about = verdict.claimed.agent == agent && command.is_none_or(|id| receipt.about() == Some(id));
    if !about || receipt.outcome != Outcome::Applied {
        return Err("the proven receipt is not about this evidence".to_owned());
    }
    let sealed = receipt.detail.get(DETAIL).cloned().ok_or("the proven receipt tells of no evidence")?;
    serde_json::from_value(sealed).map_err(|error| format!("the proven receipt cannot be read: {error}"))
}

fn show(
    session: &mut Session,
    verdict: &Verdict,
    sealed: &Sealed,
    checked: Option<&Checked>,
    written: Option<&Path>,
) -> Result<u8, SocError> {
    let problems = checked.map(|checked| checked.problems.as_slice()).unwrap_or_default();
    let code = u8::from(!problems.is_empty());
    if session.json {
        session.screen.json(&serde_json::json!({
            "verified": problems.is_empty(),
            "problems": problems,
            "opened": checked.is_some_and(|checked| checked.opened),
            "entries": checked.map(|checked| checked.entries),
            "written": written,
            "evidence": sealed,
            "proof": verdict.to_json(),
        }))?;
        return Ok(code);
    }
    let screen = &mut session.screen;
    verdict.print(screen)?;
    screen.field("collected", format!("{} to {}", short_time(sealed.began), short_time(sealed.ended)))?;
    screen.field("sealed", format!("{} bytes, SHA-256 {}", sealed.sealed_bytes, sealed.sealed_sha256))?;
    let recipients: Vec<String> = sealed.recipients.iter().map(Recipient::to_string).collect();
    screen.field("encrypted to", recipients.join(", "))?;
    screen.field("files", format!("{}, {} bytes", sealed.entries, sealed.plain_bytes))?;
    for (why, count) in &sealed.skipped {
        screen.field("", format!("{why}: {count}"))?;
    }
    if problems.is_empty() {
        let what = match checked {
            Some(Checked { opened: true, entries, .. }) => {
                format!("each of {entries} files is what was sealed")
            }
            _ => "the encrypted file is what was sealed".to_owned(),
        };
        screen.field_cell("evidence", &Cell::new(what).paint(Paint::Green))?;
    }
    for problem in problems.iter().take(SHOWN_MAX) {
        screen.field_cell("DIFFERS", &Cell::new(problem).paint(Paint::RedBold))?;
    }
    if problems.len() > SHOWN_MAX {
        screen.field("", format!("and {} more", problems.len() - SHOWN_MAX))?;
    }
    if let Some(path) = written {
        notice(&format!("wrote {} and {}", path.display(), proof_of(path).display()));
    }
    Ok(code)
}

/// `soc evidence delete`.
async fn delete(session: &mut Session, id: Uuid, host: Option<&str>) -> Result<u8, SocError> {
    let (_, client) = session.connect()?;
    let item = find(&client, id, host).await?;
    let deleted: Evidence = client.delete(&format!("/evidence/{}/{}", item.agent, item.command)).await?;
    if session.json {
        session.screen.json(&deleted)?;
    } else {
        session
            .screen
            .line(&format!("The evidence of {id} on {} is deleted; its receipt stays.", deleted.agent))?;
    }
    Ok(0)
}

/// `soc evidence keygen`: in the form of `age-keygen`.
fn keygen(session: &mut Session, out: &Path) -> Result<u8, SocError> {
    let mut secret = Zeroizing::new([0; 32]);
    let failed = |_| SocError::Failing("the system gives no random numbers".to_owned());
    ring::rand::SystemRandom::new().fill(&mut *secret).map_err(failed)?;
    let recipient = identity::recipient_of(&secret);
    let text = Zeroizing::new(format!(
        "# created: {}\n# public key: {recipient}\n{}\n",
        session.now,
        identity_text(&secret).as_str()
    ));
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(0o600).open(out).map_err(SocError::file("create", out))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(SocError::file("write", out))?;
    if session.json {
        session.screen.json(&serde_json::json!({ "identity": out, "recipient": recipient }))?;
    } else {
        session.screen.field("identity", format!("{} (keep it off the collector)", out.display()))?;
        session.screen.field("recipient", recipient.to_string())?;
    }
    Ok(0)
}

/// Where the proof of the receipt lies beside a bundle.
fn proof_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".proof.json");
    path.with_file_name(name)
}

/// A file that is there in the end, or not at all.
struct Scratch {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Scratch {
    fn beside(path: &Path) -> Result<Self, SocError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let path = path.with_file_name(name);
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(SocError::file("create", &path))?;
        Ok(Self { path, file, kept: false })
    }

    fn keep(mut self, path: &Path) -> Result<(), SocError> {
        self.file.sync_all().map_err(SocError::file("write", &self.path))?;
        std::fs::rename(&self.path, path).map_err(SocError::file("replace", path))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept {
            // What stays is visible by its name.
            drop(std::fs::remove_file(&self.path));
        }
    }
}
