//! Which sessions there are, by looking: what runs (`/proc`), what logind wrote down, and utmp.
//!
//! Their first processes and the kernel's numbers come from `/proc` alone; logind and utmp add from where and on which
//! terminal to those. Files of logind are written by it as root; names and addresses in them are checked by nobody, so
//! what they say of a session that `/proc` does not know is not believed.

use std::collections::HashMap;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;

use picket_protocol::finding::Text;

use crate::detect::sessions::Found;
use crate::sense::logins::records::entry::{RECORD_BYTES, Record, USER_PROCESS};
use crate::sense::processes::{Login, login_of, logins};

/// Where logind keeps a file for each session.
const LOGIND: &str = "/run/systemd/sessions";
/// Where utmp is.
const UTMP: [&str; 2] = ["/run/utmp", "/var/run/utmp"];
/// Files of logind that are read.
const FILES_MAX: usize = 1_024;
/// Bytes of one.
const FILE_BYTES_MAX: u64 = 16 * 1024;
/// Bytes of utmp that are read: some 2,700 terminals.
const UTMP_BYTES_MAX: u64 = 1024 * 1024;

/// All sessions that have a process now, by the kernel's numbers.
pub fn look() -> Vec<Found> {
    let mut found: HashMap<u32, Found> = HashMap::new();
    let mut logins = logins();
    logins.sort_by_key(|login| login.started);
    for login in logins {
        found.entry(login.session).or_insert_with(|| of_login(&login));
    }
    for (number, noted) in of_logind(Path::new(LOGIND)) {
        if let Some(found) = found.get_mut(&number) {
            found.address = noted.address;
            found.tty = noted.tty;
            found.service = noted.service.or(found.service.take());
        }
    }
    for path in UTMP {
        for record in read_utmp(Path::new(path)) {
            let number = record.pid.and_then(login_of).map(|login| login.session);
            let Some(found) = number.and_then(|number| found.get_mut(&number)) else { continue };
            found.address = found.address.or(record.address);
            found.tty = found.tty.take().or(record.line);
        }
    }
    found.into_values().collect()
}

/// What the first process of a session says of it.
pub fn of_login(login: &Login) -> Found {
    Found {
        audit_session: Some(login.session),
        login_uid: Some(login.login_uid),
        leader: Some(login.pid),
        service: service(&login.executable),
        container: login.container.clone(),
        since: Some(login.started),
        ..Found::default()
    }
}

/// The service by the program that began the session.
pub fn service(executable: &[u8]) -> Option<String> {
    let program = executable.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let name = match program {
        b"" => return None,
        b"sshd" | b"sshd-session" | b"sshd-auth" => "sshd",
        b"gdm-session-worker" | b"lightdm" | b"sddm-helper" | b"xrdp-sesman" => "desktop",
        b"cockpit-session" => "cockpit",
        other => return Some(String::from_utf8_lossy(other).chars().take(32).collect()),
    };
    Some(name.to_owned())
}

/// What logind notes of a session.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    address: Option<IpAddr>,
    tty: Option<Text>,
    service: Option<String>,
}

fn of_logind(directory: &Path) -> Vec<(u32, Noted)> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let files =
        entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    files.take(FILES_MAX).filter_map(|entry| parse_logind(&read(&entry.path(), FILE_BYTES_MAX)?)).collect()
}

/// The kernel's number of a session, and what logind notes of it.
pub(crate) fn parse_logind(text: &[u8]) -> Option<(u32, Noted)> {
    let (mut number, mut noted) = (None, Noted::default());
    for line in text.split(|&byte| byte == b'\n') {
        let Some(at) = line.iter().position(|&byte| byte == b'=') else { continue };
        let (name, value) = line.split_at_checked(at)?;
        let value = value.get(1..).unwrap_or_default();
        let words = || String::from_utf8_lossy(value).chars().take(64).collect::<String>();
        match name {
            b"AUDIT" => number = std::str::from_utf8(value).ok().and_then(|number| number.parse().ok()),
            b"REMOTE_HOST" => noted.address = words().parse().ok(),
            b"TTY" => {
                noted.tty = Some(Text::from_bytes(value.get(..value.len().min(64)).unwrap_or_default()))
            }
            b"SERVICE" => noted.service = Some(words()),
            _ => {}
        }
    }
    Some((number?, noted))
}

fn read_utmp(path: &Path) -> Vec<Record> {
    let bytes = read(path, UTMP_BYTES_MAX).unwrap_or_default();
    let records = bytes.chunks_exact(RECORD_BYTES).filter_map(Record::parse);
    records.filter(|record| record.kind == USER_PROCESS).collect()
}

fn read(path: &Path, max: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(max).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Whether the first process of a session is still there: the same one, not another with its number.
pub fn is_there(pid: u32, session: Option<u32>) -> bool {
    match (login_of(pid), session) {
        (Some(login), Some(session)) => login.session == session,
        (Some(_), None) => true,
        (None, Some(_)) => false,
        (None, None) => Path::new("/proc").join(pid.to_string()).exists(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_logind_is_read_and_a_damaged_one_is_nothing() {
        let text =
            b"# This is private data. Do not parse.\nUID=1001\nUSER=al\nACTIVE=1\nREMOTE=1\nTYPE=tty\n\
            REMOTE_HOST=192.0.2.7\nSERVICE=sshd\nTTY=pts/3\nLEADER=812\nAUDIT=7\nREALTIME=1700000000000000\n";
        let noted = Noted {
            address: "192.0.2.7".parse().ok(),
            tty: Some(Text::from_bytes(b"pts/3")),
            service: Some("sshd".to_owned()),
        };
        assert_eq!(parse_logind(text), Some((7, noted)));
        assert_eq!(parse_logind(b"\xff\xfe\nAUDIT=x\n"), None);
        assert_eq!(parse_logind(b""), None);
    }

    #[test]
    fn services_are_known_by_their_programs() {
        assert_eq!(service(b"/usr/lib/openssh/sshd-session").as_deref(), Some("sshd"));
        assert_eq!(service(b"/usr/sbin/cron").as_deref(), Some("cron"));
        assert_eq!(service(b""), None);
    }
}
