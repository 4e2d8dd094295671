//! lastlog2's table: of each account the last login, which the next one replaces.
//!
//! ```text
//! Lastlog2(Name TEXT PRIMARY KEY, Time INTEGER, TTY TEXT, RemoteHost TEXT, Service TEXT)
//! ```
//!
//! Times are in seconds. Logins of one account that come faster than the file is looked at are seen as one.

use std::collections::BTreeSet;

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;
use rusqlite::{Connection, params};

use super::{LastLogin, ROUND_ROWS, Row, address, number, text};
use crate::sense::logins::database::snapshot::has_table;

/// Accounts whose last login is taken from it.
const ACCOUNTS_MAX: usize = 16_384;
/// Accounts of one second that are told apart.
const TOLD_MAX: usize = 1_024;

/// Where the sensor stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The latest login that was read, in seconds.
    newest: i64,
    /// Who logged in at that second.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    told: BTreeSet<String>,
}

impl Position {
    /// The latest login that was read, in seconds.
    pub fn newest(&self) -> i64 {
        self.newest
    }
}

/// Logins before `since` are history.
pub fn end(since: Timestamp) -> Position {
    Position { newest: since.seconds(), told: BTreeSet::new() }
}

/// Logins behind `known`.
pub fn next(connection: &Connection, known: &Position) -> rusqlite::Result<(Vec<Row>, Position, bool)> {
    let mut position = known.clone();
    if !has_table(connection, "Lastlog2")? {
        return Ok((Vec::new(), position, false));
    }
    let query = "SELECT rowid, Name, Time, TTY, RemoteHost, Service FROM Lastlog2
        WHERE Time >= ?1 ORDER BY Time, Name LIMIT ?2";
    let mut query = connection.prepare(query)?;
    let rows = ROUND_ROWS + known.told.len();
    let found = query.query_map(params![known.newest, limit(rows)], read)?;
    let (mut count, mut logins) = (0, Vec::new());
    for found in found {
        count += 1;
        let Some((seconds, row)) = found? else { continue };
        if seconds > position.newest {
            position.told.clear();
            position.newest = seconds;
        }
        if position.told.len() < TOLD_MAX && position.told.insert(row.user.text.clone()) {
            logins.push(row);
        }
    }
    let more = count >= rows && position != *known;
    Ok((logins, position, more))
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<(i64, Row)>> {
    let (Some(user), Some(seconds)) = (text(row, 1)?, number(row, 2)?) else { return Ok(None) };
    let Some(time) = seconds.checked_mul(1_000_000_000).map(Timestamp::from_nanos) else { return Ok(None) };
    let service = text(row, 5)?.map(|service| service.text).unwrap_or_default();
    let (tty, host) = (text(row, 3)?, text(row, 4)?);
    let number = number(row, 0)?.unwrap_or_default();
    Ok(Some((seconds, Row { number, user, service, tty, host, time, ended: false })))
}

/// The last login of each account.
pub fn last_logins(connection: &Connection) -> rusqlite::Result<Vec<LastLogin>> {
    if !has_table(connection, "Lastlog2")? {
        return Ok(Vec::new());
    }
    let mut query =
        connection.prepare("SELECT Name, Time, RemoteHost FROM Lastlog2 WHERE Time > 0 LIMIT ?1")?;
    let of = |row: &rusqlite::Row<'_>| {
        let time =
            number(row, 1)?.and_then(|seconds| seconds.checked_mul(1_000_000_000)).map(Timestamp::from_nanos);
        let from = text(row, 2)?.and_then(|host: Text| address(&host.text));
        Ok(text(row, 0)?.zip(time).map(|(user, time)| LastLogin { user: user.text, time, from }))
    };
    let logins = query.query_map([limit(ACCOUNTS_MAX)], of)?;
    Ok(logins.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
