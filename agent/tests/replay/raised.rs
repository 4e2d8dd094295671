//! Real cockpit, into which people log in by PAM, and real polkit, by which they raise their rights.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::wait_for;
use crate::unpacked::{Unpacked, is_failure};
use crate::{field, replay};

#[test]
fn cockpit() {
    let server = Unpacked::start("cockpit-ws", include_str!("services/cockpit-ws.sh"));
    drop(server.connect());
    let url = format!("http://127.0.0.1:{}/cockpit/login", server.port);
    for login in ["alice:wrong", "nobody-here:wrong", "x rhost=10.9.8.7  user=root:wrong", "alice:secret"] {
        let asked = ["--silent", "--output", "/dev/null", "--max-time", "30", "--user", login, &url];
        let ended = Command::new("curl").args(asked).status().expect("curl");
        assert!(ended.success(), "{login}: {ended}");
    }
    let told = server.told("syslog", 3, Some("alice"));
    let of_cockpit: Vec<_> = told.iter().filter(|event| field(event, "service") == "cockpit").collect();
    let failures: Vec<_> = of_cockpit.iter().filter(|event| is_failure(event)).collect();
    assert_eq!(failures.len(), 3, "{told:?}");
    for failure in failures {
        assert_eq!(field(failure, "address"), "127.0.0.1", "{failure}");
        assert!(["", "alice"].contains(&field(failure, "user").as_str()), "{failure}");
    }
}

#[test]
fn polkit() {
    let host = Unpacked::start("pkexec", include_str!("services/pkexec.sh"));
    let log = host.log("syslog");
    wait_for("polkitd", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("Acquired the name org.freedesktop.PolicyKit1").then_some(())
    });
    let mut asked = host
        .command("su")
        .args(["alice", "-c", "script -qec 'pkexec id' /dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("su");
    let (mut keys, mut screen) = (asked.stdin.take().expect("stdin"), asked.stdout.take().expect("stdout"));
    let mut shown = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&shown).contains("Password:") {
        assert_eq!(screen.read(&mut byte).expect("its screen"), 1, "{}", String::from_utf8_lossy(&shown));
        shown.extend(byte);
    }
    // Its screen is full of nothing that matters; whoever does not read it holds it up.
    let reader = std::thread::spawn(move || screen.read_to_end(&mut shown).map(|_| shown));
    let mut typed: Option<Instant> = None;
    let ended = wait_for("pkexec to refuse", || {
        // What comes before the terminal has stopped showing what is typed is thrown away.
        if typed.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            let _it_may_have_ended = keys.write_all(b"wrong\n");
            typed = Some(Instant::now());
        }
        asked.try_wait().expect("its state")
    });
    drop(keys);
    let shown = reader.join().expect("the reader").expect("its screen");
    assert!(!ended.success(), "{}", String::from_utf8_lossy(&shown));
    let told = wait_for("polkit's lines", || {
        let all = replay(&log, "auto");
        let refused = all.into_iter().filter(|event| field(event, "event") == "privilege.failure");
        let refused: Vec<_> = refused.filter(|event| field(event, "service") == "polkit").collect();
        (refused.len() >= 3).then_some(refused)
    });
    assert!(told.iter().all(|event| field(event, "user") == "alice"), "{told:?}");
    let of_pkexec = told.iter().find(|event| field(event, "target") == "root").expect("what was asked for");
    assert_eq!(field(of_pkexec, "command"), "/usr/bin/id", "{of_pkexec}");
}
