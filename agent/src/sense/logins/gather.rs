//! What waits for the next commit: a commit costs as much as a thousand lines, so what can wait gathers.
//!
//! What the detectors call prompt ([`crate::detect::logins::Detector::take_prompt`]), what the sensor says of itself and
//! what cannot be read again is due at once. All else is due [`GATHER_AGE`] after the first of it came, or when
//! [`GATHERED_MAX`] findings wait. A finding that grows while it waits is sealed once, as it stands then.
//!
//! Nothing is lost by waiting: how far the sources were read is written in the same transaction as what they led to, so a
//! crash makes the sensor read the same lines again, and come to the same findings for the first time.

use std::collections::HashMap;
use std::time::Duration;

use picket_protocol::finding::Finding;
use picket_protocol::record::Draft;
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use crate::sense::draft::draft;

/// What can wait is committed this late: the growth of what was told, single failures in a stream of them, what the
/// detectors counted, and how far the sources were read. 1 s: a person sees no difference, and a commit a second costs no
/// thousandth of a core.
pub const GATHER_AGE: Duration = Duration::from_secs(1);
/// So many findings do not wait for more: of some kilobytes each.
pub const GATHERED_MAX: usize = 128;

/// See the module.
#[derive(Debug, Default)]
pub struct Gathered {
    waiting: Vec<Waiting>,
    /// Where each finding stands among them.
    places: HashMap<Uuid, usize>,
    /// Something among them cannot wait.
    prompt: bool,
    /// Since when there is something to write.
    since: Option<Timestamp>,
}

#[derive(Debug)]
enum Waiting {
    Finding(Box<Finding>),
    Sealable(Draft),
}

impl Gathered {
    /// Adds a finding; one with its id that waits gives way to it.
    pub fn finding(&mut self, finding: Finding) {
        let known = self.places.get(&finding.id).and_then(|place| self.waiting.get_mut(*place));
        match known {
            Some(waiting) => *waiting = Waiting::Finding(Box::new(finding)),
            None => {
                self.places.insert(finding.id, self.waiting.len());
                self.waiting.push(Waiting::Finding(Box::new(finding)));
            }
        }
    }

    /// Adds another record, which does not wait.
    pub fn record(&mut self, draft: Draft) {
        self.waiting.push(Waiting::Sealable(draft));
        self.prompt = true;
    }

    /// What is to be written does not wait.
    pub fn hurry(&mut self) {
        self.prompt = true;
    }

    /// How many records wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// There is something to write at `now`, be it no record.
    pub fn begin(&mut self, now: Timestamp) {
        self.since.get_or_insert(now);
    }

    /// Whether it is time to commit. A clock that was set back makes it so, but not a moment that is a little older than the
    /// one at which a source was read.
    pub fn is_due(&self, now: Timestamp) -> bool {
        let late = self.since.is_some_and(|since| now.since(since).max(since.since(now)) >= GATHER_AGE);
        self.prompt || late || self.len() >= GATHERED_MAX
    }

    /// How long until it is, by the clock.
    pub fn due_in(&self, now: Timestamp) -> Option<Duration> {
        self.since.map(|since| GATHER_AGE.saturating_sub(now.since(since)))
    }

    /// Takes all of it, in the order in which it came.
    pub fn take(&mut self) -> Vec<Draft> {
        let Self { waiting, .. } = std::mem::take(self);
        waiting.into_iter().filter_map(Waiting::draft).collect()
    }
}

impl Waiting {
    fn draft(self) -> Option<Draft> {
        match self {
            Self::Sealable(draft) => Some(draft),
            Self::Finding(finding) => draft(&finding),
        }
    }
}

#[cfg(test)]
mod tests {
    use picket_protocol::finding::{Observed, Severity};
    use proptest::prelude::*;

    use super::*;

    fn finding(id: u128, count: u64) -> Finding {
        Finding {
            id: Uuid::from_u128(id),
            rule: "login.failure".to_owned(),
            severity: Severity::Info,
            observed: Observed { count, ..Observed::once(Timestamp::default()) },
            title: String::new(),
            entities: Vec::new(),
            evidence: serde_json::Value::Null,
            attack: Vec::new(),
            explained_by: None,
            drill: false,
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_nanos(1_700_000_000_000_000_000 + millis * 1_000_000)
    }

    /// Ids and counts of what is sealed.
    fn sealed(drafts: &[Draft]) -> Vec<(u128, u64)> {
        let read = |draft: &Draft| {
            let line = draft.render(0, Timestamp::default());
            let record = picket_protocol::record::Record::parse(&line).unwrap();
            let finding: Finding = record.body().unwrap();
            (finding.id.as_u128(), finding.observed.count)
        };
        drafts.iter().map(read).collect()
    }

    #[test]
    fn what_can_wait_is_due_after_its_age_and_what_cannot_at_once() {
        let mut gathered = Gathered::default();
        assert!(!gathered.is_due(at(0)), "nothing is there");
        gathered.finding(finding(1, 1));
        gathered.begin(at(0));
        gathered.begin(at(900));
        assert!(!gathered.is_due(at(999)));
        assert_eq!(gathered.due_in(at(400)), Some(Duration::from_millis(600)));
        assert!(gathered.is_due(at(1_000)), "by the first of it");
        assert!(!gathered.is_due(at(-20)), "by the moment at which this round began");
        assert!(gathered.is_due(at(-1_000)), "a clock that was set back");
        assert_eq!(sealed(&gathered.take()), [(1, 1)]);
        assert!(!gathered.is_due(at(5_000)) && gathered.is_empty());
        gathered.finding(finding(2, 1));
        gathered.begin(at(5_000));
        gathered.hurry();
        assert!(gathered.is_due(at(5_000)));
    }

    #[test]
    fn so_many_findings_do_not_wait() {
        let mut gathered = Gathered::default();
        gathered.begin(at(0));
        for id in 0..GATHERED_MAX {
            assert!(!gathered.is_due(at(0)), "{id}");
            // What grows is one.
            (1..4).for_each(|count| gathered.finding(finding(id as u128, count)));
        }
        assert!(gathered.is_due(at(0)));
    }

    proptest! {
        #[test]
        fn each_is_sealed_once_a_commit_as_it_stood_last_in_the_order_of_their_coming(
            steps in proptest::collection::vec((0u128..6, 0i64..400, any::<bool>()), 0..100),
        ) {
            let (mut gathered, mut now) = (Gathered::default(), 0);
            let mut counts = std::collections::BTreeMap::new();
            let mut expected: Vec<(u128, u64)> = Vec::new();
            let mut since = None;
            for (id, passed, prompt) in steps {
                now += passed;
                let count = counts.entry(id).and_modify(|count| *count += 1).or_insert(1u64);
                gathered.finding(finding(id, *count));
                gathered.begin(at(now));
                let first = *since.get_or_insert(now);
                match expected.iter_mut().find(|(known, _)| *known == id) {
                    Some(known) => known.1 = *count,
                    None => expected.push((id, *count)),
                }
                if prompt {
                    gathered.hurry();
                }
                prop_assert_eq!(gathered.is_due(at(now)), prompt || now - first >= 1_000);
                if gathered.is_due(at(now)) {
                    prop_assert_eq!(sealed(&gathered.take()), std::mem::take(&mut expected));
                    since = None;
                }
            }
            prop_assert_eq!(sealed(&gathered.take()), expected);
        }
    }
}
