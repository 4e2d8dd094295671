//! Who is at the other end of a local connection, as the kernel tells it.

use std::os::fd::AsFd;

use rustix::net::sockopt::socket_peercred;

use crate::respond::Person;

/// `loginuid` of a process that no login led to.
const NO_LOGIN: u32 = u32::MAX;

/// The peer of a connected Unix socket.
pub(super) fn peer(socket: impl AsFd) -> std::io::Result<Person> {
    let credentials = socket_peercred(socket)?;
    Ok(person(credentials.uid.as_raw(), &credentials.pid.as_raw_nonzero().to_string()))
}

/// Who runs this very process.
pub fn own() -> Person {
    person(rustix::process::geteuid().as_raw(), "self")
}

fn person(uid: u32, process: &str) -> Person {
    let login = std::fs::read_to_string(format!("/proc/{process}/loginuid")).ok();
    let login_uid = login.and_then(|text| text.trim().parse().ok()).filter(|uid| *uid != NO_LOGIN);
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    let name = name_of(login_uid.unwrap_or(uid), &String::from_utf8_lossy(&passwd));
    Person { uid, login_uid, name }
}

/// Number of the group of that name.
pub(super) fn group(name: &str) -> Option<u32> {
    let groups = std::fs::read("/etc/group").ok()?;
    let groups = String::from_utf8_lossy(&groups);
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

fn name_of(uid: u32, passwd: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let found: u32 = fields.nth(1)?.parse().ok()?;
        (found == uid).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!(name_of(1_000, passwd).as_deref(), Some("ada"));
        assert_eq!(name_of(7, passwd), None);
        assert_eq!(group("root"), Some(0));
    }
}
