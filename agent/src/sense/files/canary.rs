//! Canaries: files that nobody has a reason to touch, kept in directories that the customer names.
//!
//! A canary looks like what thieves and ransomware look for, is hidden from ordinary listings by its name, and
//! belongs to the owner of its directory. It is made when the agent starts, if it is not there; what stands at its name
//! is never overwritten nor followed. The agent never removes one: whoever takes a directory out of the configuration
//! may. What happens to a canary is `file.canary`.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// First of an ordinary order of names, so that it is met early.
const NAME: &str = ".00-accounts-and-passwords.csv";
/// Lines of a canary.
const LINES: usize = 120;

/// Makes the canaries that are missing; gives the paths of all that are there.
pub fn plant(directories: &[PathBuf]) -> Vec<PathBuf> {
    directories.iter().filter_map(|directory| plant_one(&directory.canonicalize().ok()?)).collect()
}

fn plant_one(directory: &Path) -> Option<PathBuf> {
    let path = directory.join(NAME);
    let owner = directory.metadata().ok().filter(std::fs::Metadata::is_dir)?;
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path);
    match made {
        Ok(mut file) => {
            let written = file.write_all(content().as_bytes());
            let given = std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()));
            if let Err(error) = written.and(given) {
                tracing::warn!(%error, path = %path.display(), "a canary is not as it should be");
            }
            Some(path)
        }
        // It is there; a link or a directory in its place is no canary.
        Err(_) if path.symlink_metadata().is_ok_and(|meta| meta.is_file()) => Some(path),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "no canary was made");
            None
        }
    }
}

/// Different on each host, and plausible.
fn content() -> String {
    let mut text = "account;owner;valid_until;secret\n".to_owned();
    for line in 0..LINES {
        let random = Uuid::now_v7().simple().to_string();
        let (id, secret) = (random.get(20..26).unwrap_or_default(), random.get(12..).unwrap_or_default());
        text.push_str(&format!("{id};user{line};2031-12-31;{secret}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_is_made_once_and_nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        for name in ["plain", "linked"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        std::fs::write(root.join("precious"), "precious").unwrap();
        std::os::unix::fs::symlink(root.join("precious"), root.join("linked").join(NAME)).unwrap();
        let directories = [root.join("plain"), root.join("linked"), root.join("missing")];
        let planted = plant(&directories);
        assert_eq!(planted, [root.join("plain").join(NAME)]);
        let content = std::fs::read(&planted[0]).unwrap();
        assert_eq!(plant(&directories), planted);
        assert_eq!(std::fs::read(&planted[0]).unwrap(), content);
        assert_eq!(std::fs::read(root.join("precious")).unwrap(), b"precious");
    }
}
