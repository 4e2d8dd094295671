//! What an action would change is told before, by the host itself (`--dry-run`): by the checks that the action would meet, on a real wire, and with
//! nothing done.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use picket_tests::collector::Collector;
use picket_tests::named::NamedProcess;
use picket_tests::process::output;
use picket_tests::site::{COLLECTOR, Site, cable};
use picket_tests::wait_for;
use serde_json::{Value, json};

/// An agent that may use the disk, however full it is.
const DISK: &str = "[evidence]\nfree_bytes_min = \"1 MiB\"\nfree_percent_min = 0\n";

/// A shell and what it has started; both end with the test.
struct Program(Child);

impl Program {
    fn start() -> Self {
        let mut command = Command::new("bash");
        command.args(["-c", "read -r line; true"]);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        stat.rsplit(')').next().unwrap().trim_start().chars().next().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = (self.0.kill(), self.0.wait());
    }
}

/// A host with what actions may be about.
struct Subject<'a> {
    site: Site<'a>,
    program: Program,
    named: NamedProcess,
    file: PathBuf,
    sha256: String,
}

impl<'a> Subject<'a> {
    fn new(site: Site<'a>) -> Self {
        let program = Program::start();
        let named = NamedProcess::of(program.0.id());
        let file = site.agent.watched().join("shell.php");
        std::fs::write(&file, "<?php system($_GET[0]);").unwrap();
        let sum = output(Command::new("sha256sum").arg(&file));
        let sha256 = String::from_utf8(sum.stdout).unwrap().split_whitespace().next().unwrap().to_owned();
        Self { site, program, named, file, sha256 }
    }

    fn process(&self) -> [&str; 6] {
        let NamedProcess { pid, started, sha256 } = &self.named;
        ["--pid", pid, "--started", started, "--sha256", sha256]
    }

    fn file(&self) -> [&str; 4] {
        ["--path", self.file.to_str().unwrap(), "--sha256", &self.sha256]
    }

    /// All that an action might have changed.
    fn state(&self) -> Value {
        let status = self.site.agent.status().unwrap();
        let found = std::fs::symlink_metadata(&self.file).unwrap();
        let kept = |name: &str| {
            let listed = std::fs::read_dir(self.site.agent.dir().join("state/core").join(name));
            listed.map_or(0, Iterator::count)
        };
        json!({
            "in_force": status.pointer("/commands/in_force"),
            "file": [found.ino(), found.size(), u64::from(found.mode()), found.mtime().unsigned_abs()],
            "stopped": self.program.state() == 'T',
            "ruleset": self.site.ruleset(),
            "kept": [kept("vault"), kept("stopped"), kept("evidence")],
        })
    }

    /// The host's plan of what is ordered: the details of the receipt.
    fn plan(&self, name: &str, args: &[&str]) -> Value {
        let command = self.site.order(name, &[args, &["--dry-run"]].concat());
        let told = self.site.wait(&command, "applied");
        assert_eq!(self.site.outcomes(&command), ["applied"], "{told}");
        let title = told["title"].as_str().unwrap();
        assert!(title.starts_with("Not done, only told. It would be: "), "{told}");
        assert_eq!(told["body"]["detail"]["action"], args[0], "{told}");
        told["body"]["detail"].clone()
    }

    /// The host says that it would not do it, and why.
    fn refused(&self, name: &str, args: &[&str], why: &str) {
        let command = self.site.order(name, &[args, &["--dry-run"]].concat());
        let told = self.site.wait(&command, "failed");
        assert_eq!(self.site.outcomes(&command), ["failed"], "{told}");
        let (title, data) = (told["title"].as_str().unwrap(), &told["body"]["detail"]);
        assert!(title.starts_with("It would be refused: ") && title.contains(why), "{told}");
        assert!(data["refused"].as_str().unwrap().contains(why) && data["action"] == args[0], "{told}");
    }
}

fn words(detail: &Value) -> String {
    detail.pointer("/plan/lines").unwrap().to_string()
}

#[test]
fn what_would_be_done_to_processes_files_and_evidence_is_told_and_not_done() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let subject = Subject::new(Site::start_with(dir.path(), &cable, &collector, "", DISK, &[]));
    let before = subject.state();
    let (lease, pid) = (["--lease", "10m"], subject.program.0.id());

    let told = subject.plan("freeze", &[&["freeze-process"][..], &subject.process(), &lease].concat());
    assert_eq!(told.pointer("/plan/data/processes/0/pid"), Some(&json!(pid)), "{told}");
    let told = subject.plan("kill", &[&["kill-process"][..], &subject.process()].concat());
    assert!(words(&told).contains("is killed, for good") && told["plan"]["data"]["of"] == "uid 0", "{told}");
    let told = subject.plan("take", &[&["quarantine-file"][..], &subject.file(), &lease].concat());
    assert!(words(&told).contains("comes back when this ends"), "{told}");
    assert_eq!(told.pointer("/plan/data/sha256"), Some(&json!(subject.sha256)), "{told}");
    let told = subject.plan("watch", &[&["watch-closely"][..], &lease].concat());
    assert!(words(&told).contains("watched closely"), "{told}");
    let watched = subject.site.agent.watched();
    let what = ["preserve", "--profile", "network,logins", "--path", watched.to_str().unwrap()];
    let told = subject.plan("keep", &[&what[..], &subject.process(), &lease].concat());
    let data = &told["plan"]["data"];
    assert_eq!(
        (&data["kinds"][0]["kind"], &data["kinds"][0]["files"]),
        (&json!("paths"), &json!(1)),
        "{told}"
    );
    assert_eq!(data["kinds"][0]["bytes"], json!(std::fs::metadata(&subject.file).unwrap().len()), "{told}");
    assert!(data["memory_bytes"].as_u64().unwrap() > 0 && data["fits"] == true, "{told}");
    assert!(words(&told).contains("sockets, routes and neighbours"), "{told}");

    // What the action would be refused for.
    let wrong = "0".repeat(64);
    let path = subject.file.to_str().unwrap();
    subject.refused(
        "other",
        &["quarantine-file", "--path", path, "--sha256", &wrong, "--lease", "10m"],
        &wrong,
    );
    let gone = [
        "kill-process",
        "--pid",
        &pid.to_string(),
        "--started",
        "2026-01-02T03:04:05.678Z",
        "--sha256",
        &wrong,
    ];
    subject.refused("another", &gone, "it is another one");
    let nobody = "0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f";
    subject.refused("back", &["restore-file", "--command", nobody], "no quarantine of command");
    subject.refused("restore", &["restore", "--command", nobody], "no confirmed isolation of command");
    subject.refused("end", &["end-sessions", "--user", "root"], "is root");
    let pin =
        ["pin-neighbour", "--interface", "no0", "--address", "10.199.0.2", "--mac", "02:00:00:00:00:01"];
    subject.refused("pin", &[&pin[..], &lease].concat(), "no interface no0");
    assert_eq!(subject.state(), before, "nothing was done");
    read_by_people(&subject, dir.path());

    // What is in force is told of as well, and stays.
    let taken = subject.site.order("taken", &[&["quarantine-file"][..], &subject.file(), &lease].concat());
    subject.site.wait(&taken, "confirmed");
    let told = subject.plan("give", &["restore-file", "--command", &taken]);
    assert!(words(&told).contains("is put back where it was") && !subject.file.exists(), "{told}");
    std::fs::write(&subject.file, "something else").unwrap();
    subject.refused("instead", &["restore-file", "--command", &taken], "something else is at");
    std::fs::remove_file(&subject.file).unwrap();
    assert_eq!(subject.site.outcomes(&taken).len(), 3, "it was neither ended nor begun anew");
    subject.site.agent.run(&["release", &taken]);
    wait_for("the file to be back", || subject.file.exists().then_some(()));
}

/// What operators read: where there is nothing to plan, of a plan what `soc send --wait` and `soc receipts` show.
fn read_by_people(subject: &Subject<'_>, dir: &Path) {
    let (collector, host, file) = (subject.site.collector, subject.site.host(), dir.join("x.json"));
    let why = ["--host", &host, "--reason", "r", "--ticket", "T", "-o", file.to_str().unwrap(), "--dry-run"];
    for args in [&["scan"][..], &["assess"], &["drill"], &["advise", "--message", "m"]] {
        let mut command = collector.soc_command(&[&["command", "new"][..], args, &why].concat());
        let out = output(&mut command);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains("there is nothing to plan"), "{args:?}: {said}");
    }
    let help = collector.soc(&["command", "new", "quarantine-file", "--help"]);
    assert!(help.contains("--dry-run") && help.contains("and change nothing"), "{help}");
    let args = [&["quarantine-file"][..], &subject.file(), &["--lease", "10m", "--dry-run"]].concat();
    let path = subject.site.write("read", &args);
    let shown = collector.soc(&["send", &path, "--wait"]);
    let line = shown.lines().find(|line| line.starts_with("plan")).unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains("shell.php") && line.contains("is taken away"), "{shown}");
    assert!(shown.contains("If something else is at its place by then"), "{shown}");
    let full = collector.soc(&["receipts", "--full", "--limit", "1"]);
    assert!(full.contains("If something else is at its place by then") && full.contains("sha256"), "{full}");
}

#[test]
fn what_a_restore_and_a_playbook_would_do_is_told_step_by_step() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let subject = Subject::new(Site::start_with(dir.path(), &cable, &collector, "", DISK, &[]));
    let before = subject.state();
    let play = |name: &str, args: &[&str], outcome: &str| {
        let command = subject.site.play(name, &[args, &["--lease", "10m", "--dry-run"]].concat());
        let told = subject.site.wait(&command, outcome);
        assert_eq!(subject.site.outcomes(&command), [outcome], "{told}");
        told
    };
    let watched = subject.site.agent.watched();
    let (file, sha256) = (format!("file={}", subject.file.display()), format!("sha256={}", subject.sha256));
    let files = format!("files={}", watched.display());
    let set = ["--set", &file, "--set", &sha256, "--set", &files, "--set", "evidence=logins"];
    let told = play("deface", &[&["contain-defacement"][..], &set].concat(), "applied");
    let steps = told.pointer("/body/detail/plan/data/steps").and_then(Value::as_array).unwrap();
    let names: Vec<&str> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(names, ["close", "quarantine", "preserve", "scan", "assess"]);
    for step in steps {
        assert_eq!((&step["expected"], &step["refused"]), (&json!("done"), &Value::Null), "{step}");
        assert!(step.pointer("/plan/lines/0").is_some(), "{step}");
    }
    assert_eq!((&steps[0]["lease_seconds"], &steps[1]["within_seconds"]), (&json!(600), &json!(40)));
    assert_eq!(steps[0]["rung"], "nftables", "the kernel was asked: {}", steps[0]);
    let lines = told.pointer("/body/detail/plan/lines").and_then(Value::as_array).unwrap();
    assert!(lines.len() == 6 && lines[5].as_str().unwrap().contains("as the host is now"), "{told}");

    // Where a step would be refused those that wait for it are left out, and it is told where it would stop.
    let wrong = "0".repeat(64);
    let (own, stop) = (dir.path().join("own.toml"), "otherwise = \"stop\"\n");
    let text = format!(
        "name = \"own\"\nsummary = \"Of the test\"\n\
         [[steps]]\nname = \"take\"\naction = \"quarantine-file\"\nwith = {{ path = \"{}\", sha256 = \"{wrong}\" }}\n\
         lease = \"$lease\"\ntimeout = \"40s\"\notherwise = \"go-on\"\n\
         [[steps]]\nname = \"after\"\naction = \"isolate\"\nwhen = \"succeeded take\"\nlease = \"$lease\"\ntimeout = \"40s\"\n{stop}\
         [[steps]]\nname = \"end\"\naction = \"end-sessions\"\nwith = {{ user = \"root\" }}\nwhen = \"failed take\"\ntimeout = \"40s\"\n{stop}\
         [[steps]]\nname = \"watch\"\naction = \"watch-closely\"\nlease = \"$lease\"\ntimeout = \"40s\"\n{stop}",
        subject.file.display()
    );
    std::fs::write(&own, text).unwrap();
    let told = play("own", &["--file", own.to_str().unwrap()], "failed");
    assert!(told["title"].as_str().unwrap().starts_with("It would stop at step end: root is root"), "{told}");
    let data = told.pointer("/body/detail/plan/data").unwrap();
    let expected: Vec<&Value> =
        data["steps"].as_array().unwrap().iter().map(|step| &step["expected"]).collect();
    assert_eq!(expected, ["refused", "skipped", "refused", "not-reached"], "{told}");
    assert_eq!((&data["stops_at"], &data["steps"][1]["depends_on"]), (&json!("end"), &json!("take")));
    assert_eq!(subject.state(), before, "nothing was done");

    let isolation = subject.site.order("isolate", &["isolate", "--lease", "30m"]);
    subject.site.wait(&isolation, "confirmed");
    let restore = ["restore", "--command", &isolation, "--open", "tcp/22", "--pause", "5s", "--watch", "1h"];
    let told = subject.plan("restore", &restore);
    assert_eq!(told.pointer("/plan/data/isolations"), Some(&json!([isolation])), "{told}");
    assert!(words(&told).contains("TCP port 22 is opened, and looked at for 5 s"), "{told}");
    assert_eq!((subject.site.pings(), subject.site.outcomes(&isolation).len()), ([false, false], 3));
    subject.site.agent.run(&["release", &isolation]);
    subject.site.wait(&isolation, "released");
}

#[test]
fn without_a_firewall_that_takes_it_a_plan_is_refused_as_the_action_is() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    // The program is the only rung, and it is not there.
    let hidden = "for nft in /usr/sbin/nft /sbin/nft; do mount --bind /dev/null $nft; done; exec \"$@\"";
    let by = ["unshare", "-m", "sh", "-c", hidden, "sh"];
    let rung = format!("{DISK}[response]\nrung = \"nft\"\n");
    let subject = Subject::new(Site::start_with(dir.path(), &cable, &collector, "", &rung, &by));
    let before = subject.state();
    let isolate = ["isolate", "--lease", "10m"];
    let block = ["block", "--network", "192.0.2.0/24", "--lease", "10m"];
    for (name, args) in [("isolate", &isolate[..]), ("block", &block)] {
        subject.refused(&format!("plan-{name}"), args, "no rung of the firewall takes it: ");
        let command = subject.site.order(name, args);
        let failed = subject.site.wait(&command, "failed");
        assert!(failed["title"].as_str().unwrap().contains("nft"), "{failed}");
    }
    assert_eq!(subject.state(), before);
}
