//! Whom the rounds are about: an account in an `/etc` of its own, and processes that are stopped, cut off or ended.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::named::NamedProcess;
use crate::process::{children_of, stdout_of};
use crate::wait_for;

/// The account.
pub const USER: &str = "rita";

/// Lays an overlay over `/etc`, in a namespace that is held until the input ends, and makes the account there.
const KEEPER: &str = r#"
set -e
mount -t tmpfs -o mode=755 picket-rounds "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" picket-rounds /etc
useradd --no-log-init --no-create-home --shell /bin/bash --uid "$2" "$3" 2>/dev/null
echo ready
exec cat
"#;

/// A mount namespace with an `/etc` that may be changed.
pub struct Etc {
    keeper: Child,
    place: PathBuf,
}

impl Etc {
    /// Makes it below `dir`, with [`USER`] of the number `uid`.
    pub fn new(dir: &Path, uid: u32) -> Self {
        let place = dir.join("etc");
        std::fs::create_dir(&place).expect("a directory");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", KEEPER, "keeper"]).arg(&place);
        command.args([&uid.to_string(), USER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = command.spawn().expect("unshare");
        let mut line = String::new();
        let said = BufReader::new(keeper.stdout.as_mut().expect("its output")).read_line(&mut line);
        assert!(said.is_ok() && line == "ready\n", "an overlay of /etc with an account is refused");
        Self { keeper, place }
    }

    /// What runs a program there.
    pub fn enter(&self) -> [String; 3] {
        ["nsenter", &format!("--mount=/proc/{}/ns/mnt", self.keeper.id()), "--wdns=/"].map(str::to_owned)
    }

    /// What a shell says there of `script`, whose first argument is where changes of `/etc` are kept.
    pub fn shell(&self, script: &str) -> String {
        let [program, mount, at] = self.enter();
        let mut command = Command::new(program);
        command.args([&mount, &at]).args(["sh", "-c", script, "sh"]).arg(self.place.join("upper"));
        stdout_of(&mut command)
    }
}

impl Drop for Etc {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // Both fail only when it has ended already.
        let _ended = (self.keeper.kill(), self.keeper.wait());
    }
}

/// One process with all beneath it, begun anew when it has ended.
pub struct Role {
    name: &'static str,
    command: Command,
    child: Option<Child>,
    /// An order of this round ends it.
    pub is_to_end: bool,
}

impl Role {
    /// What `command` runs.
    pub fn new(name: &'static str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut role = Self { name, command, child: None, is_to_end: false };
        role.renew();
        role
    }

    /// Begins it, if it does not live.
    pub fn renew(&mut self) {
        self.is_to_end = false;
        let lives = self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|end| end.is_none()));
        if !lives {
            let child = self.command.spawn().expect("a process");
            let pid = child.id();
            self.child = Some(child);
            // It is who it is to be once nothing else is executed.
            wait_for(self.name, || is_asleep(pid).then_some(()));
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// As orders name it.
    pub fn named(&self) -> [String; 6] {
        let NamedProcess { pid, started, sha256 } = NamedProcess::of(self.pid());
        ["--pid".to_owned(), pid, "--started".to_owned(), started, "--sha256".to_owned(), sha256]
    }

    /// Its name and whether it and those beneath it run, are stopped, or are gone. One that was to end, and did, counts as it was.
    pub fn state(&self) -> String {
        if self.is_to_end && self.is_gone() {
            return format!("{}: runs", self.name);
        }
        let all = [self.pid()].into_iter().chain(children_of(self.pid()));
        let states: Vec<&str> = all.map(state).collect();
        format!("{}: {}", self.name, states.join(" "))
    }

    /// Whether it has ended.
    pub fn is_gone(&self) -> bool {
        state(self.pid()) == "gone"
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        for pid in children_of(child.id()) {
            // It may have ended by itself.
            let _gone = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
        let _ended = (child.kill(), child.wait());
    }
}

fn state(pid: u32) -> &'static str {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    match stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next()) {
        None | Some('Z' | 'X') => "gone",
        Some('T' | 't') => "stopped",
        Some(_) => "runs",
    }
}

/// Whether it, or who is beneath it, is the `sleep` that each of them ends in.
fn is_asleep(pid: u32) -> bool {
    let sleeps = |pid: u32| {
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program.ends_with("sleep"))
    };
    [pid].into_iter().chain(children_of(pid)).any(sleeps)
}

/// A control group that looks like a unit's; none where there is no version 2 of them.
pub struct Unit {
    /// Its name.
    pub name: String,
    path: PathBuf,
}

impl Unit {
    /// Makes it.
    pub fn new() -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
        let name = format!("picket-rounds-{}.service", std::process::id());
        let path = Path::new(line.split(' ').nth(4)?).join(&name);
        std::fs::create_dir(&path).ok()?;
        Some(Self { name, path })
    }

    /// A shell's words that make it one of the unit.
    pub fn join(&self) -> String {
        format!("echo $$ >{}/cgroup.procs", self.path.display())
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // Who was killed leaves it after a moment; what is left goes with the machine.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
