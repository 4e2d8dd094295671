//! Reads which BPF programs are loaded. The kernel tells nobody of new ones, but it counts: one question after the
//! largest number known is answered at once, and that is all that is asked while nothing is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use picket_protocol::crypto::hex;

use super::who;
use crate::detect::defences::programs::Program;
use crate::sys::{next_program, program_info};

/// Programs that are looked at.
const PROGRAMS_MAX: usize = 4_096;
/// After so many questions that were answered no everything is read.
const ASKED_MAX: u32 = 60;
/// New programs whose holders are looked for at one reading: that goes through all processes.
const HOLDERS_MAX: usize = 16;

/// Remembers up to which number programs are known.
#[derive(Clone, Debug)]
pub struct Counter {
    /// None before the first reading, when there may be no program at all.
    largest: Option<u32>,
    own_pid: u32,
    /// How often it was asked since the last reading.
    asked: u32,
}

impl Counter {
    /// Knows none yet. What the process `own_pid` loads is left out.
    pub fn new(own_pid: u32) -> Self {
        Self { largest: None, own_pid, asked: 0 }
    }

    /// Whether a program was loaded since the last reading, or it is time to read them all: numbers begin anew some
    /// day.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`.
    pub fn has_new(&mut self) -> io::Result<bool> {
        self.asked += 1;
        let Some(largest) = self.largest.filter(|_| self.asked < ASKED_MAX) else { return Ok(true) };
        Ok(next_program(largest)?.is_some())
    }

    /// All programs. Those with a number above the last reading's get their holder, unless this process holds them.
    ///
    /// # Errors
    /// As [`Counter::has_new`].
    pub fn read(&mut self, proc: &Path) -> io::Result<BTreeMap<String, Program>> {
        let known = self.largest;
        self.asked = 0;
        let mut found = BTreeMap::new();
        let own = held_by(proc, self.own_pid);
        let (mut id, mut searched) = (0, 0);
        while let Some(next) = next_program(id)? {
            id = next;
            if found.len() >= PROGRAMS_MAX {
                break;
            }
            if own.contains(&id) {
                continue;
            }
            let Some(info) = program_info(id)? else { continue };
            let mut program = Program {
                kind: kind(info.kind),
                name: String::from_utf8_lossy(&info.name).into_owned(),
                tag: hex(&info.tag),
                uid: info.uid,
                id,
                holder: None,
            };
            if known.is_some_and(|known| id > known) && searched < HOLDERS_MAX {
                searched += 1;
                program.holder = holder(proc, id).map(|pid| who::actor(proc, pid, None));
            }
            found.insert(program.key(), program);
        }
        self.largest = Some(id.max(known.unwrap_or_default()));
        Ok(found)
    }
}

/// A process with a descriptor of the program itself, of a link to it, or of a perf event that runs it.
fn holder(proc: &Path, id: u32) -> Option<u32> {
    who::holder(proc, |target, fdinfo| program_of(target, fdinfo) == Some(id))
}

/// The programs that a process holds.
fn held_by(proc: &Path, pid: u32) -> BTreeSet<u32> {
    let directory = proc.join(pid.to_string());
    let Ok(entries) = fs::read_dir(directory.join("fd")) else { return BTreeSet::new() };
    let held = entries.flatten().filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        program_of(&target, &directory.join("fdinfo").join(entry.file_name()))
    });
    held.take(PROGRAMS_MAX).collect()
}

fn program_of(target: &Path, fdinfo: &Path) -> Option<u32> {
    if !target.as_os_str().as_encoded_bytes().starts_with(b"anon_inode:bpf") {
        return None;
    }
    let text = fs::read_to_string(fdinfo).ok()?;
    text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
}

fn kind(number: u32) -> String {
    const KINDS: [&str; 33] = [
        "unspecified",
        "socket-filter",
        "kprobe",
        "sched-cls",
        "sched-act",
        "tracepoint",
        "xdp",
        "perf-event",
        "cgroup-skb",
        "cgroup-sock",
        "lwt-in",
        "lwt-out",
        "lwt-xmit",
        "sock-ops",
        "sk-skb",
        "cgroup-device",
        "sk-msg",
        "raw-tracepoint",
        "cgroup-sock-addr",
        "lwt-seg6local",
        "lirc-mode2",
        "sk-reuseport",
        "flow-dissector",
        "cgroup-sysctl",
        "raw-tracepoint-writable",
        "cgroup-sockopt",
        "tracing",
        "struct-ops",
        "ext",
        "lsm",
        "sk-lookup",
        "syscall",
        "netfilter",
    ];
    let known = usize::try_from(number).ok().and_then(|number| KINDS.get(number));
    known.map_or_else(|| format!("type-{number}"), |kind| (*kind).to_owned())
}
