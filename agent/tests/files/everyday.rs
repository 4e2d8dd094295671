//! What people and programs do all day, with the real tools: each change told once, by the right name, and none of it an
//! alarm.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::lab::{Lab, path, rule};
use crate::who::Table;

fn run(directory: &Path, program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env("HOME", directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Where no rule about temporary directories applies.
fn lab() -> Lab {
    Lab::on("fanotify", Path::new("/var/lib"))
}

/// The same where it is known who does what.
pub fn lab_that_knows_who() -> (Lab, Table) {
    let table = Table::start(&picket_agent::sense::processes::Tuning::default());
    let mut lab = lab();
    lab.processes = table.processes.clone();
    (lab, table)
}

/// Files with different content, in directories of fifty.
fn fill(directory: &Path, count: usize, version: &str) {
    for n in 0..count {
        let above = directory.join(format!("part{}", n / 50));
        fs::create_dir_all(&above).unwrap();
        fs::write(above.join(format!("file{n}.txt")), format!("{version} of file {n}\n").repeat(20)).unwrap();
    }
}

/// Every object that findings tell of, in whatever form, as path from the lab on and rule.
pub fn objects(lab: &Lab) -> Vec<(String, String)> {
    let root = format!("{}/", lab.directory.path().display());
    let findings = lab.findings.lock().unwrap();
    let mut told = Vec::new();
    for finding in findings.iter().filter(|finding| !rule(finding).starts_with("sensor.")) {
        let evidence = &finding["evidence"];
        let is_run = evidence.get("run").is_some();
        let lead = if is_run { evidence["fact"].as_str().unwrap() } else { rule(finding) };
        told.push((path(finding).replacen(&root, "", 1), lead.to_owned()));
        let usual = evidence["run"]["rule_of_objects"].as_str();
        let mut add = |path: &serde_json::Value, of: &serde_json::Value| {
            let path = path.as_str().unwrap().replacen(&root, "", 1);
            told.push((path, of["rule"].as_str().or(usual).unwrap().to_owned()));
        };
        let list = |name: &str| evidence[name].as_array().cloned().unwrap_or_default();
        list("also").iter().for_each(|also| add(&also["path"]["path"]["text"], also));
        list("objects").iter().for_each(|object| add(&object["path"], object));
    }
    told
}

/// Findings but those about the sensor itself.
pub fn count(lab: &Lab) -> usize {
    lab.findings.lock().unwrap().iter().filter(|finding| !rule(finding).starts_with("sensor.")).count()
}

/// Waits until what is told covers exactly `expected` (path from the lab on, and rule), each once, and nothing is worse
/// than low.
fn expect(lab: &Lab, case: &str, expected: &BTreeMap<String, &str>) {
    lab.wait(&format!("{case}: {} objects", expected.len()), |lab| objects(lab).len() >= expected.len());
    lab.scan();
    lab.wait(case, |lab| lab.arrived());
    let told = objects(lab);
    let once: BTreeMap<String, String> = told.iter().cloned().collect();
    assert_eq!(once.len(), told.len(), "{case}: told twice: {told:#?}");
    let as_named: BTreeMap<String, String> =
        expected.iter().map(|(path, rule)| (path.clone(), (*rule).to_owned())).collect();
    assert_eq!(once, as_named, "{case}");
    for finding in lab.findings.lock().unwrap().iter() {
        let severity = finding["severity"].as_str().unwrap();
        assert!(["info", "low"].contains(&severity), "{case}: {finding:#}");
    }
}

/// The same of programs that write a file of their own and move it to where the other was: that one may be told as well.
fn expect_edited(lab: &Lab, case: &str, expected: &BTreeMap<String, &str>) {
    lab.wait(case, |lab| {
        let told = objects(lab);
        expected.iter().all(|(path, rule)| told.contains(&(path.clone(), (*rule).to_owned())))
    });
    lab.forget_editors_own();
    expect(lab, case, expected);
}

/// The same, and that all of it is one finding with this title (where `{}` stands for the watched tree).
fn expect_one(lab: &Lab, case: &str, title: &str, expected: &BTreeMap<String, &str>) {
    expect(lab, case, expected);
    let findings = lab.findings.lock().unwrap();
    let titles: Vec<&str> = findings.iter().map(|finding| finding["title"].as_str().unwrap()).collect();
    assert_eq!(titles, [title.replace("{}", lab.tree().to_str().unwrap())], "{case}");
}

/// All that is below `directory`, as `rule`, by path from the lab on.
fn all<'a>(lab: &Lab, directory: &Path, rule: &'a str) -> BTreeMap<String, &'a str> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(above) = open.pop() {
        for entry in fs::read_dir(above).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
            let below = entry.path().strip_prefix(lab.directory.path()).unwrap().to_str().unwrap().to_owned();
            found.insert(below, rule);
        }
    }
    found
}

#[test]
fn a_deployment_by_rsync() {
    let (mut lab, _table) = lab_that_knows_who();
    fill(&lab.outside(), 500, "version 1");
    lab.start();
    run(&lab.outside(), "rsync", &["-a", "./", lab.tree().to_str().unwrap()]);
    let mut created = all(&lab, &lab.tree(), "file.created");
    expect_one(&lab, "first", "rsync created 510 objects below {}", &created);
    lab.forget();
    // Of another size: two writes within a second have the same time, as rsync sees it.
    fill(&lab.outside(), 500, "version two");
    run(&lab.outside(), "rsync", &["-a", "./", lab.tree().to_str().unwrap()]);
    created.retain(|path, rule| {
        *rule = "file.modified";
        path.ends_with(".txt")
    });
    expect_one(&lab, "second", "rsync modified 500 objects below {}", &created);
}

#[test]
fn a_checkout_by_git() {
    let (mut lab, _table) = lab_that_knows_who();
    let repository = lab.outside();
    let tree = lab.tree();
    let separate = format!("--git-dir={}/.git", repository.display());
    let work = format!("--work-tree={}", tree.display());
    let commit = ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-a", "-m", "t"];
    run(&repository, "git", &["init", "-q"]);
    fill(&repository, 120, "version 1");
    run(&repository, "git", &["add", "."]);
    run(&repository, "git", &commit);
    run(&repository, "git", &["tag", "one"]);
    fill(&repository, 120, "version 2");
    run(&repository, "git", &commit);
    run(&repository, "git", &[&separate, &work, "checkout", "-q", "-f", "one"]);
    lab.start();
    run(&repository, "git", &[&separate, &work, "checkout", "-q", "-f", "master"]);
    let mut expected = all(&lab, &tree, "file.modified");
    expected.retain(|path, _| path.ends_with(".txt"));
    expect_one(&lab, "checkout", "git modified 120 objects below {}", &expected);
}

#[test]
fn an_archive_unpacked_by_tar() {
    let (mut lab, _table) = lab_that_knows_who();
    fill(&lab.outside(), 500, "version 1");
    let old = fs::File::options().write(true).open(lab.outside().join("part0/file0.txt")).unwrap();
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    run(&lab.outside(), "tar", &["-cf", "../a.tar", "."]);
    lab.start();
    run(&lab.tree(), "tar", &["-xf", "../a.tar"]);
    expect_one(&lab, "tar", "tar created 510 objects below {}", &all(&lab, &lab.tree(), "file.created"));
}

#[test]
fn directories_copied_and_removed_as_a_whole() {
    let (mut lab, _table) = lab_that_knows_who();
    fill(&lab.outside(), 200, "version 1");
    let tree = lab.tree();
    fill(&tree.join("old"), 200, "version 1");
    lab.start();
    run(&lab.outside(), "cp", &["-r", ".", tree.join("new").to_str().unwrap()]);
    let mut created = all(&lab, &tree.join("new"), "file.created");
    created.insert("tree/new".to_owned(), "file.created");
    expect_one(&lab, "cp", "cp created 205 objects below {}", &created);
    lab.forget();
    run(&tree, "chmod", &["-R", "go-rwx", "old"]);
    let mut changed = all(&lab, &tree.join("old"), "file.attributes");
    changed.insert("tree/old".to_owned(), "file.attributes");
    expect_one(&lab, "chmod", "chmod changed attributes of 205 objects below {}", &changed);
}

#[test]
fn who_is_not_known_is_told_file_by_file() {
    let mut lab = lab();
    fill(&lab.outside(), 60, "version 1");
    lab.start();
    run(&lab.outside(), "rsync", &["-a", "./", lab.tree().to_str().unwrap()]);
    let created = all(&lab, &lab.tree(), "file.created");
    expect(&lab, "unknown", &created);
    assert_eq!(count(&lab), created.len());
}

#[test]
fn logs_rotated_by_logrotate() {
    let (mut lab, _table) = lab_that_knows_who();
    let log = lab.tree().join("app.log");
    fs::write(&log, "a line of the log\n".repeat(1_000)).unwrap();
    let rules = format!("{} {{\n rotate 3\n create 0640 root root\n su root root\n}}\n", log.display());
    fs::write(lab.outside().join("rules"), rules).unwrap();
    lab.start();
    run(&lab.outside(), "logrotate", &["-f", "-s", "state", "rules"]);
    lab.wait("the rotation", |lab| objects(lab).len() >= 2);
    // Whether the sensor looks between the renaming and the new log's coming is a matter of microseconds.
    let looked_between = objects(&lab).contains(&("tree/app.log.1".to_owned(), "file.moved".to_owned()));
    let rules =
        if looked_between { ["file.created", "file.moved"] } else { ["file.modified", "file.created"] };
    let paths = ["tree/app.log".to_owned(), "tree/app.log.1".to_owned()];
    expect(&lab, "logrotate", &paths.into_iter().zip(rules).collect());
    assert_eq!(count(&lab), 1, "one run, one finding");
}

#[test]
fn a_certificate_renewed_by_a_swap_of_links() {
    let mut lab = lab();
    let tree = lab.tree();
    fs::create_dir_all(tree.join("archive/a")).unwrap();
    fs::create_dir_all(tree.join("live/a")).unwrap();
    fs::write(tree.join("archive/a/cert1.pem"), "one").unwrap();
    symlink("../../archive/a/cert1.pem", tree.join("live/a/cert.pem")).unwrap();
    lab.start();
    fs::write(tree.join("archive/a/cert2.pem"), "two").unwrap();
    run(&tree.join("live/a"), "ln", &["-sfn", "../../archive/a/cert2.pem", "cert.pem"]);
    let expected = [
        ("tree/archive/a/cert2.pem".to_owned(), "file.created"),
        ("tree/live/a/cert.pem".to_owned(), "file.modified"),
    ];
    // ln makes the new link under a name of its own and moves it, which may be seen.
    expect_edited(&lab, "renewal", &expected.into_iter().collect());
}

/// Looked at between its writing and its move, as on a busy machine, it is told once; here its writer has longer than any such pause.
#[test]
fn what_by_its_name_is_about_to_be_moved_into_place_is_told_once() {
    let mut lab = lab();
    let tree = lab.tree();
    lab.tuning.creation = Duration::from_secs(60);
    fs::write(tree.join("file"), "one\n").unwrap();
    lab.start();
    for own in ["sedAbC123", ".file.x0Y9z8"] {
        lab.forget();
        let before = lab.counter("examined");
        fs::write(tree.join(own), format!("by {own}\n")).unwrap();
        lab.wait("its own file to be looked at", |lab| lab.counter("examined") > before);
        fs::rename(tree.join(own), tree.join("file")).unwrap();
        lab.expect(own, &[("file.modified", "tree/file")]);
    }
}

#[test]
fn files_edited_by_vim_and_sed() {
    let mut lab = lab();
    let tree = lab.tree();
    for name in ["by-vim", "by-sed"] {
        fs::write(tree.join(name), "one\n").unwrap();
    }
    lab.start();
    run(&tree, "sed", &["-i", "s/one/two/", "by-sed"]);
    run(&tree, "vim.tiny", &["-u", "NONE", "-e", "-s", "-c", "%s/one/two/", "-c", "wq", "by-vim"]);
    let expected = [("tree/by-sed".to_owned(), "file.modified"), ("tree/by-vim".to_owned(), "file.modified")];
    expect_edited(&lab, "editors", &expected.into_iter().collect());
}

#[test]
fn an_account_made_by_useradd() {
    let mut lab = lab();
    let tree = lab.tree();
    fs::create_dir(tree.join("etc")).unwrap();
    for name in ["passwd", "shadow", "group", "gshadow"] {
        fs::copy(Path::new("/etc").join(name), tree.join("etc").join(name)).unwrap();
    }
    // Locks stand as long as the disk takes, and may be seen.
    lab.config.exclude = vec!["**/*.lock".to_owned()];
    lab.start();
    run(
        &tree,
        "useradd",
        &[
            "--prefix",
            tree.to_str().unwrap(),
            "--no-create-home",
            "--user-group",
            "--uid",
            "4711",
            "picket-test",
        ],
    );
    let modified = ["passwd", "shadow", "group", "gshadow"];
    let mut expected = all(&lab, &tree.join("etc"), "file.created");
    expected.retain(|path, _| !path.ends_with(".lock"));
    for name in modified {
        expected.insert(format!("tree/etc/{name}"), "file.modified");
    }
    expect_edited(&lab, "useradd", &expected);
}
