//! Login databases: `wtmp.db` of wtmpdb and `lastlog2.db` of lastlog2, to which distributions move from `wtmp` and
//! `lastlog`.
//!
//! Both are SQLite files that PAM modules write as root, a row for each session. They are read without any lock
//! ([`snapshot`]): the modules do not wait for one, and a login that is recorded at the moment of our reading must not go
//! unrecorded. So a file is read `SETTLE` after it changed, and again when it changed meanwhile.
//!
//! At the agent's first start reading begins at the end; what is older than that is history, also where a database is made
//! later and filled from old files. Each round takes [`ROUND_ROWS`] rows, and the position behind them is committed with
//! what they led to. A file that cannot be read is a degraded source with its reason, and is tried again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;
use rusqlite::Connection;

use super::event::{LoginEvent, LoginKind, Place, Reporter, Source};
use super::watch::{FileWatch, Watch};

mod lastlog2;
pub mod snapshot;
#[cfg(test)]
mod tests;
mod wtmpdb;

use snapshot::{Print, ReadError};

/// Rows that are taken at once.
pub const ROUND_ROWS: usize = 256;
/// A file is read so long after it changed: its writer is done by then, or will be seen to be at work.
const SETTLE: Duration = Duration::from_millis(200);
/// A file that was busy or damaged is tried again after this.
const RETRY: Duration = Duration::from_secs(2);
/// Whoever writes for longer than this does not, or died in the middle.
const BUSY: Duration = Duration::from_secs(60);

/// Where the sensor stands in a database.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatabasePosition {
    /// In one of wtmpdb.
    Wtmpdb(wtmpdb::Position),
    /// In one of lastlog2.
    Lastlog2(lastlog2::Position),
}

/// What a database is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `wtmp.db`.
    Wtmpdb,
    /// `lastlog2.db`.
    Lastlog2,
}

impl Form {
    /// Of the file at `path`; none for what is no database.
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        match (name.ends_with(".db"), name.starts_with("lastlog")) {
            (false, _) => None,
            (true, true) => Some(Self::Lastlog2),
            (true, false) => Some(Self::Wtmpdb),
        }
    }

    fn source(self) -> Source {
        match self {
            Self::Wtmpdb => Source::Wtmpdb,
            Self::Lastlog2 => Source::Lastlog,
        }
    }
}

/// A login or its end, as a row has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number.
    pub number: i64,
    /// The account.
    pub user: Text,
    /// PAM's name of the service.
    pub service: String,
    /// The terminal.
    pub tty: Option<Text>,
    /// The peer's name or address.
    pub host: Option<Text>,
    /// When.
    pub time: Timestamp,
    /// Somebody went rather than came.
    pub ended: bool,
}

/// One login database.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    form: Form,
    scratch: PathBuf,
    position: Option<DatabasePosition>,
    /// When somebody began to look: what is older is history.
    since: Timestamp,
    /// What it was when it was looked at last.
    seen: Option<Print>,
    due: Option<Timestamp>,
    busy: Option<Timestamp>,
    watch: Option<FileWatch>,
    /// Why it cannot be read.
    pub trouble: Option<String>,
    /// Rows that were read.
    pub rows: u64,
    /// When something was read last.
    pub last_read: Option<Timestamp>,
}

impl Database {
    /// The database at `path`, taken up at `known`; without that at its end. Copies are made in `scratch`.
    pub fn new(
        path: &Path,
        form: Form,
        scratch: &Path,
        known: Option<DatabasePosition>,
        now: Timestamp,
    ) -> Self {
        let fits = |known: &DatabasePosition| {
            matches!(
                (known, form),
                (DatabasePosition::Wtmpdb(_), Form::Wtmpdb) | (DatabasePosition::Lastlog2(_), Form::Lastlog2)
            )
        };
        Self {
            path: path.to_owned(),
            form,
            scratch: scratch.to_owned(),
            position: known.filter(fits),
            since: now,
            seen: None,
            due: None,
            busy: None,
            watch: None,
            trouble: None,
            rows: 0,
            last_read: None,
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which it is.
    pub fn source(&self) -> Source {
        self.form.source()
    }

    /// Whether the file exists.
    pub fn exists(&self) -> bool {
        self.seen.is_some()
    }

    /// Where it stands; none until the file could be looked at.
    pub fn position(&self) -> Option<&DatabasePosition> {
        self.position.as_ref()
    }

    /// The position in words.
    pub fn place(&self) -> String {
        match &self.position {
            None => String::new(),
            Some(DatabasePosition::Wtmpdb(position)) => format!("row {}", position.row()),
            Some(DatabasePosition::Lastlog2(position)) => {
                format!("login at {}", Timestamp::from_seconds(position.newest()))
            }
        }
    }

    /// How long until [`Database::read`] has something to do.
    pub fn due_in(&self, now: Timestamp) -> Option<Duration> {
        self.due.map(|due| due.since(now).min(RETRY))
    }

    /// Sets watches on the file and its directory, and sees whether it changed. Fails when inotify refuses; looking by the
    /// clock goes on.
    pub fn look(&mut self, watch: &Watch, now: Timestamp) -> std::io::Result<()> {
        let watched = watch.directory_of(&self.path);
        let print = Print::of(&self.path).ok().flatten();
        let same_file = |one: &Print, other: &Print| one.identity() == other.identity();
        let other =
            print.as_ref().zip(self.seen.as_ref()).is_none_or(|(print, seen)| !same_file(print, seen));
        if other && let Some(old) = self.watch.take() {
            watch.end(old);
        }
        let mut watched = watched;
        if self.watch.is_none() && print.is_some() && watched.is_ok() {
            match snapshot::open_plain(&self.path).and_then(|file| watch.file(&file)) {
                Ok(set) => self.watch = Some(set),
                Err(error) => watched = Err(error),
            }
        }
        let changed = print.is_some() && print != self.seen;
        // While it is written to without a pause it is read all the same.
        if changed && self.due.is_none() {
            self.due = Some(now.plus(SETTLE));
        }
        if print.is_none() {
            (self.due, self.busy, self.trouble) = (None, None, None);
        }
        self.seen = print;
        // A clock that was set back must not make it wait.
        self.due = self.due.map(|due| due.min(now.plus(RETRY)));
        watched
    }

    /// Reads a round, when that is due: what was found, and whether there may be more. None when there was nothing to do
    /// or it could not be done.
    pub fn read(&mut self, now: Timestamp) -> Option<(Vec<Row>, bool)> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        let (form, position, since) = (self.form, self.position.clone(), self.since);
        let answer = snapshot::view(&self.path, &self.scratch, |connection| {
            round(connection, form, position.as_ref(), since)
        });
        match answer {
            Ok((round, print)) => {
                (self.busy, self.trouble) = (None, None);
                self.position = Some(round.position);
                self.rows += u64::try_from(round.rows.len()).unwrap_or(0);
                if !round.rows.is_empty() {
                    self.last_read = Some(now);
                }
                if !round.more {
                    self.due = (Some(&print) != self.seen.as_ref()).then(|| now.plus(SETTLE));
                }
                Some((round.rows, round.more))
            }
            Err(error) => {
                self.failed(error, now);
                None
            }
        }
    }

    fn failed(&mut self, error: ReadError, now: Timestamp) {
        self.due = Some(now.plus(RETRY));
        match error {
            ReadError::Absent => self.due = None,
            ReadError::Busy => {
                self.due = Some(now.plus(SETTLE));
                let since = *self.busy.get_or_insert(now);
                self.trouble = (now.since(since) >= BUSY).then(|| {
                    format!("it is being written to since {since}, or its writer died in the middle; it is tried again")
                });
            }
            ReadError::Damaged(why) => {
                self.busy = None;
                self.trouble =
                    Some(format!("it cannot be read as a login database: {why}; it is tried again"));
            }
        }
    }

    /// What a row tells; none of services that are no way in, such as cron and sudo.
    pub fn event(&self, row: &Row) -> Option<LoginEvent> {
        let service = way_in(&row.service)?;
        let kind = if row.ended { LoginKind::Logout } else { LoginKind::Success };
        let place = Place::Row { path: self.path.as_path().into(), row: row.number };
        let told =
            LoginEvent::bare(kind, service.into(), Reporter::Record, self.form.source(), row.time, place);
        Some(LoginEvent {
            user: Some(row.user.clone()),
            tty: row.tty.clone().filter(|tty| tty.text != "ssh"),
            address: row.host.as_ref().and_then(|host| address(&host.text)),
            ..told
        })
    }
}

/// What a round gives.
struct Round {
    rows: Vec<Row>,
    position: DatabasePosition,
    more: bool,
}

fn round(
    connection: &Connection,
    form: Form,
    known: Option<&DatabasePosition>,
    since: Timestamp,
) -> rusqlite::Result<Round> {
    match (form, known) {
        (Form::Wtmpdb, Some(DatabasePosition::Wtmpdb(known))) => {
            let (rows, position, more) = wtmpdb::next(connection, known)?;
            Ok(Round { rows, position: DatabasePosition::Wtmpdb(position), more })
        }
        (Form::Lastlog2, Some(DatabasePosition::Lastlog2(known))) => {
            let (rows, position, more) = lastlog2::next(connection, known)?;
            Ok(Round { rows, position: DatabasePosition::Lastlog2(position), more })
        }
        (Form::Wtmpdb, _) => {
            let position = DatabasePosition::Wtmpdb(wtmpdb::end(connection, since)?);
            Ok(Round { rows: Vec::new(), position, more: true })
        }
        (Form::Lastlog2, _) => {
            let position = DatabasePosition::Lastlog2(lastlog2::end(since));
            Ok(Round { rows: Vec::new(), position, more: true })
        }
    }
}

/// The last logins that a database knows, by account; from where, when that is an address.
pub fn last_logins(path: &Path, scratch: &Path) -> Result<Vec<LastLogin>, ReadError> {
    let read = |connection: &Connection| match Form::of(path) {
        Some(Form::Wtmpdb) => wtmpdb::last_logins(connection),
        Some(Form::Lastlog2) => lastlog2::last_logins(connection),
        None => Ok(Vec::new()),
    };
    snapshot::view(path, scratch, read).map(|(logins, _print)| logins)
}

/// When an account logged in last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastLogin {
    /// The account.
    pub user: String,
    /// When.
    pub time: Timestamp,
    /// From where.
    pub from: Option<std::net::IpAddr>,
}

/// The service, by PAM's name for it, as the other sources call it. None of those that are no way in.
fn way_in(service: &str) -> Option<&'static str> {
    let known = ["sshd", "login", "dropbear", "vsftpd", "proftpd", "cockpit"];
    match service {
        "remote" => Some("login"),
        _ if ["gdm", "lightdm", "sddm", "xrdp", "kde"].iter().any(|desktop| service.starts_with(desktop)) => {
            Some("desktop")
        }
        _ => known.into_iter().find(|known| *known == service),
    }
}

fn address(host: &str) -> Option<std::net::IpAddr> {
    let host = host.split_once('%').map_or(host, |(address, _zone)| address);
    host.parse::<std::net::IpAddr>().ok().map(|address| address.to_canonical())
}

/// A column's text, cut; none when it has no bytes or is a number.
fn text(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<Text>> {
    use rusqlite::types::ValueRef;
    let bytes = match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        _ => return Ok(None),
    };
    let cut = bytes.get(..bytes.len().min(super::event::NAME_BYTES_MAX)).unwrap_or_default();
    Ok((!cut.is_empty()).then(|| Text::from_bytes(cut)))
}

/// A column's number; none for anything else.
fn number(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<i64>> {
    use rusqlite::types::ValueRef;
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(number) => Some(number),
        _ => None,
    })
}
