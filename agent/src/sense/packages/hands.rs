//! Whether the program behind a change is what its package holds: asked once for each program as it is on disk.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use picket_protocol::time::Timestamp;

use super::Packages;
use super::place;
use super::question::{aliases, spellings};
use crate::detect::acts::run::npm;
use crate::detect::packages::hands::{KnownHand, suspect};
use crate::sense::files::change::FileChange;

/// Programs that are remembered; when there are more, all are asked about again.
const REMEMBERED_MAX: usize = 64;
/// A larger program is not read: it is nobody's hand. Node's is the largest of the interpreters, with some 100 MiB.
const PROGRAM_BYTES_MAX: u64 = 192 * 1024 * 1024;

/// Longest `package.json` that is read.
const PACKAGE_JSON_BYTES_MAX: u64 = 256 * 1024;
/// Longest version that is believed to be one.
const VERSION_BYTES_MAX: usize = 100;

/// An object on disk (device, inode, size, the kernel's own time of its last change), and when a database last changed.
type Stamp = (u64, u64, u64, (i64, i64), Timestamp);

/// The package that vouches for a program, with its version, and by which digest.
type Vouched = (String, &'static str);

/// What was found out.
#[derive(Debug, Default)]
pub struct Hands(HashMap<PathBuf, (Stamp, Option<Vouched>)>);

impl Packages {
    /// The tool behind the change, if its program, and the interpreter that runs it, are as their packages hold them.
    ///
    /// dpkg's packages are asked, and rpm's; where another manager keeps the programs, no hand is known.
    pub fn hand(&mut self, change: &FileChange) -> Option<KnownHand> {
        let suspect = suspect(change)?;
        let (package, digest) = self.vouched(&suspect.program)?;
        if let Some(interpreter) = &suspect.interpreter {
            self.vouched(interpreter)?;
        }
        let part = (suspect.tool == "npm").then(|| npm_package(&change.path)).flatten();
        Some(KnownHand { tool: suspect.tool, program: suspect.program, package, digest, part })
    }

    fn vouched(&mut self, program: &Path) -> Option<Vouched> {
        // `/usr/bin/npm` is a link into the package.
        let path = self.root.join(program.strip_prefix("/").ok()?).canonicalize().ok()?;
        let metadata = path.metadata().ok().filter(|metadata| metadata.is_file())?;
        let changed = self.databases.iter().map(|database| database.changed()).max().unwrap_or_default();
        let stamp = (
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            (metadata.ctime(), metadata.ctime_nsec()),
            changed,
        );
        if let Some((known, package)) = self.hands.0.get(&path)
            && *known == stamp
        {
            return package.clone();
        }
        let names = spellings(&path, &self.root, &aliases(&self.root));
        let readable = metadata.size() <= PROGRAM_BYTES_MAX;
        let vouch = || {
            let mut databases = self.databases.iter();
            databases.find_map(|database| Some((database.vouch(&path, &names)?, database.manager().digest())))
        };
        let package = readable.then(vouch).flatten();
        if self.hands.0.len() >= REMEMBERED_MAX {
            self.hands.0.clear();
        }
        self.hands.0.insert(path, (stamp, package.clone()));
        package
    }
}

/// Name and version of the package whose own `package.json` is at `path`, as it says there.
fn npm_package(path: &Path) -> Option<String> {
    let (directory, name) = npm::package_of(path)?;
    if path != directory.join("package.json") {
        return None;
    }
    let text = place::read(path, PACKAGE_JSON_BYTES_MAX);
    let said: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let version = said.get("version")?.as_str().filter(|version| version.len() <= VERSION_BYTES_MAX)?;
    Some(format!("{name} {version}"))
}
