//! This host's clock by what this host knows, for where the collector was not heard: a clock that is wrong is often why.
//!
//! It cannot be earlier than what was written before: the ledger's last record, the last cosignature, the beginning of the certificate. Whether somebody
//! keeps it right the kernel says, unless a container may not ask.

use std::io;

use picket_protocol::checkpoint::verify_cosignature;
use picket_protocol::note::Note;
use picket_protocol::time::Timestamp;

use super::collector::{SKEW_FINE, certificate_facts};
use super::{Case, Check};
use crate::cli::output::length;
use crate::clock;
use crate::ledger::{Reader, RecordFilter};
use crate::sys::{KeptTime, kept_time};

const NAME: &str = "clock";
const FIX: &str = "let the host keep time (timedatectl set-ntp true, or chrony), and correct it now";

pub(super) fn check(case: &Case) -> Check {
    // In this order: what is written meanwhile is not later than now.
    let known = known(case);
    judge(clock::now(), &known, kept_time())
}

/// Moments that have passed, with what they are of.
fn known(case: &Case) -> Vec<(&'static str, Timestamp)> {
    let mut known = Vec::new();
    if let Ok(reader) = Reader::open(&case.layout.database()) {
        let last = reader.records(&RecordFilter { limit: 1, ..RecordFilter::default() }).ok();
        known
            .extend(last.and_then(|mut last| last.pop()).map(|last| ("the ledger's last record", last.time)));
        let witness = case.enrolment.as_ref().ok().and_then(|enrolment| enrolment.witness_key().ok());
        let note = reader.cosigned().ok().and_then(|text| Note::parse(text.as_bytes()).ok());
        let cosigned = note.zip(witness).and_then(|(note, key)| verify_cosignature(&note, &key).ok());
        known.extend(cosigned.map(|time| ("the collector's last cosignature", time)));
    }
    let certificate = certificate_facts(&case.layout.tls_certificate()).ok();
    known.extend(certificate.map(|facts| ("the beginning of the certificate", facts.not_before)));
    known
}

fn judge(now: Timestamp, known: &[(&str, Timestamp)], kept: io::Result<KeptTime>) -> Check {
    if let Some((what, then)) =
        known.iter().max_by_key(|(_, then)| *then).filter(|(_, then)| then.since(now) > SKEW_FINE)
    {
        let found =
            format!("it says {now}, which is {} before {what}: it is behind", length(then.since(now)));
        return Check::fault(NAME, found, FIX);
    }
    match kept {
        Ok(KeptTime { synchronised: false, .. }) => Check::warning(
            NAME,
            "the collector was not heard to compare with, and nothing keeps it right",
            FIX,
        ),
        Ok(KeptTime { error_max, .. }) => {
            let error = error_max.as_millis();
            Check::ok(NAME, format!("a service of time keeps it right, to {error} ms by its own word"))
        }
        Err(error) => Check::ok(NAME, format!("not told whether anything keeps it right: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Grade;
    use super::*;

    #[test]
    fn a_clock_behind_what_was_written_before_is_a_fault_and_one_that_nobody_keeps_a_warning() {
        let at = |seconds: i64| Timestamp::from_seconds(1_800_000_000 + seconds);
        let kept = |synchronised| Ok(KeptTime { synchronised, error_max: Duration::from_millis(5) });
        let known = [("the ledger's last record", at(0)), ("the beginning of the certificate", at(3_600))];
        let behind = judge(at(0), &known, kept(true));
        assert!(behind.grade == Grade::Fault, "{behind:?}");
        assert!(
            behind.found.ends_with("1h 0m before the beginning of the certificate: it is behind"),
            "{behind:?}"
        );
        assert_eq!(judge(at(3_600), &known, kept(true)).grade, Grade::Ok);
        assert_eq!(judge(at(3_596), &known, kept(true)).grade, Grade::Ok, "a step of a few seconds is none");
        assert_eq!(judge(at(3_600), &[], kept(false)).grade, Grade::Warning);
        let refused = judge(at(3_600), &known, Err(io::ErrorKind::PermissionDenied.into()));
        assert!(refused.grade == Grade::Ok && refused.found.starts_with("not told"), "{refused:?}");
    }

    #[test]
    fn the_kernel_answers_or_refuses() {
        let _either = kept_time().is_ok();
    }
}
