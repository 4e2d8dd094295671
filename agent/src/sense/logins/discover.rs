//! Logs that services write themselves come and go with the services: one that appears while the agent runs is read from
//! its first byte, and one that is gone for good is let go.
//!
//! The directories in which a rule file says that a log may be are watched, and those above them that exist so far; at
//! least every [`LOOK`] it is looked whatever inotify says. Limits: [`LOGS_MAX`] logs, those that were written last when it was
//! looked; the others are counted ([`Discovery::left_out`]) until there is room for them; and [`WATCHES_MAX`] directories.

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
    left_out: usize,
}

impl Discovery {
    /// By the rules of `parsers`; the logs that were there at `now` are known.
    pub fn new(parsers: Arc<Parsers>, now: Timestamp) -> Self {
        // Watches are set by the first look.
        Self { parsers, looked: now, stirred: true, left_out: 0 }
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
        let mut directories = BTreeSet::new();
        self.parsers.patterns().for_each(|(pattern, _)| directories_of(Path::new(pattern), &mut directories));
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
        Some(Found { logs: logs.collect(), watched })
    }

    /// Those of the logs that are not read yet and for which there is room beside the `read` ones of services; the first come first.
    pub fn choose(
        &mut self,
        mut logs: Vec<(PathBuf, String)>,
        read: usize,
        is_read: impl Fn(&Path) -> bool,
    ) -> Vec<(PathBuf, String)> {
        logs.retain(|(path, _)| !is_read(path));
        let room = LOGS_MAX.saturating_sub(read);
        self.left_out = logs.len().saturating_sub(room);
        logs.truncate(room);
        logs
    }

    /// Logs of services that are not read, since others were written later and [`LOGS_MAX`] are read.
    pub fn left_out(&self) -> usize {
        self.left_out
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

    #[test]
    fn of_too_many_logs_those_written_last_are_read_and_the_others_counted() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: usize| dir.path().join(format!("{n:03}.log"));
        let written = |n: usize| std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + n as u64);
        let all = LOGS_MAX + 6;
        for n in 0..all {
            let log = std::fs::File::create(at(n)).unwrap();
            log.set_modified(written(n)).unwrap();
        }
        let mut parsers = Parsers::shipped();
        let log = |service: &str| crate::config::ServiceLog {
            path: format!("{}/*.log", dir.path().display()),
            service: service.to_owned(),
        };
        assert_eq!(parsers.also(&[log("nginx")]), Vec::<String>::new());
        let is_ours = |(path, service): &(PathBuf, &str)| path.starts_with(dir.path()) && *service == "nginx";
        let found: Vec<_> = parsers.logs().into_iter().filter(is_ours).collect();
        assert_eq!(found.len(), all);
        let found: Vec<_> = found.into_iter().map(|(path, service)| (path, service.to_owned())).collect();
        let mut discovery = Discovery::new(Arc::new(parsers), Timestamp::default());
        let chosen = discovery.choose(found.clone(), 4, |path| path == at(all - 1));
        let paths: Vec<PathBuf> = chosen.into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, (9..all - 1).rev().map(at).collect::<Vec<_>>());
        assert_eq!(discovery.left_out(), 9);
        discovery.choose(found, 0, |path| path > at(20).as_path());
        assert_eq!(discovery.left_out(), 0);
    }

    #[test]
    fn a_service_that_writes_no_log_or_that_nobody_knows_cannot_be_given_one() {
        let mut parsers = Parsers::shipped();
        let log = |service: &str| crate::config::ServiceLog {
            path: "/srv/x.log".to_owned(),
            service: service.to_owned(),
        };
        let problems = parsers.also(&[log("sshd"), log("ngnix"), log("apache")]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("without a service") && problems[1].contains("ngnix"), "{problems:?}");
        assert!(parsers.patterns().any(|pattern| pattern == ("/srv/x.log", "apache")));
    }
}
