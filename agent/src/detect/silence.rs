//! A source of login events that falls silent while others speak: `login.source-silent`.
//!
//! Not every source tells of everything: audit knows no keys that were refused, wtmp only terminals, btmp only passwords.
//! So what a source tells is learnt, for each service and kind of act by itself, from acts that it told of together with
//! others ([`LEARNT_MIN`]). It is silent when it then misses [`MISSED_MIN`] acts in a row, over [`MISSED_FOR`] or longer,
//! that others told of. One finding an outage: raised when it begins, and once more when the source speaks again.
//!
//! Acts that were only announced (a name was given, and no attempt followed) say nothing, and of logins the records of the
//! utmp family are not asked, since they know those by terminal only. Lines of a text log that the journal does not
//! confirm count against the journal alone: any local user can write such, and the finding says who told.
//!
//! Pure. What was learnt can be written and taken back ([`Silence::state`]). Limit: [`CLASSES_MAX`] kinds of acts.

use std::collections::BTreeMap;
use std::time::Duration;

use picket_protocol::finding::{Finding, Observed, Severity};
use picket_protocol::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::logins::merge::Closed;
use crate::sense::logins::{LoginKind, Source};

/// Acts that a source must have told of together with others, before its silence says anything.
pub const LEARNT_MIN: u32 = 10;
/// Acts in a row that it must miss.
pub const MISSED_MIN: u32 = 10;
/// For so long at least: a source that is only late, or was limited for a moment, is not silent.
pub const MISSED_FOR: Duration = Duration::from_secs(60);
/// Kinds of acts: services times what they do.
pub const CLASSES_MAX: usize = 256;
/// Learning more than this changes nothing.
const LEARNT_MAX: u32 = 1_000;

/// What a source is known to tell of one kind of act.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Witness {
    /// Acts that it told of together with others.
    learnt: u32,
    /// Acts in a row that others told of and it did not.
    missed: u32,
    /// When the first of them was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    /// Who told of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    told_by: Vec<Source>,
    /// The finding about it, while it is silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alarm: Option<Uuid>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Silence {
    /// By service, kind and source.
    witnesses: BTreeMap<String, Witness>,
    changed: bool,
}

impl Silence {
    /// Takes up an act that is over.
    pub fn closed(&mut self, act: &Closed, now: Timestamp, new_id: &mut dyn FnMut() -> Uuid) -> Vec<Finding> {
        if !act.attempted {
            return Vec::new();
        }
        let class = class(act);
        let mut findings = Vec::new();
        for source in [Source::Journal, Source::Log, Source::Audit, Source::Record] {
            // What only a forgeable line says is a question to the journal and to nobody else.
            let asked = act.confirmed || matches!(source, Source::Journal | Source::Log);
            if !asked || (source == Source::Record && act.kind != LoginKind::Failure) {
                continue;
            }
            let key = format!("{class} {}", name(source));
            let tells = act.sources.contains(&source);
            if !self.witnesses.contains_key(&key) {
                if !tells || self.witnesses.len() >= CLASSES_MAX {
                    continue;
                }
                self.witnesses.insert(key.clone(), Witness::default());
            }
            let Some(witness) = self.witnesses.get_mut(&key) else { continue };
            self.changed = true;
            let finding = if tells {
                witness.speaks(act, source, now)
            } else {
                witness.misses(act, source, now, new_id)
            };
            findings.extend(finding);
        }
        findings
    }

    /// Whether `source` is silent about anything.
    pub fn is_silent(&self, source: Source) -> bool {
        let of_source = |key: &str| key.ends_with(name(source));
        self.witnesses.iter().any(|(key, witness)| witness.alarm.is_some() && of_source(key))
    }

    /// What was learnt, to be kept, when it changed since the last call.
    pub fn state(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        serde_json::to_string(&self.witnesses).ok()
    }

    /// Takes it back; what cannot be read is learnt anew.
    pub fn restore(&mut self, state: &str) {
        let known: BTreeMap<String, Witness> = serde_json::from_str(state).unwrap_or_default();
        self.witnesses = known.into_iter().take(CLASSES_MAX).collect();
    }
}

impl Witness {
    fn speaks(&mut self, act: &Closed, source: Source, now: Timestamp) -> Option<Finding> {
        if act.sources.len() > 1 {
            self.learnt = self.learnt.saturating_add(1).min(LEARNT_MAX);
        }
        let ended = self.alarm.take().map(|id| self.finding(id, act, source, now, true));
        (self.missed, self.since) = (0, None);
        self.told_by.clear();
        ended
    }

    fn misses(
        &mut self,
        act: &Closed,
        source: Source,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Option<Finding> {
        self.missed = self.missed.saturating_add(1);
        // A clock that was set back must not put it off for as long as it was set back.
        let since = self.since.map_or(now, |since| since.min(now));
        self.since = Some(since);
        for told in &act.sources {
            if !self.told_by.contains(told) {
                self.told_by.push(*told);
            }
        }
        let silent = self.learnt >= LEARNT_MIN && self.missed >= MISSED_MIN && now.since(since) >= MISSED_FOR;
        if !silent || self.alarm.is_some() {
            return None;
        }
        let id = new_id();
        self.alarm = Some(id);
        Some(self.finding(id, act, source, now, false))
    }

    fn finding(&self, id: Uuid, act: &Closed, source: Source, now: Timestamp, ended: bool) -> Finding {
        let since = self.since.unwrap_or(now);
        let others: Vec<&str> = self.told_by.iter().map(|source| words(*source)).collect();
        let (missing, kind) = (self.missed, kind(act.kind));
        let title = if ended {
            format!(
                "{} tells of {kind} by {} again; {missing} of which {} told are missing in it",
                capital(words(source)),
                act.service,
                others.join(" and "),
            )
        } else {
            format!(
                "{} fell silent: {missing} {kind} by {} of which {} told are missing in it",
                capital(words(source)),
                act.service,
                others.join(" and "),
            )
        };
        Finding {
            id,
            rule: "login.source-silent".to_owned(),
            severity: Severity::Medium,
            observed: Observed { first: since, last: now, count: u64::from(missing.max(1)) },
            title,
            entities: Vec::new(),
            evidence: json!({
                "source": name(source), "service": act.service, "kind": act.kind.as_str(), "missed": missing,
                "learnt": self.learnt, "told_by": self.told_by, "ended": ended,
            }),
            attack: vec!["T1562.006".to_owned()],
            explained_by: None,
            drill: false,
        }
    }
}

/// Acts that the same sources tell of.
fn class(act: &Closed) -> String {
    // Keys that were refused are no concern of PAM's, and so of neither audit's nor btmp's.
    let key = if act.by_key && act.kind != LoginKind::Success { " key" } else { "" };
    format!("{} {}{key}", act.service, kind(act.kind))
}

fn kind(kind: LoginKind) -> &'static str {
    match kind {
        LoginKind::Failure | LoginKind::InvalidUser => "failed logins",
        LoginKind::Success => "logins",
        LoginKind::Logout => "logouts",
        LoginKind::PrivilegeSuccess => "changes of user",
        LoginKind::PrivilegeFailure => "refused changes of user",
        _ => "changes of accounts",
    }
}

fn name(source: Source) -> &'static str {
    match source {
        Source::Journal => "journal",
        Source::Log => "log",
        Source::Audit => "audit",
        Source::Record => "record",
        Source::Wtmpdb => "wtmpdb",
        Source::Lastlog => "lastlog",
    }
}

fn words(source: Source) -> &'static str {
    match source {
        Source::Journal => "the journal",
        Source::Log => "the text log",
        Source::Audit => "the kernel's audit",
        Source::Record => "the record of failed logins (btmp)",
        Source::Wtmpdb => "wtmpdb",
        Source::Lastlog => "lastlog2",
    }
}

fn capital(words: &str) -> String {
    let mut letters = words.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(1_700_000_000).plus(Duration::from_secs(seconds))
    }

    fn act(kind: LoginKind, sources: &[Source]) -> Closed {
        Closed {
            service: Cow::Borrowed("sshd"),
            kind,
            sources: sources.to_vec(),
            attempted: true,
            by_key: false,
            confirmed: true,
        }
    }

    fn tell(silence: &mut Silence, act: &Closed, count: u64, from: u64) -> Vec<Finding> {
        let mut id = 0;
        (0..count)
            .flat_map(|n| {
                silence.closed(act, at(from + n * 10), &mut || {
                    id += 1;
                    Uuid::from_u128(id)
                })
            })
            .collect()
    }

    const BOTH: [Source; 2] = [Source::Audit, Source::Log];

    #[test]
    fn a_log_that_falls_silent_is_told_once_and_its_return_too() {
        let mut silence = Silence::default();
        assert!(tell(&mut silence, &act(LoginKind::Failure, &BOTH), 20, 0).is_empty());
        let silent = tell(&mut silence, &act(LoginKind::Failure, &[Source::Audit]), 50, 1_000);
        assert_eq!(silent.len(), 1);
        assert_eq!(
            silent[0].title,
            "The text log fell silent: 10 failed logins by sshd of which the kernel's audit told are missing in it"
        );
        let again = tell(&mut silence, &act(LoginKind::Failure, &BOTH), 5, 2_000);
        assert_eq!((again.len(), again[0].id, again[0].observed.count), (1, silent[0].id, 50));
    }

    #[test]
    fn a_clock_that_ran_ahead_does_not_put_it_off() {
        let mut silence = Silence::default();
        tell(&mut silence, &act(LoginKind::Failure, &BOTH), 20, 0);
        tell(&mut silence, &act(LoginKind::Failure, &[Source::Audit]), 1, 400 * 86_400);
        assert_eq!(tell(&mut silence, &act(LoginKind::Failure, &[Source::Audit]), 50, 1_000).len(), 1);
    }

    #[test]
    fn a_few_misses_or_a_short_silence_are_none() {
        let mut silence = Silence::default();
        tell(&mut silence, &act(LoginKind::Failure, &BOTH), 20, 0);
        assert!(tell(&mut silence, &act(LoginKind::Failure, &[Source::Audit]), 9, 1_000).is_empty());
        tell(&mut silence, &act(LoginKind::Failure, &BOTH), 1, 2_000);
        // Many within a second: the log may only be late.
        let burst =
            (0..500).flat_map(|_| tell(&mut silence, &act(LoginKind::Failure, &[Source::Audit]), 1, 3_000));
        assert_eq!(burst.count(), 0);
    }

    #[test]
    fn what_a_source_never_told_of_it_does_not_miss() {
        let mut silence = Silence::default();
        tell(&mut silence, &act(LoginKind::Failure, &BOTH), 20, 0);
        // Successes, keys that were refused, names without an attempt: all without audit.
        assert!(tell(&mut silence, &act(LoginKind::Success, &[Source::Log]), 100, 1_000).is_empty());
        let key = Closed { by_key: true, ..act(LoginKind::Failure, &[Source::Log]) };
        assert!(tell(&mut silence, &key, 100, 1_000).is_empty());
        let announced = Closed { attempted: false, ..act(LoginKind::Failure, &[Source::Log]) };
        assert!(tell(&mut silence, &announced, 100, 1_000).is_empty());
        // wtmp knows terminals only.
        let all = [Source::Audit, Source::Log, Source::Record];
        tell(&mut silence, &act(LoginKind::Success, &all), 100, 1_000);
        assert!(tell(&mut silence, &act(LoginKind::Success, &BOTH), 100, 3_000).is_empty());
    }

    #[test]
    fn a_line_that_anybody_can_write_is_a_question_to_the_journal_alone() {
        let mut silence = Silence::default();
        let all = [Source::Journal, Source::Log, Source::Audit];
        tell(&mut silence, &act(LoginKind::Failure, &all), 20, 0);
        let forged = Closed { confirmed: false, ..act(LoginKind::Failure, &[Source::Log]) };
        let told = tell(&mut silence, &forged, 50, 1_000);
        assert_eq!(told.iter().map(|told| told.evidence["source"].clone()).collect::<Vec<_>>(), ["journal"]);
        assert!(silence.is_silent(Source::Journal) && !silence.is_silent(Source::Audit));
    }

    #[test]
    fn what_was_learnt_is_taken_back() {
        let mut silence = Silence::default();
        tell(&mut silence, &act(LoginKind::Failure, &BOTH), 20, 0);
        let state = silence.state().expect("a change");
        assert_eq!(silence.state(), None);
        let mut next = Silence::default();
        next.restore(&state);
        assert_eq!(tell(&mut next, &act(LoginKind::Failure, &[Source::Log]), 20, 1_000).len(), 1);
        next.restore("damaged");
        assert!(tell(&mut next, &act(LoginKind::Failure, &[Source::Log]), 20, 1_000).is_empty());
    }

    proptest! {
        #[test]
        fn sources_that_tell_of_everything_are_never_silent(
            kinds in proptest::collection::vec(0usize..4, 1..200),
        ) {
            let kinds = kinds.into_iter().map(|kind| {
                [LoginKind::Failure, LoginKind::Success, LoginKind::PrivilegeSuccess, LoginKind::Logout][kind]
            });
            let mut silence = Silence::default();
            for (n, kind) in (0u64..).zip(kinds) {
                prop_assert!(tell(&mut silence, &act(kind, &BOTH), 1, n * 30).is_empty());
            }
        }
    }
}
