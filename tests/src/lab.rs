//! The laboratory of `tests/lab` in a test: a network of namespaces with an agent on its victim, attacked by real programs.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::{program, wait_for};

/// A laboratory of its own, taken down when dropped.
pub struct Lab(String);

impl Lab {
    /// Brings it up, with lines that are added to the agent's configuration, and waits until the agent has listened for a while: it
    /// takes every answer as asked for until then.
    pub fn up(name: &str, more: &str) -> Self {
        let lab = Self(format!("{name}-{}", std::process::id()));
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("more.toml");
        std::fs::write(&file, more).expect("a configuration");
        lab.run(&["up", "--config", &file.display().to_string()]);
        lab.wait_until_it_has_listened();
        lab
    }

    /// Stops the agent and starts it again, and waits as [`Lab::up`] does.
    pub fn restart_agent(&self) {
        self.run(&["restart-agent"]);
        self.wait_until_it_has_listened();
    }

    fn wait_until_it_has_listened(&self) {
        wait_for("the agent to have listened for some seconds", || {
            let status = self.json(&["status"]).into_iter().next()?;
            // Where nobody answers, the status says just that.
            (status.get("uptime_seconds").and_then(Value::as_u64)? >= 6).then_some(())
        });
    }

    /// `tests/lab`, for this laboratory.
    pub fn command(&self) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("lab"));
        let programs = program("agent");
        command.args(["--name", &self.0]).env("PICKET_BIN_DIR", programs.parent().expect("a directory"));
        command
    }

    /// Runs `tests/lab ARGUMENTS…`, which must succeed.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let out = self.command().args(arguments).output().expect("tests/lab");
        assert!(
            out.status.success(),
            "tests/lab {arguments:?}: {}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        out
    }

    /// An attack that lasts four seconds.
    pub fn attack(&self, kind: &str) {
        self.run(&["attack", kind, "--seconds", "4"]);
    }

    /// What a command of the agent says.
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let out = self.command().arg("agent").args(arguments).arg("--json").output().expect("tests/lab");
        serde_json::Deserializer::from_slice(&out.stdout).into_iter().map_while(Result::ok).collect()
    }

    /// All findings whose rules begin with one of these, each as it was told last.
    pub fn findings(&self, rules: &[&str]) -> Vec<Value> {
        let records = self.json(&["findings", "--limit", "1000"]);
        let mut findings: Vec<Value> = Vec::new();
        for mut record in records {
            let Some(body) = record.get_mut("body").map(Value::take) else { continue };
            let rule = body.get("rule").and_then(Value::as_str).unwrap_or_default();
            if rules.iter().any(|begin| rule.starts_with(begin)) {
                findings.retain(|other| other.get("id") != body.get("id"));
                findings.push(body);
            }
        }
        findings
    }

    /// Waits for a finding.
    pub fn told(&self, rule: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("{rule}; told was {:#?}", self.findings(&[""])), || {
            self.findings(&[rule]).into_iter().find(&is)
        })
    }

    /// A counter of a sensor; 0 when there is none.
    pub fn counter(&self, sensor: &str, name: &str) -> u64 {
        // That nobody answers is not that it is none.
        let counters = wait_for("the sensor's counters", || {
            let status = self.json(&["status"]).into_iter().next()?;
            status.pointer(&format!("/sensors/{sensor}/counters")).cloned()
        });
        counters.get(name).and_then(Value::as_u64).unwrap_or(0)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What is left over is taken down with the machine.
        let _down = self.command().arg("down").output();
    }
}
