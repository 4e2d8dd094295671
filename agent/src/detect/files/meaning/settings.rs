//! Files that are read line by line: what the line that came says.

use picket_protocol::finding::Severity;

use super::super::redact;
use super::super::short;
use super::super::subject::Subject;
use super::{Case, STATEMENTS_MAX, Statement, place, quote, suspicious};

/// Kernel settings, and the values that weaken a host.
const WEAKENING: &[(&str, &str)] = &[
    ("kernel.randomize_va_space", "0"),
    ("kernel.kptr_restrict", "0"),
    ("kernel.dmesg_restrict", "0"),
    ("kernel.yama.ptrace_scope", "0"),
    ("kernel.unprivileged_bpf_disabled", "0"),
    ("kernel.sysrq", "1"),
    ("kernel.core_pattern", ""),
    ("kernel.modprobe", ""),
    ("kernel.modules_disabled", "0"),
    ("fs.protected_symlinks", "0"),
    ("fs.protected_hardlinks", "0"),
    ("fs.suid_dumpable", "1"),
    ("fs.suid_dumpable", "2"),
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv4.conf.all.accept_redirects", "1"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.tcp_syncookies", "0"),
    ("vm.mmap_min_addr", "0"),
];

/// Reads what came and went.
pub fn read(case: &Case<'_>, out: &mut Vec<Statement>) {
    for (raw, shown) in case.added() {
        if out.len() >= STATEMENTS_MAX {
            return;
        }
        out.extend(came(case, raw.trim(), shown));
    }
    for (raw, shown) in case.removed() {
        if out.len() >= STATEMENTS_MAX {
            return;
        }
        out.extend(went(case, raw.trim(), shown));
    }
}

fn came(case: &Case<'_>, raw: &str, shown: &str) -> Option<Statement> {
    let of_place = place(case.subject)?;
    let path = short(&case.change.path);
    let shown = quote(shown);
    let mut severity = of_place.severity;
    let mut words = raw.split_whitespace();
    let first = words.next().unwrap_or_default();
    let second = words.next().unwrap_or_default();
    let sentence = match case.subject {
        Subject::Preload => format!("{path} now loads {shown} into every program"),
        Subject::LoaderPath => format!("Libraries are now looked for in {shown} as well ({path})"),
        Subject::Hosts if is_access(case) => return access(case, raw, &shown, true),
        Subject::Hosts => return host(case, raw, &shown),
        Subject::Resolver => match first {
            "nameserver" => format!("Names are now looked up at {}", quote(second)),
            "search" | "domain" => {
                severity = Severity::Low;
                format!("Short names are now looked up in {shown}")
            }
            _ => {
                severity = Severity::Low;
                format!("How names are looked up was changed: {shown}")
            }
        },
        Subject::NameSwitch => format!("What names stand for is now looked up so: {shown}"),
        Subject::ModuleList => {
            severity = severity_of_module(first, raw);
            module(first, raw, &shown, &path)
        }
        Subject::Udev => {
            if !raw.contains("RUN") && !raw.contains("PROGRAM") && !raw.contains("IMPORT") {
                severity = Severity::Low;
                format!("A rule of udev was added: {shown}")
            } else {
                format!("A rule of udev now runs a program: {shown}")
            }
        }
        Subject::PackageSource => return source(raw, &shown, &path),
        Subject::KernelSetting => return kernel(raw, &shown, &path),
        Subject::AuditRules if is_daemons(case) => return audit_daemon(raw, &shown, &path),
        Subject::AuditRules if raw.starts_with("-D") || raw.starts_with("-e 0") => {
            severity = Severity::High;
            format!("Auditing is switched off from the next start on: {shown} ({path})")
        }
        Subject::MandatoryAccess => return mandatory(raw, &shown, &path),
        Subject::LogSettings if cuts_logging(raw) => {
            severity = Severity::Medium;
            format!("Less is logged from now on: {shown} ({path})")
        }
        Subject::LogSettings | Subject::AuditRules | Subject::FirewallRules => {
            severity = Severity::Low;
            format!("{} has a new line: {shown}", path)
        }
        Subject::Interpreter if path.ends_with(".pth") && !first.starts_with("import") => {
            severity = Severity::Low;
            format!("Python now looks for modules in {shown} as well ({path})")
        }
        Subject::ShellStartup
        | Subject::Init
        | Subject::Motd
        | Subject::CronScript
        | Subject::AtJob
        | Subject::SystemdGenerator
        | Subject::Autostart
        | Subject::GitHook
        | Subject::Interpreter
        | Subject::SshRc => return script(case, raw, &shown),
        _ => return None,
    };
    Some(Statement::new(of_place.rule, severity, of_place.technique, sentence))
}

fn went(case: &Case<'_>, raw: &str, shown: &str) -> Option<Statement> {
    let place = place(case.subject)?;
    let path = short(&case.change.path);
    let shown = quote(shown);
    let (severity, words) = match case.subject {
        Subject::AuditRules if is_daemons(case) => return None,
        Subject::AuditRules if is_replaced(case, raw) => {
            (Severity::Low, format!("An audit rule was changed, it was: {shown} ({path})"))
        }
        Subject::AuditRules => (Severity::High, format!("An audit rule was removed: {shown} ({path})")),
        Subject::FirewallRules => {
            (Severity::Medium, format!("A firewall rule was removed: {shown} ({path})"))
        }
        // What is kept, for how long and under which name; and what another line of the same kind took the place of.
        Subject::LogSettings if is_rotation(case) || is_replaced(case, raw) => return None,
        Subject::LogSettings => {
            (Severity::Medium, format!("What is logged was changed, this is gone: {shown} ({path})"))
        }
        Subject::Hosts if is_access(case) => return access(case, raw, &shown, false),
        Subject::Hosts => {
            let names = raw.split_whitespace().nth(1).unwrap_or_default();
            (Severity::Low, format!("{} is no longer in {path}", quote(names)))
        }
        Subject::Resolver => {
            (Severity::Low, format!("How names are looked up was changed, this is gone: {shown}"))
        }
        Subject::Preload => (Severity::Low, format!("{path} no longer loads {shown}")),
        Subject::NameSwitch => return None,
        _ => return None,
    };
    Some(Statement::new(place.rule, severity, place.technique, words))
}

/// Whether a line that begins with the same two words came in the place of the one that went.
fn is_replaced(case: &Case<'_>, gone: &str) -> bool {
    fn start(line: &str) -> (Option<&str>, Option<&str>) {
        let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
        (words.next(), words.next())
    }
    let key = |line| if case.subject == Subject::LogSettings { (start(line).0, None) } else { start(line) };
    case.added().iter().any(|(line, _)| key(line) == key(gone))
}

/// `logrotate.conf` and what it includes.
fn is_rotation(case: &Case<'_>) -> bool {
    case.path.starts_with("/etc/logrotate.d") || case.path.ends_with("logrotate.conf")
}

/// What sends messages nowhere.
fn cuts_logging(raw: &str) -> bool {
    let lower = raw.to_ascii_lowercase();
    let line = lower.trim_end();
    let (key, value) = line.split_once('=').unwrap_or((line, ""));
    let journal = match (key.trim(), value.trim()) {
        ("storage", "none") | ("audit", "no" | "0" | "false") => true,
        ("maxlevelstore" | "maxlevelsyslog", level) => ["emerg", "alert", "crit"].contains(&level),
        _ => false,
    };
    journal
        || line.contains("/dev/null")
        || [" stop", "\tstop", " ~", "\t~", "{stop}"].iter().any(|end| line.ends_with(end))
        || line.contains("discard")
}

/// `auditd.conf` and its plugins: no rules.
fn is_daemons(case: &Case<'_>) -> bool {
    case.path.extension().is_some_and(|extension| extension == "conf")
}

fn audit_daemon(raw: &str, shown: &str, path: &str) -> Option<Statement> {
    let (key, value) = raw.split_once('=')?;
    let (key, value) = (key.trim().to_ascii_lowercase(), value.trim().to_ascii_lowercase());
    let off = matches!((key.as_str(), value.as_str()), ("write_logs" | "local_events", "no"))
        || key == "log_file" && value.starts_with("/dev/");
    let words = format!("What is audited is no longer written down: {shown} ({path})");
    off.then(|| Statement::new("defence.audit", Severity::High, "T1562.012", words))
}

/// `SELINUX=permissive`; of profiles the diff says more.
fn mandatory(raw: &str, shown: &str, path: &str) -> Option<Statement> {
    let (key, value) = raw.split_once('=')?;
    let off = key.trim() == "SELINUX" && ["permissive", "disabled"].contains(&value.trim());
    let words = format!("SELinux forbids nothing from the next start on: {shown} ({path})");
    off.then(|| Statement::new("defence.mac", Severity::High, "T1562.001", words))
}

/// `hosts.allow` and `hosts.deny`.
fn is_access(case: &Case<'_>) -> bool {
    case.path.ends_with("hosts.allow") || case.path.ends_with("hosts.deny")
}

/// `daemons : clients [: command]`.
fn access(case: &Case<'_>, raw: &str, shown: &str, came: bool) -> Option<Statement> {
    let path = short(&case.change.path);
    let allows = case.path.ends_with("hosts.allow");
    let clients = raw.split(':').nth(1).unwrap_or_default();
    let anybody = clients.split([' ', '\t', ',']).any(|client| client == "ALL");
    let runs = ["spawn", "twist"].iter().any(|word| raw.contains(word));
    let (severity, words) = match (allows, came) {
        (_, true) if runs => {
            (Severity::High, format!("Whoever connects sets off a command: {shown} ({path})"))
        }
        (true, true) if anybody => (Severity::Medium, format!("Anybody may connect now: {shown} ({path})")),
        (true, true) => (Severity::Low, format!("Others may connect now: {shown} ({path})")),
        (false, true) => (Severity::Low, format!("Others are kept from connecting: {shown} ({path})")),
        (true, false) => (Severity::Low, format!("No longer let in by its own line: {shown} ({path})")),
        (false, false) => (Severity::Medium, format!("No longer kept from connecting: {shown} ({path})")),
    };
    Some(Statement::new("trust.hosts", severity, "T1562.004", words))
}

/// To keep a module from being loaded, and to set how one is, opens nothing.
fn severity_of_module(first: &str, raw: &str) -> Severity {
    let command = raw.split_whitespace().nth(2).unwrap_or_default();
    let to_nothing = ["/bin/false", "/bin/true", "/usr/bin/false", "/usr/bin/true"].contains(&command);
    match first {
        "install" | "remove" if to_nothing => Severity::Low,
        "blacklist" | "options" | "alias" => Severity::Low,
        _ => Severity::Medium,
    }
}

/// `address name …`.
fn host(case: &Case<'_>, raw: &str, shown: &str) -> Option<Statement> {
    let path = short(&case.change.path);
    let (rule, technique) = ("trust.hosts", "T1565.001");
    let line = raw.split('#').next().unwrap_or_default();
    let mut words = line.split_whitespace();
    let address = words.next()?;
    let names: Vec<&str> = words.collect();
    if address.parse::<std::net::IpAddr>().is_err() || names.is_empty() {
        let words = format!("{path} has a new line: {shown}");
        return Some(Statement::new(rule, Severity::Medium, technique, words));
    }
    // Names that updates and security come from.
    let telling = [
        "update", "security", "mirror", "archive", "debian", "ubuntu", "redhat", "centos", "virus", "picket",
    ];
    let silenced = names.iter().any(|name| telling.iter().any(|word| name.contains(word)));
    let severity = if silenced { Severity::High } else { Severity::Low };
    let words = format!("{} now leads to {address} ({path})", quote(&names.join(", ")));
    Some(Statement::new(rule, severity, technique, words))
}

fn module(first: &str, raw: &str, shown: &str, path: &str) -> String {
    match first {
        "install" | "remove" | "softdep" => {
            let why = suspicious::reason(raw).map(|why| format!(", which {why}")).unwrap_or_default();
            format!("Loading a kernel module now runs a command: {shown}{why} ({path})")
        }
        "blacklist" => format!("A kernel module is no longer loaded by itself: {shown} ({path})"),
        "options" | "alias" => format!("A setting of kernel modules was added: {shown} ({path})"),
        _ => format!("The kernel module {shown} is loaded at each start now ({path})"),
    }
}

fn source(raw: &str, shown: &str, path: &str) -> Option<Statement> {
    let (rule, technique) = ("trust.package-source", "T1195.002");
    let lower = raw.to_ascii_lowercase();
    let unchecked = [
        "trusted=yes",
        "trusted: yes",
        "gpgcheck=0",
        "allow-insecure",
        "allowunauthenticated",
        "verify-peer",
    ];
    let hooks = ["pre-invoke", "post-invoke", "pre-install-pkgs", "post-invoke-success"];
    if hooks.iter().any(|hook| lower.contains(hook)) {
        let words = format!("The package manager now runs: {shown} ({path})");
        return Some(Statement::new(rule, Severity::High, "T1546.016", words));
    }
    if unchecked.iter().any(|word| lower.contains(word)) {
        let words = format!("Packages are taken without their signatures being checked: {shown} ({path})");
        return Some(Statement::new(rule, Severity::High, technique, words));
    }
    let names = ["deb ", "deb-src ", "uris:", "baseurl", "mirrorlist", "metalink", "index-url", "registry"];
    if names.iter().any(|name| lower.starts_with(name)) {
        let words = format!("Packages are now taken from {shown} ({path})");
        return Some(Statement::new(rule, Severity::Medium, technique, words));
    }
    None
}

fn kernel(raw: &str, shown: &str, path: &str) -> Option<Statement> {
    let (key, value) = raw.split_once('=')?;
    let (key, value) = (key.trim().trim_start_matches('-').replace('/', "."), value.trim());
    let weakens = WEAKENING.iter().any(|(name, bad)| key == *name && (bad.is_empty() || value == *bad));
    let severity = if weakens { Severity::Medium } else { Severity::Low };
    let words = format!("The kernel setting {shown} holds from the next start on ({path})");
    Some(Statement::new("defence.kernel-setting", severity, "T1562", words))
}

/// A line of a script that something runs by itself: only what is suspicious, or starts what the system did not
/// bring, is quoted; the rest is in the diff.
fn script(case: &Case<'_>, raw: &str, shown: &str) -> Option<Statement> {
    let place = place(case.subject)?;
    let line = quote(&redact::line(shown));
    let what = short(&case.change.path);
    let (severity, words) = if let Some(why) = suspicious::reason(raw) {
        (Severity::High, format!("{what} now {why}: {line}"))
    } else if let Some(asked) = suspicious::impersonated(raw) {
        (Severity::High, format!("{what} puts something else in the place of {asked}: {line}"))
    } else if case.edited && (suspicious::own_program(raw).is_some() || starts(case, raw)) {
        (place.severity, format!("{what} now starts a program outside the system's own places: {line}"))
    } else {
        return None;
    };
    Some(Statement::new(place.rule, severity, place.technique, words))
}

/// What a desktop starts.
fn starts(case: &Case<'_>, raw: &str) -> bool {
    case.subject == Subject::Autostart && raw.starts_with("Exec=")
}
