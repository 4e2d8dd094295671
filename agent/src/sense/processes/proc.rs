//! What `/proc` tells of a process that still runs. Everything in it may change or vanish between two reads, and names
//! and arguments are anybody's: what cannot be read is not known, and a process that was replaced by another meanwhile
//! is not taken for it.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;

use super::container;
use super::process::{ProgramFacts, Users};
use super::record::set;
use super::table::{Snapshot, TICK};

/// Bytes of arguments that are read.
pub const ARGUMENTS_BYTES_MAX: usize = 1_024;
/// Bytes of `stat`, `status` and `cgroup` that are read.
const TEXT_BYTES_MAX: u64 = 16 * 1024;
/// `PF_KTHREAD`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// What `stat` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) name: Vec<u8>,
    state: char,
    pub(crate) parent: u32,
    pub(crate) flags: u64,
    /// In clock ticks, since boot.
    pub(crate) started: u64,
}

/// A process as the kernel counts it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its number.
    pub pid: u32,
    /// Who is above it.
    pub parent: u32,
    /// When it began, in clock ticks since boot: with the number it is unique within a boot.
    pub started: u64,
    /// It is a thread of the kernel.
    pub kernel: bool,
    /// What it calls itself.
    pub name: Vec<u8>,
    /// `R`, `S`, `T` and so on.
    pub state: char,
}

impl Life {
    /// Whether it has not ended; a process that nobody has waited for yet has.
    pub fn runs(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// The process that has the number `pid` now.
pub fn life(pid: u32) -> Option<Life> {
    let Stat { name, state, parent, flags, started } = stat(pid)?;
    Some(Life { pid, parent, started, kernel: flags & KERNEL_THREAD != 0, name, state })
}

/// All that is to be known of `pid` now.
pub fn read(pid: u32) -> Option<Snapshot> {
    let stat = stat(pid)?;
    let snapshot = Snapshot {
        pid,
        parent: stat.parent,
        started: stat.started.saturating_mul(TICK),
        users: users(pid).unwrap_or_default(),
        program: program_of(pid, &stat),
    };
    // Another one with the same number would have begun later.
    (self::stat(pid)?.started == stat.started).then_some(snapshot)
}

/// What it runs; empty where it cannot be seen.
pub fn program(pid: u32) -> Option<ProgramFacts> {
    Some(program_of(pid, &stat(pid)?))
}

/// As whom it runs.
pub fn users(pid: u32) -> Option<Users> {
    let (real, effective) = real_and_effective(pid)?;
    let audit = |name| text(pid, name).and_then(|text| set(text.trim().parse().ok()?));
    Some(Users {
        real: Some(real),
        effective: Some(effective),
        login: audit("loginuid"),
        session: audit("sessionid"),
    })
}

/// The first half of `users`, at a fraction of the cost.
pub fn real_and_effective(pid: u32) -> Option<(u32, u32)> {
    uids_of(&text(pid, "status")?)
}

/// All whom it can act as without asking anybody: real, effective, saved, and that for files.
pub fn all_uids(pid: u32) -> Option<[u32; 4]> {
    all_uids_of(&text(pid, "status")?)
}

/// The container that it runs in.
pub fn container(pid: u32) -> Option<Box<str>> {
    text(pid, "cgroup").and_then(|text| container_of(&text))
}

/// The numbers of all processes.
pub fn all() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn program_of(pid: u32, stat: &Stat) -> ProgramFacts {
    if stat.flags & KERNEL_THREAD != 0 {
        let name = [b"[".as_slice(), &stat.name, b"]"].concat();
        return ProgramFacts { arguments: name.into_boxed_slice(), ..ProgramFacts::default() };
    }
    let exe = format!("/proc/{pid}/exe");
    let link = std::fs::read_link(&exe).map(|path| path.into_os_string().into_vec()).unwrap_or_default();
    let deleted =
        link.ends_with(b" (deleted)") && std::fs::metadata(&exe).is_ok_and(|meta| meta.nlink() == 0);
    let executable = if deleted { link.strip_suffix(b" (deleted)").unwrap_or(&link) } else { &link };
    let mut arguments = bytes(pid, "cmdline", ARGUMENTS_BYTES_MAX + 1).unwrap_or_default();
    let cut = arguments.len() > ARGUMENTS_BYTES_MAX;
    arguments.truncate(ARGUMENTS_BYTES_MAX);
    ProgramFacts {
        executable: executable.into(),
        deleted,
        arguments: arguments.into_boxed_slice(),
        cut,
        container: container(pid),
    }
}

/// Lines `hierarchy:controllers:path`; the first path that names a container.
pub(crate) fn container_of(groups: &str) -> Option<Box<str>> {
    groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find_map(container::of_path)
}

/// Real and effective user in the text of `status`.
pub(crate) fn uids_of(status: &str) -> Option<(u32, u32)> {
    all_uids_of(status).map(|[real, effective, ..]| (real, effective))
}

fn all_uids_of(status: &str) -> Option<[u32; 4]> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let numbers = line.split_ascii_whitespace().map(|number| number.parse().ok());
    numbers.collect::<Option<Vec<u32>>>()?.try_into().ok()
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&bytes(pid, "stat", 4_096)?)
}

/// The name is what the process says it is, and may hold spaces, brackets and newlines: the fields after it are
/// counted from its end.
pub(crate) fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let begin = memchr::memchr(b'(', stat)? + 1;
    let end = memchr::memrchr(b')', stat)?;
    let fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let flags = fields.nth(4)?.parse().ok()?;
    let started = fields.nth(12)?.parse().ok()?;
    Some(Stat { name: stat.get(begin..end)?.to_vec(), state, parent, flags, started })
}

fn text(pid: u32, name: &str) -> Option<String> {
    let file = File::open(format!("/proc/{pid}/{name}")).ok()?;
    let mut bytes = Vec::with_capacity(2_048);
    file.take(TEXT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn bytes(pid: u32, name: &str, max: usize) -> Option<Vec<u8>> {
    let file = File::open(format!("/proc/{pid}/{name}")).ok()?;
    let mut bytes = Vec::with_capacity(max);
    file.take(u64::try_from(max).ok()?).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_the_fields_behind_it() {
        let tail = " S 41 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 1";
        for name in ["sh", "a) S 1 (", "x\ny", ") R 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1"] {
            let stat = parse_stat(format!("12 ({name}){tail}").as_bytes()).unwrap();
            assert_eq!((stat.parent, stat.flags, stat.started), (41, 4_194_304, 987_654), "{name:?}");
            assert_eq!(stat.name, name.as_bytes());
        }
        assert_eq!(parse_stat(b"12 (sh"), None);
        assert_eq!(parse_stat(b"12 (sh) S"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn this_process_is_read_as_it_is() {
        let own = read(std::process::id()).unwrap();
        let exe = std::env::current_exe().unwrap();
        assert_eq!(own.program.executable.as_ref(), exe.as_os_str().as_encoded_bytes());
        assert!(own.program.arguments.starts_with(std::env::args().next().unwrap().as_bytes()));
        assert_eq!(own.users.real, Some(rustix::process::getuid().as_raw()));
        assert_eq!(own.parent, std::os::unix::process::parent_id());
        assert!(all().contains(&own.pid));
        assert_eq!(read(u32::MAX), None);
    }

    #[test]
    fn the_users_and_the_container_are_found_in_their_lines() {
        assert_eq!(uids_of("Name:\tsh\nUid:\t1000\t0\t0\t0\nGid:\t1\n"), Some((1000, 0)));
        assert_eq!(all_uids_of("Uid:\t300000\t1000\t1000\t1000\n"), Some([300_000, 1000, 1000, 1000]));
        assert_eq!(uids_of("Name:\tUid: 5\n"), None);
        let groups = "9:name=systemd:/docker/0123456789abcdef\n0::/x\n";
        assert_eq!(container_of(groups).as_deref(), Some("docker:0123456789ab"));
        assert_eq!(container_of("0::/system.slice/ssh.service\n"), None);
    }
}
