//! `restore-file` by a finding: a file holds again what it held before the change, or the removal, that the finding tells of.
//!
//! **Promise.** The content is the before-image that the file sensor kept, checked by its SHA-256; owner, mode, access list and
//! capabilities are what the finding says they were, immutable and append-only where the change touched them; other attributes
//! are those of the file that is there, and a label that the change gave it is undone (`label.rs`). A later change is never overwritten: what
//! stands there must be, to the last byte, and with the rights, access list, capabilities and guards, what the finding says came after, and
//! for a removal nothing, when it is examined and again when it is replaced (`exchange.rs`). The path is followed through no symbolic link. After a crash the one content or the other is there, whole.
//!
//! What is replaced is kept by the sensor as any other text is, so that the finding about this act, which names the command as
//! its cause, takes it back in the same way. Where it is not kept (no text, or too long) the plan and the receipt say so.
//!
//! A file that `quarantine-file` keeps in its vault, as the finding says it became, may be followed by what it was before: what
//! came is evidence there, and stays there.
//!
//! **Limits.** What is replaced has at most 64 MiB. Never the agent's own files, those that say who may log in, and those that the host
//! boots by; of what people could not log in without, no change that somebody accounts for (`wanted.rs`). Files of one name only.
//! Programs that have the file open keep what they have. Times are those of the restore. Of a finding that tells of several files the
//! first is meant.

use std::fs::File;
use std::path::{Path, PathBuf};

use picket_protocol::crypto::{Hash, hex, sha256};
use picket_protocol::finding::Finding;
use picket_protocol::record::Record;
use rustix::fs::IFlags;
use serde_json::{Value, json};
use uuid::Uuid;

use self::access::Access;
use self::exchange::{ACCESS_LIST, New, Old};
use self::label::Label;
pub use self::note::Cleared;
use self::wanted::{Told, Wanted};
use super::quarantine_file::{answers, hash, is_own, open_within};
use super::vault::{KEPT_FLAGS, is_absent, parent_of};
use super::{Plan, Surroundings, attributes};
use crate::detect::files::path_text;
use crate::ledger::Reader;
use crate::respond::lease_break;
use crate::respond::own_acts::OwnActs;
use crate::respond::preserve::is_mount_point;
use crate::respond::receipt::safe;
use crate::sense::files::images::Images;
use crate::sense::files::place;

mod access;
mod exchange;
mod label;
mod note;
mod wanted;

const CAPABILITY: &[u8] = b"security.capability";
/// Attributes that belong to one content or one inode, and that the kernel gives anew.
const BOUND: [&[u8]; 2] = [b"security.ima", b"security.evm"];

/// Largest file that is replaced: it is read again while the keeper waits.
const REPLACED_BYTES_MAX: u64 = 64 << 20;

/// Path and SHA-256, in hex, of what a quarantine in force keeps.
pub type Held = (PathBuf, String);

/// What is there and is replaced, open since it was examined, and who might do what with it then.
#[derive(Debug)]
struct Present {
    file: File,
    access: Access,
}

/// A file that may be put back, examined.
#[derive(Debug)]
pub struct Restore {
    finding: Uuid,
    wanted: Wanted,
    text: Vec<u8>,
    /// What is there and is replaced.
    present: Option<Present>,
    /// Whether what is replaced is kept as well.
    is_kept: bool,
    core: PathBuf,
}

impl Restore {
    /// Examines it; changes nothing. That takes as long as a lease on the file may last, and the reading of it.
    ///
    /// # Errors
    /// Why it is not put back, where, and what to do.
    pub fn prepare(
        finding: Uuid,
        database: &Path,
        held: &[Held],
        surroundings: &Surroundings,
    ) -> Result<Self, String> {
        let found = find(finding, database)?;
        let wanted = Wanted::of(&found)?;
        wanted.may_go_back(&found)?;
        if let Some(why) = is_own(&wanted.path, surroundings) {
            return Err(format!("{} is {why}", wanted.shown()));
        }
        let images = Images::open_existing(database)
            .map_err(|error| format!("the before-images cannot be read: {error}"))?;
        let is_it = |text: &Vec<u8>| sha256(&[text]) == wanted.before;
        let text = images.get(&wanted.before).filter(is_it).ok_or_else(|| wanted.missing_image())?;
        let is_kept = wanted.after.is_none_or(|after| images.get(&after).is_some());
        Self::examine(finding, wanted, (text, is_kept), held, &surroundings.core)
    }

    /// Looks at what is there.
    fn examine(
        finding: Uuid,
        mut wanted: Wanted,
        (text, mut is_kept): (Vec<u8>, bool),
        held: &[Held],
        core: &Path,
    ) -> Result<Self, String> {
        let shown = wanted.shown();
        let holds = |wanted: &Wanted, content: Hash| held.contains(&(wanted.path.clone(), hex(&content)));
        if holds(&wanted, wanted.before) {
            return Err(format!(
                "{shown} is in quarantine with that content: restore-file --command gives it back"
            ));
        }
        answers(&wanted.path)?;
        let failed = |error: std::io::Error| match error.raw_os_error() {
            Some(libc::ELOOP) => format!("the way to {shown} goes through a symbolic link"),
            Some(libc::ENOENT | libc::ENOTDIR) => format!("the directory of {shown} is not there any more"),
            _ => format!("{shown} cannot be looked at: {error}"),
        };
        // The whole way first: a directory that is a link by now would be told as none.
        let is_there = match place::open(&wanted.path, rustix::fs::OFlags::PATH) {
            Ok(_) => true,
            Err(error) if is_absent(&error) && error.raw_os_error() != Some(libc::ELOOP) => false,
            Err(error) => return Err(failed(error)),
        };
        let (parent, _) = parent_of(&wanted.path).map_err(failed)?;
        let mounted = is_mount_point(&wanted.path).then_some("it is mounted there by itself");
        if let Some(why) = mounted.or_else(|| attributes::is_closed(&File::from(parent))) {
            return Err(format!("{shown} cannot be put back: {why}"));
        }
        let present = match wanted.after {
            Some(after) if is_there => Some(Present::open(&wanted, after, finding)?),
            None if is_there => {
                return Err(format!(
                    "{shown} is there again, and finding {finding} tells of its removal: what is there stays"
                ));
            }
            Some(after) if !holds(&wanted, after) => {
                return Err(format!("{shown} is not there any more: order it by the finding of its removal"));
            }
            // What came is kept in the vault, and an attribute that is not known whole with it.
            _ if wanted.after.is_some() && wanted.access_list == Told::Unchanged => {
                return Err(format!("the access list of {shown} is not known whole: mend it in place"));
            }
            _ => {
                (wanted.after, is_kept) = (None, true);
                None
            }
        };
        Ok(Self { finding, wanted, text, present, is_kept, core: core.to_owned() })
    }

    /// What it would change.
    pub fn plan(&self) -> Plan {
        let (shown, finding) = (self.wanted.shown(), self.finding);
        let rights = self.wanted.rights;
        let mut lines = vec![format!(
            "{shown} holds again what it held before finding {finding}: {} bytes, mode {:04o}, owner {}:{}.",
            self.text.len(),
            rights.mode,
            rights.uid,
            rights.gid
        )];
        lines.extend(self.remarks());
        Plan { lines, data: self.detail() }
    }

    fn label(&self) -> Label {
        Label::of(&self.wanted, self.present.as_ref().map(|present| &present.access))
    }

    fn remarks(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.label().remark().into_iter().collect();
        if !self.is_kept {
            lines.push("What it replaces is no text that is kept, and cannot be put back.".to_owned());
        }
        if self.wanted.others > 0 {
            lines.push(format!(
                "The finding tells of {} more objects: they stay as they are.",
                self.wanted.others
            ));
        }
        lines
    }

    fn detail(&self) -> Value {
        let rights = self.wanted.rights;
        json!({
            "finding": self.finding,
            "path": path_text(&self.wanted.path),
            "sha256_before": self.wanted.after.map(|after| hex(&after)),
            "sha256_after": hex(&self.wanted.before),
            "bytes": self.text.len(),
            "mode": format!("{:04o}", rights.mode),
            "uid": rights.uid,
            "gid": rights.gid,
            "replaced_is_kept": self.is_kept,
        })
    }

    /// Puts it back, by the command `id`, or the act of a step; the sensors are told of it when it is done.
    ///
    /// # Errors
    /// It is as it was, and why.
    pub fn put_back(&self, id: Uuid, acts: &OwnActs) -> Result<(String, Value), String> {
        let (path, shown) = (self.wanted.path.as_path(), self.wanted.shown());
        answers(path)?;
        let new = self.new_file().map_err(|error| format!("{shown} cannot be looked at: {error}"))?;
        let present = self.present.as_ref().zip(self.wanted.after);
        let old =
            present.map(|(present, sha256)| Old { file: &present.file, access: &present.access, sha256 });
        let (before, after) = (self.wanted.after, Some(self.wanted.before));
        let noted = acts.file_with_rights(id, "restore-file", path, before, after, self.wanted.rights);
        let left = match exchange::put(&self.core, id, path, &new, old) {
            Ok(left) => left,
            Err(why) => {
                acts.withdraw_file(noted);
                return Err(format!("{shown}: {why}"));
            }
        };
        acts.look(path);
        let mut words = vec![format!("{shown} holds again what it held before finding {}.", self.finding)];
        words.extend(self.remarks());
        words.extend(left.iter().map(|left| format!("But {}.", safe(left))));
        let mut detail = self.detail();
        if let Some(members) = detail.as_object_mut().filter(|_| !left.is_empty()) {
            members.insert("left".to_owned(), json!(left));
        }
        Ok((words.join(" "), detail))
    }

    fn new_file(&self) -> std::io::Result<New> {
        let (mut attributes, flags) = match &self.present {
            Some(Present { file, .. }) => {
                let flags = rustix::fs::ioctl_getflags(file).unwrap_or(IFlags::empty());
                (attributes::read(file)?, flags & KEPT_FLAGS)
            }
            None => (Vec::new(), IFlags::empty()),
        };
        attributes.retain(|(name, _)| !BOUND.contains(&name.as_slice()) && !is_overlays(name));
        for (name, told) in
            [(ACCESS_LIST.as_bytes(), &self.wanted.access_list), (CAPABILITY, &self.wanted.capability)]
        {
            if let Told::Was(value) = told {
                attributes.retain(|(own, _)| own != name);
                attributes.extend(value.iter().map(|value| (name.to_vec(), value.clone())));
            }
        }
        self.label().put_into(&mut attributes);
        let guards = IFlags::IMMUTABLE | IFlags::APPEND;
        let flags = self.wanted.guards.map_or(flags, |before| (flags - guards) | before);
        let (text, sha256, rights) = (self.text.clone(), self.wanted.before, self.wanted.rights);
        Ok(New { text, sha256, rights, attributes, flags })
    }
}

/// Clears what crashes left of putting files back.
pub fn clear_leftover(core: &Path) -> Cleared {
    note::clear_all(core)
}

impl Present {
    /// What is there, when it is what came after, as the finding tells it.
    fn open(wanted: &Wanted, after: Hash, finding: Uuid) -> Result<Self, String> {
        let (file, shown) = (open(&wanted.path, after, finding)?, wanted.shown());
        let access = Access::of(&file).map_err(|error| format!("{shown}: {error}"))?;
        match wanted.came.as_ref().and_then(|came| came.changed(&access)) {
            None => Ok(Self { file, access }),
            Some(what) => Err(format!(
                "the rights of {shown} were changed since finding {finding}, and stay: {what}; put them back first, or mend the file in \
                 place"
            )),
        }
    }
}

/// What an overlay file system keeps for itself.
fn is_overlays(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// The finding, from this host's own ledger.
fn find(id: Uuid, database: &Path) -> Result<Finding, String> {
    let failed = |error: crate::ledger::LedgerError| format!("the ledger cannot be read: {error}");
    let reader = Reader::open(database).map_err(failed)?;
    let found = reader.findings_named(&id.to_string(), 1).map_err(failed)?;
    let none = || format!("this host has no finding {id}, or its record is no longer kept");
    let record = found.first().ok_or_else(none)?;
    let finding = Record::parse(&record.bytes).ok().and_then(|record| record.body::<Finding>().ok());
    finding.filter(|finding| finding.id == id).ok_or_else(none)
}

/// The file that is there, when it is what came after.
fn open(path: &Path, after: Hash, finding: Uuid) -> Result<File, String> {
    let mut file = open_within(path, lease_break::within())?;
    let shown = safe(&path.to_string_lossy());
    let metadata = file.metadata().map_err(|error| format!("{shown}: {error}"))?;
    let names = std::os::unix::fs::MetadataExt::nlink(&metadata);
    if names != 1 {
        return Err(format!("{shown} has {names} names (hard links): the others would stay as they are"));
    }
    if metadata.len() > REPLACED_BYTES_MAX {
        let bytes = metadata.len();
        return Err(format!(
            "{shown} has {bytes} bytes, and up to {REPLACED_BYTES_MAX} are replaced: quarantine-file it first, and order this again"
        ));
    }
    let found = hash(&mut file)?;
    if found == hex(&after) {
        return Ok(file);
    }
    Err(format!(
        "{shown} was changed again since finding {finding}, and stays: its content is {found}, not {}; order it by the newest finding \
         about it",
        hex(&after)
    ))
}

#[cfg(test)]
mod tests;
