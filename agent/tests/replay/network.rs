//! `agent replay --pcap`: captures made here, of each kind of attack and of what comes near it.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that finds nothing there has failed"
)]

use std::net::IpAddr;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::{agent, agent_fed, field, objects};

#[path = "../../src/detect/packets/build.rs"]
mod build;
#[path = "../../src/detect/packets/traffic.rs"]
mod traffic;

use build::{Frame, pcap};
use traffic::{HOST, PEER, Stream};

/// When captures begin, in nanoseconds.
const BEGIN: u64 = 1_700_000_000_000_000_000;

type Frames = Vec<(u64, Vec<u8>)>;

fn frames(streams: &[Stream], from: u64, to: u64) -> Frames {
    let mut out = Vec::new();
    traffic::play(streams, from, to, &mut |nanos, frame| out.push((BEGIN + nanos, frame.bytes())));
    out
}

fn replay_bytes(capture: &[u8], arguments: &[&str]) -> Vec<Value> {
    let all = [&["replay", "--pcap", "-", "--json"], arguments].concat();
    objects(&agent_fed(&all, capture))
}

/// Findings of a capture by a host that knows its own address.
fn findings(frames: Frames) -> Vec<Value> {
    replay_bytes(&pcap(frames), &["--local", "192.0.2.1"])
}

fn rules(found: &[Value]) -> Vec<String> {
    let mut rules: Vec<String> = found.iter().map(|finding| field(finding, "finding")).collect();
    rules.dedup();
    rules
}

/// A second of requests, two seconds of a flood, and silence.
fn check_flood(flood: &[Stream], rule: &str) -> Vec<Value> {
    let calm = traffic::requests(100);
    let mut all = frames(&calm, 0, 1_000);
    all.extend(frames(flood, 1_000, 3_000));
    let found = findings(all);
    assert_eq!(rules(&found), [rule]);
    assert!(found.len() >= 2, "its begin and its end");
    let ids: Vec<_> = found.iter().map(|finding| field(finding, "id")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "one finding");
    assert_eq!(found.last().unwrap()["evidence"]["state"], "ended");
    found
}

fn check_quiet(streams: &[Stream]) {
    let found = findings(frames(streams, 0, 2_000));
    let titles: Vec<_> = found.iter().map(|finding| field(finding, "title")).collect();
    assert!(titles.is_empty(), "{titles:?}");
}

#[test]
fn each_flood_is_told_and_what_comes_near_it_is_not() {
    let found = check_flood(&traffic::syn_flood(20_000), "net.flood.syn");
    assert_eq!(found[0]["evidence"]["senders"], "spoofed");
    check_quiet(&traffic::connections(3_000, 80, 300));
    check_flood(&traffic::connections(3_000, 0, 0), "net.flood.connection");
    let ack: fn(IpAddr, u64) -> Frame = |from, _| Frame::tcp((from, 9), (HOST, 80), traffic::ACK, 0);
    check_flood(&traffic::unanswered(20_000, ack), "net.flood.ack");
    check_quiet(&traffic::download(20_000, true));
    let rst: fn(IpAddr, u64) -> Frame = |from, _| Frame::tcp((from, 9), (HOST, 80), traffic::RST, 0);
    check_flood(&traffic::unanswered(20_000, rst), "net.flood.rst");
    let granted: fn(IpAddr, u64) -> Frame = |from, _| Frame::tcp((from, 9), (HOST, 80), traffic::SYN_ACK, 0);
    check_flood(&traffic::unanswered(20_000, granted), "net.flood.syn-ack");
    check_quiet(&traffic::requests(20_000));
}

#[test]
fn datagrams_echoes_and_parts_of_packets() {
    let udp: fn(IpAddr, u64) -> Frame = |from, _| Frame::udp((from, 9), (HOST, 9_999), 10);
    check_flood(&traffic::unanswered(20_000, udp), "net.flood.udp");
    check_quiet(&traffic::datagrams(20_000));
    let found = check_flood(&traffic::amplified(20_000), "net.flood.amplification");
    assert!(field(&found[0], "title").contains("(NTP)"));
    check_quiet(&traffic::resolver(10_000));
    let echo: fn(IpAddr, u64) -> Frame = |from, _| Frame::icmp(from, HOST, 8, 0);
    check_flood(&traffic::unanswered(10_000, echo), "net.flood.icmp");
    check_quiet(&traffic::pings(20_000));
    check_flood(&traffic::fragments(10_000), "net.flood.fragment");
    let xmas: fn(IpAddr, u64) -> Frame = |from, _| Frame::tcp((from, 9), (HOST, 80), 0x29, 0);
    check_flood(&traffic::unanswered(10_000, xmas), "net.flood.malformed");
}

#[test]
fn a_flood_from_the_host_itself() {
    let found = check_flood(&traffic::outbound(20_000), "net.flood.syn");
    assert_eq!(found[0]["evidence"]["direction"], "out");
    assert!(field(&found[0], "title").starts_with("This host sends a SYN flood to 192.0.2.9 port 443"));
}

/// A try each 20 ms, and the answer, if there is one.
fn tries(count: u16, one: impl Fn(u16) -> Vec<Frame>) -> Frames {
    let all = (0..count).flat_map(|n| {
        let at = BEGIN + u64::from(n) * 20_000_000;
        one(n).into_iter().map(move |frame| (at, frame.bytes()))
    });
    all.collect()
}

#[test]
fn scans_and_what_comes_near_them() {
    let ask = |port: u16, flags: u8| Frame::tcp((PEER, 40_000), (HOST, port), flags, 0);
    let answer = |port: u16, flags: u8| Frame::tcp((HOST, port), (PEER, 40_000), flags, 0);
    let closed = tries(100, |n| vec![ask(n, traffic::SYN), answer(n, 0x14)]);
    let found = findings(closed);
    assert_eq!(rules(&found), ["net.scan.port"]);
    assert_eq!(found[0]["entities"][0]["address"], "192.0.2.9");
    assert_eq!(rules(&findings(tries(100, |n| vec![ask(n, traffic::SYN)]))), ["net.scan.port"]);
    // Many ports, all wanted; and one that is closed, again and again.
    assert!(findings(tries(100, |n| vec![ask(n, traffic::SYN), answer(n, traffic::SYN_ACK)])).is_empty());
    assert!(findings(tries(100, |_| vec![ask(81, traffic::SYN), answer(81, 0x14)])).is_empty());

    assert_eq!(rules(&findings(tries(30, |n| vec![ask(n, 0)]))), ["net.scan.stealth"]);
    assert!(findings(tries(30, |_| vec![ask(80, 1)])).is_empty(), "one port is no scan");

    let other = |n: u16| IpAddr::from([198, 51, 100, n.to_be_bytes()[1]]);
    let out = |n: u16| Frame::tcp((HOST, 40_000), (other(n), 22), traffic::SYN, 0);
    let back = |n: u16| Frame::tcp((other(n), 22), (HOST, 40_000), traffic::SYN_ACK, 0);
    let found = findings(tries(100, |n| vec![out(n)]));
    assert_eq!(rules(&found), ["net.scan.host"]);
    assert!(field(&found[0], "title").starts_with("This host scans for hosts on port 22"));
    assert!(findings(tries(100, |n| vec![out(n), back(n)])).is_empty());
}

/// Written by hand from the format's description (draft-ietf-opsawg-pcapng): two interfaces, of which one has nanoseconds and a name.
fn pcapng(big: bool, frames: &Frames) -> Vec<u8> {
    let word = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
    let block = |kind: u32, body: Vec<u8>| {
        let mut body = body;
        body.resize(body.len().next_multiple_of(4), 0);
        let length = u32::try_from(body.len() + 12).unwrap();
        [&word(kind)[..], &word(length), &body, &word(length)].concat()
    };
    let section = [&word(0x1a2b_3c4d)[..], &half(1), &half(0), &[0xff; 8]].concat();
    let mut out = block(0x0a0d_0d0a, section);
    let interface = |options: Vec<u8>| [&half(1)[..], &half(0), &word(0), &options].concat();
    let named = [&half(2)[..], &half(4), b"eth7", &half(9), &half(1), &[9, 0, 0, 0], &word(0)].concat();
    out.extend(block(1, interface(Vec::new())));
    out.extend(block(1, interface(named)));
    for (time, frame) in frames {
        let length = u32::try_from(frame.len()).unwrap();
        let high = u32::try_from(time >> 32).unwrap();
        let low = u32::try_from(time & 0xffff_ffff).unwrap();
        let head = [1, high, low, length, length].map(word).concat();
        out.extend(block(6, [head, frame.clone()].concat()));
    }
    out
}

/// A classic capture of microseconds, of which frames are cut to 60 bytes.
fn micro(big: bool, frames: &Frames) -> Vec<u8> {
    let word = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut out = word(0xa1b2_c3d4).to_vec();
    out.extend(if big { [0, 2, 0, 4] } else { [2, 0, 4, 0] });
    out.extend([0, 0, 60, 1].map(word).concat());
    for (time, frame) in frames {
        let length = u32::try_from(frame.len()).unwrap();
        let seconds = u32::try_from(time / 1_000_000_000).unwrap();
        let micros = u32::try_from(time % 1_000_000_000 / 1_000).unwrap();
        out.extend([seconds, micros, length.min(60), length].map(word).concat());
        out.extend(&frame[..frame.len().min(60)]);
    }
    out
}

#[test]
fn every_form_of_a_capture_tells_the_same() {
    let mut all = frames(&traffic::requests(100), 0, 1_000);
    all.extend(frames(&traffic::syn_flood(5_000), 1_000, 2_000));
    let local = ["--local", "192.0.2.0/24"];
    let expected = replay_bytes(&pcap(all.clone()), &local);
    assert_eq!(rules(&expected), ["net.flood.syn"]);
    let title = field(expected.last().unwrap(), "title");
    for big in [false, true] {
        let found = replay_bytes(&micro(big, &all), &local);
        assert_eq!(field(found.last().unwrap(), "title"), title, "microseconds, big endian {big}");
        let found = replay_bytes(&pcapng(big, &all), &local);
        assert_eq!(field(found.last().unwrap(), "title"), title, "pcapng, big endian {big}");
        assert_eq!(found[0]["evidence"]["interfaces"], serde_json::json!(["eth7"]));
    }
    // Nobody says whose capture it is: most packets are to the host that is flooded.
    let guessed = replay_bytes(&pcap(all), &[]);
    assert_eq!(field(guessed.last().unwrap(), "title"), title);
}

fn written(bytes: &[u8]) -> (TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture.pcap");
    std::fs::write(&path, bytes).unwrap();
    (directory, path)
}

fn replay_file(path: &Path) -> std::process::Output {
    agent(&["replay", "--pcap", path.to_str().unwrap(), "--local", "192.0.2.1"])
}

#[test]
fn a_person_reads_a_line_each_and_how_much_it_was() {
    let (_directory, path) = written(&pcap(frames(&traffic::syn_flood(5_000), 0, 1_000)));
    let output = replay_file(&path);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("2023-11-14T22:13:20Z  medium net.flood.syn: SYN flood on 192.0.2.1 port 80"),
        "{text}"
    );
    assert_eq!(lines.last(), Some(&"7,500 packets, 2 findings"), "{text}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_is_cut_off_or_no_capture_is_said() {
    let whole = pcap(frames(&traffic::syn_flood(5_000), 0, 1_000));
    let (_directory, path) = written(&whole[..whole.len() - 7]);
    let output = replay_file(&path);
    assert_ne!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("net.flood.syn"), "what was read counts");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("capture.pcap ends in the middle of a packet, after 7499 packets"), "{errors}");
    let (_directory, path) = written(b"not a capture at all, but long enough to be one");
    let output = replay_file(&path);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("is neither pcap nor pcapng"), "{errors}");
    let output = agent(&["replay", "--pcap", "/nonexistent", "--local", "300.0.2.1"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--local"));
}

#[test]
fn a_capture_of_years_is_read_at_once() {
    let mut all = frames(&traffic::syn_flood(5_000), 0, 500);
    let later: Frames = frames(&traffic::syn_flood(5_000), 0, 500);
    all.extend(later.into_iter().map(|(time, frame)| (time + 40_000_000_000_000_000, frame)));
    let found = findings(all);
    let ended = found.iter().filter(|finding| finding["evidence"]["state"] == "ended");
    assert_eq!((rules(&found), ended.count()), (vec!["net.flood.syn".to_owned()], 2));
}

/// An ARP message: question (1) or answer (2), of one station to another.
fn arp(operation: u8, (mac, address): ([u8; 6], IpAddr), to: ([u8; 6], IpAddr)) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => panic!("ARP has none"),
    };
    let wire = if operation == 1 { [0xff; 6] } else { to.0 };
    let head = [&wire[..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    [&head[..], &mac, &octets(address), &to.0, &octets(to.1), &[0; 18]].concat()
}

#[test]
fn a_gateway_whose_address_another_claims() {
    let gateway = IpAddr::from([192, 0, 2, 254]);
    let (host, real, forged) = ([2, 0, 0, 0, 0, 2], [0x52, 0x54, 0, 0, 0, 1], [0xde, 0xad, 0, 0, 0, 9]);
    let second = |n: u64| BEGIN + n * 1_000_000_000;
    let capture = |forgery: bool| {
        let mut all = Frames::new();
        for n in 0..60 {
            all.push((second(n), arp(1, (host, HOST), ([0; 6], gateway))));
            all.push((second(n) + 1_000_000, arp(2, (real, gateway), (host, HOST))));
            if forgery && n >= 30 {
                all.push((second(n) + 500_000_000, arp(2, (forged, gateway), (host, HOST))));
            }
        }
        replay_bytes(&pcap(all), &["--local", "192.0.2.1", "--gateway", "192.0.2.254"])
    };
    let quiet = capture(false);
    assert!(quiet.is_empty(), "{quiet:?}");
    let found = capture(true);
    assert!(rules(&found).iter().any(|rule| rule.starts_with("neighbour.")), "{found:?}");
    let named = found.iter().any(|finding| finding.to_string().contains("de:ad:00:00:00:09"));
    assert!(named, "the forger's card: {found:?}");
}
