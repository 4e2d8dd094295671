//! Each kind of scan, and what comes near it and must not be told.

use picket_protocol::finding::Severity;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::detect::network::{Answer, Stealth};

const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn other(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    IpAddr::from([198, 18, high, low])
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(1_700_000_000_000_000_000 + i64::try_from(millis).unwrap() * 1_000_000)
}

/// A detector and its clock.
struct Host {
    detector: ScanDetector,
    now: u64,
    ids: u64,
    told: Vec<Finding>,
}

impl Host {
    fn new() -> Self {
        let detector = ScanDetector::new(Thresholds::default(), 5);
        Self { detector, now: 0, ids: 0, told: Vec::new() }
    }

    fn see(&mut self, direction: Direction, source: IpAddr, destination: IpAddr, port: u16, kind: ProbeKind) {
        self.weigh(direction, source, destination, port, kind, 1);
    }

    fn weigh(
        &mut self,
        direction: Direction,
        source: IpAddr,
        destination: IpAddr,
        port: u16,
        kind: ProbeKind,
        weight: u32,
    ) {
        let (time, interface) = (at(self.now), Arc::from("eth0"));
        let probe = Probe {
            time,
            interface,
            direction,
            source,
            destination,
            port,
            source_port: 40_000,
            kind,
            weight,
            alone: false,
        };
        let ids = &mut self.ids;
        let found = self.detector.observe(&probe, &mut || {
            *ids += 1;
            Uuid::from_u64_pair(0, *ids)
        });
        self.told.extend(found);
    }

    fn wait(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(1_000) {
            self.now += millis.min(1_000);
            let ids = &mut self.ids;
            let found = self.detector.tick(at(self.now), &mut || {
                *ids += 1;
                Uuid::from_u64_pair(0, *ids)
            });
            self.told.extend(found);
        }
    }

    /// What was told first, and nothing else by another name.
    fn only(&self, rule: &str) -> &Finding {
        assert!(self.told.iter().all(|finding| finding.rule == rule), "{:?}", self.told);
        self.told.first().unwrap_or_else(|| panic!("{rule} was not told"))
    }
}

const IN: Direction = Direction::In;
const OUT: Direction = Direction::Out;
const CLOSED: ProbeKind = ProbeKind::Refused(Answer::Reset);

#[test]
fn a_scan_of_closed_ports_is_told_at_the_twentieth() {
    let mut host = Host::new();
    for port in 1..=100 {
        host.see(IN, other(7), HOST, port, ProbeKind::Syn);
        host.see(IN, other(7), HOST, port, if port == 22 { ProbeKind::Accepted } else { CLOSED });
        host.now += 20;
        if port == 18 {
            assert!(host.told.is_empty());
        }
    }
    assert!(!host.told.is_empty(), "told while it goes on");
    host.wait(400_000);
    let first = host.only("net.scan.port");
    assert!(host.told.len() <= 3 && host.told.iter().all(|finding| finding.id == first.id));
    assert_eq!(first.severity, Severity::Low);
    let last = host.told.last().unwrap();
    assert_eq!((&last.evidence["state"], &last.evidence["open"][0]["port"]), (&"ended".into(), &22.into()));
    assert_eq!(last.evidence["probes"], 100);
    assert!(last.title.starts_with("198.18.0.7 scanned ports of 192.0.2.1: about 1"), "{}", last.title);
}

#[test]
fn a_scan_of_filtered_ports_is_told_when_no_answer_comes() {
    let mut host = Host::new();
    for port in 1..=30 {
        host.see(IN, other(7), HOST, port, ProbeKind::Syn);
    }
    assert!(host.told.is_empty());
    host.wait(5_000);
    assert_eq!(host.only("net.scan.port").evidence["unanswered"], 30);
}

#[test]
fn datagrams_and_echoes_scan_too() {
    let mut host = Host::new();
    for port in 1..=30 {
        host.see(IN, other(7), HOST, port, ProbeKind::Udp);
    }
    host.wait(5_000);
    assert_eq!(host.only("net.scan.port").evidence["techniques"], serde_json::json!(["udp"]));
    let mut host = Host::new();
    for number in 1..=60 {
        host.see(OUT, HOST, other(number), 0, ProbeKind::Echo);
    }
    host.wait(5_000);
    let found = host.only("net.scan.host");
    assert_eq!((found.severity, found.attack.as_slice()), (Severity::High, &["T1018".to_owned()][..]));
    assert!(found.title.starts_with("This host scans for hosts by echo requests"), "{}", found.title);
}

#[test]
fn a_sweep_from_this_host_is_told_and_its_process_named() {
    let mut host = Host::new();
    for number in 1..=40 {
        host.see(OUT, HOST, other(number), 445, ProbeKind::Syn);
    }
    host.wait(5_000);
    host.only("net.scan.host");
    let (id, last) = host.detector.unnamed().next().expect("a scan without a process");
    assert_eq!((last, host.detector.targets(id).len()), (at(0), 40));
    let process = Entity::Process { pid: 9, executable: None };
    host.detector.name_process(id, process.clone());
    for number in 41..=160 {
        host.see(OUT, HOST, other(number), 445, ProbeKind::Syn);
    }
    host.wait(20_000);
    assert!(host.told.last().unwrap().entities.contains(&process));
}

#[test]
fn a_slow_scan_is_told_after_hours() {
    let mut host = Host::new();
    for port in 1..=45 {
        host.see(IN, other(7), HOST, port, ProbeKind::Syn);
        host.see(IN, other(7), HOST, port, CLOSED);
        host.wait(400_000);
    }
    let found = host.only("net.scan.port");
    assert_eq!(found.evidence["slow"], true);
    assert!(host.told.iter().all(|told| told.id == found.id), "it rests for minutes and goes on");
}

#[test]
fn what_was_told_is_not_told_again_as_slow() {
    let mut host = Host::new();
    for port in 1..=60 {
        host.see(IN, other(7), HOST, port, ProbeKind::Syn);
        host.see(IN, other(7), HOST, port, CLOSED);
    }
    host.wait(400_000);
    assert_eq!(host.told.last().unwrap().evidence["state"], "ended");
    let told = host.told.len();
    for port in 100..=110 {
        host.see(IN, other(7), HOST, port, ProbeKind::Syn);
        host.see(IN, other(7), HOST, port, CLOSED);
        host.wait(1_000);
    }
    assert_eq!(
        host.told.len(),
        told,
        "a few more are not another one: {:?}",
        host.told.last().unwrap().title
    );
}

#[test]
fn stealth_needs_few() {
    for how in [Stealth::Null, Stealth::Fin, Stealth::Xmas, Stealth::SynFin] {
        let mut host = Host::new();
        for port in 1..=6 {
            host.see(IN, other(7), HOST, port, ProbeKind::Stealth(how));
            host.now += 200;
        }
        let found = host.only("net.scan.stealth");
        assert_eq!(found.evidence["techniques"], serde_json::json!([how.as_str()]));
    }
}

#[test]
fn honest_attempts_are_not_told() {
    let mut host = Host::new();
    for number in 1..=200u16 {
        // Passive FTP: many ports, all wanted.
        host.see(IN, other(1), HOST, 30_000 + number, ProbeKind::Syn);
        host.see(IN, other(1), HOST, 30_000 + number, ProbeKind::Accepted);
        // A load balancer that asks a dead service and a living one.
        for port in [80, 8_080] {
            host.see(IN, other(2), HOST, port, ProbeKind::Syn);
        }
        host.see(IN, other(2), HOST, 8_080, CLOSED);
        // A crawler: some hosts are gone.
        host.see(OUT, HOST, other(number), 443, ProbeKind::Syn);
        if number % 4 != 0 {
            host.see(OUT, HOST, other(number), 443, ProbeKind::Accepted);
        }
        // Peers of a file exchange: every host on a port of its own.
        host.see(OUT, HOST, other(1_000 + number), 20_000 + number, ProbeKind::Syn);
        // Monitoring by echo, answered.
        host.see(OUT, HOST, other(2_000 + number), 0, ProbeKind::Echo);
        host.see(OUT, HOST, other(2_000 + number), 0, ProbeKind::Accepted);
        // traceroute.
        host.see(OUT, HOST, other(3), 33_434 + number % 90, ProbeKind::Udp);
        host.wait(500);
    }
    host.wait(10_000);
    let titles: Vec<_> = host.told.iter().map(|finding| &finding.title).collect();
    assert!(titles.is_empty(), "{titles:?}");
}

#[test]
fn answers_to_our_own_datagrams_are_no_scan() {
    let mut host = Host::new();
    for number in 0..100u16 {
        let (time, interface) = (at(host.now), Arc::from("eth0"));
        let ask = Probe {
            time,
            interface,
            direction: OUT,
            source: HOST,
            destination: other(1),
            source_port: 20_000 + number,
            port: 4_433,
            kind: ProbeKind::Udp,
            weight: 1,
            alone: false,
        };
        let back = Probe {
            direction: IN,
            source: other(1),
            destination: HOST,
            source_port: 4_433,
            port: 20_000 + number,
            ..ask.clone()
        };
        for probe in [ask, back] {
            let found = host.detector.observe(&probe, &mut || Uuid::nil());
            host.told.extend(found);
        }
        host.wait(100);
    }
    host.wait(10_000);
    assert!(host.told.is_empty(), "{:?}", host.told[0].title);
}

#[test]
fn a_flood_of_strangers_puts_nobody_out() {
    let mut host = Host::new();
    for number in 0..60_000u16 {
        host.see(IN, other(number), HOST, 80, ProbeKind::Syn);
        if number % 2_000 == 0 {
            host.see(IN, IpAddr::from([203, 0, 113, 5]), HOST, 1 + number / 2_000, ProbeKind::Syn);
        }
    }
    assert!(host.detector.sources() <= 2, "{}", host.detector.sources());
    host.wait(5_000);
    assert_eq!(host.only("net.scan.port").evidence["source"], "203.0.113.5");
}

#[test]
fn samples_count_as_many_packets_and_as_one_try() {
    let mut host = Host::new();
    for port in 1..=19 {
        host.weigh(IN, other(7), HOST, port, ProbeKind::Syn, 100);
        host.weigh(IN, other(7), HOST, port, CLOSED, 100);
    }
    host.wait(5_000);
    assert!(host.told.is_empty(), "nineteen are nineteen");
    host.weigh(IN, other(7), HOST, 20, ProbeKind::Syn, 100);
    host.weigh(IN, other(7), HOST, 20, CLOSED, 100);
    host.wait(5_000);
    assert_eq!(host.only("net.scan.port").evidence["probes"], 2_000);
}

#[test]
fn many_scanners_are_told_in_bounds() {
    let mut host = Host::new();
    for number in 0..100 {
        for port in 1..=25 {
            host.see(IN, other(number), HOST, port, ProbeKind::Syn);
        }
    }
    host.wait(5_000);
    assert_eq!(host.told.len(), usize::try_from(OPENED_A_MINUTE).unwrap());
    assert!(host.detector.folded > 0);
}

fn probes() -> impl Strategy<Value = Vec<Probe>> {
    let kind = prop_oneof![
        Just(ProbeKind::Syn),
        Just(ProbeKind::Udp),
        Just(ProbeKind::Echo),
        Just(ProbeKind::Accepted),
        Just(CLOSED),
        Just(ProbeKind::Stealth(Stealth::Fin)),
    ];
    let one = (0..3usize, 0..40u16, 0..40u16, 0..80u16, kind, any::<u32>(), 0..100_000u64);
    vec(one, 0..400).prop_map(|rows| {
        let mut now = 0;
        let probe = |(way, source, destination, port, kind, weight, step): (
            usize,
            u16,
            u16,
            u16,
            ProbeKind,
            u32,
            u64,
        )| {
            now += step;
            Probe {
                time: at(now),
                interface: Arc::from("eth0"),
                direction: Direction::ALL[way],
                source: other(source),
                destination: other(100 + destination),
                port,
                source_port: port,
                kind,
                weight,
                alone: weight.is_multiple_of(3),
            }
        };
        rows.into_iter().map(probe).collect()
    })
}

#[test]
fn ports_are_counted_alike_by_every_seed() {
    for number in 0..2_000_u64 {
        let seed = number.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let mut ports = source::Few::default();
        (1..=500).for_each(|port| ports.add(print(seed, HOST, port)));
        assert!((425..575).contains(&ports.count()), "{seed:#x}: {}", ports.count());
    }
}

fn run(probes: &[Probe]) -> (ScanDetector, Vec<Finding>) {
    let mut detector = ScanDetector::new(Thresholds::default(), 1);
    let mut told = Vec::new();
    for probe in probes {
        told.extend(detector.observe(probe, &mut || Uuid::nil()));
        told.extend(detector.tick(probe.time, &mut || Uuid::nil()));
    }
    (detector, told)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_probes_break_it(probes in probes()) {
        let (detector, told) = run(&probes);
        prop_assert!(detector.sources.len() <= SOURCES_MAX);
        prop_assert!(detector.sources.values().all(|known| known.source.tries.len() <= source::TRIES_MAX));
        for finding in &told {
            prop_assert!(serde_json::to_string(finding).unwrap().len() < 16 * 1024);
        }
    }

    /// What others do, within the bounds of the tables, changes no finding about a source.
    #[test]
    fn others_change_nothing(probes in probes(), extra in 0..50u16) {
        let mut with = probes.clone();
        if let Some(last) = probes.last() {
            for port in 0..extra {
                let at = usize::from(port) % with.len();
                let time = with[at].time;
                let stranger = IpAddr::from([203, 0, 113, 9]);
                with.insert(at, Probe { time, source: stranger, destination: HOST, port: 1, direction: IN, kind: ProbeKind::Syn, ..last.clone() });
            }
        }
        prop_assert_eq!(run(&probes).1, run(&with).1);
    }
}
