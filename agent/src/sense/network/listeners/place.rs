//! Where a program lies that runs: whether its file is still what the host has under that name, and whether any user may write there.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;

use crate::detect::listener::{OnDisk, Origin, Run};
use crate::sense::packages::programs::Programs;

/// Bits of a mode by which others may write.
const OTHERS_WRITE: u32 = 0o002;

/// How the executable of the process `pid`, called `path`, is on disk now. It began at `started`.
pub fn on_disk(
    proc: &Path,
    pid: u32,
    path: &Path,
    started: Option<Timestamp>,
    programs: &mut Programs,
) -> OnDisk {
    let runs = proc.join(pid.to_string()).join("exe").metadata();
    let Ok(runs) = runs else { return OnDisk::Same };
    let there = path.metadata();
    let same = there.as_ref().is_ok_and(|there| (there.dev(), there.ino()) == (runs.dev(), runs.ino()));
    match (same, runs.nlink()) {
        (true, _) => OnDisk::Same,
        (false, 0) => {
            // Only a package manager that was at work since makes a deleted program a harmless one.
            let since = started.is_some_and(|started| programs.changed() > started);
            let held = since
                && matches!(programs.origin(path), Origin::Package { as_packaged: Some(true) | None, .. });
            if held { OnDisk::Upgraded } else { OnDisk::Deleted }
        }
        _ => OnDisk::Elsewhere,
    }
}

/// What is to be known of a file that the process `pid` runs. In a container nothing is known of packages.
pub fn run(proc: &Path, pid: u32, path: &Path, contained: bool, programs: &mut Programs) -> Run {
    let root = proc.join(pid.to_string()).join("root");
    Run {
        path: Text::from_bytes(path.as_os_str().as_bytes()),
        origin: if contained { Origin::Unknown } else { programs.origin(path) },
        open_to_all: open_to_all(&root, path),
    }
}

/// The file, or the nearest directory above it, that others than its owner and group may write to.
fn open_to_all(root: &Path, path: &Path) -> Option<Text> {
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let writable = |path: &&Path| {
        // A link's mode says nothing: it is what it leads to that is asked.
        below(path).metadata().is_ok_and(|metadata| metadata.mode() & OTHERS_WRITE != 0)
    };
    let found = path.ancestors().filter(|above| *above != Path::new("/")).find(writable)?;
    Some(Text::from_bytes(found.as_os_str().as_bytes()))
}

/// The script of the process `pid`, which it called `script` from its working directory.
pub fn script(proc: &Path, pid: u32, script: &[u8]) -> PathBuf {
    let script = Path::new(OsStr::from_bytes(script));
    if script.is_absolute() {
        return normal(script);
    }
    // A working directory that is gone has `(deleted)` behind its name, and no package has that.
    let directory = std::fs::read_link(proc.join(pid.to_string()).join("cwd")).unwrap_or_default();
    normal(&directory.join(script))
}

/// The file of a module, if it lies in the working directory of the process `pid`, from where an interpreter takes it first.
pub fn module(proc: &Path, pid: u32, module: &[u8]) -> Option<PathBuf> {
    let module = std::str::from_utf8(module).ok()?;
    if module.is_empty()
        || !module.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
    {
        return None;
    }
    let directory = proc.join(pid.to_string()).join("cwd");
    let first = module.split('.').next()?;
    let names = [format!("{first}.py"), format!("{first}/__init__.py")];
    let found = names.iter().find(|name| directory.join(name).exists())?;
    Some(std::fs::read_link(&directory).ok()?.join(found))
}

fn normal(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn where_any_user_may_write_is_found() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("opt/open/deep")).unwrap();
        let mode = |path: &str, mode| {
            std::fs::set_permissions(root.path().join(path), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let check = |path: &str, expected: Option<&str>| {
            let found = open_to_all(root.path(), Path::new(path));
            assert_eq!(found.map(|found| found.text).as_deref(), expected, "{path}");
        };
        std::fs::write(root.path().join("opt/open/deep/x"), "").unwrap();
        check("/opt/open/deep/x", None);
        mode("opt/open", 0o1777);
        check("/opt/open/deep/x", Some("/opt/open"));
        mode("opt/open/deep/x", 0o666);
        check("/opt/open/deep/x", Some("/opt/open/deep/x"));
    }

    #[test]
    fn scripts_and_modules_are_found_from_where_they_were_started() {
        let proc = tempfile::tempdir().unwrap();
        let work = proc.path().join("work");
        std::fs::create_dir_all(proc.path().join("7")).unwrap();
        std::fs::create_dir_all(work.join("package")).unwrap();
        symlink(&work, proc.path().join("7/cwd")).unwrap();
        std::fs::write(work.join("evil.py"), "").unwrap();
        std::fs::write(work.join("package/__init__.py"), "").unwrap();
        assert_eq!(script(proc.path(), 7, b"./a/../b.py"), work.join("b.py"));
        assert_eq!(script(proc.path(), 7, b"/srv/../b.py"), Path::new("/b.py"));
        assert_eq!(module(proc.path(), 7, b"evil"), Some(work.join("evil.py")));
        assert_eq!(module(proc.path(), 7, b"package.main"), Some(work.join("package/__init__.py")));
        assert_eq!((module(proc.path(), 7, b"http.server"), module(proc.path(), 7, b"../x")), (None, None));
    }

    #[test]
    fn this_program_is_on_disk_and_one_that_was_removed_is_not() {
        let proc = Path::new("/proc");
        let mut programs = Programs::open(Path::new("/nowhere"));
        let own = std::fs::read_link("/proc/self/exe").unwrap();
        assert_eq!(on_disk(proc, std::process::id(), &own, None, &mut programs), OnDisk::Same);
        let other = Path::new("/bin/sh");
        assert_eq!(on_disk(proc, std::process::id(), other, None, &mut programs), OnDisk::Elsewhere);
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("sleep");
        std::fs::copy("/bin/sleep", &copy).unwrap();
        let mut child = std::process::Command::new(&copy).arg("60").spawn().unwrap();
        std::fs::remove_file(&copy).unwrap();
        let found = on_disk(proc, child.id(), &copy, None, &mut programs);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, OnDisk::Deleted);
    }
}
