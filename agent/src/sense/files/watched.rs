//! Which paths are watched: trees, less what is excluded. Pure.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::glob::{GlobError, Globs};

/// Longest path that is watched, in bytes. What lies deeper is counted and not looked at: findings name paths
/// several times, and a record must stay below its bound.
pub const PATH_BYTES_MAX: usize = 8 * 1024;

/// The watched trees and what is left out of them.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Without symbolic links, sorted, none beneath another.
    trees: Vec<PathBuf>,
    exclude: Globs,
    /// Mount points of file systems that are not entered.
    barred: Vec<PathBuf>,
}

impl Watched {
    /// `trees` must be free of symbolic links; those beneath others are dropped.
    ///
    /// # Errors
    /// The first glob that is not one, with the reason.
    pub fn new(trees: Vec<PathBuf>, exclude: &[String]) -> Result<Self, GlobError> {
        let mut watched = Self { trees: Vec::new(), exclude: Globs::new(exclude)?, barred: Vec::new() };
        watched.set_trees(trees);
        Ok(watched)
    }

    /// Replaces the trees.
    pub fn set_trees(&mut self, mut trees: Vec<PathBuf>) {
        trees.sort();
        trees.dedup();
        let mut kept: Vec<PathBuf> = Vec::with_capacity(trees.len());
        for tree in trees {
            if !kept.iter().any(|above| tree.starts_with(above)) {
                kept.push(tree);
            }
        }
        self.trees = kept;
    }

    /// Replaces the mount points that are not entered.
    pub fn set_barred(&mut self, barred: Vec<PathBuf>) {
        self.barred = barred;
    }

    /// The trees, sorted, none beneath another.
    pub fn trees(&self) -> &[PathBuf] {
        &self.trees
    }

    /// All names on the ways to the trees.
    pub fn names(&self) -> HashSet<Vec<u8>> {
        self.trees.iter().flat_map(|tree| tree.iter()).map(|name| name.as_bytes().to_vec()).collect()
    }

    /// The tree that `path` lies in (or is).
    pub fn tree_of(&self, path: &Path) -> Option<&Path> {
        self.trees.iter().map(PathBuf::as_path).find(|tree| is_within(path, tree))
    }

    /// Whether changes at `path` are reported.
    pub fn covers(&self, path: &Path) -> bool {
        let Some(tree) = self.tree_of(path) else { return false };
        if self.exclude.is_empty() && self.barred.is_empty() {
            return path.as_os_str().len() <= PATH_BYTES_MAX;
        }
        path.as_os_str().len() <= PATH_BYTES_MAX
            && path
                .ancestors()
                .take_while(|above| above.starts_with(tree))
                .all(|above| !self.leaves_out(above))
    }

    /// Whether `path`, whose parent is covered, is left out itself. The mount point of a file system that is not
    /// entered is left out as well: even looking at it may hang.
    pub fn leaves_out(&self, path: &Path) -> bool {
        path.as_os_str().len() > PATH_BYTES_MAX
            || self.barred.iter().any(|barred| barred == path)
            || (!self.exclude.is_empty() && self.exclude.is_match(path))
    }

    /// Whether a tree lies at or beneath `path`.
    pub fn reaches_below(&self, path: &Path) -> bool {
        self.trees.iter().any(|tree| tree.starts_with(path))
    }
}

/// As [`Path::starts_with`], for paths without dots and repeated slashes, of which all here are: by their bytes.
fn is_within(path: &Path, tree: &Path) -> bool {
    let tree = tree.as_os_str().as_bytes();
    let Some(rest) = path.as_os_str().as_bytes().strip_prefix(tree) else { return false };
    rest.is_empty() || rest.starts_with(b"/") || tree == b"/"
}

/// `path` relative to `tree`, as components; none for the tree itself.
pub fn components_below<'a>(tree: &Path, path: &'a Path) -> impl Iterator<Item = &'a [u8]> {
    path.strip_prefix(tree).unwrap_or(Path::new("")).iter().map(|name| name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(trees: &[&str], exclude: &[&str]) -> Watched {
        let exclude: Vec<String> = exclude.iter().map(|&glob| glob.to_owned()).collect();
        Watched::new(trees.iter().map(PathBuf::from).collect(), &exclude).unwrap()
    }

    fn check(watched: &Watched, path: &str, covered: bool) {
        assert_eq!(watched.covers(Path::new(path)), covered, "{path}");
    }

    #[test]
    fn nested_and_repeated_trees_become_one() {
        let watched = watched(&["/etc/ssh", "/etc", "/etc", "/etcetera", "/usr/bin"], &[]);
        let trees: Vec<_> = watched.trees().iter().map(|tree| tree.to_str().unwrap()).collect();
        assert_eq!(trees, ["/etc", "/etcetera", "/usr/bin"]);
    }

    #[test]
    fn a_tree_covers_itself_and_what_is_beneath() {
        let watched = watched(&["/etc", "/opt/one.conf"], &[]);
        check(&watched, "/etc", true);
        check(&watched, "/etc/ssh/sshd_config", true);
        check(&watched, "/etcetera", false);
        check(&watched, "/opt/one.conf", true);
        check(&watched, "/opt", false);
        assert!(watched.reaches_below(Path::new("/opt")));
        assert!(!watched.reaches_below(Path::new("/etc/ssh")));
    }

    #[test]
    fn what_an_excluded_directory_holds_is_excluded_too() {
        let watched = watched(&["/srv"], &["/srv/cache", "/srv/*/tmp", "**/*.swp"]);
        check(&watched, "/srv/cache/deep/file", false);
        check(&watched, "/srv/site/tmp/file", false);
        check(&watched, "/srv/site/deep/tmp", true);
        check(&watched, "/srv/site/.x.swp", false);
        check(&watched, "/srv/cached", true);
    }

    #[test]
    fn a_barred_mount_and_a_path_beyond_the_bound_are_left_out() {
        let mut watched = watched(&["/srv"], &[]);
        watched.set_barred(vec![PathBuf::from("/srv/nfs")]);
        check(&watched, "/srv/nfs/file", false);
        check(&watched, "/srv/nfs2", true);
        check(&watched, &format!("/srv/{}", "x/".repeat(PATH_BYTES_MAX / 2)), false);
    }

    #[test]
    fn a_glob_that_is_none_is_refused() {
        assert!(Watched::new(vec![], &["/srv/[".to_owned()]).is_err());
    }
}
