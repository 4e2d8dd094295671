//! A change that is held back, and what is needed to judge it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use picket_protocol::crypto::Hash;
use picket_protocol::finding::{Finding, Severity};
use picket_protocol::time::Timestamp;

use super::proof::site_of;
use crate::sense::files::change::FileChange;
use crate::sense::files::object::{Content, Kind, ObjectState};
use crate::sense::processes::Actor;

/// Findings that are kept of one path; beyond, the last is replaced.
const TOLD_MAX: usize = 4;
/// Names beneath a vanished directory that are kept: what the sensor gives at most.
const BENEATH_MAX: usize = 200;

/// Who made the change, as far as that proves something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hand {
    /// A program that manages packages, or a process below one, by the executable that the kernel ran.
    Manager,
    /// Nobody knows.
    Unknown,
    /// An interpreter: what it interpreted is its own word.
    Interpreter,
    /// Somebody else.
    Other,
}

/// Executables of package managers. What a process calls itself is its own choice, what the kernel ran is not.
const MANAGERS: &[&str] = &[
    "/usr/bin/dpkg",
    "/bin/dpkg",
    "/usr/bin/apt-get",
    "/usr/bin/apt",
    "/usr/bin/aptitude",
    "/usr/bin/rpm",
    "/bin/rpm",
    "/usr/bin/dnf5",
    "/usr/bin/microdnf",
    "/usr/bin/zypper",
    "/usr/libexec/packagekitd",
    "/usr/lib/packagekit/packagekitd",
    "/usr/lib/snapd/snapd",
    "/usr/libexec/snapd/snapd",
];

/// systemd, which puts units in place for whoever asks it.
const SYSTEMD: &[&str] = &["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// Names of interpreters that package managers are written in.
const INTERPRETERS: &[&str] = &["python", "platform-python", "perl", "node", "ruby"];

impl Hand {
    /// The least trustworthy hand in a change.
    pub fn in_change(change: &FileChange) -> Self {
        let others = change.other_actors.iter().map(|actor| Self::of(Some(actor)));
        let unnamed = change.actor_unknown.map(|_| Self::Unknown);
        others.chain(unnamed).fold(Self::of(change.actor.as_deref()), Self::max)
    }

    /// Whether the process itself is a package manager, or nobody knows what it is.
    pub fn of_process(actor: Option<&Actor>) -> bool {
        let executable = actor.map(|actor| (actor.container.is_none(), actor.executable.as_ref()));
        executable.is_none_or(|(on_host, executable)| {
            on_host && executable.is_none_or(|executable| is_manager(&executable.to_bytes()))
        })
    }

    /// Judges the process and those above it.
    pub fn of(actor: Option<&Actor>) -> Self {
        let Some(actor) = actor else { return Self::Unknown };
        if actor.container.is_some() {
            return Self::Other;
        }
        let above = actor.parents.iter().map(|parent| parent.executable.as_ref());
        let executables: Vec<Vec<u8>> = std::iter::once(actor.executable.as_ref())
            .chain(above)
            .flatten()
            .map(|text| text.to_bytes())
            .collect();
        if executables.iter().any(|executable| is_manager(executable)) {
            Self::Manager
        } else if actor.executable.is_none() || is_asked(actor, &executables) {
            Self::Unknown
        } else if executables.first().is_some_and(|executable| is_interpreter(executable)) {
            Self::Interpreter
        } else {
            Self::Other
        }
    }
}

/// The first process did it: whom it did it for, the kernel does not say.
fn is_asked(actor: &Actor, executables: &[Vec<u8>]) -> bool {
    let own = executables.first();
    actor.pid == 1 && own.is_some_and(|own| SYSTEMD.iter().any(|systemd| systemd.as_bytes() == own))
}

/// snapd runs out of a snap of its own, in any revision, where the host's is older.
fn is_snapd(executable: &[u8]) -> bool {
    let below = executable.strip_prefix(b"/snap/snapd/").unwrap_or_default();
    let mut parts = below.splitn(2, |byte| *byte == b'/');
    let revision = parts.next().unwrap_or_default();
    let is_revision = !revision.is_empty() && revision.iter().all(u8::is_ascii_alphanumeric);
    is_revision && parts.next() == Some(b"usr/lib/snapd/snapd")
}

/// A manager that replaces itself goes on running what was removed.
fn is_manager(executable: &[u8]) -> bool {
    if is_snapd(executable) {
        return true;
    }
    let ends: [&[u8]; 3] = [b"", b" (deleted)", b".dpkg-tmp (deleted)"];
    MANAGERS
        .iter()
        .any(|manager| executable.strip_prefix(manager.as_bytes()).is_some_and(|end| ends.contains(&end)))
}

fn is_interpreter(executable: &[u8]) -> bool {
    let name = executable.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let in_place = executable.starts_with(b"/usr/") || executable.starts_with(b"/bin/");
    in_place && INTERPRETERS.iter().any(|known| name.starts_with(known.as_bytes()))
}

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Present {
    /// The type.
    pub kind: Kind,
    /// SHA-256 of a regular file.
    pub digest: Option<Hash>,
    /// Where a link points.
    pub target: Option<Vec<u8>>,
}

impl Present {
    fn new(state: &ObjectState) -> Self {
        let (digest, target) = match &state.content {
            Content::Digest(digest) => (Some(*digest), None),
            Content::Target(target) => (None, Some(target.clone())),
            Content::None | Content::Pending | Content::Unreadable(_) => (None, None),
        };
        Self { kind: state.meta.kind, digest, target }
    }
}

/// See the module. As a row it is its JSON.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Held {
    /// When the first of its changes was observed.
    pub first: Timestamp,
    /// When it was held back first.
    pub since: Timestamp,
    /// What the baseline had before the first of them.
    pub before: Option<Present>,
    /// What is there now; none when it is gone.
    pub now: Option<Present>,
    /// What vanished with a directory, relative to it; incomplete when that is more than can be named.
    #[serde(with = "names")]
    pub beneath: Vec<PathBuf>,
    /// Of what was put aside ([`is_put_aside`]): where it stood.
    #[serde(default, with = "names")]
    pub stood: Vec<PathBuf>,
    /// More than that vanished.
    pub beneath_unnamed: bool,
    /// It may be used for more than before: set-id bits, or writable by all.
    pub gained: bool,
    /// The least trustworthy hand in it.
    pub hand: Hand,
    /// How much its findings matter.
    pub severity: Severity,
    /// Its findings, as JSON, oldest first.
    pub told: Vec<String>,
}

impl Held {
    /// Holds `finding` about `change` back.
    pub fn new(change: &FileChange, finding: &Finding, now: Timestamp) -> Self {
        let beneath =
            change.beneath.iter().take(BENEATH_MAX).map(|object| object.path.clone()).collect::<Vec<_>>();
        let named = u64::try_from(beneath.len()).unwrap_or(u64::MAX);
        Self {
            first: change.window.map_or(change.observed.first, |window| window.from),
            since: now,
            before: change.before.as_ref().map(Present::new),
            now: change.after.as_ref().map(Present::new),
            beneath_unnamed: change.beneath_count > named,
            beneath,
            stood: change.moved_from.iter().filter(|_| is_put_aside(&change.path)).cloned().collect(),
            gained: gained(change),
            hand: Hand::in_change(change),
            severity: finding.severity,
            told: serde_json::to_string(finding).into_iter().collect(),
        }
    }

    /// Takes a later change of the same path in.
    pub fn add(&mut self, later: Self) {
        self.now = later.now;
        self.gained |= later.gained;
        self.hand = self.hand.max(later.hand);
        self.severity = self.severity.max(later.severity);
        (self.beneath, self.beneath_unnamed) = (later.beneath, later.beneath_unnamed);
        if self.told.len() >= TOLD_MAX {
            self.told.pop();
        }
        self.told.extend(later.told);
    }

    /// Its findings.
    pub fn findings(&self) -> impl Iterator<Item = Finding> {
        self.told.iter().filter_map(|told| serde_json::from_str(told).ok())
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.told.iter().map(String::len).sum::<usize>() + self.beneath.len() * 64
    }
}

/// What no digest vouches for: rights of the object, and who may change it.
fn gained(change: &FileChange) -> bool {
    const SET_ID: u32 = 0o6000;
    const BY_ALL: u32 = 0o002;
    let Some(after) = &change.after else { return false };
    let (meta, before) = (&after.meta, change.before.as_ref());
    let watched = if meta.kind == Kind::File { SET_ID | BY_ALL } else { BY_ALL };
    let had = before.map_or(0, |before| before.meta.mode);
    let bits = meta.kind != Kind::Symlink && meta.mode & !had & watched != 0;
    let owner = before.is_some_and(|before| (before.meta.uid, before.meta.gid) != (meta.uid, meta.gid));
    let capability = after.extended.capability();
    let able = capability.is_some() && before.and_then(|before| before.extended.capability()) != capability;
    bits || owner || able
}

/// Endings of the names under which dpkg and rpm prepare and keep aside. Nothing loads or runs such a file by its
/// place: the directories that matter take no names with these endings.
const STAGING: &[&[u8]] = &[b".dpkg-new", b".dpkg-tmp"];

/// Names with all their bytes: what is kept must be readable again.
mod names {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    use std::path::PathBuf;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(names: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(names.iter().map(|name| name.as_os_str().as_bytes()))
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
        let names = Vec::<Vec<u8>>::deserialize(from)?;
        Ok(names.into_iter().map(|name| PathBuf::from(OsString::from_vec(name))).collect())
    }
}

/// Whether pip keeps there what it removes, until it has put the next version in place: `site-packages/~ame`.
pub fn is_put_aside(path: &Path) -> bool {
    let below = site_of(path).and_then(|site| path.strip_prefix(site).ok());
    below.and_then(|below| below.iter().next()).is_some_and(|name| name.as_bytes().starts_with(b"~"))
}

/// The name under which the object will stand, of one that is being prepared.
pub fn staged_for(path: &Path) -> Option<&Path> {
    let bytes = path.as_os_str().as_bytes();
    let stem = STAGING.iter().find_map(|end| bytes.strip_suffix(*end))?;
    Some(Path::new(std::ffi::OsStr::from_bytes(stem)))
}

/// The administrator's file beside which dpkg leaves the package's version.
pub fn kept_beside(path: &Path) -> Option<&Path> {
    let stem = path.as_os_str().as_bytes().strip_suffix(b".dpkg-dist")?;
    Some(Path::new(std::ffi::OsStr::from_bytes(stem)))
}

#[cfg(test)]
mod tests {
    use picket_protocol::finding::Text;

    use super::*;
    use crate::sense::processes::Ancestor;

    fn hand(executables: &[&str], command_line: &str) -> Hand {
        let text = |text: &str| Text::from_bytes(text.as_bytes());
        let (own, above) = executables.split_first().unwrap();
        let actor = Actor {
            executable: Some(text(own)),
            command_line: Some(text(command_line)),
            parents: above
                .iter()
                .map(|above| Ancestor { pid: 1, started: None, executable: Some(text(above)), script: None })
                .collect(),
            ..super::super::tests::actor()
        };
        Hand::of(Some(&actor))
    }

    #[test]
    fn a_name_proves_nothing_and_a_program_does() {
        assert_eq!(hand(&["/usr/bin/dpkg"], ""), Hand::Manager);
        assert_eq!(hand(&["/usr/bin/dpkg (deleted)"], ""), Hand::Manager);
        assert_eq!(
            hand(&["/usr/bin/dash", "/usr/bin/dpkg", "/usr/bin/apt-get"], "/bin/sh x.postinst"),
            Hand::Manager
        );
        assert_eq!(hand(&["/tmp/dpkg"], "dpkg --unpack"), Hand::Other);
        assert_eq!(hand(&["/usr/bin/dpkgx"], ""), Hand::Other);
        assert_eq!(hand(&["/home/x/usr/bin/dpkg"], ""), Hand::Other);
        assert_eq!(hand(&["/usr/bin/bash", "/usr/sbin/sshd"], "/usr/bin/dpkg"), Hand::Other);
        assert_eq!(hand(&["/usr/bin/python3.11"], "/usr/bin/dnf upgrade"), Hand::Interpreter);
        assert_eq!(hand(&["/tmp/python3"], ""), Hand::Other);
        assert_eq!(Hand::of(None), Hand::Unknown);
        assert_eq!(hand(&["/snap/snapd/20290/usr/lib/snapd/snapd"], ""), Hand::Manager);
        assert_eq!(hand(&["/snap/snapd/../../tmp/usr/lib/snapd/snapd"], ""), Hand::Other);
        assert_eq!(hand(&["/snap/other/1/usr/lib/snapd/snapd"], ""), Hand::Other);
    }

    #[test]
    fn nobody_knows_for_whom_the_first_process_did_it() {
        let systemd = |pid| Actor {
            pid,
            executable: Some(Text::from_bytes(b"/usr/lib/systemd/systemd")),
            ..super::super::tests::actor()
        };
        assert_eq!(Hand::of(Some(&systemd(1))), Hand::Unknown);
        assert_eq!(Hand::of(Some(&systemd(700))), Hand::Other);
    }

    #[test]
    fn a_container_has_its_own_dpkg() {
        let actor = Actor {
            executable: Some(Text::from_bytes(b"/usr/bin/dpkg")),
            container: Some("abc".to_owned()),
            ..super::super::tests::actor()
        };
        assert_eq!(Hand::of(Some(&actor)), Hand::Other);
    }

    #[test]
    fn names_of_what_is_prepared() {
        assert_eq!(staged_for(Path::new("/etc/a.dpkg-new")), Some(Path::new("/etc/a")));
        assert_eq!(staged_for(Path::new("/etc/a.dpkg-old")), None);
    }
}
