//! wtmpdb's table: a row for each session, which gets its end when the session has it.
//!
//! ```text
//! wtmp(ID INTEGER PRIMARY KEY, Type INTEGER, User TEXT NOT NULL, Login INTEGER, Logout INTEGER, TTY TEXT,
//!      RemoteHost TEXT, Service TEXT) STRICT
//! ```
//!
//! Times are in microseconds; types are 1 for a boot, 2 for a run level, 3 for a session. Numbers grow, but begin anew when
//! all rows were moved away by `wtmpdb rotate`: the row that was read last is held against what it was.

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{LastLogin, ROUND_ROWS, Row, address, number, text};
use crate::sense::logins::database::snapshot::has_table;

/// The type of a session.
const USER_PROCESS: i64 = 3;
/// Sessions whose end is waited for; of more the oldest are given up.
const OPEN_MAX: usize = 512;
/// Rows before the end in which sessions are sought that last, and last logins: some months.
const HISTORY_ROWS: i64 = 65_536;
/// Accounts whose last login is taken from it.
const ACCOUNTS_MAX: usize = 16_384;

/// Where the sensor stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The number of the row that was read last.
    row: i64,
    /// When it began, in microseconds.
    login: i64,
    /// Sessions that began earlier are history; in microseconds.
    since: i64,
    /// Rows of sessions that last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    open: Vec<i64>,
}

impl Position {
    /// The number of the row that was read last.
    pub fn row(&self) -> i64 {
        self.row
    }
}

/// Behind the rows from before `since`, with the sessions that last.
pub fn end(connection: &Connection, since: Timestamp) -> rusqlite::Result<Position> {
    let mut position = Position { since: since.nanos() / 1_000, ..Position::default() };
    if !has_table(connection, "wtmp")? {
        return Ok(position);
    }
    let last = "SELECT ID, Login FROM wtmp WHERE Login < ?1 ORDER BY ID DESC LIMIT 1";
    let last = connection.query_row(last, [position.since], |row| Ok((number(row, 0)?, number(row, 1)?)));
    let last = last.optional()?;
    let Some((Some(row), login)) = last else { return Ok(position) };
    (position.row, position.login) = (row, login.unwrap_or_default());
    let open = "SELECT ID FROM wtmp WHERE ID > ?1 AND ID <= ?2 AND Type = ?3 AND Logout IS NULL
        ORDER BY ID DESC LIMIT ?4";
    let mut open = connection.prepare(open)?;
    let from = row.saturating_sub(HISTORY_ROWS);
    let open = open.query_map(params![from, row, USER_PROCESS, limit(OPEN_MAX)], |row| number(row, 0))?;
    position.open = open.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect();
    position.open.reverse();
    Ok(position)
}

/// What came behind `known`, and which sessions ended.
pub fn next(connection: &Connection, known: &Position) -> rusqlite::Result<(Vec<Row>, Position, bool)> {
    let mut position = known.clone();
    if !has_table(connection, "wtmp")? {
        return Ok((Vec::new(), position, false));
    }
    let anchor = "SELECT Login FROM wtmp WHERE ID = ?1";
    let anchor = connection.query_row(anchor, [known.row], |row| number(row, 0)).optional()?.flatten();
    let holds = known.row == 0 || anchor == Some(known.login);
    let columns = "SELECT ID, Type, User, Login, Logout, TTY, RemoteHost, Service FROM wtmp";
    let mut rows = Vec::new();
    // First what ended: of a row that is new by now, coming is told before going.
    let mut one = connection.prepare(&format!("{columns} WHERE ID = ?1"))?;
    let mut open = Vec::new();
    for id in std::mem::take(&mut position.open) {
        match one.query_row([id], read).optional()? {
            Some(Found { row: Some(row), logout: Some(time), .. }) => {
                rows.push(Row { time, ended: true, ..row });
            }
            Some(Found { logout: None, .. }) => open.push(id),
            // Moved away by a rotation, or no session any more.
            Some(_) | None => {}
        }
    }
    position.open = open;
    // Where the last row is another or gone, numbers may have begun anew: then what is later is new as well.
    let behind = if holds { "ID > ?1 AND ?2 = ?2" } else { "(ID > ?1 OR Login > ?2)" };
    let mut behind = connection.prepare(&format!("{columns} WHERE {behind} ORDER BY ID LIMIT ?3"))?;
    let found = behind.query_map(params![known.row, known.login, limit(ROUND_ROWS)], read)?;
    let mut count = 0;
    for found in found {
        let Found { id, login, logout, row } = found?;
        count += 1;
        (position.row, position.login) = (id, login);
        let Some(row) = row.filter(|_| login >= known.since) else { continue };
        match logout {
            Some(time) => rows.extend([row.clone(), Row { time, ended: true, ..row }]),
            None => {
                position.open.push(id);
                rows.push(row);
            }
        }
    }
    let surplus = position.open.len().saturating_sub(OPEN_MAX);
    position.open.drain(..surplus);
    Ok((rows, position, count >= ROUND_ROWS))
}

struct Found {
    id: i64,
    login: i64,
    logout: Option<Timestamp>,
    /// None for what is no session.
    row: Option<Row>,
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Found> {
    let id = number(row, 0)?.unwrap_or_default();
    let (kind, login) = (number(row, 1)?, number(row, 3)?);
    let time = |micros: i64| micros.checked_mul(1_000).map(Timestamp::from_nanos);
    let session = || -> rusqlite::Result<Option<Row>> {
        let (Some(user), Some(time)) = (text(row, 2)?, login.and_then(time)) else { return Ok(None) };
        let service = text(row, 7)?.map(|service| service.text).unwrap_or_default();
        Ok(Some(Row {
            number: id,
            user,
            service,
            tty: text(row, 5)?,
            host: text(row, 6)?,
            time,
            ended: false,
        }))
    };
    Ok(Found {
        id,
        login: login.unwrap_or_default(),
        logout: number(row, 4)?.and_then(time),
        row: if kind == Some(USER_PROCESS) { session()? } else { None },
    })
}

/// The last login of each account.
pub fn last_logins(connection: &Connection) -> rusqlite::Result<Vec<LastLogin>> {
    if !has_table(connection, "wtmp")? {
        return Ok(Vec::new());
    }
    // Of the columns beside a max() SQLite takes those of the row that has it.
    let query = "SELECT User, max(Login), RemoteHost
        FROM (SELECT * FROM wtmp ORDER BY ID DESC LIMIT ?1) WHERE Type = ?2 GROUP BY User LIMIT ?3";
    let mut query = connection.prepare(query)?;
    let of = |row: &rusqlite::Row<'_>| {
        let time = number(row, 1)?.and_then(|micros| micros.checked_mul(1_000)).map(Timestamp::from_nanos);
        let from = text(row, 2)?.and_then(|host: Text| address(&host.text));
        Ok(text(row, 0)?.zip(time).map(|(user, time)| LastLogin { user: user.text, time, from }))
    };
    let logins = query.query_map(params![HISTORY_ROWS, USER_PROCESS, limit(ACCOUNTS_MAX)], of)?;
    Ok(logins.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
