//! What the file sensor does and what it costs, as people see it.

use std::io::Read as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::host::{Host, text, wait_for};

fn json(host: &Host, command: &str) -> Value {
    let out = host.agent(&[command, "--json"]);
    serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", text(&out.stderr)))
}

fn watched(host: &Host) {
    wait_for("the baseline", || {
        host.status().pointer("/sensors/files/state").filter(|state| *state == "running").map(|_| ())
    });
}

#[test]
fn trees_and_noise_are_shown_with_what_may_be_done_about_it() {
    let host = Host::new();
    std::fs::create_dir_all(host.path("watched/app/quiet")).expect("directory");
    std::fs::write(host.path("watched/app/quiet/kept"), "kept").expect("written");
    let running = host.start();
    watched(&host);
    // Each is looked at, and told by two events or more.
    for number in 0..600 {
        std::fs::write(host.path("watched/app").join(number.to_string()), "noise").expect("written");
    }
    let watched = host.path("watched");
    let of_tree = |report: &Value, trees: &str| {
        let is = |tree: &&Value| {
            tree.pointer("/path/text").is_some_and(|path| *path == *watched.to_string_lossy())
        };
        report.pointer(trees)?.as_array()?.iter().find(is).cloned()
    };
    wait_for("all to be counted", || {
        let tree = of_tree(&json(&host, "files"), "/trees")?;
        (tree.get("objects")?.as_u64()? == 604).then_some(())
    });
    for part in [
        &format!("604 objects in {}", watched.display()),
        &format!("  {}/app: ", watched.display()),
        &format!("add to files.exclude: \"{}/app/**\"", watched.display()),
        "told by the kernel and undone",
    ] {
        wait_for(part, || text(&host.agent(&["files"]).stdout).contains(part).then_some(()));
    }
    let top = json(&host, "top");
    let stages = top["processes"]["core"]["stages"].as_array().expect("stages").clone();
    for name in ["files", "ledger", "status"] {
        assert!(stages.iter().any(|stage| stage["name"] == name), "{name} is not in {stages:?}");
    }
    let spent = |top: &Value| of_tree(top, "/files/trees").expect("the tree")["spent"].clone();
    // What was looked at is told, and counted, later than it is looked at.
    let counted = |figure: &str| {
        wait_for(figure, || (spent(&json(&host, "top"))[figure].as_u64() > Some(0)).then_some(()));
    };
    for figure in ["events", "looks", "findings", "files_read", "bytes_read", "cpu_micros"] {
        counted(figure);
    }
    // The first baseline is none: a scan is.
    assert_eq!(host.agent(&["scan"]).status.code(), Some(0));
    counted("rescans");
    let shown = text(&host.agent(&["top"]).stdout);
    assert!(shown.contains("busiest directories") && shown.contains("seals and keeps records"), "{shown}");
    assert!(!shown.contains('\x1b'), "{shown}");
    assert_eq!(running.stop(), Some(0));
    assert_eq!(host.agent(&["top"]).status.code(), Some(2));
    assert_eq!(host.agent(&["files"]).status.code(), Some(2));
}

#[test]
fn top_draws_over_itself_on_a_terminal() {
    let host = Host::new();
    let running = host.start();
    let (agent, configuration) = (host.path("agent"), host.path("agent.toml"));
    let top = format!("{} --config {} top", agent.display(), configuration.display());
    let mut terminal = Command::new("script")
        .args(["-qfc", &top, "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script (bsdutils)");
    let (mut seen, mut buffer) = (Vec::new(), [0; 4_096]);
    let mut stdout = terminal.stdout.take().expect("stdout");
    // The second screen has shares.
    while !(text(&seen).matches("\x1b[H").count() >= 2 && text(&seen).contains(" % ")) {
        let count = stdout.read(&mut buffer).expect("output");
        assert!(count > 0, "it ended: {}", text(&seen));
        seen.extend_from_slice(buffer.get(..count).expect("as many"));
    }
    terminal.kill().expect("killed");
    terminal.wait().expect("ended");
    assert_eq!(running.stop(), Some(0));
}

/// Whether no thread of that process runs.
fn stands_still(pid: u32) -> bool {
    let mut tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
    tasks.all(|task| {
        let stat = std::fs::read_to_string(task.expect("task").path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

/// The agent sleeps while a file is changed and changed back: nothing is left to be seen but what the kernel told.
#[test]
fn what_is_undone_before_it_is_looked_at_is_counted() {
    let host = Host::new();
    let (kept, brief) = (host.path("watched/kept"), host.path("watched/brief"));
    std::fs::write(&kept, "as it was").expect("written");
    let running = host.start();
    watched(&host);
    running.signal(rustix::process::Signal::STOP);
    // Its threads stop one after the other.
    wait_for("the agent to stand still", || stands_still(running.child.id()).then_some(()));
    std::fs::write(&kept, "something else").expect("written");
    std::fs::write(&kept, "as it was").expect("written");
    std::fs::write(&brief, "here and gone").expect("written");
    std::fs::remove_file(&brief).expect("removed");
    running.signal(rustix::process::Signal::CONT);
    let counters = wait_for("the counts", || {
        let counters = host.status()["sensors"]["files"]["counters"].clone();
        let count = |name: &str| counters[name].as_u64().unwrap_or(0);
        (count("reverted") >= 1 && count("transient") >= 1).then_some(counters)
    });
    assert_eq!(counters["findings"], 0, "{counters}");
    assert_eq!(running.stop(), Some(0));
}
