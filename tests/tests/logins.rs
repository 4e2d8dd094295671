//! Logins end to end: a real sshd, real clients, real sudo, the kernel's real audit, and what a user reads of it.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests fail loudly")]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use picket_tests::agent::Agent;
use picket_tests::audit::Audit;
use picket_tests::ssh::SshHost;
use picket_tests::wait_for;
use serde_json::Value;

/// An agent that is not enrolled, reads the log of `host` and watches what its users share.
fn agent(dir: &Path, host: &SshHost, audit: bool) -> Agent {
    let agent = Agent::configure(dir, "");
    let path = dir.join("agent.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text
        .replace("audit = false", &format!("audit = {audit}"))
        .replace(&agent.auth_log().display().to_string(), &host.auth_log().display().to_string())
        .replace(&agent.watched().display().to_string(), &host.shared().display().to_string());
    std::fs::write(&path, text).unwrap();
    agent
}

fn wait_until_it_runs(agent: &Agent) {
    wait_for("the agent to run with its baseline taken", || {
        let status = agent.status()?;
        let sensors = status.get("sensors")?.as_object()?.clone();
        let ready = |name: &str| sensors.get(name).is_some_and(|sensor| sensor["state"] == "running");
        (ready("files") && ready("logins")).then_some(())
    });
}

/// The sealed findings of a rule.
fn findings(agent: &Agent, rule: &str) -> Vec<Value> {
    agent
        .json(&["findings", "--rule", rule, "--limit", "1000"])
        .into_iter()
        .filter_map(|record| record.get("body").cloned())
        .collect()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn wait_for_finding(agent: &Agent, rule: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, || findings(agent, rule).into_iter().rev().find(|finding| fits(finding)))
}

/// A user whom no other test has: audit tells of all that happens on this machine.
fn name(what: &str) -> String {
    format!("{what}{}", std::process::id())
}

/// Whether it is about `user`, and told by both.
fn names_both_sources(finding: &Value, user: &str) -> bool {
    if text(finding, "/evidence/event/user/text") != user {
        return false;
    }
    let sources = finding.pointer("/evidence/event/sources").map(ToString::to_string).unwrap_or_default();
    sources.contains("audit") && sources.contains("log") && finding.pointer("/evidence/event/port").is_some()
}

#[test]
fn audit_and_log_tell_one_login_and_a_changed_file_names_it() {
    let audit = match Audit::switch_on() {
        Ok(audit) => audit,
        Err(error) => {
            println!("NOT TESTED with the kernel's audit, which cannot be used on this machine: {error}");
            return;
        }
    };
    let (dir, user, stranger) = (tempfile::tempdir().unwrap(), name("user"), name("stranger"));
    let mut host = SshHost::start_for(&dir.path().join("lab"), &user);
    let mut agent = agent(&dir.path().join("host"), &host, true);
    agent.resume();
    wait_until_it_runs(&agent);
    wait_for("audit to be read", || of_audit(&agent).filter(|(state, _)| state == "running"));

    // A wrong password: told by audit at once, by the log a second or two later; one attempt, one finding.
    host.fail(&user);
    let failure = wait_for_finding(&agent, "login.failure", "the failure by both", |told| {
        names_both_sources(told, &user)
    });
    assert_eq!(failure["observed"]["count"], 1, "{failure}");
    let all = findings(&agent, "login.failure");
    let ours = all.iter().filter(|told| text(told, "/evidence/event/user/text") == user);
    assert!(ours.into_iter().all(|told| told["id"] == failure["id"]), "one act: {all:?}");

    // A name that nobody has: audit knows it by another word.
    host.fail(&stranger);
    wait_for("the unknown user", || {
        let all = agent.json(&["findings", "--rule", "login.", "--limit", "1000"]);
        all.into_iter().find(|record| record.to_string().contains(&format!("\"text\":\"{stranger}\"")))
    });

    // As people do: what tells of a login, and of sudo, may be read a moment late, and who wrote is looked at while he lives.
    host.execute(
        "sleep 4; echo x >/srv/shared/by-demo; sudo -n sh -c 'sleep 4; echo y >/srv/shared/by-root; sleep 3'; sleep 1",
    );
    let login = wait_for_finding(&agent, "login.success", "the login by both", |told| {
        names_both_sources(told, &user)
    });
    assert_eq!(login["observed"]["count"], 1, "{login}");
    let key = text(&login, "/evidence/event/key/text").to_owned();
    assert!(key.contains("SHA256:"), "{login}");

    let by_demo = wait_for_finding(&agent, "file.created", "demo's file", |finding| {
        finding["title"].to_string().contains("by-demo")
    });
    let session = &by_demo["evidence"]["session"];
    assert_eq!(session["address"], "127.0.0.1", "{by_demo}");
    assert_eq!(text(session, "/key/text"), key, "{by_demo}");
    assert!(text(&by_demo, "/title").contains("ssh from 127.0.0.1, key SHA256:"), "{by_demo}");
    let by_root = wait_for_finding(&agent, "file.created", "root's file", |finding| {
        finding["title"].to_string().contains("by-root")
    });
    let by = text(&by_root, "/evidence/session/by");
    assert!(by.starts_with("root by sudo of ") && by.contains("after login"), "{by_root}");
    assert_eq!(by_root["evidence"]["session"]["id"], session["id"], "one session");

    // What a person is shown.
    let shown = agent.run(&["show", by_root["id"].as_str().unwrap()]);
    assert!(shown.contains("root by sudo of"), "{shown}");
    let live = wait_for("the session to have ended", || {
        let sessions = agent.json(&["sessions"]);
        sessions.into_iter().find(|told| told["id"] == session["id"] && told["end"] == "logout")
    });
    assert_eq!((text(&live, "/service"), text(&live, "/address")), ("sshd", "127.0.0.1"), "{live}");
    assert!(live["privileges"].to_string().contains("by-root"), "{live}");
    let table = agent.run(&["sessions"]);
    assert!(table.contains("sshd from 127.0.0.1 port") && table.contains("became root by sudo"), "{table}");

    // It is known after a kill as well.
    agent.kill();
    agent.resume();
    wait_until_it_runs(&agent);
    let again = agent.json(&["sessions"]);
    assert!(again.iter().any(|told| told["id"] == session["id"] && told["key"] == live["key"]), "{again:?}");
    drop(audit);
}

#[test]
fn without_audit_the_log_and_the_kernel_together_name_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let mut host = SshHost::start_with_host_processes(&dir.path().join("lab"), &name("plain"));
    let mut agent = agent(&dir.path().join("host"), &host, false);
    agent.resume();
    wait_until_it_runs(&agent);
    // What the log says of the login may be read a moment late.
    host.execute("sleep 4; sudo -n sh -c 'echo y >/srv/shared/by-root; sleep 3'");
    let by_root = wait_for_finding(&agent, "file.created", "root's file", |finding| {
        finding["title"].to_string().contains("by-root")
    });
    let session = &by_root["evidence"]["session"];
    assert_eq!(session["address"], "127.0.0.1", "{by_root}");
    assert!(text(session, "/key/text").contains("SHA256:"), "{by_root}");
    assert!(session["port"].is_number() && session["audit_session"].is_number(), "{by_root}");
    assert!(text(session, "/by").starts_with("root"), "{by_root}");
    agent.stop();
}

/// A real auditd with its files in `dir`, the kernel's only reader of audit by unicast while it runs.
struct Auditd(Child);

impl Auditd {
    fn start(dir: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::create_dir_all(dir.join("plugins.d")).unwrap();
        let at = dir.display();
        let actions: String = ["max_log_file", "space_left", "admin_space_left", "disk_full", "disk_error"]
            .iter()
            .map(|what| format!("{what}_action = IGNORE\n"))
            .collect();
        let text = format!(
            "local_events = yes\nwrite_logs = yes\nlog_file = {at}/audit.log\nlog_format = RAW\nlog_group = root\n\
             flush = NONE\nmax_log_file = 8\nnum_logs = 2\nspace_left = 2\nadmin_space_left = 1\nname_format = NONE\n\
             plugin_dir = {at}/plugins.d\n{actions}"
        );
        std::fs::write(dir.join("auditd.conf"), text).unwrap();
        std::fs::set_permissions(dir.join("auditd.conf"), std::fs::Permissions::from_mode(0o640)).unwrap();
        let mut command = Command::new("/usr/sbin/auditd");
        command.args(["-n", "-s", "nochange", "-c"]).arg(dir).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("auditd is missing: tests/run installs it"))
    }

    fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Auditd {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// What the agent says of its source audit.
fn of_audit(agent: &Agent) -> Option<(String, String)> {
    let status = agent.status()?;
    let sources = status.pointer("/sensors/logins/sources")?.as_array()?;
    let audit = sources.iter().find(|source| source["source"] == "audit")?;
    Some((text(audit, "/state").to_owned(), text(audit, "/reason").to_owned()))
}

#[test]
fn beside_a_running_auditd_both_hear_everything() {
    let audit = match Audit::switch_on() {
        Ok(audit) => audit,
        Err(error) => {
            println!("NOT TESTED with the kernel's audit, which cannot be used on this machine: {error}");
            return;
        }
    };
    let (dir, user) = (tempfile::tempdir().unwrap(), name("both"));
    let mut host = SshHost::start_for(&dir.path().join("lab"), &user);
    let mut agent = agent(&dir.path().join("host"), &host, true);
    agent.resume();
    wait_until_it_runs(&agent);
    wait_for("audit, without a daemon", || {
        of_audit(&agent).filter(|(state, reason)| state == "running" && reason == "no audit daemon runs")
    });

    // It comes while the agent listens, and takes nothing from it.
    let log = dir.path().join("audit/audit.log");
    let mut auditd = Auditd::start(&dir.path().join("audit"));
    wait_for("auditd to have begun", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("DAEMON_START")).then_some(())
    });
    host.fail(&user);
    let failure = wait_for_finding(&agent, "login.failure", "the failure by both", |told| {
        names_both_sources(told, &user)
    });
    assert_eq!(failure["observed"]["count"], 1, "{failure}");
    wait_for("auditd's own record of it", || {
        let text = String::from_utf8_lossy(&std::fs::read(&log).ok()?).into_owned();
        text.contains(&format!("acct=\"{user}\"")).then_some(())
    });
    wait_for("the status to name auditd", || {
        let (state, reason) = of_audit(&agent)?;
        (state == "running" && reason == format!("beside the audit daemon, process {}", auditd.0.id()))
            .then_some(())
    });
    // Logins that are alike are one finding that grows.
    let count = |agent: &Agent| {
        let all = findings(agent, "login.success");
        let ours = all.into_iter().filter(|told| text(told, "/evidence/event/user/text") == user);
        let mut counts = std::collections::BTreeMap::new();
        for told in ours {
            let count = told.pointer("/observed/count").and_then(Value::as_u64).unwrap_or_default();
            let known = counts.entry(told["id"].to_string()).or_insert(count);
            *known = count.max(*known);
        }
        counts.values().sum::<u64>()
    };
    host.log_in();
    wait_for_finding(&agent, "login.success", "the login by both", |told| names_both_sources(told, &user));
    // And it goes.
    auditd.stop();
    host.log_in();
    wait_for("the second login", || (count(&agent) == 2).then_some(()));
    drop(audit);
}
