//! The detectors of the network, and how their findings are sealed.

use picket_protocol::finding::Finding;
use picket_protocol::record::{Draft, Kind};
use picket_protocol::time::Timestamp;

use crate::detect::network::{Connections, Probe, Summary};
use crate::ledger::SealError;
use crate::sense::SensorContext;

/// See the module.
#[derive(Debug, Default)]
pub struct Detectors {
    /// Findings sealed.
    pub findings: u64,
    /// When the last was.
    pub last: Option<Timestamp>,
}

impl Detectors {
    /// An interval.
    pub fn summary(&mut self, summary: &Summary) -> Vec<Finding> {
        let _ = summary;
        Vec::new()
    }

    /// How the connections of the listening sockets fare.
    pub fn connections(&mut self, connections: &Connections) -> Vec<Finding> {
        let _ = connections;
        Vec::new()
    }

    /// What may be part of a scan.
    pub fn probe(&mut self, probe: &Probe) -> Vec<Finding> {
        let _ = probe;
        Vec::new()
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
