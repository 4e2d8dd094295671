//! What editors and the tools that guard an edit keep beside the file while it is open.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use picket_protocol::finding::{Finding, Severity};

use crate::sense::files::change::FileChange;
use crate::sense::files::object::{Content, Kind, ObjectState};

/// Files that are edited in a copy beside them, and how the copy is called.
const COPIES: &[(&str, &str)] = &[
    ("/etc/sudoers.tmp", "/etc/sudoers"),
    ("/etc/passwd.edit", "/etc/passwd"),
    ("/etc/group.edit", "/etc/group"),
    ("/etc/shadow.edit", "/etc/shadow"),
    ("/etc/gshadow.edit", "/etc/gshadow"),
];

/// The file beside which an editor keeps what lies at `path`, by their names: vim's swap files, emacs' locks and copies,
/// what `visudo`, `vipw` and `crontab` edit.
pub fn target(path: &Path) -> Option<PathBuf> {
    if let Some((_, edited)) = COPIES.iter().find(|(copy, _)| path == Path::new(copy)) {
        return Some(PathBuf::from(edited));
    }
    let name = path.file_name()?.as_bytes();
    let in_etc = path.parent() == Some(Path::new("/etc"));
    let account = Some(name).filter(|_| in_etc).and_then(account);
    let stem = swap(name).or_else(|| emacs(name)).or(account).or_else(|| {
        let in_sudoers = path.parent() == Some(Path::new("/etc/sudoers.d"));
        name.strip_suffix(b".tmp").filter(|_| in_sudoers)
    });
    // crontab's own has no sign of whose it will be.
    let spool = path.parent() == Some(Path::new("/var/spool/cron/crontabs")) && is_temporary(name);
    let stem = stem.or(spool.then_some(name))?;
    (!stem.is_empty()).then(|| path.with_file_name(std::ffi::OsStr::from_bytes(stem)))
}

/// `.NAME.swp`, and `.swo`, `.swn` … when there are several.
fn swap(name: &[u8]) -> Option<&[u8]> {
    let (stem, end) = name.strip_prefix(b".")?.rsplit_once_at(b'.')?;
    let is_swap = matches!(end, [b's', b'w', b'a'..=b'p'] | b"swx" | b"swpx");
    is_swap.then_some(stem)
}

/// `.#NAME` and `#NAME#`.
fn emacs(name: &[u8]) -> Option<&[u8]> {
    name.strip_prefix(b".#").or_else(|| name.strip_prefix(b"#")?.strip_suffix(b"#"))
}

/// What account tools write and lock beside `passwd` and its kin: `passwd+`, `passwd.lock`, `passwd.4711`.
fn account(name: &[u8]) -> Option<&[u8]> {
    let (stem, end) = match name.strip_suffix(b"+") {
        Some(stem) => (stem, &b"lock"[..]),
        None => name.rsplit_once_at(b'.')?,
    };
    let known = [&b"passwd"[..], b"shadow", b"group", b"gshadow", b"subuid", b"subgid"].contains(&stem);
    (known && (end == b"lock" || end.iter().all(u8::is_ascii_digit))).then_some(stem)
}

/// The file of which a copy as it was lies at `path`, by its name: what editors (`NAME~`), `sed -i.bak`, `patch` and
/// package managers leave.
pub fn original(path: &Path) -> Option<PathBuf> {
    const ENDINGS: &[&[u8]] = &[
        b"~",
        b".bak",
        b".orig",
        b".old",
        b".save",
        b".dpkg-old",
        b".dpkg-bak",
        b".dpkg-dist",
        b".ucf-old",
        b".ucf-dist",
        b".rpmsave",
        b".rpmorig",
        b".rpmnew",
        b".augsave",
    ];
    let name = path.file_name()?.as_bytes();
    let stem = ENDINGS.iter().find_map(|ending| name.strip_suffix(*ending))?;
    (!stem.is_empty()).then(|| path.with_file_name(std::ffi::OsStr::from_bytes(stem)))
}

/// A regular file, as far as a copy of it must be the same: nothing new is in it, and nobody else may read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Former {
    digest: [u8; 32],
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Former {
    /// Of a state; none of what is no regular file, or is not hashed yet.
    pub fn of(state: &ObjectState) -> Option<Self> {
        let Content::Digest(digest) = state.content else { return None };
        let meta = &state.meta;
        let plain = meta.kind == Kind::File && state.extended.capability().is_none();
        plain.then_some(Self { digest, mode: meta.mode, uid: meta.uid, gid: meta.gid })
    }
}

/// `tmp.` and six letters or digits.
fn is_temporary(name: &[u8]) -> bool {
    name.strip_prefix(b"tmp.")
        .is_some_and(|rest| rest.len() == 6 && rest.iter().all(u8::is_ascii_alphanumeric))
}

/// Whether it can lie there until the edit is over without a word: nothing runs it, and it says nothing by itself.
pub fn is_inert(change: &FileChange, finding: &Finding) -> bool {
    const EXECUTABLE: u32 = 0o111;
    let Some(after) = &change.after else { return false };
    // visudo makes its copy executable; nothing looks for a program there.
    let in_etc = change.path.starts_with("/etc")
        && swap(change.path.file_name().unwrap_or_default().as_bytes()).is_none();
    let quiet = match after.meta.kind {
        Kind::File => in_etc || after.meta.mode & EXECUTABLE == 0,
        Kind::Symlink => true,
        _ => false,
    };
    quiet && finding.severity < Severity::High && after.extended.capability().is_none()
}

trait SplitAt {
    fn rsplit_once_at(&self, at: u8) -> Option<(&[u8], &[u8])>;
}

impl SplitAt for [u8] {
    fn rsplit_once_at(&self, at: u8) -> Option<(&[u8], &[u8])> {
        let place = self.iter().rposition(|byte| *byte == at)?;
        Some((self.get(..place)?, self.get(place + 1..)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Option<&str>) {
        assert_eq!(target(Path::new(path)).as_deref(), expected.map(Path::new), "{path}");
    }

    #[test]
    fn copies_of_what_was_are_known_by_their_names() {
        let original = |path: &str| original(Path::new(path));
        assert_eq!(original("/etc/hosts.bak"), Some("/etc/hosts".into()));
        assert_eq!(original("/etc/hosts~"), Some("/etc/hosts".into()));
        assert_eq!(original("/etc/ssh/sshd_config.dpkg-old"), Some("/etc/ssh/sshd_config".into()));
        assert_eq!(original("/etc/.bak"), None);
        assert_eq!(original("/etc/hosts"), None);
        assert_eq!(original("/etc/bak"), None);
    }

    #[test]
    fn names_tell_what_is_being_edited() {
        check("/etc/.hosts.swp", Some("/etc/hosts"));
        check("/etc/.hosts.deny.swo", Some("/etc/hosts.deny"));
        check("/etc/.hosts.swx", Some("/etc/hosts"));
        check("/etc/.#hosts", Some("/etc/hosts"));
        check("/etc/#hosts#", Some("/etc/hosts"));
        check("/etc/sudoers.tmp", Some("/etc/sudoers"));
        check("/etc/sudoers.d/a.tmp", Some("/etc/sudoers.d/a"));
        check("/etc/passwd+", Some("/etc/passwd"));
        check("/etc/subgid.26953", Some("/etc/subgid"));
        check("/etc/gshadow.lock", Some("/etc/gshadow"));
        check("/etc/passwd.evil", None);
        check("/srv/passwd+", None);
        check("/etc/x.tmp", None);
        check("/etc/hosts", None);
        check("/etc/..swp", None);
        check("/etc/.hosts.sh", None);
        check("/var/spool/cron/crontabs/tmp.aB3dE6", Some("/var/spool/cron/crontabs/tmp.aB3dE6"));
        check("/var/spool/cron/crontabs/root", None);
    }
}
