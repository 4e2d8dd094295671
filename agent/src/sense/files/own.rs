//! What the agent itself did to files by command: told like any change, and explained.

use super::change::FileChange;
use super::object::{Content, ObjectState};
use crate::respond::own_acts::{By, OwnActs, Seen};

/// The commands that explain the change: of a file that stays the agent changes the content alone.
pub fn explanation(acts: &OwnActs, change: &FileChange) -> Option<By> {
    let (before, after) = (change.before.as_ref(), change.after.as_ref());
    let by = acts.take_file(&change.path, seen(before), seen(after))?;
    let rights = |state: &ObjectState| (state.meta.kind, state.meta.mode, state.meta.uid, state.meta.gid);
    let stays = before.zip(after);
    stays.is_none_or(|(before, after)| rights(before) == rights(after)).then_some(by)
}

fn seen(state: Option<&ObjectState>) -> Seen {
    match state.map(|state| &state.content) {
        None => Seen::Nothing,
        Some(Content::Digest(digest)) => Seen::Digest(*digest),
        Some(_) => Seen::Unknown,
    }
}
