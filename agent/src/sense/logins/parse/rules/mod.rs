//! Declarative parsers: one TOML rule file a service.
//!
//! A file names the programs or logs of a service, and for each kind of message a pattern (see [`pattern`]) and what it
//! means. It holds samples too: true messages with what must be read of them, and messages that must not match, above all those by
//! which a peer would like to be taken for another. Every shipped file is checked by a test, customers' own files by
//! `agent check-config` ([`check`]).
//!
//! What stands before every message is not repeated in each pattern: `prefixes` are those of a service's own logs, and
//! `message_prefixes` those in syslog and the journal, for services that write their own time there too (`""` for messages without).
//! Where a rule has an address of its own, that of a prefix is not kept.
//!
//! What makes a pattern safe: it describes the message from end to end; a field that a peer fills is
//! text and can hold anything, all others hold what cannot be confused with their neighbours; where several readings
//! remain, the event says so and has only what all of them share ([`matcher`]); and rules whose outcomes differ must
//! not be able to match the same message ([`overlap`]).
//!
//! Limits: [`file::FILE_BYTES_MAX`], [`file::RULES_MAX`], [`pattern::PATTERN_BYTES_MAX`], [`pattern::VARIANTS_MAX`].

use std::net::IpAddr;

pub mod bytes;
pub mod check;
pub mod file;
pub mod matcher;
pub mod overlap;
pub mod pattern;
#[cfg(any(test, fuzzing))]
pub(crate) mod rendered;
pub mod service;
pub mod stamp;
pub mod structured;

pub use file::RuleProblem;
pub use service::ServiceRules;
pub use structured::Scratch;

/// `192.0.2.7:22`, `[2001:db8::7]:22`, `2001:db8::7:22`.
fn peer(text: &[u8]) -> Option<(Option<IpAddr>, Option<u16>)> {
    let colon = memchr::memrchr(b':', text)?;
    let port = u16::try_from(super::number(text.get(colon + 1..)?)?).ok()?;
    let name = text.get(..colon)?;
    let name = name.strip_prefix(b"[").and_then(|name| name.strip_suffix(b"]")).unwrap_or(name);
    let address = super::address(name)?;
    Some((Some(address), Some(port)))
}

#[cfg(test)]
mod tests;
