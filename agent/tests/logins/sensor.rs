//! The sensor as a whole on a plain log.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use picket_agent::sense::{SensorState, logins};

use crate::ledger::{Bench, assert_complete, config, line, wait_for};

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

#[test]
fn a_line_is_handed_to_the_ledger_within_milliseconds() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("auth.log");
    let mut file = std::fs::File::create(&log).unwrap();
    let bench = Bench::new(dir.path());
    let run = bench.start(&config(&[&log]));
    wait_for("the sensor", || (run.report().state == SensorState::Running).then_some(()));
    let mut took = Vec::new();
    for n in 0..50 {
        let begin = Instant::now();
        file.write_all(line(n).as_bytes()).unwrap();
        wait_for("the line", || {
            (bench.findings.lock().unwrap().len() == usize::try_from(n + 1).unwrap()).then_some(())
        });
        took.push(begin.elapsed());
    }
    run.stop();
    took.sort_unstable();
    let median = took[took.len() / 2];
    println!("line to sealed entry: median {median:?}, worst {:?}", took.last());
    assert!(median <= Duration::from_millis(20), "{median:?}");
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
