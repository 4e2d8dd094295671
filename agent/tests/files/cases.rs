//! One table of everyday changes; every rung must tell each of them once, by the same names.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use crate::lab::Lab;

struct Case {
    name: &'static str,
    /// Done before the baseline is taken.
    before: fn(&Path, &Path),
    /// What happens: in the tree, and beside it.
    act: fn(&Path, &Path),
    expected: &'static [(&'static str, &'static str)],
}

fn nothing(_: &Path, _: &Path) {}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

fn one_file(tree: &Path, _: &Path) {
    write(&tree.join("a"), "one");
}

fn directory_with_files(tree: &Path, _: &Path) {
    fs::create_dir_all(tree.join("d/e")).unwrap();
    write(&tree.join("d/x"), "x");
    write(&tree.join("d/e/y"), "y");
}

const CASES: &[Case] = &[
    Case { name: "nothing", before: one_file, act: nothing, expected: &[] },
    Case {
        name: "create",
        before: nothing,
        act: |tree, _| write(&tree.join("a"), "one"),
        expected: &[("file.created", "tree/a")],
    },
    Case {
        name: "modify",
        before: one_file,
        act: |tree, _| write(&tree.join("a"), "two"),
        expected: &[("file.modified", "tree/a")],
    },
    Case {
        name: "append",
        before: one_file,
        act: |tree, _| {
            use std::io::Write as _;
            let mut file = fs::OpenOptions::new().append(true).open(tree.join("a")).unwrap();
            file.write_all(b" more").unwrap();
        },
        expected: &[("file.modified", "tree/a")],
    },
    Case {
        name: "truncate by path",
        before: one_file,
        act: |tree, _| {
            let file = fs::OpenOptions::new().write(true).open(tree.join("a")).unwrap();
            file.set_len(1).unwrap();
        },
        expected: &[("file.modified", "tree/a")],
    },
    Case {
        name: "write the same again",
        before: one_file,
        act: |tree, _| write(&tree.join("a"), "one"),
        expected: &[],
    },
    Case {
        name: "chmod",
        before: one_file,
        act: |tree, _| fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o600)).unwrap(),
        expected: &[("file.attributes", "tree/a")],
    },
    Case {
        name: "chmod u+s",
        before: one_file,
        act: |tree, _| fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o4755)).unwrap(),
        expected: &[("privilege.setuid", "tree/a")],
    },
    Case {
        name: "chmod of a directory",
        before: directory_with_files,
        act: |tree, _| fs::set_permissions(tree.join("d"), fs::Permissions::from_mode(0o777)).unwrap(),
        expected: &[("file.attributes", "tree/d")],
    },
    Case {
        name: "chown",
        before: one_file,
        act: |tree, _| std::os::unix::fs::chown(tree.join("a"), Some(7), Some(8)).unwrap(),
        expected: &[("file.attributes", "tree/a")],
    },
    Case {
        name: "time set back",
        before: one_file,
        act: |tree, _| {
            let file = fs::File::open(tree.join("a")).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        },
        expected: &[("file.timestomp", "tree/a")],
    },
    Case {
        name: "delete",
        before: one_file,
        act: |tree, _| fs::remove_file(tree.join("a")).unwrap(),
        expected: &[("file.deleted", "tree/a")],
    },
    Case {
        name: "create and delete",
        before: nothing,
        act: |tree, _| {
            write(&tree.join("a"), "one");
            fs::remove_file(tree.join("a")).unwrap();
        },
        expected: &[],
    },
    Case {
        name: "rename in",
        before: nothing,
        act: |tree, outside| {
            write(&outside.join("a"), "one");
            fs::rename(outside.join("a"), tree.join("b")).unwrap();
        },
        expected: &[("file.created", "tree/b")],
    },
    Case {
        name: "rename within",
        before: directory_with_files,
        act: |tree, _| fs::rename(tree.join("d/x"), tree.join("z")).unwrap(),
        expected: &[("file.moved", "tree/z")],
    },
    Case {
        name: "rename and modify",
        before: one_file,
        act: |tree, _| {
            fs::rename(tree.join("a"), tree.join("b")).unwrap();
            write(&tree.join("b"), "two");
        },
        expected: &[("file.moved", "tree/b")],
    },
    Case {
        name: "rename over another",
        before: |tree, _| {
            write(&tree.join("a"), "one");
            write(&tree.join("b"), "two");
        },
        act: |tree, _| fs::rename(tree.join("a"), tree.join("b")).unwrap(),
        expected: &[("file.modified", "tree/b")],
    },
    Case {
        name: "rename of a directory with content",
        before: directory_with_files,
        act: |tree, _| fs::rename(tree.join("d"), tree.join("moved")).unwrap(),
        expected: &[("file.moved", "tree/moved")],
    },
    Case {
        name: "rename of a directory and change in it",
        before: directory_with_files,
        act: |tree, _| {
            fs::rename(tree.join("d"), tree.join("moved")).unwrap();
            write(&tree.join("moved/e/y"), "other");
            write(&tree.join("moved/new"), "new");
        },
        expected: &[
            ("file.moved", "tree/moved"),
            ("file.modified", "tree/moved/e/y"),
            ("file.created", "tree/moved/new"),
        ],
    },
    Case {
        name: "directory moved in with content",
        before: nothing,
        act: |tree, outside| {
            directory_with_files(outside, outside);
            fs::rename(outside.join("d"), tree.join("d")).unwrap();
        },
        expected: &[
            ("file.created", "tree/d"),
            ("file.created", "tree/d/e"),
            ("file.created", "tree/d/x"),
            ("file.created", "tree/d/e/y"),
        ],
    },
    Case {
        name: "a directory with content moves away",
        before: directory_with_files,
        act: |tree, outside| {
            fs::rename(tree.join("d"), outside.join("gone")).unwrap();
        },
        expected: &[("file.deleted", "tree/d")],
    },
    Case {
        name: "swap of a link",
        before: |tree, _| symlink("old", tree.join("link")).unwrap(),
        act: |tree, _| {
            symlink("new", tree.join("link.tmp")).unwrap();
            fs::rename(tree.join("link.tmp"), tree.join("link")).unwrap();
        },
        expected: &[("file.modified", "tree/link")],
    },
    Case {
        name: "file becomes link",
        before: one_file,
        act: |tree, _| {
            symlink("/etc/passwd", tree.join("tmp")).unwrap();
            fs::rename(tree.join("tmp"), tree.join("a")).unwrap();
        },
        expected: &[("file.type-changed", "tree/a")],
    },
    Case {
        name: "a directory and a file change places",
        before: |tree, outside| {
            one_file(tree, outside);
            fs::create_dir(tree.join("d")).unwrap();
            write(&tree.join("d/x"), "x");
        },
        act: |tree, _| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            renameat_with(CWD, tree.join("a"), CWD, tree.join("d"), RenameFlags::EXCHANGE).unwrap();
        },
        expected: &[
            ("file.type-changed", "tree/a"),
            ("file.type-changed", "tree/d"),
            ("file.created", "tree/a/x"),
        ],
    },
    Case {
        name: "a link to a directory outside is not followed",
        before: nothing,
        act: |tree, outside| {
            directory_with_files(outside, outside);
            symlink(outside.join("d"), tree.join("link")).unwrap();
            write(&outside.join("d/later"), "later");
        },
        expected: &[("file.created", "tree/link")],
    },
    Case {
        name: "atomic save",
        before: one_file,
        act: |tree, _| {
            write(&tree.join(".a.swp"), "new");
            fs::rename(tree.join(".a.swp"), tree.join("a")).unwrap();
        },
        expected: &[("file.modified", "tree/a")],
    },
    Case {
        name: "save as vim does",
        before: one_file,
        act: |tree, _| {
            write(&tree.join("4913"), "");
            fs::remove_file(tree.join("4913")).unwrap();
            fs::rename(tree.join("a"), tree.join("a~")).unwrap();
            write(&tree.join("a"), "new");
            fs::remove_file(tree.join("a~")).unwrap();
        },
        expected: &[("file.modified", "tree/a")],
    },
    Case {
        name: "replaced by the same",
        before: one_file,
        act: |tree, _| {
            write(&tree.join("a.new"), "one");
            fs::rename(tree.join("a.new"), tree.join("a")).unwrap();
        },
        expected: &[],
    },
    Case {
        name: "hard link",
        before: one_file,
        act: |tree, _| fs::hard_link(tree.join("a"), tree.join("b")).unwrap(),
        expected: &[("file.created", "tree/b")],
    },
    Case {
        name: "special files",
        before: nothing,
        act: |tree, _| {
            use rustix::fs::{CWD, FileType, Mode, mknodat};
            let mode = Mode::RUSR | Mode::WUSR;
            mknodat(CWD, tree.join("pipe"), FileType::Fifo, mode, 0).unwrap();
            mknodat(CWD, tree.join("null"), FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3))
                .unwrap();
            std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
        },
        expected: &[
            ("file.created", "tree/null"),
            ("file.created", "tree/pipe"),
            ("file.created", "tree/socket"),
        ],
    },
    Case {
        name: "names of any bytes",
        before: nothing,
        act: |tree, _| {
            write(&tree.join("line\nfeed \x1b[31m (deleted)"), "x");
            write(&tree.join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), "x");
            fs::create_dir(tree.join("d (deleted)")).unwrap();
            write(&tree.join("d (deleted)/\u{202e}txt"), "x");
        },
        expected: &[
            ("file.hidden", "tree/line\nfeed \x1b[31m (deleted)"),
            ("file.created", "tree/\u{fffd}\u{fffd}"),
            ("file.created", "tree/d (deleted)"),
            ("file.hidden", "tree/d (deleted)/\u{202e}txt"),
        ],
    },
    Case {
        name: "the tree itself moves away",
        before: directory_with_files,
        act: |tree, outside| fs::rename(tree, outside.join("tree")).unwrap(),
        expected: &[("file.deleted", "tree")],
    },
];

/// `file.moved` out of the tree is what the best rung can say; the others see a deletion.
fn run(rung: &str) {
    run_on(rung, Path::new("/tmp"));
}

/// The same on the file system of `base`.
pub fn run_on(rung: &str, base: &Path) {
    for case in CASES {
        let mut lab = Lab::on(rung, base);
        // Nothing is looked at between two calls of an act, however long a busy machine takes from one to the next.
        match rung {
            "inotify" => lab.tuning.debounce = Duration::from_secs(1),
            "scan" => lab.config.scan_interval = Duration::from_secs(3_600),
            _ => {}
        }
        (case.before)(&lab.tree(), &lab.outside());
        lab.start();
        lab.unread(|| (case.act)(&lab.tree(), &lab.outside()));
        if rung == "scan" {
            lab.scan();
        }
        let moved_away: Vec<(&str, &str)> =
            case.expected.iter().map(|&(_, path)| ("file.moved", path)).collect();
        let away = rung == "fanotify" && case.name.ends_with("moves away");
        let expected: &[(&str, &str)] = if away { &moved_away } else { case.expected };
        let name = format!("{rung}: {}", case.name);
        lab.expect(&name, expected);
        // Of an act of which nothing is to be told, the events may still wait.
        lab.wait("the events to be looked at", |lab| lab.counter("pending") == 0);
        lab.expect(&name, expected);
        lab.stop();
    }
}

#[test]
fn fanotify_tells_each_change_once() {
    run("fanotify");
}

#[test]
fn fanotify_with_a_mark_a_directory_tells_each_change_once() {
    run("fanotify-inode");
}

#[test]
fn inotify_tells_each_change_once() {
    run("inotify");
}

#[test]
fn scan_tells_each_change_once() {
    run("scan");
}
