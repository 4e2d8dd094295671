//! sshd of OpenSSH 7.4 and later, under each of its program names.
//!
//! sshd encodes control characters and what is not ASCII (`\n`, `\303\244`) and cuts names to 100 bytes, but
//! leaves spaces alone: a name may hold ` from 192.0.2.7 port 22 ssh2`. What a peer chose stands in the
//! middle of a line, so the peer's address is read from the back. Two texts that a peer chose meet in one
//! line only for certificates (`… ssh2: RSA-CERT SHA256:… ID <its id> (serial 0) CA …`).

use memchr::memmem;

use super::{Parsed, Peer, address, contains, pam, peer_at_end, peer_at_front, rsplit_once, split_once};
use crate::sense::logins::event::{LoginKind, Reporter};

const SERVICE: &str = "sshd";
/// sshd cuts messages at 1,023 bytes, and then the end is no longer its own. No honest line is that long.
const MESSAGE_BYTES_MAX: usize = 1_000;

/// Reads a message of sshd.
pub fn parse(message: &[u8]) -> Option<Parsed<'_>> {
    let message =
        message.strip_prefix(b"error: ").or_else(|| message.strip_prefix(b"fatal: ")).unwrap_or(message);
    match message.first()? {
        b'A' => match message.strip_prefix(b"Accepted ") {
            Some(rest) => attempt(rest, LoginKind::Success),
            None => access_denied(message),
        },
        b'F' => attempt(message.strip_prefix(b"Failed ")?, LoginKind::Failure),
        b'I' => invalid_user(message),
        b'm' => too_many(message),
        b'U' => user_or_unable(message),
        b'R' => root_refused(message),
        b'P' => pam_error(message).or_else(|| Some(pam::failure(message)?.of_login(SERVICE))).or_else(|| {
            probed(message.strip_prefix(b"Protocol major versions differ for ")?, b"old protocol")
        }),
        b'p' => Some(pam::failure(message)?.of_login(SERVICE)),
        b'C' | b'D' => ended(message),
        b'B' | b'T' | b'b' | b'd' | b'r' | b's' => probe(message),
        b'/' => wrong_place(split_once(message, b": Authentication tried for ")?.1),
        _ => None,
    }
}

fn base<'a>(kind: LoginKind, reporter: Reporter) -> Parsed<'a> {
    Parsed::new(kind, SERVICE, reporter)
}

fn ambiguous<'a>(kind: LoginKind, reporter: Reporter) -> Parsed<'a> {
    Parsed { ambiguous: true, ..base(kind, reporter) }
}

fn preauth(text: &[u8]) -> &[u8] {
    text.strip_suffix(b" [preauth]").unwrap_or(text)
}

/// `password for [invalid user ]<user> from <address> port <port> ssh2[: <key or principal>]`.
fn attempt(text: &[u8], kind: LoginKind) -> Option<Parsed<'_>> {
    let (method, _) = split_once(text, b" for ")?;
    if contains(method, b" ") {
        // `Accepted certificate ID "…" (serial 7) signed by …`, `Accepted key … found at …`: no login yet.
        return None;
    }
    if text.len() > MESSAGE_BYTES_MAX {
        return Some(ambiguous(kind, Reporter::Service));
    }
    let (text, extra) = match text.strip_suffix(b" ssh2") {
        Some(text) => (text, None),
        None => match split_extra(text)? {
            Some((text, extra)) => (text, Some(extra)),
            None => return Some(ambiguous(kind, Reporter::Service)),
        },
    };
    let Peer { before, address, port } = peer_at_end(text)?;
    let (_, user) = split_once(before.strip_suffix(b" from")?, b" for ")?;
    let (kind, user) = match user.strip_prefix(b"invalid user ") {
        Some(user) if kind == LoginKind::Failure => (LoginKind::InvalidUser, user),
        // Where empty passwords are permitted, every client begins with this question, honest ones too.
        _ if kind == LoginKind::Failure && method == b"none" => (LoginKind::Probe, user),
        _ => (kind, user),
    };
    let key = extra.and_then(key_of);
    Some(Parsed {
        user: Some(user),
        address,
        port,
        method: Some(method),
        key,
        ..base(kind, Reporter::Service)
    })
}

/// Splits `… ssh2: <extra>`. None inside when ` ssh2: ` stands there more than once and the last is not
/// followed by a plain key and nothing else, so that a name or a certificate's id imitates the rest.
#[expect(clippy::option_option, reason = "not such a line, ambiguous, split: three answers")]
fn split_extra(text: &[u8]) -> Option<Option<(&[u8], &[u8])>> {
    const SEPARATOR: &[u8] = b" ssh2: ";
    let (head, extra) = rsplit_once(text, SEPARATOR)?;
    let plain = key_of(extra).is_some_and(|key| key.len() == extra.len());
    if !plain && contains(head, SEPARATOR) {
        return Some(None);
    }
    Some(Some((head, extra)))
}

/// The `<type> SHA256:<digest>` at the front.
fn key_of(extra: &[u8]) -> Option<&[u8]> {
    let space = memmem::find(extra, b" ")?;
    let digest = extra.get(space + 1..)?;
    let known = digest.starts_with(b"SHA256:") || digest.starts_with(b"MD5:");
    let length = digest.iter().take_while(|byte| !matches!(byte, b' ' | b',')).count();
    known.then(|| extra.get(..space + 1 + length)).flatten()
}

/// `Invalid user <user> from <address>[ port <port>]`.
fn invalid_user(message: &[u8]) -> Option<Parsed<'_>> {
    let text = preauth(message.strip_prefix(b"Invalid user ")?);
    let parsed = base(LoginKind::InvalidUser, Reporter::Notice);
    if text.len() > MESSAGE_BYTES_MAX {
        return Some(ambiguous(parsed.kind, parsed.reporter));
    }
    if let Some(Peer { before, address, port }) = peer_at_end(text) {
        let user = user_before_from(before)?;
        return Some(Parsed { user: Some(user), address, port, ..parsed });
    }
    let (user, name) = match text.strip_prefix(b"from ") {
        Some(name) if !contains(name, b" ") => (&b""[..], name),
        _ => rsplit_once(text, b" from ")?,
    };
    Some(Parsed { user: Some(user), address: address(name), ..parsed })
}

/// What stands before ` from`; the name may be empty.
fn user_before_from(before: &[u8]) -> Option<&[u8]> {
    before.strip_suffix(b" from").or_else(|| (before == b"from").then_some(b""))
}

/// `maximum authentication attempts exceeded for [invalid user ]<user> from <address> port <port> ssh2`.
fn too_many(message: &[u8]) -> Option<Parsed<'_>> {
    const REASON: &[u8] = b"maximum authentication attempts exceeded";
    let text = preauth(message.strip_prefix(REASON)?.strip_prefix(b" for ")?);
    let Peer { before, address, port } = peer_at_end(text.strip_suffix(b" ssh2")?)?;
    let user = before.strip_suffix(b" from")?;
    let (kind, user) = match user.strip_prefix(b"invalid user ") {
        Some(user) => (LoginKind::InvalidUser, user),
        None => (LoginKind::Failure, user),
    };
    Some(Parsed { user: Some(user), address, port, reason: Some(REASON), ..base(kind, Reporter::Notice) })
}

/// `User <user> [from <host> ]not allowed because <reason>`, `Unable to negotiate with <address> port <port>: …`.
fn user_or_unable(message: &[u8]) -> Option<Parsed<'_>> {
    if let Some(rest) = message.strip_prefix(b"Unable to negotiate with ") {
        return probed(rest, b"unable to negotiate");
    }
    let (text, reason) = rsplit_once(message.strip_prefix(b"User ")?, b" not allowed because ")?;
    let (user, host) = rsplit_once(text, b" from ").unwrap_or((text, b""));
    let parsed = base(LoginKind::InvalidUser, Reporter::Notice);
    Some(Parsed { user: Some(user), address: address(host), reason: Some(reason), ..parsed })
}

/// `ROOT LOGIN REFUSED FROM <address> port <port>`.
fn root_refused(message: &[u8]) -> Option<Parsed<'_>> {
    let rest = preauth(message.strip_prefix(b"ROOT LOGIN REFUSED FROM ")?);
    let (address, port) = peer_at_front(rest).unwrap_or((address(rest), None));
    let parsed = base(LoginKind::Failure, Reporter::Notice);
    Some(Parsed { user: Some(b"root"), address, port, reason: Some(b"root login refused"), ..parsed })
}

/// `<user> with correct key but not from a permitted host (host=<name>, ip=<address>, required=<list>).`, or `… with valid
/// certificate but not from a permitted source address (<address>).`: somebody has the key, where it must not be.
fn wrong_place(text: &[u8]) -> Option<Parsed<'_>> {
    let parsed = base(LoginKind::Failure, Reporter::Notice);
    let parsed = Parsed { method: Some(b"publickey"), ..parsed };
    if let Some((user, rest)) = split_once(text, b" with correct key but not from a permitted host (host=") {
        let (_, rest) = split_once(rest, b", ip=")?;
        // The host's name comes from DNS.
        let twice = contains(rest, b", ip=");
        let address = if twice { None } else { address(split_once(rest, b", required=")?.0) };
        let reason = Some(&b"not a permitted host"[..]);
        return Some(Parsed { user: Some(user), address, reason, ambiguous: twice, ..parsed });
    }
    let (user, rest) =
        split_once(text, b" with valid certificate but not from a permitted source address (")?;
    let address = address(split_once(rest, b")")?.0);
    Some(Parsed { user: Some(user), address, reason: Some(b"not a permitted address"), ..parsed })
}

/// `Access denied for user <user> by PAM account configuration`; `Authentication tried for …`, before OpenSSH 7.7.
fn access_denied(message: &[u8]) -> Option<Parsed<'_>> {
    if let Some(text) = message.strip_prefix(b"Authentication tried for ") {
        return wrong_place(text);
    }
    let text = preauth(message.strip_prefix(b"Access denied for user ")?);
    let user = text.strip_suffix(b" by PAM account configuration")?;
    let parsed = base(LoginKind::Failure, Reporter::Notice);
    Some(Parsed { user: Some(user), reason: Some(b"denied by PAM account configuration"), ..parsed })
}

/// `PAM: <what> for [illegal user ]<user> from <host>`: with keyboard-interactive often the only line.
fn pam_error(message: &[u8]) -> Option<Parsed<'_>> {
    const KNOWN: [&[u8]; 10] = [
        b"Authentication failure",
        b"User not known to the underlying authentication module",
        b"Permission denied",
        b"User account has expired",
        b"Have exhausted maximum number of retries for service",
        b"Authentication service cannot retrieve authentication info",
        b"Authentication token is no longer valid; new one required",
        b"Insufficient credentials to access authentication data",
        b"Critical error - immediate abort",
        b"System error",
    ];
    let text = message.strip_prefix(b"PAM: ")?;
    let (reason, text) =
        KNOWN.iter().find_map(|known| Some((*known, text.strip_prefix(*known)?.strip_prefix(b" for ")?)))?;
    let (user, host) = rsplit_once(preauth(text), b" from ")?;
    let (kind, user) = match user.strip_prefix(b"illegal user ") {
        Some(user) => (LoginKind::InvalidUser, user),
        None => (LoginKind::Failure, user),
    };
    let parsed = base(kind, Reporter::Notice);
    Some(Parsed { user: Some(user), address: address(host), reason: Some(reason), ..parsed })
}

/// The end of a connection: `Connection closed by [authenticating user <user> |invalid user <user> |user <user>
/// ]<address> port <port>[ [preauth]]`, likewise `reset by`, `from … timed out` and `Disconnected from`.
fn ended(message: &[u8]) -> Option<Parsed<'_>> {
    if let Some(rest) = message.strip_prefix(b"Disconnected from ") {
        return end_of(rest, b"disconnected");
    }
    if let Some(rest) = message.strip_prefix(b"Disconnecting ") {
        return disconnecting(preauth(rest));
    }
    if let Some(rest) = message.strip_prefix(b"Did not receive identification string from ") {
        return probed(rest, b"no identification");
    }
    let rest = message.strip_prefix(b"Connection ")?;
    if let Some(rest) = rest.strip_prefix(b"closed by ").or_else(|| rest.strip_prefix(b"reset by ")) {
        return end_of(rest, b"connection closed");
    }
    let rest = rest.strip_prefix(b"from ")?;
    let lost = preauth(rest).strip_suffix(b" timed out")?;
    peer_of(lost, preauth(rest).len() < rest.len(), b"connection lost")
}

/// Reads `<peer>[ [preauth]]`.
fn end_of<'a>(rest: &'a [u8], reason: &'static [u8]) -> Option<Parsed<'a>> {
    let text = preauth(rest);
    peer_of(text, text.len() < rest.len(), reason)
}

/// Whose connection ended: of somebody who was logged in, or of one who never was.
fn peer_of<'a>(text: &'a [u8], before_login: bool, reason: &'static [u8]) -> Option<Parsed<'a>> {
    let Some(Peer { before, address, port }) = peer_at_end(text) else {
        // Without a port, as before OpenSSH 7.
        return before_login.then(|| portless(text, b"connection closed"))?;
    };
    if let Some(user) = before.strip_prefix(b"user ").filter(|_| !before_login) {
        let parsed = base(LoginKind::Logout, Reporter::Service);
        return Some(Parsed { user: Some(user), address, port, ..parsed });
    }
    let user = match before {
        // The end of a session looks like this in OpenSSH 7.4.
        b"" if reason == b"disconnected" && !before_login => return None,
        b"" => None,
        _ => Some(stranger(before)?),
    };
    Some(Parsed { user, address, port, reason: Some(reason), ..base(LoginKind::Probe, Reporter::Service) })
}

/// The name in what sshd puts before the address of a peer that is not logged in.
fn stranger(before: &[u8]) -> Option<&[u8]> {
    before.strip_prefix(b"authenticating user ").or_else(|| before.strip_prefix(b"invalid user "))
}

/// `<peer>: Too many authentication failures`, or `<peer>: Change of username or service not allowed: (…) -> (…)`, where
/// everything behind the colon may be the peer's words.
fn disconnecting(text: &[u8]) -> Option<Parsed<'_>> {
    const CHANGE: &[u8] = b": Change of username or service not allowed: (";
    let parsed = base(LoginKind::Probe, Reporter::Service);
    if let Some(text) = text.strip_suffix(b": Too many authentication failures") {
        return peer_of(text, true, b"too many authentication failures");
    }
    let (peer, rest) = split_once(text, CHANGE)?;
    if contains(rest, CHANGE) {
        return Some(ambiguous(parsed.kind, parsed.reporter));
    }
    peer_of(peer, true, b"changed the user's name")
}

/// Other connections that cannot have been meant as logins.
fn probe(message: &[u8]) -> Option<Parsed<'_>> {
    if let Some(rest) = message.strip_prefix(b"banner exchange: Connection from ") {
        return probed(rest, b"not an SSH client");
    }
    if let Some(rest) = message.strip_prefix(b"ssh_dispatch_run_fatal: Connection from ") {
        // What is wrong is in sshd's words, without a colon.
        let (peer, _) = rsplit_once(rest, b": ")?;
        return peer_of(peer, preauth(rest).len() < rest.len(), b"broken protocol");
    }
    if let Some(rest) = message.strip_prefix(b"refused connect from ") {
        // By hosts.deny: `<name> (<address>)`.
        let name = rsplit_once(rest, b" (").and_then(|(_, name)| name.strip_suffix(b")")).unwrap_or(rest);
        return portless(name, b"refused by hosts.deny");
    }
    if let Some(rest) = message.strip_prefix(b"Timeout, client not responding from ") {
        return peer_of(rest, false, b"connection lost").filter(|parsed| parsed.kind == LoginKind::Logout);
    }
    if let Some(rest) = message.strip_prefix(b"Bad protocol version identification ") {
        // What it sent stands before; the peer at the end.
        let Peer { before, address, port } = peer_at_end(preauth(rest))?;
        before.strip_suffix(b" from")?;
        let parsed = base(LoginKind::Probe, Reporter::Service);
        return Some(Parsed { address, port, reason: Some(b"not an SSH client"), ..parsed });
    }
    if let Some(rest) = message.strip_prefix(b"Timeout before authentication for ") {
        return match rest.strip_prefix(b"connection from ") {
            Some(rest) => {
                let address = address(split_once(rest, b" to ")?.0);
                let parsed = base(LoginKind::Probe, Reporter::Service);
                Some(Parsed { address, reason: Some(b"timeout"), ..parsed })
            }
            None => probed(rest, b"timeout"),
        };
    }
    let (_, rest) = split_once(message.strip_prefix(b"drop connection #")?, b" from [")?;
    let (name, rest) = split_once(rest, b"]:")?;
    let port = split_once(rest, b" on [").and_then(|(port, _)| u16::try_from(super::number(port)?).ok());
    let parsed = base(LoginKind::Probe, Reporter::Service);
    Some(Parsed { address: address(name), port, reason: Some(b"dropped"), ..parsed })
}

/// Nothing but an address.
fn portless<'a>(text: &'a [u8], reason: &'static [u8]) -> Option<Parsed<'a>> {
    let address = Some(address(text)?);
    Some(Parsed { address, reason: Some(reason), ..base(LoginKind::Probe, Reporter::Service) })
}

/// A peer at the front of `rest`, right behind sshd's own words.
fn probed<'a>(rest: &'a [u8], reason: &'static [u8]) -> Option<Parsed<'a>> {
    let Some((address, port)) = peer_at_front(rest) else { return portless(preauth(rest), reason) };
    Some(Parsed { address, port, reason: Some(reason), ..base(LoginKind::Probe, Reporter::Service) })
}
