//! Times as programs write them into logs of their own.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use picket_protocol::time::Timestamp;

use super::super::super::line::resolve_local;

/// How a time is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `rfc3339`: `2026-11-21T23:14:37.123456+01:00`, also with a space for the `T`, `,` for the point, and `+0100`; without a
    /// zone it is the host's.
    Rfc3339,
    /// `zoned`: `2026-11-21 23:14:37.123 UTC`, as postgresql writes; only UTC and GMT are understood, others are the host's.
    Zoned,
    /// `clf`: `21/Nov/2026:23:14:37 +0000`.
    Clf,
    /// `asctime`: `Sat Nov 21 23:14:37 2026`, also with microseconds behind the seconds.
    Asctime,
    /// `slashed`: `2026/11/21 23:14:37`.
    Slashed,
    /// `day-first`: `21 Nov 2026 23:14:37.123`, also `21-Nov-2026 23:14:37`, `21/Nov/2026 23:14:37`.
    DayFirst,
    /// `long`: `November 21, 2026 23:14`, as Ruby on Rails writes.
    Long,
    /// `short`: `261121 23:14:37`.
    Short,
    /// `traditional`: `Nov 21 23:14:37`, without a year.
    Traditional,
    /// A pattern did not say.
    Unknown,
}

const NAMES: [(&str, Form); 9] = [
    ("rfc3339", Form::Rfc3339),
    ("zoned", Form::Zoned),
    ("clf", Form::Clf),
    ("asctime", Form::Asctime),
    ("slashed", Form::Slashed),
    ("day-first", Form::DayFirst),
    ("long", Form::Long),
    ("short", Form::Short),
    ("traditional", Form::Traditional),
];

/// A time in a line, not yet computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written<'a> {
    /// How.
    pub form: Form,
    /// What.
    pub text: &'a [u8],
}

impl Form {
    /// The form called `name`.
    pub fn of_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, form)| *form)
    }

    /// The names that there are, for messages.
    pub fn known() -> String {
        format!("known times are {}", NAMES.map(|(name, _)| name).join(", "))
    }

    /// Its width where that is fixed, so that it can be read from the back.
    pub fn width(self) -> Option<usize> {
        match self {
            Self::Clf => Some(26),
            Self::Slashed => Some(19),
            Self::Short | Self::Traditional => Some(15),
            _ => None,
        }
    }

    /// How many bytes at the front of `text` are a time of this form; none when there is none.
    pub fn measure(self, text: &[u8]) -> Option<usize> {
        if let Some(width) = self.width() {
            let text = text.get(..width)?;
            return (self == Self::Traditional || self.civil(text).is_some()).then_some(width);
        }
        match self {
            Self::Rfc3339 => rfc3339_width(text),
            Self::Zoned => {
                let width = rfc3339_width(text)?;
                let zone = text.get(width..)?.strip_prefix(b" ")?;
                let letters = zone
                    .iter()
                    .take_while(|byte| byte.is_ascii_alphanumeric() || b"+-:".contains(byte))
                    .count();
                (1..=8).contains(&letters).then_some(width + 1 + letters)
            }
            Self::Asctime => {
                let fraction = fraction_width(text, 19, b'.');
                let year = text.get(19 + fraction..19 + fraction + 5)?;
                (year.first() == Some(&b' ') && digits(year, 1, 4).is_some()).then_some(24 + fraction)
            }
            Self::DayFirst => {
                let width = 20;
                self.civil(text.get(..width)?)?;
                Some(width + fraction_width(text, width, b'.'))
            }
            Self::Long => {
                let width = month_width(text)? + LONG_REST;
                self.civil(text.get(..width)?).map(|_| width)
            }
            _ => None,
        }
    }

    /// The date and time of day, where the text has both.
    fn civil(self, text: &[u8]) -> Option<DateTime> {
        let clock = |at: usize| -> Option<Time> {
            let separators = (text.get(at + 2)?, text.get(at + 5)?);
            (separators == (&b':', &b':')).then_some(())?;
            let two = |at| i8::try_from(digits(text, at, 2)?).ok();
            Time::new(two(at)?, two(at + 3)?, two(at + 6)?.min(59), 0).ok()
        };
        let date = |year: u16, month: i8, day_at: usize| {
            let day = i8::try_from(digits(text, day_at, 2)?).ok()?;
            Date::new(i16::try_from(year).ok()?, month, day).ok()
        };
        let month_digits = |at| i8::try_from(digits(text, at, 2)?).ok();
        let (date, time) = match self {
            Self::Rfc3339 | Self::Zoned | Self::Slashed => {
                (date(digits(text, 0, 4)?, month_digits(5)?, 8)?, clock(11)?)
            }
            Self::Clf | Self::DayFirst => {
                (date(digits(text, 7, 4)?, month(text.get(3..6)?)?, 0)?, clock(12)?)
            }
            Self::Short => (date(2_000 + digits(text, 0, 2)?, month_digits(2)?, 4)?, clock(7)?),
            Self::Asctime => {
                let fraction = fraction_width(text, 19, b'.');
                (date(digits(text, 20 + fraction, 4)?, month(text.get(4..7)?)?, 8)?, clock(11)?)
            }
            Self::Long => return long(text),
            Self::Traditional | Self::Unknown => return None,
        };
        Some(DateTime::from_parts(date, time))
    }
}

impl Written<'_> {
    /// The time meant; `zone` is the host's, `now` decides the year where none is written.
    pub fn resolve(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if self.form == Form::Traditional {
            return super::super::super::line::Stamp::Traditional(self.text).resolve(now, zone);
        }
        let civil = self.form.civil(self.text)?;
        let fraction = self.fraction();
        let seconds = match self.zone() {
            Some(offset) => {
                TimeZone::UTC.to_ambiguous_timestamp(civil).compatible().ok()?.as_second() - offset
            }
            None => resolve_local(civil, zone)?.seconds(),
        };
        Some(Timestamp::from_nanos(seconds.checked_mul(1_000_000_000)?.checked_add(fraction)?))
    }

    /// Seconds east of UTC, where the text says so.
    fn zone(&self) -> Option<i64> {
        let tail = match self.form {
            Form::Clf => self.text.get(21..)?,
            Form::Rfc3339 | Form::Zoned => self.text.get(19..)?,
            _ => return None,
        };
        let tail =
            tail.get(tail.iter().take_while(|byte| b".,".contains(byte) || byte.is_ascii_digit()).count()..)?;
        if matches!(tail, b"Z" | b" UTC" | b" GMT") {
            return Some(0);
        }
        let sign = match tail.first()? {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let minutes_at = if tail.get(3) == Some(&b':') { 4 } else { 3 };
        Some(sign * (i64::from(digits(tail, 1, 2)?) * 3_600 + i64::from(digits(tail, minutes_at, 2)?) * 60))
    }

    /// Nanoseconds behind the second.
    fn fraction(&self) -> i64 {
        let start = match self.form {
            Form::Rfc3339 | Form::Zoned | Form::Asctime => 19,
            Form::DayFirst => 20,
            _ => return 0,
        };
        let digits = self.text.get(start + 1..).unwrap_or_default();
        if !self.text.get(start).is_some_and(|byte| b".,".contains(byte)) {
            return 0;
        }
        let mut unit = 100_000_000;
        let mut sum = 0;
        for digit in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
            sum += i64::from(digit - b'0') * unit;
            unit /= 10;
        }
        sum
    }
}

fn rfc3339_width(text: &[u8]) -> Option<usize> {
    let head = text.get(..19)?;
    matches!(head.get(10), Some(b'T' | b' ')).then_some(())?;
    Form::Slashed.civil(head)?;
    (head.get(4) == Some(&b'-')).then_some(())?;
    let width = 19 + fraction_width(text, 19, b'.').max(fraction_width(text, 19, b','));
    let zone = text.get(width..)?;
    let zone = match zone.first() {
        Some(b'Z') => 1,
        Some(b'+' | b'-') if zone.get(3) == Some(&b':') && digits(zone, 4, 2).is_some() => 6,
        Some(b'+' | b'-') if digits(zone, 1, 4).is_some() => 5,
        _ => 0,
    };
    Some(width + zone)
}

/// Bytes of a point and digits at `at`.
fn fraction_width(text: &[u8], at: usize, point: u8) -> usize {
    match text.get(at..) {
        Some([first, rest @ ..]) if *first == point => {
            let count = rest.iter().take(9).take_while(|byte| byte.is_ascii_digit()).count();
            if count > 0 { 1 + count } else { 0 }
        }
        _ => 0,
    }
}

/// `count` digits at `at`; a space stands for a leading zero.
fn digits(text: &[u8], at: usize, count: usize) -> Option<u16> {
    let text = text.get(at..at + count)?;
    let mut sum = 0_u16;
    for (place, byte) in text.iter().enumerate() {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b' ' if place == 0 && count == 2 => 0,
            _ => return None,
        };
        sum = sum.checked_mul(10)?.checked_add(u16::from(digit))?;
    }
    Some(sum)
}

/// Bytes of ` 21, 2026 23:14`.
const LONG_REST: usize = 15;

const LONG_MONTHS: [&[u8]; 12] = [
    b"January",
    b"February",
    b"March",
    b"April",
    b"May",
    b"June",
    b"July",
    b"August",
    b"September",
    b"October",
    b"November",
    b"December",
];

/// Bytes of the English month that `text` begins with.
fn month_width(text: &[u8]) -> Option<usize> {
    LONG_MONTHS.iter().find(|month| text.starts_with(month)).map(|month| month.len())
}

/// `November 21, 2026 23:14`.
fn long(text: &[u8]) -> Option<DateTime> {
    let (name, rest) = text.split_at_checked(month_width(text)?)?;
    let punctuation = (rest.first()?, rest.get(3..5)?, rest.get(9)?, rest.get(12)?);
    (punctuation == (&b' ', &b", "[..], &b' ', &b':')).then_some(())?;
    let two = |at| i8::try_from(digits(rest, at, 2)?).ok();
    let date = Date::new(i16::try_from(digits(rest, 5, 4)?).ok()?, month(name.get(..3)?)?, two(1)?).ok()?;
    Some(DateTime::from_parts(date, Time::new(two(10)?, two(13)?, 0, 0).ok()?))
}

/// The month of an English abbreviation.
pub fn month(name: &[u8]) -> Option<i8> {
    const MONTHS: [&[u8]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let index = MONTHS.iter().position(|month| *month == name)?;
    i8::try_from(index + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(form: &str, text: &str, meant: &str) {
        let form = Form::of_name(form).expect("a form");
        let padded = format!("{text}] rest");
        assert_eq!(form.measure(padded.as_bytes()), Some(text.len()), "{text}");
        let now = Timestamp::parse("2026-11-22T00:00:00Z").expect("a time");
        let written = Written { form, text: text.as_bytes() };
        let resolved = written.resolve(now, &TimeZone::UTC).map(|time| time.to_string());
        assert_eq!(resolved.as_deref(), Some(meant), "{text}");
    }

    #[test]
    fn every_form_is_understood() {
        let whole = "2026-11-21T23:14:37.000000000Z";
        check("rfc3339", "2026-11-21T23:14:37.123456+01:00", "2026-11-21T22:14:37.123456000Z");
        check("rfc3339", "2026-11-21 23:14:37,123", "2026-11-21T23:14:37.123000000Z");
        check("rfc3339", "2026-11-21T23:14:37+0100", "2026-11-21T22:14:37.000000000Z");
        check("rfc3339", "2026-11-21T23:14:37Z", whole);
        check("zoned", "2026-11-21 23:14:37.500 UTC", "2026-11-21T23:14:37.500000000Z");
        check("clf", "21/Nov/2026:23:14:37 -0100", "2026-11-22T00:14:37.000000000Z");
        check("asctime", "Sat Nov 21 23:14:37 2026", whole);
        check("asctime", "Sat Nov 21 23:14:37.250000 2026", "2026-11-21T23:14:37.250000000Z");
        check("asctime", "Sat Nov  1 23:14:37 2026", "2026-11-01T23:14:37.000000000Z");
        check("slashed", "2026/11/21 23:14:37", whole);
        check("day-first", "21 Nov 2026 23:14:37.123", "2026-11-21T23:14:37.123000000Z");
        check("day-first", "21-Nov-2026 23:14:37", whole);
        check("long", "November 21, 2026 23:14", "2026-11-21T23:14:00.000000000Z");
        check("long", "May 06, 2026 03:04", "2026-05-06T03:04:00.000000000Z");
        let long = Form::of_name("long").expect("a form");
        for wrong in
            ["November 31, 2026 23:14", "Nov 21, 2026 23:14", "May 06, 2026 03", "May 06. 2026 03:04"]
        {
            assert_eq!(long.measure(wrong.as_bytes()), None, "{wrong}");
        }
        check("short", "261121 23:14:37", whole);
        check("short", "261121  3:14:37", "2026-11-21T03:14:37.000000000Z");
        check("traditional", "Nov 21 23:14:37", whole);
    }

    #[test]
    fn what_is_no_time_is_none() {
        for (_, form) in NAMES.into_iter().filter(|(_, form)| *form != Form::Traditional) {
            for text in
                ["", "x", "2026", "9999-99-99T99:99:99Z", "99/Nov/2026:23:14:37 +0000", "Sat Nov 21 23:14:37"]
            {
                assert_eq!(form.measure(text.as_bytes()), None, "{form:?} {text}");
            }
        }
    }
}
