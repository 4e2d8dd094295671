//! Local accounts that an action may be about, by `/etc/passwd`, and the processes that are theirs.
//!
//! Refused are root and every other account with uid 0, the uplink's user, and accounts of services: those outside
//! `UID_MIN` to `UID_MAX` of `/etc/login.defs` that have no shell to log in with. Nobody logs in with these, and to stop
//! what runs as them is to stop a service, for which `isolate-unit` and `freeze-process` are. An account of a service
//! that has a shell (`postgres` often does) is taken: intruders do log in with those, and the plan says what is stopped.

use std::ops::Range;
use std::path::Path;

use super::Surroundings;
use crate::layout::read_file;
use crate::respond::processes::Spared;
use crate::sense::processes::{Life, all_uids, container_of};

/// Longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Longest file of `/proc` that is read.
const TEXT_BYTES_MAX: u64 = 16 * 1024;
/// Numbers of people's accounts when `/etc/login.defs` does not say: those of shadow.
const UIDS_DEFAULT: (u32, u32) = (1_000, 60_000);
/// Ends of paths of shells that let nobody in.
const NO_SHELLS: &[&str] = &["/nologin", "/false", "/sync", "/halt", "/shutdown", "/true"];

/// A local account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAccount {
    /// Its number.
    pub uid: u32,
    /// Others that have this number: they are the same to the kernel.
    pub same: Vec<String>,
}

impl LocalAccount {
    /// The account, when an action may be about it.
    ///
    /// # Errors
    /// Why not.
    pub fn find(user: &str, surroundings: &Surroundings) -> Result<Self, String> {
        let read = |path: &str| {
            let bytes = read_file(Path::new(path), FILE_BYTES_MAX);
            bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        let passwd = read("/etc/passwd").map_err(|error| format!("/etc/passwd cannot be read: {error}"))?;
        let limits = uids(&read("/etc/login.defs").unwrap_or_default());
        Self::find_in(&passwd, user, limits, surroundings.uplink_uid)
    }

    fn find_in(
        passwd: &str,
        user: &str,
        (first, last): (u32, u32),
        uplink: Option<u32>,
    ) -> Result<Self, String> {
        let entries = || passwd.lines().filter_map(entry);
        let (_, uid, shell) = entries()
            .find(|(name, ..)| *name == user)
            .ok_or_else(|| format!("this host has no account {user} of its own (/etc/passwd)"))?;
        if uid == 0 {
            return Err(format!("{user} is root: without it nobody could mend the host"));
        }
        if uplink == Some(uid) {
            return Err(format!("{user} is whom the agent's own uplink runs as"));
        }
        let is_service = !(first..=last).contains(&uid);
        if is_service && NO_SHELLS.iter().any(|end| shell.ends_with(end)) {
            return Err(format!(
                "{user} is a service's account (uid {uid}, {shell}): nobody logs in with it"
            ));
        }
        let same = entries().filter(|(name, other, _)| *other == uid && *name != user);
        Ok(Self { uid, same: same.map(|(name, ..)| name.to_owned()).collect() })
    }
}

/// Name, number and shell.
fn entry(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    Some((name, uid, fields.nth(3).unwrap_or_default()))
}

fn uids(definitions: &str) -> (u32, u32) {
    let number = |wanted: &str| {
        definitions.lines().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some(wanted)).then(|| words.next()?.parse().ok()).flatten()
        })
    };
    let (first, last) = UIDS_DEFAULT;
    (number("UID_MIN").unwrap_or(first), number("UID_MAX").unwrap_or(last))
}

/// Those that are the user's, and root in none of their four numbers: who has the user's number in one of them, or one of its subordinate
/// numbers (subuid(5)) that nobody else has, or runs in its slice of the control groups, such as a container that it started by itself and
/// whoever it became by `su`. One that is root as well (`sudo`, `passwd`, the part of sshd that is root) may hold what others wait for,
/// such as the lock of `/etc/shadow`, and is left.
///
/// A container may have a user of that number who is somebody else: who only has the number and runs in one is left, but for what is in
/// the user's slice.
pub fn processes_of(uid: u32, all: &[Life]) -> Vec<&Life> {
    let spared = Spared::new(all);
    let read = |path: &str| {
        let bytes = read_file(Path::new(path), FILE_BYTES_MAX).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let below = Subordinate::of(uid, &read("/etc/passwd"), &read("/etc/subuid"));
    let is_theirs = |life: &&Life| {
        all_uids(life.pid).is_some_and(|uids| {
            is_of(
                uids,
                uid,
                &below,
                || is_in_slice(&text_of(life.pid, "cgroup"), uid),
                || container_of(life.pid).is_some(),
            )
        })
    };
    all.iter().filter(|life| life.runs() && !spared.is_vital(life)).filter(is_theirs).collect()
}

fn is_of(
    uids: [u32; 4],
    uid: u32,
    below: &Subordinate,
    in_slice: impl Fn() -> bool,
    in_container: impl Fn() -> bool,
) -> bool {
    if uids.contains(&0) {
        return false;
    }
    uids.iter().any(|one| below.contains(*one)) || (uids.contains(&uid) && !in_container()) || in_slice()
}

/// Numbers of a user's lines in `/etc/subuid` that are in no other's: some distributions gave several the same.
#[derive(Debug, Default, PartialEq, Eq)]
struct Subordinate {
    own: Vec<Range<u64>>,
    others: Vec<Range<u64>>,
}

impl Subordinate {
    /// By the lines `name:first:count`, where the name may be the number.
    fn of(uid: u32, passwd: &str, subuid: &str) -> Self {
        let names: Vec<&str> = passwd
            .lines()
            .filter_map(entry)
            .filter(|(_, own, _)| *own == uid)
            .map(|(name, ..)| name)
            .collect();
        let is_own = |name: &str| names.contains(&name) || name.parse() == Ok(uid);
        let mut found = Self::default();
        for line in subuid.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, first, count] = fields[..] else { continue };
            let (Ok(first), Ok(count)) = (first.parse::<u32>(), count.trim().parse::<u32>()) else {
                continue;
            };
            let range = u64::from(first)..u64::from(first).saturating_add(count.into());
            if is_own(name) { &mut found.own } else { &mut found.others }.push(range);
        }
        found
    }

    fn contains(&self, number: u32) -> bool {
        let number = u64::from(number);
        let is_in = |ranges: &[Range<u64>]| ranges.iter().any(|range| range.contains(&number));
        is_in(&self.own) && !is_in(&self.others)
    }
}

/// Whether the control groups (lines `hierarchy:controllers:path`) are the user's own.
pub fn is_in_slice(groups: &str, uid: u32) -> bool {
    let slice = format!("user-{uid}.slice");
    let mut paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.any(|path| path.starts_with("/user.slice/") && path.split('/').nth(2) == Some(&slice))
}

/// A file of `/proc/PID`; empty when it is gone.
pub fn text_of(pid: u32, name: &str) -> String {
    let bytes = read_file(Path::new(&format!("/proc/{pid}/{name}")), TEXT_BYTES_MAX);
    bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/bash\ntoor:x:0:0::/:/bin/sh\nbroken\n+@crew::::::\n\
        www:x:33:33::/var/www:/usr/sbin/nologin\npostgres:x:107:107::/var/lib:/bin/bash\n\
        uplink:x:998:998::/:/bin/sh\nalice:x:1000:1000:A:/home/alice:/bin/bash\nalias:x:1000:1000::/:/bin/sh\n\
        deploy:x:1001:1001::/:/usr/sbin/nologin\nnobody:x:65534:65534::/:/usr/sbin/nologin\n";

    fn find(user: &str) -> Result<LocalAccount, String> {
        LocalAccount::find_in(PASSWD, user, (1_000, 60_000), Some(998))
    }

    #[test]
    fn people_are_found_and_what_the_host_needs_is_not() {
        assert_eq!(find("alice"), Ok(LocalAccount { uid: 1_000, same: vec!["alias".to_owned()] }));
        assert!(find("postgres").is_ok() && find("deploy").is_ok());
        for (user, why) in [
            ("root", "is root"),
            ("toor", "is root"),
            ("www", "service"),
            ("nobody", "service"),
            ("uplink", "uplink"),
            ("eve", "no account"),
            ("+@crew", "no account"),
            ("broken", "no account"),
        ] {
            let told = find(user).expect_err(user);
            assert!(told.contains(why), "{user}: {told}");
        }
    }

    #[test]
    fn who_is_the_user_in_part_is_meant_and_who_is_root_in_part_is_not() {
        let subuid = "alice:300000:65536\n1000:500000:10\nbob:365000:1000\nbroken:x:1\nroot:900000:1\n";
        let below = Subordinate::of(1_000, PASSWD, subuid);
        for (uids, in_slice, in_container, meant) in [
            ([1_000; 4], false, false, true),
            ([1_000; 4], true, true, true),
            // Somebody of that number in a container of the host's.
            ([1_000; 4], false, true, false),
            // `setresuid(1, 0, 0)` in a user namespace of the user's own.
            ([300_000, 1_000, 1_000, 1_000], false, false, true),
            // A program in a container that the user started without root.
            ([300_099; 4], true, true, true),
            ([300_099; 4], false, true, true),
            ([500_009; 4], false, false, true),
            // What others have as well, or alone, and what nobody has.
            ([365_100; 4], false, true, false),
            ([500_010; 4], false, false, false),
            // Whom the user has become.
            ([1_001; 4], true, false, true),
            ([1_001; 4], false, false, false),
            ([1_000, 0, 0, 0], true, false, false),
            ([300_000, 300_000, 0, 300_000], true, false, false),
        ] {
            let found = is_of(uids, 1_000, &below, || in_slice, || in_container);
            assert_eq!(found, meant, "{uids:?} in the slice: {in_slice}, in a container: {in_container}");
        }
    }

    #[test]
    fn limits_are_those_of_the_host() {
        assert_eq!(uids("#UID_MIN 5\nUID_MIN\t\t 500\nUID_MAX x\n"), (500, 60_000));
    }

    #[test]
    fn the_slice_of_a_user_is_his_alone() {
        let session = "1:name=systemd:/user.slice/user-1000.slice/session-3.scope\n";
        let unified = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x\n";
        assert!(is_in_slice(session, 1_000) && is_in_slice(unified, 1_000));
        for (groups, uid) in [
            (session, 100),
            ("0::/system.slice/user-1000.slice/x\n", 1_000),
            ("0::/user.slice/x/user-1000.slice\n", 1_000),
            ("0::/docker/user.slice/user-1000.slice\n", 1_000),
            ("broken\n0:\n", 1_000),
        ] {
            assert!(!is_in_slice(groups, uid), "{groups}");
        }
    }
}
