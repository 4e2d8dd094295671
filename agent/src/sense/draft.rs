//! Findings as records of the ledger.

use picket_protocol::finding::Finding;
use picket_protocol::record::{Draft, Kind};

/// Bytes of a title that is kept where the whole would be too long.
const TITLE_BYTES_MAX: usize = 1_000;

/// The finding as a draft. One that is too long for a record is sealed without its evidence and entities, which it says: what happened
/// is never lost for how much there was to say of it. None, with an error in the log, only where even that is refused.
pub fn draft(finding: &Finding) -> Option<Draft> {
    let error = match Draft::new(Kind::Finding, finding.severity, finding) {
        Ok(draft) => return Some(draft),
        Err(error) => error,
    };
    tracing::error!(%error, rule = finding.rule, "a finding is sealed without its evidence");
    let mut short = finding.clone();
    short.evidence = serde_json::json!({ "left_out": "longer than a record may be" });
    short.entities.clear();
    short.title.truncate(short.title.floor_char_boundary(TITLE_BYTES_MAX));
    let draft = Draft::new(Kind::Finding, short.severity, &short);
    draft.inspect_err(|error| tracing::error!(%error, rule = short.rule, "a finding cannot be sealed")).ok()
}

#[cfg(test)]
mod tests {
    use picket_protocol::finding::{Observed, Severity};
    use picket_protocol::time::Timestamp;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_too_long_is_sealed_without_its_evidence() {
        let moment = Timestamp::from_seconds(1_800_000_000);
        let mut finding = Finding {
            id: Uuid::from_u128(7),
            rule: "net.flood.syn".to_owned(),
            severity: Severity::High,
            title: "A flood".to_owned(),
            observed: Observed { first: moment, last: moment, count: 3 },
            entities: Vec::new(),
            attack: Vec::new(),
            explained_by: None,
            drill: false,
            evidence: serde_json::json!({ "packets": 3 }),
        };
        let whole = draft(&finding).unwrap();
        finding.evidence = serde_json::json!({ "text": "x".repeat(10_000_000) });
        finding.title = "\u{e9}".repeat(1_000_000);
        let short = draft(&finding).unwrap();
        assert!(
            short.body_bytes() < 2_000 && short.body_bytes() > whole.body_bytes(),
            "{}",
            short.body_bytes()
        );
    }
}
