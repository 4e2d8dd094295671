//! What kind of file lies at a path, as far as its place tells: decides which rule a change falls under, which parser
//! reads its text, and whether its text is kept at all.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::detect::acts::edit;

/// A kind of file whose changes have a meaning of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `/etc/passwd`.
    Passwd,
    /// `/etc/shadow`: its hashes are shown to nobody.
    Shadow,
    /// What tools and editors leave of shadow and gshadow, former or to come: neither read nor shown.
    PasswordCopy,
    /// `/etc/group`.
    Group,
    /// `/etc/gshadow`: as shadow.
    Gshadow,
    /// `/etc/subuid`, `/etc/subgid`.
    SubordinateIds,
    /// sudoers and what it includes; doas.
    Sudoers,
    /// PAM's stacks and modules' settings.
    Pam,
    /// Rules of polkit.
    Polkit,
    /// Keys that open an account.
    AuthorizedKeys,
    /// What ssh runs at each login: `~/.ssh/rc`, `/etc/ssh/sshrc`, `~/.ssh/environment`.
    SshRc,
    /// The ssh server's configuration.
    SshdConfig,
    /// The ssh server's own keys.
    SshHostKey,
    /// Host keys that ssh trusts for everybody.
    KnownHosts,
    /// A crontab with a column for the user: `/etc/crontab`, `/etc/cron.d`.
    SystemCrontab,
    /// A user's crontab.
    UserCrontab,
    /// A script that cron or anacron runs by its place.
    CronScript,
    /// A job of `at`.
    AtJob,
    /// A unit of systemd, its drop-ins, and links that enable one.
    SystemdUnit,
    /// A program that systemd runs at boot to make units.
    SystemdGenerator,
    /// Init scripts, `rc.local`, inittab.
    Init,
    /// What a shell runs when it starts.
    ShellStartup,
    /// `/etc/ld.so.preload`.
    Preload,
    /// Where the loader looks for libraries.
    LoaderPath,
    /// Which modules are loaded, and how.
    ModuleList,
    /// A kernel module.
    Module,
    /// What udev runs when a device comes.
    Udev,
    /// Scripts that make the message of the day.
    Motd,
    /// What a desktop starts at login.
    Autostart,
    /// What git runs by itself.
    GitHook,
    /// What an interpreter loads by itself.
    Interpreter,
    /// A script or a page below a web root.
    Web,
    /// `/etc/hosts` and its kin.
    Hosts,
    /// How names are looked up.
    Resolver,
    /// `/etc/nsswitch.conf`.
    NameSwitch,
    /// Where packages come from.
    PackageSource,
    /// Keys that vouch for packages.
    PackageKey,
    /// Certificates that programs trust.
    Certificate,
    /// Kernel settings at boot.
    KernelSetting,
    /// What is audited.
    AuditRules,
    /// What is logged, and where to.
    LogSettings,
    /// The packet filter's rules as they are loaded at boot.
    FirewallRules,
    /// SELinux and AppArmor.
    MandatoryAccess,
    /// Kernel, initial file system, boot loader.
    Boot,
    /// The socket of a container engine.
    ContainerSocket,
    /// Other configuration below `/etc`.
    Configuration,
    /// Anything else.
    Other,
}

/// How a path is matched.
enum Test {
    /// The whole path.
    Is(&'static str),
    /// Anything beneath the directory.
    Under(&'static str),
    /// The path ends so.
    Ends(&'static str),
    /// It lies somewhere beneath a directory of this name (in slashes), and its own name ends so.
    Within(&'static str, &'static str),
}

struct Place(Subject, Test);

const fn is(subject: Subject, path: &'static str) -> Place {
    Place(subject, Test::Is(path))
}

const fn under(subject: Subject, path: &'static str) -> Place {
    Place(subject, Test::Under(path))
}

const fn ends(subject: Subject, end: &'static str) -> Place {
    Place(subject, Test::Ends(end))
}

const fn within(subject: Subject, directory: &'static str, end: &'static str) -> Place {
    Place(subject, Test::Within(directory, end))
}

/// The first that matches counts.
const PLACES: &[Place] = &[
    // Left by the tools that edit accounts; `passwd-` and the like are copies of what was.
    is(Subject::Passwd, "/etc/passwd"),
    is(Subject::Shadow, "/etc/shadow"),
    is(Subject::Group, "/etc/group"),
    is(Subject::Gshadow, "/etc/gshadow"),
    is(Subject::SubordinateIds, "/etc/subuid"),
    is(Subject::SubordinateIds, "/etc/subgid"),
    is(Subject::Sudoers, "/etc/sudoers"),
    under(Subject::Sudoers, "/etc/sudoers.d"),
    is(Subject::Sudoers, "/etc/doas.conf"),
    under(Subject::Pam, "/etc/pam.d"),
    is(Subject::Pam, "/etc/pam.conf"),
    under(Subject::Pam, "/etc/security"),
    under(Subject::Pam, "/usr/share/pam-configs"),
    within(Subject::Pam, "/security/", ".so"),
    under(Subject::Polkit, "/etc/polkit-1"),
    ends(Subject::AuthorizedKeys, "/.ssh/authorized_keys"),
    ends(Subject::AuthorizedKeys, "/.ssh/authorized_keys2"),
    under(Subject::AuthorizedKeys, "/etc/ssh/authorized_keys"),
    ends(Subject::SshRc, "/.ssh/rc"),
    ends(Subject::SshRc, "/.ssh/environment"),
    is(Subject::SshRc, "/etc/ssh/sshrc"),
    is(Subject::SshdConfig, "/etc/ssh/sshd_config"),
    under(Subject::SshdConfig, "/etc/ssh/sshd_config.d"),
    is(Subject::KnownHosts, "/etc/ssh/ssh_known_hosts"),
    is(Subject::SystemCrontab, "/etc/crontab"),
    is(Subject::SystemCrontab, "/etc/anacrontab"),
    under(Subject::SystemCrontab, "/etc/cron.d"),
    under(Subject::CronScript, "/etc/cron.hourly"),
    under(Subject::CronScript, "/etc/cron.daily"),
    under(Subject::CronScript, "/etc/cron.weekly"),
    under(Subject::CronScript, "/etc/cron.monthly"),
    under(Subject::AtJob, "/var/spool/cron/atjobs"),
    under(Subject::AtJob, "/var/spool/at"),
    under(Subject::UserCrontab, "/var/spool/cron"),
    within(Subject::SystemdGenerator, "/system-generators/", ""),
    within(Subject::SystemdGenerator, "/user-generators/", ""),
    within(Subject::SystemdGenerator, "/system-environment-generators/", ""),
    within(Subject::SystemdGenerator, "/user-environment-generators/", ""),
    under(Subject::SystemdUnit, "/etc/systemd/system"),
    under(Subject::SystemdUnit, "/etc/systemd/user"),
    under(Subject::SystemdUnit, "/usr/lib/systemd/system"),
    under(Subject::SystemdUnit, "/usr/lib/systemd/user"),
    under(Subject::SystemdUnit, "/lib/systemd/system"),
    under(Subject::SystemdUnit, "/usr/local/lib/systemd"),
    under(Subject::SystemdUnit, "/run/systemd/system"),
    within(Subject::SystemdUnit, "/.config/systemd/user/", ""),
    is(Subject::LogSettings, "/etc/systemd/journald.conf"),
    under(Subject::LogSettings, "/etc/systemd/journald.conf.d"),
    under(Subject::SystemdUnit, "/etc/systemd/network"),
    under(Subject::Init, "/etc/init.d"),
    under(Subject::Init, "/etc/init"),
    under(Subject::Init, "/etc/rc.d"),
    is(Subject::Init, "/etc/rc.local"),
    is(Subject::Init, "/etc/inittab"),
    is(Subject::ShellStartup, "/etc/profile"),
    under(Subject::ShellStartup, "/etc/profile.d"),
    is(Subject::ShellStartup, "/etc/bash.bashrc"),
    is(Subject::ShellStartup, "/etc/bashrc"),
    is(Subject::ShellStartup, "/etc/environment"),
    under(Subject::ShellStartup, "/etc/zsh"),
    under(Subject::ShellStartup, "/etc/skel"),
    ends(Subject::ShellStartup, "/.bashrc"),
    ends(Subject::ShellStartup, "/.bash_profile"),
    ends(Subject::ShellStartup, "/.bash_login"),
    ends(Subject::ShellStartup, "/.bash_logout"),
    ends(Subject::ShellStartup, "/.profile"),
    ends(Subject::ShellStartup, "/.zshrc"),
    ends(Subject::ShellStartup, "/.zprofile"),
    ends(Subject::ShellStartup, "/.zshenv"),
    ends(Subject::ShellStartup, "/.config/fish/config.fish"),
    is(Subject::Preload, "/etc/ld.so.preload"),
    is(Subject::LoaderPath, "/etc/ld.so.conf"),
    under(Subject::LoaderPath, "/etc/ld.so.conf.d"),
    under(Subject::ModuleList, "/etc/modules-load.d"),
    under(Subject::ModuleList, "/etc/modprobe.d"),
    is(Subject::ModuleList, "/etc/modules"),
    within(Subject::Module, "/lib/modules/", ".ko"),
    within(Subject::Module, "/lib/modules/", ".ko.xz"),
    within(Subject::Module, "/lib/modules/", ".ko.zst"),
    under(Subject::Udev, "/etc/udev"),
    under(Subject::Udev, "/usr/lib/udev/rules.d"),
    under(Subject::Udev, "/lib/udev/rules.d"),
    under(Subject::Udev, "/run/udev/rules.d"),
    under(Subject::Motd, "/etc/update-motd.d"),
    under(Subject::Autostart, "/etc/xdg/autostart"),
    within(Subject::Autostart, "/.config/autostart/", ".desktop"),
    is(Subject::Hosts, "/etc/hosts"),
    is(Subject::Hosts, "/etc/hosts.allow"),
    is(Subject::Hosts, "/etc/hosts.deny"),
    is(Subject::Resolver, "/etc/resolv.conf"),
    is(Subject::Resolver, "/etc/systemd/resolved.conf"),
    is(Subject::NameSwitch, "/etc/nsswitch.conf"),
    is(Subject::PackageSource, "/etc/apt/sources.list"),
    under(Subject::PackageSource, "/etc/apt/sources.list.d"),
    under(Subject::PackageKey, "/etc/apt/trusted.gpg.d"),
    is(Subject::PackageKey, "/etc/apt/trusted.gpg"),
    under(Subject::PackageKey, "/etc/apt/keyrings"),
    under(Subject::PackageKey, "/usr/share/keyrings"),
    under(Subject::PackageKey, "/etc/pki/rpm-gpg"),
    under(Subject::PackageSource, "/etc/apt"),
    under(Subject::PackageSource, "/etc/yum.repos.d"),
    is(Subject::PackageSource, "/etc/yum.conf"),
    under(Subject::PackageSource, "/etc/dnf"),
    under(Subject::PackageSource, "/etc/zypp/repos.d"),
    ends(Subject::PackageSource, "/pip.conf"),
    ends(Subject::PackageSource, "/.npmrc"),
    under(Subject::Certificate, "/usr/local/share/ca-certificates"),
    under(Subject::Certificate, "/etc/ssl/certs"),
    under(Subject::Certificate, "/etc/pki/ca-trust"),
    is(Subject::Certificate, "/etc/ca-certificates.conf"),
    is(Subject::KernelSetting, "/etc/sysctl.conf"),
    under(Subject::KernelSetting, "/etc/sysctl.d"),
    under(Subject::AuditRules, "/etc/audit"),
    is(Subject::LogSettings, "/etc/rsyslog.conf"),
    under(Subject::LogSettings, "/etc/rsyslog.d"),
    under(Subject::LogSettings, "/etc/syslog-ng"),
    under(Subject::LogSettings, "/etc/logrotate.d"),
    is(Subject::LogSettings, "/etc/logrotate.conf"),
    is(Subject::FirewallRules, "/etc/nftables.conf"),
    under(Subject::FirewallRules, "/etc/iptables"),
    under(Subject::FirewallRules, "/etc/ufw"),
    under(Subject::FirewallRules, "/etc/firewalld"),
    under(Subject::MandatoryAccess, "/etc/selinux"),
    under(Subject::MandatoryAccess, "/etc/apparmor.d"),
    under(Subject::MandatoryAccess, "/etc/apparmor"),
    under(Subject::Boot, "/boot"),
    under(Subject::Boot, "/efi"),
    is(Subject::Boot, "/etc/default/grub"),
    under(Subject::Boot, "/etc/grub.d"),
    under(Subject::Boot, "/etc/initramfs-tools"),
    under(Subject::Boot, "/etc/dracut.conf.d"),
    ends(Subject::ContainerSocket, "/docker.sock"),
    ends(Subject::ContainerSocket, "/podman.sock"),
    ends(Subject::ContainerSocket, "/containerd.sock"),
    ends(Subject::ContainerSocket, "/crio.sock"),
    ends(Subject::Interpreter, "/sitecustomize.py"),
    ends(Subject::Interpreter, "/usercustomize.py"),
    within(Subject::Interpreter, "/site-packages/", ".pth"),
    within(Subject::Interpreter, "/dist-packages/", ".pth"),
    ends(Subject::Interpreter, "/sitecustomize.pl"),
    under(Subject::Interpreter, "/etc/perl"),
    under(Subject::Web, "/var/www"),
    under(Subject::Web, "/srv/www"),
    under(Subject::Web, "/srv/http"),
    under(Subject::Web, "/usr/share/nginx"),
    within(Subject::Web, "/public_html/", ""),
    within(Subject::Web, "/htdocs/", ""),
    within(Subject::Web, "/wp-content/", ""),
    under(Subject::Configuration, "/etc"),
];

/// Roots of other systems on this host, by the shape of their paths: a `*` stands for one name.
const OTHER_ROOTS: &[&str] = &[
    "/var/lib/docker/overlay2/*/merged",
    "/var/lib/docker/overlay2/*/diff",
    "/var/lib/containers/storage/overlay/*/merged",
    "/var/lib/containers/storage/overlay/*/diff",
    "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs",
    "/run/containerd/io.containerd.runtime.v2.task/*/*/rootfs",
    "/var/lib/lxc/*/rootfs",
    "/var/lib/machines/*",
];

/// A path cut into the root of another system, if it lies in one, and the path as that system knows it.
pub fn inside(path: &Path) -> (Option<PathBuf>, Cow<'_, Path>) {
    let bytes = path.as_os_str().as_bytes();
    if !bytes.starts_with(b"/var/lib/") && !bytes.starts_with(b"/run/containerd/") {
        return (None, Cow::Borrowed(path));
    }
    let parts: Vec<&[u8]> = bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    for root in OTHER_ROOTS {
        let pattern: Vec<&[u8]> = root.as_bytes().split(|byte| *byte == b'/').skip(1).collect();
        let fits = parts.len() > pattern.len()
            && pattern.iter().zip(&parts).all(|(wanted, part)| *wanted == b"*" || wanted == part);
        if fits {
            let depth = pattern.len() + 1;
            let above: PathBuf = path.components().take(depth).collect();
            let within = path.strip_prefix(&above).map(|rest| Path::new("/").join(rest));
            return (Some(above), within.map_or(Cow::Borrowed(path), Cow::Owned));
        }
    }
    (None, Cow::Borrowed(path))
}

impl Subject {
    /// The kind of file at `path`, which may lie in a container's root.
    pub fn of(path: &Path) -> Self {
        let (_, path) = inside(path);
        Self::of_inside(&path)
    }

    fn of_inside(path: &Path) -> Self {
        let bytes = path.as_os_str().as_bytes();
        if is_password_copy(bytes) {
            return Self::PasswordCopy;
        }
        if is_editors_own(path) {
            return Self::Other;
        }
        if is_git_hook(bytes) {
            return Self::GitHook;
        }
        if init_link(path).is_some() {
            return Self::Init;
        }
        if is_host_key(bytes) {
            return Self::SshHostKey;
        }
        let matches = |place: &&Place| match place.1 {
            Test::Is(whole) => bytes == whole.as_bytes(),
            Test::Under(above) => bytes
                .strip_prefix(above.as_bytes())
                .is_some_and(|rest| rest.len() > 1 && rest.starts_with(b"/")),
            Test::Ends(end) => bytes.ends_with(end.as_bytes()),
            Test::Within(directory, end) => {
                bytes.ends_with(end.as_bytes()) && memchr::memmem::find(bytes, directory.as_bytes()).is_some()
            }
        };
        PLACES.iter().find(matches).map_or(Self::Other, |place| place.0)
    }

    /// Whether the text of such files is kept, to tell later what changed in it.
    pub fn keeps_text(self) -> bool {
        !matches!(
            self,
            Self::Other
                | Self::Web
                | Self::Module
                | Self::SshHostKey
                | Self::PasswordCopy
                | Self::Certificate
                | Self::ContainerSocket
        )
    }
}

/// What is done with the text of a file when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextUse {
    /// Nothing.
    None,
    /// It is read: scripts below web roots.
    Look,
    /// It is read, and kept until it changes again: small text that matters, and no private key.
    Keep,
}

/// What is done with the text of the file at `path`.
pub fn text_use(path: &Path) -> TextUse {
    match Subject::of(path) {
        Subject::Web if super::meaning::web::is_script(path) => TextUse::Look,
        subject if subject.keeps_text() && !is_private(path) => TextUse::Keep,
        _ => TextUse::None,
    }
}

/// Whether the text of the file at `path` is kept.
pub fn keeps_text(path: &Path) -> bool {
    text_use(path) == TextUse::Keep
}

/// Files that hold private keys: never read as text.
fn is_private(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let ending = [&b".key"[..], b".pem", b".p12", b".pfx", b".jks", b".keytab", b".gpg", b".crt", b".der"];
    let named = [&b"id_rsa"[..], b"id_dsa", b"id_ecdsa", b"id_ed25519"];
    ending.iter().any(|end| name.ends_with(end))
        || named.contains(&name)
        || path.components().any(|part| part.as_os_str() == "private")
}

/// `…/.git/hooks/NAME` or `….git/hooks/NAME`; the samples that come with each repository do nothing.
fn is_git_hook(path: &[u8]) -> bool {
    // Asked of every path: the search is prepared once.
    static HOOKS: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b".git/hooks/"));
    HOOKS.find(path).is_some_and(|at| {
        let name = path.get(at + HOOKS.needle().len()..).unwrap_or_default();
        !name.is_empty() && !name.ends_with(b".sample")
    })
}

/// `/etc/rc3.d/S01x`: whether it starts the service, and which.
pub fn init_link(path: &Path) -> Option<(bool, &str)> {
    let rest = path.to_str()?.strip_prefix("/etc/rc")?;
    let name = rest.strip_prefix(['0', '1', '2', '3', '4', '5', '6', 'S'])?.strip_prefix(".d/")?;
    let starts = name.starts_with('S');
    let service = name.strip_prefix(['S', 'K'])?.trim_start_matches(|digit: char| digit.is_ascii_digit());
    (!service.is_empty()).then_some((starts, service))
}

/// `/etc/shadow-`, `/etc/gshadow+`, `/etc/.shadow.swp`: whatever is called after one of the two and is not it.
fn is_password_copy(path: &[u8]) -> bool {
    let Some(name) = path.strip_prefix(b"/etc/") else { return false };
    let name = name.strip_prefix(b".").unwrap_or(name);
    let stem = [&b"shadow"[..], b"gshadow", b"#shadow", b"#gshadow", b"nshadow"].into_iter();
    let rest = stem.filter_map(|stem| name.strip_prefix(stem)).next();
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(&b'/') && !rest.starts_with(b"_"))
        && path != b"/etc/shadow.d"
}

/// What editors keep beside a file, and what sudo passes over in its directory: nothing reads it.
pub fn is_editors_own(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let passed_over = path.parent() == Some(Path::new("/etc/sudoers.d")) && name.contains(&b'.');
    // Some crons read all files in their directories but these with a tilde.
    let read =
        ["/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly"];
    let backup = path.starts_with("/etc")
        && edit::original(path).is_some()
        && (name.ends_with(b"~") || !read.iter().any(|place| path.starts_with(place)));
    passed_over || backup || edit::target(path).is_some()
}

/// `/etc/ssh/ssh_host_*_key`, with and without `.pub`.
fn is_host_key(path: &[u8]) -> bool {
    path.strip_prefix(b"/etc/ssh/ssh_host_").is_some_and(|rest| {
        rest.strip_suffix(b".pub").unwrap_or(rest).ends_with(b"_key") && !rest.contains(&b'/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, subject: Subject) {
        assert_eq!(Subject::of(Path::new(path)), subject, "{path}");
    }

    #[test]
    fn the_place_tells_what_a_file_is() {
        check("/etc/passwd", Subject::Passwd);
        check("/etc/passwd-", Subject::Configuration);
        check("/etc/shadow-", Subject::PasswordCopy);
        check("/etc/.gshadow.swp", Subject::PasswordCopy);
        check("/etc/sudoers.d/.90-cloud.swp", Subject::Other);
        check("/etc/sudoers.d/90-cloud.tmp", Subject::Other);
        check("/etc/cron.d/job~", Subject::Other);
        check("/etc/cron.d/job.bak", Subject::SystemCrontab);
        check("/etc/ssh/sshd_config.bak", Subject::Other);
        check("/etc/pam.d/sshd.orig", Subject::Other);
        check("/etc/shadow.bak", Subject::PasswordCopy);
        check("/etc/systemd/system.conf", Subject::Configuration);
        check("/etc/sudoers.d/90-cloud", Subject::Sudoers);
        check("/root/.ssh/authorized_keys", Subject::AuthorizedKeys);
        check("/etc/ssh/ssh_host_ed25519_key", Subject::SshHostKey);
        check("/etc/ssh/ssh_host_ed25519_key.pub", Subject::SshHostKey);
        check("/etc/ssh/ssh_config", Subject::Configuration);
        check("/etc/cron.daily/logrotate", Subject::CronScript);
        check("/var/spool/cron/crontabs/root", Subject::UserCrontab);
        check("/var/spool/cron/atjobs/a0001", Subject::AtJob);
        check("/etc/systemd/system/x.service.d/override.conf", Subject::SystemdUnit);
        check("/etc/systemd/system-generators/x", Subject::SystemdGenerator);
        check("/home/a/.config/systemd/user/x.service", Subject::SystemdUnit);
        check("/etc/rc3.d/S01x", Subject::Init);
        check("/srv/repo/.git/hooks/post-merge", Subject::GitHook);
        check("/srv/repo/.git/hooks/post-merge.sample", Subject::Other);
        check("/usr/lib/python3/dist-packages/evil.pth", Subject::Interpreter);
        check("/lib/x86_64-linux-gnu/security/pam_evil.so", Subject::Pam);
        check("/var/www/html/index.php", Subject::Web);
        check("/etc/cron.d", Subject::Configuration);
        check("/srv/x", Subject::Other);
    }

    #[test]
    fn a_container_has_the_same_files_in_its_own_root() {
        check("/var/lib/docker/overlay2/abc/merged/etc/passwd", Subject::Passwd);
        check("/var/lib/machines/web/root/.ssh/authorized_keys", Subject::AuthorizedKeys);
        check("/var/lib/docker/overlay2/abc/merged", Subject::Other);
        let (root, within) = inside(Path::new("/var/lib/lxc/web/rootfs/etc/passwd"));
        assert_eq!(root.as_deref(), Some(Path::new("/var/lib/lxc/web/rootfs")));
        assert_eq!(within, Path::new("/etc/passwd"));
    }

    #[test]
    fn private_keys_are_not_kept() {
        for path in
            ["/etc/ssl/private/x", "/etc/nginx/tls.key", "/etc/ssh/ssh_host_rsa_key", "/etc/krb5.keytab"]
        {
            assert!(!keeps_text(Path::new(path)), "{path}");
        }
        assert!(keeps_text(Path::new("/etc/ssh/sshd_config")));
        assert!(!keeps_text(Path::new("/srv/notes.txt")));
    }
}
