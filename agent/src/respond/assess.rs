//! `assess`: how this host stands against what the agent knows of it as usual. It looks, and changes nothing.
//!
//! Nothing is scanned anew: what sensors found within [`WINDOW`] is held against what is there now. A file that is again as it was
//! before the first of those findings, or gone where there was none, counts no more, nor does a socket that listens no more. What
//! packages or other known hands explain never counted. Sessions are told and weigh nothing: whoever cleans up is logged in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::crypto::{hex, sha256};
use picket_protocol::finding::{Entity, Finding, printable};
use picket_protocol::record::{Kind, Record};
use picket_protocol::time::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::preserve::Answering;
use super::processes::hash_of;
use crate::ledger::{Reader, RecordFilter};
use crate::sense::network::listeners::Listeners;
use crate::sense::processes::{deleted_executable_of, living};
use crate::sense::sessions::Sessions;

/// How far back findings count: what happened before was there when operators looked last.
pub const WINDOW: Duration = Duration::from_secs(30 * 86_400);
/// Items that are told; more are counted.
pub const ITEMS_MAX: usize = 100;
/// Sessions that are told.
const SESSIONS_MAX: usize = 50;
/// Findings that are held against what is there; a host with more is not assessed.
const FINDINGS_MAX: usize = 10_000;
/// Longest name of an item, in characters.
const ITEM_CHARS_MAX: usize = 280;
/// The rule of a socket that is new.
const LISTENER: &str = "net.listener";
/// Largest file whose content is looked at; a larger one counts as changed.
const BYTES_MAX: u64 = 256 << 20;

/// Said of a file that is not looked at.
const UNSEEN: &str = "Not looked at, since another host or program answers for it";

/// What makes the host unclean.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Item {
    /// What operators accept it by: its rule and its object, always the same for the same.
    pub item: String,
    /// One sentence.
    pub what: String,
    /// The finding that told of it first, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<Uuid>,
}

/// How the host stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Assessment {
    /// What makes it unclean.
    pub items: Vec<Item>,
    /// Such items beyond those.
    #[serde(default)]
    pub left_out: usize,
    /// Login sessions that are open.
    pub sessions: Vec<String>,
}

/// Looks; the error is a sentence for the receipt.
pub type Assess = Arc<dyn Fn(Timestamp) -> Result<Assessment, String> + Send + Sync>;

/// What is looked at.
#[derive(Clone)]
pub struct Assessor {
    /// The ledger.
    pub database: PathBuf,
    /// Which programs listen.
    pub listeners: Listeners,
    /// Who is logged in.
    pub sessions: Sessions,
}

impl Assessor {
    /// Looks now.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn assess(&self, now: Timestamp) -> Result<Assessment, String> {
        let findings = findings(&self.database, now)?;
        let mut assessment = Assessment::default();
        let mut items: BTreeMap<String, Item> = BTreeMap::new();
        let mut add = |item: Item| {
            items.entry(item.item.clone()).or_insert(item);
        };
        let answering = Answering::now();
        let hangs = |path: &Path| answering.may_hang(path);
        files(&findings, &hangs).into_iter().for_each(&mut add);
        match self.listeners.list() {
            Some(listening) => {
                let open: BTreeSet<(String, u16, String)> = listening
                    .iter()
                    .map(|one| (one.protocol.as_str().to_owned(), one.port, one.program.clone()))
                    .collect();
                listeners(&findings, &open).into_iter().for_each(&mut add);
            }
            None => add(Item {
                item: "unknown listeners".to_owned(),
                what: "Which programs listen could not be looked at: their sensor does not run".to_owned(),
                finding: None,
            }),
        }
        deleted_programs(&hangs).into_iter().for_each(&mut add);
        assessment.left_out = items.len().saturating_sub(ITEMS_MAX);
        assessment.items = items.into_values().take(ITEMS_MAX).collect();
        assessment.sessions = self.open_sessions();
        Ok(assessment)
    }

    fn open_sessions(&self) -> Vec<String> {
        let living = self.sessions.list().into_iter().filter(|session| session.ended.is_none());
        let line = |session: crate::detect::sessions::Session| {
            let user = session.user.map_or_else(|| "somebody".to_owned(), |user| user.text);
            let from = session.address.map_or_else(String::new, |address| format!(" from {address}"));
            cut(&format!("{user} by {}{from} since {}", session.service, session.since))
        };
        living.map(line).take(SESSIONS_MAX).collect()
    }
}

impl Assessment {
    /// What is left when operators accept some items.
    #[must_use]
    pub fn without(self, accepted: &[String]) -> Self {
        let items = self.items.into_iter().filter(|item| !accepted.contains(&item.item)).collect();
        Self { items, ..self }
    }

    /// Whether nothing speaks against giving the host back.
    pub fn is_clean(&self) -> bool {
        self.items.is_empty() && self.left_out == 0
    }

    /// One sentence, and the whole as data.
    pub fn tell(&self) -> (String, Value) {
        let count = self.items.len().saturating_add(self.left_out);
        let title = match self.items.first() {
            None => "Nothing differs from what is usual here".to_owned(),
            Some(first) if count == 1 => format!("1 item is to be judged: {}", first.item),
            Some(first) => format!("{count} items are to be judged, the first of them {}", first.item),
        };
        (title, serde_json::to_value(self).unwrap_or_default())
    }
}

/// Unexplained findings of the window that can make an item, each once as it was told last, the oldest first.
fn findings(database: &Path, now: Timestamp) -> Result<Vec<Finding>, String> {
    let window = i64::try_from(WINDOW.as_nanos()).unwrap_or(i64::MAX);
    let since = Timestamp::from_nanos(now.nanos().saturating_sub(window));
    let filter = RecordFilter {
        kind: Some(Kind::Finding),
        since: Some(since),
        limit: usize::MAX,
        ..RecordFilter::default()
    };
    let reader = Reader::open(database).map_err(|error| error.to_string())?;
    let (mut seen, mut findings) = (BTreeSet::new(), Vec::new());
    // What does not count may be any number: a brute force that goes on for days must not push out what somebody planted.
    let visited = reader.visit(&filter, |record| {
        let finding = Record::parse(&record.bytes).and_then(|record| record.body::<Finding>());
        let Ok(finding) = finding else { return ControlFlow::Continue(()) };
        let is_newest = seen.insert(finding.id);
        if is_newest && finding.explained_by.is_none() && !finding.drill && weighs(&finding) {
            findings.push(finding);
        }
        if findings.len() > FINDINGS_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    visited.map_err(|error| error.to_string())?;
    if findings.len() > FINDINGS_MAX {
        return Err(format!(
            "more than {FINDINGS_MAX} findings of the last 30 days speak against this host; it is to be looked at by people"
        ));
    }
    findings.reverse();
    Ok(findings)
}

/// Whether a finding can make an item at all.
fn weighs(finding: &Finding) -> bool {
    finding.rule == LISTENER || counts(finding)
}

/// Rules of files that count wherever the file lies.
fn counts(finding: &Finding) -> bool {
    let rule = finding.rule.as_str();
    let power = ["persistence.", "account.", "privilege."].iter().any(|begin| rule.starts_with(begin));
    let program = finding.evidence.get("class").and_then(Value::as_str) == Some("programs");
    power || program || matches!(rule, "package.mismatch" | "file.masquerade")
}

/// Files that are not as they were before the first finding about them. Those on file systems that may never answer are not looked at, and
/// count: who looks would be held for good.
fn files(findings: &[Finding], hangs: &impl Fn(&Path) -> bool) -> Vec<Item> {
    let mut first: BTreeMap<PathBuf, &Finding> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| counts(finding)) {
        let path = finding.entities.iter().find_map(|entity| match entity {
            Entity::File { path } => Some(path.to_bytes()),
            _ => None,
        });
        if let Some(path) = path {
            first.entry(path_of(&path)).or_insert(finding);
        }
    }
    let item = |(path, finding): (PathBuf, &Finding)| {
        let what = match hangs(&path) {
            true => format!("{UNSEEN}: {}", finding.title),
            false if is_as_before(&path, finding) => return None,
            false => finding.title.clone(),
        };
        Some(Item { item: named(&finding.rule, &path), what: cut(&what), finding: Some(finding.id) })
    };
    first.into_iter().filter_map(item).collect()
}

fn path_of(bytes: &[u8]) -> PathBuf {
    std::ffi::OsStr::from_bytes(bytes).into()
}

/// Whether the file is again what it was before: absent, or with that content, owner and mode.
fn is_as_before(path: &Path, finding: &Finding) -> bool {
    let before = finding.evidence.get("before").filter(|before| before.is_object());
    let now = std::fs::symlink_metadata(path);
    let (before, now) = match (before, now) {
        (None, Err(error)) => return error.kind() == std::io::ErrorKind::NotFound,
        (None, Ok(_)) | (Some(_), Err(_)) => return false,
        (Some(before), Ok(now)) => (before, now),
    };
    let number = |name: &str| before.get(name).and_then(Value::as_u64);
    let mode = before.get("mode").and_then(Value::as_str).and_then(|mode| u32::from_str_radix(mode, 8).ok());
    let same_owner = number("uid") == Some(now.uid().into()) && number("gid") == Some(now.gid().into());
    if !same_owner || mode != Some(now.mode() & 0o7777) {
        return false;
    }
    let kind = now.file_type();
    if kind.is_symlink() {
        let target = std::fs::read_link(path).ok().map(|target| target.to_string_lossy().into_owned());
        return target.as_deref() == before.pointer("/target/text").and_then(Value::as_str);
    }
    if kind.is_dir() || kind.is_socket() || kind.is_fifo() {
        return true;
    }
    let wanted = before.get("sha256").and_then(Value::as_str);
    kind.is_file() && wanted.is_some() && digest(path).as_deref() == wanted
}

/// The content of a file of bounded size. One that is a pipe by now is not waited for.
fn digest(path: &Path) -> Option<String> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let about = file.metadata().ok()?;
    if !about.is_file() || about.len() > BYTES_MAX {
        return None;
    }
    hash_of(file, BYTES_MAX).ok()
}

/// Sockets that were new within the window, and listen still.
fn listeners(findings: &[Finding], open: &BTreeSet<(String, u16, String)>) -> Vec<Item> {
    let mut items = Vec::new();
    for finding in findings.iter().filter(|finding| finding.rule == LISTENER) {
        let text = |name: &str| finding.evidence.get(name).and_then(Value::as_str).unwrap_or_default();
        let port =
            finding.evidence.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        let Some(port) = port else { continue };
        let still = open.iter().find(|(protocol, number, _)| protocol == text("protocol") && *number == port);
        if let Some((protocol, _, program)) = still {
            let item = named(&format!("{LISTENER} {protocol}/{port}"), Path::new(program));
            items.push(Item { item, what: cut(&finding.title), finding: Some(finding.id) });
        }
    }
    items
}

/// Programs that run and are no file any more, nor was another put in their place as updates do.
fn deleted_programs(hangs: &impl Fn(&Path) -> bool) -> Vec<Item> {
    let mut items = Vec::new();
    for pid in living() {
        let Some(path) = deleted_executable_of(pid) else { continue };
        let in_memory = path.starts_with(b"/memfd:");
        let path = path_of(&path);
        if in_memory || hangs(&path) || !path.exists() {
            items.push(Item {
                item: named("process.deleted", &path),
                what: cut(&format!("Process {pid} runs {}, which is no file any more", path.display())),
                finding: None,
            });
        }
    }
    items
}

/// What operators accept an item by. A path that cannot be told as it is has its digest beside it: whoever plants one that looks the
/// same has not planted what was accepted.
fn named(begin: &str, path: &Path) -> String {
    let whole = format!("{begin} {}", path.display());
    let told = cut(&whole);
    if path.to_str().is_some() && told == whole {
        return told;
    }
    let digest = hex(&sha256(&[begin.as_bytes(), b"\0", path.as_os_str().as_bytes()]));
    format!("{told}… (sha256 {digest})")
}

/// Text from outside, for a receipt, and for operators to repeat.
fn cut(text: &str) -> String {
    printable(&text.chars().take(ITEM_CHARS_MAX).collect::<String>()).into_owned()
}

#[cfg(test)]
mod tests;
