//! Which of the services that matter run and will run: systemd's control groups and unit files, without speaking to
//! systemd. Where there is no systemd: which of their programs run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::who;
use crate::detect::defences::services::{Role, Service};

/// Units by role, without `.service`.
const UNITS: [(Role, &[&str]); 3] = [
    (
        Role::Logging,
        &[
            "rsyslog",
            "syslog-ng",
            "syslog",
            "systemd-journald",
            "systemd-journal-upload",
            "auditd",
            "auditbeat",
            "filebeat",
            "fluent-bit",
            "fluentd",
            "td-agent",
            "td-agent-bit",
            "vector",
            "promtail",
            "alloy",
            "SplunkForwarder",
            "splunkd",
            "nxlog",
            "laurel",
            "go-audit",
            "elastic-agent",
            "datadog-agent",
            "google-cloud-ops-agent-fluent-bit",
            "amazon-cloudwatch-agent",
            "azuremonitoragent",
            "omsagent",
        ],
    ),
    (Role::Cron, &["cron", "crond", "cronie", "anacron", "atd", "fcron"]),
    (
        Role::Security,
        &[
            "firewalld",
            "fail2ban",
            "crowdsec",
            "sshguard",
            "clamav-daemon",
            "clamav-freshclam",
            "clamd@scan",
            "falco",
            "falco-modern-bpf",
            "falco-kmod",
            "tetragon",
            "tracee",
            "falcon-sensor",
            "wazuh-agent",
            "ossec",
            "ossec-hids",
            "osqueryd",
            "mdatp",
            "sentinelone",
            "sentinelagent",
            "cbagentd",
            "cbdaemon",
            "ds_agent",
            "xagt",
            "cortex-agent",
            "traps_pmd",
            "sophos-spl",
            "sav-protect",
            "esets",
            "eraagent",
            "suricata",
            "snort",
            "zeek",
            "samhain",
            "usbguard",
            "sysmon",
            "fapolicyd",
            "rkhunter",
            "psacct",
            "acct",
            "unattended-upgrades",
            "picket-agent",
        ],
    ),
];

/// Programs by role where there is no systemd; the kernel cuts names at 15 bytes.
const PROGRAMS: [(Role, &[&str]); 3] = [
    (
        Role::Logging,
        &[
            "rsyslogd",
            "syslog-ng",
            "syslogd",
            "systemd-journal",
            "auditd",
            "filebeat",
            "fluent-bit",
            "vector",
        ],
    ),
    (Role::Cron, &["cron", "crond", "atd", "fcron"]),
    (
        Role::Security,
        &["fail2ban-server", "clamd", "freshclam", "falco", "osqueryd", "suricata", "samhain", "crowdsec"],
    ),
];

/// Where the service manager's control groups may be.
const SLICES: [&str; 3] = [
    "sys/fs/cgroup/system.slice",
    "sys/fs/cgroup/unified/system.slice",
    "sys/fs/cgroup/systemd/system.slice",
];
const UNIT_DIRECTORIES: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
/// Bytes of a control group's list of processes that are read: one process is enough.
const EVENTS_BYTES_MAX: u64 = 4_096;

/// The directory with the control groups of services, when systemd runs.
pub fn slice(root: &Path) -> Option<PathBuf> {
    if !root.join("run/systemd/system").is_dir() {
        return None;
    }
    SLICES.iter().map(|slice| root.join(slice)).find(|slice| slice.is_dir())
}

/// The services that are installed or run.
///
/// # Errors
/// When neither control groups nor processes can be read.
pub fn read(root: &Path) -> io::Result<BTreeMap<String, Service>> {
    match slice(root) {
        Some(slice) => Ok(units(root, &slice)),
        None => programs(&root.join("proc")),
    }
}

fn units(root: &Path, slice: &Path) -> BTreeMap<String, Service> {
    let wanted = wanted(&root.join("etc/systemd/system"));
    let mut found = BTreeMap::new();
    for (role, units) in UNITS {
        for unit in units {
            let name = format!("{unit}.service");
            if is_alias(root, &name) {
                continue;
            }
            let service = Service {
                role,
                running: is_populated(&slice.join(&name)),
                enabled: wanted.contains(&name),
                masked: is_masked(root, &name),
                installed: UNIT_DIRECTORIES.iter().any(|directory| root.join(directory).join(&name).exists()),
            };
            if service.installed || service.running || service.masked {
                found.insert(name, service);
            }
        }
    }
    found
}

/// Whether processes are in that control group, of the second version or of the first.
fn is_populated(group: &Path) -> bool {
    let read = |name: &str| -> Option<String> {
        let mut text = String::new();
        fs::File::open(group.join(name)).ok()?.take(EVENTS_BYTES_MAX).read_to_string(&mut text).ok()?;
        Some(text)
    };
    match read("cgroup.events") {
        Some(events) => events.lines().any(|line| line == "populated 1"),
        None => read("cgroup.procs").is_some_and(|processes| !processes.trim().is_empty()),
    }
}

/// Names of units that others want at boot.
fn wanted(directory: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(directory) else { return BTreeSet::new() };
    let is_list = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "wants" || extension == "requires")
    };
    let lists = entries.flatten().map(|entry| entry.path()).filter(is_list);
    let units = lists.filter_map(|list| fs::read_dir(list).ok()).flat_map(Iterator::flatten);
    units.filter_map(|unit| unit.file_name().into_string().ok()).collect()
}

/// Whether the name stands for another unit, which is looked at itself.
fn is_alias(root: &Path, name: &str) -> bool {
    UNIT_DIRECTORIES.iter().any(|directory| {
        let target = fs::read_link(root.join(directory).join(name));
        target.is_ok_and(|target| target != Path::new("/dev/null") && !target.ends_with(name))
    })
}

fn is_masked(root: &Path, name: &str) -> bool {
    ["etc/systemd/system", "run/systemd/system"].iter().any(|directory| {
        fs::read_link(root.join(directory).join(name)).is_ok_and(|target| target == Path::new("/dev/null"))
    })
}

fn programs(proc: &Path) -> io::Result<BTreeMap<String, Service>> {
    let pids = who::pids(proc);
    if pids.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("no processes in {}", proc.display())));
    }
    let mut found = BTreeMap::new();
    for pid in pids {
        let Ok(comm) = fs::read_to_string(proc.join(pid.to_string()).join("comm")) else { continue };
        let comm = comm.trim_end();
        let Some((role, _)) = PROGRAMS.iter().find(|(_, programs)| programs.contains(&comm)) else {
            continue;
        };
        let service = Service { role: *role, running: true, enabled: false, masked: false, installed: true };
        found.insert(comm.to_owned(), service);
    }
    Ok(found)
}
