//! The time that a recorded log's lines tell.

use std::time::Duration;

use jiff::tz::TimeZone;
use picket_protocol::time::Timestamp;

use crate::sense::logins::line::{Minute, Stamp, local_zone, traditional_in};
use crate::sense::logins::parse::rules::stamp::Written;

/// Lines that are this much older than the one before them were written by a clock that was set back; what is nearer
/// merely came out of order, and time goes on.
const DISORDER_MAX: Duration = Duration::from_secs(3_600);

/// Tells the time of lines, and of the detectors.
#[derive(Debug)]
pub struct LineClock {
    zone: TimeZone,
    started: Timestamp,
    years: Years,
    minute: Minute,
    newest: Timestamp,
}

/// The year of lines that have none, once it is known, and the month of the newest of them.
#[derive(Debug)]
struct Years {
    year: Option<i16>,
    month: u8,
}

impl LineClock {
    /// `year` is that of the first line, for logs that write none; `now` decides where nobody says.
    pub fn new(year: Option<i16>, now: Timestamp) -> Self {
        Self {
            zone: local_zone(),
            started: now,
            years: Years { year, month: 0 },
            minute: Minute::default(),
            newest: Timestamp::from_nanos(i64::MIN),
        }
    }

    /// When the line was written; where that cannot be told, when the one before it was.
    pub fn of_stamp(&mut self, stamp: Stamp<'_>) -> Timestamp {
        self.known(stamp).unwrap_or_else(|| self.unknown())
    }

    /// As above, for times of services' own logs.
    pub fn of_written(&mut self, written: Option<Written<'_>>) -> Timestamp {
        let time = written.and_then(|written| match written.form {
            crate::sense::logins::parse::rules::stamp::Form::Traditional => {
                self.known(Stamp::Traditional(written.text))
            }
            _ => written.resolve(self.started, &self.zone),
        });
        time.unwrap_or_else(|| self.unknown())
    }

    fn unknown(&self) -> Timestamp {
        if self.newest.nanos() == i64::MIN { self.started } else { self.newest }
    }

    /// The detectors' time at an event of `time`.
    pub fn now_at(&mut self, time: Timestamp) -> Timestamp {
        if time >= self.newest || self.newest.since(time) > DISORDER_MAX {
            self.newest = time;
        }
        self.newest
    }

    /// The detectors' time now; none before the first event.
    pub fn now(&self) -> Option<Timestamp> {
        (self.newest.nanos() != i64::MIN).then_some(self.newest)
    }

    fn known(&mut self, stamp: Stamp<'_>) -> Option<Timestamp> {
        let Self { zone, started, years, minute, .. } = self;
        minute.time(stamp, |stamp| match stamp {
            Stamp::Full(_) => stamp.resolve(*started, zone),
            Stamp::Traditional(text) => years.minute(text, *started, zone),
        })
    }
}

impl Years {
    fn minute(&mut self, text: &[u8], started: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let month = u8::try_from(crate::sense::logins::parse::rules::stamp::month(text.get(..3)?)?).ok()?;
        let Some(year) = self.year else {
            let time = Stamp::Traditional(text).resolve(started, zone)?;
            let zoned = jiff::Timestamp::from_second(time.seconds()).ok()?.to_zoned(zone.clone());
            (self.year, self.month) = (Some(zoned.year()), month);
            return Some(time);
        };
        // From the last months of a year to the first ones of the next.
        let turned = self.month >= 11 && month <= 2;
        // A line of the old year that came late.
        let late = self.month == 1 && month == 12;
        let line_year = year.checked_add(i16::from(turned))?.checked_sub(i16::from(late))?;
        let time = traditional_in(text, line_year, zone)?;
        if !late {
            (self.year, self.month) = (Some(line_year), month);
        }
        Some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(year: Option<i16>, rows: &[(&str, &str)]) {
        let now = Timestamp::parse("2026-11-28T12:00:00Z").expect("a time");
        let mut clock = LineClock::new(year, now);
        clock.zone = TimeZone::UTC;
        for (text, expected) in rows {
            let stamp = if text.contains('T') {
                Stamp::Full(text.as_bytes())
            } else {
                Stamp::Traditional(text.as_bytes())
            };
            let time = clock.of_stamp(stamp);
            clock.now_at(time);
            assert_eq!(
                time.to_string().trim_end_matches("000Z").trim_end_matches("000000"),
                *expected,
                "{text}"
            );
        }
    }

    #[test]
    fn the_year_is_guessed_and_rolls_over() {
        check(
            None,
            &[
                ("Dec 31 23:59:59", "2025-12-31T23:59:59."),
                ("Jan  1 00:00:00", "2026-01-01T00:00:00."),
                ("Dec 31 23:59:59", "2025-12-31T23:59:59."),
                ("Jan  1 00:00:01", "2026-01-01T00:00:01."),
                ("Jan  1 00:00:02", "2026-01-01T00:00:02."),
                ("Nov 28 12:00:00", "2026-11-28T12:00:00."),
                ("Jan  2 12:00:00", "2027-01-02T12:00:00."),
            ],
        );
        check(
            Some(2016),
            &[("Dec 10 06:55:46", "2016-12-10T06:55:46."), ("Jan  1 00:00:00", "2017-01-01T00:00:00.")],
        );
    }

    #[test]
    fn a_year_in_the_line_is_believed() {
        check(
            Some(1999),
            &[
                ("2026-11-21T23:14:37.123456+01:00", "2026-11-21T22:14:37.123456"),
                ("2026-11-21T23:14:38.5+01:00", "2026-11-21T22:14:38.500000"),
                ("2026-11-21T23:14:38Z", "2026-11-21T23:14:38."),
                ("2026-99-21T23:14:38Z", "2026-11-21T23:14:38."),
            ],
        );
    }
}
