//! `soc pending`: commands of which something is still to come.

use super::Session;
use super::args::PendingArguments;
use super::error::SocError;
use super::period::show_period;
use super::receipts::posted;
use super::screen::{Cell, Column, Paint};
use crate::api::types::CommandSummary;
use picket_protocol::time::Timestamp;

const COLUMNS: [Column; 8] = [
    Column { head: "AGE", width_max: 8 },
    Column { head: "ACTION", width_max: 13 },
    Column { head: "TENANT", width_max: 16 },
    Column { head: "SETTLED", width_max: 14 },
    Column { head: "LEFT", width_max: 8 },
    Column { head: "TICKET", width_max: 16 },
    Column { head: "ID", width_max: 36 },
    Column { head: "MISSING", width_max: 400 },
];

/// `soc pending`.
pub(super) async fn list(session: &mut Session, arguments: PendingArguments) -> Result<u8, SocError> {
    let (_, client) = session.connect()?;
    let filters = [("tenant", arguments.tenant), ("open", Some("true".to_owned()))];
    let commands = posted(&client, &filters, arguments.limit).await?;
    if session.json {
        commands.iter().try_for_each(|command| session.screen.json_line(command))?;
    } else if commands.is_empty() {
        session
            .screen
            .line("Nothing is pending: every host has said its last word, or can say none any more.")?;
    } else {
        let rows: Vec<_> = commands.iter().map(|command| row(command, session.now)).collect();
        session.screen.table(&COLUMNS, &rows)?;
    }
    Ok(0)
}

fn row(command: &CommandSummary, now: Timestamp) -> Vec<Cell> {
    let left = command.expires.since(now);
    let left =
        if left.is_zero() { Cell::new("over").paint(Paint::Red) } else { Cell::new(show_period(left)) };
    vec![
        Cell::new(show_period(now.since(command.posted))),
        Cell::new(&command.action),
        Cell::new(command.tenant.as_str()),
        Cell::new(format!("{} of {}", command.settled, command.hosts)),
        left,
        Cell::new(&command.ticket),
        Cell::new(command.id.to_string()),
        Cell::new(missing(command, now)).paint(Paint::Yellow),
    ]
}

/// What its hosts have not done, in the order in which a command goes its way.
fn missing(command: &CommandSummary, now: Timestamp) -> String {
    let queued = command.hosts.saturating_sub(command.answered).saturating_sub(command.in_flight);
    let interim = command.answered.saturating_sub(command.settled);
    let parts = if command.expires > now {
        vec![
            (queued, "not connected since"),
            (command.in_flight, "sent, no answer"),
            (interim, "at it, not confirmed"),
        ]
    } else {
        vec![
            (queued.saturating_add(command.in_flight), "expired unanswered"),
            (interim, "at it, not confirmed"),
        ]
    };
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    parts.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_host_by_host() {
        let mut command = CommandSummary {
            id: uuid::Uuid::now_v7(),
            tenant: picket_protocol::identity::Tenant::parse("acme").unwrap(),
            action: "isolate".to_owned(),
            reason: String::new(),
            ticket: String::new(),
            issued: Timestamp::default(),
            not_before: Timestamp::default(),
            expires: Timestamp::from_seconds(60),
            posted: Timestamp::default(),
            posted_by: String::new(),
            hosts: 10,
            answered: 5,
            settled: 3,
            in_flight: 1,
        };
        let before = missing(&command, Timestamp::from_seconds(59));
        assert_eq!(before, "4 not connected since, 1 sent, no answer, 2 at it, not confirmed");
        let after = missing(&command, Timestamp::from_seconds(60));
        assert_eq!(after, "5 expired unanswered, 2 at it, not confirmed");
        command.answered = 10;
        command.settled = 9;
        command.in_flight = 0;
        assert_eq!(missing(&command, Timestamp::default()), "1 at it, not confirmed");
    }
}
