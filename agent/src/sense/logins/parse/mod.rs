//! Parsers of messages, one file a service. They borrow from the line and allocate nothing.
//!
//! A remote user controls the names that he types, a local one also his directories and commands. So every
//! form is read from the ends that the program wrote: its fixed words at the front, and the peer's address
//! at the back. Where two ends leave more than one reading, the event is marked ambiguous and carries only
//! what all readings share; nothing is guessed.

use std::net::IpAddr;

use memchr::memmem;
use memchr::memrchr;

use super::event::{LoginKind, Reporter};
use rules::stamp::Written;

pub use parsers::Parsers;
pub use rules::Scratch;

mod pam;
pub mod parsers;
pub mod rules;
mod shipped;
mod sshd;
mod su;
mod sudo;

/// The largest number of attempts that one line is believed to stand for.
pub(crate) const REPEATS_MAX: u32 = 100_000;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// What happened.
    pub kind: LoginKind,
    /// `sshd`, `su`, `sudo`.
    pub service: &'a str,
    /// Who reports it.
    pub reporter: Reporter,
    /// See [`super::LoginEvent`] for this and the following.
    pub user: Option<&'a [u8]>,
    /// The peer's address.
    pub address: Option<IpAddr>,
    /// The peer's port.
    pub port: Option<u16>,
    /// How it was tried.
    pub method: Option<&'a [u8]>,
    /// Type and fingerprint of a key.
    pub key: Option<&'a [u8]>,
    /// The terminal.
    pub tty: Option<&'a [u8]>,
    /// Whose rights were asked for.
    pub target: Option<&'a [u8]>,
    /// What sudo ran.
    pub command: Option<&'a [u8]>,
    /// Why not.
    pub reason: Option<&'a [u8]>,
    /// What a web server was asked for.
    pub request: Option<&'a [u8]>,
    /// What it answered.
    pub status: Option<u16>,
    /// When, where a service's own log says so.
    pub time: Option<Written<'a>>,
    /// Process id, likewise.
    pub pid: Option<u32>,
    /// How many attempts it stands for.
    pub repeats: u32,
    /// More than one reading.
    pub ambiguous: bool,
}

impl<'a> Parsed<'a> {
    fn new(kind: LoginKind, service: &'a str, reporter: Reporter) -> Self {
        Self {
            kind,
            service,
            reporter,
            user: None,
            address: None,
            port: None,
            method: None,
            key: None,
            tty: None,
            target: None,
            command: None,
            reason: None,
            request: None,
            status: None,
            time: None,
            pid: None,
            repeats: 1,
            ambiguous: false,
        }
    }
}

/// Reads `message`, or by how often it is repeated the message inside of it.
fn repeated_by<'a>(
    message: &'a [u8],
    parser: impl FnOnce(&'a [u8]) -> Option<Parsed<'a>>,
) -> Option<Parsed<'a>> {
    match repeated(message) {
        Some((times, inner)) => {
            let parsed = parser(inner)?;
            let repeats = parsed.repeats.saturating_mul(times).min(REPEATS_MAX);
            Some(Parsed { repeats, ..parsed })
        }
        None => parser(message),
    }
}

/// rsyslog's `message repeated 3 times: [ …]`. No message of a known program begins like that.
fn repeated(message: &[u8]) -> Option<(u32, &[u8])> {
    let rest = message.strip_prefix(b"message repeated ")?;
    let (times, rest) = split_once(rest, b" times: [ ")?;
    let times = number(times)?.clamp(1, REPEATS_MAX);
    Some((times, rest.strip_suffix(b"]")?))
}

/// Splits at the first `separator`.
fn split_once<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = memmem::find(text, separator)?;
    Some((text.get(..at)?, text.get(at + separator.len()..)?))
}

/// Splits at the last `separator`.
fn rsplit_once<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = memmem::rfind(text, separator)?;
    Some((text.get(..at)?, text.get(at + separator.len()..)?))
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    memmem::find(text, needle).is_some()
}

fn number(digits: &[u8]) -> Option<u32> {
    let plain = !digits.is_empty() && digits.len() <= 9 && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')))
}

/// An address as sshd prints it; an IPv6 zone (`%eth0`) is dropped, an IPv4 address in IPv6 clothes is
/// undressed. None for anything else, such as `UNKNOWN` or a host name.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let text = text.split_once('%').map_or(text, |(address, _zone)| address);
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// A peer at the end of a text.
struct Peer<'a> {
    /// What stands before it, without the space between.
    before: &'a [u8],
    address: Option<IpAddr>,
    port: Option<u16>,
}

/// Reads `… <address> port <number>` from the back.
fn peer_at_end(text: &[u8]) -> Option<Peer<'_>> {
    let space = memrchr(b' ', text)?;
    let port = u16::try_from(number(text.get(space + 1..)?)?).ok()?;
    let rest = text.get(..space)?.strip_suffix(b" port")?;
    let (before, name) = match memrchr(b' ', rest) {
        Some(space) => (rest.get(..space)?, rest.get(space + 1..)?),
        None => (&b""[..], rest),
    };
    Some(Peer { before, address: address(name), port: Some(port) })
}

/// Reads `<address> port <number>` at the front, followed by the end, a space, a colon or a comma.
fn peer_at_front(text: &[u8]) -> Option<(Option<IpAddr>, Option<u16>)> {
    let (name, rest) = split_once(text, b" port ")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let port = u16::try_from(number(rest.get(..digits)?)?).ok();
    let address = address(name);
    address.is_some().then_some((address, port))
}

#[cfg(test)]
mod tests;
