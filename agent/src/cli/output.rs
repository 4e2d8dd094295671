//! Text for people: colour only on a terminal, nothing from outside unescaped.

use std::io::{IsTerminal as _, Write as _};

use std::time::Duration;

use picket_protocol::finding::printable;
use picket_protocol::time::Timestamp;

/// How something is meant; decides its colour where there is colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As the terminal writes.
    Plain,
    /// All is well.
    Good,
    /// Somebody should look.
    Warning,
    /// It does not work.
    Bad,
    /// Less important.
    Faint,
    /// A heading.
    Strong,
}

/// Writes text in tones, or plainly.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// Colour when stdout is a terminal and `NO_COLOR` is unset.
    pub fn of_stdout() -> Self {
        let unset = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colour: unset && std::io::stdout().is_terminal() }
    }

    /// Never colour.
    pub fn plain() -> Self {
        Self { colour: false }
    }

    /// `text` in `tone`. The text must be safe to print; see [`printable`].
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31;1",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Prints one line of error to stderr.
pub fn error(text: &str) {
    eprintln!("agent: {}", printable(text));
}

/// Prints `value` as indented JSON; false when stdout is closed.
pub fn json(value: &impl serde::Serialize) -> bool {
    let Ok(text) = serde_json::to_string_pretty(value) else { return false };
    line(&text)
}

/// Prints one line; false when stdout is closed (`agent findings | head`), which ends the output quietly.
pub fn line(text: &str) -> bool {
    writeln!(std::io::stdout().lock(), "{text}").is_ok()
}

/// A count with its thousands set apart.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A size with one decimal.
pub fn bytes(number: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, unit)| number >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", number / unit, number % unit * 10 / unit),
        None => format!("{number} B"),
    }
}

/// A length of time in its two largest units.
pub fn length(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

/// How long ago `time` was.
pub fn ago(time: Timestamp, now: Timestamp) -> String {
    if time > now.plus(Duration::from_secs(1)) {
        return format!("at {}, ahead of this clock", second(time));
    }
    format!("{} ago", length(now.since(time)))
}

/// A time to the second.
pub fn second(time: Timestamp) -> String {
    let text = time.to_string();
    text.get(..19).map_or(text.clone(), |text| format!("{}Z", text.replace('T', " ")))
}

/// A day.
pub fn day(time: Timestamp) -> String {
    time.to_string().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_easy_to_read() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1_023, 1_536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        let lengths = [5, 65, 3_700, 90_000].map(|seconds| length(Duration::from_secs(seconds)));
        assert_eq!(lengths, ["5s", "1m 5s", "1h 1m", "1d 1h"]);
        let time = Timestamp::parse("2026-11-21T23:10:01.5Z").expect("a time");
        assert_eq!(second(time), "2026-11-21 23:10:01Z");
        assert_eq!(ago(time, time.plus(Duration::from_secs(7))), "7s ago");
        assert!(ago(time.plus(Duration::from_secs(60)), time).contains("ahead"));
    }
}
