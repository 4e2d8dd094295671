//! Kernel settings (sysctl) that protect the host, and in which direction each is weaker.

use picket_protocol::finding::Severity;

use super::{Area, Judgement, Told, word};

/// In which direction a setting is weaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weaker {
    /// A smaller number.
    Lower,
    /// A larger number.
    Higher,
    /// Any other text: a program that the kernel starts as root.
    Other,
}

/// A setting: its name below `/proc/sys` with dots, its weaker side, how much that matters, and what it protects
/// from.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// `kernel.kptr_restrict`.
    pub name: &'static str,
    /// Its weaker side.
    pub weaker: Weaker,
    /// How much a weaker value matters.
    pub severity: Severity,
    /// What a weaker value means, for people.
    pub meaning: &'static str,
}

const fn setting(name: &'static str, weaker: Weaker, severity: Severity, meaning: &'static str) -> Setting {
    Setting { name, weaker, severity, meaning }
}

/// All that are looked at; those that this kernel does not have are passed over.
pub const SETTINGS: [Setting; 37] = [
    setting("kernel.randomize_va_space", Weaker::Lower, Severity::High, "addresses are easier to guess"),
    setting("kernel.kptr_restrict", Weaker::Lower, Severity::Medium, "kernel addresses are shown"),
    setting("kernel.dmesg_restrict", Weaker::Lower, Severity::Low, "everybody may read the kernel log"),
    setting("kernel.yama.ptrace_scope", Weaker::Lower, Severity::Medium, "processes may look into others"),
    setting(
        "kernel.unprivileged_bpf_disabled",
        Weaker::Lower,
        Severity::High,
        "every user may load BPF programs",
    ),
    setting(
        "kernel.unprivileged_userns_clone",
        Weaker::Higher,
        Severity::Medium,
        "every user may make namespaces",
    ),
    setting(
        "kernel.apparmor_restrict_unprivileged_userns",
        Weaker::Lower,
        Severity::Medium,
        "every user may make namespaces",
    ),
    setting(
        "kernel.perf_event_paranoid",
        Weaker::Lower,
        Severity::Medium,
        "every user may measure the kernel",
    ),
    setting("kernel.io_uring_disabled", Weaker::Lower, Severity::Low, "io_uring is open to more users"),
    setting("kernel.sysrq", Weaker::Higher, Severity::Low, "the console may do more to the kernel"),
    setting(
        "kernel.core_pattern",
        Weaker::Other,
        Severity::High,
        "the kernel runs another program at a crash",
    ),
    setting(
        "kernel.modprobe",
        Weaker::Other,
        Severity::High,
        "the kernel runs another program to load modules",
    ),
    setting("kernel.hotplug", Weaker::Other, Severity::High, "the kernel runs another program for devices"),
    setting(
        "kernel.poweroff_cmd",
        Weaker::Other,
        Severity::Medium,
        "the kernel runs another program at the end",
    ),
    setting("kernel.modules_disabled", Weaker::Lower, Severity::High, "modules may be loaded"),
    setting("kernel.kexec_load_disabled", Weaker::Lower, Severity::High, "another kernel may be started"),
    setting("fs.protected_symlinks", Weaker::Lower, Severity::High, "links in /tmp may lead others astray"),
    setting("fs.protected_hardlinks", Weaker::Lower, Severity::High, "links to files of others may be made"),
    setting("fs.protected_fifos", Weaker::Lower, Severity::Medium, "pipes in /tmp may lead others astray"),
    setting("fs.protected_regular", Weaker::Lower, Severity::Medium, "files in /tmp may lead others astray"),
    setting("fs.suid_dumpable", Weaker::Higher, Severity::Medium, "memory of privileged programs is dumped"),
    setting("vm.mmap_min_addr", Weaker::Lower, Severity::High, "the page at zero may be mapped"),
    setting(
        "vm.unprivileged_userfaultfd",
        Weaker::Higher,
        Severity::Medium,
        "every user may hold up the kernel's copies",
    ),
    setting("dev.tty.ldisc_autoload", Weaker::Higher, Severity::Low, "every user may load line disciplines"),
    setting("dev.tty.legacy_tiocsti", Weaker::Higher, Severity::Medium, "programs may type into terminals"),
    setting("net.core.bpf_jit_harden", Weaker::Lower, Severity::Medium, "compiled BPF is less hardened"),
    setting("net.ipv4.tcp_syncookies", Weaker::Lower, Severity::Medium, "a flood of SYN fills the queue"),
    setting(
        "net.ipv4.icmp_echo_ignore_broadcasts",
        Weaker::Lower,
        Severity::Low,
        "broadcast pings are answered",
    ),
    setting(
        "net.ipv4.conf.all.rp_filter",
        Weaker::Lower,
        Severity::Medium,
        "packets with false sources are let in",
    ),
    setting(
        "net.ipv4.conf.all.accept_redirects",
        Weaker::Higher,
        Severity::Medium,
        "others may change routes",
    ),
    setting(
        "net.ipv4.conf.all.accept_source_route",
        Weaker::Higher,
        Severity::Medium,
        "senders may choose routes",
    ),
    setting(
        "net.ipv4.conf.all.send_redirects",
        Weaker::Higher,
        Severity::Low,
        "the host changes routes of others",
    ),
    setting(
        "net.ipv4.conf.all.log_martians",
        Weaker::Lower,
        Severity::Low,
        "impossible packets are not logged",
    ),
    setting(
        "net.ipv6.conf.all.accept_redirects",
        Weaker::Higher,
        Severity::Medium,
        "others may change routes",
    ),
    setting(
        "net.ipv6.conf.all.accept_source_route",
        Weaker::Higher,
        Severity::Medium,
        "senders may choose routes",
    ),
    setting("net.ipv4.ip_forward", Weaker::Higher, Severity::Low, "the host forwards packets of others"),
    setting(
        "net.ipv6.conf.all.forwarding",
        Weaker::Higher,
        Severity::Low,
        "the host forwards packets of others",
    ),
];

/// The area: values by name.
#[derive(Debug)]
pub struct Settings;

impl Area for Settings {
    type Item = String;
    const NAME: &'static str = "settings";

    fn judge(key: &str, before: Option<&String>, after: Option<&String>) -> Judgement {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name == key) else {
            return Judgement::Silent;
        };
        let (Some(before), Some(after)) = (before, after) else { return Judgement::Silent };
        let told = |severity, title| {
            Told::new("defence.kernel-setting", severity, title).attack(techniques(setting)).settle(2)
        };
        let values = format!("{key} went from {} to {}", shown(before), shown(after));
        if is_weaker(setting.weaker, before, after) {
            return Judgement::Worse(told(setting.severity, format!("{values}: {}", setting.meaning)));
        }
        Judgement::Better(told(Severity::Info, format!("{values}, as strict as before or stricter")))
    }
}

/// Rules of a kind: starting a program as root is not the same as a weaker guard.
fn techniques(setting: &Setting) -> &'static [&'static str] {
    if setting.weaker == Weaker::Other { &["T1547", "T1562.001"] } else { &["T1562.001"] }
}

fn is_weaker(weaker: Weaker, before: &str, after: &str) -> bool {
    let number = |text: &str| text.split_whitespace().next().and_then(|word| word.parse::<i64>().ok());
    match (weaker, number(before), number(after)) {
        (Weaker::Lower, Some(before), Some(after)) => after < before,
        (Weaker::Higher, Some(before), Some(after)) => after > before,
        // Only a program is worse than no program: `core` and an empty text start nothing.
        (Weaker::Other, ..) => after.starts_with('|') || after.starts_with('/'),
        _ => false,
    }
}

fn shown(value: &str) -> String {
    if value.is_empty() { "nothing".to_owned() } else { word(value) }
}
