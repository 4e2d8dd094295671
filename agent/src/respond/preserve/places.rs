//! Where the kinds of evidence lie that are files. A `*` stands for within one name; what is not there is passed over.

use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use picket_protocol::action::Profile;

use super::mounts::{Kind, Mounts};
use crate::layout::read_file;

/// Longest `/etc/passwd` that is read for homes.
const PASSWD_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Homes that are looked at.
const HOMES_MAX: usize = 4_096;
/// What one `*` may stand for.
const MATCHES_MAX: usize = 4_096;

/// Who came and went.
const LOGINS: &[&str] = &[
    "/run/utmp",
    "/var/log/wtmp*",
    "/var/log/btmp*",
    "/var/log/lastlog",
    "/var/log/faillog",
    "/var/log/wtmp.db",
    "/var/lib/wtmpdb/wtmp.db",
    "/var/lib/lastlog/lastlog2.db",
    "/var/log/audit",
];

/// Below each home.
const HISTORIES: &[&str] = &[
    ".bash_history",
    ".zsh_history",
    ".sh_history",
    ".ash_history",
    ".ksh_history",
    ".history",
    ".local/share/fish/fish_history",
    ".python_history",
    ".mysql_history",
    ".psql_history",
    ".rediscli_history",
    ".lesshst",
    ".viminfo",
    ".wget-hsts",
];

/// What is started by itself, and who is let in.
const PERSISTENCE: &[&str] = &[
    "/etc/passwd",
    "/etc/group",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/doas.conf",
    "/etc/pam.d",
    "/etc/security",
    "/etc/ssh/sshd_config",
    "/etc/ssh/sshd_config.d",
    "/etc/ssh/ssh_config",
    "/etc/crontab",
    "/etc/cron*",
    "/etc/anacrontab",
    "/var/spool/cron",
    "/var/spool/at",
    "/var/spool/anacron",
    "/etc/systemd",
    "/run/systemd/system",
    "/run/systemd/generator*",
    "/run/systemd/transient",
    "/usr/local/lib/systemd",
    "/etc/init.d",
    "/etc/rc.local",
    "/etc/rc*.d",
    "/etc/inittab",
    "/etc/ld.so.preload",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/environment",
    "/etc/profile",
    "/etc/profile.d",
    "/etc/bash.bashrc",
    "/etc/zsh",
    "/etc/modules",
    "/etc/modules-load.d",
    "/etc/modprobe.d",
    "/etc/udev/rules.d",
    "/etc/xdg/autostart",
    "/etc/update-motd.d",
    "/etc/apt/apt.conf.d",
    "/etc/dpkg/dpkg.cfg.d",
    "/etc/yum/pluginconf.d",
    "/etc/NetworkManager/dispatcher.d",
    "/etc/network/if-*.d",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
];

/// Below each home: the home's share goes to single files first.
const PERSISTENCE_OF_USERS: &[&str] = &[
    ".ssh/authorized_keys",
    ".ssh/authorized_keys2",
    ".ssh/config",
    ".ssh/known_hosts",
    ".ssh/rc",
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".bash_logout",
    ".profile",
    ".zshrc",
    ".zshenv",
    ".zprofile",
    ".config/fish/config.fish",
    ".pam_environment",
    ".config/systemd/user",
    ".config/autostart",
];

/// Files and directories of a profile that belong to the host; none of those profiles that are no files.
pub(super) fn of(profile: Profile, mounts: &Mounts) -> Vec<PathBuf> {
    let globs: &[&str] = match profile {
        Profile::Processes | Profile::Network | Profile::Kernel | Profile::Histories => &[],
        Profile::Logins => LOGINS,
        Profile::Persistence => PERSISTENCE,
        Profile::Journal => &["/run/log/journal", "/var/log/journal"],
        Profile::Logs => &["/var/log"],
    };
    globs.iter().flat_map(|glob| expand(glob, mounts)).collect()
}

/// Homes, each with what a profile takes below it.
pub(super) fn of_homes(profile: Profile) -> Vec<(PathBuf, Vec<PathBuf>)> {
    let names = match profile {
        Profile::Histories => HISTORIES,
        Profile::Persistence => PERSISTENCE_OF_USERS,
        _ => return Vec::new(),
    };
    let below = |home: &Path| names.iter().map(|name| home.join(name)).collect();
    homes().into_iter().map(|home| (home.clone(), below(&home))).collect()
}

/// Whether what is there only grows, so that its end is worth more than its beginning.
pub(super) fn grows(profile: Profile) -> bool {
    matches!(profile, Profile::Logins | Profile::Journal | Profile::Logs)
}

/// Homes of the accounts of this host, each once, in order.
fn homes() -> Vec<PathBuf> {
    let passwd = read_file(Path::new("/etc/passwd"), PASSWD_BYTES_MAX).unwrap_or_default();
    let home = |line: &[u8]| line.split(|byte| *byte == b':').nth(5).map(<[u8]>::to_vec);
    let homes = passwd.split(|byte| *byte == b'\n').filter_map(home);
    let mut homes: Vec<PathBuf> = homes
        .map(|home| PathBuf::from(std::ffi::OsString::from_vec(home)))
        // Services have such homes; what lies there belongs to other kinds.
        .filter(|home| {
            home.is_absolute()
                && !["/", "/bin", "/dev", "/usr/sbin", "/nonexistent"]
                    .iter()
                    .any(|none| home == Path::new(none))
        })
        .collect();
    homes.push(PathBuf::from("/root"));
    homes.sort();
    homes.dedup();
    homes.truncate(HOMES_MAX);
    homes
}

/// What a path stands for, in order; a path without `*` for itself, and so does one on a file system that is not entered.
fn expand(glob: &str, mounts: &Mounts) -> Vec<PathBuf> {
    let path = Path::new(glob);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return vec![path.to_owned()] };
    let name = name.as_bytes();
    let Some(star) = name.iter().position(|byte| *byte == b'*') else { return vec![path.to_owned()] };
    let (before, after) = (name.get(..star).unwrap_or_default(), name.get(star + 1..).unwrap_or_default());
    let fits = |name: &[u8]| {
        name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
    };
    if mounts.holding(parent).is_some_and(|kind| kind != Kind::Local) {
        return vec![parent.to_owned()];
    }
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name()).filter(|name| fits(name.as_bytes()));
    let mut found: Vec<PathBuf> = names.take(MATCHES_MAX).map(|name| parent.join(name)).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_within_one_name() {
        let directory = tempfile::tempdir().expect("temporary directory");
        for name in ["wtmp", "wtmp.1", "btmp", "xwtmp"] {
            std::fs::write(directory.path().join(name), "").expect("written");
        }
        let glob = |name: &str| expand(directory.path().join(name).to_str().expect("text"), &Mounts::now());
        let names = |paths: Vec<PathBuf>| -> Vec<String> {
            paths.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
        };
        assert_eq!(names(glob("wtmp*")), ["wtmp", "wtmp.1"]);
        assert_eq!(names(glob("w*.1")), ["wtmp.1"]);
        assert_eq!(names(glob("lastlog")), ["lastlog"]);
        assert!(glob("none*").is_empty());
    }
}
