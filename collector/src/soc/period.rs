//! Lengths of time and points in time as operators type them: `90s`, `1h30m`, `7d`, or RFC 3339.

use std::time::Duration;

use picket_protocol::time::Timestamp;

/// Longest length that is accepted: ten years. More is a slip of the finger.
pub const PERIOD_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Parses a sum of numbers with units `s`, `m`, `h`, `d`, `w`, largest first or not, each unit once.
///
/// # Errors
/// A sentence that shows what is accepted.
pub fn parse_period(text: &str) -> Result<Duration, String> {
    let problem =
        || format!("{text:?} is not a length of time: write 90s, 15m, 1h30m, 7d or 2w (at most 10 years)");
    let mut rest = text.trim();
    let (mut total, mut seen) = (0u64, Vec::new());
    if rest.is_empty() {
        return Err(problem());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(problem)?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.chars().next().ok_or_else(problem)?;
        let seconds = unit_seconds(unit).filter(|_| !seen.contains(&unit)).ok_or_else(problem)?;
        let number: u64 = number.parse().map_err(|_| problem())?;
        let part = number.checked_mul(seconds).ok_or_else(problem)?;
        total = total.checked_add(part).filter(|sum| *sum <= PERIOD_MAX.as_secs()).ok_or_else(problem)?;
        seen.push(unit);
        rest = tail.get(unit.len_utf8()..).unwrap_or_default();
    }
    Ok(Duration::from_secs(total))
}

/// Parses RFC 3339, or a length of time that lies that far before `now`.
///
/// # Errors
/// A sentence that shows what is accepted.
pub fn parse_past(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Some(time) = Timestamp::parse(text) {
        return Ok(time);
    }
    let back = parse_period(text).map_err(|_| {
        format!("{text:?} is neither a length of time (15m, 1h, 7d) nor a time like 2026-01-02T03:04:05Z")
    })?;
    let nanos = i64::try_from(back.as_nanos()).unwrap_or(i64::MAX);
    Ok(Timestamp::from_nanos(now.nanos().saturating_sub(nanos)))
}

/// Parses RFC 3339, or a length of time from `now` on.
///
/// # Errors
/// A sentence that shows what is accepted.
pub fn parse_future(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Some(time) = Timestamp::parse(text) {
        return Ok(time);
    }
    let ahead = parse_period(text).map_err(|_| {
        format!("{text:?} is neither a length of time (15m, 1h, 7d) nor a time like 2026-01-02T03:04:05Z")
    })?;
    Ok(now.plus(ahead))
}

/// Writes a length of time with its two largest units: `1h 30m`, `45s`.
pub fn show_period(period: Duration) -> String {
    let seconds = period.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Some(first) = units.iter().position(|(size, _)| seconds >= *size) else { return "0s".to_owned() };
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, name) in units.iter().skip(first).take(2) {
        if rest >= *size {
            parts.push(format!("{}{name}", rest / size));
            rest %= size;
        }
    }
    parts.join(" ")
}

fn unit_seconds(unit: char) -> Option<u64> {
    match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3_600),
        'd' => Some(86_400),
        'w' => Some(7 * 86_400),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, seconds: Option<u64>) {
        assert_eq!(parse_period(text).ok(), seconds.map(Duration::from_secs), "{text:?}");
    }

    #[test]
    fn periods_as_typed() {
        check("90s", Some(90));
        check("1h30m", Some(5_400));
        check("30m1h", Some(5_400));
        check(" 7d ", Some(604_800));
        check("2w", Some(1_209_600));
        check("0s", Some(0));
    }

    #[test]
    fn slips_are_refused() {
        for text in [
            "",
            " ",
            "h",
            "1",
            "1y",
            "1h1h",
            "-1h",
            "1.5h",
            "1 h",
            "11y",
            "999999999999999999999s",
            "3661d",
            "1é",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn points_in_time() {
        let now = Timestamp::from_seconds(10_000);
        assert_eq!(parse_past("1h", now), Ok(Timestamp::from_seconds(6_400)));
        assert_eq!(parse_future("1h", now), Ok(Timestamp::from_seconds(13_600)));
        assert_eq!(parse_past("1970-01-01T00:00:07Z", now), Ok(Timestamp::from_seconds(7)));
        assert!(parse_past("yesterday", now).is_err());
    }

    #[test]
    fn periods_shown() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (5_400, "1h 30m"), (86_460, "1d"), (90_000, "1d 1h")]
        {
            assert_eq!(show_period(Duration::from_secs(seconds)), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC*") {
            drop(parse_period(&text));
            drop(parse_past(&text, Timestamp::from_seconds(0)));
        }

        #[test]
        fn units_add_up(d in 0u64..3_000, h in 0u64..24, m in 0u64..60, s in 0u64..60) {
            let text = format!("{d}d{h}h{m}m{s}s");
            let expected = Duration::from_secs(d * 86_400 + h * 3_600 + m * 60 + s);
            prop_assert_eq!(parse_period(&text), Ok(expected));
        }
    }
}
