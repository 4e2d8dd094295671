//! The real binary: killed, out of disk, on a directory of a newer version.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use picket_protocol::join::Join;

use super::clients::{Lab, PATIENCE, TestAgent, init, wait_for};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_collector"))
}

/// A collector in a process of its own.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    fn start(data: &Path, listen: &str) -> Self {
        let mut command = program();
        Self::spawn(command.args(["run", "--log", "error", "--listen", listen, "--data-dir"]).arg(data))
    }

    /// The same on the port that it had before, which another program's connection may have for a moment.
    fn start_again(data: &Path, listen: &str) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let process = Self::start(data, listen);
            if !process.address.is_empty() {
                return process;
            }
            assert!(Instant::now() < deadline, "it does not listen on {listen} again");
        }
    }

    /// Waits until it tells where it listens, which it does not when it ends before.
    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap_or_default().to_owned();
        Self { child, address }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone after `kill`.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn run(data: &Path, arguments: &[&str]) -> (i32, String, String) {
    let out = program().args(arguments).arg("--data-dir").arg(data).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

async fn enrolled(data: &Path, address: &str) -> TestAgent {
    let (code, out, err) = run(data, &["token", "--tenant", "acme"]);
    assert_eq!(code, 0, "{err}");
    let mut join = Join::parse(&out).unwrap();
    address.clone_into(&mut join.address);
    let mut agent = TestAgent::new();
    agent.enroll(&join).await.unwrap();
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_collector_lost_nothing_that_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    init(&data, "");
    let mut collector = Process::start(&data, "127.0.0.1:0");
    assert!(!collector.address.is_empty(), "it listens");
    let address = collector.address.clone();
    let mut agent = enrolled(&data, &address).await;
    let mut acknowledged = 0;
    for round in 0..5 {
        let (mut client, welcome) = agent.connect().await;
        assert!(welcome.size >= acknowledged, "{} behind the acknowledged {acknowledged}", welcome.size);
        let mut sent = welcome.size;
        if sent < agent.frontier.size() {
            agent.ship(&mut client, sent).await;
            sent = agent.frontier.size();
            acknowledged = sent;
        }
        // Killed with batches in flight.
        for _ in 0..8 {
            agent.find_many(50);
            client.send_batch(&agent.batch(sent)).await;
            sent = agent.frontier.size();
        }
        let ack = client.ack().await;
        let size: u64 = ack.checkpoint.lines().nth(1).unwrap().parse().unwrap();
        acknowledged = acknowledged.max(size);
        agent.cosigned = ack.checkpoint;
        collector.kill();
        collector = Process::start_again(&data, &address);
        assert_eq!(collector.address, address, "round {round}");
    }
    let (mut client, welcome) = agent.connect().await;
    assert!(welcome.size >= acknowledged);
    if welcome.size < agent.frontier.size() {
        agent.ship(&mut client, welcome.size).await;
    }
    drop(client);
    collector.kill();
    // Each once, in order, byte for byte.
    let lab = Lab { running: start_here(&data).await, dir };
    for (seq, record) in agent.records.iter().enumerate() {
        assert_eq!(lab.record(agent.id, seq as u64).await.as_ref(), Some(record), "record {seq}");
    }
    let store = lab.running.state().shared.store.clone();
    let id = agent.id;
    let root = tokio::task::spawn_blocking(move || store.ledger(id).unwrap().unwrap().frontier.root());
    assert_eq!(root.await.unwrap(), agent.frontier.root());
}

async fn start_here(data: &Path) -> picket_collector::server::run::Running {
    picket_collector::server::run::Running::start(data, None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_acknowledges_nothing_and_passes() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::start(dir.path());
    let mut agent = enrolled(&disk.path.join("data"), &disk.collector.address).await;
    let ballast = disk.fill();
    let (mut client, welcome) = agent.connect().await;
    assert_eq!(welcome.size, 0);
    // Records that do not compress, until the log of the store cannot grow.
    let mut refused = false;
    for _ in 0..50 {
        let from = agent.frontier.size();
        for _ in 0..20 {
            agent.find(&format!("{}{}", noise(), noise()));
        }
        client.send_batch(&agent.batch(from)).await;
        let frame = client.next().await.unwrap();
        if frame.frame_type == picket_protocol::frame::FrameType::Bye {
            let bye: picket_protocol::message::Bye =
                picket_protocol::message::from_body("bye", &frame.body).unwrap();
            assert!(bye.reason == "refused" && bye.retry_after > 0, "{bye:?}");
            refused = true;
            break;
        }
    }
    assert!(refused, "the disk was not full");
    drop(client);
    std::fs::remove_file(&ballast).unwrap();
    wait_for("the store to recover", || {
        let mut agent = agent.clone();
        async move {
            let mut client = agent.dial().await.unwrap();
            client.send(picket_protocol::frame::FrameType::Hello, &agent.hello()).await;
            let Some(frame) = client.next().await else { return false };
            if frame.frame_type != picket_protocol::frame::FrameType::Welcome {
                return false;
            }
            let welcome: picket_protocol::message::Welcome =
                picket_protocol::message::from_body("welcome", &frame.body).unwrap();
            if welcome.size < agent.frontier.size() {
                agent.ship(&mut client, welcome.size).await;
            }
            true
        }
    })
    .await;
    let (_, welcome) = agent.connect().await;
    assert_eq!(welcome.size, agent.frontier.size(), "nothing was lost");
}

/// Text that does not compress.
fn noise() -> String {
    let random: [u8; 200] = picket_collector::server::data_dir::random().unwrap();
    picket_protocol::crypto::hex(&random)
}

/// A collector on a small disk, mounted in a mount namespace of its process alone.
struct SmallDisk {
    collector: Process,
    /// The disk, seen through the process.
    path: std::path::PathBuf,
}

impl SmallDisk {
    fn start(below: &Path) -> Self {
        let disk = below.join("disk");
        std::fs::create_dir(&disk).unwrap();
        let script = r#"mount -t tmpfs -o size=6m tmpfs "$1" \
            && "$2" init --address 127.0.0.1:0 --data-dir "$1/data" >/dev/null \
            && exec "$2" run --log error --listen 127.0.0.1:0 --data-dir "$1/data""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.arg(&disk).arg(env!("CARGO_BIN_EXE_collector"));
        let collector = Process::spawn(&mut command);
        assert!(!collector.address.is_empty(), "it listens");
        let root = format!("/proc/{}/root", collector.child.id());
        let path = Path::new(&root).join(disk.strip_prefix("/").unwrap());
        Self { collector, path }
    }

    /// Writes a file until the disk is full, but for a little: answers to hellos fit, batches do not.
    fn fill(&self) -> std::path::PathBuf {
        use std::io::Write as _;
        let path = self.path.join("ballast");
        let mut file = std::fs::File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(64 * 1024)).unwrap();
        path
    }
}

#[test]
fn the_command_line_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (code, _, err) = run(&data, &["token", "--tenant", "acme"]);
    assert!(code == 3 && err.contains("collector init"), "{code} {err}");
    let (code, out, err) = run(&data, &["init", "--address", "127.0.0.1:7001", "--json"]);
    assert!(code == 0 && out.contains("witness"), "{code} {out} {err}");
    let (code, _, err) = run(&data, &["init", "--address", "127.0.0.1:7001"]);
    assert!(code == 1 && err.contains("nothing was changed"), "{code} {err}");
    let (code, ..) = run(&data, &["host", "show", "not-an-id"]);
    assert_eq!(code, 3);
    let (code, out, _) = run(&data, &["host", "list", "--json"]);
    assert_eq!((code, out.trim()), (0, "[]"));
    let config = dir.path().join("soc.toml");
    let add = ["operator", "add", "alice", "--role", "viewer", "--soc-config", config.to_str().unwrap()];
    let (code, out, err) = run(&data, &add);
    assert!(code == 0 && !out.contains("picket-op."), "{code} {out} {err}");
    let (code, ..) = run(&data, &add);
    assert_eq!(code, 1, "the file is there already");
    let (code, ..) = run(&data, &["operator", "remove", "bob"]);
    assert_eq!(code, 1);
    for subcommand in ["init", "run", "token", "host", "operator", "trust"] {
        let out = program().args([subcommand, "--help"]).output().unwrap();
        assert!(out.status.success(), "{subcommand}");
    }
}

#[test]
fn secrets_that_others_may_read_and_newer_databases_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    init(&data, "");
    std::fs::set_permissions(data.join("ca.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, err) = run(&data, &["run", "--listen", "127.0.0.1:0"]);
    assert!(code == 2 && err.contains("ca.key") && err.contains("0600"), "{code} {err}");
    std::fs::set_permissions(data.join("ca.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let database = rusqlite::Connection::open(data.join("collector.db")).unwrap();
    database.pragma_update(None, "user_version", 999).unwrap();
    drop(database);
    let (code, _, err) = run(&data, &["run", "--listen", "127.0.0.1:0"]);
    assert!(code == 2 && err.contains("newer"), "{code} {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_collectors_do_not_share_a_directory() {
    let lab = Lab::start().await;
    let (code, _, err) = run(&lab.data_dir(), &["run", "--listen", "127.0.0.1:0"]);
    assert!(code == 2 && err.contains("another collector"), "{code} {err}");
    // Local commands go through the one that runs.
    let (code, out, err) = run(&lab.data_dir(), &["token", "--tenant", "acme"]);
    assert!(code == 0, "{err}");
    assert_eq!(Join::parse(&out).unwrap().address, lab.address().to_string());
}

#[test]
fn local_commands_and_a_collector_that_starts_or_stops_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    init(&data, "");
    for _ in 0..5 {
        let beside = data.clone();
        let asking =
            std::thread::spawn(move || (0..10).map(|_| run(&beside, &["host", "list"])).collect::<Vec<_>>());
        let process = Process::start(&data, "127.0.0.1:0");
        assert!(!process.address.is_empty(), "it listens");
        process.kill();
        for (code, _, err) in asking.join().unwrap() {
            // Killed while it answered: told, and not for the lock.
            assert!(code == 0 || err.contains("does not answer"), "{err}");
        }
    }
}
