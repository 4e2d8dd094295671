//! Each kind of flood, and what comes near it and must not be told.

use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::finding::Severity;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use super::baseline::Baseline;
use super::*;
use crate::detect::network::{Counter, KernelDelta, ListenerLoad, Spread, Talker, Target};
use crate::detect::packets::build::{Body, Frame};
use crate::detect::packets::traffic::{self, HOST, Stream};
use crate::detect::packets::{Link, decode};

/// When the tests begin.
const BEGIN: i64 = 1_700_000_000_000_000_000;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(BEGIN + i64::try_from(millis).unwrap() * 1_000_000)
}

/// A host on one interface.
struct Host {
    counter: Counter,
    detector: FloodDetector,
    ids: u64,
    now: u64,
    told: Vec<(u64, Finding)>,
}

impl Host {
    fn new() -> Self {
        let detector = FloodDetector::new(Thresholds::default());
        Self { counter: Counter::new(3), detector, ids: 0, now: 0, told: Vec::new() }
    }

    /// Lets traffic go on for so many milliseconds.
    fn play(&mut self, streams: &[Stream], millis: u64) {
        self.play_with(streams, millis, |_| None);
    }

    fn play_with(&mut self, streams: &[Stream], millis: u64, kernel: impl Fn(u64) -> Option<KernelDelta>) {
        for _ in 0..millis / 100 {
            self.count(streams, 100);
            self.look(kernel(self.now));
        }
    }

    /// Counts what comes in so many milliseconds.
    fn count(&mut self, streams: &[Stream], millis: u64) {
        self.count_some(streams, millis, || true);
    }

    fn count_some(&mut self, streams: &[Stream], millis: u64, mut is_seen: impl FnMut() -> bool) {
        let eth = self.counter.interface("eth0");
        let counter = &mut self.counter;
        traffic::play(streams, self.now, self.now + millis, &mut |nanos, frame| {
            if !is_seen() {
                return;
            }
            let direction = if frame.source == HOST { Direction::Out } else { Direction::In };
            let bytes = frame.bytes();
            let time = Timestamp::from_nanos(BEGIN + i64::try_from(nanos).unwrap());
            counter.count(eth, direction, &decode(Link::Ethernet, &bytes, 0), time);
        });
        self.now += millis;
    }

    /// Has the detector look at what was counted.
    fn look(&mut self, kernel: Option<KernelDelta>) {
        let mut summary = self.counter.summary(at(self.now));
        summary.kernel = kernel;
        let ids = &mut self.ids;
        let found = self.detector.observe(&summary, &mut || {
            *ids += 1;
            Uuid::from_u64_pair(0, *ids)
        });
        self.told.extend(found.into_iter().map(|finding| (self.now, finding)));
    }

    fn rules(&self) -> Vec<&str> {
        let mut rules: Vec<_> = self.told.iter().map(|(_, finding)| finding.rule.as_str()).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }
}

/// 2 s of a flood after 1 s of a few requests: told within 500 ms, ended within 10 s, one finding.
fn check_flood(streams: Vec<Stream>, rule: &str) -> Vec<(u64, Finding)> {
    let mut host = Host::new();
    host.play(&traffic::requests(100), 1_000);
    host.play(&streams, 2_000);
    host.play(&traffic::requests(100), 10_000);
    assert_eq!(host.rules(), [rule]);
    let (first, last) = (&host.told[0], host.told.last().unwrap());
    assert!(first.0 <= 1_500, "told {} ms after the begin", first.0 - 1_000);
    assert!(last.0 <= 13_000, "end told {} ms after it", last.0 - 3_000);
    assert!(host.told.iter().all(|(_, finding)| finding.id == first.1.id), "one finding");
    assert!(host.told.len() <= 4, "{} times", host.told.len());
    assert_eq!(first.1.evidence["state"], "open");
    assert_eq!(last.1.evidence["state"], "ended");
    assert!(last.1.evidence["end"].is_string());
    assert!(host.detector.open.is_empty() && host.detector.suspected.is_empty());
    host.told
}

fn check_quiet(streams: Vec<Stream>) {
    let mut host = Host::new();
    host.play(&streams, 1_500);
    host.play(&[], 1_000);
    host.play(&streams, 500);
    let titles: Vec<_> = host.told.iter().map(|(_, finding)| &finding.title).collect();
    assert!(titles.is_empty(), "{titles:?}");
}

#[test]
fn a_syn_flood_is_told_with_all_that_a_person_needs() {
    let told = check_flood(traffic::syn_flood(100_000), "net.flood.syn");
    let evidence = &told.last().unwrap().1.evidence;
    let targets = evidence["targets"].as_array().unwrap();
    assert_eq!((&targets[0]["address"], &targets[0]["port"]), (&Value::from("192.0.2.1"), &Value::from(80)));
    assert_eq!(evidence["senders"], "spoofed");
    assert_eq!(evidence["direction"], "in");
    assert_eq!(evidence["ttls"]["different"], 1);
    let peak = evidence["peak"]["packets_per_second"].as_u64().unwrap();
    assert!((95_000..=105_000).contains(&peak), "{peak}");
    let packets = evidence["packets"].as_u64().unwrap();
    assert!((180_000..=200_000).contains(&packets), "{packets}");
    assert_eq!(told[0].1.attack, ["T1499.001"]);
    assert_eq!(told[0].1.severity, Severity::High);
    let title = &told[0].1.title;
    assert!(title.starts_with("SYN flood on 192.0.2.1 port 80 from about "), "{title}");
    let title = &told.last().unwrap().1.title;
    assert!(title.contains("has ended after"), "{title}");
}

#[test]
fn a_flood_after_an_idle_second_is_told_with_when_it_began() {
    let mut host = Host::new();
    host.play(&traffic::requests(100), 1_000);
    // While little comes sums are read once a second: the first that shows it is mostly of the time before.
    host.count(&[], 800);
    host.count(&traffic::syn_flood(100_000), 200);
    host.look(None);
    host.play(&traffic::syn_flood(100_000), 500);
    let begun = host.told[0].1.observed.first;
    assert!((at(1_790)..=at(1_810)).contains(&begun), "told as begun {begun}, did at {}", at(1_800));
}

#[test]
fn every_kind_is_told() {
    let closed =
        |from, n: u64| Frame::tcp((from, 9), (HOST, 80), traffic::SYN_ACK, usize::from(n == u64::MAX));
    check_flood(traffic::unanswered(12_000, closed), "net.flood.syn-ack");
    check_flood(
        traffic::unanswered(12_000, |from, _| Frame::tcp((from, 9), (HOST, 80), traffic::ACK, 0)),
        "net.flood.ack",
    );
    check_flood(
        traffic::unanswered(12_000, |from, _| Frame::tcp((from, 9), (HOST, 80), traffic::RST, 0)),
        "net.flood.rst",
    );
    check_flood(
        traffic::unanswered(30_000, |from, _| Frame::udp((from, 9), (HOST, 9_999), 0)),
        "net.flood.udp",
    );
    check_flood(traffic::unanswered(12_000, |from, _| Frame::icmp(from, HOST, 8, 0)), "net.flood.icmp");
    check_flood(traffic::fragments(20_000), "net.flood.fragment");
    check_flood(
        traffic::unanswered(12_000, |from, _| Frame::tcp((from, 9), (HOST, 80), 0x29, 0)),
        "net.flood.malformed",
    );
    check_flood(
        traffic::unanswered(12_000, |from, _| {
            Frame::new(from, HOST, Body::Raw { protocol: 6, payload: vec![0; 9] })
        }),
        "net.flood.malformed",
    );
    let told = check_flood(traffic::connections(7_000, 0, 0), "net.flood.connection");
    assert_eq!(told[0].1.evidence["senders"], "real");
}

#[test]
fn amplifiers_are_named() {
    let told = check_flood(traffic::amplified(50_000), "net.flood.amplification");
    assert!(told[0].1.title.contains("(NTP)"), "{}", told[0].1.title);
    assert_eq!(told[0].1.evidence["targets"][0]["service"], "NTP");
}

#[test]
fn one_sender_is_named() {
    let one =
        || vec![traffic::stream(100_000, |n| Frame::udp((traffic::PEER, traffic::port(n)), (HOST, 9), 0))];
    let told = check_flood(one(), "net.flood.udp");
    assert!(told[0].1.title.contains(" from 192.0.2.9"), "{}", told[0].1.title);
    assert_eq!(told[0].1.evidence["sources"][0]["share_percent"], 100);
}

#[test]
fn a_flood_from_this_host_is_told_as_such_and_its_process_is_named() {
    let mut host = Host::new();
    host.play(&traffic::outbound(50_000), 500);
    let (id, kind, direction, named) = host.detector.open().next().expect("an open flood");
    assert_eq!((kind, direction, named), (Kind::Syn, Direction::Out, false));
    assert!(host.told[0].1.title.starts_with("This host sends a SYN flood to 192.0.2.9 port 443"));
    let process = Entity::Process { pid: 7, executable: None };
    host.detector.name_process(id, process.clone());
    host.play(&traffic::outbound(50_000), 100);
    let last = &host.told.last().unwrap().1;
    assert!(host.told.len() == 2 && last.id == id && last.entities.contains(&process));
}

#[test]
fn honest_traffic_is_not_told() {
    check_quiet(traffic::connections(7_000, 80, 300));
    check_quiet(traffic::requests(25_000));
    check_quiet(traffic::download(40_000, true));
    check_quiet(traffic::download(40_000, false));
    check_quiet(traffic::datagrams(30_000));
    check_quiet(traffic::pings(30_000));
    check_quiet(traffic::resolver(15_000));
}

#[test]
fn data_that_are_acknowledged_by_the_window_are_no_flood_but_what_hides_among_them_is() {
    check_quiet(traffic::download_by(20_000, 500, true));
    check_quiet(traffic::download_by(20_000, 500, false));
    let full = |from, _: u64| Frame::tcp((from, 9), (HOST, 5_201), traffic::ACK, 1_448);
    let mut hidden = traffic::download_by(8_000, 500, true);
    hidden.extend(traffic::unanswered(12_000, full));
    check_flood(hidden, "net.flood.ack");
    // Of somebody who is acknowledged nothing.
    check_flood(traffic::download_by(20_000, 20_001, true), "net.flood.ack");
}

#[test]
fn what_went_before_is_not_taken_off_what_goes_now() {
    for last in [traffic::download(20_000, true), traffic::download(20_000, false)] {
        let mut host = Host::new();
        host.play(&last, 4_000);
        host.play(&traffic::connections(7_000, 80, 300), 1_000);
        host.play(&traffic::download(20_000, false), 1_000);
        assert_eq!(host.rules(), [""; 0], "{:?}", host.told[0].1.title);
    }
    // A long transfer one way, then a long one the other way, with few acknowledgements: none of these went before.
    let mut host = Host::new();
    host.play(&traffic::download_by(20_000, 90, true), 4_000);
    host.play(&traffic::download_by(20_000, 90, false), 12_000);
    assert_eq!(host.rules(), [""; 0], "{:?}", host.told[0].1.title);
}

#[test]
fn what_the_card_cuts_is_answered_by_all_that_comes_back() {
    // `rsync` to a peer that acknowledges less often the faster it goes: there are no more acknowledgements than before.
    let out = |data, answers| {
        vec![
            traffic::stream(data, |_| Frame::tcp((HOST, 40_000), (traffic::PEER, 873), traffic::ACK, 18_000)),
            traffic::stream(answers, |_| Frame::tcp((traffic::PEER, 873), (HOST, 40_000), traffic::ACK, 0)),
        ]
    };
    let mut host = Host::new();
    host.play(&out(1_000, 1_200), 10_000);
    host.play(&out(9_000, 150), 600);
    assert_eq!(host.rules(), [""; 0], "{:?}", host.told[0].1.title);
    // Whatever sends such packets, and has no answer, does not talk to anybody.
    host.play(&out(9_000, 1), 800);
    assert_eq!(host.rules(), ["net.flood.ack"]);
}

/// Data to the peer in segments of so many bytes, and acknowledgements of them by `from`.
fn upload(data: u64, bytes: usize, answers: u64, from: IpAddr) -> Vec<Stream> {
    vec![
        traffic::stream(data, move |_| Frame::tcp((HOST, 40_000), (traffic::PEER, 873), traffic::ACK, bytes)),
        traffic::stream(answers, move |_| Frame::tcp((from, 873), (HOST, 40_000), traffic::ACK, 0)),
    ]
}

#[test]
fn full_segments_are_answered_by_all_that_their_target_sends_back() {
    // A busy peer acknowledges many more segments at once than it did while less was sent.
    let after_calm = |bytes, last: &[Stream]| {
        let mut host = Host::new();
        host.play(&upload(2_000, bytes, 1_200, traffic::PEER), 10_000);
        host.play(last, 800);
        host.told
    };
    let told = after_calm(1_448, &upload(20_000, 1_448, 150, traffic::PEER));
    assert!(told.is_empty(), "{:?}", told[0].1.title);
    // What others send back answers nothing, nor do too few answers of the target itself; and what has no data is nobody's upload.
    for (bytes, answers, from) in
        [(1_448, 150, traffic::client(7)), (1_448, 2, traffic::PEER), (0, 150, traffic::PEER)]
    {
        let told = after_calm(bytes, &upload(20_000, bytes, answers, from));
        assert!(told.iter().any(|(_, finding)| finding.rule == "net.flood.ack"), "{bytes} {answers} {from}");
    }
}

#[test]
fn a_sample_of_pings_shows_as_many_answers_as_chance_lets_it() {
    /// One in so many, as splitmix64 (Steele, Lea and Flood 2014) draws them.
    fn draw(state: &mut u64, one_in: u32) -> bool {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 32).is_multiple_of(one_in.into())
    }
    for one_in in [4, 32, 256] {
        let mut state = 7;
        let mut host = Host::new();
        host.counter.sample(one_in);
        for _ in 0..60 {
            host.count_some(&traffic::pings(70_000), 100, || draw(&mut state, one_in));
            host.look(None);
        }
        assert_eq!(host.rules(), [""; 0], "{}", host.told[0].1.title);
        // And a flood is one.
        let flood = traffic::unanswered(70_000, |from, _| Frame::icmp(from, HOST, 8, 0));
        for _ in 0..10 {
            host.count_some(&flood, 100, || draw(&mut state, one_in));
            host.look(None);
        }
        assert_eq!(host.rules(), ["net.flood.icmp"], "one in {one_in}");
    }
}

#[test]
fn shares_are_of_what_the_senders_were_counted_in() {
    let mut lane = Lane::default();
    let mut traffic = Traffic::new(Arc::from("eth0"), Direction::In);
    let count = |packets| Count { packets, bytes: 98 * packets };
    // Nine tenths of a second, then a new epoch of the kernel's tables.
    traffic.classes[Class::Icmp.index()] = count(9_000);
    lane.take(Some(&traffic), Duration::from_millis(900), at(900), true);
    let talker = Talker { address: traffic::PEER, class: Class::Icmp, count: count(1_000) };
    traffic.classes[Class::Icmp.index()] = count(1_000);
    traffic.shared[Class::Icmp.index()] = count(1_000);
    traffic.sources.push(talker);
    lane.take(Some(&traffic), Duration::from_millis(100), at(1_000), true);
    assert_eq!(lane.sources(Class::Icmp).collect::<Vec<_>>(), [(&talker, 100)]);
    // It ends, and a second begins in which others send.
    let mut next = Traffic::new(Arc::from("eth0"), Direction::In);
    next.classes = traffic.classes;
    next.shared[Class::Udp.index()] = count(10);
    let other = Talker { class: Class::Udp, ..talker };
    next.sources.push(other);
    lane.take(Some(&next), Duration::from_millis(100), at(1_100), true);
    assert_eq!(lane.sources(Class::Icmp).collect::<Vec<_>>(), [(&talker, 100)]);
    assert_eq!(lane.sources(Class::Udp).collect::<Vec<_>>(), [(&other, 100)]);
}

#[test]
fn the_end_of_a_stream_is_a_stream_though_others_go_on() {
    let mut host = Host::new();
    // More than the program takes, as iperf3 sends without a limit.
    let losing = |now: u64| {
        let kernel = KernelDelta {
            interval: Duration::from_secs(1),
            udp_buffer_errors: 18_000,
            udp_delivered: 12_000,
            ..KernelDelta::default()
        };
        now.is_multiple_of(1_000).then_some(kernel)
    };
    host.play_with(&traffic::datagrams(30_000), 2_000, losing);
    // In another second, so that nobody of the old one is named.
    host.play_with(&traffic::pings(1_000), 500, losing);
    assert_eq!(host.rules(), [""; 0], "{:?}", host.told.first().map(|(_, finding)| &finding.title));
}

#[test]
fn a_boot_of_many_and_a_scan_are_no_flood() {
    // 200 hosts that ask for addresses, names and time, all at once.
    check_quiet(vec![
        traffic::stream(2_000, |n| Frame::udp((traffic::client(n), 68), (IpAddr::from([255; 4]), 67), 300)),
        traffic::stream(4_000, |n| {
            Frame::udp((traffic::client(n), 5_353), (IpAddr::from([224, 0, 0, 251]), 5_353), 100)
        }),
    ]);
    // A fast scan of all ports is a scan.
    check_quiet(vec![traffic::stream(5_000, |n| {
        Frame::tcp((traffic::PEER, 9), (HOST, traffic::port(n)), traffic::SYN, 0)
    })]);
}

#[test]
fn a_flood_within_honest_traffic_is_seen() {
    let mut host = Host::new();
    let mut both = traffic::connections(3_000, 80, 300);
    host.play(&both, 4_000);
    assert!(host.told.is_empty());
    both.extend(traffic::syn_flood(30_000));
    host.play(&both, 500);
    assert_eq!(host.rules(), ["net.flood.syn"]);
}

#[test]
fn a_program_that_takes_its_datagrams_is_not_flooded_and_one_that_cannot_is() {
    let logs = || vec![traffic::stream(20_000, |_| Frame::udp((traffic::PEER, 514), (HOST, 514), 200))];
    let second = Duration::from_secs(1);
    let kernel = |delivered, lost| {
        move |now: u64| {
            let kernel = KernelDelta {
                interval: second,
                udp_delivered: delivered,
                udp_buffer_errors: lost,
                ..Default::default()
            };
            now.is_multiple_of(1_000).then_some(kernel)
        }
    };
    let mut taken = Host::new();
    taken.play_with(&[], 1_000, kernel(0, 0));
    taken.play_with(&logs(), 4_000, kernel(20_000, 0));
    assert!(taken.told.is_empty(), "{:?}", taken.told[0].1.title);
    let mut lost = Host::new();
    lost.play_with(&[], 1_000, kernel(0, 0));
    lost.play_with(&logs(), 4_000, kernel(1_000, 19_000));
    assert_eq!(lost.rules(), ["net.flood.udp"]);
    assert!(lost.told.iter().any(|(_, finding)| finding.evidence["impact"]["udp_buffer_errors"] != 0));
}

#[test]
fn a_stream_whose_program_loses_some_of_it_is_no_flood_unless_nobody_is_there() {
    let kernel = |lost, nobody| {
        move |now: u64| {
            let kernel = KernelDelta {
                interval: Duration::from_secs(1),
                udp_delivered: 30_000 - lost - nobody,
                udp_buffer_errors: lost,
                udp_no_port: nobody,
                ..Default::default()
            };
            now.is_multiple_of(1_000).then_some(kernel)
        }
    };
    let mut measured = Host::new();
    measured.play_with(&traffic::datagrams(30_000), 4_000, kernel(20_000, 0));
    assert_eq!(measured.rules(), [""; 0], "{:?}", measured.told[0].1.title);
    let mut closed = Host::new();
    closed.play_with(&traffic::datagrams(30_000), 4_000, kernel(0, 30_000));
    assert_eq!(closed.rules(), ["net.flood.udp"]);
}

fn load(established: u32, slow: u32) -> ListenerLoad {
    ListenerLoad {
        address: HOST,
        port: 80,
        established,
        slow,
        unanswered: slow,
        trickling: 0,
        stalled: 0,
        queue: 0,
        queue_max: 128,
        sources: vec![(traffic::PEER, slow)],
        distinct_sources: 1,
    }
}

#[test]
fn slow_connections_are_told_and_their_end() {
    let mut detector = FloodDetector::new(Thresholds::default());
    let mut ids = 0;
    let mut read = |second: i64, listeners: Vec<ListenerLoad>| {
        let connections = Connections { time: Timestamp::from_seconds(second), listeners };
        detector.connections(&connections, &mut || {
            ids += 1;
            Uuid::from_u64_pair(0, ids)
        })
    };
    assert!(read(1, vec![load(900, 120)]).is_empty(), "most of a busy service is not slow");
    assert!(read(2, vec![load(200, 150)]).is_empty(), "one reading is none");
    let told = read(3, vec![load(200, 160)]);
    assert_eq!((told.len(), told[0].rule.as_str()), (1, "net.flood.slow"));
    assert!(told[0].title.contains("on port 80 from 192.0.2.9: 160 connections"), "{}", told[0].title);
    assert!(read(4, vec![load(200, 170)]).is_empty());
    assert_eq!(read(5, vec![load(900, 400)]).len(), 0);
    assert!(read(6, Vec::new()).is_empty());
    let ended = read(9, Vec::new());
    assert_eq!(
        (ended.len(), ended[0].id, &ended[0].evidence["state"]),
        (1, told[0].id, &Value::from("ended"))
    );
}

#[test]
fn a_full_accept_queue_and_a_full_conntrack_table_are_told() {
    for (overflows, conntrack, words) in
        [(500, 10, "does not accept"), (0, 99, "tracked connections is 99 % full")]
    {
        let mut host = Host::new();
        host.play_with(&[], 3_000, |now| {
            now.is_multiple_of(1_000).then_some(KernelDelta {
                interval: Duration::from_secs(1),
                listen_overflows: overflows,
                conntrack_count: conntrack,
                conntrack_max: 100,
                ..Default::default()
            })
        });
        assert_eq!(host.rules(), ["net.flood.connection"]);
        assert!(host.told[0].1.title.contains(words), "{}", host.told[0].1.title);
        assert!(host.told[0].0 == 2_000 && host.told.len() == 1);
    }
}

fn summaries() -> impl Strategy<Value = Vec<Summary>> {
    let counts = vec((any::<u32>(), any::<u32>()), Class::COUNT);
    let address = any::<u8>().prop_map(|last| IpAddr::from([192, 0, 2, last]));
    let heavy = vec((address, any::<u16>(), 0..Class::COUNT, any::<u32>()), 0..6);
    let traffic = (0..4u8, 0..3usize, counts, heavy, any::<u64>(), any::<[u64; 4]>());
    let one = (0..3_000u64, vec(traffic, 0..6), proptest::option::of(any::<u32>()), any::<u32>());
    vec(one, 1..20).prop_map(|rows| {
        let mut now = 0;
        rows.into_iter()
            .map(|(step, lanes, kernel, sampled)| {
                let from = at(now);
                now += step;
                let mut known = std::collections::BTreeSet::new();
                let lanes = lanes.into_iter().filter(|lane| known.insert((lane.0, lane.1)));
                let traffic = lanes.map(|(name, way, counts, heavy, sources, ttls)| {
                    let mut one = Traffic::new(Arc::from(format!("eth{name}")), Direction::ALL[way]);
                    for (class, (packets, bytes)) in one.classes.iter_mut().zip(counts) {
                        *class = Count { packets: packets.into(), bytes: bytes.into() };
                    }
                    one.spreads =
                        [Spread { sources, ttls: crate::detect::network::TtlSpread(ttls) }; Class::COUNT];
                    for (address, port, class, packets) in heavy {
                        let (class, count) = (Class::ALL[class], Count { packets: packets.into(), bytes: 0 });
                        one.sources.push(Talker { address, class, count });
                        one.targets.push(Target { address, port, class, count });
                    }
                    one
                });
                let kernel = kernel.map(|count| KernelDelta {
                    passive_opens: count.into(),
                    listen_overflows: count.into(),
                    ..Default::default()
                });
                Summary { from, to: at(now), traffic: traffic.collect(), kernel, sampled }
            })
            .collect()
    })
}

fn run(summaries: &[Summary]) -> (FloodDetector, Vec<Finding>) {
    let mut detector = FloodDetector::new(Thresholds::default());
    let mut ids = 0;
    let mut told = Vec::new();
    for summary in summaries {
        told.extend(detector.observe(summary, &mut || {
            ids += 1;
            Uuid::from_u64_pair(0, ids)
        }));
    }
    (detector, told)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is counted: no panic, bounded tables, bounded findings, one finding for a kind and direction at a time.
    #[test]
    fn no_counts_break_it(summaries in summaries()) {
        let (detector, told) = run(&summaries);
        prop_assert!(detector.lanes.len() <= LANES_MAX && detector.open.len() <= OPEN_MAX);
        prop_assert!(told.len() <= summaries.len() * 2 * (OPEN_MAX + 2));
        for finding in &told {
            prop_assert!(serde_json::to_string(finding).unwrap().len() < 16 * 1024);
            prop_assert!(finding.observed.first <= finding.observed.last);
        }
    }

    /// The order of interfaces in a summary changes nothing.
    #[test]
    fn order_changes_nothing(summaries in summaries()) {
        let mut turned = summaries.clone();
        turned.iter_mut().for_each(|summary| summary.traffic.reverse());
        prop_assert_eq!(run(&summaries).1, run(&turned).1);
    }

    /// Quiet traffic on another interface changes no finding about this one.
    #[test]
    fn unrelated_traffic_changes_nothing(packets in 0..40u64) {
        let with = |other: bool| {
            let summaries: Vec<Summary> = (0..30u64).map(|step| {
                let mut flood = Traffic::new(Arc::from("eth0"), Direction::In);
                flood.classes[Class::Syn.index()] = Count { packets: 10_000, bytes: 540_000 };
                let mut quiet = Traffic::new(Arc::from("eth1"), Direction::In);
                quiet.classes[Class::Udp.index()] = Count { packets, bytes: packets * 100 };
                let traffic = if other { vec![flood, quiet] } else { vec![flood] };
                Summary { from: at(step * 100), to: at(step * 100 + 100), traffic, kernel: None, sampled: 1 }
            }).collect();
            run(&summaries).1
        };
        prop_assert_eq!(with(false), with(true));
    }

    #[test]
    fn what_was_learned_reads_back(summaries in summaries()) {
        let (detector, _) = run(&summaries);
        let learned = detector.learned();
        let mut again = FloodDetector::new(Thresholds::default());
        prop_assert_eq!(again.restore(learned.clone(), at(1_000_000_000)), 0);
        prop_assert_eq!(again.baselines(), learned.len());
        prop_assert_eq!(again.learned(), learned);
    }
}

#[test]
fn what_cannot_have_been_learned_is_forgotten_and_the_rest_is_bounded() {
    let of = |interface: String, class, state| Learned {
        interface,
        direction: Direction::In,
        class,
        seen: at(0),
        state,
    };
    let good = Baseline::default().to_bytes();
    let mut rows = vec![
        of("eth0".to_owned(), Class::Arp, good.clone()),
        of("eth0".to_owned(), Class::Syn, vec![7; 13]),
        of("eth0".to_owned(), Class::Udp, good.clone()),
    ];
    let mut detector = FloodDetector::new(Thresholds::default());
    assert_eq!(detector.restore(rows.clone(), at(5)), 2);
    assert_eq!(detector.learned(), rows.split_off(2));
    let many = (0..1_000).map(|number| of(format!("veth{number}"), Class::Syn, good.clone()));
    detector.restore(many.collect(), at(5));
    assert_eq!((detector.lanes.len(), detector.baselines()), (LANES_MAX, LANES_MAX));
}

#[test]
fn what_was_learned_of_an_interface_that_is_gone_for_long_is_not_kept() {
    let mut host = Host::new();
    let row = |interface: &str, seen| Learned {
        interface: interface.to_owned(),
        direction: Direction::In,
        class: Class::Syn,
        seen,
        state: Baseline::default().to_bytes(),
    };
    let week = Duration::from_secs(7 * 86_400);
    let ago = |time: Duration| Timestamp::from_nanos(BEGIN - i64::try_from(time.as_nanos()).unwrap());
    // One was seen by a clock that went ahead.
    let rows = vec![row("gone", ago(week * 2)), row("rare", ago(week)), row("ahead", at(1_000_000_000))];
    assert_eq!(host.detector.restore(rows, at(0)), 0);
    host.play(&traffic::requests(100), 2_000);
    let kept: Vec<_> = host.detector.learned().into_iter().map(|row| (row.interface, row.seen)).collect();
    assert!(kept.iter().all(|(name, _)| name != "gone"), "{kept:?}");
    assert!(kept.contains(&("rare".to_owned(), ago(week))) && kept.contains(&("ahead".to_owned(), at(0))));
}
