//! What is collected for a command, in the order of RFC 3227, 2.1: what is lost first comes first.

use std::path::Path;
use std::time::Duration;

use picket_protocol::action::{Process, Profile};
use picket_protocol::age::{Recipient, Sealer};
use picket_protocol::evidence::{FORMAT, Head, Sealed};
use ring::rand::SystemRandom;

use super::bundle::{Bundle, Stopped};
use super::files::{Files, Part};
use super::spool::Spool;
use super::{places, processes, system};
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
        let mut bundle = Bundle::begin(file, &self.head, self.sealed_max, may_go_on)?;
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
        if let (Some(Process { pid, .. }), Some(started)) = (&self.head.process, self.started) {
            processes::memory(*pid, started, bundle)?;
        }
        let mut files = Files::new(self.own);
        let (volatile, lasting): (Vec<Profile>, Vec<Profile>) =
            self.head.profiles.iter().partition(|profile| **profile <= Profile::Kernel);
        for profile in volatile {
            match profile {
                Profile::Processes => processes::take(bundle)?,
                Profile::Network => system::network(bundle)?,
                _ => system::kernel(bundle)?,
            }
        }
        for path in &self.head.paths {
            files.take(Path::new(path), Part::Beginning, true, bundle)?;
        }
        for profile in lasting {
            let part = if places::grows(profile) { Part::End } else { Part::Beginning };
            places::of(profile).iter().try_for_each(|path| files.take(path, part, false, bundle))?;
        }
        Ok(())
    }
}

fn yield_to_all() {
    if let Err(error) = set_disk_priority(DiskPriority::Idle) {
        tracing::debug!(%error, "no idle disk priority");
    }
    // 0 means the calling thread.
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::debug!(%error, "no lower processor priority");
    }
}
