//! Services of a real systemd: it runs as the first process of namespaces of its own, on an overlay of this machine's root,
//! and its real `systemctl` stops, disables and masks.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Lab, sh};

/// Everything that is written goes to memory and with the namespaces.
const BOOT: &str = r#"
mount --make-rprivate /
mkdir -p "$0/top" "$0/root"
mount -t tmpfs tmpfs "$0/top"
mkdir "$0/top/upper" "$0/top/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$0/top/upper,workdir=$0/top/work" "$0/root"
cd "$0/root"
for unit in cron fail2ban; do
  printf '[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n' > usr/lib/systemd/system/$unit.service
done
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs dev
for node in null zero full random urandom tty; do touch dev/$node; mount --bind /dev/$node dev/$node; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir run/old
pivot_root . run/old
umount -l /run/old
exec env -i container=picket PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=null --unit=sysinit.target
"#;

/// A machine of the test's own.
struct Machine {
    unshare: Child,
    group: PathBuf,
    /// systemd, as this machine numbers it.
    pid: u32,
}

impl Machine {
    fn boot(directory: &Path) -> Self {
        let bases = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let base = bases.into_iter().find(|base| base.join("cgroup.procs").exists()).expect("cgroup2");
        let group = base.join(format!("picket-systemd-{}", std::process::id()));
        std::fs::create_dir(&group).unwrap();
        let mut unshare = Command::new("sh");
        unshare.args(["-ec", "echo $$ > \"$0/cgroup.procs\"; exec unshare --fork --pid --mount --uts --ipc --cgroup --net --kill-child sh -ec \"$1\" \"$2\""]);
        unshare.arg(&group).arg(BOOT).arg(directory.join("machine")).stdin(Stdio::null()).process_group(0);
        std::fs::create_dir(directory.join("machine")).unwrap();
        let unshare = unshare.spawn().unwrap();
        let mut machine = Self { unshare, group, pid: 0 };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !machine.is_up() {
            assert!(Instant::now() < deadline, "systemd does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        machine
    }

    fn is_up(&mut self) -> bool {
        assert!(self.unshare.try_wait().unwrap().is_none(), "the machine went down");
        let of = self.unshare.id();
        let children = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
        let Some(pid) = children.split_whitespace().next().and_then(|pid| pid.parse().ok()) else {
            return false;
        };
        self.pid = pid;
        let is_systemd =
            std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("systemd"));
        is_systemd && self.systemctl(&["is-active", "--quiet", "sysinit.target"])
    }

    fn systemctl(&self, arguments: &[&str]) -> bool {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "-a", "systemctl"]).args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    fn control(&self, arguments: &str) {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        assert!(self.systemctl(&arguments), "systemctl {arguments:?}");
    }

    /// Its root, as this machine reaches it.
    fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _gone = self.unshare.kill().is_err();
        let _waited = self.unshare.wait().is_err();
        let deadline = Instant::now() + Duration::from_secs(20);
        // Its processes end with it, one after the other.
        let clear = format!("find {} -depth -type d -exec rmdir {{}} + 2>/dev/null", self.group.display());
        while self.group.exists() && Instant::now() < deadline {
            let _kept = Command::new("sh").args(["-c", &clear]).status().is_err();
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn services_of_a_real_systemd_that_are_stopped_disabled_or_masked_are_told() {
    let mut lab = Lab::new();
    let machine = Machine::boot(&lab.path("."));
    for unit in ["rsyslog", "cron", "fail2ban"] {
        machine.control(&format!("enable {unit}.service"));
        machine.control(&format!("start {unit}.service"));
    }
    lab.setup.root = machine.root();
    // What settles has six seconds here: a busy machine takes some from the disabling of a unit to its stop.
    lab.setup.haste = 5;
    lab.start(&["services"]);
    // An upgrade restarts it.
    let events = lab.counter("events");
    machine.control("restart rsyslog.service");
    lab.wait("the event of the restart", |lab| lab.counter("events") > events);
    machine.control("stop syslog.socket");
    machine.control("disable --now rsyslog.service");
    let words = "rsyslog.service (logging) has stopped and is no longer started at boot";
    lab.told_only("defence.logging", "high", words);
    lab.forget();
    machine.control("stop cron.service");
    lab.told_only("defence.service", "medium", "cron.service (scheduled jobs) has stopped");
    lab.forget();
    machine.control("mask --now fail2ban.service");
    lab.told_only("defence.service", "high", "fail2ban.service (security) has stopped and was masked");
    lab.forget();
    // Killed from inside, without a word to systemd.
    machine.control("start cron.service");
    lab.told_only("defence.service", "info", "cron.service runs again");
    lab.forget();
    let group = machine.root().join("sys/fs/cgroup/system.slice/cron.service/cgroup.procs");
    let pid = std::fs::read_to_string(group).unwrap();
    sh(&format!("kill -KILL {}", pid.trim()));
    lab.told_only("defence.service", "medium", "cron.service (scheduled jobs) has stopped");
    lab.forget();
    machine.control("unmask fail2ban.service");
    machine.control("start fail2ban.service");
    lab.told_only("defence.service", "info", "fail2ban.service runs again");
    lab.stop();
}
