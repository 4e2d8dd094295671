//! Everything that log rotation does, with a writer at full speed, and kills in between.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use picket_agent::sys::Stop;

use picket_agent::config::LoginsConfig;

use crate::ledger::{Bench, assert_complete, config, line, record, wait_for};

/// The writer is so many lines ahead of what was asked for at most: it writes on while files are renamed, but how much is to
/// be read does not grow with how slow the machine is (a slower one would have to read more, and so be slower still).
const AHEAD: u64 = 256;

/// Writes numbered lines as a log daemon does: to the file that it holds open until told to open it anew.
struct Writer {
    path: PathBuf,
    file: Arc<Mutex<File>>,
    written: Arc<AtomicU64>,
    /// It waits when it has written so many.
    enough: Arc<AtomicU64>,
    stop: Stop,
    thread: JoinHandle<()>,
}

impl Writer {
    fn start(path: &Path, render: fn(u64) -> Vec<u8>) -> Self {
        let file = Arc::new(Mutex::new(append(path)));
        let written = Arc::new(AtomicU64::new(0));
        let stop = Stop::new().unwrap();
        let enough = Arc::new(AtomicU64::new(AHEAD));
        let (to, count, end) = (Arc::clone(&file), Arc::clone(&written), stop.clone());
        let limit = Arc::clone(&enough);
        let thread = std::thread::spawn(move || {
            for n in 0.. {
                to.lock().unwrap().write_all(&render(n)).unwrap();
                count.store(n + 1, Ordering::SeqCst);
                // Some thousand lines a second: faster than any sshd.
                if n % 8 != 7 {
                    continue;
                }
                loop {
                    if end.wait(std::time::Duration::from_millis(1)) {
                        return;
                    }
                    if n < limit.load(Ordering::SeqCst) {
                        break;
                    }
                }
            }
        });
        Self { path: path.to_owned(), file, written, enough, stop, thread }
    }

    /// Waits until so many more lines were written.
    fn run(&self, lines: u64) {
        let goal = self.written.load(Ordering::SeqCst) + lines;
        self.enough.store(goal + AHEAD, Ordering::SeqCst);
        wait_for("the writer", || (self.written.load(Ordering::SeqCst) >= goal).then_some(()));
    }

    /// What SIGHUP does to a log daemon.
    fn reopen(&self) {
        *self.file.lock().unwrap() = append(&self.path);
    }

    fn finish(self) -> u64 {
        self.stop.set();
        self.thread.join().unwrap();
        self.written.load(Ordering::SeqCst)
    }
}

fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// `auth.log.1` becomes `auth.log.2` and so on.
fn shift(log: &Path, keep: u32) {
    let name = |n: u32| log.with_extension(format!("log.{n}"));
    for n in (1..keep).rev() {
        if name(n).exists() {
            std::fs::rename(name(n), name(n + 1)).unwrap();
        }
    }
}

fn first(log: &Path) -> PathBuf {
    log.with_extension("log.1")
}

fn by_rename(log: &Path, writer: &Writer) {
    shift(log, 30);
    std::fs::rename(log, first(log)).unwrap();
    // Programs write on to the old file until they are told.
    writer.run(20);
    writer.reopen();
    writer.run(20);
}

fn by_rename_and_compression(log: &Path, writer: &Writer) {
    let name = |n: u32| log.with_extension(format!("log.{n}.gz"));
    for n in (1..40).rev().filter(|n| name(*n).exists()) {
        std::fs::rename(name(n), name(n + 1)).unwrap();
    }
    by_rename(log, writer);
    assert!(Command::new("gzip").arg(first(log)).status().unwrap().success());
}

/// What is written between the copy and the emptying is lost by copytruncate itself, so nothing is written then.
fn by_copy(log: &Path, writer: &Writer) {
    let held = writer.file.lock().unwrap();
    shift(log, 30);
    std::fs::copy(log, first(log)).unwrap();
    held.set_len(0).unwrap();
}

/// A text log, or a file of records.
#[derive(Clone, Copy)]
struct Form {
    name: &'static str,
    render: fn(u64) -> Vec<u8>,
    config: fn(&Path) -> LoginsConfig,
}

const TEXT: Form =
    Form { name: "auth.log", render: |n| line(n).into_bytes(), config: |path| config(&[path]) };
const RECORDS: Form = Form {
    name: "btmp.log",
    render: record,
    config: |path| LoginsConfig { records: vec![path.to_owned()], ..config(&[]) },
};

fn survives(form: Form, rotate: impl Fn(&Path, &Writer), rotations: u32) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join(form.name);
    File::create(&log).unwrap();
    let bench = Bench::new(dir.path());
    let run = bench.start(&(form.config)(&log));
    let writer = Writer::start(&log, form.render);
    for _ in 0..rotations {
        writer.run(200);
        rotate(&log, &writer);
    }
    writer.run(100);
    let count = writer.finish();
    wait_for("the last line", || (bench.findings.lock().unwrap().len() as u64 >= count).then_some(()));
    let report = run.report();
    run.stop();
    assert_complete(&bench.sealed(), count);
    assert_eq!(report.counters.get("files-lost"), Some(&0), "{:?}", report.counters);
}

#[test]
fn twenty_rotations_by_rename() {
    survives(TEXT, by_rename, 20);
}

#[test]
fn twenty_rotations_by_rename_with_compression() {
    survives(TEXT, by_rename_and_compression, 20);
}

#[test]
fn twenty_rotations_by_copy_and_truncation() {
    survives(TEXT, by_copy, 20);
}

#[test]
fn twenty_rotations_of_records_by_rename() {
    survives(RECORDS, by_rename, 20);
}

#[test]
fn twenty_rotations_of_records_by_copy_and_truncation() {
    survives(RECORDS, by_copy, 20);
}

/// The sensor dies after a few entries, as in kill -9, again and again, while the log is rotated.
fn survives_kills(form: Form, rotate: impl Fn(&Path, &Writer), kills: usize) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join(form.name);
    File::create(&log).unwrap();
    let config = (form.config)(&log);
    let bench = Bench::new(dir.path());
    bench.start(&config).stop();
    let writer = Writer::start(&log, form.render);
    for kill in 0..kills {
        // The first two entries of a run say where it begins: what it reads is lost then, or all but what was sealed first.
        let run = bench.start_with(&config, 2 + kill % 2);
        writer.run(150);
        rotate(&log, &writer);
        writer.run(50);
        wait_for("the kill", || run.has_ended().then_some(()));
        run.stop();
        if kill % 3 == 0 {
            // Rotated once more while nobody looks.
            rotate(&log, &writer);
            writer.run(30);
        }
    }
    let count = writer.finish();
    let run = bench.start(&config);
    wait_for("the last line", || (bench.findings.lock().unwrap().len() as u64 >= count).then_some(()));
    run.stop();
    assert_complete(&bench.sealed(), count);
}

#[test]
fn kills_between_rotations_by_rename() {
    survives_kills(TEXT, by_rename, 12);
}

#[test]
fn kills_between_rotations_with_compression() {
    survives_kills(TEXT, by_rename_and_compression, 12);
}

#[test]
fn kills_between_rotations_by_copy_and_truncation() {
    survives_kills(TEXT, by_copy, 12);
}

#[test]
fn kills_between_rotations_of_records_by_rename() {
    survives_kills(RECORDS, by_rename, 12);
}

#[test]
fn a_copy_that_somebody_makes_is_not_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("auth.log");
    File::create(&log).unwrap();
    let bench = Bench::new(dir.path());
    let run = bench.start(&config(&[&log]));
    let mut file = append(&log);
    for n in 0..10 {
        file.write_all(line(n).as_bytes()).unwrap();
    }
    wait_for("ten lines", || (bench.sealed().len() == 10).then_some(()));
    std::fs::copy(&log, dir.path().join("auth.log.bak")).unwrap();
    std::fs::copy(&log, dir.path().join("auth.log.9")).unwrap();
    std::fs::rename(&log, first(&log)).unwrap();
    append(&log).write_all(line(10).as_bytes()).unwrap();
    wait_for("the next line", || (bench.sealed().len() >= 11).then_some(()));
    run.stop();
    bench.start(&config(&[&log])).stop();
    assert_complete(&bench.sealed(), 11);
}

#[test]
fn a_log_that_was_emptied_and_filled_beyond_the_old_place_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("auth.log");
    File::create(&log).unwrap();
    let bench = Bench::new(dir.path());
    let run = bench.start(&config(&[&log]));
    append(&log).write_all(line(0).as_bytes()).unwrap();
    wait_for("a line", || (bench.sealed().len() == 1).then_some(()));
    run.stop();
    let text: String = (1..50).map(line).collect();
    std::fs::write(&log, text).unwrap();
    let run = bench.start(&config(&[&log]));
    wait_for("all lines", || (bench.sealed().len() == 50).then_some(()));
    run.stop();
    assert_complete(&bench.sealed(), 50);
}

#[test]
fn what_was_deleted_while_the_agent_was_off_is_counted_as_lost() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("auth.log");
    std::fs::write(&log, line(0)).unwrap();
    let bench = Bench::new(dir.path());
    bench.start(&config(&[&log])).stop();
    std::fs::rename(&log, dir.path().join("gone")).unwrap();
    std::fs::write(&log, line(0)).unwrap();
    let run = bench.start(&config(&[&log]));
    wait_for("the new log's line", || (bench.sealed().len() == 1).then_some(()));
    wait_for("the count", || (run.report().counters.get("files-lost") == Some(&1)).then_some(()));
    run.stop();
}
