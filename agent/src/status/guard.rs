//! The guard, as root switches it on the local socket: done at once, and recorded.

use std::time::Duration;

use picket_protocol::finding::Severity;
use serde_json::{Value, json};

use super::message::GuardAction;
use crate::guard::{Guard, GuardReport, GuardState};
use crate::ledger::Sealer;
use crate::respond::Person;
use crate::respond::receipt::lifecycle;

/// How long the record may take.
const SEAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Does what is asked, and says how the guard stands then. Switching off never waits for the record: a full disk holds nobody up.
///
/// # Errors
/// That it was switched on and that could not be recorded; that the guard is not wanted, or does not come on.
pub(super) fn handle(
    action: GuardAction,
    person: &Person,
    guard: &Guard,
    sealer: &Sealer,
) -> Result<GuardReport, String> {
    match action {
        GuardAction::Show => {}
        GuardAction::Off => {
            if guard.switch_off(&person.to_string()) {
                let title = format!("The guard was switched off by {person}");
                // Scripts of packages ask whether it is off, and go by that.
                if let Err(error) =
                    record(Severity::High, "guard-off", title, json!({ "by": person }), sealer)
                {
                    tracing::error!(error, "the guard is off, and that is not recorded");
                }
            }
        }
        GuardAction::On => switch_on(person, guard, sealer)?,
    }
    Ok(guard.report())
}

fn switch_on(person: &Person, guard: &Guard, sealer: &Sealer) -> Result<(), String> {
    let before = guard.report().state;
    guard.switch_on();
    let report = guard.report();
    match report.state {
        GuardState::Disabled => Err(
            "the configuration does not want the guard: set guard.enabled = true, and start the agent anew"
                .to_owned(),
        ),
        GuardState::Off | GuardState::Refused => Err(report.complaint().unwrap_or_default()),
        GuardState::On if before == GuardState::On => Ok(()),
        GuardState::On => {
            let title = format!("The guard was switched on by {person}");
            record(Severity::Info, "guard-on", title, json!({ "by": person }), sealer)
                .map_err(|error| format!("the guard is on, and that is not recorded: {error}"))
        }
    }
}

fn record(
    severity: Severity,
    event: &str,
    title: String,
    detail: Value,
    sealer: &Sealer,
) -> Result<(), String> {
    let draft = lifecycle(severity, event, title, detail).map_err(|error| error.to_string())?;
    sealer.seal_durably(vec![draft], Vec::new(), SEAL_TIMEOUT).map(drop).map_err(|error| error.to_string())
}
