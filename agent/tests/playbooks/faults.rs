//! The ledger fails, the kernel refuses, the agent dies in what it does: what is in force stays what was told of it.

use std::path::Path;

use picket_agent::ledger::Entry;
use picket_agent::respond::actions::Prepared;
use picket_agent::respond::firewall::Firewall;
use picket_agent::respond::in_force;
use picket_protocol::record::Lifecycle;

use super::*;

/// Does what the writer of the ledger does with the state of an entry.
fn commit(database: &Path, mut entry: Entry) {
    let mut connection = rusqlite::Connection::open(database).unwrap();
    connection.busy_timeout(SEAL).unwrap();
    let transaction = connection.transaction().unwrap();
    for write in &mut entry.writes {
        write(&transaction).unwrap();
    }
    transaction.commit().unwrap();
}

/// A run that dies when the first thing is written down, before it does anything to the host.
fn dies_in_it(lab: &mut Lab) {
    let (sealer, entries) = Sealer::queue();
    let (database, watch) = (lab.layout.database(), lab.watch.clone());
    watch.set(false);
    let writer = std::thread::spawn(move || {
        let entry = entries.recv().unwrap();
        assert!(entry.drafts.is_empty() && !watch.is_on(), "nothing is done yet");
        commit(&database, *entry);
    });
    lab.begin_by(sealer);
    writer.join().unwrap();
}

#[test]
fn what_kills_the_agent_is_not_begun_for_ever() {
    for (confirmed, deaths) in [(false, 2), (true, 3)] {
        let mut lab = Lab::new();
        lab.order_as(COMMAND, Action::WatchClosely {}, 600);
        if confirmed {
            lab.ticks_for(1);
            for _ in 0..5 {
                lab.watch.set(false);
                lab.begin();
                assert!(lab.watch.is_on(), "a start that goes well does not count");
            }
        }
        for _ in 0..deaths {
            dies_in_it(&mut lab);
        }
        lab.watch.set(false);
        lab.begin();
        let (outcome, title) = lab.last();
        assert!(outcome == Outcome::Reverted && title.contains("3 times"), "{confirmed}: {title}");
        assert!(!lab.watch.is_on());
        assert_eq!(in_force::read(&lab.layout.database()).unwrap(), []);
    }
}

#[test]
fn what_was_answered_as_not_done_is_not_done_by_the_next_start() {
    let mut lab = Lab::new();
    let (sealer, entries) = Sealer::queue();
    // The disk is full: nobody who waits is answered, and all is written when there is room.
    let writer = std::thread::spawn(move || {
        let late = entries.into_iter().map(|mut entry| {
            entry.done = None;
            *entry
        });
        late.collect::<Vec<Entry>>()
    });
    lab.begin_by(sealer);
    lab.order_as(ISOLATION, Action::WatchClosely {}, 600);
    let steps = vec![lab.take("one", 600)];
    lab.order(steps);
    assert!(!lab.watch.is_on());
    lab.custody = None;
    let late = writer.join().unwrap();
    assert!(late.len() > 1);
    late.into_iter().for_each(|entry| commit(&lab.layout.database(), entry));
    lab.begin();
    lab.ticks_for(1);
    assert!(!lab.watch.is_on() && lab.is_there("one"));
    assert_eq!((in_force::read(&lab.layout.database()).unwrap().len(), lab.under_way()), (0, 0));
}

/// A run whose ledger takes nothing.
fn without_a_ledger(lab: &mut Lab) {
    let (sealer, _) = Sealer::queue();
    lab.begin_by(sealer);
}

#[test]
fn what_a_command_gave_back_and_could_not_record_stays_given_back() {
    let mut lab = Lab::new();
    let take = lab.take("one", 600).action;
    lab.order_as(ISOLATION, take, 600);
    lab.ticks_for(1);
    without_a_ledger(&mut lab);
    assert!(!lab.is_there("one"));
    lab.order_as(COMMAND, Action::RestoreFile(RestoreFrom::Command(ISOLATION)), 0);
    assert!(lab.is_there("one"));
    // Nor does a start that cannot record it either.
    without_a_ledger(&mut lab);
    lab.begin();
    assert!(lab.is_there("one"));
    assert_eq!(lab.told().last(), told(&[("", "released")]).last());
}

#[test]
fn a_ledger_that_fails_keeps_no_service_open() {
    alone(|| {
        let mut lab = isolated(&[]);
        assessed(&mut lab, &[]);
        let is_open = || ruleset().contains("tcp dport 443 accept");
        assert!(is_open());
        lab.alarm();
        without_a_ledger(&mut lab);
        lab.ticks_for(2);
        assert!(ruleset().contains("picket-isolate") && !is_open(), "{}", ruleset());
    });
}

fn events(lab: &Lab) -> Vec<String> {
    let filter = RecordFilter { kind: Some(Kind::Lifecycle), limit: 10_000, ..RecordFilter::default() };
    let mut records = lab.ledger.reader().unwrap().records(&filter).unwrap();
    records.reverse();
    let event = |bytes: &[u8]| Record::parse(bytes).unwrap().body::<Lifecycle>().unwrap().event;
    let events = records.iter().map(|record| event(&record.bytes));
    events.filter(|event| event.starts_with("action-")).collect()
}

#[test]
fn what_cannot_be_put_back_is_told_and_tried_again_until_it_can() {
    alone(|| {
        let mut lab = Lab::with("127.0.0.1:8443", u64::MAX);
        lab.order_as(ISOLATION, Action::Isolate {}, 3_600);
        lab.ticks_for(1);
        lab.custody = None;
        // Somebody else holds a table of that name; before Linux 6.9 nobody can.
        let act = in_force::read(&lab.layout.database()).unwrap().remove(0);
        let Prepared::Isolate(isolation) = act.prepared else { panic!("no isolation") };
        let mut others = isolation.tables(ISOLATION);
        others.iter_mut().for_each(|table| table.chains.clear());
        let mut holder = Firewall::open().unwrap();
        holder.put(&others, Duration::from_secs(3_600)).unwrap();
        std::process::Command::new("nft").args(["flush", "ruleset"]).output().unwrap();
        if !ruleset().contains("picket-isolate") {
            return;
        }
        lab.begin();
        assert!(!ruleset().contains("on-input"));
        assert_eq!(events(&lab), ["action-not-in-place"]);
        lab.ticks_for(20);
        assert_eq!(events(&lab).len(), 1, "told once");
        drop(holder);
        lab.ticks_for(6);
        assert!(ruleset().contains("jump on-input"), "{}", ruleset());
        assert_eq!(events(&lab), ["action-not-in-place", "action-in-place"]);
        assert_eq!(lab.release(ISOLATION), Ok(1));
        assert_eq!(ruleset(), "");
    });
}
