//! Starts the sensors. One that fails is shown and recorded; it never stops the others.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::record::Draft;
use serde_json::json;

use super::{SEAL_TIMEOUT, lifecycle, trees};
use crate::config::{Config, FilesConfig, Loaded};
use crate::detect::files::AgentFiles;
use crate::layout::Layout;
use crate::ledger::{Sealer, key_name};
use crate::respond::assess::{Assess, Assessor};
use crate::respond::freeze::Freezer;
use crate::respond::own_acts::OwnActs;
use crate::respond::work::Scan;
use crate::sense::files::Scanner;
use crate::sense::host::FigureSource;
use crate::sense::keys::AddedKeys;
use crate::sense::network::line::Line;
use crate::sense::network::listeners::{self, Listeners};
use crate::sense::network::neighbours::{self, Neighbours};
use crate::sense::processes::{self, Actor, Processes, Tuning};
use crate::sense::sessions::Sessions;
use crate::sense::watch::Watch;
use crate::sense::{
    SensorContext, SensorError, SensorHandle, SensorProbe, SensorReport, SensorState, SensorStatus,
};
use crate::sense::{files, host, logins, network};
use crate::sys::Stop;

/// Names of all sensors.
pub const NAMES: [&str; 8] =
    ["defences", "files", "host", "listeners", "logins", "neighbours", "network", "processes"];

/// What `agent status` knows of the sensors; cheap to clone.
#[derive(Clone, Debug)]
pub struct Statuses(Arc<BTreeMap<&'static str, SensorStatus>>);

impl Default for Statuses {
    fn default() -> Self {
        Self(Arc::new(NAMES.into_iter().map(|name| (name, SensorStatus::default())).collect()))
    }
}

impl Statuses {
    /// Every sensor's report, by name.
    pub fn reports(&self) -> BTreeMap<String, SensorReport> {
        self.0.iter().map(|(name, status)| ((*name).to_owned(), status.report())).collect()
    }

    /// Sensors whose thread hangs at `now` on the boot clock, with how long it has.
    pub fn stuck(&self, now: Duration) -> Vec<(&'static str, Duration)> {
        self.0.iter().filter_map(|(name, status)| Some((*name, status.turn().stuck(now)?))).collect()
    }

    pub(super) fn get(&self, name: &str) -> SensorStatus {
        self.0.get(name).cloned().unwrap_or_default()
    }
}

/// What may be asked of the running file sensor.
#[derive(Clone)]
pub struct Files {
    /// Has it look.
    pub scanner: Scanner,
    /// All trees that it watches.
    pub trees: Vec<PathBuf>,
}

/// The running sensors.
pub struct Sensors {
    handles: Vec<(&'static str, SensorHandle)>,
    statuses: Statuses,
    sealer: Sealer,
    scanner: Option<Scanner>,
    trees: Vec<PathBuf>,
    sessions: Sessions,
    neighbours: Neighbours,
    listeners: Listeners,
    line: Line,
    processes: Processes,
}

impl Sensors {
    /// Starts what the configuration turns on.
    pub fn start(
        loaded: &Loaded,
        sealer: &Sealer,
        database: PathBuf,
        stop: &Stop,
        statuses: &Statuses,
        figures: FigureSource,
        (freezer, watch, acts): (&Freezer, &Watch, &OwnActs),
    ) -> Self {
        let config = &loaded.config;
        let trees = trees::resolve(&config.files.trees);
        let mut sensors = Self {
            handles: Vec::new(),
            statuses: statuses.clone(),
            sealer: sealer.clone(),
            scanner: None,
            trees: trees.clone(),
            sessions: Sessions::default(),
            neighbours: Neighbours::default(),
            listeners: Listeners::default(),
            line: Line::default(),
            processes: Processes::default(),
        };
        // The others ask it who did what they see.
        let status = statuses.get("processes");
        let processes =
            sensors.keep("processes", true, || processes::start(&Tuning::default(), &status, stop));
        let processes = processes.unwrap_or_default();
        sensors.processes = processes.clone();
        let sessions =
            if config.logins.enabled { open_sessions(&database, &processes) } else { Sessions::default() };
        sensors.sessions = sessions.clone();
        let keys = AddedKeys::default();
        let context = |name| SensorContext {
            sealer: sealer.clone(),
            database: database.clone(),
            stop: stop.clone(),
            status: statuses.get(name),
            processes: processes.clone(),
            sessions: sessions.clone(),
            keys: keys.clone(),
            watch: watch.clone(),
            acts: acts.clone(),
        };
        let logs = trees::look_up(&config.files.logs);
        let quiet_trees = trees::resolve(&config.files.quiet_trees);
        let files_config = FilesConfig { trees, quiet_trees, logs, ..config.files.clone() };
        let agent = watched_files(loaded, sealer, acts);
        let tuning = files::Tuning { freezer: freezer.clone(), agent, ..files::Tuning::default() };
        sensors.scanner = sensors.keep("files", config.files.enabled, || {
            files::start_tuned(files_config, context("files"), tuning)
        });
        if sensors.scanner.is_some()
            && sensors.trees.iter().any(|tree| Path::new("/etc/passwd").starts_with(tree))
        {
            keys.watch_accounts();
        }
        sensors.keep("logins", config.logins.enabled, || {
            logins::start(&config.logins, context("logins")).map(|handle| (handle, ()))
        });
        let setup = defences_setup(config, sensors.trees.clone());
        sensors.keep("defences", config.defences.enabled, || {
            host::defences::start(setup, context("defences")).map(|handle| (handle, ()))
        });
        let thresholds = config.neighbours.thresholds;
        let neighbours = sensors.keep("neighbours", config.neighbours.enabled, || {
            neighbours::start(thresholds, context("neighbours"))
        });
        sensors.neighbours = neighbours.unwrap_or_default();
        let listeners =
            sensors.keep("listeners", config.listeners.enabled, || listeners::start(context("listeners")));
        sensors.listeners = listeners.unwrap_or_default();
        let talkers = sensors
            .keep("network", config.network.enabled, || network::start(&config.network, context("network")));
        sensors.line = Line::new(sensors.listeners.clone(), talkers);
        sensors.keep("host", true, || {
            host::start(&config.host, context("host"), figures).map(|handle| (handle, ()))
        });
        sensors
    }

    /// The process that had the number `pid` at `time` since boot, as far as it is known.
    pub fn actor(&self, pid: u32, time: Duration) -> Option<Actor> {
        self.processes.catch_up();
        self.processes.get(pid, time).map(|process| process.actor())
    }

    /// What may be asked of the file sensor.
    pub fn files(&self) -> Option<Files> {
        Some(Files { scanner: self.scanner.clone()?, trees: self.trees.clone() })
    }

    /// The file sensor's scanner as the responder uses it.
    pub fn scan(&self) -> Option<Scan> {
        let scanner = self.scanner.clone()?;
        let trees = self.trees.clone();
        Some(Arc::new(move |paths, deadline, progress| {
            let paths = if paths.is_empty() { &trees } else { paths };
            let summary = scanner.scan(paths, deadline, progress).map_err(|error| error.to_string())?;
            Ok(json!({ "paths": paths.len(), "summary": summary }))
        }))
    }

    /// How the host stands, as the responder asks.
    pub fn assess(&self, database: PathBuf) -> Assess {
        let assessor =
            Assessor { database, listeners: self.listeners.clone(), sessions: self.sessions.clone() };
        Arc::new(move |now| assessor.assess(now))
    }

    /// The login sessions, for whoever shows them.
    pub fn sessions(&self) -> Sessions {
        self.sessions.clone()
    }

    /// The known neighbours, for whoever shows them.
    pub fn neighbours(&self) -> Neighbours {
        self.neighbours.clone()
    }

    /// The health of the line, for whoever shows it.
    pub fn line(&self) -> Line {
        self.line.clone()
    }

    /// Finds sensors that have ended by themselves.
    pub fn check(&mut self) {
        let (ended, running) = self.handles.drain(..).partition(|(_, handle)| handle.has_ended());
        self.handles = running;
        for (name, handle) in ended {
            handle.join();
            self.failed(name, "it ended by itself");
        }
    }

    /// Waits for all of them; the stop signal must be set.
    pub fn join(self) {
        for (_, handle) in self.handles {
            handle.join();
        }
    }

    fn keep<T>(
        &mut self,
        name: &'static str,
        enabled: bool,
        start: impl FnOnce() -> Result<(SensorHandle, T), SensorError>,
    ) -> Option<T> {
        if !enabled {
            self.statuses.get(name).update(|report| report.state = SensorState::Disabled);
            return None;
        }
        match start() {
            Ok((handle, rest)) => {
                self.handles.push((name, handle));
                Some(rest)
            }
            Err(error) => {
                let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
                self.failed(name, &format!("{error}{cause}"));
                None
            }
        }
    }

    fn failed(&self, name: &str, why: &str) {
        tracing::error!(sensor = name, why, "a sensor does not run");
        self.statuses.get(name).update(|report| {
            report.state = SensorState::Failed;
            report.reason = why.to_owned();
        });
        let seal = |draft: Draft| {
            self.sealer.seal_durably(vec![draft], Vec::new(), SEAL_TIMEOUT).map_err(|error| error.to_string())
        };
        let sealed = lifecycle::sensor_failed(name, why).map_err(|error| error.to_string()).and_then(seal);
        if let Err(error) = sealed {
            tracing::error!(error, "the failure was not recorded");
        }
    }
}

/// What on this host is the agent's own.
pub fn agent_files(loaded: &Loaded) -> AgentFiles {
    let config = &loaded.config;
    let files = loaded.source.iter().chain([&loaded.policy, &config.logins.parsers_dir]);
    let configuration = files.map(|path| on_disk(path)).collect();
    let program = std::env::current_exe().ok();
    AgentFiles::new(program, configuration, &layout_on_disk(config))
}

/// By the name that it has on the disk, as the sensor sees it.
fn on_disk(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn layout_on_disk(config: &Config) -> Layout {
    Layout::new(&on_disk(&config.state_dir), &config.run_dir)
}

/// The same, for the sensor, which does not hear what this process does: of each hand-over of the ledger's key it is told.
fn watched_files(loaded: &Loaded, sealer: &Sealer, acts: &OwnActs) -> AgentFiles {
    let (own, layout) = (acts.clone(), layout_on_disk(&loaded.config));
    sealer.health().on_hand_over(move |key| own.look(&layout.ledger_keys().join(key_name(key))));
    agent_files(loaded).with_ledger(sealer.health())
}

/// Without them findings name no session, and that is all.
fn open_sessions(database: &Path, processes: &Processes) -> Sessions {
    Sessions::open(database, processes, crate::clock::now()).unwrap_or_else(|error| {
        tracing::error!(%error, "login sessions of earlier cannot be read");
        Sessions::default()
    })
}

fn defences_setup(config: &Config, trees: Vec<PathBuf>) -> host::defences::Setup {
    host::defences::Setup::new(trees, vec![config.state_dir.clone(), config.run_dir.clone()])
}

/// Every sensor's ladder on this host.
pub fn probe(config: &Config) -> Vec<SensorProbe> {
    let files_config = FilesConfig { trees: trees::resolve(&config.files.trees), ..config.files.clone() };
    let defences = host::defences::probe(&defences_setup(config, files_config.trees.clone()));
    vec![
        files::probe(&files_config),
        logins::probe(&config.logins),
        host::probe(&config.host),
        defences,
        neighbours::probe(),
        listeners::probe(),
        network::probe(),
        processes::probe(),
    ]
}
