//! How a victim is, field by field.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use rustix::fs::{Mode, OFlags, XattrFlags};

use super::cast::Etc;
use crate::process::stdout_of;

/// What the network of the victim is asked, and by which name it is told.
const ASKED: &[(&str, &str)] = &[
    ("nftables", "nft list ruleset"),
    ("iptables", "iptables-save | sed 's/ *\\[[0-9:]*\\]//; /^#/d'"),
    ("ip6tables", "ip6tables-save | sed 's/ *\\[[0-9:]*\\]//; /^#/d'"),
    ("links", "ip -o link show | sed 's/ state [A-Z]*//'"),
    ("addresses", "ip -o addr show"),
    ("rules", "ip rule show; ip -6 rule show"),
    ("routes", "ip route show table all; ip -6 route show table all"),
    ("neighbours", "ip neigh show nud permanent"),
    ("queues", "tc qdisc show; tc filter show dev near0"),
    // But for how much is tracked, which is of the moment.
    ("settings", "grep -rs . /proc/sys/net | grep -v nf_conntrack_count | sort"),
];

/// What is asked of `/etc`: the accounts byte by byte, whose they are, and all that was ever changed there. The time of `shadow` tells
/// when it was written last, whoever did.
const ACCOUNTS: &str = "cd /etc; cat passwd shadow group gshadow; stat -c '%n %a %u:%g %h %s' passwd shadow group gshadow; \
     stat -c '%n %y' passwd group gshadow; cd \"$1\" && find . -mindepth 1 -printf '%P %y %m %U:%G\\n' | sort";

/// Fields and what they are.
pub type State = BTreeMap<&'static str, String>;

/// What is to be as before.
pub fn of(
    near: impl Fn(&[&str]) -> Command,
    etc: &Etc,
    core: &Path,
    files: &[impl AsRef<Path>],
    processes: String,
) -> State {
    let network = ASKED.iter().map(|(name, script)| (*name, stdout_of(&mut near(&["sh", "-c", script]))));
    let mut state: State = network.collect();
    state.insert("accounts", etc.shell(ACCOUNTS));
    state.insert("files", files.iter().map(|path| file(path.as_ref())).collect::<Vec<_>>().join("\n"));
    let places = files.iter().filter_map(|path| path.as_ref().parent()).map(names);
    state.insert("beside them", places.collect::<Vec<_>>().join("\n"));
    state.insert("kept by the agent", kept(core));
    state.insert("processes", processes);
    state
}

/// The fields that differ, before and after.
pub fn differences(before: &State, after: &State) -> Vec<String> {
    let lines = |state: &State, name: &str| -> Vec<String> {
        state.get(name).map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default()
    };
    let differ = |name: &&'static str| {
        let (was, is) = (lines(before, name), lines(after, name));
        let gone = was.iter().filter(|line| !is.contains(line)).map(|line| format!("- {line}"));
        let new = is.iter().filter(|line| !was.contains(line)).map(|line| format!("+ {line}"));
        let all: Vec<String> = gone.chain(new).collect();
        (was != is).then(|| format!("{name}:\n{}", all.join("\n")))
    };
    before.keys().filter_map(differ).collect()
}

/// Content, owner, mode, times, attributes and flags; read so that the time of access stays.
fn file(path: &Path) -> String {
    let shown = path.display().to_string();
    let Ok(opened) =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::NOATIME | OFlags::NOFOLLOW, Mode::empty())
    else {
        return format!("{shown} is not there");
    };
    let stat = stdout_of(Command::new("stat").args(["-c", "%n %F %s %a %u:%g %h %x %y", &shown]));
    let flags = rustix::fs::ioctl_getflags(&opened).map(|flags| format!("{flags:?}")).unwrap_or_default();
    let mut names = vec![0; 4_096];
    let length = rustix::fs::flistxattr(&opened, &mut *names).unwrap_or(0);
    names.truncate(length);
    let mut attributes = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 4_096];
        let length = rustix::fs::fgetxattr(&opened, name, &mut *value).unwrap_or(0);
        value.truncate(length);
        attributes.push(format!("{}={value:?}", String::from_utf8_lossy(name)));
    }
    attributes.sort_unstable();
    let mut content = String::new();
    let read = std::io::Read::read_to_string(&mut std::fs::File::from(opened), &mut content);
    format!("{} {flags} {} {read:?} {content:?}", stat.trim(), attributes.join(" "))
}

/// What is in a directory.
fn names(place: &Path) -> String {
    stdout_of(Command::new("find").arg(place).args(["-printf", "%p %y %m %U:%G\\n"]))
}

/// Files of the agent that are there only while something is in force.
fn kept(core: &Path) -> String {
    let places = ["vault", "stopped", "evidence"].map(|name| core.join(name));
    let mut find = Command::new("find");
    let found = find.args(places).args(["-type", "f"]).output().expect("find");
    String::from_utf8_lossy(&found.stdout).into_owned()
}

/// Makes a file with all that is to be kept of one.
pub fn make(path: &Path, content: &str, mode: &str) {
    std::fs::write(path, content).expect("a file");
    let shown = path.display().to_string();
    stdout_of(Command::new("chown").args(["12345:23456", &shown]));
    stdout_of(Command::new("chmod").args([mode, &shown]));
    for (name, value) in [("user.origin", &b"here"[..]), ("trusted.note", b"\0\x01\x02")] {
        rustix::fs::setxattr(path, name, value, XattrFlags::empty()).expect("a file system with attributes");
    }
    stdout_of(Command::new("chattr").args(["+d", &shown]));
    stdout_of(Command::new("touch").args(["-m", "-d", "@1234567890.123456789", &shown]));
    stdout_of(Command::new("touch").args(["-a", "-d", "@1334567890.987654321", &shown]));
}
