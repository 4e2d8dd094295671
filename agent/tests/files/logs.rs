//! Logs that grow, are rotated by the real logrotate, and are wiped in all the ways that intruders know.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Lab, PATIENCE, rule};

struct Place {
    lab: Lab,
}

impl Place {
    /// `logs/` of the lab holds logs; `.bash_history` beside it is a shell's.
    fn new(rung: &str) -> Self {
        let mut lab = Lab::new(rung);
        let logs = lab.directory.path().join("logs");
        fs::create_dir(&logs).unwrap();
        lab.config.logs = vec![logs, lab.directory.path().join(".bash_history")];
        Self { lab }
    }

    fn started(rung: &str) -> Self {
        let mut place = Self::new(rung);
        fs::write(place.log("app.log"), lines(2_000)).unwrap();
        place.lab.start();
        place
    }

    fn log(&self, name: &str) -> PathBuf {
        self.lab.directory.path().join("logs").join(name)
    }

    fn history(&self) -> PathBuf {
        self.lab.directory.path().join(".bash_history")
    }

    /// Everything is looked at now.
    fn scan(&self) {
        let paths: Vec<PathBuf> = [self.lab.tree(), self.lab.config.logs[0].clone()].into();
        self.lab.scanner().scan(&paths, PATIENCE, |_| {}).unwrap();
    }

    fn found(&self) -> Vec<Value> {
        let findings = self.lab.findings.lock().unwrap();
        findings.iter().filter(|finding| rule(finding).starts_with("log.")).cloned().collect()
    }

    /// Waits for the one finding of that rule about that log.
    fn told(&self, wanted: &str, log: &Path) -> Value {
        let log = log.to_str().unwrap();
        let is_it = |finding: &Value| {
            let logs = finding["evidence"]["logs"].as_array().unwrap();
            rule(finding) == wanted && logs.iter().any(|named| named["text"] == log)
        };
        self.lab.wait(&format!("{wanted} about {log}"), |_| self.found().iter().any(is_it));
        let found = self.found();
        let finding = found.iter().find(|finding| is_it(finding)).unwrap().clone();
        assert_eq!(finding["severity"], "high", "{finding}");
        finding
    }

    /// Nothing is told, even when everything was looked at again and the grace is over.
    fn silent(&self, what: &str) {
        self.scan();
        // Before a scan begins, the counters tell of the one before. No more of them meanwhile: they would put off what
        // changes all the time.
        self.scan();
        self.lab.wait("all graces to be over", |lab| {
            lab.counter("logs_awaited") == 0 && lab.counter("pending") == 0
        });
        self.scan();
        self.lab.wait("arrival", Lab::arrived);
        let titles: Vec<String> = self.found().iter().map(|finding| finding["title"].to_string()).collect();
        assert!(titles.is_empty(), "{what}: {titles:?}");
    }
}

fn lines(count: usize) -> String {
    (0..count).map(|line| format!("Nov 22 03:00:{:02} host app[7]: line {line}\n", line % 60)).collect()
}

fn append(path: &Path, text: &str) {
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn sh(directory: &Path, script: &str) {
    let output = Command::new("sh").args(["-euc", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_log_that_grows_makes_no_finding_and_no_row() {
    let place = Place::started("fanotify");
    let log = place.log("app.log");
    for round in 0..50 {
        append(&log, &lines(round));
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::write(place.log("new.log"), lines(10)).unwrap();
    place.silent("growth");
    assert!(place.lab.findings.lock().unwrap().is_empty());
    assert!(!place.lab.rows().keys().any(|path| path.contains("app.log")));
}

#[test]
fn a_log_that_is_emptied_or_cut_is_told_with_what_is_known_of_the_lost_part() {
    for rung in ["fanotify", "inotify", "scan"] {
        let place = Place::started(rung);
        let log = place.log("app.log");
        let size = fs::metadata(&log).unwrap().len();
        fs::write(&log, "").unwrap();
        let finding = place.told("log.truncated", &log);
        let evidence = &finding["evidence"];
        assert_eq!(
            (evidence["size_before"].as_u64(), evidence["size_after"].as_u64()),
            (Some(size), Some(0))
        );
        let lost = evidence["lost"].as_array().unwrap();
        assert_eq!(lost.last().unwrap()["to"].as_u64(), Some(size));
        assert_eq!(lost[0]["sha256"].as_str().unwrap().len(), 64);
        assert!(finding["attack"].as_array().unwrap().contains(&"T1070.002".into()));
    }
}

#[test]
fn a_deleted_log_is_told_and_many_are_one_finding() {
    let mut place = Place::new("fanotify");
    for number in 0..30 {
        fs::write(place.log(&format!("{number:02}.log")), lines(50)).unwrap();
    }
    place.lab.start();
    sh(place.lab.directory.path(), "rm logs/*");
    place.lab.wait("30 logs", |_| {
        place.found().iter().any(|finding| finding["observed"]["count"].as_u64() == Some(30))
    });
    let found = place.found();
    assert!(found.iter().all(|finding| finding["id"] == found[0]["id"] && rule(finding) == "log.deleted"));
}

#[test]
fn edits_are_placed() {
    let place = Place::started("fanotify");
    let log = place.log("app.log");
    let size = fs::metadata(&log).unwrap().len();
    // A line is overwritten in place, as those who clean wtmp do.
    let mut file = fs::OpenOptions::new().write(true).open(&log).unwrap();
    file.seek(SeekFrom::Start(100)).unwrap();
    file.write_all(b"nothing happened here at all").unwrap();
    drop(file);
    let finding = place.told("log.edited", &log);
    assert_eq!(finding["evidence"]["lost"][0]["from"], 0);
    // A line is taken out by an editor, which writes another file in its place.
    place.lab.forget();
    sh(place.lab.directory.path(), "sed -i 2,3d logs/app.log");
    let finding = place.told("log.deleted", &log);
    assert_eq!(finding["evidence"]["replaced"], true);
    assert_eq!(finding["evidence"]["size_before"].as_u64(), Some(size));
}

#[test]
fn a_log_led_to_dev_null_is_disabled() {
    let place = Place::started("fanotify");
    let log = place.log("app.log");
    sh(place.lab.directory.path(), "ln -sf /dev/null logs/app.log");
    let finding = place.told("log.disabled", &log);
    assert_eq!(finding["evidence"]["led_to"]["target"]["text"], "/dev/null");
}

#[test]
fn what_was_done_to_a_log_while_the_agent_was_down_is_told() {
    let mut place = Place::started("fanotify");
    fs::write(place.log("other.log"), lines(100)).unwrap();
    append(&place.log("app.log"), &lines(5));
    place.scan();
    place.lab.stop();
    fs::write(place.log("app.log"), lines(3)).unwrap();
    fs::remove_file(place.log("other.log")).unwrap();
    place.lab.start();
    let finding = place.told("log.truncated", &place.log("app.log"));
    assert_eq!(finding["evidence"]["seen_by"], "rescan");
    place.told("log.deleted", &place.log("other.log"));
}

#[test]
fn a_shell_may_write_its_history_anew_but_not_lose_it() {
    let mut place = Place::new("fanotify");
    let history: String = (0..200).map(|line| format!("command number {line}\n")).collect();
    fs::write(place.history(), &history).unwrap();
    place.lab.start();
    // As at the end of a session with HISTFILESIZE.
    let kept: String = history.lines().skip(100).map(|line| format!("{line}\n")).collect();
    fs::write(place.history(), kept + "exit\n").unwrap();
    place.silent("a history written anew");
    fs::write(place.history(), "exit\n").unwrap();
    let finding = place.told("log.truncated", &place.history());
    assert!(finding["attack"].as_array().unwrap().contains(&"T1070.003".into()));
    place.lab.forget();
    sh(place.lab.directory.path(), "rm .bash_history; ln -s /dev/null .bash_history");
    place.told("log.disabled", &place.history());
}

/// Rotates the logs three times with the real logrotate, each time with new lines before.
fn rotate(options: &str) {
    let place = Place::started("fanotify");
    let at = place.lab.directory.path();
    let configuration = format!("{}/logs/*.log {{\n  rotate 2\n  missingok\n  {options}\n}}\n", at.display());
    fs::write(at.join("rotate.conf"), configuration).unwrap();
    fs::set_permissions(at, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for round in 0..4 {
        if place.log("app.log").exists() {
            append(&place.log("app.log"), &lines(100 + round));
        } else {
            fs::write(place.log("app.log"), lines(100 + round)).unwrap();
        }
        place.scan();
        // A name by the second is taken until the second is over.
        std::thread::sleep(Duration::from_millis(if options.contains("%s") { 1_050 } else { 0 }));
        sh(at, "logrotate --force --state rotate.state rotate.conf");
        place.scan();
    }
    place.silent(options);
}

#[test]
fn rotation_is_no_alarm() {
    rotate("create");
    rotate("nocreate");
}

#[test]
fn rotation_by_copy_is_no_alarm() {
    rotate("copytruncate");
}

#[test]
fn rotation_with_compression_is_no_alarm() {
    rotate("create\n  compress");
    rotate("copytruncate\n  compress");
    rotate("create\n  compress\n  delaycompress");
}

#[test]
fn rotation_by_date_is_no_alarm() {
    rotate("create\n  dateext\n  dateformat -%Y%m%d-%s");
}
