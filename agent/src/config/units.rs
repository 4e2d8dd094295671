//! Durations and sizes as people write them: `90s`, `6 h`, `30d`, `512 MiB`.

use std::time::Duration;

const DURATIONS: [(&str, u64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Parses a whole number with one of the units `ms`, `s`, `m` (or `min`), `h`, `d`, `w`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    if unit == "ms" {
        return Some(Duration::from_millis(number));
    }
    let unit = if unit == "min" { "m" } else { unit };
    let (_, seconds) = DURATIONS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*seconds).map(Duration::from_secs)
}

/// Parses a whole number with one of the units `B`, `KiB`, `MiB`, `GiB`, `TiB`.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let (_, bytes) = SIZES.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*bytes)
}

/// Writes a duration in its largest whole unit: `6h`, `90s`, `1500ms`.
pub fn format_duration(duration: Duration) -> String {
    if duration.subsec_nanos() > 0 {
        return format!("{}ms", duration.as_millis());
    }
    let seconds = duration.as_secs();
    let fits = |(_, unit): &&(&str, u64)| seconds >= *unit && seconds.is_multiple_of(*unit);
    DURATIONS
        .iter()
        .find(fits)
        .map_or_else(|| format!("{seconds}s"), |(name, u)| format!("{}{name}", seconds / u))
}

/// Writes a size in its largest whole unit: `512 MiB`.
pub fn format_size(bytes: u64) -> String {
    let fits = |(_, unit): &&(&str, u64)| bytes >= *unit && bytes.is_multiple_of(*unit);
    SIZES.iter().find(fits).map_or_else(|| format!("{bytes} B"), |(name, u)| format!("{} {name}", bytes / u))
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write() {
        for (text, seconds) in
            [("60s", 60), ("6 h", 21_600), ("30d", 2_592_000), ("5min", 300), ("5m", 300), ("1w", 604_800)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in
            ["", "s", "-1s", "1.5h", "60", "60 parsecs", "99999999999999999999s", "18446744073709551615w"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(format_duration(Duration::from_secs(21_600)), "6h");
        assert_eq!(format_duration(Duration::from_millis(1_500)), "1500ms");
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn sizes_read_and_write() {
        assert_eq!(parse_size("512 MiB"), Some(512 << 20));
        assert_eq!(parse_size("1B"), Some(1));
        for text in ["512", "512 MB", "MiB", "1.5 GiB", "99999999 TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        assert_eq!(format_size(2 << 30), "2 GiB");
        assert_eq!(format_size(1_025), "1025 B");
    }
}
