//! The packaged units, as systemd itself judges them. `tests/systemd` shows that the programs run under them.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::path::{Path, PathBuf};
use std::process::Command;

use picket_tests::process::output;

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd").join(name).canonicalize().unwrap()
}

/// `Overall exposure level`, which is 0 for a service that can do nothing and 10 for one that can do everything.
fn exposure(name: &str) -> f64 {
    let mut command = Command::new("systemd-analyze");
    let out = output(command.args(["security", "--no-pager", "--offline=true"]).arg(unit(name)));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line =
        text.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{text}"));
    line.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
}

#[test]
fn the_units_expose_no_more_than_is_justified_in_them() {
    // What the agent keeps is what it watches and what it responds with; the unit says so line by line.
    assert!(exposure("picket-agent.service") <= 5.7, "{}", exposure("picket-agent.service"));
    assert!(exposure("picket-collector.service") <= 1.5, "{}", exposure("picket-collector.service"));
}

/// Each of these is answered in the unit's own comments: whoever takes one out, or sets one, meets this test.
#[test]
fn what_the_agents_unit_does_without_is_answered_in_it() {
    let text = std::fs::read_to_string(unit("picket-agent.service")).unwrap();
    let left_out = [
        "User",
        "PrivateNetwork",
        "IPAddressDeny",
        "ProtectSystem",
        "ProtectHome",
        "PrivateTmp",
        "ProtectKernelModules",
        "ProtectProc",
        "ProcSubset",
        "PrivateUsers",
        "ProtectHostname",
        "RestrictSUIDSGID",
        "PrivateMounts",
        "PrivateDevices",
        "ProtectKernelTunables",
        "ProtectKernelLogs",
        "ProtectControlGroups",
    ];
    for name in left_out {
        assert!(!text.lines().any(|line| line.starts_with(&format!("{name}="))), "{name} is set");
        let answered = text.lines().any(|line| line.starts_with("# -") && line.contains(&format!("{name}=")));
        assert!(answered, "nothing says why {name} is not set");
    }
}

/// The value of each line of a unit that sets `name`.
fn values(unit_name: &str, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(unit(unit_name)).unwrap();
    let found = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.map(str::to_owned).collect()
}

/// systemd 219 knows no groups of system calls: where the first line allowed some, nothing was allowed but what stands there by name. And of
/// several lines of capabilities it keeps what stands on all of them.
#[test]
fn systemd_of_rhel_7_understands_what_the_units_filter_and_bound() {
    for name in ["picket-agent.service", "picket-collector.service"] {
        let filters = values(name, "SystemCallFilter");
        assert!(filters.first().is_some_and(|first| first.starts_with('~')), "{name}: {filters:?}");
        assert_eq!(values(name, "CapabilityBoundingSet").len(), 1, "{name}");
    }
}

/// systemd (254 on) never counts anew, however long a service ran: what the pauses grow to is what a host is without its agent in the end, which
/// is to be back within two seconds.
#[test]
fn the_pauses_before_a_restart_never_grow_to_more_than_a_second() {
    assert_eq!(values("picket-agent.service", "RestartSec"), ["500ms"]);
    assert_eq!(values("picket-agent.service", "RestartMaxDelaySec"), ["1s"]);
    assert_eq!(values("picket-agent.service", "StartLimitIntervalSec"), ["0"]);
}

/// A tree that boots with `/var/log` from the network, and with the agent in it.
fn tree_with_remote_log(root: &Path) {
    let system = root.join("lib/systemd/system");
    std::fs::create_dir_all(system.parent().unwrap()).unwrap();
    std::fs::create_dir_all(root.join("usr/bin")).unwrap();
    // Units of the host as they are, links among them.
    assert!(Command::new("cp").args(["-a", "/lib/systemd/system"]).arg(&system).status().unwrap().success());
    std::fs::copy(unit("picket-agent.service"), system.join("picket-agent.service")).unwrap();
    std::fs::copy("/bin/true", root.join("usr/bin/agent")).unwrap();
    let own = root.join("etc/systemd/system");
    let wanted = [
        ("sysinit.target.wants", "picket-agent.service", "/lib/systemd/system/picket-agent.service"),
        (
            "multi-user.target.wants",
            "systemd-networkd.service",
            "/lib/systemd/system/systemd-networkd.service",
        ),
        ("multi-user.target.wants", "remote-fs.target", "/lib/systemd/system/remote-fs.target"),
        ("remote-fs.target.wants", "var-log.mount", "../var-log.mount"),
        (".", "default.target", "/lib/systemd/system/multi-user.target"),
    ];
    for (place, name, target) in wanted {
        std::fs::create_dir_all(own.join(place)).unwrap();
        std::os::unix::fs::symlink(target, own.join(place).join(name)).unwrap();
    }
    let mount = "[Mount]\nWhat=server:/log\nWhere=/var/log\nType=nfs\nOptions=_netdev\n";
    std::fs::write(own.join("var-log.mount"), mount).unwrap();
}

/// What systemd says of a boot of that tree.
fn verified(root: &Path) -> String {
    let mut command = Command::new("systemd-analyze");
    command.arg(format!("--root={}", root.display())).args(["--man=no", "verify", "default.target"]);
    String::from_utf8_lossy(&command.output().unwrap().stderr).into_owned()
}

#[test]
fn the_agent_is_before_the_network_where_the_log_comes_over_it() {
    let dir = tempfile::tempdir().unwrap();
    tree_with_remote_log(dir.path());
    let said = verified(dir.path());
    assert!(!said.contains("ordering cycle"), "{said}");
    // That such a boot is seen through at all: with what the unit once waited for there is a cycle.
    let path = dir.path().join("lib/systemd/system/picket-agent.service");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("[Unit]", "[Unit]\nAfter=systemd-tmpfiles-setup.service", 1))
        .unwrap();
    let said = verified(dir.path());
    assert!(said.contains("ordering cycle"), "{said}");
}

/// The texts in quotes that follow `start` in the agent's sources, without its tests.
fn named_in_sources(directory: &Path, start: &str, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            named_in_sources(&path, start, names);
        } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("tests.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            let found = text.split(start).skip(1).filter_map(|rest| rest.split('"').next());
            names.extend(found.map(str::to_owned));
        }
    }
}

/// What a rule of AppArmor with alternatives in braces stands for.
fn alternatives(rule: &str) -> Vec<String> {
    let Some((before, rest)) = rule.split_once('{') else { return vec![rule.to_owned()] };
    let (within, after) = rest.split_once('}').unwrap();
    within.split(',').flat_map(|one| alternatives(&format!("{before}{one}{after}"))).collect()
}

#[test]
fn the_apparmor_profile_lets_the_agent_start_every_program_that_it_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut programs = Vec::new();
    // How programs are named: to the two that run them, as a constant, and those of iptables by family and task.
    for start in ["program::run(\"", "Command::new(\"", "const NFT: &str = \""] {
        let before = programs.len();
        named_in_sources(&root.join("agent/src"), start, &mut programs);
        assert!(programs.len() > before, "nothing is named by {start}");
    }
    for task in ["change: \"", "restore: \"", "save: \""] {
        named_in_sources(&root.join("agent/src/respond/firewall"), task, &mut programs);
    }
    for known in ["nft", "iptables-restore", "ip6tables", "systemctl", "journalctl", "gzip"] {
        assert!(programs.iter().any(|program| program == known), "{known} is not among {programs:?}");
    }
    let profile = std::fs::read_to_string(root.join("packaging/apparmor")).unwrap();
    let rules =
        profile.lines().filter(|line| line.starts_with('/')).filter_map(|line| line.strip_suffix(" rix,"));
    let allowed: Vec<String> = rules.flat_map(alternatives).collect();
    // Itself is among the rules as what it is on the disk.
    programs.retain(|program| program != "/proc/self/exe");
    for program in programs {
        let found = allowed.iter().any(|path| path.ends_with(&format!("/{program}")));
        assert!(found, "{program} is started, and AppArmor's profile knows none");
    }
}
