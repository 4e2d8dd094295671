//! What the host's own files say of its accounts: numbers and shells by `/etc/passwd`, the last login by `lastlog`,
//! lastlog2 and wtmpdb, the latest that any of them has.
//!
//! `/etc/passwd` is read again when it changed. The records are read once, when the agent starts: they are asked for what
//! was before the agent, and a login that is going on must not make itself look recent.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::database::{self, Form, LastLogin};
use super::records::entry;
use crate::detect::logins::AccountFacts;

/// Bytes of the account file that are read.
const BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Accounts that are known: more are those of a directory, not of a file.
const ACCOUNTS_MAX: usize = 16_384;
/// The file is looked at no more often.
const LOOK: Duration = Duration::from_secs(5);
/// A record of `lastlog`: time (4 bytes), terminal (32), host (256).
pub(crate) const LASTLOG_BYTES: usize = 292;
/// Shells that let nobody in.
const REFUSING: [&str; 6] = ["nologin", "false", "true", "sync", "halt", "shutdown"];

/// The files.
#[derive(Debug)]
pub struct AccountFiles {
    passwd: PathBuf,
    records: Vec<PathBuf>,
    /// Where databases are copied that cannot be read in place.
    scratch: PathBuf,
    last: BTreeMap<String, LastLogin>,
    looked: Option<Timestamp>,
    seen: Option<(u64, u64, i64, i64, u64)>,
}

impl AccountFiles {
    /// The host's accounts, and what `records` says of them.
    pub fn of_host(records: &[PathBuf], scratch: &Path) -> Self {
        Self::at("/etc/passwd".into(), records, scratch)
    }

    fn at(passwd: PathBuf, records: &[PathBuf], scratch: &Path) -> Self {
        let records = records.to_vec();
        Self { passwd, records, scratch: scratch.to_owned(), last: BTreeMap::new(), looked: None, seen: None }
    }

    /// The accounts, when they are not those of the last look.
    pub fn look(&mut self, now: Timestamp) -> Option<BTreeMap<String, AccountFacts>> {
        let first = self.looked.is_none();
        if self.looked.is_some_and(|looked| now >= looked && now.since(looked) < LOOK) {
            return None;
        }
        self.looked = Some(now);
        let file = std::fs::File::open(&self.passwd).ok()?;
        let facts = file.metadata().ok()?;
        let seen = Some((facts.dev(), facts.ino(), facts.mtime(), facts.mtime_nsec(), facts.size()));
        if seen == self.seen {
            return None;
        }
        let mut text = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut text).ok()?;
        self.seen = seen;
        let mut accounts = parse(&String::from_utf8_lossy(&text));
        if first {
            self.read_records(&accounts);
        }
        for (name, facts) in &mut accounts {
            let last = self.last.get(name);
            facts.last_login = last.map(|last| last.time);
            facts.last_from = last.and_then(|last| last.from);
        }
        Some(accounts)
    }

    fn read_records(&mut self, accounts: &BTreeMap<String, AccountFacts>) {
        for path in self.records.clone() {
            let logins = match Form::of(&path) {
                // One that cannot be read is reported by its source.
                Some(_) => database::last_logins(&path, &self.scratch).unwrap_or_default(),
                None if super::is_lastlog(&path) => lastlog(&path, accounts),
                None => continue,
            };
            for login in logins.into_iter().filter(|login| accounts.contains_key(&login.user)) {
                match self.last.get(&login.user) {
                    Some(known) if known.time >= login.time => {}
                    _ => drop(self.last.insert(login.user.clone(), login)),
                }
            }
        }
    }
}

/// The records of `lastlog`, a file with a place for every user number.
pub(crate) fn lastlog(path: &Path, accounts: &BTreeMap<String, AccountFacts>) -> Vec<LastLogin> {
    let Ok(file) = database::snapshot::open_plain(path) else { return Vec::new() };
    let read = |(name, facts): (&String, &AccountFacts)| {
        let mut record = [0; LASTLOG_BYTES];
        let at = u64::from(facts.uid).checked_mul(u64::try_from(LASTLOG_BYTES).ok()?)?;
        file.read_exact_at(&mut record, at).ok()?;
        let seconds = i64::from(u32::from_ne_bytes(record.get(..4)?.try_into().ok()?));
        let host = entry::text(record.get(36..)?);
        let from = host.and_then(|host| host.text.parse::<std::net::IpAddr>().ok());
        let (user, time) = (name.clone(), Timestamp::from_seconds(seconds));
        (seconds > 0).then_some(LastLogin { user, time, from: from.map(|from| from.to_canonical()) })
    };
    accounts.iter().filter_map(read).collect()
}

/// The accounts of the text of `/etc/passwd`.
pub(crate) fn parse(passwd: &str) -> BTreeMap<String, AccountFacts> {
    let mut accounts = BTreeMap::new();
    for line in passwd.lines() {
        let mut fields = line.split(':');
        let Some(name) = fields.next().filter(|name| !name.is_empty() && !name.starts_with(['#', '+', '-']))
        else {
            continue;
        };
        let Some(uid) = fields.nth(1).and_then(|uid| uid.parse().ok()) else { continue };
        let shell = fields.nth(3).unwrap_or_default();
        let program = shell.rsplit('/').next().unwrap_or_default();
        let facts =
            AccountFacts { uid, shell_refuses: REFUSING.contains(&program), ..AccountFacts::default() };
        if accounts.len() < ACCOUNTS_MAX {
            accounts.entry(name.to_owned()).or_insert(facts);
        }
    }
    accounts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_with_their_last_login_are_read_and_read_again_when_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let (passwd, lastlog) = (dir.path().join("passwd"), dir.path().join("lastlog"));
        std::fs::write(&passwd, "root:x:0:0::/root:/bin/sh\nwww:x:33:33::/:/usr/sbin/nologin\nbad\nx:y:z\n")
            .unwrap();
        let mut records = vec![0u8; 292 * 34];
        records[292 * 33..292 * 33 + 4].copy_from_slice(&1_700_000_000u32.to_ne_bytes());
        records[292 * 33 + 36..292 * 33 + 45].copy_from_slice(b"192.0.2.7");
        std::fs::write(&lastlog, &records).unwrap();
        let mut files = AccountFiles::at(passwd.clone(), &[lastlog], dir.path());
        let at = |second: i64| Timestamp::from_seconds(1_800_000_000 + second);
        let accounts = files.look(at(0)).unwrap();
        let www = AccountFacts {
            uid: 33,
            shell_refuses: true,
            last_login: Some(Timestamp::from_seconds(1_700_000_000)),
            last_from: "192.0.2.7".parse().ok(),
        };
        assert_eq!(accounts.get("www"), Some(&www));
        assert_eq!(accounts.get("root"), Some(&AccountFacts::default()));
        assert_eq!(accounts.len(), 2);
        assert_eq!(files.look(at(60)), None, "nothing changed");
        std::fs::write(&passwd, "al:x:1000:1000::/home/al:/bin/bash\n").unwrap();
        assert_eq!(files.look(at(61)), None, "too early");
        assert_eq!(files.look(at(120)).unwrap().keys().collect::<Vec<_>>(), ["al"]);
    }
}
