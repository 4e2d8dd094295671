//! What operators order of accounts, processes and files of a host: a real user who comes over a real sshd, real programs, real
//! files, and a host that is afterwards as it was before.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use picket_tests::collector::Collector;
use picket_tests::host::Host;
use picket_tests::named::began;
use picket_tests::operators::Operators;
use picket_tests::process::Running;
use picket_tests::{wait_for, wait_for_within};
use serde_json::Value;

/// A user, an sshd for him, and what is not his.
const PREPARE: &str = "
useradd --create-home --shell /bin/bash --uid $FRIDA frida
useradd --create-home --shell /bin/bash --uid $GERD gerd
printf 'frida:%s\\n' $(head -c 12 /dev/urandom | base64) | chpasswd
ssh-keygen -q -t ed25519 -N '' -f /run/host_key
ssh-keygen -q -t ed25519 -N '' -f /run/user_key
for user in frida gerd; do
  install -d -m 700 -o $user -g $user /home/$user/.ssh
  install -m 600 -o $user -g $user /run/user_key.pub /home/$user/.ssh/authorized_keys
done
mkdir -p /run/sshd
printf 'Port 22\\nListenAddress 127.0.0.1\\nHostKey /run/host_key\\nPidFile /run/sshd.pid\\nUsePAM yes\\n' >/run/sshd_config
";

/// One visit a line: who, and what is done. `stay` comes and stays.
const SERVER: &str = r#"
ip link set lo up
/usr/sbin/sshd -D -f /run/sshd_config &
sshd=$!
for i in $(seq 1000); do (: </dev/tcp/127.0.0.1/22) 2>/dev/null && break; sleep 0.01; done
echo ready
come() {
  ssh -i /run/user_key -o BatchMode=yes -o ConnectTimeout=10 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "$@" </dev/null >/run/out 2>&1
}
while read -r how user line; do
  result=0
  case $how in
    key) come "$user@127.0.0.1" "$line" || result=$? ;;
    stay) come "$user@127.0.0.1" "$line" & ;;
  esac
  if [ "$result" -eq 0 ]; then echo done; else echo "failed: $(tr '\n' ' ' </run/out)"; fi
done
kill "$sshd"
kill $(jobs -p) 2>/dev/null
"#;

struct Lab<'a> {
    frida: u32,
    gerd: u32,
    host: Host,
    collector: &'a Collector,
    operators: Operators<'a>,
    agent: Option<Running>,
    server: Child,
    input: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl<'a> Lab<'a> {
    /// With two user numbers that no other test has, nor another run on this machine: what runs as them is stopped.
    fn start(dir: &std::path::Path, collector: &'a Collector, number: u32) -> Self {
        let frida = 20_000 + (std::process::id() % 6_000) * 6 + 2 * number;
        let operators = Operators::install(collector, dir, "acme");
        let host = Host::new();
        host.shell(&format!("FRIDA={frida}\nGERD={}\n{PREPARE}", frida + 1));
        // What the agent watches is of no matter here, and is little.
        host.shell("mkdir -p /srv/watched; sed -i '/^.logins/i [files]\\ntrees = [\"/srv/watched\"]\\nlogs = []\\n[commands]\\nallow = [\"freeze-account\", \"end-sessions\", \"freeze-process\", \"kill-process\", \"quarantine-file\", \"restore-file\", \"assess\", \"preserve\"]\\n[network]\\nenabled = false\\n[neighbours]\\nenabled = false' /tmp/agent/agent.toml");
        let out = host
            .command("/tmp/agent/agent")
            .args(["--config", "/tmp/agent/agent.toml", "enroll"])
            .arg(collector.token("acme"))
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let mut command = host.command("unshare");
        command.args(["--net", "/bin/bash", "-c", SERVER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let mut answers = BufReader::new(server.stdout.take().unwrap());
        let input = server.stdin.take();
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let mut lab =
            Self { frida, gerd: frida + 1, host, collector, operators, agent: None, server, input, answers };
        lab.resume();
        lab
    }

    fn resume(&mut self) {
        let mut command = self.host.command("/tmp/agent/agent");
        command.args(["--config", "/tmp/agent/agent.toml", "run"]);
        self.agent = Some(Running::start("agent", &mut command, &self.host.log()));
        wait_for("the agent to be connected", || {
            let status = self.host.json(&["status"]).into_iter().next()?.to_string();
            // A sensor that is starting takes what a log holds by then for read.
            (status.contains("\"connected\":true") && !status.contains("\"state\":\"starting\""))
                .then_some(())
        });
    }

    /// Somebody comes; whether it was let in.
    fn visit(&mut self, how: &str, user: &str, command: &str) -> Result<(), String> {
        writeln!(self.input.as_mut().unwrap(), "{how} {user} {command}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        if line == "done\n" { Ok(()) } else { Err(line) }
    }

    /// Has an operator order it of this host; gives the command's id.
    fn order(&self, name: &str, args: &[&str]) -> String {
        let status = self.host.json(&["status"]).into_iter().next().unwrap();
        let host = status["agent"].as_str().unwrap().to_owned();
        let path = self.operators.write(name, &[args, &["--host", &host]].concat());
        self.operators.sign(&path, "alice");
        let sent = self.collector.soc_json(&["send", &path]);
        sent[0]["id"].as_str().unwrap().to_owned()
    }

    /// The same of a playbook.
    fn play(&self, name: &str, args: &[&str]) -> String {
        let status = self.host.json(&["status"]).into_iter().next().unwrap();
        let host = status["agent"].as_str().unwrap().to_owned();
        let path = self.operators.write_playbook(name, &[args, &["--host", &host]].concat());
        self.operators.sign(&path, "alice");
        let sent = self.collector.soc_json(&["send", &path]);
        sent[0]["id"].as_str().unwrap().to_owned()
    }

    fn wait(&self, command: &str, outcome: &str) -> Value {
        wait_for(&format!("{outcome} of {command}"), || {
            let receipts = self.collector.soc_json(&["receipts", "--command", command, "--full"]);
            let last = receipts.iter().find(|receipt| receipt["outcome"] == outcome).cloned();
            let failed = receipts
                .iter()
                .find(|receipt| ["failed", "refused"].contains(&receipt["outcome"].as_str().unwrap()));
            assert!(last.is_some() || failed.is_none(), "{failed:#?}");
            last
        })
    }

    /// Waits until who came to stay has come.
    fn wait_session(&self, uid: u32) {
        let is_sleep = |pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program.ends_with("sleep"))
        };
        wait_for("a session", || processes_of(uid).iter().any(is_sleep).then_some(()));
    }

    fn shadow(&self) -> String {
        self.host.shell("cat /etc/shadow; stat -c '%u %g %a' /etc/shadow")
    }

    fn release(&self, command: &str) {
        self.host.agent_run(&["release", command]);
        self.wait(command, "released");
    }
}

impl Drop for Lab<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.host.log()).unwrap_or_default();
            eprintln!("{}", log.get(log.len().saturating_sub(4_096)..).unwrap_or(&log));
        }
        drop(self.input.take());
        for uid in [self.frida, self.gerd] {
            for pid in processes_of(uid) {
                let _gone =
                    std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status().is_err();
            }
        }
        let _ended = self.server.wait().is_ok();
    }
}

/// Those that run as `uid`, and how they are.
fn states_of(uid: u32) -> Vec<(u32, char)> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let state = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start);
        let is_theirs = field("Uid:")?.split_whitespace().next()? == uid.to_string();
        let state = field("State:")?.chars().next()?;
        (is_theirs && state != 'Z').then_some((pid, state))
    };
    pids.filter_map(state).collect()
}

fn processes_of(uid: u32) -> Vec<u32> {
    states_of(uid).into_iter().map(|(pid, _)| pid).collect()
}

fn all_stand_still(uid: u32) -> bool {
    let states = states_of(uid);
    !states.is_empty() && states.iter().all(|(_, state)| *state == 'T')
}

fn none_stands_still(uid: u32) -> bool {
    let states = states_of(uid);
    !states.is_empty() && states.iter().all(|(_, state)| *state != 'T')
}

#[test]
fn a_frozen_account_lets_nobody_in_and_is_afterwards_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut lab = Lab::start(dir.path(), &collector, 0);
    lab.visit("key", "frida", "true").unwrap();
    lab.visit("stay", "frida", "sleep 600").unwrap();
    lab.wait_session(lab.frida);
    let before = lab.shadow();
    let command = lab.order("freeze", &["freeze-account", "--user", "frida", "--lease", "1h"]);
    let confirmed = lab.wait(&command, "confirmed");
    assert!(all_stand_still(lab.frida), "{confirmed}: {:?}", states_of(lab.frida));
    let during = lab.shadow();
    let differ: Vec<(&str, &str)> =
        before.lines().zip(during.lines()).filter(|(one, other)| one != other).collect();
    assert_eq!(differ.len(), 1, "{differ:?}");
    assert!(differ[0].1.starts_with("frida:") && differ[0].1.ends_with("::1:"), "{differ:?}");
    lab.visit("key", "frida", "true").expect_err("a key does not get around it");
    lab.visit("key", "gerd", "true").expect("others come as before");
    // Root starts something as her: it stands still as well.
    lab.host.shell(&format!(
        "setpriv --reuid {} --clear-groups sleep 601 </dev/null >/dev/null 2>&1 &",
        lab.frida
    ));
    wait_for("all to stand still again", || {
        (states_of(lab.frida).len() > 2 && all_stand_still(lab.frida)).then_some(())
    });
    wait_for("the record of it", || {
        let records = lab.host.json(&["findings", "--all", "--limit", "1000"]);
        records.into_iter().find(|record| {
            let title = record["body"]["title"].as_str().unwrap_or_default();
            record["body"]["event"] == "action-restored"
                && title.contains("that freeze-account keeps still ran")
        })
    });
    // Another order about the same, which ends first.
    let second = lab.order("second", &["freeze-account", "--user", "frida", "--lease", "1h"]);
    lab.wait(&second, "confirmed");
    lab.release(&command);
    assert!(all_stand_still(lab.frida) && lab.shadow() == during, "{:?}", states_of(lab.frida));
    lab.release(&second);
    wait_for("all to go on", || none_stands_still(lab.frida).then_some(()));
    assert_eq!(lab.shadow(), before);
    lab.visit("key", "frida", "true").unwrap();

    // Whom the host needs is refused.
    for (user, why) in [("root", "is root"), ("daemon", "service"), ("eve", "no account")] {
        let command = lab.order(user, &["freeze-account", "--user", user, "--lease", "1h"]);
        let failed = wait_for("the answer", || {
            let receipts = lab.collector.soc_json(&["receipts", "--command", &command]);
            receipts.into_iter().find(|receipt| receipt["outcome"] == "failed")
        });
        assert!(failed["title"].as_str().unwrap().contains(why), "{failed}");
    }
    assert_eq!(lab.shadow(), before);

    // Her sessions end, others' do not.
    lab.visit("stay", "gerd", "sleep 600").unwrap();
    lab.wait_session(lab.gerd);
    let there = processes_of(lab.frida);
    let plan = lab.order("plan", &["end-sessions", "--user", "frida", "--dry-run"]);
    let told = lab.wait(&plan, "applied");
    let data = told.pointer("/body/detail/plan/data").unwrap();
    assert!(data["ends"].as_u64().unwrap() >= 2 && data["uid"] == lab.frida, "{told}");
    assert!(told["title"].as_str().unwrap().contains("is ended, for good"), "{told}");
    assert_eq!(processes_of(lab.frida), there, "nobody was ended: {told}");
    let ended = lab.order("end", &["end-sessions", "--user", "frida"]);
    let applied = lab.wait(&ended, "applied");
    assert!(applied["body"]["detail"]["ended"].as_u64().unwrap() >= 2, "{applied}");
    // What root started as her belongs to no session of hers.
    wait_for("her sessions to be gone", || (processes_of(lab.frida).len() <= 1).then_some(()));
    assert!(!processes_of(lab.gerd).is_empty());
    lab.visit("key", "frida", "true").unwrap();
}

#[test]
fn a_lease_that_ends_while_the_agent_is_dead_is_undone_at_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut lab = Lab::start(dir.path(), &collector, 1);
    lab.visit("stay", "frida", "sleep 600").unwrap();
    lab.wait_session(lab.frida);
    let before = lab.shadow();
    lab.host.shell("printf 'evil\\n' >/home/frida/x; chown frida:frida /home/frida/x; chmod 4751 /home/frida/x; touch -d @1234567890.123456789 /home/frida/x");
    let file = lab.host.shell("stat -c '%u %g %a %.Y' /home/frida/x; cat /home/frida/x");
    let sum = lab.host.shell("sha256sum /home/frida/x");
    let sha256 = sum.split_whitespace().next().unwrap();
    let take = ["quarantine-file", "--path", "/home/frida/x", "--sha256", sha256];
    let freeze = lab.order("freeze", &["freeze-account", "--user", "frida", "--lease", "30s"]);
    let taken = lab.order("take", &[&take[..], &["--lease", "30s"]].concat());
    let began = Instant::now();
    lab.wait(&freeze, "confirmed");
    lab.wait(&taken, "confirmed");
    lab.agent.take().unwrap().kill();
    assert!(all_stand_still(lab.frida) && lab.shadow() != before);
    lab.host.shell("test ! -e /home/frida/x");
    let over = Duration::from_secs(32).saturating_sub(began.elapsed());
    std::thread::sleep(over);
    lab.resume();
    lab.wait(&freeze, "expired");
    lab.wait(&taken, "expired");
    assert_eq!(lab.shadow(), before);
    assert_eq!(lab.host.shell("stat -c '%u %g %a %.Y' /home/frida/x; cat /home/frida/x"), file);
    wait_for("all to go on", || none_stands_still(lab.frida).then_some(()));

    // And one that goes on over the agent's death, until somebody wants the file back.
    let taken = lab.order("again", &[&take[..], &["--lease", "1h"]].concat());
    lab.wait(&taken, "confirmed");
    lab.agent.take().unwrap().kill();
    lab.resume();
    lab.host.shell("test ! -e /home/frida/x");
    let back = lab.order("back", &["restore-file", "--command", &taken]);
    lab.wait(&back, "applied");
    lab.wait(&taken, "released");
    assert_eq!(lab.host.shell("stat -c '%u %g %a %.Y' /home/frida/x; cat /home/frida/x"), file);
}

#[test]
fn a_process_is_stopped_and_killed_as_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut lab = Lab::start(dir.path(), &collector, 2);
    lab.visit("stay", "gerd", "sleep 602; true").unwrap();
    let pid = wait_for("his shell", || {
        processes_of(lab.gerd)
            .into_iter()
            .find(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("bash")))
    });
    lab.wait_session(lab.gerd);
    let started = began(pid);
    let sum = lab.host.shell("sha256sum /bin/bash");
    let sha256 = sum.split_whitespace().next().unwrap();
    let pid = pid.to_string();
    let process = ["--pid", &pid, "--started", &started, "--sha256", sha256];
    let frozen = lab.order("stop", &[&["freeze-process"][..], &process, &["--lease", "1h"]].concat());
    let confirmed = lab.wait(&frozen, "confirmed");
    let stopped = states_of(lab.gerd).iter().filter(|(_, state)| *state == 'T').count();
    assert_eq!(stopped, 2, "the shell and its sleep: {confirmed}");
    lab.release(&frozen);
    wait_for("all to go on", || none_stands_still(lab.gerd).then_some(()));
    let killed = lab.order("kill", &[&["kill-process"][..], &process].concat());
    lab.wait(&killed, "applied");
    let pid: u32 = pid.parse().unwrap();
    wait_for("it to be gone", || (!processes_of(lab.gerd).contains(&pid)).then_some(()));
}

#[test]
fn a_stolen_account_is_contained_by_its_playbook_and_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut lab = Lab::start(dir.path(), &collector, 2);
    // The thief is in, and one who has nothing to do with it as well.
    lab.visit("stay", "frida", "sleep 603").unwrap();
    lab.visit("stay", "gerd", "sleep 603").unwrap();
    lab.wait_session(lab.frida);
    lab.wait_session(lab.gerd);
    let before = lab.shadow();
    let set = ["--set", "user=frida", "--set", "evidence=processes,logins", "--lease", "1h"];
    let command = lab.play("stolen", &[&["contain-stolen-account"][..], &set].concat());
    let whole = wait_for_within("the last word", Duration::from_secs(180), || {
        let receipts = lab.collector.soc_json(&["receipts", "--command", &command, "--full"]);
        receipts.into_iter().find(|receipt| {
            receipt["body"]["step"].is_null()
                && ["confirmed", "failed"].contains(&receipt["outcome"].as_str().unwrap())
        })
    });
    assert_eq!(whole["outcome"], "confirmed", "{whole}");
    assert!(whole["title"].as_str().unwrap().contains("4 succeeded"), "{whole}");
    lab.visit("key", "frida", "true").expect_err("her key does not let the thief in again");
    lab.visit("key", "gerd", "true").unwrap();
    wait_for("the thief's sessions to end", || processes_of(lab.frida).is_empty().then_some(()));
    assert!(!processes_of(lab.gerd).is_empty());
    lab.release(&command);
    assert_eq!(lab.shadow(), before);
    lab.visit("key", "frida", "true").unwrap();
}

/// Passwords are guessed from one address until one of them is right, as sshd logs it.
fn guess_right(lab: &Lab<'_>, user: &str) {
    let date = lab.host.shell("date '+%b %e %H:%M:%S'");
    let line = |what: &str, number: u32| {
        let port = 40_000 + number;
        format!(
            "{} victim sshd[{}]: {what} password for {user} from 192.0.2.77 port {port} ssh2\n",
            date.trim(),
            4_000 + number
        )
    };
    let mut lines: String = (0..12).map(|number| line("Failed", number)).collect();
    lines.push_str(&line("Accepted", 12));
    lab.host.write("/run/lines", lines.as_bytes());
    lab.host.shell("cat /run/lines >>/var/log/auth.log");
}

#[test]
fn an_account_whose_password_was_guessed_is_frozen_where_the_owner_wants_it() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut lab = Lab::start(dir.path(), &collector, 1);
    let policy = "[automatic]\nmode = \"on\"\nbuilt_in = [\"freeze-broken-account\"]\n";
    lab.host.write("/tmp/agent/policy.toml", policy.as_bytes());
    lab.agent.take().unwrap().stop();
    lab.resume();
    lab.visit("stay", "frida", "sleep 604").unwrap();
    lab.wait_session(lab.frida);
    let before = lab.shadow();
    // Root is not frozen, whoever guessed right.
    guess_right(&lab, "root");
    guess_right(&lab, "frida");
    let act = wait_for("the freeze", || {
        let status = lab.host.json(&["status"]).into_iter().next()?;
        let acts = status.pointer("/commands/in_force")?.as_array()?.clone();
        acts.into_iter().find(|act| act["phase"] == "confirmed")
    });
    assert!(act["action"] == "freeze-account" && act["plan"].to_string().contains("frida"), "{act}");
    assert!(act["reason"].to_string().contains("finding"), "{act}");
    assert!(all_stand_still(lab.frida), "{:?}", states_of(lab.frida));
    lab.visit("key", "frida", "true").expect_err("nobody gets in as her");
    lab.visit("key", "gerd", "true").expect("others come as before");
    wait_for("root's finding", || {
        let records = lab.host.json(&["findings", "--rule", "login.success-after-failures"]);
        records.into_iter().find(|record| record.to_string().contains("root logged in"))
    });
    let shadow = lab.shadow();
    let differ: Vec<_> = before.lines().zip(shadow.lines()).filter(|(one, other)| one != other).collect();
    assert!(differ.len() == 1 && differ[0].1.starts_with("frida:"), "{differ:?}");
    lab.host.agent_run(&["release", "--all"]);
    wait_for("all to go on", || none_stands_still(lab.frida).then_some(()));
    assert_eq!(lab.shadow(), before);
    lab.visit("key", "frida", "true").unwrap();
}
