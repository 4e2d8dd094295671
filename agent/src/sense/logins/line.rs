//! The head of a line in a text log: when, which program, what message.
//!
//! Three forms are known: RFC 3164 as rsyslog and syslog-ng write it by tradition (`Nov 21 23:14:37 host
//! sshd[123]: …`, local time without a year), the same with an RFC 3339 time (`2026-11-21T23:14:37.123456+00:00
//! host sshd[123]: …`, Debian's default since 12), and RFC 5424 (`<38>1 2026-11-21T23:14:37Z host sshd 123 - - …`).
//! Nothing is allocated, and no time is computed before somebody wants it.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use memchr::{memchr, memchr2};
use picket_protocol::time::Timestamp;

/// Longest program name that is looked at; syslog allows 48.
const PROGRAM_BYTES_MAX: usize = 48;

/// A line taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written.
    pub stamp: Stamp<'a>,
    /// Which program says so: any local user can claim any name.
    pub program: &'a [u8],
    /// Its process id as written.
    pub pid: Option<u32>,
    /// The rest.
    pub message: &'a [u8],
}

/// The time in a line, not yet computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp<'a> {
    /// `Nov 21 23:14:37`.
    Traditional(&'a [u8]),
    /// RFC 3339.
    Full(&'a [u8]),
}

impl<'a> Line<'a> {
    /// Takes `line` (without its newline) apart; none when it has none of the known forms.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        // A file system that lost power may leave zeros before the first line written afterwards.
        let line = trim_zeros(line);
        match line.first()? {
            b'<' => Self::rfc5424(line),
            b'0'..=b'9' => {
                let (stamp, rest) = split_at_space(line)?;
                looks_full(stamp).then_some(())?;
                Self::host_and_tag(Stamp::Full(stamp), rest)
            }
            b'A'..=b'Z' => {
                let (stamp, rest) = line.split_at_checked(15)?;
                let separators = [stamp.get(3)?, stamp.get(6)?, stamp.get(9)?, stamp.get(12)?];
                (separators == [&b' ', &b' ', &b':', &b':']).then_some(())?;
                Self::host_and_tag(Stamp::Traditional(stamp), rest.strip_prefix(b" ")?)
            }
            _ => None,
        }
    }

    fn host_and_tag(stamp: Stamp<'a>, rest: &'a [u8]) -> Option<Self> {
        let (_host, rest) = split_at_space(rest)?;
        let end = memchr2(b':', b'[', rest.get(..rest.len().min(PROGRAM_BYTES_MAX + 1))?)?;
        let (program, tail) = rest.split_at_checked(end)?;
        let (pid, tail) = match tail.strip_prefix(b"[") {
            Some(inside) => {
                let (pid, after) = inside.split_at_checked(memchr(b']', inside)?)?;
                (number(pid), after.strip_prefix(b"]")?)
            }
            None => (None, tail),
        };
        let tail = tail.strip_prefix(b":")?;
        let message = tail.strip_prefix(b" ").unwrap_or(tail);
        Some(Self { stamp, program, pid, message })
    }

    fn rfc5424(line: &'a [u8]) -> Option<Self> {
        let end = memchr(b'>', line.get(..line.len().min(6))?)?;
        let rest = line.get(end + 1..)?.strip_prefix(b"1 ")?;
        let (stamp, rest) = split_at_space(rest)?;
        let (_host, rest) = split_at_space(rest)?;
        let (program, rest) = split_at_space(rest)?;
        let (pid, rest) = split_at_space(rest)?;
        let (_message_id, rest) = split_at_space(rest)?;
        let message = skip_structured_data(rest)?;
        let message = message.strip_prefix(b"\xef\xbb\xbf").unwrap_or(message);
        looks_full(stamp).then_some(Self { stamp: Stamp::Full(stamp), program, pid: number(pid), message })
    }
}

fn trim_zeros(line: &[u8]) -> &[u8] {
    let zeros = line.iter().take_while(|byte| **byte == 0).count();
    line.get(zeros..).unwrap_or_default()
}

/// Splits at the first space, which belongs to neither part.
fn split_at_space(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, tail) = text.split_at_checked(memchr(b' ', text)?)?;
    Some((head, tail.get(1..)?))
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn looks_full(stamp: &[u8]) -> bool {
    (20..=40).contains(&stamp.len())
        && stamp.get(4) == Some(&b'-')
        && stamp.get(7) == Some(&b'-')
        && stamp.get(10) == Some(&b'T')
}

/// What follows the structured data: `-`, or elements in brackets whose quoted values escape `"`, `\` and `]`.
fn skip_structured_data(text: &[u8]) -> Option<&[u8]> {
    if let Some(rest) = text.strip_prefix(b"-") {
        return Some(rest.strip_prefix(b" ").unwrap_or(rest));
    }
    let mut rest = text;
    while let Some(element) = rest.strip_prefix(b"[") {
        let (mut quoted, mut escaped, mut end) = (false, false, None);
        for (index, byte) in element.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b']' if !quoted => {
                    end = Some(index);
                    break;
                }
                _ => {}
            }
        }
        rest = element.get(end? + 1..)?;
    }
    rest.strip_prefix(b" ")
}

impl Stamp<'_> {
    /// The time meant. `now` decides the year where none is written (the latest that puts the line at most a
    /// day into the future: clocks differ, log lines are rarely from next year); `zone` is the host's.
    pub fn resolve(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Full(text) => Timestamp::parse(std::str::from_utf8(text).ok()?),
            Self::Traditional(text) => traditional(text, now, zone),
        }
    }
}

/// The minute of the stamp before: stamps of one minute share everything but their seconds, so a minute is computed once.
#[derive(Debug, Default)]
pub struct Minute {
    /// The stamp's text up to its minutes, and what stands behind its seconds (the zone).
    text: Vec<u8>,
    zone: Vec<u8>,
    begin: i64,
}

impl Minute {
    /// Bytes of a stamp up to its seconds.
    const TRADITIONAL: usize = 13;
    /// Likewise.
    const FULL: usize = 17;

    /// The time of `stamp`; `compute` gives that of the same stamp with zero seconds, unless it is known from the one
    /// before.
    pub fn time(
        &mut self,
        stamp: Stamp<'_>,
        compute: impl FnOnce(Stamp<'_>) -> Option<Timestamp>,
    ) -> Option<Timestamp> {
        let (text, length) = match stamp {
            Stamp::Full(text) => (text, Self::FULL),
            Stamp::Traditional(text) => (text, Self::TRADITIONAL),
        };
        let (minute, tail) = text.split_at_checked(length)?;
        let (seconds, rest) = tail.split_at_checked(2)?;
        let (fraction, zone) = rest.split_at_checked(fraction_bytes(rest))?;
        let begin = if minute == self.text && zone == self.zone {
            self.begin
        } else {
            let whole = [minute, b"00", zone].concat();
            let begin = match stamp {
                Stamp::Full(_) => compute(Stamp::Full(&whole)),
                Stamp::Traditional(_) => compute(Stamp::Traditional(&whole)),
            };
            self.begin = begin?.nanos();
            self.text = minute.to_vec();
            self.zone = zone.to_vec();
            self.begin
        };
        let behind = seconds_of(seconds)?.checked_add(nanos_of(fraction.get(1..).unwrap_or_default()))?;
        Some(Timestamp::from_nanos(begin.checked_add(behind)?))
    }

    /// Forgets it: what it was computed by is no longer true.
    pub fn forget(&mut self) {
        self.text.clear();
    }
}

/// Bytes of `.123456` at the front.
fn fraction_bytes(text: &[u8]) -> usize {
    match text.strip_prefix(b".") {
        Some(digits) => digits.iter().take_while(|byte| byte.is_ascii_digit()).count() + 1,
        None => 0,
    }
}

/// Two digits as nanoseconds; a leap second is the one before it.
fn seconds_of(text: &[u8]) -> Option<i64> {
    match text {
        [tens @ b'0'..=b'5', ones @ b'0'..=b'9'] => {
            Some((i64::from(tens - b'0') * 10 + i64::from(ones - b'0')) * 1_000_000_000)
        }
        b"60" => Some(59 * 1_000_000_000),
        _ => None,
    }
}

fn nanos_of(fraction: &[u8]) -> i64 {
    let mut unit = 100_000_000;
    let mut sum = 0;
    for digit in fraction {
        sum += i64::from(digit.saturating_sub(b'0')) * unit;
        unit /= 10;
    }
    sum
}

/// Tells the time of lines as they are written.
#[derive(Debug)]
pub struct LiveClock {
    zone: TimeZone,
    minute: Minute,
    /// When the minute was computed: the year of a stamp without one depends on it.
    computed: Timestamp,
}

impl LiveClock {
    /// How long a minute that was computed is believed.
    const BELIEVED: std::time::Duration = std::time::Duration::from_secs(60);

    /// Stamps without a zone are in `zone`.
    pub fn new(zone: TimeZone) -> Self {
        Self { zone, minute: Minute::default(), computed: Timestamp::default() }
    }

    /// When `stamp` was written, as of `now`; see [`Stamp::resolve`].
    pub fn time(&mut self, stamp: Stamp<'_>, now: Timestamp) -> Option<Timestamp> {
        if now < self.computed || now.since(self.computed) >= Self::BELIEVED {
            self.minute.forget();
            self.computed = now;
        }
        self.minute.time(stamp, |stamp| stamp.resolve(now, &self.zone))
    }

    /// The host's zone.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }
}

fn traditional(text: &[u8], now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let local_now = jiff::Timestamp::from_second(now.seconds()).ok()?.to_zoned(zone.clone());
    let limit = now.plus(std::time::Duration::from_secs(86_400));
    // The 29th of February may be up to eight years back.
    let years = (0..=8).map(|back| local_now.year().saturating_add(1).saturating_sub(back));
    years.filter_map(|year| traditional_in(text, year, zone)).find(|resolved| *resolved <= limit)
}

/// The time meant by `Nov 21 23:14:37` in `year`.
pub fn traditional_in(text: &[u8], year: i16, zone: &TimeZone) -> Option<Timestamp> {
    let month = super::parse::rules::stamp::month(text.get(..3)?)?;
    let two = |at: usize| -> Option<i8> {
        let digits = std::str::from_utf8(text.get(at..at + 2)?).ok()?;
        digits.trim_start_matches(' ').parse().ok()
    };
    let time = Time::new(two(7)?, two(10)?, two(13)?.min(59), 0).ok()?;
    let date = Date::new(year, month, two(4)?).ok()?;
    resolve_local(DateTime::from_parts(date, time), zone)
}

pub(super) fn resolve_local(local: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    let instant = zone.to_ambiguous_timestamp(local).compatible().ok()?;
    Some(Timestamp::from_seconds(instant.as_second()))
}

/// The host's time zone by `/etc/localtime`; UTC when there is none.
pub fn local_zone() -> TimeZone {
    let zone = std::fs::read("/etc/localtime").ok().and_then(|data| TimeZone::tzif("Local", &data).ok());
    zone.unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &[u8], program: &str, pid: Option<u32>, message: &[u8]) {
        let parsed = Line::parse(line).expect("a known form");
        assert_eq!(parsed.program, program.as_bytes());
        assert_eq!((parsed.pid, parsed.message), (pid, message));
    }

    #[test]
    fn takes_all_three_forms_apart() {
        check(b"Nov 21 23:14:37 host sshd[12]: a: b", "sshd", Some(12), b"a: b");
        check(b"Nov  1 23:14:37 host sudo:   al : x", "sudo", None, b"  al : x");
        check(b"2026-11-21T23:14:37.123456+01:00 h su[1]: m", "su", Some(1), b"m");
        check(b"2026-11-21T23:14:37Z h sshd-session[77]: ", "sshd-session", Some(77), b"");
        check(b"<38>1 2026-11-21T23:14:37Z h sshd 12 - - m [x]", "sshd", Some(12), b"m [x]");
        check(br#"<38>1 2026-11-21T23:14:37Z h sshd - ID [a b="]\" "][c] m"#, "sshd", None, b"m");
        check(b"\0\0\0Nov 21 23:14:37 host sshd[12]: m", "sshd", Some(12), b"m");
    }

    #[test]
    fn anything_else_is_nothing() {
        for line in [
            &b""[..],
            b"\0\0",
            b"Nov",
            b"Nov 21 23:14:37",
            b"Nov 21 23:14:37 host",
            b"Nov 21 23:14:37 host sshd",
            b"Nov 21 23:14:37 host sshd[12",
            b"Nov 21 23:14:37 host sshd[12]",
            b"2026-11-21 23:14:37 host sshd[12]: m",
            b"<38>1 - h sshd 12 - - m",
            b"<38>1 2026-11-21T23:14:37Z h sshd 12 - [a b=\"",
            b"\xff\xfe Nov 21",
        ] {
            assert_eq!(Line::parse(line), None, "{}", line.escape_ascii());
        }
    }

    fn resolved(stamp: &str, now: &str) -> String {
        let stamp = Stamp::Traditional(stamp.as_bytes());
        let now = Timestamp::parse(now).unwrap();
        stamp.resolve(now, &TimeZone::UTC).map(|time| time.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_year_is_the_latest_that_is_not_in_the_future() {
        assert_eq!(resolved("Nov 21 23:14:37", "2026-11-21T23:14:38Z"), "2026-11-21T23:14:37.000000000Z");
        assert_eq!(resolved("Dec 31 23:59:59", "2027-01-01T00:00:01Z"), "2026-12-31T23:59:59.000000000Z");
        // The writer's clock is a little ahead of ours.
        assert_eq!(resolved("Jan  1 00:00:01", "2026-12-31T23:59:59Z"), "2027-01-01T00:00:01.000000000Z");
        assert_eq!(resolved("Feb 29 12:00:00", "2026-11-21T00:00:00Z"), "2024-02-29T12:00:00.000000000Z");
        assert_eq!(resolved("Feb 30 12:00:00", "2026-11-21T00:00:00Z"), "");
        assert_eq!(resolved("Nov 21 24:14:37", "2026-11-21T23:14:38Z"), "");
    }

    #[test]
    fn a_clock_that_remembers_the_minute_tells_what_each_stamp_says() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let mut clock = LiveClock::new(zone.clone());
        let mut now = Timestamp::parse("2026-12-31T21:59:59Z").unwrap();
        let stamps: [&[u8]; 12] = [
            b"Dec 31 23:59:58",
            b"Dec 31 23:59:59",
            b"Dec 31 23:58:59",
            b"Jan  1 00:00:01",
            b"Feb 30 00:00:01",
            b"Jan  1 00:00:x1",
            b"2026-12-31T21:59:59.123456Z",
            b"2026-12-31T21:59:59.5Z",
            b"2026-12-31T23:59:59+02:00",
            b"2026-12-31T23:59:59+01:00",
            b"2026-12-31T23:59:60Z",
            b"2026-13-31T23:59:59Z",
        ];
        for _ in 0..400 {
            for text in stamps {
                let stamp = if text.contains(&b'T') { Stamp::Full(text) } else { Stamp::Traditional(text) };
                assert_eq!(clock.time(stamp, now), stamp.resolve(now, &zone), "{}", text.escape_ascii());
                now = now.plus(std::time::Duration::from_secs(7_919));
            }
        }
    }

    #[test]
    fn a_time_without_zone_is_the_hosts() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let now = Timestamp::parse("2026-11-21T23:14:38Z").unwrap();
        let stamp = Stamp::Traditional(b"Nov 22 01:14:37");
        assert_eq!(stamp.resolve(now, &zone), Timestamp::parse("2026-11-21T23:14:37Z"));
        let full = Stamp::Full(b"2026-11-22T01:14:37.5+02:00");
        assert_eq!(full.resolve(now, &TimeZone::UTC), Timestamp::parse("2026-11-21T23:14:37.5Z"));
    }
}
