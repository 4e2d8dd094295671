//! One held change, asked about: under which names packages may know it, which one claims it, and whether what is there
//! is what that one holds.

use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use picket_protocol::crypto::{Hash, hex};

use super::known::Paths;
use super::md5::Md5;
use super::place;
use super::snap::Sha3;
use crate::detect::packages::held::{Held, kept_beside};
use crate::detect::packages::proof::{Manager, PackageId, Verdict};
use crate::sense::files::object::Kind;

/// A digest as a database keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// dpkg's.
    Md5(Md5),
    /// rpm's and pip's.
    Sha256(Hash),
    /// The store's, of a snap's image.
    Sha3(Sha3),
}

impl Expected {
    fn hex(self) -> String {
        match self {
            Self::Md5(digest) => hex(&digest),
            Self::Sha256(digest) => hex(&digest),
            Self::Sha3(digest) => hex(&digest),
        }
    }
}

/// What a package says of the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which.
    pub package: PackageId,
    /// The digest of what it holds; none for directories and links.
    pub digest: Option<Expected>,
    /// Where it says that the link points.
    pub target: Option<Vec<u8>>,
    /// The administrator may change it.
    pub is_conffile: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Question<'a> {
    /// Where the object is.
    pub path: &'a Path,
    /// What is known of it.
    pub held: &'a Held,
    /// As packages may spell it, from the root on.
    pub names: Vec<Vec<u8>>,
    /// It stands beside the file that the names mean, which the administrator kept.
    is_beside: bool,
    /// The last package that claims it.
    pub claim: Option<Claim>,
}

impl<'a> Question<'a> {
    /// About what is at `path`, on a host whose root is `root` and where `aliases` are directories of the root that
    /// are links into `usr`.
    pub fn new(path: &'a Path, held: &'a Held, root: &Path, aliases: &[Vec<u8>]) -> Self {
        let beside = kept_beside(path);
        let names = spellings(beside.unwrap_or(path), root, aliases);
        Self { path, held, names, is_beside: beside.is_some(), claim: None }
    }

    /// A dpkg package holds the object. A digest is not forgotten for a line that has none.
    pub fn claim(&mut self, package: &PackageId, digest: Option<Md5>, is_conffile: bool) {
        self.claim_as(package, digest.map(Expected::Md5), None, is_conffile);
    }

    /// A package holds the object.
    pub fn claim_as(
        &mut self,
        package: &PackageId,
        digest: Option<Expected>,
        target: Option<Vec<u8>>,
        is_conffile: bool,
    ) {
        if self.is_beside && !is_conffile {
            return;
        }
        match &mut self.claim {
            Some(claim) if claim.package == *package => {
                claim.digest = digest.or(claim.digest);
                claim.is_conffile |= is_conffile;
            }
            claim => *claim = Some(Claim { package: package.clone(), digest, target, is_conffile }),
        }
    }

    /// What vanished was, with all that was beneath, the package's, which holds it no more.
    pub fn was_of(&self, package: &PackageId, paths: &Paths) -> bool {
        let known = |name: &[u8]| paths.has(package, name);
        let beneath = |name: &[u8], below: &PathBuf| {
            known(Path::new(std::ffi::OsStr::from_bytes(name)).join(below).as_os_str().as_bytes())
        };
        self.held.now.is_none()
            && self.claim.is_none()
            && !self.held.beneath_unnamed
            && self
                .names
                .iter()
                .any(|name| known(name) && self.held.beneath.iter().all(|below| beneath(name, below)))
    }

    /// Where the link points, from the root of the host on, as far as that is known without following further links.
    pub fn points_to(&self, root: &Path) -> Option<Vec<u8>> {
        let target = self.held.now.as_ref()?.target.as_ref()?;
        let target = Path::new(std::ffi::OsStr::from_bytes(target));
        let above = self.path.strip_prefix(root).ok()?.parent()?;
        Some(normal(&Path::new("/").join(above).join(target)).into_os_string().into_vec())
    }

    /// Judges what has a claim with a digest, or is there no more; none when links must be followed for that.
    pub fn judge(&self) -> Option<Verdict> {
        let Some(now) = &self.held.now else { return Some(self.judge_absence()) };
        let claim = self.claim.as_ref()?;
        match now.kind {
            Kind::Directory if claim.digest.is_none() => Some(Verdict::AsPackaged(claim.package.clone())),
            Kind::File if claim.digest.is_none() && claim.package.manager == Manager::Pip => {
                Some(self.judge_undigested(claim))
            }
            Kind::Symlink => {
                let target = claim.target.as_ref()?;
                Some(if now.target.as_ref() == Some(target) {
                    Verdict::AsPackaged(claim.package.clone())
                } else {
                    Verdict::Differs {
                        package: claim.package.clone(),
                        expected: String::from_utf8_lossy(target).into_owned(),
                    }
                })
            }
            _ => Some(self.judge_file(now.digest, claim, claim.digest?)),
        }
    }

    /// pip records itself, and what Python compiles, without digests.
    fn judge_undigested(&self, claim: &Claim) -> Verdict {
        let name = self.path.file_name().unwrap_or_default().as_bytes();
        let above = self.path.parent().and_then(Path::file_name).unwrap_or_default().as_bytes();
        let compiled = name.ends_with(b".pyc") && above == b"__pycache__";
        let itself = name == b"RECORD" && above.ends_with(b".dist-info");
        if compiled || itself { Verdict::Derived(claim.package.clone()) } else { Verdict::Unpackaged }
    }

    fn judge_file(&self, seen: Option<Hash>, claim: &Claim, expected: Expected) -> Verdict {
        let digests = match expected {
            Expected::Sha3(_) => {
                place::image_digests(self.path).map(|(seen, sha3)| (seen, Expected::Sha3(sha3)))
            }
            Expected::Md5(_) => place::digests(self.path).map(|(seen, md5)| (seen, Expected::Md5(md5))),
            Expected::Sha256(_) => place::digests(self.path).map(|(seen, _)| (seen, Expected::Sha256(seen))),
        };
        let Ok((sha256, found)) = digests else {
            return if place::is_there(self.path) { Verdict::Unpackaged } else { Verdict::Changed };
        };
        if seen.is_some_and(|seen| seen != sha256) {
            return Verdict::Changed;
        }
        match expected == found {
            true => Verdict::AsPackaged(claim.package.clone()),
            false if claim.is_conffile => Verdict::Unpackaged,
            false => Verdict::Differs { package: claim.package.clone(), expected: expected.hex() },
        }
    }

    fn judge_absence(&self) -> Verdict {
        if place::is_there(self.path) {
            return Verdict::Changed;
        }
        match &self.claim {
            Some(claim) if claim.digest.is_some() && !claim.is_conffile => {
                Verdict::Differs { package: claim.package.clone(), expected: String::new() }
            }
            _ => Verdict::Unpackaged,
        }
    }
}

/// The path as packages may spell it: from the root on, and with directories of the root that are links into `usr`.
pub fn spellings(path: &Path, root: &Path, aliases: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let Ok(below) = path.strip_prefix(root) else { return Vec::new() };
    let below = below.as_os_str().as_bytes();
    let merged = aliases.iter().filter(|alias| {
        let rest = below.strip_prefix(b"usr/").and_then(|rest| rest.strip_prefix(alias.as_slice()));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    });
    let merged = merged.filter_map(|_| Some([b"/", below.strip_prefix(b"usr/")?].concat()));
    std::iter::once([b"/", below].concat()).chain(merged).collect()
}

/// Directories of the root that are links to their namesakes in `usr`.
pub fn aliases(root: &Path) -> Vec<Vec<u8>> {
    ["bin", "sbin", "lib", "lib32", "lib64", "libx32"]
        .into_iter()
        .filter(|name| {
            let target = std::fs::read_link(root.join(name));
            target.is_ok_and(|target| {
                target.strip_prefix("/").unwrap_or(&target) == Path::new("usr").join(name)
            })
        })
        .map(|name| name.as_bytes().to_vec())
        .collect()
}

/// Without `.` and `..`, by the words alone.
pub fn normal(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(path: &str) -> Vec<String> {
        let aliases = [b"bin".to_vec(), b"lib".to_vec()];
        let names = spellings(Path::new(path), Path::new("/r"), &aliases);
        names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
    }

    #[test]
    fn a_merged_usr_has_two_names_for_one_file() {
        assert_eq!(spelled("/r/usr/bin/ls"), ["/usr/bin/ls", "/bin/ls"]);
        assert_eq!(spelled("/r/usr/sbin/x"), ["/usr/sbin/x"]);
        assert_eq!(spelled("/r/usr/libexec/x"), ["/usr/libexec/x"]);
        assert_eq!(spelled("/r/usr/lib"), ["/usr/lib", "/lib"]);
        assert_eq!(spelled("/r/etc/x"), ["/etc/x"]);
        assert_eq!(spelled("/etc/x"), Vec::<String>::new());
    }

    #[test]
    fn where_words_lead() {
        assert_eq!(normal(Path::new("/usr/lib/../bin/./x")), Path::new("/usr/bin/x"));
        assert_eq!(normal(Path::new("/../../x")), Path::new("/x"));
    }
}
