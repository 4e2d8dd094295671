//! Who made a change: named although gone, on the real kernel; and said to be unknown where it is.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use picket_agent::sense::processes::{self, Processes, Tuning};
use picket_agent::sense::{SensorHandle, SensorStatus};
use picket_agent::sys::Stop;
use serde_json::Value;

use crate::lab::{Lab, path, rule};

/// A process table on its own.
pub struct Table {
    pub processes: Processes,
    pub status: SensorStatus,
    handle: Option<SensorHandle>,
    stop: Stop,
}

impl Table {
    pub fn start(tuning: &Tuning) -> Self {
        let (status, stop) = (SensorStatus::default(), Stop::new().unwrap());
        let (handle, processes) = processes::start(tuning, &status, &stop).unwrap();
        Self { processes, status, handle: Some(handle), stop }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(handle) = self.handle.take() {
            handle.join();
        }
    }
}

fn lab_with(best: &str) -> (Lab, Table) {
    let table = Table::start(&Tuning { best: Some(best.to_owned()), ..Tuning::default() });
    assert_eq!(table.status.report().rung, best, "{:?}", table.status.report());
    let mut lab = Lab::new("fanotify");
    lab.processes = table.processes.clone();
    lab.start();
    (lab, table)
}

/// Runs `count` shells that each write one file and end, `rate` of them a second, and gives the findings by file name.
fn shells(lab: &Lab, count: usize, rate: u32) -> Vec<(String, Value)> {
    let begin = Instant::now();
    let mut children = Vec::new();
    for n in 0..count {
        let due = Duration::from_secs(1) / rate * u32::try_from(n).unwrap();
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
        let command = format!("echo x > {}/f{n}", lab.tree().display());
        children.push(Command::new("/bin/sh").args(["-c", &command]).stdin(Stdio::null()).spawn().unwrap());
        if let Some(mut child) = (children.len() > 64).then(|| children.remove(0)) {
            assert!(child.wait().unwrap().success());
        }
    }
    children.into_iter().for_each(|mut child| assert!(child.wait().unwrap().success()));
    let spent = begin.elapsed();
    lab.wait("all files", |lab| lab.paths("file.created").len() >= count);
    println!("{count} shells in {:.1} s: {:.0}/s", spent.as_secs_f64(), count as f64 / spent.as_secs_f64());
    let findings = lab.findings.lock().unwrap();
    let created = findings.iter().filter(|finding| rule(finding) == "file.created");
    created.map(|finding| (path(finding).rsplit('/').next().unwrap().to_owned(), finding.clone())).collect()
}

/// Whether the finding names the shell that wrote this very file, in its evidence and among its entities.
fn names_its_shell(name: &str, finding: &Value) -> bool {
    let actor = &finding["evidence"]["actor"];
    let line = actor["command_line"]["text"].as_str().unwrap_or_default();
    let shell = actor["executable"]["text"].as_str().unwrap_or_default();
    let entity = finding["entities"].as_array().unwrap().iter().any(|entity| {
        entity["type"] == "process"
            && entity["pid"] == actor["pid"]
            && entity["executable"]["text"] == actor["executable"]["text"]
    });
    line.starts_with("/bin/sh -c echo x > ")
        && line.ends_with(&format!("/{name}"))
        && (shell == "/usr/bin/dash" || shell == "/bin/dash")
        && entity
}

#[test]
fn by_bpf_nearly_every_short_shell_is_named_with_what_it_ran() {
    let (lab, table) = lab_with("bpf");
    let count = 1_500;
    let found = shells(&lab, count, 500);
    let named = found.iter().filter(|(name, finding)| names_its_shell(name, finding)).count();
    println!(
        "bpf: {named} of {count} named = {:.2} %; {:?}",
        named as f64 / count as f64 * 100.0,
        table.status.report().counters
    );
    let wrong = found.iter().find(|(name, finding)| !names_its_shell(name, finding));
    assert!(named * 1_000 >= count * 995, "{named} of {count}; such as {wrong:#?}");
    // Never somebody else's name: a finding names its own shell, or nobody.
    for (name, finding) in &found {
        let nobody =
            finding["evidence"]["actor"].is_null() && !finding["evidence"]["actor_unknown"].is_null();
        assert!(names_its_shell(name, finding) || nobody, "{finding:#}");
    }
}
