//! A customer's own rule files.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::{agent, agent_fed, events, objects};

const RULES: &str = r#"
service = "frobd"
programs = ["frobd"]

[[rule]]
event = "login.failure"
pattern = "refused {user} of {address}"

[[sample]]
message = "refused al of 192.0.2.7"
event = "login.failure"
user = "al"
address = "192.0.2.7"

[[sample]]
message = "accepted al of 192.0.2.7"
event = "none"
"#;

/// A configuration whose rule files are in a directory of their own.
fn configured(directory: &Path, rules: &str) -> (PathBuf, PathBuf) {
    let own = directory.join("parsers.d");
    std::fs::create_dir_all(&own).expect("a directory");
    let file = own.join("frobd.toml");
    std::fs::write(&file, rules).expect("a rule file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("its mode");
    let config = directory.join("agent.toml");
    std::fs::write(&config, format!("[logins]\nparsers_dir = {:?}\n", own.display().to_string()))
        .expect("a file");
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644)).expect("its mode");
    (config, file)
}

#[test]
fn a_rule_file_of_the_customers_is_used() {
    let directory = tempfile::tempdir().expect("a directory");
    let (config, _) = configured(directory.path(), RULES);
    let config = config.to_str().expect("a path");
    let log = b"Jan  1 00:00:00 h frobd[1]: refused x of 10.0.0.1 of 192.0.2.7\n";
    let output = agent_fed(&["--config", config, "replay", "--log", "-", "--json"], log);
    assert_eq!(events(&objects(&output)), ["1 login.failure x of 10.0.0.1 192.0.2.7"]);
    assert_eq!(agent(&["check-config", config]).status.code(), Some(0));
}

#[test]
fn what_is_wrong_with_it_is_told_and_it_is_left_out() {
    let check = |rules: &str, mode: u32, words: &str| {
        let directory = tempfile::tempdir().expect("a directory");
        let (config, file) = configured(directory.path(), rules);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("its mode");
        let config = config.to_str().expect("a path");
        let output = agent(&["check-config", config]);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{complaint}");
        assert!(complaint.contains(words), "{complaint}");
        let log = b"Jan  1 00:00:00 h frobd[1]: refused x of 192.0.2.7\n";
        let output = agent_fed(&["--config", config, "replay", "--log", "-", "--json"], log);
        assert_eq!(events(&objects(&output)), [""; 0]);
    };
    check(&RULES.replace("user = \"al\"", "user = \"bob\""), 0o644, "frobd.toml:9: user is read as \"al\"");
    check(
        &RULES.replace("{user} of ", "{user}"),
        0o644,
        "frobd.toml:7: the pattern has two fields side by side",
    );
    check(RULES, 0o666, "can be written by others");
    check("service = ", 0o644, "frobd.toml:1:");
}

#[test]
fn a_request_that_several_web_servers_may_have_logged_is_called_no_ones() {
    let common = r#"192.0.2.7 - - [21/Nov/2026:23:14:37 +0000] "GET / HTTP/1.1" 404 153 "-" "curl/8.0""#;
    let of_apache = format!("www.example.com:443 {common}");
    for (line, parser, service) in [
        (common, "auto", "web"),
        (common, "nginx", "nginx"),
        (common, "apache", "apache"),
        (&of_apache, "auto", "apache"),
    ] {
        let output = agent_fed(
            &["replay", "--log", "-", "--parser", parser, "--json"],
            format!("{line}\n").as_bytes(),
        );
        let told = objects(&output);
        let named = told.first().and_then(|event| event.get("service")).and_then(|service| service.as_str());
        assert_eq!(named, Some(service), "{parser}: {line}");
    }
}

#[test]
fn a_log_that_is_named_for_a_service_nobody_knows_is_a_problem() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("agent.toml");
    let check = |service: &str| {
        let text = format!("[logins]\nlogs = [{{ path = \"/srv/x.log\", service = \"{service}\" }}]\n");
        std::fs::write(&config, text).expect("a file");
        std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644)).expect("its mode");
        let output = agent(&["check-config", config.to_str().expect("a path")]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(check("nginx").0, Some(0));
    let (code, complaint) = check("ngnix");
    assert_eq!(code, Some(3));
    assert!(complaint.contains("there is no rule file for a service called ngnix"), "{complaint}");
}
