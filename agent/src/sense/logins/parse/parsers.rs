//! All parsers of this agent: those shipped in the binary, and the customer's own.

use std::collections::HashMap;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::rules::file::{FILE_BYTES_MAX, read};
use super::rules::service::{Format, Sender};
use super::rules::{RuleProblem, Scratch, ServiceRules, check};
use super::shipped::Service;
use super::{Parsed, repeated_by};
use crate::config::ServiceLog;
use crate::glob::Glob;
use crate::sense::logins::event::LoginKind;

pub use super::shipped::SHIPPED;

/// Where customers put rule files.
pub const DIRECTORY: &str = "/etc/picket/parsers.d";
/// Most files in that directory.
pub const FILES_MAX: usize = 64;
/// Most logs that services write themselves which are read.
pub const LOGS_MAX: usize = 64;
/// Most paths that one of their globs is followed to.
const PATHS_MAX: usize = 1_024;

/// The service of a request in a log that several web servers may have written.
const WEB: &str = "web";

/// The rule file of the tools that change accounts.
const ACCOUNT_TOOLS: &str = "accounts";

/// A problem with a rule file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FileProblem {
    /// The file; a shipped one has no directory.
    pub file: PathBuf,
    /// Line and message.
    #[serde(flatten)]
    pub problem: RuleProblem,
}

impl std::fmt::Display for FileProblem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}: {}", self.file.display(), self.problem.line, self.problem.message)
    }
}

/// The parsers.
#[derive(Debug, Default)]
pub struct Parsers {
    services: Vec<Service>,
    by_program: HashMap<Vec<u8>, Vec<usize>>,
    /// Services that read the messages of every program.
    any: Vec<usize>,
    /// Logs of services in other places than their rule files say.
    elsewhere: Vec<ServiceLog>,
}

/// Who reads the messages of one program.
#[derive(Clone, Copy, Debug)]
pub struct Readers<'a> {
    own: &'a [usize],
    /// The program as its rule file calls it; empty where none does.
    program: &'a [u8],
    /// Whether the program has a parser of its own.
    pub known: bool,
}

impl Parsers {
    /// The shipped ones.
    pub fn shipped() -> Self {
        Self::of(SHIPPED.iter().filter_map(|(_, text)| Service::shipped(text)).collect())
    }

    /// The shipped ones, and those of `directory`, which replace shipped ones of the same service. Files
    /// with problems are left out.
    pub fn load(directory: &Path) -> (Self, Vec<FileProblem>) {
        let (own, problems) = read_directory(directory);
        let shipped = SHIPPED.iter().filter_map(|(_, text)| Service::shipped(text));
        let mut services: Vec<Service> =
            shipped.filter(|shipped| own.iter().all(|own| own.name != shipped.head().name)).collect();
        services.extend(own.into_iter().map(Service::own));
        (Self::of(services), problems)
    }

    /// Takes in where else services write their logs, and says of which services that cannot be.
    pub fn also(&mut self, logs: &[ServiceLog]) -> Vec<String> {
        let mut problems = Vec::new();
        for log in logs {
            let service = self.heads().find(|service| service.name == log.service);
            let (name, path) = (&log.service, &log.path);
            match service {
                Some(service) if !service.logs.is_empty() => self.elsewhere.push(log.clone()),
                Some(_) => problems.push(format!(
                    "logins.logs: {name} writes no log of its own but to syslog or the journal: name {path} without a service"
                )),
                None => problems.push(format!(
                    "logins.logs: there is no rule file for a service called {name}, so {path} is not read; see \"agent replay --help\""
                )),
            }
        }
        problems
    }

    /// Where services write logs of their own, with the services' names; what the configuration says comes first.
    pub fn patterns(&self) -> impl Iterator<Item = (&str, &str)> {
        let elsewhere = self.elsewhere.iter().map(|log| (log.path.as_str(), log.service.as_str()));
        elsewhere.chain(
            self.heads().flat_map(|service| {
                service.logs.iter().map(|pattern| (pattern.as_str(), service.name.as_str()))
            }),
        )
    }

    /// These.
    fn of(services: Vec<Service>) -> Self {
        let mut parsers = Self { services, ..Self::default() };
        for (index, service) in parsers.services.iter().enumerate() {
            for program in &service.head().programs {
                if program == "*" {
                    parsers.any.push(index);
                } else {
                    parsers.by_program.entry(program.clone().into_bytes()).or_default().push(index);
                }
            }
        }
        parsers
    }

    /// Every service with its rules, which are compiled for that.
    pub fn services(&self) -> impl Iterator<Item = &ServiceRules> {
        self.services.iter().map(Service::rules)
    }

    /// What stands in the heads of all services: everything but their rules.
    pub fn heads(&self) -> impl Iterator<Item = &ServiceRules> {
        self.services.iter().map(Service::head)
    }

    /// The service at this place among all.
    pub fn at(&self, index: usize) -> Option<&ServiceRules> {
        self.services.get(index).map(Service::rules)
    }

    /// The service called `name`.
    pub fn service(&self, name: &str) -> Option<&ServiceRules> {
        self.services.iter().find(|service| service.head().name == name).map(Service::rules)
    }

    /// Program names to ask the journal for.
    pub fn identifiers(&self) -> Vec<&str> {
        let programs = self.heads().flat_map(|service| &service.programs);
        let mut names: Vec<&str> = programs.map(String::as_str).filter(|name| *name != "*").collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Who may speak as `program` in the journal, where a rule file says so.
    pub fn sender(&self, program: &[u8]) -> Option<&Sender> {
        let own = self.readers(program).own;
        own.first().and_then(|index| self.services.get(*index)).map(|service| &service.head().sender)
    }

    /// Whether `program` has a parser of its own.
    pub fn knows(&self, program: &[u8]) -> bool {
        self.readers(program).known
    }

    /// Reads a message of a program without a parser of its own, by those that read every program.
    pub fn generic<'a>(&'a self, message: &'a [u8]) -> Option<Parsed<'a>> {
        self.text(&self.any, message)
    }

    /// Who reads the messages of `program`.
    pub fn readers(&self, program: &[u8]) -> Readers<'_> {
        let by_program = &self.by_program;
        match by_program.get_key_value(program).or_else(|| by_program.get_key_value(base(program))) {
            Some((program, own)) => Readers { own, program, known: true },
            None => Readers { own: &self.any, program: &[], known: false },
        }
    }

    /// Reads a message of `program` in syslog or the journal; none when it says nothing about a login.
    pub fn message<'a>(
        &'a self,
        program: &[u8],
        message: &'a [u8],
        scratch: &'a mut Scratch,
    ) -> Option<Parsed<'a>> {
        self.read(self.readers(program), message, scratch)
    }

    /// As [`Self::message`], by readers that are known already.
    pub fn read<'a>(
        &'a self,
        readers: Readers<'a>,
        message: &'a [u8],
        scratch: &'a mut Scratch,
    ) -> Option<Parsed<'a>> {
        self.text(readers.own, message)
            .map(|parsed| called_by_name(parsed, readers.program))
            // Those that read every program come last.
            .or_else(|| readers.known.then(|| self.text(&self.any, message))?)
            .or_else(|| self.structured(readers.own, message, scratch))
    }

    fn text<'a>(&'a self, indices: &'a [usize], message: &'a [u8]) -> Option<Parsed<'a>> {
        self.chosen(indices).find_map(|service| repeated_by(message, |message| service.text_message(message)))
    }

    /// Reads a line of an unknown service's own log, by its form alone.
    pub fn line<'a>(&'a self, line: &'a [u8], scratch: &'a mut Scratch) -> Option<Parsed<'a>> {
        let mut readers = self.services().filter_map(|service| service.text_line(line));
        let text = readers.next().map(|first| match readers.next() {
            // The access logs of web servers have one form.
            Some(other) if is_same_request(&first, &other) => Parsed { service: WEB, ..first },
            _ => first,
        });
        text.or_else(|| {
            let all: Vec<usize> = (0..self.services.len()).collect();
            self.structured(&all, line, scratch)
        })
    }

    fn chosen<'a>(&'a self, indices: &'a [usize]) -> impl Iterator<Item = &'a ServiceRules> {
        indices.iter().filter_map(|index| self.services.get(*index)).map(Service::rules)
    }

    fn structured<'a>(
        &'a self,
        indices: &[usize],
        message: &'a [u8],
        scratch: &'a mut Scratch,
    ) -> Option<Parsed<'a>> {
        let format = if message.first() == Some(&b'{') { Format::Json } else { Format::Logfmt };
        let services = || {
            let written = indices.iter().filter_map(|index| self.services.get(*index));
            written.filter(|service| service.head().format == format).map(Service::rules)
        };
        services().find(|service| service.may_be(message))?;
        let values = scratch.read(format, message)?;
        services().find_map(|service| service.values(values))
    }

    /// The logs that services write themselves and that exist now, each with its service's name: where there are more
    /// than [`LOGS_MAX`], those that were written last come first.
    pub fn logs(&self) -> Vec<(PathBuf, &str)> {
        let mut logs: Vec<(PathBuf, &str)> = self
            .patterns()
            .flat_map(|(pattern, service)| {
                expand(Path::new(pattern)).into_iter().map(move |path| (path, service))
            })
            .collect();
        // Stable: who is named first for a log is its service.
        logs.sort_by(|a, b| a.0.cmp(&b.0));
        logs.dedup_by(|a, b| a.0 == b.0);
        if logs.len() > LOGS_MAX {
            logs.sort_by_cached_key(|(path, _)| std::cmp::Reverse(written(path)));
        }
        logs
    }
}

/// The account tools share one rule file, and each is a service of its own name, as audit calls it.
fn called_by_name<'a>(parsed: Parsed<'a>, program: &'a [u8]) -> Parsed<'a> {
    match std::str::from_utf8(program) {
        Ok(program) if parsed.service == ACCOUNT_TOOLS => Parsed { service: program, ..parsed },
        _ => parsed,
    }
}

/// `wordpress` of `wordpress(example.org)`: some programs say in their tag for whom they speak.
fn base(program: &[u8]) -> &[u8] {
    match memchr::memchr(b'(', program) {
        Some(at) if at > 0 && program.ends_with(b")") => program.get(..at).unwrap_or(program),
        _ => program,
    }
}

fn is_same_request(one: &Parsed<'_>, other: &Parsed<'_>) -> bool {
    let is_request = |parsed: &Parsed<'_>| parsed.kind == LoginKind::WebRequest;
    is_request(one) && is_request(other) && one.service != other.service
}

fn written(path: &Path) -> Option<std::time::SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

/// The files that a pattern with `*` in its names leads to.
fn expand(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.components().skip(1) {
        let name = part.as_os_str();
        let Some(glob) = name.to_str().filter(|name| name.contains('*')) else {
            found.iter_mut().for_each(|path| path.push(name));
            continue;
        };
        let Ok(glob) = Glob::new(glob) else { return Vec::new() };
        found = found.iter().flat_map(|path| matching(path, &glob)).take(PATHS_MAX).collect();
    }
    found.retain(|path| path.is_file());
    found
}

fn matching(directory: &Path, glob: &Glob) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.filter(|entry| glob.is_match(entry.file_name())).map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Reads and checks every `*.toml` of a directory; a directory that does not exist has none.
pub fn read_directory(directory: &Path) -> (Vec<ServiceRules>, Vec<FileProblem>) {
    let mut problems = Vec::new();
    let mut services: Vec<ServiceRules> = Vec::new();
    let fail = |file: &Path, message: String| FileProblem {
        file: file.to_owned(),
        problem: RuleProblem { line: 1, message },
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (services, problems),
        Err(error) => return (services, vec![fail(directory, format!("cannot be read: {error}"))]),
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    if files.len() > FILES_MAX {
        problems
            .push(fail(directory, format!("has {} rule files; the first {FILES_MAX} are read", files.len())));
        files.truncate(FILES_MAX);
    }
    for file in files {
        let before = problems.len();
        let service = match read_trusted(&file) {
            Ok(text) => {
                let (service, found) = check_text(&text);
                problems.extend(found.into_iter().map(|problem| FileProblem { file: file.clone(), problem }));
                service
            }
            Err(why) => {
                problems.push(fail(&file, why));
                None
            }
        };
        let Some(service) = service.filter(|_| problems.len() == before) else { continue };
        if services.iter().any(|known| known.name == service.name) {
            problems.push(fail(&file, format!("another file is for the service {} already", service.name)));
        } else {
            services.push(service);
        }
    }
    (services, problems)
}

/// Reads and checks the text of one rule file.
pub fn check_text(text: &str) -> (Option<ServiceRules>, Vec<RuleProblem>) {
    let (service, mut problems) = read(text);
    if problems.is_empty()
        && let Some(service) = &service
    {
        problems = check::check(service);
    }
    (service, problems)
}

/// Reads a file that only root, or whoever runs this, can have written; looked at on the open descriptor.
fn read_trusted(path: &Path) -> Result<String, String> {
    // A FIFO must not make the agent wait for its writer.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| format!("cannot be opened: {error}"))?;
    let metadata = file.metadata().map_err(|error| format!("cannot be looked at: {error}"))?;
    if !metadata.is_file() {
        return Err("is no regular file".to_owned());
    }
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != own {
        return Err(format!("belongs to uid {}; only root's files are believed: chown root", metadata.uid()));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(format!("can be written by others (mode {:o}): chmod go-w", metadata.mode() & 0o7777));
    }
    let mut text = String::new();
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    file.take(limit).read_to_string(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_tools_are_called_by_their_names() {
        let parsers = Parsers::shipped();
        for (program, message) in [
            ("useradd", "new user: name=bob, UID=1001, GID=1001, home=/home/bob, shell=/bin/sh, from=none"),
            ("usermod", "change user 'bob' shell from '/bin/sh' to '/bin/bash'"),
            ("userdel", "delete user 'bob'"),
        ] {
            let mut scratch = Scratch::default();
            let parsed = parsers.message(program.as_bytes(), message.as_bytes(), &mut scratch);
            assert_eq!(parsed.map(|parsed| parsed.service), Some(program));
        }
    }

    #[test]
    fn only_what_a_message_is_for_is_compiled() {
        let parsers = Parsers::shipped();
        let compiled = || -> Vec<&str> {
            let compiled = parsers.services.iter().filter(|service| service.is_compiled());
            compiled.map(|service| service.head().name.as_str()).collect()
        };
        assert!(parsers.knows(b"vsftpd") && parsers.sender(b"vsftpd").is_some());
        assert!(!parsers.identifiers().is_empty());
        let _logs = parsers.logs();
        assert!(compiled().is_empty(), "{:?}", compiled());
        let mut scratch = Scratch::default();
        let message = b"Authentication failure for admin from 192.0.2.7";
        assert!(parsers.message(b"wordpress", message, &mut scratch).is_some());
        assert_eq!(compiled(), ["wordpress"]);
    }

    #[test]
    fn what_is_no_file_among_the_rule_files_is_a_problem_and_nobody_waits_for_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let fifo = directory.path().join("x.toml");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
        let (services, problems) = read_directory(directory.path());
        assert!(services.is_empty());
        assert_eq!(problems.iter().map(|problem| problem.file.clone()).collect::<Vec<_>>(), [fifo]);
    }

    #[test]
    fn a_name_in_parentheses_does_not_hide_a_program() {
        let parsers = Parsers::shipped();
        for (program, service) in [
            ("wordpress", "wordpress"),
            ("wordpress(example.org)", "wordpress"),
            ("(sshd)", ""),
            ("x(wordpress)", ""),
        ] {
            let mut scratch = Scratch::default();
            let message = b"Authentication failure for admin from 192.0.2.7";
            let parsed = parsers.message(program.as_bytes(), message, &mut scratch);
            assert_eq!(parsed.map_or("", |parsed| parsed.service), service, "{program}");
        }
    }
}
