//! `file.canary`: somebody touched a file that nobody has a reason to touch. One touch is enough.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use picket_protocol::finding::{Finding, Severity, printable};

use crate::sense::files::change::FileChange;

/// The canaries of this host.
#[derive(Clone, Debug, Default)]
pub struct Canaries(BTreeSet<PathBuf>);

impl Canaries {
    /// These.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(paths.into_iter().collect())
    }

    /// The canary that a change concerns: itself, or beneath a directory that went.
    pub fn concerned(&self, change: &FileChange) -> Option<&Path> {
        let ends = [Some(&change.path), change.moved_from.as_ref()];
        ends.into_iter().flatten().find_map(|path| {
            let beneath =
                self.0.range::<Path, _>((Bound::Included(path.as_path()), Bound::Unbounded)).next()?;
            let went = change.after.is_none() || change.moved_from.is_some();
            (beneath == path || (went && beneath.starts_with(path))).then_some(beneath.as_path())
        })
    }

    /// Turns the plain finding about a canary into the alarm; none when the agent itself has just made it.
    pub fn judge(&self, change: &FileChange, finding: Option<Finding>) -> Option<Finding> {
        let Some(canary) = self.concerned(change) else { return finding };
        if change.before.is_none() && change.moved_from.is_none() {
            return None;
        }
        let mut finding = finding?;
        if let Some(evidence) = finding.evidence.as_object_mut() {
            evidence.insert("fact".to_owned(), finding.rule.clone().into());
        }
        finding.title = format!("A canary was touched: {}", printable(&canary.to_string_lossy()));
        finding.rule = "file.canary".to_owned();
        finding.severity = Severity::Critical;
        finding.attack = vec!["T1486".to_owned(), "T1005".to_owned()];
        Some(finding)
    }
}
