//! What a collection would take: kinds, files and bytes about, and whether there is room. Names are gone through, at most [`NAMES_MAX`]
//! and for [`WITHIN`]; no content is read, and no file system of another host or program is asked. Where that is not all, it says so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::action::{Process, Profile};
use picket_protocol::time::Timestamp;
use serde_json::{Value, json};

use super::collect::yield_to_all;
use super::files::{Files, Weight};
use super::memory::MEMORY_BYTES_MAX;
use super::spool::Spool;
use super::{BUNDLES_MAX, Parties, collecting, places};
use crate::config::format_size;
use crate::respond::actions::Plan;
use crate::respond::actions::accounts::text_of;
use crate::respond::processes::count;
use crate::sense::processes::{life, living};

/// Names that are gone through for one plan: what a host of some size has in its logs, homes and units.
const NAMES_MAX: u64 = 100_000;
/// And for how long.
const WITHIN: Duration = Duration::from_secs(10);

/// What collecting works with, as far as a plan needs it.
#[derive(Clone, Debug)]
pub struct Means {
    /// Where bundles wait.
    pub spool: Spool,
    /// Largest bundle, in bytes as it is encrypted.
    pub bundle_max: u64,
    /// The agent's own directory, of which nothing is taken.
    pub own: PathBuf,
}

/// What is to be collected.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Which kinds.
    pub profiles: &'a BTreeSet<Profile>,
    /// Further files and directories.
    pub paths: &'a [String],
    /// Whose memory.
    pub process: Option<&'a Process>,
}

/// Whether a collection may begin at all, where so many are held.
///
/// # Errors
/// Why not, for the receipt.
pub(super) fn may_begin(parties: Option<&Parties>, held: usize, spool: &Spool) -> Result<(), String> {
    if parties.is_none_or(|parties| parties.recipients.is_empty()) {
        let why = "the trust root of this host names nobody to encrypt evidence to; make the next one with \
                   soc trust new --evidence-recipient age1…";
        return Err(why.to_owned());
    }
    if held >= BUNDLES_MAX {
        return Err(format!("{BUNDLES_MAX} bundles are collected or wait for the collector already"));
    }
    spool.has_room().map_err(|error| error.to_string())
}

/// One kind, or the paths.
struct Part {
    name: &'static str,
    weight: Weight,
}

impl Part {
    fn told(&self) -> String {
        let files = if self.weight.files == 1 { "file" } else { "files" };
        format!("{} {} {files}, {}", self.name, self.weight.files, format_size(self.weight.bytes))
    }

    fn data(&self) -> Value {
        json!({
            "kind": self.name, "files": self.weight.files, "bytes": self.weight.bytes, "left_out": self.weight.left_out,
            "all": !self.weight.is_cut(),
        })
    }
}

impl Means {
    /// What it would collect; `held` is how many bundles are held.
    ///
    /// # Errors
    /// Why it would not be begun.
    pub fn plan(
        &self,
        wanted: Wanted<'_>,
        parties: Option<&Parties>,
        held: usize,
        booted: Timestamp,
    ) -> Result<Plan, String> {
        may_begin(parties, held, &self.spool)?;
        collecting::process(wanted.process, booted)?;
        let parts = self.weigh_aside(&wanted)?;
        let memory = wanted.process.map(|process| resident(process.pid).min(MEMORY_BYTES_MAX));
        let room = self.spool.room().map_err(|error| error.to_string())?.min(self.bundle_max);
        let bytes =
            parts.iter().map(|part| part.weight.bytes).sum::<u64>().saturating_add(memory.unwrap_or(0));
        let files = parts.iter().map(|part| part.weight.files).sum::<u64>();
        let recipients = parties.map_or(0, |parties| parties.recipients.len());
        let is_cut = parts.iter().any(|part| part.weight.is_cut());
        let mut lines = vec![format!(
            "{} {files} files of {}, before they are compressed, are collected and encrypted to {recipients} of the vendor's keys.",
            if is_cut { "At least" } else { "About" },
            format_size(bytes)
        )];
        let told: Vec<String> = parts.iter().map(Part::told).collect();
        if !told.is_empty() {
            lines.push(format!("Of these: {}.", told.join("; ")));
        }
        lines.extend(volatile(wanted.profiles));
        lines.extend(memory.map(|bytes| format!("The memory of the process: about {}.", format_size(bytes))));
        if is_cut {
            lines.push(format!(
                "Not all was looked through: {NAMES_MAX} names, or {} s, are the most.",
                WITHIN.as_secs()
            ));
        }
        lines.push(match bytes > room {
            true => format!(
                "There is room for {} as it is compressed: what is lost first is taken first, and what is left out is told.",
                format_size(room)
            ),
            false => format!("There is room for {}.", format_size(room)),
        });
        lines.push("Nothing is changed but that it waits on the agent's disk for the collector.".to_owned());
        let kinds: Vec<Value> = parts.iter().map(Part::data).collect();
        let data = json!({
            "profiles": wanted.profiles, "paths": wanted.paths.len(), "files": files, "bytes": bytes, "all": !is_cut,
            "kinds": kinds, "memory_bytes": memory, "room_bytes": room, "fits": bytes <= room, "recipients": recipients,
        });
        Ok(Plan { lines, data })
    }

    /// On a thread that comes after all else and ends with it: who asks may have rules to try next, and would hold the kernel's lock of
    /// nftables while it waits its turn.
    fn weigh_aside(&self, wanted: &Wanted<'_>) -> Result<Vec<Part>, String> {
        std::thread::scope(|scope| {
            let weigh = || {
                yield_to_all();
                self.weigh(wanted)
            };
            let thread = std::thread::Builder::new().name("weigh".to_owned()).spawn_scoped(scope, weigh);
            let thread = thread.map_err(|error| format!("no thread can be started: {error}"))?;
            thread.join().map_err(|_| "what is to be collected could not be looked through".to_owned())
        })
    }

    /// In the order in which they are taken, and each file once.
    fn weigh(&self, wanted: &Wanted<'_>) -> Vec<Part> {
        let until = crate::clock::since_boot().saturating_add(WITHIN);
        let (mut files, mut left, mut parts) = (Files::new(&self.own), NAMES_MAX, Vec::new());
        let mut weigh = |name, paths: &dyn Fn(&Files) -> Vec<PathBuf>| {
            let mut weight = Weight::within(left, until);
            for path in paths(&files) {
                files.weigh(&path, &mut weight);
            }
            left = weight.names_left();
            parts.push(Part { name, weight });
        };
        if !wanted.paths.is_empty() {
            weigh("paths", &|_| wanted.paths.iter().map(|path| Path::new(path).to_owned()).collect());
        }
        for profile in wanted.profiles.iter().filter(|profile| **profile > Profile::Kernel) {
            weigh(profile.name(), &|files: &Files| {
                let homes = places::of_homes(*profile).into_iter().flat_map(|(_, below)| below);
                places::of(*profile, files.mounts()).into_iter().chain(homes).collect()
            });
        }
        parts
    }
}

/// What is no file, and has no length before it is looked at.
fn volatile(profiles: &BTreeSet<Profile>) -> Option<String> {
    let word = |profile: &Profile| match profile {
        Profile::Processes => {
            let all = living().into_iter().filter_map(life).filter(|life| !life.kernel).count();
            Some(format!("what is known of {}", count(all)))
        }
        Profile::Network => Some("sockets, routes and neighbours".to_owned()),
        Profile::Kernel => Some("mounts, modules and settings of the kernel".to_owned()),
        _ => None,
    };
    let words: Vec<String> = profiles.iter().filter_map(word).collect();
    (!words.is_empty()).then(|| format!("And the state of the host: {}.", words.join("; ")))
}

/// Bytes of memory that a process holds (`VmRSS` of proc_pid_status(5)); 0 when it is gone.
fn resident(pid: u32) -> u64 {
    let status = text_of(pid, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::super::spool::Room;
    use super::*;

    #[test]
    fn weighing_leaves_whoever_asks_its_own_turn() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("log"), "seven b").unwrap();
        let path = directory.path().canonicalize().unwrap().to_string_lossy().into_owned();
        let room = Room { bytes_min: 0, percent_min: 0 };
        let means = Means {
            spool: Spool::new(directory.path().to_owned(), room),
            bundle_max: 1,
            own: PathBuf::from("/nowhere"),
        };
        let paths = [path];
        let wanted = Wanted { profiles: &BTreeSet::new(), paths: &paths, process: None };
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let before = priority();
        let parts = means.weigh_aside(&wanted).unwrap();
        let told: Vec<_> = parts.iter().map(|part| (part.weight.files, part.weight.bytes)).collect();
        assert_eq!((told, priority()), (vec![(1, 7)], before));
        assert!(before < 19, "else it shows nothing");
    }
}
