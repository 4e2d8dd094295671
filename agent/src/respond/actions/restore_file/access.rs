//! Who may do what with a file, as a finding tells it and as it is: what was changed since by its owner is not overwritten.

use std::fs::File;
use std::io;

use picket_protocol::crypto::from_hex;
use rustix::fs::{IFlags, fstat, ioctl_getflags};

use super::wanted;
use crate::detect::files::ObjectFacts;
use crate::respond::own_acts::Rights;
use crate::respond::receipt::safe;
use crate::sense::files::extended::Extended;

/// Attributes in the short form that the baseline and findings have: of a long one its digest, of an ordinary label the type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub rights: Rights,
    /// Immutable and append-only.
    pub guards: IFlags,
    pub access_list: Option<Vec<u8>>,
    pub capability: Option<Vec<u8>>,
    pub label: Option<Vec<u8>>,
}

impl Access {
    /// As a finding has it.
    ///
    /// # Errors
    /// What in it is none.
    pub fn told(facts: &ObjectFacts) -> Result<Self, String> {
        let bytes = |value: &Option<String>| {
            let read = |value: &String| {
                from_hex(value).ok_or_else(|| format!("the finding's attribute {} is none", safe(value)))
            };
            value.as_ref().map(read).transpose()
        };
        Ok(Self {
            rights: wanted::rights(facts)?,
            guards: wanted::guards(facts),
            access_list: bytes(&facts.access_list)?,
            capability: bytes(&facts.capability)?,
            label: facts.label.as_ref().map(picket_protocol::finding::Text::to_bytes),
        })
    }

    /// As it is.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(file: &File) -> io::Result<Self> {
        let (stat, extended) = (fstat(file)?, Extended::read(file, false));
        Ok(Self {
            rights: Rights { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid },
            guards: guards_of(file),
            access_list: extended.access_list().map(<[u8]>::to_vec),
            capability: extended.capability().map(<[u8]>::to_vec),
            label: extended.label().map(<[u8]>::to_vec),
        })
    }

    /// Whether it is still so, but for the guards, which are taken off to replace a file.
    pub fn is_still_on(&self, file: &File) -> bool {
        Self::of(file).is_ok_and(|now| Self { guards: self.guards, ..now } == *self)
    }

    /// What is otherwise `now`, in words. A label is not among it: a later one stays.
    pub fn changed(&self, now: &Self) -> Option<String> {
        let (was, is) = (self.rights, now.rights);
        if was != is {
            return Some(format!(
                "its mode is {:04o} and its owner {}:{}, not {:04o} and {}:{}",
                is.mode, is.uid, is.gid, was.mode, was.uid, was.gid
            ));
        }
        let checks = [
            (self.guards != now.guards, "whether it is immutable or append-only (lsattr)"),
            (self.access_list != now.access_list, "its access list (getfacl)"),
            (self.capability != now.capability, "its capabilities (getcap)"),
        ];
        checks.into_iter().find(|(differs, _)| *differs).map(|(_, what)| format!("{what} is otherwise"))
    }
}

/// Immutable and append-only, as they are set. Not every file system has such flags.
pub(super) fn guards_of(file: &File) -> IFlags {
    let guards = IFlags::IMMUTABLE | IFlags::APPEND;
    ioctl_getflags(file).map_or(IFlags::empty(), |flags| flags & guards)
}
