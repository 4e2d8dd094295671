//! The errors and warnings that the agent and its service manager wrote lately, as journald keeps them.
//!
//! Only under the packaged unit: elsewhere whoever started the agent knows where its log goes. The format that is read is
//! that of `journalctl --output json` (<https://systemd.io/JOURNAL_EXPORT_FORMATS>): an object a line, its values strings, or
//! arrays of bytes where they are no text.

use std::time::Duration;

use picket_protocol::finding::printable;
use picket_protocol::time::Timestamp;

use super::scrub::Secrets;
use super::setup::UNIT;
use super::{Case, Check};
use crate::clock;
use crate::respond::firewall::program;

/// How far back is looked.
const SINCE: &str = "1 day ago";
/// An error that is no older asks for somebody to look.
const RECENT: Duration = Duration::from_secs(3600);
/// How long the journal may take: less than the whole look, which says why by itself then.
const LIMIT: Duration = Duration::from_secs(10);
/// Entries that are asked for, the newest.
const ENTRIES_MAX: usize = 200;
/// Messages that are told.
const TOLD: usize = 3;
/// Characters of each.
const MESSAGE_CHARS_MAX: usize = 300;

pub(super) fn look(case: &Case) -> Vec<Check> {
    if !case.is_of_the_unit() {
        return Vec::new();
    }
    let count = ENTRIES_MAX.to_string();
    let arguments = [
        "--unit",
        UNIT,
        "--priority",
        "warning",
        "--since",
        SINCE,
        "--lines",
        &count,
        "--no-pager",
        "--output",
        "json",
    ];
    let check = match program::run_within(LIMIT, "journalctl", &arguments, None) {
        Ok(ran) => judge(&ran.text, &Secrets::gather(&case.layout, &case.loaded.config), clock::now()),
        Err(why) => Check::warning("log", why, format!("journalctl -u {UNIT} should answer as root")),
    };
    vec![check]
}

/// One entry that matters.
struct Entry {
    at: Timestamp,
    is_error: bool,
    message: String,
}

impl Entry {
    fn read(line: &str) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let micros: i64 = value.get("__REALTIME_TIMESTAMP")?.as_str()?.parse().ok()?;
        let priority: u8 = value.get("PRIORITY")?.as_str()?.parse().ok()?;
        let message = match value.get("MESSAGE")? {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(bytes) => {
                let byte = |value: &serde_json::Value| u8::try_from(value.as_u64()?).ok();
                String::from_utf8_lossy(&bytes.iter().filter_map(byte).collect::<Vec<u8>>()).into_owned()
            }
            _ => return None,
        };
        Some(Self { at: Timestamp::from_nanos(micros.checked_mul(1000)?), is_error: priority <= 3, message })
    }

    fn told(&self, secrets: &Secrets) -> String {
        let text = secrets.scrub(&self.message);
        let short: String = text.chars().take(MESSAGE_CHARS_MAX).collect();
        format!("{}: {}", self.at, printable(&short))
    }
}

fn judge(text: &str, secrets: &Secrets, now: Timestamp) -> Check {
    let name = "log";
    let entries: Vec<Entry> = text.lines().filter_map(Entry::read).collect();
    let (errors, warnings): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|entry| entry.is_error);
    let told = if errors.is_empty() { &warnings } else { &errors };
    let Some(newest) = told.last() else { return Check::ok(name, "no error and no warning within a day") };
    let last: Vec<String> = told.iter().rev().take(TOLD).map(|entry| entry.told(secrets)).collect();
    let and_more = if entries.len() >= ENTRIES_MAX { " or more" } else { "" };
    let found = format!(
        "within a day {} errors and {} warnings{and_more}; the newest: {}",
        errors.len(),
        warnings.len(),
        last.join("; ")
    );
    if newest.is_error && now.since(newest.at) <= RECENT {
        let fix = format!(
            "do what the messages say; all of them: journalctl -u {UNIT} -p warning --since '{SINCE}'"
        );
        return Check::warning(name, found, fix);
    }
    Check::ok(name, found)
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use crate::config::Config;
    use crate::layout::Layout;

    fn entry(minutes: i64, priority: u8, message: &str) -> String {
        format!(
            "{{\"__REALTIME_TIMESTAMP\":\"{}\",\"PRIORITY\":\"{priority}\",\"MESSAGE\":{message}}}\n",
            minutes * 60_000_000
        )
    }

    fn judged(text: &str, minute: i64) -> Check {
        let nowhere = Layout::new("/nonexistent".as_ref(), "/nonexistent".as_ref());
        let secrets = Secrets::gather(&nowhere, &Config::default());
        judge(text, &secrets, Timestamp::from_nanos(minute * 60_000_000_000))
    }

    #[test]
    fn a_recent_error_is_a_warning_and_an_old_one_is_told() {
        let text = entry(1, 4, "\"disk is slow\"") + &entry(5, 3, "\"it cannot be sealed\"") + "nonsense\n";
        let recent = judged(&text, 30);
        assert_eq!(recent.grade, Grade::Warning);
        assert!(
            recent.found.contains("1 errors and 1 warnings") && recent.found.contains("it cannot be sealed")
        );
        assert!(!recent.found.contains("disk is slow"), "errors come before warnings: {}", recent.found);
        assert!(recent.fix.is_some_and(|fix| fix.contains("journalctl")));
        let old = judged(&text, 300);
        assert!(old.grade == Grade::Ok && old.found.contains("it cannot be sealed"), "{old:?}");
    }

    #[test]
    fn warnings_alone_are_told_and_nothing_is_well() {
        let warned = judged(&entry(5, 4, "\"disk is slow\""), 6);
        assert!(warned.grade == Grade::Ok && warned.found.contains("disk is slow"), "{warned:?}");
        assert_eq!(judged("", 6).grade, Grade::Ok);
    }

    #[test]
    fn what_is_no_text_is_shown_as_far_as_it_is_and_nothing_moves_the_terminal() {
        let odd = judged(&entry(5, 3, "[72,105,27,255]"), 6);
        assert!(odd.found.contains("Hi") && !odd.found.contains('\u{1b}'), "{odd:?}");
        let long = judged(&entry(5, 3, &format!("\"{}\"", "x".repeat(5000))), 6);
        assert!(long.found.len() < 500, "{}", long.found.len());
    }
}
