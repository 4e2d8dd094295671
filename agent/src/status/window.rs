//! Planned work, as root declares it on the local socket: kept in a table that the file sensor reads, and recorded.

use std::path::Path;
use std::time::Duration;

use picket_protocol::finding::{Severity, printable};
use picket_protocol::record::{Draft, RecordError};
use picket_protocol::time::Timestamp;
use rusqlite::{OptionalExtension as _, params};
use serde_json::{Value, json};

use super::message::WindowAction;
use crate::config::format_duration;
use crate::detect::packages::window::{LENGTH_MAX, REASON_CHARS_MAX, Window};
use crate::ledger::{LedgerError, SealError, Sealer, StateWrite, read_connection};
use crate::respond::Person;
use crate::respond::receipt::lifecycle;

/// How long opening and closing may take.
const SEAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why nothing was opened or closed.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// Too long, or no time at all. Nothing is changed.
    #[error("a window is open for 1s to 7d")]
    Length,
    /// Empty or too long. Nothing is changed.
    #[error("a window needs a reason of 1 to {REASON_CHARS_MAX} characters")]
    Reason,
    /// Nothing is open.
    #[error("no window is open")]
    None,
    /// The table cannot be read.
    #[error("the agent's state cannot be read: {0}")]
    State(#[from] LedgerError),
    /// The same.
    #[error("the agent's state cannot be read: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The record cannot be made.
    #[error("it cannot be recorded: {0}")]
    Record(#[from] RecordError),
    /// It was not recorded, and may still be.
    #[error("it is not recorded: {0}")]
    Seal(#[from] SealError),
}

/// Does what is asked, and gives the window that there is then.
///
/// # Errors
/// See [`WindowError`].
pub fn handle(
    action: &WindowAction,
    person: &Person,
    sealer: &Sealer,
    database: &Path,
    now: Timestamp,
) -> Result<Value, WindowError> {
    let window = match action {
        WindowAction::Show {} => open_window(database, now)?,
        WindowAction::Open { seconds, reason } => Some(open(*seconds, reason, person, sealer, now)?),
        WindowAction::Close {} => {
            let window = open_window(database, now)?.ok_or(WindowError::None)?;
            close(window, person, sealer, now)?;
            None
        }
    };
    Ok(json!({ "window": window }))
}

fn open_window(database: &Path, now: Timestamp) -> Result<Option<Window>, WindowError> {
    let connection = read_connection(database)?;
    let sql = "SELECT opened, until, reason, opened_by FROM change_window";
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Window {
            opened: Timestamp::from_nanos(row.get(0)?),
            until: Timestamp::from_nanos(row.get(1)?),
            reason: row.get(2)?,
            by: row.get(3)?,
        })
    };
    let window = connection.query_row(sql, [], read).optional()?;
    Ok(window.filter(|window| window.is_open(now)))
}

fn open(
    seconds: u64,
    reason: &str,
    person: &Person,
    sealer: &Sealer,
    now: Timestamp,
) -> Result<Window, WindowError> {
    let length = Duration::from_secs(seconds);
    if length.is_zero() || length > LENGTH_MAX {
        return Err(WindowError::Length);
    }
    let reason = printable(reason.trim()).into_owned();
    if reason.is_empty() || reason.chars().count() > REASON_CHARS_MAX {
        return Err(WindowError::Reason);
    }
    let window = Window { opened: now, until: now.plus(length), reason, by: person.to_string() };
    let title = format!(
        "Planned work for {} declared by {person}: {}; file changes are recorded as explained by it",
        format_duration(length),
        window.reason
    );
    let detail = json!({ "by": person, "until": window.until, "seconds": seconds, "reason": window.reason });
    let draft = lifecycle(Severity::Medium, "window-opened", title, detail)?;
    seal(draft, put(window.clone()), sealer)?;
    Ok(window)
}

fn close(window: Window, person: &Person, sealer: &Sealer, now: Timestamp) -> Result<(), WindowError> {
    let title = format!("Planned work ended by {person}: {}", window.reason);
    let detail = json!({ "by": person, "opened": window.opened, "reason": window.reason });
    let draft = lifecycle(Severity::Low, "window-closed", title, detail)?;
    // What happened while it was open may be told later.
    seal(draft, put(Window { until: now, ..window }), sealer)
}

fn seal(draft: Draft, write: StateWrite, sealer: &Sealer) -> Result<(), WindowError> {
    Ok(sealer.seal_durably(vec![draft], vec![write], SEAL_TIMEOUT).map(|_| ())?)
}

fn put(window: Window) -> StateWrite {
    Box::new(move |transaction| {
        let sql = "INSERT OR REPLACE INTO change_window (one, opened, until, reason, opened_by) VALUES (1, ?1, ?2, ?3, ?4)";
        let row = params![window.opened.nanos(), window.until.nanos(), window.reason, window.by];
        transaction.execute(sql, row).map(|_| ())
    })
}
