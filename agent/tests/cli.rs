//! The real binary in directories of its own, as root: what it prints, how it exits, who may ask it, and how it
//! takes faults. Sensors and the link have their own tests; these agents are mostly not enrolled.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use picket_agent::config::LedgerConfig;
use picket_agent::layout::Layout;
use picket_agent::ledger::{Ledger, Reader, RecordFilter, create_first_key};
use picket_agent::respond::{Context, Engine, Moment, RespondStatus};
use picket_protocol::crypto::SigningKey;
use picket_protocol::dsse::{Envelope, KeyId};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::record::{Kind, Lifecycle, Record};
use picket_protocol::time::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(30);

/// A user without any rights here.
const NOBODY: &str = "65534";

fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begin.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A host of its own below a temporary directory.
struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711)).expect("mode");
        let host = Self { directory };
        std::fs::create_dir(host.path("watched")).expect("directory");
        let at = host.directory.path().display();
        host.configure(&format!(
            "state_dir = \"{at}/state\"\nrun_dir = \"{at}/run\"\n[files]\ntrees = [\"{at}/watched\"]\n\
             [logins]\nlogs = [\"{at}/auth.log\"]\njournal = false\n[uplink]\nuser = \"61997\"\n"
        ));
        // Where another user may execute it.
        std::fs::copy(env!("CARGO_BIN_EXE_agent"), host.path("agent")).expect("copied");
        host
    }

    fn configure(&self, text: &str) {
        std::fs::write(self.path("agent.toml"), text).expect("configuration");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn layout(&self) -> Layout {
        Layout::new(&self.path("state"), &self.path("run"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path("agent"));
        command.arg("--config").arg(self.path("agent.toml")).args(arguments);
        command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM").stdin(Stdio::null());
        command
    }

    fn agent(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the agent's command line")
    }

    /// `agent ARGUMENTS` through another program: `unshare`, `setpriv`.
    fn through(&self, wrapper: &[&str], arguments: &[&str]) -> Command {
        let (program, rest) = wrapper.split_first().expect("a program");
        let mut command = Command::new(program);
        command.args(rest).arg(self.path("agent")).arg("--config").arg(self.path("agent.toml"));
        command.args(arguments).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        command
    }

    fn start(&self) -> Running {
        self.start_as(&mut self.command(&["run"]))
    }

    fn start_as(&self, command: &mut Command) -> Running {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).expect("log");
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("the agent");
        let mut running = Running { child };
        wait_for("the agent to answer", || {
            let exited = running.child.try_wait().expect("a child");
            assert!(exited.is_none(), "{exited:?}: {}", self.log());
            (self.status().get("pid").is_some_and(Value::is_u64)).then_some(())
        });
        running
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&self.agent(&["status", "--json"]).stdout).unwrap_or_default()
    }

    fn lifecycle(&self) -> Vec<Lifecycle> {
        let filter = RecordFilter { kind: Some(Kind::Lifecycle), ..RecordFilter::default() };
        let reader = Reader::open(&self.layout().database()).expect("reader");
        let records = reader.records(&filter).expect("records");
        records.iter().map(|r| Record::parse(&r.bytes).expect("record").body().expect("body")).collect()
    }

    /// The newest record about a start.
    fn last_start(&self) -> Lifecycle {
        self.lifecycle().into_iter().find(|record| record.event == "started").expect("a start")
    }
}

struct Running {
    child: Child,
}

impl Running {
    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    }

    fn stop(mut self) -> Option<i32> {
        self.signal("-TERM");
        let code = wait_for("the agent to stop", || self.child.try_wait().expect("a child")).code();
        std::mem::forget(self);
        code
    }

    fn kill(mut self) {
        self.signal("-KILL");
        self.child.wait().expect("a child");
        std::mem::forget(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test failed; nothing of it may stay behind.
        let _gone = self.child.kill().and_then(|()| self.child.wait()).is_ok();
    }
}

#[test]
fn status_tells_all_in_one_screen_and_as_json() {
    let host = Host::new();
    let running = host.start();
    let out = host.agent(&["status"]);
    let screen = text(&out.stdout);
    for label in [
        "protection",
        "agent",
        "defences",
        "files",
        "host",
        "logins",
        "ledger",
        "collector",
        "commands",
        "cost",
        "PSS",
    ] {
        assert!(screen.contains(label), "{label} is missing in\n{screen}");
    }
    assert!(screen.contains("not enrolled") && !screen.contains('\x1b'), "{screen}");
    assert!(screen.lines().count() <= 24, "{screen}");
    let status = host.status();
    assert_eq!(status["pid"], running.child.id());
    assert_eq!((&status["enrolled"], &status["connected"]), (&json!(false), &json!(false)));
    assert!(status["ledger"]["size"].as_u64().is_some_and(|size| size > 0), "{status}");
    assert!(status["ledger"]["root"].is_string() && status["sensors"]["host"]["rung"].is_string());
    let code = match status["protection"].as_str() {
        Some("on") => 0,
        Some("degraded") => 1,
        _ => 2,
    };
    assert_eq!(host.agent(&["status"]).status.code(), Some(code));
    assert!(status["reasons"].as_array().is_some_and(|reasons| !reasons.is_empty()), "{status}");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn what_needs_a_running_agent_says_so_and_exits_2() {
    let host = Host::new();
    for arguments in
        [&["status"][..], &["ack"], &["scan"], &["hold-commands", "--off"], &["findings", "--follow"]]
    {
        let out = host.agent(arguments);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}");
        assert!(text(&out.stderr).contains("the agent is not running"), "{}", text(&out.stderr));
        assert_eq!(text(&out.stderr).lines().count(), 1);
    }
    assert_eq!(host.status()["running"], json!(false));
    assert_eq!(host.agent(&["verify"]).status.code(), Some(2));
    assert_eq!(host.agent(&["findings"]).status.code(), Some(2), "there is no database yet");
    drop(host.start());
    let out = host.agent(&["findings"]);
    assert_eq!(out.status.code(), Some(1), "the database is read instead");
    assert!(text(&out.stderr).contains("not running; this is read from its database"));
    assert_eq!(host.agent(&["commands"]).status.code(), Some(1));
    assert_eq!(host.agent(&["verify"]).status.code(), Some(0));
}

#[test]
fn a_bad_configuration_is_refused_with_lines_by_every_command() {
    let host = Host::new();
    host.configure("state_dir = \"relative\"\n[files]\nscann_interval = \"1h\"\nrung = \"magic\"\n");
    for arguments in [&["run"][..], &["status"], &["check-config"], &["verify"], &["probe"], &["findings"]] {
        let out = host.agent(arguments);
        let message = text(&out.stderr);
        assert_eq!(out.status.code(), Some(3), "{arguments:?}: {message}");
        for part in ["line 1: state_dir", "line 3: files.scann_interval: unknown key", "line 4: files.rung"] {
            assert!(message.contains(part), "{part} is missing in {message}");
        }
    }
    let json: Value = serde_json::from_slice(&host.agent(&["check-config", "--json"]).stdout).expect("JSON");
    assert_eq!((&json["fine"], json["problems"].as_array().map(Vec::len)), (&json!(false), Some(3)));
    host.configure("");
    assert_eq!(host.agent(&["check-config"]).status.code(), Some(0));
    assert!(!host.path("state").exists(), "checking starts nothing");
    std::fs::set_permissions(host.path("agent.toml"), std::fs::Permissions::from_mode(0o666)).expect("mode");
    let out = host.agent(&["check-config"]);
    assert!(out.status.code() == Some(3) && text(&out.stderr).contains("chmod go-w"), "{out:?}");
}

#[test]
fn misuse_exits_3_and_help_has_examples() {
    let host = Host::new();
    for arguments in [
        &[][..],
        &["nonsense"],
        &["status", "--nonsense"],
        &["findings", "--limit", "0"],
        &["findings", "--severity", "awful"],
        &["findings", "--since", "yesterday"],
        &["hold-commands"],
        &["hold-commands", "--for", "40d"],
        &["ack", "not-an-id"],
        &["status", "--watch"],
        &["status", "--watch", "--json"],
    ] {
        assert_eq!(host.agent(arguments).status.code(), Some(3), "{arguments:?}");
    }
    let commands = [
        "run",
        "enroll",
        "status",
        "findings",
        "commands",
        "verify",
        "scan",
        "probe",
        "ack",
        "check-config",
        "hold-commands",
    ];
    for command in commands {
        let out = host.agent(&[command, "--help"]);
        assert_eq!(out.status.code(), Some(0), "{command}");
        assert!(text(&out.stdout).contains("Example"), "{command}: {}", text(&out.stdout));
        assert!(text(&out.stdout).contains("--json"), "{command}");
    }
    assert_eq!(host.agent(&["--version"]).status.code(), Some(0));
}

#[test]
fn the_ladders_are_shown_with_reasons() {
    let host = Host::new();
    let out = host.agent(&["probe"]);
    assert!(text(&out.stdout).contains("best"), "{}", text(&out.stdout));
    let probes: Value = serde_json::from_slice(&host.agent(&["probe", "--json"]).stdout).expect("JSON");
    let rungs = probes
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|probe| probe["rungs"].as_array().cloned().unwrap_or_default());
    assert!(rungs.clone().count() > 0);
    assert!(rungs.into_iter().all(|rung| rung["reason"].as_str().is_some_and(|reason| !reason.is_empty())));
}

#[test]
fn a_second_agent_on_the_same_state_is_refused() {
    let host = Host::new();
    let running = host.start();
    let out = host.agent(&["run"]);
    let message = text(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{message}");
    assert!(message.contains("already uses this state directory"), "{message}");
    assert!(message.contains(&running.child.id().to_string()), "{message}");
    assert_eq!(host.status()["pid"], running.child.id(), "the first one is not disturbed");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_read_only_state_directory_is_refused_in_one_line() {
    let host = Host::new();
    drop(host.start());
    let (state, script) =
        (host.path("state"), "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"");
    let state = state.to_str().expect("a path");
    let out =
        host.through(&["unshare", "-m", "sh", "-c", script, state], &["run"]).output().expect("unshare");
    let message = text(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{message}");
    assert!(message.contains("Read-only file system") && message.lines().count() == 1, "{message}");
}

#[test]
fn directories_that_others_could_change_are_refused() {
    let host = Host::new();
    drop(host.start());
    std::fs::set_permissions(host.path("state"), std::fs::Permissions::from_mode(0o777)).expect("mode");
    let out = host.agent(&["run"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("lets others write in it"), "{}", text(&out.stderr));
    std::fs::set_permissions(host.path("state"), std::fs::Permissions::from_mode(0o711)).expect("mode");
    std::os::unix::fs::chown(host.path("state/core"), Some(65_534), None).expect("owner");
    let out = host.agent(&["run"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("belongs to user 65534"), "{}", text(&out.stderr));
}

#[test]
fn state_from_a_newer_version_is_left_alone() {
    let host = Host::new();
    assert_eq!(host.start().stop(), Some(0));
    let database = rusqlite::Connection::open(host.layout().database()).expect("database");
    database.pragma_update(None, "user_version", 9_999).expect("version");
    drop(database);
    let out = host.agent(&["run"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("newer version"), "{}", text(&out.stderr));
    assert_eq!(host.agent(&["verify"]).status.code(), Some(2));
}

#[test]
fn sigterm_stops_in_good_order() {
    let host = Host::new();
    assert_eq!(host.start().stop(), Some(0));
    assert_eq!(host.lifecycle()[0].event, "stopped");
    assert_eq!(host.last_start().detail["last_run"], "none");
    assert!(!host.layout().socket().exists());
    let running = host.start();
    assert_eq!(host.last_start().detail["last_run"], "clean");
    assert_eq!(host.last_start().detail["unclean"], false);
    let digest = picket_protocol::crypto::sha256(&[&std::fs::read(host.path("agent.toml")).expect("read")]);
    assert_eq!(host.last_start().detail["config_sha256"], picket_protocol::crypto::hex(&digest));
    running.signal("-INT");
    wait_for("the record of the stop", || (host.lifecycle()[0].event == "stopped").then_some(()));
    assert_eq!(host.agent(&["verify"]).status.code(), Some(0));
}

#[test]
fn the_start_is_the_first_record_and_precedes_what_the_sensors_say() {
    let host = Host::new();
    host.configure("nonsense = 1\n");
    assert_eq!(host.agent(&["run"]).status.code(), Some(3));
    assert!(!host.path("state").exists(), "nothing is made before the configuration is known to be good");
    let host = Host::new();
    assert_eq!(host.start().stop(), Some(0));
    let filter = RecordFilter { limit: 10_000, ..RecordFilter::default() };
    let records = Reader::open(&host.layout().database()).expect("reader").records(&filter).expect("records");
    let first = records.iter().rposition(|record| text(&record.bytes).contains("\"started\""));
    assert_eq!(first, Some(records.len() - 1), "the oldest record");
    assert!(text(&records[0].bytes).contains("\"stopped\""), "and the stop is the newest");
}

#[test]
fn a_kill_is_noticed_at_the_next_start() {
    let host = Host::new();
    host.start().kill();
    assert!(host.layout().socket().exists(), "the socket is left over");
    let running = host.start();
    let start = host.last_start();
    assert_eq!((&start.detail["last_run"], &start.detail["unclean"]), (&json!("unclean"), &json!(true)));
    assert_eq!(running.stop(), Some(0));
    assert_eq!(host.agent(&["verify"]).status.code(), Some(0));
}

#[test]
fn every_thread_has_given_up_what_is_not_needed() {
    let host = Host::new();
    let running = host.start();
    let kept: u64 = [2, 5, 6, 7, 8, 12, 19, 21, 30, 37, 0].iter().map(|bit| 1u64 << bit).sum();
    let tasks = format!("/proc/{}/task", running.child.id());
    let mut threads = 0;
    for task in std::fs::read_dir(tasks).expect("tasks") {
        let status = std::fs::read_to_string(task.expect("task").path().join("status")).expect("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
            u64::from_str_radix(line.trim(), 16).expect("hexadecimal")
        };
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(field(set) & !kept, 0, "{set} {status}");
        }
        assert_eq!((field("CapInh:"), field("CapAmb:"), field("NoNewPrivs:")), (0, 0, 1));
        threads += 1;
    }
    assert!(threads > 3);
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn the_service_manager_is_told() {
    let host = Host::new();
    let socket = UnixDatagram::bind(host.path("notify")).expect("socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
    let running = host.start_as(host.command(&["run"]).env("NOTIFY_SOCKET", host.path("notify")));
    let next = || {
        let mut buffer = [0; 1_024];
        let count = socket.recv(&mut buffer).expect("a message");
        text(&buffer[..count])
    };
    assert!(next().contains("READY=1"));
    running.signal("-TERM");
    wait_for("the word that it stops", || next().contains("STOPPING=1").then_some(()));
    drop(running);
}

#[test]
fn others_are_kept_away_from_the_socket() {
    let host = Host::new();
    let group = host.path("group");
    std::fs::write(&group, "root:x:0:\npicket:x:61996:\n").expect("group file");
    let script = "mount --bind \"$0\" /etc/group && exec \"$@\"";
    let private = ["unshare", "-m", "sh", "-c", script, group.to_str().expect("a path")];
    let running = host.start_as(&mut host.through(&private, &["run"]));
    let mode = std::fs::metadata(host.layout().socket()).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let run =
        |wrapper: &[&str], arguments: &[&str]| host.through(wrapper, arguments).output().expect("setpriv");
    let stranger = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
    let out = run(&stranger, &["status"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("only root and members of the group picket"), "{}", text(&out.stderr));
    let member = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--groups", "61996"];
    assert!(text(&run(&member, &["status"]).stdout).contains("protection"));
    assert_eq!(run(&member, &["findings"]).status.code(), Some(0));
    assert_eq!(run(&member, &["commands"]).status.code(), Some(0));
    for changing in [&["ack"][..], &["scan"], &["hold-commands", "--for", "1h"], &["hold-commands", "--off"]]
    {
        let out = run(&member, changing);
        assert_eq!(out.status.code(), Some(2), "{changing:?}");
        assert!(text(&out.stderr).contains("only root may do that"), "{}", text(&out.stderr));
    }
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn rude_clients_disturb_nobody() {
    let host = Host::new();
    let running = host.start();
    let connect = || UnixStream::connect(host.layout().socket()).expect("connected");
    let ask = |bytes: &[u8]| {
        let mut stream = connect();
        // The agent may hang up before it has read everything.
        let _hung_up = stream.write_all(bytes).is_err();
        let mut reply = String::new();
        let _reset = stream.read_to_string(&mut reply).is_err();
        reply
    };
    for request in [
        &b"nonsense\n"[..],
        b"{\"request\":\"status\",\"more\":1}\n",
        b"{\"request\":\"explode\"}\n",
        b"\xff\n",
    ] {
        assert!(ask(request).contains("not a request that this agent knows"), "{}", text(request));
    }
    ask(&vec![b'x'; 2 * 1024 * 1024]);
    // Those who say nothing take places and are told when there is none left; others are served beside them.
    let idle: Vec<_> = (0..20).map(|_| connect()).collect();
    assert!(host.status()["pid"].is_u64());
    let crowd: Vec<_> = (0..40).map(|_| connect()).collect();
    assert!(ask(b"{\"request\":\"status\"}\n").contains("connected already"));
    drop((idle, crowd));
    wait_for("room for others", || host.status()["pid"].is_u64().then_some(()));
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn all_that_is_sealed_can_be_read() {
    let host = Host::new();
    let running = host.start();
    let shown = wait_for("a heartbeat", || {
        let shown = text(&host.agent(&["findings", "--all"]).stdout);
        shown.contains(" heartbeat ").then_some(shown)
    });
    assert!(shown.contains(" lifecycle "), "{shown}");
    assert!(!text(&host.agent(&["findings"]).stdout).contains("heartbeat"));
    let json = text(&host.agent(&["findings", "--all", "--json"]).stdout);
    assert!(json.lines().any(|line| line.contains("\"kind\":\"heartbeat\"")), "{json}");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn root_finds_a_place_when_others_hold_all_that_they_may() {
    let host = Host::new();
    let running = host.start();
    let socket = host.layout().socket();
    // As if everybody were in the group.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).expect("mode");
    let crowd = std::thread::spawn(move || {
        // Of this thread alone.
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(NOBODY.parse().expect("a number")))
            .expect("uid");
        (0..40).map(|_| UnixStream::connect(&socket).expect("connected")).collect::<Vec<_>>()
    });
    let crowd = crowd.join().expect("a crowd");
    let refused = |mut stream: &UnixStream| {
        let mut reply = [0; 256];
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
        stream.read(&mut reply).is_ok_and(|count| text(&reply[..count]).contains("connected already"))
    };
    wait_for("the last to be refused", || crowd.last().filter(|stream| refused(stream)).map(|_| ()));
    assert!(host.status()["pid"].is_u64());
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn watching_draws_over_itself() {
    let host = Host::new();
    let running = host.start();
    let watch = format!(
        "{} --config {} status --watch",
        host.path("agent").display(),
        host.path("agent.toml").display()
    );
    let mut terminal = Command::new("script")
        .args(["-qfc", &watch, "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script (bsdutils)");
    let mut seen = Vec::new();
    let mut stdout = terminal.stdout.take().expect("stdout");
    let mut buffer = [0; 4_096];
    while text(&seen).matches("\x1b[Hprotection").count()
        + text(&seen).matches("\x1b[H\x1b[1mprotection").count()
        < 2
    {
        let count = stdout.read(&mut buffer).expect("output");
        assert!(count > 0, "it ended: {}", text(&seen));
        seen.extend_from_slice(&buffer[..count]);
    }
    terminal.kill().expect("killed");
    terminal.wait().expect("ended");
    assert_eq!(running.stop(), Some(0));
}

/// Makes the host enrolled with a collector that nobody runs, and puts one advice in force, by the library.
fn enrol_with_advice(host: &Host) -> Uuid {
    let layout = host.layout();
    std::fs::create_dir_all(layout.ledger_keys()).expect("directory");
    std::fs::create_dir_all(layout.run()).expect("directory");
    for path in [layout.state().to_owned(), layout.core()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711)).expect("mode");
    }
    let enrolled_key = create_first_key(&layout).expect("key");
    let (agent, tenant) = (layout.agent(Uuid::now_v7()).expect("id"), Tenant::parse("acme").expect("tenant"));
    let operator = SigningKey::from_seed([1; 32]);
    let witness = SigningKey::from_seed([2; 32]).public();
    let witness = picket_protocol::note::VerifierKey::new(
        "collector.example",
        picket_protocol::note::KeyKind::Cosignature,
        witness,
    );
    let now = Moment::now();
    let enrolment = json!({
        "agent": agent, "tenant": tenant, "address": "127.0.0.1:1", "witness": witness.expect("name").to_string(),
        "enrolled_key": enrolled_key, "hostname": "h", "enrolled": now.wall,
    });
    std::fs::write(layout.enrolment(), enrolment.to_string()).expect("enrolment");
    let id = KeyId::of(&operator.public());
    let root = json!({
        "version": 1, "tenant": tenant, "expires": now.wall.plus(DEADLINE * 100),
        "keys": { id.0.clone(): { "name": "ada", "public": operator.public() } },
        "root": { "keys": [id], "threshold": 1 },
        "roles": { "desk": { "keys": [id], "threshold": 1, "actions": ["advise"],
            "audience": [{ "signatures": 1, "hosts": 1 }], "lease_seconds_max": 3_600 } },
    });
    let sign = |payload_type: &str, payload: &Value| {
        let mut envelope = Envelope::new(payload_type, payload.to_string().as_bytes());
        envelope.sign(&operator).expect("signed");
        serde_json::to_vec(&envelope).expect("JSON")
    };
    std::fs::write(layout.trust_root(), sign(picket_protocol::trust::PAYLOAD_TYPE, &root))
        .expect("trust root");
    let command = Uuid::now_v7();
    let advise = json!({
        "id": command, "issued": now.wall, "not_before": now.wall, "expires": now.wall.plus(DEADLINE),
        "tenant": tenant, "hosts": [agent], "action": { "type": "advise", "message": "patch \u{1b}[2J openssh" },
        "lease": 3_600, "reason": "CVE", "ticket": "T-1",
    });
    let ledger = Ledger::open(&layout, &LedgerConfig::default(), agent, &picket_agent::core::schemas())
        .expect("ledger");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot").trim().to_owned();
    let context = Context {
        layout,
        sealer: ledger.sealer(),
        allowed: vec!["advise".to_owned()],
        boot,
        cosigned: Arc::new(|| None::<Timestamp>),
        status: RespondStatus::default(),
    };
    let identity: (AgentId, Tenant) = (agent, tenant);
    let mut engine = Engine::start(context, Some(identity), now).expect("engine");
    assert_eq!(engine.command(&sign(picket_protocol::command::PAYLOAD_TYPE, &advise), now), None);
    command
}

#[test]
fn advice_is_shown_and_acknowledged() {
    let host = Host::new();
    let command = enrol_with_advice(&host);
    let running = host.start();
    let screen = text(&host.agent(&["status"]).stdout);
    assert!(screen.contains("patch \\u{1b}[2J openssh") && screen.contains("signed by ada"), "{screen}");
    let status = host.status();
    assert_eq!(status["commands"]["advice"][0]["id"], json!(command));
    assert!(status["commands"]["advice"][0]["seconds_left"].as_u64().is_some_and(|left| left <= 3_600));
    let motd = host.path("run/motd.d/picket");
    assert!(std::fs::read_to_string(&motd).is_ok_and(|text| text.contains("openssh")));
    assert_eq!(host.agent(&["ack", &Uuid::nil().to_string()]).status.code(), Some(2));
    let out = host.agent(&["ack", &command.to_string()]);
    assert!(out.status.success() && text(&out.stdout).contains(&command.to_string()), "{out:?}");
    assert!(!motd.exists());
    assert_eq!(host.status()["commands"]["advice"], json!([]));
    assert!(text(&host.agent(&["ack"]).stdout).contains("no advice is in force"));
    let rows: Value = serde_json::from_slice(&host.agent(&["commands", "--json"]).stdout).expect("JSON");
    assert_eq!((&rows[0]["state"], &rows[0]["signers"]), (&json!("acknowledged"), &json!(["ada"])));
    assert!(text(&host.agent(&["commands"]).stdout).contains("reason: CVE; ticket: T-1"));
    assert_eq!(running.stop(), Some(0));
    let filter = RecordFilter { kind: Some(Kind::Receipt), ..RecordFilter::default() };
    let receipts =
        Reader::open(&host.layout().database()).expect("reader").records(&filter).expect("records");
    let receipt = text(&receipts[0].bytes);
    assert!(receipt.contains("\"acknowledged\"") && receipt.contains("\"uid\":0"), "{receipt}");
}

#[test]
fn held_commands_show_and_are_on_record() {
    let host = Host::new();
    let running = host.start();
    assert!(host.agent(&["hold-commands", "--for", "2h"]).status.success());
    let left = host.status()["commands"]["held_seconds"].as_u64();
    assert!(left.is_some_and(|left| (7_100..=7_200).contains(&left)), "{left:?}");
    assert!(text(&host.agent(&["status"]).stdout).contains("held back for 1h 59m"));
    assert!(host.agent(&["hold-commands", "--off"]).status.success());
    assert_eq!(host.status()["commands"]["held_seconds"], Value::Null);
    assert_eq!(host.lifecycle()[1].event, "commands-held");
    assert_eq!(host.lifecycle()[0].event, "commands-resumed");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn planned_work_explains_what_it_changes_and_is_on_record() {
    let host = Host::new();
    let running = host.start();
    let shown = |arguments: &[&str]| text(&host.agent(arguments).stdout);
    assert_eq!(shown(&["window", "show"]), "no planned work is declared\n");
    let refused = host.agent(&["window", "open", "--for", "2h", "--reason", " "]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    assert_eq!(host.agent(&["window", "close"]).status.code(), Some(2));
    let opened = shown(&["window", "open", "--for", "2h", "--reason", "new web server"]);
    assert!(
        opened.starts_with("planned work until ") && opened.contains("): new web server, declared by "),
        "{opened}"
    );
    assert_eq!(shown(&["window", "show"]), opened);
    std::fs::write(host.path("watched/planned"), "text").expect("written");
    let finding = |path: &str| {
        let text = shown(&["findings", "--json"]);
        let findings = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let body = |record: Value| record.pointer("/body").cloned().unwrap_or(record);
        findings.map(body).find(|body| body["title"].as_str().is_some_and(|title| title.ends_with(path)))
    };
    let planned = wait_for("the finding", || finding("watched/planned"));
    let explained = planned["explained_by"].as_str().unwrap_or_default();
    assert!(explained.starts_with("planned work: new web server ("), "{planned}");
    assert_eq!(planned["severity"], "info");
    assert!(planned.pointer("/evidence/window/severity_without").is_some(), "{planned}");
    assert_eq!(shown(&["window", "close"]), "no planned work is declared\n");
    std::fs::write(host.path("watched/later"), "text").expect("written");
    let later = wait_for("the finding", || finding("watched/later"));
    assert!(later.get("explained_by").is_none(), "{later}");
    let events: Vec<String> = host.lifecycle().into_iter().map(|record| record.event).collect();
    assert!(
        events.contains(&"window-opened".to_owned()) && events.contains(&"window-closed".to_owned()),
        "{events:?}"
    );
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn an_enrolment_is_picked_up_while_the_agent_runs() {
    let (host, prepared) = (Host::new(), Host::new());
    enrol_with_advice(&prepared);
    let running = host.start();
    assert_eq!(host.status()["enrolled"], json!(false));
    let (from, to) = (prepared.layout(), host.layout());
    let id = std::fs::read_to_string(to.core().join("agent-id")).expect("id");
    std::fs::copy(from.trust_root(), to.trust_root()).expect("trust root");
    let mut enrolment: Value =
        serde_json::from_slice(&std::fs::read(from.enrolment()).expect("enrolment")).expect("JSON");
    enrolment["agent"] = json!(id.trim());
    picket_agent::layout::write_durably(&to.enrolment(), enrolment.to_string().as_bytes(), 0o600)
        .expect("written");
    let status = wait_for("the enrolment to be seen", || {
        let status = host.status();
        (status["enrolled"] == json!(true) && status["commands"]["trust_root"]["version"] == 1)
            .then_some(status)
    });
    assert_eq!(status["tenant"], "acme");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn findings_are_shown_and_followed_and_scans_answer() {
    use std::io::BufRead as _;
    let host = Host::new();
    std::fs::write(host.path("auth.log"), "").expect("log");
    let running = host.start();
    wait_for("the baseline", || (host.status()["sensors"]["files"]["state"] == "running").then_some(()));
    let change = |name: &str| std::fs::write(host.path("watched").join(name), name).expect("written");
    change("first\x1b[2J");
    let shown = wait_for("the first finding", || {
        let shown = text(&host.agent(&["findings", "--rule", "file."]).stdout);
        shown.contains("first").then_some(shown)
    });
    assert!(shown.contains("first\\u{1b}[2J") && !shown.contains('\x1b'), "{shown}");
    assert_eq!(text(&host.agent(&["findings", "--rule", "login."]).stdout), "");
    assert_eq!(text(&host.agent(&["findings", "--severity", "critical"]).stdout), "");

    let mut follower =
        host.command(&["findings", "--follow", "--json"]).stdout(Stdio::piped()).spawn().expect("agent");
    let mut lines = std::io::BufReader::new(follower.stdout.take().expect("stdout")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert!(next().contains("first"));
    change("second");
    let second: Value = serde_json::from_str(&next()).expect("a sealed record");
    assert_eq!((&second["kind"], &second["body"]["rule"]), (&json!("finding"), &json!("file.created")));
    assert!(second.to_string().contains("second"), "{second}");
    follower.kill().expect("killed");
    follower.wait().expect("ended");

    let watched = host.path("watched");
    let out = host.agent(&["scan", watched.to_str().expect("a path"), "--json"]);
    let answer: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert!(answer["summary"]["examined"].as_u64().is_some_and(|examined| examined >= 3), "{answer}");
    let out = host.agent(&["scan", "/nowhere"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("/nowhere is not watched"), "{}", text(&out.stderr));
    assert_eq!(running.stop(), Some(0));
}

fn assert_absent(path: &Path) {
    assert!(!path.exists(), "{} is left behind", path.display());
}

#[test]
fn nothing_is_left_outside_the_directories() {
    let host = Host::new();
    assert_eq!(host.start().stop(), Some(0));
    assert_absent(&host.layout().socket());
    let names = std::fs::read_dir(host.directory.path()).expect("directory");
    let mut names: Vec<_> = names.map(|entry| entry.expect("entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["agent", "agent.toml", "log", "run", "state", "watched"]);
}

#[test]
fn a_finding_is_shown_in_full_with_what_differs() {
    let host = Host::new();
    let list = host.path("watched/home/.ssh/authorized_keys");
    std::fs::create_dir_all(list.parent().expect("a parent")).expect("directory");
    let key = |name: &str| format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5{name} {name}@example\n");
    std::fs::write(&list, key("AAAB")).expect("written");
    let running = host.start();
    wait_for("the baseline", || (host.status()["sensors"]["files"]["state"] == "running").then_some(()));
    std::fs::write(&list, key("AAAB") + &key("AAAC")).expect("written");
    let rule = ["findings", "--rule", "persistence.ssh-key"];
    let line = wait_for("the finding", || text(&host.agent(&rule).stdout).lines().next().map(str::to_owned));
    assert!(line.contains("(AAAC@example) was added to home's authorized_keys"), "{line}");
    let id = line.split_whitespace().last().expect("an id").to_owned();
    // What is there now does not change what the finding shows.
    std::fs::write(&list, "").expect("written");
    let out = host.agent(&["show", &id, "--diff"]);
    let shown = text(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    for part in ["A key SHA256:", "persistence.ssh-key", "T1098.004", "file.modified", "account     home"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert!(shown.contains("     ssh-ed25519") && shown.contains("    +ssh-ed25519"), "{shown}");
    let json: Value =
        serde_json::from_slice(&host.agent(&["show", &id, "--diff", "--json"]).stdout).expect("JSON");
    assert_eq!((json["diff"]["added"].clone(), json["diff"]["removed"].clone()), (json!(1), json!(0)));
    assert!(json["record"]["body"]["id"].as_str().is_some_and(|whole| whole.ends_with(&id)));
    for (wrong, words) in [("0", "give 4 or more"), ("zzzz", "not the id"), ("00000000", "no finding")] {
        let out = host.agent(&["show", wrong]);
        assert_eq!(out.status.code(), Some(2));
        assert!(text(&out.stderr).contains(words), "{}", text(&out.stderr));
    }
    assert_eq!(running.stop(), Some(0));
    let out = host.agent(&["show", &id]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stdout).contains("A key SHA256:"));
}
