//! Which directories the configured trees stand for on this host.

use std::path::{Path, PathBuf};

use crate::glob::Glob;

/// Most trees after globs are looked up: a host with thousands of users.
pub const TREES_MAX: usize = 4_096;
/// Most logs after globs are looked up.
const LOOKED_UP_MAX: usize = 256;

/// Looks globs up, and follows nothing: a log that is a link is what must be told.
pub fn look_up(paths: &[PathBuf]) -> Vec<PathBuf> {
    let is_glob = |path: &Path| path.to_string_lossy().contains(['*', '?', '[', '{']);
    let found = paths.iter().flat_map(|path| if is_glob(path) { expand(path) } else { vec![path.clone()] });
    let mut found: Vec<PathBuf> = found.take(LOOKED_UP_MAX).collect();
    found.sort();
    found.dedup();
    found
}

/// Looks globs up, follows symbolic links (`/bin` may be `/usr/bin`), and leaves out what lies in another tree.
/// What does not exist stays as it is written.
pub fn resolve(trees: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for tree in trees {
        let text = tree.to_string_lossy();
        if text.contains(['*', '?', '[', '{']) {
            found.extend(expand(tree));
        } else {
            found.push(tree.clone());
        }
    }
    let mut found: Vec<PathBuf> = found.into_iter().map(|path| path.canonicalize().unwrap_or(path)).collect();
    found.sort();
    found.dedup();
    found.truncate(TREES_MAX);
    // Sorted by component, so that what a tree holds comes directly behind it.
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in found {
        if !kept.last().is_some_and(|last| path.starts_with(last)) {
            kept.push(path);
        }
    }
    kept
}

fn expand(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.components().skip(1) {
        let part = part.as_os_str();
        let text = part.to_string_lossy();
        if !text.contains(['*', '?', '[', '{']) {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let Ok(glob) = Glob::new(&text) else { return Vec::new() };
        found = found.iter().flat_map(|path| matching(path, &glob)).take(TREES_MAX).collect();
    }
    found.retain(|path| path.symlink_metadata().is_ok());
    found
}

fn matching(directory: &Path, glob: &Glob) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name());
    names.filter(|name| glob.is_match(name)).take(TREES_MAX).map(|name| directory.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_links_and_nested_trees() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let at = directory.path().canonicalize().expect("real path");
        for path in ["home/a/.ssh", "home/b/.ssh", "home/c", "usr/bin/x"] {
            std::fs::create_dir_all(at.join(path)).expect("directory");
        }
        std::os::unix::fs::symlink(at.join("usr/bin"), at.join("bin")).expect("link");
        let trees: Vec<PathBuf> = ["home/*/.ssh", "bin", "usr/bin", "usr/bin/x", "missing"]
            .iter()
            .map(|path| at.join(path))
            .collect();
        let expected: Vec<PathBuf> =
            ["home/a/.ssh", "home/b/.ssh", "missing", "usr/bin"].iter().map(|path| at.join(path)).collect();
        assert_eq!(resolve(&trees), expected);
    }
}
