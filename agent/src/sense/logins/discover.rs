//! Logs that services write themselves come and go with the services: one that appears while the agent runs is read from
//! its first byte, and one that is gone for good is let go.
//!
//! The directories in which a rule file says that a log may be are watched, and those above them that exist so far; at
//! least every [`LOOK`] it is looked whatever inotify says. Limits: [`LOGS_MAX`] logs, the newest, and [`WATCHES_MAX`]
//! directories.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::parse::Parsers;
use super::parse::parsers::LOGS_MAX;
use super::watch::Watch;
use crate::glob::Glob;

/// It is looked this often at least.
const LOOK: Duration = Duration::from_secs(30);
/// And no more often than this, whoever makes files there.
const REST: Duration = Duration::from_millis(200);
/// Directories that are watched for logs.
const WATCHES_MAX: usize = 256;

/// What a look found.
#[derive(Debug)]
pub struct Found {
    /// The logs that there are, with the services that write them.
    pub logs: Vec<(PathBuf, String)>,
    /// Fails when inotify refuses; looking by the clock goes on.
    pub watched: io::Result<()>,
}

/// Looks for logs of services.
#[derive(Debug)]
pub struct Discovery {
    parsers: Arc<Parsers>,
    looked: Timestamp,
    /// A name appeared somewhere since.
    stirred: bool,
}

impl Discovery {
    /// By the rules of `parsers`; the logs that were there at `now` are known.
    pub fn new(parsers: Arc<Parsers>, now: Timestamp) -> Self {
        // Watches are set by the first look.
        Self { parsers, looked: now, stirred: true }
    }

    /// Names appeared in a watched directory.
    pub fn stir(&mut self) {
        self.stirred = true;
    }

    /// How long until [`Discovery::look`] has something to do.
    pub fn due_in(&self, now: Timestamp) -> Duration {
        let wait = if self.stirred { REST } else { LOOK };
        if now < self.looked { Duration::ZERO } else { wait.saturating_sub(now.since(self.looked)) }
    }

    /// Looks, when it is time to.
    pub fn look(&mut self, watch: &Watch, now: Timestamp) -> Option<Found> {
        if !self.due_in(now).is_zero() {
            return None;
        }
        (self.looked, self.stirred) = (now, false);
        // Watched first and looked at then, so that nothing comes unseen in between.
        let patterns = self.parsers.heads().flat_map(|service| &service.logs);
        let mut directories = BTreeSet::new();
        patterns.for_each(|pattern| directories_of(Path::new(pattern), &mut directories));
        let mut watched = Ok(());
        for directory in directories.iter().take(WATCHES_MAX) {
            match watch.names_in(directory) {
                // It may have gone meanwhile.
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => watched = Err(error),
            }
        }
        let logs = self.parsers.logs().into_iter().map(|(path, service)| (path, service.to_owned()));
        Some(Found { logs: logs.take(LOGS_MAX).collect(), watched })
    }
}

/// Existing directories where the next part of `pattern` may appear.
fn directories_of(pattern: &Path, into: &mut BTreeSet<PathBuf>) {
    let mut reached = vec![PathBuf::from("/")];
    for part in pattern.components().skip(1) {
        let name = part.as_os_str();
        let glob = name.to_str().filter(|name| name.contains('*')).and_then(|glob| Glob::new(glob).ok());
        let mut next = Vec::new();
        for directory in reached {
            let found = match &glob {
                Some(glob) => {
                    let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
                    let fitting = entries.filter(|entry| glob.is_match(entry.file_name()));
                    fitting.map(|entry| entry.path()).filter(|path| path.is_dir()).take(LOGS_MAX).collect()
                }
                None => {
                    Some(directory.join(name)).filter(|path| path.is_dir()).into_iter().collect::<Vec<_>>()
                }
            };
            if glob.is_some() || found.is_empty() {
                into.insert(directory);
            }
            next.extend(found);
        }
        next.truncate(LOGS_MAX);
        reached = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_directories_that_exist_are_watched() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("pg/15/log")).unwrap();
        std::fs::create_dir_all(at("pg/16")).unwrap();
        std::fs::write(at("pg/15/log/a.log"), "").unwrap();
        let watched = |pattern: &str| {
            let mut directories = BTreeSet::new();
            directories_of(&at(pattern), &mut directories);
            directories.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(watched("none/deep/x.log"), [dir.path()]);
        assert_eq!(watched("pg/*/log/*.log"), [at("pg"), at("pg/15/log"), at("pg/16")]);
        assert_eq!(watched("pg/15/log/a.log"), [at("pg/15/log")]);
    }
}
