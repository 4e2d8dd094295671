use picket_protocol::finding::Text;
use proptest::prelude::*;

use super::*;
use crate::core::lifecycle::SCHEMA;

const BOOT: &str = "boot";

fn fresh() -> Ends {
    Ends { boot: BOOT.to_owned(), ..Ends::default() }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(1_800_000_000).plus(Duration::from_secs(seconds))
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn request(sender: Sender) -> Request {
    Request::new(&Caught { signal: libc::SIGTERM, sender, time: Duration::ZERO }, 30, None)
}

fn by(pid: u32) -> Request {
    request(Sender::Process { pid, uid: 0 })
}

fn killed(alive: u64) -> Before {
    Before { last: LastRun::Unclean, alive: Some(at(alive)), shut_down: None, oom_kills: Some(0) }
}

fn clean() -> Before {
    Before { last: LastRun::Clean, alive: None, shut_down: None, oom_kills: None }
}

#[test]
fn who_keeps_the_agent_may_stop_it_and_nobody_else() {
    for entitled in [by(1), by(30), request(Sender::Outside), request(Sender::Kernel)] {
        assert!(entitled.is_entitled(), "{entitled:?}");
        let mut ends = fresh();
        assert_eq!(ends.asked(&entitled, at(0), id(1)), None);
        assert_eq!(ends.started(&clean(), at(1), id(2)), None);
    }
    for stranger in [by(2), by(31), request(Sender::Unproved)] {
        assert!(!stranger.is_entitled(), "{stranger:?}");
        assert!(fresh().asked(&stranger, at(0), id(1)).is_some());
    }
}

#[test]
fn a_stranger_is_named_at_once_and_the_next_start_completes_it() {
    let text = |text: &str| Some(Text::from_bytes(text.as_bytes()));
    let actor = Actor {
        executable: text("/bin/ba\nsh"),
        login_uid: Some(1_000),
        ..crate::detect::packages::tests::actor()
    };
    let request = Request { actor: Some(actor), ..by(4_711) };
    let mut ends = fresh();
    let stopped = ends.asked(&request, at(0), id(1)).unwrap();
    let asked = "The agent was asked to stop by pid 4711 (ba\\nsh, uid 0, login uid 1000), not by the service manager";
    assert_eq!((stopped.title.as_str(), stopped.severity), (asked, Severity::High));
    assert_eq!(stopped.evidence["actor"]["login_uid"], 1_000);
    let started = ends.started(&clean(), at(12), id(2)).unwrap();
    assert_eq!((started.id, started.observed.first, started.observed.last), (id(1), at(0), at(12)));
    assert_eq!(started.title, format!("{asked}; it runs again after 12 s"));
    assert_eq!(started.evidence["unprotected_seconds_max"], 12.0);
    assert_eq!(started.evidence["boot_id"], BOOT);
    assert_eq!(ends.started(&clean(), at(13), id(3)), None, "once");
}

#[test]
fn who_is_gone_or_hides_is_told_as_such() {
    assert_eq!(by(7).who(), "pid 7 (gone already, uid 0)");
    assert_eq!(request(Sender::Unproved).who(), "a process that hides its number (sigqueue)");
}

#[test]
fn a_kill_is_told_with_how_long_the_host_was_unprotected() {
    let finding = fresh().started(&killed(0), at(40), id(1)).unwrap();
    assert_eq!(finding.title, "The agent was killed or crashed; this host was unprotected for at most 40 s");
    assert_eq!((finding.rule.as_str(), finding.severity), ("agent.stopped", Severity::High));
    assert_eq!(finding.evidence["ends_last_hour"], 1);
    let memory = Before { oom_kills: Some(2), ..killed(0) };
    let finding = fresh().started(&memory, at(40), id(1)).unwrap();
    assert!(
        finding.title.ends_with("; meanwhile the kernel ended 2 process(es) for want of memory"),
        "{finding:?}"
    );
    // A clock that was set back in between.
    let finding = fresh().started(&killed(50), at(40), id(1)).unwrap();
    assert!(finding.title.ends_with("for at most 0 s"), "{finding:?}");
}

#[test]
fn a_host_that_went_down_and_a_first_start_are_none() {
    for last in [LastRun::None, LastRun::HostDown, LastRun::Clean] {
        assert_eq!(fresh().started(&Before { last, ..killed(0) }, at(40), id(1)), None);
    }
}

#[test]
fn an_agent_that_was_dead_before_its_host_was_shut_down_is_told() {
    let down = Before { last: LastRun::HostDown, shut_down: Some(at(600)), ..killed(0) };
    let finding = fresh().started(&down, at(700), id(1)).unwrap();
    let title =
        "The agent was dead when this host was shut down; the host had been unprotected for at most 600 s";
    assert_eq!((finding.title.as_str(), finding.severity), (title, Severity::High));
    assert_eq!(finding.evidence["unprotected_seconds_max"], 600.0);
    let minute = Duration::from_secs(60);
    assert!(down.was_silent_until(at(121), minute) && !down.was_silent_until(at(120), minute));
    assert!(!down.was_silent_until(Timestamp::from_seconds(1), minute), "a clock that was set back");
}

#[test]
fn a_request_that_was_not_finished_is_that_request() {
    for last in [LastRun::Unclean, LastRun::HostDown] {
        let mut ends = fresh();
        assert_eq!(ends.qualify(last), last);
        assert_eq!(ends.asked(&by(1), at(0), id(1)), None);
        assert_eq!(ends.qualify(last), LastRun::Unfinished);
        let before = Before { last: ends.qualify(last), ..killed(0) };
        assert_eq!(ends.started(&before, at(400), id(2)), None, "process 1 asked");
        assert_eq!(ends.qualify(last), last, "it is used up");
        let asked = ends.asked(&by(7), at(500), id(3)).unwrap();
        let before = Before { last: ends.qualify(last), ..killed(0) };
        let completed = ends.started(&before, at(510), id(4)).unwrap();
        assert_eq!(completed.id, asked.id);
        assert!(completed.title.starts_with("The agent was asked to stop by pid 7"), "{completed:?}");
    }
}

#[test]
fn a_loop_is_told_one_by_one_and_then_as_one_that_grows() {
    let mut ends = fresh();
    let mut counts = Vec::new();
    for n in 0..60 {
        let finding = ends.started(&killed(n), at(n), id(u128::from(n)));
        counts.extend(finding.map(|finding| (finding.id.as_u128(), finding.observed.count)));
    }
    assert_eq!(
        counts,
        [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (5, 2), (5, 4), (5, 8), (5, 16), (5, 32)]
    );
    let gone = ends.started(&killed(60), at(60 + 301), id(99)).unwrap();
    assert_eq!((gone.id, gone.observed.count), (id(99), 1), "a long gap is told");
    let later = ends.started(&killed(9_000), at(9_001), id(100)).unwrap();
    assert_eq!((later.id, later.observed.count), (id(100), 1), "an hour in peace");
}

#[test]
fn one_a_minute_for_a_day_is_told_once_an_hour() {
    let mut ends = fresh();
    let ends = (0..1_440).filter(|n| ends.started(&killed(n * 60), at(n * 60), id(u128::from(*n))).is_some());
    let told = ends.count();
    assert!((24..=40).contains(&told), "{told}");
}

#[test]
fn it_is_remembered_and_what_is_damaged_is_nothing() {
    let mut database = Connection::open_in_memory().unwrap();
    database.execute_batch(SCHEMA).unwrap();
    let mut ends = fresh();
    ends.asked(&by(7), at(0), id(1)).unwrap();
    let transaction = database.transaction().unwrap();
    ends.write()(&transaction).unwrap();
    transaction.commit().unwrap();
    assert_eq!(Ends::read(&database, BOOT).unwrap(), ends);
    database.execute("UPDATE core_fact SET value = 'damaged'", []).unwrap();
    assert_eq!(Ends::read(&database, BOOT).unwrap(), fresh());
}

proptest! {
    #[test]
    fn what_is_remembered_and_told_is_bounded(gaps in proptest::collection::vec(0_u64..600, 1..600), back in 0_u64..100_000) {
        let (mut ends, mut now, mut told, mut long) = (fresh(), 100_000 - back, 0, 0);
        let begin = now;
        for (n, gap) in (0..).zip(&gaps) {
            now += gap;
            told += usize::from(ends.started(&killed(now - gap), at(now), id(n)).is_some());
            long += usize::from(Duration::from_secs(*gap) > LONG);
            prop_assert!(ends.recent.len() <= REMEMBERED_MAX);
        }
        let hours = usize::try_from((now - begin) / 3_600).unwrap() + 1;
        prop_assert!(told <= long + hours * (ALONE_MAX + 10), "{} in {} hours", told, hours);
        prop_assert!(told >= 1);
    }
}
