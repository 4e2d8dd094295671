//! Many short-lived programs that each change one file, and whether the agent names every one of them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::agent::Agent;
use crate::wait_for_within;

/// Programs that may be waited for at once.
const CHILDREN_MAX: usize = 64;

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Named {
    /// Shells that ran.
    pub shells: usize,
    /// How many a second.
    pub rate: f64,
    /// Findings that name their own shell, in evidence and entities.
    pub right: usize,
    /// Findings that say that it is not known.
    pub unknown: usize,
    /// Findings that name anything else.
    pub wrong: usize,
}

impl Named {
    /// Per cent of the shells that were named.
    pub fn share(&self) -> f64 {
        self.right as f64 / self.shells.max(1) as f64 * 100.0
    }
}

/// Runs `count` times `sh -c 'echo x > f'`, each with a file of its own in the watched tree, `rate` a second, and reads
/// the sealed findings.
pub fn shells(agent: &Agent, count: usize, rate: u32) -> Named {
    let begin = Instant::now();
    let mut children = std::collections::VecDeque::new();
    for n in 0..count {
        let due = Duration::from_secs(1) / rate * u32::try_from(n).expect("a small number");
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
        let file = agent.watched().join(format!("by-{n:06}"));
        let command = format!("echo x > {}", file.display());
        let child = Command::new("/bin/sh").args(["-c", &command]).stdin(Stdio::null()).spawn();
        children.push_back(child.expect("a shell"));
        if children.len() > CHILDREN_MAX {
            children.pop_front().expect("a child").wait().expect("its end");
        }
    }
    for mut child in children {
        child.wait().expect("its end");
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    let limit = (count * 2).to_string();
    let findings = wait_for_within("a finding for every file", Duration::from_secs(120), || {
        let found = agent.json(&["findings", "--rule", "file.created", "--limit", &limit]);
        let found: Vec<Value> = found.into_iter().filter(|finding| file_of(finding).is_some()).collect();
        (found.len() >= count).then_some(found)
    });
    let mut named = Named { shells: count, rate, ..Named::default() };
    for finding in &findings {
        match judge(finding) {
            Some(true) => named.right += 1,
            Some(false) => named.wrong += 1,
            None => named.unknown += 1,
        }
    }
    named
}

fn body(finding: &Value) -> &Value {
    finding.get("body").unwrap_or(finding)
}

fn file_of(finding: &Value) -> Option<&str> {
    let path = text(body(finding), "/entities/0/path/text");
    path.rsplit('/').next().filter(|name| name.starts_with("by-"))
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Whether the finding names the very shell that wrote its file; none when it says that nobody is known.
fn judge(finding: &Value) -> Option<bool> {
    let (body, file) = (body(finding), file_of(finding)?);
    let actor = body.pointer("/evidence/actor")?;
    let line = text(actor, "/command_line/text");
    let entities = body.get("entities").and_then(Value::as_array);
    let entity = entities.into_iter().flatten().any(|entity| {
        text(entity, "/type") == "process"
            && entity.get("pid") == actor.get("pid")
            && entity.get("executable") == actor.get("executable")
    });
    let facts = ["started", "uid", "known_by", "parents"].iter().all(|fact| actor.get(*fact).is_some());
    let ran = line.starts_with("/bin/sh -c echo x > ") && line.ends_with(&format!("/{file}"));
    Some(ran && entity && facts && text(actor, "/executable/text").ends_with("sh"))
}
