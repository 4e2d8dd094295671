use std::sync::atomic::{AtomicU64, Ordering};

use picket_protocol::record::Record;

use super::*;
use crate::ledger::Sealer;
use crate::sys::Stop;

#[test]
fn the_first_heartbeat_is_sealed_at_once_and_the_sensor_stops_when_told() {
    let (sealer, receiver) = Sealer::queue();
    let stop = Stop::new().unwrap();
    let status = super::super::SensorStatus::default();
    let context = SensorContext {
        sealer,
        database: "/nonexistent".into(),
        stop: stop.clone(),
        status: status.clone(),
        processes: Default::default(),
        sessions: Default::default(),
        keys: Default::default(),
        watch: Default::default(),
        acts: Default::default(),
    };
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let figures: FigureSource = Arc::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let processes = BTreeMap::from([("uplink".to_owned(), std::process::id())]);
        Figures { ledger_size: 41, link: "connected".to_owned(), processes, ..Figures::default() }
    });
    let handle = start(&HostConfig { heartbeat: Duration::from_secs(60) }, context, figures).unwrap();
    let entry = receiver.recv_timeout(Duration::from_secs(10)).expect("a first heartbeat");
    stop.set();
    handle.join();

    let line = entry.drafts.first().unwrap().render(0, crate::clock::now());
    let heartbeat: Heartbeat = Record::parse(&line).unwrap().body().unwrap();
    assert_eq!((heartbeat.number, heartbeat.figures.ledger_size), (0, 41));
    assert!(heartbeat.facts.is_some_and(|facts| !facts.kernel.is_empty()));
    assert!(heartbeat.processes.contains_key("core") && heartbeat.processes.contains_key("uplink"));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(status.report().state, SensorState::Running);
}

#[test]
fn facts_go_along_first_then_when_they_change_then_hourly() {
    let start = Instant::now();
    let mut pulse = Pulse::default();
    let facts = Facts { hostname: "a".to_owned(), ..Facts::default() };
    assert!(pulse.facts_if_due(facts.clone(), start).is_some());
    assert!(pulse.facts_if_due(facts.clone(), start + Duration::from_secs(60)).is_none());
    assert!(pulse.facts_if_due(facts.clone(), start + FACTS_EVERY).is_some());
    let renamed = Facts { hostname: "b".to_owned(), ..facts };
    assert!(pulse.facts_if_due(renamed, start + FACTS_EVERY + Duration::from_secs(1)).is_some());
}

#[test]
fn a_heartbeat_without_facts_stays_small() {
    let mut pulse = Pulse::default();
    let now = Instant::now();
    let interval = Duration::from_secs(60);
    pulse.heartbeat(interval, Figures::default(), now);
    let second = pulse.heartbeat(interval, Figures::default(), now + interval);
    let draft = Draft::new(Kind::Heartbeat, Severity::Info, &second).unwrap();
    assert!(second.facts.is_none());
    assert!(draft.body_bytes() < 8 * 1024, "{} bytes", draft.body_bytes());
}
