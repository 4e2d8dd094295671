//! What a path is for, as far as its place tells: decides how much a change of it matters.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use picket_protocol::finding::Severity;

/// What an object is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Accounts and their passwords.
    Accounts,
    /// Who may become whom: sudoers, PAM.
    Privilege,
    /// Keys that open an account by ssh.
    LoginKeys,
    /// The ssh server's configuration and host keys.
    SshServer,
    /// Jobs run by time.
    Scheduled,
    /// Services, timers, generators, init scripts.
    Services,
    /// What every program loads.
    Loader,
    /// Kernel modules and what loads them; udev rules.
    Modules,
    /// What a shell runs when somebody logs in.
    ShellStartup,
    /// Kernel and boot loader.
    Boot,
    /// Where packages come from, and the keys that vouch for them.
    PackageTrust,
    /// Names and name servers.
    Names,
    /// Programs and libraries of the system.
    Programs,
    /// Other configuration of the system.
    Configuration,
    /// Logs.
    Logs,
    /// Anything else.
    Other,
}

/// A rule of thumb: a path that matches is of the class.
struct Place {
    class: Class,
    test: Test,
}

enum Test {
    Is(&'static str),
    Under(&'static str),
    Named(&'static str),
}

const fn is(class: Class, path: &'static str) -> Place {
    Place { class, test: Test::Is(path) }
}

const fn under(class: Class, path: &'static str) -> Place {
    Place { class, test: Test::Under(path) }
}

const fn named(class: Class, end: &'static str) -> Place {
    Place { class, test: Test::Named(end) }
}

/// The first that matches counts. `/usr/lib` and `/lib` are one on most systems: paths are taken as they are on disk.
const PLACES: &[Place] = &[
    named(Class::LoginKeys, ".ssh/authorized_keys"),
    named(Class::LoginKeys, ".ssh/authorized_keys2"),
    named(Class::ShellStartup, "/.bashrc"),
    named(Class::ShellStartup, "/.bash_profile"),
    named(Class::ShellStartup, "/.profile"),
    named(Class::ShellStartup, "/.zshrc"),
    is(Class::Accounts, "/etc/passwd"),
    is(Class::Accounts, "/etc/shadow"),
    is(Class::Accounts, "/etc/group"),
    is(Class::Accounts, "/etc/gshadow"),
    is(Class::Accounts, "/etc/subuid"),
    is(Class::Accounts, "/etc/subgid"),
    is(Class::Privilege, "/etc/sudoers"),
    under(Class::Privilege, "/etc/sudoers.d"),
    under(Class::Privilege, "/etc/pam.d"),
    under(Class::Privilege, "/etc/security"),
    under(Class::Privilege, "/etc/polkit-1"),
    is(Class::Privilege, "/etc/doas.conf"),
    under(Class::SshServer, "/etc/ssh"),
    is(Class::Scheduled, "/etc/crontab"),
    is(Class::Scheduled, "/etc/anacrontab"),
    under(Class::Scheduled, "/etc/cron.d"),
    under(Class::Scheduled, "/etc/cron.hourly"),
    under(Class::Scheduled, "/etc/cron.daily"),
    under(Class::Scheduled, "/etc/cron.weekly"),
    under(Class::Scheduled, "/etc/cron.monthly"),
    under(Class::Scheduled, "/var/spool/cron"),
    under(Class::Scheduled, "/var/spool/at"),
    under(Class::Services, "/etc/systemd"),
    under(Class::Services, "/usr/lib/systemd"),
    under(Class::Services, "/lib/systemd"),
    under(Class::Services, "/usr/local/lib/systemd"),
    under(Class::Services, "/run/systemd/system"),
    under(Class::Services, "/etc/init.d"),
    under(Class::Services, "/etc/init"),
    is(Class::Services, "/etc/rc.local"),
    is(Class::Services, "/etc/inittab"),
    under(Class::Services, "/etc/xdg/autostart"),
    is(Class::Loader, "/etc/ld.so.preload"),
    is(Class::Loader, "/etc/ld.so.conf"),
    under(Class::Loader, "/etc/ld.so.conf.d"),
    under(Class::Modules, "/etc/modules-load.d"),
    under(Class::Modules, "/etc/modprobe.d"),
    is(Class::Modules, "/etc/modules"),
    under(Class::Modules, "/usr/lib/modules"),
    under(Class::Modules, "/lib/modules"),
    under(Class::Modules, "/etc/udev"),
    under(Class::Modules, "/usr/lib/udev"),
    is(Class::ShellStartup, "/etc/profile"),
    under(Class::ShellStartup, "/etc/profile.d"),
    is(Class::ShellStartup, "/etc/bash.bashrc"),
    is(Class::ShellStartup, "/etc/bashrc"),
    is(Class::ShellStartup, "/etc/environment"),
    under(Class::ShellStartup, "/etc/update-motd.d"),
    under(Class::Boot, "/boot"),
    under(Class::Boot, "/efi"),
    is(Class::Boot, "/etc/default/grub"),
    under(Class::PackageTrust, "/etc/apt"),
    under(Class::PackageTrust, "/etc/yum.repos.d"),
    under(Class::PackageTrust, "/etc/pki/rpm-gpg"),
    under(Class::PackageTrust, "/usr/share/keyrings"),
    under(Class::PackageTrust, "/usr/local/share/ca-certificates"),
    under(Class::PackageTrust, "/etc/ssl/certs"),
    is(Class::Names, "/etc/hosts"),
    is(Class::Names, "/etc/resolv.conf"),
    is(Class::Names, "/etc/nsswitch.conf"),
    is(Class::Names, "/etc/hosts.allow"),
    is(Class::Names, "/etc/hosts.deny"),
    under(Class::Programs, "/usr/bin"),
    under(Class::Programs, "/usr/sbin"),
    under(Class::Programs, "/bin"),
    under(Class::Programs, "/sbin"),
    under(Class::Programs, "/usr/lib"),
    under(Class::Programs, "/usr/lib64"),
    under(Class::Programs, "/usr/libexec"),
    under(Class::Programs, "/lib"),
    under(Class::Programs, "/lib64"),
    under(Class::Programs, "/usr/local"),
    under(Class::Configuration, "/etc"),
    under(Class::Logs, "/var/log"),
];

impl Class {
    /// The class of `path`.
    pub fn of(path: &Path) -> Self {
        let bytes = path.as_os_str().as_bytes();
        if path.starts_with("/etc") && super::subject::is_editors_own(path) {
            return Self::Configuration;
        }
        let matches = |place: &&Place| match place.test {
            Test::Is(whole) => bytes == whole.as_bytes(),
            Test::Under(above) => path.starts_with(above),
            Test::Named(end) => bytes.ends_with(end.as_bytes()),
        };
        PLACES.iter().find(matches).map_or(Self::Other, |place| place.class)
    }

    /// How much it matters that content, target or type of such an object changed, or that one came.
    pub fn severity(self) -> Severity {
        match self {
            Self::Accounts | Self::Privilege | Self::LoginKeys | Self::SshServer | Self::Loader => {
                Severity::High
            }
            Self::Scheduled | Self::Services | Self::Modules | Self::Boot | Self::PackageTrust => {
                Severity::Medium
            }
            Self::ShellStartup | Self::Names | Self::Programs => Severity::Medium,
            Self::Configuration | Self::Logs => Severity::Low,
            Self::Other => Severity::Info,
        }
    }

    /// The ATT&CK technique that a new or changed object of the class serves, if it is hostile.
    pub fn technique(self) -> Option<&'static str> {
        match self {
            Self::Accounts => Some("T1098"),
            Self::Privilege => Some("T1548"),
            Self::LoginKeys => Some("T1098.004"),
            Self::SshServer => Some("T1556"),
            Self::Scheduled => Some("T1053"),
            Self::Services => Some("T1543.002"),
            Self::Loader => Some("T1574.006"),
            Self::Modules => Some("T1547.006"),
            Self::ShellStartup => Some("T1546.004"),
            Self::Boot => Some("T1542"),
            Self::PackageTrust => Some("T1553"),
            Self::Names => Some("T1565.001"),
            Self::Programs => Some("T1554"),
            Self::Logs => Some("T1070.002"),
            Self::Configuration | Self::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, class: Class) {
        assert_eq!(Class::of(Path::new(path)), class, "{path}");
    }

    #[test]
    fn the_place_decides() {
        check("/etc/passwd", Class::Accounts);
        check("/etc/passwd-", Class::Configuration);
        check("/etc/sudoers.d/90-cloud", Class::Privilege);
        check("/home/alice/.ssh/authorized_keys", Class::LoginKeys);
        check("/etc/ssh/sshd_config", Class::SshServer);
        check("/etc/cron.d/job", Class::Scheduled);
        check("/var/spool/cron/crontabs/root", Class::Scheduled);
        check("/usr/lib/systemd/system/ssh.service", Class::Services);
        check("/etc/ld.so.preload", Class::Loader);
        check("/root/.bashrc", Class::ShellStartup);
        check("/usr/bin/ls", Class::Programs);
        check("/usr/binary", Class::Other);
        check("/srv/www/index.html", Class::Other);
        check("/var/log/auth.log", Class::Logs);
    }
}
