//! The agent's last word on a host: what it did there is undone, and a record says who removes it.
//!
//! Whoever removes the package is never held up: what cannot be undone, sealed or delivered is told, and the ledger stays on
//! the disk until its last record has been delivered. [`Note`] says so to the package's scripts, which run when the agent's
//! program is gone already.

use std::time::Duration;

use picket_protocol::finding::Severity;
use picket_protocol::record::{Draft, RecordError};
use serde_json::json;

use super::SEAL_TIMEOUT;
use super::start::open_ledger;
use crate::config::Loaded;
use crate::layout::{Layout, write_durably};
use crate::ledger::{Heads, Sealer};
use crate::respond::Person;
use crate::respond::receipt::lifecycle;
use crate::uplink::renewing;

/// How long the collector may take to confirm the last record: apt and dnf wait behind it.
const DELIVERY: Duration = Duration::from_secs(5);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(20);

/// What became of the last record. `removed.json` in the core's directory.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Note {
    /// Its place in the ledger; none when it could not be sealed.
    pub seq: Option<u64>,
    /// Whether the collector has confirmed it.
    pub delivered: bool,
    /// Whether a purge must leave the ledger where it is: there is a record that the collector lacks, or something of the host's own that
    /// could not be given back.
    pub keep: bool,
    /// What stood in the way.
    pub problem: Option<String>,
}

/// The record that the agent is being removed.
fn removed(person: &Person) -> Result<Draft, RecordError> {
    let title = format!("The agent is being removed from this host by {person}");
    lifecycle(Severity::High, "removed", title, json!({ "by": person, "version": env!("CARGO_PKG_VERSION") }))
}

/// Whether a collector waits for what this ledger holds: also of a host that lost its enrolment, or has it damaged, and can be taken up
/// again by its keys and ledger.
fn is_awaited(layout: &Layout) -> bool {
    layout.enrolment().try_exists().unwrap_or(true) || renewing::is_lost(layout).unwrap_or(true)
}

/// Seals the last record, waits for the collector to confirm it when the host is enrolled, and writes the note.
pub fn say(layout: &Layout, sealer: &Sealer, heads: &Heads, person: &Person, enrolled: bool) -> Note {
    let awaited = enrolled || is_awaited(layout);
    let sealed = removed(person).map_err(|error| error.to_string()).and_then(|draft| {
        sealer.seal_durably(vec![draft], Vec::new(), SEAL_TIMEOUT).map_err(|error| error.to_string())
    });
    let mut note = match sealed {
        Ok(sealed) => {
            let delivered = enrolled && await_delivery(heads, sealed.first.saturating_add(sealed.count));
            Note { seq: Some(sealed.first), delivered, keep: awaited && !delivered, problem: None }
        }
        Err(error) => Note { seq: None, delivered: false, keep: awaited, problem: Some(error) },
    };
    if let Err(error) = write(layout, &note) {
        note.problem.get_or_insert(error);
    }
    note
}

/// The same when the agent does not run: the record is sealed and stays on this host.
pub fn say_offline(loaded: &Loaded, layout: &Layout, person: &Person) -> Note {
    if !layout.database().exists() {
        return Note { seq: None, delivered: false, keep: false, problem: None };
    }
    let sealed = seal_offline(loaded, layout, person);
    let keep = is_awaited(layout);
    let note = match sealed {
        Ok(seq) => Note { seq: Some(seq), delivered: false, keep, problem: None },
        Err(problem) => Note { seq: None, delivered: false, keep, problem: Some(problem) },
    };
    written(layout, note)
}

fn seal_offline(loaded: &Loaded, layout: &Layout, person: &Person) -> Result<u64, String> {
    let ledger = open_ledger(&loaded.config, layout).map_err(|error| error.to_string())?;
    let sealed = removed(person).map_err(|error| error.to_string()).and_then(|draft| {
        let sealed = ledger.sealer().seal_durably(vec![draft], Vec::new(), SEAL_TIMEOUT);
        sealed.map_err(|error| error.to_string())
    });
    ledger.stop();
    Ok(sealed?.first)
}

/// A purge must not take what could not be given back: `left` says why something could not be undone, and a quarantined file whose place
/// is taken is in the vault still.
pub fn keep_what_is_held(layout: &Layout, note: Note, left: &[String]) -> Note {
    let is_held = std::fs::read_dir(layout.vault()).is_ok_and(|mut entries| entries.next().is_some());
    if (left.is_empty() && !is_held) || note.keep || !layout.database().exists() {
        return note;
    }
    let problem = if is_held {
        format!("files that were quarantined are in {} still", layout.vault().display())
    } else {
        format!("not everything could be undone: {}", left.join("; "))
    };
    written(layout, Note { keep: true, problem: Some(note.problem.clone().unwrap_or(problem)), ..note })
}

fn written(layout: &Layout, note: Note) -> Note {
    match write(layout, &note) {
        Ok(()) => note,
        Err(error) => Note { problem: note.problem.or(Some(error)), ..note },
    }
}

/// The agent runs (again): it is not removed.
pub fn forget(layout: &Layout) {
    match std::fs::remove_file(layout.removed()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, "the note of an earlier removal cannot be removed");
        }
        _ => {}
    }
}

fn write(layout: &Layout, note: &Note) -> Result<(), String> {
    let written = serde_json::to_vec(note).map_err(std::io::Error::from);
    let written = written.and_then(|bytes| write_durably(&layout.removed(), &bytes, 0o600));
    written.map_err(|error| format!("{}: {error}", layout.removed().display()))
}

fn await_delivery(heads: &Heads, size: u64) -> bool {
    let begin = crate::clock::since_boot();
    while heads.head().acknowledged < size {
        if crate::clock::since_boot().saturating_sub(begin) >= DELIVERY {
            return false;
        }
        // The ledger may not grow any more: this only waits.
        heads.wait_beyond(u64::MAX, LOOK);
    }
    true
}
