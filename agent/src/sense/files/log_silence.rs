//! Looking after logs that used to grow and do not: whether their writers still run, and whether anybody holds them.
//! What that means decides [`crate::detect::logs::silence`].

use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::dirty::Mark;
use super::examiner::{Examiner, PassError};
use super::log_state::LogState;
use super::logs::{LogChange, Loss, Nature, family_of};
use super::pass::Candidate;
use crate::clock;
use crate::detect::logs::silence::{At, Holder, Process, Silence, Writer};
use crate::sense::processes::{Life, container_of, life, living};

/// Descriptors of all processes that are looked at for one log; beyond, somebody may hold it.
const DESCRIPTORS_MAX: usize = 262_144;
/// Bytes of `fdinfo` that are read.
const DESCRIPTOR_BYTES_MAX: u64 = 1_024;

impl Examiner {
    /// Both clocks, as habits count.
    pub(super) fn at(&self) -> At {
        At { wall: clock::now(), awake: self.begun.elapsed() }
    }

    /// A log grew: its habit is learned, and a silence that was told is over.
    pub(super) fn log_grew(&mut self, candidate: &Candidate, state: &LogState) -> Result<(), PassError> {
        if Nature::of(&candidate.path) != Nature::Appended {
            return Ok(());
        }
        let actor = candidate.mark.actors.actor();
        let by = actor.as_deref().and_then(|actor| {
            let ticks = life(actor.pid).filter(Life::runs).map(|life| life.started);
            let program = (actor.executable.as_ref()?, actor.container.as_deref());
            Some((program, Process { pid: actor.pid, ticks }))
        });
        let at = self.at();
        let Some(over) = self.logs.silences.grew(&family_of(&candidate.path), by, at) else { return Ok(()) };
        let size = state.size;
        let change = self.log_change(candidate, state, Loss::Silent(Box::new(over)), Some(size), None);
        self.emit_log(&LogChange { lost: Vec::new(), ..change })
    }

    /// Looks after all steady logs that are quiet.
    pub(super) fn look_after_logs(&mut self) -> Result<(), PassError> {
        let at = self.at();
        for (log, writer) in self.logs.silences.quiet(at) {
            let holder = writer.as_ref().map_or(Holder::Unknown, |writer| holder(writer, &log));
            if let Some(silence) = self.logs.silences.judge(&log, holder, at) {
                self.tell_silence(&log, silence)?;
            }
        }
        Ok(())
    }

    fn tell_silence(&mut self, family: &Path, silence: Silence) -> Result<(), PassError> {
        let (path, state) = self.newest_of(family);
        let mark = Mark::rescan(clock::now(), Instant::now(), Some(silence.since));
        let candidate = Candidate::new(path, mark);
        let size = (state.inode != 0).then_some(state.size);
        let change = self.log_change(&candidate, &state, Loss::Silent(Box::new(silence)), size, None);
        self.emit_log(&change)
    }

    /// The log of a family that is written to, or was last.
    fn newest_of(&self, family: &Path) -> (PathBuf, LogState) {
        if let Some(state) = self.logs.known.get(family) {
            return (family.to_path_buf(), state.clone());
        }
        let of_it = self.logs.known.iter().filter(|(path, _)| family_of(path) == family);
        let newest = of_it.max_by_key(|(_, state)| state.mtime);
        newest.map_or_else(
            || (family.to_path_buf(), LogState::default()),
            |(path, state)| (path.clone(), state.clone()),
        )
    }
}

/// What became of who wrote the log.
fn holder(writer: &Writer, log: &Path) -> Holder {
    let same = |process: &Process| {
        life(process.pid).is_some_and(|life| life.runs() && Some(life.started) == process.ticks)
    };
    if writer.processes.iter().any(same) {
        return Holder::Lives;
    }
    let pids = living();
    let wanted = writer.program.to_bytes();
    let runs = |pid: &u32| {
        let program = std::fs::read_link(format!("/proc/{pid}/exe"));
        // Containers run programs of the same path.
        program.is_ok_and(|program| program.as_os_str().as_bytes() == wanted)
            && container_of(*pid).as_deref() == writer.container.as_deref()
    };
    let object = std::fs::metadata(log).ok().map(|meta| (meta.dev(), meta.ino()));
    let held = || object.is_some_and(|object| is_held(&pids, object));
    if pids.iter().any(runs) || held() { Holder::Lives } else { Holder::Gone }
}

/// Whether any of the processes has the object open for writing.
fn is_held(pids: &[u32], object: (u64, u64)) -> bool {
    let descriptors = pids.iter().flat_map(|pid| {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        entries.map(move |entry| (*pid, entry))
    });
    for (number, (pid, entry)) in descriptors.enumerate() {
        if number >= DESCRIPTORS_MAX {
            return true;
        }
        let is_it = std::fs::metadata(entry.path()).is_ok_and(|meta| (meta.dev(), meta.ino()) == object);
        if is_it && writes(pid, &entry.file_name().to_string_lossy()) {
            return true;
        }
    }
    false
}

/// By the flags with which it was opened, in octal.
fn writes(pid: u32, descriptor: &str) -> bool {
    let mut text = String::new();
    let read = std::fs::File::open(format!("/proc/{pid}/fdinfo/{descriptor}"))
        .and_then(|file| file.take(DESCRIPTOR_BYTES_MAX).read_to_string(&mut text));
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:")?.trim().chars().last());
    read.is_err() || flags.is_some_and(|last| matches!(last, '1' | '2' | '5' | '6'))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use picket_protocol::finding::Text;

    use super::*;

    #[test]
    fn a_writer_lives_is_seen_by_its_program_or_its_hold_and_is_gone_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let program = directory.path().canonicalize().unwrap().join("logger");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let start = |output: Stdio| Command::new(&program).arg("600").stdout(output).spawn().unwrap();
        let file = || std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut child = start(file().into());
        let ticks = life(child.id()).map(|life| life.started);
        let writer = Writer {
            program: Text::from_bytes(program.as_os_str().as_bytes()),
            container: None,
            processes: vec![Process { pid: child.id(), ticks }],
            writes: 9,
        };
        assert_eq!(holder(&writer, &log), Holder::Lives);
        child.kill().unwrap();
        // Not yet waited for: it runs no more.
        let deadline = Instant::now() + std::time::Duration::from_secs(30);
        while life(child.id()).is_some_and(|life| life.runs()) {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::yield_now();
        }
        assert_eq!(holder(&writer, &log), Holder::Gone);
        child.wait().unwrap();
        // This very process holds it, once to read and once to write.
        let reading = std::fs::File::open(&log).unwrap();
        assert_eq!(holder(&writer, &log), Holder::Gone);
        let writing = file();
        assert_eq!(holder(&writer, &log), Holder::Lives);
        drop((reading, writing));
        let mut again = start(Stdio::null());
        assert_eq!(holder(&writer, &log), Holder::Lives);
        again.kill().unwrap();
        again.wait().unwrap();
    }
}
