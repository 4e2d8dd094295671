//! The sensor as a whole on a plain log.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use picket_agent::sense::{SensorState, logins};

use crate::ledger::{Bench, assert_complete, config, line, wait_for};

/// What gathers waits for a second; what does not is sealed in half of that even on a busy machine.
const PROMPT: Duration = Duration::from_millis(500);

#[test]
fn a_log_that_exists_is_read_from_its_end_and_one_that_appears_from_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old.log"), dir.path().join("sub/new.log"));
    std::fs::write(&old, line(7)).unwrap();
    let bench = Bench::new(dir.path());
    let run = bench.start(&config(&[&old, &new]));
    std::fs::create_dir(new.parent().unwrap()).unwrap();
    std::fs::write(&new, line(0)).unwrap();
    OpenOptions::new().append(true).open(&old).unwrap().write_all(line(1).as_bytes()).unwrap();
    wait_for("both lines", || (bench.sealed().len() == 2).then_some(()));
    run.stop();
    assert_complete(&bench.sealed(), 2);
}

#[test]
fn a_log_behind_a_symbolic_link_that_leads_nowhere_yet_wakes_the_sensor() {
    let dir = tempfile::tempdir().unwrap();
    let (link, target) = (dir.path().join("auth.log"), dir.path().join("elsewhere/auth.log"));
    std::fs::create_dir(target.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let bench = Bench::new(dir.path());
    let run = bench.start(&config(&[&link]));
    std::fs::write(&target, line(0)).unwrap();
    let begin = Instant::now();
    wait_for("the line", || (bench.sealed().len() == 1).then_some(()));
    assert!(begin.elapsed() < Duration::from_secs(10), "not by the clock");
    run.stop();
}

#[test]
fn no_log_at_all_is_said_and_so_is_its_coming() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("auth.log");
    let bench = Bench::new(dir.path());
    let probe = logins::probe(&config(&[&log]));
    assert!(probe.rungs.iter().all(|rung| !rung.usable && !rung.reason.is_empty()), "{probe:?}");
    let run = bench.start(&config(&[&log]));
    let report = wait_for("the complaint", || {
        let report = run.report();
        (report.state == SensorState::Degraded).then_some(report)
    });
    assert!(report.reason.contains("auth.log"), "{}", report.reason);
    std::fs::write(&log, line(0)).unwrap();
    wait_for("the log's coming", || (run.report().state == SensorState::Running).then_some(()));
    run.stop();
}

#[test]
fn bad_lines_are_survived_counted_and_do_not_hide_good_ones() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("auth.log");
    std::fs::write(&log, "").unwrap();
    let bench = Bench::new(dir.path());
    let run = bench.start(&config(&[&log]));
    let mut bytes = b"Nov 21 12:00:00 host sshd[1]: Failed password for ".to_vec();
    bytes.extend(vec![b'A'; 1 << 20]);
    bytes.extend(b" from 192.0.2.7 port 22 ssh2\n");
    bytes.extend(vec![0; 4096]);
    bytes.extend(line(0).as_bytes());
    bytes.extend(b"\xff\xfe\x00\x1b[2J\n\n\n");
    bytes.extend(vec![b'B'; 9_000]);
    bytes.push(b'\n');
    bytes.extend(line(1).as_bytes());
    OpenOptions::new().append(true).open(&log).unwrap().write_all(&bytes).unwrap();
    wait_for("the good lines", || (bench.sealed().len() == 2).then_some(()));
    wait_for("the counts", || (run.report().counters.get("long-lines") == Some(&2)).then_some(()));
    run.stop();
    assert_complete(&bench.sealed(), 2);
}

#[test]
fn a_line_written_in_pieces_is_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("auth.log");
    let mut file = std::fs::File::create(&log).unwrap();
    let bench = Bench::new(dir.path());
    let run = bench.start(&config(&[&log]));
    let text = line(0);
    for piece in text.as_bytes().chunks(7) {
        file.write_all(piece).unwrap();
        file.flush().unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    wait_for("the line", || (bench.sealed().len() == 1).then_some(()));
    run.stop();
    assert_complete(&bench.sealed(), 1);
}

/// How long each of `lines` takes from the log to the ledger, one after the other.
fn latencies(lines: impl Iterator<Item = String>, sealed: impl Fn(&Bench) -> usize) -> Vec<Duration> {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("auth.log");
    let mut file = std::fs::File::create(&log).unwrap();
    let bench = Bench::new(dir.path());
    let run = bench.start(&config(&[&log]));
    wait_for("the sensor", || (run.report().state == SensorState::Running).then_some(()));
    let mut took = Vec::new();
    for (n, line) in lines.enumerate() {
        let begin = Instant::now();
        file.write_all(line.as_bytes()).unwrap();
        wait_for("the line", || (sealed(&bench) == n + 1).then_some(()));
        took.push(begin.elapsed());
    }
    run.stop();
    took.sort_unstable();
    println!("line to sealed entry: median {:?}, worst {:?}", took.get(took.len() / 2), took.last());
    took
}

#[test]
fn the_first_failures_after_calm_are_handed_to_the_ledger_within_milliseconds() {
    let took = latencies((0..8).map(line), |bench| bench.sealed().len());
    assert!(took[took.len() / 2] <= PROMPT, "{took:?}");
}

#[test]
fn whoever_gets_in_is_told_within_milliseconds_however_many_do() {
    let came = |n: u64| {
        format!("Nov 21 12:00:00 host sshd[{n}]: Accepted password for u{n} from 192.0.2.7 port 22 ssh2\n")
    };
    let took = latencies((0..50).map(came), |bench| bench.sealed_by("login.success").len());
    assert!(took[took.len() / 2] <= PROMPT, "{took:?}");
}

#[test]
fn a_stream_of_failures_gathers_and_an_alarm_in_it_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("auth.log");
    let mut file = std::fs::File::create(&log).unwrap();
    let bench = Bench::new(dir.path());
    let run = bench.start(&config(&[&log]));
    wait_for("the sensor", || (run.report().state == SensorState::Running).then_some(()));
    let guess = |n: u64| {
        format!("Nov 21 12:00:00 host sshd[{n}]: Failed password for root from 192.0.2.7 port 22 ssh2\n")
    };
    // What may be told at once is used up, and more.
    (0..12).for_each(|n| file.write_all(line(n).as_bytes()).unwrap());
    wait_for("the first lines", || (bench.sealed().len() >= 8).then_some(()));
    let before = bench.entries();
    let begin = Instant::now();
    for n in 12..92 {
        file.write_all(line(n).as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    // Counted before the clock is read: what comes between the two is within the time.
    let commits = bench.entries() - before;
    let passed = begin.elapsed().as_secs();
    // One a second by the clock, one a second that may be told at once, and what was under way.
    assert!(commits as u64 <= 2 * (passed + 1) + 2, "{commits} commits in {passed} s");
    let mut took = Vec::new();
    for attacker in 0..10u64 {
        let address = |line: String| line.replace("192.0.2.7", &format!("198.51.100.{}", attacker + 1));
        let text: String = (0..5).map(|n| address(guess(2_000 + attacker * 10 + n))).collect();
        let begin = Instant::now();
        file.write_all(text.as_bytes()).unwrap();
        wait_for("the alarm", || {
            (bench.sealed_by("login.brute-force").len() as u64 > attacker).then_some(())
        });
        took.push(begin.elapsed());
    }
    run.stop();
    took.sort_unstable();
    println!("the fifth failure to the sealed alarm: {took:?}");
    assert!(took[5] <= PROMPT, "{took:?}");
}

#[test]
fn ten_thousand_lines_at_once_fit_through_and_memory_of_the_queue_stays_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("auth.log");
    std::fs::write(&log, "").unwrap();
    let bench = Bench::new(dir.path());
    let run = bench.start(&config(&[&log]));
    let text: String = (0..10_000).map(line).collect();
    OpenOptions::new().append(true).open(&log).unwrap().write_all(text.as_bytes()).unwrap();
    wait_for("all lines", || (bench.findings.lock().unwrap().len() == 10_000).then_some(()));
    run.stop();
    assert_complete(&bench.sealed(), 10_000);
    assert_eq!(crate::ledger::numbers(&bench.sealed()), (0..10_000).collect::<Vec<_>>(), "in order");
}
