//! How mass changes are worded, rated and proved.

use std::path::{Path, PathBuf};

use picket_protocol::crypto::hex;
use picket_protocol::finding::{Entity, Finding, Observed, Severity, Text, printable};
use std::os::unix::ffi::OsStrExt as _;
use uuid::Uuid;

use super::group::{Drops, Group, Victim};
use super::harm::Harm;
use crate::sense::files::change::SeenBy;
use crate::sense::files::note::Sign;
use crate::sense::processes::{Actor, Ancestor};

/// Characters of a name in a title.
const TITLE_NAME_CHARS_MAX: usize = 80;
/// Victims among the entities.
const ENTITIES_MAX: usize = 5;
/// Endings that are named.
const ENDINGS_MAX: usize = 8;

/// From where all came that is one act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A process.
    Process(Ancestor),
    /// Nobody is known: a directory.
    Place(PathBuf),
}

/// Files by what they came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HarmCount {
    /// What they came to.
    pub harm: Harm,
    /// How many.
    pub files: u64,
}

/// A victim.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VictimFacts {
    /// Where it was.
    pub path: Text,
    /// Where it is now, where that is elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Text>,
    /// What it came to.
    pub harm: Harm,
}

/// A text that lies in several folders.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NoteFacts {
    /// The first of them.
    pub path: Text,
    /// SimHash of the normalised text, 16 hexadecimal digits: see `sense::files::note`.
    pub fingerprint: String,
    /// Words of the normalised text.
    pub words: u16,
    /// What it speaks of.
    pub signs: Vec<Sign>,
    /// It speaks as a demand or a boast does.
    pub demand: bool,
    /// SHA-256 of the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// How many folders.
    pub folders: u64,
    /// The first of them.
    pub folders_named: Vec<Text>,
}

/// Mean collision entropy of what was encrypted, in bits a byte.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct EntropyFacts {
    /// Before.
    pub before: f32,
    /// After.
    pub after: f32,
}

/// Evidence of `file.mass-change` and `file.note-dropped`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct MassEvidence {
    /// Files by what they came to, worst first.
    pub harms: Vec<HarmCount>,
    /// All of them.
    pub victims_count: u64,
    /// Folders they lie in; 4,096 stands for at least so many.
    pub folders_count: u64,
    /// The first of them.
    pub victims: Vec<VictimFacts>,
    /// Endings that files took, commonest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endings: Vec<Text>,
    /// How much denser the content became.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<EntropyFacts>,
    /// The text that was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<NoteFacts>,
    /// Files of ordinary content that were written meanwhile.
    pub written: u64,
    /// The process from which all came; absent when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Ancestor>,
    /// The newest process that did it, with all above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// Nobody is known: what happened here is taken together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Text>,
    /// The same program did as much here on earlier days.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub habitual: bool,
    /// What made the sensor look, for the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_by: Option<SeenBy>,
}

/// `file.mass-change`.
pub fn mass_change(id: Uuid, origin: &Origin, group: &Group, habitual: bool) -> Finding {
    let drops = group.widest_drop().filter(|drops| drops.note.is_demand() || drops.folders.len() > 2);
    let count = group.victims_count();
    let harms = harms(group);
    let only_recoded = harms.iter().all(|harm| harm.harm == Harm::Recoded);
    let severity = match (habitual, only_recoded) {
        (true, _) => Severity::Medium,
        (_, true) => Severity::High,
        _ => Severity::Critical,
    };
    let note = drops.map(|drops| format!("; it left the note {}", name(&drops.first))).unwrap_or_default();
    let ending = group.endings.iter().max_by_key(|(ending, count)| (**count, (*ending).clone()));
    let ending = ending
        .filter(|(_, count)| **count > 2)
        .map(|(ending, _)| format!(", now named *.{}", shown(&ending.to_string_lossy())));
    let folders = group.folders.len();
    let title = format!(
        "{} {} in {folders} {}{}{note}",
        subject(origin, group),
        phrase(&harms),
        if folders == 1 { "folder" } else { "folders" },
        ending.unwrap_or_default(),
    );
    Finding {
        id,
        rule: "file.mass-change".to_owned(),
        severity,
        observed: Observed { first: group.first, last: group.last.max(group.first), count },
        title,
        entities: entities(origin, group, group.victims.iter().map(|victim| victim.path.as_path())),
        evidence: evidence(origin, group, drops, habitual),
        attack: attack(&harms, drops.is_some()),
        explained_by: None,
        drill: false,
    }
}

/// `file.note-dropped`.
pub fn note_dropped(id: Uuid, origin: &Origin, group: &Group) -> Option<Finding> {
    let drops = group.widest_drop()?;
    let demand = drops.note.is_demand();
    let folders = u64::try_from(drops.folders.len()).unwrap_or(u64::MAX);
    let speaks = if demand { "a demand" } else { "the same new text" };
    let title =
        format!("{} left {speaks} in {folders} folders: {}", subject(origin, group), name(&drops.first));
    Some(Finding {
        id,
        rule: "file.note-dropped".to_owned(),
        severity: if demand { Severity::Critical } else { Severity::High },
        observed: Observed { first: group.first, last: group.last.max(group.first), count: folders },
        title,
        entities: entities(origin, group, std::iter::once(drops.first.as_path())),
        evidence: evidence(origin, group, Some(drops), false),
        attack: attack(&[], demand),
        explained_by: None,
        drill: false,
    })
}

fn evidence(origin: &Origin, group: &Group, drops: Option<&Drops>, habitual: bool) -> serde_json::Value {
    let (before, after, files) = group.entropy;
    let mean = |sum: u64| f32::from(u16::try_from(sum.checked_div(files).unwrap_or(0)).unwrap_or(0)) / 16.0;
    let mut endings: Vec<_> = group.endings.iter().collect();
    endings.sort_by(|left, right| right.1.cmp(left.1).then_with(|| left.0.cmp(right.0)));
    let evidence = MassEvidence {
        harms: harms(group),
        victims_count: group.victims_count(),
        folders_count: u64::try_from(group.folders.len()).unwrap_or(u64::MAX),
        victims: group.victims.iter().map(victim).collect(),
        endings: endings
            .iter()
            .take(ENDINGS_MAX)
            .map(|(ending, _)| Text::from_bytes(ending.as_bytes()))
            .collect(),
        entropy: (files > 0).then(|| EntropyFacts { before: mean(before), after: mean(after) }),
        note: drops.map(note),
        written: group.written,
        origin: match origin {
            Origin::Process(process) => Some(process.clone()),
            Origin::Place(_) => None,
        },
        actor: group.actor.as_deref().cloned(),
        place: match origin {
            Origin::Process(_) => None,
            Origin::Place(place) => Some(text(place)),
        },
        habitual,
        seen_by: group.seen_by,
    };
    serde_json::to_value(evidence).unwrap_or_default()
}

fn victim(victim: &Victim) -> VictimFacts {
    VictimFacts { path: text(&victim.path), now: victim.now.as_deref().map(text), harm: victim.harm }
}

fn note(drops: &Drops) -> NoteFacts {
    NoteFacts {
        path: text(&drops.first),
        fingerprint: format!("{:016x}", drops.note.fingerprint),
        words: drops.note.words,
        signs: drops.note.signs(),
        demand: drops.note.is_demand(),
        sha256: drops.digest.as_ref().map(|digest| hex(digest)),
        folders: u64::try_from(drops.folders.len()).unwrap_or(u64::MAX),
        folders_named: drops.named.iter().map(|folder| text(folder)).collect(),
    }
}

/// Files by what they came to, worst first.
fn harms(group: &Group) -> Vec<HarmCount> {
    let count = |harm| HarmCount { harm, files: group.harms.get(&harm).copied().unwrap_or(0) };
    Harm::ALL.into_iter().map(count).filter(|harm| harm.files > 0).collect()
}

/// `encrypted 24 files, deleted 3`.
fn phrase(harms: &[HarmCount]) -> String {
    let part = |(at, harm): (usize, &HarmCount)| {
        let verb = match harm.harm {
            Harm::Encrypted => "encrypted",
            Harm::Blanked => "emptied",
            Harm::Defaced => "overwrote with the same content",
            Harm::Recoded => "recoded",
            Harm::Deleted => "deleted",
            Harm::Renamed => "renamed",
        };
        let noun = match (at, harm.files) {
            (0, 1) => " file",
            (0, _) => " files",
            _ => "",
        };
        format!("{verb} {}{noun}", harm.files)
    };
    harms.iter().enumerate().map(part).collect::<Vec<_>>().join(", ")
}

fn subject(origin: &Origin, group: &Group) -> String {
    match origin {
        Origin::Process(process) => {
            let program = process.executable.as_ref().map_or("a process", |program| program.text.as_str());
            let short = program.rsplit('/').next().unwrap_or(program);
            let doer = group.actor.as_ref().filter(|actor| actor.pid != process.pid);
            let doer = doer.and_then(|actor| actor.executable.as_ref()).map(|program| {
                format!(" by {}", shown(program.text.rsplit('/').next().unwrap_or(&program.text)))
            });
            format!("{} (process {}){}", shown(short), process.pid, doer.unwrap_or_default())
        }
        Origin::Place(place) => {
            format!("In {}, a process that is not known", shown(&place.to_string_lossy()))
        }
    }
}

fn entities<'a>(origin: &Origin, group: &Group, files: impl Iterator<Item = &'a Path>) -> Vec<Entity> {
    let process = match origin {
        Origin::Process(process) => {
            Some(Entity::Process { pid: process.pid, executable: process.executable.clone() })
        }
        Origin::Place(_) => None,
    };
    let doer = group
        .actor
        .as_ref()
        .filter(|actor| !matches!(origin, Origin::Process(process) if process.pid == actor.pid));
    let doer = doer.map(|actor| Entity::Process { pid: actor.pid, executable: actor.executable.clone() });
    let files = files.take(ENTITIES_MAX).map(|path| Entity::File { path: text(path) });
    process.into_iter().chain(doer).chain(files).collect()
}

fn attack(harms: &[HarmCount], note: bool) -> Vec<String> {
    let mut techniques: Vec<&str> = Vec::new();
    for harm in harms {
        let technique = match harm.harm {
            Harm::Encrypted | Harm::Recoded | Harm::Renamed => "T1486",
            Harm::Blanked | Harm::Deleted => "T1485",
            Harm::Defaced => "T1491",
        };
        if !techniques.contains(&technique) {
            techniques.push(technique);
        }
    }
    if note {
        techniques.push("T1491.001");
    }
    techniques.into_iter().map(str::to_owned).collect()
}

fn text(path: &Path) -> Text {
    Text::from_bytes(path.as_os_str().as_bytes())
}

fn name(path: &Path) -> String {
    shown(&path.file_name().unwrap_or_default().to_string_lossy())
}

/// Text from outside, fit for a title.
fn shown(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(TITLE_NAME_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.into_owned(),
    }
}
