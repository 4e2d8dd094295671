//! What a message of audit means for logins.
//!
//! Several messages tell of one login. Each act is taken from the one that PAM sends for it: a failed attempt from
//! `USER_AUTH`, a login from `USER_START`, its end from `USER_END`. `USER_LOGIN` repeats the failures later, once for
//! every method that a client asks about, and exists for a success only with a terminal: it is left out.

use std::borrow::Cow;
use std::net::IpAddr;

use picket_protocol::finding::Text;

use super::message::Message;
use crate::sense::logins::event::{
    LoginEvent, LoginKind, NAME_BYTES_MAX, Place, Reporter, Sender, Source, TEXT_BYTES_MAX,
};

const USER_AUTH: u16 = 1_100;
const USER_CHAUTHTOK: u16 = 1_108;
const USER_START: u16 = 1_105;
const USER_END: u16 = 1_106;
const ADD_USER: u16 = 1_114;
const DEL_USER: u16 = 1_115;
const ADD_GROUP: u16 = 1_116;
const DEL_GROUP: u16 = 1_117;
const USER_CMD: u16 = 1_123;
const USER_MGMT: u16 = 1_102;
const GRP_MGMT: u16 = 1_132;
const GRP_CHAUTHTOK: u16 = 1_133;
const ACCT_LOCK: u16 = 1_134;
const ACCT_UNLOCK: u16 = 1_135;
const LOGIN: u16 = 1_006;
const CONFIG_CHANGE: u16 = 1_305;

/// The types that are let through to us.
pub const TYPES: [u16; 16] = [
    USER_AUTH,
    USER_CHAUTHTOK,
    USER_START,
    USER_END,
    ADD_USER,
    DEL_USER,
    ADD_GROUP,
    DEL_GROUP,
    USER_CMD,
    USER_MGMT,
    GRP_MGMT,
    GRP_CHAUTHTOK,
    ACCT_LOCK,
    ACCT_UNLOCK,
    LOGIN,
    CONFIG_CHANGE,
];

/// Programs that change accounts.
const ACCOUNT_TOOLS: [&str; 14] = [
    "useradd", "userdel", "usermod", "groupadd", "groupdel", "groupmod", "gpasswd", "chage", "passwd",
    "chpasswd", "newusers", "chsh", "chfn", "vipw",
];

/// What was heard.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// Something about a login, a privilege or an account.
    Event(Box<LoginEvent>),
    /// The kernel gave a process a login session.
    Began {
        /// The process.
        pid: u32,
        /// Who logged in.
        login_uid: u32,
        /// The session.
        session: u32,
    },
    /// Somebody changed audit's configuration: it may be off now.
    Configured,
}

/// What `message` of the type `kind` means; none when nothing.
pub fn meaning(kind: u16, message: &Message<'_>) -> Option<Heard> {
    match kind {
        CONFIG_CHANGE => Some(Heard::Configured),
        LOGIN => Some(Heard::Began {
            pid: message.number("pid")?,
            login_uid: message.number("auid")?,
            session: message.number("ses")?,
        }),
        _ => event(kind, message).map(|event| Heard::Event(Box::new(event))),
    }
}

fn event(kind: u16, message: &Message<'_>) -> Option<LoginEvent> {
    let succeeded = match message.last_word("res")? {
        b"success" | b"1" | b"yes" => true,
        b"failed" | b"0" | b"no" => false,
        _ => return None,
    };
    let executable = message.name("exe")?;
    let program = executable.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let act = Act { kind, succeeded, operation: message.operation(), service: service(program) };
    let event = act.login_kind()?;
    let mut found = blank(event, act.service, message);
    let named =
        message.name("acct").filter(|name| **name != b"(unknown)"[..] && **name != b"(invalid user)"[..]);
    let account = named.map(|name| text(&name, NAME_BYTES_MAX));
    // Numbers of groups must not be taken for users'.
    let what = if matches!(kind, ADD_GROUP | DEL_GROUP) { "group #" } else { "#" };
    let numbered =
        || message.sender_number("id").map(|id| Text::from_bytes(format!("{what}{id}").as_bytes()));
    match event {
        LoginKind::PrivilegeSuccess | LoginKind::PrivilegeFailure => {
            found.command = message.name("cmd").map(|command| text(&command, TEXT_BYTES_MAX));
            // Of su and sudo the account is the one asked for; who asks is the user id that the kernel tells.
            let asked_for = kind == USER_START || found.service == "su";
            found.target = account.filter(|_| asked_for);
            found.user = message.number("uid").map(|uid| Text::from_bytes(format!("#{uid}").as_bytes()));
        }
        LoginKind::AccountCreated
        | LoginKind::AccountRemoved
        | LoginKind::AccountChanged
        | LoginKind::AccountLocked => {
            found.user = account.or_else(numbered);
            found.reason = Some(text(act.operation, TEXT_BYTES_MAX)).filter(|words| !words.text.is_empty());
        }
        _ => found.user = account,
    }
    // After the failed passwords, which were told one by one, or instead of them; and sudo tells the command in a message
    // of its own, before this one.
    let beside = (kind, succeeded) == (USER_CMD, false) || (kind == USER_START && found.service == "sudo");
    if beside {
        found.reporter = Reporter::Notice;
    }
    found.address = message.last_word("addr").and_then(address);
    found.tty = message.last_word("terminal").map(|tty| text(tty, NAME_BYTES_MAX));
    found.sender = Some(Sender {
        uid: message.number("uid"),
        pid: message.number("pid"),
        executable: Some(text(&executable, TEXT_BYTES_MAX)),
        unit: None,
    });
    Some(found)
}

/// The outline of a message.
struct Act<'a> {
    kind: u16,
    succeeded: bool,
    operation: &'a [u8],
    service: &'static str,
}

impl Act<'_> {
    fn login_kind(&self) -> Option<LoginKind> {
        let raises = matches!(self.service, "su" | "sudo" | "pkexec" | "polkit");
        let logs_in = !raises && !is_account_tool(self.service) && self.service != "ignored";
        match (self.kind, self.succeeded) {
            // Without PAM's name in it the message is about one method of several, such as a key that was offered.
            (USER_AUTH, false) if self.operation == b"PAM:authentication" && logs_in => {
                Some(LoginKind::Failure)
            }
            (USER_AUTH, false) if self.operation == b"PAM:authentication" && raises => {
                Some(LoginKind::PrivilegeFailure)
            }
            (USER_START, true) if logs_in => Some(LoginKind::Success),
            (USER_END, _) if logs_in => Some(LoginKind::Logout),
            (USER_START, true) if raises => Some(LoginKind::PrivilegeSuccess),
            (USER_CMD, true) => Some(LoginKind::PrivilegeSuccess),
            (USER_CMD, false) => Some(LoginKind::PrivilegeFailure),
            (ADD_USER | ADD_GROUP, true) if !self.is_part() => Some(LoginKind::AccountCreated),
            (DEL_USER | DEL_GROUP, true) if !self.is_part() => Some(LoginKind::AccountRemoved),
            (ACCT_LOCK | ACCT_UNLOCK, true) => Some(LoginKind::AccountLocked),
            (USER_CHAUTHTOK | USER_MGMT | GRP_MGMT | GRP_CHAUTHTOK, true) if !self.is_part() => {
                Some(LoginKind::AccountChanged)
            }
            _ => None,
        }
    }
}

impl Act<'_> {
    /// The tools tell of every file that they change for one account: the home directory, the shadow files.
    fn is_part(&self) -> bool {
        let has = |word: &[u8]| memchr::memmem::find(self.operation, word).is_some();
        self.operation.is_empty() || has(b"home directory") || has(b"shadow")
    }
}

/// The tools that change accounts, by name.
fn is_account_tool(service: &str) -> bool {
    ACCOUNT_TOOLS.contains(&service)
}

/// The service by its program. Of programs that are no way in, `ignored`.
fn service(program: &[u8]) -> &'static str {
    match program {
        b"sshd" | b"sshd-session" | b"sshd-auth" => "sshd",
        b"su" | b"su-l" => "su",
        b"sudo" | b"sudo-rs" => "sudo",
        b"pkexec" => "pkexec",
        b"polkit-agent-helper-1" => "polkit",
        b"login" => "login",
        b"dropbear" => "dropbear",
        b"vsftpd" => "vsftpd",
        b"proftpd" => "proftpd",
        b"cockpit-session" => "cockpit",
        b"gdm-session-worker" | b"lightdm" | b"sddm-helper" | b"xrdp-sesman" => "desktop",
        // cron, systemd --user, runuser …: sessions that nobody logged in to.
        other => {
            let tool = ACCOUNT_TOOLS.iter().find(|tool| tool.as_bytes() == other);
            tool.copied().unwrap_or("ignored")
        }
    }
}

fn blank(event: LoginKind, service: &'static str, message: &Message<'_>) -> LoginEvent {
    let place = Place::Audit { serial: message.serial };
    LoginEvent {
        session: message.number("ses"),
        login_uid: message.number("auid"),
        pid: message.number("pid"),
        ..LoginEvent::bare(event, Cow::Borrowed(service), Reporter::Audit, Source::Audit, message.time, place)
    }
}

fn text(bytes: &[u8], max: usize) -> Text {
    Text::from_bytes(bytes.get(..bytes.len().min(max)).unwrap_or_default())
}

fn address(word: &[u8]) -> Option<IpAddr> {
    let word = std::str::from_utf8(word).ok()?;
    let word = word.split_once('%').map_or(word, |(address, _zone)| address);
    word.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests;
