//! Operators with keys of their own, and the trust root that says what their signatures are worth.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::collector::Collector;
use crate::process::stdout_of;
use crate::{program, wait_for};

/// What they may order.
const ACTIONS: [&str; 19] = [
    "advise",
    "scan",
    "drill",
    "isolate",
    "isolate-unit",
    "close-port",
    "block",
    "rate-limit",
    "pin-neighbour",
    "freeze-account",
    "end-sessions",
    "freeze-process",
    "kill-process",
    "quarantine-file",
    "restore-file",
    "assess",
    "watch-closely",
    "restore",
    "preserve",
];

/// `alice` and `bob`: one signature for one host, both for up to ten.
pub struct Operators<'a> {
    collector: &'a Collector,
    dir: PathBuf,
}

impl<'a> Operators<'a> {
    /// Makes their keys below `dir`, and installs a trust root for `tenant` that both sign.
    pub fn install(collector: &'a Collector, dir: &Path, tenant: &str) -> Self {
        Self::install_for(collector, dir, tenant, 10)
    }

    /// The same, with two signatures for up to `hosts`.
    pub fn install_for(collector: &'a Collector, dir: &Path, tenant: &str, hosts: u32) -> Self {
        let operators = Self { collector, dir: dir.to_owned() };
        for name in ["alice", "bob"] {
            soc(&["keygen", "--name", name, "--out", &operators.key(name)]);
        }
        let evidence = soc(&["evidence", "keygen", "--out", &operators.identity(), "--json"]);
        let evidence: Value = serde_json::from_str(&evidence).expect("a recipient");
        let recipient = evidence.get("recipient").and_then(Value::as_str).expect("a recipient").to_owned();
        let root = operators.path("root.json");
        let (alice, bob) = (operators.key("alice") + ".pub", operators.key("bob") + ".pub");
        let keys = ["--key", &alice, "--key", &bob];
        let actions: Vec<&str> = ACTIONS.iter().flat_map(|action| ["--action", *action]).collect();
        let both = format!("2={hosts}");
        let evidence = ["--evidence-recipient", &recipient];
        let bounds = ["--hosts", "1=1", "--hosts", &both, "--root-threshold", "2", "-o", &root];
        soc(&[&["trust", "new", "--tenant", tenant][..], &keys, &actions, &evidence, &bounds].concat());
        operators.sign(&root, "alice");
        operators.sign(&root, "bob");
        collector.run("trust", &["install", &root]);
        operators
    }

    /// Writes an unsigned command `soc command new ARGS…` to a file, and gives its path.
    pub fn write(&self, name: &str, args: &[&str]) -> String {
        let path = self.path(&format!("{name}.json"));
        let why = ["--reason", "the test's", "--ticket", "T-1", "-o", &path];
        self.collector.soc(&[&["command", "new"][..], args, &why].concat());
        path
    }

    /// The same of a playbook: `soc playbook run ARGS…`.
    pub fn write_playbook(&self, name: &str, args: &[&str]) -> String {
        let path = self.path(&format!("{name}.json"));
        let why = ["--reason", "the test's", "--ticket", "T-1", "-o", &path];
        self.collector.soc(&[&["playbook", "run"][..], args, &why].concat());
        path
    }

    /// Adds the signature of `name`.
    pub fn sign(&self, path: &str, name: &str) {
        soc(&["sign", path, "--key", &self.key(name), "--yes"]);
    }

    /// Writes, signs as alice and sends.
    pub fn order(&self, name: &str, args: &[&str]) {
        let path = self.write(name, args);
        self.sign(&path, "alice");
        self.collector.soc(&["send", &path]);
    }

    /// Waits for a receipt, with its body, that `is_meant`.
    pub fn wait_receipt(&self, what: &str, is_meant: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || {
            self.collector.soc_json(&["receipts", "--full"]).into_iter().find(|receipt| is_meant(receipt))
        })
    }

    /// Opens the evidence of this tenant's hosts.
    pub fn identity(&self) -> String {
        self.path("evidence.key")
    }

    fn key(&self, name: &str) -> String {
        self.path(&format!("{name}.key"))
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().expect("a path of ours").to_owned()
    }
}

fn soc(args: &[&str]) -> String {
    stdout_of(Command::new(program("soc")).args(args))
}
