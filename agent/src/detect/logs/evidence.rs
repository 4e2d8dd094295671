//! What a finding about a log carries as evidence.

use std::os::unix::ffi::OsStrExt as _;

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;

use super::silence::Silence;
use crate::sense::files::change::{SeenBy, Window};
use crate::sense::files::log_state::Part;
use crate::sense::files::logs::{LogChange, Loss, Nature};
use crate::sense::files::object::Kind;
use crate::sense::processes::Actor;

/// Evidence of all `log.*` rules. Facts are those of the newest log, where several are concerned.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogEvidence {
    /// The log.
    pub path: Text,
    /// How it is written.
    pub nature: Nature,
    /// Bytes that it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_before: Option<u64>,
    /// Bytes that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_after: Option<u64>,
    /// When it was last written to, as far as that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Timestamp>,
    /// Known parts of what is lost or was edited, with the digests that they had; the newest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Part>,
    /// Hundredths of a history's last lines that are still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines_kept: Option<u64>,
    /// What took its place, where that keeps nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub led_to: Option<LedTo>,
    /// Since when it is silent, and who wrote it until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<Silence>,
    /// Known parts of a log that fell silent, with their digests: what it held when its writer stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<Part>,
    /// Another file is in its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
    /// Where its content, or a file of its name, is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_at: Option<Text>,
    /// All logs that the finding is about; the first of them.
    pub logs: Vec<Text>,
    /// Who did it; absent when that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// What made the sensor look.
    pub seen_by: SeenBy,
    /// Between these times it happened, unless the kernel told at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
}

/// What keeps nothing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LedTo {
    /// The type.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Where a link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Text>,
}

impl LogEvidence {
    pub(super) fn new(change: &LogChange, logs: &[Text]) -> Self {
        let silence = match &change.loss {
            Loss::Silent(silence) => Some(silence.as_ref().clone()),
            _ => None,
        };
        Self {
            path: super::text(&change.path),
            nature: change.nature,
            size_before: change.size_before,
            size_after: change.size_after,
            written: change.written,
            lost: if silence.is_some() { Vec::new() } else { change.lost.clone() },
            lines_kept: change.lines_kept,
            led_to: match &change.loss {
                Loss::LedAway(kind, target) => {
                    Some(LedTo { kind: *kind, target: target.as_deref().map(Text::from_bytes) })
                }
                _ => None,
            },
            held: if silence.is_some() { change.lost.clone() } else { Vec::new() },
            silence,
            replaced: change.loss == Loss::Replaced,
            found_at: change
                .successor
                .as_ref()
                .map(|successor| Text::from_bytes(successor.path().as_os_str().as_bytes())),
            logs: logs.to_vec(),
            actor: change.actor.as_deref().cloned(),
            seen_by: change.seen_by,
            window: change.window,
        }
    }
}
