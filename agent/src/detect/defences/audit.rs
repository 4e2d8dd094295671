//! The kernel's audit: whether it is on, who reads it, and its rules.

use std::collections::BTreeSet;

use picket_protocol::finding::Severity;
use serde_json::json;

use super::{Area, Judgement, Told, counted};

/// The state of audit.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Audit {
    /// Whether records are made.
    pub enabled: bool,
    /// Whether a daemon takes them.
    pub daemon: bool,
    /// Hashes of the rules that record something.
    pub rules: BTreeSet<String>,
    /// Hashes of the rules that leave something out.
    pub exclusions: BTreeSet<String>,
}

impl Area for Audit {
    type Item = Self;
    const NAME: &'static str = "audit";

    fn judge(_key: &str, before: Option<&Self>, after: Option<&Self>) -> Judgement {
        let (Some(before), Some(after)) = (before, after) else { return Judgement::Silent };
        let removed = before.rules.difference(&after.rules).count();
        let added = after.rules.difference(&before.rules).count();
        let told = |severity, title: String| {
            let detail = json!({ "rules_removed": removed, "rules_added": added });
            let told = Told::new("defence.audit", severity, title);
            told.attack(&["T1562.012"]).detail(detail).settle(10)
        };
        let worse = |severity, title: &str| Judgement::Worse(told(severity, title.to_owned()));
        if before.enabled && !after.enabled {
            return worse(Severity::High, "Audit was switched off in the kernel");
        }
        if removed > 0 && after.rules.is_empty() {
            let rules = counted(removed, "rule");
            return Judgement::Worse(told(Severity::High, format!("All audit rules were removed: {rules}")));
        }
        if before.daemon && !after.daemon {
            let title = "Nobody takes the kernel's audit records any more: the audit daemon is gone";
            return Judgement::Worse(told(Severity::High, title.to_owned()).settle(30));
        }
        if removed > added {
            let title = format!("{} of audit removed", counted(removed, "rule"));
            return Judgement::Worse(told(Severity::High, title));
        }
        if after.exclusions.difference(&before.exclusions).next().is_some() {
            return worse(Severity::Medium, "A new audit rule keeps events out of the records");
        }
        if removed > 0 {
            return worse(Severity::Low, "Audit rules were replaced by others");
        }
        Judgement::Better(told(Severity::Info, "Audit records as much as before again".to_owned()))
    }
}
