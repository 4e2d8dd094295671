//! The state directory: room on its disk, and the ledger in it.

use std::time::{Duration, Instant};

use picket_protocol::checkpoint::verify_cosignature;
use picket_protocol::note::Note;
use picket_protocol::time::Timestamp;

use super::{Case, Check};
use crate::cli::output::{ago, bytes, count};
use crate::clock;
use crate::ledger::Reader;

/// Below that, SQLite cannot even commit what a bad minute brings.
const BYTES_MIN: u64 = 32 * 1024 * 1024;
/// Files that the agent may make: its own few, evidence, quarantine.
const INODES_MIN: u64 = 1_000;
/// Records that the collector has not confirmed for so long do not only wait for the next batch.
const WAITING_LONG: Duration = Duration::from_secs(5 * 60);

pub(super) fn disk(case: &Case) -> Vec<Check> {
    let state = case.layout.state();
    // Before the first start it is its parent's disk that will have to do.
    let there = state.ancestors().find(|path| path.exists()).unwrap_or(state);
    let room = match rustix::fs::statvfs(there) {
        Ok(room) => room,
        Err(error) => {
            let fix = "look at the mount and at `dmesg`";
            return vec![Check::fault("disk", format!("{}: {error}", there.display()), fix)];
        }
    };
    let (free, whole) =
        (room.f_bavail.saturating_mul(room.f_frsize), room.f_blocks.saturating_mul(room.f_frsize));
    let mut checks = vec![judge_room(case, free, whole)];
    let (inodes, all) = (room.f_favail, room.f_files);
    // File systems that make inodes as they go report none at all.
    if all > 0 && inodes < INODES_MIN {
        let found = format!("{} of {} inodes are free at {}", count(inodes), count(all), there.display());
        checks.push(Check::fault(
            "inodes",
            found,
            "remove small files by the thousand, or make a larger file system",
        ));
    } else {
        checks.push(Check::ok(
            "inodes",
            if all > 0 { format!("{} are free", count(inodes)) } else { "made as needed".to_owned() },
        ));
    }
    if room.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        let found = format!("the file system of {} is read-only", there.display());
        checks.push(Check::fault(
            "disk",
            found,
            "look at `dmesg` for the error that led to it, and mount it for writing",
        ));
    }
    checks
}

fn judge_room(case: &Case, free: u64, whole: u64) -> Check {
    let config = &case.loaded.config;
    let state = case.layout.state().display();
    let taken = std::fs::metadata(case.layout.database()).map_or(0, |metadata| metadata.len());
    let more = config.ledger.disk_bytes_max.saturating_sub(taken);
    let room = format!("{} of {} are free at {state}", bytes(free), bytes(whole));
    if free < BYTES_MIN {
        let fix = "make room: until then nothing can be sealed; it waits, and goes on by itself";
        return Check::fault("disk", room, fix);
    }
    if free < more {
        let found = format!("{room}, and the ledger may grow by {}", bytes(more));
        return Check::warning("disk", found, "make room, or lower ledger.disk_bytes_max in agent.toml");
    }
    let kept = config.evidence.free_bytes_min.max(whole / 100 * u64::from(config.evidence.free_percent_min));
    if free < kept {
        let found = format!("{room}; evidence is refused below {}", bytes(kept));
        return Check::warning(
            "disk",
            found,
            "make room, or lower evidence.free_bytes_min and free_percent_min",
        );
    }
    Check::ok("disk", room)
}

pub(super) fn ledger(case: &Case) -> Vec<Check> {
    let path = case.layout.database();
    if !path.exists() {
        let found = format!("there is none at {} yet", path.display());
        let check = if case.running().is_some() || case.enrolment.is_ok() {
            let fix = "it is made at the first start; when it was there before, restore the state directory as a whole";
            Check::fault("ledger", found, fix)
        } else {
            Check::warning("ledger", found, "start the agent")
        };
        return vec![check];
    }
    let begin = Instant::now();
    let opened = Reader::open(&path).and_then(|reader| Ok((reader.verify_head()?, reader)));
    let (head, reader) = match opened {
        Ok((head, reader)) => (head, reader),
        Err(error) => {
            let fix = "keep a copy of the state directory, then: sudo agent verify; a damaged ledger ends with agent enroll --force";
            return vec![Check::fault("ledger", format!("it cannot be read: {error}"), fix)];
        }
    };
    let took = begin.elapsed().as_millis();
    let check = match head {
        Ok(size) => {
            let on_disk = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
            let (size, on_disk) = (count(size), bytes(on_disk));
            Check::ok(
                "ledger",
                format!("{size} records, the head verified in {took} ms; {on_disk} on the disk"),
            )
        }
        Err(problem) => {
            let fix = "somebody changed the database, or the disk did: keep a copy, then sudo agent verify names every place";
            Check::fault("ledger", problem.to_string(), fix)
        }
    };
    vec![check, acknowledged(case, &reader)]
}

fn acknowledged(case: &Case, reader: &Reader) -> Check {
    let name = "acknowledged";
    let Ok(enrolment) = &case.enrolment else {
        return Check::ok(name, "not enrolled: findings stay on this host");
    };
    let figures = reader.size().and_then(|size| Ok((size, reader.acknowledged()?, reader.cosigned()?)));
    let (size, acknowledged, cosigned) = match figures {
        Ok(figures) => figures,
        Err(error) => return Check::fault(name, error.to_string(), "sudo agent verify"),
    };
    let witness = enrolment.witness_key().ok();
    let note = Note::parse(cosigned.as_bytes()).ok();
    let last = note.zip(witness).and_then(|(note, witness)| verify_cosignature(&note, &witness).ok());
    judge_waiting(size.saturating_sub(acknowledged), last, clock::now())
}

fn judge_waiting(waiting: u64, last: Option<Timestamp>, now: Timestamp) -> Check {
    let name = "acknowledged";
    let heard =
        last.map_or("nothing cosigned yet".to_owned(), |time| format!("last cosigned {}", ago(time, now)));
    let found = match waiting {
        0 => format!("all records are at the collector; {heard}"),
        waiting => format!("{} records not yet acknowledged; {heard}", count(waiting)),
    };
    if waiting > 0 && last.is_none_or(|time| now.since(time) > WAITING_LONG) {
        let fix = "the checks of the way to the collector say where it ends; nothing is lost meanwhile";
        return Check::warning(name, found, fix);
    }
    Check::ok(name, found)
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn records_that_wait_for_long_are_a_warning_and_those_of_this_minute_are_not() {
        let now = Timestamp::parse("2026-11-29T12:00:00Z").expect("a time");
        let before = |minutes: i64| Timestamp::from_nanos(now.nanos() - minutes * 60_000_000_000);
        assert_eq!(judge_waiting(0, Some(before(60)), now).grade, Grade::Ok);
        assert_eq!(judge_waiting(3, Some(before(1)), now).grade, Grade::Ok);
        assert_eq!(judge_waiting(3, Some(before(6)), now).grade, Grade::Warning);
        assert_eq!(judge_waiting(3, None, now).grade, Grade::Warning);
    }
}
