//! sudo:
//!
//! ```text
//!    alice : TTY=pts/0 ; PWD=/home/alice ; USER=root ; COMMAND=/usr/bin/id
//!    alice : 3 incorrect password attempts ; TTY=pts/0 ; PWD=/home/alice ; USER=root ; COMMAND=/usr/bin/id
//! ```
//!
//! The front is sudo's: who asked, then at once `TTY=` or `HOST=` when it was allowed, else the reason. Both
//! the directory and the command are the user's own, and each may imitate the rest of the line: then neither
//! the target nor the command is taken from it.

use memchr::memmem;

use super::{Parsed, contains, number, pam, split_once};
use crate::sense::logins::event::{LoginKind, Reporter};

const SERVICE: &str = "sudo";

/// Reads a message of sudo.
pub fn parse(message: &[u8]) -> Option<Parsed<'_>> {
    if message.starts_with(b"pam_") || message.starts_with(b"PAM ") {
        return Some(pam::failure(message)?.of_privilege(SERVICE, false));
    }
    let (user, rest) = split_once(message.trim_ascii_start(), b" : ")?;
    if user.is_empty() || rest.starts_with(b"(command continued)") {
        return None;
    }
    if is_first_field(rest) {
        let parsed = Parsed::new(LoginKind::PrivilegeSuccess, SERVICE, Reporter::Service);
        return Some(with_fields(Parsed { user: Some(user), ..parsed }, rest));
    }
    let (reason, fields) = split_once(rest, b" ; ")?;
    is_first_field(fields).then_some(())?;
    let parsed = Parsed {
        user: Some(user),
        reason: Some(reason),
        repeats: attempts(reason),
        ..Parsed::new(LoginKind::PrivilegeFailure, SERVICE, Reporter::Service)
    };
    Some(with_fields(parsed, fields))
}

fn is_first_field(text: &[u8]) -> bool {
    text.starts_with(b"TTY=") || text.starts_with(b"HOST=")
}

/// `3 incorrect password attempts` stands for three, every other reason for one.
fn attempts(reason: &[u8]) -> u32 {
    let count = split_once(reason, b" incorrect password attempt").and_then(|(count, _)| number(count));
    count.unwrap_or(1).clamp(1, super::REPEATS_MAX)
}

/// Adds what `fields` says, as far as it can be read in one way only.
fn with_fields<'a>(parsed: Parsed<'a>, fields: &'a [u8]) -> Parsed<'a> {
    let tty = split_once(fields, b"TTY=").and_then(|(_, rest)| split_once(rest, b" ; ")).map(|(tty, _)| tty);
    let parsed = Parsed { tty, ..parsed };
    let once = |needle: &[u8]| memmem::find_iter(fields, needle).take(2).count() == 1;
    if !once(b" ; USER=") || !once(b" ; COMMAND=") {
        // Without a command (`sudo -v`, older `sudo -l`) there is nothing to confuse; twice is imitation.
        let imitated = contains(fields, b" ; COMMAND=");
        return Parsed { ambiguous: imitated, ..parsed };
    }
    let read = || {
        let (_, rest) = split_once(fields, b" ; USER=")?;
        let (target, command) = split_once(rest, b" ; COMMAND=")?;
        // GROUP=, TSID= and ENV= may stand between.
        let target = split_once(target, b" ; ").map_or(target, |(target, _)| target);
        Some((target, command))
    };
    match read() {
        Some((target, command)) => Parsed { target: Some(target), command: Some(command), ..parsed },
        None => Parsed { ambiguous: true, ..parsed },
    }
}
