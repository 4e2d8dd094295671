//! `agent release --offline`: local root ends everything although the agent is dead. Nothing of it needs the agent, its ledger, or
//! the network; what was done is noted in a file, and recorded at the agent's next start.

use std::io;
use std::path::Path;

use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::actions::Levers;
use super::custody::ReleasedAction;
use super::firewall::legacy;
use super::firewall::script::Script;
use super::preserve::{Room, Spool};
use super::{Person, in_force, sequence};
use crate::layout::{Layout, read_file, write_durably};

/// Longest note, in bytes.
const NOTE_BYTES_MAX: u64 = 1024 * 1024;
/// Releases in one note; the oldest go first.
const NOTES_MAX: usize = 64;

/// One release.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Note {
    /// Who.
    pub by: Person,
    /// When.
    pub time: Timestamp,
    /// What: acts in force, and the commands of playbooks under way.
    pub actions: Vec<Uuid>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// Actions of which the agent's database told.
    pub actions: Vec<ReleasedAction>,
    /// Tables of nftables, chains of iptables and BPF programs that were removed without that.
    pub tables: Vec<String>,
    /// Processes that go on.
    pub processes: usize,
    /// What stood in the way.
    pub problems: Vec<String>,
}

/// Undoes everything. What stands in the way of one part does not hinder the others.
pub fn release(layout: &Layout, boot: &str, by: Person, time: Timestamp) -> Report {
    let (mut report, mut levers) = (Report::default(), Levers::default());
    let found = in_force::read(&layout.database()).unwrap_or_else(|error| {
        report.problems.push(format!("the agent's database cannot be read: {error}"));
        Vec::new()
    });
    for act in &found {
        let undone = act.prepared.deed().undo(act.id, &mut levers);
        let action = act.prepared.name().to_owned();
        let problem = undone.err().or_else(|| act.prepared.deed().leftover(act.id));
        report.actions.push(ReleasedAction { id: act.id, action, problem });
    }
    remove_tables(&mut levers, &mut report);
    match super::freeze::let_all_go_on(&layout.database(), boot) {
        Ok(processes) => report.processes = processes,
        Err(error) => report.problems.push(format!("who is frozen cannot be read: {error}")),
    }
    // Of commands that the database does not tell of.
    let others = super::processes::let_all_go_on(&layout.core());
    report.processes = report.processes.saturating_add(others);
    let spool = Spool::new(layout.evidence(), Room { bytes_min: 0, percent_min: 0 });
    match super::preserve::release_offline(&layout.database(), &spool) {
        Ok(released) => report.actions.extend(released),
        Err(why) => report.problems.push(why),
    }
    let under_way = sequence::read(&layout.database()).unwrap_or_default();
    let sequences = under_way.iter().map(|sequence| sequence.id);
    let note = Note { by, time, actions: sequences.chain(found.iter().map(|act| act.id)).collect() };
    if !note.actions.is_empty()
        && let Err(error) = append(&layout.released_offline(), note)
    {
        report.problems.push(format!(
            "it could not be noted ({error}), so that the agent would apply it anew at its next start: before that, \
             remove the cause and release again"
        ));
    }
    report
}

/// Whatever the database says, or cannot say.
fn remove_tables(levers: &mut Levers, report: &mut Report) {
    // Where there is no iptables, nothing was done by it.
    report.tables.extend(legacy::remove_all().unwrap_or_default());
    match levers.firewall().groups().remove_all() {
        Ok(programs) => report.tables.extend(programs),
        Err(why) => report.problems.push(why),
    }
    let firewall = match levers.firewall().nftables() {
        Ok(firewall) => firewall,
        Err(why) => return remove_by_program(why, report),
    };
    let removed = firewall.own().map_err(|error| error.to_string()).and_then(|tables| {
        let removed = firewall.remove(&tables).map(|()| tables);
        removed.map_err(|error| match error.errno() {
            Some(libc::EPERM) => {
                format!(
                    "{error}: the running agent holds its tables; use agent release, or stop the agent first"
                )
            }
            _ => error.to_string(),
        })
    });
    match removed {
        Ok(tables) => report.tables.extend(tables.into_iter().map(|(_, name)| name)),
        Err(why) => report.problems.push(format!("tables of nftables are left: {why}")),
    }
}

/// Where the agent itself may not speak with nftables, its program may. Where there is neither, nothing was done by them.
fn remove_by_program(why: String, report: &mut Report) {
    let removed = Script::own().and_then(|tables| {
        let removed = if tables.is_empty() { Ok(()) } else { Script::default().remove(&tables) };
        removed.map(|()| tables)
    });
    match removed {
        Ok(tables) => report.tables.extend(tables.into_iter().map(|(_, name)| name)),
        Err(other) => report.problems.push(format!("{why}; {other}")),
    }
}

/// What was noted.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<Note>> {
    match read_file(path, NOTE_BYTES_MAX) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Adds a note, durably.
///
/// # Errors
/// What the disk says.
pub(super) fn append(path: &Path, note: Note) -> io::Result<()> {
    // One that cannot be read is of no use to anybody.
    let mut notes = read(path).unwrap_or_default();
    notes.push(note);
    notes.drain(..notes.len().saturating_sub(NOTES_MAX));
    write_durably(path, &serde_json::to_vec(&notes)?, 0o600)
}

/// It is recorded.
///
/// # Errors
/// When the file cannot be removed.
pub fn forget(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
