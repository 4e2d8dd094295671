//! Traffic as real programs make it, as streams of frames, for tests of this crate and of the program (`agent/tests/replay` takes this very
//! file). The host that is watched is [`HOST`].
#![allow(dead_code, missing_docs, reason = "each user of this file needs some of it")]
#![allow(clippy::cast_possible_truncation, reason = "tests build what fits")]

use std::net::IpAddr;

use super::build::{Body, Frame};

/// The host that is watched.
pub const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
/// A peer.
pub const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));

pub const SYN: u8 = 0x02;
pub const SYN_ACK: u8 = 0x12;
pub const ACK: u8 = 0x10;
pub const PSH: u8 = 0x18;
pub const FIN: u8 = 0x11;
pub const RST: u8 = 0x04;

/// So many frames a second, each made of its number.
pub struct Stream {
    pub rate: u64,
    pub make: Box<dyn Fn(u64) -> Frame>,
}

pub fn stream(rate: u64, make: impl Fn(u64) -> Frame + 'static) -> Stream {
    Stream { rate, make: Box::new(make) }
}

/// All frames between two times in milliseconds, in order, with their nanoseconds.
pub fn play(streams: &[Stream], from: u64, to: u64, sink: &mut dyn FnMut(u64, Frame)) {
    for milli in from..to {
        for stream in streams {
            for number in stream.rate * milli / 1_000..stream.rate * (milli + 1) / 1_000 {
                sink(milli * 1_000_000, (stream.make)(number));
            }
        }
    }
}

/// Somebody who does not exist.
pub fn stranger(number: u64) -> IpAddr {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    IpAddr::from([11 + (mixed >> 24) as u8 % 100, (mixed >> 16) as u8, (mixed >> 8) as u8, mixed as u8])
}

/// One of a few who do.
pub fn client(number: u64) -> IpAddr {
    IpAddr::from([192, 0, 2, 10 + (number % 200) as u8])
}

/// Any port above 1,023.
pub fn port(number: u64) -> u16 {
    1_024 + (number % 60_000) as u16
}

/// `hping3 -S --flood --rand-source -p 80`, with or without the answers of SYN cookies.
pub fn syn_flood(rate: u64) -> Vec<Stream> {
    vec![
        stream(rate, |n| Frame::tcp((stranger(n), port(n)), (HOST, 80), SYN, 0).ttl(61)),
        stream(rate / 2, |n| Frame::tcp((HOST, 80), (stranger(2 * n), port(2 * n)), SYN_ACK, 0)),
    ]
}

/// `ab`: connections that are asked for, granted, used and closed.
pub fn connections(rate: u64, request: usize, answer: usize) -> Vec<Stream> {
    let ours = |n: u64, flags: u8, bytes: usize| Frame::tcp((HOST, 80), (PEER, port(n)), flags, bytes);
    let theirs = |n: u64, flags: u8, bytes: usize| Frame::tcp((PEER, port(n)), (HOST, 80), flags, bytes);
    let mut streams = vec![
        stream(rate, move |n| theirs(n, SYN, 0)),
        stream(rate, move |n| ours(n, SYN_ACK, 0)),
        stream(rate, move |n| theirs(n, ACK, 0)),
    ];
    if request > 0 {
        streams.extend([
            stream(rate, move |n| theirs(n, PSH, request)),
            stream(rate, move |n| ours(n, PSH, answer)),
            stream(rate, move |n| theirs(n, ACK, 0)),
        ]);
    }
    streams.extend([stream(rate, move |n| ours(n, FIN, 0)), stream(rate, move |n| theirs(n, FIN, 0))]);
    streams
}

/// `wrk`: requests and answers over few connections.
pub fn requests(rate: u64) -> Vec<Stream> {
    vec![
        stream(rate, |n| Frame::tcp((PEER, port(n % 100)), (HOST, 80), PSH, 60)),
        stream(rate, |n| Frame::tcp((HOST, 80), (PEER, port(n % 100)), PSH, 900)),
    ]
}

/// `iperf3`, `rsync`, a download: data one way, one acknowledgement for many segments the other.
pub fn download(rate: u64, to_us: bool) -> Vec<Stream> {
    download_by(rate, 40, to_us)
}

/// The same with one acknowledgement for so many segments: where both ends are busy they are few.
pub fn download_by(rate: u64, segments: u64, to_us: bool) -> Vec<Stream> {
    let (from, to) = if to_us { (PEER, HOST) } else { (HOST, PEER) };
    vec![
        stream(rate, move |_| Frame::tcp((from, 5_201), (to, 40_000), ACK, 1_448)),
        stream(rate / segments, move |_| Frame::tcp((to, 40_000), (from, 5_201), ACK, 0)),
    ]
}

/// `iperf3 -u`: one stream of large datagrams, which nobody answers.
pub fn datagrams(rate: u64) -> Vec<Stream> {
    vec![stream(rate, |_| Frame::udp((PEER, 40_000), (HOST, 5_201), 1_448))]
}

/// `ping -f`.
pub fn pings(rate: u64) -> Vec<Stream> {
    vec![stream(rate, |_| Frame::icmp(PEER, HOST, 8, 56)), stream(rate, |_| Frame::icmp(HOST, PEER, 0, 56))]
}

/// A resolver that asks others for half of what it is asked.
pub fn resolver(rate: u64) -> Vec<Stream> {
    vec![
        stream(rate, |n| Frame::udp((client(n), port(n)), (HOST, 53), 40)),
        stream(rate, |n| Frame::udp((HOST, 53), (client(n), port(n)), 300)),
        stream(rate / 2, |n| Frame::udp((HOST, port(n)), (stranger(n % 500), 53), 40)),
        stream(rate / 2, |n| Frame::udp((stranger(n % 500), 53), (HOST, port(n)), 400)),
    ]
}

/// Answers of NTP servers that nobody asked.
pub fn amplified(rate: u64) -> Vec<Stream> {
    vec![stream(rate, |n| Frame::udp((stranger(n % 300), 123), (HOST, port(n)), 440))]
}

/// One kind of frame that nobody answers, from made-up addresses.
pub fn unanswered(rate: u64, make: fn(IpAddr, u64) -> Frame) -> Vec<Stream> {
    vec![stream(rate, move |n| make(stranger(n), n))]
}

/// Parts of packets whose other parts never come.
pub fn fragments(rate: u64) -> Vec<Stream> {
    unanswered(rate, |from, n| {
        let mut frame = Frame::new(from, HOST, Body::Raw { protocol: 17, payload: vec![0; 24] });
        frame.fragment = Some((8 * (1 + n % 100) as u16, true));
        frame
    })
}

/// This host floods somebody.
pub fn outbound(rate: u64) -> Vec<Stream> {
    vec![stream(rate, |n| Frame::tcp((HOST, port(n)), (PEER, 443), SYN, 0))]
}
