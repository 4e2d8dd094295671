//! One entry of journalctl's JSON, and whether to believe its sender.
//!
//! Fields that begin with an underscore are journald's own: it takes them from the kernel (`SO_PASSCRED`) and
//! from `/proc`, and drops those that a sender made up. All others, the identifier among them, are the sender's word.

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;
use serde_json::Value;

use crate::sense::logins::event::Sender;
use crate::sense::logins::parse::rules::service::Sender as RuleSender;

/// Executables that may speak as sshd.
const SSHD: [&str; 3] = ["sshd", "sshd-session", "sshd-auth"];
/// Where su and sudo live. Processes of theirs run with the caller's real user id while they decide, so the path tells.
const PRIVILEGED: [&str; 8] = [
    "/usr/bin/su",
    "/bin/su",
    "/usr/bin/sudo",
    "/bin/sudo",
    "/usr/local/bin/sudo",
    "/usr/bin/sudo-rs",
    "/usr/bin/su-rs",
    "/usr/sbin/runuser",
];

/// The names that they log by.
const PRIVILEGED_NAMES: [&[u8]; 3] = [b"su", b"sudo", b"sudo-i"];

/// The fields that are asked for.
pub const FIELDS: &str =
    "MESSAGE,SYSLOG_IDENTIFIER,_UID,_PID,_COMM,_EXE,_SYSTEMD_UNIT,_SOURCE_REALTIME_TIMESTAMP";

/// An entry as journalctl prints it.
#[derive(Debug, serde::Deserialize)]
pub struct Entry {
    /// Its place.
    #[serde(rename = "__CURSOR")]
    pub cursor: String,
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    received: Option<String>,
    #[serde(rename = "_SOURCE_REALTIME_TIMESTAMP")]
    sent: Option<String>,
    #[serde(rename = "MESSAGE")]
    message: Option<Value>,
    #[serde(rename = "SYSLOG_IDENTIFIER")]
    identifier: Option<Value>,
    #[serde(rename = "_UID")]
    uid: Option<Value>,
    #[serde(rename = "_PID")]
    pid: Option<Value>,
    #[serde(rename = "_COMM")]
    command: Option<Value>,
    #[serde(rename = "_EXE")]
    executable: Option<Value>,
    #[serde(rename = "_SYSTEMD_UNIT")]
    unit: Option<Value>,
}

/// The bytes of a field: a string, or an array of bytes when it is not UTF-8. Null means too long; an array
/// of anything else means that the sender gave the field more than once.
fn bytes(value: Option<&Value>) -> Option<Vec<u8>> {
    match value? {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Array(items) => items.iter().map(|item| u8::try_from(item.as_u64()?).ok()).collect(),
        _ => None,
    }
}

fn text(value: Option<&Value>) -> Option<Text> {
    bytes(value).map(|bytes| Text::from_bytes(&bytes))
}

fn number(value: Option<&Value>) -> Option<u32> {
    value?.as_str()?.parse().ok()
}

impl Entry {
    /// Parses a line of `journalctl -o json`.
    pub fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// The message, when there is exactly one.
    pub fn message(&self) -> Option<Vec<u8>> {
        bytes(self.message.as_ref())
    }

    /// The program that the sender claims to be.
    pub fn identifier(&self) -> Option<Vec<u8>> {
        bytes(self.identifier.as_ref())
    }

    /// When the sender sent it, by the kernel's clock; else when journald had it.
    pub fn time(&self) -> Option<Timestamp> {
        let micros = self.sent.as_ref().or(self.received.as_ref())?.parse::<i64>().ok()?;
        Some(Timestamp::from_nanos(micros.checked_mul(1_000)?))
    }

    /// Who really sent it.
    pub fn sender(&self) -> Sender {
        Sender {
            uid: number(self.uid.as_ref()),
            pid: number(self.pid.as_ref()),
            executable: text(self.executable.as_ref()),
            unit: text(self.unit.as_ref()),
        }
    }

    /// Whether the sender may speak as `identifier`.
    ///
    /// sshd logs as root, and so must its lines come; a command name or executable, when journald caught one,
    /// must be sshd's. The executable is missing when the process ended before journald looked: then the user id
    /// decides, which the kernel attached to the message itself. su and sudo log under the caller's user id: there
    /// the executable decides, and without one only root is believed. Every other service says in its rule file which
    /// executables may speak for it; those that cannot be known are believed when root runs them.
    pub fn is_genuine(&self, identifier: &[u8], sender: Option<&RuleSender>) -> bool {
        let root = number(self.uid.as_ref()) == Some(0);
        let executable = self.executable.as_ref().and_then(Value::as_str);
        let executable = executable.map(|path| path.strip_suffix(" (deleted)").unwrap_or(path));
        let base = executable.map(|path| path.rsplit('/').next().unwrap_or(path));
        let command = self.command.as_ref().and_then(Value::as_str);
        if identifier == b"kernel" {
            // journald names the user of every message but the kernel's own.
            return self.uid.is_none() && executable.is_none();
        }
        if identifier.starts_with(b"sshd") {
            return root && base.or(command).is_none_or(|name| SSHD.contains(&name));
        }
        if let Some(sender) = sender.filter(|_| !PRIVILEGED_NAMES.contains(&identifier)) {
            let named = |known: &String| {
                if known.contains('/') { executable == Some(known) } else { base == Some(known) }
            };
            return match executable {
                Some(_) if sender.executables.is_empty() => root || sender.root == Some(false),
                Some(_) => sender.executables.iter().any(named),
                None => root || sender.root == Some(false),
            };
        }
        match executable {
            Some(path) => PRIVILEGED.contains(&path),
            None => root && command.is_none_or(|name| matches!(name, "su" | "sudo" | "runuser")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: &str) -> Entry {
        let line = format!(r#"{{"__CURSOR":"c","__REALTIME_TIMESTAMP":"1000001"{fields}}}"#);
        Entry::parse(line.as_bytes()).expect("an entry")
    }

    #[test]
    fn an_ordinary_user_cannot_speak_as_sshd() {
        let logger = r#","_UID":"1000","_COMM":"logger","_EXE":"/usr/bin/logger""#;
        assert!(!entry(logger).is_genuine(b"sshd", None));
        // Gone before journald looked.
        assert!(!entry(r#","_UID":"1000""#).is_genuine(b"sshd", None));
        // With the right name, the wrong user.
        assert!(!entry(r#","_UID":"1000","_COMM":"sshd","_EXE":"/home/al/sshd""#).is_genuine(b"sshd", None));
        // No trusted fields at all.
        assert!(!entry("").is_genuine(b"sshd", None));
    }

    #[test]
    fn root_cannot_speak_as_sshd_by_logger_either() {
        assert!(!entry(r#","_UID":"0","_COMM":"logger","_EXE":"/usr/bin/logger""#).is_genuine(b"sshd", None));
        assert!(!entry(r#","_UID":"0","_COMM":"logger""#).is_genuine(b"sshd-session", None));
    }

    #[test]
    fn sshd_itself_is_believed() {
        assert!(entry(r#","_UID":"0","_COMM":"sshd","_EXE":"/usr/sbin/sshd""#).is_genuine(b"sshd", None));
        let session = r#","_UID":"0","_COMM":"sshd-session","_EXE":"/usr/lib/openssh/sshd-session""#;
        assert!(entry(session).is_genuine(b"sshd-session", None));
        assert!(entry(r#","_UID":"0","_EXE":"/usr/sbin/sshd (deleted)""#).is_genuine(b"sshd", None));
        assert!(entry(r#","_UID":"0""#).is_genuine(b"sshd", None));
    }

    #[test]
    fn su_and_sudo_are_known_by_their_path() {
        assert!(entry(r#","_UID":"1000","_COMM":"sudo","_EXE":"/usr/bin/sudo""#).is_genuine(b"sudo", None));
        assert!(!entry(r#","_UID":"1000","_COMM":"sudo","_EXE":"/home/al/sudo""#).is_genuine(b"sudo", None));
        assert!(!entry(r#","_UID":"1000","_COMM":"sudo""#).is_genuine(b"sudo", None));
        assert!(entry(r#","_UID":"0""#).is_genuine(b"su", None));
    }

    #[test]
    fn nobody_but_the_kernel_speaks_as_the_kernel() {
        assert!(entry("").is_genuine(b"kernel", None));
        assert!(!entry(r#","_UID":"1000","_EXE":"/usr/bin/logger""#).is_genuine(b"kernel", None));
        assert!(!entry(r#","_UID":"0""#).is_genuine(b"kernel", None));
    }

    #[test]
    fn fields_of_every_shape() {
        assert_eq!(entry(r#","MESSAGE":"a""#).message(), Some(b"a".to_vec()));
        assert_eq!(entry(r#","MESSAGE":[255,0]"#).message(), Some(vec![255, 0]));
        assert_eq!(entry(r#","MESSAGE":null"#).message(), None);
        assert_eq!(entry(r#","MESSAGE":["a","b"]"#).message(), None);
        assert_eq!(entry(r#","MESSAGE":[256]"#).message(), None);
        assert_eq!(entry("").time(), Some(Timestamp::from_nanos(1_000_001_000)));
        let sent = entry(r#","_SOURCE_REALTIME_TIMESTAMP":"7""#);
        assert_eq!(sent.time(), Some(Timestamp::from_nanos(7_000)));
        assert!(Entry::parse(b"{}").is_none());
        assert!(Entry::parse(b"\xff").is_none());
    }
}
