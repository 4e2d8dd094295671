//! The truth under stress, on every file system that a server has: each test makes one on a loop device (or in
//! memory) in a mount namespace of its own and does there what editors, packagers and intruders do. On each of ext4, xfs,
//! btrfs, tmpfs, overlay, and overlay with exported handles:
//!
//! | hard case | where |
//! |---|---|
//! | replaced while it is hashed | `Stage::replaced_while_hashed` |
//! | vim, `sed -i`, atomic rename, truncation | `Stage::editors`; the real vim in `everyday` and `edits` |
//! | hard links, link swaps | `Stage::links` |
//! | written through a map; by io_uring | `Stage::maps`; `Stage::ring` |
//! | sparse and huge | `Stage::huge`; 300 GiB in `faults` |
//! | FIFOs, devices, sockets, names of any bytes | `Stage::odd_objects` |
//! | paths of 4,096 and deeper | `Stage::deep` |
//! | directories moved in and out with all beneath | `Stage::moves` |
//! | unmount while scanning | `unmount_while_scanning` |
//! | changed and changed back; came and went | `Missed::reverted` |
//! | the kernel's queue overflows | `Missed::overflow` |
//! | the sensor restarts, the agent is down, is killed, is upgraded | `Missed::down` |
//! | each everyday change once, by its name | `everyday` |
//!
//! An upgrade is, to the sensor, a restart with the rows of the version before: those of an older format are in `ledger`'s and
//! the packages' tests.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat};

use crate::cases;
use crate::lab::{Lab, PATIENCE};

/// Runs the test again in a mount namespace of its own, where it finds `IN_NAMESPACE` set.
pub fn in_namespace(test: &str) -> bool {
    if std::env::var_os("IN_NAMESPACE").is_some() {
        return true;
    }
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("IN_NAMESPACE", "1")
        .status()
        .unwrap();
    assert!(status.success());
    false
}

pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file system of that kind, mounted; unmounted with the namespace.
fn make(kind: &str, directory: &Path) -> PathBuf {
    let point = directory.join("mount");
    fs::create_dir(&point).unwrap();
    mount(kind, directory, &point);
    point
}

/// One of that kind at `point`; what it is made of lies in `directory`.
fn mount(kind: &str, directory: &Path, point: &Path) {
    let image = directory.join("image");
    match kind {
        "tmpfs" => run("mount", &["-t", "tmpfs", "-o", "size=400m", "tmpfs", text(point)]),
        "overlay" | "overlay-export" => {
            // Upper and work directories must not lie on an overlay, as /tmp may.
            let base = directory.join("layers");
            fs::create_dir(&base).unwrap();
            run("mount", &["-t", "tmpfs", "-o", "size=400m", "tmpfs", text(&base)]);
            for name in ["lower", "upper", "work"] {
                fs::create_dir(base.join(name)).unwrap();
            }
            let export = if kind == "overlay" { "index=off" } else { "index=on,nfs_export=on" };
            let options =
                format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work,{export}", text(&base));
            run("mount", &["-t", "overlay", "overlay", "-o", &options, text(point)]);
        }
        _ => {
            File::create(&image).unwrap().set_len(512 << 20).unwrap();
            let quiet = if kind == "ext4" { "-q" } else { "-f" };
            run(&format!("mkfs.{kind}"), &[quiet, text(&image)]);
            run("mount", &["-o", "loop", text(&image), text(point)]);
        }
    }
}

/// A lab on a file system of that kind, with the best rung that works there.
fn lab_on(kind: &str, directory: &tempfile::TempDir) -> Lab {
    let mut lab = Lab::on("auto", &make(kind, &directory.path().canonicalize().unwrap()));
    lab.config.rung = None;
    lab
}

fn odd_writes(directory: &Path) -> PathBuf {
    let program = directory.join("odd_writes");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/files/odd_writes.c");
    run("cc", &["-O1", "-o", text(&program), source]);
    program
}

struct Stage {
    lab: Lab,
    tree: PathBuf,
    tools: PathBuf,
}

impl Stage {
    fn write(&self, name: &str, text: &str) {
        fs::write(self.tree.join(name), text).unwrap();
    }

    /// Waits for exactly these findings, then forgets them.
    fn expect(&self, case: &str, expected: &[(&str, &str)]) {
        self.lab.expect(case, expected);
        self.lab.forget();
    }

    fn editors(&self) {
        self.write("e", "one\n");
        self.expect("e", &[("file.created", "tree/e")]);
        run("sed", &["-i", "s/one/two/", text(&self.tree.join("e"))]);
        self.lab.wait("sed -i", |lab| lab.paths("file.modified") == ["tree/e"]);
        self.lab.forget_editors_own();
        self.expect("sed -i", &[("file.modified", "tree/e")]);
        // As vim does with its backup on: the old file is renamed, a new one written, the old one removed.
        self.lab.unread(|| {
            fs::rename(self.tree.join("e"), self.tree.join("e~")).unwrap();
            self.write("e", "three\n");
            fs::remove_file(self.tree.join("e~")).unwrap();
        });
        self.expect("vim", &[("file.modified", "tree/e")]);
        self.lab.unread(|| {
            self.write(".e.new", "four\n");
            fs::rename(self.tree.join(".e.new"), self.tree.join("e")).unwrap();
        });
        self.expect("atomic rename", &[("file.modified", "tree/e")]);
        let file = OpenOptions::new().write(true).open(self.tree.join("e")).unwrap();
        file.set_len(0).unwrap();
        self.expect("truncation of an open file", &[("file.modified", "tree/e")]);
    }

    fn links(&self) {
        let (inside, outside) = (self.tree.join("h1"), self.lab.outside().join("h2"));
        self.write("h1", "one");
        fs::hard_link(&inside, &outside).unwrap();
        self.expect("hard link", &[("file.created", "tree/h1")]);
        fs::write(&outside, "two!").unwrap();
        // A directory that is marked by itself tells nothing of names elsewhere.
        if self.lab.status().report().rung == "fanotify-inode" {
            self.lab.scan();
        }
        self.expect("a write by a name outside", &[("file.modified", "tree/h1")]);
        symlink("h1", self.tree.join("l")).unwrap();
        self.expect("link", &[("file.created", "tree/l")]);
        self.lab.unread(|| {
            symlink("e", self.tree.join("l.new")).unwrap();
            fs::rename(self.tree.join("l.new"), self.tree.join("l")).unwrap();
        });
        self.expect("link swap", &[("file.modified", "tree/l")]);
        fs::create_dir(self.lab.outside().join("d")).unwrap();
        fs::create_dir(self.tree.join("swap")).unwrap();
        self.expect("directory", &[("file.created", "tree/swap")]);
        self.lab.unread(|| {
            fs::remove_dir(self.tree.join("swap")).unwrap();
            symlink(self.lab.outside().join("d"), self.tree.join("swap")).unwrap();
        });
        self.expect("a directory becomes a link", &[("file.type-changed", "tree/swap")]);
        fs::write(self.lab.outside().join("d/f"), "x").unwrap();
        self.expect("what a link leads to is not entered", &[]);
    }

    /// Between the two writes nothing but the content changes, on some file systems not even the times.
    fn maps(&self) {
        self.write("m", &"0".repeat(4096));
        self.expect("m", &[("file.created", "tree/m")]);
        let mut child = Command::new(&self.tools)
            .args(["mmap", text(&self.tree.join("m"))])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stdin = child.stdin.take().unwrap();
        lines.next().unwrap().unwrap();
        stdin.write_all(b"\n").unwrap();
        lines.next().unwrap().unwrap();
        self.lab.scan();
        stdin.write_all(b"\n").unwrap();
        assert!(child.wait().unwrap().success());
        let wanted = ring_digest(&self.tree.join("m"));
        self.lab.wait("what was written through a map", |lab| {
            let findings = lab.findings.lock().unwrap();
            let last = findings.iter().rev().find(|finding| finding["rule"] == "file.modified");
            last.is_some_and(|finding| finding["evidence"]["after"]["sha256"] == wanted.as_str())
        });
        self.lab.scan();
        self.lab.forget();
    }

    fn ring(&self) {
        self.write("u", "before the ring");
        self.expect("u", &[("file.created", "tree/u")]);
        let status = Command::new(&self.tools).args(["uring", text(&self.tree.join("u"))]).status().unwrap();
        if status.code() == Some(77) {
            return;
        }
        assert!(status.success());
        self.expect("io_uring", &[("file.modified", "tree/u")]);
    }

    /// Larger than what is hashed at once, sparse, changed where only a sample or the whole can tell.
    fn huge(&self) {
        let path = self.tree.join("huge");
        let file = File::create(&path).unwrap();
        file.set_len(3 << 20).unwrap();
        file.write_all_at(b"head", 0).unwrap();
        drop(file);
        self.expect("sparse", &[("file.created", "tree/huge")]);
        self.lab.wait("its hash", |lab| lab.counter("large_waiting") == 0);
        for (what, at) in [("head", 1), ("tail", (3 << 20) - 2), ("middle", (3 << 19) + 77_777)] {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(b"\xff", at).unwrap();
            drop(file);
            self.lab.wait(&format!("a change of the {what}"), |lab| !lab.seen().is_empty());
            self.lab.wait("its hash", |lab| lab.counter("large_waiting") == 0 && lab.scan().changed == 0);
            self.expect(what, &[("file.modified", "tree/huge")]);
        }
    }

    fn odd_objects(&self) {
        mknodat(CWD, self.tree.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        mknodat(CWD, self.tree.join("null"), FileType::CharacterDevice, Mode::RUSR, 0x103).unwrap();
        let _socket = UnixListener::bind(self.tree.join("socket")).unwrap();
        self.expect(
            "odd objects",
            &[("file.created", "tree/fifo"), ("file.created", "tree/null"), ("file.created", "tree/socket")],
        );
        let name = std::ffi::OsStr::from_bytes(b"\xff\n\x1b[2J\x80");
        // Nothing but text as a name on a file system that insists on it.
        if fs::write(self.tree.join(name), "x").is_ok() {
            self.lab.wait("a name of any bytes", |lab| lab.seen().len() == 1);
            fs::remove_file(self.tree.join(name)).unwrap();
            self.lab.wait("its removal", |lab| lab.seen().len() == 2);
            self.lab.forget();
        }
    }

    /// Beyond what one system call can name.
    fn deep(&self) {
        let mut at = openat(CWD, &self.tree, OFlags::PATH, Mode::empty()).unwrap();
        let name = "n".repeat(250);
        for _ in 0..17 {
            mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = openat(&at, &name, OFlags::PATH, Mode::empty()).unwrap();
        }
        let file = openat(&at, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
        drop(file);
        self.lab.wait("what lies too deep to be named", |lab| lab.seen().len() == 18);
        run("rm", &["-rf", text(&self.tree.join(&name))]);
        let top = format!("tree/{name}");
        self.lab.wait("its removal", |lab| lab.paths("file.deleted").contains(&top));
        self.lab.wait("all of it", |lab| {
            lab.scan().changed == 0 && lab.rows().keys().all(|path| !path.contains(&name))
        });
        self.lab.forget();
    }

    fn moves(&self) {
        let away = self.lab.outside().join("moving");
        fs::create_dir_all(away.join("a/b")).unwrap();
        fs::write(away.join("a/b/f"), "x").unwrap();
        fs::rename(&away, self.tree.join("moving")).unwrap();
        let created = ["tree/moving", "tree/moving/a", "tree/moving/a/b", "tree/moving/a/b/f"];
        let expected: Vec<(&str, &str)> = created.iter().map(|path| ("file.created", *path)).collect();
        self.expect("moved in with all beneath", &expected);
        self.write("moving/a/b/f", "changed where it is now");
        self.expect("a change beneath", &[("file.modified", "tree/moving/a/b/f")]);
        fs::rename(self.tree.join("moving/a"), self.tree.join("elsewhere")).unwrap();
        self.expect("moved within", &[("file.moved", "tree/elsewhere")]);
        self.write("elsewhere/b/f", "and again");
        self.expect("a change beneath", &[("file.modified", "tree/elsewhere/b/f")]);
        fs::rename(self.tree.join("elsewhere"), self.lab.outside().join("elsewhere")).unwrap();
        self.lab.wait("moved away", |lab| lab.seen().len() == 1);
        self.lab.forget();
        fs::write(self.lab.outside().join("elsewhere/b/f"), "no longer of concern").unwrap();
        self.expect("what moved away is not watched", &[]);
    }

    /// One name, ever other files behind it, while the sensor reads.
    fn replaced_while_hashed(&self) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0..200u32 {
                    let name = self.tree.join(format!(".r{}", turn % 3));
                    fs::write(&name, turn.to_string().repeat(20_000)).unwrap();
                    fs::rename(&name, self.tree.join("r")).unwrap();
                }
                stop.store(true, Ordering::Relaxed);
            });
            while !stop.load(Ordering::Relaxed) {
                self.lab.scan();
            }
        });
        // The last looks are put off, as of any file that changes all the time; a scan does not wait for them.
        self.lab.scan();
        let wanted = ring_digest(&self.tree.join("r"));
        self.lab.wait("the truth", |lab| {
            let rows = lab.rows();
            let held = rows.get("/r").and_then(|facts| facts.3.clone());
            held.is_some_and(|held| hex(&held) == wanted)
        });
        self.lab.forget();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ring_digest(path: &Path) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, &fs::read(path).unwrap()).as_ref())
}

fn stress(kind: &str, expected_rung: &str) {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let tools = odd_writes(directory.path());
    let mut lab = lab_on(kind, &directory);
    lab.config.hash_bytes_max = 1 << 20;
    lab.start();
    assert_eq!(lab.status().report().rung, expected_rung, "{:?}", lab.status().report());
    let stage = Stage { tree: lab.tree(), lab, tools };
    stage.editors();
    stage.links();
    stage.maps();
    stage.ring();
    stage.huge();
    stage.odd_objects();
    stage.deep();
    stage.moves();
    stage.replaced_while_hashed();
}

fn everyday(kind: &str, rung: &str) {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    cases::run_on(rung, &make(kind, &directory.path().canonicalize().unwrap()));
}

/// What happens before the sensor looks, or while it does not.
struct Missed {
    lab: Lab,
    tree: PathBuf,
}

impl Missed {
    fn write(&self, name: &str, text: &str) {
        fs::write(self.tree.join(name), text).unwrap();
    }

    /// What was undone before anybody looked is counted, as the kernel told of it.
    fn reverted(&self) {
        let count = |lab: &Lab, name: &str| lab.counter(name);
        let before = (count(&self.lab, "reverted"), count(&self.lab, "transient"));
        self.lab.unread(|| {
            self.write("a", "two");
            self.write("a", "one");
            self.write("passing", "x");
            fs::remove_file(self.tree.join("passing")).unwrap();
        });
        self.lab.wait("what was undone is counted", |lab| {
            count(lab, "reverted") > before.0 && count(lab, "transient") > before.1
        });
        assert_eq!(self.lab.seen(), []);
    }

    /// More happens than the kernel's queue of 16,384 events holds, and then what it loses.
    fn overflow(&self) {
        self.lab.unread(|| {
            // Elsewhere, so that nothing but the lost events tells of the change.
            Lab::flood(&self.tree.join("flooded"));
            self.write("b", "lost");
        });
        self.lab.wait("the lost change", |lab| lab.paths("file.modified").contains(&"tree/b".to_owned()));
        assert_eq!(self.lab.finding("file.modified", "tree/b")["evidence"]["seen_by"], "rescan");
        self.lab.wait("its count", |lab| lab.counter("overflows") > 0);
        self.lab.wait("the overflow", |lab| {
            lab.findings.lock().unwrap().iter().any(|finding| finding["rule"] == "sensor.overflow")
        });
        self.lab.forget();
    }

    /// Killed before the last change was durable, then down, then started again.
    fn down(&mut self) {
        self.lab.lose.store(true, Ordering::Relaxed);
        self.write("b", "not yet durable");
        let before = self.lab.counter("findings");
        self.lab.wait("the lost finding", |lab| lab.counter("findings") > before);
        self.lab.stop();
        self.lab.lose.store(false, Ordering::Relaxed);
        self.write("a", "changed while nobody watched");
        fs::rename(self.tree.join("c"), self.tree.join("cc")).unwrap();
        fs::create_dir(self.tree.join("d")).unwrap();
        self.write("d/new", "new");
        self.lab.start();
        self.lab.expect(
            "down",
            &[
                ("file.modified", "tree/b"),
                ("file.modified", "tree/a"),
                ("file.moved", "tree/cc"),
                ("file.created", "tree/d"),
                ("file.created", "tree/d/new"),
            ],
        );
        let finding = self.lab.finding("file.modified", "tree/a");
        let evidence = &finding["evidence"];
        assert_eq!(evidence["seen_by"], "rescan");
        assert!(evidence["window"]["from"].as_str() < evidence["window"]["to"].as_str(), "{evidence}");
    }
}

fn missed(kind: &str) {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut lab = lab_on(kind, &directory);
    for (name, text) in [("a", "one"), ("b", "one"), ("c", "one")] {
        fs::write(lab.tree().join(name), text).unwrap();
    }
    fs::create_dir(lab.tree().join("flooded")).unwrap();
    lab.start();
    let mut missed = Missed { tree: lab.tree(), lab };
    missed.reverted();
    missed.overflow();
    missed.down();
}

fn unmount_while_scanning(kind: &str) {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut lab = Lab::on("auto", Path::new("/var/tmp"));
    lab.config.rung = None;
    let point = lab.tree().join("mnt");
    fs::create_dir(&point).unwrap();
    fs::write(point.join("beneath"), "x").unwrap();
    mount(kind, &directory.path().canonicalize().unwrap(), &point);
    for number in 0..2_000 {
        fs::create_dir_all(point.join(format!("d{}", number % 50))).unwrap();
        fs::write(point.join(format!("d{}/{number}", number % 50)), "x").unwrap();
    }
    lab.start();
    let trees = lab.config.trees.clone();
    let scanner = lab.scanner().clone();
    std::thread::scope(|scope| {
        let scan = scope.spawn(move || scanner.scan(&trees, PATIENCE, |_| {}));
        run("umount", &["--lazy", text(&point)]);
        scan.join().unwrap().unwrap();
    });
    lab.wait("the unmount", |lab| lab.paths("file.created") == ["tree/mnt/beneath"]);
    lab.wait("quiet", |lab| lab.scan().changed == 0 && lab.counter("pending") == 0);
    assert_eq!(fs::read_dir(&point).unwrap().count(), 1);
    assert!(fs::metadata(point.join("beneath")).unwrap().size() == 1);
}

macro_rules! on {
    ($name:ident, $kind:literal, $rung:literal) => {
        mod $name {
            #[test]
            fn everyday_changes_are_told_once() {
                if super::in_namespace(concat!(
                    "filesystems::",
                    stringify!($name),
                    "::everyday_changes_are_told_once"
                )) {
                    super::everyday($kind, $rung);
                }
            }

            #[test]
            fn the_truth_holds_under_stress() {
                if super::in_namespace(concat!(
                    "filesystems::",
                    stringify!($name),
                    "::the_truth_holds_under_stress"
                )) {
                    super::stress($kind, $rung);
                }
            }

            #[test]
            fn what_nobody_saw_is_found_and_counted() {
                if super::in_namespace(concat!(
                    "filesystems::",
                    stringify!($name),
                    "::what_nobody_saw_is_found_and_counted"
                )) {
                    super::missed($kind);
                }
            }

            #[test]
            fn an_unmount_while_scanning_does_no_harm() {
                if super::in_namespace(concat!(
                    "filesystems::",
                    stringify!($name),
                    "::an_unmount_while_scanning_does_no_harm"
                )) {
                    super::unmount_while_scanning($kind);
                }
            }
        }
    };
}

on!(ext4, "ext4", "fanotify");
on!(xfs, "xfs", "fanotify");
on!(btrfs, "btrfs", "fanotify");
on!(tmpfs, "tmpfs", "fanotify");
on!(overlay, "overlay", "fanotify-inode");
on!(overlay_exported, "overlay-export", "fanotify");

/// A container starts: its root, an overlay, appears beneath a watched tree; what happens in it is told at once.
#[test]
fn a_container_s_root_is_followed() {
    if !in_namespace("filesystems::a_container_s_root_is_followed") {
        return;
    }
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut lab = Lab::on("fanotify", Path::new("/var/tmp"));
    let point = lab.tree().join("rootfs");
    fs::create_dir(&point).unwrap();
    lab.start();
    let image = make("overlay", &directory.path().canonicalize().unwrap());
    fs::create_dir_all(image.join("etc/deep")).unwrap();
    run("mount", &["--bind", text(&image), text(&point)]);
    lab.wait("its content", |lab| lab.paths("file.created").contains(&"tree/rootfs/etc/deep".to_owned()));
    lab.forget();
    // In a namespace of its own, as a container's processes do.
    let script = format!("echo x > {}/etc/deep/f", text(&point));
    run("unshare", &["--mount", "--pid", "--fork", "sh", "-c", &script]);
    lab.wait("a file that a container made", |lab| !lab.seen().is_empty());
    assert_eq!(lab.seen(), [("file.created".to_owned(), "tree/rootfs/etc/deep/f".to_owned())]);
    assert_eq!(lab.finding("file.created", "tree/rootfs/etc/deep/f")["evidence"]["seen_by"], "event");
}

/// Two looks at a tree that nobody changed, one of them after somebody did: what `agent baseline` shows.
#[test]
fn the_baseline_can_be_looked_into_while_the_agent_runs() {
    let mut lab = Lab::on("scan", Path::new("/var/tmp"));
    lab.config.scan_interval = std::time::Duration::from_secs(3_600);
    fs::create_dir(lab.tree().join("d")).unwrap();
    fs::write(lab.tree().join("d/kept"), "kept").unwrap();
    fs::write(lab.tree().join("d/gone"), "gone").unwrap();
    lab.start();
    lab.wait("the rows", |lab| lab.rows().len() == 4);
    let mut inspector = picket_agent::sense::files::Inspector::open(&lab.database()).unwrap();
    let kept = inspector.show(&lab.tree().join("d/kept")).unwrap().unwrap();
    assert_eq!((kept.meta.size, inspector.show(Path::new("/nowhere")).unwrap()), (4, None));
    fs::write(lab.tree().join("d/kept"), "kept and changed").unwrap();
    fs::remove_file(lab.tree().join("d/gone")).unwrap();
    let mut seen = Vec::new();
    let compared = inspector
        .diff(&lab.tree(), 1 << 20, |difference| {
            let name = difference.path.strip_prefix(lab.tree()).unwrap().to_path_buf();
            if difference.before.meta.kind == picket_agent::sense::files::object::Kind::File {
                seen.push((name, difference.after.is_some()));
            }
            true
        })
        .unwrap();
    seen.sort();
    assert_eq!((compared, seen), (4, vec![("d/gone".into(), false), ("d/kept".into(), true)]));
}
