//! Changes that somebody has reviewed and takes for the new normal (`agent baseline accept`).
//!
//! Nothing is left out: each difference is sealed as a finding, says who accepted it and how much it would have
//! mattered without. What is `critical` stays so, as with planned work.

use picket_protocol::finding::{Entity, Finding, Severity, Text};
use serde_json::json;

use crate::detect::packages::transaction::note;

/// Changes that are named in the record of an acceptance; all are counted, and each has its finding.
pub const NAMED_MAX: usize = 100;

/// One change that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Accepted {
    /// What changed.
    pub path: Text,
    /// What it is called.
    pub rule: String,
    /// How much it would have mattered.
    pub severity_without: Severity,
}

/// What was accepted so far, and by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Acceptance {
    /// Who.
    pub by: String,
    /// How many changes.
    pub accepted: u64,
    /// How many of them are `critical`, and stay so.
    pub critical: u64,
    /// Large files beneath the accepted paths that are still to be hashed: what that shows is accepted as well.
    pub later: u64,
    /// The first [`NAMED_MAX`] of the changes.
    pub changes: Vec<Accepted>,
}

impl Acceptance {
    /// Nothing so far.
    pub fn new(by: String) -> Self {
        Self { by, ..Self::default() }
    }

    /// Explains a finding about something that differs when it is accepted.
    pub fn explain(&mut self, finding: &mut Finding) {
        self.accepted = self.accepted.saturating_add(1);
        self.critical = self.critical.saturating_add(u64::from(finding.severity == Severity::Critical));
        if self.changes.len() < NAMED_MAX {
            let path = finding.entities.iter().find_map(|entity| match entity {
                Entity::File { path } => Some(path.clone()),
                _ => None,
            });
            self.changes.push(Accepted {
                path: path.unwrap_or_else(|| Text::from_bytes(&[])),
                rule: finding.rule.clone(),
                severity_without: finding.severity,
            });
        }
        if finding.explained_by.is_some() || finding.severity == Severity::Critical {
            return;
        }
        finding.explained_by = Some(format!("accepted by {}", self.by));
        let unexplained = std::mem::replace(&mut finding.severity, Severity::Info);
        note(finding, "accepted", json!({ "by": self.by, "severity_without": unexplained }));
    }
}

#[cfg(test)]
mod tests {
    use picket_protocol::finding::Observed;
    use picket_protocol::time::Timestamp;
    use uuid::Uuid;

    use super::*;

    fn finding(severity: Severity) -> Finding {
        Finding {
            id: Uuid::nil(),
            rule: "file.modified".to_owned(),
            severity,
            observed: Observed::once(Timestamp::default()),
            title: String::new(),
            entities: vec![Entity::File { path: Text::from_bytes(b"/etc/x") }],
            attack: Vec::new(),
            evidence: json!({}),
            explained_by: None,
            drill: false,
        }
    }

    #[test]
    fn what_is_critical_stays_so_and_all_is_counted() {
        let mut acceptance = Acceptance::new("root".to_owned());
        let (mut high, mut critical) = (finding(Severity::High), finding(Severity::Critical));
        acceptance.explain(&mut high);
        acceptance.explain(&mut critical);
        assert_eq!((high.severity, high.explained_by.as_deref()), (Severity::Info, Some("accepted by root")));
        assert_eq!(high.evidence["accepted"]["severity_without"], "high");
        assert_eq!((critical.severity, critical.explained_by), (Severity::Critical, None));
        assert_eq!((acceptance.accepted, acceptance.critical, acceptance.changes.len()), (2, 1, 2));
        (0..2 * NAMED_MAX).for_each(|_| acceptance.explain(&mut finding(Severity::Low)));
        assert_eq!(acceptance.changes.len(), NAMED_MAX);
    }
}
