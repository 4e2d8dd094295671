//! What administrators do all day, with the real tools on the real root under an overlay, seen by the real agent as it is
//! packaged: one act gives one finding of the right kind, however many files the tool writes.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use picket_tests::host::Host;
use serde_json::Value;

/// A host with the agent, and how many findings are known.
struct Day {
    host: Host,
    known: usize,
}

impl Day {
    fn begin(prepare: &str) -> Self {
        let mut host = Host::new();
        host.shell(prepare);
        host.start_agent();
        let known = host.findings().len();
        Self { host, known }
    }

    /// Does `act` and gives what is told of it, which are so many findings or more.
    fn news(&mut self, act: &str, count: usize) -> Vec<Value> {
        self.host.shell(act);
        let news = self.host.news(self.known, count);
        self.known += news.len();
        news
    }

    /// Does `act`, which must give exactly `expected`: rule, severity, title.
    fn expect(&mut self, act: &str, expected: &[(&str, &str, &str)]) -> Vec<Value> {
        let news = self.news(act, expected.len());
        check(act, &news, expected);
        news
    }

    /// The same of an editor that writes a file of its own and at once moves it to where the other was: that one may be told as well.
    fn expect_edit(&mut self, act: &str, expected: &[(&str, &str, &str)]) {
        let all = self.news(act, expected.len());
        let mut news = all.clone();
        news.retain(|finding| !all.iter().any(|edit| is_editors_own(finding, edit)));
        check(act, &news, expected);
    }

    /// Does what must give no finding.
    fn expect_nothing(&mut self, act: &str) {
        self.expect(act, &[]);
    }
}

/// What is told must be exactly `expected`: rule, severity, title.
#[track_caller]
fn check(act: &str, news: &[Value], expected: &[(&str, &str, &str)]) {
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let told: Vec<_> =
        news.iter().map(|news| (text(news, "rule"), text(news, "severity"), text(news, "title"))).collect();
    let told: Vec<_> = told
        .iter()
        .map(|(rule, severity, title)| (rule.as_str(), severity.as_str(), title.as_str()))
        .collect();
    assert_eq!(told, expected, "{act}: {news:#?}");
}

/// Whether it tells, no louder than `low`, of an editor's own file that then took the place of what was edited: where the editor was held up between
/// writing it and moving it, it was a new file, and is told as one.
fn is_editors_own(finding: &Value, edit: &Value) -> bool {
    let mild = ["info", "low"].contains(&finding["severity"].as_str().unwrap());
    let path = finding.pointer("/entities/0/path/text");
    let created = finding.pointer("/evidence/fact").and_then(Value::as_str) == Some("file.created");
    mild && created && path.is_some() && edit.pointer("/evidence/moved_from/text") == path
}

/// The paths of the parts that stand in the evidence of another.
fn also(finding: &Value) -> Vec<&str> {
    let also = finding.pointer("/evidence/also").unwrap().as_array().unwrap();
    let mut paths: Vec<_> =
        also.iter().map(|part| part.pointer("/path/path/text").unwrap().as_str().unwrap()).collect();
    paths.sort_unstable();
    paths
}

#[test]
fn each_act_on_accounts_is_one_finding() {
    let mut day = Day::begin("useradd picket-old");
    let made = day.expect(
        "useradd -m --uid 4711 picket-x",
        &[("account.created", "low", "Account picket-x was created with uid 4711")],
    );
    let companions = also(&made[0]);
    for path in [
        "/etc/group",
        "/etc/group-",
        "/etc/gshadow",
        "/etc/passwd-",
        "/etc/shadow",
        "/etc/subuid",
        "/etc/subgid",
    ] {
        assert!(companions.contains(&path), "{path} is not among {companions:?}");
    }
    assert_eq!(made[0]["evidence"]["actor"]["executable"]["text"], "/usr/sbin/useradd", "{:#}", made[0]);
    let changed = |title| [("account.changed", "low", title)];
    day.expect("usermod -aG users picket-x", &changed("picket-x was added to group users"));
    day.expect("echo picket-x:secret | chpasswd", &changed("Account picket-x may log in by password now"));
    day.expect("passwd -q -l picket-x", &[("account.locked", "low", "The password of picket-x was locked")]);
    day.expect(
        "groupadd --gid 4712 picket-g",
        &[("account.changed", "info", "Group picket-g was created with gid 4712")],
    );
    day.expect("groupdel picket-g", &[("account.changed", "info", "Group picket-g was removed")]);
    day.expect(
        "userdel -r picket-x 2> /tmp/out",
        &[("account.removed", "low", "Account picket-x was removed")],
    );
    // A script that calls groupadd, useradd and usermod one after the other.
    day.expect(
        "adduser --quiet --uid 4713 --disabled-password --gecos '' picket-y",
        &[("account.created", "low", "Account picket-y was created with uid 4713")],
    );
    // What matters much is as severe as ever, and root under another name does not wait for its companions.
    let mighty = "picket-y was added to group sudo, whose members are as good as root";
    day.expect("usermod -aG sudo picket-y", &[("account.changed", "high", mighty)]);
    let root = "Account picket-root was created with uid 0: it is root under another name";
    let told = day.expect(
        "useradd -o -u 0 picket-root 2> /tmp/out",
        &[
            ("account.uid0", "critical", root),
            ("account.changed", "info", "Account picket-root has an entry without a password"),
        ],
    );
    assert_eq!(told[1]["evidence"]["part_of"], told[0]["id"], "{told:#?}");
}

/// An editor that takes its time and adds a line to the last file that it is given.
fn editor(line: &str) -> String {
    format!(
        "printf '#!/bin/sh\\nsleep 1.2\\nfor file; do :; done\\necho \"{line}\" >> \"$file\"\\nsleep 0.5\\n' > /var/picket-editor; chmod 755 /var/picket-editor"
    )
}

#[test]
fn each_edit_is_one_finding_and_one_that_is_given_up_is_none() {
    let mut day = Day::begin(
        "echo 'ALL: 192.0.2.1' > /etc/hosts.deny; echo 'picket ALL=(ALL) /bin/ls' > /etc/sudoers.d/picket; chmod 440 /etc/sudoers.d/picket",
    );
    let line = "ALL: 192.0.2.7";
    day.expect(
        &format!("(sleep 1; printf 'Go{line}\\033'; sleep 1; printf ':wq\\r') | script -qec 'TERM=xterm vim.tiny /etc/hosts.deny' /dev/null > /tmp/out"),
        &[("trust.hosts", "low", "Others are kept from connecting: ALL: 192.0.2.7 (/etc/hosts.deny)")],
    );
    day.expect_nothing(
        "(sleep 1; printf ':q!\\r') | script -qec 'TERM=xterm vim.tiny /etc/hosts.deny' /dev/null > /tmp/out",
    );
    day.expect_edit(
        "sed -i 's/192.0.2.7/192.0.2.8/' /etc/hosts.deny",
        &[(
            "trust.hosts",
            "medium",
            "No longer kept from connecting: ALL: 192.0.2.7 (/etc/hosts.deny) (and one more change)",
        )],
    );
    let visudo = "EDITOR=/var/picket-editor visudo > /tmp/out 2>&1";
    let edited = day.expect(
        &format!("{}; {visudo}", editor("# a remark")),
        &[("file.modified", "low", "/etc/sudoers was replaced by /etc/sudoers.tmp")],
    );
    assert_eq!(edited[0]["evidence"]["actor"]["executable"]["text"], "/usr/sbin/visudo", "{:#}", edited[0]);
    day.expect(
        &format!(
            "{}; EDITOR=/var/picket-editor visudo -f /etc/sudoers.d/picket > /tmp/out 2>&1",
            editor("picket-b ALL=(ALL) /bin/ls")
        ),
        &[("privilege.sudoers", "medium", "picket-b may run as root by sudo now: /bin/ls")],
    );
    day.expect(
        &format!("{}; EDITOR=/var/picket-editor crontab -e 2> /tmp/out", editor("5 4 * * * /bin/true")),
        &[("persistence.cron", "medium", "A cron job of root was added: 5 4 * * * /bin/true")],
    );
}

#[test]
fn services_certificates_and_alternatives_are_one_finding_each() {
    let mut day = Day::begin(
        "mkdir -p /etc/letsencrypt/live/a.example /etc/letsencrypt/archive/a.example; cd /etc/letsencrypt\n\
         for f in cert chain fullchain privkey; do echo 1 > archive/a.example/${f}1.pem; ln -s ../../archive/a.example/${f}1.pem live/a.example/$f.pem; done\n\
         printf '[Service]\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\nAlias=picket-alias.service\\n' > /etc/systemd/system/picket-x.service\n\
         printf '#!/bin/sh\\n### BEGIN INIT INFO\\n# Provides: picket-x\\n# Required-Start:\\n# Required-Stop:\\n# Default-Start: 2 3 4 5\\n# Default-Stop: 0 1 6\\n### END INIT INFO\\n' > /etc/init.d/picket-x; chmod 755 /etc/init.d/picket-x",
    );
    let enabled = "picket-x.service is started with multi-user.target from now on (/etc/systemd/system/picket-x.service)";
    let told = day.expect(
        "systemctl --quiet enable picket-x 2> /tmp/out",
        &[("persistence.systemd", "medium", enabled)],
    );
    assert!(also(&told[0]).contains(&"/etc/systemd/system/picket-alias.service"), "{told:#?}");
    assert!(also(&told[0]).contains(&"/etc/rc2.d/S01picket-x"), "{told:#?}");
    let disabled = "picket-x.service is no longer started with multi-user.target";
    day.expect("systemctl --quiet disable picket-x 2> /tmp/out", &[("defence.service", "low", disabled)]);
    let renew = "cd /etc/letsencrypt; for f in cert chain fullchain privkey; do echo 2 > archive/a.example/${f}2.pem; ln -sfn ../../archive/a.example/${f}2.pem live/a.example/$f.pem; done";
    let told = day.expect(renew, &[("file.modified", "info", "Certificate a.example was renewed, 8 files")]);
    assert_eq!(told[0]["explained_by"], "certificate a.example was renewed");
    let link = "A symbolic link was created: /usr/bin/picket-alternative";
    day.expect(
        "update-alternatives --quiet --install /usr/bin/picket-alternative picket-alternative /bin/true 10",
        &[("file.created", "medium", link)],
    );
}

#[test]
fn an_agent_that_was_upgraded_tells_what_happened_while_none_ran() {
    let mut host = Host::new();
    host.shell("echo one >/etc/picket-kept; echo one >/etc/picket-gone; echo one >/etc/picket-same");
    host.start_agent();
    let known = host.findings().len();
    host.shell("echo two >/etc/picket-kept");
    let seen = host.news(known, 1);
    assert_eq!(seen[0].pointer("/evidence/seen_by").unwrap(), "event", "{seen:#?}");
    let known = known + seen.len();
    let clock = |host: &Host| host.shell("date -u +%Y-%m-%dT%H:%M:%S.%NZ").trim().to_owned();

    assert_eq!(host.stop_agent(), Some(0));
    let stopped = clock(&host);
    // Another file under the same name, as a package manager puts it there. What stands behind a program is not loaded.
    host.shell(
        "cp /tmp/agent/agent /tmp/agent/new; echo next >>/tmp/agent/new; mv /tmp/agent/new /tmp/agent/agent",
    );
    host.shell("echo three >/etc/picket-kept; echo one >/etc/picket-new; rm /etc/picket-gone");
    let changed = clock(&host);
    host.start_agent();

    let mut told = host.news(known, 3);
    let path =
        |finding: &Value| finding.pointer("/entities/0/path/text").unwrap().as_str().unwrap().to_owned();
    told.sort_by_key(path);
    let rules: Vec<_> =
        told.iter().map(|finding| (finding["rule"].as_str().unwrap().to_owned(), path(finding))).collect();
    let expected = [
        ("file.deleted", "/etc/picket-gone"),
        ("file.modified", "/etc/picket-kept"),
        ("file.created", "/etc/picket-new"),
    ];
    assert_eq!(rules, expected.map(|(rule, path)| (rule.to_owned(), path.to_owned())), "{told:#?}");
    for finding in &told {
        assert_eq!(finding.pointer("/evidence/seen_by").unwrap(), "rescan", "{finding:#}");
        let time = |end: &str| {
            let at = finding.pointer(&format!("/evidence/window/{end}")).and_then(Value::as_str);
            at.unwrap_or_else(|| panic!("{finding:#}")).to_owned()
        };
        // It began when all was last known to be as it was, which was when the old one stopped, and ended after the change.
        assert!(time("from") < stopped && time("to") > changed, "{stopped} {changed} {finding:#}");
    }
    // What the old one sealed is the new one's too.
    let report = host.agent_run(&["verify"]);
    assert!(report.to_lowercase().contains("verified"), "{report}");
}
