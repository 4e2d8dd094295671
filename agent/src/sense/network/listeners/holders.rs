//! Who holds sockets: all processes are gone through once for all that are asked about.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use picket_protocol::finding::Text;

use super::place;
use crate::clock;
use crate::detect::listener::program::{Code, Started, base, is_shell};
use crate::detect::listener::{Holder, Process};
use crate::sense::host::defences::who;
use crate::sense::logins::names::Names;
use crate::sense::packages::programs::Programs;
use crate::sense::processes::{self, Processes};

/// Descriptors of one process that are looked at.
const DESCRIPTORS_MAX: usize = 65_536;
/// Holders of one socket that are looked at: a server may have as many workers.
const HOLDERS_MAX: usize = 4_096;
/// Bytes of arguments and control groups that are read.
const TEXT_BYTES_MAX: u64 = 16 * 1024;

/// Finds who holds sockets and what that is.
#[derive(Debug)]
pub struct Finder {
    proc: PathBuf,
    processes: Processes,
    programs: Programs,
    names: Names,
}

impl Finder {
    /// For this host.
    pub fn new(processes: Processes) -> Self {
        Self {
            proc: PathBuf::from("/proc"),
            processes,
            programs: Programs::open(Path::new("/")),
            names: Names::of_host(),
        }
    }

    /// Who holds the sockets with these inodes; nobody where it is missing.
    pub fn find(&mut self, inodes: &HashSet<u32>) -> HashMap<u32, Holder> {
        let held = held(&self.proc, inodes);
        self.processes.catch_up();
        // A process is looked at once, whatever it holds.
        let mut known: HashMap<u32, Option<Process>> = HashMap::new();
        let mut found = HashMap::new();
        for (inode, pids) in held {
            let Some(pid) = eldest(&pids) else { continue };
            let process = known.entry(pid).or_insert_with(|| self.process(pid));
            let Some(process) = process else { continue };
            let holders = u32::try_from(pids.len()).unwrap_or(u32::MAX);
            found.insert(inode, Holder::Process(Box::new(Process { holders, ..process.clone() })));
        }
        found
    }

    /// All that is to be known of a process; none when it is gone.
    fn process(&mut self, pid: u32) -> Option<Process> {
        let directory = self.proc.join(pid.to_string());
        let link = fs::read_link(directory.join("exe")).ok()?;
        let bytes = link.as_os_str().as_bytes();
        let path = PathBuf::from(OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes)));
        let table = self.processes.get(pid, clock::since_boot());
        let facts = table.as_ref().map(|process| process.program.facts());
        // What the kernel told when the program began is better than what it says of itself now, when it is of this very program.
        let told = facts
            .filter(|facts| *facts.executable == *path.as_os_str().as_bytes() && !facts.arguments.is_empty());
        let arguments = match told {
            Some(facts) => facts.arguments.to_vec(),
            None => read(&directory.join("cmdline")),
        };
        let mut actor = match &table {
            Some(process) => process.actor(),
            None => who::actor(&self.proc, pid, None),
        };
        if actor.container.is_none() {
            actor.container = processes::container_of(pid).map(String::from);
        }
        let contained = actor.container.is_some();
        let on_disk = place::on_disk(&self.proc, pid, &path, actor.started, &mut self.programs);
        let executable = place::run(&self.proc, pid, &path, contained, &mut self.programs);
        let started = Started::new(path.as_os_str().as_bytes(), &arguments);
        let script = match started.code() {
            Some(Code::Script(script)) if !script.is_empty() => Some(place::script(&self.proc, pid, script)),
            Some(Code::Module(module)) => place::module(&self.proc, pid, module),
            _ => None,
        };
        let script = script.map(|script| place::run(&self.proc, pid, &script, contained, &mut self.programs));
        let piped_to_shell = started.is_relay() && is_piped_to_shell(&self.proc, pid);
        let uid = actor.effective_uid.or(actor.uid);
        let user = uid.and_then(|uid| self.names.name(uid, clock::now()));
        let unit = unit(&String::from_utf8_lossy(&read(&directory.join("cgroup"))));
        Some(Process {
            user: user.or_else(|| uid.map(|uid| Text::from_bytes(uid.to_string().as_bytes()))),
            actor,
            unit,
            arguments,
            executable,
            on_disk,
            script,
            piped_to_shell,
            holders: 1,
        })
    }
}

fn read(path: &Path) -> Vec<u8> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(TEXT_BYTES_MAX).read_to_end(&mut bytes));
    if read.is_ok() { bytes } else { Vec::new() }
}

/// Processes that hold each of these.
fn held(proc: &Path, inodes: &HashSet<u32>) -> HashMap<u32, Vec<u32>> {
    let mut held: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in who::pids(proc) {
        let Ok(entries) = fs::read_dir(proc.join(pid.to_string()).join("fd")) else { continue };
        for entry in entries.flatten().take(DESCRIPTORS_MAX) {
            let Some(inode) = socket(&entry.path()).filter(|inode| inodes.contains(inode)) else { continue };
            let pids = held.entry(inode).or_default();
            if pids.last() != Some(&pid) && pids.len() < HOLDERS_MAX {
                pids.push(pid);
            }
        }
    }
    held
}

fn socket(path: &Path) -> Option<u32> {
    let target = fs::read_link(path).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Of several the one that began first: workers inherit a socket. The first process of the host holds sockets for services that it starts on demand, and
/// then the service is meant, once there is one.
fn eldest(pids: &[u32]) -> Option<u32> {
    let lives = pids.iter().filter(|pid| **pid != 1).filter_map(|pid| processes::life(*pid));
    let eldest = lives.min_by_key(|life| (life.started, life.pid)).map(|life| life.pid);
    eldest.or_else(|| pids.contains(&1).then_some(1))
}

/// Whether a shell's input or output is what this process reads from or writes to.
fn is_piped_to_shell(proc: &Path, pid: u32) -> bool {
    let ends = |pid: u32| -> Vec<PathBuf> {
        let directory = proc.join(pid.to_string()).join("fd");
        let targets = ["0", "1", "2"].into_iter().filter_map(|name| fs::read_link(directory.join(name)).ok());
        targets.filter(|target| is_pipe(proc, pid, target)).collect()
    };
    let own = ends(pid);
    !own.is_empty()
        && who::pids(proc).into_iter().filter(|other| *other != pid).any(|other| {
            let executable = fs::read_link(proc.join(other.to_string()).join("exe")).unwrap_or_default();
            let name = String::from_utf8_lossy(base(executable.as_os_str().as_bytes())).into_owned();
            is_shell(&name) && ends(other).iter().any(|end| own.contains(end))
        })
}

/// An anonymous pipe, a pair of sockets, or a pipe with a name.
fn is_pipe(proc: &Path, pid: u32, target: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    let text = target.as_os_str().as_bytes();
    if text.starts_with(b"pipe:[") {
        return true;
    }
    let below = target.strip_prefix("/").ok();
    let path = below.map(|below| proc.join(pid.to_string()).join("root").join(below));
    path.and_then(|path| path.metadata().ok()).is_some_and(|metadata| metadata.file_type().is_fifo())
}

/// The service manager's unit in the text of `/proc/PID/cgroup`: the innermost service, else the innermost scope.
fn unit(groups: &str) -> Option<String> {
    let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut names: Vec<&str> = paths.flat_map(|path| path.rsplit('/')).collect();
    names.retain(|name| name.len() <= 256);
    let of = |end: &str| names.iter().find(|name| name.ends_with(end)).map(|name| (*name).to_owned());
    of(".service").or_else(|| of(".scope"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn inode(listener: &TcpListener) -> u32 {
        socket(&PathBuf::from(format!("/proc/self/fd/{}", listener.as_raw_fd()))).unwrap()
    }

    #[test]
    fn this_process_is_found_behind_its_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = inode(&listener);
        let found = Finder::new(Processes::default()).find(&HashSet::from([inode]));
        let Some(Holder::Process(process)) = found.get(&inode) else { panic!("{found:?}") };
        assert_eq!(process.actor.pid, std::process::id());
        let own = std::env::current_exe().unwrap();
        assert_eq!(process.executable.path.text, own.to_str().unwrap());
        assert!(process.user.is_some() && process.script.is_none(), "{process:?}");
    }

    #[test]
    fn a_relay_is_piped_to_the_shell_that_reads_from_it() {
        let mut relay = Command::new("sleep").arg("60").stdout(Stdio::piped()).spawn().unwrap();
        let out = relay.stdout.take().unwrap();
        assert!(!is_piped_to_shell(Path::new("/proc"), relay.id()));
        // The word after it keeps the shell from becoming what it runs.
        let mut shell = Command::new("sh").args(["-c", "cat; true"]).stdin(out).spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !is_piped_to_shell(Path::new("/proc"), relay.id()) && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        let piped = is_piped_to_shell(Path::new("/proc"), relay.id());
        relay.kill().unwrap();
        relay.wait().unwrap();
        shell.wait().unwrap();
        assert!(piped);
    }

    #[test]
    fn units_are_read_from_the_names_of_groups() {
        let check = |groups: &str, expected: Option<&str>| assert_eq!(unit(groups).as_deref(), expected);
        check("0::/system.slice/nginx.service\n", Some("nginx.service"));
        check("0::/user.slice/user-0.slice/session-3.scope\n", Some("session-3.scope"));
        check("0::/user.slice/user@0.service/app.slice/x.scope\n", Some("user@0.service"));
        check("12:pids:/\n1:name=systemd:/system.slice/cron.service\n", Some("cron.service"));
        check("0::/\n", None);
    }
}
