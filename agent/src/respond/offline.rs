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

impl Report {
    /// Why something is left in force; empty when nothing is.
    pub fn left(&self) -> Vec<String> {
        let of_actions = self.actions.iter().filter_map(|action| action.problem.as_ref());
        self.problems.iter().chain(of_actions).cloned().collect()
    }
}

/// What is in force, and has not been released without the agent: `isolate (0199c2ad-…)`. Of a database that cannot be read nothing is
/// known, and whoever is about to replace it must not be held up by that.
pub fn in_force(layout: &Layout) -> Vec<String> {
    let acts = in_force::read(&layout.database()).unwrap_or_default();
    let sequences = sequence::read(&layout.database()).unwrap_or_default();
    let noted = read(&layout.released_offline()).unwrap_or_default();
    let released = |id: Uuid| noted.iter().any(|note| note.actions.contains(&id));
    let acts = acts.iter().filter(|act| !released(act.id));
    let acts = acts.map(|act| format!("{} ({})", act.prepared.name(), act.id));
    let sequences = sequences.iter().filter(|sequence| !released(sequence.id));
    acts.chain(sequences.map(|sequence| format!("a playbook ({})", sequence.id))).collect()
}

/// Ends what the state in `layout`, which no agent runs on, has done to this host. Where it has done nothing, nothing is touched; where
/// its database cannot be read, what can be found without it is ended.
///
/// # Errors
/// What is left, in words.
pub fn end_all(layout: &Layout) -> Result<(), String> {
    let database = layout.database();
    let acts = if database.exists() { in_force::read_all(&database) } else { Ok(Default::default()) };
    let stopped = std::fs::read_dir(layout.core().join("stopped"));
    let any = acts.as_ref().map_or(true, |(acts, unread)| !acts.is_empty() || !unread.is_empty())
        || sequence::read(&database).is_ok_and(|sequences| !sequences.is_empty())
        || super::freeze::any(&database)
        || stopped.is_ok_and(|mut entries| entries.next().is_some());
    if !any {
        return Ok(());
    }
    let boot = crate::machine::boot().unwrap_or_default();
    let report = release(layout, &boot, crate::status::own_person(), crate::clock::now());
    let left = report.left();
    if acts.is_err() || left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
}

/// Undoes everything. What stands in the way of one part does not hinder the others.
pub fn release(layout: &Layout, boot: &str, by: Person, time: Timestamp) -> Report {
    let (mut report, mut levers) = (Report::default(), Levers::default());
    let (found, unread) = in_force::read_all(&layout.database())
        .unwrap_or_else(|error| (Vec::new(), vec![format!("the agent's database cannot be read: {error}")]));
    report.problems.extend(unread);
    let under_way = sequence::read(&layout.database()).unwrap_or_default();
    let sequences = under_way.iter().map(|sequence| sequence.id);
    let note = Note { by, time, actions: sequences.chain(found.iter().map(|act| act.id)).collect() };
    noted(&layout.released_offline(), note, &mut report, |report| {
        for act in &found {
            let undone = act.prepared.deed().undo(act.id, &mut levers);
            let action = act.prepared.name().to_owned();
            let problem = undone.err().or_else(|| act.prepared.deed().leftover(act.id));
            report.actions.push(ReleasedAction { id: act.id, action, problem });
        }
    });
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
    report
}

/// Noted before the first is undone: whoever is killed in the middle leaves an agent that ends the rest at its next start, not one that
/// does all of it again. What cannot be noted is undone all the same.
fn noted(path: &Path, note: Note, report: &mut Report, undo: impl FnOnce(&mut Report)) {
    let unnoted = if note.actions.is_empty() { None } else { append(path, note).err() };
    undo(report);
    report.problems.extend(unnoted.map(|error| {
        format!(
            "it could not be noted ({error}), so that the agent would apply it anew at its next start: before that, \
             remove the cause and release again"
        )
    }));
}

/// Whatever the database says, or cannot say.
fn remove_tables(levers: &mut Levers, report: &mut Report) {
    let (chains, left) = legacy::remove_all(levers.firewall().known().as_deref());
    report.tables.extend(chains);
    report.problems.extend(left.into_iter().map(|why| format!("chains of iptables may be left: {why}")));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_killed_in_the_middle_has_noted_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("released");
        let by = Person { uid: 0, login_uid: None, name: None };
        let note = Note { by, time: Timestamp::default(), actions: vec![Uuid::nil()] };
        let (mut report, mut undone) = (Report::default(), false);
        noted(&path, note.clone(), &mut report, |_| {
            assert_eq!(read(&path).unwrap(), std::slice::from_ref(&note));
            undone = true;
        });
        assert!(undone && report.problems.is_empty());
        // A disk that takes no note keeps nothing from being undone.
        let mut undone = false;
        noted(&directory.path().join("none/there"), note, &mut report, |_| undone = true);
        assert!(undone && report.problems.iter().any(|why| why.contains("could not be noted")), "{report:?}");
    }
}
