//! What the agent spends, and on what: the answers to `agent files` and `agent top`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;

use super::quieten::suggestion;
use super::report::Sources;
use crate::clock;
use crate::respond::Moment;
use crate::sense::files::Inspector;
use crate::sense::files::spending::{Books, Spent};
use crate::sense::host::{ThreadUsage, Usage, threads, usage};
use crate::sense::{SensorReport, SensorState};

/// Busy directories that are shown.
const NOISY_SHOWN: usize = 10;
/// How long objects may be counted for one answer.
const COUNTING: Duration = Duration::from_secs(2);

/// A watched tree.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TreeFacts {
    /// Which.
    pub path: Text,
    /// It is there.
    pub exists: bool,
    /// Objects that the baseline has of it; none where they were not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
    /// There are more: counting took too long.
    #[serde(default)]
    pub more: bool,
    /// What was spent on it.
    pub spent: Spent,
}

/// A directory that keeps the file sensor busy.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NoisyFacts {
    /// Which.
    pub path: Text,
    /// The file in it that most of it is about, if there is one.
    pub file: Option<Text>,
    /// What was spent on it.
    pub spent: Spent,
    /// How to quieten it.
    pub suggestion: String,
}

/// What is watched, and what keeps the file sensor busy.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct FilesReport {
    /// How the sensor fares: its rung, its last event, its counters.
    pub sensor: SensorReport,
    /// The figures are counted from then on.
    pub since: Timestamp,
    /// What is watched.
    pub trees: Vec<TreeFacts>,
    /// The busiest directories, the busiest first.
    pub noisy: Vec<NoisyFacts>,
}

/// What a process of the agent costs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProcessFacts {
    /// As a whole.
    pub usage: Usage,
    /// By stage: each has a thread or several of its name.
    pub stages: Vec<ThreadUsage>,
}

/// What the agent spends.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TopReport {
    /// When this was put together.
    pub time: Timestamp,
    /// For how long the agent has run.
    pub uptime_seconds: u64,
    /// By process: `core`, `uplink`.
    pub processes: BTreeMap<String, ProcessFacts>,
    /// By path; none when the file sensor does not run.
    pub files: Option<FilesReport>,
}

/// The answer to `agent files`.
///
/// # Errors
/// When the file sensor does not run.
pub fn files(sources: &Sources) -> Result<FilesReport, String> {
    let mut report = files_report(sources).ok_or("the file sensor does not run")?;
    let until = Instant::now() + COUNTING;
    // Without figures the rest is worth showing.
    let Ok(mut inspector) = Inspector::open(&sources.layout.database()) else { return Ok(report) };
    for tree in &mut report.trees {
        let path = tree.path.to_bytes();
        let path = Path::new(OsStr::from_bytes(path.as_slice()));
        if let Ok((count, all)) = inspector.count(path, until) {
            (tree.objects, tree.more) = (Some(count), !all);
        }
    }
    Ok(report)
}

/// The answer to `agent top`.
pub fn top(sources: &Sources, now: Moment) -> TopReport {
    let uplink = sources.identity.get().and_then(|_| sources.link.report().pid);
    let roles = [("core", Some(std::process::id())), ("uplink", uplink)];
    let facts = |pid| Some(ProcessFacts { usage: usage(pid)?, stages: threads(pid) });
    TopReport {
        time: clock::now(),
        uptime_seconds: now.boot.saturating_sub(sources.started.boot).as_secs(),
        processes: roles
            .into_iter()
            .filter_map(|(role, pid)| Some((role.to_owned(), facts(pid?)?)))
            .collect(),
        files: files_report(sources),
    }
}

fn files_report(sources: &Sources) -> Option<FilesReport> {
    let files = sources.files.as_ref()?;
    let sensor = sources.statuses.reports().remove("files")?;
    if matches!(sensor.state, SensorState::Disabled | SensorState::Failed) {
        return None;
    }
    let Books { since, trees: spent, noisy } = files.scanner.spending(NOISY_SHOWN);
    let text = |path: &Path| Text::from_bytes(path.as_os_str().as_bytes());
    let tree = |path: &PathBuf| TreeFacts {
        path: text(path),
        exists: path.symlink_metadata().is_ok(),
        objects: None,
        more: false,
        spent: spent.iter().find(|tree| tree.path == *path).map(|tree| tree.spent).unwrap_or_default(),
    };
    Some(FilesReport {
        sensor,
        since,
        trees: files.scanner.trees().iter().map(tree).collect(),
        noisy: noisy
            .into_iter()
            .map(|noisy| NoisyFacts {
                path: text(&noisy.path),
                suggestion: suggestion(&noisy),
                file: noisy.file.as_deref().map(text),
                spent: noisy.spent,
            })
            .collect(),
    })
}
