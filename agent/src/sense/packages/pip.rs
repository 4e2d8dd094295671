//! pip's database: `NAME-VERSION.dist-info/RECORD` in each directory of Python packages, with the SHA-256 of each file.
//!
//! pip writes `RECORD` when all files of a distribution are in place; it holds no lock, so it is taken to be at work until
//! nothing in such a directory has changed for a moment ([`Pip::note`]). `RECORD` names no directories, and no digest for
//! itself and for what Python compiles: these follow from what is recorded. Format: the recording of installed projects
//! (PyPA specifications): lines of path, `sha256=` with the digest in base64url without padding, and size, as CSV.
//!
//! **Limits.** Directories below `/usr` and those in which something changed are known ([`SITES_MAX`]), not all that
//! exist. Who may write there may write a `RECORD`: what it proves is that the files are what pip was given.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::crypto::Hash;
use picket_protocol::time::Timestamp;

use super::database::Database;
use super::known::{Fact, Known, Paths, Recorded};
use super::place::{self, changed_at};
use super::question::{Expected, Question, normal};
use crate::detect::packages::proof::{Manager, PackageId, site_of};

/// Directories of Python packages that are known at a time.
const SITES_MAX: usize = 64;
/// Distributions that are read of one.
const DISTRIBUTIONS_MAX: usize = 4_096;
/// A change is seen so much later than it was made, at most.
const LATE: Duration = Duration::from_secs(3);
/// Longest `INSTALLER`: a word.
const INSTALLER_BYTES_MAX: u64 = 256;
/// Longest `RECORD`.
const RECORD_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The databases below a root.
#[derive(Debug)]
pub struct Pip {
    root: PathBuf,
    sites: BTreeSet<PathBuf>,
    touched: Timestamp,
    /// When something was touched first since the last transaction was told.
    since: Option<Timestamp>,
    recorded: Vec<Entry>,
}

/// A distribution that was recorded anew.
#[derive(Debug)]
struct Entry {
    recorded: Recorded,
    site: PathBuf,
    record: PathBuf,
}

impl Pip {
    /// The directories below `root` that Python searches by itself.
    pub fn find(root: &Path) -> Self {
        let mut sites = BTreeSet::new();
        for above in ["usr/local/lib", "usr/lib", "usr/lib64"] {
            let entries = std::fs::read_dir(root.join(above)).into_iter().flatten().filter_map(Result::ok);
            let pythons = entries.filter(|entry| entry.file_name().as_bytes().starts_with(b"python3"));
            for python in pythons.map(|entry| entry.path()) {
                let own = ["dist-packages", "site-packages"].map(|name| python.join(name));
                sites.extend(own.into_iter().filter(|site| site.is_dir()));
            }
        }
        Self {
            root: root.to_path_buf(),
            sites,
            touched: Timestamp::default(),
            since: None,
            recorded: Vec::new(),
        }
    }

    /// Something changed at `path`.
    pub fn note(&mut self, path: &Path, now: Timestamp) {
        let Some(site) = site_of(path).filter(|site| site.starts_with(&self.root)) else { return };
        self.touched = now;
        self.since.get_or_insert(now);
        if self.sites.len() < SITES_MAX {
            self.sites.insert(site.to_path_buf());
        }
    }

    /// What was touched is told.
    pub fn rest(&mut self) {
        self.since = None;
    }

    fn entries(&self, site: &Path, known: &mut HashMap<(String, String), Fact>) -> Vec<Entry> {
        let key = site.to_string_lossy().into_owned();
        let listed = std::fs::read_dir(site).into_iter().flatten().filter_map(Result::ok);
        let mut entries = Vec::new();
        for entry in listed.take(DISTRIBUTIONS_MAX * 4) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((name, version)) =
                name.strip_suffix(".dist-info").and_then(|stem| stem.rsplit_once('-'))
            else {
                continue;
            };
            // What pip puts aside while it replaces a distribution begins so.
            if name.starts_with('~') || entries.len() >= DISTRIBUTIONS_MAX {
                continue;
            }
            // Distributions' packages name their own manager, which has its own database.
            let installer = place::read(&entry.path().join("INSTALLER"), INSTALLER_BYTES_MAX);
            if [&b"rpm"[..], b"debian", b"dpkg", b"apt"].contains(&installer.trim_ascii()) {
                continue;
            }
            let record = entry.path().join("RECORD");
            let Some(recorded) = changed_at(&record) else { continue };
            let package =
                PackageId { manager: Manager::Pip, name: name.to_owned(), architecture: key.clone() };
            let before = known.remove(&(package.name.clone(), key.clone()));
            let now = Fact {
                version: version.to_owned(),
                installed: true,
                incomplete: false,
                recorded: recorded.nanos(),
            };
            let recorded = Recorded::new(package, before, now);
            entries.extend(recorded.map(|recorded| Entry { recorded, site: site.to_path_buf(), record }));
        }
        entries
    }

    fn name(&self, path: &Path) -> Option<Vec<u8>> {
        let below = path.strip_prefix(&self.root).ok()?;
        Some(Path::new("/").join(below).into_os_string().into_encoded_bytes())
    }

    /// Names and digests of what a distribution holds, with the directories that are its own.
    fn held(&self, entry: &Entry) -> BTreeMap<Vec<u8>, Option<Hash>> {
        let mut held = BTreeMap::new();
        for (path, digest) in records(&place::read(&entry.record, RECORD_BYTES_MAX)) {
            let path = normal(&entry.site.join(Path::new(std::ffi::OsStr::from_bytes(&path))));
            let above = path.ancestors().skip(1).take_while(|above| *above != entry.site);
            if path.starts_with(&entry.site) {
                for directory in above.filter_map(|above| self.name(above)) {
                    held.entry(directory).or_insert(None);
                }
            }
            if let Some(name) = self.name(&path) {
                held.insert(name, digest);
            }
        }
        held
    }
}

impl Database for Pip {
    fn manager(&self) -> Manager {
        Manager::Pip
    }

    fn watched(&self) -> Option<PathBuf> {
        None
    }

    fn is_own(&self, _name: &[u8]) -> bool {
        false
    }

    fn is_busy(&self) -> bool {
        false
    }

    /// Only what was seen: a directory that changed without a word explains nothing.
    fn changed(&self) -> Timestamp {
        self.touched
    }

    fn read(&mut self, known: &Known, _anew: bool) -> rusqlite::Result<()> {
        let mut before = known.all(Manager::Pip)?;
        before.remove(&(String::new(), String::new()));
        let sites: BTreeSet<PathBuf> =
            self.sites.iter().cloned().chain(before.keys().map(|(_, site)| PathBuf::from(site))).collect();
        let mut recorded: Vec<Entry> =
            sites.iter().take(SITES_MAX).flat_map(|site| self.entries(site, &mut before)).collect();
        recorded.extend(before.into_iter().map(|((name, site), fact)| Entry {
            record: PathBuf::new(),
            site: PathBuf::from(&site),
            recorded: Recorded::purged(PackageId { manager: Manager::Pip, name, architecture: site }, fact),
        }));
        self.recorded = recorded;
        Ok(())
    }

    fn recorded(&self) -> Vec<&Recorded> {
        self.recorded.iter().map(|entry| &entry.recorded).collect()
    }

    fn may_be_empty(&self) -> bool {
        true
    }

    /// A directory becomes known when something changes in it, with all that was there.
    fn is_of_old(&self, recorded: &Recorded) -> bool {
        let at = recorded.now.as_ref().map(|fact| Timestamp::from_nanos(fact.recorded));
        let since = self.since.unwrap_or(self.touched);
        recorded.before.is_none() && at.is_some_and(|at| since.since(at) >= LATE)
    }

    fn paths(&self, package: &PackageId) -> Paths {
        let entry = self.recorded.iter().find(|entry| entry.recorded.package == *package);
        let held = entry.map(|entry| self.held(entry)).unwrap_or_default();
        Paths::of(package, held.keys().map(Vec::as_slice))
    }

    fn claim(&self, questions: &mut [Question<'_>]) {
        if questions.is_empty() {
            return;
        }
        for entry in self.recorded.iter().filter(|entry| entry.recorded.now.is_some()) {
            let held = self.held(entry);
            // What a distribution's own manager holds is that one's.
            for question in questions.iter_mut().filter(|question| question.claim.is_none()) {
                let digest = question.names.iter().find_map(|name| held.get(name));
                if let Some(digest) = digest {
                    let digest = digest.map(Expected::Sha256);
                    question.claim_as(&entry.recorded.package, digest, None, false);
                }
            }
        }
    }

    fn owned(&self, _names: &HashSet<Vec<u8>>) -> HashMap<Vec<u8>, PackageId> {
        HashMap::new()
    }
}

/// Path and digest of each line that is understood.
pub fn records(text: &[u8]) -> Vec<(Vec<u8>, Option<Hash>)> {
    text.split(|byte| *byte == b'\n').filter_map(record).collect()
}

fn record(line: &[u8]) -> Option<(Vec<u8>, Option<Hash>)> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // The path may hold commas; the two fields after it may not.
    let mut parts = line.rsplitn(3, |byte| *byte == b',');
    let (_size, digest, path) = (parts.next()?, parts.next()?, parts.next()?);
    let quoted = path.strip_prefix(b"\"").and_then(|path| path.strip_suffix(b"\""));
    let path = match quoted {
        Some(quoted) => String::from_utf8_lossy(quoted).replace("\"\"", "\"").into_bytes(),
        None => path.to_vec(),
    };
    (!path.is_empty()).then(|| (path, digest.strip_prefix(b"sha256=").and_then(decoded)))
}

/// 32 bytes in base64url.
fn decoded(text: &[u8]) -> Option<Hash> {
    let text: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'=').collect();
    if text.len() != 43 {
        return None;
    }
    let (mut bits, mut count, mut out) = (0_u32, 0_u32, Vec::with_capacity(33));
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    out.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_pip_writes_them() {
        let empty = "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";
        let text = format!(
            "a/b.py,{empty},0\r\n\"a,\"\"c.py\",{empty},0\na/d,e.py,{empty},0\na-1.dist-info/RECORD,,\nnonsense\n,,\n"
        );
        let found = records(text.as_bytes());
        let paths: Vec<&[u8]> = found.iter().map(|(path, _)| path.as_slice()).collect();
        assert_eq!(paths, [b"a/b.py".as_slice(), b"a,\"c.py", b"a/d,e.py", b"a-1.dist-info/RECORD"]);
        assert_eq!(found[0].1, Some(picket_protocol::crypto::sha256(&[])));
        assert_eq!(found[3].1, None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_and_every_digest_is_found_again(
            text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            digest in proptest::prelude::any::<[u8; 32]>(),
        ) {
            let found = records(&text);
            proptest::prop_assert!(found.iter().all(|(path, _)| !path.is_empty()));
            let encoded = picket_protocol::crypto::to_base64(&digest).replace('+', "-").replace('/', "_");
            proptest::prop_assert_eq!(decoded(encoded.as_bytes()), Some(digest));
        }
    }

    #[test]
    fn a_digest_that_is_none_is_none() {
        for text in ["", "sha256=", "47DEQpj8", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", "\u{e9}"] {
            assert_eq!(decoded(text.as_bytes()), None, "{text}");
        }
    }
}
