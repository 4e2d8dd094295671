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
    assert!(exposure("picket-agent.service") <= 5.6, "{}", exposure("picket-agent.service"));
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
