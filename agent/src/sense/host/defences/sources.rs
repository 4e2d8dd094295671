//! Where the kernel tells by itself that something changed. Each source that is refused costs speed, not sight: its
//! area is read by the clock.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use super::plan::Place;
use super::{audit, firewall, mac, modules, mounts, services, settings, sniffing};
use crate::netlink::Netlink;
use crate::sys::{Stop, WriteGroup};

/// Something was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The area.
    pub place: Place,
    /// The process that did it, and its name where the kernel tells it.
    pub by: Option<(u32, Option<String>)>,
}

/// All sources; none where one is refused, with the reason in [`Sources::refused`].
#[derive(Debug, Default)]
pub struct Sources {
    firewall: Option<Netlink>,
    audit: Option<Netlink>,
    modules: Option<Netlink>,
    links: Option<Netlink>,
    selinux: Option<Netlink>,
    settings: Option<WriteGroup>,
    mounts: Option<File>,
    /// The kernel says of each change of mounts once, to the first who polls.
    mounts_changed: bool,
    services: Option<OwnedFd>,
    /// Which were refused, and why.
    pub refused: Vec<(Place, io::Error)>,
}

impl Sources {
    /// Opens what can be opened.
    pub fn open(root: &Path) -> Self {
        let mut refused = Vec::new();
        let mut keep = |place, error| refused.push((place, error));
        let mut sources = Self {
            firewall: firewall::listen().map_err(|error| keep(Place::Firewall, error)).ok(),
            audit: audit::listen().map_err(|error| keep(Place::Audit, error)).ok(),
            modules: modules::listen().map_err(|error| keep(Place::Modules, error)).ok(),
            links: sniffing::listen().map_err(|error| keep(Place::Interfaces, error)).ok(),
            selinux: mac::listen().map_err(|error| keep(Place::Mac, error)).ok(),
            settings: settings::listen(root).map_err(|error| keep(Place::Settings, error)).ok(),
            mounts: mounts::listen(root).map_err(|error| keep(Place::Mounts, error)).ok(),
            services: watch_services(root).map_err(|error| keep(Place::Services, error)).ok(),
            mounts_changed: false,
            refused: Vec::new(),
        };
        sources.refused = refused;
        sources
    }

    /// Waits until something is heard, `wait` is over, or the stop signal is set.
    pub fn wait(&mut self, stop: &Stop, wait: Duration) {
        let tells = PollFlags::IN;
        let netlink = [&self.firewall, &self.audit, &self.modules, &self.links, &self.selinux];
        let mut polled: Vec<PollFd<'_>> = vec![PollFd::from_borrowed_fd(stop.as_fd(), tells)];
        let sockets = netlink.into_iter().flatten().map(AsFd::as_fd);
        let others = self.settings.iter().map(AsFd::as_fd).chain(self.services.iter().map(AsFd::as_fd));
        polled.extend(sockets.chain(others).map(|fd| PollFd::from_borrowed_fd(fd, tells)));
        polled.extend(self.mounts.iter().map(|file| PollFd::new(file, PollFlags::PRI)));
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let ready = poll(&mut polled, Some(&timeout)).is_ok_and(|ready| ready > 0);
        let list = polled.last().filter(|_| self.mounts.is_some());
        self.mounts_changed = ready && list.is_some_and(|list| list.revents().contains(PollFlags::PRI));
    }

    /// What was heard since the last call.
    pub fn hear(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        let mut note = |place| heard.push(Heard { place, by: None });
        if self.audit.as_mut().is_some_and(drain) {
            let told = [
                Place::Audit,
                Place::Mac,
                Place::Xtables,
                Place::Modules,
                Place::Programs,
                Place::Interfaces,
            ];
            told.into_iter().for_each(&mut note);
        }
        if self.modules.as_mut().is_some_and(drain) {
            note(Place::Modules);
        }
        if self.selinux.as_mut().is_some_and(drain) {
            note(Place::Mac);
        }
        if self.links.as_mut().is_some_and(sniffing::hear) {
            note(Place::Listeners);
            note(Place::Interfaces);
        }
        if std::mem::take(&mut self.mounts_changed) {
            note(Place::Mounts);
        }
        if self.services.as_ref().is_some_and(drain_watch) {
            note(Place::Services);
        }
        if let Some(told) = self.firewall.as_mut().map(firewall::hear).filter(|told| told.changed) {
            let by = told.by.map(|(pid, name)| (pid, Some(name)));
            heard.push(Heard { place: Place::Firewall, by });
        }
        heard.extend(self.settings.as_ref().map(written).unwrap_or_default());
        heard
    }
}

/// Reads what waits; whether there was something.
fn drain(socket: &mut Netlink) -> bool {
    let mut any = false;
    loop {
        match socket.receive() {
            Ok(Some(_)) => any = true,
            Ok(None) => break,
            // An overflow: something was missed, so everything may have changed.
            Err(_overflow) => any = true,
        }
    }
    socket.rest();
    any
}

/// Writers of settings. This process writes none.
fn written(group: &WriteGroup) -> Vec<Heard> {
    let mut heard = Vec::new();
    while let Ok(writes) = group.read() {
        if writes.is_empty() {
            break;
        }
        for write in writes {
            let path = std::fs::read_link(format!("/proc/self/fd/{}", raw(&write.file))).unwrap_or_default();
            let selinux = path.as_os_str().as_bytes().ends_with(b"/enforce");
            let place = if selinux { Place::Mac } else { Place::Settings };
            heard.push(Heard { place, by: (write.pid != 0).then_some((write.pid, None)) });
        }
    }
    heard
}

fn raw(file: &File) -> i32 {
    use std::os::fd::AsRawFd as _;
    file.as_raw_fd()
}

/// Control groups of services come and go with their processes.
fn watch_services(root: &Path) -> io::Result<OwnedFd> {
    let Some(slice) = services::slice(root) else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "systemd does not run here"));
    };
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let events = inotify::WatchFlags::CREATE | inotify::WatchFlags::DELETE | inotify::WatchFlags::ONLYDIR;
    inotify::add_watch(&watch, &slice, events)?;
    Ok(watch)
}

fn drain_watch(watch: &OwnedFd) -> bool {
    let mut buffer = [0u8; 4_096];
    let mut any = false;
    while rustix::io::read(watch, &mut buffer).is_ok_and(|length| length > 0) {
        any = true;
    }
    any
}
