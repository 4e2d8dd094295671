//! How hosts become agents on real fleets: a join string that waits for the network, images and copies of hosts, and an identity that is
//! replaced while the agent holds something.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::operators::Operators;
use picket_tests::process::{output, stdout_of};
use picket_tests::wait_for;
use serde_json::Value;

/// Runs `agent enroll ARGS… JOIN` and gives its exit code with what it said.
fn enroll(agent: &Agent, args: &[&str], join: &str) -> (Option<i32>, String) {
    let out = output(&mut agent.command(&[&["enroll"], args, &[join]].concat()));
    let said = [out.stdout, out.stderr].concat();
    (out.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn reasons(agent: &Agent) -> String {
    agent.status().map(|status| status["reasons"].to_string()).unwrap_or_default()
}

fn wait_for_reason(agent: &Agent, text: &str) {
    wait_for(&format!("the agent to say {text:?}"), || reasons(agent).contains(text).then_some(()));
}

/// As a package is installed on a host whose network is not there yet.
#[test]
fn a_join_string_waits_for_the_collector_and_the_running_agent_enrols_without_a_hand() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::start(dir.path());
    let join = collector.token("acme");
    collector.kill();
    let mut agent = Agent::configure(&dir.path().join("host"), "");
    let waiting = agent.dir().join("state/core/join.pending");
    let (code, said) = enroll(&agent, &[], &join);
    assert!(code == Some(2) && said.contains("--retry"), "{code:?} {said}");
    assert!(!waiting.exists(), "nobody asked for that");
    let (code, said) = enroll(&agent, &["--retry"], &join);
    assert!(code == Some(1) && said.contains("the join string waits"), "{code:?} {said}");
    let mode = std::fs::metadata(&waiting).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let doctor = agent.json(&["doctor"])[0].to_string();
    assert!(
        doctor.contains("the join string waits; last try") && doctor.contains("start the agent"),
        "{doctor}"
    );

    agent.resume();
    wait_for_reason(&agent, "the join string waits; last try");
    wait_for_reason(&agent, "cannot connect to 127.0.0.1");
    // What is there when the baseline is taken is no finding.
    wait_for("the baseline to be taken", || {
        (agent.status()?.pointer("/sensors/files/state")? == "running").then_some(())
    });
    std::fs::write(agent.watched().join("before-enrolment"), "x").unwrap();
    agent.kill();
    assert!(waiting.exists());
    agent.resume();
    wait_for_reason(&agent, "; next in ");
    let doctor = agent.json(&["doctor"])[0].to_string();
    assert!(doctor.contains("the agent tries again by itself"), "{doctor}");
    collector.resume();
    agent.wait_until_ready();
    collector.wait_finding("file.created", "before-enrolment");
    wait_for("nothing to wait any more", || {
        (agent.status()?["join"].is_null() && !waiting.exists()).then_some(())
    });
    assert!(!agent.log().contains("picket1."), "the join string is in the log");
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn a_join_string_that_the_collector_will_never_take_is_given_up_and_another_one_helps() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::start(dir.path());
    let (spent, fresh) = (collector.token("acme"), collector.token("acme"));
    let other = Agent::configure(&dir.path().join("other"), "");
    other.run(&["enroll", &spent]);
    collector.kill();
    let mut agent = Agent::configure(&dir.path().join("host"), "");
    let waiting = agent.dir().join("state/core/join.pending");
    assert_eq!(enroll(&agent, &["--retry"], &spent).0, Some(1));
    agent.resume();
    wait_for_reason(&agent, "the join string waits");
    collector.resume();
    wait_for_reason(&agent, "the join string was given up");
    assert!(reasons(&agent).contains("this token was used"), "{}", reasons(&agent));
    wait_for("nothing to wait any more", || (!waiting.exists()).then_some(()));
    let doctor = agent.json(&["doctor"])[0].to_string();
    assert!(doctor.contains("this token was used"), "{doctor}");
    // It survives, and a refusal at once is told in the same way.
    agent.kill();
    agent.resume();
    wait_for_reason(&agent, "this token was used");
    let (code, said) = enroll(&agent, &["--retry"], &spent);
    assert!(code == Some(2) && said.contains("this token was used") && !waiting.exists(), "{code:?} {said}");
    assert_eq!(enroll(&agent, &[], &fresh).0, Some(0));
    agent.wait_until_ready();
    assert!(!agent.dir().join("state/core/join.refused").exists());
}

#[test]
fn a_join_string_by_hand_takes_the_place_of_one_that_waits_and_retiring_takes_it_away() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    // Nothing of it answers, and nothing refuses either: an attempt that hangs.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let far = silent.local_addr().unwrap().to_string();
    let far = Collector::start_as(&dir.path().join("far"), &far).token("acme");
    let mut agent = Agent::configure(&dir.path().join("host"), "");
    let waiting = agent.dir().join("state/core/join.pending");
    agent.resume();
    wait_for_reason(&agent, "not enrolled: findings stay");
    let mut hanging = agent.command(&["enroll", "--retry", &far]);
    let mut hanging = hanging.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (mut taken, _) = silent.accept().unwrap();
    assert!(waiting.exists(), "it is kept before it is tried");
    // Whoever gave it is gone; the agent goes on with it.
    hanging.kill().unwrap();
    hanging.wait().unwrap();
    wait_for("the attempt of the command to have ended", || {
        taken.read(&mut [0; 4096]).ok().filter(|n| *n == 0)
    });
    let _of_the_agent = silent.accept().unwrap();
    let retired = output(&mut agent.command(&["retire"]));
    assert!(retired.status.success() && !waiting.exists());
    assert_eq!(enroll(&agent, &[], &collector.token("acme")).0, Some(0), "the attempt that hung gave way");
    agent.wait_until_ready();
}

/// From its next start on, the agent finds this text in `/etc/machine-id`.
fn on_machine(agent: &mut Agent, id: &str) {
    let file = agent.dir().join("machine-id");
    std::fs::write(&file, format!("{id}\n")).unwrap();
    let script = "[ -e /etc/machine-id ] || { mount -t tmpfs none /mnt; cp -a /etc/. /mnt; touch /mnt/machine-id; mount --bind /mnt /etc; }; \
                  mount --bind \"$0\" /etc/machine-id; exec \"$@\"";
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script];
    agent.run_by(&[&words[..], &[file.to_str().unwrap()]].concat());
}

const ORIGINAL: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const COPY: &str = "1f1e2d3c4b5a69788796a5b4c3d2e1f0";
const OTHER_COPY: &str = "2f1e2d3c4b5a69788796a5b4c3d2e1f0";

fn copy_of(agent: &Agent, dir: &Path) -> Agent {
    let copied = Agent::configure(dir, "");
    stdout_of(Command::new("cp").arg("-a").arg(agent.dir().join("state")).arg(copied.dir()));
    copied
}

fn own_id(agent: &Agent) -> String {
    std::fs::read_to_string(agent.dir().join("state/core/agent-id")).unwrap().trim().to_owned()
}

/// The record of its first start.
fn first_start(agent: &Agent) -> Value {
    let records = agent.json(&["findings", "--all", "--limit", "1000"]);
    let is_start = |record: &Value| {
        record["body"]["event"] == "started" && record["body"]["detail"]["last_run"] == "none"
    };
    records.into_iter().find(is_start).expect("a record of the first start")
}

fn former_states(agent: &Agent) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(agent.dir().join("state")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains("replaced-")).collect()
}

/// An image of a host whose agent has run with a join string that waits, and two machines that are made of it.
#[test]
fn machines_of_one_image_get_an_id_and_keys_of_their_own_and_are_enrolled_each() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::start(dir.path());
    let text = collector.run("token", &["--tenant", "acme", "--uses", "2"]);
    let join = text.split_whitespace().find(|word| word.starts_with("picket1.")).unwrap().to_owned();
    collector.kill();
    let mut image = Agent::configure(&dir.path().join("image"), "");
    on_machine(&mut image, ORIGINAL);
    assert_eq!(enroll(&image, &["--retry"], &join).0, Some(1));
    image.resume();
    wait_for_reason(&image, "the join string waits");
    assert_eq!(image.stop(), Some(0));
    assert!(!image.log().contains("copy of another"), "{}", image.log());

    let mut copies = ["one", "two"].map(|name| copy_of(&image, &dir.path().join(name)));
    for (copy, id) in copies.iter_mut().zip([COPY, OTHER_COPY]) {
        on_machine(copy, id);
        copy.resume();
        wait_for_reason(copy, "the join string waits");
    }
    collector.resume();
    copies.iter().for_each(Agent::wait_until_ready);
    let ids = copies.each_ref().map(own_id);
    assert!(ids[0] != ids[1] && !ids.contains(&own_id(&image)), "{ids:?}");
    let hosts = wait_for("all hosts to be connected", || {
        let hosts = collector.soc_json(&["hosts"]);
        let connected = hosts.iter().all(|host| host["state"] == "connected");
        (connected && !hosts.is_empty()).then_some(hosts)
    });
    assert_eq!(hosts.len(), 2, "{hosts:?}");
    for copy in &copies {
        let start = first_start(copy);
        let told = start["body"]["title"].as_str().unwrap();
        assert!(told.contains("on a copy of another host"), "{start}");
        assert_eq!(start["body"]["detail"]["copied"]["agent"], own_id(&image), "{start}");
        assert!(copy.log().contains("this host is a copy of another one"), "{}", copy.log());
        let former = former_states(copy);
        assert!(former.len() == 1 && former[0].join("core/agent.db").exists(), "{former:?}");
        copy.run(&["verify"]);
    }
    // It is this machine now, and nothing more comes of it; nor of a machine-id that is not known.
    let [one, _] = &mut copies;
    for id in [COPY, "uninitialized"] {
        assert_eq!(one.stop(), Some(0));
        on_machine(one, id);
        one.resume();
        one.wait_until_ready();
    }
    assert_eq!((own_id(one), former_states(one).len()), (ids[0].clone(), 1));
    assert!(collector.finding("agent.cloned", "").is_none());
}

#[test]
fn an_enrolled_host_on_another_machine_keeps_its_identity_and_tells_so_once() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut agent = Agent::configure(&dir.path().join("host"), "");
    on_machine(&mut agent, ORIGINAL);
    assert_eq!(enroll(&agent, &[], &collector.token("acme")).0, Some(0));
    agent.resume();
    agent.wait_until_ready();
    let id = own_id(&agent);
    for _ in 0..2 {
        assert_eq!(agent.stop(), Some(0));
        on_machine(&mut agent, COPY);
        agent.resume();
        agent.wait_until_ready();
        let finding = collector.wait_finding("agent.cloned", "its machine-id is another");
        assert!(finding.to_string().contains(&id) && finding["severity"] == "high", "{finding}");
    }
    let told = agent.json(&["findings", "--rule", "agent.cloned"]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].to_string().contains("agent enroll --force"), "{told:?}");
    assert_eq!((own_id(&agent), former_states(&agent).len()), (id, 0));
}

/// A new identity could not give back what the old one holds.
#[test]
fn an_identity_is_not_replaced_while_the_agent_holds_something() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let operators = Operators::install(&collector, dir.path(), "acme");
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let id = own_id(&agent);
    let file = dir.path().join("evil");
    let digest = "b5c1fb2efc6d6b4674c2fdcc48ce01b43a3b7c03763c0c3355de0099ee0f8c73";
    let take = |agent: &Agent, name: &str| {
        std::fs::write(&file, "evil").unwrap();
        let words =
            ["quarantine-file", "--path", file.to_str().unwrap(), "--sha256", digest, "--lease", "1h"];
        operators.order(name, &[&words[..], &["--host", &id]].concat());
        wait_for("the file to be in custody", || {
            let status = agent.status()?;
            let acts = status.pointer("/commands/in_force").and_then(Value::as_array)?;
            (!acts.is_empty() && !file.exists()).then_some(())
        });
    };
    let fresh = collector.token("acme");
    let refused = |agent: &Agent| {
        let (code, said) = enroll(agent, &["--force"], &fresh);
        assert!(
            code == Some(2) && said.contains("quarantine-file (") && said.contains("agent release --all"),
            "{said}"
        );
        assert!(!file.exists() && own_id(agent) == id && former_states(agent).is_empty());
    };
    take(&agent, "take");
    refused(&agent);
    agent.run(&["release", "--all"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "evil");
    take(&agent, "take-again");
    agent.kill();
    refused(&agent);
    agent.run(&["release", "--offline"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "evil");
    // The token was not used by what was refused.
    let (code, said) = enroll(&agent, &["--force"], &fresh);
    assert_eq!(code, Some(0), "{said}");
    assert!(own_id(&agent) != id && former_states(&agent).len() == 1);
    agent.resume();
    agent.wait_until_ready();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "evil");
}
