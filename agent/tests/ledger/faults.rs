//! State that is damaged, foreign, newer, read-only or on a full disk.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use picket_agent::ledger::{Ledger, LedgerError, Lock, Reader, STATE_VERSION, SealError};
use picket_protocol::identity::AgentId;
use picket_protocol::record::{Lifecycle, Record};

use crate::support::{Host, WAIT, agent, at, commit, config, draft, draft_of, insert};

fn refusal(host: &Host) -> LedgerError {
    Ledger::open(&host.layout, &config(), agent(), &[]).err().expect("the ledger is refused")
}

#[test]
fn state_from_a_newer_version_is_refused_and_left_alone() {
    let host = Host::new();
    drop(host.store(config()));
    host.intruder().pragma_update(None, "user_version", STATE_VERSION + 1).expect("set");
    let error = refusal(&host);
    assert!(matches!(error, LedgerError::Newer { found, .. } if found == STATE_VERSION + 1), "{error:?}");
    assert!(error.to_string().contains("newer version of the agent"), "{error}");
    assert!(matches!(Reader::open(&host.layout.database()).err(), Some(LedgerError::Newer { .. })));
}

#[test]
fn another_programs_database_is_refused() {
    let host = Host::new();
    host.intruder().execute_batch("CREATE TABLE theirs (x)").expect("made");
    assert!(matches!(refusal(&host), LedgerError::Foreign { .. }));
}

#[test]
fn garbage_in_place_of_the_database_is_refused() {
    let host = Host::new();
    std::fs::write(host.layout.database(), vec![0x5a; 20_000]).expect("written");
    let error = refusal(&host);
    assert!(matches!(error, LedgerError::Damaged(_)), "{error:?}");
}

#[test]
fn the_ledger_of_another_agent_is_refused() {
    let host = Host::new();
    drop(host.store(config()));
    let other = AgentId::parse("0192f0c0-1111-7222-8333-444455556667").expect("a valid id");
    let error = Ledger::open(&host.layout, &config(), other, &[]).err().expect("refused");
    assert!(matches!(error, LedgerError::OtherAgent { .. }), "{error:?}");
}

#[test]
fn a_missing_or_wrong_key_is_refused() {
    let host = Host::new();
    drop(host.store(config()));
    let file = host.layout.ledger_keys().join("ledger-0.key");
    std::fs::write(&file, [3; 32]).expect("written");
    assert!(matches!(refusal(&host), LedgerError::WrongKey { .. }));
    std::fs::write(&file, [3; 5]).expect("written");
    assert!(matches!(refusal(&host), LedgerError::NoKey { .. }));
    std::fs::remove_file(&file).expect("removed");
    let error = refusal(&host);
    assert!(error.to_string().contains("agent enroll"), "{error}");
}

#[test]
fn a_tail_that_was_tampered_with_is_refused_at_the_start() {
    let changes = [
        "UPDATE ledger_record SET bytes = CAST(replace(bytes, 'number', 'nvmber') AS BLOB) WHERE seq = 4",
        "UPDATE ledger_record SET leaf = zeroblob(32) WHERE seq = 0",
        "UPDATE ledger_checkpoint SET signature = zeroblob(64)",
        "UPDATE ledger_checkpoint SET root = zeroblob(32)",
        "DELETE FROM ledger_record WHERE seq = 4",
        "DELETE FROM ledger_checkpoint WHERE size = 5",
    ];
    for change in changes {
        let host = Host::new();
        let mut store = host.store(config());
        commit(&mut store, (0..2).map(draft).collect(), at(1));
        commit(&mut store, (2..5).map(draft).collect(), at(2));
        drop(store);
        host.intruder().execute(change, []).expect("changed");
        let error = refusal(&host);
        assert!(matches!(error, LedgerError::Damaged(_)), "{change}: {error:?}");
    }
}

#[test]
fn files_of_the_state_are_for_their_owner_alone() {
    let host = Host::new();
    let ledger = host.open();
    ledger.sealer().seal_durably(vec![draft(0)], Vec::new(), WAIT).expect("sealed");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let database = host.layout.database();
    assert_eq!(mode(&database), 0o600);
    assert_eq!(mode(&database.with_extension("db-wal")), 0o600);
    assert_eq!(mode(&host.layout.lock()), 0o600);
    assert_eq!(mode(&host.layout.ledger_keys()), 0o700);
    assert_eq!(mode(&host.layout.ledger_keys().join("ledger-0.key")), 0o600);
}

/// Runs the test `name` of this file again in a mount namespace of its own, with a tmpfs with `options` at
/// the directory that it finds in the environment. Gives that directory when this is the second run.
fn on_tmpfs(name: &str, options: &str) -> Option<std::path::PathBuf> {
    if let Some(place) = std::env::var_os("LEDGER_TMPFS") {
        return Some(place.into());
    }
    let place = tempfile::tempdir().expect("a temporary directory");
    let script = "mount -t tmpfs -o \"$2\" tmpfs \"$1\" && exec \"$3\" --exact \"$4\" --nocapture";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(place.path())
        .arg(options)
        .arg(std::env::current_exe().expect("our own path"))
        .arg(format!("faults::{name}"))
        .env("LEDGER_TMPFS", place.path())
        .output()
        .expect("unshare runs");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    None
}

#[test]
fn a_full_disk_delays_and_neither_loses_nor_doubles() {
    let name = "a_full_disk_delays_and_neither_loses_nor_doubles";
    let Some(place) = on_tmpfs(name, "size=4m") else { return };
    let host = Host::at(&place);
    let ledger = host.open();
    ledger.sealer().seal_durably(vec![draft(0)], vec![insert(0)], WAIT).expect("sealed");
    let ballast = place.join("ballast");
    // Fails when the disk is full, which is what is wanted.
    let _full = std::fs::write(&ballast, vec![0; 4 << 20]);
    let sealer = ledger.sealer();
    // It comes two seconds after the disk refused, however long that is waited for.
    let answer = sealer.seal_durably(vec![draft_of(Default::default(), 1, 100_000)], vec![insert(1)], WAIT);
    assert!(matches!(&answer, Err(SealError::Storage(why)) if why.contains("no space")), "{answer:?}");
    for number in 2..300 {
        sealer.seal(vec![draft(number)], vec![insert(number)]).expect("queued");
    }
    let report = ledger.health().report();
    assert!(report.error.is_some() && report.failing_since.is_some() && report.retries_total > 0);
    std::fs::remove_file(&ballast).expect("removed");
    assert_eq!(ledger.heads().wait_beyond(299, WAIT).size, 300);
    sealer.seal_durably(vec![draft(300)], vec![insert(300)], WAIT).expect("sealed");
    assert_eq!(ledger.health().report().error, None);
    let reader = host.reader();
    for seq in 0..301 {
        let leaf = reader.record(seq).expect("read").expect("there");
        let picket_protocol::message::Leaf::Record(bytes) = leaf else { panic!("forgotten") };
        let body: Lifecycle = Record::parse_at(&bytes, seq).expect("a record").body().expect("a body");
        assert_eq!(body.title.trim_end_matches('x'), format!("number {seq}"), "in order, each once");
    }
    let seen: i64 =
        host.intruder().query_row("SELECT count(*) FROM seen", [], |row| row.get(0)).expect("counted");
    assert_eq!(seen, 301);
    assert!(reader.verify(&Default::default(), |_, _| {}).expect("checked").is_sound());
}

#[test]
fn a_stop_on_a_full_disk_ends_in_time_and_tells_who_waits() {
    let name = "a_stop_on_a_full_disk_ends_in_time_and_tells_who_waits";
    let Some(place) = on_tmpfs(name, "size=2m") else { return };
    let host = Host::at(&place);
    let ledger = host.open();
    let _full = std::fs::write(place.join("ballast"), vec![0; 2 << 20]);
    let sealer = ledger.sealer();
    let waiting = std::thread::spawn(move || {
        sealer.seal_durably(vec![draft_of(Default::default(), 0, 200_000)], Vec::new(), WAIT)
    });
    let deadline = Instant::now() + WAIT;
    while ledger.health().report().error.is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let begun = Instant::now();
    ledger.stop();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(waiting.join().expect("no panic"), Err(SealError::Stopped));
}

#[test]
fn a_read_only_state_directory_is_refused_with_its_path() {
    let name = "a_read_only_state_directory_is_refused_with_its_path";
    let Some(place) = on_tmpfs(name, "size=8m") else { return };
    let host = Host::at(&place);
    drop(host.store(config()));
    let remounted =
        Command::new("mount").args(["-o", "remount,ro"]).arg(&place).status().expect("mount runs");
    assert!(remounted.success());
    let error = refusal(&host);
    assert!(matches!(error, LedgerError::Io { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("agent.lock") && text.to_lowercase().contains("read-only"), "{text}");
}

#[test]
fn whether_an_agent_runs_is_known_on_a_file_system_that_became_read_only() {
    let name = "whether_an_agent_runs_is_known_on_a_file_system_that_became_read_only";
    let Some(place) = on_tmpfs(name, "size=8m") else { return };
    let lock = place.join("agent.lock");
    let remount = |how: &str| {
        let mounted = Command::new("mount").args(["-o", how]).arg(&place).status().expect("mount runs");
        assert!(mounted.success(), "{how}");
    };
    let read_only = |taken: Result<Lock, LedgerError>| {
        let is_so = |error| match error {
            LedgerError::Io { source, .. } => source.kind() == ErrorKind::ReadOnlyFilesystem,
            _ => false,
        };
        taken.err().is_some_and(is_so)
    };
    remount("remount,ro");
    assert!(read_only(Lock::take_though_read_only(&lock)), "there is no lock that could be read");
    remount("remount,rw");

    // Held by another process. One that had it open for writing would not let the file system become read-only.
    std::fs::write(&lock, "").expect("the lock's file");
    let mut agent =
        Command::new("flock").arg("--no-fork").arg(&lock).args(["sleep", "60"]).spawn().expect("flock runs");
    let deadline = Instant::now() + WAIT;
    while Lock::take_though_read_only(&lock).is_ok() {
        assert!(Instant::now() < deadline, "flock did not take it");
        std::thread::sleep(Duration::from_millis(10));
    }
    remount("remount,ro");
    let taken = Lock::take_though_read_only(&lock);
    assert!(matches!(taken, Err(LedgerError::InUse { .. })));
    assert!(read_only(Lock::take(&lock)), "whoever is going to write is told that he cannot");
    agent.kill().expect("flock is ended");
    agent.wait().expect("flock is awaited");
    assert!(Lock::take_though_read_only(&lock).is_ok(), "nobody has it");
}
