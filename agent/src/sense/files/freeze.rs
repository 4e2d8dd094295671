//! A critical alarm about many files is answered by stopping who does it, where the policy wants that.

use picket_protocol::finding::{Finding, Severity};

use serde::Deserialize as _;

use crate::detect::mass_change::finding::MassEvidence;
use crate::respond::freeze::{Freezer, Request};
use crate::sense::processes::{Ancestor, Processes};

/// Asks for it, and says so in the finding's evidence.
pub(super) fn answer(freezer: &Freezer, processes: &Processes, finding: &mut Finding) {
    let Some(lease) = freezer.lease() else { return };
    let is_mass = matches!(finding.rule.as_str(), "file.mass-change" | "file.note-dropped");
    if !is_mass || finding.severity != Severity::Critical {
        return;
    }
    let Ok(evidence) = MassEvidence::deserialize(&finding.evidence) else { return };
    let last = evidence.actor.map(|actor| Ancestor {
        pid: actor.pid,
        started: actor.started,
        executable: actor.executable,
        script: None,
    });
    let origins: Vec<Ancestor> = evidence.origin.into_iter().chain(last).collect();
    if origins.is_empty() {
        return;
    }
    if let Some(evidence) = finding.evidence.as_object_mut() {
        let response = serde_json::json!({ "freeze": "asked", "lease_seconds": lease.as_secs() });
        evidence.insert("response".to_owned(), response);
    }
    let (cause, processes) = (finding.title.clone(), processes.clone());
    freezer.freeze(Request { finding: finding.id, cause, origins, processes });
}
