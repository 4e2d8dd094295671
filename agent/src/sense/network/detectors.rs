//! The detectors of the network, and how their findings are sealed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use picket_protocol::finding::{Entity, Finding};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::connects::Connects;
use super::own::Own;
use super::senders::senders;
use super::talkers::Talkers;
use crate::detect::network::flood::Learned;
use crate::detect::network::{
    Connections, Direction, FloodDetector, Probe, ScanDetector, Summary, Thresholds,
};
use crate::ledger::SealError;
use crate::sense::SensorContext;
use crate::sense::draft::draft;
use crate::sense::host::defences::who;
use crate::sense::watch::Watch;

const PROC: &str = "/proc";
/// How often the process behind a flood or a scan is looked for: all processes are gone through.
const SEARCH: Duration = Duration::from_secs(2);
/// A scan that rested for so long has nobody behind it any more.
const RESTS: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct Detectors {
    thresholds: Thresholds,
    watch: Watch,
    /// Whether the detectors have the thresholds of a host that is watched closely.
    watched: bool,
    floods: FloodDetector,
    scans: ScanDetector,
    own: Own,
    /// Counts who connects, while a scan from this host goes on whose process no socket tells; or why it cannot.
    connects: Option<Result<Connects, String>>,
    /// Who sends most, for whoever shows it.
    pub talkers: Talkers,
    /// Floods and scans from this host whose process was looked for, and when.
    searched: HashMap<Uuid, Timestamp>,
    /// Findings sealed.
    pub findings: u64,
    /// When the last was.
    pub last: Option<Timestamp>,
}

impl Detectors {
    /// Nothing seen yet. Who does not know `seed` cannot choose whose place in a table he takes.
    pub fn new(thresholds: Thresholds, seed: u64, watch: Watch) -> Self {
        Self {
            thresholds,
            watch,
            watched: false,
            floods: FloodDetector::new(thresholds),
            scans: ScanDetector::new(thresholds, seed),
            own: Own::new(Path::new(PROC)),
            connects: None,
            talkers: Talkers::default(),
            searched: HashMap::new(),
            findings: 0,
            last: None,
        }
    }

    /// Goes on with what the last run has learned; gives how much of it is forgotten.
    pub fn restore(&mut self, learned: Vec<Learned>, now: Timestamp) -> usize {
        self.floods.restore(learned, now)
    }

    /// What was learned, for the next run.
    pub fn learned(&self) -> Vec<Learned> {
        self.floods.learned()
    }

    /// How much that is.
    pub fn baselines(&self) -> usize {
        self.floods.baselines()
    }

    /// What there is to tell of scans: sources that are remembered, scans that go on, and those that were not told for want of room.
    pub fn scans(&self) -> [(&'static str, u64); 3] {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        [
            ("scan_sources", number(self.scans.sources())),
            ("scans_open", number(self.scans.open())),
            ("scans_folded", self.scans.folded),
        ]
    }

    /// An interval.
    pub fn summary(&mut self, summary: &Summary) -> Vec<Finding> {
        self.talkers.note(summary);
        self.follow_watch();
        let mut findings = self.floods.observe(summary, &mut Uuid::now_v7);
        findings.extend(self.scans.tick(summary.to, &mut Uuid::now_v7));
        self.name_senders_of_floods(summary);
        self.name_scanners(summary.to);
        findings
    }

    fn follow_watch(&mut self) {
        let on = self.watch.is_on();
        if on != self.watched {
            self.watched = on;
            let thresholds = if on { self.thresholds.watched() } else { self.thresholds };
            self.floods.set_thresholds(thresholds);
            self.scans.set_thresholds(thresholds);
        }
    }

    /// How the connections of the listening sockets fare.
    pub fn connections(&mut self, connections: &Connections) -> Vec<Finding> {
        self.floods.connections(connections, &mut Uuid::now_v7)
    }

    /// What may be part of a scan.
    pub fn probe(&mut self, mut probe: Probe) -> Vec<Finding> {
        // It came in before, and is of whoever sent it.
        if probe.direction == Direction::Out && self.own.is_forwarded(probe.source, probe.time) {
            probe.direction = Direction::In;
        }
        let findings = self.scans.observe(&probe, &mut Uuid::now_v7);
        if !findings.is_empty() && probe.direction == Direction::Out {
            // At once: many tools are done within a second.
            self.name_scanners(probe.time);
        }
        findings
    }

    /// Packets were lost on the way here.
    pub fn distrust(&mut self) {
        self.scans.distrust();
    }

    /// Looks for who is behind floods from this host.
    fn name_senders_of_floods(&mut self, summary: &Summary) {
        let open =
            self.floods.open().filter(|(_, _, direction, named)| *direction == Direction::Out && !named);
        let open: Vec<Uuid> = open.map(|(id, ..)| id).filter(|id| self.is_due(*id, summary.to)).collect();
        if open.is_empty() {
            return;
        }
        let out = summary.traffic.iter().filter(|traffic| traffic.direction == Direction::Out);
        let targets: Vec<IpAddr> =
            out.flat_map(|traffic| traffic.targets.iter().map(|target| target.address)).collect();
        let found = sender(&targets);
        for id in open {
            self.searched.insert(id, summary.to);
            if let Some(process) = &found {
                self.floods.name_process(id, process.clone());
            }
        }
    }

    /// And behind scans: by the sockets that there are, else by who connects while it goes on.
    fn name_scanners(&mut self, now: Timestamp) {
        let active = self.scans.unnamed().filter(|(_, last)| now.since(*last) < RESTS);
        let open: Vec<Uuid> = active.map(|(id, _)| id).collect();
        for id in &open {
            if !self.is_due(*id, now) {
                continue;
            }
            self.searched.insert(*id, now);
            if let Some(process) = sender(&self.scans.targets(*id)) {
                self.scans.name_process(*id, process);
            }
        }
        self.searched.retain(|_, at| now.since(*at) < SEARCH && *at <= now);
        let unnamed: Vec<Uuid> =
            self.scans.unnamed().map(|(id, _)| id).filter(|id| open.contains(id)).collect();
        if unnamed.is_empty() {
            self.connects = None;
            return;
        }
        let connects = self.connects.get_or_insert_with(|| {
            let started = Connects::start();
            if let Err(error) = &started {
                tracing::info!(error, "who connects cannot be counted: a scan may stay without its process");
            }
            started
        });
        let Some(pid) = connects.as_ref().ok().and_then(|connects| connects.busiest(Path::new(PROC))) else {
            return;
        };
        let actor = who::actor(Path::new(PROC), pid, None);
        for id in unnamed {
            self.scans.name_process(id, Entity::Process { pid, executable: actor.executable.clone() });
        }
    }

    fn is_due(&self, id: Uuid, now: Timestamp) -> bool {
        self.searched.get(&id).is_none_or(|at| now.since(*at) >= SEARCH || now < *at)
    }

    /// Seals what was found.
    ///
    /// # Errors
    /// When the ledger has stopped.
    pub fn seal(&mut self, mut findings: Vec<Finding>, context: &SensorContext) -> Result<(), SealError> {
        if findings.is_empty() {
            return Ok(());
        }
        findings.iter_mut().for_each(|finding| context.sessions.link(finding));
        self.findings = self.findings.saturating_add(u64::try_from(findings.len()).unwrap_or(0));
        self.last = Some(crate::clock::now());
        context.sealer.seal(findings.iter().filter_map(draft).collect(), Vec::new())
    }
}

/// The likeliest process to send at one of `targets`.
fn sender(targets: &[IpAddr]) -> Option<Entity> {
    let found = senders(Path::new(PROC), targets, std::process::id());
    found.into_iter().next().map(|sender| Entity::Process { pid: sender.pid, executable: sender.executable })
}
