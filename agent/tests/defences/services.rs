//! Services, by real control groups below a root of the test's own; and by their programs where there is no systemd.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::lab::{Lab, sh};

/// A slice of the real second control group hierarchy, where the sensor finds that of systemd.
struct Slice(PathBuf);

impl Slice {
    fn new(root: &Path) -> Self {
        let bases = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let base = bases.into_iter().find(|base| base.join("cgroup.procs").exists()).expect("cgroup2");
        let slice = base.join(format!("picket-test-{}", std::process::id()));
        std::fs::create_dir(&slice).unwrap();
        std::fs::create_dir_all(root.join("sys/fs/cgroup")).unwrap();
        std::fs::create_dir_all(root.join("run/systemd/system")).unwrap();
        std::os::unix::fs::symlink(&slice, root.join("sys/fs/cgroup/system.slice")).unwrap();
        Self(slice)
    }

    fn start(&self, unit: &str) -> Service {
        let group = self.0.join(unit);
        std::fs::create_dir(&group).unwrap();
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        std::fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
        Service { child, group }
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        let groups = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        for group in groups.filter(|entry| entry.path().is_dir()) {
            let _kept_by_a_process = std::fs::remove_dir(group.path()).is_err();
        }
        let _kept = std::fs::remove_dir(&self.0).is_err();
    }
}

struct Service {
    child: Child,
    group: PathBuf,
}

impl Service {
    /// As the service manager does: the process ends, then its group goes.
    fn stop(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        while std::fs::remove_dir(&self.group).is_err() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_logging_service_that_stops_is_told_and_a_restart_is_not() {
    let mut lab = Lab::new();
    let root = lab.path("root");
    let slice = Slice::new(&root);
    let wants = root.join("etc/systemd/system/multi-user.target.wants");
    let units = root.join("lib/systemd/system");
    std::fs::create_dir_all(&wants).unwrap();
    std::fs::create_dir_all(&units).unwrap();
    std::os::unix::fs::symlink("/proc", root.join("proc")).unwrap();
    for unit in ["rsyslog.service", "cron.service", "fail2ban.service"] {
        std::fs::write(units.join(unit), "[Service]\n").unwrap();
        std::os::unix::fs::symlink(units.join(unit), wants.join(unit)).unwrap();
    }
    lab.setup.root.clone_from(&root);
    // What settles has two and a half seconds here: on a busy machine half a second passes between a stop and a start.
    lab.setup.haste = 2;
    let [rsyslog, cron, bans] =
        ["rsyslog", "cron", "fail2ban"].map(|name| slice.start(&format!("{name}.service")));
    lab.start(&["services"]);
    // An upgrade: stop, and start a moment later.
    let events = lab.counter("events");
    rsyslog.stop();
    lab.wait("the event of the stop", |lab| lab.counter("events") > events);
    let rsyslog = slice.start("rsyslog.service");
    lab.wait("the event of the start", |lab| lab.counter("events") > events + 1);
    // Stopped and disabled for good.
    rsyslog.stop();
    std::fs::remove_file(wants.join("rsyslog.service")).unwrap();
    let words = "rsyslog.service (logging) has stopped and is no longer started at boot";
    lab.told_only("defence.logging", "high", words);
    lab.forget();
    cron.stop();
    lab.told_only("defence.service", "medium", "cron.service (scheduled jobs) has stopped");
    lab.forget();
    bans.stop();
    std::os::unix::fs::symlink("/dev/null", root.join("etc/systemd/system/fail2ban.service")).unwrap();
    lab.told_only("defence.service", "high", "fail2ban.service (security) has stopped and was masked");
    lab.forget();
    let rsyslog = slice.start("rsyslog.service");
    lab.told_only("defence.logging", "info", "rsyslog.service runs again");
    rsyslog.stop();
    lab.stop();
}

#[test]
fn without_systemd_a_logging_program_that_ends_is_told() {
    let mut lab = Lab::new();
    let root = lab.path("root");
    std::fs::create_dir_all(&root).unwrap();
    std::os::unix::fs::symlink("/proc", root.join("proc")).unwrap();
    lab.setup.root.clone_from(&root);
    let program = lab.path("syslog-ng");
    sh(&format!("cp /bin/sleep {}", program.display()));
    let mut child = Command::new(&program).arg("600").spawn().unwrap();
    lab.start(&["services"]);
    child.kill().unwrap();
    child.wait().unwrap();
    lab.told("defence.logging", "high", "syslog-ng (logging) has stopped");
}
