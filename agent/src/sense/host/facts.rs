//! Facts about the host: who it is ([`facts`], for `hello` and heartbeats) and how it stands ([`Condition`]).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;
use sysinfo::{DiskRefreshKind, Disks, MemoryRefreshKind, System};

/// Interfaces reported at most; a container host may have thousands of them.
pub const INTERFACES_MAX: usize = 64;
/// Addresses reported at most for one interface.
pub const ADDRESSES_MAX: usize = 16;
/// File systems reported at most.
pub const DISKS_MAX: usize = 32;
/// How long a heartbeat waits for the file systems: one on a dead server may never answer.
const DISKS_WAIT: Duration = Duration::from_secs(1);

/// Who the host is. Changes rarely.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Facts {
    /// Its name.
    pub hostname: String,
    /// `debian`, `rhel` …
    pub distribution: String,
    /// Name and version for people.
    pub os: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// `x86_64`, `aarch64` …
    pub architecture: String,
    /// When it booted.
    pub boot: Option<Timestamp>,
    /// Processors that this process may use.
    pub processors: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Network interfaces by name; at most `INTERFACES_MAX`.
    pub interfaces: BTreeMap<String, Interface>,
    /// Interfaces beyond that bound.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interfaces_left_out: usize,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Interface {
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its addresses with prefix lengths, sorted; at most `ADDRESSES_MAX`.
    pub addresses: Vec<String>,
    /// Whether it is up.
    pub up: bool,
}

/// How the host stands right now.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Condition {
    /// Seconds since boot.
    pub uptime_seconds: u64,
    /// Load over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Bytes that programs could still get.
    pub memory_available_bytes: u64,
    /// Bytes of swap in use.
    pub swap_used_bytes: u64,
    /// Processes that the kernel has killed since boot for want of memory, of the whole machine or of a control group. Kernels before 4.13
    /// do not count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// Local file systems by mount point; at most `DISKS_MAX`. Missing when they did not answer in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<BTreeMap<String, Disk>>,
}

/// A mounted file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Disk {
    /// Its size in bytes.
    pub total_bytes: u64,
    /// Bytes that are free for ordinary users.
    pub available_bytes: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// See [`Condition::oom_kills`].
pub fn oom_kills() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/vmstat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Reads who the host is. What cannot be read is left empty: no fact is worth failing for.
pub fn facts() -> Facts {
    let mut interfaces = interfaces();
    let left_out = interfaces.len().saturating_sub(INTERFACES_MAX);
    while interfaces.len() > INTERFACES_MAX {
        interfaces.pop_last();
    }
    Facts {
        hostname: System::host_name().unwrap_or_default(),
        distribution: System::distribution_id(),
        os: System::long_os_version().unwrap_or_default(),
        kernel: System::kernel_version().unwrap_or_default(),
        architecture: System::cpu_arch(),
        boot: boot_time(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory().map_or(0, |system| system.total_memory()),
        interfaces,
        interfaces_left_out: left_out,
    }
}

fn boot_time() -> Option<Timestamp> {
    let seconds = System::boot_time().ok()?;
    i64::try_from(seconds).ok().map(Timestamp::from_seconds)
}

/// A `System` with nothing but the memory figures; dropped at once, so that nothing of it stays resident.
fn memory() -> Option<System> {
    let mut system = System::new().ok()?;
    system.refresh_memory_specifics(MemoryRefreshKind::everything());
    Some(system)
}

fn interfaces() -> BTreeMap<String, Interface> {
    let mut found = BTreeMap::new();
    for interface in pnet::datalink::interfaces() {
        // The kernel allows any bytes in a name: only its bytes are trusted here.
        let name = Text::from_bytes(interface.name.as_bytes()).text;
        let up = interface.is_up();
        let mut addresses: Vec<(IpAddr, u8)> =
            interface.ips.iter().map(|network| (network.ip(), network.prefix())).collect();
        addresses.sort_unstable();
        addresses.truncate(ADDRESSES_MAX);
        let addresses = addresses.into_iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect();
        let mac = interface.mac.filter(|mac| !mac.is_zero()).map(|mac| mac.to_string());
        found.insert(name, Interface { mac, addresses, up });
    }
    found
}

/// Reads how the host stands.
#[derive(Debug, Default)]
pub struct Observer {
    /// Set while an earlier look at the file systems hangs.
    disks: Option<Receiver<BTreeMap<String, Disk>>>,
}

impl Observer {
    /// How the host stands now. Takes at most about a second, whatever its file systems do.
    pub fn condition(&mut self) -> Condition {
        let load = System::load_average().map_or([0.0; 3], |load| [load.one, load.five, load.fifteen]);
        let memory = memory();
        Condition {
            uptime_seconds: System::uptime().unwrap_or_default(),
            load,
            memory_available_bytes: memory.as_ref().map_or(0, System::available_memory),
            swap_used_bytes: memory.as_ref().map_or(0, System::used_swap),
            oom_kills: oom_kills(),
            disks: self.disks(),
        }
    }

    /// Looks at the file systems from a thread of its own: a dead FUSE or network mount blocks for ever, and
    /// the heartbeat must not stop with it. While one look hangs no other is started.
    fn disks(&mut self) -> Option<BTreeMap<String, Disk>> {
        if self.disks.is_none() {
            let (sender, receiver) = sync_channel(1);
            let look = move || {
                // Nobody listens only when the agent is stopping.
                let _unheard = sender.send(disks());
            };
            std::thread::Builder::new().name("disks".to_owned()).spawn(look).ok()?;
            self.disks = Some(receiver);
        }
        let answer = self.disks.as_ref()?.recv_timeout(DISKS_WAIT);
        if !matches!(answer, Err(RecvTimeoutError::Timeout)) {
            self.disks = None;
        }
        answer.ok()
    }
}

fn disks() -> BTreeMap<String, Disk> {
    let kind = DiskRefreshKind::nothing().with_storage();
    let Ok(disks) = Disks::new_with_refreshed_list_specifics(kind) else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for disk in &disks {
        if found.len() == DISKS_MAX {
            break;
        }
        let mount = disk.mount_point().to_string_lossy().into_owned();
        let space = Disk { total_bytes: disk.total_space(), available_bytes: disk.available_space() };
        found.insert(mount, space);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_host_its_kernel_and_its_loopback_interface() {
        let facts = facts();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(facts.kernel, kernel.trim());
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(facts.hostname, hostname.trim());
        assert!(facts.memory_bytes > 0 && facts.processors > 0 && facts.boot.is_some());
        let loopback = facts.interfaces.get("lo").expect("every host has a loopback interface");
        assert!(loopback.mac.is_none());
    }

    #[test]
    fn sees_the_root_file_system_and_does_not_keep_the_observer_busy() {
        let mut observer = Observer::default();
        let condition = observer.condition();
        assert!(condition.memory_available_bytes > 0);
        assert!(condition.disks.is_some_and(|disks| disks.len() <= DISKS_MAX));
        assert!(observer.disks.is_none());
    }

    #[test]
    fn a_file_system_that_hangs_costs_the_disks_and_not_the_heartbeat() {
        let (_sender_that_never_sends, receiver) = sync_channel(1);
        let mut observer = Observer { disks: Some(receiver) };
        assert_eq!(observer.condition().disks, None);
        assert!(observer.disks.is_some(), "no second look while the first hangs");
    }
}
