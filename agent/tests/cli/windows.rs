//! Planned work.

use serde_json::Value;

use crate::host::{Host, text, wait_for};

#[test]
fn planned_work_explains_what_it_changes_and_is_on_record() {
    let host = Host::new();
    let running = host.start();
    wait_for("the baseline", || (host.status()["sensors"]["files"]["state"] == "running").then_some(()));
    let shown = |arguments: &[&str]| text(&host.agent(arguments).stdout);
    assert_eq!(shown(&["window", "show"]), "no planned work is declared\n");
    let refused = host.agent(&["window", "open", "--for", "2h", "--reason", " "]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    assert_eq!(host.agent(&["window", "close"]).status.code(), Some(2));
    let opened = shown(&["window", "open", "--for", "2h", "--reason", "new web server"]);
    assert!(
        opened.starts_with("planned work until ") && opened.contains("): new web server, declared by "),
        "{opened}"
    );
    assert_eq!(shown(&["window", "show"]), opened);
    std::fs::write(host.path("watched/planned"), "text").expect("written");
    let finding = |path: &str| {
        let text = shown(&["findings", "--json"]);
        let findings = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let body = |record: Value| record.pointer("/body").cloned().unwrap_or(record);
        findings.map(body).find(|body| body["title"].as_str().is_some_and(|title| title.ends_with(path)))
    };
    let planned = wait_for("the finding", || finding("watched/planned"));
    let explained = planned["explained_by"].as_str().unwrap_or_default();
    assert!(explained.starts_with("planned work: new web server ("), "{planned}");
    assert_eq!(planned["severity"], "info");
    assert!(planned.pointer("/evidence/window/severity_without").is_some(), "{planned}");
    assert_eq!(shown(&["window", "close"]), "no planned work is declared\n");
    std::fs::write(host.path("watched/later"), "text").expect("written");
    let later = wait_for("the finding", || finding("watched/later"));
    assert!(later.get("explained_by").is_none(), "{later}");
    let events: Vec<String> = host.lifecycle().into_iter().map(|record| record.event).collect();
    assert!(
        events.contains(&"window-opened".to_owned()) && events.contains(&"window-closed".to_owned()),
        "{events:?}"
    );
    assert_eq!(running.stop(), Some(0));
}
