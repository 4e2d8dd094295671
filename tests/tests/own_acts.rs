//! What the agent does to its host by command is seen by its own sensors, and told with the command that explains it; what others do
//! beside it is told as ever. Real sensors, real programs.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::process::Stdio;

use picket_tests::cable::Cable;
use picket_tests::collector::Collector;
use picket_tests::host::Host;
use picket_tests::operators::Operators;
use picket_tests::site::{ATTACKER, COLLECTOR, Site, cable};
use picket_tests::wait_for;
use serde_json::Value;

/// A host whose agent watches accounts and a tree, connected.
struct Lab<'a> {
    host: Host,
    collector: &'a Collector,
    operators: Operators<'a>,
}

impl<'a> Lab<'a> {
    fn start(dir: &std::path::Path, collector: &'a Collector) -> Self {
        let operators = Operators::install(collector, dir, "acme");
        let mut host = Host::new();
        // A user number that no other test has, nor another run on this machine: what runs as it is stopped.
        let uid = 60_000 + std::process::id() % 1_000;
        host.shell(&format!(
            "useradd --no-create-home --uid {uid} hilda; mkdir -p /srv/watched /etc/app; echo evil >/srv/watched/evil; \
             install -m 640 -o 12 -g 34 /dev/null /etc/app/app.conf; printf 'mode = safe\\n' >/etc/app/app.conf"
        ));
        host.shell("sed -i '/^.logins/i [files]\\ntrees = [\"/etc/shadow\", \"/etc/app\", \"/srv/watched\"]\\nlogs = []\\n[network]\\nenabled = false\\n[neighbours]\\nenabled = false' /tmp/agent/agent.toml");
        host.agent_run(&["enroll", &collector.token("acme")]);
        host.start_agent();
        wait_for("the agent to be connected", || {
            let status = host.json(&["status"]).into_iter().next()?.to_string();
            status.contains("\"connected\":true").then_some(())
        });
        Self { host, collector, operators }
    }

    /// Has an operator order it of this host; gives the command's id.
    fn send(&self, name: &str, args: &[&str]) -> String {
        let status = self.host.json(&["status"]).into_iter().next().unwrap();
        let host = status["agent"].as_str().unwrap().to_owned();
        let path = self.operators.write(name, &[args, &["--host", &host]].concat());
        self.operators.sign(&path, "alice");
        self.collector.soc_json(&["send", &path])[0]["id"].as_str().unwrap().to_owned()
    }

    /// Has a file put back by a finding, and gives the command and its receipt.
    fn restore(&self, name: &str, finding: &str) -> (String, Value) {
        let id = self.send(name, &["restore-file", "--finding", finding]);
        let receipt = wait_for(&format!("the answer to {name}"), || {
            let receipts = self.collector.soc_json(&["receipts", "--command", &id, "--full"]);
            receipts.into_iter().find(|receipt| receipt["outcome"] != "received")
        });
        (id, receipt)
    }

    /// The same, and waits until it is in force.
    fn order(&self, name: &str, args: &[&str]) -> String {
        let id = self.send(name, args);
        wait_for(&format!("{name} to be in force"), || {
            let receipts = self.collector.soc_json(&["receipts", "--command", &id, "--full"]);
            let is = |outcome: &str| receipts.iter().find(|receipt| receipt["outcome"] == outcome);
            assert!(is("failed").or(is("refused")).is_none(), "{receipts:#?}");
            is("confirmed").map(drop)
        });
        id
    }

    /// The findings about a path behind the first `known`, when there is one.
    fn told(&self, path: &str, known: usize) -> Value {
        wait_for(&format!("a finding about {path}"), || {
            let findings = self.host.findings().into_iter().skip(known);
            findings.into_iter().find(|finding| finding.to_string().contains(path))
        })
    }
}

fn is_explained(finding: &Value, command: &str) -> bool {
    let explained = finding["explained_by"].as_str().unwrap_or_default();
    explained.contains(command) && finding["severity"] == "info"
}

#[test]
fn files_that_the_agent_changes_are_told_with_the_command_and_those_of_others_as_ever() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let lab = Lab::start(dir.path(), &collector);
    let count = || lab.host.findings().len();
    let (shadow, evil) = ("/etc/shadow", "/srv/watched/evil");

    let mut known = count();
    let freeze = lab.order("freeze", &["freeze-account", "--user", "hilda", "--lease", "10m"]);
    let finding = lab.told(shadow, known);
    assert!(is_explained(&finding, &freeze), "{finding:#}");
    known = count();
    lab.host.agent_run(&["release", &freeze]);
    let finding = lab.told(shadow, known);
    assert!(is_explained(&finding, &freeze), "and its end: {finding:#}");

    known = count();
    let sha256 = lab.host.shell(&format!("sha256sum {evil}"));
    let sha256 = sha256.split(' ').next().unwrap();
    let quarantine =
        lab.order("quarantine", &["quarantine-file", "--path", evil, "--sha256", sha256, "--lease", "10m"]);
    let finding = lab.told(evil, known);
    assert!(is_explained(&finding, &quarantine) && finding["rule"] == "file.deleted", "{finding:#}");
    known = count();
    lab.host.agent_run(&["release", &quarantine]);
    let finding = lab.told(evil, known);
    assert!(is_explained(&finding, &quarantine) && finding["rule"] == "file.created", "{finding:#}");

    // A look at everything finds nothing that nobody explains.
    lab.host.agent_run(&["scan"]);
    lab.host.settle();
    let unexplained = |finding: &Value| finding["explained_by"].is_null();
    assert_eq!(lab.host.findings().into_iter().find(unexplained), None);

    // The same by somebody else; and mixed with what the agent does.
    known = count();
    lab.host.shell("usermod --expiredate 1 hilda");
    let finding = lab.told(shadow, known);
    assert!(unexplained(&finding), "{finding:#}");
    known = count();
    lab.host.shell(&format!("rm {evil}"));
    let finding = lab.told(evil, known);
    assert!(unexplained(&finding), "{finding:#}");
}

/// Content, owner and mode of the file that is put back.
fn app_conf(lab: &Lab) -> String {
    lab.host.shell("cat /etc/app/app.conf; stat -c '%a %u %g' /etc/app/app.conf")
}

fn id_of(finding: &Value) -> &str {
    finding["id"].as_str().unwrap()
}

#[test]
fn a_changed_text_is_put_back_by_its_finding_and_that_is_told_with_the_command_and_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let lab = Lab::start(dir.path(), &collector);
    let count = || lab.host.findings().len();
    let path = "/etc/app/app.conf";
    let (safe, evil) = ("mode = safe\n640 12 34\n", "mode = evil\n666 77 77\n");
    assert_eq!(app_conf(&lab), safe);

    let mut known = count();
    // By one program that holds the file open: what is looked at between two of them would be two findings.
    let deface = "open(F, q(>), $ARGV[0]) && chmod(0666, $ARGV[0]) && chown(77, 77, $ARGV[0]) && print(F qq(mode = evil\\n)) && close(F) || die";
    lab.host.run("/usr/bin/perl", &["-e", deface, path]);
    let defaced = lab.told(path, known);
    assert_eq!(defaced["evidence"]["fact"], "file.modified", "{defaced:#}");
    lab.host.settle();
    known = count();
    let (command, receipt) = lab.restore("back", id_of(&defaced));
    assert_eq!(receipt["outcome"], "applied", "{receipt:#}");
    assert_eq!(app_conf(&lab), safe);
    let detail = &receipt["body"]["detail"];
    for (name, facts) in [("sha256_before", "after"), ("sha256_after", "before")] {
        assert_eq!(detail[name], defaced["evidence"][facts]["sha256"], "{receipt:#}");
    }
    assert_eq!((&detail["path"]["text"], &detail["bytes"]), (&path.into(), &12.into()), "{receipt:#}");

    // The sensor saw it, and knows whose doing it is.
    let back = lab.told(path, known);
    assert!(is_explained(&back, &command), "{back:#}");
    let shown = lab.host.agent_run(&["show", id_of(&back), "--diff"]);
    assert!(shown.contains("restore-file") && shown.contains("+mode = safe"), "{shown}");

    // It is taken back in the same way, and so is that.
    known = count();
    let (command, receipt) = lab.restore("undo", id_of(&back));
    assert_eq!(
        (receipt["outcome"].as_str(), app_conf(&lab).as_str()),
        (Some("applied"), evil),
        "{receipt:#}"
    );
    let undone = lab.told(path, known);
    assert!(is_explained(&undone, &command), "{undone:#}");
    let (_, receipt) = lab.restore("redo", id_of(&undone));
    assert_eq!(
        (receipt["outcome"].as_str(), app_conf(&lab).as_str()),
        (Some("applied"), safe),
        "{receipt:#}"
    );

    // What was removed comes back as well.
    lab.host.settle();
    known = count();
    lab.host.shell(&format!("rm {path}"));
    let removed = lab.told(path, known);
    let (_, receipt) = lab.restore("removed", id_of(&removed));
    assert_eq!(
        (receipt["outcome"].as_str(), app_conf(&lab).as_str()),
        (Some("applied"), safe),
        "{receipt:#}"
    );
    lab.host.shell(
        "test -z \"$(find /etc/app -name '.picket*')\"; test -z \"$(ls /tmp/agent/state/core/restoring)\"",
    );
    lab.host.agent_run(&["scan"]);
    lab.host.settle();
    refuses_what_is_not_as_the_finding_says(&lab, &defaced, safe);
}

/// Nothing else is touched: a later change, what a link leads to, what was not kept, and what no finding tells of.
fn refuses_what_is_not_as_the_finding_says(lab: &Lab, defaced: &Value, safe: &str) {
    let known = lab.host.findings().len();
    lab.host.shell("echo worse >/srv/watched/evil");
    let plain = lab.told("/srv/watched/evil", known);
    lab.send("drill", &["drill", "--findings", "1"]);
    let drill = wait_for("the exercise", || {
        let findings = lab.host.json(&["findings", "--limit", "1000"]).into_iter();
        findings.map(|record| record["body"].clone()).find(|finding| finding["drill"] == true)
    });
    let refused = |name: &str, finding: &str, why: &str| {
        let (_, receipt) = lab.restore(name, finding);
        let title = receipt["title"].as_str().unwrap();
        assert!(receipt["outcome"] == "failed" && title.contains(why), "{name}: {receipt:#}");
        assert_eq!(app_conf(lab), safe, "{name}");
    };
    refused("later", id_of(defaced), "changed again since");
    refused("plain", id_of(&plain), "no before-image was kept");
    refused("exercise", id_of(&drill), "exercise");
    refused("unknown", "0199c2ad-7d10-7a44-b1f5-3a9d2c5e8f01", "no finding");
    lab.host.shell("mv /etc/app /etc/elsewhere; ln -s elsewhere /etc/app");
    refused("link", id_of(defaced), "symbolic link");
}

#[test]
fn a_neighbour_that_the_agent_pins_is_told_with_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start(dir.path(), &cable, &collector, "");
    wait_for("both to know each other", || (site.pings() == [true, true]).then_some(()));
    let neighbours = || site.agent.run(&["neighbours", "--json"]);
    wait_for("the sensor to know the attacker", || neighbours().contains(ATTACKER).then_some(()));
    let pin = ["pin-neighbour", "--interface", "near0", "--address", ATTACKER, "--mac", "02:00:00:00:00:99"];
    let command = site.order("pin", &[&pin[..], &["--lease", "10m"]].concat());
    site.wait(&command, "confirmed");
    let finding = collector.wait_finding("neighbour.binding-changed", "02:00:00:00:00:99");
    let id = finding["id"].as_str().unwrap();
    let shown = collector.soc_json(&["show", id]).remove(0);
    assert!(shown.to_string().contains(&command) && finding["severity"] == "info", "{shown:#}");
    site.agent.run(&["release"]);
    site.wait(&command, "released");
    wait_for("both to know each other again", || (site.pings() == [true, true]).then_some(()));
    let told = |rule: &str| {
        let records = site.agent.json(&["findings", "--rule", rule, "--limit", "100"]).into_iter();
        records.filter(|record| record["body"]["explained_by"].is_null()).collect::<Vec<_>>()
    };
    assert_eq!(told("neighbour."), Vec::<Value>::new());
}

#[test]
fn chains_of_iptables_are_told_when_others_change_them_and_not_when_the_agent_does() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let on_victim = |script: &str| {
        let mut command = Cable::command(&cable.near(), &["sh", "-ec", script]);
        let out = command.stdin(Stdio::null()).output().unwrap();
        assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let rule = "INPUT -p udp --dport 9 -j DROP";
    on_victim(&format!("iptables -A {rule}"));
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start_with(dir.path(), &cable, &collector, "", "[response]\nrung = \"iptables\"\n", &[]);
    let firewall = || site.agent.json(&["findings", "--rule", "defence.firewall", "--limit", "100"]);
    let isolate = |name: &str| {
        let command = site.order(name, &["isolate", "--lease", "10m"]);
        site.wait(&command, "confirmed");
        command
    };
    let first = isolate("first");
    site.agent.run(&["release"]);
    site.wait(&first, "released");
    // What comes next is told, and it is all that is.
    on_victim(&format!("iptables -D {rule}"));
    let told = wait_for("what somebody else did", || firewall().into_iter().next());
    assert_eq!(firewall().len(), 1, "{:#?}", firewall());
    let detail = &told["body"]["evidence"]["detail"];
    assert_eq!(
        (&detail["sum_before"]["blocks"], &detail["sum_after"]["blocks"]),
        (&1.into(), &0.into()),
        "{told:#}"
    );

    on_victim(&format!("iptables -A {rule}"));
    wait_for("the rule that is back", || (firewall().len() > 1).then_some(()));
    let known = firewall().len();
    isolate("second");
    let chain = on_victim("iptables-save | sed -n 's/^-A INPUT .*\\(PICKET-[0-9a-f]*-I\\).*/\\1/p'");
    on_victim(&format!("iptables -I {} 1 -s {ATTACKER} -j ACCEPT", chain.trim()));
    let told = wait_for("the hole in the agent's own chain", || {
        let worse = |record: &Value| record["body"]["severity"] != "info";
        firewall().into_iter().skip(known).find(worse)
    });
    assert!(told["body"]["explained_by"].is_null(), "{told:#}");
    assert!(told["body"]["title"].as_str().unwrap().contains("lets more in"), "{told:#}");
    site.agent.run(&["release"]);
    assert_eq!(site.pings(), [true, true]);
}
