//! Whether the program behind a change is what its package holds: asked once for each program as it is on disk.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use picket_protocol::time::Timestamp;

use super::Packages;
use super::question::{aliases, spellings};
use crate::detect::packages::hands::{KnownHand, suspect};
use crate::detect::packages::proof::Manager;
use crate::sense::files::change::FileChange;

/// Programs that are remembered; when there are more, all are asked about again.
const REMEMBERED_MAX: usize = 64;
/// A larger program is not read: it is nobody's hand.
const PROGRAM_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// An object on disk (device, inode, size, the kernel's own time of its last change), and when a database last changed.
type Stamp = (u64, u64, u64, (i64, i64), Timestamp);

/// What was found out.
#[derive(Debug, Default)]
pub struct Hands(HashMap<PathBuf, (Stamp, Option<String>)>);

impl Packages {
    /// The tool behind the change, if its program, and the interpreter that runs it, are as their packages hold them.
    ///
    /// Only dpkg's packages are asked; where another manager keeps the programs, no hand is known.
    pub fn hand(&mut self, change: &FileChange) -> Option<KnownHand> {
        let suspect = suspect(change)?;
        let package = self.vouched(&suspect.program)?;
        if let Some(interpreter) = &suspect.interpreter {
            self.vouched(interpreter)?;
        }
        let digest = Manager::Dpkg.digest();
        Some(KnownHand { tool: suspect.tool, program: suspect.program, package, digest })
    }

    fn vouched(&mut self, program: &Path) -> Option<String> {
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
        let vouch = || self.databases.iter().find_map(|database| database.vouch(&path, &names));
        let package = readable.then(vouch).flatten();
        if self.hands.0.len() >= REMEMBERED_MAX {
            self.hands.0.clear();
        }
        self.hands.0.insert(path, (stamp, package.clone()));
        package
    }
}
