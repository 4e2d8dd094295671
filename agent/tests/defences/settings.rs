//! Kernel settings of this network namespace, immutable flags, and the ladder.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::lab::{Lab, is_inside, mount_ext4, sh};

#[test]
fn a_weakened_setting_is_told_at_once_with_its_writer_and_a_stricter_one_is_not() {
    if !is_inside("settings::a_weakened_setting_is_told_at_once_with_its_writer_and_a_stricter_one_is_not") {
        return;
    }
    let all = "/proc/sys/net/ipv4/conf/all";
    sh(&format!(
        "echo 0 > {all}/accept_redirects; echo 0 > {all}/rp_filter; echo 0 > {all}/accept_source_route"
    ));
    let mut lab = Lab::new();
    lab.start(&["settings"]);
    // Written again as they are, and one made stricter.
    sh(&format!(
        "echo 0 > {all}/accept_redirects; echo 1 > {all}/rp_filter; echo 0 > {all}/accept_source_route"
    ));
    lab.wait("the events", |lab| lab.counter("events") > 0);
    let mut child = Command::new("sh")
        .args(["-c", &format!("echo 1 > {all}/accept_redirects; read wait")])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let finding = lab.told_only(
        "defence.kernel-setting",
        "medium",
        "net.ipv4.conf.all.accept_redirects went from 0 to 1",
    );
    let actor = &finding["evidence"]["actor"];
    assert_eq!(actor["pid"], child.id(), "{finding:#}");
    assert!(actor["command_line"]["text"].as_str().unwrap().contains("accept_redirects"), "{finding:#}");
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child.wait().unwrap();
    lab.forget();
    sh(&format!("echo 0 > {all}/accept_redirects"));
    lab.told_only("defence.kernel-setting", "info", "went from 1 to 0");
}

#[test]
fn a_setting_that_the_agent_changes_is_told_with_the_command_once() {
    if !is_inside("settings::a_setting_that_the_agent_changes_is_told_with_the_command_once") {
        return;
    }
    let cookies = "/proc/sys/net/ipv4/tcp_syncookies";
    sh(&format!("echo 1 > {cookies}"));
    let mut lab = Lab::new();
    lab.start(&["settings"]);
    let id = uuid::Uuid::from_u128(7);
    lab.acts.setting(id, "rate-limit", "net.ipv4.tcp_syncookies", "1", "0");
    sh(&format!("echo 0 > {cookies}"));
    let finding = lab.told_only("defence.kernel-setting", "info", "net.ipv4.tcp_syncookies went from 1 to 0");
    assert_eq!(finding["explained_by"], format!("command {id} (rate-limit)"), "{finding:#}");
    lab.forget();
    sh(&format!("echo 1 > {cookies}"));
    lab.told_only("defence.kernel-setting", "info", "went from 0 to 1");
    lab.forget();
    sh(&format!("echo 0 > {cookies}"));
    let finding = lab.told_only("defence.kernel-setting", "medium", "went from 1 to 0");
    assert!(finding["explained_by"].is_null(), "the second time it is somebody else: {finding:#}");
}

#[test]
fn a_file_that_may_be_changed_again_is_told() {
    if !is_inside("settings::a_file_that_may_be_changed_again_is_told") {
        return;
    }
    let mut lab = Lab::new();
    let root = lab.path("root");
    mount_ext4(&lab.path("image"), &root);
    let log = root.join("var/log/auth.log");
    std::fs::create_dir_all(log.parent().unwrap()).unwrap();
    std::fs::write(&log, "x").unwrap();
    std::os::unix::fs::symlink("/proc", root.join("proc")).unwrap();
    sh(&format!("chattr +a {}", log.display()));
    lab.setup.root.clone_from(&root);
    lab.start(&["immutable"]);
    sh(&format!("chattr -a {}", log.display()));
    let finding = lab.told_only("defence.immutable", "medium", "is no longer append-only");
    assert_eq!(finding["entities"][0]["path"]["text"], log.to_str().unwrap());
    lab.stop();
    sh(&format!("umount {}", root.display()));
}

#[test]
fn the_ladder_says_which_capability_is_missing() {
    let out = Command::new("setpriv")
        .args(["--bounding-set", "-net_admin,-audit_control,-audit_read,-sys_admin"])
        .arg(env!("CARGO_BIN_EXE_agent"))
        .args(["--json", "probe"])
        .output()
        .unwrap();
    let probes: serde_json::Value = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out.stderr)));
    let defences = probes.as_array().unwrap().iter().find(|probe| probe["sensor"] == "defences").unwrap();
    let rung = |name: &str| {
        let rungs = defences["rungs"].as_array().unwrap();
        rungs.iter().find(|rung| rung["rung"] == name).unwrap().clone()
    };
    for name in ["nftables", "bpf"] {
        let rung = rung(name);
        assert_eq!(rung["usable"], false, "{rung}");
        assert!(rung["reason"].as_str().unwrap().contains("a capability is missing"), "{rung}");
    }
    let settings = rung("settings");
    assert_eq!(settings["usable"], true);
    assert!(settings["reason"].as_str().unwrap().contains("by the clock only: refused"), "{settings}");
    assert_eq!(rung("mounts")["usable"], true);
}
