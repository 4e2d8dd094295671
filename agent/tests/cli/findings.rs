//! Findings, as they are listed, followed and shown.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::host::{Host, text, wait_for};

#[test]
fn all_that_is_sealed_can_be_read() {
    let host = Host::new();
    let running = host.start();
    let shown = wait_for("a heartbeat", || {
        let shown = text(&host.agent(&["findings", "--all"]).stdout);
        shown.contains(" heartbeat ").then_some(shown)
    });
    assert!(shown.contains(" lifecycle "), "{shown}");
    assert!(!text(&host.agent(&["findings"]).stdout).contains("heartbeat"));
    let json = text(&host.agent(&["findings", "--all", "--json"]).stdout);
    assert!(json.lines().any(|line| line.contains("\"kind\":\"heartbeat\"")), "{json}");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn findings_are_shown_and_followed_and_scans_answer() {
    use std::io::BufRead as _;
    let host = Host::new();
    std::fs::write(host.path("auth.log"), "").expect("log");
    let running = host.start();
    wait_for("the baseline", || (host.status()["sensors"]["files"]["state"] == "running").then_some(()));
    let change = |name: &str| std::fs::write(host.path("watched").join(name), name).expect("written");
    change("first\x1b[2J");
    let shown = wait_for("the first finding", || {
        let shown = text(&host.agent(&["findings", "--rule", "file."]).stdout);
        shown.contains("first").then_some(shown)
    });
    assert!(shown.contains("first\\u{1b}[2J") && !shown.contains('\x1b'), "{shown}");
    assert_eq!(text(&host.agent(&["findings", "--rule", "login."]).stdout), "");
    assert_eq!(text(&host.agent(&["findings", "--severity", "critical"]).stdout), "");

    // Of files only: the packet sockets of agents in other tests are told as well.
    let follow = ["findings", "--follow", "--rule", "file.", "--json"];
    let mut follower = host.command(&follow).stdout(Stdio::piped()).spawn().expect("agent");
    let mut lines = std::io::BufReader::new(follower.stdout.take().expect("stdout")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert!(next().contains("first"));
    change("second");
    // A file that is seen between its creation and its content is told twice.
    let second = std::iter::repeat_with(next).find(|line| line.contains("watched/second")).expect("a record");
    let second: Value = serde_json::from_str(&second).expect("a sealed record");
    assert_eq!((&second["kind"], &second["body"]["rule"]), (&json!("finding"), &json!("file.created")));
    assert!(second.to_string().contains("second"), "{second}");
    follower.kill().expect("killed");
    follower.wait().expect("ended");

    let watched = host.path("watched");
    let out = host.agent(&["scan", watched.to_str().expect("a path"), "--json"]);
    let answer: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert!(answer["summary"]["examined"].as_u64().is_some_and(|examined| examined >= 3), "{answer}");
    let out = host.agent(&["scan", "/nowhere"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("/nowhere is not watched"), "{}", text(&out.stderr));
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_finding_is_shown_in_full_with_what_differs() {
    let host = Host::new();
    let list = host.path("watched/home/.ssh/authorized_keys");
    std::fs::create_dir_all(list.parent().expect("a parent")).expect("directory");
    let key = |name: &str| format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5{name} {name}@example\n");
    std::fs::write(&list, key("AAAB")).expect("written");
    let running = host.start();
    wait_for("the baseline", || (host.status()["sensors"]["files"]["state"] == "running").then_some(()));
    // Not written anew: it would be seen while it is empty.
    let file = std::fs::OpenOptions::new().append(true).open(&list);
    file.and_then(|mut file| file.write_all(key("AAAC").as_bytes())).expect("written");
    let rule = ["findings", "--rule", "account.key-added"];
    let line = wait_for("the finding", || text(&host.agent(&rule).stdout).lines().next().map(str::to_owned));
    assert!(line.contains("(AAAC@example) was added to home's authorized_keys"), "{line}");
    let id = line.split_whitespace().last().expect("an id").to_owned();
    // What is there now does not change what the finding shows.
    std::fs::write(&list, "").expect("written");
    let out = host.agent(&["show", &id, "--diff"]);
    let shown = text(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    for part in ["A key SHA256:", "account.key-added", "T1098.004", "file.modified", "account     home"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert!(shown.contains("     ssh-ed25519") && shown.contains("    +ssh-ed25519"), "{shown}");
    let json: Value =
        serde_json::from_slice(&host.agent(&["show", &id, "--diff", "--json"]).stdout).expect("JSON");
    assert_eq!((json["diff"]["added"].clone(), json["diff"]["removed"].clone()), (json!(1), json!(0)));
    assert!(json["record"]["body"]["id"].as_str().is_some_and(|whole| whole.ends_with(&id)));
    for (wrong, words) in [("0", "give 4 or more"), ("zzzz", "not the id"), ("00000000", "no finding")] {
        let out = host.agent(&["show", wrong]);
        assert_eq!(out.status.code(), Some(2));
        assert!(text(&out.stderr).contains(words), "{}", text(&out.stderr));
    }
    assert_eq!(running.stop(), Some(0));
    let out = host.agent(&["show", &id]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stdout).contains("A key SHA256:"));
}
