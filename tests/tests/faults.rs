//! What goes wrong on real hosts: clocks that jump, disks that fill, names and lines that attack their reader.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use picket_tests::agent::{Agent, shift_clock};
use picket_tests::collector::Collector;
use picket_tests::process::stdout_of;
use picket_tests::wait_for;

fn arrives(collector: &Collector, rule: &str, needle: &str) {
    wait_for(&format!("{rule} about {needle}"), || {
        let found = collector.soc_json(&["findings", "--rule", rule, "--limit", "50"]);
        found.iter().any(|finding| finding.to_string().contains(needle)).then_some(())
    });
}

#[test]
fn findings_go_on_when_the_clock_jumps_back_an_hour_and_forward_a_year() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let offset = dir.path().join("offset");
    shift_clock(&offset, "+0");
    let mut agent = Agent::configure(&dir.path().join("host"), "");
    agent.run(&["enroll", &collector.token("acme")]);
    agent.set_clock_file(&offset);
    agent.resume();
    agent.wait_until_ready();
    let jumps = [
        ("-3600", "an-hour-back", "The clock was set back by 60 min"),
        ("+1y", "a-year-on", "The clock was set forward by 365 days"),
        ("+0", "back-to-now", "The clock was set back by 36"),
    ];
    for (shift, name, words) in jumps {
        shift_clock(&offset, shift);
        std::fs::write(agent.watched().join(name), shift).unwrap();
        arrives(&collector, "file.created", name);
        arrives(&collector, "host.clock", words);
    }
    wait_for("the clock's jumps on record", || {
        agent.run(&["verify"]).to_lowercase().contains("verified").then_some(())
    });
}

/// Unmounts when dropped.
struct Tmpfs<'a>(&'a Path);

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _status = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_state_disk_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("host/state");
    std::fs::create_dir_all(&state).unwrap();
    stdout_of(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=711,size=64m", "tmpfs"]).arg(&state));
    let mounted = Tmpfs(&state);
    let collector = Collector::start(dir.path());
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");

    let filler = state.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    std::fs::write(agent.watched().join("while-full"), "x").unwrap();
    wait_for("the agent to say that its disk is full", || {
        let text = agent.status()?.to_string().to_lowercase();
        (text.contains("full") || text.contains("no space")).then_some(())
    });
    // As long as it is open it takes its room.
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    arrives(&collector, "file.created", "while-full");
    assert_eq!(agent.stop(), Some(0));
    drop(mounted);
}

#[test]
fn a_fifo_in_place_of_a_log_is_told_and_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    std::fs::write(agent.auth_log(), "").unwrap();
    wait_for("the log to be read", || {
        let logins = agent.status()?.pointer("/sensors/logins")?.clone();
        (logins.get("state")? == "running").then_some(())
    });
    std::fs::remove_file(agent.auth_log()).unwrap();
    stdout_of(Command::new("mkfifo").arg(agent.auth_log()));
    wait_for("the login sensor to say that its log is none", || {
        let logins = agent.status()?.pointer("/sensors/logins")?.clone();
        (logins.get("state")? == "degraded").then_some(())
    });
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn a_damaged_certificate_is_named_for_as_long_as_it_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let _code = agent.stop();
    let path = agent.dir().join("state/uplink/tls.crt");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, [7; 300]).unwrap();
    agent.resume();
    let ended = || {
        let link = agent.status()?.get("link")?.clone();
        let again = link.pointer("/counters/restarts")?.as_u64()? >= 1;
        again.then(|| link["last_error"].to_string())
    };
    let reason = wait_for("the uplink's end", ended);
    assert!(reason.contains("tls.crt"), "{reason}");
    std::fs::write(&path, whole).unwrap();
    agent.wait_until_ready();
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn names_and_lines_that_attack_their_reader_arrive_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let names: [&[u8]; 4] =
        [b"new\nline", b"not-utf8-\xff\xfe", b"\x1b[2Jclear", "bidi-\u{202e}gpj.exe".as_bytes()];
    for name in names {
        std::fs::write(agent.watched().join(OsStr::from_bytes(name)), "x").unwrap();
    }
    let mut log = std::fs::OpenOptions::new().create(true).append(true).open(agent.auth_log()).unwrap();
    let long = vec![b'A'; 1 << 20];
    log.write_all(b"Nov 21 12:00:00 h sshd[1]: Failed password for ").unwrap();
    log.write_all(&long).unwrap();
    log.write_all(
        b"\nNov 21 12:00:00 h sshd[1]: Failed password for \0\xff\x1b[31m from 192.0.2.7 port 4711 ssh2\n",
    )
    .unwrap();
    log.write_all(
        b"Nov 21 12:00:01 h sshd[1]: Failed password for after-all from 192.0.2.8 port 4712 ssh2\n",
    )
    .unwrap();
    arrives(&collector, "login.failure", "after-all");
    for needle in ["new\\\\nline", "not-utf8-", "clear", "bidi-"] {
        // By whatever rule: names that hide are told as such.
        arrives(&collector, "file.*", needle.replace("\\\\", "\\").as_str());
    }
    let table = collector.soc(&["findings", "--limit", "50"]);
    let control = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!table.contains(control), "{table:?}");
    let local = agent.run(&["findings"]);
    assert!(!local.contains(control), "{local:?}");
}

#[test]
fn a_fifo_in_place_of_a_file_of_its_own_is_told_and_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let _code = agent.stop();
    let state = agent.dir().join("state");
    for name in ["core/enrolment.json", "core/agent-id", "core/trust-root.json", "uplink/tls.crt"] {
        let (path, aside) = (state.join(name), dir.path().join("aside"));
        let there = path.exists();
        if there {
            std::fs::rename(&path, &aside).unwrap();
        }
        stdout_of(Command::new("mkfifo").arg(&path));
        std::fs::write(agent.dir().join("agent.log"), "").unwrap();
        agent.resume();
        // The identifier is in the enrolment as well: without its file the agent works.
        wait_for(&format!("the agent to say what {name} is, or to work without it"), || {
            let told = agent.status().map(|status| status.to_string()).unwrap_or_default() + &agent.log();
            (told.contains("not a regular file") || told.contains("\"connected\":true")).then_some(())
        });
        agent.kill();
        std::fs::remove_file(&path).unwrap();
        if there {
            std::fs::rename(&aside, &path).unwrap();
        }
    }
    agent.resume();
    agent.wait_until_ready();
    assert_eq!(agent.stop(), Some(0));
}
