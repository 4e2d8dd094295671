use std::path::Path;

use picket_protocol::finding::Observed;
use proptest::prelude::*;

use super::*;
use crate::sense::files::change::SeenBy;
use crate::sense::files::object::{Content, Kind, Metadata, ObjectState};
use crate::sense::processes::Actor;

pub fn actor() -> Actor {
    Actor {
        pid: 7,
        started: None,
        executable: None,
        executable_deleted: false,
        command_line: None,
        command_line_cut: false,
        uid: None,
        effective_uid: None,
        login_uid: None,
        audit_session: None,
        container: None,
        parents: Vec::new(),
        known_by: "test".to_owned(),
    }
}

pub fn file(digest: u8, mode: u32) -> ObjectState {
    let meta = Metadata { kind: Kind::File, mode, size: 10, inode: 1, links: 1, ..Metadata::default() };
    ObjectState { meta, content: Content::Digest([digest; 32]), ..ObjectState::default() }
}

pub fn link(target: &str) -> ObjectState {
    let meta = Metadata { kind: Kind::Symlink, mode: 0o777, inode: 1, links: 1, ..Metadata::default() };
    ObjectState { meta, content: Content::Target(target.as_bytes().to_vec()), ..ObjectState::default() }
}

/// A regular file that is another now, seen at second 100.
pub fn change(path: &str) -> FileChange {
    FileChange {
        path: path.into(),
        before: Some(file(1, 0o644)),
        after: Some(file(2, 0o644)),
        moved_from: None,
        moved_to: None,
        seen_by: SeenBy::Event,
        window: None,
        observed: Observed::once(at(100)),
        beneath_count: 0,
        beneath: Vec::new(),
        actor: None,
        text: None,
        note: None,
    }
}

pub fn finding(change: &FileChange) -> Finding {
    crate::detect::files::finding(change, Uuid::nil()).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}
