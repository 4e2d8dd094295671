//! Whether this host is watched closely: while it is, sensors tell more. Who turns it on and off is
//! [`crate::respond::actions::watch_closely`].
//!
//! Findings about persistence, accounts and privileges that are not explained weigh one step more when they are `info` or `low`;
//! detectors of logins, floods and scans speak up at half of what they take otherwise. Nothing is told that did not happen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use picket_protocol::finding::{Finding, Severity};

/// Rules whose findings weigh more, by their beginning.
const RAISED: [&str; 3] = ["persistence.", "account.", "privilege."];

/// Shared hold on it; cheap to clone. The default is off.
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<AtomicBool>);

impl Watch {
    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Turns it on or off.
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }

    /// Raises what is to be raised while it is on; the evidence says so (`watched`).
    pub fn raise(&self, finding: &mut Finding) {
        let meant = RAISED.iter().any(|begin| finding.rule.starts_with(begin));
        if !self.is_on() || !meant || finding.explained_by.is_some() || finding.drill {
            return;
        }
        finding.severity = match finding.severity {
            Severity::Info => Severity::Low,
            Severity::Low => Severity::Medium,
            _ => return,
        };
        if let Some(evidence) = finding.evidence.as_object_mut() {
            evidence.insert("watched".to_owned(), true.into());
        }
    }
}

/// Half of a threshold, and at least `least`: one that honest people meet every day.
pub fn half(threshold: u32, least: u32) -> u32 {
    (threshold / 2).max(least).min(threshold)
}

#[cfg(test)]
mod tests {
    use picket_protocol::finding::Observed;
    use picket_protocol::time::Timestamp;
    use uuid::Uuid;

    use super::*;

    fn weighed(on: bool, rule: &str, severity: Severity, explained: Option<&str>) -> (Severity, bool) {
        let watch = Watch::default();
        watch.set(on);
        let mut finding = Finding {
            id: Uuid::from_u128(7),
            rule: rule.to_owned(),
            severity,
            title: String::new(),
            observed: Observed::once(Timestamp::default()),
            entities: Vec::new(),
            attack: Vec::new(),
            explained_by: explained.map(str::to_owned),
            drill: false,
            evidence: serde_json::json!({}),
        };
        watch.raise(&mut finding);
        (finding.severity, finding.evidence.get("watched").is_some())
    }

    #[test]
    fn only_what_is_mild_unexplained_and_about_power_weighs_more() {
        use Severity::{High, Info, Low, Medium};
        assert_eq!(weighed(true, "persistence.cron", Low, None), (Medium, true));
        assert_eq!(weighed(true, "account.changed", Info, None), (Low, true));
        assert_eq!(weighed(true, "persistence.cron", High, None), (High, false));
        assert_eq!(weighed(true, "persistence.cron", Low, Some("apt")), (Low, false));
        assert_eq!(weighed(true, "file.modified", Low, None), (Low, false));
        assert_eq!(weighed(false, "persistence.cron", Low, None), (Low, false));
    }

    #[test]
    fn a_half_is_never_more_than_the_whole() {
        assert_eq!((half(10, 2), half(3, 2), half(2, 2), half(1, 2)), (5, 2, 2, 1));
    }
}
