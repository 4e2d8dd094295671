//! Trees in which files come and go all day: of what changes there only what means something is told. Pure.

use std::path::{Path, PathBuf};

use picket_protocol::finding::{Finding, Severity};

use super::meaning::WORLD_PLACES;
use crate::sense::files::change::FileChange;

/// Larger files of such trees are known by a sample: nobody compares them, and shared memory can be as large as all
/// memory.
pub const HASH_BYTES_MAX: u64 = 1024 * 1024;

/// What is copied together for a new initial file system: the host's own programs, under their names, in a place where
/// anybody may write. Only root makes files that are root's.
const ASSEMBLED: &[&str] =
    &["/var/tmp/mkinitramfs_", "/var/tmp/mkinitramfs-", "/var/tmp/dracut.", "/tmp/mkinitcpio."];

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Quiet {
    trees: Vec<PathBuf>,
    /// Trees that are told in full, which may lie within.
    told: Vec<PathBuf>,
}

impl Quiet {
    /// `trees`, except what lies in `told`.
    pub fn new(trees: Vec<PathBuf>, told: Vec<PathBuf>) -> Self {
        Self { trees, told }
    }

    /// Whether only what means something is told of `path`.
    pub fn covers(&self, path: &Path) -> bool {
        let under = |trees: &[PathBuf]| trees.iter().any(|tree| path.starts_with(tree));
        under(&self.trees) && !under(&self.told)
    }

    /// How much of the file at `path` is read, where `usual` is read of others.
    pub fn hash_bytes_max(&self, path: &Path, usual: u64) -> u64 {
        if self.covers(path) { usual.min(HASH_BYTES_MAX) } else { usual }
    }
}

/// Whether files come and go by the dozen there without harm.
pub fn is_passing(path: &Path) -> bool {
    WORLD_PLACES.iter().any(|place| path.starts_with(place))
}

/// Whether a finding about a quiet tree is told.
pub fn says_something(change: &FileChange, finding: &Finding) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = change.path.as_os_str().as_bytes();
    let of_root = change.after.as_ref().is_some_and(|state| state.meta.uid == 0);
    if of_root && ASSEMBLED.iter().any(|start| bytes.starts_with(start.as_bytes())) {
        return false;
    }
    let meaning = finding.evidence.get("meaning").and_then(|meaning| meaning.as_array());
    meaning.is_some_and(|meaning| !meaning.is_empty()) && finding.severity >= Severity::Low
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::tests::change;
    use super::*;
    use crate::sense::files::object::{Content, Kind, Metadata, ObjectState};

    fn file(mode: u32, uid: u32) -> ObjectState {
        let meta = Metadata { kind: Kind::File, mode, uid, size: 10, links: 1, ..Metadata::default() };
        ObjectState { meta, content: Content::Digest([1; 32]), ..ObjectState::default() }
    }

    fn told(path: &str, state: ObjectState) -> Option<String> {
        let change = change(path, None, Some(state));
        let finding = super::super::finding(&change, Uuid::nil()).unwrap();
        says_something(&change, &finding).then_some(finding.rule)
    }

    #[test]
    fn only_what_means_something_is_told() {
        assert_eq!(told("/tmp/x", file(0o644, 0)), None);
        assert_eq!(told("/tmp/x", file(0o666, 0)), None);
        assert_eq!(told("/tmp/x", file(0o755, 0)).as_deref(), Some("file.created"));
        assert_eq!(told("/tmp/sshd", file(0o755, 33)).as_deref(), Some("file.masquerade"));
        assert_eq!(told("/dev/shm/.x/y", file(0o755, 33)).as_deref(), Some("file.hidden"));
        assert_eq!(told("/tmp/... ", file(0o644, 33)).as_deref(), Some("file.hidden"));
        assert_eq!(told("/var/tmp/x", file(0o4755, 0)).as_deref(), Some("privilege.setuid"));
        assert_eq!(told("/var/www/a.html", file(0o644, 33)), None);
        assert_eq!(told("/var/tmp/mkinitramfs_aB3/bin/sh", file(0o755, 0)), None);
        assert!(told("/var/tmp/mkinitramfs_aB3/bin/sh", file(0o755, 33)).is_some());
    }

    #[test]
    fn a_tree_within_that_is_told_in_full_is() {
        let quiet = Quiet::new(vec!["/tmp".into()], vec!["/tmp/kept".into()]);
        assert!(quiet.covers(Path::new("/tmp/a")));
        assert!(!quiet.covers(Path::new("/tmp/kept/a")));
        assert!(!quiet.covers(Path::new("/tmpx")));
        assert_eq!(quiet.hash_bytes_max(Path::new("/tmp/a"), 1 << 30), HASH_BYTES_MAX);
        assert_eq!(quiet.hash_bytes_max(Path::new("/etc"), 1 << 30), 1 << 30);
    }
}
