//! Names of local accounts by number, from `/etc/passwd` itself: a look-up through NSS would load foreign modules into a
//! process that runs as root, and may wait for the network.

use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;

use super::event::NAME_BYTES_MAX;

/// Bytes of the file that are read: some 100,000 accounts.
const BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The file is looked at no more often.
const LOOK: std::time::Duration = std::time::Duration::from_secs(1);

/// What the file said when it was read last.
#[derive(Debug)]
pub struct Names {
    path: PathBuf,
    names: HashMap<u32, Text>,
    known: HashSet<Text>,
    looked: Timestamp,
    /// Device, inode, modification, size.
    seen: Option<(u64, u64, i64, i64, u64)>,
}

impl Names {
    /// Reads `/etc/passwd` when it is first asked.
    pub fn of_host() -> Self {
        Self {
            path: "/etc/passwd".into(),
            names: HashMap::new(),
            known: HashSet::new(),
            looked: Timestamp::default(),
            seen: None,
        }
    }

    /// Whether there is a local account of that name.
    pub fn has(&mut self, name: &Text, now: Timestamp) -> bool {
        self.look_if_due(now);
        self.known.contains(name)
    }

    /// The name of the account with the number `uid`; of several the first, as everywhere.
    pub fn name(&mut self, uid: u32, now: Timestamp) -> Option<Text> {
        self.look_if_due(now);
        self.names.get(&uid).cloned()
    }

    fn look_if_due(&mut self, now: Timestamp) {
        if now < self.looked || now.since(self.looked) >= LOOK {
            self.looked = now;
            self.look();
        }
    }

    fn look(&mut self) {
        let Ok(file) = std::fs::File::open(&self.path) else { return };
        let Ok(facts) = file.metadata() else { return };
        let seen = Some((facts.dev(), facts.ino(), facts.mtime(), facts.mtime_nsec(), facts.size()));
        if seen == self.seen {
            return;
        }
        let mut bytes = Vec::new();
        if file.take(BYTES_MAX).read_to_end(&mut bytes).is_ok() {
            self.seen = seen;
            self.names = parse(&bytes);
            self.known = self.names.values().cloned().collect();
        }
    }
}

/// The names of the text of `/etc/passwd`, by number.
pub(crate) fn parse(passwd: &[u8]) -> HashMap<u32, Text> {
    let mut names = HashMap::new();
    for line in passwd.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b':');
        let (Some(name), Some(_), Some(uid)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let uid = std::str::from_utf8(uid).ok().and_then(|uid| uid.parse::<u32>().ok());
        if let Some(uid) = uid.filter(|_| !name.is_empty() && name.len() <= NAME_BYTES_MAX) {
            names.entry(uid).or_insert_with(|| Text::from_bytes(name));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_with_one_number_counts_and_bad_lines_do_not() {
        let names =
            parse(b"root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n:x:1:\nal:x:1001:\nx\nbad:x:-1:\n");
        assert_eq!(names.get(&0).map(|name| name.text.as_str()), Some("root"));
        assert_eq!(names.get(&1_001).map(|name| name.text.as_str()), Some("al"));
        assert_eq!(names.len(), 2);
    }

    #[test]
    fn a_file_that_changed_is_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("passwd");
        std::fs::write(&path, "a:x:7:\n").expect("written");
        let mut names = Names { path: path.clone(), ..Names::of_host() };
        let now = Timestamp::from_seconds(100);
        assert_eq!(names.name(7, now).map(|name| name.text), Some("a".to_owned()));
        std::fs::write(&path, "bc:x:7:\n").expect("written");
        assert_eq!(names.name(7, now).map(|name| name.text), Some("a".to_owned()));
        let later = now.plus(LOOK);
        assert_eq!(names.name(7, later).map(|name| name.text), Some("bc".to_owned()));
    }
}
