//! `agent doctor`: everything that a supporter asks, answered by looking, each answer with what to do about it.
//!
//! **Promise.** It works with the agent running (it asks the local socket) and dead (it looks by itself), needs neither
//! network nor collector, and ends in a bounded time: each group of checks has a deadline, and a group that misses it is
//! itself an answer. It changes nothing. What it says holds no secret: no key, no token, no password of a proxy.
//!
//! Groups run side by side, so that one that hangs (a dead disk, a name server that is silent) hides no other. Nothing here
//! talks to the network: an uplink process does, in its sandbox ([`crate::uplink::way`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use picket_protocol::time::Timestamp;

use crate::cli::client::{ClientError, ask_within, layout};
use crate::clock;
use crate::config::{Config, ConfigError, Loaded};
use crate::enrolment::{Enrolment, EnrolmentError};
use crate::layout::Layout;
use crate::status::{Request, StatusReport};

pub mod bundle;
mod collector;
mod host;
mod log;
mod permissions;
mod running;
mod scrub;
mod setup;
mod state;
mod time;

/// For the agent's own answer, which all groups wait for; as long again until it accepts at all.
const STATUS: Duration = Duration::from_secs(10);
/// For groups that look at this host alone.
const LOCAL: Duration = Duration::from_secs(20);
/// For the way to the collector: four steps that may take ten seconds each, and a name server that does not answer.
const WAY: Duration = Duration::from_secs(60);

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It works, with less than it should, or not for long.
    Warning,
    /// It does not work.
    Fault,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Check {
    /// What was looked at: `disk`, `sensor files`, `clock` …
    pub check: String,
    /// How it stands.
    pub grade: Grade,
    /// What was found, in a sentence.
    pub found: String,
    /// What to do about it; none where all is well.
    pub fix: Option<String>,
}

impl Check {
    fn ok(check: &str, found: impl Into<String>) -> Self {
        Self { check: check.to_owned(), grade: Grade::Ok, found: found.into(), fix: None }
    }

    fn warning(check: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        let (found, fix) = (found.into(), Some(fix.into()));
        Self { check: check.to_owned(), grade: Grade::Warning, found, fix }
    }

    fn fault(check: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { grade: Grade::Fault, ..Self::warning(check, found, fix) }
    }
}

/// All answers.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Diagnosis {
    /// Of this program, which need not be the one that runs.
    pub version: String,
    /// When it was looked.
    pub time: Timestamp,
    /// The worst of the grades.
    pub grade: Grade,
    /// Whether an agent answered on the local socket.
    pub running: bool,
    /// One for each thing that was looked at.
    pub checks: Vec<Check>,
}

/// What all checks know beforehand.
pub(crate) struct Case {
    /// The configuration; the built-in defaults where it cannot be read.
    loaded: Loaded,
    /// Why it cannot.
    broken: Option<ConfigError>,
    layout: Layout,
    status: Result<StatusReport, ClientError>,
    enrolment: Result<Enrolment, EnrolmentError>,
    program: PathBuf,
}

impl Case {
    fn open(path: Option<&Path>) -> Self {
        let (loaded, broken) = match Config::load(path) {
            Ok(loaded) => (loaded, None),
            Err(error) => (Loaded::usual(path), Some(error)),
        };
        let layout = layout(&loaded.config);
        let status = ask_within(&layout.socket(), &Request::Status {}, STATUS);
        let enrolment = Enrolment::load(&layout.enrolment());
        Self { loaded, broken, layout, status, enrolment, program: PathBuf::from("/proc/self/exe") }
    }

    fn running(&self) -> Option<&StatusReport> {
        self.status.as_ref().ok()
    }

    /// Whether it is the agent of the packaged unit that is looked at, and systemd runs this host.
    fn is_of_the_unit(&self) -> bool {
        Path::new("/run/systemd/system").is_dir()
            && self.layout.run() == Path::new(crate::layout::RUN_DEFAULT)
    }
}

type Looks = fn(&Case) -> Vec<Check>;

/// The groups in the order in which they are told, each with its deadline.
const GROUPS: [(&str, Duration, Looks); 9] = [
    ("configuration", LOCAL, setup::look),
    ("agent", LOCAL, running::look),
    ("log", LOCAL, log::look),
    ("sensors", LOCAL, running::sensors),
    ("permissions", LOCAL, permissions::look),
    ("disk", LOCAL, state::disk),
    ("ledger", LOCAL, state::ledger),
    ("collector", WAY, collector::look),
    ("kernel", LOCAL, host::look),
];

/// Looks at everything. `path` is the configuration file, when it is not the usual one.
pub fn examine(path: Option<&Path>) -> Diagnosis {
    let case = Arc::new(Case::open(path));
    let begin = Instant::now();
    let started = GROUPS.map(|(name, limit, looks)| (name, limit, start(&case, looks)));
    let checks = started.into_iter().flat_map(|(name, limit, group)| {
        let left = limit.saturating_sub(begin.elapsed());
        let come = group.and_then(|come| come.recv_timeout(left).ok());
        come.unwrap_or_else(|| vec![late(name, limit)])
    });
    let checks: Vec<Check> = checks.collect();
    Diagnosis {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time: clock::now(),
        grade: checks.iter().map(|check| check.grade).max().unwrap_or(Grade::Ok),
        running: case.status.is_ok(),
        checks,
    }
}

fn start(case: &Arc<Case>, looks: Looks) -> Option<Receiver<Vec<Check>>> {
    let (done, come) = sync_channel(1);
    let case = Arc::clone(case);
    // Fails only when nobody waits any more.
    let look = move || drop(done.send(looks(&case)));
    std::thread::Builder::new().name("doctor".to_owned()).spawn(look).ok().map(|_| come)
}

fn late(group: &str, limit: Duration) -> Check {
    let found = format!("it could not be looked at within {} s", limit.as_secs());
    let fix = "something hangs: look at the disk of the state directory, at the name servers, and at `dmesg`";
    Check::fault(group, found, fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_grade_is_that_of_the_whole() {
        assert!(Grade::Fault > Grade::Warning && Grade::Warning > Grade::Ok);
        let check = Check::fault("disk", "full", "make room");
        assert_eq!((check.grade, check.fix.as_deref()), (Grade::Fault, Some("make room")));
    }

    #[test]
    fn a_group_that_hangs_is_an_answer() {
        let check = late("disk", LOCAL);
        assert!(check.grade == Grade::Fault && check.found.contains("20 s"), "{check:?}");
    }
}
