//! Plans of what is done in steps: of a playbook each step with its condition, lease and time, and of a restore what follows what.
//!
//! Steps are told as the host is now. Which of them would be done is followed from the first to the last: a step that is not refused is
//! taken for one that succeeds. What earlier steps change may let a later one come out otherwise, which the plan says.

use std::collections::BTreeMap;
use std::time::Duration;

use picket_protocol::action::{Action, Service};
use picket_protocol::command::Outcome;
use picket_protocol::playbook::{Condition, Otherwise, Step};
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::restore::isolations_of;
use super::super::steps::{SEQUENCES_MAX, has_finding};
use super::super::tell_rung;
use super::{Earlier, Planned, Told, View, cut, fitted};
use crate::respond::actions::Plan;
use crate::respond::receipt::safe;

/// Steps that are not begun to be looked at within so long are told without a plan: a file, or a program, may take a minute each.
const STEPS_WITHIN: Duration = Duration::from_secs(30);

/// What would become of a step, as the host is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Done,
    Refused,
    Skipped,
    NotReached,
}

impl Expected {
    fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Skipped => "skipped",
            Self::NotReached => "not-reached",
        }
    }
}

/// A step and what it would come to.
struct Outlook<'a> {
    step: &'a Step,
    number: usize,
    expected: Expected,
    /// Of a condition on findings whether there is one.
    found: Option<bool>,
    /// None where there was no time to look.
    came: Option<Result<Planned, String>>,
}

impl View {
    /// The plan of a playbook.
    ///
    /// # Errors
    /// Why it would not be begun.
    pub(super) fn playbook(&self, name: &str, steps: &[Step]) -> Result<Told, String> {
        self.has_sequence()?;
        let outlooks = self.follow(steps)?;
        let stop = outlooks
            .iter()
            .find(|own| own.expected == Expected::Refused && own.step.otherwise == Otherwise::Stop);
        let detail = |(lines, data)| {
            let sentences: Vec<String> = outlooks.iter().map(|own| own.line(steps.len())).collect();
            let told: Vec<Value> = outlooks.iter().map(|own| own.data(lines, data)).collect();
            let stops = stop.map(|own| &own.step.name);
            let more = "Each step is told as the host is now: what earlier ones change may let it come out otherwise.";
            let lines: Vec<String> = sentences.into_iter().chain([more.to_owned()]).collect();
            let data = json!({ "playbook": name, "steps": told, "stops_at": stops });
            json!({ "action": "playbook", "plan": Plan { lines, data } })
        };
        let each: Vec<String> =
            outlooks.iter().map(|own| format!("{} {}", own.step.name, own.expected.word())).collect();
        let (outcome, title) = match stop {
            Some(own) => {
                let why = own.refused().unwrap_or_default();
                (Outcome::Failed, format!("It would stop at step {}: {why}", own.step.name))
            }
            None => {
                let told =
                    format!("Not done, only told. It would be: the playbook {name}, {}.", each.join(", "));
                (Outcome::Applied, told)
            }
        };
        Ok(Told { outcome, title: safe(&title), detail: fitted(detail) })
    }

    fn has_sequence(&self) -> Result<(), String> {
        match self.sequences >= SEQUENCES_MAX {
            true => Err(format!("{SEQUENCES_MAX} playbooks are under way already")),
            false => Ok(()),
        }
    }

    fn follow<'a>(&self, steps: &'a [Step]) -> Result<Vec<Outlook<'a>>, String> {
        let until = crate::clock::since_boot().saturating_add(STEPS_WITHIN);
        let (mut states, mut earlier, mut outlooks) = (BTreeMap::new(), Earlier::default(), Vec::new());
        let mut stopped = false;
        for (number, step) in (1..).zip(steps) {
            let found = match &step.when {
                Condition::Found { rule, seconds } | Condition::NotFound { rule, seconds } => {
                    Some(has_finding(&self.database, rule, *seconds, self.now)?)
                }
                _ => None,
            };
            let lease = Duration::from_secs(step.lease);
            let in_time = crate::clock::since_boot() < until;
            let came = in_time.then(|| self.plan(&step.action, lease, &earlier));
            let expected = match is_due(&step.when, found, &states) {
                _ if stopped => Expected::NotReached,
                false => Expected::Skipped,
                true if matches!(came, Some(Err(_))) => Expected::Refused,
                true => Expected::Done,
            };
            stopped |= expected == Expected::Refused && step.otherwise == Otherwise::Stop;
            if let (Expected::Done, Some(Ok(planned))) = (expected, &came) {
                earlier.prepared.extend(planned.prepared.clone());
                earlier.bundles += usize::from(matches!(step.action, Action::Preserve { .. }));
            }
            states.insert(step.name.as_str(), expected);
            outlooks.push(Outlook { step, number, expected, found, came });
        }
        Ok(outlooks)
    }

    /// The plan of a restore in steps.
    ///
    /// # Errors
    /// Why it would not be begun, or could not end the isolation.
    pub(super) fn restore(
        &self,
        command: Uuid,
        services: &[Service],
        pause: u64,
        accepted: usize,
        watch: Duration,
    ) -> Result<Plan, String> {
        self.has_sequence()?;
        let acts = isolations_of(&self.in_force, command, self.now.wall)?;
        let accepted_words = match accepted {
            0 => String::new(),
            1 => ", and is not the one item that operators accepted,".to_owned(),
            more => format!(", and is none of the {more} items that operators accepted,"),
        };
        let mut lines = vec![format!(
            "First the host is assessed: what differs from what is usual{accepted_words} ends this, and the host stays isolated."
        )];
        lines.extend(services.iter().map(|service| {
            format!(
                "Then {service} is opened, and looked at for {pause} s: a critical finding closes all again."
            )
        }));
        let others = match acts.len() {
            0 | 1 => String::new(),
            more => format!(", and {} more that are in force", more - 1),
        };
        lines.push(format!("Then the isolation of command {command} ends{others}: all traffic goes on."));
        lines.push(format!("Then the host is watched closely for {} s.", watch.as_secs()));
        lines.push("Each of these waits for the one before.".to_owned());
        let isolations: Vec<Uuid> = acts.iter().map(|act| act.id).collect();
        let data = json!({
            "isolations": isolations, "services": services, "pause_seconds": pause, "accepted": accepted,
            "watch_seconds": watch.as_secs(),
        });
        Ok(Plan { lines, data })
    }
}

/// Whether a condition would hold; a step that is not reached came to nothing.
fn is_due(when: &Condition, found: Option<bool>, states: &BTreeMap<&str, Expected>) -> bool {
    match when {
        Condition::Always {} => true,
        Condition::Succeeded { step } => states.get(step.as_str()) == Some(&Expected::Done),
        Condition::Failed { step } => states.get(step.as_str()) == Some(&Expected::Refused),
        Condition::Found { .. } => found == Some(true),
        Condition::NotFound { .. } => found == Some(false),
    }
}

impl Outlook<'_> {
    fn refused(&self) -> Option<String> {
        self.came.as_ref().and_then(|came| came.as_ref().err()).map(|why| safe(why))
    }

    /// The earlier step that it waits for.
    fn depends_on(&self) -> Option<&str> {
        match &self.step.when {
            Condition::Succeeded { step } | Condition::Failed { step } => Some(step),
            _ => None,
        }
    }

    fn line(&self, of: usize) -> String {
        let Step { name, action, lease, when, timeout, .. } = self.step;
        let there = match self.found {
            Some(true) => " (there is one now)",
            Some(false) => " (there is none now)",
            None => "",
        };
        let lease = if *lease > 0 { format!(" for {lease} s") } else { String::new() };
        let what = match &self.came {
            None => "not looked at, since the steps before took too long.".to_owned(),
            Some(Err(why)) => format!("it would be refused: {}", safe(why)),
            Some(Ok(planned)) => planned.plan.lines.first().map(|line| safe(line)).unwrap_or_default(),
        };
        let then = match self.expected {
            Expected::Skipped => " As things are it is left out.",
            Expected::NotReached => " As things are the playbook stops before it.",
            Expected::Done | Expected::Refused => "",
        };
        let (number, action) = (self.number, action.name());
        safe(&format!(
            "Step {number} of {of}, {name}: {action}{lease}, {when}{there}, within {timeout} s: {what}{then}"
        ))
    }

    fn data(&self, lines: usize, data: bool) -> Value {
        let step = self.step;
        let mut told = json!({
            "step": step.name, "number": self.number, "action": step.action.name(), "lease_seconds": step.lease,
            "when": step.when, "depends_on": self.depends_on(), "found_now": self.found, "within_seconds": step.timeout,
            "otherwise": step.otherwise, "expected": self.expected.word(), "refused": self.refused(),
        });
        if let Some(Ok(planned)) = &self.came {
            if let Some(told) = told.as_object_mut() {
                told.insert("plan".to_owned(), json!(cut(&planned.plan, lines, data)));
            }
            if let Some(by) = &planned.by {
                tell_rung(by, &mut String::new(), &mut told);
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_a_step_would_be_done_follows_from_what_those_before_would_come_to() {
        let states = BTreeMap::from([
            ("good", Expected::Done),
            ("bad", Expected::Refused),
            ("left", Expected::Skipped),
            ("after", Expected::NotReached),
        ]);
        let after = |step: &str| Condition::Succeeded { step: step.to_owned() };
        let instead = |step: &str| Condition::Failed { step: step.to_owned() };
        let due = |when: Condition, found| is_due(&when, found, &states);
        assert!(due(Condition::Always {}, None) && due(after("good"), None) && due(instead("bad"), None));
        for other in ["bad", "left", "after"] {
            assert!(!due(after(other), None), "{other}");
        }
        for other in ["good", "left", "after"] {
            assert!(!due(instead(other), None), "{other}");
        }
        let found = || Condition::Found { rule: "x".to_owned(), seconds: 1 };
        let none = || Condition::NotFound { rule: "x".to_owned(), seconds: 1 };
        assert!(due(found(), Some(true)) && due(none(), Some(false)));
        assert!(!due(found(), Some(false)) && !due(none(), Some(true)));
    }
}
