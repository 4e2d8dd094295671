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
    let entity = finding["entities"].as_array().unwrap().iter().any(|entity| {
        entity["type"] == "process"
            && entity["pid"] == actor["pid"]
            && entity["executable"]["text"] == actor["executable"]["text"]
    });
    line.starts_with("/bin/sh -c echo x > ")
        && line.ends_with(&format!("/{name}"))
        && is_its_shell(&actor["executable"])
        && entity
}

fn is_its_shell(executable: &Value) -> bool {
    ["/usr/bin/dash", "/bin/dash"].contains(&executable["text"].as_str().unwrap_or_default())
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

#[test]
fn by_proc_who_is_gone_is_said_to_be_gone_and_never_another() {
    let (lab, _table) = lab_with("proc");
    let found = shells(&lab, 200, 500);
    let (mut named, mut partly, mut gone) = (0, 0, 0);
    for (name, finding) in &found {
        match finding["evidence"].get("actor") {
            Some(actor) if names_its_shell(name, finding) => {
                assert_eq!(actor["known_by"], "proc");
                named += 1;
            }
            // It ended while it was looked at: number, user and parents are there, and its own program or none.
            Some(actor) => {
                let own = is_its_shell(&actor["executable"]) || actor["executable"].is_null();
                assert!(actor["command_line"].is_null() && own, "{finding:#}");
                partly += 1;
            }
            None => {
                assert_eq!(finding["evidence"]["actor_unknown"], "process-gone", "{finding:#}");
                gone += 1;
            }
        }
    }
    println!("proc: {named} named, {partly} without all of their program, {gone} said to be gone");
    assert_eq!(named + partly + gone, 200);
}

#[test]
fn by_the_connector_none_is_named_wrongly() {
    let (lab, _table) = lab_with("connector");
    let found = shells(&lab, 300, 300);
    let named = found.iter().filter(|(name, finding)| names_its_shell(name, finding)).count();
    println!("connector: {named} of 300 named");
    for (name, finding) in &found {
        let line = &finding["evidence"]["actor"]["command_line"];
        assert!(names_its_shell(name, finding) || line.is_null(), "{finding:#}");
    }
}

#[test]
fn without_a_table_or_after_the_fact_it_is_said_why_nobody_is_named() {
    let mut lab = Lab::new("fanotify");
    lab.start();
    std::fs::write(lab.tree().join("a"), "x").unwrap();
    lab.wait("a", |lab| lab.paths("file.created") == ["tree/a"]);
    let evidence = lab.finding("file.created", "tree/a")["evidence"].clone();
    assert_eq!(
        (&evidence["actor"], &evidence["actor_unknown"]),
        (&Value::Null, &"rung-does-not-tell".into())
    );
    lab.stop();
    std::fs::write(lab.tree().join("b"), "x").unwrap();
    lab.start();
    lab.wait("b", |lab| lab.paths("file.created") == ["tree/a", "tree/b"]);
    let evidence = lab.finding("file.created", "tree/b")["evidence"].clone();
    assert_eq!((&evidence["actor"], &evidence["actor_unknown"]), (&Value::Null, &"found-by-looking".into()));
}

/// Runs a program to its end and gives its number.
fn run(program: &str, arguments: &[&str]) -> u32 {
    let mut child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    assert!(child.wait().unwrap().success(), "{program} {arguments:?}");
    pid
}

fn actor(lab: &Lab, rule: &str, name: &str) -> Value {
    let path = format!("tree/{name}");
    lab.wait(&format!("{rule} {path}"), |lab| lab.paths(rule).contains(&path));
    lab.finding(rule, &path)["evidence"]["actor"].clone()
}

#[test]
fn whatever_is_done_to_a_file_is_done_by_somebody() {
    let (lab, _table) = lab_with("bpf");
    let tree = lab.tree();
    let at = |name: &str| tree.join(name).to_str().unwrap().to_owned();
    let expect = |rule: &str, name: &str, pid: u32, program: &str| {
        let actor = actor(&lab, rule, name);
        assert_eq!(actor["pid"], pid, "{rule} {name}: {actor:#}");
        assert!(actor["executable"]["text"].as_str().unwrap().ends_with(program), "{actor:#}");
        assert_eq!(
            (&actor["uid"], actor["parents"][0]["pid"].as_u64()),
            (&0.into(), Some(std::process::id().into()))
        );
    };
    let pid = run("cp", &["/etc/passwd", &at("c")]);
    expect("file.created", "c", pid, "/cp");
    let pid = run("touch", &[&at("a")]);
    expect("file.created", "a", pid, "/touch");
    let pid = run("chmod", &["600", &at("a")]);
    expect("file.attributes", "a", pid, "/chmod");
    let pid = run("mv", &[&at("a"), &at("b")]);
    expect("file.moved", "b", pid, "/mv");
    let pid = run("ln", &["-s", "/x", &at("link")]);
    expect("file.created", "link", pid, "/ln");
    let pid = run("sed", &["-i", "s/^/x/", &at("c")]);
    expect("file.modified", "c", pid, "/sed");
    let pid = run("rm", &[&at("b")]);
    expect("file.deleted", "b", pid, "/rm");
    // What comes in a new directory, and what is moved in with its directory.
    let pid = run("mkdir", &["-p", &at("d/e/f")]);
    expect("file.created", "d/e/f", pid, "/mkdir");
    std::fs::create_dir(lab.outside().join("old")).unwrap();
    std::fs::write(lab.outside().join("old/file"), "x").unwrap();
    // Events are resolved to where the object is by then: those about its writing must be over.
    std::fs::write(tree.join("marker"), "x").unwrap();
    actor(&lab, "file.created", "marker");
    let pid = run("mv", &[lab.outside().join("old").to_str().unwrap(), &at("old")]);
    expect("file.created", "old/file", pid, "/mv");
}

#[test]
fn a_subshell_is_named_by_its_program_and_a_changed_user_by_what_he_is_when_he_writes() {
    let (lab, _table) = lab_with("bpf");
    std::os::unix::fs::chown(lab.tree(), Some(61_234), None).unwrap();
    std::fs::set_permissions(lab.directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let sub = lab.tree().join("sub");
    run("/bin/sh", &["-c", &format!("(echo x > {}; :); :", sub.display())]);
    let named = actor(&lab, "file.created", "sub");
    assert!(
        named["command_line"]["text"].as_str().unwrap_or_default().starts_with("/bin/sh -c (echo"),
        "{named:#}"
    );
    assert!(named["parents"][0]["executable"]["text"].as_str().unwrap().ends_with("sh"), "{named:#}");
    // No other program is run: the kernel tells of the new user only when the process ends.
    let script = format!("$< = $> = 61234; open(F, '>', '{}/perl') or die; close F;", lab.tree().display());
    run("perl", &["-e", &script]);
    let named = actor(&lab, "file.created", "perl");
    assert_eq!((&named["uid"], &named["effective_uid"]), (&61_234.into(), &Value::Null), "{named:#}");
    assert!(named["executable"]["text"].as_str().unwrap().contains("perl"), "{named:#}");
    // One that lives on is looked up as it is.
    let script =
        format!("$> = 61234; open(F, '>', '{}/alive') or die; close F; sleep 60;", lab.tree().display());
    let mut child = Command::new("perl").args(["-e", &script]).spawn().unwrap();
    let named = actor(&lab, "file.created", "alive");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((&named["uid"], &named["effective_uid"]), (&0.into(), &61_234.into()), "{named:#}");
}

#[test]
fn a_program_without_a_name_and_a_container_are_told_as_such() {
    let (lab, _table) = lab_with("bpf");
    let program = lab.outside().join("gone");
    std::fs::copy("/bin/sh", &program).unwrap();
    let script = format!(
        "exec 3< {0}; rm {0}; exec /proc/self/fd/3 -c 'echo x > {1}/by-gone'",
        program.display(),
        lab.tree().display()
    );
    run("/bin/sh", &["-c", &script]);
    let named = actor(&lab, "file.created", "by-gone");
    assert_eq!(named["executable_deleted"], true, "{named:#}");
    assert_eq!(named["executable"]["text"], program.to_str().unwrap(), "{named:#}");

    let Some(group) = Group::new() else {
        println!("no control groups here: containers are not shown");
        return;
    };
    let script = format!(
        "echo $$ > {}/cgroup.procs; exec /bin/sh -c 'echo x > {}/inside'",
        group.0.display(),
        lab.tree().display()
    );
    run("/bin/sh", &["-c", &script]);
    let named = actor(&lab, "file.created", "inside");
    assert_eq!(named["container"], "docker:0123456789ab", "{named:#}");
}

/// A control group as a container manager would make it.
struct Group(std::path::PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let root = roots.iter().find(|root| std::path::Path::new(root).join("cgroup.procs").exists())?;
        let id = format!("0123456789ab{:052x}", std::process::id());
        let path = std::path::Path::new(root).join(format!("docker-{id}.scope"));
        std::fs::create_dir(&path).ok()?;
        Some(Self(path))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let deadline = Instant::now() + crate::lab::PATIENCE;
        while std::fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn lost_records_make_the_table_start_anew_and_never_name_a_wrong_one() {
    let tuning = Tuning { ring_bytes: Some(4_096), ..Tuning::default() };
    let table = Table::start(&tuning);
    assert_eq!(table.status.report().rung, "bpf", "{:?}", table.status.report());
    let mut lab = Lab::new("fanotify");
    lab.processes = table.processes.clone();
    lab.start();
    // Nobody takes up anything meanwhile, save the table's own thread.
    let children: Vec<_> = (0..200)
        .map(|n| {
            let command =
                format!("for i in 1 2 3 4 5; do /bin/true; done; echo x > {}/f{n}", lab.tree().display());
            Command::new("/bin/sh").args(["-c", &command]).stdin(Stdio::null()).spawn().unwrap()
        })
        .collect();
    children.into_iter().for_each(|mut child| assert!(child.wait().unwrap().success()));
    lab.wait("all files", |lab| lab.paths("file.created").len() >= 200);
    table.processes.catch_up();
    println!("{:?}", table.status.report().counters);
    for (name, finding) in lab.findings.lock().unwrap().iter().map(|finding| (path(finding), finding)) {
        let line = finding["evidence"]["actor"]["command_line"]["text"].as_str();
        let name = name.rsplit('/').next().unwrap();
        assert!(line.is_none_or(|line| line.ends_with(&format!("/{name}"))), "{finding:#}");
    }
}
