//! Evidence: collected from a real host, through kills of either side, opened with the real `age` and `tar`, and of no use to who
//! steals the collector's store.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::operators::Operators;
use picket_tests::process::{output, stdout_of};
use picket_tests::{PATIENCE, wait_for, wait_for_within};
use serde_json::Value;

/// On a machine that does other work, everything takes a while.
const LONG: Duration = Duration::from_secs(300);

struct Lab<'a> {
    dir: PathBuf,
    operators: Operators<'a>,
    agent: Agent,
}

impl<'a> Lab<'a> {
    /// An agent whose disk may be used, with `more` in its configuration.
    fn start(dir: &Path, collector: &'a Collector, more: &str) -> Self {
        let operators = Operators::install(collector, dir, "acme");
        let (chosen, text) = (dir.join("chosen"), configuration(more));
        fs::create_dir(&chosen).unwrap();
        let agent = Agent::start_with(&dir.join("host"), &text, &collector.token("acme"));
        Self { dir: dir.to_owned(), operators, agent }
    }

    fn chosen(&self) -> PathBuf {
        self.dir.join("chosen")
    }

    fn spool(&self) -> PathBuf {
        self.agent.dir().join("state/core/evidence")
    }

    fn host(&self) -> String {
        self.agent.status().unwrap()["agent"].as_str().unwrap().to_owned()
    }

    /// Has an operator order it; gives the command's id.
    fn order(&self, collector: &Collector, name: &str, args: &[&str]) -> String {
        let host = self.host();
        let args = [&["preserve"][..], args, &["--host", &host]].concat();
        let path = self.operators.write(name, &args);
        self.operators.sign(&path, "alice");
        collector.soc_json(&["send", &path])[0]["id"].as_str().unwrap().to_owned()
    }
}

fn configuration(more: &str) -> String {
    format!(
        "[network]\nenabled = false\n[evidence]\nfree_bytes_min = \"1 MiB\"\nfree_percent_min = 0\n{more}"
    )
}

/// Waits for the receipt of `command` with that outcome.
fn receipt(collector: &Collector, command: &str, outcome: &str) -> Value {
    let receipts = || collector.soc_json(&["receipts", "--command", command, "--full"]);
    let found = wait_for_within(&format!("{outcome} of {command}"), LONG, || {
        let receipts = receipts();
        let ended = ["failed", "refused", "expired", "released"];
        let is = |receipt: &Value, word: &str| receipt["outcome"].as_str() == Some(word);
        let found = receipts.iter().find(|receipt| is(receipt, outcome)).cloned();
        let end = receipts.iter().find(|receipt| ended.iter().any(|word| is(receipt, word)));
        found.or_else(|| end.cloned())
    });
    assert_eq!(found["outcome"].as_str(), Some(outcome), "{found:#}");
    found
}

fn item(collector: &Collector, command: &str) -> Option<Value> {
    let list = collector.soc_json(&["evidence", "list", "--all"]);
    list.into_iter().find(|item| item["command"].as_str() == Some(command))
}

/// Waits until nothing is kept on the host: what tells how evidence ended goes a moment after the receipt that tells it as well.
fn spool_is_empty(lab: &Lab<'_>) {
    wait_for("the spool to be empty", || fs::read_dir(lab.spool()).unwrap().next().is_none().then_some(()));
}

/// Random bytes, so that nothing gets smaller.
fn random(path: &Path, bytes: u64) {
    let mut content = Vec::new();
    fs::File::open("/dev/urandom").unwrap().take(bytes).read_to_end(&mut content).unwrap();
    fs::write(path, content).unwrap();
}

/// A program that is deleted while it runs, and holds `word` and `word` in its memory.
fn secretive(dir: &Path, word: &str) -> Child {
    let program = dir.join("implant");
    fs::copy("/bin/bash", &program).unwrap();
    let script = "read -r word; both=\"$word+$word\"; echo ready; read -r more";
    let mut child = Command::new(&program);
    let mut child = child.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.as_ref().unwrap(), "{word}").unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    fs::remove_file(&program).unwrap();
    child
}

fn began(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let ticks: u64 = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
    let nanos = |id| {
        let time = rustix::time::clock_gettime(id);
        u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
    };
    let boot = nanos(rustix::time::ClockId::Realtime) - nanos(rustix::time::ClockId::Boottime);
    let time = boot + ticks * 10_000_000;
    let date = format!("@{}.{:09}", time / 1_000_000_000, time % 1_000_000_000);
    stdout_of(Command::new("date").args(["--utc", "--date", &date, "+%Y-%m-%dT%H:%M:%S.%NZ"]))
        .trim()
        .to_owned()
}

fn sha256(path: &str) -> String {
    stdout_of(Command::new("sha256sum").arg(path)).split_whitespace().next().unwrap().to_owned()
}

/// What must not hold the collecting up, and must not get in by a detour.
fn hostile(chosen: &Path) {
    let at = |name: &str| chosen.join(name);
    fs::write(at("plain"), "what is to be kept\n").unwrap();
    fs::write(chosen.join(std::ffi::OsStr::from_bytes(b"na\xffme\n\x1b[31m")), "odd\n").unwrap();
    fs::write(at("100%"), "percent\n").unwrap();
    stdout_of(Command::new("mkfifo").arg(at("fifo")));
    std::os::unix::fs::symlink("/etc/shadow", at("shadow")).unwrap();
    std::os::unix::fs::symlink("loop", at("loop")).unwrap();
    std::os::unix::fs::symlink(chosen, at("around")).unwrap();
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.set_len(10 << 30).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
}

/// Every file below a directory with `needle` in it.
fn files_with(dir: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if path.is_file() && contains(&fs::read(&path).unwrap(), needle) {
            found.push(path);
        }
    }
    found
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

fn manifest(unpacked: &Path) -> Vec<Value> {
    let text = fs::read_to_string(unpacked.join("manifest.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn evidence_of_everything_arrives_whatever_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::start(dir.path());
    let kept = collector.data_dir().to_owned();
    let word = "kq7-evidence-of-the-implant";
    let (command, identity, agent);
    {
        let mut lab = Lab::start(dir.path(), &collector, "bytes_per_second = \"2 MiB\"\n");
        hostile(&lab.chosen());
        random(&lab.chosen().join("random"), 24 << 20);
        let mut implant = secretive(dir.path(), word);
        let (pid, started) = (implant.id().to_string(), began(implant.id()));
        let chosen = lab.chosen().to_str().unwrap().to_owned();
        let process = ["--pid", &pid, "--started", &started, "--sha256", &sha256("/bin/bash")];
        let what = [
            "--profile",
            "all",
            "--path",
            &chosen,
            "--path",
            "/dev/zero",
            "--path",
            "/proc/version",
            "--lease",
            "1h",
        ];
        command = lab.order(&collector, "keep", &[&what[..], &process].concat());
        let applied = receipt(&collector, &command, "applied");
        let sealed = &applied["body"]["detail"]["evidence"];
        assert!(sealed["sealed_bytes"].as_u64().unwrap() > 24 << 20, "{sealed:#}");
        wait_for("the upload to be under way", || {
            let held = item(&collector, &command)?["held"].as_u64()?;
            (held > 1 << 20).then_some(())
        });
        lab.agent.kill();
        lab.agent.resume();
        let before = wait_for("some of it", || item(&collector, &command)?["held"].as_u64());
        // A piece that was under way when the agent was killed may be asked for again only after a minute without an answer.
        wait_for_within("the upload to go on", LONG, || {
            (item(&collector, &command)?["held"].as_u64()? > before).then_some(())
        });
        implant.kill().unwrap();
        implant.wait().unwrap();
        identity = lab.operators.identity();
        agent = lab.agent;
    }
    collector.kill();
    collector.resume();
    receipt(&collector, &command, "confirmed");
    let spool = agent.dir().join("state/core/evidence");
    wait_for("the spool to be empty", || fs::read_dir(&spool).ok()?.next().is_none().then_some(()));

    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (sealed, opened) = (at("bundle.age"), at("bundle.tar.zst"));
    collector.soc(&["evidence", "get", &command, "-o", &sealed]);
    let shown = collector.soc(&["evidence", "get", &command, "-o", &opened, "--identity", &identity]);
    assert!(shown.contains("files is what was sealed"), "{shown}");

    // Others open it as well, and to the same.
    let unpacked = dir.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let plain = at("by-age.tar.zst");
    stdout_of(Command::new("age").args(["-d", "-i", &identity, "-o", &plain, &sealed]));
    assert_eq!(fs::read(&plain).unwrap(), fs::read(&opened).unwrap());
    stdout_of(Command::new("tar").args(["--zstd", "-xf", &plain, "-C"]).arg(&unpacked));
    look(&unpacked, dir.path(), word);

    // Who steals the collector's store has nothing.
    let stolen = output(Command::new("age").args(["-d", "-i", &other_identity(dir.path()), &sealed]));
    assert!(!stolen.status.success() && stolen.stdout.is_empty());
    for needle in [word.as_bytes(), b"what is to be kept"] {
        assert_eq!(files_with(&kept.join("evidence"), needle), Vec::<PathBuf>::new());
    }
    tampered(&collector, dir.path(), &sealed, &opened, &identity);
    custody(&collector, &kept, &command, &identity, dir.path());
}

/// An identity to which nothing was encrypted, made by `age-keygen`.
fn other_identity(dir: &Path) -> String {
    let path = dir.join("other.key").to_str().unwrap().to_owned();
    stdout_of(Command::new("age-keygen").args(["-o", &path]));
    path
}

/// What is in the bundle, and what is not.
fn look(unpacked: &Path, dir: &Path, word: &str) {
    let files = unpacked.join("files");
    let chosen = files.join(dir.strip_prefix("/").unwrap()).join("chosen");
    assert_eq!(fs::read_to_string(chosen.join("plain")).unwrap(), "what is to be kept\n");
    assert_eq!(fs::read_to_string(chosen.join("na%FFme%0A%1B[31m")).unwrap(), "odd\n");
    assert_eq!(fs::read_to_string(chosen.join("100%25")).unwrap(), "percent\n");
    assert_eq!(fs::read(chosen.join("random")).unwrap(), fs::read(dir.join("chosen/random")).unwrap());
    assert_eq!(fs::read(files.join("etc/passwd")).unwrap(), fs::read("/etc/passwd").unwrap());
    assert!(!files.join("etc/shadow").exists() && !chosen.join("shadow").exists());
    let lines = manifest(unpacked);
    let entry =
        |end: &str| lines.iter().find(|line| line["name"].as_str().is_some_and(|name| name.ends_with(end)));
    for (end, why) in [
        ("chosen/fifo", "fifo"),
        ("chosen/shadow", "symlink"),
        ("chosen/loop", "symlink"),
        ("chosen/around", "symlink"),
        ("chosen/socket", "socket"),
        ("files/dev/zero", "device"),
        ("files/proc/version", "pseudo"),
    ] {
        assert_eq!(entry(end).unwrap_or_else(|| panic!("{end}"))["skipped"].as_str(), Some(why), "{end}");
    }
    let sparse = entry("chosen/sparse").unwrap();
    assert_eq!((sparse["whole"].as_u64(), sparse["size"].as_u64()), (Some(10 << 30), Some(0)), "a hole");

    let memory = fs::read_dir(unpacked.join("memory")).unwrap().next().unwrap().unwrap().path();
    let secret = format!("{word}+{word}");
    assert!(!files_with(&memory, secret.as_bytes()).is_empty(), "the memory holds what only it knows");
    let pid = memory.file_name().unwrap().to_str().unwrap().to_owned();
    let bash = fs::read("/bin/bash").unwrap();
    assert_eq!(fs::read(unpacked.join(format!("processes/{pid}.deleted-program"))).unwrap(), bash);
    assert_eq!(fs::read(unpacked.join(format!("processes/{pid}.program"))).unwrap(), bash);
    let process = fs::read_to_string(unpacked.join(format!("processes/{pid}.json"))).unwrap();
    assert!(process.contains("implant (deleted)") && process.contains("\"fd\":0"), "{process}");
    for name in [
        "network/tcp",
        "network/route",
        "network/neighbours.json",
        "kernel/proc/meminfo",
        "kernel/proc/self/mountinfo",
    ] {
        assert!(unpacked.join(name).exists(), "{name}");
    }
    // Of persistence, logins, logs and modules what this machine has.
    let places = [
        "/etc/crontab",
        "/etc/cron.d/e2scrub_all",
        "/etc/ssh/sshd_config",
        "/var/log/wtmp",
        "/var/log/btmp",
        "/var/log/dpkg.log",
    ];
    let there: Vec<&str> = places.into_iter().filter(|place| Path::new(place).is_file()).collect();
    assert!(there.len() >= 3, "{there:?}");
    for place in there {
        assert!(entry(&format!("files{place}")).is_some(), "{place}");
    }
    assert_eq!(unpacked.join("kernel/proc/modules").exists(), Path::new("/proc/modules").exists());
}

/// What is changed is found, and named.
fn tampered(collector: &Collector, dir: &Path, sealed: &str, opened: &str, identity: &str) {
    let verify = |file: &str, more: &[&str]| {
        let witness = collector.witness();
        let args = [&["evidence", "verify", file, "--witness", &witness][..], more].concat();
        let out = output(collector.soc_command(&args).stdin(Stdio::null()));
        (
            out.status.code(),
            String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr),
        )
    };
    assert_eq!(verify(sealed, &[]).0, Some(0));
    assert_eq!(verify(sealed, &["--identity", identity]).0, Some(0));
    assert_eq!(verify(opened, &[]).0, Some(0), "{:?}", verify(opened, &[]));
    let (code, said) = verify(sealed, &["--identity", &dir.join("other.key").to_string_lossy()]);
    assert!(code == Some(1) && said.contains("not encrypted to this identity"), "{said}");

    // One file of the opened bundle is another.
    let proof = format!("{opened}.proof.json");
    let (again, archive) = (dir.join("again.tar.zst").to_str().unwrap().to_owned(), dir.join("again.tar"));
    stdout_of(Command::new("zstd").args(["-q", "-d", opened, "-o"]).arg(&archive));
    let mut bytes = fs::read(&archive).unwrap();
    let kept = b"what is to be kept\n";
    let at = bytes.windows(kept.len()).position(|window| window == kept).unwrap();
    bytes[at..at + kept.len()].copy_from_slice(b"what is to be lost\n");
    fs::write(&archive, bytes).unwrap();
    stdout_of(Command::new("zstd").args(["-q", "-1", "-o", &again]).arg(&archive));
    let (code, said) = verify(&again, &["--proof", &proof]);
    assert!(code == Some(1) && said.contains("chosen/plain: its content is another one"), "{said}");
    assert_eq!(said.matches("DIFFERS").count(), 1, "{said}");

    // What `age` encrypted is opened here as well: other bytes around the same files.
    let key = fs::read_to_string(identity).unwrap();
    let recipient = key.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    let by_age = dir.join("by-age.age").to_str().unwrap().to_owned();
    stdout_of(Command::new("age").args(["-r", recipient, "-o", &by_age, opened]));
    let (code, said) = verify(&by_age, &["--proof", &proof, "--identity", identity, "--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(code == Some(1) && said["opened"] == true && said["entries"].as_u64() > Some(10), "{said:#}");
    assert_eq!(said["problems"].as_array().unwrap().len(), 1, "{said:#}");
    assert!(said["problems"][0].as_str().unwrap().starts_with("the encrypted file"), "{said:#}");

    // One byte of the encrypted one is another.
    let changed = dir.join("changed.age").to_str().unwrap().to_owned();
    fs::copy(sealed, &changed).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(&changed).unwrap();
    let (mut byte, at) = ([0], file.metadata().unwrap().len() / 2);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let proof = format!("{sealed}.proof.json");
    let (code, said) = verify(&changed, &["--proof", &proof, "--identity", identity]);
    assert!(code == Some(1) && said.contains("was changed"), "{said}");
}

/// Who fetched it and who deleted it is known; what is changed in the store is not taken for it.
fn custody(collector: &Collector, kept: &Path, command: &str, identity: &str, dir: &Path) {
    let host = fs::read_dir(kept.join("evidence")).unwrap().next().unwrap().unwrap().path();
    let stored = host.join(format!("{command}.age"));
    let mut bytes = fs::read(&stored).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&stored, &bytes).unwrap();
    let never = dir.join("never").to_str().unwrap().to_owned();
    let out = output(&mut collector.soc_command(&[
        "evidence",
        "get",
        command,
        "-o",
        &never,
        "--identity",
        identity,
    ]));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(1) && said.contains("is not what the host had sealed"), "{said}");
    assert!(!Path::new(&never).exists());

    collector.soc(&["evidence", "delete", command]);
    assert_eq!(item(collector, command).unwrap()["state"].as_str(), Some("deleted"));
    assert!(!stored.exists());
    let out = output(&mut collector.soc_command(&["evidence", "get", command, "-o", &never]));
    assert_eq!(out.status.code(), Some(1));
    // All of it is on the trail.
    let trail = audit(collector);
    for (action, times) in [("evidence.get", 3), ("evidence.delete", 1)] {
        assert_eq!(trail.matches(action).count(), times, "{trail}");
    }
    assert!(trail.contains(command) && trail.contains("\"lab\""), "{trail}");
}

/// The audit trail, as the API tells it.
fn audit(collector: &Collector) -> String {
    let config = fs::read_to_string(collector.soc_config()).unwrap();
    let value = |key: &str| {
        let line = config.lines().find_map(|line| line.strip_prefix(&format!("{key} = \""))).unwrap();
        line.trim_end_matches('"').to_owned()
    };
    let url = format!("https://{}/api/v1/audit?limit=100", collector.address());
    let bearer = format!("Authorization: Bearer {}", value("token"));
    let ca = collector.data_dir().join("ca.crt");
    stdout_of(Command::new("curl").args(["-sS", "--fail", "-H", &bearer, "--cacert"]).arg(ca).arg(url))
}

/// A small file system at a path, for as long as it lives.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path, mib: u64) -> Self {
        fs::create_dir_all(path).unwrap();
        let options = format!("size={mib}m,mode=700");
        stdout_of(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(path));
        Self(path.to_owned())
    }

    fn free_mib(&self) -> u64 {
        let figures = rustix::fs::statvfs(&self.0).unwrap();
        (figures.f_bavail * figures.f_frsize) >> 20
    }

    /// Others write so much to it, or as much as there is room for.
    fn fill(&self, name: &str, mib: u64) -> PathBuf {
        let path = self.0.join(name);
        let mut file = fs::File::create(&path).unwrap();
        let block = vec![b'x'; 1 << 16];
        for _ in 0..mib << 4 {
            if file.write_all(&block).is_err() {
                break;
            }
        }
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _gone = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}

#[test]
fn no_disk_is_filled() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut lab = Lab::start(dir.path(), &collector, "");
    random(&lab.chosen().join("random"), 16 << 20);
    lab.agent.stop();
    let small = Small::mount(&lab.spool(), 6);
    lab.agent.resume();
    lab.agent.wait_until_ready();
    let chosen = lab.chosen().to_str().unwrap().to_owned();
    let command = lab.order(&collector, "keep", &["--path", &chosen, "--lease", "1h"]);
    let applied = receipt(&collector, &command, "applied");
    let sealed = &applied["body"]["detail"]["evidence"];
    assert!(sealed["skipped"]["room"].as_u64() > Some(0), "it says that room was short: {sealed:#}");
    assert!(sealed["sealed_bytes"].as_u64().unwrap() < 5 << 20, "{sealed:#}");
    receipt(&collector, &command, "confirmed");
    spool_is_empty(&lab);

    // Without any room nothing is begun.
    let full = lab.spool().join("full");
    random(&full, 4 << 20);
    let command = lab.order(&collector, "none", &["--path", &chosen, "--lease", "1h"]);
    let failed = receipt(&collector, &command, "failed");
    assert!(failed["title"].as_str().unwrap().contains("must stay free"), "{failed:#}");
    fs::remove_file(full).unwrap();
    spool_is_empty(&lab);

    // One that fits goes through.
    fs::remove_file(lab.chosen().join("random")).unwrap();
    fs::write(lab.chosen().join("small"), "fits").unwrap();
    let command = lab.order(&collector, "small", &["--path", &chosen, "--lease", "1h"]);
    receipt(&collector, &command, "confirmed");
    lab.agent.stop();
    drop(small);
}

/// Whoever fills the collector's disk, findings go on, evidence waits, and operators know why.
#[test]
fn a_collector_whose_disk_fills_up_takes_the_rest_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let small = Small::mount(&dir.path().join("collector"), 96);
    let limits = "[evidence]\nfree_mib_min = 24\nhost_mib_max = 20\n";
    let mut collector = Collector::start_with(dir.path(), limits);
    {
        let lab = Lab::start(dir.path(), &collector, "bytes_per_second = \"2 MiB\"\n");
        random(&lab.chosen().join("random"), 16 << 20);
        let chosen = lab.chosen().to_str().unwrap().to_owned();
        let order = |name: &str| lab.order(&collector, name, &["--path", &chosen, "--lease", "1h"]);
        let command = order("first");
        wait_for("the upload to be under way", || {
            (item(&collector, &command)?["held"].as_u64()? > 1 << 20).then_some(())
        });
        let others = small.fill("others", small.free_mib() - 16);
        let waits = |command: &str, state: &str, why: &str| {
            wait_for(&format!("{command} to wait"), || {
                let item = item(&collector, command)?;
                let is = item["state"] == state && item["waits"].as_str()?.contains(why);
                is.then(|| item["held"].as_u64()).flatten()
            })
        };
        let held = waits(&command, "receiving", "24 MiB must stay free (evidence.free_mib_min)");
        collector.wait_finding("collector.evidence-waits", &command);
        let shown = collector.soc(&["evidence", "list", "--all"]);
        assert!(shown.contains("must stay free"), "{shown}");
        wait_for("the agent to know why", || {
            lab.agent.status()?.to_string().contains("must stay free").then_some(())
        });
        // What matters more goes on.
        let watched = lab.agent.watched();
        fs::write(watched.join("meanwhile"), "x").unwrap();
        collector.wait_finding("file.created", "meanwhile");
        // Even the last byte is taken by others: nothing is lost that was not acknowledged.
        let rest = small.fill("rest", 96);
        fs::write(watched.join("without-room"), "x").unwrap();
        wait_for("the finding on the host", || {
            let found = lab.agent.json(&["findings", "--limit", "20"]);
            found.iter().any(|finding| finding.to_string().contains("without-room")).then_some(())
        });
        assert!(small.free_mib() == 0 && item(&collector, &command).unwrap()["held"].as_u64() == Some(held));
        fs::remove_file(rest).unwrap();
        // It was sent away for half a minute at least, several times perhaps.
        wait_for_within("the finding at the collector", 3 * PATIENCE, || {
            collector.finding("file.created", "without-room")
        });
        fs::remove_file(others).unwrap();
        receipt(&collector, &command, "confirmed");
        let done = item(&collector, &command).unwrap();
        assert!(done["state"] == "complete" && done["waits"].is_null(), "{done:#}");

        // Too much of one host waits as a whole, until some is deleted.
        let second = order("second");
        assert_eq!(waits(&second, "waiting", "evidence.host_mib_max"), 0);
        collector.wait_finding("collector.evidence-waits", &second);
        collector.soc(&["evidence", "delete", &command]);
        receipt(&collector, &second, "confirmed");
        let opened = dir.path().join("second.tar.zst").to_str().unwrap().to_owned();
        let identity = lab.operators.identity();
        collector.soc(&["evidence", "get", &second, "-o", &opened, "--identity", &identity]);
    }
    collector.stop();
    drop(small);
}

#[test]
fn it_stays_no_longer_than_its_lease_or_than_local_root_wants() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut lab = Lab::start(dir.path(), &collector, "bytes_per_second = \"64 KiB\"\n");
    random(&lab.chosen().join("random"), 8 << 20);
    let chosen = lab.chosen().to_str().unwrap().to_owned();
    let order = |lab: &Lab<'_>, name: &str, lease: &str| {
        let command = lab.order(&collector, name, &["--path", &chosen, "--lease", lease]);
        receipt(&collector, &command, "applied");
        command
    };
    let released = order(&lab, "released", "1h");
    let status = lab.agent.status().unwrap().to_string();
    assert!(status.contains("wait for the collector"), "{status}");
    assert!(lab.agent.run(&["release", &released]).contains("released: preserve"));
    receipt(&collector, &released, "released");
    spool_is_empty(&lab);

    let expired = order(&lab, "expired", "20s");
    receipt(&collector, &expired, "expired");
    spool_is_empty(&lab);

    let offline = order(&lab, "offline", "1h");
    lab.agent.kill();
    assert!(lab.agent.run(&["release", "--offline"]).contains("released: preserve"));
    assert_eq!(fs::read_dir(lab.spool()).unwrap().count(), 1, "a note");
    lab.agent.resume();
    receipt(&collector, &offline, "released");
    spool_is_empty(&lab);

    // Killed after the bytes had gone, and before that was recorded: the next start says how it ended.
    let arrived = order(&lab, "arrived", "1h");
    lab.agent.kill();
    let bundle = lab.spool().join(format!("{arrived}.age"));
    fs::rename(&bundle, bundle.with_extension("confirmed")).unwrap();
    lab.agent.resume();
    receipt(&collector, &arrived, "confirmed");
    spool_is_empty(&lab);
}

#[test]
fn a_crash_while_it_collects_begins_it_anew_and_holds_nothing_else_up() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut lab = Lab::start(dir.path(), &collector, "");
    // Zeros before a byte, which take time and no room.
    for number in 0..16 {
        let file = fs::File::create(lab.chosen().join(format!("{number}"))).unwrap();
        file.write_all_at(b"x", (256 << 20) - 1).unwrap();
    }
    let chosen = lab.chosen().to_str().unwrap().to_owned();
    let command = lab.order(&collector, "keep", &["--path", &chosen, "--lease", "1h"]);
    let begun = |lab: &Lab<'_>| {
        let path = lab.spool().join(format!("{command}.age"));
        wait_for("it to be begun", || (fs::metadata(&path).ok()?.len() > 0).then_some(()));
    };
    begun(&lab);
    // What else is ordered is done meanwhile.
    let host = lab.host();
    lab.operators.order("drill", &["drill", "--findings", "1", "--host", &host]);
    lab.operators.wait_receipt("the drill", |receipt| {
        receipt["outcome"] == "applied" && receipt.to_string().contains("drill findings were")
    });
    let outcomes = || -> Vec<String> {
        let receipts = collector.soc_json(&["receipts", "--command", &command]);
        receipts.iter().map(|receipt| receipt["outcome"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(outcomes(), ["received"], "it is still being collected");
    lab.agent.kill();
    lab.agent.resume();
    begun(&lab);
    receipt(&collector, &command, "confirmed");
    assert_eq!(outcomes(), ["received", "applied", "confirmed"]);
}

#[test]
fn what_is_changed_on_the_host_after_it_was_sealed_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    // Twelve seconds, of which the change of its last byte takes one or two.
    let lab = Lab::start(dir.path(), &collector, "bytes_per_second = \"512 KiB\"\n");
    random(&lab.chosen().join("random"), 6 << 20);
    let chosen = lab.chosen().to_str().unwrap().to_owned();
    let command = lab.order(&collector, "keep", &["--path", &chosen, "--lease", "1h"]);
    receipt(&collector, &command, "applied");
    let path = lab.spool().join(format!("{command}.age"));
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let end = file.metadata().unwrap().len() - 1;
    let mut byte = [0];
    file.read_exact_at(&mut byte, end).unwrap();
    file.write_all_at(&[byte[0] ^ 1], end).unwrap();
    collector.wait_finding("collector.evidence-mismatch", &command);
    assert_eq!(item(&collector, &command).unwrap()["state"].as_str(), Some("mismatch"));
    assert!(path.exists(), "it stays for its lease");
    lab.agent.run(&["release"]);
    receipt(&collector, &command, "released");
}
