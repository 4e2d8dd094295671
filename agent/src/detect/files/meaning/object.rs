//! What the object itself says, whatever its text: permissions that give power, times that were set, names and places
//! that hide.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use picket_protocol::finding::Severity;

use super::super::evidence::Aspect;
use super::super::subject::Subject;
use super::super::{Fact, short};
use super::{Case, Statement, changes_content};
use crate::sense::files::object::{Guards, Kind, ObjectState};
use crate::sense::files::traits::Format;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;
const ANY_EXECUTE: u32 = 0o111;
const WORLD_WRITABLE: u32 = 0o002;

/// A file that was made this long after it says that it was last changed had its time set, in nanoseconds. Tools that
/// copy times (tar, rsync, package managers) set it too: alone it says little.
const BACKDATED: i64 = 60 * 1_000_000_000;
/// A modification time this much later than the status change, in nanoseconds, was set by hand.
const FUTURE: i64 = 86_400 * 1_000_000_000;

/// Where anybody may write.
pub const WORLD_PLACES: &[&str] =
    &["/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/run/user", "/dev/mqueue", "/var/crash"];
/// Where programs of the system are.
const PROGRAM_PLACES: &[&str] = &[
    "/usr", "/bin", "/sbin", "/lib", "/lib64", "/opt", "/snap", "/nix", "/var/lib", "/boot", "/home",
    "/root", "/srv",
];
/// Programs whose names intruders borrow; kernel threads have names in brackets.
const BORROWED: &[&str] = &[
    "sshd",
    "systemd",
    "init",
    "bash",
    "sh",
    "dash",
    "cron",
    "crond",
    "login",
    "su",
    "sudo",
    "ps",
    "ls",
    "top",
    "netstat",
    "ss",
    "kworker",
    "kthreadd",
    "ksoftirqd",
    "dbus-daemon",
    "rsyslogd",
    "auditd",
    "agetty",
    "udevd",
    "systemd-udevd",
    "systemd-journald",
    "systemd-logind",
    "systemd-resolved",
    "NetworkManager",
    "polkitd",
    "containerd",
    "dockerd",
    "apache2",
    "httpd",
    "nginx",
    "mysqld",
    "python3",
    "perl",
    "curl",
    "wget",
    "find",
    "lsof",
    "passwd",
    "iptables",
];

/// Reads the object.
pub fn read(case: &Case<'_>, changed: &[Aspect], out: &mut Vec<Statement>) {
    if let Some(after) = &case.change.after {
        power(case, after, changed, out);
        guards(case, after, changed, out);
        if changes_content(case.fact) {
            hiding(case, after, out);
        }
        times(case, after, changed, out);
        sockets(case, after, out);
    }
}

/// setuid, setgid and capabilities that appear, or whose file was replaced.
fn power(case: &Case<'_>, after: &ObjectState, changed: &[Aspect], out: &mut Vec<Statement>) {
    if after.meta.kind != Kind::File {
        return;
    }
    let path = short(&case.change.path);
    let before = case.change.before.as_ref().filter(|before| before.meta.kind == Kind::File);
    let had = |bit: u32| before.is_some_and(|before| before.meta.mode & bit != 0);
    let has = |bit: u32| after.meta.mode & bit != 0;
    let rewritten = changed.contains(&Aspect::Content);
    let owner = if after.meta.uid == 0 { "root".to_owned() } else { format!("user {}", after.meta.uid) };
    if has(SET_UID) && has(ANY_EXECUTE) && !had(SET_UID) {
        let words = format!("Whoever runs {path} acts as {owner} now (setuid)");
        out.push(Statement::new("privilege.setuid", Severity::High, "T1548.001", words));
    } else if has(SET_UID) && rewritten {
        let words = format!("A program that runs as {owner} was changed: {path} (setuid)");
        out.push(Statement::new("privilege.setuid", Severity::High, "T1548.001", words));
    }
    // Without execute for the group the bit means mandatory locking.
    let set_gid = has(SET_GID) && has(GROUP_EXECUTE);
    let group = after.meta.gid;
    if set_gid && !had(SET_GID) {
        let words = format!("Whoever runs {path} acts as group {group} now (setgid)");
        out.push(Statement::new("privilege.setgid", Severity::High, "T1548.001", words));
    } else if set_gid && rewritten && !has(SET_UID) {
        let words = format!("A program that runs as group {group} was changed: {path} (setgid)");
        out.push(Statement::new("privilege.setgid", Severity::High, "T1548.001", words));
    }
    if let Some(capability) = after.extended.capability() {
        let held = before.and_then(|before| before.extended.capability());
        let names = capability_names(capability);
        if held != Some(capability) && !before.is_some_and(|before| before.extended.is_unreadable()) {
            let words = format!("{path} has capabilities now: {names}");
            out.push(Statement::new("privilege.capability", Severity::High, "T1548", words));
        } else if rewritten {
            let words = format!("A program with capabilities ({names}) was changed: {path}");
            out.push(Statement::new("privilege.capability", Severity::High, "T1548", words));
        }
    }
}

/// The names of the permitted capabilities in a `struct vfs_cap_data`.
fn capability_names(data: &[u8]) -> String {
    const NAMES: [&str; 41] = [
        "chown",
        "dac_override",
        "dac_read_search",
        "fowner",
        "fsetid",
        "kill",
        "setgid",
        "setuid",
        "setpcap",
        "linux_immutable",
        "net_bind_service",
        "net_broadcast",
        "net_admin",
        "net_raw",
        "ipc_lock",
        "ipc_owner",
        "sys_module",
        "sys_rawio",
        "sys_chroot",
        "sys_ptrace",
        "sys_pacct",
        "sys_admin",
        "sys_boot",
        "sys_nice",
        "sys_resource",
        "sys_time",
        "sys_tty_config",
        "mknod",
        "lease",
        "audit_write",
        "audit_control",
        "setfcap",
        "mac_override",
        "mac_admin",
        "syslog",
        "wake_alarm",
        "block_suspend",
        "audit_read",
        "perfmon",
        "bpf",
        "checkpoint_restore",
    ];
    let word = |at: usize| {
        data.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
    };
    let permitted = u64::from(word(4)) | u64::from(word(12)) << 32;
    let held: Vec<&str> = NAMES
        .iter()
        .enumerate()
        .filter(|(bit, _)| permitted >> bit & 1 == 1)
        .map(|(_, name)| *name)
        .collect();
    match held.len() {
        0 => "none by itself".to_owned(),
        count if count == NAMES.len() => "all".to_owned(),
        _ => held.join(", "),
    }
}

/// An immutable or append-only flag that was taken away.
fn guards(case: &Case<'_>, after: &ObjectState, changed: &[Aspect], out: &mut Vec<Statement>) {
    let Some(before) = case.change.before.as_ref().filter(|_| changed.contains(&Aspect::Guards)) else {
        return;
    };
    let lost = |guard| before.meta.guards.contains(guard) && !after.meta.guards.contains(guard);
    let path = short(&case.change.path);
    let words = if lost(Guards::IMMUTABLE) {
        format!("{path} may be changed again: it is no longer immutable")
    } else if lost(Guards::APPEND_ONLY) {
        format!("{path} may be rewritten again: it is no longer append-only")
    } else {
        return;
    };
    out.push(Statement::new("defence.immutable", Severity::Medium, "T1222.002", words));
}

/// Executables and names in places where they are not expected.
fn hiding(case: &Case<'_>, after: &ObjectState, out: &mut Vec<Statement>) {
    let shown = short(&case.change.path);
    let fresh = matches!(case.fact, Fact::Created | Fact::Moved | Fact::TypeChanged);
    let executable = after.meta.kind == Kind::File
        && (after.meta.mode & ANY_EXECUTE != 0 || matches!(after.traits.format, Format::Executable));
    if fresh && let Some(why) = deceptive(case.path) {
        let words = format!("A name that hides was created ({why}): {shown}");
        out.push(Statement::new("file.hidden", Severity::Medium, "T1564.001", words));
    }
    if !executable || case.subject != Subject::Other && case.subject != Subject::Configuration {
        return;
    }
    let world = WORLD_PLACES.iter().any(|place| case.path.starts_with(place));
    let name = case.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let bare = name.trim_matches(['[', ']']).split('/').next().unwrap_or_default().to_owned();
    let in_place = PROGRAM_PLACES.iter().any(|place| case.path.starts_with(place));
    let bracketed = name.starts_with('[') && name.ends_with(']');
    if fresh && (!in_place && BORROWED.contains(&bare.as_str()) || bracketed) {
        let words = format!("A program under the name of another one, {bare}, was put at {shown}");
        out.push(Statement::new("file.masquerade", Severity::High, "T1036.005", words));
    } else if fresh && world && is_beneath_hidden(case.path) {
        let words = format!("A program was put in a hidden place where anybody may write: {shown}");
        out.push(Statement::new("file.hidden", Severity::Medium, "T1564.001", words));
    } else if fresh && world && case.path.starts_with("/dev") {
        let words = format!("A program was put where only devices and shared memory belong: {shown}");
        out.push(Statement::new("file.hidden", Severity::Medium, "T1564.001", words));
    } else if fresh && case.path.starts_with("/dev") {
        let words = format!("A program was put among the devices: {shown}");
        out.push(Statement::new("file.hidden", Severity::High, "T1564.001", words));
    } else if fresh && world {
        let words = format!("A program was put where anybody may write: {shown}");
        out.push(Statement::new(case.fact.rule(), Severity::Low, "T1105", words));
    }
}

/// Why a name deceives whoever lists the directory.
fn deceptive(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.as_bytes();
    let dots = name.len() >= 3 && name.iter().all(|byte| *byte == b'.');
    if dots {
        return Some("nothing but dots");
    }
    if name.starts_with(b".. ")
        || name == b". "
        || name.starts_with(b"..") && name.get(2..)?.iter().all(u8::is_ascii_whitespace)
    {
        return Some("it looks like the directory above");
    }
    if name.ends_with(b" ") || name.starts_with(b" ") {
        return Some("a space at its end");
    }
    let text = std::str::from_utf8(name).ok()?;
    (picket_protocol::finding::printable(text) != text).then_some("characters that are not shown")
}

fn is_beneath_hidden(path: &Path) -> bool {
    let hidden =
        |part: Component<'_>| matches!(part, Component::Normal(name) if name.as_bytes().starts_with(b"."));
    path.components().any(hidden)
}

/// Times that were set back or ahead.
fn times(case: &Case<'_>, after: &ObjectState, changed: &[Aspect], out: &mut Vec<Statement>) {
    let (new, path) = (&after.meta, short(&case.change.path));
    if new.kind != Kind::File {
        return;
    }
    let Some(before) = &case.change.before else {
        // Born later than it was last changed, where the place says that nobody copied it there with its times.
        let born = if new.birth != 0 { new.birth } else { new.ctime };
        let backdated = case.fact == Fact::Created
            && born.saturating_sub(new.mtime) > BACKDATED
            && matches!(
                case.subject,
                Subject::SystemCrontab
                    | Subject::UserCrontab
                    | Subject::AtJob
                    | Subject::AuthorizedKeys
                    | Subject::Preload
            );
        if backdated {
            let words = format!("{path} is new and says that it is old: its modification time was set back");
            out.push(Statement::new("file.timestomp", Severity::Low, "T1070.006", words));
        }
        return;
    };
    let old = &before.meta;
    if old.inode != new.inode || !changed.contains(&Aspect::Time) {
        return;
    }
    let back = new.mtime < old.mtime;
    let ahead = new.mtime.saturating_sub(FUTURE) > new.ctime;
    if !back && !ahead {
        return;
    }
    let rewritten = changed.contains(&Aspect::Content);
    let matters = super::super::Class::of(case.path).severity() >= Severity::Medium;
    let severity = match (rewritten, matters) {
        (true, true) => Severity::Medium,
        (true, false) | (false, true) => Severity::Low,
        (false, false) => Severity::Info,
    };
    let how = if back { "set back" } else { "set into the future" };
    let words = if rewritten {
        format!("{path} was modified and its modification time {how}, as if it had not been")
    } else {
        format!("The modification time of {path} was {how}")
    };
    out.push(Statement::new("file.timestomp", severity, "T1070.006", words));
}

/// The socket of a container engine: whoever may write to it is root.
fn sockets(case: &Case<'_>, after: &ObjectState, out: &mut Vec<Statement>) {
    let open = |state: &ObjectState| state.meta.mode & WORLD_WRITABLE != 0;
    let was_open = case.change.before.as_ref().is_some_and(open);
    if case.subject == Subject::ContainerSocket && after.meta.kind == Kind::Socket && open(after) && !was_open
    {
        let path = short(&case.change.path);
        let words =
            format!("Everybody may command the container engine now, and so be root: {path} is open to all");
        out.push(Statement::new("file.attributes", Severity::High, "T1611", words));
    }
}
