//! The session's reports as records.

use picket_protocol::crypto::to_base64;
use picket_protocol::finding::{Finding, Observed, Severity};
use picket_protocol::record::{Draft, Kind, Lifecycle, RecordError};
use picket_protocol::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::session::Report;

/// The record for `report`, seen at `now`; `id` becomes the finding's.
pub fn draft(report: &Report, now: Timestamp, id: Uuid) -> Result<Draft, RecordError> {
    match report {
        Report::CollectorRestored { had, has } => {
            let lifecycle = Lifecycle {
                event: "collector-restored".to_owned(),
                title: format!(
                    "The collector holds {has} records of this ledger where it had cosigned {had}: it came back from a backup and is sent the rest again"
                ),
                detail: json!({ "had": had, "has": has }),
            };
            Draft::new(Kind::Lifecycle, Severity::Medium, &lifecycle)
        }
        Report::Fork { size, ours, theirs, note } => {
            let title = match ours {
                Some(_) => format!("The collector cosigned another history of this ledger at {size} records"),
                None => format!(
                    "The collector holds {size} records of this ledger, more than there are here: this host went back to an older state, or another one uses its identity"
                ),
            };
            let evidence = json!({
                "size": size,
                "root": ours.as_ref().map(|root| to_base64(root)),
                "cosigned_root": to_base64(theirs),
                "checkpoint": note,
            });
            let finding = Finding {
                id,
                rule: "ledger.fork".to_owned(),
                severity: Severity::Critical,
                observed: Observed::once(now),
                title,
                entities: Vec::new(),
                evidence,
                attack: vec!["T1070".to_owned()],
                explained_by: None,
                drill: false,
            };
            Draft::new(Kind::Finding, Severity::Critical, &finding)
        }
    }
}
