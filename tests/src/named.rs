//! A process as orders name it: its number, when it began, and the SHA-256 of its program.

use std::process::Command;

/// See the module.
pub struct NamedProcess {
    /// Its number.
    pub pid: String,
    /// As findings tell it: ticks since boot, by the wall clock.
    pub started: String,
    /// Of its program, in hex.
    pub sha256: String,
}

impl NamedProcess {
    /// The process `pid`, as it is now.
    pub fn of(pid: u32) -> Self {
        let sum = Command::new("sha256sum").arg(format!("/proc/{pid}/exe")).output().expect("sha256sum");
        let sum = String::from_utf8(sum.stdout).expect("text");
        let sha256 = sum.split_whitespace().next().expect("a digest").to_owned();
        Self { pid: pid.to_string(), started: began(pid), sha256 }
    }
}

/// When the process `pid` began, as findings tell it.
pub fn began(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let fields = stat.rsplit(')').next().expect("fields");
    let ticks: u64 =
        fields.split_whitespace().nth(19).and_then(|ticks| ticks.parse().ok()).expect("its beginning");
    let nanos = |id| {
        let time = rustix::time::clock_gettime(id);
        let whole = u64::try_from(time.tv_sec).expect("after 1970") * 1_000_000_000;
        whole + u64::try_from(time.tv_nsec).expect("a part of a second")
    };
    let boot = nanos(rustix::time::ClockId::Realtime) - nanos(rustix::time::ClockId::Boottime);
    let time = boot + ticks * 10_000_000;
    let at = format!("@{}.{:09}", time / 1_000_000_000, time % 1_000_000_000);
    let text = Command::new("date").args(["--utc", "--date", &at, "+%Y-%m-%dT%H:%M:%S.%NZ"]).output();
    String::from_utf8(text.expect("date").stdout).expect("text").trim().to_owned()
}
