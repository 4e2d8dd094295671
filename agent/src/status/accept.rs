//! Accepting what differs from the baseline, as root asks for it on the local socket: done by the file sensor, and
//! recorded with who did it.

use std::path::PathBuf;

use picket_protocol::finding::Severity;
use picket_protocol::record::{Draft, RecordError};
use serde_json::{Value, json};

use super::report::Sources;
use crate::detect::files::acceptance::Acceptance;
use crate::respond::Person;
use crate::respond::receipt::lifecycle;
use crate::respond::work::SCAN_DEADLINE;
use crate::sense::files::{Acceptor, ScanProgress};

/// Has the sensor accept what differs at and beneath `paths` (none: in all watched trees), and gives what that was.
///
/// # Errors
/// One sentence: what was not done.
pub fn accept(
    paths: Vec<PathBuf>,
    person: &Person,
    sources: &Sources,
    progress: &mut dyn FnMut(ScanProgress),
) -> Result<Value, String> {
    let files = sources.files.as_ref().ok_or("the file sensor does not run")?;
    let paths = if paths.is_empty() { files.trees.clone() } else { paths };
    let asked: Vec<String> = paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let who = person.clone();
    let record =
        Box::new(move |acceptance: &Acceptance, finished| record(&who, &asked, acceptance, finished));
    let acceptor = Acceptor { by: person.to_string(), record };
    let accepted = files.scanner.accept(&paths, SCAN_DEADLINE, acceptor, progress);
    let (summary, acceptance) = accepted.map_err(|error| error.to_string())?;
    Ok(json!({ "paths": paths.len(), "summary": summary, "acceptance": acceptance }))
}

fn record(
    person: &Person,
    asked: &[String],
    acceptance: &Acceptance,
    finished: bool,
) -> Result<Draft, RecordError> {
    let changes = match acceptance.accepted {
        1 => "1 change".to_owned(),
        count => format!("{count} changes"),
    };
    let title = format!("{changes} of watched files accepted as the new normal by {person}");
    let detail = |changes: &[_], asked: &[String]| {
        json!({
            "by": person, "paths": asked, "finished": finished, "accepted": acceptance.accepted,
            "critical": acceptance.critical, "later": acceptance.later, "changes": changes,
        })
    };
    let whole =
        lifecycle(Severity::Medium, "baseline-accepted", title.clone(), detail(&acceptance.changes, asked));
    // Very long paths: each change has its own finding all the same.
    whole.or_else(|_| lifecycle(Severity::Medium, "baseline-accepted", title, detail(&[], &[])))
}
