//! What is collected for a command, in the order of RFC 3227, 2.1: what is lost first comes first. Each place has its share: who can
//! write to one crowds nothing else out. When time or room is short the bundle ends with what it has, and says so.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::action::{Process, Profile};
use picket_protocol::age::{Recipient, Sealer};
use picket_protocol::evidence::{FORMAT, Head, Sealed, name_of};
use ring::rand::SystemRandom;

use super::bundle::{Bundle, Share, Stopped};
use super::content::Part;
use super::files::{FOLDER, Files};
use super::spool::Spool;
use super::{memory, places, processes, system};
use crate::sys::{DiskPriority, set_disk_priority};

/// How long collecting may take: it yields to all else.
pub(super) const COLLECT_WITHIN: Duration = Duration::from_secs(3_600);

/// What is to be collected, and for whom.
pub(super) struct Collection<'a> {
    pub head: Head,
    pub recipients: &'a [Recipient],
    /// When the process that is named began, in the kernel's ticks.
    pub started: Option<u64>,
    /// The agent's own directory.
    pub own: &'a Path,
    pub spool: &'a Spool,
    pub sealed_max: u64,
}

impl Collection<'_> {
    /// Collects into the spool; gives what the receipt says. What was begun and is not given is to be removed.
    pub fn run(&self, may_go_on: &dyn Fn() -> Result<(), Stopped>) -> Result<Sealed, Stopped> {
        yield_to_all();
        self.spool.has_room()?;
        let sealing = Sealer::begin(self.recipients, &SystemRandom::new()).map_err(std::io::Error::other)?;
        let file = self.spool.create(self.head.command, &sealing.0, sealing.1)?;
        let mut bundle = Bundle::begin(file, &self.head, self.sealed_max, Share::WHOLE, may_go_on)?;
        self.fill(&mut bundle)?;
        let written = bundle.finish()?;
        Ok(Sealed {
            format: FORMAT.to_owned(),
            root: written.root,
            lines: written.lines,
            entries: written.entries,
            plain_bytes: written.plain,
            sealed_bytes: written.sealed.0,
            sealed_sha256: written.sealed.1,
            recipients: self.recipients.to_vec(),
            skipped: written.skipped,
            began: self.head.began,
            ended: crate::clock::now(),
        })
    }

    fn fill(&self, bundle: &mut Bundle<'_>) -> Result<(), Stopped> {
        let mut files = Files::new(self.own);
        if let (Some(Process { pid, .. }), Some(started)) = (&self.head.process, self.started) {
            memory::memory(*pid, started, files.mounts(), bundle)?;
        }
        let (volatile, lasting): (Vec<Profile>, Vec<Profile>) =
            self.head.profiles.iter().partition(|profile| **profile <= Profile::Kernel);
        for profile in volatile {
            bundle.within(profile.name(), Share::ROOT, |bundle| match profile {
                Profile::Processes => processes::take(files.mounts(), bundle),
                Profile::Network => system::network(bundle),
                _ => system::kernel(bundle),
            })?;
        }
        for path in &self.head.paths {
            files.take(Path::new(path), Part::Beginning, true, bundle)?;
        }
        for profile in lasting {
            self::lasting(profile, &mut files, bundle)?;
        }
        bundle.within("leased", Share::ROOT, |bundle| files.leased(bundle))
    }
}

fn lasting(profile: Profile, files: &mut Files, bundle: &mut Bundle<'_>) -> Result<(), Stopped> {
    let part = if places::grows(profile) { Part::End } else { Part::Beginning };
    for path in places::of(profile, files.mounts()) {
        bundle.within(&in_bundle(&path), Share::ROOT, |bundle| files.take(&path, part, false, bundle))?;
    }
    let homes = places::of_homes(profile);
    bundle.within(profile.name(), Share::HOMES, |bundle| {
        homes.iter().try_for_each(|(home, paths)| of_home(home, paths, part, files, bundle))
    })
}

fn of_home(
    home: &Path,
    paths: &[PathBuf],
    part: Part,
    files: &mut Files,
    bundle: &mut Bundle<'_>,
) -> Result<(), Stopped> {
    bundle.within(&in_bundle(home), Share::HOME, |bundle| {
        paths.iter().try_for_each(|path| files.take(path, part, false, bundle))
    })
}

fn in_bundle(path: &Path) -> String {
    name_of(FOLDER, path.as_os_str().as_bytes())
}

/// The calling thread comes after all else from now on.
pub(super) fn yield_to_all() {
    if let Err(error) = set_disk_priority(DiskPriority::Idle) {
        tracing::debug!(%error, "no idle disk priority");
    }
    // 0 means the calling thread.
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::debug!(%error, "no lower processor priority");
    }
}
