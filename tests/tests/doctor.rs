//! `agent doctor` as a supporter runs it: a host that is well, and one fault planted at a time, each named with what to do.
#![expect(clippy::indexing_slicing, reason = "tests fail loudly")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use picket_tests::agent::Agent;
use picket_tests::collector::{Collector, json_values};
use picket_tests::process::{output, stdout_of};
use picket_tests::wait_for;
use serde_json::Value;

/// However the network hangs.
const BOUND: Duration = Duration::from_secs(60);

/// What a doctor said, and its exit code.
struct Said {
    code: Option<i32>,
    all: Value,
}

impl Said {
    fn by(command: &mut Command) -> Self {
        let begin = Instant::now();
        let out = output(command.arg("--json"));
        assert!(begin.elapsed() < BOUND, "it took {:?}", begin.elapsed());
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let all = json_values(&text).into_iter().next();
        let all = all.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&out.stderr)));
        Self { code: out.status.code(), all }
    }

    fn of(agent: &Agent) -> Self {
        Self::by(&mut agent.command(&["doctor"]))
    }

    fn checks(&self, name: &str) -> Vec<Value> {
        let all = self.all["checks"].as_array().expect("checks").iter();
        all.filter(|check| check["check"] == name).cloned().collect()
    }

    /// It names a fault of that check with these words, and what to do with those.
    #[track_caller]
    fn names(&self, check: &str, found: &str, fix: &str) {
        let faults: Vec<Value> = self.checks(check);
        let named = faults.iter().any(|fault| {
            fault["grade"] == "fault"
                && fault["found"].to_string().contains(found)
                && fault["fix"].to_string().contains(fix)
        });
        assert!(named, "{check} should name {found:?} and {fix:?}: {:#}", self.all);
        assert_eq!((self.code, &self.all["grade"]), (Some(2), &Value::from("fault")));
    }
}

/// The same by a clock that is shifted, for the doctor alone.
fn shifted(agent: &Agent, shift: &str) -> Said {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    assert!(Path::new(library).exists(), "libfaketime is missing: tests/run installs it");
    let mut command = agent.command(&["doctor"]);
    command.env("LD_PRELOAD", library).env("FAKETIME", shift).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    Said::by(&mut command)
}

/// Has `change` done to a file for as long as the returned value lives.
struct Changed<'a>(&'a Path, Vec<u8>);

impl<'a> Changed<'a> {
    fn to(path: &'a Path, change: impl FnOnce(String) -> String) -> Self {
        let before = std::fs::read(path).expect("a file");
        let after = change(String::from_utf8(before.clone()).expect("text"));
        assert_ne!(after.as_bytes(), before, "nothing was changed in {}", path.display());
        std::fs::write(path, after).expect("written");
        Self(path, before)
    }
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        std::fs::write(self.0, &self.1).expect("put back");
    }
}

/// Rights of a key, and the clock.
fn rights_and_clock(agent: &Agent) {
    let key = agent.dir().join("state/uplink/tls.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    Said::of(agent).names("files", "tls.key lets others read it", "chmod 0600");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o400)).expect("a mode");

    shifted(agent, "+3600").names("clock", "ahead of the collector's", "timedatectl");
    shifted(agent, "-7200").names("clock", "behind the collector's", "timedatectl");
}

/// A name that leads nowhere, and another CA.
fn way(agent: &Agent, collector: &Collector, dir: &Path) {
    let enrolment = agent.dir().join("state/core/enrolment.json");
    {
        let elsewhere = |text: String| text.replace(collector.address(), "collector.invalid:8443");
        let _changed = Changed::to(&enrolment, elsewhere);
        // Without a network, so that no name server is waited for.
        let mut command = Command::new("unshare");
        command.arg("--net").arg(picket_tests::program("agent"));
        command.arg("--config").arg(agent.dir().join("agent.toml")).arg("doctor");
        Said::by(&mut command).names(
            "name",
            "cannot find collector.invalid",
            "getent hosts collector.invalid",
        );
    }

    let elsewhere = dir.join("other");
    std::fs::create_dir(&elsewhere).expect("a file");
    let other = Collector::start(&elsewhere);
    let ca = agent.dir().join("state/uplink/ca.crt");
    {
        let theirs = std::fs::read_to_string(other.data_dir().join("ca.crt")).expect("a file");
        let _changed = Changed::to(&ca, |_| theirs);
        Said::of(agent).names("TLS", "not from the collector's CA", "enroll --force");
    }
}

/// A proxy that is away, and a key that does not exist.
fn configuration(agent: &Agent) {
    let config = agent.dir().join("agent.toml");
    {
        let with = "[uplink]\nproxy = \"http://user:not-to-be-shown@127.0.0.1:1\"\n";
        let _changed = Changed::to(&config, |text| text.replace("[uplink]\n", with));
        let said = Said::of(agent);
        said.names("connection", "cannot connect to 127.0.0.1 port 1", "the proxy of uplink.proxy");
        assert!(!said.all.to_string().contains("not-to-be-shown"));
        let changed = &said.checks("configuration")[0];
        assert!(changed["grade"] == "warning" && changed["fix"].to_string().contains("restart"), "{changed}");
    }
    {
        let _changed = Changed::to(&config, |text| text.replace("[uplink]\n", "[uplink]\nproxi = 1\n"));
        Said::of(agent).names("configuration", "uplink.proxi", "check-config");
    }
}

#[test]
fn a_host_that_is_well_and_each_fault_that_is_planted() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    wait_for("all records to be at the collector", || {
        let waiting = agent.status()?.pointer("/ledger/unacknowledged")?.as_u64()?;
        (waiting == 0).then_some(())
    });

    let well = Said::of(&agent);
    assert_eq!(well.all["running"], true);
    let faults: Vec<&Value> =
        well.all["checks"].as_array().unwrap().iter().filter(|check| check["grade"] == "fault").collect();
    assert!(faults.is_empty(), "{faults:#?}");
    for check in [
        "configuration",
        "policy",
        "unit",
        "agent",
        "files",
        "inodes",
        "ledger",
        "acknowledged",
        "enrolment",
        "certificate",
        "CA",
        "keys",
        "name",
        "route",
        "connection",
        "TLS",
        "collector",
        "clock",
        "kernel",
        "confinement",
        "last error",
        "sensor files",
    ] {
        let found = well.checks(check);
        assert!(
            !found.is_empty() && found.iter().all(|check| check["grade"] == "ok"),
            "{check}: {:#}",
            well.all
        );
    }
    // The lab's agent watches no listeners, which is worth a warning.
    assert_eq!(well.code, Some(1), "{:#}", well.all);
    let text = String::from_utf8(output(&mut agent.command(&["doctor"])).stdout).unwrap();
    assert!(text.contains("sensor listeners") && text.contains("-> turn it on in agent.toml"), "{text}");

    rights_and_clock(&agent);
    way(&agent, &collector, dir.path());
    configuration(&agent);

    assert_eq!(agent.stop(), Some(0));
    let dead = Said::of(&agent);
    dead.names("agent", "the agent is not running", "agent run");
    assert_eq!(dead.all["running"], false);
    let looked = ["sensor files", "ledger", "collector", "clock"].map(|name| dead.checks(name));
    assert!(looked.iter().flatten().all(|check| check["grade"] == "ok"), "{looked:#?}");
    drop(collector);
    Said::of(&agent).names("connection", "cannot connect to 127.0.0.1", "is the collector running?");
}

#[test]
fn a_certificate_that_expired_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    // Two seconds.
    let collector = Collector::start_with(dir.path(), "certificate_days = 0.000023\n");
    let agent = Agent::configure(&dir.path().join("host"), "");
    agent.run(&["enroll", &collector.token("acme")]);
    let said = wait_for("the certificate to expire", || {
        let said = Said::of(&agent);
        let expired = said.checks("certificate").iter().any(|check| check["grade"] == "fault");
        expired.then_some(said)
    });
    said.names(
        "certificate",
        "expired on",
        "sudo agent enroll --renew 'picket1.…', with what `collector token` prints now",
    );
    // So that it is no question of the network.
    assert_eq!(said.checks("collector")[0]["grade"], "ok", "{:#}", said.all);
}

/// Unmounts when dropped.
struct Tmpfs<'a>(&'a Path);

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _status = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_disk_without_room_and_without_inodes_is_named_before_there_is_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::configure(dir.path(), "");
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let small = "mode=711,size=1m,nr_inodes=100";
    stdout_of(Command::new("mount").args(["-t", "tmpfs", "-o", small, "tmpfs"]).arg(&state));
    let _mounted = Tmpfs(&state);
    let said = Said::of(&agent);
    said.names("disk", "are free at", "make room");
    said.names("inodes", "inodes are free", "make a larger file system");
    let enrolment = &said.checks("enrolment")[0];
    assert!(
        enrolment["grade"] == "warning" && enrolment["fix"].to_string().contains("picket1."),
        "{enrolment}"
    );
}

/// Everything in an archive, by name.
fn unpacked(archive: &Path, into: &Path) -> Vec<(String, String)> {
    std::fs::create_dir(into).expect("an archive that unpacks");
    stdout_of(Command::new("tar").arg("--zstd").arg("-xf").arg(archive).arg("-C").arg(into));
    let inside = into.join("picket-bundle");
    let files = std::fs::read_dir(&inside)
        .expect("an archive that unpacks")
        .map(|entry| entry.expect("an archive that unpacks"));
    files
        .map(|entry| {
            let text =
                String::from_utf8_lossy(&std::fs::read(entry.path()).expect("an archive that unpacks"))
                    .into_owned();
            (entry.file_name().to_string_lossy().into_owned(), text)
        })
        .collect()
}

/// Writes secrets into the configuration and into a log; gives a line of the TLS key, and the key that seals in hex.
fn plant(agent: &Agent, join: &str, log: &Path) -> (String, String) {
    let more = "# token = s3cret-in-a-comment\n[uplink]\nproxy = \"http://proxy-user:pr0xy-pass-w0rd@127.0.0.1:1\"\n";
    let config = agent.dir().join("agent.toml");
    let text = std::fs::read_to_string(&config).expect("a configuration");
    std::fs::write(&config, text.replace("[uplink]\n", more)).expect("written");
    let key =
        std::fs::read_to_string(agent.dir().join("state/uplink/tls.key")).expect("a secret of the agent");
    let key_line = key.lines().find(|line| !line.starts_with('-')).expect("a secret of the agent").to_owned();
    let sealing =
        std::fs::read(agent.dir().join("state/core/keys/ledger-0.key")).expect("a secret of the agent");
    let sealing: String = sealing.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(
        log,
        format!(
            "an ordinary line\nenrol {join}\nAUTH password=hunter2-planted\nkey {key_line} of {sealing}\n\
             dialled http://someone:url-pass-w0rd@10.0.0.1:3128\n-----BEGIN PRIVATE KEY-----\nQUJDREVGR0g\n-----END PRIVATE KEY-----\n"
        ),
    )
    .expect("a secret of the agent");
    (key_line, sealing)
}

#[test]
fn a_bundle_tells_a_supporter_what_he_asks_and_holds_no_secret_that_was_planted() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let join = collector.token("acme");
    let agent = Agent::start_with(&dir.path().join("host"), "", &join);
    std::fs::write(agent.watched().join("of-a-person"), "x").unwrap();
    collector.wait_finding("file.created", "of-a-person");
    let log = dir.path().join("log");
    let (key_line, sealing) = plant(&agent, &join, &log);

    let make = |name: &str, more: &[&str]| {
        let archive = dir.path().join(name);
        let mut command = agent.command(&["bundle", "--output"]);
        command.arg(&archive).arg("--log").arg(&log).args(more);
        command.env("PICKET_JOIN", &join).env("http_proxy", "http://u:env-pass-w0rd@127.0.0.1:1");
        let said = stdout_of(&mut command);
        (archive, said)
    };
    let (archive, said) = make("plain.tar.zst", &[]);
    assert_eq!(std::fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);
    let files = unpacked(&archive, &dir.path().join("plain"));
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    for name in [
        "CONTENTS.txt",
        "doctor.json",
        "status.json",
        "metrics.txt",
        "mechanisms.json",
        "host.json",
        "agent.toml",
        "ledger.json",
        "state.txt",
        "log.txt",
    ] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
        assert!(name == "CONTENTS.txt" || said.contains(name), "{name} is not told: {said}");
    }
    assert!(said.contains("Left out:") && said.contains("--with-findings"), "{said}");
    let all: String = files.iter().map(|(_, text)| text.as_str()).collect();
    let secrets = [
        join.as_str(),
        &join["picket1.".len()..],
        &key_line,
        &sealing,
        "pr0xy-pass-w0rd",
        "hunter2-planted",
        "url-pass-w0rd",
        "env-pass-w0rd",
        "s3cret-in-a-comment",
        "QUJDREVGR0g",
    ];
    for secret in secrets {
        assert!(!all.contains(secret), "{secret} is in the bundle");
    }
    let log = &files.iter().find(|(name, _)| name == "log.txt").unwrap().1;
    assert!(log.contains("an ordinary line") && log.contains("10.0.0.1:3128"), "{log}");
    assert!(!all.contains("of-a-person"), "findings were not asked for");

    let (archive, _) = make("findings.tar.zst", &["--with-findings"]);
    let files = unpacked(&archive, &dir.path().join("findings"));
    let found = &files.iter().find(|(name, _)| name == "findings.jsonl").unwrap().1;
    assert!(found.contains("of-a-person"), "{found}");
    assert!(!found.contains(&key_line));
    let twice = output(agent.command(&["bundle", "--output"]).arg(&archive));
    assert_eq!(twice.status.code(), Some(2), "what is there is not written over");
}

#[test]
fn whoever_changes_what_the_agent_is_made_of_is_told_as_high_and_enrolling_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let at = dir.path().join("host");
    let mut agent = Agent::configure(&at, "");
    let (config, policy) = (at.join("agent.toml"), at.join("policy.toml"));
    std::fs::write(&policy, "").unwrap();
    let own = [
        "agent.toml",
        "policy.toml",
        "state/uplink/tls.key",
        "state/uplink/ca.crt",
        "state/core/enrolment.json",
        "state/core/keys",
    ];
    let trees: String = own.iter().map(|path| format!("\"{}/{path}\", ", at.display())).collect();
    let text =
        std::fs::read_to_string(&config).unwrap().replacen("trees = [", &format!("trees = [{trees}"), 1);
    std::fs::write(&config, text).unwrap();
    agent.resume();
    wait_for("the baseline to be taken", || {
        (agent.status()?.pointer("/sensors/files/state")? == "running").then_some(())
    });
    agent.run(&["enroll", &collector.token("acme")]);
    agent.wait_until_ready();
    let explained = wait_for("what is told of the enrolment", || {
        let told = agent.json(&["findings", "--rule", "file.created"]).into_iter();
        told.map(|record| record["body"].clone()).find(|told| told.to_string().contains("uplink/tls.key"))
    });
    assert_eq!(explained["explained_by"], "agent enroll did it", "{explained:#}");
    assert_eq!(explained["severity"], "info");
    assert!(!explained.to_string().contains("picket1."), "the join string is told: {explained:#}");

    for (path, words) in [
        (config.as_path(), "the agent's configuration"),
        (policy.as_path(), "the agent's configuration"),
        (&at.join("state/uplink/ca.crt"), "the agent's identity"),
        (&at.join("state/core/keys/ledger-0.key"), "the agent's ledger key"),
    ] {
        let begin = Instant::now();
        stdout_of(Command::new("sh").args(["-c", "echo '# touched' >> \"$1\"", "sh"]).arg(path));
        let finding = collector.wait_finding("file.modified", path.to_str().unwrap());
        assert_eq!(finding["severity"], "high", "{finding:#}");
        assert!(finding["title"].to_string().contains(words), "{finding:#}");
        assert!(begin.elapsed() < Duration::from_secs(40), "it took {:?}", begin.elapsed());
    }
}

/// Metrics as a strict reader of the text format (0.0.4) takes them: HELP and TYPE before each name, once; names, labels and figures
/// well-formed; no series twice. Gives figures by series.
fn read_strictly(text: &str) -> std::collections::BTreeMap<String, f64> {
    let is_name = |name: &str| {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        !name.is_empty() && name.chars().all(fine) && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    assert!(text.ends_with('\n'), "the last line ends");
    let (mut series, mut done, mut current) = (std::collections::BTreeMap::new(), Vec::new(), String::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help");
            assert!(is_name(name) && !help.is_empty() && !done.contains(&name.to_owned()), "{line}");
            let kind = lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {name} ")));
            let kind = kind.unwrap_or_else(|| panic!("no type behind {line}"));
            assert!(["counter", "gauge"].contains(&kind), "{kind}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            assert!(name.starts_with("picket_agent_"), "{name}");
            name.clone_into(&mut current);
            done.push(name.to_owned());
            continue;
        }
        let (key, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let name = key.split('{').next().expect("a name");
        assert_eq!(name, current, "figures stand behind their type");
        if let Some(labels) = key.strip_prefix(name).and_then(|rest| rest.strip_prefix('{')) {
            let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
            for label in labels.split(',') {
                let (label, value) = label.split_once('=').unwrap_or_else(|| panic!("{line}"));
                let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
                assert!(is_name(label) && value.is_some_and(|value| !value.contains(['"', '\\'])), "{line}");
            }
        }
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(value.is_finite() && series.insert(key.to_owned(), value).is_none(), "{line}");
    }
    series
}

#[test]
fn metrics_are_what_prometheus_reads_and_the_textfile_comes_and_goes_with_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let at = dir.path().join("host");
    let textfile = dir.path().join("picket.prom");
    let more = format!("[metrics]\ntextfile = \"{}\"\n", textfile.display());
    let mut agent = Agent::start_with(&at, &more, &collector.token("acme"));
    std::fs::write(agent.watched().join("one"), "x").unwrap();
    collector.wait_finding("file.created", "one");
    let figures = wait_for("all of it to be acknowledged", || {
        let figures = read_strictly(&agent.run(&["metrics"]));
        (figures["picket_agent_records_waiting"] == 0.0).then_some(figures)
    });
    assert_eq!(figures["picket_agent_connected"], 1.0);
    assert!(figures["picket_agent_records_sealed_total"] >= 2.0);
    let findings: f64 = figures
        .iter()
        .filter(|(key, _)| key.starts_with("picket_agent_findings_sealed_total{"))
        .map(|(_, value)| value)
        .sum();
    assert!(findings >= 1.0, "{figures:#?}");
    assert_eq!(figures["picket_agent_sensor_state{sensor=\"files\",state=\"running\"}"], 1.0);
    assert_eq!(figures["picket_agent_sensor_state{sensor=\"listeners\",state=\"off\"}"], 1.0);
    for (state, figure) in [("on", 0.0), ("off", 0.0), ("refused", 0.0), ("disabled", 1.0)] {
        assert_eq!(figures[&format!("picket_agent_guard{{state=\"{state}\"}}")], figure, "{state}");
    }
    for name in [
        "picket_agent_last_acknowledged_timestamp_seconds",
        "picket_agent_certificate_expiry_timestamp_seconds",
        "picket_agent_process_cpu_seconds_total{process=\"core\"}",
        "picket_agent_process_resident_memory_bytes{process=\"uplink\"}",
        "picket_agent_ledger_bytes{state=\"acknowledged\"}",
        "picket_agent_commands_in_force",
    ] {
        assert!(figures.contains_key(name), "{name} is not among {figures:#?}");
    }
    let as_json = agent.json(&["metrics"]);
    assert!(as_json.iter().any(|family| family["name"] == "picket_agent_build_info"), "{as_json:?}");

    let names = |figures: &std::collections::BTreeMap<String, f64>| {
        figures.keys().filter(|key| key.contains("sensor_state")).cloned().collect::<Vec<_>>()
    };
    // It was written when the agent began, and is kept up.
    wait_for("the same sensors to be in the textfile", || {
        let kept = read_strictly(&std::fs::read_to_string(&textfile).ok()?);
        (names(&kept) == names(&figures)).then_some(())
    });
    assert_eq!(std::fs::metadata(&textfile).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(agent.stop(), Some(0));
    assert!(!textfile.exists(), "figures that nobody keeps up are taken away");
    assert_eq!(output(&mut agent.command(&["metrics"])).status.code(), Some(2));
}

#[test]
fn the_journal_gets_the_lines_with_their_levels_and_fields() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("host");
    let mut agent = Agent::configure(&at, "[metrics]\ntextfile = \"/no/such/directory/picket.prom\"\n");
    let journal = dir.path().join("journal");
    std::fs::create_dir(&journal).unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind(journal.join("socket")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let log = std::fs::File::create(at.join("agent.log")).unwrap().metadata().unwrap();
    let stream = format!("JOURNAL_STREAM={}:{}", log.dev(), log.ino());
    let script = format!(
        "mkdir -p /run/systemd && mount -t tmpfs none /run/systemd && mkdir /run/systemd/journal && \
         mount --bind {} /run/systemd/journal && exec \"$@\"",
        journal.display()
    );
    agent.run_by(&["env", &stream, "unshare", "--mount", "sh", "-c", &script, "sh"]);
    agent.resume();
    let mut entries = Vec::new();
    let mut buffer = vec![0; 65_536];
    while !entries.iter().any(|entry: &String| entry.contains("MESSAGE=the metrics cannot be written")) {
        let length = socket.recv(&mut buffer).expect("an entry within a minute");
        entries.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    let warned = entries.last().unwrap();
    for field in [
        "PRIORITY=4\n",
        "SYSLOG_IDENTIFIER=picket-agent\n",
        "PICKET_FILE=/no/such/directory/picket.prom\n",
        "PICKET_ERROR=No such file or directory",
    ] {
        assert!(warned.contains(field), "{field:?} is not in {warned}");
    }
    let runs = |entry: &String| entry.contains("MESSAGE=the agent runs") && entry.contains("PICKET_VERSION=");
    while !entries.iter().any(runs) {
        let length = socket.recv(&mut buffer).expect("an entry within a minute");
        entries.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
}
