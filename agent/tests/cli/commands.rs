//! What the subcommands print, and how they exit.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::host::{Host, text};

#[test]
fn status_tells_all_in_one_screen_and_as_json() {
    let host = Host::new();
    let running = host.start();
    let out = host.agent(&["status"]);
    let screen = text(&out.stdout);
    for label in [
        "protection",
        "agent",
        "defences",
        "files",
        "host",
        "logins",
        "ledger",
        "collector",
        "commands",
        "cost",
        "PSS",
    ] {
        assert!(screen.contains(label), "{label} is missing in\n{screen}");
    }
    assert!(screen.contains("not enrolled") && !screen.contains('\x1b'), "{screen}");
    assert!(screen.lines().count() <= 24, "{screen}");
    // With its exit code, which is of the same moment.
    let out = host.agent(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(status["pid"], running.child.id());
    assert_eq!((&status["enrolled"], &status["connected"]), (&json!(false), &json!(false)));
    assert!(status["ledger"]["size"].as_u64().is_some_and(|size| size > 0), "{status}");
    assert!(status["ledger"]["root"].is_string() && status["sensors"]["host"]["rung"].is_string());
    let code = match status["protection"].as_str() {
        Some("on") => 0,
        Some("degraded") => 1,
        _ => 2,
    };
    assert_eq!(out.status.code(), Some(code));
    assert!(status["reasons"].as_array().is_some_and(|reasons| !reasons.is_empty()), "{status}");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn what_needs_a_running_agent_says_so_and_exits_2() {
    let host = Host::new();
    for arguments in [&["status"][..], &["ack"], &["scan"], &["findings", "--follow"]] {
        let out = host.agent(arguments);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}");
        assert!(text(&out.stderr).contains("the agent is not running"), "{}", text(&out.stderr));
        assert_eq!(text(&out.stderr).lines().count(), 1);
    }
    assert_eq!(host.status()["running"], json!(false));
    assert_eq!(host.agent(&["verify"]).status.code(), Some(2));
    assert_eq!(host.agent(&["findings"]).status.code(), Some(2), "there is no database yet");
    drop(host.start());
    let out = host.agent(&["findings"]);
    assert_eq!(out.status.code(), Some(1), "the database is read instead");
    assert!(text(&out.stderr).contains("not running; this is read from its database"));
    assert_eq!(host.agent(&["commands"]).status.code(), Some(1));
    assert_eq!(host.agent(&["verify"]).status.code(), Some(0));
}

#[test]
fn a_bad_configuration_is_refused_with_lines_by_every_command() {
    let host = Host::new();
    host.configure("state_dir = \"relative\"\n[files]\nscann_interval = \"1h\"\nrung = \"magic\"\n");
    for arguments in
        [&["run"][..], &["status"], &["check-config"], &["verify"], &["probe"], &["findings"], &["paths"]]
    {
        let out = host.agent(arguments);
        let message = text(&out.stderr);
        assert_eq!(out.status.code(), Some(3), "{arguments:?}: {message}");
        for part in ["line 1: state_dir", "line 3: files.scann_interval: unknown key", "line 4: files.rung"] {
            assert!(message.contains(part), "{part} is missing in {message}");
        }
    }
    let json: Value = serde_json::from_slice(&host.agent(&["check-config", "--json"]).stdout).expect("JSON");
    assert_eq!((&json["fine"], json["problems"].as_array().map(Vec::len)), (&json!(false), Some(3)));
    host.configure("");
    assert_eq!(host.agent(&["check-config"]).status.code(), Some(0));
    assert_eq!(text(&host.agent(&["paths"]).stdout), "state_dir /var/lib/picket\nrun_dir /run/picket\n");
    let elsewhere = "state_dir = \"/srv/a place\"\n";
    host.configure(elsewhere);
    let json: Value = serde_json::from_slice(&host.agent(&["paths", "--json"]).stdout).expect("JSON");
    assert_eq!(json, json!({ "state_dir": "/srv/a place", "run_dir": "/run/picket" }));
    assert!(!host.path("state").exists(), "checking and asking start nothing");
    std::fs::set_permissions(host.path("agent.toml"), std::fs::Permissions::from_mode(0o666)).expect("mode");
    let out = host.agent(&["check-config"]);
    assert!(out.status.code() == Some(3) && text(&out.stderr).contains("chmod go-w"), "{out:?}");
}

#[test]
fn misuse_exits_3_and_help_has_examples() {
    let host = Host::new();
    for arguments in [
        &[][..],
        &["nonsense"],
        &["status", "--nonsense"],
        &["findings", "--limit", "0"],
        &["findings", "--severity", "awful"],
        &["findings", "--since", "yesterday"],
        &["hold-commands"],
        &["hold-commands", "--for", "40d"],
        &["ack", "not-an-id"],
        &["status", "--watch"],
        &["status", "--watch", "--json"],
    ] {
        assert_eq!(host.agent(arguments).status.code(), Some(3), "{arguments:?}");
    }
    let commands = [
        "run",
        "enroll",
        "status",
        "findings",
        "commands",
        "verify",
        "scan",
        "probe",
        "ack",
        "check-config",
        "paths",
        "hold-commands",
        "baseline",
        "window",
        "files",
        "top",
    ];
    for command in commands {
        let out = host.agent(&[command, "--help"]);
        assert_eq!(out.status.code(), Some(0), "{command}");
        assert!(text(&out.stdout).contains("Example"), "{command}: {}", text(&out.stdout));
        assert!(text(&out.stdout).contains("--json"), "{command}");
    }
    assert_eq!(host.agent(&["--version"]).status.code(), Some(0));
}

#[test]
fn the_ladders_are_shown_with_reasons() {
    let host = Host::new();
    let out = host.agent(&["probe"]);
    assert!(text(&out.stdout).contains("best"), "{}", text(&out.stdout));
    let probes: Value = serde_json::from_slice(&host.agent(&["probe", "--json"]).stdout).expect("JSON");
    let rungs = probes
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|probe| probe["rungs"].as_array().cloned().unwrap_or_default());
    assert!(rungs.clone().count() > 0);
    assert!(rungs.into_iter().all(|rung| rung["reason"].as_str().is_some_and(|reason| !reason.is_empty())));
}

#[test]
fn watching_draws_over_itself() {
    let host = Host::new();
    let running = host.start();
    let watch = format!(
        "{} --config {} status --watch",
        host.path("agent").display(),
        host.path("agent.toml").display()
    );
    let mut terminal = Command::new("script")
        .args(["-qfc", &watch, "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script (bsdutils)");
    let mut seen = Vec::new();
    let mut stdout = terminal.stdout.take().expect("stdout");
    let mut buffer = [0; 4_096];
    while text(&seen).matches("\x1b[Hprotection").count()
        + text(&seen).matches("\x1b[H\x1b[1mprotection").count()
        < 2
    {
        let count = stdout.read(&mut buffer).expect("output");
        assert!(count > 0, "it ended: {}", text(&seen));
        seen.extend_from_slice(&buffer[..count]);
    }
    terminal.kill().expect("killed");
    terminal.wait().expect("ended");
    assert_eq!(running.stop(), Some(0));
}
