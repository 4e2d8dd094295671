//! Starts, stops, and what stands in the way of them.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use picket_agent::ledger::{Reader, RecordFilter};
use serde_json::{Value, json};

use crate::host::{DEADLINE, Host, text, wait_for};

#[test]
fn a_second_agent_on_the_same_state_is_refused() {
    let host = Host::new();
    let running = host.start();
    let out = host.agent(&["run"]);
    let message = text(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{message}");
    assert!(message.contains("already uses this state directory"), "{message}");
    assert!(message.contains(&running.child.id().to_string()), "{message}");
    assert_eq!(host.status()["pid"], running.child.id(), "the first one is not disturbed");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_read_only_state_directory_is_refused_in_one_line() {
    let host = Host::new();
    drop(host.start());
    let (state, script) =
        (host.path("state"), "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"");
    let state = state.to_str().expect("a path");
    let out =
        host.through(&["unshare", "-m", "sh", "-c", script, state], &["run"]).output().expect("unshare");
    let message = text(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{message}");
    assert!(message.contains("Read-only file system") && message.lines().count() == 1, "{message}");
}

#[test]
fn directories_that_others_could_change_are_refused() {
    let host = Host::new();
    drop(host.start());
    std::fs::set_permissions(host.path("state"), std::fs::Permissions::from_mode(0o777)).expect("mode");
    let out = host.agent(&["run"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("lets others write in it"), "{}", text(&out.stderr));
    std::fs::set_permissions(host.path("state"), std::fs::Permissions::from_mode(0o711)).expect("mode");
    std::os::unix::fs::chown(host.path("state/core"), Some(65_534), None).expect("owner");
    let out = host.agent(&["run"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("belongs to user 65534"), "{}", text(&out.stderr));
}

#[test]
fn state_from_a_newer_version_is_left_alone() {
    let host = Host::new();
    assert_eq!(host.start().stop(), Some(0));
    let database = rusqlite::Connection::open(host.layout().database()).expect("database");
    database.pragma_update(None, "user_version", 9_999).expect("version");
    drop(database);
    let out = host.agent(&["run"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("newer version"), "{}", text(&out.stderr));
    assert_eq!(host.agent(&["verify"]).status.code(), Some(2));
}

/// What an agent of before extended attributes left behind: its baseline is used, and nothing is told of what it did not
/// know; what changed meanwhile is.
#[test]
fn state_from_an_older_version_is_taken_over() {
    let host = Host::new();
    let set = |name: &str, flag: &str| {
        let path = host.path("watched").join(name);
        assert!(Command::new("chattr").arg(flag).arg(path).status().expect("chattr").success());
    };
    for name in ["kept", "guarded", "changed"] {
        std::fs::write(host.path("watched").join(name), name).expect("written");
    }
    set("guarded", "+i");
    let files = || host.status().pointer("/sensors/files/state").and_then(Value::as_str).map(str::to_owned);
    let running = host.start();
    wait_for("the baseline", || files().filter(|state| state == "running"));
    assert_eq!(running.stop(), Some(0));
    let database = rusqlite::Connection::open(host.layout().database()).expect("database");
    let old = "ALTER TABLE file_object DROP COLUMN extended; UPDATE file_object SET flags = flags & 15;
               DROP TABLE state_version; DROP TABLE file_log; DROP TABLE file_image;";
    database.execute_batch(old).expect("as it was");
    drop(database);
    std::fs::write(host.path("watched/changed"), "while the agent was down").expect("written");
    let running = host.start();
    wait_for("the comparison", || files().filter(|state| state == "running"));
    let taken = host.last_start().detail["taken_over"].as_str().map(str::to_owned);
    assert!(taken.is_some_and(|taken| taken.contains("an older version is taken over")));
    let findings = || text(&host.agent(&["findings", "--rule", "file."]).stdout);
    let told = wait_for("the finding", || Some(findings()).filter(|told| told.contains("watched/changed")));
    assert_eq!(told.lines().count(), 1, "{told}");
    set("guarded", "-i");
    // Not every kernel tells of it.
    assert_eq!(host.agent(&["scan"]).status.code(), Some(0));
    let told = || text(&host.agent(&["findings"]).stdout);
    wait_for("what is known from now on", || told().contains("watched/guarded").then_some(()));
    assert_eq!(running.stop(), Some(0));
    let running = host.start();
    assert!(host.last_start().detail["taken_over"].is_null(), "once");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn sigterm_stops_in_good_order() {
    let host = Host::new();
    assert_eq!(host.start().stop(), Some(0));
    assert_eq!(host.lifecycle()[0].event, "stopped");
    assert_eq!(host.last_start().detail["last_run"], "none");
    assert!(!host.layout().socket().exists());
    let running = host.start();
    assert_eq!(host.last_start().detail["last_run"], "clean");
    assert_eq!(host.last_start().detail["unclean"], false);
    let digest = picket_protocol::crypto::sha256(&[&std::fs::read(host.path("agent.toml")).expect("read")]);
    assert_eq!(host.last_start().detail["config_sha256"], picket_protocol::crypto::hex(&digest));
    running.signal(rustix::process::Signal::INT);
    wait_for("the record of the stop", || (host.lifecycle()[0].event == "stopped").then_some(()));
    let stop = &host.lifecycle()[0].detail;
    assert_eq!((&stop["reason"], &stop["by"]["pid"]), (&json!("SIGINT"), &json!(std::process::id())));
    assert!(text(&host.agent(&["findings", "--rule", "agent.stopped"]).stdout).is_empty(), "its parent may");
    assert_eq!(host.agent(&["verify"]).status.code(), Some(0));
}

#[test]
fn the_start_is_the_first_record_and_precedes_what_the_sensors_say() {
    let host = Host::new();
    host.configure("nonsense = 1\n");
    assert_eq!(host.agent(&["run"]).status.code(), Some(3));
    assert!(!host.path("state").exists(), "nothing is made before the configuration is known to be good");
    let host = Host::new();
    assert_eq!(host.start().stop(), Some(0));
    let filter = RecordFilter { limit: 10_000, ..RecordFilter::default() };
    let records = Reader::open(&host.layout().database()).expect("reader").records(&filter).expect("records");
    let first = records.iter().rposition(|record| text(&record.bytes).contains("\"started\""));
    assert_eq!(first, Some(records.len() - 1), "the oldest record");
    assert!(text(&records[0].bytes).contains("\"stopped\""), "and the stop is the newest");
}

#[test]
fn a_kill_is_noticed_at_the_next_start() {
    let host = Host::new();
    host.start().kill();
    assert!(host.layout().socket().exists(), "the socket is left over");
    let running = host.start();
    let start = host.last_start();
    assert_eq!((&start.detail["last_run"], &start.detail["unclean"]), (&json!("unclean"), &json!(true)));
    let told = text(&host.agent(&["findings", "--rule", "agent.stopped"]).stdout);
    assert!(told.contains("The agent was killed or crashed"), "{told}");
    assert_eq!(running.stop(), Some(0));
    assert_eq!(host.agent(&["verify"]).status.code(), Some(0));
}

#[test]
fn every_thread_has_given_up_what_is_not_needed() {
    let host = Host::new();
    let running = host.start();
    let kept: u64 =
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 19, 21, 30, 31, 37].iter().map(|bit| 1u64 << bit).sum();
    let tasks = format!("/proc/{}/task", running.child.id());
    let mut threads = 0;
    for task in std::fs::read_dir(tasks).expect("tasks") {
        // A thread may have ended since it was listed.
        let Ok(status) = std::fs::read_to_string(task.expect("task").path().join("status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
            u64::from_str_radix(line.trim(), 16).expect("hexadecimal")
        };
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(field(set) & !kept, 0, "{set} {status}");
        }
        assert_eq!((field("CapInh:"), field("CapAmb:"), field("NoNewPrivs:")), (0, 0, 1));
        threads += 1;
    }
    assert!(threads > 3);
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn the_service_manager_is_told() {
    let host = Host::new();
    let socket = UnixDatagram::bind(host.path("notify")).expect("socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
    let running = host.start_as(host.command(&["run"]).env("NOTIFY_SOCKET", host.path("notify")));
    let next = || {
        let mut buffer = [0; 1_024];
        let count = socket.recv(&mut buffer).expect("a message");
        text(&buffer[..count])
    };
    assert!(next().contains("READY=1"));
    running.signal(rustix::process::Signal::TERM);
    wait_for("the word that it stops", || next().contains("STOPPING=1").then_some(()));
    drop(running);
}

fn assert_absent(path: &Path) {
    assert!(!path.exists(), "{} is left behind", path.display());
}

#[test]
fn nothing_is_left_outside_the_directories() {
    let host = Host::new();
    assert_eq!(host.start().stop(), Some(0));
    assert_absent(&host.layout().socket());
    let names = std::fs::read_dir(host.directory.path()).expect("directory");
    let mut names: Vec<_> = names.map(|entry| entry.expect("entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["agent", "agent.toml", "log", "run", "state", "watched"]);
}

/// Where it could be on it would be in `tests/guard`: here another process than the first one has started the agent, or the kernel has it not.
#[test]
fn a_guard_that_does_not_work_here_is_told_and_the_agent_goes_on_without() {
    let host = Host::new();
    let configured = std::fs::read_to_string(host.path("agent.toml")).expect("configuration");
    host.configure(&format!("{configured}[guard]\nenabled = true\n"));
    let running = host.start();
    let status = host.status();
    let guard = &status["guard"];
    let (reason, fix) =
        (guard["reason"].as_str().unwrap_or_default(), guard["fix"].as_str().unwrap_or_default());
    assert_eq!(guard["state"], "refused", "{guard}");
    assert!(reason.contains("not started by process 1 but by process"), "{guard}");
    assert!(fix.contains("guard.enabled = false"), "{guard}");
    let complaint = format!("{reason}; {fix}");
    let reasons = status["reasons"].as_array().expect("reasons");
    assert!(reasons.iter().any(|told| told == complaint.as_str()), "{status}");
    let shown = host.agent(&["guard"]);
    assert_eq!((shown.status.code(), text(&shown.stdout).trim()), (Some(1), complaint.as_str()));
    let on = host.agent(&["guard", "on"]);
    assert_eq!(on.status.code(), Some(2), "{}", text(&on.stderr));
    assert_eq!(host.agent(&["guard", "off"]).status.code(), Some(0), "it is off");
    let doctor = text(&host.agent(&["doctor"]).stdout);
    assert!(doctor.contains(fix), "{doctor}");
    let told = wait_for("the record", || host.lifecycle().into_iter().find(|told| told.event == "guard"));
    assert!(told.title.starts_with("The agent goes on without its guard: the guard is not on"), "{told:?}");
    assert!(host.log().contains("the guard is not on; the agent goes on without"), "{}", host.log());
    assert_eq!(running.stop(), Some(0));
    started_by_the_first_process(&host);
}

/// Left to process 1 by a shell that ends, unless somebody else takes up orphans here: then the kernel itself has the last word.
fn started_by_the_first_process(host: &Host) {
    let orphan = ["sh", "-c", "(\"$@\" &); exec sleep 1000", "sh"];
    let running = host.start_as(&mut host.through(&orphan, &["run"]));
    let status = host.status();
    let reason = status.pointer("/guard/reason").and_then(Value::as_str).unwrap_or_default();
    let reasons = [
        "without bpf",
        "at the hook task_kill: the kernel refuses",
        "by another number",
        "cannot be read",
        "not started by process 1",
    ];
    assert!(reasons.iter().any(|wanted| reason.contains(wanted)), "{status}");
    let agent = status.get("pid").map(Value::to_string).expect("its number");
    assert!(Command::new("kill").arg(&agent).status().expect("kill").success());
    wait_for("the agent to stop", || (!host.layout().socket().exists()).then_some(()));
    running.kill();
}
