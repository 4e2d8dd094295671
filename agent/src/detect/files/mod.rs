//! What a change of a watched file means: [`FileChange`] in, at most one finding out.
//!
//! One act gives one finding, under the most telling rule that applies: `persistence.cron`, `account.created`,
//! `privilege.setuid` … (see `meaning`); the plain fact (`file.created`, `file.modified`, `file.deleted`,
//! `file.moved`, `file.attributes`, `file.type-changed`) is in its evidence, and its rule where nothing more can be said.
//! A file that moved is not also deleted and created, and what went with its directory is named in the directory's
//! evidence. Changes that say nothing (a later modification time with the same content, another inode with the same
//! content and permissions) give none; the sensor still takes them into the baseline.

pub mod acceptance;
mod agent;
mod class;
mod detector;
pub mod diff;
mod evidence;
mod meaning;
pub mod quiet;
pub mod redact;
pub mod subject;

use std::path::Path;

use picket_protocol::finding::{Entity, Finding, Severity, Text, printable};
use uuid::Uuid;

pub use agent::AgentFiles;
pub use class::Class;
pub use detector::{Detector, Outcome};
pub use evidence::{Aspect, BeneathFacts, FileEvidence, ObjectFacts, Said};

pub(crate) use evidence::text as path_text;

use self::meaning::Meaning;
use crate::sense::files::change::FileChange;
use crate::sense::files::object::{Content, Guards, Kind, ObjectState};

/// Characters of a path in a title; the whole path is in the entities.
const TITLE_PATH_CHARS_MAX: usize = 200;
/// A modification time this much later than the status change, in nanoseconds, was set by hand.
const FUTURE: i64 = 86_400 * 1_000_000_000;
/// setuid and setgid.
const SET_ID: u32 = 0o6000;
/// Writable by everybody.
const WORLD_WRITABLE: u32 = 0o002;

/// The plain fact of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fact {
    Created,
    Modified,
    Deleted,
    Moved,
    Attributes,
    TypeChanged,
}

impl Fact {
    fn rule(self) -> &'static str {
        match self {
            Self::Created => "file.created",
            Self::Modified => "file.modified",
            Self::Deleted => "file.deleted",
            Self::Moved => "file.moved",
            Self::Attributes => "file.attributes",
            Self::TypeChanged => "file.type-changed",
        }
    }
}

/// What differs between two states of one object.
pub fn aspects(before: &ObjectState, after: &ObjectState) -> Vec<Aspect> {
    let (old, new) = (&before.meta, &after.meta);
    let regular = new.kind == Kind::File;
    let (was, is) = (&before.extended, &after.extended);
    // What could not be read then or now is not known to differ.
    let read = !was.is_unreadable() && !is.is_unreadable() && old.kind == new.kind;
    let lists = (was.access_list(), was.default_list()) != (is.access_list(), is.default_list());
    let checks = [
        (old.kind != new.kind, Aspect::Type),
        (old.kind == new.kind && content_differs(before, after), Aspect::Content),
        (old.mode != new.mode, Aspect::Mode),
        (old.uid != new.uid, Aspect::Owner),
        (old.gid != new.gid, Aspect::Group),
        (regular && old.links != new.links, Aspect::Links),
        (regular && old.mtime != new.mtime, Aspect::Time),
        (old.guards != new.guards && !old.guards.contains(Guards::UNKNOWN), Aspect::Guards),
        (read && was.capability() != is.capability(), Aspect::Capabilities),
        (read && lists, Aspect::AccessList),
        (read && was.label() != is.label(), Aspect::Label),
        (read && was.others() != is.others(), Aspect::Extended),
    ];
    checks.into_iter().filter(|(differs, _)| *differs).map(|(_, aspect)| aspect).collect()
}

/// Whether the content is known to differ, or must be taken to: what could not be read is judged by its size.
fn content_differs(before: &ObjectState, after: &ObjectState) -> bool {
    match (&before.content, &after.content) {
        (Content::Digest(old), Content::Digest(new)) => old != new,
        (Content::Target(old), Content::Target(new)) => old != new,
        (Content::None, Content::None) => {
            before.meta.kind != Kind::Directory && before.meta.size != after.meta.size
        }
        _ => {
            let sampled = before.sample.zip(after.sample).filter(|_| before.meta.kind == Kind::File);
            before.meta.size != after.meta.size || sampled.is_some_and(|(old, new)| old != new)
        }
    }
}

/// The finding of a change, named `id`; none when the change says nothing.
pub fn finding(change: &FileChange, id: Uuid) -> Option<Finding> {
    let changed = match (&change.before, &change.after) {
        (Some(before), Some(after)) => aspects(before, after),
        _ => Vec::new(),
    };
    let fact = fact(change, &changed)?;
    let class = class_of(change);
    let meaning = meaning::read(change, fact, &changed);
    let plain = severity(change, fact, &changed, class);
    let lead = meaning.statements.first();
    let severity = match lead {
        Some(lead) => lead.severity.max(severity_of_opening(change, class)),
        None if meaning.harmless || meaning.weighed => {
            plain.min(severity_of_permissions(change, &changed, class).max(Severity::Low))
        }
        None => plain,
    };
    let title = match lead {
        Some(_) => meaning.title(),
        None => title(change, fact, &changed),
    };
    Some(Finding {
        id,
        rule: lead.map_or(fact.rule(), |lead| lead.rule).to_owned(),
        severity,
        observed: change.observed,
        title,
        entities: entities(change, &meaning.users),
        attack: attack(fact, &changed, class, severity, &meaning),
        evidence: serde_json::to_value(FileEvidence::new(change, changed, class, fact, meaning)).ok()?,
        explained_by: None,
        drill: false,
    })
}

fn fact(change: &FileChange, changed: &[Aspect]) -> Option<Fact> {
    let (before, after) = match (&change.before, &change.after) {
        (None, None) => return None,
        (None, Some(_)) => return Some(Fact::Created),
        (Some(_), None) if change.moved_to.is_some() => return Some(Fact::Moved),
        (Some(_), None) => return Some(Fact::Deleted),
        (Some(before), Some(after)) => (before, after),
    };
    let moved = change.moved_from.is_some() && before.meta.same_object(&after.meta);
    let has = |aspect| changed.contains(&aspect);
    if moved {
        Some(Fact::Moved)
    } else if has(Aspect::Type) {
        Some(Fact::TypeChanged)
    } else if has(Aspect::Content) {
        Some(Fact::Modified)
    } else if changed.iter().any(Aspect::is_permission) || time_was_set(before, after) {
        Some(Fact::Attributes)
    } else {
        // Another name for a file that matters is a way to reach it when the first is gone or guarded.
        let linked = has(Aspect::Links) && after.meta.links > before.meta.links;
        (linked && Class::of(&change.path).severity() >= Severity::High).then_some(Fact::Attributes)
    }
}

/// Whether the modification time went back, or lies ahead of the time at which it was set.
fn time_was_set(before: &ObjectState, after: &ObjectState) -> bool {
    let (old, new) = (&before.meta, &after.meta);
    new.kind == Kind::File
        && old.inode == new.inode
        && (new.mtime < old.mtime || (new.mtime != old.mtime && new.mtime.saturating_sub(FUTURE) > new.ctime))
}

/// Of both ends of a move the one that matters more.
fn class_of(change: &FileChange) -> Class {
    let here = Class::of(&change.path);
    let other = change.moved_from.as_deref().or(change.moved_to.as_deref()).map(Class::of);
    other.filter(|other| other.severity() > here.severity()).unwrap_or(here)
}

fn severity(change: &FileChange, fact: Fact, changed: &[Aspect], class: Class) -> Severity {
    let by_class = class.severity();
    let state = change.after.as_ref();
    let set_id_now =
        state.is_some_and(|state| state.meta.kind == Kind::File && state.meta.mode & SET_ID != 0);
    let set_id_before = change.before.as_ref().is_some_and(|state| state.meta.mode & SET_ID != 0);
    if set_id_now && (!set_id_before || fact == Fact::Modified) {
        return Severity::High;
    }
    let by_fact = match fact {
        Fact::TypeChanged => by_class.max(Severity::Low),
        Fact::Attributes if changed == [Aspect::Time] || changed == [Aspect::Links] => {
            by_class.min(Severity::Low)
        }
        // A new directory or an attribute is a step less than content.
        Fact::Attributes => lower(by_class),
        Fact::Created if state.is_some_and(|state| state.meta.kind == Kind::Directory) => lower(by_class),
        _ => by_class,
    };
    by_fact.max(severity_of_opening(change, class))
}

/// What it adds that everybody may write to the file from now on.
fn severity_of_opening(change: &FileChange, class: Class) -> Severity {
    let open = |state: &ObjectState| state.meta.kind == Kind::File && state.meta.mode & WORLD_WRITABLE != 0;
    let opened = change.after.as_ref().is_some_and(open)
        && change.before.as_ref().is_none_or(|before| before.meta.mode & WORLD_WRITABLE == 0);
    if opened { lower(class.severity()).max(Severity::Low) } else { Severity::Info }
}

/// What it adds that permissions changed, beside a text that opens nothing.
fn severity_of_permissions(change: &FileChange, changed: &[Aspect], class: Class) -> Severity {
    let by_class =
        if changed.iter().any(Aspect::is_permission) { lower(class.severity()) } else { Severity::Info };
    by_class.max(severity_of_opening(change, class))
}

fn lower(severity: Severity) -> Severity {
    match severity {
        Severity::Critical => Severity::High,
        Severity::High => Severity::Medium,
        Severity::Medium => Severity::Low,
        Severity::Low | Severity::Info => Severity::Info,
    }
}

fn title(change: &FileChange, fact: Fact, changed: &[Aspect]) -> String {
    let path = short(&change.path);
    let kind =
        change.after.as_ref().or(change.before.as_ref()).map_or("object", |state| state.meta.kind.noun());
    match fact {
        Fact::Created => match &change.moved_from {
            Some(from) => format!("{path} came from {}, outside the watched trees", short(from)),
            None => format!("A {kind} was created: {path}"),
        },
        Fact::Modified if kind == "symbolic link" => format!("{path} points elsewhere now"),
        Fact::Modified => match &change.moved_from {
            Some(from) => format!("{path} was replaced by {}", short(from)),
            None => format!("{path} was modified"),
        },
        Fact::Deleted if change.beneath_count > 0 => {
            format!("{path} was deleted with {} objects in it", change.beneath_count)
        }
        Fact::Deleted => format!("{path} was deleted"),
        Fact::Moved => title_of_move(change, changed),
        Fact::TypeChanged => {
            let was = change.before.as_ref().map_or("object", |state| state.meta.kind.noun());
            format!("{path} was a {was} and is a {kind} now")
        }
        Fact::Attributes => title_of_attributes(change, changed),
    }
}

fn title_of_move(change: &FileChange, changed: &[Aspect]) -> String {
    let path = short(&change.path);
    let with = if change.beneath_count > 0 {
        format!(" with {} objects in it", change.beneath_count)
    } else {
        String::new()
    };
    match (&change.moved_from, &change.moved_to) {
        (Some(from), _) => {
            let modified = if changed.contains(&Aspect::Content) { " and modified" } else { "" };
            format!("{} was moved to {path}{with}{modified}", short(from))
        }
        (None, Some(to)) => format!("{path} was moved to {}, outside the watched trees{with}", short(to)),
        (None, None) => format!("{path} was moved"),
    }
}

fn title_of_attributes(change: &FileChange, changed: &[Aspect]) -> String {
    let path = short(&change.path);
    let (Some(before), Some(after)) = (&change.before, &change.after) else {
        return format!("Attributes of {path} changed");
    };
    let (old, new) = (&before.meta, &after.meta);
    let parts: Vec<String> = changed
        .iter()
        .filter_map(|aspect| match aspect {
            Aspect::Mode => Some(format!("mode from {:04o} to {:04o}", old.mode, new.mode)),
            Aspect::Owner => Some(format!("owner from {} to {}", old.uid, new.uid)),
            Aspect::Group => Some(format!("group from {} to {}", old.gid, new.gid)),
            Aspect::Links => Some(format!("links from {} to {}", old.links, new.links)),
            Aspect::Guards => Some(guards_changed(old.guards, new.guards)),
            Aspect::Capabilities => Some("file capabilities".to_owned()),
            Aspect::AccessList => Some("access list".to_owned()),
            Aspect::Label => Some("label".to_owned()),
            Aspect::Extended => Some("extended attributes".to_owned()),
            Aspect::Time if changed.len() == 1 => Some("modification time by hand".to_owned()),
            _ => None,
        })
        .collect();
    format!("Attributes of {path} changed: {}", parts.join(", "))
}

fn guards_changed(old: Guards, new: Guards) -> String {
    let words =
        [(Guards::IMMUTABLE, "immutable"), (Guards::APPEND_ONLY, "append-only"), (Guards::VERITY, "sealed")];
    let gone = words.iter().filter(|(guard, _)| old.contains(*guard) && !new.contains(*guard));
    let come = words.iter().filter(|(guard, _)| new.contains(*guard) && !old.contains(*guard));
    let gone = gone.map(|(_, word)| format!("no longer {word}"));
    gone.chain(come.map(|(_, word)| format!("now {word}"))).collect::<Vec<_>>().join(", ")
}

fn entities(change: &FileChange, users: &[String]) -> Vec<Entity> {
    let paths = [Some(&change.path), change.moved_from.as_ref(), change.moved_to.as_ref()];
    let files = paths.into_iter().flatten().map(|path| Entity::File { path: evidence::text(path) });
    let actors = change.actor.iter().chain(&change.other_actors);
    let processes =
        actors.map(|actor| Entity::Process { pid: actor.pid, executable: actor.executable.clone() });
    let users = users.iter().map(|name| Entity::User { name: Text::from_bytes(name.as_bytes()), uid: None });
    files.chain(users).chain(processes).collect()
}

fn attack(
    fact: Fact,
    changed: &[Aspect],
    class: Class,
    severity: Severity,
    meaning: &Meaning,
) -> Vec<String> {
    let mut techniques: Vec<&str> = meaning.statements.iter().map(|said| said.technique).collect();
    if fact == Fact::Attributes && techniques.is_empty() {
        techniques.push(if changed == [Aspect::Time] { "T1070.006" } else { "T1222.002" });
    }
    if fact == Fact::Deleted && severity > Severity::Info {
        techniques.push("T1070.004");
    }
    let by_place = matches!(fact, Fact::Created | Fact::Modified | Fact::Moved | Fact::TypeChanged);
    if by_place && techniques.is_empty() && !meaning.harmless {
        techniques.extend(class.technique());
    }
    let mut seen = std::collections::BTreeSet::new();
    techniques.retain(|technique| seen.insert(*technique));
    techniques.into_iter().map(str::to_owned).collect()
}

/// A path for a title: printable, and cut in the middle when it is long.
fn short(path: &Path) -> String {
    let lossy = path.to_string_lossy();
    let text = printable(&lossy);
    let count = text.chars().count();
    if count <= TITLE_PATH_CHARS_MAX {
        return text.into_owned();
    }
    let half = TITLE_PATH_CHARS_MAX / 2;
    let head: String = text.chars().take(half).collect();
    let tail: String = text.chars().skip(count - half).collect();
    format!("{head}…{tail}")
}

/// A finding about the sensor itself.
pub fn sensor_finding(
    id: Uuid,
    rule: &str,
    severity: Severity,
    title: String,
    observed: picket_protocol::finding::Observed,
    evidence: serde_json::Value,
) -> Finding {
    let tampering = rule == "sensor.degraded";
    Finding {
        id,
        rule: rule.to_owned(),
        severity,
        observed,
        title,
        entities: Vec::new(),
        evidence,
        attack: if tampering { vec!["T1562.001".to_owned()] } else { Vec::new() },
        explained_by: None,
        drill: false,
    }
}

#[cfg(test)]
mod tests;
