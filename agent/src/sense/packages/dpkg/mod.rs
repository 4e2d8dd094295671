//! dpkg's database: `/var/lib/dpkg`.
//!
//! dpkg puts a package's files in place first, then replaces `info/PACKAGE.md5sums` and `.list`, and writes the
//! package's stanza to `updates/` and at the end to `status`. Its digests are MD5. Whether somebody is at work is
//! told by the locks that dpkg and apt hold; when something was recorded, by the status change times of these files, which
//! nobody can set.

pub(crate) mod status;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use picket_protocol::time::Timestamp;

use self::status::{Stanza, State};
use super::database::{Database, Holder};
use super::known::{Known, Paths, Recorded};
use super::place::{self, changed_at, is_locked};
use super::question::Question;
use crate::detect::packages::proof::{Manager, PackageId};

/// Longest file of the database that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Files of the journal that are read: dpkg writes the `status` file anew before there are as many.
const UPDATES_MAX: usize = 1_024;

/// The database below a root.
#[derive(Debug)]
pub struct Dpkg {
    admin: PathBuf,
    stamp: Option<[Timestamp; 3]>,
    recorded: Vec<Entry>,
    diversions: Vec<Diversion>,
}

/// A package that was recorded anew.
#[derive(Debug)]
struct Entry {
    recorded: Recorded,
    /// Without `.list`: `/var/lib/dpkg/info/bash`.
    info: PathBuf,
    conffiles: HashMap<Vec<u8>, super::md5::Md5>,
}

#[derive(Debug)]
struct Diversion {
    from: Vec<u8>,
    to: Vec<u8>,
    by: String,
}

impl Dpkg {
    /// The database below `root`, where there is one.
    pub fn find(root: &Path) -> Option<Self> {
        let admin = root.join("var/lib/dpkg");
        admin.join("info").is_dir().then(|| Self {
            admin,
            stamp: None,
            recorded: Vec::new(),
            diversions: Vec::new(),
        })
    }

    fn stamps(&self) -> [Timestamp; 3] {
        ["status", "updates", "info"].map(|name| changed_at(&self.admin.join(name)).unwrap_or_default())
    }

    /// The stanzas of all packages, by name and architecture; later words replace earlier ones.
    fn stanzas(&self) -> BTreeMap<(String, String), Stanza> {
        let mut updates: Vec<PathBuf> = std::fs::read_dir(self.admin.join("updates"))
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.file_name().is_some_and(|name| name.as_bytes().iter().all(u8::is_ascii_digit))
            })
            .take(UPDATES_MAX)
            .collect();
        updates.sort();
        let files = std::iter::once(self.admin.join("status")).chain(updates);
        let mut stanzas = BTreeMap::new();
        for file in files {
            for stanza in status::parse(&place::read(&file, FILE_BYTES_MAX)) {
                stanzas.insert((stanza.name.clone(), stanza.architecture.clone()), stanza);
            }
        }
        stanzas
    }

    /// The package if it is not as known.
    fn entry(
        &self,
        stanza: Stanza,
        known: &mut HashMap<(String, String), super::known::Fact>,
    ) -> Option<Entry> {
        let info = self.info(&stanza.name, &stanza.architecture);
        let before = known.remove(&(stanza.name.clone(), stanza.architecture.clone()));
        let with = |end: &str| changed_at(&with_end(&info, end));
        let recorded = with(".md5sums").or_else(|| with(".list")).unwrap_or_default();
        let package =
            PackageId { manager: Manager::Dpkg, name: stanza.name, architecture: stanza.architecture };
        let now = super::known::Fact {
            version: stanza.version,
            installed: stanza.state == State::Installed,
            incomplete: stanza.state == State::Incomplete,
            recorded: recorded.nanos(),
        };
        let recorded = Recorded::new(package, before, now)?;
        Some(Entry { recorded, info, conffiles: stanza.conffiles.into_iter().collect() })
    }

    /// Packages that may be installed in several architectures have it in the names of their files.
    fn info(&self, name: &str, architecture: &str) -> PathBuf {
        let directory = self.admin.join("info");
        let plain = directory.join(name);
        let qualified = directory.join(format!("{name}:{architecture}"));
        let is_there = |info: &Path| with_end(info, ".list").exists();
        if !is_there(&plain) && is_there(&qualified) { qualified } else { plain }
    }

    fn list(&self, entry: &Entry) -> Vec<u8> {
        place::read(&with_end(&entry.info, ".list"), FILE_BYTES_MAX)
    }

    /// Whether what `package` calls `name` stands under one of `names`: a diversion puts the files of all packages
    /// but the one that diverts elsewhere.
    fn stands(&self, package: &str, name: &[u8], names: &[Vec<u8>]) -> bool {
        let diverted =
            self.diversions.iter().find(|diversion| diversion.from == name && diversion.by != package);
        match diverted {
            Some(diversion) => names.contains(&diversion.to),
            None => names.iter().any(|own| own == name),
        }
    }
}

impl Database for Dpkg {
    fn manager(&self) -> Manager {
        Manager::Dpkg
    }

    fn watched(&self) -> Option<PathBuf> {
        Some(self.admin.clone())
    }

    fn is_own(&self, name: &[u8]) -> bool {
        name == b"status"
    }

    fn is_busy(&self) -> bool {
        ["lock-frontend", "lock"].into_iter().any(|lock| is_locked(&self.admin.join(lock)))
    }

    fn changed(&self) -> Timestamp {
        self.stamps().into_iter().max().unwrap_or_default()
    }

    fn read(&mut self, known: &Known, anew: bool) -> rusqlite::Result<()> {
        let stamp = self.stamps();
        if self.stamp == Some(stamp) && !anew {
            return Ok(());
        }
        let mut before = known.all(Manager::Dpkg)?;
        let stanzas = self.stanzas();
        // Not readable just now, or empty: nothing is to be concluded from that.
        if stanzas.is_empty() {
            self.recorded.clear();
            return Ok(());
        }
        let mut recorded: Vec<Entry> =
            stanzas.into_values().filter_map(|stanza| self.entry(stanza, &mut before)).collect();
        let purged = before.into_iter().map(|((name, architecture), fact)| Entry {
            info: self.info(&name, &architecture),
            recorded: Recorded::purged(PackageId { manager: Manager::Dpkg, name, architecture }, fact),
            conffiles: HashMap::new(),
        });
        recorded.extend(purged);
        self.recorded = recorded;
        self.diversions = diversions(&place::read(&self.admin.join("diversions"), FILE_BYTES_MAX));
        self.stamp = Some(stamp);
        Ok(())
    }

    fn recorded(&self) -> Vec<&Recorded> {
        self.recorded.iter().map(|entry| &entry.recorded).collect()
    }

    fn paths(&self, package: &PackageId) -> Paths {
        let entry = self.recorded.iter().find(|entry| entry.recorded.package == *package);
        let list = entry.map(|entry| self.list(entry)).unwrap_or_default();
        Paths::of(package, lines(&list))
    }

    fn claim(&self, questions: &mut [Question<'_>]) {
        let mut spelled: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        for (at, question) in questions.iter().enumerate() {
            for name in &question.names {
                spelled.entry(name.clone()).or_default().push(at);
                for diversion in self.diversions.iter().filter(|diversion| diversion.to == *name) {
                    spelled.entry(diversion.from.clone()).or_default().push(at);
                }
            }
        }
        if spelled.is_empty() {
            return;
        }
        for entry in self.recorded.iter().filter(|entry| entry.recorded.now.is_some()) {
            let package = &entry.recorded.package;
            let mut claim = |name: &[u8], digest: Option<super::md5::Md5>, is_conffile: bool| {
                for at in spelled.get(name).into_iter().flatten() {
                    if let Some(question) = questions.get_mut(*at)
                        && self.stands(&package.name, name, &question.names)
                    {
                        question.claim(package, digest, is_conffile);
                    }
                }
            };
            lines(&self.list(entry)).for_each(|name| claim(name, None, false));
            let sums = place::read(&with_end(&entry.info, ".md5sums"), FILE_BYTES_MAX);
            for (name, digest) in self::sums(&sums) {
                claim(&[b"/", name].concat(), Some(digest), false);
            }
            for (name, digest) in &entry.conffiles {
                claim(name, Some(*digest), true);
            }
        }
    }

    fn holder(&self, path: &Path, names: &[Vec<u8>]) -> Option<Holder> {
        let (name, package) = self.owned(&names.iter().cloned().collect()).into_iter().next()?;
        let is_it = |stanza: &Stanza| stanza.name == package.name && stanza.state == State::Installed;
        let stanza = self.stanzas().into_values().find(is_it)?;
        let sums = place::read(
            &with_end(&self.info(&package.name, &package.architecture), ".md5sums"),
            FILE_BYTES_MAX,
        );
        let below = name.strip_prefix(b"/")?;
        let expected = self::sums(&sums).find(|(path, _)| *path == below).map(|(_, digest)| digest);
        let found = place::digests(path).ok().map(|(_, md5)| md5);
        let as_packaged = expected.map(|expected| found == Some(expected));
        Some(Holder { package: format!("{} {}", stanza.name, stanza.version), as_packaged })
    }

    fn owned(&self, names: &HashSet<Vec<u8>>) -> HashMap<Vec<u8>, PackageId> {
        let mut found = HashMap::new();
        let lists = std::fs::read_dir(self.admin.join("info")).into_iter().flatten();
        for path in lists.filter_map(|entry| Some(entry.ok()?.path())) {
            let Some(stem) = path.file_name().and_then(|name| name.as_bytes().strip_suffix(b".list")) else {
                continue;
            };
            let stem = String::from_utf8_lossy(stem);
            let mut parts = stem.splitn(2, ':').map(str::to_owned);
            let name = parts.next().unwrap_or_default();
            let architecture = parts.next().unwrap_or_default();
            for line in lines(&place::read(&path, FILE_BYTES_MAX)).filter(|line| names.contains(*line)) {
                let package = PackageId {
                    manager: Manager::Dpkg,
                    name: name.clone(),
                    architecture: architecture.clone(),
                };
                found.insert(line.to_vec(), package);
            }
            if found.len() == names.len() {
                break;
            }
        }
        found
    }
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut whole = path.as_os_str().to_os_string();
    whole.push(end);
    PathBuf::from(whole)
}

/// Paths below the root and digests of a package's `.md5sums`: `digest  path`, one a line.
pub(crate) fn sums(text: &[u8]) -> impl Iterator<Item = (&[u8], super::md5::Md5)> {
    lines(text).filter_map(|line| {
        let (digits, path) = line.split_at_checked(34)?;
        let digest = super::md5::parse(digits.strip_suffix(b"  ")?)?;
        (!path.is_empty()).then_some((path, digest))
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// Three lines each: what is diverted, to where, by which package (`:` for the administrator).
fn diversions(text: &[u8]) -> Vec<Diversion> {
    let all: Vec<&[u8]> = lines(text).collect();
    let three = all.chunks_exact(3);
    three
        .filter_map(|three| match three {
            [from, to, by] => Some(Diversion {
                from: from.to_vec(),
                to: to.to_vec(),
                by: String::from_utf8_lossy(by).into_owned(),
            }),
            _ => None,
        })
        .collect()
}
