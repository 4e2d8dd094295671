//! The defences sensor: the state of the host that no file event shows. It reads firewall, audit, services, access
//! control, kernel settings, mounts, modules, BPF programs, packet sockets and interfaces, and hands each to
//! [`crate::detect::defences`].
//!
//! Where the kernel tells of changes (nfnetlink, audit, uevents, rtnetlink, fanotify on `/proc/sys`, mountinfo,
//! control groups) an area is read a moment after; and by the clock in any case, so that a source that is
//! refused costs time and not sight. Nothing is asked of other programs, and nothing is changed.
//!
//! Idle it costs a handful of system calls every five seconds and some small files every minute; an area that is dear
//! to read is read more seldom. Events make an area be read at most every two seconds. Firewall, interfaces and packet
//! sockets are those of the agent's own network namespace, mounts those of its mount namespace. What was read is kept as it is in the database, nothing else.

use std::io;
use std::path::{Path, PathBuf};

use super::super::{RungProbe, SensorContext, SensorError, SensorHandle, SensorProbe, SensorState};
use crate::respond::own_acts::Chains;

mod audit;
pub(crate) mod firewall;
mod mac;
mod modules;
pub(crate) mod mounts;
mod plan;
mod programs;
mod protected;
mod services;
mod settings;
mod sniffing;
mod sources;
mod store;
#[cfg(test)]
mod tests;
pub(crate) mod who;
mod worker;
mod xtables;

use plan::Place;
use sources::Sources;
pub use store::SCHEMA;
use worker::Worker;

/// What the sensor must know beside what it reads.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Watched trees: what is mounted over them is told.
    pub trees: Vec<PathBuf>,
    /// The agent's own directories.
    pub own: Vec<PathBuf>,
    /// Where the file system begins; `/` but in tests.
    pub root: PathBuf,
    /// How much faster time runs for what waits and settles: 1 but in tests.
    pub haste: u32,
}

impl Setup {
    /// For this host.
    pub fn new(trees: Vec<PathBuf>, own: Vec<PathBuf>) -> Self {
        Self { trees, own, root: PathBuf::from("/"), haste: 1 }
    }
}

/// Tries every source once: whether its state can be read, and whether the kernel tells of changes.
pub fn probe(setup: &Setup) -> SensorProbe {
    let sources = Sources::open(&setup.root);
    let rungs = Place::ALL.into_iter().map(|place| {
        let deaf = sources.refused.iter().find(|(of, _)| *of == place).map(|(_, error)| error);
        let (usable, reason) = match try_place(place, setup) {
            Ok(()) => (true, how(place, deaf)),
            Err(error) => (false, errno(&error)),
        };
        RungProbe { rung: place.name().to_owned(), usable, reason }
    });
    SensorProbe { sensor: "defences".to_owned(), rungs: rungs.collect() }
}

fn try_place(place: Place, setup: &Setup) -> io::Result<()> {
    let (root, proc) = (&setup.root, setup.root.join("proc"));
    match place {
        Place::Firewall => firewall::read(&Chains::new()).map(drop),
        Place::Xtables => xtables::read(&proc).map(drop),
        Place::Audit => audit::read().map(drop),
        Place::Services => services::read(root).map(drop),
        Place::Mac => mac::read(root).map(drop),
        Place::Settings => settings::read(root).map(drop),
        Place::Mounts => mounts::listen(root).map(drop),
        Place::Modules => modules::read(root, &mut modules::Files::default()).map(drop),
        Place::Programs => programs::Counter::new(0).read(&proc).map(drop),
        Place::Listeners => std::fs::File::open(proc.join("self/net/packet")).map(drop),
        Place::Interfaces => sniffing::interfaces().map(drop),
        Place::Protected => protected::read(root, &setup.trees).map(drop),
    }
}

fn how(place: Place, deaf: Option<&io::Error>) -> String {
    let told = match place {
        Place::Firewall => "nfnetlink tells of every commit",
        Place::Audit => "audit records tell of changes",
        Place::Services => "control groups tell of starts and stops",
        Place::Mac => "SELinux tells of changes",
        Place::Settings => "fanotify tells of writes to /proc/sys, with the writer",
        Place::Mounts => "mountinfo tells of changes",
        Place::Modules => "uevents tell of modules",
        Place::Interfaces => "rtnetlink tells of interfaces",
        Place::Xtables => return "looked at every 30 s: the kernel tells of no change".to_owned(),
        Place::Programs => return "asked for every 5 s: the kernel tells of no load".to_owned(),
        Place::Listeners => return "looked at every 15 s and when an interface begins to listen".to_owned(),
        Place::Protected => return "looked at every 60 s, outside the watched trees".to_owned(),
    };
    match deaf {
        None => told.to_owned(),
        Some(error) => format!("looked at by the clock only: {}", errno(error)),
    }
}

/// What the kernel does not have at all.
fn is_absent(error: &io::Error) -> bool {
    let codes =
        [libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT, libc::EOPNOTSUPP, libc::ENOSYS, libc::ECONNREFUSED];
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported)
        || error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

fn errno(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!("refused, a capability is missing ({error})"),
        Some(libc::ECONNREFUSED | libc::EPROTONOSUPPORT) => {
            format!("not in this kernel or namespace ({error})")
        }
        _ => error.to_string(),
    }
}

/// Starts the sensor's thread.
pub fn start(setup: Setup, context: SensorContext) -> Result<SensorHandle, SensorError> {
    let (detector, seen) = store::restore(&context.database)?;
    let ladder = probe(&setup).rungs;
    context.status.update(|report| {
        report.ladder = ladder;
        report.state = SensorState::Running;
    });
    let places = mounts::Places::new(setup.trees, setup.own, Path::new(&setup.root));
    let worker = Worker::new(context, setup.root, places, detector, setup.haste);
    let mut handle = SensorHandle::default();
    handle.spawn("defences", move || worker.run(seen))?;
    Ok(handle)
}
