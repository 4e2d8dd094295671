//! What a person reads when real tools change the files that matter, in a mount namespace with an `/etc` of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::filesystems::in_namespace;
use crate::host::private_places;
use crate::lab::{Lab, rule};

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn shell(script: &str) {
    run("sh", &["-c", script]);
}

/// Waits for a finding of the rule whose title holds `words`.
fn told(lab: &Lab, rule_wanted: &str, words: &str) -> Value {
    let found = |lab: &Lab| {
        let findings = lab.findings.lock().unwrap();
        let wanted = |finding: &&Value| {
            rule(finding) == rule_wanted
                && finding["title"].as_str().is_some_and(|title| title.contains(words))
        };
        findings.iter().find(wanted).cloned()
    };
    lab.wait(&format!("{rule_wanted}: {words}"), |lab| found(lab).is_some());
    found(lab).unwrap()
}

/// The other files of the same act are in its evidence; what came too late for that, on a busy machine, names it.
fn tells_as_well(lab: &Lab, act: &Value, words: &str) {
    let is_told = |finding: &Value| {
        let evidence = &finding["evidence"];
        let text = if evidence["part_of"] == act["id"] { finding } else { &evidence["also"] };
        (finding["id"] == act["id"] || evidence["part_of"] == act["id"]) && text.to_string().contains(words)
    };
    lab.wait(words, |lab| lab.findings.lock().unwrap().iter().any(is_told));
}

#[test]
fn a_person_reads_in_one_line_what_happened() {
    if !in_namespace("meaning::a_person_reads_in_one_line_what_happened") {
        return;
    }
    let mut lab = Lab::new("fanotify");
    private_places(&lab);
    lab.config.trees = vec!["/etc".into(), "/root/.ssh".into()];
    lab.config.exclude = vec!["/etc/.pwd.lock".to_owned()];
    lab.start();
    run("useradd", &["--no-create-home", "--no-log-init", "mallory"]);
    let created = told(&lab, "account.created", "Account mallory was created with uid ");
    assert_eq!(created["evidence"]["fact"], "file.modified");
    let diff = created["evidence"]["diff"]["text"].as_str().unwrap();
    assert!(diff.contains("\n+mallory:x:"), "{diff}");
    tells_as_well(&lab, &created, "mallory has an entry without a password");
    for finding in lab.findings.lock().unwrap().iter() {
        assert!(matches!(finding["severity"].as_str(), Some("info" | "low")), "{finding}");
    }
    let acts = [
        (
            "echo 'evil:x:0:0::/:/bin/sh' >> /etc/passwd",
            "account.uid0",
            "Account evil was created with uid 0",
        ),
        (
            "echo 'mallory ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/m",
            "privilege.sudoers",
            "mallory may run anything as root",
        ),
        (
            "echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA eve' > /root/.ssh/authorized_keys",
            "account.key-added",
            " (eve) was added to root's authorized_keys",
        ),
        (
            "sed -i '/PermitRootLogin/s/no/yes/' /etc/ssh/sshd_config",
            "defence.service",
            "sshd now permits root logins by password",
        ),
        (
            "echo '* * * * * root /opt/x --token abc' > /etc/cron.d/x",
            "persistence.cron",
            "A cron job of root was added: * * * * * /opt/x --token [redacted]",
        ),
        ("sed -i s/Geheimnis/Anderes/ /etc/shadow", "account.changed", "The password of root was changed"),
        (
            "echo '192.0.2.1 security.debian.org' >> /etc/hosts",
            "trust.hosts",
            "security.debian.org now leads to 192.0.2.1",
        ),
        // Last: every program that starts from here on reads it.
        (
            "echo /nowhere/evil.so > /etc/ld.so.preload",
            "persistence.preload",
            "/etc/ld.so.preload now loads /nowhere/evil.so",
        ),
    ];
    for (act, rule_wanted, words) in acts {
        shell(act);
        let finding = told(&lab, rule_wanted, words);
        assert!(finding["attack"].as_array().is_some_and(|attack| !attack.is_empty()), "{finding}");
    }
    fs::remove_file("/etc/ld.so.preload").unwrap();
    let all = format!("{:?}", lab.findings.lock().unwrap());
    assert!(!all.contains("Geheim") && !all.contains("Anderes"), "a hash got out");
    lab.stop();
    let raw = fs::read(lab.database()).unwrap();
    let holds = |needle: &[u8]| raw.windows(needle.len()).any(|window| window == needle);
    assert!(!holds(b"Geheimnis"), "a before-image is readable in the database");
    assert!(Path::new(&lab.database().with_file_name("images.key")).exists());
}

#[test]
fn the_text_that_was_is_known_after_a_restart_and_a_change_meanwhile() {
    let mut lab = Lab::new("inotify");
    let list = lab.tree().join("home/.ssh/authorized_keys");
    fs::create_dir_all(list.parent().unwrap()).unwrap();
    fs::write(&list, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAB one\n").unwrap();
    lab.start();
    lab.stop();
    fs::write(&list, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAC two\n").unwrap();
    lab.start();
    let finding =
        told(&lab, "account.key-added", "(two) was added to home's authorized_keys (and one more change)");
    assert_eq!(finding["evidence"]["seen_by"], "rescan");
    let said: Vec<&str> = finding["evidence"]["meaning"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|said| said["words"].as_str())
        .collect();
    assert!(said.len() == 2 && said[1].contains("(one) was removed from home's"), "{said:?}");
    assert_eq!(finding["entities"][1]["name"]["text"], "home");
}
