//! Rotations at the moments that a busy host makes likely and a test with threads rarely hits.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::process::Command;

use super::*;

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("log");
    file.write_all(text.as_bytes()).expect("written");
}

fn read_all(tail: &mut Tail, now: Timestamp) -> Vec<String> {
    let (mut lines, mut buffer, mut index) = (Vec::new(), vec![0; CHUNK_BYTES], 0);
    while index < tail.files() {
        let more = tail.read(index, &mut buffer, now, |found| {
            lines.push(String::from_utf8_lossy(found.bytes).into_owned());
            true
        });
        index += usize::from(!more.expect("read"));
    }
    lines
}

#[test]
fn a_log_that_was_opened_empty_is_read_once_though_it_was_filled_rotated_and_compressed_before_the_next_look()
{
    let dir = tempfile::tempdir().expect("directory");
    let log = dir.path().join("auth.log");
    append(&log, "before the agent\n");
    let now = Timestamp::from(std::time::SystemTime::now());
    let mut tail = Tail::open(&log, Unit::Line, dir.path(), None, now).expect("open");
    append(&log, "one\n");
    std::fs::rename(&log, dir.path().join("auth.log.1")).expect("rename");
    File::create(&log).expect("new log");
    tail.look(now);
    assert_eq!(read_all(&mut tail, now), ["one"]);
    // Nobody looks while all of this happens.
    append(&log, "two\nthree\n");
    std::fs::rename(&log, dir.path().join("auth.log.2")).expect("rename");
    assert!(Command::new("gzip").arg(dir.path().join("auth.log.2")).status().expect("gzip").success());
    append(&log, "four\n");
    tail.look(now);
    let mut lines = read_all(&mut tail, now);
    // The listing that comes after the reading must not take it either.
    tail.look(now);
    lines.extend(read_all(&mut tail, now));
    assert_eq!(lines, ["two", "three", "four"]);
}

#[test]
fn a_log_that_rotated_away_unseen_is_read_once_while_it_is_being_compressed() {
    let dir = tempfile::tempdir().expect("directory");
    let (log, old) = (dir.path().join("auth.log"), dir.path().join("auth.log.1"));
    append(&log, "before the agent\n");
    let now = Timestamp::from(std::time::SystemTime::now());
    let mut tail = Tail::open(&log, Unit::Line, dir.path(), None, now).expect("open");
    std::fs::rename(&log, dir.path().join("auth.log.2")).expect("rename");
    append(&log, "one\ntwo\n");
    std::fs::rename(&log, &old).expect("rename");
    assert!(Command::new("gzip").arg("--keep").arg(&old).status().expect("gzip").success());
    append(&log, "three\n");
    tail.look(now);
    let mut lines = read_all(&mut tail, now);
    std::fs::remove_file(&old).expect("gzip removes what it read");
    tail.look(now);
    lines.extend(read_all(&mut tail, now));
    assert_eq!(lines, ["one", "two", "three"]);
}
