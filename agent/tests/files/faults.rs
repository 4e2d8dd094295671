//! Races, overflows, restarts, odd files and odd trees.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use picket_agent::sense::files::ScanError;
use ring::digest;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use crate::filesystems::in_namespace;
use crate::lab::{Lab, PATIENCE, rule};

/// A file that was found before it was written is told again when it is; nothing else may come.
fn each_created_once(lab: &Lab, count: usize) {
    let created = lab.paths("file.created");
    let mut distinct = created.clone();
    distinct.dedup();
    assert_eq!((created.len(), distinct.len()), (count, count));
    assert_eq!(lab.seen().len(), count + lab.paths("file.modified").len());
}

fn new_directories_race(rung: &str) {
    let mut lab = Lab::new(rung);
    lab.start();
    for number in 0..300 {
        let deep = lab.tree().join(format!("r{number}/b/c"));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("f"), "x").unwrap();
    }
    lab.wait("300 files in new directories", |lab| lab.paths("file.created").len() >= 1_200);
    lab.wait("the last looks", |lab| lab.counter("pending") == 0);
    assert_eq!(lab.scan().changed, 0);
    each_created_once(&lab, 1_200);
}

#[test]
fn fanotify_loses_no_file_in_a_new_directory() {
    new_directories_race("fanotify");
}

#[test]
fn inotify_loses_no_file_in_a_new_directory() {
    new_directories_race("inotify");
}

fn full_set(rung: &str) {
    let mut lab = Lab::new(rung);
    lab.tuning.dirty_paths_max = 16;
    for number in 0..20 {
        fs::create_dir(lab.tree().join(format!("d{number}"))).unwrap();
    }
    lab.start();
    for number in 0..600 {
        fs::write(lab.tree().join(format!("d{}/{number}", number % 20)), "x").unwrap();
    }
    lab.wait("600 files through a set of 16", |lab| lab.paths("file.created").len() >= 600);
    lab.wait("the last looks", |lab| lab.counter("pending") == 0);
    assert_eq!(lab.scan().changed, 0);
    each_created_once(&lab, 600);
    lab.wait("the count of folded marks", |lab| lab.counter("collapsed") > 0);
}

#[test]
fn fanotify_gets_coarser_when_the_set_is_full_and_forgets_nothing() {
    full_set("fanotify");
}

#[test]
fn inotify_gets_coarser_when_the_set_is_full_and_forgets_nothing() {
    full_set("inotify");
}

#[test]
fn what_the_kernel_lost_is_found_by_a_rescan_and_told() {
    let mut lab = Lab::on("fanotify", Path::new("/dev/shm"));
    lab.start();
    lab.unread(|| {
        Lab::flood(&lab.tree());
        (0..500).for_each(|number| fs::write(lab.tree().join(number.to_string()), "").unwrap());
    });
    lab.wait("the files", |lab| lab.seen().len() >= 500);
    lab.wait("the overflow", |lab| {
        lab.findings.lock().unwrap().iter().any(|finding| rule(finding) == "sensor.overflow")
    });
    assert_eq!(lab.scan().changed, 0);
    assert_eq!(lab.paths("file.created").len(), 500);
    lab.wait("the count of rescans", |lab| lab.counter("rescans") > 0);
}

fn restart(rung: &str) {
    let mut lab = Lab::new(rung);
    fs::write(lab.tree().join("a"), "one").unwrap();
    fs::write(lab.tree().join("b"), "two").unwrap();
    fs::write(lab.tree().join("c"), "three").unwrap();
    lab.start();
    lab.stop();
    fs::write(lab.tree().join("a"), "changed while nobody watched").unwrap();
    fs::rename(lab.tree().join("b"), lab.tree().join("bb")).unwrap();
    fs::write(lab.tree().join("new"), "new").unwrap();
    lab.start();
    lab.expect(
        "restart",
        &[("file.modified", "tree/a"), ("file.moved", "tree/bb"), ("file.created", "tree/new")],
    );
    let finding = lab.finding("file.modified", "tree/a");
    let evidence = &finding["evidence"];
    assert_eq!(evidence["seen_by"], "rescan");
    assert!(evidence["window"]["from"].as_str() < evidence["window"]["to"].as_str());
    assert_eq!(
        evidence["before"]["sha256"],
        "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    );
    assert_eq!(evidence["changed"], serde_json::json!(["content", "time"]));
}

#[test]
fn fanotify_finds_what_changed_while_the_agent_was_down() {
    restart("fanotify");
}

#[test]
fn inotify_finds_what_changed_while_the_agent_was_down() {
    restart("inotify");
}

#[test]
fn what_was_not_committed_before_a_kill_is_told_after_the_restart() {
    let mut lab = Lab::new("fanotify");
    lab.start();
    lab.lose.store(true, std::sync::atomic::Ordering::Relaxed);
    fs::write(lab.tree().join("a"), "one").unwrap();
    lab.wait("the lost finding", |lab| lab.counter("findings") >= 1);
    lab.stop();
    lab.lose.store(false, std::sync::atomic::Ordering::Relaxed);
    lab.start();
    lab.expect("kill", &[("file.created", "tree/a")]);
}

#[test]
fn a_directory_removed_with_all_in_it_accounts_for_each() {
    let mut lab = Lab::new("fanotify");
    let tree = lab.tree();
    fs::create_dir_all(tree.join("d/e")).unwrap();
    for number in 0..400 {
        fs::write(tree.join(format!("d/e/{number}")), "x").unwrap();
    }
    lab.start();
    fs::remove_dir_all(tree.join("d")).unwrap();
    let accounted = |lab: &Lab| {
        let findings = lab.findings.lock().unwrap();
        let count =
            |finding: &serde_json::Value| 1 + finding["evidence"]["beneath_count"].as_u64().unwrap_or(0);
        // An alarm that so many were deleted comes some seconds later, and accounts for none.
        findings.iter().filter(|finding| rule(finding) == "file.deleted").map(count).sum::<u64>()
    };
    lab.wait("402 objects gone", |lab| accounted(lab) >= 402);
    assert_eq!(lab.scan().changed, 0);
    assert_eq!(accounted(&lab), 402);
    assert!(lab.paths("file.created").is_empty());
}

#[test]
fn a_large_file_is_told_at_once_and_hashed_later() {
    let mut lab = Lab::new("fanotify");
    lab.config.hash_bytes_max = 1_000;
    lab.start();
    let big = lab.tree().join("big");
    fs::write(&big, "x".repeat(5_000)).unwrap();
    lab.wait("created", |lab| lab.seen().len() == 1);
    let created = lab.finding("file.created", "tree/big");
    assert!(created["evidence"]["after"]["content_note"].as_str().unwrap().starts_with("pending"));
    let hashed = |lab: &Lab| {
        let held = lab.rows().get("/big").and_then(|row| row.3.clone()).unwrap_or_default();
        held.starts_with(digest::digest(&digest::SHA256, &fs::read(&big).unwrap()).as_ref())
    };
    lab.wait("the hash", hashed);
    fs::write(&big, "y".repeat(5_000)).unwrap();
    lab.wait("modified", |lab| lab.seen().len() == 2);
    let modified = lab.finding("file.modified", "tree/big");
    let evidence = &modified["evidence"];
    assert!(evidence["before"]["sha256"].is_string() && evidence["after"]["sha256"].is_null(), "{evidence}");
    lab.wait("the hash", hashed);
    assert_eq!(lab.scan().changed, 0);
    assert_eq!(lab.seen().len(), 2, "the hash of what was told already is no news");
}

/// Nobody hashes so much within a test: what is told is told by the sample, or by the whole where that is small.
#[test]
fn a_change_of_a_huge_file_is_told_without_reading_it() {
    let mut lab = Lab::on("fanotify", Path::new("/var/tmp"));
    lab.config.hash_bytes_max = 1_000;
    let huge = fs::File::create(lab.tree().join("huge")).unwrap();
    let size = 300 << 30;
    huge.set_len(size).unwrap();
    lab.start();
    for (turn, at) in [0, size - 1, 65_535].into_iter().enumerate() {
        huge.write_all_at(b"x", at).unwrap();
        lab.wait("the change", |lab| lab.paths("file.modified").len() == turn + 1);
    }
    lab.scan();
    assert_eq!(lab.seen().len(), 3);
    fs::File::options().write(true).open(lab.tree().join("huge")).unwrap().set_len(size + 1).unwrap();
    lab.wait("another size", |lab| lab.paths("file.modified").len() == 4);
    lab.wait("quiet", |lab| lab.counter("large_waiting") == 0 && lab.scan().changed == 0);
    assert_eq!(lab.seen().len(), 4);
}

#[test]
fn a_growing_log_is_not_hashed_all_the_time() {
    let mut lab = Lab::new("fanotify");
    let log = lab.tree().join("log");
    fs::write(&log, "").unwrap();
    lab.start();
    let mut text = String::new();
    let mut writes = 0;
    // Until most looks were put off, however fast this machine is.
    lab.wait("looks that are put off", |lab| {
        text.push_str("one more line\n");
        fs::write(&log, &text).unwrap();
        writes += 1;
        lab.counter("paced") >= 4
    });
    let told = lab.seen().len();
    assert!((4..=20).contains(&told) && told < writes, "{told} of {writes}");
    // A scan that is asked for does not wait.
    lab.scan();
    lab.wait("the last state", |lab| {
        let (_, size, ..) = lab.rows()["/log"];
        usize::try_from(size).unwrap() == text.len()
    });
}

#[test]
fn a_tree_that_comes_later_or_again_is_news() {
    for rung in ["fanotify", "inotify", "scan"] {
        let mut lab = Lab::new(rung);
        let later = lab.tree().join("not/yet");
        lab.config.trees = vec![later.clone()];
        lab.start();
        fs::create_dir_all(&later).unwrap();
        fs::write(later.join("f"), "x").unwrap();
        lab.expect(rung, &[("file.created", "tree/not/yet"), ("file.created", "tree/not/yet/f")]);
        lab.forget();
        fs::remove_dir_all(&later).unwrap();
        lab.wait("gone", |lab| lab.paths("file.deleted").contains(&"tree/not/yet".to_owned()));
        lab.forget();
        fs::create_dir_all(&later).unwrap();
        lab.expect(rung, &[("file.created", "tree/not/yet")]);
    }
}

#[test]
fn a_tree_given_by_a_link_is_watched_with_the_link() {
    let mut lab = Lab::new("fanotify");
    let link = lab.outside().join("link");
    std::os::unix::fs::symlink(lab.tree(), &link).unwrap();
    lab.config.trees = vec![link.clone()];
    lab.start();
    fs::write(lab.tree().join("f"), "x").unwrap();
    fs::write(lab.outside().join("not watched"), "x").unwrap();
    lab.expect("link", &[("file.created", "tree/f")]);
    assert!(lab.scanner().scan(&[link.join("f")], PATIENCE, |_| {}).is_ok());
}

#[test]
fn what_is_excluded_is_not_told_and_leaves_the_baseline() {
    let mut lab = Lab::new("fanotify");
    fs::create_dir(lab.tree().join("cache")).unwrap();
    fs::write(lab.tree().join("cache/old"), "x").unwrap();
    lab.start();
    lab.stop();
    lab.config.exclude = vec![format!("{}/cache", lab.tree().display()), "**/*.swp".to_owned()];
    lab.start();
    fs::write(lab.tree().join("cache/new"), "x").unwrap();
    fs::write(lab.tree().join(".f.swp"), "x").unwrap();
    fs::write(lab.tree().join("f"), "x").unwrap();
    lab.expect("exclude", &[("file.created", "tree/f")]);
    lab.stop();
    assert_eq!(lab.rows().keys().collect::<Vec<_>>(), ["", "/f"]);
}

#[test]
fn a_name_that_is_not_text_is_told_byte_for_byte() {
    let mut lab = Lab::new("fanotify");
    lab.start();
    let path = lab.tree().join(std::ffi::OsStr::from_bytes(b"\xff\xfe\n"));
    fs::write(&path, "x").unwrap();
    lab.wait("created", |lab| lab.seen().len() == 1);
    let findings = lab.findings.lock().unwrap();
    let text: picket_protocol::finding::Text =
        serde_json::from_value(findings[0]["entities"][0]["path"].clone()).unwrap();
    assert_eq!(text.to_bytes(), path.as_os_str().as_bytes());
    assert!(!findings[0]["title"].as_str().unwrap().contains('\n'));
}

fn deeper_than_path_max(rung: &str) {
    let mut lab = Lab::new(rung);
    let name = "n".repeat(200);
    let mut at = openat(CWD, lab.tree(), OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..25 {
        mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = openat(&at, &name, OFlags::PATH, Mode::empty()).unwrap();
    }
    lab.start();
    let file = openat(&at, "deep", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"x").unwrap();
    drop(file);
    lab.wait("the deep file", |lab| lab.paths("file.created").iter().any(|path| path.ends_with("/deep")));
    assert_eq!(lab.scan().changed, 0);
    assert_eq!(lab.seen().len(), 1);
}

#[test]
fn fanotify_sees_what_lies_deeper_than_path_max() {
    deeper_than_path_max("fanotify");
}

#[test]
fn scan_sees_what_lies_deeper_than_path_max() {
    deeper_than_path_max("scan");
}

#[test]
fn a_scan_takes_watched_paths_only_and_keeps_its_deadline() {
    let mut lab = Lab::new("fanotify");
    lab.start();
    let scan = |path: &Path, limit| lab.scanner().scan(&[path.to_path_buf()], limit, |_| {});
    assert_eq!(scan(&lab.outside(), PATIENCE), Err(ScanError::NotWatched(lab.outside())));
    let dotted = lab.tree().join("../outside");
    assert_eq!(scan(&dotted, PATIENCE), Err(ScanError::NotWatched(dotted)));
    assert!(matches!(scan(Path::new("tree"), PATIENCE), Err(ScanError::NotWatched(_))));
    assert_eq!(lab.scanner().scan(&[], PATIENCE, |_| {}), Err(ScanError::PathCount));
    for number in 0..2_000 {
        fs::write(lab.tree().join(number.to_string()), "x").unwrap();
    }
    assert!(matches!(scan(&lab.tree(), Duration::ZERO), Err(ScanError::Deadline(_))));
    assert!(scan(&lab.tree(), PATIENCE).is_ok());
}

#[test]
fn a_changed_file_is_found_by_the_command_with_its_name() {
    let mut lab = Lab::new("scan");
    lab.config.scan_interval = Duration::from_secs(3_600);
    fs::write(lab.tree().join("a"), "one").unwrap();
    lab.start();
    fs::write(lab.tree().join("a"), "two").unwrap();
    let summary = lab.scan();
    assert_eq!((summary.changed, summary.errors), (1, 0));
    lab.wait("arrival", |lab| lab.seen().len() == 1);
    assert_eq!(lab.finding("file.modified", "tree/a")["evidence"]["seen_by"], "command");
}

/// Runs the test again without a capability that the best rung needs.
#[test]
fn a_rung_that_is_refused_is_told_with_its_reason() {
    if std::env::var_os("WITHOUT_CAPABILITY").is_none() {
        let status = Command::new("setpriv")
            .args(["--bounding-set", "-sys_admin"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "faults::a_rung_that_is_refused_is_told_with_its_reason", "--nocapture"])
            .env("WITHOUT_CAPABILITY", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let mut lab = Lab::new("scan");
    lab.config.rung = None;
    lab.start();
    let report = lab.status().report();
    assert_eq!(report.rung, "fanotify-inode");
    assert!(report.reason.contains("fanotify is refused: fanotify_mark"), "{}", report.reason);
    lab.wait("the finding", |lab| {
        lab.findings.lock().unwrap().iter().any(|finding| rule(finding) == "sensor.degraded")
    });
    fs::write(lab.tree().join("f"), "x").unwrap();
    lab.expect("without the capability", &[("file.created", "tree/f")]);
}

fn mount(arguments: &[&str], point: &Path) {
    let status = Command::new("mount").args(arguments).arg(point).status().unwrap();
    assert!(status.success());
}

#[test]
fn mounts_in_a_tree_are_followed_unless_they_are_made_up() {
    if !in_namespace("faults::mounts_in_a_tree_are_followed_unless_they_are_made_up") {
        return;
    }
    let mut lab = Lab::new("fanotify");
    let (point, made_up) = (lab.tree().join("mnt"), lab.tree().join("proc"));
    fs::create_dir(&point).unwrap();
    fs::create_dir(&made_up).unwrap();
    fs::write(point.join("hidden"), "x").unwrap();
    mount(&["-t", "proc", "proc"], &made_up);
    lab.start();
    mount(&["-t", "tmpfs", "tmpfs"], &point);
    lab.wait("the mount", |lab| lab.paths("file.deleted").contains(&"tree/mnt/hidden".to_owned()));
    fs::write(point.join("on the mount"), "x").unwrap();
    lab.wait("a file on it", |lab| lab.paths("file.created").contains(&"tree/mnt/on the mount".to_owned()));
    assert!(lab.rows().keys().all(|path| !path.starts_with("/proc/")));
    // Nothing of the sensor's keeps the administrator from unmounting.
    // Save for the moment in which it reads a file there.
    lab.wait("the file system to be let go", |_| {
        Command::new("umount").arg(&point).status().unwrap().success()
    });
    lab.wait("the unmount", |lab| lab.paths("file.created").contains(&"tree/mnt/hidden".to_owned()));
}

#[test]
fn a_bind_mount_shows_changes_made_on_the_other_side() {
    if !in_namespace("faults::a_bind_mount_shows_changes_made_on_the_other_side") {
        return;
    }
    let mut lab = Lab::new("fanotify");
    let point: PathBuf = lab.tree().join("bound");
    fs::create_dir(&point).unwrap();
    fs::create_dir(lab.outside().join("source")).unwrap();
    mount(&["--bind", lab.outside().join("source").to_str().unwrap()], &point);
    lab.start();
    fs::write(lab.outside().join("source/f"), "x").unwrap();
    lab.expect("bind", &[("file.created", "tree/bound/f")]);
}
