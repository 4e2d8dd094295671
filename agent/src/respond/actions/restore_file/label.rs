//! The label of a mandatory access control that a file is put back with.
//!
//! Where the change relabelled the file, that is undone with it. What is not known of the former label is left to the directory, whose
//! default applies to a new file. A label that was changed after the finding stays.

use super::access::Access;
use super::wanted::{Told, Wanted};
use crate::respond::receipt::safe;

const SELINUX: &[u8] = b"security.selinux";
/// Attributes that are labels, as the file sensor knows them.
const LABELS: [&[u8]; 3] = [SELINUX, b"security.SMACK64", b"security.apparmor"];

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// As it is on the file that is there.
    Stays,
    /// The same, since it is another than the finding tells of.
    Later,
    /// This, as the finding has it.
    Back(Vec<u8>),
    /// What the directory gives; with what it was before, if that is known.
    Directory(Option<Vec<u8>>),
}

impl Label {
    /// Of a file in place of what is there, if anything is.
    pub fn of(wanted: &Wanted, present: Option<&Access>) -> Self {
        let Told::Was(was) = &wanted.label else { return Self::Stays };
        let Some(present) = present else {
            return was.clone().map_or(Self::Stays, |was| Self::Directory(Some(was)));
        };
        if wanted.came.as_ref().is_some_and(|came| came.label != present.label) {
            return Self::Later;
        }
        match was {
            Some(was) if present.label.is_some() => Self::Back(was.clone()),
            was => Self::Directory(was.clone()),
        }
    }

    /// What is said of it.
    pub fn remark(&self) -> Option<String> {
        let shown = |label: &[u8]| safe(&String::from_utf8_lossy(label));
        match self {
            Self::Stays => None,
            Self::Later => Some("Its label was changed since the finding, and stays.".to_owned()),
            Self::Back(was) => Some(format!("Its label is {} again.", shown(was))),
            Self::Directory(Some(was)) => {
                Some(format!("Its label is what its directory gives; it was {} before.", shown(was)))
            }
            Self::Directory(None) => {
                Some("Its label is what its directory gives: what it was is not known.".to_owned())
            }
        }
    }

    /// Puts it into the attributes of the file that is there.
    pub fn put_into(&self, attributes: &mut Vec<(Vec<u8>, Vec<u8>)>) {
        let is_label = |name: &[u8]| LABELS.contains(&name);
        match self {
            Self::Stays | Self::Later => {}
            Self::Directory(_) => attributes.retain(|(name, _)| !is_label(name)),
            Self::Back(was) => {
                for (name, value) in attributes.iter_mut().filter(|(name, _)| is_label(name)) {
                    *value = whole(name, was);
                }
            }
        }
    }
}

/// As the kernel keeps it: of an ordinary one of SELinux the finding has the type only.
fn whole(name: &[u8], label: &[u8]) -> Vec<u8> {
    match (name == SELINUX, label.contains(&b':')) {
        (false, _) => label.to_vec(),
        (true, true) => [label, b"\0"].concat(),
        (true, false) => [b"system_u:object_r:", label, b":s0\0"].concat(),
    }
}
