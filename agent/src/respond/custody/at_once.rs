//! Commands without an undo: done while the keeper waits, with one receipt. They take some seconds at most, for which the
//! kernel holds what is in force by itself.

use picket_protocol::action::{Action, RestoreFrom};
use picket_protocol::command::Outcome;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Custody, Order};
use crate::respond::Moment;
use crate::respond::actions::restore_file::Restore;
use crate::respond::actions::{Prepared, end_sessions, kill_process};
use crate::respond::in_force::InForce;
use crate::respond::processes::Named;
use crate::respond::receipt::safe;

impl Custody {
    /// Does it and answers, if it is one of them.
    pub(super) fn do_at_once(&mut self, order: &Order, now: Moment) -> bool {
        let done = match &order.action {
            Action::EndSessions { user } => end_sessions::end(user, &(self.context.surroundings)()),
            Action::KillProcess { pid, started, sha256 } => {
                let process = Named { pid: *pid, started: *started, sha256 };
                kill_process::kill(process, &(self.context.surroundings)())
            }
            Action::RestoreFile(RestoreFrom::Command(command)) => self.restore(*command, order.id, now),
            _ => return false,
        };
        self.tell(order, done, now);
        true
    }

    /// Puts back what a file held, which was examined.
    pub(super) fn restore_text(&mut self, order: &Order, restore: &Restore, now: Moment) {
        let done = restore.put_back(order.id, &self.levers.acts);
        self.tell(order, done, now);
    }

    fn tell(&mut self, order: &Order, done: Result<(String, Value), String>, now: Moment) {
        let (outcome, title, detail) = match done {
            Ok((title, detail)) => (Outcome::Applied, safe(&title), detail),
            Err(why) => (Outcome::Failed, safe(&why), Value::Null),
        };
        self.answer(&order.subject, order.id, outcome, &title, detail, now);
    }

    /// Ends a quarantine before its lease does: for the command that began it the receipt is `released`.
    fn restore(&mut self, command: Uuid, by: Uuid, now: Moment) -> Result<(String, Value), String> {
        let act = quarantine_of(&self.in_force, command)?.clone();
        self.end(command, Outcome::Released, "Released by a later command", json!({ "by_command": by }), now);
        if self.in_force.iter().any(|other| other.id == command) {
            return Err("not all is undone; it is tried again".to_owned());
        }
        match act.prepared.deed().leftover(command) {
            Some(left) => Err(left),
            None => Ok(("The file is where it was".to_owned(), json!({ "command": command }))),
        }
    }
}

/// What took a file away.
///
/// # Errors
/// Nothing of that command did, or it is over.
pub(super) fn quarantine_of(in_force: &[InForce], command: Uuid) -> Result<&InForce, String> {
    let found = in_force.iter().find(|act| act.id == command);
    let found = found.filter(|act| matches!(act.prepared, Prepared::QuarantineFile(_)));
    found.ok_or_else(|| format!("no quarantine of command {command} is in force on this host"))
}
