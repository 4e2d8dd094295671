//! A real journald, alone in a mount namespace of its own: `/run` and `/dev/log` are its, the machine's stay untouched.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use picket_agent::config::LoginsConfig;
use picket_agent::sense::{SensorState, logins};

use crate::ledger::{Bench, assert_complete, line, wait_for};

const JOURNALD: &str = "/lib/systemd/systemd-journald";
/// Set in the process that runs inside the namespace.
const INSIDE: &str = "PICKET_TEST_INSIDE";

/// Runs `test` of this binary again, inside a mount and PID namespace with a journald of its own.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    assert!(Path::new(JOURNALD).exists(), "systemd is not installed: {JOURNALD}");
    let script = format!(
        "set -e
        mount -t tmpfs none /run; mount -t tmpfs none /var/log
        mkdir -p /run/systemd/journal /run/log/journal
        [ -s /etc/machine-id ] || {{ mount -t tmpfs none /tmp; systemd-id128 new > /tmp/id; mount --bind /tmp/id /etc/machine-id; }}
        mount -t tmpfs -o mode=755 none /mnt; cp -a /dev/null /dev/zero /dev/urandom /dev/random /dev/full /dev/tty /mnt/ 2>/dev/null || true
        ln -s /proc/self/fd /mnt/fd; touch /mnt/kmsg; mkdir /mnt/shm; mount --move /mnt /dev
        ln -s /run/systemd/journal/dev-log /dev/log
        {JOURNALD} >/dev/null 2>&1 &
        for i in $(seq 3000); do [ -n \"$(journalctl --quiet --lines=1 2>/dev/null)\" ] && break; sleep 0.01; done
        exec \"$0\" --exact \"$1\" --nocapture"
    );
    let me = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script]);
    let output = command.arg(me).arg(test).env(INSIDE, "1").stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "inside the namespace: {text}\n{errors}");
    false
}

fn config() -> LoginsConfig {
    LoginsConfig {
        logs: vec!["/var/log/auth.log".into()],
        audit: false,
        records: Vec::new(),
        ..LoginsConfig::default()
    }
}

/// A line as sshd writes it, by root from a process with sshd's name.
fn sshd_says(dir: &Path, message: &str) {
    let sshd = dir.join("sshd");
    if !sshd.exists() {
        // By another process: a descriptor open for writing that a fork of ours inherits would forbid to run it.
        assert!(Command::new("cp").arg("/usr/bin/logger").arg(&sshd).status().unwrap().success());
    }
    assert!(Command::new(sshd).args(["-t", "sshd", "-p", "auth.info", message]).status().unwrap().success());
}

/// A line by `logger`, which lives until the answer is dropped: of a process that has ended journald may know no more than
/// its user, and then root is believed.
fn logger_says(user: &str, message: &str) -> Logger {
    let logger = ["-u", user, "--", "logger", "-t", "sshd", "-p", "auth.info"];
    let mut child = Command::new("runuser").args(logger).stdin(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "{message}").unwrap();
    Logger(child)
}

struct Logger(Child);

impl Drop for Logger {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ended = self.0.wait().is_ok();
    }
}

fn failed(user: &str) -> String {
    format!("Failed password for {user} from 192.0.2.7 port 22 ssh2")
}

#[test]
fn the_journal_is_the_source_and_only_sshd_speaks_as_sshd() {
    if !inside("journal::the_journal_is_the_source_and_only_sshd_speaks_as_sshd") {
        return;
    }
    let dir = tempfile::tempdir_in("/run").unwrap();
    sshd_says(dir.path(), &failed("before-the-agent"));
    // What journald has not taken yet when the agent begins is new to it.
    wait_for("journald to have it", || {
        let kept = Command::new("journalctl").args(["--quiet", "--output=cat"]).output().unwrap();
        String::from_utf8_lossy(&kept.stdout).contains("before-the-agent").then_some(())
    });
    std::fs::write("/var/log/auth.log", "").unwrap();
    let probe = logins::probe(&config());
    assert!(probe.rungs.iter().any(|rung| rung.rung == "journal" && rung.usable), "{probe:?}");

    let bench = Bench::new(dir.path());
    let run = bench.start(&config());
    assert_eq!(run.report().rung, "journal+log");
    let forgers = ["nobody", "root"].map(|user| logger_says(user, &failed(&format!("forged-by-{user}"))));
    let begin = Instant::now();
    sshd_says(dir.path(), &failed("genuine"));
    wait_for("the genuine line", || (!bench.sealed().is_empty()).then_some(()));
    println!("logger started to sealed entry: {:?}", begin.elapsed());
    // rsyslog would write the same line here.
    std::fs::write("/var/log/auth.log", format!("Nov 21 12:00:00 h sshd[1]: {}\n", failed("genuine")))
        .unwrap();
    wait_for("the forgeries to be counted", || {
        (run.report().counters.get("untrusted") == Some(&2)).then_some(())
    });
    drop(forgers);
    assert_eq!(run.report().state, SensorState::Running);
    run.stop();

    sshd_says(dir.path(), &failed("while-the-agent-was-off"));
    let run = bench.start(&config());
    wait_for("the line of meanwhile", || (bench.sealed().len() >= 2).then_some(()));
    sshd_says(dir.path(), &failed("last"));
    wait_for("the last line", || (bench.sealed().len() >= 3).then_some(()));
    run.stop();
    let titles: Vec<String> = bench.sealed().into_iter().map(|finding| finding.title).collect();
    let named = |user: &str| format!("Failed login of {user} from 192.0.2.7 by password");
    assert_eq!(titles, [named("genuine"), named("while-the-agent-was-off"), named("last")]);
    let evidence = bench.sealed()[0].evidence.to_string();
    assert!(evidence.contains(r#""source":"journal""#) && evidence.contains(r#""uid":0"#), "{evidence}");
}

#[test]
fn a_journalctl_that_dies_is_started_again_and_nothing_is_lost() {
    if !inside("journal::a_journalctl_that_dies_is_started_again_and_nothing_is_lost") {
        return;
    }
    let dir = tempfile::tempdir_in("/run").unwrap();
    let bench = Bench::new(dir.path());
    let run = bench.start(&config());
    sshd_says(dir.path(), &failed("one"));
    wait_for("the first", || (bench.sealed().len() == 1).then_some(()));
    // Alone in a PID namespace: there is no other journalctl.
    assert!(Command::new("pkill").args(["-9", "journalctl"]).status().unwrap().success());
    sshd_says(dir.path(), &failed("two"));
    wait_for("the second", || (bench.sealed().len() == 2).then_some(()));
    wait_for("the count", || (run.report().counters.get("journal-restarts") == Some(&1)).then_some(()));
    run.stop();
    let children = Command::new("pgrep").arg("journalctl").output().unwrap();
    assert!(children.stdout.is_empty(), "no child is left behind");
}

#[test]
fn without_journald_the_rung_is_refused_with_its_reason() {
    let probe = logins::probe(&config());
    let rung = probe.rungs.iter().find(|rung| rung.rung == "journal").unwrap();
    let bypassed = std::fs::canonicalize("/dev/log").is_err();
    assert!(rung.usable || !rung.reason.is_empty());
    assert!(!(rung.usable && bypassed), "{probe:?}");
    let off = LoginsConfig { journal: false, ..config() };
    let probe = logins::probe(&off);
    let rung = probe.rungs.iter().find(|rung| rung.rung == "journal").unwrap();
    assert_eq!(rung.reason, "switched off by logins.journal");
}

/// What PAM says inside of a program that no rule names.
fn pam_says(user: &str, facility: &str, name: &str) -> Logger {
    let logger = ["-u", user, "--", "logger", "-t", "gatekeeper", "-p", facility];
    let mut child = Command::new("runuser").args(logger).stdin(Stdio::piped()).spawn().unwrap();
    let line = format!(
        "pam_unix(gatekeeper:auth): authentication failure; logname= uid=0 euid=0 tty= ruser= rhost=192.0.2.7  user={name}"
    );
    writeln!(child.stdin.as_mut().unwrap(), "{line}").unwrap();
    Logger(child)
}

#[test]
fn pam_inside_of_any_program_is_heard_by_its_facility_and_only_from_root() {
    if !inside("journal::pam_inside_of_any_program_is_heard_by_its_facility_and_only_from_root") {
        return;
    }
    let dir = tempfile::tempdir_in("/run").unwrap();
    let bench = Bench::new(dir.path());
    let run = bench.start(&config());
    // Of another facility it is not even asked for.
    let elsewhere = pam_says("root", "user.info", "elsewhere");
    let forger = pam_says("nobody", "authpriv.notice", "forged");
    wait_for("the forgery to be counted", || {
        (run.report().counters.get("untrusted") == Some(&1)).then_some(())
    });
    let genuine = ["authpriv.notice", "auth.notice"].map(|facility| {
        let said = pam_says("root", facility, &facility.replace('.', "-"));
        wait_for("root's line", || {
            let told = bench.sealed();
            told.iter().any(|told| told.title.contains(&facility.replace('.', "-"))).then_some(())
        });
        said
    });
    drop((elsewhere, forger, genuine));
    run.stop();
    let all = bench.sealed();
    assert!(
        all.iter().all(|told| !told.title.contains("forged") && !told.title.contains("elsewhere")),
        "{all:?}"
    );
}

#[test]
fn no_line_is_lost_or_told_twice_over_twenty_rotations_with_vacuum_kills_and_restarts() {
    if !inside("journal::no_line_is_lost_or_told_twice_over_twenty_rotations_with_vacuum_kills_and_restarts")
    {
        return;
    }
    let dir = tempfile::tempdir_in("/run").unwrap();
    let sshd = dir.path().join("sshd");
    assert!(Command::new("cp").arg("/usr/bin/logger").arg(&sshd).status().unwrap().success());
    let mut logger = Command::new(&sshd);
    let mut logger = logger.args(["-t", "sshd", "-p", "auth.info"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut next = 0;
    let mut says = |count: u64| {
        for n in next..next + count {
            let text = line(n);
            let (_head, message) = text.split_once("]: ").unwrap();
            logger.stdin.as_mut().unwrap().write_all(message.as_bytes()).unwrap();
        }
        next += count;
        next
    };
    // Files of the journal that are not written to any more, and so the entry that was read last, are removed.
    let rotate_and_vacuum = || {
        for act in ["--rotate", "--vacuum-files=1"] {
            assert!(Command::new("journalctl").arg("--quiet").arg(act).status().unwrap().success(), "{act}");
        }
    };
    let bench = Bench::new(dir.path());
    let config = LoginsConfig { logs: Vec::new(), ..config() };
    let config = LoginsConfig { thresholds: crate::ledger::config(&[]).thresholds, ..config };
    let mut run = bench.start(&config);
    let told = |count: u64| {
        wait_for("all lines so far", || (bench.sealed().len() as u64 >= count).then_some(()));
    };
    for rotation in 0..20 {
        // What is removed before anybody read it is lost; what was read or came later is not.
        told(says(15));
        match rotation % 4 {
            0 => rotate_and_vacuum(),
            1 => {
                rotate_and_vacuum();
                assert!(Command::new("pkill").args(["-9", "journalctl"]).status().unwrap().success());
            }
            2 => {
                run.stop();
                rotate_and_vacuum();
                says(5);
                run = bench.start(&config);
            }
            _ => {
                // Killed: what was not committed is read again.
                run.stop();
                let killed = bench.start_with(&config, 2);
                let count = says(10);
                wait_for("the sensor to read on or to end", || {
                    (killed.has_ended() || bench.sealed().len() as u64 >= count).then_some(())
                });
                killed.stop();
                run = bench.start(&config);
            }
        }
    }
    let count = says(15);
    told(count);
    run.stop();
    drop(logger.stdin.take());
    logger.wait().unwrap();
    assert_complete(&bench.sealed(), count);
}
