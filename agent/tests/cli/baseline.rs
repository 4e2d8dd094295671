//! The baseline, as people look into it and accept what differs.

use serde_json::Value;

use crate::host::{Host, NOBODY, text, wait_for};

/// An agent that looks by itself only once an hour, so that what differs stays so.
fn looking_seldom() -> Host {
    let host = Host::new();
    let configuration = std::fs::read_to_string(host.path("agent.toml")).expect("read");
    let seldom = "[files]\nrung = \"scan\"\nscan_interval = \"1h\"\n";
    host.configure(&configuration.replace("[files]\n", seldom));
    host
}

fn findings(host: &Host) -> Vec<Value> {
    let shown = text(&host.agent(&["findings", "--json", "--rule", "file."]).stdout);
    let records = shown.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    records.filter_map(|record| record.get("body").cloned()).collect()
}

#[test]
fn what_differs_is_accepted_and_on_record() {
    let host = looking_seldom();
    let watched = host.path("watched");
    let watched = watched.to_str().expect("a path");
    std::fs::create_dir(host.path("watched/other")).expect("directory");
    for name in ["kept", "changed", "gone", "other/changed"] {
        std::fs::write(host.path("watched").join(name), "before").expect("written");
    }
    let running = host.start();
    wait_for("the baseline", || (host.status()["sensors"]["files"]["state"] == "running").then_some(()));
    let out = host.agent(&["baseline", "accept"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(text(&out.stdout).starts_with("nothing differs: "), "{}", text(&out.stdout));
    assert!(!host.lifecycle().iter().any(|record| record.event == "baseline-accepted"));

    std::fs::write(host.path("watched/changed"), "after").expect("written");
    std::fs::write(host.path("watched/new"), "new").expect("written");
    std::fs::write(host.path("watched/other/changed"), "after").expect("written");
    std::fs::remove_file(host.path("watched/gone")).expect("removed");
    assert_eq!(host.agent(&["baseline", "diff"]).status.code(), Some(1));
    let out = host.agent(&["baseline", "accept", &format!("{watched}/other")]);
    let shown = text(&out.stdout);
    assert!(shown.contains("file.modified") && shown.contains("watched/other/changed"), "{shown}");
    assert!(shown.contains("1 of ") && shown.contains("are accepted as they are now"), "{shown}");
    let out = host.agent(&["baseline", "accept", watched, "--json"]);
    let answer: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(answer["acceptance"]["accepted"], 3, "{answer}");
    assert_eq!(host.agent(&["baseline", "diff"]).status.code(), Some(0), "nothing differs any more");

    let findings = wait_for("all to be sealed", || Some(findings(&host)).filter(|found| found.len() >= 4));
    let mut rules: Vec<&str> = findings.iter().filter_map(|finding| finding["rule"].as_str()).collect();
    rules.sort_unstable();
    assert_eq!(rules, ["file.created", "file.deleted", "file.modified", "file.modified"]);
    for finding in &findings {
        assert_eq!(finding["severity"], "info", "{finding}");
        let explained = finding["explained_by"].as_str().unwrap_or_default();
        assert!(explained.starts_with("accepted by root"), "{finding}");
        assert!(finding.pointer("/evidence/accepted/severity_without").is_some(), "{finding}");
    }
    let record = wait_for("the record of the last acceptance", || {
        host.lifecycle().into_iter().find(|record| {
            record.event == "baseline-accepted"
                && record.title.starts_with("3 changes of watched files accepted")
        })
    });
    assert_eq!((&record.detail["by"]["uid"], &record.detail["finished"]), (&0.into(), &true.into()));
    let paths = record.detail["changes"].to_string();
    assert!(paths.contains("watched/gone") && !paths.contains("watched/kept"), "{paths}");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn acceptance_is_for_root_and_for_what_is_watched() {
    let host = looking_seldom();
    let running = host.start();
    wait_for("the baseline", || (host.status()["sensors"]["files"]["state"] == "running").then_some(()));
    let out = host.agent(&["baseline", "accept", "/nowhere"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("/nowhere is not watched"), "{}", text(&out.stderr));
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(host.layout().socket(), everybody).expect("mode");
    let stranger = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
    let out = host.through(&stranger, &["baseline", "accept"]).output().expect("setpriv");
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("only root may do that"), "{}", text(&out.stderr));
    assert_eq!(running.stop(), Some(0));
    let out = host.agent(&["baseline", "accept"]);
    assert!(text(&out.stderr).contains("the agent is not running"), "{}", text(&out.stderr));
    assert_eq!(out.status.code(), Some(2));
}
