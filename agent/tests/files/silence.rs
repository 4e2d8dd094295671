//! Logs that fall silent because the real rsyslogd was stopped, and all that only looks like it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use picket_agent::detect::logs::silence::Thresholds;
use picket_agent::sense::processes::Tuning;
use serde_json::Value;

use crate::lab::{Lab, rule};
use crate::who::Table;

/// A logging daemon of the test's own, with a socket of its own.
struct Daemon {
    child: Child,
    at: PathBuf,
}

impl Daemon {
    fn start(at: &Path) -> Self {
        let place = at.display();
        let configuration = format!(
            "module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
             input(type=\"imuxsock\" Socket=\"{place}/socket\" RateLimit.Interval=\"0\")\n\
             auth.* {place}/logs/auth.log\nmail.* {place}/logs/mail.log\n"
        );
        fs::write(at.join("rsyslog.conf"), configuration).unwrap();
        // Another one may run on this machine.
        let program = at.join("rsyslogd");
        if !program.exists() {
            fs::copy("/usr/sbin/rsyslogd", &program).unwrap();
        }
        let child = Command::new(&program)
            .args(["-n", "-f"])
            .arg(at.join("rsyslog.conf"))
            .arg("-i")
            .arg(at.join("rsyslog.pid"))
            .spawn()
            .unwrap();
        Self { child, at: at.to_path_buf() }
    }

    /// Says one line, when the daemon listens.
    fn say(&self, lab: &Lab, facility: &str) {
        let socket = self.at.join("socket");
        lab.wait("a line to be taken", |_| {
            let line = ["-p", &format!("{facility}.info"), "session opened for user root"];
            let status = Command::new("logger")
                .arg("-u")
                .arg(&socket)
                .args(["--socket-errors=on"])
                .args(line)
                .output();
            status.unwrap().status.success()
        });
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn kill(self) {
        drop(self);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let _gone = fs::remove_file(self.at.join("socket")).is_err();
        let _gone = fs::remove_file(self.at.join("rsyslog.pid")).is_err();
    }
}

/// An hour is half a second here; a restart has four seconds.
const HASTE: Thresholds = Thresholds {
    span: Duration::from_millis(500),
    active: 6,
    grace: Duration::from_secs(4),
    learn: Duration::from_secs(3_600),
    pauses: 4,
    pause_min: Duration::from_secs(1_800),
    check: Duration::from_millis(100),
};

fn disabled(lab: &Lab) -> Vec<Value> {
    let findings = lab.findings.lock().unwrap();
    findings.iter().filter(|finding| rule(finding) == "log.disabled").cloned().collect()
}

#[test]
fn logs_whose_daemon_is_killed_are_told_and_its_rotation_and_restart_are_not() {
    let table = Table::start(&Tuning::default());
    let mut lab = Lab::new("fanotify");
    lab.processes = table.processes.clone();
    lab.tuning.silence = HASTE;
    // The daemon never closes its logs: growth is to be seen within a span.
    lab.tuning.settle = Duration::from_millis(250);
    let at = lab.directory.path().to_path_buf();
    let (logs, auth) = (at.join("logs"), at.join("logs/auth.log"));
    fs::create_dir(&logs).unwrap();
    lab.config.logs = vec![logs.clone()];
    // One that is idle for the most part: nobody misses it.
    fs::write(logs.join("rare.log"), "once\n").unwrap();
    lab.start();
    let daemon = Daemon::start(&at);
    // Nobody but time itself makes a habit.
    let grow = |daemon: &Daemon, facility: &str, log: &Path| {
        let size = || fs::metadata(log).map_or(0, |meta| meta.len());
        let before = size();
        daemon.say(&lab, facility);
        lab.wait("growth", |_| size() > before);
        std::thread::sleep(HASTE.span / 5);
    };
    lab.wait("two steady logs", |lab| {
        grow(&daemon, "auth", &auth);
        grow(&daemon, "mail", &logs.join("mail.log"));
        lab.counter("logs_steady") == 2
    });
    // Rotated as logrotate does, and restarted as an upgrade does, within the time that is given to both.
    fs::rename(&auth, logs.join("auth.log.1")).unwrap();
    daemon.signal("-HUP");
    // A line that comes before the daemon has acted on the signal is written to the old file.
    lab.wait("a new file", |lab| {
        daemon.say(lab, "auth");
        auth.exists()
    });
    grow(&daemon, "auth", &auth);
    let pid = daemon.child.id();
    daemon.kill();
    let daemon = Daemon::start(&at);
    // It has not opened its logs again, since nothing was said: the time given is over twice, and still it runs.
    std::thread::sleep(HASTE.grace * 2);
    assert_eq!(disabled(&lab), Vec::<Value>::new());
    assert_eq!(lab.counter("logs_steady"), 2);
    let size = fs::metadata(&auth).unwrap().len();
    daemon.kill();
    lab.wait("both logs", |lab| disabled(lab).iter().any(|finding| finding["observed"]["count"] == 2));
    let found = disabled(&lab);
    let finding = found.last().unwrap();
    assert!(found.iter().all(|other| other["id"] == finding["id"]), "{found:#?}");
    assert_eq!(finding["severity"], "high");
    assert!(
        finding["title"].as_str().unwrap().contains("is not written any more: rsyslogd (process "),
        "{finding}"
    );
    let logs_named = finding["evidence"]["logs"].as_array().unwrap();
    assert!(logs_named.iter().any(|log| log["text"] == auth.to_str().unwrap()), "{finding}");
    let first = &found[0]["evidence"];
    if first["path"]["text"] == auth.to_str().unwrap() {
        assert_eq!(first["silence"]["writer"]["processes"].as_array().unwrap().last().unwrap()["pid"], pid);
        assert_eq!((first["size_after"].as_u64(), first["held"][0]["to"].as_u64()), (Some(size), Some(size)));
    }
    assert!(finding["attack"].as_array().unwrap().contains(&"T1562.001".into()));
    // It comes back.
    let daemon = Daemon::start(&at);
    grow(&daemon, "auth", &auth);
    lab.wait("the end of the silence", |lab| {
        disabled(lab).iter().any(|finding| {
            finding["severity"] == "info"
                && finding["title"].as_str().unwrap().contains("auth.log is written again")
        })
    });
    daemon.kill();
}
