//! One record of the utmp family: `struct utmp` of glibc, 384 bytes on all architectures that matter here.
//!
//! ```text
//! type 2, padding 2, pid 4, line 32, id 4, user 32, host 256, exit 4, session 4, seconds 4, microseconds 4, address 16,
//! unused 20
//! ```
//!
//! Only root and group utmp write them, but the name in a failed login was typed by anybody, and is cut at 32 bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;

/// Bytes of a record.
pub const RECORD_BYTES: usize = 384;
/// `LOGIN_PROCESS`: somebody is asked for a name; in btmp, one that was refused.
pub const LOGIN_PROCESS: u16 = 6;
/// `USER_PROCESS`: somebody is in.
pub const USER_PROCESS: u16 = 7;
/// `DEAD_PROCESS`: a session ended.
pub const DEAD_PROCESS: u16 = 8;
/// The largest of the types.
const TYPE_MAX: u16 = 9;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `USER_PROCESS` …
    pub kind: u16,
    /// The process that logged in.
    pub pid: Option<u32>,
    /// The terminal, or `ssh:notty`.
    pub line: Option<Text>,
    /// The account.
    pub user: Option<Text>,
    /// The peer's name or address as text.
    pub host: Option<Text>,
    /// The peer.
    pub address: Option<IpAddr>,
    /// When.
    pub time: Timestamp,
}

impl Record {
    /// Reads a record; none when it has another size or no type that exists.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != RECORD_BYTES {
            return None;
        }
        let kind = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
        if kind == 0 || kind > TYPE_MAX {
            return None;
        }
        let number = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let micros = i64::from(number(344)?.min(999_999));
        let time = i64::from(number(340)?).checked_mul(1_000_000_000)?.checked_add(micros * 1_000)?;
        let host = text(bytes.get(76..332)?);
        let spelled = || host.as_ref()?.text.parse::<IpAddr>().ok();
        Some(Self {
            kind,
            pid: number(4).filter(|pid| *pid != 0),
            line: text(bytes.get(8..40)?),
            user: text(bytes.get(44..76)?),
            address: address(bytes.get(348..364)?).or_else(spelled).map(|address| address.to_canonical()),
            host,
            time: Timestamp::from_nanos(time),
        })
    }
}

/// Up to the first NUL, or all of it.
pub fn text(bytes: &[u8]) -> Option<Text> {
    let text = bytes.split(|&byte| byte == 0).next().filter(|text| !text.is_empty())?;
    Some(Text::from_bytes(text))
}

/// IPv4 when only the first word is set.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.try_into().ok()?;
    match octets {
        octets if octets == [0; 16] => None,
        [a, b, c, d, rest @ ..] if rest == [0; 12] => Some(Ipv4Addr::new(a, b, c, d).into()),
        octets => Some(Ipv6Addr::from(octets).into()),
    }
}

/// A record as bytes, for tests.
#[cfg(test)]
pub fn render(
    kind: u16,
    pid: u32,
    line: &[u8],
    user: &[u8],
    host: &[u8],
    address: [u8; 16],
    seconds: u32,
) -> Vec<u8> {
    let padded = |text: &[u8], length: usize| {
        let mut text = text.to_vec();
        text.resize(length, 0);
        text
    };
    [
        padded(&kind.to_ne_bytes(), 4),
        pid.to_ne_bytes().to_vec(),
        padded(line, 32),
        vec![0; 4],
        padded(user, 32),
        padded(host, 256),
        vec![0; 8],
        seconds.to_ne_bytes().to_vec(),
        vec![0; 4],
        address.to_vec(),
        vec![0; 20],
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_and_anything_else_is_not() {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[192, 0, 2, 7]);
        let bytes = render(LOGIN_PROCESS, 77, b"ssh:notty", b"demo", b"192.0.2.7", address, 1_700_000_000);
        let record = Record::parse(&bytes).expect("a record");
        assert_eq!((record.kind, record.pid), (LOGIN_PROCESS, Some(77)));
        assert_eq!(record.user.map(|user| user.text), Some("demo".to_owned()));
        assert_eq!(record.address, "192.0.2.7".parse().ok());
        assert_eq!(record.time, Timestamp::from_seconds(1_700_000_000));
        for end in 0..bytes.len() {
            assert_eq!(Record::parse(&bytes[..end]), None);
        }
        assert_eq!(Record::parse(&[0; RECORD_BYTES]), None);
        assert_eq!(Record::parse(&[255; RECORD_BYTES]), None);
    }

    #[test]
    fn a_host_that_is_an_address_counts_where_the_binary_one_is_missing() {
        let bytes = render(USER_PROCESS, 1, b"pts/0", b"al", b"2001:db8::7", [0; 16], 1);
        assert_eq!(Record::parse(&bytes).and_then(|record| record.address), "2001:db8::7".parse().ok());
        let bytes = render(USER_PROCESS, 1, b"pts/0", b"al", b"gw.example", [0; 16], 1);
        assert_eq!(Record::parse(&bytes).and_then(|record| record.address), None);
    }

    proptest::proptest! {
        #[test]
        fn what_anybody_typed_comes_back_and_forges_nothing(
            user in proptest::collection::vec(1u8..=255, 1..=32),
            host in proptest::collection::vec(1u8..=255, 0..=256),
        ) {
            let address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
            let bytes = render(LOGIN_PROCESS, 9, b"ssh:notty", &user, &host, address, 5);
            let record = Record::parse(&bytes).expect("a record");
            proptest::prop_assert_eq!(record.user.map(|user| user.to_bytes()), Some(user));
            proptest::prop_assert_eq!(record.address, "2001:db8::7".parse().ok());
            proptest::prop_assert_eq!((record.kind, record.pid), (LOGIN_PROCESS, Some(9)));
        }

        #[test]
        fn no_bytes_make_it_fail(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..800)) {
            let _nothing_or_something = Record::parse(&bytes);
        }
    }
}
