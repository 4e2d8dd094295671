//! What the ledger did not take in time, as on a full disk, and writes later.

use super::*;

/// Keeps the writer from writing, as a full disk does, until it is given up.
fn full_disk(lab: &Lab) -> rusqlite::Connection {
    let locker = rusqlite::Connection::open(lab.layout.database()).expect("database");
    locker.busy_timeout(Duration::from_secs(60)).expect("patience");
    locker.execute_batch("BEGIN IMMEDIATE").expect("locked");
    locker
}

#[test]
fn advice_that_is_written_down_too_late_is_shown_all_the_same() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    let locker = full_disk(&lab);
    engine.command(&envelope(&advise(1), &[1, 2]), moment(Duration::ZERO));
    let advice = |after: Duration| lab.status.report(moment(after).boot).advice.len();
    engine.tick(moment(Duration::ZERO));
    assert_eq!(advice(Duration::ZERO), 0, "it is not written yet");
    locker.execute_batch("COMMIT").expect("unlocked");
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while lab.records::<Receipt>(Kind::Receipt).is_empty() {
        assert!(std::time::Instant::now() < deadline, "the writer goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(lab.receipt().outcome, Outcome::Applied);
    let later = Duration::from_secs(31);
    assert!(engine.next_wake(moment(Duration::ZERO)) <= later);
    engine.tick(moment(later));
    assert_eq!(advice(later), 1, "the vendor was told that it is shown");
    assert!(lab.motd().is_some());
}

#[test]
fn what_root_said_before_holds_until_something_newer_is_recorded() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    let now = moment(Duration::ZERO);
    let person = Person { uid: 0, login_uid: None, name: None };
    let path = lab.layout.held_offline();
    let note =
        Note { by: person.clone(), time: now.wall, lease: Some(Lease::start(lab.boot, now.boot, HOUR)) };
    let locker = full_disk(&lab);
    held::keep(&path, &note).expect("kept");
    let held = |after: Duration| lab.status.report(moment(after).boot).held_seconds.is_some();
    for wanted in [Some(HOUR * 2), None] {
        engine.hold(wanted, &person, now).expect_err("it cannot be recorded");
        assert_eq!(held::read(&path).expect("read"), Some(note.clone()));
        engine.tick(now);
        assert!(held(Duration::ZERO), "{wanted:?}");
    }
    locker.execute_batch("COMMIT").expect("unlocked");
    let after = recorded(&lab, &mut engine, Duration::ZERO);
    assert!(held(after));
}

/// Ticks until the note of root is recorded; gives when that was.
fn recorded(lab: &Lab, engine: &mut Engine, from: Duration) -> Duration {
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    let mut after = from;
    while lab.layout.held_offline().exists() {
        assert!(std::time::Instant::now() < deadline, "the note is recorded");
        // The writer tries again in its own time, and the hold is not to end before it does.
        std::thread::sleep(Duration::from_millis(200));
        after += Duration::from_secs(31);
        engine.tick(moment(after));
    }
    after
}

#[test]
fn what_root_noted_is_recorded_once_however_long_the_disk_is_full() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    let now = moment(Duration::ZERO);
    let by = Person { uid: 0, login_uid: None, name: None };
    let note = Note { by, time: now.wall, lease: Some(Lease::start(lab.boot, now.boot, HOUR)) };
    let locker = full_disk(&lab);
    held::keep(&lab.layout.held_offline(), &note).expect("kept");
    let full = [0, 61, 122].map(Duration::from_secs);
    full.iter().for_each(|after| engine.tick(moment(*after)));
    locker.execute_batch("COMMIT").expect("unlocked");
    let after = recorded(&lab, &mut engine, full[2]);
    assert!(lab.status.report(moment(after).boot).held_seconds.is_some());
    let records = lab.records::<Lifecycle>(Kind::Lifecycle);
    let noted: Vec<&String> =
        records.iter().map(|record| &record.title).filter(|title| title.contains("did not run")).collect();
    assert_eq!(noted.len(), 1, "{noted:?}");
}

#[test]
fn a_command_that_is_written_down_too_late_is_not_done_and_is_answered_for() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    let locker = full_disk(&lab);
    let now = moment(Duration::ZERO);
    assert_eq!(engine.command(&envelope(&drill(1, 5), &[1, 2]), now), None, "not done");
    assert!(engine.next_wake(now) <= Duration::from_secs(30), "and looked after");
    engine.tick(now);
    locker.execute_batch("COMMIT").expect("unlocked");
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while lab.records::<Receipt>(Kind::Receipt).iter().all(|receipt| receipt.outcome != Outcome::Failed) {
        assert!(std::time::Instant::now() < deadline, "{:?}", lab.records::<Receipt>(Kind::Receipt));
        std::thread::sleep(Duration::from_millis(20));
        engine.tick(now);
    }
    assert_eq!(lab.receipt().command, Some(drill(1, 5).id));
    refused(&lab, &mut engine, &envelope(&drill(1, 5), &[1, 2]), now, Check::Replay);
    // One that is written down at once is done, as ever.
    work_of(engine.command(&envelope(&drill(2, 5), &[1, 2]), now));
    engine.tick(now);
    assert_eq!(lab.receipt().outcome, Outcome::Refused, "nothing is answered for that is under way");
}

/// Between the hold and the next look of the agent there is no time in this test.
#[test]
fn a_hold_that_is_written_down_too_late_holds_from_then_on() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    let (now, person) = (moment(Duration::ZERO), Person { uid: 0, login_uid: None, name: None });
    let locker = full_disk(&lab);
    engine.hold(Some(HOUR), &person, now).expect_err("it cannot be recorded");
    locker.execute_batch("COMMIT").expect("unlocked");
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while lab.events().first().is_none_or(|event| event != "commands-held") {
        assert!(std::time::Instant::now() < deadline, "{:?}", lab.events());
        std::thread::sleep(Duration::from_millis(20));
    }
    refused(&lab, &mut engine, &envelope(&drill(1, 5), &[1, 2]), now, Check::LocalPolicy);
}
