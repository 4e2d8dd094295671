//! A control group of the test's own. An agent that is started in it by [`Group::words`] sees it as the root of all groups, so that no test
//! touches the root of the machine that it runs on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::{output, stdout_of};
use crate::wait_for;

/// Enters the group, in namespaces of control groups and mounts of its own; it is the only one that is mounted there, and has what no
/// root has.
const ENTER: &str = "echo $$ >\"$1/cgroup.procs\"; shift; exec unshare --cgroup --mount sh -ec '\
    umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; test -e /sys/fs/cgroup/cgroup.events; \
    test \"$(grep -c \" - cgroup2 \" /proc/self/mountinfo)\" = 1; exec \"$@\"' sh \"$@\"";
const JOIN: &str = "echo $$ >\"$1/cgroup.procs\"; shift; exec \"$@\"";

/// See the module. It goes when it is dropped, with those below it; who was started in it must have ended.
pub struct Group {
    path: PathBuf,
}

impl Default for Group {
    fn default() -> Self {
        Self::new()
    }
}

impl Group {
    /// Makes it.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = root().join(format!("picket-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("control groups of version 2");
        Self { path }
    }

    /// A group below it.
    pub fn below(&self, name: &str) -> Self {
        let path = self.path.join(name);
        std::fs::create_dir(&path).expect("a group");
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What runs a program so that this group is the root of all that it sees.
    pub fn words(&self) -> Vec<&str> {
        vec!["sh", "-ec", ENTER, "sh", self.path.to_str().expect("text")]
    }

    /// What runs a program in it.
    pub fn joined(&self) -> Vec<&str> {
        vec!["sh", "-ec", JOIN, "sh", self.path.to_str().expect("text")]
    }

    /// Does something while this process is in it: what the kernel makes then belongs to it.
    pub fn within<T>(&self, act: impl FnOnce() -> T) -> T {
        let own = std::fs::read_to_string("/proc/self/cgroup").expect("the own group");
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("a group of version 2");
        let enter = |group: &Path| {
            let written = std::fs::write(group.join("cgroup.procs"), std::process::id().to_string());
            written.expect("to be moved");
        };
        enter(&self.path);
        let done = act();
        enter(&root().join(own));
        done
    }

    /// Numbers of the BPF programs that are attached to it, and by which way (`cgroup_inet_ingress`), as bpftool shows them.
    pub fn programs(&self) -> Vec<(String, String)> {
        let shown = stdout_of(Command::new("bpftool").args(["cgroup", "show"]).arg(&self.path));
        let of_line = |line: &str| {
            let mut words = line.split_whitespace();
            let number = words.next().filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()))?;
            Some((number.to_owned(), words.next()?.to_owned()))
        };
        shown.lines().filter_map(of_line).collect()
    }

    /// Detaches all of them, as somebody else would.
    pub fn detach(&self) {
        for program in self.programs() {
            let (number, way) = &program;
            let mut detach = Command::new("bpftool");
            detach.args(["cgroup", "detach"]).arg(&self.path).args([way, "id", number]);
            let out = output(&mut detach);
            // Whoever puts his own back between one and the next may have taken the next away.
            assert!(out.status.success() || !self.programs().contains(&program), "{detach:?}: {out:?}");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What was started in it may still be there.
            let _left = std::fs::remove_dir(&self.path).is_err();
            return;
        }
        wait_for("the group to be empty", || std::fs::remove_dir(&self.path).ok());
    }
}

/// Where control groups of version 2 are mounted.
fn root() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let of_line = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| place.split(' ').nth(4).map(PathBuf::from))?
    };
    mounts.lines().find_map(of_line).expect("control groups of version 2 are mounted")
}
