//! The detectors of the network, and how their findings are sealed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use picket_protocol::finding::{Entity, Finding};
use picket_protocol::record::{Draft, Kind};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::senders::senders;
use crate::detect::network::flood::Learned;
use crate::detect::network::{Connections, Direction, FloodDetector, Probe, Summary, Thresholds};
use crate::ledger::SealError;
use crate::sense::SensorContext;

/// How often the process behind a flood is looked for: all processes are gone through.
const SEARCH: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub struct Detectors {
    floods: FloodDetector,
    /// Floods from this host whose process was looked for, and when.
    searched: HashMap<Uuid, Timestamp>,
    /// Findings sealed.
    pub findings: u64,
    /// When the last was.
    pub last: Option<Timestamp>,
}

impl Detectors {
    /// Nothing seen yet.
    pub fn new(thresholds: Thresholds) -> Self {
        Self { floods: FloodDetector::new(thresholds), searched: HashMap::new(), findings: 0, last: None }
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

    /// An interval.
    pub fn summary(&mut self, summary: &Summary) -> Vec<Finding> {
        let findings = self.floods.observe(summary, &mut Uuid::now_v7);
        self.name_processes(summary);
        findings
    }

    /// How the connections of the listening sockets fare.
    pub fn connections(&mut self, connections: &Connections) -> Vec<Finding> {
        self.floods.connections(connections, &mut Uuid::now_v7)
    }

    /// What may be part of a scan.
    pub fn probe(&mut self, probe: &Probe) -> Vec<Finding> {
        let _ = probe;
        Vec::new()
    }

    /// Looks for who is behind floods from this host.
    fn name_processes(&mut self, summary: &Summary) {
        let now = summary.to;
        let open: Vec<Uuid> = self
            .floods
            .open()
            .filter(|(_, _, direction, named)| *direction == Direction::Out && !named)
            .map(|(id, ..)| id)
            .collect();
        self.searched.retain(|id, _| open.contains(id));
        let due = |id: &Uuid| self.searched.get(id).is_none_or(|at| now.since(*at) >= SEARCH);
        let open: Vec<Uuid> = open.into_iter().filter(due).collect();
        if open.is_empty() {
            return;
        }
        let out = summary.traffic.iter().filter(|traffic| traffic.direction == Direction::Out);
        let targets: Vec<IpAddr> =
            out.flat_map(|traffic| traffic.targets.iter().map(|target| target.address)).collect();
        let found = senders(Path::new("/proc"), &targets, std::process::id());
        for id in open {
            self.searched.insert(id, now);
            if let Some(sender) = found.first() {
                let (pid, executable) = (sender.pid, sender.executable.clone());
                self.floods.name_process(id, Entity::Process { pid, executable });
            }
        }
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
        let draft = |finding: &Finding| match Draft::new(Kind::Finding, finding.severity, finding) {
            Ok(draft) => Some(draft),
            Err(error) => {
                tracing::error!(%error, rule = finding.rule, "a finding cannot be sealed");
                None
            }
        };
        context.sealer.seal(findings.iter().filter_map(draft).collect(), Vec::new())
    }
}
