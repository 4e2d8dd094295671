//! Runs programs of the system that change the firewall. They are looked for in the system's own directories and nowhere else, and
//! are run only when nobody but root can have written them; each within [`TIME_MAX`], since what is done to the host waits for it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bounded::{self, TIME_MAX};

/// Where programs of the system lie.
const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// What group and others would need to write.
const OTHERS_WRITE: u32 = 0o022;

/// What became of a program that succeeded.
#[derive(Debug)]
pub struct Ran {
    /// Its process.
    pub pid: u32,
    /// What it printed.
    pub text: String,
}

/// Runs a program to its end, as [`bounded::run`] does, with `input` to read.
///
/// # Errors
/// Why it is not run, or the first line of what it says when it fails.
pub fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Result<Ran, String> {
    run_within(TIME_MAX, program, arguments, input)
}

/// The same within another time.
///
/// # Errors
/// As there.
pub fn run_within(
    limit: Duration,
    program: &str,
    arguments: &[&str],
    input: Option<&str>,
) -> Result<Ran, String> {
    let path = find(&PLACES, program)?;
    let failed = |error: io::Error| format!("{program}: {error}");
    let mut command = Command::new(path);
    // Programs of iptables are one file, which goes by the name that it is called by.
    command.arg0(program).args(arguments).env_clear().env("LC_ALL", "C").current_dir("/");
    let (pid, output) = bounded::run(&mut command, input.map(str::as_bytes), limit).map_err(failed)?;
    if output.status.success() {
        return Ok(Ran { pid, text: String::from_utf8_lossy(&output.stdout).into_owned() });
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.lines().next().unwrap_or("it failed").trim()))
}

/// Where a program lies that may be run.
///
/// # Errors
/// Why there is none.
pub fn locate(program: &str) -> Result<PathBuf, String> {
    find(&PLACES, program)
}

/// The program of that name, in the first of the places that has one.
fn find(places: &[&str], name: &str) -> Result<PathBuf, String> {
    for place in places {
        match std::fs::canonicalize(Path::new(place).join(name)) {
            Ok(path) => return is_of_root(&path).map(|()| path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{name} cannot be looked at: {error}")),
        }
    }
    Err(format!("{name} is not installed"))
}

/// Whether it is a file of root's in a directory of root's, and others write neither.
fn is_of_root(path: &Path) -> Result<(), String> {
    for one in [Some(path), path.parent()].into_iter().flatten() {
        let metadata = std::fs::metadata(one)
            .map_err(|error| format!("{} cannot be looked at: {error}", one.display()))?;
        if metadata.uid() != 0 || metadata.mode() & OTHERS_WRITE != 0 {
            return Err(format!(
                "{} can be written by others than root, so that it is not run",
                one.display()
            ));
        }
    }
    if path.is_file() { Ok(()) } else { Err(format!("{} is no program", path.display())) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    #[test]
    fn a_program_that_others_can_write_is_not_run() {
        let dir = tempfile::tempdir().expect("a directory");
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        let places = [first.as_path(), second.as_path()].map(|path| path.to_str().expect("text"));
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
        };
        for place in places {
            std::fs::create_dir(place).expect("a directory");
            mode(Path::new(place), 0o755);
        }
        assert!(find(&places, "nft").is_err_and(|why| why.contains("not installed")));
        let program = second.join("nft");
        std::fs::write(&program, "").expect("a program");
        mode(&program, 0o755);
        assert_eq!(find(&places, "nft").ok(), program.canonicalize().ok());
        mode(&program, 0o775);
        assert!(find(&places, "nft").is_err_and(|why| why.contains("others than root")));
        mode(&program, 0o755);
        chown(&program, Some(1), None).expect("another owner");
        assert!(find(&places, "nft").is_err());
        chown(&program, Some(0), None).expect("root");
        mode(&second, 0o777);
        assert!(find(&places, "nft").is_err(), "nor from a directory that others write to");
        mode(&second, 0o755);
        std::os::unix::fs::symlink(&program, first.join("nft")).expect("a link");
        assert_eq!(find(&places, "nft").ok(), program.canonicalize().ok());
        std::fs::create_dir(second.join("directory")).expect("a directory");
        assert!(find(&places, "directory").is_err_and(|why| why.contains("no program")));
    }

    #[test]
    fn what_a_program_says_when_it_fails_is_told() {
        let ran = run("cat", &[], Some("what it reads")).expect("it runs");
        assert_eq!(ran.text, "what it reads");
        assert!(run("cat", &["/no/such/file"], None).is_err_and(|why| why.starts_with("cat: ")));
    }
}
