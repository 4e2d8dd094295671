//! wtmpdb and lastlog2 beside a text log. Debian 12 has neither program: the databases are made by the statements of
//! pam_wtmpdb and pam_lastlog2.

use std::io::Write as _;
use std::path::Path;

use picket_agent::config::LoginsConfig;
use picket_agent::sense::{SensorState, SourceReport};
use rusqlite::Connection;

use crate::ledger::{Bench, Run, config, wait_for};

fn micros() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_micros()).unwrap()
}

fn now() -> i64 {
    micros() / 1_000_000
}

fn came(path: &Path, user: &str, host: &str) -> i64 {
    let connection = Connection::open(path).unwrap();
    let table = "CREATE TABLE IF NOT EXISTS wtmp(ID INTEGER PRIMARY KEY, Type INTEGER, User TEXT NOT NULL, Login INTEGER, \
        Logout INTEGER, TTY TEXT, RemoteHost TEXT, Service TEXT) STRICT;";
    connection.execute_batch(table).unwrap();
    let insert = "INSERT INTO wtmp (Type,User,Login,TTY,RemoteHost,Service) VALUES(?,?,?,?,?,?);";
    connection.execute(insert, (3, user, micros(), "ssh", host, "sshd")).unwrap();
    connection.last_insert_rowid()
}

fn logged_in(path: &Path, user: &str, seconds: i64, host: &str) {
    let connection = Connection::open(path).unwrap();
    let table = "CREATE TABLE IF NOT EXISTS Lastlog2(Name TEXT PRIMARY KEY, Time INTEGER, TTY TEXT, RemoteHost TEXT, \
        Service TEXT);";
    connection.execute_batch(table).unwrap();
    let row = (user, seconds, "ssh", host, "sshd");
    connection.execute("REPLACE INTO Lastlog2 VALUES(?,?,?,?,?);", row).unwrap();
}

fn source(run: &Run, path: &Path) -> Option<SourceReport> {
    let name = path.display().to_string();
    run.report().sources.into_iter().find(|source| source.source == name)
}

/// A line of today's log by sshd.
fn accepted(log: &Path, user: &str) {
    let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S");
    let line = format!("{time} h sshd[7]: Accepted password for {user} from 192.0.2.7 port 4711 ssh2\n");
    std::fs::OpenOptions::new().append(true).open(log).unwrap().write_all(line.as_bytes()).unwrap();
}

#[test]
fn one_login_that_log_wtmpdb_and_lastlog2_tell_is_one_with_its_sources() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (log, wtmp, last) = (at("auth.log"), at("wtmp.db"), at("lastlog2.db"));
    std::fs::write(&log, "").unwrap();
    came(&wtmp, "history", "192.0.2.9");
    let bench = Bench::new(dir.path());
    let config = LoginsConfig { records: vec![wtmp.clone(), last.clone()], ..config(&[&log]) };
    let run = bench.start(&config);
    wait_for("the sources", || {
        let of = |path: &Path| source(&run, path).map(|source| source.state);
        (of(&wtmp) == Some(SensorState::Running) && of(&last) == Some(SensorState::Disabled)).then_some(())
    });
    for (n, host) in ["192.0.2.7", "gw.example"].into_iter().enumerate() {
        let user = format!("al{n}");
        accepted(&log, &user);
        let row = came(&wtmp, &user, host);
        logged_in(&last, &user, now(), host);
        wait_for("all three to have told", || {
            let read = |path: &Path| source(&run, path).is_some_and(|source| source.read > n as u64);
            (read(&wtmp)
                && read(&last)
                && run.report().counters.get("merged").copied() >= Some(2 * (n as u64 + 1)))
            .then_some(())
        });
        let session = Connection::open(&wtmp).unwrap();
        session.execute("UPDATE wtmp SET Logout = ? WHERE ID = ?", (micros(), row)).unwrap();
    }
    let logouts = || bench.sealed_by("login.logout").len();
    wait_for("the ends", || (logouts() == 2).then_some(()));
    let logins = bench.sealed_by("login.success");
    assert_eq!(
        logins.iter().map(|login| login.id).collect::<std::collections::BTreeSet<_>>().len(),
        2,
        "{logins:?}"
    );
    let report = source(&run, &wtmp).unwrap();
    assert_eq!((report.position.as_str(), report.reason.as_str()), ("row 3", ""));
    assert!(report.lag_ms.is_some() && report.last_event.is_some(), "{report:?}");
    run.stop();

    // What came meanwhile is read, what was read is not read again.
    came(&wtmp, "meanwhile", "192.0.2.7");
    let run = bench.start(&config);
    wait_for("the login of meanwhile", || {
        let told = bench.sealed_by("login.success");
        told.iter().any(|login| login.title.contains("meanwhile")).then_some(())
    });
    run.stop();
    let all = bench.sealed_by("login.success");
    assert_eq!(
        all.iter().map(|login| login.id).collect::<std::collections::BTreeSet<_>>().len(),
        3,
        "{all:?}"
    );
}

#[test]
fn a_broken_database_is_a_degraded_source_with_its_reason_and_mends() {
    let dir = tempfile::tempdir().unwrap();
    let (log, wtmp) = (dir.path().join("auth.log"), dir.path().join("wtmp.db"));
    std::fs::write(&log, "").unwrap();
    std::fs::write(&wtmp, "no database at all").unwrap();
    let bench = Bench::new(dir.path());
    let run = bench.start(&LoginsConfig { records: vec![wtmp.clone()], ..config(&[&log]) });
    let broken = wait_for("the complaint", || {
        source(&run, &wtmp).filter(|source| source.state == SensorState::Degraded)
    });
    assert!(broken.reason.contains("cannot be read as a login database"), "{}", broken.reason);
    wait_for("the sensor's complaint", || {
        let report = run.report();
        (report.state == SensorState::Degraded && report.reason.contains("wtmp.db")).then_some(())
    });
    std::fs::remove_file(&wtmp).unwrap();
    came(&wtmp, "al", "192.0.2.7");
    wait_for("the login", || (!bench.sealed_by("login.success").is_empty()).then_some(()));
    wait_for("the sensor to be well", || (run.report().state == SensorState::Running).then_some(()));
    run.stop();
}

#[test]
fn whom_the_records_know_from_before_the_agent_is_not_told_as_new() {
    let dir = tempfile::tempdir().unwrap();
    let (log, last) = (dir.path().join("auth.log"), dir.path().join("lastlog2.db"));
    std::fs::write(&log, "").unwrap();
    // Accounts that every host has: who has none on the host is not looked up.
    logged_in(&last, "root", now() - 20 * 86_400, "192.0.2.99");
    let bench = Bench::new(dir.path());
    let run = bench.start(&LoginsConfig { records: vec![last.clone()], ..config(&[&log]) });
    wait_for("the source", || source(&run, &last).filter(|source| source.state == SensorState::Running));
    accepted(&log, "root");
    accepted(&log, "daemon");
    let told = |user: &str| {
        let found = bench.sealed_by("login.first-seen");
        found.into_iter().find(|finding| finding.title.starts_with(user))
    };
    let (root, daemon) = wait_for("both", || told("root").zip(told("daemon")));
    assert!(
        root.title.contains("since the agent looks; the host's records have a login of"),
        "{}",
        root.title
    );
    assert!(daemon.title.ends_with("for the first time"), "{}", daemon.title);
    // The network is the one that the record names.
    assert_eq!(
        root.evidence.pointer("/numbers/new_network").map(ToString::to_string).as_deref().unwrap_or("null"),
        "null"
    );
    run.stop();
}
