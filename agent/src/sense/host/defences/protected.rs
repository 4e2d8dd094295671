//! Reads the flags `immutable` and `append-only` of the files that are most often protected by them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use crate::detect::defences::immutable::Flags;

/// Files and directories that administrators protect; what does not exist is passed over.
const PATHS: [&str; 34] = [
    "etc",
    "etc/passwd",
    "etc/shadow",
    "etc/group",
    "etc/gshadow",
    "etc/sudoers",
    "etc/sudoers.d",
    "etc/ssh",
    "etc/ssh/sshd_config",
    "etc/resolv.conf",
    "etc/hosts",
    "etc/fstab",
    "etc/crontab",
    "etc/ld.so.preload",
    "etc/ld.so.conf",
    "etc/profile",
    "etc/securetty",
    "etc/sysctl.conf",
    "etc/audit/audit.rules",
    "etc/audit/auditd.conf",
    "etc/picket",
    "etc/picket/agent.toml",
    "boot",
    "usr/bin",
    "usr/sbin",
    "root/.ssh",
    "root/.ssh/authorized_keys",
    "root/.bash_history",
    "var/log",
    "var/log/auth.log",
    "var/log/secure",
    "var/log/syslog",
    "var/log/messages",
    "var/log/audit/audit.log",
];

/// The flags of those that have one. What lies beneath one of `trees` is the file sensor's.
///
/// # Errors
/// `Unsupported` on a kernel that does not tell (before 4.11).
pub fn read(root: &Path, trees: &[PathBuf]) -> io::Result<BTreeMap<String, Flags>> {
    let mut found = BTreeMap::new();
    let (mut told, mut seen) = (false, false);
    let ours = |path: &PathBuf| !trees.iter().any(|tree| path.starts_with(tree));
    for path in PATHS.iter().map(|path| root.join(path)).filter(ours) {
        let Ok(stat) = statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) else { continue };
        let has = |flag: StatxAttributes| stat.stx_attributes.contains(flag);
        seen = true;
        told |= stat.stx_attributes_mask.contains(StatxAttributes::IMMUTABLE);
        let flags =
            Flags { immutable: has(StatxAttributes::IMMUTABLE), append_only: has(StatxAttributes::APPEND) };
        if flags != Flags::default() {
            found.insert(path.to_string_lossy().into_owned(), flags);
        }
    }
    if seen && !told {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this file system does not tell of such flags",
        ));
    }
    Ok(found)
}
