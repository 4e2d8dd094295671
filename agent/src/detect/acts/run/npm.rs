//! Where npm keeps a package: `…/node_modules/NAME` or `…/node_modules/@SCOPE/NAME`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The directory of the innermost package that `path` lies in, or is, and its name.
pub fn package_of(path: &Path) -> Option<(PathBuf, String)> {
    let modules = path.ancestors().skip(1).find(|above| above.ends_with("node_modules"))?;
    let mut parts = path.strip_prefix(modules).ok()?.iter();
    let first = parts.next()?;
    // npm's own: `.bin`, `.package-lock.json`, what it puts aside.
    if first.as_bytes().starts_with(b".") {
        return None;
    }
    let mut name = PathBuf::from(first);
    if first.as_bytes().starts_with(b"@") {
        let second = parts.next().filter(|name| !name.as_bytes().starts_with(b"."))?;
        name.push(second);
    }
    Some((modules.join(&name), name.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_package_counts_and_npms_own_files_are_none() {
        let package = |path: &str| {
            package_of(Path::new(path)).map(|(at, name)| (at.to_string_lossy().into_owned(), name))
        };
        let found = |at: &str, name: &str| Some((at.to_owned(), name.to_owned()));
        assert_eq!(package("/a/node_modules/b/c/d.js"), found("/a/node_modules/b", "b"));
        assert_eq!(package("/a/node_modules/b"), found("/a/node_modules/b", "b"));
        assert_eq!(package("/a/node_modules/@s/b/c"), found("/a/node_modules/@s/b", "@s/b"));
        let inner = "/a/node_modules/b/node_modules/c";
        assert_eq!(package("/a/node_modules/b/node_modules/c/d"), found(inner, "c"));
        assert_eq!(package("/a/node_modules/@s"), None);
        assert_eq!(package("/a/node_modules/.bin/x"), None);
        assert_eq!(package("/a/node_modules/.b-x8Kq/y"), None);
        assert_eq!(package("/a/b"), None);
    }
}
