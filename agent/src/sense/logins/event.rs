//! What the login sensor observes: one [`LoginEvent`] a line that says something about a login or a change
//! of privilege.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;

use super::parse::Parsed;

/// Longest name that is kept of a line.
pub const NAME_BYTES_MAX: usize = 256;
/// Longest command, reason or raw message that is kept of a line.
pub const TEXT_BYTES_MAX: usize = 2 * 1024;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum LoginKind {
    /// Somebody got in.
    #[serde(rename = "login.success")]
    Success,
    /// Somebody with an existing account's name did not.
    #[serde(rename = "login.failure")]
    Failure,
    /// Somebody tried a name that has no account or may not log in.
    #[serde(rename = "login.invalid-user")]
    InvalidUser,
    /// A connection that ended before anybody authenticated.
    #[serde(rename = "login.probe")]
    Probe,
    /// `su` or `sudo` did what was asked.
    #[serde(rename = "privilege.success")]
    PrivilegeSuccess,
    /// `su` or `sudo` refused.
    #[serde(rename = "privilege.failure")]
    PrivilegeFailure,
    /// A session that had begun with a login ended.
    #[serde(rename = "login.logout")]
    Logout,
    /// An account or group was made.
    #[serde(rename = "account.created")]
    AccountCreated,
    /// An account or group was removed.
    #[serde(rename = "account.removed")]
    AccountRemoved,
    /// Password, expiry, shell, name or groups of an account changed.
    #[serde(rename = "account.changed")]
    AccountChanged,
    /// An account was locked or unlocked.
    #[serde(rename = "account.locked")]
    AccountLocked,
    /// A request to a web server that its log tells of, with what was asked for in [`LoginEvent::request`].
    #[serde(rename = "web.request")]
    WebRequest,
}

impl LoginKind {
    /// The dotted name, which is also the rule of the finding that every event leads to.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "login.success",
            Self::Failure => "login.failure",
            Self::InvalidUser => "login.invalid-user",
            Self::Probe => "login.probe",
            Self::PrivilegeSuccess => "privilege.success",
            Self::PrivilegeFailure => "privilege.failure",
            Self::Logout => "login.logout",
            Self::AccountCreated => "account.created",
            Self::AccountRemoved => "account.removed",
            Self::AccountChanged => "account.changed",
            Self::AccountLocked => "account.locked",
            Self::WebRequest => "web.request",
        }
    }

    /// Whether it is about an account rather than about somebody who came.
    pub fn is_account_change(self) -> bool {
        matches!(
            self,
            Self::AccountCreated | Self::AccountRemoved | Self::AccountChanged | Self::AccountLocked
        )
    }
}

/// Who says so. One attempt is often reported by several in lines of their own; detectors count it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reporter {
    /// The service, by the line that it writes for each attempt.
    Service,
    /// The service, by a line beside or instead of that one (`Invalid user …`, `not allowed because …`).
    Notice,
    /// The `pam_unix` module inside the service.
    Pam,
    /// The kernel's audit, to which the service's PAM told it.
    Audit,
    /// A record of the utmp family (`btmp`, `wtmp`, `lastlog`, wtmpdb).
    Record,
}

/// The kind of source that a line came from, which decides how far it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// journald: the sender was checked by fields that the kernel vouches for.
    Journal,
    /// A text log: any local user can write such lines (`logger -t sshd`).
    Log,
    /// The kernel's audit: only who has `CAP_AUDIT_WRITE` can send such a message.
    Audit,
    /// A record of the utmp family: only root and group utmp write them.
    Record,
    /// A row of wtmpdb: only root writes them.
    Wtmpdb,
    /// A row of lastlog2: only root writes them.
    Lastlog,
}

impl Source {
    /// Whether it keeps who came and went rather than what was said: it knows no method, no port and no process that
    /// can be trusted.
    pub fn keeps_records(self) -> bool {
        matches!(self, Self::Record | Self::Wtmpdb | Self::Lastlog)
    }
}

/// Where the line is, so that it can be found again. To copy it costs little.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum Place {
    /// In a text log.
    Log {
        /// The log's path as configured; the file may have been renamed since.
        #[serde(with = "shared_path")]
        path: Arc<Path>,
        /// Inode of the file.
        inode: u64,
        /// Where the line begins in it.
        offset: u64,
    },
    /// In the journal.
    Journal {
        /// For `journalctl --cursor`.
        #[serde(with = "shared_text")]
        cursor: Arc<str>,
    },
    /// A message of the kernel's audit, as in `audit(1700000000.123:456)`.
    Audit {
        /// The event's serial number.
        serial: u64,
    },
    /// A row of a login database.
    Row {
        /// The database.
        #[serde(with = "shared_path")]
        path: Arc<Path>,
        /// The row's number in it.
        row: i64,
    },
    /// A line of a recorded log that is replayed.
    Line {
        /// Counted from 1.
        line: u64,
    },
}

/// Numbers first: paths are compared part by part, which takes longer than all else.
impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Log { path, inode, offset },
                Self::Log { path: its_path, inode: its_inode, offset: its_offset },
            ) => (offset, inode) == (its_offset, its_inode) && path == its_path,
            (Self::Journal { cursor }, Self::Journal { cursor: its }) => cursor == its,
            (Self::Audit { serial }, Self::Audit { serial: its }) => serial == its,
            (Self::Row { path, row }, Self::Row { path: its_path, row: its }) => {
                row == its && path == its_path
            }
            (Self::Line { line }, Self::Line { line: its }) => line == its,
            _ => false,
        }
    }
}

impl Eq for Place {}

mod shared_path {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(path: &Arc<Path>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_ref().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Path>, D::Error> {
        PathBuf::deserialize(deserializer).map(Arc::from)
    }
}

mod shared_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Arc::from)
    }
}

/// The sender of a journal entry, by its trusted fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sender {
    /// `_UID`: the real user id of the process that wrote the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// `_PID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// `_EXE`; missing when the process was gone before journald looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<Text>,
    /// `_SYSTEMD_UNIT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<Text>,
}

/// One observation.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LoginEvent {
    /// What happened.
    pub event: LoginKind,
    /// `sshd`, `su`, `sudo`.
    pub service: Cow<'static, str>,
    /// Who reports it.
    pub reporter: Reporter,
    /// When, by the source's clock.
    pub time: Timestamp,
    /// Who tried, as the service wrote the name. For su and sudo: who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Text>,
    /// The peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The peer's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `password`, `publickey`, `keyboard-interactive/pam` …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Text>,
    /// Type and fingerprint of the key that was offered: `ED25519 SHA256:…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Text>,
    /// The terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<Text>,
    /// Whose rights were asked for (su and sudo).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Text>,
    /// What sudo ran or would have run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Text>,
    /// Why not, in the service's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text>,
    /// What a web server was asked for: method and target as the log has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Text>,
    /// What a web server answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The audit session (`ses`) that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u32>,
    /// The user who logged in, whoever he became since (audit's `auid`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
    /// How many attempts this line stands for: `3 incorrect password attempts`, `message repeated 5 times`.
    pub repeats: u32,
    /// The line can be read in more than one way, because a name or command in it looks like the rest of
    /// such a line; what would be a guess was left out, and [`LoginEvent::raw`] has the text.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ambiguous: bool,
    /// Process id as written in the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The message, kept when it is ambiguous.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<Text>,
    /// The kind of source.
    pub source: Source,
    /// All sources that told of it, the first one first; empty while there is only one source at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
    /// Where the line is.
    pub place: Place,
    /// Who wrote it, where the source can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<Sender>,
}

/// Where a message came from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// When, by the source's clock.
    pub time: Timestamp,
    /// Process id as written in the line.
    pub pid: Option<u32>,
    /// The kind of source.
    pub source: Source,
    /// Where the line is.
    pub place: Place,
    /// Who wrote it.
    pub sender: Option<Sender>,
}

impl LoginEvent {
    /// What `parsed` says of `message`, which came from `origin`.
    pub fn new(parsed: &Parsed<'_>, message: &[u8], origin: Origin) -> Self {
        Self {
            event: parsed.kind,
            service: service(parsed.service),
            reporter: parsed.reporter,
            time: origin.time,
            user: parsed.user.map(|user| cut(user, NAME_BYTES_MAX)),
            address: parsed.address,
            port: parsed.port,
            method: parsed.method.map(|method| cut(method, NAME_BYTES_MAX)),
            key: parsed.key.map(|key| cut(key, NAME_BYTES_MAX)),
            tty: parsed.tty.map(|tty| cut(tty, NAME_BYTES_MAX)),
            target: parsed.target.map(|target| cut(target, NAME_BYTES_MAX)),
            command: parsed.command.map(|command| cut(command, TEXT_BYTES_MAX)),
            reason: parsed.reason.map(|reason| cut(reason, TEXT_BYTES_MAX)),
            request: parsed.request.map(|request| cut(request, TEXT_BYTES_MAX)),
            status: parsed.status,
            session: None,
            login_uid: None,
            repeats: parsed.repeats,
            ambiguous: parsed.ambiguous,
            pid: origin.pid.or(parsed.pid),
            raw: parsed.ambiguous.then(|| cut(message, TEXT_BYTES_MAX)),
            source: origin.source,
            sources: Vec::new(),
            place: origin.place,
            sender: origin.sender,
        }
    }
}

/// The frequent names cost no allocation.
fn service(name: &str) -> Cow<'static, str> {
    match ["sshd", "sudo", "su"].into_iter().find(|known| *known == name) {
        Some(known) => Cow::Borrowed(known),
        None => Cow::Owned(name.to_owned()),
    }
}

impl LoginEvent {
    /// An event of which no more is known yet.
    pub fn bare(
        event: LoginKind,
        service: Cow<'static, str>,
        reporter: Reporter,
        source: Source,
        time: Timestamp,
        place: Place,
    ) -> Self {
        Self {
            event,
            service,
            reporter,
            time,
            user: None,
            address: None,
            port: None,
            method: None,
            key: None,
            tty: None,
            target: None,
            command: None,
            reason: None,
            request: None,
            status: None,
            session: None,
            login_uid: None,
            repeats: 1,
            ambiguous: false,
            pid: None,
            raw: None,
            source,
            sources: Vec::new(),
            place,
            sender: None,
        }
    }
}

fn cut(bytes: &[u8], max: usize) -> Text {
    Text::from_bytes(bytes.get(..bytes.len().min(max)).unwrap_or_default())
}
