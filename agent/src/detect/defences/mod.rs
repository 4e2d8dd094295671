//! What weakens the host's defences without touching a file: state before and state after in, findings out.
//!
//! Each [`Area`] (firewall, audit, services …) is a map from a key to an item. The sensor reads an area whole and
//! hands it to [`Detector::observe`], which compares it with the last state that it knows: the state is durable, so
//! that what was changed while the agent was down is told too, with the window in which it happened. Rules:
//! `defence.{firewall,audit,logging,service,mac,immutable,kernel-setting,mount,module,bpf}`, and beside them
//! `host.promiscuous`, `host.packet-socket` and `host.clock`.
//!
//! What is put right again within the settling time of its kind (a service that is restarted, rules that are
//! loaded anew) is counted and not told; during the first [`BOOT_GRACE`] of a boot everything has that long. What
//! was told and is put right later is told once more, as `info`.
//!
//! Limits: [`ITEMS_MAX`] items an area; the sensor leaves out what is beyond and says so.

mod area;
pub mod audit;
pub mod clock;
mod detector;
pub mod firewall;
pub mod immutable;
pub mod mac;
pub mod modules;
pub mod mounts;
pub mod programs;
pub mod services;
pub mod settings;
pub mod sniffing;
#[cfg(test)]
mod tests;

pub use area::{Area, BOOT_GRACE, Context, ITEMS_MAX, Judgement, SeenBy, Told};
pub use detector::{Detector, Outcome, Row, Tally};

use picket_protocol::finding::{Entity, Text, printable};

/// Characters of a name from outside that a title shows.
const TITLE_WORD_CHARS_MAX: usize = 120;

/// Text from outside, fit for a title.
fn word(text: &str) -> String {
    let shown = printable(text);
    match shown.char_indices().nth(TITLE_WORD_CHARS_MAX) {
        Some((end, _)) => format!("{}…", shown.get(..end).unwrap_or_default()),
        None => shown.into_owned(),
    }
}

/// `1 rule`, `2 rules`.
fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn file(path: &str) -> Entity {
    Entity::File { path: Text { text: path.to_owned(), bytes: None } }
}
