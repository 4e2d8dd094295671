//! Recorded logs and journals.

use serde_json::{Value, json};

use crate::{agent, agent_fed, events, field, objects};

/// Five failures of one address, among them lines of every other kind that sshd writes.
const SSHD: &str = "\
Dec 31 23:58:01 web sshd[100]: Invalid user webmaster from 192.0.2.7 port 38926
Dec 31 23:58:01 web sshd[100]: pam_unix(sshd:auth): check pass; user unknown
Dec 31 23:58:02 web sshd[100]: Failed password for invalid user webmaster from 192.0.2.7 port 38926 ssh2
Dec 31 23:59:59 web sshd[101]: Failed password for root from 192.0.2.7 port 38930 ssh2
Jan  1 00:00:00 web sshd[102]: Failed password for root from 192.0.2.7 port 38931 ssh2
Jan  1 00:00:01 web sshd[103]: Failed password for root from 192.0.2.7 port 38932 ssh2
Jan  1 00:00:02 web sshd[104]: Failed password for a from 10.0.0.1 port 22 ssh2 from 192.0.2.7 port 38933 ssh2
Jan  1 00:00:03 web CRON[105]: pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)
Jan  1 00:00:04 web sshd[106]: Connection closed by 198.51.100.9 port 5 [preauth]
Jan  1 00:00:05 web sshd-session[107]: Accepted publickey for al from 2001:db8::7 port 1 ssh2: ED25519 SHA256:abc
Jan  1 00:00:06 web sudo:       al : TTY=pts/0 ; PWD=/home/al ; USER=root ; COMMAND=/usr/bin/id
Jan  1 00:00:07 web useradd[108]: new user: name=bob, UID=1001, GID=1001, home=/home/bob, shell=/bin/bash, from=/dev/pts/0
";

#[test]
fn every_event_has_its_line_and_a_finding_the_lines_that_led_to_it() {
    let output = agent_fed(&["replay", "--log", "-", "--year", "2016", "--json"], SSHD.as_bytes());
    let objects = objects(&output);
    assert_eq!(
        events(&objects),
        [
            "1 login.invalid-user webmaster 192.0.2.7",
            "3 login.invalid-user webmaster 192.0.2.7",
            "4 login.failure root 192.0.2.7",
            "5 login.failure root 192.0.2.7",
            "6 login.failure root 192.0.2.7",
            "7 login.failure a from 10.0.0.1 port 22 ssh2 192.0.2.7",
            "9 login.probe  198.51.100.9",
            "10 login.success al 2001:db8::7",
            "11 privilege.success al ",
            "12 account.created bob ",
        ]
    );
    let fourth = objects.iter().find(|object| field(object, "line") == "4").expect("the line");
    let wanted = json!({
        "line": 4, "event": "login.failure", "service": "sshd", "user": "root", "address": "192.0.2.7", "port": 38930,
        "method": "password", "pid": 101, "time": field(fourth, "time"),
    });
    assert_eq!(*fourth, wanted);
    let brute_force =
        objects.iter().find(|object| field(object, "finding") == "login.brute-force").expect("an alarm");
    let lines: Vec<u64> = brute_force["lines"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
    assert!(lines.contains(&7), "{lines:?}: the line that reached the threshold");
    assert!(lines.iter().all(|line| (1..=7).contains(line)), "{lines:?}");
    assert!(
        ["severity", "title", "entities", "observed", "evidence"]
            .iter()
            .all(|key| brute_force.get(key).is_some())
    );
    let told = objects.iter().position(|object| object == brute_force).expect("its place");
    let reached = objects.iter().position(|object| field(object, "line") == "7").expect("its place");
    assert_eq!(told, reached + 1, "the alarm comes at the event that reaches the threshold");
    assert!(String::from_utf8_lossy(&output.stderr).contains("12 lines, 10 events"));
}

#[test]
fn the_year_turns_within_the_log() {
    let output = agent_fed(&["replay", "--log", "-", "--year", "2016", "--json"], SSHD.as_bytes());
    let times: Vec<String> = objects(&output)
        .iter()
        .filter(|object| object.get("event").is_some())
        .map(|object| field(object, "time").chars().take(4).collect())
        .collect();
    assert_eq!(times, ["2016", "2016", "2016", "2017", "2017", "2017", "2017", "2017", "2017", "2017"]);
}

#[test]
fn a_parser_that_is_named_reads_nothing_else() {
    let output = agent_fed(&["replay", "--log", "-", "--parser", "sudo", "--json"], SSHD.as_bytes());
    assert_eq!(events(&objects(&output)), ["11 privilege.success al "]);
}

#[test]
fn damaged_logs_are_read_as_far_as_they_go() {
    let mut log =
        b"Jan  1 00:00:00 web sshd[1]: Failed password for root from 192.0.2.7 port 1 ssh2\r\n".to_vec();
    log.extend_from_slice(b"\xff\xfe\0binary\x01\n\n");
    log.extend(std::iter::repeat_n(b'x', 300_000));
    log.extend_from_slice(
        b"\nJan  1 00:00:01 web sshd[1]: Failed password for \xffroot from 192.0.2.7 port 2 ssh2",
    );
    let output = agent_fed(&["replay", "--log", "-", "--json"], &log);
    assert_eq!(
        events(&objects(&output)),
        ["1 login.failure root 192.0.2.7", "5 login.failure \u{fffd}root 192.0.2.7"]
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 lines too long and left out"));
}

#[test]
fn an_exported_journal_is_believed_as_far_as_its_senders_are() {
    let entry = |identifier: &str, message: &str, sender: &str| {
        let mut entry: Value = serde_json::from_str(sender).expect("fields");
        entry["__CURSOR"] = json!("c");
        entry["__REALTIME_TIMESTAMP"] = json!("1480000000000000");
        entry["SYSLOG_IDENTIFIER"] = json!(identifier);
        entry["MESSAGE"] = json!(message);
        format!("{entry}\n")
    };
    let failure = "Failed password for root from 192.0.2.7 port 22 ssh2";
    let export = [
        entry("sshd", failure, r#"{"_UID":"0","_COMM":"sshd","_EXE":"/usr/sbin/sshd","_PID":"77"}"#),
        entry("sshd", failure, r#"{"_UID":"1000","_COMM":"logger","_EXE":"/usr/bin/logger"}"#),
        "nonsense\n".to_owned(),
        entry("vsftpd", "[al] FAIL LOGIN: Client \"192.0.2.7\"", r#"{"_UID":"0","_EXE":"/usr/sbin/vsftpd"}"#),
        entry("vsftpd", "[al] FAIL LOGIN: Client \"10.0.0.1\"", r#"{"_UID":"0","_EXE":"/usr/bin/logger"}"#),
    ];
    let output = agent_fed(&["replay", "--journal", "-", "--json"], export.concat().as_bytes());
    let objects = objects(&output);
    assert_eq!(events(&objects), ["1 login.failure root 192.0.2.7", "4 login.failure al 192.0.2.7"]);
    assert_eq!(field(&objects[0], "pid"), "77");
    assert!(field(&objects[0], "time").starts_with("2016-11-24T15:06:40"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("2 entries of somebody else"));
}

#[test]
fn a_line_that_led_to_nothing_is_explained() {
    let log = "Jan  1 00:00:00 web vsftpd[1]: [al] FAIL LOGON: Client \"192.0.2.7\"\nJan  1 00:00:00 web unheard[1]: x\n";
    let output = agent_fed(&["replay", "--log", "-", "--explain"], log.as_bytes());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("     1  nothing") && text.contains("vsftpd.toml:"), "{text}");
    assert!(
        text.contains("no parser is for the program \\\"unheard\\\"") || text.contains("\"unheard\""),
        "{text}"
    );
}

#[test]
fn what_cannot_be_done_is_said_with_its_exit_code() {
    let output = agent(&["replay", "--log", "/nonexistent/log"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/log"));
    let output = agent(&["replay", "--log", "/dev/null", "--parser", "nobody"]);
    assert_eq!(output.status.code(), Some(3));
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("\"nobody\"") && complaint.contains("vsftpd"), "{complaint}");
    assert_eq!(agent(&["replay"]).status.code(), Some(3));
}
