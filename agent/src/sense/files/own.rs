//! What the agent itself did to files by command: told like any change, and explained.

use super::change::FileChange;
use super::object::{Content, ObjectState};
use crate::respond::own_acts::{By, OwnActs, Rights, Seen};

/// The commands that explain the change: of a file that stays the agent changes the content alone, or gives it the very rights
/// that it said, as it does to one that comes.
pub fn explanation(acts: &OwnActs, change: &FileChange) -> Option<By> {
    let (before, after) = (change.before.as_ref(), change.after.as_ref());
    let by = acts.take_file(&change.path, seen(before), seen(after))?;
    let as_said = by.leaves.or_else(|| before.map(rights));
    let fits = after.is_none_or(|after| {
        before.is_none_or(|before| before.meta.kind == after.meta.kind)
            && as_said.is_none_or(|as_said| rights(after) == as_said)
    });
    fits.then_some(by)
}

fn rights(state: &ObjectState) -> Rights {
    Rights { mode: state.meta.mode, uid: state.meta.uid, gid: state.meta.gid }
}

fn seen(state: Option<&ObjectState>) -> Seen {
    match state.map(|state| &state.content) {
        None => Seen::Nothing,
        Some(Content::Digest(digest)) => Seen::Digest(*digest),
        Some(_) => Seen::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use picket_protocol::finding::Observed;
    use picket_protocol::time::Timestamp;
    use uuid::Uuid;

    use super::super::change::SeenBy;
    use super::super::object::{Kind, Metadata};
    use super::*;

    fn file(mode: u32, digest: u8) -> ObjectState {
        let meta = Metadata { kind: Kind::File, mode, ..Metadata::default() };
        ObjectState { meta, content: Content::Digest([digest; 32]), ..ObjectState::default() }
    }

    fn change(before: Option<ObjectState>, after: Option<ObjectState>) -> FileChange {
        FileChange {
            path: "/etc/issue".into(),
            before,
            after,
            moved_from: None,
            moved_to: None,
            seen_by: SeenBy::Event,
            window: None,
            observed: Observed::once(Timestamp::default()),
            beneath_count: 0,
            beneath: Vec::new(),
            actor: None,
            other_actors: Vec::new(),
            actor_unknown: None,
            text: None,
            note: None,
        }
    }

    #[test]
    fn a_file_that_comes_back_is_explained_with_the_rights_that_it_was_given_only() {
        let acts = OwnActs::default();
        let said = Rights { mode: 0o640, uid: 0, gid: 0 };
        for before in [None, Some(file(0o600, 1))] {
            for (mode, fits) in [(0o640, true), (0o666, false), (0o4640, false)] {
                let was = before.as_ref().map(|_| [1; 32]);
                acts.file_with_rights(
                    Uuid::nil(),
                    "restore-file",
                    Path::new("/etc/issue"),
                    was,
                    Some([2; 32]),
                    said,
                );
                let change = change(before.clone(), Some(file(mode, 2)));
                assert_eq!(explanation(&acts, &change).is_some(), fits, "{mode:o}");
            }
        }
        // Of what comes back from a vault nothing is said: all of it is as it was.
        acts.file(Uuid::nil(), "quarantine-file", Path::new("/etc/issue"), None, Some([2; 32]));
        assert!(explanation(&acts, &change(None, Some(file(0o666, 2)))).is_some());
        acts.file(Uuid::nil(), "quarantine-file", Path::new("/etc/issue"), Some([2; 32]), None);
        assert!(explanation(&acts, &change(Some(file(0o666, 2)), None)).is_some());
    }
}
