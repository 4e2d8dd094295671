//! Frames and captures.

use std::convert::Infallible;

use crate::detect::network::{Class, Thresholds};
use crate::detect::packets::{Fault, Link, decode};
use crate::replay::capture::Capture;
use crate::replay::network::NetworkReplay;

/// A frame, of which the first byte says what it begins with. It is taken when nothing about it is malformed. Every part of it must be decoded to the
/// same packet, or be known as a part.
pub fn frame(input: &[u8]) -> bool {
    let Some((first, bytes)) = input.split_first() else { return false };
    let link = match first % 3 {
        0 => Link::Ethernet,
        1 => Link::Ip,
        _ => Link::Payload { ethertype: 0x0800 },
    };
    let bytes = bytes.get(..bytes.len().min(4_096)).unwrap_or_default();
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let whole = decode(link, bytes, length);
    let class = Class::of(&whole);
    assert_eq!(whole.fault.is_some(), class == Class::Malformed);
    assert!(!whole.truncated, "all of it is there");
    assert!(whole.payload.len() <= bytes.len());
    for end in 0..bytes.len().min(160) {
        let part = decode(link, bytes.get(..end).unwrap_or_default(), length);
        if whole.fault.is_none() {
            assert_eq!(part.fault, None::<Fault>, "a snap length of {end} makes nothing malformed");
        }
        if !part.truncated && part.fault.is_none() && whole.fault.is_none() {
            assert_eq!(Class::of(&part), class, "{end} bytes");
        }
    }
    whole.fault.is_none()
}

/// A capture file. It is taken when it can be read to its end; the detectors must live with whatever is in it.
pub fn capture(input: &[u8]) -> bool {
    let mut capture = Capture::new(input);
    let mut replay = NetworkReplay::new(Thresholds::default(), Default::default(), Vec::new(), Vec::new());
    let mut findings = 0usize;
    let mut tell = |_: &_| {
        findings += 1;
        Ok::<(), Infallible>(())
    };
    let Ok(read) = capture.read(&mut |captured| replay.packet(&captured, &mut tell));
    let Ok(()) = replay.finish(&mut tell);
    assert!(capture.tally.packets <= u64::try_from(input.len()).unwrap_or(u64::MAX));
    assert_eq!(replay.tally.packets, capture.tally.packets);
    read.is_ok()
}
