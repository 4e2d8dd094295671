//! `agent replay` as a user runs it: recorded logs, exported journals, and logs that the real programs have just written.

mod hostile;
mod lab;
mod network;
mod ordinary;
mod programs;
mod raised;
mod recorded;
mod rules;
mod unpacked;
mod vpn;
mod web;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs the agent.
pub fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_agent"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the agent runs")
}

/// Runs the agent with something on its standard input.
pub fn agent_fed(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_agent"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the agent runs");
    let mut stdin = child.stdin.take().expect("its standard input");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("the agent ends");
    let written = writer.join().expect("the writer ends");
    assert!(written.is_ok() || !output.status.success(), "{written:?}");
    output
}

/// What it printed: one JSON object a line.
pub fn objects(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("a JSON object")).collect()
}

/// Replays a log by one parser, in JSON.
pub fn replay(log: &Path, parser: &str) -> Vec<Value> {
    objects(&agent(&["replay", "--log", log.to_str().expect("a path"), "--parser", parser, "--json"]))
}

/// A field of an object, as text; empty when it has none.
pub fn field(object: &Value, name: &str) -> String {
    match object.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// Events as `line event user address`.
pub fn events(objects: &[Value]) -> Vec<String> {
    let events = objects.iter().filter(|object| object.get("event").is_some());
    let words = ["line", "event", "user", "address"];
    events.map(|event| words.map(|word| field(event, word)).join(" ")).collect()
}
