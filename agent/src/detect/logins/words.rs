//! Alarms in one plain sentence.

use picket_protocol::finding::{Text, printable};

use super::alarm::{Alarm, Listed};
use super::rule::{AlarmKey, Rule, Subject};

/// Characters of a name or command that a title shows.
const WORD_CHARS_MAX: usize = 80;

/// Text from outside, fit for a title.
pub fn word(text: &Text) -> String {
    let shown = printable(&text.text);
    if shown.is_empty() {
        return "an empty name".to_owned();
    }
    match shown.char_indices().nth(WORD_CHARS_MAX) {
        Some((end, _)) => format!("{}…", shown.get(..end).unwrap_or_default()),
        None => shown.into_owned(),
    }
}

fn some<T>(listed: &Listed<T>, left_out: u64, show: impl Fn(&T) -> String) -> String {
    let names: Vec<String> = listed.shown.iter().take(3).map(show).collect();
    let more = if listed.shown.len() > names.len() || left_out > 0 { " and others" } else { "" };
    format!("{}{more}", names.join(", "))
}

/// The title of an alarm as it stands.
pub fn title(key: &AlarmKey, alarm: &Alarm) -> String {
    let end = if alarm.ended { "; it has ended" } else { "" };
    format!("{}{end}", sentence(key, alarm))
}

fn sentence(key: &AlarmKey, alarm: &Alarm) -> String {
    let count = alarm.count;
    let users = || some(&alarm.users, alarm.users.left_out(), word);
    let (accounts, sources) = (alarm.users.count(), alarm.addresses.count());
    let addresses = || some(&alarm.addresses, alarm.addresses.left_out(), ToString::to_string);
    match (key.rule, &key.subject) {
        (Rule::BruteForce, Subject::Address(address)) if accounts == 0 => {
            format!("{count} failed logins from {address}")
        }
        (Rule::BruteForce, Subject::Address(address)) => {
            format!("{count} failed logins from {address}, as {}", users())
        }
        (Rule::BruteForce, Subject::User(user)) if sources == 0 => {
            format!("{count} failed logins as {}", word(user))
        }
        (Rule::BruteForce, Subject::User(user)) => {
            format!("{count} failed logins as {}, from {}", word(user), addresses())
        }
        (Rule::Spray, Subject::Address(address)) => {
            format!("{address} tries {accounts} accounts: {}; {count} failed logins", users())
        }
        (Rule::Spray, Subject::User(user)) => {
            format!("{sources} addresses try the account {}: {count} failed logins", word(user))
        }
        (Rule::Spray, Subject::Service(service)) => format!(
            "{} addresses try {} accounts by {service}, each a few times: {count} failed logins",
            about(&alarm.addresses),
            about(&alarm.users),
        ),
        (Rule::Enumeration, Subject::Address(address)) => {
            format!("{address} tries which accounts there are: {accounts} names, such as {}", users())
        }
        (Rule::SlowBruteForce, Subject::Address(address)) => {
            format!("{count} failed logins from {address} over days, as {}", users())
        }
        (Rule::SlowBruteForce, Subject::User(user)) => {
            format!("{count} failed logins as {} over days, from {}", word(user), addresses())
        }
        (Rule::PrivilegeBruteForce, Subject::User(user)) => {
            format!("{} was refused other rights {count} times: {}", word(user), alarm.words)
        }
        _ if count > 1 => format!("{}, {count} times", alarm.words),
        _ => alarm.words.clone(),
    }
}

fn about<T>(listed: &Listed<T>) -> String {
    let count = listed.count();
    if listed.is_exact() { count.to_string() } else { format!("about {count}") }
}
