//! The observation that the file sensor hands to its detector: one difference between baseline and disk.

use std::path::PathBuf;
use std::sync::Arc;

use picket_protocol::finding::Observed;
use picket_protocol::time::Timestamp;

use super::note::Note;
use super::object::ObjectState;
use crate::sense::processes::Actor;

/// What made the sensor look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SeenBy {
    /// The kernel told it.
    Event,
    /// A re-examination: at start, by schedule, after an overflow, after a mount.
    Rescan,
    /// The `scan` command.
    Command,
}

/// Between these times the change happened, when the kernel did not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Window {
    /// The last time at which the object is known to have been as the baseline says.
    pub from: Timestamp,
    /// When it was found changed.
    pub to: Timestamp,
}

/// An object that vanished, or went elsewhere, together with its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beneath {
    /// Path relative to the directory.
    pub path: PathBuf,
    /// As the baseline had it.
    pub state: ObjectState,
}

/// Why it is not known who did it, or not known of all who did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActorUnknown {
    /// It was found by looking, after the fact.
    FoundByLooking,
    /// The mechanism in use here tells of changes, and not who makes them.
    RungDoesNotTell,
    /// The kernel did not say who: it was done outside the namespace that the agent sees, or by the kernel itself.
    KernelDoesNotTell,
    /// The process was gone, and nothing was known of it.
    ProcessGone,
    /// More than are named.
    TooMany,
}

/// The content of a small text file that matters, before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextChange {
    /// As it was, if it is known.
    pub before: Option<Vec<u8>>,
    /// As it is.
    pub after: Option<Vec<u8>>,
}

/// One difference between the baseline and the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// Where, now (for a deletion: where it was).
    pub path: PathBuf,
    /// What the baseline had: of the object that moved here, where [`FileChange::moved_from`] is set and nothing
    /// was replaced; else of this path.
    pub before: Option<ObjectState>,
    /// What is there now.
    pub after: Option<ObjectState>,
    /// The object was at this path before. Outside the watched trees only where the kernel said so.
    pub moved_from: Option<PathBuf>,
    /// The object vanished from `path` because it went here, outside the watched trees.
    pub moved_to: Option<PathBuf>,
    /// What made the sensor look.
    pub seen_by: SeenBy,
    /// Set unless the kernel told of the change when it happened.
    pub window: Option<Window>,
    /// When the kernel first and last told of it, and how many of its events were answered by this one look.
    pub observed: Observed,
    /// For a directory that vanished or moved: how many objects are concerned with it.
    pub beneath_count: u64,
    /// The first of them, for a directory that vanished; bounded.
    pub beneath: Vec<Beneath>,
    /// Who did it; none when that is not known.
    pub actor: Option<Arc<Actor>>,
    /// Who else touched it since it was last looked at, the earliest first; bounded.
    pub other_actors: Vec<Arc<Actor>>,
    /// Why [`FileChange::actor`] is none, or why there may have been more than are named.
    pub actor_unknown: Option<ActorUnknown>,
    /// What the text was and is, of a file whose text is kept.
    pub text: Option<TextChange>,
    /// What it says, of a short text that is new or another than it was.
    pub note: Option<Note>,
}
