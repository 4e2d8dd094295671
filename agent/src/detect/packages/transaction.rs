//! What a transaction did to one package, and the findings about it.

use std::path::{Path, PathBuf};

use picket_protocol::finding::{Entity, Finding, Observed, Severity, Text, printable};
use picket_protocol::time::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::held::{Hand, Held};
use super::proof::{Action, News, PackageId};
use crate::detect::files::path_text;

/// Paths that a fold names.
const NAMED_MAX: usize = 20;

/// What was explained of one package and is told at the end.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fold {
    /// Which.
    pub package: PackageId,
    /// When the first and last of its changes were made.
    pub first: Timestamp,
    /// See `first`.
    pub last: Timestamp,
    /// Objects that came.
    pub created: u64,
    /// Objects that are others now.
    pub modified: u64,
    /// Objects that went.
    pub deleted: u64,
    /// Of all these: not in the package, and proved by what is.
    pub derived: u64,
    /// Of all these: written by the package's scripts, in places where scripts generate what is there.
    pub generated: u64,
    /// Objects that differ from the package; each has a finding of its own.
    pub differing: u64,
    /// The first of them.
    pub paths: Vec<Text>,
    /// Each was written by a program that manages packages, as the kernel knows it.
    pub by_manager: bool,
}

/// How a change is accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// By the package's digest.
    Packaged,
    /// By what the package holds.
    Derived,
    /// By who wrote it where.
    Generated,
}

impl Fold {
    /// Nothing yet.
    pub fn new(package: PackageId, time: Timestamp) -> Self {
        Self {
            package,
            first: time,
            last: time,
            created: 0,
            modified: 0,
            deleted: 0,
            derived: 0,
            generated: 0,
            differing: 0,
            paths: Vec::new(),
            by_manager: true,
        }
    }

    /// Takes an explained change in.
    pub fn add(&mut self, path: &Path, held: &Held, account: Account) {
        match (&held.before, &held.now) {
            (None, _) => self.created += 1,
            (Some(_), Some(_)) => self.modified += 1,
            (Some(_), None) => self.deleted += 1,
        }
        self.derived += u64::from(account == Account::Derived);
        self.generated += u64::from(account == Account::Generated);
        self.by_manager &= held.hand == Hand::Manager;
        self.first = self.first.min(held.first);
        self.last = self.last.max(held.first);
        if self.paths.len() < NAMED_MAX {
            self.paths.push(path_text(path));
        }
    }

    /// How many changes it stands for.
    pub fn count(&self) -> u64 {
        self.created + self.modified + self.deleted
    }

    /// Puts the finding into words; without news the database said nothing new of the package itself.
    pub fn finding(&self, news: Option<&News>, id: Uuid) -> Finding {
        let package = &self.package;
        let action = news.map_or(Action::InstalledAgain, |news| news.action);
        let (before, after) = news.map_or((None, None), |news| (news.before.as_ref(), news.after.as_ref()));
        let (name, version) = (printable(&package.name), |version: Option<&String>| {
            version.map(|version| format!(" {}", printable(version))).unwrap_or_default()
        });
        let what = match (news, action) {
            (None, _) => format!("{name}: more of its files changed"),
            (_, Action::Installed) => format!("{name}{} installed", version(after)),
            (_, Action::Replaced) => format!("{name}{} →{}", version(before), version(after)),
            (_, Action::InstalledAgain) => format!("{name}{} installed again", version(after)),
            (_, Action::Removed) => format!("{name}{} removed", version(before)),
            (_, Action::Incomplete) => format!("{name}{} left half installed", version(after)),
        };
        let differing =
            if self.differing > 0 { format!(", {} not as packaged", self.differing) } else { String::new() };
        let files = match self.count() {
            0 if self.differing > 0 => String::new(),
            0 => ", no watched file is another than before".to_owned(),
            1 if self.differing == 0 => ", 1 file, as packaged".to_owned(),
            count if self.differing == 0 => format!(", {count} files, all as packaged"),
            count => format!(", {count} files as packaged"),
        };
        Finding {
            id,
            rule: "package.transaction".to_owned(),
            severity: if action == Action::Incomplete { Severity::Low } else { Severity::Info },
            observed: Observed { first: self.first, last: self.last, count: self.count().max(1) },
            title: format!("{what}{files}{differing}"),
            entities: vec![entity(package, after.or(before))],
            evidence: json!({
                "manager": package.manager,
                "architecture": package.architecture,
                "action": news.map(|news| news.action),
                "before": before,
                "after": after,
                "created": self.created,
                "modified": self.modified,
                "deleted": self.deleted,
                "derived": self.derived,
                "generated": self.generated,
                "differing": self.differing,
                "paths": self.paths,
                "by_manager": (self.count() > 0).then_some(self.by_manager),
            }),
            attack: Vec::new(),
            explained_by: Some(format!("{} recorded it", package.manager.name())),
            drill: false,
        }
    }
}

/// The package as an entity.
pub fn entity(package: &PackageId, version: Option<&String>) -> Entity {
    Entity::Package { name: package.name.clone(), version: version.cloned() }
}

/// Many packages recorded anew in the same versions, without one file of theirs being another: a database that was
/// copied or restored.
pub fn restored(news: &[News], now: Timestamp, id: Uuid) -> Finding {
    let named: Vec<&str> = news.iter().take(NAMED_MAX).map(|news| news.package.name.as_str()).collect();
    Finding {
        id,
        rule: "package.transaction".to_owned(),
        severity: Severity::Low,
        observed: Observed { count: u64::try_from(news.len()).unwrap_or(u64::MAX), ..Observed::once(now) },
        title: format!("{} packages were recorded anew in the versions that they had", news.len()),
        entities: Vec::new(),
        evidence: json!({ "packages": named, "count": news.len() }),
        attack: Vec::new(),
        explained_by: None,
        drill: false,
    }
}

/// The finding about an object that differs from its package: what was to be told of it, under the rule that says more.
pub fn mismatch(
    mut finding: Finding,
    path: &Path,
    package: &PackageId,
    version: Option<&String>,
    expected: &str,
) -> Finding {
    let fact = std::mem::replace(&mut finding.rule, "package.mismatch".to_owned());
    finding.severity = finding.severity.max(Severity::High);
    let lossy = path.to_string_lossy();
    let shown = version.map(|version| format!(" {}", printable(version))).unwrap_or_default();
    let how = if expected.is_empty() { "was removed, and is part of" } else { "is not what is in" };
    finding.title = format!("{} {how} package {}{shown}", short(&lossy), printable(&package.name));
    finding.entities.push(entity(package, version));
    if !finding.attack.iter().any(|technique| technique == "T1554") {
        finding.attack.push("T1554".to_owned());
    }
    finding.explained_by = None;
    note(
        &mut finding,
        "package",
        json!({
            "manager": package.manager,
            "name": package.name,
            "architecture": package.architecture,
            "version": version,
            "expected": expected,
            "rule": fact,
        }),
    );
    finding
}

/// Adds a member to the evidence.
pub fn note(finding: &mut Finding, name: &str, value: Value) {
    if let Value::Object(evidence) = &mut finding.evidence {
        evidence.insert(name.to_owned(), value);
    }
}

fn short(path: &str) -> String {
    const CHARS_MAX: usize = 200;
    let text = printable(path);
    if text.chars().count() <= CHARS_MAX {
        return text.into_owned();
    }
    let head: String = text.chars().take(CHARS_MAX).collect();
    format!("{head}…")
}

/// Places where the scripts of packages generate what is there, so that no package holds it.
pub fn is_generated(path: &Path) -> bool {
    const EXACT: &[&str] =
        &["/etc/ld.so.cache", "/etc/mailcap", "/usr/lib/udev/hwdb.bin", "/etc/udev/hwdb.bin"];
    const BENEATH: &[&str] =
        &["/etc/alternatives", "/etc/ssl/certs", "/usr/lib/locale", "/boot/grub", "/usr/share/mime"];
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    EXACT.iter().any(|exact| path == Path::new(exact))
        || BENEATH.iter().any(|above| path.starts_with(above))
        || (path.parent() == Some(Path::new("/boot")) && name.starts_with("initrd.img-"))
        || (path.starts_with("/usr/lib/modules") && name.starts_with("modules."))
        || (name.ends_with(".pyc") && path.parent().is_some_and(|above| above.ends_with("__pycache__")))
}

/// All paths of `paths`, relative to `root`, as a host whose root that is names them.
pub fn below_root(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).map_or_else(|_| path.to_path_buf(), |below| Path::new("/").join(below))
}
