//! What a file finding carries as evidence.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use picket_protocol::crypto::hex;
use picket_protocol::finding::{Severity, Text};
use picket_protocol::time::Timestamp;

use super::diff::Diff;
use super::meaning::{Meaning, Statement};
use super::{Class, Fact};
use crate::sense::files::change::{ActorUnknown, FileChange, SeenBy, Window};
use crate::sense::files::object::{Content, Guards, Kind, ObjectState};
use crate::sense::processes::Actor;

/// Objects of a vanished directory that are named, and bytes of their names in all.
const BENEATH_NAMED_MAX: usize = 200;
const BENEATH_BYTES_MAX: usize = 8 * 1024;

/// What may differ between two states of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// The type.
    Type,
    /// Content, or a link's target, or a device's number.
    Content,
    /// Permission bits.
    Mode,
    /// Owner.
    Owner,
    /// Group.
    Group,
    /// Number of hard links.
    Links,
    /// Modification time.
    Time,
    /// File capabilities.
    Capabilities,
    /// Access lists.
    AccessList,
    /// The label of a mandatory access control.
    Label,
    /// Other extended attributes.
    Extended,
    /// What guards it against changes: immutable, append-only, sealed.
    Guards,
}

impl Aspect {
    /// Whether it says who may do what with the object: a change of it alone is worth a word.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Mode | Self::Owner | Self::Group => true,
            Self::Capabilities | Self::AccessList | Self::Label | Self::Extended | Self::Guards => true,
            Self::Type | Self::Content | Self::Links | Self::Time => false,
        }
    }
}

/// One state of an object.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ObjectFacts {
    /// The type.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Permission bits, four octal digits.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Status change time.
    pub ctime: Timestamp,
    /// Inode number.
    pub inode: u64,
    /// Hard links.
    pub links: u32,
    /// SHA-256 of a regular file, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where a symbolic link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Text>,
    /// Why there is no digest: `pending` (the file is large and will be hashed in the background), `unreadable: …`.
    ///
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_note: Option<String>,
    /// What guards it against changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guards: Vec<String>,
    /// File capabilities as the kernel keeps them (`struct vfs_cap_data`), hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// Access list as the kernel keeps it, or its digest when it is long; hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_list: Option<String>,
    /// The label of a mandatory access control; of an ordinary one of SELinux the type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Text>,
}

impl ObjectFacts {
    fn new(state: &ObjectState) -> Self {
        let meta = &state.meta;
        let mut facts = Self {
            kind: meta.kind,
            mode: format!("{:04o}", meta.mode),
            uid: meta.uid,
            gid: meta.gid,
            size: meta.size,
            mtime: Timestamp::from_nanos(meta.mtime),
            ctime: Timestamp::from_nanos(meta.ctime),
            inode: meta.inode,
            links: meta.links,
            sha256: None,
            target: None,
            content_note: None,
            guards: guard_names(meta.guards),
            capability: state.extended.capability().map(hex),
            access_list: state.extended.access_list().map(hex),
            label: state.extended.label().map(Text::from_bytes),
        };
        match &state.content {
            Content::None => {}
            Content::Digest(digest) => facts.sha256 = Some(hex(digest)),
            Content::Target(target) => facts.target = Some(Text::from_bytes(target)),
            Content::Pending => {
                facts.content_note = Some(
                    match state.sample {
                        Some(_) => "pending: larger than hash_bytes_max; judged by its ends and places between until it is hashed in the background",
                        None => "pending: larger than hash_bytes_max, hashed in the background",
                    }
                    .to_owned(),
                );
            }
            Content::Unreadable(errno) => {
                let errno = std::io::Error::from_raw_os_error(*errno);
                facts.content_note = Some(format!("unreadable: {errno}"));
            }
        }
        facts
    }
}

fn guard_names(guards: Guards) -> Vec<String> {
    let names =
        [(Guards::IMMUTABLE, "immutable"), (Guards::APPEND_ONLY, "append-only"), (Guards::VERITY, "verity")];
    names.into_iter().filter(|(guard, _)| guards.contains(*guard)).map(|(_, name)| name.to_owned()).collect()
}

/// One object that vanished with its directory.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BeneathFacts {
    /// Relative to the directory.
    pub path: Text,
    /// The type.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// SHA-256 as last known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// One thing that a change did.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Said {
    /// The rule that it falls under.
    pub rule: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence.
    pub words: String,
}

/// Evidence of all rules of the file sensor.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileEvidence {
    /// What the object is for.
    pub class: Class,
    /// What differs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<Aspect>,
    /// As the baseline had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<ObjectFacts>,
    /// As it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<ObjectFacts>,
    /// Where it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_from: Option<Text>,
    /// Where it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_to: Option<Text>,
    /// What made the sensor look.
    pub seen_by: SeenBy,
    /// Between these times it happened, unless the kernel told at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Of a directory: how many objects went with it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub beneath_count: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beneath: Vec<BeneathFacts>,
    /// Who did it; absent when that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// Who else touched it since it was last looked at, the earliest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_actors: Vec<Actor>,
    /// Why it is not known who did it, or not of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_unknown: Option<ActorUnknown>,
    /// The plain fact: `file.created`, `file.modified` …
    #[serde(default)]
    pub fact: String,
    /// All that the change did, the weightiest first, where it is more than the plain fact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub meaning: Vec<Said>,
    /// What differs in the text of a file whose text is kept; secrets are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<Diff>,
    /// Why there is no diff of such a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_note: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl FileEvidence {
    pub(super) fn new(
        change: &FileChange,
        changed: Vec<Aspect>,
        class: Class,
        fact: Fact,
        meaning: Meaning,
    ) -> Self {
        let said =
            |said: Statement| Said { rule: said.rule.to_owned(), severity: said.severity, words: said.words };
        let mut bytes = 0;
        let beneath = change
            .beneath
            .iter()
            .take(BENEATH_NAMED_MAX)
            .take_while(|object| {
                bytes += object.path.as_os_str().len();
                bytes <= BENEATH_BYTES_MAX
            })
            .map(|object| BeneathFacts {
                path: text(&object.path),
                kind: object.state.meta.kind,
                sha256: match &object.state.content {
                    Content::Digest(digest) => Some(hex(digest)),
                    _ => None,
                },
            })
            .collect();
        Self {
            class,
            changed,
            before: change.before.as_ref().map(ObjectFacts::new),
            after: change.after.as_ref().map(ObjectFacts::new),
            moved_from: change.moved_from.as_deref().map(text),
            moved_to: change.moved_to.as_deref().map(text),
            seen_by: change.seen_by,
            window: change.window,
            beneath_count: change.beneath_count,
            beneath,
            actor: change.actor.as_deref().cloned(),
            other_actors: change.other_actors.iter().map(|actor| actor.as_ref().clone()).collect(),
            actor_unknown: change.actor_unknown,
            fact: fact.rule().to_owned(),
            meaning: meaning.statements.into_iter().map(said).collect(),
            diff: meaning.diff,
            diff_note: meaning.diff_note.map(str::to_owned),
        }
    }
}

/// A path with all its bytes.
pub fn text(path: &Path) -> Text {
    Text::from_bytes(path.as_os_str().as_bytes())
}
