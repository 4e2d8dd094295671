//! Extended attributes of an object, in the few bytes that the baseline has room for.
//!
//! What is small and tells something is kept as it is: file capabilities, access lists, the label of a mandatory
//! access control. Of all others a digest is kept: that they changed is known, not what they were. The attributes
//! that an overlay file system keeps for itself are passed over.
//!
//! **Form** (in the baseline): entries of a tag byte, a length byte and so many bytes, in ascending order of tags.
//! A value that is longer than `KEPT_BYTES_MAX` is kept as its digest, with `DIGESTED` added to the tag.

use std::os::fd::{AsFd, AsRawFd as _};
use std::path::PathBuf;

use ring::digest;
use rustix::io::Errno;

/// Longest value that is kept as it is.
const KEPT_BYTES_MAX: usize = 96;
/// Bytes of a digest that are kept.
const DIGEST_BYTES: usize = 16;
/// Longest list of names, and longest value, that the kernel gives (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const KERNEL_BYTES_MAX: usize = 64 * 1024;
/// Added to the tag of a value that is kept as a digest.
const DIGESTED: u8 = 0x80;
/// The ordinary ends of a label on a host with SELinux; what is between is kept.
const LABEL_ENDS: (&[u8], &[u8]) = (b"system_u:object_r:", b":s0");

const CAPABILITY: u8 = 1;
const ACCESS_LIST: u8 = 2;
const DEFAULT_LIST: u8 = 3;
const LABEL: u8 = 4;
const OTHERS: u8 = 5;
const UNREADABLE: u8 = 6;

/// See the module. Equal when nothing tells that the attributes differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Extended(Option<Box<[u8]>>);

impl Extended {
    /// From the baseline.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self((!bytes.is_empty()).then(|| bytes.into()))
    }

    /// For the baseline; empty when the object has none.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether the object has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// `security.capability` as the kernel keeps it (`struct vfs_cap_data`), or a digest of it if it is longer than
    /// any version of that.
    pub fn capability(&self) -> Option<&[u8]> {
        self.value(CAPABILITY)
    }

    /// `system.posix_acl_access`, or its digest when it is long.
    pub fn access_list(&self) -> Option<&[u8]> {
        self.value(ACCESS_LIST)
    }

    /// `system.posix_acl_default`, or its digest when it is long.
    pub fn default_list(&self) -> Option<&[u8]> {
        self.value(DEFAULT_LIST)
    }

    /// The label (`security.selinux`, `security.SMACK64`, `security.apparmor`): of an ordinary label of SELinux
    /// only the type (`bin_t`).
    pub fn label(&self) -> Option<&[u8]> {
        self.value(LABEL)
    }

    /// Digest of the names and values of all others.
    pub fn others(&self) -> Option<&[u8]> {
        self.value(OTHERS)
    }

    /// Nobody looked.
    pub fn unknown() -> Self {
        Self::of(Parts { unreadable: true, ..Parts::default() })
    }

    /// Some attributes could not be read: their absence here says nothing.
    pub fn is_unreadable(&self) -> bool {
        self.value(UNREADABLE).is_some()
    }

    fn value(&self, wanted: u8) -> Option<&[u8]> {
        let mut rest = self.as_bytes();
        while let [tag, length, tail @ ..] = rest {
            let (value, after) = tail.split_at_checked((*length).into())?;
            if tag & !DIGESTED == wanted {
                return Some(value);
            }
            rest = after;
        }
        None
    }

    /// Those of an open object; `fd` may be a path only (`O_PATH`) when `by_path` says so.
    pub fn read(fd: impl AsFd, by_path: bool) -> Self {
        // What is open as a path only answers to its name in /proc alone.
        let way = by_path.then(|| PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())));
        let list = |buffer: &mut [u8]| match &way {
            Some(path) => rustix::fs::listxattr(path, buffer),
            None => rustix::fs::flistxattr(&fd, buffer),
        };
        let mut names = [0; 256];
        match list(&mut names) {
            Ok(0) | Err(Errno::NOTSUP | Errno::NOENT) => Self::default(),
            Ok(length) => Self::gather(names.get(..length).unwrap_or_default(), &fd, way.as_deref()),
            Err(Errno::RANGE) => {
                let mut names = vec![0; KERNEL_BYTES_MAX];
                match list(&mut names) {
                    Ok(length) => Self::gather(names.get(..length).unwrap_or_default(), &fd, way.as_deref()),
                    Err(_) => Self::of(Parts { unreadable: true, ..Parts::default() }),
                }
            }
            Err(_) => Self::of(Parts { unreadable: true, ..Parts::default() }),
        }
    }

    fn gather(names: &[u8], fd: &impl AsFd, way: Option<&std::path::Path>) -> Self {
        let mut parts = Parts::default();
        let mut names: Vec<&[u8]> = names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        for name in names.into_iter().filter(|name| !is_bookkeeping(name)) {
            match read_value(name, fd, way) {
                Ok(value) => parts.take(name, value),
                // Removed meanwhile: its removal is a change of its own.
                Err(Errno::NODATA) => {}
                Err(_) => parts.unreadable = true,
            }
        }
        Self::of(parts)
    }

    fn of(parts: Parts) -> Self {
        let mut bytes = Vec::new();
        for (tag, value) in parts.kept {
            push(&mut bytes, tag, &value);
        }
        if let Some(others) = parts.others {
            push(&mut bytes, OTHERS, others.finish().as_ref().get(..DIGEST_BYTES).unwrap_or_default());
        }
        if parts.unreadable {
            push(&mut bytes, UNREADABLE, &[]);
        }
        Self::from_bytes(&bytes)
    }
}

#[derive(Default)]
struct Parts {
    kept: std::collections::BTreeMap<u8, Vec<u8>>,
    others: Option<digest::Context>,
    unreadable: bool,
}

impl Parts {
    fn take(&mut self, name: &[u8], value: Vec<u8>) {
        let tag = match name {
            b"security.capability" => CAPABILITY,
            b"system.posix_acl_access" => ACCESS_LIST,
            b"system.posix_acl_default" => DEFAULT_LIST,
            b"security.selinux" | b"security.SMACK64" | b"security.apparmor" => LABEL,
            _ => {
                let others = self.others.get_or_insert_with(|| digest::Context::new(&digest::SHA256));
                others.update(name);
                others.update(&[0]);
                others.update(&value.len().to_le_bytes());
                others.update(&value);
                return;
            }
        };
        let value = if tag == LABEL { short_label(&value).to_vec() } else { value };
        self.kept.insert(tag, value);
    }
}

/// What an overlay keeps for itself changes without anybody's doing.
fn is_bookkeeping(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

fn short_label(label: &[u8]) -> &[u8] {
    let label = label.strip_suffix(&[0]).unwrap_or(label);
    label.strip_prefix(LABEL_ENDS.0).and_then(|rest| rest.strip_suffix(LABEL_ENDS.1)).unwrap_or(label)
}

fn push(bytes: &mut Vec<u8>, tag: u8, value: &[u8]) {
    if value.len() <= KEPT_BYTES_MAX {
        bytes.extend([tag, u8::try_from(value.len()).unwrap_or(u8::MAX)]);
        bytes.extend(value);
    } else {
        let digest = digest::digest(&digest::SHA256, value);
        push(bytes, tag | DIGESTED, digest.as_ref().get(..DIGEST_BYTES).unwrap_or_default());
    }
}

fn read_value(name: &[u8], fd: &impl AsFd, way: Option<&std::path::Path>) -> Result<Vec<u8>, Errno> {
    let read = |buffer: &mut [u8]| match way {
        Some(path) => rustix::fs::getxattr(path, name, buffer),
        None => rustix::fs::fgetxattr(fd, name, buffer),
    };
    let mut small = [0; 256];
    match read(&mut small) {
        Ok(length) => Ok(small.get(..length).unwrap_or_default().to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; KERNEL_BYTES_MAX];
            let length = read(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{XattrFlags, fsetxattr};

    use super::*;

    fn of(pairs: &[(&str, &[u8])]) -> Extended {
        let mut parts = Parts::default();
        pairs.iter().for_each(|(name, value)| parts.take(name.as_bytes(), value.to_vec()));
        Extended::of(parts)
    }

    #[test]
    fn what_tells_something_is_kept_as_it_is_and_the_rest_as_a_digest() {
        let found = of(&[
            ("security.capability", b"cap"),
            ("security.selinux", b"system_u:object_r:bin_t:s0\0"),
            ("system.posix_acl_access", &[7; 300]),
            ("user.note", b"one"),
        ]);
        assert_eq!(found.capability(), Some(&b"cap"[..]));
        assert_eq!(found.label(), Some(&b"bin_t"[..]));
        assert_eq!(found.access_list().map(<[u8]>::len), Some(DIGEST_BYTES));
        assert_eq!(found.default_list(), None);
        assert_eq!(Extended::from_bytes(found.as_bytes()), found);
        let other = of(&[("user.note", b"two")]);
        assert_ne!(other.others(), found.others());
        assert!(other.as_bytes().len() < 20 && of(&[]).is_empty());
    }

    #[test]
    fn an_uncommon_label_is_kept_whole() {
        let label = b"staff_u:object_r:user_home_t:s0:c1";
        assert_eq!(of(&[("security.selinux", label)]).label(), Some(&label[..]));
    }

    #[test]
    fn both_ways_to_a_file_give_the_same() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().join("file");
        let file = File::create(&path).unwrap();
        assert!(Extended::read(&file, false).is_empty());
        fsetxattr(&file, "user.large", &[1; 700], XattrFlags::empty()).unwrap();
        let before = Extended::read(&file, false);
        assert!(before.others().is_some() && !before.is_unreadable());
        let only_path = super::super::place::open(&path.canonicalize().unwrap(), rustix::fs::OFlags::PATH);
        assert_eq!(Extended::read(only_path.unwrap(), true), before);
        fsetxattr(&file, "user.large", &[2; 700], XattrFlags::empty()).unwrap();
        assert_ne!(Extended::read(&file, false), before);
    }

    proptest::proptest! {
        #[test]
        fn a_damaged_row_is_read_without_harm(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            let extended = Extended::from_bytes(&bytes);
            let _all = (extended.capability(), extended.label(), extended.others(), extended.is_unreadable());
        }
    }
}
