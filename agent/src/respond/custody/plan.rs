//! Plans: what an action would change on this host now, in words and as data, by the checks that it would meet. Nothing is changed.
//!
//! A plan is made on a thread of its own ([`super::examine`]) from a copy of what the keeper knows: it may hash files, have the kernel look
//! rules through and count evidence, each within bounds of its own. What the action would be refused for is an answer as well: the receipt is
//! `failed`, and says why in words and as `refused`.

use std::path::PathBuf;
use std::time::Duration;

use picket_protocol::action::{Action, RestoreFrom};
use picket_protocol::command::Outcome;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Custody, Order, at_once, examine, places, tell_rung, unconfirmed};
use crate::respond::Moment;
use crate::respond::actions::restore_file::Restore;
use crate::respond::actions::{Applied, Plan, Prepared, Surroundings, end_sessions, kill_process};
use crate::respond::firewall::{Ladder, PutBy, Rung};
use crate::respond::in_force::InForce;
use crate::respond::own_acts::OwnActs;
use crate::respond::preserve::{self, Means, Parties, Wanted};
use crate::respond::processes::Named;
use crate::respond::receipt::safe;

mod steps;

/// Sentences of one plan that a receipt holds. An owner's list that goes on may have more entries.
const LINES_MAX: usize = 64;
/// Bytes of a receipt's details: beside them a record of 256 KiB holds its signers and its title.
const DETAIL_BYTES_MAX: usize = 192 * 1024;
/// How a plan is made to fit: so many sentences of each part, with or without its data.
const FITS: [(usize, bool); 4] = [(LINES_MAX, true), (LINES_MAX, false), (8, false), (1, false)];

/// What the receipt of a plan says.
pub(super) struct Told {
    /// `applied`, or `failed` where the action would be refused.
    pub outcome: Outcome,
    /// In a sentence or two.
    pub title: String,
    /// The whole.
    pub detail: Value,
}

/// What a plan is made from.
pub(super) struct View {
    /// The command's id, under which rules are tried.
    id: Uuid,
    lease: Duration,
    parties: Option<Parties>,
    now: Moment,
    surroundings: Surroundings,
    rung: Option<Rung>,
    database: PathBuf,
    evidence: Means,
    in_force: Vec<InForce>,
    /// How many are under way.
    sequences: usize,
}

/// What is to come before, in a playbook.
#[derive(Default)]
struct Earlier {
    prepared: Vec<Prepared>,
    bundles: usize,
}

/// What an action would come to.
struct Planned {
    plan: Plan,
    prepared: Option<Prepared>,
    by: Option<PutBy>,
}

impl View {
    /// As it is now.
    pub fn of(custody: &Custody, order: &Order, now: Moment) -> Self {
        let context = &custody.context;
        Self {
            id: order.id,
            lease: order.lease,
            parties: order.parties.clone(),
            now,
            surroundings: (context.surroundings)(),
            rung: context.rung,
            database: context.database.clone(),
            evidence: context.evidence.clone(),
            in_force: custody.in_force.clone(),
            sequences: custody.sequences.len(),
        }
    }

    /// What the receipt says.
    pub fn tell(&self, action: &Action) -> Told {
        let told = match action {
            Action::Playbook { name, steps } => self.playbook(name, steps),
            action => self.plan(action, self.lease, &Earlier::default()).map(|planned| planned.tell(action)),
        };
        told.unwrap_or_else(|why| {
            let why = safe(&why);
            let detail = json!({ "action": action.name(), "refused": why });
            Told { outcome: Outcome::Failed, title: format!("It would be refused: {why}"), detail }
        })
    }

    /// What an action would change, which is no playbook.
    fn plan(&self, action: &Action, lease: Duration, earlier: &Earlier) -> Result<Planned, String> {
        let plan = match action {
            Action::EndSessions { user } => end_sessions::plan(user, &self.surroundings)?,
            Action::KillProcess { pid, started, sha256 } => {
                let process = Named { pid: *pid, started: *started, sha256 };
                kill_process::plan(process, &self.surroundings)?
            }
            Action::RestoreFile(RestoreFrom::Finding(finding)) => {
                let held = examine::held(&self.in_force);
                Restore::prepare(*finding, &self.database, &held, &self.surroundings)?.plan()
            }
            Action::RestoreFile(RestoreFrom::Command(command)) => {
                match &at_once::quarantine_of(&self.in_force, *command)?.prepared {
                    Prepared::QuarantineFile(file) => file.plan_of_return(*command)?,
                    _ => return Err("it is no quarantine".to_owned()),
                }
            }
            Action::Preserve { profiles, paths, process } => {
                let wanted = Wanted { profiles, paths, process: process.as_ref() };
                self.preserve(wanted, earlier)?
            }
            Action::Restore { command, services, pause, accept } => {
                self.restore(*command, services, *pause, accept.len(), lease)?
            }
            Action::Advise { .. } | Action::Scan { .. } | Action::Drill { .. } | Action::Assess {} => {
                Plan { lines: vec!["It changes nothing of the host.".to_owned()], data: Value::Null }
            }
            action => return self.lasting(action, lease, earlier),
        };
        Ok(Planned { plan, prepared: None, by: None })
    }

    /// Of what has an undo: prepared and admitted as it would be, tried, and not applied.
    fn lasting(&self, action: &Action, lease: Duration, earlier: &Earlier) -> Result<Planned, String> {
        places::has_place(&self.in_force, earlier.prepared.len(), false)?;
        let mut prepared = super::prepare(action, &self.surroundings)?;
        places::is_narrow(places::commanded(&self.in_force).chain(&earlier.prepared), &prepared)?;
        prepared.inherit(self.in_force.iter().map(|act| &act.prepared).chain(&earlier.prepared));
        let deed = prepared.deed();
        let applied = Applied { id: self.id, left: unconfirmed(deed, lease) };
        let by = deed.try_out(&applied, &mut Ladder::new(self.rung, OwnActs::default()))?;
        Ok(Planned { plan: deed.plan(), by, prepared: Some(prepared) })
    }

    fn preserve(&self, wanted: Wanted<'_>, earlier: &Earlier) -> Result<Plan, String> {
        let held = preserve::read(&self.database);
        let held = held.map_err(|error| format!("what is held of evidence cannot be read: {error}"))?.len();
        let held = held.saturating_add(earlier.bundles);
        self.evidence.plan(wanted, self.parties.as_ref(), held, self.surroundings.booted)
    }
}

impl Planned {
    fn tell(&self, action: &Action) -> Told {
        let mut title = safe(&format!("Not done, only told. It would be: {}", self.plan.lines.join(" ")));
        let detail = |(lines, data)| {
            let mut detail = json!({ "action": action.name(), "plan": cut(&self.plan, lines, data) });
            if let Some(by) = &self.by {
                tell_rung(by, &mut String::new(), &mut detail);
            }
            detail
        };
        let detail = fitted(detail);
        if let Some(limits) = self.by.as_ref().and_then(|by| by.limits) {
            title.push(' ');
            title.push_str(limits);
        }
        Told { outcome: Outcome::Applied, title, detail }
    }
}

/// So many sentences of it, and how many there are besides; its data where wanted.
fn cut(plan: &Plan, lines: usize, data: bool) -> Plan {
    let mut kept: Vec<String> = plan.lines.iter().take(lines).map(|line| safe(line)).collect();
    let more = plan.lines.len().saturating_sub(lines);
    if more > 0 {
        kept.push(format!("And {more} more sentences, for which a record has no room."));
    }
    Plan { lines: kept, data: if data { plan.data.clone() } else { Value::Null } }
}

/// The fullest that a record holds.
fn fitted(detail: impl Fn((usize, bool)) -> Value) -> Value {
    let fits = |detail: &Value| detail.to_string().len() <= DETAIL_BYTES_MAX;
    FITS.into_iter().map(detail).find(fits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_is_too_long_for_a_record_loses_its_data_first_and_says_what_else() {
        let plan = |lines: usize, data: usize| Planned {
            plan: Plan { lines: vec!["x".repeat(400); lines], data: json!({ "list": "y".repeat(data) }) },
            prepared: None,
            by: None,
        };
        let told = |lines, data| plan(lines, data).tell(&Action::Isolate {}).detail;
        let whole = told(3, 1_000);
        assert_eq!(whole.pointer("/plan/lines").and_then(Value::as_array).map(Vec::len), Some(3));
        assert!(whole.pointer("/plan/data/list").is_some_and(Value::is_string));
        let long = told(1_000, DETAIL_BYTES_MAX);
        assert_eq!(long.pointer("/plan/data"), Some(&Value::Null));
        let lines = long.pointer("/plan/lines").and_then(Value::as_array).unwrap();
        assert!(
            lines.len() == LINES_MAX + 1 && lines[LINES_MAX].as_str().unwrap().starts_with("And 936 more")
        );
        assert!(long.to_string().len() <= DETAIL_BYTES_MAX);
    }
}
