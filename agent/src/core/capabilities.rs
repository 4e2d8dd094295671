//! Gives up every capability that no part of the core needs, before there is a second thread.

use caps::{CapSet, Capability, CapsHashSet};

/// What is kept, and who needs it.
pub const KEPT: [(Capability, &str); 17] = [
    (Capability::CAP_DAC_READ_SEARCH, "files, logins: read what is watched, open by handle"),
    // With it CAP_BPF and CAP_PERFMON, which it includes, give nothing more.
    (
        Capability::CAP_SYS_ADMIN,
        "files: fanotify marks on whole file systems; respond: look into networks of containers; processes, defences, guard: load and list BPF programs",
    ),
    (
        Capability::CAP_SYS_PTRACE,
        "processes, defences, listeners: see what others run and hold (/proc/PID), which the kernel shows to nobody else",
    ),
    (
        Capability::CAP_NET_ADMIN,
        "defences: read firewall rules and hear of their changes; network: count in drivers and queues; respond: firewall rules, BPF programs at control groups",
    ),
    (
        Capability::CAP_NET_RAW,
        "neighbours: see ARP, neighbour discovery and DHCP on the wire; network: the socket on which packets are counted",
    ),
    (
        Capability::CAP_AUDIT_CONTROL,
        "defences, logins: read audit's state and rules; logins: switch it on where logins.audit_enable says so",
    ),
    (Capability::CAP_AUDIT_READ, "defences, logins: hear the kernel's audit"),
    (Capability::CAP_CHOWN, "core: group of the socket and of the uplink's directory"),
    (Capability::CAP_SETUID, "link: start the uplink as its user"),
    (Capability::CAP_SETGID, "link: start the uplink as its group"),
    (Capability::CAP_SETPCAP, "link: take the uplink's bounding set away"),
    (
        Capability::CAP_KILL,
        "link: end an uplink that does not stop; respond: stop and end processes of others (freeze-*, kill-process, end-sessions)",
    ),
    (
        Capability::CAP_DAC_OVERRIDE,
        "respond: take files out of others' directories and put them back (quarantine-file, restore-file)",
    ),
    (
        Capability::CAP_FOWNER,
        "respond: the same where a directory is sticky, and with mode, times and ACL of others' files (quarantine-file, restore-file)",
    ),
    (
        Capability::CAP_FSETID,
        "respond: put files back with setuid and setgid as they had them (quarantine-file)",
    ),
    (Capability::CAP_SETFCAP, "respond: put programs back with their capabilities (quarantine-file)"),
    (
        Capability::CAP_LINUX_IMMUTABLE,
        "respond: take files away that are immutable, and keep them so in the vault (quarantine-file)",
    ),
];

/// Keeps only [`KEPT`] in this thread and in all that it will start, and lets no program that is executed gain
/// anything.
///
/// # Errors
/// What the kernel refuses, in words. Sets that are smaller already are no error.
pub fn drop_the_rest() -> Result<(), String> {
    rustix::thread::set_no_new_privs(true).map_err(|error| format!("no_new_privs: {error}"))?;
    let permitted = caps::read(None, CapSet::Permitted).map_err(|error| error.to_string())?;
    let kept: CapsHashSet = KEPT.iter().map(|(capability, _)| *capability).collect();
    let kept: CapsHashSet = kept.intersection(&permitted).copied().collect();
    if permitted.contains(&Capability::CAP_SETPCAP) {
        let bounding = caps::read(None, CapSet::Bounding).map_err(|error| error.to_string())?;
        for capability in bounding.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(|error| error.to_string())?;
        }
    }
    // Kernels before 4.3 have no ambient set, and then there is nothing to clear.
    let _none = caps::clear(None, CapSet::Ambient).is_err();
    caps::clear(None, CapSet::Inheritable).map_err(|error| error.to_string())?;
    caps::set(None, CapSet::Effective, &kept).map_err(|error| error.to_string())?;
    caps::set(None, CapSet::Permitted, &kept).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packaged_unit_allows_what_is_kept_and_no_more() {
        let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/systemd/picket-agent.service");
        let unit = std::fs::read_to_string(unit).expect("the unit");
        let lines = unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let mut allowed: Vec<String> = lines.flat_map(str::split_whitespace).map(str::to_owned).collect();
        let mut kept: Vec<String> = KEPT.iter().map(|(capability, _)| capability.to_string()).collect();
        allowed.sort();
        kept.sort();
        assert_eq!(allowed, kept);
    }
}
