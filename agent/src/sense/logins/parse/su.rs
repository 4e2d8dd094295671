//! su of util-linux (`(to root) alice on pts/0`, `FAILED SU (to root) alice on pts/0`) and of shadow
//! (`Successful su for root by alice`, `FAILED su for root by alice`). The names are those of existing accounts.

use super::{Parsed, contains, pam, rsplit_once, split_once};
use crate::sense::logins::event::{LoginKind, Reporter};

const SERVICE: &str = "su";

/// Reads a message of su.
pub fn parse(message: &[u8]) -> Option<Parsed<'_>> {
    match message.first()? {
        b'(' => util_linux(message, LoginKind::PrivilegeSuccess),
        b'F' => match message.strip_prefix(b"FAILED SU ") {
            Some(rest) => util_linux(rest, LoginKind::PrivilegeFailure),
            None => shadow(message.strip_prefix(b"FAILED su for ")?, LoginKind::PrivilegeFailure),
        },
        b'S' => shadow(message.strip_prefix(b"Successful su for ")?, LoginKind::PrivilegeSuccess),
        b'p' | b'P' => Some(pam::failure(message)?.of_privilege(SERVICE, true)),
        _ => None,
    }
}

fn util_linux(text: &[u8], kind: LoginKind) -> Option<Parsed<'_>> {
    let parsed = Parsed::new(kind, SERVICE, Reporter::Service);
    let (names, tty) = rsplit_once(text.strip_prefix(b"(to ")?, b" on ")?;
    let (target, user) = split_once(names, b") ")?;
    if contains(user, b") ") {
        return Some(Parsed { ambiguous: true, ..parsed });
    }
    Some(Parsed { user: Some(user), target: Some(target), tty: Some(tty), ..parsed })
}

fn shadow(names: &[u8], kind: LoginKind) -> Option<Parsed<'_>> {
    let parsed = Parsed::new(kind, SERVICE, Reporter::Service);
    let (target, user) = split_once(names, b" by ")?;
    if contains(user, b" by ") {
        return Some(Parsed { ambiguous: true, ..parsed });
    }
    Some(Parsed { user: Some(user), target: Some(target), ..parsed })
}
