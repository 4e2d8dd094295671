//! Which act a change belongs to: by where it is, what it points to, and the program that the kernel ran.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use picket_protocol::finding::{Finding, Severity, Text};
use picket_protocol::time::Timestamp;

use super::edit;
use super::run::{self, Run};
use crate::detect::files::subject;
use crate::sense::files::change::FileChange;
use crate::sense::files::object::{Content, ObjectState};
use crate::sense::processes::Actor;

/// Programs that change accounts.
const ACCOUNT_TOOLS: &[&str] = &[
    "useradd",
    "userdel",
    "usermod",
    "groupadd",
    "groupdel",
    "groupmod",
    "groupmems",
    "gpasswd",
    "passwd",
    "chpasswd",
    "chgpasswd",
    "chage",
    "chfn",
    "chsh",
    "newusers",
    "vipw",
    "pwconv",
    "pwunconv",
    "grpconv",
    "grpunconv",
    "pwck",
    "grpck",
    "systemd-sysusers",
];
/// Programs whose word is a script: those that call account tools one after the other are written in them.
const INTERPRETERS: &[&str] = &["perl", "python", "platform-python", "ruby"];

/// An act.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Key {
    /// Accounts and groups: the same program, or several that one script called.
    Accounts,
    /// What starts a service: its links among the units and in the runlevels.
    Service(String),
    /// A certificate that certbot keeps, by its name.
    Certificate(String),
    /// An alternative, by its name.
    Alternative(String),
    /// What one run of a tool did to many files.
    Run(Run),
    /// What an editor keeps beside a file.
    Edit,
    /// The copy of what a file was, which was left beside it.
    Copy(edit::Former),
}

impl Key {
    /// The act that the change is a part of.
    pub fn of(change: &FileChange, finding: &Finding) -> Option<Self> {
        let path = change.path.as_path();
        if is_account_file(path) || is_by_account_tool(change, finding) {
            return Some(Self::Accounts);
        }
        let linked = |state: &Option<ObjectState>| match state.as_ref().map(|state| &state.content) {
            Some(Content::Target(target)) => Some(target.clone()),
            _ => None,
        };
        let by_link = || {
            let target = linked(&change.after).or_else(|| linked(&change.before))?;
            let target = Path::new(std::ffi::OsStr::from_bytes(&target));
            alternative(path, target)
                .map(Self::Alternative)
                .or_else(|| service(path, target).map(Self::Service))
        };
        certificate(path)
            .map(Self::Certificate)
            .or_else(by_link)
            .or_else(|| run::of(change, finding).map(Self::Run))
    }

    /// Whether who did it decides whether two changes are of one act.
    fn is_by_hand(&self) -> bool {
        *self == Self::Accounts
    }
}

/// `/etc/passwd` and its kin, and what tools leave of each (`passwd-`); in containers' roots as well.
pub fn is_account_file(path: &Path) -> bool {
    const FILES: &[&str] = &["passwd", "shadow", "group", "gshadow", "subuid", "subgid"];
    let (_, path) = subject::inside(path);
    let Some(name) = path.as_os_str().as_bytes().strip_prefix(b"/etc/") else { return false };
    let stem = name.strip_suffix(b"-").unwrap_or(name);
    FILES.iter().any(|file| stem == file.as_bytes())
}

/// A home that an account tool fills or takes away.
fn is_by_account_tool(change: &FileChange, finding: &Finding) -> bool {
    let alone = change.other_actors.is_empty() && change.actor_unknown.is_none();
    let plain = finding.severity < Severity::High;
    let at_home = ["/home", "/var/mail", "/var/spool/mail"].iter().any(|home| change.path.starts_with(home));
    let by_tool =
        |actor: &Actor| actor.container.is_none() && program(actor.executable.as_ref()).is_some_and(is_tool);
    alone && plain && at_home && change.actor.as_deref().is_some_and(by_tool)
}

/// `live/NAME/…`, `archive/NAME/…` and `renewal/NAME.conf`.
fn certificate(path: &Path) -> Option<String> {
    let mut parts = path.strip_prefix("/etc/letsencrypt").ok()?.iter();
    let (place, name) = (parts.next()?, parts.next()?.to_string_lossy());
    match place.as_bytes() {
        b"live" | b"archive" => Some(name.into_owned()),
        b"renewal" => Some(name.strip_suffix(".conf")?.to_owned()),
        _ => None,
    }
}

/// `/etc/alternatives/NAME`, and the link to it.
fn alternative(path: &Path, target: &Path) -> Option<String> {
    let own =
        path.strip_prefix("/etc/alternatives").or_else(|_| target.strip_prefix("/etc/alternatives")).ok()?;
    let mut parts = own.iter();
    let name = parts.next()?.to_string_lossy().into_owned();
    parts.next().is_none().then_some(name)
}

/// The service that a link among the units of systemd or in a runlevel starts or stops.
fn service(path: &Path, target: &Path) -> Option<String> {
    if let Some((_, service)) = subject::init_link(path) {
        return Some(service.to_owned());
    }
    if !path.starts_with("/etc/systemd/system") {
        return None;
    }
    // Another name for a unit, and a unit that is masked, are links as well.
    let masked = target == Path::new("/dev/null");
    let unit = if masked { path.file_name() } else { target.file_name() }?.to_string_lossy().into_owned();
    Some(unit.strip_suffix(".service").map_or(unit.clone(), str::to_owned))
}

fn program(executable: Option<&Text>) -> Option<&str> {
    let path = executable?.text.as_str();
    let place =
        ["/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"].iter().find_map(|place| path.strip_prefix(place));
    place.filter(|name| !name.contains('/'))
}

fn is_tool(name: &str) -> bool {
    ACCOUNT_TOOLS.contains(&name)
}

/// The processes of an act: those that made the changes, and those above that are account tools or scripts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(BTreeSet<(u32, Timestamp)>);

impl Line {
    /// Of one change; empty when nobody is known.
    pub fn of(change: &FileChange) -> Self {
        let mut line = BTreeSet::new();
        for actor in change.actor.iter().chain(&change.other_actors) {
            line.insert((actor.pid, actor.started.unwrap_or_default()));
            let steps = actor.parents.iter().take_while(|parent| {
                let scripted = |name: &str| INTERPRETERS.iter().any(|known| name.starts_with(known));
                program(parent.executable.as_ref()).is_some_and(|name| is_tool(name) || scripted(name))
            });
            line.extend(steps.map(|parent| (parent.pid, parent.started.unwrap_or_default())));
        }
        Self(line)
    }

    /// Whether both may be one act. Where nobody is known, time alone decides: all that is said stays said.
    pub fn joins(&self, other: &Self) -> bool {
        self.0.is_empty() || other.0.is_empty() || self.is_of(other)
    }

    /// Whether both have a process in common.
    pub fn is_of(&self, other: &Self) -> bool {
        !self.0.is_disjoint(&other.0)
    }

    /// Takes the other's processes in.
    pub fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

/// Whether `line` may have made what is keyed `key` together with `other`.
pub fn one_act(key: &Key, line: &Line, other: &Line) -> bool {
    !key.is_by_hand() || line.joins(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_together_by_its_place() {
        assert!(is_account_file(Path::new("/etc/passwd-")));
        assert!(is_account_file(Path::new("/var/lib/machines/web/etc/shadow")));
        assert!(!is_account_file(Path::new("/etc/passwd.evil")));
        assert!(!is_account_file(Path::new("/srv/etc/passwd")));
        assert_eq!(certificate(Path::new("/etc/letsencrypt/archive/a/cert2.pem")).as_deref(), Some("a"));
        assert_eq!(certificate(Path::new("/etc/letsencrypt/renewal/a.conf")).as_deref(), Some("a"));
        assert_eq!(certificate(Path::new("/etc/letsencrypt/renewal-hooks/deploy/x")), None);
        let service = |path: &str, target: &str| service(Path::new(path), Path::new(target));
        let wants = "/etc/systemd/system/multi-user.target.wants/ssh.service";
        assert_eq!(service(wants, "/lib/systemd/system/ssh.service").as_deref(), Some("ssh"));
        assert_eq!(
            service("/etc/systemd/system/sshd.service", "/lib/systemd/system/ssh.service").as_deref(),
            Some("ssh")
        );
        assert_eq!(service("/etc/systemd/system/cron.service", "/dev/null").as_deref(), Some("cron"));
        assert_eq!(service("/etc/rc2.d/K01cron", "../init.d/cron").as_deref(), Some("cron"));
        assert_eq!(service("/etc/systemd/x", "y").as_deref(), None);
        let alternative = |path: &str, target: &str| alternative(Path::new(path), Path::new(target));
        assert_eq!(alternative("/usr/bin/editor", "/etc/alternatives/editor").as_deref(), Some("editor"));
        assert_eq!(alternative("/etc/alternatives/editor", "/bin/nano").as_deref(), Some("editor"));
        assert_eq!(alternative("/usr/bin/x", "/bin/nano"), None);
    }
}
