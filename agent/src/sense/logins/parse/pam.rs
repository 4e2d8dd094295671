//! What `pam_unix` says about a failed password:
//!
//! ```text
//! pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.7  user=root
//! PAM 2 more authentication failures; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.7  user=root
//! ```
//!
//! `user=` is missing when the account does not exist. Whatever follows `user=` is the name; a second
//! ` rhost=` means that a name imitates the fields before it.

use super::{Parsed, address, number, split_once};
use crate::sense::logins::event::{LoginKind, Reporter};

/// The fields of a failure.
pub struct Failure<'a> {
    repeats: u32,
    logname: &'a [u8],
    tty: &'a [u8],
    /// Who asked (su and sudo).
    remote_user: &'a [u8],
    remote_host: &'a [u8],
    /// Whose password was wrong.
    user: &'a [u8],
    ambiguous: bool,
}

/// Reads a failure; none for every other line of PAM.
pub fn failure(message: &[u8]) -> Option<Failure<'_>> {
    let (text, summary) = match message.strip_prefix(b"PAM ") {
        Some(text) => (text, true),
        None => (split_once(message.strip_prefix(b"pam_unix(")?, b":auth): ")?.1, false),
    };
    let (repeats, fields) = match text.strip_prefix(b"authentication failure; ") {
        Some(fields) if !summary => (1, fields),
        Some(_) => return None,
        None => more(text)?,
    };
    let (logname, rest) = split_once(fields.strip_prefix(b"logname=")?, b" uid=")?;
    let (_, rest) = split_once(rest, b" tty=")?;
    let (tty, rest) = split_once(rest, b" ruser=")?;
    let (remote_user, rest) = split_once(rest, b" rhost=")?;
    let ambiguous = super::contains(rest, b" rhost=");
    let (remote_host, tail) = split_once(rest, b" ").unwrap_or((rest, b""));
    let user = tail.trim_ascii_start().strip_prefix(b"user=").unwrap_or_default();
    Some(Failure { repeats, logname, tty, remote_user, remote_host, user, ambiguous })
}

fn more(text: &[u8]) -> Option<(u32, &[u8])> {
    let (count, rest) = split_once(text, b" more authentication failure")?;
    let fields = rest.strip_prefix(b"s; ").or_else(|| rest.strip_prefix(b"; "))?;
    Some((number(count)?.min(super::REPEATS_MAX), fields))
}

impl<'a> Failure<'a> {
    /// As a failed login at `service`; without a name the account does not exist.
    pub fn of_login(&self, service: &'static str) -> Parsed<'a> {
        let known = !self.user.is_empty() && !self.ambiguous;
        let kind = if self.user.is_empty() { LoginKind::InvalidUser } else { LoginKind::Failure };
        Parsed {
            user: known.then_some(self.user),
            address: if self.ambiguous { None } else { address(self.remote_host) },
            ..self.base(kind, service)
        }
    }

    /// As a refused change of privilege; `target_is_user` when it is the target's password that was asked for.
    pub fn of_privilege(&self, service: &'static str, target_is_user: bool) -> Parsed<'a> {
        let asker = if self.remote_user.is_empty() { self.logname } else { self.remote_user };
        let known = |name: &'a [u8]| (!name.is_empty() && !self.ambiguous).then_some(name);
        Parsed {
            user: known(asker),
            target: if target_is_user { known(self.user) } else { None },
            tty: known(self.tty),
            ..self.base(LoginKind::PrivilegeFailure, service)
        }
    }

    fn base(&self, kind: LoginKind, service: &'static str) -> Parsed<'a> {
        Parsed {
            repeats: self.repeats,
            ambiguous: self.ambiguous,
            reason: Some(b"authentication failure"),
            ..Parsed::new(kind, service, Reporter::Pam)
        }
    }
}
