//! Planned work: while a window is open, findings about files are explained by it.
//!
//! Nothing is left out: each finding is sealed as always, says which window explains it and how much it would have
//! mattered without. What is `critical` stays so: no planned work encrypts a file server.

use std::time::Duration;

use picket_protocol::finding::{Finding, Severity};
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::transaction::note;

/// Longest window.
pub const LENGTH_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Longest reason, in characters.
pub const REASON_CHARS_MAX: usize = 300;

/// Planned work, as root of the host declared it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Window {
    /// From then on.
    pub opened: Timestamp,
    /// Until then.
    pub until: Timestamp,
    /// Why.
    pub reason: String,
    /// Who opened it.
    pub by: String,
}

impl Window {
    /// Whether it is open at `time`.
    pub fn is_open(&self, time: Timestamp) -> bool {
        self.opened <= time && time < self.until
    }

    /// Explains a finding about something that happened wholly while the window was open.
    pub fn explain(&self, finding: &mut Finding) {
        let covered = self.is_open(finding.observed.first) && self.is_open(finding.observed.last);
        if !covered || finding.explained_by.is_some() || finding.severity == Severity::Critical {
            return;
        }
        finding.explained_by = Some(format!("planned work: {} ({})", self.reason, self.by));
        let unexplained = std::mem::replace(&mut finding.severity, Severity::Info);
        note(
            finding,
            "window",
            json!({ "opened": self.opened, "until": self.until, "severity_without": unexplained }),
        );
    }
}
