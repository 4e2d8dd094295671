//! Break-ins by real tools at a real ssh server, as the agent tells of them.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use picket_tests::agent::Agent;
use picket_tests::ssh::SshHost;
use picket_tests::wait_for;
use serde_json::Value;

struct Lab {
    _dir: tempfile::TempDir,
    ssh: SshHost,
    agent: Agent,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ssh = SshHost::start(&dir.path().join("ssh"));
        let host = dir.path().join("host");
        std::fs::create_dir_all(&host).unwrap();
        std::os::unix::fs::symlink(ssh.auth_log(), host.join("auth.log")).unwrap();
        let mut agent = Agent::configure(&host, "");
        agent.resume();
        wait_for("the login sensor", || {
            let status = agent.status()?;
            (status.pointer("/sensors/logins/state")? == "running").then_some(())
        });
        Self { _dir: dir, ssh, agent }
    }

    /// The newest finding under `rule` whose title has `words`.
    fn told(&self, rule: &str, words: &str) -> Value {
        wait_for(&format!("{rule} with {words:?}"), || {
            let found = self.agent.json(&["findings", "--rule", rule]);
            let fits = |record: &Value| record.to_string().contains(words);
            found.into_iter().rev().find(fits)
        })
    }

    fn count(&self, rule: &str) -> usize {
        self.agent.json(&["findings", "--rule", rule]).len()
    }
}

#[test]
fn hydra_and_medusa_are_told_as_what_they_do() {
    let mut lab = Lab::new();
    // One who mistypes and gets in is nobody to tell of.
    lab.ssh.fail("demo");
    lab.ssh.log_in();
    lab.told("login.success", "demo");
    assert_eq!(lab.count("login.success-after-failures") + lab.count("login.brute-force"), 0);

    lab.ssh.guess(6, "medusa");
    let alarm = lab.told("login.brute-force", "from 127.0.0.1").to_string();
    assert!(alarm.contains("\"places\"") && alarm.contains("\"threshold\":5"), "{alarm}");

    lab.ssh.spray(9);
    lab.told("login.enumeration", "127.0.0.1 tries which accounts there are");
    lab.told("login.spray", "127.0.0.1 tries ");

    lab.ssh.guess_right(5);
    let broken = lab.told("login.success-after-failures", "demo logged in from 127.0.0.1").to_string();
    assert!(broken.contains("\"critical\"") && broken.contains("T1110"), "{broken}");
}
