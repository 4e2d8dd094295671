//! When the host was shut down in good order after a moment, by wtmp: systemd writes a record when the services have been stopped
//! (`RUN_LVL`, user `shutdown`), and one when it boots (`BOOT_TIME`). A host that lost its power has the second alone.
//!
//! What is told is sure or is not told: a wtmp that does not reach back to that moment, that cannot be read, or that is not kept on this host
//! (distributions that moved to wtmpdb) says nothing. Only root and group utmp write it.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use picket_protocol::time::Timestamp;

use crate::sense::logins::records::{RECORD_BYTES, Record};

/// The file that is written to, behind that which was moved away last.
pub const FILES: [&str; 2] = ["/var/log/wtmp.1", "/var/log/wtmp"];
/// Bytes of a file's end that are read: some ten thousand logins.
const BYTES_MAX: u64 = 10_922 * RECORD_BYTES as u64;
/// `RUN_LVL`.
const RUN_LEVEL: u16 = 1;
/// `BOOT_TIME`.
const BOOT: u16 = 2;

/// When the boot of `moment` was ended in good order; none when it was not, or when that cannot be known.
pub fn after<P: AsRef<Path>>(moment: Timestamp, files: &[P]) -> Option<Timestamp> {
    let (mut reaches_back, mut ended) = (false, None);
    for file in files {
        let bytes = end_of(file.as_ref()).unwrap_or_default();
        for record in bytes.as_chunks::<RECORD_BYTES>().0.iter().filter_map(|bytes| Record::parse(bytes)) {
            if record.time <= moment {
                // A clock that was set back: what stood before this is older still.
                (reaches_back, ended) = (true, None);
            } else if ended.is_none() && reaches_back && (record.kind == BOOT || is_shutdown(&record)) {
                ended = Some(record);
            }
        }
    }
    ended.filter(is_shutdown).map(|record| record.time)
}

fn is_shutdown(record: &Record) -> bool {
    record.kind == RUN_LEVEL && record.user.as_ref().is_some_and(|user| user.text == "shutdown")
}

/// The end of a file, from the beginning of a record.
fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = crate::layout::open_file(path)?;
    let whole = file.metadata()?.len() / RECORD_BYTES as u64 * RECORD_BYTES as u64;
    file.seek(SeekFrom::Start(whole.saturating_sub(BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::logins::records::entry::{USER_PROCESS, render};

    const UP: (u16, &[u8]) = (BOOT, b"reboot");
    const DOWN: (u16, &[u8]) = (RUN_LEVEL, b"shutdown");
    const LOGIN: (u16, &[u8]) = (USER_PROCESS, b"shutdown");

    fn check(former: &[((u16, &[u8]), u32)], current: &[((u16, &[u8]), u32)], expected: Option<i64>) {
        let dir = tempfile::tempdir().expect("a directory");
        let files = [("wtmp.1", former), ("wtmp", current)].map(|(name, records)| {
            let bytes: Vec<Vec<u8>> = records
                .iter()
                .map(|((kind, user), at)| render(*kind, 0, b"~", user, b"6.1", [0; 16], *at))
                .collect();
            let path = dir.path().join(name);
            std::fs::write(&path, bytes.concat()).expect("a file");
            path
        });
        let found = after(Timestamp::from_seconds(100), &files);
        assert_eq!(found, expected.map(Timestamp::from_seconds), "{former:?} {current:?}");
    }

    #[test]
    fn a_shutdown_is_that_of_the_boot_that_is_meant() {
        check(&[], &[(UP, 10), (LOGIN, 120), (DOWN, 500), (UP, 520), (DOWN, 900), (UP, 920)], Some(500));
        check(&[(UP, 10)], &[(DOWN, 500), (UP, 520)], Some(500));
    }

    #[test]
    fn a_power_cut_is_none_and_neither_is_what_cannot_be_known() {
        check(&[], &[(UP, 10), (UP, 520), (DOWN, 900), (UP, 920)], None);
        check(&[], &[(UP, 10), (LOGIN, 300), (UP, 520)], None);
        // The records of that time are gone.
        check(&[], &[(DOWN, 500), (UP, 520)], None);
        check(&[], &[], None);
        // A clock that was ahead and was set back.
        check(&[], &[(UP, 10), (DOWN, 500), (UP, 20), (UP, 110)], None);
        assert_eq!(after(Timestamp::from_seconds(100), &["/no/such/file"]), None);
    }
}
